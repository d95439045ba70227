"""The bundled tables of ``greenml/data``, read once, each row with its source.

What they hold and whose figures they are: ``greenml/data/SOURCES.md``. They are written by
``tools/build_tables.py``.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from greenml.errors import FactorError
from greenml.facts import Source

Row = dict[str, str]


@cache
def _text(name: str) -> str:
    try:
        return files("greenml.data").joinpath(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FactorError(f"the bundled file {name!r} is missing from this installation; reinstall greenml") from None


@cache
def rows(table: str) -> tuple[Row, ...]:
    """Return a table's rows, cells as text, an empty cell where nothing is known.

    Raises:
        FactorError: there is no such table in this installation.
    """
    return tuple(csv.DictReader(_text(f"{table}.csv").splitlines()))


def lookup(table: str, *cells: str) -> list[Row]:
    """Return the rows whose first columns hold exactly these cells, without parsing the rest of the table.

    For the large tables, whose rows are sorted by their first columns (``prices``: cloud, SKU, region, tier;
    ``carbon_intensity``: scope, code): a search of the text takes a millisecond, a parse of all prices forty.

    Raises:
        FactorError: there is no such table in this installation.
    """
    text = _text(f"{table}.csv")
    prefix = "\n" + ",".join(cells) + ","
    start = end = text.find(prefix)
    if start < 0:
        return []
    while text.startswith(prefix, end):
        end = text.find("\n", end + 1)
    header = text[: text.index("\n")].split(",")
    return list(csv.DictReader(text[start + 1 : end].splitlines(), header))


def version() -> str:
    """Return the tables' version, ``2026-08-22+0123456789ab``: the newest figure's date and a hash."""
    return _text("VERSION").strip()


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


def source(ids: str, published: str = "") -> Source:
    """Return the source of a row, from its ``source`` cell (ids joined by ``+``) and its own date."""
    known = [_sources()[one] for one in ids.split("+") if one in _sources()]
    if not known:
        return Source(name=ids, published=published)
    name = "; ".join(f"{row['title']} ({row['publisher']})" for row in known)
    url = _url(known[0]["repository_or_document"])
    return Source(name=name, url=url, published=published or known[0]["data_date"])


def number(cell: str) -> float | None:
    """Return a cell's number; None where it is empty."""
    return float(cell) if cell.strip() else None
