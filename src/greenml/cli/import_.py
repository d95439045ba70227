"""``greenml import``: a run record from figures measured elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from greenml.cli._options import assumed
from greenml.errors import SettingsError

_FILE = click.Path(path_type=Path)


class _ManyFiles(click.Command):
    """``--azure-monitor FILE...`` takes every following word up to the next option, as a shell's glob gives them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spread the option over its files."""
        spread: list[str] = []
        many = False
        for word in args:
            if word.startswith("-"):
                many = word == "--azure-monitor"
                spread += [] if many else [word]
            else:
                spread += ["--azure-monitor", word] if many else [word]
        if args and args[-1] == "--azure-monitor":
            spread.append("--azure-monitor")
        return super().parse_args(ctx, spread)


@click.command("import", cls=_ManyFiles)
@click.option("--output", type=_FILE, default="run.json", show_default=True, help="Where the record goes.")
@click.option("--codecarbon", type=_FILE, metavar="CSV", help="CodeCarbon's emissions.csv, 1.x to 3.x.")
@click.option(
    "--azure-monitor", type=_FILE, multiple=True, metavar="FILE...", help="What 'az monitor metrics list' printed."
)
@click.option("--trainer-output", type=_FILE, metavar="DIR", help="A Trainer's output folder.")
@click.option("--duration", metavar="TIME", help="Of the whole run: seconds, or 43m51.05s.")
@click.option("--name", default="", metavar="NAME", help="Of the run.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@assumed
def command(  # noqa: PLR0917  click gives them by name
    output: Path, codecarbon: Path | None, azure_monitor: tuple[Path, ...], trainer_output: Path | None,
    duration: str | None, name: str, force: bool, **told: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Make a run record from what other tools measured.

    Their figures pass through unrounded.
    """
    from greenml import assumptions, importers, record_file
    from greenml.settings import resolve

    if output.exists() and not force:
        raise SettingsError(f"output {output} exists; give another --output, or --force to replace it")
    settings = assumptions.check(resolve(told))
    seconds = importers.duration(duration) if duration is not None else None
    measured = importers.load(
        codecarbon=codecarbon,
        azure_monitor=azure_monitor,
        trainer_output=trainer_output,
        duration_seconds=seconds,
        name=name,
    )
    record = assumptions.account(measured, settings)
    record = record.model_copy(update={"notes": [*record.notes, *importers.conflicts(record)]})
    record_file.write(record, output)
    click.echo(f"{output}: written; 'greenml report {output}' prints it")
    for note in record.notes:
        click.echo(f"note: {note.text}", err=True)
