"""Traces to the measured part of a run record: attempts, devices, phases, timeline, and what an endpoint served.

No process has to be alive. The clock of a run is seconds of billed time since its start; attempts are laid end to end
on it.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from greenml.accounting import hourly, totals
from greenml.energy import integrate
from greenml.energy.integrate import EnergyCurve
from greenml.energy.usage import Joined, Part, Phase, Span, timeline, union, usage
from greenml.errors import RecordError
from greenml.factors.types import IntensitySeries
from greenml.record.schema import (
    AttemptRecord,
    DeviceRecord,
    Environment,
    Factors,
    Host,
    Note,
    PlaceRecord,
    Quantity,
    RunRecord,
    ServingGroup,
    ServingRecord,
    Status,
    Usage,
)
from greenml.run.serving.ledger import Attributed, Group
from greenml.run.serving.ledger import Totals as ServingTotals
from greenml.trace import file as trace_file
from greenml.trace import trace_paths
from greenml.trace.types import Trace

METHODS = ("counter", "estimate", "gauge", None)  # of a device that processes saw in different ways, the first counts
UNCOVERED_SECONDS = 2.0  # a device that misses more than this of the run is noted


DeviceKey = tuple[str, str]  # the name of its machine, and its id


def _parts(attempts: Sequence[Attempt]) -> tuple[dict[DeviceKey, list[Part]], list[Note]]:
    """Build each device's curve in each attempt, from all processes that measured it."""
    parts: dict[DeviceKey, list[Part]] = defaultdict(list)
    notes: list[Note] = []
    for attempt in attempts:
        segments: dict[DeviceKey, list[tuple[Trace, str]]] = defaultdict(list)
        for trace in attempt.traces:
            for key, device in trace.devices.items():
                segments[host(trace), device.id].append((trace, key))
        for device_key, sources in segments.items():
            sources.sort(key=lambda source: _first_seconds(*source))
            first_trace = sources[0][0]
            # As the first process saw it, but for one that could not read its energy, or not its counter.
            device = min((trace.devices[key] for trace, key in sources), key=lambda seen: METHODS.index(seen.method))
            samples = [trace.rollups.get(key, []) for trace, key in sources]
            known = integrate.curve_of(device, samples)
            rollups = sorted((rollup for segment in samples for rollup in segment), key=lambda item: item.end_seconds)
            ends = [rollup.end_seconds for rollup in rollups]
            shift = attempt.shift(first_trace)
            parts[device_key].append(Part(device, shift, known, rollups, ends, attempt.span, device_key[0]))
            notes += [Note(code=code, text=text) for code, text in known.notes]
    _add_unread(parts, attempts)
    return parts, notes


@dataclass(frozen=True, slots=True)
class DatedCurve:
    """A device's energy in one attempt, by the wall clock.

    Attributes:
        curve: on its machine's clock.
        unix_offset: that clock + this = Unix seconds, as the attempt's times in the record.
    """

    curve: EnergyCurve
    unix_offset: float

    @property
    def span(self) -> Span:
        """From its first reading to its last, Unix seconds."""
        return self.curve.times_seconds[0] + self.unix_offset, self.curve.times_seconds[-1] + self.unix_offset

    def between(self, unix_start: float, unix_end: float) -> float:
        """Return the joules between two moments."""
        return self.curve.between(unix_start - self.unix_offset, unix_end - self.unix_offset)


def dated_curves(run_dir: Path) -> dict[DeviceKey, list[DatedCurve]]:
    """Return the curves of a run's devices, one an attempt, for what runs beside each other have in common.

    Raises:
        RecordError: no trace can be read.
    """
    dated: dict[DeviceKey, list[DatedCurve]] = defaultdict(list)
    for attempt in by_attempt(load(run_dir)[0]):
        for device_key, parts in _parts([attempt])[0].items():
            dated[device_key] += [
                DatedCurve(part.known.curve, part.shift - attempt.begin + attempt.unix_start)
                for part in parts
                if part.known.curve is not None
            ]
    return dict(dated)


def _first_seconds(trace: Trace, key: str) -> float:
    rollups = trace.rollups.get(key)
    return rollups[0].start_seconds if rollups else math.inf


