"""Power, utilization and memory over time, as charts that zoom together.

Up to eight GPUs are a line each. More are a line of their mean with the least and the most of them, and a map with a
row for each; one of them can be picked as a line. Lines lie over shaded phases, and bins that were not read are
hatched. The last part turns a timeline's bins into what a chart draws: steps with gaps left open, spans, and rows of
a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from greenml.record.schema import DeviceRecord, PhaseRecord, RunRecord, Series, Timeline
from greenml.reports import _format, _parts
from greenml.reports.page.shell import SERIES, Chart, plotly_text
from greenml.units import BYTES_PER_GB

GROUP = "time"
MOST_LINES = 8  # of GPUs, or of what there is where there are none
MOST_BESIDE = 4  # of each other kind, beside GPUs
MOST_SHADES = 6
MOST_ATTEMPTS = 50  # further attempts are not marked
LINES_HEIGHT, PANEL_HEIGHT = 280, 220
MOST_CELLS = 40_000  # of a map: 64 devices over 600 bins; keeps a page of many devices small
FINEST = 2000  # parts of the run that can be told apart on a screen; nearer spans are drawn as one
DASHES = (("solid", "solid"), ("dash", "dashed"), ("dot", "dotted"))
CLOCKS = ((180.0, 1.0, " s"), (3 * 3600.0, 60.0, " min"), (3 * 86400.0, 3600.0, " h"), (float("inf"), 86400.0, " d"))

Values = Sequence[float | None]
Rows = list[list[float | None]]
Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity that is drawn over time; ``scale`` brings its SI value to the unit that is shown."""

    title: str
    unit: str
    scale: float
    values: Callable[[Series], list[float | None]]
    most: float | None = None


QUANTITIES = (
    Quantity("Power", "W", 1.0, lambda series: series.power_watts),
    Quantity("Utilization", "%", 100.0, lambda series: series.utilization_ratio, most=100.0),
    Quantity("Memory", "GB", 1 / BYTES_PER_GB, lambda series: series.memory_bytes),
)


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
        return _parts.phases(self.record)[:MOST_SHADES]


@dataclass(frozen=True, slots=True)
class CheckBox:
    """A check box that shows and hides the traces whose ``meta`` is its key.

    Attributes:
        border: of its mark, a line's pattern in CSS; empty for the mark of an area.
        color: of its mark.
    """

    key: str
    label: str
    border: str
    color: str


@dataclass(frozen=True, slots=True)
class OverTime:
    """The section of the charts over time.

    Attributes:
        why: there are no charts; empty where there are some.
        intro: what the charts show.
        devices, phases: their check boxes.
        pick: the GPUs of which one can be drawn as a line: what Plotly calls each, and its name.
    """

    why: str = ""
    intro: str = ""
    devices: tuple[CheckBox, ...] = ()
    phases: tuple[CheckBox, ...] = ()
    pick: tuple[tuple[str, str], ...] = ()
    charts: tuple[Chart, ...] = ()


def over_time(record: RunRecord) -> OverTime:
    """Return the section; without a timeline it says why there is none."""
    timeline = record.timeline
    lines = _lines(record, timeline) if timeline is not None else []
    if timeline is None or not lines:
        return OverTime(why=_why_not(record))
    frame = Frame(record, timeline, lines, *clock(record.duration_seconds))
    gpus = next((line for line in lines if line.key == "kind-gpu"), None)
    names = _parts.short_names(gpus.devices) if gpus is not None else []
    return OverTime(
        intro=_intro(record, timeline),
        devices=tuple(CheckBox(line.key, line.label, line.border, line.color) for line in lines),
        phases=tuple(
            CheckBox(f"phase-{number}", phase.path, "", shade(number)) for number, phase in enumerate(frame.phases())
        ),
        pick=tuple((plotly_text(name), name) for name in names),
        charts=tuple(chart for quantity in QUANTITIES if (chart := draw(frame, quantity)) is not None),
    )


def clock(seconds: float) -> tuple[float, str]:
    """Return the seconds of the unit in which a run of this length is drawn, and how it is written."""
    return next((span, unit) for most, span, unit in CLOCKS if seconds <= most)


def _why_not(record: RunRecord) -> str:
    if record.timeline is not None:
        return "Not known: no device has its power, utilization or memory over this run."
    if record.devices and all(_format.is_imported(device) for device in record.devices):
        return "Not known: the figures were imported from other tools, which give sums and no values over time."
    return "Not known: the record has no timeline."


def _intro(record: RunRecord, timeline: Timeline) -> str:
    words = [f"Each value is the mean of {_bin(timeline.step_seconds)}, counted from the start of the run."]
    words.append("Hatched: at least one device was not read; nothing is drawn in between.")
    if len(record.attempts) > 1:
        words.append("Dotted lines: a further attempt began; the time between attempts is left out.")
    cut = [phase.path for phase in record.phases if phase.count > len(phase.spans)]
    if cut:
        words.append(f"Of {', '.join(cut)} the record holds the first stretches only, and only they are shaded.")
    if len(record.phases) > MOST_SHADES:
        words.append(f"Of {len(record.phases)} phases the first {MOST_SHADES} are shaded.")
    return " ".join(words)


