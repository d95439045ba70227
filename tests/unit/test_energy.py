"""The energy curve: it never falls, its parts sum to the whole, and nothing is counted twice."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import energy
from greenml.energy_curve import EnergyCurve
from greenml.model import Device, Rollup

COUNTER = Device(
    kind="gpu", id="GPU-1", name="V100", method="counter", gain_ratio=0.05, step_seconds=0.02, power_limit_watts=300.0
)  # fmt: skip
GAUGE = Device(kind="gpu", id="GPU-2", name="P100", method="gauge", gain_ratio=0.05, step_seconds=0.1)
ESTIMATE = Device(kind="cpu", id="cpu", name="Xeon", method="estimate", gain_ratio=0.3)


def counted(*points: tuple[float, float | None], power: bool = False) -> list[Rollup]:
    """Rollups of a counter's readings (seconds, joules); with power: what was integrated agrees."""
    made, last = [], points[0][0]
    before: float | None = points[0][1]
    for when, joules in points:
        drawn = joules - before if power and joules is not None and before is not None and when > last else None
        made.append(Rollup(last, when, joules, drawn, when - last if drawn is not None else 0.0, None))
        last, before = when, joules
    return made


def drawn(*spans: tuple[float, float, float]) -> list[Rollup]:
    """Rollups of (start, end, watts)."""
    return [Rollup(start, end, None, watts * (end - start), end - start, watts) for start, end, watts in spans]


def curve_of(device: Device, *segments: list[Rollup]) -> EnergyCurve:
    curve = energy.curve_of(device, segments).curve
    assert curve is not None
    return curve


# What a reading tells is older than the reading


def read(
    start: float, end: float, counted: float | None, integrated: float | None, last: float, age: float = 0.0
) -> Rollup:
    """A sample with a power that was read ``age`` before its end."""
    seconds = end - start if integrated is not None else 0.0
    return Rollup(start, end, counted, integrated, seconds, last, power_end_seconds=end - age, power_last_watts=last)


def test_a_counter_gets_what_its_next_update_will_tell():
    """300 W up to 2 s, then 100 W; the counter is 10 ms behind, and the phase ends with the load."""
    late = replace(COUNTER, lag_seconds=0.01)
    told = [read(0, 0, 0.0, None, 300.0), read(0, 2, 600.0, 600.0, 300.0), read(2, 4, 802.0, 200.0, 100.0)]
    curve = curve_of(late, told)
    assert list(curve.times_seconds) == [0, 2, 4]
    assert curve.between(0, 2) == pytest.approx(600)
    assert curve.between(2, 4) == pytest.approx(200), "2 J of the 202 were drawn before"
    assert curve_of(COUNTER, told).between(2, 4) == pytest.approx(202)


def test_a_gauge_gets_what_it_has_not_shown_yet():
    late = replace(GAUGE, lag_seconds=0.05)
    told = [read(0, 0, None, None, 300.0), read(0, 2, None, 600.0, 300.0), read(2, 4, None, 210.0, 100.0)]
    curve = curve_of(late, told)
    assert curve.between(0, 2) == pytest.approx(600)
    assert curve.between(2, 4) == pytest.approx(200)
    assert curve.covered_between(0, 4) == pytest.approx(4)


def test_a_power_that_fell_is_never_taken_from_what_was_told():
    """Allowed for 20 J at 400 W, of which only 5 came: the curve waits until the rest has come too."""
    late = replace(COUNTER, lag_seconds=0.05)
    told = [read(0, 0, 0.0, None, 0.001), read(0, 1, 380.0, 400.0, 400.0)]
    told += [read(1, 1.05, 385.0, 2.0, 0.001), read(1.05, 2.05, 485.0, 100.0, 0.001)]
    curve = curve_of(late, told)
    assert list(curve.joules) == pytest.approx([0, 400, 400, 485], abs=1e-3)


