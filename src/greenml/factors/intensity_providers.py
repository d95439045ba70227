"""Providers of the carbon intensity over time, by name; no provider is asked that was not named.

A provider is one file here, with ``RESOLUTION_SECONDS`` and ``series(place, area, start, end, basis)``.
What several of them need to read an answer stands at the end of this one.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path

from greenml.errors import FactorError, SettingsError, did_you_mean, nearest
from greenml.factors import INTENSITY_PROVIDERS
from greenml.factors.grid_average import BASIS
from greenml.factors.types import IntensitySeries, Place
from greenml.factors.user_given import MOST_GRAMS_PER_KWH

CSV = "csv_intensity"


def providers() -> list[str]:
    """Return the names of the services that can be asked."""
    return list(INTENSITY_PROVIDERS)


def check(provider: str) -> str:
    """Check that a provider is one, without asking it.

    Returns:
        It, a file with its folders: a training may change the working folder.

    Raises:
        SettingsError: it is no service's name and no CSV file that is there.
    """
    name, _ = _parts(provider)
    if name in INTENSITY_PROVIDERS:
        return provider
    if Path(provider).is_file():
        return str(Path(provider).resolve())
    if _is_file_name(provider):
        raise SettingsError(f"intensity {provider!r}: no such file")
    hint = (
        did_you_mean(nearest(name, INTENSITY_PROVIDERS, 1)) or f"; give {', '.join(INTENSITY_PROVIDERS)}, or a CSV file"
    )
    raise SettingsError(f"unknown intensity provider {provider!r}{hint}")


def label(provider: str) -> str:
    """Return a provider as a trace may name it: a file without its folders."""
    return provider if _parts(provider)[0] in INTENSITY_PROVIDERS else Path(provider).name


def resolution_seconds(provider: str) -> float:
    """Return how often a provider has something new."""
    name, _ = _parts(provider)
    seconds: float = import_module(f"greenml.factors.{name if name in INTENSITY_PROVIDERS else CSV}").RESOLUTION_SECONDS
    return seconds


def series(provider: str, place: Place, start: datetime, end: datetime, basis: str = "") -> IntensitySeries:
    """Return the carbon intensity of a place over a stretch of time.

    Args:
        provider: a service's name, with an area of its own where that is needed (``uk_grid:13``,
            ``electricity_maps:DE``, ``watttime:CAISO_NORTH``), or the path of a CSV file.
        place: where.
        start: UTC.
        end: UTC, after it.
        basis: direct or lifecycle, for a provider that has both; "" is direct. Which one it gave, the series says.

    Returns:
        Every slot that shares time with the stretch; there is one at least.

    Raises:
        SettingsError: there is no such provider.
        FactorError: it has no answer, in one line.
    """
    check(provider)
    name, area = _parts(provider)
    if name not in INTENSITY_PROVIDERS:
        name, area = CSV, provider
    ask: Callable[[Place, str, datetime, datetime, str], IntensitySeries] = import_module(
        f"greenml.factors.{name}"
    ).series
    answer, failure = None, None
    try:
        answer = ask(place, area, start, end, basis or BASIS)
    except FactorError as error:
        failure = error
    if answer is None:  # raised here, outside of the except block: nothing hangs on it
        from greenml.factors import _http

        text = _http.without_keys(str(failure))
        raise failure if failure is not None and str(failure) == text else FactorError(text)
    slots = tuple(slot for slot in answer.slots if slot.end > start and slot.start < end)
    if not slots:
        span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        raise FactorError(f"{answer.provider}: it has nothing for {answer.area} from {span}")
    return replace(answer, slots=slots)


def _parts(provider: str) -> tuple[str, str]:
    """Split a provider's name from the area that is given with it."""
    name, _, area = provider.partition(":")
    return name.strip().lower().replace("-", "_"), area.strip()


def _is_file_name(provider: str) -> bool:
    return provider.lower().endswith(".csv") or "/" in provider or "\\" in provider


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
        raise FactorError(f"{who}: {str(value)[:40]!r} is not an ISO 8601 time, such as 2026-03-01T10:00:00+00:00")
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
        raise FactorError(f"{who}: {str(value)[:40]!r} is not a carbon intensity of 0 to {MOST_GRAMS_PER_KWH:g} g/kWh")
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
    if not isinstance(inner, list) or not all(isinstance(entry, dict) for entry in inner):
        raise FactorError(f"{who}: its answer has no list {name!r}; has its interface changed?")
    return inner
