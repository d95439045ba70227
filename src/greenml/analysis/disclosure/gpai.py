"""The energy fields of the EU's Model Documentation Form for general-purpose AI models, as Markdown.

Source: Model Documentation Form of the General-Purpose AI Code of Practice, 10 July 2025; Regulation (EU) 2024/1689,
Annex XI, section 1, point 2 (d) and (e). The form asks for MWh and FLOP with two significant figures at least, and
defines no boundary: it is stated.
"""

from __future__ import annotations

import math

from greenml.analysis.disclosure import model as disclosure
from greenml.analysis.disclosure.model import (
    SECONDS_PER_DAY,
    TRAINING_STAGES,
    Model,
    Run,
    added,
    wall_clock_seconds,
)
from greenml.redaction import printable_line
from greenml.reports import _format

DAYS_PER_MONTH = 365.25 / 12
TRAINING_MONTHS = ((1, "less than 1 month"), (3, "1 to 3 months"), (6, "3 to 6 months"))


def render(model: Model) -> str:
    """Write the fields as a Markdown table, with the method and the figures of each stage."""
    runs = model.of(TRAINING_STAGES)
    energy = added([run.energy_joules for run in runs])
    stated = disclosure.interval(energy)
    fields = [
        ("Model", printable_line(model.name)),
        ("Number of parameters", _count(model.number("parameters"), "")),
        (
            "Amount of energy used for training",
            disclosure.megawatt_hours(energy) + (f" (95 % interval: {stated})" if stated else ""),
        ),
        ("Computation used for training", _count(model.number("flops"), " FLOP")),
        *_times(runs),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in fields)
    stages = "\n".join(
        f"| {stage} | {count} | {disclosure.megawatt_hours(joules)} | {disclosure.interval(joules) or 'not known'} |"
        for stage, count, joules, _ in disclosure.by_stage(model)
    )
    how = disclosure.method(runs, energy) if runs else "No run of training was given."
    return (
        "# Model Documentation Form: computation and energy\n\n"
        f"| Field | Value |\n| --- | --- |\n{rows}\n\n"
        f"## Measurement methodology\n\n{how}\n\n"
        f"## What each stage used\n\n| Stage | Runs | Energy | 95 % interval |\n| --- | --- | --- | --- |\n{stages}\n"
    )


def _count(value: float | None, unit: str) -> str:
    """Write a large count with two significant figures at least: ``4.06e8``."""
    if value is None:
        return "unknown"
    digits = f"{value:.2e}".replace("e+0", "e").replace("e+", "e")
    return f"{digits}{unit}"


def _times(runs: list[Run]) -> list[tuple[str, str]]:
    if not runs:
        none = "N/A (no run of training was given)"
        return [("Training time (wall clock)", none), ("Training time (hardware)", none)]
    days = wall_clock_seconds(runs) / SECONDS_PER_DAY
    months = days / DAYS_PER_MONTH
    wide = next((words for most, words in TRAINING_MONTHS if months < most), "more than 6 months")
    return [
        ("Training time (wall clock)", f"{_days(days)} days ({wide})"),
        ("Training time (hardware)", _hardware_days(runs)),
    ]


def _hardware_days(runs: list[Run]) -> str:
    """Write GPU days; of machines without any GPU, node days."""
    gpu_seconds = [run.gpu_seconds for run in runs]
    known = [seconds for seconds in gpu_seconds if seconds is not None]
    without = [run for run in runs if run.gpu_seconds == 0 and run.record.duration_seconds]
    if len(without) == len(runs):
        return f"{_days(math.fsum(run.node_seconds for run in runs) / SECONDS_PER_DAY)} node days (no GPUs)"
    if not known:
        return "unknown"
    text = f"{_days(math.fsum(known) / SECONDS_PER_DAY)} GPU days"
    if without:
        nodes = math.fsum(run.node_seconds for run in without) / SECONDS_PER_DAY
        text += f", and {_days(nodes)} node days without GPUs"
    missing = len(gpu_seconds) - len(known)
    return f"at least {text} ({missing} of {len(runs)} runs without a number of GPUs)" if missing else text


def _days(value: float) -> str:
    return _format.number(float(f"{value:.3g}"), 3)
