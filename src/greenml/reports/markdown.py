"""The model card's two tables, resource usage and carbon emissions, with their footnotes."""

from __future__ import annotations

from collections.abc import Collection

from greenml.record import Quantity, RunRecord, Totals
from greenml.reports import _carbon_table, _footprint, _format, _machine
from greenml.reports._markdown_text import Row, bullets, table

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
        _carbon_table.carbon_emissions(record),
        bullets(_carbon_table.pounds(record)) if pounds else "",
        further_footprint(record) if footprint else "",
        notes(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def resource_usage(record: RunRecord) -> str:
    """Render the first table with its heading and footnotes."""
    return "\n\n".join(["## Resource Usage", table(_resource_rows(record)), bullets(_resource_footnotes(record))])


def further_footprint(record: RunRecord) -> str:
    """Render water, embodied carbon, SCI and a contract's emissions, with their sources; empty where none is known."""
    rows = [
        (name, f"{band} ({how})" if value == "a range" else f"{value}{f', {band}' if band else ''} ({how})")
        for name, value, band, how in _footprint.rows(record)
    ]
    if not rows:
        return ""
    return "\n\n".join(["## Footprint", table(rows), bullets(_footprint.factor_lines(record))])


def notes(record: RunRecord) -> str:
    """Render what a reader of the figures must know; empty where there is nothing."""
    return f"Notes on the figures:\n\n{bullets([note.text for note in record.notes])}" if record.notes else ""


def _resource_rows(record: RunRecord) -> list[Row]:
    total = record.total()
    place = record.place
    rows: list[Row] = []
    ran_on = _machine.machine(record)
    if ran_on:
        rows.append((SKU_KEYS.get(place.cloud, "Machine type"), ran_on))
    elif _machine.hardware(record):
        rows.append(("Hardware", _machine.hardware(record)))
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
    looked = any(device.sensor not in _format.IMPORTED_SENSORS for device in record.devices)
    return looked and not any(device.kind == "gpu" for device in record.devices)


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
        why = why or no_price(record)
        return key, _format.missing(why, _format.NOT_KNOWN)
    amounts = "/".join(_format.optional(known.get(tier), _format.money, _format.NOT_KNOWN) for tier in shown)
    return key, f"{amounts} (USD)"


def no_price(record: RunRecord) -> str:
    """Say why a run has no cost at all."""
    return f"no price for {record.place.sku}" if record.place.sku else "no SKU and no price given"


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
    spread = _format.band(quantity, lambda joules: f"{_format.kilojoules(joules)} kJ")
    how = _format.known_how(record, kind, quantity)
    return [f"{kind.upper()} energy: {how}{f', {spread}' if spread else ''}."]
