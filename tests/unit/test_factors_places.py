import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.factors import places, tables
from greenml.factors.types import Place

DATA = Path(__file__).parent.parent / "data"
REGIONS = [(row["cloud"], row["region"]) for row in tables.rows("regions")]
CODES = [
    *(f"{cloud}/{region}" for cloud, region in REGIONS),
    *(row["iso3"] for row in tables.rows("countries")),
    *(row["code"] for row in tables.rows("subdivisions")),
    *{row["code"] for row in tables.lookup("carbon_intensity", "egrid_subregion")},
    *{row["code"] for row in tables.lookup("carbon_intensity", "grid_zone") if "-" in row["code"]},
    "world",
]


@pytest.mark.parametrize("name", ["westus2", "West US 2", "US West 2", "azure/westus2", "WESTUS2", "west-us-2"])
def test_seed_region_by_any_name(name):
    place = places.find(name)
    assert (place.cloud, place.region, place.country_iso3, place.state) == (
        "azure",
        "westus2",
        "USA",
        "Washington",
    )
    assert (place.display_name, place.billing_name) == ("West US 2", "US West 2")
    assert (place.grid_zone, place.egrid_subregion) == ("US-NW-GCPD", "NWPP")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("us-east-1", "aws/us-east-1"),
        ("us-east1", "gcp/us-east1"),
        ("SWE", "SWE"),
        ("se", "SWE"),
        ("Sweden", "SWE"),
        ("United Kingdom", "GBR"),
        ("UK", "GBR"),
        ("UK South", "azure/uksouth"),
        ("US-WA", "US-WA"),
        ("Washington", "US-WA"),
        ("CA-ON", "CA-ON"),
        ("Ontario", "CA-ON"),
        ("JP-TK", "JP-TK"),
        ("NWPP", "NWPP"),
        ("World", "world"),
        ("Oregon", "US-OR"),
        ("gcp/Oregon", "gcp/us-west1"),
        ("Taiwan", "TWN"),
        ("Korea", "KOR"),
    ],
)
def test_names_mean_the_narrowest_place(name, code):
    assert places.code(places.find(name)) == code


def test_the_skus_cloud_decides_between_regions():
    assert places.find("Oregon", "gcp").region == "us-west1"
    assert places.find("SWE", "azure") == Place("azure", "", "Sweden", "", "SWE", "Sweden")
    assert places.find("us east 1", "aws").region == "us-east-1"
    with pytest.raises(SettingsError, match="ambiguous; give one of 'aws/us-east-1', 'gcp/us-east1', 'US-VA'"):
        places.find("us east 1")


