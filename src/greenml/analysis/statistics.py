"""Statistics of repeats: the difference of two groups with its 95 % interval, and p-values of several comparisons.

Student's t on logarithms for what is compared as a ratio, on the figures themselves for what is compared in points.
Source of the methods: docs/method.md, section 11. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE  # from which p-value on a difference is not told apart
QUESTIONS = 2  # asked of each variant: does it change the quality, does it change what the run takes
MOST_TERMS = 300  # of the continued fraction; it ends after some ten
SMALLEST = 1e-300

Method = Literal["paired", "welch", "pooled", "single"]


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference of a variant from the baseline.

    Attributes:
        change: relative (0.05 is 5 % more), or in the figure's own unit where ``relative`` is False.
        low, high: its 95 % interval by the spread of the repeats; None where neither group has repeats.
        relative: whether it is a ratio of geometric means less 1, or a difference of means.
        method: ``paired``: by seeds that both have; ``welch``: two groups of repeats; ``pooled``: one group has
            repeats, and the single run is taken to vary as they do; ``single``: no repeats.
        count, baseline_count: runs, or pairs of them, that it is of.
        freedom: degrees of freedom; 0 without repeats.
        p_value: two-sided; None without repeats.
    """

    change: float
    low: float | None
    high: float | None
    relative: bool
    method: Method
    count: int
    baseline_count: int
    freedom: float = 0.0
    p_value: float | None = None


def effect(baseline: Mapping[int, float], variant: Mapping[int, float], *, relative: bool = True) -> Effect | None:
    """Return how a variant differs from the baseline; None where one of them has no figure.

    Args:
        baseline: figures by seed.
        variant: figures by seed. Repeats are paired where the seeds of one group are all in the other.
        relative: compare the ratio. Figures that are not all above 0 are compared by their difference.
    """
    if not baseline or not variant:
        return None
    relative = relative and min(*baseline.values(), *variant.values()) > 0
    first = {seed: math.log(value) if relative else value for seed, value in baseline.items()}
    second = {seed: math.log(value) if relative else value for seed, value in variant.items()}
    both = first.keys() & second.keys()
    method: Method
    if len(both) >= 2 and len(both) == min(len(first), len(second)):
        method, count, baseline_count = "paired", len(both), len(both)
        middle, spread = _moments([second[seed] - first[seed] for seed in both])
        error, freedom = (spread or 0.0) / math.sqrt(len(both)), len(both) - 1.0
    else:
        count, baseline_count = len(second), len(first)
        mean_first, spread_first = _moments(list(first.values()))
        mean_second, spread_second = _moments(list(second.values()))
        middle = mean_second - mean_first
        if spread_first is None and spread_second is None:
            return Effect(_change(middle, relative), None, None, relative, "single", count, baseline_count)
        if spread_first is not None and spread_second is not None:
            method = "welch"
            error, freedom = welch(spread_first, baseline_count, spread_second, count)
        else:
            known = spread_first if spread_first is not None else spread_second
            method, freedom = "pooled", max(count, baseline_count) - 1.0
            error = (known or 0.0) * math.sqrt(1 / count + 1 / baseline_count)
    half = student_quantile(freedom) * error
    low, high = _change(middle - half, relative), _change(middle + half, relative)
    p_value = two_sided(middle / error, freedom) if error > 0 else float(middle == 0)
    return Effect(_change(middle, relative), low, high, relative, method, count, baseline_count, freedom, p_value)


def welch(spread: float, count: int, other_spread: float, other_count: int) -> tuple[float, float]:
    """Return the standard error of the difference of two means, and its degrees of freedom.

    Args:
        spread: sample standard deviation of the first group.
        count: how many it is of; at least 2.
        other_spread: that of the second.
        other_count: how many that is of.

    Source: B. L. Welch, Biometrika 34 (1947), 28-35; degrees of freedom by Satterthwaite, Biometrics 2 (1946), 110.
    """
    part, other = spread**2 / count, other_spread**2 / other_count
    variance = part + other
    if variance == 0:
        return 0.0, count + other_count - 2.0
    return math.sqrt(variance), variance**2 / (part**2 / (count - 1) + other**2 / (other_count - 1))


def holm(p_values: Sequence[float | None], questions: int = QUESTIONS) -> list[float | None]:
    """Return the p-values of one figure over several variants, adjusted for how many comparisons were made.

    Args:
        p_values: a variant each; None where there is none.
        questions: by how much all of them are multiplied on top, for the other figures of the same table.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, place) in enumerate(order):
        highest = max(highest, min(1.0, value * (len(order) - rank) * questions))
        adjusted[place] = highest
    return adjusted


def two_sided(statistic: float, freedom: float) -> float:
    """Return the probability that Student's t lies as far from 0 as ``statistic`` or farther.

    Source: NIST Digital Library of Mathematical Functions, 8.17 (regularised incomplete beta function).
    """
    return _incomplete_beta(freedom / (freedom + statistic * statistic), freedom / 2)


@lru_cache(maxsize=1024)
def student_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return how far from 0 Student's t lies at most, with this probability; 2.776 for 4 degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 1 - confidence:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        if two_sided(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation; None for the latter of one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _change(difference: float, relative: bool) -> float:
    return math.expm1(min(difference, 700.0)) if relative else difference


def _incomplete_beta(x: float, a: float, b: float = 0.5) -> float:
    """Return I_x(a, b) by the continued fraction DLMF 8.17.22, evaluated with Lentz's method."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(MOST_TERMS):
        m = term // 2
        if term == 0:
            weight = 1.0
        elif term % 2 == 0:
            weight = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            weight = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator = 1 + weight * denominator
        denominator = 1 / (denominator if abs(denominator) > SMALLEST else SMALLEST)
        numerator = 1 + weight / (numerator if abs(numerator) > SMALLEST else SMALLEST)
        fraction *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-13:
            break
    return front * (fraction - 1)
