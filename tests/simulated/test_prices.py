"""``greenml prices`` against a service that answers as the Azure Retail Prices API documents."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from greenml import files
from greenml.errors import FactorError
from greenml.factors import places, skus
from greenml.factors import prices as cloud_prices
from greenml.factors._http import ServiceError
from greenml.factors.types import Place

from .http_service import Asked, Reply, json_reply, serve

PAGE = 100
TODAY = datetime.now(timezone.utc)
PLACES = [f"region{number:02d}" for number in range(60)]
SIZES = ["ND96asr_v4", "ND40rs_v2", "ND96isr_H100_v5", "NC24ads_A100_v4", "NC6s_v3", "NC12s_v3", "NC24s_v3",
         "NC24rs_v3", "NC48ads_A100_v4", "NC96ads_A100_v4"]  # fmt: skip


def item(size="ND40rs_v2", region="westus2", usd=22.032, kind="", **changes) -> dict[str, object]:
    """An item as the service documents it; ``kind`` is how its meter's name ends."""
    spoken = f"{size.replace('_', ' ')} {kind}".strip()
    return {
        "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": usd, "unitPrice": usd, "armRegionName": region,
        "location": region.upper(), "effectiveStartDate": "2023-04-01T00:00:00Z", "meterId": f"{size}/{region}/{kind}",
        "meterName": spoken, "productId": "DZH318Z0BPVW", "skuId": "DZH318Z0BPVW/00QZ",
        "productName": "Virtual Machines NDSv2 Series", "skuName": spoken, "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8", "serviceFamily": "Compute", "unitOfMeasure": "1 Hour", "type": "Consumption",
        "isPrimaryMeterRegion": True, "armSkuName": f"Standard_{size}",
    } | changes  # fmt: skip


def three_thousand() -> list[dict[str, object]]:
    """Ten sizes in sixty regions: three Linux tiers, one Windows meter and one of another region's."""
    items = []
    for number, size in enumerate(SIZES):
        for place, region in enumerate(PLACES):
            usd = 10.0 + number + place / 100
            items += [
                item(size, region, usd),
                item(size, region, usd * 0.11, "Spot"),
                item(size, region, usd * 0.2, "Low Priority"),
                item(size, region, usd * 1.8, productName="Virtual Machines NDSv2 Series Windows"),
                item(size, region, usd + 0.5, isPrimaryMeterRegion=False),
            ]
    return items


class Azure:
    """Answers ``$filter`` and ``$skip`` over a list of items, a page at a time, minding case.

    After ``hold_at`` pages it says nothing to one request, and sets ``held``.
    """

    def __init__(self, items: list[dict[str, object]]) -> None:
        self.items = items
        self.port = 0
        self.held = threading.Event()
        self.hold_at: int | None = None
        self.answered = 0

    def __call__(self, asked: Asked) -> Reply:
        assert asked.path == "/api/retail/prices"
        query = asked.query["$filter"]
        names = set(re.findall(r"armSkuName eq '([^']+)'", query))
        regions = set(re.findall(r"armRegionName eq '([^']+)'", query))
        assert "serviceName eq 'Virtual Machines' and priceType eq 'Consumption'" in query
        found = [
            item
            for item in self.items
            if item["armSkuName"] in names and (not regions or item["armRegionName"] in regions)
        ]
        start = int(asked.query.get("$skip", 0))
        if self.hold_at is not None and self.answered >= self.hold_at:
            self.hold_at = None
            self.held.set()
            return Reply(how="silent")
        self.answered += 1
        link = None
        if start + PAGE < len(found):
            from urllib.parse import urlencode

            link = f"http://127.0.0.1:{self.port}/api/retail/prices?"
            link += urlencode({**asked.query, "$skip": start + PAGE})
        page = found[start : start + PAGE]
        return json_reply({
            "BillingCurrency": "USD", "CustomerEntityId": "Default", "CustomerEntityType": "Retail", "Items": page,
            "NextPageLink": link, "Count": len(page),
        })  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GREENML_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def service(cache, monkeypatch):
    """A service that can be given its items; ``service.asked`` is what it was asked."""
    azure = Azure([])
    with serve(azure) as running:
        azure.port = running.port
        running.azure = azure
        monkeypatch.setenv("GREENML_AZURE_PRICES_URL", f"{running.url}/api/retail/prices")
        yield running


