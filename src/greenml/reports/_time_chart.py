"""One quantity over time as a chart: lines over shaded phases, holes hatched, and a map where the devices are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from greenml.record import DeviceRecord, PhaseRecord, RunRecord, Series, Timeline
from greenml.reports import _devices, _format, _phases, _steps
from greenml.reports._page import Markup, chart, element, join, plotly_text

MOST_SHADES = 6
MOST_ATTEMPTS = 50  # further attempts are not marked
GROUP = "time"
LINES_HEIGHT, PANEL_HEIGHT = 280, 220

Rows = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that is drawn over time; ``scale`` brings its SI value to the unit that is shown."""

    title: str
    unit: str
    scale: float
    values: Callable[[Series], list[float | None]]
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the charts: a device, or the mean of all of a kind where they are many.

    Attributes:
        key: of its check box.
        dash, border: its pattern, in Plotly's word and in CSS's.
    """

    key: str
    label: str
    color: str
    dash: str
    border: str
    devices: tuple[DeviceRecord, ...]

    @property
    def many(self) -> bool:
        """Whether it stands for several devices."""
        return len(self.devices) > 1


@dataclass(frozen=True, slots=True)
class Frame:
    """What all charts of a run have in common.

    Attributes:
        span: seconds of the unit of time that is shown.
        unit: how that is written after a number.
    """

    record: RunRecord
    timeline: Timeline
    lines: Sequence[Line]
    span: float
    unit: str

    @property
    def width(self) -> float:
        """Of a bin, in the shown unit."""
        return self.timeline.step_seconds / self.span

    @property
    def end(self) -> float:
        """Of the run, in the shown unit."""
        return self.record.duration_seconds / self.span

    def phases(self) -> list[PhaseRecord]:
        """Return the phases that are shaded."""
        return _phases.ordered(self.record)[:MOST_SHADES]


def draw(frame: Frame, quantity: Quantity) -> Markup | None:
    """Return a quantity's chart under its title; None where no device tells it."""
    scaled = {
        one.device: [None if value is None else value * quantity.scale for value in values]
        for one in frame.timeline.series
        if (values := quantity.values(one))
    }
    shown = [
        (line, rows) for line in frame.lines if (rows := [scaled[one.id] for one in line.devices if one.id in scaled])
    ]
    if not shown:
        return None
    traces = _shading(frame) + _holes(frame, [row for _, rows in shown for row in rows]) + _phase_names(frame)
    for line, rows in shown:
        traces += _traces(frame, quantity, line, rows)
    layout = _layout(frame, quantity)
    height = LINES_HEIGHT
    mapped = next((line for line, _ in shown if line.key == "kind-gpu"), None)
    if mapped is not None:
        named = zip(_devices.short_names(mapped.devices), mapped.devices, strict=True)
        by_name = {name: scaled[device.id] for name, device in named if device.id in scaled}
        height = _add_map(traces, layout, by_name, quantity, frame)
    label = f"{quantity.title} over time of {', '.join(line.label for line, _ in shown)}. {_told(shown, quantity)}"
    title = element("h3", quantity.title, element("span", f", {quantity.unit}", class_="muted"))
    return join(title, chart({"data": traces, "layout": layout}, label, group=GROUP, height=height))


def shade(number: int) -> str:
    """Return the colour of a phase by its place in the order."""
    return f"var(--shade-{number % MOST_SHADES + 1})"


def _told(shown: Sequence[tuple[Line, Rows]], quantity: Quantity) -> str:
    """Say a chart's range in words, for those who do not see it."""
    known = [value for _, rows in shown for row in rows for value in row if value is not None]
    low, high = _format.significant(min(known), 3), _format.significant(max(known), 3)
    return f"From {low} to {high} {quantity.unit}."


def _traces(frame: Frame, quantity: Quantity, line: Line, rows: Rows) -> list[_steps.Trace]:
    drawn = partial(_line, frame, quantity, line)
    if not line.many:
        return [drawn(rows[0], line.label)]
    means, least, most = _steps.across(rows)
    return [
        drawn(least, f"least of {len(rows)}", thin=True),
        drawn(most, f"most of {len(rows)}", thin=True),
        drawn(means, line.label),
    ]


def _line(
    frame: Frame, quantity: Quantity, own: Line, values: Sequence[float | None], name: str, *, thin: bool = False
) -> _steps.Trace:
    at, drawn = _steps.steps(values, frame.width, frame.end)
    return {
        "type": "scatter", "mode": "lines", "meta": own.key, "name": plotly_text(name), "x": at, "y": drawn,
        "line": {"width": 1 if thin else 1.6, "color": own.color, "dash": "dot" if thin else own.dash, "shape": "hv"},
        "hovertemplate": f"%{{y:.1f}} {quantity.unit}",
    }  # fmt: skip


