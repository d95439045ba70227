"""The membership of a process in a run: its run directory, its attempt, and the rule of which processes share a run.

Processes share a run where their launcher says so: the ranks of one launch of torchrun, DeepSpeed, Accelerate, MPI,
Slurm or Ray with the same output, and whatever ``GREENML_RUN_DIR`` names a run for. Any other process begins a run of
its own. An output that belongs to another run is never written over: the new run takes the next free name
(``run-2.json``), unless it resumes the old one.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenml import files
from greenml.errors import RecordError, SettingsError
from greenml.run.job import SERVER, Job
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths
from greenml.trace.file import TraceWriter

RUN_DIR_VARIABLE = "GREENML_RUN_DIR"
_LOOPBACK = re.compile(r":(localhost|127\.[\d.]+|::1):")  # the same name on every machine: it names no launch
_NAMED_ALIKE = re.compile(r"torchrun:none:")  # torchrun's run id where the user gives none
_UNIQUE = ("srun", "mpirun", "torchrun")  # their launches have names that no later launch has


@dataclass(frozen=True, slots=True)
class Membership:
    """The membership of a process in a run.

    Attributes:
        output: where run.json goes.
        run_dir: where the traces are.
        attempt: the number of this start of the run, from 1.
        joined: True where another process of this attempt was here first.
    """

    output: Path
    run_dir: Path
    run_id: str
    attempt: int
    joined: bool


@dataclass(frozen=True, slots=True)
class _Member:
    """A process that is or was a member of a run, by the header of its trace."""

    header: Mapping[str, Any]
    alive: bool

    @property
    def attempt(self) -> int:
        return int(self.header.get("attempt", 1))

    @property
    def restarts(self) -> int:
        return int(self.header.get("restarts") or 0)

    @property
    def container(self) -> tuple[object, ...]:
        """The machine, host name and container: within it, process ids can be compared."""
        return tuple(self.header.get(name) or "" for name in ("boot_id", "host", "pid_namespace"))


def join_run(
    output: Path,
    job: Job,
    header: Mapping[str, Any],
    *,
    resume: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Membership, TraceWriter]:
    """Join the run that this process belongs to, or begin one, and open this process's trace in it.

    Args:
        output: where the user wants run.json.
        job: the identity of this process.
        header: what the trace's header holds beside run id and attempt.
        resume: add an attempt to the run that is there, if one is.
        environment: ``GREENML_RUN_DIR`` in it names a run to join.

    Raises:
        SettingsError: the folder cannot be written, or there is nothing to resume.
    """
    run_dir_name = environment.get(RUN_DIR_VARIABLE)
    try:
        if run_dir_name:
            run_dir = Path(run_dir_name)
            entered = _enter(
                run_dir.with_suffix(".json"), run_dir, job, header, lambda members: _latest_attempt(members) or 1
            )
            assert entered is not None  # noqa: S101  an attempt was named
            return entered
        if resume and output.exists() and not trace_paths(run_dir_of(output)):
            raise SettingsError(
                f"resume: {output} has no traces in {run_dir_of(output)} to add to; give another output"
            )
        return _enter_first_fit(output, job, header, resume=resume)
    except OSError as error:
        raise SettingsError(
            f"output {output}: cannot be written: {error.strerror or error}; give another output"
        ) from None


def process_ids(run_dir: Path, job: Job) -> list[int]:
    """Return the ids of the run's processes that this process can see: those in its container on this machine."""
    here = (job.boot_id, job.host, job.pid_namespace)
    members = [member for member in _members(run_dir, with_liveness=False) if member.container == here]
    pids = [member.header.get("pid") for member in members]
    return sorted({pid for pid in pids if isinstance(pid, int)})


def _enter_first_fit(
    output: Path, job: Job, header: Mapping[str, Any], *, resume: bool
) -> tuple[Membership, TraceWriter]:
    """Enter the first run that this process belongs to or may begin: ``run.json``, ``run-2.json`` ..."""
    number = 1
    while True:
        candidate = output if number == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}")
        run_dir = run_dir_of(candidate)
        number += 1
        if candidate.exists() and not run_dir.exists() and not resume:  # its traces are elsewhere, or gone
            continue

        def attempt_among(members: list[_Member], path: Path = candidate) -> int | None:
            launch = [
                member for member in members
                if _same_server(member, job) or _same_launch(member, job, members)
            ]  # fmt: skip
            if launch:
                restarted = job.restarts > max(member.restarts for member in launch)
                return _latest_attempt(members) + (1 if restarted else 0)
            if members and resume:
                return _latest_attempt(members) + 1
            return None if members or path.exists() else 1

        entered = _enter(candidate, run_dir, job, header, attempt_among)
        if entered is not None:
            return entered


