"""``greenml regions``: lists the places that have a name here."""

from __future__ import annotations

from datetime import datetime, timezone

import click


@click.command("regions")
@click.argument("pattern", default="")
@click.option("--basis", metavar="BASIS", default="", help="Of the intensity: direct (the default) or lifecycle.")
def command(pattern: str, basis: str) -> None:
    """List places whose name holds PATTERN.

    With this year's carbon intensity and PUE.
    """
    from rich import box
    from rich.table import Table

    from greenml.cli._terminal import show
    from greenml.errors import SettingsError
    from greenml.factors import grid_average, places, pue_water

    basis = grid_average.basis_name(basis)
    matches = places.search(pattern)
    if not matches:
        if not any(sign in pattern for sign in "*?["):
            places.find(pattern)  # says what is near it
        raise SettingsError(f"no region matches {pattern!r}; 'greenml regions' without a pattern lists all")
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
