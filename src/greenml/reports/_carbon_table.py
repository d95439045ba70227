"""The model card's second table, carbon emissions: as another tool told it, or as it was measured."""

from __future__ import annotations

from datetime import timedelta

from greenml.record import TRAINING_PATHS, Factor, ReportedEmissions, RunRecord, Totals
from greenml.reports import _course, _format
from greenml.reports._markdown_text import Row, bullets, table
from greenml.units import GRAMS_PER_KG

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


def pounds(record: RunRecord) -> list[str]:
    """Say the table's emissions in pounds, a line a row of it."""
    kilograms = [_number(one, "emissions") for one in record.reported]
    total = measured_scope(record)
    if not record.reported and total is not None and total.emissions_grams.value is not None:
        kilograms = [total.emissions_grams.value / GRAMS_PER_KG]
    return [
        f"emissions in pounds: {_format.pounds(one * GRAMS_PER_KG)} (1 lb is 0.45359237 kg)."
        for one in kilograms
        if one is not None
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
        spread = _format.band(quantity, write)
        if spread:
            lines.append(f"Band of {name}: {spread}.")
    lines.append(_factor_line("Carbon intensity", factors.intensity(total.scope)))
    lines += _course.lines(record)
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
