"""Emissions in things that people know, each with whose figure it is."""

from __future__ import annotations

from dataclasses import dataclass

from greenml import tables
from greenml.facts import Source

# Rows of data/equivalents.csv, and what so many of them are called.
SHOWN = (
    ("car_km_eu", "km in an average European passenger car"),
    ("car_km_us_2024", "km in an average US gasoline car"),
    ("smartphone_charge_2024", "smartphone charges"),
)


@dataclass(frozen=True, slots=True)
class Equivalent:
    """So many of something emit as much.

    Attributes:
        count, low, high: how many; the band is that of the emissions alone.
        each_grams: what one of them emits, g CO2 or CO2e as ``unit`` says.
    """

    name: str
    count: float
    low: float | None
    high: float | None
    each_grams: float
    unit: str
    source: Source


def equivalents(grams: float, low: float | None = None, high: float | None = None) -> list[Equivalent]:
    """Return what emits as much as this, in things that people know.

    Args:
        grams: CO2e.
        low: of their band.
        high: of their band.
    """
    rows = {row["id"]: row for row in tables.rows("equivalents")}
    made = []
    for name, words in SHOWN:
        row = rows[name]
        each = float(row["value"])
        made.append(
            Equivalent(
                name=words,
                count=grams / each,
                low=None if low is None else low / each,
                high=None if high is None else high / each,
                each_grams=each,
                unit=f"g {row['unit'][1:]}",
                source=tables.source(row["source"], row["source_date"]),
            )
        )
    return made
