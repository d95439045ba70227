"""NVIDIA GPUs, through NVML (``nvidia-ml-py``)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pynvml

from greenml import tables
from greenml.errors import SensorError, SensorLostError
from greenml.model import Device, Reading, Sensor, Wanted
from greenml.sensors import _gpu_models
from greenml.sensors._cards import ARCHITECTURES, Card, Mig, Selected, Told, declare, unreadable
from greenml.sensors._library import Library
from greenml.sensors._nvml_values import number, unpacked
from greenml.sensors._sample_buffer import SampleBuffer, Stamped
from greenml.sensors._visible import select
from greenml.units import JOULES_PER_MILLIJOULE, WATTS_PER_MILLIWATT

# The ways to a figure, the best first.
ENERGY = ("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "nvmlDeviceGetTotalEnergyConsumption")
POWER = ("NVML_FI_DEV_POWER_INSTANT", "nvmlDeviceGetPowerUsage")
FIELDS = {getattr(pynvml, name): name for name in (ENERGY[0], POWER[0])}
DRIVER = True  # its calls may hang: probed after what cannot
EASY_SECONDS = 1.0
POLL_SECONDS = (0.02, 0.05)  # a gauge is polled twice as often as it is brought up to date, within these
BUFFER_SECONDS = 0.05  # and a buffer no oftener than this
TRIES = 3  # at the start, before a field that failed is thought to be there
SLOW_FIELDS_SECONDS = 0.5  # utilization and memory are asked for no oftener, however fast power is polled


def _codes(*names: str) -> frozenset[int]:
    return frozenset(getattr(pynvml, f"NVML_ERROR_{name}") for name in names)


ABSENT = _codes("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NO_PERMISSION", "ARGUMENT_VERSION_MISMATCH", "DEPRECATED")
UNKNOWN_FIELD = _codes("INVALID_ARGUMENT")  # how an older driver calls a field that it has never heard of
NOTHING_NEW = _codes("NOT_FOUND", "NO_DATA")
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


def probe(wanted: Wanted = Wanted()) -> list[Sensor]:  # noqa: B008  it is frozen
    """Return one sensor for each GPU that is wanted; one that does not answer says so at its first read.

    Raises:
        SensorError: there is no NVML here, or no GPU that this process sees.
        SettingsError: ``wanted.gpus`` names a GPU that is not here.
    """
    try:
        library = Library(pynvml.nvmlInit, pynvml.nvmlShutdown, pynvml.NVMLError)
    except pynvml.NVMLError as error:
        raise SensorError(_sentence("NVML", error)) from error
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        cards = [card for index in range(pynvml.nvmlDeviceGetCount()) if (card := _card(index))]
        selected, notes = select(cards, wanted.gpus, os.environ)
        if not selected:
            raise SensorError("NVML: no GPU to measure: " + ("; ".join(notes) or "the driver lists none"))
        # What is to be said of the choice as a whole stands with the first GPU.
        return [_Gpu(library, one, driver, [] if number else notes) for number, one in enumerate(selected)]
    except pynvml.NVMLError as error:
        raise SensorError(_sentence("NVML", error)) from error
    finally:
        library.release()  # probe's own hold; the sensors have theirs


def _sentence(where: str, error: pynvml.NVMLError) -> str:
    return f"{where}: {error}; {ADVICE.get(error.value, 'the next tick tries again')}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _card(index: int) -> Card | None:
    """Describe a GPU for the choice; None if this process may not touch it, as CUDA then leaves it out."""
    uuid = pci = name = ""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle))
        pci = _text(pynvml.nvmlDeviceGetPciInfo(handle).busId)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
            return None
        card = Card(index, uuid, pci, name)
        return replace(card, trouble=_sentence(card.place, error))
    speed = tables.number(_gpu_models.find(name).get("fp16_tensor_dense_tflops", ""))
    return Card(index, uuid, pci, name, _mig(handle), speed)


def _mig(handle: object) -> tuple[Mig, ...]:
    """List a card's MIG devices, of which it can have one for each compute slice (A100: 7, A30: 4)."""
    found = []
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
                found.append(Mig(_text(pynvml.nvmlDeviceGetUUID(mig)), *ids, part, whole))
    return tuple(found)


