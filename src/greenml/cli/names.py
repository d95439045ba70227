"""``greenml skus`` and ``greenml regions``: list the machine sizes and the places that have a name here."""

from __future__ import annotations

from datetime import datetime, timezone

import click


@click.command("skus")
@click.argument("pattern", default="")
def command(pattern: str) -> None:
    """List machine sizes whose name holds PATTERN.

    Or matches it: ND*. With what is in them.
    """
    from rich import box
    from rich.table import Table

    from greenml.cli._terminal import show
    from greenml.factors import skus

    # By another spelling of its name; else find() says what is near it.
    matches = skus.search(pattern) or [skus.find(_name(pattern, "SKU"))]
    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (("cloud", "left"), ("SKU", "left"), ("what", "left"), ("vCPU", "right"), ("GiB", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for sku in matches:
        table.add_row(sku.cloud, sku.name, sku.label, _number(sku.vcpus), _number(sku.memory_gib))
    show(table)


@click.command("regions")
@click.argument("pattern", default="")
@click.option("--basis", metavar="BASIS", default="", help="Of the intensity: direct (the default) or lifecycle.")
def regions(pattern: str, basis: str) -> None:
    """List places whose name holds PATTERN.

    With this year's carbon intensity and PUE.
    """
    from rich import box
    from rich.table import Table

    from greenml.cli._terminal import show
    from greenml.factors import grid_average, places, pue_water

    basis = grid_average.basis_name(basis)
    matches = places.search(pattern)
    if not matches:
        places.find(_name(pattern, "region"))  # says what is near it
        raise _no_match(pattern, "region")
    now = datetime.now(timezone.utc)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("cloud", "region", "name", "country"):
        table.add_column(name)
    for name in (f"g CO2e/kWh, {basis}", "of", "PUE"):
        table.add_column(name, justify="right")
    for place in matches:
        intensity, pue = grid_average.carbon_intensity(place, now, now, basis), pue_water.pue(place, now)
        table.add_row(
            place.cloud,
            places.code(place).rpartition("/")[2],
            place.display_name,
            place.country_name,
            f"{intensity.grams_per_kwh:.4g}{'' if intensity.basis == basis else f' ({intensity.basis})'}",
            f"{intensity.scope} {intensity.year}",
            "-" if pue.scope == "none" else f"{pue.ratio:g}{'' if pue.scope == 'region' else ' *'}",
        )
    show(table)
    click.echo("PUE with *: the provider's fleet average. Intensity: the yearly mean of the area beside it.")


def _name(pattern: str, what: str) -> str:
    """Return a pattern that is a name, which another lookup may know.

    Raises:
        SettingsError: it has wildcards: nothing matches it.
    """
    if any(sign in pattern for sign in "*?["):
        raise _no_match(pattern, what)
    return pattern


def _no_match(pattern: str, what: str) -> Exception:
    from greenml.errors import SettingsError

    return SettingsError(f"no {what} matches {pattern!r}; 'greenml {what.lower()}s' without a pattern lists all")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
