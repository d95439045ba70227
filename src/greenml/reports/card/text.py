"""A card as text: its lines of code, its headings, and greenml's sections between their markers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from html import unescape
from importlib import import_module
from typing import Any

from greenml.errors import SettingsError

_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}|~{3,})([^\r\n]*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+([^\r\n]*?))?[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
# On one line or several, alone or in a box that places it.
_HTML_HEADING = re.compile(
    r"^[ \t]*(?:<(?:div|center|p|a|span|details|summary)\b[^>]{0,200}>[ \t]*)*"
    r"<h([1-6])\b[^>]{0,200}>((?:(?!</h\1>)[\s\S]){0,500}?)</h\1>"
    r"[ \t]*(?:</(?:div|center|p|a|span|details|summary)>[ \t]*)*(?:\r?\n|\r|\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_PREFORMATTED = re.compile(r"^ {0,3}<pre\b[\s\S]*?</pre>", re.IGNORECASE | re.MULTILINE)
_COMMENT = re.compile(r"<!--[\s\S]*?-->")
_INDENTED = re.compile(r"(?: {4}| {0,3}\t)")
_LIST_ITEM = re.compile(r"[ \t>]*(?:[-*+]|\d{1,9}[.)])[ \t]")
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
    """Return a card's headings: with ``#`` marks, underlined, or in HTML; none of code, comments, the YAML head."""
    plain = without_comments(without_code(_without_head(card)))
    lines = [line for line, _, _ in _lines(plain)]
    made = [
        Heading(match.start(), match.end(), int(match[1]), words(match[2])) for match in _HTML_HEADING.finditer(plain)
    ]
    place = 0
    for number, line in enumerate(lines):
        start, place, text = place, place + len(line), line.rstrip("\r\n")
        marked = _HEADING.fullmatch(text)
        below = lines[number + 1] if number + 1 < len(lines) else ""
        underline = _UNDERLINE.fullmatch(below.rstrip("\r\n"))
        if marked:
            made.append(Heading(start, place, len(marked[1]), words(marked[2] or "")))
        elif underline and re.search(r"\w", text) and not _NO_PARAGRAPH.match(text):
            made.append(Heading(start, place + len(below), 1 if underline[1][0] == "=" else 2, words(text)))
    return sorted(made, key=lambda heading: heading.start)


def words(heading: str) -> str:
    """Return a heading's words in lower case, without its number, emoji, picture, anchor, link, emphasis and HTML.

    What stands in brackets behind its words is not part of them: ``Carbon Emissions (CO2eq)``.
    """
    text = re.sub(r"<sup\b[^>]*>.{0,40}?</sup>|\[\^[^\]]*\]|\\(?=[!-/:-@\[-`{-~])", "", heading)
    text = re.sub(r"<[^>]*>|\{[#.:][^}]*\}|:[a-z0-9_+-]+:|!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?", " ", text)
    text = re.sub(r"(\d)\ufe0f?\u20e3", r"\1 ", unescape(text))
    text = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", text)
    text = re.sub(
        r"^\W*(?:section|chapter|appendix|part)\s+(?=(?:\d|[A-Z]\b|[IVXLC]+\b))", "", text, flags=re.IGNORECASE
    )
    text = re.sub(r"^\W*(?:(?:\d+(?:\.\d+)*[.):]?|[IVXLC]+[.):]|[A-Za-z][.):])\s+|\d+[.)](?=[^\W\d]))", "", text)
    text = re.sub(r"(?<=\w)\s*\([^()]*\)\W*\Z", "", text)
    return " ".join(re.findall(r"[\w'&/-]+", text.replace("_", " "))).strip(" -").lower()


def _without_head(card: str) -> str:
    """Return a card with spaces in place of its YAML head."""
    parts = split(card)
    head = 0 if parts.block is None else len(parts.head) + len(parts.block)
    return _blank(card[:head]) + card[head:]


def without_code(card: str) -> str:
    """Return a card with spaces in place of its fenced and preformatted code.

    A fence that nobody closes reaches to the end.
    """
    unfenced = "".join(_blank(line) if opened else line for line, opened, _ in _lines(card))
    return _PREFORMATTED.sub(lambda match: _blank(match[0]), unfenced)