class _Gpu:
    """One GPU. A field is asked for until the driver says that it has none, and from then on never again.

    The counter carries the energy where there is one. The driver's power buffer is read beside it, where there is
    one: a load that repeats within a second would make a reading a second tell nothing of the power between.
    """

    def __init__(self, library: Library, selected: Selected, driver: str, notes: list[str]) -> None:
        self._library, self._card, self._generation = library, selected.card, library.generation
        self._lost, self._closed = self._card.trouble, False
        self._absent: set[str] = set()
        self._absent_codes = ABSENT | UNKNOWN_FIELD  # of first answers only: later it is a stale handle
        self._power_buffer = SampleBuffer(lambda since: self._samples(pynvml.NVML_TOTAL_POWER_SAMPLES, since))
        self._busy_buffer = SampleBuffer(lambda s: self._samples(pynvml.NVML_GPU_UTILIZATION_SAMPLES, s))
        self._buffered, self._slow_due = False, 0.0
        with library.call():
            try:
                self.device = self._described(selected, driver, notes)
            except pynvml.NVMLError as error:
                self._lost = _sentence(self._card.place, error)
                self.device = unreadable(self._card, self._lost, driver, notes)
        self._absent_codes = ABSENT
        library.hold()

    @property
    def interval_seconds(self) -> float:
        """Each second, or oftener where power must be polled or the driver's buffer would run over."""
        if self.device.method != "gauge":
            return EASY_SECONDS
        if self._buffered:
            return min(EASY_SECONDS, max(BUFFER_SECONDS, self._power_buffer.depth_seconds / 2))
        return min(max(self.device.step_seconds / 2, POLL_SECONDS[0]), POLL_SECONDS[1])

    def read(self) -> Reading:
        """Read it now; a field that only this tick lacks is None.

        Raises:
            SensorError: the driver has trouble with what carries the energy.
            SensorLostError: the GPU fell off the bus.
        """
        if self._lost or self._closed:
            raise SensorLostError(self._lost or f"{self._card.place}: was closed")
        with self._library.call():
            try:
                if self._generation != self._library.generation:
                    self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._card.uuid)
                    self._generation = self._library.generation
                return self._read(time.monotonic())
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
                    self._lost = _sentence(self._card.place, error)
                    raise SensorLostError(self._lost) from error
                if error.value in STALE:
                    self._library.restart()
                raise SensorError(_sentence(self._card.place, error)) from error

    def close(self) -> None:
        """Let go of the library; returns at once, whatever the driver does."""
        if not self._closed:
            self._closed = True
            self._library.release()

    def _read(self, now: float) -> Reading:
        samples = self._power_buffer.new() if self._buffered else []
        energy, power = (None, None) if samples and not self._source(ENERGY) else self._energy_and_power()
        power = samples[-1][1] if samples else power
        if now < self._slow_due:
            return Reading(energy, power, samples)
        self._slow_due = now + SLOW_FIELDS_SECONDS
        rates = self._ask(pynvml.nvmlDeviceGetUtilizationRates)
        busy = [percent for _, percent in self._busy_buffer.new() if percent <= 100]
        busy = busy or ([rates.gpu] if rates else [])
        memory = self._memory()
        return Reading(
            energy,
            power,
            samples,
            utilization_ratio=sum(busy) / len(busy) / 100 if busy else None,
            memory_bytes=memory.used if memory else None,
            memory_utilization_ratio=rates.memory / 100 if rates else None,
        )

    def _source(self, ways: tuple[str, str]) -> str:
        return next((way for way in ways if way not in self._absent), "")

    def _ask(self, call: Callable[..., Any], *values: object, key: str = "", needed: bool = False) -> Any:  # noqa: ANN401
        """Ask the driver for one field; None where it has none, or where it failed now and is not needed."""
        key = key or call.__name__
        if key in self._absent:
            return None
        try:
            return call(self._handle, *values)
        except pynvml.NVMLError as error:
            if error.value in self._absent_codes:
                self._absent.add(key)
            elif error.value not in NOTHING_NEW and (needed or error.value in FATAL):
                raise
        return None

    def _energy_and_power(self) -> tuple[float | None, float | None]:
        """Return joules since the driver was loaded, and watts; in one call where it has both."""
        got: dict[str, float | None] = {}
        carriers = ENERGY if self._source(ENERGY) else POWER
        if fields := [field for field, name in FIELDS.items() if name not in self._absent]:
            for one in self._ask(pynvml.nvmlDeviceGetFieldValues, fields, needed=True) or ():
                name, code = FIELDS[one.fieldId], one.nvmlReturn
                if code == pynvml.NVML_SUCCESS:
                    got[name] = number(one.valueType, one.value)
                elif code in ABSENT | UNKNOWN_FIELD:
                    self._absent.add(name)
                elif code in FATAL or (name in carriers and code not in NOTHING_NEW):
                    raise pynvml.NVMLError(code)
            if "nvmlDeviceGetFieldValues" in self._absent:
                self._absent |= set(FIELDS.values())
        for field, call in (
            (ENERGY[0], pynvml.nvmlDeviceGetTotalEnergyConsumption),
            (POWER[0], pynvml.nvmlDeviceGetPowerUsage),
        ):
            if field in self._absent:
                got[field] = self._ask(call, needed=call.__name__ in carriers)
        energy, power = got.get(ENERGY[0]), got.get(POWER[0])
        # A card that answers draws some power: 0 W is a sensor that does not know.
        return (
            None if energy is None else energy * JOULES_PER_MILLIJOULE,
            power * WATTS_PER_MILLIWATT if power else None,
        )

    def _samples(self, kind: int, since: int) -> Stamped:
        answer = self._ask(pynvml.nvmlDeviceGetSamples, kind, since, key=f"samples {kind}")
        value_type, samples = answer or (0, [])
        values = unpacked(value_type, samples)
        if kind == pynvml.NVML_TOTAL_POWER_SAMPLES:  # milliwatts; 0 as above
            return [(stamp, value * WATTS_PER_MILLIWATT) for stamp, value in values if value]
        return values

    def _memory(self) -> Any:  # noqa: ANN401
        """Return total and used bytes: without what the driver keeps for itself (v2), else with it."""
        memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo, pynvml.nvmlMemory_v2, key="memory v2")
        return self._ask(pynvml.nvmlDeviceGetMemoryInfo) if "memory v2" in self._absent else memory

    def _described(self, selected: Selected, driver: str, notes: list[str]) -> Device:
        """Ask for everything once, to learn what this GPU tells; raises only if it will not answer at all."""
        if self._lost:
            return unreadable(self._card, self._lost, driver, notes)
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(self._card.index)
        for _ in range(TRIES):
            try:
                self._read(time.monotonic())
                break
            except pynvml.NVMLError as error:
                if error.value in FATAL:
                    raise
        self._slow_due = 0.0
        self._power_buffer.new()
        self._buffered = self._power_buffer.carries
        limit, memory = self._ask(pynvml.nvmlDeviceGetEnforcedPowerLimit), self._memory()
        limits = self._ask(pynvml.nvmlDeviceGetPowerManagementLimitConstraints)
        told = Told(
            driver,
            ARCHITECTURES.get(self._ask(pynvml.nvmlDeviceGetArchitecture), ""),
            self._source(ENERGY),
            self._source(POWER),
            self._buffered,
            limit * WATTS_PER_MILLIWATT if limit else None,
            f"used, with{'' if 'memory v2' in self._absent else 'out'} the driver's own" if memory else "",
            memory.total if memory else None,
            (limits[0] * WATTS_PER_MILLIWATT, limits[1] * WATTS_PER_MILLIWATT) if limits else None,
        )
        return declare(selected, told, notes)
