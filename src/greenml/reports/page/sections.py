"""The sections of a report page.

First the figures: run, headlines, notes, by phase and by device as bars and tables, every figure with its interval.
Then the background: idle time, intensity by the hour, equivalents, factors, training, and the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Generic, TypeVar

from greenml.factors import tables
from greenml.record import idle as idleness
from greenml.record.schema import (
    DeviceRecord,
    Factor,
    FactorRange,
    IntensitySeriesRecord,
    Note,
    PhaseRecord,
    Quantity,
    RunRecord,
    SourceRef,
    Totals,
)
from greenml.reports import _format, _parts
from greenml.reports.card.sections import hyperparameters
from greenml.reports.page.shell import Chart, Link
from greenml.units import JOULES_PER_KWH

SHOWN_NOTES = 8
DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Head:
    """Name, status, hardware and place, time, and the error of a run that failed."""

    name: str
    status: str
    status_words: str
    lines: Sequence[str]
    error: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A headline figure: its number and unit, and small lines under it.

    Attributes:
        number: with thousands separated; words where the figure is not known.
        is_known: whether it is a figure.
    """

    number: str
    unit: str
    is_known: bool
    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """A headline: a title with one figure or several."""

    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table of all figures."""

    name: str
    value: str
    interval: str
    basis: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A note on the figures; ``at`` says when in the run it was made, empty for what was known at its start."""

    text: str
    at: str


def title(record: RunRecord) -> str:
    """Return the document's title."""
    return f"{record.name or record.run_id or 'run'}: energy, carbon and cost"


def head(record: RunRecord) -> Head:
    """Return the page's head: name, status, when, where and on what."""
    attempts = f" in {len(record.attempts)} attempts" if len(record.attempts) > 1 else ""
    place = record.place
    where = (
        _parts.machine(record) or _parts.hardware(record),
        place.cloud,
        place.billing_name or place.display_name or place.region,
        place.country_name,
    )
    lines = [" · ".join(dict.fromkeys(part for part in where if part)), f"{_format.when(record)}{attempts}"]
    return Head(
        record.name or record.run_id or "unnamed run",
        record.status,
        _format.STATUS_WORDS.get(record.status, record.status),
        [line for line in lines if line],
        record.error or "",
    )


def cards(record: RunRecord) -> list[Card]:
    """Return the headline figures: energy, carbon, cost in each tier, duration."""
    total = record.total()
    return [
        Card("Energy", [_energy(record, total)]),
        Card("Carbon", [_carbon(record, total)]),
        Card("Cost", _costs(record, total)),
        Card("Duration", [_figure(_length(record.duration_seconds), _duration_lines(record))]),
    ]


def _length(seconds: float) -> str:
    """Write a run's length for a headline, unbroken: ``43m 51s``; under a minute to the hundredth."""
    return (_format.duration if seconds < 60 else _format.clock)(seconds).replace(" ", "\u00a0")


def _figure(text: str, lines: Sequence[str]) -> Figure:
    is_known = any(letter.isdigit() for letter in text)
    bound = "at least " if text.startswith("at least ") else ""
    number, _, unit = text.removeprefix(bound).partition(" ") if is_known else (text, "", "")
    number = bound + re.sub(r"^\d{5,}", lambda digits: f"{int(digits[0]):,}", number)
    return Figure(number, unit, is_known, [line for line in lines if line])


def _energy(record: RunRecord, total: Totals | None) -> Figure:
    quantity = total.it_energy_joules if total else None
    if total is None or quantity is None or quantity.value is None:
        return _figure(_format.unknown(quantity, reason=False), [_format.reason(quantity)])
    by_basis: dict[str, list[str]] = {}
    parts = {"GPU": total.gpu_energy_joules, "CPU": total.cpu_energy_joules, "DRAM": total.dram_energy_joules}
    for name, part in parts.items():
        if part.value is not None:
            by_basis.setdefault(part.basis, []).append(name)
    basis = ", ".join(f"{' + '.join(names)} {basis}" for basis, names in by_basis.items())
    lines = [_format.interval_of(quantity, _format.energy), f"{basis}, partial" if quantity.why else basis]
    pue, facility = record.factors.pue, total.facility_energy_joules
    if pue is not None and facility.value is not None:
        lines.append(f"{_format.energy(facility.value)} with PUE {_format.number(pue.value, 4)}")
    return _figure(_format.figure(quantity, _format.energy), lines)


