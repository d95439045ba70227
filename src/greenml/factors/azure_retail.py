"""Azure's list prices of today, from the Azure Retail Prices API: public, without a key, asked only by name.

It keeps the hourly prices of virtual machines for Linux, pay as you go, in USD, with their tier: dedicated, low
priority or spot. It leaves out Windows, Cloud Services, reservations, Dev/Test, volume tiers, prices that are not in
force and those of other sizes.

Source: Microsoft, "Azure Retail Prices overview", learn.microsoft.com/rest/api/cost-management/retail-prices; its
fields, filters and paging by ``NextPageLink`` as of api-version 2023-01-01-preview, in which filters mind case.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from greenml.factors._http import ServiceError, get_json
from greenml.factors.prices import Quote
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


def address() -> str:
    """Return the service's address: ``GREENML_AZURE_PRICES_URL`` where that is set, for a mirror or a test."""
    return os.environ.get(URL_VARIABLE, "").strip() or URL


def quotes(
    skus: Sequence[Sku], regions: Sequence[str], wait: Callable[[float], object] = time.sleep
) -> Iterator[list[Quote | str]]:
    """Yield what the service lists of some sizes, a page at a time: quotes, or in a few words why one is left out.

    Args:
        skus: Azure's, at least one.
        regions: region codes; none for all.
        wait: is called with the pause before a request is made again, in seconds.

    Raises:
        FactorError: no answer.
    """
    names = {name.lower(): sku for name, sku in _names(skus).items()}
    for page in _pages(list(_queries(skus, regions)), wait):
        yield [quote(item, names, regions) for item in page]


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
        "no price": isinstance(usd, bool) or not isinstance(usd, int | float),
    }
    wrong = next((reason for reason, holds in reasons.items() if holds), "")
    if wrong:
        return wrong
    tier, primary = _tier(cell["meterName"], cell["skuName"]), item.get("isPrimaryMeterRegion") is True
    return Quote(sku, region, tier, float(usd or 0), _shown(address()), start[:10], cell["meterName"], primary)


def _tier(*names: str) -> str:
    """Return what the ends of a meter's or size's names say: ``ND40rs v2 Low Priority``, ``D14/DS14 Spot``."""
    ends = [_packed(name) for name in names]
    if any(end.endswith("spot") for end in ends):
        return "spot"
    return "low_priority" if any(end.endswith("lowpriority") for end in ends) else "dedicated"


def _packed(text: str) -> str:
    return text.lower().replace(" ", "")


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
