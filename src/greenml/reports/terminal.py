"""A summary for a terminal: plain characters, good at 80 columns, colours on request."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.box import Box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from greenml import printable
from greenml.record import Quantity, RunRecord, Totals
from greenml.reports import _course, _footprint, _format, _machine, _reported, markdown
from greenml.reports._devices import device_rows
from greenml.reports._phases import ordered, remainder

RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
Write = Callable[[float], str]
WIDE_COLUMNS = 80  # from here on figures and their bands have room beside what says how they are known
STATUS_STYLES = {"completed": "green", "running": "cyan"}


def render(record: RunRecord, width: int = 100, color: bool = False, pounds: bool = False) -> str:
    """Render the headline, the figures, phases, devices, factors and notes.

    Args:
        record: the run.
        width: columns to fill, at least 60.
        color: with ANSI colours.
        pounds: masses in lb, in place of kg.
    """
    stream = io.StringIO()
    console = _Screen(
        file=stream,
        width=max(width, 60),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    for part in _parts(record, _format.pounds if pounds else _format.mass, narrow=width < WIDE_COLUMNS):
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip() + "\n"


class _Screen(Console):
    """A console on which no name of a record steers the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  handed on
        """Make the text of a cell."""
        return super().render_str(printable.lines(text), **options)


def _parts(record: RunRecord, mass: Write, *, narrow: bool) -> list[RenderableType]:
    figures = _figures(record, mass, narrow=narrow)
    parts: list[RenderableType] = [*_headline(record), "", *_section("Totals of the whole run", figures)]
    if record.phases:
        parts += _section("Phases", _phases(record, mass))
    if record.devices:
        parts += _section("Devices", _devices(record))
    parts += _section("Factors", _factors(record))
    if record.notes:
        parts += _section("Notes", _list([note.text for note in record.notes]))
    return parts


def _section(title: str, body: RenderableType) -> list[RenderableType]:
    return [Text(title, style="bold"), Padding(body, (0, 0, 0, 1)), ""]


def _headline(record: RunRecord) -> list[RenderableType]:
    words = _format.STATUS_WORDS.get(record.status, record.status)
    head = Text(printable.line(record.name or record.run_id), style="bold")
    head.append("  ")
    head.append(words, style=STATUS_STYLES.get(record.status, "red"))
    lines: list[RenderableType] = [head]
    attempts = f" in {len(record.attempts)} attempts" if len(record.attempts) > 1 else ""
    lines.append(Text(f"{_format.duration(record.duration_seconds)}{attempts}, {_format.when(record)}"))
    place = record.place
    where = ", ".join(
        dict.fromkeys(
            part
            for part in (
                _machine.machine(record) or _machine.hardware(record),
                place.cloud,
                place.billing_name or place.display_name or place.region,
                place.country_name,
            )
            if part
        )
    )
    if where:
        lines.append(Text(printable.line(where)))
    if record.error:
        lines.append(Text(printable.line(record.error), style="red"))
    return lines


