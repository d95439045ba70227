"""Keeps a trace bounded: old samples become coarser, and what was measured stays.

Neighbouring samples are merged until the file is half its limit again. Energy at a merged sample's end is the
same number as before; a sample that a phase's edge forced is never merged, so phases keep their exact energy. Where
there are too many phases, stretches are joined to be drawn, and keep what was measured in them.
"""

from __future__ import annotations

import json
from dataclasses import replace

from greenml import energy, span_joining
from greenml.model import Device, Rollup, Span
from greenml.trace import TraceWriter, read_lines
from greenml.trace_lines import Line, device_of, rollups_of, sample_line

LIMIT_BYTES = 8_000_000
MAX_SPANS = 10_000
MAX_NOTES = 500
MAX_STEPS = 200


def merge(first: Rollup, second: Rollup) -> Rollup:
    """Return what two neighbouring samples of a device say together.

    Sums stay sums, means are weighted with time, peaks are the larger, the counter is the later one.
    """
    seconds = (first.end_seconds - first.start_seconds, second.end_seconds - second.start_seconds)

    def mean(one: float | None, other: float | None) -> float | None:
        if one is None or other is None or not sum(seconds):
            return one if other is None else other
        return (one * seconds[0] + other * seconds[1]) / sum(seconds)

    def most(one: float | None, other: float | None) -> float | None:
        return max((value for value in (one, other) if value is not None), default=None)

    power_end = second.power_end_seconds
    if second.power_max_watts is None and power_end is None and first.power_end_seconds is not None:
        power_end = second.end_seconds - (first.end_seconds - first.power_end_seconds)  # as old as it was
    powers = [one for one in (first.power_joules, second.power_joules) if one is not None]
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
    for key, one in first.items():
        other = second.get(key)
        if other is None:
            continue
        if (one.energy_joules is None) != (other.energy_joules is None):
            return False
        if one.energy_joules is not None and other.energy_joules < one.energy_joules:  # type: ignore[operator]
            return False  # a reset: its place is kept
        if one.start_seconds == one.end_seconds:
            return False  # the first reading of all is the curve's origin
        if other.end_seconds - one.start_seconds > resolution_seconds:
            return False
    return True


def _closed(lines: list[Line]) -> list[Span]:
    """Read the spans that ended; joules stay by the device's key in this file."""
    begun: dict[int, Line] = {}
    closed: list[Span] = []
    for line in lines:
        if "begin" in line:
            begun[line["begin"]] = line
        elif "end" in line and line["end"] in begun:
            first = begun.pop(line["end"])
            joules, count = line.get("j"), line.get("n", 1)
            closed.append(Span(first["phase"], first["t"], line["t"], count, line.get("s"), joules))
    return closed


def _tallied(lines: list[Line], spans: list[Span]) -> list[Span]:
    """Say of each span what each device used in it, while the samples at its edges are still there."""
    devices: dict[str, Device] = {}
    samples: dict[str, list[Rollup]] = {}
    last: dict[str, float] = {}
    for line in lines:
        if "device" in line:
            devices[line["device"]] = device_of(line)
        elif "d" in line:
            for key, rollup in rollups_of(line, last):
                last[key] = rollup.end_seconds
                samples.setdefault(key, []).append(rollup)
    known = {key: energy.curve_of(device, [samples[key]]).curve for key, device in devices.items() if key in samples}
    curves = {key: curve for key, curve in known.items() if curve is not None}
    return [
        span
        if span.joules is not None or span.end_seconds is None
        else replace(
            span,
            joules={key: curve.between(span.start_seconds, span.end_seconds) for key, curve in curves.items()} or None,
        )
        for span in spans
    ]


