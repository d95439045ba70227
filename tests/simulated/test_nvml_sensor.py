"""The NVML sensor against a simulated driver: genuine pynvml in a child, and the exact truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from .conftest import DECLARE, PREAMBLE, read_twice
from .simnvml import (
    A100,
    DRIVER_NOT_LOADED,
    GIB,
    H100,
    UNKNOWN,
    Constant,
    Error,
    Gpu,
    Hang,
    Mig,
    Script,
    Square,
)

WAVE = Square(100, 300, period_seconds=0.25)
NO_FIELDS = ("nvmlDeviceGetFieldValues",)


POLL = """
(s,) = probe()
out = [reading(s)]
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    time.sleep(s.interval_seconds)
    out.append(reading(s))
say([facts(s), out])
"""


# What is declared


def test_a_v100_is_declared_as_it_is(child):
    script = Script(gpus=(Gpu(uuid="GPU-1", power=200.0, memory_used=5.0 * GIB, memory_bytes=32 * GIB),))
    (v100,) = child(script, DECLARE)
    assert v100["id"] == "GPU-1"
    assert (v100["kind"], v100["sensor"], v100["method"]) == ("gpu", "nvml", "counter")
    assert v100["name"] == "Tesla V100-SXM2-32GB"
    assert v100["calibration_ratio"] == 0.05
    assert v100["step_seconds"] == pytest.approx(0.020)
    assert v100["sampled_ratio"] == pytest.approx(0.5)  # 10 ms of each 20 ms
    assert v100["lag_seconds"] == pytest.approx(0.010)  # a counter: half of a step
    assert v100["power_limit_watts"] == pytest.approx(300.0)
    assert v100["memory_total_bytes"] == 32 * GIB
    assert v100["interval_seconds"] == 1.0
    assert v100["share_ratio"] == 1.0
    assert v100["note"] == ""
    assert v100["detail"] == {
        "index": "0",
        "pci_bus_id": "00000000:07:00.0",
        "driver": "535.183.01",
        "architecture": "Volta",
        "energy": "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "power": "NVML_FI_DEV_POWER_INSTANT",
        "memory": "used, without the driver's own",
        "power_limit_range_watts": "150 to 300",
    }


@pytest.mark.parametrize(
    ("gpu", "driver", "faults", "power", "seen"),
    [
        (H100, "535.1", (), "NVML_FI_DEV_POWER_INSTANT", 0.25),
        (H100, "535.1", (Error("field:186"),), "nvmlDeviceGetPowerUsage", 1.0),  # the average of a second
        (H100, "525.1", (Error("field:186", 2),), "nvmlDeviceGetPowerUsage", 0.25),
        (A100, "535.1", (Error("field:186"),), "nvmlDeviceGetPowerUsage", 0.25),  # never an average
        (
            replace(H100, name="NVIDIA H100 96GB PCIe of tomorrow"),
            "560.1",
            (),
            "NVML_FI_DEV_POWER_INSTANT",
            0.25,
        ),
        (
            replace(H100, name="NVIDIA Unheard X1", architecture=99),
            "560.1",
            (),
            "NVML_FI_DEV_POWER_INSTANT",
            1.0,
        ),
    ],
)
def test_the_share_of_time_that_the_gauge_sees(child, gpu, driver, faults, power, seen):
    (found,) = child(Script(gpus=(replace(gpu, faults=faults),), driver=driver), DECLARE)
    assert found["detail"]["power"] == power
    assert found["sampled_ratio"] == pytest.approx(seen)
    assert found["method"] == "counter"


@pytest.mark.parametrize(
    ("gpu", "lag_seconds"),
    [
        (A100, 0.050),  # a counter: half of a step
        (replace(A100, counter=False, sample_capacity=0), 0.0625),  # a gauge: half of its window more
        (replace(A100, counter=False), 0.0125),  # the driver dates its samples: half of the window alone
    ],
)
def test_how_old_a_reading_is(child, gpu, lag_seconds):
    (found,) = child(Script(gpus=(gpu,)), DECLARE)
    assert found["lag_seconds"] == pytest.approx(lag_seconds)


@pytest.mark.parametrize(
    ("gpu", "interval"),
    [
        (Gpu(counter=False, sample_capacity=0), 0.020),
        (replace(A100, counter=False, sample_capacity=0), 0.050),
        (Gpu(counter=False, sample_capacity=10), 0.090),  # the buffer holds 0.18 s
        (Gpu(counter=False, sample_capacity=120), 1.0),
        (replace(A100, counter=False, sample_seconds=1.0), 0.050),  # coarser than the gauge
    ],
)
def test_without_a_counter_it_is_read_as_often_as_its_power_needs(child, gpu, interval):
    (found,) = child(Script(gpus=(gpu,)), DECLARE)
    assert found["method"] == "gauge"
    assert found["interval_seconds"] == pytest.approx(interval, rel=0.01)


def test_neither_energy_nor_power_is_said_and_the_rest_still_read(child):
    nothing = (Error("nvmlDeviceGetPowerUsage"), Error("field:186"), Error("field:185"))
    gpu = Gpu(counter=False, sample_capacity=0, faults=nothing, memory_used=3.0 * GIB)
    found, readings = child(Script(gpus=(gpu,)), POLL.replace("SECONDS", "0"))
    assert found["method"] is None
    assert "not measured" in found["note"]
    assert readings[0]["energy_joules"] is None
    assert readings[0]["power_watts"] is None
    assert readings[0]["memory_bytes"] == 3 * GIB


# What is read


def assert_energy_true(script, first, second, step=0.020):
    watts = max(300.0, script.gpus[0].idle_watts)
    least = script.energy_joules(0, first["after"], second["before"]) - watts * step
    most = script.energy_joules(0, first["before"], second["after"]) + watts * step
    assert least <= second["energy_joules"] - first["energy_joules"] <= most


@pytest.mark.parametrize("without", [(), NO_FIELDS])
def test_two_reads_of_the_counter_are_the_energy_of_a_wave(child, without):
    script = Script(gpus=(Gpu(power=WAVE),))
    found, first, second = child(script, read_twice(0.9), without=without)
    assert_energy_true(script, first, second)
    way = "nvmlDeviceGetTotalEnergyConsumption" if without else "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
    assert found["detail"]["energy"] == way
    assert {watts for _, watts in second["power_samples"]} <= {WAVE.low, WAVE.high, (WAVE.low + WAVE.high) / 2}
    assert len(second["power_samples"]) > 30  # for the cross-check and the peak


def test_utilization_is_the_mean_since_the_last_read(child):
    half = Square(0.0, 1.0, period_seconds=1.0)
    script = Script(gpus=(Gpu(utilization=half, memory_utilization=0.25, activity_seconds=0.1),))
    _, first, second = child(script, read_twice(2.0))
    samples = second["utilization_samples"]
    assert samples[0][0] >= first["before"] - 0.1
    truth = script.mean_utilization(0, samples[0][0] - 0.1, samples[-1][0])
    assert sum(ratio for _, ratio in samples) / len(samples) == pytest.approx(truth, abs=0.03)
    assert {ratio for _, ratio in second["memory_utilization_samples"]} == {0.25}


def test_utilization_without_the_drivers_samples_is_its_last_figure(child):
    script = Script(gpus=(Gpu(utilization=0.75, sample_capacity=0),))
    _, _, second = child(script, read_twice(0.6))
    assert second["utilization_ratio"] == pytest.approx(0.75, abs=0.01)


def test_used_memory_says_whether_it_includes_the_drivers_own(child):
    script = Script(gpus=(Gpu(memory_used=2.0 * GIB),))
    new, reading, _ = child(script, read_twice(0))
    assert reading["memory_bytes"] == 2 * GIB
    assert "without" in new["detail"]["memory"]
    old, reading, _ = child(script, read_twice(0), without=("nvmlDeviceGetMemoryInfo_v2",))
    assert reading["memory_bytes"] >= 2 * GIB
    assert "without" not in old["detail"]["memory"]


def integral(points):
    return sum((b + a) / 2 * (t - s) for (s, a), (t, b) in pairwise(points))


@pytest.mark.parametrize("capacity", [60, 120])
def test_the_drivers_power_samples_carry_the_energy_at_slow_reads(child, capacity):
    """The wave turns 8 times a second; the sensor is read far less often than would see it."""
    gpu = Gpu(power=WAVE, counter=False, sample_capacity=capacity, window_seconds=0.020)
    script = Script(gpus=(gpu,))
    found, readings = child(script, POLL.replace("SECONDS", "3"))
    assert found["detail"]["power"].endswith("samples")
    points = [tuple(point) for reading in readings for point in reading["power_samples"]]
    assert all(a < b for (a, _), (b, _) in pairwise(points))
    # None is missing, each stands at the end of the 20 ms that it is the mean of, and none comes from the future.
    assert max(b - a for (a, _), (b, _) in pairwise(points)) == pytest.approx(0.020, abs=0.002)
    gpu = script.gpus[0]
    assert all(watts == pytest.approx(gpu.gauge_watts(script.seconds(at) + 0.005), abs=0.01) for at, watts in points)
    assert all(at <= reading["after"] for reading in readings for at, _ in reading["power_samples"])
    start, end = points[0][0] - 0.010, points[-1][0] - 0.010
    assert integral(points) == pytest.approx(script.energy_joules(0, start, end), rel=0.02)


def test_a_read_with_a_counter_is_cheap(child):
    child(Script(gpus=(Gpu(),)), "(s,) = probe(); [s.read() for _ in range(20)]; say(0)")
    calls = child.calls()
    assert calls["nvmlDeviceGetFieldValues"] == 22  # the scopes of its power once, energy and power at each read
    assert calls["nvmlDeviceGetPowerUsage"] == 0
    assert calls["nvmlDeviceGetTotalEnergyConsumption"] == 0
    assert calls["nvmlDeviceGetUtilizationRates"] <= 3  # not again within half a second
    assert calls["nvmlDeviceGetHandleByIndex"] <= 2


def test_a_missing_field_is_asked_for_once(child):
    script = Script(gpus=(Gpu(sample_capacity=0, faults=(Error("nvmlDeviceGetUtilizationRates"),)),))
    code = "(s,) = probe(); s.read(); time.sleep(0.6); say(reading(s))"
    assert child(script, code)["utilization_ratio"] is None
    assert child.calls()["nvmlDeviceGetUtilizationRates"] == 1
    assert child.calls()["nvmlDeviceGetSamples"] == 3  # of power, and of both utilizations


# Trouble


def test_a_gpu_that_falls_off_the_bus_is_lost_for_good(child):
    script = Script(gpus=(Gpu(uuid="GPU-7", lost_at=30.0),))
    code = "begin(29); (s,) = probe(); a = reading(s); time.sleep(1.5); say([a, reading(s), reading(s)])"
    before, after, again = child(script, code)
    assert "energy_joules" in before
    assert after["lost"].startswith("NVML: GPU 0 (GPU-7): GPU is lost; ")
    assert again["lost"] == after["lost"]


def test_a_gpu_that_is_lost_from_the_start_is_named_and_the_others_are_measured(child):
    script = Script(gpus=(Gpu(uuid="GPU-a", lost_at=0.0), Gpu(uuid="GPU-b")))
    found = child(script, "say([[facts(s), reading(s)] for s in probe()])")
    (lost, first), (well, second) = found
    assert lost["method"] is None
    assert "GPU 0" in lost["note"]
    assert "is lost" in first["lost"]
    assert well["id"] == "GPU-b"
    assert second["energy_joules"] > 0


def test_trouble_of_a_moment_costs_a_reading_of_what_it_touches(child):
    faults = (Error("field:83", UNKNOWN, 31, 32), Error("nvmlDeviceGetUtilizationRates", UNKNOWN, 31, 32))
    script = Script(gpus=(Gpu(uuid="GPU-7", faults=faults[:1], utilization=0.5, sample_capacity=0),))
    code = """