def _table(
    *columns: str,
    right: frozenset[int] = frozenset(),
    whole: frozenset[int] = frozenset(),
    header: bool = True,
) -> Table:
    """Return an empty table; ``right`` columns are figures, ``whole`` ones never wrap."""
    table = Table(box=RULE if header else None, show_header=header, show_edge=False, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold", no_wrap=index in whole)
    return table


def _figures(record: RunRecord, mass: Write, *, narrow: bool) -> Table:
    whole = frozenset[int]() if narrow else frozenset({0, 1, 2})  # what does not fit must wrap: a cut figure is wrong
    table = _table("", "value", "band", "known how", whole=whole)
    total = record.total()
    table.add_row(*_energy_row("GPU energy", record, "gpu", total.gpu_energy_joules if total else None))
    table.add_row(*_energy_row("CPU energy", record, "cpu", total.cpu_energy_joules if total else None))
    table.add_row(*_energy_row("DRAM energy", record, "dram", total.dram_energy_joules if total else None))
    table.add_row(*_row("IT energy", total.it_energy_joules if total else None, _format.energy))
    table.add_row(*_row("with PUE", total.facility_energy_joules if total else None, _format.energy))
    table.add_row(*_row(_format.emissions_name(record), total.emissions_grams if total else None, mass))
    for tier, cost in (total.cost_usd if total else {}).items():
        table.add_row(*_row(f"Cost, {_format.tier(tier)}", cost, _format.money))
    if total is None or not total.cost_usd:
        table.add_row("Cost", _format.NOT_KNOWN, "", markdown.no_price(record))
    for name, value in _use(total):
        table.add_row(name, value, "", "")
    for row in [*_told(record, mass), *_footprint.rows(record, mass)]:
        table.add_row(*row)
    return table


def _told(record: RunRecord, mass: Write) -> list[tuple[str, str, str, str]]:
    rows = []
    for reported in record.reported:
        tool = _format.SENSOR_NAMES.get(reported.tool, reported.tool)
        for name, value, write in (
            ("energy", _reported.energy_joules(reported), _format.energy),
            ("emissions", _reported.emissions_grams(reported), mass),
        ):
            told = _format.optional(value, write, _format.NOT_KNOWN)
            rows.append((f"{reported.scope} {name}", told, "", f"reported ({tool})"))
    return rows


def _use(total: Totals | None) -> list[tuple[str, str]]:
    if total is None:
        return []
    memory = _format.NOT_MEASURED
    if total.gpu_memory_mean_bytes is not None or total.gpu_memory_peak_bytes is not None:
        mean = _format.optional(total.gpu_memory_mean_bytes, _format.gigabytes)
        memory = f"{mean}/{_format.optional(total.gpu_memory_peak_bytes, _format.gigabytes)} GB"
    host = _format.optional(total.host_memory_peak_bytes, lambda value: f"{_format.gigabytes(value)} GB")
    return [
        ("GPU utilization", _format.optional(total.gpu_utilization_ratio, _format.percent)),
        ("CPU utilization", _format.optional(total.cpu_utilization_ratio, _format.percent)),
        ("GPU memory avg/peak", memory),
        ("Host memory peak", host),
    ]


def _row(name: str, quantity: Quantity | None, write: Callable[[float], str]) -> tuple[str, str, str, str]:
    how = _format.reason(quantity)
    if quantity is not None and quantity.value is not None:
        how = f"{quantity.basis}, partial" if quantity.why else quantity.basis
    return name, _format.figure(quantity, write, reason=False), _format.band(quantity, write), how


def _energy_row(name: str, record: RunRecord, kind: str, quantity: Quantity | None) -> tuple[str, str, str, str]:
    how = _format.reason(quantity)
    if quantity is not None and quantity.value is not None:
        how = _format.known_how(record, kind, quantity)
    return (
        name,
        _format.figure(quantity, _format.energy, reason=False),
        _format.band(quantity, _format.energy),
        how,
    )


def _phases(record: RunRecord, mass: Write) -> Table:
    table = _table("phase", "time", "times", "IT energy", "emissions", "GPU use", right=frozenset({1, 2, 3, 4, 5}))
    for phase in ordered(record):
        depth = phase.path.count("/")
        total = record.total(phase.path)
        table.add_row(
            "  " * depth + phase.path.rsplit("/", 1)[-1],
            _format.duration(phase.seconds),
            str(phase.count),
            *_phase_figures(total, mass),
        )
    _add_remainder(table, record, mass)
    return table


def _phase_figures(total: Totals | None, mass: Write) -> tuple[str, str, str]:
    if total is None:
        return (_format.NOT_KNOWN, _format.NOT_KNOWN, _format.NOT_KNOWN)
    return (
        _short(total.it_energy_joules, _format.energy),
        _short(total.emissions_grams, mass),
        _format.optional(total.gpu_utilization_ratio, _format.percent, _format.NOT_KNOWN),
    )


def _short(quantity: Quantity, write: Callable[[float], str]) -> str:
    return _format.optional(quantity.value, write, _format.NOT_KNOWN)


def _add_remainder(table: Table, record: RunRecord, mass: Write) -> None:
    """Close the table: what no top-level phase covers, so that the lines add up to the run's."""
    rest = remainder(record)
    if rest is None:
        table.add_row("(phases overlap in time)", "", "", "", "", "")
    else:
        energy = _format.optional(rest.energy_joules, _format.energy, _format.NOT_KNOWN)
        emissions = _format.optional(rest.emissions_grams, mass, _format.NOT_KNOWN)
        table.add_row("outside phases", _format.duration(rest.seconds), "", energy, emissions, "")
    energies = _phase_figures(record.total(), mass)
    table.add_row("run", _format.duration(record.duration_seconds), "", *energies, style="bold")


def _devices(record: RunRecord) -> Table:
    rows = device_rows(record)
    table = _table("device", "energy", "mean power", "use", "memory peak", "how", right=frozenset({1, 2, 3, 4}))
    for row in rows:
        table.add_row(*row)
    return table


def _factors(record: RunRecord) -> RenderableType:
    factors = record.factors
    carbon, pue = factors.carbon_intensity, factors.pue
    lines = [
        f"Carbon intensity: {_format.factor(carbon) if carbon else _format.NOT_KNOWN}",
        *_course.lines(record),
        f"PUE: {_format.factor(pue) if pue else _format.NOT_KNOWN}",
    ]
    prices = [_format.price(tier, one) for tier, one in factors.prices.items()]
    lines += [f"Price of a node per hour: {price}" for price in prices] or [f"Price: {_format.NOT_KNOWN}"]
    if prices:
        nodes = f"{record.place.nodes} node{'s' if record.place.nodes > 1 else ''}"
        lines.append(
            f"Cost, in US dollars: price x {_format.hours(record.duration_seconds)} x {nodes}; the time is the clock "
            "of every attempt, set-up and evaluation included"
        )
    lines += _footprint.factor_lines(record)
    if factors.tables_version:
        lines.append(f"Tables: {factors.tables_version}")
    return _list(lines)


def _list(lines: list[str]) -> Table:
    table = _table("", "", header=False)
    for line in lines:
        table.add_row("-", " ".join(line.split()))
    return table
