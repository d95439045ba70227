"""Traces of several nodes into one run directory: by hand after the run, or as rank 0 gathers them.

Sources are read, never changed. A trace that is in two of them counts once, the longer one. What tells attempts of
different folders apart or together is their time, corrected by what is known of the hosts' clocks.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from greenml import finishing, trace
from greenml.claims import FileLock
from greenml.errors import RecordError
from greenml.record import RunRecord
from greenml.seats import run_dir_of
from greenml.trace_lines import Line

OFFSET = "unix_offset_seconds"  # in a header: what to add to the host's idea of the time
SKEW_SHOWN_SECONDS = 0.05
PART_OF_RUN, NOT_GATHERED, CLOCK_SKEW = "part-of-run", "not-gathered", "clock-skew"
Clock = tuple[str, str]  # a host and its boot: monotonic times compare within
Member = TypeVar("Member", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Piece:
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
    def clock(self) -> Clock:
        return self.host, str(self.header.get("boot_id", ""))

    @property
    def process(self) -> tuple[str, int, float]:
        """What no two processes have in common, whatever folder or attempt their traces lie in."""
        header = self.header
        return str(header.get("boot_id", "")), int(header.get("pid", 0)), float(header["start_seconds"])

    @property
    def origin(self) -> tuple[str, int]:
        return str(self.header.get("run_id", "")), int(self.header.get("attempt", 1))

    @property
    def span(self) -> tuple[float, float]:
        anchor = trace.anchor(self.header)
        return anchor + self.header["start_seconds"], anchor + self.last_seconds

    def set_anchor(self, anchor: float) -> None:
        """Correct the host's clock: its monotonic zero was at this unix time."""
        self.header[OFFSET] = anchor - (self.header["unix_seconds"] - self.header["start_seconds"])


def merge(
    sources: Sequence[Path],
    output: Path,
    *,
    skew_seconds: Mapping[str, float] | None = None,
    replace: bool = False,
) -> RunRecord:
    """Merge what several nodes of one run left into one run directory and its run.json.

    Args:
        sources: run directories, folders that hold one, or single traces.
        output: where run.json goes; the traces are copied into its run directory.
        skew_seconds: by host, how far its clock was ahead of the others'.
        replace: write over a record and run directory that are there; never over a source.

    Raises:
        RecordError: a source cannot be read, the traces are not of one run, or the output is taken.
    """
    run_dir = run_dir_of(output)
    pieces = [one for source in sources for one in _pieces(source)]
    if not pieces:
        raise RecordError("nothing to merge")
    if any(one.path.resolve().parent == run_dir.resolve() for one in pieces):
        raise RecordError(f"{run_dir}: one of the sources; give another output, sources are never changed")
    for taken in (output, run_dir):
        if taken.exists() and not replace:
            raise RecordError(f"{taken}: exists; give another output, or replace it")
    _correct(pieces, skew_seconds or {})
    attempts = _attempts(pieces)
    run_id = pieces[0].origin[0]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        made = run_dir.with_name(f".{run_dir.name}.{secrets.token_hex(4)}")
        made.mkdir()
        try:
            for number, members in enumerate(attempts, start=1):
                _name_hosts(members)
                ranks = {one.header.get("rank") for one in members}
                for one in members:
                    _write(one, made, {"run_id": run_id, "attempt": number}, ranks)
            finishing.make(made)
            if run_dir.exists():
                shutil.rmtree(run_dir)
            made.rename(run_dir)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise RecordError(f"{output}: cannot be written: {error.strerror or error}") from None
    return finishing.finish(run_dir, output)


