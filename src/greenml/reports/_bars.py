"""Small charts of horizontal bars with their bands, of energy, carbon or cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from greenml.reports import _format
from greenml.reports._page import Markup, chart, element, plotly_text
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH

MOST_BARS = 16


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its band, in SI; None is not known."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """What the bars of a chart measure: units from the largest, the SI value of one, and how a value is written."""

    title: str
    units: Sequence[tuple[str, float]]
    write: Callable[[float], str]
    color: str


ENERGY = Measure(
    "Energy",
    (("kWh", JOULES_PER_KWH), ("Wh", _format.JOULES_PER_WH), ("J", 1.0)),
    _format.energy,
    "var(--series-1)",
)
CARBON = Measure(
    "Carbon",
    (
        ("t CO2e", _format.GRAMS_PER_TONNE),
        ("kg CO2e", GRAMS_PER_KG),
        ("g CO2e", 1.0),
        ("mg CO2e", _format.GRAMS_PER_MG),
    ),
    _format.mass,
    "var(--series-3)",
)


def cost(tier: str) -> Measure:
    """Return the measure of a tier's cost."""
    return Measure(f"Cost, {_format.tier(tier)}", (("USD", 1.0),), _format.money, "var(--series-2)")


def bars(measure: Measure, values: Sequence[Bar], of: str) -> Markup:
    """Return a chart of horizontal bars; empty where fewer than one value is known."""
    known = _most([bar for bar in values if bar.value is not None])
    if not known or not any(bar.value for bar in known):
        return Markup("")
    most = max(bar.value or 0.0 for bar in known)
    unit, size = next(((unit, size) for unit, size in measure.units if most >= size), measure.units[-1])
    error: dict[str, Any] = {}
    if any(bar.low is not None and bar.high is not None for bar in known):
        error["error_x"] = {
            "type": "data", "symmetric": False, "color": "var(--muted)", "thickness": 1.2, "width": 4,
            "array": [_reach(bar.value, bar.high, size) for bar in known],
            "arrayminus": [_reach(bar.low, bar.value, size) for bar in known],
        }  # fmt: skip
    told = []
    for bar in known:
        band = _format.interval(bar.low, bar.high, measure.write)
        told.append(plotly_text(measure.write(bar.value or 0.0)) + (f"<br>{plotly_text(band)}" if band else ""))
    figure = {
        "data": [
            {
                "type": "bar", "orientation": "h", "y": list(range(len(known))),
                "x": [(bar.value or 0.0) / size for bar in known], "marker": {"color": measure.color},
                "customdata": [[plotly_text(bar.label), words] for bar, words in zip(known, told, strict=True)],
                "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>", **error,
            }
        ],
        "layout": {
            "bargap": 0.35, "margin": {"l": 8, "r": 12, "t": 4, "b": 44},
            "xaxis": {"title": {"text": unit}, "rangemode": "tozero", "fixedrange": True, "nticks": 5},
            "yaxis": {
                "autorange": "reversed", "fixedrange": True, "showgrid": False, "ticklabelstandoff": 6,
                "tickvals": list(range(len(known))),
                "ticktext": [plotly_text(_shortened(bar.label)) for bar in known],
            },
        },
    }  # fmt: skip
    words = "; ".join(f"{bar.label} {measure.write(bar.value or 0.0)}" for bar in known)
    made = chart(figure, f"{measure.title} by {of}: {words}.", height=64 + 30 * len(known))
    return element("div", element("h3", measure.title), made)


def _most(known: list[Bar]) -> list[Bar]:
    """Return the largest values in their order, and the others as one, where they are too many to draw."""
    if len(known) <= MOST_BARS:
        return known
    largest = sorted(known, key=lambda bar: bar.value or 0.0, reverse=True)[: MOST_BARS - 1]
    others = [bar for bar in known if bar not in largest]
    return [
        *(bar for bar in known if bar in largest),
        Bar(f"{len(others)} others", sum(bar.value or 0.0 for bar in others)),
    ]


def _reach(low: float | None, high: float | None, size: float) -> float:
    return 0.0 if low is None or high is None else max((high - low) / size, 0.0)


def _shortened(label: str) -> str:
    return label if len(label) <= 22 else f"{label[:10]}\u2026{label[-10:]}"
