"""Computes the energy-weighted carbon intensity of a run in progress, from the answers of a provider."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

from greenml.accounting import hourly
from greenml.factors.types import IntensitySeries
from greenml.trace.tail import BIN_SECONDS

AGAIN_SECONDS = 10.0  # the mean over hours moves slowly


class LiveIntensity:
    """Weights providers' answers with the energy used at the time, like the record, but in bins of five minutes.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers = 0
        self._series: IntensitySeries | None = None
        self._starts: list[float] = []
        self._mean: tuple[float, float | None] | None = None  # when it was made, and what it is

    def mean(
        self, answers: Sequence[IntensitySeries], drawn: Iterable[Mapping[int, float]], otherwise: float | None
    ) -> float | None:
        """Return the energy-weighted mean so far, g/kWh.

        Args:
            answers: every answer so far, in their order.
            drawn: of each process, joules by bin of BIN_SECONDS of unix time.
            otherwise: g/kWh of energy in hours without an answer: the place's yearly figure. A marginal series takes
                its own mean there, as the two are never mixed.
        """
        if len(answers) != self._answers:
            self._answers, self._mean = len(answers), None
            self._series = hourly.joined_series(answers)
            self._starts = [slot.start.timestamp() for slot in self._series.slots] if self._series else []
        if self._series is None or not self._series.slots:
            return otherwise
        now = self._clock()
        if self._mean is None or now - self._mean[0] >= AGAIN_SECONDS:
            self._mean = now, self._weigh(drawn, otherwise)
        return self._mean[1]

    def at(self, unix_seconds: float) -> float | None:
        """Return the g/kWh at a time, by the answers that ``mean`` has joined; None where no slot covers it."""
        place = bisect_right(self._starts, unix_seconds) - 1
        if self._series is None or place < 0 or math.isnan(unix_seconds):
            return None
        slot = self._series.slots[place]
        return slot.grams_per_kwh if unix_seconds < slot.end.timestamp() else None

    def _weigh(self, drawn: Iterable[Mapping[int, float]], otherwise: float | None) -> float | None:
        weighted = joules = rest = 0.0
        for joules_by_bin in drawn:
            for place, used in joules_by_bin.items():
                grams = self.at((place + 0.5) * BIN_SECONDS)
                if grams is None:
                    rest += used
                else:
                    weighted, joules = weighted + grams * used, joules + used
        if self._series is not None and (self._series.signal == "marginal" or otherwise is None):
            slots = [slot.grams_per_kwh for slot in self._series.slots]
            otherwise = weighted / joules if joules else sum(slots) / len(slots)
        if not joules or otherwise is None:
            return otherwise
        return (weighted + otherwise * rest) / (joules + rest)