def _carbon(record: RunRecord, total: Totals | None) -> Figure:
    quantity = total.emissions_grams if total else None
    if total is None or quantity is None or quantity.value is None:
        return _figure(_format.unknown(quantity, reason=False), [_format.reason(quantity)])
    factor = record.factors.carbon_intensity
    lines = [_format.interval_of(quantity, _format.mass)]
    if factor is not None:
        scope = " ".join(part for part in (factor.scope.replace("_", " "), factor.code) if part)
        marginal = "marginal, " if record.factors.marginal else ""
        lines.append(f"{_format.number(factor.value, 4)} {factor.unit}, {marginal}{scope}")
    market = total.market_emissions_grams
    if market is not None and market.value is not None:
        lines.append(f"{_format.mass(market.value)} market-based")
    embodied = _format.span(total.embodied_grams, _format.mass)
    lines.append(f"beside it, {embodied} embodied" if embodied else "")
    return _figure(_format.figure(quantity, _format.mass), lines)


def _costs(record: RunRecord, total: Totals | None) -> list[Figure]:
    costs = total.cost_usd if total else {}
    if not costs:
        return [_figure(_format.NOT_KNOWN, [_parts.no_price(record)])]
    figures = []
    for tier, quantity in costs.items():
        price = record.factors.prices.get(tier)
        nodes = f" x {record.place.nodes} nodes" if record.place.nodes > 1 else ""
        derived = ", derived" if price is not None and price.derived else ""
        hourly = f"{_format.money(price.value)}/h{nodes}{derived}" if price else quantity.why
        lines = [", ".join(part for part in (_format.interval_of(quantity, _format.money), hourly) if part)]
        name = _format.tier(tier)
        if quantity.value is None:
            figures.append(Figure(f"{_format.NOT_KNOWN}, {name}", "", False, [line for line in lines if line]))
        else:
            figures.append(_figure(f"{_format.money(quantity.value)} {name}", lines))
    return figures


def _duration_lines(record: RunRecord) -> list[str]:
    gpus = sum(device.count for device in _parts.at_a_time(record, "gpu"))
    hosts = max((len(attempt.hosts) for attempt in record.attempts), default=0) or len(record.hosts)
    seconds = record.duration_seconds
    exact = _format.hours(seconds) if seconds >= DAY_SECONDS else _format.seconds(seconds)
    return [
        exact if seconds >= 60 else "",
        f"on {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "",
        f"{hosts} hosts" if hosts > 1 else "",
        f"{len(record.attempts)} attempts, summed" if len(record.attempts) > 1 else "",
    ]


def remarks(record: RunRecord) -> list[Remark]:
    """Return what a reader of the figures must know."""
    return [Remark(note.text, _when(note)) for note in record.notes]


def _when(note: Note) -> str:
    late = note.seconds is not None and note.seconds >= 1
    return f"at {_format.duration(note.seconds or 0.0)}" if late else ""


def figures(record: RunRecord) -> list[Row]:
    """Return every figure of the run: value, interval, and how it is known."""
    order = ("energy", "emissions", "footprint", "cost", "use", "serving", "reported")
    rows = sorted(_parts.figures(record), key=lambda figure: order.index(figure.group))
    return [
        Row(
            figure.label,
            figure.text,
            figure.interval,
            f"{figure.how}, as it is in {figure.file}" if figure.file else figure.how,
        )
        for figure in rows
    ]


MOST_ROWS = 200  # of the table of phases
MOST_BARS = 16
TableRow = TypeVar("TableRow")


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval, in SI; None is not known. A rest is what no other bar stands for."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_rest: bool = False


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A bar as it is drawn: lengths in percent of the chart's width, and its figures in words.

    Attributes:
        low_percent, high_percent: ends of the interval's whisker; None where there is no interval.
        is_rest: it stands for what is outside of phases, or for all other devices.
    """

    label: str
    figure: str
    interval: str
    percent: float
    low_percent: float | None
    high_percent: float | None
    is_rest: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """What the bars of a chart measure, how a value is written, and the colour's CSS class."""

    title: str
    write: Callable[[float], str]
    style: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart of horizontal bars."""

    title: str
    style: str
    bars: tuple[DrawnBar, ...]


ENERGY = Measure("Energy", _format.energy, "energy")
CARBON = Measure("Carbon", _format.mass, "carbon")
OUTSIDE = "outside phases"


def cost(tier: str) -> Measure:
    """Return the measure of a tier's cost."""
    return Measure(f"Cost, {_format.tier(tier)}", _format.money, "cost")


