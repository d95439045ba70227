"""The energy curve: it never falls, its parts sum to the whole, and nothing is counted twice."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.energy import integrate
from greenml.energy.integrate import EnergyCurve
from greenml.sensors.sampler import Window
from greenml.trace.types import Device, Reading, Rollup

COUNTER = Device(
    kind="gpu", id="GPU-1", name="V100", method="counter", calibration_ratio=0.05, step_seconds=0.02,
    power_limit_watts=300.0,
)  # fmt: skip
GAUGE = Device(kind="gpu", id="GPU-2", name="P100", method="gauge", calibration_ratio=0.05, step_seconds=0.1)
ESTIMATE = Device(kind="cpu", id="cpu", name="Xeon", method="estimate", calibration_ratio=0.3)


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
    curve = integrate.curve_of(device, segments).curve
    assert curve is not None
    return curve


@given(random=st.randoms(use_true_random=False))
def test_intervals_hold_the_truth_and_parts_sum_to_the_whole_whatever_a_counter_does(random):
    """Any power up to the limit; up to three processes in turn; readings missed, a reset, power beside it or none."""
    seconds = random.uniform(5, 40)
    changes = [0.0, *sorted(random.uniform(0, seconds) for _ in range(random.randint(1, 20))), seconds]
    watts = [random.choice([0.5, 30.0, 150.0, 300.0]) for _ in changes[1:]]

    def truth(start: float, end: float) -> float:
        pieces = zip(pairwise(changes), watts, strict=True)
        return sum(power * max(0.0, min(end, after) - max(start, before)) for (before, after), power in pieces)

    reset = random.choice([math.inf, random.uniform(0, seconds)])
    with_power = random.random() < 0.5
    segments, last = [], random.uniform(0, 1)
    while last < seconds and len(segments) < 3:
        end, segment = min(seconds, last + random.uniform(1, seconds)), []
        start, when = last, last
        while True:
            counted = 5e5 + truth(0, when) if when < reset else truth(reset, when)
            told = when == start or random.random() > 0.2
            drawn = truth(last, when) if with_power and when > last else None
            segment.append(
                Rollup(last, when, counted if told else None, drawn, when - last if drawn is not None else 0.0)
            )
            if when >= end:
                break
            last, when = when, min(end, when + random.choice([0.02, 0.3, 1.0, 4.0]))
        segments.append(segment)
        last = end + random.choice([0.0, 0.5, 3.0])
    device = replace(COUNTER, calibration_ratio=0.0, step_seconds=0.0)
    known = integrate.curve_of(device, segments)
    assert known.curve is not None
    cuts = [0.0, *sorted(random.uniform(0, seconds) for _ in range(random.randint(1, 6))), seconds]
    sums = []
    for spans in ([(0.0, seconds)], list(pairwise(cuts))[::2], list(pairwise(cuts))[1::2]):
        sums.append(sum(known.curve.between(*span) for span in spans))
        low, high = integrate.uncertainty(device, known, spans).interval(sums[-1])
        used = sum(truth(*span) for span in spans)
        assert low - 1e-6 * used <= used <= high + 1e-6 * used + 1e-6
    assert sums[1] + sums[2] == pytest.approx(sums[0])


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
    known = integrate.curve_of(late, segments)
    assert known.method == "gauge"
    assert known.curve is not None
    whole = sum(100.0 + at for at in range(5 * len(processes)))
    assert known.curve.joules[-1] == pytest.approx(whole + 0.05 * 4 * len(processes))


def test_one_reading_a_process_of_a_counter_that_moves_is_no_standstill():
    known = integrate.curve_of(COUNTER, [[read(0, 3, 5.0, 300.0, 100.0)], [read(3, 6, 305.0, 300.0, 100.0)]])
    assert (known.method, known.curve.joules[-1]) == ("counter", 600.0), "300 J by power before its first reading"


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
    curve = integrate.curve_of(replace(device, lag_seconds=lag), made).curve
    if curve is None:
        return
    assert all(a < b for a, b in pairwise(curve.times_seconds))
    for values in (curve.joules, curve.covered, curve.unsampled):
        assert all(a <= b for a, b in pairwise(values))
    a, b, c = sorted(cuts)
    for between in (curve.between, curve.covered_between, curve.unsampled_between):
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
    known = integrate.curve_of(COUNTER, [rollups])
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
    known = integrate.curve_of(COUNTER, [[*before, *between, *after]])
    assert known.curve is not None
    assert known.curve.between(0, 13) == pytest.approx(13 * 300)
    assert known.curve.covered_between(0, 13) == pytest.approx(13)


def test_a_reset_without_power_adds_nothing_and_is_not_covered():
    curve = curve_of(COUNTER, counted((0, 9000), (1, 9100), (2, 50), (3, 150)))
    assert curve.between(1, 2) == 0
    assert curve.covered_between(0, 3) == 2


def test_a_frozen_counter_gives_way_to_power():
    rollups = [Rollup(0, 0, 700.0)] + [Rollup(n, n + 1, 700.0, 250.0, 1.0, 250.0) for n in range(5)]
    known = integrate.curve_of(COUNTER, [rollups])
    assert known.method == "gauge"
    assert known.curve is not None
    assert known.curve.between(0, 5) == 1250
    assert "counter-frozen" in [code for code, _ in known.notes]


def test_an_idle_counter_that_stands_still_is_believed_where_no_power_is_drawn():
    rollups = [Rollup(0, 0, 700.0)] + [Rollup(n, n + 1, 700.0, 0.0, 1.0, 0.0) for n in range(5)]
    known = integrate.curve_of(COUNTER, [rollups])
    assert (known.method, known.notes) == ("counter", ())


def test_a_counter_that_stands_still_without_any_power_is_not_known_and_never_0():
    """A device that answers draws some: a vGPU may answer with a counter that is no counter."""
    known = integrate.curve_of(COUNTER, [counted(*((second, 700.0) for second in range(6)))])
    assert (known.curve, known.method) == (None, None)
    assert [code for code, _ in known.notes] == ["counter-frozen"]
    assert "stood still, and no power was read: its energy is not known" in known.notes[0][1]


def test_from_where_a_counter_stands_still_to_the_end_it_tells_nothing():
    readings = [(second, min(second, 4) * 100.0) for second in range(11)]
    curve = curve_of(COUNTER, counted(*readings))
    assert (curve.between(0, 10), curve.covered_between(0, 10)) == (400.0, 4.0)
    assert curve_of(COUNTER, counted(*readings[:7])).covered_between(0, 6) == 6.0, "2 s may be a slow counter's step"


def test_no_counter_at_all_gives_way_to_power_and_says_so():
    known = integrate.curve_of(COUNTER, [drawn((0, 1, 100), (1, 2, 200))])
    assert known.method == "gauge"
    assert known.curve is not None
    assert known.curve.between(0, 2) == 300
    assert [code for code, _ in known.notes] == ["counter-missing"]


def test_nothing_known_is_no_curve():
    empty = [Rollup(0, 0), Rollup(0, 1, utilization_ratio=0.5)]
    for device in (COUNTER, GAUGE, ESTIMATE):
        assert integrate.curve_of(device, [empty]).curve is None


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
    known = integrate.curve_of(ESTIMATE, [counted((0, 0), (10, 400)), counted((11, None), (12, 5000), (13, 5040))])
    assert known.curve is not None
    assert known.curve.between(0, 13) == 440
    reset = integrate.curve_of(COUNTER, [counted((0, 0), (10, 400)), counted((11, None), (12, 3), (13, 43))])
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
    known = integrate.curve_of(COUNTER, [rollups])
    assert known.curve is not None
    assert known.curve.between(0, 20) == 2000
    assert ["cross-check"] * noted == [code for code, _ in known.notes]
    if noted:
        assert "100.0 W on the mean by the counter" in known.notes[0][1]
    short = integrate.curve_of(COUNTER, [rollups[:8]])
    assert short.notes == ()


def test_the_doubt_of_a_counter():
    curve = curve_of(COUNTER, counted(*((float(n), 200.0 * n) for n in range(101))))
    found = integrate.uncertainty(COUNTER, integrate.Known(curve, "counter"), [(10, 60)])
    assert found.calibration == pytest.approx(0.05 * 10_000)
    assert found.quantisation == pytest.approx(200 * 0.02 * math.sqrt(2 / 3), rel=2e-3)
    assert (found.unsampled, found.coverage) == (0, 0)
    low, high = found.interval(10_000)
    assert low == pytest.approx(10_000 - math.hypot(500, found.quantisation))
    assert high == pytest.approx(10_000 + math.hypot(500, found.quantisation))
    thrice = integrate.uncertainty(COUNTER, integrate.Known(curve, "counter"), [(0, 10), (20, 30), (40, 50)])
    assert thrice.quantisation == pytest.approx(200 * 0.02 * math.sqrt(2), rel=2e-3)


def test_an_edge_may_fall_into_the_peak():
    """The root mean square of power that is 300 W for half of the time and 100 W for the other is 224 W, not 200."""
    curve = curve_of(COUNTER, counted(*((float(n), 200.0 * n) for n in range(101))))
    found = integrate.uncertainty(COUNTER, integrate.Known(curve, "counter"), [(10, 60)], 300.0)
    assert found.quantisation == pytest.approx(math.sqrt(200 * 300) * 0.02 * math.sqrt(2 / 3), rel=1e-3)
    assert found.quantisation > 223.6 * 0.02 * math.sqrt(2 / 3)


@pytest.mark.parametrize("peak_watts", [300.0, None])
@pytest.mark.parametrize("steps", [(0.01, 1), (1, 2), (2, 4), (50, 51)])
def test_a_phase_of_few_steps_of_the_counter_is_held(steps, peak_watts):
    """300 W at all times, counted every 0.1 s: the phase has any length and begins at any moment of a step."""
    device = replace(COUNTER, calibration_ratio=0.0, step_seconds=0.1, lag_seconds=0.05)
    draws, held = 40, 0
    for length, late in itertools.product(range(draws), range(draws)):
        seconds = 0.1 * (steps[0] + (steps[1] - steps[0]) * (length + 0.5) / draws)
        begin = 10.0 + 0.1 * (late + 0.5) / draws
        read = [(when, 300.0 * math.floor(when / 0.1) * 0.1) for when in (9.0, begin, begin + seconds, 30.0)]
        known = integrate.curve_of(device, [counted(*read)])
        found = integrate.uncertainty(device, known, [(begin, begin + seconds)], peak_watts)
        low, high = found.interval(known.curve.between(begin, begin + seconds))
        held += low <= 300.0 * seconds <= high
    assert held >= 0.95 * draws**2


def test_a_gap_can_only_hide_energy():
    curve = curve_of(COUNTER, counted((0, 0), (10, 2000)))
    found = integrate.uncertainty(COUNTER, integrate.Known(curve, "counter"), [(0, 15)])
    assert found.coverage == pytest.approx(5 * 300)
    low, high = found.interval(2000)
    assert low > 2000 - 110
    assert high == pytest.approx(2000 + math.hypot(100, found.quantisation) + 1500)
    unlimited = curve_of(GAUGE, drawn((0, 10, 200)))
    assert integrate.uncertainty(GAUGE, integrate.Known(unlimited, "gauge"), [(0, 15)]).coverage == pytest.approx(
        5 * 200
    )


def test_a_part_time_gauge_doubts_its_swing():
    device = Device(kind="gpu", id="a", name="A100", method="gauge", sampled_ratio=0.25)
    rollups = [Rollup(n, n + 1, None, 200.0, 1.0, 300.0, 40.0) for n in range(10)]
    curve = curve_of(device, rollups)
    assert integrate.uncertainty(device, integrate.Known(curve, "gauge"), [(0, 10)]).unsampled == pytest.approx(
        0.75 * 400
    )
    counter = curve_of(COUNTER, counted((0, 0), (10, 2000)))
    assert integrate.uncertainty(device, integrate.Known(counter, "counter"), [(0, 10)]).unsampled == 0


@given(made=segments(), device=st.sampled_from([COUNTER, GAUGE, ESTIMATE]), spans=st.lists(st.tuples(steps, steps)))
def test_the_value_lies_in_its_band(made, device, spans):
    known = integrate.curve_of(device, made)
    own = [(a, a + b) for a, b in spans if b > 0]
    if known.curve is None or not own:
        return
    value = sum(known.curve.between(*span) for span in own)
    low, high = integrate.uncertainty(device, known, own).interval(value)
    assert 0 <= low <= value <= high
    assert math.isfinite(high)


def gauge(seconds: int, watts: float, missed: range, device: Device = GAUGE) -> list[Rollup]:
    """A polled gauge at constant power, read once a second but for the seconds that the sampler got no time."""
    made, last = [Rollup(0, 0, None, None, 0.0, watts, power_last_watts=watts)], 0
    for second in range(1, seconds + 1):
        if second not in missed:
            known = 1.0 if second == last + 1 else 0.0
            made.append(Rollup(last, second, None, watts * known or None, known, watts, 0.0, power_last_watts=watts))
            last = second
    return made


@pytest.mark.parametrize(("gap", "bridged"), [(2, True), (6, True), (10, True), (11, False), (40, False)])
def test_a_short_gap_of_a_gauge_is_bridged_and_a_long_one_is_not(gap, bridged):
    device = Device(kind="gpu", id="P", name="P100", method="gauge", power_limit_watts=300.0)
    known = integrate.curve_of(device, [gauge(60, 200.0, range(11, 10 + gap))])
    assert known.curve is not None
    seconds = 60 if bridged else 60 - gap
    assert known.curve.covered[-1] == pytest.approx(seconds)
    assert known.curve.joules[-1] == pytest.approx(200.0 * seconds)
    low, high = integrate.uncertainty(device, known, [(0, 60)]).interval(known.curve.joules[-1])
    idle = 30.0  # a tenth of the limit
    assert low == pytest.approx(200 * seconds - (200 - idle) * gap * bridged)
    assert high == pytest.approx(200 * (60 - gap) + 300 * gap)


def test_a_bridge_behind_what_was_read_in_its_second_takes_the_reading_that_ended_it():
    """A gauge that is polled every 0.05 s at 100 W, starved from 6.7 to 11.7 s, and then at 300 W."""
    window, rollups, due = Window(0.5, 0.0), [], 0.0
    times = [*(0.05 * n for n in range(135)), *(11.7 + 0.05 * n for n in range(67))]
    for when in times:
        window.add(when, Reading(power_watts=100.0 if when < 10 else 300.0))
        if when >= due or when == times[-1]:  # as the sampler writes: each second, late where it had no time
            rollups.append(window.take())
            due = when // 1 + 1
    device = replace(GAUGE, power_limit_watts=300.0)
    curve = curve_of(device, rollups)
    assert curve.between(0, 6) == pytest.approx(600, rel=0.01)
    assert curve.joules[-1] == pytest.approx(6.7 * 100 + 5.0 * 200 + 3.3 * 300)


def test_a_bridge_between_readings_at_the_limit_may_have_held_less():
    device = Device(kind="gpu", id="P", name="P100", method="gauge", power_limit_watts=300.0)
    known = integrate.curve_of(device, [gauge(60, 300.0, range(11, 15))])
    assert known.curve is not None
    low, high = integrate.uncertainty(device, known, [(0, 60)]).interval(known.curve.joules[-1])
    assert (low, high) == (pytest.approx(300 * 60 - 270 * 5), pytest.approx(300 * 60))


def test_a_bridge_lies_between_what_both_sides_read():
    rollups = [
        Rollup(0, 0, None, None, 0.0, 100.0, power_last_watts=100.0),
        Rollup(0, 1, None, 100.0, 1.0, 100.0, power_last_watts=100.0),
        Rollup(1, 5, None, None, 0.0, 300.0, power_last_watts=300.0),
        Rollup(5, 6, None, 300.0, 1.0, 300.0, power_last_watts=300.0),
    ]
    curve = curve_of(GAUGE, rollups)
    assert curve.between(1, 5) == pytest.approx(4 * (100 + 300) / 2)
    assert curve.covered[-1] == 6


def failing(seconds: int, counts: range, watts: float = 200.0, stuck: bool = False) -> list[Rollup]:
    """A counter that tells only in some seconds, or stands still from the last of them on; power all the time."""
    made = []
    for second in range(seconds + 1):
        told = watts * second if second in counts else (watts * counts[-1] if stuck and second > counts[-1] else None)
        power = (watts, 1.0) if second else (None, 0.0)
        made.append(Rollup(max(0, second - 1), second, told, *power, watts, power_last_watts=watts))
    return made


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize(
    ("counts", "method"),
    [(range(40), "counter"), (range(10), "gauge"), (range(20, 61), "counter"), (range(2, 5), "gauge")],
)
def test_a_counter_that_fails_gives_way_to_power_from_there_and_before(counts, method, stuck):
    known = integrate.curve_of(COUNTER, [failing(60, counts, stuck=stuck)])
    assert known.curve is not None
    assert known.curve.joules[-1] == pytest.approx(200 * 60)
    assert known.curve.between(50, 60) == pytest.approx(2000)
    assert known.curve.covered[-1] == pytest.approx(60)
    assert known.method == method
    missing = 60 - (counts[-1] - counts[0])
    assert [text for code, text in known.notes if code == "counter-failed"] == [
        f"V100 GPU-1: the energy counter was silent for {missing:.1f} s; its power was integrated there"
    ]


def test_a_reading_that_a_counter_missed_is_no_point_of_its_curve():
    """Power is read at 4 s, the counter is not; another gap, in which power stands in, changes nothing of that."""
    rollups = [Rollup(0, 1, None, 300.0, 1.0, 300.0), Rollup(1, 2, 1000.0, 300.0, 1.0, 300.0)]
    rollups += [Rollup(2, 4, None, 600.0, 2.0, 300.0), Rollup(4, 6, 1600.0, 0.0, 2.0, 0.0)]
    known = integrate.curve_of(COUNTER, [rollups])
    assert known.curve is not None
    assert list(known.curve.times_seconds) == [0, 1, 2, 6], "by power up to 2 s"
    low, _ = integrate.uncertainty(COUNTER, known, [(4, 6)], 300.0).interval(known.curve.between(4, 6))
    assert low == 0


@pytest.mark.parametrize("seconds", [3, 5, 9, 20, 600])
@pytest.mark.parametrize("ratio", [0.57, 0.8, 1.3, 1.8])
def test_the_interval_holds_a_counter_and_a_power_that_disagree(seconds, ratio):
    rollups = [Rollup(0, 0, 0.0, None, 0.0, 200.0)]
    rollups += [Rollup(n, n + 1, 200.0 * ratio * (n + 1), 200.0, 1.0, 200.0) for n in range(seconds)]
    known = integrate.curve_of(COUNTER, [rollups])
    assert known.curve is not None
    counted = known.curve.joules[-1]
    assert (known.method, counted) == ("counter", pytest.approx(200 * ratio * seconds))
    low, high = integrate.uncertainty(COUNTER, known, [(0, seconds)]).interval(counted)
    assert low <= min(counted, 200 * seconds)
    assert high >= max(counted, 200 * seconds)
    assert [code for code, _ in known.notes] == ["cross-check"]
    half = integrate.uncertainty(COUNTER, known, [(0, seconds / 2)]).interval(counted / 2)
    assert half[0] <= 100 * seconds <= half[1], "in a phase, too"


@pytest.mark.parametrize(
    ("spans", "limit", "joules"),
    [
        pytest.param([(1.0, 2.0)], 300.0, 0.0, id="edges at readings"),
        pytest.param(
            [(1.0, 1.9)], 300.0, 20.0, id="a tenth of a second before a reading, in which it may draw 300 W, not 100"
        ),
        pytest.param([(1.0, 2.9)], 300.0, 20.0, id="the same at 200 W: all of it may lie before"),
        pytest.param([(1.0, 2.9)], 205.0, 4.5, id="no more than the limit allows in the 0.9 s before"),
        pytest.param([(1.9, 2.9)], 300.0, 40.0, id="both edges"),
        pytest.param([(1.2, 1.3), (1.4, 1.5)], 500.0, 80.0, id="two stretches between two readings: once"),
        pytest.param(
            [(1.0, 1.9)],
            None,
            10.0,
            id="of no known limit: as much as was seen elsewhere (200 W), 0.1 s before a reading",
        ),
        pytest.param([(1.0, 2.9)], None, 20.0, id="or twice the mean of the stretch: what the shorter side holds"),
        pytest.param([(-5.0, 9.0)], 300.0, 0.0, id="outside of the readings nothing is thought"),
    ],
)
def test_what_lies_beyond_an_edge_is_thought_of(spans, limit, joules):
    """Read at 1, 2 and 3 s: 100 W in the first second, 200 W in the second one."""
    curve = curve_of(COUNTER, counted((1.0, 0.0), (2.0, 100.0), (3.0, 300.0)))
    assert curve.interpolation_between(spans, limit) == pytest.approx(joules)


@given(
    watts=st.lists(st.floats(1, 300), min_size=5, max_size=40),
    read=st.lists(st.floats(0, 1), min_size=2, max_size=10, unique_by=lambda share: round(share, 3)),
    edges=st.lists(st.floats(0, 1), min_size=2, max_size=8, unique_by=lambda share: round(share, 3)),
    known=st.booleans(),
)
def test_the_truth_is_no_further_off_than_an_edge_that_is_read_late_explains(watts, read, edges, known):
    """Any power, any times of readings, any phases: a counter's figure is off by the interpolation at the most.

    Where the device tells no limit, its largest power was seen before these readings.
    """
    largest = max(watts)
    watts = watts if known else [largest, *watts]
    seconds = len(watts)
    sums = [0.0, *itertools.accumulate(watts)]

    def truth(when: float) -> float:
        at = min(int(when), seconds - 1)
        return sums[at] + watts[at] * (when - at)

    times = sorted(round(share, 3) * seconds for share in read)
    times = times if known else sorted({0.0, 1.0, *(when for when in times if when > 1.0)})
    curve = curve_of(COUNTER, counted(*((when, truth(when)) for when in times)))
    cuts = sorted(times[0] + round(share, 3) * (times[-1] - times[0]) for share in edges)
    spans = [(start, end) for start, end in zip(cuts[::2], cuts[1::2], strict=False) if end > start]
    measured = sum(curve.between(*span) for span in spans)
    used = sum(truth(end) - truth(start) for start, end in spans)
    allowed = curve.interpolation_between(spans, 300.0 if known else None)
    assert abs(measured - used) <= allowed + 1e-6 * max(1.0, sums[-1])
