"""Steps to water, to the share of making the hardware, and to the software carbon intensity."""

from __future__ import annotations

from collections.abc import Iterator

from greenml import accounting, doubts
from greenml.analysis.explanation import _energy_steps
from greenml.analysis.explanation._derivation import Line, Step, Term, added, band, energy_doubts, shares, sources
from greenml.record import RunRecord, Totals
from greenml.reports import _format
from greenml.units import JOULES_PER_KWH


def water(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the water that the site used."""
    wue, found = record.factors.wue, total.water_liters
    if found is None:
        return
    joules = total.it_energy_joules.value
    if found.value is None or wue is None or joules is None:
        yield Step("water", "Water, on site", printed=_format.unknown(found))
        return
    energy = total.it_energy_joules
    of_energy = energy_doubts(_energy_steps.used(record, *_energy_steps.KINDS)) if energy.low is not None else []
    terms = [Term(joules, "J"), Term(JOULES_PER_KWH, "J/kWh", "/"), Term(wue.value, "L/kWh", "x")]
    yield Step(
        "water",
        "Water, on site",
        "IT energy x WUE",
        [Line(terms, found.value, "L")],
        [("WUE", _format.factor(wue))],
        _format.liters(found.value),
        *band(found, _format.liters),
        shares(doubts.times(of_energy, joules, wue, accounting.WUE, 1 / JOULES_PER_KWH)),
        note="the water of the power plants is not in it",
        needs=["energy"],
    )


def embodied(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the run's share of what making the hardware emitted: the least and the most of it."""
    factors, found = record.factors, total.embodied_grams
    if found is None:
        return
    if found.low is None or found.high is None or factors.lifetime is None:
        yield Step("embodied", "Embodied carbon, the run's share", printed=_format.unknown(found))
        return
    whole = [(device, device.usage) for device in record.devices]
    least: list[Term] = []
    most: list[Term] = []
    for one in factors.embodied:
        for terms, grams, lifetime in (
            (least, one.low, factors.lifetime.high),
            (most, one.high, factors.lifetime.low),
        ):
            there = accounting.presence(one.code, total.seconds, whole)
            terms += [Term(one.count, "", "+" if terms else ""), Term(grams, "g", "x"), Term(total.seconds, "s", "x")]
            terms += [Term(there, "", "x"), Term(lifetime, "s", "/")]
    told = [
        (f"{_format.number(one.count)} X {one.code}", f"{one.note}; {sources(one.sources)}") for one in factors.embodied
    ]
    yield Step(
        "embodied",
        "Embodied carbon, the run's share",
        "count x embodied x run x share of it that they were there / lifetime, over the kinds of hardware",
        [Line(least, found.low, "g", "least"), Line(most, found.high, "g", "most")],
        [*told, ("lifetime", sources(factors.lifetime.sources))],
        _format.span(found, _format.mass),
        note=found.why,
        needs=["duration"],
    )


def sci(record: RunRecord) -> Iterator[Step]:
    """Yield the software carbon intensity of each functional unit."""
    for score in record.sci:
        operation, share, whole = score.operational_grams, score.embodied_grams, score.total_grams
        phase = record.total(score.scope)
        if operation.value is None or phase is None or phase.emissions_grams.value is None:
            continue
        terms = [Term(phase.emissions_grams.value, "g"), Term(score.units, "", "/")]
        lines = [Line(terms, operation.value, "g", "E x I / R")]
        low = operation.value if operation.low is None else operation.low
        high = operation.value if operation.high is None else operation.high
        if None not in (whole.low, whole.high, share.low, share.high):
            for label, own, part, end in (("least", low, share.low, whole.low), ("most", high, share.high, whole.high)):
                lines.append(
                    Line(added([Term(own, "g"), Term(part or 0.0, "g")]), end or 0.0, "g", f"{label}, with M / R")
                )
        printed = _format.span(whole, _format.mass)
        yield Step(
            f"sci:{score.unit}",
            f"SCI of the phase {score.scope}, per {score.unit}",
            "(E x I + M) / R, ISO/IEC 21031:2024, location-based",
            lines,
            printed=printed or f"{_format.mass(operation.value)} of operation; the whole is {_format.unknown(whole)}",
        )
