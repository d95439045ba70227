"""How runs of several starts and several processes end: each has its status, its time, and its card."""

from __future__ import annotations

import builtins
import importlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import greenml
from greenml.analysis import record_search
from greenml.record import file as records
from greenml.reports import model_card
from greenml.run import exit_hooks

Group = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.10 has none
CELLS = """
import sys, threading, time
import greenml

def cell(name, output="run.json"):
    return greenml.track(output, name=name).start()

first = cell("first")
first.params(lr=1)
time.sleep(0.4)
{middle}
second = cell("second")
second.params(lr=2)
print(first.record.status if first.record else None, flush=True)
second.stop()
first.stop("failed", "too late")
"""


def run_cells(folder: Path, middle: str) -> str:
    code = CELLS.replace("{middle}", middle)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stdout.strip()


def test_a_start_cell_that_is_run_twice_ends_the_first_run(tmp_path: Path):
    assert run_cells(tmp_path, "") == "completed"
    first, second = records.read(tmp_path / "run.json"), records.read(tmp_path / "run-2.json")
    assert [(record.name, record.status, record.params["lr"]) for record in (first, second)] == [
        ("first", "completed", 1), ("second", "completed", 2),
    ]  # fmt: skip
    assert first.run_id != second.run_id
    assert first.ended is not None
    assert first.ended <= second.started
    assert 0.4 <= first.duration_seconds <= (second.started - first.started).total_seconds()
    assert [note.code for note in first.notes].count("started-again") == 1


