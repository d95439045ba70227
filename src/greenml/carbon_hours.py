"""Which hours a run's energy fell into, and what carbon intensity follows: a sum over time, not energy times a mean.

Hours are wall time; the run's clock lays attempts end to end. Formulas: docs/method.md, section 4.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate
from typing import Literal

from greenml.energy_curve import EnergyCurve
from greenml.facts import IntensityCourse, IntensitySlot
from greenml.intensity_record import IntensityCourseRecord, IntensityScope, IntensitySlotRecord, SourceRef
from greenml.record import PhaseRecord, RunRecord
from greenml.usages import Joined, Part, Span

MOST_SLOTS = 2000  # in a record: a week of 5 minutes, 41 days of half hours, 83 days of hours
COUNTED = ("gpu", "cpu", "dram")  # what IT energy is made of

EnergyFrom = Literal["curves", "timeline", "even"]
Between = Callable[[float, float], float]  # joules between two times of the run's clock


@dataclass(frozen=True, slots=True)
class Stay:
    """A stretch of the run's clock in wall time: an attempt.

    Attributes:
        begin: on the run's clock.
        unix_start: the same moment in wall time.
        seconds: its length on both.
    """

    begin: float
    unix_start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Use:
    """What a scope used: spans of the run's clock, and the joules in any part of them, times a scale."""

    spans: Sequence[Span]
    between: Between
    scale: float = 1.0

    def joules(self, start: float, end: float) -> float:
        """Return what was used between two times that lie in a span."""
        return self.between(start, end) * self.scale


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of the run's clock within one slot; slot None: within none."""

    slot: int | None
    start: float
    end: float


def whole_course(answers: Iterable[IntensityCourse]) -> IntensityCourse | None:
    """Join what a provider answered while a run went on; a later answer replaces an earlier one of the same time.

    Of answers of several providers, areas or signals only those like the last one count: they are not mixed.
    """
    answers = list(answers)
    if not answers:
        return None
    last = answers[-1]
    like = [one for one in answers if (one.provider, one.signal, one.area) == (last.provider, last.signal, last.area)]
    told = {slot.start: (slot, one) for one in like for slot in one.slots}
    slots: list[IntensitySlot] = []
    for start in sorted(told):
        if slots and slots[-1].end > start:
            slots[-1] = replace(slots[-1], end=start)
        slots.append(told[start][0])
    lengths = [((slot.end - slot.start).total_seconds(), one.doubt_ratio) for slot, one in told.values()]
    doubt = sum(length * ratio for length, ratio in lengths) / sum(length for length, _ in lengths) if lengths else 0.0
    notes = dict.fromkeys(one.note for _, one in told.values() if one.note)
    return replace(last, slots=tuple(slots), doubt_ratio=doubt, note="; ".join(notes))


def uses(parts: Sequence[Part], spans: Sequence[Span], joined: Sequence[Joined] = ()) -> list[Use]:
    """Return what a scope used, from the curves of its devices in each attempt.

    Args:
        parts: of every device and attempt.
        spans: of the scope, on the run's clock, apart from each other.
        joined: stretches that a long trace joined; their energy is spread over the stretch as the curve has it.
    """
    made = []
    for part in parts:
        if part.known.curve is None or part.device.kind not in COUNTED:
            continue
        made.append(Use([one for one in (_within(span, part.life) for span in spans) if one], _shifted(part)))
        for one in joined:
            whole = _shifted(part)(*one.span)
            if part.life[0] <= one.span[0] <= part.life[1] and whole > 0:
                made.append(Use([one.span], _shifted(part), one.used(part)[0] / whole))
    return made


def _within(span: Span, life: Span) -> Span | None:
    start, end = max(span[0], life[0]), min(span[1], life[1])
    return (start, end) if end > start else None


def _shifted(part: Part) -> Between:
    curve, shift = part.known.curve, part.shift
    assert curve is not None  # noqa: S101  the caller looked
    return lambda start, end: curve.between(start - shift, end - shift)


