"""Budgets of money, carbon and energy."""

from __future__ import annotations

import time

import greenml
from greenml import assumptions
from greenml.settings import Settings

JOULES_PER_KWH = 3_600_000.0
PATIENCE_SECONDS = 10.0  # by then the place is known, and every sensor has been read


class Budget:
    """What a run may use.

    Args:
        usd, kg, kwh: None for no limit.
        tier: whose price counts.
        dry_run: only warn.
        patience_seconds: after this a figure that is not known yet will not be.
    """

    def __init__(
        self,
        usd: float | None,
        kg: float | None,
        kwh: float | None,
        tier: str,
        *,
        dry_run: bool,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._limits = {"max_usd": usd, "max_kg": kg, "max_kwh": kwh}
        self.tier, self.dry_run, self.told = tier, dry_run, False
        self._patience_seconds, self._asked_seconds = patience_seconds, 0.0
        self.helpless = ""  # which limits cannot act, and why, once that is told

    @property
    def given(self) -> bool:
        """True where there is any limit."""
        return any(limit is not None for limit in self._limits.values())

    def check(self, settings: Settings) -> None:
        """Check the limits, for a run with these settings; a place that the machine is yet to tell may have a price.

        Raises:
            SettingsError: one is not above 0, or money has no price.
        """
        for name, limit in self._limits.items():
            if limit is not None and not limit > 0:
                raise greenml.SettingsError(f"{name} is {limit!r}; it must be above 0")
        if self._limits["max_usd"] is None or settings.price_per_hour is not None:
            return
        priced = settings.sku and (settings.region == "auto" or self.tier in assumptions.outlook(settings).prices)
        if not priced:
            raise greenml.SettingsError(
                f"max_usd needs a {self.tier} price: give sku= and a region= that has one, or price_per_hour="
            )

    def cannot_act(self, totals: greenml.Totals) -> str:
        """Return, once, which limits cannot act since what they limit is not known; "" early in a run, and later."""
        self._asked_seconds = self._asked_seconds or time.monotonic()
        if self.helpless or time.monotonic() - self._asked_seconds < self._patience_seconds:
            return ""
        used = self._used(totals)
        unknown = [name for name, limit in self._limits.items() if limit is not None and used[name] is None]
        why = {
            "max_usd": f"no {self.tier} price of this run's machines is known",
            "max_kg": "the emissions are not known",
            "max_kwh": "the energy is not known",
        }
        self.helpless = "; ".join(f"{name} cannot act: {why[name]}" for name in unknown)
        return self.helpless

    def exceeded(self, totals: greenml.Totals) -> str:
        """Return what is used up, in words; "" where nothing is, or it is not known."""
        used = self._used(totals)
        for name, limit in self._limits.items():
            value = used[name]
            if limit is not None and value is not None and value >= limit:
                return f"{name}={limit:g} is used up ({value:.4g})"
        return ""

    def _used(self, totals: greenml.Totals) -> dict[str, float | None]:
        joules, grams = totals.energy_joules, totals.emissions_grams
        return {
            "max_usd": totals.cost_usd.get(self.tier),
            "max_kg": None if grams is None else grams / 1000,
            "max_kwh": None if joules is None else joules / JOULES_PER_KWH,
        }
