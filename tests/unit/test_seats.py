"""Seats: who shares a run, who begins another, and that nothing is ever written over."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from greenml import seats, trace
from greenml.errors import SettingsError
from greenml.job import Job
from greenml.seats import Seat
from greenml.trace import TraceWriter

COMMAND = [Path(sys.argv[0]).name]
HERE = socket.gethostname()  # a trace of this host is dead when nobody holds its lock
ALONE = Job(host=HERE, boot_id="b", pid=100, parent="1@1.0")


def rank(number: int, **more: Any) -> Job:
    """A rank that torchrun started here."""
    fields = {
        "host": HERE, "boot_id": "b", "pid": 200 + number, "rank": number, "world_size": 2, "local_rank": number,
        "launcher": "torchrun", "launch": "torchrun:job-77:node-a:29400", "parent": "50@1.0",
    }  # fmt: skip
    return Job(**{**fields, **more})


class Taken:
    """A seat and its trace."""

    def __init__(self, output: Path, job: Job, *, unix: float = 1e9, **options: Any) -> None:
        header = {
            "host": job.host, "boot_id": job.boot_id, "pid": job.pid, "rank": job.rank, "launch": job.launch,
            "parent": job.parent, "restarts": job.restarts, "unix_seconds": unix, "start_seconds": 1.0,
            "command": COMMAND,
        }  # fmt: skip
        options.setdefault("environment", {})
        self.seat: Seat
        self.writer: TraceWriter
        self.seat, self.writer = seats.take(output, job, header, **options)

    @property
    def name(self) -> str:
        return self.seat.output.name

    def end(self) -> None:
        self.writer.write({"status": "completed", "t": 2.0})
        self.writer.close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def test_a_first_run(output: Path):
    one = Taken(output, ALONE)
    assert one.seat.output == output
    assert one.seat.run_dir == output.with_name("run.trace")
    assert (one.seat.attempt, one.seat.joined) == (1, False)
    header = trace.read_header(one.writer.path)
    assert (header["run_id"], header["attempt"]) == (one.seat.run_id, 1)
    one.end()
    assert [path.suffix for path in one.seat.run_dir.iterdir()] == [".jsonl"], "no lock is left"


def test_a_later_run_gets_a_name_of_its_own(output: Path):
    names = []
    for _ in range(3):
        one = Taken(output, ALONE)
        names.append(one.name)
        one.seat.output.write_text(one.name)
        one.end()
    assert names == ["run.json", "run-2.json", "run-3.json"]
    assert output.read_text() == "run.json"
    assert len({path.name for path in output.parent.iterdir()}) == 6


def test_a_killed_run_is_kept_too(output: Path):
    dead = Taken(output, ALONE)
    dead.writer.forget()
    later = Taken(output, replace(ALONE, pid=101))
    assert later.name == "run-2.json"
    later.end()


def test_a_record_without_traces_is_never_written_over(output: Path):
    """One that was imported, or whose traces were deleted."""
    output.write_text("precious")
    one = Taken(output, ALONE)
    assert one.name == "run-2.json"
    assert output.read_text() == "precious"
    one.end()
    assert not output.with_name("run.trace").exists()


def test_another_run_at_the_same_time_goes_elsewhere(output: Path):
    one, other = Taken(output, ALONE), Taken(output, replace(ALONE, pid=101, parent="2@2.0"))
    assert [one.name, other.name] == ["run.json", "run-2.json"]
    assert one.seat.run_id != other.seat.run_id
    one.end()
    other.end()


def test_resume_adds_an_attempt(output: Path):
    for number in (1, 2, 3):
        one = Taken(output, replace(ALONE, pid=100 + number), resume=True)
        assert (one.name, one.seat.attempt, one.seat.joined) == ("run.json", number, False)
        one.end()
    assert len({trace.read_header(path)["run_id"] for path in trace.paths(one.seat.run_dir)}) == 1


def test_resume_of_nothing_begins(output: Path):
    one = Taken(output, ALONE, resume=True)
    assert (one.name, one.seat.attempt) == ("run.json", 1)
    one.end()


def test_resume_without_traces_is_one_line(output: Path):
    output.write_text("{}")
    with pytest.raises(SettingsError, match=r"no traces .* give another output"):
        Taken(output, ALONE, resume=True)


def test_ranks_that_resume_share_the_attempt(output: Path):
    for first in (Taken(output, rank(0)), Taken(output, rank(1))):
        first.end()
    again = [Taken(output, rank(n, parent="60@9.0"), resume=True) for n in (0, 1)]
    assert [one.seat.attempt for one in again] == [2, 2]
    assert [one.seat.joined for one in again] == [False, True]
    for one in again:
        one.end()


def test_ranks_of_a_launch_share_a_run(output: Path):
    ranks = [Taken(output, rank(0)), Taken(output, rank(1)), Taken(output, rank(2, host="node-b", parent="7@7"))]
    assert {one.name for one in ranks} == {"run.json"}
    assert len({one.seat.run_id for one in ranks}) == 1
    assert [one.seat.joined for one in ranks] == [False, True, True]
    for one in ranks:
        one.end()


def test_a_rank_that_comes_after_the_others_have_gone_is_still_of_the_launch(output: Path):
    Taken(output, rank(0)).end()
    late = Taken(output, rank(1))
    assert (late.name, late.seat.joined) == ("run.json", True)
    late.end()


def test_the_same_ranks_again_are_another_run(output: Path):
    for number in (0, 1):
        Taken(output, rank(number)).end()
    again = [Taken(output, rank(number)) for number in (0, 1)]
    assert {one.name for one in again} == {"run-2.json"}
    for one in again:
        one.end()


def test_a_rank_that_begins_its_second_run_does_not_join_a_slower_ranks_first(output: Path):
    first = [Taken(output, rank(number)) for number in (0, 1)]
    first[0].end()
    second = [Taken(output, rank(0))]
    assert second[0].name == "run-2.json"
    first[1].end()
    second.append(Taken(output, rank(1)))
    assert second[1].name == "run-2.json"
    for one in second:
        one.end()


def test_a_restart_by_the_launcher_is_another_attempt(output: Path):
    for number in (0, 1):
        Taken(output, rank(number)).writer.forget()
    again = [Taken(output, rank(number, pid=300 + number, restarts=1)) for number in (0, 1)]
    assert [(one.name, one.seat.attempt, one.seat.joined) for one in again] == [
        ("run.json", 2, False), ("run.json", 2, True),
    ]  # fmt: skip
    for one in again:
        one.end()


def test_a_later_launch_does_not_join_a_finished_one(output: Path):
    for number in (0, 1):
        Taken(output, rank(number)).end()
    later = Taken(output, rank(0, parent="99@9.0"))
    assert later.name == "run-2.json"
    later.end()


def test_two_launches_on_two_hosts_that_name_themselves_alike_are_two_runs(output: Path):
    """torchrun on one machine: its run id is "none" and its address the loopback, on every machine of the world."""
    launch = "torchrun:none:127.0.0.1:29500"
    one = Taken(output, rank(0, launch=launch))
    other = Taken(output, rank(0, launch=launch, host="node-b", boot_id="c", parent="7@7.0"))
    assert [one.name, other.name] == ["run.json", "run-2.json"]
    one.end()
    other.end()


def test_a_tracker_inside_joins_the_run_it_is_told_of(output: Path, tmp_path: Path):
    parent = Taken(output, ALONE)
    environment = {seats.RUN_DIR_VARIABLE: str(parent.seat.run_dir)}
    inside = Taken(tmp_path / "other.json", rank(0, host="node-b"), environment=environment)
    assert (inside.seat.output, inside.seat.run_id) == (output, parent.seat.run_id)
    assert (inside.seat.attempt, inside.seat.joined) == (1, True)
    inside.end()
    parent.end()
    assert not (tmp_path / "other.json").exists()
    assert not (tmp_path / "other.trace").exists()


def test_a_torn_trace_in_the_folder_is_no_obstacle(output: Path):
    run_dir = output.with_name("run.trace")
    run_dir.mkdir()
    (run_dir / "1-node-a-9-x.jsonl").write_text('{"gree')
    one = Taken(output, ALONE)
    assert one.name == "run.json"
    one.end()


@pytest.mark.parametrize("environment", [{}, {seats.RUN_DIR_VARIABLE: "file/run.trace"}])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch, environment):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written: Not a directory; give another output") as error:
        Taken(tmp_path / "file" / "run.json", ALONE, environment=environment)
    assert "\n" not in str(error.value)


PROCESS = """
import json, os, sys, time
from pathlib import Path
from greenml import job, seats, surroundings
from dataclasses import asdict
me = job.current({})
header = {**{k: v for k, v in asdict(me).items() if k != "names"}, "command": surroundings.command(),
          "start_seconds": time.monotonic(), "unix_seconds": time.time()}
