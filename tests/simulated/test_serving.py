"""Requests on simulated GPUs whose power is known at every moment, through the driver, the traces and the meter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

import greenml
from greenml.run import assembly
from greenml.run.serving.devices import DeviceEnergies
from greenml.trace import file as trace_file
from greenml.trace import trace_paths

from . import simnvml

pytestmark = pytest.mark.skipif(simnvml.compiler() is None, reason=simnvml.NO_COMPILER)

PROGRAM = """
import json, random, sys, time
import greenml
meter = greenml.serve(sys.argv[1], gpus="all")
time.sleep(1.5)
rng, events = random.Random(7), []
for number in range(2000):
    start = rng.uniform(0, 11) if number % 20 else rng.uniform(0, 9)
    events += [(start, 0, number), (start + rng.expovariate(8) + 0.001, 1, number)]
events = [event for event in events if not 4 < event[0] < 5 or event[1]]  # no request begins in this second
begun, flying, requests = time.monotonic(), {}, []
for when, ends, number in sorted(events):
    time.sleep(max(0.0, begun + when - time.monotonic()))
    if not ends:
        flying[number] = meter.request()
    elif number in flying:
        request = flying.pop(number)
        request.end()
        requests.append(request)
record = meter.close()
print(json.dumps([[r.start_seconds, r.end_seconds, r.result.energy_joules, r.result.energy_low_joules,
                   r.result.energy_high_joules] for r in requests]))
"""


def settled_and_used(run_dir):
    """Return what the windows of a finished run gave out, and the joules that the devices used in that time."""
    (settled,) = assembly.machine_totals(map(trace_file.read, trace_paths(run_dir)))
    energies = DeviceEnergies(run_dir, time.monotonic, time.time)
    energies.read()
    return settled, energies.window(settled.until_seconds - settled.seconds, settled.until_seconds).joules


def test_2000_overlapping_requests_add_up_to_the_truth_and_lie_in_their_intervals(tmp_path):
    gpus = tuple(
        simnvml.Gpu(power=simnvml.Square(90.0 + 20 * at, 280.0, period_seconds=0.7 + 0.3 * at)) for at in range(2)
    )
    script = simnvml.Script(gpus=gpus)
    library, path = simnvml.build(tmp_path), simnvml.write(script, tmp_path / "script")
    output = tmp_path / "serving.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(output)], capture_output=True, text=True, check=True, timeout=120,
        env=os.environ | simnvml.environment(library, path),
    )  # fmt: skip
    requests = json.loads(done.stdout)
    record = greenml.open_record(output)
    total = record.total().it_energy_joules.value
    serving = record.serving
    assert serving.requests["completed"] == len(requests) > 1700
    assert sum(joules for _, _, joules, _, _ in requests) == pytest.approx(
        serving.request_energy_joules.value, rel=1e-3
    )
    settled, used = settled_and_used(output.with_suffix(".trace"))
    assert settled.used.joules + settled.idle.joules == pytest.approx(used, rel=0.02)
    assert serving.request_energy_joules.value == pytest.approx(settled.used.joules)
    assert settled.idle.joules <= serving.idle_energy_joules.value <= settled.idle.joules + total - used + 0.02 * used
    assert serving.idle_seconds > 0.3

    # The GPUs' part of the truth is exact; the rest (CPU, DRAM) is modelled, and nearly constant.
    rest = total - record.total().gpu_energy_joules.value
    rest_watts = rest / record.duration_seconds
    events = sorted(
        [(start, 1, at) for at, (start, *_) in enumerate(requests)]
        + [(end, 0, at) for at, (_, end, *_) in enumerate(requests)]
    )
    truth, flying, last = [0.0] * len(requests), set(), events[0][0]
    for when, begins, at in events:
        joules = sum(script.energy_joules(gpu, last, when) for gpu in range(2)) + rest_watts * (when - last)
        for other in flying:
            truth[other] += joules / len(flying)
        (flying.add if begins else flying.remove)(at)
        last = when
    within = sum(low - 1e-6 <= truth[at] <= high + 1e-6 for at, (*_, low, high) in enumerate(requests))
    assert within >= 0.93 * len(requests)
    assert serving.request_energy_joules.value == pytest.approx(sum(truth), rel=0.1)
