"""The carbon intensity of a run that goes on: what it was when the energy was used, as far as a provider has told."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

from greenml import carbon_hours
from greenml.facts import IntensityCourse
from greenml.tail import BIN_SECONDS

AGAIN_SECONDS = 10.0  # the mean over hours moves slowly


class LiveIntensity:
    """Weighs what providers answered with the energy used then; like the record, but in bins of five minutes.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers = 0
        self._course: IntensityCourse | None = None
        self._starts: list[float] = []
        self._mean: tuple[float, float | None] | None = None  # when it was made, and what it is

    def mean(
        self, courses: Sequence[IntensityCourse], drawn: Iterable[Mapping[int, float]], otherwise: float | None
    ) -> float | None:
        """Return the energy-weighted mean so far, g/kWh.

        Args:
            courses: every answer so far, in their order.
            drawn: of each process, joules by bin of BIN_SECONDS of unix time.
            otherwise: g/kWh of energy whose hours nobody told: the place's yearly figure. A marginal course takes its
                own mean there, as the two are never mixed.
        """
        if len(courses) != self._answers:
            self._answers, self._mean = len(courses), None
            self._course = carbon_hours.whole_course(courses)
            self._starts = [slot.start.timestamp() for slot in self._course.slots] if self._course else []
        if self._course is None or not self._course.slots:
            return otherwise
        now = self._clock()
        if self._mean is None or now - self._mean[0] >= AGAIN_SECONDS:
            self._mean = now, self._weigh(drawn, otherwise)
        return self._mean[1]

    def at(self, unix_seconds: float) -> float | None:
        """Return the g/kWh of a moment, by what ``mean`` has seen; None where nobody told it."""
        place = bisect_right(self._starts, unix_seconds) - 1
        if self._course is None or place < 0 or math.isnan(unix_seconds):
            return None
        slot = self._course.slots[place]
        return slot.grams_per_kwh if unix_seconds < slot.end.timestamp() else None

    def _weigh(self, drawn: Iterable[Mapping[int, float]], otherwise: float | None) -> float | None:
        told = joules = rest = 0.0
        for one in drawn:
            for place, used in one.items():
                grams = self.at((place + 0.5) * BIN_SECONDS)
                if grams is None:
                    rest += used
                else:
                    told, joules = told + grams * used, joules + used
        if self._course is not None and (self._course.signal == "marginal" or otherwise is None):
            slots = [one.grams_per_kwh for one in self._course.slots]
            otherwise = told / joules if joules else sum(slots) / len(slots)
        if not joules or otherwise is None:
            return otherwise
        return (told + otherwise * rest) / (joules + rest)
