"""A study's cells on simulated GPUs: side by side on those that nobody uses, each with its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from greenml.analysis.study import folder

from . import simnvml
from .conftest import environment

STUDY = """
name: s
command: "{python} -c 'import time; time.sleep(1.5)' {seed}"
seeds: [1, 2]
gpus: 1
variants: {a: {}}
"""


def test_cells_get_the_gpus_that_no_other_process_uses(libraries, tmp_path: Path):
    free = simnvml.Gpu(power=simnvml.Constant(100))
    script = simnvml.Script(gpus=(free, replace(free, processes=((1, 2**30),)), free))
    variables = environment(script, libraries(), tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    words = [sys.executable, "-m", "greenml", "study", "run", "study.yaml"]
    ended = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cells = folder.load(tmp_path / "s").cells
    given = [cell.attempts[0].gpus for cell in cells]
    assert set(given) <= {script.gpus[0].uuid, script.gpus[2].uuid}
    for cell in cells:  # each measures its own GPU alone
        gpus = [device for device in cell.record.devices if device.kind == "gpu"]
        assert [device.id for device in gpus] == [cell.attempts[0].gpus]
        assert gpus[0].usage.power_mean_watts == pytest.approx(100, rel=0.02)
