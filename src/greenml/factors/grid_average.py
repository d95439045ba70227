"""Yearly average carbon intensity of the grid at a place, from the bundled tables, on one basis.

Average, location-based and at the generator: no certificates, no losses of the network. The tables hold no
hours. ``direct`` is what the stacks of the power plants emit (GHG Protocol, scope 2); ``lifecycle`` adds fuel supply
and the building of plants (most of scope 3, category 3).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import datetime
from functools import cache

from greenml.errors import FactorError, SettingsError, did_you_mean, nearest
from greenml.factors import places, tables
from greenml.factors.types import CarbonIntensity, Place

BASES = ("direct", "lifecycle")
BASIS = "direct"  # by default
OTHER_NAMES = {"stack": "direct", "scope2": "direct", "lca": "lifecycle", "lifecycleassessment": "lifecycle"}
BAND_YEARS = 2
BAND_RATIO = 0.10
HYDROPOWER_GRAMS = 24.0
DERIVED = {  # parts of the names of methods
    "derived_lifecycle_less": "the lifecycle figure and the shares of fuels",
    "derived_direct_plus": "the direct figure and the shares of fuels",
    "derived_shares": "the shares of fuels",
}
CODECARBON_1X = "legacy_codecarbon_1x"  # rows to reproduce a figure of CodeCarbon 1.x with, and for nothing else
UNKNOWN_NOTE = "no region was given: world average, with the 10th to 90th percentile of the countries as its interval"


def basis_name(basis: str) -> str:
    """Return a basis as the tables name it; "" is the default.

    Raises:
        SettingsError: there is no such basis.
    """
    key = "".join(letter for letter in basis.strip().lower() if letter.isalnum())
    name = OTHER_NAMES.get(key, key) or BASIS
    if name not in BASES:
        raise SettingsError(
            f"unknown basis {basis!r}{did_you_mean(nearest(name, BASES, 1)) or ';'} give direct (at the power plants, "
            "scope 2) or lifecycle (with fuel supply and building)"
        )
    return name


def other_basis(basis: str) -> str:
    """Return the basis that is shown beside a figure: lifecycle beside direct, direct beside all others."""
    return "lifecycle" if basis == "direct" else "direct"


def carbon_intensity(place: Place, start: datetime, end: datetime, basis: str = BASIS) -> CarbonIntensity:
    """Return the carbon intensity of the narrowest area around the place that has a figure on this basis.

    The basis goes first, then the area, then the year. The areas, in order: the cloud region (Google publishes those);
    the US eGRID subregion; the state or province, where the place is one, or where that is all that is known of a
    region; the grid zone; the province of a Chinese region; the country; the world. Of an area's years, the last one
    not after the run (the year of the run's middle), else the first after it.

    A group of countries has lifecycle figures only: asked for the direct one, it gives the other and says so.

    The interval is the range of the area's figures over two years to either side, widened to at least ±10 %, because a
    yearly mean hides its hours. Where the place is not known it is the world average, from the 10th to the 90th
    percentile of the countries of that year. A direct figure of 0 (a grid of hydropower) stays 0 and says so; its
    interval reaches to hydropower's lifecycle median.

    Args:
        place: as ``places.find`` gives it; ``places.unknown()`` where it is not known.
        start: of the run, UTC.
        end: of the run, UTC.
        basis: ``direct`` or ``lifecycle``.

    Raises:
        FactorError: not even the world has a figure in the tables.
        SettingsError: there is no such basis.

    Source: GHG Protocol Scope 2 Guidance, location-based method; hydropower 24 g/kWh: IPCC AR5 WG III, table
    A.III.2; the figures' own in ``greenml/factors/data/SOURCES.md``.
    """
    basis = basis_name(basis)
    year = (start + (end - start) / 2).year
    areas = list(_areas(place))
    lacking = ""
    if not any(_rows(*area, basis) for area in areas[:-1]) and any(
        _rows(*area, other_basis(basis)) for area in areas[:-1]
    ):  # a group of countries
        other = other_basis(basis)
        lacking, basis = f"no {basis} figure is known for it: {other}, not to be compared with {basis} ones", other
    for scope, code in areas:
        rows = _rows(scope, code, basis)
        if not rows:
            continue
        row = _nearest(rows, year)
        if scope == "world" and places.code(place) != "world":
            return _world(place, row, year)
        neighbours = [_grams(other) for other in rows if abs(int(other["year"]) - int(row["year"])) <= BAND_YEARS]
        grams = _grams(row)
        low = min(*neighbours, grams * (1 - BAND_RATIO))
        high = max(*neighbours, grams * (1 + BAND_RATIO) if grams else HYDROPOWER_GRAMS)
        contained = "" if (scope, code) == areas[0] else _contained(areas[0], row)
        return _result(row, low, high, note="; ".join(filter(None, (lacking, contained, _note(row, year)))))
    raise FactorError(f"no {basis} carbon intensity: the bundled table has none for the world; reinstall greenml")


def codecarbon_1x(cloud: str, region: str) -> CarbonIntensity | None:
    """Return what CodeCarbon 1.x took for a cloud's region, to reproduce its figure; None where it had none.

    These are data of 2016 and 2017, which it shipped from 2020 to 2023; no run of greenml's own is accounted with them.
    """
    rows = tables.lookup("carbon_intensity", "cloud_region", f"{cloud}/{region}")
    row = next((row for row in rows if row["method"] == CODECARBON_1X), None)
    if row is None:
        return None
    grams = _grams(row)
    return _result(row, grams * (1 - BAND_RATIO), grams * (1 + BAND_RATIO), note=row["note"])


def _areas(place: Place) -> Iterator[tuple[str, str]]:
    """Yield (scope, code) of the areas around a place, the narrowest first."""
    if place.cloud == "gcp" and place.region:
        yield "cloud_region", f"{place.cloud}/{place.region}"
    if place.egrid_subregion:
        yield "egrid_subregion", place.egrid_subregion
    state = places.state_code(place)
    named = state and (not place.region or not place.grid_zone)
    if named:
        yield places.SCOPES[place.country_iso3], state
    if "-" in place.grid_zone:  # without a hyphen the zone is the country
        yield "grid_zone", place.grid_zone
    if state and not named and place.country_iso3 == "CHN":
        yield places.SCOPES["CHN"], state
    if place.country_iso3:
        yield "country", place.country_iso3
    if group := places.group(place):
        yield "group", group
    yield "world", "WORLD"


@cache
def _rows(scope: str, code: str, basis: str) -> list[tables.Row]:
    rows = tables.lookup("carbon_intensity", scope, code)
    return [row for row in rows if row["basis"] == basis and row["method"] != CODECARBON_1X]


def _grams(row: tables.Row) -> float:
    return float(row["g_co2e_per_kwh"])


def _nearest(rows: list[tables.Row], year: int) -> tables.Row:
    """Return the row of the last year not after the run, else of the first after."""
    before = [row for row in rows if int(row["year"]) <= year]
    if before:
        return max(before, key=lambda row: int(row["year"]))
    return min(rows, key=lambda row: int(row["year"]))


def _world(place: Place, row: tables.Row, year: int) -> CarbonIntensity:
    """Return the world's figure for a place that has none of its own."""
    low, high = _countries(row["year"], row["basis"])
    name = places.code(place)
    known = f"no figure for {name}: world average, with the 10th to 90th percentile of the countries as its interval"
    notes = filter(None, [known if name else UNKNOWN_NOTE, _note(row, year)])
    return _result(row, low, high, assumed=not place.country_iso3, note="; ".join(notes))


@cache
def _countries(year: str, basis: str) -> tuple[float, float]:
    """Return the 10th and the 90th percentile of the countries' figures of a year and basis, g/kWh."""
    countries = tables.lookup("carbon_intensity", "country")
    grams = [_grams(country) for country in countries if (country["year"], country["basis"]) == (year, basis)]
    deciles = statistics.quantiles(grams, n=10, method="inclusive")
    return deciles[0], deciles[-1]


def _contained(narrowest: tuple[str, str], row: tables.Row) -> str:
    """Say that a figure is that of a wider area, where the narrowest is one that could have had its own."""
    scope, code = narrowest
    if scope == "cloud_region":  # of Google's regions: the grid around it is its usual figure
        return ""
    return f"no figure of {scope.replace('_', ' ')} {code}: that of {row['scope'].replace('_', ' ')} {row['code']}"


def _note(row: tables.Row, year: int) -> str:
    """Return what a reader must know of a figure."""
    notes = []
    if row["gas"] == "co2":
        notes.append("CO2 only, without CH4 and N2O")
    if origin := next((words for method, words in DERIVED.items() if method in row["method"]), ""):
        notes.append(f"derived from {origin}")
    if row["method"].startswith("proxy"):
        notes.append("the figure is that of a neighbouring or surrounding grid")
    if _grams(row) == 0:
        notes.append(
            f"0 is the source's figure, not a gap; the interval ends at hydropower's {HYDROPOWER_GRAMS:g} g/kWh"
        )
    if distance := int(row["year"]) - year:
        years = f"{abs(distance)} year{'s' if abs(distance) > 1 else ''} {'after' if distance > 0 else 'before'}"
        notes.append(f"figure of {row['year']}, {years} the run")
    if row["note"]:
        notes.append(row["note"])
    return "; ".join(notes)


def _result(row: tables.Row, low: float, high: float, *, note: str, assumed: bool = False) -> CarbonIntensity:
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
