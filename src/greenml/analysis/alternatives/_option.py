"""One other way to run a training, and whether its difference from the run is more than the factors' doubts.

The energy is the same on both sides, so its doubt cancels in the comparison; only factors that differ count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from greenml.record import Factor, Factors, Quantity
from greenml.units import JOULES_PER_KWH

Measure = Literal["carbon", "cost"]
OLD_DAYS = 366  # prices whose dates are further apart are not of one market


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run it.

    Attributes:
        name: what changes: a region, a tier, a machine size.
        region: where that is; empty where the seller names no region.
        sku: on what.
        tier: whose price is compared.
        factors: what was assumed there.
        energy_joules: IT energy, that of the run.
        emissions_grams, cost_usd: of the whole run; the cost is by tier.
        change_grams, change_usd: less the run's own, in ``tier``; None where either is not known.
        carbon_apart, cost_apart: whether the change is more than the doubts of the factors; None where not known.
        comparable: its carbon intensity has the basis of the run's.
        warnings: what a reader must know of this one.
        is_run: this is how it was run.
    """

    name: str
    region: str
    sku: str
    tier: str
    factors: Factors
    energy_joules: float | None
    emissions_grams: Quantity
    cost_usd: dict[str, Quantity]
    change_grams: float | None = None
    change_usd: float | None = None
    carbon_apart: bool | None = None
    cost_apart: bool | None = None
    comparable: bool = True
    warnings: tuple[str, ...] = ()
    is_run: bool = False

    @property
    def usd(self) -> float | None:
        """What it costs in its tier."""
        cost = self.cost_usd.get(self.tier)
        return cost.value if cost is not None else None

    def value(self, by: Measure) -> float | None:
        """Return what it is ranked by."""
        return self.emissions_grams.value if by == "carbon" else self.usd


def ranked(options: Sequence[Option], by: Measure) -> list[Option]:
    """Return the options from the least; those of which nothing is known come last."""
    return sorted(options, key=lambda one: math.inf if (value := one.value(by)) is None else value)


def compared(option: Option, run: Option, warnings: Sequence[str] = ()) -> Option:
    """Return the option with its differences from the run, and what makes them hard to compare.

    Args:
        option: not yet compared.
        run: as it was.
        warnings: what is known of the option already.
    """
    warned = list(warnings)
    here, there = run.factors.carbon_intensity, option.factors.carbon_intensity
    comparable = here is None or there is None or here.basis == there.basis or (_given(here) and not here.basis)
    if here is not None and there is not None and not comparable:
        warned.append(f"its intensity is {_basis(there)}, the run's {_basis(here)}: not directly comparable")
    if here is not None and here.scope == "course" and there is not None and there.scope != "course":
        warned.append("the run's intensity is that of its own hours, this one a yearly mean")
    if _given(here) and not _given(there):
        warned.append("the run's intensity was given, this one is the tables'")
    mine, other = run.factors.prices.get(run.tier), option.factors.prices.get(option.tier)
    if _given(mine) and not _given(other):
        warned.append("the run's price was given, this one is a list price")
    if mine is not None and other is not None and days_apart(mine, other) > OLD_DAYS:
        warned.append(f"price of {other.source.published}, the run's of {mine.source.published}")
    grams = _difference(option.emissions_grams.value, run.emissions_grams.value)
    usd = _difference(option.usd, run.usd)
    return replace(
        option,
        change_grams=grams,
        change_usd=usd,
        carbon_apart=None if grams is None else abs(grams) > carbon_doubt(option, run),
        cost_apart=None if usd is None else abs(usd) > cost_doubt(option, run),
        comparable=comparable,
        warnings=tuple(warned),
    )


def _given(factor: Factor | None) -> bool:
    return factor is not None and factor.scope == "given"


def _basis(factor: Factor) -> str:
    return factor.basis or "of no known basis"


def _difference(value: float | None, run: float | None) -> float | None:
    return None if value is None or run is None else value - run


def days_apart(one: Factor, other: Factor) -> int:
    """Return how far the dates of two prices are apart; 0 where one has none."""
    try:
        dates = [date.fromisoformat(price.source.published) for price in (one, other)]
    except ValueError:  # given by the user: it has no date
        return 0
    return abs((dates[0] - dates[1]).days)


def carbon_doubt(option: Option, run: Option) -> float:
    """Return the doubt of the difference of emissions, grams.

    Each factor that differs may lie toward the other option by its band; the terms are independent and add in
    quadrature. A carbon intensity of the same area and year is the same figure, and cancels. The PUE cancels in one
    region only: a provider's average stands for each of its regions with a doubt of its own.

    Source: propagation of independent errors (JCGM 100:2008, section 5.1), with bands for standard uncertainties.
    """
    if run.energy_joules is None:
        return 0.0
    kwh = run.energy_joules / JOULES_PER_KWH
    lower, higher = ranked([option, run], "carbon")
    terms = [0.0]
    same_grid = _figure(option.factors.carbon_intensity) == _figure(run.factors.carbon_intensity)
    for one, up in ((lower, True), (higher, False)):
        intensity, pue = one.factors.carbon_intensity, one.factors.pue
        if intensity is None or pue is None:
            continue
        if not same_grid:
            terms.append(_side(intensity, up=up) * pue.value * kwh)
        if option.region != run.region:
            terms.append(_side(pue, up=up) * intensity.value * kwh)
    return math.hypot(*terms)


def _side(factor: Factor, *, up: bool) -> float:
    return factor.high - factor.value if up else factor.value - factor.low


def _figure(factor: Factor | None) -> tuple[object, ...]:
    return () if factor is None else (factor.value, factor.scope, factor.code, factor.year, factor.source.name)


def cost_doubt(option: Option, run: Option) -> float:
    """Return the doubt of the difference of costs, USD: each one's price may lie toward the other's by its band."""
    lower, higher = (one.cost_usd.get(one.tier) for one in ranked([option, run], "cost"))
    terms = [0.0]
    if lower is not None and lower.value is not None and lower.high is not None:
        terms.append(lower.high - lower.value)
    if higher is not None and higher.value is not None and higher.low is not None:
        terms.append(higher.value - higher.low)
    return math.hypot(*terms)
