"""CodeCarbon's emissions.csv, versions 1 to 3: its row, as it is, and its energies.

CodeCarbon appends. Rows of one run id are cumulative: the last of them has the run's figures. Without run ids (the
first versions), rows that began at the same time are of one run. Runs one after the other are launches of a script:
the last is taken unless another is asked for, and a note names the others. A run that overlaps the one that is taken
is a rank of the same training, or a stranger on the machine. Whether each row is a share or counts the same hardware
again, the file does not tell, so no figure can be known to be right: it is refused, unless the run was asked for by
its id.

A row of another run that is blank, cut off or damaged is left out, with a note; the row that is taken must be whole.

A spreadsheet may have saved the file again: semicolons or tabs, decimal commas, UTF-16, Windows-1252, and dates as
``06.07.2021 21:57`` or as a serial number are read. A date that may be read in two ways is refused.

Versions with a ``pue`` column multiply each energy by it while they measure, so the energies of devices are
divided by it. 0 is written for a device that could not be read: that is not known, not 0.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from greenml.errors import RecordError
from greenml.record.importers._part import Part, read_text
from greenml.record.schema import LONGEST_SECONDS, DeviceRecord, Note, PhaseRecord, ReportedEmissions, Usage
from greenml.units import JOULES_PER_KWH

PHASE = "train"
REQUIRED = ("timestamp", "duration", "emissions", "energy_consumed")
TEXTS = (
    "timestamp", "project_name", "run_id", "experiment_id", "country_name", "region", "os", "cpu_model", "gpu_model",
    "python_version", "codecarbon_version",
)  # fmt: skip
CLOCK_SECONDS = 2.0  # the timestamp is written to the second, a moment after the clock stopped
SAME_START_SECONDS = 5.0  # rows without a run id that began this close together are of one run
EXCEL_EPOCH = datetime(1899, 12, 30, tzinfo=timezone.utc)  # day 0 of a spreadsheet's serial numbers
NAMED_RUNS = 5

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Run:
    """One CodeCarbon run: its last row, the line it stands on, and the stretch of time that it covers."""

    key: str
    line: int
    row: Row
    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.key or f'line {self.line}'} (ended {self.row['timestamp']})"


def load(path: Path, run_id: str | None = None) -> Part:
    """Read the training phase's figures from an emissions.csv.

    Times without a zone are taken for UTC: CodeCarbon writes local time and does not say which.

    Args:
        path: of the file.
        run_id: which run to take; the one that ended last by default.

    Raises:
        RecordError: it is not CodeCarbon's, has no such run, or the row that counts is damaged or overlaps another run.
    """
    runs, damaged = _runs(path, _rows(path), last_counts=run_id is None)
    if run_id is None:
        run = runs[-1]
        _refuse_overlap(path, run, runs)
    else:
        run = next((run for run in reversed(runs) if run_id in {run.key, f"line {run.line}"}), None) or _missing(
            path, run_id, runs
        )
    notes = []
    others = [other for other in runs if other is not run]
    if others:
        named = ", ".join(str(other) for other in others[-NAMED_RUNS:])
        more = f" and {len(others) - NAMED_RUNS} more" if len(others) > NAMED_RUNS else ""
        which = "the last is taken" if run is runs[-1] else "the one that was asked for is taken"
        text = f"{path.name} holds {len(runs)} CodeCarbon runs; {which}: {run}. Left out: {named}{more}."
        notes.append(Note(code="codecarbon-runs", text=text))
    if damaged:
        text = f"{path.name}: rows that cannot be read were left out: {'; '.join(damaged[:NAMED_RUNS])}"
        notes.append(Note(code="codecarbon-damaged", text=text + ("; ..." if len(damaged) > NAMED_RUNS else "")))
    seconds = float(run.row["duration"])
    devices, usage = _devices(run.row, seconds, pue(run.row, f"{path}: line {run.line}"))
    return Part(
        started=run.start,
        ended=run.end,
        devices=devices,
        phases=[PhaseRecord(path=PHASE, count=1, seconds=seconds, spans=[], usage=usage)] if seconds > 0 else [],
        place=_place(run.row),
        reported=[ReportedEmissions(tool="codecarbon", scope=PHASE, file=path.name, row=run.row)],
        notes=notes,
    )


def _missing(path: Path, run_id: str, runs: list[_Run]) -> _Run:
    raise RecordError(f"{path}: no run {run_id!r}; it holds {', '.join(str(run) for run in runs[-NAMED_RUNS:])}")


def _rows(path: Path) -> list[tuple[int, Row, str]]:
    """Return (line number, row, what is wrong with it or "") of every row that is not blank."""
    text = read_text(path)
    # Above the header: empty lines, and "sep=;", by which spreadsheets know how to read the file.
    above = re.match(r"(?:[ \t]*(?:\r\n|\r|\n)|\"?sep=.\"?[ \t]*(?:\r\n|\r|\n))*", text, re.IGNORECASE)
    begin = above.end() if above is not None else 0
    header = re.split(r"[\r\n]", text[begin:], maxsplit=1)[0]
    skipped = len(text[:begin].splitlines())
    delimiter = max((",", ";", "\t", "|"), key=header.count)
    lines = list(io.StringIO(text[begin:], newline=""))
    columns: list[str] = []
    rows: list[tuple[int, Row, str]] = []
    place = 0
    while place < len(lines):
        reader = csv.reader(lines[place:], delimiter=delimiter, strict=True)
        read = 0
        try:
            for cells in reader:
                read = reader.line_num
                names = [cell.strip() for cell in cells]
                if not columns or set(REQUIRED) <= set(names):  # appended by hand, or by another version
                    columns = _columns(path, names)
                elif any(names):
                    rows.append(_row(skipped + place + read, columns, cells, decimal_comma=delimiter != ","))
            break
        except csv.Error as error:
            line = skipped + place + read + 1
            if not columns:
                raise RecordError(f"{path}: line {line}: not CSV: {error}") from None
            rows.append((line, {}, f"line {line}: not CSV: {error}"))
            place += read + 1  # a quote that nobody closes costs its own line, not all below it
    if not columns:
        _columns(path, [])
    if not rows:
        raise RecordError(f"{path}: CodeCarbon wrote no row: its tracker was not stopped")
    return rows


def _columns(path: Path, names: list[str]) -> list[str]:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise RecordError(f"{path}: not CodeCarbon's emissions.csv: no column {', '.join(missing)}")
    if "task_name" in names:
        raise RecordError(f"{path}: CodeCarbon's figures by task; give the emissions.csv of the whole run")
    return names


def _row(line: int, columns: list[str], cells: list[str], *, decimal_comma: bool) -> tuple[int, Row, str]:
    """Return a row as ``_rows`` does; empty cells behind the last column are a spreadsheet's."""
    if any(cell.strip() for cell in cells[len(columns) :]):
        return line, {}, f"line {line}: its cells do not fit the header; did another version of CodeCarbon write it?"
    if len(cells) < len(columns):
        return line, {}, f"line {line}: its cells do not fit the header; was the file cut off?"
    return line, _plain(dict(zip(columns, cells, strict=False)), decimal_comma=decimal_comma), ""


