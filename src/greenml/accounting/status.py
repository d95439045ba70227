"""A run in progress: its figures now, and the forecast of its totals at the last step. Plain types, no pydantic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH

FIRST_RATIO = 0.02  # of the steps must be done before the last step is forecast
FEWEST_BLOCKS = 3  # of steps, too
MOST_BLOCKS = 200  # of steps whose use is kept


@dataclass(frozen=True, slots=True)
class RunningTotals:
    """What a run used up to now. None is not known.

    Attributes:
        seconds: billed time, every attempt's.
        energy_joules: of GPUs, CPUs and DRAM.
        power_watts: now.
        emissions_grams: CO2e, PUE included.
        cost_usd: by tier, all nodes.
    """

    seconds: float
    energy_joules: float | None
    power_watts: float | None
    emissions_grams: float | None
    cost_usd: Mapping[str, float]

    def figures(self, tier: str) -> dict[str, float]:
        """Return the figures under the names that loggers show; what is not known has no name.

        Args:
            tier: whose price counts.
        """
        now = {
            "green/energy_kwh": None if self.energy_joules is None else self.energy_joules / JOULES_PER_KWH,
            "green/co2e_kg": None if self.emissions_grams is None else self.emissions_grams / GRAMS_PER_KG,
            "green/cost_usd": self.cost_usd.get(tier),
            "green/power_w": self.power_watts,
        }
        return {name: value for name, value in now.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ForecastRatio:
    """The forecast of a total at the last step, over the total now: value and interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What to expect at the last step: of energy and what follows from it, and of time and what follows from that."""

    energy: ForecastRatio | None
    seconds: ForecastRatio | None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device at this moment. None is not known, or not for some seconds.

    Attributes:
        label: what people call it: a GPU's index.
        energy_joules: since the process that reads it began to, in the last attempt.
    """

    host: str
    kind: str
    id: str
    label: str
    name: str
    power_watts: float | None = None
    power_limit_watts: float | None = None
    utilization_ratio: float | None = None
    memory_bytes: float | None = None
    memory_total_bytes: float | None = None
    energy_joules: float | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run at this moment.

    Attributes:
        status: as the record would have it: running, completed, killed ...
        processes: how many of the last attempt wrote a trace.
        phases: those that are open, the outer first, with how long they have been.
        step, steps: how far the trainer says it is, and how far it will go.
        expected: at the last step, as multiples of ``totals``; None before enough steps are done.
        grams_per_hour, usd_per_hour: at the power of now, and of all nodes, by tier.
        note: what was noted in the last minutes, if anything was.
    """

    name: str
    status: str
    error: str | None
    attempt: int
    hosts: Sequence[str]
    processes: int
    totals: RunningTotals
    devices: Sequence[DeviceStatus] = ()
    phases: Sequence[tuple[str, float]] = ()
    step: int | None = None
    steps: int | None = None
    expected: Expected | None = None
    grams_per_hour: float | None = None
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


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
            if len(self._points) > MOST_BLOCKS:
                self._points = self._points[::2]

    def expected(self, max_steps: int, used: RunningTotals) -> Expected | None:
        """Return what to expect of the totals at ``max_steps``; None before enough steps are done.

        The interval is twice the standard error of the use a step over the blocks of steps seen so far, times the steps
        that remain; it does not include the sensors' uncertainty.
        """
        last = self._points[-1][0] if self._points else 0
        if max_steps <= 0 or len(self._points) <= FEWEST_BLOCKS or last - self.first_step < FIRST_RATIO * max_steps:
            return None
        rest = max(0, max_steps - last)
        joules = [(step, joules) for step, _, joules in self._points if joules is not None]
        seconds = [(step, seconds) for step, seconds, _ in self._points]
        return Expected(_growth(joules, rest, used.energy_joules), _growth(seconds, rest, used.seconds))


def _growth(points: Sequence[tuple[int, float]], rest: int, now: float | None) -> ForecastRatio | None:
    if not now or len(points) <= FEWEST_BLOCKS:
        return None
    from statistics import stdev  # its import takes milliseconds, which every start of a run would pay

    (first, start), (last, end) = points[0], points[-1]
    rate = (end - start) / (last - first)
    rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in itertools.pairwise(points)]
    error = stdev(rates) / math.sqrt(len(rates))

    def ratio(a_step: float) -> float:
        return max(1.0, (end + max(0.0, a_step) * rest) / now)

    return ForecastRatio(ratio(rate), ratio(rate - 2 * error), ratio(rate + 2 * error))
