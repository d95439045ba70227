"""How a card's figures came about, in a few lines: sensors, scope, factors with their sources, bands."""

from __future__ import annotations

import re

from greenml.record import Factor, RunRecord, SourceRef
from greenml.reports import _card_facts, _format, _markdown_text, markdown

_ADDRESS = re.compile(r"https?://[^\s<>()\[\]|\\\"'`]+\Z")


def section(record: RunRecord) -> str:
    """Render the section, with the record's notes at its end."""
    lines = [_run(record), *_sensors(record), _scopes(record), *_factors(record), _bands(record)]
    parts = ["## How this was measured", "\n".join(f"- {line}" for line in lines if line), markdown.notes(record)]
    return "\n\n".join(part for part in parts if part)


def _run(record: RunRecord) -> str:
    span = _format.when(record) + ("" if record.ended else " (still running)")
    name = f"{record.name}, " if record.name else ""
    return _markdown_text.escape(
        f"Run: {name}id {record.run_id}, {span}, {record.status}. Record made by greenml {record.greenml_version}."
    )


def _sensors(record: RunRecord) -> list[str]:
    """Say what each energy comes from; a reported row says so itself, and its tool's name stands for its sensors."""
    lines = [f"Sensors: {_card_facts.energy_sources(record, unknown=True)}."] if not record.reported else []
    for row in record.reported:
        tool = _format.SENSOR_NAMES.get(row.tool, row.tool)
        lines.append(
            f"Emissions and their energy: {tool}'s own row with its own factors, taken from {row.file} as it stands."
        )
    imported = dict.fromkeys(
        _format.SENSOR_NAMES.get(one.sensor, one.sensor)
        for one in record.devices
        if one.sensor in _format.IMPORTED_SENSORS and one.sensor not in {row.tool for row in record.reported}
    )
    if imported:
        lines.append(f"Utilization, memory and energy in Resource Usage: as {', '.join(imported)} reports them.")
    hardware = _card_facts.hardware(record)
    return [_markdown_text.escape(line) for line in [*lines, f"Hardware: {hardware}." if hardware else ""] if line]


def _scopes(record: RunRecord) -> str:
    scope = _card_facts.emissions(record).scope
    if not scope:
        return ""
    if scope == "the whole run":
        return "Scope: every figure covers the whole run."
    return _markdown_text.escape(f"Scope: resource usage and cost cover the whole run, emissions cover {scope}.")


def _factors(record: RunRecord) -> list[str]:
    """List the factors; a figure that another tool computed has its own, which greenml's do not explain."""
    factors, lines = record.factors, []
    if not record.reported:
        lines += [
            _factor("Carbon intensity", factors.carbon_intensity),
            _factor("PUE", factors.pue),
        ]
    by_source: dict[tuple[str, str, str], list[str]] = {}
    for tier in markdown.tiers(record, factors.prices):
        if (price := factors.prices.get(tier)) is None:
            continue
        source = (price.source.name, price.source.url, price.source.published)
        by_source.setdefault(source, []).append(_format.tier(tier))
    for (name, url, published), tiers in by_source.items():
        source_of = _source(SourceRef(name=name, url=url, published=published))
        lines.append(f"Price ({_markdown_text.escape(', '.join(tiers))}): {source_of}.")
    return lines


def _factor(name: str, factor: Factor | None) -> str:
    if factor is None:
        return f"{name}: {_format.NOT_KNOWN}."
    unit = "" if factor.unit == "1" else f" {factor.unit}"
    figure = f"{_format.number(factor.value, 4)}{unit}"
    if factor.low != factor.high:
        figure += f" ({_format.number(factor.low, 4)} to {_format.number(factor.high, 4)})"
    where = " ".join(part for part in (factor.code, str(factor.year or "")) if part)
    found = _markdown_text.escape(", ".join(part for part in (figure, where) if part))
    return f"{name}: {found}. Source: {_source(factor.source)}."


def _source(ref: SourceRef) -> str:
    """Name a source with its date, as a link where it has an address."""
    name = _markdown_text.escape(ref.name)
    if _ADDRESS.match(ref.url):
        name = f"[{name.replace('[', '(').replace(']', ')')}]({ref.url})"
    return f"{name}, {_markdown_text.escape(ref.published)}" if ref.published else name


def _bands(record: RunRecord) -> str:
    banded = [one for total in record.totals for one in (total.it_energy_joules, total.emissions_grams)]
    if record.reported or not any(one.low is not None and one.low != one.high for one in banded):
        return "Bands: the figures were taken over from other tools, which give none." if record.reported else ""
    return (
        "Bands: from the lowest to the highest energy that the sensors' errors and the gaps between readings allow; "
        "that of the emissions holds the spread of the factors too."
    )
