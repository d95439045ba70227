"""greenml.track() on eight simulated GPUs, against the exact integral of what they drew."""

from __future__ import annotations

import dataclasses

import pytest

from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths

from .conftest import tolerance_joules
from .simnvml import A100, GIB, Constant, Error, Gpu, Hang, Square, steps

SECONDS = 20.0
PERIODS = (0.25, 0.37, 0.5, 0.8, 1.0, 1.7, 2.5, 3.3)
PEAK_WATTS = 400.0
T4 = dataclasses.replace(Gpu(), name="Tesla T4", architecture=6, update_seconds=0.1, window_seconds=0.1)


def wave(period: float) -> Square:
    return Square(60, PEAK_WATTS, period)


def cards(kind: Gpu) -> list[Gpu]:
    """Return eight GPUs with a wave each, brought up to date at moments of their own, as cards are."""
    return [
        dataclasses.replace(
            kind,
            power=wave(period),
            phase_seconds=kind.update_seconds * at / len(PERIODS),
            counter_phase_seconds=kind.counter_step_seconds * at / len(PERIODS),
        )
        for at, period in enumerate(PERIODS)
    ]


def errors(program, said, phase="train"):
    """Return (joules, true joules, usage) of each GPU over the phase."""
    usages = program.record.phase(phase).usage
    found = []
    for at, device in enumerate(program.gpus()):
        usage = usages[device.id]
        assert usage.energy_joules is not None, usage.why
        found.append((usage.energy_joules, program.script.energy_joules(at, said["begin"], said["end"]), usage))
    assert len(found) == len(program.script.gpus)
    return found


def inside(usage, truth: float) -> bool:
    return usage.energy_low_joules <= truth <= usage.energy_high_joules


def missed_joules(program, at: int) -> float:
    """How far a polled gauge may be off where the host had no time to poll it as often as it needs, at the most.

    Each change of the power lies somewhere between two readings: the swing of the readings beyond what those that the
    sensor asks for, every 0.05 s, would have.
    """
    [path] = trace_paths(run_dir_of(program.output))
    trace = trace_file.read(path)
    [key] = [key for key, device in trace.devices.items() if device.id == program.gpus()[at].id]
    swing = sum(rollup.swing_joules for rollup in trace.rollups[key])
    changes = 2 * SECONDS / PERIODS[at]
    return max(0.0, swing - changes * (PEAK_WATTS - 60) / 2 * 0.05)


@pytest.mark.alone
def test_square_waves(start):
    """With a counter to its steps; without one within 1 %, at a driver period of 20 and of 100 ms."""
    counter = start(cards(Gpu()), SECONDS)
    gauge_20 = start(cards(Gpu(counter=False, window_seconds=0.02)), SECONDS)
    gauge_100 = start(cards(dataclasses.replace(T4, counter=False)), SECONDS)
    bare_100 = start(cards(dataclasses.replace(T4, counter=False, sample_capacity=0)), SECONDS)  # polled
    said = counter.said()
    both = errors(counter, said)
    for joules, truth, usage in both:
        assert joules == pytest.approx(truth, abs=tolerance_joules(usage, peak_watts=PEAK_WATTS))
        assert inside(usage, truth)
        assert SECONDS <= usage.covered_seconds <= counter.record.phase("train").seconds + 1e-6
    # Half a step early or late, each card: of the eight together less than a thousandth is left.
    truth, late = sum(one[1] for one in both), sum(one[2].uncertainty.interpolation_joules for one in both)
    assert sum(one[0] for one in both) == pytest.approx(truth, abs=0.001 * truth + late)
    assert {one.method for one in counter.gpus()} == {"counter"}
    for program, said in [(program, program.said()) for program in (gauge_20, gauge_100, bare_100)]:
        for at, (joules, truth, usage) in enumerate(errors(program, said)):
            missed = missed_joules(program, at) if program is bare_100 else 0.0
            late = usage.uncertainty.interpolation_joules
            assert joules == pytest.approx(truth, abs=0.01 * truth + late + missed)
            assert late + missed <= 0.02 * truth, "what allows for a busy host is no licence"
            assert inside(usage, truth)
        assert {one.method for one in program.gpus()} == {"gauge"}


