"""``greenml report``: a run record as text."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml.cli import _color, _outputs
from greenml.cli._options import assumed, intensity

if TYPE_CHECKING:
    from greenml.record import RunRecord


@click.command("report")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
@click.option("--markdown", "style", flag_value="markdown", help="The model card's two tables and their footnotes.")
@click.option("--json", "style", flag_value="json", help="The whole record.")
@click.option("--csv", "style", flag_value="csv", help="A row for each scope and device.")
@click.option("--latex", "style", flag_value="latex", help="A table for a paper (booktabs).")
@click.option("--html", "page", metavar="PAGE.HTML", type=click.Path(path_type=Path), help="Write a page with charts.")
@click.option("--plot", metavar="OUT.PNG|SVG", type=click.Path(path_type=Path), help="Draw a picture for a paper.")
@click.option(
    "--explain", "figure", metavar="[FIGURE]", is_flag=False, flag_value="",
    help="Derive the figures step by step, or one: energy, emissions, cost ...",
)  # fmt: skip
@click.option("--footprint", is_flag=True, help="With --markdown: a third table, of water, embodied carbon and SCI.")
@click.option("--lbs", is_flag=True, help="Emissions in pounds.")
@intensity
@assumed
def command(  # noqa: PLR0917  click gives them by name
    path: Path, style: str | None, page: Path | None, plot: Path | None, figure: str | None, footprint: bool,
    lbs: bool, intensity: str | None, **changes: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Print what a run used.

    RUN.JSON may also be a run's trace folder, or name a record that a killed run left only traces of. With --region,
    --sku, --tier, --nodes, --carbon-intensity, --price-per-hour or --pue the same measurement is accounted again; with
    --intensity by the hours of the run.
    """
    from greenml import finishing

    _outputs.check(plot)
    _check(style, figure, footprint=footprint, pounds=lbs)
    if figure is not None and figure.endswith(".json") and path == Path("run.json"):
        path, figure = Path(figure), ""  # --explain before the path, without a figure
    record = finishing.open_record(path)
    if any(value is not None for value in changes.values()):
        from greenml import assumptions

        record = assumptions.again(record, **changes)
    if intensity is not None:
        if changes.get("carbon_intensity") is not None:
            raise click.UsageError("give --carbon-intensity or --intensity, not both")
        record = finishing.with_intensity(record, path, intensity)
    written = _outputs.write(record, page, plot)
    if figure is not None:
        from greenml.analysis.explanation import explain, explain_text

        click.echo(explain_text.render(explain.explain(record, figure), _width()), nl=False)
    elif style is not None or not written:  # else the files are all that was asked for
        click.echo(_text(record, style, footprint=footprint, pounds=lbs), nl=False)
    if path.suffix == ".json" and not path.exists():
        click.echo(f"({path} does not exist: made from its traces; 'greenml finish {path}' writes it)", err=True)


def _check(style: str | None, figure: str | None, *, footprint: bool, pounds: bool) -> None:
    """Refuse an option that would change nothing.

    Raises:
        UsageError: says with what it goes.
    """
    if figure is not None and (style or footprint or pounds):
        others = (f"--{style}" if style else "", "--footprint" if footprint else "", "--lbs" if pounds else "")
        raise click.UsageError(f"--explain is a report of its own; leave out {', '.join(filter(None, others))}")
    if footprint and style != "markdown":
        raise click.UsageError("--footprint goes with --markdown; the other reports have it anyway")
    if pounds and style not in (None, "markdown"):
        raise click.UsageError(f"--lbs goes with --markdown or alone; --{style} has SI units")


def _text(record: RunRecord, style: str | None, *, footprint: bool, pounds: bool) -> str:
    from greenml.reports import csv, latex, markdown, terminal

    if style == "json":
        return record.model_dump_json(indent=2) + "\n"
    if style == "markdown":
        return markdown.render(record, pounds=pounds, footprint=footprint)
    if style == "latex":
        return latex.render(record)
    if style == "csv":
        return csv.render(record)
    return terminal.render(record, width=_width(), color=_color.wanted(sys.stdout), pounds=pounds)


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)
