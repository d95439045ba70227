"""A study's report as a page: its tables, each difference with its interval, quality against what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from greenml.analysis.study.report import StudyReport
from greenml.analysis.study.results import Measure, VariantResult, energy_ratio, history
from greenml.reports.page import shell
from greenml.reports.page.shell import SERIES, Chart, plotly_text
from greenml.units import JOULES_PER_KWH

FOREST = ("energy_joules", "duration_seconds", "gpu_memory_peak_bytes", "host_memory_peak_bytes")
MOST_LINES = 16  # of variants in one chart
ROW_PIXELS = 24
PERCENT = 100.0


def render(report: StudyReport) -> str:
    """Render one self-contained page; everything that came from a run is escaped."""
    charts = [*_fronts(report), *_forests(report), *_courses(report)]
    return shell.render(
        "study.html.j2",
        charts=bool(charts),
        package="greenml.analysis.study",
        title=report.title,
        lead=report.lead,
        tables=report.tables,
        drawn=charts,
    )


def _fronts(report: StudyReport) -> list[Chart]:
    """Return a chart of quality against each of cost, energy and time; of costs that which was paid, else the first."""
    quality = report.quality
    if quality is None:
        return []
    tiers = {cell.record.place.tier for cell in report.study.cells if cell.record is not None}
    paid = f"cost_{next(iter(tiers))}_usd" if len(tiers) == 1 else ""
    costs = [measure.key for measure in report.shown if measure.group == "cost"]
    keys = [paid if paid in costs else costs[0]] if costs else []
    shown = [measure.key for measure in report.shown]
    keys += [key for key in ("energy_joules", "duration_seconds") if key in shown]
    return [_front(report, quality, report.measure(key)) for key in keys]


def _front(report: StudyReport, quality: Measure, takes: Measure) -> Chart:
    known = [
        result
        for result in report.results
        if result.means[quality.key].figure.value is not None and result.means[takes.key].figure.value is not None
    ]
    best = set(report.fronts.get(takes.key, ()))
    scale, unit = (60.0, "minutes") if takes.key == "duration_seconds" else (takes.scale, "")
    title = f"Run time, {unit}" if unit else takes.title + (", $" if takes.group == "cost" else "")
    on_front = sorted((result for result in known if result.name in best), key=lambda result: _mean(result, takes))
    others = [result for result in known if result.name not in best]
    traces = []
    if others:
        traces.append(_points(others, (takes, quality), scale, "variants", "var(--series-8)"))
    if on_front:
        traces.append(
            _points(on_front, (takes, quality), scale, "Pareto front", "var(--series-3)", size=12)
            | {
                "mode": "lines+markers+text", "textposition": "top center", "cliponaxis": False,
                "text": [plotly_text(result.name[:24]) for result in on_front],
                "line": {"color": "var(--series-3)", "width": 1.5, "dash": "dot", "shape": "hv"},
            }
        )  # fmt: skip
    baseline = [result for result in known if result.name == report.baseline]
    if baseline:
        ring = {"size": 17, "color": "var(--series-2)", "symbol": "circle-open", "line": {"width": 2.5}}
        traces.append(_points(baseline, (takes, quality), scale, "baseline", "var(--series-2)") | {"marker": ring})
    figure = {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": plotly_text(title)}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": plotly_text(quality.title)}},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "margin": {"l": 60, "r": 24, "t": 40, "b": 48},
        },
    }
    names = ", ".join(result.name for result in on_front) or "none"
    caption = f"On the front: {names}. Bars are the spread over seeds. Means alone decide the front."
    heading = f"{quality.title} against {title.partition(',')[0].lower()}"
    label = f"Scatter chart: {heading}, {len(known)} variants. {caption} The figures are in the table Benchmark."
    return Chart(figure, label, title=heading, caption=caption, height=400)


def _mean(result: VariantResult, measure: Measure) -> float:
    return result.means[measure.key].figure.value or 0.0


def _points(
    results: Sequence[VariantResult],
    axes: tuple[Measure, Measure],
    scale: float,
    name: str,
    color: str,
    *,
    size: int = 8,
) -> dict[str, Any]:
    takes, quality = axes
    bars = {"type": "data", "thickness": 1, "width": 0, "color": "var(--gap)"}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [_mean(result, takes) / scale for result in results],
        "y": [_mean(result, quality) for result in results],
        "error_x": bars | {"array": [(result.means[takes.key].spread or 0.0) / scale for result in results]},
        "error_y": bars | {"array": [result.means[quality.key].spread or 0.0 for result in results]},
        "marker": {"color": color, "size": size},
        "customdata": [
            [plotly_text(text) for text in (result.name, takes.mean(result.means[takes.key]),
                                            quality.mean(result.means[quality.key]))]
            for result in results
        ],
        "hovertemplate": f"<b>%{{customdata[0]}}</b><br>{plotly_text(takes.title)} %{{customdata[1]}}<br>"
        f"{plotly_text(quality.title)} %{{customdata[2]}}<extra></extra>",
    }  # fmt: skip


def _forests(report: StudyReport) -> list[Chart]:
    """Return a chart of differences with their intervals: of the quality, and of what a run takes."""
    keys = [report.quality.key] if report.quality is not None else []
    keys += [key for key in FOREST if any(measure.key == key for measure in report.shown)]
    keys += [measure.key for measure in report.shown if measure.group == "cost"][:1]
    charts = [_forest(report, report.measure(key)) for key in keys]
    return [chart for chart in charts if chart is not None]


def _forest(report: StudyReport, measure: Measure) -> Chart | None:
    known = [
        (name, difference)
        for name, of_variant in report.differences.items()
        if (difference := of_variant.get(measure.key)) is not None
    ][::-1]  # the first on top
    if all(difference.verdict == "same" for _, difference in known):
        return None
    relative = all(difference.effect.relative for _, difference in known)
    scale = 1 / PERCENT if relative else measure.scale
    traces = []
    judged = (
        (True, "var(--series-1)", "told apart"),
        (False, "var(--series-8)", "not told apart, or not judged"),
    )
    for verdict, color, name in judged:
        rows = [(place, difference) for place, difference in known if (difference.verdict == "apart") == verdict]
        if not rows:
            continue
        effects = [difference.effect for _, difference in rows]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": name, "y": [plotly_text(place) for place, _ in rows],
                "x": [effect.change / scale for effect in effects],
                "error_x": {
                    "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": color,
                    "array": [(_else(effect.high, effect.change) - effect.change) / scale for effect in effects],
                    "arrayminus": [(effect.change - _else(effect.low, effect.change)) / scale for effect in effects],
                },
                "marker": {"color": color, "size": 9, "symbol": "circle" if verdict else "circle-open"},
                "hovertemplate": "%{y}: %{x:.3g}<extra></extra>",
            }
        )  # fmt: skip
    bare = measure.title.partition(",")[0]
    unit = "%" if relative else measure.title.partition(", ")[2] or "points"
    figure = {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": plotly_text(f"against {report.baseline}, {unit}")}, "zeroline": True,
                      "zerolinewidth": 2, "zerolinecolor": "var(--muted)"},
            "yaxis": {"type": "category", "categoryorder": "array", "automargin": True,
                      "categoryarray": [plotly_text(name) for name, _ in known]},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "margin": {"l": 100, "r": 24, "t": 40, "b": 48},
        },
    }  # fmt: skip
    caption = "Bars are 95 % intervals by the spread of the seeds."
    label = (
        f"Difference of {bare} against {report.baseline} for {len(known)} variants. {caption} The figures are in the "
        "table Trade-off."
    )
    return Chart(figure, label, title=f"Difference: {bare}", caption=caption, height=130 + ROW_PIXELS * len(known))


def _else(value: float | None, other: float) -> float:
    return other if value is None else value


def _courses(report: StudyReport) -> list[Chart]:
    """Return the chart of the quality over energy, where runs evaluated as they went."""
    target = report.target
    if target is None:
        return []
    traces = []
    for place, result in enumerate(report.results[:MOST_LINES]):
        for number, record in enumerate(result.records.values()):
            points = history(record, target.metric)
            total = record.total()
            joules = total.it_energy_joules.value if total is not None else None
            if not points or joules is None:
                continue
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": plotly_text(result.name),
                    "legendgroup": str(place), "showlegend": number == 0, "meta": result.name,
                    "x": [joules * energy_ratio(record, seconds) / JOULES_PER_KWH for seconds, _ in points],
                    "y": [value for _, value in points],
                    "line": {"color": SERIES[place % len(SERIES)], "width": 1.5,
                             "dash": "solid" if place < len(SERIES) else "dash"},
                    "marker": {"size": 5},
                }
            )  # fmt: skip
    if not traces:
        return []
    shape = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": target.value, "y1": target.value,
        "line": {"color": "var(--muted)", "width": 1, "dash": "dot"},
    }  # fmt: skip
    figure = {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "Energy, kWh"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": plotly_text(target.metric)}},
            "shapes": [shape],
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "margin": {"l": 60, "r": 24, "t": 70, "b": 48},
        },
    }
    caption = "A line a run; the dotted line is the target."
    label = f"Line chart of {target.metric} over energy, {len(traces)} runs. {caption}"
    return [Chart(figure, label, title=f"{target.metric} over energy", caption=caption, height=420)]
