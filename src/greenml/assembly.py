"""Traces to the measured part of a run record: attempts, devices, phases, timeline. Nobody has to be alive."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from greenml import attempts, carbon_hours, energy, pace
from greenml.attempts import Try
from greenml.facts import IntensityCourse
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
    Usage,
)
from greenml.usages import Joined, Part, Phase, timeline, union, usage

UNCOVERED_SECONDS = 2.0  # a device that misses more than this of the run is noted


def _parts(tries: Sequence[Try]) -> tuple[dict[tuple[str, str], list[Part]], list[Note]]:
    """Build each device's curve in each attempt, from all processes that measured it."""
    parts: dict[tuple[str, str], list[Part]] = defaultdict(list)
    notes: list[Note] = []
    for a_try in tries:
        segments: dict[tuple[str, str], list[tuple[Trace, str]]] = defaultdict(list)
        for one in a_try.traces:
            for key in one.devices:
                segments[attempts.clock(one)[0], one.devices[key].id].append((one, key))
        for place, held in segments.items():
            held.sort(key=lambda item: (item[0].rollups.get(item[1]) or [Rollup(math.inf, math.inf)])[0].start_seconds)
            device = held[0][0].devices[held[0][1]]
            samples = [one.rollups.get(key, []) for one, key in held]
            known = energy.curve_of(device, samples)
            rollups = sorted((item for segment in samples for item in segment), key=lambda item: item.end_seconds)
            shift = a_try.shift(held[0][0])
            ends = [item.end_seconds for item in rollups]
            parts[place].append(Part(device, shift, known, rollups, ends, a_try.life, place[0]))
            notes += [Note(code=code, text=text) for code, text in known.notes]
    _add_unread(parts, tries)
    return parts, notes


def _add_unread(parts: Mapping[tuple[str, str], list[Part]], tries: Sequence[Try]) -> None:
    """Add attempts on a device's host in which it was not there: its time is a gap, if nothing stood in for it.

    Another device of its kind stands in: other GPUs were chosen, or a model took the place of RAPL.
    """
    for (host, _), own in parts.items():
        device = own[0].device
        for a_try in tries:
            here = any(attempts.clock(one)[0] == host for one in a_try.traces)
            if not here or any(one.life == a_try.life for one in own):
                continue
            instead = (
                part.known.curve is not None and part.device.kind == device.kind and part.life == a_try.life
                for (other, _), theirs in parts.items() if other == host for part in theirs
            )  # fmt: skip
            if not any(instead):
                own.append(Part(device, 0.0, energy.Known(None, None), [], [], a_try.life, host))
        own.sort(key=lambda one: one.life)


def _phases(tries: Sequence[Try]) -> dict[str, Phase]:
    """Return each phase as the lowest rank that has it saw it."""
    phases: dict[str, Phase] = defaultdict(Phase)
    for a_try in tries:
        seen: set[str] = set()
        for one in a_try.speakers:
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
                    host = attempts.clock(one)[0]
                    phase.joined.append(Joined(around, span.seconds, span.joules or {}, host, span.count))
            seen |= here
    return phases


def _time(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, timezone.utc)


def _device_record(name: str, host: str, parts: Sequence[Part], usage: Usage) -> DeviceRecord:
    last = next((one for one in reversed(parts) if one.known.curve is not None), parts[-1])
    device = last.device
    return DeviceRecord(
        id=name,
        kind=device.kind,
        name=device.name,
        host=host,
        method=last.known.method,
        sensor=device.sensor,
        gain_ratio=device.gain_ratio,
        step_seconds=device.step_seconds,
        seen_ratio=device.seen_ratio,
        lag_seconds=device.lag_seconds,
        share_ratio=device.share_ratio,
        power_limit_watts=device.power_limit_watts,
        memory_total_bytes=device.memory_total_bytes,
        detail=dict(device.detail),
        note=device.note,
        usage=usage,
    )


