"""``greenml study report``: a study's tables as files and on the terminal, and tables as NVIDIA publishes them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from greenml import redaction
from greenml.cli._options import formats
from greenml.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenml.analysis.study.report import StudyReport
    from greenml.analysis.study.tables import Table
    from greenml.record.schema import RunRecord

_FILE = click.Path(path_type=Path)
ON_TERMINAL = ("benchmark", "tradeoff", "target", "pareto", "counted")  # the others are in the files


@click.command("report")
@click.argument("paths", metavar="STUDY|RUN...", nargs=-1, required=True)
@click.option(
    "--tables", type=click.Choice(["study", "nvidia"]), default="study", show_default=True,
    help="A study's own tables; or throughput, time to train, accuracy and latency of any records, as NVIDIA has them.",
)  # fmt: skip
@click.option("--output", type=_FILE, metavar="FOLDER", help="Where the files go; 'report' in the study by default.")
@formats(
    markdown="Print Markdown, and write no files.", latex="Print LaTeX tables.", csv="Print CSV of one table (--only).",
    json="Print everything as JSON, SI and unrounded.",
)  # fmt: skip
@click.option("--only", multiple=True, metavar="TABLE", help="This table: benchmark, tradeoff ...; may be repeated.")
@click.option("--metric", default="", metavar="NAME", help="Judge by this metric, in place of the study file's.")
@click.option("--higher-is-better", "higher", is_flag=True, help="Of a metric whose name does not tell.")
@click.option("--lower-is-better", "lower", is_flag=True, help="Of a metric whose name does not tell.")
@click.option("--target", type=float, metavar="VALUE", help="Of the metric: what it took to reach this value.")
@click.option("--baseline", default="", metavar="VARIANT", help="Compare with this variant.")
@click.option(
    "--winner-card", type=_FILE, metavar="README.MD", help="Write the best run, and what the search took, there."
)
def command(  # noqa: PLR0917  click gives them by name
    paths: tuple[str, ...], tables: str, output: Path | None, style: str | None, only: tuple[str, ...], metric: str,
    higher: bool, lower: bool, target: float | None, baseline: str, winner_card: Path | None,
) -> None:  # fmt: skip
    """Report a study: benchmark, trade-off, quality target, Pareto front, what was counted, environment.

    STUDY is the folder that 'greenml study run' made. It gets a folder 'report' with report.html, report.md,
    report.tex, report.json and a CSV file a table. With --tables nvidia, RUN may be any record, folder or table that
    'greenml import --table' made.
    """
    if higher and lower:
        raise SettingsError("--higher-is-better and --lower-is-better: give one")
    if tables == "nvidia":
        _nvidia(paths, output, style, only)
        return
    from greenml.analysis.study import report as study_report
    from greenml.analysis.study.folder import load

    if len(paths) > 1:
        raise SettingsError("give one study; --tables nvidia takes many records")
    study = load(Path(paths[0]))
    better = study_report.way(higher=higher, lower=lower)
    made = study_report.build(study, metric=metric, better=better, target=target, baseline=baseline)
    chosen = _chosen(made.tables, only, style)
    if style is not None:
        _print(style, made.title, made.lead, chosen)
    else:
        _show(made.title, made.lead, [table for table in chosen if only or table.key in ON_TERMINAL])
        _write(made, output or study.folder / "report")
    if winner_card is not None:
        _card(made, winner_card, quiet=style is not None)


def _chosen(tables: Sequence[Table], only: Sequence[str], style: str | None) -> list[Table]:
    keys = [table.key for table in tables]
    for key in only:
        if key not in keys:
            raise SettingsError(f"--only {key}: no such table; there are {', '.join(keys) or 'none'}")
    if style == "csv" and len(set(only)) > 1:
        raise SettingsError("--csv is of one table: give one --only, or read the files that the command writes")
    if style == "csv" and not tables:
        raise SettingsError("no run that completed has a figure for these tables")
    return [table for table in tables if not only or table.key in only]


def _print(style: str, title: str, lead: Sequence[str], tables: Sequence[Table]) -> None:
    from greenml.analysis.study import report_text

    if style == "csv":
        click.echo(report_text.csv_table(tables[0]), nl=False)
    elif style == "latex":
        click.echo(report_text.latex(tables), nl=False)
    elif style == "markdown":
        click.echo(report_text.markdown(title, lead, tables), nl=False)
    else:
        click.echo(report_text.as_json(title, lead, tables), nl=False)


def _show(title: str, lead: Sequence[str], tables: Sequence[Table]) -> None:
    from greenml.analysis.study import report_text
    from greenml.cli import _terminal

    width = shutil.get_terminal_size((0, 0)).columns or None
    click.echo(report_text.terminal(title, lead, tables, width, color=_terminal.has_colors(sys.stdout)), nl=False)


def _write(made: StudyReport, folder: Path) -> None:
    from greenml import files
    from greenml.analysis.study import report_page, report_text

    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "report.md", report_text.markdown(made.title, made.lead, made.tables))
    files.write(folder / "report.tex", report_text.latex(made.tables))
    files.write(folder / "report.json", report_text.as_json(made.title, made.lead, made.tables))
    for table in made.tables:
        files.write(folder / f"{table.key}.csv", report_text.csv_table(table))
    files.write(folder / "report.html", report_page.render(made))
    name = redaction.printable_line(str(folder))
    click.echo(f"{name}: report.html, report.md, report.tex, report.json and {len(made.tables)} CSV files written")


def _card(made: StudyReport, readme: Path, *, quiet: bool) -> None:
    """Write the best run into a model card, with what the whole study took."""
    from greenml import files
    from greenml.analysis.study.figures import with_share
    from greenml.record import file as record_file
    from greenml.record.schema import Note
    from greenml.reports import model_card

    if made.winner is None or made.winner.cell.record is None:
        raise SettingsError("--winner-card: no run that completed logged a metric by which to choose one")
    record, share = made.winner.cell.record, made.winner.cell.attempts[-1].shared_ratio
    notes = [note for note in record.notes if note.code != "study"]
    record = record.model_copy(update={"notes": [*notes, Note(code="study", text=made.winner.text)]})
    record_file.write(record, made.winner.cell.folder / "run.json")  # which keeps what the whole machine used
    before = files.read(readme) if readme.exists() else ""
    card = model_card.update(before, with_share(record, share), folder=readme.resolve().parent.name)
    files.write(readme, card.text)
    name = redaction.printable_line(str(readme))
    click.echo(f"{name}: written with {made.winner.cell.name} and the cost of the search", err=quiet)


def _as_of_studies(paths: Sequence[str], records: Sequence[tuple[Path, RunRecord]]) -> list[RunRecord]:
    """Return records as the studies among some folders know them.

    Each has its share of its machine. One whose command was told to stop, and ended with 0, has not completed.
    """
    from greenml.analysis.study.figures import with_share
    from greenml.analysis.study.folder import RECORD_FILE, STUDY_FILE, load

    studies = [load(Path(path)) for path in paths if (Path(path) / STUDY_FILE).is_file()]
    attempts = {(attempt.folder / RECORD_FILE).resolve(): attempt for study in studies for attempt in study.attempts}
    made = []
    for path, record in records:
        attempt = attempts.get(path.resolve())
        shared = record if attempt is None else with_share(record, attempt.shared_ratio)
        stopped = attempt is not None and attempt.state != "completed" and record.status == "completed"
        made.append(shared.model_copy(update={"status": "interrupted"}) if stopped else shared)
    return made


def _nvidia(paths: Sequence[str], output: Path | None, style: str | None, only: Sequence[str]) -> None:
    """Print the tables of any records in the form that NVIDIA publishes, beside published ones."""
    from greenml import files
    from greenml.analysis import record_search
    from greenml.analysis.study import nvidia, report_text

    found, published, skipped = record_search.load_with_published(paths)
    records = _as_of_studies(paths, found)
    for text in skipped:
        click.echo(f"greenml: {redaction.printable_line(text)}", err=True)
    every = nvidia.tables(records, published, record_search.labels(found))
    chosen = _chosen(every, only, style)
    title, lead = nvidia.TITLE, nvidia.lead(records, published)
    if style is not None:
        _print(style, title, lead, chosen)
        return
    _show(title, lead, chosen)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        files.write(output / "nvidia.md", report_text.markdown(title, lead, chosen))
        files.write(output / "nvidia.tex", report_text.latex(chosen))
        for table in chosen:
            files.write(output / f"{table.key}.csv", report_text.csv_table(table))
        click.echo(
            f"{redaction.printable_line(str(output))}: nvidia.md, nvidia.tex and {len(chosen)} CSV files written"
        )