def without_comments(card: str) -> str:
    """Return a card with spaces in place of its HTML comments: nobody sees them."""
    return _COMMENT.sub(lambda match: _blank(match[0]), card)


def _lines(card: str) -> Iterator[tuple[str, int, str]]:
    """Yield each line, the number of the line that opened its code block (0: not in code), and the fence still open.

    Source: CommonMark 0.31, sections 4.4 and 4.5; a fence may also stand in a quote or a list. Outside of a list a
    line that is set in by four is code of its own, in which a fence is text.
    """
    fence, opened, listed = "", 0, False
    for number, line in enumerate(re.split(r"(?<=\n)|(?<=\r)(?!\n)", card), start=1):
        marks = _FENCE.fullmatch(line.rstrip("\r\n"))
        if not fence and line.strip():
            listed = _LIST_ITEM.match(line) is not None or (listed and line[0] in " \t")
            marks = None if not listed and _INDENTED.match(line) else marks
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


Edit = tuple[int, int, str]  # from and to where in the YAML, and what comes there
NEWLINE = r"(?:\r\n|\r|\n)"
# What the hub takes for a card's metadata: REGEX_YAML_BLOCK in huggingface_hub/repocard.py; an empty block besides.
_BLOCK = re.compile(rf"\A(\ufeff?\s*---{NEWLINE})([\s\S]*?)({NEWLINE}---[ \t]*(?:\r\n|\n|\Z))")
_EMPTY = re.compile(rf"\A(\ufeff?\s*---{NEWLINE})()(---[ \t]*(?:\r\n|\n|\Z))")


@dataclass(frozen=True, slots=True)
class Split:
    """A card in its parts: joined, they are the card again. ``block`` None: it has no metadata."""

    head: str
    block: str | None
    tail: str


def split(card: str) -> Split:
    """Return the parts of a card: up to its metadata, the metadata's YAML, and from there on."""
    match = _EMPTY.match(card) or _BLOCK.match(card)
    if match is None:
        mark = "\ufeff" if card.startswith("\ufeff") else ""
        return Split(mark, None, card[len(mark) :])
    return Split(match[1], match[2], card[match.start(3) :])


def line_break(text: str) -> str:
    """Return the line ending that a text has most of."""
    crlf = text.count("\r\n")
    return "\r\n" if crlf * 2 > text.count("\n") else "\n"


def metadata(card: str) -> dict[str, Any]:
    """Return a card's metadata; {} where it has none.

    Raises:
        SettingsError: the block is not YAML, or not a mapping.
    """
    block = split(card).block
    if block is None:
        return {}
    yaml = _yaml()
    try:
        values = yaml.safe_load(block)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 2}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise SettingsError(f"the metadata at its head is not YAML{where}: {problem}") from None
    except (TypeError, ValueError) as error:  # a key that cannot be one, a date of month 13
        raise SettingsError(f"the metadata at its head does not load: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(
            f"the metadata at its head is not a mapping of keys to values but a {type(values).__name__}"
        )
    return values


def with_metadata(card: str, changes: Mapping[str, Any]) -> str:
    """Return a card with these keys in its metadata; every byte of the others, and of the text, stays.

    Args:
        card: may be empty, or have no metadata.
        changes: top-level keys and their new values; a ``Decimal`` is written with just its digits.

    Raises:
        SettingsError: the metadata cannot be read, or not be changed in place.
    """
    if not changes:
        return card
    before = metadata(card)
    parts, end = split(card), line_break(card)
    if parts.block is None:
        space = "" if not parts.tail or parts.tail[0] in "\r\n" else end
        return f"{parts.head}---{end}{_dump(changes, end)}---{end}{space}{parts.tail}"
    block = _edited(parts.block, before, changes, end)
    tail = parts.tail if not block or parts.tail[0] in "\r\n" else end + parts.tail
    made = f"{parts.head}{block}{tail}"
    try:
        same = _written(metadata(made)) == _written({**before, **changes})
    except SettingsError:
        same = False
    if not same:  # an anchor in what was replaced, a second document
        raise SettingsError(
            f"the metadata at its head cannot be changed in place: write {', '.join(changes)} by hand, or simplify it"
        )
    return made


