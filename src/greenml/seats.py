"""Where a process takes its place in a run: which run directory, which attempt, with whom.

Processes of one launch that name the same output share a run. An output that belongs to an earlier run is never
written over: the new run goes to the next free name, unless it resumes the old one.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenml import trace
from greenml.claims import FileLock
from greenml.errors import RecordError, SettingsError
from greenml.job import Job
from greenml.trace import TraceWriter

RUN_DIR_VARIABLE = "GREENML_RUN_DIR"
_LOOPBACK = re.compile(r":(localhost|127\.[\d.]+|::1):")  # the same name on every machine: it names no launch


@dataclass(frozen=True, slots=True)
class Seat:
    """A process's place in a run.

    Attributes:
        output: where run.json goes.
        run_dir: where the traces are.
        attempt: which start of the run this is, from 1.
        joined: True where another process of this launch was here first.
    """

    output: Path
    run_dir: Path
    run_id: str
    attempt: int
    joined: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process that is or was in a run directory."""

    header: Mapping[str, Any]
    alive: bool


def run_dir_of(output: Path) -> Path:
    """Return the run directory that belongs to a run.json: ``run.json`` has ``run.trace``."""
    return output.with_suffix(".trace")


def take(
    output: Path,
    job: Job,
    header: Mapping[str, Any],
    *,
    resume: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Seat, TraceWriter]:
    """Take a seat: make or join the run, and open this process's trace in it.

    Args:
        output: where the user wants run.json.
        job: what this process knows of itself.
        header: what the trace's header holds beside the seat.
        resume: add an attempt to the run that is there, if one is.
        environment: ``GREENML_RUN_DIR`` in it names a run to join.

    Raises:
        SettingsError: the folder cannot be written, or there is nothing to resume.
    """
    given = environment.get(RUN_DIR_VARIABLE)
    try:
        if given:
            run_dir = Path(given)
            taken = _in(run_dir.with_suffix(".json"), run_dir, job, header, lambda seen: _latest(seen) or 1)
            assert taken is not None  # noqa: S101  an attempt was named
            return taken
        if resume and output.exists() and not trace.paths(run_dir_of(output)):
            raise SettingsError(
                f"resume: {output} has no traces in {run_dir_of(output)} to add to; give another output"
            )
        return _free(output, job, header, resume=resume)
    except OSError as error:
        raise SettingsError(
            f"output {output}: cannot be written: {error.strerror or error}; give another output"
        ) from None


def _free(output: Path, job: Job, header: Mapping[str, Any], *, resume: bool) -> tuple[Seat, TraceWriter]:
    """Try the output's own name, then ``run-2.json``, ``run-3.json`` ..."""
    number = 1
    while True:
        one = output if number == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}")
        run_dir = run_dir_of(one)

        if one.exists() and not run_dir.exists() and not resume:  # a record whose traces are elsewhere, or gone
            number += 1
            continue

        def attempt(seen: list[_Seen], one: Path = one) -> int | None:
            mine = [other for other in seen if _same_launch(other, job, seen)]
            if mine:
                return _attempt_of(mine, job)
            if seen and resume:
                return _latest(seen) + 1
            return None if seen or one.exists() else 1

        taken = _in(one, run_dir, job, header, attempt)
        if taken is not None:
            return taken
        number += 1


def _in(
    output: Path,
    run_dir: Path,
    job: Job,
    header: Mapping[str, Any],
    attempt_of: Callable[[list[_Seen]], int | None],
) -> tuple[Seat, TraceWriter] | None:
    """Enter a run directory under its lock, if ``attempt_of`` those who are there says so."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run_dir / "lock"):
        seen = _look(run_dir)
        attempt = attempt_of(seen)
        if attempt is None:
            return None
        run_id = str(seen[0].header["run_id"]) if seen else secrets.token_hex(8)
        seat = Seat(
            output,
            run_dir,
            run_id,
            attempt,
            joined=any(other.header.get("attempt") == attempt for other in seen),
        )
        name = f"{attempt}-{job.host}-{job.pid}-{secrets.token_hex(3)}.jsonl"
        return seat, TraceWriter(run_dir / name, {"run_id": run_id, "attempt": attempt, **header})


def _look(run_dir: Path) -> list[_Seen]:
    seen = []
    for path in trace.paths(run_dir):
        try:
            header = trace.read_header(path)
        except RecordError:
            continue
        seen.append(_Seen(header, trace.is_alive(path, str(header.get("host", "")))))
    return sorted(seen, key=lambda one: (one.header.get("attempt", 1), one.header.get("unix_seconds", 0.0)))


def _latest(seen: list[_Seen]) -> int:
    return max((int(one.header.get("attempt", 1)) for one in seen), default=0)


def _attempt_of(mine: list[_Seen], job: Job) -> int:
    """A launcher that started its workers again began another attempt."""
    latest = max(mine, key=lambda one: int(one.header.get("attempt", 1)))
    attempt = int(latest.header.get("attempt", 1))
    return attempt + 1 if job.restarts > int(latest.header.get("restarts", 0)) else attempt


def _script(command: Sequence[str] | None) -> str:
    return Path(command[0]).name if command else ""


def _same_launch(other: _Seen, job: Job, seen: list[_Seen]) -> bool:
    """Tell whether a process that is or was here belongs to the launch that started this one."""
    header = other.header
    if int(header.get("attempt", 1)) != _latest(seen):
        return False
    launch, here = str(header.get("launch", "")), header.get("host") == job.host
    if launch != job.launch:
        return False
    sibling = here and header.get("parent") == job.parent and header.get("boot_id") == job.boot_id
    sibling = sibling and (bool(launch) or _script(header.get("command")) == _script(sys.argv))
    again = any(
        not one.alive and one.header.get("rank") == job.rank and int(one.header.get("restarts", 0)) >= job.restarts
        for one in seen
        if int(one.header.get("attempt", 1)) == _latest(seen)
    )
    if job.rank is not None and sibling and again:
        return False  # this rank was here and is done: it begins another run, however slow the others are
    if other.alive:
        near = here and header.get("boot_id") == job.boot_id
        return sibling or (bool(launch) and (near or not _LOOPBACK.search(launch)))
    # It is gone. A rank that comes late is still of its launch; the same rank again is a new run, or a restart.
    if not sibling or job.rank is None:
        return False
    return job.restarts > int(header.get("restarts", 0)) or job.rank not in {one.header.get("rank") for one in seen}
