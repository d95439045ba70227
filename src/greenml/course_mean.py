"""What a course of carbon intensities makes of each scope: its energy-weighted mean, with what fills the other hours.

An average and a marginal intensity are never mixed: hours that a marginal course lacks take its own mean.
Formulas: docs/method.md, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from greenml.intensity_record import IntensityCourseRecord, IntensityScope
from greenml.record import Factor, Note
from greenml.units import JOULES_PER_KWH

NOTE_CODES = ("intensity-marginal", "intensity-uncovered", "intensity-resolution", "intensity-missing")
SIGNIFICANT_JOULES = 1e-6  # less outside of the course is the arithmetic's own
MARGINAL = (
    "emissions are marginal: what one kWh more made the grid emit. They answer another question than average "
    "figures, and must not be added to them or compared with them"
)


def filled(course: IntensityCourseRecord, yearly: Factor | None) -> tuple[IntensityCourseRecord, Factor, list[Note]]:
    """Complete a course with an intensity for the energy outside of its hours.

    Args:
        course: as the energy was told apart by it.
        yearly: the place's, from the tables; None where there is none.

    Returns:
        The course with every scope's mean, the run's mean as a factor, and notes on what is not as precise.
    """
    fill, low, high = _fill(course, yearly)
    sides = 1 - course.doubt_ratio, 1 + course.doubt_ratio
    scopes = {
        name: own.model_copy(
            update={
                "grams_per_kwh": _mean(own, 1.0, fill),
                "low_grams_per_kwh": _mean(own, sides[0], low),
                "high_grams_per_kwh": _mean(own, sides[1], high),
            }
        )
        for name, own in course.scopes.items()
    }
    run = scopes["run"]
    seconds = course.covered_seconds + course.uncovered_seconds
    over_time = (
        course.covered_seconds * course.covered_time_mean_grams_per_kwh + course.uncovered_seconds * fill
    ) / seconds
    mean = over_time if run.grams_per_kwh is None else run.grams_per_kwh
    joules = run.covered_joules + run.uncovered_joules
    outside = run.uncovered_joules / joules if joules else 0.0
    factor = Factor(
        value=mean,
        low=mean * sides[0] if run.low_grams_per_kwh is None else run.low_grams_per_kwh,
        high=mean * sides[1] if run.high_grams_per_kwh is None else run.high_grams_per_kwh,
        unit="g CO2e/kWh",
        scope="course",
        code=" ".join(part for part in (course.provider, course.area) if part),
        basis="marginal" if course.signal == "marginal" else course.basis,
        source=course.source,
        note=course.note,
    )
    made = course.model_copy(
        update={
            "scopes": scopes,
            "time_mean_grams_per_kwh": over_time,
            "filled_grams_per_kwh": fill if course.uncovered_seconds > 0 or outside else None,
        }
    )
    taken = "the course's own mean"
    if yearly is not None and course.signal != "marginal":
        basis = f" ({yearly.basis})" if yearly.basis not in ("", course.basis) else ""
        taken = f"the yearly figure of the tables{basis}"
    return made, factor, list(_notes(made, joules, taken))


def _fill(course: IntensityCourseRecord, yearly: Factor | None) -> tuple[float, float, float]:
    """Return what the hours outside take, and its band."""
    if course.signal == "marginal" or yearly is None:
        own = course.scopes["run"].covered_grams_per_kwh
        mean = course.covered_time_mean_grams_per_kwh if own is None else own
        doubt = course.doubt_ratio  # what was not told is no surer than what was
        return mean, course.low_grams_per_kwh * (1 - doubt), course.high_grams_per_kwh * (1 + doubt)
    return yearly.value, yearly.low, yearly.high


def _mean(own: IntensityScope, side: float, fill: float) -> float | None:
    """Return a scope's mean, the course's figures times ``side``; None where it used nothing."""
    joules = own.covered_joules + own.uncovered_joules
    if joules <= 0:
        return None
    return (own.covered_joules * (own.covered_grams_per_kwh or 0.0) * side + own.uncovered_joules * fill) / joules


def _notes(course: IntensityCourseRecord, joules: float, taken: str) -> Iterator[Note]:
    if course.signal == "marginal":
        yield Note(code="intensity-marginal", text=MARGINAL)
    outside = course.scopes["run"].uncovered_joules
    if outside > SIGNIFICANT_JOULES:
        text = (
            f"{course.provider} has no carbon intensity for {outside / joules:.1%} of the energy "
            f"({outside / JOULES_PER_KWH:.4g} kWh); those hours take {taken}, {course.filled_grams_per_kwh:.4g} g/kWh"
        )
        yield Note(code="intensity-uncovered", text=text)
    if course.energy_from == "timeline":
        text = "the traces are not here: energy is told apart by the hours of the record's timeline, which is coarser"
        yield Note(code="intensity-resolution", text=text)
    elif course.energy_from == "even":
        text = "neither traces nor a timeline are here: energy is spread evenly over the time to be told apart by hours"
        yield Note(code="intensity-resolution", text=text)