@pytest.mark.parametrize("processes", [(5.0,), (5.0, 1.0), (5.0, 5.0)])
def test_a_counter_that_stands_still_is_not_moved_by_what_is_allowed_for(processes):
    """Also where a driver was loaded anew between two processes, and stands still again."""
    late, segments = replace(COUNTER, lag_seconds=0.05), []
    for place, joules in enumerate(processes):
        segments.append([read(at, at + 1, joules, 100.0 + at, 100.0 + at) for at in range(place * 5, place * 5 + 5)])
    known = energy.curve_of(late, segments)
    assert known.method == "gauge"
    assert known.curve is not None
    whole = sum(100.0 + at for at in range(5 * len(processes)))
    assert known.curve.joules[-1] == pytest.approx(whole + 0.05 * 4 * len(processes))


def test_one_reading_a_process_of_a_counter_that_moves_is_no_standstill():
    known = energy.curve_of(COUNTER, [[read(0, 3, 5.0, 300.0, 100.0)], [read(3, 6, 305.0, 300.0, 100.0)]])
    assert (known.method, known.curve.joules[-1]) == ("counter", 300.0)


def test_a_gap_takes_nothing_from_before_it():
    """The newest sample was 0.1 s old when the driver fell silent: that was drawn, and no update tells it again."""
    first = read(0, 0, None, None, 300.0)
    before = Rollup(0, 1, None, 270.0, 0.9, 300.0, power_end_seconds=0.9, power_last_watts=300.0)
    after = Rollup(5, 6, None, 240.0, 0.8, 300.0, power_end_seconds=5.9, power_last_watts=300.0)
    curve = curve_of(GAUGE, [first, before, Rollup(1, 5), after])
    assert list(curve.joules) == pytest.approx([0, 300, 300, 570])
    assert curve.covered[-1] == pytest.approx(1.9)


def test_a_sample_without_a_new_power_is_no_gap():
    """A driver's buffer that is read twice between two updates has nothing the second time."""
    first = Rollup(0, 1, None, 95.0, 0.95, 100.0, power_end_seconds=0.95, power_last_watts=100.0)
    nothing = Rollup(1, 1.02, power_end_seconds=0.95)
    then = Rollup(1.02, 2, None, 100.0, 1.0, 100.0, power_end_seconds=1.95, power_last_watts=100.0)
    curve = curve_of(GAUGE, [first, nothing, then])
    assert list(curve.covered) == pytest.approx([0, 1, 1.02, 2])
    assert list(curve.joules) == pytest.approx([0, 100, 102, 200])


def test_a_gap_stays_where_it_was():
    first, lost = Rollup(0, 1, None, 100.0, 1.0, 100.0), Rollup(1, 5)
    then = Rollup(5, 6, None, 50.0, 0.5, 100.0)  # from the first reading after the gap on
    curve = curve_of(GAUGE, [first, lost, then])
    assert (curve.covered_between(1, 5), curve.covered_between(5, 6)) == (0, 0.5)
    assert curve.between(1, 5) == 0


def test_a_driver_that_falls_silent_is_believed_for_half_a_second():
    first = Rollup(0, 1, None, 90.0, 0.9, 100.0, power_end_seconds=0.9, power_last_watts=100.0)
    silent = Rollup(1, 3, None, None, 0.0, None, power_end_seconds=0.9)
    curve = curve_of(GAUGE, [first, silent])
    assert curve.covered[-1] == pytest.approx(0.9 + 0.5)
    assert curve.joules[-1] == pytest.approx(140)


joules = st.none() | st.floats(0, 1e9)
steps = st.floats(0, 100) | st.just(1.0)


