"""Traces to the measured part of a run record: attempts, devices, phases, timeline. Nobody has to be alive.

Attempts are laid end to end on one clock, the run's: seconds of billed time since its start.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from greenml import energy, trace
from greenml.errors import RecordError
from greenml.model import Rollup, Trace
from greenml.record import (
    Attempt,
    DeviceRecord,
    Environment,
    Factors,
    Host,
    Note,
    PlaceRecord,
    RunRecord,
    Status,
    Usage,
)
from greenml.usages import Joined, Part, Phase, Span, timeline, usage

UNCOVERED_SECONDS = 2.0  # a device that misses more than this of the run is noted


@dataclass(slots=True)
class _Try:
    """An attempt: its traces, when it began (unix), where it lies on the run's clock."""

    number: int
    traces: list[Trace]
    unix_start: float = 0.0
    unix_end: float = 0.0
    begin: float = 0.0
    shifts: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.unix_end - self.unix_start

    @property
    def life(self) -> Span:
        return self.begin, self.begin + self.seconds

    def shift(self, one: Trace) -> float:
        return self.shifts[_clock(one)]

    @property
    def lead(self) -> Trace:
        return min(self.traces, key=_precedence)


def _clock(one: Trace) -> tuple[str, str]:
    return str(one.header.get("host", "")), str(one.header.get("boot_id", ""))


def _precedence(one: Trace) -> tuple[int, int, bool, float]:
    """Order processes by who speaks for the run: a parent that watches, then rank 0, then who ended, then who began."""
    header = one.header
    silent = one.status is None and one.so_far is None
    return (0 if header.get("watches") else 1, header.get("rank") or 0, silent, header.get("unix_seconds", 0.0))


def load(run_dir: Path) -> tuple[list[Trace], list[Note]]:
    """Read every trace of a run directory; one that cannot be read is a note.

    Raises:
        RecordError: there is none that can.
    """
    traces, notes = [], []
    for path in trace.paths(run_dir):
        try:
            one = trace.read(path)
            if not {"start_seconds", "unix_seconds"} <= one.header.keys():
                raise RecordError(f"{path}: not a trace (its header does not tell when it began)")
            traces.append(one)
        except RecordError as error:
            notes.append(Note(code="trace-unreadable", text=str(error)))
    if not traces:
        reason = notes[0].text if notes else f"{run_dir}: no trace in it"
        raise RecordError(reason)
    return traces, notes


def _tries(traces: Iterable[Trace]) -> list[_Try]:
    by_number: dict[int, list[Trace]] = defaultdict(list)
    for one in traces:
        by_number[int(one.header.get("attempt", 1))].append(one)
    tries, begin = [], 0.0
    for number in sorted(by_number):
        a_try = _Try(number, by_number[number], begin=begin)
        offsets: dict[tuple[str, str], float] = {}
        for one in sorted(a_try.traces, key=lambda item: item.header["unix_seconds"]):
            offsets.setdefault(_clock(one), trace.anchor(one.header))
        a_try.unix_start = min(offsets[_clock(one)] + one.header["start_seconds"] for one in a_try.traces)
        a_try.unix_end = max(offsets[_clock(one)] + one.last_seconds for one in a_try.traces)
        a_try.shifts = {clock: offset - a_try.unix_start + begin for clock, offset in offsets.items()}
        begin += a_try.seconds
        tries.append(a_try)
    return tries


def _parts(tries: Sequence[_Try]) -> tuple[dict[tuple[str, str], list[Part]], list[Note]]:
    """Build each device's curve in each attempt, from all processes that measured it."""
    parts: dict[tuple[str, str], list[Part]] = defaultdict(list)
    notes: list[Note] = []
    for a_try in tries:
        segments: dict[tuple[str, str], list[tuple[Trace, str]]] = defaultdict(list)
        for one in a_try.traces:
            for key in one.devices:
                segments[_clock(one)[0], one.devices[key].id].append((one, key))
        for place, held in segments.items():
            held.sort(key=lambda item: (item[0].rollups.get(item[1]) or [Rollup(math.inf, math.inf)])[0].start_seconds)
            device = held[0][0].devices[held[0][1]]
            samples = [one.rollups.get(key, []) for one, key in held]
            known = energy.curve_of(device, samples)
            rollups = sorted((item for segment in samples for item in segment), key=lambda item: item.end_seconds)
            shift = a_try.shift(held[0][0])
            parts[place].append(Part(device, shift, known, rollups, [item.end_seconds for item in rollups], a_try.life))
            notes += [Note(code=code, text=text) for code, text in known.notes]
    return parts, notes


