"""``greenml report``: a run record as text."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml.cli import _terminal
from greenml.cli._options import assumed, formats, intensity
from greenml.errors import RecordError, SettingsError

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord

PICTURES = ("png", "svg")
PYDANTIC_SWITCH = "PYDANTIC_DISABLE_PLUGINS"


@click.command("report")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
@formats(
    markdown="The model card's two tables and their footnotes.",
    json="The whole record.",
    csv="A row for each scope and device.",
    latex="A table for a paper (booktabs).",
)
@click.option(
    "--format", "named", metavar="NAME", help="Any report by its name: model_card, html ..., and one that you added."
)
@click.option("--html", "page", metavar="PAGE.HTML", type=click.Path(path_type=Path), help="Write a page with charts.")
@click.option(
    "--pdf", metavar="OUT.PDF", type=click.Path(path_type=Path),
    help="Write that page as PDF; needs Chromium, Chrome or Edge.",
)  # fmt: skip
@click.option("--plot", metavar="OUT.PNG|SVG", type=click.Path(path_type=Path), help="Draw a picture for a paper.")
@click.option(
    "--explain", "figure", metavar="[FIGURE]", is_flag=False, flag_value="",
    help="Derive the figures step by step, or one: energy, emissions, cost ...",
)  # fmt: skip
@click.option("--footprint", is_flag=True, help="With --markdown: a third table, of water, embodied carbon and SCI.")
@click.option("--lbs", is_flag=True, help="Emissions in pounds.")
@click.option("--full", is_flag=True, help="Everything: water, embodied carbon, each device, all factors and notes.")
@intensity
@assumed
def command(  # noqa: PLR0917  click gives them by name
    path: Path, style: str | None, named: str | None, page: Path | None, pdf: Path | None, plot: Path | None,
    figure: str | None, footprint: bool, lbs: bool, full: bool, intensity: str | None, **changes: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Print what a run used.

    RUN.JSON may also be a run's trace folder, or name a record that a killed run left only traces of. With --region,
    --sku, --tier, --nodes, --carbon-intensity, --price-per-hour or --pue the same measurement is accounted again; with
    --intensity by the hours of the run.
    """
    with _without_plugins():
        from greenml.analysis import record_search

    if named and style:
        raise click.UsageError(f"give --format or --{style}, not both")
    style = named or style
    _check_names(plot, pdf)
    _check(style, figure, footprint=footprint, pounds=lbs, full=full)
    if figure is not None and figure.endswith(".json") and path == Path("run.json"):
        path, figure = Path(figure), ""  # --explain before the path, without a figure
    record = record_search.open_record(path)
    if any(value is not None for value in changes.values()):
        from greenml.accounting import assumptions

        record = assumptions.reaccount(record, **changes)
    if intensity is not None:
        if changes.get("carbon_intensity") is not None:
            raise click.UsageError("give --carbon-intensity or --intensity, not both")
        from greenml.run import finish

        record = finish.with_intensity(record, path, intensity)
    written = _write_files(record, page, plot, pdf)
    if figure is not None:
        from greenml.analysis import explanation

        click.echo(explanation.render(explanation.explain(record, figure), _terminal.width(120)), nl=False)
    elif style is not None or not written:  # else the files are all that was asked for
        text = _text(record, style, footprint=footprint, pounds=lbs, full=full)
        _terminal.echo_json(text) if style == "json" else click.echo(text, nl=False)
    if path.suffix == ".json" and not path.exists():
        click.echo(f"({path} does not exist: made from its traces; 'greenml finish {path}' writes it)", err=True)


@contextlib.contextmanager
def _without_plugins() -> Iterator[None]:
    """Let pydantic look for no plugins while the record's types are made: none has a part in a report.

    To look for them, it reads the metadata of every package that is installed. Set back for what this process starts.
    """
    if PYDANTIC_SWITCH in os.environ:
        yield
        return
    os.environ[PYDANTIC_SWITCH] = "__all__"
    try:
        yield
    finally:
        del os.environ[PYDANTIC_SWITCH]


def _check(style: str | None, figure: str | None, *, footprint: bool, pounds: bool, full: bool) -> None:
    """Refuse an option that would change nothing.

    Raises:
        UsageError: says with what it goes.
    """
    if figure is not None and (style or footprint or pounds):
        others = (f"--{style}" if style else "", "--footprint" if footprint else "", "--lbs" if pounds else "")
        raise click.UsageError(f"--explain is a report of its own; leave out {', '.join(filter(None, others))}")
    if full and (style or figure is not None):
        raise click.UsageError("--full goes with the summary alone; the other reports have everything")
    if footprint and style != "markdown":
        raise click.UsageError("--footprint goes with --markdown; the other reports have it anyway")
    if pounds and style not in (None, "markdown"):
        raise click.UsageError(f"--lbs goes with --markdown or alone; --{style} has SI units")


def _text(record: RunRecord, style: str | None, *, footprint: bool, pounds: bool, full: bool) -> str:
    if style == "json":
        return record.model_dump_json(indent=2) + "\n"
    if style == "markdown":
        from greenml.reports import markdown

        return markdown.render(record, pounds=pounds, footprint=footprint)
    if style is not None:
        from greenml import reports

        return reports.render(record, style)
    from greenml.reports import terminal

    colors = _terminal.has_colors(sys.stdout)
    width, height = _terminal.width(120), _terminal.height(sys.stdout)
    return terminal.render(record, width=width, color=colors, pounds=pounds, full=full, height=height)


def _check_names(plot: Path | None, pdf: Path | None = None) -> None:
    """Check the names of files before anything is read.

    Raises:
        SettingsError: a suffix is not that of a format that can be written.
    """
    if plot is not None and plot.suffix.lower().lstrip(".") not in PICTURES:
        raise SettingsError(f"--plot {plot}: the name decides the format and must end in .png or .svg")
    if pdf is not None and pdf.suffix.lower() != ".pdf":
        raise SettingsError(f"--pdf {pdf}: the name must end in .pdf")


def _write_files(record: RunRecord, page: Path | None, plot: Path | None, pdf: Path | None = None) -> bool:
    """Write the page, the picture and the PDF that were asked for; return whether any was.

    Raises:
        RecordError: a file cannot be written.
        SettingsError: what draws or prints it is not installed.
    """
    if page is not None or pdf is not None:
        from greenml.reports import html

        content = html.render(record)
        if page is not None:
            _save(page, content.encode("utf-8"))
        if pdf is not None:
            _save(pdf, _printed(content, pdf))
    if plot is not None:
        from greenml.reports import _picture

        _save(plot, _picture.draw(record, "svg" if plot.suffix.lower() == ".svg" else "png"))
    return any(path is not None for path in (page, plot, pdf))


def _printed(content: str, path: Path) -> bytes:
    from greenml.reports.page import shell

    try:
        return shell.pdf(content, path.parent)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from None


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from None
    click.echo(f"{path}: written")
