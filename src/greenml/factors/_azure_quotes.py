"""What an item of the Azure Retail Prices API means: a price that we want, or why it is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

TEXTS = (
    "serviceName", "type", "reservationTerm", "productName", "unitOfMeasure", "currencyCode", "armSkuName", "skuName",
    "armRegionName", "meterName", "effectiveStartDate", "effectiveEndDate",
)  # fmt: skip
AN_HOUR = ("1hour", "1/hour")


@dataclass(frozen=True, slots=True)
class Quote:
    """A price as the service lists it, of one of the sizes asked for.

    Attributes:
        effective_from: ISO date since which it holds.
        meter: the name of what is billed.
        primary: whether the meter's region is its primary one, which is what is charged.
    """

    sku: str
    region: str
    tier: str
    usd_per_hour: float
    effective_from: str
    meter: str
    primary: bool


def quote(item: Any, names: Mapping[str, str], regions: Sequence[str]) -> Quote | str:  # noqa: ANN401
    """Return an item as a quote, or in a few words why it is none that we want.

    Args:
        item: as the service gives it; anything.
        names: the service's name of each size asked for, in lower case, with ours.
        regions: the codes asked for; none for all.
    """
    if not isinstance(item, dict):
        return "not readable"
    cell = {name: str(item.get(name) or "").strip() for name in TEXTS}
    sku, region = names.get(cell["armSkuName"].lower(), ""), cell["armRegionName"].lower()
    product, usd = _packed(cell["productName"]), item.get("retailPrice")
    now = datetime.now(timezone.utc).isoformat()
    start, end = cell["effectiveStartDate"], cell["effectiveEndDate"]
    reasons = {
        "other services": cell["serviceName"] != "Virtual Machines",
        "reservations and Dev/Test": cell["type"] != "Consumption" or bool(cell["reservationTerm"]),
        "Windows": "windows" in product,
        "Cloud Services": "cloudservices" in product,
        "not by the hour": _packed(cell["unitOfMeasure"]) not in AN_HOUR,
        "not in USD": cell["currencyCode"] != "USD",
        "volume tiers": bool(item.get("tierMinimumUnits")),
        "other sizes": not sku,
        "other regions": not region or bool(regions and region not in regions),
        "not in force": start > now or bool(end and end < now),
        "no price": isinstance(usd, bool) or not isinstance(usd, int | float) or not math.isfinite(usd) or usd <= 0,
    }
    wrong = next((reason for reason, holds in reasons.items() if holds), "")
    if wrong:
        return wrong
    tier, primary = _tier(cell["meterName"], cell["skuName"]), item.get("isPrimaryMeterRegion") is True
    return Quote(sku, region, tier, float(usd or 0), start[:10], cell["meterName"], primary)


def best(quotes: Sequence[Quote]) -> list[Quote]:
    """Return one quote a size, region and tier: the primary meter's, of those the newest, of those the dearer."""
    found: dict[tuple[str, str, str], Quote] = {}
    for one in sorted(quotes, key=lambda one: (one.primary, one.effective_from, one.usd_per_hour)):
        found[one.sku, one.region, one.tier] = one
    return [found[key] for key in sorted(found)]


def _tier(*names: str) -> str:
    """Return what the ends of a meter's or size's names say: ``ND40rs v2 Low Priority``, ``D14/DS14 Spot``."""
    ends = [_packed(name) for name in names]
    if any(end.endswith("spot") for end in ends):
        return "spot"
    return "low_priority" if any(end.endswith("lowpriority") for end in ends) else "dedicated"


def _packed(text: str) -> str:
    return text.lower().replace(" ", "")
