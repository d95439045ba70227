"""Renders the model card's tables in Markdown: Resource Usage and Carbon Emissions, with their footnotes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta

from greenml import redaction
from greenml.record.schema import (
    TRAINING_PATHS,
    Factor,
    Quantity,
    ReportedEmissions,
    RunRecord,
    Totals,
    gpus_never_answered,
)
from greenml.reports import _format, _parts
from greenml.units import GRAMS_PER_KG

Row = tuple[str, str]


def escape(text: str) -> str:
    """Make text safe for one cell or one line of Markdown."""
    flat = redaction.printable_line(text)
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def table(rows: list[Row]) -> str:
    """Write rows under the heads ``key`` and ``value``."""
    lines = ["| key | value |", "| --- | ----- |"]
    return "\n".join(lines + [f"| {escape(key)} | {escape(value)} |" for key, value in rows])


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]], figures: Collection[int] = ()) -> str:
    """Write rows under headings.

    Args:
        headings: a name a column.
        rows: as many cells each.
        figures: the columns of figures, set flush right.
    """
    rule = ["---:" if place in figures else "---" for place in range(len(headings))]
    lines = [map(escape, headings), rule, *(map(escape, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """Write lines as a list."""
    return "\n".join(f"- {escape(line)}" for line in lines)


CODECARBON_KEYS = (
    "timestamp",
    "duration",
    "emissions",
    "energy_consumed",
    "country_name",
    "region",
    "cloud_provider",
    "cloud_region",
)


def carbon_emissions(record: RunRecord) -> str:
    """Render the second table with its heading and footnotes."""
    return "\n\n".join(["## Carbon Emissions", *_carbon(record)])


def _carbon(record: RunRecord) -> list[str]:
    if record.reported:
        parts: list[str] = []
        for reported in record.reported:
            parts += [table(_reported_rows(reported)), bullets(_reported_footnotes(record, reported))]
        return parts
    total = measured_scope(record)
    if total is None:
        return ["The record has no totals: emissions are not known."]
    return [table(_measured_rows(record, total)), bullets(_measured_footnotes(record, total))]


def _reported_rows(reported: ReportedEmissions) -> list[Row]:
    return [(key, _format.plain(reported.row[key])) for key in CODECARBON_KEYS if reported.row.get(key)]


def _reported_footnotes(record: RunRecord, reported: ReportedEmissions) -> list[str]:
    if reported.scope in TRAINING_PATHS:
        scope = "the training phase only"
    else:
        scope = "the whole run" if reported.scope == "run" else f"the phase {reported.scope} only"
    phase = record.phase(reported.scope)
    seconds = f": {_format.seconds(phase.seconds)}" if phase else ""
    lines = [
        f"Covers {scope}{seconds}. The row is {_tool(reported.tool)}'s, as it wrote it.",
        "Units: duration in s, emissions in kg CO2e, energy_consumed in kWh.",
    ]
    energy, emissions = _number(reported, "energy_consumed"), _number(reported, "emissions")
    if energy and emissions:
        grams = _format.number(emissions / energy * GRAMS_PER_KG, 4)
        lines.append(f"emissions / energy_consumed, its carbon intensity: {grams} g CO2e/kWh.")
    pue = reported.row.get("pue")
    if pue and pue not in ("1", "1.0"):
        lines.append(f"{_tool(reported.tool)} multiplied energy and emissions by a PUE of {pue}.")
    else:
        lines.append("No PUE is applied to this row.")
    return lines


def _number(reported: ReportedEmissions, key: str) -> float | None:
    try:
        return float(reported.row.get(key, ""))
    except ValueError:
        return None


def pound_lines(record: RunRecord) -> list[str]:
    """Return the table's emissions in pounds, one line per row."""
    kilograms = [_number(reported, "emissions") for reported in record.reported]
    total = measured_scope(record)
    if not record.reported and total is not None and total.emissions_grams.value is not None:
        kilograms = [total.emissions_grams.value / GRAMS_PER_KG]
    return [
        f"emissions in pounds: {_format.pounds(kilogram * GRAMS_PER_KG)} (1 lb is 0.45359237 kg)."
        for kilogram in kilograms
        if kilogram is not None
    ]


def _tool(name: str) -> str:
    return _format.SENSOR_NAMES.get(name, name)


def measured_scope(record: RunRecord) -> Totals | None:
    """Return the training phase's totals where its energy is known, else the run's."""
    totals = [total for path in TRAINING_PATHS if (total := record.total(path)) is not None]
    known = (total for total in totals if total.it_energy_joules.value is not None)
    return next(known, None) or record.total() or next(iter(totals), None)


def _end(record: RunRecord, total: Totals) -> str:
    phase = record.phase(total.scope)
    if phase is not None and phase.spans:
        return _format.timestamp(record.started + timedelta(seconds=max(end for _, end in phase.spans)))
    return _format.timestamp(record.ended) if record.ended else _format.missing("still running", _format.NOT_KNOWN)