def update(items, service, *names, regions=()):
    service.azure.items = items
    return cloud_prices.update(
        "azure", [skus.find(name) for name in names or ("ND40rs_v2",)], regions, wait=lambda _: None
    )


def table(cache: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((cache / "prices.csv").read_text().splitlines()))


def greenml(*words, check=True):
    done = subprocess.run([sys.executable, "-m", "greenml", *words], capture_output=True, text=True, timeout=60)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def price(tier, when=TODAY, sku="ND40rs_v2", region="westus2"):
    return cloud_prices.price(skus.find(sku), places.find(region, skus.find(sku).cloud), tier, when)


def kill_after(pages: int, service, pattern="ND40rs_v2") -> None:
    """Start an update in a process of its own, and kill it while it waits for a page."""
    service.azure.answered, service.azure.hold_at = 0, pages
    service.azure.held.clear()
    process = subprocess.Popen(
        [sys.executable, "-m", "greenml", "prices", "update", "--sku", pattern],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert service.azure.held.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_three_thousand_items_killed_in_the_middle_and_started_again(service, cache):
    """Pages of 100, killed while it waits for the 13th: no table, not even a part. The next start asks for all."""
    service.azure.items = three_thousand()
    assert len(service.azure.items) == 3000
    kill_after(12, service, "N*")
    assert not (cache / "prices.csv").exists()
    asked_before = len(service.asked)

    again = greenml("prices", "update", "--sku", "N*")
    pages = len(service.asked) - asked_before
    assert f"3,000 items in {pages} pages." in again.stdout
    assert "Kept 1,800 prices of 10 sizes in 60 regions, in USD" in again.stdout
    assert "Windows 600" in again.stdout
    assert {path.name for path in cache.iterdir()} <= {"prices.csv", "update.lock"}

    rows = table(cache)
    keys = Counter((row["sku"], row["region"], row["tier"]) for row in rows)
    assert len(rows) == len(keys) == 10 * 60 * 3
    by_key = {(row["sku"], row["region"], row["tier"]): float(row["usd_per_hour"]) for row in rows}
    for number, size in enumerate(SIZES):
        usd = 10.0 + number + 0.07
        assert by_key[size, "region07", "dedicated"] == usd  # the primary meter's
        assert by_key[size, "region07", "spot"] == usd * 0.11
        assert by_key[size, "region07", "low_priority"] == usd * 0.2


def test_what_is_asked(service):
    update([item()], service, "ND40rs_v2", "ND96asr_v4", regions=["westus2"])
    (asked,) = service.asked
    assert asked.query["api-version"] == "2023-01-01-preview"
    assert asked.query["$filter"] == (
        "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and (armSkuName eq 'Standard_ND40rs_v2' or "
        "armSkuName eq 'Standard_ND96asr_A100_v4' or armSkuName eq 'Standard_ND96asr_v4') and "
        "(armRegionName eq 'westus2')"
    )


def test_a_size_under_its_second_name_is_ours(service, cache):
    update([item("ND96asr_A100_v4", usd=27.197)], service, "ND96asr_v4")
    assert [(row["sku"], row["usd_per_hour"]) for row in table(cache)] == [("ND96asr_v4", "27.197")]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"productName": "Virtual Machines NDSv2 Series Windows"}, "Windows"),
        ({"productName": "NDSv2 Series Cloud Services"}, "Cloud Services"),
        ({"productName": "NDSv2 Series CloudServices"}, "Cloud Services"),
        ({"type": "Reservation", "reservationTerm": "1 Year"}, "reservations and Dev/Test"),
        ({"type": "DevTestConsumption"}, "reservations and Dev/Test"),
        ({"reservationTerm": "3 Years"}, "reservations and Dev/Test"),
        ({"unitOfMeasure": "1/Month"}, "not by the hour"),
        ({"unitOfMeasure": "100 Hours"}, "not by the hour"),
        ({"currencyCode": "EUR"}, "not in USD"),
        ({"tierMinimumUnits": 100.0}, "volume tiers"),
        ({"armRegionName": ""}, "other regions"),
        ({"armRegionName": "eastus"}, "other regions"),
        ({"effectiveStartDate": (TODAY + timedelta(days=9)).isoformat()}, "not in force"),
        ({"effectiveEndDate": (TODAY - timedelta(days=9)).isoformat()}, "not in force"),
        ({"serviceName": "Azure Machine Learning"}, "other services"),
        ({"retailPrice": 0.0}, "no price"),
        ({"retailPrice": None}, "no price"),
        ({"retailPrice": "19.9"}, "no price"),
        ({"retailPrice": True}, "no price"),
    ],
)
def test_what_is_no_price_of_ours_is_left_out(other, reason, service, cache):
    """Each is cheaper or newer or primary, and would be the price if it were let in."""
    wrong = item(**{"usd": 99.0, "effectiveStartDate": "2026-01-01T00:00:00Z", **other})
    done = update([wrong, item(), wrong], service, regions=["westus2", *[f"x{number}" for number in range(8)]])
    assert [(row["tier"], row["usd_per_hour"], row["effective_from"]) for row in table(cache)] == [
        ("dedicated", "22.032", "2023-04-01")
    ]
    assert done.left_out == {reason: 2}


