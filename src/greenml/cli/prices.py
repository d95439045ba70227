"""``greenml prices``: lists the prices of a machine size; ``greenml prices update`` fetches today's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from greenml.cli._options import formats
from greenml.factors import PRICE_PROVIDERS

if TYPE_CHECKING:
    from greenml.factors.prices import Update
    from greenml.factors.types import Price, Sku

MEANING = "USD an hour of one node: list price, Linux, pay as you go, without discounts, disks, network and tax."
COLUMNS = (
    "cloud", "sku", "region", "tier", "usd_per_hour", "low", "high", "currency", "as_of", "derived", "source", "url",
    "note",
)  # fmt: skip


class _Prices(click.Group):
    """A group in which a word that is no command is a SKU."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``show`` before a SKU."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("prices", cls=_Prices, subcommand_metavar="SKU | update")
def command() -> None:
    """List what a machine size costs, or fetch today's prices.

    'greenml prices ND40rs_v2' lists its price in every region and tier, cheapest first. 'greenml prices update' asks
    Azure for today's prices; nothing else here asks any network.
    """


@command.command("show")
@click.argument("sku", metavar="SKU")
@click.option("--region", metavar="REGION", help="This region alone: westus2 ('greenml regions' lists them).")
@click.option("--tier", metavar="TIER", help="This tier alone: dedicated (on_demand), low_priority or spot.")
@formats(json="As JSON.", csv="As CSV.")
def show(sku: str, region: str | None, tier: str | None, style: str | None) -> None:
    """List the newest price of SKU in every region and tier.

    Cheapest first, each with its date and source. 'greenml prices SKU' does the same.
    """
    from greenml.errors import FactorError
    from greenml.factors import prices as cloud_prices
    from greenml.factors import skus

    machine_size = skus.find(sku)
    name = cloud_prices.tier_name(tier) if tier else ""
    prices = [price for price in _prices(machine_size, region) if name in ("", price.tier)]
    if not prices:
        raise FactorError(_none(machine_size, name, region))
    if style == "json":
        import json

        from greenml.cli._terminal import echo_json

        echo_json(json.dumps([_plain(machine_size, price) for price in prices], indent=2))
    elif style == "csv":
        import csv

        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_plain(machine_size, price) for price in prices)
    else:
        _table(machine_size, prices)


@command.command("update")
@click.option(
    "--cloud",
    metavar="CLOUD",
    default="azure",
    show_default=True,
    help=f"Whose prices; these have a list to ask: {', '.join(PRICE_PROVIDERS)}.",
)
@click.option("--sku", "pattern", metavar="PATTERN", help="Sizes: ND40rs_v2, 'ND*', '*'. By default all.")
@click.option(
    "--region", "regions", multiple=True, metavar="REGION", help="A region; may be given several times. By default all."
)
def update(cloud: str, pattern: str | None, regions: Sequence[str]) -> None:
    """Ask a cloud for today's prices and keep them.

    They are kept, dated, in the cache folder; of Azure, the Azure Retail Prices API is asked. Runs of about that date
    are then accounted with them. An update that was interrupted changes nothing: start it again. Prices of the other
    clouds are those of the bundled tables.
    """
    from greenml.errors import SettingsError
    from greenml.factors import places
    from greenml.factors import prices as cloud_prices

    cloud_prices.provider(cloud)
    chosen = _chosen(pattern, cloud)
    codes = []
    for region in regions:
        place = places.find(region, cloud)
        if not place.region:
            raise SettingsError(f"{region!r} is not a region of {cloud}; 'greenml regions {cloud}/' lists those")
        codes.append(place.region)
    shown = sys.stderr.isatty()

    def say(text: str) -> None:
        if shown:
            click.echo(f"\r{text}", nl=False, err=True)

    try:
        done = cloud_prices.update(cloud, chosen, codes, report=say)
    finally:
        if shown:
            click.echo("", err=True)
    _say_what_was_done(done)


def _chosen(pattern: str | None, cloud: str) -> list[Sku]:
    """Return the cloud's machine sizes that match a pattern."""
    from greenml.errors import SettingsError
    from greenml.factors import skus

    if pattern is None:
        return [sku for sku in skus.search("*") if sku.cloud == cloud]
    if not any(sign in pattern for sign in "*?["):
        return [skus.find(pattern, cloud)]
    sizes = [sku for sku in skus.search(pattern) if sku.cloud == cloud]
    if not sizes:
        raise SettingsError(f"no SKU of {cloud} matches {pattern!r}; 'greenml skus' without a pattern lists all")
    return sizes


