"""Fills the "Environmental Impact" fields of the Hugging Face model card template."""

from __future__ import annotations

import re
from dataclasses import dataclass

from greenml.record.schema import RunRecord
from greenml.reports import _format, markdown
from greenml.reports.card import facts
from greenml.units import SECONDS_PER_HOUR

# The words of huggingface_hub/templates/modelcard_template.md.
HARDWARE, HOURS, PROVIDER = "Hardware Type", "Hours used", "Cloud Provider"
REGION, CARBON = "Compute Region", "Carbon Emitted"
_LINE = re.compile(
    r"^([ \t]*[-*+] \*\*(" + "|".join((HARDWARE, HOURS, PROVIDER, REGION, CARBON)) + r"):\*\*)([^\r\n]*)", re.M
)
_UNFILLED = re.compile(r"\s*(?:|\[More Information Needed\]|\{\{.*\}\})\s*")


@dataclass(frozen=True, slots=True)
class Filled:
    """A card with its fields filled; ``has_fields`` is False where it has none of them."""

    text: str
    has_fields: bool
    conflicts: list[tuple[str, str, str]]
    left_out: list[str]


def fields(record: RunRecord) -> dict[str, str]:
    """Return the template's fields in its order; empty where a field is not known."""
    emitted = facts.emissions(record)
    grams = f"{emitted.grams:f} g CO2eq" if emitted.grams is not None else ""
    details = ", ".join(part for part in (emitted.interval, emitted.scope, f"source: {emitted.source}") if part)
    values = {
        HARDWARE: facts.hardware(record),
        HOURS: _hours(record),
        PROVIDER: facts.cloud(record),
        REGION: facts.geography(record),
        CARBON: f"{grams} ({details})" if grams else "",
    }
    return {name: markdown.escape(text) for name, text in values.items()}


def section(record: RunRecord) -> str:
    """Render the fields under their heading; what is not known is said in words."""
    why = facts.emissions(record).why
    known = fields(record)
    missing = {CARBON: markdown.escape(_format.missing(why, _format.NOT_KNOWN))}
    lines = [f"- **{name}:** {text or missing.get(name, _format.NOT_KNOWN)}" for name, text in known.items()]
    return "\n\n".join(["## Environmental Impact", "\n".join(lines)])


def fill(card: str, hidden: str, record: RunRecord, *, force: bool) -> Filled:
    """Fill the template's lines in a card; a line that somebody filled otherwise stays, unless forced.

    Args:
        card: the text.
        hidden: the same text with what is not to be looked at (code, other sections of greenml's) blanked out.
        record: of the run.
        force: replace what is in conflict.
    """
    known = fields(record)
    conflicts: list[tuple[str, str, str]] = []
    left_out: list[str] = []
    lines = list(_LINE.finditer(hidden))
    for line in reversed(lines):
        name, theirs = line[2], card[line.start(3) : line.end(3)]
        ours = known[name]
        unfilled = _UNFILLED.fullmatch(theirs)
        if not ours and unfilled:
            left_out.append(f"{name}: {_format.NOT_KNOWN}")
        if not ours or theirs.strip() == ours:
            continue
        if not unfilled:
            conflicts.append((name, theirs.strip(), ours))
        if unfilled or force:
            card = f"{card[: line.start(3)]} {ours}{card[line.end(3) :]}"
    return Filled(card, bool(lines), conflicts[::-1], left_out[::-1])


def _hours(record: RunRecord) -> str:
    hours = _format.number(record.duration_seconds / SECONDS_PER_HOUR, 4)
    count = facts.gpu_count(record)[0]
    return f"{hours} ({count} GPUs, the whole run)" if count > 1 else f"{hours} (the whole run)"
