"""Runs side by side: the figures, what of a difference can be told, which runs are repeats, and what is said beside."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.accounting import assumptions
from greenml.analysis.comparison import columns, compare_text
from greenml.analysis.comparison.columns import Assumed, Cell, Figure, Term, difference, front, most, ratio_interval
from greenml.analysis.comparison.compare import Run, compare, ordered, parse, select, warnings, with_factors_of
from greenml.cli import main
from greenml.errors import SettingsError
from greenml.record import file as record_file
from greenml.record.schema import (
    AttemptRecord,
    DeviceRecord,
    Factor,
    Factors,
    Host,
    Note,
    PhaseRecord,
    PlaceRecord,
    RunRecord,
    SourceRef,
    UncertaintyBudget,
    Usage,
)
from greenml.settings import Settings

START = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
GAIN = 0.05


def usage(joules: float, gain: float = GAIN, edge: float = 0.0, gap: float = 0.0) -> Usage:
    return Usage(
        energy_joules=joules, energy_low_joules=joules * (1 - gain) - edge,
        energy_high_joules=joules * (1 + gain) + edge + gap, utilization_ratio=0.8, memory_max_bytes=12e9,
        uncertainty=UncertaintyBudget(calibration_joules=gain * joules, quantisation_joules=edge, coverage_joules=gap),
    )  # fmt: skip


def gpu(number: int, joules: float, name: str = "NVIDIA A100", host: str = "node-a", **more: float) -> DeviceRecord:
    return DeviceRecord(
        id=f"GPU-{number:08d}", kind="gpu", name=name, host=host, method="counter", sensor="nvml",
        calibration_ratio=GAIN, usage=usage(joules, **more),
    )  # fmt: skip


def cpu(joules: float, host: str = "node-a") -> DeviceRecord:
    return DeviceRecord(
        id="package-0", kind="cpu", name="AMD EPYC 7763", host=host, method="estimate", sensor="estimate",
        calibration_ratio=0.5, usage=usage(joules, 0.5),
    )  # fmt: skip


def run(
    name: str = "", joules: float = 3.6e6, seconds: float = 1000.0, *, devices: list[DeviceRecord] | None = None,
    told: dict[str, Any] | None = None, **more: Any,
) -> RunRecord:  # fmt: skip
    """A run of one GPU whose training takes half the time and energy."""
    used = [gpu(1, joules)] if devices is None else devices
    train = {one.id: usage((one.usage.energy_joules or 0.0) / 2) for one in used if one.kind == "gpu"}
    fields = {
        "greenml_version": "0.1.0", "run_id": name or "r", "name": name, "status": "completed", "started": START,
        "ended": START + timedelta(seconds=seconds), "duration_seconds": seconds, "hosts": [Host(name="node-a")],
        "place": PlaceRecord(), "devices": used, "factors": Factors(),
        "phases": [PhaseRecord(path="train", count=1, seconds=seconds / 2, spans=[], usage=train)],
        "trainer": {"counts": {"samples": 1000, "tokens": 50000}},
    }  # fmt: skip
    settings = {"carbon_intensity": 300.0, "pue": 1.2, "price_per_hour": 36.0, **(told or {})}
    return assumptions.account(RunRecord(**{**fields, **more}), assumptions.check(Settings(**settings)))


def compared(*records: RunRecord, **more: Any):
    return compare([Run(record.name or f"run-{at}", record, f"{at}.json") for at, record in enumerate(records)], **more)


def change(made, key: str, at: int = 1):
    found = made.rows[at].differences[key]
    assert found is not None
    return found


# The figures


def test_a_row_has_the_figures_of_its_record():
    made = compared(run("a", metrics={"eval_rougeL": 45.7625}))
    cells = {key: cell.figure.value for key, cell in made.rows[0].cells.items()}
    assert cells == {
        "metrics.eval_rougeL": 45.7625,
        "duration_seconds": 1000.0,
        "samples_per_second": 2.0,  # 1000 in the 500 s of training
        "energy_joules": 3.6e6,
        "joules_per_sample": 1800.0,
        "joules_per_token": 36.0,
        "emissions_grams": pytest.approx(360.0),  # 1 kWh x 1.2 x 300
        "cost_dedicated_usd": pytest.approx(10.0),
        "gpu_memory_peak_bytes": 12e9,
        "gpu_utilization_ratio": 0.8,
    }
    energy = made.rows[0].cells["joules_per_sample"].figure
    assert (energy.low, energy.high) == (pytest.approx(1710.0), pytest.approx(1890.0))


def test_what_no_run_tells_is_no_column_but_said_with_its_reason():
    made = compared(run("a", trainer={}), run("b", trainer={}))
    assert "joules_per_token" not in [column.key for column in made.columns]
    assert ("J per token", "the number of tokens is not known") in made.unknown
    assert "tokens/s" in dict(made.unknown)


def test_what_one_run_does_not_tell_is_not_0():
    made = compared(run("a"), run("b", trainer={}))
    assert made.rows[1].cells["joules_per_sample"].figure.value is None
    assert made.rows[1].differences["joules_per_sample"] is None
    assert "not known" in compare_text.terminal(made, 80)


# What can be told of a difference


def test_other_cards_are_told_apart_only_where_their_bands_do_not_overlap():
    first, near, far = run("a"), run("b", devices=[gpu(2, 3.6e6 * 1.08)]), run("c", devices=[gpu(3, 3.6e6 * 1.12)])
    made = compared(first, near, far)
    assert change(made, "energy_joules").verdict == "intervals"  # 0.95 x 1.08 < 1.05
    told = change(made, "energy_joules", 2)
    assert told.verdict == "apart"  # 0.95 x 1.12 > 1.05
    assert told.change_ratio == pytest.approx(0.12)
    assert told.low_ratio == pytest.approx(1.12 * 0.95 / 1.05 - 1)
    assert told.high_ratio == pytest.approx(1.12 * 1.05 / 0.95 - 1)


def test_the_gain_of_a_card_in_both_runs_cancels():
    made = compared(run("a", devices=[gpu(1, 1e6, edge=1e3)]), run("b", devices=[gpu(1, 1.02e6, edge=1e3)]))
    told = change(made, "energy_joules")
    assert told.verdict == "apart"
    # By hand: with gain +5 % or -5 % in both, (1.02 (1 -+ 0.05) - 0.001) / (1 -+ 0.05 + 0.001); the worst is -5 %.
    assert told.low_ratio == pytest.approx((1.02 * 0.95 - 0.001) / (0.95 + 0.001) - 1)
    assert told.high_ratio == pytest.approx((1.02 * 0.95 + 0.001) / (0.95 - 0.001) - 1)


def test_gains_cancel_as_far_as_each_card_took_the_same_share():
    top, bottom = [Term(("x",), 100, 5), Term(("y",), 150, 7.5)], [Term(("x",), 100, 5), Term(("y",), 100, 5)]
    assert most(top, bottom) == pytest.approx((95 + 157.5) / (95 + 105))
    assert 1 / most(bottom, top) == pytest.approx((105 + 142.5) / (105 + 95))


def test_a_modelled_cpu_and_another_sensor_of_the_same_card_share_nothing():
    gauge = gpu(1, 1.02e6).model_copy(update={"method": "gauge"})
    made = compared(run("a", devices=[gpu(1, 1e6)]), run("b", devices=[gauge]))
    assert change(made, "energy_joules").verdict == "intervals"
    made = compared(run("a", devices=[cpu(1e6)]), run("b", devices=[cpu(1.5e6)]))
    assert change(made, "energy_joules").verdict == "intervals"


def test_a_cpu_package_is_the_same_on_a_host_of_the_same_name_alone():
    def package(joules: float, host: str) -> DeviceRecord:
        return cpu(joules, host).model_copy(update={"method": "counter", "sensor": "rapl", "usage": usage(joules)})

    same = compared(run("a", devices=[package(1e6, "h")]), run("b", devices=[package(1.02e6, "h")]))
    assert change(same, "energy_joules").verdict != "intervals"
    for one, two in (("h", "g"), ("localhost", "localhost"), ("", "")):
        other = compared(run("a", devices=[package(1e6, one)]), run("b", devices=[package(1.02e6, two)]))
        assert change(other, "energy_joules").verdict == "intervals"


def test_a_gap_can_only_hide_energy():
    made = compared(run("a", devices=[gpu(1, 1e6, edge=1.0)]), run("b", devices=[gpu(1, 0.9e6, edge=1.0, gap=2e5)]))
    told = change(made, "energy_joules")
    assert told.verdict == "intervals"
    assert told.low_ratio == pytest.approx(-0.1, abs=1e-4)
    assert told.high_ratio == pytest.approx(0.9 + 0.2 / 0.95 - 1, abs=1e-4)


@st.composite
def two_runs(draw: st.DrawFn) -> tuple[list[Term], list[Term]]:
    def term(sensor: str) -> Term:
        joules = draw(st.floats(10, 1000))
        minus = draw(st.floats(0, 0.1)) * joules
        return Term((sensor,), joules, 0.05 * joules, minus, minus + draw(st.floats(0, 0.2)) * joules)

    names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True)
    return [term(one) for one in draw(names)], [term(one) for one in draw(names)]


@given(two_runs())
def test_the_most_is_that_of_the_worst_corner(runs: tuple[list[Term], list[Term]]):
    top, bottom = runs
    names = sorted({one.sensor for one in (*top, *bottom)})
    worst = 0.0
    for signs in itertools.product((-1, 1), repeat=len(names)):
        sign = dict(zip(names, signs, strict=True))
        both = {one.sensor for one in top} & {one.sensor for one in bottom}
        above = sum(
            one.joules + one.plus_joules + (sign[one.sensor] if one.sensor in both else 1) * one.calibration_joules
            for one in top
        )
        below = sum(
            one.joules - one.minus_joules + (sign[one.sensor] if one.sensor in both else -1) * one.calibration_joules
            for one in bottom
        )
        worst = max(worst, above / below)
    assert most(top, bottom) == pytest.approx(worst, rel=1e-9)


def banded(terms: list[Term]) -> Figure:
    value = sum(term.joules for term in terms)
    low = sum(term.joules - term.calibration_joules - term.minus_joules for term in terms)
    return Figure(
        value, low, sum(term.joules + term.calibration_joules + term.plus_joules for term in terms), "", tuple(terms)
    )


@given(two_runs(), st.randoms(use_true_random=False))
def test_the_true_ratio_lies_within(runs: tuple[list[Term], list[Term]], random: Any):
    baseline, other = banded(runs[0]), banded(runs[1])
    gains = {one.sensor: random.uniform(-0.05, 0.05) for one in (*runs[0], *runs[1])}

    def truth(terms: list[Term]) -> float:
        return sum(
            term.joules * (1 + gains[term.sensor]) + random.uniform(-term.minus_joules, term.plus_joules)
            for term in terms
        )

    band = ratio_interval(baseline, other)
    assert band is not None
    low, high = band
    assert low - 1e-9 <= truth(runs[1]) / truth(runs[0]) <= high + 1e-9
    assert low >= (other.low or 0) / (baseline.high or 0) - 1e-12  # never wider than the printed intervals allow
    assert high <= (other.high or 0) / (baseline.low or 0) + 1e-12


def factor(value: float, spread: float = 0.1, **more: Any) -> Factor:
    fields = {"scope": "country", "code": "SWE", "source": SourceRef(name="table"), "unit": "g CO2e/kWh"}
    return Factor(value=value, low=value * (1 - spread), high=value * (1 + spread), **{**fields, **more})


def emitted(joules: float, *factors: Assumed) -> Figure:
    value = joules * math.prod(factor.factor.value for factor in factors)
    return Figure(value, terms=(Term(("x",), joules, 0.05 * joules),), factors=factors)


def test_the_same_factor_cancels_and_another_brings_both_bands():
    one, two = Assumed(factor(300)), Assumed(factor(400, code="DEU"))
    assert ratio_interval(emitted(100, one), emitted(120, one)) == (pytest.approx(1.2), pytest.approx(1.2))
    low, high = ratio_interval(emitted(100, one), emitted(120, two)) or (0, 0)
    assert low == pytest.approx(1.2 * 360 / 330)
    assert high == pytest.approx(1.2 * 440 / 270)


def test_a_place_that_is_not_known_is_the_same_place_on_the_same_hosts_alone():
    world = factor(480, assumed=True, code="world")
    here, there = Assumed(world, "host-a"), Assumed(world, "host-b")
    assert ratio_interval(emitted(100, here), emitted(150, here)) == (pytest.approx(1.5), pytest.approx(1.5))
    low, high = ratio_interval(emitted(100, here), emitted(150, there)) or (0, 0)
    assert low < 1.5 < high


def test_emissions_and_cost_of_one_factor_differ_as_energy_and_time_do():
    made = compared(run("a"), run("b", 3.6e6 * 1.02, 1100.0))
    assert change(made, "emissions_grams").change_ratio == pytest.approx(0.02)
    assert change(made, "emissions_grams").verdict != "intervals"
    assert change(made, "cost_dedicated_usd").change_ratio == pytest.approx(0.1)
    assert change(made, "cost_dedicated_usd").verdict == "exact"


def test_emissions_of_one_factor_are_told_apart_where_the_energies_are():
    # Unlike sensors: the printed interval is narrower than the sum of what each may be off by.
    def unlike(number: int, joules: float) -> list[DeviceRecord]:
        return [gpu(number, joules), cpu(joules / 10)]

    table = {"carbon_intensity": None, "region": "SWE"}  # with an interval, which is the same for both
    made = compared(run("a", devices=unlike(1, 1e6), told=table), run("b", devices=unlike(2, 1.18e6), told=table))
    energy, carbon = change(made, "energy_joules"), change(made, "emissions_grams")
    assert energy.verdict == carbon.verdict == "apart"
    assert carbon.low_ratio == pytest.approx(energy.low_ratio)
    assert carbon.high_ratio == pytest.approx(energy.high_ratio)


def test_without_bands_nothing_is_judged():
    bare = gpu(1, 3.6e6 * 1.5).model_copy(update={"usage": Usage(energy_joules=3.6e6 * 1.5), "method": "reported"})
    made = compared(run("a"), run("b", devices=[bare]))
    assert change(made, "energy_joules").verdict == "unknown"
    assert "no interval" in compare_text.terminal(made, 80)


def test_the_rule_that_was_used_is_said():
    made = compared(run("a"), run("b", 3.7e6), run("c", devices=[gpu(9, 3.6e6)]))
    assert any(line.startswith("b: 1 of 1 sensors are the baseline's too") for line in made.rules)
    assert any(line.startswith("c: no sensor is known to be the baseline's") for line in made.rules)
    assert all("PUE and carbon intensity are the same and cancel" in line for line in made.rules)


# Repeats


def cell(*values: float) -> Cell:
    return columns.mean([Figure(value) for value in values])


def test_mean_and_spread():
    made = cell(1.0, 2.0, 6.0)
    assert (made.figure.value, made.count) == (3.0, 3)
    assert made.spread == pytest.approx(math.sqrt(7.0))
    assert cell(5.0).spread is None


def test_a_repeat_that_does_not_tell_is_left_out_and_said():
    made = columns.mean([Figure(1.0), Figure(None, why="lost"), Figure(3.0)])
    assert (made.figure.value, made.count, made.figure.why) == (2.0, 2, "known of 2 of 3 repeats")


@pytest.mark.parametrize(("other", "verdict"), [((11, 12, 13), "spread"), ((11.5, 12.5, 13.5), "apart")])
def test_means_of_repeats_are_told_apart_by_welchs_interval(other: tuple[float, ...], verdict: str):
    # Both s = 1, n = 3: t(4) = 2.776 x sqrt(2 / 3) = 2.267 lies between 2 and 2.5.
    told = difference(cell(9, 10, 11), cell(*other))
    assert told is not None
    assert told.verdict == verdict
    assert (told.high_ratio or 0) - told.change_ratio == pytest.approx(0.2267, abs=1e-4)


def test_a_single_run_is_taken_to_vary_as_the_repeats_do():
    told = difference(cell(9, 10, 11), cell(14))
    assert told is not None
    # s / mean = 0.1 of both: t(2) = 4.303 x sqrt(1 / 3 + 1.4 ** 2) = 6.516
    assert (told.high_ratio or 0) - told.change_ratio == pytest.approx(0.6516, abs=1e-4)
    assert told.verdict == "spread"


def test_one_run_each_of_a_figure_without_a_band_is_not_judged():
    told = difference(cell(10), cell(14))
    assert told is not None
    assert (told.change_ratio, told.verdict, told.low_ratio) == (pytest.approx(0.4), "exact", None)
    assert difference(cell(0), cell(14)) is None


def test_a_change_of_a_negative_metric_has_the_sign_of_the_difference():
    told = difference(cell(-2.0), cell(-1.0))
    assert told is not None
    assert told.change_ratio == 0.5


def groups(*records: RunRecord) -> list[list[int]]:
    return columns.groups(list(records), [f"label-{at}" for at in range(len(records))])


def test_other_seeds_and_output_paths_are_repeats():
    records = [
        run("base", params={"lr": 1e-4, "seed": seed, "data_seed": 7 - seed, "output_dir": f"o{seed}", "run_name": "x"})
        for seed in (1, 2, 3)
    ]
    other = run("base", params={"lr": 1e-5, "seed": 1})
    assert groups(records[0], other, records[1], records[2]) == [[0, 2, 3], [1]]


def test_a_copy_of_a_run_is_no_repeat_of_it():
    """It would make a mean of two with no spread."""
    first = run("base", params={"lr": 1e-4, "seed": 1})
    assert groups(first, first.model_copy()) == [[0], [1]]
    without = run("base", params={"lr": 1e-4})
    assert groups(without, without.model_copy()) == [[0], [1]]


def test_what_is_configured_otherwise_is_no_repeat():
    one = run("a-seed1", params={"lr": 1e-4, "seed": 1})
    two = {"params": {"lr": 1e-4, "seed": 2}}
    assert groups(one, run("a-seed2", **two)) == [[0, 1]]
    for other in (
        run("b", devices=[gpu(1, 3.6e6, name="NVIDIA H100")], **two),
        run("b", devices=[gpu(1, 3.6e6), gpu(2, 3.6e6)], **two),
        run("b", trainer={"model": {"name": "t5-large"}}, **two),
        run("b", told={"carbon_intensity": 50.0}, **two),
        run("b", status="killed", **two),
    ):
        assert groups(one, other) == [[0], [1]]


def test_without_seeds_the_names_must_agree():
    def named(name: str) -> RunRecord:
        return run(name, params={"lr": 1e-4})

    assert groups(named("base-run1"), named("base-run2"), named("large")) == [[0, 1], [2]]
    assert groups(named("gpt-2"), named("gpt-3")) == [[0], [1]]
    assert groups(run("a"), run("a")) == [[0], [1]]  # no parameters: what was configured is not known


def test_grouped_rows_have_mean_spread_and_can_be_taken_apart():
    records = [
        run(
            f"base-seed{seed}", 3.6e6 * (1 + seed / 100), params={"lr": 1, "seed": seed},
            metrics={"eval_f1": 0.8 + seed / 100},
        )
        for seed in (1, 2, 3)
    ]  # fmt: skip
    made = compared(*records, run("other", 3.6e6 * 2))
    assert [row.label for row in made.rows] == ["base (mean of 3)", "other"]
    energy = made.rows[0].cells["energy_joules"]
    assert energy.figure.value == pytest.approx(3.6e6 * 1.02)
    assert energy.spread == pytest.approx(3.6e4)
    assert (energy.figure.low, energy.figure.high) == (pytest.approx(3.6e6 * 0.969), pytest.approx(3.6e6 * 1.071))
    assert made.rows[0].cells["metrics.eval_f1"].spread == pytest.approx(0.01)
    assert change(made, "energy_joules").verdict == "apart"
    assert len(compared(*records, grouped=False).rows) == 3
    text = compare_text.terminal(made, 80)
    assert "base-seed1, base-seed2, base-seed3; ± is the sample standard deviation" in " ".join(text.split())


# Metrics


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("eval_rougeLsum", "higher"), ("f1_macro", "higher"), ("test/accuracy", "higher"), ("eval_loss", "lower"),
        ("val_perplexity", "lower"), ("wer", "lower"), ("accuracy_loss", None), ("score", None), ("glossary", None),
    ],
)  # fmt: skip
def test_the_direction_of_a_metric(name: str, way: str | None):
    assert columns.direction(name) == way


def test_metrics_that_the_runs_share_best_known_first():
    told = {
        "train_loss": 1.0, "eval_loss": 1.0, "eval_rouge1": 50.0, "eval_rougeL": 45.0, "eval_gen_len": 25.0,
        "eval_runtime": 3.0, "mine": 2.0, "train_samples_per_second": 9,
    }  # fmt: skip
    first = run("a", metrics=told)
    second = run("b", metrics={"train_loss": 1.1, "eval_rouge1": 51.0, "eval_rougeL": 44.0, "eval_bleu": 3.0})
    assert columns.choose([first, second], ()) == ["eval_rougeL", "eval_rouge1", "train_loss"]
    assert columns.choose([first], ("mine", "eval_gen_len")) == ["mine", "eval_gen_len"]
    with pytest.raises(SettingsError, match=r"no run has the metric 'eval_rougel'; there are eval_rougeL"):
        columns.choose([first], ("eval_rougel",))


def test_nan_and_text_are_no_metrics():
    assert columns.available([run("a", metrics={"x": "NaN", "y": True, "eval_f1": 0.5})]) == {"eval_f1": 1}


# Pareto


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12), st.booleans())
def test_the_front_is_what_no_other_point_dominates(points: list[tuple[int, int]], higher: bool):
    def dominated(one: tuple[int, int]) -> bool:
        sign = 1 if higher else -1
        return any(
            other[0] <= one[0] and sign * other[1] >= sign * one[1] and (other[0], other[1]) != (one[0], one[1])
            for other in points
        )

    expected = {at for at, point in enumerate(points) if not dominated(point)}
    assert front([(float(a), float(b)) for a, b in points], higher=higher) == expected


def test_the_front_is_of_quality_against_cost_and_carbon():
    made = compared(
        run("cheap", 1e6, 100, metrics={"eval_f1": 0.7}), run("worse", 2e6, 200, metrics={"eval_f1": 0.6}),
        run("best", 3e6, 300, metrics={"eval_f1": 0.9}), run("untold", 1e5, 10),
    )  # fmt: skip
    assert [one.takes.key for one in made.fronts] == ["emissions_grams", "cost_dedicated_usd"]
    assert [{made.rows[at].label for at in one.best} for one in made.fronts] == [{"cheap", "best"}] * 2
    assert compare_text.fronts(made) == ["eval_f1 against CO2e; cost, dedicated: cheap, best; 1 without both figures"]


def test_no_front_is_claimed_where_the_direction_is_not_known():
    records = run("a", metrics={"mine": 1.0}), run("b", metrics={"mine": 2.0})
    made = compared(*records)
    assert all(not one.best and "is not known" in one.why for one in made.fronts)
    assert all(one.best for one in compared(*records, lower=["mine"]).fronts)
    with pytest.raises(SettingsError, match="better higher and better lower"):
        compared(*records, lower=["mine"], higher=["mine"])


# Comparable?


TWO_ATTEMPTS = [AttemptRecord(number=n, started=START, ended=START, seconds=1, status="completed") for n in (1, 2)]


def warned(*records: RunRecord) -> list[str]:
    return warnings(records, [record.name for record in records])


def test_alike_runs_are_not_warned_of():
    assert warned(run("a"), run("b", 4e6)) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            run("b", devices=[gpu(1, 3e6), cpu(1e5)]),
            "Energy measured: GPU measured (a); GPU measured, CPU modelled (b).",
        ),
        (run("b", devices=[gpu(1, 3e6, name="NVIDIA H100")]), "GPUs: 1 x NVIDIA A100 (a); 1 x NVIDIA H100 (b)."),
        (
            run("b", told={"carbon_intensity": 50.0}),
            "Carbon intensity: 300 g CO2e/kWh given, given by the user (a); 50 g",
        ),
        (run("b", told={"pue": 1.5}), "PUE: 1.2 (a); 1.5 (b)."),
        (run("b", told={"region": "SWE"}), "Region: not known (a); Sweden (b)."),
        (
            run("b", told={"price_per_hour": 9.0}),
            "Prices: given by hand: dedicated $36 (a); given by hand: dedicated $9 (b).",
        ),
        (run("b", told={"price_per_hour": 36.0, "tier": "spot"}), "Tier paid: not known (a); spot (b)."),
        (run("b", hosts=[Host(name="x"), Host(name="y")]), "Hosts: 1 (a); 2 (b)."),
        (run("b", status="killed"), "not completed, killed; figures up to its last reading: b."),
        (run("b", phases=[]), "Phases: train (a); none (b)."),
        (run("b", attempts=TWO_ATTEMPTS), "2 attempts: b."),
    ],
)  # fmt: skip
def test_what_makes_runs_hard_to_compare_is_said_with_their_names(other: RunRecord, words: str):
    assert any(line.startswith(words) for line in warned(run("a"), other)), warned(run("a"), other)


def test_a_factor_of_another_basis_is_said_and_neither_compared_nor_ranked():
    def based(name: str, basis: str) -> RunRecord:
        made = run(name, metrics={"eval_f1": 0.7})
        intensity = factor(300, basis=basis)
        return made.model_copy(update={"factors": made.factors.model_copy(update={"carbon_intensity": intensity})})

    lines = warned(based("a", "lifecycle"), based("b", "direct"))
    assert any(line.startswith("Basis of the carbon intensity: lifecycle (a); direct (b).") for line in lines)
    made = compared(based("a", "lifecycle"), based("b", "direct"), based("c", "lifecycle"))
    assert [one.why for one in made.fronts] == [
        "emissions are direct and lifecycle: no front is drawn; say --basis",
        "",
    ]
    rows = made.rows
    assert rows[1].differences["emissions_grams"] is None
    assert rows[2].differences["emissions_grams"] is not None
    assert rows[1].differences["energy_joules"] is not None


def test_imported_against_measured_is_said():
    reported = gpu(1, 3.6e6).model_copy(update={"method": "reported", "sensor": "codecarbon"})
    lines = warned(run("a"), run("b", devices=[reported]))
    assert any(
        line.startswith("Figures' origin: measured by greenml (a); imported (CodeCarbon) (b).") for line in lines
    )


def test_many_names_are_cut_short():
    lines = warned(run("a", told={"pue": 2.0}), *(run(f"b{n}") for n in range(10)))
    assert [line.partition(". ")[0] for line in lines] == ["PUE: 1.2 (b0, b1, b2 and 7 more); 2 (a)"]


def test_the_baselines_factors_leave_time_prices_and_energy():
    first, second = run("a"), run("b", 7.2e6, told={"carbon_intensity": 50.0, "pue": 1.0, "price_per_hour": 9.0})
    made = with_factors_of(second, first)
    total, old = made.total(), second.total()
    assert total is not None
    assert old is not None
    assert total.emissions_grams.value == pytest.approx(2 * 1.2 * 300)
    assert total.it_energy_joules == old.it_energy_joules
    assert total.cost_usd == old.cost_usd
    assert made.derived["joules_per_sample"] == second.derived["joules_per_sample"]
    assert change(compared(first, made), "emissions_grams").change_ratio == pytest.approx(1.0)


def test_the_baselines_factors_make_no_part_look_whole():
    """Whose driver of GPUs never answered has used more than what is known, with whatever factors."""
    note = Note(code="sensor-hung", text="nvml never answered; what it would have measured is missing")
    phases = [PhaseRecord(path="train", count=1, seconds=500.0, spans=[], usage={"package-0": usage(1e6)})]
    silent = run("b", devices=[cpu(3.6e6)], phases=phases, notes=[note], told={"carbon_intensity": 50.0})
    made = with_factors_of(silent, run("a")).total()
    assert made is not None
    assert made.it_energy_joules.at_least
    assert made.emissions_grams.at_least


def test_the_baselines_factors_are_those_of_the_sci_too():
    first, second = run("a"), run("b", told={"carbon_intensity": 50.0})
    assert second.sci != first.sci
    assert with_factors_of(second, first).sci == first.sci


# Conditions


RECORD = run(
    "t5-base", params={"learning_rate": 1e-5, "fp16": True, "optim": "adamw", "model.size": "3b", "nested": {"a": 2}},
    metrics={"eval/f1": 0.9}, told={"region": "westus2", "sku": "ND40rs_v2", "tier": "spot"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("params.learning_rate<1e-4", True), ("learning_rate >= 1e-4", False), ("sku=ND40rs_v2", True),
        ("sku=nd40rs_v2", True), ("status!=completed", False), ("status = completed", True), ("region==westus2", True),
        ("params.nested.a=2.0", True), ("model.size=3b", True), ("eval/f1>0.5", True), ("metrics.eval/f1<0.5", False),
        ("params.fp16=true", True), ("optim=adamw", True), ("optim!='adamw'", False), ("place.cloud=azure", True),
        ("duration_seconds<=1000", True), ("gpu=NVIDIA A100", True), ("gpus=1", True), ("nodes>1", False),
        ("energy_joules>3.5e6", True), ("name=t5-base", True), ("optim>1", False), ("started<1", False),
    ],
)  # fmt: skip
def test_conditions(text: str, holds: bool):
    assert parse(text).holds(RECORD) is holds


@pytest.mark.parametrize("text", ["", "status", "status~x", "=x", "status=", "learning_rate<low", "__import__('os')"])
def test_what_is_no_condition_is_refused_with_examples(text: str):
    with pytest.raises(SettingsError, match=r"such as params\.learning_rate<1e-4, sku=ND40rs_v2 or status=completed"):
        parse(text)


def test_a_field_that_no_run_has_is_a_mistake():
    with pytest.raises(SettingsError, match="no run has 'learnin_rate'; did you mean 'learning_rate'"):
        select([RECORD], [parse("learnin_rate=1")])
    with pytest.raises(SettingsError, match="status=failed and sku=x: none of the 1 runs is so"):
        select([RECORD], [parse("status=failed"), parse("sku=x")])
    assert select([run("a"), RECORD], [parse("learning_rate<1")]) == [1]


# Text


def test_the_terminal_table_fits_80_columns():
    records = [
        run(name, 3.6e6 * (1 + at / 50), 1000 + 70 * at, metrics={"eval_rougeL": 45.1 + at, "eval_loss": 1.0},
            devices=[gpu(at, 3.6e6 * (1 + at / 50))])
        for at, name in enumerate(("t5-base-with-a-long-name-of-its-own", "t5-large", "t5-small"))
    ]  # fmt: skip
    made = compared(*records)
    assert len(made.columns) >= 11
    text = compare_text.terminal(made, 80)
    assert max(map(len, text.splitlines())) <= 80
    energy = next(line for line in text.splitlines() if line.startswith("energy"))
    assert energy.split() == ["energy,", "kWh", "1.000", "1.020", "1.040"]  # the three runs side by side
    assert "not told apart" in text
    assert "\x1b[" not in text
    assert "\x1b[" in compare_text.terminal(made, 80, color=True)


def test_a_wide_terminal_has_a_row_a_run():
    text = compare_text.terminal(compared(run("a"), run("b", 3.96e6)), 200)
    assert next(line for line in text.splitlines() if line.startswith("b ")).split()[:4] == [
        "b",
        "16m",
        "40s",
        "2.000",
    ]


def test_many_runs_on_a_narrow_terminal_are_complete():
    made = compared(*(run(f"run-{at}", 3.6e6 + at) for at in range(12)))
    text = compare_text.terminal(made, 80)
    assert max(map(len, text.splitlines())) <= 80
    for at in range(12):
        assert f"run-{at} " in text
    for title in ("duration", "energy", "kg CO2e", "dedicated", "GPU use"):
        assert title in text


def test_one_unit_a_column_and_a_share_in_points():
    busy = run("b", 3.6e3)
    devices = [
        device.model_copy(update={"usage": device.usage.model_copy(update={"utilization_ratio": 0.9})})
        for device in busy.devices
    ]
    busy = assumptions.account(busy.model_copy(update={"devices": devices}), Settings(carbon_intensity=300.0))
    text = compare_text.terminal(compared(run("a"), busy), None)
    row = next(line for line in text.splitlines() if line.startswith("b "))
    assert "0.001000 (-99.9%)" in row  # kWh, as the other's
    assert "90.0% (+10.0 points)" in row


def test_markdown_has_a_row_a_run_and_escapes_names():
    text = compare_text.markdown(compared(run("a|b"), run("<script>x", devices=[gpu(2, 3.7e6)])))
    lines = text.splitlines()
    assert lines[2].startswith("| a\\|b (baseline) | 16m 40s |")
    assert lines[3].startswith("| &lt;script>x | 16m 40s (same) |")
    assert "1.028 (+2.8%, not told apart)" in lines[3]
    assert lines[0].count("|") == lines[1].count("|") == lines[3].count("|")


def test_csv_has_si_units_unrounded():
    text = compare_text.table(compared(run("a"), run("b", 3.7e6 + 1 / 3, trainer={})))
    first, second = csv.DictReader(io.StringIO(text))
    assert float(second["energy_joules"]) == 3.7e6 + 1 / 3
    assert float(second["energy_joules_change_ratio"]) == pytest.approx((3.7e6 + 1 / 3) / 3.6e6 - 1)
    assert second["joules_per_sample"] == ""
    assert (first["baseline"], second["baseline"], first["energy_joules_verdict"]) == ("yes", "no", "")
    assert float(first["emissions_grams"]) == pytest.approx(360.0)


def test_json_is_json_with_reasons():
    told = json.loads(compare_text.as_json(compared(run("a"), run("b", trainer={}, devices=[gpu(2, 3.7e6)]))))
    figures = told["rows"][1]["figures"]
    assert figures["joules_per_sample"]["value"] is None
    assert figures["joules_per_sample"]["why"] == "the number of samples is not known"
    assert figures["energy_joules"]["change"]["verdict"] == "not told apart"


def test_sorting_puts_what_is_not_known_last_and_keeps_the_baseline():
    made = compared(run("a", 2e6, metrics={"eval_f1": 0.5}), run("b", 1e6), run("c", 3e6, metrics={"eval_f1": 0.9}))
    assert [row.label for row in ordered(made, "energy").rows] == ["b", "a", "c"]
    down = ordered(made, "-eval_f1")
    assert [row.label for row in down.rows] == ["c", "a", "b"]
    assert down.rows[down.baseline].label == "a"
    assert {down.rows[at].label for at in down.fronts[0].best} == {"a", "c"}
    assert {down.rows[at].label for at in down.fronts[0].known} == {"a", "c"}
    with pytest.raises(SettingsError, match=r"--sort enery: no such column; did you mean 'energy'"):
        ordered(made, "enery")


# The command


class Said:
    """How a command ended and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(["compare", *map(str, words)])
        self.code = end.value.code
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    for at, name in enumerate(("base", "large", "small")):
        made = run(
            name, 3.6e6 * (at + 1), params={"learning_rate": 10.0 ** -(at + 3)}, metrics={"eval_rougeL": 40.0 + at}
        )
        record_file.write(made, tmp_path / "runs" / name / "run.json")
    (tmp_path / "runs" / "base" / "config.json").write_text('{"model_type": "t5"}')
    return tmp_path


