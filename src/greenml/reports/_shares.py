"""Energy, carbon and cost by phase and by device: small charts, and the table with the same figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from greenml.record import DeviceRecord, PhaseRecord, Quantity, RunRecord, Totals
from greenml.reports import _devices, _format, _phases
from greenml.reports._bars import CARBON, ENERGY, MOST_BARS, Bar, Measure, bars, cost
from greenml.reports._page import Cell, Column, Markup, element, join, section, table, text

MOST_ROWS = 200  # of the table of phases


def _row_of_charts(charts: Sequence[Markup]) -> Markup:
    made = [one for one in charts if one]
    return element("div", *made, class_="trio") if made else Markup("")


def _known(quantity: Quantity | None, write: Callable[[float], str]) -> str:
    return _format.NOT_KNOWN if quantity is None or quantity.value is None else write(quantity.value)


# By phase


def by_phase(record: RunRecord) -> Markup:
    """Return the section; empty for a run without phases."""
    phases = _phases.ordered(record)
    run = record.total()
    if not phases or run is None:
        return Markup("")
    rest = _phases.remainder(record)
    tiers = list(run.cost_usd)
    top = [phase for phase in phases if "/" not in phase.path]
    charts = [
        bars(
            ENERGY,
            _phase_bars(record, top, lambda one: one.it_energy_joules, rest.energy_joules if rest else None),
            "phase",
        ),
        bars(
            CARBON,
            _phase_bars(record, top, lambda one: one.emissions_grams, rest.emissions_grams if rest else None),
            "phase",
        ),
    ]
    for tier in tiers[:1]:
        left = rest.cost_usd.get(tier) if rest else None
        charts.append(bars(cost(tier), _phase_bars(record, top, lambda one: one.cost_usd.get(tier), left), "phase"))  # noqa: B023
    words = "Energy is that of GPU, CPU and DRAM; carbon includes the PUE."
    if any("/" in phase.path for phase in phases):
        words += " A nested phase is part of the one above it; the charts show the outer ones."
    if rest is None:
        words += " Phases overlap in time, so that they add up to more than the run."
    return section(
        "By phase", _row_of_charts(charts), _phase_table(record, phases, rest, tiers),
        element("p", words, class_="muted small"), id="phases",
    )  # fmt: skip


def _phase_bars(
    record: RunRecord, phases: Sequence[PhaseRecord], pick: Callable[[Totals], Quantity | None], left: float | None
) -> list[Bar]:
    bars = []
    for phase in phases:
        total = record.total(phase.path)
        quantity = pick(total) if total is not None else None
        if quantity is not None:
            bars.append(Bar(phase.path, quantity.value, quantity.low, quantity.high))
    return [*bars, Bar("outside phases", left)] if left else bars


def _phase_table(
    record: RunRecord, phases: Sequence[PhaseRecord], rest: _phases.Remainder | None, tiers: Sequence[str]
) -> Markup:
    run = record.total()
    whole = run.it_energy_joules.value if run else None
    columns: list[str | Column] = [
        "phase", Column("time", True), Column("times", True), Column("energy", True), Column("of the run", True),
        Column("carbon", True), *(Column(f"cost, {_format.tier(tier)}", True) for tier in tiers),
        Column("GPU use", True),
    ]  # fmt: skip
    rows: list[list[str | Cell]] = []
    for phase in phases[:MOST_ROWS]:
        depth = phase.path.count("/")
        name = element("span", phase.path.rsplit("/", 1)[-1], class_=f"depth depth-{min(depth, 4)}" if depth else "")
        rows.append(
            [name, _format.duration(phase.seconds), str(phase.count), *_figures(record.total(phase.path), whole, tiers)]
        )
    if len(phases) > MOST_ROWS:
        rows.append([f"and {len(phases) - MOST_ROWS} more phases, see run.json", *[""] * (len(columns) - 1)])
    if rest is not None:
        cells = [
            _format.optional(rest.energy_joules, _format.energy, _format.NOT_KNOWN),
            _share(rest.energy_joules, whole),
            _format.optional(rest.emissions_grams, _format.mass, _format.NOT_KNOWN),
            *(_format.optional(rest.cost_usd.get(tier), _format.money, _format.NOT_KNOWN) for tier in tiers),
        ]
        rows.append(["outside phases", _format.duration(rest.seconds), "", *cells, ""])
    rows.append(["run", _format.duration(record.duration_seconds), "", *_figures(run, whole, tiers)])
    return table("Energy, carbon and cost by phase", columns, rows, quiet=True, last=True)


def _figures(total: Totals | None, whole: float | None, tiers: Sequence[str]) -> list[str | Cell]:
    if total is None:
        return [_format.NOT_KNOWN] * (4 + len(tiers))
    return [
        _known(total.it_energy_joules, _format.energy),
        _share(total.it_energy_joules.value, whole),
        _known(total.emissions_grams, _format.mass),
        *(_known(total.cost_usd.get(tier), _format.money) for tier in tiers),
        _format.optional(total.gpu_utilization_ratio, _format.percent, "-"),
    ]


def _share(value: float | None, whole: float | None) -> str:
    return "-" if value is None or not whole else _format.percent(value / whole)


# By device


def by_device(record: RunRecord) -> Markup:
    """Return the section; empty for a record without devices."""
    groups = _devices.groups(record)
    if not groups:
        return Markup("")
    run = record.total()
    labels = _devices.short_group_names(groups)
    counted = [
        (label, group)
        for label, (_, group) in zip(labels, groups, strict=True)
        if any(one.kind in ("gpu", "cpu", "dram") for one in group)
    ]
    energies = [(label, *_sums(group)) for label, group in counted]
    charts = [bars(ENERGY, [Bar(*one) for one in energies], "device")]
    whole = run.it_energy_joules.value if run else None
    measures: list[tuple[Measure, Quantity]] = []
    if run is not None and whole:
        tiers = list(run.cost_usd.items())
        measures = [(CARBON, run.emissions_grams), *((cost(tier), one) for tier, one in tiers)]
        for measure, quantity in [(CARBON, run.emissions_grams), *((cost(tier), one) for tier, one in tiers[:1])]:
            if quantity.value is not None:
                shares = [Bar(label, value and quantity.value * value / whole) for label, value, _, _ in energies]
                charts.append(bars(measure, shares, "device"))
    words = (
        "A device's carbon and cost are the run's, shared out by energy: a machine's price is not that of its parts."
        if measures
        else ""
    )
    return section(
        "By device", _row_of_charts(charts), _device_table(record, groups, measures, whole),
        element("p", words, class_="muted small") if words else "", id="devices",
    )  # fmt: skip


def _sums(group: Sequence[DeviceRecord]) -> tuple[float | None, float | None, float | None]:
    """Return a group's energy and band, of those devices that are known."""
    usages = [one.usage for one in group if one.usage.energy_joules is not None]
    if not usages:
        return None, None, None
    bands = all(one.energy_low_joules is not None and one.energy_high_joules is not None for one in usages)
    return (
        sum(one.energy_joules or 0.0 for one in usages),
        sum(one.energy_low_joules or 0.0 for one in usages) if bands else None,
        sum(one.energy_high_joules or 0.0 for one in usages) if bands else None,
    )


