"""greenml.track() on eight simulated GPUs, against the exact integral of what they drew."""

from __future__ import annotations

import dataclasses

import pytest

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


def test_square_waves(start):
    """With a counter to its steps; without one within 1 %, at a driver period of 20 and of 100 ms."""
    counter = start(cards(Gpu()), SECONDS)
    gauge_20 = start(cards(Gpu(counter=False, window_seconds=0.02)), SECONDS)
    gauge_100 = start(cards(dataclasses.replace(T4, counter=False)), SECONDS)
    said = counter.said()
    step_joules = 0.020 * PEAK_WATTS
    for joules, truth, usage in errors(counter, said):
        assert joules == pytest.approx(truth, abs=2 * step_joules)
        assert inside(usage, truth)
        assert usage.covered_seconds == pytest.approx(SECONDS, abs=0.05)
    both = errors(counter, said)
    # Half a step early or late, each card: of the eight together less than a thousandth is left.
    assert sum(one[0] for one in both) == pytest.approx(sum(one[1] for one in both), rel=0.001)
    assert {one.method for one in counter.gpus()} == {"counter"}
    ended = [(program, program.said()) for program in (gauge_20, gauge_100)]
    for _ in range(3):  # polled 160 times a second: alone, and again where the host had not the time to
        bare_100 = start(cards(dataclasses.replace(T4, counter=False, sample_capacity=0)), SECONDS)
        polled = bare_100, bare_100.said()
        if all(joules == pytest.approx(truth, rel=0.01) for joules, truth, _ in errors(*polled)):
            break
    for program, said in [*ended, polled]:
        for joules, truth, usage in errors(program, said):
            assert joules == pytest.approx(truth, rel=0.01)
            assert inside(usage, truth)
        assert {one.method for one in program.gpus()} == {"gauge"}


def test_part_time_gauges(start):
    """Where the driver's averaging hides part of the time, the band covers the truth."""
    volta = start([Gpu(power=wave(one), counter=False) for one in PERIODS], SECONDS)
    ampere = start([dataclasses.replace(A100, power=wave(one), counter=False) for one in PERIODS], SECONDS)
    for program, seen in ((volta, 0.5), (ampere, 0.25)):
        for _, truth, usage in errors(program, program.said()):
            assert inside(usage, truth)
        assert {one.seen_ratio for one in program.gpus()} == {seen}


def test_steady_power_without_a_counter_has_a_narrow_band(start):
    program = start([dataclasses.replace(A100, power=250.0, counter=False)], 6.0)
    [(joules, truth, usage)] = errors(program, program.said())
    assert joules == pytest.approx(truth, rel=0.005)
    assert inside(usage, truth)
    width = usage.energy_high_joules - usage.energy_low_joules
    assert width - usage.doubts.gap_joules < 0.15 * truth  # ±5 % of gain, and the edges
    assert usage.doubts.gap_joules < 400  # at most the second that the start may take


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
        Gpu(power=Constant(300.0), faults=(Error("nvmlDeviceGetMemoryInfo"), Error("nvmlDeviceGetUtilizationRates"))),
    ]
    program = start(gpus, SECONDS)
    said = program.said()
    found = errors(program, said)
    for at in (2, 3, 5, 7):
        joules, truth, usage = found[at]
        assert joules == pytest.approx(truth, rel=0.001, abs=0.04 * PEAK_WATTS)
        assert inside(usage, truth)
    for at in (0, 6):
        joules, truth, _ = found[at]
        assert joules == pytest.approx(truth, rel=0.001, abs=0.04 * PEAK_WATTS)
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
worst, begin = 0.0, time.monotonic()
while time.monotonic() - begin < float(sys.argv[2]):
    step = time.monotonic()
    with run.phase("step"):
        time.sleep(0.05)
    worst = max(worst, time.monotonic() - step)
end = time.monotonic(); run.stop(); stopped = time.monotonic()
print(json.dumps({"begin": begin, "end": end, "start": started - before, "stop": stopped - end, "worst": worst}))
"""
    program = start([Gpu(power=wave(0.5)), Gpu(power=200.0)], 9.0, code=code, faults=[fault])
    said = program.said()
    assert said["start"] < 2.0
    assert said["stop"] < 2.0
    assert said["worst"] < 1.0  # the hang lasts 5 s or for ever
    record = program.record
    assert program.notes(note)
    assert record.status == "completed"
    assert record.total().cpu_energy_joules.value > 0
    if note == "sensor-slow":  # counters are cumulative: nothing of the five seconds is lost
        for at, device in enumerate(program.gpus()):
            truth = program.script.energy_joules(at, said["begin"], said["end"])
            assert device.usage.energy_joules == pytest.approx(truth, rel=0.01, abs=0.2 * PEAK_WATTS)
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
    assert joules == pytest.approx(truth, rel=0.01)
    assert inside(usage, truth)
