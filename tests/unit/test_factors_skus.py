import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import tables
from greenml.errors import SettingsError
from greenml.factors import skus

NAMES = sorted((row["cloud"], row["sku"]) for row in tables.rows("skus"))


@pytest.mark.parametrize(
    "name",
    [
        "ND40rs_v2",
        "Standard_ND40rs_v2",
        "STANDARD_ND40RS_V2",
        "nd40rs v2",
        "Standard-ND40rs-v2",
        " ND40rs_v2 ",
        "azure/ND40rs_v2",
    ],
)
def test_seed_sku_by_any_spelling(name):
    sku = skus.find(name)
    assert (sku.cloud, sku.name, sku.arm_name) == ("azure", "ND40rs_v2", "Standard_ND40rs_v2")
    assert (sku.gpu_model, sku.gpu_count, sku.gpu_memory_gb) == ("V100", 8, 32)
    assert (sku.vcpus, sku.memory_gib, sku.label) == (40, 672, "8 X V100 32GB")
    assert sku.cpu_model == "Intel Xeon Platinum 8168"
    assert sku.source.published


def test_other_clouds():
    assert skus.find("p4d.24xlarge").cloud == "aws"
    assert skus.find("p4d.24xlarge").arm_name == "p4d.24xlarge"
    assert skus.find("a2-highgpu-8g").gpu_count == 8
    assert skus.find("NV6ads_A10_v5").gpu_count == pytest.approx(1 / 6)


def test_price_lists_second_name_is_the_same_size():
    assert skus.find("Standard_ND96asr_A100_v4") == skus.find("ND96asr_v4")


def test_unknown_sku_names_the_nearest():
    with pytest.raises(SettingsError) as caught:
        skus.find("ND40rs_v3")
    assert str(caught.value) == "unknown SKU 'ND40rs_v3'; did you mean 'ND40rs_v2'? 'greenml skus ND' lists them"


@pytest.mark.parametrize(
    ("name", "cloud", "message"),
    [
        ("", "", "unknown SKU ''; 'greenml skus' lists them"),
        ("qqqqqqqq", "", "unknown SKU 'qqqqqqqq'; 'greenml skus' lists them"),
        (
            "ND40rs_v2",
            "aws",
            "SKU 'ND40rs_v2' is sold by azure, not by aws; 'greenml skus ND40rs_v2' lists it",
        ),
        ("1x H100 PCIe 80GB", "", "give one of 'coreweave/1x H100 PCIe 80GB', 'lambda/1x H100 PCIe 80GB'"),
        (
            "moon/ND40rs_v2",
            "",
            "unknown cloud 'moon' of SKU 'moon/ND40rs_v2'; known are aws, azure, coreweave, gcp, lambda",
        ),
    ],
)
def test_wrong_names_are_one_line_that_says_what_is_right(name, cloud, message):
    with pytest.raises(SettingsError) as caught:
        skus.find(name, cloud)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(NAMES))
def test_find_is_idempotent(pair):
    cloud, name = pair
    sku = skus.find(name, cloud)
    assert (sku.cloud, sku.name) == pair
    assert skus.find(sku.name, sku.cloud) == skus.find(sku.arm_name.upper(), cloud.upper()) == sku
    assert skus.find(f"{cloud}/{name}") == sku


@given(st.text())
def test_any_text_is_a_sku_or_an_error_of_one_line(text):
    try:
        said = skus.find(text).name
    except SettingsError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


def test_search():
    assert [sku.name for sku in skus.search("nd*_v2")] == ["ND40rs_v2"]
    assert skus.search("ND")[0].name.startswith("ND")
    assert [sku.name for sku in skus.search("Standard_ND40")] == ["ND40rs_v2"]
    assert "ND40rs_v2" in [sku.name for sku in skus.search("v100")]
    assert skus.search("no such size") == []
    assert len(skus.search("")) == len(NAMES)
