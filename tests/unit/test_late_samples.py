"""Power and utilization that a driver's buffer tells every few seconds: each line of the trace gets its part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.energy import integrate
from greenml.sensors.sampler import Window
from greenml.trace.lines import rollups_of, sample_line, share_late
from greenml.trace.types import Device, Reading, Rollup

COUNTER = Device(kind="gpu", id="GPU-1", name="V100", method="counter", sensor="nvml", calibration_ratio=0.05)
SPACING = 0.02


def watts(seconds: float) -> float:
    """Return a load that turns every 0.4 s."""
    return 300.0 if (seconds + 0.005) % 0.8 < 0.4 else 100.0


def joules(seconds: float) -> float:
    """Return its exact integral from 0."""
    periods, rest = divmod(seconds + 0.005, 0.8)
    return periods * 160.0 + 300.0 * min(rest, 0.4) + 100.0 * max(0.0, rest - 0.4)


def run(reads: list[tuple[float, bool]]) -> list[dict]:
    """Return a trace with a line a read; where told, the read takes in the driver's samples."""
    window, lines, number = Window(5.0, 0.0), [], 0
    for at, sampled in reads:
        samples = []
        while sampled and number * SPACING <= at:
            samples.append((number * SPACING, watts(number * SPACING)))
            number += 1
        busy = [(stamp, value / 400) for stamp, value in samples]
        follows = not samples
        window.add(
            at,
            Reading(
                joules(at),
                watts(at),
                samples,
                utilization_samples=busy,
                power_follows=follows,
                utilization_follows=follows,
            ),
        )
        rollup = window.take()
        assert rollup is not None
        lines.append(sample_line(at, {"0": rollup}))
    return lines


def rollups(lines: list[dict]) -> list[Rollup]:
    found, last = [], {}
    for line in lines:
        for key, rollup in rollups_of(line, last):
            last[key] = rollup.end_seconds
            found.append(rollup)
    return found


@given(pauses=st.lists(st.sampled_from([0.05, 0.2, 0.5, 1.0]), min_size=2, max_size=60), every=st.integers(1, 7))
def test_samples_that_are_read_late_make_the_same_trace_as_those_read_at_once(pauses, every):
    reads, at = [(0.0, True)], 0.0
    for number, pause in enumerate(pauses):
        at += pause
        reads.append((at, number % every == every - 1))
    reads.append((at + 0.3, True))
    late, at_once = rollups(share_late(run(reads))), rollups(run([(at, True) for at, _ in reads]))
    for ours, truth in zip(late, at_once, strict=True):
        for name in ("energy_joules", "power_joules", "power_seconds", "swing_joules",
                     "utilization_ratio", "power_end_seconds"):  # fmt: skip
            value = getattr(truth, name)
            assert getattr(ours, name) == (None if value is None else pytest.approx(value, abs=2e-3)), name
        assert ours.power_max_watts >= truth.power_max_watts


def test_power_that_comes_late_agrees_with_the_counter():
    rows = rollups(share_late(run([(float(second), second % 5 == 0) for second in range(61)])))
    assert integrate.curve_of(COUNTER, [rows]).notes == ()
    power = integrate.from_power(COUNTER, [rows])
    assert power is not None
    assert power.covered_between(0.0, 60.0) == pytest.approx(60.0, abs=0.1)
    for start in (0.0, 3.0, 21.0):
        assert power.between(start, start + 4.0) == pytest.approx(joules(start + 4.0) - joules(start), rel=0.01)


def test_a_reset_is_bridged_with_the_power_of_its_own_time():
    """What was drawn in the second of the reset, though the driver's samples were read three seconds later."""
    lines = run([(float(second), second in (0, 5, 10)) for second in range(11)])
    for line in lines[7:]:
        line["d"]["0"][1] -= joules(6.5)  # the counter began at 0 again
    known = integrate.curve_of(COUNTER, [rollups(share_late(lines))])
    assert known.curve is not None
    assert known.curve.between(0.0, 10.0) == pytest.approx(joules(10.0), rel=0.005)
    assert known.curve.between(6.0, 7.0) == pytest.approx(joules(7.0) - joules(6.0), rel=0.02)


def test_the_power_of_a_line_whose_samples_never_came_is_that_of_now():
    """The counter's lag is allowed for with it."""
    _, second = rollups(share_late(run([(0.0, True), (1.0, False)])))
    assert (second.power_last_watts, second.power_end_seconds, second.power_joules) == (watts(1.0), None, None)
    assert second.utilization_ratio is None, "nothing told it yet"


def test_lines_that_a_compaction_merged_have_what_came_late():
    lines = run([(0.0, True), (1.0, False), (2.0, False), (3.0, True)])
    whole = rollups(share_late(lines))
    merged = [lines[0], {"t": 2.0, "d": {"0": lines[2]["d"]["0"]}}, lines[3]]
    joined = rollups(share_late(merged))
    assert joined[1].power_joules == pytest.approx(whole[1].power_joules + whole[2].power_joules)
    assert joined[1].power_seconds == pytest.approx(whole[1].power_seconds + whole[2].power_seconds)
    assert joined[1].power_max_watts == 300.0


def test_lines_without_late_samples_stay_as_they_are():
    lines = run([(float(second), True) for second in range(10)])
    assert share_late(lines) == lines


@pytest.mark.parametrize(
    "row", [None, 3, "x", [], [None], [0.0, {}], {"a": 1}, [0.0, 1.0, "2", "3"], [0.0] * 12 + [[["x"], [None], 7]]]
)
def test_a_damaged_row_costs_nothing_else(row):
    lines = run([(0.0, True), (1.0, False), (2.0, True)])
    damaged = [*lines[:2], {"t": 1.5, "d": {"1": row}}, {"t": 1.6, "d": row}, lines[2]]
    shared = share_late(damaged)
    assert [shared[number] for number in (0, 1, 4)] == share_late(lines)
