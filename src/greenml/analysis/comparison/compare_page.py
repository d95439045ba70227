"""A comparison as a page: a table that sorts, and quality against carbon and cost with its Pareto front."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from greenml.analysis.comparison import compare_text
from greenml.analysis.comparison.columns import Column
from greenml.analysis.comparison.compare import Comparison, Front, Row
from greenml.analysis.comparison.compare_text import Words, remarks
from greenml.reports.page import shell
from greenml.reports.page.shell import Chart, plotly_text

NAMED_POINTS = 12  # on a front, before the names would cover each other
NAMED_LETTERS = 24
LOGARITHMIC_FROM = 100.0  # the ratio of the largest to the smallest from which on an axis is logarithmic
SORTED_DIGITS = 7
MOST_BARS = 200  # rows up to which each has its bars in the charts, and the interval of its change in the table
TALL_FROM = 25  # rows from which on the table scrolls in a box, with its headings kept in sight
CARE = "Read with care"


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of the table of runs.

    Attributes:
        sort: the number that it is sorted by; None where the figure is not known, and ``why``.
        changes: how it differs from the baseline's; ``style`` says whether that is better or worse.
        intervals: of the figure and of its change.
    """

    text: str
    sort: float | None = None
    why: str = ""
    changes: Sequence[str] = ()
    style: str = ""
    intervals: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _TableRow:
    """A row of the table of runs; it is sorted by ``name``."""

    name: str
    label: str
    is_baseline: bool
    on_front: bool
    cells: Sequence[_Cell]


@dataclass(frozen=True, slots=True)
class _Remark:
    """A section of remarks."""

    id: str
    title: str
    lines: Sequence[str]


def render(comparison: Comparison) -> str:
    """Render one self-contained page; everything that came from a run is escaped."""
    columns = compare_text.words(comparison)
    rows = comparison.rows
    runs = sum(len(row.runs) for row in rows)
    of = f"{runs} run{'s' if runs != 1 else ''}"
    in_rows = f" in {len(rows)} rows" if len(rows) != runs else ""
    charts = [_chart(comparison, front, columns) for front in _charted(comparison)]
    front_rows = {place for front in _charted(comparison) for place in front.best}
    return shell.render(
        "compare.html.j2",
        charts=bool(charts),
        package="greenml.analysis.comparison",
        runs=of,
        lead=f"{of}{in_rows}, against the baseline {rows[comparison.baseline].label}.",
        warnings=[warning.partition(":")[0] for warning in comparison.warnings],
        columns=[("run", ""), *((columns[column.key].title, "") for column in comparison.columns)],
        rows=[
            _TableRow(
                row.label,
                compare_text.label(row),
                place == comparison.baseline,
                place in front_rows,
                [_cell(comparison, row, column, columns) for column in comparison.columns],
            )
            for place, row in enumerate(rows)
        ],
        is_tall=len(rows) >= TALL_FROM,
        drawn=charts,
        remarks=_remarks(comparison),
    )


