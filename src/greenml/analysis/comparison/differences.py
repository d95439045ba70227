"""Differences between runs: their significance, the groups of repeated runs, and the Pareto front."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from greenml.analysis import statistics
from greenml.analysis.comparison.columns import Assumed, Figure, Term
from greenml.record.schema import Factor, RunRecord

Verdict = Literal["apart", "intervals", "spread", "exact", "unknown"]
ROUNDS = 50  # of the iteration below; it ends after two or three


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
        verdict: ``apart``: told apart; ``intervals``: not, for what the sensors and factors may be off by; ``spread``:
            not, for what repeats of one configuration differ by; ``exact``: a figure without an interval, such as
            time, of one run each; ``unknown``: the sensors' uncertainty is not known.
    """

    change_ratio: float
    low_ratio: float | None = None
    high_ratio: float | None = None
    verdict: Verdict = "exact"


def difference(baseline: Cell, other: Cell) -> Difference | None:
    """Return how a cell differs from the baseline's.

    None where one is not known, the baseline is 0, or their carbon intensities are on different bases.
    """
    first, second = baseline.figure.value, other.figure.value
    if first is None or second is None or first == 0 or len(bases(baseline.figure) | bases(other.figure)) > 1:
        return None
    change = (second - first) / abs(first)
    interval = measured(baseline.figure, other.figure)
    exact = interval is not None and interval[0] == interval[1]
    noise = _noise(baseline, other)
    if interval is not None and not exact and interval[0] <= 0 <= interval[1]:
        return Difference(change, *_wider(interval, noise, first), "intervals")
    if not noise and (interval is None or exact):
        return Difference(change, verdict="unknown" if interval is None else "exact")
    low, high = _wider(interval or (change, change), noise, first)
    if noise and low <= 0 <= high:
        return Difference(change, low, high, "spread")
    # Where the sensors' uncertainty is not known, repeats that agree prove nothing.
    return Difference(change, verdict="unknown") if interval is None else Difference(change, low, high, "apart")


def bases(figure: Figure) -> set[str]:
    """Return the bases of the carbon intensities in a figure: one for emissions, none for energy."""
    return {assumed.factor.basis for assumed in figure.factors if assumed.factor.basis}


def _wider(interval: tuple[float, float], noise: float | None, first: float) -> tuple[float, float]:
    more = (noise or 0.0) / abs(first)
    return interval[0] - more, interval[1] + more


def measured(baseline: Figure, other: Figure) -> tuple[float, float] | None:
    """Return the interval of the change by sensors and factors alone; None where it is not known."""
    if not (baseline.terms or baseline.factors or other.terms or other.factors) and baseline.terms == other.terms == ():
        change = ((other.value or 0.0) - (baseline.value or 0.0)) / abs(baseline.value or 1.0)
        return change, change
    interval = ratio_interval(baseline, other)
    return None if interval is None else (interval[0] - 1, interval[1] - 1)


def ratio_interval(baseline: Figure, other: Figure) -> tuple[float, float] | None:
    """Return the interval of the ratio other / baseline; None where an interval of the figures is not known.

    Both figures are above 0. Never wider than what the two printed intervals allow.
    """
    if baseline.terms is None or other.terms is None or not baseline.value or not other.value:
        return None
    if not _product(baseline.factors) or not _product(other.factors):  # a price of 0, from which no figure follows
        return _overlap((baseline.low, baseline.high), (other.low, other.high))
    if baseline.terms and other.terms:
        least = most(baseline.terms, other.terms)
        interval = (1 / least if math.isfinite(least) else 0.0, most(other.terms, baseline.terms))
        interval = _within(interval, _overlap(baseline.energy, other.energy))
    else:
        bare = (other.value / _product(other.factors)) / (baseline.value / _product(baseline.factors))
        interval = (bare, bare)
    printed = _overlap((baseline.low, baseline.high), (other.low, other.high))
    if len(baseline.factors) != len(other.factors):
        return printed
    low, high = interval
    for first, second in zip(baseline.factors, other.factors, strict=True):
        if not same(first, second):
            low *= second.factor.low / first.factor.high if first.factor.high > 0 else 0.0
            high *= second.factor.high / first.factor.low if first.factor.low > 0 else math.inf
    return _within((low, high), printed)


