"""Comparison of runs: each figure, its difference from the baseline's, and whether the difference is significant.

Pure: records in, a Comparison out. The rules are derived in docs/compare.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from greenml.analysis.comparison import columns, differences, selection
from greenml.analysis.comparison.columns import Better, Column, columns_of
from greenml.analysis.comparison.differences import Cell, Difference, bases, difference, front, same, shared
from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.record.schema import RunRecord

NAME = "name"  # a column of its own: it can be sorted by


@dataclass(frozen=True, slots=True)
class Run:
    """A record, what it is called here (no two alike), and where it came from."""

    label: str
    record: RunRecord
    path: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A run, or the mean of several that repeat one configuration.

    Attributes:
        label: its name.
        runs: what it is of.
        cells: by the column's key.
        differences: from the baseline, by the column's key; empty for the baseline itself. None: a figure is missing.
    """

    label: str
    runs: tuple[Run, ...]
    cells: dict[str, Cell]
    differences: dict[str, Difference | None]


@dataclass(frozen=True, slots=True)
class Front:
    """Quality against cost or carbon, and the rows of its Pareto front.

    Attributes:
        takes, quality: the two columns.
        known: places of the rows that have both figures.
        best: those of them on the front; empty where it is not known.
        why: the reason where the front is not known.
    """

    takes: Column
    quality: Column
    known: tuple[int, ...]
    best: frozenset[int]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        columns: those of which at least one row has a figure.
        rows: in the order in which they are shown.
        baseline: the place of the row that the others are compared with.
        unknown: what no run tells: title and reason.
        warnings: why the runs may not be comparable.
        rules: how it was judged whether rows can be told apart.
        fronts: quality against cost and carbon.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: int
    unknown: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    rules: tuple[str, ...]
    fronts: tuple[Front, ...]


def compare(
    runs: Sequence[Run],
    baseline: Run | None = None,
    *,
    metrics: Sequence[str] = (),
    higher: Collection[str] = (),
    lower: Collection[str] = (),
    grouped: bool = True,
) -> Comparison:
    """Compare runs.

    Args:
        runs: at least one.
        baseline: one of them; the first unless given.
        metrics: logged metrics to show; those that the runs share unless given.
        higher: metrics of which more is better, where their names do not tell.
        lower: metrics of which less is better.
        grouped: repeats of one configuration become one row.

    Raises:
        SettingsError: no run has a metric that was asked for, or it is said to be better both ways.
    """
    records = [run.record for run in runs]
    both = set(higher) & set(lower)
    if both:
        raise SettingsError(f"the metric {min(both)!r} is said to be better higher and better lower: give one")
    directions: dict[str, Better] = {**dict.fromkeys(higher, "higher"), **dict.fromkeys(lower, "lower")}
    chosen = columns.choose(records, metrics)
    columns.check(directions, records)
    every = columns_of(records, chosen, directions)
    groups = differences.groups(records, [run.label for run in runs]) if grouped else [[at] for at in range(len(runs))]
    rows = [_row([runs[at] for at in group], every) for group in groups]
    first = next(place for place, row in enumerate(rows) if (baseline or runs[0]) in row.runs)
    rows = [
        row if place == first else replace(row, differences=_differences(rows[first], row))
        for place, row in enumerate(rows)
    ]
    shown = tuple(column for column in every if any(row.cells[column.key].figure.value is not None for row in rows))
    return Comparison(
        columns=shown,
        rows=tuple(rows),
        baseline=first,
        unknown=tuple(_unknown(column, rows) for column in every if column not in shown),
        warnings=tuple(selection.warnings(records, [run.label for run in runs])),
        rules=tuple(_rules(rows, first)),
        fronts=tuple(_fronts(shown, rows)),
    )


def _row(runs: Sequence[Run], every: Sequence[Column]) -> Row:
    label = (
        runs[0].label if len(runs) == 1 else f"{differences.common([run.label for run in runs])} (mean of {len(runs)})"
    )
    cells = {column.key: differences.mean([column.figure(run.record) for run in runs]) for column in every}
    return Row(label, tuple(runs), cells, {})


def _differences(baseline: Row, row: Row) -> dict[str, Difference | None]:
    return {key: difference(baseline.cells[key], cell) for key, cell in row.cells.items()}


def _unknown(column: Column, rows: Sequence[Row]) -> tuple[str, str]:
    whys = dict.fromkeys(row.cells[column.key].figure.why for row in rows)
    return column.title, "; ".join(why for why in list(whys)[:2] if why)


