"""Builds energy curves from samples: cumulative joules that never fall, for any span of time.

Source of the rules and of the uncertainty: docs/method.md, sections 2 and 3.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from greenml.trace.types import Device, Rollup

CROSS_CHECK_RATIO = 0.05  # counter and integrated power may differ by this much
CROSS_CHECK_SECONDS = 10.0  # over less time the steps and lags at both ends may explain more
SHORT_CHECK_RATIO = 0.1  # in less time than that
SHORTEST_CHECKED_SECONDS = 1.0  # over less time the two are not compared
SHORTEST_FILLED_SECONDS = 0.5  # a counter that was silent for less is not noted
FROZEN_SECONDS = 2.0  # a counter that has not moved for this long under power does not count
TELLING_SECONDS = 1e-6  # over less time joules say nothing of the power
MOST_APART = 10.0  # counted and integrated energy; beyond, one of them is not of this load
SAME_SECONDS = 0.001  # times that are no further apart are one
CARRIED_SECONDS = 0.5  # a driver's last sample of the power is thought to have gone on for no longer than this
BRIDGED_SECONDS = 10.0  # the longest time without a reading of power that is bridged by the power on both sides
FLUSHED_SECONDS = 1.0  # the sampler writes as often: a longer gap lies behind what is read in its sample
MISSED_SECONDS = 0.25  # less than this is no gap: the driver has not reported it yet
IDLE_RATIO = 0.1  # of the power limit: data center GPUs draw 10 to 15 % of it when idle
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
        current: _Counted | None = None  # this process's last reading
        watts = joules_since = seconds_since = 0.0  # the power integrated since then
        for rollup in segment:
            watts = watts if rollup.power_last_watts is None else rollup.power_last_watts
            joules_since += rollup.power_joules or 0.0
            seconds_since += rollup.power_seconds
            if rollup.energy_joules is None:
                continue
            before, current = current, _Counted(rollup.end_seconds, rollup.energy_joules, device.lag_seconds * watts)
            integrated, integrated_seconds, joules_since, seconds_since = joules_since, seconds_since, 0.0, 0.0
            if last is None:
                pen.to(current.seconds, 0.0, 0.0)
            elif current.seconds <= last.seconds:
                continue  # counted already, by a process that measured at the same time
            elif before is None and _continues(device, current.seconds - last.seconds, current.joules - last.joules):
                pen.to(
                    current.seconds,
                    current.joules - last.joules + current.pending_joules - last.pending_joules,
                    current.seconds - last.seconds,
                )
            elif before is None:
                pen.to(current.seconds, 0.0, 0.0)  # another process's counter, with an origin of its current
            else:
                new = current.seconds - last.seconds  # what of it no process reported yet
                part, joules = new / (current.seconds - before.seconds), current.joules - before.joules
                covered = new
                if joules < 0:
                    resets += 1
                    joules, covered = integrated * scale, min(integrated_seconds, new)
                pen.to(current.seconds, (joules + current.pending_joules - before.pending_joules) * part, covered)
            last = current
    return pen.curve(), resets


@dataclass(frozen=True, slots=True)
class _Counted:
    """A counter's reading, and the joules that were drawn by then and that it does not tell yet."""

    seconds: float
    joules: float
    pending_joules: float


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


