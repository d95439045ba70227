"""Tables of a study's report as data: what each cell says, and the number behind it. Written as text elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