print("ready", flush=True)
sys.stdin.readline()
seat, writer = seats.take(Path(sys.argv[1]), me, header, environment={})
print(json.dumps([seat.output.name, seat.run_id, seat.attempt, seat.joined]), flush=True)
sys.stdin.readline()
writer.close()
"""


class Started:
    """A child that takes a seat when it is told to, and leaves it when it is told to."""

    def __init__(self, script: Path, output: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


@pytest.mark.parametrize("there", [False, True], ids=["empty", "a record is there"])
def test_eight_processes_of_one_parent_share_a_run_and_the_next_do_not_join_it(tmp_path: Path, there: bool):
    """Started by their paths, as a shell script or a scheduler does."""
    script, output = tmp_path / "a folder" / "train.py", tmp_path / "run.json"
    script.parent.mkdir()
    script.write_text(PROCESS)
    if there:
        output.write_text("precious")
    names = ["run-2.json", "run-3.json"] if there else ["run.json", "run-2.json"]
    for name, count in zip(names, (8, 2), strict=True):
        children = [Started(script, output) for _ in range(count)]
        assert [child.says() for child in children] == ["ready\n"] * count
        for child in children:
            child.go()
        answers = [json.loads(child.says() or '["nothing", "", 0, false]') for child in children]
        for child in children:
            child.process.communicate("go\n", timeout=30)
        assert {answer[0] for answer in answers} == {name}
        assert len({answer[1] for answer in answers}) == 1
        assert {answer[2] for answer in answers} == {1}
        assert sum(answer[3] for answer in answers) == count - 1
    if there:
        assert output.read_text() == "precious"
