"""Rendering of a comparison as text: a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from greenml import redaction
from greenml.analysis.comparison.columns import Cell, Column, Difference
from greenml.analysis.comparison.compare import Comparison, Row
from greenml.reports import _format
from greenml.reports import markdown as record_markdown
from greenml.units import BYTES_PER_GB, GRAMS_PER_KG, JOULES_PER_KWH

VERDICTS = {
    "apart": "told apart",
    "intervals": "not told apart",
    "spread": "within the spread",
    "exact": "exact",
    "unknown": "no interval",
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
        unit, scale, _ = next(entry for entry in ladder if max(values) >= entry[2])
        title = f"{column.title}, {unit}" if column.kind == "energy" else unit
        return Words(title, unit, lambda value: _format.significant(value / scale), scale)
    if column.kind == "memory":
        return Words(f"{column.title}, GB", "GB", _format.gigabytes, BYTES_PER_GB)
    if column.key.startswith("metrics."):
        return Words(redaction.printable_line(column.title), "", lambda value: _format.number(value, 5))
    known = {"time": _format.duration, "money": _format.money, "ratio": _format.percent}
    write = known.get(column.kind, _format.significant)
    unit = column.unit if column.kind == "number" else ""
    return Words(f"{column.title}, {unit}" if unit else column.title, column.unit, write)


def value(cell: Cell, how: Words) -> str:
    """Write a cell's figure."""
    if cell.figure.value is None:
        return _format.NOT_KNOWN
    return f"at least {how.write(cell.figure.value)}" if cell.figure.at_least else how.write(cell.figure.value)


def spread(cell: Cell, how: Words) -> str:
    """Write the spread of a cell's repeats: ``± 0.43``; empty where it has none."""
    if cell.spread is None:
        return ""
    if how.write in (_format.duration, _format.money, _format.percent):
        return f"± {how.write(cell.spread)}"
    return f"± {_format.significant(cell.spread / how.scale, 2)}"


def interval(cell: Cell, how: Words) -> str:
    """Write a cell's interval; empty where it has none."""
    return _format.interval(cell.figure.low, cell.figure.high, how.write) if cell.figure.value is not None else ""


def change(column: Column, row: Row, baseline: Row) -> tuple[str, str]:
    """Write a row's difference, ``+3.7%`` or for a ratio ``+2.1 points``, and the verdict; empty where not known."""
    difference = row.differences.get(column.key)
    if difference is None:
        return "", ""
    if difference.change_ratio == 0 and difference.verdict == "exact":
        return "same", ""
    words = "0.0%" if difference.change_ratio == 0 else _format.signed(difference.change_ratio)
    if column.kind == "ratio":  # a percentage of a percentage is misread
        points = (row.cells[column.key].figure.value or 0.0) - (baseline.cells[column.key].figure.value or 0.0)
        words = f"{'+' if points > 0 else ''}{_format.percent(points)}".replace("%", " points")
    return words, VERDICTS[difference.verdict] if difference.verdict not in ("apart", "exact") else ""


def change_interval(difference: Difference | None) -> str:
    """Write the interval of the change: ``-2.1% to +9.8%``; empty where it is not known."""
    if difference is None or difference.low_ratio is None or difference.high_ratio is None:
        return ""
    low, high = (
        ("0.0%" if ratio == 0 else _format.signed(ratio)) if abs(ratio) < 1e6 else "any"
        for ratio in (difference.low_ratio, difference.high_ratio)
    )
    return f"{low} to {high}"


def better(column: Column, difference: Difference | None) -> bool | None:
    """Return whether a row is better than the baseline in a column; None where that is not known."""
    if difference is None or column.better is None or difference.verdict in ("intervals", "spread", "unknown"):
        return None
    if difference.change_ratio == 0:
        return None
    return (difference.change_ratio > 0) == (column.better == "higher")


def label(row: Row) -> str:
    """Name a row, and say where its run did not complete."""
    status = {run.record.status for run in row.runs} - {"completed"}
    return f"{row.label} [{', '.join(sorted(status))}]" if status else row.label


RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
NARROWEST = 60
NAME_WIDTH = 28  # of a run's name, before it wraps
GAP = 2
LEGEND = {
    "intervals": "Not told apart: what sensors and factors may be off by is more than the runs differ.",
    "spread": "Within the spread: repeats of one configuration differ as much (95 % interval of the means).",
    "unknown": "No interval: what the sensors may be off by is not known, so nothing is said of the difference.",
    "exact": "No remark: told apart, or a figure without an interval (metrics, time, memory, use, money at one price); "
    "by how much a repeat would differ, only repeats can tell.",
}
OF_TRAINING = ("_per_second", "_per_sample", "_per_token")  # the ends of the keys of figures of the training phase
MOST_ACROSS = 8  # runs that are set side by side where the table with a row a run is too wide
UNLIMITED = 10_000


def terminal(comparison: Comparison, width: int | None = None, *, color: bool = False) -> str:
    """Render for a terminal: a row a run where that fits, else the runs side by side, or the columns in blocks.

    Args:
        comparison: what to render.
        width: columns to fill; None: as wide as the table is, a line a run.
        color: with ANSI colours.
    """
    stream = io.StringIO()
    console = Console(
        file=stream, width=UNLIMITED if width is None else max(width, NARROWEST), force_terminal=color,
        color_system="standard" if color else None, no_color=not color, highlight=False, markup=False, emoji=False,
        legacy_windows=False, _environ={},
    )  # fmt: skip
    for part in _parts(comparison, width if width is None else max(width, NARROWEST)):
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip() + "\n"


def _parts(comparison: Comparison, width: int | None) -> list[RenderableType]:
    how = words(comparison)
    parts: list[RenderableType] = []
    for table in _tables(comparison, how, width):
        parts += [table, ""]
    for title, lines in remarks(comparison):
        parts += [Text(title, style="bold"), Padding(_list(lines), (0, 0, 0, 1)), ""]
    return parts


def _tables(comparison: Comparison, how: dict[str, Words], width: int | None) -> list[Table]:
    columns, rows = comparison.columns, comparison.rows
    if width is None:
        return [_by_row(comparison, columns, how, lines=False)]
    needed = {column.key: _width(column, comparison, how[column.key]) for column in columns}
    name = min(NAME_WIDTH, max(len(label(row)) for row in rows))
    if name + sum(GAP + column_width for column_width in needed.values()) <= width:
        return [_by_row(comparison, columns, how, lines=True)]
    if len(rows) <= MOST_ACROSS:
        return _across(comparison, how, width)
    tables: list[Table] = []
    block: list[Column] = []
    used = name
    for column in columns:
        if block and used + GAP + needed[column.key] > width:
            tables.append(_by_row(comparison, block, how, lines=True))
            block, used = [], name
        block.append(column)
        used += GAP + needed[column.key]
    return [*tables, _by_row(comparison, block, how, lines=True)]


def _width(column: Column, comparison: Comparison, how: Words) -> int:
    cells = [line for row in comparison.rows for line in _lines(column, row, comparison, how)]
    return max(map(len, [*how.title.split(", "), *cells]))


def _lines(column: Column, row: Row, comparison: Comparison, how: Words) -> list[str]:
    """Return a cell's lines: its figure, the spread of its repeats, the difference, the verdict."""
    cell = row.cells[column.key]
    changes = change(column, row, comparison.rows[comparison.baseline])
    return [line for line in (value(cell, how), spread(cell, how), *changes) if line]


def _table(*, header: bool = True) -> Table:
    return Table(
        box=RULE, show_edge=False, pad_edge=False, header_style="dim", show_header=header, padding=(0, 1, 0, 0)
    )


def _by_row(comparison: Comparison, columns: Sequence[Column], how: dict[str, Words], *, lines: bool) -> Table:
    """Return a table with a row a run; the difference is below the figure, or beside it on one line."""
    table = _table()
    table.add_column("run", max_width=NAME_WIDTH if lines else None, overflow="fold", no_wrap=not lines)
    for column in columns:
        title = how[column.key].title
        table.add_column(title.replace(", ", "\n") if lines else title, justify="right", no_wrap=True)
    for at, row in enumerate(comparison.rows):
        name = Text(label(row), style="bold" if at == comparison.baseline else "")
        if at == comparison.baseline:
            name.append("\nbaseline" if lines else " (baseline)", style="dim")
        table.add_row(name, *(_cell(column, row, comparison, how, lines=lines) for column in columns))
    return table


