"""The published run through the command line, as a person would: import, report, and the tables byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def greenml(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "greenml", *words], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("expected", ["expected-resource-usage.md", "expected-carbon-emissions.md"])
def test_the_published_tables(folder, expected):
    told = greenml(folder, "report", "run.json", "--markdown")
    assert (folder / expected).read_text() in told.stdout


def test_the_figures_follow_from_the_tables(folder):
    record = json.loads((folder / "run.json").read_text())
    total = record["totals"][0]
    assert total["cost_usd"]["dedicated"]["value"] == pytest.approx(2631.05 / 3600 * 22.03, rel=1e-12)
    assert total["cost_usd"]["low_priority"]["value"] == pytest.approx(2631.05 / 3600 * 4.41, rel=1e-12)
    intensity = record["factors"]["carbon_intensity"]
    assert (intensity["value"], intensity["scope"], intensity["code"]) == (297.6, "cloud_region", "azure/westus2")
    row = record["reported"][0]["row"]
    kilograms = float(row["energy_consumed"]) * intensity["value"] / 1000
    assert kilograms == pytest.approx(float(row["emissions"]), rel=1e-12)


def test_an_import_never_replaces_a_record_unasked(folder):
    done = greenml(folder, "import", "--codecarbon", "emissions.csv", "--duration", "43m51.05s")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "run.json exists" in done.stderr


def test_what_if_elsewhere(folder):
    told = greenml(folder, "report", "run.json", "--json", "--region", "southcentralus", "--tier", "low_priority")
    record = json.loads(told.stdout)
    assert record["totals"][0]["cost_usd"]["low_priority"]["value"] == pytest.approx(2631.05 / 3600 * 5.288, rel=1e-6)
    assert record["totals"][0]["gpu_energy_joules"]["value"] == 2448690.0
    assert any(note["code"] == "what-if" for note in record["notes"])
