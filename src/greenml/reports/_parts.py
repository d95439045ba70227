"""The parts of a record that several reports show: its figures, phases, devices, machine, and the lines of its factors.

A figure has name, label, value with its unit, interval, and how it is known; it is listed here, once for all reports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from greenml.record.schema import (
    DeviceRecord,
    FactorRange,
    PhaseRecord,
    Quantity,
    ReportedEmissions,
    RunRecord,
    ServingRecord,
    Totals,
)
from greenml.reports import _format
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_HOUR

Write = Callable[[float], str]
FigureGroup = Literal["energy", "emissions", "footprint", "cost", "use", "serving", "reported"]


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
    group: FigureGroup
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


def _figure(name: str, label: str, group: FigureGroup, write: Write, quantity: Quantity | None) -> RunFigure:
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


def series_lines(record: RunRecord) -> list[str]:
    """Return the lines about the intensity series; none where one intensity counts for the whole run."""
    series, factor = record.factors.intensity_series, record.factors.carbon_intensity
    if series is None or factor is None or factor.scope != "series":
        return []
    count = len(series.slots)
    spread = _format.interval(series.low_grams_per_kwh, series.high_grams_per_kwh, _grams)
    where = " ".join(part for part in (series.provider, series.area) if part)
    lines = [
        f"Carbon intensity over time: {series.signal}, {count} slot{'s' if count > 1 else ''} by {where}, "
        f"{spread or _grams(series.low_grams_per_kwh)}; emissions are the sum over them of energy x intensity."
    ]
    words = _difference(record)
    return [*lines, words] if words else lines


def even_grams(record: RunRecord) -> float | None:
    """Return the run's emissions at the time mean of the intensity; None where not known."""
    series, total = record.factors.intensity_series, record.total()
    if series is None or series.time_mean_grams_per_kwh is None or total is None:
        return None
    facility = total.facility_energy_joules.value
    return None if facility is None else facility / JOULES_PER_KWH * series.time_mean_grams_per_kwh


def _difference(record: RunRecord) -> str:
    series, factor, total = record.factors.intensity_series, record.factors.carbon_intensity, record.total()
    even = even_grams(record)
    if series is None or factor is None or total is None or total.emissions_grams.value is None or not even:
        return ""
    grams = total.emissions_grams.value
    time_mean = series.time_mean_grams_per_kwh or 0.0
    means = f"Over the run its energy-weighted mean is {_grams(factor.value)}, its plain mean {_grams(time_mean)}"
    size = abs(grams - even)
    if size <= 1e-9 * even:
        return f"{means}."
    way = "more" if even > grams else "less"
    return f"{means}; at the plain mean the run would have emitted {_format.mass(even)}, {_format.mass(size)} {way}."


def _grams(value: float) -> str:
    return f"{_format.number(value, 4)} g CO2e/kWh"


SECONDS_PER_YEAR = 365 * 24 * SECONDS_PER_HOUR


def footprint_factor_lines(record: RunRecord) -> list[str]:
    """Return a line for each factor of the footprint figures, with its range and sources."""
    factors = record.factors
    lines = []
    if factors.market_intensity is not None:
        lines.append(f"Market-based carbon intensity: {_format.factor(factors.market_intensity)}")
    if factors.wue is not None:
        lines.append(f"Water (WUE), without the power plants': {_format.factor(factors.wue)}")
    if factors.embodied and factors.lifetime is not None:
        lines += [
            f"Embodied carbon of {_counted(spread)}: {_spread(spread, _format.mass)}" for spread in factors.embodied
        ]
        lines.append(f"Lifetime of hardware: {_spread(factors.lifetime, _years)}")
    return lines


def _counted(spread: FactorRange) -> str:
    name = "one server without its GPUs" if spread.code == "server" else f"one {spread.code}"
    return f"{name}, {_format.number(spread.count)} took part"


def _spread(spread: FactorRange, write: Write) -> str:
    sources = "; ".join(_format.source(source) for source in spread.sources)
    note = f": {spread.note}" if spread.note else ""
    return f"{_format.interval(spread.low, spread.high, write) or write(spread.low)}{note}; source: {sources}"


def _years(seconds: float) -> str:
    return f"{_format.number(seconds / SECONDS_PER_YEAR, 3)} years"


MISMATCH = "machine-mismatch"  # the code of a note: the measured hardware is not what the named SKU has


def at_a_time(record: RunRecord, kind: str) -> list[DeviceRecord]:
    """Return the devices of a kind that the run had at a time: an attempt that goes on elsewhere has no more of them.

    Left out is what another tool reported: how many devices its figure stands for is not always known.
    """
    devices = [device for device in record.devices if device.kind == kind and device.method != "reported"]
    by_attempt = [
        [device for device in devices if device.host in attempt.hosts] for attempt in record.attempts if attempt.hosts
    ]
    return max(by_attempt, key=len, default=devices) or devices


