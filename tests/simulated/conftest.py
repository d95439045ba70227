"""Programs on a simulated host: a child process with genuine pynvml, and what its record says against the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from greenml import record_file as records
from greenml.record import DeviceRecord, RunRecord

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
        return sorted((one for one in self.record.devices if one.kind == "gpu"), key=lambda one: one.id)

    def notes(self, code: str) -> list[str]:
        return [note.text for note in self.record.notes if note.code == code]


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
