"""Bring the tables up to date from a downloaded file or an address: one command a source.

Usage: ``python tools/refresh_tables.py SOURCE FILE_OR_URL... [--date 2026-12-01]``; ``docs/tables.md`` says where each
source's files are. Rows are merged into the table, VERSION and SOURCES.md are written, the checks are run; nothing else
changes. Look at ``git diff`` before you commit.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import check_tables
import tables
from tables import DATA, Merge, Row

# What a kWh of a fuel emits elsewhere than at the stack, g: medians of IPCC AR5 WG III, table A.III.2.
NOT_STACK = {
    "coal": 56.6, "gas": 92.6, "oil": 0.0, "nuclear": 12.0, "hydro": 24.0, "bioenergy": 230.0, "wind": 11.0,
    "solar": 48.0, "geothermal": 38.0,
}  # fmt: skip
IPCC = "ipcc-ar5-annex3"
GRAMS_PER_POUND = 453.59237
EGRID_SHARES = {
    "CLPR": "coal", "GSPR": "gas", "OLPR": "oil", "NCPR": "nuclear", "HYPR": "hydro", "BMPR": "bioenergy",
    "WIPR": "wind", "SOPR": "solar", "GTPR": "geothermal",
}  # fmt: skip
EMBER_SHARES = {
    "Coal": "coal", "Gas": "gas", "Other fossil": "oil", "Nuclear": "nuclear", "Hydro": "hydro",
    "Bioenergy": "bioenergy", "Wind": "wind", "Solar": "solar", "Other renewables": "geothermal",
}  # fmt: skip


def azure_prices(contents: Iterable[bytes], day: str) -> list[Row]:
    """Read pages of the Azure Retail Prices API: Linux machines, pay as you go, and spot.

    A size that a page gives at two prices (a meter of another product) is passed over, with a line that says so.
    """
    found: dict[tuple[str, str, str], set[float]] = defaultdict(set)
    for content in contents:
        for item in json.loads(content)["Items"]:
            meter = f"{item.get('meterName', '')} {item.get('skuName', '')}"
            name = item.get("armSkuName", "")
            if not _is_linux_by_the_hour(item) or "Low Priority" in meter:
                continue
            tier = "spot" if "Spot" in meter else "dedicated"
            found[name.removeprefix("Standard_"), item["armRegionName"], tier].add(float(item["retailPrice"]))
    for (sku, region, tier), values in found.items():
        if len(values) > 1:
            print(f"{sku} {region} {tier} has several prices: {sorted(values)}; passed over", file=sys.stderr)
    return [
        _price(("azure", sku, region, tier), next(iter(values)), day, "azure-retail-prices")
        for (sku, region, tier), values in found.items()
        if len(values) == 1
    ]


def _is_linux_by_the_hour(item: Mapping[str, Any]) -> bool:
    wanted = {"type": "Consumption", "currencyCode": "USD", "unitOfMeasure": "1 Hour"}
    other = re.search(r"windows|cloud ?services|dedicated host", item.get("productName", ""), re.IGNORECASE)
    return (
        all(item.get(name) == value for name, value in wanted.items())
        and item.get("armSkuName", "").startswith("Standard_")
        and bool(item.get("retailPrice"))
        and not other
    )


def aws_prices(contents: Iterable[bytes], day: str) -> list[Row]:
    """Read offer files of the AWS price list (AmazonEC2, JSON): Linux, shared tenancy, on demand."""
    rows = []
    for content in contents:
        offers = json.loads(content)
        as_of = day or offers["publicationDate"][:10]
        for number, product in offers["products"].items():
            facts = product["attributes"]
            wanted = {
                "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used",
            }  # fmt: skip
            if any(facts.get(name) != value for name, value in wanted.items()) or "instanceType" not in facts:
                continue
            for term in offers["terms"]["OnDemand"].get(number, {}).values():
                for dimension in term["priceDimensions"].values():
                    usd = float(dimension["pricePerUnit"].get("USD", 0))
                    if dimension["unit"] == "Hrs" and usd:
                        region = facts["regionCode"]
                        rows.append(
                            _price(("aws", facts["instanceType"], region, "dedicated"), usd, as_of, "aws-price-list")
                        )
    return rows


def gcp_prices(contents: Iterable[bytes], day: str) -> list[Row]:
    """Read ``pricing.yml`` of Cyclenerd's calculator, which is made from Google's Cloud Billing catalogue."""
    import yaml

    rows = []
    for content in contents:
        pricing = yaml.safe_load(content)
        as_of = day or datetime.fromtimestamp(pricing["about"]["timestamp"], timezone.utc).date().isoformat()
        for sku, instance in pricing["compute"]["instance"].items():
            for region, cost in (instance.get("cost") or {}).items():
                for name, tier in (("hour", "dedicated"), ("hour_spot", "spot")):
                    if cost.get(name):
                        rows.append(_price(("gcp", sku, region, tier), cost[name], as_of, "cyclenerd-gcp-prices"))
    return rows


def egrid(contents: Iterable[bytes], day: str) -> list[Row]:
    """Read EPA's eGRID workbook: CO2e total output rates of subregions, states, the country and mapped zones.

    The lifecycle figure is the direct one and what the fuels of the workbook's own shares emit elsewhere.
    """
    import openpyxl

    rows: list[Row] = []
    for content in contents:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        for sheet in book.worksheets:
            match = re.fullmatch(r"(SRL|ST|US)(\d\d)", sheet.title)
            if match:
                rows += _egrid_sheet(match[1], 2000 + int(match[2]), sheet.iter_rows(values_only=True), day)
    if not rows:
        raise SystemExit("no sheet SRL, ST or US with its year in the workbook: is it EPA's eGRID data file?")
    return [*rows, *_mapped(rows)]


def _egrid_sheet(kind: str, year: int, lines: Iterator[tuple[Any, ...]], day: str) -> Iterator[Row]:
    prefix, scope = {"SRL": ("SR", "egrid_subregion"), "ST": ("ST", "us_state"), "US": ("US", "country")}[kind]
    next(lines)  # names in words; the second line has the codes
    header = [str(cell or "") for cell in next(lines)]
    for line in lines:
        cells = dict(zip(header, line, strict=False))
        rate = cells.get(f"{prefix}C2ERTA")
        if not isinstance(rate, (int, float)):
            continue
        code = {"SRL": cells.get("SUBRGN"), "ST": f"US-{cells.get('PSTATABB')}", "US": "USA"}[kind]
        grams = rate * GRAMS_PER_POUND / 1000
        shares = {fuel: float(cells.get(f"{prefix}{column}") or 0.0) for column, fuel in EGRID_SHARES.items()}
        if sum(shares.values()) > 2:
            shares = {fuel: share / 100 for fuel, share in shares.items()}
        common = {"scope": scope, "code": str(code), "year": str(year), "gas": "co2e", "source_date": day}
        yield common | {
            "g_co2e_per_kwh": _grams(grams), "basis": "direct", "method": "location_average_production",
            "source": "epa-egrid-workbook",
        }  # fmt: skip
        if kind != "US":  # the country's lifecycle figure is Ember's
            yield common | {
                "g_co2e_per_kwh": _grams(grams + _not_stack(shares)), "basis": "lifecycle",
                "method": "derived_direct_plus_non_stack", "note": "shares of the same workbook",
                "source": f"epa-egrid-workbook+{IPCC}",
            }  # fmt: skip


def _mapped(new_rows: Iterable[Row]) -> Iterator[Row]:
    """Repeat the figures for the grid zones that the table maps on a subregion or state (``as CAMX, ...``)."""
    figures = {(row["code"], row["basis"]): row for row in new_rows}
    zones = {row["code"]: row for row in tables.read("carbon_intensity") if row["method"] == "mapped_to_egrid"}
    for zone, row in zones.items():
        match = re.match(r"as ([A-Z-]+)", row["note"])
        for basis in ("direct", "lifecycle"):
            if match and (origin := figures.get((match[1], basis))):
                yield origin | {"scope": "grid_zone", "code": zone, "method": "mapped_to_egrid", "note": row["note"]}


def ember(contents: Iterable[bytes], day: str) -> list[Row]:
    """Read Ember's yearly data in long form: lifecycle intensity by country and year, direct by its shares.

    The direct figure of a country that has one of its own authority (USA: EPA) is not touched.
    """
    intensity: dict[tuple[str, str], float] = {}
    shares: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for content in contents:
        for line in csv.DictReader(io.StringIO(content.decode("utf-8-sig"))):
            code = line.get("ISO 3 code") or line.get("Country code") or ""
            code = "WORLD" if line["Area"] == "World" else code
            if not code or not line["Value"]:
                continue
            if line["Subcategory"] == "CO2 intensity":
                intensity[code, line["Year"]] = float(line["Value"])
            elif line["Subcategory"] == "Fuel" and line["Unit"] == "%" and line["Variable"] in EMBER_SHARES:
                fuel = EMBER_SHARES[line["Variable"]]
                shares[code, line["Year"]][fuel] = float(line["Value"]) / 100
    known = {row["iso3"] for row in tables.read("countries")} | {"WORLD"}
    own = {
        (row["code"], row["year"]) for row in tables.read("carbon_intensity")
        if row["basis"] == "direct" and row["scope"] == "country" and "derived" not in row["method"]
    }  # fmt: skip
    rows = []
    for (code, year), grams in intensity.items():
        if code not in known:
            continue
        scope = "world" if code == "WORLD" else "country"
        common = {"scope": scope, "code": code, "year": year, "gas": "co2e", "source_date": day}
        rows.append(
            common
            | {"g_co2e_per_kwh": _grams(grams), "basis": "lifecycle", "method": "location_average_production",
               "source": "owid-ember"}
        )  # fmt: skip
        if shares[code, year] and (code, year) not in own and code != "USA":
            rows.append(
                common
                | {"g_co2e_per_kwh": _grams(max(0.0, grams - _not_stack(shares[code, year]))), "basis": "direct",
                   "method": "derived_lifecycle_less_non_stack", "source": f"owid-ember+owid-ember-generation+{IPCC}"}
            )  # fmt: skip
    return rows


def google_carbon(contents: Iterable[bytes], day: str, year: str = "") -> list[Row]:
    """Read a year of Google's region-carbon-info (``2025.csv``): direct; lifecycle by the difference that is known."""
    if not re.fullmatch(r"20\d\d", year):
        raise SystemExit("google-carbon needs --year: the file does not say which year it is of")
    newest: dict[tuple[str, str], Row] = {
        (row["code"], row["basis"]): row for row in tables.read("carbon_intensity")
        if row["source"] != "codecarbon-2021-cloud" and row["scope"] == "cloud_region" and row["year"] < year
    }  # fmt: skip
    rows = []
    for content in contents:
        for line in csv.DictReader(io.StringIO(content.decode("utf-8-sig"))):
            code = f"gcp/{line['Google Cloud Region'].strip()}"
            column = next(name for name in line if name.lower().startswith("grid carbon intensity"))
            if not line[column].strip():
                continue
            grams = float(line[column])
            common = {"scope": "cloud_region", "code": code, "year": year, "gas": "co2e", "source_date": day}
            rows.append(
                common
                | {"g_co2e_per_kwh": _grams(grams), "basis": "direct", "method": "location_average_hourly_grid",
                   "source": "gcp-region-carbon"}
            )  # fmt: skip
            before = newest.get((code, "direct")), newest.get((code, "lifecycle"))
            if before[0] and before[1]:
                more = max(0.0, float(before[1]["g_co2e_per_kwh"]) - float(before[0]["g_co2e_per_kwh"]))
                rows.append(
                    common
                    | {"g_co2e_per_kwh": _grams(grams + more), "basis": "lifecycle",
                       "method": "derived_direct_plus_non_stack", "source": before[1]["source"],
                       "note": f"difference to direct as in {before[1]['year']}"}
                )  # fmt: skip
            else:
                print(f"{code} has no lifecycle figure yet; give it one by hand", file=sys.stderr)
    return rows


