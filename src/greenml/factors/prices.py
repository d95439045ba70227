"""List prices of cloud machines: Linux, pay as you go, USD an hour.

From the bundled tables, and from the table in the user's cache folder that ``greenml prices update`` writes: replaced
whole or not at all. A row of either is the price of one node as it was listed on ``as_of``. In the fetched table
rows of earlier dates stay; of a price that did not change only the first and the last date are kept, so that the table
does not grow by being brought up to date.

No network here: a provider is one file beside this one, with ``WHO`` and ``quotes(skus, regions, wait)``.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from functools import lru_cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import ModuleType

from greenml import files
from greenml.errors import FactorError, SettingsError
from greenml.factors import PRICE_PROVIDERS, tables
from greenml.factors.types import Place, Price, Sku, Source

TIERS = ("dedicated", "low_priority", "spot")
OTHER_NAMES = {"on_demand": "dedicated", "ondemand": "dedicated", "lowpriority": "low_priority"}
EVERYWHERE = "any"
LOW_PRIORITY_RATIO, LOW_PRIORITY_LOW, LOW_PRIORITY_HIGH = 0.20, 0.195, 0.205
LOW_PRIORITY_RULE = "derived: 0.20 x dedicated; of Azure's Linux prices of 2020-08-30, 95 % lie in 0.195 to 0.205"
LAST_LOW_PRIORITY_YEAR = 2025
ENDED = f"Azure has no low-priority prices after {LAST_LOW_PRIORITY_YEAR}"
FAR_DAYS = 31  # a price of another date than this from the run says how far it is
MARKETS = {"vast": "a marketplace: the median of the offers of that day, each host sets its own price"}
ZONES = "the median over the region's zones, each of which has its own spot price"
REGIONS_NAMED = 12
COLUMNS = ("cloud", "sku", "region", "tier", "usd_per_hour", "as_of", "effective_from", "meter", "url")  # as fetched
KEY = COLUMNS[:4]
HEADER = ",".join(COLUMNS)


@dataclass(frozen=True, slots=True)
class Quote:
    """A price as a service lists it, of one of the sizes asked for.

    Attributes:
        sku, region, tier: as greenml names them; the region is ``EVERYWHERE`` where one price holds in all.
        url: where it is listed, without a key.
        effective_from: ISO date since which it holds; "" is not known.
        meter: the name of what is billed.
        primary: whether it goes before others of the same size, region and tier.
    """

    sku: str
    region: str
    tier: str
    usd_per_hour: float
    url: str
    effective_from: str = ""
    meter: str = ""
    primary: bool = True


@dataclass(frozen=True, slots=True)
class Update:
    """What an update did.

    Attributes:
        who: the service that was asked.
        as_of: the date of its prices, UTC.
        items: how many the service listed; pages: in how many pages.
        prices: rows that were kept; sizes, regions: of how many.
        left_out: why others were not kept, with how many.
        path: the table; rows: in it now.
        set_aside: where a damaged table was moved to; None where there was none.
    """

    who: str
    as_of: str
    items: int
    pages: int
    prices: int
    sizes: int
    regions: int
    left_out: Mapping[str, int]
    path: Path
    rows: int
    set_aside: Path | None


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


def tier_label(tier: str, cloud: str) -> str:
    """Return a tier as its cloud calls it: ``dedicated`` is ``on_demand`` everywhere but at Azure."""
    return "on_demand" if tier == "dedicated" and cloud not in {"azure", ""} else tier


def price(sku: Sku, place: Place, tier: str, when: datetime) -> Price:
    """Return the price of one node of a SKU at the date of the run, as ``prices`` finds it.

    Azure's low-priority prices were last published on 2020-08-30. Where a size has none, it is 0.20 x the
    dedicated price, marked derived, with an interval of 0.195 to 0.205.

    Args:
        sku: the machine size.
        place: the cloud's region; may be empty for a SKU with one price everywhere.
        tier: dedicated, low_priority or spot; on_demand means dedicated.
        when: the run's time, UTC.

    Raises:
        FactorError: the tables have no such price; the message lists what they have.
        SettingsError: there is no such tier.

    Source: the price's own, in ``greenml/factors/data/SOURCES.md``; the rule: Apache Libcloud's price list of
    2020-08-30, in which the ratio's median over 7,128 pairs is 0.2000.
    """
    name = tier_name(tier)
    by_tier = prices(sku, place, when)
    if name in by_tier:
        return by_tier[name]
    if by_tier:
        tiers = ", ".join(tier_label(tier, sku.cloud) for tier in by_tier)
        label = tier_label(name, sku.cloud)
        raise FactorError(f"no {label} price of {sku.name} in {_where(place)}; prices there: {tiers}")
    raise FactorError(_no_price(sku, place))


def prices(sku: Sku, place: Place, when: datetime) -> dict[str, Price]:
    """Return the SKU's price in every tier that has one there, by tier; empty where there is none.

    Bundled and fetched prices are candidates alike: the last one not after the run, else the first after it; of one
    date the fetched one. A low-priority price that was only ever fetched gives way to the derived one where the
    dedicated price is nearer to the run: a run of 2021 is not billed what a tier cost years later. A spot price that is
    not below the dedicated one is none.

    A damaged table of fetched prices is passed over, and the prices say so in their notes.

    Args:
        sku: the machine size.
        place: the cloud's region.
        when: the run's time, UTC.
    """
    day = when.astimezone(timezone.utc).date()
    here = place.region if place.cloud in {"", sku.cloud} else ""
    rows = tables.lookup("prices", sku.cloud, sku.name, EVERYWHERE)
    if here:
        rows = rows or tables.lookup("prices", sku.cloud, sku.name, here)
    fetched, trouble = _fetched(sku)
    rows = [*rows, *(row for row in fetched if row["region"] in {here, EVERYWHERE})]
    by_tier: dict[str, Price] = {}
    for tier in TIERS:
        listed = _nearest([row for row in rows if row["tier"] == tier], day)
        derived = None
        if tier == "low_priority" and sku.cloud == "azure" and "dedicated" in by_tier:
            derived = _low_priority(by_tier["dedicated"], day)
        only_fetched = all(_is_fetched(row) for row in rows if row["tier"] == tier)
        if derived and (listed is None or (only_fetched and _days(derived.as_of, day) < _days(listed["as_of"], day))):
            by_tier[tier] = derived
        elif listed is not None:
            by_tier[tier] = _listed(listed, day)
    if (
        "spot" in by_tier
        and "dedicated" in by_tier
        and by_tier["spot"].usd_per_hour >= by_tier["dedicated"].usd_per_hour
    ):
        del by_tier["spot"]
    if trouble:
        by_tier = {
            tier: replace(value, note="; ".join(filter(None, (value.note, trouble)))) for tier, value in by_tier.items()
        }
    return by_tier


def regions(sku: Sku) -> list[str]:
    """Return the regions in which a SKU has a price, sorted; ``any`` where it has one price everywhere."""
    fetched, _ = _fetched(sku)
    return sorted({row["region"] for row in (*tables.lookup("prices", sku.cloud, sku.name), *fetched)})


def _fetched(sku: Sku) -> tuple[list[tables.Row], str]:
    return _lookup_fetched(sku.cloud, sku.name) if sku.cloud in PRICE_PROVIDERS else ([], "")


def age(as_of: str, day: date) -> str:
    """Return the note of a price that is not of the run's own time."""
    days = (date.fromisoformat(as_of) - day).days
    return f"price of {as_of}, {abs(days)} days {'after' if days > 0 else 'before'} the run"