def _phases(tries: Sequence[_Try]) -> dict[str, Phase]:
    """Return each phase as the lowest rank that has it saw it."""
    phases: dict[str, Phase] = defaultdict(Phase)
    for a_try in tries:
        seen: set[str] = set()
        for one in sorted(a_try.traces, key=_precedence):
            shift, here = a_try.shift(one), set()
            for span in one.spans:
                if span.path in seen:
                    continue
                here.add(span.path)
                end = span.end_seconds if span.end_seconds is not None else one.last_seconds
                phase, around = phases[span.path], (span.start_seconds + shift, end + shift)
                phase.count += span.count
                if span.seconds is None:
                    phase.spans.append(around)
                else:
                    phase.joined.append(Joined(around, span.seconds, span.joules or {}))
            seen |= here
    return phases


def _status(tries: Sequence[_Try], a_try: _Try) -> tuple[Status, str | None]:
    if any(one.alive for one in a_try.traces):
        return "running", None
    lead = a_try.lead
    if lead.status is None:
        return lead.so_far or "killed", None  # type: ignore[return-value]  # a trace holds text
    return lead.status, lead.error  # type: ignore[return-value]  # a trace holds text


def _time(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, timezone.utc)


def _device_record(name: str, host: str, parts: Sequence[Part], usage: Usage) -> DeviceRecord:
    device = parts[-1].device
    return DeviceRecord(
        id=name,
        kind=device.kind,
        name=device.name,
        host=host,
        method=parts[-1].known.method,
        sensor=device.sensor,
        gain_ratio=device.gain_ratio,
        step_seconds=device.step_seconds,
        seen_ratio=device.seen_ratio,
        share_ratio=device.share_ratio,
        power_limit_watts=device.power_limit_watts,
        memory_total_bytes=device.memory_total_bytes,
        detail=dict(device.detail),
        note=device.note,
        usage=usage,
    )


def assemble(run_dir: Path) -> tuple[RunRecord, list[Trace]]:
    """Make the measured part of the record from whatever traces a run directory holds.

    Returns:
        The record without factors and totals, and the last attempt's traces, the one that speaks for the run first.

    Raises:
        RecordError: there is no trace that can be read.
    """
    traces, notes = load(run_dir)
    tries = _tries(traces)
    places, found = _parts(tries)
    several = len({host for host, _ in places}) > 1
    parts = {(f"{host}/{one}" if several else one): own for (host, one), own in places.items()}
    hosts = {(f"{host}/{one}" if several else one): host for host, one in places}
    whole = [a_try.life for a_try in tries]
    seconds = sum(a_try.seconds for a_try in tries)
    devices = [_device_record(name, hosts[name], own, usage(own, whole)) for name, own in parts.items()]
    order = ("gpu", "cpu", "dram", "host", "process")
    devices.sort(key=lambda one: (one.host, order.index(one.kind), int(one.detail.get("index", 0) or 0), one.id))
    last = tries[-1]
    status, error = _status(tries, last)
    made = RunRecord(
        greenml_version=str(last.lead.header.get("greenml_version", "")),
        run_id=str(traces[0].header.get("run_id", "")),
        name=next(
            (str(one.header["name"]) for one in sorted(last.traces, key=_precedence) if one.header.get("name")), ""
        ),
        status=status,
        error=error,
        started=_time(tries[0].unix_start),
        ended=None if status == "running" else _time(last.unix_end),
        duration_seconds=seconds,
        attempts=[_attempt(tries, a_try) for a_try in tries],
        hosts=_hosts(traces),
        place=PlaceRecord(),
        devices=devices,
        phases=[phase.record(path, parts) for path, phase in _phases(tries).items()],
        factors=Factors(),
        params=_merged(tries, "params"),
        metrics=_merged(tries, "metrics"),
        trainer=_trainer(tries),
        environment=_environment(last.lead),
        timeline=timeline(parts, seconds),
        notes=_notes(tries, notes + found) + _gaps(devices, seconds),
    )
    return made, sorted(last.traces, key=_precedence)