def _prices(sku: Sku, region: str | None) -> list[Price]:
    """Return the newest price of each region and tier, cheapest first."""
    from dataclasses import replace
    from datetime import datetime, timezone

    from greenml.factors import places
    from greenml.factors import prices as cloud_prices
    from greenml.factors.types import Place

    now = datetime.now(timezone.utc)
    if region is not None:
        there = [places.find(region, sku.cloud)]
    else:
        there = [Place(cloud=sku.cloud, region=code) for code in cloud_prices.regions(sku)]
    newest_prices = [price for place in there for price in cloud_prices.prices(sku, place, now).values()]
    # How old a price is for a run of today, its date says here.
    aged = [
        replace(price, note=price.note.replace(cloud_prices.age(price.as_of, now.date()), "").strip("; "))
        for price in newest_prices
    ]
    return sorted(aged, key=lambda price: (price.usd_per_hour, price.region, price.tier))


def _none(sku: Sku, tier: str, region: str | None) -> str:
    """Say that there is no such price, and what there is."""
    from greenml.factors.prices import tier_label

    what = " ".join(
        filter(None, ("no", tier, "price of", f"{sku.cloud}'s", sku.name, f"in {region}" if region else ""))
    )
    there = _prices(sku, None)
    if there:
        tiers = ", ".join(sorted({tier_label(price.tier, sku.cloud) for price in there}))
        regions = ", ".join(sorted({price.region for price in there}))
        return f"{what}; there is {tiers} in {regions}"
    return what + (f"; {_update(sku)} asks for it" if sku.cloud in PRICE_PROVIDERS else "")


def _update(sku: Sku) -> str:
    """Return the command that asks for a size's price."""
    cloud = "" if sku.cloud == "azure" else f" --cloud {sku.cloud}"
    return f"'greenml prices update{cloud} --sku {sku.name}'"


def _plain(sku: Sku, price: Price) -> dict[str, object]:
    from greenml.factors.prices import tier_label

    return {
        "cloud": sku.cloud,
        "sku": sku.name,
        "region": price.region,
        "tier": tier_label(price.tier, sku.cloud),
        "usd_per_hour": price.usd_per_hour,
        "low": price.low,
        "high": price.high,
        "currency": "USD",
        "as_of": price.as_of,
        "derived": price.derived,
        "source": price.source.name,
        "url": price.source.url,
        "note": price.note,
    }


def _table(sku: Sku, prices: Sequence[Price]) -> None:
    """Print prices with numbered sources and notes below."""
    from rich import box
    from rich.table import Table

    from greenml.cli._terminal import show as print_table
    from greenml.factors import tables
    from greenml.factors.prices import tier_label

    remarks: dict[str, int] = {}

    def number(text: str) -> str:
        return str(remarks.setdefault(text, len(remarks) + 1))

    table = Table(box=box.SIMPLE_HEAD, title=f"{sku.name} ({sku.cloud}): {sku.label}", title_justify="left")
    for name, justify in (("region", "left"), ("tier", "left"), ("USD/h", "right"), ("of", "left"), ("see", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for price in prices:
        source = price.source.name + (f", {price.source.url}" if price.source.url else "")
        marks = " ".join(number(text) for text in (source, price.note) if text)
        tier = tier_label(price.tier, sku.cloud) + (" (derived)" if price.derived else "")
        table.add_row(price.region, tier, f"{price.usd_per_hour:,.4f}", price.as_of, marks)
    print_table(table)
    click.echo(MEANING)
    for text, mark in remarks.items():
        click.echo(f"{mark}  {text}")
    click.echo(f"Bundled tables: {tables.version()}.")
    if sku.cloud in PRICE_PROVIDERS:
        click.echo(f"{_update(sku)} asks for today's: {PRICE_PROVIDERS[sku.cloud][1]}.")


def _say_what_was_done(done: Update) -> None:
    click.echo(f"{done.who}: {done.items:,} items in {done.pages:,} pages.")
    kept = f"Kept {done.prices:,} prices of {done.sizes} sizes in {done.regions} regions"
    click.echo(f"{kept}, in USD, as of {done.as_of} (UTC).")
    if done.left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(done.left_out.items()))
        click.echo(f"Left out: {reasons}.")
    if done.set_aside:
        click.echo(f"The table that was there is damaged; it was moved to {done.set_aside}.")
    click.echo(f"{done.path} holds {done.rows:,} prices.")
