"""Derivation of a record's figures, step by step, from readings and factors; and the steps as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from greenml import redaction
from greenml.accounting import totals
from greenml.energy import uncertainty
from greenml.errors import RecordError, SettingsError
from greenml.record.schema import DeviceRecord, Factor, Quantity, RunRecord, SourceRef, Totals
from greenml.reports import _format
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Term:
    """A number in a line: ``sign`` is ``+``, ``x`` or ``/`` before it, empty for the first."""

    value: float
    unit: str = ""
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Numbers that make a result."""

    terms: Sequence[Term]
    result: float
    unit: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an interval from one uncertainty, and its part of the variance; None for a gap: only upward."""

    source: str
    down: float
    up: float
    of_variance: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a derivation.

    Attributes:
        name: of the step; ``needs`` are the names of those it builds on.
        title: in words. ``formula``: in words.
        lines: that can be followed.
        sources: what an input is called, and where it comes from.
        printed: the figure as reports print it; empty where they do not.
        interval: in the unit of the lines; None where there is none. ``interval_text`` as reports print it.
        shares: of the uncertainties, the largest first.
        note: what a reader must know.
    """

    name: str
    title: str
    formula: str = ""
    lines: Sequence[Line] = ()
    sources: Sequence[tuple[str, str]] = ()
    printed: str = ""
    interval: tuple[float, float] | None = None
    interval_text: str = ""
    shares: Sequence[Share] = ()
    note: str = ""
    needs: Sequence[str] = ()


def in_kwh(joules: float, intensity: Factor) -> list[Term]:
    """Write joules times an intensity, by way of kWh."""
    return [Term(joules, "J"), Term(JOULES_PER_KWH, "J/kWh", "/"), Term(intensity.value, "g/kWh", "x")]


def added(terms: Sequence[Term]) -> list[Term]:
    """Put a plus before each number but the first."""
    return [Term(term.value, term.unit, "+" if at else "") for at, term in enumerate(terms)]


def interval(quantity: Quantity, write: Callable[[float], str]) -> tuple[tuple[float, float] | None, str]:
    """Return a quantity's interval, in numbers and in words."""
    if quantity.low is None or quantity.high is None:
        return None, _format.interval_of(quantity, write)
    return (quantity.low, quantity.high), _format.interval_of(quantity, write)


def energy_uncertainty(devices: Iterable[DeviceRecord]) -> list[uncertainty.Term]:
    """Return the uncertainty terms of the energy that some devices used together."""
    return uncertainty.terms([(device, device.usage) for device in devices])


def shares(of: Sequence[uncertainty.Term]) -> list[Share]:
    """Return each uncertainty's part of the variance (mean square of its two sides), the largest first, a gap last."""
    # Products of figures out of all range are infinite, powers raise.
    squares = [
        0.0 if term.source == uncertainty.COVERAGE else (term.down * term.down + term.up * term.up) / 2 for term in of
    ]
    whole = sum(squares)
    whole = whole if math.isfinite(whole) else 0.0
    made = [
        Share(
            ", ".join(part for part in (term.source, term.of) if part),
            term.down,
            term.up,
            None if term.source == uncertainty.COVERAGE or not whole else square / whole,
        )
        for term, square in zip(of, squares, strict=True)
    ]
    return sorted(made, key=lambda share: 1.0 if share.of_variance is None else -share.of_variance)


def sources(sources: Sequence[SourceRef]) -> str:
    """Name some sources."""
    return "; ".join(_format.source(source) for source in sources)


MOST_LISTED = 24  # devices; more are counted together
KINDS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
METHODS = {
    "counter": "energy counter, last reading less first, each with what it had not reported yet",
    "gauge": "power, integrated over time",
    "estimate": "a model, not a measurement",
    "reported": "as another tool reported it",
}


def duration(record: RunRecord) -> Step:
    """Return how the run's time adds up."""
    attempts = [attempt for attempt in record.attempts if attempt.seconds]
    lines = [Line(added([Term(attempt.seconds, "s") for attempt in attempts]), record.duration_seconds, "s")]
    if not attempts or not math.isclose(
        sum(attempt.seconds for attempt in attempts), record.duration_seconds, rel_tol=1e-9
    ):
        lines = [Line([Term(record.duration_seconds, "s")], record.duration_seconds, "s")]
    return Step(
        "duration",
        "Duration",
        "the clock of every attempt, summed",
        lines,
        printed=_format.duration(record.duration_seconds),
        note="set-up and evaluation are in it",
    )