def _add_unread(parts: Mapping[DeviceKey, list[Part]], attempts: Sequence[Attempt]) -> None:
    """Add the attempts on a device's machine in which it was not read: a gap, unless another device stood in for it.

    A device of the same kind stands in: other GPUs were chosen, or a model took the place of RAPL.
    """
    for (machine, _), device_parts in parts.items():
        device = device_parts[0].device
        for attempt in attempts:
            if machine not in attempt.hosts or any(part.life == attempt.span for part in device_parts):
                continue
            stands_in = any(
                part.known.curve is not None and part.device.kind == device.kind and part.life == attempt.span
                for (other_machine, _), other_parts in parts.items() if other_machine == machine
                for part in other_parts
            )  # fmt: skip
            if not stands_in:
                device_parts.append(Part(device, 0.0, integrate.Known(None, None), [], [], attempt.span, machine))
        device_parts.sort(key=lambda part: part.life)


def _phases(attempts: Sequence[Attempt]) -> dict[str, Phase]:
    """Return each phase as the first process that has it, by precedence, saw it."""
    phases: dict[str, Phase] = defaultdict(Phase)
    for attempt in attempts:
        seen: set[str] = set()
        for trace in attempt.traces:
            shift, paths = attempt.shift(trace), set()
            for span in trace.spans:
                if span.path in seen:
                    continue
                paths.add(span.path)
                end = span.end_seconds if span.end_seconds is not None else trace.last_seconds
                phase, on_run_clock = phases[span.path], (span.start_seconds + shift, end + shift)
                phase.count += span.count
                if span.seconds is None:
                    phase.spans.append(on_run_clock)
                else:
                    phase.joined.append(
                        Joined(
                            on_run_clock, span.seconds, span.joules or {}, host(trace), span.count,
                            span.interpolation_joules or {},
                        )
                    )  # fmt: skip
            seen |= paths
    return phases


def _time(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, timezone.utc)


def _device_record(name: str, machine: str, parts: Sequence[Part], usage: Usage) -> DeviceRecord:
    last = next((part for part in reversed(parts) if part.known.curve is not None), parts[-1])
    device = last.device
    return DeviceRecord(
        id=name,
        kind=device.kind,
        name=device.name,
        host=machine,
        method=last.known.method,
        sensor=device.sensor,
        calibration_ratio=device.calibration_ratio,
        step_seconds=device.step_seconds,
        sampled_ratio=device.sampled_ratio,
        lag_seconds=device.lag_seconds,
        share_ratio=device.share_ratio,
        power_limit_watts=device.power_limit_watts,
        memory_total_bytes=device.memory_total_bytes,
        detail=dict(device.detail),
        note=device.note,
        usage=usage,
    )


def _greenml_version(trace: Trace) -> str:
    packages = trace.facts.get("environment", {}).get("packages", {})
    return str(packages.get("greenml") or trace.header.get("greenml_version", ""))


def _index(device: DeviceRecord) -> int:
    index = device.detail.get("index", "")
    return int(index) if index.isdecimal() else 0


