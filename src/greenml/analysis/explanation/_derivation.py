"""What a derivation is made of: steps, their lines of numbers, and the doubts of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from greenml import doubts
from greenml.record import DeviceRecord, Factor, Quantity, SourceRef
from greenml.reports import _format
from greenml.units import JOULES_PER_KWH


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
    """What one doubt adds to a band, and its part of the variance; None for a gap, which adds upward only."""

    doubt: str
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
        band: in the unit of the lines; None where there is none. ``band_words`` as reports print it.
        shares: of the doubts, the largest first.
        note: what a reader must know.
    """

    name: str
    title: str
    formula: str = ""
    lines: Sequence[Line] = ()
    sources: Sequence[tuple[str, str]] = ()
    printed: str = ""
    band: tuple[float, float] | None = None
    band_words: str = ""
    shares: Sequence[Share] = ()
    note: str = ""
    needs: Sequence[str] = ()


def in_kwh(joules: float, intensity: Factor) -> list[Term]:
    """Write joules times an intensity, by way of kWh."""
    return [Term(joules, "J"), Term(JOULES_PER_KWH, "J/kWh", "/"), Term(intensity.value, "g/kWh", "x")]


def added(terms: Sequence[Term]) -> list[Term]:
    """Put a plus before each number but the first."""
    return [Term(term.value, term.unit, "+" if at else "") for at, term in enumerate(terms)]


def band(quantity: Quantity, write: Callable[[float], str]) -> tuple[tuple[float, float] | None, str]:
    """Return a quantity's band, in numbers and in words."""
    if quantity.low is None or quantity.high is None:
        return None, ""
    return (quantity.low, quantity.high), _format.band(quantity, write)


def energy_doubts(devices: Iterable[DeviceRecord]) -> list[doubts.Term]:
    """Return the doubts of what some devices used together."""
    return doubts.terms([(one, one.usage) for one in devices])


def shares(of: Sequence[doubts.Term]) -> list[Share]:
    """Return each doubt's part of the variance (the mean square of its two sides), the largest first, a gap last."""
    squares = [0.0 if one.source == "gap" else (one.down**2 + one.up**2) / 2 for one in of]
    whole = sum(squares)
    made = [
        Share(
            ", ".join(part for part in (one.source, one.of) if part),
            one.down,
            one.up,
            None if one.source == "gap" or not whole else square / whole,
        )
        for one, square in zip(of, squares, strict=True)
    ]
    return sorted(made, key=lambda one: 1.0 if one.of_variance is None else -one.of_variance)


def sources(sources: Sequence[SourceRef]) -> str:
    """Name some sources."""
    return "; ".join(_format.source(one) for one in sources)