def apportion(course: IntensityCourse, stays: Sequence[Stay], scopes: Mapping[str, Sequence[Use]],
              energy_from: EnergyFrom = "curves") -> IntensityCourseRecord | None:  # fmt: skip
    """Tell the energy of each scope apart by the course's slots, exactly at their boundaries.

    Args:
        course: of the intensity; its slots may have gaps.
        stays: the attempts.
        scopes: run and phases' paths, each with what it used.
        energy_from: how the energy is known over time.

    Returns:
        The course as the record keeps it, without what is assumed for hours outside of it; None where no slot
        meets the run.
    """
    windows = _windows(course, stays)
    inside = [one for one in windows if one.slot is not None]
    if not inside:
        return None
    met = sorted({one.slot for one in inside if one.slot is not None})
    split = {scope: _split(windows, own) for scope, own in scopes.items()}
    grams = {at: course.slots[at].grams_per_kwh for at in met}
    seconds = sum(one.end - one.start for one in inside)
    over_time = sum((one.end - one.start) * grams[one.slot or 0] for one in inside) / seconds
    slots = [
        IntensitySlotRecord(
            start=course.slots[at].start, end=course.slots[at].end, grams_per_kwh=grams[at],
            it_energy_joules={scope: joules[at] for scope, joules in split.items() if joules.get(at)},
        )
        for at in met
    ]  # fmt: skip
    return IntensityCourseRecord(
        provider=course.provider, signal=course.signal, area=course.area, basis=course.basis, note=course.note,
        source=SourceRef(name=course.source.name, url=course.source.url, published=course.source.published),
        doubt_ratio=course.doubt_ratio, energy_from=energy_from,
        low_grams_per_kwh=min(grams.values()), high_grams_per_kwh=max(grams.values()),
        covered_seconds=seconds,
        uncovered_seconds=sum(one.end - one.start for one in windows if one.slot is None),
        covered_time_mean_grams_per_kwh=over_time,
        time_mean_grams_per_kwh=over_time,
        scopes={scope: _scope(joules, grams) for scope, joules in split.items()},
        slots=merged(slots, MOST_SLOTS),
    )  # fmt: skip


def _scope(joules: Mapping[int | None, float], grams: Mapping[int, float]) -> IntensityScope:
    covered = sum(value for at, value in joules.items() if at is not None)
    product = sum(value * grams[at] for at, value in joules.items() if at is not None)
    return IntensityScope(
        covered_joules=covered,
        uncovered_joules=joules.get(None, 0.0),
        covered_grams_per_kwh=product / covered if covered > 0 else None,
    )


def _windows(course: IntensityCourse, stays: Sequence[Stay]) -> list[_Window]:
    """Cut the run's clock at the slots' boundaries; every second of it is in one window."""
    bounds = [(slot.start.timestamp(), slot.end.timestamp()) for slot in course.slots]
    made: list[_Window] = []
    for stay in stays:
        shift, at = stay.begin - stay.unix_start, stay.begin
        end = stay.begin + stay.seconds
        for number, (slot_start, slot_end) in enumerate(bounds):
            first, last = max(slot_start + shift, at), min(slot_end + shift, end)
            if last <= first:
                continue
            if first > at:
                made.append(_Window(None, at, first))
            made.append(_Window(number, first, last))
            at = last
        if end > at:
            made.append(_Window(None, at, end))
    return made


def _split(windows: Sequence[_Window], own: Sequence[Use]) -> dict[int | None, float]:
    """Return the joules of a scope by slot; None for those in no slot."""
    joules: dict[int | None, float] = defaultdict(float)
    ends = [one.end for one in windows]
    for use in own:
        for start, end in use.spans:
            for at in range(bisect_right(ends, start), len(windows)):
                window = windows[at]
                if window.start >= end:
                    break
                joules[window.slot] += use.joules(max(start, window.start), min(end, window.end))
    return joules


