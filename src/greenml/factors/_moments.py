"""Times and figures in a provider's answer, checked, and a long stretch of time in pieces that a provider allows."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from greenml.errors import FactorError
from greenml.factors.fixed import MOST_GRAMS_PER_KWH


def utc(value: object, who: str) -> datetime:
    """Return an ISO 8601 time with its offset as UTC.

    Raises:
        FactorError: it is none, or has no offset.
    """
    text = re.sub(r"(\.\d{6})\d+", r"\1", str(value).strip())
    text = re.sub(r"\.(\d{1,5})(?!\d)", lambda match: "." + match[1].ljust(6, "0"), text)  # Python 3.10 wants 3 or 6
    text = re.sub(r"[zZ]$", "+00:00", text)
    moment = None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None:
        raise FactorError(f"{who}: {str(value)[:40]!r} is no ISO 8601 time, such as 2026-03-01T10:00:00+00:00")
    if moment.tzinfo is None:
        raise FactorError(f"{who}: the time {str(value)[:40]!r} has no offset; write 2026-03-01T10:00:00+00:00 or ...Z")
    return moment.astimezone(timezone.utc)


def grams(value: object, who: str) -> float:
    """Return a carbon intensity in g/kWh.

    Raises:
        FactorError: it is no number, or none that a grid can have.
    """
    number = math.nan
    with contextlib.suppress(TypeError, ValueError):
        number = float(value)  # type: ignore[arg-type]  # anything may stand in an answer
    if isinstance(value, bool) or not 0 <= number <= MOST_GRAMS_PER_KWH:
        raise FactorError(f"{who}: {str(value)[:40]!r} is no carbon intensity of 0 to {MOST_GRAMS_PER_KWH:g} g/kWh")
    return number


def rounded(start: datetime, end: datetime, step: timedelta) -> tuple[datetime, datetime]:
    """Return the whole steps, counted from midnight UTC, that hold a stretch of time; one at least."""
    origin = datetime(2000, 1, 1, tzinfo=timezone.utc)
    first = origin + (start - origin) // step * step
    last = origin + -(-(end - origin) // step) * step
    return first, max(last, first + step)


def pieces(start: datetime, end: datetime, most: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Yield a stretch of time in pieces no longer than ``most``."""
    while start < end:
        stop = min(start + most, end)
        yield start, stop
        start = stop


def entries(value: object, name: str, who: str) -> list[dict[str, object]]:
    """Return the list of objects that an answer holds under a name.

    Raises:
        FactorError: there is none.
    """
    inner = value.get(name) if isinstance(value, dict) else None
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise FactorError(f"{who}: its answer has no list {name!r}; has its interface changed?")
    return inner
