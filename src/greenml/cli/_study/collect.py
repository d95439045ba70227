"""``greenml study collect``: brings in the cells that ran elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from greenml.cli._study import _common


@click.command("collect")
@click.argument("study", metavar="STUDY", type=_common.FILE)
@click.argument("sources", metavar="[FOLDER...]", nargs=-1, type=_common.FILE)
@click.option(
    "--by", multiple=True, metavar="PARAMETER",
    help="Make a new study of any runs: a variant for each value of this parameter of their records; repeats.",
)  # fmt: skip
@click.option("--name", default="", metavar="NAME", help="With --by: of the study; its folder's by default.")
def command(study: Path, sources: tuple[Path, ...], by: tuple[str, ...], name: str) -> None:
    """Collect the cells of a study that ran elsewhere.

    STUDY is the study's folder. FOLDER is what came of a cloud's jobs or of another machine: the cells in it are copied
    into the study. Attempts that were killed get their records, from their traces.

    With --by, STUDY is a new folder, and FOLDER holds runs that no study file started, such as the trials of a sweep.
    """
    from greenml.analysis.study import collection
    from greenml.redaction import printable_line

    if by:
        from greenml.analysis import record_search
        from greenml.errors import SettingsError

        if not sources:
            raise SettingsError("--by: give the folders that hold the runs, after the study's")
        records, skipped = record_search.load([str(source) for source in sources])
        for text in skipped:
            click.echo(f"greenml: {printable_line(text)}", err=True)
        done = collection.from_records(study, records, by, name)
    else:
        done = collection.collect(study, sources)
    for text in done.skipped:
        click.echo(f"greenml: {printable_line(text)}; skipped", err=True)
    for cell in done.taken:
        click.echo(f"{cell.name}: collected")
    for path in done.finished:
        click.echo(f"{path}: made from its traces")
    click.echo(_common.summary(done.study))
