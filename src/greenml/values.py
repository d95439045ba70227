"""What a user gives, names, logs and ends with, as the trace can hold it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value as JSON can hold it: scalars of numpy and torch as numbers, not-a-number as text."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if hasattr(value, "tolist") and callable(value.tolist):
        with contextlib.suppress(Exception):
            return plain(value.tolist())
    return str(value)


def outcome(error: BaseException | None) -> tuple[str, str | None]:
    """Return the status of a run that ended by an exception (or by none), and the exception in a line."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "completed", None
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "KeyboardInterrupt"
    return "failed", " ".join(f"{type(error).__name__}: {error}".split())[:500]


def segment(name: str) -> str:
    """Return a phase's name as it can stand in a path."""
    return str(name).strip().replace("/", "-") or "phase"
