"""What must be true of the tables is held, and each fault that an audit found in the first edition is caught."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import check_tables
import pytest
import tables as table_files
from tables import Row, Tables

FAULTY = Path(__file__).parents[1] / "data" / "faulty_tables"  # rows of the first edition, as they were shipped
DS_V5 = {f"D{vcpus}s_v5" for vcpus in (2, 4, 8, 16, 32, 48, 64, 96)}
Edit = Callable[[Tables], None]


@pytest.fixture(scope="module")
def shipped() -> Tables:
    return table_files.read_all()


@pytest.fixture
def tables(shipped: Tables) -> Tables:
    return {name: [dict(row) for row in rows] for name, rows in shipped.items()}


def test_the_tables_have_no_fault(tables):
    assert check_tables.faults(tables) == []


def first_edition(table: str, *, where: Callable[[Row], bool]) -> Edit:
    """Put the first edition's rows in the place of today's of the same size, region and tier, or place and year."""

    def edit(tables: Tables) -> None:
        with (FAULTY / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
            old = [row for row in csv.DictReader(stream) if where(row)]
        assert old
        columns = table_files.KEYS[table][:4] if table == "prices" else ("scope", "code", "year")
        replaced = {tuple(row[name] for name in columns) for row in old}
        kept = [row for row in tables[table] if tuple(row[name] for name in columns) not in replaced]
        blank = dict.fromkeys(tables[table][0], "")
        tables[table] = sorted([*kept, *(blank | row for row in old)], key=lambda row: table_files.key(table, row))
        known = {row["source_id"] for row in tables["sources"]}
        used = {part for row in old for part in row["source"].split("+")}
        explained = tables["sources"][0] | {"licence": "fact"}
        tables["sources"] += [explained | {"source_id": name} for name in sorted(used - known)]
        tables["sources"].sort(key=lambda row: row["source_id"])

    return edit


def without(table: str, *, where: Callable[[Row], bool]) -> Edit:
    def edit(tables: Tables) -> None:
        count = len(tables[table])
        tables[table] = [row for row in tables[table] if not where(row)]
        assert len(tables[table]) < count

    return edit


def changed(table: str, key: tuple[str, ...], **cells: str) -> Edit:
    def edit(tables: Tables) -> None:
        (row,) = (row for row in tables[table] if table_files.key(table, row) == key)
        row.update(cells)

    return edit


def added(table: str, **cells: str) -> Edit:
    def edit(tables: Tables) -> None:
        row = dict.fromkeys(tables[table][0], "") | {"source": "place-names", "source_date": "2026-11-28"} | cells
        tables[table] = sorted([*tables[table], row], key=lambda row: table_files.key(table, row))

    return edit


def of_windows(*, where: Callable[[Row], bool], newest_only: bool = False) -> Edit:
    """Put the price of Windows, 0.046 USD a vCPU and hour, upon sizes without accelerators."""

    def edit(tables: Tables) -> None:
        vcpus = {(row["cloud"], row["sku"]): float(row["vcpus"] or 0) for row in tables["skus"] if not row["gpu_model"]}
        newest = {table_files.key("prices", row)[:4]: row for row in tables["prices"]}
        rows = newest.values() if newest_only else tables["prices"]
        found = [
            row for row in rows if row["tier"] == "dedicated" and where(row) and vcpus.get((row["cloud"], row["sku"]))
        ]
        assert found
        for row in found:
            usd = float(row["usd_per_hour"]) + 0.046 * vcpus[row["cloud"], row["sku"]]
            row["usd_per_hour"] = f"{usd:.6g}"

    return edit


@pytest.mark.slow
def test_any_region_family_and_cloud_at_the_price_of_windows_is_caught(tables):
    """Each region of three clouds by itself, each family in some regions, each cloud, and all; where families tell."""
    rows = [row for row in tables["prices"] if row["cloud"] in {"azure", "aws", "gcp"} and row["tier"] == "dedicated"]
    original = [row["usd_per_hour"] for row in rows]

    def caught(where: Callable[[Row], bool]) -> list[str]:
        of_windows(where=where)(tables)
        found = list(check_tables.systems(tables))
        for row, usd in zip(rows, original, strict=True):
            row["usd_per_hour"] = usd
        return found

    families = {(row["cloud"], check_tables._family(row["cloud"], row["sku"]), row["region"]) for row in rows}
    general = [("azure", "Es_v5"), ("aws", "r5"), ("gcp", "n2-standard")]
    regions = sorted((cloud, region) for cloud, family, region in families if (cloud, family) in general)
    assert len(regions) > 100
    for cloud, region in regions[::9]:
        found = caught(lambda row, here=(cloud, region): (row["cloud"], row["region"]) == here)
        assert any(f"{cloud} {region}: 0.0" in fault for fault in found), (cloud, region)
    for region in ("eastus", "centralindia", "japaneast", "switzerlandwest"):
        for family in ("Das_v5", "Ds_v5", "Es_v5", "Eads_v5", "Fs_v2"):
            here = lambda row, family=family, region=region: (  # noqa: E731
                row["region"] == region and check_tables._family("azure", row["sku"]) == family
            )
            if ("azure", family, region) in families:
                found = caught(here)
                assert any(family in fault or region in fault for fault in found), (family, region)
    for clouds in ({"azure"}, {"aws"}, {"gcp"}, {"azure", "aws", "gcp"}):
        found = caught(lambda row, clouds=clouds: row["cloud"] in clouds)
        assert {fault.split()[1].rstrip(":") for fault in found if "a vCPU costs" in fault} == clouds


AUDITED = {
    "a price list's next date with the price of Windows": (
        of_windows(
            where=lambda row: (row["sku"], row["region"]) == ("m5.xlarge", "us-east-1"), newest_only=True
        ),
        "systems: prices: aws m5.xlarge us-east-1 moved by the price of Windows between",
    ),
    "a family at the price of Windows": (
        of_windows(where=lambda row: row["region"] == "westeurope" and row["sku"] in DS_V5),
        "systems: prices: azure Ds_v5 westeurope: 0.1035 USD a vCPU, 0.0584 at the region's level; Windows?",
    ),
    "a region at the price of Windows": (
        of_windows(where=lambda row: row["region"] == "westeurope"),
        "systems: prices: azure westeurope: 0.04",
    ),
    "everything at the price of Windows": (
        of_windows(where=lambda row: True),
        "systems: prices: gcp: a vCPU costs",
    ),
    "Windows prices of Azure's AMD sizes": (
        first_edition("prices", where=lambda row: row["region"] == "eastus" and row["sku"].startswith("D")),
        "families: prices: azure D2as_v5 eastus: 0.0890 USD a vCPU, 0.0430 for others of Das_v5",
    ),
    "Windows prices in another family and region": (
        first_edition("prices", where=lambda row: row["region"] == "swedencentral" and row["sku"].startswith("E")),
        "families: prices: azure E",
    ),
    "Vermont as its ZIP codes' subregion": (
        first_edition("carbon_intensity", where=lambda row: row["code"] == "US-VT"),
        "intensities: carbon_intensity: us_state US-VT direct goes from 25.8 in 2016 to 236.91 in 2018",
    ),
    "Wyoming as a mix of its ZIP codes' subregions": (
        first_edition("carbon_intensity", where=lambda row: row["code"] == "US-WY"),
        "intensities: carbon_intensity: us_state US-WY direct goes from 919.1 in 2016 to 463.63 in 2018",
    ),
    "California's grid zone at the national average": (
        without("carbon_intensity", where=lambda row: row["code"] == "US-CAL-CISO"),
        "places: regions: azure/westus: its grid zone US-CAL-CISO has no figure of its own",
    ),
    "Calgary at Canada's mean": (
        without("carbon_intensity", where=lambda row: row["code"] == "CA-AB" and row["scope"] == "grid_zone"),
        "places: regions: aws/ca-west-1: its grid zone CA-AB has no figure of its own",
    ),
    "runs of 2020 to 2022 on rows of 2016": (
        first_edition("carbon_intensity", where=lambda row: row["source"] == "codecarbon-2021-cloud"),
        "intensities: carbon_intensity: cloud_region azure/westus2 2021: of CodeCarbon 1.x, of 2016",
    ),
    "SE3 direct beside Norway lifecycle": (
        without("carbon_intensity", where=lambda row: row["code"] == "SE-SE3" and row["basis"] == "lifecycle"),
        "places: regions: azure/swedencentral: direct is of ('grid_zone', 'SE-SE3'), lifecycle of ('country', 'SWE')",
    ),
    "direct and lifecycle as one figure": (
        changed(
            "carbon_intensity",
            ("country", "FRA", "2024", "lifecycle", "owid-ember"),
            basis="direct",
            g_co2e_per_kwh="41",
        ),
        "intensities: carbon_intensity: country FRA 2024: two figures of the basis direct",
    ),
    "direct above lifecycle": (
        changed("carbon_intensity", ("country", "FRA", "2024", "lifecycle", "owid-ember"), g_co2e_per_kwh="12"),
        "intensities: carbon_intensity: country FRA 2024: direct 18.8 is above lifecycle 12.0",
    ),
    "one basis in a year": (
        without(
            "carbon_intensity",
            where=lambda row: (row["code"], row["year"], row["basis"]) == ("US-KS", "2016", "lifecycle"),
        ),
        "intensities: carbon_intensity: us_state US-KS 2016: direct only, the other would be of another year",
    ),
    "a CPU without TDP": (
        changed("cpus", ("AMD EPYC 7V13",), tdp_w=""),
        "hardware: cpus: AMD EPYC 7V13 has a TDP of nothing",
    ),
    "a size's CPU that no table has": (
        without("cpus", where=lambda row: row["cpu_model"].startswith("AWS Graviton")),
        "hardware: skus: aws/",
    ),
    "RTX 5070 taken for a 5070 Ti": (
        without("gpus", where=lambda row: row["gpu_model"] == "NVIDIA GeForce RTX 5070"),
        "hardware: gpus: NVIDIA GeForce RTX 5070 Ti is there and NVIDIA GeForce RTX 5070 is not",
    ),
    "a size's GPU that no table has": (
        without("gpus", where=lambda row: row["gpu_model"] == "Tesla V100-SXM2-32GB"),
        "hardware: skus: azure/ND40rs_v2: its GPU Tesla V100-SXM2-32GB is not in gpus.csv",
    ),
    "spot at the full price": (
        added(
            "prices", cloud="azure", sku="ND40rs_v2", region="westus2", tier="spot", usd_per_hour="22.032",
            as_of="2025-02-13", source="karpenter-azure-prices",
        ),
        "full_prices: prices: azure ND40rs_v2 westus2 spot 2025-02-13: spot is not below the full price",
    ),
    "a price that leaps": (
        added(
            "prices", cloud="azure", sku="ND40rs_v2", region="westus2", tier="dedicated", usd_per_hour="220.3",
            as_of="2026-06-19", source="karpenter-azure-prices",
        ),
        "full_prices: prices: azure ND40rs_v2 westus2 moved by 10.00 between",
    ),
    "a price below that of a smaller size": (
        changed("prices", ("azure", "D16as_v5", "eastus", "dedicated", "2026-06-18"), usd_per_hour="0.3"),
        "families: prices: azure D16as_v5 eastus costs less than a smaller one of Das_v5",
    ),
    "an alias of a second meaning": (
        added("region_aliases", alias="Georgia", kind="us_state", code="US-GA"),
        "aliases: region_aliases: 'Georgia' means US-GA, and GEO as well",
    ),
    "an alias of nothing": (
        added("region_aliases", alias="Atlantis", kind="country", code="ATL"),
        "alias_codes: region_aliases: 'Atlantis' means country ATL, which the tables do not have",
    ),
    "a source that nobody explains": (
        changed("gpus", ("NVIDIA A10",), source="hearsay"),
        "sources: sources: hearsay is used by gpus and not explained",
    ),
    "a licence that forbids it": (
        changed("sources", ("owid-ember",), licence="ODbL-1.0"),
        "sources: sources: owid-ember has the licence ODbL-1.0",
    ),
    "a key that is there twice": (
        added("skus", cloud="azure", sku="ND40rs_v2"),
        "keys: skus: ('azure', 'ND40rs_v2') is there twice",
    ),
    "a date that is none": (
        changed("gpus", ("NVIDIA A10",), source_date="last June"),
        "dates: gpus: ('NVIDIA A10',) has the source_date 'last June'",
    ),
    "water without its scope": (
        changed("regions", ("azure", "westus2"), wue_scope=""),
        "facilities: regions: azure/westus2: WUE without its scope",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AUDITED)
def test_a_fault_is_caught(tables, name):
    edit, fault = AUDITED[name]
    check, _, line = fault.partition(": ")
    assert list(getattr(check_tables, check)(tables)) == []
    edit(tables)
    assert [found for found in getattr(check_tables, check)(tables) if found.startswith(line)]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    for table, rows in table_files.read_all().items():
        table_files.write(table, rows, tmp_path) if table != "gpus" else None
    gpus = [row for row in table_files.read("gpus") if row["gpu_model"] != "NVIDIA GeForce RTX 5070"]
    table_files.write("gpus", gpus, tmp_path)
    assert check_tables.main([str(tmp_path)]) == 1
    assert "RTX 5070 Ti is there" in capsys.readouterr().out


def test_a_folder_without_the_tables_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        check_tables.main([str(tmp_path)])
    assert exit_.value.code == 2
    assert f"{tmp_path} has no carbon_intensity.csv, countries.csv, cpus.csv" in capsys.readouterr().err
