"""Looks up places by their usual names: cloud regions, countries, states and provinces, grid zones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain

from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.factors import tables
from greenml.factors.types import Place

WORLD = Place(display_name="World", country_name="World")
GROUPS = {  # codes of carbon_intensity.csv
    "EU27": Place(display_name="European Union", country_name="European Union"),
    **{
        name.upper().replace(" ", "_"): Place(display_name=name, country_name=name)
        for name in ("Europe", "Asia", "Africa", "North America", "South America", "Oceania")
    },
}
SCOPES = {"USA": "us_state", "CAN": "ca_province", "CHN": "cn_province", "AUS": "au_state"}
OTHER_CLOUD_NAMES = {
    "google": "gcp", "googlecloud": "gcp", "amazon": "aws", "sagemaker": "aws", "microsoft": "azure",
    "azureml": "azure", "microsoftazure": "azure", "amazonwebservices": "aws", "amazonaws": "aws",
    "googlecloudplatform": "gcp", "oracle": "oci", "oraclecloud": "oci", "ovh": "ovhcloud", "datacrunch": "verda",
}  # fmt: skip
LIKENESS = 0.7  # of a name and a guess
DEEPEST = 3  # commas and slashes of a place in a place: Seattle, King County, WA, USA
SHORTEST_GUESS = 4  # of a shorter name every code of two or three letters is a near one
# Names of two or more places that no table has under one name; each with codes that are not ambiguous.
AMBIGUOUS = {
    "punjab": ("IN-NO", "PAK"), "limburg": ("NLD", "BEL"), "amazonas": ("BR-N", "COL", "PER", "VEN"),
    "tyrol": ("AUT", "IT-NO"), "tirol": ("AUT", "IT-NO"), "larioja": ("ESP", "ARG"), "cordoba": ("ESP", "ARG"),
    "birmingham": ("GBR", "US-AL"), "cambridge": ("GBR", "US-MA"), "congo": ("COD", "COG"), "roc": ("TWN", "COG"),
    "macedonia": ("MKD", "GRC"), "nord": ("FRA", "IT-NO"), "sud": ("IT-SO", "FRA"), "kepco": ("KOR", "JP-KN"),
    "pse": ("POL", "US-NW-PSEI"), "tennet": ("NLD", "DEU"), "pacificorp": ("US-NW-PACE", "US-NW-PACW"),
    "dukeenergy": ("US-CAR-DUK", "US-CAR-CPLE", "US-FLA-FPC"),
}  # fmt: skip
# Names with one meaning that no table has: a state with the name of its capital, which is on its grid; a short form.
FURTHER = {"saopaulo": "BR-CS", "vatican": "VAT"}
# Other names of cities in which clouds have regions: in their own language, in English, and as a cloud writes them.
CITIES = {
    "Ashburn": ("Northern Virginia",), "Bengaluru": ("Bangalore",), "Brussels": ("Brussel", "Bruxelles"),
    "Copenhagen": ("København",), "Delhi": ("New Delhi",), "Frankfurt": ("Frankfurt am Main", "Francfort"),
    "Geneva": ("Genève", "Genf"), "Marseille": ("Marseilles",), "Milan": ("Milano", "Mailand"),
    "New York": ("NYC", "New York City"), "Osaka": ("大阪",), "Queretaro": ("Santiago de Querétaro",),
    "Seoul": ("서울",),
    "Strasbourg": ("Straßburg",), "Taipei": ("台北", "臺北"), "Tokyo": ("東京", "Tokio"), "Turin": ("Torino",),
    "Vienna": ("Wien",), "Warsaw": ("Warszawa", "Warschau"), "Zurich": ("Zuerich",),
}  # fmt: skip
_ZONE_OF_REGION = (
    re.compile(r"(?P<region>[a-z]+-[a-z]+\d+)-[a-z]"),  # Google: us-central1-a
    re.compile(r"(?P<region>(eusc-)?[a-z]{2}(-gov|-iso[a-z]?)?-[a-z]+-\d)[a-z]"),  # AWS: us-west-2b
    re.compile(r"(?P<region>[a-z]+\d?)-[1-3]"),  # Azure: eastus-1, as AKS and Terraform write them
)
_WITHOUT_ZONES = {"westus", "chinaeast", "chinanorth", "australiacentral"}  # so that "westus-2" is West US 2 alone
_ZONE_IN_WORDS = re.compile(r"(.+?)[ ,]+\(?(?:availability zone|zone|az) ?[1-3]\)?", re.IGNORECASE)
_PART_OF_COUNTRY = re.compile(r"([a-z]{2})-[a-z0-9]{1,3}")  # ISO 3166-2: DE-BY
_LOCAL_ZONE = re.compile(r"([a-z]{2}-[a-z]+-\d)-[a-z]{3}-\d[a-z]?")  # AWS: us-west-2-lax-1a
_LATIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "\N{LATIN SMALL LETTER DOTLESS I}": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)

_Meanings = dict[str, list[Place]]


def find(region: str, cloud: str = "") -> Place:
    """Return the place of that name.

    Case, accents, spaces, hyphens and underscores do not matter. From the narrowest meaning to the widest, the first
    that fits:

    1. a cloud's region code (``westus2``, ``azure/westus2``, ``aws:us-east-1``), or an Azure or AWS region's name as it
       is written: ``Canada (Central)`` is of AWS, ``Canada Central`` of Azure;
    2. a code of ISO 3166 (``SWE``, ``SE``, ``US-WA``, ``TX``; ``DE-BY`` is Germany, known as a whole), an eGRID
       subregion (``NWPP``), a grid zone (``JP-TK``);
    3. an Azure or AWS region's name (``West US 2``) or billing name (``US West 2``), or a region code with other
       separators (``us east 2``);
    4. ``world``, a country, a state or a province by name;
    5. another name of any of these (``CAISO``, ``SE3``, ``Deutschland``, ``EU (Ireland)``);
    6. a zone of a region: ``us-central1-a``, ``us-west-2b``, ``eastus-1``; these go before other separators;
    7. a Google region's name that no other cloud has a region at: ``Las Vegas``;
    8. a region with its code as consoles show it: ``(US) West US 2``, ``us-central1 (Iowa)``;
    9. a part and what it lies in, in either order, with a comma, a slash or nothing between them: ``Ontario, Canada``,
       ``USA/California``, ``Texas USA``, ``Tokyo, Japan``, ``Quincy, WA, USA``. A part that lies elsewhere is
       unknown: ``Toronto, Quebec``.

    Where the cloud is known, its own names go before countries and states: ``Oregon`` is the state, but with the cloud
    gcp it is ``us-west1``.

    Args:
        region: the place's code or name.
        cloud: the cloud that the SKU already tells; "" where it is not known. It may stand before the region:
            ``lambda/us-east-1``, ``aws us-east-1``.

    Raises:
        SettingsError: no place has that name (the message gives the nearest), or several have it (it lists them).
    """
    for place in _codes_of_regions().get(region.strip().lower(), ()) if cloud else ():
        if place.cloud == cloud:  # the usual case, before any other table is read
            return place
    prefix, slash, name = region.strip().replace(":", "/").rpartition("/")
    owner = _cloud(prefix)
    if slash and not owner:
        if place_inside := _part_of(name, prefix):
            return place_inside
        if _meanings(prefix):
            raise SettingsError(f"no {name!r} is known in {prefix!r}; 'greenml regions' lists the places")
        raise SettingsError(f"unknown cloud {prefix!r} of region {region!r}; known are {', '.join(clouds())}")
    cloud = _cloud(cloud) or owner or cloud.strip().lower()
    places = _lookup(name, cloud) or _lookup_in_words(name, cloud)
    if not places and not cloud:  # the name of a cloud, and one that it does not have
        cloud, name = _cloud_in_words(name) or (cloud, name)
    if len(places) > 1:
        raise SettingsError(f"region {region!r} is ambiguous; give one of {_listed(places)}")
    if not places:
        raise SettingsError(_unknown(region, name, cloud))
    return places[0] if places[0].region or not cloud else replace(places[0], cloud=cloud)


def search(pattern: str) -> list[Place]:
    """Return the places that match a pattern: a part of a code or name, or a glob (``*us*2``) of a code.

    Case and accents do not matter. Cloud regions come first, then countries, states and provinces, grid zones. A name
    that ``find`` knows, but that is a part of no code or name, gives that place.
    """
    wanted = _folded(pattern.strip())
    if any(sign in wanted for sign in "*?["):
        return [place for place in _all() if fnmatchcase((place.region or code(place)).lower(), wanted)]
    matches = [
        place
        for place in _all()
        if any(wanted in _folded(name) for name in (code(place), place.display_name, place.billing_name))
        or (place.region and wanted in _folded(f"{place.country_iso3}|{place.country_name}|{place.state}"))
    ]
    return matches or _meanings(pattern) or _lookup_in_words(pattern, "")


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
    return group(place) or subdivision(place) or place.grid_zone or place.egrid_subregion or place.country_iso3


def group(place: Place) -> str:
    """Return the code of a group of countries (``EU27``), else ""."""
    names = (name for name, known in GROUPS.items() if known.display_name == place.display_name)
    return "" if place.region or place.country_iso3 else next(names, "")


def subdivision(place: Place) -> str:
    """Return the ISO 3166-2 code of a state or province that was given itself, else ""."""
    return "" if place.region or not place.state else state_code(place)


def state_code(place: Place) -> str:
    """Return the ISO 3166-2 code of the state or province in which a place lies, as far as the tables have it."""
    if not place.state:
        return ""
    rows = tables.rows("subdivisions")
    same = (row["code"] for row in rows if (row["country_iso3"], row["name"]) == (place.country_iso3, place.state))
    return next(same, "")


@cache
def clouds() -> list[str]:
    """Return the names of the clouds of which a region or a machine size is known."""
    return sorted({row["cloud"] for row in chain(tables.rows("regions"), tables.rows("skus"))})


def _cloud(name: str) -> str:
    """Return the cloud of that name, "" for none."""
    key = _key(name)
    cloud = OTHER_CLOUD_NAMES.get(key, key)
    return cloud if cloud in clouds() else ""


def _folded(name: str) -> str:
    """Return a name in lower case and without accents."""
    letters = unicodedata.normalize("NFKD", name.casefold()).translate(_LATIN)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _key(name: str) -> str:
    """Return what two spellings of a name share."""
    return re.sub(r"[\s_.,'\u2018\u2019\u02bb`\"()\[\]-]", "", _folded(name))


def _lookup(name: str, cloud: str) -> list[Place]:
    """Return what a name without a country or a cloud before it means: nothing, one place, or several."""
    exact, wanted = name.strip().lower().replace("_", "-"), _key(name)
    if not wanted:
        return []
    if cloud and (places := _of_cloud(name, cloud)):
        return places
    if zones := _zone(exact, cloud):
        return zones
    for level in _levels(cloud):
        meanings = level()
        places = meanings.get(exact) or meanings.get(wanted) or []
        places = [place for place in places if cloud in {"", place.cloud} or not place.cloud]
        if places:
            return _without_twins(places)
    return _whole_country(exact) or ([] if cloud else _in_city(wanted))


def _whole_country(exact: str) -> list[Place]:
    """Return the country of an ISO 3166-2 code, where the tables have no part of it: ``DE-BY`` is on Germany's grid."""
    part = _PART_OF_COUNTRY.fullmatch(exact)
    countries = [place for place in _codes().get(part[1], ()) if place.country_iso3] if part else []
    divided = {place.country_iso3 for place in (*_zones().values(), *_subdivisions().values())} if countries else set()
    return [place for place in countries if place.country_iso3 not in divided]


