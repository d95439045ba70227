"""A driver's ring buffer of time-stamped samples: what is new in it, on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter, lt

from greenml.units import SECONDS_PER_MICROSECOND

STEP_SECONDS = 0.05  # a wall clock that moves by more than this between two reads was set, not slewed
FUTURE_SECONDS = 0.1  # a sample from later than this was stamped before the wall clock was set back
SILENT_SECONDS = 5.0  # a buffer without a new sample for so long does not carry the energy
COARSE_SECONDS = 0.2  # samples wider apart than this tell less than polling the gauge does
FULL_SECONDS = 2.0  # deep enough for a read each second: the depth is not learned any further
LEARNING_READS = 10
TOGETHER_SECONDS = 0.0005  # clocks read further apart than this, by a thread held up in between, are read again
CLOCK_READS = 5

_STAMP = itemgetter(0)  # of a sample
Stamped = Sequence[tuple[int, float]]
Clocks = Callable[[], Sequence[float]]


def clocks() -> list[float]:
    """Return the seconds that the clocks show which a driver may stamp with: monotonic, wall, since boot.

    NVML documents the wall clock; some Linux drivers stamp with the time since boot
    (github.com/polarsignals/gpu-metrics-agent, pull request 36).
    """
    for _ in range(CLOCK_READS):
        before = time.monotonic()
        others = [time.time()]
        if hasattr(time, "CLOCK_BOOTTIME"):
            others.append(time.clock_gettime(time.CLOCK_BOOTTIME))
        after = time.monotonic()
        if after - before < TOGETHER_SECONDS:
            break
    return [(before + after) / 2, *others]


class SampleBuffer:
    """Turns what the driver still holds into samples that were not seen before.

    Args:
        fetch: returns (microseconds, value) later than a stamp, in any order; empty where nothing is new.
        clocks: the clocks, monotonic first, the wall clock second.
        unit: by which values are multiplied.

    Attributes:
        depth_seconds: the longest time that the driver was seen to hold; 0 where not known.
        newest_value: of the last sample that was returned; None before the first.
    """

    def __init__(self, fetch: Callable[[int], Stamped], clocks: Clocks = clocks, unit: float = 1.0) -> None:
        self._fetch, self._clocks, self._unit = fetch, clocks, unit
        self._since = 0  # the newest stamp seen, in the driver's clock
        self._seen_seconds = float("-inf")  # nothing at or before this is returned; monotonic
        self._wall_offset: float | None = None
        self._learning = LEARNING_READS
        self._spacing_seconds = float("inf")
        self._newest_seconds = float("-inf")
        self.depth_seconds = 0.0
        self.newest_value: float | None = None

    @property
    def carries(self) -> bool:
        """Whether its samples are recent, and come often enough, to integrate power from them."""
        recent = self._clocks()[0] - self._newest_seconds < SILENT_SECONDS
        return recent and self.depth_seconds > 0 and self._spacing_seconds <= COARSE_SECONDS

    def pass_over(self, until_seconds: float) -> None:
        """Return nothing from before a time (monotonic) whose power is known already."""
        self._seen_seconds = max(self._seen_seconds, until_seconds)

    def new(self) -> list[tuple[float, float]]:
        """Return (monotonic seconds, value) of the samples since the last call, in time order.

        Left out: stamps that are zero, repeated or in the future, and all from before the wall clock was set,
        which say nothing then.
        """
        now, wall, *others = self._clocks()
        stepped = self._wall_offset is not None and abs(wall - now - self._wall_offset) > STEP_SECONDS
        self._wall_offset = wall - now
        if stepped:
            self._since = 0
            self.pass_over(now)
            return []
        learn = self.depth_seconds < FULL_SECONDS and self._learning > 0
        self._learning -= learn
        stamped = self._fetch(0 if learn else self._since)
        stamps = list(map(_STAMP, stamped))
        if not all(map(lt, stamps, stamps[1:])):  # nearly always they ascend
            stamped = sorted(dict(stamped).items())
        if not stamped:
            return []
        newest = stamped[-1][0]
        offset = min((at - now for at in (now, wall, *others)), key=lambda o: abs(_seconds(newest, o) - now))
        limit = _stamp(now + FUTURE_SECONDS, offset)
        if stamped[0][0] <= 0 or newest >= limit:
            stamped = [sample for sample in stamped if 0 < sample[0] < limit]
            if not stamped:
                return []
        first, last = (_seconds(stamped[at][0], offset) for at in (0, -1))
        if learn and last - first > self.depth_seconds:
            self.depth_seconds = last - first
            self._spacing_seconds = self.depth_seconds / (len(stamped) - 1)
        seen = max(self._since, _stamp(self._seen_seconds, offset))
        unit = self._unit
        self._newest_seconds, self._since, self.newest_value = last, stamped[-1][0], stamped[-1][1] * unit
        self.pass_over(last)
        return [(stamp * SECONDS_PER_MICROSECOND - offset, value * unit) for stamp, value in stamped if stamp > seen]


def _stamp(seconds: float, offset: float) -> float:
    return (seconds + offset) / SECONDS_PER_MICROSECOND


def _seconds(stamp: int, offset: float) -> float:
    return stamp * SECONDS_PER_MICROSECOND - offset