def names(said: Said) -> list[str]:
    return [row["name"] for row in csv.DictReader(io.StringIO(said.out))]


@pytest.mark.parametrize(
    "given",
    [["runs"], ["runs/*/run.json"], ["runs/**/*.json"], ["runs/base", "runs/large/run.json", "runs/s*", "runs"]],
)
def test_files_folders_and_globs(capsys, folder, given):
    said = Said(capsys, *given, "--csv")
    assert said.code == 0
    assert names(said) == ["base", "large", "small"]
    skipped = [line for line in said.err.splitlines() if "config.json" in line]
    assert len(skipped) == (1 if given == ["runs/**/*.json"] else 0)  # named by hand, not found in a folder
    assert all(line.endswith("skipped") for line in said.err.splitlines())


@pytest.mark.parametrize("given", ["runs/base/config.json", "nothing/*.json", "missing.json", "empty"])
def test_no_record_at_all_is_an_error(capsys, folder, given):
    (folder / "empty").mkdir()
    said = Said(capsys, given, "--csv")
    assert said.code == 2
    assert said.err.startswith(f"greenml: no run record in {given}: {given}")
    assert said.err.count("\n") == 1


def test_what_is_no_record_beside_one_is_a_warning(capsys, folder):
    said = Said(capsys, "runs/base", "missing.json", "--csv")
    assert said.code == 0
    assert said.err == "greenml: missing.json: no such file; skipped\n"