def _nearest(rows: list[tables.Row], day: date) -> tables.Row | None:
    before = [row for row in rows if row["as_of"] <= day.isoformat()]
    if before:
        return max(before, key=lambda row: (row["as_of"], _is_fetched(row)))
    return min(rows, key=lambda row: (row["as_of"], not _is_fetched(row)), default=None)


def _is_fetched(row: tables.Row) -> bool:
    return "url" in row


def _days(as_of: str, day: date) -> int:
    return abs((date.fromisoformat(as_of) - day).days)


def _listed(row: tables.Row, day: date) -> Price:
    usd = float(row["usd_per_hour"])
    notes = [age(row["as_of"], day)] if _days(row["as_of"], day) > FAR_DAYS else []
    ended = day.year > LAST_LOW_PRIORITY_YEAR >= int(row["as_of"][:4])
    notes += [ENDED] if ended and row["tier"] == "low_priority" else []
    notes += [MARKETS[row["cloud"]]] if row["cloud"] in MARKETS else []
    notes += [ZONES] if row["cloud"] == "aws" and row["tier"] == "spot" else []
    if row["sku"].startswith("gpu:"):
        notes.append("one attached GPU, its machine is priced apart; age of the figure not stated")
    note = "; ".join(notes)
    return Price(usd, usd, usd, row["tier"], row["sku"], row["region"], row["as_of"], _source(row), note=note)


def _source(row: tables.Row) -> Source:
    if _is_fetched(row):
        _, name = PRICE_PROVIDERS[row["cloud"]]
        return Source(f"{name}, fetched {row['as_of']}", row["url"], row["as_of"])
    return tables.source(row["source"], row["as_of"])


