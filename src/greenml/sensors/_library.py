"""A vendor's library, started once for several sensors and ended with the last of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

RESTART_SECONDS = 5.0


class Library:
    """Ends the library with its last user, but never while a call is under way: that may hang.

    No lock is held across a call into the library, so ``release`` returns at once.

    Args:
        start: the library's own start; its error is the caller's to translate.
        stop: its own end.
        error: what both raise.

    Attributes:
        generation: number of restarts; handles of an earlier generation are void.
    """

    def __init__(self, start: Callable[[], object], stop: Callable[[], object], error: type[Exception]) -> None:
        self._start, self._stop, self._error = start, stop, error
        self._lock = threading.Lock()
        self._users, self._calls, self._tried = 1, 0, float("-inf")
        self.generation = 0
        start()
        self._up = True

    def hold(self) -> None:
        """Keep it for one more user."""
        self._count(users=1)

    def release(self) -> None:
        """Let go of it."""
        self._count(users=-1)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Keep it while it is asked."""
        self._count(calls=1)
        try:
            yield
        finally:
            self._count(calls=-1)

    def restart(self) -> None:
        """Start it again, within ``call``; at most every ``RESTART_SECONDS``."""
        with self._lock:
            now = time.monotonic()
            if now - self._tried < RESTART_SECONDS:
                return
            self._tried, was_up, self._up = now, self._up, False
        with contextlib.suppress(self._error):
            if was_up:
                self._stop()
        with contextlib.suppress(self._error):
            self._start()
            self._up = True
            self.generation += 1

    def _count(self, users: int = 0, calls: int = 0) -> None:
        with self._lock:
            self._users, self._calls = self._users + users, self._calls + calls
            over = self._up and self._users == 0 and self._calls == 0
            self._up = self._up and not over
        if over:
            with contextlib.suppress(self._error):
                self._stop()
