"""Checks the settings of a run against the factors before it starts. ``track()`` imports it: no pydantic here."""

from __future__ import annotations

from dataclasses import replace

from greenml.errors import SettingsError
from greenml.factors import embodied, grid_average, places, prices, skus, user_given
from greenml.settings import MOST_NODES, Settings


def check(settings: Settings) -> Settings:
    """Check what the settings mean.

    Returns:
        The settings, with names as the tables have them.

    Raises:
        SettingsError: a SKU, region or tier does not exist, or a figure is out of range; says what would be right.
    """
    sku = skus.find(settings.sku) if settings.sku else None
    if settings.region not in ("", "auto"):
        places.find(settings.region, sku.cloud if sku else "")
    if settings.carbon_intensity is not None:
        user_given.carbon_intensity(settings.carbon_intensity)
    if settings.intensity:
        from greenml.factors import intensity_providers

        settings = replace(settings, intensity=intensity_providers.check(settings.intensity))
        if settings.carbon_intensity is not None:
            raise SettingsError("carbon_intensity and intensity are both given; give the figure or the provider")
    if settings.price_per_hour is not None:
        user_given.price(settings.price_per_hour)
    if settings.pue is not None:
        user_given.pue(settings.pue)
    if settings.market_intensity is not None:
        user_given.carbon_intensity(settings.market_intensity)
    if settings.lifetime_years is not None:
        embodied.lifetime(settings.lifetime_years)
    if settings.nodes is not None and not 1 <= settings.nodes <= MOST_NODES:
        raise SettingsError(f"nodes is {settings.nodes}; it must be 1 to {MOST_NODES}")
    tier = prices.tier_name(settings.tier) if settings.tier else None
    basis = grid_average.basis_name(settings.basis) if settings.basis else ""
    return replace(settings, basis=basis, sku=skus.unambiguous(sku) if sku else "", tier=tier)