@pytest.mark.parametrize(
    ("name", "cloud", "message"),
    [
        ("wetsus2", "", "unknown region 'wetsus2'; did you mean 'westus2'"),
        ("Swedn", "", "unknown region 'Swedn'; did you mean 'Sweden'? 'greenml regions' lists them"),
        ("westus9", "", "'greenml regions westus' lists them"),
        (
            "us-east-1",
            "azure",
            "region 'us-east-1' is one of aws, not of azure; 'greenml regions azure/' lists those",
        ),
        ("Georgia", "", "region 'Georgia' is ambiguous; give one of 'GEO', 'US-GA'"),
        ("moon/westus2", "", "unknown cloud 'moon' of region 'moon/westus2'; known are aws, azure, coreweave, crusoe"),
        ("", "", "unknown region ''; 'greenml regions' lists them"),
    ],
)
def test_wrong_names_are_one_line_that_says_what_is_right(name, cloud, message):
    with pytest.raises(SettingsError) as caught:
        places.find(name, cloud)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def typed() -> list[dict[str, str]]:
    """Names as people type them, with the place that each is to give, or the message."""
    return list(csv.DictReader((DATA / "places.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("row", [row for row in typed() if row["place"]], ids=lambda row: row["name"])
def test_a_name_that_people_type_is_the_expected_place(row):
    place = places.find(row["name"], row["cloud"])
    owner = f"{place.cloud} " if place.cloud and not place.region else ""
    assert f"{owner}{places.code(place)}" == row["place"]


@pytest.mark.parametrize("row", [row for row in typed() if row["message"]], ids=lambda row: row["name"])
def test_a_name_that_is_ambiguous_or_wrong_says_what_would_be_right(row):
    with pytest.raises(SettingsError) as caught:
        places.find(row["name"], row["cloud"])
    assert str(caught.value).startswith(row["message"])
    assert "\n" not in str(caught.value)


def test_any_zone_of_a_large_cloud_s_region_is_the_region():
    """Zones as AWS, Google and AKS write them; but for one that is a smaller cloud's region, and for ``eastus-2``."""
    zones = {"aws": ("{}a", "{}f"), "gcp": ("{}-a", "{}-c"), "azure": ("{}-1", "{}-3", "{} zone 1")}
    elsewhere = []
    for cloud, region in REGIONS:
        for form in zones.get(cloud, ()):
            name = form.format(region)
            try:
                found = places.code(places.find(name))
            except SettingsError as error:
                found = str(error)
            if found != f"{cloud}/{region}":
                elsewhere.append((name, found))
    named = {name for name, _ in elsewhere}
    assert {"us-east1-a"} <= named <= {"us-east1-a", *(name for name in named if name.startswith(WITHOUT_ZONES))}


WITHOUT_ZONES = ("westus-", "chinaeast-", "chinanorth-", "australiacentral-")  # "westus-3" is West US 3


def test_every_name_of_the_list_is_tried():
    """The list that the tables came with: each name is in the table of expectations, most are places."""
    listed = (DATA / "place_names.txt").read_text(encoding="utf-8").splitlines()
    rows = {row["name"]: row for row in typed() if not row["cloud"]}
    assert not set(listed) - set(rows)
    assert sum(bool(row["place"]) for row in rows.values()) >= 120
    assert sum(bool(row["message"]) for row in rows.values()) >= 20


@given(st.sampled_from(CODES))
def test_find_is_idempotent(code):
    place = places.find(code)
    assert places.code(place) == code
    assert places.find(places.code(place).upper()) == place


@given(st.sampled_from(REGIONS))
def test_a_region_code_needs_no_cloud(pair):
    place = places.find(pair[1])
    assert (place.cloud, place.region) == pair
    assert places.find(place.display_name, place.cloud) == place


@pytest.mark.parametrize("sign", [",", "/", ", "])
def test_a_name_of_many_parts_is_an_error_soon(sign):
    with pytest.raises(SettingsError, match="unknown"):
        places.find(sign.join(["a"] * 40))


@given(st.text(max_size=20))
def test_any_text_is_a_place_or_an_error_of_one_line(text):
    try:
        said = places.code(places.find(text))
    except SettingsError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


def test_a_state_is_only_a_subdivision_where_it_was_given_itself():
    assert places.subdivision(places.find("US-WA")) == "US-WA"
    assert places.subdivision(places.find("westus2")) == ""


def test_unknown_place_is_empty():
    assert places.unknown() == Place()
    assert places.code(places.unknown()) == ""


def test_search_gives_what_find_knows():
    assert [places.code(place) for place in places.search("Toronto, Ontario")] == ["CA-ON"]
    assert [places.code(place) for place in places.search("(US) West US 2")] == ["azure/westus2"]


def test_search():
    assert [place.region for place in places.search("westus")] == ["westus", "westus2", "westus3"]
    assert [place.region for place in places.search("WESTUS?")] == ["westus2", "westus3"]
    sweden = [places.code(place) for place in places.search("sweden")]
    assert sweden == [
        "aws/eu-north-1",
        "azure/swedencentral",
        "azure/swedensouth",
        "coreweave/EU-NORTH-01",
        "coreweave/EU-NORTH-04",
        "gcp/europe-north2",
        "oci/eu-stockholm-1",
        "runpod/EU-SE-1",
        "SWE",
    ]
    assert {place.cloud for place in places.search("aws/")} == {"aws"}
    assert len(places.search("")) > len(REGIONS)