def add(
    run_dir: Path, folder: Path, *, attempts: tuple[int, int], anchors: Mapping[Clock, float], alive: Collection[str]
) -> int:
    """Copy another node's traces into a run that goes on; copies of an earlier time are replaced.

    Args:
        run_dir: of the run.
        folder: of the traces, with the names that they have on their node.
        attempts: the attempt that is going on, as that node counts and as this run counts.
        anchors: by clock, the unix time of its monotonic zero.
        alive: names of the traces whose process lives: their copies end here.

    Returns:
        How many were left out, for they belong to no attempt that is here.

    Raises:
        RecordError: one cannot be read.
        OSError: one cannot be written.
    """
    theirs, ours = attempts
    incoming = [_piece(path) for path in trace.paths(folder)]
    left_out = 0
    with FileLock(run_dir / "lock"):
        here = [one for path in trace.paths(run_dir) if (one := _readable(path)) is not None]
        known = {one.process: one for one in here}
        run_id = next((one.origin[0] for one in here), "")
        for one in incoming:
            before = known.get(one.process)
            if before is not None and (not before.header.get("gathered") or before.last_seconds > one.last_seconds):
                continue  # this very file, or a better copy
            if one.clock in anchors:
                one.set_anchor(anchors[one.clock])
            attempt = ours if one.origin[1] == theirs else _attempt_at(one, here)
            if attempt is None:
                left_out += 1
                continue
            _name_hosts([*(other for other in here if other.origin[1] == attempt and other is not before), one])
            if one.path.name in alive and one.silent:
                one.lines.append({"status": "completed", "error": None, "t": one.last_seconds})
            changes = {"run_id": run_id, "attempt": attempt, "gathered": 1, "watches": False}
            _write(one, run_dir, changes, set(), before.path if before is not None else None)
    return left_out


def _pieces(source: Path) -> list[_Piece]:
    if source.is_file():
        return _pieces(run_dir_of(source)) if source.suffix == ".json" else [_piece(source)]
    if not source.is_dir():
        raise RecordError(f"{source}: no such file or folder")
    found = trace.paths(source)
    if not found:
        folders = [one for one in sorted(source.glob("*.trace")) if trace.paths(one)]
        if len(folders) > 1:
            names = ", ".join(one.name for one in folders)
            raise RecordError(f"{source}: holds several runs ({names}); name the one that is meant")
        found = trace.paths(folders[0]) if folders else []
    whole = [one for path in found if (one := _readable(path)) is not None]
    if not whole:
        raise RecordError(f"{source}: no trace in it" + (" that can be read" if found else ""))
    return whole


def _piece(path: Path) -> _Piece:
    lines, read = trace.read_lines(path), trace.read(path)
    if not {"start_seconds", "unix_seconds"} <= lines[0].keys():
        raise RecordError(f"{path}: not a trace (its header does not tell when it began)")
    return _Piece(path, lines, read.last_seconds, read.status is None)


def _readable(path: Path) -> _Piece | None:
    try:
        return _piece(path)
    except RecordError:
        return None


def _correct(pieces: Sequence[_Piece], skew_seconds: Mapping[str, float]) -> None:
    """Put every host on one time: by what the user says, else by what a gather measured of that clock."""
    hosts = sorted({one.host for one in pieces})
    for host in skew_seconds:
        if host not in hosts:
            raise RecordError(f"skew: no trace of a host {host!r}; there are {', '.join(hosts)}")
    measured = {one.clock: trace.anchor(one.header) for one in pieces if one.header.get(OFFSET)}
    for one in pieces:
        if one.host in skew_seconds:
            one.header[OFFSET] = -skew_seconds[one.host]
        elif one.clock in measured:
            one.set_anchor(measured[one.clock])


