"""The figures of a comparison in words: one unit a column, so that a column can be read downward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from greenml import printable
from greenml.analysis import _prose
from greenml.analysis.comparison._columns import Column
from greenml.analysis.comparison._difference import Cell, Difference
from greenml.analysis.comparison.compare import Comparison, Row
from greenml.reports import _format
from greenml.units import BYTES_PER_GB, GRAMS_PER_KG, JOULES_PER_KWH

VERDICTS = {
    "apart": "told apart",
    "bands": "within the bands",
    "spread": "within the spread",
    "exact": "exact",
    "unknown": "no band",
}
# Unit, what it is of the column's own, and the largest figure from which on it is used.
ENERGIES = (
    ("kWh", JOULES_PER_KWH, 0.1 * JOULES_PER_KWH), ("Wh", _format.JOULES_PER_WH, 0.1 * _format.JOULES_PER_WH),
    ("J", 1.0, 0.0),
)  # fmt: skip
MASSES = (
    ("kg CO2e", GRAMS_PER_KG, 0.01 * GRAMS_PER_KG), ("g CO2e", 1.0, 0.01), ("mg CO2e", _format.GRAMS_PER_MG, 0.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """How a column is written: its title with the unit, and its figures without it."""

    title: str
    unit: str
    write: Callable[[float], str]
    scale: float = 1.0


def words(comparison: Comparison) -> dict[str, Words]:
    """Return how each column is written, by its key; the largest figure of a column chooses its unit."""
    return {column.key: _words(column, comparison) for column in comparison.columns}


def _words(column: Column, comparison: Comparison) -> Words:
    if column.kind in ("energy", "mass"):
        values = [abs(row.cells[column.key].figure.value or 0.0) for row in comparison.rows]
        ladder = ENERGIES if column.kind == "energy" else MASSES
        unit, scale, _ = next(one for one in ladder if max(values) >= one[2])
        title = f"{column.title}, {unit}" if column.kind == "energy" else unit
        return Words(title, unit, lambda value: _format.significant(value / scale), scale)
    if column.kind == "memory":
        return Words(f"{column.title}, GB", "GB", _format.gigabytes, BYTES_PER_GB)
    if column.key.startswith("metrics."):
        return Words(printable.line(column.title), "", lambda value: _format.number(value, 5))
    known = {"time": _format.duration, "money": _format.money, "ratio": _format.percent}
    write = known.get(column.kind, _format.significant)
    unit = column.unit if column.kind == "number" else ""
    return Words(f"{column.title}, {unit}" if unit else column.title, column.unit, write)


def value(cell: Cell, how: Words) -> str:
    """Write a cell's figure."""
    return _format.NOT_KNOWN if cell.figure.value is None else how.write(cell.figure.value)


def spread(cell: Cell, how: Words) -> str:
    """Write the spread of a cell's repeats: ``± 0.43``; empty where it has none."""
    if cell.spread is None:
        return ""
    if how.write in (_format.duration, _format.money, _format.percent):
        return f"± {how.write(cell.spread)}"
    return f"± {_format.significant(cell.spread / how.scale, 2)}"


def band(cell: Cell, how: Words) -> str:
    """Write a cell's band; empty where it has none."""
    return _format.interval(cell.figure.low, cell.figure.high, how.write) if cell.figure.value is not None else ""


def change(column: Column, row: Row, baseline: Row) -> tuple[str, str]:
    """Write how a row differs, ``+3.7%`` or of a share ``+2.1 points``, and the verdict; empty where not known."""
    difference = row.differences.get(column.key)
    if difference is None:
        return "", ""
    if difference.change_ratio == 0 and difference.verdict == "exact":
        return "same", ""
    words = "0.0%" if difference.change_ratio == 0 else _prose.signed(difference.change_ratio)
    if column.kind == "ratio":  # a percentage of a percentage is misread
        points = (row.cells[column.key].figure.value or 0.0) - (baseline.cells[column.key].figure.value or 0.0)
        words = f"{'+' if points > 0 else ''}{_format.percent(points)}".replace("%", " points")
    return words, VERDICTS[difference.verdict] if difference.verdict not in ("apart", "exact") else ""


def changed_band(difference: Difference | None) -> str:
    """Write where the true change may lie: ``-2.1% to +9.8%``; empty where that is not known."""
    if difference is None or difference.low_ratio is None or difference.high_ratio is None:
        return ""
    low, high = (
        ("0.0%" if ratio == 0 else _prose.signed(ratio)) if abs(ratio) < 1e6 else "any"
        for ratio in (difference.low_ratio, difference.high_ratio)
    )
    return f"{low} to {high}"


def better(column: Column, difference: Difference | None) -> bool | None:
    """Tell whether a row is better than the baseline here; None where that cannot be told."""
    if difference is None or column.better is None or difference.verdict in ("bands", "spread", "unknown"):
        return None
    if difference.change_ratio == 0:
        return None
    return (difference.change_ratio > 0) == (column.better == "higher")


def label(row: Row) -> str:
    """Name a row, and say where its run did not complete."""
    status = {run.record.status for run in row.runs} - {"completed"}
    return f"{row.label} [{', '.join(sorted(status))}]" if status else row.label
