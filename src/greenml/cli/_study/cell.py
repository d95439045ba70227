"""``greenml study cell``: one attempt of one cell; what ``greenml study run`` and the files of job schedulers start."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.command("cell", hidden=True)
@click.argument("folder", metavar="STUDY", type=_FILE)
@click.argument("which", metavar="VARIANT/seed-N|POSITION")
@click.option("--directory", type=_FILE, help="Where the commands run, in place of the study file's folder.")
@click.option("--into", type=_FILE, help="Where the cell's run folder goes, in place of the study's folder.")
@click.option("--once", is_flag=True, help="Do nothing where the cell has completed, or the budget is used up.")
def command(folder: Path, which: str, directory: Path | None, into: Path | None, once: bool) -> int:
    """Run one cell of a study, once more."""
    from dataclasses import replace

    from greenml.analysis.study import attempt
    from greenml.analysis.study import folder as study_folder
    from greenml.analysis.study.expectation import lower_bounds, over_budget
    from greenml.cli import run as run_command
    from greenml.errors import SettingsError

    study = study_folder.load(folder.resolve(), records=once)
    if directory is not None:
        study = replace(study, plan=replace(study.plan, directory=directory.resolve()))
    named = {cell.name: cell for cell in study.cells} | {str(cell.position): cell for cell in study.cells}
    if which not in named:
        raise SettingsError(f"{folder}: no cell {which!r}; there are 1 to {len(study.cells)}, and VARIANT/seed-N")
    cell = named[which]
    if into is not None:
        cell = replace(cell, folder=into.resolve())
    if once and cell.state == "completed":
        click.echo(f"{cell.name}: has completed")
        return 0
    if once and (reason := over_budget(study)):
        study_folder.write_cell(study, cell, study_folder.read_attempts(cell.folder), skipped=f"budget: {reason}")
        click.echo(f"{cell.name}: not started; {reason}")
        return 0

    for text in lower_bounds(study) if once else ():
        click.echo(text)

    def measure(words: Sequence[str], at: Path) -> int:
        os.chdir(at)
        try:
            code = run_command.command.main(list(words), standalone_mode=False)
        except click.Abort:  # a signal before the command was started
            return 128 + signal.SIGINT
        return code if isinstance(code, int) else 0

    code = attempt.run(study, cell, measure)
    click.echo(f"{cell.name}: {study_folder.read_attempts(cell.folder)[-1]['state']}")
    return code
