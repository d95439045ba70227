"""What a device used over some spans of a run, and its timeline."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from greenml.energy import integrate
from greenml.energy.integrate import EnergyCurve
from greenml.record.schema import PhaseRecord, Series, Timeline, UncertaintyBudget, Usage
from greenml.trace.types import Device, Rollup

TIMELINE_BINS = 600
MAX_SPANS_KEPT = 200  # of a phase, in the record; its sums are of all
TIMELINE_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
MEANS = ("utilization_ratio", "memory_utilization_ratio", "memory_mean_bytes")
Span = tuple[float, float]


@dataclass(slots=True)
class Part:
    """One device in one attempt: its curve and its samples, on its host's clock.

    Attributes:
        host: where it is.
        shift: the host's clock + shift = the run's clock.
        rollups, ends: its samples in time order, and when each ends.
        life: the attempt, on the run's clock.
    """

    device: Device
    shift: float
    known: integrate.Known
    rollups: list[Rollup]
    ends: list[float]
    life: Span
    host: str = ""


@dataclass(slots=True)
class _Sums:
    """Time-weighted means and peaks of samples."""

    weights: dict[str, float]
    sums: dict[str, float]
    power_max_watts: float | None = None
    memory_max_bytes: float | None = None

    def add(self, rollup: Rollup, seconds: float) -> None:
        for name in MEANS:
            value = getattr(rollup, name)
            if value is not None:
                self.sums[name] += value * seconds
                self.weights[name] += seconds
        if rollup.power_max_watts is not None:
            self.power_max_watts = max(self.power_max_watts or 0.0, rollup.power_max_watts)
        if rollup.memory_max_bytes is not None:
            self.memory_max_bytes = max(self.memory_max_bytes or 0.0, rollup.memory_max_bytes)

    def mean(self, name: str) -> float | None:
        return self.sums[name] / self.weights[name] if self.weights[name] else None


def union(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap (threads in the same phase), so that no joule is counted twice."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


@dataclass(frozen=True, slots=True)
class Joined:
    """Stretches of a phase that a long trace joined, on the run's clock.

    Attributes:
        span: around them all.
        seconds: how long they were.
        joules: by device id, as far as the process that joined them measured the device.
        interpolation_joules: of each of these, by how much it may be off because no reading was made at their edges.
        host: that process's; another has devices of the same ids.
        count: how many they were.
    """

    span: Span
    seconds: float
    joules: Mapping[str, float]
    host: str = ""
    count: int = 1
    interpolation_joules: Mapping[str, float] = field(default_factory=dict)

    def reading(self, part: Part, peak_watts: float | None = None) -> integrate.ScopeReading:
        """Return what is known of a device in the spans.

        Where the process that joined them did not measure the device, it gets its share of the energy around them.
        """
        curve = part.known.curve
        start, end = self.span[0] - part.shift, self.span[1] - part.shift
        if curve is None or end <= start:
            return integrate.ScopeReading(0.0, 0.0, self.seconds, self.count, 0.0)
        share = min(1.0, self.seconds / (end - start))
        name, limit_watts = part.device.id, integrate.highest_watts(part.device, peak_watts)
        measured = self.joules.get(name) if part.host == self.host else None
        if measured is None:  # all of it may lie in them or beside them
            around = EnergyCurve((start, end), (0.0, curve.between(start, end)), (0.0, 0.0), (0.0, 0.0))
            off = around.interpolation_between([(start, start + self.seconds)], limit_watts)
        else:
            off = self.interpolation_joules.get(name, 0.0)
        bridged_low, bridged_high = curve.bridged_between(start, end)
        return integrate.ScopeReading(
            joules=curve.between(start, end) * share if measured is None else measured,
            covered_seconds=curve.covered_between(start, end) * share,
            seconds=self.seconds,
            count=self.count,
            unsampled_joules=curve.unsampled_between(start, end) * share,
            bridged_joules=(bridged_low * share, bridged_high * share),
            peak_watts=peak_watts,
            interpolation_joules=off,
        )


def usage(parts: Sequence[Part], spans: Sequence[Span], joined: Sequence[Joined] = ()) -> Usage:
    """Return what a device did over some spans of the run's clock; ``parts`` are its attempts."""
    joules = covered = 0.0
    budgets: list[integrate.EnergyUncertainty] = []
    unread_seconds, limit_watts = 0.0, None  # of attempts in which nothing was read of it
    sums = _Sums(defaultdict(float), defaultdict(float))
    for part in parts:
        within = [(max(start, part.life[0]) - part.shift, min(end, part.life[1]) - part.shift) for start, end in spans]
        within = [(start, end) for start, end in within if end > start]
        joined_here = [group for group in joined if part.life[0] <= group.span[0] <= part.life[1]]
        samples = list(_overlaps(part, within))
        if part.known.curve is None:
            unread_seconds += sum(end - start for start, end in within) + sum(group.seconds for group in joined_here)
            limit_watts = part.device.power_limit_watts or limit_watts
        elif within:
            joules += sum(part.known.curve.between(*span) for span in within)
            covered += sum(part.known.curve.covered_between(*span) for span in within)
            budgets.append(integrate.uncertainty(part.device, part.known, within, _peak_watts(samples)))
        for group in joined_here:
            around = list(_overlaps(part, [(group.span[0] - part.shift, group.span[1] - part.shift)]))
            scope = group.reading(part, _peak_watts(around))
            joules, covered = joules + scope.joules, covered + scope.covered_seconds
            budgets.append(integrate.uncertainty_of(part.device, part.known, scope))
            samples += around
        for rollup, seconds in samples:
            sums.add(rollup, seconds)
    made = Usage(
        power_max_watts=sums.power_max_watts,
        memory_max_bytes=sums.memory_max_bytes,
        utilization_ratio=sums.mean("utilization_ratio"),
        memory_utilization_ratio=sums.mean("memory_utilization_ratio"),
        memory_mean_bytes=sums.mean("memory_mean_bytes"),
    )
    if covered > 0:
        whole = integrate.added(budgets)
        whole = replace(whole, coverage=whole.coverage + unread_seconds * (limit_watts or joules / covered))
        made.energy_joules, (made.energy_low_joules, made.energy_high_joules) = joules, whole.interval(joules)
        made.uncertainty = UncertaintyBudget(
            calibration_joules=whole.calibration,
            quantisation_joules=whole.quantisation,
            unsampled_joules=whole.unsampled,
            interpolation_joules=whole.interpolation,
            coverage_joules=whole.coverage,
            coverage_low_joules=whole.coverage_low,
            cross_check_low_joules=whole.check_low,
            cross_check_high_joules=whole.check_high,
        )
        made.covered_seconds, made.power_mean_watts = covered, joules / covered
    elif parts and (parts[0].device.method is not None or parts[0].device.kind == "gpu"):
        device = parts[0].device
        nothing = "no energy was read in this time" if device.method else "it tells neither energy nor power"
        made.why = f"{device.name}: {device.note or nothing}"
        limit = max((part.device.power_limit_watts or 0.0 for part in parts), default=0.0)
        seconds = sum(_seconds_within(part, spans) for part in parts) + sum(group.seconds for group in joined)
        made.uncertainty = UncertaintyBudget(coverage_joules=limit * seconds if limit else None)
    return made


