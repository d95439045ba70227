"""Who is asked for the carbon intensity over time, by name; nobody is asked who was not named.

A provider is one file here, with ``RESOLUTION_SECONDS`` and ``course(place, area, start, end) -> IntensityCourse``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pathlib import Path

from greenml.errors import FactorError, SettingsError
from greenml.factors import _keys, own_csv
from greenml.facts import IntensityCourse, Place

PROVIDERS = ("electricity_maps", "uk_grid", "watttime")


def providers() -> list[str]:
    """Return the names of the services that can be asked."""
    return list(PROVIDERS)


def check(provider: str) -> str:
    """Check that a provider is one, without asking it.

    Returns:
        It, a file with its folders: a training may change the working folder.

    Raises:
        SettingsError: it is no service's name and no CSV file that is there.
    """
    name, _ = _parts(provider)
    if name in PROVIDERS:
        return provider
    if Path(provider).is_file():
        return str(Path(provider).resolve())
    if _is_file_name(provider):
        raise SettingsError(f"intensity {provider!r}: no such file")
    near = difflib.get_close_matches(name, PROVIDERS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"give {', '.join(PROVIDERS)}, or a CSV file"
    raise SettingsError(f"unknown intensity provider {provider!r}; {hint}")


def label(provider: str) -> str:
    """Return a provider as a trace may name it: a file without its folders."""
    return provider if _parts(provider)[0] in PROVIDERS else Path(provider).name


def resolution_seconds(provider: str) -> float:
    """Return how often a provider has something new."""
    name, _ = _parts(provider)
    seconds: float = (import_module(f"greenml.factors.{name}") if name in PROVIDERS else own_csv).RESOLUTION_SECONDS
    return seconds


def course(provider: str, place: Place, start: datetime, end: datetime) -> IntensityCourse:
    """Return the carbon intensity of a place over a stretch of time.

    Args:
        provider: a service's name, if need be with an area of its own (``uk_grid:13``, ``electricity_maps:DE``,
            ``watttime:CAISO_NORTH``), or the path of a CSV file.
        place: where.
        start: UTC.
        end: UTC, after it.

    Returns:
        The course, with every slot that shares time with the stretch; there is one at least.

    Raises:
        SettingsError: there is no such provider.
        FactorError: it has no answer, in one line.
    """
    check(provider)
    name, area = _parts(provider)
    if name not in PROVIDERS:
        return own_csv.course(Path(provider), start, end)
    ask: Callable[[Place, str, datetime, datetime], IntensityCourse] = import_module(f"greenml.factors.{name}").course
    told, failure = None, None
    try:
        told = ask(place, area, start, end)
    except FactorError as error:
        failure = error
    if told is None:  # raised here, outside of the except block: nothing hangs on it
        text = _keys.hidden(str(failure))
        raise failure if failure is not None and str(failure) == text else FactorError(text)
    slots = tuple(one for one in told.slots if one.end > start and one.start < end)
    if not slots:
        span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        raise FactorError(f"{name}: it has nothing for {told.area} from {span}")
    return IntensityCourse(
        told.provider, told.signal, told.area, slots, told.source, told.basis, told.note, told.doubt_ratio
    )


def _parts(provider: str) -> tuple[str, str]:
    """Split a provider's name from the area that is given with it."""
    name, _, area = provider.partition(":")
    return name.strip().lower().replace("-", "_"), area.strip()


def _is_file_name(provider: str) -> bool:
    return provider.lower().endswith(".csv") or "/" in provider or "\\" in provider
