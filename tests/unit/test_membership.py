"""Membership: which processes share a run, which begin another, and that nothing is ever written over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import greenml
from greenml.errors import SettingsError
from greenml.run import membership, recorder
from greenml.run.membership import Job, Membership
from greenml.trace import file as trace_file
from greenml.trace import trace_paths
from greenml.trace.file import TraceWriter

HERE = socket.gethostname()  # a trace of this host is dead when nobody holds its lock
BOOT = trace_file.boot_id()
ALONE = Job(host=HERE, boot_id=BOOT, pid=100, parent="1@1.0")


def rank(number: int, **more: Any) -> Job:
    """A rank that torchrun started here."""
    fields = {
        "host": HERE, "boot_id": BOOT, "pid": 200 + number, "rank": number, "world_size": 2, "local_rank": number,
        "launcher": "torchrun", "launch": "torchrun:job-77:node-a:29400", "parent": "50@1.0",
    }  # fmt: skip
    return Job(**{**fields, **more})


class Joined:
    """A membership and its trace."""

    def __init__(self, output: Path, job: Job, *, unix: float = 1e9, **options: Any) -> None:
        header = {
            **{name: value for name, value in asdict(job).items() if name != "names"},
            "unix_seconds": unix, "start_seconds": 1.0, "command": ["train.py"],
        }  # fmt: skip
        options.setdefault("environment", {})
        self.membership: Membership
        self.writer: TraceWriter
        self.membership, self.writer = membership.join_run(output, job, header, **options)

    @property
    def name(self) -> str:
        return self.membership.output.name

    def end(self) -> None:
        self.writer.write({"status": "completed", "t": 2.0})
        self.writer.close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def test_a_first_run(output: Path):
    member = Joined(output, ALONE)
    assert member.membership.output == output
    assert member.membership.run_dir == output.with_name("run.trace")
    assert (member.membership.attempt, member.membership.joined) == (1, False)
    header = trace_file.read_header(member.writer.path)
    assert (header["run_id"], header["attempt"]) == (member.membership.run_id, 1)
    member.end()
    files = {path.suffix or path.name for path in member.membership.run_dir.iterdir()}
    assert files == {".jsonl", "lock"}, "no .alive file is left"


def test_a_later_run_gets_a_name_of_its_own(output: Path):
    names = []
    for _ in range(3):
        member = Joined(output, ALONE)
        names.append(member.name)
        member.membership.output.write_text(member.name)
        member.end()
    assert names == ["run.json", "run-2.json", "run-3.json"]
    assert output.read_text() == "run.json"
    assert len({path.name for path in output.parent.iterdir()}) == 6


def test_a_killed_run_is_kept_too(output: Path):
    dead = Joined(output, ALONE)
    dead.writer.forget()
    later = Joined(output, replace(ALONE, pid=101))
    assert later.name == "run-2.json"
    later.end()


def test_a_record_without_traces_is_never_written_over(output: Path):
    """One that was imported, or whose traces were deleted."""
    output.write_text("precious")
    member = Joined(output, ALONE)
    assert member.name == "run-2.json"
    assert output.read_text() == "precious"
    member.end()
    assert not output.with_name("run.trace").exists()


def test_another_run_at_the_same_time_goes_elsewhere(output: Path):
    first, second = Joined(output, ALONE), Joined(output, replace(ALONE, pid=101, parent="2@2.0"))
    assert [first.name, second.name] == ["run.json", "run-2.json"]
    assert first.membership.run_id != second.membership.run_id
    first.end()
    second.end()


def test_resume_adds_an_attempt(output: Path):
    for number in (1, 2, 3):
        member = Joined(output, replace(ALONE, pid=100 + number), resume=True)
        assert (member.name, member.membership.attempt, member.membership.joined) == ("run.json", number, False)
        member.end()
    assert len({trace_file.read_header(path)["run_id"] for path in trace_paths(member.membership.run_dir)}) == 1


def test_resume_of_nothing_begins(output: Path):
    member = Joined(output, ALONE, resume=True)
    assert (member.name, member.membership.attempt) == ("run.json", 1)
    member.end()


def test_resume_without_traces_is_one_line(output: Path):
    output.write_text("{}")
    with pytest.raises(SettingsError, match=r"no traces .* give another output"):
        Joined(output, ALONE, resume=True)


def test_ranks_that_resume_share_the_attempt(output: Path):
    for first in (Joined(output, rank(0)), Joined(output, rank(1))):
        first.end()
    again = [Joined(output, rank(n, parent="60@9.0"), resume=True) for n in (0, 1)]
    assert [member.membership.attempt for member in again] == [2, 2]
    assert [member.membership.joined for member in again] == [False, True]
    for member in again:
        member.end()


def test_ranks_of_a_launch_share_a_run(output: Path):
    ranks = [Joined(output, rank(0)), Joined(output, rank(1)), Joined(output, rank(2, host="node-b", parent="7@7"))]
    assert {member.name for member in ranks} == {"run.json"}
    assert len({member.membership.run_id for member in ranks}) == 1
    assert [member.membership.joined for member in ranks] == [False, True, True]
    for member in ranks:
        member.end()


def test_a_rank_that_comes_after_the_others_have_gone_is_still_of_the_launch(output: Path):
    Joined(output, rank(0)).end()
    late = Joined(output, rank(1))
    assert (late.name, late.membership.joined) == ("run.json", True)
    late.end()


def test_the_same_ranks_again_are_another_run(output: Path):
    for number in (0, 1):
        Joined(output, rank(number)).end()
    again = [Joined(output, rank(number)) for number in (0, 1)]
    assert {member.name for member in again} == {"run-2.json"}
    for member in again:
        member.end()


def test_a_rank_that_begins_its_second_run_does_not_join_a_slower_ranks_first(output: Path):
    first = [Joined(output, rank(number)) for number in (0, 1)]
    first[0].end()
    second = [Joined(output, rank(0))]
    assert second[0].name == "run-2.json"
    first[1].end()
    second.append(Joined(output, rank(1)))
    assert second[1].name == "run-2.json"
    for member in second:
        member.end()


def test_a_restart_by_the_launcher_is_another_attempt(output: Path):
    for number in (0, 1):
        Joined(output, rank(number)).writer.forget()
    again = [Joined(output, rank(number, pid=300 + number, restarts=1)) for number in (0, 1)]
    assert [(member.name, member.membership.attempt, member.membership.joined) for member in again] == [
        ("run.json", 2, False), ("run.json", 2, True),
    ]  # fmt: skip
    for member in again:
        member.end()


def test_a_later_launch_does_not_join_a_finished_one(output: Path):
    for number in (0, 1):
        Joined(output, rank(number)).end()
    later = Joined(output, rank(0, parent="99@9.0"))
    assert later.name == "run-2.json"
    later.end()


def test_two_launches_on_two_hosts_that_name_themselves_alike_are_two_runs(output: Path):
    """torchrun on one machine: its run id is "none" and its address the loopback, on every machine of the world."""
    launch = "torchrun:none:127.0.0.1:29500"
    member = Joined(output, rank(0, launch=launch))
    other = Joined(output, rank(0, launch=launch, host="node-b", boot_id="c", parent="7@7.0"))
    assert [member.name, other.name] == ["run.json", "run-2.json"]
    member.end()
    other.end()


def test_a_tracker_inside_joins_the_run_it_is_told_of(output: Path, tmp_path: Path):
    parent = Joined(output, ALONE)
    environment = {membership.RUN_DIR_VARIABLE: str(parent.membership.run_dir)}
    inside = Joined(tmp_path / "other.json", rank(0, host="node-b"), environment=environment)
    assert (inside.membership.output, inside.membership.run_id) == (output, parent.membership.run_id)
    assert (inside.membership.attempt, inside.membership.joined) == (1, True)
    inside.end()
    parent.end()
    assert not (tmp_path / "other.json").exists()
    assert not (tmp_path / "other.trace").exists()


def test_a_torn_trace_in_the_folder_is_no_obstacle(output: Path):
    run_dir = output.with_name("run.trace")
    run_dir.mkdir()
    (run_dir / "1-node-a-9-x.jsonl").write_text('{"gree')
    member = Joined(output, ALONE)
    assert member.name == "run.json"
    member.end()


@pytest.mark.parametrize("environment", [{}, {membership.RUN_DIR_VARIABLE: "file/run.trace"}])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch, environment):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written: Not a directory; give another output") as error:
        Joined(tmp_path / "file" / "run.json", ALONE, environment=environment)
    assert "\n" not in str(error.value)
    assert (membership.RUN_DIR_VARIABLE in str(error.value)) == bool(environment), "what is wrong is named"


def elsewhere(number: int, **more: Any) -> Job:
    """Return a rank of the launch on another machine."""
    return rank(number, host="node-b", boot_id="c", parent="7@7.0", **more)


def end(*members: Joined) -> None:
    for member in members:
        member.end()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ALONE, replace(ALONE, pid=101)),  # two jobs in the background of one shell, two notebooks of one server
        (ALONE, ALONE),  # twice in one process
        (rank(0), rank(0, pid=9)),  # a child of a rank that inherits its environment
        (rank(0), replace(ALONE, parent="50@1.0")),
        (rank(0), rank(1, launch="torchrun:job-78:node-a:29400", parent="51@1.0")),
        (rank(0), rank(1, launcher="srun", launch="srun:7:0")),
        (rank(0), rank(1, world_size=4)),
        (rank(0, launcher="distributed", launch="distributed:node-a:29500"),
         rank(1, launcher="distributed", launch="distributed:node-a:29500", parent="99@9.0")),  # in two shells
        (rank(0, launcher="distributed", launch=""), elsewhere(1, launcher="distributed", launch="")),
        (rank(0, launcher="distributed", launch="distributed:127.0.0.1:29500"),
         elsewhere(1, launcher="distributed", launch="distributed:127.0.0.1:29500")),
        (rank(0, launch="torchrun:none:localhost.localdomain:29500"),  # what a container calls itself
         elsewhere(1, launch="torchrun:none:localhost.localdomain:29500")),
        (rank(0, launcher="mpirun", launch=""), rank(1, launcher="mpirun", launch="", parent="51@1.0")),
    ],
    ids=["one shell", "one process", "child", "no launcher", "launch", "launcher", "world size", "left over", "no name",
         "loopback", "loopback's long name", "mpirun"],
)  # fmt: skip
def test_what_is_not_of_one_launch_is_another_record(output: Path, first: Job, second: Job):
    members = [Joined(output, first), Joined(output, second)]
    assert [member.name for member in members] == ["run.json", "run-2.json"]
    assert members[0].membership.run_id != members[1].membership.run_id
    end(*members)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rank(0), rank(1)),
        (rank(0), rank(1, parent="51@1.0")),  # two agents of torchrun on one machine
        (rank(0), elsewhere(1)),
        (rank(0), rank(1, host="container-b", pid_namespace="pid:[2]", parent="7@7.0")),
        (rank(0, launcher="srun", launch="srun:7:0"), elsewhere(1, launcher="srun", launch="srun:7:0")),
        (rank(0, launcher="mpirun", launch="mpirun:p@1"), elsewhere(1, launcher="mpirun", launch="mpirun:p@1")),
        (rank(0, launcher="mpirun", launch=""), rank(1, launcher="mpirun", launch="")),  # MPICH on one machine
        (rank(0, launcher="distributed", launch="distributed:localhost:29500"),
         rank(1, launcher="distributed", launch="distributed:localhost:29500")),
        (rank(0, launcher="distributed", launch="distributed:node-a:29500"),
         elsewhere(1, launcher="distributed", launch="distributed:node-a:29500")),
        (rank(0, launcher="distributed", launch=""), rank(1, launcher="distributed", launch="")),  # Ray
        (rank(0, pid=10, launcher="distributed", launch="distributed:localhost:1", parent="3@1.0"),
         rank(1, launcher="distributed", launch="distributed:localhost:1", parent="10@2.0")),  # Lightning
    ],
    ids=["torchrun", "two agents", "two machines", "containers", "srun", "mpirun", "mpich", "distributed",
         "distributed on two machines", "ray", "lightning"],
)  # fmt: skip
def test_what_is_of_one_launch_shares_a_run(output: Path, first: Job, second: Job):
    for order in ((first, second), (second, first)):
        members = [Joined(output, job) for job in order]
        assert len({member.membership.run_id for member in members}) == 1
        assert [member.membership.joined for member in members] == [False, True]
        end(*members)


def test_a_launch_that_was_killed_on_two_machines_is_not_joined_by_the_next(output: Path):
    """The next launch has the same name and comes while the other machine's trace is seconds old."""
    for member in [Joined(output, rank(0)), Joined(output, elsewhere(1))]:
        member.writer.forget()
    again = [Joined(output, elsewhere(1, pid=7)), Joined(output, rank(0, pid=8, parent="60@9.0"))]
    assert [(member.name, member.membership.joined) for member in again] == [
        ("run-2.json", False),
        ("run-2.json", True),
    ]
    end(*again)


