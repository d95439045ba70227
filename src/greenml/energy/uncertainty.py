"""The uncertainty of a figure: independent terms in quadrature, shared terms added, coverage as it is.

Every term is the half width of an interval that holds the true value in 95 of 100 cases (expanded uncertainty with
k = 2: JCGM 100:2008, "GUM"). Derivation and sources: docs/method.md, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from greenml.record.schema import DeviceRecord, Factor, Usage

DeviceUsages = Sequence[tuple[DeviceRecord, Usage]]
Interval = tuple[float, float]

CALIBRATION, QUANTISATION, UNSAMPLED, COVERAGE = "calibration", "quantisation", "unsampled", "coverage"
INTERPOLATION = "interpolation"
CROSS_CHECK = "counter against power"


@dataclass(frozen=True, slots=True)
class Term:
    """One line of an uncertainty budget, independent of the others, in the figure's unit.

    Attributes:
        source: calibration, quantisation, unsampled, interpolation, coverage or the cross-check; or a factor's name.
        of: whose calibration or cross-check: a kind of sensors, which its devices share.
        down, up: how far the true value may lie below and above; up is infinite where nothing limits it.
    """

    source: str
    of: str
    down: float
    up: float


def terms(devices: DeviceUsages) -> list[Term]:
    """Return the uncertainty budget of the summed energy of several devices.

    Devices of one kind of sensor (module, kind of device and model) are assumed to share one calibration error, and one
    disagreement between counter and power: their terms add. Unlike kinds are independent. Quantisation and unsampled
    time are independent for every device. Interpolation terms add: one thread reads all devices late. Coverage terms
    add; a device that was there and not measured has no other.

    A usage that has an interval and no ``uncertainty`` has that interval as its calibration term.
    """
    calibrations: dict[str, tuple[float, float]] = {}
    checks: dict[str, tuple[float, float]] = {}
    quantisation = unsampled = interpolation = coverage = coverage_low = 0.0
    for device, usage in devices:
        budget = usage.uncertainty
        if usage.energy_joules is None:
            if budget is not None:
                coverage += math.inf if budget.coverage_joules is None else budget.coverage_joules
            continue
        kind = ", ".join(part for part in (device.sensor, device.kind, device.name) if part)
        if budget is not None:
            sides = (budget.calibration_joules, budget.calibration_joules)
            quantisation = math.hypot(quantisation, budget.quantisation_joules)
            unsampled = math.hypot(unsampled, budget.unsampled_joules)
            interpolation += budget.interpolation_joules
            coverage += math.inf if budget.coverage_joules is None else budget.coverage_joules
            coverage_low += budget.coverage_low_joules
            down, up = checks.get(kind, (0.0, 0.0))
            checks[kind] = (down + budget.cross_check_low_joules, up + budget.cross_check_high_joules)
        elif usage.energy_low_joules is not None and usage.energy_high_joules is not None:
            sides = (usage.energy_joules - usage.energy_low_joules, usage.energy_high_joules - usage.energy_joules)
        else:
            continue
        down, up = calibrations.get(kind, (0.0, 0.0))
        calibrations[kind] = (down + sides[0], up + sides[1])
    budget_terms = [Term(CALIBRATION, kind, down, up) for kind, (down, up) in calibrations.items()]
    budget_terms += [Term(CROSS_CHECK, kind, down, up) for kind, (down, up) in checks.items()]
    budget_terms += [
        Term(QUANTISATION, "", quantisation, quantisation),
        Term(UNSAMPLED, "", unsampled, unsampled),
        Term(INTERPOLATION, "", interpolation, interpolation),
        Term(COVERAGE, "", coverage_low, coverage),
    ]
    return [term for term in budget_terms if term.down or term.up]


def interval(value: float, budget: Iterable[Term]) -> Interval:
    """Return low and high of a figure: its independent terms in quadrature; coverage is added as it is."""
    budget = list(budget)
    down = math.hypot(*(term.down for term in budget if term.source != COVERAGE))
    up = math.hypot(*(term.up for term in budget if term.source != COVERAGE))
    covers = [term for term in budget if term.source == COVERAGE]
    return max(0.0, value - down - sum(term.down for term in covers)), value + up + sum(term.up for term in covers)


def times(budget: Iterable[Term], value: float, factor: Factor, name: str, unit: float = 1.0) -> list[Term]:
    """Return the uncertainty budget of a value times a factor, which is independent of it, times a unit.

    Each term is what the product changes by if that input alone is at its end, so a factor of 0 needs no special case.

    Args:
        budget: of the value.
        value: the first operand.
        factor: the second, with an interval.
        name: of the factor, in words.
        unit: that the product is converted with.

    Source: propagation of independent uncertainties, JCGM 100:2008 (GUM), 5.1.2.
    """
    scale = factor.value * unit
    product_terms = [
        Term(term.source, term.of, term.down * scale, term.up * scale if scale else 0.0) for term in budget
    ]
    down, up = (factor.value - factor.low) * value * unit, (factor.high - factor.value) * value * unit
    return [term for term in [*product_terms, Term(name, "", down, up)] if term.down or term.up]
