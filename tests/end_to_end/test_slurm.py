"""A real Slurm of one node, started here: jobs side by side, one requeued, an array; each record is its own job's."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import greenml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "slurm"
needs_slurm = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("munged", "slurmctld", "slurmd", "sbatch"))),
    reason="needs root, and Debian's slurm-wlm and munge",
)

CONFIGURATION = """
ClusterName=greenml-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=5
JobRequeue=1
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=train Nodes={host} Default=YES MaxTime=5 State=UP
"""
NO_ACCOUNTING = """AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none"""


class Slurm:
    """A cluster of this machine alone, in a folder."""

    accounting = NO_ACCOUNTING
    node = ("slurmd", "-D", "-c")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs get the submitter's environment
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        control, node = (_free_port() for _ in range(2))
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0], control=control, node=node, folder=self.folder,
            user=getpass.getuser(), accounting=self.accounting,
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        self._run(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munge.pid", f"--seed-file={self.folder}/munge.seed",
            f"--log-file={self.folder}/munge.log",
        )  # fmt: skip
        self.wait((self.folder / "munge.socket").exists, "munged has no socket")
        self._start_accounting()
        self._run("slurmctld", "-D")
        self._run(*self.node)
        self.wait(lambda: "idle" in self("sinfo", "--noheader", "--format=%T", check=False), "the node is not idle")

    def _start_accounting(self) -> None:
        """There is none."""

    def _run(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.out").open("wb") as out:
            self._children.append(subprocess.Popen(words, env=self.environment, stdout=out, stderr=out))

    def __call__(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def submit(self, script: str, *options: str, cwd: Path) -> str:
        path = cwd / f"job-{len(list(cwd.glob('job-*')))}.sh"
        path.write_text(script)
        done = self("sbatch", "--parsable", f"--chdir={cwd}", f"--output={cwd}/%j.out", *options, str(path))
        return done.strip().partition(";")[0]

    def state(self, job: str) -> str:
        return self("squeue", "--noheader", "--format=%T", f"--jobs={job}", check=False).strip()

    def wait(self, condition, what: str, seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                logs = "".join(path.read_text(errors="replace")[-800:] for path in sorted(self.folder.glob("*.out")))
                pytest.fail(f"{what}\n{logs}")
            time.sleep(0.2)

    def wait_for_the_end(self, *jobs: str) -> None:
        for job in jobs:
            self.wait(
                lambda job=job: self.state(job) in {"", "COMPLETED"}, f"job {job} does not end: {self.state(job)}"
            )

    def stop(self) -> None:
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


TRAIN = """
import os, pathlib, time
flag = pathlib.Path("flag-" + os.environ["SLURM_JOB_ID"])
begun = time.monotonic()
flag.touch()
while time.monotonic() - begun < {seconds} and not pathlib.Path("go-on").exists():
    sum(number * number for number in range(10_000))
"""


@needs_slurm
def test_two_jobs_on_a_node_and_one_of_them_requeued(slurm: Slurm, tmp_path: Path):
    (tmp_path / "train.py").write_text(TRAIN.format(seconds=60))
    line = "greenml run --resume --quiet --output runs/$SLURM_JOB_ID.json -- python train.py"
    options = ("--ntasks=1", "--cpus-per-task=1", "--requeue", "--comment=greenml")
    script = f"#!/bin/bash\n{line}\n"
    first, second = (slurm.submit(script, *options, f"--job-name={name}", cwd=tmp_path) for name in ("a", "b"))
    flags = [tmp_path / f"flag-{job}" for job in (first, second)]
    slurm.wait(lambda: all(flag.exists() for flag in flags), "the two jobs do not run side by side")
    flags[1].unlink()
    slurm("scontrol", "requeue", second)
    slurm.wait(lambda: slurm.state(second) == "PENDING", "the second is not requeued")
    slurm("scontrol", "update", f"JobId={second}", "StartTime=now+3")  # not after the two minutes that Slurm leaves it
    slurm.wait(flags[1].exists, f"job {second} does not start again")
    (tmp_path / "go-on").touch()
    slurm.wait_for_the_end(first, second)
    one, two = (greenml.open_record(tmp_path / "runs" / f"{job}.json") for job in (first, second))
    assert one.run_id != two.run_id
    assert [attempt.status for attempt in one.attempts] == ["completed"]
    assert len(two.attempts) == 2
    assert two.attempts[0].status in {"failed", "killed", "interrupted"}
    assert two.attempts[1].status == "completed"
    assert two.duration_seconds == pytest.approx(sum(attempt.seconds for attempt in two.attempts), abs=1e-6)
    for record, job, name in ((one, first, "a"), (two, second, "b")):
        jobs = record.environment.jobs
        assert (jobs["slurm_job"], jobs["slurm_job_name"], jobs["slurm_partition"]) == (job, name, "train")
        assert jobs["slurm_cluster"] == "greenml-test"
    assert two.environment.jobs["slurm_restarts"] == "1"


@needs_slurm
def test_the_example_of_an_array(slurm: Slurm, tmp_path: Path):
    (tmp_path / "train.py").write_text(TRAIN.format(seconds=0.5))
    array = slurm.submit(
        (EXAMPLES / "array.sbatch").read_text(), "--ntasks=1", "--gres=none", "--time=2", "--mem=0", cwd=tmp_path
    )
    slurm.wait(lambda: not slurm.state(array), f"the array does not end: {slurm.state(array)}")
    records = sorted((tmp_path / "runs").glob(f"{array}_*.json"))
    assert len(records) == 3, next(iter(tmp_path.glob("*.out"))).read_text()
    tasks = [greenml.open_record(path).environment.jobs for path in records]
    assert [(task["slurm_array_job"], task["slurm_array_task"]) for task in tasks] == [
        (array, str(number)) for number in range(3)
    ]
