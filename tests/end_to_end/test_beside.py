"""``greenml run --beside codecarbon``: the real CodeCarbon over the same time, and both figures at the end."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import greenml
from greenml.cli.run import CodeCarbon


def test_codecarbon_measures_the_same_time(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")  # another run's: this one goes to run-2.json
    words = ["run", "--beside", "codecarbon", "--quiet", "--", sys.executable, "-c", "import time; time.sleep(3)"]
    done = subprocess.run(
        [sys.executable, "-m", "greenml", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run-2.trace" / "codecarbon-emissions.csv").open() as file:
        [row] = csv.DictReader(file)
    record = greenml.open_record(tmp_path / "run-2.json")
    assert float(row["duration"]) > 0.9 * 3
    assert "CodeCarbon, all that it counts" in done.stderr
    joules = record.total().it_energy_joules.value
    assert joules is None or "the whole run" in done.stderr


def test_a_meter_that_never_measures_keeps_nobody_waiting(tmp_path: Path):
    """One says nothing, one ends at once, one says more than a pipe holds; the last writes its file."""
    silent = CodeCarbon("import time; time.sleep(600)", ready_seconds=0.2)
    gone = CodeCarbon("raise SystemExit(1)")
    talks = "import sys; print('x'); print('ready', flush=True); print('x' * 200_000); sys.stdin.read()"
    loud = CodeCarbon(f"{talks}; open(sys.argv[1], 'w').write('figures')")
    assert (silent.ready, gone.ready, loud.ready) == (False, False, True)
    for meter in (silent, gone, loud):
        meter.end()
        meter.stop(tmp_path)
    assert (silent.path, gone.path, loud.path) == (None, None, tmp_path / "codecarbon-emissions.csv")
    assert loud.path.read_text() == "figures"


def test_a_command_that_is_not_there_leaves_no_meter_behind(tmp_path: Path):
    words = ["run", "--beside", "codecarbon", "--", "./no-such-command"]
    done = subprocess.run(
        [sys.executable, "-m", "greenml", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 127
    assert list(tmp_path.iterdir()) == []
