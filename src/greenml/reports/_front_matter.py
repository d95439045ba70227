"""The YAML at the head of a model card, changed key by key: what does not change keeps its bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from typing import Any

from greenml.errors import SettingsError

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
    found = _EMPTY.match(card) or _BLOCK.match(card)
    if found is None:
        mark = "\ufeff" if card.startswith("\ufeff") else ""
        return Split(mark, None, card[len(mark) :])
    return Split(found[1], found[2], card[found.start(3) :])


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
        told = yaml.safe_load(block)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 2}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise SettingsError(f"the metadata at its head is not YAML{where}: {problem}") from None
    except (TypeError, ValueError) as error:  # a key that cannot be one, a date of month 13
        raise SettingsError(f"the metadata at its head does not load: {error}") from None
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise SettingsError(f"the metadata at its head is not a mapping of keys to values but a {type(told).__name__}")
    return told


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


def _dump(values: Any, end: str = "\n") -> str:  # noqa: ANN401
    """Write YAML in block style, a value a line, without anchors."""
    yaml = _yaml()
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})

    def exact(writer: Any, value: Decimal) -> Any:  # noqa: ANN401
        digits = f"{value:f}"
        return writer.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in digits else 'int'}", digits)

    dumper.add_representer(Decimal, exact)
    wide = float("inf")
    return str(yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True, width=wide, line_break=end))


def _written(values: Any) -> str:  # noqa: ANN401
    """Return what tells two documents apart: not-a-number is like itself, 1 is not True."""

    def simple(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Decimal):
            return int(value) if "." not in f"{value:f}" else float(value)
        if isinstance(value, Mapping):
            return {key: simple(one) for key, one in value.items()}
        return [simple(one) for one in value] if isinstance(value, list) else value

    return str(sorted((str(key), _dump(simple(value))) for key, value in values.items()))


def _edited(block: str, before: Mapping[str, Any], changes: Mapping[str, Any], end: str) -> str:
    yaml = _yaml()
    root = yaml.compose(block, Loader=yaml.SafeLoader)
    if root is not None and root.flow_style:  # {}, as the hub's template has it
        whole = _dump({**before, **changes}, end).rstrip("\r\n")
        return block[: root.start_mark.index] + whole + block[root.end_mark.index :]
    pairs = {key.value: (key, value) for key, value in root.value} if root is not None else {}
    new = {key: value for key, value in changes.items() if key not in pairs}
    edits = [_edit(block, pairs[key], before[key], value, end) for key, value in changes.items() if key in pairs]
    for start, stop, text in sorted(edits, reverse=True):
        block = block[:start] + text + block[stop:]
    if new:
        space = "" if not block or block[-1] in "\r\n" else end
        block += space + _dump(new, end).rstrip("\r\n")
    return block


def _edit(block: str, pair: tuple[Any, Any], before: Any, after: Any, end: str) -> tuple[int, int, str]:  # noqa: ANN401
    """Return what to put in place of what: a list that grew gets lines, anything else is written anew."""
    key, value = pair
    grew = isinstance(before, list) and isinstance(after, list) and before and after[: len(before)] == before
    if grew and not value.flow_style:
        last = value.value[-1]
        stop = _end(block, last.start_mark.index, last.end_mark.index)
        newline = re.compile(NEWLINE).search(block, stop)  # behind a comment on the last item's line
        stop = newline.start() if newline is not None else len(block)
        indent = " " * value.start_mark.column
        return stop, stop, "".join(f"{end}{indent}{line}" for line in _dump(after[len(before) :]).splitlines())
    text = _dump({key.value: after}, end).rstrip("\r\n")
    return key.start_mark.index, _end(block, key.start_mark.index, value.end_mark.index), text


def _end(block: str, start: int, stop: int) -> int:
    """Return where a value really ends: PyYAML counts the comments and blank lines behind a collection to it."""
    lines = block[start:stop].splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return start + len("".join(lines).rstrip("\r\n"))
