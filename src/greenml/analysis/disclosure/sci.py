"""Software carbon intensity of the making of a model, as JSON: per FLOP, per training token, per parameter.

Source: ISO/IEC 21031:2024, SCI = (E x I + M) / R; Green Software Foundation, SCI for AI, specification of 2026-01-12
(provider's boundary; a pre-standard): all epochs, sweeps, failed and stopped runs are inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from greenml.analysis.disclosure import model as disclosure
from greenml.analysis.disclosure.model import TRAINING_STAGES, Model, Run, added, json_text, kilowatt_hours, rounded
from greenml.record.schema import Quantity

UNITS = (
    ("flops", 1e15, "10^15 FLOP of the training"),
    ("training_tokens", 1e3, "1,000 training tokens"),
    ("parameters", 1e9, "10^9 parameters"),
)


def render(model: Model) -> str:
    """Write the score for each functional unit whose count is known, and what is inside the boundary."""
    runs = model.of(TRAINING_STAGES)
    energy = added([run.energy_joules for run in runs])
    operational = added([run.emissions_grams for run in runs])
    share = _embodied(runs)
    return json_text(
        {
            "specification": "SCI for AI, Green Software Foundation, 2026-01-12 (pre-standard); ISO/IEC 21031:2024",
            "model": model.name,
            "boundary": {
                "persona": "provider",
                "energy": disclosure.boundary(runs) if runs else "no run",
                "values": "gross: nothing is subtracted for offsets or certificates",
                "runs": [
                    {"run_id": run.record.run_id, "stage": run.stage, "status": run.record.status,
                     "energy_kwh": kilowatt_hours(run.energy_joules)}
                    for run in runs
                ],
            },
            "energy_kwh": kilowatt_hours(energy),
            "lower_bound": _is_bound(energy, operational, share),
            "operational_grams": _range(operational, 1.0),
            "embodied_grams": _range(share, 1.0),
            "scores": [_score(model.number(name), unit, words, operational, share) for name, unit, words in UNITS],
        }
    )  # fmt: skip


def _is_bound(energy: Quantity, operational: Quantity, share: Quantity | None) -> bool | None:
    """Tell whether one of the figures is a lower bound; None where none is known."""
    figures = [each for each in (energy, operational) if each.value is not None] + ([share] if share else [])
    return any(each.at_least for each in figures) if figures else None


def _embodied(runs: Sequence[Run]) -> Quantity | None:
    """Add the ranges of the hardware's making; open above where one run's is not known, None where none is."""
    shares = [run.total.embodied_grams if run.total else None for run in runs]
    known = [share for share in shares if share is not None and share.low is not None]
    if not known:
        return None
    highs = [share.high for share in known if share.high is not None]
    whole = len(highs) == len(shares)
    low = math.fsum(share.low or 0.0 for share in known)
    return Quantity(
        value=None, low=low, high=math.fsum(highs) if whole else None, basis="assumed", at_least=not whole
    )  # fmt: skip


def _score(
    count: float | None, unit: float, words: str, operational: Quantity, share: Quantity | None
) -> dict[str, Any]:
    if count is None:
        return {"functional_unit": words, "units": None, "why": "their number is not known"}
    total = None
    if share is not None and operational.value is not None:
        low = operational.value if operational.low is None else operational.low
        stated = operational.low is not None or operational.at_least  # else it has no interval: its value alone
        high = operational.high if stated else operational.value
        ends = None if high is None or share.high is None else high + share.high
        total = Quantity(value=None, low=low + (share.low or 0), high=ends, basis="derived")
    factor = unit / count
    return {
        "functional_unit": words,
        "units": float(f"{count / unit:.6g}"),
        "operational_grams_per_unit": _range(operational, factor),
        "embodied_grams_per_unit": _range(share, factor),
        "total_grams_per_unit": _range(total, factor),
    }


def _range(quantity: Quantity | None, factor: float) -> dict[str, float | None] | None:
    if quantity is None or (quantity.value is None and quantity.low is None):
        return None
    bounds = {"low": quantity.low, "high": quantity.high}
    ends = {name: None if bound is None else float(f"{bound * factor:.4g}") for name, bound in bounds.items()}
    return {"value": rounded(quantity, factor), **ends}
