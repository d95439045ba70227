"""The statistics of a study: known effects are result, none is claimed where there is none, known values are met."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.analysis.statistics import LEVEL, effect, holm, student_quantile, two_sided, welch

DRAWS, SEEDS, SPREAD = 500, 5, 0.02


def draws(truth: float, *, seeds: int = SEEDS, shared: float = 0.0, variant_seeds: int | None = None):
    """Yield pairs of (baseline, variant) by seed, with a spread of 2 % of which seeds share a part."""
    numbers = random.Random(20261128)
    for _ in range(DRAWS):
        of_seed = {seed: numbers.gauss(0.0, shared) for seed in range(seeds)}
        baseline = {seed: 100.0 * (1 + numbers.gauss(0.0, SPREAD) + of_seed[seed]) for seed in range(seeds)}
        offset = 0 if variant_seeds is None else 100
        count = seeds if variant_seeds is None else variant_seeds
        variant = {
            seed + offset: 100.0 * truth * (1 + numbers.gauss(0.0, SPREAD) + of_seed.get(seed, 0.0))
            for seed in range(count)
        }
        yield baseline, variant


@pytest.mark.parametrize(("truth", "others"), [(1.05, None), (0.95, None), (1.05, 5), (1.05, 3)])
def test_interval_holds_the_known_effect(truth: float, others: int | None) -> None:
    effects = [effect(*pair) for pair in draws(truth, variant_seeds=others)]
    held = sum(result.low <= truth - 1 <= result.high for result in effects)
    assert held >= 0.93 * DRAWS
    assert {result.method for result in effects} == {"paired" if others is None else "welch"}
    # and is not so wide that it says nothing: 5 % is seen in most draws
    assert sum(result.p_value < LEVEL for result in effects) > 0.6 * DRAWS


@pytest.mark.parametrize("others", [None, 5])
def test_no_effect_is_told_apart_in_six_percent_at_most(others: int | None) -> None:
    effects = [effect(*pair) for pair in draws(1.0, variant_seeds=others)]
    assert sum(result.p_value < LEVEL for result in effects) <= 0.06 * DRAWS
    verdicts = [holm([result.p_value])[0] for result in effects]
    assert sum(value < LEVEL for value in verdicts) <= 0.04 * DRAWS


def test_many_variants_without_effect_are_rarely_told_apart() -> None:
    """Of twelve variants that change nothing, one is told apart in 5 % of studies at most."""
    pairs = list(draws(1.0))
    studies = [pairs[at : at + 12] for at in range(0, DRAWS - 12, 12)]
    wrong = 0
    for study in studies:
        baseline = study[0][0]
        adjusted = holm([effect(baseline, variant).p_value for _, variant in study])
        wrong += min(adjusted) < LEVEL
    assert wrong <= 0.06 * len(studies)


def test_pairs_take_out_what_seeds_share() -> None:
    """Where a seed moves both runs by 10 %, pairs still see 5 %; groups that are not paired do not."""
    seen = not_paired = 0
    for baseline, variant in draws(1.05, shared=0.10):
        seen += effect(baseline, variant).p_value < LEVEL
        not_paired += effect(baseline, {seed + 50: value for seed, value in variant.items()}).p_value < LEVEL
    assert seen > 0.6 * DRAWS
    assert not_paired < 0.3 * DRAWS


@pytest.mark.parametrize(
    ("freedom", "expected"),  # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (8, 2.306), (10, 2.228), (30, 2.042), (100, 1.984)],
)
def test_quantiles_are_those_of_the_handbook(freedom: int, expected: float) -> None:
    assert student_quantile(float(freedom)) == pytest.approx(expected, abs=5e-4)
    assert two_sided(student_quantile(float(freedom)), freedom) == pytest.approx(0.05, abs=1e-9)


def test_one_and_two_degrees_of_freedom_have_closed_forms() -> None:
    for statistic in (0.0, 0.1, 1.0, 2.5, 40.0):
        assert two_sided(statistic, 1) == pytest.approx(1 - 2 / math.pi * math.atan(statistic), abs=1e-12)
        assert two_sided(statistic, 2) == pytest.approx(1 - statistic / math.sqrt(2 + statistic**2), abs=1e-12)


def test_welch_by_hand() -> None:
    error, freedom = welch(3.0, 4, 4.0, 8)  # 9/4 + 16/8 = 4.25; 4.25**2 / (2.25**2/3 + 2**2/7)
    assert error == pytest.approx(math.sqrt(4.25))
    assert freedom == pytest.approx(18.0625 / (5.0625 / 3 + 4 / 7))


def test_paired_by_hand() -> None:
    """Ratios of 1.1 and 1.2: mean of logs, t with one degree of freedom."""
    made = effect({1: 100.0, 2: 200.0}, {1: 110.0, 2: 240.0})
    logs = (math.log(1.1), math.log(1.2))
    middle, error = sum(logs) / 2, abs(logs[1] - logs[0]) / 2
    assert (made.method, made.count, made.freedom) == ("paired", 2, 1)
    assert made.change == pytest.approx(math.exp(middle) - 1)
    assert made.low == pytest.approx(math.exp(middle - 12.7062047 * error) - 1, rel=1e-6)
    assert made.p_value == pytest.approx(1 - 2 / math.pi * math.atan(middle / error))


def test_a_seed_that_failed_leaves_the_others_paired() -> None:
    made = effect({1: 10.0, 2: 11.0, 3: 12.0}, {1: 9.0, 2: 10.0})
    assert (made.method, made.count, made.baseline_count) == ("paired", 2, 2)


def test_one_run_against_repeats_is_taken_to_vary_as_they_do() -> None:
    made = effect({1: 10.0, 2: 11.0, 3: 12.0}, {7: 11.0}, relative=False)
    assert (made.method, made.freedom) == ("pooled", 2)
    assert made.high == pytest.approx(student_quantile(2.0) * math.sqrt(4 / 3))
    alone = effect({1: 10.0}, {1: 12.0})
    assert (alone.method, alone.low, alone.p_value) == ("single", None, None)
    assert alone.change == pytest.approx(0.2)


def test_figures_that_are_not_above_zero_are_compared_by_their_difference() -> None:
    made = effect({1: 0.0, 2: 1.0}, {1: 1.0, 2: 2.0})
    assert not made.relative
    assert (made.change, made.low, made.p_value) == (1.0, 1.0, 0.0)
    same = effect({1: 3.0, 2: 4.0}, {1: 3.0, 2: 4.0})
    assert (same.change, same.p_value) == (0.0, 1.0)
    assert effect({}, {1: 1.0}) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03], questions=1) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.01], questions=2) == [0.02]
    assert holm([0.9, 0.9], questions=1) == [1.0, 1.0]


@given(
    st.lists(st.floats(0.1, 1e6), min_size=2, max_size=6),
    st.lists(st.floats(0.1, 1e6), min_size=2, max_size=6),
    st.floats(1e-3, 1e3),
)
def test_the_unit_does_not_matter_and_the_order_only_turns_the_sign(
    first: list[float], second: list[float], unit: float
) -> None:
    baseline, variant = dict(enumerate(first)), dict(enumerate(second, 10))
    made = effect(baseline, variant)
    scaled = effect({k: v * unit for k, v in baseline.items()}, {k: v * unit for k, v in variant.items()})
    back = effect(variant, baseline)
    assert scaled.change == pytest.approx(made.change, rel=1e-6, abs=1e-9)
    assert (1 + back.change) * (1 + made.change) == pytest.approx(1.0, rel=1e-9)
    assert made.low - made.change <= 1e-9 * (1 + abs(made.change))
    assert made.change - made.high <= 1e-9 * (1 + abs(made.change))
    assert 0 <= made.p_value <= 1
