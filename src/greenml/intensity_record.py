"""What the run record holds of a carbon intensity that changes over time; ``record`` has the rest of run.json."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """A part of the record: unknown fields are refused, values are checked."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SourceRef(_Part):
    """Where a figure comes from."""

    name: str
    url: str = ""
    published: str = ""


class IntensitySlotRecord(_Part):
    """A stretch of wall time with one carbon intensity, and what each scope used in it."""

    start: datetime
    end: datetime
    grams_per_kwh: float
    it_energy_joules: dict[str, float] = Field({}, description="by scope, run or a phase's path; without those at 0")


class IntensityScope(_Part):
    """What a scope's carbon intensity follows from: the energy in and outside of the course's hours, and the means."""

    covered_joules: float
    uncovered_joules: float
    covered_grams_per_kwh: float | None = Field(None, description="energy-weighted mean over the course's hours")
    grams_per_kwh: float | None = Field(None, description="with the filled hours: emissions / facility energy")
    low_grams_per_kwh: float | None = Field(
        None, description="the same, with the source's doubt and that of what fills"
    )
    high_grams_per_kwh: float | None = None


class IntensityCourseRecord(_Part):
    """The carbon intensity over the hours of the run; emissions are the sum over slots of energy x intensity."""

    provider: str
    signal: Literal["average", "marginal"]
    area: str
    basis: str = ""
    source: SourceRef
    note: str = ""
    doubt_ratio: float = Field(0.0, description="how far the source itself may be off: 0.1 is 10 %")
    energy_from: Literal["curves", "timeline", "even"] = Field(
        description="how the energy was told apart by slot: the traces' curves, the record's timeline, or evenly"
    )
    low_grams_per_kwh: float = Field(description="the least of the slots that the run lies in")
    high_grams_per_kwh: float = Field(description="the most of them")
    covered_seconds: float = Field(description="of the run, within the course's hours")
    uncovered_seconds: float
    covered_time_mean_grams_per_kwh: float = Field(description="mean over the covered time, whatever was used when")
    time_mean_grams_per_kwh: float = Field(description="mean over the run's time, with the filled hours")
    filled_grams_per_kwh: float | None = Field(None, description="what the hours outside of the course take")
    scopes: dict[str, IntensityScope] = Field(description="by scope: run, or a phase's path")
    slots: list[IntensitySlotRecord] = Field(description="in time order; bounded in number")
