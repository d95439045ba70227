"""What two runs are compared by: each figure of a record, with what it may be off by and why.

A figure keeps the terms and factors that it was made of, so that a ratio of two figures can leave out what both share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from greenml.analysis.comparison import _metrics
from greenml.record import DeviceRecord, Factor, Quantity, RunRecord, Totals, Usage
from greenml.reports import _format

Better = Literal["higher", "lower"]
COUNTED = ("gpu", "cpu", "dram")  # the kinds whose energy is in the IT energy
NAMELESS_HOSTS = ("", "localhost")


@dataclass(frozen=True, slots=True)
class Term:
    """What one sensor told of an energy, and what that may be off by.

    Attributes:
        sensor: what identifies the sensor; None where another run cannot have the same one.
        joules: as it told them.
        gain_joules: what its gain may shift them by, the same way in every run.
        minus_joules, plus_joules: what else they may be off by, downward and upward.
    """

    sensor: tuple[str, ...] | None
    joules: float
    gain_joules: float = 0.0
    minus_joules: float = 0.0
    plus_joules: float = 0.0

    def scaled(self, ratio: float) -> Term:
        """Return the term times a number."""
        return Term(
            self.sensor,
            self.joules * ratio,
            self.gain_joules * ratio,
            self.minus_joules * ratio,
            self.plus_joules * ratio,
        )


@dataclass(frozen=True, slots=True)
class Assumed:
    """A factor that a figure was multiplied with.

    Attributes:
        factor: the factor.
        where: what it was assumed for where the place is not known, else empty: two runs on the same hosts were at
            the same place, wherever that is.
    """

    factor: Factor
    where: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a run, or the mean over several.

    Attributes:
        value: None: not known, and ``why`` says why. On a known value ``why`` names what is not in it.
        low, high: its band; None where it has none.
        terms: the energy in it, sensor by sensor; empty: it has no energy in it; None: what that may be off by is
            not known.
        factors: what it was multiplied with, in the order of the column.
        energy: band of the energy in it before the factors, joules; None where it has none.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""
    terms: tuple[Term, ...] | None = ()
    factors: tuple[Assumed, ...] = ()
    energy: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that runs are compared by.

    Attributes:
        key: its name in options and files; ends in its unit.
        title: its name for people.
        better: which way is better; None: neither, or not known.
        figure: reads it off a record.
        kind: energy, mass, time, money, memory, ratio or number; how it is written.
        unit: of a number, for people.
    """

    key: str
    title: str
    better: Better | None
    figure: Callable[[RunRecord], Figure]
    kind: str = "number"
    unit: str = ""


def columns(records: Sequence[RunRecord], metrics: Sequence[str], directions: dict[str, Better]) -> list[Column]:
    """Return the columns for some records: metrics first, then time, energy, carbon, money and use of the GPUs."""
    tiers = sorted({tier for record in records if (total := record.total()) for tier in total.cost_usd})
    throughput = "samples" if any("samples_per_second" in one.derived for one in records) else "tokens"
    return [
        *(
            Column(f"metrics.{name}", name, directions.get(name) or _metrics.direction(name), _Metric(name))
            for name in metrics
        ),
        Column("duration_seconds", "duration", "lower", lambda one: Figure(one.duration_seconds), "time"),
        Column(
            f"{throughput}_per_second",
            f"{throughput}/s",
            "higher",
            _Derived(f"{throughput}_per_second", throughput),
        ),
        Column("energy_joules", "energy", "lower", _energy, "energy"),
        Column("joules_per_sample", "J per sample", "lower", _PerUnit("joules_per_sample", "samples")),
        Column("joules_per_token", "J per token", "lower", _PerUnit("joules_per_token", "tokens")),
        Column("emissions_grams", "CO2e", "lower", _emissions, "mass"),
        *(
            Column(f"cost_{tier}_usd", f"cost, {_format.tier(tier)}", "lower", _Cost(tier), "money", "$")
            for tier in tiers
        ),
        Column("gpu_memory_peak_bytes", "GPU memory peak", None, _Total("gpu_memory_peak_bytes"), "memory"),
        Column("gpu_utilization_ratio", "GPU use", None, _Total("gpu_utilization_ratio"), "ratio"),
    ]


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str

    def __call__(self, record: RunRecord) -> Figure:
        value = _metrics.number(record.metrics.get(self.name))
        return Figure(value, why="" if value is not None else f"{self.name} was not logged")


@dataclass(frozen=True, slots=True)
class _Derived:
    name: str
    unit: str

    def __call__(self, record: RunRecord) -> Figure:
        value = record.derived.get(self.name)
        return Figure(value, why="" if value is not None else f"the trainer's number of {self.unit} is not known")


