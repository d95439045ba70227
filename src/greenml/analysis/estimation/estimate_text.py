"""An estimate as text: the headline with its bands, what it is the sum of, and what was assumed."""

from __future__ import annotations

from greenml import printable
from greenml.analysis import _prose
from greenml.analysis.estimation.estimate import Estimate
from greenml.record import Quantity
from greenml.reports import _format


def render(made: Estimate, width: int = 100) -> str:
    """Render an estimate.

    Args:
        made: what to print.
        width: columns of the sentences.
    """
    rows = [
        (
            "Time",
            _format.duration(made.seconds.value or 0.0),
            _format.band(made.seconds, _format.duration),
            _how(made.seconds),
        ),
        ("IT energy", *_figures(made.it_energy_joules, _format.energy)),
        ("with PUE", *_figures(made.facility_energy_joules, _format.energy)),
        ("Emissions", *_figures(made.emissions_grams, _format.mass)),
        *((f"Cost, {_format.tier(tier)}", *_figures(cost, _format.money)) for tier, cost in made.cost_usd.items()),
    ]
    if not made.cost_usd:
        rows.append(("Cost", _format.NOT_KNOWN, "", "no price"))
    lines = [f"Estimate: {printable.line(made.title)}. Nothing of it was measured.", ""]
    lines += _prose.indented(_prose.table(("", "expected", "band", "known how"), rows, frozenset({1})))
    staged = any(part.seconds is not None for part in made.parts)
    head = ("of which", *(("time",) if staged else ()), "energy", "band", *(("how",) if staged else ()))
    parts = [
        (
            part.name,
            *((_format.duration(part.seconds or 0.0),) if staged else ()),
            _format.figure(part.energy_joules, _format.energy),
            _format.band(part.energy_joules, _format.energy),
            *((part.how,) if staged else ()),
        )
        for part in made.parts
    ]
    lines += ["", *_prose.indented(_prose.table(head, parts, frozenset({1, 2} if staged else {1})))]
    lines += ["", "Assumed", *_prose.points(made.assumes, width)]
    factors = made.factors
    named = (("Carbon intensity", factors.carbon_intensity), ("PUE", factors.pue))
    written = [
        *(f"{name}: {_format.factor(one) if one else _format.NOT_KNOWN}" for name, one in named),
        *(f"Price of a node per hour: {_format.price(tier, one)}" for tier, one in factors.prices.items()),
        *(f"Note: {note}" for note in made.notes),
        *(f"Source: {_format.source(one)}{f', {one.url}' if one.url else ''}" for one in made.sources),
    ]
    lines += ["", "Factors and sources", *_prose.points(written, width)]
    return printable.lines("\n".join(lines) + "\n")


def _how(quantity: Quantity) -> str:
    return f"{quantity.basis}, partial" if quantity.value is not None and quantity.why else quantity.basis


def _figures(quantity: Quantity, write: object) -> tuple[str, str, str]:
    if quantity.value is None:
        return _format.NOT_KNOWN, "", quantity.why
    return write(quantity.value), _format.band(quantity, write), _how(quantity)  # type: ignore[operator, arg-type]
