"""Where a run happens: cloud regions, countries, states and provinces, grid zones, by any of their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache

from greenml import tables
from greenml.errors import SettingsError
from greenml.facts import Place

WORLD = Place(display_name="World", country_name="World")
SHORTEST_GUESS = 4  # of a shorter name every code of two or three letters is a near one


def find(region: str, cloud: str = "") -> Place:
    """Return the place of that name.

    Case, spaces, hyphens and underscores do not matter. From the narrowest meaning to the widest, the first
    that fits:

    1. a cloud's region code: ``westus2``, ``azure/westus2``, ``us-east-1``;
    2. a code of ISO 3166 (``SWE``, ``SE``, ``US-WA``, ``CA-ON``), an eGRID subregion (``NWPP``), an
       Electricity Maps zone (``JP-TK``);
    3. an Azure or AWS region's name (``West US 2``) or billing name (``US West 2``), or a region code with
       other separators (``us east 2``);
    4. ``world``, a country, a state or a province by name;
    5. a Google region's name: ``Oregon`` is the state, but with the cloud gcp it is ``us-west1``.

    Args:
        region: the place's code or name.
        cloud: the cloud that the SKU already tells: azure, aws, gcp; "" where it is not known.

    Raises:
        SettingsError: no place has that name (the message gives the nearest), or several have it.
    """
    prefix, _, rest = region.strip().rpartition("/")
    cloud = (cloud or prefix).strip().lower()
    if prefix and prefix.strip().lower() not in _clouds():
        raise SettingsError(f"unknown cloud {prefix!r} of region {region!r}; known are {', '.join(_clouds())}")
    exact, wanted = rest.strip().lower(), _key(rest)
    for meanings in _meanings(cloud):
        places = meanings.get(exact) or meanings.get(wanted) or []
        found = [place for place in places if not place.region or cloud in {"", place.cloud}]
        if len(found) == 1:
            return found[0] if found[0].region else replace(found[0], cloud=cloud)
        if found:
            raise SettingsError(
                f"region {region!r} is ambiguous; give one of {', '.join(repr(code(one)) for one in found)}"
            )
    raise SettingsError(_unknown(region, wanted, cloud))


def search(pattern: str) -> list[Place]:
    """Return the places that a pattern fits: a part of a code or name, or a glob (``*us*2``) of a code.

    Case does not matter. Cloud regions come first, then countries, states and provinces.
    """
    wanted = pattern.strip().lower()
    if any(sign in wanted for sign in "*?["):
        return [place for place in _all() if fnmatchcase((place.region or code(place)).lower(), wanted)]
    return [
        place
        for place in _all()
        if any(wanted in name.lower() for name in (code(place), place.display_name, place.billing_name))
        or (place.region and wanted in f"{place.country_iso3}|{place.country_name}|{place.state}".lower())
    ]


def unknown() -> Place:
    """Return the place of a run that gave none."""
    return Place()


def code(place: Place) -> str:
    """Return the one name by which ``find`` gives the place back: ``azure/westus2``, ``US-WA``, ``SWE``.

    Empty for a place that is not known.
    """
    if place.region:
        return f"{place.cloud}/{place.region}" if place.cloud else place.region
    if place.display_name == WORLD.display_name:
        return "world"
    return subdivision(place) or place.grid_zone or place.egrid_subregion or place.country_iso3


def subdivision(place: Place) -> str:
    """Return the ISO 3166-2 code of a US state or Canadian province that was given itself, else ""."""
    if place.region or not place.state:
        return ""
    rows = tables.rows("subdivisions")
    same = (row["code"] for row in rows if (row["country_iso3"], row["name"]) == (place.country_iso3, place.state))
    return next(same, "")


def _key(name: str) -> str:
    """Return what two spellings of a name share."""
    return re.sub(r"[\s_.,'()-]", "", name.lower())


@cache
def _regions() -> tuple[Place, ...]:
    return tuple(
        Place(
            cloud=row["cloud"],
            region=row["region"],
            display_name=row["display_name"],
            billing_name=row["other_name"],
            country_iso3=row["country_iso3"],
            country_name=row["country_name"],
            state=row["state_province"],
            grid_zone=row["grid_zone"],
            egrid_subregion=row["egrid_subregion"],
        )
        for row in tables.rows("regions")
    )


def _clouds() -> list[str]:
    return sorted({place.cloud for place in _regions()})


@cache
def _country(iso3: str) -> Place:
    name = next(row["name"] for row in tables.rows("countries") if row["iso3"] == iso3)
    return Place(display_name=name, country_iso3=iso3, country_name=name)


@cache
def _subdivisions() -> tuple[tuple[str, Place], ...]:
    places = []
    for row in tables.rows("subdivisions"):
        zone = row["code"] if row["country_iso3"] == "CAN" else ""  # a province is a zone of its own
        country = _country(row["country_iso3"])
        places.append((row["code"], replace(country, display_name=row["name"], state=row["name"], grid_zone=zone)))
    return tuple(places)


def _zones() -> Iterator[tuple[str, Place]]:
    """Yield the eGRID subregions and the grid zones smaller than a country, by code."""
    for row in tables.lookup("carbon_intensity", "egrid_subregion"):
        name = f"eGRID subregion {row['code']}"
        yield row["code"], replace(_country("USA"), display_name=name, egrid_subregion=row["code"])
    provinces = dict(_subdivisions())
    for region in _regions():
        zone = region.grid_zone
        if "-" in zone and zone not in provinces:
            name = f"grid zone {zone}"
            yield zone, replace(_country(region.country_iso3), display_name=name, grid_zone=zone)


def _add(meanings: dict[str, list[Place]], name: str, place: Place) -> None:
    known = meanings.setdefault(name, [])
    if place not in known:
        known.append(place)


@cache
def _meanings(cloud: str) -> tuple[dict[str, list[Place]], ...]:
    """Return what names mean, from the narrowest meaning to the widest."""
    regions: dict[str, list[Place]] = {}
    codes: dict[str, list[Place]] = {}
    named: dict[str, list[Place]] = {}
    loose: dict[str, list[Place]] = {}
    wide: dict[str, list[Place]] = {"world": [WORLD], "global": [WORLD]}
    google: dict[str, list[Place]] = {}
    for place in _regions():
        _add(regions, place.region, place)
        _add(loose, _key(place.region), place)
        for name in filter(None, (place.display_name, place.billing_name)):
            _add(google if place.cloud == "gcp" else named, _key(name), place)
    for row in tables.rows("countries"):
        country = _country(row["iso3"])
        for name in (row["iso3"], row["iso2"]):
            _add(codes, _key(name), country)
        for name in filter(None, (row["name"], *row["other_names"].split(";"))):
            _add(wide, _key(name), country)
    for name, place in (*_subdivisions(), *_zones()):
        _add(codes, _key(name), place)
    for _, place in _subdivisions():
        _add(wide, _key(place.state), place)
    return (regions, codes, named, loose, *((google, wide) if cloud == "gcp" else (wide, google)))


@cache
def _all() -> tuple[Place, ...]:
    countries = [_country(row["iso3"]) for row in tables.rows("countries")]
    return (*_regions(), *countries, *(place for _, place in _subdivisions()), WORLD)


def _unknown(region: str, wanted: str, cloud: str) -> str:
    if elsewhere := [place for meanings in _meanings(cloud) for place in meanings.get(wanted, ())]:
        owner = elsewhere[0].cloud
        return f"region {region!r} is one of {owner}, not of {cloud}; 'greenml regions {cloud}/' lists those"
    names: dict[str, Place] = {}
    for meanings in reversed(_meanings(cloud)):
        for name, places in meanings.items():
            for place in places:
                if cloud in {"", place.cloud} or not place.region:
                    names[name] = place
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6) if len(wanted) >= SHORTEST_GUESS else []
    scores = {name: difflib.SequenceMatcher(None, name, wanted).ratio() for name in near}
    close = dict.fromkeys(_spoken(names[name]) for name in near if scores[name] > max(scores.values()) - 0.1)
    asked = f"; did you mean {' or '.join(repr(one) for one in close)}?" if close else ";"
    start = re.match(r"[^\W\d_]+(-[a-z]+)?", region.rpartition("/")[2].strip().lower())
    listed = start[0] if start and search(start[0]) else ""
    command = f"greenml regions {listed}".strip()
    return f"unknown region {region!r}{asked} '{command}' lists them"


def _spoken(place: Place) -> str:
    """Return a place's code, or its name where that says more than a country's code."""
    return place.region or (place.country_name if code(place) == place.country_iso3 else code(place))
