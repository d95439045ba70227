"""The reports of the published run agree with each other, and say no more than its sources tell."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from greenml.record import file as record_file
from greenml.reports import csv, html, latex, terminal


def greenml(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "greenml", *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_when_it_was_is_known_to_an_hour(folder: Path):
    """Azure Monitor's window is 61 minutes, the run took 43."""
    record = record_file.read(folder / "run.json")
    when = "some time between 2021-07-06 21:15 UTC and 2021-07-06 22:16 UTC"
    assert when in terminal.render(record, width=100)
    assert when in html.render(record)


def test_its_figures_are_of_eight_gpus(folder: Path):
    gpus = [device.count for device in record_file.read(folder / "run.json").devices if device.kind == "gpu"]
    assert gpus == [8]
    greenml(folder, "compare", "run.json", "--where", "gpus=8")


def test_a_doubt_that_nobody_told_is_no_band(folder: Path):
    total = record_file.read(folder / "run.json").total()
    assert (total.it_energy_joules.low, total.it_energy_joules.high) == (None, None)
    assert total.facility_energy_joules.value == 2448690.0 * 1.15
    assert (total.facility_energy_joules.low, total.facility_energy_joules.high) == (None, None)


def test_nothing_is_said_to_be_measured(folder: Path):
    record = record_file.read(folder / "run.json")
    assert "Measured" not in latex.render(record)
    rows = [line.split(",") for line in csv.render(record).splitlines()]
    basis, joules = rows[0].index("basis"), rows[0].index("energy_joules")
    assert all(row[joules] or row[basis] != "measured" for row in rows if row[0] == "total")


def test_a_narrow_terminal_cuts_no_figure(folder: Path):
    record = record_file.read(folder / "run.json")
    text = " ".join(terminal.render(record, width=60).split())
    for words in ("209.5 to", "256.1 g CO2e", "26.77/30.49", "no CPU energy", "0.6802 kWh"):
        assert words in text


def test_the_hours_make_the_same_of_it_as_a_start_and_as_a_report(folder: Path):
    start = datetime(2021, 7, 6, 21, tzinfo=timezone.utc)
    rows = [f"{(start + timedelta(hours=at)).isoformat()},{grams}" for at, grams in enumerate((212, 100, 50, 300))]
    (folder / "grid.csv").write_text("time,g_per_kwh\n" + "\n".join(rows) + "\n")
    report = greenml(folder, "report", "run.json", "--intensity", "grid.csv")
    starts = greenml(folder, "what-if", "run.json", "--start-times", "--intensity", "grid.csv")
    emitted = re.search(r"^ *Emissions +([\d.]+ g) CO2e", report, re.MULTILINE)
    assert emitted is not None
    assert re.search(rf"the run .*{re.escape(emitted[1])} CO2e", starts), starts


def test_its_two_meters_are_set_side_by_side(folder: Path):
    """Azure Monitor counts the whole run, CodeCarbon the training: the published card sets one beside the other."""
    text = greenml(folder, "reconcile", "run.json", "--with", "codecarbon:emissions.csv", "--markdown")
    assert "| greenml | 0.6802 kWh" in text
    assert "| CodeCarbon, all that it counts | 0.5982 kWh" in text
    for words in (
        "cannot be compared",
        "of 30m 41.46s, the record's of 43m 51.05s",
        "374 W on the mean, beside 1169 W",
    ):
        assert words in text
    same = greenml(folder, "reconcile", "run.json", "--with", "azure:azure-monitor-GpuEnergyJoules.json")
    assert "the record's own figure comes from this meter" in same