def _zone(exact: str, cloud: str) -> list[Place]:
    """Return the region of which a name is a zone, and the one of which it is another spelling: ``eastus-2``."""
    zones = (zone["region"] for pattern in _ZONE_OF_REGION if (zone := pattern.fullmatch(exact)))
    regions = _codes_of_regions()
    places = [place for region in zones for place in regions.get(region, ()) if cloud in {"", place.cloud}]
    if exact[-1:].isdigit():
        places = [place for place in places if place.cloud == "azure" and place.region not in _WITHOUT_ZONES]
    if not places or exact in regions:
        return []
    if any(row["alias"].rpartition("/")[2].lower() == exact for row in tables.rows("region_aliases")):
        return []  # a smaller cloud has a region of just this name
    return list(dict.fromkeys([*places, *regions.get(_key(exact), ())]))


def _lookup_in_words(name: str, cloud: str) -> list[Place]:
    """Return what a name with a cloud's name before it (``AzureML westus2``) or a country's after it means."""
    words = name.split()
    if not cloud and (split := _cloud_in_words(name)):
        owner, rest = split
        places = _lookup(rest, owner) or _lookup_in_words(rest, owner)
        return [place if place.region else replace(place, cloud=owner) for place in places]
    if bracket := re.fullmatch(r"\([^()]*\) *([^()]+)", name.strip()):  # as Azure's portal shows it
        return _lookup(bracket[1], cloud)
    if places := _code_and_name(words, cloud):
        return places
    if zone := _ZONE_IN_WORDS.fullmatch(name.strip()):
        return [place for place in _lookup(zone[1], cloud) if place.region]
    part, comma, whole = name.rpartition(",")
    if comma:
        place_inside = _part_of(part, whole)
    else:
        splits = ((" ".join(words[:at]), " ".join(words[at:])) for at in {1, len(words) - 1} if 0 < at < len(words))
        place_inside = next((found for one, other in splits if (found := _part_of(one, other))), None)
    return [place_inside] if place_inside else []


