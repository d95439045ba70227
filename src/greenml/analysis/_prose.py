"""Plain tables and wrapped sentences, good at 80 columns and in a file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from greenml.reports import _format

GAP = "  "
MANY = 9.0  # a change of 900 % and more reads better as a multiple


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lay out rows under a head and a rule, each column as wide as its widest cell.

    Args:
        head: a name a column.
        rows: as many cells each.
        right: columns of figures, set flush right.
    """
    every = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[at]) for row in every) for at in range(len(head))]
    lines = [
        GAP.join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in every)
    ]
    lines = [line.rstrip() for line in lines]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


def indented(lines: Iterable[str], by: int = 1) -> list[str]:
    """Set lines in by some columns."""
    return [f"{' ' * by}{line}" if line else "" for line in lines]


def wrapped(text: str, width: int, *, mark: str = "", by: int = 0) -> list[str]:
    """Break a text into lines, the later ones under the first one's text.

    Args:
        text: one paragraph.
        width: columns.
        mark: what stands before it: ``- ``, ``[1] ``.
        by: columns to set it in.
    """
    first = " " * by + mark
    return textwrap.wrap(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=" " * len(first),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def points(texts: Iterable[str], width: int) -> list[str]:
    """Write texts as a list."""
    return [line for text in texts for line in wrapped(text, width, mark="- ", by=1)]


def money(usd: float) -> str:
    """Write a difference of money with its sign: ``-$12.88``."""
    return f"{'-' if usd < 0 else '+'}{_format.money(abs(usd))}"


def change(value: float | None, base: float | None) -> str:
    """Write a difference as a share of what it differs from: ``+1.0%``, ``x 38``; a dash where that is not known."""
    if value is None or not base:
        return "-"
    return signed(value / base)


def signed(ratio: float) -> str:
    """Write a relative change: ``+1.0%``, ``x 38``, ``-99.997%``; -100.0% only where nothing is left."""
    if ratio >= MANY:
        return f"x {_format.number(1 + ratio, 3)}"
    text = f"{'+' if ratio >= 0 else ''}{_format.percent(ratio)}"
    if text == "-100.0%" and ratio > -1:
        decimals = max(2, 1 - math.floor(math.log10(100 * (1 + ratio))))
        text = f"{100 * ratio:.{decimals}f}%".replace("0%", "%")
    return text


class Sources:
    """Sources by number, each printed once at the end."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> str:
        """Return the number of a source."""
        return str(self._numbers.setdefault(text, len(self._numbers) + 1))

    def lines(self, width: int) -> list[str]:
        """Return every source with its number."""
        return [line for text, at in self._numbers.items() for line in wrapped(text, width, mark=f"[{at}] ", by=1)]
