"""What a user gives, names, logs and ends with, as the trace can hold it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 50  # what is nested deeper, or within itself, is cut off


def plain(value: Any, depth: int = 0) -> Any:  # noqa: ANN401, PLR0911  a return a kind of value
    """Return a value as JSON in UTF-8 can hold it: scalars of numpy and torch as numbers, not-a-number as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a character, as of a file's name in another encoding
    if isinstance(value, bool | int) or value is None:
        return value
    if depth > DEEPEST:
        return "..."
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one, depth + 1) for one in value]
    if hasattr(value, "tolist") and callable(value.tolist):
        with contextlib.suppress(Exception):
            return plain(value.tolist(), depth + 1)
    return plain(str(value))


def outcome(error: BaseException | None) -> tuple[str, str | None]:
    """Return the status of a run that ended by an exception (or by none), and the exception in a line."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "completed", None
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "KeyboardInterrupt"
    return "failed", " ".join(f"{type(error).__name__}: {error}".split())[:500]


def segment(name: str) -> str:
    """Return a phase's name as it can stand in a path."""
    return str(plain(str(name))).strip().replace("/", "-") or "phase"