def _attempts(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Sort traces into attempts: those of one folder's attempt, and of other folders' at the same time.

    Raises:
        RecordError: they cannot be of one run.
    """
    best: dict[tuple[str, int, float], _Piece] = {}
    links: list[tuple[tuple[str, int], tuple[str, int]]] = []
    for one in pieces:
        other = best.setdefault(one.process, one)
        links.append((one.origin, other.origin))  # in two sources: what each calls the attempt is one attempt
        if (one.last_seconds, not one.header.get("gathered")) > (other.last_seconds, not other.header.get("gathered")):
            best[one.process] = one
    held: dict[tuple[str, int], list[_Piece]] = defaultdict(list)
    for one in pieces:
        held[one.origin].append(one)
    links += [
        (one, other)
        for one, other in combinations(held, 2)
        if one[0] != other[0] and _together(_span(held[one]), _span(held[other]))
    ]
    clusters = _joined(held, links)
    runs = _joined(dict.fromkeys(run_id for run_id, _ in held), [(one[0], other[0]) for one, other in links])
    if len(runs) > 1:
        first, second = (next(own for origin, own in held.items() if origin[0] in run) for run in runs[:2])
        raise RecordError(_apart(first, second))
    attempts = [[one for one in best.values() if one.origin in cluster] for cluster in clusters]
    attempts = [members for members in attempts if members]
    for members in attempts:
        _check(members)
    return sorted(attempts, key=_span)


def _check(members: Sequence[_Piece]) -> None:
    """Refuse an attempt that two launches were put into."""
    worlds: dict[int, _Piece] = {}
    ranks: dict[int, _Piece] = {}
    for one in members:
        world, rank = one.header.get("world_size"), one.header.get("rank")
        if world is not None:
            worlds.setdefault(world, one)
        if rank is not None and ranks.setdefault(rank, one).clock != one.clock:
            here, there = ranks[rank].path, one.path
            raise RecordError(f"rank {rank} is in {here} and, of another host, in {there}: they are two runs")
    if len(worlds) > 1:
        told = ", ".join(f"{world} in {one.path}" for world, one in sorted(worlds.items()))
        raise RecordError(f"different numbers of processes ({told}): they are not of one run")


def _span(members: Iterable[_Piece]) -> tuple[float, float]:
    spans = [one.span for one in members]
    return min(start for start, _ in spans), max(end for _, end in spans)


def _together(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether two stretches of time share more than half of the shorter."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared > 0.5 * min(one[1] - one[0], other[1] - other[0])


def _joined(members: Iterable[Member], links: Iterable[tuple[Member, Member]]) -> list[set[Member]]:
    group = {one: {one} for one in members}
    for one, other in links:
        if group[one] is not group[other]:
            group[one] |= group[other]
            for member in group[other]:
                group[member] = group[one]
    return list({id(found): found for found in group.values()}.values())


def _apart(first: Sequence[_Piece], second: Sequence[_Piece]) -> str:
    def told(members: Sequence[_Piece]) -> str:
        start, end = (datetime.fromtimestamp(at, timezone.utc) for at in _span(members))
        return f"{members[0].path.parent} from {start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}"

    one, other = first[0], second[0]
    text = f"{told(first)}, {told(second)}: not at the same time, so not of one run"
    if one.header.get("launch") and one.header.get("launch") == other.header.get("launch"):
        ahead = _span(second)[0] - _span(first)[0]
        return f"{text}; but they name one launch: if a clock was wrong, say --skew {other.host}={ahead:.0f}"
    return f"{text}; if a clock was wrong, say by how much it was ahead: --skew {other.host}=SECONDS"


def _attempt_at(one: _Piece, here: Iterable[_Piece]) -> int | None:
    held: dict[int, list[_Piece]] = defaultdict(list)
    for other in here:
        held[other.origin[1]].append(other)
    return next((number for number, own in sorted(held.items()) if _together(one.span, _span(own))), None)


def _name_hosts(members: Sequence[_Piece]) -> None:
    """Tell machines apart that go by one name: a later one's boot is added to it."""
    first: dict[str, _Piece] = {}
    for one in members:
        other = first.setdefault(one.host, one)
        if other.clock != one.clock and other.origin[0] != one.origin[0]:
            one.header["host"] = f"{one.host}-{one.clock[1][:8]}"


def _write(
    one: _Piece, folder: Path, changes: Mapping[str, object], ranks: Collection[object], path: Path | None = None
) -> None:
    """Copy a trace with another header; as an old file, since a fresh one would look like a living process's."""
    header = {**one.header, **changes}
    lines = [header, *(line for line in one.lines[1:] if not _outdated(line, ranks))]
    skew = -float(header.get(OFFSET, 0.0))
    if abs(skew) >= SKEW_SHOWN_SECONDS:
        text = f"the clock of {header['host']} was {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}; corrected"
        lines.append({"t": header["start_seconds"], "note": CLOCK_SKEW, "text": text})
    if path is None:
        words = one.path.stem.rsplit("-", 1)
        path = folder / f"{header['attempt']}-{header['host']}-{header.get('pid', 0)}-{words[-1]}.jsonl"
    temporary = path.with_suffix(".merging")
    temporary.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), encoding="utf-8")
    ended = one.span[1] - trace.FRESH_SECONDS
    os.utime(temporary, (ended, ended))
    temporary.replace(path)


def _outdated(line: Line, ranks: Collection[object]) -> bool:
    note = line.get("note")
    return note in (PART_OF_RUN, CLOCK_SKEW) or (note == NOT_GATHERED and set(line.get("ranks", [-1])) <= set(ranks))
