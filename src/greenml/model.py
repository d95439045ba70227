"""Every plain type that travels along the line, and the Sensor protocol.

Names end in their unit. ``None`` is not known; it is never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
        gain_ratio: doubt of the sensor's gain: 0.05 is ±5 %.
        step_seconds: how often the hardware brings its counter or gauge up to date.
        seen_ratio: share of the time that the power gauge sees (an A100 averages 25 ms of each 100 ms: 0.25).
        share_ratio: share of the device that belongs to this run (a MIG slice, a VM's cores), 1 for all.
        power_limit_watts: what it can draw at the most, where known.
        memory_total_bytes: its memory, where it has any.
        detail: driver, architecture, index, PCI address and the like, as text.
        note: what a reader of the report must know of how it is measured, else empty.
    """

    kind: Kind
    id: str
    name: str
    method: Method | None
    sensor: str = ""
    gain_ratio: float = 0.0
    step_seconds: float = 0.0
    seen_ratio: float = 1.0
    share_ratio: float = 1.0
    power_limit_watts: float | None = None
    memory_total_bytes: int | None = None
    detail: Mapping[str, str] = field(default_factory=dict, hash=False)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a sensor knows now. ``None``: it cannot tell (never 0).

    Attributes:
        energy_joules: since any fixed moment, never falling but for a reset of the hardware.
        power_watts: now, as the hardware averages it.
        power_samples: (monotonic seconds, watts) that the driver buffered since the last read, in time order.
            Where given, it carries the power and ``power_watts`` is only its newest value.
        utilization_ratio: 0 to 1, over the time since the last read where the hardware can tell.
        memory_bytes: in use now.
        memory_utilization_ratio: share of the time the memory was read or written, 0 to 1.
    """

    energy_joules: float | None = None
    power_watts: float | None = None
    power_samples: Sequence[tuple[float, float]] = ()
    utilization_ratio: float | None = None
    memory_bytes: int | None = None
    memory_utilization_ratio: float | None = None


class Sensor(Protocol):
    """Reads one device. Opened by its module's ``probe()``, used from one thread."""

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


@dataclass(frozen=True, slots=True)
class Rollup:
    """One device over a short span of time; what the trace keeps.

    Attributes:
        start_seconds, end_seconds: monotonic clock of its host.
        energy_joules: the counter's reading at the end.
        power_joules: power integrated over the part of the span that readings cover.
        power_seconds: how long that part is.
        power_max_watts: largest power reading.
        swing_joules: half the sum of |change of power| x its spacing; feeds the doubt of part-time gauges.
        utilization_ratio: time-weighted mean.
        memory_utilization_ratio: time-weighted mean.
        memory_mean_bytes: time-weighted mean.
        memory_max_bytes: peak.
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


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a phase. ``path`` nests with slashes: ``train/eval``.

    Where a long trace joined several into one, ``count`` says how many, ``seconds`` how long they were without the
    pauses between them, and ``joules`` what each device (by id) used in them, as far as this process measured it.
    """

    path: str
    start_seconds: float
    end_seconds: float | None
    count: int = 1
    seconds: float | None = None
    joules: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure comes from, and when it was published."""

    name: str
    url: str = ""
    published: str = ""


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """Grams of CO2 (equivalent) a kWh for a place, with the spread it may have.

    Attributes:
        grams_per_kwh, low, high: the value and its band.
        scope: the level it was found at: cloud_region, egrid_subregion, grid_zone, us_state, country, world, given.
        code: the place at that level, for example ``azure/westus2``, ``NWPP``, ``USA``.
        year: the year of the data; None where it was given by the user.
        basis: lifecycle, direct, mixed, or "" where not known.
        source: who published it.
        assumed: True where the place itself was not known.
        note: what a reader must know, else empty.
    """

    grams_per_kwh: float
    low: float
    high: float
    scope: str
    code: str
    year: int | None
    basis: str
    source: Source
    assumed: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars an hour of one node of a SKU in a region.

    Attributes:
        usd_per_hour, low, high: the value and its band (equal for a list price).
        tier: ``dedicated`` (on demand), ``low_priority``, ``spot``.
        as_of: ISO date of the price.
        derived: True where it follows from another price by a rule, which ``note`` says.
    """

    usd_per_hour: float
    low: float
    high: float
    tier: str
    sku: str
    region: str
    as_of: str
    source: Source
    derived: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pue:
    """Power usage effectiveness: facility energy over IT energy."""

    ratio: float
    low: float
    high: float
    scope: str
    year: int | None
    source: Source
    note: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run happens, as far as known. Empty strings are not known.

    Attributes:
        cloud: azure, aws, gcp or "".
        region: the cloud's code: ``westus2``.
        display_name: as people know it: ``West US 2``.
        billing_name: as the price list spells it: ``US West 2``.
        country_iso3, country_name, state: ``USA``, ``United States``, ``Washington``.
        grid_zone, egrid_subregion: ``US-NW-GCPD``, ``NWPP``.
    """

    cloud: str = ""
    region: str = ""
    display_name: str = ""
    billing_name: str = ""
    country_iso3: str = ""
    country_name: str = ""
    state: str = ""
    grid_zone: str = ""
    egrid_subregion: str = ""


@dataclass(frozen=True, slots=True)
class Sku:
    """A cloud's machine size.

    Attributes:
        name: ``ND40rs_v2``.
        arm_name: ``Standard_ND40rs_v2`` (Azure), else the name again.
        label: ``8 X V100 32GB``.
    """

    cloud: str
    name: str
    arm_name: str
    label: str
    vcpus: float | None
    memory_gib: float | None
    gpu_model: str
    gpu_count: float | None
    gpu_memory_gb: float | None
    cpu_model: str
    source: Source


@dataclass(slots=True)
class Trace:
    """One process's trace file, read back. Times are the monotonic clock of its host.

    Attributes:
        header: run id, attempt, host, process, rank, clock anchors, settings, environment.
        devices: by key in the file.
        rollups: by key in the file, in time order.
        spans: phases, in order of their start.
        notes: (monotonic seconds, code, text).
        metrics, params: what the run logged; a later value replaces an earlier one.
        found: what the process found out: ``environment``, ``place``, ``trainer``, ``counts``.
        so_far: the status if it ends without another word.
        last_seconds: time of the last line.
        status: completed, failed, interrupted; None while it runs or if it was killed.
        error: of a failed run.
        alive: True while its process holds the file.
    """

    path: str
    header: Mapping[str, Any]
    devices: dict[str, Device] = field(default_factory=dict)
    rollups: dict[str, list[Rollup]] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    notes: list[tuple[float, str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    last_seconds: float = 0.0
    status: str | None = None
    so_far: str | None = None
    error: str | None = None
    alive: bool = False
