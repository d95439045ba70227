"""The traces of nodes that do not share a run directory: gathered by rank 0, and merged into one run directory.

**Gathering** copies them to rank 0 through torch.distributed's store, while the run goes on.

No collective operation of the process group is used: those wait for a rank that died, and need its backend and device.
Ranks exchange messages through the group's key-value store, over a connection of their own, in a thread. When the
timeout is over, training goes on without the thread: a gather may end without an answer, it never holds training up.

The messages: rank 0 puts ``hello`` with the name of a file in its run directory. A rank that sees the file shares the
folder. Of the others, one rank for each folder compares clocks with rank 0, as NTP does, and sends the traces there.

**Merging** puts the traces of several folders into one, when rank 0 gathers them, or by hand after the run. Sources are
read and never changed. A trace that is in two of them counts once, the longer one. Attempts of different folders are
the same attempt where they were at the same time, corrected by what is known of the machines' clocks.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from greenml import files
from greenml.errors import RecordError
from greenml.record.schema import RunRecord
from greenml.run import finish, membership
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths
from greenml.trace.lines import Line

log = logging.getLogger("greenml")
ROUNDS = 10  # of comparing clocks; the fastest counts
SETTLE_SECONDS = 0.3  # for the readings that were asked for when the gather began
GRACE_SECONDS = 2.0  # beyond the timeout, for the thread to end by itself
POLL_SECONDS = 0.005
CHUNK_BYTES = 1 << 20  # the store refuses values of more than 8 MiB

_numbers = itertools.count()
_lost: set[int] = set()  # ranks that did not answer once: they are not waited for again


@dataclass(slots=True)
class Gathered:
    """The result of a gather.

    Attributes:
        rank: of this process; 0 makes the record.
        lines: notes for this process's trace.
    """

    rank: int = 0
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer: the times of sending and receiving by this clock, those in between by the other's."""

    sent_seconds: float
    heard_seconds: float
    answered_seconds: float
    received_seconds: float

    @property
    def travel_seconds(self) -> float:
        """The time that both messages took."""
        return (self.received_seconds - self.sent_seconds) - (self.answered_seconds - self.heard_seconds)

    @property
    def ahead_seconds(self) -> float:
        """How far the other clock is ahead of this one; wrong by half of ``travel_seconds`` at the most."""
        there = self.heard_seconds - self.sent_seconds
        return (there + self.answered_seconds - self.received_seconds) / 2


def ahead_seconds(exchanges: Sequence[Exchange]) -> float:
    """Return how far the other clock is ahead, by the fastest exchange."""
    return min(exchanges, key=lambda exchange: exchange.travel_seconds).ahead_seconds


