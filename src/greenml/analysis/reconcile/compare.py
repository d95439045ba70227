"""Sets a record beside a meter and gives the verdict: agree, differ, or cannot be compared, and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import combinations, pairwise
from typing import Literal

from greenml.analysis.reconcile.meters import BOUNDARIES, GAP_STEPS, Meter, shifted, value_at
from greenml.energy.usage import union
from greenml.record.importers import DATED_BY_FILES, DATED_BY_ROW
from greenml.record.schema import Quantity, RunRecord, Totals
from greenml.reports import _format

SAME_WINDOW_RATIO = 0.01  # two windows that differ by less are one: clocks of two tools
SAME_WINDOW_SECONDS = 2.0
SAME_RATIO = 1e-6  # two energies that differ by less are the same
MOST_GAP_RATIO = 0.5  # a meter that was silent for more of the window says nothing
Verdict = Literal["agree", "differ", "cannot be compared"]
Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Side:
    """The energy of one side, with its interval; None: not stated."""

    joules: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A record (or several) beside one meter.

    Attributes:
        meter: the other one.
        scope: of the record: run, or a phase.
        record, other: both sides over the same window.
        seconds: of the window.
        gap_seconds: of it, without a sample of the meter.
        verdict: with ``why``.
        ratio: the meter's energy over the record's; None where one is not known.
        left_over_joules: what a wider meter counts beyond the record's devices; None where it is not wider.
    """

    meter: Meter
    scope: str
    record: Side
    other: Side
    seconds: float
    gap_seconds: float
    verdict: Verdict
    why: str
    ratio: float | None = None
    left_over_joules: float | None = None


def reconcile(records: Sequence[RunRecord], meter: Meter) -> Reconciled:
    """Compare the sum of some records with one meter of the same devices."""
    windows = _windows(records)
    seconds = math.fsum(end - start for start, end in windows)
    scope = _scope(records, meter, seconds) if meter.joules is not None and not meter.windowed else "run"
    whole = _totals(records, "run")
    draft = Reconciled(meter, "run", _side(whole, meter), Side(meter.joules), seconds, 0.0, "cannot be compared", "")
    if why := _no_comparison(records, meter, seconds):
        return replace(draft, why=why)
    totals = _totals(records, scope)
    if scope not in {"", "run"} and _side(totals, meter).joules is None:
        return replace(draft, why=_other_window(draft, f"of {scope} alone, of which the record has no energy"))
    if not scope:
        return replace(draft, why=_other_window(draft, "and no phase is as long"))
    phase = records[0].phase(scope)
    draft = replace(draft, scope=scope, record=_side(totals, meter), seconds=phase.seconds if phase else seconds)
    if not meter.curve:
        doubt = meter.clock_doubt_seconds
        ended = max([windows[-1][1], *(record.ended.timestamp() for record in records if record.ended)])  # of an import
        apart = meter.end + doubt < windows[0][0] or meter.start - doubt > ended
        return (
            replace(draft, why=_when(meter, windows))
            if apart
            else _judged(replace(draft, other=_figure(meter)), totals)
        )
    lag_seconds, blur_seconds = lag(records, meter) or (0.0, meter.step_seconds / 2)
    meter = shifted(meter, lag_seconds)
    slack = max(SAME_WINDOW_SECONDS, 2 * meter.step_seconds)
    if meter.start > windows[0][0] + slack or meter.end < windows[-1][1] - slack:
        return replace(draft, why=_when(meter, windows))
    other, gap_seconds = _cut(meter, windows, blur_seconds)
    meter = replace(meter, lag_seconds=lag_seconds)
    return _judged(replace(draft, meter=meter, other=other, gap_seconds=gap_seconds), totals)


def _windows(records: Sequence[RunRecord]) -> list[Window]:
    """Return when at least one of the records' attempts went on, in unix seconds."""
    return union((start.timestamp(), end.timestamp()) for record in records for start, end in record.windows)


def _no_comparison(records: Sequence[RunRecord], meter: Meter, seconds: float) -> str:
    """Return what speaks against a comparison before any figure is looked at; empty where nothing does."""
    if meter.sensor and any(device.sensor == meter.sensor for record in records for device in record.devices):
        return "the record's own figure comes from this meter"
    if meter.why:
        return meter.why
    if seconds <= 0:
        return "the record covers no time"
    undated = next((record for record in records if _is_undated(record)), None)
    if meter.curve and undated is not None:
        return f"when the run was is not known to the second: {_format.when(undated)}"
    return _counted_twice(records, meter.boundary)


