"""``greenml reconcile``: a record beside another meter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml.cli._options import formats
from greenml.errors import SettingsError

if TYPE_CHECKING:
    from greenml.analysis.reconcile.compare import Reconciled, Side

SIGNS = {"agree": "agree", "differ": "DIFFER", "cannot be compared": "cannot be compared"}


@click.command("reconcile")
@click.argument("runs", metavar="RUN.JSON...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--with", "meters", metavar="METER", multiple=True, required=True,
    help="KIND:PATH of the other meter, with options after commas: codecarbon:emissions.csv, azure:FILE "
    "or /subscriptions/... of a workspace, "
    "impact-tracker:DIR, sacct:FILE, prometheus:FILE or URL, pm_counters:FILE, "
    "csv:pdu.csv,boundary=node-ac,accuracy=1%. May be repeated.",
)  # fmt: skip
@formats(markdown="A Markdown table.", json="Everything, as JSON.")
def command(runs: tuple[Path, ...], meters: tuple[str, ...], style: str | None) -> None:
    """Set a run beside another meter of the same devices.

    The verdict follows from both intervals: agree, differ, or cannot be compared, and why. Several runs are added up
    against one meter of their machine. The exit status is 1 where a meter differs.
    """
    from greenml.analysis import record_search
    from greenml.analysis.reconcile import compare
    from greenml.analysis.reconcile import meters as other_meters
    from greenml.cli import _terminal

    records = {record.run_id: record for record in (record_search.open_record(path) for path in runs)}
    if len(records) < len(runs):
        raise SettingsError("a run is given twice: it counts once")
    given = list(records.values())
    results = [
        compare.reconcile(given, meter) for text in meters for meter in other_meters.read(text, given)
    ]  # fmt: skip
    if style == "json":
        _terminal.echo_json(json.dumps([_as_json(result) for result in results], indent=2))
    else:
        click.echo("\n\n".join(rendered(result, markdown=style == "markdown") for result in results))
    if any(result.verdict == "differ" for result in results):
        click.get_current_context().exit(1)


def _as_json(result: Reconciled) -> dict[str, Any]:
    import math

    def side(side: Side) -> dict[str, float | None]:
        high = None if side.high is not None and math.isinf(side.high) else side.high
        return {"energy_joules": side.joules, "low_joules": side.low, "high_joules": high}

    return {
        "meter": result.meter.name, "boundary": result.meter.boundary, "scope": result.scope,
        "seconds": result.seconds, "step_seconds": result.meter.step_seconds or None,
        "gap_seconds": result.gap_seconds, "lag_seconds": result.meter.lag_seconds, "record": side(result.record),
        "other": side(result.other), "ratio": result.ratio, "left_over_joules": result.left_over_joules,
        "verdict": result.verdict, "why": result.why,
    }  # fmt: skip


def rendered(result: Reconciled, *, markdown: bool) -> str:
    """Return both sides of a comparison and the verdict, as text or as a Markdown table."""
    from greenml.analysis.reconcile.meters import BOUNDARIES
    from greenml.redaction import printable_line
    from greenml.reports import _format

    meter = result.meter
    boundary = BOUNDARIES.get(meter.boundary or "", "not known")
    steps = _format.seconds(meter.step_seconds) if meter.step_seconds else "one figure"
    gaps = _format.duration(result.gap_seconds) if result.gap_seconds else "none"
    side = "late" if meter.lag_seconds > 0 else "early"
    lag = f"; its clock is {_format.seconds(abs(meter.lag_seconds))} {side}, allowed for" if meter.lag_seconds else ""
    rows = [
        ("greenml", _energy(result.record), f"{'the whole run' if result.scope == 'run' else result.scope}"),
        (printable_line(meter.name), _energy(result.other), f"{boundary}; step: {steps}; gaps: {gaps}{lag}"),
    ]
    verdict = f"{SIGNS[result.verdict]}: {printable_line(result.why)}"
    if markdown:
        lines = ["| Meter | Energy | What of |", "| --- | --- | --- |"]
        lines += [f"| {name} | {energy} | {what} |" for name, energy, what in rows]
        return "\n".join([*lines, "", f"**{verdict}**"])
    width = max(len(name) for name, _, _ in rows)
    middle = max(len(energy) for _, energy, _ in rows)
    lines = [f"{name:<{width}}  {energy:<{middle}}  {what}" for name, energy, what in rows]
    return "\n".join([*lines, verdict])


def _energy(side: Side) -> str:
    import math

    from greenml.reports import _format

    if side.joules is None:
        return "not known"
    text = _format.energy(side.joules)
    if side.low is None or side.high is None:
        return f"{text} (no interval stated)"
    high = "up" if math.isinf(side.high) else f"to {_format.energy(side.high)}"
    return f"{text} ({_format.energy(side.low)} {high})"
