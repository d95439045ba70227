"""Rated power by name: CPUs as kernels and hypervisors show them, GPUs as drivers and people write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.analysis import _gpu_power
from greenml.cli import main
from greenml.factors import processors, skus, tables

STRINGS = (Path(__file__).parents[1] / "data" / "cpu_model_strings.txt").read_text(encoding="utf-8").splitlines()
GPU_SKUS = [row for row in tables.rows("skus") if row["gpu_model"]]
RATINGS = {row["cpu_model"]: row for row in tables.rows("cpus")}


@pytest.mark.parametrize(
    ("name", "tdp_watts", "cores"),
    [
        ("Intel(R) Xeon(R) Platinum 8168 CPU @ 2.70GHz", 205, 24),
        ("AMD EPYC 7V12 64-Core Processor", 240, 64),
        ("INTEL(R) XEON(R) PLATINUM 8480+", 350, 56),
        ("Intel(R) Xeon(R) CPU E5-2683 v4 @ 2.10GHz", 120, 16),
        ("11th Gen Intel(R) Core(TM) i5-1145G7 @ 2.60GHz", 28, 4),
        ("AMD Ryzen Threadripper PRO 3995WX 64-Cores", 280, 64),
        ("AMD Ryzen 5 1600 Six-Core Processor", 65, 6),
        ("AMD Ryzen 5 3400GE with Radeon Vega Graphics", 35, 4),
        ("Intel(R) Core(TM) i7 CPU         920  @ 2.67GHz", 130, 4),
        ("NVIDIA Grace CPU Superchip", 250, 72),
        ("AMD EPYC 7742 64-Core Processor (engineering sample)", 225, 64),
        ("12th Gen Intel(R) Core(TM) i9-12900KF", 125, 16),
        ("AMD Ryzen 7 PRO 7840U w/ Radeon 780M Graphics", 28, 8),
        ("Intel(R) Xeon(R) CPU E5-2670 0 @ 2.60GHz", 115, 8),
        ("12th Gen Intel(R) Core(TM) i5-12400F", 65, 6),
        ("12th Gen Intel(R) Core(TM) i7-1260P", 28, 12),
        ("Intel(R) Core(TM) Ultra 7 165U", 15, 12),
        ("AMD Ryzen 3 3200G with Radeon Vega Graphics", 65, 4),
        ("Intel(R) Pentium(R) Gold G5400 CPU @ 3.70GHz", 58, 2),
    ],
)
def test_a_model_is_found_under_the_name_that_the_kernel_gives(name, tdp_watts, cores):
    rating = processors.cpu(name)
    assert rating is not None
    assert (rating.kind, rating.tdp_watts, rating.cores) == ("model", tdp_watts, cores)
    assert rating.watts_per_core == pytest.approx(tdp_watts / cores)


def test_a_name_is_looked_up_in_a_part_of_the_table_with_the_result_of_the_whole():
    names = [*STRINGS, *list(RATINGS)[::20]]
    for plain in {processors._plain(text) for name in names for text in (name, name.replace("-", " "), name.lower())}:
        assert processors._by_model(plain) == processors._models().get(processors._squash(plain)), plain


@pytest.mark.parametrize(
    ("name", "generation", "watts_per_core"),
    [
        ("Intel Xeon Processor (Skylake, IBRS)", "Skylake", 7.5),
        ("Intel Xeon Processor (Icelake)", "Ice Lake", 6.94),
        ("Intel Xeon Processor (Icelake-Server)", "Ice Lake", 6.94),
        ("Intel Xeon Processor (Sapphire Rapids)", "Sapphire Rapids", 6.88),
        ("AMD EPYC-Milan Processor", "Milan", 4.53),
        ("AMD EPYC-Milan-v2 Processor", "Milan", 4.53),
        ("AMD EPYC-Rome-v4 Processor", "Rome", 4.53),
        ("AMD EPYC Processor (with IBPB)", "Naples", 6.98),
        ("AMD EPYC", "EPYC, any", 4.38),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Broadwell; Cascade Lake", 7.32),
        ("Intel(R) Xeon(R) CPU @ 2.90GHz", "Xeon, any", 7.32),
        ("Intel(R) Xeon(R) Processor", "Xeon, any", 7.32),
        ("QEMU Virtual CPU version 2.5+", "server, any", 6.75),
        ("QEMU Virtual CPU version 8.1.0", "server, any", 6.75),
        ("QEMU TCG CPU version 2.5+", "server, any", 6.75),
        ("DO-Premium-AMD", "EPYC, any", 4.38),
        ("Neoverse-V2", "Neoverse-V2", 3.47),
        ("Arm Neoverse N1", "Neoverse-N1", 1.95),
        ("AMD EPYC 7K99 64-Core Processor", "EPYC, any", 4.38),
        ("Intel(R) Xeon(R) Platinum Processor", "Xeon, any", 7.32),
        ("Intel(R) Xeon(R) CPU E5-2666 v3 @ 2.90GHz", "Haswell", 8.75),
        ("AMD EPYC 7C13 64-Core Processor", "Milan", 4.53),
        ("AMD EPYC 9004 Series Processor", "Genoa", 3.75),
        ("AMD EPYC 9Z84 96-Core Processor", "Genoa", 3.75),
        ("Intel(R) Xeon(R) Gold 6399X CPU @ 2.00GHz", "Ice Lake", 6.94),
        ("Intel(R) Xeon(R) Platinum 8255C CPU @ 2.50GHz", "Cascade Lake", 7.31),
    ],
)
def test_a_name_without_a_model_has_its_generations_interval(name, generation, watts_per_core):
    rating = processors.cpu(name)
    assert rating is not None
    assert (rating.kind, rating.generation, rating.watts_per_core) == ("generation", generation, watts_per_core)
    assert rating.low is not None
    assert rating.high is not None
    assert rating.low <= rating.watts_per_core <= rating.high


@pytest.mark.parametrize(
    ("numbers", "name", "watts_per_core"),
    [
        (("0x41", "0xd0c"), "Neoverse-N1", 1.95),
        (("0x41", "0xd40"), "Neoverse-V1", 1.56),
        (("0x41", "0xd4f"), "Neoverse-V2", 3.47),
        (("0x41", "0xd49"), "Neoverse-N2", None),
    ],
)
def test_an_arm_core_is_known_by_implementer_and_part(numbers, name, watts_per_core):
    rating = processors.arm_cpu(*numbers)
    assert rating is not None
    assert (rating.generation, rating.watts_per_core) == (name, watts_per_core)


def test_nine_in_ten_real_names_have_a_rating_or_their_generations_interval():
    ratings = {name: processors.cpu(name) for name in STRINGS}
    rated = [name for name, rating in ratings.items() if rating and rating.watts_per_core]
    assert len(rated) >= 0.9 * len(STRINGS), sorted(set(STRINGS) - set(rated))


@pytest.mark.parametrize(
    ("names", "tdp_watts", "cores"),
    [
        (
            (
                "i9-13900K",
                "i9-13900K @ 3.00GHz",
                "Intel i9-13900K",
                "Core i9 13900K",
                "i9 13900k 24-Core",
                "i9-13900KF",
            ),
            125,
            24,
        ),
        (
            ("Xeon Gold 6248", "Gold 6248", "Intel Gold 6248", "Xeon(R) Gold 6248 CPU @ 2.50GHz", "xeon_gold_6248"),
            150,
            20,
        ),
        (("2x Xeon Gold 6248", "2 x Intel Xeon Gold 6248", "Gold 6248 20C/40T", "Xeon Gold 6248 2.5 GHz"), 150, 20),
        (("EPYC 7763", "EPYC 7763 64-Core Processor", "epyc-7763", "EPYC 7763, 64 cores", "AMD EPYC 7763 x2"), 280, 64),
        (("Ryzen 9 7950X", "Ryzen 7950X", "Ryzen 9 7950X 16-Core Processor", "AMD Ryzen 9 7950X 16 cores"), 170, 16),
        (("Core i7-9750H", "i7-9750H", "Core(TM) i7-9750H CPU @ 2.60GHz", "Core\u2122 i7-9750H"), 45, 6),
        (("E5-2690 v4", "E5-2690v4", "Xeon E5-2690 v4", "Intel E5-2690 v4 @ 2.60GHz"), 135, 14),
        (("Ultra 7 165U", "Core Ultra 7 165U"), 15, 12),
        (("Threadripper PRO 3995WX", "Ryzen Threadripper PRO 3995WX 64-Cores"), 280, 64),
        (("Xeon X5670", "X5670", "Intel(R) Xeon(R) CPU           X5670  @ 2.93GHz"), 95, 6),
        (("W-2295", "Xeon W-2295 CPU @ 3.00GHz"), 165, 18),
        (("Altra Q80-30",), 210, 80),
        (("Grace", "Grace CPU"), 250, 72),
        (("Gold G5400", "Pentium Gold G5400"), 58, 2),
        (("11th Gen i7-1165G7",), 28, 4),
    ],
)
def test_a_model_is_found_without_its_maker(names, tdp_watts, cores):
    for name in names:
        rating = processors.cpu(name)
        assert rating is not None, name
        assert (rating.kind, rating.tdp_watts, rating.cores) == ("model", tdp_watts, cores), name


@pytest.mark.parametrize(
    ("name", "model"),
    [("M1 Pro", "Apple M1 Pro"), ("Apple M2", "Apple M2"), ("M3 Max 16-core", "Apple M3 Max"),
     ("Graviton3", "AWS Graviton3"), ("Graviton 2", "AWS Graviton2"), ("Amazon Graviton3", "AWS Graviton3")],
)  # fmt: skip
def test_an_estimate_is_found_without_its_maker(name, model):
    rating = processors.cpu(name)
    assert rating is not None
    assert (rating.kind, rating.name) == ("estimate", model)


@pytest.mark.parametrize(
    "name",
    ["7763", "6248", "8280", "13900K", "7950X", "2690 v4", "M2", "M3", "m3", "Gold", "Platinum", "Ryzen", "Core",
     "Core i7", "i9", "i9-99999", "Ryzen 9 9999X", "AMD Gold 6248", "AMD i9-13900K", "E5", "E5 v4", "7 165U", "3 201E",
     "HX 370", "Pro", "Max", "Altra", "Graviton", "9R14", "64-Core Processor", "8c/16t", "x 4", "M1 Pro Max"],
)  # fmt: skip
def test_a_bare_number_or_a_family_is_no_model(name):
    assert processors.cpu(name) is None


def test_no_shorter_name_of_any_model_means_another():
    """Each model of the table by every end of its name: the model, one with nearly its power, or nothing."""
    found = 0
    for name, row in RATINGS.items():
        words = name.split()
        for start in range(1, len(words)):
            rating = processors.cpu(" ".join(words[start:]) + " CPU @ 2.70GHz")
            if rating and rating.tdp_watts:
                assert rating.tdp_watts == pytest.approx(float(row["tdp_w"]), rel=0.25), (name, start)
                found += start == 1
    assert found >= 0.99 * len(RATINGS)


@given(st.sampled_from(sorted(RATINGS)), st.sampled_from(["{}", "{} @ 2.70GHz", "{} Processor", "{} (stepping 4)"]))
def test_no_name_of_the_table_is_taken_for_another(name, spelling):
    rating = processors.cpu(spelling.format(name))
    assert rating is not None
    assert rating.tdp_watts == pytest.approx(float(RATINGS[name]["tdp_w"]), rel=0.25)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Genuine Intel(R) CPU 0000%@",
        "Apple M99",
        "POWER9, altivec supported",
        "sparc",
        "Intel(R) Xeon Phi(TM) 9999",
    ],
)
def test_an_unknown_cpu_is_none(name):
    assert processors.cpu(name) is None


@given(st.text(max_size=60))
def test_any_text_is_a_rating_or_none(text):
    rating = processors.cpu(text)
    assert rating is None or rating.name


def test_every_cpu_of_a_listed_size_is_known():
    unknown = {
        row["cpu_model"]
        for row in tables.rows("skus")
        if row["cpu_model"] and not (processors.cpu_of_sku(row["cpu_model"]) or processors.cpu(row["cpu_model"]))
    }
    assert unknown == set()


def test_a_size_with_one_of_several_cpus_has_the_interval_of_them_all():
    rating = processors.cpu_of_sku("Intel Xeon Platinum 8370C / 8272CL / E5-2673 v4")
    assert rating is not None
    cores = [265 / 32, 195 / 26, 135 / 20]
    assert (rating.low, rating.watts_per_core, rating.high) == pytest.approx(tuple(sorted(cores)))


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("RTX 5070", ["NVIDIA GeForce RTX 5070"]),
        ("GeForce RTX 5070 Ti", ["NVIDIA GeForce RTX 5070 Ti"]),
        ("RTX 3080", ["NVIDIA GeForce RTX 3080"]),
        ("RTX 4090", ["NVIDIA GeForce RTX 4090"]),
        ("RTX 4000 Ada", ["NVIDIA RTX 4000 Ada Generation"]),
        ("L4", ["NVIDIA L4"]),
        ("A10", ["NVIDIA A10"]),
        ("h100 pcie", ["NVIDIA H100 PCIe"]),
        ("H100 SXM5", ["NVIDIA H100 80GB HBM3"]),
        ("H200 SXM5 141GB", ["NVIDIA H200"]),
        ("NVIDIA A100-SXM-80GB", ["NVIDIA A100-SXM4-80GB"]),
        ("Intel(R) Arc(TM) A770 Graphics", ["Intel Arc A770"]),
        ("H100", ["NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL", "NVIDIA H100 PCIe"]),
        ("A100 80GB", ["NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"]),
        ("GeForce", []),
        ("RTX", []),
        ("RTX 5071", []),
    ],
)
def test_a_gpu_is_known_by_exact_words(name, models):
    assert [row["gpu_model"] for row in processors.gpus(name)] == models


def test_every_gpu_of_a_listed_size_is_known():
    for row in GPU_SKUS:
        assert processors.gpu(row["gpu_nvml_name"]) if row["gpu_nvml_name"] else processors.gpus(row["gpu_model"])


def test_every_listed_size_with_gpus_has_a_rated_power_and_a_number_of_them():
    assert len(GPU_SKUS) >= 485
    for row in GPU_SKUS:
        sku = skus.find(row["sku"], row["cloud"])
        assert sku.gpu_count
        draw = _gpu_power.draw(_gpu_power.of_sku(sku))
        assert 0 < draw.low < draw.watts < draw.high


@pytest.mark.parametrize(
    ("sku", "teraflops", "watts"),
    [("trn2.48xlarge", 667, 500), ("v5litepod-4", 197, 192), ("inf1.xlarge", 64, 70), ("ct6e-standard-8t", 918, 700)],
)
def test_an_accelerator_without_a_published_power_has_that_of_its_class(sku, teraflops, watts):
    """The watts are those of what is near it: reports of 500 W, TPU v4, T4, H100 SXM."""
    card = _gpu_power.of_sku(skus.find(sku))
    assert f"its {teraflops} TFLOPS x the watts a TFLOPS of " in card.rated_from
    assert "publishes no power" in card.rated_from
    assert card.rated_low_watts < watts < card.rated_high_watts
    assert card.rated_low_watts < card.rated_watts < card.rated_high_watts
    assert card == _gpu_power.find(card.name)


def test_three_in_four_accelerators_lie_in_the_interval_that_the_others_of_their_class_give_them():
    rated = [
        row
        for row in tables.rows("gpus")
        if row["tdp_w"] and row["fp16_tensor_dense_tflops"] and not re.search("RTX|Quadro|TITAN", row["gpu_model"])
    ]
    cards = [(_gpu_power.of_class(row), float(row["tdp_w"])) for row in rated]
    inside = sum(card.rated_low_watts <= watts <= card.rated_high_watts for card, watts in cards)
    assert len(cards) > 50
    assert 0.7 <= inside / len(cards) <= 0.95, "the interval that docs/decide.md tells of"


def test_a_gpu_whose_form_is_not_known_lies_between_its_forms():
    row = next(row for row in GPU_SKUS if row["gpu_model"] == "P100" and not row["gpu_nvml_name"])
    card = _gpu_power.of_sku(skus.find(row["sku"], row["cloud"]))
    assert (card.rated_low_watts, card.rated_watts, card.rated_high_watts) == (250, 275, 300)


@pytest.mark.parametrize(
    "sku", ["ND40rs_v2", "lambda/gpu_8x_h100_sxm5", "p4d.24xlarge", "NC6", "NV6ads_A10_v5", "trn1.32xlarge"]
)
def test_estimate_answers_for_gpu_hours(sku, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["estimate", "--sku", sku, "--gpu-hours", "8"])
    assert not exit_.value.code
    said = capsys.readouterr().out
    assert " kWh" in said
    assert "the machine is not" not in said  # nothing was seen that could differ
