from datetime import datetime, timezone

import pytest

from greenml.factors import places, pue_water, tables

DAY = datetime(2023, 7, 6, tzinfo=timezone.utc)


def at(place, cloud="", when=DAY):
    return pue_water.pue(places.find(place, cloud), when)


def test_region_of_the_provider():
    found = at("westus2")
    assert (found.ratio, found.scope, found.year, found.note) == (1.15, "region", 2023, "")
    assert "Green Software Foundation" in found.source.name
    assert "Power Profiler" not in found.source.name


def test_figure_of_another_year_is_noted():
    assert "figure of 2023, 2 years after the run" in at("westus2", when=datetime(2021, 7, 6, tzinfo=timezone.utc)).note


def test_design_values_are_noted():
    assert "design value" in at("mexicocentral").note


def test_fleet_average_has_the_band_of_the_providers_regions():
    found = at("uksouth")
    assert (found.ratio, found.low, found.high, found.scope, found.year) == (
        1.18,
        1.11,
        1.35,
        "provider",
        2023,
    )
    assert "fleet average" in found.note
    assert at("eu-west-2").ratio == 1.15
    assert at("europe-west3").ratio == 1.1


@pytest.mark.parametrize(
    ("place", "year", "ratio", "data_year"),
    [
        ("uksouth", 2026, 1.17, 2025),
        ("uksouth", 2024, 1.16, 2024),
        ("uksouth", 2021, 1.18, 2023),
        ("eu-west-2", 2025, 1.14, 2025),
        ("gcp/europe-west3", 2022, 1.1, 2021),
        ("ovhcloud/GRA", 2023, 1.29, 2022),
    ],
)
def test_fleet_average_of_the_last_year_not_after_the_run(place, year, ratio, data_year):
    found = at(place, when=datetime(year, 7, 6, tzinfo=timezone.utc))
    assert (found.ratio, found.scope, found.year) == (ratio, "provider", data_year)


def test_water_of_the_region_before_that_of_the_fleet_and_the_fleet_is_called_so():
    """Cape Town's figure in the table is AWS's average of all regions; it is not taken for the region's own."""
    own = pue_water.wue(places.find("westus2"), DAY)
    fleet = pue_water.wue(places.find("aws/af-south-1"), DAY)
    assert (own.scope, own.year) == ("region", 2022)
    assert (fleet.scope, fleet.liters_per_kwh, fleet.year) == ("fleet", 0.18, 2023)
    assert "fleet average" in fleet.note


def test_a_clouds_name_is_enough_for_its_fleet_average():
    assert at("SWE", cloud="azure").scope == "provider"


@pytest.mark.parametrize("place", [places.unknown(), places.find("SWE"), places.find("SWE", "lambda")])
def test_without_a_provider_it_is_one_and_says_so(place):
    found = pue_water.pue(place, DAY)
    assert (found.ratio, found.low, found.high, found.scope) == (1.0, 1.0, 1.58, "none")
    assert "IT energy only" in found.note


def test_every_region_has_a_ratio_inside_its_band():
    for row in tables.rows("regions"):
        found = at(f"{row['cloud']}/{row['region']}")
        assert 1.0 <= found.low <= found.ratio <= found.high < 1.6
