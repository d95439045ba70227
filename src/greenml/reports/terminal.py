"""Renders a summary for a terminal: plain characters, 80 columns, colours on request."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.box import Box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from greenml import redaction
from greenml.record.schema import Quantity, RunRecord, Totals
from greenml.reports import _format, _parts
from greenml.reports._parts import device_rows, phases, remainder

RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
Write = Callable[[float], str]
SHORT_DEVICES = 6  # of more, those of one kind and name are one row
LEAST_COLUMNS = 60  # for tables of six columns
LEAST_COLUMNS_SHORT = 40
WIDE_COLUMNS = 80  # from here on figures and their intervals have room beside what says how they are known
PARTS = frozenset({"gpu_energy_joules", "cpu_energy_joules", "dram_energy_joules"})
STATUS_STYLES = {"completed": "green", "running": "cyan"}


@dataclass(frozen=True)
class _Short:
    """What a summary leaves out to fit a screen."""

    notes: int = 6
    nested_phases: bool = True
    spaced: bool = True
    devices: bool = True
    phases: bool = True
    wrapped: bool = True  # a long name or error over several lines, and how figures are known beside them
    parts: bool = True  # of the energy, what others reported, where it ran; a title above the factors


# The first that fits is taken.
SHORTER = (
    _Short(),
    _Short(notes=2),
    _Short(notes=2, nested_phases=False),
    _Short(notes=2, nested_phases=False, spaced=False),
    _Short(notes=2, nested_phases=False, spaced=False, devices=False),
    _Short(notes=2, spaced=False, devices=False, phases=False),
    _Short(notes=2, spaced=False, devices=False, phases=False, wrapped=False),
    _Short(notes=0, spaced=False, devices=False, phases=False, wrapped=False, parts=False),
)


def render(
    record: RunRecord,
    width: int = 100,
    *,
    color: bool = False,
    pounds: bool = False,
    full: bool = True,
    height: int | None = None,
) -> str:
    """Render the headline, the figures, phases, devices, factors and notes.

    Args:
        record: the run.
        width: columns to fill, at least 60; a summary at least 40, below 60 as on a small screen.
        color: with ANSI colours.
        pounds: masses in lb, in place of kg.
        full: everything; else a summary: the three factors that matter and each note on one line, and devices of one
            kind together.
        height: lines of the screen that a summary is to fit; None for any number.
    """
    mass = _format.pounds if pounds else _format.mass
    if full:
        width = max(width, LEAST_COLUMNS)
        return _text(_full_parts(record, mass, narrow=width < WIDE_COLUMNS), width, color=color)
    text = ""
    for short in SHORTER if width >= LEAST_COLUMNS else SHORTER[-2:]:
        width = max(width, LEAST_COLUMNS_SHORT)
        text = _text(_short_parts(record, mass, short, width), width, color=color)
        if height is None or text.count("\n") <= height:
            break
    return text


def _text(parts: list[RenderableType], width: int, *, color: bool) -> str:
    stream = io.StringIO()
    console = _Screen(
        file=stream,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip() + "\n"


class _Screen(Console):
    """A console on which no name of a record steers the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  handed on
        """Make the text of a cell."""
        return super().render_str(redaction.printable_lines(text), **options)


def _full_parts(record: RunRecord, mass: Write, *, narrow: bool) -> list[RenderableType]:
    figures = _figure_table(record, mass, narrow=narrow)
    parts: list[RenderableType] = [*_headline(record), "", *_section("Totals of the whole run", figures)]
    if record.phases:
        parts += _section("Phases", _phases(record, mass))
    if record.devices:
        parts += _section("Devices", _devices(record))
    parts += _section("Factors", _factors(record))
    if record.notes:
        parts += _section("Notes", _list([note.text for note in record.notes]))
    return parts