def assemble(run_dir: Path, series: IntensitySeries | None = None) -> tuple[RunRecord, list[Attempt]]:
    """Make the measured part of the record from whatever traces a run directory holds.

    Energy is split by the hours of ``series``; by default, of the carbon intensity that a provider answered.

    Returns:
        The record without factors and totals, and the run's attempts, in their order.

    Raises:
        RecordError: no trace can be read.
    """
    traces, notes = load(run_dir)
    attempts = by_attempt(traces)
    parts_by_key, curve_notes = _parts(attempts)
    several = len({machine for machine, _ in parts_by_key}) > 1
    names = {key: f"{key[0]}/{key[1]}" if several else key[1] for key in parts_by_key}
    parts = {names[key]: device_parts for key, device_parts in parts_by_key.items()}
    spans = [attempt.span for attempt in attempts]
    seconds = sum(attempt.seconds for attempt in attempts)
    devices = [
        _device_record(names[key], key[0], device_parts, usage(device_parts, spans))
        for key, device_parts in parts_by_key.items()
    ]
    order = ("gpu", "cpu", "dram", "host", "process")
    devices.sort(key=lambda device: (device.host, order.index(device.kind), _index(device), device.id))
    phases = _phases(attempts)
    last = attempts[-1]
    run_status, error = status(last)
    record = RunRecord(
        greenml_version=_greenml_version(last.lead),
        run_id=str(traces[0].header.get("run_id", "")),
        name=next(
            (str(trace.header["name"]) for trace in last.traces if trace.header.get("name")),
            "",
        ),
        status=run_status,
        error=error,
        started=_time(attempts[0].unix_start),
        ended=None if run_status == "running" else _time(last.unix_end),
        duration_seconds=seconds,
        attempts=[_attempt(attempt) for attempt in attempts],
        hosts=_hosts(traces),
        place=PlaceRecord(),
        devices=devices,
        phases=[phase.record(path, parts) for path, phase in phases.items()],
        factors=_hours(series, attempts, [part for device_parts in parts.values() for part in device_parts], phases),
        params=_merged(attempts, "params"),
        metrics=_merged(attempts, "metrics"),
        trainer=_trainer(attempts) | _lost_work(attempts, parts, devices),
        environment=_environment(last.lead),
        timeline=timeline(parts, seconds),
        notes=_notes(attempts, notes + curve_notes) + _gaps(devices, parts),
    )
    return record, attempts


def _hours(
    series: IntensitySeries | None, attempts: Sequence[Attempt], parts: Sequence[Part], phases: dict[str, Phase]
) -> Factors:
    """Tell the run's and each phase's energy apart by the hours of a carbon intensity."""
    traces = [trace for attempt in attempts for trace in reversed(attempt.traces)]
    series = series or hourly.joined_series(answer for trace in traces for answer in trace.intensities)
    if series is None:
        return Factors()
    windows = [hourly.AttemptWindow(attempt.begin, attempt.unix_start, attempt.seconds) for attempt in attempts]
    spans = {path: (union(phase.spans), phase.joined) for path, phase in phases.items()}
    spans["run"] = ([attempt.span for attempt in attempts], [])
    scopes = {path: hourly.uses(parts, *span) for path, span in spans.items()}
    return Factors(intensity_series=hourly.apportion(series, windows, scopes))


def _attempt(attempt: Attempt) -> AttemptRecord:
    attempt_status, error = status(attempt)
    return AttemptRecord(
        number=attempt.number,
        started=_time(attempt.unix_start),
        ended=None if attempt_status == "running" else _time(attempt.unix_end),
        seconds=attempt.seconds,
        status=attempt_status,
        error=error,
        hosts=attempt.hosts,
        processes=len(attempt.traces),
        launcher=str(attempt.lead.header.get("launcher", "")),
    )


def _hosts(traces: Sequence[Trace]) -> list[Host]:
    facts = {host(trace): trace.header.get("host_facts", {}) for trace in traces}
    return [
        Host(name=name, **{key: value for key, value in host_facts.items() if key in Host.model_fields})
        for name, host_facts in sorted(facts.items())
    ]


def _merged(attempts: Sequence[Attempt], what: str) -> dict[str, object]:
    """Merge what the processes logged: a later attempt replaces an earlier one, a lower rank a higher one."""
    merged: dict[str, object] = {}
    for attempt in attempts:
        for trace in reversed(attempt.traces):
            merged.update(getattr(trace, what))
    return merged


def _trainer(attempts: Sequence[Attempt]) -> dict[str, object]:
    """Merge what the processes logged of their trainers.

    Beside it stand ``counts`` of the work done, ``progress`` and ``history`` of the metrics over time, and
    ``disk_written_bytes``.
    """
    trainer: dict[str, object] = {}
    for attempt in attempts:
        for trace in reversed(attempt.traces):
            trainer.update(trace.facts.get("trainer", {}))
    counts = work_counts(trace for attempt in attempts for trace in attempt.traces)
    points = progress((attempt.shift, attempt.traces) for attempt in attempts)
    history = metric_history((attempt.shift, attempt.traces) for attempt in attempts)
    written = [_written(attempt) for attempt in attempts]
    if written and None not in written:
        trainer["disk_written_bytes"] = sum(value or 0.0 for value in written)
    more = {"counts": counts, "progress": points, "history": history}
    return trainer | {name: value for name, value in more.items() if value}


