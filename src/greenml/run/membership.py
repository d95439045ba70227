"""The membership of a process in a run: its run directory, its attempt, and the rule of which processes share a run.

Processes share a run where their launcher says so: the ranks of one launch of torchrun, DeepSpeed, Accelerate, MPI,
Slurm, Flux or Ray with the same output, and whatever ``GREENML_RUN_DIR`` names a run for. Any other process begins a
run of its own. An output that belongs to another run is never written over: the new run takes the next free name
(``run-2.json``), unless it resumes the old one.

What a process is (rank, world size, launcher, launch, machine, and the names that a scheduler gives) is read from the
process and its environment; no other machine is asked. The launch is what processes of one run have in common: the name
that their launcher gives it, where it gives one, and the process that started them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from greenml import files
from greenml.errors import RecordError, SettingsError, is_of_handler
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths
from greenml.trace.file import TraceWriter, boot_id

RUN_DIR_VARIABLE = "GREENML_RUN_DIR"
_LOOPBACK = re.compile(
    r":((ip6-)?localhost[\w.-]*|127\.[\d.]+|::1|0\.0\.0\.0):"
)  # the same name on every machine: it names no launch
_NAMED_ALIKE = re.compile(r"torchrun:none:")  # torchrun's run id where the user gives none
_UNIQUE = ("srun", "flux", "mpirun", "torchrun")  # their launches have names that no later launch has


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
    except (OSError, UnicodeEncodeError) as error:  # the latter: a name that the locale's encoding does not have
        where = f"{RUN_DIR_VARIABLE} {run_dir_name}" if run_dir_name else f"output {output}"
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{where}: cannot be written: {reason}; give another output") from None


def named_run(environment: Mapping[str, str]) -> Path | None:
    """Return the run directory that ``GREENML_RUN_DIR`` names for this process; None where it names none.

    What a command of ``greenml run`` left running, or left in a shell's environment, outlives the run: that has ended,
    with its time and its costs, and nobody joins it.
    """
    name = environment.get(RUN_DIR_VARIABLE)
    if not name:
        return None
    members = _members(Path(name))
    watching = [member for member in members if member.header.get("watches")]
    if not watching or any(member.alive for member in members):
        return Path(name)
    for path in trace_paths(Path(name)):
        with contextlib.suppress(RecordError):
            trace = trace_file.read(path)
            if trace.header.get("watches") and trace.status is None:  # it was killed: what it started may go on
                return Path(name)
    return None


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


PID_NAMESPACE = Path("/proc/self/ns/pid")
ANCESTORS = 8  # between a rank and its launcher lie a shell or two at the most
MOST_DIGITS = 10  # of a rank, or a number of machines
SERVER = "server"  # the launcher of a server's workers
_PROXIES = ("--control-port", "--upstream-port")  # options of MPICH's and Intel MPI's proxies: they name their mpirun


@dataclass(frozen=True, slots=True)
class _Launcher:
    """The environment variables by which a launcher is known.

    Attributes:
        name: as the record has it.
        marker: the variable that only this launcher sets.
        rank, world_size, local_rank: the variables of these.
        launch: the variables that together name one launch.
        restarts: the variable that counts how often the launcher started its processes again.
    """

    name: str
    marker: str
    rank: str
    world_size: str
    local_rank: str
    launch: tuple[str, ...] = ()
    restarts: str = ""


# The first whose marker is there counts: torchrun inside a Slurm step is torchrun.
_LAUNCHERS = (
    _Launcher("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK",
              ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"), "TORCHELASTIC_RESTART_COUNT"),
    _Launcher("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
              "OMPI_COMM_WORLD_LOCAL_RANK", ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")),
    _Launcher("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
              "MV2_COMM_WORLD_LOCAL_RANK"),
    _Launcher("flux", "FLUX_TASK_RANK", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", ("FLUX_JOB_ID",)),
    _Launcher("mpirun", "PMI_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", ("I_MPI_HYDRA_UUID", "PALS_APID")),
    _Launcher("deepspeed", "CROSS_RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", ("MASTER_ADDR", "MASTER_PORT")),
    _Launcher("srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID",
              ("SLURM_JOB_ID", "SLURM_STEP_ID"), "SLURM_RESTART_COUNT"),
    _Launcher("distributed", "RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", ("RAY_JOB_ID", "MASTER_ADDR", "MASTER_PORT")),
)  # fmt: skip

# The name in the record: the variables that may hold it, the first that is set counts.
_JOBS: Mapping[str, tuple[str, ...]] = {
    "azureml_run": ("AZUREML_RUN_ID",),
    "azureml_experiment": ("AZUREML_ARM_PROJECT_NAME", "AZUREML_EXPERIMENT_NAME"),
    "azureml_workspace": ("AZUREML_ARM_WORKSPACE_NAME",),
    "slurm_job": ("SLURM_JOB_ID",),
    "slurm_job_name": ("SLURM_JOB_NAME",),
    "slurm_cluster": ("SLURM_CLUSTER_NAME",),
    "slurm_account": ("SLURM_JOB_ACCOUNT",),
    "slurm_partition": ("SLURM_JOB_PARTITION",),
    "slurm_qos": ("SLURM_JOB_QOS",),
    "slurm_array_job": ("SLURM_ARRAY_JOB_ID",),
    "slurm_array_task": ("SLURM_ARRAY_TASK_ID",),
    "slurm_restarts": ("SLURM_RESTART_COUNT",),
    "kubernetes_pod": ("POD_NAME", "KUBERNETES_POD_NAME"),
    "kubernetes_namespace": ("POD_NAMESPACE", "KUBERNETES_NAMESPACE"),
    "kubernetes_job": ("JOB_NAME",),
    "sagemaker_job": ("TRAINING_JOB_NAME", "SM_TRAINING_JOB_NAME"),
    "lsf_job": ("LSB_JOBID",),
    "pbs_job": ("PBS_JOBID",),
}


@dataclass(frozen=True, slots=True)
class Job:
    """The identity of a process.

    Attributes:
        boot_id: tells this boot of this machine from all others, whatever the machine's host names are.
        pid_namespace: tells process ids of one container from those of another on the same machine.
        rank, world_size, local_rank: None for a process that no launcher started.
        launcher: torchrun, deepspeed, mpirun, srun, flux, distributed, server, or "".
        launch: the launcher's name for this launch, the same on all its hosts; "" where it gives none.
        restarts: how often the launcher started its processes again.
        parent: the launcher's process on this machine, as pid and start time; of a process without a launcher, the
            process that started it.
        nodes: the number of machines, where the scheduler gives it.
        names: the scheduler's names: ``slurm_job``, ``azureml_run`` ...
    """

    host: str
    boot_id: str
    pid: int
    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    launcher: str = ""
    launch: str = ""
    restarts: int = 0
    parent: str = ""
    nodes: int | None = None
    pid_namespace: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if len(text) < MOST_DIGITS and text.isascii() and text.isdecimal() else None


def current(environment: Mapping[str, str] | None = None) -> Job:
    """Return the identity of this process.

    Args:
        environment: its environment variables; ``os.environ`` by default.
    """
    environment = os.environ if environment is None else environment
    launcher = _launcher(environment)
    rank = world_size = local_rank = None
    launch, restarts = "", 0
    if launcher is not None:
        rank, world_size = _integer(environment, launcher.rank), _integer(environment, launcher.world_size)
        local_rank = _integer(environment, launcher.local_rank)
        restarts = _integer(environment, launcher.restarts) or 0
        launch_names = [environment[name] for name in launcher.launch if environment.get(name)]
        if launch_names:
            launch = ":".join([launcher.name, *launch_names])
    else:
        rank, world_size, launch = _process_group(environment)
    parent, proxy = _parent(launcher)
    if launcher is not None and launcher.marker == "PMI_RANK" and not launch and proxy:
        launch = f"{launcher.name}:{proxy}"
    return Job(
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid=os.getpid(),
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        launcher=launcher.name if launcher is not None else ("distributed" if rank is not None else ""),
        launch=launch,
        restarts=restarts,
        parent=parent,
        nodes=_integer(environment, "SLURM_JOB_NUM_NODES") or _integer(environment, "AZUREML_NODE_COUNT"),
        pid_namespace=_pid_namespace(),
        names=_scheduler_names(environment),
    )


def of_server() -> Job:
    """Return the identity of this process as a server's: the workers of one server have one launch.

    Workers are known by what starts them: ``multiprocessing`` (uvicorn, hypercorn) or gunicorn, which says so in
    ``SERVER_SOFTWARE``. The launch is the server's main process. Any other process is a server of its own.
    """
    job = current({})
    multiprocessing: Any = sys.modules.get("multiprocessing")
    spawned = multiprocessing is not None and multiprocessing.parent_process() is not None
    if not spawned and not os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/"):
        return replace(job, names=_scheduler_names(os.environ))
    launch = f"{SERVER}:{job.boot_id}:{job.pid_namespace}:{job.parent}"
    return replace(job, launcher=SERVER, launch=launch, names=_scheduler_names(os.environ))


def _launcher(environment: Mapping[str, str]) -> _Launcher | None:
    """Return the launcher of a process; a rank without a world size, or outside of it, is a left-over variable.

    ``srun --mpi=pmi2`` sets the variables of MPICH too, as the launcher that it is: with the rank that it gives itself.
    That of a Hydra which it started is another, or that of the only process of its node.
    """
    found: dict[str, tuple[_Launcher, int, int]] = {}
    for launcher in _LAUNCHERS:
        rank, world_size = _integer(environment, launcher.rank), _integer(environment, launcher.world_size)
        if launcher.marker in environment and rank is not None and world_size is not None and rank < world_size:
            found[launcher.marker] = launcher, rank, world_size
    mpich, slurm = found.get("PMI_RANK"), found.get("SLURM_STEP_ID")
    if mpich is not None and slurm is not None and mpich[1:] == slurm[1:]:
        del found["PMI_RANK"]
    return next((launcher for launcher, _, _ in found.values()), None)


def _process_group(environment: Mapping[str, str]) -> tuple[int | None, int | None, str]:
    """Return rank, world size and launch by an initialised torch.distributed, as under ``torch.multiprocessing``."""
    distributed: Any = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None, None, ""
        rank, world_size = int(distributed.get_rank()), int(distributed.get_world_size())
    except Exception:  # noqa: BLE001  a process group in any state is no reason to fail a training
        return None, None, ""
    address = [environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if environment.get(name)]
    return rank, world_size, ":".join(["distributed", *address]) if address else ""


def _scheduler_names(environment: Mapping[str, str]) -> dict[str, str]:
    names = {
        name: next(environment[variable] for variable in variables if environment.get(variable))
        for name, variables in _JOBS.items()
        if any(environment.get(variable) for variable in variables)
    }
    if "KUBERNETES_SERVICE_HOST" in environment and "kubernetes_pod" not in names:
        names["kubernetes_pod"] = environment.get("HOSTNAME", socket.gethostname())
    elif "KUBERNETES_SERVICE_HOST" not in environment:
        names = {name: value for name, value in names.items() if not name.startswith("kubernetes")}
    return names


def _pid_namespace() -> str:
    try:
        return str(PID_NAMESPACE.readlink())
    except OSError:  # not Linux
        return ""


def _parent(launcher: _Launcher | None) -> tuple[str, str]:
    """Return the process that started this one, and the launch that an MPI proxy above it names.

    A launcher may start each rank through a shell script. The launcher's process is the nearest ancestor that has not
    got the rank variable in its environment itself.
    """
    pid, proxy = os.getppid(), ""
    try:
        import psutil

        process = psutil.Process(pid)
        if launcher is None:
            return f"{pid}@{process.create_time():.2f}", ""
        for _ in range(ANCESTORS):
            above = process.parent() if launcher.rank in process.environ() else None
            if above is None:
                break
            process = above
        parent = f"{process.pid}@{process.create_time():.2f}"
        words = process.cmdline()
        proxy = next((value for word, value in pairwise(words) if word in _PROXIES), "")
        if proxy and "--upstream-host" in words[:-1]:
            proxy = f"{words[words.index('--upstream-host') + 1]}:{proxy}"
    except Exception as error:  # gone already, of another user, or a container without /proc
        if is_of_handler(error):
            raise
        return str(pid), ""
    return parent, proxy
