"""--explain of a run that was measured on simulated GPUs: from the devices' counters to the totals."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from .simnvml import A100

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def test_a_measured_run_can_be_followed(start):
    program = start([A100, A100, A100], 3.0)
    program.said()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GREENML_")}
    words = ["report", str(program.output), "--region", "westus2", "--price-per-hour", "10", "--explain"]
    done = subprocess.run(
        [sys.executable, "-m", "greenml", *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    followed = 0
    for line in done.stdout.splitlines():
        if " = " not in line or line.lstrip().startswith("-"):
            continue
        left, right = line.split(":", 1)[-1].rsplit(" = ", 1)
        words = [NUMBER.match(word)[0] if NUMBER.match(word) else word for word in left.split()]
        words = [{"x": "*"}.get(word, word) for word in words if NUMBER.fullmatch(word) or word in ("x", "/", "+")]
        assert eval(" ".join(words)) == pytest.approx(float(NUMBER.match(right)[0]), rel=2e-9), line
        followed += 1
    assert followed >= 3 + 1 + 1 + 2 + 1  # three GPUs, their sum, IT energy, PUE, emissions, cost
    assert done.stdout.count("energy counter, last reading less first") == 3
    assert "calibration, nvml, gpu" in done.stdout
    joules = sum(one.usage.energy_joules for one in program.gpus())
    assert f"{joules:.10g} J" in done.stdout or f"{joules:.9f}"[:9] in done.stdout