@pytest.mark.parametrize(
    ("meter", "size", "tier"),
    [
        ("ND40rs v2", "ND40rs v2", "dedicated"),
        ("ND40rs v2 Low Priority", "ND40rs v2 Low Priority", "low_priority"),
        ("ND40rs v2 Spot", "ND40rs v2 Spot", "spot"),
        ("D14/DS14 Spot", "D14 Spot", "spot"),
        ("ND40rs v2", "ND40rs v2 Low Priority", "low_priority"),
        ("ND40rs v2 Spot", "ND40rs v2", "spot"),
        ("Spotlight ND40rs v2", "ND40rs v2", "dedicated"),
    ],
)
def test_tiers_are_told_apart_by_the_end_of_the_name(meter, size, tier, service, cache):
    update([item(meterName=meter, skuName=size)], service)
    assert [row["tier"] for row in table(cache)] == [tier]


def test_of_several_meters_the_primary_then_the_newest_then_the_dearer(service, cache):
    newest = {"effectiveStartDate": "2026-02-01T00:00:00Z"}
    meters = [item(usd=5.0, isPrimaryMeterRegion=False, effectiveStartDate="2026-09-01T00:00:00Z"),
              item(usd=20.0, **newest), item(usd=21.0, **newest), item(usd=30.0)]  # fmt: skip
    done = update(meters, service)
    assert [row["usd_per_hour"] for row in table(cache)] == ["21.0"]
    assert done.left_out == {"further meters of the same price": 3}
    update([item(usd=5.0, isPrimaryMeterRegion=False)], service)  # better than none
    assert [row["usd_per_hour"] for row in table(cache)] == ["5.0"]


def test_a_table_that_cannot_be_written_is_one_line(service, cache):
    (cache / "prices.csv").mkdir(parents=True)
    (cache / "prices.csv" / "x").touch()
    with pytest.raises(FactorError, match=r"prices\.csv: cannot be written: Is a dir.*GREENML_CACHE_DIR"):
        update([item()], service)
    (cache / "prices.csv" / "x").unlink()
    (cache / "prices.csv").rmdir()
    assert update([item()], service).prices == 1