def draw_bars(measure: Measure, values: Sequence[Bar]) -> Bars | None:
    """Return the chart of bars; None where no value is known, or all are zero."""
    known = _largest([bar for bar in values if bar.value is not None])
    most = max((max(bar.value or 0.0, bar.high or 0.0) for bar in known), default=0.0)
    if most <= 0 or not any(bar.value for bar in known):
        return None
    return Bars(
        measure.title,
        measure.style,
        tuple(
            DrawnBar(
                bar.label,
                measure.write(bar.value or 0.0),
                _format.interval(bar.low, bar.high, measure.write),
                _percent(bar.value or 0.0, most),
                None if bar.low is None or bar.high is None else _percent(bar.low, most),
                None if bar.low is None or bar.high is None else _percent(bar.high, most),
                bar.is_rest,
            )
            for bar in known
        ),
    )


def _percent(value: float, most: float) -> float:
    return round(100 * min(max(value / most, 0.0), 1.0), 3)


def _largest(known: list[Bar]) -> list[Bar]:
    """Return the largest values in their order, and the others as one, where they are too many to draw."""
    if len(known) <= MOST_BARS:
        return known
    largest = sorted(known, key=lambda bar: bar.value or 0.0, reverse=True)[: MOST_BARS - 1]
    others = [bar for bar in known if bar not in largest]
    return [
        *(bar for bar in known if bar in largest),
        Bar(f"{len(others)} others", sum(bar.value or 0.0 for bar in others), is_rest=True),
    ]


# By phase


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A row of the table of phases; ``depth`` is how many phases it is nested in."""

    name: str
    figures: Sequence[str]
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Section(Generic[TableRow]):
    """The section by phase or by device: charts, the table's columns with their CSS class, rows, what they mean."""

    charts: Sequence[Bars]
    columns: Sequence[tuple[str, str]]
    rows: Sequence[TableRow]
    words: str


def by_phase(record: RunRecord) -> Section[PhaseRow] | None:
    """Return the section; None for a run without phases."""
    phases = _parts.phases(record)
    run = record.total()
    if not phases or run is None:
        return None
    rest = _parts.remainder(record)
    tiers = list(run.cost_usd)
    outer = [phase for phase in phases if "/" not in phase.path]
    charts = [
        draw_bars(
            ENERGY,
            _phase_bars(record, outer, lambda total: total.it_energy_joules, rest.energy_joules if rest else None),
        ),
        draw_bars(
            CARBON,
            _phase_bars(record, outer, lambda total: total.emissions_grams, rest.emissions_grams if rest else None),
        ),
    ]
    for tier in tiers[:1]:
        outside = rest.cost_usd.get(tier) if rest else None
        bars = _phase_bars(record, outer, lambda total: total.cost_usd.get(tier), outside)  # noqa: B023
        charts.append(draw_bars(cost(tier), bars))
    words = "Energy is that of GPU, CPU and DRAM; carbon includes the PUE."
    if any("/" in phase.path for phase in phases):
        words += " A nested phase is part of the one above it; the charts show the outer ones."
    if rest is None:
        words += " Phases overlap in time, so that they add up to more than the run."
    costs = [f"cost, {_format.tier(tier)}" for tier in tiers]
    columns = ["time", "times", "energy", "of the run", "carbon", *costs, "GPU use"]
    return Section(
        [chart for chart in charts if chart],
        [("phase", ""), *((name, "figure") for name in columns)],
        _phase_rows(record, phases, rest, tiers),
        words,
    )


def _phase_bars(
    record: RunRecord, phases: Sequence[PhaseRecord], pick: Callable[[Totals], Quantity | None], outside: float | None
) -> list[Bar]:
    bars = []
    for phase in phases:
        total = record.total(phase.path)
        quantity = pick(total) if total is not None else None
        if quantity is not None:
            bars.append(Bar(phase.path, quantity.value, quantity.low, quantity.high))
    return [*bars, Bar(OUTSIDE, outside, is_rest=True)] if outside else bars