def from_power(device: Device, segments: Sequence[Sequence[Rollup]]) -> EnergyCurve | None:
    """Build the curve of a device that only tells its power, integrated by the trapezoid rule as it was read.

    A gap of up to ``BRIDGED_SECONDS``, as a sampler that got no processor time leaves it, is bridged with the mean of
    the power on both sides. What the device may have used less or more there lies between its idle and its limit.

    Returns:
        The curve, None where no power is known. Longer time without readings adds no joules and is not covered.
    """
    pen = Pen()
    unsampled_ratio = 1.0 - device.sampled_ratio
    idle_watts, limit_watts = power_range(device, segments)
    for segment in segments:
        watts, before = 0.0, None
        for rollup in segment:
            if rollup.power_joules is None and rollup.power_max_watts is None and rollup.power_end_seconds is None:
                continue
            start, end = rollup.start_seconds, rollup.end_seconds
            last_watts, watts = watts, watts if rollup.power_last_watts is None else rollup.power_last_watts
            now = _PendingEnergy.of(rollup, watts, device.lag_seconds)
            first = before is None
            limit_seconds = rollup.power_seconds + SAME_SECONDS
            if before is None or now.known_until_seconds - before.known_until_seconds > limit_seconds:
                # No earlier reading covers the time from there on.
                before = _PendingEnergy(now.known_until_seconds, 0.0, device.lag_seconds * watts)
            if not pen.times or start > pen.times[-1]:
                pen.to(start, 0.0, 0.0)
            if end > pen.times[-1]:  # else a lone reading, or counted by a process that measured at the same time
                new = (end - pen.times[-1]) / (end - start)
                covered = min(max(0.0, rollup.power_seconds + now.seconds - before.seconds), end - start)
                joules = (rollup.power_joules or 0.0) + now.joules - before.joules
                gap, bridged = end - start - covered, (0.0, 0.0)
                read = not first and rollup.power_max_watts is not None  # on both sides of the gap
                if read and last_watts and watts and MISSED_SECONDS < gap <= BRIDGED_SECONDS:
                    known = bool(rollup.power_joules) and rollup.power_seconds > SAME_SECONDS
                    read_watts = (rollup.power_joules or 0.0) / rollup.power_seconds if known else watts
                    at_end = gap >= FLUSHED_SECONDS >= rollup.power_seconds
                    mean_watts = (
                        (read_watts if known else last_watts) + watts if at_end else last_watts + read_watts
                    ) / 2
                    joules, covered = joules + mean_watts * gap, covered + gap
                    low, high = max(0.0, mean_watts - idle_watts), max(0.0, limit_watts - mean_watts)
                    bridged = (low * gap * new, high * gap * new)
                pen.to(end, joules * new, covered * new, unsampled_ratio * rollup.swing_joules * new, bridged)
            before = now
    return pen.curve()


def power_range(device: Device, segments: Sequence[Sequence[Rollup]]) -> tuple[float, float]:
    """Return between which powers a device may lie while it is not read.

    Idle: a tenth of the limit, or the lowest reading where that is less; 0 where no limit is known. At most: the limit,
    or the largest reading.
    """
    rollups = [rollup for segment in segments for rollup in segment]
    lowest = min((rollup.power_last_watts for rollup in rollups if rollup.power_last_watts), default=0.0)
    largest = max((rollup.power_max_watts for rollup in rollups if rollup.power_max_watts), default=0.0)
    limit = device.power_limit_watts
    return (0.0, largest) if not limit else (min(lowest, IDLE_RATIO * limit), max(limit, largest))


@dataclass(frozen=True, slots=True)
class _PendingEnergy:
    """Energy that was drawn by the time of a power reading and is not in that reading yet.

    Attributes:
        known_until_seconds: the time up to which the driver has reported the power.
        seconds: since then; joules: since then and for the gauge's lag.
    """

    known_until_seconds: float
    seconds: float
    joules: float

    @classmethod
    def of(cls, rollup: Rollup, watts: float, lag_seconds: float) -> _PendingEnergy:
        known_until = rollup.end_seconds if rollup.power_end_seconds is None else rollup.power_end_seconds
        age = min(rollup.end_seconds - known_until, CARRIED_SECONDS)
        return cls(known_until, age, (age + lag_seconds) * watts)


@dataclass(frozen=True, slots=True)
class Known:
    """A device's curve, by what method it came, and what must be said of it: (code, text).

    Attributes:
        lower_ratio, higher_ratio: by how much of the energy the integrated power lies below or above the counter,
            where the two disagree.
    """

    curve: EnergyCurve | None
    method: str | None
    notes: tuple[tuple[str, str], ...] = ()
    lower_ratio: float = 0.0
    higher_ratio: float = 0.0


