"""Advice: each rule speaks where the record supports it, with the numbers by hand, and is silent where it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scripted_run import Stage, record, steady

from greenml.accounting import assumptions
from greenml.analysis import advice
from greenml.analysis.advice import RULES, Finding, Saving, Silence, advise, render
from greenml.analysis.what_if import what_if
from greenml.cli import main
from greenml.record import file as record_file
from greenml.record.schema import RunRecord, Usage

HERE = {"sku": "ND40rs_v2", "region": "westus2"}
HOURLY = 22.032  # dedicated, the price nearest to the scripted runs' date
FP32 = {"training_args": {"bf16": False, "fp16": False, "dataloader_num_workers": 0}}


def wholly(busy: float = 0.95, watts: float = 250.0, seconds: int = 100, **more: Any) -> list[Stage]:
    return [Stage("train", seconds, steady(watts), steady(busy), **more)]


def speaks(said: Finding | Silence) -> Finding:
    assert isinstance(said, Finding), said
    return said


def silent(said: Finding | Silence) -> str:
    assert isinstance(said, Silence), said
    return said.why


def imported(made: RunRecord) -> RunRecord:
    """The same run as another tool's figures: sums without a course."""
    devices = [device.model_copy(update={"method": "reported", "sensor": "azure_monitor"}) for device in made.devices]
    return made.model_copy(update={"devices": devices, "timeline": None})


def ratio(made: RunRecord) -> float:
    """Grams a joule of IT energy."""
    total = made.total()
    assert total is not None
    return total.emissions_grams.value / total.it_energy_joules.value


# Idle GPUs.


def test_idle_gpu_time_is_summed_over_the_gpus(tmp_path):
    stages = [
        Stage("setup", 60, steady(50.0), steady(0.02)),
        Stage(
            "train", 140, lambda second, gpu: 250.0 if gpu < 2 else 45.0, lambda second, gpu: 0.9 if gpu < 2 else 0.0
        ),
    ]
    made = record(tmp_path, stages, gpus=4, settings=HERE)
    found = speaks(advice.idle_gpus(made))
    idle_joules = 60 * 4 * 50.0 + 140 * 2 * 45.0
    assert found.saving.joules == (0.0, pytest.approx(idle_joules, rel=1e-3))
    assert found.saving.grams == (0.0, pytest.approx(idle_joules * ratio(made), rel=1e-3))
    assert found.saving.usd == (0.0, pytest.approx(60 / 3600 * HOURLY))
    idle_seconds, known = 60 * 4 + 140 * 2, 200 * 4
    assert found.evidence[0].startswith(f"{idle_seconds / known:.1%} of the GPU time")
    assert "setup 1m 00s" in found.evidence[1]


def test_idle_gpus_drew_no_more_than_the_gpus_did(tmp_path):
    """A step of the timeline has its mean power for a gap in it too; the device's energy does not."""
    made = record(tmp_path, [Stage("train", 100, steady(50.0), steady(0.0))])
    known = next(device.usage.energy_joules for device in made.devices if device.kind == "gpu")
    devices = [
        device.model_copy(update={"usage": device.usage.model_copy(update={"energy_joules": 0.9 * known})})
        if device.kind == "gpu"
        else device
        for device in made.devices
    ]
    found = speaks(advice.idle_gpus(made.model_copy(update={"devices": devices})))
    assert found.saving.joules == (0.0, pytest.approx(0.9 * known, rel=1e-9))
    assert "100.0% of the GPU energy" in found.evidence[0]


def test_a_gpu_that_did_nothing_is_named(tmp_path):
    made = record(tmp_path, [Stage("train", 50, busy=lambda second, gpu: 0.0 if gpu == 3 else 0.9)], gpus=4)
    assert "GPU 3 did nothing all the time" in speaks(advice.idle_gpus(made)).evidence


@pytest.mark.parametrize("busy", [0.95, 0.11])
def test_busy_gpus_are_not_idle(tmp_path, busy):
    assert "only" in silent(advice.idle_gpus(record(tmp_path, wholly(busy))))


def test_idle_is_not_guessed_without_utilization_over_time(tmp_path):
    made = record(tmp_path, wholly(0.01))
    assert isinstance(advice.idle_gpus(made), Finding)
    for without in (
        imported(made),
        made.model_copy(update={"timeline": None}),
        record(tmp_path / "c", wholly(), gpus=0),
    ):
        assert "no GPU's utilization over time" in silent(advice.idle_gpus(without))


