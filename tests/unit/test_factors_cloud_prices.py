from datetime import date, datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import FactorError, SettingsError
from greenml.factors import places, skus, tables
from greenml.factors import prices as cloud_prices

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


@pytest.mark.parametrize(("sku", "derived"), [("ND96asr_v4", True), ("ND40rs_v2", False)])
def test_low_priority_after_its_end_is_noted(sku, derived):
    found = price(sku, "westus2", "low_priority", datetime(2026, 5, 1, tzinfo=timezone.utc))
    assert found.derived == derived
    assert "no low-priority prices after 2025" in found.note
    assert "after 2025" not in price(sku, "westus2", "low_priority", datetime(2025, 5, 1, tzinfo=timezone.utc)).note


def test_other_clouds_have_no_low_priority():
    with pytest.raises(
        FactorError, match=r"no low_priority price of p4d\.24xlarge in aws/us-east-1; prices there: on_demand"
    ):
        price("p4d.24xlarge", "us-east-1", "low_priority")


def test_spot():
    assert price("a2-highgpu-8g", "us-central1", "spot").usd_per_hour == 8.816124


def test_spot_of_several_zones_is_called_their_median():
    when = datetime(2025, 2, 13, tzinfo=timezone.utc)
    spot = price("p4d.24xlarge", "us-east-1", "spot", when)
    assert (spot.usd_per_hour, spot.as_of) == (10.5584, "2025-02-13")
    assert spot.note == "the median over the region's zones, each of which has its own spot price"
    assert price("p4d.24xlarge", "us-east-1", "dedicated", when).note == ""


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
    for name, usd in (
        ("lambda/gpu_8x_h100_sxm5", 31.92),
        ("oci/BM.GPU.A10.4", None),
        ("crusoe/8x A100 PCIe 80GB", None),
    ):
        found = price(name, "", "on_demand")
        assert found.region == "any"
        assert usd is None or found.usd_per_hour == usd
    assert price("lambda/1x H100 PCIe 80GB", "SWE", "dedicated").region == "any"


def test_unknown_tier():
    with pytest.raises(SettingsError, match="unknown price tier 'reserved'; give one of dedicated, low_priority, spot"):
        price("ND40rs_v2", "westus2", "reserved")


def test_old_price_is_noted():
    assert price("ND96asr_v4", "westus2", "dedicated").note == "price of 2023-10-27, 843 days after the run"


@pytest.mark.parametrize(
    ("sku", "region", "day", "usd", "as_of"),
    [
        ("p4d.24xlarge", "us-east-1", "2023-03-01", 32.7726, "2022-07-05"),
        ("p4d.24xlarge", "us-east-1", "2025-05-31", 32.7726, "2025-05-31"),
        ("p4d.24xlarge", "us-east-1", "2025-06-02", 21.9576, "2025-06-01"),
        ("p5.48xlarge", "us-east-1", "2024-06-01", 98.32, "2023-09-18"),
        ("ND96isr_MI300X_v5", "brazilsouth", "2025-01-01", 176.976, "2024-12-13"),
        ("ND96isr_MI300X_v5", "brazilsouth", "2025-12-31", 96.0, "2025-05-16"),
    ],
)
def test_a_run_pays_what_it_cost_at_its_time(sku, region, day, usd, as_of):
    """The last price not after the run, on both sides of a cut."""
    found = price(sku, region, "dedicated", datetime.fromisoformat(day).replace(tzinfo=timezone.utc))
    assert (found.usd_per_hour, found.as_of) == (pytest.approx(usd, abs=0.001), as_of)


def test_a_marketplace_median_is_called_so():
    sku = next(sku for sku in skus.search("*") if sku.cloud == "vast")
    when = datetime(2026, 9, 20, tzinfo=timezone.utc)
    found = cloud_prices.price(sku, places.unknown(), "on_demand", when)
    assert "a marketplace: the median of the offers of that day" in found.note
    assert "marketplace" not in price("lambda/gpu_8x_h100_sxm5", "", "on_demand", when).note


def test_tiers_are_called_as_the_cloud_calls_them():
    assert cloud_prices.tier_label("dedicated", "azure") == "dedicated"
    assert {cloud_prices.tier_label("dedicated", cloud) for cloud in ("aws", "gcp", "lambda")} == {"on_demand"}
    assert cloud_prices.tier_label("spot", "aws") == "spot"


def test_spot_that_is_not_below_dedicated_is_no_tier():
    when = datetime(2025, 2, 13, tzinfo=timezone.utc)
    both = 0
    for sku in (skus.find(name) for name in GPU_SKUS):
        for region in {row["region"] for row in tables.lookup("prices", "azure", sku.name) if row["tier"] == "spot"}:
            found = cloud_prices.prices(sku, places.find(region), when)
            both += "spot" in found
            assert "spot" not in found or found["spot"].usd_per_hour < found["dedicated"].usd_per_hour
    assert both > 50


def test_prices_are_all_tiers_in_order():
    sku, place = skus.find("ND40rs_v2"), places.find("westus2")
    assert list(cloud_prices.prices(sku, place, DAY)) == ["dedicated", "low_priority", "spot"]
    assert cloud_prices.prices(sku, places.find("norwaywest"), DAY) == {}


@given(st.sampled_from(GPU_SKUS), st.dates(date(2018, 1, 1), date(2030, 12, 31)))
def test_price_is_the_last_not_after_the_run(name, day):
    when = datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc)
    sku = skus.find(name)
    rows = tables.lookup("prices", "azure", name)
    for region in {row["region"] for row in rows}:
        for tier, found in cloud_prices.prices(sku, places.find(region), when).items():
            base = "dedicated" if found.derived else tier
            dates = [row["as_of"] for row in rows if (row["region"], row["tier"]) == (region, base)]
            before = [as_of for as_of in dates if as_of <= day.isoformat()]
            assert found.as_of == (max(before) if before else min(dates))
            assert found.low <= found.usd_per_hour <= found.high
            assert found.derived == (found.low < found.high)


def test_every_azure_gpu_size_with_a_dedicated_price_has_a_low_priority_one():
    for name in GPU_SKUS:
        for region in {row["region"] for row in tables.lookup("prices", "azure", name) if row["tier"] == "dedicated"}:
            assert "low_priority" in cloud_prices.prices(skus.find(name), places.find(region), DAY)