def _plain(cells: Row, *, decimal_comma: bool) -> Row:
    """Return the cells with a decimal point and no thousands apart, as a spreadsheet of another language has them.

    In a file with commas between its cells, ``1,234`` may be either, and stays. ``1.234`` is a thousand where the
    row's other figures have a decimal comma.
    """
    figures = [cell.strip() for name, cell in cells.items() if name not in TEXTS]
    dots = decimal_comma and any(re.fullmatch(r"-?\d+,\d+(?:[eE][-+]?\d+)?", figure) for figure in figures)
    return {name: cell if name in TEXTS else _plain_number(cell, decimal_comma, dots) for name, cell in cells.items()}


def _plain_number(cell: str, decimal_comma: bool, thousand_dots: bool) -> str:
    if thousand_dots and re.fullmatch(r"-?[1-9]\d{0,2}(?:\.\d{3})+", cell.strip()):
        return cell.strip().replace(".", "")
    text = re.sub(r"(?<=\d)[\u00a0\u202f\u2009' ](?=\d{3}(?!\d))", "", cell.strip())
    both = re.fullmatch(r"-?\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*([.,])\d+(?:[eE][-+]?\d+)?", text)
    if both and both[1] != both[2]:
        return text.replace(both[1], "").replace(",", ".")
    one = re.fullmatch(r"-?\d+,\d+(?:[eE][-+]?\d+)?", text)
    if one and (decimal_comma or not re.fullmatch(r"-?[1-9]\d{0,2},\d{3}", text)):
        return text.replace(",", ".")
    return text if text != cell.strip() else cell