# Batch size.


def test_half_busy_gpus_with_free_memory_want_a_larger_batch(tmp_path):
    made = record(tmp_path, wholly(0.45), gpus=8, memory=0.4, settings=HERE)
    found = speaks(advice.small_batch(made))
    shorter = 100 * (1 - 0.45 / 0.9)
    assert found.saving.usd == (0.0, pytest.approx(shorter / 3600 * HOURLY))
    assert found.saving.joules == (0.0, pytest.approx(shorter * 8 * 42)), "42 W: an idle V100 SXM2 32 GB of the table"
    assert "45.0%" in found.evidence[0]
    assert "40.0% of its memory" in found.evidence[0]
    there = [  # each for half of the run: the other attempt ran on other machines
        device.model_copy(update={"usage": device.usage.model_copy(update={"covered_seconds": 50.0})})
        for device in made.devices
    ]
    found = speaks(advice.small_batch(made.model_copy(update={"devices": there})))
    assert found.saving.joules == (0.0, pytest.approx(shorter * 8 * 42 / 2))


@pytest.mark.parametrize(
    ("busy", "memory", "why"),
    [(0.8, 0.4, "neither low nor idle"), (0.05, 0.4, "neither low nor idle"), (0.45, 0.9, "no room")],
)
def test_no_larger_batch_where_there_is_no_room_or_need(tmp_path, busy, memory, why):
    assert why in silent(advice.small_batch(record(tmp_path, wholly(busy), memory=memory)))


def test_no_larger_batch_where_memory_or_utilization_is_not_known(tmp_path):
    made = record(tmp_path, wholly(0.45), memory=0.4)
    blind = [device.model_copy(update={"memory_total_bytes": None}) for device in made.devices]
    assert "memory is not known" in silent(advice.small_batch(made.model_copy(update={"devices": blind})))
    assert "utilization in training is not known" in silent(advice.small_batch(imported(made)))


# Input.


def test_gpus_that_wait_for_full_cpus(tmp_path):
    stages = [
        Stage("train", 60, busy=steady(0.9), cpu=0.3),
        Stage("train", 40, steady(80.0), steady(0.18), cpu=0.95),
    ]
    made = record(tmp_path, stages, settings=HERE)
    found = speaks(advice.input_bound(made))
    assert "in 40.0% of the training" in found.evidence[0]
    assert "95.0% busy" in found.evidence[0]
    assert found.saving.usd == (0.0, pytest.approx(40 * (1 - 0.18 / 0.9) / 3600 * HOURLY, rel=1e-3))


def test_one_full_core_and_no_workers(tmp_path):
    stages = wholly(0.3, cpu=0.05, process=1 / 40)
    found = speaks(advice.input_bound(record(tmp_path, stages, trainer=FP32)))
    assert "1 of 40 CPUs" in found.evidence[0]
    several = {"training_args": {"dataloader_num_workers": 4}}
    assert "nothing tells which" in silent(advice.input_bound(record(tmp_path / "b", stages, trainer=several)))
    assert "nothing tells which" in silent(advice.input_bound(record(tmp_path / "c", stages)))


def test_full_cpus_beside_busy_gpus_or_outside_of_training_are_no_matter(tmp_path):
    busy = record(tmp_path / "a", wholly(0.9, cpu=1.0))
    assert "in 0.0% of the training only" in silent(advice.input_bound(busy))
    setup = [Stage("setup", 60, busy=steady(0.0), cpu=1.0), *wholly(0.9)]
    assert "of the training only" in silent(advice.input_bound(record(tmp_path / "b", setup)))
    assert "no GPU's utilization" in silent(advice.input_bound(imported(busy)))


# Evaluation.


def evaluated(count: int, seconds: int) -> list[Stage]:
    stages = []
    for _ in range(count):
        stages += [Stage("train", 60, steady(200.0)), Stage("eval", seconds, steady(100.0))]
    return stages


def test_evaluation_that_takes_a_third(tmp_path):
    made = record(tmp_path, evaluated(4, 60), settings=HERE)
    found = speaks(advice.evaluation(made))
    assert found.saving.joules == (pytest.approx(2 * 60 * 100.0, rel=1e-3),) * 2
    assert found.saving.usd == (pytest.approx(2 * 60 / 3600 * HOURLY),) * 2
    assert "eval came 4 times, 1m 00s each: 33.3% of the run's energy" in found.evidence[0]