def _measured_rows(record: RunRecord, total: Totals) -> list[Row]:
    place = record.place
    pue = record.factors.pue
    rows = [
        ("timestamp", _end(record, total)),
        ("duration", _format.number(total.seconds)),
        ("emissions", _format.figure(total.emissions_grams, _format.kilograms)),
        ("energy_consumed", _format.figure(total.it_energy_joules, _format.kilowatt_hours)),
        ("pue", _format.number(pue.value) if pue else _format.NOT_KNOWN),
        ("country_name", place.country_name or _format.NOT_KNOWN),
        ("region", place.state or _format.NOT_KNOWN),
    ]
    if place.cloud:
        rows += [("cloud_provider", place.cloud), ("cloud_region", place.region or _format.NOT_KNOWN)]
    return rows


def _measured_footnotes(record: RunRecord, total: Totals) -> list[str]:
    scope = "the whole run" if total.scope == "run" else "the training phase only"
    factors = record.factors
    lines = [
        f"Covers {scope}: {_format.seconds(total.seconds)}.",
        "Units: timestamp in UTC, duration in s, emissions in kg CO2e, energy_consumed in kWh.",
        _composition(record, total),
    ]
    for name, quantity, write in (
        ("energy_consumed", total.it_energy_joules, lambda value: f"{_format.kilowatt_hours(value)} kWh"),
        ("emissions", total.emissions_grams, lambda value: f"{_format.kilograms(value)} kg CO2e"),
    ):
        spread = _format.interval_of(quantity, write)
        if spread:
            lines.append(f"Interval of {name}: {spread}.")
    lines.append(_factor_line("Carbon intensity", factors.intensity(total.scope)))
    lines += [f"{other}." for other in (_format.other_basis(record),) if other]
    lines += _parts.series_lines(record)
    lines.append(_factor_line("PUE", factors.pue))
    if factors.pue is not None:
        lines.append("emissions include the PUE; energy_consumed does not.")
    return lines


def _composition(record: RunRecord, total: Totals) -> str:
    parts = []
    for kind, quantity in (
        ("gpu", total.gpu_energy_joules),
        ("cpu", total.cpu_energy_joules),
        ("dram", total.dram_energy_joules),
    ):
        known = quantity.value is not None
        how = _format.known_how(record, kind, quantity) if known else _format.unknown(quantity)
        parts.append(f"{kind.upper()} {how}")
    return f"energy_consumed is that of GPU, CPU and DRAM: {', '.join(parts)}."


def _factor_line(name: str, factor: Factor | None) -> str:
    if factor is None:
        return f"{name}: {_format.NOT_KNOWN}."
    return f"{name}: {_format.factor(factor)}."


SKU_KEYS = {"azure": "AzureML SKU", "aws": "AWS instance type", "gcp": "GCP machine type"}
TIER_LABELS = {"low_priority": "LowPriority", "spot": "Spot", "dedicated": "Dedicated"}


