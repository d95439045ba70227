"""CodeCarbon's emissions.csv, versions 1 to 3: its row, as it is, and its energies.

CodeCarbon appends. Rows of one run id are cumulative: the last of them has the run's figures. Runs one after
the other are launches of a script: the last is taken, and a note says so. Runs that overlap in time are ranks
of one training, or strangers on one machine; whether each row is a share or counts the same hardware again,
the file does not tell, so no figure can be known to be right: it is refused.

Versions with a ``pue`` column multiply each energy by it while they measure, so the energies of devices are
divided by it. 0 is written for a device that could not be read: that is not known, not 0.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from greenml.errors import RecordError
from greenml.importers._part import Part, read_text
from greenml.record import DeviceRecord, Note, PhaseRecord, ReportedEmissions, Usage
from greenml.units import JOULES_PER_KWH

PHASE = "train"
REQUIRED = ("timestamp", "duration", "emissions", "energy_consumed")
CLOCK_DOUBT_SECONDS = 2.0  # the timestamp is written to the second, a moment after the clock stopped

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Run:
    """One CodeCarbon run: its last row and the stretch that it covers."""

    key: str
    row: Row
    start: datetime
    end: datetime


def load(path: Path) -> Part:
    """Read the training phase's figures from an emissions.csv.

    Times without a zone are taken for UTC: CodeCarbon writes local time and does not say which.

    Raises:
        RecordError: it is not CodeCarbon's, or holds runs that overlap in time.
    """
    runs = _runs(path, _rows(path))
    notes = []
    if len(runs) > 1:
        _refuse_overlap(path, runs)
        text = (
            f"{path.name} holds {len(runs)} CodeCarbon runs one after the other; the last is taken "
            f"(ended {runs[-1].row['timestamp']}, run {runs[-1].key}) and the others are left out."
        )
        notes.append(Note(code="codecarbon-runs", text=text))
    run = runs[-1]
    seconds = float(run.row["duration"])
    devices, usage = _devices(run.row, seconds)
    return Part(
        started=run.start,
        ended=run.end,
        devices=devices,
        phases=[PhaseRecord(path=PHASE, count=1, seconds=seconds, spans=[], usage=usage)],
        place=_place(run.row),
        reported=[ReportedEmissions(tool="codecarbon", scope=PHASE, file=path.name, row=run.row)],
        notes=notes,
    )


def _rows(path: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            raise RecordError(f"{path}: not CodeCarbon's emissions.csv: no column {', '.join(missing)}")
        if "task_name" in columns:
            raise RecordError(f"{path}: CodeCarbon's figures by task; give the emissions.csv of the whole run")
        rows = list(reader)
    except csv.Error as error:
        raise RecordError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    if not rows:
        raise RecordError(f"{path}: CodeCarbon wrote no row: its tracker was not stopped")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise RecordError(f"{path}: line {number}: its cells do not fit the header; was the file cut off?")
        for name in REQUIRED[1:]:
            _number(row, name, f"{path}: line {number}")
    return rows


def _number(row: Row, name: str, where: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RecordError(f"{where}: {name} is {row[name]!r}, not a number from 0 up")
    return value


def _runs(path: Path, rows: list[Row]) -> list[_Run]:
    """Return each run's last row, by the end of the run."""
    last: dict[str, Row] = {}
    for row in rows:
        key = row.get("run_id") or row.get("experiment_id") or ""
        if key not in last or float(row["duration"]) >= float(last[key]["duration"]):
            last[key] = row
    runs = []
    for key, row in last.items():
        end = _moment(path, row["timestamp"])
        runs.append(_Run(key, row, end - timedelta(seconds=float(row["duration"])), end))
    return sorted(runs, key=lambda run: run.end)


def _moment(path: Path, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise RecordError(f"{path}: timestamp {text!r} is not an ISO date and time") from None
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _refuse_overlap(path: Path, runs: list[_Run]) -> None:
    doubt = timedelta(seconds=CLOCK_DOUBT_SECONDS)
    overlapping: set[str] = set()
    first, *others = sorted(runs, key=lambda run: run.start)
    latest = first
    for run in others:
        if run.start + doubt < latest.end:
            overlapping |= {run.key, latest.key}
        latest = max(latest, run, key=lambda one: one.end)
    if overlapping:
        energies = [float(run.row["energy_consumed"]) for run in runs if run.key in overlapping]
        raise RecordError(
            f"{path}: {len(overlapping)} CodeCarbon runs overlap in time, as when each rank has a tracker; "
            f"whether a row is a rank's share or the whole machine's figure the file does not tell (a row: "
            f"{min(energies):.6g} to {max(energies):.6g} kWh, all: {math.fsum(energies):.6g}); leave in it "
            f"one row that covers the whole training on every machine, or import without CodeCarbon"
        )


def _devices(row: Row, seconds: float) -> tuple[list[DeviceRecord], dict[str, Usage]]:
    """Return the row's devices and their usage over the phase; the run's usage is not known here."""
    pue = _optional(row, "pue") or 1.0
    kinds: list[tuple[Literal["gpu", "cpu", "dram"], str, str]] = [
        ("gpu", "gpu_energy", row.get("gpu_model", "")),
        ("cpu", "cpu_energy", row.get("cpu_model", "")),
        ("dram", "ram_energy", ""),
    ]
    devices: list[DeviceRecord] = []
    usage: dict[str, Usage] = {}
    for kind, column, name in kinds:
        kwh = _optional(row, column)
        if kwh is None or (kind == "gpu" and not kwh and not name.strip()):
            continue
        known = kwh > 0
        one = Usage(
            energy_joules=kwh * JOULES_PER_KWH / pue if known else None,
            why="" if known else f"CodeCarbon could not read the {kind.upper()} and wrote 0",
            covered_seconds=seconds if known else None,
            power_mean_watts=kwh * JOULES_PER_KWH / pue / seconds if known and seconds > 0 else None,
        )
        device_id = f"codecarbon-{kind}"
        devices.append(
            DeviceRecord(
                id=device_id,
                kind=kind,
                name=name.strip() or f"{kind.upper()} as CodeCarbon counts it",
                host="",
                method="reported",
                sensor="codecarbon",
                note=f"CodeCarbon's PUE of {pue:g} is taken out" if pue != 1 else "",
                usage=Usage(why="CodeCarbon covers the training phase only"),
            )
        )
        usage[device_id] = one
    return devices, usage


def _optional(row: Row, name: str) -> float | None:
    try:
        value = float(row.get(name, ""))
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _place(row: Row) -> dict[str, str]:
    """Return what the row tells of the place; off the cloud it knows the place by IP address only."""
    place = {
        "cloud": row.get("cloud_provider", "").lower(),
        "region": row.get("cloud_region", ""),
        "country_iso3": row.get("country_iso_code", ""),
        "country_name": row.get("country_name", ""),
        "state": row.get("region", "").title(),
    }
    return {name: value.strip() for name, value in place.items() if value.strip()}