def codecarbon_cpus(contents: Iterable[bytes], day: str) -> list[Row]:
    """Read CodeCarbon's ``cpu_power.csv``: CPUs that the table lacks; a name with several TDPs is passed over."""
    from greenml.factors import processors

    found: dict[str, set[float]] = defaultdict(set)
    for content in contents:
        for line in csv.DictReader(io.StringIO(content.decode("utf-8-sig"))):
            if re.search(r"EPYC|Xeon|Core|Ryzen|Threadripper|Apple M|Altra|Graviton", line["Name"]) and line["TDP"]:
                found[line["Name"].strip()].add(float(line["TDP"]))
    rows = []
    for name, watts in found.items():
        rating = processors.cpu(name)
        if len(watts) == 1 and (rating is None or rating.kind == "generation"):
            rows.append(
                {"cpu_model": name, "vendor": name.split()[0], "tdp_w": f"{next(iter(watts)):g}",
                 "source": "codecarbon-cpu-power-3.3.2", "source_date": day}
            )  # fmt: skip
    return rows


# Command: reader, table, and the sources that its rows name and the table of sources may not have yet.
SOURCES: Mapping[str, tuple[Callable[..., list[Row]], str, tuple[Row, ...]]] = {
    "azure-prices": (azure_prices, "prices", (
        {"source_id": "azure-retail-prices", "title": "Azure Retail Prices API", "publisher": "Microsoft",
         "repository_or_document": "prices.azure.com/api/retail/prices", "licence": "fact"},
    )),
    "aws-prices": (aws_prices, "prices", (
        {"source_id": "aws-price-list", "title": "AWS price list, AmazonEC2", "publisher": "Amazon Web Services",
         "repository_or_document": "pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current",
         "licence": "fact"},
    )),
    "gcp-prices": (gcp_prices, "prices", ()),
    "egrid": (egrid, "carbon_intensity", (
        {"source_id": "epa-egrid-workbook", "title": "eGRID data file (workbook)", "publisher": "US EPA",
         "repository_or_document": "www.epa.gov/egrid/download-data", "licence": "US public domain"},
    )),
    "ember": (ember, "carbon_intensity", ()),
    "google-carbon": (google_carbon, "carbon_intensity", ()),
    "codecarbon-cpus": (codecarbon_cpus, "cpus", ()),
}  # fmt: skip


