"""Readings of one device, added up between two lines of the trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from greenml.model import Reading, Rollup


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

    def add(self, at_seconds: float, reading: Reading) -> None:
        """Take in a reading that was made at a time (monotonic)."""
        self.energy_joules = reading.energy_joules
        if reading.power_samples:
            for when, watts in reading.power_samples:
                self._power(when, watts)
        elif reading.power_watts is not None:
            self._power(at_seconds, reading.power_watts)
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

    def _power(self, when: float, watts: float) -> None:
        """Add a power reading by the trapezoid rule; across a wide gap nothing is added."""
        if self.last_power is not None:
            then, before = self.last_power
            seconds = when - max(then, self.opened_seconds)
            if when <= then:
                return
            if 0 < seconds <= self.max_gap_seconds:
                self.power_joules = (self.power_joules or 0.0) + (watts + before) / 2 * seconds
                self.power_seconds += seconds
                self.swing_joules += abs(watts - before) / 2 * seconds
        self.last_power = (when, watts)
        self.power_max_watts = max(watts, self.power_max_watts or 0.0)

    def take(self) -> Rollup | None:
        """Return the window as a rollup and begin the next; None where nothing was read."""
        if self.begun_seconds is None or self.last_seconds is None:
            return None

        def mean(name: str) -> float | None:
            total, weights = self._sums.get(name, (0.0, 0.0))
            return total / weights if weights else None

        rollup = Rollup(
            self.begun_seconds, self.last_seconds, self.energy_joules,
            self.power_joules, self.power_seconds, self.power_max_watts, self.swing_joules,
            mean("utilization_ratio"), mean("memory_utilization_ratio"), mean("memory_bytes"), self.memory_max_bytes,
        )  # fmt: skip
        self.begun_seconds = None
        self.energy_joules = self.power_joules = self.power_max_watts = self.memory_max_bytes = None
        self.power_seconds = self.swing_joules = 0.0
        self._sums = {}
        return rollup