def _seconds_within(part: Part, spans: Sequence[Span]) -> float:
    return sum(max(0.0, min(end, part.life[1]) - max(start, part.life[0])) for start, end in spans)


def _peak_watts(samples: Iterable[tuple[Rollup, float]]) -> float | None:
    return max((rollup.power_max_watts for rollup, _ in samples if rollup.power_max_watts is not None), default=None)


def _overlaps(part: Part, spans: Sequence[Span]) -> Iterable[tuple[Rollup, float]]:
    """Yield the samples that lie in some spans, each with its seconds in them."""
    for start, end in spans:
        at = bisect_right(part.ends, start)
        for rollup in part.rollups[at:]:
            seconds = min(end, rollup.end_seconds) - max(start, rollup.start_seconds)
            if rollup.start_seconds >= end:
                break
            if seconds > 0 or rollup.start_seconds == rollup.end_seconds:
                yield rollup, max(seconds, 1e-9)


@dataclass(slots=True)
class Phase:
    """A phase on the run's clock: its stretches, and those that were joined."""

    spans: list[Span] = field(default_factory=list)
    joined: list[Joined] = field(default_factory=list)
    count: int = 0

    def record(self, path: str, parts: Mapping[str, Sequence[Part]]) -> PhaseRecord:
        """Return what the record keeps of it."""
        alone = union(self.spans)
        drawn = sorted(self.spans + [group.span for group in self.joined])
        return PhaseRecord(
            path=path,
            count=self.count,
            seconds=sum(end - start for start, end in alone) + sum(group.seconds for group in self.joined),
            spans=[(round(start, 4), round(end, 4)) for start, end in drawn[:MAX_SPANS_KEPT]],
            usage={name: usage(attempts, alone, self.joined) for name, attempts in parts.items()},
        )


