"""List prices of cloud machines, from the bundled tables: Linux, pay as you go, USD an hour."""

from __future__ import annotations

from datetime import date, datetime, timezone

from greenml import tables
from greenml.errors import FactorError, SettingsError
from greenml.model import Place, Price, Sku

TIERS = ("dedicated", "low_priority", "spot")
OTHER_NAMES = {"on_demand": "dedicated", "ondemand": "dedicated", "lowpriority": "low_priority"}
EVERYWHERE = "any"
LOW_PRIORITY_RATIO, LOW_PRIORITY_LOW, LOW_PRIORITY_HIGH = 0.20, 0.195, 0.205
LOW_PRIORITY_RULE = "derived: 0.20 x dedicated; of Azure's Linux prices of 2020-08-30, 95 % lie in 0.195 to 0.205"
LAST_LOW_PRIORITY_YEAR = 2025
OLD_DAYS = 366
REGIONS_NAMED = 12


def tier_name(tier: str) -> str:
    """Return a tier as the tables name it: ``dedicated`` (also on-demand), ``low_priority``, ``spot``.

    Raises:
        SettingsError: there is no such tier.
    """
    name = tier.strip().lower().replace("-", "_").replace(" ", "_")
    name = OTHER_NAMES.get(name, name)
    if name not in TIERS:
        raise SettingsError(f"unknown price tier {tier!r}; give one of {', '.join(TIERS)}")
    return name


def price(sku: Sku, place: Place, tier: str, when: datetime) -> Price:
    """Return the price of one node of a SKU, of the date nearest to the run (of two as near, the earlier).

    Azure's low-priority prices were last published on 2020-08-30. Where a size has none, it is 0.20 x the
    dedicated price, marked derived, with a band of 0.195 to 0.205.

    Args:
        sku: the machine size.
        place: the cloud's region; may be empty for a SKU with one price everywhere.
        tier: dedicated, low_priority or spot; on_demand means dedicated.
        when: the run's time, UTC.

    Raises:
        FactorError: the tables have no such price; the message lists what they have.
        SettingsError: there is no such tier.

    Source: the price's own, in ``greenml/data/SOURCES.md``; the rule: Apache Libcloud's price list of
    2020-08-30, in which the ratio's median over 7,128 pairs is 0.2000.
    """
    name = tier_name(tier)
    found = prices(sku, place, when)
    if name in found:
        return found[name]
    if found:
        raise FactorError(f"no {name} price of {sku.name} in {_where(place)}; prices there: {', '.join(found)}")
    raise FactorError(_no_price(sku, place))


def prices(sku: Sku, place: Place, when: datetime) -> dict[str, Price]:
    """Return the SKU's price in every tier that has one there, by tier; empty where there is none.

    Args:
        sku: the machine size.
        place: the cloud's region.
        when: the run's time, UTC.
    """
    day = when.astimezone(timezone.utc).date()
    rows = tables.lookup("prices", sku.cloud, sku.name, EVERYWHERE)
    if place.region and place.cloud in {"", sku.cloud}:
        rows = rows or tables.lookup("prices", sku.cloud, sku.name, place.region)
    found = {}
    for tier in TIERS:
        dated = [row for row in rows if row["tier"] == tier]
        if dated:
            found[tier] = _listed(min(dated, key=lambda row: (_days(row["as_of"], day), row["as_of"])), day)
        elif tier == "low_priority" and sku.cloud == "azure" and "dedicated" in found:
            found[tier] = _low_priority(found["dedicated"], day)
    return found


def _days(as_of: str, day: date) -> int:
    return abs((date.fromisoformat(as_of) - day).days)


def _listed(row: tables.Row, day: date) -> Price:
    usd = float(row["usd_per_hour"])
    notes = []
    if _days(row["as_of"], day) > OLD_DAYS:
        notes.append(f"price of {row['as_of']} for a run of {day.isoformat()}")
    if row["sku"].startswith("gpu:"):
        notes.append("one attached GPU, its machine is priced apart; age of the figure not stated")
    source = tables.source(row["source"], row["as_of"])
    return Price(usd, usd, usd, row["tier"], row["sku"], row["region"], row["as_of"], source, note="; ".join(notes))


def _low_priority(dedicated: Price, day: date) -> Price:
    notes = [LOW_PRIORITY_RULE]
    if day.year > LAST_LOW_PRIORITY_YEAR:
        notes.append(f"Azure has no low-priority prices after {LAST_LOW_PRIORITY_YEAR}")
    if dedicated.note:
        notes.append(dedicated.note)
    usd, low, high = (
        round(dedicated.usd_per_hour * ratio, 6) for ratio in (LOW_PRIORITY_RATIO, LOW_PRIORITY_LOW, LOW_PRIORITY_HIGH)
    )
    return Price(
        usd_per_hour=usd,
        low=low,
        high=high,
        tier="low_priority",
        sku=dedicated.sku,
        region=dedicated.region,
        as_of=dedicated.as_of,
        source=dedicated.source,
        derived=True,
        note="; ".join(notes),
    )


def _where(place: Place) -> str:
    if not place.region:
        return place.display_name or "an unknown region"
    return f"{place.cloud}/{place.region}" if place.cloud else place.region


def _no_price(sku: Sku, place: Place) -> str:
    regions = list(dict.fromkeys(row["region"] for row in tables.lookup("prices", sku.cloud, sku.name)))
    if not regions:
        return f"no price of {sku.cloud}'s {sku.name} in tables {tables.version()}; give the price an hour"
    more = f" and {len(regions) - REGIONS_NAMED} more" if len(regions) > REGIONS_NAMED else ""
    named = ", ".join(regions[:REGIONS_NAMED]) + more
    return f"no price of {sku.cloud}'s {sku.name} in {_where(place)}; regions with a price: {named}"
