"""Compaction: the file is bounded and what was measured stays."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.energy import integrate
from greenml.energy.integrate import EnergyCurve
from greenml.run import assembly, compaction
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup, Span, Trace

GPUS = [Device(kind="gpu", id=f"GPU-{number}", name="V100", method="counter", sensor="nvml") for number in range(8)]
COUNTER = GPUS[0]
GAUGE = Device(kind="gpu", id="gauge", name="P100", method="gauge", sensor="nvml", sampled_ratio=0.25)


def watts(second: int) -> float:
    return 60.0 + 37.0 * (second % 7) + (200.0 if second % 50 > 20 else 0.0)


def write(
    writer: TraceWriter,
    seconds: int,
    *,
    phases: tuple[tuple[str, float, float], ...] = (),
    reset_at: int = -1,
    start: int = 0,
    devices: tuple[Device, ...] = (COUNTER, GAUGE),
) -> None:
    """Write what a sampler would: a line a second, one more at each edge of a phase."""
    for key, device in enumerate(devices):
        if not start:
            writer.write(trace_lines.device_line(str(key), device))
    events = [(float(second), "tick", 0) for second in range(start, seconds + 1)]
    for number, (_, begin, end) in enumerate(phases, 1):
        events += [(begin, "begin", number), (end, "end", number)]
    joules, last, offset = (0.0, float(start), 0.0) if not start else (5e5, float(start), 0.0)
    for when, what, number in sorted(events):
        step = when - last
        joules += watts(int(last)) * step
        if int(when) == reset_at and what == "tick":
            offset = joules - 1.0
        if what == "begin":
            writer.write({"phase": phases[number - 1][0], "begin": number + start, "t": when})
        elif what == "end":
            writer.write({"end": number + start, "t": when})
        rollups = {
            str(key): Rollup(
                last, when,
                joules - offset + 1000.0 if device.method == "counter" else None,
                watts(int(last)) * step if step else None, step, watts(int(last)), 0.25 * step,
                (int(last) % 10) / 10, 0.5, 1000.0 * int(last), 1000 * int(last) + 7,
            )
            for key, device in enumerate(devices)
        }  # fmt: skip
        writer.write(trace_lines.sample_line(when, rollups, edge=what != "tick" or not step))
        last = when


def opened(folder: Path) -> TraceWriter:
    folder.mkdir(exist_ok=True)
    return TraceWriter(folder / "a.jsonl", {"run_id": "r", "start_seconds": 0.0, "unix_seconds": 1e9})


PHASES = (("setup", 3.25, 17.5), ("train", 20.125, 901.75), ("train/eval", 400.5, 433.375), ("predict", 905.0, 990.0))


def curves(read: Trace) -> dict[str, EnergyCurve]:
    found = {}
    for key, device in read.devices.items():
        known = integrate.curve_of(device, [read.rollups[key]])
        assert known.curve is not None
        found[device.id] = known.curve
    return found


def weighted(rollups: list[Rollup], name: str) -> float:
    seconds = sum(rollup.end_seconds - rollup.start_seconds for rollup in rollups)
    return sum(getattr(rollup, name) * (rollup.end_seconds - rollup.start_seconds) for rollup in rollups) / seconds


def test_what_was_measured_stays(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 1000, phases=PHASES)
    before = trace_file.read(writer.path)
    size = writer.size_bytes
    resolution = compaction.compact(writer, limit_bytes=size // 4)
    after = trace_file.read(writer.path)
    assert writer.size_bytes <= size // 8 * 1.2
    assert resolution >= 8.0
    assert after.devices == before.devices
    assert after.spans == before.spans
    assert after.last_seconds == before.last_seconds
    was, now = curves(before), curves(after)
    for name in was:
        ends = [(0.0, 1000.0), *((begin, end) for _, begin, end in PHASES)]
        for start, end in ends:
            assert now[name].between(start, end) == pytest.approx(was[name].between(start, end), rel=1e-9)
            assert now[name].covered_between(start, end) == pytest.approx(was[name].covered_between(start, end))
        assert now[name].unsampled_between(0, 1000) == pytest.approx(was[name].unsampled_between(0, 1000), rel=1e-6)
    for key in before.rollups:
        old, new = before.rollups[key], after.rollups[key]
        assert len(new) < len(old) / 3
        assert sum(one.power_joules or 0 for one in new) == pytest.approx(
            sum(one.power_joules or 0 for one in old), rel=1e-9
        )
        assert sum(one.power_seconds for one in new) == pytest.approx(sum(one.power_seconds for one in old), rel=1e-9)
        assert max(one.power_max_watts or 0 for one in new) == max(one.power_max_watts or 0 for one in old) == 482.0
        assert max(one.memory_max_bytes or 0 for one in new) == 999_007
        for name in ("utilization_ratio", "memory_utilization_ratio"):
            assert weighted(new, name) == pytest.approx(weighted(old, name), abs=1e-4)
        assert weighted(new, "memory_mean_bytes") == pytest.approx(weighted(old, "memory_mean_bytes"), abs=2.0)
        for one, other in pairwise(new):
            assert one.end_seconds == other.start_seconds
    writer.close()


def test_a_merged_sample_knows_when_its_last_power_was():
    dated = Rollup(0, 1, None, 90.0, 0.9, 100.0, power_end_seconds=0.9, power_last_watts=100.0)
    silent, polled = Rollup(1, 2), Rollup(1, 2, None, 100.0, 1.0, 100.0)
    merged = [compaction.merge(*two) for two in ((dated, silent), (silent, dated), (polled, silent), (dated, polled))]
    assert [one.power_end_seconds for one in merged] == [pytest.approx(1.9), 0.9, None, None]
    told = replace(GAUGE, sampled_ratio=1.0)
    apart, joined = (integrate.from_power(told, [one]) for one in ([dated, silent], [merged[0]]))
    assert apart is not None
    assert joined is not None
    assert (joined.joules[-1], joined.covered[-1]) == (
        pytest.approx(apart.joules[-1]),
        pytest.approx(apart.covered[-1]),
    )
    assert compaction.merge(silent, silent).power_end_seconds is None


def test_again_and_again_for_a_long_run(tmp_path: Path):
    """Six hours of a run under a small limit: bounded all the time, and right at the end."""
    writer, limit, resolution = opened(tmp_path), 20_000, 2.0
    joules = 0.0
    writer.write(trace_lines.device_line("0", COUNTER))
    for second in range(21_600):
        joules += watts(second)
        rollup = Rollup(max(0, second - 1), second, joules, None, 0.0, watts(second), 0.0, 0.5)
        writer.write(trace_lines.sample_line(second, {"0": rollup}))
        if second % 300 == 0 and writer.size_bytes > limit:
            resolution = compaction.compact(writer, limit, resolution)
            assert writer.size_bytes <= limit
    assert 30 <= resolution <= 1000
    read = trace_file.read(writer.path)
    curve = curves(read)[COUNTER.id]
    assert curve.between(0, 21_600) == pytest.approx(joules - watts(0), rel=1e-9)
    assert curve.covered_between(0, 21_600) == 21_599
    assert max(one.power_max_watts or 0 for one in read.rollups["0"]) == 482.0
    writer.close()


def test_lines_that_come_while_it_works_stay(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 500)
    size = writer.size_bytes
    lines = trace_file.read_lines(writer.path, size)
    write(writer, 520, start=501, phases=(("late", 505.5, 510.5),))
    writer.replace(lines[:10], size)
    writer.write({"note": "x", "text": "after", "t": 521.0})
    read = trace_file.read(writer.path)
    assert len(trace_file.read_lines(writer.path)) == 10 + 20 + 2 * 2 + 1
    assert read.spans == [Span("late", 505.5, 510.5)]
    assert read.notes == [(521.0, "x", "after")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.alive", "a.jsonl"]
    writer.close()


def test_a_reset_keeps_its_place(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 600, reset_at=300)
    before = trace_file.read(writer.path)
    compaction.compact(writer, limit_bytes=1000)
    after = trace_file.read(writer.path)
    for read in (before, after):
        assert integrate.from_counter(COUNTER, [read.rollups["0"]])[1] == 1
    was, now = curves(before)[COUNTER.id], curves(after)[COUNTER.id]
    assert now.between(0, 600) == pytest.approx(was.between(0, 600), rel=1e-9)
    assert len(after.rollups["0"]) < 20
    writer.close()


def test_an_open_phase_stays_open(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 300, phases=(("done", 10.0, 20.0),))
    writer.write({"phase": "train", "begin": 77, "t": 100.0})
    compaction.compact(writer, limit_bytes=100)
    writer.write({"end": 77, "t": 301.0})
    assert trace_file.read(writer.path).spans == [Span("done", 10.0, 20.0), Span("train", 100.0, 301.0)]
    writer.close()


def test_of_metrics_the_later_one_wins_and_a_bounded_number_of_lines_stays(tmp_path: Path):
    writer = opened(tmp_path)
    for step in range(2000):
        writer.write({"metrics": {"loss": step, f"step {step % 3}": step}, "t": float(step)})
        writer.write({"note": "chatter", "text": str(step), "t": float(step)})
    compaction.compact(writer, limit_bytes=1000)
    read = trace_file.read(writer.path)
    assert read.metrics == {"loss": 1999, "step 0": 1998, "step 1": 1999, "step 2": 1997}
    assert len(read.notes) == compaction.MAX_NOTES
    logs = 3 * 167  # of each kind every fourth, for the metrics over time
    assert len(trace_file.read_lines(writer.path)) == 1 + 1 + compaction.MAX_NOTES + logs
    writer.close()


def test_rare_metrics_stay_beside_frequent_ones(tmp_path: Path):
    """A loss each step, an evaluation every 500th, and names that are never the same twice."""
    writer = opened(tmp_path)
    for step in range(5000):
        writer.write({"metrics": {"loss": 1.0 / (step + 1)}, "t": float(step)})
        writer.write({"metrics": {f"batch {step}": step}, "t": float(step)})
        if step % 500 == 499:
            writer.write({"metrics": {"eval_loss": 2.0 / (step + 1)}, "t": step + 0.5})
    compaction.compact(writer, limit_bytes=100_000)
    trace = trace_file.read(writer.path)
    points = assembly.metric_history([(lambda _: 0.0, [trace])])
    assert points["eval_loss"] == [(step + 0.5, 2.0 / (step + 1)) for step in range(499, 5000, 500)]
    assert 150 <= len(points["loss"]) <= assembly.MOST_POINTS
    assert len(trace.logged) <= 500
    assert len(trace.metrics) == 5002
    writer.close()


@pytest.mark.slow
def test_many_phases_are_bounded_too(tmp_path: Path):
    """A phase a step on eight GPUs: the samples at their edges alone would pass any limit."""
    writer, limit = opened(tmp_path), 400_000
    for key, device in enumerate(GPUS):
        writer.write(trace_lines.device_line(str(key), device))
    joules = 1e6
    for step in range(1500):
        writer.write({"phase": "step", "begin": step + 1, "t": step * 1.0})
        for when in (step * 1.0, step + 0.75):
            joules += 100.0
            rollup = Rollup(when, when, joules, 101.1234, 0.5, 311.25, 1.125, 0.9876, 0.4567, 12345678901, 12345678902)
            writer.write(trace_lines.sample_line(when, {str(key): rollup for key in range(8)}, edge=True))
        writer.write({"end": step + 1, "t": step + 0.75})
    assert writer.size_bytes > 4 * limit
    compaction.compact(writer, limit)
    assert writer.size_bytes <= limit
    read = trace_file.read(writer.path)
    assert curves(read)["GPU-7"].between(0, 1500) == pytest.approx(100.0 * 2999, rel=1e-9)
    writer.close()


times = st.floats(0, 1000, allow_nan=False, width=32)


@given(edges=st.lists(times, min_size=2, max_size=80, unique=True), most=st.integers(1, 6))
def test_joined_spans_hold_all_the_phase_and_the_pauses_they_say(edges, most):
    edges = sorted(edges)[: len(edges) // 2 * 2]
    spans = [Span("train", start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    joined, blurred = compaction.join_spans(spans, most)
    assert len(joined) <= max(most, 1)
    before = sum((span.end_seconds or 0) - span.start_seconds for span in spans)
    after = sum((span.end_seconds or 0) - span.start_seconds for span in joined)
    assert after == pytest.approx(before + blurred, abs=1e-6)
    for span in spans:
        assert any(one.start_seconds <= span.start_seconds and span.end_seconds <= one.end_seconds for one in joined)
    for one, other in pairwise(joined):
        assert one.end_seconds < other.start_seconds


def test_the_shortest_pauses_go_first():
    spans = [Span("a", 0, 10), Span("a", 10.04, 20), Span("a", 30, 40), Span("b", 10.01, 10.03)]
    joined, blurred = compaction.join_spans(spans, 3)
    assert [(one.path, one.start_seconds, one.end_seconds, one.count) for one in joined] == [
        ("a", 0, 20, 2),
        ("b", 10.01, 10.03, 1),
        ("a", 30, 40, 1),
    ]
    assert joined[0].seconds == pytest.approx(19.96)
    assert blurred == pytest.approx(0.04)


def test_a_span_within_another_takes_nothing_from_it():
    """Two threads in the same phase: the shorter one ends first."""
    spans = [Span("load", 0, 10), Span("load", 1, 2), Span("load", 50, 60)]
    joined, _ = compaction.join_spans(spans, 2)
    assert [(one.start_seconds, one.end_seconds) for one in joined] == [(0, 10), (50, 60)]
    assert joined[0].seconds == pytest.approx(10)


def test_more_names_than_spans_allowed_comes_to_an_end():
    code = (
        "from greenml.run import compaction; from greenml.trace.types import Span;"
        "print(len(compaction.join_spans([Span(f'step {n}', n, n + 0.5) for n in range(9)], 4)[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) <= 9


def executed_between_pauses(work) -> list[int]:
    """How many lines of Python a thread runs between the pauses of some work, which takes the function that pauses."""
    counts = [0]

    def count(frame, event, _):
        counts[-1] += event == "line"
        return count

    sys.settrace(count)
    try:
        work(lambda: counts.append(0))
    finally:
        sys.settrace(None)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 0])
def test_a_slice_of_the_work_does_not_grow_with_the_trace(tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch):
    """In lines of Python run, not in seconds; with a phase every other second, and without phases."""
    monkeypatch.setattr(compaction, "SLICE_LINES", 50)
    monkeypatch.setattr(compaction, "MAX_SPANS", 200)
    longest, slices = [], []
    for seconds in (1000, 3000):
        starts = range(0, seconds - 1, every) if every else ()
        writer = opened(tmp_path / str(seconds))
        write(writer, seconds, phases=tuple(("step", start + 0.25, start + 0.75) for start in starts))
        counts = executed_between_pauses(
            lambda pause, writer=writer: compaction.compact(writer, writer.size_bytes // 4, pause=pause)
        )
        longest.append(max(counts))
        slices.append(len(counts))
        writer.close()
    assert slices[1] > 2 * slices[0]
    assert longest[1] < 1.5 * longest[0]


def test_lines_that_come_while_it_pauses_stay(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 2000)
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        writer.write({"note": "user", "text": f"pause {pauses}", "t": 2000.0})

    compaction.compact(writer, writer.size_bytes // 4, pause=pause)
    texts = [text for _, _, text in trace_file.read(writer.path).notes]
    assert texts == [f"pause {number}" for number in range(1, pauses + 1)]
    assert pauses > 5
    writer.close()


def test_work_that_is_given_up_leaves_the_trace_as_it_was(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 2000)
    before = writer.path.read_bytes()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compaction.compact(writer, writer.size_bytes // 4, pause=stop)
    assert writer.path.read_bytes() == before
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".alive", ".jsonl"]
    assert writer.write({"note": "user", "text": "after", "t": 1.0})
    writer.close()


def test_a_trace_that_grew_too_large_is_compacted_by_a_thread_of_its_own(tmp_path: Path):
    writer, notes = opened(tmp_path), []
    write(writer, 2000)
    size = writer.size_bytes
    compactor = compaction.Compactor(writer, lambda code, text: notes.append((code, text)), limit_bytes=size // 2)
    compactor.check()
    until = time.monotonic() + 60
    while writer.size_bytes > size // 2 and time.monotonic() < until:
        time.sleep(0.02)
    compactor.stop()
    assert writer.size_bytes <= size // 2
    assert curves(trace_file.read(writer.path))[COUNTER.id].joules[-1] > 0
    assert (notes, [thread.name for thread in threading.enumerate() if "compaction" in thread.name]) == ([], [])
    writer.close()
