"""How a process with a run ends: by an interpreter's exit, or as a fork that is not the run's. No signal handler."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Protocol

from greenml.values import outcome


class Stoppable(Protocol):
    """A run that is going on."""

    def stop(self, status: str, error: str | None) -> object:
        """End it."""

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent."""


_active: set[Stoppable] = set()  # holds a run that nobody else holds, until it ends
_hooked = False


def add(run: Stoppable) -> None:
    """End a run at the interpreter's exit, unless it was discarded by then."""
    global _hooked  # noqa: PLW0603  exit functions are a process's
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_child)
    _active.add(run)


def discard(run: Stoppable) -> None:
    """Leave a run alone at the exit: it ended."""
    _active.discard(run)


def _at_exit() -> None:
    for run in list(_active):
        run.stop(*outcome(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)))


def _in_child() -> None:
    for run in list(_active):
        run.forget()
    _active.clear()
