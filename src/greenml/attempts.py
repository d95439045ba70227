"""The traces of a run by attempt, and the clock that they share: seconds of billed time since the run's start.

Attempts are laid end to end on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from greenml import trace
from greenml.errors import RecordError
from greenml.model import Trace
from greenml.record import Note, Status
from greenml.usages import Span


@dataclass(slots=True)
class Try:
    """An attempt.

    Attributes:
        number: 1 for the first.
        traces: of its processes, in no order.
        unix_start, unix_end: its first and last moment, by the wall clock.
        begin: its first moment on the run's clock, seconds.
        shifts: by host and boot: from that monotonic clock to the run's, seconds.
    """

    number: int
    traces: list[Trace]
    unix_start: float = 0.0
    unix_end: float = 0.0
    begin: float = 0.0
    shifts: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Return how long it lasted."""
        return self.unix_end - self.unix_start

    @property
    def life(self) -> Span:
        """Return it on the run's clock."""
        return self.begin, self.begin + self.seconds

    def shift(self, one: Trace) -> float:
        """Return the seconds from a trace's clock to the run's."""
        return self.shifts[clock(one)]

    @property
    def speakers(self) -> list[Trace]:
        """Return its traces, the one that speaks for the run first."""
        return sorted(self.traces, key=_precedence)

    @property
    def lead(self) -> Trace:
        """Return the trace that speaks for the run."""
        return min(self.traces, key=_precedence)


def clock(one: Trace) -> tuple[str, str]:
    """Return what tells a trace's monotonic clock from others: its host, and when that was booted."""
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


def by_attempt(traces: Iterable[Trace]) -> list[Try]:
    """Return the attempts in their order, laid end to end."""
    by_number: dict[int, list[Trace]] = defaultdict(list)
    for one in traces:
        by_number[int(one.header.get("attempt", 1))].append(one)
    tries, begin = [], 0.0
    for number in sorted(by_number):
        a_try = Try(number, by_number[number], begin=begin)
        _tell_hosts_apart(a_try.traces)
        offsets: dict[tuple[str, str], float] = {}
        for one in sorted(a_try.traces, key=lambda item: item.header["unix_seconds"]):
            offsets.setdefault(clock(one), trace.anchor(one.header))
        a_try.unix_start = min(offsets[clock(one)] + one.header["start_seconds"] for one in a_try.traces)
        a_try.unix_end = max(offsets[clock(one)] + one.last_seconds for one in a_try.traces)
        a_try.shifts = {place: offset - a_try.unix_start + begin for place, offset in offsets.items()}
        begin += a_try.seconds
        tries.append(a_try)
    return tries


def _tell_hosts_apart(traces: Iterable[Trace]) -> None:
    """Give machines of one attempt that go by one name names of their own: a later one's boot is added to it."""
    boots: dict[str, str] = {}
    for one in sorted(traces, key=lambda item: item.header["unix_seconds"]):
        host, boot = clock(one)
        if boots.setdefault(host, boot) != boot:
            one.header = {**one.header, "host": f"{host}-{boot[:8]}"}


def status(tries: Sequence[Try], a_try: Try) -> tuple[Status, str | None]:
    """Return how an attempt ended, and with what error."""
    if any(one.alive for one in a_try.traces):
        return "running", None
    lead = a_try.lead
    if lead.status is None:
        return lead.so_far or "killed", None  # type: ignore[return-value]  # a trace holds text
    return lead.status, lead.error  # type: ignore[return-value]  # a trace holds text