def _cloud_in_words(name: str) -> tuple[str, str] | None:
    """Return the cloud that the first words name, and the rest of the name; None where they name none."""
    words = name.split()
    for count in (3, 2, 1):
        owner = _cloud("".join(words[:count]))
        if owner and words[count:]:
            return owner, " ".join(words[count:])
    return None


def _code_and_name(words: list[str], cloud: str) -> list[Place]:
    """Return the region of which one word is the code, and the others the name, the country or the city."""
    for code_word, others in ((words[0], words[1:]), (words[-1], words[:-1])) if len(words) > 1 else ():
        wanted = _key(" ".join(others))
        regions = _codes_of_regions().get(code_word.strip("()").lower(), [])
        same = [
            place
            for place in regions
            if wanted in _key(place.display_name + place.country_name) or place in _cities().get(wanted, [])
        ]
        if places := [place for place in same if cloud in {"", place.cloud}]:
            return places
    return []


def _of_cloud(name: str, cloud: str) -> list[Place]:
    """Return what a code of a cloud's own means: a region, or what the table of aliases has under the cloud."""
    places = [place for place in _codes_of_regions().get(name.strip().lower(), ()) if place.cloud == cloud]
    rows = _rows_of_aliases()
    alias = rows.get(_key(f"{cloud}/{name}")) or rows.get(_key(f"{cloud} {name}"))
    return places or ([_of_alias(alias)] if alias else [])


