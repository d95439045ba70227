"""Writes a run into a model card: sections between markers of greenml's own, and the card's metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from greenml.record.schema import RunRecord
from greenml.reports import markdown
from greenml.reports.card import metadata, sections
from greenml.reports.card import text as card_text
from greenml.reports.card.metadata import Conflict
from greenml.reports.card.text import Marks, headings, without_code, without_comments

Style = Literal["full", "hub"]
MARKS = Marks("greenml")
HUB_MARKS = Marks("greenml hub")
CARD = "card"  # the kind of a section that holds everything; the two tables alone are of the kind ""

SECTIONS = {
    "Resource Usage": markdown.resource_usage,
    "Carbon Emissions": markdown.carbon_emissions,
    "Hyperparameters": sections.hyperparameters_section,
    "DeepSpeed": sections.deepspeed_section,
    "Results": sections.results_section,
    "How this was measured": sections.method_section,
}
_SAME = {"training hyperparameters": "hyperparameters", "evaluation results": "results"}
_PLACEHOLDER = "more information needed"  # of the hub's template, and of the Trainer's cards


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
    return MARKS.put(card, text, kind, card_text.line_break(card))


def update(card: str, record: RunRecord, *, style: Style = "full", folder: str = "", force: bool = False) -> Update:
    """Return a card with a run in its metadata and its sections; repeated calls give the same bytes.

    Args:
        card: the text of a README.md; may be empty.
        record: of the run.
        style: ``full`` for every section, ``hub`` for the fields of the Hugging Face template.
        folder: the card's name of the model, where neither the run nor the card has one.
        force: replace values of the card that are in conflict, and add sections that it has of its own.

    Raises:
        SettingsError: the card's markers are damaged, its metadata does not load, or huggingface_hub is missing.
    """
    card_text.metadata(card)
    metadata.check(card)
    if not card and (record.name or folder):
        card = f"# {markdown.escape(record.name or folder)}\n"
    made = _hub(card, record, force=force) if style == "hub" else _full(card, record, force=force)
    result = metadata.of(record, card_text.metadata(card), folder=folder, force=force)
    made.text = card_text.with_metadata(made.text, result.changes)
    made.conflicts[:0] = result.conflicts
    made.left_out[:0] = result.left_out
    metadata.check(made.text)
    return made


def _full(card: str, record: RunRecord, *, force: bool) -> Update:
    own_titles = _own_sections(card)
    text = MARKS.put(card, _body(record, set() if force else own_titles), CARD, card_text.line_break(card))
    kept = [] if force else [title for title, write in SECTIONS.items() if title in own_titles and write(record)]
    return Update(text, left_out=[f"{title}: the card has a section of its own" for title in kept])


def _hub(card: str, record: RunRecord, *, force: bool) -> Update:
    if HUB_MARKS.find(card) is None:
        filled = sections.fill(card, without_comments(without_code(_foreign(card))), record, force=force)
        if filled.has_fields:
            return Update(filled.text, [Conflict(*conflict) for conflict in filled.conflicts], filled.left_out)
    return Update(HUB_MARKS.put(card, sections.section(record), "", card_text.line_break(card)))


def _body(record: RunRecord, own_titles: set[str]) -> str:
    """Render the sections that the record has data for and the card does not have already."""
    parts = [write(record) for title, write in SECTIONS.items() if title not in own_titles]
    return "\n\n".join(part for part in parts if part)


def _foreign(card: str) -> str:
    """Return what of a card somebody else wrote, at its place: with spaces where our sections are."""
    for marks in (MARKS, HUB_MARKS):
        there = marks.find(card)
        card = there.blanked(card) if there is not None else card
    return card


def _own_sections(card: str) -> set[str]:
    """Return the titles of our sections that the card's author wrote; a placeholder does not count."""
    theirs = _foreign(card)
    titles = {title.lower(): title for title in SECTIONS}
    known = headings(theirs)
    own_titles: set[str] = set()
    for number, heading in enumerate(known):
        title = titles.get(_SAME.get(heading.words, heading.words))
        below = (other.start for other in known[number + 1 :] if other.level <= heading.level)
        section = theirs[heading.stop : next(below, len(theirs))]
        if title and card_text.without_comments(section).strip() and _PLACEHOLDER not in section.lower():
            own_titles.add(title)
    return own_titles
