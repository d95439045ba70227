"""A run while it goes on, accounted as its record will be: by what its processes were told and found out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from greenml import finishing, live
from greenml.moment import Now, Totals
from greenml.record import Factors
from greenml.settings import Settings

WAIT_SECONDS = 1.0  # for another thread that asks at the same time
T = TypeVar("T")


class Following:
    """Follows the traces of a run.

    Args:
        run_dir: of the run.

    Attributes:
        factors: what is accounted with, as far as it is known by now.
        settings: what the run was told.
        place: what its machine says of itself.
    """

    def __init__(self, run_dir: Path) -> None:
        self.factors, self.settings = Factors(), Settings()
        self.place: Mapping[str, Any] = {}
        self._follower = live.Follower(run_dir, self.factors)
        self._told: tuple[int, dict[str, Any]] | None = None
        self._last = Totals(0.0, None, None, None, {})
        self._lock = threading.Lock()

    def now(self) -> Now:
        """Return the whole picture; for one thread."""
        return self._accounted(self._follower.now, {})

    def totals(self, place: Mapping[str, Any]) -> Totals:
        """Return the totals up to now, to any thread; the last ones where another, or this one, is asking already.

        Args:
            place: what this machine says of itself, where no trace has it yet.
        """
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            return self._last
        try:
            self._last = self._accounted(self._follower.totals, place)
            return self._last
        finally:
            self._lock.release()

    def _accounted(self, read: Callable[[], T], place: Mapping[str, Any]) -> T:
        """Read, and once more where a process joined, or the place became known."""
        made = read()
        headers, found = self._follower.told()
        told = len(headers), dict(found or place)
        if headers and told != self._told:
            self._told, self.place = told, told[1]
            self.factors, self.settings = finishing.outlook(headers, self.place)
            self._follower.account_with(self.factors, self.settings.nodes)
            made = read()
        return made
