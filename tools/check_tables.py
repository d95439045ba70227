"""Hold what must be true of the bundled tables after any edit.

Usage: ``python tools/check_tables.py [FOLDER]``. Prints one line a fault and fails where there is one.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import tables as table_files
from tables import DATA, KEYS, Row, Tables

from greenml.factors import processors
from greenml.factors import tables as bundled

# Licences whose rows may not be shipped (`Intel's counts` is the one exception: facts of Intel, read in a copy).
FORBIDDEN = re.compile(r"^(ODbL|AGPL|GPL|CC-BY-NC|CC-BY-ND|results? of AGPL)", re.IGNORECASE)
COUNTS_ONLY = "intel-ark-2023-copy"
LATER = {"cpu_parts", "region_aliases"}  # tables that the first edition did not have
TIERS = {"dedicated", "low_priority", "spot"}
BASES = {"direct", "lifecycle", "mixed"}
LEGACY_SOURCE, LEGACY_METHOD = "codecarbon-2021-cloud", "legacy_codecarbon_1x"
LEAST_MOVE, MOST_MOVE = 1 / 3, 3.0  # of a full price between two dates
PROPORTION = 0.05  # how far a size's price a vCPU may be from its family's in the region
# Windows costs 0.046 USD a vCPU and hour more than Linux, at Azure and at AWS alike. Judged by the Linux prices of the
# tables: a region's whole list lies at most 0.021 USD a vCPU above its level, a family in it at most 0.023 (dear ones
# for high-performance computing 17 %), and a cloud's vCPU costs 7 to 10 times its GiB.
WINDOWS_USD_PER_VCPU, MOST_ABOVE_LEVEL, MOST_ABOVE_LEVEL_RATIO = 0.046, 0.03, 0.2
MOST_OF_A_REGION, MOST_GIB_PER_VCPU = WINDOWS_USD_PER_VCPU / 2, 14.0
REGIONS_OF_A_MEDIAN, FAMILIES_OF_A_LEVEL = 10, 3
FIRST_YEAR_OF_BOTH_BASES = 2018
FIRST_DIRECT_YEAR = 2015  # from it on, each figure has one on the other basis beside it, but for:
ONE_BASIS_ONLY = {("cloud_region", "gcp/us-east2")}  # a region that is not open
MOST_GRAMS = 1500.0
PARTS_OF = {"us_state": "USA", "ca_province": "CAN", "au_state": "AUS", "cn_province": "CHN"}
# Countries whose zones all have figures of their own; the zones of others fall to the country, which reports say.
WITH_ZONES = ("US-", "CA-", "AU-", "SE-", "NO-")
YEARLY_MOVE, YEARLY_GRAMS = 1.9, 60.0  # of a place's figure in two years that follow each other
SUFFIXES = re.compile(r" (Ti|SUPER|Ti SUPER|D)$")
# Families in which a size's price is not its vCPUs times one price: burstable, memory by choice, or with accelerators.
OUT_OF_PROPORTION = re.compile(
    r"^(azure (Es?_v3$|[A-Z]*(B|M|FX|L|HB|HC|H|G|DC|EC|PB))|aws (t\d|.*(flex|metal|u-))|gcp (e2|f1|g1))"
)
KNOWN_MOVES = {("verda", "1V100.6V")}  # from 1 to 0.1381 USD in three years, when nobody wanted a V100 any more


def keys(tables: Tables) -> Iterator[str]:
    """Every row is whole, one of its kind, in order, in one line; the keys of the indexed tables need no quotes."""
    for table, rows in tables.items():
        found = [table_files.key(table, row) for row in rows]
        for before, after in pairwise(found):
            if before == after:
                yield f"{table}: {before} is there twice"
            elif before > after:
                yield f"{table}: {after} stands after {before}"
        for row in rows:
            key = table_files.key(table, row)
            if None in row or None in row.values():
                yield f"{table}: {key} has too many or too few cells"
            elif any(len(cell.splitlines()) > 1 for cell in row.values()):
                yield f"{table}: {key} has a cell of several lines"
            elif table in {"prices", "carbon_intensity"} and any(mark in cell for cell in key for mark in ',"'):
                yield f"{table}: {key} would need quotes"


def dates(tables: Tables) -> Iterator[str]:
    """Dates are ISO 8601; no figure is of a year after its source's date."""
    for table, rows in tables.items():
        for row in rows:
            for name in ("as_of", "source_date", "data_date"):
                if (cell := row.get(name, "")) and not _is_date(cell):
                    yield f"{table}: {table_files.key(table, row)} has the {name} {cell!r}"
    for row in tables["carbon_intensity"]:
        if row["source_date"] and row["year"] > row["source_date"][:4] and row["source"] != LEGACY_SOURCE:
            yield f"carbon_intensity: {row['code']} {row['year']} is after its source of {row['source_date']}"


