"""List prices of cloud machines: Linux, pay as you go, USD an hour.

From the bundled tables, and from what ``greenml prices update`` fetched. No network here.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timezone

from greenml import tables
from greenml.errors import FactorError, SettingsError
from greenml.factors import _price_cache
from greenml.facts import Place, Price, Sku, Source

TIERS = ("dedicated", "low_priority", "spot")
OTHER_NAMES = {"on_demand": "dedicated", "ondemand": "dedicated", "lowpriority": "low_priority"}
EVERYWHERE = "any"
FETCHED_CLOUD = "azure"
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
    """Return the price of one node of a SKU, of the date nearest to the run, as ``prices`` finds it.

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

    Bundled and fetched prices are candidates alike: the date nearest to the run wins. Of two as near the fetched one
    wins, then the earlier. A low-priority price that was only ever fetched gives way to the derived one where the
    dedicated price is nearer to the run: a run of 2021 is not billed what a tier cost years later.

    A damaged table of fetched prices is passed over, and the prices say so in their notes.

    Args:
        sku: the machine size.
        place: the cloud's region.
        when: the run's time, UTC.
    """
    day = when.astimezone(timezone.utc).date()
    rows, trouble = tables.lookup("prices", sku.cloud, sku.name, EVERYWHERE), ""
    if place.region and place.cloud in {"", sku.cloud}:
        rows = rows or tables.lookup("prices", sku.cloud, sku.name, place.region)
        fetched, trouble = _fetched(sku)
        rows = [*rows, *(row for row in fetched if row["region"] == place.region)]
    found: dict[str, Price] = {}
    for tier in TIERS:
        listed = _nearest([row for row in rows if row["tier"] == tier], day)
        derived = None
        if tier == "low_priority" and sku.cloud == "azure" and "dedicated" in found:
            derived = _low_priority(found["dedicated"], day)
        only_fetched = all(_is_fetched(row) for row in rows if row["tier"] == tier)
        if derived and (listed is None or (only_fetched and _days(derived.as_of, day) < _days(listed["as_of"], day))):
            found[tier] = derived
        elif listed is not None:
            found[tier] = _listed(listed, day)
    if trouble:
        found = {tier: replace(one, note="; ".join(filter(None, (one.note, trouble)))) for tier, one in found.items()}
    return found


def regions(sku: Sku) -> list[str]:
    """Return the regions in which a SKU has a price, sorted; ``any`` where it has one price everywhere."""
    fetched, _ = _fetched(sku)
    return sorted({row["region"] for row in (*tables.lookup("prices", sku.cloud, sku.name), *fetched)})


def _fetched(sku: Sku) -> tuple[list[tables.Row], str]:
    return _price_cache.lookup(sku.cloud, sku.name) if sku.cloud == FETCHED_CLOUD else ([], "")


def age(as_of: str, day: date) -> str:
    """Return the note of a price that is more than a year from the run."""
    return f"price of {as_of} for a run of {day.isoformat()}"


def _nearest(rows: list[tables.Row], day: date) -> tables.Row | None:
    return min(rows, key=lambda row: (_days(row["as_of"], day), not _is_fetched(row), row["as_of"]), default=None)


def _is_fetched(row: tables.Row) -> bool:
    return "url" in row


def _days(as_of: str, day: date) -> int:
    return abs((date.fromisoformat(as_of) - day).days)


def _listed(row: tables.Row, day: date) -> Price:
    usd = float(row["usd_per_hour"])
    notes = [age(row["as_of"], day)] if _days(row["as_of"], day) > OLD_DAYS else []
    if row["sku"].startswith("gpu:"):
        notes.append("one attached GPU, its machine is priced apart; age of the figure not stated")
    note = "; ".join(notes)
    return Price(usd, usd, usd, row["tier"], row["sku"], row["region"], row["as_of"], _source(row), note=note)


def _source(row: tables.Row) -> Source:
    if _is_fetched(row):
        return Source(f"Azure Retail Prices API, fetched {row['as_of']}", row["url"], row["as_of"])
    return tables.source(row["source"], row["as_of"])


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
    found = regions(sku)
    if not found:
        return f"no price of {sku.cloud}'s {sku.name} in tables {tables.version()}; give the price an hour"
    more = f" and {len(found) - REGIONS_NAMED} more" if len(found) > REGIONS_NAMED else ""
    named = ", ".join(found[:REGIONS_NAMED]) + more
    return f"no price of {sku.cloud}'s {sku.name} in {_where(place)}; regions with a price: {named}"