def test_a_service_that_fails_in_the_middle_leaves_the_table_as_it_was(cache, monkeypatch):
    azure = Azure([item(region=f"region{number}") for number in range(150)])
    failing = [True]

    def reply(asked):
        return Reply(503) if "$skip" in asked.query and failing[0] else azure(asked)

    stored(cache, ("dedicated", "2026-01-01", 20.0))
    before = (cache / "prices.csv").read_bytes()
    with serve(reply) as service:
        azure.port = service.port
        monkeypatch.setenv("GREENML_AZURE_PRICES_URL", f"{service.url}/api/retail/prices")
        chosen = [skus.find("ND40rs_v2")]
        with pytest.raises(ServiceError, match=r"HTTP 503\) \(6 attempts\)"):
            cloud_prices.update("azure", chosen, wait=lambda _: None)
        assert (cache / "prices.csv").read_bytes() == before
        failing[0] = False
        done = cloud_prices.update("azure", chosen, wait=lambda _: None)
    assert (done.prices, done.rows) == (150, 151)
    assert [asked.query.get("$skip") for asked in service.asked] == [None, *["100"] * 6, None, "100"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": "no"}, "no list of items"),
        ([], "no list of items"),
        ({"Items": [], "NextPageLink": "https://elsewhere.example/x"}, "another host"),
        ({"Items": [], "NextPageLink": 7}, "another host"),
        ({"Items": [None, 3, "x"], "NextPageLink": None}, "no hourly Linux price of ND40rs_v2; the table is as it was"),
    ],
)
def test_an_answer_of_another_shape_is_one_line(answer, words, cache, monkeypatch):
    with serve([json_reply(answer)]) as service:
        monkeypatch.setenv("GREENML_AZURE_PRICES_URL", service.url)
        done = greenml("prices", "update", "--sku", "ND40rs_v2", check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("greenml: Azure Retail Prices: ")


def test_pages_in_a_circle_end(cache, monkeypatch):
    def reply(asked):
        return json_reply({"Items": [item()], "NextPageLink": f"{service.url}/page"})

    with serve(reply) as service:
        monkeypatch.setenv("GREENML_AZURE_PRICES_URL", f"{service.url}/first")
        with pytest.raises(ServiceError, match="in a circle"):
            cloud_prices.update("azure", [skus.find("ND40rs_v2")])
        assert len(service.asked) == 2


def test_two_updates_at_once(service, cache):
    cache.mkdir()
    with files.locked(cache / "update.lock"):
        done = greenml("prices", "update", "--sku", "ND40rs_v2", check=False)
    assert done.returncode == 2
    assert "another 'greenml prices update' is at work" in done.stderr
    assert service.asked == []


def stored(cache: Path, *rows: tuple[str, str, float], region="westus2", sku="ND40rs_v2") -> None:
    """Write a table of fetched prices by hand: (tier, as_of, usd)."""
    cache.mkdir(exist_ok=True)
    lines = [f"azure,{sku},{region},{tier},{usd},{as_of},2020-01-01,meter,https://prices.azure.com/api/retail/prices"
             for tier, as_of, usd in sorted(rows)]  # fmt: skip
    header = "cloud,sku,region,tier,usd_per_hour,as_of,effective_from,meter,url"
    (cache / "prices.csv").write_text("\n".join([header, *lines]) + "\n")


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def test_the_nearest_date_wins_and_the_fetched_price_a_tie(cache):
    stored(cache, ("dedicated", "2026-11-20", 23.5), ("dedicated", "2021-07-01", 21.9), ("dedicated", "2022-07-01", 24))
    assert price("dedicated", day("2021-07-06")).usd_per_hour == 21.9  # the bundled 22.03 is of the same day
    assert price("dedicated", day("2026-11-21")).usd_per_hour == 23.5
    assert price("dedicated", day("2026-07-01")).usd_per_hour == 22.032  # bundled, of 2026-06-18
    assert price("dedicated", day("2022-08-01")).usd_per_hour == 24
    found = price("dedicated", day("2026-11-21"))
    assert found.source.name == "Azure Retail Prices API, fetched 2026-11-20"
    assert found.source.url == "https://prices.azure.com/api/retail/prices"
    assert (found.as_of, found.derived, found.low, found.high) == ("2026-11-20", False, 23.5, 23.5)


def test_a_run_of_2021_keeps_its_price_after_an_update(service, cache):
    before = {tier: price(tier, day("2021-07-06")) for tier in ("dedicated", "low_priority", "spot")}
    update([item(usd=25.0), item(usd=5.0, kind="Low Priority"), item(usd=3.0, kind="Spot")], service)
    assert {tier: price(tier, day("2021-07-06")) for tier in before} == before
    assert before["dedicated"].usd_per_hour == 22.03
    assert [price(tier).usd_per_hour for tier in before] == [25.0, 5.0, 3.0]


def test_a_derived_low_priority_follows_the_dedicated_price_nearest_to_the_run(cache):
    """NC24ads_A100_v4 was never listed as low priority in the bundled tables."""
    bundled = price("dedicated", day("2026-06-20"), "NC24ads_A100_v4")
    stored(cache, ("dedicated", "2026-11-20", 4.0), sku="NC24ads_A100_v4")
    derived = price("low_priority", day("2026-11-21"), "NC24ads_A100_v4")
    assert (derived.usd_per_hour, derived.derived, derived.as_of) == (0.8, True, "2026-11-20")
    assert derived.source.name == "Azure Retail Prices API, fetched 2026-11-20"

    stored(cache, ("dedicated", "2026-11-20", 4.0), ("low_priority", "2026-11-20", 0.9), sku="NC24ads_A100_v4")
    listed = price("low_priority", day("2026-11-21"), "NC24ads_A100_v4")
    assert (listed.usd_per_hour, listed.derived) == (0.9, False)
    earlier = price("low_priority", day("2026-06-20"), "NC24ads_A100_v4")
    assert earlier.derived
    assert earlier.usd_per_hour == pytest.approx(0.2 * bundled.usd_per_hour)


def test_an_earlier_fetched_price_stays_and_a_price_that_stays_takes_two_rows(service, cache):
    stored(cache, ("dedicated", "2026-03-01", 20.0), ("dedicated", "2026-04-01", 20.0), ("spot", "2026-04-01", 3.0))
    update([item(usd=20.0), item(usd=4.0, kind="Spot")], service)
    rows = [(row["tier"], row["as_of"], float(row["usd_per_hour"])) for row in table(cache)]
    now = datetime.now(timezone.utc).date().isoformat()
    assert rows == [
        ("dedicated", "2026-03-01", 20),
        ("dedicated", now, 20),
        ("spot", "2026-04-01", 3),
        ("spot", now, 4),
    ]
    update([item(usd=19.0), item(usd=4.0, kind="Spot")], service)  # the same day again: in its place
    assert [float(row["usd_per_hour"]) for row in table(cache)] == [20, 19, 3, 4]
    assert price("dedicated", day("2026-03-15")).usd_per_hour == 20


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00\xff\xfe",
        b"cloud,sku\nazure,ND40rs_v2\n",
        b"GOOD" + b"azure,ND40rs_v2,westus2,dedicated,not a number,2026-11-20,2020-01-01,m,u\n",
        b"GOOD" + b"azure,ND40rs_v2,westus2,dedicated,nan,2026-11-20,2020-01-01,m,u\n",
        b"GOOD" + b"azure,ND40rs_v2,westus2,dedicated,-1,2026-11-20,2020-01-01,m,u\n",
        b"GOOD" + b"azure,ND40rs_v2,westus2,dedicated,9.5,yesterday,2020-01-01,m,u\n",
        b"GOOD" + b"azure,ND40rs_v2,westus2,dedicated,9.5,2026-11-20\n",
        b"GOOD" + b"azure,ND40rs_v2,westus2,dedicated,9.5,2026-11-20,2020-01-01,m,u",  # cut off
    ],
)
def test_a_damaged_table_is_passed_over_with_a_note_and_replaced_by_the_next_update(text, service, cache):
    cache.mkdir()
    header = b"cloud,sku,region,tier,usd_per_hour,as_of,effective_from,meter,url\n"
    (cache / "prices.csv").write_bytes(text.replace(b"GOOD", header))
    found = price("dedicated", day("2026-11-21"))
    assert found.usd_per_hour == 22.032  # the bundled one
    assert f"the fetched prices in {cache}/prices.csv are damaged and were not used; 'greenml" in found.note
    assert "damaged" not in price("dedicated", day("2026-11-21"), "p4d.24xlarge", "us-east-1").note
    done = update([item(usd=23.0)], service)
    assert done.set_aside == cache / "prices.damaged.csv"
    assert (price("dedicated").usd_per_hour, price("dedicated").note) == (23.0, "")


