"""NVIDIA GPUs, through NVML (``nvidia-ml-py``)."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pynvml

from greenml.errors import SensorError, SensorLostError, SettingsError
from greenml.factors import tables
from greenml.sensors import _gpus
from greenml.sensors._driver import FieldCall, Library, MemoryCall, SampleBuffer, SampleCall, Stamped
from greenml.sensors._gpus import ARCHITECTURES, Answers, Card, Mig, Selected, declare, select
from greenml.trace.types import Device, Reading, Sensor, Wanted
from greenml.units import JOULES_PER_MILLIJOULE, WATTS_PER_MILLIWATT

# Constants and structures that an old package of the same module name lacks.
REQUIRED = (
    "NVML_FI_DEV_POWER_AVERAGE", "NVML_FI_DEV_POWER_CURRENT_LIMIT", "NVML_FI_DEV_POWER_INSTANT",
    "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "NVML_POWER_SCOPE_GPU", "NVML_POWER_SCOPE_MODULE",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH", "NVML_ERROR_DEPRECATED", "NVML_ERROR_NO_DATA", "NVML_ERROR_RESET_REQUIRED",
    "nvmlDeviceGetArchitecture", "nvmlDeviceGetAttributes_v2", "nvmlLib",
)  # fmt: skip
if missing := [name for name in REQUIRED if not hasattr(pynvml, name)]:
    raise ImportError(
        f"an old package named pynvml ({getattr(pynvml, '__file__', '')}) hides nvidia-ml-py: it has no {missing[0]}; "
        'run "pip uninstall -y pynvml" and then "pip install --force-reinstall nvidia-ml-py"'
    )

# The ways to a figure, the best first.
ENERGY = ("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "nvmlDeviceGetTotalEnergyConsumption")
POWER = ("NVML_FI_DEV_POWER_INSTANT", "nvmlDeviceGetPowerUsage")
MODULE_POWER = ("NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE")
FIELDS = {name: getattr(pynvml, name) for name in (ENERGY[0], *MODULE_POWER)}
DRIVER = True  # its calls may hang: probed after what cannot
TICK_SECONDS = 1.0  # how often a GPU with a counter is read, as long as its run is young
POLL_SECONDS = (0.02, 0.05)  # a gauge is polled twice as often as it is brought up to date, within these
BUFFER_SECONDS = 0.05  # a driver's buffer that carries the energy is read no oftener than this
BUFFER_RATIO = 0.5, 0.75  # of its depth: when a buffer is read that carries the energy; one beside a counter
BUFFER_MOST_SECONDS = 10.0  # but no rarer than this
EARLY_SECONDS = 0.05  # a tick that comes so much early is in time
FIRST_READS = 3  # at the start, before a field that fails is given up
SLOW_FIELDS_SECONDS = 0.5  # memory is asked for no oftener, however fast power is polled; buffers at edges too
MEMORY_SECONDS = 1.5, 3.5  # memory beside a counter: at every second tick, and at edges; at every fourth where it rests
RESTING_READS = 5  # memory rests that was the same as often as this
RATES_SECONDS = 1.5  # utilization without samples, beside power samples: every second tick; else every tick
STANDSTILL_SECONDS = (
    1.5  # a counter that was seen to stand still for so long may have failed: power is read at each tick
)
# No device or module draws more: a driver that does not know a value may tell the largest of its type (4,294,967 W).
MOST_WATTS = 10_000.0
SCOPE_RATIO = 0.02  # a module draws more than its GPU by at least this; a driver that knows no scopes tells equal power
MODULE_SAMPLES_RATIO = 0.1  # the driver's samples are of the module where they differ from its power by less
SCOPE_SECONDS = (0.25, 0.6)  # over how long a counter is compared with the power of each scope; when to give up


Samples = list[tuple[float, float]]
_VALUE = itemgetter(1)  # of a sample
_ScopeWatts = tuple[float | None, float | None, float | None]  # of the GPU, of the module, the module's limit


def _codes(*names: str) -> frozenset[int]:
    return frozenset(getattr(pynvml, f"NVML_ERROR_{name}") for name in names)


ABSENT = _codes("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NO_PERMISSION", "ARGUMENT_VERSION_MISMATCH", "DEPRECATED")
UNKNOWN_FIELD = _codes("INVALID_ARGUMENT")  # an older driver's answer for a field that it does not know
NOTHING_NEW = _codes("NOT_FOUND", "NO_DATA", "INSUFFICIENT_SIZE")
# The library is then started again and the GPU looked up by UUID; an old handle is an invalid argument.
RELOADED = _codes("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH", "RESET_REQUIRED")
STALE = UNKNOWN_FIELD | RELOADED
FATAL = STALE | _codes("GPU_IS_LOST")
ADVICE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver, or give the container the GPUs "
    "(docker run --gpus all) with the driver capability 'utility'",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the NVIDIA driver until 'nvidia-smi' lists the GPUs",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated under way: reload it or reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "let this user read and write /dev/nvidia*",
    pynvml.NVML_ERROR_GPU_IS_LOST: "find its Xid in 'dmesg', then reset it or reboot",
    pynvml.NVML_ERROR_RESET_REQUIRED: "reset it with 'nvidia-smi --gpu-reset'",
}


def probe(
    wanted: Wanted = Wanted(),  # noqa: B008  it is frozen
    *,
    proc: Path = Path("/proc"),
    dev: Path = Path("/dev"),
) -> list[Sensor]:
    """Return one sensor for each GPU that is wanted; one that does not answer says so at its first read.

    Args:
        wanted: which GPUs.
        proc: where the kernel lists the GPUs of a driver whose library does not work.
        dev: where a process that may use a GPU has its device file.

    Raises:
        SensorError: there is no NVML here, or no GPU that this process sees.
        SettingsError: ``wanted.gpus`` names a GPU that is not here.
    """
    library, driver, cards = _open(proc, dev)
    try:
        try:
            selected, notes = select(cards, wanted.gpus, os.environ)
        except SettingsError as error:
            if cards or library is not None:
                raise
            raise SettingsError(f"{error}; {driver}") from None
        if not selected:
            reason = "; ".join(notes) or ("the driver lists none" if library is not None else driver)
            raise SensorError(reason if reason.startswith("NVML: ") else f"NVML: no GPU to measure: {reason}")
        # What is to be said of the choice as a whole stands with the first GPU.
        sensors = [_sensor(library, choice, driver, [] if number else notes) for number, choice in enumerate(selected)]
        _count_modules_once([sensor for sensor in sensors if isinstance(sensor, _Gpu)])
        return list(sensors)
    finally:
        if library is not None:
            library.release()  # probe's own hold; the sensors have theirs


def check(gpus: str | Sequence[int | str]) -> None:
    """Hold a user's choice of GPUs against those that are there.

    Raises:
        SettingsError: an entry names no GPU of this host, or several.
    """
    library, reason, cards = _open(Path("/proc"), Path("/dev"))
    try:
        select(cards, gpus, {})
    except SettingsError as error:
        raise SettingsError(str(error) if library is not None else f"{error}; {reason}") from None
    finally:
        if library is not None:
            library.release()


def _open(proc: Path, dev: Path) -> tuple[Library | None, str, list[Card]]:
    """Start NVML; return it, its driver's version, and the GPUs.

    Where it does not start: None, the reason, and the GPUs that the kernel has given to this process all the same.
    """
    try:
        library = Library(pynvml.nvmlInit, pynvml.nvmlShutdown, pynvml.NVMLError)
    except pynvml.NVMLError as error:
        reason = _sentence("NVML", error)
        return None, reason, _kernel_cards(proc, dev, reason)
    try:
        driver = ""
        with contextlib.suppress(pynvml.NVMLError):  # it is only named in the record
            driver = _text(pynvml.nvmlSystemGetDriverVersion)
        cards = [_card(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        library.release()
        reason = _sentence("NVML", error)
        return None, reason, _kernel_cards(proc, dev, reason)
    names = [card.uuid for card, _ in cards]  # a UUID that two cards have names neither
    cards = [(card if names.count(card.uuid) == 1 else replace(card, uuid=""), forbidden) for card, forbidden in cards]
    # CUDA leaves out a GPU that this process may not touch; where it may touch none, that is the trouble.
    permitted = [card for card, forbidden in cards if not forbidden]
    return library, driver, permitted or [card for card, _ in cards]


def _sentence(place: str, error: pynvml.NVMLError, otherwise: str = "'nvidia-smi' may tell why") -> str:
    return f"{place}: {error}; {ADVICE.get(error.value, otherwise)}"


def _text(call: Callable[..., Any], *values: object) -> str:
    """Call a function that returns a text; bytes that are not UTF-8 are read as Latin-1, which loses none."""
    try:
        text = call(*values)
    except UnicodeDecodeError as error:
        text = error.object
    if not isinstance(text, bytes):
        return str(text)
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _card(index: int) -> tuple[Card, bool]:
    """Describe a GPU for the choice, and say whether this process may not touch it."""
    card = Card(index, "", "", "")
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        with _unless_absent():
            card = replace(card, uuid=_text(pynvml.nvmlDeviceGetUUID, handle))
        with _unless_it_is_gone():
            card = replace(card, name=_text(pynvml.nvmlDeviceGetName, handle))
        with _unless_it_is_gone():
            card = replace(card, pci_bus_id=_text(lambda: pynvml.nvmlDeviceGetPciInfo(handle).busId))
        speed = tables.number(_gpus.find(card.name).get("fp16_tensor_dense_tflops", ""))
        return replace(card, mig=_mig(handle), speed=speed), False
    except pynvml.NVMLError as error:
        trouble = _sentence(card.label, error)
        return replace(card, trouble=trouble), error.value == pynvml.NVML_ERROR_NO_PERMISSION
    except Exception as error:  # noqa: BLE001  one GPU's fault, whatever it is, costs that GPU alone
        return replace(card, trouble=f"{card.label}: {type(error).__name__}: {error}"), False


@contextlib.contextmanager
def _unless_absent() -> Iterator[None]:
    """Pass over a call that this GPU does not support, as on a Jetson."""
    try:
        yield
    except pynvml.NVMLError as error:
        if error.value not in ABSENT - _codes("NO_PERMISSION"):
            raise


@contextlib.contextmanager
def _unless_it_is_gone() -> Iterator[None]:
    """Pass over a call that only describes a GPU: whatever fails there, its energy may be known."""
    try:
        yield
    except pynvml.NVMLError as error:
        if error.value in _codes("NO_PERMISSION", "GPU_IS_LOST"):
            raise


def _mig(handle: object) -> tuple[Mig, ...]:
    """List a card's MIG devices, of which it can have one for each compute slice (A100: 7, A30: 4)."""
    instances = []
    with contextlib.suppress(pynvml.NVMLError):
        if pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return ()
        whole = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        for index in range(whole):
            with contextlib.suppress(pynvml.NVMLError):  # a place that is free
                mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                ids = pynvml.nvmlDeviceGetGpuInstanceId(mig), pynvml.nvmlDeviceGetComputeInstanceId(mig)
                part = None
                with contextlib.suppress(pynvml.NVMLError):
                    part = pynvml.nvmlDeviceGetAttributes_v2(mig).computeInstanceSliceCount or None
                instances.append(Mig(_text(pynvml.nvmlDeviceGetUUID, mig), *ids, part, whole))
    return tuple(instances)


