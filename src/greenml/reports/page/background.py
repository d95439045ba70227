"""The background of a run: idle time, intensity by the hour, equivalents, factors, training, and the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from greenml.factors import tables
from greenml.record import idle as idleness
from greenml.record.schema import Factor, FactorRange, IntensitySeriesRecord, RunRecord, SourceRef
from greenml.reports import _format, _parts
from greenml.reports.card import sections
from greenml.reports.page.shell import Chart, Link
from greenml.units import JOULES_PER_KWH

MOST_ROWS = 80
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
    parameters = sections.hyperparameters(record)
    if not (record.metrics or record.derived or parameters):
        return None
    return Training(
        [(str(name), _value(value)) for name, value in list(record.metrics.items())[:MOST_ROWS]],
        [(_unit_name(name), _unit_figure(name, value)) for name, value in record.derived.items()],
        [(str(name), _value(value)) for name, value in list(parameters.items())[:MOST_ROWS]],
        max(len(parameters) - MOST_ROWS, 0),
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
    rows += [(f"host {host.name}", _host(host.model_dump())) for host in record.hosts[:MOST_ROWS]]
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
