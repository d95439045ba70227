"""Each source's command reads a file as that source publishes it, and merges what it says into the table."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import openpyxl
import pytest
import refresh_tables
import tables as table_files

DATA = Path(__file__).parents[1] / "data" / "refresh"  # excerpts in the form in which each source publishes
DAY = "2026-12-01"


def content(name: str) -> list[bytes]:
    return [(DATA / name).read_bytes()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in table_files.DATA.glob("*.csv"):
        shutil.copy(path, tmp_path)
    return tmp_path


def price(folder: Path, *key: str) -> str | None:
    rows = {table_files.key("prices", row): row["usd_per_hour"] for row in table_files.read("prices", folder)}
    return rows.get(key)


def figures(folder: Path, scope: str, code: str, year: str) -> dict[str, tuple[float, str]]:
    return {
        row["basis"]: (float(row["g_co2e_per_kwh"]), row["source"])
        for row in table_files.read("carbon_intensity", folder)
        if (row["scope"], row["code"], row["year"]) == (scope, code, year)
    }


def test_azure_retail_prices_are_linux_alone(folder, capsys):
    result = refresh_tables.refresh("azure-prices", content("azure.json"), DAY, folder)
    assert price(folder, "azure", "ND40rs_v2", "westus2", "dedicated", DAY) == "23.5"
    assert price(folder, "azure", "ND40rs_v2", "westus2", "spot", DAY) == "4.7"
    assert price(folder, "azure", "ND40rs_v2", "westus2", "low_priority", DAY) is None
    assert price(folder, "azure", "ND40rs_v2", "eastus", "spot", DAY) is None, "at the full price it is no offer"
    assert price(folder, "azure", "D2as_v5", "eastus", "dedicated", DAY) is None, "of two prices neither is taken"
    assert "D2as_v5 eastus dedicated has several prices: [0.09, 0.17]" in capsys.readouterr().err
    assert "1 prices of sizes or regions that the tables do not have" in result.notes[0]
    assert "azure-retail-prices" in {row["source_id"] for row in table_files.read("sources", folder)}


def test_a_price_that_stays_moves_its_last_date_only(folder):
    for day in ("2026-12-01", "2027-01-01", "2027-02-01"):
        refresh_tables.refresh("azure-prices", content("azure.json"), day, folder)
    days = [
        row["as_of"]
        for row in table_files.read("prices", folder)
        if table_files.key("prices", row)[:4] == ("azure", "ND40rs_v2", "westus2", "dedicated")
    ]
    assert days[-2:] == ["2026-12-01", "2027-02-01"]


def test_aws_price_list_is_shared_linux_on_demand(folder):
    refresh_tables.refresh("aws-prices", content("aws.json"), "", folder)
    assert price(folder, "aws", "p4d.24xlarge", "us-east-1", "dedicated", "2026-12-01") == "20.5"


def test_gcp_pricing_has_its_own_date(folder):
    result = refresh_tables.refresh("gcp-prices", content("gcp.yml"), "", folder)
    assert price(folder, "gcp", "a2-highgpu-8g", "us-central1", "dedicated", "2026-12-01") == "29.38708"
    assert price(folder, "gcp", "a2-highgpu-8g", "us-central1", "spot", "2026-12-01") == "11.74"
    assert result.notes


def workbook() -> bytes:
    """A workbook as EPA's: names in words, then codes, then rows; lb/MWh and shares."""
    book = openpyxl.Workbook()
    shares = ("CLPR", "OLPR", "GSPR", "NCPR", "HYPR", "BMPR", "WIPR", "SOPR", "GTPR")
    sheets = {
        "SRL24": ("SR", ["YEAR", "SUBRGN"], [[2024, "CAMX"]]),
        "ST24": ("ST", ["YEAR", "PSTATABB"], [[2024, "VT"]]),
        "US24": ("US", ["YEAR"], [[2024]]),
    }
    for title, (prefix, columns, lines) in sheets.items():
        sheet = book.create_sheet(title)
        header = [*columns, f"{prefix}C2ERTA", *(f"{prefix}{share}" for share in shares)]
        sheet.append(["in words"] * len(header))
        sheet.append(header)
        for line in lines:
            sheet.append([*line, 400.0, 0.0, 0.0, 0.5, 0.1, 0.1, 0.0, 0.1, 0.2, 0.0])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def test_egrid_workbook(folder):
    refresh_tables.refresh("egrid", [workbook()], DAY, folder)
    direct = 400 * 0.45359237
    more = 0.5 * 92.6 + 0.1 * 12 + 0.1 * 24 + 0.1 * 11 + 0.2 * 48
    for scope, code in (("egrid_subregion", "CAMX"), ("us_state", "US-VT"), ("grid_zone", "US-CAL-CISO")):
        found = figures(folder, scope, code, "2024")
        assert found["direct"] == (pytest.approx(direct, abs=0.01), "epa-egrid-workbook")
        assert found["lifecycle"][0] == pytest.approx(direct + more, abs=0.01)
    whole = figures(folder, "country", "USA", "2024")
    assert whole["direct"][0] == pytest.approx(direct, abs=0.01), "in the place of the derived figure"
    assert whole["lifecycle"] == (383.78, "owid-ember"), "which is Ember's, and stays"


def test_ember_gives_both_bases(folder):
    refresh_tables.refresh("ember", content("ember.csv"), DAY, folder)
    found = figures(folder, "country", "FRA", "2026")
    assert found["lifecycle"] == (40.0, "owid-ember")
    assert found["direct"][0] == pytest.approx(40 - 0.7 * 12 - 0.1 * 24 - 0.1 * 11 - 0.05 * 48 - 0.05 * 92.6, abs=0.01)
    assert figures(folder, "world", "WORLD", "2026")["lifecycle"][0] == 455.0


def test_google_regions_are_direct_and_keep_their_difference(folder):
    refresh_tables.refresh("google-carbon", content("google.csv"), DAY, folder, year="2025")
    found = figures(folder, "cloud_region", "gcp/europe-west1", "2025")
    assert found["direct"] == (100.0, "gcp-region-carbon")
    assert found["lifecycle"][0] == pytest.approx(100 + 144.1 - 103.37, abs=0.01)
    with pytest.raises(SystemExit, match="--year"):
        refresh_tables.refresh("google-carbon", content("google.csv"), DAY, folder)


def test_codecarbon_adds_what_the_table_does_not_have(folder):
    result = refresh_tables.refresh("codecarbon-cpus", content("codecarbon.csv"), DAY, folder)
    rows = {row["cpu_model"]: row for row in table_files.read("cpus", folder)}
    assert (result.added, result.changed) == (2, 0)
    assert rows["AMD Ryzen 9 9999X"]["tdp_w"] == "170"
    assert "Intel Core i9-99900X" not in rows, "two TDPs for one name"
    assert rows["AMD EPYC 7742"]["source"] == "amd-product-specs", "the maker's own figure stays"


@pytest.mark.parametrize("source", ["azure-prices", "ember", "codecarbon-cpus"])
def test_a_file_of_nothing_changes_nothing(folder, source):
    empty = b'{"Items": []}' if source == "azure-prices" else b"Area,Name,TDP\n"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit, match="nothing was found"):
        refresh_tables.refresh(source, [empty], DAY, folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
