"""The phases of a run that are open now: each thread's nest in its own, and every one has a number."""

from __future__ import annotations

import threading
from collections.abc import Callable

from greenml.trace_lines import Line
from greenml.values import segment


class OpenPhases:
    """Begins and ends phases, from any thread.

    Args:
        write: takes the line of a phase that begins or ends.
    """

    def __init__(self, write: Callable[[Line], None]) -> None:
        self._write = write
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._paths: dict[int, str] = {}
        self._last = 0

    def begin(self, name: str, since_seconds: float | None = None) -> int:
        """Begin a phase within the one that this thread began last, if that is open; returns its number."""
        mine = self._mine()
        with self._lock:
            parent = next((self._paths[one] for one in reversed(mine) if one in self._paths), "")
            path = f"{parent}/{segment(name)}" if parent else segment(name)
            self._last += 1
            self._paths[self._last] = path
            mine.append(self._last)
            begun = {} if since_seconds is None else {"t": since_seconds}
            self._write({"phase": path, "begin": self._last, **begun})
            return self._last

    def end(self, number: int) -> None:
        """End a phase; a second time does nothing."""
        with self._lock:
            self._close(number)
        mine = self._mine()
        if number in mine:
            mine.remove(number)

    def end_all(self) -> None:
        """End what is open, the last begun first."""
        with self._lock:
            for number in reversed(list(self._paths)):
                self._close(number)

    def _close(self, number: int) -> None:
        if self._paths.pop(number, None) is not None:
            self._write({"end": number})

    def _mine(self) -> list[int]:
        mine: list[int] = getattr(self._thread, "open", [])
        self._thread.open = mine
        return mine