def refresh(name: str, contents: Iterable[bytes], day: str, folder: Path = DATA, **more: str) -> Merge:
    """Merge a source's rows into its table, and the source into the table of sources.

    A figure of another source for the same place, year and basis gives way to the new one.
    """
    reader, table, new_sources = SOURCES[name]
    rows = reader(contents, day, **more)
    if not rows:
        raise SystemExit(f"{name}: nothing was found in what was given; is it the file that docs/tables.md names?")
    if table == "prices":
        result = tables.merge_prices(rows, folder)
    else:
        if table == "carbon_intensity":
            _replace_figures(rows, folder)
        result = tables.merge(table, rows, folder)
    used = tables.users({table: tables.read(table, folder)})
    explained = {row["source_id"] for row in tables.read("sources", folder)}
    added = [
        row | {"data_date": day}
        for row in new_sources
        if row["source_id"] in used and row["source_id"] not in explained
    ]
    if added:
        tables.merge("sources", added, folder)
    return result


def _replace_figures(rows: Iterable[Row], folder: Path) -> None:
    """Take figures of the same place, year and basis out of the table, but for CodeCarbon 1.x's."""
    columns = ("scope", "code", "year", "basis")
    new = {tuple(row[name] for name in columns) for row in rows}
    old = tables.read("carbon_intensity", folder)
    kept = [
        row for row in old
        if row["source"] == "codecarbon-2021-cloud" or tuple(row[name] for name in columns) not in new
    ]  # fmt: skip
    tables.write("carbon_intensity", kept, folder)


