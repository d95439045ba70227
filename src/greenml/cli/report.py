"""``greenml report``: a run record as text."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from greenml.cli._options import assumed


@click.command("report")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
@click.option("--markdown", "style", flag_value="markdown", help="The model card's two tables and their footnotes.")
@click.option("--json", "style", flag_value="json", help="The whole record.")
@click.option("--csv", "style", flag_value="csv", help="A row for each scope and device.")
@assumed
def command(path: Path, style: str | None, **changes: Any) -> None:  # noqa: ANN401
    """Print what a run used.

    RUN.JSON may also be a run's trace folder, or name a record that a killed run left only traces of. With --region,
    --sku, --tier, --nodes, --carbon-intensity, --price-per-hour or --pue the same measurement is accounted again.
    """
    from greenml import finishing

    record = finishing.open_record(path)
    if any(value is not None for value in changes.values()):
        from greenml import assumptions

        record = assumptions.again(record, **changes)
    if style == "json":
        click.echo(record.model_dump_json(indent=2))
    elif style == "markdown":
        from greenml.reports import markdown

        click.echo(markdown.render(record), nl=False)
    elif style == "csv":
        from greenml.reports import csv

        click.echo(csv.render(record), nl=False)
    else:
        from greenml.reports import terminal

        width = shutil.get_terminal_size((100, 24)).columns
        click.echo(terminal.render(record, width=min(width, 120), color=sys.stdout.isatty()), nl=False)
    if path.suffix == ".json" and not path.exists():
        click.echo(f"({path} does not exist: made from its traces; 'greenml finish {path}' writes it)", err=True)
