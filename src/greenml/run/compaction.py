"""Keeps the size of a trace bounded: merges old samples, and keeps their sums.

Neighbouring samples are merged until the file is half its limit again. Energy at a merged sample's end is the
same number as before; a sample that a phase's edge forced is never merged, so phases keep their exact energy. Where
there are too many phases, stretches are joined to be drawn, and keep what was measured in them.

The work is done in a thread of its own, in slices of a few milliseconds with pauses of nine times as long between them:
neither the training nor the sampling waits for it.
"""

from __future__ import annotations

import bisect
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import TypeVar

from greenml.energy import integrate
from greenml.energy.integrate import EnergyCurve
from greenml.trace.file import TraceWriter, read_lines
from greenml.trace.lines import Line, device_of, rollups_of, sample_line, share_late
from greenml.trace.types import Device, Rollup, Span

LIMIT_BYTES = 8_000_000
MAX_SPANS = 10_000
MAX_NOTES = 500
MAX_STEPS = 200  # and as many of each kind of metrics: those of the same names
MAX_METRIC_KINDS = 20  # the most frequent; all others together are one
SLICE_LINES = 500  # of a trace (or phases, or samples) that are worked on at a time
BUSY_RATIO = 0.1  # of a thread's time while a trace is compacted
T = TypeVar("T")
Pause = Callable[[], None]


class _Stopped(Exception):  # noqa: N818  no error: the run ends
    """The work is given up."""


class Compactor:
    """Compacts a trace whenever it is too large, in a thread that lives as long as that takes.

    Args:
        writer: the trace, which only this process writes.
        note: takes a code and a text for the record.
        limit_bytes: how large the trace may become.
    """

    def __init__(self, writer: TraceWriter, note: Callable[[str, str], None], limit_bytes: int = LIMIT_BYTES) -> None:
        self._writer, self._note, self._limit_bytes = writer, note, limit_bytes
        self._resolution_seconds = 2.0
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._slice_begun = 0.0

    def check(self) -> None:
        """Begin to compact the trace, if it is too large and that is not under way."""
        if self._writer.size_bytes <= self._limit_bytes or self._stopping:
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="greenml-compaction", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Give up what is under way: the trace stays as it is."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join(1.0)

    def _work(self) -> None:
        self._slice_begun = time.monotonic()
        try:
            self._resolution_seconds = compact(
                self._writer, self._limit_bytes, self._resolution_seconds, pause=self._pause
            )
        except _Stopped:
            return
        except Exception as error:  # noqa: BLE001  a fault of ours is a line in the record; the trace stays large
            self._stopping = True
            self._note("compaction-failed", f"the trace stays as large as it is: {type(error).__name__}: {error}")

    def _pause(self) -> None:
        """End a slice.

        Raises:
            _Stopped: the run ends.
        """
        worked_seconds = time.monotonic() - self._slice_begun
        time.sleep(min(worked_seconds * (1 / BUSY_RATIO - 1), 0.5))
        if self._stopping:
            raise _Stopped
        self._slice_begun = time.monotonic()


def _sliced(values: Iterable[T], pause: Pause) -> Iterator[T]:
    """Yield values, with a pause after each slice of them."""
    for number, value in enumerate(values, 1):
        yield value
        if number % SLICE_LINES == 0:
            pause()


class _Sliced(list[T]):
    """A list that pauses after each slice, whoever goes through it."""

    pause: Pause

    def __iter__(self) -> Iterator[T]:
        return _sliced(super().__iter__(), self.pause)


def merge(first: Rollup, second: Rollup) -> Rollup:
    """Return two neighbouring samples of a device merged into one.

    Sums stay sums, means are weighted with time, peaks are the larger, the counter is the later one.
    """
    seconds = (first.end_seconds - first.start_seconds, second.end_seconds - second.start_seconds)

    def mean(earlier: float | None, later: float | None) -> float | None:
        if earlier is None or later is None or not sum(seconds):
            return earlier if later is None else later
        return (earlier * seconds[0] + later * seconds[1]) / sum(seconds)

    def most(earlier: float | None, later: float | None) -> float | None:
        return max((value for value in (earlier, later) if value is not None), default=None)

    power_end = second.power_end_seconds
    if second.power_max_watts is None and power_end is None and first.power_end_seconds is not None:
        power_end = second.end_seconds - (first.end_seconds - first.power_end_seconds)  # as old as it was
    powers = [power for power in (first.power_joules, second.power_joules) if power is not None]
    return Rollup(
        first.start_seconds,
        second.end_seconds,
        second.energy_joules,
        sum(powers) if powers else None,
        first.power_seconds + second.power_seconds,
        most(first.power_max_watts, second.power_max_watts),
        first.swing_joules + second.swing_joules,
        mean(first.utilization_ratio, second.utilization_ratio),
        mean(first.memory_utilization_ratio, second.memory_utilization_ratio),
        mean(first.memory_mean_bytes, second.memory_mean_bytes),
        most(first.memory_max_bytes, second.memory_max_bytes),  # type: ignore[arg-type]
        power_end,
        first.power_last_watts if second.power_last_watts is None else second.power_last_watts,
    )


