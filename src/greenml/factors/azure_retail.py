"""Azure's list prices of today, from the Azure Retail Prices API: public, without a key, asked only by name.

It keeps the hourly prices of virtual machines for Linux, pay as you go, in USD, with their tier: dedicated, low
priority or spot. It leaves out Windows, Cloud Services, reservations, Dev/Test, volume tiers, prices that are not in
force and those of other sizes.

Source: Microsoft, "Azure Retail Prices overview", learn.microsoft.com/rest/api/cost-management/retail-prices; its
fields, filters and paging by ``NextPageLink`` as of api-version 2023-01-01-preview, in which filters mind case.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from greenml.errors import FactorError
from greenml.factors._http import ServiceError, get_json
from greenml.factors.prices import Merged, merge, updating
from greenml.factors.tables import Row
from greenml.factors.types import Sku

URL = "https://prices.azure.com/api/retail/prices"
URL_VARIABLE = "GREENML_AZURE_PRICES_URL"
API_VERSION = "2023-01-01-preview"
WHO = "Azure Retail Prices"
SKUS_A_QUERY = 10  # a longer filter is refused
REGIONS_A_QUERY = 5  # more are left to us
PAGE_SECONDS = 60.0
ATTEMPTS = 6
MOST_PAGES = 20_000
# Sizes that the price list names otherwise than the compute API does.
ALSO_NAMED = {"ND96asr_v4": "Standard_ND96asr_A100_v4"}


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


@dataclass(frozen=True, slots=True)
class Update:
    """What an update did.

    Attributes:
        as_of: the date of its prices, UTC.
        items: how many the service listed; pages: in how many pages.
        prices: rows that were kept; sizes, regions: of how many.
        left_out: why others were not kept, with how many.
        table: what became of the table.
    """

    as_of: str
    items: int
    pages: int
    prices: int
    sizes: int
    regions: int
    left_out: Mapping[str, int]
    table: Merged


def address() -> str:
    """Return the service's address: ``GREENML_AZURE_PRICES_URL`` where that is set, for a mirror or a test."""
    return os.environ.get(URL_VARIABLE, "").strip() or URL


def update(
    skus: Sequence[Sku],
    regions: Sequence[str] = (),
    *,
    report: Callable[[str], object] = lambda _: None,
    wait: Callable[[float], object] = time.sleep,
) -> Update:
    """Fetch the prices of some sizes and keep them, dated, in the user's cache folder.

    Args:
        skus: Azure's, at least one.
        regions: region codes; none for all.
        report: is called with the progress, one line each time.
        wait: is called with the pause before a request is made again, in seconds.

    Raises:
        FactorError: no answer, no price among the answers, another update at work, or no place to write. The table is
            as it was.
    """
    day = datetime.now(timezone.utc).date().isoformat()
    quotes: list[Quote] = []
    left_out: Counter[str] = Counter()
    items = pages = 0
    with updating():
        names = {name.lower(): sku for name, sku in _names(skus).items()}
        for page in _pages(list(_queries(skus, regions)), wait):
            items, pages = items + len(page), pages + 1
            for item in page:
                listed = quote(item, names, regions)
                if isinstance(listed, Quote):
                    quotes.append(listed)
                else:
                    left_out[listed] += 1
            report(f"{WHO}: {items:,} items in {pages} pages")
        chosen = best(quotes)
        if not chosen:
            named = ", ".join(sku.name for sku in skus[:3]) + (" ..." if len(skus) > 3 else "")
            where = f" in {', '.join(regions)}" if regions else ""
            raise FactorError(f"{WHO}: no hourly Linux price of {named}{where}; the table is as it was")
        if len(quotes) > len(chosen):
            left_out["further meters of the same price"] += len(quotes) - len(chosen)
        merged = merge(_row(choice, day) for choice in chosen)
    return Update(
        as_of=day,
        items=items,
        pages=pages,
        prices=len(chosen),
        sizes=len({choice.sku for choice in chosen}),
        regions=len({choice.region for choice in chosen}),
        left_out=left_out,
        table=merged,
    )


