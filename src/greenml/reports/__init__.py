"""Run records to text. A file here is a format: ``render(record) -> str``, pure."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from greenml.errors import SettingsError
from greenml.record import RunRecord


def formats() -> list[str]:
    """Return the names of the formats, sorted: the modules here without a leading underscore."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def render(record: RunRecord, format: str) -> str:  # noqa: A002 - the word its users use
    """Render a record in a format by its name.

    Raises:
        SettingsError: there is no such format.
    """
    known = formats()
    if format not in known:
        close = difflib.get_close_matches(format, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"unknown report format {format!r}{hint} Formats: {', '.join(known)}")
    return str(importlib.import_module(f"{__name__}.{format}").render(record))
