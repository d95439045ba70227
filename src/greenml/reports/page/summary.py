"""Builds the head of a report page: run, headline figures, notes, and every figure with its interval."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from greenml.record.schema import Note, RunRecord, Totals
from greenml.reports import _figures, _format, _parts

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
        return [_figure(_format.NOT_KNOWN, [_figures.no_price(record)])]
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
    rows = sorted(_figures.figures(record), key=lambda figure: order.index(figure.group))
    return [
        Row(
            figure.label,
            figure.text,
            figure.interval,
            f"{figure.how}, as it is in {figure.file}" if figure.file else figure.how,
        )
        for figure in rows
    ]
