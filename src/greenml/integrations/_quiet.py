"""Keeps what goes wrong in a callback out of the training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class Troubled(Protocol):
    """Who is told what went wrong."""

    def trouble(self, text: str) -> None:
        """Take a line of what went wrong."""


Method = TypeVar("Method", bound=Callable[..., Any])


def quiet(method: Method) -> Method:
    """Keep what goes wrong in here out of the training: it becomes a note, and a line in the log."""

    @functools.wraps(method)
    def kept(self: Troubled, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  no fault of ours may end a training
            with contextlib.suppress(Exception):  # that to which it is told may be what is broken
                self.trouble(f"{method.__name__}: {type(error).__name__}: {error}")
            return None

    return kept  # type: ignore[return-value]
