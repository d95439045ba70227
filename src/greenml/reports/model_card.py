"""A run in somebody's model card: sections between markers of greenml's own, and the card's metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from greenml.record import RunRecord
from greenml.reports import (
    _carbon_table,
    _card_deepspeed,
    _card_hyperparameters,
    _card_metadata,
    _card_method,
    _card_results,
    _front_matter,
    _hub_style,
    _markdown_text,
    markdown,
)
from greenml.reports._card_marks import Marks, without_code
from greenml.reports._card_metadata import Conflict

Style = Literal["full", "hub"]
MARKS = Marks("greenml")
HUB_MARKS = Marks("greenml hub")
CARD = "card"  # the kind of a section that holds everything; the two tables alone are of the kind ""

SECTIONS = {
    "Resource Usage": markdown.resource_usage,
    "Carbon Emissions": _carbon_table.carbon_emissions,
    "Hyperparameters": _card_hyperparameters.section,
    "DeepSpeed": _card_deepspeed.section,
    "Results": _card_results.section,
    "How this was measured": _card_method.section,
}
_SAME = {"training hyperparameters": "hyperparameters", "evaluation results": "results"}
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+([^\r\n]*?)[ \t#]*\r?$", re.MULTILINE)
_PLACEHOLDER = "[More Information Needed]"


@dataclass(slots=True)
class Update:
    """A card with a run in it; what of it is in conflict with the run; and what was left out, with the reason."""

    text: str
    conflicts: list[Conflict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def render(record: RunRecord) -> str:
    """Return every section of a card, between the markers; the metadata is ``update``'s."""
    return MARKS.put("", _body(record, set()), CARD, "\n")


def insert(card: str, record: RunRecord) -> str:
    """Return a card with the run's tables in it; every byte outside of the markers stays.

    Where the section holds everything, as ``greenml card`` writes it, everything in it is brought up to date.

    Args:
        card: the text of a README.md; may be empty.
        record: of the run.

    Raises:
        SettingsError: the card's markers are damaged.
    """
    there = MARKS.find(card)
    kind = there.kind if there is not None else ""
    text = _body(record, _own_sections(card)) if kind == CARD else markdown.render(record)
    return MARKS.put(card, text, kind, _front_matter.line_break(card))


def update(card: str, record: RunRecord, *, style: Style = "full", folder: str = "", force: bool = False) -> Update:
    """Return a card with a run in its metadata and its sections; a second time gives the same bytes.

    Args:
        card: the text of a README.md; may be empty.
        record: of the run.
        style: ``full`` for every section, ``hub`` for the fields of the Hugging Face template.
        folder: the card's name of the model, where neither the run nor the card has one.
        force: replace values of the card that are in conflict, and add sections that it has of its own.

    Raises:
        SettingsError: the card's markers are damaged, its metadata does not load, or huggingface_hub is missing.
    """
    _front_matter.metadata(card)
    _card_metadata.check(card)
    if not card and (record.name or folder):
        card = f"# {_markdown_text.escape(record.name or folder)}\n"
    made = _hub(card, record, force=force) if style == "hub" else _full(card, record, force=force)
    told = _card_metadata.of(record, _front_matter.metadata(card), folder=folder, force=force)
    made.text = _front_matter.with_metadata(made.text, told.changes)
    made.conflicts[:0] = told.conflicts
    made.left_out[:0] = told.left_out
    _card_metadata.check(made.text)
    return made


def _full(card: str, record: RunRecord, *, force: bool) -> Update:
    own = _own_sections(card)
    text = MARKS.put(card, _body(record, set() if force else own), CARD, _front_matter.line_break(card))
    kept = [] if force else [title for title, write in SECTIONS.items() if title in own and write(record)]
    return Update(text, left_out=[f"{title}: the card has a section of its own" for title in kept])


def _hub(card: str, record: RunRecord, *, force: bool) -> Update:
    if HUB_MARKS.find(card) is None:
        filled = _hub_style.fill(card, without_code(_foreign(card)), record, force=force)
        if filled.found:
            return Update(filled.text, [Conflict(*one) for one in filled.conflicts], filled.left_out)
    return Update(HUB_MARKS.put(card, _hub_style.section(record), "", _front_matter.line_break(card)))


def _body(record: RunRecord, own: set[str]) -> str:
    """Render the sections that a card does not have of its own; those that the record has data for."""
    parts = [write(record) for title, write in SECTIONS.items() if title not in own]
    return "\n\n".join(part for part in parts if part)


def _foreign(card: str) -> str:
    """Return what of a card somebody else wrote, at its place: with spaces where our sections are."""
    for marks in (MARKS, HUB_MARKS):
        there = marks.find(card)
        card = there.blanked(card) if there is not None else card
    return card


def _own_sections(card: str) -> set[str]:
    """Return which of our sections a card has by somebody else's hand; one to be filled in is none."""
    theirs = _foreign(card)
    titles = {title.lower(): title for title in SECTIONS}
    headings = list(_HEADING.finditer(without_code(theirs)))
    found = set()
    for number, heading in enumerate(headings):
        name = heading[2].strip().strip("*:").lower()
        title = titles.get(_SAME.get(name, name))
        below = (one.start() for one in headings[number + 1 :] if len(one[1]) <= len(heading[1]))
        section = theirs[heading.end() : next(below, len(theirs))]
        if title and section.strip() and _PLACEHOLDER not in section:
            found.add(title)
    return found