def _phase_rows(
    record: RunRecord, phases: Sequence[PhaseRecord], rest: _parts.Remainder | None, tiers: Sequence[str]
) -> list[PhaseRow]:
    run = record.total()
    whole = run.it_energy_joules.value if run else None
    rows = [
        PhaseRow(
            phase.path.rsplit("/", 1)[-1],
            (
                _format.duration(phase.seconds),
                str(phase.count),
                *_phase_figures(record.total(phase.path), whole, tiers),
            ),
            min(phase.path.count("/"), 4),
        )
        for phase in phases[:MOST_ROWS]
    ]
    if len(phases) > MOST_ROWS:
        rows.append(PhaseRow(f"and {len(phases) - MOST_ROWS} more phases, see run.json", [""] * (6 + len(tiers))))
    if rest is not None:
        figures = (
            _format.optional(rest.energy_joules, _format.energy, _format.NOT_KNOWN),
            _share(rest.energy_joules, whole),
            _format.optional(rest.emissions_grams, _format.mass, _format.NOT_KNOWN),
            *(_format.optional(rest.cost_usd.get(tier), _format.money, _format.NOT_KNOWN) for tier in tiers),
        )
        rows.append(PhaseRow(OUTSIDE, (_format.duration(rest.seconds), "", *figures, "")))
    rows.append(PhaseRow("run", (_format.duration(record.duration_seconds), "", *_phase_figures(run, whole, tiers))))
    return rows


def _phase_figures(total: Totals | None, whole: float | None, tiers: Sequence[str]) -> list[str]:
    if total is None:
        return [_format.NOT_KNOWN] * (4 + len(tiers))
    return [
        _known(total.it_energy_joules, _format.energy),
        _share(total.it_energy_joules.value, whole),
        _known(total.emissions_grams, _format.mass),
        *(_known(total.cost_usd.get(tier), _format.money) for tier in tiers),
        _format.optional(total.gpu_utilization_ratio, _format.percent, "-"),
    ]


def _known(quantity: Quantity | None, write: Callable[[float], str]) -> str:
    return _format.NOT_KNOWN if quantity is None or quantity.value is None else write(quantity.value)


def _share(value: float | None, whole: float | None) -> str:
    return "-" if value is None or not whole else _format.percent(value / whole)


# By device


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A row of the table of devices; ``model`` and ``interval`` stand small under the name and the energy."""

    name: str
    model: str = ""
    energy: str = ""
    interval: str = ""
    figures: Sequence[str] = ()
    basis: str = ""


@dataclass(frozen=True, slots=True)
class _Shared:
    """Figures of the run that are shared out to its devices by energy."""

    measures: Sequence[tuple[Measure, Quantity]] = ()
    whole_joules: float = 0.0

    def of(self, joules: float | None) -> list[str]:
        return [
            measure.write(quantity.value * joules / self.whole_joules)
            if joules and self.whole_joules and quantity.value is not None
            else "-"
            for measure, quantity in self.measures
        ]


@dataclass(frozen=True, slots=True)
class _Energy:
    """The energy of a group of devices and its interval, of those devices that are known."""

    joules: float | None = None
    low: float | None = None
    high: float | None = None


def by_device(record: RunRecord) -> Section[DeviceRow] | None:
    """Return the section; None for a record without devices."""
    groups = _parts.groups(record)
    if not groups:
        return None
    labels = _parts.short_group_names(groups)
    energies = [
        (label, _device_energy(group))
        for label, (_, group) in zip(labels, groups, strict=True)
        if any(device.kind in ("gpu", "cpu", "dram") for device in group)
    ]
    charts = [draw_bars(ENERGY, [Bar(label, energy.joules, energy.low, energy.high) for label, energy in energies])]
    run = record.total()
    shared = _Shared()
    if run is not None and run.it_energy_joules.value:
        whole = run.it_energy_joules.value
        costs = [(cost(tier), usd) for tier, usd in run.cost_usd.items()]
        shared = _Shared([(CARBON, run.emissions_grams), *costs], whole)
        for measure, quantity in shared.measures[:2]:
            if quantity.value is not None:
                shares = [
                    Bar(label, energy.joules and quantity.value * energy.joules / whole) for label, energy in energies
                ]
                charts.append(draw_bars(measure, shares))
    words = (
        "A device's carbon and cost are the run's, shared out by energy: a machine's price is not that of its parts."
    )
    columns = [
        "energy",
        *(measure.title.lower() for measure, _ in shared.measures),
        "mean power",
        "use",
        "memory peak",
        "covered",
    ]
    return Section(
        [chart for chart in charts if chart],
        [("device", ""), *((name, "figure") for name in columns), ("known how", "")],
        _device_rows(record, groups, shared),
        words if shared.measures else "",
    )


def _device_energy(group: Sequence[DeviceRecord]) -> _Energy:
    usages = [device.usage for device in group if device.usage.energy_joules is not None]
    if not usages:
        return _Energy()
    known = all(usage.energy_low_joules is not None and usage.energy_high_joules is not None for usage in usages)
    return _Energy(
        sum(usage.energy_joules or 0.0 for usage in usages),
        sum(usage.energy_low_joules or 0.0 for usage in usages) if known else None,
        sum(usage.energy_high_joules or 0.0 for usage in usages) if known else None,
    )


def _device_rows(
    record: RunRecord, groups: Sequence[tuple[str, list[DeviceRecord]]], shared: _Shared
) -> list[DeviceRow]:
    rows = []
    labels = _parts.short_group_names(groups)
    for label, (name, group), texts in zip(labels, groups, _parts.device_rows(record), strict=False):
        _, energy, power, utilization, memory, method = texts
        known = _device_energy(group)
        model = group[0].name if len(group) == 1 else name
        figures = (*shared.of(known.joules), power, utilization, memory, _covered(record, group))
        rows.append(
            DeviceRow(
                label,
                model if model != label else "",
                energy,
                _format.interval(known.low, known.high, _format.energy),
                figures,
                ", ".join(part for part in (method, _why(group)) if part) or "-",
            )
        )
    if len(groups) > _parts.MOST_ROWS:
        blank = [""] * (4 + len(shared.measures))
        rows.append(DeviceRow(f"and {len(groups) - _parts.MOST_ROWS} more kinds, see run.json", figures=blank))
    return rows


def _why(group: Sequence[DeviceRecord]) -> str:
    usages = [device.usage for device in group]
    return "; ".join(dict.fromkeys(usage.why for usage in usages if usage.energy_joules is None and usage.why))


def _covered(record: RunRecord, group: Sequence[DeviceRecord]) -> str:
    """Write which share of the run's time the energy is known for, the least to the most of a group."""
    seconds = record.duration_seconds
    ratios = [
        min(device.usage.covered_seconds / seconds, 1.0)
        for device in group
        if device.usage.covered_seconds and seconds > 0
    ]
    if not ratios:
        return "-"
    return _format.interval(min(ratios), max(ratios), _format.percent) or _format.percent(ratios[0])


