"""``greenml card``: writes a run into a model card, a new one or one that is there."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from greenml import redaction
from greenml.errors import GreenMLError, SettingsError

if TYPE_CHECKING:
    from greenml.reports.model_card import Update

_FILE = click.Path(path_type=Path)
_SHOWN = 100  # characters of a value in a message


@click.command("card")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=_FILE)
@click.option("--readme", type=_FILE, metavar="README.MD", help="The card to write into; made where there is none.")
@click.option(
    "--style",
    type=click.Choice(["full", "hub"]),
    default="full",
    show_default=True,
    help="Every section, or the Environmental Impact fields of the Hugging Face template.",
)
@click.option("--force", is_flag=True, help="Replace what the card says otherwise, and add sections that it has.")
@click.option("--check", is_flag=True, help="Write nothing: show what would change, and exit with 1 if anything would.")
def command(path: Path, readme: Path | None, style: str, force: bool, check: bool) -> None:
    """Write a run into a model card.

    That is its metadata, tables, hyperparameters, results, and how it was measured.

    Without --readme the whole card is printed. With it, greenml writes the card's metadata and a section between
    markers of its own; every other byte stays as it is. Values that the card has otherwise are shown and kept.
    """
    from greenml import files
    from greenml.analysis import record_search
    from greenml.reports import model_card

    record = record_search.open_record(path)
    if check and readme is None:
        raise SettingsError("--check compares with a card; give it with --readme README.md")
    before = files.read(readme) if readme is not None and readme.exists() else ""
    folder = readme.resolve().parent.name if readme is not None else ""
    chosen: model_card.Style = "hub" if style == "hub" else "full"
    try:
        made = model_card.update(before, record, style=chosen, folder=folder, force=force)
    except GreenMLError as error:
        if readme is None or "pip install" in str(error):
            raise
        raise SettingsError(f"{readme}: {error}") from None
    _tell(made, force=force)
    if readme is None:
        click.echo(made.text, nl=False)
    elif check:
        _compare(before, made.text, readme)
    elif made.text == before and readme.exists():
        click.echo(f"{readme}: up to date")
    else:
        files.write(readme, made.text)
        click.echo(f"{readme}: written")


def _tell(made: Update, *, force: bool) -> None:
    for conflict in made.conflicts:
        end = "replaced" if force else "kept; --force replaces it"
        theirs, ours = _short(conflict.theirs), _short(conflict.ours)
        click.echo(f"{redaction.printable_line(conflict.key)}: the card has {theirs}, this run {ours}: {end}", err=True)
    for text in made.left_out:
        click.echo(f"left out: {redaction.printable_line(text)}", err=True)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _compare(before: str, after: str, readme: Path) -> None:
    if before == after:
        click.echo(f"{readme}: up to date")
        return
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for line in difflib.unified_diff(old, new, str(readme), f"{readme} (with the run)"):
        click.echo(redaction.printable_lines(line.rstrip("\r\n")))
    sys.exit(1)
