"""Tables of a study's report: what each cell says, the number behind it, and the tables as text.

The text is Markdown, LaTeX, CSV, JSON, or fits a terminal.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from greenml import redaction
from greenml.analysis.comparison.compare_text import RULE
from greenml.reports import latex as record_latex
from greenml.reports import markdown as record_markdown

Raw = float | int | str | None
Style = Literal["", "better", "worse", "muted"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A column.

    Attributes:
        key: its name in CSV and JSON; ends in its unit, SI.
        title: its name for people, with the unit.
        is_figure: a number, set flush right.
    """

    key: str
    title: str
    is_figure: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of a table.

    Attributes:
        text: for people.
        value: what CSV and JSON have: SI, not rounded; None is not known.
        more: further columns of CSV and JSON, by what is put behind the column's key: ``low_ratio``.
        why: of a figure that is not known.
        style: whether it is better or worse than the baseline's.
    """

    text: str
    value: Raw = None
    more: Mapping[str, Raw] = field(default_factory=dict)
    why: str = ""
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title.

    Attributes:
        key: names its file and its place on the page.
        title: its heading.
        headings: its columns, the first of which names the row.
        rows: as many entries each.
        remarks: lines below it.
    """

    key: str
    title: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Entry, ...], ...]
    remarks: tuple[str, ...] = ()


def word(text: str) -> Entry:
    """Return a cell that is a text."""
    return Entry(text, text)


def count(number: int) -> Entry:
    """Return a cell that is a whole number."""
    return Entry(f"{number:,}", number)