# The background

MOST_FACTS = 80  # rows of a table of what a run knows of itself
MOST_SLOTS = 100  # of the table of intensities
LONG = 300  # characters of a value
SAME_RATIO = 1e-9  # a smaller difference is that of the arithmetic
# Rows of data/equivalents.csv, and what so many of them are called.
EQUIVALENTS = (
    ("car_km_eu", "km in an average European passenger car"),
    ("car_km_us_2024", "km in an average US gasoline car"),
    ("smartphone_charge_2024", "smartphone charges"),
)
ENERGY_FROM = {
    "curves": "The energy of each slot is read off the measured curves.",
    "timeline": "The energy of each slot is read off the record's timeline.",
    "even": "The energy is taken to be even over the run, as its distribution over time is not known.",
}


# Idle


@dataclass(frozen=True, slots=True)
class Idle:
    """The section on idle time; ``why`` it is not known, or its shares, rows and remarks."""

    why: str = ""
    device: str = ""
    threshold: str = ""
    energy_share: str = ""
    time_share: str = ""
    rows: Sequence[tuple[str, str, str]] = ()
    words: str = ""


def idle(record: RunRecord) -> Idle:
    """Return what was idle and what it cost, or why that is not known."""
    shares = idleness.idle(record)
    if isinstance(shares, str):
        return Idle(why=f"Not known: {shares}.")
    name = "GPU" if shares.kind == "gpu" else "CPU"
    rows = [
        (
            "Energy while idle",
            _format.energy(shares.energy_joules),
            f"of {shares.devices} {name}{'s' if shares.devices > 1 else ''}",
        ),
        (
            "Carbon of that energy",
            _format.optional(shares.emissions_grams, _format.mass, _format.NOT_KNOWN),
            "its share of the run's emissions",
        ),
    ]
    for tier, usd in shares.cost_usd.items():
        rows.append(
            (f"Cost of that time, {_format.tier(tier)}", _format.money(usd), "the idle share of the paid hours")
        )
    words = f"From the timeline, whose bins are {shares.bin_seconds:g} s: idleness that is shorter is not seen."
    if shares.devices < shares.of_devices:
        words += f" {shares.of_devices - shares.devices} of {shares.of_devices} {name}s do not tell their utilization."
    return Idle(
        device=name,
        threshold=f"{idleness.IDLE_BELOW_RATIO:.0%}",
        energy_share=_format.percent(shares.energy_ratio),
        time_share=_format.percent(shares.time_ratio),
        rows=rows,
        words=words,
    )


# Carbon intensity over time


