"""What making GPUs and servers emitted, by published figures: ranges, because the figures disagree."""

from __future__ import annotations

import re
from dataclasses import dataclass

from greenml.errors import FactorError, SettingsError
from greenml.factors import tables
from greenml.factors.types import Source
from greenml.units import GRAMS_PER_KG, SECONDS_PER_HOUR

CARD, CARD_AND_HOST, HOST = "card", "card_and_host", "host"  # kinds of rows of the table
LONE = 3.5  # two published figures of the H100 are this far apart: the range around a figure that stands alone
GPUS_OF_A_SERVER = 8  # a machine with as many GPUs is a whole server, not a share of one
SECONDS_PER_YEAR = 365 * 24 * SECONDS_PER_HOUR
LIFETIME_YEARS = (4.0, 6.0)
MOST_YEARS = 30.0
LIFETIME_SOURCES = (
    Source("4 years: Software Carbon Intensity guide, M", "https://sci-guide.greensoftware.foundation/M"),
    Source("6 years: Luccioni, Viguier, Ligozat", "https://arxiv.org/abs/2211.02001", "2022-11-03"),
)
_MAKERS = re.compile(r"^(nvidia|tesla|quadro) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the most of what is published of a thing; no value between is better than another."""

    low: float
    high: float
    sources: tuple[Source, ...]
    note: str = ""


def card(name: str, *, with_host: bool) -> Range:
    """Return the grams CO2e of making one GPU, from the least to the most of the figures published for its family.

    Cards of one family (A100, 40 or 80 GB, PCIe or SXM) share their figures. A figure that stands alone is divided
    and multiplied by 3.5, as far as two published figures of the H100 are apart.

    Args:
        name: as the driver gives it, or a family: ``NVIDIA A100-SXM4-40GB``, ``A100``.
        with_host: take also figures that hold the GPU's share of the server around it.

    Raises:
        FactorError: no figure is published for it, or none that may be shipped.
    """
    kinds = (CARD, CARD_AND_HOST) if with_host else (CARD,)
    rows = [row for row in _rows(*kinds) if _family(row["model"]) == _family(name)]
    if not rows:
        raise FactorError(f"no published figure for making {_article(name)} is in the tables")
    return _range(rows)


def host() -> Range:
    """Return the grams CO2e of making one server, without its GPUs."""
    return _range(_rows(HOST))


def lifetime(years: float | None = None) -> Range:
    """Return the seconds over which a device's embodied carbon is shared out: 4 to 6 years, or what the user says.

    Raises:
        SettingsError: the years are not more than 0 and at most 30.

    Source: the two in ``LIFETIME_SOURCES``.
    """
    if years is None:
        low, high = (year * SECONDS_PER_YEAR for year in LIFETIME_YEARS)
        return Range(low, high, LIFETIME_SOURCES)
    if not 0 < years <= MOST_YEARS:
        raise SettingsError(f"lifetime of {years:g} years: give more than 0, at most {MOST_YEARS:g}")
    return Range(years * SECONDS_PER_YEAR, years * SECONDS_PER_YEAR, (Source("given by the user"),))


def _rows(*kinds: str) -> list[tables.Row]:
    return [row for row in tables.rows("embodied") if row["kind"] in kinds]


def _range(rows: list[tables.Row]) -> Range:
    grams = [float(row["kgco2e"]) * GRAMS_PER_KG for row in rows]
    sources = tuple(tables.source(row["source"], row["source_date"]) for row in rows)
    figures = ", ".join(f"{row['kgco2e']} kg ({row['boundary']})" for row in rows)
    if len(rows) == 1:
        return Range(grams[0] / LONE, grams[0] * LONE, sources, f"one figure: {figures}, divided and times {LONE:g}")
    return Range(min(grams), max(grams), sources, figures)


def _family(model: str) -> str:
    plain = _MAKERS.sub("", model.strip()).lower()
    first = re.split(r"[ -]", plain)[0]
    return first if any(letter.isdigit() for letter in first) else plain  # "GeForce" is a brand, not a family


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}" if name else "the GPU"