def _low_priority(dedicated: Price, day: date) -> Price:
    notes = [LOW_PRIORITY_RULE]
    if day.year > LAST_LOW_PRIORITY_YEAR:
        notes.append(ENDED)
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
    region_codes = regions(sku)
    if not region_codes:
        return f"no price of {sku.cloud}'s {sku.name} in tables {tables.version()}; give the price an hour"
    more = f" and {len(region_codes) - REGIONS_NAMED} more" if len(region_codes) > REGIONS_NAMED else ""
    named = ", ".join(region_codes[:REGIONS_NAMED]) + more
    return f"no price of {sku.cloud}'s {sku.name} in {_where(place)}; regions with a price: {named}"


def cache_folder() -> Path:
    """Return the user's cache folder: ``GREENML_CACHE_DIR``, else the system's place for caches. It may not exist."""
    given = os.environ.get("GREENML_CACHE_DIR", "").strip()
    if given:
        return Path(os.path.expanduser(given))  # noqa: PTH111  Path's own raises where no home is known
    from platformdirs import user_cache_path

    return user_cache_path("greenml", appauthor=False)


def fetched_table() -> Path:
    """Return the path of the fetched prices."""
    return cache_folder() / "prices.csv"


def _lookup_fetched(cloud: str, sku: str) -> tuple[list[tables.Row], str]:
    """Return a SKU's fetched prices, and what is wrong with the table ("" for nothing).

    A damaged table, or a damaged row of the SKU, gives no price and a text that says so; it never raises.
    """
    path = fetched_table()
    try:
        state = path.stat()
    except FileNotFoundError:
        return [], ""
    except OSError:
        return [], _damaged(path)
    text = _text(path, state.st_mtime_ns, state.st_size)
    if text is None:
        return [], _damaged(path)
    prefix = f"\n{cloud},{sku},"
    start = end = text.find(prefix)
    if start < 0:
        return [], ""
    while text.startswith(prefix, end):
        end = text.find("\n", end + 1)
    rows = list(csv.DictReader(text[start + 1 : end].splitlines(), COLUMNS))
    sound = [row for row in rows if _is_sound(row)]
    return (sound, "") if len(sound) == len(rows) else ([], _damaged(path))


def provider(cloud: str) -> ModuleType:
    """Return who can be asked for a cloud's prices.

    Raises:
        SettingsError: nobody can.
    """
    if cloud not in PRICE_PROVIDERS:
        there = ", ".join(PRICE_PROVIDERS)
        text = f"prices of {cloud!r} cannot be updated, only those of {there}; others are the bundled tables'"
        raise SettingsError(text)
    return import_module(f"greenml.factors.{PRICE_PROVIDERS[cloud][0]}")


def update(
    cloud: str,
    skus: Sequence[Sku],
    regions: Sequence[str] = (),
    *,
    report: Callable[[str], object] = lambda _: None,
    wait: Callable[[float], object] = time.sleep,
) -> Update:
    """Ask a cloud's provider for the prices of some sizes and keep them, dated, in the user's cache folder.

    Args:
        cloud: whose price list, one of ``PRICE_PROVIDERS``.
        skus: of this cloud, at least one.
        regions: region codes; none for all.
        report: is called with the progress, one line each time.
        wait: is called with the pause before a request is made again, in seconds.

    Raises:
        FactorError: no answer, no price among the answers, another update at work, or no place to write. The table is
            as it was.
        SettingsError: nobody can be asked for this cloud's prices.
    """
    service = provider(cloud)
    who: str = service.WHO
    day = datetime.now(timezone.utc).date().isoformat()
    quotes: list[Quote] = []
    left_out: Counter[str] = Counter()
    items = pages = 0
    with _updating():
        for page in service.quotes(skus, regions, wait):
            items, pages = items + len(page), pages + 1
            for listed in page:
                if isinstance(listed, str):
                    left_out[listed] += 1
                elif not (math.isfinite(listed.usd_per_hour) and listed.usd_per_hour > 0):
                    left_out["no price"] += 1
                else:
                    quotes.append(listed)
            report(f"{who}: {items:,} items in {pages} pages")
        chosen = _best(quotes)
        if not chosen:
            named = ", ".join(sku.name for sku in skus[:3]) + (" ..." if len(skus) > 3 else "")
            where = f" in {', '.join(regions)}" if regions else ""
            raise FactorError(f"{who}: no hourly Linux price of {named}{where}; the table is as it was")
        if len(quotes) > len(chosen):
            left_out["further meters of the same price"] += len(quotes) - len(chosen)
        path, rows, set_aside = _merge([_kept(cloud, choice, day) for choice in chosen])
    return Update(
        who=who,
        as_of=day,
        items=items,
        pages=pages,
        prices=len(chosen),
        sizes=len({choice.sku for choice in chosen}),
        regions=len({choice.region for choice in chosen}),
        left_out=left_out,
        path=path,
        rows=rows,
        set_aside=set_aside,
    )


