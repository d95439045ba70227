"""The carbon intensity of a CSV file of the user's own: a time with its offset, and g/kWh from then to the next row."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

from greenml.errors import FactorError
from greenml.factors.intensity_providers import grams, utc
from greenml.factors.types import IntensitySeries, IntensitySlot, Place, Source
from greenml.factors.user_given import KG_PER_KWH_BELOW

RESOLUTION_SECONDS = 300.0  # how often a run looks into the file again
TIMES = ("time", "timestamp", "datetime", "start")
AVERAGES = ("g_per_kwh", "grams_per_kwh", "carbon_intensity", "intensity", "g_co2e_per_kwh", "gco2_per_kwh")
MARGINALS = ("marginal_g_per_kwh",)
WANTED = f"a header with 'time' and 'g_per_kwh' (or {MARGINALS[0]!r})"


def series(place: Place, area: str, start: datetime, end: datetime, basis: str) -> IntensitySeries:
    """Return the carbon intensity that a file has for a stretch of time.

    A row holds until the next one, the last as long as the one before it; a row without a figure is a gap.

    Args:
        place: not needed: the file is of the run's place.
        area: the file's path. Its header has ``time``, in ISO 8601 with an offset, and ``g_per_kwh``
            (``marginal_g_per_kwh`` for a marginal rate).
        start: of the stretch, UTC.
        end: of it.
        basis: not needed: the file does not say its basis.

    Raises:
        FactorError: the file cannot be read, is not such a table, or has nothing for that time.
    """
    path = Path(area)
    who = path.name
    header, rows = _read(path)
    names = [name.strip().lower() for name in header]
    time_at = next((names.index(name) for name in TIMES if name in names), None)
    value_at = next((names.index(name) for name in (*AVERAGES, *MARGINALS) if name in names), None)
    if time_at is None or value_at is None:
        raise FactorError(f"{who}: give {WANTED}; its header is {', '.join(header)[:80]!r}")
    moments: list[datetime] = []
    values: list[float | None] = []
    for number, row in rows:
        if len(row) <= max(time_at, value_at):
            raise FactorError(f"{who}, line {number}: it has {len(row)} cells; the header has {len(header)}")
        moments.append(utc(row[time_at], f"{who}, line {number}"))
        values.append(grams(row[value_at], f"{who}, line {number}") if row[value_at].strip() else None)
        if len(moments) > 1 and moments[-1] <= moments[-2]:
            raise FactorError(f"{who}, line {number}: its time is not after that of the row before; sort the rows")
    if len(moments) < 2:
        raise FactorError(f"{who}: it needs two rows at least; the last one holds as long as the one before it")
    if 0 < max((value for value in values if value is not None), default=0.0) < KG_PER_KWH_BELOW:
        raise FactorError(f"{who}: its figures look like kg/kWh; the unit is g/kWh, so multiply them by 1000")
    ends = [*moments[1:], moments[-1] + (moments[-1] - moments[-2])]
    slots = tuple(
        IntensitySlot(at, until, value)
        for at, until, value in zip(moments, ends, values, strict=True)
        if value is not None and until > start and at < end
    )
    if not slots:
        span = f"{moments[0]:%Y-%m-%d %H:%M} to {ends[-1]:%Y-%m-%d %H:%M} UTC"
        raise FactorError(
            f"{who}: it covers {span}, and the run was from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
        )
    signal = "marginal" if names[value_at] in MARGINALS else "average"
    return IntensitySeries(who, signal, "", slots, Source(f"the user's file {who}"))  # type: ignore[arg-type]


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the rows with their line numbers, without empty ones."""
    text, problem = "", ""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    if problem:
        raise FactorError(f"{path}: cannot be read: {problem}")
    lines = text.splitlines()
    delimiter = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise FactorError(f"{path.name}, line {reader.line_num}: not CSV: {error}") from None
    if not rows:
        raise FactorError(f"{path.name}: it is empty; give {WANTED}")
    return rows[0][1], rows[1:]
