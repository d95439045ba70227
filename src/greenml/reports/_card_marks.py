"""greenml's sections within somebody's text: found by their markers, replaced, and nothing else touched."""

from __future__ import annotations

import re
from dataclasses import dataclass

from greenml.errors import SettingsError

_FENCED = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(?:.*\n)*? {0,3}\1[`~]*[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Marks:
    """How a section of ours begins and ends. Each stands at the start of a line.

    Attributes:
        name: ``greenml`` or ``greenml hub``.
    """

    name: str

    def begin(self, kind: str = "") -> str:
        """Return the first line; the kind says what stands between."""
        return f"<!-- {self.name}: begin{f' {kind}' if kind else ''}; made by greenml, edits in here are replaced -->"

    @property
    def end(self) -> str:
        """Return the last line."""
        return f"<!-- {self.name}: end -->"

    def find(self, card: str) -> Section | None:
        """Return where the section is; None where the card has none.

        Raises:
            SettingsError: there is a marker without its other, or there are several sections.
        """
        begins = list(re.finditer(rf"^<!-- {self.name}: begin ?(\w*)[^\n]*?-->[ \t]*\r?$", card, re.MULTILINE))
        ends = list(re.finditer(rf"^<!-- {self.name}: end -->[ \t]*\r?$", card, re.MULTILINE))
        if not begins and not ends:
            return None
        if (len(begins), len(ends)) != (1, 1) or begins[0].start() > ends[0].start():
            places = sorted((one.start(), what) for what, ones in (("begin", begins), ("end", ends)) for one in ones)
            lines = ", ".join(f"{what} in line {card.count(chr(10), 0, start) + 1}" for start, what in places)
            raise SettingsError(
                f"greenml's markers are damaged ({lines}); there must be one '<!-- {self.name}: begin ... -->' and "
                f"below it one '{self.end}': take the others out"
            )
        stop = ends[0].end() - ends[0][0].endswith("\r")
        return Section(begins[0].start(), stop, begins[0][1])

    def put(self, card: str, text: str, kind: str, line_break: str) -> str:
        """Put a text between the markers: in place of what is there, else at the end of the card."""
        ours = f"{self.begin(kind)}\n{text.strip()}\n{self.end}".replace("\n", line_break)
        there = self.find(card)
        if there is not None:
            return card[: there.start] + ours + card[there.stop :]
        if not card.strip("\ufeff"):
            return f"{card}{ours}{line_break}"
        space = "" if card.endswith(line_break * 2) else line_break if card.endswith(("\n", "\r")) else line_break * 2
        return f"{card}{space}{ours}{line_break}"


@dataclass(frozen=True, slots=True)
class Section:
    """Where a section is in a card, from its first marker to its last, and of what kind it is."""

    start: int
    stop: int
    kind: str

    def blanked(self, card: str) -> str:
        """Return the card with spaces in place of the section."""
        return card[: self.start] + _blank(card[self.start : self.stop]) + card[self.stop :]


def without_code(card: str) -> str:
    """Return a card with spaces in place of its fenced code; a fence that nobody closes is none."""
    return _FENCED.sub(lambda found: _blank(found[0]), card)


def _blank(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)