def _kernel_cards(proc: Path, dev: Path, trouble: str) -> list[Card]:
    """List the GPUs that the kernel's driver has and this process may open, where NVML does not work."""
    cards: list[Card] = []
    for path in sorted(proc.glob("driver/nvidia/gpus/*/information")):
        lines = (line.partition(":") for line in _read(path).splitlines())
        facts = {key.strip(): value.strip() for key, _, value in lines}
        minor = facts.get("Device Minor", "")
        if (dev / f"nvidia{minor}").exists() or not minor.isdecimal():
            uuid = facts.get("GPU UUID", "")
            uuid = uuid if re.fullmatch(r"GPU-[0-9a-f-]+", uuid) else ""
            cards.append(Card(len(cards), uuid, path.parent.name, facts.get("Model", ""), trouble=trouble))
    board = _read(proc / "device-tree" / "model").strip("\0 \n")
    if not cards and "jetson" in board.lower():
        cards.append(Card(0, "", "", f"{board} GPU", trouble=trouble))
    return cards


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _count_modules_once(gpus: list[_Gpu]) -> None:
    """Where several GPUs of a module read one counter (or one power), the first of them stands for the module."""
    modules: list[_Gpu] = []
    for gpu in gpus:
        if gpu.device.detail.get("scope") == "module":
            shared = next((other for other in modules if other.reads_the_same_as(gpu)), None)
            if shared is None:
                modules.append(gpu)
            else:
                gpu.counted_in(shared.device)


