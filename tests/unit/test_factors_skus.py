import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.factors import skus, tables

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


@pytest.mark.parametrize(
    ("name", "cloud", "size"),
    [
        ("google/a2-highgpu-1g", "gcp", "a2-highgpu-1g"),
        ("gcp:a2-highgpu-1g", "gcp", "a2-highgpu-1g"),
        ("Oracle Cloud/BM.GPU.H100.8", "oci", "BM.GPU.H100.8"),
        ("gpu:nvidia-tesla-t4", "gcp", "gpu:nvidia-tesla-t4"),
        ("GPU:NVIDIA-TESLA-T4", "gcp", "gpu:nvidia-tesla-t4"),
        ("azure ND96asr_v4", "azure", "ND96asr_v4"),
        ("AWS p4d.24xlarge", "aws", "p4d.24xlarge"),
        ("lambda gpu_8x_h100_sxm5", "lambda", "gpu_8x_h100_sxm5"),
        ("ml_p4d_24xlarge", "aws", "p4d.24xlarge"),
        ("bm gpu h100 8", "oci", "BM.GPU.H100.8"),
        ("tpu-v3-8", "gcp", "v3-8"),
        ("v5e-8", "gcp", "v5litepod-8"),
        ("azure/8xV100", "azure", "ND40rs_v2"),
        ("aws 8x A100 80GB", "aws", "p4de.24xlarge"),
        ("gcp/A100:16", "gcp", "a2-megagpu-16g"),
        ("vast/8x H200", "vast", "8x H200"),
    ],
)
def test_the_cloud_may_stand_before_the_name(name, cloud, size):
    sku = skus.find(name)
    assert (sku.cloud, sku.name) == (cloud, size)
    assert skus.find(skus.unambiguous(sku)) == sku


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
        ("A100", "", "SKU 'A100' is a GPU's name, not a cloud's; give 'paperspace/A100'"),
        ("V100-32Gx4", "", "SKU 'V100-32Gx4' is a GPU's name, not a cloud's; give 'paperspace/V100-32Gx4'"),
        ("8x H200", "", "SKU '8x H200' is a GPU's name, not a cloud's; give 'vast/8x H200'"),
        ("H100", "", "did you mean 'paperspace/V100' or 'paperspace/A100'"),
        (
            "8xA100",
            "",
            "with them are 'ND96ams_A100_v4', 'ND96amsr_A100_v4', 'ND96asr_v4', 'p4d.24xlarge', 'p4de.24xlarge', ",
        ),
        (
            "V100 x8",
            "",
            "SKU 'V100 x8' is a number of GPUs, not a size; with them are 'ND40rs_v2', 'p3.16xlarge', 'p3dn.24x",
        ),
        ("4xT4", "", "SKU '4xT4' is a number of GPUs, not a size; with them are 'NC64as_T4_v3', 'g4dn.12xlarge'"),
        ("aws/8xV100", "", "with them are 'p3.16xlarge', 'p3dn.24xlarge'"),
        ("7xA100", "", "unknown SKU '7xA100'; did you mean 'paperspace/A100'?"),
        ("8xFoo", "", "unknown SKU '8xFoo'; 'greenml skus' lists them"),
        ("p4d", "", "unknown SKU 'p4d'; 'greenml skus p4d' lists them"),
        ("1x H100 PCIe 80GB", "", "give one of 'hyperstack/1x H100 PCIe 80GB', 'lambda/1x H100 PCIe 80GB', 'runpod/"),
        (
            "moon/ND40rs_v2",
            "",
            "unknown cloud 'moon' of SKU 'moon/ND40rs_v2'; known are aws, azure, coreweave, crusoe, digitalocean",
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
    assert {sku.gpu_model for sku in skus.search("8xA100")} == {"A100"}
    assert {sku.gpu_count for sku in skus.search("8xA100")} == {8}
    assert {sku.cloud for sku in skus.search("8xA100")} >= {"azure", "aws", "gcp", "oci"}
    assert all("_H100_v5" in sku.name for sku in skus.search("ND H100 v5"))
    assert len(skus.search("")) == len(NAMES)


@pytest.mark.parametrize("name", ["ml.p4d.24xlarge", "ML.P3.16xlarge", "ml.g5.12xlarge"])
def test_a_sagemaker_instance_is_the_machine_that_it_runs_on(name):
    sku = skus.find(name)
    assert (sku.cloud, sku.name) == ("aws", name.lower().removeprefix("ml."))
