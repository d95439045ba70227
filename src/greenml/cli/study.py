"""``greenml study``: plans, runs, collects and reports a command over variants and seeds."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml import redaction
from greenml.cli._options import formats
from greenml.errors import SettingsError

if TYPE_CHECKING:
    from greenml.analysis.study.execution import Place
    from greenml.analysis.study.expectation import Expected
    from greenml.analysis.study.folder import Cell, Spent, Study
    from greenml.analysis.study.plan import Plan
    from greenml.analysis.study.report import StudyReport
    from greenml.analysis.study.tables import Table
    from greenml.record.schema import RunRecord


class _Commands(click.Group):
    """A group that lists its commands in the order in which they stand here, in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)


@click.group("study", cls=_Commands)
def command() -> None:
    """Run a command over variants and seeds, and compare them.

    A study file (docs/study.md) has the command, what each variant changes, and the seeds.
    """


FILE = click.Path(path_type=Path)


def which_study(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and the options that say which study is meant."""
    for option in (
        click.option("--output", type=FILE, metavar="FOLDER", help="The study's folder; its name by default."),
        click.option("--smoke", is_flag=True, help="The quick trial that the file's 'smoke' section describes."),
        click.option("--profile", metavar="NAME", help="One of the file's profiles."),
        click.argument("study", metavar="STUDY.YAML", type=FILE),
    ):
        function = option(function)
    return function


def read(path: Path, profile: str | None, smoke: bool, output: Path | None) -> tuple[Plan, Path]:
    """Return the plan that is meant, and its folder.

    Raises:
        SettingsError: something in the file, or between it and the options, is wrong.
    """
    from greenml.analysis.study import expectation, plan
    from greenml.analysis.study import folder as study_folder
    from greenml.errors import SettingsError

    if smoke and profile:
        raise SettingsError("give --smoke or --profile, not both")
    if path.is_dir():
        if smoke or profile or output is not None:
            raise SettingsError(f"{path}: a study that has begun has its profile and its folder")
        made = study_folder.load(path, records=False).plan
        return made, path
    made = plan.read(path, "smoke" if smoke else profile or "")
    expectation.check_settings(made)
    name = plan.folder_name(made.file.name) + (f"-{plan.folder_name(made.profile)}" if made.profile else "")
    return made, output or Path(name)


def check_commands(plan: Plan) -> None:
    """Check that the command of every variant is there.

    Raises:
        SettingsError: one is not.
    """
    from greenml.analysis.study.plan import check_command, words

    for variant in plan.variants:
        check_command(words(plan, variant, plan.seeds[0], Path("folder")), plan.directory)


def spent(used: Spent, tier: str) -> str:
    """Say what attempts used, in a line."""
    from greenml.reports import _format

    figures = (
        ("time", _format.duration, used.seconds), ("facility energy", _format.energy, used.facility_energy_joules),
        ("emissions", _format.mass, used.emissions_grams),
    )  # fmt: skip
    nothing = not used.recorded + used.unreadable + used.running
    parts = [write(value) for name, write, value in figures if used.known.get(name) or nothing]
    if (usd := used.cost_usd.get(tier)) is not None:
        parts.append(_format.money(usd))
    shown = ("record", "energy", "facility energy", "emissions", f"cost, {tier}")
    missing = [f"the {name.partition(',')[0]} of {count}" for name, count in used.unknown.items() if name in shown]
    still = f" (without {used.running} that still run)" if used.running else ""
    least = f" (at least: not wholly known is {', '.join(missing)} attempts)" if missing else ""
    return (", ".join(parts) or "what is not known") + least + still


def summary(study: Study) -> str:
    """Say how many cells are in which state, and what the whole study used."""
    from greenml.analysis.study import expectation

    states = Counter(map(_state, study.cells))
    cells = ", ".join(f"{count} {state}" for state, count in states.items())
    attempts = len(study.attempts)
    more = f" in {attempts} attempts" if attempts > sum(bool(cell.attempts) for cell in study.cells) else ""
    total = spent(study.spent, expectation.tier(study.plan.file))
    return f"{study.folder}: {len(study.cells)} cells{more}: {cells}\nThe study used {total}, every attempt counted."


def _state(cell: Cell) -> str:
    from greenml.analysis.study.folder import BUDGET

    if cell.state == "pending" and cell.reason:
        return "left out (budget)" if cell.reason.startswith(BUDGET) else "not there"
    return "out of memory" if cell.out_of_memory else cell.state


def budget(study: Study) -> str:
    """Say the budgets of a study."""
    file = study.plan.file
    limits = ((file.max_usd, "USD"), (file.max_kwh, "kWh"), (file.max_kg, "kg CO2e"))
    return ", ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)


def result(cell: Cell, tier: str) -> str:
    """Say how the last attempt of a cell ended, in a line."""
    from greenml.analysis.study import folder as study_folder

    last = cell.attempts[-1] if cell.attempts else None
    reason = f" ({cell.reason})" if cell.reason else ""
    used = f", {spent(study_folder.spent([last]), tier)}" if last is not None and last.record is not None else ""
    return f"{cell.name}: {cell.state}{reason}{used}"


DRIFT_RATIO = 0.2  # the example by which the plan says what its order is good for


@command.command("plan")
@which_study
@click.option("--probe", is_flag=True, help="Run the first cell now, to know what a cell uses; it counts as run.")
@click.option("--like", type=FILE, metavar="RUN.JSON", help="The record of such a run, in place of a probe.")
@click.option("--json", "as_json", is_flag=True, help="Every cell, as JSON.")
def plan_command(  # noqa: PLR0917  options
    study: Path,
    profile: str | None,
    smoke: bool,
    output: Path | None,
    probe: bool,
    like: Path | None,
    as_json: bool,
) -> None:
    """Show the cells in their order, and what each is expected to use.

    What a cell uses is known from cells of its variant that have run, else from --like, else from 'expected_minutes'
    and the price table, else from cells of other variants. Nothing is run without --probe.
    """
    from greenml.analysis.record_search import open_record
    from greenml.analysis.study import expectation
    from greenml.analysis.study import folder as study_folder

    plan, into = read(study, profile, smoke, output)
    check_commands(plan)
    if probe:
        from greenml.analysis.study import execution

        made = study_folder.create(into, plan)
        if not any(cell.usable for cell in made.cells):
            made = execution.run(made, execution.ThisMachine(made, 1), Lines(), most=1).study
    else:
        made = study_folder.opened(into, plan)
    expected = expectation.of_variants(made, open_record(like) if like is not None else None)
    if as_json:
        import json

        from greenml.cli._terminal import echo_json

        echo_json(json.dumps(_plain(made, expected), indent=2))
    else:
        _print(made, expected)


def _plain(study: Study, expected: Mapping[str, Expected]) -> dict[str, Any]:
    from dataclasses import asdict

    from greenml.analysis.study import expectation, plan

    cells = [
        {
            "position": cell.position,
            "block": cell.block,
            "variant": cell.variant.name,
            "seed": cell.seed,
            "state": cell.state,
            "reason": cell.reason,
            "command": plan.words(study.plan, cell.variant, cell.seed, cell.folder),
            "expected": asdict(expected[cell.variant.name]),
        }
        for cell in study.cells
    ]
    return {
        "name": study.plan.file.name,
        "profile": study.plan.profile,
        "folder": str(study.folder),
        "baseline": study.plan.baseline,
        "budget_allows_cells": expectation.allowed(study, expected),
        "cells": cells,
    }


def _print(study: Study, expected: Mapping[str, Expected]) -> None:
    from rich import box
    from rich.table import Table

    from greenml.analysis.study.plan import imbalance
    from greenml.cli import _terminal
    from greenml.redaction import printable_line
    from greenml.reports import _format

    def figure(value: float | None, write: Any) -> str:  # noqa: ANN401  a function of _format
        return "?" if value is None else write(value)

    plan = study.plan
    count = f"{len(plan.variants)} variants x {len(plan.seeds)} seeds = {len(study.cells)} cells"
    click.echo(f"{printable_line(study.name)}: {count}")
    table = Table(box=box.SIMPLE_HEAD)
    begun = any(cell.state != "pending" or cell.reason for cell in study.cells)
    known = any(needs.seconds is not None for needs in expected.values())
    figures = ["time", "energy", "CO2e", "cost"] if known else []
    for name in ("", "variant", "seed", *(["state"] if begun else []), *figures):
        left = name in ("variant", "state")
        least = 9 if name == "state" else None
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold", min_width=least)
    for cell in study.cells:
        needs = expected[cell.variant.name]
        name = f"{cell.variant.name} *" if cell.variant.name == plan.baseline else cell.variant.name
        state = f"{cell.state} ({printable_line(cell.reason)})" if cell.reason else cell.state
        cells = (
            figure(needs.seconds, _format.duration), figure(needs.facility_energy_joules, _format.energy),
            figure(needs.emissions_grams, _format.mass), figure(needs.cost_usd, _format.money),
        )  # fmt: skip
        table.add_row(
            str(cell.position), printable_line(name), str(cell.seed), *([state] if begun else []),
            *(cells if known else ()), end_section=cell.position % len(plan.variants) == 0,
        )  # fmt: skip
    _terminal.show(table)
    names = [variant.name for variant in plan.variants]
    blocks: dict[int, list[int]] = {}
    for cell in study.cells:
        blocks.setdefault(cell.block, []).append(names.index(cell.variant.name))
    lines = [f"* The baseline: {plan.baseline}.", *_totals(study, expected)]
    moved = DRIFT_RATIO * imbalance(list(blocks.values()))
    lines.append(
        f"Order: random blocks, balanced (order_seed {plan.file.order_seed}). A machine that slows by "
        f"{DRIFT_RATIO:.0%} over the study moves a difference by {moved:.2%} at most."
    )
    if len(plan.seeds) == 1:
        lines.append("With one seed nothing can be told apart: give at least three.")
    lines += [f"Left out: {name}: {reason}." for name, reason in plan.file.without.items()]
    width = _terminal.width(100, sys.stdout)
    for line in lines:
        click.echo("\n".join(textwrap.wrap(printable_line(line), width, subsequent_indent="  ")))


def _totals(study: Study, expected: Mapping[str, Expected]) -> list[str]:
    """Say what the cells that are still to run are expected to use, and what the budget allows of them."""
    from greenml.analysis.study import expectation
    from greenml.analysis.study.folder import TO_RUN
    from greenml.reports import _format

    writers: dict[str, Callable[[float], str]] = {
        "seconds": _format.duration,
        "facility_energy_joules": _format.energy,
        "emissions_grams": _format.mass,
        "cost_usd": _format.money,
    }
    rest = [expected[cell.variant.name] for cell in study.cells if cell.state in TO_RUN]
    lines = []
    sums = {name: [getattr(needs, name) for needs in rest] for name in writers}
    known = [writers[name](sum(values)) for name, values in sums.items() if values and None not in values]
    if rest:
        what = f"{len(rest)} cells to run"
        lines.append(f"{what}: {', '.join(known)}." if known else f"{what}.")
    if study.attempts:
        used = spent(study.spent, expectation.tier(study.plan.file))
        lines.append(f"Used so far: {used}, every attempt counted.")
    hows: dict[str, list[str]] = {}
    for name, needs in expected.items():
        hows.setdefault(needs.how, []).append(name)
    for how, names in hows.items():
        of = "" if len(hows) == 1 else f" of {', '.join(names)}"
        lines.append(f"Expected{of}: {how}.")
    if limits := budget(study):
        allowed = expectation.allowed(study, expected)
        guess = ", as far as is known" if expectation.is_guess(study, expected) else ""
        lines.append(f"Budget: {limits}. It allows {allowed} of the {len(rest)} cells{guess}.")
    return lines


NONE_COMPLETED, OVER_BUDGET, STOPPED = 1, 3, 130


@command.command("run")
@which_study
@click.option("--parallel", type=click.IntRange(1), metavar="N", help="Cells side by side; the file's by default.")
@click.option("--retry-failed", is_flag=True, help="Run cells again that failed for good.")
@click.option("--ray", "on_ray", is_flag=True, help="Hand the cells to a Ray cluster, with their demand for GPUs.")
@click.option("--ray-address", default="", metavar="HOST:PORT", help="Of the cluster; found by Ray by default.")
@click.option("--slurm", "as_slurm", is_flag=True, help="Write slurm.sh, one job array; run nothing.")
@click.option("--sbatch", "sbatch", multiple=True, metavar="OPTION", help="For slurm.sh: '--partition=gpu'; repeats.")
@click.option("--azureml", "as_azureml", is_flag=True, help="Write azureml.yml, a pipeline; run nothing.")
@click.option("--compute", metavar="NAME", help="For azureml.yml: azureml:NAME of the cluster.")
@click.option("--environment", metavar="NAME", help="For azureml.yml: azureml:NAME:VERSION, with greenml in it.")
def run_command(  # noqa: PLR0917  options
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
    plan, into = read(study, profile, smoke, output)
    check_commands(plan)
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
    if on_ray:
        from greenml.analysis.study.schedulers import RayCluster

        return RayCluster(study, ray_address, parallel)
    from greenml.analysis.study.execution import ThisMachine

    return ThisMachine(study, parallel)


def _execute(study: Study, place: Place, retry_failed: bool) -> int:
    from greenml.analysis.study import execution

    done = execution.run(study, place, Lines(), retry_failed=retry_failed)
    click.echo(summary(done.study))
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
    from greenml.analysis.study import schedulers

    path = study.folder / "slurm.sh"
    files.write(path, schedulers.slurm(study, parallel=parallel, options=options))
    click.echo(f"{path}: {len(schedulers.to_run(study))} tasks. Submit it with 'sbatch {path}';")
    click.echo(f"then 'greenml study collect {study.folder}' says how they went.")
    if limits := budget(study):
        click.echo(f"The budget ({limits}) keeps tasks from starting; it stops none that runs.", err=True)
    return 0


def _azureml(study: Study, compute: str, environment: str) -> int:
    from greenml import files
    from greenml.analysis.study import schedulers

    path = study.folder / "azureml.yml"
    files.write(path, schedulers.azureml(study, compute=compute, environment=environment))
    click.echo(f"{path}: {len(schedulers.to_run(study))} jobs. Submit it with 'az ml job create --file {path}';")
    click.echo(f"download it with '--all', then 'greenml study collect {study.folder} DOWNLOADS'.")
    if limits := budget(study):
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

        self.said(f"[{cell.position}/{len(study.cells)}] {result(cell, expectation.tier(study.plan.file))}")
        if cell.state in ("failed", "killed"):
            self.said(f"see {cell.folder / LOG_FILE}")
        elif cell.state == "pending":
            self.said(f"it could not be started; see {study.folder / CELLS_LOG_FILE}")

    def said(self, text: str) -> None:
        """Say a line."""
        from greenml.redaction import printable_line

        click.echo(f"{time.strftime('%H:%M:%S')} {printable_line(text)}", err=True)


@command.command("cell", hidden=True)
@click.argument("folder", metavar="STUDY", type=FILE)
@click.argument("which", metavar="VARIANT/seed-N|POSITION")
@click.option("--directory", type=FILE, help="Where the commands run, in place of the study file's folder.")
@click.option("--into", type=FILE, help="Where the cell's run folder goes, in place of the study's folder.")
@click.option("--once", is_flag=True, help="Do nothing where the cell has completed, or the budget is used up.")
def cell_command(folder: Path, which: str, directory: Path | None, into: Path | None, once: bool) -> int:
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


@command.command("collect")
@click.argument("study", metavar="STUDY", type=FILE)
@click.argument("sources", metavar="[FOLDER...]", nargs=-1, type=FILE)
@click.option(
    "--by", multiple=True, metavar="PARAMETER",
    help="Make a new study of any runs: a variant for each value of this parameter of their records; repeats.",
)  # fmt: skip
@click.option("--name", default="", metavar="NAME", help="With --by: of the study; its folder's by default.")
def collect_command(study: Path, sources: tuple[Path, ...], by: tuple[str, ...], name: str) -> None:
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
    click.echo(summary(done.study))


ON_TERMINAL = ("benchmark", "tradeoff", "target", "pareto", "counted")  # the others are in the files


@command.command("report")
@click.argument("paths", metavar="STUDY|RUN...", nargs=-1, required=True)
@click.option(
    "--tables", type=click.Choice(["study", "nvidia"]), default="study", show_default=True,
    help="A study's own tables; or throughput, time to train, accuracy and latency of any records, as NVIDIA has them.",
)  # fmt: skip
@click.option("--output", type=FILE, metavar="FOLDER", help="Where the files go; 'report' in the study by default.")
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
    "--winner-card", type=FILE, metavar="README.MD", help="Write the best run, and what the search took, there."
)
def report_command(  # noqa: PLR0917  click gives them by name
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
        _print_tables(style, made.title, made.lead, chosen)
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


def _print_tables(style: str, title: str, lead: Sequence[str], tables: Sequence[Table]) -> None:
    from greenml.analysis.study import tables as study_tables

    if style == "csv":
        click.echo(study_tables.csv_table(tables[0]), nl=False)
    elif style == "latex":
        click.echo(study_tables.latex(tables), nl=False)
    elif style == "markdown":
        click.echo(study_tables.markdown(title, lead, tables), nl=False)
    else:
        click.echo(study_tables.as_json(title, lead, tables), nl=False)


def _show(title: str, lead: Sequence[str], tables: Sequence[Table]) -> None:
    from greenml.analysis.study import tables as study_tables
    from greenml.cli import _terminal

    width = shutil.get_terminal_size((0, 0)).columns or None
    click.echo(study_tables.terminal(title, lead, tables, width, color=_terminal.has_colors(sys.stdout)), nl=False)


def _write(made: StudyReport, folder: Path) -> None:
    from greenml import files
    from greenml.analysis.study import report_page
    from greenml.analysis.study import tables as study_tables

    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "report.md", study_tables.markdown(made.title, made.lead, made.tables))
    files.write(folder / "report.tex", study_tables.latex(made.tables))
    files.write(folder / "report.json", study_tables.as_json(made.title, made.lead, made.tables))
    for table in made.tables:
        files.write(folder / f"{table.key}.csv", study_tables.csv_table(table))
    files.write(folder / "report.html", report_page.render(made))
    name = redaction.printable_line(str(folder))
    click.echo(f"{name}: report.html, report.md, report.tex, report.json and {len(made.tables)} CSV files written")


def _card(made: StudyReport, readme: Path, *, quiet: bool) -> None:
    """Write the best run into a model card, with what the whole study took."""
    from greenml import files
    from greenml.analysis.study.results import with_share
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
    from greenml.analysis.study.folder import RECORD_FILE, STUDY_FILE, load
    from greenml.analysis.study.results import with_share

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
    from greenml.analysis.study import nvidia
    from greenml.analysis.study import tables as study_tables

    found, published, skipped = record_search.load_with_published(paths)
    records = _as_of_studies(paths, found)
    for text in skipped:
        click.echo(f"greenml: {redaction.printable_line(text)}", err=True)
    every = nvidia.tables(records, published, record_search.labels_of(found))
    chosen = _chosen(every, only, style)
    title, lead = nvidia.TITLE, nvidia.lead(records, published)
    if style is not None:
        _print_tables(style, title, lead, chosen)
        return
    _show(title, lead, chosen)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        files.write(output / "nvidia.md", study_tables.markdown(title, lead, chosen))
        files.write(output / "nvidia.tex", study_tables.latex(chosen))
        for table in chosen:
            files.write(output / f"{table.key}.csv", study_tables.csv_table(table))
        click.echo(
            f"{redaction.printable_line(str(output))}: nvidia.md, nvidia.tex and {len(chosen)} CSV files written"
        )