def test_a_size_with_a_damaged_row_has_no_fetched_price_as_its_note_says(service, cache):
    update([item(usd=23.0)], service)
    with (cache / "prices.csv").open("a") as stream:
        stream.write("azure,ND40rs_v2,westus2,spot,nan,2026-11-20,2020-01-01,m,u\n")
    found = price("dedicated")
    assert (found.usd_per_hour, "were not used" in found.note) == (22.032, True)


def test_a_table_that_may_not_be_read_is_passed_over(cache):
    (cache / "prices.csv").mkdir(parents=True)
    assert price("dedicated", day("2026-11-21")).usd_per_hour == 22.032


def test_a_report_names_the_fetched_price(cache, tmp_path, monkeypatch):
    import greenml as package

    today = date.today().isoformat()
    stored(cache, ("dedicated", today, 23.5))
    monkeypatch.chdir(tmp_path)
    with package.track("run.json", sku="ND40rs_v2", region="westus2") as run:
        pass
    said = greenml("report", "run.json", "--markdown").stdout
    assert f"dedicated $23.50 (ND40rs_v2 in westus2, Azure Retail Prices API, fetched {today})" in said
    assert run.record.factors.prices["dedicated"].source.url == "https://prices.azure.com/api/retail/prices"


def test_listing_cheapest_first(service, cache):
    update([item(usd=25.5), item(usd=1.5, kind="Spot"), item(region="newregion", usd=20.25)], service)
    plain = json.loads(greenml("prices", "ND40rs_v2", "--json").stdout)
    amounts = [one["usd_per_hour"] for one in plain]
    assert amounts == sorted(amounts)
    assert {one["currency"] for one in plain} == {"USD"}
    now = datetime.now(timezone.utc).date().isoformat()
    assert (plain[0]["region"], plain[0]["tier"], plain[0]["as_of"], amounts[0]) == ("westus2", "spot", now, 1.5)
    new = [(one["tier"], one["usd_per_hour"], one["derived"]) for one in plain if one["region"] == "newregion"]
    assert new == [("low_priority", 4.05, True), ("dedicated", 20.25, False)]
    assert not any("for a run of" in one["note"] for one in plain)

    rows = list(csv.DictReader(io.StringIO(greenml("prices", "nd40RS_v2", "--csv", "--region", "West US 2").stdout)))
    assert [(row["tier"], float(row["usd_per_hour"])) for row in rows] == [
        ("spot", 1.5), ("low_priority", 4.41), ("dedicated", 25.5)
    ]  # fmt: skip
    text = greenml("prices", "ND40rs_v2", "--tier", "dedicated").stdout
    assert "20.2500" in text
    assert "low_priority" not in text
    assert f"Azure Retail Prices API, fetched {now}, http://127.0.0.1" in text
    assert "USD an hour of one node" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ND40rs_v3"], "did you mean 'ND40rs_v2'?"),
        (["p4d.24xlarge", "--tier", "low_priority"], "of aws's p4d.24xlarge; there is on_demand, spot in ap-"),
        (["ND40rs_v2", "--region", "norwaywest"], "price of azure's ND40rs_v2 in norwaywest; there is dedicated, low"),
        (["ND40rs_v2", "--tier", "free"], "unknown price tier 'free'"),
        (["update", "--cloud", "aws"], "prices of 'aws' cannot be updated"),
        (["update", "--sku", "ND40rs_v3"], "did you mean 'ND40rs_v2'?"),
        (["update", "--sku", "Q*"], "no SKU of azure matches 'Q*'"),
        (["update", "--sku", "p4d.24xlarge"], "is sold by aws, not by azure"),
        (["update", "--region", "nowhere"], "unknown region 'nowhere'"),
        (["update", "--region", "Sweden"], "'Sweden' is not a region of azure"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words, told, service):
    done = greenml("prices", *words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert service.asked == []


@pytest.mark.parametrize("url", ["http://example.org/prices", "file:///etc/passwd", "prices"])
def test_an_address_that_is_not_safe_is_refused(url, cache, monkeypatch):
    monkeypatch.setenv("GREENML_AZURE_PRICES_URL", url)
    with pytest.raises(ServiceError, match="is not an https address"):
        cloud_prices.update("azure", [skus.find("ND40rs_v2")])


def test_a_login_of_a_mirror_is_in_no_file_and_no_message(service, cache, monkeypatch):
    monkeypatch.setenv("GREENML_AZURE_PRICES_URL", f"http://ada:s3cr3tword@127.0.0.1:{service.port}/api/retail/prices")
    service.azure.items = [item(region=f"region{number}") for number in range(150)]
    done = greenml("prices", "update", "--sku", "ND40rs_v2")
    assert {asked.headers.get("authorization") for asked in service.asked} == {"Basic YWRhOnMzY3IzdHdvcmQ="}
    assert len(service.asked) == 2  # the second page too
    files = [path.read_text() for path in cache.rglob("*") if path.is_file()]
    assert files
    assert not [text for text in [*files, done.stdout, done.stderr] if "s3cr3tword" in text or "YWRhOn" in text]


def test_nothing_but_update_asks(service, cache):
    greenml("prices", "ND40rs_v2")
    cloud_prices.prices(skus.find("ND40rs_v2"), Place(cloud="azure", region="westus2"), TODAY)
    assert service.asked == []
    assert not os.path.exists(cache)  # noqa: PTH110
