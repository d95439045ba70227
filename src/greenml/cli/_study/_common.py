"""What the commands of ``greenml study`` share: which study is meant, and lines about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from greenml.analysis.study.folder import Cell, Spent, Study
    from greenml.analysis.study.plan import Plan

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