def render(record: RunRecord, pounds: bool = False, footprint: bool = False) -> str:
    """Render both tables, each with its footnotes, then the record's notes.

    Args:
        record: the run.
        pounds: say the emissions in lb too; the table's own unit is that of the published tables, kg.
        footprint: with a third table: water, embodied carbon, SCI, and market-based emissions.
    """
    parts = [
        resource_usage(record),
        carbon_emissions(record),
        requests(record),
        bullets(pound_lines(record)) if pounds else "",
        further_footprint(record) if footprint else "",
        notes(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def resource_usage(record: RunRecord) -> str:
    """Render the first table with its heading and footnotes."""
    return "\n\n".join(["## Resource Usage", table(_resource_rows(record)), bullets(_resource_footnotes(record))])


def requests(record: RunRecord) -> str:
    """Render what the requests of an endpoint used; empty for a run that served none."""
    figures = [figure for figure in _parts.figures(record) if figure.group == "serving"]
    rows = [(figure.label, _footprint(figure)) for figure in figures]
    return "\n\n".join(["## Requests", table(rows)]) if rows else ""


def further_footprint(record: RunRecord) -> str:
    """Render water, embodied carbon, SCI and a contract's emissions, with their sources; empty where none is known."""
    rows = [
        (figure.label, f"{_footprint(figure)} ({figure.how})")
        for figure in _parts.figures(record)
        if figure.group == "footprint"
    ]
    if not rows:
        return ""
    return "\n\n".join(["## Footprint", table(rows), bullets(_parts.footprint_factor_lines(record))])


def _footprint(figure: _parts.RunFigure) -> str:
    if figure.quantity is not None and figure.quantity.value is None and figure.interval:
        return figure.interval
    return f"{figure.text}, {figure.interval}" if figure.interval else figure.text


def notes(record: RunRecord) -> str:
    """Render what a reader of the figures must know; empty where there is nothing."""
    return f"Notes on the figures:\n\n{bullets([note.text for note in record.notes])}" if record.notes else ""


def _resource_rows(record: RunRecord) -> list[Row]:
    total = record.total()
    place = record.place
    rows: list[Row] = []
    ran_on = _parts.machine(record)
    if ran_on:
        rows.append((SKU_KEYS.get(place.cloud, "Machine type"), ran_on))
    elif _parts.hardware(record):
        rows.append(("Hardware", _parts.hardware(record)))
    rows.append(("Region", place.billing_name or place.display_name or place.region or _format.NOT_KNOWN))
    rows.append(("Run Duration", _format.duration(record.duration_seconds)))
    rows.append(_cost_row(record, total))
    cpu_ratio = total.cpu_utilization_ratio if total else None
    rows.append(("Average CPU Utilization", _format.optional(cpu_ratio, _format.percent)))
    if has_no_gpu(record):
        rows.append(("GPU", "none found"))
        rows.append(("Total CPU Energy Usage", _kilojoules(total.cpu_energy_joules if total else None)))
        return rows
    gpu_ratio = total.gpu_utilization_ratio if total else None
    rows.append(("Average GPU Utilization", _format.optional(gpu_ratio, _format.percent)))
    rows.append(("GPU Memory Usage (Avg/Peak)", _memory(total)))
    rows.append(("Total GPU Energy Usage", _kilojoules(total.gpu_energy_joules if total else None)))
    return rows


def has_no_gpu(record: RunRecord) -> bool:
    """Tell whether greenml looked at the machine and saw no GPU; silence of an import is not that."""
    looked = any(not _format.is_imported(device) for device in record.devices)
    return looked and not any(device.kind == "gpu" for device in record.devices) and not gpus_never_answered(record)


def _kilojoules(quantity: Quantity | None) -> str:
    return _format.figure(quantity, lambda joules: f"{_format.kilojoules(joules)} (kJ)")


def _memory(total: Totals | None) -> str:
    mean = total.gpu_memory_mean_bytes if total else None
    peak = total.gpu_memory_peak_bytes if total else None
    if mean is None and peak is None:
        return _format.NOT_MEASURED
    return f"{_format.optional(mean, _format.gigabytes)}/{_format.optional(peak, _format.gigabytes)} (GB)"


def _cost_row(record: RunRecord, total: Totals | None) -> Row:
    costs = total.cost_usd if total else {}
    shown = tiers(record, costs)
    labels = "/".join(_tier_label(tier, record.place.cloud) for tier in shown)
    key = f"Compute Cost ({labels})" if labels else "Compute Cost"
    known = {tier: costs[tier].value for tier in shown if tier in costs}
    if all(value is None for value in known.values()):
        why = next((costs[tier].why for tier in shown if tier in costs and costs[tier].why), "")
        why = why or _parts.no_price(record)
        return key, _format.missing(why, _format.NOT_KNOWN)
    amounts = "/".join(_format.optional(known.get(tier), _format.money, _format.NOT_KNOWN) for tier in shown)
    return key, f"{amounts} (USD)"


def tiers(record: RunRecord, known: Collection[str]) -> list[str]:
    """Return the tiers to show, the interruptible one first; both of them on a cloud, priced or not."""
    cheap = next((tier for tier in ("low_priority", "spot") if tier in known), None)
    others = [tier for tier in known if tier not in ("low_priority", "spot", "dedicated")]
    cloud = record.place.cloud
    if cloud in SKU_KEYS and (known or record.place.sku):
        return [cheap or ("low_priority" if cloud == "azure" else "spot"), "dedicated", *others]
    return [tier for tier in (cheap, "dedicated") if tier is not None and tier in known] + others


def _tier_label(tier: str, cloud: str) -> str:
    if tier == "dedicated" and cloud in ("aws", "gcp"):
        return "OnDemand"
    return TIER_LABELS.get(tier, tier)


def _resource_footnotes(record: RunRecord) -> list[str]:
    total = record.total()
    lines = [f"Covers the whole run: {_format.seconds(record.duration_seconds)}, set-up and evaluation included."]
    if record.status in _format.STATUS_WORDS:
        lines.append(f"Status: {_format.STATUS_WORDS[record.status]}.")
    if len(record.attempts) > 1:
        lines.append(f"The run took {len(record.attempts)} attempts; every figure is their sum.")
    if record.factors.prices:
        nodes = record.place.nodes
        known = record.factors.prices
        shown = [tier for tier in tiers(record, known) if tier in known]
        prices = "; ".join(_format.price(tier, known[tier]) for tier in shown)
        lines.append(
            f"Compute cost = price of a node per hour x {_format.hours(record.duration_seconds)} x "
            f"{nodes} node{'s' if nodes > 1 else ''}: {prices}."
        )
    if total is None:
        return lines
    if has_no_gpu(record):
        return lines + _energy_footnote(record, "cpu", total.cpu_energy_joules)
    if total.gpu_memory_peak_bytes is not None or total.gpu_memory_mean_bytes is not None:
        lines.append("GPU memory: peak is the mean over the used GPUs of each one's peak; 1 GB = 1e9 bytes.")
    return lines + _energy_footnote(record, "gpu", total.gpu_energy_joules)


def _energy_footnote(record: RunRecord, kind: str, quantity: Quantity) -> list[str]:
    if quantity.value is None:
        return []
    spread = _format.interval_of(quantity, lambda joules: f"{_format.kilojoules(joules)} kJ")
    how = _format.known_how(record, kind, quantity)
    return [f"{kind.upper()} energy: {how}{f', {spread}' if spread else ''}."]
