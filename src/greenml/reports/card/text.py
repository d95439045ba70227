"""A card as text: its lines of code, its headings, and greenml's sections between their markers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape

from greenml.errors import SettingsError
from greenml.reports.card import front_matter

_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}|~{3,})([^\r\n]*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+([^\r\n]*?))?[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_HTML_HEADING = re.compile(r"[ \t]*<h([1-6])\b[^>]*>(.*?)</h\1>[ \t]*", re.IGNORECASE)
_HTML_HEADING_OF_LINES = re.compile(
    r"^[ \t]*<h([1-6])\b[^>]*>([^<\r\n]*\r?\n(?:(?!</h\1>)[\s\S]){0,500}?)</h\1>[ \t]*\r?\n?",
    re.IGNORECASE | re.MULTILINE,
)
_NO_PARAGRAPH = re.compile(r"[ \t]{4,}|\t|[ \t]*(?:[-*+>|]|\d+[.)])[ \t]")


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
        """Return where the section is; None where the card has none. Markers within fenced code are text.

        Raises:
            SettingsError: there is a marker without its other, or there are several sections.
        """
        text = without_code(_without_head(card))
        begins = list(re.finditer(rf"^<!-- {self.name}: begin ?(\w*)[^\n]*?-->[ \t]*\r?$", text, re.MULTILINE))
        ends = list(re.finditer(rf"^<!-- {self.name}: end -->[ \t]*\r?$", text, re.MULTILINE))
        if not begins and not ends:
            return None
        if (len(begins), len(ends)) != (1, 1) or begins[0].start() > ends[0].start():
            places = sorted(
                (mark.start(), what) for what, marks in (("begin", begins), ("end", ends)) for mark in marks
            )
            lines = ", ".join(f"{what} in line {card.count(chr(10), 0, start) + 1}" for start, what in places)
            raise SettingsError(
                f"greenml's markers are damaged ({lines}); there must be one '<!-- {self.name}: begin ... -->' and "
                f"below it one '{self.end}': take the others out"
            )
        stop = ends[0].end() - ends[0][0].endswith("\r")
        return Section(begins[0].start(), stop, begins[0][1])

    def put(self, card: str, text: str, kind: str, line_break: str) -> str:
        """Put a text between the markers: in place of what is there, else at the end of the card.

        Raises:
            SettingsError: the markers are damaged, or the card ends within a code fence, where a section would be code.
        """
        ours = f"{self.begin(kind)}\n{text.strip()}\n{self.end}".replace("\n", line_break)
        there = self.find(card)
        if there is not None:
            return card[: there.start] + ours + card[there.stop :]
        if not card.strip("\ufeff"):
            return f"{card}{ours}{line_break}"
        *_, (_, opened, fence) = _lines(card)
        if fence:
            raise SettingsError(f"the code fence opened in line {opened} is never closed: write {fence} where it ends")
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


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of a card: where it begins, where its section's text does, its level from 1, and its words."""

    start: int
    stop: int
    level: int
    words: str


def headings(card: str) -> list[Heading]:
    """Return a card's headings: with ``#`` marks, underlined, or in HTML; none of code, none of the YAML head."""
    plain = without_code(_without_head(card))
    lines = [line for line, _, _ in _lines(plain)]
    made = [
        Heading(match.start(), match.end(), int(match[1]), words(match[2]))
        for match in _HTML_HEADING_OF_LINES.finditer(plain)
    ]
    place = 0
    for number, line in enumerate(lines):
        start, place, text = place, place + len(line), line.rstrip("\r\n")
        marked, html = _HEADING.fullmatch(text), _HTML_HEADING.fullmatch(text)
        below = lines[number + 1] if number + 1 < len(lines) else ""
        underline = _UNDERLINE.fullmatch(below.rstrip("\r\n"))
        if marked:
            made.append(Heading(start, place, len(marked[1]), words(marked[2] or "")))
        elif html:
            made.append(Heading(start, place, int(html[1]), words(html[2])))
        elif underline and re.search(r"\w", text) and not _NO_PARAGRAPH.match(text):
            made.append(Heading(start, place + len(below), 1 if underline[1][0] == "=" else 2, words(text)))
    return sorted(made, key=lambda heading: heading.start)


def words(heading: str) -> str:
    """Return a heading's words in lower case, without its number, emoji, picture, anchor, link, emphasis and HTML.

    What stands in brackets behind its words is not part of them: ``Carbon Emissions (CO2eq)``.
    """
    text = re.sub(r"<[^>]*>|\{[#.:][^}]*\}|:[a-z0-9_+-]+:|!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?", " ", heading)
    text = re.sub(r"(\d)\ufe0f?\u20e3", r"\1 ", unescape(text))
    text = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", text)
    text = re.sub(r"^\W*(?:\d+(?:\.\d+)*[.):]?|[IVXLC]+[.):]|[A-Za-z][.):])\s+", "", text)
    text = re.sub(r"(?<=\w)\s*\([^()]*\)\W*\Z", "", text)
    return " ".join(re.findall(r"[\w'&/-]+", text.replace("_", " "))).strip(" -").lower()


def _without_head(card: str) -> str:
    """Return a card with spaces in place of its YAML head."""
    parts = front_matter.split(card)
    head = 0 if parts.block is None else len(parts.head) + len(parts.block)
    return _blank(card[:head]) + card[head:]


def without_code(card: str) -> str:
    """Return a card with spaces in place of its fenced code; a fence that nobody closes reaches to the end."""
    return "".join(_blank(line) if opened else line for line, opened, _ in _lines(card))


def _lines(card: str) -> Iterator[tuple[str, int, str]]:
    """Yield each line, the number of the line that opened its code block (0: not in code), and the fence still open.

    Source: CommonMark 0.31, section 4.5; a fence may also stand in a quote or a list.
    """
    fence, opened = "", 0
    for number, line in enumerate(re.split(r"(?<=\n)|(?<=\r)(?!\n)", card), start=1):
        marks = _FENCE.fullmatch(line.rstrip("\r\n"))
        if not fence and marks and not (marks[1][0] == "`" and "`" in marks[2]):
            fence, opened = marks[1], number
            yield line, opened, fence
        elif fence and marks and marks[1].startswith(fence) and not marks[2].strip():
            yield line, opened, ""
            fence, opened = "", 0
        else:
            yield line, opened, fence


def _blank(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)