def _shading(frame: Frame) -> list[_steps.Trace]:
    """Return a filled trace for each phase: one path each, however often it was entered."""
    traces = []
    for number, phase in enumerate(frame.phases()):
        spans = _steps.joined(phase.spans, frame.record.duration_seconds)
        at, height = _steps.areas([(start / frame.span, end / frame.span) for start, end in spans])
        traces.append(_area(at, height, {"fillcolor": shade(number), "meta": f"phase-{number}"}))
    return traces


def _holes(frame: Frame, rows: Rows) -> list[_steps.Trace]:
    at, height = _steps.areas(_steps.gaps(rows, frame.width, frame.end))
    if not at:
        return []
    pattern = {"shape": "/", "size": 6, "solidity": 0.25, "fgcolor": "var(--gap)", "fillmode": "overlay"}
    return [_area(at, height, {"fillcolor": "rgba(0,0,0,0)", "fillpattern": pattern, "meta": "gaps"})]


def _area(at: list[float | None], height: list[float | None], more: dict[str, Any]) -> _steps.Trace:
    return {
        "type": "scatter", "mode": "lines", "x": at, "y": height, "yaxis": "y9", "fill": "toself",
        "line": {"width": 0}, "hoverinfo": "skip", **more,
    }  # fmt: skip


def _phase_names(frame: Frame) -> list[_steps.Trace]:
    """Return an invisible trace that tells the hover which phase it is in."""
    phases = frame.record.phases
    if not phases:
        return []
    bins, step = frame.timeline.bins, frame.timeline.step_seconds
    names = [plotly_text(name) for name in _steps.phase_names(phases, bins, step)]
    return [
        {
            "type": "scatter", "mode": "lines", "x0": 0, "dx": frame.width, "y": [0] * bins, "yaxis": "y9",
            "line": {"width": 0}, "text": [name or "none" for name in names], "name": "phase",
            "hovertemplate": "%{text}",
        }
    ]  # fmt: skip


def _layout(frame: Frame, quantity: Quantity) -> dict[str, Any]:
    begun, starts = 0.0, []
    for attempt in frame.record.attempts[:-1]:
        begun += attempt.seconds
        starts.append(begun / frame.span)
    limits = {} if quantity.most is None else {"range": [0, quantity.most * 1.02]}
    return {
        "hovermode": "x unified", "margin": {"b": 28},
        "xaxis": {
            "range": [0, frame.end], "ticksuffix": frame.unit, "hoverformat": ".4~r", "zeroline": False, "anchor": "y",
            "automargin": False,
        },
        # The lines lie over the shades: the axis of the shades is the lower one.
        "yaxis": {
            "automargin": False, "overlaying": "y9", "tickmode": "auto", "nticks": 6, "rangemode": "tozero",
            "fixedrange": True, **limits,
        },
        "yaxis9": {"range": [0, 1], "visible": False, "fixedrange": True},
        "shapes": [
            {
                "type": "line", "x0": start, "x1": start, "y0": 0, "y1": 1, "yref": "paper",
                "line": {"color": "var(--muted)", "width": 1, "dash": "dot"},
            }
            for start in starts[:MOST_ATTEMPTS]
        ],
    }  # fmt: skip


def _add_map(
    traces: list[_steps.Trace],
    layout: dict[str, Any],
    rows: dict[str, list[float | None]],
    quantity: Quantity,
    frame: Frame,
) -> int:
    """Add a map with a row a device under the lines, and the line that a reader picks; return the chart's height."""
    cells, many = _steps.pooled(list(rows.values()))
    height = PANEL_HEIGHT + 40 + max(120, min(6 * len(rows), 480))
    share = PANEL_HEIGHT / height
    step = frame.width * many
    digits = 4 if quantity.unit == "W" else 3
    traces.append(
        {
            "type": "heatmap", "x0": step / 2, "dx": step, "y": [plotly_text(name) for name in rows],
            "z": [[_steps.rounded(value, digits) for value in row] for row in cells],
            "yaxis": "y2", "colorscale": "Cividis", "hoverongaps": False, "meta": "kind-gpu",
            "hovertemplate": f"%{{y}}, %{{x}}: %{{z:.1f}} {quantity.unit}<extra></extra>",
            "colorbar": {"thickness": 10, "len": 1 - share - 0.04, "y": 0, "yanchor": "bottom", "outlinewidth": 0},
        }
    )  # fmt: skip
    traces.append(
        {
            "type": "scatter", "mode": "lines", "meta": "picked", "visible": False, "x0": step / 2, "dx": step, "y": [],
            "line": {"shape": "hvh", "width": 2, "color": "var(--text)"},
            "hovertemplate": f"%{{y:.1f}} {quantity.unit}",
        }
    )  # fmt: skip
    layout["yaxis"]["domain"] = layout["yaxis9"]["domain"] = [1 - share, 1]
    layout["yaxis2"] = {
        "type": "category", "autorange": "reversed", "fixedrange": True, "domain": [0, 1 - share - 0.06],
        "anchor": "x", "showgrid": False, "ticks": "",
    }  # fmt: skip
    layout["xaxis"]["anchor"] = "y2"
    return height
