"""The pages of an update that has not ended: kept line by line, so that an interrupted update goes on where it was.

The file is no table and nothing reads prices from it. Its first line says what was asked and when; each further one
is a page. A line that was cut off, by a kill in the middle of writing it, is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greenml.errors import FactorError

GOOD_FOR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Page:
    """One page of answers.

    Attributes:
        query: which of the update's queries it answers, from 0.
        next_url: of the page after it; "" where it is the query's last.
        items: how many the page held.
        quotes: those that are prices we want, each a list of plain values.
        left_out: why others are not, with how many.
    """

    query: int
    next_url: str
    items: int
    quotes: list[list[Any]]
    left_out: dict[str, int]


class Unfinished:
    """An update under way, on disk.

    Args:
        path: of its file; made where it does not exist or is of another or an older question.
        asked: what is asked, as JSON can hold it.
        now: seconds since 1970.

    Attributes:
        started_seconds: when the update began, since 1970.
        pages: those that are here already.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], now: float) -> None:
        self._path = path
        self.started_seconds, self.pages, good_bytes = _read(path, asked, now)
        try:
            if good_bytes:
                os.truncate(path, good_bytes)
            else:
                self.started_seconds = now
                header = json.dumps({"asked": asked, "started_seconds": now})
                path.write_text(header + "\n", encoding="utf-8")
        except OSError as error:
            raise FactorError(_not_writable(path, error)) from None

    def add(self, page: Page) -> None:
        """Keep a page: on disk before this returns.

        Raises:
            FactorError: it cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(page)) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise FactorError(_not_writable(self._path, error)) from None
        self.pages.append(page)

    def remove(self) -> None:
        """Forget it: its prices are in the table."""
        self._path.unlink(missing_ok=True)


def _read(path: Path, asked: Mapping[str, Any], now: float) -> tuple[float, list[Page], int]:
    """Return when a file's update began, its whole pages, and how many bytes those take; 0 bytes: begin anew."""
    nothing: tuple[float, list[Page], int] = (now, [], 0)
    try:
        first, *lines = path.read_bytes().splitlines(keepends=True)
        header = json.loads(first)
        started = float(header["started_seconds"])
        if not first.endswith(b"\n") or header["asked"] != asked or not 0 <= now - started <= GOOD_FOR_SECONDS:
            return nothing
    except (OSError, ValueError, KeyError, TypeError):
        return nothing
    pages, good_bytes = [], len(first)
    for line in lines:
        try:
            page = Page(**json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        pages.append(page)
        good_bytes += len(line)
    return started, pages, good_bytes


def _not_writable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written: {error.strerror or error}; GREENML_CACHE_DIR names another folder"