def _without_twins(places: list[Place]) -> list[Place]:
    """Return places without a country whose code is that of a state of the same name too: Puerto Rico."""
    letters = {subdivision(place).partition("-")[2] for place in places} - {""}
    twins = {row["iso3"] for row in tables.rows("countries") if row["iso2"] in letters} if letters else set()
    names = {place.state for place in places}
    return [
        place for place in places if place.state or place.country_iso3 not in twins or place.display_name not in names
    ]


def _levels(cloud: str) -> tuple[Callable[[], _Meanings], ...]:
    """Return what names mean, from the narrowest meaning to the widest; a level is read when it is asked."""
    first = (_names_as_written, _codes_of_regions, _codes, _names_of_regions, _loose_codes_of_regions)
    if cloud:
        return (*first, lambda: _own_names_of_regions(cloud), _wide, _aliases)
    return (*first, _wide, _aliases, _more)


def _part_of(part: str, whole: str) -> Place | None:
    """Return a part of what contains it, in either order: a state, a province, a grid zone, else the grid of a city."""
    return _inside(part, whole) or _inside(whole, part)


def _inside(part: str, whole: str) -> Place | None:
    """Return the one meaning of a name that lies in one of the meanings of another, else None."""
    wholes = [place for place in _meanings(whole) if not place.region and place.country_iso3]
    candidates = [*_meanings(part), *_codes().get(part.strip().lower(), []), *_wide().get(_key(part), [])]
    candidates += [place for key in AMBIGUOUS.get(_key(part), ()) for place in _lookup(key, "")]
    named = [place for place in candidates if not place.region and any(_lies_in(place, around) for around in wholes)]
    cities = _cities().get(_key(part), [])
    found = named or [_around(region) for region in cities if any(_lies_in(region, around) for around in wholes)]
    found = [place for place in found if place != _country(place.country_iso3)] or found
    return found[0] if len(set(found)) == 1 else None


