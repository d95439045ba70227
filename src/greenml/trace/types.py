"""The plain types of what is measured, and the Sensor protocol.

Names end in their unit. ``None`` is not known; it is never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from greenml.factors.types import IntensitySeries

Kind = Literal["gpu", "cpu", "dram", "host", "process"]
Method = Literal["counter", "gauge", "estimate"]


@dataclass(frozen=True, slots=True)
class Device:
    """One thing whose energy is counted exactly once.

    Attributes:
        kind: what it is. ``host`` and ``process`` carry utilization and memory only.
        id: survives a reboot: a GPU's UUID, ``package-0``.
        name: the vendor's name of it.
        method: how its energy is known, declared by the sensor; None where it has none.
        sensor: the sensor's module: ``nvml``, ``rapl``, ``estimate``, ``host``.
        calibration_ratio: uncertainty of the sensor's calibration, of the energy: 0.05 is ±5 % (95 %).
        step_seconds: how often the hardware brings its counter or gauge up to date.
        sampled_ratio: share of the time that the power gauge samples (an A100 averages 25 ms of each 100 ms: 0.25).
        lag_seconds: how old what it tells of energy or power is, on the mean.
        share_ratio: share of the device that belongs to this run (a MIG slice, a VM's cores), 1 for all.
        power_limit_watts: what it can draw at the most, where known.
        memory_total_bytes: its memory, where it has any.
        detail: driver, architecture, index, PCI address and the like, as text. ``scope`` "module" and ``includes``
            "cpu dram": a superchip's counter, which those are part of and not counted beside; ``counted_in``: the id of
            the device whose counter has this one's energy too.
        note: what a reader of the report must know of how it is measured, else empty.
    """

    kind: Kind
    id: str
    name: str
    method: Method | None
    sensor: str = ""
    calibration_ratio: float = 0.0
    step_seconds: float = 0.0
    sampled_ratio: float = 1.0
    lag_seconds: float = 0.0
    share_ratio: float = 1.0
    power_limit_watts: float | None = None
    memory_total_bytes: int | None = None
    detail: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __hash__(self) -> int:  # each second, of each device: not of every field
        return hash(self.id)


@dataclass(slots=True)  # not frozen: made each second of each device, and a frozen one takes three times as long
class Reading:
    """What a sensor knows now. ``None``: it cannot tell (never 0).

    Attributes:
        energy_joules: since any fixed moment, never falling but for a reset of the hardware.
        power_watts: now, as the hardware averages it.
        power_samples: (monotonic seconds, watts) that the driver buffered since the last read, in time order.
            Where given, it carries the power and ``power_watts`` is only its newest value.
        utilization_ratio: 0 to 1, over the time since it was last known where the hardware can tell.
        memory_bytes: in use now.
        memory_utilization_ratio: share of the time the memory was read or written, 0 to 1.
        utilization_samples, memory_utilization_samples: (monotonic seconds, ratio) that the driver kept since the last
            read. Where given, they carry the utilization.
        power_follows: the power of the time up to now will come in the ``power_samples`` of a later reading;
            ``power_watts`` is what it is now and is not integrated.
        utilization_follows: so will the utilization.
    """

    energy_joules: float | None = None
    power_watts: float | None = None
    power_samples: Sequence[tuple[float, float]] = ()
    utilization_ratio: float | None = None
    memory_bytes: int | None = None
    memory_utilization_ratio: float | None = None
    utilization_samples: Sequence[tuple[float, float]] = ()
    memory_utilization_samples: Sequence[tuple[float, float]] = ()
    power_follows: bool = False
    utilization_follows: bool = False


class Sensor(Protocol):
    """Reads one device. Opened by its module's ``probe()``, used from one thread.

    A sensor that reads some figures more rarely than others may have a method ``catch_up()``: the next read is at an
    edge of a phase or of the run, and takes in all of them. One whose figures stay right however far apart it is read
    may have ``cumulative = True``: it is read less often in a run that has gone on for some minutes.
    """

    @property
    def device(self) -> Device:
        """What it reads."""

    @property
    def interval_seconds(self) -> float:
        """How often it must be read for its energy to be right."""

    def read(self) -> Reading:
        """Read it now.

        Raises:
            SensorError: it cannot be read now; the next tick tries again.
            SensorLostError: it will not answer again.
        """

    def close(self) -> None:
        """Give back what it holds; never raises."""


def no_pids() -> Iterable[int]:
    """Name no process beyond the calling one."""
    return ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sensor module's ``probe()`` is asked for.

    Attributes:
        gpus: None for those that CUDA would show this process, ``"all"`` for the node's, or a list of indices,
            UUIDs, UUID prefixes or MIG UUIDs.
        measured: kinds that another sensor already measures here; fallbacks leave them alone.
        pids: the processes of the run on this host, for ``host.py``.
    """

    gpus: str | Sequence[int | str] | None = None
    measured: frozenset[Kind] = frozenset()
    pids: Callable[[], Iterable[int]] = no_pids


@dataclass(slots=True)  # not frozen, as above
class Rollup:
    """One device over a short span of time; what the trace keeps.

    Attributes:
        start_seconds, end_seconds: monotonic clock of its host.
        energy_joules: the counter's reading at the end.
        power_joules, power_seconds: power integrated over the part of the span that readings cover, and its length.
        power_max_watts, memory_max_bytes: the largest reading.
        power_end_seconds: when the last power was read, or dated by the driver; None is the end.
        power_last_watts: that power.
        swing_joules: half the sum of |change of power| x its spacing, for the uncertainty of part-time gauges.
        utilization_ratio, memory_utilization_ratio, memory_mean_bytes: time-weighted means.
        late: what a driver's samples tell of earlier rollups that were written without it: power and utilization.
    """

    start_seconds: float
    end_seconds: float
    energy_joules: float | None = None
    power_joules: float | None = None
    power_seconds: float = 0.0
    power_max_watts: float | None = None
    swing_joules: float = 0.0
    utilization_ratio: float | None = None
    memory_utilization_ratio: float | None = None
    memory_mean_bytes: float | None = None
    memory_max_bytes: int | None = None
    power_end_seconds: float | None = None
    power_last_watts: float | None = None
    late: Sequence[Rollup] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a phase. ``path`` nests with slashes: ``train/eval``.

    Where a long trace joined several into one, ``count`` says how many, ``seconds`` how long they were without the
    pauses between them, ``joules`` what each device (by id) used in them, as far as this process measured it, and
    ``interpolation_joules`` by how much each of these may be off because no reading was made at their edges.
    """

    path: str
    start_seconds: float
    end_seconds: float | None
    count: int = 1
    seconds: float | None = None
    joules: Mapping[str, float] | None = None
    interpolation_joules: Mapping[str, float] | None = None


@dataclass(slots=True)
class Trace:
    """One process's trace file, read back. Times are the monotonic clock of its host.

    Attributes:
        header: run id, attempt, host, process, rank, clock anchors, settings, environment.
        devices, rollups: by key in the file; rollups in time order.
        spans: phases, in order of their start.
        notes: (monotonic seconds, code, text).
        metrics, params: what the run logged; a later value replaces an earlier one.
        facts: what the process learned: ``environment``, ``place``, ``trainer``, ``counts``, ``disk``.
        intensities: carbon intensity series that a provider answered while it ran, in the order of the answers.
        progress: (monotonic seconds, what was done so far): ``step`` of the whole training, or counts by unit.
        logged: (monotonic seconds, metrics) of each time that metrics were logged.
        saved: (monotonic seconds, step) of each checkpoint that was saved.
        so_far: the status if it ends without another word.
        last_seconds: time of the last line, or the end of the run where that was earlier.
        status: completed, failed, interrupted; None while it runs or if it was killed. error: of a failed run.
        alive: True while its process holds the file.
        damaged_lines: how many were left out, or lost a part, because they could not be read.
    """

    path: str
    header: Mapping[str, Any]
    devices: dict[str, Device] = field(default_factory=dict)
    rollups: dict[str, list[Rollup]] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    notes: list[tuple[float, str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    intensities: list[IntensitySeries] = field(default_factory=list)
    progress: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)
    logged: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    saved: list[tuple[float, int]] = field(default_factory=list)
    last_seconds: float = 0.0
    status: str | None = None
    so_far: str | None = None
    error: str | None = None
    alive: bool = False
    damaged_lines: int = 0
