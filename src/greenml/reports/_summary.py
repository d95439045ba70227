"""The head of a report page: what run it was, its headline figures, and every figure with its band."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from greenml.record import Note, Quantity, ReportedEmissions, RunRecord, Totals
from greenml.reports import _footprint, _format, _machine
from greenml.reports._page import Column, Markup, element, join, section, table, text
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH

SHOWN_NOTES = 8
DAY_SECONDS = 86400.0
Write = Callable[[float], str]


def head(record: RunRecord) -> Markup:
    """Return the page's head: name, status, when, where and on what."""
    words = _format.STATUS_WORDS.get(record.status, record.status)
    status = element("span", words, class_=f"status {record.status}")
    attempts = f" in {len(record.attempts)} attempts" if len(record.attempts) > 1 else ""
    when = f"{_format.when(record)}{attempts}"
    place = record.place
    hardware, machine = _machine.hardware(record), _machine.machine(record)
    where = (
        machine or hardware,
        place.cloud,
        place.billing_name or place.display_name or place.region,
        place.country_name,
    )
    lines = [" · ".join(dict.fromkeys(part for part in where if part)), when]
    return element(
        "header",
        element("p", "Training run ", status, class_="kicker"),
        element("h1", record.name or record.run_id or "unnamed run"),
        *(element("p", line, class_="muted under") for line in lines if line),
        element("p", record.error, class_="error") if record.error else "",
    )


def cards(record: RunRecord) -> Markup:
    """Return the headline figures: energy, carbon, cost in each tier, duration."""
    total = record.total()
    made = [
        _card("Energy", *_energy_card(record, total)),
        _card("Carbon", *_carbon_card(record, total)),
        _cost_card(record, total),
        _card("Duration", _length(record.duration_seconds), _duration_lines(record)),
    ]
    return element(
        "section", element("h2", "Headline", class_="quiet"), element("dl", *made, class_="cards"), id="headline"
    )


def _length(seconds: float) -> str:
    """Write a run's length for a headline, unbroken: ``43m 51s``; under a minute to the hundredth."""
    return (_format.duration if seconds < 60 else _format.clock)(seconds).replace(" ", "\u00a0")


def _card(title: str, figure: str, lines: Sequence[str]) -> Markup:
    known = any(letter.isdigit() for letter in figure)
    told = [element("dd", line, class_="told") for line in lines if line]
    return element("div", element("dt", title), _big(figure, known=known), *told)


def _big(figure: str, *, known: bool) -> Markup:
    number, _, unit = figure.partition(" ") if known else (figure, "", "")
    number = re.sub(r"^\d{5,}", lambda found: f"{int(found[0]):,}", number)
    written = join(number, element("span", unit, class_="unit")) if unit else text(number)
    return element("dd", written, class_="big" if known else "big unknown")


def _band(quantity: Quantity, write: Write) -> str:
    return _format.band(quantity, write)


def _energy_card(record: RunRecord, total: Totals | None) -> tuple[str, list[str]]:
    quantity = total.it_energy_joules if total else None
    if total is None or quantity is None or quantity.value is None:
        return _format.unknown(quantity, reason=False), [_format.reason(quantity)]
    by_basis: dict[str, list[str]] = {}
    parts = {"GPU": total.gpu_energy_joules, "CPU": total.cpu_energy_joules, "DRAM": total.dram_energy_joules}
    for name, part in parts.items():
        if part.value is not None:
            by_basis.setdefault(part.basis, []).append(name)
    how = ", ".join(f"{' + '.join(names)} {basis}" for basis, names in by_basis.items())
    lines = [_band(quantity, _format.energy), f"{how}, partial" if quantity.why else how]
    pue, facility = record.factors.pue, total.facility_energy_joules
    if pue is not None and facility.value is not None:
        lines.append(f"{_format.energy(facility.value)} with PUE {_format.number(pue.value, 4)}")
    return _format.energy(quantity.value), lines


def _carbon_card(record: RunRecord, total: Totals | None) -> tuple[str, list[str]]:
    quantity = total.emissions_grams if total else None
    if total is None or quantity is None or quantity.value is None:
        return _format.unknown(quantity, reason=False), [_format.reason(quantity)]
    factor = record.factors.carbon_intensity
    lines = [_band(quantity, _format.mass)]
    if factor is not None:
        found = " ".join(part for part in (factor.scope.replace("_", " "), factor.code) if part)
        marginal = "marginal, " if record.factors.marginal else ""
        lines.append(f"{_format.number(factor.value, 4)} {factor.unit}, {marginal}{found}")
    market = total.market_emissions_grams
    if market is not None and market.value is not None:
        lines.append(f"{_format.mass(market.value)} market-based")
    embodied = _format.span(total.embodied_grams, _format.mass)
    lines.append(f"beside it, {embodied} embodied" if embodied else "")
    return _format.mass(quantity.value), lines