def test_part_time_gauges(start):
    """Where the driver's averaging hides part of the time, the interval covers the truth."""
    volta = start([Gpu(power=wave(period), counter=False) for period in PERIODS], SECONDS)
    ampere = start([dataclasses.replace(A100, power=wave(period), counter=False) for period in PERIODS], SECONDS)
    for program, seen in ((volta, 0.5), (ampere, 0.25)):
        for _, truth, usage in errors(program, program.said()):
            assert inside(usage, truth)
        assert {one.sampled_ratio for one in program.gpus()} == {seen}


def test_steady_power_without_a_counter_has_a_narrow_band(start):
    program = start([dataclasses.replace(A100, power=250.0, counter=False)], 6.0)
    [(joules, truth, usage)] = errors(program, program.said())
    late = tolerance_joules(usage, peak_watts=250.0, seconds=program.record.phase("train").seconds)
    assert joules == pytest.approx(truth, abs=0.005 * truth + late)
    assert inside(usage, truth)
    width = usage.energy_high_joules - usage.energy_low_joules
    assert width - usage.uncertainty.coverage_joules < 0.15 * truth  # ±5 % of gain, and the edges
    assert usage.uncertainty.coverage_joules < 400  # at most the second that the start may take


def test_faults(start):
    """A reset, a lost GPU, errors for a while, a frozen counter, a wrong gauge: each alone, the others right."""
    gpus = [
        Gpu(power=wave(0.5), counter_resets=(9.3,)),
        Gpu(power=wave(0.8), lost_at=9.0),
        Gpu(power=wave(1.0)),
        Gpu(power=200.0, faults=(Error("*", 999, 6.0, 9.0),)),
        Gpu(power=200.0, counter_frozen_at=0.0),
        Gpu(power=200.0, gauge_gain_ratio=1.2),
        Gpu(power=wave(3.3), counter_resets=(12.0,)),
        Gpu(
            power=Constant(300.0),
            faults=tuple(map(Error, ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates", "samples:2"))),
        ),
    ]
    program = start(gpus, SECONDS)
    said = program.said()
    found = errors(program, said)
    for at in (2, 3, 5, 7):
        joules, truth, usage = found[at]
        assert joules == pytest.approx(truth, abs=0.001 * truth + tolerance_joules(usage, peak_watts=PEAK_WATTS))
        assert inside(usage, truth)
    for at in (0, 6):
        joules, truth, usage = found[at]
        assert joules == pytest.approx(truth, abs=0.001 * truth + tolerance_joules(usage, peak_watts=PEAK_WATTS))
    assert found[4][0] == pytest.approx(found[4][1], rel=0.01)
    lost, truth, usage = found[1]
    known = program.script.gpus[1].energy_joules(program.script.seconds(said["begin"]), 9.0)
    assert lost == pytest.approx(known, abs=1.1 * PEAK_WATTS)
    assert lost <= known + 0.02 * PEAK_WATTS
    assert inside(usage, truth)
    record = program.record
    ids = [one.id for one in program.gpus()]
    assert [ids.index(next(one for one in ids if one in text)) for text in program.notes("sensor-lost")] == [1]
    assert {ids[0], ids[6]} == {one for one in ids for text in program.notes("counter-reset") if one in text}
    assert [ids[4] in text for text in program.notes("counter-frozen")] == [True]
    assert [ids[5] in text for text in program.notes("cross-check")] == [True]
    assert [ids[3] in text for text in program.notes("sensor-back")] == [True]
    assert record.devices[0].usage.why == ""
    seven = record.phase("train").usage[ids[7]]
    assert seven.memory_mean_bytes is None
    assert seven.memory_utilization_ratio is None
    assert record.status == "completed"


def test_utilization_and_memory(start):
    """Means over the phase, and the card's peak: the mean over the GPUs of each one's peak."""
    gpus = [
        Gpu(power=100.0, utilization=0.5, memory_used=steps((0, 4 * GIB), (3, 10 * GIB), (5, 6 * GIB))),
        Gpu(power=100.0, utilization=1.0, memory_used=20 * GIB),
    ]
    program = start(gpus, 8.0)
    said = program.said()
    record = program.record
    first, second = (record.phase("train").usage[one.id] for one in program.gpus())
    assert first.utilization_ratio == pytest.approx(0.5, abs=0.01)
    assert second.utilization_ratio == pytest.approx(1.0, abs=0.01)
    assert first.memory_max_bytes == 10 * GIB
    begin, end = (program.script.seconds(said[one]) for one in ("begin", "end"))
    assert first.memory_mean_bytes == pytest.approx(program.script.gpus[0].mean_memory_bytes(begin, end), rel=0.15)
    totals = record.total("train")
    assert totals.gpu_memory_peak_bytes == pytest.approx(15 * GIB)
    assert totals.gpu_utilization_ratio == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        pytest.param(Hang("nvmlInit"), "sensor-hung", id="from the start"),
        pytest.param(Hang("*", 3.0), "sensor-hung", id="from the middle on"),
        pytest.param(Hang("*", 2.5, 7.5), "sensor-slow", id="five seconds in the middle"),
    ],
)
def test_a_call_that_hangs_delays_nobody(start, fault, note):
    code = """
import json, sys, time
import greenml
run = greenml.track(output=sys.argv[1])
before = time.monotonic(); run.start(); started = time.monotonic()
ended, begin = [], time.monotonic()
while time.monotonic() - begin < float(sys.argv[2]):
    with run.phase("step"):
        time.sleep(0.05)
    ended.append(time.monotonic())
end = time.monotonic(); run.stop(); stopped = time.monotonic()
print(json.dumps({"begin": begin, "end": end, "start": started - before, "stop": stopped - end, "ended": ended}))
"""
    program = start([Gpu(power=wave(0.5)), Gpu(power=200.0)], 9.0, code=code, faults=[fault])
    said = program.said()
    steps = [program.script.seconds(at) for at in said["ended"]]
    assert sum(fault.start < at < min(fault.end, 9.0) for at in steps) > 10, "steps go on while the call hangs"
    record = program.record
    assert program.notes(note)
    assert record.status == "completed"
    assert record.total().cpu_energy_joules.value > 0
    if note == "sensor-slow":  # counters are cumulative: nothing of the five seconds is lost
        for at, device in enumerate(program.gpus()):
            tolerance = tolerance_joules(device.usage, peak_watts=PEAK_WATTS)
            truth = program.script.energy_joules(at, said["begin"], said["end"])
            whole = program.script.energy_joules(at, said["begin"] - said["start"], said["end"] + said["stop"])
            assert truth - tolerance <= device.usage.energy_joules <= whole + tolerance
    elif note == "sensor-hung" and fault.function == "nvmlInit":
        assert record.total().gpu_energy_joules.value is None
    else:
        assert all(one.usage.covered_seconds < 6.0 for one in program.gpus())


def test_no_driver_leaves_unknowns_not_zeros(start):
    program = start([], 1.0, faults=[Error("nvmlInit", 9)])
    program.said()
    total = program.record.total()
    assert total.gpu_energy_joules.value is None
    assert total.gpu_energy_joules.why
    assert total.gpu_utilization_ratio is None
    assert total.it_energy_joules.value > 0
    assert any("Driver Not Loaded" in text for text in program.notes("sensor-absent"))


def test_an_old_driver_without_counter_and_fields(start):
    missing = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues", "nvmlDeviceGetSamples")
    program = start([Gpu(power=150.0)], 4.0, without=missing)
    [(joules, truth, usage)] = errors(program, program.said())
    late = tolerance_joules(usage, peak_watts=150.0, seconds=program.record.phase("train").seconds)
    assert joules == pytest.approx(truth, abs=0.01 * truth + late)
    assert inside(usage, truth)
