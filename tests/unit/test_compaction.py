"""Compaction: the file is bounded and what was measured stays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import compaction, energy, span_joining, trace, trace_lines
from greenml.energy_curve import EnergyCurve
from greenml.model import Device, Rollup, Span, Trace
from greenml.trace import TraceWriter

GPUS = [Device(kind="gpu", id=f"GPU-{number}", name="V100", method="counter", sensor="nvml") for number in range(8)]
COUNTER = GPUS[0]
GAUGE = Device(kind="gpu", id="gauge", name="P100", method="gauge", sensor="nvml", seen_ratio=0.25)


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
    return TraceWriter(folder / "a.jsonl", {"run_id": "r", "start_seconds": 0.0, "unix_seconds": 1e9})


PHASES = (("setup", 3.25, 17.5), ("train", 20.125, 901.75), ("train/eval", 400.5, 433.375), ("predict", 905.0, 990.0))


def curves(read: Trace) -> dict[str, EnergyCurve]:
    found = {}
    for key, device in read.devices.items():
        known = energy.curve_of(device, [read.rollups[key]])
        assert known.curve is not None
        found[device.id] = known.curve
    return found


def weighted(rollups: list[Rollup], name: str) -> float:
    seconds = sum(one.end_seconds - one.start_seconds for one in rollups)
    return sum(getattr(one, name) * (one.end_seconds - one.start_seconds) for one in rollups) / seconds


def test_what_was_measured_stays(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 1000, phases=PHASES)
    before = trace.read(writer.path)
    size = writer.size_bytes
    resolution = compaction.compact(writer, limit_bytes=size // 4)
    after = trace.read(writer.path)
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
        assert now[name].hidden_between(0, 1000) == pytest.approx(was[name].hidden_between(0, 1000), rel=1e-6)
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
    told = replace(GAUGE, seen_ratio=1.0)
    apart, joined = (energy.from_power(told, [one]) for one in ([dated, silent], [merged[0]]))
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
        one = Rollup(max(0, second - 1), second, joules, None, 0.0, watts(second), 0.0, 0.5)
        writer.write(trace_lines.sample_line(second, {"0": one}))
        if second % 300 == 0 and writer.size_bytes > limit:
            resolution = compaction.compact(writer, limit, resolution)
            assert writer.size_bytes <= limit
    assert 30 <= resolution <= 1000
    read = trace.read(writer.path)
    curve = curves(read)[COUNTER.id]
    assert curve.between(0, 21_600) == pytest.approx(joules - watts(0), rel=1e-9)
    assert curve.covered_between(0, 21_600) == 21_599
    assert max(one.power_max_watts or 0 for one in read.rollups["0"]) == 482.0
    writer.close()


def test_lines_that_come_while_it_works_stay(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 500)
    size = writer.size_bytes
    lines = trace.read_lines(writer.path, size)
    write(writer, 520, start=501, phases=(("late", 505.5, 510.5),))
    writer.replace(lines[:10], size)
    writer.write({"note": "x", "text": "after", "t": 521.0})
    read = trace.read(writer.path)
    assert len(trace.read_lines(writer.path)) == 10 + 20 + 2 * 2 + 1
    assert read.spans == [Span("late", 505.5, 510.5)]
    assert read.notes == [(521.0, "x", "after")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.alive", "a.jsonl"]
    writer.close()


def test_a_reset_keeps_its_place(tmp_path: Path):
    writer = opened(tmp_path)
    write(writer, 600, reset_at=300)
    before = trace.read(writer.path)
    compaction.compact(writer, limit_bytes=1000)
    after = trace.read(writer.path)
    for read in (before, after):
        assert energy.from_counter(COUNTER, [read.rollups["0"]])[1] == 1
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
    assert trace.read(writer.path).spans == [Span("done", 10.0, 20.0), Span("train", 100.0, 301.0)]
    writer.close()


def test_metrics_become_one_line_and_the_later_one_wins(tmp_path: Path):
    writer = opened(tmp_path)
    for step in range(2000):
        writer.write({"metrics": {"loss": step, f"step {step % 3}": step}, "t": float(step)})
        writer.write({"note": "chatter", "text": str(step), "t": float(step)})
    compaction.compact(writer, limit_bytes=1000)
    read = trace.read(writer.path)
    assert read.metrics == {"loss": 1999, "step 0": 1998, "step 1": 1999, "step 2": 1997}
    assert len(read.notes) == compaction.MAX_NOTES
    assert len(trace.read_lines(writer.path)) == 1 + 1 + compaction.MAX_NOTES
    writer.close()


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
            one = Rollup(when, when, joules, 101.1234, 0.5, 311.25, 1.125, 0.9876, 0.4567, 12345678901, 12345678902)
            writer.write(trace_lines.sample_line(when, {str(key): one for key in range(8)}, edge=True))
        writer.write({"end": step + 1, "t": step + 0.75})
    assert writer.size_bytes > 4 * limit
    compaction.compact(writer, limit)
    assert writer.size_bytes <= limit
    read = trace.read(writer.path)
    assert curves(read)["GPU-7"].between(0, 1500) == pytest.approx(100.0 * 2999, rel=1e-9)
    writer.close()


times = st.floats(0, 1000, allow_nan=False, width=32)


@given(edges=st.lists(times, min_size=2, max_size=80, unique=True), most=st.integers(1, 6))
def test_joined_spans_hold_all_the_phase_and_the_pauses_they_say(edges, most):
    edges = sorted(edges)[: len(edges) // 2 * 2]
    spans = [Span("train", start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    joined, blurred = span_joining.join(spans, most)
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
    joined, blurred = span_joining.join(spans, 3)
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
    joined, _ = span_joining.join(spans, 2)
    assert [(one.start_seconds, one.end_seconds) for one in joined] == [(0, 10), (50, 60)]
    assert joined[0].seconds == pytest.approx(10)


def test_more_names_than_spans_allowed_comes_to_an_end():
    code = (
        "from greenml import span_joining; from greenml.model import Span;"
        "print(len(span_joining.join([Span(f'step {n}', n, n + 0.5) for n in range(9)], 4)[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=3, check=True)
    assert int(done.stdout) <= 9