def used(record: RunRecord, *kinds: str) -> list[DeviceRecord]:
    """Return the devices of some kinds whose energy is known."""
    return [device for device in record.devices if device.kind in kinds and device.usage.energy_joules is not None]


def of_kind(record: RunRecord, kind: str, quantity: Quantity) -> Iterator[Step]:
    """Yield a step for each device of a kind, and the one that adds them."""
    name, devices = f"{kind}_energy", used(record, kind)
    if quantity.value is None:
        yield Step(name, f"{KINDS[kind]} energy", printed=_format.unknown(quantity))
        return
    listed = devices if len(devices) <= MOST_LISTED else []
    yield from (_device(record, device) for device in listed)
    terms = [Term(device.usage.energy_joules or 0.0, "J") for device in devices]
    groups: list[tuple[str, str]] = []
    if not listed:
        terms = [Term(quantity.value, "J")]
        groups = [("sum of", f"{len(devices)} devices; run.json lists each under devices")]
    yield Step(
        name,
        f"{KINDS[kind]} energy",
        "sum of the devices",
        [Line(added(terms), quantity.value, "J")],
        groups,
        _format.figure(quantity, _format.energy),
        *interval(quantity, _format.energy),
        shares(energy_uncertainty(devices)),
        quantity.why,
        [f"device:{device.id}" for device in listed],
    )


def _device(record: RunRecord, device: DeviceRecord) -> Step:
    usage = device.usage
    joules, seconds, watts = usage.energy_joules or 0.0, usage.covered_seconds, usage.power_mean_watts
    lines = [Line([Term(joules, "J")], joules, "J")]
    if seconds and watts is not None:
        lines = [Line([Term(watts, "W"), Term(seconds, "s", "x")], joules, "J")]
    sources = [
        (
            "read by",
            " ".join(part for part in (_format.SENSOR_NAMES.get(device.sensor, device.sensor), device.id) if part),
        )
    ]
    budget = usage.uncertainty
    whose = "model" if device.method == "estimate" else "sensor"
    if budget is not None and joules:
        sources.append(
            (
                "calibration",
                f"± {_format.percent(budget.calibration_joules / joules)} of the energy, the {whose}'s accuracy",
            )
        )
        if device.step_seconds:
            sources.append(
                ("quantisation", f"the hardware brings it up to date every {_format.seconds(device.step_seconds)}")
            )
    if seconds is not None and record.duration_seconds - seconds > 0:
        sources.append(("not covered", _format.seconds(record.duration_seconds - seconds)))
    quantity = Quantity(value=joules, low=usage.energy_low_joules, high=usage.energy_high_joules, basis="measured")
    kind = "" if device.name.startswith(KINDS[device.kind]) else KINDS[device.kind]
    return Step(
        f"device:{device.id}",
        " ".join(dict.fromkeys(part for part in (kind, device.detail.get("index", ""), device.name) if part)),
        METHODS.get(device.method or "", ""),
        lines,
        sources,
        _format.energy(joules),
        *interval(quantity, _format.energy),
        shares(energy_uncertainty([device])),
        device.note,
    )


def of_all(record: RunRecord, total: Totals) -> Step:
    """Return how the kinds add up to IT energy."""
    quantity = total.it_energy_joules
    if quantity.value is None:
        return Step("energy", "IT energy", printed=_format.unknown(quantity))
    parts = (total.gpu_energy_joules, total.cpu_energy_joules, total.dram_energy_joules)
    known = [(kind, part.value) for kind, part in zip(KINDS, parts, strict=True) if part.value is not None]
    return Step(
        "energy",
        "IT energy",
        " + ".join(KINDS[kind] for kind, _ in known),
        [Line(added([Term(value, "J") for _, value in known]), quantity.value, "J")],
        (),
        _format.figure(quantity, _format.energy),
        *interval(quantity, _format.energy),
        shares(energy_uncertainty(used(record, *KINDS))),
        quantity.why,
        [f"{kind}_energy" for kind, _ in known],
    )


MOST_SLOTS = 24  # more are counted together