def _within(interval: tuple[float, float], other: tuple[float, float] | None) -> tuple[float, float]:
    """Return the intersection of two intervals of one ratio; the first where it is empty."""
    if other is None:
        return interval
    low, high = max(interval[0], other[0]), min(interval[1], other[1])
    return (low, high) if low <= high else interval


def _product(factors: Sequence[Assumed]) -> float:
    return math.prod(factor.factor.value for factor in factors)


def _overlap(
    baseline: tuple[float | None, float | None] | None, other: tuple[float | None, float | None] | None
) -> tuple[float, float] | None:
    """Return the interval of the ratio of two intervals without shared terms; it contains 1 where they overlap."""
    if baseline is None or other is None:
        return None
    (low, high), (other_low, other_high) = baseline, other
    if low is None or high is None or other_low is None or other_high is None or high <= 0:
        return None
    return other_low / high, other_high / low if low > 0 else math.inf


def most(top: Sequence[Term], bottom: Sequence[Term]) -> float:
    """Return the upper bound of the ratio of the true energy of ``top`` to that of ``bottom``.

    What a sensor has only in one of them is as far off as it may be. The calibration of a sensor in both is one
    unknown: each is set to the end that makes the ratio larger. The ratio is a quotient of two linear functions of the
    calibrations, so its most lies in a corner; Dinkelbach's iteration (Management Science 13(7), 1967) finds it.
    """
    above_of, below_of = _calibrations(top), _calibrations(bottom)
    both = above_of.keys() & below_of.keys()
    upper = sum(
        term.joules + term.plus_joules + (0.0 if term.sensor in both else term.calibration_joules) for term in top
    )
    lower = sum(
        term.joules - term.minus_joules - (0.0 if term.sensor in both else term.calibration_joules) for term in bottom
    )
    calibrations = [(above_of[sensor], below_of[sensor]) for sensor in sorted(both)]
    if lower <= 0:
        return math.inf
    ratio = upper / lower
    for _ in range(ROUNDS):
        signs = [1.0 if above - ratio * below > 0 else -1.0 for above, below in calibrations]
        under = lower + sum(sign * below for sign, (_, below) in zip(signs, calibrations, strict=True))
        if under <= 0:
            return math.inf
        better = (upper + sum(sign * above for sign, (above, _) in zip(signs, calibrations, strict=True))) / under
        if math.isclose(better, ratio, rel_tol=1e-12):
            return better
        ratio = better
    return ratio


def _calibrations(terms: Sequence[Term]) -> dict[tuple[str, ...], float]:
    calibrations: dict[tuple[str, ...], float] = {}
    for term in terms:
        if term.sensor is not None:
            calibrations[term.sensor] = calibrations.get(term.sensor, 0.0) + term.calibration_joules
    return calibrations


def shared(baseline: Figure, other: Figure) -> tuple[int, int]:
    """Return how many of a figure's sensors are the baseline's too, and how many it has."""
    first = {term.sensor for term in baseline.terms or () if term.sensor}
    second = {term.sensor for term in other.terms or () if term.sensor}
    return len(first & second), len(other.terms or ())


def same(first: Assumed, second: Assumed) -> bool:
    """Return whether two runs were accounted with the same factor, so that it cancels in their ratio."""
    factor, other = first.factor, second.factor
    return first.where == second.where and (
        (factor.value, factor.low, factor.high, factor.scope, factor.code, factor.year, factor.basis)
        == (other.value, other.low, other.high, other.scope, other.code, other.year, other.basis)
    )


