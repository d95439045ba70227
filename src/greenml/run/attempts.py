"""The traces of a run by attempt, and the clock that they share: seconds of billed time since the run's start.

Attempts are laid end to end on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenml.energy.usage import Span
from greenml.errors import RecordError
from greenml.record.schema import Note, Status
from greenml.trace import file as trace_file
from greenml.trace.types import Trace


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
    for path in trace_file.paths(run_dir):
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