def test_a_requeued_job_of_slurm_is_another_attempt(output: Path):
    step = {"launcher": "srun", "launch": "srun:4711:0"}
    for job in (rank(0, **step), rank(1, **step)):
        Joined(output, job).writer.forget()
    again = [Joined(output, elsewhere(number, restarts=1, **step)) for number in (1, 0)]
    assert [(member.name, member.membership.attempt) for member in again] == [("run.json", 2)] * 2
    end(*again)


def test_process_ids_come_from_the_headers_of_this_container(output: Path):
    here = rank(0, host="gpu-node-01.some-cluster", pid=11, pid_namespace="pid:[1]")
    others = [
        replace(here, rank=1, pid=12),
        replace(here, rank=2, pid=13, pid_namespace="pid:[2]"),
        replace(here, rank=3, pid=14, boot_id="c"),
        replace(here, rank=4, pid=15, host="other"),
    ]
    members = [Joined(output, job) for job in (here, *others)]
    run_dir = members[0].membership.run_dir
    assert {member.name for member in members} == {"run.json"}
    assert membership.process_ids(run_dir, here) == [11, 12]
    (run_dir / "1-gpu-node-01-9-x.jsonl").write_text('{"greenml_trace": 1, "run_id": "r", "pid": "9"}\n')
    assert membership.process_ids(run_dir, here) == [11, 12]
    end(*members)


