from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.factors import places, tables
from greenml.factors.grid_average import basis_name, carbon_intensity, codecarbon_1x
from greenml.factors.types import Place

REGIONS = [f"{row['cloud']}/{row['region']}" for row in tables.rows("regions")]
CODES = [
    *REGIONS,
    *(row["iso3"] for row in tables.rows("countries")),
    *(row["code"] for row in tables.rows("subdivisions")),
]


def at(place, year, basis="direct"):
    start = datetime(year, 6, 1, tzinfo=timezone.utc)
    place = places.find(place) if isinstance(place, str) else place
    return carbon_intensity(place, start, start + timedelta(hours=5), basis)


def test_a_run_of_2021_gets_the_grid_of_2021_and_not_codecarbons_old_row():
    found = at("azure/westus2", 2021)
    assert (found.grams_per_kwh, found.scope, found.code, found.year, found.basis) == (
        289.63, "egrid_subregion", "NWPP", 2021, "direct",
    )  # fmt: skip
    old = codecarbon_1x("azure", "westus2")
    assert old is not None
    assert (old.grams_per_kwh, old.scope, old.code) == (297.6, "cloud_region", "azure/westus2")
    assert "CodeCarbon" in old.source.name
    assert codecarbon_1x("azure", "swedencentral") is None


@pytest.mark.parametrize(
    ("place", "year", "scope", "data_year", "direct", "lifecycle"),
    [
        ("westus2", 2019, "egrid_subregion", 2019, 326.53, 373.04),
        ("westus2", 2023, "egrid_subregion", 2023, 288.15, 335.39),
        ("westus2", 2026, "egrid_subregion", 2023, 288.15, 335.39),
        ("us-west-2", 2021, "egrid_subregion", 2021, 289.63, 335.24),
        ("uksouth", 2021, "country", 2021, 192.59, 267.1),
        ("northeurope", 2021, "country", 2021, 291.53, 351.92),
        ("gcp/us-central1", 2020, "cloud_region", 2020, 413.57, 454.0),
        ("gcp/us-central1", 2024, "cloud_region", 2024, 412.72, 453.02),
        ("swedencentral", 2024, "grid_zone", 2024, 2.73, 32.67),
        ("CAISO", 2023, "grid_zone", 2023, 195.04, 257.1),
        ("ca-west-1", 2023, "grid_zone", 2023, 394.31, 474.86),
        ("coreweave/US-EAST-05", 2022, "us_state", 2022, 336.2, 404.29),
        ("lambda/us-east-1", 2022, "us_state", 2022, 267.61, 335.59),
        ("chinaeast2", 2022, "cn_province", 2022, 584.9, 634.52),
        ("SWE", 2024, "country", 2024, 4.97, 34.91),
        ("US-VT", 2021, "us_state", 2021, 20.34, 83.91),
        ("US-WY", 2021, "us_state", 2021, 837.98, 885.1),
        ("US-WA", 2021, "us_state", 2021, 92.06, 125.91),
        ("CA-QC", 2024, "ca_province", 2023, 3.26, 27.9),
        ("Guangdong", 2022, "cn_province", 2022, 440.3, 489.92),
        ("NSW", 2024, "au_state", 2024, 660.0, 715.11),
        ("USA", 2023, "country", 2023, 349.67, 392.89),
        ("JP-CB", 2022, "country", 2022, 451.81, 519.6),
        ("world", 2021, "world", 2021, 439.62, 494.81),
    ],
)
def test_area_and_year_on_either_basis(place, year, scope, data_year, direct, lifecycle):
    for basis, grams in (("direct", direct), ("lifecycle", lifecycle)):
        found = at(place, year, basis)
        assert (found.scope, found.year, found.basis, found.grams_per_kwh) == (scope, data_year, basis, grams)
        assert not found.assumed


def test_the_last_year_not_after_the_run_else_the_first_after_it():
    assert at("US-WA", 2017).year == 2016
    assert at("DEU", 2005).year == 2015
    assert at("DEU", 2005, "lifecycle").year == 2010
    assert "figure of 2015, 10 years after the run" in at("DEU", 2005).note
    assert "figure of 2023, 3 years before the run" in at("westus2", 2026).note
    assert "the run" not in at("westus2", 2023).note


@pytest.mark.parametrize("cloud", ["azure", "aws", "gcp"])
def test_every_region_has_both_bases_in_each_year(cloud):
    """Show 4: the regions of three clouds, each year from 2018; direct is never above lifecycle."""
    regions = [name for name in REGIONS if name.startswith(f"{cloud}/")]
    assert len(regions) > 35
    for name in regions:
        for year in range(2018, 2027):
            direct, lifecycle = at(name, year), at(name, year, "lifecycle")
            assert (direct.basis, lifecycle.basis) == ("direct", "lifecycle"), (name, year)
            assert "world" not in {direct.scope, lifecycle.scope}, (name, year)
            assert direct.grams_per_kwh <= lifecycle.grams_per_kwh, (name, year)


