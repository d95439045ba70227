"""Computes hourly emissions: assigns energy to the slots of an intensity series, and each scope's weighted mean."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate
from typing import Literal

from greenml.energy.integrate import EnergyCurve
from greenml.energy.usage import Joined, Part, Span
from greenml.factors.types import IntensitySeries, IntensitySlot
from greenml.record.schema import (
    Factor,
    IntensityScope,
    IntensitySeriesRecord,
    IntensitySlotRecord,
    Note,
    PhaseRecord,
    RunRecord,
    SourceRef,
)
from greenml.units import JOULES_PER_KWH

MOST_SLOTS = 2000  # in a record: a week of 5 minutes, 41 days of half hours, 83 days of hours
COUNTED = ("gpu", "cpu", "dram")  # what IT energy is made of

EnergyFrom = Literal["curves", "timeline", "even"]
Between = Callable[[float, float], float]  # joules between two times of the run's clock


@dataclass(frozen=True, slots=True)
class AttemptWindow:
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
class ScopeEnergy:
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


def joined_series(answers: Iterable[IntensitySeries]) -> IntensitySeries | None:
    """Join a provider's answers during a run; a later answer replaces an earlier one for the same time.

    Of answers of several providers, areas or signals only those like the last one count: they are not mixed.
    """
    answers = list(answers)
    if not answers:
        return None
    last = answers[-1]
    like = [
        answer
        for answer in answers
        if (answer.provider, answer.signal, answer.area) == (last.provider, last.signal, last.area)
    ]
    by_start = {slot.start: (slot, answer) for answer in like for slot in answer.slots}
    slots: list[IntensitySlot] = []
    for start in sorted(by_start):
        if slots and slots[-1].end > start:
            slots[-1] = replace(slots[-1], end=start)
        slots.append(by_start[start][0])
    lengths = [
        ((slot.end - slot.start).total_seconds(), answer.uncertainty_ratio) for slot, answer in by_start.values()
    ]
    uncertainty = (
        sum(length * ratio for length, ratio in lengths) / sum(length for length, _ in lengths) if lengths else 0.0
    )
    notes = dict.fromkeys(answer.note for _, answer in by_start.values() if answer.note)
    return replace(last, slots=tuple(slots), uncertainty_ratio=uncertainty, note="; ".join(notes))


def uses(parts: Sequence[Part], spans: Sequence[Span], joined: Sequence[Joined] = ()) -> list[ScopeEnergy]:
    """Return a scope's energy, from the curves of its devices in each attempt.

    Args:
        parts: of every device and attempt.
        spans: of the scope, on the run's clock, apart from each other.
        joined: stretches that a long trace joined; their energy is spread over the stretch as the curve has it.
    """
    made = []
    for part in parts:
        if part.known.curve is None or part.device.kind not in COUNTED:
            continue
        made.append(
            ScopeEnergy([inside for inside in (_within(span, part.life) for span in spans) if inside], _shifted(part))
        )
        for stretch in joined:
            whole = _shifted(part)(*stretch.span)
            if part.life[0] <= stretch.span[0] <= part.life[1] and whole > 0:
                made.append(ScopeEnergy([stretch.span], _shifted(part), stretch.reading(part).joules / whole))
    return made


def _within(span: Span, life: Span) -> Span | None:
    start, end = max(span[0], life[0]), min(span[1], life[1])
    return (start, end) if end > start else None


def _shifted(part: Part) -> Between:
    curve, shift = part.known.curve, part.shift
    assert curve is not None  # noqa: S101  the caller looked
    return lambda start, end: curve.between(start - shift, end - shift)


def apportion(series: IntensitySeries, stays: Sequence[AttemptWindow], scopes: Mapping[str, Sequence[ScopeEnergy]],
              energy_from: EnergyFrom = "curves") -> IntensitySeriesRecord | None:  # fmt: skip
    """Split the energy of each scope by the slots of a series, exactly at their boundaries.

    Args:
        series: the intensity series; its slots may have gaps.
        stays: the attempts.
        scopes: run and phases' paths, each with what it used.
        energy_from: how the energy is known over time.

    Returns:
        The series as the record keeps it, without what is assumed for hours outside of it; None where no slot
        meets the run.
    """
    windows = _windows(series, stays)
    inside = [window for window in windows if window.slot is not None]
    if not inside:
        return None
    met = sorted({window.slot for window in inside if window.slot is not None})
    split = {scope: _split(windows, energies) for scope, energies in scopes.items()}
    grams = {at: series.slots[at].grams_per_kwh for at in met}
    seconds = sum(window.end - window.start for window in inside)
    over_time = sum((window.end - window.start) * grams[window.slot or 0] for window in inside) / seconds
    slots = [
        IntensitySlotRecord(
            start=series.slots[at].start, end=series.slots[at].end, grams_per_kwh=grams[at],
            it_energy_joules={scope: joules[at] for scope, joules in split.items() if joules.get(at)},
        )
        for at in met
    ]  # fmt: skip
    return IntensitySeriesRecord(
        provider=series.provider, signal=series.signal, area=series.area, basis=series.basis, note=series.note,
        source=SourceRef(name=series.source.name, url=series.source.url, published=series.source.published),
        uncertainty_ratio=series.uncertainty_ratio, energy_from=energy_from,
        low_grams_per_kwh=min(grams.values()), high_grams_per_kwh=max(grams.values()),
        covered_seconds=seconds,
        uncovered_seconds=sum(window.end - window.start for window in windows if window.slot is None),
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


def _windows(series: IntensitySeries, stays: Sequence[AttemptWindow]) -> list[_Window]:
    """Cut the run's clock at the slots' boundaries; every second of it is in one window."""
    bounds = [(slot.start.timestamp(), slot.end.timestamp()) for slot in series.slots]
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


def _split(windows: Sequence[_Window], energies: Sequence[ScopeEnergy]) -> dict[int | None, float]:
    """Return the joules of a scope by slot; None for those in no slot."""
    joules: dict[int | None, float] = defaultdict(float)
    ends = [window.end for window in windows]
    for energy in energies:
        for start, end in energy.spans:
            for at in range(bisect_right(ends, start), len(windows)):
                window = windows[at]
                if window.start >= end:
                    break
                joules[window.slot] += energy.joules(max(start, window.start), min(end, window.end))
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
    weights = [slot.it_energy_joules.get("run", 0.0) for slot in both]
    if not sum(weights):
        weights = [(slot.end - slot.start).total_seconds() for slot in both]
    grams = first.grams_per_kwh
    if second.grams_per_kwh != grams:
        grams = sum(slot.grams_per_kwh * weight for slot, weight in zip(both, weights, strict=True)) / sum(weights)
    names = dict.fromkeys([*first.it_energy_joules, *second.it_energy_joules])
    joules = {name: sum(slot.it_energy_joules.get(name, 0.0) for slot in both) for name in names}
    return IntensitySlotRecord(start=first.start, end=second.end, grams_per_kwh=grams, it_energy_joules=joules)


def from_record(record: RunRecord, series: IntensitySeries) -> IntensitySeriesRecord | None:
    """Split a record's energy by slot without its traces: by its timeline, else as if power were constant.

    Returns:
        As ``apportion`` does.
    """
    end = record.ended or record.started + timedelta(seconds=record.duration_seconds)
    begins = accumulate((attempt.seconds for attempt in record.attempts), initial=0.0)
    stays = [
        AttemptWindow(begin, attempt.started.timestamp(), attempt.seconds)
        for begin, attempt in zip(begins, record.attempts, strict=False)
    ]
    length, drawn_power = record.duration_seconds, _timeline(record)
    if not stays:  # imported: when in its window it ran is not known, so it is spread over all of that
        length = length if drawn_power else max(length, (end - record.started).total_seconds())
        stays = [AttemptWindow(0.0, end.timestamp() - length, length)]
    whole = (0.0, length)
    curve = drawn_power or EnergyCurve(whole, (0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    spans = {"run": [whole], **{phase.path: _stretches(phase, length) for phase in record.phases}}
    known = {"run": [device.usage for device in record.devices if device.kind in COUNTED]}
    by_id = {device.id: device for device in record.devices}
    for phase in record.phases:
        usages = [usage for name, usage in phase.usage.items() if name in by_id and by_id[name].kind in COUNTED]
        known[phase.path] = usages
    scopes = {}
    for scope, scope_spans in spans.items():
        joules = sum(usage.energy_joules or 0.0 for usage in known[scope])
        drawn = sum(curve.between(*span) for span in scope_spans)
        scale = joules / drawn if drawn > 0 else 0.0
        scopes[scope] = [ScopeEnergy(scope_spans, curve.between, scale)]
    return apportion(series, stays, scopes, "timeline" if drawn_power is not None else "even")


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
    joules = list(accumulate((watt * step for watt in watts), initial=0.0))
    times = [at * step for at in range(len(joules))]
    return EnergyCurve(times, joules, joules, joules) if joules[-1] > 0 else None


NOTE_CODES = ("intensity-marginal", "intensity-uncovered", "intensity-resolution", "intensity-missing")
SIGNIFICANT_JOULES = 1e-6  # less outside of the series is the arithmetic's own
MARGINAL = (
    "emissions are marginal: what one kWh more made the grid emit. They answer another question than average "
    "figures, and must not be added to them or compared with them"
)


def filled(series: IntensitySeriesRecord, yearly: Factor | None) -> tuple[IntensitySeriesRecord, Factor, list[Note]]:
    """Complete a series with an intensity for the energy outside of its hours.

    Args:
        series: the series with the energy of each slot.
        yearly: the place's factor, from the tables; None where there is none.

    Returns:
        The series with every scope's mean, the run's mean as a factor, and notes on what is not as precise.
    """
    fill, low, high = _fill(series, yearly)
    sides = 1 - series.uncertainty_ratio, 1 + series.uncertainty_ratio
    scopes = {
        name: scope.model_copy(
            update={
                "grams_per_kwh": _mean(scope, 1.0, fill),
                "low_grams_per_kwh": _mean(scope, sides[0], low),
                "high_grams_per_kwh": _mean(scope, sides[1], high),
            }
        )
        for name, scope in series.scopes.items()
    }
    run = scopes["run"]
    seconds = series.covered_seconds + series.uncovered_seconds
    grams = series.covered_seconds * series.covered_time_mean_grams_per_kwh + series.uncovered_seconds * fill
    over_time = grams / seconds if seconds > 0 else fill
    mean = over_time if run.grams_per_kwh is None else run.grams_per_kwh
    joules = run.covered_joules + run.uncovered_joules
    outside = run.uncovered_joules / joules if joules else 0.0
    factor = Factor(
        value=mean,
        low=mean * sides[0] if run.low_grams_per_kwh is None else run.low_grams_per_kwh,
        high=mean * sides[1] if run.high_grams_per_kwh is None else run.high_grams_per_kwh,
        unit="g CO2e/kWh",
        scope="series",
        code=" ".join(part for part in (series.provider, series.area) if part),
        basis="marginal" if series.signal == "marginal" else series.basis,
        source=series.source,
        note=series.note,
    )
    made = series.model_copy(
        update={
            "scopes": scopes,
            "time_mean_grams_per_kwh": over_time,
            "filled_grams_per_kwh": fill if series.uncovered_seconds > 0 or outside else None,
        }
    )
    taken = "the series' own mean"
    if yearly is not None and series.signal != "marginal":
        basis = f" ({yearly.basis})" if yearly.basis not in ("", series.basis) else ""
        taken = f"the yearly figure of the tables{basis}"
    return made, factor, list(_notes(made, joules, taken))


def _fill(series: IntensitySeriesRecord, yearly: Factor | None) -> tuple[float, float, float]:
    """Return the intensity of the hours outside of the series, with its low and high."""
    if series.signal == "marginal" or yearly is None:
        covered_mean = series.scopes["run"].covered_grams_per_kwh
        mean = series.covered_time_mean_grams_per_kwh if covered_mean is None else covered_mean
        uncertainty = series.uncertainty_ratio  # hours without an answer are no more certain than the others
        return mean, series.low_grams_per_kwh * (1 - uncertainty), series.high_grams_per_kwh * (1 + uncertainty)
    return yearly.value, yearly.low, yearly.high


def _mean(scope: IntensityScope, side: float, fill: float) -> float | None:
    """Return a scope's mean, with the series' figures times ``side``; None where it used no energy."""
    joules = scope.covered_joules + scope.uncovered_joules
    if joules <= 0:
        return None
    return (scope.covered_joules * (scope.covered_grams_per_kwh or 0.0) * side + scope.uncovered_joules * fill) / joules


def _notes(series: IntensitySeriesRecord, joules: float, taken: str) -> Iterator[Note]:
    if series.signal == "marginal":
        yield Note(code="intensity-marginal", text=MARGINAL)
    outside = series.scopes["run"].uncovered_joules
    if outside > SIGNIFICANT_JOULES:
        text = (
            f"{series.provider} has no carbon intensity for {outside / joules:.1%} of the energy "
            f"({outside / JOULES_PER_KWH:.4g} kWh); those hours take {taken}, {series.filled_grams_per_kwh:.4g} g/kWh"
        )
        yield Note(code="intensity-uncovered", text=text)
    if series.energy_from == "timeline":
        text = "the traces are not here: energy is told apart by the hours of the record's timeline, which is coarser"
        yield Note(code="intensity-resolution", text=text)
    elif series.energy_from == "even":
        text = "neither traces nor a timeline are here: energy is spread evenly over the time to be told apart by hours"
        yield Note(code="intensity-resolution", text=text)