o = begin(30); (s,) = probe(); out = []
for at in (0.0, 31.4, 32.2):
    time.sleep(max(0, o + at - time.monotonic())); out.append(reading(s))
say(out)
"""
    before, during, after = child(script, code)
    assert during["energy_joules"] is None
    assert during["power_watts"] > 0
    assert after["energy_joules"] > before["energy_joules"]
    script = replace(script, gpus=(replace(script.gpus[0], faults=faults[1:]),))
    before, during, after = child(script, code)
    assert during["utilization_ratio"] is None
    assert during["energy_joules"] > before["energy_joules"]
    assert after["utilization_ratio"] == pytest.approx(0.5, abs=0.01)


RELOAD = """
_driver.RESTART_SECONDS = 0.2
begin(30); (s,) = probe(); out = [reading(s)]
for _ in range(8):
    time.sleep(0.2); out.append(reading(s))
s.close(); say(out)
"""


@pytest.mark.parametrize(
    ("function", "code"),
    [("*", DRIVER_NOT_LOADED), *(("nvmlDeviceGetFieldValues", code) for code in (DRIVER_NOT_LOADED, 1, 2, 16, 18))],
)
def test_a_driver_that_was_reloaded_is_found_again(child, function, code):
    script = Script(faults=(Error(function, code, 30.8, 31.3),))
    found = child(script, RELOAD)
    assert found[0]["energy_joules"] > 0
    assert any("error" in one for one in found)
    assert found[-1]["energy_joules"] > found[0]["energy_joules"]
    calls = child.calls()
    assert 2 <= calls["nvmlInit"] <= 8
    assert calls["nvmlDeviceGetHandleByUUID"] >= (0 if function == "*" else 1)


def test_a_library_that_somebody_else_shut_down_is_started_again(child):
    code = """
