"""Lists the figures of a run, for all reports: name, label, value with its unit, interval, and how each is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from greenml.record.schema import Quantity, ReportedEmissions, RunRecord, ServingRecord, Totals
from greenml.reports import _format
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH

Write = Callable[[float], str]
Group = Literal["energy", "emissions", "footprint", "cost", "use", "serving", "reported"]


@dataclass(frozen=True, slots=True)
class RunFigure:
    """A figure of a run or of a phase.

    Attributes:
        name: as in files; ends in its unit.
        label: for people.
        group: what kind of figure it is; reports choose and order by it.
        write: writes a value with its unit.
        quantity: value and interval; None: not known. A range has an interval and no value.
        how: how it is known; why, where it is not.
        brief: the same, where there is no room for what is missing in it.
        file: of another tool, that holds it as it is.
    """

    name: str
    label: str
    group: Group
    write: Write
    quantity: Quantity | None
    how: str
    brief: str
    file: str = ""

    @property
    def text(self) -> str:
        """Return the value with its unit, or words."""
        return "a range" if self._is_range else _format.figure(self.quantity, self.write, reason=False)

    @property
    def interval(self) -> str:
        """Return the interval with its unit; empty where there is none."""
        return (_format.span if self._is_range else _format.interval_of)(self.quantity, self.write)

    @property
    def _is_range(self) -> bool:
        quantity = self.quantity
        return quantity is not None and quantity.value is None and None not in (quantity.low, quantity.high)


def figures(record: RunRecord, scope: str = "run", mass: Write = _format.mass) -> list[RunFigure]:
    """Return the figures of the run or a phase: energy, emissions, footprint, cost, use, and what others reported.

    Args:
        record: the run.
        scope: ``run`` or the path of a phase.
        mass: writes grams.
    """
    total = record.total(scope)
    emissions = total.emissions_grams if total is not None else None
    return [
        *_energies(record, total),
        _figure("emissions_grams", _format.emissions_name(record), "emissions", mass, emissions),
        *(_footprint(record, total, mass) if total is not None else ()),
        *_costs(record, total),
        *(_uses(total) if total is not None else ()),
        *(_serving(record.serving) if record.serving is not None and scope == "run" else ()),
        *(
            figure
            for reported in record.reported
            if scope in ("run", reported.scope)
            for figure in reported_figures(reported, mass)
        ),
    ]


def _serving(serving: ServingRecord) -> list[RunFigure]:
    """Return what the requests of an endpoint used, on the mean and together, and what was used without any."""
    ended = {status: count for status, count in serving.requests.items() if count}
    statuses = ", ".join(f"{count:,} {status}" for status, count in ended.items() if status != "completed")
    count = Quantity(value=sum(ended.values()), basis="measured")
    energy, idle = serving.request_energy_joules, serving.idle_energy_joules
    together = (energy.value or 0.0) + (idle.value or 0.0)
    how = f"{_format.percent((idle.value or 0.0) / together)} of the energy" if together else idle.why
    return [
        RunFigure("requests", "Requests", "serving", lambda value: f"{value:,.0f}", count, statuses, statuses),
        _figure("request_energy_joules", "Energy of requests", "serving", _format.energy, energy),
        RunFigure(
            "idle_energy_joules", "without a request", "serving", _format.energy, idle, how, how,
        ),
        _figure("joules_per_request", "a request", "serving", _joules, serving.joules_per_request),
        _figure("joules_per_token", "a token", "serving", _joules, serving.joules_per_token),
    ]  # fmt: skip


def _joules(value: float) -> str:
    return f"{_format.significant(value)} J"


def quantities(record: RunRecord, scope: str = "run") -> dict[str, Quantity]:
    """Return the quantities of the run or a phase that are known of, by name."""
    return {figure.name: figure.quantity for figure in figures(record, scope) if figure.quantity is not None}


def no_price(record: RunRecord) -> str:
    """Say why a run has no cost at all."""
    return f"no price for {record.place.sku}" if record.place.sku else "no SKU and no price given"


def _figure(name: str, label: str, group: Group, write: Write, quantity: Quantity | None) -> RunFigure:
    if quantity is None or quantity.value is None:
        how = brief = quantity.why if quantity is not None else ""
    else:
        how = f"{quantity.basis}; {quantity.why}" if quantity.why else quantity.basis
        brief = f"{quantity.basis}, partial" if quantity.why else quantity.basis
    return RunFigure(name, label, group, write, quantity, how, brief)


def _energies(record: RunRecord, total: Totals | None) -> list[RunFigure]:
    made = []
    for kind, label in (("gpu", "GPU"), ("cpu", "CPU"), ("dram", "DRAM")):
        name = f"{kind}_energy_joules"
        quantity = getattr(total, name) if total is not None else None
        figure = _figure(name, f"{label} energy", "energy", _format.energy, quantity)
        if quantity is not None and quantity.value is not None:
            how = _format.known_how(record, kind, quantity)
            figure = RunFigure(name, figure.label, "energy", _format.energy, quantity, how, how)
        made.append(figure)
    it_energy, facility = (total.it_energy_joules, total.facility_energy_joules) if total is not None else (None, None)
    return [
        *made,
        _figure("it_energy_joules", "IT energy", "energy", _format.energy, it_energy),
        _figure("facility_energy_joules", "with PUE", "energy", _format.energy, facility),
    ]


def _footprint(record: RunRecord, total: Totals, mass: Write) -> list[RunFigure]:
    """Return what is known beyond the emissions of operation: by contract, water, embodied carbon, SCI."""
    made: list[RunFigure] = []

    def add(name: str, label: str, write: Write, quantity: Quantity, how: str) -> None:
        made.append(RunFigure(name, label, "footprint", write, quantity, how, how))

    market, water, embodied = total.market_emissions_grams, total.water_liters, total.embodied_grams
    if market is not None and market.value is not None:
        add("market_emissions_grams", "Market-based", mass, market, "the contract's figure")
    if water is not None and water.value is not None:
        how = ", ".join(part for part in (water.basis, water.why) if part)
        add("water_liters", "Water, on site", _format.liters, water, how)
    if embodied is not None:
        is_gpu_run = any(device.kind == "gpu" for device in record.devices)
        if _format.span(embodied, mass) or (made and embodied.why and is_gpu_run):
            add("embodied_grams", "Embodied, share", mass, embodied, embodied.why)
    if total.scope != "run":
        return made
    for score in record.sci:
        operation = score.operational_grams
        name, label = f"sci_{score.unit}_grams", f"SCI per {score.unit}"
        if _format.span(score.total_grams, mass):
            share = _format.span(score.embodied_grams, mass)
            how = f"operation {_format.figure(operation, mass)}, embodied {share}"
            add(name, label, mass, score.total_grams, how)
        elif operation.value is not None:
            add(name, label, mass, operation, f"operation only; {_format.reason(score.total_grams)}")
    return made


def _costs(record: RunRecord, total: Totals | None) -> list[RunFigure]:
    costs = total.cost_usd if total is not None else {}
    if not costs:
        why = no_price(record)
        return [RunFigure("cost_usd", "Cost", "cost", _format.money, None, why, why)]
    return [
        _figure(f"cost_{tier}_usd", f"Cost, {_format.tier(tier)}", "cost", _format.money, cost)
        for tier, cost in costs.items()
    ]


def _uses(total: Totals) -> list[RunFigure]:
    uses: list[tuple[str, str, Write, str]] = [
        ("gpu_utilization_ratio", "GPU utilization", _format.percent, ""),
        ("cpu_utilization_ratio", "CPU utilization", _format.percent, ""),
        ("gpu_memory_mean_bytes", "GPU memory, mean", _size, "mean over the used GPUs"),
        ("gpu_memory_peak_bytes", "GPU memory, peak", _size, "mean over the used GPUs of their peaks"),
        ("host_memory_peak_bytes", "Host memory, peak", _size, ""),
    ]
    made = []
    for name, label, write, how in uses:
        quantity = Quantity(value=getattr(total, name), basis="measured")
        made.append(RunFigure(name, label, "use", write, quantity, how, ""))
    return made


def _size(size_bytes: float) -> str:
    return f"{_format.gigabytes(size_bytes)} GB"


def reported_figures(reported: ReportedEmissions, mass: Write = _format.mass) -> list[RunFigure]:
    """Return the figures of another tool's row."""
    how = f"reported ({_format.SENSOR_NAMES.get(reported.tool, reported.tool)})"
    made = []
    for name, key, unit, write in (
        ("energy_joules", "energy_consumed", JOULES_PER_KWH, _format.energy),
        ("emissions_grams", "emissions", GRAMS_PER_KG, mass),
    ):
        value = _number(reported.row.get(key, ""))
        quantity = None if value is None else Quantity(value=value * unit, basis="reported")
        label = f"{reported.scope} {name.partition('_')[0]}"
        made.append(RunFigure(f"reported_{name}", label, "reported", write, quantity, how, how, reported.file))
    return made


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
