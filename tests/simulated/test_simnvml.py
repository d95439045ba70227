"""The simulator itself: the genuine pynvml, in a child, against the exact truth.

A child brackets each reading with two readings of the monotonic clock, so nothing here depends on how busy
the machine is: the reading must be what the truth allows somewhere between the two.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import simnvml
from .simnvml import A100, GIB, H100, Constant, Error, Gpu, Hang, Mig, Script, Slow, Square, steps

PREAMBLE = """
import json, os, sys, threading, time
import pynvml as n
from pynvml import *

def failure(call, *args):
    try:
        call(*args)
    except NVMLError as e:
        return [e.value, str(e)]

def reading(call, *args):
    before = time.monotonic_ns()
    value = call(*args)
    return [before, time.monotonic_ns(), value]

def say(value):
    print(json.dumps(value))
"""
DAY = 86400


@pytest.fixture
def child(libraries, tmp_path):
    """Run code on a script's host and return what it said."""

    def run(script, code, *, without=(), begin="nvmlInit(); h = nvmlDeviceGetHandleByIndex(0)\n", calls=None):
        path = simnvml.write(script, tmp_path / "script")
        added = simnvml.environment(libraries(*without), path, calls=calls)
        command = [sys.executable, "-c", PREAMBLE + begin + code]
        done = subprocess.run(command, env=os.environ | added, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def brackets(script, readings):
    origin = script.origin_monotonic_ns
    return [((a - origin) / 1e9, (b - origin) / 1e9, value) for a, b, value in readings]


def earlier(seconds, **fields):
    """Return a script that began so long ago."""
    script = Script(**fields)
    nanoseconds = int(seconds * 1e9)
    return replace(
        script,
        origin_monotonic_ns=script.origin_monotonic_ns - nanoseconds,
        origin_realtime_ns=script.origin_realtime_ns - nanoseconds,
    )


# The truth


def edges(square, start, end):
    """List the wave's edges one by one, the slow way."""
    first = math.floor((start - square.shift_seconds) / square.period_seconds) - 1
    last = math.ceil((end - square.shift_seconds) / square.period_seconds) + 1
    for k in range(first, last + 1):
        rise = square.shift_seconds + k * square.period_seconds
        yield rise, rise + square.duty_ratio * square.period_seconds


@given(
    period=st.floats(0.01, 3),
    duty=st.floats(0, 1),
    shift=st.floats(-2, 2),
    start=st.floats(-5, 5),
    length=st.floats(0, 20),
)
def test_a_square_wave_integrates_to_the_sum_of_its_pulses(period, duty, shift, start, length):
    wave, end = Square(100, 300, period, duty, shift), start + length
    high = sum(max(0, min(end, fall) - max(start, rise)) for rise, fall in edges(wave, start, end))
    assert wave.integral(start, end) == pytest.approx(100 * length + 200 * high, abs=1e-6)


def test_energy_of_shapes_and_of_the_rest():
    gpu = Gpu(
        power=(Square(0, 200, 2.0, 0.25, start=10, end=20), Constant(300, 2, 5)),
        idle_watts=40,
        utilization=steps((0, 0.5), (10, 1.0)),
    )
    assert gpu.energy_joules(0, 10) == 3 * 300 + 7 * 40
    assert gpu.energy_joules(10, 20) == 200 * 2.5
    assert gpu.energy_joules(10.25, 12.25) == 200 * 0.5
    assert gpu.energy_joules(20, 21) == 40
    assert gpu.mean_utilization(5, 15) == 0.75
    assert [gpu.watts(t) for t in (2, 5, 10.4, 10.6, 99)] == [300, 40, 200, 0, 40]


def test_shapes_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        Gpu(power=(Constant(1, 0, 2), Constant(2, 1, 3)))


# Counter and gauges

LIVELY = Gpu(
    power=(Constant(80, end=3), Square(90, 310, 0.0731, 0.37, 0.011, start=3)),
    counter_gain_ratio=1.05,
    gauge_gain_ratio=0.95,
    counter_phase_seconds=0.007,
    phase_seconds=0.003,
)
READ = "say([reading({call}) for _ in range(300) if not time.sleep(0.001)])"


@pytest.mark.parametrize("age", [0, 20 * DAY], ids=["young", "20 days old"])
@pytest.mark.parametrize(
    "call",
    ["nvmlDeviceGetTotalEnergyConsumption, h", "lambda: nvmlDeviceGetFieldValues(h, [83])[0].value.ullVal"],
    ids=["function", "field"],
)
def test_the_counter_is_the_exact_integral_up_to_its_last_step(child, age, call):
    script = earlier(age, gpus=(LIVELY,))
    gpu = script.gpus[0]
    exact = 0
    for before, after, value in brackets(script, child(script, READ.format(call=call))):
        low, high = gpu.counter_millijoules(before), gpu.counter_millijoules(after)
        assert low - 1 <= value <= high + 1
        exact += low == high
    assert exact > 100


@pytest.mark.parametrize(
    ("call", "gauge", "update"),
    [
        ("nvmlDeviceGetPowerUsage, h", "gauge_watts", 0.020),
        ("lambda: nvmlDeviceGetFieldValues(h, [186])[0].value.uiVal", "gauge_watts", 0.020),
        ("lambda: nvmlDeviceGetFieldValues(h, [(185, 0)])[0].value.uiVal", "average_watts", 0.100),
    ],
    ids=["usage", "instant", "average"],
)
def test_a_gauge_shows_the_mean_of_its_last_window(child, call, gauge, update):
    script = earlier(9, gpus=(LIVELY,))
    shown = getattr(script.gpus[0], gauge)
    exact, seen = 0, set()
    for before, after, value in brackets(script, child(script, READ.format(call=call))):
        if after - before > update / 2:  # paused in between: more than two updates would be right
            continue
        allowed = (shown(before) * 1000, shown(after) * 1000)
        assert value == pytest.approx(allowed[0], abs=1) or value == pytest.approx(allowed[1], abs=1)
        exact += allowed[0] == allowed[1]
        seen.add(value)
    assert exact > 100
    assert len(seen) > 2


def test_power_usage_is_the_slow_average_where_the_card_says_so(child):
    script = earlier(60, gpus=(replace(H100, power=steps((-1e6, 100), (59.9, 700), (1e6, 0))),))
    usage, instant = child(
        script,
        "time.sleep(0.3)\nsay([reading(nvmlDeviceGetPowerUsage, h),"
        "reading(lambda: nvmlDeviceGetFieldValues(h, [186])[0].value.uiVal)])",
    )
    before, after, value = brackets(script, [usage])[0]
    gpu = script.gpus[0]
    assert gpu.average_watts(before) * 1000 - 1 <= value <= gpu.average_watts(after) * 1000 + 1
    assert gpu.average_watts(60.2) == pytest.approx(100 + 600 * 0.3)
    assert instant[2] == 700_000


def test_a_counter_that_restarts_and_one_that_stands_still(child):
    script = earlier(
        100,
        gpus=(
            Gpu(power=200.0, counter_resets=(90.0, 95.0)),
            Gpu(power=200.0, counter_frozen_at=50.0, counter_base_millijoules=7.0),
            Gpu(power=200.0, counter_resets=(1e6,)),
        ),
    )
    readings = child(
        script,
        "handles = [nvmlDeviceGetHandleByIndex(i) for i in range(3)]\n"
        "say([reading(nvmlDeviceGetTotalEnergyConsumption, x) for x in handles])",
    )
    (before, after, restarted), frozen, steady = brackets(script, readings)
    assert 1000 * 200 * (before - 95.02) <= restarted <= 1000 * 200 * (after - 95) + 1
    assert frozen[2] == 1000 * 200 * 50 + 7
    assert steady[2] > 123_456_789 + 1000 * 200 * 99


# The driver's buffer


def test_power_samples_carry_the_gauge_at_their_own_time(child):
    script = earlier(30, gpus=(LIVELY,))
    kind, samples = child(
        script,
        "kind, s = nvmlDeviceGetSamples(h, NVML_TOTAL_POWER_SAMPLES, 0)\n"
        "say([kind, [[x.timeStamp, x.sampleValue.uiVal] for x in s]])",
    )
    assert kind == 1
    assert len(samples) == 120
    for stamp, milliwatts in samples:
        t = (stamp * 1000 - script.origin_realtime_ns) / 1e9
        mean = 0.95 * LIVELY.energy_joules(t - 0.010, t) / 0.010
        assert milliwatts == pytest.approx(1000 * mean, abs=0.5 + 220_000 * 4e-4)  # stamps round to 1 us
    assert all(b[0] - a[0] in (19_999, 20_000, 20_001) for a, b in pairwise(samples))


def test_reading_on_from_the_last_sample_loses_none_and_repeats_none(child):
    script = earlier(30, gpus=(replace(LIVELY, sample_capacity=1000),))
    stamps, last_failure = child(
        script,
        """
seen, stamps = 0, []
for _ in range(20):
    try:
        _, s = nvmlDeviceGetSamples(h, 0, seen)
        stamps += [x.timeStamp for x in s]
        seen = stamps[-1]
    except NVMLError_NotFound:
        pass
    time.sleep(0.03)
say([stamps, failure(nvmlDeviceGetSamples, h, 0, seen + 10**9)])
""",
    )
    assert len(stamps) > 1010
    assert {b - a for a, b in pairwise(stamps)} <= {19_999, 20_000, 20_001}
    assert last_failure[0] == 6


def test_a_buffer_holds_what_it_holds(child):
    script = earlier(30, gpus=(replace(LIVELY, sample_capacity=7), replace(LIVELY, sample_capacity=0)))
    count, missing = child(
        script,
        "say([len(nvmlDeviceGetSamples(h, 0, 0)[1]),"
        "failure(nvmlDeviceGetSamples, nvmlDeviceGetHandleByIndex(1), 0, 0)[0]])",
    )
    assert (count, missing) == (7, simnvml.NOT_SUPPORTED)


def test_utilization_now_and_in_samples(child):
    gpu = Gpu(
        utilization=Square(0.2, 1.0, 0.4, 0.5),
        memory_utilization=0.31,
        activity_seconds=0.1,
        memory_used=3 * GIB,
    )
    script = earlier(30, gpus=(gpu,))
    rates, samples, memory = child(
        script,
        "u = [reading(lambda: [(r := nvmlDeviceGetUtilizationRates(h)).gpu, r.memory]) for _ in range(9)]\n"
        "s = nvmlDeviceGetSamples(h, NVML_GPU_UTILIZATION_SAMPLES, 0)[1]\n"
        "m = nvmlDeviceGetSamples(h, NVML_MEMORY_UTILIZATION_SAMPLES, 0)[1]\n"
        "say([u, [[x.timeStamp, x.sampleValue.uiVal] for x in s], [x.sampleValue.uiVal for x in m]])",
    )
    for before, after, (busy, memory_busy) in brackets(script, rates):
        ends = (math.floor(before / 0.1) * 0.1, math.floor(after / 0.1) * 0.1)
        assert busy in [round(100 * gpu.mean_utilization(end - 0.1, end)) for end in ends]
        assert memory_busy == 31
    assert set(memory) == {31}
    for stamp, percent in samples:
        t = (stamp * 1000 - script.origin_realtime_ns) / 1e9
        assert percent == pytest.approx(100 * gpu.mean_utilization(t - 0.1, t), abs=0.51)
    assert {percent for _, percent in samples} == {20, 100}


# What goes wrong


def test_errors_have_their_time_their_function_and_their_card(child):
    script = earlier(
        10,
        gpus=(
            Gpu(
                faults=(
                    Error("nvmlDeviceGetPowerUsage", simnvml.UNKNOWN, 5, 1e6),
                    Error("nvmlDeviceGetTotalEnergyConsumption", simnvml.UNKNOWN, 0, 5),
                    Error("field:186"),
                    Error("samples:1"),
                )
            ),
            Gpu(counter=False),
        ),
    )
    said = child(
        script,
        """
h1 = nvmlDeviceGetHandleByIndex(1)
def fields(x):
    return [[v.nvmlReturn, v.value.ullVal > 0] for v in nvmlDeviceGetFieldValues(x, [83, 185, 186])]
say([[failure(f, x) for f in (nvmlDeviceGetPowerUsage, nvmlDeviceGetTotalEnergyConsumption) for x in (h, h1)],
     [fields(h), fields(h1)], failure(nvmlDeviceGetSamples, h, 1, 0), failure(nvmlDeviceGetSamples, h, 0, 0)])
""",
    )
    assert said[0] == [[999, "Unknown Error"], None, None, [3, "Not Supported"]]
    assert said[1] == [[[0, True], [0, True], [3, False]], [[3, False], [0, True], [0, True]]]
    assert said[2:] == [[3, "Not Supported"], None]


def test_a_lost_gpu_answers_nothing_and_its_neighbour_everything(child):
    script = earlier(10, gpus=(Gpu(lost_at=9.0), Gpu(lost_at=1e6)))
    said = child(
        script,
        "say([nvmlDeviceGetCount(), failure(nvmlDeviceGetHandleByIndex, 0)[0],"
        "nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(1))])",
        begin="nvmlInit()\n",
    )
    assert said == [2, 15, "Tesla V100-SXM2-32GB"]


def test_a_gpu_is_lost_while_it_is_watched(child):
    lost_at = 11.0
    script = earlier(10, gpus=(Gpu(lost_at=lost_at),))
    readings = child(
        script,
        f"end = {script.origin_monotonic_ns} + int({lost_at} * 1e9) + 10**8\n"
        "said = []\n"
        "while time.monotonic_ns() < end:\n"
        "    said.append(reading(failure, nvmlDeviceGetPowerUsage, h))\n"
        "    time.sleep(0.02)\n"
        "say(said + [reading(failure, nvmlDeviceGetPowerUsage, h)])",
        begin=f"nvmlInit()\n"
        f"h = nvmlDeviceGetHandleByUUID('{script.gpus[0].uuid}')"
        f" if time.monotonic_ns() < {script.origin_monotonic_ns + int(10.9e9)} else None\n"
        "if h is None: say([]); sys.exit()\n",
    )
    if not readings:
        pytest.skip("the child started after the loss that it was to watch")
    for before, after, answer in brackets(script, readings):
        assert answer is None or before > lost_at or after >= lost_at
        assert answer == [15, "GPU is lost"] or before < lost_at


@pytest.mark.parametrize("code", [simnvml.DRIVER_NOT_LOADED, 18])
def test_init_fails_with_the_code_it_is_given(child, code):
    script = Script(faults=(Error("nvmlInit", code),))
    assert child(script, "say([failure(nvmlInit)[0], failure(nvmlDeviceGetCount)[0]])", begin="") == [code, 1]


def test_a_call_hangs_until_its_window_ends(child):
    script = Script(gpus=(Gpu(faults=(Hang("nvmlDeviceGetPowerUsage", end=1.5),)),))
    slow, fast = child(script, "say([reading(nvmlDeviceGetPowerUsage, h), reading(nvmlDeviceGetPowerUsage, h)])")
    assert brackets(script, [slow])[0][1] >= 1.5
    assert fast[2] == slow[2] == 40_000


@pytest.mark.parametrize("call", ["nvmlInit()", "nvmlDeviceGetPowerUsage(h)"])
def test_a_call_that_never_returns_leaves_the_other_threads_alone(child, call):
    hang = Hang(call.split("(")[0])
    script = Script(faults=(hang,)) if "Init" in call else Script(gpus=(Gpu(faults=(hang,)),))
    begin = "" if "Init" in call else "nvmlInit(); h = nvmlDeviceGetHandleByIndex(0)\n"
    code = f"""
t = threading.Thread(target=lambda: {call}, daemon=True)
t.start()
t.join(0.5)
say(t.is_alive())
sys.stdout.flush()
os._exit(0)
"""
    assert child(script, code, begin=begin) is True


def test_a_slow_call_takes_its_time(child):
    script = Script(faults=(Slow("nvmlDeviceGetMemoryInfo", 0.2),))
    before, after, _ = child(script, "say(reading(lambda: nvmlDeviceGetMemoryInfo(h).total))")
    assert after - before >= 200_000_000


@pytest.mark.parametrize(
    "symbol", ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues", "nvmlDeviceGetSamples"]
)
def test_a_library_without_a_symbol(child, symbol):
    arguments = {"nvmlDeviceGetFieldValues": "h, [83]", "nvmlDeviceGetSamples": "h, 0, 0"}.get(symbol, "h")
    code = f"say([failure({symbol}, {arguments}), failure(nvmlDeviceGetPowerUsage, h)])"
    assert child(Script(), code, without=(symbol,)) == [[13, "Function Not Found"], None]
    assert child(Script(), code) == [None, None]


def test_a_script_that_is_not_understood_is_said_and_fails(libraries, tmp_path):
    path = simnvml.write(Script(), tmp_path / "script")
    path.write_text(path.read_text() + "colour green\n")
    code = PREAMBLE + "say(failure(nvmlInit)[0])"
    environment = os.environ | simnvml.environment(libraries(), path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "999"
    assert "not understood: colour green" in done.stderr


# What the devices are


def test_devices_are_found_by_index_uuid_and_address_and_say_what_they_are(child):
    script = Script(gpus=(replace(A100, memory_used=3.0 * GIB, processes=((4711, 2 * GIB),)), Gpu()))
    said = child(
        script,
        f"""
again = [nvmlDeviceGetHandleByUUID({script.gpus[0].uuid!r}), nvmlDeviceGetHandleByPciBusId("0:7:0"), h]
m, m2 = nvmlDeviceGetMemoryInfo(h), nvmlDeviceGetMemoryInfo(h, version=nvmlMemory_v2)
p, = nvmlDeviceGetComputeRunningProcesses(h)
say({{
    "index": [nvmlDeviceGetIndex(x) for x in again],
    "uuid": nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(1)),
    "pci": nvmlDeviceGetPciInfo(nvmlDeviceGetHandleByIndex(1)).busId,
    "what": [nvmlDeviceGetName(h), nvmlDeviceGetArchitecture(h), nvmlDeviceGetCudaComputeCapability(h)],
    "limits": [nvmlDeviceGetEnforcedPowerLimit(h), *nvmlDeviceGetPowerManagementLimitConstraints(h)],
    "memory": [m.total, m.used, m.free, m2.total, m2.used, m2.free, m2.reserved],
    "process": [p.pid, p.usedGpuMemory],
    "driver": [nvmlSystemGetDriverVersion(), nvmlSystemGetCudaDriverVersion(), nvmlDeviceGetCount()],
    "graphics": nvmlDeviceGetGraphicsRunningProcesses(h),
    "missing": [failure(nvmlDeviceGetHandleByIndex, 2)[0], failure(nvmlDeviceGetHandleByUUID, "GPU-no")[0]],
    "celsius": nvmlDeviceGetTemperatureV(h, NVML_TEMPERATURE_GPU),
}})
""",
    )
    assert said == {
        "index": [0, 0, 0],
        "uuid": script.gpus[1].uuid,
        "pci": "00000000:0F:00.0",
        "what": ["NVIDIA A100-SXM4-40GB", 7, [8, 0]],
        "limits": [400_000, 100_000, 400_000],
        "memory": [40 * GIB, 3 * GIB, 37 * GIB, 40 * GIB, 3 * GIB, 37 * GIB, 0],
        "process": [4711, 2 * GIB],
        "driver": ["535.183.01", 12020, 2],
        "graphics": [],
        "missing": [2, 6],
        "celsius": 45,
    }


def test_mig_slices_have_memory_and_no_power(child):
    migs = (Mig("MIG-aaaa", 7), Mig("MIG-bbbb", 1, slices=3, memory_bytes=20 * GIB, profile="3g.20gb"))
    script = Script(gpus=(replace(A100, mig_mode=True, migs=migs), A100, Gpu()))
    said = child(
        script,
        """
s = nvmlDeviceGetMigDeviceHandleByIndex(h, 1)
a = nvmlDeviceGetAttributes_v2(s)
parent = nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDeviceGetHandleByUUID("MIG-bbbb"))
say([
    [nvmlDeviceGetCount(), nvmlDeviceGetMaxMigDeviceCount(h), nvmlDeviceGetMigMode(h)],
    [nvmlDeviceGetMigMode(nvmlDeviceGetHandleByIndex(1)),
     failure(nvmlDeviceGetMigMode, nvmlDeviceGetHandleByIndex(2))[0]],
    [nvmlDeviceGetName(s), nvmlDeviceGetUUID(s), nvmlDeviceGetMemoryInfo(s).total],
    [nvmlDeviceGetGpuInstanceId(s), nvmlDeviceGetComputeInstanceId(s)],
    [a.gpuInstanceSliceCount, a.memorySizeMB],
    [nvmlDeviceIsMigDeviceHandle(s).value, nvmlDeviceIsMigDeviceHandle(h).value, nvmlDeviceGetIndex(parent)],
    [failure(f, s)[0] for f in (nvmlDeviceGetPowerUsage, nvmlDeviceGetTotalEnergyConsumption)],
    nvmlDeviceGetFieldValues(s, [186])[0].nvmlReturn,
    failure(nvmlDeviceGetUtilizationRates, h)[0],
    nvmlDeviceGetPowerUsage(h),
    failure(nvmlDeviceGetMigDeviceHandleByIndex, h, 2)[0],
])
""",
    )
    assert said == [
        [3, 7, [1, 1]],
        [[0, 0], 3],
        ["NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-bbbb", 20 * GIB],
        [1, 0],
        [3, 20480],
        [1, 0, 0],
        [3, 3],
        3,
        3,
        55_000,
        6,
    ]


def test_after_shutdown_it_is_uninitialized_until_the_next_init(child):
    said = child(
        Script(),
        """
nvmlInit(); nvmlShutdown()
said = [failure(nvmlDeviceGetPowerUsage, h)]
nvmlShutdown()
said += [failure(nvmlDeviceGetPowerUsage, h), failure(nvmlShutdown)]
nvmlInit()
say(said + [failure(nvmlDeviceGetPowerUsage, h)])
""",
    )
    assert said == [None, [1, "Uninitialized"], [1, "Uninitialized"], None]


def test_calls_are_counted_over_all_processes(child, tmp_path):
    log = tmp_path / "calls"
    for _ in range(2):
        child(Script(), "say([nvmlDeviceGetPowerUsage(h) for _ in range(3)])", calls=log)
    assert simnvml.calls(log) == {
        "nvmlInit": 2,
        "nvmlDeviceGetHandleByIndex": 2,
        "nvmlDeviceGetPowerUsage": 6,
    }


def test_a_build_is_made_once_for_each_set_of_missing_symbols(libraries):
    assert libraries() == libraries()
    assert libraries("nvmlDeviceGetSamples") != libraries()


def test_a_command_that_looks_like_nvidia_smi(tmp_path):
    commands = simnvml.fake_nvidia_smi(tmp_path / "bin")
    added = simnvml.environment(tmp_path / "x.so", tmp_path / "script", commands=commands)
    done = subprocess.run(["/usr/bin/env", "nvidia-smi", "--help"], env=os.environ | added, capture_output=True)
    assert done.returncode == 0
