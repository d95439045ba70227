"""The run record: the types of run.json.

What was measured (``devices``, ``phases``), what was assumed (``factors``) and what follows from both
(``totals``) never share a field; the totals recompute from the rest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.0"

Status = Literal["running", "completed", "failed", "interrupted", "killed"]
Basis = Literal["measured", "modelled", "assumed", "derived", "reported"]


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


class SourceRef(Model):
    """Where a figure comes from."""

    name: str
    url: str = ""
    published: str = ""


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


class Factors(Model):
    """Every factor that the totals use. None: not known, and no total was made from it."""

    carbon_intensity: Factor | None = None
    pue: Factor | None = None
    prices: dict[str, Factor] = Field(default_factory=dict, description="by tier, USD per node hour")
    tables_version: str = ""


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
    gpu_utilization_ratio: float | None = None
    cpu_utilization_ratio: float | None = None
    gpu_memory_mean_bytes: float | None = Field(None, description="mean over the used GPUs of each one's mean")
    gpu_memory_peak_bytes: float | None = Field(None, description="mean over the used GPUs of each one's peak")
    host_memory_peak_bytes: float | None = None


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
    duration_seconds: float = Field(description="the clock of every attempt, summed: what is billed")
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
    environment: Environment = Environment()
    timeline: Timeline | None = None
    notes: list[Note] = []

    def total(self, scope: str = "run") -> Totals | None:
        """Return the totals of the run or of a phase; None where there are none of it."""
        return next((one for one in self.totals if one.scope == scope), None)

    def phase(self, path: str) -> PhaseRecord | None:
        """Return a phase by its path; None where there is none of it."""
        return next((one for one in self.phases if one.path == path), None)