def sources(tables: Tables) -> Iterator[str]:
    """Every source is explained and used, and its licence lets its rows be shipped."""
    explained = {row["source_id"]: row for row in tables["sources"]}
    using = table_files.users(tables)
    for name in sorted(set(using) - set(explained)):
        yield f"sources: {name} is used by {', '.join(sorted(using[name]))} and not explained"
    for name in sorted(set(explained) - set(using)):
        yield f"sources: {name} is explained and not used"
    for name, row in explained.items():
        for column in ("title", "publisher", "licence", "data_date"):
            if not row[column]:
                yield f"sources: {name} has no {column}"
        if FORBIDDEN.search(row["licence"]):
            yield f"sources: {name} has the licence {row['licence']}"


def source_cells(tables: Tables) -> Iterator[str]:
    """Every figure has a source, and counts of cores are all that is taken from the copy of Intel's pages."""
    for table, rows in tables.items():
        if "source" in rows[0]:
            for row in rows:
                if not row["source"]:
                    yield f"{table}: {table_files.key(table, row)} has no source"
                if COUNTS_ONLY in row["source"].split("+"):
                    yield f"{table}: {table_files.key(table, row)}: {COUNTS_ONLY} may stand in cores_source only"


def prices(tables: Tables) -> Iterator[str]:
    """Prices are above 0, of known sizes, regions and tiers."""
    sizes = {(row["cloud"], row["sku"]) for row in tables["skus"]}
    regions = {(row["cloud"], row["region"]) for row in tables["regions"]}
    for row in tables["prices"]:
        name = f"prices: {' '.join(table_files.key('prices', row))}"
        if (row["cloud"], row["sku"]) not in sizes:
            yield f"{name}: no such size"
        if row["region"] != "any" and (row["cloud"], row["region"]) not in regions:
            yield f"{name}: no such region"
        if row["tier"] not in TIERS:
            yield f"{name}: no such tier"
        if not float(row["usd_per_hour"]) > 0:
            yield f"{name}: {row['usd_per_hour']} USD an hour"


def full_prices(tables: Tables) -> Iterator[str]:
    """Spot is below the full price of the nearest date; a full price moves by less than three times between dates."""
    full: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in tables["prices"]:
        if row["tier"] == "dedicated":
            full[row["cloud"], row["sku"], row["region"]].append(row)
    for row in tables["prices"]:
        if row["tier"] != "spot":
            continue
        listed = full[row["cloud"], row["sku"], row["region"]]
        nearest = min(listed, key=lambda other, day=row["as_of"]: _days(other["as_of"], day), default=None)  # type: ignore[misc]
        if nearest and float(row["usd_per_hour"]) >= float(nearest["usd_per_hour"]):
            yield f"prices: {' '.join(table_files.key('prices', row))}: spot is not below the full price"
    for (cloud, sku, region), rows in full.items():
        for before, after in pairwise(rows):
            move = float(after["usd_per_hour"]) / float(before["usd_per_hour"])
            if not LEAST_MOVE < move < MOST_MOVE and (cloud, sku) not in KNOWN_MOVES:
                days = f"between {before['as_of']} and {after['as_of']}"
                yield f"prices: {cloud} {sku} {region} moved by {move:.2f} {days}"