def assemble(run_dir: Path, course: IntensityCourse | None = None) -> tuple[RunRecord, list[Trace]]:
    """Make the measured part of the record from whatever traces a run directory holds.

    Energy is told apart by the hours of ``course``, by default of the carbon intensity that was asked for as it ran.

    Returns:
        The record without factors and totals, and the last attempt's traces, the one that speaks for the run first.

    Raises:
        RecordError: there is no trace that can be read.
    """
    traces, notes = attempts.load(run_dir)
    tries = attempts.by_attempt(traces)
    places, found = _parts(tries)
    several = len({host for host, _ in places}) > 1
    parts = {(f"{host}/{one}" if several else one): own for (host, one), own in places.items()}
    hosts = {(f"{host}/{one}" if several else one): host for host, one in places}
    whole = [a_try.life for a_try in tries]
    seconds = sum(a_try.seconds for a_try in tries)
    devices = [_device_record(name, hosts[name], own, usage(own, whole)) for name, own in parts.items()]
    order = ("gpu", "cpu", "dram", "host", "process")
    devices.sort(key=lambda one: (one.host, order.index(one.kind), int(one.detail.get("index", 0) or 0), one.id))
    phases = _phases(tries)
    last = tries[-1]
    status, error = attempts.status(tries, last)
    made = RunRecord(
        greenml_version=str(last.lead.header.get("greenml_version", "")),
        run_id=str(traces[0].header.get("run_id", "")),
        name=next(
            (str(one.header["name"]) for one in last.speakers if one.header.get("name")),
            "",
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
        phases=[phase.record(path, parts) for path, phase in phases.items()],
        factors=_hours(course, tries, [part for own in parts.values() for part in own], phases),
        params=_merged(tries, "params"),
        metrics=_merged(tries, "metrics"),
        trainer=_trainer(tries),
        environment=_environment(last.lead),
        timeline=timeline(parts, seconds),
        notes=_notes(tries, notes + found) + _gaps(devices, tries),
    )
    return made, last.speakers


def _hours(
    course: IntensityCourse | None, tries: Sequence[Try], parts: Sequence[Part], phases: dict[str, Phase]
) -> Factors:
    """Tell the run's and each phase's energy apart by the hours of a carbon intensity."""
    told = [one for a_try in tries for one in reversed(a_try.speakers)]
    course = course or carbon_hours.whole_course(answer for one in told for answer in one.courses)
    if course is None:
        return Factors()
    stays = [carbon_hours.Stay(one.begin, one.unix_start, one.seconds) for one in tries]
    spans = {path: (union(phase.spans), phase.joined) for path, phase in phases.items()}
    spans["run"] = ([one.life for one in tries], [])
    scopes = {path: carbon_hours.uses(parts, *one) for path, one in spans.items()}
    return Factors(intensity_course=carbon_hours.apportion(course, stays, scopes))


def _attempt(tries: Sequence[Try], a_try: Try) -> Attempt:
    status, error = attempts.status(tries, a_try)
    return Attempt(
        number=a_try.number,
        started=_time(a_try.unix_start),
        ended=None if status == "running" else _time(a_try.unix_end),
        seconds=a_try.seconds,
        status=status,
        error=error,
        hosts=sorted({attempts.clock(one)[0] for one in a_try.traces}),
        processes=len(a_try.traces),
        launcher=str(a_try.lead.header.get("launcher", "")),
    )


def _hosts(traces: Sequence[Trace]) -> list[Host]:
    facts = {attempts.clock(one)[0]: one.header.get("host_facts", {}) for one in traces}
    return [
        Host(name=name, **{key: value for key, value in own.items() if key in Host.model_fields})
        for name, own in sorted(facts.items())
    ]


def _merged(tries: Sequence[Try], what: str) -> dict[str, object]:
    """Merge what the processes logged: a later attempt replaces an earlier one, a lower rank a higher one."""
    merged: dict[str, object] = {}
    for a_try in tries:
        for one in reversed(a_try.speakers):
            merged.update(getattr(one, what))
    return merged


def _trainer(tries: Sequence[Try]) -> dict[str, object]:
    """Merge what the trainers told of themselves, with how much was done, and when."""
    told: dict[str, object] = {}
    for a_try in tries:
        for one in reversed(a_try.speakers):
            told.update(one.found.get("trainer", {}))
    counts = pace.counts(one for a_try in tries for one in a_try.traces)
    progress = pace.series((a_try.shift, a_try.speakers) for a_try in tries)
    return told | ({"counts": counts} if counts else {}) | ({"progress": progress} if progress else {})


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


def _notes(tries: Sequence[Try], notes: list[Note]) -> list[Note]:
    for a_try in tries:
        for one in a_try.traces:
            notes += [
                Note(code=code, text=text, seconds=round(when + a_try.shift(one), 3)) for when, code, text in one.notes
            ]
            if one.status is None and not one.alive and one is not a_try.lead and a_try.lead.status is not None:
                who = f"process {one.header.get('pid')} on {attempts.clock(one)[0]}"
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


def _gaps(devices: Sequence[DeviceRecord], tries: Sequence[Try]) -> list[Note]:
    notes = []
    for one in devices:  # over the attempts that its host took part in: where it was not, it used nothing
        seconds = sum(each.seconds for each in tries if any(one.host == attempts.clock(own)[0] for own in each.traces))
        missed = seconds - (one.usage.covered_seconds or 0.0)
        if one.usage.energy_joules is not None and missed > UNCOVERED_SECONDS:
            text = f"{one.name} {one.id}: its energy is not known for {missed:.1f} s of {seconds:.1f} s"
            notes.append(Note(code="not-covered", text=text))
    return notes
