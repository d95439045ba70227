"""Steps from energy to emissions, and from time to money."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from greenml import accounting, doubts
from greenml.analysis.explanation import _energy_steps
from greenml.analysis.explanation._derivation import Line, Step, Term, band, energy_doubts, in_kwh, shares
from greenml.record import RunRecord, Totals
from greenml.reports import _format
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_HOUR

MOST_SLOTS = 24  # more are counted together


def emissions(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the energy with the PUE, and from it the emissions, location-based and by the user's contract."""
    factors, energy, facility, quantity = (
        record.factors,
        total.it_energy_joules,
        total.facility_energy_joules,
        total.emissions_grams,
    )
    pue, intensity = factors.pue, accounting.intensity("run", factors)
    if energy.value is None or pue is None or facility.value is None:
        yield Step("emissions", "Emissions", printed=_format.unknown(quantity), needs=["energy"])
        return
    used = _energy_steps.used(record, *_energy_steps.KINDS)
    of_energy = energy_doubts(used) if energy.low is not None else []
    of_facility = doubts.times(of_energy, energy.value, pue, accounting.PUE)
    yield Step(
        "facility",
        "Energy with the PUE",
        "IT energy x PUE",
        [Line([Term(energy.value, "J"), Term(pue.value, "", "x")], facility.value, "J")],
        [("PUE", _format.factor(pue))],
        _format.energy(facility.value),
        *band(facility, _format.energy),
        shares(of_facility),
        needs=["energy"],
    )
    if intensity is None or quantity.value is None:
        yield Step("emissions", "Emissions", printed=_format.unknown(quantity), needs=["facility"])
        return
    yield from _course(record)
    yield Step(
        "emissions",
        "Emissions, marginal" if intensity.basis == "marginal" else "Emissions, location-based",
        "energy with the PUE x carbon intensity",
        [Line(in_kwh(facility.value, intensity), quantity.value, "g")],
        [("carbon intensity", _format.factor(intensity))],
        _format.mass(quantity.value),
        *band(quantity, _format.mass),
        shares(doubts.times(of_facility, facility.value, intensity, accounting.INTENSITY, 1 / JOULES_PER_KWH)),
        quantity.why,
        ["facility", "course"],
    )
    market = total.market_emissions_grams
    if factors.market_intensity is not None and market is not None and market.value is not None:
        yield Step(
            "market",
            "Emissions, market-based",
            "energy with the PUE x the contract's carbon intensity",
            [Line(in_kwh(facility.value, factors.market_intensity), market.value, "g")],
            [("contract", _format.factor(factors.market_intensity))],
            _format.mass(market.value),
            *band(market, _format.mass),
            shares(
                doubts.times(
                    of_facility, facility.value, factors.market_intensity, accounting.INTENSITY, 1 / JOULES_PER_KWH
                )
            ),
            note="beside the location-based figure, never in its place",
            needs=["facility"],
        )


def _course(record: RunRecord) -> Iterator[Step]:
    """Yield the mean of an intensity that changes with time: the sum over slots of energy x intensity, over energy."""
    course = record.factors.intensity_course
    own = course.scopes.get("run") if course is not None else None
    if course is None or own is None or own.grams_per_kwh is None:
        return
    slots = [(slot.it_energy_joules.get("run", 0.0), slot.grams_per_kwh) for slot in course.slots]
    slots = [one for one in slots if one[0]]
    if own.uncovered_joules and course.filled_grams_per_kwh is not None:
        slots.append((own.uncovered_joules, course.filled_grams_per_kwh))
    joules = sum(one for one, _ in slots)
    terms: list[Term] = []
    for used, grams in slots[:MOST_SLOTS]:
        terms += [Term(used, "J", "+" if terms else ""), Term(grams, "g/kWh", "x")]
    note = "emissions are the sum over the slots of energy x intensity; this mean times the energy is the same"
    rest = slots[MOST_SLOTS:]
    if rest:
        used = sum(one for one, _ in rest)
        terms += [Term(used, "J", "+"), Term(sum(one * grams for one, grams in rest) / used, "g/kWh", "x")]
        note += f"; the last {len(rest)} slots are one here, run.json has them all"
    above = sum(one * grams for one, grams in slots)
    yield Step(
        "course",
        "Carbon intensity over the run's hours",
        "sum over slots of IT energy x intensity, over IT energy",
        [
            Line(terms, above, "J g/kWh", "sum"),
            Line([Term(above, "J g/kWh"), Term(joules, "J", "/")], above / joules, "g/kWh", "mean"),
        ],
        [("intensity", f"{f'{course.provider} {course.area}'.strip()}: {_format.source(course.source)}")],
        note=note,
        needs=["energy"],
    )


