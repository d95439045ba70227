from datetime import datetime, timezone

import pytest

from greenml import tables
from greenml.factors import facility, places

DAY = datetime(2023, 7, 6, tzinfo=timezone.utc)


def at(place, cloud="", when=DAY):
    return facility.pue(places.find(place, cloud), when)


def test_region_of_the_provider():
    found = at("westus2")
    assert (found.ratio, found.scope, found.year, found.note) == (1.15, "region", 2023, "")
    assert "Green Software Foundation" in found.source.name
    assert "Power Profiler" not in found.source.name


def test_figure_of_another_year_is_noted():
    assert "figure of 2023 for a run of 2021" in at("westus2", when=datetime(2021, 7, 6, tzinfo=timezone.utc)).note


def test_design_values_are_noted():
    assert "design value" in at("mexicocentral").note


def test_fleet_average_has_the_band_of_the_providers_regions():
    found = at("uksouth")
    assert (found.ratio, found.low, found.high, found.scope, found.year) == (
        1.185,
        1.11,
        1.35,
        "provider",
        None,
    )
    assert at("eu-west-2").ratio == 1.135
    assert at("europe-west3").ratio == 1.1
    assert at("SWE", cloud="azure").scope == "provider"


@pytest.mark.parametrize("place", [places.unknown(), places.find("SWE"), places.find("SWE", "lambda")])
def test_without_a_provider_it_is_one_and_says_so(place):
    found = facility.pue(place, DAY)
    assert (found.ratio, found.low, found.high, found.scope) == (1.0, 1.0, 1.58, "none")
    assert "IT energy only" in found.note


def test_every_region_has_a_ratio_inside_its_band():
    for row in tables.rows("regions"):
        found = at(f"{row['cloud']}/{row['region']}")
        assert 1.0 <= found.low <= found.ratio <= found.high < 1.6