def _is_undated(record: RunRecord) -> bool:
    """Tell whether a record holds a window that the run lies in, or a date that was guessed, and not the run's time."""
    if record.attempts:
        return False
    window = (record.ended - record.started).total_seconds() if record.ended else 0.0
    guessed = record.place.known_from.get("started") in {DATED_BY_ROW, DATED_BY_FILES}
    return guessed or window - record.duration_seconds > _format.BLURRED_SECONDS


def _counted_twice(records: Sequence[RunRecord], boundary: str | None) -> str:
    """Say which device two records measured at the same time; empty where there is none."""
    kinds = {"gpu"} if boundary == "gpu" else {"gpu", "cpu", "dram"}
    for first, second in combinations(records, 2):
        spans = _windows([first]), _windows([second])
        together = math.fsum(
            max(0.0, min(end, until) - max(start, begun)) for start, end in spans[0] for begun, until in spans[1]
        )
        if together <= SAME_WINDOW_SECONDS:
            continue
        shares = {(each.host, each.id): each.share_ratio for each in first.devices if each.kind in kinds}
        for device in second.devices:
            share = shares.get((device.host, device.id), 0.0) + device.share_ratio
            if share > 1.001 and (device.host, device.id) in shares:
                names = " and ".join(record.name or record.run_id for record in (first, second))
                return f"{names} both measured {device.name or device.id} at the same time: their sum has it twice"
    return ""


def _scope(records: Sequence[RunRecord], meter: Meter, seconds: float) -> str:
    """Return which scope of the records has the length of a meter's figure; empty where none has."""
    length = meter.seconds
    if _same(length, seconds):
        return "run"
    phases = records[0].phases if len(records) == 1 else []
    near = [phase.path for phase in phases if _same(length, phase.seconds) and "/" not in phase.path]
    return near[0] if len(near) == 1 else ""


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= max(SAME_WINDOW_SECONDS, SAME_WINDOW_RATIO * max(first, second))


def _totals(records: Sequence[RunRecord], scope: str) -> list[Totals | None]:
    return [record.total(scope) for record in records]


def _side(totals: Sequence[Totals | None], meter: Meter) -> Side:
    """Return the records' energy within a meter's boundary; not known where one of them does not know it."""
    known = [
        quantity
        for total in totals
        if total is not None and (quantity := _quantity(total, meter.boundary)).value is not None
    ]
    if not known or len(known) < len(totals):
        return Side(None)
    joules = math.fsum(quantity.value or 0.0 for quantity in known)
    if all(quantity.low is None and quantity.high is None and not quantity.at_least for quantity in known):
        return Side(joules)
    ends = [_ends(Side(each.value, each.low, math.inf if each.at_least and each.high is None else each.high))
            for each in known]  # fmt: skip
    return Side(joules, math.fsum(low for low, _ in ends), math.fsum(high for _, high in ends))


def _quantity(total: Totals, boundary: str | None) -> Quantity:
    if boundary == "gpu":
        return total.gpu_energy_joules
    if boundary == "facility":
        return total.facility_energy_joules
    return total.it_energy_joules


def _figure(meter: Meter) -> Side:
    if meter.joules is None or meter.accuracy_ratio is None:
        return Side(meter.joules)
    half = meter.joules * meter.accuracy_ratio
    return Side(meter.joules, meter.joules - half, meter.joules + half)


LAG_SECONDS = 300.0  # a clock that is further off is not looked for
LAG_LIKENESS = 0.9  # how much the two courses of power must be alike, to shift one
LAG_GAIN = 0.01  # and how much more than unshifted
MOST_BINS = 400


