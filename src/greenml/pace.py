"""How far training was, and when: what the processes said of their steps, samples and tokens as they ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from greenml.model import Trace

MOST_POINTS = 200  # of a unit, kept in the record
Points = list[tuple[float, float]]


def counts(traces: Iterable[Trace]) -> dict[str, float]:
    """Return how much was done in all, by unit, summed over processes and attempts."""
    found: dict[str, float] = {}
    for trace in traces:
        for unit, value in trace.found.get("counts", {}).items():
            if isinstance(value, int | float):
                found[unit] = found.get(unit, 0.0) + value
    return found


def series(attempts: Iterable[tuple[Callable[[Trace], float], Sequence[Trace]]]) -> dict[str, Points]:
    """Return how much was done up to when, by unit (``steps``, ``samples``, ``tokens``, ``epochs``).

    One process's word counts in each attempt: the first that says anything, so samples and tokens are its own.

    Args:
        attempts: in order, each what turns a trace's clock into the run's, and its traces, the one that speaks for
            the run first.

    Returns:
        (seconds of the run's clock, units done so far), rising in both, at most ``MOST_POINTS`` of a unit. Later
        attempts go on where earlier ones ended.
    """
    found: dict[str, Points] = {}
    for shift, traces in attempts:
        lead = next((one for one in traces if one.progress), None)
        if lead is None:
            continue
        before = {unit: points[-1][1] for unit, points in found.items()}
        for unit, points in _told(lead).items():
            known = found.setdefault(unit, [])
            for at, value in points:
                point = (round(at + shift(lead), 3), before.get(unit, 0.0) + value)
                if not known or (point[0] > known[-1][0] and point[1] > known[-1][1]):
                    known.append(point)
    return {unit: _thinned(points) for unit, points in found.items() if len(points) > 1}


def _told(trace: Trace) -> dict[str, Points]:
    told: dict[str, Points] = {}
    for at, done in trace.progress:
        for unit, value in done.items():
            if isinstance(value, int | float):
                told.setdefault(unit, []).append((at, float(value)))
    if "step" in told:  # of the whole training: what a checkpoint held already was not done in this attempt
        steps = told.pop("step")
        told["steps"] = [(at, step - steps[0][1]) for at, step in steps]
    return told


def _thinned(points: Points) -> Points:
    """Return at most ``MOST_POINTS``, evenly chosen, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    stride = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(at * stride)] for at in range(MOST_POINTS)]
