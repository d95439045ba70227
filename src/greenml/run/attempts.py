"""The traces of a run by attempt: their shared clock, how each ended, and the work and metrics that they logged.

The clock is seconds of billed time since the run's start; attempts are laid end to end on it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenml.energy.usage import Span
from greenml.errors import RecordError
from greenml.record.schema import Note, Status
from greenml.trace import file as trace_file
from greenml.trace.folder import trace_paths
from greenml.trace.types import Trace

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