def families(tables: Tables) -> Iterator[str]:
    """Within a family and region the full price is proportional to the vCPUs, and never falls with them."""
    groups: dict[tuple[str, str, str], dict[float, tuple[float, str]]] = defaultdict(dict)
    for row, size in _of_families(tables):  # in order of date: the newest stays
        family = _family(row["cloud"], row["sku"])
        if not OUT_OF_PROPORTION.search(f"{row['cloud']} {family}"):
            key = row["cloud"], family, row["region"]
            groups[key][float(size["vcpus"])] = float(row["usd_per_hour"]), row["sku"]
    for (cloud, family, region), by_vcpus in groups.items():
        order = sorted(by_vcpus.items())
        typical = statistics.median_low(usd / vcpus for vcpus, (usd, _) in order)
        for vcpus, (usd, sku) in order:
            if abs(usd / vcpus / typical - 1) > PROPORTION:
                others = f"{typical:.4f} for others of {family}"
                yield f"prices: {cloud} {sku} {region}: {usd / vcpus:.4f} USD a vCPU, {others}"
        for (_, (smaller, _)), (_, (larger, sku)) in pairwise(order):
            if larger < smaller:
                yield f"prices: {cloud} {sku} {region} costs less than a smaller one of {family}"


def _of_families(tables: Tables) -> Iterator[tuple[Row, Row]]:
    """Yield the full prices of sizes without accelerators that are of a family, each with the size's own row."""
    sizes = {(row["cloud"], row["sku"]): row for row in tables["skus"]}
    for row in tables["prices"]:
        size = sizes.get((row["cloud"], row["sku"]))
        if row["tier"] != "dedicated" or size is None or not size["vcpus"] or size["gpu_model"]:
            continue
        if _family(row["cloud"], row["sku"]):
            yield row, size


