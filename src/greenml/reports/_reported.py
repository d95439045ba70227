"""What another tool told of energy and emissions, as numbers in SI."""

from __future__ import annotations

import math

from greenml.record import ReportedEmissions
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH


def energy_joules(told: ReportedEmissions) -> float | None:
    """Return the energy of a tool's row; None where it has no number of it."""
    return _number(told, "energy_consumed", JOULES_PER_KWH)


def emissions_grams(told: ReportedEmissions) -> float | None:
    """Return the emissions of a tool's row; None where it has no number of them."""
    return _number(told, "emissions", GRAMS_PER_KG)


def _number(told: ReportedEmissions, key: str, unit: float) -> float | None:
    try:
        value = float(told.row.get(key, "")) * unit
    except ValueError:
        return None
    return value if math.isfinite(value) else None