@st.composite
def segments(draw: st.DrawFn) -> list[list[Rollup]]:
    """Whatever processes might have written: resets, unknowns, gaps, times that overlap."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        when, segment = draw(st.floats(0, 200)), []
        for _ in range(draw(st.integers(1, 12))):
            start = when + draw(st.sampled_from([0.0, 0.0, 0.0, 7.0]))
            end = start + draw(steps)
            covered = draw(st.floats(0, 1)) * (end - start)
            power = draw(st.none() | st.floats(0, 1e5))
            age, last = draw(st.none() | st.floats(0, 3)), draw(st.none() | st.floats(0, 1e3))
            segment.append(
                Rollup(
                    start, end, draw(joules), power, covered if power is not None else 0.0, power,
                    power_end_seconds=None if age is None else end - age, power_last_watts=last,
                )
            )  # fmt: skip
            when = end
        made.append(segment)
    return made


@given(
    made=segments(), device=st.sampled_from([COUNTER, GAUGE, ESTIMATE]), cuts=st.tuples(steps, steps, steps),
    lag=st.sampled_from([0.0, 0.01, 0.55]),
)  # fmt: skip
def test_the_curve_never_falls_and_parts_sum_to_the_whole(made, device, cuts, lag):
    curve = energy.curve_of(replace(device, lag_seconds=lag), made).curve
    if curve is None:
        return
    assert all(a < b for a, b in pairwise(curve.times_seconds))
    for values in (curve.joules, curve.covered, curve.hidden):
        assert all(a <= b for a, b in pairwise(values))
    a, b, c = sorted(cuts)
    for between in (curve.between, curve.covered_between, curve.hidden_between):
        assert between(a, c) == pytest.approx(between(a, b) + between(b, c), rel=1e-9, abs=1e-6)
        assert between(c, a) == 0.0
    first, last = curve.times_seconds[0], curve.times_seconds[-1]
    assert curve.between(-math.inf, math.inf) == curve.between(first, last)
    assert curve.covered_between(first, last) <= (last - first) * (1 + 1e-9) + 1e-9


def test_between_readings_it_is_a_straight_line():
    curve = curve_of(COUNTER, counted((10, 5000), (12, 5400), (13, 5450)))
    assert curve.between(10, 13) == 450
    assert curve.between(11, 12.5) == 200 + 25
    assert curve.between(0, 10) == 0
    assert curve.between(13, 99) == 0


def test_a_reset_is_bridged_with_the_power_of_that_sample():
    rollups = counted((0, 9000), (1, 9100), (2, 50), (3, 150), power=True)
    rollups[2] = Rollup(1, 2, 50, 80.0, 0.75, 110)
    known = energy.curve_of(COUNTER, [rollups])
    assert known.curve is not None
    assert known.curve.between(0, 3) == 100 + 80 + 100
    assert known.curve.covered_between(0, 3) == 2.75
    assert [code for code, _ in known.notes] == ["counter-reset"]
    assert "reset 1 time;" in known.notes[0][1]


def test_a_reset_is_bridged_with_all_power_since_the_counter_was_last_read():
    """Ten seconds in which the driver told power and no counter; then a counter that had begun anew."""
    before = counted((0, 9000), (1, 9300), power=True)
    between = [Rollup(n, n + 1, None, 300.0, 1.0, 300.0) for n in range(1, 11)]
    after = [Rollup(11, 12, 10.0, 300.0, 1.0, 300.0), Rollup(12, 13, 310.0, 300.0, 1.0, 300.0)]
    known = energy.curve_of(COUNTER, [[*before, *between, *after]])
    assert known.curve is not None
    assert known.curve.between(0, 13) == pytest.approx(13 * 300)
    assert known.curve.covered_between(0, 13) == pytest.approx(13)


def test_a_reset_without_power_adds_nothing_and_is_not_covered():
    curve = curve_of(COUNTER, counted((0, 9000), (1, 9100), (2, 50), (3, 150)))
    assert curve.between(1, 2) == 0
    assert curve.covered_between(0, 3) == 2


def test_a_frozen_counter_gives_way_to_power():
    rollups = [Rollup(0, 0, 700.0)] + [Rollup(n, n + 1, 700.0, 250.0, 1.0, 250.0) for n in range(5)]
    known = energy.curve_of(COUNTER, [rollups])
    assert known.method == "gauge"
    assert known.curve is not None
    assert known.curve.between(0, 5) == 1250
    assert "counter-frozen" in [code for code, _ in known.notes]


def test_an_idle_counter_that_stands_still_is_believed_where_no_power_is_drawn():
    rollups = [Rollup(0, 0, 700.0)] + [Rollup(n, n + 1, 700.0, 0.0, 1.0, 0.0) for n in range(5)]
    known = energy.curve_of(COUNTER, [rollups])
    assert (known.method, known.notes) == ("counter", ())


def test_no_counter_at_all_gives_way_to_power_and_says_so():
    known = energy.curve_of(COUNTER, [drawn((0, 1, 100), (1, 2, 200))])
    assert known.method == "gauge"
    assert known.curve is not None
    assert known.curve.between(0, 2) == 300
    assert [code for code, _ in known.notes] == ["counter-missing"]


def test_nothing_known_is_no_curve():
    empty = [Rollup(0, 0), Rollup(0, 1, utilization_ratio=0.5)]
    for device in (COUNTER, GAUGE, ESTIMATE):
        assert energy.curve_of(device, [empty]).curve is None


def test_a_handover_of_a_hardware_counter_is_seamless():
    """The counter went on while nobody looked: from 1200 J to 1500 J in two seconds."""
    curve = curve_of(COUNTER, counted((0, 1000), (1, 1200)), counted((3, 1500), (4, 1600)))
    assert curve.between(0, 4) == 600
    assert curve.covered_between(0, 4) == 4


def test_a_handover_that_cannot_be_is_another_counter():
    """More joules than the card can draw, or fewer than before: the counter was loaded anew in between."""
    for origin in (1e9, 3.0):
        curve = curve_of(COUNTER, counted((0, 1000), (1, 1200)), counted((3, origin), (4, origin + 100)))
        assert curve.between(0, 4) == 300
        assert curve.covered_between(0, 4) == 2


def test_a_handover_of_a_model_counts_what_each_process_modelled():
    """A modelled counter begins with its process: its value at the handover says nothing."""
    curve = curve_of(ESTIMATE, counted((0, 0), (10, 400)), counted((11, 500), (12, 540)))
    assert curve.between(0, 12) == 440
    assert curve.covered_between(10, 11) == 0


def test_a_handover_to_a_process_whose_first_reading_failed_has_an_origin_too():
    known = energy.curve_of(ESTIMATE, [counted((0, 0), (10, 400)), counted((11, None), (12, 5000), (13, 5040))])
    assert known.curve is not None
    assert known.curve.between(0, 13) == 440
    reset = energy.curve_of(COUNTER, [counted((0, 0), (10, 400)), counted((11, None), (12, 3), (13, 43))])
    assert reset.curve is not None
    assert reset.curve.between(0, 13) == 440
    assert reset.notes == ()


@pytest.mark.parametrize(("device", "origin"), [(COUNTER, 1000.0), (ESTIMATE, 7.0)])
def test_two_processes_that_count_at_once_are_not_added(device, origin):
    """Where no claim can be had (a read-only temporary folder) every rank reads the same device."""
    one = counted(*((float(n), 1000.0 + 100 * n) for n in range(11)))
    other = counted(*((n + 0.5, origin + 50 + 100 * n) for n in range(10)))
    curve = curve_of(device, one, other)
    assert curve.between(0, 11) == pytest.approx(1000)


def test_two_processes_that_integrate_power_at_once_are_not_added():
    one = drawn(*((float(n), n + 1.0, 100.0) for n in range(10)))
    other = drawn(*((n + 0.5, n + 1.5, 100.0) for n in range(9)))
    curve = curve_of(GAUGE, one, other)
    assert curve.between(0, 10) == pytest.approx(1000)
    assert curve.covered_between(0, 10) == pytest.approx(10)


def test_a_gap_adds_no_joules_and_is_not_covered():
    curve = curve_of(GAUGE, [*drawn((0, 1, 100)), Rollup(1, 61, None, 50.0, 0.5, 100.0), *drawn((61, 62, 100))])
    assert curve.between(0, 62) == 250
    assert curve.covered_between(0, 62) == 2.5
    handed_over = curve_of(GAUGE, drawn((0, 1, 100)), drawn((31, 32, 100)))
    assert handed_over.between(0, 32) == 200
    assert handed_over.between(1, 31) == 0
    assert handed_over.covered_between(0, 32) == 2


def test_a_lone_reading_is_no_energy():
    assert curve_of(COUNTER, counted((5, 1e6))).between(0, 10) == 0
    assert curve_of(GAUGE, [Rollup(5, 5, power_max_watts=100.0)]).between(0, 10) == 0


@pytest.mark.parametrize(("ratio", "noted"), [(1.0, False), (1.04, False), (1.07, True), (0.9, True)])
def test_counter_and_power_are_held_against_each_other(ratio, noted):
    rollups = [Rollup(0, 0, 0.0)] + [Rollup(n, n + 1, 100.0 * (n + 1), 100 * ratio, 1.0, 100) for n in range(20)]
    known = energy.curve_of(COUNTER, [rollups])
    assert known.curve is not None
    assert known.curve.between(0, 20) == 2000
    assert ["cross-check"] * noted == [code for code, _ in known.notes]
    if noted:
        assert "100.0 W on the mean by the counter" in known.notes[0][1]
    short = energy.curve_of(COUNTER, [rollups[:8]])
    assert short.notes == ()


def test_the_doubt_of_a_counter():
    curve = curve_of(COUNTER, counted(*((float(n), 200.0 * n) for n in range(101))))
    doubt = energy.doubt(COUNTER, curve, "counter", [(10, 60)])
    assert doubt.gain == pytest.approx(0.05 * 10_000)
    assert doubt.edge == pytest.approx(200 * 0.02 * math.sqrt(2 / 3))
    assert (doubt.hidden, doubt.gap) == (0, 0)
    low, high = doubt.band(10_000)
    assert low == pytest.approx(10_000 - math.hypot(500, doubt.edge))
    assert high == pytest.approx(10_000 + math.hypot(500, doubt.edge))
    thrice = energy.doubt(COUNTER, curve, "counter", [(0, 10), (20, 30), (40, 50)])
    assert thrice.edge == pytest.approx(200 * 0.02 * math.sqrt(2))


def test_an_edge_may_fall_into_the_peak():
    """The root mean square of power that is 300 W for half of the time and 100 W for the other is 224 W, not 200."""
    curve = curve_of(COUNTER, counted(*((float(n), 200.0 * n) for n in range(101))))
    doubt = energy.doubt(COUNTER, curve, "counter", [(10, 60)], 300.0)
    assert doubt.edge == pytest.approx(math.sqrt(200 * 300) * 0.02 * math.sqrt(2 / 3))
    assert doubt.edge > 223.6 * 0.02 * math.sqrt(2 / 3)


def test_a_gap_can_only_hide_energy():
    curve = curve_of(COUNTER, counted((0, 0), (10, 2000)))
    doubt = energy.doubt(COUNTER, curve, "counter", [(0, 15)])
    assert doubt.gap == pytest.approx(5 * 300)
    low, high = doubt.band(2000)
    assert low > 2000 - 110
    assert high == pytest.approx(2000 + math.hypot(100, doubt.edge) + 1500)
    unlimited = curve_of(GAUGE, drawn((0, 10, 200)))
    assert energy.doubt(GAUGE, unlimited, "gauge", [(0, 15)]).gap == pytest.approx(5 * 200)


def test_a_part_time_gauge_doubts_its_swing():
    device = Device(kind="gpu", id="a", name="A100", method="gauge", seen_ratio=0.25)
    rollups = [Rollup(n, n + 1, None, 200.0, 1.0, 300.0, 40.0) for n in range(10)]
    curve = curve_of(device, rollups)
    assert energy.doubt(device, curve, "gauge", [(0, 10)]).hidden == pytest.approx(0.75 * 400)
    assert energy.doubt(device, curve, "counter", [(0, 10)]).hidden == 0


@given(made=segments(), device=st.sampled_from([COUNTER, GAUGE, ESTIMATE]), spans=st.lists(st.tuples(steps, steps)))
def test_the_value_lies_in_its_band(made, device, spans):
    known = energy.curve_of(device, made)
    own = [(a, a + b) for a, b in spans if b > 0]
    if known.curve is None or not own:
        return
    value = sum(known.curve.between(*span) for span in own)
    low, high = energy.doubt(device, known.curve, known.method, own).band(value)
    assert 0 <= low <= value <= high
    assert math.isfinite(high)