def _written(attempt: Attempt) -> float | None:
    """Return how much an attempt's processes wrote to disk; None where one of them did not log it.

    A parent that watches tells for all processes of its machine.
    """
    watched = {host(trace) for trace in attempt.traces if trace.header.get("watches")}
    telling = [trace for trace in attempt.traces if trace.header.get("watches") or host(trace) not in watched]
    values = [trace.facts.get("disk", {}).get("written_bytes") for trace in telling]
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(sum(numbers)) if numbers and len(numbers) == len(values) else None


def _lost_work(
    attempts: Sequence[Attempt], parts: Mapping[str, Sequence[Part]], devices: Sequence[DeviceRecord]
) -> dict[str, object]:
    """Return what earlier attempts did after the checkpoint from which a later attempt went on: it is done twice.

    An attempt's first step is that of its checkpoint, 0 where it resumed from none.
    """
    first_steps = {
        attempt.number: next(
            (done["step"] for trace in attempt.traces for _, done in trace.progress if "step" in done), None
        )
        for attempt in attempts
    }
    resumed_step: int | None = None
    spans: list[Span] = []
    unseen = False
    for attempt in reversed(attempts):
        if resumed_step is not None and first_steps[attempt.number] is not None:
            saved_seconds = _reached_seconds(attempt, resumed_step)
            unseen = unseen or (saved_seconds is None and not spans)
            if saved_seconds is not None and saved_seconds < attempt.span[1]:
                spans.append((saved_seconds, attempt.span[1]))
        step = first_steps[attempt.number]
        if step is not None:
            resumed_step = int(step) if resumed_step is None else min(resumed_step, int(step))
    last_step = next((step for step in reversed(list(first_steps.values())) if step is not None), None)
    if unseen:
        return {"lost_work": {"seconds": None, "energy_joules": None, "resumed_step": last_step}}
    if not spans:
        return {}
    phase = Phase(spans=sorted(spans)).record("lost", parts)
    by_id = {device.id: device for device in devices}
    used = [(by_id[name], device_usage) for name, device_usage in phase.usage.items()]
    joules = totals.totals("lost", phase.seconds, used, Factors(), 1).it_energy_joules.value
    return {"lost_work": {"seconds": phase.seconds, "energy_joules": joules, "resumed_step": last_step}}


def _reached_seconds(attempt: Attempt, step: int) -> float | None:
    """Return when an attempt had done a step, on the run's clock: when its checkpoint was saved, where that is known.

    Returns:
        The attempt's first moment where it began with that step, or later; its end where all that it did is kept; None
        where it did not come to that step.
    """
    lead = next((trace for trace in attempt.traces if any("step" in done for _, done in trace.progress)), None)
    if lead is None:
        return None
    steps = [(seconds, done["step"]) for seconds, done in lead.progress if "step" in done]
    if status(attempt)[0] == "completed" and (step == 0 or steps[-1][1] <= step):
        return attempt.span[1]  # another training followed, or the same one went on from its end
    if steps[0][1] >= step:
        return attempt.span[0]
    saved = [seconds for seconds, saved_step in lead.saved if saved_step == step]
    reached = [seconds for seconds, done in steps if done >= step]
    moment = saved[-1] if saved else reached[0] if reached else None
    return None if moment is None else moment + attempt.shift(lead)


def _environment(lead: Trace) -> Environment:
    facts = lead.facts.get("environment", {})
    header = lead.header
    return Environment(
        **{key: value for key, value in facts.items() if key in Environment.model_fields},
        launcher=str(header.get("launcher", "")),
        world_size=header.get("world_size"),
        jobs=dict(header.get("jobs", {})),
        command=list(header.get("command", [])),
    )


