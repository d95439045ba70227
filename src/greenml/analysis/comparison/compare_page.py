"""A comparison as a page: a table that sorts, and quality against carbon and cost with its Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from greenml.analysis.comparison import _words
from greenml.analysis.comparison._columns import Column
from greenml.analysis.comparison._words import Words
from greenml.analysis.comparison.compare import Comparison, Front, Row
from greenml.analysis.comparison.compare_text import remarks
from greenml.reports import _page
from greenml.reports._page import Markup

NAMED_POINTS = 12  # on a front, before the names would cover each other
NAMED_LETTERS = 24
LOGARITHMIC_FROM = 100.0  # the ratio of the largest to the smallest from which on an axis is logarithmic
SORTED_DIGITS = 7
MOST_BARS = 200  # rows up to which each has its bars in the charts, and the band of its change in the table
TALL_FROM = 25  # rows from which on the table scrolls in a box, with its headings kept in sight

_STYLE = """<style>
body > header, main, body > footer { max-width: 96rem; }
.care { border-left: 4px solid var(--warn); background: var(--warn-soft); padding: .5rem .9rem; max-width: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 0 2rem; }
.runs thead th { position: sticky; top: 0; background: var(--page); z-index: 1; }
.runs th:first-child { position: sticky; left: 0; background: var(--page); min-width: 7rem; max-width: 16rem; }
.runs thead th:first-child { z-index: 2; }
.runs td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.runs thead th:not(:first-child) { text-align: right; }
.runs em, .runs small, .runs i { display: block; font-size: .8125rem; font-style: normal; font-weight: 400; }
.runs em, .runs small, .runs i { color: var(--muted); }
.runs .better { color: var(--accent); } .runs .worse { color: var(--bad); }
.runs tr:has([data-baseline]) > * { background: var(--accent-soft); }
.tall .scroll { max-height: 85vh; overflow: auto; }
.runs:has(#bands:not(:checked)) small { display: none; }
.switch { display: inline-flex; gap: .4rem; align-items: center; min-height: 1.75rem; font-size: .875rem; }
@media print { .tall .scroll { max-height: none; overflow: visible; } .switch { display: none; } }
</style>"""


def render(comparison: Comparison) -> str:
    """Render one self-contained page; everything that came from a run is escaped."""
    how = _words.words(comparison)
    rows = comparison.rows
    first = rows[comparison.baseline]
    runs = sum(len(row.runs) for row in rows)
    of = f"{runs} run{'s' if runs != 1 else ''}"
    lead = f"{of} in {len(rows)} rows, against the baseline {first.label}." if len(rows) != runs else (
        f"{of}, against the baseline {first.label}."
    )  # fmt: skip
    said = dict(remarks(comparison))
    care = said.pop("Read with care", None)
    charts = _charts(comparison, how)
    body = _page.join(
        Markup(_STYLE),
        _page.element("header", _page.element("h1", "Comparison of runs"), _page.element("p", lead)),
        _page.element(
            "main",
            _page.join(
                _hint(comparison.warnings),
                _runs(comparison, how),
                _page.section("Quality against what it takes", charts) if charts else "",
                _page.section("Read with care", _list(care), id="care") if care else "",
                *(_page.section(title, _list(lines)) for title, lines in said.items()),
            ),
            id="content",
        ),
        _page.element("footer", "Made by greenml compare. Figures are those of the runs' records."),
    )
    return _page.page(f"Comparison of {of}", body)


def _hint(warnings: Sequence[str]) -> Markup:
    """Say above the table what makes the runs hard to compare, and where it is explained."""
    if not warnings:
        return Markup("")
    names = "; ".join(one.partition(":")[0] for one in warnings)
    why = _page.element("a", "why it matters, and of which runs", href="#care")
    return _page.element("p", "These runs differ in more than their figures: ", names, ". ", why, class_="care")


def _list(lines: Sequence[str]) -> Markup:
    return _page.element("ul", *(_page.element("li", line) for line in lines))


def _runs(comparison: Comparison, how: dict[str, Words]) -> Markup:
    columns = ["run", *(how[one.key].title for one in comparison.columns)]
    best = {at for one in _charted(comparison) for at in one.best}
    rows = [
        [_name(comparison, at, marked=at in best), *(_cell(comparison, row, one, how) for one in comparison.columns)]
        for at, row in enumerate(comparison.rows)
    ]
    lead = "Below a figure: how it differs from the baseline's. The headings sort."
    table = _page.table("A row a run", columns, rows, sortable=True, quiet=True)
    switch = Markup('<label class="switch"><input type="checkbox" id="bands"> Show the bands</label>')
    tall = " tall" if len(rows) >= TALL_FROM else ""
    return _page.section(
        "Runs",
        _page.element("p", lead, class_="small muted"),
        _page.element("div", switch, table, class_=f"runs{tall}"),
    )


def _name(comparison: Comparison, at: int, *, marked: bool) -> _page.Cell:
    row = comparison.rows[at]
    is_first = at == comparison.baseline
    first = _page.element("i", "baseline", data_baseline="yes") if is_first else Markup("")
    front = _page.element("i", "on a Pareto front") if marked else Markup("")
    return _page.Cell(_page.join(_words.label(row), first, front), sort=row.label)


def _cell(comparison: Comparison, row: Row, column: Column, how: dict[str, Words]) -> _page.Cell:
    cell, words = row.cells[column.key], how[column.key]
    if cell.figure.value is None:
        return _page.Cell(_page.element("span", _words.value(cell, words), class_="muted", title=cell.figure.why))
    difference = row.differences.get(column.key)
    told = [one for one in _words.change(column, row, comparison.rows[comparison.baseline]) if one]
    better = {True: "better", False: "worse", None: ""}[_words.better(column, difference)]
    parts = [_page.text(" ".join(one for one in (_words.value(cell, words), _words.spread(cell, words)) if one))]
    parts += [_page.element("em", one, class_=better) for one in told]
    bands = [_words.band(cell, words)]
    if len(comparison.rows) <= MOST_BARS:
        bands.append(_words.changed_band(difference))
    parts += [_page.element("small", band) for band in bands if band]
    return _page.Cell(Markup("".join(parts)), sort=float(f"{cell.figure.value:.{SORTED_DIGITS}g}"))


def _charted(comparison: Comparison) -> list[Front]:
    """Return the fronts that are drawn: against carbon, and against the cost in the tier that was paid."""
    carbon = [one for one in comparison.fronts if one.takes.kind == "mass"]
    costs = {one.takes.key: one for one in comparison.fronts if one.takes.kind == "money"}
    paid = {f"cost_{run.record.place.tier}_usd" for row in comparison.rows for run in row.runs}
    key = next((one for one in (*(paid if len(paid) == 1 else ()), "cost_dedicated_usd", *costs) if one in costs), None)
    return [*([costs[key]] if key else []), *carbon]


def _charts(comparison: Comparison, how: dict[str, Words]) -> Markup:
    made = [_page.element("div", _chart(comparison, one, how)) for one in _charted(comparison)]
    return _page.element("div", *made, class_="charts") if made else Markup("")


def _chart(comparison: Comparison, one: Front, how: dict[str, Words]) -> Markup:
    takes, quality = how[one.takes.key], how[one.quality.key]
    title = f"{quality.title} against {takes.title}"
    rows = comparison.rows
    best = sorted(one.best, key=lambda at: rows[at].cells[one.takes.key].figure.value or 0.0)
    others = [at for at in one.known if at not in one.best and at != comparison.baseline]
    traces = []
    if others:
        traces.append(_points(comparison, one, others, how) | {"name": "runs", "marker": {
            "color": "var(--series-8)", "size": 8, "opacity": 0.75,
        }})  # fmt: skip
    if best:
        line = {"color": "var(--series-3)", "width": 1.5, "dash": "dot", "shape": "hv"}
        named = len(best) <= NAMED_POINTS
        traces.append(_points(comparison, one, best, how) | {
            "name": "Pareto front", "mode": "lines+markers+text" if named else "lines+markers", "line": line,
            "marker": {"color": "var(--series-3)", "size": 12, "symbol": "diamond"},
            "text": [_short(rows[at].label) for at in best] if named else [],
            "textposition": "top center", "cliponaxis": False, "meta": "front",
        })  # fmt: skip
    if comparison.baseline in one.known:
        traces.append(_points(comparison, one, [comparison.baseline], how) | {"name": "baseline", "marker": {
            "color": "var(--series-2)", "size": 17, "symbol": "circle-open", "line": {"width": 2.5,
            "color": "var(--series-2)"},
        }})  # fmt: skip
    values = [rows[at].cells[one.takes.key].figure.value or 0.0 for at in one.known]
    wide = min(values) > 0 and max(values) / min(values) >= LOGARITHMIC_FROM
    axis = f"{takes.title}, $" if one.takes.kind == "money" else takes.title
    figure = {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": _page.plotly_text(axis)}, "type": "log" if wide else "linear"},
            "yaxis": {"title": {"text": _page.plotly_text(quality.title)}},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "margin": {"l": 60, "r": 24, "t": 40, "b": 48},
        },
    }
    names = ", ".join(rows[at].label for at in best)
    left = len(rows) - len(one.known)
    way = {"higher": "More", "lower": "Less", None: ""}[one.quality.better]
    told = one.why or (
        f"{way} {quality.title} is better. On the front, where no other run has both a better figure and less "
        f"{'cost' if one.takes.kind == 'money' else 'CO2e'}: {names}."
    )
    bars = "" if len(others) <= MOST_BARS else ", for the front's runs alone"
    told += f" Bars are bands and the spread of repeats{bars}; the front goes by the figures."
    told += f" {left} of {len(rows)} rows have not both figures and are not drawn." if left else ""
    label = f"Scatter chart: {title}, {len(one.known)} points. {told} The figures are in the table above."
    heading = _page.element("h3", title)
    return _page.join(heading, _page.chart(figure, label, caption=told, height=420))


def _points(comparison: Comparison, one: Front, places: Sequence[int], how: dict[str, Words]) -> dict[str, Any]:
    takes, quality = how[one.takes.key], how[one.quality.key]
    rows = [comparison.rows[at] for at in places]
    across = [row.cells[one.takes.key] for row in rows]
    up = [row.cells[one.quality.key] for row in rows]
    points: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": [(cell.figure.value or 0.0) / takes.scale for cell in across],
        "y": [cell.figure.value for cell in up],
        "customdata": [
            [
                _page.plotly_text(_words.label(row)),
                _page.plotly_text(f"{_words.value(first, takes)} {takes.unit if takes.unit != '$' else ''}".strip()),
                _page.plotly_text(f"{_words.value(second, quality)} {_words.spread(second, quality)}".strip()),
            ]
            for row, first, second in zip(rows, across, up, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>"
        f"{_page.plotly_text(quality.title)} %{{customdata[2]}}<extra></extra>",
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
    return _page.plotly_text(name if len(name) <= NAMED_LETTERS else f"{name[: NAMED_LETTERS - 1]}…")