def merged(slots: Sequence[IntensitySlotRecord], most: int) -> list[IntensitySlotRecord]:
    """Join neighbouring slots until there are at most so many: first those that are equal, then pairs.

    A joined slot has the run's energy-weighted mean, so that the run's sum stays what it was; where nothing was
    used, the mean over time.
    """
    kept: list[IntensitySlotRecord] = []
    for slot in slots:
        equal = kept and kept[-1].end == slot.start and kept[-1].grams_per_kwh == slot.grams_per_kwh
        kept[-1:] = [_joined(kept[-1], slot)] if equal else [*kept[-1:], slot]
    while len(kept) > most:
        pairs = [kept[at : at + 2] for at in range(0, len(kept), 2)]
        kept = [_joined(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return kept


def _joined(first: IntensitySlotRecord, second: IntensitySlotRecord) -> IntensitySlotRecord:
    both = (first, second)
    weights = [one.it_energy_joules.get("run", 0.0) for one in both]
    if not sum(weights):
        weights = [(one.end - one.start).total_seconds() for one in both]
    grams = first.grams_per_kwh
    if second.grams_per_kwh != grams:
        grams = sum(one.grams_per_kwh * weight for one, weight in zip(both, weights, strict=True)) / sum(weights)
    names = dict.fromkeys([*first.it_energy_joules, *second.it_energy_joules])
    joules = {name: sum(one.it_energy_joules.get(name, 0.0) for one in both) for name in names}
    return IntensitySlotRecord(start=first.start, end=second.end, grams_per_kwh=grams, it_energy_joules=joules)


def from_record(record: RunRecord, course: IntensityCourse) -> IntensityCourseRecord | None:
    """Tell a record's energy apart by slot without its traces: by its timeline, else as if power were constant.

    Returns:
        As ``apportion`` does.
    """
    end = record.ended or record.started + timedelta(seconds=record.duration_seconds)
    begins = accumulate((one.seconds for one in record.attempts), initial=0.0)
    stays = [
        Stay(begin, one.started.timestamp(), one.seconds) for begin, one in zip(begins, record.attempts, strict=False)
    ]
    length, drawn_power = record.duration_seconds, _timeline(record)
    if not stays:  # imported: when in its window it ran is not known, so it is spread over all of that
        length = length if drawn_power else max(length, (end - record.started).total_seconds())
        stays = [Stay(0.0, end.timestamp() - length, length)]
    whole = (0.0, length)
    curve = drawn_power or EnergyCurve(whole, (0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    spans = {"run": [whole], **{phase.path: _stretches(phase, length) for phase in record.phases}}
    known = {"run": [device.usage for device in record.devices if device.kind in COUNTED]}
    by_id = {device.id: device for device in record.devices}
    for phase in record.phases:
        own = [usage for name, usage in phase.usage.items() if name in by_id and by_id[name].kind in COUNTED]
        known[phase.path] = own
    scopes = {}
    for scope, own_spans in spans.items():
        joules = sum(usage.energy_joules or 0.0 for usage in known[scope])
        drawn = sum(curve.between(*span) for span in own_spans)
        scale = joules / drawn if drawn > 0 else 0.0
        scopes[scope] = [Use(own_spans, curve.between, scale)]
    return apportion(course, stays, scopes, "timeline" if drawn_power is not None else "even")


def _stretches(phase: PhaseRecord, length: float) -> list[tuple[float, float]]:
    """Return when a phase was; from its first stretch to the run's end where the record keeps but some of many."""
    if not phase.spans:
        return [(0.0, length)]
    kept = sum(end - start for start, end in phase.spans)
    return phase.spans if kept >= 0.99 * phase.seconds else [(phase.spans[0][0], length)]


def _timeline(record: RunRecord) -> EnergyCurve | None:
    """Return the run's power over time as a curve; None where the timeline has none."""
    if record.timeline is None:
        return None
    counted = {device.id for device in record.devices if device.kind in COUNTED}
    step, watts = record.timeline.step_seconds, [0.0] * record.timeline.bins
    for series in record.timeline.series:
        if series.device in counted:
            for at, value in enumerate(series.power_watts[: len(watts)]):
                watts[at] += value or 0.0
    joules = list(accumulate((one * step for one in watts), initial=0.0))
    times = [at * step for at in range(len(joules))]
    return EnergyCurve(times, joules, joules, joules) if joules[-1] > 0 else None
