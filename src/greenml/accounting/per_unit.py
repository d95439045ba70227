"""Computes what a unit of work took (a sample, a token, a step, an epoch). Pure: from totals and a trainer's counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from greenml.record.schema import Quantity, SciScore, Totals

LEAST_COUNT, MOST_COUNT = 1e-6, 1e24  # of epochs, steps, samples and tokens


def sci(of: Totals, trainer: Mapping[str, Any]) -> list[SciScore]:
    """Return the software carbon intensity for each functional unit whose count is known.

    Args:
        of: the totals of the training phase.
        trainer: with ``counts``, as for ``derived``.

    Source: ISO/IEC 21031:2024, SCI = (E x I + M) / R; I is location-based, and no offset or certificate lowers it.
    """
    counts = _counts(trainer)
    made = []
    for name, unit, many in (
        ("samples", "1,000 samples", 1e3),
        ("tokens", "million tokens", 1e6),
        ("epochs", "epoch", 1.0),
    ):
        if name in counts:
            units = counts[name] / many
            operational, share = per(of.emissions_grams, units), per(of.embodied_grams, units)
            made.append(
                SciScore(
                    scope=of.scope, unit=unit, units=units, operational_grams=operational, embodied_grams=share,
                    total_grams=_sci_total(operational, share),
                )
            )  # fmt: skip
    return made


def _counts(trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return the counts of work that a run can have: of none, and of less than any work, nothing follows."""
    counts = trainer.get("counts")
    units = counts.items() if isinstance(counts, Mapping) else ()
    return {
        name: float(value)
        for name, value in units
        if isinstance(value, int | float) and LEAST_COUNT <= value <= MOST_COUNT
    }


def per(quantity: Quantity | None, units: float) -> Quantity:
    """Return a quantity for each of several units, with its interval.

    Args:
        quantity: of all of them; None is not known.
        units: how many, above zero.
    """
    if quantity is None:
        return Quantity(value=None, basis="assumed", why="not known")
    parts = {name: getattr(quantity, name) for name in ("value", "low", "high")}
    return quantity.model_copy(update={name: None if part is None else part / units for name, part in parts.items()})


def _sci_total(operational: Quantity, share: Quantity) -> Quantity:
    """Add a range to a figure: ends to ends, because published figures are no distribution."""
    if operational.value is None:
        return operational
    if share.low is None or share.high is None:
        return Quantity(value=None, basis="assumed", why=f"M is not known: {share.why}")
    low = operational.value if operational.low is None else operational.low
    high = operational.value if operational.high is None else operational.high
    return Quantity(value=None, low=low + share.low, high=high + share.high, basis="assumed", why=share.why)


def derived(of: Totals, trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return throughput and what a unit of work took, from a training phase's totals and the trainer's counts.

    Args:
        of: the totals of the training phase.
        trainer: with ``counts`` of ``samples``, ``tokens``, ``steps`` and ``epochs``, as far as they are known.
    """
    counts = _counts(trainer)
    joules, grams = of.it_energy_joules.value, of.emissions_grams.value
    made: dict[str, float] = {}
    for name, unit in (("samples", "sample"), ("tokens", "token")):
        if name in counts and of.seconds > 0:
            made[f"{name}_per_second"] = counts[name] / of.seconds
        if name in counts and joules is not None:
            made[f"joules_per_{unit}"] = joules / counts[name]
    for name, unit, many in (("epochs", "epoch", 1.0), ("steps", "1000_steps", 1000.0)):
        if name in counts:
            if grams is not None:
                made[f"emissions_grams_per_{unit}"] = grams / counts[name] * many
            for tier, usd in of.cost_usd.items():
                if usd.value is not None:
                    made[f"cost_usd_{tier}_per_{unit}"] = usd.value / counts[name] * many
    return {name: value for name, value in made.items() if math.isfinite(value)}
