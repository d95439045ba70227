"""How far training was, and when: over processes, attempts and a bounded number of points."""

from __future__ import annotations

import pytest

from greenml.run import assembly
from greenml.trace import file as trace_file
from greenml.trace.file import TraceWriter
from greenml.trace.types import Trace


def trace_of(*progress: tuple[float, dict[str, float]], counts: dict[str, float] | None = None) -> Trace:
    return Trace(path="", header={}, progress=list(progress), facts={"counts": counts} if counts else {})


def shift(seconds: float):
    return lambda one: seconds


def test_steps_and_counts_are_read_off_a_trace(tmp_path):
    writer = TraceWriter(tmp_path / "1-h-1-a.jsonl", {"start_seconds": 5.0, "unix_seconds": 1e9})
    writer.write({"step": 0, "steps": 100, "t": 6.0})
    writer.write({"facts": {"counts": {"samples": 64}}, "t": 8.0})
    writer.write({"step": 10, "steps": 100, "t": 9.0})
    writer.write({"facts": {"counts": {"samples": 128}}, "t": 10.0})
    writer.close()
    read = trace_file.read(tmp_path / "1-h-1-a.jsonl")
    assert assembly.progress([(shift(-5.0), [read])]) == {
        "steps": [(1.0, 0), (4.0, 10)],
        "samples": [(3.0, 64), (5.0, 128)],
    }


def test_an_attempt_goes_on_where_the_one_before_ended():
    """The second resumed from a checkpoint of step 40: ten steps were done twice, and count twice."""
    first = trace_of((0.0, {"step": 0}), (10.0, {"step": 50}))
    second = trace_of((100.0, {"step": 40}), (110.0, {"step": 90}))
    assert assembly.progress([(shift(0.0), [first]), (shift(-88.0), [second])])["steps"] == [
        (0.0, 0),
        (10.0, 50),
        (22.0, 100),
    ]


def test_one_process_speaks_for_the_pace_and_all_for_the_sum():
    lead = trace_of((1.0, {"samples": 10}), (2.0, {"samples": 20}), counts={"samples": 20, "steps": 5})
    other = trace_of((1.5, {"samples": 12}), counts={"samples": 24})
    silent = trace_of()
    assert assembly.progress([(shift(0.0), [silent, lead, other])]) == {"samples": [(1.0, 10), (2.0, 20)]}
    assert assembly.work_counts([silent, lead, other]) == {"samples": 44, "steps": 5}


def test_points_are_bounded_and_keep_their_ends():
    many = trace_of(*((float(at), {"steps": at * 3.0}) for at in range(1, 5001)))
    points = assembly.progress([(shift(0.0), [many])])["steps"]
    assert len(points) == assembly.MOST_POINTS
    assert (points[0], points[-1]) == ((1.0, 3.0), (5000.0, 15000.0))
    assert all(value == 3 * at for at, value in points)


@pytest.mark.parametrize("progress", [[], [(1.0, {"steps": 5})], [(1.0, {"steps": 5}), (2.0, {"steps": 5})]])
def test_a_word_alone_is_no_pace(progress):
    assert assembly.progress([(shift(0.0), [trace_of(*progress)])]) == {}
