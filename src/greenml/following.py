"""A run's totals while it goes on, accounted as its record will be: by what its processes were told and found out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenml import finishing, live
from greenml.moment import Totals
from greenml.record import Factors

WAIT_SECONDS = 1.0  # for another thread that asks at the same time


class Following:
    """Follows the traces of a run, from any thread.

    Args:
        run_dir: of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._follower = live.Follower(run_dir, Factors())
        self._told: tuple[int, dict[str, Any]] | None = None
        self._last = Totals(0.0, None, None, None, {})
        self._lock = threading.Lock()

    def totals(self, place: Mapping[str, Any]) -> Totals:
        """Return the totals up to now; the last ones where another thread, or this one, is asking already.

        Args:
            place: what this machine says of itself, where no trace has it yet.
        """
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            return self._last
        try:
            made = self._follower.totals()
            headers, found = self._follower.told()
            told = len(headers), dict(found or place)
            if headers and told != self._told:  # a process joined, or the place became known
                self._told = told
                factors, settings = finishing.outlook(headers, told[1])
                self._follower.account_with(factors, settings.nodes)
                made = self._follower.totals()
            self._last = made
            return made
        finally:
            self._lock.release()