def curve_of(  # noqa: PLR0911  a return for each thing that the samples may hold
    device: Device, segments: Sequence[Sequence[Rollup]]
) -> Known:
    """Build a device's curve from the best that its samples hold, cross-checked where they hold two."""
    label = f"{device.name} {device.id}"
    power = from_power(device, segments)
    if device.method not in ("counter", "estimate"):
        return Known(power, device.method if power else None)
    if device.method == "counter":
        segments = [_without_stuck_end(segment) for segment in segments]
    counter, resets = from_counter(device, segments)
    if counter is None:
        if power is None or device.method == "estimate":
            return Known(None, device.method)
        text = f"{label}: no energy counter reading; its power was integrated"
        return Known(power, "gauge", (("counter-missing", text),))
    if device.method == "estimate":
        return Known(counter, "estimate")
    notes = []
    if resets:
        how = "bridged with integrated power" if power is not None else "the time around that is not covered"
        text = f"{label}: the energy counter was reset {resets} time{'s'[: resets > 1]}; {how}"
        notes.append(("counter-reset", text))
    if power is None:
        return _counted_alone(label, device, segments, counter, notes)
    if _stands_still(device, segments) and power.joules[-1] > 0 and power.covered[-1] > FROZEN_SECONDS:
        text = f"{label}: the energy counter stood still while power was drawn; its power was integrated"
        return Known(power, "gauge", (*notes, ("counter-frozen", text)))
    lower, higher, check_notes = (0.0, 0.0, []) if resets else _cross_check(label, device, segments, counter, power)
    curve, filled_seconds = _filled(counter, power)
    method = "counter"
    if filled_seconds > SHORTEST_FILLED_SECONDS:
        text = f"{label}: the energy counter was silent for {filled_seconds:.1f} s; its power was integrated there"
        notes.append(("counter-failed", text))
        method = "counter" if filled_seconds <= counter.covered[-1] else "gauge"
    return Known(curve, method, (*notes, *check_notes), lower, higher)


def _counted_alone(
    label: str,
    device: Device,
    segments: Sequence[Sequence[Rollup]],
    counter: EnergyCurve,
    notes: Sequence[tuple[str, str]],
) -> Known:
    """Return what a counter tells beside which no power is known: nothing, if it never moved."""
    if _stands_still(device, segments) and counter.covered[-1] > FROZEN_SECONDS:
        text = f"{label}: the energy counter stood still, and no power was read: its energy is not known"
        return Known(None, None, (*notes, ("counter-frozen", text)))
    return Known(counter, "counter", tuple(notes))


def _without_stuck_end(segment: Sequence[Rollup]) -> Sequence[Rollup]:
    """Return the samples without the readings of a counter that moved and then stood still to the end.

    A device that answers draws some power, whether or not it tells its power.
    """
    readings = [at for at, rollup in enumerate(segment) if rollup.energy_joules is not None]
    if not readings or segment[readings[0]].energy_joules == segment[readings[-1]].energy_joules:
        return segment
    last = segment[readings[-1]].energy_joules
    stuck = readings[-1]
    for at in reversed(readings):
        if segment[at].energy_joules != last:
            break
        stuck = at
    seconds = segment[readings[-1]].end_seconds - segment[stuck].end_seconds
    if seconds <= FROZEN_SECONDS:
        return segment
    return [*segment[: stuck + 1], *(replace(rollup, energy_joules=None) for rollup in segment[stuck + 1 :])]


def _filled(counter: EnergyCurve, power: EnergyCurve) -> tuple[EnergyCurve, float]:
    """Return the counter's curve with integrated power where the counter was silent, and for how many seconds."""
    start, end = (
        min(counter.times_seconds[0], power.times_seconds[0]),
        max(counter.times_seconds[-1], power.times_seconds[-1]),
    )
    if counter.covered[-1] >= end - start - SAME_SECONDS:
        return counter, 0.0
    pen, filled = Pen(), 0.0
    read = set(counter.times_seconds)
    times = sorted({*read, *power.times_seconds})
    pen.to(times[0], 0.0, 0.0)
    start = times[0]  # of what is not drawn yet: by the counter, which has a point where it was read alone
    for before, after in pairwise(times):
        counted, integrated = counter.covered_between(before, after), power.covered_between(before, after)
        if counted >= 0.9 * (after - before) or integrated <= counted + SAME_SECONDS:
            if after in read or after == times[-1]:
                pen.to(after, counter.between(start, after), counter.covered_between(start, after))
                start = after
        else:
            if before > start:
                pen.to(before, counter.between(start, before), counter.covered_between(start, before))
            start = after
            unsampled, bridged = power.unsampled_between(before, after), power.bridged_between(before, after)
            pen.to(after, power.between(before, after), integrated, unsampled, bridged)
            filled += integrated
    return (pen.curve() or counter, filled) if filled > SAME_SECONDS else (counter, 0.0)


