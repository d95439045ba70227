"""Samples to energy curves: joules that never fall, for any stretch of time.

Source of the rules and of the doubts: docs/method.md, sections 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from greenml.energy_curve import EnergyCurve, Pen
from greenml.model import Device, Rollup

CROSS_CHECK_RATIO = 0.05  # counter and integrated power may differ by this much
CROSS_CHECK_SECONDS = 10.0  # over less time the counter's steps explain more
FROZEN_SECONDS = 2.0  # a counter that has not moved for this long under power does not count
TELLING_SECONDS = 1e-6  # over less time joules say nothing of the power
MOST_APART = 10.0  # counted and integrated energy; beyond, one of them is not of this load
SAME_SECONDS = 0.001  # times that are no further apart are one
CARRIED_SECONDS = 0.5  # a driver's last sample of the power is thought to have gone on for no longer than this
MAX_WATTS_UNKNOWN = 2000.0  # of a device that does not tell its limit: no single device draws more


def from_counter(device: Device, segments: Iterable[Sequence[Rollup]]) -> tuple[EnergyCurve | None, int]:
    """Build the curve of a device with an energy counter (or a model that keeps one).

    Args:
        device: whose samples they are.
        segments: one list for each process that measured it in turn, in time order.

    Returns:
        The curve, None where no counter reading is known; and how many times the counter was reset. A reset
        is bridged with the power integrated since the reading before, where that is known, scaled by what the
        counter said of the integrated power in the rest of the run.
    """
    segments = list(segments)
    pen, resets, scale = Pen(), 0, _counter_over_power(segments)
    last: _Counted | None = None
    for segment in segments:
        own: _Counted | None = None  # this process's last reading
        watts = joules_since = seconds_since = 0.0  # the power integrated since then
        for rollup in segment:
            watts = watts if rollup.power_last_watts is None else rollup.power_last_watts
            joules_since += rollup.power_joules or 0.0
            seconds_since += rollup.power_seconds
            if rollup.energy_joules is None:
                continue
            before, own = own, _Counted(rollup.end_seconds, rollup.energy_joules, device.lag_seconds * watts)
            integrated, integrated_seconds, joules_since, seconds_since = joules_since, seconds_since, 0.0, 0.0
            if last is None:
                pen.to(own.seconds, 0.0, 0.0)
            elif own.seconds <= last.seconds:
                continue  # told already, by a process that measured at the same time
            elif before is None and _continues(device, own.seconds - last.seconds, own.joules - last.joules):
                pen.to(own.seconds, own.joules - last.joules + own.untold - last.untold, own.seconds - last.seconds)
            elif before is None:
                pen.to(own.seconds, 0.0, 0.0)  # another process's counter, with an origin of its own
            else:
                new = own.seconds - last.seconds  # what of it nobody told yet
                part, joules = new / (own.seconds - before.seconds), own.joules - before.joules
                covered = new
                if joules < 0:
                    resets += 1
                    joules, covered = integrated * scale, min(integrated_seconds, new)
                pen.to(own.seconds, (joules + own.untold - before.untold) * part, covered)
            last = own
    return pen.curve(), resets


@dataclass(frozen=True, slots=True)
class _Counted:
    """A counter's reading, and the joules that were drawn by then and that it does not tell yet."""

    seconds: float
    joules: float
    untold: float


def _counter_over_power(segments: Sequence[Sequence[Rollup]]) -> float:
    """Return the ratio of counted to integrated energy where both are whole; 1 where they never are, or say nothing."""
    counted = integrated = 0.0
    for segment in segments:
        for before, after in pairwise(segment):
            if before.energy_joules is None or after.energy_joules is None or after.power_joules is None:
                continue
            span = after.end_seconds - before.end_seconds
            joules = after.energy_joules - before.energy_joules
            if joules > 0 and after.power_seconds >= 0.9 * span:
                counted, integrated = counted + joules, integrated + after.power_joules
    ratio = counted / integrated if integrated else 1.0
    return ratio if 1 / MOST_APART <= ratio <= MOST_APART else 1.0


def _continues(device: Device, seconds: float, joules: float) -> bool:
    limit = device.power_limit_watts or MAX_WATTS_UNKNOWN
    return device.method == "counter" and 0 <= joules <= 1.5 * limit * (seconds + 1.0)


