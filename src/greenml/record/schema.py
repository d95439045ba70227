"""The run record: the types of run.json.

What was measured (``devices``, ``phases``), what was assumed (``factors``) and what follows from both
(``totals``) never share a field; the totals recompute from the rest.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCHEMA_VERSION = "2.0"
LONGEST_SECONDS = 1e10  # 300 years: what is longer is not a run's duration

Status = Literal["running", "completed", "failed", "interrupted", "killed"]
Basis = Literal["measured", "modelled", "assumed", "derived", "reported"]
TRAINING_PATHS = ("train", "training", "fit")  # how the phase that trains may be called; the first that there is counts


class Model(BaseModel):
    """A part of the record: unknown fields are refused, values are checked."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SourceRef(Model):
    """Where a figure comes from."""

    name: str
    url: str = ""
    published: str = ""


class Quantity(Model):
    """A figure with its interval, and how it is known. ``value`` None: not known, and ``why`` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    basis: Basis
    why: str = ""
    at_least: bool = Field(
        False, description="value is a lower bound: a device that was there was not measured, or only part of the time"
    )


class Factor(Model):
    """Something that was assumed: a value with its interval, unit, place, date and source."""

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


class FactorRange(Model):
    """A figure on which published sources disagree: the least and the most of them, and no value between."""

    low: float
    high: float
    unit: str
    code: str = Field("", description="what it is a figure of: a GPU model")
    count: float = Field(1, description="how many of these took part in the run")
    sources: list[SourceRef] = []
    note: str = ""


class IntensitySlotRecord(Model):
    """A stretch of wall time with one carbon intensity, and what each scope used in it."""

    start: datetime
    end: datetime
    grams_per_kwh: float
    it_energy_joules: dict[str, float] = Field({}, description="by scope, run or a phase's path; without those at 0")


class IntensityScope(Model):
    """What a scope's carbon intensity follows from: the energy in and outside of the series' hours, and the means."""

    covered_joules: float
    uncovered_joules: float
    covered_grams_per_kwh: float | None = Field(None, description="energy-weighted mean over the series' hours")
    grams_per_kwh: float | None = Field(None, description="with the filled hours: emissions / facility energy")
    low_grams_per_kwh: float | None = Field(
        None, description="with the source's uncertainty and that of what fills the other hours"
    )
    high_grams_per_kwh: float | None = None


class IntensitySeriesRecord(Model):
    """The carbon intensity over the hours of the run; emissions are the sum over slots of energy x intensity."""

    provider: str
    signal: Literal["average", "marginal"]
    area: str
    basis: str = ""
    source: SourceRef
    note: str = ""
    uncertainty_ratio: float = Field(0.0, description="relative uncertainty of the source (95 %): 0.1 is 10 %")
    energy_from: Literal["curves", "timeline", "even"] = Field(
        description="how the energy was told apart by slot: the traces' curves, the record's timeline, or evenly"
    )
    low_grams_per_kwh: float = Field(description="the least of the slots that the run lies in")
    high_grams_per_kwh: float = Field(description="the most of them")
    covered_seconds: float = Field(description="of the run, within the series' hours")
    uncovered_seconds: float
    covered_time_mean_grams_per_kwh: float = Field(description="mean over the covered time, whatever was used when")
    time_mean_grams_per_kwh: float = Field(description="mean over the run's time, with the filled hours")
    filled_grams_per_kwh: float | None = Field(None, description="what the hours outside of the series take")
    scopes: dict[str, IntensityScope] = Field(description="by scope: run, or a phase's path")
    slots: list[IntensitySlotRecord] = Field(description="in time order; bounded in number")

    @field_validator("scopes")
    @classmethod
    def _has_the_run(cls, scopes: dict[str, IntensityScope]) -> dict[str, IntensityScope]:
        if "run" not in scopes:
            raise ValueError("the scope 'run' is missing")
        return scopes


class Factors(Model):
    """Every factor that the totals use. None: not known, and no total was made from it."""

    carbon_intensity: Factor | None = None
    other_basis: Factor | None = Field(
        None,
        description="the yearly carbon intensity on the other basis: lifecycle beside direct, else direct",
    )
    intensity_series: IntensitySeriesRecord | None = Field(
        None, description="where the intensity is known over time; carbon_intensity is then its energy-weighted mean"
    )
    pue: Factor | None = None
    market_intensity: Factor | None = Field(None, description="of the user's contract; beside carbon_intensity")
    wue: Factor | None = Field(None, description="litres of water used on site per kWh of IT energy")
    embodied: list[FactorRange] = Field(default=[], description="grams CO2e that making one device emitted, by model")
    lifetime: FactorRange | None = Field(
        None, description="seconds over which a device's embodied carbon is shared out"
    )
    prices: dict[str, Factor] = Field(default_factory=dict, description="by tier, USD per node hour")
    tables_version: str = ""

    @property
    def marginal(self) -> bool:
        """Whether emissions are of one kWh more, and not to be compared with others."""
        return self.carbon_intensity is not None and self.carbon_intensity.basis == "marginal"

    def intensity(self, scope: str) -> Factor | None:
        """Return the carbon intensity of a scope: its own energy-weighted mean where it is known over time."""
        factor, series = self.carbon_intensity, self.intensity_series
        mean = series.scopes.get(scope) if series is not None else None
        if factor is None or factor.scope != "series" or mean is None or mean.grams_per_kwh is None:
            return factor
        ratio = mean.grams_per_kwh / factor.value if factor.value else 1.0
        low, high = mean.low_grams_per_kwh, mean.high_grams_per_kwh  # an older record has the run's alone
        interval = {
            "low": factor.low * ratio if low is None else low,
            "high": factor.high * ratio if high is None else high,
        }
        return factor.model_copy(update={"value": mean.grams_per_kwh, **interval})


class UncertaintyBudget(Model):
    """The uncertainty of a device's energy by source, each the half width of 95 %, in joules (docs/method.md)."""

    calibration_joules: float = 0.0
    quantisation_joules: float = 0.0
    unsampled_joules: float = 0.0
    interpolation_joules: float = Field(
        0.0, description="what may lie on the other side of the scope's edges, where no reading was made at them"
    )
    coverage_joules: float | None = Field(
        0.0,
        description="what it may have used more in time that no reading covers; null: its power limit is not known",
    )
    coverage_low_joules: float = Field(0.0, description="what it may have used less in gaps that were bridged")
    cross_check_low_joules: float = Field(
        0.0, description="how far integrated power lies below the energy counter, where they disagree"
    )
    cross_check_high_joules: float = Field(0.0, description="how far it lies above")


