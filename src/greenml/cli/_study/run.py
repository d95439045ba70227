"""``greenml study run``: runs a study's cells, or writes the file with which a scheduler runs them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from greenml.cli._study import _common

if TYPE_CHECKING:
    from greenml.analysis.study.execution import Place
    from greenml.analysis.study.folder import Cell, Study

NONE_COMPLETED, OVER_BUDGET, STOPPED = 1, 3, 130


@click.command("run")
@_common.which_study
@click.option("--parallel", type=click.IntRange(1), metavar="N", help="Cells side by side; the file's by default.")
@click.option("--retry-failed", is_flag=True, help="Run cells again that failed for good.")
@click.option("--ray", "on_ray", is_flag=True, help="Hand the cells to a Ray cluster, with their demand for GPUs.")
@click.option("--ray-address", default="", metavar="HOST:PORT", help="Of the cluster; found by Ray by default.")
@click.option("--slurm", "as_slurm", is_flag=True, help="Write slurm.sh, one job array; run nothing.")
@click.option("--sbatch", "sbatch", multiple=True, metavar="OPTION", help="For slurm.sh: '--partition=gpu'; repeats.")
@click.option("--azureml", "as_azureml", is_flag=True, help="Write azureml.yml, a pipeline; run nothing.")
@click.option("--compute", metavar="NAME", help="For azureml.yml: azureml:NAME of the cluster.")
@click.option("--environment", metavar="NAME", help="For azureml.yml: azureml:NAME:VERSION, with greenml in it.")
def command(  # noqa: PLR0917  options
    study: Path,
    profile: str | None,
    smoke: bool,
    output: Path | None,
    parallel: int | None,
    retry_failed: bool,
    on_ray: bool,
    ray_address: str,
    as_slurm: bool,
    sbatch: tuple[str, ...],
    as_azureml: bool,
    compute: str | None,
    environment: str | None,
) -> int:
    """Run the cells of a study that have not run.

    STUDY.YAML is a study file, or the folder of a study that has begun. Started again, it goes on where it was. A cell
    that fails does not end it. The exit code is 0 where every cell has run, failed ones included; 1 where none
    completed, 3 where the budget left some out, 130 where it was stopped.
    """
    from greenml.analysis.study import folder as study_folder
    from greenml.errors import SettingsError

    if (on_ray or bool(ray_address)) + as_slurm + as_azureml > 1:
        raise SettingsError("give one of --ray, --slurm and --azureml")
    if as_azureml and not (compute and environment):
        raise SettingsError("--azureml needs --compute azureml:NAME and --environment azureml:NAME:VERSION")
    plan, into = _common.read(study, profile, smoke, output)
    _common.check_commands(plan)
    made = study_folder.create(into, plan)
    parallel = parallel or plan.file.parallel
    if as_slurm:
        return _slurm(made, parallel, sbatch)
    if as_azureml:
        return _azureml(made, str(compute), str(environment))
    return _execute(made, _place(made, parallel, on_ray or bool(ray_address), ray_address), retry_failed)


def _place(study: Study, parallel: int | None, on_ray: bool, ray_address: str) -> Place:
    """Return where the cells run.

    Raises:
        SettingsError: there is no such place.
    """
    from greenml.analysis.study.execution import ThisMachine
    from greenml.errors import SettingsError

    if not on_ray:
        return ThisMachine(study, parallel)
    try:
        from greenml.analysis.study.ray_cluster import RayCluster
    except ImportError:
        raise SettingsError("--ray needs Ray: pip install 'greenml[ray]'") from None
    return RayCluster(study, ray_address, parallel)


def _execute(study: Study, place: Place, retry_failed: bool) -> int:
    from greenml.analysis.study import execution

    done = execution.run(study, place, Lines(), retry_failed=retry_failed)
    click.echo(_common.summary(done.study))
    if done.stopped:
        click.echo(f"Stopped; 'greenml study run {study.folder}' goes on.")
        return STOPPED
    if done.over_budget:
        click.echo(f"The budget left cells out: {done.over_budget}. Change the study file, and run it again.")
        return OVER_BUDGET
    click.echo(f"'greenml study report {study.folder}' compares the variants.")
    return 0 if any(cell.state == "completed" for cell in done.study.cells) else NONE_COMPLETED


def _slurm(study: Study, parallel: int | None, options: tuple[str, ...]) -> int:
    from greenml import files
    from greenml.analysis.study import batch

    path = study.folder / "slurm.sh"
    files.write(path, batch.slurm(study, parallel=parallel, options=options))
    click.echo(f"{path}: {len(batch.to_run(study))} tasks. Submit it with 'sbatch {path}';")
    click.echo(f"then 'greenml study collect {study.folder}' says how they went.")
    if limits := _common.budget(study):
        click.echo(f"The budget ({limits}) keeps tasks from starting; it stops none that runs.", err=True)
    return 0


def _azureml(study: Study, compute: str, environment: str) -> int:
    from greenml import files
    from greenml.analysis.study import batch

    path = study.folder / "azureml.yml"
    files.write(path, batch.azureml(study, compute=compute, environment=environment))
    click.echo(f"{path}: {len(batch.to_run(study))} jobs. Submit it with 'az ml job create --file {path}';")
    click.echo(f"download it with '--all', then 'greenml study collect {study.folder} DOWNLOADS'.")
    if limits := _common.budget(study):
        click.echo(f"The budget ({limits}) does not hold there: the jobs know nothing of each other.", err=True)
    return 0


class Lines:
    """Says what happens, a line each."""

    def began(self, study: Study, cell: Cell) -> None:
        """Say that a cell was started."""
        self.said(f"[{cell.position}/{len(study.cells)}] {cell.name}: started")

    def ended(self, study: Study, cell: Cell) -> None:
        """Say how a cell ended, and where to look if it did not complete."""
        from greenml.analysis.study import expectation
        from greenml.analysis.study.folder import CELLS_LOG_FILE, LOG_FILE

        self.said(f"[{cell.position}/{len(study.cells)}] {_common.result(cell, expectation.tier(study.plan.file))}")
        if cell.state in ("failed", "killed"):
            self.said(f"see {cell.folder / LOG_FILE}")
        elif cell.state == "pending":
            self.said(f"it could not be started; see {study.folder / CELLS_LOG_FILE}")

    def said(self, text: str) -> None:
        """Say a line."""
        from greenml.redaction import printable_line

        click.echo(f"{time.strftime('%H:%M:%S')} {printable_line(text)}", err=True)