def gather(run_dir: Path, *, timeout_seconds: float = 30.0) -> Gathered:
    """Bring the traces of every node into rank 0's run directory. Every rank calls this, as often as the others.

    Where torch.distributed is not initialised, nothing happens; it is never imported from here. Never raises.

    Args:
        run_dir: of this process's run.
        timeout_seconds: returns after this, whoever has not answered; a note says what is missing.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    done = Gathered()
    try:
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return done
        done.rank, world_size = distributed.get_rank(), distributed.get_world_size()
        if world_size < 2:
            return done
        session = _Session(distributed, done, world_size, run_dir, timeout_seconds)
        thread = threading.Thread(target=session.run, name="greenml-gather", daemon=True)
        thread.start()
        thread.join(timeout_seconds + GRACE_SECONDS)
        session.over = True
        if thread.is_alive():
            session.miss(f"the store of torch.distributed did not answer for {timeout_seconds:g} s")
    except Exception as error:  # noqa: BLE001  the training is worth more than its figures
        done.lines.append(_missing(f"{type(error).__name__}: {error}", []))
    return Gathered(done.rank, list(done.lines))


def _missing(why: str, ranks: Sequence[int]) -> Line:
    text = f"traces of other nodes were not gathered: {why.splitlines()[0]}; 'greenml merge' joins them by hand"
    return {"note": NOT_GATHERED, "text": text, "ranks": list(ranks)}


class _Session:
    """One gather, on the side of one rank."""

    def __init__(
        self,
        distributed: Any,  # noqa: ANN401  torch is not imported here
        done: Gathered,
        world_size: int,
        run_dir: Path,
        timeout_seconds: float,
    ) -> None:
        self._distributed, self._done, self._run_dir = distributed, done, run_dir
        self._others = range(1, world_size) if done.rank == 0 else range(1)
        self._began, self._timeout = time.monotonic(), timeout_seconds
        self._deadline, self._patience = self._began + timeout_seconds, timeout_seconds / 3
        self._number = next(_numbers)
        self._me, self._own_header = membership.current(), _own_header(run_dir)
        self._store: Any = None
        self.over = False

    def run(self) -> None:
        """Ask or answer, and never raise."""
        if _lost.issuperset(self._others):
            return
        try:
            self._store = self._open_store()
            if self._done.rank == 0:
                self._ask()
            else:
                self._answer()
        except Exception as error:  # noqa: BLE001  a store that is gone, a folder that is full
            self.miss(f"{type(error).__name__}: {error}")

    def miss(self, why: str, ranks: Sequence[int] = ()) -> None:
        """Note which traces are missing and why, and do not wait for those ranks (all, if none is given) again."""
        _lost.update(ranks or self._others)
        self._done.lines.append(_missing(why, ranks or self._others))

    def _open_store(self) -> Any:  # noqa: ANN401  torch is not imported here
        """Return the process group's store under names of our own, over a connection of its own where torch can."""
        store = self._distributed.distributed_c10d._get_default_store()  # no public name leads to it
        store.check(["greenml"])  # fails at once where the store is gone; another connection would be tried for long
        if hasattr(store, "clone"):
            store = store.clone()
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return self._distributed.PrefixStore(f"greenml/{restarts}/{self._number}", store)

    # Rank 0.

    def _ask(self) -> None:
        token = self._run_dir / f".gather-{secrets.token_hex(16)}"
        token.write_bytes(b"")
        try:
            self._put("hello", {"token": token.name, "host": self._me.host})
            waited = set(self._others) - _lost
            while waited and not self._late():
                heard = {rank for rank in waited if self._store.check([f"report/{rank}"])}
                for rank in sorted(heard):
                    self._hear(rank)
                waited -= heard
                if not heard:
                    time.sleep(POLL_SECONDS)
        finally:
            token.unlink(missing_ok=True)
            self._put("hello", {"over": True})  # whoever comes later need not wait
        headers = [_header(path) for path in trace_paths(self._run_dir)]
        here = {header.get("rank") for header in headers if header.get("attempt") == self._own_header.get("attempt")}
        silent = sorted(waited - here)
        if silent:
            names = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
            self.miss(f"{names} did not answer within {self._timeout:g} s", silent)
        _lost.update(waited)

    def _hear(self, rank: int) -> None:
        report = self._take(f"report/{rank}")
        if not report["sends"]:
            return
        try:
            self._fetch(rank)
        except Exception as error:  # noqa: BLE001  the other ranks are still to be heard
            self.miss(f"rank {rank} on {report['host']}: {type(error).__name__}: {error}", [rank])

    def _fetch(self, rank: int) -> None:
        self._put(f"go/{rank}", {})
        for number in range(ROUNDS):
            self._wait(f"ping/{rank}/{number}")
            heard = time.monotonic()
            self._put(f"pong/{rank}/{number}", [heard, time.monotonic()])
        sent = self._take(f"sent/{rank}")
        chunks = []
        for number in range(sent["chunks"]):
            chunks.append(self._get(f"chunk/{rank}/{number}"))
            self._store.delete_key(f"chunk/{rank}/{number}")
        content = json.loads(zlib.decompress(b"".join(chunks)))
        anchor = trace_file.anchor(self._own_header) + sent["ahead_seconds"]
        machine = trace_file.machine(sent["from"])
        attempts = int(sent["from"]["attempt"]), int(self._own_header["attempt"])
        left_out = self._keep(content, attempts, {machine: anchor})
        if left_out:
            text = f"{left_out} on {sent['from']['host']} are of attempts that rank 0 has no trace of"
            self._done.lines.append(_missing(text, []))
        self._put(f"kept/{rank}", {"host": self._me.host})
        self._get(f"bye/{rank}", most_seconds=1.0)  # the store may live in this process, which may end now

    def _keep(self, content: Any, attempts: tuple[int, int], anchors: dict[Machine, float]) -> int:  # noqa: ANN401
        with tempfile.TemporaryDirectory(prefix="greenml-gather-") as name:
            for file_name, text in content["files"].items():
                (Path(name) / Path(file_name).name).write_text(text, encoding="utf-8")
            if self.over:
                raise TimeoutError("its traces came too late")
            return add(self._run_dir, Path(name), attempts=attempts, anchors=anchors, alive=content["alive"])

    # The others.

    def _answer(self) -> None:
        rank = self._done.rank
        hello = json.loads(self._get("hello", most_seconds=self._deadline - time.monotonic()))
        if "over" in hello:
            raise TimeoutError("rank 0 had stopped waiting")
        shares = (self._run_dir / Path(hello["token"]).name).exists()
        whose = f"{self._own_header.get('run_id')}/{self._me.host}"
        sends = not shares and self._store.add(f"lead/{whose}", 1) == 1
        self._put(f"report/{rank}", {"sends": sends, "host": self._me.host})
        if not sends:
            return
        self._get(f"go/{rank}", most_seconds=self._deadline - time.monotonic())
        exchanges = []
        for number in range(ROUNDS):
            sent = time.monotonic()
            self._put(f"ping/{rank}/{number}", {})
            self._wait(f"pong/{rank}/{number}")
            received = time.monotonic()
            heard, answered = self._take(f"pong/{rank}/{number}")
            exchanges.append(Exchange(sent, heard, answered, received))
        time.sleep(max(0.0, self._began + SETTLE_SECONDS - time.monotonic()))
        self._send(rank, ahead_seconds(exchanges))
        self._get(f"kept/{rank}", most_seconds=self._deadline - time.monotonic())
        self._put(f"bye/{rank}", {})
        text = f"this is the part of {self._me.host}; the record of the whole run is on {hello['host']}"
        self._done.lines.append({"note": PART_OF_RUN, "text": text})

    def _send(self, rank: int, ahead: float) -> None:
        paths = trace_paths(self._run_dir)
        files = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths}
        alive = [path.name for path in paths if trace_file.is_alive(path, _header(path))]
        content = zlib.compress(json.dumps({"files": files, "alive": alive}).encode(), 6)
        chunks = [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            self._store.set(f"chunk/{rank}/{number}", chunk)
        sender = {name: self._own_header.get(name) for name in ("host", "boot_id", "attempt")}
        self._put(f"sent/{rank}", {"chunks": len(chunks), "ahead_seconds": ahead, "from": sender})

    # The store.

    def _late(self) -> bool:
        return self.over or time.monotonic() >= self._deadline

    def _left(self) -> float:
        """Return how long to wait for a rank that has begun to answer."""
        return min(self._patience, max(0.5, self._deadline - time.monotonic()))

    def _put(self, name: str, content: Any) -> None:  # noqa: ANN401  JSON
        self._store.set(name, json.dumps(content))

    def _get(self, name: str, *, most_seconds: float | None = None) -> bytes:
        """Return a value when it is there; torch writes to stderr when its own wait is in vain, so this one asks."""
        until = time.monotonic() + (self._left() if most_seconds is None else most_seconds)
        while not self._store.check([name]):
            if self.over or time.monotonic() >= until:
                raise TimeoutError(f"no answer ({name.partition('/')[0]})")
            time.sleep(POLL_SECONDS)
        return bytes(self._store.get(name))

    def _take(self, name: str) -> Any:  # noqa: ANN401  JSON
        content = json.loads(self._get(name))
        self._store.delete_key(name)
        return content

    def _wait(self, name: str) -> None:
        """Wait for a value without asking again and again, which would take from the time that is measured."""
        self._store.wait([name], timedelta(seconds=self._left()))


def _header(path: Path) -> Line:
    try:
        return trace_file.read_header(path)
    except RecordError:
        return {}


def _own_header(run_dir: Path) -> Line:
    """Return the header of this process's trace.

    Raises:
        RecordError: it is not there.
    """
    me = membership.current()
    here = (me.pid, me.host, me.boot_id, me.pid_namespace)
    headers = [_header(path) for path in trace_paths(run_dir)]
    headers = [
        header for header in headers
        if (header.get("pid"), header.get("host"), header.get("boot_id"), header.get("pid_namespace") or "") == here
    ]  # fmt: skip
    if not headers:
        raise RecordError(f"{run_dir}: no trace of this process")
    return max(headers, key=lambda header: (header.get("attempt", 1), header["unix_seconds"]))


OFFSET = "unix_offset_seconds"  # in a header: the seconds to add to the times of the host's clock
SKEW_SHOWN_SECONDS = 0.05
PART_OF_RUN, NOT_GATHERED, CLOCK_SKEW = "part-of-run", "not-gathered", "clock-skew"
Machine = tuple[str, str]  # in one boot: monotonic times can be compared within it
Origin = tuple[str, int]  # a run id and an attempt
Member = TypeVar("Member", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Source:
    """A trace on its way into another run directory."""

    path: Path
    lines: list[Line]
    last_seconds: float
    silent: bool

    @property
    def header(self) -> Line:
        return self.lines[0]

    @property
    def host(self) -> str:
        return str(self.header.get("host", ""))

    @property
    def machine(self) -> Machine:
        return trace_file.machine(self.header)

    @property
    def process(self) -> tuple[str, int, float]:
        """The key of its process, whatever folder or attempt the trace lies in."""
        header = self.header
        return str(header.get("boot_id", "")), int(header.get("pid", 0)), float(header["start_seconds"])

    @property
    def origin(self) -> Origin:
        return str(self.header.get("run_id", "")), int(self.header.get("attempt", 1))

    @property
    def span(self) -> tuple[float, float]:
        anchor = trace_file.anchor(self.header)
        return anchor + self.header["start_seconds"], anchor + self.last_seconds

    def set_anchor(self, anchor: float) -> None:
        """Correct the clock: its monotonic zero was at this unix time."""
        self.header[OFFSET] = anchor - (self.header["unix_seconds"] - self.header["start_seconds"])


def merge(
    sources: Sequence[Path],
    output: Path,
    *,
    skew_seconds: Mapping[str, float] | None = None,
    replace: bool = False,
) -> RunRecord:
    """Merge the traces of several nodes of one run into one run directory and its run.json.

    Args:
        sources: run directories, folders that hold one, or single traces.
        output: where run.json goes; the traces are copied into its run directory.
        skew_seconds: by host, how far its clock was ahead of the others'.
        replace: write over a record and run directory that are there; never over a source.

    Raises:
        RecordError: a source cannot be read, the traces are not of one run, or the output is taken.
    """
    run_dir = run_dir_of(output)
    traces = [trace for source in sources for trace in _sources_in(source)]
    if not traces:
        raise RecordError("nothing to merge")
    if any(trace.path.resolve().parent == run_dir.resolve() for trace in traces):
        raise RecordError(f"{run_dir}: one of the sources; give another output, sources are never changed")
    for path in (output, run_dir):
        if path.exists() and not replace:
            raise RecordError(f"{path}: exists; give another output, or replace it")
    _correct(traces, skew_seconds or {})
    attempts = _attempts(traces)
    run_id = traces[0].origin[0]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        merged_dir = run_dir.with_name(f".{run_dir.name}.{secrets.token_hex(4)}")
        merged_dir.mkdir()
        try:
            for number, members in enumerate(attempts, start=1):
                ranks = {member.header.get("rank") for member in members}
                for member in members:
                    _write(member, merged_dir, {"run_id": run_id, "attempt": number}, ranks)
            finish.make(merged_dir)
            if run_dir.exists():
                shutil.rmtree(run_dir)
            merged_dir.rename(run_dir)
        finally:
            shutil.rmtree(merged_dir, ignore_errors=True)
    except OSError as error:
        raise RecordError(f"{output}: cannot be written: {error.strerror or error}") from None
    return finish.finish(run_dir, output)


def add(
    run_dir: Path, folder: Path, *, attempts: tuple[int, int], anchors: Mapping[Machine, float], alive: Collection[str]
) -> int:
    """Copy another node's traces into a run that goes on; copies of an earlier time are replaced.

    Args:
        run_dir: of the run.
        folder: of the traces, with the names that they have on their node.
        attempts: the attempt that is going on, as that node counts and as this run counts.
        anchors: by machine, the unix time of its monotonic zero.
        alive: names of the traces whose process still runs: their copies end here.

    Returns:
        The number of traces that were left out, because no trace of their attempt is in the run.

    Raises:
        RecordError: a trace cannot be read.
        OSError: a trace cannot be written.
    """
    sender_attempt, current_attempt = attempts
    incoming = [_source(path) for path in trace_paths(folder)]
    left_out = 0
    with files.locked(run_dir / "lock"):
        present = [trace for path in trace_paths(run_dir) if (trace := _readable(path)) is not None]
        by_process = {trace.process: trace for trace in present}
        run_id = next((trace.origin[0] for trace in present), "")
        for trace in incoming:
            earlier = by_process.get(trace.process)
            if earlier is not None and (
                not earlier.header.get("gathered") or earlier.last_seconds > trace.last_seconds
            ):
                continue  # this very file, or a longer copy of it
            if trace.machine in anchors:
                trace.set_anchor(anchors[trace.machine])
            attempt = current_attempt if trace.origin[1] == sender_attempt else _attempt_at(trace, present)
            if attempt is None:
                left_out += 1
                continue
            if trace.path.name in alive and trace.silent:
                trace.lines.append({"status": "completed", "error": None, "t": trace.last_seconds})
            changes = {"run_id": run_id, "attempt": attempt, "gathered": True, "watches": False}
            _write(trace, run_dir, changes, set(), earlier.path if earlier is not None else None)
    return left_out


def _sources_in(source: Path) -> list[_Source]:
    if source.is_file():
        return _sources_in(run_dir_of(source)) if source.suffix == ".json" else [_source(source)]
    if not source.is_dir():
        raise RecordError(f"{source}: no such file or folder")
    paths = trace_paths(source)
    if not paths:
        folders = [path for path in sorted(source.glob("*.trace")) if trace_paths(path)]
        if len(folders) > 1:
            names = ", ".join(folder.name for folder in folders)
            raise RecordError(f"{source}: holds several runs ({names}); name the folder of one of them")
        paths = trace_paths(folders[0]) if folders else []
    traces = [trace for path in paths if (trace := _readable(path)) is not None]
    if not traces:
        raise RecordError(f"{source}: no trace in it" + (" that can be read" if paths else ""))
    return traces


def _source(path: Path) -> _Source:
    lines, read = trace_file.read_lines(path), trace_file.read(path)
    return _Source(path, lines, read.last_seconds, read.status is None)


def _readable(path: Path) -> _Source | None:
    try:
        return _source(path)
    except RecordError:
        return None


def _correct(traces: Sequence[_Source], skew_seconds: Mapping[str, float]) -> None:
    """Put every host on one time: by the skew that the user gives, else by what a gather measured of that clock."""
    hosts = sorted({trace.host for trace in traces})
    for host in skew_seconds:
        if host not in hosts:
            raise RecordError(f"skew: no trace of a host {host!r}; there are {', '.join(hosts)}")
    measured = {trace.machine: trace_file.anchor(trace.header) for trace in traces if trace.header.get(OFFSET)}
    for trace in traces:
        if trace.host in skew_seconds:
            trace.header[OFFSET] = -skew_seconds[trace.host]
        elif trace.machine in measured:
            trace.set_anchor(measured[trace.machine])


def _attempts(traces: Sequence[_Source]) -> list[list[_Source]]:
    """Sort traces into attempts: those of one folder's attempt, and of other folders' at the same time.

    Raises:
        RecordError: they cannot be of one run.
    """
    longest: dict[tuple[str, int, float], _Source] = {}
    links: list[tuple[Origin, Origin]] = []
    for trace in traces:
        copy = longest.setdefault(trace.process, trace)
        links.append((trace.origin, copy.origin))  # in two sources: their attempts are the same one
        if (trace.last_seconds, not trace.header.get("gathered")) > (
            copy.last_seconds,
            not copy.header.get("gathered"),
        ):
            longest[trace.process] = trace
    by_origin: dict[Origin, list[_Source]] = defaultdict(list)
    for trace in traces:
        by_origin[trace.origin].append(trace)
    links += [
        (first, second)
        for first, second in combinations(by_origin, 2)
        if first[0] != second[0] and _overlap(_span(by_origin[first]), _span(by_origin[second]))
    ]
    clusters = _joined(by_origin, links)
    run_links = [(first[0], second[0]) for first, second in links]
    runs = _joined(dict.fromkeys(run_id for run_id, _ in by_origin), run_links)
    if len(runs) > 1:
        first, second = (next(members for origin, members in by_origin.items() if origin[0] in run) for run in runs[:2])
        raise RecordError(_why_apart(first, second))
    attempts = [[trace for trace in longest.values() if trace.origin in cluster] for cluster in clusters]
    attempts = [members for members in attempts if members]
    for members in attempts:
        _check(members)
    return sorted(attempts, key=_span)


def _check(members: Sequence[_Source]) -> None:
    """Refuse an attempt that holds the traces of two launches."""
    by_world_size: dict[int, _Source] = {}
    by_rank: dict[int, _Source] = {}
    for member in members:
        world_size, rank = member.header.get("world_size"), member.header.get("rank")
        if world_size is not None:
            by_world_size.setdefault(world_size, member)
        if rank is not None and by_rank.setdefault(rank, member).machine != member.machine:
            paths = f"{by_rank[rank].path} and, of another host, in {member.path}"
            raise RecordError(f"rank {rank} is in {paths}: they are two runs")
    if len(by_world_size) > 1:
        sizes = ", ".join(f"{world_size} in {member.path}" for world_size, member in sorted(by_world_size.items()))
        raise RecordError(f"different numbers of processes ({sizes}): they are not of one run")


def _span(members: Iterable[_Source]) -> tuple[float, float]:
    spans = [member.span for member in members]
    return min(start for start, _ in spans), max(end for _, end in spans)


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Tell whether two spans of time have more than half of the shorter in common."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return shared > 0.5 * min(first[1] - first[0], second[1] - second[0])


def _joined(members: Iterable[Member], links: Iterable[tuple[Member, Member]]) -> list[set[Member]]:
    """Return the connected sets of members."""
    groups = {member: {member} for member in members}
    for first, second in links:
        if groups[first] is not groups[second]:
            groups[first] |= groups[second]
            for member in groups[second]:
                groups[member] = groups[first]
    return list({id(group): group for group in groups.values()}.values())


def _why_apart(first: Sequence[_Source], second: Sequence[_Source]) -> str:
    def place_and_time(members: Sequence[_Source]) -> str:
        start, end = (datetime.fromtimestamp(at, timezone.utc) for at in _span(members))
        return f"{members[0].path.parent} from {start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}"

    launches = {first[0].header.get("launch"), second[0].header.get("launch")}
    host = second[0].host
    text = f"{place_and_time(first)}, {place_and_time(second)}: not at the same time, so not of one run"
    if len(launches) == 1 and all(launches):
        ahead = _span(second)[0] - _span(first)[0]
        return f"{text}; but they name one launch: if a clock was wrong, say --skew {host}={ahead:.0f}"
    return f"{text}; if a clock was wrong, say by how much it was ahead: --skew {host}=SECONDS"


def _attempt_at(trace: _Source, present: Iterable[_Source]) -> int | None:
    by_attempt: dict[int, list[_Source]] = defaultdict(list)
    for other in present:
        by_attempt[other.origin[1]].append(other)
    return next(
        (number for number, members in sorted(by_attempt.items()) if _overlap(trace.span, _span(members))), None
    )


def _write(
    trace: _Source, folder: Path, changes: Mapping[str, object], ranks: Collection[object], path: Path | None = None
) -> None:
    """Copy a trace with another header. The copy is an old file: a fresh one would look like a running process's."""
    header = {**trace.header, **changes}
    lines = [header, *(line for line in trace.lines[1:] if not _outdated(line, ranks))]
    skew = -float(header.get(OFFSET, 0.0))
    if abs(skew) >= SKEW_SHOWN_SECONDS:
        text = f"the clock of {header['host']} was {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}; corrected"
        lines.append({"t": header["start_seconds"], "note": CLOCK_SKEW, "text": text})
    if path is None:
        token = trace.path.stem.rpartition("-")[2]
        path = folder / f"{header['attempt']}-{header['host']}-{header.get('pid', 0)}-{token}.jsonl"
    content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    files.replace(path, content.encode(), modified_seconds=trace.span[1] - trace_file.FRESH_SECONDS)


def _outdated(line: Line, ranks: Collection[object]) -> bool:
    note = line.get("note")
    return note in (PART_OF_RUN, CLOCK_SKEW) or (note == NOT_GATHERED and set(line.get("ranks", [-1])) <= set(ranks))