def _noise(baseline: Cell, other: Cell) -> float | None:
    """Return half the 95 % interval of the difference of two means; None where neither row has repeats.

    Welch's interval where both rows have repeats. Where one has, the other is taken to vary by the same share.
    """
    if baseline.spread is None and other.spread is None:
        return None
    known = next(cell for cell in (baseline, other) if cell.spread is not None)
    share = (known.spread or 0.0) / abs(known.figure.value) if known.figure.value else 0.0
    spreads = [
        cell.spread if cell.spread is not None else share * abs(cell.figure.value or 0.0) for cell in (baseline, other)
    ]
    if baseline.spread is not None and other.spread is not None:
        error, freedom = statistics.welch(spreads[0], baseline.count, spreads[1], other.count)
    else:
        error = math.hypot(spreads[0] / math.sqrt(baseline.count), spreads[1] / math.sqrt(other.count))
        freedom = known.count - 1.0
    return statistics.student_quantile(freedom) * error


# What two repeats may differ in: output paths, names, and where they report to.
NOT_CONFIGURATION = frozenset(
    {
        "output_dir", "output", "output_path", "out_dir", "logging_dir", "log_dir", "log_path", "save_dir", "save_path",
        "save_to", "checkpoint_dir", "checkpoint_path", "ckpt_dir", "default_root_dir", "run_name", "run_id", "name",
        "experiment_name", "exp_name", "job_name", "project_name", "version", "hub_model_id", "hub_token", "report_to",
        "push_to_hub", "local_rank", "resume_from_checkpoint", "trial", "trial_number", "repeat", "hostname",
    }
)  # fmt: skip
SEEDS = frozenset({"random_state", "rng", "rng_state"})


def is_seed(name: str) -> bool:
    """Tell whether a parameter seeds random numbers: seed, data_seed, np.random.seed."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "seed" in words or "seeds" in words or name.lower() in SEEDS


def groups(records: Sequence[RunRecord], labels: Sequence[str]) -> list[list[int]]:
    """Return which runs repeat one configuration, each group in the order of its runs.

    Runs are of one group if they have the same parameters, seeds and output paths apart, the same model, hardware,
    place, factors and status, and either each has a seed of its own, or their names agree but for the number of a seed,
    run or trial. A run without parameters is alone: what it was configured as is not known.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        params = configuration(record.params)
        alike[_key(record, params) if params else f"alone {index}"].append(index)
    repeats: list[list[int]] = []
    for members in alike.values():
        seeds = [json.dumps(_seeds(records[index].params), sort_keys=True, default=str) for index in members]
        runs = {(records[index].run_id, records[index].name, seed) for index, seed in zip(members, seeds, strict=True)}
        if len(runs) < len(members):  # one run more than once, copied or accounted anew
            repeats += [[index] for index in members]
            continue
        if len(members) == 1 or ("{}" not in seeds and len(set(seeds)) == len(seeds)):
            repeats.append(members)
            continue
        by_name: dict[str, list[int]] = defaultdict(list)
        for index in members:
            by_name[stem(records[index].name or labels[index])].append(index)
        repeats += by_name.values()
    return sorted(repeats)


COUNTS = re.compile(r"(?<![a-z])(seed|run|rep|repeat|trial|try)[-_ =.#]*\d*(?![a-z0-9])", re.IGNORECASE)


def stem(name: str) -> str:
    """Return a name without what counts repeats: ``base-seed2`` is ``base``; a bare number stays, as in ``gpt-2``."""
    return " ".join(re.findall(r"[a-z0-9]+", COUNTS.sub(" ", name.lower())))


def common(names: Sequence[str]) -> str:
    """Return what a group of repeats is called: what its names have in common, else the first of them."""
    bare = {COUNTS.sub("", name).strip(" -_.=#/") for name in names}
    return (min(bare) if len(bare) == 1 else "") or names[0]