def _yaml() -> Any:  # noqa: ANN401  PyYAML comes with huggingface_hub, untyped
    try:
        return import_module("yaml")
    except ImportError:
        raise SettingsError("a card's metadata needs PyYAML: pip install 'greenml[card]'") from None


def _dump(values: Any, end: str = "\n", *, flow: bool = False) -> str:  # noqa: ANN401
    """Write YAML, a value a line (or all in one, ``flow``), without anchors."""
    yaml = _yaml()
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})

    def exact(writer: Any, value: Decimal) -> Any:  # noqa: ANN401
        digits = f"{value:f}"
        return writer.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in digits else 'int'}", digits)

    dumper.add_representer(Decimal, exact)
    wide = float("inf")
    return str(
        yaml.dump(
            values,
            Dumper=dumper,
            sort_keys=False,
            allow_unicode=True,
            width=wide,
            line_break=end,
            default_flow_style=flow,
        )
    )


def _written(values: Any) -> str:  # noqa: ANN401
    """Return a key to compare two documents by: NaN equals NaN, 1 differs from True."""

    def simple(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Decimal):
            return int(value) if "." not in f"{value:f}" else float(value)
        if isinstance(value, Mapping):
            return {key: simple(item) for key, item in value.items()}
        return [simple(item) for item in value] if isinstance(value, list) else value

    return str(sorted((str(key), _dump(simple(value))) for key, value in values.items()))


def _edited(block: str, before: Mapping[str, Any], changes: Mapping[str, Any], end: str) -> str:
    """Return the block with the changes; values that stay keep their bytes, at any depth, where YAML lets them."""
    yaml = _yaml()
    root = yaml.compose(block, Loader=yaml.SafeLoader)
    if root is None:
        return block + ("" if not block or block[-1] in "\r\n" else end) + _dump(changes, end).rstrip("\r\n")
    after = {**before, **changes}
    # Behind a last value of several lines a new key can change that value (its final line break): then it goes before.
    for nested, at_the_end in ((True, True), (True, False), (False, True), (False, False)):
        edited = block
        edits = _edits(block, root, before, after, end, nested=nested)
        if not at_the_end and not root.flow_style:
            kept = {name: value for name, value in after.items() if name in before}
            edits = _edits(block, root, before, kept, end, nested=nested)
            place, column = root.value[-1][0].start_mark, root.start_mark.column
            start = place.index - (place.column - column)
            lines = _dump({name: value for name, value in after.items() if name not in before}).splitlines()
            edits.append((start, start, "".join(f"{line}{end}{' ' * column}" for line in lines)))
        for begin, stop, text in sorted(edits, reverse=True):
            edited = edited[:begin] + text + edited[stop:]
        try:
            if _written(yaml.safe_load(edited)) == _written(after):
                break
        except (yaml.YAMLError, TypeError, ValueError):  # an anchor or a tag stood where it was changed
            continue
    return edited


def _edits(block: str, node: Any, before: Any, after: Any, end: str, *, nested: bool) -> list[Edit]:  # noqa: ANN401
    """Return the edits that turn the value of a YAML node into another.

    Args:
        block: the YAML.
        node: PyYAML's node of the value.
        before: the value.
        after: the value that is wanted.
        end: the line break.
        nested: change mappings and lists within a key part by part; else a key that changes is written anew as a whole.
    """
    in_block_style = not isinstance(node.value, str) and not node.flow_style
    if in_block_style and isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() <= after.keys():
        return _edits_of_mapping(block, node, before, after, end, nested=nested)
    if in_block_style and isinstance(before, list) and isinstance(after, list) and 0 < len(before) <= len(after):
        pairs = zip(node.value, before, after, strict=False)
        edits = [
            edit
            for child, old, new in pairs
            if not _same(old, new)
            for edit in _edits(block, child, old, new, end, nested=nested)
        ]
        if len(after) > len(before):
            edits.append(_appended(block, node, _dump(after[len(before) :]), node.start_mark.column, end))
        return edits
    if nested and not isinstance(node.value, str) and node.flow_style and node.value:
        inside = _edits_in_line(block, node, before, after, end)
        if inside is not None:
            return inside
    start = node.start_mark.index
    if start == 0 and isinstance(after, Mapping) and node.flow_style:  # {}, as the hub's template has it
        return [(start, node.end_mark.index, _dump(after, end).rstrip("\r\n"))]
    return [(start, _end(block, start, node.end_mark.index), _inline(after))]