import pynvml
a, b = probe(); reading(a); pynvml.nvmlShutdown()
first = reading(a); second = [reading(a), reading(b)]
a.close(); b.close(); say([first, second])
"""
    first, second = child(Script(gpus=(Gpu(), Gpu())), code)
    assert "Uninitialized" in first["error"]
    assert all(one["energy_joules"] > 0 for one in second)
    assert child.calls()["nvmlInit"] == 2


def test_closing_waits_for_no_driver_and_shuts_nothing_down_under_a_call(child):
    script = Script(gpus=(Gpu(faults=(Hang("nvmlDeviceGetFieldValues", 31, 33),)), Gpu()))
    code = """
zero = begin(30); a, b = probe()
time.sleep(max(0, zero + 31.2 - time.monotonic()))
thread = threading.Thread(target=reading, args=(a,)); thread.start(); time.sleep(0.2)
a.close(); b.close(); a.close()
hung = thread.is_alive(); thread.join(); after = reading(a)
say([hung, after])
"""
    hung, after = child(script, code)
    assert hung, "what closes a sensor comes back while the call hangs"
    assert "was closed" in after["lost"]
    assert child.calls()["nvmlShutdown"] == 1


def test_the_library_ends_with_its_last_sensor(child):
    script = Script(gpus=(Gpu(), Gpu()))
    child(script, "a, b = probe(); a.close(); b.read(); say(0)")
    assert child.calls()["nvmlShutdown"] == 0
    child(script, "a, b = probe(); a.close(); b.close(); say(0)")
    assert child.calls()["nvmlShutdown"] == 1


# Which GPUs, and when there are none


def test_uuids_choose_and_nothing_visible_is_an_error_that_says_why(child):
    script = Script(gpus=(Gpu(uuid="GPU-aa"), Gpu(uuid="GPU-bb")))
    code = "say([s.device.id for s in probe()])"
    assert child(script, code, CUDA_VISIBLE_DEVICES="GPU-b") == ["GPU-bb"]
    assert child(script, code, CUDA_VISIBLE_DEVICES="1,0") == ["GPU-bb", "GPU-aa"]
    kind, text = child(script, code, CUDA_VISIBLE_DEVICES="")
    assert kind == "SensorError"
    assert "CUDA_VISIBLE_DEVICES is empty" in text
    assert child.calls()["nvmlShutdown"] == 1
    kind, text = child(script, code.replace("probe()", "probe([5])"))
    assert kind == "SettingsError"
    assert "1 (GPU-bb)" in text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(gpus=()), "lists none"),
        (Script(faults=(Error("nvmlInit", DRIVER_NOT_LOADED),)), "load the NVIDIA driver"),
        (Script(faults=(Error("nvmlInit", 18),)), "reload it or reboot"),
    ],
)
def test_no_driver_or_no_gpu_is_one_line(child, script, said):
    kind, text = child(script, DECLARE)
    assert kind == "SensorError"
    assert text.startswith("NVML: ")
    assert said in text
    assert "\n" not in text


def test_no_library_is_one_line():
    plain = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + DECLARE], env=plain, capture_output=True, text=True, timeout=60
    )
    kind, text = json.loads(done.stdout)
    if "Not Found" not in text:
        pytest.skip("this host has NVML of its own")
    assert kind == "SensorError"
    assert "docker run --gpus all" in text


def test_mig_instances_are_one_card_with_an_assumed_share(child):
    migs = (Mig("MIG-a", 1, 0, 3), Mig("MIG-b", 2, 0, 2))
    card = replace(A100, uuid="GPU-m", mig_mode=True, migs=migs, power=Constant(200.0))
    script = Script(gpus=(card,))
    (one,) = child(script, DECLARE, CUDA_VISIBLE_DEVICES="MIG-b")
    assert one["id"] == "GPU-m"
    assert one["share_ratio"] == pytest.approx(2 / 7)
    assert one["note"] == "MIG: whole card measured, and counted; this run's share is assumed to be 2/7"
    assert one["detail"]["mig"] == "MIG-b"
    (both,) = child(script, DECLARE, CUDA_VISIBLE_DEVICES="MIG-b,MIG-GPU-m/1/0")
    assert both["share_ratio"] == pytest.approx(5 / 7) or both["share_ratio"] == pytest.approx(2 / 7)
    (whole,) = child(script, "say([facts(s) for s in probe('all')])")
    assert (whole["share_ratio"], whole["detail"]["mig"]) == (1.0, "whole card")
    _, first, second = child(script, read_twice(0.6), CUDA_VISIBLE_DEVICES="MIG-b")
    assert_energy_true(script, first, second, step=0.1)  # of the whole card