def _device_table(
    record: RunRecord,
    groups: Sequence[tuple[str, list[DeviceRecord]]],
    measures: Sequence[tuple[Measure, Quantity]],
    whole: float | None,
) -> Markup:
    columns: list[str | Column] = [
        "device", Column("energy", True),
        *(Column(measure.title.lower(), True) for measure, _ in measures),
        Column("mean power", True), Column("use", True), Column("memory peak", True), Column("covered", True),
        "known how",
    ]  # fmt: skip
    rows: list[list[str | Cell]] = []
    labels = _devices.short_group_names(groups)
    for label, (name, group), shown in zip(labels, groups, _devices.device_rows(record), strict=False):
        _, energy, power, use, memory, how = shown
        value, low, high = _sums(group)
        shares = [
            measure.write(quantity.value * value / whole) if value and whole and quantity.value is not None else "-"
            for measure, quantity in measures
        ]
        band = _format.interval(low, high, _format.energy)
        model = group[0].name if len(group) == 1 else name
        names, energies = _over(label, model if model != label else ""), _over(energy, band)
        known = [_covered(record, group), join_words(how, _why(group))]
        rows.append([names, energies, *shares, power, use, memory, *known])
    if len(groups) > MOST_BARS:
        rows.append([f"and {len(groups) - MOST_BARS} more kinds, see run.json", *[""] * (len(columns) - 1)])
    return table("Energy, carbon and cost by device", columns, rows, quiet=True)


def _over(upper: str, lower: str) -> Markup:
    """Return two lines of a cell, the lower one small."""
    return (
        join(element("span", upper, class_="upper"), element("span", lower, class_="lower")) if lower else text(upper)
    )


def _why(group: Sequence[DeviceRecord]) -> str:
    whys = dict.fromkeys(one.usage.why for one in group if one.usage.energy_joules is None and one.usage.why)
    return "; ".join(whys)


def join_words(*words: str) -> str:
    """Join what is there with a comma."""
    return ", ".join(word for word in words if word) or "-"


def _covered(record: RunRecord, group: Sequence[DeviceRecord]) -> str:
    """Write which share of the run's time the energy is known for, the least to the most of a group."""
    seconds = record.duration_seconds
    ratios = [
        min(one.usage.covered_seconds / seconds, 1.0) for one in group if one.usage.covered_seconds and seconds > 0
    ]
    if not ratios:
        return "-"
    return _format.interval(min(ratios), max(ratios), _format.percent) or _format.percent(ratios[0])
