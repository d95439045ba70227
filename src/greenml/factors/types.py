"""The plain types of facts from outside, each with its source: places, prices, PUE, carbon intensity, SKUs.

Names end in their unit. ``None`` is not known; it is never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


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
        grams_per_kwh, low, high: the value and its interval.
        scope: the level it was found at: cloud_region, egrid_subregion, grid_zone, us_state, country, world, given.
        code: the place at that level, for example ``azure/westus2``, ``NWPP``, ``USA``.
        year: the year of the data; None where it was given by the user.
        basis: lifecycle, direct, mixed, or "" where not known.
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
class IntensitySlot:
    """A stretch of time with one carbon intensity; UTC, ``end`` not included."""

    start: datetime
    end: datetime
    grams_per_kwh: float


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """The carbon intensity of a place over time, from one provider: slots in time order, apart; with gaps or without.

    Attributes:
        signal: of all power in the grid, or of what would follow one more kWh; never added to each other or compared.
        uncertainty_ratio: how far the source itself may be off, beside its range over time: 0.1 is 10 %.
    """

    provider: str
    signal: Literal["average", "marginal"]
    area: str
    slots: tuple[IntensitySlot, ...]
    source: Source
    basis: str = ""
    note: str = ""
    uncertainty_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars an hour of one node of a SKU in a region.

    Attributes:
        usd_per_hour, low, high: the value and its interval (equal for a list price).
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
        gpu_model, gpu_nvml_name: ``V100``, and as the driver names it: ``Tesla V100-SXM2-32GB``; empty where not known.
        cpu_model: alternatives joined by `` / ``.
        note: what a reader must know, such as that the number of GPUs is derived; else empty.
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
    gpu_nvml_name: str = ""
    note: str = ""
