"""Run records to text. A file here is a format: ``render(record) -> str``, pure."""

from __future__ import annotations

import importlib
import pkgutil

from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.record.schema import RunRecord


def formats() -> list[str]:
    """Return the names of the formats, sorted: the modules here without a leading underscore."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not (module.ispkg or module.name.startswith("_"))
    )


def render(record: RunRecord, format: str) -> str:  # noqa: A002 - the word its users use
    """Render a record in a format by its name.

    Raises:
        SettingsError: there is no such format.
    """
    known = formats()
    if format not in known:
        hint = did_you_mean(nearest(format, known, 1)) or f"; there are {', '.join(known)}"
        raise SettingsError(f"unknown report format {format!r}{hint}")
    return str(importlib.import_module(f"{__name__}.{format}").render(record))