def test_the_baseline_is_a_name_or_a_path(capsys, folder):
    for wanted in ("large", "runs/large/run.json", "runs/large"):
        said = Said(capsys, "runs", "--baseline", wanted, "--csv")
        rows = list(csv.DictReader(io.StringIO(said.out)))
        assert [row["baseline"] for row in rows] == ["no", "yes", "no"]
        assert float(rows[0]["energy_joules_change_ratio"]) == pytest.approx(-0.5)
    said = Said(capsys, "runs", "--baseline", "huge")
    assert said.code == 2
    assert "--baseline huge: no such run among these; there are base (runs/base/run.json)" in said.err


def test_a_baseline_by_name_stays_where_a_condition_leaves_it_out(capsys, folder):
    said = Said(
        capsys, "runs", "--where", "learning_rate<1e-4", "--where", "eval_rougeL>1", "--baseline", "base", "--csv"
    )
    assert names(said) == ["base", "small"]


def test_sort_downward(capsys, folder):
    assert names(Said(capsys, "runs", "--sort", "-energy", "--csv")) == ["small", "large", "base"]


@pytest.mark.parametrize(
    "words",
    [
        ["--where", "nope=1"],
        ["--where", "status"],
        ["--sort", "nope"],
        ["--metric", "nope"],
        ["--lower-is-better", "nope"],
    ],
)
def test_a_mistake_is_one_line(capsys, folder, words):
    said = Said(capsys, "runs", *words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_same_factors(capsys, folder):
    record_file.write(run("else", told={"carbon_intensity": 30.0}), folder / "else.json")
    rows = list(csv.DictReader(io.StringIO(Said(capsys, "runs/base", "else.json", "--same-factors", "--csv").out)))
    assert [float(row["emissions_grams"]) for row in rows] == [pytest.approx(360.0)] * 2


def test_runs_of_one_name_are_told_apart_by_their_paths(capsys, folder):
    record_file.write(run("base"), folder / "again" / "run.json")
    assert names(Said(capsys, "runs/base", "again", "--csv")) == ["base (runs/base)", "base (again)"]


def test_no_run_steers_the_terminal(capsys, folder):
    evil = "\x1b[2J\x07evil"
    devices = [gpu(1, 3.6e6, name=evil)]
    record_file.write(run(evil, devices=devices, metrics={f"f1{evil}": 1.0}), folder / "evil.json")
    out = Said(capsys, "runs/base", "evil.json", "--metric", f"f1{evil}").out
    assert not {"\x1b", "\x07"} & set(out)
    assert "[2J evil" in out


def test_a_line_a_run_where_no_terminal_is(capsys, folder):
    lines = Said(capsys, "runs").out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["base", "large", "small"]
    assert "(+100.0%" in lines[3]


def test_a_page_is_written(capsys, folder):
    said = Said(capsys, "runs", "--html", "out.html")
    assert said.out == "out.html: 3 rows of 3 runs\n"
    assert (folder / "out.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    said = Said(capsys, "runs", "--html", "no/such/out.html")
    assert said.code == 2
    assert said.err == "greenml: no/such/out.html: cannot be written: No such file or directory\n"


def test_a_killed_run_that_left_only_traces_is_found(capsys, folder):
    from greenml.trace.file import TraceWriter

    header = {"run_id": "x", "attempt": 1, "host": "h", "start_seconds": 1.0, "unix_seconds": 1.7e9, "name": "killed"}
    (folder / "runs" / "dead" / "run.trace").mkdir(parents=True)
    writer = TraceWriter(folder / "runs" / "dead" / "run.trace" / "a.jsonl", header)
    writer.write({"t": 5.0})
    writer.close()
    os.utime(folder / "runs" / "dead" / "run.trace" / "a.jsonl", (1.7e9, 1.7e9))
    rows = list(csv.DictReader(io.StringIO(Said(capsys, "runs", "--csv").out)))
    assert [(row["name"], row["status"]) for row in rows if row["name"] == "killed"] == [("killed", "killed")]


def test_a_total_that_lacks_a_gpu_is_at_least_and_is_the_same_as_nothing():
    """The same GPU in both, and beside it in one run a GPU that was not measured: no sensor cancels what it used."""
    silent = gpu(2, 0.0)
    silent.usage = Usage(why="no permission", uncertainty=UncertaintyBudget(coverage_joules=None))
    comparison = compared(run("whole"), run("partial", devices=[gpu(1, 3.6e6), silent]))
    text = " ".join(compare_text.terminal(comparison, 250).split())
    assert "at least 1.000" in text
    assert text.count("at least") == 2  # energy and emissions
    assert change(comparison, "energy_joules").verdict == "unknown"