def _mergeable(first: dict[str, Rollup], second: dict[str, Rollup], resolution_seconds: float) -> bool:
    for key, value in first.items():
        other = second.get(key)
        if other is None:
            continue
        if (value.energy_joules is None) != (other.energy_joules is None):
            return False
        if value.energy_joules is not None and other.energy_joules < value.energy_joules:  # type: ignore[operator]
            return False  # a reset: its place is kept
        if value.start_seconds == value.end_seconds:
            return False  # the first reading of all is the curve's origin
        if other.end_seconds - value.start_seconds > resolution_seconds:
            return False
    return True


def _closed(lines: list[Line], pause: Pause) -> list[Span]:
    """Read the spans that ended; joules stay by the device's key in this file."""
    begun: dict[int, Line] = {}
    closed: list[Span] = []
    for line in _sliced(lines, pause):
        if "begin" in line:
            begun[line["begin"]] = line
        elif "end" in line and line["end"] in begun:
            first = begun.pop(line["end"])
            sums = line.get("n", 1), line.get("s"), line.get("j"), line.get("i")
            closed.append(Span(first["phase"], first["t"], line["t"], *sums))
    return closed


def _tallied(lines: list[Line], spans: list[Span], pause: Pause) -> list[Span]:
    """Say of each span what each device used in it, while the samples at its edges are still there."""
    devices: dict[str, Device] = {}
    samples: dict[str, _Sliced[Rollup]] = {}
    last: dict[str, float] = {}
    for line in _sliced(lines, pause):
        if "device" in line:
            devices[line["device"]] = device_of(line)
        elif "d" in line:
            for key, rollup in rollups_of(line, last):
                last[key] = rollup.end_seconds
                if key not in samples:
                    samples[key] = _Sliced()
                    samples[key].pause = pause
                samples[key].append(rollup)
    curves: dict[str, tuple[EnergyCurve, float | None]] = {}
    for key in devices.keys() & samples.keys():
        peaks = (rollup.power_max_watts for rollup in samples[key] if rollup.power_max_watts is not None)
        curve = integrate.curve_of(devices[key], [samples[key]]).curve
        if curve is not None:
            curves[key] = curve, integrate.highest_watts(devices[key], max(peaks, default=None))
    return [_with_sums(span, curves) if span.seconds is None else span for span in _sliced(spans, pause)]


def _with_sums(span: Span, curves: Mapping[str, tuple[EnergyCurve, float | None]]) -> Span:
    """Say what each device used in a span, but for those that this process did not measure for most of it."""
    start, end = span.start_seconds, span.end_seconds or span.start_seconds
    measured = {
        key: (curve.between(start, end), curve.interpolation_between([(start, end)], limit_watts))
        for key, (curve, limit_watts) in curves.items()
        if min(end, curve.times_seconds[-1]) - max(start, curve.times_seconds[0]) >= 0.5 * (end - start)
    }
    joules = {key: value for key, (value, _) in measured.items()}
    return replace(span, joules=joules, interpolation_joules={key: value for key, (_, value) in measured.items()})