def _notes(attempts: Sequence[Attempt], notes: list[Note]) -> list[Note]:
    for attempt in attempts:
        for trace in attempt.traces:
            notes += [
                Note(code=code, text=text, seconds=round(when + attempt.shift(trace), 3))
                for when, code, text in trace.notes
            ]
            killed = trace.status is None and not trace.alive
            if killed and trace is not attempt.lead and attempt.lead.status is not None:
                process = f"process {trace.header.get('pid')} on {host(trace)}"
                text = f"{process} was killed; what it measured until then is counted"
                seconds = round(trace.last_seconds + attempt.shift(trace), 3)
                notes.append(Note(code="process-killed", text=text, seconds=seconds))
    unique = {(note.code, note.text): note for note in notes}
    return sorted(unique.values(), key=lambda note: note.seconds if note.seconds is not None else -1.0)


def _gaps(devices: Sequence[DeviceRecord], parts: Mapping[str, Sequence[Part]]) -> list[Note]:
    notes = []
    for device in devices:  # over the attempts that it took part in: in others it used nothing, or another stood in
        seconds = sum(part.life[1] - part.life[0] for part in parts[device.id])
        missed = seconds - (device.usage.covered_seconds or 0.0)
        if device.usage.energy_joules is not None and missed > UNCOVERED_SECONDS:
            text = f"{device.name} {device.id}: its energy is not known for {missed:.1f} s of {seconds:.1f} s"
            notes.append(Note(code="not-covered", text=text))
    return notes


MOST_POINTS = 200  # of a unit, or of a metric, kept in the record
MOST_METRICS = 50
Points = list[tuple[float, float]]


@dataclass(slots=True)
class Attempt:
    """One attempt of a run.

    Attributes:
        number: from 1.
        traces: of its processes, that of the lead process first.
        unix_start, unix_end: its first and last moment, by the wall clock.
        begin: its first moment on the run's clock, seconds.
        shifts: by machine, the seconds from that machine's monotonic clock to the run's.
    """

    number: int
    traces: list[Trace]
    unix_start: float = 0.0
    unix_end: float = 0.0
    begin: float = 0.0
    shifts: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.unix_end - self.unix_start

    @property
    def span(self) -> Span:
        """Its first and last moment on the run's clock."""
        return self.begin, self.begin + self.seconds

    def shift(self, trace: Trace) -> float:
        """Return the seconds from a trace's clock to the run's."""
        return self.shifts[trace_file.machine(trace.header)]

    @property
    def lead(self) -> Trace:
        """The trace of the lead process."""
        return self.traces[0]

    @property
    def hosts(self) -> list[str]:
        """The names of its machines."""
        return sorted({host(trace) for trace in self.traces})


def host(trace: Trace) -> str:
    """Return the name of a trace's machine."""
    return str(trace.header.get("host", ""))


def load(run_dir: Path) -> tuple[list[Trace], list[Note]]:
    """Read every trace of a run directory, each machine under one name; a trace that cannot be read is a note.

    Raises:
        RecordError: no trace can be read.
    """
    traces, notes = [], []
    for path in trace_paths(run_dir):
        try:
            traces.append(trace_file.read(path))
        except RecordError as error:
            notes.append(Note(code="trace-unreadable", text=str(error)))
    if not traces:
        reason = notes[0].text if notes else f"{run_dir}: no trace in it"
        raise RecordError(reason)
    damaged = {Path(trace.path).name: trace.damaged_lines for trace in traces if trace.damaged_lines}
    if damaged:
        lines = sum(damaged.values())
        what = f"{lines} damaged line{'s'[: lines > 1]} of {', '.join(damaged)}"
        text = f"{what} left out: the figures lack what they held"
        notes.append(Note(code="trace-damaged", text=text))
    return traces, notes + name_machines(traces)


def by_attempt(traces: Iterable[Trace]) -> list[Attempt]:
    """Return the attempts in their order, laid end to end."""
    by_number: dict[int, list[Trace]] = defaultdict(list)
    for trace in traces:
        by_number[int(trace.header.get("attempt", 1))].append(trace)
    attempts, begin = [], 0.0
    for number in sorted(by_number):
        attempt = Attempt(number, sorted(by_number[number], key=_precedence), begin=begin)
        anchors: dict[tuple[str, str], float] = {}
        for trace in sorted(attempt.traces, key=lambda trace: trace.header["unix_seconds"]):
            anchors.setdefault(trace_file.machine(trace.header), trace_file.anchor(trace.header))
        attempt.unix_start = min(
            anchors[trace_file.machine(trace.header)] + trace.header["start_seconds"] for trace in attempt.traces
        )
        attempt.unix_end = max(
            anchors[trace_file.machine(trace.header)] + trace.last_seconds for trace in attempt.traces
        )
        attempt.shifts = {machine: anchor - attempt.unix_start + begin for machine, anchor in anchors.items()}
        begin += attempt.seconds
        attempts.append(attempt)
    return attempts


