"""Joules over time: a curve that never falls, read off for any stretch of time, and the pen that draws it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EnergyCurve:
    """Joules over time: points in time order, joined by straight lines, never falling.

    Attributes:
        times_seconds: of the points; monotonic clock.
        joules: since the first point.
        covered: seconds up to each point for which the energy is known.
        hidden: joules of doubt up to each point from time that a part-time gauge does not see.
    """

    times_seconds: Sequence[float]
    joules: Sequence[float]
    covered: Sequence[float]
    hidden: Sequence[float]

    def between(self, start_seconds: float, end_seconds: float) -> float:
        """Return the joules used between two times; outside of its points nothing is known, and nothing added."""
        return self._between(self.joules, start_seconds, end_seconds)

    def covered_between(self, start_seconds: float, end_seconds: float) -> float:
        """Return for how many seconds between two times the energy is known."""
        return self._between(self.covered, start_seconds, end_seconds)

    def hidden_between(self, start_seconds: float, end_seconds: float) -> float:
        """Return the joules of doubt between two times from what a part-time gauge did not see."""
        return self._between(self.hidden, start_seconds, end_seconds)

    def _between(self, values: Sequence[float], start: float, end: float) -> float:
        return self._at(values, end) - self._at(values, start) if end > start else 0.0

    def _at(self, values: Sequence[float], when: float) -> float:
        times = self.times_seconds
        if when <= times[0]:
            return values[0]
        if when >= times[-1]:
            return values[-1]
        right = bisect_right(times, when)
        left = right - 1
        ratio = (when - times[left]) / (times[right] - times[left])
        return values[left] + ratio * (values[right] - values[left])


@dataclass(slots=True)
class Pen:
    """Draws a curve point by point."""

    times: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)
    hidden: list[float] = field(default_factory=list)
    owed: float = 0.0

    def to(self, when: float, joules: float, covered: float, hidden: float = 0.0) -> None:
        """Add a point: how much more than at the last one. Points that share a time are one point.

        Less than nothing (what was allowed for turned out to be too much) is taken from what comes next.
        """
        joules, self.owed = max(0.0, joules - self.owed), max(0.0, self.owed - joules)
        if self.times and when <= self.times[-1]:
            self.joules[-1] += joules
            self.covered[-1] += covered
            self.hidden[-1] += hidden
            return
        start = (self.joules[-1], self.covered[-1], self.hidden[-1]) if self.times else (0.0, 0.0, 0.0)
        self.times.append(when)
        self.joules.append(start[0] + joules)
        self.covered.append(start[1] + covered)
        self.hidden.append(start[2] + hidden)

    def curve(self) -> EnergyCurve | None:
        """Return what was drawn; None for no point."""
        return EnergyCurve(self.times, self.joules, self.covered, self.hidden) if self.times else None
