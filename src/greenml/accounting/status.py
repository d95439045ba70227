"""A run at a moment while it goes on: the plain types that the followers of a run speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH


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
class Band:
    """A total at the last step, as a multiple of that now: value, low and high."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What to expect at the last step: of energy and what follows from it, and of time and what follows from that."""

    energy: Band | None
    seconds: Band | None


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
