"""Samples to energy curves: joules that never fall, for any stretch of time.

Source of the rules and of the doubts: docs/method.md, sections 2 and 3.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from greenml.model import Device, Rollup

CROSS_CHECK_RATIO = 0.05  # counter and integrated power may differ by this much
CROSS_CHECK_SECONDS = 10.0  # over less time the counter's steps explain more
FROZEN_SECONDS = 2.0  # a counter that has not moved for this long under power does not count
MAX_WATTS_UNKNOWN = 2000.0  # of a device that does not tell its limit: no single device draws more


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
class _Pen:
    """Draws a curve point by point."""

    times: list[float]
    joules: list[float]
    covered: list[float]
    hidden: list[float]

    def to(self, when: float, joules: float, covered: float, hidden: float = 0.0) -> None:
        """Add a point: how much more than at the last one. Points that share a time are one point."""
        if self.times and when <= self.times[-1]:
            self.joules[-1] += joules
            self.covered[-1] += covered
            self.hidden[-1] += hidden
            return
        start = (self.joules[-1], self.covered[-1], self.hidden[-1]) if self.times else (0.0, 0.0, 0.0)
        self.times.append(when)
        self.joules.append(start[0] + max(0.0, joules))
        self.covered.append(start[1] + covered)
        self.hidden.append(start[2] + hidden)

    def curve(self) -> EnergyCurve | None:
        return EnergyCurve(self.times, self.joules, self.covered, self.hidden) if self.times else None


def _pen() -> _Pen:
    return _Pen([], [], [], [])


def from_counter(device: Device, segments: Iterable[Sequence[Rollup]]) -> tuple[EnergyCurve | None, int]:
    """Build the curve of a device with an energy counter (or a model that keeps one).

    Args:
        device: whose samples they are.
        segments: one list for each process that measured it in turn, in time order.

    Returns:
        The curve, None where no counter reading is known; and how many times the counter was reset. A reset
        is bridged with the integrated power of that sample, where it is known, scaled by what the counter said
        of the integrated power in the rest of the run.
    """
    segments = list(segments)
    pen, resets, scale = _pen(), 0, _counter_over_power(segments)
    last: tuple[float, float] | None = None
    for segment in segments:
        own: tuple[float, float] | None = None  # this process's last reading
        for rollup in segment:
            if rollup.energy_joules is None:
                continue
            before, own = own, (rollup.end_seconds, rollup.energy_joules)
            if last is None:
                pen.to(own[0], 0.0, 0.0)
            elif own[0] <= last[0]:
                continue  # told already, by a process that measured at the same time
            else:
                if before is None and _continues(device, own[0] - last[0], own[1] - last[1]):
                    before = last
                if before is None:
                    pen.to(own[0], 0.0, 0.0)  # another process's counter, with an origin of its own
                else:
                    seconds, joules = own[0] - before[0], own[1] - before[1]
                    new = own[0] - last[0]  # what of it nobody told yet
                    if joules >= 0:
                        pen.to(own[0], joules * new / seconds, new)
                    else:
                        resets += 1
                        bridged = (rollup.power_joules or 0.0) * scale * new / seconds
                        pen.to(own[0], bridged, min(rollup.power_seconds, new))
            last = own
    return pen.curve(), resets


def _counter_over_power(segments: Sequence[Sequence[Rollup]]) -> float:
    """Return the ratio of counted to integrated energy where both are whole; 1 where they never are."""
    counted = integrated = 0.0
    for segment in segments:
        for before, after in pairwise(segment):
            if before.energy_joules is None or after.energy_joules is None or after.power_joules is None:
                continue
            span = after.end_seconds - before.end_seconds
            joules = after.energy_joules - before.energy_joules
            if joules > 0 and after.power_seconds >= 0.9 * span:
                counted, integrated = counted + joules, integrated + after.power_joules
    return counted / integrated if integrated else 1.0


def _continues(device: Device, seconds: float, joules: float) -> bool:
    limit = device.power_limit_watts or MAX_WATTS_UNKNOWN
    return device.method == "counter" and 0 <= joules <= 1.5 * limit * (seconds + 1.0)


def from_power(device: Device, segments: Iterable[Sequence[Rollup]]) -> EnergyCurve | None:
    """Build the curve of a device that only tells its power, integrated by the trapezoid rule as it was read.

    Returns:
        The curve, None where no power is known. Time without readings adds no joules and is not covered.
    """
    pen = _pen()
    unseen = 1.0 - device.seen_ratio
    for segment in segments:
        for rollup in segment:
            if rollup.power_joules is None and rollup.power_max_watts is None:
                continue
            start, end = rollup.start_seconds, rollup.end_seconds
            if not pen.times or start > pen.times[-1]:
                pen.to(start, 0.0, 0.0)
            if end <= pen.times[-1]:
                continue  # a lone reading, or told already by a process that measured at the same time
            new = (end - pen.times[-1]) / (end - start)
            covered = min(rollup.power_seconds, end - start)
            pen.to(end, (rollup.power_joules or 0.0) * new, covered * new, unseen * rollup.swing_joules * new)
    return pen.curve()


@dataclass(frozen=True, slots=True)
class Known:
    """A device's curve, by what method it came, and what must be said of it: (code, text)."""

    curve: EnergyCurve | None
    method: str | None
    notes: tuple[tuple[str, str], ...] = ()