def test_evaluation_by_time_where_its_energy_is_not_known(tmp_path):
    made = record(tmp_path, evaluated(4, 60), settings=HERE)
    unknown = made.model_copy(
        update={"phases": [phase.model_copy(update={"usage": {"GPU-0": Usage(why="lost")}}) for phase in made.phases]}
    )
    found = speaks(advice.evaluation(assumptions.reaccount(unknown)))
    assert found.saving.joules is None
    assert found.saving.usd == (pytest.approx(2 * 60 / 3600 * HOURLY),) * 2
    assert "50.0% of the run's time (its energy is not known)" in found.evidence[0]


def test_evaluation_that_is_rare_or_short_or_absent(tmp_path):
    assert "came once" in silent(advice.evaluation(record(tmp_path / "a", evaluated(1, 60))))
    assert "of the run's energy" in silent(advice.evaluation(record(tmp_path / "b", evaluated(4, 5))))
    assert "no phase" in silent(advice.evaluation(record(tmp_path / "c", wholly())))


# Preemptible machines.


def test_the_checkpoint_interval_is_young_s(tmp_path):
    stages = [Stage("setup", 120), Stage("train", 300), Stage("save", 20), Stage("train", 300), Stage("save", 40)]
    made = record(tmp_path, stages, settings={**HERE, "nodes": 2})
    found = speaks(advice.preemptible(made))
    seconds, cost, again = 780.0, 30.0, 120.0
    interval = math.sqrt(2 * cost * 10 * 3600 / 2)  # a preemption every 10 h of each of two machines
    assert f"every {interval / 60:.0f} min" in found.advice
    often, seldom = (math.sqrt(2 * cost / (h * 1800)) + again / (h * 1800) for h in (5.0, 20.0))
    spot = made.factors.prices["spot"]
    assert found.saving.usd == (
        pytest.approx(seconds / 3600 * 2 * (HOURLY - spot.high * (1 + often))),
        pytest.approx(seconds / 3600 * 2 * (HOURLY - spot.low * (1 + seldom))),
    )
    joules = made.total().it_energy_joules.value
    assert found.saving.joules == (pytest.approx(-joules * often), pytest.approx(-joules * seldom))
    assert any("as the phase 'save' took" in assume for assume in found.assumes)


def test_a_checkpoint_of_no_known_cost_is_assumed_and_said(tmp_path):
    found = speaks(advice.preemptible(record(tmp_path, wholly(), settings=HERE)))
    assert any("60.00 s (assumed: there is no phase 'save')" in assume for assume in found.assumes)
    assert "every 35 min" in found.advice


def test_a_price_of_the_run_s_own_time_goes_before_a_cheaper_old_one(tmp_path):
    """Of the published run's tiers low priority is of its own month, spot of four years later."""
    made = record(tmp_path, wholly(), settings=HERE)
    then = assumptions.reaccount(made.model_copy(update={"started": made.started.replace(year=2021), "ended": None}))
    assert then.factors.prices["spot"].value < then.factors.prices["low_priority"].value
    assert "low priority" in speaks(advice.preemptible(then)).title


def test_a_tier_that_is_sold_no_more_is_no_advice(tmp_path):
    """Azure's low priority ended in 2025: a price that is derived from the dedicated one is none that can be had."""
    made = record(tmp_path, wholly(), settings={"sku": "ND96isr_H100_v5", "region": "eastus"})
    assert made.factors.prices["low_priority"].derived
    assert "no cheaper tier" in silent(advice.preemptible(made))
    then = made.model_copy(update={"started": made.started.replace(year=2025), "ended": None})
    assert "low priority" in speaks(advice.preemptible(assumptions.reaccount(then))).title


def test_no_cheaper_tier_no_advice(tmp_path):
    made = record(tmp_path, wholly(), settings=HERE)
    assert "the run's tier is spot" in silent(advice.preemptible(assumptions.reaccount(made, tier="spot")))
    assert "no dedicated price" in silent(advice.preemptible(record(tmp_path / "b", wholly())))
    assert "no cheaper tier" in silent(advice.preemptible(assumptions.reaccount(made, price_per_hour=9.0)))


