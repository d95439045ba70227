"""Prices that were fetched, each with its date, in the user's cache folder: one table, replaced whole or not at all.

A row is one price of one node, Linux, pay as you go, USD an hour, as a service listed it on ``as_of``. Rows of earlier
dates stay. Of a price that did not change only the first and the last date are kept, so the table does not grow by
being brought up to date.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from greenml.claims import FileLock
from greenml.errors import FactorError
from greenml.tables import Row

COLUMNS = ("cloud", "sku", "region", "tier", "usd_per_hour", "as_of", "effective_from", "meter", "url")
KEY = COLUMNS[:4]
HEADER = ",".join(COLUMNS)


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of the table.

    Attributes:
        path: the table.
        rows: in it now.
        set_aside: where a damaged table was moved to; None where there was none.
    """

    path: Path
    rows: int
    set_aside: Path | None


def folder() -> Path:
    """Return the user's cache folder: ``GREENML_CACHE_DIR``, else the system's place for caches. It may not exist."""
    given = os.environ.get("GREENML_CACHE_DIR", "").strip()
    if given:
        return Path(os.path.expanduser(given))  # noqa: PTH111  Path's own raises where no home is known
    from platformdirs import user_cache_path

    return user_cache_path("greenml", appauthor=False)


def table() -> Path:
    """Return the path of the table of prices."""
    return folder() / "prices.csv"


def lookup(cloud: str, sku: str) -> tuple[list[Row], str]:
    """Return a SKU's fetched prices, and what is wrong with the table ("" for nothing).

    A damaged table, or a damaged row of the SKU, gives no price and a text that says so; it never raises.
    """
    path = table()
    try:
        state = path.stat()
    except FileNotFoundError:
        return [], ""
    except OSError:
        return [], _damaged(path)
    text = _text(path, state.st_mtime_ns, state.st_size)
    if text is None:
        return [], _damaged(path)
    prefix = f"\n{cloud},{sku},"
    start = end = text.find(prefix)
    if start < 0:
        return [], ""
    while text.startswith(prefix, end):
        end = text.find("\n", end + 1)
    rows = list(csv.DictReader(text[start + 1 : end].splitlines(), COLUMNS))
    sound = [row for row in rows if _is_sound(row)]
    return (sound, "") if len(sound) == len(rows) else ([], _damaged(path))


@contextlib.contextmanager
def update() -> Iterator[None]:
    """Hold the cache for one update: nobody else may update it meanwhile.

    Raises:
        FactorError: another process updates it, or the folder cannot be written.
    """
    place = folder()
    lock = FileLock(place / "update.lock")
    try:
        place.mkdir(parents=True, exist_ok=True)
        taken = lock.acquire()
    except OSError as error:
        raise FactorError(_not_writable(place, error)) from None
    if not taken:
        raise FactorError(f"another 'greenml prices update' is at work in {place}; wait for its end")
    try:
        yield
    finally:
        lock.release()


def merge(new: Iterable[Row]) -> Merged:
    """Add prices to the table, which is then replaced in one step.

    A row with the key and the date of an earlier one takes its place.

    Args:
        new: rows with every column.

    Raises:
        FactorError: the table cannot be written; it is as it was.
    """
    path = table()
    try:
        old, set_aside = _all(path)
    except OSError as error:
        raise FactorError(_not_writable(path, error)) from None
    known = {(*(row[name] for name in KEY), row["as_of"]): row for row in [*old, *new]}
    rows = _without_repeats([known[key] for key in sorted(known)])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        replace_text(path, stream.getvalue())
    except OSError as error:
        raise FactorError(_not_writable(path, error)) from None
    return Merged(path, len(rows), set_aside)


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step: a reader, or a machine that loses its power, has the old text or the new.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _all(path: Path) -> tuple[list[Row], Path | None]:
    """Return every sound row of the table; where it is damaged, move it aside and say where to."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return [], None
    text = _text(path, state.st_mtime_ns, state.st_size)
    rows = [] if text is None else list(csv.DictReader(text.splitlines()))
    sound = [row for row in rows if _is_sound(row)]
    if text is not None and len(sound) == len(rows):
        return sound, None
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    aside = path.with_name("prices.damaged.csv")
    path.replace(aside)
    return sound, aside


@lru_cache(maxsize=2)
def _text(path: Path, changed: int, size: int) -> str | None:
    """Return the table's text, None where it is none of ours; remembered while date and size stay the same."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.startswith(HEADER + "\n") and text.endswith("\n") and "\0" not in text else None


def _is_sound(row: Row) -> bool:
    try:
        usd = float(row["usd_per_hour"])
        date.fromisoformat(row["as_of"])
    except (TypeError, ValueError):
        return False
    return math.isfinite(usd) and usd > 0 and all(row.get(name) is not None for name in COLUMNS) and None not in row


def _without_repeats(rows: list[Row]) -> list[Row]:
    """Drop the middle dates of a price that stays the same; rows are sorted by key and date."""
    kept: list[Row] = []
    for _, same in groupby(rows, lambda row: tuple(row[name] for name in KEY)):
        for _, stretch in groupby(same, lambda row: float(row["usd_per_hour"])):
            days = list(stretch)
            kept += days if len(days) < 3 else [days[0], days[-1]]
    return kept


def _damaged(path: Path) -> str:
    return f"the fetched prices in {path} are damaged and were not used; 'greenml prices update' writes them anew"


def _not_writable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written: {error.strerror or error}; GREENML_CACHE_DIR names another folder"
