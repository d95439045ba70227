"""What a figure may be off by: independent doubts in quadrature, shared ones added, a gap upward only.

Every doubt is the half width of an interval that holds the truth in 95 of 100 cases. Derivation and sources:
docs/method.md, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from greenml.record import DeviceRecord, Factor, Usage

Used = Sequence[tuple[DeviceRecord, Usage]]
Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Term:
    """One doubt of a figure, independent of the others, in the figure's unit.

    Attributes:
        source: gain, edge, hidden or gap; or a factor's name.
        of: whose gain: a kind of sensors, which its devices share.
        down, up: how far the truth may lie below and above. A gap has no down.
    """

    source: str
    of: str
    down: float
    up: float


def terms(used: Used) -> list[Term]:
    """Return the doubts of the summed energy of several devices.

    The gains of one kind of sensor (module, kind of device and model) are thought to be off the same way and add.
    Unlike kinds are independent, and so are the edges and the hidden time of every device. Gaps add, upward.

    A usage without ``doubts`` but with a band has that band for a gain.
    """
    gains: dict[str, tuple[float, float]] = {}
    edge = hidden = gap = 0.0
    for device, usage in used:
        if usage.energy_joules is None:
            continue
        doubts = usage.doubts
        if doubts is not None:
            own = (doubts.gain_joules, doubts.gain_joules)
            edge, hidden = math.hypot(edge, doubts.edge_joules), math.hypot(hidden, doubts.hidden_joules)
            gap += doubts.gap_joules
        elif usage.energy_low_joules is not None and usage.energy_high_joules is not None:
            own = (usage.energy_joules - usage.energy_low_joules, usage.energy_high_joules - usage.energy_joules)
        else:
            continue
        kind = ", ".join(part for part in (device.sensor, device.kind, device.name) if part)
        down, up = gains.get(kind, (0.0, 0.0))
        gains[kind] = (down + own[0], up + own[1])
    made = [Term("gain", kind, down, up) for kind, (down, up) in gains.items()]
    made += [Term("edge", "", edge, edge), Term("hidden", "", hidden, hidden), Term("gap", "", 0.0, gap)]
    return [term for term in made if term.down or term.up]


def band(value: float, of: Iterable[Term]) -> Band:
    """Return low and high of a figure: its independent doubts in quadrature; a gap can only have hidden energy."""
    of = list(of)
    down = math.hypot(*(term.down for term in of if term.source != "gap"))
    up = math.hypot(*(term.up for term in of if term.source != "gap"))
    return max(0.0, value - down), value + up + sum(term.up for term in of if term.source == "gap")


def times(of: Iterable[Term], value: float, factor: Factor, name: str, unit: float = 1.0) -> list[Term]:
    """Return the doubts of a value times a factor, which is independent of it, times a unit.

    Each is what the product changes by if it alone is at its end, so that a factor of 0 needs no case of its own.

    Args:
        of: the doubts of the value.
        value: before.
        factor: with its own band.
        name: of the factor, in words.
        unit: that the product is converted with.

    Source: propagation of independent uncertainties, JCGM 100:2008 (GUM), 5.1.2.
    """
    made = [Term(one.source, one.of, one.down * factor.value * unit, one.up * factor.value * unit) for one in of]
    down, up = (factor.value - factor.low) * value * unit, (factor.high - factor.value) * value * unit
    return [one for one in [*made, Term(name, "", down, up)] if one.down or one.up]
