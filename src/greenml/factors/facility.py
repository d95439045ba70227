"""PUE (facility energy over IT energy) and WUE (water over IT energy) of the data center, from the bundled tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from greenml import tables
from greenml.errors import FactorError
from greenml.facts import Place, Pue, Source

DESIGN_YEAR = "2022"
REPORTED = "gsf-real-time-cloud"  # of a region's sources the one that its PUE is from


@dataclass(frozen=True, slots=True)
class Wue:
    """Water usage effectiveness: litres of water that a data center uses on its site per kWh of IT energy."""

    liters_per_kwh: float
    year: int
    source: Source
    note: str = ""


def pue(place: Place, when: datetime) -> Pue:
    """Return the PUE at a place: the region's own, else the provider's fleet average, else 1.0 and a note.

    A region's figure is the last year that the provider reported, without a doubt of its own. A fleet
    average's band is the range of that provider's regions. Without either, the ratio is 1.0, so that a total
    is IT energy only, and the band reaches to the on-premise survey average, 1.58.

    Args:
        place: as ``places.find`` gives it; without a cloud it has no PUE.
        when: the run's time, UTC.

    Raises:
        FactorError: the bundled tables are not complete.

    Source: ISO/IEC 30134-2; the figures' own in ``greenml/data/SOURCES.md``.
    """
    regions = [row for row in tables.rows("regions") if row["cloud"] == place.cloud and row["pue"]]
    for row in regions:
        if row["region"] == place.region:
            return _region(row, when)
    providers = {row["provider"]: row for row in tables.rows("provider_defaults")}
    if place.cloud in providers:
        row = providers[place.cloud]
        ratio = float(row["pue"])
        ratios = [ratio, *(float(one["pue"]) for one in regions)]
        return Pue(
            ratio=ratio,
            low=min(ratios),
            high=max(ratios),
            scope="provider",
            year=int(row["year"]) if row["year"] else None,
            source=tables.source(row["source"], row["source_date"]),
            note=f"no PUE of the region: {row['scope']}; band from the provider's regions",
        )
    return _none(providers)


def wue(place: Place, when: datetime) -> Wue:
    """Return the WUE of a cloud's region: the last year that the provider reported.

    It counts the water used on the site, for cooling; not that of the power plants.

    Args:
        place: as ``places.find`` gives it.
        when: the run's time, UTC.

    Raises:
        FactorError: the provider reports none for the place.

    Source: ISO/IEC 30134-9; the figures' own in ``greenml/data/SOURCES.md``.
    """
    for row in tables.rows("regions"):
        if (row["cloud"], row["region"]) == (place.cloud, place.region) and row["wue_l_per_kwh"]:
            year = int(row["wue_year"])
            source = tables.source(REPORTED, row["source_date"])
            return Wue(float(row["wue_l_per_kwh"]), year, source, "; ".join(_year_notes(row["cloud"], year, when)))
    if not place.region:
        raise FactorError("no cloud region is known, and only those report their water")
    raise FactorError(f"{place.cloud} reports no water usage (WUE) for {place.region}")


def _year_notes(cloud: str, year: int, when: datetime) -> list[str]:
    """Say what a reader must know of a figure's year."""
    notes = []
    if cloud == "azure" and str(year) == DESIGN_YEAR:
        notes.append("a design value, if the region opened after 2022")
    run_year = when.astimezone(timezone.utc).year
    if abs(year - run_year) > 1:
        notes.append(f"figure of {year} for a run of {run_year}")
    return notes


def _region(row: tables.Row, when: datetime) -> Pue:
    ratio, year = float(row["pue"]), int(row["pue_year"])
    return Pue(
        ratio,
        ratio,
        ratio,
        "region",
        year,
        tables.source(REPORTED, row["source_date"]),
        note="; ".join(_year_notes(row["cloud"], year, when)),
    )


def _none(providers: dict[str, tables.Row]) -> Pue:
    try:
        survey = providers["on_premise"]
    except KeyError:
        raise FactorError("no on-premise PUE in the bundled tables; reinstall greenml") from None
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
