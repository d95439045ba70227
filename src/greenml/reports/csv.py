"""Renders a flat table: a row per scope and device, then the scope's totals. SI, unrounded; empty is not known."""

from __future__ import annotations

import csv
import io

from greenml import redaction
from greenml.record.schema import DeviceRecord, Quantity, ReportedEmissions, RunRecord, Usage
from greenml.reports import _format, _parts

DEVICE_COLUMNS = (
    "power_mean_watts",
    "power_max_watts",
    "utilization_ratio",
    "memory_mean_bytes",
    "memory_max_bytes",
)
COLUMNS = (
    "run_id",
    "scope",
    "seconds",
    "row",
    "device_id",
    "kind",
    "name",
    "host",
    "count",
    "energy_joules",
    "energy_low_joules",
    "energy_high_joules",
    "basis",
    "why",
    *DEVICE_COLUMNS,
    "emissions_grams",
    "emissions_low_grams",
    "emissions_high_grams",
)

Cell = str | int | float | None


def render(record: RunRecord) -> str:
    """Render the run first, then each phase: its devices' rows, then rows ``total`` by kind, IT and facility.

    A row ``reported`` has another tool's figures of the scope, with its own factors.

    A text that a spreadsheet would run as a formula begins with an apostrophe.

    ``basis`` is the device's method, or how the total is known. Costs have a column a tier.
    """
    tiers = sorted({tier for total in record.totals for tier in total.cost_usd})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*COLUMNS, *(f"cost_{tier}_usd" for tier in tiers)], lineterminator="\n")
    writer.writeheader()
    devices = {device.id: device for device in record.devices}
    rows = [_device_row(device.id, device, device.usage) for device in record.devices]
    scopes = [("run", record.duration_seconds, rows)]
    for phase in record.phases:
        rows = [_device_row(device_id, devices.get(device_id), usage) for device_id, usage in phase.usage.items()]
        scopes.append((phase.path, phase.seconds, rows))
    for scope, seconds, rows in scopes:
        start: dict[str, Cell] = {"run_id": record.run_id, "scope": scope, "seconds": seconds}
        for row in rows:
            writer.writerow(_clean(start | row))
        for row in _total_rows(record, scope) if record.total(scope) else ():
            writer.writerow(_clean(start | row))
        for reported in record.reported:
            if reported.scope == scope:
                writer.writerow(_clean(start | _reported_row(reported)))
    return stream.getvalue()


def _clean(row: dict[str, Cell]) -> dict[str, Cell]:
    return {name: redaction.csv_cell(cell) for name, cell in row.items()}


def _device_row(device_id: str, device: DeviceRecord | None, usage: Usage) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "row": "device",
        "device_id": device_id,
        "energy_joules": usage.energy_joules,
        "energy_low_joules": usage.energy_low_joules,
        "energy_high_joules": usage.energy_high_joules,
        "why": usage.why,
    }
    row |= {name: getattr(usage, name) for name in DEVICE_COLUMNS}
    if device is not None:
        row |= {
            "kind": device.kind,
            "name": device.name,
            "host": device.host,
            "count": device.count,
            "basis": device.method,
        }
    return row


def _total_rows(record: RunRecord, scope: str) -> list[dict[str, Cell]]:
    by_name = {figure.name: figure for figure in _parts.figures(record, scope)}
    quantities = {name: figure.quantity for name, figure in by_name.items() if figure.quantity is not None}
    gpu: dict[str, Cell] = {
        "utilization_ratio": quantities["gpu_utilization_ratio"].value,
        "memory_mean_bytes": quantities["gpu_memory_mean_bytes"].value,
        "memory_max_bytes": quantities["gpu_memory_peak_bytes"].value,
    }
    emissions = quantities["emissions_grams"]
    facility: dict[str, Cell] = {
        "emissions_grams": emissions.value,
        "emissions_low_grams": emissions.low,
        "emissions_high_grams": emissions.high,
    }
    if record.factors.marginal:
        why = quantities["facility_energy_joules"].why
        facility["why"] = "; ".join(filter(None, (why, "emissions are marginal")))
    facility |= {name: quantities[name].value for name in quantities if by_name[name].group == "cost"}
    cpu: dict[str, Cell] = {"utilization_ratio": quantities["cpu_utilization_ratio"].value}
    more: dict[str, dict[str, Cell]] = {"gpu": gpu, "cpu": cpu, "dram": {}, "it": {}, "facility": facility}
    return [_total_row(kind, quantities[f"{kind}_energy_joules"]) | cells for kind, cells in more.items()]


def _reported_row(reported: ReportedEmissions) -> dict[str, Cell]:
    energy, emissions = (figure.quantity for figure in _parts.reported_figures(reported))
    return {
        "row": "reported",
        "name": _format.SENSOR_NAMES.get(reported.tool, reported.tool),
        "energy_joules": energy.value if energy is not None else None,
        "basis": "reported",
        "emissions_grams": emissions.value if emissions is not None else None,
    }


def _total_row(kind: str, quantity: Quantity) -> dict[str, Cell]:
    return {
        "row": "total",
        "kind": kind,
        "energy_joules": quantity.value,
        "energy_low_joules": quantity.low,
        "energy_high_joules": quantity.high,
        "basis": quantity.basis if quantity.value is not None else None,
        "why": f"at least: {quantity.why}" if quantity.at_least else quantity.why,
    }
