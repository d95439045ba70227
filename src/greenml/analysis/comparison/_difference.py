"""By how much two runs differ, and whether that can be told from what their figures may be off by.

The ratio of two figures is known better than either: what both share cancels. Derived in docs/compare.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from greenml.analysis.comparison._columns import Assumed, Figure, Term

Verdict = Literal["apart", "bands", "spread", "exact", "unknown"]
ROUNDS = 50  # of the iteration below; it ends after two or three

# Student's t, 97.5 %, by degrees of freedom from 1 (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of a row: of one run, or the mean over repeats.

    Attributes:
        figure: the figure.
        count: how many runs it is of.
        spread: sample standard deviation over them; None for fewer than two.
    """

    figure: Figure
    count: int = 1
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A row against the baseline, in one column.

    Attributes:
        change_ratio: (row - baseline) / |baseline|: 0.05 is 5 % more.
        low_ratio, high_ratio: where the true change may lie; None where that is not known.
        verdict: ``apart``: told apart; ``bands``: not, for what the sensors and factors may be off by; ``spread``:
            not, for what repeats of one configuration differ by; ``exact``: a figure without a band, such as time, of
            one run each; ``unknown``: what the sensors may be off by is not told.
    """

    change_ratio: float
    low_ratio: float | None = None
    high_ratio: float | None = None
    verdict: Verdict = "exact"


def difference(baseline: Cell, other: Cell) -> Difference | None:
    """Return how a cell differs from the baseline's; None where one is not known, or the baseline is 0."""
    first, second = baseline.figure.value, other.figure.value
    if first is None or second is None or first == 0:
        return None
    change = (second - first) / abs(first)
    measured = _measured(baseline.figure, other.figure)
    exact = measured is not None and measured[0] == measured[1]
    noise = _noise(baseline, other)
    if measured is not None and not exact and measured[0] <= 0 <= measured[1]:
        return Difference(change, *_wider(measured, noise, first), "bands")
    if not noise and (measured is None or exact):
        return Difference(change, verdict="unknown" if measured is None else "exact")
    low, high = _wider(measured or (change, change), noise, first)
    if noise and low <= 0 <= high:
        return Difference(change, low, high, "spread")
    # Where what the sensors are off by is not told, repeats that agree prove nothing.
    return Difference(change, verdict="unknown") if measured is None else Difference(change, low, high, "apart")


def _wider(band: tuple[float, float], noise: float | None, first: float) -> tuple[float, float]:
    more = (noise or 0.0) / abs(first)
    return band[0] - more, band[1] + more


def _measured(baseline: Figure, other: Figure) -> tuple[float, float] | None:
    """Return where the change may lie by sensors and factors alone; None where that is not known."""
    if not (baseline.terms or baseline.factors or other.terms or other.factors) and baseline.terms == other.terms == ():
        change = ((other.value or 0.0) - (baseline.value or 0.0)) / abs(baseline.value or 1.0)
        return change, change
    band = ratio_band(baseline, other)
    return None if band is None else (band[0] - 1, band[1] - 1)


def ratio_band(baseline: Figure, other: Figure) -> tuple[float, float] | None:
    """Return the least and the most that other / baseline may be; None where a band is not known.

    Both figures are above 0. Never wider than what the two printed bands allow.
    """
    if baseline.terms is None or other.terms is None or not baseline.value or not other.value:
        return None
    if baseline.terms and other.terms:
        least = most(baseline.terms, other.terms)
        band = (1 / least if math.isfinite(least) else 0.0, most(other.terms, baseline.terms))
        band = _within(band, _overlap(baseline.energy, other.energy))
    else:
        bare = (other.value / _product(other.factors)) / (baseline.value / _product(baseline.factors))
        band = (bare, bare)
    printed = _overlap((baseline.low, baseline.high), (other.low, other.high))
    if len(baseline.factors) != len(other.factors):
        return printed
    low, high = band
    for first, second in zip(baseline.factors, other.factors, strict=True):
        if not same(first, second):
            low *= second.factor.low / first.factor.high
            high *= second.factor.high / first.factor.low if first.factor.low > 0 else math.inf
    return _within((low, high), printed)