def test_both_bases_of_any_place_are_of_the_same_area_and_year():
    """Of every place that has a name, but for the Central African Republic and groups of countries, which say so."""
    for place in places.search(""):
        for year in range(2015, 2027):
            direct, lifecycle = at(place, year), at(place, year, "lifecycle")
            assert (direct.scope, direct.code, direct.year) == (lifecycle.scope, lifecycle.code, lifecycle.year)
            assert direct.grams_per_kwh <= lifecycle.grams_per_kwh
            assert lifecycle.basis == "lifecycle"
            if direct.basis != "direct":
                assert place.country_iso3 == "CAF" or places.group(place)
                assert "no direct figure is known for it: lifecycle, not to be compared with direct ones" in direct.note


def test_a_wider_area_is_named():
    assert "no figure of grid zone JP-CB: that of country JPN" in at("Chubu", 2022).note
    assert "no figure" not in at("JP-TK", 2022).note


def test_a_group_of_countries_has_lifecycle_figures_only_and_says_so():
    found = at("EU", 2022)
    assert (found.scope, found.code, found.basis, found.grams_per_kwh) == ("group", "EU27", "lifecycle", 291.55)
    assert "no direct figure is known" in found.note


@pytest.mark.parametrize(
    ("given", "name"), [("", "direct"), ("Direct", "direct"), ("life-cycle", "lifecycle"), ("LCA", "lifecycle")]
)
def test_a_basis_by_its_names(given, name):
    assert basis_name(given) == name


def test_a_basis_that_is_none_is_one_line():
    with pytest.raises(SettingsError, match=r"unknown basis 'lifecycel'; did you mean 'lifecycle'\? give direct \("):
        basis_name("lifecycel")


def test_unknown_place_is_the_world_with_the_spread_of_countries():
    found = at(places.unknown(), 2021)
    assert (found.grams_per_kwh, found.scope, found.code, found.year) == (439.62, "world", "WORLD", 2021)
    assert found.assumed
    assert found.low < 60 < 600 < found.high
    assert "no region was given" in found.note


def test_region_that_the_tables_do_not_have_says_so():
    found = at(Place(cloud="azure", region="marsnorth"), 2021)
    assert found.assumed
    assert "no figure for azure/marsnorth" in found.note


def test_world_given_as_such_is_not_assumed():
    assert not at(places.find("world", "azure"), 2024).assumed


def test_interval_is_the_range_of_the_years_around():
    found = at("NWPP", 2019)  # 2020: 273.87, 2019: 326.53
    assert found.low == pytest.approx(273.87)
    assert found.high == pytest.approx(326.53 * 1.1)


def test_zero_is_kept_and_said():
    found = at("ISL", 2021)
    assert (found.grams_per_kwh, found.low, found.high) == (0.0, 0.0, 24.0)
    assert "0 is the source's figure" in found.note


def test_notes_say_gas_and_origin():
    assert "CO2 only" in at("US-WA", 2016).note
    assert "CO2 only" not in at("NWPP", 2023).note
    assert "derived from the direct figure" in at("NWPP", 2023, "lifecycle").note
    assert "derived from the lifecycle figure" in at("FRA", 2023).note
    assert at("FRA", 2023, "lifecycle").note == ""


def test_run_over_new_year_has_the_year_of_its_middle():
    place = places.find("SWE")
    start = datetime(2021, 12, 30, tzinfo=timezone.utc)
    assert carbon_intensity(place, start, start + timedelta(days=1)).year == 2021
    assert carbon_intensity(place, start, start + timedelta(days=30)).year == 2022


@given(st.sampled_from(CODES), st.integers(2005, 2035), st.sampled_from(["direct", "lifecycle"]))
def test_every_place_has_a_figure_inside_its_interval(code, year, basis):
    found = at(code, year, basis)
    assert found.scope != "world"
    assert 0 <= found.low <= found.grams_per_kwh <= found.high
    assert found.high > found.low
    assert found.source.name
    assert found.source.published


@given(st.sampled_from(CODES), st.integers(2012, 2030), st.sampled_from(["direct", "lifecycle"]))
def test_figure_is_not_from_after_the_run_where_an_earlier_one_exists(code, year, basis):
    found = at(code, year, basis)
    if found.year > year:
        rows = tables.lookup("carbon_intensity", found.scope, found.code)
        assert min(int(row["year"]) for row in rows if row["basis"] == found.basis) == found.year