def _queries(skus: Sequence[Sku], regions: Sequence[str]) -> Iterator[str]:
    """Yield filters that together name every size, and the regions where they are few."""
    names = sorted(_names(skus))
    where = ""
    if 0 < len(regions) <= REGIONS_A_QUERY:
        where = " and (" + " or ".join(f"armRegionName eq '{region}'" for region in sorted(regions)) + ")"
    for start in range(0, len(names), SKUS_A_QUERY):
        sizes = " or ".join(f"armSkuName eq '{name}'" for name in names[start : start + SKUS_A_QUERY])
        yield f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and ({sizes}){where}"


def _names(skus: Sequence[Sku]) -> dict[str, str]:
    """Return the service's names of the sizes, each with ours."""
    names = {sku.arm_name: sku.name for sku in skus}
    return names | {ALSO_NAMED[sku.name]: sku.name for sku in skus if sku.name in ALSO_NAMED}


def _pages(queries: Sequence[str], wait: Callable[[float], object]) -> Iterator[list[Any]]:
    """Yield the items of each page of the answers to some queries."""
    seen: set[str] = set()
    for query in queries:
        url = ""
        params: Mapping[str, str] | None = {"api-version": API_VERSION, "$filter": query}
        while True:
            answer = get_json(
                url or address(),
                params=params,
                auth=_login(address()),
                who=WHO,
                deadline_seconds=PAGE_SECONDS,
                attempts=ATTEMPTS,
                wait=wait,
            )
            items, url = _page(answer)
            yield items
            if not url:
                break
            if url in seen or len(seen) >= MOST_PAGES:
                raise ServiceError(f"{WHO}: its pages lead in a circle; try again later")
            seen.add(url)
            params = None


def _page(answer: Any) -> tuple[list[Any], str]:  # noqa: ANN401  what a service says may be anything
    """Return a page's items and the address of the next one, "" for none."""
    items = answer.get("Items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ServiceError(f"{WHO}: its answer has no list of items; look whether a proxy answers in its place")
    url = answer.get("NextPageLink") or ""
    if url and (not isinstance(url, str) or _host(url) != _host(address())):
        raise ServiceError(f"{WHO}: its next page is on another host than {_host(address())}; it was not asked for")
    return items, url


def quote(item: Any, names: Mapping[str, str], regions: Sequence[str]) -> Quote | str:  # noqa: ANN401
    """Return an item as a quote, or in a few words why it is not one.

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
    best_by_key: dict[tuple[str, str, str], Quote] = {}
    for listed in sorted(quotes, key=lambda each: (each.primary, each.effective_from, each.usd_per_hour)):
        best_by_key[listed.sku, listed.region, listed.tier] = listed
    return [best_by_key[key] for key in sorted(best_by_key)]


def _tier(*names: str) -> str:
    """Return what the ends of a meter's or size's names say: ``ND40rs v2 Low Priority``, ``D14/DS14 Spot``."""
    ends = [_packed(name) for name in names]
    if any(end.endswith("spot") for end in ends):
        return "spot"
    return "low_priority" if any(end.endswith("lowpriority") for end in ends) else "dedicated"


def _packed(text: str) -> str:
    return text.lower().replace(" ", "")


def _row(choice: Quote, day: str) -> Row:
    return {
        "cloud": "azure",
        "sku": choice.sku,
        "region": choice.region,
        "tier": choice.tier,
        "usd_per_hour": repr(choice.usd_per_hour),
        "as_of": day,
        "effective_from": choice.effective_from,
        "meter": choice.meter,
        "url": _shown(address()),
    }


def _shown(url: str) -> str:
    """Return an address without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _login(url: str) -> tuple[str, str] | None:
    """Return the user and password in a mirror's address, which its next pages want too."""
    parts = urlsplit(url)
    return (unquote(parts.username), unquote(parts.password or "")) if parts.username else None


def _host(url: str) -> str:
    """Return scheme, host and port."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or {'https': 443, 'http': 80}.get(parts.scheme)}"
    except ValueError:
        return ""