def systems(tables: Tables) -> Iterator[str]:
    """No size, family or region is priced with another operating system than Linux, nor is a whole cloud.

    Windows costs the same for each vCPU, wherever it is. So its price shows

    - in a size, as a move of just that between two dates;
    - in a family, as a surcharge over what it costs elsewhere at this region's level, which is the median ratio of the
      region's families to theirs in all regions;
    - in a region, as the offset of the line that its families' prices form over those in all regions (Theil and Sen's);
    - in families that differ by memory alone, where more memory costs less, or more than in proportion;
    - in a cloud, as vCPUs that are dear beside memory, which such families tell apart.
    """
    per_vcpu: dict[tuple[str, str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    before: dict[tuple[str, str, str], Row] = {}
    for row, size in _of_families(tables):
        cloud, sku, region, vcpus = row["cloud"], row["sku"], row["region"], float(size["vcpus"])
        usd, earlier = float(row["usd_per_hour"]) / vcpus, before.get((cloud, sku, region))
        if earlier and abs(abs(usd - float(earlier["usd_per_hour"]) / vcpus) / WINDOWS_USD_PER_VCPU - 1) < PROPORTION:
            days = f"between {earlier['as_of']} and {row['as_of']}"
            yield f"prices: {cloud} {sku} {region} moved by the price of Windows {days}"
        before[cloud, sku, region] = row
        if size["memory_gib"]:
            per_vcpu[cloud, _family(cloud, sku), region][sku] = usd, float(size["memory_gib"]) / vcpus
    families = {
        key: tuple(map(statistics.median, zip(*found.values(), strict=True))) for key, found in per_vcpu.items()
    }
    yield from _surcharges({key: usd for key, (usd, _) in families.items()})
    yield from _dear_vcpus(families)


def _surcharges(families: Mapping[tuple[str, str, str], float]) -> Iterator[str]:
    everywhere: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (cloud, family, _), usd in families.items():
        everywhere[cloud, family].append(usd)
    medians = {key: statistics.median(found) for key, found in everywhere.items() if len(found) >= REGIONS_OF_A_MEDIAN}
    regions: dict[tuple[str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    for (cloud, family, region), usd in families.items():
        if (cloud, family) in medians:
            regions[cloud, region][family] = medians[cloud, family], usd
    for (cloud, region), found in regions.items():
        if len(found) < FAMILIES_OF_A_LEVEL:
            continue
        level = statistics.median(usd / median for median, usd in found.values())
        for family, (median, usd) in found.items():
            if usd - level * median > max(MOST_ABOVE_LEVEL, MOST_ABOVE_LEVEL_RATIO * level * median):
                usual = f"{level * median:.4f} at the region's level"
                yield f"prices: {cloud} {family} {region}: {usd:.4f} USD a vCPU, {usual}; Windows?"
        slopes = [(b - d) / (a - c) for (a, b), (c, d) in combinations(found.values(), 2) if a != c]
        if slopes:
            slope = statistics.median(slopes)
            offset = statistics.median(usd - slope * median for median, usd in found.values())
            if offset > MOST_OF_A_REGION:
                yield f"prices: {cloud} {region}: {offset:.3f} USD a vCPU upon all that it sells; Windows?"


def _dear_vcpus(families: Mapping[tuple[str, str, str], tuple[float, ...]]) -> Iterator[str]:
    series: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for (cloud, family, region), (usd, gib) in families.items():
        if key := _series(cloud, family):
            series[cloud, region, key].append((gib, usd))
    ratios: dict[str, list[float]] = defaultdict(list)
    for (cloud, region, name), found in series.items():
        (least, low), (most, high) = min(found), max(found)
        if most == least:
            continue
        gib = (high - low) / (most - least)
        vcpu = low - gib * least
        if gib > 0 and vcpu > 0:
            ratios[cloud].append(vcpu / gib)
        else:
            two = f"{low:.4f} and {high:.4f} USD a vCPU with {least:g} and {most:g} GiB"
            yield f"prices: {cloud} {region}: families of {name} cost {two}; Windows?"
    for cloud, found in ratios.items():
        if (ratio := statistics.median(found)) > MOST_GIB_PER_VCPU:
            yield f"prices: {cloud}: a vCPU costs {ratio:.0f} times a GiB; Windows?"


def _series(cloud: str, family: str) -> str:
    """Return what families share that differ by memory alone: ``s_v5`` of ``Ds_v5`` and ``Es_v5``; "" for no such."""
    pattern = {"azure": r"[DE](\w*_v\d+)", "aws": r"[cmr](\d\w*)", "gcp": r"(\w+)-\w+"}[cloud]
    match = re.fullmatch(pattern, family)
    return match[1] if match else ""


def intensities(tables: Tables) -> Iterator[str]:
    """Figures are of their kind; direct is not above lifecycle; a place does not jump; a country is among its parts."""
    figures: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for row in tables["carbon_intensity"]:
        grams, name = float(row["g_co2e_per_kwh"]), f"carbon_intensity: {row['scope']} {row['code']} {row['year']}"
        if not 0 <= grams < MOST_GRAMS:
            yield f"{name}: {grams} g/kWh"
        if row["basis"] not in BASES:
            yield f"{name}: basis {row['basis']!r}"
        legacy = row["source"] == LEGACY_SOURCE
        if legacy != (row["method"] == LEGACY_METHOD):
            yield f"{name}: of CodeCarbon 1.x, of 2016: without the method {LEGACY_METHOD} a run would get it"
        if legacy:
            continue
        if row["basis"] == "mixed":
            yield f"{name}: mixes the bases"
        figure = figures[row["scope"], row["code"], row["year"]]
        if row["basis"] in figure:
            yield f"{name}: two figures of the basis {row['basis']}"
        figure[row["basis"]] = grams
    yield from _two_bases(figures)
    yield from _jumps(figures)
    yield from _parts(figures)


def _two_bases(figures: Mapping[tuple[str, str, str], Mapping[str, float]]) -> Iterator[str]:
    for (scope, code, year), figure in figures.items():
        direct, lifecycle = figure.get("direct"), figure.get("lifecycle")
        if direct is not None and lifecycle is not None and direct > lifecycle:
            yield f"carbon_intensity: {scope} {code} {year}: direct {direct} is above lifecycle {lifecycle}"
        alone = len(figure) == 1 and int(year) >= FIRST_DIRECT_YEAR and (scope, code) not in ONE_BASIS_ONLY
        if alone and scope != "group":  # groups of countries have no direct figure at all, which reports say
            only = f"{', '.join(figure)} only, the other would be of another year"
            yield f"carbon_intensity: {scope} {code} {year}: {only}"


def _jumps(figures: Mapping[tuple[str, str, str], Mapping[str, float]]) -> Iterator[str]:
    by_place: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for (scope, code, year), figure in figures.items():
        for basis, grams in figure.items():
            if scope in PARTS_OF or scope == "egrid_subregion":
                by_place[scope, code, basis][int(year)] = grams
    for (scope, code, basis), years in by_place.items():
        order = sorted(years)
        for before, after in pairwise(order):
            low, high = sorted((years[before], years[after]))
            if after - before <= 2 and high - low > YEARLY_GRAMS and high > YEARLY_MOVE * low:
                yield (
                    f"carbon_intensity: {scope} {code} {basis} goes from {years[before]} in {before} to {years[after]} "
                    f"in {after}"
                )


def _parts(figures: Mapping[tuple[str, str, str], Mapping[str, float]]) -> Iterator[str]:
    """A country's figure is a mean of its parts, so it lies among them; each part lies within what grids can be."""
    for scope, country in PARTS_OF.items():
        parts: dict[tuple[str, str], list[float]] = defaultdict(list)
        for (row_scope, _, year), figure in figures.items():
            if row_scope == scope:
                for basis, grams in figure.items():
                    parts[year, basis].append(grams)
        for (year, basis), grams in parts.items():
            whole = figures.get(("country", country, year), {}).get(basis)
            if whole is not None and not min(grams) <= whole <= max(grams):
                yield f"carbon_intensity: {country} {year} {basis} is not among its parts ({scope})"


def places(tables: Tables) -> Iterator[str]:
    """Every region has both bases for each year from 2018; zones with figures of their own have them."""
    years: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for row in tables["carbon_intensity"]:
        if row["source"] != LEGACY_SOURCE:
            years[row["scope"], row["code"], row["basis"]].add(int(row["year"]))
    for row in tables["regions"]:
        name, zone = f"regions: {row['cloud']}/{row['region']}", row["grid_zone"]
        if zone.startswith(WITH_ZONES) and not any(
            years["grid_zone", zone, basis] for basis in ("direct", "lifecycle")
        ):
            yield f"{name}: its grid zone {zone} has no figure of its own and would get its country's"
        areas = [("cloud_region", f"{row['cloud']}/{row['region']}"), ("egrid_subregion", row["egrid_subregion"])]
        areas += [("grid_zone", zone), ("country", row["country_iso3"])]
        levels = {basis: next((a for a in areas if years[(*a, basis)]), None) for basis in ("direct", "lifecycle")}
        if levels["direct"] != levels["lifecycle"]:
            yield f"{name}: direct is of {levels['direct']}, lifecycle of {levels['lifecycle']}, another area"
        for basis in levels:
            if min((year for area in areas for year in years[(*area, basis)]), default=9999) > FIRST_YEAR_OF_BOTH_BASES:
                yield f"{name}: no {basis} figure from {FIRST_YEAR_OF_BOTH_BASES} on"


def facilities(tables: Tables) -> Iterator[str]:
    """PUE and WUE of regions and providers are what they can be, and a WUE says whether it is the region's own."""
    for row in tables["regions"]:
        name = f"regions: {row['cloud']}/{row['region']}"
        for column, low, high in (("pue", 1.0, 2.0), ("wue_l_per_kwh", 0.0, 5.0)):
            if row[column] and not low <= float(row[column]) <= high:
                yield f"{name}: {column} {row[column]}"
        if bool(row["wue_l_per_kwh"]) != bool(row.get("wue_scope")):
            yield f"{name}: WUE without its scope (region or fleet)"
    for row in tables["provider_defaults"]:
        if not 1.0 <= float(row["pue"]) <= 2.0:
            yield f"provider_defaults: {row['provider']} {row['year']}: PUE {row['pue']}"


def names(tables: Tables) -> Iterator[str]:
    """Every place with a figure has a name, and every region's country."""
    countries = {row["iso3"] for row in tables["countries"]}
    for row in tables["regions"]:
        if row["country_iso3"] not in countries:
            yield f"regions: {row['cloud']}/{row['region']}: unknown country {row['country_iso3']!r}"
    named = {row["code"] for row in tables["subdivisions"]}
    for scope, code in {(row["scope"], row["code"]) for row in tables["carbon_intensity"]}:
        if scope in PARTS_OF and code not in named:
            yield f"subdivisions: {code} has a figure and no name"
        if scope == "country" and code not in countries:
            yield f"countries: {code} has a figure and no name"


def aliases(tables: Tables) -> Iterator[str]:
    """An alias means what the tables have, and nothing else does so under that name."""
    clouds, meanings = {row["cloud"] for row in tables["regions"]}, _meanings(tables)
    folded: dict[str, set[str]] = defaultdict(set)
    for row in tables.get("region_aliases", []):
        folded[_folded(row["alias"])].add(row["code"])
        if row["alias"].split("/")[0] in clouds:
            continue  # the cloud before it says which
        if others := meanings[_folded(row["alias"])] - {row["code"], ""}:
            yield f"region_aliases: {row['alias']!r} means {row['code']}, and {', '.join(sorted(others))} as well"
    for name, codes in folded.items():
        if len(codes) > 1:
            yield f"region_aliases: {name!r} means {' and '.join(sorted(codes))}"


def alias_codes(tables: Tables) -> Iterator[str]:
    """The code that an alias means is one that the tables have."""
    figures = {(row["scope"], row["code"]) for row in tables["carbon_intensity"]}
    regions = {f"{row['cloud']}/{row['region']}": row for row in tables["regions"]}
    for row in tables.get("region_aliases", []):
        alias, kind, code = row["alias"], row["kind"], row["code"]
        if kind == "cloud_region":
            known = code in regions
        elif kind == "grid_zone":
            known = (kind, code) in figures or bool(row["country_iso3"])
        else:
            known = (kind, code) in figures
        if not known:
            yield f"region_aliases: {alias!r} means {kind} {code}, which the tables do not have"


def _meanings(tables: Tables) -> dict[str, set[str]]:
    """Return the codes of what has a name of its own, by that name folded."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for row in tables["regions"]:
        names = (row["region"], row["display_name"], row["other_name"])
        for name in names[:1] if row["cloud"] == "gcp" else names:  # Google's names are those of cities and countries
            meanings[_folded(name)].add(f"{row['cloud']}/{row['region']}")
    for row in tables["countries"]:
        for name in (row["iso3"], row["iso2"], row["name"], *row["other_names"].split(";")):
            meanings[_folded(name)].add(row["iso3"])
    for row in tables["subdivisions"]:
        meanings[_folded(row["code"])].add(row["code"])
        meanings[_folded(row["name"])].add(row["code"])
    return meanings


def hardware(tables: Tables) -> Iterator[str]:
    """Every CPU has a TDP, most have cores; every size's GPU and CPU are known; no short name means a longer one."""
    for row in tables["cpus"]:
        if not row["tdp_w"] or not 0 < float(row["tdp_w"]) <= 600:
            yield f"cpus: {row['cpu_model']} has a TDP of {row['tdp_w'] or 'nothing'}"
    without = [row["cpu_model"] for row in tables["cpus"] if not row["cores"]]
    if len(without) > 0.15 * len(tables["cpus"]):
        yield f"cpus: {len(without)} of {len(tables['cpus'])} have no cores"
    names = {row["gpu_model"] for row in tables["gpus"]}
    for name in sorted(names):
        plain = SUFFIXES.sub("", name)
        if plain not in names and not any(re.match(rf"{re.escape(plain)} \d+GB", other) for other in names):
            yield f"gpus: {name} is there and {plain} is not, which is another card"
    with _installed(tables):
        for row in tables["skus"]:
            name = f"skus: {row['cloud']}/{row['sku']}"
            if row["gpu_model"]:
                exact = row["gpu_nvml_name"]
                if not (processors.gpu(exact) if exact else processors.gpus(row["gpu_model"])):
                    yield f"{name}: its GPU {exact or row['gpu_model']} is not in gpus.csv"
            if row["cpu_model"] and processors.cpu_of_sku(row["cpu_model"]) is None:
                yield f"{name}: its CPU {row['cpu_model']} is not in cpus.csv or cpu_parts.csv"


CHECKS: tuple[Callable[[Tables], Iterator[str]], ...] = (
    keys, dates, sources, source_cells, prices, full_prices, families, systems, intensities, places, names, facilities,
    aliases, alias_codes, hardware,
)  # fmt: skip


def faults(tables: Tables) -> list[str]:
    """Return every fault of the tables, each in a line that begins with the check's name."""
    return [f"{check.__name__}: {fault}" for check in CHECKS for fault in check(tables)]


@contextmanager
def _installed(tables: Tables) -> Iterator[None]:
    """Let ``greenml.factors.processors`` read these tables instead of the bundled ones."""
    caches = [function for function in vars(processors).values() if hasattr(function, "cache_clear")]
    original, original_with, blank = (
        bundled.rows,
        bundled.rows_with,
        {"threads": "", "note": "", "power_scope": ""},
    )  # which older tables lack
    bundled.rows = lambda table: tuple(blank | row for row in tables.get(table, ()))  # type: ignore[assignment]
    bundled.rows_with = lambda table, text: [row for row in bundled.rows(table) if text in "".join(row.values())]
    try:
        for cache in caches:
            cache.cache_clear()
        yield
    finally:
        bundled.rows, bundled.rows_with = original, original_with
        for cache in caches:
            cache.cache_clear()


@cache
def _family(cloud: str, sku: str) -> str:
    """Return a size's name without its number of vCPUs; empty where it has another form."""
    if cloud == "azure":
        match = re.fullmatch(r"([A-Z]+)(\d+)([a-z]*)(_v\d+)?", sku)
        return f"{match[1]}{match[3]}{match[4] or ''}" if match else ""
    if cloud == "aws":
        match = re.fullmatch(r"([a-z]\w*)\.\d*x?large", sku)
        return match[1] if match else ""
    if cloud == "gcp":
        match = re.fullmatch(r"(\w+-(?:standard|highmem|highcpu))-\d+", sku)
        return match[1] if match else ""
    return ""


def _days(first: str, second: str) -> int:
    return abs((date.fromisoformat(first) - date.fromisoformat(second)).days)


def _is_date(cell: str) -> bool:
    if not re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", cell):
        return False
    try:
        date.fromisoformat(f"{cell}-01-01"[:10])
    except ValueError:
        return False
    return True


def _folded(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower())
    return re.sub(r"[\s_.,'\u2019()-]", "", "".join(letter for letter in plain if not unicodedata.combining(letter)))


def main(arguments: Iterable[str]) -> int:
    """Print the faults."""
    parser = argparse.ArgumentParser(description="Check greenml's bundled tables.")
    parser.add_argument("folder", nargs="?", type=Path, default=DATA, metavar="FOLDER")
    folder = parser.parse_args(list(arguments)).folder
    if missing := [table for table in sorted(set(KEYS) - LATER) if not (folder / f"{table}.csv").exists()]:
        parser.error(f"{folder} has no {', '.join(f'{table}.csv' for table in missing)}")
    tables = {table: table_files.read(table, folder) for table in KEYS if (folder / f"{table}.csv").exists()}
    found = faults(tables)
    for fault in found:
        print(fault)
    print(f"{len(found)} faults in {sum(map(len, tables.values())):,} rows", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