def reported(record: RunRecord) -> Iterator[Step]:
    """Yield what another tool reported, against the tables' factor."""
    for at, one in enumerate(record.reported):
        try:
            kwh, kilograms = float(one.row["energy_consumed"]), float(one.row["emissions"])
        except (KeyError, ValueError):
            continue
        tool = _format.SENSOR_NAMES.get(one.tool, one.tool)
        implied = kilograms / kwh * GRAMS_PER_KG if kwh else 0.0
        intensity = record.factors.carbon_intensity
        notes = ["taken as it is, without a band" if _has_pue(one.row) else "taken as it is, with neither PUE nor band"]
        lines = [
            Line(
                [Term(kwh, "kWh"), Term(implied, "g/kWh", "x"), Term(GRAMS_PER_KG, "g/kg", "/")],
                kilograms,
                "kg",
                "reported",
            )
        ]
        sources = [
            ("energy", f"{tool}, {one.file}, of {_scope(one.scope)}"),
            ("its carbon intensity", "its emissions over its energy"),
        ]
        if intensity is not None and not record.factors.marginal:  # the tool's is an average
            whose = "this report" if intensity.scope in ("course", "given") else "the tables"
            mass = kwh * intensity.value / GRAMS_PER_KG
            terms = [Term(kwh, "kWh"), Term(intensity.value, "g/kWh", "x"), Term(GRAMS_PER_KG, "g/kg", "/")]
            lines.append(Line(terms, mass, "kg", f"by {whose}"))
            if math.isclose(mass, kilograms, rel_tol=1e-6):
                notes.append("both are the same: it computed with the factor that the tables have")
            sources.append((whose.removeprefix("the "), _format.factor(intensity)))
        yield Step(
            f"emissions:reported {at}",
            f"Emissions of {_scope(one.scope)} as {tool} reported them",
            "energy x carbon intensity",
            lines,
            sources,
            f"{_format.number(kilograms, 3)} kg CO2e",
            note="; ".join(notes),
        )


def cost(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the cost of each tier."""
    place = record.place
    if not total.cost_usd:
        yield Step("cost", "Cost", printed=_format.missing("no price", _format.NOT_KNOWN))
    for tier, quantity in total.cost_usd.items():
        price = record.factors.prices.get(tier)
        if price is None or quantity.value is None:
            continue
        line = Line(
            [
                Term(price.value, "USD/h"),
                Term(total.seconds, "s", "x"),
                Term(SECONDS_PER_HOUR, "s/h", "/"),
                Term(place.nodes, "node" if place.nodes == 1 else "nodes", "x"),
            ],
            quantity.value,
            "USD",
        )
        nodes = place.known_from.get("nodes", "the hosts that took part")
        yield Step(
            f"cost:{tier}",
            f"Cost, {_format.tier(tier)}",
            "price of a node and hour x hours x nodes",
            [line],
            [("price", _format.price(tier, price)), ("nodes", f"{place.nodes}, known from: {nodes}")],
            _format.money(quantity.value),
            *band(quantity, _format.money),
            shares(doubts.times([], total.seconds / SECONDS_PER_HOUR * place.nodes, price, "price")),
            needs=["duration"],
        )


def _scope(name: str) -> str:
    return "the whole run" if name == "run" else f"the phase {name}"


def _has_pue(row: Mapping[str, str]) -> bool:
    return row.get("pue", "1") not in ("", "1", "1.0")
