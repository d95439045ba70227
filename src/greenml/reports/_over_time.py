"""Power, utilization and memory over time, as charts that zoom together.

Up to eight GPUs are a line each. More are a line of their mean with the least and the most of them, and a map with a
row for each; one of them can be picked as a line.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenml.record import DeviceRecord, RunRecord, Timeline
from greenml.reports import _devices, _format, _phases
from greenml.reports._page import Markup, element, join, picker, plotly_text, section, zoom
from greenml.reports._palette import SERIES
from greenml.reports._time_chart import GROUP, MOST_SHADES, Frame, Line, Quantity, draw, shade
from greenml.units import BYTES_PER_GB

MOST_LINES = 8  # of GPUs, or of what there is where there are none
MOST_BESIDE = 4  # of each other kind, beside GPUs
DASHES = (("solid", "solid"), ("dash", "dashed"), ("dot", "dotted"))
CLOCKS = ((180.0, 1.0, " s"), (3 * 3600.0, 60.0, " min"), (3 * 86400.0, 3600.0, " h"), (float("inf"), 86400.0, " d"))
QUANTITIES = (
    Quantity("Power", "W", 1.0, lambda one: one.power_watts),
    Quantity("Utilization", "%", 100.0, lambda one: one.utilization_ratio, most=100.0),
    Quantity("Memory", "GB", 1 / BYTES_PER_GB, lambda one: one.memory_bytes),
)


def over_time(record: RunRecord) -> Markup:
    """Return the section; without a timeline it says why there is none."""
    timeline = record.timeline
    lines = _lines(record, timeline) if timeline is not None else []
    if timeline is None or not lines:
        return section("Over time", element("p", _why_not(record), class_="muted"), id="time")
    frame = Frame(record, timeline, lines, *clock(record.duration_seconds))
    charts = [made for quantity in QUANTITIES if (made := draw(frame, quantity)) is not None]
    return section("Over time", _intro(record, timeline), _controls(record, lines), *charts, id="time")


def clock(seconds: float) -> tuple[float, str]:
    """Return the seconds of the unit in which a run of this length is drawn, and how it is written."""
    return next((span, unit) for most, span, unit in CLOCKS if seconds <= most)


def _why_not(record: RunRecord) -> str:
    if record.timeline is not None:
        return "Not known: no device told its power, utilization or memory during this run."
    if record.devices and all(device.sensor in _format.IMPORTED_SENSORS for device in record.devices):
        return "Not known: the figures were imported from other tools, which give sums and no course over time."
    return "Not known: the record has no timeline."


def _intro(record: RunRecord, timeline: Timeline) -> Markup:
    words = [f"Each value is the mean of {_bin(timeline.step_seconds)}, counted from the start of the run."]
    words.append("Hatched: at least one device was not read; nothing is drawn in between.")
    if len(record.attempts) > 1:
        words.append("Dotted lines: a further attempt began; the time between attempts is left out.")
    cut = [phase.path for phase in record.phases if phase.count > len(phase.spans)]
    if cut:
        words.append(f"Of {', '.join(cut)} the record holds the first stretches only, and only they are shaded.")
    if len(record.phases) > MOST_SHADES:
        words.append(f"Of {len(record.phases)} phases the first {MOST_SHADES} are shaded.")
    return element("p", " ".join(words), class_="muted small")


def _bin(seconds: float) -> str:
    for span, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= span and seconds % span == 0:
            return f"{seconds / span:g} {unit}"
    return f"{seconds:g} s"


def _controls(record: RunRecord, lines: Sequence[Line]) -> Markup:
    parts = [picker(GROUP, "Devices", [(line.key, line.label, f"{line.border} {line.color}") for line in lines])]
    gpus = next((line for line in lines if line.key == "kind-gpu"), None)
    if gpus is not None:
        options = [element("option", name, value=plotly_text(name)) for name in _devices.short_names(gpus.devices)]
        pick = element("select", Markup('<option value="">none</option>'), *options, data_pick=GROUP)
        parts.append(element("p", element("label", "One GPU as a line ", pick), class_="small"))
    phases = _phases.ordered(record)[:MOST_SHADES]
    if phases:
        items = [(f"phase-{number}", phase.path, f"fill {shade(number)}") for number, phase in enumerate(phases)]
        parts.append(picker(GROUP, "Phases", items))
    return join(*parts, zoom(GROUP, "Zoom the charts over time"))


def _lines(record: RunRecord, timeline: Timeline) -> list[Line]:
    told = {one.device for one in timeline.series if any(quantity.values(one) for quantity in QUANTITIES)}
    shown = [device for device in record.devices if device.id in told]
    names = dict(zip([one.id for one in shown], _devices.short_names(shown), strict=True))
    beside = MOST_BESIDE if any(device.kind == "gpu" for device in record.devices) else MOST_LINES
    lines: list[Line] = []

    def add(key: str, label: str, devices: Sequence[DeviceRecord]) -> None:
        dash, border = DASHES[len(lines) // len(SERIES) % len(DASHES)]
        lines.append(Line(key, label, SERIES[len(lines) % len(SERIES)], dash, border, tuple(devices)))

    for kind, word in _devices.KIND_WORDS.items():
        devices = [device for device in shown if device.kind == kind]
        if len(devices) > (MOST_LINES if kind == "gpu" else beside):
            add(f"kind-{kind}", f"mean of {len(devices)} {word}{'' if kind == 'process' else 's'}", devices)
        else:
            for device in devices:
                add(f"device-{device.id}", names[device.id], [device])
    return lines
