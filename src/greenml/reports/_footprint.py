"""What a run caused beyond its operation, in words: water, embodied carbon, SCI, and a contract's emissions."""

from __future__ import annotations

from collections.abc import Callable

from greenml.record import RunRecord, Spread
from greenml.reports import _format
from greenml.units import SECONDS_PER_HOUR

SECONDS_PER_YEAR = 365 * 24 * SECONDS_PER_HOUR

Row = tuple[str, str, str, str]  # name, value, band, how it is known


def rows(record: RunRecord, mass: Callable[[float], str] = _format.mass) -> list[Row]:
    """Return a row for each figure that is known; a range has no value of its own."""
    total = record.total()
    if total is None:
        return []
    found: list[Row] = []
    market, water, embodied = total.market_emissions_grams, total.water_liters, total.embodied_grams
    if market is not None and market.value is not None:
        found.append(("Market-based", mass(market.value), _format.band(market, mass), "the contract's figure"))
    if water is not None and water.value is not None:
        how = ", ".join(part for part in (water.basis, water.why) if part)
        found.append(("Water, on site", _format.liters(water.value), _format.band(water, _format.liters), how))
    if _format.span(embodied, mass) and embodied is not None:
        found.append(("Embodied, share", "a range", _format.span(embodied, mass), embodied.why))
    elif found and embodied is not None and embodied.why and any(device.kind == "gpu" for device in record.devices):
        found.append(("Embodied, share", _format.NOT_KNOWN, "", embodied.why))
    for score in record.sci:
        whole, operation = _format.span(score.total_grams, mass), score.operational_grams
        name = f"SCI per {score.unit}"
        if whole:
            share = _format.span(score.embodied_grams, mass)
            how = f"operation {_format.figure(operation, mass)}, embodied {share}"
            found.append((name, "a range", whole, how))
        elif operation.value is not None:
            how = f"operation only; {_format.reason(score.total_grams)}"
            found.append((name, mass(operation.value), _format.band(operation, mass), how))
    return found


def factor_lines(record: RunRecord) -> list[str]:
    """Return a line for each factor of those figures, with its range and sources."""
    factors = record.factors
    lines = []
    if factors.market_intensity is not None:
        lines.append(f"Market-based carbon intensity: {_format.factor(factors.market_intensity)}")
    if factors.wue is not None:
        lines.append(f"Water (WUE), without the power plants': {_format.factor(factors.wue)}")
    if factors.embodied and factors.lifetime is not None:
        lines += [f"Embodied carbon of {_counted(one)}: {_spread(one, _format.mass)}" for one in factors.embodied]
        lines.append(f"Lifetime of hardware: {_spread(factors.lifetime, _years)}")
    return lines


def _counted(one: Spread) -> str:
    name = "one server without its GPUs" if one.code == "server" else f"one {one.code}"
    return f"{name}, {_format.number(one.count)} took part"


def _spread(one: Spread, write: Callable[[float], str]) -> str:
    sources = "; ".join(_format.source(source) for source in one.sources)
    note = f": {one.note}" if one.note else ""
    return f"{_format.interval(one.low, one.high, write) or write(one.low)}{note}; source: {sources}"


def _years(seconds: float) -> str:
    return f"{_format.number(seconds / SECONDS_PER_YEAR, 3)} years"
