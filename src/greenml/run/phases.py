"""The phases of a run that are open now: each thread's and each asyncio task's nest in its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from greenml.trace.lines import Line, to_jsonable

if TYPE_CHECKING:
    from greenml.run.calls import Function

# The phases that this thread or task began, outermost first: which run's, and its number. A task begins with those of
# the code that created it; what it begins itself is seen by no other task.
_begun: ContextVar[tuple[tuple[int, int], ...]] = ContextVar("greenml_phases", default=())

# The same of ``with`` blocks: which Phase, and the number that it began.
_entered: ContextVar[tuple[tuple[int, int], ...]] = ContextVar("greenml_phase_blocks", default=())


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


class Phase:
    """A phase for ``with``, as often as one likes, and for a function, of which every call is the phase.

    Args:
        begin: begins it, and returns its number.
        end: takes that number.
    """

    def __init__(self, begin: Callable[[], int], end: Callable[[int], None]) -> None:
        self._begin, self._end = begin, end
        self._open: list[int] = []

    def __enter__(self) -> None:
        """Begin it, also within itself."""
        number = self._begin()
        self._open.append(number)
        _entered.set((*_entered.get(), (id(self), number)))

    def __exit__(self, *_: object) -> None:
        """End the last one that this thread or task began."""
        mine = [number for phase, number in _entered.get() if phase == id(self) and number in self._open]
        number = mine[-1] if mine else self._open[-1]
        self._open.remove(number)
        _entered.set(tuple(entry for entry in _entered.get() if entry != (id(self), number)))
        self._end(number)

    def __call__(self, function: Function) -> Function:
        """Return the function with every call of it in the phase, until its coroutine or generator ends."""
        from greenml.run.calls import tracked

        return tracked(function, lambda: Phase(self._begin, self._end))


def segment(name: object) -> str:
    """Return a phase's name as it can stand in a path."""
    text = to_jsonable(name)
    return (text if isinstance(text, str) else str(text)).strip().replace("/", "-")[:200] or "phase"
