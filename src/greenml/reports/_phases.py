"""Phases in the order in which they are read, and what of the run is in none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from greenml.record import PhaseRecord, Quantity, RunRecord, Totals


@dataclass(frozen=True, slots=True)
class Remainder:
    """What no top-level phase covers; None is not known."""

    seconds: float
    energy_joules: float | None
    emissions_grams: float | None
    cost_usd: dict[str, float]


def ordered(record: RunRecord) -> list[PhaseRecord]:
    """Return phases by their start, else as the record has them; each one's children right after it."""
    return sorted(record.phases, key=lambda phase: _order(record, phase))


def _order(record: RunRecord, phase: PhaseRecord) -> tuple[tuple[float, int, str], ...]:
    names = phase.path.split("/")
    keys = []
    for depth in range(len(names)):
        path = "/".join(names[: depth + 1])
        found = next(((index, one) for index, one in enumerate(record.phases) if one.path == path), None)
        start = min((start for start, _ in found[1].spans), default=0.0) if found else 0.0
        keys.append((start, found[0] if found else 0, names[depth]))
    return tuple(keys)


def remainder(record: RunRecord) -> Remainder | None:
    """Return what is outside of phases, so that top-level phases and it add up to the run; None if they overlap."""
    top = [phase for phase in record.phases if "/" not in phase.path]
    run = record.total()
    totals = [run, *(record.total(phase.path) for phase in top)]
    seconds = record.duration_seconds - sum(phase.seconds for phase in top)
    if seconds < -0.01 * max(record.duration_seconds, 1.0):
        return None

    def rest(pick: Callable[[Totals], Quantity | None]) -> float | None:
        return _left([pick(one) if one is not None else None for one in totals])

    costs = {tier: rest(lambda one, tier=tier: one.cost_usd.get(tier)) for tier in (run.cost_usd if run else {})}  # type: ignore[misc]
    return Remainder(
        seconds=max(seconds, 0.0),
        energy_joules=rest(lambda one: one.it_energy_joules),
        emissions_grams=rest(lambda one: one.emissions_grams),
        cost_usd={tier: usd for tier, usd in costs.items() if usd is not None},
    )


def _left(quantities: Sequence[Quantity | None]) -> float | None:
    """Return the first less the others; None where one is not known, or where the others exceed it."""
    values = [one.value for one in quantities if one is not None and one.value is not None]
    if len(values) < len(quantities):
        return None
    left = values[0] - sum(values[1:])
    if abs(left) <= 1e-9 * abs(values[0]):
        return 0.0
    return left if left > 0 else None
