"""Forecasts the totals of a training at its last step, from the steps so far."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from greenml.accounting.status import Band, Expected, RunningTotals

FIRST_RATIO = 0.02  # of the steps must be done before anything is expected
FEWEST = 3  # blocks of steps, too
BLOCKS = 200  # of steps whose use is kept


class Forecast:
    """Watches steps, joules and seconds, and extends them to the last step."""

    def __init__(self) -> None:
        self.first_step = 0
        self._points: list[tuple[int, float, float | None]] = []

    def begin(self, step: int, used: RunningTotals) -> None:
        """Begin at a step: the first of a training, or that of the checkpoint it resumes from."""
        self.first_step, self._points = step, []
        self.add(step, used)

    @property
    def last_step(self) -> int | None:
        """The last step that was taken in; None before the first."""
        return self._points[-1][0] if self._points else None

    def add(self, step: int, used: RunningTotals) -> None:
        """Take in what had been used when a step ended."""
        if not self._points or step > self._points[-1][0]:
            self._points.append((step, used.seconds, used.energy_joules))
            if len(self._points) > BLOCKS:
                self._points = self._points[::2]

    def expected(self, max_steps: int, used: RunningTotals) -> Expected | None:
        """Return what to expect of the totals at ``max_steps``; None before enough steps are done.

        The interval is twice the standard error of the use a step over the blocks of steps seen so far, times the steps
        that remain; it does not include the sensors' uncertainty.
        """
        last = self._points[-1][0] if self._points else 0
        if max_steps <= 0 or len(self._points) <= FEWEST or last - self.first_step < FIRST_RATIO * max_steps:
            return None
        rest = max(0, max_steps - last)
        joules = [(step, joules) for step, _, joules in self._points if joules is not None]
        seconds = [(step, seconds) for step, seconds, _ in self._points]
        return Expected(_growth(joules, rest, used.energy_joules), _growth(seconds, rest, used.seconds))


def _growth(points: Sequence[tuple[int, float]], rest: int, now: float | None) -> Band | None:
    if not now or len(points) <= FEWEST:
        return None
    (first, start), (last, end) = points[0], points[-1]
    rate = (end - start) / (last - first)
    rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in itertools.pairwise(points)]
    error = statistics.stdev(rates) / math.sqrt(len(rates))

    def ratio(a_step: float) -> float:
        return max(1.0, (end + max(0.0, a_step) * rest) / now)

    return Band(ratio(rate), ratio(rate - 2 * error), ratio(rate + 2 * error))
