"""The bundled tables of ``greenml/factors/data``, read once, each row with its source.

What they hold and whose figures they are: ``greenml/factors/data/SOURCES.md``; how they are kept: ``docs/tables.md``.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from greenml.errors import FactorError
from greenml.factors.types import Source

Row = dict[str, str]


@cache
def _content(name: str) -> bytes:
    try:
        return files("greenml.factors.data").joinpath(name).read_bytes()
    except FileNotFoundError:
        raise FactorError(f"the bundled file {name!r} is missing from this installation; reinstall greenml") from None


def _parse(content: bytes, header: list[str] | None = None) -> list[Row]:
    lines = csv.reader(content.decode("utf-8").splitlines())
    names = header or next(lines)
    return [dict(zip(names, cells, strict=True)) for cells in lines]


@cache
def rows(table: str) -> tuple[Row, ...]:
    """Return a table's rows, cells as text, an empty cell where nothing is known.

    Raises:
        FactorError: there is no such table in this installation.
    """
    return tuple(_parse(_content(f"{table}.csv")))


def rows_with(table: str, text: str) -> list[Row]:
    """Return the rows that hold a text anywhere, without parsing the rest; for tables without line breaks in cells.

    Raises:
        FactorError: there is no such table in this installation.
    """
    header, *lines = _content(f"{table}.csv").splitlines(keepends=True)
    wanted = text.encode("utf-8")
    return _parse(b"".join(line for line in lines if wanted in line), header.decode("utf-8").strip().split(","))


def lookup(table: str, *cells: str) -> list[Row]:
    """Return the rows whose first columns hold exactly these cells, by bisection, without parsing the rest.

    For the large tables, whose rows are sorted by their first columns and whose keys need no quotes
    (``prices``: cloud, SKU, region, tier; ``carbon_intensity``: scope, code).

    Raises:
        FactorError: there is no such table in this installation.
    """
    content = _content(f"{table}.csv")
    wanted = [cell.encode("utf-8") for cell in cells]
    start = content.index(b"\n") + 1
    header = content[: start - 1].decode("utf-8").split(",")
    low, high = (
        start,
        len(content),
    )  # both at the start of a line: the first row wanted is not before low, not after high
    while low < high:
        line = max(content.rfind(b"\n", low, (low + high) // 2) + 1, low)
        end = content.index(b"\n", line) + 1
        if content[line : end - 1].split(b",", len(wanted))[: len(wanted)] < wanted:
            low = end
        else:
            high = line
    prefix, end = b",".join(wanted) + b",", low
    while content.startswith(prefix, end):
        end = content.index(b"\n", end) + 1
    return _parse(content[low:end], header)


def version() -> str:
    """Return the tables' version, ``2026-08-22+0123456789ab``: the newest figure's date and a hash."""
    return _content("VERSION").decode("utf-8").strip()


@cache
def _sources() -> dict[str, Row]:
    return {row["source_id"]: row for row in rows("sources")}


def _url(document: str) -> str:
    """Return the address of a ``repository_or_document`` cell, empty if it names none (a project brief)."""
    first = document.split(";", maxsplit=1)[0].strip()
    for scheme, page in (("doi:", "https://doi.org/"), ("arXiv:", "https://arxiv.org/abs/")):
        if first.startswith(scheme):
            return page + first.removeprefix(scheme)
    address = next((word for word in first.split() if "." in word.split("/", maxsplit=1)[0].strip(".")), "")
    return f"https://{address}" if address else ""


@cache
def source(ids: str, published: str = "") -> Source:
    """Return the source of a row, from its ``source`` cell (ids joined by ``+``) and its own date."""
    known = [_sources()[part] for part in ids.split("+") if part in _sources()]
    if not known:
        return Source(name=ids, published=published)
    name = "; ".join(f"{row['title']} ({row['publisher']})" for row in known)
    url = _url(known[0]["repository_or_document"])
    return Source(name=name, url=url, published=published or known[0]["data_date"])


def number(cell: str) -> float | None:
    """Return a cell's number; None where it is empty."""
    return float(cell) if cell.strip() else None
