"""Factors that the user gives: grams a kWh of a contract, dollars of an invoice, the hall's PUE."""

from __future__ import annotations

import math

from greenml.errors import SettingsError
from greenml.factors.types import CarbonIntensity, Price, Pue, Source

MOST_USD_PER_HOUR = 1e6  # of one node; the dearest of the tables is some hundreds

GIVEN = Source(name="given by the user")
MOST_GRAMS_PER_KWH = 3000.0  # lignite in an old plant has 1,200 to 1,400; the largest national figure is under 1,500
KG_PER_KWH_BELOW = 1.5  # every grid has under 1.5 kg/kWh, and none but pure hydropower under 1.5 g/kWh
LEAST_USUAL_GRAMS = 5.0
MOST_PUE = 5.0


def carbon_intensity(grams_per_kwh: float, low: float | None = None, high: float | None = None) -> CarbonIntensity:
    """Return a given carbon intensity.

    Args:
        grams_per_kwh: 0 to 3000 g CO2e/kWh. Above 0 and below 1.5 is refused as kg/kWh; below 5 has a note.
        low: of its interval; the value itself unless given.
        high: of its interval; the value itself unless given.

    Raises:
        SettingsError: a value is no carbon intensity in g/kWh, or lies outside its own interval.
    """
    grams = _number("carbon intensity", grams_per_kwh)
    if not 0 <= grams <= MOST_GRAMS_PER_KWH:
        raise SettingsError(f"carbon intensity {grams:g} g/kWh: give 0 to {MOST_GRAMS_PER_KWH:g} g CO2e/kWh")
    if 0 < grams < KG_PER_KWH_BELOW:
        message = f"carbon intensity {grams:g} g/kWh looks like kg/kWh; the unit is g/kWh, so give {grams * 1000:g}"
        raise SettingsError(message)
    lowest = grams if low is None else _number("low carbon intensity", low)
    highest = grams if high is None else _number("high carbon intensity", high)
    if not 0 <= lowest <= grams <= highest:
        raise SettingsError(
            f"carbon intensity {grams:g} g/kWh lies outside its interval, {lowest:g} to {highest:g} g/kWh"
        )
    note = f"{grams:g} g/kWh is very low; check that it is not kg/kWh" if 0 < grams < LEAST_USUAL_GRAMS else ""
    return CarbonIntensity(grams, lowest, highest, "given", "", None, "", GIVEN, note=note)


def price(usd_per_hour: float, tier: str = "", sku: str = "", region: str = "") -> Price:
    """Return a given price of one node.

    Args:
        usd_per_hour: 0 or more, USD an hour.
        tier: as the user calls it.
        sku: what it buys, where known.
        region: where it was paid, where known.

    Raises:
        SettingsError: the value is no price.
    """
    usd = _number("price", usd_per_hour)
    if not 0 <= usd <= MOST_USD_PER_HOUR:
        raise SettingsError(f"price {usd:g} USD an hour: give 0 or more, and at most {MOST_USD_PER_HOUR:g} for a node")
    return Price(usd, usd, usd, tier, sku, region, "", GIVEN)


def pue(ratio: float) -> Pue:
    """Return a given PUE (power usage effectiveness: facility energy over IT energy).

    Args:
        ratio: 1.0 to 5.0.

    Raises:
        SettingsError: the value is no PUE.

    Source: ISO/IEC 30134-2, a PUE cannot be under 1.
    """
    value = _number("PUE", ratio)
    if not 1.0 <= value <= MOST_PUE:
        hint = f"; {value:g} looks like a share of overhead, so give {1 + value:g}" if 0 < value < 1 else ""
        raise SettingsError(f"PUE {value:g}: facility energy over IT energy is 1.0 to {MOST_PUE:g}{hint}")
    return Pue(value, value, value, "given", None, GIVEN)


def _number(what: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SettingsError(f"{what} {value!r} is not a number") from None
    if not math.isfinite(number):
        raise SettingsError(f"{what} {value!r} is not a finite number")
    return number
