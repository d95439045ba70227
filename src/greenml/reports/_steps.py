"""A timeline's bins as what a chart draws: steps with gaps left open, spans, and rows for a map of many devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from greenml.record import PhaseRecord

Values = Sequence[float | None]
Trace = dict[str, Any]
MOST_CELLS = 40_000  # of a map: 64 devices over 600 bins; keeps a page of many devices small
FINEST = 2000  # parts of the run that can be told apart on a screen; nearer spans are drawn as one


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Round to so many significant digits, for drawing alone; whole numbers become int, which is shorter in JSON."""
    if value is None:
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) else short


def steps(values: Values, width: float, end: float) -> tuple[list[float | None], list[float | None]]:
    """Return the points of a stepped line over bins: each value from its bin's start to its end, nothing over gaps.

    Args:
        values: one a bin, None where nothing is known.
        width: of a bin.
        end: of the run, where the last bin ends.
    """
    at: list[float | None] = []
    drawn: list[float | None] = []
    for place, value in enumerate(values):
        if value is None:
            continue
        if at and values[place - 1] is None:
            at.append(None)
            drawn.append(None)
        at.append(rounded(place * width, 7))
        drawn.append(rounded(value))
        if place + 1 == len(values) or values[place + 1] is None:
            at.append(rounded(min((place + 1) * width, end), 7))
            drawn.append(rounded(value))
    return at, drawn


def gaps(rows: Sequence[Values], width: float, end: float) -> list[tuple[float, float]]:
    """Return the spans in which at least one of several devices was not read."""
    bins = max((len(values) for values in rows), default=0)
    missing = [any(place >= len(values) or values[place] is None for values in rows) for place in range(bins)]
    found: list[tuple[float, float]] = []
    for place, one in enumerate(missing):
        if not one:
            continue
        start, stop = place * width, min((place + 1) * width, end)
        if found and math.isclose(found[-1][1], start):
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


def joined(spans: Sequence[tuple[float, float]], length: float) -> list[tuple[float, float]]:
    """Return spans in order, those that a screen cannot tell apart as one."""
    near = length / FINEST
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start - found[-1][1] <= near:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def areas(spans: Sequence[tuple[float, float]]) -> tuple[list[float | None], list[float | None]]:
    """Return the outlines of full-height rectangles over spans, one path for all of them; heights 0 to 1."""
    at: list[float | None] = []
    height: list[float | None] = []
    for start, end in spans:
        if at:
            at.append(None)
            height.append(None)
        first, last = rounded(start, 7), rounded(end, 7)
        at += [first, first, last, last, first]
        height += [0, 1, 1, 0, 0]
    return at, height


def phase_names(phases: Sequence[PhaseRecord], bins: int, width: float) -> list[str]:
    """Return the path of the innermost phase in the middle of each bin; empty where there is none."""
    names = [""] * bins
    for phase in sorted(phases, key=lambda one: one.path.count("/")):
        for start, end in phase.spans:
            first, last = (max(0, math.ceil(edge / width - 0.5)) for edge in (start, end))
            names[first:last] = [phase.path] * (min(last, bins) - min(first, bins))
    return names


def pooled(rows: Sequence[Values]) -> tuple[list[list[float | None]], int]:
    """Return rows of at most ``MOST_CELLS`` cells in all, and how many bins one of theirs is the mean of."""
    bins = max((len(values) for values in rows), default=0)
    many = max(1, math.ceil(len(rows) * bins / MOST_CELLS))
    return [[mean(values[place : place + many]) for place in range(0, bins, many)] for values in rows], many


def mean(values: Values) -> float | None:
    """Return the mean of those known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def across(rows: Sequence[Values]) -> tuple[list[float | None], list[float | None], list[float | None]]:
    """Return the mean, least and most of several devices in each bin."""
    bins = max((len(values) for values in rows), default=0)
    columns = [[values[place] for values in rows if place < len(values)] for place in range(bins)]
    known = [[value for value in column if value is not None] for column in columns]
    return (
        [sum(column) / len(column) if column else None for column in known],
        [min(column, default=None) for column in known],
        [max(column, default=None) for column in known],
    )
