"""A flat table: a row a scope and device, then the scope's totals. SI, unrounded; empty is not known."""

from __future__ import annotations

import csv
import io

from greenml import printable
from greenml.record import DeviceRecord, Quantity, ReportedEmissions, RunRecord, Totals, Usage
from greenml.reports import _format, _reported

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

    A row ``reported`` has what another tool told of the scope, with its own factors.

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
        rows = [_device_row(one, devices.get(one), usage) for one, usage in phase.usage.items()]
        scopes.append((phase.path, phase.seconds, rows))
    for scope, seconds, rows in scopes:
        start: dict[str, Cell] = {"run_id": record.run_id, "scope": scope, "seconds": seconds}
        for row in rows:
            writer.writerow(_clean(start | row))
        total = record.total(scope)
        for row in _total_rows(total, marginal=record.factors.marginal) if total else ():
            writer.writerow(_clean(start | row))
        for told in record.reported:
            if told.scope == scope:
                writer.writerow(_clean(start | _reported_row(told)))
    return stream.getvalue()


def _clean(row: dict[str, Cell]) -> dict[str, Cell]:
    return {name: printable.line(cell) if isinstance(cell, str) else cell for name, cell in row.items()}


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


def _total_rows(total: Totals, *, marginal: bool) -> list[dict[str, Cell]]:
    gpu = {
        "utilization_ratio": total.gpu_utilization_ratio,
        "memory_mean_bytes": total.gpu_memory_mean_bytes,
        "memory_max_bytes": total.gpu_memory_peak_bytes,
    }
    facility: dict[str, Cell] = {
        "emissions_grams": total.emissions_grams.value,
        "emissions_low_grams": total.emissions_grams.low,
        "emissions_high_grams": total.emissions_grams.high,
    }
    if marginal:
        facility["why"] = "; ".join(filter(None, (total.facility_energy_joules.why, "emissions are marginal")))
    facility |= {f"cost_{tier}_usd": cost.value for tier, cost in total.cost_usd.items()}
    cpu: dict[str, Cell] = {"utilization_ratio": total.cpu_utilization_ratio}
    return [
        _total_row("gpu", total.gpu_energy_joules) | gpu,
        _total_row("cpu", total.cpu_energy_joules) | cpu,
        _total_row("dram", total.dram_energy_joules),
        _total_row("it", total.it_energy_joules),
        _total_row("facility", total.facility_energy_joules) | facility,
    ]


def _reported_row(told: ReportedEmissions) -> dict[str, Cell]:
    return {
        "row": "reported",
        "name": _format.SENSOR_NAMES.get(told.tool, told.tool),
        "energy_joules": _reported.energy_joules(told),
        "basis": "reported",
        "emissions_grams": _reported.emissions_grams(told),
    }


def _total_row(kind: str, quantity: Quantity) -> dict[str, Cell]:
    return {
        "row": "total",
        "kind": kind,
        "energy_joules": quantity.value,
        "energy_low_joules": quantity.low,
        "energy_high_joules": quantity.high,
        "basis": quantity.basis if quantity.value is not None else None,
        "why": quantity.why,
    }