def _best(quotes: Sequence[Quote]) -> list[Quote]:
    """Return one quote a size, region and tier: the primary meter's, of those the newest, of those the dearer."""
    best_by_key: dict[tuple[str, str, str], Quote] = {}
    for listed in sorted(quotes, key=lambda each: (each.primary, each.effective_from, each.usd_per_hour)):
        best_by_key[listed.sku, listed.region, listed.tier] = listed
    return [best_by_key[key] for key in sorted(best_by_key)]


def _kept(cloud: str, choice: Quote, day: str) -> tables.Row:
    return {
        "cloud": cloud,
        "sku": choice.sku,
        "region": choice.region,
        "tier": choice.tier,
        "usd_per_hour": repr(choice.usd_per_hour),
        "as_of": day,
        "effective_from": choice.effective_from,
        "meter": choice.meter,
        "url": choice.url,
    }


@contextlib.contextmanager
def _updating() -> Iterator[None]:
    """Hold the fetched table for one update: no other process may update it meanwhile.

    Raises:
        FactorError: another process updates it, or the folder cannot be written.
    """
    folder = cache_folder()
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.locked(folder / "update.lock", timeout_seconds=0))
        except TimeoutError:
            raise FactorError(f"another 'greenml prices update' is at work in {folder}; wait for its end") from None
        except OSError as error:
            raise FactorError(_not_writable(folder, error)) from None
        yield


def _merge(new: Iterable[tables.Row]) -> tuple[Path, int, Path | None]:
    """Add prices to the table, which is then replaced in one step.

    A row with the key and the date of an earlier one takes its place.

    Args:
        new: rows with every column.

    Returns:
        The table, how many rows are in it now, and where a damaged one was moved to.

    Raises:
        FactorError: the table cannot be written; it is as it was.
    """
    path = fetched_table()
    try:
        old, set_aside = _all_fetched(path)
    except OSError as error:
        raise FactorError(_not_writable(path, error)) from None
    rows_by_key = {(*(row[name] for name in KEY), row["as_of"]): row for row in [*old, *new]}
    rows = _without_repeats([rows_by_key[key] for key in sorted(rows_by_key)])
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        files.replace(path, stream.getvalue().encode())
    except OSError as error:
        raise FactorError(_not_writable(path, error)) from None
    return path, len(rows), set_aside


def _all_fetched(path: Path) -> tuple[list[tables.Row], Path | None]:
    """Return every sound row of the table; where it is damaged, move it aside and say where to."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return [], None
    text = _text(path, state.st_mtime_ns, state.st_size)
    rows = [] if text is None else list(csv.DictReader(text.splitlines()))
    sound = [row for row in rows if _is_sound(row)]
    if text is not None and len(sound) == len(rows):
        return sound, None
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    aside = path.with_name("prices.damaged.csv")
    path.replace(aside)
    return sound, aside


@lru_cache(maxsize=2)
def _text(path: Path, changed: int, size: int) -> str | None:
    """Return the table's text, None where it is none of ours; remembered while date and size stay the same."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.startswith(HEADER + "\n") and text.endswith("\n") and "\0" not in text else None


def _is_sound(row: tables.Row) -> bool:
    try:
        usd = float(row["usd_per_hour"])
        date.fromisoformat(row["as_of"])
    except (TypeError, ValueError):
        return False
    return math.isfinite(usd) and usd > 0 and all(row.get(name) is not None for name in COLUMNS) and None not in row


def _without_repeats(rows: list[tables.Row]) -> list[tables.Row]:
    """Drop the middle dates of a price that stays the same; rows are sorted by key and date."""
    kept: list[tables.Row] = []
    for _, same in groupby(rows, lambda row: tuple(row[name] for name in KEY)):
        for _, stretch in groupby(same, lambda row: float(row["usd_per_hour"])):
            days = list(stretch)
            kept += days if len(days) < 3 else [days[0], days[-1]]
    return kept


def _damaged(path: Path) -> str:
    return f"the fetched prices in {path} are damaged and were not used; 'greenml prices update' writes them anew"


def _not_writable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written: {error.strerror or error}; GREENML_CACHE_DIR names another folder"