def from_power(device: Device, segments: Iterable[Sequence[Rollup]]) -> EnergyCurve | None:
    """Build the curve of a device that only tells its power, integrated by the trapezoid rule as it was read.

    Returns:
        The curve, None where no power is known. Time without readings adds no joules and is not covered.
    """
    pen = Pen()
    unseen = 1.0 - device.seen_ratio
    for segment in segments:
        watts, before = 0.0, None
        for rollup in segment:
            if rollup.power_joules is None and rollup.power_max_watts is None and rollup.power_end_seconds is None:
                continue
            start, end = rollup.start_seconds, rollup.end_seconds
            watts = watts if rollup.power_last_watts is None else rollup.power_last_watts
            now = _Untold.of(rollup, watts, device.lag_seconds)
            if before is None or now.told_seconds - before.told_seconds > rollup.power_seconds + SAME_SECONDS:
                before = _Untold(now.told_seconds, 0.0, device.lag_seconds * watts)  # nobody told on from there
            if not pen.times or start > pen.times[-1]:
                pen.to(start, 0.0, 0.0)
            if end > pen.times[-1]:  # else a lone reading, or told already by a process that measured at the same time
                new = (end - pen.times[-1]) / (end - start)
                covered = min(max(0.0, rollup.power_seconds + now.seconds - before.seconds), end - start)
                joules = (rollup.power_joules or 0.0) + now.joules - before.joules
                pen.to(end, joules * new, covered * new, unseen * rollup.swing_joules * new)
            before = now
    return pen.curve()


@dataclass(frozen=True, slots=True)
class _Untold:
    """What was drawn by a reading of the power and is not in it.

    Attributes:
        told_seconds: up to when the driver has told the power.
        seconds: since then; joules: since then and for the gauge's lag.
    """

    told_seconds: float
    seconds: float
    joules: float

    @classmethod
    def of(cls, rollup: Rollup, watts: float, lag_seconds: float) -> _Untold:
        told = rollup.end_seconds if rollup.power_end_seconds is None else rollup.power_end_seconds
        age = min(rollup.end_seconds - told, CARRIED_SECONDS)
        return cls(told, age, (age + lag_seconds) * watts)


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
        how = "bridged with integrated power" if power is not None else "the time around that is not covered"
        text = f"{label}: the energy counter was reset {resets} time{'s'[: resets > 1]}; {how}"
        notes.append(("counter-reset", text))
    if power is not None:
        integrated = power.joules[-1]
        if _stands_still(device, segments) and integrated > 0 and power.covered[-1] > FROZEN_SECONDS:
            text = f"{label}: the energy counter stood still while power was drawn; its power was integrated"
            return Known(power, "gauge", (*notes, ("counter-frozen", text)))
        notes += _cross_check(label, counter, power) if not resets else []
    return Known(counter, "counter", tuple(notes))


def _stands_still(device: Device, segments: Sequence[Sequence[Rollup]]) -> bool:
    """Return whether the counter never moved: by what it told alone, without what is allowed for."""
    for segment in segments:
        if len({one.energy_joules for one in segment if one.energy_joules is not None}) > 1:
            return False
    told, _ = from_counter(replace(device, lag_seconds=0.0), segments)
    return told is not None and told.joules[-1] == 0


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
        """Return low and high: the independent terms in quadrature; a gap can only have hidden energy."""
        spread = math.hypot(self.gain, self.edge, self.hidden)
        return max(0.0, joules - spread), joules + spread + self.gap


def doubt(
    device: Device,
    curve: EnergyCurve,
    method: str | None,
    spans: Sequence[tuple[float, float]],
    peak_watts: float | None = None,
) -> Doubt:
    """Return the doubt of the energy over some spans of time, each the half width of 95 %.

    Gain: the sensor's own, of the whole energy. Edge: at each of the two ends of each span the hardware's last update
    is up to a step old, any age as likely: 2 standard deviations of that, times the root mean square of the power,
    which is at most the root of mean x ``peak_watts``. Hidden: the swing of a part-time gauge's
    readings, for the time unseen. Gap: seconds not covered x the power limit, or the mean power where the limit is
    not known.
    """
    told = Told(
        joules=sum(curve.between(*span) for span in spans),
        covered_seconds=sum(curve.covered_between(*span) for span in spans),
        seconds=sum(end - start for start, end in spans),
        count=len(spans),
        hidden_joules=sum(curve.hidden_between(*span) for span in spans),
        peak_watts=peak_watts,
    )
    return doubt_of(device, method, told)


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a device in ``count`` stretches of time, ``seconds`` long together."""

    joules: float
    covered_seconds: float
    seconds: float
    count: int
    hidden_joules: float
    peak_watts: float | None = None


def doubt_of(device: Device, method: str | None, told: Told) -> Doubt:
    """Return the doubt of an energy, as ``doubt`` does."""
    watts = told.joules / told.covered_seconds if told.covered_seconds > TELLING_SECONDS else 0.0
    steps = device.step_seconds * math.sqrt(2 * told.count / 3)
    return Doubt(
        gain=device.gain_ratio * told.joules,
        edge=math.sqrt(watts) * math.sqrt(max(watts, told.peak_watts or 0.0)) * steps,
        hidden=told.hidden_joules if method == "gauge" else 0.0,
        gap=max(0.0, told.seconds - told.covered_seconds) * (device.power_limit_watts or watts),
    )