def _precedence(trace: Trace) -> tuple[bool, int, bool, float, int]:
    return trace_file.precedence(trace.header, ended=trace.status is not None or trace.so_far is not None)


def name_machines(traces: Iterable[Trace]) -> list[Note]:
    """Give each machine one name in the headers of its traces, and return a note for one that had several host names.

    A machine has the host name of its first process by precedence. Where another machine of one of its attempts has
    that name already, the first part of its boot identifier is added.
    """
    by_machine: dict[tuple[str, str], list[Trace]] = defaultdict(list)
    for trace in sorted(traces, key=lambda trace: (int(trace.header.get("attempt", 1)), *_precedence(trace))):
        by_machine[trace_file.machine(trace.header)].append(trace)
    attempts_of_name: dict[str, set[int]] = defaultdict(set)
    notes = []
    for machine, members in by_machine.items():
        hosts = list(dict.fromkeys(host(trace) for trace in members))
        attempts = {int(trace.header.get("attempt", 1)) for trace in members}
        name = hosts[0] if not attempts & attempts_of_name[hosts[0]] else f"{hosts[0]}-{machine[1][:8]}"
        attempts_of_name[name] |= attempts
        for trace in members:
            trace.header = {**trace.header, "host": name}
        if len(hosts) > 1:
            text = f"the hosts {', '.join(hosts)} are one machine (containers on it); it counts once, as {name}"
            notes.append(Note(code="one-machine", text=text))
    return notes


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process of a run ended, by its trace.

    Attributes:
        header: of its trace.
        status, error: that it ended with; None where it never said.
        so_far: the status that it has if it says no more.
        alive: True while it runs.
    """

    header: Mapping[str, Any]
    status: str | None
    so_far: str | None
    error: str | None
    alive: bool


def status_of(processes: Sequence[ProcessEnd]) -> tuple[Status, str | None]:
    """Return the status of an attempt, and its error, from those of its processes.

    The lead process's word counts as soon as it has ended, where a launcher or ``greenml run`` made it the lead: its
    last ranks may be killed without a word. Of other processes, the last to end decides.
    """
    lead = min(
        processes,
        key=lambda process: trace_file.precedence(
            process.header, ended=process.status is not None or process.so_far is not None
        ),
    )
    appointed = bool(lead.header.get("watches")) or lead.header.get("rank") is not None
    if any(process.alive for process in processes) and not (appointed and lead.status is not None):
        return "running", None
    status = lead.status or lead.so_far or "killed"
    return status, lead.error if lead.status is not None else None  # type: ignore[return-value]  # a trace holds text


def status(attempt: Attempt) -> tuple[Status, str | None]:
    """Return the status of an attempt, and its error."""
    return status_of(
        [ProcessEnd(trace.header, trace.status, trace.so_far, trace.error, trace.alive) for trace in attempt.traces]
    )


def work_counts(traces: Iterable[Trace]) -> dict[str, float]:
    """Return the total count of each unit, summed over processes and attempts."""
    totals: dict[str, float] = {}
    for trace in traces:
        for unit, value in trace.facts.get("counts", {}).items():
            if isinstance(value, int | float):
                totals[unit] = totals.get(unit, 0.0) + value
    return totals


def progress(attempts: Iterable[tuple[Callable[[Trace], float], Sequence[Trace]]]) -> dict[str, Points]:
    """Return the cumulative count over time, by unit (``steps``, ``samples``, ``tokens``, ``epochs``).

    In each attempt, the first process that logged any progress counts, so samples and tokens are its own.

    Args:
        attempts: in order, each the function from a trace's clock to the run's, and its traces, that of the lead
            process first.

    Returns:
        (seconds of the run's clock, units done so far), rising in both, at most ``MOST_POINTS`` of a unit. Later
        attempts go on where earlier ones ended.
    """
    by_unit: dict[str, Points] = {}
    for shift, traces in attempts:
        lead = next((trace for trace in traces if trace.progress), None)
        if lead is None:
            continue
        before = {unit: points[-1][1] for unit, points in by_unit.items()}
        for unit, points in _points(lead).items():
            known = by_unit.setdefault(unit, [])
            for at, value in points:
                point = (round(at + shift(lead), 3), before.get(unit, 0.0) + value)
                if not known or (point[0] > known[-1][0] and point[1] > known[-1][1]):
                    known.append(point)
    return {unit: _thinned(points) for unit, points in by_unit.items() if len(points) > 1}


def metric_history(attempts: Iterable[tuple[Callable[[Trace], float], Sequence[Trace]]]) -> dict[str, Points]:
    """Return the metrics over time, by name: those that were logged with more than one value.

    In each attempt, the first process that logged any metric counts.

    Args:
        attempts: as for ``progress``.

    Returns:
        (seconds of the run's clock, value) of each change, at most ``MOST_POINTS`` of a metric.
    """
    by_name: dict[str, Points] = {}
    for shift, traces in attempts:
        lead = next((trace for trace in traces if trace.logged), None)
        for at, metrics in lead.logged if lead is not None else ():
            for name, value in metrics.items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    continue
                known = by_name.setdefault(name, [])
                if lead is not None and (not known or known[-1][1] != value):
                    known.append((round(at + shift(lead), 3), float(value)))
    changed = {name: _thinned(points) for name, points in by_name.items() if len(points) > 1}
    return dict(list(changed.items())[:MOST_METRICS])


def _points(trace: Trace) -> dict[str, Points]:
    by_unit: dict[str, Points] = {}
    for at, done in trace.progress:
        for unit, value in done.items():
            if isinstance(value, int | float):
                by_unit.setdefault(unit, []).append((at, float(value)))
    if "step" in by_unit:  # of the whole training: what a checkpoint held already was not done in this attempt
        steps = by_unit.pop("step")
        by_unit["steps"] = [(at, step - steps[0][1]) for at, step in steps]
    return by_unit


def _thinned(points: Points) -> Points:
    """Return at most ``MOST_POINTS``, evenly chosen, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    stride = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(at * stride)] for at in range(MOST_POINTS)]