def _within(band: tuple[float, float], other: tuple[float, float] | None) -> tuple[float, float]:
    """Return what two bands of one ratio have in common; the first where they have nothing."""
    if other is None:
        return band
    low, high = max(band[0], other[0]), min(band[1], other[1])
    return (low, high) if low <= high else band


def _product(factors: Sequence[Assumed]) -> float:
    return math.prod(one.factor.value for one in factors)


def _overlap(
    baseline: tuple[float | None, float | None] | None, other: tuple[float | None, float | None] | None
) -> tuple[float, float] | None:
    """Return what two bands allow for their ratio if nothing is shared: 1 lies in it where they overlap."""
    if baseline is None or other is None:
        return None
    (low, high), (other_low, other_high) = baseline, other
    if low is None or high is None or other_low is None or other_high is None or high <= 0:
        return None
    return other_low / high, other_high / low if low > 0 else math.inf


def most(top: Sequence[Term], bottom: Sequence[Term]) -> float:
    """Return the most that the true energy of ``top`` over that of ``bottom`` may be.

    What a sensor has only in one of them is as far off as it may be. The gain of a sensor in both is one unknown: each
    is set to the end that makes the ratio larger. The ratio is a quotient of two linear functions of the gains, so its
    most lies in a corner; Dinkelbach's iteration (Management Science 13(7), 1967) finds it.
    """
    above_of, below_of = _gains(top), _gains(bottom)
    both = above_of.keys() & below_of.keys()
    upper = sum(one.joules + one.plus_joules + (0.0 if one.sensor in both else one.gain_joules) for one in top)
    lower = sum(one.joules - one.minus_joules - (0.0 if one.sensor in both else one.gain_joules) for one in bottom)
    gains = [(above_of[sensor], below_of[sensor]) for sensor in sorted(both)]
    if lower <= 0:
        return math.inf
    ratio = upper / lower
    for _ in range(ROUNDS):
        signs = [1.0 if above - ratio * below > 0 else -1.0 for above, below in gains]
        under = lower + sum(sign * below for sign, (_, below) in zip(signs, gains, strict=True))
        if under <= 0:
            return math.inf
        better = (upper + sum(sign * above for sign, (above, _) in zip(signs, gains, strict=True))) / under
        if math.isclose(better, ratio, rel_tol=1e-12):
            return better
        ratio = better
    return ratio


def _gains(terms: Sequence[Term]) -> dict[tuple[str, ...], float]:
    gains: dict[tuple[str, ...], float] = {}
    for one in terms:
        if one.sensor is not None:
            gains[one.sensor] = gains.get(one.sensor, 0.0) + one.gain_joules
    return gains


def shared(baseline: Figure, other: Figure) -> tuple[int, int]:
    """Return how many of a figure's sensors are the baseline's too, and how many it has."""
    first = {one.sensor for one in baseline.terms or () if one.sensor}
    second = {one.sensor for one in other.terms or () if one.sensor}
    return len(first & second), len(other.terms or ())


def same(first: Assumed, second: Assumed) -> bool:
    """Tell whether two runs were accounted with one and the same factor, so that it cancels in their ratio."""
    one, two = first.factor, second.factor
    return first.where == second.where and (one.value, one.low, one.high, one.scope, one.code, one.year, one.basis) == (
        two.value, two.low, two.high, two.scope, two.code, two.year, two.basis
    )  # fmt: skip


def _noise(baseline: Cell, other: Cell) -> float | None:
    """Return half the 95 % interval of the difference of two means, as far as repeats tell it.

    Welch's interval where both rows have repeats. Where one has, the other is taken to vary by the same share.
    """
    if baseline.spread is None and other.spread is None:
        return None
    known = [(cell.spread or 0.0, cell) for cell in (baseline, other) if cell.spread is not None]
    spread, of = known[0]
    share = spread / abs(of.figure.value) if of.figure.value else 0.0
    parts = [
        ((cell.spread if cell.spread is not None else share * abs(cell.figure.value or 0.0)) ** 2 / cell.count, cell)
        for cell in (baseline, other)
    ]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0
    weights = sum(part**2 / (cell.count - 1) for part, cell in parts if cell.spread is not None)
    told = sum(part for part, cell in parts if cell.spread is not None)
    freedom = max(1, int(told**2 / weights)) if weights else 1
    return STUDENT[min(freedom, len(STUDENT)) - 1] * math.sqrt(variance)