def _cost_card(record: RunRecord, total: Totals | None) -> Markup:
    costs = total.cost_usd if total else {}
    if not costs:
        why = f"no price for {record.place.sku}" if record.place.sku else "no SKU and no price given"
        return _card("Cost", _format.NOT_KNOWN, [why])
    lines: list[Markup] = []
    for tier, quantity in costs.items():
        name = _format.tier(tier)
        figure = f"{_format.NOT_KNOWN}, {name}" if quantity.value is None else f"{_format.money(quantity.value)} {name}"
        lines.append(_big(figure, known=quantity.value is not None))
        price = record.factors.prices.get(tier)
        nodes = f" x {record.place.nodes} nodes" if record.place.nodes > 1 else ""
        each = f"{_format.money(price.value)}/h{nodes}{', derived' if price.derived else ''}" if price else quantity.why
        band = _format.band(quantity, _format.money)
        lines += [element("dd", line, class_="told") for line in (f"{band}, {each}" if band else each,) if line]
    return element("div", element("dt", "Cost"), *lines)


def _duration_lines(record: RunRecord) -> list[str]:
    gpus = sum(device.count for device in _machine.at_a_time(record, "gpu"))
    hosts = max((len(one.hosts) for one in record.attempts), default=0) or len(record.hosts)
    seconds = record.duration_seconds
    exact = _format.hours(seconds) if seconds >= DAY_SECONDS else _format.seconds(seconds)
    return [
        exact if seconds >= 60 else "",
        f"on {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "",
        f"{hosts} hosts" if hosts > 1 else "",
        f"{len(record.attempts)} attempts, summed" if len(record.attempts) > 1 else "",
    ]


def notes(record: RunRecord) -> Markup:
    """Return what a reader of the figures must know; empty where there is nothing."""
    if not record.notes:
        return Markup("")
    lines = [element("li", note.text, _at(note)) for note in record.notes]
    first = element("ul", *lines[:SHOWN_NOTES])
    rest = lines[SHOWN_NOTES:]
    more = element("details", element("summary", f"{len(rest)} more"), element("ul", *rest)) if rest else Markup("")
    return section("Notes on the figures", element("div", first, more, class_="notes"), id="notes")


def _at(note: Note) -> Markup:
    """Say when in the run a note was made; nothing of what was known at its start."""
    late = note.seconds is not None and note.seconds >= 1
    return element("span", f" at {_format.duration(note.seconds or 0.0)}", class_="muted") if late else Markup("")


def figures(record: RunRecord) -> Markup:
    """Return every figure of the run: value, band, and how it is known."""
    total = record.total()
    rows: list[tuple[str, str, str, str]] = []
    if total is not None:
        rows += [
            _energy_row("GPU energy", record, "gpu", total.gpu_energy_joules),
            _energy_row("CPU energy", record, "cpu", total.cpu_energy_joules),
            _energy_row("DRAM energy", record, "dram", total.dram_energy_joules),
            _row("IT energy", total.it_energy_joules, _format.energy),
            _row("with PUE", total.facility_energy_joules, _format.energy),
            _row(_format.emissions_name(record), total.emissions_grams, _format.mass),
            *_footprint.rows(record),
            *(_row(f"Cost, {_format.tier(tier)}", one, _format.money) for tier, one in total.cost_usd.items()),
            ("GPU utilization", _format.optional(total.gpu_utilization_ratio, _format.percent), "", ""),
            ("CPU utilization", _format.optional(total.cpu_utilization_ratio, _format.percent), "", ""),
            ("GPU memory, mean", _gigabytes(total.gpu_memory_mean_bytes), "", "mean over the used GPUs"),
            ("GPU memory, peak", _gigabytes(total.gpu_memory_peak_bytes), "", "mean over the used GPUs of their peaks"),
            ("Host memory, peak", _gigabytes(total.host_memory_peak_bytes), "", ""),
        ]  # fmt: skip
    for reported in record.reported:
        rows += _reported_rows(reported)
    if not rows:
        return section("All figures", element("p", "The record has no totals.", class_="muted"), id="figures")
    columns: list[str | Column] = ["figure", Column("value", True), Column("band", True), "known how"]
    return section("All figures", table("Every figure of the run", columns, rows, quiet=True), id="figures")


def _gigabytes(value: float | None) -> str:
    return _format.optional(value, lambda one: f"{_format.gigabytes(one)} GB")


def _row(name: str, quantity: Quantity | None, write: Write) -> tuple[str, str, str, str]:
    if quantity is None or quantity.value is None:
        return name, _format.unknown(quantity, reason=False), "", _format.reason(quantity)
    how = f"{quantity.basis}; {quantity.why}" if quantity.why else quantity.basis
    return name, write(quantity.value), _format.band(quantity, write), how


def _energy_row(name: str, record: RunRecord, kind: str, quantity: Quantity) -> tuple[str, str, str, str]:
    made = _row(name, quantity, _format.energy)
    return (*made[:3], _format.known_how(record, kind, quantity)) if quantity.value is not None else made


def _reported_rows(reported: ReportedEmissions) -> list[tuple[str, str, str, str]]:
    tool = _format.SENSOR_NAMES.get(reported.tool, reported.tool)
    scope = "the run" if reported.scope == "run" else reported.scope
    rows = []
    for name, key, size, write in (
        ("Energy", "energy_consumed", JOULES_PER_KWH, _format.energy),
        ("Emissions", "emissions", GRAMS_PER_KG, _format.mass),
    ):
        try:
            value = write(float(reported.row[key]) * size)
        except (KeyError, ValueError):
            value = _format.NOT_KNOWN
        rows.append((f"{name} of {scope}", value, "", f"reported by {tool}, as it is in {reported.file}"))
    return rows
