"""``greenml regions``: the places that have a name here."""

from __future__ import annotations

from datetime import datetime, timezone

import click


@click.command("regions")
@click.argument("pattern", default="")
def command(pattern: str) -> None:
    """List places whose name holds PATTERN.

    With this year's carbon intensity and PUE.
    """
    from rich import box
    from rich.table import Table

    from greenml.cli._tables import show
    from greenml.errors import SettingsError
    from greenml.factors import facility, grid_average, places

    found = places.search(pattern)
    if not found:
        raise SettingsError(f"no region matches {pattern!r}; 'greenml regions' without a pattern lists all")
    now = datetime.now(timezone.utc)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("cloud", "region", "name", "country"):
        table.add_column(name)
    for name in ("g CO2e/kWh", "of", "PUE"):
        table.add_column(name, justify="right")
    for place in found:
        intensity, pue = grid_average.carbon_intensity(place, now, now), facility.pue(place, now)
        table.add_row(
            place.cloud,
            places.code(place).rpartition("/")[2],
            place.display_name,
            place.country_name,
            f"{intensity.grams_per_kwh:.4g}",
            f"{intensity.scope} {intensity.year}",
            "-" if pue.scope == "none" else f"{pue.ratio:g}{'' if pue.scope == 'region' else ' *'}",
        )
    show(table)
    click.echo("PUE with *: the provider's fleet average. Intensity: the yearly mean at the level named beside it.")