def curve_of(device: Device, segments: Sequence[Sequence[Rollup]]) -> Known:
    """Build a device's curve from the best that its samples hold, cross-checked where they hold two."""
    label = f"{device.name} {device.id}"
    power = from_power(device, segments)
    if device.method not in ("counter", "estimate"):
        return Known(power, device.method if power else None)
    counter, resets = from_counter(device, segments)
    if counter is None:
        if power is None or device.method == "estimate":
            return Known(None, device.method)
        return Known(
            power,
            "gauge",
            (("counter-missing", f"{label}: no energy counter reading; its power was integrated"),),
        )
    if device.method == "estimate":
        return Known(counter, "estimate")
    notes = []
    if resets:
        text = f"{label}: the energy counter was reset {resets} time{'s'[: resets > 1]}; bridged with integrated power"
        notes.append(("counter-reset", text))
    if power is not None:
        counted, integrated = counter.joules[-1], power.joules[-1]
        if counted == 0 and integrated > 0 and power.covered[-1] > FROZEN_SECONDS:
            text = f"{label}: the energy counter stood still while power was drawn; its power was integrated"
            return Known(power, "gauge", (*notes, ("counter-frozen", text)))
        notes += _cross_check(label, counter, power) if not resets else []
    return Known(counter, "counter", tuple(notes))


def _cross_check(label: str, counter: EnergyCurve, power: EnergyCurve) -> list[tuple[str, str]]:
    """Compare mean power by the counter and by the gauge, where both cover about the same time.

    What a part-time gauge may have missed, by the swing of its readings, is allowed for.
    """
    seconds = power.covered[-1]
    if not counter.covered[-1] or seconds < max(CROSS_CHECK_SECONDS, 0.9 * counter.covered[-1]):
        return []
    counted, integrated = counter.joules[-1] / counter.covered[-1], power.joules[-1] / seconds
    apart = abs(counted - integrated) / max(counted, integrated, 1e-9)
    allowed = CROSS_CHECK_RATIO + (power.hidden[-1] / power.joules[-1] if power.joules[-1] else 0.0)
    if apart <= allowed:
        return []
    means = f"{counted:.1f} W on the mean by the counter, {integrated:.1f} W by integrated power"
    text = f"{label}: {means}: {apart:.0%} apart"
    return [("cross-check", text)]


@dataclass(frozen=True, slots=True)
class Doubt:
    """What an energy may be off by, joules, source by source."""

    gain: float
    edge: float
    hidden: float
    gap: float

    def band(self, joules: float) -> tuple[float, float]:
        """Return low and high: gain and the quadrature of the independent terms; a gap can only have hidden energy."""
        spread = self.gain + math.hypot(self.edge, self.hidden)
        return max(0.0, joules - spread), joules + spread + self.gap


def doubt(device: Device, curve: EnergyCurve, method: str | None, spans: Sequence[tuple[float, float]]) -> Doubt:
    """Return the doubt of the energy over some spans of time.

    Gain: the sensor's own, of the whole energy. Edge: power x the hardware's step at each of the two ends of each
    span. Hidden: the swing of a part-time gauge's readings, for the time unseen. Gap: seconds not covered x the
    power limit, or the mean power where the limit is not known.
    """
    joules = sum(curve.between(*span) for span in spans)
    covered = sum(curve.covered_between(*span) for span in spans)
    seconds = sum(end - start for start, end in spans)
    watts = joules / covered if covered else 0.0
    gap_seconds = max(0.0, seconds - covered)
    hidden = sum(curve.hidden_between(*span) for span in spans) if method == "gauge" else 0.0
    return Doubt(
        gain=device.gain_ratio * joules,
        edge=watts * device.step_seconds * math.sqrt(2 * len(spans)),
        hidden=hidden,
        gap=gap_seconds * (device.power_limit_watts or watts),
    )