def _across(comparison: Comparison, how: dict[str, Words], width: int) -> list[Table]:
    """Return tables with a column a run, as many side by side as fit; the baseline leads each."""
    columns, rows = comparison.columns, comparison.rows
    first = rows[comparison.baseline]
    others = [row for row in rows if row is not first]
    titles = max(len(how[column.key].title) for column in columns)
    names = min(NAME_WIDTH, max(len(label(row)) for row in rows), (width - titles) // 3 - GAP)
    cells = (line for column in columns for row in rows for line in _lines(column, row, comparison, how[column.key]))
    inner = max(names, *map(len, cells))
    many = max(1, (width - titles - GAP - inner) // (inner + GAP))
    tables = []
    for start in range(0, max(1, len(others)), many):
        shown = [first, *others[start : start + many]]
        table = _table()
        table.add_column("", no_wrap=True)
        for row in shown:
            name = Text(label(row), style="bold" if row is first else "")
            name.append("\nbaseline" if row is first else "", style="dim")
            table.add_column(name, justify="right", overflow="fold", max_width=max(inner, 12), min_width=inner)
        for column in columns:
            words = how[column.key]
            table.add_row(words.title, *(_cell(column, row, comparison, how, lines=True) for row in shown))
        tables.append(table)
    return tables


def _cell(column: Column, row: Row, comparison: Comparison, how: dict[str, Words], *, lines: bool) -> Text:
    cell, words = row.cells[column.key], how[column.key]
    between = "\n" if lines else " "
    text = Text(value(cell, words), style="dim" if cell.figure.value is None else "")
    if spread_text := spread(cell, words):
        text.append(f"{between}{spread_text}")
    changes = [word for word in change(column, row, comparison.rows[comparison.baseline]) if word]
    if changes:
        style = {True: "green", False: "red", None: "dim"}[better(column, row.differences.get(column.key))]
        text.append("\n" + "\n".join(changes) if lines else f" ({', '.join(changes)})", style=style)
    return text


def remarks(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return what must be said beside the table: title and lines, without those that have none."""
    parts = [
        ("Read with care", list(comparison.warnings)),
        ("How differences were judged", judged(comparison)),
        ("Best for what it takes (Pareto front, by the figures alone)", fronts(comparison)),
        ("Not known of any run", [f"{title}{f' ({why})' if why else ''}" for title, why in comparison.unknown]),
        ("What the figures cover", [_scope(comparison)]),
        ("Means of repeats", [f"{row.label}: {_members(row)}" for row in comparison.rows if len(row.runs) > 1]),
    ]
    return [(title, lines) for title, lines in parts if lines]


def _scope(comparison: Comparison) -> str:
    """Say which figures are of the whole run, and which of its training phase."""
    training = [column.title for column in comparison.columns if column.key.endswith(OF_TRAINING)]
    apart = f"; {', '.join(training)}: the training phase alone" if training else ""
    return f"Duration, energy, carbon, cost and use: the whole run, set-up and evaluation included{apart}."


def _members(row: Row) -> str:
    return f"{', '.join(run.label for run in row.runs)}; ± is the sample standard deviation"


def judged(comparison: Comparison) -> list[str]:
    """Return the rules by which differences were judged, a line each."""
    verdicts = {
        difference.verdict
        for row in comparison.rows
        for difference in row.differences.values()
        if difference is not None
    }
    lines = [LEGEND[verdict] for verdict in LEGEND if verdict in verdicts]
    return [*lines, *comparison.rules]


def fronts(comparison: Comparison) -> list[str]:
    """Say which rows no other beats in quality and in what it takes; fronts of the same rows in one line."""
    joined: dict[tuple[str, str], list[str]] = {}
    for front in comparison.fronts:
        left = len(comparison.rows) - len(front.known)
        without = f"; {left} without both figures" if left else ""
        best = ", ".join(comparison.rows[at].label for at in sorted(front.best)) + without
        joined.setdefault((front.quality.title, front.why or best), []).append(front.takes.title)
    return [f"{quality} against {'; '.join(takes)}: {best}" for (quality, best), takes in joined.items()]


def _list(lines: Sequence[str]) -> Table:
    table = Table(box=None, show_header=False, show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    for line in lines:
        table.add_row("-", redaction.printable_line(line))
    return table


def markdown(comparison: Comparison) -> str:
    """Render a Markdown table with a row a run, and what must be said beside it."""
    how = words(comparison)
    titles = ["run", *(how[column.key].title for column in comparison.columns)]
    rows = []
    for at, row in enumerate(comparison.rows):
        name = label(row) + (" (baseline)" if at == comparison.baseline else "")
        cells = [name, *(_cell(column, row, comparison, how, lines=False).plain for column in comparison.columns)]
        rows.append(cells)
    parts = [record_markdown.grid(titles, rows, range(1, len(titles)))]
    for title, said in remarks(comparison):
        parts += [f"{title}:", record_markdown.bullets(said)]
    return "\n\n".join(parts) + "\n"


def table(comparison: Comparison) -> str:
    """Render CSV: a row a run, SI units, unrounded; empty is not known."""
    several = {
        column.key for column in comparison.columns for row in comparison.rows if row.cells[column.key].count > 1
    }
    stream = io.StringIO()
    rows = [_flat(comparison, at, several) for at in range(len(comparison.rows))]
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writerow({name: redaction.csv_cell(name) for name in rows[0]})
    writer.writerows({name: redaction.csv_cell(cell) for name, cell in row.items()} for row in rows)
    return stream.getvalue()


def _flat(comparison: Comparison, at: int, several: set[str]) -> dict[str, str | float | int | None]:
    row = comparison.rows[at]
    flat: dict[str, str | float | int | None] = {
        "name": row.label,
        "path": ";".join(run.path for run in row.runs),
        "run_id": ";".join(run.record.run_id for run in row.runs),
        "status": ";".join(sorted({run.record.status for run in row.runs})),
        "runs": len(row.runs),
        "baseline": "yes" if at == comparison.baseline else "no",
    }
    for column in comparison.columns:
        cell, difference = row.cells[column.key], row.differences.get(column.key)
        flat[column.key] = cell.figure.value
        flat |= {f"{column.key}_low": cell.figure.low, f"{column.key}_high": cell.figure.high}
        if column.key in several:
            flat |= {f"{column.key}_spread": cell.spread, f"{column.key}_count": cell.count}
        flat |= {
            f"{column.key}_change_ratio": difference.change_ratio if difference else None,
            f"{column.key}_change_low_ratio": difference.low_ratio if difference else None,
            f"{column.key}_change_high_ratio": difference.high_ratio if difference else None,
            f"{column.key}_verdict": VERDICTS[difference.verdict] if difference else "",
        }
    return flat


def as_json(comparison: Comparison) -> str:
    """Render JSON: the same figures as the CSV's, with reasons, warnings and fronts."""
    columns, rows = comparison.columns, comparison.rows
    document = {
        "baseline": rows[comparison.baseline].label,
        "rows": [
            {
                "name": row.label,
                "runs": [{"name": run.label, "path": run.path, "run_id": run.record.run_id} for run in row.runs],
                "figures": {column.key: _figure_entry(row, column.key) for column in columns},
            }
            for row in rows
        ],
        "not_known": dict(comparison.unknown),
        "warnings": list(comparison.warnings),
        "judged": judged(comparison),
        "pareto_fronts": [
            {
                "takes": front.takes.key, "quality": front.quality.key, "better": front.quality.better,
                "rows": [rows[at].label for at in sorted(front.best)], "why_none": front.why,
            }
            for front in comparison.fronts
        ],
    }  # fmt: skip
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _figure_entry(row: Row, key: str) -> dict[str, object]:
    cell, difference = row.cells[key], row.differences.get(key)
    entry: dict[str, object] = {
        "value": cell.figure.value, "low": cell.figure.low, "high": cell.figure.high, "why": cell.figure.why,
        "count": cell.count, "spread": cell.spread,
    }  # fmt: skip
    if difference is not None:
        low, high = (
            ratio if ratio is not None and abs(ratio) != float("inf") else None
            for ratio in (difference.low_ratio, difference.high_ratio)
        )
        entry["change"] = {
            "ratio": difference.change_ratio, "low_ratio": low, "high_ratio": high,
            "verdict": VERDICTS[difference.verdict],
        }  # fmt: skip
    return entry