def lag(records: Sequence[RunRecord], meter: Meter) -> tuple[float, float] | None:
    """Return by how many seconds a meter's clock is late, and to how many that is known; None: not told.

    It is the shift at which the meter's power is most like that of the record's timeline, with 0 W around the run. The
    correlation does not see a gain or a constant part, so that the meter may be of a wider boundary.
    """
    timeline = records[0].timeline
    windows = _windows(records[:1])
    if len(records) > 1 or timeline is None or len(windows) > 1:
        return None
    columns = zip(*(series.power_watts for series in timeline.series if series.power_watts), strict=False)
    power = [math.fsum(watts or 0.0 for watts in column) for column in columns]
    start, length = windows[0][0], timeline.step_seconds * len(power)
    width = max(meter.step_seconds, timeline.step_seconds, length / MOST_BINS)
    count = int(length / width)
    before, after = int((start - meter.start) / width), int((meter.end - start - length) / width)
    most = min(int(LAG_SECONDS / width), count // 2, before - 1, after - 1)
    if most < 1:
        return None
    around = min(most, before - most, after - most)  # bins beside the run that are compared, too
    first = start - (most + around) * width
    grid = [value_at(meter.curve, first + number * width) for number in range(count + 2 * (most + around) + 1)]
    theirs = [last - begun for begun, last in pairwise(grid)]
    ours = [0.0] * around
    ours += [power[min(len(power) - 1, int((number + 0.5) * width / timeline.step_seconds))] for number in range(count)]
    ours += [0.0] * around
    likeness = {
        shift: _correlation(ours, theirs[shift + most : shift + most + len(ours)]) for shift in range(-most, most + 1)
    }
    best = max(likeness, key=lambda shift: (likeness[shift], -abs(shift)))
    if likeness[best] < LAG_LIKENESS or likeness[best] - likeness[0] < LAG_GAIN:
        return None
    return best * width, width / 2


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    try:
        return statistics.correlation(first, second)
    except statistics.StatisticsError:  # one of them is constant
        return 0.0


def _cut(meter: Meter, windows: Sequence[Window], blur_seconds: float) -> tuple[Side, float]:
    """Return a curve's energy within some windows, and the seconds of gaps in them.

    Its interval holds the meter's accuracy, what may lie on the other side of an edge (``blur_seconds`` at the largest
    power), and what a gap may hide: from the least to the largest power seen. A counter is exact across a gap that lies
    within a window; of one at its edge, it tells what both sides have together. What a window has beyond the samples is
    a gap, at the power next to it. So is a step that is longer than the window.
    """
    stretches = [(start[0], end[0], end[1] - start[1]) for start, end in pairwise(meter.curve) if end[0] > start[0]]
    powers = [rise / (after - before) for before, after, rise in stretches]
    least, largest = min(powers), max(powers)
    joules = less = more = gaps = 0.0
    for start, end in windows:
        joules += value_at(meter.curve, end) - value_at(meter.curve, start)
        edge = blur_seconds * (largest - least)
        less, more = less + 2 * edge, more + 2 * edge
        for before, after, rise in stretches:
            inside = min(after, end) - max(before, start)
            if inside <= 0 or after - before <= min(GAP_STEPS * meter.step_seconds, end - start):
                continue
            gaps += inside
            bridged = rise * inside / (after - before)
            low, high = least * inside, largest * inside
            if meter.counter:
                outside = after - before - inside
                low, high = max(low, rise - largest * outside), min(high, rise - least * outside)
            less, more = less + max(0.0, bridged - low), more + max(0.0, high - bridged)
        for beyond, power in ((meter.start - start, powers[0]), (end - meter.end, powers[-1])):
            seconds = min(max(0.0, beyond), end - start)
            gaps, joules = gaps + seconds, joules + power * seconds
            less, more = less + (power - least) * seconds, more + (largest - power) * seconds
    if meter.accuracy_ratio is None and not (less or more):
        return Side(joules), gaps
    half = joules * (meter.accuracy_ratio or 0.0)
    return Side(joules, joules - math.hypot(half, less), joules + math.hypot(half, more)), gaps


def _judged(draft: Reconciled, totals: Sequence[Totals | None]) -> Reconciled:
    record, other, boundary = draft.record, draft.other, draft.meter.boundary or ""
    why = _obstacle(draft, totals)
    if why or record.joules is None or other.joules is None:
        return replace(draft, why=why)
    ratio = other.joules / record.joules if record.joules else None
    more = other.joules - record.joules
    percent = ""
    if ratio is not None:
        share = _format.significant(abs(ratio - 1) * 100, 2)
        percent = "the same" if abs(ratio - 1) < SAME_RATIO else f"{share} % {'less' if more < 0 else 'more'}"
    draft = replace(draft, ratio=ratio)
    below, above = _ends(other)[1] < _ends(record)[0], _ends(other)[0] > _ends(record)[1]
    without = record.low is None and other.low is None
    lower = any(_quantity(total, boundary).at_least for total in totals if total is not None)
    if boundary in {"node-dc", "node-ac"} and not (below and without):
        if below:
            return replace(
                draft,
                verdict="differ",
                why=f"the meter of {BOUNDARIES[boundary]} shows {percent} than devices within it",
            )
        mean = _format.significant(more / draft.seconds, 3)
        most = "at most " if lower else ""
        text = (
            f"the meter measures {BOUNDARIES[boundary]}; left over {most}{_format.energy(more)}, {mean} W on the mean"
        )
        return replace(draft, why=text, left_over_joules=more)
    if without:
        return replace(draft, why=f"neither side states an interval; the meter shows {percent}; give accuracy=N%")
    if below or above:
        text = f"the meter shows {percent}; the intervals do not touch"
    else:
        text = f"the meter shows {percent}, within the intervals" if percent else "both are 0"
    text += "; the record is a lower bound" if lower else ""
    return replace(draft, verdict="differ" if below or above else "agree", why=text)


def _ends(side: Side) -> tuple[float, float]:
    """Return the ends of an interval: the value where none is stated, infinity where it is open above."""
    value = side.joules or 0.0
    low = value if side.low is None else side.low
    return low, side.high if side.high is not None else value if side.low is None else math.inf


def _obstacle(draft: Reconciled, totals: Sequence[Totals | None]) -> str:
    """Return why the two cannot be compared, empty where they can."""
    meter, boundary = draft.meter, draft.meter.boundary or ""
    silent = draft.gap_seconds > MOST_GAP_RATIO * draft.seconds
    quantities = [_quantity(total, boundary) for total in totals if total is not None]
    reason = next((quantity.why for quantity in quantities if quantity.value is None and quantity.why), "")
    reason = reason or ("it has no totals" if None in totals else "")
    missing = [
        name.upper()
        for name in ("gpu", "cpu", "dram")
        if any(
            getattr(total, f"{name}_energy_joules").value is None
            and (name != "gpu" or total.gpu_count)  # a machine without GPUs lacks nothing
            for total in totals
            if total is not None
        )
    ]
    reasons = (
        (not boundary, f"what {meter.name} measures is not known; say boundary={'|'.join(BOUNDARIES)}"),
        (bool(meter.shared), meter.shared),
        (draft.other.joules is None, "the meter has no figure"),
        (silent, f"the meter was silent for {_format.percent(draft.gap_seconds / draft.seconds)} of the time"),
        (draft.record.joules is None,
         f"the record has no energy of {BOUNDARIES.get(boundary, '')}{f': {reason}' if reason else ''}"),
        (boundary in {"devices", "module"} and bool(missing),
         f"the record has no {' and '.join(missing)} energy, the meter may have"),
    )  # fmt: skip
    return next((words for applies, words in reasons if applies), "")


def _other_window(draft: Reconciled, which: str) -> str:
    """Say that a meter's figure is of another stretch of time, and what that leaves for the rest of the longer one."""
    meter, record = draft.meter, draft.record
    length = meter.seconds
    of_meter, of_record = _format.duration(length), _format.duration(draft.seconds)
    text = f"the meter's figure is of {of_meter}, the record's of {of_record}, {which}"
    rest = draft.seconds - length
    if record.joules is None or meter.joules is None or not rest or length <= 0:
        return text
    watts = (record.joules - meter.joules) / rest
    if watts < 0:
        apart = _format.energy(abs(meter.joules - record.joules))
        more = f"{apart} more than the record has for the whole run" if rest > 0 else f"{apart} less than the run alone"
        devices = "more" if rest > 0 else "fewer"
        return f"{text}; yet it shows {more}: both cannot be right unless it counts {devices} devices"
    longer, shorter = ("run", "meter") if rest > 0 else ("meter's time", "run")
    mean = meter.joules / length if rest > 0 else record.joules / draft.seconds
    return (
        f"{text}; if both are right, the rest of the {longer} drew {_format.significant(watts, 3)} W on the mean, "
        f"beside {_format.significant(mean, 3)} W in the {shorter}'s time"
    )


def _when(meter: Meter, windows: Sequence[Window]) -> str:
    def written(seconds: float) -> str:
        return _format.minute(datetime.fromtimestamp(seconds, timezone.utc))

    text = (
        f"the meter measured from {written(meter.start)} to {written(meter.end)}, the run went from "
        f"{written(windows[0][0])} to {written(windows[-1][1])}"
    )
    hours = _zone(meter, windows) if meter.curve and meter.clock_doubt_seconds else 0
    zone = f"UTC{hours:+d}"
    return f"{text}; its times have no zone: if they are of {zone}, say lag={hours * 3600}s" if hours else text


def _zone(meter: Meter, windows: Sequence[Window]) -> int:
    """Return the only whole hours from UTC with which a meter covers the run; 0 where there is none, or several."""
    most = int(meter.clock_doubt_seconds // 3600)
    fits = [
        hours
        for hours in range(-most, most + 1)
        if meter.start - hours * 3600 <= windows[0][0] and meter.end - hours * 3600 >= windows[-1][1]
    ]
    return fits[0] if len(fits) == 1 else 0
