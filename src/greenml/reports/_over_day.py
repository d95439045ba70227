"""The carbon intensity over the hours of the run, and what the course makes of the emissions."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from greenml.intensity_record import IntensityCourseRecord
from greenml.record import RunRecord
from greenml.reports import _course, _format
from greenml.reports._page import Column, Markup, chart, details, element, link, section, table
from greenml.units import JOULES_PER_KWH

MOST_ROWS = 100
SAME_RATIO = 1e-9  # nearer is the arithmetic's own
HOW = {
    "curves": "The energy of each slot is read off the measured curves.",
    "timeline": "The energy of each slot is read off the record's timeline.",
    "even": "The energy is taken to be even over the run, as nothing tells its course.",
}


def over_day(record: RunRecord) -> Markup:
    """Return the section; empty where one intensity counts for the whole run."""
    course = record.factors.intensity_course
    if course is None or not course.slots:
        return Markup("")
    words = [
        f"{course.signal.capitalize()} intensity of {course.area or 'the place'}, by {course.provider}.",
        HOW[course.energy_from],
    ]
    if course.filled_grams_per_kwh is not None:
        words.append(f"Hours outside of the course take {_intensity(course.filled_grams_per_kwh)}.")
    words.append("Times are UTC.")
    source = element("p", "Source: ", link(_format.source(course.source), course.source.url), class_="muted small")
    return section(
        "Carbon intensity over time", _difference(record, course), _chart(course),
        element("p", " ".join(words), class_="muted small"), source, details("The figures", _table(course)),
        id="intensity",
    )  # fmt: skip


def _intensity(value: float) -> str:
    return f"{_format.number(value, 4)} g CO2e/kWh"


def _difference(record: RunRecord, course: IntensityCourseRecord) -> Markup:
    """Say by how much the emissions differ from those of the same energy at the mean over the run's time."""
    total = record.total()
    if total is None or total.emissions_grams.value is None:
        return Markup("")
    grams = total.emissions_grams.value
    mean = course.time_mean_grams_per_kwh
    even = _course.even_grams(record)
    if mean is None or not even:
        return Markup("")
    ratio = (grams - even) / even
    way = "less than" if ratio < 0 else "more than"
    size = _format.mass(abs(grams - even)) if abs(ratio) > SAME_RATIO else ""
    told = f"{size} ({_format.percent(abs(ratio))}) {way}" if size else "the same as"
    return element(
        "p", "By when its energy was used, the run emitted ", element("strong", told),
        f" at the mean over its time: {_format.mass(grams)} instead of {_format.mass(even)}. "
        f"The intensity went from {_intensity(course.low_grams_per_kwh)} to {_intensity(course.high_grams_per_kwh)}, "
        f"with a mean of {_intensity(mean)} over the time.",
    )  # fmt: skip


def _stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _chart(course: IntensityCourseRecord) -> Markup:
    mean = course.time_mean_grams_per_kwh
    ends = [_stamp(course.slots[0].start), _stamp(course.slots[-1].end)]
    middle = [_stamp(slot.start + (slot.end - slot.start) / 2) for slot in course.slots]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "name": "IT energy", "x": middle, "yaxis": "y2",
            "marker": {"color": "var(--series-6)", "opacity": 0.35},
            "y": [slot.it_energy_joules.get("run", 0.0) / JOULES_PER_KWH for slot in course.slots],
            "width": [(slot.end - slot.start).total_seconds() * 1000 for slot in course.slots],
            "hovertemplate": "%{y:.4~r} kWh",
        },
        {
            "type": "scatter", "mode": "lines", "name": "intensity", **_steps_of(course),
            "line": {"color": "var(--series-3)", "width": 2}, "hovertemplate": "%{y:.4~r} g CO2e/kWh",
        },
    ]  # fmt: skip
    if mean is not None:
        dashed = {"color": "var(--muted)", "width": 1.2, "dash": "dash"}
        traces.append(
            {"type": "scatter", "mode": "lines", "x": ends, "y": [mean, mean], "hoverinfo": "skip", "line": dashed}
        )
    layout = {
        "hovermode": "x unified", "xaxis": {"type": "date"}, "margin": {"r": 56},
        # The line lies over the bars: the axis of the bars is the lower one.
        "yaxis": {
            "title": {"text": "g CO2e/kWh"}, "rangemode": "tozero", "fixedrange": True, "overlaying": "y2",
            "side": "left", "tickmode": "auto",
        },
        "yaxis2": {
            "title": {"text": "IT energy, kWh"}, "side": "right", "rangemode": "tozero", "fixedrange": True,
            "showgrid": False,
        },
    }  # fmt: skip
    low, high = _intensity(course.low_grams_per_kwh), _intensity(course.high_grams_per_kwh)
    label = f"Carbon intensity over the run, from {low} to {high}, with the energy used in each slot."
    caption = "Line: carbon intensity, dashed its mean over the time. Bars: IT energy in each slot."
    return chart({"data": traces, "layout": layout}, label, caption=caption)


def _steps_of(course: IntensityCourseRecord) -> dict[str, list[Any]]:
    """Return each slot's intensity from its start to its end; nothing over what no slot covers."""
    at: list[str | None] = []
    grams: list[float | None] = []
    last: datetime | None = None
    for slot in course.slots:
        if last is not None and slot.start > last:
            at.append(None)
            grams.append(None)
        at += [_stamp(slot.start), _stamp(slot.end)]
        grams += [slot.grams_per_kwh, slot.grams_per_kwh]
        last = slot.end
    return {"x": at, "y": grams}


def _table(course: IntensityCourseRecord) -> Markup:
    rows = [
        (
            f"{_format.minute(slot.start)} to {_format.minute(slot.end)}", _intensity(slot.grams_per_kwh),
            _format.energy(slot.it_energy_joules.get("run", 0.0)),
        )
        for slot in course.slots[:MOST_ROWS]
    ]  # fmt: skip
    left = len(course.slots) - MOST_ROWS
    if left > 0:
        rows.append((f"and {left} more, see run.json", "", ""))
    columns: list[str | Column] = ["time", Column("intensity", True), Column("IT energy", True)]
    return table("Carbon intensity by slot", columns, rows, quiet=True)