def test_an_error_that_an_interactive_session_showed_before_a_run_is_no_failure_of_it(tmp_path: Path):
    lines = """\
import greenml
before = greenml.track("before.json").start()
1 / 0
after = greenml.track("after.json").start()
"""
    ran = subprocess.run(
        [sys.executable, "-i", "-q"], input=lines, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "ZeroDivisionError" in ran.stderr
    ends = {name: (record.status, record.error) for name in ("before", "after")
            for record in [records.read(tmp_path / f"{name}.json")]}  # fmt: skip
    assert ends == {"before": ("failed", "ZeroDivisionError: division by zero"), "after": ("completed", None)}


def test_a_run_that_was_stopped_within_an_import_ends_though_its_folder_is_gone(tmp_path: Path, monkeypatch):
    run = greenml.track(tmp_path / "gone" / "run.json").start()
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "stops_the_run.py").write_text("import running\nrunning.run.stop()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "running", SimpleNamespace(run=run))
    importlib.import_module("stops_the_run")
    run.log(loss=1.0)
    assert run._is_active(), "the record is owed"
    assert run.stop() is None
    assert not run._is_active()


@pytest.mark.parametrize(
    ("middle", "names"),
    [
        ('third = cell("third", "other.json")', ["other.json", "run-2.json", "run.json"]),  # another output
        ('first.stop("failed", "error")', ["run-2.json", "run.json"]),  # ended already
    ],
)
def test_runs_that_were_not_started_in_its_place_go_on(tmp_path: Path, middle: str, names: list[str]):
    run_cells(tmp_path, middle)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == names
    statuses = {path.name: records.read(path).status for path in tmp_path.glob("*.json")}
    assert statuses["run.json"] == ("failed" if "failed" in middle else "completed")
    notes = {note.code for path in tmp_path.glob("*.json") for note in records.read(path).notes}
    assert ("started-again" in notes) == ("failed" not in middle)


CONCURRENT = """
import threading
import greenml

def start():
    runs.append(greenml.track("run.json").start())

runs = []
with greenml.track("run.json") as outer:
    with greenml.track("run.json") as inner:
        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        start()
        print([run.record is None for run in (outer, inner, *runs)])
        for run in runs:
            run.stop()
"""


def test_blocks_and_threads_have_runs_of_their_own(tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-c", CONCURRENT], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "[True, True, True, True, True]\n"
    assert len(list(tmp_path.glob("*.json"))) == 5


RANK = """
import os, signal, sys
import greenml
run = greenml.track("run.json").start()
print("up", flush=True)
sys.stdin.readline()
if os.environ["RANK"] == "0":
    run.card("README.md")
run.log(**{"rank_" + os.environ["RANK"]: 1})
if len(sys.argv) > 1:
    os.kill(os.getpid(), signal.SIGKILL)
run.stop()
print("ended", flush=True)
"""


def ranks(folder: Path, *, killed: bool) -> None:
    """Two ranks of a launch of which rank 0 ends first."""
    processes = []
    for number in range(2):
        words = ["killed"] if killed and number == 1 else []
        variables = {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29512"}
        process = subprocess.Popen(
            [sys.executable, "-c", RANK, *words], cwd=folder, env={**os.environ, **variables},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    for process in processes:
        process.communicate("\n", timeout=60)
        time.sleep(1.5)  # the card that rank 0 wrote has another duration than the last


@pytest.mark.slow
def test_the_last_process_to_end_writes_the_card_of_another(tmp_path: Path):
    ranks(tmp_path, killed=False)
    record, card = records.read(tmp_path / "run.json"), (tmp_path / "README.md").read_text()
    assert record.status == "completed"
    assert record.metrics == {"rank_0": 1, "rank_1": 1}, "rank 1 wrote the record"
    assert "running" not in card
    assert model_card.insert(card, record) == card, "and the card, of which only rank 0 was told"


@pytest.mark.slow
def test_a_card_is_not_left_running_by_a_rank_that_is_killed(tmp_path: Path):
    ranks(tmp_path, killed=True)
    assert records.read(tmp_path / "run.json").status == "completed"
    assert "running" not in (tmp_path / "README.md").read_text()
    record = record_search.open_record(tmp_path / "run.json")
    assert record.status == "completed"
    assert record.attempts[0].processes == 2


def test_a_record_that_says_running_is_made_again_from_its_traces(tmp_path: Path):
    code = "import greenml, os\nrun = greenml.track('run.json').start()\nrun.save()\nos.kill(os.getpid(), 9)\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=False)
    written = records.read(tmp_path / "run.json")
    later = (tmp_path / "run.json").stat().st_mtime + 60
    os.utime(tmp_path / "run.json", (later, later))
    assert (written.status, record_search.open_record(tmp_path / "run.json").status) == ("running", "killed")


def test_signals_that_come_faster_than_saves_end_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each interrupts the save of the one before; what the last of them said is in the record all the same."""
    from greenml.run import finish

    real, begun = finish.finish, []
    run = greenml.track(tmp_path / "run.json", gpus="").start()

    def interrupted(*arguments: object) -> object:
        begun.append(1)
        if len(begun) < 50:  # a handler's
            run.params(signal=len(begun))
            run.save()
        return real(*arguments)

    monkeypatch.setattr(finish, "finish", interrupted)
    saved = run.save()
    assert len(begun) <= 12
    assert saved is not None
    assert records.read(tmp_path / "run.json").params["signal"] == len(begun)
    monkeypatch.undo()
    assert run.stop() is not None


def test_a_log_handler_of_the_program_that_raises_ends_no_training(tmp_path: Path):
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no disk for logs")

    handler = Broken()
    logging.getLogger().addHandler(handler)
    try:
        run = greenml.track(tmp_path / "run.json", gpus="").start()
        run.progress(samples=1)  # no such argument, which is told by a warning
        record = run.stop()
    finally:
        logging.getLogger().removeHandler(handler)
    assert record is not None
    assert any(note.code == "call-failed" for note in record.notes)


@pytest.mark.parametrize(
    ("status", "error", "kept", "notes"),
    [
        ("FAILED", "no", "failed", 0), ("FINISHED", None, "completed", 1), ("crashed", "no", "failed", 1),
        (0, None, "completed", 1), (object(), None, "completed", 1),
    ],
)  # fmt: skip
def test_a_word_that_is_no_status_costs_no_end(tmp_path: Path, status, error, kept: str, notes: int):
    run = greenml.track(tmp_path / "run.json").start()
    record = run.stop(status, error)
    assert record is not None
    assert (record.status, record.error) == (kept, error)
    said = [note.text for note in record.notes if note.code != "sensor-absent"]
    assert len(said) == notes
    assert all("is no status" in text for text in said)


def test_a_status_so_far_that_is_none_is_the_end_of_a_process_that_says_no_more(tmp_path: Path):
    code = "import os, greenml; greenml.track('run.json').start().save('FINISHED'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert record_search.open_record(tmp_path / "run.json").status == "completed"


def test_a_run_that_several_threads_start_is_started_once(tmp_path: Path):
    run = greenml.track(tmp_path / "run.json")
    threads = [threading.Thread(target=run.start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.stop()
    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    assert not [thread for thread in threading.enumerate() if thread.name == "greenml-sampler"]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_what_is_kept_before_the_start_or_after_the_end_is_said_to_be_lost(tmp_path: Path, caplog):
    run = greenml.track(tmp_path / "run.json")
    run.params(lr=1)
    run.params(batch=2)
    with run:
        run.params(seed=3)
    run.log(accuracy=0.9)
    assert said(caplog) == [
        "greenml: Run.params() had no effect: the run has not started",
        "greenml: Run.log() had no effect: the run has ended",
    ]
    assert run.record is not None
    assert (run.record.params, run.record.metrics) == ({"seed": 3}, {})


def test_a_run_that_is_started_again_after_its_end_is_said_not_to_be_measured(tmp_path: Path, caplog):
    run = greenml.track(tmp_path / "run.json").start()
    first = run.stop()
    with run:
        pass
    assert run.record is first
    assert said(caplog) == ["greenml: this run has ended and is not measured again; greenml.track() makes another"]


@pytest.mark.parametrize("again", [False, True])
def test_traces_that_were_removed_under_a_run_are_named_unless_its_folder_went_with_them(
    tmp_path: Path, caplog, again: bool
):
    """As by a program that empties its output's folder after the start."""
    run = greenml.track(tmp_path / "out.json" / ".." / "out" / "run.json").start()
    shutil.rmtree(tmp_path / "out")
    if again:
        (tmp_path / "out").mkdir()
    run.stop()
    assert len(said(caplog)) == again
    assert all("run.json cannot be written: its traces" in text for text in said(caplog))


@pytest.mark.parametrize(("code", "ending"), [(0, ("completed", None)), (3, ("failed", "Exit: 3"))])
def test_an_exit_of_click_and_typer_is_a_failure_by_its_code(code, ending):
    assert exit_hooks.outcome(click.exceptions.Exit(code)) == ending


@pytest.mark.skipif(Group is None, reason="Python has no groups of exceptions")
def test_a_group_of_one_exception_is_that_one():
    """As asyncio's TaskGroup and trio raise what ended one of their tasks."""
    lone = Group("errors in a TaskGroup", [ValueError("no memory")])
    assert exit_hooks.outcome(lone) == ("failed", "ValueError: no memory")
    assert exit_hooks.outcome(Group("", [Group("", [KeyboardInterrupt()])])) == ("interrupted", "KeyboardInterrupt")
    several = Group("two", [ValueError(), OSError()])
    assert exit_hooks.outcome(several) == ("failed", "ExceptionGroup: two (2 sub-exceptions)")


def test_a_program_without_arguments_has_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in a Python that another program embeds."""
    monkeypatch.delattr(sys, "argv")
    record = greenml.track(tmp_path / "run.json").start().stop()
    assert record is not None
    assert record.environment.command == [""]


@pytest.mark.skipif(sys.platform == "win32", reason="links are not everybody's there")
def test_a_folder_that_cannot_be_looked_at_ends_no_training(tmp_path: Path, caplog):
    """As that of a network whose ticket expired, or whose server is gone: every call of it fails."""
    folder = tmp_path / "out"
    folder.mkdir()
    run = greenml.track(folder / "run.json").start()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to("x" * 300)
    assert run.stop() is None
    assert any("out/run.json was not written" in text for text in said(caplog))


def test_a_card_whose_name_is_too_long_costs_the_card_alone(tmp_path: Path, caplog):
    run = greenml.track(tmp_path / "run.json").start()
    run.card(tmp_path / ("x" * 300))
    assert run.stop() is not None
    assert all("the model card was not written" in text for text in said(caplog))
    assert said(caplog)
