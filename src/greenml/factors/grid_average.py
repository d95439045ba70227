"""Yearly average carbon intensity of the grid at a place, from the bundled tables.

Average, location-based and at the generator: no certificates, no losses of the network. The tables hold no
hours.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import datetime

from greenml import tables
from greenml.errors import FactorError
from greenml.factors import places
from greenml.facts import CarbonIntensity, Place

BAND_YEARS = 2
BAND_RATIO = 0.10
STALE_YEARS = 2
HYDROPOWER_GRAMS = 24.0
OLD_COMPILATION = "codecarbon-2021-cloud"
UNKNOWN_NOTE = "no region was given: world average, with the 10th to 90th percentile of the countries as its band"


def carbon_intensity(place: Place, start: datetime, end: datetime) -> CarbonIntensity:
    """Return the carbon intensity of the narrowest area around the place that has a figure.

    The areas, in order: the cloud region; the US eGRID subregion; the US state or Canadian province, where
    the place is one; the grid zone; the country; the world. Of an area's years, the last one not after the
    run (the year of the run's middle), else the first after it; where a year has a direct and a lifecycle
    figure (USA), the lifecycle one, which is the one that every country has.

    The figures of Azure and AWS regions are a compilation that CodeCarbon shipped from 2020 to 2023, filed
    under 2021 and resting on data of 2016 and 2017. They are passed over when the next area (not the world)
    has a year that is two or more years nearer to the run: a run of 2021 in azure/westus2 gets CodeCarbon's
    297.6 g/kWh, one of 2023 gets the subregion NWPP.

    The band is the range of the same series (source and basis) over two years to either side of the figure's,
    widened to at least ±10 %, because a yearly mean hides its hours; for the old compilation it also takes in
    the next area's figure, and a direct figure's band outside of the USA reaches up to the area's, else the
    country's lifecycle figure, which counts more. Where the place is not known, it is the world average, and
    the band runs from the 10th to the 90th percentile of the countries of that year.

    A figure of 0 (direct emissions of Quebec) stays 0 and says so; its band reaches to hydropower's lifecycle
    median.

    Args:
        place: as ``places.find`` gives it; ``places.unknown()`` where it is not known.
        start: of the run, UTC.
        end: of the run, UTC.

    Raises:
        FactorError: not even the world has a figure in the tables.

    Source: GHG Protocol Scope 2 Guidance, location-based method; hydropower 24 g/kWh: IPCC AR5 WG III, table
    A.III.2; the figures' own in ``greenml/data/SOURCES.md``.
    """
    year = (start + (end - start) / 2).year
    found = [series for scope, code in _areas(place) if (series := tables.lookup("carbon_intensity", scope, code))]
    if not found:
        raise FactorError("no carbon intensity: the bundled table has no figure for the world; reinstall greenml")
    chosen = [_nearest(series, year) for series in found]
    if len(chosen) > 1 and _stale(chosen[0], chosen[1], year):
        del found[0], chosen[0]
    row = chosen[0]
    if row["scope"] == "world" and places.code(place) != "world":
        return _world(place, row, year)
    neighbours = [_grams(other) for other in found[0] if _same_series(other, row)]
    if row["source"] == OLD_COMPILATION and len(chosen) > 1:
        neighbours.append(_grams(chosen[1]))
    grams = _grams(row)
    low = min(*neighbours, grams * (1 - BAND_RATIO))
    high = max(*neighbours, grams * (1 + BAND_RATIO) if grams else HYDROPOWER_GRAMS)
    if row["basis"] == "direct" and place.country_iso3 != "USA" and grams:
        own = [other for other in found[0] if other["basis"] == "lifecycle"]
        whole = _nearest(own, year) if own else _lifecycle_row(place, year)
        high = max(high, _grams(whole)) if whole else high
    return _result(row, low, high, assumed=False, note=_note(row, year, place))


def _areas(place: Place) -> Iterator[tuple[str, str]]:
    """Yield (scope, code) of the areas around a place, the narrowest first."""
    if place.region:
        yield "cloud_region", f"{place.cloud}/{place.region}"
    if place.egrid_subregion:
        yield "egrid_subregion", place.egrid_subregion
    if subdivision := places.subdivision(place):
        yield ("us_state" if place.country_iso3 == "USA" else "ca_province"), subdivision
    if place.grid_zone:
        yield "grid_zone", place.grid_zone
    if place.country_iso3:
        yield "country", place.country_iso3
    yield "world", "WORLD"


def _grams(row: tables.Row) -> float:
    return float(row["g_co2e_per_kwh"])


def _nearest(series: list[tables.Row], year: int) -> tables.Row:
    """Return the row of the last year not after the run, else of the first after; lifecycle before direct."""
    before = [int(row["year"]) for row in series if int(row["year"]) <= year]
    best = max(before) if before else min(int(row["year"]) for row in series)
    same = [row for row in series if int(row["year"]) == best]
    return next((row for row in same if row["basis"] == "lifecycle"), same[0])


def _stale(row: tables.Row, wider: tables.Row, year: int) -> bool:
    """Tell whether a row of the old compilation is so old that the next area's figure is the better one."""
    if row["source"] != OLD_COMPILATION or wider["scope"] == "world":
        return False
    return abs(int(row["year"]) - year) - abs(int(wider["year"]) - year) >= STALE_YEARS


def _same_series(other: tables.Row, row: tables.Row) -> bool:
    near = abs(int(other["year"]) - int(row["year"])) <= BAND_YEARS
    return near and (other["source"], other["basis"]) == (row["source"], row["basis"])


def _world(place: Place, row: tables.Row, year: int) -> CarbonIntensity:
    """Return the world's figure for a place that has none of its own."""
    countries = tables.lookup("carbon_intensity", "country")
    values = [_grams(one) for one in countries if (one["year"], one["source"]) == (row["year"], row["source"])]
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    name = places.code(place)
    known = f"no figure for {name}: world average, with the 10th to 90th percentile of the countries as its band"
    notes = filter(None, [known if name else UNKNOWN_NOTE, _note(row, year, place)])
    return _result(row, deciles[0], deciles[-1], assumed=not place.country_iso3, note="; ".join(notes))


def _note(row: tables.Row, year: int, place: Place) -> str:
    """Return what a reader must know of a figure, empty for a lifecycle figure of the run's own time."""
    notes = []
    if row["basis"] == "direct":
        notes.append("direct emissions at the stack, without fuel supply and building" + _lifecycle(place, year))
    if row["basis"] == "mixed":
        notes.append("the source mixes direct and lifecycle figures")
    if row["gas"] == "co2":
        notes.append("CO2 only, without CH4 and N2O")
    if _grams(row) == 0:
        notes.append(f"0 is the source's figure, not a gap; the band ends at hydropower's {HYDROPOWER_GRAMS:g} g/kWh")
    if abs(int(row["year"]) - year) > 1:
        notes.append(f"figure of {row['year']} for a run of {year}")
    if row["note"]:
        notes.append(row["note"])
    return "; ".join(notes)


def _lifecycle_row(place: Place, year: int) -> tables.Row | None:
    """Return the country's lifecycle figure nearest to a year."""
    rows = tables.lookup("carbon_intensity", "country", place.country_iso3)
    rows = [row for row in rows if row["basis"] == "lifecycle"]
    return _nearest(rows, year) if rows else None


def _lifecycle(place: Place, year: int) -> str:
    """Return, as the end of a note, what the country's lifecycle figure is."""
    nearest = _lifecycle_row(place, year)
    if nearest is None:
        return ""
    return f" (lifecycle, {nearest['code']} {nearest['year']}: {_grams(nearest):.0f} g/kWh)"


def _result(row: tables.Row, low: float, high: float, *, assumed: bool, note: str) -> CarbonIntensity:
    return CarbonIntensity(
        grams_per_kwh=_grams(row),
        low=round(low, 3),
        high=round(high, 3),
        scope=row["scope"],
        code=row["code"],
        year=int(row["year"]),
        basis=row["basis"],
        source=tables.source(row["source"], row["source_date"]),
        assumed=assumed,
        note=note,
    )