def emissions(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the energy with the PUE, and from it the emissions, location-based and by the user's contract."""
    factors, energy, facility, quantity = (
        record.factors,
        total.it_energy_joules,
        total.facility_energy_joules,
        total.emissions_grams,
    )
    pue, intensity = factors.pue, totals.intensity("run", factors)
    if energy.value is None or pue is None or facility.value is None:
        yield Step("emissions", "Emissions", printed=_format.unknown(quantity), needs=["energy"])
        return
    devices_used = used(record, *KINDS)
    of_energy = energy_uncertainty(devices_used) if energy.low is not None else []
    of_facility = uncertainty.times(of_energy, energy.value, pue, totals.PUE)
    yield Step(
        "facility",
        "Energy with the PUE",
        "IT energy x PUE",
        [Line([Term(energy.value, "J"), Term(pue.value, "", "x")], facility.value, "J")],
        [("PUE", _format.factor(pue))],
        _format.figure(facility, _format.energy),
        *interval(facility, _format.energy),
        shares(of_facility),
        needs=["energy"],
    )
    if intensity is None or quantity.value is None:
        yield Step("emissions", "Emissions", printed=_format.unknown(quantity), needs=["facility"])
        return
    yield from _intensity_series(record)
    yield Step(
        "emissions",
        "Emissions, marginal" if intensity.basis == "marginal" else "Emissions, location-based",
        "energy with the PUE x carbon intensity",
        [Line(in_kwh(facility.value, intensity), quantity.value, "g")],
        [("carbon intensity", _format.factor(intensity))],
        _format.figure(quantity, _format.mass),
        *interval(quantity, _format.mass),
        shares(uncertainty.times(of_facility, facility.value, intensity, totals.INTENSITY, 1 / JOULES_PER_KWH)),
        quantity.why,
        ["facility", "series"],
    )
    market = total.market_emissions_grams
    if factors.market_intensity is not None and market is not None and market.value is not None:
        yield Step(
            "market",
            "Emissions, market-based",
            "energy with the PUE x the contract's carbon intensity",
            [Line(in_kwh(facility.value, factors.market_intensity), market.value, "g")],
            [("contract", _format.factor(factors.market_intensity))],
            _format.figure(market, _format.mass),
            *interval(market, _format.mass),
            shares(
                uncertainty.times(
                    of_facility, facility.value, factors.market_intensity, totals.INTENSITY, 1 / JOULES_PER_KWH
                )
            ),
            note="beside the location-based figure, never in its place",
            needs=["facility"],
        )


def _intensity_series(record: RunRecord) -> Iterator[Step]:
    """Yield the mean of an intensity that changes with time: the sum over slots of energy x intensity, over energy."""
    series = record.factors.intensity_series
    run_scope = series.scopes.get("run") if series is not None else None
    if series is None or run_scope is None or run_scope.grams_per_kwh is None:
        return
    slots = [(slot.it_energy_joules.get("run", 0.0), slot.grams_per_kwh) for slot in series.slots]
    slots = [slot for slot in slots if slot[0]]
    if run_scope.uncovered_joules and series.filled_grams_per_kwh is not None:
        slots.append((run_scope.uncovered_joules, series.filled_grams_per_kwh))
    joules = sum(slot_joules for slot_joules, _ in slots)
    terms: list[Term] = []
    for slot_joules, grams in slots[:MOST_SLOTS]:
        terms += [Term(slot_joules, "J", "+" if terms else ""), Term(grams, "g/kWh", "x")]
    note = "emissions are the sum over the slots of energy x intensity; this mean times the energy is the same"
    rest = slots[MOST_SLOTS:]
    if rest:
        rest_joules = sum(slot_joules for slot_joules, _ in rest)
        terms += [
            Term(rest_joules, "J", "+"),
            Term(sum(slot_joules * grams for slot_joules, grams in rest) / rest_joules, "g/kWh", "x"),
        ]
        note += f"; the last {len(rest)} slots are one here, run.json has them all"
    above = sum(slot_joules * grams for slot_joules, grams in slots)
    yield Step(
        "series",
        "Carbon intensity over the run's hours",
        "sum over slots of IT energy x intensity, over IT energy",
        [
            Line(terms, above, "J g/kWh", "sum"),
            Line([Term(above, "J g/kWh"), Term(joules, "J", "/")], above / joules, "g/kWh", "mean"),
        ],
        [("intensity", f"{f'{series.provider} {series.area}'.strip()}: {_format.source(series.source)}")],
        note=note,
        needs=["energy"],
    )


def reported(record: RunRecord) -> Iterator[Step]:
    """Yield the emissions that another tool reported, compared with those by the tables' factor."""
    for at, report in enumerate(record.reported):
        try:
            kwh, kilograms = float(report.row["energy_consumed"]), float(report.row["emissions"])
        except (KeyError, ValueError):
            continue
        tool = _format.SENSOR_NAMES.get(report.tool, report.tool)
        implied = kilograms / kwh * GRAMS_PER_KG if kwh else 0.0
        intensity = record.factors.carbon_intensity
        notes = [
            "taken as it is, without an interval"
            if _has_pue(report.row)
            else "taken as it is, with neither PUE nor interval"
        ]
        lines = [
            Line(
                [Term(kwh, "kWh"), Term(implied, "g/kWh", "x"), Term(GRAMS_PER_KG, "g/kg", "/")],
                kilograms,
                "kg",
                "reported",
            )
        ]
        sources = [
            ("energy", f"{tool}, {report.file}, of {_scope(report.scope)}"),
            ("its carbon intensity", "its emissions over its energy"),
        ]
        if intensity is not None and not record.factors.marginal:  # the tool's is an average
            whose = "this report" if intensity.scope in ("series", "given") else "the tables"
            mass = kwh * intensity.value / GRAMS_PER_KG
            terms = [Term(kwh, "kWh"), Term(intensity.value, "g/kWh", "x"), Term(GRAMS_PER_KG, "g/kg", "/")]
            lines.append(Line(terms, mass, "kg", f"by {whose}"))
            if math.isclose(mass, kilograms, rel_tol=1e-6):
                notes.append("both are the same: it computed with the factor that the tables have")
            sources.append((whose.removeprefix("the "), _format.factor(intensity)))
        yield Step(
            f"emissions:reported {at}",
            f"Emissions of {_scope(report.scope)} as {tool} reported them",
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
            *interval(quantity, _format.money),
            shares(uncertainty.times([], total.seconds / SECONDS_PER_HOUR * place.nodes, price, "price")),
            needs=["duration"],
        )


def _scope(name: str) -> str:
    return "the whole run" if name == "run" else f"the phase {name}"


def _has_pue(row: Mapping[str, str]) -> bool:
    return row.get("pue", "1") not in ("", "1", "1.0")


def water(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the water that the site used."""
    wue, quantity = record.factors.wue, total.water_liters
    if quantity is None:
        return
    joules = total.it_energy_joules.value
    if quantity.value is None or wue is None or joules is None:
        yield Step("water", "Water, on site", printed=_format.unknown(quantity))
        return
    energy = total.it_energy_joules
    of_energy = energy_uncertainty(used(record, *KINDS)) if energy.low is not None else []
    terms = [Term(joules, "J"), Term(JOULES_PER_KWH, "J/kWh", "/"), Term(wue.value, "L/kWh", "x")]
    yield Step(
        "water",
        "Water, on site",
        "IT energy x WUE",
        [Line(terms, quantity.value, "L")],
        [("WUE", _format.factor(wue))],
        _format.liters(quantity.value),
        *interval(quantity, _format.liters),
        shares(uncertainty.times(of_energy, joules, wue, totals.WUE, 1 / JOULES_PER_KWH)),
        note="the water of the power plants is not in it",
        needs=["energy"],
    )


def embodied(record: RunRecord, total: Totals) -> Iterator[Step]:
    """Yield the run's share of the hardware's embodied emissions, the lowest and the highest."""
    factors, quantity = record.factors, total.embodied_grams
    if quantity is None:
        return
    if quantity.low is None or quantity.high is None or factors.lifetime is None:
        yield Step("embodied", "Embodied carbon, the run's share", printed=_format.unknown(quantity))
        return
    whole = [(device, device.usage) for device in record.devices]
    least: list[Term] = []
    most: list[Term] = []
    for component in factors.embodied:
        for terms, grams, lifetime in (
            (least, component.low, factors.lifetime.high),
            (most, component.high, factors.lifetime.low),
        ):
            there = totals.presence(component.code, total.seconds, whole)
            terms += [
                Term(component.count, "", "+" if terms else ""),
                Term(grams, "g", "x"),
                Term(total.seconds, "s", "x"),
            ]
            terms += [Term(there, "", "x"), Term(lifetime, "s", "/")]
    component_sources = [
        (f"{_format.number(component.count)} X {component.code}", f"{component.note}; {sources(component.sources)}")
        for component in factors.embodied
    ]
    yield Step(
        "embodied",
        "Embodied carbon, the run's share",
        "count x embodied x run x share of it that they were there / lifetime, over the kinds of hardware",
        [Line(least, quantity.low, "g", "least"), Line(most, quantity.high, "g", "most")],
        [*component_sources, ("lifetime", sources(factors.lifetime.sources))],
        _format.span(quantity, _format.mass),
        note=quantity.why,
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
            for label, operational, part, end in (
                ("least", low, share.low, whole.low),
                ("most", high, share.high, whole.high),
            ):
                lines.append(
                    Line(
                        added([Term(operational, "g"), Term(part or 0.0, "g")]), end or 0.0, "g", f"{label}, with M / R"
                    )
                )
        printed = _format.span(whole, _format.mass)
        yield Step(
            f"sci:{score.unit}",
            f"SCI of the phase {score.scope}, per {score.unit}",
            "(E x I + M) / R, ISO/IEC 21031:2024, location-based",
            lines,
            printed=printed or f"{_format.mass(operation.value)} of operation; the whole is {_format.unknown(whole)}",
        )


FIGURES = ("duration", "gpu_energy", "cpu_energy", "dram_energy", "energy", "emissions", "market", "cost", "water",
           "embodied", "sci")  # fmt: skip
HEADLINES = ("duration", "energy", "emissions", "market", "cost", "water", "embodied", "sci")


def explain(record: RunRecord, figure: str = "") -> list[Step]:
    """Return the steps that lead to a figure of the run, from the readings on; to every headline figure by default.

    Raises:
        SettingsError: there is no figure of that name.
        RecordError: the record has no totals.
    """
    if figure and figure not in FIGURES:
        raise SettingsError(f"no figure is called {figure!r}; there are {', '.join(FIGURES)}")
    total = record.total()
    if total is None:
        raise RecordError("the record has no totals to explain; 'greenml finish' makes them")
    steps = {step.name: step for step in _steps(record, total)}
    wanted: dict[str, None] = {}

    def want(name: str) -> None:
        for step in steps.values():
            if step.name == name or step.name.startswith(f"{name}:"):
                for need in step.needs:
                    want(need)
                wanted[step.name] = None

    for name in [figure] if figure else HEADLINES:
        want(name)
    return [steps[name] for name in wanted]


def _steps(record: RunRecord, total: Totals) -> Iterator[Step]:
    yield duration(record)
    for kind, quantity in zip(
        KINDS, (total.gpu_energy_joules, total.cpu_energy_joules, total.dram_energy_joules), strict=True
    ):
        yield from of_kind(record, kind, quantity)
    yield of_all(record, total)
    yield from emissions(record, total)
    yield from reported(record)
    yield from cost(record, total)
    yield from water(record, total)
    yield from embodied(record, total)
    yield from sci(record)


DIGITS = 10  # of the numbers in a line: following it gives its result to as many, less the rounding of each
LEAST_WIDTH = 60
SMALL_RATIO = 0.001


def render(steps: Sequence[Step], width: int = 100) -> str:
    """Render the steps, numbered, each with its lines, inputs, interval and uncertainties.

    Args:
        steps: of ``explain``.
        width: columns to wrap words at; a line of numbers stays whole.
    """
    parts = ["\n".join(_step(number, step, max(width, LEAST_WIDTH))) for number, step in enumerate(steps, start=1)]
    return redaction.printable_lines("\n\n".join(parts) + "\n")


def line(of: Line) -> str:
    """Write numbers and what they come to: ``22.03 USD/h x 2631.05 s / 3600 s/h x 1 nodes = 16.10056431 USD``."""
    made = " ".join(filter(None, (word for term in of.terms for word in (term.sign, _term(term)))))
    result = f"{_format.number(of.result, DIGITS)} {of.unit}"
    text = result if len(of.terms) == 1 and made == result else f"{made} = {result}"
    return f"{of.label}: {text}" if of.label else text


def _term(term: Term) -> str:
    return f"{_format.number(term.value, DIGITS)} {term.unit}".strip()


def _step(number: int, step: Step, width: int) -> Iterator[str]:
    head = f"{number}. {step.title}"
    yield from _wrapped(f"{head}: {step.printed}" if step.printed else head, width, "", "   ")
    if step.formula:
        yield from _wrapped(step.formula, width, "   ")
    for step_line in step.lines:
        yield f"   {line(step_line)}"
    for name, text in step.sources:
        yield from _wrapped(f"{name}: {text}", width, "   - ", "     ")
    if step.note:
        yield from _wrapped(step.note, width, "   - ", "     ")
    if step.interval_text:
        yield f"   interval of 95 %: {step.interval_text}" + (", from" if step.shares else "")
    unit = step.lines[0].unit if step.lines else ""
    if step.interval_text:
        for share in step.shares:
            yield f"     {_share(share, unit)}"


def _share(share: Share, unit: str) -> str:
    down, up = (_format.number(side, 4) for side in (share.down, share.up))
    by = f"± {up} {unit}" if down == up else f"+ {up} {unit}" if not share.down else f"- {down} + {up} {unit}"
    if share.of_variance is None:
        return f"{share.source}: {by}, upward only, added as it is"
    ratio = "under 0.1%" if share.of_variance < SMALL_RATIO else _format.percent(share.of_variance)
    return f"{share.source}: {by}, {ratio} of the variance"


def _wrapped(text: str, width: int, first: str, rest: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=rest or first, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