def _remarks(comparison: Comparison) -> list[_Remark]:
    """Return the remarks, what to read with care first."""
    titles = dict(remarks(comparison))
    care = {title: lines for title, lines in titles.items() if title == CARE}
    return [
        _Remark("care" if title == CARE else re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"), title, lines)
        for title, lines in (care | titles).items()
    ]


def _cell(comparison: Comparison, row: Row, column: Column, columns: dict[str, Words]) -> _Cell:
    cell, words = row.cells[column.key], columns[column.key]
    if cell.figure.value is None:
        return _Cell(compare_text.value(cell, words), why=cell.figure.why)
    difference = row.differences.get(column.key)
    intervals = [compare_text.interval(cell, words)]
    if len(comparison.rows) <= MOST_BARS:
        intervals.append(compare_text.change_interval(difference))
    return _Cell(
        " ".join(text for text in (compare_text.value(cell, words), compare_text.spread(cell, words)) if text),
        sort=float(f"{cell.figure.value:.{SORTED_DIGITS}g}"),
        changes=[text for text in compare_text.change(column, row, comparison.rows[comparison.baseline]) if text],
        style={True: "better", False: "worse", None: ""}[compare_text.better(column, difference)],
        intervals=[text for text in intervals if text],
    )


def _charted(comparison: Comparison) -> list[Front]:
    """Return the fronts that are drawn: against carbon, and against the cost in the tier that was paid."""
    carbon = [front for front in comparison.fronts if front.takes.kind == "mass"]
    costs = {front.takes.key: front for front in comparison.fronts if front.takes.kind == "money"}
    paid = {f"cost_{run.record.place.tier}_usd" for row in comparison.rows for run in row.runs}
    key = next(
        (cost for cost in (*(paid if len(paid) == 1 else ()), "cost_dedicated_usd", *costs) if cost in costs), None
    )
    return [*([costs[key]] if key else []), *carbon]


def _chart(comparison: Comparison, front: Front, columns: dict[str, Words]) -> Chart:
    takes, quality = columns[front.takes.key], columns[front.quality.key]
    title = f"{quality.title} against {takes.title}"
    rows = comparison.rows
    best = sorted(front.best, key=lambda at: rows[at].cells[front.takes.key].figure.value or 0.0)
    others = [at for at in front.known if at not in front.best and at != comparison.baseline]
    traces = []
    if others:
        traces.append(_points(comparison, front, others, columns) | {"name": "runs", "marker": {
            "color": "var(--series-8)", "size": 8, "opacity": 0.75,
        }})  # fmt: skip
    if best:
        line = {"color": "var(--series-3)", "width": 1.5, "dash": "dot", "shape": "hv"}
        named = len(best) <= NAMED_POINTS
        traces.append(_points(comparison, front, best, columns) | {
            "name": "Pareto front", "mode": "lines+markers+text" if named else "lines+markers", "line": line,
            "marker": {"color": "var(--series-3)", "size": 12, "symbol": "diamond"},
            "text": [_short(rows[at].label) for at in best] if named else [],
            "textposition": "top center", "cliponaxis": False, "meta": "front",
        })  # fmt: skip
    if comparison.baseline in front.known:
        traces.append(_points(comparison, front, [comparison.baseline], columns) | {"name": "baseline", "marker": {
            "color": "var(--series-2)", "size": 17, "symbol": "circle-open", "line": {"width": 2.5,
            "color": "var(--series-2)"},
        }})  # fmt: skip
    values = [rows[at].cells[front.takes.key].figure.value or 0.0 for at in front.known]
    wide = min(values) > 0 and max(values) / min(values) >= LOGARITHMIC_FROM
    axis = f"{takes.title}, $" if front.takes.kind == "money" else takes.title
    figure = {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": plotly_text(axis)}, "type": "log" if wide else "linear"},
            "yaxis": {"title": {"text": plotly_text(quality.title)}},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "margin": {"l": 60, "r": 24, "t": 40, "b": 48},
        },
    }
    names = ", ".join(rows[at].label for at in best[:NAMED_POINTS])
    if len(best) > NAMED_POINTS:
        names += f" and {len(best) - NAMED_POINTS} more, marked in the table"
    left = len(rows) - len(front.known)
    way = {"higher": "More", "lower": "Less", None: ""}[front.quality.better]
    caption = front.why or (
        f"{way} {quality.title} is better. On the front, where no other run has both a better figure and less "
        f"{'cost' if front.takes.kind == 'money' else 'CO2e'}: {names}."
    )
    bars = "" if len(others) <= MOST_BARS else ", for the front's runs alone"
    caption += f" Bars are intervals and the spread of repeats{bars}; the front goes by the figures."
    caption += f" {left} of {len(rows)} rows have not both figures and are not drawn." if left else ""
    label = f"Scatter chart: {title}, {len(front.known)} points. {caption} The figures are in the table above."
    return Chart(figure, label, title=title, caption=caption, height=420)


def _points(comparison: Comparison, front: Front, places: Sequence[int], columns: dict[str, Words]) -> dict[str, Any]:
    takes, quality = columns[front.takes.key], columns[front.quality.key]
    rows = [comparison.rows[at] for at in places]
    across = [row.cells[front.takes.key] for row in rows]
    up = [row.cells[front.quality.key] for row in rows]
    points: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": [(cell.figure.value or 0.0) / takes.scale for cell in across],
        "y": [cell.figure.value for cell in up],
        "customdata": [
            [
                plotly_text(compare_text.label(row)),
                plotly_text(f"{compare_text.value(first, takes)} {takes.unit if takes.unit != '$' else ''}".strip()),
                plotly_text(f"{compare_text.value(second, quality)} {compare_text.spread(second, quality)}".strip()),
            ]
            for row, first, second in zip(rows, across, up, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>"
        f"{plotly_text(quality.title)} %{{customdata[2]}}<extra></extra>",
    }
    bars = {"thickness": 1, "width": 0, "color": "var(--gap)"}
    if len(rows) > MOST_BARS:
        return points
    if any(cell.figure.low is not None and cell.figure.high is not None for cell in across):
        points["error_x"] = bars | {
            "type": "data", "symmetric": False,
            "array": [_apart(cell.figure.high, cell.figure.value, takes.scale) for cell in across],
            "arrayminus": [_apart(cell.figure.value, cell.figure.low, takes.scale) for cell in across],
        }  # fmt: skip
    if any(cell.spread for cell in up):
        points["error_y"] = bars | {"type": "data", "array": [cell.spread or 0.0 for cell in up]}
    return points


def _apart(high: float | None, low: float | None, scale: float) -> float:
    return (high - low) / scale if high is not None and low is not None and math.isfinite(high - low) else 0.0


def _short(name: str) -> str:
    return plotly_text(name if len(name) <= NAMED_LETTERS else f"{name[: NAMED_LETTERS - 1]}…")