def blocks(table: Table, most: int) -> list[Table]:
    """Return a table in parts of at most so many columns, each with the first column."""
    first, others = table.headings[0], table.headings[1:]
    parts = max(1, -(-len(others) // (most - 1)))
    if parts == 1:
        return [table]
    wide = -(-len(others) // parts)
    made = []
    for part in range(parts):
        places = [0, *range(1 + part * wide, min(1 + (part + 1) * wide, len(table.headings)))]
        made.append(
            Table(
                f"{table.key}-{part + 1}",
                f"{table.title} ({part + 1} of {parts})",
                tuple(first if place == 0 else table.headings[place] for place in places),
                tuple(tuple(row[place] for place in places) for row in table.rows),
                table.remarks if part == parts - 1 else (),
            )
        )
    return made


def rectangle(table: Table) -> tuple[list[str], list[dict[str, Raw]]]:
    """Return a table for CSV and JSON: the names of its columns, and its rows."""
    names: list[str] = []
    for place, heading in enumerate(table.headings):
        more = dict.fromkeys(key for row in table.rows for key in row[place].more)
        names += [heading.key, *(f"{heading.key}_{key}" for key in more)]
    rows = [_row(table.headings, row) for row in table.rows]
    return names, rows


def _row(headings: Sequence[Heading], row: Sequence[Entry]) -> dict[str, Raw]:
    made: dict[str, Raw] = {}
    for heading, entry in zip(headings, row, strict=True):
        made[heading.key] = entry.value
        made |= {f"{heading.key}_{key}": value for key, value in entry.more.items()}
    return made


LATEX_COLUMNS = 7  # that fit the width of a page
TERMINAL_STYLES = {"better": "green", "worse": "red", "muted": "dim", "": ""}
MOST_WIDE = 40  # of a column on a terminal, before its text wraps
LONG_TEXT = 28  # letters from which on a column of LaTeX breaks its lines


def markdown(title: str, lead: Sequence[str], tables: Sequence[Table]) -> str:
    """Render as Markdown: the lead as a list, then every table with its remarks."""
    parts = [f"# {record_markdown.escape(title)}"]
    if lead:
        parts.append(record_markdown.bullets(lead))
    parts += [markdown_table(table) for table in tables]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table, level: int = 2) -> str:
    """Render one table with its heading and remarks."""
    grid = record_markdown.grid(
        [heading.title for heading in table.headings],
        ([_markdown_entry(entry) for entry in row] for row in table.rows),
        [place for place, heading in enumerate(table.headings) if heading.is_figure],
    )
    parts = [f"{'#' * level} {record_markdown.escape(table.title)}", grid]
    if table.remarks:
        parts.append(record_markdown.bullets(table.remarks))
    return "\n\n".join(parts)


def _markdown_entry(entry: Entry) -> str:
    return f"**{entry.text}**" if entry.style in ("better", "worse") and entry.text else entry.text


def latex(tables: Sequence[Table]) -> str:
    """Render as LaTeX tables with booktabs; a wide one in parts."""
    parts = [r"% needs \usepackage{booktabs}"]
    parts += [_latex_table(part) for table in tables for part in blocks(table, LATEX_COLUMNS)]
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    escape = record_latex.escape
    widths = [max([len(row[place].text) for row in table.rows], default=0) for place in range(len(table.headings))]
    broken = sum(1 for width in widths if width > LONG_TEXT)
    share = 0.9 / max(1, broken + (len(widths) - broken) / 3)
    kinds = "".join(
        rf"p{{{share:.2f}\linewidth}}" if width > LONG_TEXT else "r" if heading.is_figure else "l"
        for heading, width in zip(table.headings, widths, strict=True)
    )
    lines = [
        r"\begin{table}[t]",
        r"  \centering\footnotesize",
        f"  \\caption{{{escape(table.title)}.}}",
        f"  \\label{{tab:{table.key}}}",
        f"  \\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
        r"    \toprule",
        f"    {' & '.join(_latex_text(heading.title) for heading in table.headings)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(_latex_text(entry.text) for entry in row)} \\\\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if table.remarks:
        lines += [r"", r"  \medskip", r"  \begin{minipage}{\linewidth}\footnotesize"]
        lines += [f"    {_latex_text(line)}\\par" for line in table.remarks]
        lines.append(r"  \end{minipage}")
    return "\n".join([*lines, r"\end{table}"])


def _latex_text(text: str) -> str:
    return record_latex.escape(text).replace("±", r"$\pm$").replace("CO2e", r"CO\textsubscript{2}e")


def csv_table(table: Table) -> str:
    """Render a table as CSV: SI, not rounded; empty is not known."""
    names, rows = rectangle(table)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: redaction.csv_cell(value) for name, value in row.items() if value is not None})
    return stream.getvalue()


def as_json(title: str, lead: Sequence[str], tables: Sequence[Table]) -> str:
    """Render every table as JSON: SI, not rounded; null is not known."""
    content: dict[str, object] = {"title": title, "lead": list(lead)}
    for table in tables:
        _, rows = rectangle(table)
        content[table.key] = {
            "title": table.title,
            "rows": [_plain(row) for row in rows],
            "remarks": list(table.remarks),
        }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(row: dict[str, Raw]) -> dict[str, Raw]:
    return dict(row)


def rich_table(table: Table) -> RichTable:
    """Return a table for a terminal."""
    made = RichTable(
        box=RULE, show_edge=False, pad_edge=False, header_style="dim", title_justify="left", padding=(0, 1, 0, 0)
    )
    for place, heading in enumerate(table.headings):
        made.add_column(
            redaction.printable_line(heading.title), justify="right" if heading.is_figure else "left",
            overflow="fold", no_wrap=place == 0,
        )  # fmt: skip
    for row in table.rows:
        made.add_row(*(Text(redaction.printable_line(entry.text), TERMINAL_STYLES[entry.style]) for entry in row))
    return made


def terminal(
    title: str, lead: Sequence[str], tables: Sequence[Table], width: int | None = None, *, color: bool = False
) -> str:
    """Render for a terminal: each table in as many parts as its width needs, the remarks below it.

    Args:
        title: of the report.
        lead: lines below it.
        tables: to show.
        width: columns to fill; None: 120.
        color: with ANSI colours.
    """
    stream = io.StringIO()
    console = Console(
        file=stream, width=max(width or 120, 60), force_terminal=color, color_system="standard" if color else None,
        no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False, _environ={},
    )  # fmt: skip
    console.print(Text(redaction.printable_line(title), style="bold"))
    for line in lead:
        console.print(Text(redaction.printable_line(line)))
    for table in tables:
        console.print(Text(f"\n{redaction.printable_line(table.title)}", style="bold"))
        for number, part in enumerate(_parts(table, console.width)):
            console.print("" if number else Text(), end="\n" if number else "")
            console.print(rich_table(part))
        for remark in table.remarks:
            console.print(Padding(Text(f"- {redaction.printable_line(remark)}", style="dim"), (0, 0, 0, 1)))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip() + "\n"


def _parts(table: Table, width: int) -> list[Table]:
    """Return a table in the fewest parts that fit."""
    widths = [
        min(MOST_WIDE, max([len(heading.title), *(len(row[place].text) for row in table.rows)]))
        for place, heading in enumerate(table.headings)
    ]
    for most in range(len(widths), 2, -1):
        parts = blocks(table, most)
        wide = max(widths[0] + sum(sorted(widths[1:], reverse=True)[: most - 1]) + 2 * most, 0)
        if wide <= width:
            return parts
    return blocks(table, 3)
