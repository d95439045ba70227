"""Rows for a ledger of a company's energy and emissions: by month, country and stage, as CSV.

Source: ESRS E1-5 and E1-6 (Regulation (EU) 2023/2772); GHG Protocol Scope 2 Guidance: location-based and market-based
figures side by side; what a cloud customer's runs emit is scope 3, category 1 (purchased goods and services).
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from greenml.analysis.disclosure.model import Model, Run, added, rounded
from greenml.record.schema import Quantity
from greenml.redaction import csv_cell
from greenml.units import JOULES_PER_KWH

MEGAWATT_HOURS = 1 / JOULES_PER_KWH / 1000
TONNES = 1e-6
COLUMNS = (
    "month", "country", "region", "stage", "category", "runs", "energy_mwh", "energy_low_mwh", "energy_high_mwh",
    "location_based_tco2e", "location_based_low_tco2e", "location_based_high_tco2e", "market_based_tco2e",
    "includes_pue", "energy_lower_bound", "location_based_lower_bound", "market_based_lower_bound", "months_split_by",
)  # fmt: skip


def render(model: Model) -> str:
    """Write a row a month, country, region and stage. A run over several months is shared out by its time."""
    groups: dict[tuple[str, ...], list[tuple[Run, float]]] = defaultdict(list)
    for run in model.runs:
        place = run.record.place
        country = place.country_iso3 or model.answer("country") or ""
        infrastructure = model.answer("infrastructure") or ""
        category = "scope 2" if infrastructure == "onPremise" else "scope 3, category 1" if infrastructure else ""
        for month, share in _months(run):
            region = f"{place.cloud} {place.region}".strip()
            groups[month, country, region, run.stage, category].append((run, share))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, parts in sorted(groups.items()):
        energy = added([_part(run.energy_joules, share) for run, share in parts])
        location = added([_part(run.emissions_grams, share) for run, share in parts])
        market = added([_part(_market(run), share) for run, share in parts])
        split = "time" if any(share < 1 for _, share in parts) else ""
        pue = {run.has_pue for run, _ in parts if run.energy_joules.value is not None}
        cells = [
            *key, len({id(run) for run, _ in parts}), *_three(energy, MEGAWATT_HOURS), *_three(location, TONNES),
            _three(market, TONNES)[0], "some" if len(pue) > 1 else "yes" if True in pue else "no" if pue else "",
            *(_bound(figure) for figure in (energy, location, market)), split,
        ]  # fmt: skip
        writer.writerow([csv_cell(cell) for cell in cells])
    return stream.getvalue()


def _bound(figure: Quantity) -> str:
    """Say whether a figure is a lower bound; nothing of one that is not known."""
    return "" if figure.value is None else "yes" if figure.at_least else "no"


def _market(run: Run) -> Quantity:
    market = run.total.market_emissions_grams if run.total else None
    return market or Quantity(value=None, basis="assumed", why="no contract's figure was given")


def _part(quantity: Quantity, share: float) -> Quantity:
    scaled = {
        name: None if (value := getattr(quantity, name)) is None else value * share for name in ("value", "low", "high")
    }
    return quantity.model_copy(update=scaled)


def _three(quantity: Quantity, unit: float) -> tuple[float | str, float | str, float | str]:
    value = rounded(quantity, unit)
    bounds = (quantity.low, quantity.high)
    low, high = ("" if bound is None else float(f"{bound * unit:.6g}") for bound in bounds)
    return "" if value is None else value, low, high


def _months(run: Run) -> Iterator[tuple[str, float]]:
    """Yield each month that a run lies in, with the share of its time in it."""
    seconds: dict[str, float] = defaultdict(float)
    for start, end in run.record.windows:
        at = start.astimezone(timezone.utc)
        while at < end:
            following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=timezone.utc)
            until = min(end, following)
            seconds[f"{at.year}-{at.month:02}"] += (until - at) / timedelta(seconds=1)
            at = until
    total = math.fsum(seconds.values())
    if not total:
        yield f"{run.record.started:%Y-%m}", 1.0
        return
    for month, part in seconds.items():
        yield month, part / total
