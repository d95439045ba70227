"""``greenml study plan``: what a study will run, in which order, and what it is expected to use."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml.cli._study import _common

if TYPE_CHECKING:
    from greenml.analysis.study.expectation import Expected
    from greenml.analysis.study.folder import Study

DRIFT_RATIO = 0.2  # the example by which the plan says what its order is good for


@click.command("plan")
@_common.which_study
@click.option("--probe", is_flag=True, help="Run the first cell now, to know what a cell uses; it counts as run.")
@click.option("--like", type=_common.FILE, metavar="RUN.JSON", help="The record of such a run, in place of a probe.")
@click.option("--json", "as_json", is_flag=True, help="Every cell, as JSON.")
def command(  # noqa: PLR0917  options
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
    from greenml.analysis.study import expectation
    from greenml.analysis.study import folder as study_folder
    from greenml.run.opening import open_record

    plan, into = _common.read(study, profile, smoke, output)
    _common.check_commands(plan)
    if probe:
        from greenml.analysis.study import execution
        from greenml.cli._study.run import Lines

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

    from greenml.analysis.study import order
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
    moved = DRIFT_RATIO * order.imbalance(list(blocks.values()))
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

    writers = {
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
        used = _common.spent(study.spent, expectation.tier(study.plan.file))
        lines.append(f"Used so far: {used}, every attempt counted.")
    hows: dict[str, list[str]] = {}
    for name, needs in expected.items():
        hows.setdefault(needs.how, []).append(name)
    for how, names in hows.items():
        of = "" if len(hows) == 1 else f" of {', '.join(names)}"
        lines.append(f"Expected{of}: {how}.")
    if limits := _common.budget(study):
        allowed = expectation.allowed(study, expected)
        guess = ", as far as is known" if expectation.is_guess(study, expected) else ""
        lines.append(f"Budget: {limits}. It allows {allowed} of the {len(rest)} cells{guess}.")
    return lines
