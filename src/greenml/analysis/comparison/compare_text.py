"""A comparison as text for people: a table for a terminal, and Markdown."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import Box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from greenml import printable
from greenml.analysis.comparison import _words
from greenml.analysis.comparison._columns import Column
from greenml.analysis.comparison._words import Words
from greenml.analysis.comparison.compare import Comparison, Row

RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
NARROWEST = 60
NAME_WIDTH = 28  # of a run's name, before it wraps
GAP = 2
LEGEND = {
    "bands": "Within the bands: what sensors and factors may be off by is more than the runs differ.",
    "spread": "Within the spread: repeats of one configuration differ as much (95 % interval of the means).",
    "unknown": "No band: what the sensors may be off by is not told, so nothing is said of the difference.",
    "exact": "No remark: told apart, or a figure that has no band (metrics, time, memory, use, money at one price); "
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
    how = _words.words(comparison)
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
    needed = {one.key: _width(one, comparison, how[one.key]) for one in columns}
    name = min(NAME_WIDTH, max(len(_words.label(row)) for row in rows))
    if name + sum(GAP + one for one in needed.values()) <= width:
        return [_by_row(comparison, columns, how, lines=True)]
    if len(rows) <= MOST_ACROSS:
        return _across(comparison, how, width)
    tables: list[Table] = []
    block: list[Column] = []
    used = name
    for one in columns:
        if block and used + GAP + needed[one.key] > width:
            tables.append(_by_row(comparison, block, how, lines=True))
            block, used = [], name
        block.append(one)
        used += GAP + needed[one.key]
    return [*tables, _by_row(comparison, block, how, lines=True)]


def _width(column: Column, comparison: Comparison, how: Words) -> int:
    cells = [line for row in comparison.rows for line in _lines(column, row, comparison, how)]
    return max(map(len, [*how.title.split(", "), *cells]))


def _lines(column: Column, row: Row, comparison: Comparison, how: Words) -> list[str]:
    """Return a cell's lines: its figure, the spread of its repeats, the difference, the verdict."""
    cell = row.cells[column.key]
    told = _words.change(column, row, comparison.rows[comparison.baseline])
    return [line for line in (_words.value(cell, how), _words.spread(cell, how), *told) if line]


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
        name = Text(_words.label(row), style="bold" if at == comparison.baseline else "")
        if at == comparison.baseline:
            name.append("\nbaseline" if lines else " (baseline)", style="dim")
        table.add_row(name, *(_cell(column, row, comparison, how, lines=lines) for column in columns))
    return table


def _across(comparison: Comparison, how: dict[str, Words], width: int) -> list[Table]:
    """Return tables with a column a run, as many side by side as fit; the baseline leads each."""
    columns, rows = comparison.columns, comparison.rows
    first = rows[comparison.baseline]
    others = [row for row in rows if row is not first]
    titles = max(len(how[one.key].title) for one in columns)
    names = min(NAME_WIDTH, max(len(_words.label(row)) for row in rows), (width - titles) // 3 - GAP)
    cells = (line for one in columns for row in rows for line in _lines(one, row, comparison, how[one.key]))
    inner = max(names, *map(len, cells))
    many = max(1, (width - titles - GAP - inner) // (inner + GAP))
    tables = []
    for start in range(0, max(1, len(others)), many):
        shown = [first, *others[start : start + many]]
        table = _table()
        table.add_column("", no_wrap=True)
        for row in shown:
            name = Text(_words.label(row), style="bold" if row is first else "")
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
    text = Text(_words.value(cell, words), style="dim" if cell.figure.value is None else "")
    if spread := _words.spread(cell, words):
        text.append(f"{between}{spread}")
    told = [word for word in _words.change(column, row, comparison.rows[comparison.baseline]) if word]
    if told:
        style = {True: "green", False: "red", None: "dim"}[_words.better(column, row.differences.get(column.key))]
        text.append("\n" + "\n".join(told) if lines else f" ({', '.join(told)})", style=style)
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
    training = [one.title for one in comparison.columns if one.key.endswith(OF_TRAINING)]
    apart = f"; {', '.join(training)}: the training phase alone" if training else ""
    return f"Duration, energy, carbon, cost and use: the whole run, set-up and evaluation included{apart}."


def _members(row: Row) -> str:
    return f"{', '.join(run.label for run in row.runs)}; ± is the sample standard deviation"


def judged(comparison: Comparison) -> list[str]:
    """Return how it was judged whether rows can be told apart, a line each."""
    verdicts = {one.verdict for row in comparison.rows for one in row.differences.values() if one is not None}
    lines = [LEGEND[verdict] for verdict in LEGEND if verdict in verdicts]
    return [*lines, *comparison.rules]


def fronts(comparison: Comparison) -> list[str]:
    """Say which rows no other beats in quality and in what it takes; fronts of the same rows in one line."""
    joined: dict[tuple[str, str], list[str]] = {}
    for one in comparison.fronts:
        left = len(comparison.rows) - len(one.known)
        without = f"; {left} without both figures" if left else ""
        best = ", ".join(comparison.rows[at].label for at in sorted(one.best)) + without
        joined.setdefault((one.quality.title, one.why or best), []).append(one.takes.title)
    return [f"{quality} against {'; '.join(takes)}: {best}" for (quality, best), takes in joined.items()]


def _list(lines: Sequence[str]) -> Table:
    table = Table(box=None, show_header=False, show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    for line in lines:
        table.add_row("-", printable.line(line))
    return table


def escape(text: str) -> str:
    """Make text safe for one cell or one line of Markdown."""
    flat = printable.line(text)
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def markdown(comparison: Comparison) -> str:
    """Render a Markdown table with a row a run, and what must be said beside it."""
    how = _words.words(comparison)
    titles = ["run", *(how[one.key].title for one in comparison.columns)]
    lines = [f"| {' | '.join(map(escape, titles))} |", f"| --- |{' ---: |' * len(comparison.columns)}"]
    for at, row in enumerate(comparison.rows):
        name = _words.label(row) + (" (baseline)" if at == comparison.baseline else "")
        cells = [name, *(_cell(one, row, comparison, how, lines=False).plain for one in comparison.columns)]
        lines.append(f"| {' | '.join(map(escape, cells))} |")
    for title, said in remarks(comparison):
        lines += ["", f"{title}:", "", *(f"- {escape(line)}" for line in said)]
    return "\n".join(lines) + "\n"