def _bin(seconds: float) -> str:
    for span, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= span and seconds % span == 0:
            return f"{seconds / span:g} {unit}"
    return f"{seconds:g} s"


def _lines(record: RunRecord, timeline: Timeline) -> list[Line]:
    known = {series.device for series in timeline.series if any(quantity.values(series) for quantity in QUANTITIES)}
    shown = [device for device in record.devices if device.id in known]
    names = dict(zip([device.id for device in shown], _parts.short_names(shown), strict=True))
    beside = MOST_BESIDE if any(device.kind == "gpu" for device in record.devices) else MOST_LINES
    lines: list[Line] = []

    def add(key: str, label: str, devices: Sequence[DeviceRecord]) -> None:
        dash, border = DASHES[len(lines) // len(SERIES) % len(DASHES)]
        lines.append(Line(key, label, SERIES[len(lines) % len(SERIES)], dash, border, tuple(devices)))

    for kind, word in _parts.KIND_WORDS.items():
        devices = [device for device in shown if device.kind == kind]
        if len(devices) > (MOST_LINES if kind == "gpu" else beside):
            add(f"kind-{kind}", f"mean of {len(devices)} {word}{'' if kind == 'process' else 's'}", devices)
        else:
            for device in devices:
                add(f"device-{device.id}", names[device.id], [device])
    return lines


def draw(frame: Frame, quantity: Quantity) -> Chart | None:
    """Return a quantity's chart under its title; None where no device tells it."""
    scaled = {
        series.device: [None if value is None else value * quantity.scale for value in values]
        for series in frame.timeline.series
        if (values := quantity.values(series))
    }
    shown = [
        (line, rows)
        for line in frame.lines
        if (rows := [scaled[device.id] for device in line.devices if device.id in scaled])
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
        named = zip(_parts.short_names(mapped.devices), mapped.devices, strict=True)
        by_name = {name: scaled[device.id] for name, device in named if device.id in scaled}
        height = _add_map(traces, layout, by_name, quantity, frame)
    names = ", ".join(line.label for line, _ in shown)
    label = f"{quantity.title} over time of {names}. {_range_in_words(shown, quantity)}"
    figure = {"data": traces, "layout": layout}
    return Chart(figure, label, title=quantity.title, unit=quantity.unit, group=GROUP, height=height)


def shade(number: int) -> str:
    """Return the colour of a phase by its place in the order."""
    return f"var(--shade-{number % MOST_SHADES + 1})"


def _range_in_words(shown: Sequence[tuple[Line, Rows]], quantity: Quantity) -> str:
    """Say a chart's range in words, for those who do not see it."""
    known = [value for _, rows in shown for row in rows for value in row if value is not None]
    if not known:
        return "No value is known."
    low, high = _format.significant(min(known), 3), _format.significant(max(known), 3)
    return f"From {low} to {high} {quantity.unit}."


def _traces(frame: Frame, quantity: Quantity, line: Line, rows: Rows) -> list[Trace]:
    drawn = partial(_line, frame, quantity, line)
    if not line.many:
        return [drawn(rows[0], line.label)]
    means, least, most = across(rows)
    return [
        drawn(least, f"least of {len(rows)}", thin=True),
        drawn(most, f"most of {len(rows)}", thin=True),
        drawn(means, line.label),
    ]


def _line(
    frame: Frame, quantity: Quantity, line: Line, values: Sequence[float | None], name: str, *, thin: bool = False
) -> Trace:
    at, drawn = steps(values, frame.width, frame.end)
    return {
        "type": "scatter", "mode": "lines", "meta": line.key, "name": plotly_text(name), "x": at, "y": drawn,
        "line": {"width": 1 if thin else 1.6, "color": line.color, "dash": "dot" if thin else line.dash, "shape": "hv"},
        "hovertemplate": f"%{{y:.1f}} {quantity.unit}",
    }  # fmt: skip


def _shading(frame: Frame) -> list[Trace]:
    """Return a filled trace for each phase: one path each, however often it was entered."""
    traces = []
    for number, phase in enumerate(frame.phases()):
        spans = joined(phase.spans, frame.record.duration_seconds)
        at, height = areas([(start / frame.span, end / frame.span) for start, end in spans])
        traces.append(_area(at, height, {"fillcolor": shade(number), "meta": f"phase-{number}"}))
    return traces


def _holes(frame: Frame, rows: Rows) -> list[Trace]:
    at, height = areas(gaps(rows, frame.width, frame.end))
    if not at:
        return []
    pattern = {"shape": "/", "size": 6, "solidity": 0.25, "fgcolor": "var(--gap)", "fillmode": "overlay"}
    return [_area(at, height, {"fillcolor": "rgba(0,0,0,0)", "fillpattern": pattern, "meta": "gaps"})]


def _area(at: list[float | None], height: list[float | None], more: dict[str, Any]) -> Trace:
    return {
        "type": "scatter", "mode": "lines", "x": at, "y": height, "yaxis": "y9", "fill": "toself",
        "line": {"width": 0}, "hoverinfo": "skip", **more,
    }  # fmt: skip


def _phase_names(frame: Frame) -> list[Trace]:
    """Return an invisible trace that tells the hover which phase it is in."""
    phases = frame.record.phases
    if not phases:
        return []
    bins, step = frame.timeline.bins, frame.timeline.step_seconds
    names = [plotly_text(name) for name in phase_names(phases, bins, step)]
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
    traces: list[Trace],
    layout: dict[str, Any],
    rows: dict[str, list[float | None]],
    quantity: Quantity,
    frame: Frame,
) -> int:
    """Add a map with a row a device under the lines, and the line that a reader picks; return the chart's height."""
    cells, many = pooled(list(rows.values()))
    height = PANEL_HEIGHT + 40 + max(120, min(6 * len(rows), 480))
    share = PANEL_HEIGHT / height
    step = frame.width * many
    digits = 4 if quantity.unit == "W" else 3
    traces.append(
        {
            "type": "heatmap", "x0": step / 2, "dx": step, "y": [plotly_text(name) for name in rows],
            "z": [[rounded(value, digits) for value in row] for row in cells],
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


# A timeline's bins as what a chart draws


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Round to so many significant digits, for drawing alone; whole numbers become int, which is shorter in JSON."""
    if value is None:
        return None
    short = float(f"{value:.{digits}g}")
    if not math.isfinite(short):  # a figure out of all range
        return None
    return int(short) if short == int(short) else short


def steps(values: Values, width: float, end: float) -> tuple[list[float | None], list[float | None]]:
    """Return the points of a stepped line over bins: each value from its bin's start to its end, nothing over gaps.

    Args:
        values: of each bin, None where nothing is known.
        width: of a bin.
        end: of the run, where the last bin ends.
    """
    at: list[float | None] = []
    drawn: list[float | None] = []
    for place, value in enumerate(values):
        if value is None:
            continue
        if at and values[place - 1] is None:
            at.append(None)
            drawn.append(None)
        at.append(rounded(place * width, 7))
        drawn.append(rounded(value))
        if place + 1 == len(values) or values[place + 1] is None:
            at.append(rounded(min((place + 1) * width, end), 7))
            drawn.append(rounded(value))
    return at, drawn


def gaps(rows: Sequence[Values], width: float, end: float) -> list[tuple[float, float]]:
    """Return the spans in which at least one of several devices was not read."""
    bins = max((len(values) for values in rows), default=0)
    missing = [any(place >= len(values) or values[place] is None for values in rows) for place in range(bins)]
    spans: list[tuple[float, float]] = []
    for place, is_missing in enumerate(missing):
        if not is_missing:
            continue
        start, stop = place * width, min((place + 1) * width, end)
        if spans and math.isclose(spans[-1][1], start):
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return spans


def joined(spans: Sequence[tuple[float, float]], length: float) -> list[tuple[float, float]]:
    """Return spans in order, those that a screen cannot tell apart as one."""
    near = length / FINEST
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start - merged[-1][1] <= near:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def areas(spans: Sequence[tuple[float, float]]) -> tuple[list[float | None], list[float | None]]:
    """Return the outlines of full-height rectangles over spans, one path for all of them; heights 0 to 1."""
    at: list[float | None] = []
    height: list[float | None] = []
    for start, end in spans:
        if at:
            at.append(None)
            height.append(None)
        first, last = rounded(start, 7), rounded(end, 7)
        at += [first, first, last, last, first]
        height += [0, 1, 1, 0, 0]
    return at, height


def phase_names(phases: Sequence[PhaseRecord], bins: int, width: float) -> list[str]:
    """Return the path of the innermost phase in the middle of each bin; empty where there is none."""
    names = [""] * bins
    for phase in sorted(phases, key=lambda phase: phase.path.count("/")):
        for start, end in phase.spans:
            first, last = (max(0, math.ceil(edge / width - 0.5)) for edge in (start, end))
            names[first:last] = [phase.path] * (min(last, bins) - min(first, bins))
    return names


def pooled(rows: Sequence[Values]) -> tuple[list[list[float | None]], int]:
    """Return rows of at most ``MOST_CELLS`` cells in all, and how many bins each cell is the mean of."""
    bins = max((len(values) for values in rows), default=0)
    many = max(1, math.ceil(len(rows) * bins / MOST_CELLS))
    return [[mean(values[place : place + many]) for place in range(0, bins, many)] for values in rows], many


def mean(values: Values) -> float | None:
    """Return the mean of those known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def across(rows: Sequence[Values]) -> tuple[list[float | None], list[float | None], list[float | None]]:
    """Return the mean, least and most of several devices in each bin."""
    bins = max((len(values) for values in rows), default=0)
    columns = [[values[place] for values in rows if place < len(values)] for place in range(bins)]
    known = [[value for value in column if value is not None] for column in columns]
    return (
        [sum(column) / len(column) if column else None for column in known],
        [min(column, default=None) for column in known],
        [max(column, default=None) for column in known],
    )
