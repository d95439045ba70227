"""Joules over time: a curve that never falls, read off for any stretch of time, and the pen that draws it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

SHORTEST_STRETCH_SECONDS = 0.1  # a step of the hardware's makes the mean power over less time anything


@dataclass(frozen=True, slots=True)
class EnergyCurve:
    """Joules over time: points in time order, joined by straight lines, never falling.

    Attributes:
        times_seconds: of the points; monotonic clock.
        joules: since the first point.
        covered: seconds up to each point for which the energy is known.
        unsampled: joules of uncertainty up to each point, of time that a part-time gauge does not sample.
        bridged_low, bridged_high: joules up to each point that the device may have used less and more in gaps that
            were bridged; empty where there was none.
        largest_watts: mean power of the stretch between two points that has the largest.
    """

    times_seconds: Sequence[float]
    joules: Sequence[float]
    covered: Sequence[float]
    unsampled: Sequence[float]
    bridged_low: Sequence[float] = ()
    bridged_high: Sequence[float] = ()
    largest_watts: float = 0.0

    def between(self, start_seconds: float, end_seconds: float) -> float:
        """Return the joules used between two times; outside of its points nothing is known, and nothing added."""
        return self._between(self.joules, start_seconds, end_seconds)

    def covered_between(self, start_seconds: float, end_seconds: float) -> float:
        """Return for how many seconds between two times the energy is known."""
        return self._between(self.covered, start_seconds, end_seconds)

    def unsampled_between(self, start_seconds: float, end_seconds: float) -> float:
        """Return the joules of uncertainty between two times, of time that a part-time gauge did not sample."""
        return self._between(self.unsampled, start_seconds, end_seconds)

    def bridged_between(self, start_seconds: float, end_seconds: float) -> tuple[float, float]:
        """Return the joules that may have been used less and more between two times, in gaps that were bridged."""
        if not self.bridged_low:
            return 0.0, 0.0
        low, high = (
            self._between(values, start_seconds, end_seconds) for values in (self.bridged_low, self.bridged_high)
        )
        return low, high

    def interpolation_between(self, spans: Sequence[tuple[float, float]], limit_watts: float | None) -> float:
        """Return the joules by which the energy of some spans may be off because no reading was made at their edges.

        Between two readings the energy is known, and when it was used is not. For each stretch between readings that
        lies in the spans only in part, it is the largest error that a power between 0 and the limit allows.

        Args:
            spans: in time order; they do not overlap.
            limit_watts: the highest power of the device. Where that is not known (None), it is taken to be the largest
                mean power between two points of the curve, and at least twice that of the stretch.
        """
        times = self.times_seconds
        inside: dict[int, float] = {}  # seconds of the stretch that ends at this point
        for start, end in spans:
            for right in {bisect_left(times, start), bisect_left(times, end)}:
                if 0 < right < len(times):
                    inside[right] = inside.get(right, 0.0) + min(end, times[right]) - max(start, times[right - 1])
        joules = 0.0
        for right, seconds in inside.items():
            length = times[right] - times[right - 1]
            outside = length - seconds
            if seconds <= 0 or outside <= 0:
                continue
            watts = (self.joules[right] - self.joules[right - 1]) / length
            limit = max(self.largest_watts, 2 * watts) if limit_watts is None else limit_watts
            headroom = max(0.0, limit - watts)
            joules += max(min(watts * outside, headroom * seconds), min(watts * seconds, headroom * outside))
        return joules

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
    unsampled: list[float] = field(default_factory=list)
    bridged_low: list[float] = field(default_factory=list)
    bridged_high: list[float] = field(default_factory=list)
    owed: float = 0.0
    largest_watts: float = 0.0

    def to(
        self,
        when: float,
        joules: float,
        covered: float,
        unsampled: float = 0.0,
        bridged: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Add a point: how much more than at the last one. Points that share a time are one point.

        Less than nothing (what was allowed for turned out to be too much) is taken from what comes next.
        """
        joules, self.owed = max(0.0, joules - self.owed), max(0.0, self.owed - joules)
        if self.times and when <= self.times[-1]:
            self.joules[-1] += joules
            self.covered[-1] += covered
            self.unsampled[-1] += unsampled
            self.bridged_low[-1] += bridged[0]
            self.bridged_high[-1] += bridged[1]
            return
        if self.times and when - self.times[-1] >= SHORTEST_STRETCH_SECONDS:
            self.largest_watts = max(self.largest_watts, joules / (when - self.times[-1]))
        start = (self.joules[-1], self.covered[-1], self.unsampled[-1]) if self.times else (0.0, 0.0, 0.0)
        self.times.append(when)
        self.joules.append(start[0] + joules)
        self.covered.append(start[1] + covered)
        self.unsampled.append(start[2] + unsampled)
        self.bridged_low.append((self.bridged_low[-1] if self.bridged_low else 0.0) + bridged[0])
        self.bridged_high.append((self.bridged_high[-1] if self.bridged_high else 0.0) + bridged[1])

    def curve(self) -> EnergyCurve | None:
        """Return what was drawn; None for no point."""
        if not self.times:
            return None
        bridges = self.bridged_low[-1] or self.bridged_high[-1]
        low, high = (self.bridged_low, self.bridged_high) if bridges else ((), ())
        return EnergyCurve(self.times, self.joules, self.covered, self.unsampled, low, high, self.largest_watts)
