"""The tables of a run inside somebody's model card, between markers of greenml's own."""

from __future__ import annotations

import re

from greenml.record import RunRecord
from greenml.reports import markdown

BEGIN = "<!-- greenml: begin; made by greenml, edits in here are replaced -->"
END = "<!-- greenml: end -->"
_BETWEEN = re.compile(r"<!-- greenml: begin.*?-->.*?" + re.escape(END) + r"\n?", re.DOTALL)


def render(record: RunRecord) -> str:
    """Return the two tables and their footnotes between the markers."""
    return f"{BEGIN}\n{markdown.render(record).rstrip()}\n{END}\n"


def insert(card: str, record: RunRecord) -> str:
    """Return a card with the run's tables in it; every byte outside of the markers stays.

    Args:
        card: the text of a README.md; may be empty.
        record: of the run.
    """
    tables = render(record)
    if _BETWEEN.search(card):
        return _BETWEEN.sub(lambda _: tables, card, count=1)
    space = "" if not card or card.endswith("\n\n") else "\n" if card.endswith("\n") else "\n\n"
    return f"{card}{space}{tables}"
