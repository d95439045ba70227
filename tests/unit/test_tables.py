import hashlib
from pathlib import Path

import pytest
import tables as table_files

from greenml.errors import FactorError
from greenml.factors import tables

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "src" / "greenml" / "factors" / "data"
KEYS = table_files.KEYS


def test_every_shipped_table_has_a_declared_key():
    assert {path.stem for path in DATA.glob("*.csv")} == set(KEYS)


def test_nothing_is_shipped_whose_licence_forbids_it():
    for row in tables.rows("sources"):
        assert "ODbL" not in row["licence"]
        assert "AGPL" not in row["licence"] or row["source_id"] == "intel-ark-2023-copy", "counts that Intel publishes"
        assert row["source_id"] not in {"vantage-ec2-2023", "boaviztapi-2.5.0", "electricity-maps-odbl"}
    assert not any(name.startswith("embodied") for name in tables.rows("gpus")[0])


def test_sources_page_names_every_source_and_the_attributions():
    page = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    for row in tables.rows("sources"):
        assert f"### {row['source_id']}\n" in page
    flat = " ".join(page.split())
    assert "Ember (2026); Energy Institute - Statistical Review of World Energy" in flat
    assert "with major processing by Our World in Data" in flat
    assert "Green Algorithms" in flat
    assert "ODbL-1.0" in flat.split("## Left out")[1].split("## Sources")[0]


def test_what_was_read_in_a_copy_of_intels_pages_is_counts_of_cores_and_threads_alone():
    for table in set(KEYS) - {"sources"}:
        assert not any("intel-ark-2023-copy" in row.get("source", "") for row in tables.rows(table))


def test_seed_figures():
    (row,) = tables.lookup("carbon_intensity", "cloud_region", "azure/westus2", "2021")
    assert row["g_co2e_per_kwh"] == "297.6"
    dedicated, low_priority = (
        {row["as_of"]: row["usd_per_hour"] for row in tables.lookup("prices", "azure", "ND40rs_v2", "westus2", tier)}
        for tier in ("dedicated", "low_priority")
    )
    assert dedicated["2021-07-01"] == "22.03"
    assert low_priority["2021-07-01"] == "4.41"


@pytest.mark.parametrize(("table", "columns"), [("prices", ("cloud", "sku")), ("carbon_intensity", ("scope", "code"))])
def test_lookup_finds_what_a_scan_finds(table, columns):
    groups = {}
    for row in tables.rows(table):
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    for cells, rows in groups.items():
        assert tables.lookup(table, *cells) == rows


def test_version_and_sources_page_are_those_of_the_tables():
    for name, content in table_files.stamp().items():
        assert (DATA / name).read_text(encoding="utf-8") == content, f"{name}: run python tools/tables.py"


def test_lookup_takes_whole_cells_only():
    assert tables.lookup("prices", "azure", "ND40rs") == []
    assert tables.lookup("prices", "cloud") == []
    assert {row["sku"] for row in tables.lookup("prices", "azure", "NC6")} == {"NC6"}


def test_missing_table_says_what_to_do():
    with pytest.raises(FactorError, match=r"'moons\.csv' is missing .* reinstall greenml"):
        tables.rows("moons")


def test_version_is_the_hash_of_the_tables():
    digest = hashlib.sha256()
    for path in sorted(DATA.glob("*.csv")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    date, _, short = tables.version().partition("+")
    assert short == digest.hexdigest()[:12]
    assert date == max(row.get("as_of") or row.get("source_date", "") for table in KEYS for row in tables.rows(table))


def test_source_of_a_row():
    source = tables.source("vendor-gpu-datasheets+yang-2024-sc24", "2025-12-31")
    assert source.name.count(";") >= 1
    assert "Yang, Adamek, Armour, SC24" in source.name
    assert source.published == "2025-12-31"
    assert tables.source("yang-2024-sc24").url == "https://doi.org/10.1109/SC41406.2024.00028"
    assert tables.source("owid-ember").url == "https://ourworldindata.org/grapher/carbon-intensity-electricity"
    assert tables.source("seed-azureml-2021-07").url == ""
    assert tables.source("mine", "2030-01-01").name == "mine"


def test_every_source_link_is_a_link():
    for row in tables.rows("sources"):
        url = tables.source(row["source_id"]).url
        assert not url or (url.startswith("https://") and " " not in url and not url.endswith((",", ";"))), row[
            "source_id"
        ]


def test_number_of_an_empty_cell_is_not_zero():
    assert tables.number("") is None
    assert tables.number("0") == 0.0
