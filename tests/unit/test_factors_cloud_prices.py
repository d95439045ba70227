from datetime import date, datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import tables
from greenml.errors import FactorError, SettingsError
from greenml.factors import cloud_prices, places, skus

DAY = datetime(2021, 7, 6, tzinfo=timezone.utc)
GPU_SKUS = sorted(row["sku"] for row in tables.rows("skus") if row["cloud"] == "azure" and row["gpu_model"])


def price(sku, region, tier, when=DAY):
    found = skus.find(sku)
    place = (
        places.find(region, found.cloud if found.cloud in {"azure", "aws", "gcp"} else "")
        if region
        else places.unknown()
    )
    return cloud_prices.price(found, place, tier, when)


def test_seed_prices():
    dedicated = price("ND40rs_v2", "westus2", "dedicated")
    assert (dedicated.usd_per_hour, dedicated.as_of, dedicated.derived) == (22.03, "2021-07-01", False)
    assert (dedicated.low, dedicated.high, dedicated.note) == (22.03, 22.03, "")
    low_priority = price("ND40rs_v2", "westus2", "low_priority")
    assert (low_priority.usd_per_hour, low_priority.derived) == (4.41, False)


@pytest.mark.parametrize("tier", ["on_demand", "On-Demand", "dedicated", "on demand"])
def test_on_demand_is_dedicated(tier):
    assert price("p4d.24xlarge", "us-east-1", tier).tier == "dedicated"


@pytest.mark.parametrize("tier", ["low_priority", "low-priority", "Low priority", "LowPriority"])
def test_low_priority_by_any_spelling(tier):
    assert price("ND40rs_v2", "westus2", tier).usd_per_hour == 4.41


def test_missing_low_priority_is_derived_and_says_so():
    found = price("ND96asr_v4", "westus2", "low_priority", datetime(2023, 1, 1, tzinfo=timezone.utc))
    dedicated = price("ND96asr_v4", "westus2", "dedicated", datetime(2023, 1, 1, tzinfo=timezone.utc))
    assert dedicated.usd_per_hour == 27.197
    assert found.derived
    assert found.usd_per_hour == pytest.approx(5.4394)
    assert (found.low, found.high) == pytest.approx((0.195 * 27.197, 0.205 * 27.197))
    assert "0.20 x dedicated" in found.note
    assert found.as_of == dedicated.as_of


def test_derived_low_priority_after_its_end_is_noted():
    assert (
        "no low-priority prices after 2025"
        in price("ND96asr_v4", "westus2", "low_priority", datetime(2026, 5, 1, tzinfo=timezone.utc)).note
    )


def test_other_clouds_have_no_low_priority():
    with pytest.raises(
        FactorError, match=r"no low_priority price of p4d\.24xlarge in aws/us-east-1; prices there: dedicated"
    ):
        price("p4d.24xlarge", "us-east-1", "low_priority")


def test_spot():
    assert price("a2-highgpu-8g", "us-central1", "spot").usd_per_hour == 15.42416


def test_region_without_a_price_lists_those_with_one():
    with pytest.raises(FactorError) as caught:
        price("ND40rs_v2", "norwaywest", "dedicated")
    assert str(caught.value) == (
        "no price of azure's ND40rs_v2 in azure/norwaywest; regions with a price: "
        "eastus, southcentralus, southeastasia, usgovarizona, usgovvirginia, westeurope, westus2"
    )


def test_unknown_region_and_another_clouds_region():
    with pytest.raises(FactorError, match="in an unknown region; regions with a price: eastus"):
        price("ND40rs_v2", "", "dedicated")
    with pytest.raises(FactorError, match="in aws/us-east-1"):
        cloud_prices.price(skus.find("ND40rs_v2"), places.find("us-east-1"), "dedicated", DAY)
    with pytest.raises(FactorError, match=r"and [0-9]+ more"):
        price("D2s_v3", "", "dedicated")


def test_one_price_everywhere_needs_no_region():
    found = price("lambda/1x H100 PCIe 80GB", "SWE", "dedicated")
    assert (found.usd_per_hour, found.region) == (3.29, "any")


def test_unknown_tier():
    with pytest.raises(SettingsError, match="unknown price tier 'reserved'; give one of dedicated, low_priority, spot"):
        price("ND40rs_v2", "westus2", "reserved")


def test_old_price_is_noted():
    assert price("ND96asr_v4", "westus2", "dedicated").note == "price of 2026-06-18 for a run of 2021-07-06"


def test_prices_are_all_tiers_in_order():
    sku, place = skus.find("ND40rs_v2"), places.find("westus2")
    assert list(cloud_prices.prices(sku, place, DAY)) == ["dedicated", "low_priority", "spot"]
    assert cloud_prices.prices(sku, places.find("norwaywest"), DAY) == {}


@given(st.sampled_from(GPU_SKUS), st.dates(date(2018, 1, 1), date(2030, 12, 31)))
def test_price_is_the_nearest_in_time(name, day):
    when = datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc)
    sku = skus.find(name)
    rows = tables.lookup("prices", "azure", name)
    for region in {row["region"] for row in rows}:
        for tier, found in cloud_prices.prices(sku, places.find(region), when).items():
            base = "dedicated" if found.derived else tier
            dates = [row["as_of"] for row in rows if (row["region"], row["tier"]) == (region, base)]
            distance = abs((date.fromisoformat(found.as_of) - day).days)
            assert distance == min(abs((date.fromisoformat(one) - day).days) for one in dates)
            assert found.low <= found.usd_per_hour <= found.high
            assert found.derived == (found.low < found.high)


def test_every_azure_gpu_size_with_a_dedicated_price_has_a_low_priority_one():
    for name in GPU_SKUS:
        for region in {row["region"] for row in tables.lookup("prices", "azure", name) if row["tier"] == "dedicated"}:
            assert "low_priority" in cloud_prices.prices(skus.find(name), places.find(region), DAY)