@dataclass(frozen=True, slots=True)
class Intensity:
    """The section on the carbon intensity over the hours of the run.

    Attributes:
        difference: by how much the emissions differ from those at the mean intensity; empty where not known.
        detail: the two masses, and the range of the intensity.
        rows: time, intensity and energy of each slot.
    """

    difference: str
    detail: str
    chart: Chart
    words: str
    source: Link
    rows: Sequence[tuple[str, str, str]]


def intensity(record: RunRecord) -> Intensity | None:
    """Return the section; None where one intensity counts for the whole run."""
    series = record.factors.intensity_series
    if series is None or not series.slots:
        return None
    words = [
        f"{series.signal.capitalize()} intensity of {series.area or 'the place'}, by {series.provider}.",
        ENERGY_FROM[series.energy_from],
    ]
    if series.filled_grams_per_kwh is not None:
        words.append(f"Hours outside of the series take {_per_kwh(series.filled_grams_per_kwh)}.")
    words.append("Times are UTC.")
    rows = [
        (
            f"{_format.minute(slot.start)} to {_format.minute(slot.end)}",
            _per_kwh(slot.grams_per_kwh),
            _format.energy(slot.it_energy_joules.get("run", 0.0)),
        )
        for slot in series.slots[:MOST_SLOTS]
    ]
    if len(series.slots) > MOST_SLOTS:
        rows.append((f"and {len(series.slots) - MOST_SLOTS} more, see run.json", "", ""))
    return Intensity(
        *_difference(record, series),
        chart=_intensity_chart(series),
        words=" ".join(words),
        source=_source(series.source),
        rows=rows,
    )


def _per_kwh(value: float) -> str:
    return f"{_format.number(value, 4)} g CO2e/kWh"


def _difference(record: RunRecord, series: IntensitySeriesRecord) -> tuple[str, str]:
    """Say by how much the emissions differ from those of the same energy at the mean over the run's time."""
    total = record.total()
    mean, even = series.time_mean_grams_per_kwh, _parts.even_grams(record)
    if total is None or total.emissions_grams.value is None or mean is None or not even:
        return "", ""
    grams = total.emissions_grams.value
    ratio = (grams - even) / even
    way = "less than" if ratio < 0 else "more than"
    size = _format.mass(abs(grams - even)) if abs(ratio) > SAME_RATIO else ""
    return (
        f"{size} ({_format.percent(abs(ratio))}) {way}" if size else "the same as",
        f"{_format.mass(grams)} instead of {_format.mass(even)}. The intensity went from "
        f"{_per_kwh(series.low_grams_per_kwh)} to {_per_kwh(series.high_grams_per_kwh)}, "
        f"with a mean of {_per_kwh(mean)} over the time.",
    )


def _intensity_chart(series: IntensitySeriesRecord) -> Chart:
    mean = series.time_mean_grams_per_kwh
    ends = [_stamp(series.slots[0].start), _stamp(series.slots[-1].end)]
    middle = [_stamp(slot.start + (slot.end - slot.start) / 2) for slot in series.slots]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "name": "IT energy", "x": middle, "yaxis": "y2",
            "marker": {"color": "var(--series-6)", "opacity": 0.35},
            "y": [slot.it_energy_joules.get("run", 0.0) / JOULES_PER_KWH for slot in series.slots],
            "width": [(slot.end - slot.start).total_seconds() * 1000 for slot in series.slots],
            "hovertemplate": "%{y:.4~r} kWh",
        },
        {
            "type": "scatter", "mode": "lines", "name": "intensity", **_intensity_steps(series),
            "line": {"color": "var(--series-3)", "width": 2}, "hovertemplate": "%{y:.4~r} g CO2e/kWh",
        },
    ]  # fmt: skip
    if mean is not None:
        dashed = {"color": "var(--muted)", "width": 1.2, "dash": "dash"}
        traces.append(
            {"type": "scatter", "mode": "lines", "x": ends, "y": [mean, mean], "hoverinfo": "skip", "line": dashed}
        )
    layout = {
        "hovermode": "x unified", "xaxis": {"type": "date"}, "margin": {"r": 56},
        # The line lies over the bars: the axis of the bars is the lower one.
        "yaxis": {
            "title": {"text": "g CO2e/kWh"}, "rangemode": "tozero", "fixedrange": True, "overlaying": "y2",
            "side": "left", "tickmode": "auto",
        },
        "yaxis2": {
            "title": {"text": "IT energy, kWh"}, "side": "right", "rangemode": "tozero", "fixedrange": True,
            "showgrid": False,
        },
    }  # fmt: skip
    low, high = _per_kwh(series.low_grams_per_kwh), _per_kwh(series.high_grams_per_kwh)
    return Chart(
        {"data": traces, "layout": layout},
        f"Carbon intensity over the run, from {low} to {high}, with the energy used in each slot.",
        caption="Line: carbon intensity, dashed its mean over the time. Bars: IT energy in each slot.",
    )