def test_preemptions_that_eat_the_saving_are_no_advice(tmp_path):
    stages = [Stage("setup", 60), Stage("train", 60)]
    made = record(tmp_path, stages, settings=HERE)
    slow = [
        phase.model_copy(update={"seconds": 200 * 3600.0}) if phase.path == "setup" else phase for phase in made.phases
    ]
    assert "saves nothing beyond the uncertainty" in silent(
        advice.preemptible(made.model_copy(update={"phases": slow}))
    )


# Regions.


def test_a_cleaner_region_beyond_the_doubt_of_the_factors(tmp_path):
    made = record(tmp_path, wholly(seconds=400), settings={"sku": "ND96isr_H100_v5", "region": "eastus"})
    found = speaks(advice.cleaner_region(made))
    ranking = what_if(made, ("regions",))
    best = min(
        (region for region in ranking.regions if region.comparable and region.carbon_apart),
        key=lambda region: region.emissions_grams.value,
    )
    assert found.title == f"Run in {best.name}"
    low, high = found.saving.grams
    assert 0 < low < -best.change_grams < high
    assert any("g/kWh" in one for one in found.evidence)


def test_a_region_within_the_bands_is_no_advice(tmp_path):
    cleanest = {"sku": "ND40rs_v2", "region": "westeurope"}
    assert "beyond" not in silent(advice.cleaner_region(record(tmp_path, wholly(), settings=cleanest)))
    nowhere = record(tmp_path / "b", wholly(), settings={"region": "SWE"})
    assert "no cloud region" in silent(advice.cleaner_region(nowhere))
    assert "no cloud region" in silent(advice.cheaper_region(nowhere))


def test_a_cheaper_region_is_one_of_the_same_tier_and_time(tmp_path):
    dear = {"sku": "ND40rs_v2", "region": "southeastasia"}
    found = speaks(advice.cheaper_region(record(tmp_path, wholly(), settings=dear)))
    assert found.title in ("Run in azure/westus2, where it costs less", "Run in azure/eastus, where it costs less")
    assert found.saving.usd[0] == pytest.approx(100 / 3600 * (30.492 - HOURLY))
    assert "no region has the machine" in silent(advice.cheaper_region(record(tmp_path / "b", wholly(), settings=HERE)))
    unpriced = record(tmp_path / "c", wholly(), settings={"region": "westus2"})
    assert "no dedicated price of the run" in silent(advice.cheaper_region(unpriced))


# Power limit and precision.


def test_gpus_near_a_limit_that_can_be_lowered(tmp_path):
    found = speaks(advice.power_limit(record(tmp_path, wholly(watts=270.0), gpus=2)))
    assert found.saving.joules == (0.0, pytest.approx(0.25 * 2 * 270 * 100))
    assert found.saving.usd is None, "it runs longer, by how much is not known"
    assert "90.0% of their limit" in found.evidence[0]
    assert "nvidia-smi -pl 225" in found.advice


@pytest.mark.parametrize(
    ("watts", "limits", "why"),
    [
        (270.0, "", "range of the GPUs' power limit is not known"),
        (120.0, "150 to 300", "40.0% of their limit"),
        (270.0, "150 to 350", "lowered already"),
        (270.0, "290 to 300", "cannot be lowered much"),
    ],
)
def test_a_limit_that_is_not_known_or_not_reached_is_left_alone(tmp_path, watts, limits, why):
    assert why in silent(advice.power_limit(record(tmp_path, wholly(watts=watts), limits=limits)))


def test_the_power_limit_of_imported_gpus_is_left_alone(tmp_path):
    assert "no GPU was measured" in silent(advice.power_limit(imported(record(tmp_path, wholly()))))


def test_32_bits_on_tensor_cores(tmp_path):
    made = record(tmp_path, wholly(), gpus=2, settings=HERE, trainer=FP32)
    found = speaks(advice.mixed_precision(made))
    assert found.saving.joules == (0.0, pytest.approx(2 / 3 * 2 * 250 * 100))
    assert found.saving.usd == (0.0, pytest.approx(2 / 3 * 100 / 3600 * HOURLY))


