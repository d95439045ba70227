"""The benchmarks run and print their tables; how fast anything is, is not judged here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(tmp_path, plain_environment):
    def run(name, *arguments):
        return subprocess.run(
            [sys.executable, BENCHMARKS / name, *arguments],
            cwd=tmp_path,
            env=plain_environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.skipif(shutil.which("hey") is None, reason="no load generator: hey is not installed")
def test_the_middleware_is_compared_with_an_endpoint_without_it(benchmark):
    done = benchmark("serving.py", "--rounds", "1", "--seconds", "1", "--rate", "50")
    assert float(row(done, "without")["requests/s"]) > 0
    assert float(row(done, "with")["requests/s"]) > 0
    assert "added to a request" in done.stdout


def row(done, name):
    """Return a row of the first table by its columns' names."""
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    lines = lines[next(at for at, line in enumerate(lines) if "  " in line.strip()) :]  # below the table's title
    cells = [part.strip() for part in lines[0].split("  ") if part.strip()]
    own = next(line for line in lines[1:] if line.strip().startswith(f"{name}  "))
    return dict(
        zip(reversed(cells), reversed([part.strip() for part in own.split("  ") if part.strip()]), strict=False)
    )


def test_scale_knows_the_exact_energy(benchmark):
    found = row(benchmark("scale.py", "--days", "0.02", "--phase-seconds", "300", "--repeat", "1"), "0.48 h")
    assert found["samples"] == "1,735"  # a second each, six phases' edges, the end
    assert float(found["energy off"]) < 1e-8
    assert float(found["phase off"]) < 1e-5


def test_overhead_measures_what_is_installed(benchmark):
    done = benchmark("overhead.py", "--seconds", "1", "--settle", "0.2", "--rounds", "1", "--imports", "0")
    if "C compiler" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert float(row(done, "none")["CPU ms/s"]) < 20  # a process that sleeps, on whatever processor
    found = row(done, "greenml")
    assert float(found["GPU W"]) > 0
    assert float(found["calls/GPU/s"]) > 0
    assert float(found["sum ms"]) >= float(found["make ms"]) > 0  # track(sku=, region=) counts
    busy = subprocess.CompletedProcess((), 0, done.stdout.partition("\n2000 us a driver call")[2])
    assert float(row(busy, "greenml")["step ms"]) > 0
    assert float(row(busy, "greenml")["99 % ms"]) > 0
    for peer in ("codecarbon", "zeus"):
        assert any(line.startswith(f"{peer}  ") for line in done.stdout.splitlines())
    assert "greenml / peer" in done.stdout


def test_pages_tells_size_and_seconds(benchmark, browser):
    told = row(benchmark("pages.py", "--only", "1 h of 8", "--repeat", "1"), "report, 1 h of 8 GPUs")
    assert 1.2 < float(told["MB"]) <= 6  # Plotly alone is 1.2
    assert float(told["drawn s"]) > 0
    assert told["aim s"] == "1"


def test_pages_names_the_pages_there_are(benchmark):
    done = benchmark("pages.py", "--only", "nothing")
    assert done.returncode == 1
    assert "report, 30 d of 64 GPUs" in done.stderr
