"""``greenml import``: a run record from figures measured elsewhere."""

from __future__ import annotations

import math
from datetime import datetime, timezone
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
        words: list[str] = []
        many = False
        for word in args:
            if word.startswith("-"):
                many = word == "--azure-monitor"
                words += [] if many else [word]
            else:
                words += ["--azure-monitor", word] if many else [word]
        if args and args[-1] == "--azure-monitor":
            words.append("--azure-monitor")
        return super().parse_args(ctx, words)


@click.command("import", cls=_ManyFiles)
@click.option("--output", type=_FILE, help="Where the record goes; run.json, or published.json for a --table.")
@click.option("--codecarbon", type=_FILE, metavar="CSV", help="CodeCarbon's emissions.csv, 1.x to 3.x.")
@click.option("--codecarbon-run", metavar="ID", help="Which of its runs, by run_id; the last by default.")
@click.option(
    "--azure-monitor", type=_FILE, multiple=True, metavar="FILE...", help="What 'az monitor metrics list' printed."
)
@click.option("--impact-tracker", type=_FILE, metavar="DIR", help="The log folder of experiment-impact-tracker.")
@click.option("--trainer-output", type=_FILE, metavar="DIR", help="A Trainer's output folder.")
@click.option("--table", type=_FILE, metavar="CSV", help="Published results, to set beside ours; no run, no energy.")
@click.option("--aiperf", type=_FILE, metavar="JSON", help="AIPerf's profile_export_aiperf.json.")
@click.option(
    "--host-record", type=_FILE, metavar="RUN.JSON", help="With --aiperf: a run beside it, for CPUs and DRAM."
)
@click.option(
    "--from", "other", metavar="NAME:FILE", help="What an importer reads that you added, by its module's name; alone."
)
@click.option("--duration", metavar="TIME", help="Of the whole run: seconds, or 43m51.05s.")
@click.option(
    "--started", metavar="TIME", help="When the run began, where no file tells: 2021-07-06, 2021-07-06T21:15Z."
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME=VALUE", help="A result; may be repeated.")
@click.option("--name", default="", metavar="NAME", help="Of the run.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@assumed
def command(  # noqa: PLR0917  click gives them by name
    output: Path | None, codecarbon: Path | None, codecarbon_run: str | None, azure_monitor: tuple[Path, ...],
    impact_tracker: Path | None, trainer_output: Path | None, table: Path | None, aiperf: Path | None,
    host_record: Path | None, other: str | None, duration: str | None, started: str | None, metrics: tuple[str, ...],
    name: str, force: bool, **place: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Make a run record from what other tools measured.

    Their figures pass through unrounded.
    """
    from greenml.accounting import assumptions
    from greenml.accounting.check import check
    from greenml.record import file as record_file
    from greenml.record import importers
    from greenml.settings import resolve

    if output is None:
        output = Path("published.json" if table is not None else "run.json")
    if output.exists() and not force:
        raise SettingsError(f"output {output} exists; give another --output, or --force to replace it")
    if table is not None:
        if codecarbon or azure_monitor or trainer_output or aiperf or host_record or other or duration:
            raise SettingsError("--table stands alone: a published table is no run")
        _published(table, output)
        return
    if other is not None and any(
        (codecarbon, azure_monitor, impact_tracker, trainer_output, aiperf, host_record, started, metrics)
    ):
        raise SettingsError(f"--from {other} goes with --duration and --name alone")
    settings = check(resolve(place))
    seconds = importers.duration(duration) if duration is not None else None
    measured = (
        importers.load_by_name(*_other(other), seconds, name)
        if other is not None
        else importers.load(
            codecarbon=codecarbon,
            codecarbon_run=codecarbon_run,
            azure_monitor=azure_monitor,
            impact_tracker=impact_tracker,
            trainer_output=trainer_output,
            aiperf=aiperf,
            host_record=host_record,
            duration_seconds=seconds,
            started=_moment(started) if started is not None else None,
            metrics=dict(_metric(text) for text in metrics),
            name=name,
        )
    )
    record = assumptions.account(measured, settings)
    record = record.model_copy(update={"notes": [*record.notes, *importers.conflicts(record)]})
    record_file.write(record, output)
    click.echo(f"{output}: written; 'greenml report {output}' prints it")
    for note in record.notes:
        click.echo(f"note: {note.text}", err=True)


def _other(text: str) -> tuple[str, Path]:
    name, colon, path = text.partition(":")
    if not colon or not path or not name.isidentifier() or name.startswith("_"):
        raise SettingsError(f"--from {text}: write NAME:FILE, the importer's module and what it reads")
    return name, Path(path)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise SettingsError(f"--started {text}: not a time; write 2021-07-06 or 2021-07-06T21:15:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _metric(text: str) -> tuple[str, float]:
    name, separator, figure = text.partition("=")
    try:
        value = float(figure)
    except ValueError:
        value = math.nan
    if not separator or not name.strip() or not math.isfinite(value):
        raise SettingsError(f"--metric {text}: write NAME=VALUE, such as eval_rouge1=55.162")
    return name.strip(), value


def _published(path: Path, output: Path) -> None:
    from greenml.record.importers import published_table

    table = published_table.load(path)
    published_table.write(table, output)
    click.echo(f"{output}: {len(table.rows)} published results; 'greenml study report RUNS {output} --tables nvidia'")
    if any(not row.source for row in table.rows):
        click.echo(f"note: {path} does not say who published them; give it a column 'source'", err=True)
