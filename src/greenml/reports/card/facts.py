"""Returns the one-line facts of a card: emissions, hardware, place."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from greenml.errors import FactorError
from greenml.factors import tables
from greenml.record.schema import TRAINING_PATHS, RunRecord
from greenml.reports import _format, _parts, markdown

CLOUD_NAMES = {"azure": "Azure", "aws": "AWS", "gcp": "Google Cloud", "coreweave": "CoreWeave", "lambda": "Lambda"}
KILOGRAM_EXPONENT = 3


@dataclass(frozen=True, slots=True)
class Emissions:
    """The figure of the "Carbon Emissions" table, in grams as the hub wants it. ``grams`` None: ``why`` says why."""

    grams: Decimal | None
    scope: str = ""
    source: str = ""
    interval: str = ""
    why: str = ""


def emissions(record: RunRecord) -> Emissions:
    """Return the emissions that the card's table shows.

    A reported figure keeps every digit that its tool wrote: its kilograms are shifted by three places, not multiplied
    as a binary number. A computed one has six significant digits, as in the table.
    """
    if record.reported:
        return _reported(record)
    total = markdown.measured_scope(record)
    if total is None:
        return Emissions(None, why="the record has no totals")
    quantity = total.emissions_grams
    if quantity.value is None:
        return Emissions(None, why=quantity.why or "not known")
    return Emissions(
        Decimal(_format.number(quantity.value)),
        _scope(total.scope),
        f"greenml ({energy_sources(record)}{', marginal carbon intensity' if record.factors.marginal else ''})"
        + (f", a lower bound: {quantity.why}" if quantity.at_least else ""),
        _format.interval_of(quantity, lambda grams: f"{_format.number(grams, 4)} g"),
    )


def _reported(record: RunRecord) -> Emissions:
    row = record.reported[0]
    text, tool = row.row.get("emissions", ""), _format.SENSOR_NAMES.get(row.tool, row.tool)
    try:
        kilograms = Decimal(text)
    except InvalidOperation:
        kilograms = Decimal("NaN")
    if not kilograms.is_finite():
        return Emissions(None, why=f"{tool}'s row has no number of emissions")
    grams = kilograms.scaleb(KILOGRAM_EXPONENT)
    return Emissions(Decimal(f"{grams:f}"), _scope(row.scope), tool)


def _scope(scope: str) -> str:
    if scope in TRAINING_PATHS:
        return "training only"
    return "the whole run" if scope == "run" else f"the phase {scope} only"


def energy_sources(record: RunRecord, *, unknown: bool = False) -> str:
    """Say how each kind's energy is known: ``GPU measured (NVML counter), CPU modelled``.

    Args:
        record: of the run.
        unknown: name the kinds that are not known too, with the reason.
    """
    total = markdown.measured_scope(record)
    if total is None:
        return "nothing was measured"
    parts = []
    for kind, quantity in (
        ("gpu", total.gpu_energy_joules),
        ("cpu", total.cpu_energy_joules),
        ("dram", total.dram_energy_joules),
    ):
        if quantity.value is not None:
            by = _format.sensors(record, kind)
            parts.append(f"{kind.upper()} {quantity.basis}{f' ({by})' if by else ''}")
        elif unknown:
            parts.append(f"{kind.upper()} {_format.unknown(quantity)}")
    return ", ".join(parts) or "nothing was measured"


def hardware(record: RunRecord) -> str:
    """Name the hardware: ``8 X Tesla V100-SXM2-32GB (ND40rs_v2)``; empty where nothing tells."""
    place = record.place
    if place.sku and _parts.mismatch(record):
        return f"{_parts.seen(record)} (billed as {place.sku})"
    ran_on = _parts.hardware(record)
    if not ran_on and place.sku:
        each = place.sku_label or place.sku
        ran_on = f"{place.nodes} nodes of {each}" if place.nodes > 1 else each
    return f"{ran_on} ({place.sku})" if place.sku and place.sku not in ran_on else ran_on


def gpu_count(record: RunRecord) -> tuple[int, str]:
    """Return the number of GPUs, and its source; 0 where it is not known."""
    seen = sum(device.count for device in _parts.at_a_time(record, "gpu"))
    if seen or markdown.has_no_gpu(record):
        return seen, "seen by greenml"
    place = record.place
    try:
        rows = tables.lookup("skus", place.cloud, place.sku.rpartition("/")[2]) if place.sku else []
    except FactorError:
        rows = []
    each = float(rows[0]["gpu_count"] or 0) if rows else 0.0
    return round(each * place.nodes), f"of {place.sku}" if each else ""


def geography(record: RunRecord) -> str:
    """Name the place, the narrowest name first: ``Washington, United States (azure westus2)``."""
    place = record.place
    named = ", ".join(dict.fromkeys(part for part in (place.state, place.country_name) if part))
    code = f"{place.cloud} {place.region}".strip() if place.region else ""
    return f"{named} ({code})" if named and code else named or code


def cloud(record: RunRecord) -> str:
    """Name the cloud provider; empty where none is known."""
    return CLOUD_NAMES.get(record.place.cloud, record.place.cloud)