def _short_parts(record: RunRecord, mass: Write, short: _Short, width: int) -> list[RenderableType]:
    """Return a summary, and how to see the rest; each section's title stands in the line of its columns' names."""
    narrow = width < WIDE_COLUMNS
    sections: list[RenderableType] = [
        Group(*_headline(record, None if short.wrapped else width, place=short.parts)),
        _figure_table(record, mass, narrow=narrow, brief="Totals", how=short.wrapped, parts=short.parts),
    ]
    if record.phases and short.phases:
        sections.append(_phases(record, mass, brief="Phases", nested=short.nested_phases))
    if record.devices and short.devices:
        sections.append(_devices(record, brief="Devices"))
    sections.append(_short_factors(record, title="Factors" if short.parts else ""))
    shown = [note.text for note in record.notes[: short.notes]]
    more = len(record.notes) - len(shown)
    if shown:
        sections.append(_cut_lines("Notes", [*shown, *([f"and {more} more"] if more else ())]))
    rest = "--full prints everything, --explain how each figure comes about"
    if not short.wrapped:
        rest = f"{more} notes; {rest}" if more and not shown else rest
        rest = _cut(rest, width)
    sections.append(Text(rest, style="dim"))
    if not short.spaced:
        return sections
    return [part for section in sections for part in (section, "")]


def _section(title: str, body: RenderableType) -> list[RenderableType]:
    return [Text(title, style="bold"), Padding(body, (0, 0, 0, 1)), ""]


def _cut(text: str, columns: int | None) -> str:
    """Return a text on one line, cut where there are no more columns."""
    line = Text(redaction.printable_line(text))
    if columns is not None:
        line.truncate(columns, overflow="ellipsis")
    return line.plain


def _headline(record: RunRecord, columns: int | None = None, *, place: bool = True) -> list[RenderableType]:
    """Return what the run was; with columns, in a line each."""
    words = _format.STATUS_WORDS.get(record.status, record.status)
    head = Text(_cut(record.name or record.run_id, columns and columns - len(words) - 2), style="bold")
    head.append("  ")
    head.append(words, style=STATUS_STYLES.get(record.status, "red"))
    lines: list[RenderableType] = [head]
    attempts = f" in {len(record.attempts)} attempts" if len(record.attempts) > 1 else ""
    lines.append(Text(_cut(f"{_format.duration(record.duration_seconds)}{attempts}, {_format.when(record)}", columns)))
    at = record.place
    where = ", ".join(
        dict.fromkeys(
            part
            for part in (
                _parts.machine(record) or _parts.hardware(record),
                at.cloud,
                at.billing_name or at.display_name or at.region,
                at.country_name,
            )
            if part
        )
    )
    if where and place:
        lines.append(Text(_cut(where, columns)))
    if record.error:
        lines.append(Text(_cut(record.error, columns), style="red"))
    return lines


def _table(
    *columns: str,
    right: frozenset[int] = frozenset(),
    whole: frozenset[int] = frozenset(),
    header: bool = True,
    brief: str = "",
) -> Table:
    """Return an empty table; ``right`` columns are figures, ``whole`` ones never wrap.

    A ``brief`` title stands for the name of the first column, with no rule below it.
    """
    box = RULE if header and not brief else None
    table = Table(box=box, show_header=header, show_edge=False, pad_edge=False, header_style="dim")
    if brief:
        table.padding = (0, 2, 0, 0)
    names: list[str | Text] = [*columns]
    if brief:
        names[0] = Text(brief, style="bold not dim")
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index in right else "left", overflow="fold", no_wrap=index in whole)
    return table


def _figure_table(
    record: RunRecord, mass: Write, *, narrow: bool, brief: str = "", how: bool = True, parts: bool = True
) -> Table:
    """Return the figures of the whole run; brief: without the use of devices, and what lies beyond the operation.

    It is shorter without ``how`` they are known, and without ``parts``: of the energy, of requests, by other tools.
    """
    whole = frozenset[int]() if narrow else frozenset({0, 1, 2})  # what does not fit must wrap: a cut figure is wrong
    columns = ("", "value", "interval", "known how") if how else ("", "value", "interval")
    table = _table(*columns, whole=whole, brief=brief)

    def add(label: str, text: str, interval: str = "", known: str = "") -> None:
        table.add_row(label, text, interval, *([known] if how else ()))

    figures = [figure for figure in _parts.figures(record, mass=mass) if parts or figure.name not in PARTS]
    for group in ("energy", "emissions", "cost"):
        for figure in (figure for figure in figures if figure.group == group):
            add(figure.label, figure.text, figure.interval, figure.brief)
    for label, text in _use(record.total()) if not brief else ():
        add(label, text)
    for group in ("serving", "reported", *(() if brief else ("footprint",))) if parts else ():
        for figure in (figure for figure in figures if figure.group == group):
            add(figure.label, figure.text, figure.interval, figure.brief)
    return table


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


