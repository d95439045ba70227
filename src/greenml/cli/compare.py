"""``greenml compare``: several runs side by side."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml import redaction
from greenml.cli._options import formats
from greenml.errors import RecordError, SettingsError

if TYPE_CHECKING:
    from greenml.analysis.comparison.compare import Comparison, Run


@click.command("compare")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--baseline", metavar="NAME|PATH", help="The run that the others are compared with; the first by default."
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A logged metric to show; may be repeated.")
@click.option(
    "--higher-is-better", "higher", multiple=True, metavar="NAME", help="Of a metric whose name does not tell."
)
@click.option("--lower-is-better", "lower", multiple=True, metavar="NAME", help="Of a metric whose name does not tell.")
@click.option(
    "--where", "conditions", multiple=True, metavar="EXPR",
    help="Only runs that are so: 'params.learning_rate<1e-4', sku=ND40rs_v2, status=completed. Several must all hold.",
)  # fmt: skip
@click.option("--sort", metavar="COLUMN", help="Order the rows; with a leading hyphen the largest first.")
@click.option("--ungrouped", is_flag=True, help="A row for each repeat of a configuration, in place of their mean.")
@click.option("--same-factors", is_flag=True, help="Account every run with the baseline's carbon intensity and PUE.")
@click.option(
    "--basis",
    type=click.Choice(["direct", "lifecycle"]),
    help="Account every run on this basis of the carbon intensity.",
)
@formats(
    markdown="A Markdown table.", csv="CSV, a row a run; SI units, unrounded.", json="Everything with reasons, as JSON."
)
@click.option("--html", type=click.Path(path_type=Path), metavar="PAGE.HTML", help="A page: sortable table and charts.")
def command(
    runs: tuple[str, ...],
    conditions: tuple[str, ...],
    style: str | None,
    html: Path | None,
    **choices: Any,  # noqa: ANN401
) -> None:
    """Compare runs: quality, time, energy, carbon and cost.

    What can be told of the differences is said beside them. RUN is a run.json, a folder (searched for records, with
    the folders in it) or a glob.
    """
    from greenml.analysis import record_search
    from greenml.analysis.comparison import compare_text
    from greenml.cli import _terminal

    records, skipped = record_search.load(runs)
    for text in skipped:
        click.echo(f"greenml: {redaction.printable_line(text)}", err=True)
    comparison = _compared(records, conditions, **choices)
    if html is not None:
        from greenml.analysis.comparison import compare_page

        _write(html, compare_page.render(comparison))
        click.echo(f"{html}: {len(comparison.rows)} rows of {len(records)} runs", err=style is not None)
    if style == "json":
        _terminal.echo_json(compare_text.as_json(comparison))
    elif style == "csv":
        click.echo(compare_text.table(comparison), nl=False)
    elif style == "markdown":
        click.echo(compare_text.markdown(comparison), nl=False)
    elif html is None:
        color = _terminal.has_colors(sys.stdout)
        width = shutil.get_terminal_size((0, 0)).columns or None
        click.echo(compare_text.terminal(comparison, width, color=color), nl=False)


def _compared(
    records: list[Any], conditions: tuple[str, ...], *, baseline: str | None, sort: str | None, same_factors: bool,
    basis: str | None, ungrouped: bool, metrics: tuple[str, ...], higher: tuple[str, ...], lower: tuple[str, ...],
) -> Comparison:  # fmt: skip
    from greenml.analysis import record_search
    from greenml.analysis.comparison import compare

    names = record_search.labels_of(records)
    if basis is not None:
        from greenml.accounting import assumptions

        records = [(path, assumptions.reaccount(record, basis=basis)) for path, record in records]
    every = [compare.Run(name, record, str(path)) for name, (path, record) in zip(names, records, strict=True)]
    first = _baseline(every, baseline) if baseline else None
    chosen = [
        every[at]
        for at in compare.select([run.record for run in every], [compare.parse(condition) for condition in conditions])
    ]
    if first is not None and first not in chosen:
        chosen.insert(0, first)  # asked for by name: shown even where a condition leaves it out
    if same_factors:
        chosen, first = _same_factors(chosen, first or chosen[0])
    made = compare.compare(chosen, first, metrics=metrics, higher=higher, lower=lower, grouped=not ungrouped)
    return compare.ordered(made, sort) if sort else made


def _same_factors(runs: list[Run], first: Run) -> tuple[list[Run], Run]:
    from dataclasses import replace

    from greenml.analysis.comparison.compare import with_factors_of

    made = [replace(run, record=with_factors_of(run.record, first.record)) for run in runs]
    return made, next(two for run, two in zip(runs, made, strict=True) if run is first)


def _baseline(runs: list[Run], wanted: str) -> Run:
    """Return the run that a name, path or run id means.

    Raises:
        SettingsError: none is it, or several are; lists what there is.
    """
    path = Path(wanted).resolve()
    places = (path, path / "run.json")
    for is_meant in (
        lambda run: Path(run.path).resolve() in places,
        lambda run: run.label == wanted,
        lambda run: wanted in (run.record.name, run.record.run_id),
    ):
        matches = [run for run in runs if is_meant(run)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise SettingsError(
                f"--baseline {wanted}: {len(matches)} runs have that name; give a path: {_some(matches)}"
            )
    raise SettingsError(f"--baseline {wanted}: no such run among these; there are {_some(runs)}")


def _some(runs: list[Run]) -> str:
    from greenml.analysis.comparison.compare import named

    return named([f"{run.label} ({run.path})" for run in runs])


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from None