@dataclass(frozen=True, slots=True)
class _Total:
    name: str

    def __call__(self, record: RunRecord) -> Figure:
        total = record.total()
        value = getattr(total, self.name) if total is not None else None
        return Figure(value, why="" if value is not None else "not measured")


@dataclass(frozen=True, slots=True)
class _Cost:
    tier: str

    def __call__(self, record: RunRecord) -> Figure:
        total, price = record.total(), record.factors.prices.get(self.tier)
        quantity = total.cost_usd.get(self.tier) if total is not None else None
        if quantity is None or quantity.value is None:
            return Figure(None, why=(quantity.why if quantity else "") or "no price is known")
        return _figure(quantity, (), (price,), record)


@dataclass(frozen=True, slots=True)
class _PerUnit:
    name: str
    unit: str

    def __call__(self, record: RunRecord) -> Figure:
        value, total = record.derived.get(self.name), record.total(record.training_path)
        if value is None or total is None:
            why = "its training phase is not known" if total is None else f"the number of {self.unit} is not known"
            return Figure(None, why=why)
        energy = total.it_energy_joules
        if not energy.value:
            return Figure(value)
        scale = value / energy.value
        phase = record.phase(record.training_path)
        by_id = {device.id: device for device in record.devices}
        used = [(by_id[name], usage) for name, usage in (phase.usage if phase else {}).items() if name in by_id]
        found = terms(used)
        return Figure(
            value,
            None if energy.low is None else energy.low * scale,
            None if energy.high is None else energy.high * scale,
            energy.why,
            None if found is None else tuple(term.scaled(scale) for term in found),
        )


def _energy(record: RunRecord) -> Figure:
    total = record.total()
    return Figure(None, why="the record has no totals") if total is None else _it_energy(total, record)


def _it_energy(total: Totals, record: RunRecord) -> Figure:
    return _figure(total.it_energy_joules, terms((one, one.usage) for one in record.devices), (), record)


def _emissions(record: RunRecord) -> Figure:
    total = record.total()
    if total is None:
        return Figure(None, why="the record has no totals")
    found = terms((one, one.usage) for one in record.devices)
    made = _figure(total.emissions_grams, found, (record.factors.pue, record.factors.carbon_intensity), record)
    energy = total.it_energy_joules
    if energy.low is None or energy.high is None:
        return made
    return replace(made, energy=(energy.low, energy.high))


def _figure(
    quantity: Quantity, found: tuple[Term, ...] | None, factors: Iterable[Factor | None], record: RunRecord
) -> Figure:
    if quantity.value is None:
        return Figure(None, why=quantity.why)
    hosts = ",".join(sorted(host.name for host in record.hosts)) or record.run_id
    used = tuple(Assumed(one, hosts if one.assumed else "") for one in factors if one is not None)
    return Figure(quantity.value, quantity.low, quantity.high, quantity.why, found, used)


def terms(used: Iterable[tuple[DeviceRecord, Usage]]) -> tuple[Term, ...] | None:
    """Return the energy of some devices, sensor by sensor; None where one does not tell what it may be off by.

    Source: docs/method.md, section 3, for the doubts; docs/compare.md for which gains are shared.
    """
    found: list[Term] = []
    for device, usage in used:
        joules = usage.energy_joules
        if device.kind not in COUNTED or joules is None:
            continue
        doubts = usage.doubts
        if doubts is not None:
            spread = math.hypot(doubts.edge_joules, doubts.hidden_joules)
            minus = min(spread, max(0.0, joules - doubts.gain_joules))
            found.append(Term(sensor(device), joules, doubts.gain_joules, minus, spread + doubts.gap_joules))
        elif usage.energy_low_joules is not None and usage.energy_high_joules is not None:
            found.append(Term(None, joules, 0.0, joules - usage.energy_low_joules, usage.energy_high_joules - joules))
        else:
            return None
    return tuple(found) or None


def sensor(device: DeviceRecord) -> tuple[str, ...] | None:
    """Return what identifies a device's sensor over several runs; None where nothing does.

    A GPU has a UUID. A CPU package or its DRAM is that of a host with a name, and of a model. What a model of the CPU
    is off by depends on the load, so it is not shared.
    """
    if device.method not in ("counter", "gauge"):
        return None
    how = (device.sensor, device.method, f"{device.gain_ratio:.6g}")
    own = device.id.rsplit("/", 1)[-1]
    if device.kind == "gpu" and own.startswith(("GPU-", "MIG-")):
        return ("gpu", own, *how)
    if device.host in NAMELESS_HOSTS:
        return None
    return (device.kind, device.host, own, device.name, *how)
