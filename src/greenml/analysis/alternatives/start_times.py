"""What a run would have emitted had it started at another time: its power, moved along a course of the intensity."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import accumulate

from greenml.errors import FactorError
from greenml.facts import IntensityCourse, Source
from greenml.record import RunRecord
from greenml.reports._format import BLURRED_SECONDS
from greenml.units import JOULES_PER_KWH

ENERGY_KINDS = ("gpu", "cpu", "dram")


@dataclass(frozen=True, slots=True)
class Start:
    """A time to start, and what the run would emit: the sum over the slots of its energy in each times its intensity.

    Attributes:
        start: UTC.
        emissions_grams: of the whole run, with the PUE.
        grams_per_kwh: the mean intensity, weighted with energy.
    """

    start: datetime
    emissions_grams: float
    grams_per_kwh: float


@dataclass(frozen=True, slots=True)
class Starts:
    """Every start that a course allows.

    Attributes:
        provider, signal, area, source, note: the course's.
        first, last: what it spans, UTC.
        rows: in time order: the beginning of each slot, as far as the run then lies inside of the course.
        run: as it was; None where the course does not cover the run's own time.
        assumes: how the energy lies in time, and what else is taken for granted.
    """

    provider: str
    signal: str
    area: str
    source: Source
    note: str
    first: datetime
    last: datetime
    rows: tuple[Start, ...]
    run: Start | None
    assumes: tuple[str, ...]

    @property
    def best(self) -> Start:
        """The start with the least emissions; of several the earliest."""
        return min(self.rows, key=lambda one: one.emissions_grams)

    @property
    def worst(self) -> Start:
        """The start with the most emissions; of several the earliest."""
        return max(self.rows, key=lambda one: one.emissions_grams)


@dataclass(frozen=True, slots=True)
class Profile:
    """Joules used up to each of some seconds since the start; between them the power is steady."""

    seconds: tuple[float, ...]
    joules: tuple[float, ...]

    def before(self, second: float) -> float:
        """Return what was used before a second of the run."""
        if second <= 0:
            return 0.0
        if second >= self.seconds[-1]:
            return self.joules[-1]
        at = bisect_right(self.seconds, second) - 1
        width = self.seconds[at + 1] - self.seconds[at]
        return self.joules[at] + (self.joules[at + 1] - self.joules[at]) * (second - self.seconds[at]) / width


def profile(record: RunRecord) -> tuple[Profile, str]:
    """Return how a run's IT energy lies in time, and how that is known.

    The shape is that of the timeline's power, the sum is the record's IT energy. A device without a timeline, as in
    an imported record, counts evenly over the run.

    Raises:
        FactorError: the energy of the run, or its length, is not known.
    """
    total = record.total()
    whole = total.it_energy_joules.value if total is not None else None
    if whole is None or record.duration_seconds <= 0:
        raise FactorError("the run's energy is not known, so no start can be better than another")
    line = record.timeline
    drawn: list[float] = []
    seconds = [0.0, record.duration_seconds]
    if line is not None:
        edges = [min(at * line.step_seconds, record.duration_seconds) for at in range(line.bins + 1)]
        kinds = {device.id: device.kind for device in record.devices}
        watts = [one.power_watts for one in line.series if kinds.get(one.device) in ENERGY_KINDS and one.power_watts]
        drawn = [sum(series[at] or 0.0 for series in watts) * (edges[at + 1] - edges[at]) for at in range(line.bins)]
        seconds = edges
    if sum(drawn) <= 0:
        return Profile((0.0, record.duration_seconds), (0.0, whole)), "its energy is taken as even over its time"
    joules = [one * whole / sum(drawn) for one in drawn]
    how = f"its energy lies in time as measured, in steps of {line.step_seconds:g} s" if line is not None else ""
    return Profile(tuple(seconds), tuple(accumulate(joules, initial=0.0))), how


def emitted(course: IntensityCourse, used: Profile, start: datetime, pue: float) -> Start | None:
    """Return what a run would emit from a start; None where the course does not cover all of it.

    The sum over the slots of (joules in the slot) x (its grams a kWh) x PUE: exact for a course of steady slots.
    """
    length = used.seconds[-1]
    grams = covered = 0.0
    for slot in course.slots:
        begin, end = (slot.start - start).total_seconds(), (slot.end - start).total_seconds()
        begin, end = max(0.0, begin), min(length, end)
        if end > begin:
            covered += end - begin
            grams += (used.before(end) - used.before(begin)) / JOULES_PER_KWH * slot.grams_per_kwh
    if covered < length - 1e-3:
        return None
    kwh = used.joules[-1] / JOULES_PER_KWH
    return Start(start, grams * pue, grams / kwh if kwh else 0.0)


def start_times(record: RunRecord, course: IntensityCourse) -> Starts:
    """Account a run at each start that a course of the intensity allows.

    Args:
        record: accounted; its PUE is used.
        course: the carbon intensity of the place over time.

    Raises:
        FactorError: the course is shorter than the run, or the run's energy is not known.
    """
    used, how = profile(record)
    pue = record.factors.pue.value if record.factors.pue is not None else 1.0
    if not course.slots:
        raise FactorError(f"{course.provider} has no carbon intensity for that time")
    rows = [row for slot in course.slots if (row := emitted(course, used, slot.start, pue)) is not None]
    if not rows:
        span = (course.slots[-1].end - course.slots[0].start).total_seconds() / 3600
        hours = record.duration_seconds / 3600
        raise FactorError(
            f"{course.provider}'s intensity spans {span:.2f} h with its gaps, the run took {hours:.2f} h: no start "
            f"lies wholly in it; give a longer one"
        )
    assumes = [how, "the PUE is the same at each start"]
    if len(record.attempts) > 1:
        assumes.append(f"its {len(record.attempts)} attempts follow each other without a pause")
    own = used
    if record.ended is not None and not record.attempts:
        window = (record.ended - record.started).total_seconds()
        if window - record.duration_seconds > BLURRED_SECONDS:
            own = Profile((0.0, window), (0.0, used.joules[-1]))
            assumes.append(
                f"when in its {window:.0f} s the run was is not known; as it was, its energy is taken as even over them"
            )
    if course.signal == "marginal":
        assumes.append("the intensity is marginal: what one more kWh causes; not to be compared with averages")
    return Starts(
        provider=course.provider,
        signal=course.signal,
        area=course.area,
        source=course.source,
        note=course.note,
        first=course.slots[0].start,
        last=course.slots[-1].end,
        rows=tuple(rows),
        run=emitted(course, own, record.started.astimezone(timezone.utc), pue),
        assumes=tuple(assumes),
    )


def span(record: RunRecord, hours: float) -> tuple[datetime, datetime]:
    """Return the time to ask a provider for: so many hours before the run to as many after it, UTC."""
    start = record.started.astimezone(timezone.utc)
    aside = timedelta(hours=hours)
    return start - aside, start + timedelta(seconds=record.duration_seconds) + aside


def shown(starts: Starts, most: int) -> Sequence[Start]:
    """Return the best starts, from the least emissions."""
    return sorted(starts.rows, key=lambda one: one.emissions_grams)[:most]