def ordered(comparison: Comparison, by: str) -> Comparison:
    """Return the comparison with its rows in the order of a column; what is not known comes last.

    Args:
        comparison: of which.
        by: the column's key, title or metric, or ``name``; with a leading hyphen the largest first.

    Raises:
        SettingsError: there is no such column.
    """
    wanted, down = by.removeprefix("-"), by.startswith("-")
    keys = {NAME: NAME}
    for column in comparison.columns:
        keys |= dict.fromkeys((column.key, column.title, column.key.removeprefix("metrics.")), column.key)
    if wanted not in keys:
        meant = did_you_mean(nearest(wanted, keys, cutoff=0.5))
        names = [NAME, *(column.key.removeprefix("metrics.") for column in comparison.columns)]
        raise SettingsError(f"--sort {by}: no such column{meant or ';'} there are {', '.join(names)}")
    places = list(range(len(comparison.rows)))
    if keys[wanted] == NAME:
        places.sort(key=lambda at: comparison.rows[at].label, reverse=down)
    else:
        values = [row.cells[keys[wanted]].figure.value for row in comparison.rows]
        sign = -1.0 if down else 1.0
        places.sort(key=lambda at: ((value := values[at]) is None, sign * (value or 0.0)))
    new = {old: place for place, old in enumerate(places)}
    return replace(
        comparison,
        rows=tuple(comparison.rows[at] for at in places),
        baseline=new[comparison.baseline],
        fronts=tuple(
            replace(
                pareto_front,
                known=tuple(sorted(new[at] for at in pareto_front.known)),
                best=frozenset(new[at] for at in pareto_front.best),
            )
            for pareto_front in comparison.fronts
        ),
    )


def _fronts(shown: Sequence[Column], rows: Sequence[Row]) -> list[Front]:
    """Return the fronts of quality against cost in each tier and against carbon; the quality is the first metric."""
    quality = next((column for column in shown if column.key.startswith("metrics.")), None)
    if quality is None or len(rows) == 1:
        return []
    fronts = []
    for takes in (column for column in shown if column.kind in ("money", "mass")):
        pairs = [(row.cells[takes.key].figure.value, row.cells[quality.key].figure.value) for row in rows]
        known = tuple(at for at, pair in enumerate(pairs) if None not in pair)
        if not known:
            continue
        if quality.better is None:
            why = (
                f"whether more or less {quality.title} is better is not known: no front is drawn; "
                "say --higher-is-better or --lower-is-better"
            )
            fronts.append(Front(takes, quality, known, frozenset(), why))
            continue
        on = sorted({basis for at in known for basis in bases(rows[at].cells[takes.key].figure)})
        if len(on) > 1:
            why = f"emissions are {' and '.join(on)}: no front is drawn; say --basis"
            fronts.append(Front(takes, quality, known, frozenset(), why))
            continue
        points = [(pairs[at][0] or 0.0, pairs[at][1] or 0.0) for at in known]
        best = front(points, higher=quality.better == "higher")
        fronts.append(Front(takes, quality, known, frozenset(known[at] for at in best)))
    return fronts


def _rules(rows: Sequence[Row], first: int) -> list[str]:
    """Return how rows were compared with the baseline: which sensors and factors are shared, so that they cancel."""
    by_rule: dict[str, list[str]] = defaultdict(list)
    for place, row in enumerate(rows):
        if place != first:
            by_rule[_rule(rows[first], row)].append(row.label)
    return [f"{selection.named(names)}: {rule}" for rule, names in by_rule.items() if rule]


def _rule(baseline: Row, row: Row) -> str:
    baseline_energy, row_energy = baseline.cells["energy_joules"].figure, row.cells["energy_joules"].figure
    if baseline_energy.value is None or row_energy.value is None:
        return ""
    if baseline_energy.terms is None or row_energy.terms is None:
        return "energy is not judged, because what the sensors may be off by is not known"
    both, of = shared(baseline_energy, row_energy)
    if both == 0:
        rule = (
            "no sensor is known to be the baseline's, so energies are told apart only where their intervals are apart"
        )
    else:
        rule = f"{both} of {of} sensors are the baseline's too, and what they have in common cancels"
    baseline_emissions, row_emissions = baseline.cells["emissions_grams"].figure, row.cells["emissions_grams"].figure
    if (
        baseline_emissions.value is None
        or row_emissions.value is None
        or len(baseline_emissions.factors) != len(row_emissions.factors)
    ):
        return rule
    names = ("PUE", "carbon intensity")
    alike = [
        name for name, a, b in zip(names, baseline_emissions.factors, row_emissions.factors, strict=True) if same(a, b)
    ]
    other = [name for name in names if name not in alike]
    for parts, words in ((alike, "the same and cancel"), (other, "not the same, so both intervals count")):
        if parts:
            verb = "are" if len(parts) > 1 else "is"
            verdict = words if len(parts) > 1 else words.replace("cancel", "cancels").replace("both", "its two")
            rule += f"; {' and '.join(parts)} {verb} {verdict}"
    return rule
