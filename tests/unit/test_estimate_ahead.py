"""Estimates before a run: from a machine's rated power, and from a measured part of the training."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from scripted_run import Stage, record, steady

from greenml.analysis import estimation
from greenml.analysis.estimation import of_machine, of_probe
from greenml.cli import main
from greenml.errors import SettingsError
from greenml.factors import skus, tables
from greenml.record import file as record_file

HERE = {"sku": "ND40rs_v2", "region": "westus2"}

# From a machine.


def test_eight_gpu_hours_of_a_known_machine_by_hand():
    made = of_machine(HERE, gpu_hours=8.0)
    gpu, cpu, dram = (part.energy_joules for part in made.parts)
    each = 42 + (0.76 * 300 - 42) * 0.9
    assert gpu.value == pytest.approx(8 * each * 3600)
    low = math.hypot((0.76 - 0.5) * 300 * 0.9, (0.76 * 300 - 42) * 0.4)
    high = math.hypot((1.0 - 0.76) * 300 * 0.9, (0.76 * 300 - 42) * 0.1)
    assert gpu.low == pytest.approx(8 * (each - low) * 3600)
    assert gpu.high == pytest.approx(8 * (each + high) * 3600)
    platinum = next(row for row in tables.rows("cpus") if row["cpu_model"] == "Intel Xeon Platinum 8168")
    thread = float(platinum["tdp_w"]) / float(platinum["cores"]) / 2
    assert cpu.value == pytest.approx(40 * thread * 0.6 * 3600)
    assert (cpu.low, cpu.high) == (pytest.approx(cpu.value * 0.2), pytest.approx(cpu.value * 1.8))
    assert dram.value == pytest.approx(672 * 0.3725 * 3600)
    assert made.seconds.value == 3600.0
    assert made.it_energy_joules.value == pytest.approx(gpu.value + cpu.value + dram.value)
    intensity, pue = made.factors.carbon_intensity, made.factors.pue
    assert intensity is not None
    assert pue is not None
    grams = made.it_energy_joules.value / 3.6e6 * pue.value * intensity.value
    assert made.emissions_grams.value == pytest.approx(grams)
    assert made.cost_usd["dedicated"].value == pytest.approx(made.factors.prices["dedicated"].value)


def test_nothing_of_an_estimate_is_measured():
    for made in (of_machine(HERE, hours=2.0), of_machine({"region": "SWE"}, hours=1, gpus=2, gpu_model="H100 PCIe")):
        quantities = [
            made.seconds, made.it_energy_joules, made.facility_energy_joules, made.emissions_grams,
            *made.cost_usd.values(), *(part.energy_joules for part in made.parts),
        ]  # fmt: skip
        assert {quantity.basis for quantity in quantities} <= {"modelled", "assumed", "derived"}
        for one in (made.it_energy_joules, made.emissions_grams):
            assert one.low < one.value < one.high


def test_the_published_run_lies_inside_of_its_estimate():
    made = of_machine(HERE, hours=2631.05 / 3600, utilization_ratio=0.569)
    gpu = made.parts[0].energy_joules
    assert gpu.low < 2_448_690.0 < gpu.high
    assert of_machine(HERE, hours=2631.05 / 3600).parts[0].energy_joules.low < 2_448_690.0


def test_a_given_utilization_takes_its_own_doubt_away():
    assumed, given = of_machine(HERE, hours=1.0), of_machine(HERE, hours=1.0, utilization_ratio=0.9)
    assert given.parts[0].energy_joules.value == pytest.approx(assumed.parts[0].energy_joules.value)
    assert given.parts[0].energy_joules.low > assumed.parts[0].energy_joules.low
    each = 42 + (0.76 * 300 - 42) * 0.9
    assert given.parts[0].energy_joules.low == pytest.approx(8 * 3600 * (each - 0.26 * 300 * 0.9))
    idle = of_machine(HERE, hours=1.0, utilization_ratio=0.0).parts[0].energy_joules
    assert (idle.low, idle.value, idle.high) == (8 * 42 * 3600.0, 8 * 42 * 3600.0, 8 * 42 * 3600.0)


def test_nodes_and_gpu_hours_agree():
    one, two = of_machine(HERE, hours=3.0), of_machine({**HERE, "nodes": 2}, gpu_hours=48.0)
    assert two.seconds.value == one.seconds.value == 3 * 3600.0
    assert two.it_energy_joules.value == pytest.approx(2 * one.it_energy_joules.value)
    assert two.cost_usd["dedicated"].value == pytest.approx(2 * one.cost_usd["dedicated"].value)


def test_gpus_alone_leave_out_the_host_and_say_so():
    made = of_machine({}, hours=10.0, gpus=4, gpu_model="NVIDIA H100 80GB HBM3", utilization_ratio=1.0)
    assert [part.name for part in made.parts] == ["GPU"]
    assert made.it_energy_joules.value == pytest.approx(4 * 0.76 * 700 * 36000)
    assert any("CPU and DRAM are not counted" in assume for assume in made.assumes)
    text = estimation.render(made)
    assert "no price" in text
    assert "arxiv.org/abs/2506.14551" in text


def test_the_gpus_of_a_machine_that_do_not_train_idle_and_are_billed():
    whole, half = (of_machine(HERE, hours=1.0, gpus=gpus, utilization_ratio=1.0) for gpus in (8, 4))
    busy, idle = 0.76 * 300 * 3600, 42 * 3600
    assert whole.parts[0].energy_joules.value == pytest.approx(8 * busy)
    assert half.parts[0].energy_joules.value == pytest.approx(4 * busy + 4 * idle)
    assert half.cost_usd == whole.cost_usd, "a machine is billed whole"
    assert any("4 more GPUs of ND40rs_v2 idle at 42 W each" in assume for assume in half.assumes)


@pytest.mark.slow
def test_every_kind_of_machine_with_gpus_gives_an_estimate_that_says_where_its_figures_are_from():
    """One size of each cloud, GPU and kind of origin, which is a fifth of them."""
    kinds = {
        (sku.cloud, sku.gpu_nvml_name, sku.gpu_model, bool(sku.cpu_model), sku.note): sku for sku in skus.search("")
    }
    for sku in kinds.values():
        if not sku.gpu_model:
            continue
        made = of_machine({"sku": f"{sku.cloud}/{sku.name}"}, gpu_hours=8.0)
        energy = made.it_energy_joules
        assert 0 < energy.low < energy.value < energy.high
        said = " ".join(made.assumes)
        assert not sku.note or sku.note in said
        assert "W idle (" in said
        assert not sku.vcpus or re.search(r"CPU: .*W each when busy \(\S+ W ", said)
        assert len(made.sources) >= 3 + 2 * bool(sku.memory_gib and sku.vcpus) - 1


def test_a_size_whose_number_of_gpus_is_derived_says_from_what():
    assert (skus.find("NC64ds_xl_RTXPRO6000BSE_v6").gpu_count, skus.find("NC8lds_xl_RTXPRO6000BSE_v6").gpu_count) == (
        0.5,
        0.125,
    )
    made = of_machine({"sku": "NC16lds_xl_RTXPRO6000BSE_v6"}, gpu_hours=8.0)
    assert made.seconds.value == 32 * 3600
    assert any("its price is that of NC24lds_xl_RTXPRO6000BSE_v6" in line for line in made.assumes)


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ({"changes": HERE}, "--gpu-hours"),
        ({"changes": HERE, "hours": 1.0, "gpu_hours": 1.0}, "either"),
        ({"changes": HERE, "hours": 0.0}, "more than 0"),
        ({"changes": {}, "hours": 1.0}, "--sku"),
        ({"changes": {"sku": "ND40rs_v3"}, "hours": 1.0}, "ND40rs_v2"),
        ({"changes": {"sku": "aws/c5.2xlarge"}, "hours": 1.0}, "no GPU"),
        ({"changes": HERE, "hours": 1.0, "utilization_ratio": 85.0}, "give 0.85"),
        ({"changes": {}, "hours": 1.0, "gpu_model": "H100"}, "--gpus"),
        ({"changes": {}, "hours": 1.0, "gpus": 0, "gpu_model": "H100 PCIe"}, "1 or more"),
        ({"changes": HERE, "hours": 1.0, "gpus": 17}, "--nodes 3"),
        ({"changes": {}, "hours": 1.0, "gpus": 1, "gpu_model": "Z100"}, "nvidia-smi"),
        ({"changes": {}, "hours": 1.0, "gpus": 1, "gpu_model": "V100"}, "350 W"),
    ],
)
def test_a_mistake_is_one_line(told, right):
    with pytest.raises(SettingsError) as error:
        of_machine(told.pop("changes"), **told)
    assert right in str(error.value)
    assert "\n" not in str(error.value)


# From a probe.


def noisy(rnd: random.Random, watts: float, sigma: float):
    return lambda second, gpu: max(40.0, rnd.gauss(watts, sigma))


def training(rnd: random.Random, seconds: int, *, evaluate_every: int = 0) -> list[Stage]:
    """A minute of set-up, twenty slow seconds, then a steady 5 steps a second at 250 W."""
    stages = [
        Stage("setup", 60, steady(50.0), steady(0.0)),
        Stage("train", 20, noisy(rnd, 150.0, 10.0), steps=lambda second: 1.0),
    ]
    left = seconds
    while left > 0:
        length = min(left, evaluate_every or left)
        steps = lambda second: max(0.5, rnd.gauss(5.0, 0.5))  # noqa: E731
        stages.append(Stage("train", length, noisy(rnd, 250.0, 25.0), steps=steps))
        left -= length
        if evaluate_every:
            stages.append(Stage("eval", 10, noisy(rnd, 120.0, 10.0)))
    return stages


def joules(made: Any) -> float:
    value = made.total().it_energy_joules.value
    assert value is not None
    return value


def test_a_part_foretells_the_whole(tmp_path):
    """The interval is that of the spread alone: the scripted sensors have no gain of their own."""
    inside = in_time = widths = 0.0
    many = 20
    for seed in range(many):
        rnd = random.Random(seed)
        probe = record(tmp_path / f"probe-{seed}", training(rnd, 200, evaluate_every=50), gain=0.0)
        whole = record(tmp_path / f"whole-{seed}", training(rnd, 600, evaluate_every=50), gain=0.0)
        made = of_probe(probe, "steps", whole.trainer["counts"]["steps"])
        energy, time = made.it_energy_joules, made.seconds
        assert energy.value == pytest.approx(joules(whole), rel=0.05)
        inside += energy.low <= joules(whole) <= energy.high
        in_time += time.low <= whole.duration_seconds <= time.high
        widths += (energy.high - energy.low) / energy.value / many
    assert inside >= 0.9 * many
    assert in_time >= 0.9 * many
    assert widths < 0.12, "an interval that holds everything tells nothing"


def test_taking_the_probe_s_mean_would_have_been_wrong(tmp_path):
    rnd = random.Random(3)
    probe = record(tmp_path / "probe", training(rnd, 120), gain=0.0)
    whole = record(tmp_path / "whole", training(rnd, 3000), gain=0.0)
    steps = whole.trainer["counts"]["steps"]
    naive = joules(probe) / probe.trainer["counts"]["steps"] * steps
    assert naive > 1.1 * joules(whole)
    made = of_probe(probe, "steps", steps)
    assert made.it_energy_joules.value == pytest.approx(joules(whole), rel=0.02)


def test_set_up_warm_up_and_steady_state_are_told_apart(tmp_path):
    probe = record(tmp_path, training(random.Random(1), 400), gain=0.0)
    made = of_probe(probe, "steps", 20.0 + 5.0 * 3000)
    parts = {part.name: part for part in made.parts}
    setup = parts["set-up and the rest"]
    assert setup.seconds == pytest.approx(60.0, abs=0.1)
    assert setup.energy_joules.value == pytest.approx(3000.0, rel=0.02)
    assert setup.energy_joules.high == pytest.approx(setup.energy_joules.value * 1.25)
    warm = next(part for name, part in parts.items() if name.startswith("first"))
    assert warm.seconds == pytest.approx(20.0, abs=0.1)
    assert warm.energy_joules.value == pytest.approx(20 * 150, rel=0.05)
    steady_part = next(part for name, part in parts.items() if name.endswith(" steps") and part is not warm)
    assert steady_part.seconds == pytest.approx(3000.0, rel=0.02)
    assert steady_part.energy_joules.value == pytest.approx(3000 * 250, rel=0.02)
    assert sum(part.energy_joules.value for part in made.parts) == pytest.approx(made.it_energy_joules.value)
    assert sum(part.seconds for part in made.parts) == pytest.approx(made.seconds.value)
    assert made.it_energy_joules.basis == made.seconds.basis == "modelled"


def test_fewer_steps_than_the_warm_up_take_a_part_of_it(tmp_path):
    made = of_probe(record(tmp_path, training(random.Random(1), 400), gain=0.0), "steps", 10.0)
    assert made.it_energy_joules.value == pytest.approx(60 * 50 + 10 * 150, rel=0.05)
    assert made.seconds.value == pytest.approx(60 + 10, rel=0.02)


def even(seconds: int, *, evals: int = 0, eval_path: str = "eval") -> list[Stage]:
    """One step a second at 100 W, and evaluations of 10 s at 40 W between equal parts."""
    parts = max(1, evals)
    stages = [Stage("setup", 10, steady(50.0))]
    for _ in range(parts):
        stages.append(Stage("train", seconds // parts, steady(100.0), steps=lambda second: 1.0))
        if evals:
            stages.append(Stage(eval_path, 10, steady(40.0)))
    return stages


@pytest.mark.parametrize(
    ("arguments", "times"),
    [
        ({}, 20),  # every 100 steps, as in the probe
        ({"eval_strategy": "steps", "eval_steps": 500}, 4),
        ({"eval_strategy": "no"}, 3),
    ],
)
def test_evaluation_comes_as_often_as_the_trainer_was_told(tmp_path, arguments, times):
    probe = record(tmp_path, even(300, evals=3), trainer={"training_args": arguments}, gain=0.0)
    made = of_probe(probe, "steps", 2000)
    evaluated = next(part for part in made.parts if part.name.startswith("eval"))
    assert evaluated.name == f"eval, {times} times"
    assert evaluated.energy_joules.value == pytest.approx(times * 400.0, rel=0.01)
    assert made.it_energy_joules.value == pytest.approx(500 + 2000 * 100 + times * 400, rel=0.01)
    assert made.seconds.value == pytest.approx(10 + 2000 + times * 10, rel=0.01)


def test_an_evaluation_seen_once_has_a_band_of_its_own(tmp_path):
    made = of_probe(record(tmp_path, even(300, evals=1), gain=0.0), "steps", 2000)
    evaluated = next(part for part in made.parts if part.name.startswith("eval"))
    assert evaluated.name == "eval, 1 times"
    assert evaluated.energy_joules.high == pytest.approx(1.25 * evaluated.energy_joules.value)


def test_the_sensors_own_doubt_is_in_the_band(tmp_path):
    without = of_probe(record(tmp_path / "a", even(300), gain=0.0), "steps", 3000).it_energy_joules
    with_gain = of_probe(record(tmp_path / "b", even(300), gain=0.05), "steps", 3000).it_energy_joules
    assert with_gain.value == pytest.approx(without.value)
    assert (without.high - without.value) / without.value < 0.005
    assert (with_gain.high - with_gain.value) / with_gain.value == pytest.approx(0.05, abs=0.005)


def test_only_the_sum_of_the_steps_is_taken_as_even_and_said(tmp_path):
    probe = record(tmp_path, even(300), count_every=0, gain=0.0)
    assert "progress" not in probe.trainer
    made = of_probe(probe, "steps", 3000)
    assert made.it_energy_joules.value == pytest.approx(500 + 3000 * 100, rel=0.01)
    assert any("taken as even" in assume for assume in made.assumes)


def test_phases_beyond_those_drawn_still_count(tmp_path):
    """An epoch of 2 s, 250 times: the record draws 200 stretches, and sums all."""
    stages = [Stage("setup", 10, steady(50.0))]
    for _ in range(250):
        stages += [Stage("train", 2, steady(100.0), steps=lambda second: 1.0), Stage("eval", 1, steady(40.0))]
    probe = record(tmp_path, stages, gain=0.0)
    assert len(probe.phase("train").spans) < probe.phase("train").count
    for unit in (10, 0):
        probe = record(tmp_path / str(unit), stages, gain=0.0, count_every=unit)
        made = of_probe(probe, "steps", 500)
        assert made.it_energy_joules.value == pytest.approx(joules(probe), rel=0.02)
        assert made.seconds.value == pytest.approx(probe.duration_seconds, rel=0.02)


def test_what_a_probe_cannot_support_is_refused_in_one_line(tmp_path):
    plain = [Stage("train", 100, steady(100.0))]
    cases = [
        (record(tmp_path / "a", plain), "steps", "run.count(steps=...)"),
        (record(tmp_path / "b", even(300)), "tokens", "it counted: steps"),
        (record(tmp_path / "c", even(8)), "steps", "too short"),
        (
            record(tmp_path / "d", [Stage("", 100, steady(100.0), steps=lambda second: 1.0)]),
            "steps",
            "no phase 'train'",
        ),
        (record(tmp_path / "e", even(300)).model_copy(update={"timeline": None}), "steps", "timeline"),
        (record(tmp_path / "f", even(300)).model_copy(update={"totals": []}), "steps", "energy is not known"),
        (record(tmp_path / "g", even(300)), "sheep", "steps, samples"),
    ]
    for probed, unit, right in cases:
        with pytest.raises(SettingsError) as error:
            of_probe(probed, unit, 1000)
        assert right in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(SettingsError, match="more than 0"):
        of_probe(cases[1][0], "steps", 0)


def test_the_interval_is_that_of_student():
    blocks = tuple(estimation.Block(10.0, 1.0, value) for value in (90.0, 110.0, 100.0, 100.0))
    pace = estimation.Pace("steps", estimation.Block(0.0, 0.0, 0.0), blocks, "")
    spread = math.sqrt((1 + 1 + 0 + 0) / 3)
    assert pace.rate("joules") == 10.0
    assert pace.error("joules", 1000.0) == pytest.approx(3.18244631 * spread * math.sqrt(1 / 4 + 1 / 100) * 1000)
    assert pace.error("seconds", 1000.0) == 0.0


# The command.


def said(capsys, *words: object) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_command_of_a_machine(capsys):
    code, out, err = said(capsys, "estimate", "--sku", "ND40rs_v2", "--gpu-hours", "8", "--region", "westus2")
    assert (code, err) == (0, "")
    assert "Nothing of it was measured" in out
    assert "Cost, low priority" in out
    assert "2.028 kWh" in out
    assert "measured" not in out.replace("Nothing of it was measured", "")
    told = json.loads(said(capsys, "estimate", "--sku", "ND40rs_v2", "--hours", "1", "--json")[1])
    assert told["it_energy_joules"]["basis"] == "modelled"


def test_the_command_of_a_probe(capsys, tmp_path):
    made = record(tmp_path / "run.trace", even(300, evals=3), settings=HERE)
    record_file.write(made, tmp_path / "probe.json")
    code, out, err = said(capsys, "estimate", tmp_path / "probe.json", "--steps", "2000", "--region", "swedencentral")
    assert (code, err) == (0, "")
    assert "every 100 steps" in out
    assert "swedencentral" in out
    assert max(len(line) for line in out.splitlines()) <= 110


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["--steps", "10"], "probe.json"),
        (["{probe}"], "--steps"),
        (["{probe}", "--steps", "10", "--epochs", "2"], "one of"),
        (["{probe}", "--steps", "10", "--gpu-hours", "2"], "a probe tells"),
        (["nosuch.json", "--steps", "10"], "no such file"),
    ],
)
def test_a_wrong_command_is_one_line(capsys, tmp_path, words, right):
    record_file.write(record(tmp_path / "run.trace", even(100)), tmp_path / "probe.json")
    told = [str(tmp_path / "probe.json") if word == "{probe}" else word for word in words]
    code, out, err = said(capsys, "estimate", *told)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert right in err


def test_a_folder_of_traces_is_a_probe_too(capsys, tmp_path):
    record(tmp_path / "run.trace", even(300))
    assert said(capsys, "estimate", Path(tmp_path / "run.trace"), "--steps", "500")[0] == 0