def _enter(
    output: Path,
    run_dir: Path,
    job: Job,
    header: Mapping[str, Any],
    attempt_among: Callable[[list[_Member]], int | None],
) -> tuple[Membership, TraceWriter] | None:
    """Enter a run directory under its lock, if ``attempt_among`` its members gives this process an attempt."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with files.locked(run_dir / "lock"):
        members = _members(run_dir)
        attempt = attempt_among(members)
        if attempt is None:
            return None
        run_id = str(members[0].header["run_id"]) if members else secrets.token_hex(8)
        membership = Membership(
            output,
            run_dir,
            run_id,
            attempt,
            joined=any(member.attempt == attempt for member in members),
        )
        name = f"{attempt}-{job.host}-{job.pid}-{secrets.token_hex(3)}.jsonl"
        return membership, TraceWriter(run_dir / name, {"run_id": run_id, "attempt": attempt, **header})


def _members(run_dir: Path, *, with_liveness: bool = True) -> list[_Member]:
    """Return the members of a run, by attempt and start; a header that cannot be read is left out."""
    members = []
    for path in trace_paths(run_dir):
        try:
            header = trace_file.read_header(path)
            int(header.get("attempt", 1)), int(header.get("restarts") or 0), str(header["run_id"])
        except (RecordError, ValueError, TypeError, KeyError):
            continue
        members.append(_Member(header, with_liveness and trace_file.is_alive(path, header)))
    return sorted(members, key=lambda member: (member.attempt, float(member.header.get("unix_seconds") or 0.0)))


def _latest_attempt(members: Sequence[_Member]) -> int:
    return max((member.attempt for member in members), default=0)


def _same_server(member: _Member, job: Job) -> bool:
    """Tell whether a member and this process are workers of one server; workers have no rank, and come and go."""
    launcher, launch = member.header.get("launcher"), member.header.get("launch")
    return job.launcher == SERVER == launcher and launch == job.launch


def _same_launch(member: _Member, job: Job, members: Sequence[_Member]) -> bool:
    """Tell whether a member of a run was started by the launch that started this process.

    Only a launcher joins processes: the member has this process's launcher, launch and world size, and another rank.
    A launch of which this rank was a member already is an earlier one, however many of its ranks still run.
    """
    header, latest = member.header, _latest_attempt(members)
    if job.rank is None or header.get("rank") is None or member.attempt != latest:
        return False
    if (header.get("launcher", job.launcher), str(header.get("launch", ""))) != (job.launcher, job.launch):
        return False
    named = bool(job.launch) and not (_LOOPBACK.search(job.launch) and header.get("boot_id") != job.boot_id)
    near = member.container == (job.boot_id, job.host, job.pid_namespace)
    sibling = near and (header.get("parent") == job.parent or _is_parent(header, job) or _is_child(header, job))
    unique = named and job.launcher in _UNIQUE and not _NAMED_ALIKE.match(job.launch)
    if job.restarts > member.restarts:  # another attempt, which may have another world size
        return sibling or unique or (named and not near)
    taken = {other.header.get("rank") for other in members if other.attempt == latest}
    if job.rank in taken or header.get("world_size", job.world_size) != job.world_size:
        return False
    if member.alive:
        # In one container, ranks with an address alone (MASTER_ADDR, which may be left over) have one parent, too.
        return sibling or unique or (named and (not near or job.launcher == "torchrun"))
    return sibling or (unique and job.launcher != "torchrun")  # a rank that starts late, after others have ended


def _is_parent(header: Mapping[str, Any], job: Job) -> bool:
    """Tell whether a member started this process itself, as rank 0 does under Lightning."""
    return job.parent.partition("@")[0] == str(header.get("pid"))


def _is_child(header: Mapping[str, Any], job: Job) -> bool:
    return str(header.get("parent", "")).partition("@")[0] == str(job.pid)
