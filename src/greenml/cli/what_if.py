"""``greenml what-if``: accounts a run in other regions, tiers, machine sizes, and at other times."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from greenml.cli._options import assumed
from greenml.cli._terminal import echo_json
from greenml.factors import INTENSITY_PROVIDERS

SLACK_HOURS = 24.0


@click.command("what-if")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
@click.option("--by", type=click.Choice(["carbon", "cost"]), help="Rank by this alone.")
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", default=10, show_default=True, help="Rows of a table at the most."
)
@click.option("--regions", is_flag=True, help="Regions of the same cloud.")
@click.option("--tiers", is_flag=True, help="Price tiers.")
@click.option("--skus", is_flag=True, help="Machine sizes with the same GPUs, of any cloud.")
@click.option("--start-times", is_flag=True, help="Times to start; needs --intensity.")
@click.option(
    "--intensity",
    metavar="PROVIDER|CSV",
    help=f"Hourly carbon intensity, for the start times: {', '.join(INTENSITY_PROVIDERS)}, or a CSV file.",
)
@click.option("--all", "every", is_flag=True, help="Also regions where the size has no price in the tables.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@assumed
def command(
    path: Path,
    by: Any,  # noqa: ANN401  carbon, cost or None
    top: int,
    intensity: str | None,
    *,
    every: bool,
    as_json: bool,
    start_times: bool,
    **changes: Any,  # noqa: ANN401
) -> None:
    """Rank what a run would have emitted and cost elsewhere.

    All is reckoned from the same measurement. Without --regions, --tiers, --skus or --start-times all are ranked.
    With --region, --sku, --tier and the like the run is first accounted again with those.
    """
    from greenml.accounting import assumptions
    from greenml.analysis import record_search, what_if
    from greenml.errors import SettingsError

    asked = [name for name in what_if.SECTIONS if changes.pop(name)]
    if start_times and not intensity:
        raise SettingsError("--start-times needs hourly figures: give --intensity with a provider or a CSV file")
    record = record_search.open_record(path)
    if any(value is not None for value in changes.values()):
        record = assumptions.reaccount(record, **changes)
    sections = asked if asked or start_times else what_if.SECTIONS
    result = what_if.what_if(record, sections, every=every)
    if intensity:
        result = what_if.with_starts(result, record, _intensity_series(record, intensity))
    if as_json:
        from pydantic import TypeAdapter

        echo_json(TypeAdapter(what_if.WhatIf).dump_json(result, indent=2).decode())
    else:
        columns = shutil.get_terminal_size((100, 24)).columns
        room = columns if sys.stdout.isatty() else None
        click.echo(what_if.render(result, by, top, min(columns, 100), room), nl=False)


def _intensity_series(record: Any, intensity: str) -> Any:  # noqa: ANN401  RunRecord, IntensitySeries: loaded when needed
    """Return the intensity series: all of a file, or a provider's hours around the run."""
    from dataclasses import fields
    from datetime import datetime, timezone

    from greenml.accounting import assumptions
    from greenml.analysis import what_if
    from greenml.factors import intensity_providers
    from greenml.factors.types import Place

    place = Place(**{field.name: getattr(record.place, field.name) for field in fields(Place)})
    span = what_if.span(record, SLACK_HOURS)
    if Path(intensity).is_file():
        span = datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(2200, 1, 1, tzinfo=timezone.utc)
    return intensity_providers.series(intensity, place, *span, assumptions.basis_of(record))