def _stands_still(device: Device, segments: Sequence[Sequence[Rollup]]) -> bool:
    """Return whether the counter never moved: by its readings alone, without the pending energy."""
    for segment in segments:
        if len({rollup.energy_joules for rollup in segment if rollup.energy_joules is not None}) > 1:
            return False
    counter, _ = from_counter(replace(device, lag_seconds=0.0), segments)
    return counter is not None and counter.joules[-1] == 0


def _cross_check(
    label: str, device: Device, segments: Sequence[Sequence[Rollup]], counter: EnergyCurve, power: EnergyCurve
) -> tuple[float, float, list[tuple[str, str]]]:
    """Compare mean power by the counter and by the gauge, over the time that both cover.

    What a part-time gauge may have missed, by the swing of its readings, is allowed for. So are the steps and the lag
    of both at the ends of a short time.

    Returns:
        By how much of the counted energy the integrated power lies below and above it, where it is further off than
        that; and the note.
    """
    start = max(counter.times_seconds[0], power.times_seconds[0])
    end = min(counter.times_seconds[-1], power.times_seconds[-1])
    seconds, counted_seconds = power.covered_between(start, end), counter.covered_between(start, end)
    if seconds < max(SHORTEST_CHECKED_SECONDS, 0.9 * counted_seconds) or not counted_seconds:
        return 0.0, 0.0, []
    counted, integrated = counter.between(start, end) / counted_seconds, power.between(start, end) / seconds
    if not counted or not integrated:
        return 0.0, 0.0, []
    apart = abs(counted - integrated) / max(counted, integrated)
    short = seconds < CROSS_CHECK_SECONDS
    allowed = (SHORT_CHECK_RATIO if short else CROSS_CHECK_RATIO) + power.unsampled_between(start, end) / (
        integrated * seconds
    )
    if short:
        rollups = [rollup for segment in segments for rollup in segment]
        peak = max((rollup.power_max_watts for rollup in rollups if rollup.power_max_watts), default=integrated)
        swing = sum(rollup.swing_joules for rollup in rollups)
        ends = 2 * (device.step_seconds + device.lag_seconds) * max(peak, counted)
        allowed += (swing + ends) / (max(counted, integrated) * seconds)
    if apart <= allowed:
        return 0.0, 0.0, []
    means = f"{counted:.1f} W on the mean by the counter, {integrated:.1f} W by integrated power"
    text = f"{label}: {means}: {apart:.0%} apart; the interval holds both"
    return max(0.0, 1 - integrated / counted), max(0.0, integrated / counted - 1), [("cross-check", text)]


@dataclass(frozen=True, slots=True)
class EnergyUncertainty:
    """The uncertainty of one device's energy by source, joules; the first four are half widths of 95 %.

    Attributes:
        interpolation: what may lie on the other side of the scope's edges, where no reading was made at them.
        coverage: what it may have used more, in time that no reading covers and in gaps that were bridged.
        coverage_low: what it may have used less, in gaps that were bridged.
        check_low, check_high: how far the integrated power lies below and above the counter, where they disagree.
    """

    calibration: float
    quantisation: float
    unsampled: float
    coverage: float
    interpolation: float = 0.0
    coverage_low: float = 0.0
    check_low: float = 0.0
    check_high: float = 0.0

    def interval(self, joules: float) -> tuple[float, float]:
        """Return low and high: the independent terms in quadrature; coverage is added as it is."""
        half_widths = (self.calibration, self.quantisation, self.unsampled, self.interpolation)
        low = joules - math.hypot(*half_widths, self.check_low) - self.coverage_low
        return max(0.0, low), joules + math.hypot(*half_widths, self.check_high) + self.coverage


