"""Azure's list prices of today, from the Azure Retail Prices API: public, without a key, asked only by name.

Kept are prices of virtual machines that one pays by the hour, as one goes, for Linux, in USD: dedicated, low priority
and spot told apart. Left out are Windows, Cloud Services, reservations, Dev/Test, volume tiers, prices that are not in
force and those of other sizes.

Source: Microsoft, "Azure Retail Prices overview", learn.microsoft.com/rest/api/cost-management/retail-prices; its
fields, filters and paging by ``NextPageLink`` as of api-version 2023-01-01-preview, in which filters mind case.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from greenml.errors import FactorError
from greenml.factors import _price_cache
from greenml.factors._azure_quotes import Quote, best, quote
from greenml.factors._http import ServiceError, get_json
from greenml.factors._unfinished_prices import Page, Unfinished
from greenml.facts import Sku
from greenml.tables import Row

URL = "https://prices.azure.com/api/retail/prices"
URL_VARIABLE = "GREENML_AZURE_PRICES_URL"
API_VERSION = "2023-01-01-preview"
WHO = "Azure Retail Prices"
SKUS_A_QUERY = 10  # a longer filter is refused
REGIONS_A_QUERY = 5  # more are left to us
PAGE_SECONDS = 60.0
TRIES = 6
MOST_PAGES = 20_000
# Sizes that the price list names otherwise than the compute API does.
ALSO_NAMED = {"ND96asr_v4": "Standard_ND96asr_A100_v4"}


@dataclass(frozen=True, slots=True)
class Update:
    """What an update did.

    Attributes:
        as_of: the date of its prices, UTC.
        items: how many the service listed; pages: in how many pages, of which ``resumed`` were there from before.
        prices: rows that were kept; sizes, regions: of how many.
        left_out: why others were not kept, with how many.
        table: what became of the table.
    """

    as_of: str
    items: int
    pages: int
    resumed: int
    prices: int
    sizes: int
    regions: int
    left_out: Mapping[str, int]
    table: _price_cache.Merged


def address() -> str:
    """Return the service's address: ``GREENML_AZURE_PRICES_URL`` where that is set, for a mirror or a test."""
    return os.environ.get(URL_VARIABLE, "").strip() or URL


def update(
    skus: Sequence[Sku],
    regions: Sequence[str] = (),
    *,
    say: Callable[[str], object] = lambda _: None,
    wait: Callable[[float], object] = time.sleep,
) -> Update:
    """Fetch the prices of some sizes and keep them, dated, in the user's cache folder.

    Args:
        skus: Azure's, at least one.
        regions: region codes; none for all.
        say: is told of the progress, in one line each time.
        wait: is called with the pause before a request is made again, in seconds.

    Raises:
        FactorError: no answer, no price among them, another update at work, or no place to write. The table is as it
            was; the pages that came are kept for an hour, and the same call goes on from there.
    """
    queries = list(_queries(skus, regions))
    with _price_cache.update():
        asked = {"address": _shown(address()), "queries": queries, "regions": sorted(regions)}
        path = _price_cache.folder() / "prices-azure.unfinished.jsonl"
        unfinished = Unfinished(path, asked, time.time())
        resumed = len(unfinished.pages)
        try:
            for count in _fetch(unfinished, queries, _names(skus), regions, wait):
                say(f"{WHO}: {count:,} items in {len(unfinished.pages)} pages")
        except ServiceError as error:
            count = len(unfinished.pages)
            kept = "1 page is" if count == 1 else f"{count} pages are"
            more = f"; {kept} kept for an hour: the same command goes on from there" if count else ""
            raise ServiceError(f"{error}{more}", status=error.status) from None
        day = datetime.fromtimestamp(unfinished.started_seconds, timezone.utc).date().isoformat()
        found = [Quote(*plain) for page in unfinished.pages for plain in page.quotes]
        left_out = sum((Counter(page.left_out) for page in unfinished.pages), Counter[str]())
        chosen = best(found)
        if not chosen:
            unfinished.remove()
            named = ", ".join(sku.name for sku in skus[:3]) + (" ..." if len(skus) > 3 else "")
            where = f" in {', '.join(regions)}" if regions else ""
            raise FactorError(f"{WHO}: no hourly Linux price of {named}{where}; the table is as it was")
        if len(found) > len(chosen):
            left_out["further meters of the same price"] += len(found) - len(chosen)
        merged = _price_cache.merge(_row(one, day) for one in chosen)
        unfinished.remove()
    return Update(
        as_of=day,
        items=sum(page.items for page in unfinished.pages),
        pages=len(unfinished.pages),
        resumed=resumed,
        prices=len(chosen),
        sizes=len({one.sku for one in chosen}),
        regions=len({one.region for one in chosen}),
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


def _fetch(
    unfinished: Unfinished,
    queries: Sequence[str],
    names: Mapping[str, str],
    regions: Sequence[str],
    wait: Callable[[float], object],
) -> Iterator[int]:
    """Ask for what is missing, page by page, and yield after each how many items there are."""
    sizes = {name.lower(): sku for name, sku in names.items()}
    last = unfinished.pages[-1] if unfinished.pages else None
    number, url = (0, "") if last is None else (last.query + (not last.next_url), last.next_url)
    seen = {page.next_url for page in unfinished.pages}
    while number < len(queries):
        params = None if url else {"api-version": API_VERSION, "$filter": queries[number]}
        answer = get_json(
            url or address(),
            params=params,
            auth=_login(address()),
            who=WHO,
            deadline_seconds=PAGE_SECONDS,
            tries=TRIES,
            wait=wait,
        )
        items, url = _page(answer)
        if url and (url in seen or len(unfinished.pages) >= MOST_PAGES):
            raise ServiceError(f"{WHO}: its pages lead in a circle; try again later")
        seen.add(url)
        found = [quote(item, sizes, regions) for item in items]
        wanted = [list(astuple(one)) for one in found if isinstance(one, Quote)]
        left_out = Counter(one for one in found if isinstance(one, str))
        unfinished.add(Page(number, url, len(items), wanted, dict(left_out)))
        number += not url
        yield sum(page.items for page in unfinished.pages)


def _page(answer: Any) -> tuple[list[Any], str]:  # noqa: ANN401  what a service says may be anything
    """Return a page's items and the address of the next one, "" for none."""
    items = answer.get("Items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ServiceError(f"{WHO}: its answer has no list of items; look whether a proxy answers in its place")
    url = answer.get("NextPageLink") or ""
    if url and (not isinstance(url, str) or _host(url) != _host(address())):
        raise ServiceError(f"{WHO}: its next page is on another host than {_host(address())}; it was not asked for")
    return items, url


def _row(one: Quote, day: str) -> Row:
    return {
        "cloud": "azure",
        "sku": one.sku,
        "region": one.region,
        "tier": one.tier,
        "usd_per_hour": repr(one.usd_per_hour),
        "as_of": day,
        "effective_from": one.effective_from,
        "meter": one.meter,
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
