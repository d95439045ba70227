"""A carbon intensity over time, in two lines: its range and means, and what the hours made of the emissions."""

from __future__ import annotations

from greenml.record import RunRecord
from greenml.reports import _format
from greenml.units import JOULES_PER_KWH


def lines(record: RunRecord) -> list[str]:
    """Return the lines; none where one intensity counts for the whole run."""
    course, factor = record.factors.intensity_course, record.factors.carbon_intensity
    if course is None or factor is None or factor.scope != "course":
        return []
    count = len(course.slots)
    spread = _format.interval(course.low_grams_per_kwh, course.high_grams_per_kwh, _grams)
    where = " ".join(part for part in (course.provider, course.area) if part)
    told = [
        f"Carbon intensity over time: {course.signal}, {count} slot{'s' if count > 1 else ''} by {where}, "
        f"{spread or _grams(course.low_grams_per_kwh)}; emissions are the sum over them of energy x intensity."
    ]
    words = _difference(record)
    return [*told, words] if words else told


def even_grams(record: RunRecord) -> float | None:
    """Return what the run would have emitted at the mean of the intensity over its time; None where not known."""
    course, total = record.factors.intensity_course, record.total()
    if course is None or course.time_mean_grams_per_kwh is None or total is None:
        return None
    facility = total.facility_energy_joules.value
    return None if facility is None else facility / JOULES_PER_KWH * course.time_mean_grams_per_kwh


def _difference(record: RunRecord) -> str:
    course, factor, total = record.factors.intensity_course, record.factors.carbon_intensity, record.total()
    even = even_grams(record)
    if course is None or factor is None or total is None or total.emissions_grams.value is None or not even:
        return ""
    grams = total.emissions_grams.value
    time_mean = course.time_mean_grams_per_kwh or 0.0
    means = f"Over the run its energy-weighted mean is {_grams(factor.value)}, its plain mean {_grams(time_mean)}"
    size = abs(grams - even)
    if size <= 1e-9 * even:
        return f"{means}."
    way = "more" if even > grams else "less"
    return f"{means}; at the plain mean the run would have emitted {_format.mass(even)}, {_format.mass(size)} {way}."


def _grams(value: float) -> str:
    return f"{_format.number(value, 4)} g CO2e/kWh"