# What an endpoint served: its workers' totals, as the traces hold them, beside the energy of the devices.


def serving_record(traces: Iterable[Trace], device_joules: Quantity) -> ServingRecord | None:
    """Return what the requests of a run used; None where it served none.

    The energy that was used without a request is the devices' total without that of requests: what was read after the
    last window was settled is in it.

    Args:
        traces: of all attempts.
        device_joules: of the run.
    """
    machines = list(machine_totals(traces))
    if not machines:
        return None
    used, idle = _sum(machine.used for machine in machines), _sum(machine.idle for machine in machines)
    groups: dict[tuple[str, str], list[Group]] = {}
    for machine in machines:
        for key, group in machine.groups.items():
            groups.setdefault(key, []).append(group)
    requests: dict[str, int] = {}
    for group in (group for parts in groups.values() for group in parts):
        for status, count in group.requests.items():
            requests[status] = requests.get(status, 0) + count
    known = any(machine.seconds > machine.unknown_seconds for machine in machines) and device_joules.value is not None
    each = [group for parts in groups.values() for group in parts]
    count, settled = sum(requests.values()), sum(group.settled for group in each)
    why = f"without {count - settled:,} of {count:,} requests" if known and settled < count else ""
    basis = device_joules.basis
    energy = _quantity(used, known, basis)
    idle_joules = max(0.0, (device_joules.value or 0.0) - (energy.value or 0.0))
    down, up = _half_widths(idle)
    if why:  # what no window gave to anybody may be theirs or not
        unsettled = max(0.0, idle_joules - (idle.joules or 0.0))
        down += unsettled
        high = None if energy.high is None else energy.high + unsettled
        energy = energy.model_copy(update={"high": high, "why": why})
    return ServingRecord(
        requests=requests,
        request_energy_joules=energy,
        idle_energy_joules=Quantity(
            value=idle_joules, low=max(0.0, idle_joules - down), high=idle_joules + up, basis=basis, why=why
        )
        if known
        else _unknown(),
        seconds=sum(machine.seconds for machine in machines),
        idle_seconds=sum(machine.idle_seconds for machine in machines),
        token_seconds=sum(machine.token_seconds for machine in machines),
        emissions_grams=used.grams, idle_emissions_grams=idle.grams, cost_usd=used.usd, idle_cost_usd=idle.usd,
        joules_per_request=_mean(
            sum(group.joules_settled for group in each), settled, energy,
            "no request ended whose energy is known",
        ),
        joules_per_token=_mean(
            sum(group.token_joules for group in each), sum(group.tokens_settled for group in each), energy,
            "no request said how many tokens it read or made",
        ),
        groups=[_serving_group(*key, parts, known, basis) for key, parts in groups.items()],
    )  # fmt: skip


