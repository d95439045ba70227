"""Phases: how they nest, in threads and tasks, and what may be done with one that ``Run.phase()`` returned."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

import greenml
from greenml.run.track import OpenPhases, Phase


class Phases:
    """Open phases, and what they wrote: ``+path`` for each that began, ``-path`` for each that ended."""

    def __init__(self):
        self.said, self._paths = [], {}
        self._open = OpenPhases(self._write)

    def _write(self, line):
        if "phase" in line:
            self._paths[line["begin"]] = line["phase"]
            self.said.append(f"+{line['phase']}")
        else:
            self.said.append(f"-{self._paths[line['end']]}")

    def phase(self, name):
        return Phase(lambda: self._open.begin(name), self._open.end)


def test_one_phase_serves_several_blocks_and_one_within_itself():
    phases = Phases()
    train = phases.phase("train")
    for _ in range(2):
        with train:
            pass
    with train, train:
        pass
    with pytest.raises(ValueError, match="of the training"), train:
        raise ValueError("of the training")
    assert phases.said == [
        "+train", "-train", "+train", "-train", "+train", "+train/train", "-train/train", "-train", "+train", "-train",
    ]  # fmt: skip


def test_one_phase_in_tasks_that_run_at_once():
    phases = Phases()
    step = phases.phase("step")

    async def work(seconds):
        with step:
            await asyncio.sleep(seconds)

    async def all_work():
        with phases.phase("all"):
            await asyncio.gather(work(0.02), work(0.01))

    asyncio.run(all_work())
    assert phases.said == ["+all", "+all/step", "+all/step", "-all/step", "-all/step", "-all"]


def test_one_phase_in_threads_is_ended_by_the_thread_that_began_it():
    phases, ended = Phases(), []
    step = Phase(lambda: phases._open.begin("step"), lambda number: (ended.append(number), phases._open.end(number)))
    first_is_in, second_is_out = threading.Event(), threading.Event()

    def first():
        with step:
            first_is_in.set()
            second_is_out.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(10)
    with step:
        pass
    second_is_out.set()
    thread.join()
    assert ended == [2, 1]


def test_above_a_function_of_any_kind():
    """Until its coroutine or generator ends, not until that is made."""
    phases = Phases()

    @phases.phase("plain")
    def plain(value):
        return value

    @phases.phase("coroutine")
    async def coroutine():
        await asyncio.sleep(0)
        phases.said.append("coroutine works")

    @phases.phase("generator")
    def generator():
        yield 1
        phases.said.append("generator works")

    assert plain(3) == 3
    asyncio.run(coroutine())
    assert list(generator()) == [1]
    assert phases.said == [
        "+plain", "-plain", "+coroutine", "coroutine works", "-coroutine", "+generator", "generator works",
        "-generator",
    ]  # fmt: skip


def test_a_step_beyond_all_numbers_is_left_out_and_nothing_is_lost(tmp_path, caplog):
    """JSON has no number of so many digits: no line of the trace may fail for it."""
    run = greenml.track(tmp_path / "run.json", gpus="").start()
    with run.phase("train"):
        for step in (10**5000, -(10**5000), float("inf"), float("nan"), "many", 5):
            run.progress(step, steps=10**5000)
            time.sleep(0.001)
    record = run.stop()
    assert record is not None
    assert [phase.path for phase in record.phases] == ["train"]
    assert "could not be written" not in caplog.text


def test_a_phase_of_a_run_that_is_gone_holds_none_of_a_later_run():
    """Python gives a later run the memory, and so the id(), of one that is gone."""
    paths = set()
    for _ in range(50):
        earlier = OpenPhases([].append)
        earlier.begin("earlier")
        del earlier
        said: list[dict[str, object]] = []
        later = OpenPhases(said.append)
        other = threading.Thread(target=later.begin, args=("other",))
        other.start()
        other.join()  # its phase, as the first of its run, has the number of the earlier one
        later.begin("here")
        paths.add(said[-1]["phase"])
        del later
    assert paths == {"here"}


def test_a_phase_that_is_left_more_often_than_entered_says_nothing():
    phases = Phases()
    train = phases.phase("train")
    with train:
        pass
    train.__exit__(None, None, None)
    assert phases.said == ["+train", "-train"]


def test_times_that_are_none_of_the_run_make_it_no_longer(tmp_path):
    """Such as those of another clock."""
    run = greenml.track(tmp_path / "run.json").start()
    for begin, end in ((None, time.time()), (time.time(), None), (0.0, math.nan), (math.nan, None), ("x", "y")):
        number = run.begin_phase("train", begin)
        time.sleep(0.01)
        run.end_phase(number, end)
    record = run.stop(end_seconds=time.time())
    assert record is not None
    assert {note.code for note in record.notes} <= {"sensor-absent"}
    [phase] = record.phases
    assert phase.count == 5
    assert phase.seconds <= 5 * record.duration_seconds < 5 * 60
    assert (record.status, record.ended is not None) == ("completed", True)


@pytest.mark.parametrize("end_seconds", [math.inf, math.nan, "now", 10**400])
def test_an_end_that_is_no_time_is_now(tmp_path, end_seconds):
    run = greenml.track(tmp_path / "run.json").start()
    time.sleep(0.05)
    record = run.stop(end_seconds=end_seconds)
    assert record is not None
    assert record.duration_seconds >= 0.05


def test_numbers_of_other_types_damage_no_line(tmp_path):
    """``True`` counts one, and what equals a phase's number ends that phase."""
    run = greenml.track(tmp_path / "run.json").start()
    numpy = pytest.importorskip("numpy")
    for number, path in ((True, "first"), (numpy.int64(2), "second"), (3.0, "third")):
        assert run.begin_phase(path) == number
        run.end_phase(number)
    run.count(samples=True, tokens=numpy.float32(2))
    record = run.stop()
    assert not [note.text for note in record.notes if note.code == "trace-damaged"]
    assert [phase.path for phase in record.phases] == ["first", "second", "third"]
    assert record.trainer["counts"] == {"samples": 1, "tokens": 2}