def timeline(parts: dict[str, list[Part]], seconds: float) -> Timeline | None:
    """Return a bounded picture of the run; None for a run without length."""
    if seconds <= 0:
        return None
    step: float = next((step for step in TIMELINE_STEPS if seconds / step <= TIMELINE_BINS), 0)
    step = step or math.ceil(seconds / TIMELINE_BINS / 3600) * 3600
    bins = math.ceil(seconds / step)
    return Timeline(
        step_seconds=step, bins=bins, series=[_series(name, attempts, bins, step) for name, attempts in parts.items()]
    )


def _series(name: str, parts: Sequence[Part], bins: int, step: float) -> Series:
    joules, covered = [0.0] * bins, [0.0] * bins
    sums = {"utilization_ratio": [0.0] * bins, "memory_mean_bytes": [0.0] * bins}
    weights = {"utilization_ratio": [0.0] * bins, "memory_mean_bytes": [0.0] * bins}
    for part in parts:
        curve = part.known.curve
        for at in range(bins) if curve is not None else ():
            span = (at * step - part.shift, (at + 1) * step - part.shift)
            if curve is not None:  # a bin may hold the end of an attempt and the beginning of the next
                joules[at], covered[at] = joules[at] + curve.between(*span), covered[at] + curve.covered_between(*span)
        for rollup in part.rollups:
            start, end = rollup.start_seconds + part.shift, rollup.end_seconds + part.shift
            for at in range(max(0, int(start // step)), min(bins - 1, int(end // step)) + 1):
                seconds = min(end, (at + 1) * step) - max(start, at * step)
                if seconds <= 0 and end > start:
                    continue  # it ends where this bin begins
                seconds = seconds or 1e-9  # a lone reading
                for field_name, total in sums.items():
                    value = getattr(rollup, field_name)
                    if value is not None:
                        total[at] += value * seconds
                        weights[field_name][at] += seconds

    watts = [round(used / seconds, 1) if seconds > 0 else None for used, seconds in zip(joules, covered, strict=True)]

    def means(field_name: str, digits: int) -> list[float | None]:
        pairs = list(zip(sums[field_name], weights[field_name], strict=True))
        values = [round(total / weight, digits) if weight else None for total, weight in pairs]
        return values if any(value is not None for value in values) else []

    return Series(
        device=name,
        power_watts=watts if any(value is not None for value in watts) else [],
        utilization_ratio=means("utilization_ratio", 4),
        memory_bytes=means("memory_mean_bytes", 0),
    )