def machine_totals(traces: Iterable[Trace]) -> Iterable[ServingTotals]:
    """Return the last totals of each machine in each attempt.

    Within an attempt, workers that settled one after the other went on from each other's.
    """
    latest: dict[tuple[int, tuple[str, str]], ServingTotals] = {}
    for trace in traces:
        with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):  # damaged
            machine = ServingTotals.of_json(trace.facts["serving"])
            key = int(trace.header.get("attempt", 1)), trace_file.machine(trace.header)
            earlier = latest.get(key)
            if earlier is None or (machine.until_seconds or 0.0) >= (earlier.until_seconds or 0.0):
                latest[key] = machine
    return latest.values()


def _sum(parts: Iterable[Attributed]) -> Attributed:
    """Return the sum over machines: shared errors add, independent ones add in squares."""
    total = Attributed()
    for part in parts:
        total.joules = (total.joules or 0.0) + (part.joules or 0.0)
        for name in ("low_joules", "high_joules", "calibration_joules", "random_squared", "coverage_low_joules",
                     "coverage_high_joules", "seconds", "grams_joules", "usd_seconds"):  # fmt: skip
            setattr(total, name, getattr(total, name) + getattr(part, name))
        for name in ("known_grams", "known_usd"):
            known = [value for value in (getattr(total, name), getattr(part, name)) if value is not None]
            setattr(total, name, sum(known) if known else None)
        total.grams_ratio = max(total.grams_ratio, part.grams_ratio)
    return total


def _serving_group(model: str, kind: str, parts: list[Group], known: bool, basis: str) -> ServingGroup:
    used = _sum(part.used for part in parts)
    requests = {status: sum(part.requests.get(status, 0) for part in parts) for status in Group().requests}
    with_tokens = any(part.with_tokens for part in parts)
    return ServingGroup(
        model=model, kind=kind, requests=requests,
        input_tokens=sum(part.input_tokens for part in parts) if with_tokens else None,
        output_tokens=sum(part.output_tokens for part in parts) if with_tokens else None,
        energy_joules=_quantity(used, known, basis), emissions_grams=used.grams, cost_usd=used.usd,
    )  # fmt: skip


def _half_widths(used: Attributed) -> tuple[float, float]:
    interval, joules = used.interval(), used.joules or 0.0
    return (0.0, 0.0) if interval is None else (joules - interval[0], interval[1] - joules)


def _quantity(used: Attributed, known: bool, basis: str) -> Quantity:
    interval = used.interval()
    if not known or interval is None:
        return _unknown()
    return Quantity(value=used.joules, low=interval[0], high=interval[1], basis=basis)


def _unknown() -> Quantity:
    return Quantity(value=None, basis="measured", why="the energy of no device is known")


def _mean(joules: float, count: int, energy: Quantity, why: str) -> Quantity:
    """Return the joules of each of several requests or tokens, as sure as the energy of all requests."""
    if energy.value is None or not count:
        return Quantity(value=None, basis=energy.basis, why=why if energy.value is not None else energy.why)
    scale = joules / energy.value if energy.value else 0.0
    return Quantity(
        value=joules / count, low=None if energy.low is None else energy.low * scale / count,
        high=None if energy.high is None else energy.high * scale / count, basis=energy.basis, why=energy.why,
    )  # fmt: skip