def _meanings(name: str) -> list[Place]:
    """Return what a name means, a part and what it lies in among them: ``Toronto, Ontario``, ``Canada/Ontario``."""
    if (places := _lookup(name, "")) or len(re.findall(r"[,/]", name)) > DEEPEST:
        return places
    separator = next((sign for sign in ",/" if sign in name), "")
    part, _, whole = name.rpartition(separator) if separator else ("", "", "")
    place_inside = _part_of(part, whole) if separator else None
    return [place_inside] if place_inside else []


def _lies_in(place: Place, whole: Place) -> bool:
    """Tell whether a place lies in a country, or is or lies in one of its states, provinces or grid zones."""
    if place.country_iso3 != whole.country_iso3:
        return False
    if whole == _country(whole.country_iso3):
        return True
    same_state = whole.state and place.state == whole.state
    return bool(same_state or (whole.grid_zone and place.grid_zone == whole.grid_zone))


def _around(region: Place) -> Place:
    """Return the grid around a region, without its cloud."""
    country = _country(region.country_iso3)
    zone = region.grid_zone if "-" in region.grid_zone else ""
    name = f"grid zone {zone}" if zone else country.display_name
    return replace(country, display_name=name, grid_zone=zone, egrid_subregion="" if zone else region.egrid_subregion)


def _in_city(wanted: str) -> list[Place]:
    """Return the regions in a city, and the grid around them; where only Google names the city, its region alone."""
    regions = _cities().get(wanted, [])
    named = [place for place in regions if place.cloud == "gcp" and _key(place.display_name) == wanted]
    if len(regions) == len(named) == 1:
        return regions
    around = list(dict.fromkeys(_around(place) for place in regions))
    return [*regions, *around]


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


@cache
def _country(iso3: str) -> Place:
    name = next(row["name"] for row in tables.rows("countries") if row["iso3"] == iso3)
    return Place(display_name=name, country_iso3=iso3, country_name=name)


@cache
def _subdivisions() -> dict[str, Place]:
    """Return the states and provinces by code; those that are grid zones too say so."""
    zones = {row["grid_zone"] for row in tables.rows("regions")}
    places = {}
    for row in tables.rows("subdivisions"):
        zone = row["code"] if row["country_iso3"] == "CAN" or row["code"] in zones else ""
        country = _country(row["country_iso3"])
        places[row["code"]] = replace(country, display_name=row["name"], state=row["name"], grid_zone=zone)
    return places


@cache
def _zones() -> dict[str, Place]:
    """Return the grid zones smaller than a country, by code."""
    countries = {row["iso2"]: row["iso3"] for row in tables.rows("countries")}
    known = chain(
        (row["grid_zone"] for row in tables.rows("regions")),
        (row["code"] for row in tables.lookup("carbon_intensity", "grid_zone")),
        (row["code"] for row in tables.rows("region_aliases") if row["kind"] == "grid_zone"),
    )
    zones = (zone for zone in dict.fromkeys(known) if "-" in zone and zone not in _subdivisions())
    return {
        zone: replace(_country(countries[zone.partition("-")[0]]), display_name=f"grid zone {zone}", grid_zone=zone)
        for zone in zones
    }


def _subregions() -> Iterator[tuple[str, Place]]:
    """Yield the eGRID subregions by code."""
    for name in dict.fromkeys(row["code"] for row in tables.lookup("carbon_intensity", "egrid_subregion")):
        yield name, replace(_country("USA"), display_name=f"eGRID subregion {name}", egrid_subregion=name)


def _collected(named: Iterable[tuple[str, Place]]) -> _Meanings:
    meanings: _Meanings = {}
    for name, place in named:
        if name and place not in (known := meanings.setdefault(name, [])):
            known.append(place)
    return meanings


