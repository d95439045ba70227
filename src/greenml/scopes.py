"""The totals of a record: of the run, of each phase, and what a unit of training took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greenml import accounting, per_unit
from greenml.record import TRAINING_PATHS, Factors, RunRecord, SciScore, Totals


def totals(record: RunRecord, factors: Factors, nodes: int) -> list[Totals]:
    """Return the totals of the run and of each phase."""
    whole = [(device, device.usage) for device in record.devices]
    made = [accounting.totals("run", record.duration_seconds, whole, factors, nodes)]
    by_id = {device.id: device for device in record.devices}
    for phase in record.phases:
        used = [(by_id[name], usage) for name, usage in phase.usage.items() if name in by_id]
        made.append(accounting.totals(phase.path, phase.seconds, used, factors, nodes))
    return made


def derived(made: Sequence[Totals], trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return what a sample, a token, a step or an epoch of training took."""
    of = next((one for path in TRAINING_PATHS for one in made if one.scope == path), None)
    return per_unit.derived(of, trainer) if of is not None else {}


def sci(made: Sequence[Totals], trainer: Mapping[str, Any]) -> list[SciScore]:
    """Return the SCI of training, by functional unit."""
    of = next((one for path in TRAINING_PATHS for one in made if one.scope == path), None)
    return per_unit.sci(of, trainer) if of is not None else []
