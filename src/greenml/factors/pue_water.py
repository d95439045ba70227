"""PUE (facility energy over IT energy) and WUE (water over IT energy) of the data center, from the bundled tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from greenml.errors import FactorError
from greenml.factors import tables
from greenml.factors.types import Place, Pue, Source

DESIGN_YEAR = "2022"
PROVIDERS = {"ovhcloud": "ovh"}  # clouds that the table of fleet averages names otherwise
REPORTED = "gsf-real-time-cloud"  # of a region's sources the one that its PUE is from


@dataclass(frozen=True, slots=True)
class Wue:
    """Water usage effectiveness: litres of water that a data center uses on its site per kWh of IT energy."""

    liters_per_kwh: float
    year: int
    source: Source
    note: str = ""
    scope: str = "region"  # or fleet


def pue(place: Place, when: datetime) -> Pue:
    """Return the PUE at a place: the region's own, else the provider's fleet average, else 1.0 and a note.

    A region's figure is the last year that the provider reported, without an interval of its own. A fleet average is
    that of the last year not after the run, else of the first after it; its interval is the range of that provider's
    regions. Without either, the ratio is 1.0, so that a total is IT energy only, and the interval reaches to the survey
    average of data centres on premise in that year.

    Args:
        place: as ``places.find`` gives it; without a cloud it has no PUE.
        when: the run's time, UTC.

    Raises:
        FactorError: the bundled tables are not complete.

    Source: ISO/IEC 30134-2; the figures' own in ``greenml/factors/data/SOURCES.md``.
    """
    regions = [row for row in tables.rows("regions") if row["cloud"] == place.cloud and row["pue"]]
    for row in regions:
        if row["region"] == place.region:
            return _region(row, when)
    fleet = _fleet(place.cloud, "pue", when)
    if fleet is None:
        return _none(when)
    ratio, year = float(fleet["pue"]), int(fleet["year"])
    ratios = [ratio, *(float(region["pue"]) for region in regions)]
    notes = [f"no PUE of the region: the fleet average of {fleet['scope']}", *_year_notes(year, when)]
    source = tables.source(fleet["source"], fleet["source_date"])
    return Pue(ratio, min(ratios), max(ratios), "provider", year, source, "; ".join(notes))


def wue(place: Place, when: datetime) -> Wue:
    """Return the WUE of a cloud's region: the last that the provider reported for it, else its fleet average.

    It counts the water used on the site, for cooling; not that of the power plants.

    Args:
        place: as ``places.find`` gives it.
        when: the run's time, UTC.

    Raises:
        FactorError: the provider reports none for the place.

    Source: ISO/IEC 30134-9; the figures' own in ``greenml/factors/data/SOURCES.md``.
    """
    for row in tables.rows("regions"):
        if (row["cloud"], row["region"]) == (place.cloud, place.region) and row["wue_l_per_kwh"]:
            year = int(row["wue_year"])
            if row["wue_scope"] == "fleet":
                break
            source = tables.source(REPORTED, row["source_date"])
            return Wue(float(row["wue_l_per_kwh"]), year, source, "; ".join(_region_notes(row["cloud"], year, when)))
    fleet = _fleet(place.cloud, "wue_l_per_kwh", when)
    if fleet is not None:
        year, source = int(fleet["year"]), tables.source(fleet["source"], fleet["source_date"])
        notes = [f"no figure of the region: the fleet average of {fleet['scope']}", *_year_notes(year, when)]
        return Wue(float(fleet["wue_l_per_kwh"]), year, source, "; ".join(notes), "fleet")
    if not place.region:
        raise FactorError("no cloud region is known, and only those report their water")
    raise FactorError(f"{place.cloud} reports no water usage (WUE) for {place.region}")


def _fleet(provider: str, column: str, when: datetime) -> tables.Row | None:
    """Return a provider's row of the last year not after a run, else of the first after it, with a figure."""
    provider, year = PROVIDERS.get(provider, provider), when.astimezone(timezone.utc).year
    rows = [row for row in tables.rows("provider_defaults") if row["provider"] == provider and row[column]]
    before = [row for row in rows if int(row["year"]) <= year]
    if before:
        return max(before, key=lambda row: row["year"])
    return min(rows, key=lambda row: row["year"], default=None)


def _region_notes(cloud: str, year: int, when: datetime) -> list[str]:
    design = ["a design value, if the region opened after 2022"] if (cloud, str(year)) == ("azure", DESIGN_YEAR) else []
    return [*design, *_year_notes(year, when)]


def _year_notes(year: int, when: datetime) -> list[str]:
    """Say how far a figure's year is from the run's, where it is more than one."""
    run_year = when.astimezone(timezone.utc).year
    if abs(year - run_year) <= 1:
        return []
    return [f"figure of {year}, {abs(year - run_year)} years {'after' if year > run_year else 'before'} the run"]


def _region(row: tables.Row, when: datetime) -> Pue:
    ratio, year = float(row["pue"]), int(row["pue_year"])
    return Pue(
        ratio,
        ratio,
        ratio,
        "region",
        year,
        tables.source(REPORTED, row["source_date"]),
        note="; ".join(_region_notes(row["cloud"], year, when)),
    )


def _none(when: datetime) -> Pue:
    survey = _fleet("on_premise", "pue", when)
    if survey is None:
        raise FactorError("no on-premise PUE in the bundled tables; reinstall greenml")
    return Pue(
        ratio=1.0,
        low=1.0,
        high=float(survey["pue"]),
        scope="none",
        year=None,
        source=tables.source(survey["source"], survey["source_date"]),
        note="PUE is not known; 1.0 was used, so the figure is IT energy only (survey average on premise: "
        f"{survey['pue']})",
    )
