"""Readings of one device, added up between two lines of the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from greenml.model import Reading, Rollup

STAMPED_SECONDS = 0.2  # samples of a driver's buffer are no further apart


@dataclass(slots=True)
class Window:
    """What a device's readings since the last flush add up to."""

    max_gap_seconds: float
    opened_seconds: float  # power that a driver buffered before is not ours
    last_seconds: float | None = None  # of the last read
    begun_seconds: float | None = None  # of the window: the last read of the one before
    energy_joules: float | None = None
    last_power: tuple[float, float] | None = None
    power_joules: float | None = None
    power_seconds: float = 0.0
    power_max_watts: float | None = None
    swing_joules: float = 0.0
    _sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    memory_max_bytes: int | None = None
    _stamped: bool = False  # the last power came with its time, from the driver's buffer

    def add(self, at_seconds: float, reading: Reading) -> None:
        """Take in a reading that was made at a time (monotonic)."""
        self.energy_joules = reading.energy_joules
        if reading.power_samples:
            self._power(reading.power_samples)
            self._stamped = True
        elif reading.power_watts is not None and not self._told(at_seconds):
            self._power([(at_seconds, reading.power_watts)])
            self._stamped = False
        weight = at_seconds - self.last_seconds if self.last_seconds is not None else 0.0
        for name in ("utilization_ratio", "memory_utilization_ratio", "memory_bytes"):
            value = getattr(reading, name)
            if value is not None:
                total, weights = self._sums.get(name, (0.0, 0.0))
                weighed = max(weight, 1e-9)  # a lone first reading counts, if nothing follows
                self._sums[name] = (total + value * weighed, weights + weighed)
        if reading.memory_bytes is not None:
            self.memory_max_bytes = max(reading.memory_bytes, self.memory_max_bytes or 0)
        if self.begun_seconds is None:
            self.begun_seconds = self.last_seconds if self.last_seconds is not None else at_seconds
        self.last_seconds = at_seconds

    def _told(self, at_seconds: float) -> bool:
        """Return whether the driver's buffer, which dates its samples, told the power that a gauge shows now."""
        return self._stamped and self.last_power is not None and at_seconds - self.last_power[0] <= STAMPED_SECONDS

    def _power(self, samples: Sequence[tuple[float, float]]) -> None:
        """Add power readings by the trapezoid rule; across a wide gap nothing is added.

        The busiest lines of all: a driver buffers up to a hundred samples a second of each GPU.
        """
        if self.last_power is None:
            self.last_power = samples[0]
        then, before = self.last_power
        joules = covered = swing = 0.0
        peak = self.power_max_watts or samples[0][1]
        opened, widest = self.opened_seconds, self.max_gap_seconds
        for when, watts in samples:
            if watts > peak:  # noqa: PLR1730  max() costs as much as the rest
                peak = watts
            seconds = when - (then if then > opened else opened)
            if when <= then:
                continue
            if 0 < seconds <= widest:
                joules += (watts + before) / 2 * seconds
                covered += seconds
                swing += abs(watts - before) / 2 * seconds
            then, before = when, watts
        if covered:
            self.power_joules = (self.power_joules or 0.0) + joules
        self.power_seconds += covered
        self.swing_joules += swing
        self.last_power, self.power_max_watts = (then, before), peak

    def take(self) -> Rollup | None:
        """Return the window as a rollup and begin the next; None where nothing was read."""
        if self.begun_seconds is None or self.last_seconds is None:
            return None

        def mean(name: str) -> float | None:
            total, weights = self._sums.get(name, (0.0, 0.0))
            return total / weights if weights else None

        known = self.power_max_watts is not None or self._told(self.last_seconds)
        last_power: tuple[float | None, float | None] = (None, None)
        if self.last_power is not None and known:  # what a driver told of the time before is not ours
            last_power = max(self.last_power[0], self.opened_seconds), self.last_power[1]
        rollup = Rollup(
            self.begun_seconds, self.last_seconds, self.energy_joules,
            self.power_joules, self.power_seconds, self.power_max_watts, self.swing_joules,
            mean("utilization_ratio"), mean("memory_utilization_ratio"), mean("memory_bytes"), self.memory_max_bytes,
            *last_power,
        )  # fmt: skip
        self.begun_seconds = None
        self.energy_joules = self.power_joules = self.power_max_watts = self.memory_max_bytes = None
        self.power_seconds = self.swing_joules = 0.0
        self._sums = {}
        return rollup
