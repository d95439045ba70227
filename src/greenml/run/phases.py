"""The phases of a run that are open now: each thread's and each asyncio task's nest in its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar

from greenml.trace.lines import Line, to_jsonable

# The phases that this thread or task began, outermost first: which run's, and its number. A task begins with those of
# the code that created it; what it begins itself is seen by no other task.
_begun: ContextVar[tuple[tuple[int, int], ...]] = ContextVar("greenml_phases", default=())


class OpenPhases:
    """Begins and ends phases, from any thread or task.

    Args:
        write: takes the line of a phase that begins or ends.
    """

    def __init__(self, write: Callable[[Line], None]) -> None:
        self._write = write
        self._lock = threading.RLock()  # a signal's handler may begin a phase while this thread does
        self._paths: dict[int, str] = {}
        self._last = 0

    def begin(self, name: str, since_seconds: float | None = None) -> int:
        """Begin a phase within the last one that this thread or task began and that is open; returns its number."""
        begun = {} if since_seconds is None else {"t": float(since_seconds)}
        with self._lock:
            numbers = [number for run, number in _begun.get() if run == id(self) and number in self._paths]
            path = segment(name)
            if numbers:
                path = f"{self._paths[numbers[-1]]}/{path}"
            self._last += 1
            number = self._last
            self._paths[number] = path
            others = [entry for entry in _begun.get() if entry[0] != id(self)]
            _begun.set((*others, *((id(self), open_number) for open_number in numbers), (id(self), number)))
            self._write({"phase": path, "begin": number, **begun})
            return number

    def end(self, number: int, until_seconds: float | None = None) -> None:
        """End a phase, from any thread or task; a second time does nothing."""
        with self._lock:
            self._close(number, until_seconds)

    def end_all(self) -> None:
        """End what is open, the last begun first."""
        with self._lock:
            for number in reversed(list(self._paths)):
                self._close(number)

    def _close(self, number: int, until_seconds: float | None = None) -> None:
        if self._paths.pop(number, None) is not None:
            ended = {} if until_seconds is None else {"t": float(until_seconds)}
            self._write({"end": number, **ended})


def segment(name: object) -> str:
    """Return a phase's name as it can stand in a path."""
    text = to_jsonable(name)
    return (text if isinstance(text, str) else str(text)).strip().replace("/", "-")[:200] or "phase"