def _number(row: Row, name: str, where: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RecordError(f"{where}: {name} is {row[name]!r}, not a number from 0 up")
    return value


def _runs(path: Path, rows: list[tuple[int, Row, str]], *, last_counts: bool) -> tuple[list[_Run], list[str]]:
    """Return each run with its last row, by the end of the run, and what was wrong with rows that were left out.

    Raises:
        RecordError: no row can be read, or the last row of the file cannot and ``last_counts``.
    """
    runs: list[_Run] = []
    damaged: list[str] = []
    for line, row, wrong in rows:
        where = f"{path}: line {line}"
        try:
            if wrong:
                raise RecordError(f"{path}: {wrong}")
            numbers = {name: _number(row, name, where) for name in REQUIRED[1:]}
            end = _time(row["timestamp"], where)
            start = _start(end, numbers["duration"], where)
        except RecordError as error:
            if line == rows[-1][0] and (last_counts or not runs):
                raise
            damaged.append(str(error).removeprefix(f"{path}: "))
            continue
        run = _Run(row.get("run_id") or row.get("experiment_id") or "", line, row, start, end)
        same = next((known for known in runs if _same(known, run)), None)
        if same is not None:
            runs.remove(same)
            run = max(same, run, key=lambda each: float(each.row["duration"]))
        runs.append(run)
    return sorted(runs, key=lambda run: run.end), damaged


def _start(end: datetime, seconds: float, where: str) -> datetime:
    try:
        if seconds <= LONGEST_SECONDS:
            return end - timedelta(seconds=seconds)
    except OverflowError:  # before the year 1
        pass
    raise RecordError(f"{where}: duration is {seconds:g} s, longer than a run takes")


def _same(first: _Run, second: _Run) -> bool:
    """Tell whether two rows are of one run: by its id, else by when it began."""
    if first.key or second.key:
        return first.key == second.key
    return abs(first.start - second.start) <= timedelta(seconds=SAME_START_SECONDS)


def _time(text: str, where: str) -> datetime:
    """Return the time of a cell: ISO, a spreadsheet's day, month and year, or its serial number."""
    cell = text.strip()
    try:
        time = datetime.fromisoformat(cell.replace("Z", "+00:00"))
    except ValueError:
        time = _spreadsheet_time(cell, where)
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _spreadsheet_time(cell: str, where: str) -> datetime:
    serial = re.fullmatch(r"\d{5}(?:[.,]\d+)?", cell)
    if serial:
        return EXCEL_EPOCH + timedelta(milliseconds=round(float(cell.replace(",", ".")) * 86_400_000))
    year_first = re.fullmatch(r"(\d{4})([./])(\d{1,2})\2(\d{1,2})([ T].*)", cell)
    if year_first:
        year, _, month, day, rest = year_first.groups()
        cell = f"{day}.{month}.{year}{rest}"
    parts = re.fullmatch(
        r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})[ ,T]+(\d{1,2}):(\d{2})(?::(\d{2}))?(?:[.,]\d+)?\s*([AaPp][Mm])?",
        cell,
    )
    if not parts:
        raise RecordError(f"{where}: timestamp {cell!r} is not a date and time, such as 2021-07-06T21:57:39")
    first, sign, second, year, hour, minute, last, half = parts.groups()
    day, month = int(first), int(second)
    if sign == "/" and day <= 12 and month <= 12 and day != month:
        raise RecordError(
            f"{where}: timestamp {cell!r} may be read in two ways; write it as {year}-{month:02}-{day:02} or "
            f"{year}-{day:02}-{month:02}, then the time"
        )
    if sign == "/" and month > 12:
        day, month = month, day
    year = year if len(year) == 4 else f"20{year}"
    hours = int(hour) % 12 + (12 if half.lower() == "pm" else 0) if half else int(hour)
    try:
        return datetime(int(year), month, day, hours, int(minute), int(last or 0), tzinfo=timezone.utc)
    except ValueError as error:
        raise RecordError(f"{where}: timestamp {cell!r}: {error}") from None


def _refuse_overlap(path: Path, taken: _Run, runs: list[_Run]) -> None:
    """Refuse the run that is taken, if others lie beside it in time."""
    clock = timedelta(seconds=CLOCK_SECONDS)
    beside = [run for run in runs if run is taken or (run.start + clock < taken.end and taken.start + clock < run.end)]
    if len(beside) > 1:
        energies = [float(run.row["energy_consumed"]) for run in beside]
        raise RecordError(
            f"{path}: {len(beside)} CodeCarbon runs overlap in time, as when each rank has a tracker; "
            f"whether a row is a rank's share or the whole machine's figure the file does not tell (a row: "
            f"{min(energies):.6g} to {max(energies):.6g} kWh, all: {math.fsum(energies):.6g}); name the run that "
            f"covers the whole training on every machine with --codecarbon-run, or import without CodeCarbon"
        )


def pue(row: Row, where: str) -> float:
    """Return the power usage effectiveness that a row's energies were multiplied by; 1 where it has none.

    Raises:
        RecordError: it is below 1 or not a number, so that what was measured is not known.
    """
    cell = (row.get("pue") or "").strip()
    if not cell:
        return 1.0
    value = _optional(row, "pue")
    if value is None or value < 1:
        raise RecordError(f"{where}: pue is {cell!r}, not a number from 1 up")
    return value


def _devices(row: Row, seconds: float, pue: float) -> tuple[list[DeviceRecord], dict[str, Usage]]:
    """Return the row's devices and their usage over the phase; the run's usage is not known here."""
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
        percent = _optional(row, f"{kind}_utilization_percent") if kind != "dram" else None
        phase_usage = Usage(
            energy_joules=kwh * JOULES_PER_KWH / pue if known else None,
            why="" if known else f"CodeCarbon could not read the {kind.upper()} and wrote 0",
            covered_seconds=seconds if known else None,
            power_mean_watts=kwh * JOULES_PER_KWH / pue / seconds if known and seconds > 0 else None,
            utilization_ratio=percent / 100
            if percent and percent <= 100
            else None,  # 0 is written where it is not known
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
        usage[device_id] = phase_usage
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