def hardware(record: RunRecord) -> str:
    """Name what the run ran on, from its devices: ``8 X Tesla V100-SXM2-32GB``; empty where nothing tells."""
    for kind in ("gpu", "cpu"):
        counts: dict[str, int] = {}
        for device in at_a_time(record, kind):
            counts[device.name] = counts.get(device.name, 0) + device.count
        if counts:
            return ", ".join(f"{count} X {name}" for name, count in counts.items())
    return ", ".join(dict.fromkeys(host.cpu_model for host in record.hosts if host.cpu_model))


def machine(record: RunRecord) -> str:
    """Name the SKU with its label and the nodes, and what was seen where that differs; empty where there is none."""
    place = record.place
    if not place.sku:
        return ""
    label = f"{place.sku} ({place.sku_label})" if place.sku_label else place.sku
    label = f"{label}, {place.nodes} nodes" if place.nodes > 1 else label
    return f"billed as {label}, but seen: {seen(record)}" if mismatch(record) else label


def mismatch(record: RunRecord) -> bool:
    """Tell whether a note says that the measured hardware is not what the SKU has."""
    return any(note.code == MISMATCH for note in record.notes)


def seen(record: RunRecord) -> str:
    """Name what was seen where that is not what the SKU has: the GPUs, or that there was none."""
    hosts = dict.fromkeys(host.cloud for host in record.hosts if host.cloud)
    where = f" on {' and '.join(hosts)}" if hosts and set(hosts) != {record.place.cloud} else ""
    return (hardware(record) if at_a_time(record, "gpu") else "no GPU") + where


MOST_ROWS = 16
KIND_WORDS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM", "host": "host", "process": "this run's processes"}
METHOD_WORDS = {"counter": "counter", "gauge": "gauge", "estimate": "modelled", "reported": "reported"}

Row = tuple[str, str, str, str, str, str]
Group = list[DeviceRecord]


# Phases


@dataclass(frozen=True, slots=True)
class Remainder:
    """What no top-level phase covers; None is not known."""

    seconds: float
    energy_joules: float | None
    emissions_grams: float | None
    cost_usd: dict[str, float]


def phases(record: RunRecord) -> list[PhaseRecord]:
    """Return phases by their start, else as the record has them; each one's children right after it."""
    return sorted(record.phases, key=lambda phase: _phase_order(record, phase))


def _phase_order(record: RunRecord, phase: PhaseRecord) -> tuple[tuple[float, int, str], ...]:
    names = phase.path.split("/")
    keys = []
    for depth in range(len(names)):
        path = "/".join(names[: depth + 1])
        place, outer = next(
            ((place, other) for place, other in enumerate(record.phases) if other.path == path), (0, None)
        )
        start = min((start for start, _ in outer.spans), default=0.0) if outer else 0.0
        keys.append((start, place, names[depth]))
    return tuple(keys)


def remainder(record: RunRecord) -> Remainder | None:
    """Return what is outside of phases, so that top-level phases and it add up to the run; None if they overlap."""
    top = [phase for phase in record.phases if "/" not in phase.path]
    run = record.total()
    totals = [run, *(record.total(phase.path) for phase in top)]
    seconds = record.duration_seconds - sum(phase.seconds for phase in top)
    if seconds < -0.01 * max(record.duration_seconds, 1.0):
        return None

    def rest(pick: Callable[[Totals], Quantity | None]) -> float | None:
        return _left([pick(total) if total is not None else None for total in totals])

    costs = {tier: rest(lambda total, tier=tier: total.cost_usd.get(tier)) for tier in (run.cost_usd if run else {})}  # type: ignore[misc]
    return Remainder(
        seconds=max(seconds, 0.0),
        energy_joules=rest(lambda total: total.it_energy_joules),
        emissions_grams=rest(lambda total: total.emissions_grams),
        cost_usd={tier: usd for tier, usd in costs.items() if usd is not None},
    )


def _left(quantities: Sequence[Quantity | None]) -> float | None:
    """Return the first less the others; None where one is not known, or where the others exceed it."""
    values = [quantity.value for quantity in quantities if quantity is not None and quantity.value is not None]
    if len(values) < len(quantities):
        return None
    left = values[0] - sum(values[1:])
    if abs(left) <= 1e-9 * abs(values[0]):
        return 0.0
    return left if left > 0 else None


# Devices