@cache
def _codes_of_regions() -> _Meanings:
    return _collected((place.region.lower(), place) for place in _regions())


@cache
def _loose_codes_of_regions() -> _Meanings:
    """Return region codes without their separators, and smaller clouds' codes that a larger one has too."""
    named = [(_key(place.region), place) for place in _regions()]
    for key, row in _rows_of_aliases().items():
        owner, slash, name = key.partition("/")
        if slash and owner in clouds():
            named.append((name, replace(_of_alias(row), cloud=owner)))
    return _collected(named)


@cache
def _names_as_written() -> _Meanings:
    """Return the full names of regions, in which brackets count."""
    return _collected((place.display_name.lower(), place) for place in _regions() if place.cloud != "gcp")


@cache
def _names_of_regions() -> _Meanings:
    """Return the full names of regions; those of Google are names of cities and states, and not among them."""
    places = [place for place in _regions() if place.cloud != "gcp"]
    return _collected((_key(name), place) for place in places for name in (place.display_name, place.billing_name))


@cache
def _own_names_of_regions(cloud: str) -> _Meanings:
    """Return the short names of one cloud's regions: ``Oregon`` of ``US West (Oregon)``, Google's names, cities."""
    places = [place for place in _regions() if place.cloud == cloud]
    short = [(_key(name), place) for place in places for name in re.findall(r"\(([^()]*)\)", place.display_name)]
    google = [(_key(place.display_name), place) for place in places if cloud == "gcp"]
    cities = [(name, place) for name, regions in _cities().items() for place in regions if place.cloud == cloud]
    short_names = _collected([*short, *google])
    return {**_collected(cities), **short_names}


@cache
def _cities() -> _Meanings:
    by_code = {(place.cloud, place.region): place for place in _regions()}
    named = [(_key(row["city"]), by_code[row["cloud"], row["region"]]) for row in tables.rows("regions")]
    google = [(_key(place.display_name), place) for place in _regions() if place.cloud == "gcp"]
    cities = _collected([*named, *google])
    for city, others in CITIES.items():
        for other in others:
            known = cities.setdefault(_key(other), [])
            known += [place for place in cities.get(_key(city), ()) if place not in known]
    return cities


@cache
def _codes() -> _Meanings:
    """Return the codes of countries, states, grid zones and subregions, and a state's letters alone.

    The letters of a state of the USA or Australia that are a country's code too are ambiguous: ``CA``, ``DE``.
    """
    named: list[tuple[str, Place]] = []
    for row in tables.rows("countries"):
        named += [(row["iso3"], _country(row["iso3"])), (row["iso2"], _country(row["iso3"]))]
    countries = {name for name, _ in named}
    for name, place in _subdivisions().items():
        letters = name.partition("-")[2]
        named.append((name, place))
        if place.country_iso3 in {"USA", "AUS"} or (place.country_iso3 == "CAN" and letters not in countries):
            named.append((letters, place))
    named += chain(_subregions(), _zones().items(), GROUPS.items())
    exact = _collected((name.lower(), place) for name, place in named)
    return {**_collected((_key(name), place) for name, place in named), **exact}


@cache
def _wide() -> _Meanings:
    """Return the names of countries, states and provinces."""
    named: list[tuple[str, Place]] = [("world", WORLD), ("global", WORLD)]
    for row in tables.rows("countries"):
        names = (row["name"], *row["other_names"].split(";"))
        named += ((_key(name), _country(row["iso3"])) for name in names)
    named += ((_key(place.state), place) for place in _subdivisions().values())
    return _collected(named)


@cache
def _aliases() -> _Meanings:
    """Return the table of other names."""
    return {key: [_of_alias(row)] for key, row in _rows_of_aliases().items()}


@cache
def _rows_of_aliases() -> dict[str, tables.Row]:
    countries = {"", *(row["iso3"] for row in tables.rows("countries"))}
    return {_key(row["alias"]): row for row in tables.rows("region_aliases") if row["country_iso3"] in countries}