def _price(key: tuple[str, str, str, str], usd: float, as_of: str, source: str) -> Row:
    names = ("cloud", "sku", "region", "tier")
    return dict(zip(names, key, strict=True)) | {"usd_per_hour": f"{usd:.9g}", "as_of": as_of, "source": source}


def _not_stack(shares: Mapping[str, float]) -> float:
    return sum(share * NOT_STACK[fuel] for fuel, share in shares.items())


def _grams(grams: float) -> str:
    return f"{round(grams, 2):g}" if grams < 1000 else f"{grams:.2f}"


def main(arguments: list[str]) -> int:
    """Refresh one source's rows."""
    parser = argparse.ArgumentParser(description="Refresh greenml's tables from one source.")
    parser.add_argument("source", choices=sorted(SOURCES))
    parser.add_argument("locations", nargs="+", metavar="FILE_OR_URL")
    parser.add_argument("--date", default="", help="the day that the figures stood at; today where the file has none")
    parser.add_argument("--year", default="", help="of the figures, where the file has none (google-carbon)")
    options = parser.parse_args(arguments)
    dated = {"aws-prices", "gcp-prices"}  # their files say it
    day = options.date or ("" if options.source in dated else date.today().isoformat())
    more = {"year": options.year} if options.source == "google-carbon" else {}
    contents = (content for location in options.locations for content in _pages(location))
    result = refresh(options.source, contents, day, **more)
    print("\n".join([str(result), *result.notes]))
    tables.main([])
    return check_tables.main([])


def _pages(location: str) -> Iterator[bytes]:
    """Return what a location holds, and the pages that follow it (Azure's API gives a thousand prices a page)."""
    while location:
        content = tables.content_of(location)
        yield content
        page = json.loads(content) if content[:1] == b"{" and b'"NextPageLink"' in content else {}
        location = (page.get("NextPageLink") or "") if location.startswith("https://prices.azure.com/") else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
