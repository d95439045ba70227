"""What a simulated host holds: its GPUs, how they are measured, what goes wrong, and the exact truth."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .signals import Shape, integral, ordered, value_at

GIB = 2**30

NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
UNKNOWN = 999

SCOPES = {"gpu": 1, "module": 2, "memory": 4}  # bits of what the power fields tell


@dataclass(frozen=True)
class Error:
    """``function`` fails with ``code`` over [start, end).

    Functions are named without their version (``nvmlInit``, ``nvmlDeviceGetMemoryInfo``); ``*`` is all.
    ``field:186`` is one field of nvmlDeviceGetFieldValues, ``samples:0`` one kind of nvmlDeviceGetSamples.
    """

    function: str
    code: int = NOT_SUPPORTED
    start: float = -math.inf
    end: float = math.inf

    def line(self) -> str:
        return f"error {self.function} {self.code} {self.start!r} {self.end!r}"


@dataclass(frozen=True)
class Hang:
    """A call of ``function`` within [start, end) does not come back before ``end``."""

    function: str = "*"
    start: float = -math.inf
    end: float = math.inf

    def line(self) -> str:
        return f"hang {self.function} 0 {self.start!r} {self.end!r}"


@dataclass(frozen=True)
class Slow:
    """A call of ``function`` within [start, end) takes ``seconds``."""

    function: str
    seconds: float
    start: float = -math.inf
    end: float = math.inf

    def line(self) -> str:
        return f"slow {self.function} {self.seconds!r} {self.start!r} {self.end!r}"


Fault = Error | Hang | Slow


@dataclass(frozen=True)
class Mig:
    """One MIG slice. It has memory, no power or utilization of its own."""

    uuid: str
    gpu_instance: int = 1
    compute_instance: int = 0
    slices: int = 1
    memory_bytes: int = 5 * GIB
    profile: str = "1g.5gb"


@dataclass(frozen=True)
class Gpu:
    """One card; by default a V100 that does nothing.

    Attributes:
        uuid, serial, pci_bus: empty or None: made from its place in the script.
        architecture: NVML's number: 4 Pascal, 5 Volta, 6 Turing, 7 Ampere, 8 Ada, 9 Hopper, 10 Blackwell.
        power: watts over time; ``idle_watts`` where no shape is.
        module_power: watts over time of the superchip's module that the GPU is part of.
        scopes: which of ``gpu``, ``module`` and ``memory`` the power fields tell.
        counter_scope: whose energy the counter tells.
        one_scope: the driver knows no scopes and tells the GPU's power for any.
        utilization, memory_utilization: ratios over time, else 0.
        memory_used: bytes over time, else 0.
        update_seconds, window_seconds, phase_seconds: of the power gauge (nvmlDeviceGetPowerUsage and the
            INSTANT field): at phase + k x update it shows the mean of the ``window_seconds`` before.
        average_update_seconds, average_window_seconds: the same of the AVERAGE field.
        usage_is_average: nvmlDeviceGetPowerUsage tells the AVERAGE gauge, as on GA10x, Ada and Hopper.
        activity_seconds: utilization is the mean over this long, brought up to date as often.
        sample_capacity: of the driver's buffer; 0: the card has none.
        sample_seconds, sample_window_seconds: of its power samples; None: those of the gauge.
        gauge_gain_ratio, counter_gain_ratio: what it shows over what is true.
        counter: it has an energy counter (function and field).
        counter_step_seconds, counter_phase_seconds: the counter moves at phase + k x step.
        counter_base_millijoules: what it shows at the origin.
        counter_frozen_at: it stands still from then on.
        counter_resets: it restarts from 0 then.
        lost_at: every call fails with GPU_IS_LOST from then on.
        mig_mode: None: the card has no such thing.
        processes: (pid, bytes) on the card.
        faults: of this card's functions.
    """

    name: str = "Tesla V100-SXM2-32GB"
    uuid: str = ""
    serial: str = ""
    pci_bus: int | None = None
    architecture: int = 5
    compute_capability: tuple[int, int] = (7, 0)
    brand: int = 2
    memory_bytes: int = 32 * GIB
    limit_watts: float = 300.0
    limit_range_watts: tuple[float, float] = (150.0, 300.0)
    power: float | Shape | Sequence[Shape] = ()
    idle_watts: float = 40.0
    module_power: float | Shape | Sequence[Shape] = ()
    scopes: tuple[str, ...] = ("gpu",)
    counter_scope: str = "gpu"
    one_scope: bool = False
    utilization: float | Shape | Sequence[Shape] = ()
    memory_utilization: float | Shape | Sequence[Shape] = ()
    memory_used: float | Shape | Sequence[Shape] = ()
    update_seconds: float = 0.020
    window_seconds: float = 0.010
    phase_seconds: float = 0.0
    average_update_seconds: float = 0.100
    average_window_seconds: float = 1.0
    usage_is_average: bool = False
    activity_seconds: float = 1 / 6
    sample_capacity: int = 120
    sample_seconds: float | None = None
    sample_window_seconds: float | None = None
    gauge_gain_ratio: float = 1.0
    counter_gain_ratio: float = 1.0
    counter: bool = True
    counter_step_seconds: float = 0.020
    counter_phase_seconds: float = 0.0
    counter_base_millijoules: float = 123_456_789.0
    counter_frozen_at: float = math.inf
    counter_resets: tuple[float, ...] = ()
    lost_at: float = math.inf
    mig_mode: bool | None = None
    migs: tuple[Mig, ...] = ()
    processes: tuple[tuple[int, int], ...] = ()
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        for name in ("power", "module_power", "utilization", "memory_utilization", "memory_used"):
            object.__setattr__(self, name, ordered(getattr(self, name)))

    # The truth; times are seconds since the script's origin.

    def watts(self, t: float) -> float:
        return value_at(self.power, self.idle_watts, t)

    def energy_joules(self, start: float, end: float) -> float:
        return integral(self.power, self.idle_watts, start, end)

    def module_joules(self, start: float, end: float) -> float:
        return integral(self.module_power, 0.0, start, end)

    def mean_utilization(self, start: float, end: float) -> float:
        return integral(self.utilization, 0.0, start, end) / (end - start)

    def mean_memory_utilization(self, start: float, end: float) -> float:
        return integral(self.memory_utilization, 0.0, start, end) / (end - start)

    def mean_memory_bytes(self, start: float, end: float) -> float:
        return integral(self.memory_used, 0.0, start, end) / (end - start)

    # What it shows.

    def gauge_watts(self, t: float) -> float:
        """Return the reading of the INSTANT gauge at ``t``."""
        return self._gauge(t, self.update_seconds, self.window_seconds)

    def average_watts(self, t: float) -> float:
        """Return the reading of the AVERAGE gauge at ``t``."""
        return self._gauge(t, self.average_update_seconds, self.average_window_seconds)

    def _gauge(self, t: float, update: float, window: float) -> float:
        last = self.phase_seconds + math.floor((t - self.phase_seconds) / update) * update
        return self.gauge_gain_ratio * self.energy_joules(last - window, last) / window

    def counter_millijoules(self, t: float) -> int:
        """Return what the counter shows at ``t``."""
        reset = max((at for at in self.counter_resets if at <= t), default=None)
        start, base = (0.0, self.counter_base_millijoules) if reset is None else (reset, 0.0)
        t = min(t, self.counter_frozen_at)
        phase, step = self.counter_phase_seconds, self.counter_step_seconds
        last = phase + math.floor((t - phase) / step) * step
        if reset is not None:
            last = max(last, reset)
        joules = self.module_joules if self.counter_scope == "module" else self.energy_joules
        return max(0, int(base + 1000 * self.counter_gain_ratio * joules(start, last)))

    def all_faults(self) -> tuple[Fault, ...]:
        """Return its faults, with those that its attributes stand for."""
        found = list(self.faults)
        if math.isfinite(self.lost_at):
            found.append(Error("*", GPU_IS_LOST, self.lost_at))
        if not self.counter:
            found += [Error("nvmlDeviceGetTotalEnergyConsumption"), Error("field:83")]
        return tuple(found)

    def lines(self) -> list[str]:
        sample_seconds = self.sample_seconds or self.update_seconds
        sample_window = self.sample_window_seconds or self.window_seconds
        low, high = self.limit_range_watts
        major, minor = self.compute_capability
        lines = [
            f"gpu {self.uuid}",
            f"name {self.name}",
            f"serial {self.serial}",
            f"pci 0:{self.pci_bus:x}:0",
            f"architecture {self.architecture} {major} {minor} {self.brand}",
            f"memory {self.memory_bytes}",
            f"limit {self.limit_watts!r} {low!r} {high!r} {high!r}",
            f"instant {self.update_seconds!r} {self.window_seconds!r} {self.phase_seconds!r}",
            f"average {self.average_update_seconds!r} {self.average_window_seconds!r} {self.phase_seconds!r}",
            f"usage {int(self.usage_is_average)}",
            f"activity {self.activity_seconds!r} {self.activity_seconds!r} {self.phase_seconds!r}",
            f"gain {self.gauge_gain_ratio!r} {self.counter_gain_ratio!r}",
            f"counter {self.counter_step_seconds!r} {self.counter_phase_seconds!r} {self.counter_base_millijoules!r}",
            f"frozen {self.counter_frozen_at!r}",
            f"power rest {self.idle_watts!r}",
            f"scopes {sum(SCOPES[name] for name in self.scopes)} {int(self.counter_scope == 'module')} "
            f"{int(self.one_scope)}",
        ]
        if self.sample_capacity:
            lines.append(f"samples {self.sample_capacity} {sample_seconds!r} {sample_window!r} {self.phase_seconds!r}")
        for key in ("power", "module_power", "utilization", "memory_utilization", "memory_used"):
            lines += [f"{key} {shape.line()}" for shape in getattr(self, key)]
        lines += [f"reset {at!r}" for at in self.counter_resets]
        if self.mig_mode is not None:
            lines.append(f"mig_mode {int(self.mig_mode)}")
        for m in self.migs:
            lines.append(f"mig {m.uuid} {m.gpu_instance} {m.compute_instance} {m.slices} {m.memory_bytes} {m.profile}")
        lines += [f"process {pid} {used}" for pid, used in self.processes]
        return lines + [fault.line() for fault in self.all_faults()]


# Update period and window of the gauges: arXiv 2312.02741.
A100 = Gpu(
    name="NVIDIA A100-SXM4-40GB",
    architecture=7,
    compute_capability=(8, 0),
    brand=14,
    memory_bytes=40 * GIB,
    limit_watts=400.0,
    limit_range_watts=(100.0, 400.0),
    idle_watts=55.0,
    update_seconds=0.100,
    window_seconds=0.025,
    average_window_seconds=0.025,
    counter_step_seconds=0.100,
    mig_mode=False,
)
H100 = replace(
    A100,
    name="NVIDIA H100 80GB HBM3",
    architecture=9,
    compute_capability=(9, 0),
    memory_bytes=80 * GIB,
    limit_watts=700.0,
    limit_range_watts=(200.0, 700.0),
    idle_watts=70.0,
    average_window_seconds=1.0,
    usage_is_average=True,
)


@dataclass(frozen=True)
class Script:
    """A host's GPUs. Its time zero is when it was made, unless told otherwise.

    Attributes:
        faults: of all functions, those of the library and those of every card.
    """

    gpus: tuple[Gpu, ...] = (Gpu(),)
    driver: str = "535.183.01"
    cuda: int = 12020
    faults: tuple[Fault, ...] = ()
    origin_monotonic_ns: int = field(default_factory=time.monotonic_ns)
    origin_realtime_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        gpus = tuple(
            replace(
                gpu,
                uuid=gpu.uuid or f"GPU-{0xA0 + i:02x}51e0de-0000-4000-8000-{i:012x}",
                serial=gpu.serial or f"{1320000000 + i}",
                pci_bus=7 + 8 * i if gpu.pci_bus is None else gpu.pci_bus,
            )
            for i, gpu in enumerate(self.gpus)
        )
        object.__setattr__(self, "gpus", gpus)

    def seconds(self, monotonic_seconds: float) -> float:
        """Turn ``time.monotonic()`` of any process on this host into the script's time."""
        return monotonic_seconds - self.origin_monotonic_ns / 1e9

    def energy_joules(self, index: int, start_monotonic: float, end_monotonic: float) -> float:
        """Return what GPU ``index`` truly used between two readings of ``time.monotonic()``."""
        return self.gpus[index].energy_joules(self.seconds(start_monotonic), self.seconds(end_monotonic))

    def mean_utilization(self, index: int, start_monotonic: float, end_monotonic: float) -> float:
        """Return its true mean utilization between two readings of ``time.monotonic()``."""
        return self.gpus[index].mean_utilization(self.seconds(start_monotonic), self.seconds(end_monotonic))
