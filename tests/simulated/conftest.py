"""Programs on a simulated host: a child process with genuine pynvml, and what its record says against the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from greenml.record import file as records
from greenml.record.schema import DeviceRecord, RunRecord, Usage

from . import simnvml

TRACKED = """
import json, sys, threading, time
import greenml
run = greenml.track(output=sys.argv[1])
before = time.monotonic(); run.start(); started = time.monotonic()
with run.phase("train"):
    begin = time.monotonic(); time.sleep(float(sys.argv[2])); end = time.monotonic()
ending = time.monotonic(); run.stop(); stopped = time.monotonic()
print(json.dumps({"begin": begin, "end": end, "start": started - before, "stop": stopped - ending,
                  "threads": threading.active_count()}))
"""

# What a child of the fixture ``child`` begins with.
PREAMBLE = """
import json, os, threading, time
from dataclasses import asdict
from pathlib import Path
from greenml.errors import *
from greenml.trace.types import Wanted
from greenml.sensors import nvml, _driver

def reading(sensor):
    before = time.monotonic()
    try:
        value = asdict(sensor.read())
    except SensorLostError as error:
        value = {"lost": str(error)}
    except SensorError as error:
        value = {"error": str(error)}
    return value | {"before": before, "after": time.monotonic()}

def facts(sensor):
    return asdict(sensor.device) | {"interval_seconds": sensor.interval_seconds}

def say(value):
    print(json.dumps(value))

def begin(seconds):
    # The simulated time is so late now, however long this process took to start. Returns when it was 0.
    path, zero = Path(os.environ["SIMNVML_SCRIPT"]), time.monotonic_ns() - int(seconds * 1e9)
    _, rest = path.read_text().split("\\n", 1)
    path.write_text(f"origin {zero} {time.time_ns() - int(seconds * 1e9)}\\n" + rest)
    return zero / 1e9

def probe(gpus=None):
    try:
        return nvml.probe(Wanted(gpus=gpus))
    except GreenMLError as error:
        say([type(error).__name__, str(error)])
        raise SystemExit(0)
"""
DECLARE = "say([facts(s) for s in probe()])"


def read_twice(seconds):
    return f"(s,) = probe(); a = reading(s); time.sleep({seconds}); s.catch_up(); say([facts(s), a, reading(s)])"


@dataclass
class Program:
    """A program that runs, or ran, on a simulated host."""

    script: simnvml.Script
    output: Path
    process: subprocess.Popen[str]

    def said(self) -> dict[str, float]:
        """Wait for its end and return what it printed last."""
        out, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        assert errors == ""
        return json.loads(out.strip().splitlines()[-1])

    def said_nothing(self) -> None:
        """Wait for its end."""
        out, errors = self.process.communicate(timeout=120)
        assert (self.process.returncode, out, errors) == (0, "", "")

    @property
    def record(self) -> RunRecord:
        return records.read(self.output)

    def gpus(self) -> list[DeviceRecord]:
        return sorted((device for device in self.record.devices if device.kind == "gpu"), key=lambda device: device.id)

    def notes(self, code: str) -> list[str]:
        return [note.text for note in self.record.notes if note.code == code]


def tolerance_joules(
    usage: Usage, *, peak_watts: float, step_seconds: float = 0.020, spans: int = 1, seconds: float | None = None
) -> float:
    """Return how far an energy may be from the truth where the sensor is right.

    Two steps of the hardware's at each of its spans, and what lies beyond edges that were read late: on busy cores the
    sampler comes late by anything, which shows in the trace, and so in the figure's own uncertainty and coverage.

    Args:
        seconds: of the phase or run, where a part of it may have come before the first reading.
    """
    assert usage.uncertainty is not None
    missed = 0.0 if seconds is None else max(0.0, seconds - usage.covered_seconds)
    return (2 * spans * step_seconds + missed) * peak_watts + usage.uncertainty.interpolation_joules


def environment(script: simnvml.Script, library: Path, folder: Path) -> dict[str, str]:
    path = simnvml.write(script, folder / "script")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}
    plain["GREENML_CACHE_DIR"] = os.environ["GREENML_CACHE_DIR"]  # the tests' own
    return plain | simnvml.environment(library, path)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    if simnvml.compiler() is None:
        pytest.skip(simnvml.NO_COMPILER)
    folder = tmp_path_factory.mktemp("libraries")
    return lambda *without: simnvml.build(folder, without)


@pytest.fixture(scope="session")
def host(libraries, tmp_path_factory):
    """Return the environment of a program on a host with some GPUs."""

    def environment_of(*gpus):
        return environment(simnvml.Script(gpus=gpus), libraries(), tmp_path_factory.mktemp("host"))

    return environment_of


@pytest.fixture
def start(libraries, tmp_path):
    """Start a program on a host with some GPUs: (gpus, seconds) tracks a phase ``train`` of so many seconds."""
    running = []

    def begin(gpus, seconds, *, code=TRACKED, faults=(), without=()):
        folder = tmp_path / f"host-{len(running)}"
        folder.mkdir()
        script = simnvml.Script(gpus=tuple(gpus), faults=tuple(faults))
        output = folder / "run.json"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(output), str(seconds)],
            env=environment(script, libraries(*without), folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return Program(script, output, process)

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def child(libraries, tmp_path):
    """Run code on a script's host and return what it said."""

    def run(script, code, *, without=(), **environment):
        path = simnvml.write(script, tmp_path / "script")
        added = simnvml.environment(libraries(*without), path, calls=tmp_path / "calls")
        plain = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        command = [sys.executable, "-c", PREAMBLE + code]
        done = subprocess.run(command, env=plain | added | environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.calls = lambda: simnvml.calls(tmp_path / "calls")
    return run