def _limit_phases(lines: list[Line], most: int, pause: Pause) -> list[Line]:
    closed = _closed(lines, pause)
    if len(closed) <= most:
        return lines
    spans, blurred = join_spans(_tallied(lines, closed, pause), most // 2, pause)
    begun = {line["begin"] for line in _sliced(lines, pause) if "begin" in line}
    still_open = begun - {line["end"] for line in _sliced(lines, pause) if "end" in line}
    kept = [
        line for line in _sliced(lines, pause)
        if not ("begin" in line or "end" in line) or line.get("begin") in still_open
    ]  # fmt: skip
    edges = sorted(
        t for span in _sliced(spans, pause) for t in (span.start_seconds, span.end_seconds or span.start_seconds)
    )
    pause()
    kept = _keep_edges(kept, edges, pause)
    events: list[Line] = []
    for number, span in enumerate(_sliced(spans, pause)):
        events.append({"phase": span.path, "begin": -1 - number, "t": span.start_seconds})
        end: Line = {"end": -1 - number, "t": span.end_seconds}
        if span.count > 1:
            end |= {"n": span.count, "s": round(length_seconds(span), 5)}
            for name, joules in (("j", span.joules), ("i", span.interpolation_joules)):
                end[name] = {key: round(value, 4) for key, value in (joules or {}).items()}
        events.append(end)
    text = f"phases of {sum(span.count for span in spans):,} stretches are drawn as {len(spans):,}: {blurred:.1f} s of "
    text += "pauses lie within; their energy and seconds are those of the stretches"
    kept = [line for line in _sliced(kept, pause) if line.get("note") != "phases-joined"]
    kept.append({"note": "phases-joined", "text": text, "t": kept[-1].get("t", 0.0)})
    header = [line for line in _sliced(kept, pause) if "t" not in line]
    timed = [line for line in _sliced(kept + events, pause) if "t" in line]
    pause()
    return header + sorted(timed, key=itemgetter("t"))


def _keep_edges(lines: list[Line], edges: list[float], pause: Pause) -> list[Line]:
    """Drop the edge mark of samples that belong to no remaining edge."""
    kept = []
    for line in _sliced(lines, pause):
        if "edge" in line:
            at = bisect.bisect_left(edges, line["t"])
            if at == 0 or line["t"] - edges[at - 1] > 1.0:
                line = {name: value for name, value in line.items() if name != "edge"}  # noqa: PLW2901
        kept.append(line)
    return kept


def _once(lines: list[Line], pause: Pause) -> list[Line]:
    """Fold metrics, parameters, findings and intensities into one line each.

    Notes, steps and earlier metrics past their limits are dropped. Metrics are thinned by kind, so that rare ones (of
    an evaluation) stay beside frequent ones (of each step).
    """
    folded: dict[str, Line] = {"metrics": {}, "params": {}, "facts": {}}
    intensities: dict[float, tuple[str, list[float]]] = {}  # by a slot's start: of several answers the last
    kept: list[Line] = []
    notes = steps = 0
    all_counts = Counter(
        frozenset(line["metrics"]) for line in _sliced(lines, pause) if line.get("metrics") and "t" in line
    )
    log_counts = dict(all_counts.most_common(MAX_METRIC_KINDS))
    log_counts[frozenset()] = all_counts.total() - sum(log_counts.values())  # the others
    logs_left = dict(log_counts)
    step_count = sum("step" in line for line in _sliced(lines, pause))
    for line in _sliced(lines, pause):
        kind = next((name for name in folded if name in line), "")
        if kind == "facts":
            for name, value in line["facts"].items():
                folded["facts"][name] = {**folded["facts"].get(name, {}), **value}
        elif kind:
            folded[kind].update(line[kind])
            if kind == "metrics" and line["metrics"] and "t" in line:
                log_kind = frozenset(line["metrics"])
                log_kind = log_kind if log_kind in log_counts else frozenset()
                logs_left[log_kind] -= 1
                if logs_left[log_kind] % (1 + log_counts[log_kind] // MAX_STEPS) == 0:
                    kept.append(line)
        elif "intensity" in line:
            intensities |= {slot[0]: (json.dumps(line["intensity"]), slot) for slot in line["slots"]}
        else:
            notes += "note" in line
            steps += "step" in line
            if ("note" not in line or notes <= MAX_NOTES) and (
                "step" not in line or line.get("saved") or (step_count - steps) % (1 + step_count // MAX_STEPS) == 0
            ):
                kept.append(line)
    last = max((line["t"] for line in kept if "t" in line), default=0.0)
    for head in dict.fromkeys(head for head, _ in intensities.values()):
        slots = [intensities[start][1] for start in sorted(intensities) if intensities[start][0] == head]
        kept.append({"intensity": json.loads(head), "slots": slots, "t": last})
    return kept + [{name: values, "t": last} for name, values in folded.items() if values]


def _falls(counters: dict[str, float], group: dict[str, Rollup]) -> bool:
    """Tell whether a counter in a group reads less than before, and remember what it reads."""
    readings = {key: value.energy_joules for key, value in group.items() if value.energy_joules is not None}
    fell = any(joules < counters.get(key, 0.0) for key, joules in readings.items())
    counters.update(readings)
    return fell


def _merged(lines: list[Line], resolution_seconds: float, pause: Pause) -> list[Line]:
    kept: list[Line] = []
    last: dict[str, float] = {}
    counters: dict[str, float] = {}
    open_group: dict[str, Rollup] | None = None
    open_time = 0.0
    for line in _sliced(lines, pause):
        if "d" not in line or "edge" in line:
            if open_group is not None:
                kept.append(sample_line(open_time, open_group))
                open_group = None
            kept.append(line)
            if "d" in line:
                edge = dict(rollups_of(line, last))
                last.update({key: value.end_seconds for key, value in edge.items()})
                _falls(counters, edge)
            continue
        group = dict(rollups_of(line, last))
        last.update({key: value.end_seconds for key, value in group.items()})
        if _falls(counters, group):  # a reset stays a sample of its own: its power bridges it, and no more
            if open_group is not None:
                kept.append(sample_line(open_time, open_group))
                open_group = None
            kept.append(line)
            continue
        if open_group is not None and _mergeable(open_group, group, resolution_seconds):
            open_group |= {
                key: merge(open_group[key], value) if key in open_group else value for key, value in group.items()
            }
        else:
            if open_group is not None:
                kept.append(sample_line(open_time, open_group))
            open_group = group
        open_time = line["t"]
    if open_group is not None:
        kept.append(sample_line(open_time, open_group))
    return kept


def _edges(lines: list[Line], pause: Pause) -> int:
    return sum("edge" in line or "begin" in line or "end" in line for line in _sliced(lines, pause))


def compact(
    writer: TraceWriter,
    limit_bytes: int = LIMIT_BYTES,
    resolution_seconds: float = 2.0,
    pause: Pause = lambda: None,
) -> float:
    """Shrink a trace to at most half of its limit, as far as merging goes.

    Args:
        writer: the trace, which only this process writes.
        limit_bytes: its limit.
        resolution_seconds: where to start: samples are merged up to this long.
        pause: called after every slice of the work; what it raises ends the work, and the trace is as it was.

    Returns:
        The resolution at which it fitted.

    Raises:
        RecordError: it cannot be read.
    """
    size = writer.size_bytes or 1
    lines = read_lines(writer.path, size, lambda texts: _sliced(texts, pause))
    lines = share_late(lines, lambda lines: _sliced(lines, pause))
    lines = _once(lines, pause)
    samples, spans = len(lines), MAX_SPANS
    lines = _limit_phases(lines, spans, pause)
    # Samples at edges are never merged: where they alone are too many, there are too many phases.
    while _edges(lines, pause) / samples * size > limit_bytes / 4 and spans > 16:
        spans //= 2
        lines = _limit_phases(lines, spans, pause)
    while True:
        lines = _merged(lines, resolution_seconds, pause)
        if len(lines) / samples * size <= limit_bytes / 2 or resolution_seconds > 1e6:
            break
        resolution_seconds *= 2
    writer.replace(_sliced(lines, pause), size)
    return resolution_seconds


def join_spans(spans: list[Span], most: int, pause: Pause = lambda: None) -> tuple[list[Span], float]:
    """Join a phase's stretches across its shortest pauses until there are no more than ``most``.

    What the stretches held (count, seconds, joules) adds up; the pauses are not in it.

    Returns:
        The spans, and how many seconds of pauses lie within them now.
    """
    gap_seconds, blurred = 0.05, 0.0
    most = max(most, len({span.path for span in spans}))  # of each name one stays
    while len(spans) > most:
        joined: list[Span] = []
        latest: dict[str, int] = {}
        for span in _sliced(sorted(spans, key=attrgetter("start_seconds")), pause):
            at = latest.get(span.path)
            end = joined[at].end_seconds if at is not None else None
            if at is not None and end is not None and span.start_seconds - end <= gap_seconds:
                blurred += max(0.0, span.start_seconds - end)
                joined[at] = _add_spans(joined[at], span)
            else:
                latest[span.path] = len(joined)
                joined.append(span)
        spans, gap_seconds = joined, gap_seconds * 2
    return spans, blurred


def length_seconds(span: Span) -> float:
    """Return how long a stretch is, without the pauses that were closed in it."""
    return span.seconds if span.seconds is not None else (span.end_seconds or span.start_seconds) - span.start_seconds


def _add_spans(first: Span, second: Span) -> Span:
    ends = (first.end_seconds or first.start_seconds, second.end_seconds or second.start_seconds)
    overlap = max(0.0, min(ends) - second.start_seconds)
    new = (
        max(0.0, 1.0 - overlap / length_seconds(second)) if length_seconds(second) else 1.0
    )  # of the second, beside the first

    def both(ours: Mapping[str, float] | None, others: Mapping[str, float] | None) -> dict[str, float]:
        ours, others = ours or {}, others or {}  # a device that was measured in one of the two alone is not known
        return {key: ours[key] + others[key] * new for key in ours.keys() & others.keys()}

    return replace(
        first,
        end_seconds=max(ends),
        count=first.count + second.count,
        seconds=length_seconds(first) + length_seconds(second) * new,
        joules=both(first.joules, second.joules),
        interpolation_joules=both(first.interpolation_joules, second.interpolation_joules),
    )