def _sensor(library: Library | None, selected: Selected, driver: str, notes: list[str]) -> _Gpu | _Unreadable:
    """Open a GPU; one that cannot be opened is declared with the reason."""
    trouble = selected.card.trouble
    if library is not None and not trouble:
        try:
            return _Gpu(library, selected, driver, notes)
        except pynvml.NVMLError as error:
            trouble = _sentence(selected.card.label, error)
        except Exception as error:  # noqa: BLE001  one GPU's fault, whatever it is, costs that GPU alone
            trouble = f"{selected.card.label}: {type(error).__name__}: {error}"
    return _Unreadable(
        declare(selected, Answers(driver if library is not None else "", trouble=trouble), notes), trouble
    )


class _Unreadable:
    """A GPU that is there and that cannot be read."""

    interval_seconds = TICK_SECONDS

    def __init__(self, device: Device, trouble: str) -> None:
        self.device, self._trouble = device, trouble

    def read(self) -> Reading:
        """Read nothing.

        Raises:
            SensorLostError: always, with the reason.
        """
        raise SensorLostError(self._trouble)

    def close(self) -> None:
        """Nothing is held open."""


class _Gpu:
    """One GPU. A field is asked for until the driver says that it has none, and from then on never again.

    The counter carries the energy where there is one. The driver's power samples are read beside it, where there are
    some: a load that repeats within a second would make a reading a second tell nothing of the power between. They
    and those of the utilization are read before the driver's buffer is full, and at a phase's edge.
    """

    def __init__(self, library: Library, selected: Selected, driver: str, notes: list[str]) -> None:
        self._library, self._card, self._generation = library, selected.card, library.generation
        self._lost, self._closed, self._edge = "", False, False
        self._absent: set[str] = set()
        self._absent_codes = ABSENT | UNKNOWN_FIELD  # of first answers only: later it is a stale handle
        self._fields: tuple[list[str], FieldCall] | None = None
        self._fields_for: tuple[tuple[str, ...], int] = (), 0  # which power, and how many fields were absent
        self._counter_call, self._memory_call = FieldCall([(FIELDS[ENERGY[0]], 0)]), MemoryCall()
        self._scope, self._power = pynvml.NVML_POWER_SCOPE_GPU, POWER
        self._power_buffer = self._buffer(pynvml.NVML_TOTAL_POWER_SAMPLES, WATTS_PER_MILLIWATT)
        self._busy_buffer = self._buffer(pynvml.NVML_GPU_UTILIZATION_SAMPLES)
        self._memory_busy_buffer = self._buffer(pynvml.NVML_MEMORY_UTILIZATION_SAMPLES)
        self._buffered = self._fresh = False  # power samples are read; the last read of them had some
        self._read_seconds: dict[str, float] = {}  # when what was last asked for
        self._energy_alone_until = -math.inf  # no buffer is due before
        self._memory_due = -math.inf
        self._resting: tuple[int | None, int] = None, 0  # the memory in use, and how often it was the same again
        # The counter, since when it shows this, and whether it was seen to stand still since then.
        self._energy: tuple[float | None, float, bool] = (None, -math.inf, True)
        self._origin_joules = 0.0  # what the counter is taken to have begun at
        self._counted: tuple[float, float] = math.inf, 0.0  # its last reading that was believed, and when
        self._leapt_joules = math.inf  # its last reading, if that was not
        self._answers = self._counts = False  # energy or power was read the last time; the counter was
        with library:
            self.device = self._described(selected, driver, notes)
        self._absent_codes = ABSENT
        library.hold()

    @property
    def interval_seconds(self) -> float:
        """Each second, or oftener where power must be polled or the driver's buffer would run over."""
        if self._counts or self.cumulative:
            return TICK_SECONDS
        if self._buffered:
            return min(TICK_SECONDS, max(BUFFER_SECONDS, self._power_buffer.depth_seconds / 2))
        return min(max(self.device.step_seconds / 2, POLL_SECONDS[0]), POLL_SECONDS[1])

    @property
    def cumulative(self) -> bool:
        """Whether nothing is lost where it is read more rarely: a counter carries its energy, or nothing does."""
        return self._counts or not self._source(self._power)

    def read(self) -> Reading:
        """Read it now; a field that only this tick lacks is None.

        Raises:
            SensorError: the driver has trouble with everything that would carry the energy.
            SensorLostError: the GPU fell off the bus.
        """
        if self._lost or self._closed:
            raise SensorLostError(self._lost or f"{self._card.label}: was closed")
        with self._library:
            try:
                if self._generation != self._library.generation:
                    self._handle = self._looked_up()
                    self._generation = self._library.generation
                return self._read(time.monotonic())
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
                    self._lost = _sentence(self._card.label, error)
                    raise SensorLostError(self._lost) from error
                if error.value in STALE:
                    self._library.restart()
                raise SensorError(_sentence(self._card.label, error, "the next tick tries again")) from error

    def reads_the_same_as(self, other: _Gpu) -> bool:
        """Tell whether another GPU's counter or power is this one's: it lies between two reads of this one."""
        with contextlib.suppress(pynvml.NVMLError), self._library:
            before, between, after = (gpu._energy_and_power() for gpu in (self, other, self))
            kind = 0 if before[0] is not None else 1
            first, value, last = before[kind], between[kind], after[kind]
            return first is not None and value is not None and last is not None and first <= value <= last
        return False

    def counted_in(self, module: Device) -> None:
        """Read no energy and no power of it from here on: another GPU's counter has them."""
        self._absent |= {*ENERGY, *POWER, *MODULE_POWER}
        self._buffered = self._counts = False
        detail = {name: value for name, value in self.device.detail.items() if name not in {"energy", "power", "scope"}}
        detail = {name: value for name, value in detail.items() if name != "includes"} | {"counted_in": module.id}
        note = f"its energy is in the counter of the module, which stands with GPU {module.id}"
        self.device = replace(self.device, method=None, detail=detail, note=note)

    def catch_up(self) -> None:
        """Have the next read take in all of the driver's samples: a phase begins or ends there, or the run."""
        self._edge = True

    def close(self) -> None:
        """Let go of the library; returns at once, whatever the driver does."""
        if not self._closed:
            self._closed = True
            self._library.release()

    def _looked_up(self) -> object:
        if self._card.uuid:
            return pynvml.nvmlDeviceGetHandleByUUID(self._card.uuid)
        return pynvml.nvmlDeviceGetHandleByIndex(self._card.index)

    def _read(self, now: float) -> Reading:
        if now < self._energy_alone_until and not self._edge and (reading := self._energy_alone(now)):
            return reading
        edge, self._edge = self._edge, False
        counter = ENERGY[0] not in self._absent or ENERGY[1] not in self._absent
        samples: list[tuple[float, float]] = []
        if self._buffered and self._due("power", self._power_buffer, now, edge=edge or not counter):
            samples = self._power_buffer.new()
            self._fresh = bool(samples)
        energy, power = (None, None) if samples and not counter else self._energy_and_power()
        energy = self._believed(energy, now)
        self._energy = (energy, now, False) if energy != self._energy[0] else (energy, self._energy[1], True)
        power = samples[-1][1] if samples else power
        self._answers, self._counts = energy is not None or power is not None, energy is not None
        busy, memory_busy, rates = self._utilization(now, edge=edge, beside_power=bool(samples))
        memory = None
        if self._elapsed("memory", now) >= SLOW_FIELDS_SECONDS and (
            edge or not self._counts or now >= self._memory_due
        ):
            memory = self._used_memory(now)
        self._energy_alone_until = self._next_due_seconds() if self._counts and self._sampled(now) else -math.inf
        return Reading(
            energy,
            power,
            samples,
            utilization_ratio=rates.gpu / 100 if rates and not busy else None,
            memory_bytes=memory,
            memory_utilization_ratio=rates.memory / 100 if rates and not memory_busy else None,
            utilization_samples=busy,
            memory_utilization_samples=memory_busy,
            power_follows=self._counts and self._fresh and not samples,
            utilization_follows=not busy and self._sampled(now),
        )

    def _energy_alone(self, now: float) -> Reading | None:
        """Read the counter: most ticks ask for no more. None where it is in trouble.

        The driver's samples will tell the power; where it has none, the gauge is read beside the counter.

        Raises:
            NVMLError: neither can be read now.
        """
        energy: float | None
        power: float | None = None
        if self._fresh and ENERGY[0] not in self._absent:
            [(code, value)] = self._counter_call(self._handle)
            energy = None if code else value * JOULES_PER_MILLIJOULE
        else:
            energy, power = self._energy_and_power()
        energy = self._believed(energy, now)
        if energy is None or energy == self._energy[0]:
            return None
        self._energy = energy, now, False
        memory = self._used_memory(now) if now >= self._memory_due else None
        return Reading(energy, power, memory_bytes=memory, power_follows=self._fresh, utilization_follows=True)

    def _believed(self, joules: float | None, now: float) -> float | None:
        """Return the counter's reading; None for one that lies further on than any device can have come by now.

        Where the next reading lies there too, the counter is taken to have begun anew at it: as after a reset, the
        integrated power tells what was drawn meanwhile.
        """
        if joules is None:
            return None
        joules -= self._origin_joules
        if joules < 0:  # it has itself begun anew
            joules, self._origin_joules = joules + self._origin_joules, 0.0
        last, then = self._counted
        if joules - last > MOST_WATTS * (now - then + TICK_SECONDS):
            again = 0 <= joules + self._origin_joules - self._leapt_joules <= MOST_WATTS * 2 * TICK_SECONDS
            if not again:
                self._leapt_joules = joules + self._origin_joules
                return None
            joules, self._origin_joules = 0.0, joules + self._origin_joules
        self._counted, self._leapt_joules = (joules, now), math.inf
        return joules

    def _used_memory(self, now: float) -> int | None:
        """Read the memory in use, and settle when it is read next beside a counter."""
        memory = self._memory()
        used = memory[1] if memory else None
        before, times = self._resting
        self._resting = used, times + 1 if used == before else 0
        self._read_seconds["memory"] = now
        self._memory_due = now + MEMORY_SECONDS[self._resting[1] >= RESTING_READS]
        return used

    def _next_due_seconds(self) -> float:
        """Return when the buffers are to be read next beside a counter."""
        read = self._read_seconds
        due = [read["busy"] + self._spacing_seconds(self._busy_buffer) - EARLY_SECONDS]
        if self._buffered:
            due.append(read["power"] + self._spacing_seconds(self._power_buffer) - EARLY_SECONDS)
        return min(due) if self._fresh or not self._buffered else -math.inf

    def _spacing_seconds(self, buffer: SampleBuffer) -> float:
        """Return how far apart a buffer is read."""
        return min(buffer.depth_seconds * BUFFER_RATIO[self._counts] or BUFFER_MOST_SECONDS, BUFFER_MOST_SECONDS)

    def _elapsed(self, name: str, now: float) -> float:
        return now - self._read_seconds.get(name, -math.inf)

    def _due(self, name: str, buffer: SampleBuffer, now: float, *, edge: bool, beside_power: bool = False) -> bool:
        """Tell whether a buffer is to be read now, and note that it is.

        The samples of power have just been read ``beside_power``: a buffer that would be due before they are read again
        is read now, since each read completes all the rows that were written since the last.
        """
        elapsed, spacing = self._elapsed(name, now), self._spacing_seconds(buffer)
        soon = self._counts and beside_power and elapsed + self._spacing_seconds(self._power_buffer) > spacing
        due = soon or elapsed >= spacing - EARLY_SECONDS or (edge and elapsed >= SLOW_FIELDS_SECONDS)
        if name == "power" and not due:  # where the counter fails, power carries the energy
            _, moved_seconds, stands = self._energy
            due = not (self._counts and self._fresh) or (stands and now - moved_seconds >= STANDSTILL_SECONDS)
        if due:
            self._read_seconds[name] = now
        return due

    def _sampled(self, now: float) -> bool:
        """Tell whether the driver keeps samples of the utilization."""
        return self._elapsed("busy samples", now) < 2 * BUFFER_MOST_SECONDS

    def _utilization(self, now: float, *, edge: bool, beside_power: bool) -> tuple[Samples, Samples, Any]:
        """Return the samples of the GPU's and its memory's utilization that are new, and the driver's figures of now.

        The latter, means of the last second or less, are asked for where the driver keeps no samples, and at first.
        """
        busy: Samples = []
        memory_busy: Samples = []
        if self._due("busy", self._busy_buffer, now, edge=edge, beside_power=beside_power):
            busy = [(at, percent / 100) for at, percent in self._busy_buffer.new() if percent <= 100]
            memory_busy = [(at, percent / 100) for at, percent in self._memory_busy_buffer.new() if percent <= 100]
        elif self._sampled(now) and "rates" in self._read_seconds:
            return busy, memory_busy, None
        if busy:
            self._read_seconds["busy samples"] = now
        spacing = RATES_SECONDS if self._buffered and not edge else SLOW_FIELDS_SECONDS
        if (busy and memory_busy) or self._elapsed("rates", now) < spacing:
            return busy, memory_busy, None
        self._read_seconds["rates"] = now
        return busy, memory_busy, self._ask(pynvml.nvmlDeviceGetUtilizationRates)

    def _source(self, ways: tuple[str, ...]) -> str:
        return next((way for way in ways if way not in self._absent), "")

    def _ask(self, call: Callable[..., Any], *values: object, key: str = "") -> Any:  # noqa: ANN401
        """Ask the driver for a field; None where it has none, or where it failed now.

        Raises:
            NVMLError: the GPU or the library is gone.
        """
        key = key or call.__name__
        if key in self._absent:
            return None
        try:
            return call(self._handle, *values)
        except pynvml.NVMLError as error:
            if error.value in self._absent_codes:
                self._absent.add(key)
            elif error.value in FATAL and not self._answers:
                raise
        return None

    def _energy_and_power(self) -> tuple[float | None, float | None]:
        """Return joules since the driver was loaded, and watts; in one call where it has both.

        Raises:
            NVMLError: neither can be read now.
        """
        energy: float | None = None
        power: float | None = None
        errors: list[int] = []
        for way, (code, value) in self._field_values():
            if code:
                if code in self._absent_codes:
                    self._absent.add(way)
                elif code not in NOTHING_NEW:
                    errors.append(code)
            elif way == ENERGY[0]:
                energy = value
            else:
                power = value
        if energy is None and ENERGY[0] in self._absent:
            energy = self._function(pynvml.nvmlDeviceGetTotalEnergyConsumption, errors)
        if power is None and self._source(self._power) == POWER[1]:
            power = self._function(pynvml.nvmlDeviceGetPowerUsage, errors)
        if energy is None and not power and errors:
            raise pynvml.NVMLError(errors[0])
        # A card that answers draws some power: 0 W is a sensor that does not know.
        watts = (power or 0.0) * WATTS_PER_MILLIWATT
        return (
            None if energy is None else energy * JOULES_PER_MILLIJOULE,
            watts if 0 < watts <= MOST_WATTS else None,
        )

    def _function(self, call: Callable[..., Any], errors: list[int]) -> float | None:
        """Ask a function for energy or power; its trouble is added to ``errors``."""
        if call.__name__ in self._absent:
            return None
        try:
            return float(call(self._handle))
        except pynvml.NVMLError as error:
            if error.value in self._absent_codes:
                self._absent.add(call.__name__)
            elif error.value not in NOTHING_NEW:
                errors.append(error.value)
        return None

    def _field_values(self) -> Iterable[tuple[str, tuple[int, float]]]:
        """Ask for the fields that are there, in one call; the name of each, its code and its value."""
        if self._fields is None or self._fields_for != (self._power, len(self._absent)):  # none comes back
            self._fields_for = self._power, len(self._absent)
            ways = [ENERGY[0]] if ENERGY[0] not in self._absent else []
            ways += [way for way in self._power if way in FIELDS and way not in self._absent][:1]
            scopes = [0 if way == ENERGY[0] else self._scope for way in ways]
            self._fields = ways, FieldCall([(FIELDS[way], scope) for way, scope in zip(ways, scopes, strict=True)])
        ways, call = self._fields
        if not ways:
            return ()
        try:
            values = call(self._handle)
        except pynvml.NVMLError as error:
            if error.value not in self._absent_codes:
                raise
            self._absent |= set(FIELDS)
            return ()
        return zip(ways, values, strict=True)

    def _buffer(self, kind: int, unit: float = 1.0) -> SampleBuffer:
        """Return the driver's buffer of one kind of samples, empty where it has none."""
        call, key = SampleCall(kind), f"samples {kind}"

        def fetch(since: int) -> Stamped:
            stamped = self._ask(call, since, key=key) or ()
            if kind == pynvml.NVML_TOTAL_POWER_SAMPLES and stamped:
                most = MOST_WATTS / WATTS_PER_MILLIWATT
                values = list(map(_VALUE, stamped))
                if min(values) <= 0 or max(values) > most:  # not known, as above
                    return [sample for sample in stamped if 0 < sample[1] <= most]
            return stamped

        return SampleBuffer(fetch, unit=unit)

    def _memory(self) -> tuple[int, int] | None:
        """Return total and used bytes: without what the driver keeps for itself (v2), else with it."""
        memory: tuple[int, int] | None = self._ask(self._memory_call, key="memory v2")
        if "memory v2" not in self._absent:
            return memory
        info = self._ask(pynvml.nvmlDeviceGetMemoryInfo)
        return (info.total, info.used) if info else None

    def _described(self, selected: Selected, driver: str, notes: list[str]) -> Device:
        """Ask for everything once, to learn what this GPU tells.

        Raises:
            NVMLError: it does not answer at all.
        """
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(self._card.index)
        module, module_limit = self._module()
        trouble = self._first_reads()
        self._power_buffer.new()  # what the buffers hold of the time before is not of this run
        self._buffered = self._power_buffer.carries and (not module or self._buffer_is_of_the_module())
        self._memory_busy_buffer.new()
        if self._busy_buffer.new():
            self._read_seconds["busy"] = self._read_seconds["busy samples"] = time.monotonic()
        limit, memory = self._ask(pynvml.nvmlDeviceGetEnforcedPowerLimit), self._memory()
        limit = None if limit and limit * WATTS_PER_MILLIWATT > MOST_WATTS else limit
        limits = self._ask(pynvml.nvmlDeviceGetPowerManagementLimitConstraints)
        answers = Answers(
            driver,
            ARCHITECTURES.get(self._ask(pynvml.nvmlDeviceGetArchitecture), ""),
            self._source(ENERGY),
            self._source(self._power),
            self._buffered,
            module,
            module_limit or (limit * WATTS_PER_MILLIWATT if limit else None),
            f"used, with{'' if 'memory v2' in self._absent else 'out'} the driver's own" if memory else "",
            memory[0] if memory else None,
            (limits[0] * WATTS_PER_MILLIWATT, limits[1] * WATTS_PER_MILLIWATT) if limits else None,
            trouble,
        )
        return declare(selected, answers, notes)

    def _first_reads(self) -> str:
        """Learn what carries the energy; return why it is not the counter, where that is there and fails.

        Raises:
            NVMLError: the GPU or the library is gone.
        """
        error: pynvml.NVMLError | None = None
        energy = power = None
        for _ in range(FIRST_READS):
            try:
                energy, power = self._energy_and_power()
            except pynvml.NVMLError as failure:
                if failure.value in FATAL:
                    raise
                error = failure
                continue
            if energy is not None or not self._source(ENERGY):
                break
        if error is not None and energy is None and power is None:
            raise error
        self._answers, self._counts = energy is not None or power is not None, bool(self._source(ENERGY))
        if energy is None and power is not None and self._source(ENERGY):
            self._absent |= set(ENERGY)
            self._counts = False
            return "its energy counter fails: its power is integrated"
        return ""

    def _module(self) -> tuple[bool, float | None]:
        """Tell whether energy and power are those of a superchip's module, and its power limit.

        A GPU of its own has no module scope. On a superchip the counter may be the GPU's or the module's: it is of
        that scope whose power it follows.
        """
        before = self._scope_watts()
        if before[1] is None or (before[0] is not None and before[1] < before[0] * (1 + SCOPE_RATIO)):
            return False, None
        if before[0] is not None and not self._counter_is_of_the_module(before):
            return False, None
        self._scope, self._power = pynvml.NVML_POWER_SCOPE_MODULE, MODULE_POWER
        return True, before[2]

    def _counter_is_of_the_module(self, before: _ScopeWatts) -> bool:
        """Tell which of two scopes the counter is of; the same for all GPUs of a model, so it is measured once."""
        scopes = self._library.facts
        name = f"scope of {self._card.name}"
        if name not in scopes:
            scopes[name] = self._counter_follows_the_module(before)
        return scopes[name]

    def _counter_follows_the_module(self, before: _ScopeWatts) -> bool:
        counted, after = self._counter_watts(), self._scope_watts()
        gpu, module = (
            (first + last) / 2 if first and last else first or last
            for first, last in zip(before[:2], after[:2], strict=True)
        )
        if not (gpu and module and counted):  # no counter: the GPU's own power is integrated
            return False
        return abs(math.log(counted / gpu)) > abs(math.log(counted / module))

    def _scope_watts(self) -> _ScopeWatts:
        """Return the power of the GPU and of the module, and the module's limit; None where the driver has none."""
        gpu, module = pynvml.NVML_POWER_SCOPE_GPU, pynvml.NVML_POWER_SCOPE_MODULE
        fields = [(FIELDS[way], scope) for scope in (gpu, module) for way in MODULE_POWER]
        fields.append((pynvml.NVML_FI_DEV_POWER_CURRENT_LIMIT, module))
        try:
            values = FieldCall(fields)(self._handle)
        except pynvml.NVMLError:
            return None, None, None
        watts = [value * WATTS_PER_MILLIWATT if code == pynvml.NVML_SUCCESS else None for code, value in values]
        return watts[0] or watts[1] or None, watts[2] or watts[3] or None, watts[4] or None

    def _counter_watts(self) -> float | None:
        """Return the mean power by the counter, between two of its steps; None: no counter."""
        read = FieldCall([(FIELDS[ENERGY[0]], 0)])
        begun, first, last = time.monotonic(), None, None
        [(code, before)] = read(self._handle)
        while code == pynvml.NVML_SUCCESS and (now := time.monotonic()) - begun < SCOPE_SECONDS[1]:
            [(code, value)] = read(self._handle)
            if value != before:
                first, last, before = first or (now, value), (now, value), value
                if now - first[0] >= SCOPE_SECONDS[0]:
                    break
            time.sleep(0.002)
        if first is None or last is None or last[0] == first[0]:
            return None
        return (last[1] - first[1]) * JOULES_PER_MILLIJOULE / (last[0] - first[0])

    def _buffer_is_of_the_module(self) -> bool:
        sampled, watts = self._power_buffer.newest_value, self._scope_watts()[1]
        return sampled is not None and watts is not None and abs(sampled - watts) < MODULE_SAMPLES_RATIO * watts
