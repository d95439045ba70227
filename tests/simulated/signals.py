"""What a simulated device truly does over time, with exact integrals.

Pure Python, and written apart from the C library's arithmetic, so that one can be held against the other.
Times are seconds since the script's origin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Constant:
    """One value over [start, end)."""

    value: float
    start: float = -math.inf
    end: float = math.inf

    def at(self, _t: float) -> float:
        return self.value

    def integral(self, start: float, end: float) -> float:
        return self.value * (end - start)

    def line(self) -> str:
        return f"{self.start!r} {self.end!r} constant {self.value!r}"


@dataclass(frozen=True)
class Square:
    """Over [start, end) a wave: ``high`` for the first ``duty_ratio`` of each period, then ``low``.

    A period begins at ``shift_seconds``, counted from the script's origin and not from ``start``.
    """

    low: float
    high: float
    period_seconds: float
    duty_ratio: float = 0.5
    shift_seconds: float = 0.0
    start: float = -math.inf
    end: float = math.inf

    def at(self, t: float) -> float:
        into = math.fmod(t - self.shift_seconds, self.period_seconds)
        into += self.period_seconds if into < 0 else 0
        return self.high if into < self.duty_ratio * self.period_seconds else self.low

    def integral(self, start: float, end: float) -> float:
        period, high_seconds = self.period_seconds, self.duty_ratio * self.period_seconds
        a, b = start - self.shift_seconds, end - self.shift_seconds
        first, last = math.floor(a / period), math.floor(b / period)
        if first == last:
            high = _overlap(a, b, first * period, first * period + high_seconds)
        else:
            high = _overlap(a, b, first * period, first * period + high_seconds)
            high += (last - first - 1) * high_seconds
            high += _overlap(a, b, last * period, last * period + high_seconds)
        return self.high * high + self.low * (end - start - high)

    def line(self) -> str:
        wave = (self.low, self.high, self.period_seconds, self.duty_ratio, self.shift_seconds)
        return f"{self.start!r} {self.end!r} square {' '.join(repr(float(v)) for v in wave)}"


Shape = Constant | Square


def _overlap(a: float, b: float, c: float, d: float) -> float:
    return max(0.0, min(b, d) - max(a, c))


def steps(*points: tuple[float, float]) -> tuple[Constant, ...]:
    """Turn (seconds, value) points into constants, each until the next point, the last for ever."""
    ends = [start for start, _ in points[1:]] + [math.inf]
    return tuple(Constant(value, start, end) for (start, value), end in zip(points, ends, strict=True))


def ordered(shapes: float | Shape | Iterable[Shape]) -> tuple[Shape, ...]:
    """Return the shapes in time order.

    Raises:
        ValueError: two of them overlap: their sum would be a matter of taste.
    """
    if isinstance(shapes, int | float):
        shapes = (Constant(float(shapes)),)
    elif isinstance(shapes, Constant | Square):
        shapes = (shapes,)
    found = tuple(sorted(shapes, key=lambda shape: shape.start))
    for before, after in pairwise(found):
        if after.start < before.end:
            raise ValueError(f"overlap: {before} and {after}")
    return found


def value_at(shapes: Sequence[Shape], rest: float, t: float) -> float:
    """Return the value at ``t``; ``rest`` where no shape is."""
    return next((shape.at(t) for shape in shapes if shape.start <= t < shape.end), rest)


def integral(shapes: Sequence[Shape], rest: float, start: float, end: float) -> float:
    """Return the exact integral from ``start`` to ``end``, negative if they are the other way round."""
    if end < start:
        return -integral(shapes, rest, end, start)
    total, covered = 0.0, 0.0
    for shape in shapes:
        a, b = max(start, shape.start), min(end, shape.end)
        if b > a:
            total += shape.integral(a, b)
            covered += b - a
    return total + rest * (end - start - covered)