def _stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _intensity_steps(series: IntensitySeriesRecord) -> dict[str, list[Any]]:
    """Return each slot's intensity from its start to its end; nothing over what no slot covers."""
    at: list[str | None] = []
    grams: list[float | None] = []
    last: datetime | None = None
    for slot in series.slots:
        if last is not None and slot.start > last:
            at.append(None)
            grams.append(None)
        at += [_stamp(slot.start), _stamp(slot.end)]
        grams += [slot.grams_per_kwh, slot.grams_per_kwh]
        last = slot.end
    return {"x": at, "y": grams}


# Equivalents


@dataclass(frozen=True, slots=True)
class Equivalent:
    """So many of a thing emit as much.

    Attributes:
        count, low, high: how many; the interval is that of the emissions alone.
        each_grams: what each emits, g CO2 or CO2e as ``unit`` says.
        source: of that figure.
    """

    name: str
    count: float
    low: float | None
    high: float | None
    each_grams: float
    unit: str
    source: Link

    @property
    def texts(self) -> tuple[str, str, str]:
        """The count, its interval, and what each emits, in words."""
        return (
            _count(self.count),
            _format.interval(self.low, self.high, _count),
            f"{_format.number(self.each_grams, 4)} {self.unit} each",
        )


def equivalents(grams: float | None, low: float | None = None, high: float | None = None) -> list[Equivalent]:
    """Return what emits as much, in things that people know; nothing where the emissions are not known.

    Args:
        grams: CO2e.
        low: of their interval.
        high: of their interval.
    """
    if grams is None:
        return []
    rows = {row["id"]: row for row in tables.rows("equivalents")}
    equivalents = []
    for key, name in EQUIVALENTS:
        row = rows[key]
        each = float(row["value"])
        source = tables.source(row["source"], row["source_date"])
        equivalents.append(
            Equivalent(
                name=name,
                count=grams / each,
                low=None if low is None else low / each,
                high=None if high is None else high / each,
                each_grams=each,
                unit=f"g {row['unit'][1:]}",
                source=_source(SourceRef(name=source.name, url=source.url, published=source.published)),
            )
        )
    return equivalents


def _count(value: float) -> str:
    return f"{round(value):,}" if value >= 1000 else _format.number(value, 3)


def _source(ref: SourceRef) -> Link:
    return Link(_format.source(ref), ref.url)


# Factors


@dataclass(frozen=True, slots=True)
class FactorRow:
    """A factor with its value, its interval, what it is of, its sources, and a note."""

    name: str
    value: str = _format.NOT_KNOWN
    interval: str = ""
    scope: str = ""
    sources: Sequence[Link] = ()
    note: str = ""


def factors(record: RunRecord) -> list[FactorRow]:
    """Return what was assumed, with intervals, sources and dates."""
    assumed = record.factors
    rows = [_factor("Carbon intensity", assumed.carbon_intensity), _factor("PUE", assumed.pue)]
    if assumed.other_basis is not None:
        rows.insert(1, _factor(f"Carbon intensity, {assumed.other_basis.basis} basis", assumed.other_basis))
    if assumed.market_intensity is not None:
        rows.append(_factor("Carbon intensity, market-based", assumed.market_intensity))
    if assumed.wue is not None:
        rows.append(_factor("Water on site", assumed.wue))
    rows += [_factor(f"Price, {_format.tier(tier)}", price) for tier, price in assumed.prices.items()]
    if not assumed.prices:
        rows.append(_factor("Price", None))
    rows += [_range(f"Embodied carbon of one {spread.code}", spread) for spread in assumed.embodied]
    if assumed.lifetime is not None:
        rows.append(_range("Lifetime", assumed.lifetime))
    return rows


def factors_words(record: RunRecord) -> str:
    """Say which tables the factors are from, and who named the place."""
    version = record.factors.tables_version
    known_from = ", ".join(f"{name} from {where}" for name, where in record.place.known_from.items())
    words = (f"From the tables of {version}." if version else "", f"Known: {known_from}." if known_from else "")
    return " ".join(part for part in words if part)