class Usage(Model):
    """What a device did over a scope (the run, or a phase). None is not measured."""

    energy_joules: float | None = None
    energy_low_joules: float | None = None
    energy_high_joules: float | None = None
    uncertainty: UncertaintyBudget | None = None
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
    calibration_ratio: float = 0.0
    step_seconds: float = 0.0
    sampled_ratio: float = 1.0
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


class AttemptRecord(Model):
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
    gpu_count: int | None = Field(None, description="GPUs that were there")
    gpu_measured_count: int | None = Field(None, description="GPUs whose energy is known for all of the time")
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


class ServingGroup(Model):
    """The requests of one model and kind."""

    model: str
    kind: str
    requests: dict[str, int] = Field(description="by status: completed, failed, cancelled")
    input_tokens: int | None = Field(None, description="of the requests whose tokens are known; None where none are")
    output_tokens: int | None = None
    energy_joules: Quantity
    emissions_grams: float | None = Field(None, description="PUE included, by the factors of the hour of each request")
    cost_usd: float | None = None


class ServingRecord(Model):
    """What the requests of an endpoint used. Requests and idle time add up to the energy of the devices."""

    requests: dict[str, int] = Field(description="by status")
    request_energy_joules: Quantity
    idle_energy_joules: Quantity = Field(description="of device time without a request in flight")
    seconds: float = Field(description="settled, over all machines")
    idle_seconds: float = Field(description="of them, without a request in flight")
    token_seconds: float = Field(description="of the others, shared among requests by tokens; the rest by running time")
    emissions_grams: float | None = Field(None, description="of requests, by the factors of the hour of each")
    idle_emissions_grams: float | None = None
    cost_usd: float | None = None
    idle_cost_usd: float | None = None
    joules_per_request: Quantity
    joules_per_token: Quantity = Field(description="of input and output, of the requests whose tokens are known")
    groups: list[ServingGroup] = []


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
    attempts: list[AttemptRecord] = []
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
    serving: ServingRecord | None = Field(None, description="of an endpoint: what its requests used")
    environment: Environment = Environment()
    timeline: Timeline | None = None
    notes: list[Note] = []

    def total(self, scope: str = "run") -> Totals | None:
        """Return the totals of the run or of a phase; None where there are none of it."""
        return next((total for total in self.totals if total.scope == scope), None)

    @property
    def windows(self) -> list[tuple[datetime, datetime]]:
        """When each attempt began and ended; of an import, which has none, the run."""
        stretches = [(attempt.started, attempt.seconds) for attempt in self.attempts]
        stretches = stretches or [(self.started, self.duration_seconds)]
        return [(started, started + timedelta(seconds=seconds)) for started, seconds in stretches]

    @property
    def training_path(self) -> str:
        """The path of the phase that trains; empty where there is none."""
        return next((path for path in TRAINING_PATHS if self.phase(path) is not None), "")

    def phase(self, path: str) -> PhaseRecord | None:
        """Return a phase by its path; None where there is none of it."""
        return next((phase for phase in self.phases if phase.path == path), None)


def gpus_never_answered(record: RunRecord) -> str:
    """Return the note that the GPUs' driver hung from the start, so that nobody knows which there are; else nothing."""
    hung = (note.text for note in record.notes if note.code == "sensor-hung")
    return next((text for text in hung if text.startswith("nvml never answered")), "")