def _limit_phases(lines: list[Line], most: int) -> list[Line]:
    closed = _closed(lines)
    if len(closed) <= most:
        return lines
    spans, blurred = span_joining.join(_tallied(lines, closed), most // 2)
    still_open = {line["begin"] for line in lines if "begin" in line} - {line["end"] for line in lines if "end" in line}
    kept = [line for line in lines if not ("begin" in line or "end" in line) or line.get("begin") in still_open]
    edges = sorted(t for span in spans for t in (span.start_seconds, span.end_seconds or span.start_seconds))
    kept = _keep_edges(kept, edges)
    events: list[Line] = []
    for number, span in enumerate(spans):
        events.append({"phase": span.path, "begin": -1 - number, "t": span.start_seconds})
        end: Line = {"end": -1 - number, "t": span.end_seconds}
        if span.count > 1:
            shown = {key: round(value, 4) for key, value in (span.joules or {}).items()}
            end |= {"n": span.count, "s": round(span_joining.length_seconds(span), 5), "j": shown}
        events.append(end)
    text = f"phases of {sum(span.count for span in spans):,} stretches are drawn as {len(spans):,}: {blurred:.1f} s of "
    text += "pauses lie within; their energy and seconds are those of the stretches"
    kept = [line for line in kept if line.get("note") != "phases-joined"]
    kept.append({"note": "phases-joined", "text": text, "t": kept[-1].get("t", 0.0)})
    header = [line for line in kept if "t" not in line]
    return header + sorted((line for line in kept + events if "t" in line), key=lambda line: line["t"])


def _keep_edges(lines: list[Line], edges: list[float]) -> list[Line]:
    """Drop the edge mark of samples that belong to no remaining edge."""
    import bisect

    kept = []
    for line in lines:
        if "edge" in line:
            at = bisect.bisect_left(edges, line["t"])
            if at == 0 or line["t"] - edges[at - 1] > 1.0:
                line = {name: value for name, value in line.items() if name != "edge"}  # noqa: PLW2901
        kept.append(line)
    return kept


def _once(lines: list[Line]) -> list[Line]:
    """Fold metrics, parameters, findings and intensities into one line each; drop notes and steps past their limits."""
    folded: dict[str, Line] = {"metrics": {}, "params": {}, "found": {}}
    intensities: dict[float, tuple[str, list[float]]] = {}  # by a slot's start: of several answers the last
    kept: list[Line] = []
    notes = steps = 0
    told = sum("step" in line for line in lines)
    for line in lines:
        kind = next((name for name in folded if name in line), "")
        if kind == "found":
            for name, value in line["found"].items():
                folded["found"][name] = {**folded["found"].get(name, {}), **value}
        elif kind:
            folded[kind].update(line[kind])
        elif "intensity" in line:
            intensities |= {slot[0]: (json.dumps(line["intensity"]), slot) for slot in line["slots"]}
        else:
            notes += "note" in line
            steps += "step" in line
            if ("note" not in line or notes <= MAX_NOTES) and (
                "step" not in line or (told - steps) % (1 + told // MAX_STEPS) == 0
            ):
                kept.append(line)
    last = max((line["t"] for line in kept if "t" in line), default=0.0)
    for head in dict.fromkeys(head for head, _ in intensities.values()):
        own = [intensities[start][1] for start in sorted(intensities) if intensities[start][0] == head]
        kept.append({"intensity": json.loads(head), "slots": own, "t": last})
    return kept + [{name: values, "t": last} for name, values in folded.items() if values]


def _falls(counters: dict[str, float], group: dict[str, Rollup]) -> bool:
    """Tell whether a counter in a group reads less than before, and remember what it reads."""
    readings = {key: one.energy_joules for key, one in group.items() if one.energy_joules is not None}
    fell = any(joules < counters.get(key, 0.0) for key, joules in readings.items())
    counters.update(readings)
    return fell


def _merged(lines: list[Line], resolution_seconds: float) -> list[Line]:
    kept: list[Line] = []
    last: dict[str, float] = {}
    counters: dict[str, float] = {}
    open_group: dict[str, Rollup] | None = None
    open_time = 0.0
    for line in lines:
        if "d" not in line or "edge" in line:
            if open_group is not None:
                kept.append(sample_line(open_time, open_group))
                open_group = None
            kept.append(line)
            if "d" in line:
                edge = dict(rollups_of(line, last))
                last.update({key: one.end_seconds for key, one in edge.items()})
                _falls(counters, edge)
            continue
        group = dict(rollups_of(line, last))
        last.update({key: one.end_seconds for key, one in group.items()})
        if _falls(counters, group):  # a reset stays a sample of its own: its power bridges it, and no more
            if open_group is not None:
                kept.append(sample_line(open_time, open_group))
                open_group = None
            kept.append(line)
            continue
        if open_group is not None and _mergeable(open_group, group, resolution_seconds):
            open_group |= {key: merge(open_group[key], one) if key in open_group else one for key, one in group.items()}
        else:
            if open_group is not None:
                kept.append(sample_line(open_time, open_group))
            open_group = group
        open_time = line["t"]
    if open_group is not None:
        kept.append(sample_line(open_time, open_group))
    return kept


def _edges(lines: list[Line]) -> int:
    return sum("edge" in line or "begin" in line or "end" in line for line in lines)


def compact(writer: TraceWriter, limit_bytes: int = LIMIT_BYTES, resolution_seconds: float = 2.0) -> float:
    """Shrink a trace to at most half of its limit, as far as merging goes.

    Args:
        writer: the trace, which only this process writes.
        limit_bytes: its limit.
        resolution_seconds: where to start: samples are merged up to this long.

    Returns:
        The resolution at which it fitted.
    """
    size = writer.size_bytes or 1
    lines = _once(read_lines(writer.path, size))
    samples, spans = len(lines), MAX_SPANS
    lines = _limit_phases(lines, spans)
    # Samples at edges are never merged: where they alone are too many, there are too many phases.
    while _edges(lines) / samples * size > limit_bytes / 4 and spans > 16:
        spans //= 2
        lines = _limit_phases(lines, spans)
    while True:
        lines = _merged(lines, resolution_seconds)
        if len(lines) / samples * size <= limit_bytes / 2 or resolution_seconds > 1e6:
            break
        resolution_seconds *= 2
    writer.replace(lines, size)
    return resolution_seconds