def _factor(name: str, factor: Factor | None) -> FactorRow:
    if factor is None:
        return FactorRow(name)
    unit = "" if factor.unit == "1" else factor.unit

    def write(value: float) -> str:
        return f"{_format.number(value, 4)} {unit}".strip()

    scope = "no figure for the place" if factor.scope == "none" else factor.scope.replace("_", " ")
    facts = (
        " ".join(part for part in (scope, factor.code) if part), str(factor.year or ""), factor.basis,
        "derived" if factor.derived else "", "assumed" if factor.assumed else "",
    )  # fmt: skip
    return FactorRow(
        name,
        write(factor.value),
        _format.interval(factor.low, factor.high, write),
        ", ".join(fact for fact in facts if fact),
        [_source(factor.source)],
        factor.note,
    )


def _range(name: str, spread: FactorRange) -> FactorRow:
    def write(value: float) -> str:
        if spread.unit in ("s", "seconds"):
            return f"{_format.number(value / _parts.SECONDS_PER_YEAR, 3)} years"
        if spread.unit == "g CO2e":
            return _format.mass(value)
        return f"{_format.number(value, 4)} {spread.unit}"

    return FactorRow(
        name,
        "a range",
        _format.interval(spread.low, spread.high, write),
        f"{_format.number(spread.count, 4)} of them took part" if spread.count != 1 else "",
        [_source(source) for source in spread.sources],
        spread.note,
    )


# Training


@dataclass(frozen=True, slots=True)
class Training:
    """Results, figures per unit of work, and hyperparameters, each as name and value."""

    results: Sequence[tuple[str, str]]
    per_unit: Sequence[tuple[str, str]]
    parameters: Sequence[tuple[str, str]]
    more_parameters: int


def training(record: RunRecord) -> Training | None:
    """Return what was trained; None where nothing is known of it."""
    parameters = hyperparameters(record)
    if not (record.metrics or record.derived or parameters):
        return None
    return Training(
        [(str(name), _value(value)) for name, value in list(record.metrics.items())[:MOST_FACTS]],
        [(_unit_name(name), _unit_figure(name, value)) for name, value in record.derived.items()],
        [(str(name), _value(value)) for name, value in list(parameters.items())[:MOST_FACTS]],
        max(len(parameters) - MOST_FACTS, 0),
    )


def _unit_name(name: str) -> str:
    return name.replace("_", " ").replace("emissions grams", "emissions").replace("cost usd", "cost")


def _unit_figure(name: str, value: float) -> str:
    if name.startswith("emissions_grams"):
        return _format.mass(value)
    if name.startswith("cost_usd"):
        return _format.money(value)
    if name.startswith("joules"):
        return f"{_format.significant(value)} J"
    return _format.number(value, 5)


def _value(value: Any) -> str:  # noqa: ANN401  what a run logged
    if isinstance(value, float):
        return _format.number(value, 6) if abs(value) >= 1e-4 or value == 0 else f"{value:.6g}"
    written = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return written if len(written) <= LONG else f"{written[:LONG]}\u2026"


# Environment


@dataclass(frozen=True, slots=True)
class Environment:
    """Hosts, versions, commit and command of a run, and its packages, each as name and value."""

    facts: Sequence[tuple[str, str]]
    command: str
    packages: Sequence[tuple[str, str]]


def environment(record: RunRecord) -> Environment | None:
    """Return what ran; None where nothing is known of it."""
    ran = record.environment
    dirty = ", with changes that were not committed" if ran.git_dirty else ""
    facts = {
        "Python": ran.python, "system": ran.os, "driver": ran.driver,
        "commit": f"{ran.git_commit}{dirty}" if ran.git_commit else "", "launcher": ran.launcher,
        "processes": str(ran.world_size or ""), **ran.jobs,
    }  # fmt: skip
    rows: list[tuple[str, str]] = [(name, value) for name, value in facts.items() if value]
    rows += [(f"host {host.name}", _host(host.model_dump())) for host in record.hosts[:MOST_FACTS]]
    if not (rows or ran.command or ran.packages):
        return None
    return Environment(rows, " ".join(ran.command), sorted(ran.packages.items()))


def _host(facts: Mapping[str, Any]) -> str:
    memory = facts.get("memory_bytes")
    parts = (
        facts.get("cpu_model"), f"{facts['cpu_count']} CPUs" if facts.get("cpu_count") else "",
        f"{_format.gigabytes(memory)} GB" if memory else "", facts.get("os"), facts.get("cloud"),
    )  # fmt: skip
    return ", ".join(str(part) for part in parts if part) or _format.NOT_KNOWN