def _edits_in_line(block: str, node: Any, before: Any, after: Any, end: str) -> list[Edit] | None:  # noqa: ANN401
    """Return the edits of a list or mapping in flow style that keeps all it has; None where it does not."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(node.value) <= len(after):
        pairs = list(zip(node.value, before, after, strict=False))
        added: Any = after[len(before) :]
        last = node.value[-1]
    elif isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() <= after.keys():
        nodes = {key.value: child for key, child in node.value}
        pairs = [(nodes[str(name)], before[name], after[name]) for name in before if str(name) in nodes]
        added = {name: value for name, value in after.items() if name not in before}
        last = node.value[-1][1]
    else:
        return None
    edits = [
        edit
        for child, old, new in pairs
        if not _same(old, new)
        for edit in _edits(block, child, old, new, end, nested=True)
    ]
    if added:
        # Right behind the last entry, before a comment; where that is an alias, its node is elsewhere.
        inside = node.start_mark.index < last.start_mark.index and last.end_mark.index < node.end_mark.index
        stop = last.end_mark.index if inside else len(block[: node.end_mark.index - 1].rstrip(" \t\r\n,"))
        edits.append((stop, stop, f", {_dump(added, flow=True).strip()[1:-1]}"))
    return edits


def _edits_of_mapping(
    block: str,
    node: Any,  # noqa: ANN401
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    end: str,
    *,
    nested: bool,
) -> list[Edit]:
    """Return the edits of a mapping in block style: of the values that change, and of the keys that are new."""
    nodes = {key.value: (key, child) for key, child in node.value}
    edits: list[Edit] = []
    for name in before:
        if str(name) not in nodes or _same(before[name], after[name]):
            continue
        key, child = nodes[str(name)]
        alias = re.compile(r"[\"']?[ \t]*:[ \t]+(\*[^\s,]+)").match(block, key.end_mark.index)
        if nested and alias:  # the value itself stands elsewhere, and stays
            edits.append((alias.start(1), alias.end(1), _inline(after[name])))
        elif nested:
            edits += _edits(block, child, before[name], after[name], end, nested=True)
        else:
            text = _dump({name: after[name]}, end).rstrip("\r\n")
            edits.append((key.start_mark.index, _end(block, key.start_mark.index, child.end_mark.index), text))
    added = {name: value for name, value in after.items() if name not in before}
    if added:
        column = node.start_mark.column if node.value else 0
        edits.append(_appended(block, node, _dump(added), column, end))
    return edits


def _same(first: Any, second: Any) -> bool:  # noqa: ANN401
    return _written({"": first}) == _written({"": second})


def _appended(block: str, node: Any, text: str, column: int, end: str) -> Edit:  # noqa: ANN401
    """Return the edit that puts lines behind a block collection, at its column."""
    stop = _end(block, node.start_mark.index, node.end_mark.index)
    newline = re.compile(NEWLINE).search(block, stop)  # behind a comment on the last line
    stop = newline.start() if newline is not None else len(block)
    return stop, stop, "".join(f"{end}{' ' * column if line else ''}{line}" for line in text.splitlines())


def _inline(value: Any) -> str:  # noqa: ANN401
    """Write a value on one line, to stand in the place of another."""
    if isinstance(value, Mapping | list):
        return _dump(value, flow=True).strip()
    return _dump([value], flow=True).strip()[1:-1]


def _end(block: str, start: int, stop: int) -> int:
    """Return where a value really ends: PyYAML counts the comments and blank lines behind a collection to it."""
    lines = block[start:stop].splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return start + len("".join(lines).rstrip("\r\n"))
