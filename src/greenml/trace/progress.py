"""Returns training over time: the steps, samples and tokens that the processes logged, and the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from greenml.trace.types import Trace

MOST_POINTS = 200  # of a unit, or of a metric, kept in the record
MOST_METRICS = 50
Points = list[tuple[float, float]]


def counts(traces: Iterable[Trace]) -> dict[str, float]:
    """Return the total count of each unit, summed over processes and attempts."""
    totals: dict[str, float] = {}
    for trace in traces:
        for unit, value in trace.facts.get("counts", {}).items():
            if isinstance(value, int | float):
                totals[unit] = totals.get(unit, 0.0) + value
    return totals


def series(attempts: Iterable[tuple[Callable[[Trace], float], Sequence[Trace]]]) -> dict[str, Points]:
    """Return the cumulative count over time, by unit (``steps``, ``samples``, ``tokens``, ``epochs``).

    In each attempt, the first process that logged any progress counts, so samples and tokens are its own.

    Args:
        attempts: in order, each the function from a trace's clock to the run's, and its traces, that of the lead
            process first.

    Returns:
        (seconds of the run's clock, units done so far), rising in both, at most ``MOST_POINTS`` of a unit. Later
        attempts go on where earlier ones ended.
    """
    by_unit: dict[str, Points] = {}
    for shift, traces in attempts:
        lead = next((trace for trace in traces if trace.progress), None)
        if lead is None:
            continue
        before = {unit: points[-1][1] for unit, points in by_unit.items()}
        for unit, points in _points(lead).items():
            known = by_unit.setdefault(unit, [])
            for at, value in points:
                point = (round(at + shift(lead), 3), before.get(unit, 0.0) + value)
                if not known or (point[0] > known[-1][0] and point[1] > known[-1][1]):
                    known.append(point)
    return {unit: _thinned(points) for unit, points in by_unit.items() if len(points) > 1}


def history(attempts: Iterable[tuple[Callable[[Trace], float], Sequence[Trace]]]) -> dict[str, Points]:
    """Return the metrics over time, by name: those that were logged with more than one value.

    In each attempt, the first process that logged any metric counts.

    Args:
        attempts: as for ``series``.

    Returns:
        (seconds of the run's clock, value) of each change, at most ``MOST_POINTS`` of a metric.
    """
    by_name: dict[str, Points] = {}
    for shift, traces in attempts:
        lead = next((trace for trace in traces if trace.logged), None)
        for at, metrics in lead.logged if lead is not None else ():
            for name, value in metrics.items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    continue
                known = by_name.setdefault(name, [])
                if lead is not None and (not known or known[-1][1] != value):
                    known.append((round(at + shift(lead), 3), float(value)))
    changed = {name: _thinned(points) for name, points in by_name.items() if len(points) > 1}
    return dict(list(changed.items())[:MOST_METRICS])


def _points(trace: Trace) -> dict[str, Points]:
    by_unit: dict[str, Points] = {}
    for at, done in trace.progress:
        for unit, value in done.items():
            if isinstance(value, int | float):
                by_unit.setdefault(unit, []).append((at, float(value)))
    if "step" in by_unit:  # of the whole training: what a checkpoint held already was not done in this attempt
        steps = by_unit.pop("step")
        by_unit["steps"] = [(at, step - steps[0][1]) for at, step in steps]
    return by_unit


def _thinned(points: Points) -> Points:
    """Return at most ``MOST_POINTS``, evenly chosen, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    stride = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(at * stride)] for at in range(MOST_POINTS)]
