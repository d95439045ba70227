"""What a training will have used at its end, from what its steps used so far."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import greenml

FIRST_RATIO = 0.02  # of the steps must be done before anything is expected
BLOCKS = 200  # of steps whose use is kept


@dataclass(frozen=True, slots=True)
class Expected:
    """Totals at the last step, as multiples of those now: value, low and high."""

    ratio: float
    low: float
    high: float


class Forecast:
    """Watches steps and joules, and extends them to the last step."""

    def __init__(self) -> None:
        self.first_step = 0
        self._points: list[tuple[int, float]] = []

    def begin(self, step: int) -> None:
        """Begin at a step: the first of a training, or that of the checkpoint it resumes from."""
        self.first_step, self._points = step, []

    def add(self, step: int, totals: greenml.Totals) -> None:
        """Take in what had been used when a step ended."""
        if totals.energy_joules is not None and (not self._points or step > self._points[-1][0]):
            self._points.append((step, totals.energy_joules))
            if len(self._points) > BLOCKS:
                self._points = self._points[::2]

    def expected(self, max_steps: int, totals: greenml.Totals) -> Expected | None:
        """Return the totals to expect at ``max_steps``; None before enough steps are done.

        The band is twice the standard error of the joules a step over the blocks of steps seen so far, times the
        steps that remain; it says nothing of the sensors' own doubt.
        """
        if max_steps <= 0 or len(self._points) < 3 or not totals.energy_joules:
            return None
        (first, start), (last, end) = self._points[0], self._points[-1]
        if last - self.first_step < FIRST_RATIO * max_steps or last <= first:
            return None
        pairs = zip(self._points, self._points[1:], strict=False)
        rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
        rate = (end - start) / (last - first)
        error = statistics.stdev(rates) / math.sqrt(len(rates)) if len(rates) > 1 else rate
        rest = max(0, max_steps - last)
        now = totals.energy_joules
        return Expected(
            (now + rate * rest) / now,
            (now + max(0.0, rate - 2 * error) * rest) / now,
            (now + (rate + 2 * error) * rest) / now,
        )