def configuration(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that tell configurations apart: without seeds, output paths and names of the run."""
    return {
        name: configuration(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
        if not is_seed(name) and name.lower() not in NOT_CONFIGURATION
    }


def _seeds(params: Mapping[str, Any]) -> dict[str, Any]:
    seeds = {name: value for name, value in params.items() if is_seed(name)}
    for name, value in params.items():
        if isinstance(value, Mapping):
            seeds |= {f"{name}.{inner}": seed for inner, seed in _seeds(value).items()}
    return seeds


def _key(record: RunRecord, params: dict[str, Any]) -> str:
    place, factors = record.place, record.factors
    model = record.trainer.get("model")
    gpus: dict[str, int] = defaultdict(int)
    for device in record.devices:
        if device.kind == "gpu":
            gpus[device.name] += device.count
    assumed = [factors.carbon_intensity, factors.pue, *factors.prices.values()]
    return json.dumps(
        [
            params, model if isinstance(model, (dict, str)) else None, gpus, sorted(factors.prices), place.sku,
            place.region, place.country_iso3, place.nodes, record.status,
            record.environment.world_size, [_factor(factor) for factor in assumed],
        ],
        sort_keys=True,
        default=str,
    )  # fmt: skip


def _factor(factor: Factor | None) -> list[object]:
    return [] if factor is None else [factor.value, factor.low, factor.high, factor.scope, factor.code, factor.year]


def mean(figures: Sequence[Figure]) -> Cell:
    """Return the mean of a figure over repeats, and its sample standard deviation, over those that know it.

    The interval is the mean of the intervals: the sensors of repeats are mostly the same, so that their calibration
    does not average out.
    """
    known = [figure for figure in figures if figure.value is not None]
    count = len(known)
    if not known:
        return Cell(figures[0], 0)
    if len(figures) == 1:
        return Cell(figures[0])
    values = [figure.value or 0.0 for figure in known]
    middle = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (count - 1)) if count > 1 else None
    has_intervals = all(figure.low is not None and figure.high is not None for figure in known)
    has_terms = all(figure.terms is not None for figure in known)
    whys = [figure.why for figure in known if figure.why]
    if count < len(figures):
        whys.append(f"known of {count} of {len(figures)} repeats")
    figure = Figure(
        middle,
        math.fsum(figure.low or 0.0 for figure in known) / count if has_intervals else None,
        math.fsum(figure.high or 0.0 for figure in known) / count if has_intervals else None,
        "; ".join(dict.fromkeys(whys)),
        _merged([term.scaled(1 / count) for figure in known for term in figure.terms or ()]) if has_terms else None,
        known[0].factors,
        _mean_interval([figure.energy for figure in known]),
        any(figure.at_least for figure in known),
    )
    return Cell(figure, count, spread)


def _mean_interval(intervals: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    return math.fsum(low for low, _ in known) / len(known), math.fsum(high for _, high in known) / len(known)


def _merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Join the terms of one sensor; those of sensors that nothing identifies stay apart."""
    joined: dict[object, Term] = {}
    for index, term in enumerate(terms):
        key: object = term.sensor or index
        old = joined.get(key)
        joined[key] = term if old is None else Term(
            term.sensor, old.joules + term.joules, old.calibration_joules + term.calibration_joules,
            old.minus_joules + term.minus_joules, old.plus_joules + term.plus_joules,
        )  # fmt: skip
    return tuple(joined.values())


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> set[int]:
    """Return the indices of the points that no other point dominates.

    Args:
        points: (what it takes, what it is worth); less of the first is better.
        higher: whether more of the second is better.

    Returns:
        Those for which no other takes no more and is worth no less, and is better in one of the two. Equal points are
        both on it.
    """
    sign = 1.0 if higher else -1.0
    order = sorted(range(len(points)), key=lambda at: (points[at][0], -sign * points[at][1]))
    places: set[int] = set()
    best: tuple[float, float] | None = None
    for at in order:
        takes, worth = points[at][0], sign * points[at][1]
        if best is None or worth > best[1] or (takes, worth) == best:
            best = (takes, worth)
            places.add(at)
    return places