def _phases(record: RunRecord, mass: Write, *, brief: str = "", nested: bool = True) -> Table:
    columns = ("phase", "time", "times", "IT energy", "emissions", "GPU use")
    table = _table(*columns, right=frozenset({1, 2, 3, 4, 5}), brief=brief)
    for phase in phases(record):
        depth = phase.path.count("/")
        if depth and not nested:
            continue
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
    return _format.NOT_KNOWN if quantity.value is None else _format.figure(quantity, write)


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


def _devices(record: RunRecord, *, brief: str = "") -> Table:
    rows = device_rows(record, SHORT_DEVICES) if brief else device_rows(record)
    columns = ("device", "energy", "mean power", "use", "memory peak", "how")
    table = _table(*columns, right=frozenset({1, 2, 3, 4}), brief=brief)
    for row in rows:
        table.add_row(*row)
    return table


def _short_factors(record: RunRecord, title: str) -> RenderableType:
    """Return carbon intensity, PUE and price, a line each; what does not fit the line is cut."""
    factors = record.factors
    lines = []
    for name, factor in (("Carbon intensity", factors.carbon_intensity), ("PUE", factors.pue)):
        if factor is None:
            lines.append(f"{name}: {_format.NOT_KNOWN}")
            continue
        unit = "" if factor.unit == "1" else f" {factor.unit}"
        scope = "over time," if factor.scope == "series" else factor.scope.replace("_", " ")
        facts = [f"{scope} {factor.code}".strip(), str(factor.year or ""), factor.basis, factor.note.rstrip(".")]
        facts.append(factor.source.name)
        lines.append(f"{name}: {_format.number(factor.value, 4)}{unit}; {', '.join(filter(None, facts))}")
    prices = [f"${_format.number(price.value)} {_format.tier(tier)}" for tier, price in factors.prices.items()]
    codes = dict.fromkeys(price.code or price.scope for price in factors.prices.values())
    notes = [f"{_format.tier(tier)}: {price.note.rstrip('.')}" for tier, price in factors.prices.items() if price.note]
    known = f"{', '.join(prices)}; {', '.join([*codes, *notes])}"
    lines.append(f"Price of a node per hour: {known}" if prices else f"Price: {_format.NOT_KNOWN}")
    return _cut_lines(title, lines)


def _cut_lines(title: str, lines: list[str]) -> RenderableType:
    """Return a title and a line each, cut where the screen ends."""
    texts = [redaction.printable_line(line) for line in lines]
    cut = [Text(f"- {text}", no_wrap=True, overflow="ellipsis") for text in texts]
    return Group(*([Text(title, style="bold")] if title else []), *cut)


def _factors(record: RunRecord) -> RenderableType:
    factors = record.factors
    carbon, pue = factors.carbon_intensity, factors.pue
    lines = [
        f"Carbon intensity: {_format.factor(carbon) if carbon else _format.NOT_KNOWN}",
        *filter(None, (_format.other_basis(record),)),
        *_parts.series_lines(record),
        f"PUE: {_format.factor(pue) if pue else _format.NOT_KNOWN}",
    ]
    prices = [_format.price(tier, price) for tier, price in factors.prices.items()]
    lines += [f"Price of a node per hour: {price}" for price in prices] or [f"Price: {_format.NOT_KNOWN}"]
    if prices:
        nodes = f"{record.place.nodes} node{'s' if record.place.nodes > 1 else ''}"
        lines.append(
            f"Cost, in US dollars: price x {_format.hours(record.duration_seconds)} x {nodes}; the time is the clock "
            "of every attempt, set-up and evaluation included"
        )
    lines += _parts.footprint_factor_lines(record)
    if factors.tables_version:
        lines.append(f"Tables: {factors.tables_version}")
    return _list(lines)


def _list(lines: list[str]) -> Table:
    table = _table("", "", header=False)
    for line in lines:
        table.add_row("-", " ".join(line.split()))
    return table
