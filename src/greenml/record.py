"""The run record: the types of run.json.

What was measured (``devices``, ``phases``), what was assumed (``factors``) and what follows from both
(``totals``) never share a field; the totals recompute from the rest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenml.intensity_record import IntensityCourseRecord
from greenml.intensity_record import SourceRef as SourceRef  # noqa: PLC0414  it is one of this module's types

SCHEMA_VERSION = "1.0"
LONGEST_SECONDS = 1e10  # 300 years: what is longer is not a run's duration

Status = Literal["running", "completed", "failed", "interrupted", "killed"]
Basis = Literal["measured", "modelled", "assumed", "derived", "reported"]
TRAINING_PATHS = ("train", "training", "fit")  # how the phase that trains may be called; the first that there is counts


class Model(BaseModel):
    """A part of the record: unknown fields are refused, values are checked."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Quantity(Model):
    """A figure with its band, and how it is known. ``value`` None: not known, and ``why`` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    basis: Basis
    why: str = ""


class Factor(Model):
    """Something that was assumed: a value with its band, unit, place, date and source."""

    value: float
    low: float
    high: float
    unit: str
    scope: str = Field(description="the level it was found at: cloud_region, country, provider, sku, given ...")
    code: str = Field("", description="the place or thing at that level: azure/westus2, NWPP, ND40rs_v2 in westus2")
    year: int | None = None
    basis: str = Field("", description="of a carbon intensity: lifecycle, direct, mixed")
    derived: bool = False
    assumed: bool = False
    source: SourceRef
    note: str = ""


class Spread(Model):
    """A figure on which published sources disagree: the least and the most of them, and no value between."""

    low: float
    high: float
    unit: str
    code: str = Field("", description="what it is a figure of: a GPU model")
    count: float = Field(1, description="how many of these took part in the run")
    sources: list[SourceRef] = []
    note: str = ""


class Factors(Model):
    """Every factor that the totals use. None: not known, and no total was made from it."""

    carbon_intensity: Factor | None = None
    intensity_course: IntensityCourseRecord | None = Field(
        None, description="where the intensity is known over time; carbon_intensity is then its energy-weighted mean"
    )
    pue: Factor | None = None
    market_intensity: Factor | None = Field(None, description="of the user's contract; beside carbon_intensity")
    wue: Factor | None = Field(None, description="litres of water used on site per kWh of IT energy")
    embodied: list[Spread] = Field(default=[], description="grams CO2e that making one device emitted, by model")
    lifetime: Spread | None = Field(None, description="seconds over which a device's embodied carbon is shared out")
    prices: dict[str, Factor] = Field(default_factory=dict, description="by tier, USD per node hour")
    tables_version: str = ""

    @property
    def marginal(self) -> bool:
        """Whether emissions are of one kWh more, and not to be compared with others."""
        return self.carbon_intensity is not None and self.carbon_intensity.basis == "marginal"

    def intensity(self, scope: str) -> Factor | None:
        """Return the carbon intensity of a scope: its own energy-weighted mean where it is known over time."""
        factor, course = self.carbon_intensity, self.intensity_course
        own = course.scopes.get(scope) if course is not None else None
        if factor is None or factor.scope != "course" or own is None or own.grams_per_kwh is None:
            return factor
        ratio = own.grams_per_kwh / factor.value if factor.value else 1.0
        low, high = own.low_grams_per_kwh, own.high_grams_per_kwh  # an older record has the run's alone
        band = {
            "low": factor.low * ratio if low is None else low,
            "high": factor.high * ratio if high is None else high,
        }
        return factor.model_copy(update={"value": own.grams_per_kwh, **band})


class Doubts(Model):
    """What the energy of a device may be off by, in joules, source by source (docs/method.md)."""

    gain_joules: float = 0.0
    edge_joules: float = 0.0
    hidden_joules: float = 0.0
    gap_joules: float = 0.0


class Usage(Model):
    """What a device did over a scope (the run, or a phase). None is not measured."""

    energy_joules: float | None = None
    energy_low_joules: float | None = None
    energy_high_joules: float | None = None
    doubts: Doubts | None = None
    why: str = Field("", description="where energy_joules is None: the reason")
    covered_seconds: float | None = Field(None, description="seconds of the scope for which the energy is known")
    power_mean_watts: float | None = None
    power_max_watts: float | None = None
    utilization_ratio: float | None = Field(None, description="time-weighted mean, 0 to 1")
    memory_utilization_ratio: float | None = None
    memory_mean_bytes: float | None = None
    memory_max_bytes: float | None = None


class DeviceRecord(Model):
    """A device and what it did over the whole run."""

    id: str
    kind: Literal["gpu", "cpu", "dram", "host", "process"]
    name: str
    host: str
    method: Literal["counter", "gauge", "estimate", "reported"] | None
    sensor: str
    count: int = Field(1, description="how many devices an imported figure stands for")
    gain_ratio: float = 0.0
    step_seconds: float = 0.0
    seen_ratio: float = 1.0
    lag_seconds: float = Field(0.0, description="how old its readings of energy or power are, on the mean; allowed for")
    share_ratio: float = 1.0
    power_limit_watts: float | None = None
    memory_total_bytes: int | None = None
    detail: dict[str, str] = Field(default_factory=dict)
    note: str = ""
    usage: Usage


class PhaseRecord(Model):
    """A phase: all its stretches together."""

    path: str = Field(description="nested with slashes: train/eval")
    count: int
    seconds: float
    spans: list[tuple[float, float]] = Field(description="seconds since the start of the run; bounded in number")
    usage: dict[str, Usage] = Field(description="by device id")


class Attempt(Model):
    """One start of the run; a preempted and resumed run has several."""

    number: int
    started: datetime
    ended: datetime | None
    seconds: float
    status: Status
    error: str | None = None
    hosts: list[str] = []
    processes: int = 1
    launcher: str = ""


class Host(Model):
    """A machine that took part."""

    name: str
    cpu_model: str = ""
    cpu_count: int | None = None
    memory_bytes: int | None = None
    os: str = ""
    cloud: str = ""


class PlaceRecord(Model):
    """Where it ran and on what, and how that is known."""

    cloud: str = ""
    region: str = ""
    display_name: str = ""
    billing_name: str = ""
    country_iso3: str = ""
    country_name: str = ""
    state: str = ""
    grid_zone: str = ""
    egrid_subregion: str = ""
    sku: str = ""
    sku_label: str = ""
    tier: str | None = None
    nodes: int = 1
    known_from: dict[str, str] = Field(
        default_factory=dict, description="setting: argument, environment, file, DMI ..."
    )


class Totals(Model):
    """What a scope used, emitted and cost. Recomputes from usage and factors."""

    scope: str = Field(description="run, or a phase's path")
    seconds: float
    gpu_energy_joules: Quantity
    cpu_energy_joules: Quantity
    dram_energy_joules: Quantity
    it_energy_joules: Quantity
    facility_energy_joules: Quantity
    emissions_grams: Quantity
    cost_usd: dict[str, Quantity] = Field(description="by tier")
    market_emissions_grams: Quantity | None = Field(
        None, description="market-based, with the contract's figure; None where none was given"
    )
    water_liters: Quantity | None = Field(None, description="used on site; not that of the power plants")
    embodied_grams: Quantity | None = Field(
        None, description="share of the devices' making: a range from low to high, without a value"
    )
    gpu_utilization_ratio: float | None = None
    cpu_utilization_ratio: float | None = None
    gpu_memory_mean_bytes: float | None = Field(None, description="mean over the used GPUs of each one's mean")
    gpu_memory_peak_bytes: float | None = Field(None, description="mean over the used GPUs of each one's peak")
    host_memory_peak_bytes: float | None = None


class SciScore(Model):
    """Software carbon intensity, (E x I + M) / R, in grams CO2e per functional unit (ISO/IEC 21031:2024)."""

    scope: str = Field(description="what of the run is counted: the training phase")
    unit: str = Field(description="the functional unit: 1,000 samples, million tokens, epoch")
    units: float = Field(description="R: how many of them the scope made")
    operational_grams: Quantity = Field(description="E x I / R, location-based, PUE included")
    embodied_grams: Quantity = Field(description="M / R: a range, without a value")
    total_grams: Quantity = Field(description="a range where M is one; not known where M is not")


class ReportedEmissions(Model):
    """A row of figures that another tool computed, taken as it is: never scaled, never rounded."""

    tool: str
    scope: str
    file: str
    row: dict[str, str] = Field(description="the row's cells as text, as the tool wrote them")


class Series(Model):
    """One device over the timeline; a value a step, None where nothing was read."""

    device: str
    power_watts: list[float | None] = []
    utilization_ratio: list[float | None] = []
    memory_bytes: list[float | None] = []


class Timeline(Model):
    """A bounded picture of the run: ``step_seconds`` wide bins from the start of the run."""

    step_seconds: float
    bins: int
    series: list[Series] = []


class Note(Model):
    """Something a reader of the figures must know."""

    code: str
    text: str
    seconds: float | None = Field(None, description="since the start of the run")


class Environment(Model):
    """What ran."""

    python: str = ""
    os: str = ""
    packages: dict[str, str] = {}
    driver: str = ""
    git_commit: str = ""
    git_dirty: bool | None = None
    command: list[str] = Field(default=[], description="secrets masked")
    launcher: str = ""
    world_size: int | None = None
    jobs: dict[str, str] = Field(default={}, description="scheduler's names: azureml_run, slurm_job ...")


class RunRecord(Model):
    """A training run: what it used, what was assumed, what follows."""

    schema_version: str = SCHEMA_VERSION
    greenml_version: str
    run_id: str
    name: str = ""
    status: Status
    error: str | None = None
    started: datetime
    ended: datetime | None
    duration_seconds: float = Field(
        ge=0, le=LONGEST_SECONDS, description="the clock of every attempt, summed: what is billed"
    )
    attempts: list[Attempt] = []
    hosts: list[Host] = []
    place: PlaceRecord
    devices: list[DeviceRecord] = []
    phases: list[PhaseRecord] = []
    factors: Factors
    totals: list[Totals] = Field(default=[], description="of the run first, then of each phase")
    reported: list[ReportedEmissions] = []
    params: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    trainer: dict[str, Any] = Field(default={}, description="trainer_state, training_args, ds_config as found")
    derived: dict[str, float] = Field(
        default={},
        description="of the training phase: samples_per_second, joules_per_token, emissions_grams_per_epoch ...",
    )
    sci: list[SciScore] = Field(default=[], description="one for each functional unit whose count is known")
    environment: Environment = Environment()
    timeline: Timeline | None = None
    notes: list[Note] = []

    def total(self, scope: str = "run") -> Totals | None:
        """Return the totals of the run or of a phase; None where there are none of it."""
        return next((one for one in self.totals if one.scope == scope), None)

    @property
    def training_path(self) -> str:
        """The path of the phase that trains; empty where there is none."""
        return next((path for path in TRAINING_PATHS if self.phase(path) is not None), "")

    def phase(self, path: str) -> PhaseRecord | None:
        """Return a phase by its path; None where there is none of it."""
        return next((one for one in self.phases if one.path == path), None)