def added(budgets: Sequence[EnergyUncertainty]) -> EnergyUncertainty:
    """Return the uncertainty of the sum over a device's spans and attempts.

    What is shared adds: calibration, interpolation, disagreement and coverage. Quantisation and unsampled time are
    independent.
    """
    return EnergyUncertainty(
        calibration=sum(budget.calibration for budget in budgets),
        quantisation=math.hypot(*(budget.quantisation for budget in budgets)),
        unsampled=math.hypot(*(budget.unsampled for budget in budgets)),
        coverage=sum(budget.coverage for budget in budgets),
        interpolation=sum(budget.interpolation for budget in budgets),
        coverage_low=sum(budget.coverage_low for budget in budgets),
        check_low=sum(budget.check_low for budget in budgets),
        check_high=sum(budget.check_high for budget in budgets),
    )


@dataclass(frozen=True, slots=True)
class ScopeReading:
    """What is known of a device in ``count`` spans of time, ``seconds`` long together."""

    joules: float
    covered_seconds: float
    seconds: float
    count: int
    unsampled_joules: float
    bridged_joules: tuple[float, float] = (0.0, 0.0)
    peak_watts: float | None = None
    interpolation_joules: float = 0.0


def uncertainty(
    device: Device, known: Known, spans: Sequence[tuple[float, float]], peak_watts: float | None = None
) -> EnergyUncertainty:
    """Return the uncertainty of a device's energy over some spans of time; it must have a curve."""
    curve = known.curve
    assert curve is not None  # noqa: S101  the caller looked
    bridged = [curve.bridged_between(*span) for span in spans]
    scope = ScopeReading(
        joules=sum(curve.between(*span) for span in spans),
        covered_seconds=sum(curve.covered_between(*span) for span in spans),
        seconds=sum(end - start for start, end in spans),
        count=len(spans),
        unsampled_joules=sum(curve.unsampled_between(*span) for span in spans),
        bridged_joules=(sum(low for low, _ in bridged), sum(high for _, high in bridged)),
        peak_watts=peak_watts,
        interpolation_joules=curve.interpolation_between(spans, highest_watts(device, peak_watts)),
    )
    return uncertainty_of(device, known, scope)


def highest_watts(device: Device, peak_watts: float | None) -> float | None:
    """Return the most that a device draws: its limit, or a reading above that; None where it tells no limit."""
    return max(device.power_limit_watts, peak_watts or 0.0) if device.power_limit_watts else None


def uncertainty_of(device: Device, known: Known, scope: ScopeReading) -> EnergyUncertainty:
    """Return the uncertainty of an energy by source.

    Calibration: the sensor's own, of the whole energy. Quantisation: at each of the two ends of each span the
    hardware's last update is up to a step old, any age as likely: 2 standard deviations of that, times the root mean
    square of the power, which is at most the root of mean x ``peak_watts``. A counter may have
    moved by less than was used, in spans shorter than a step not at all: the mean is that of what was counted and of a
    step. Unsampled: the swing of a part-time
    gauge's readings, for the time it does not sample. Interpolation: what may lie on the other side of the spans'
    edges, which greenml reads late where its thread got no processor time. Coverage: seconds not covered x the power
    limit, or the mean power where the limit is not known, and what bridged gaps may hide. Source: docs/method.md,
    section 3.
    """
    watts = scope.joules / scope.covered_seconds if scope.covered_seconds > TELLING_SECONDS else 0.0
    steps = device.step_seconds * math.sqrt(2 * scope.count / 3)
    uncovered = max(0.0, scope.seconds - scope.covered_seconds) * (device.power_limit_watts or watts)
    hidden_ratio = device.step_seconds * math.sqrt(scope.count) / max(scope.covered_seconds, TELLING_SECONDS)
    if scope.peak_watts is None:
        limit = device.power_limit_watts or math.inf
        peak = min(limit, watts * (1 + hidden_ratio)) if watts else device.power_limit_watts or 0.0
    else:
        peak = max(watts, scope.peak_watts)
    mean = min(peak, watts + peak * hidden_ratio)
    return EnergyUncertainty(
        calibration=device.calibration_ratio * scope.joules,
        quantisation=math.sqrt(mean) * math.sqrt(peak) * steps,
        unsampled=scope.unsampled_joules,
        coverage=uncovered + scope.bridged_joules[1],
        interpolation=scope.interpolation_joules,
        coverage_low=scope.bridged_joules[0],
        check_low=known.lower_ratio * scope.joules,
        check_high=known.higher_ratio * scope.joules,
    )


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