def _attempt(tries: Sequence[_Try], a_try: _Try) -> Attempt:
    status, error = _status(tries, a_try)
    return Attempt(
        number=a_try.number,
        started=_time(a_try.unix_start),
        ended=None if status == "running" else _time(a_try.unix_end),
        seconds=a_try.seconds,
        status=status,
        error=error,
        hosts=sorted({_clock(one)[0] for one in a_try.traces}),
        processes=len(a_try.traces),
        launcher=str(a_try.lead.header.get("launcher", "")),
    )


def _hosts(traces: Sequence[Trace]) -> list[Host]:
    facts = {_clock(one)[0]: one.header.get("host_facts", {}) for one in traces}
    return [
        Host(name=name, **{key: value for key, value in own.items() if key in Host.model_fields})
        for name, own in sorted(facts.items())
    ]


def _merged(tries: Sequence[_Try], what: str) -> dict[str, object]:
    """Merge what the processes logged: a later attempt replaces an earlier one, a lower rank a higher one."""
    merged: dict[str, object] = {}
    for a_try in tries:
        for one in sorted(a_try.traces, key=_precedence, reverse=True):
            merged.update(getattr(one, what))
    return merged


def _trainer(tries: Sequence[_Try]) -> dict[str, object]:
    """Merge what the trainers told of themselves; counts are summed over processes and attempts."""
    told: dict[str, object] = {}
    counts: dict[str, float] = defaultdict(float)
    for a_try in tries:
        for one in sorted(a_try.traces, key=_precedence, reverse=True):
            told.update(one.found.get("trainer", {}))
            for name, value in one.found.get("counts", {}).items():
                counts[name] += value
    return told | ({"counts": dict(counts)} if counts else {})


def _environment(lead: Trace) -> Environment:
    found = lead.found.get("environment", {})
    own = {key: value for key, value in found.items() if key in Environment.model_fields}
    header = lead.header
    return Environment(
        **own,
        launcher=str(header.get("launcher", "")),
        world_size=header.get("world_size"),
        jobs=dict(header.get("jobs", {})),
        command=list(header.get("command", [])),
    )


def _notes(tries: Sequence[_Try], notes: list[Note]) -> list[Note]:
    for a_try in tries:
        for one in a_try.traces:
            notes += [
                Note(code=code, text=text, seconds=round(when + a_try.shift(one), 3)) for when, code, text in one.notes
            ]
            if one.status is None and not one.alive and one is not a_try.lead and a_try.lead.status is not None:
                who = f"process {one.header.get('pid')} on {_clock(one)[0]}"
                text = f"{who} ended without a word; what it measured counts up to then"
                notes.append(
                    Note(
                        code="process-killed",
                        text=text,
                        seconds=round(one.last_seconds + a_try.shift(one), 3),
                    )
                )
    unique = {(note.code, note.text): note for note in notes}
    return sorted(unique.values(), key=lambda note: note.seconds if note.seconds is not None else -1.0)


def _gaps(devices: Sequence[DeviceRecord], seconds: float) -> list[Note]:
    notes = []
    for one in devices:
        missed = seconds - (one.usage.covered_seconds or 0.0)
        if one.usage.energy_joules is not None and missed > UNCOVERED_SECONDS:
            text = f"{one.name} {one.id}: its energy is not known for {missed:.1f} s of {seconds:.1f} s"
            notes.append(Note(code="not-covered", text=text))
    return notes
