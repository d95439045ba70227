"""The published run, imported from its sources by the command that the README shows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "t5-3b-samsum"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the record, ``run.json``, that they make."""
    folder = tmp_path_factory.mktemp("golden") / "t5-3b-samsum-deepspeed"
    shutil.copytree(GOLDEN, folder)
    metrics = sorted(path.name for path in folder.glob("azure-monitor-*.json"))
    words = ["import", "--output", "run.json", "--sku", "ND40rs_v2", "--region", "westus2", "--nodes", "1"]
    words += ["--duration", "2631.05", "--codecarbon", "emissions.csv", "--azure-monitor", *metrics]
    command = [sys.executable, "-m", "greenml", *words, "--trainer-output", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder
