"""Budgets of money, carbon and energy."""

from __future__ import annotations

import greenml

JOULES_PER_KWH = 3_600_000.0


class Budget:
    """What a run may use.

    Args:
        usd, kg, kwh: None for no limit.
        tier: whose price counts.
        dry_run: only warn.
    """

    def __init__(self, usd: float | None, kg: float | None, kwh: float | None, tier: str, *, dry_run: bool) -> None:
        self._limits = {"max_usd": usd, "max_kg": kg, "max_kwh": kwh}
        self.tier, self.dry_run, self.told = tier, dry_run, False

    @property
    def given(self) -> bool:
        """True where there is any limit."""
        return any(limit is not None for limit in self._limits.values())

    def check(self, *, priced: bool) -> None:
        """Check the limits.

        Raises:
            SettingsError: one is not above 0, or money has no price.
        """
        for name, limit in self._limits.items():
            if limit is not None and not limit > 0:
                raise greenml.SettingsError(f"{name} is {limit!r}; it must be above 0")
        if self._limits["max_usd"] is not None and not priced:
            raise greenml.SettingsError("max_usd needs a price: give sku= and region=, or price_per_hour=")

    def exceeded(self, totals: greenml.Totals) -> str:
        """Return what is used up, in words; "" where nothing is, or it is not known."""
        joules, grams = totals.energy_joules, totals.emissions_grams
        used = {
            "max_usd": totals.cost_usd.get(self.tier),
            "max_kg": None if grams is None else grams / 1000,
            "max_kwh": None if joules is None else joules / JOULES_PER_KWH,
        }
        for name, limit in self._limits.items():
            value = used[name]
            if limit is not None and value is not None and value >= limit:
                return f"{name}={limit:g} is used up ({value:.4g})"
        return ""