def device_rows(record: RunRecord, most: int = MOST_ROWS) -> list[Row]:
    """Return label, energy, mean power, utilization, memory peak and method, a row a device or a group.

    A group's energy is its devices' sum; its other figures are the least to the most of one device.
    """
    labelled = groups(record, most)
    rows = [_row(group, label) for label, group in labelled[:most]]
    if len(labelled) > most:
        rows.append((f"and {len(labelled) - most} more kinds, see run.json", "", "", "", "", ""))
    return rows


def groups(record: RunRecord, most: int = MOST_ROWS) -> list[tuple[str, Group]]:
    """Return the devices with their labels: each alone, or by host and model, or by model where those are too many."""
    devices = record.devices
    several_hosts = len({device.host for device in devices}) > 1
    if len(devices) <= most:
        return [(_label(device, several_hosts), [device]) for device in devices]
    by_host = _groups(devices, lambda device: (device.host, device.kind, device.name))
    if len(by_host) <= most:
        return [(f"{_count(group)} X {_label(group[0], several_hosts, of_group=True)}", group) for group in by_host]
    made = []
    for group in _groups(devices, lambda device: (device.kind, device.name)):
        hosts = len({device.host for device in group})
        made.append((f"{_count(group)} X {_label(group[0], False, of_group=True)} on {hosts} hosts", group))
    return made


def short_names(devices: Sequence[DeviceRecord]) -> list[str]:
    """Return short names that differ: ``GPU 3``, ``CPU``, ``CPU package-1`` of two; of several hosts, theirs."""
    several_hosts = len({device.host for device in devices}) > 1
    alike = Counter((device.host, device.kind) for device in devices)
    names = []
    for device in devices:
        kind = KIND_WORDS[device.kind]
        package = device.id.removeprefix(f"{device.host}/").removesuffix("-dram")
        package = package if alike[device.host, device.kind] > 1 else ""
        index = {"gpu": device.detail.get("index", ""), "cpu": package, "dram": package}.get(device.kind, "")
        name = f"{kind} {index}".strip()
        names.append(f"{device.host} {name}" if several_hosts and device.host else name)
    counts = Counter(names)
    return [f"{name} ({device.id})" if counts[name] > 1 else name for name, device in zip(names, devices, strict=True)]


def short_group_names(labelled: Sequence[tuple[str, Group]]) -> list[str]:
    """Return short names of groups that differ: ``64 GPUs``, with the host where a group is of one of several."""
    if all(len(group) == 1 for _, group in labelled):
        return short_names([group[0] for _, group in labelled])
    several_hosts = len({device.host for _, group in labelled for device in group}) > 1
    names = []
    for _, group in labelled:
        count, word = _count(group), KIND_WORDS[group[0].kind]
        name = word if group[0].kind == "process" else f"{count} {word}{'s' if count > 1 else ''}"
        on_one_host = several_hosts and len({device.host for device in group}) == 1
        names.append(f"{group[0].host} {name}" if on_one_host else name)
    counts = Counter(names)
    return [label if counts[name] > 1 else name for name, (label, _) in zip(names, labelled, strict=True)]


def _groups(devices: Iterable[DeviceRecord], key: Callable[[DeviceRecord], tuple[str, ...]]) -> list[Group]:
    groups: dict[tuple[str, ...], Group] = {}
    for device in devices:
        groups.setdefault(key(device), []).append(device)
    return list(groups.values())


def _count(group: Group) -> int:
    return sum(device.count for device in group)


def _label(device: DeviceRecord, with_host: bool, *, of_group: bool = False) -> str:
    index = "" if of_group else device.detail.get("index", "")
    label = " ".join(part for part in (device.kind, index, device.name) if part)
    return f"{device.host}: {label}" if with_host and device.host else label


def _row(group: Group, label: str) -> Row:
    usages = [device.usage for device in group]
    methods = dict.fromkeys(METHOD_WORDS[device.method] for device in group if device.method)
    return (
        label,
        _energy(group),
        _range([usage.power_mean_watts for usage in usages], _format.watts),
        _range([usage.utilization_ratio for usage in usages], _format.percent),
        _range([usage.memory_max_bytes for usage in usages], lambda value: f"{_format.gigabytes(value)} GB"),
        ", ".join(methods),
    )


def _energy(group: Group) -> str:
    counted = [device.usage for device in group if device.method is not None]
    if not counted:
        return "-"
    known = [usage.energy_joules for usage in counted if usage.energy_joules is not None]
    if not known:
        return _format.NOT_MEASURED
    silent = len(counted) - len(known)
    return _format.energy(sum(known)) + (f" ({silent} {_format.NOT_MEASURED})" if silent else "")


def _range(values: list[float | None], write: Write) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return _format.interval(min(known), max(known), write) or write(known[0])
