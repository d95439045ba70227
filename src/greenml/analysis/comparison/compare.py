"""Several runs side by side: each figure, how it differs from the baseline's, and whether that can be told.

Pure: records in, a Comparison out. The rules are derived in docs/compare.md.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from greenml.analysis.comparison import _comparable, _metrics, _repeats
from greenml.analysis.comparison._columns import Better, Column, columns
from greenml.analysis.comparison._difference import Cell, Difference, difference, same, shared
from greenml.analysis.comparison._pareto import front
from greenml.errors import SettingsError
from greenml.record import RunRecord

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
    """Quality against what it takes, and the rows that no other beats in both.

    Attributes:
        takes, quality: the two columns.
        known: places of the rows that have both figures.
        best: those of them on the front; empty where it cannot be told.
        why: where it cannot be told: the reason.
    """

    takes: Column
    quality: Column
    known: tuple[int, ...]
    best: frozenset[int]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side.

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
    chosen = _metrics.choose(records, metrics)
    _metrics.check(directions, records)
    every = columns(records, chosen, directions)
    groups = _repeats.groups(records, [run.label for run in runs]) if grouped else [[at] for at in range(len(runs))]
    rows = [_row([runs[at] for at in group], every) for group in groups]
    first = next(place for place, row in enumerate(rows) if (baseline or runs[0]) in row.runs)
    rows = [
        row if place == first else replace(row, differences=_differences(rows[first], row))
        for place, row in enumerate(rows)
    ]
    shown = tuple(one for one in every if any(row.cells[one.key].figure.value is not None for row in rows))
    return Comparison(
        columns=shown,
        rows=tuple(rows),
        baseline=first,
        unknown=tuple(_unknown(one, rows) for one in every if one not in shown),
        warnings=tuple(_comparable.warnings(records, [run.label for run in runs])),
        rules=tuple(_rules(rows, first)),
        fronts=tuple(_fronts(shown, rows)),
    )


def _row(runs: Sequence[Run], every: Sequence[Column]) -> Row:
    label = runs[0].label if len(runs) == 1 else f"{_repeats.common([run.label for run in runs])} (mean of {len(runs)})"
    cells = {one.key: _repeats.mean([one.figure(run.record) for run in runs]) for one in every}
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
    for one in comparison.columns:
        keys |= dict.fromkeys((one.key, one.title, one.key.removeprefix("metrics.")), one.key)
    if wanted not in keys:
        near = difflib.get_close_matches(wanted, keys, 3, 0.5)
        raise SettingsError(
            f"--sort {by}: no such column; {f'did you mean {near[0]!r}? ' if near else ''}there are "
            f"{', '.join([NAME, *(one.key.removeprefix('metrics.') for one in comparison.columns)])}"
        )
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
            replace(one, known=tuple(sorted(new[at] for at in one.known)), best=frozenset(new[at] for at in one.best))
            for one in comparison.fronts
        ),
    )


def _fronts(shown: Sequence[Column], rows: Sequence[Row]) -> list[Front]:
    """Return quality against cost in each tier and against carbon; the quality is the first metric."""
    quality = next((one for one in shown if one.key.startswith("metrics.")), None)
    if quality is None or len(rows) == 1:
        return []
    found = []
    for takes in (one for one in shown if one.kind in ("money", "mass")):
        pairs = [(row.cells[takes.key].figure.value, row.cells[quality.key].figure.value) for row in rows]
        known = tuple(at for at, pair in enumerate(pairs) if None not in pair)
        if not known:
            continue
        if quality.better is None:
            why = (
                f"whether more or less {quality.title} is better is not known: no front is drawn; "
                "say --higher-is-better or --lower-is-better"
            )
            found.append(Front(takes, quality, known, frozenset(), why))
            continue
        points = [(pairs[at][0] or 0.0, pairs[at][1] or 0.0) for at in known]
        best = front(points, higher=quality.better == "higher")
        found.append(Front(takes, quality, known, frozenset(known[at] for at in best)))
    return found


def _rules(rows: Sequence[Row], first: int) -> list[str]:
    """Say how rows were told apart from the baseline: what is shared and so cancels."""
    by_rule: dict[str, list[str]] = defaultdict(list)
    for place, row in enumerate(rows):
        if place != first:
            by_rule[_rule(rows[first], row)].append(row.label)
    return [f"{_comparable.named(names)}: {rule}" for rule, names in by_rule.items() if rule]


def _rule(baseline: Row, row: Row) -> str:
    one, two = baseline.cells["energy_joules"].figure, row.cells["energy_joules"].figure
    if one.value is None or two.value is None:
        return ""
    if one.terms is None or two.terms is None:
        return "energy is not judged, because what the sensors may be off by is not told"
    both, of = shared(one, two)
    if both == 0:
        rule = "no sensor is known to be the baseline's, so energies are told apart only where their bands are apart"
    else:
        rule = f"{both} of {of} sensors are the baseline's too, and what they have in common cancels"
    one, two = baseline.cells["emissions_grams"].figure, row.cells["emissions_grams"].figure
    if one.value is None or two.value is None or len(one.factors) != len(two.factors):
        return rule
    names = ("PUE", "carbon intensity")
    alike = [name for name, a, b in zip(names, one.factors, two.factors, strict=True) if same(a, b)]
    other = [name for name in names if name not in alike]
    for parts, words in ((alike, "the same and cancel"), (other, "not the same, so both bands count")):
        if parts:
            verb = "are" if len(parts) > 1 else "is"
            said = words if len(parts) > 1 else words.replace("cancel", "cancels").replace("both", "its two")
            rule += f"; {' and '.join(parts)} {verb} {said}"
    return rule
