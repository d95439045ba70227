"""``greenml advise``: what to change, from what a run shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from greenml.cli import _terminal
from greenml.cli._options import assumed


@click.command("advise")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Also the rules that have nothing to say, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@assumed
def command(path: Path, *, every: bool, as_json: bool, **changes: Any) -> None:  # noqa: ANN401
    """Say what would have saved energy, carbon or money.

    The evidence is of this run: a rule gives a finding only where the record holds what it needs. With --region, --sku,
    --tier and the like the run is first accounted again with those.
    """
    from greenml.accounting import assumptions
    from greenml.analysis import advice, record_search

    record = record_search.open_record(path)
    if any(value is not None for value in changes.values()):
        record = assumptions.reaccount(record, **changes)
    made = advice.advise(record)
    if as_json:
        from pydantic import TypeAdapter

        _terminal.echo_json(TypeAdapter(advice.Advice).dump_json(made, indent=2).decode())
    else:
        click.echo(advice.render(made, every=every, width=_terminal.width(100)), nl=False)
