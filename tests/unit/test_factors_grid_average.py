from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import tables
from greenml.factors import places
from greenml.factors.grid_average import carbon_intensity
from greenml.facts import Place

REGIONS = [f"{row['cloud']}/{row['region']}" for row in tables.rows("regions")]
CODES = [
    *REGIONS,
    *(row["iso3"] for row in tables.rows("countries")),
    *(row["code"] for row in tables.rows("subdivisions")),
]


def at(place, year):
    start = datetime(year, 6, 1, tzinfo=timezone.utc)
    return carbon_intensity(places.find(place) if isinstance(place, str) else place, start, start + timedelta(hours=5))


def test_seed_run_of_2021_gets_codecarbons_figure():
    found = at("azure/westus2", 2021)
    assert (found.grams_per_kwh, found.scope, found.code, found.year) == (
        297.6,
        "cloud_region",
        "azure/westus2",
        2021,
    )
    assert found.basis == "direct"
    assert found.low == pytest.approx(267.84)
    assert found.high == pytest.approx(327.36)
    assert not found.assumed
    assert "CodeCarbon" in found.source.name
    assert "about 2016" in found.note


@pytest.mark.parametrize(
    ("place", "year", "scope", "data_year", "grams"),
    [
        ("westus2", 2019, "egrid_subregion", 2019, 324.43),
        ("westus2", 2020, "cloud_region", 2021, 297.6),
        ("westus2", 2022, "cloud_region", 2021, 297.6),
        ("westus2", 2023, "egrid_subregion", 2023, 288.15),
        ("westus2", 2026, "egrid_subregion", 2023, 288.15),
        ("us-west-2", 2021, "cloud_region", 2021, 297.6),
        ("us-west-2", 2023, "egrid_subregion", 2023, 288.15),
        ("northeurope", 2021, "cloud_region", 2021, 617.0),
        ("northeurope", 2025, "country", 2025, 256.54),
        ("gcp/us-central1", 2020, "cloud_region", 2020, 454.0),
        ("gcp/us-central1", 2024, "cloud_region", 2024, 412.72),
        ("swedencentral", 2024, "grid_zone", 2024, 2.73),
        ("SWE", 2024, "country", 2024, 34.91),
        ("US-WA", 2016, "us_state", 2016, 84.75),
        ("US-WA", 2017, "us_state", 2016, 84.75),
        ("US-WA", 2021, "us_state", 2021, 289.63),
        ("CA-QC", 2024, "ca_province", 2023, 29.63),
        ("USA", 2023, "country", 2023, 392.89),
        ("DEU", 2005, "country", 2010, 516.65),
        ("world", 2021, "world", 2021, 494.81),
    ],
)
def test_area_and_year(place, year, scope, data_year, grams):
    found = at(place, year)
    assert (found.scope, found.year, found.grams_per_kwh) == (scope, data_year, grams)
    assert not found.assumed


def test_unknown_place_is_the_world_with_the_spread_of_countries():
    found = at(places.unknown(), 2021)
    assert (found.grams_per_kwh, found.scope, found.code, found.year) == (494.81, "world", "WORLD", 2021)
    assert found.assumed
    assert found.low == pytest.approx(114.098)
    assert found.high == pytest.approx(688.994)
    assert "no region was given" in found.note


def test_region_that_the_tables_do_not_have_says_so():
    found = at(Place(cloud="azure", region="marsnorth"), 2021)
    assert found.assumed
    assert "no figure for azure/marsnorth" in found.note


def test_world_given_as_such_is_not_assumed():
    assert not at(places.find("world", "azure"), 2024).assumed


def test_band_is_the_series_of_neighbouring_years():
    found = at("NWPP", 2019)  # 2018: 289.85, 2019: 324.43, 2020: 272.14, 2021: 289.63
    assert found.low == pytest.approx(272.14)
    assert found.high == pytest.approx(324.43 * 1.1)


def test_band_of_the_old_compilation_takes_in_the_next_areas_figure():
    found = at("centralus", 2021)  # filed with SRMW, but Des Moines is in MROW
    assert found.grams_per_kwh == 736.6
    mrow = next(row for row in tables.lookup("carbon_intensity", "egrid_subregion", "MROW", "2021"))
    assert found.low == float(mrow["g_co2e_per_kwh"]) < 500


def test_zero_is_kept_and_said():
    found = at("northamerica-northeast1", 2021)
    assert (found.grams_per_kwh, found.low, found.high) == (0.0, 0.0, 24.0)
    assert "0 is the source's figure" in found.note


def test_notes_say_basis_gas_and_age():
    assert "CO2 only" in at("NWPP", 2019).note
    assert "CO2 only" not in at("NWPP", 2023).note
    assert "lifecycle, SWE 2024: 35 g/kWh" in at("swedencentral", 2024).note
    assert "figure of 2023 for a run of 2026" in at("westus2", 2026).note
    assert "figure of" not in at("westus2", 2024).note
    assert "mixes direct and lifecycle" in at("northeurope", 2021).note
    assert at("SWE", 2024).note == ""


def test_run_over_new_year_has_the_year_of_its_middle():
    place = places.find("SWE")
    start = datetime(2021, 12, 30, tzinfo=timezone.utc)
    assert carbon_intensity(place, start, start + timedelta(days=1)).year == 2021
    assert carbon_intensity(place, start, start + timedelta(days=30)).year == 2022


@given(st.sampled_from(CODES), st.integers(2005, 2035))
def test_every_place_has_a_figure_inside_its_band(code, year):
    found = at(code, year)
    assert found.scope != "world"
    assert 0 <= found.low <= found.grams_per_kwh <= found.high
    assert found.high > found.low
    assert found.source.name
    assert found.source.published


@given(st.sampled_from(CODES), st.integers(2012, 2030))
def test_figure_is_not_from_after_the_run_where_an_earlier_one_exists(code, year):
    found = at(code, year)
    if found.year > year and found.scope != "cloud_region":
        years = [int(row["year"]) for row in tables.lookup("carbon_intensity", found.scope, found.code)]
        assert min(years) == found.year