def test_processes_are_looked_up_again_where_the_folder_changed_or_may_have(output: Path, monkeypatch):
    """A trace that comes at the same tick of a file system's clock as the look before leaves no other sign."""
    monkeypatch.setattr(recorder, "PIDS_SECONDS", -1.0)
    run = greenml.track(output).start()
    made = run._recorder
    assert made is not None
    run.stop()  # so that the sampler does not look, too
    looks: list[Path] = []
    monkeypatch.setattr(membership, "process_ids", lambda folder, _: looks.append(folder) or [len(looks)])
    now, answers = time.time(), []
    old, older, just_now = now - 3600, now - 7200, now + 3600
    for changed in (old, old, older, just_now, just_now, old, old):
        os.utime(run.run_dir, (changed, changed))
        answers.append(list(made._run_pids()))
    assert answers == [[1], [1], [2], [3], [4], [5], [5]]


CHILD = """
import sys
import greenml
run = greenml.track(sys.argv[1]).start()
run.params(who=sys.argv[2])
print("up", flush=True)
sys.stdin.readline()
run.stop()
"""


def who_shares(folder: Path) -> list[list[str]]:
    """Return the processes of each record below a folder, by the parameter that they logged."""
    groups = []
    for path in sorted(folder.glob("*.trace")):
        traces = [trace_file.read(file) for file in trace_paths(path)]
        groups.append(sorted(trace.params["who"] for trace in traces))
    return sorted(groups)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "groups"),
    [
        ([{}, {}], [["0"], ["1"]]),
        ([{"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "29500"}] * 2, [["0"], ["1"]]),
        ([{"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "2"}] * 2, [["0"], ["1"]]),
        ([{"RANK": "1", "WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}], [["0"], ["1"]]),
        ([{"RANK": str(n), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"} for n in range(2)],
         [["0", "1"]]),
        ([{"OMPI_COMM_WORLD_RANK": str(n), "OMPI_COMM_WORLD_SIZE": "2", "PMIX_NAMESPACE": "x@1"} for n in range(2)],
         [["0", "1"]]),
        ([{"PMI_RANK": str(n), "PMI_SIZE": "2"} for n in range(2)], [["0", "1"]]),
        ([{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": str(n), "SLURM_NTASKS": "2"} for n in range(2)],
         [["0", "1"]]),
        ([{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}] * 2, [["0"], ["1"]]),
    ],
    ids=["one shell", "left over", "rank left over", "world of one", "distributed", "open mpi", "mpich", "srun",
         "jobs in a slurm step"],
)  # fmt: skip
def test_real_processes_of_one_parent(tmp_path: Path, variables: list[dict[str, str]], groups: list[list[str]]):
    """Each from a shell script of its own, as launchers are told to do: the parent of none is this process."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    children = [
        subprocess.Popen(
            ["sh", "-c", f'"{sys.executable}" -c "$0" "$@"; exit $?', CHILD, str(tmp_path / "run.json"), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**kept, **more},
        )
        for number, more in enumerate(variables)
    ]  # fmt: skip
    assert [child.stdout.readline() for child in children if child.stdout] == ["up\n"] * len(children)
    for child in children:
        child.communicate("\n", timeout=60)
    assert who_shares(tmp_path) == groups
    records = sorted(path.name for path in tmp_path.glob("*.json"))
    assert records == ["run-2.json", "run.json"][-len(groups) :]
