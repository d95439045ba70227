"""What a user logs, as JSON can hold it."""

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