@pytest.mark.parametrize(
    ("trainer", "model", "why"),
    [
        ({"training_args": {"bf16": True, "fp16": False}}, "Tesla V100-SXM2-32GB", "bf16 already"),
        ({"training_args": {"bf16": False, "fp16": False, "tf32": True}}, "Tesla V100-SXM2-32GB", "tf32 already"),
        ({**FP32, "ds_config": {"fp16": {"enabled": True}}}, "Tesla V100-SXM2-32GB", "fp16 already"),
        ({"ran": {"mixed_precision": "bf16"}}, "Tesla V100-SXM2-32GB", "bf16 already"),
        ({"ran": {"precision": "bf16-mixed"}}, "Tesla V100-SXM2-32GB", "bf16-mixed already"),
        ({}, "Tesla V100-SXM2-32GB", "does not say"),
        ({"training_args": {"seed": 1}}, "Tesla V100-SXM2-32GB", "does not say"),
        (FP32, "GeForce GTX 1080", "tensor cores"),
        (FP32, "Some new card", "tensor cores"),
    ],
)
def test_precision_is_not_advised_where_it_is_not_known_or_already_low(tmp_path, trainer, model, why):
    made = record(tmp_path, wholly(), model=model, trainer=trainer)
    assert why in silent(advice.mixed_precision(made))


@pytest.mark.parametrize("said", ["no", "32", "32-true", "float32"])
def test_32_bits_by_any_name(tmp_path, said):
    made = record(tmp_path, wholly(), trainer={"ran": {"precision": said}})
    assert isinstance(advice.mixed_precision(made), Finding)


# All together.


def rich(folder: Path) -> RunRecord:
    stages = [Stage("setup", 60, steady(50.0), steady(0.0)), *wholly(0.45, 270.0, 200), *evaluated(3, 60)]
    return record(folder, stages, gpus=8, memory=0.4, settings=HERE, trainer=FP32)


def test_findings_are_ordered_by_their_largest_share_and_never_summed(tmp_path):
    made = advise(rich(tmp_path))
    shares = [finding.share for finding in made.findings]
    assert shares == sorted(shares, reverse=True)
    assert len(made.findings) >= 5
    assert made.findings[0].rule == "preemptible"
    assert made.findings[0].share_of == "cost"
    total = rich(tmp_path / "again").total()
    assert made.findings[0].share == pytest.approx(
        sum(made.findings[0].saving.usd) / 2 / total.cost_usd["dedicated"].value
    )
    text = render(made)
    assert "the figures do not add up" in text
    for finding in made.findings:
        assert finding.source
        assert finding.source.split(";")[0][:40] in " ".join(text.split())


def test_every_rule_is_silent_of_a_record_with_nothing_in_it(tmp_path):
    bare = record(tmp_path, wholly(), gpus=0).model_copy(
        update={"devices": [], "phases": [], "totals": [], "timeline": None, "trainer": {}}
    )
    said = [rule(bare) for rule in RULES]
    assert all(isinstance(one, Silence) and one.why for one in said)
    assert len({one.rule for one in said}) == len(RULES)
    text = render(advise(bare))
    assert "no findings from 9 rules" in text
    assert text.count("\n - ") == len(RULES)


def test_every_rule_names_its_source():
    for rule in RULES:
        assert "Source:" in (rule.__doc__ or "")


def test_savings_that_are_costs_are_said_as_such():
    found = Finding("x", "X", (), "", Saving(joules=(-7200.0, -3600.0), usd=(3.0, 4.0)), (), "", 0.5, "cost")
    text = render(advise_of(found))
    assert "$3.00 to $4.00 (at mid-range 50.0% of the run's cost); but takes 1.000 to 2.000 Wh more" in text
    both = Finding("x", "X", (), "", Saving(usd=(-1.0, 4.0)), (), "")
    assert "between $1.00 more and $4.00 less" in render(advise_of(both))
    none = Finding("x", "X", (), "", Saving(), (), "")
    assert "not known" in render(advise_of(none))


def advise_of(found: Finding) -> Any:
    from greenml.analysis.advice import Advice

    return Advice("run", (found,), ())


def test_the_command(tmp_path, capsys):
    record_file.write(rich(tmp_path / "run.trace"), tmp_path / "run.json")
    for words, right in (([], "--all says why"), (["--all"], "Looked at"), (["--tier", "spot"], "Advice for")):
        with pytest.raises(SystemExit) as end:
            main(["advise", str(tmp_path / "run.json"), *words])
        out, err = capsys.readouterr()
        assert (end.value.code, err) == (0, "")
        assert right in out
        assert max(len(line) for line in out.splitlines()) <= 100
        assert ("(preemptible)" in out) == ("--tier" not in words)
    with pytest.raises(SystemExit):
        main(["advise", str(tmp_path / "run.json"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["saving"]["usd"][1] > 0