def _of_alias(row: tables.Row) -> Place:
    kind, name = row["kind"], row["code"]
    if kind == "cloud_region":
        cloud, _, region = name.partition("/")
        return next(place for place in _codes_of_regions()[region] if place.cloud == cloud)
    if kind == "grid_zone":
        return _zones().get(name) or _subdivisions().get(name) or _country(row["country_iso3"])
    if kind in SCOPES.values():
        return _subdivisions()[name]
    return {"world": WORLD, **GROUPS}.get(name) or (WORLD if kind == "world" else _country(name))


@cache
def _more() -> _Meanings:
    """Return the names that are ambiguous, and a few that are not, of which no table knows.

    Among the latter are the codes of balancing authorities, with which the zones of the USA end: ``ERCO``.
    """
    further = {**FURTHER, **{zone.rpartition("-")[2].lower(): zone for zone in _zones() if zone.count("-") == 2}}
    meanings = {**{name: (meaning,) for name, meaning in further.items()}, **AMBIGUOUS}
    return {name: [_codes()[meaning.lower()][0] for meaning in codes] for name, codes in meanings.items()}


@cache
def _all() -> tuple[Place, ...]:
    countries = [_country(row["iso3"]) for row in tables.rows("countries")]
    return (*_regions(), *countries, *_subdivisions().values(), *_zones().values(), *GROUPS.values(), WORLD)


def _unknown(region: str, name: str, cloud: str) -> str:
    wanted = _key(name)
    if elsewhere := [place for place in _loose_codes_of_regions().get(wanted, ()) if cloud != place.cloud]:
        owner = elsewhere[0].cloud
        return f"region {region!r} is one of {owner}, not of {cloud}; 'greenml regions {cloud}/' lists those"
    if (parent := _LOCAL_ZONE.fullmatch(name.strip().lower())) and parent[1] in _codes_of_regions():
        return f"{region!r} is a local zone, whose prices and grid are its own; it is of the region 'aws/{parent[1]}'"
    part = _PART_OF_COUNTRY.fullmatch(name.strip().lower())
    if part and (country := next((place for place in _codes().get(part[1], ()) if place.country_iso3), None)):
        command = f"'greenml regions {part[1].upper()}-'"
        return (
            f"unknown region {region!r} of {country.country_name}, which is {country.country_iso3!r}; {command} lists "
            "its parts"
        )
    names: dict[str, tuple[Place, str]] = {}
    written = _written()
    levels: list[Callable[[], _Meanings]] = [_cities, *reversed(_levels(cloud))]
    for level in levels:
        for key, places in level().items():
            for place in places:
                if cloud in {"", place.cloud} or not place.region:
                    label = written.get(key, "") if len(places) == 1 or level == _cities else ""
                    names[key] = place, label or _name(place)
    close = nearest(wanted, names, cutoff=LIKENESS) if len(wanted) >= SHORTEST_GUESS else []
    labels = dict(names[key] for key in reversed(close))  # of several names of one place the nearest
    asked = did_you_mean(dict.fromkeys(reversed(labels.values()))) or ";"
    start = re.match(r"[^\W\d_]+(-[a-z]+)?", name.strip().lower())
    listed = start[0] if start and search(start[0]) else ""
    return f"unknown region {region!r}{asked} '{f'greenml regions {listed}'.strip()}' lists them"


def _written() -> dict[str, str]:
    """Return names of cities, countries, states and the table of other names as they are written, by their keys."""
    names = [row["city"] for row in tables.rows("regions")]
    names += [row["name"] for row in tables.rows("subdivisions")]
    names += [name for row in tables.rows("countries") for name in (row["name"], *row["other_names"].split(";"))]
    names += [row["alias"] for row in _rows_of_aliases().values()]
    return {_key(name): name for name in names}


def _name(place: Place) -> str:
    """Return a place's code, or its name where that says more than a country's code."""
    return place.region or (place.country_name if code(place) == place.country_iso3 else code(place))


def _listed(places: list[Place]) -> str:
    """Return the codes of several places, and the names of those that are no regions."""
    names = []
    for place in places:
        if not place.region:
            name = place.country_name if code(place) == place.grid_zone and not place.state else place.display_name
            parts = (name, place.country_name if place.state else "", place.cloud)
            names.append(", ".join(filter(None, parts)))
    suffix = f" ({' or '.join(dict.fromkeys(names))})" if names else ""
    return ", ".join(repr(code(place)) for place in places) + suffix
