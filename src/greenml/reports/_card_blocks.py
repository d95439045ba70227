"""Blocks of YAML and JSON within Markdown, whatever their values hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*\Z")
_NOT_TEXT = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "infinity"})
# What a reader of YAML or Markdown may take for a line's end, what turns a text's direction around, and halves of
# characters, which UTF-8 has not.
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def yaml(values: Mapping[str, Any]) -> str:
    """Return a fenced block of YAML, a line a value; numbers as they were given, what is not plain as JSON has it.

    JSON's scalars, lists and objects are YAML 1.2.
    """
    return fenced("\n".join(f"{_scalar(str(key))}: {_scalar(value)}" for key, value in values.items()), "yaml")


def document(values: Any) -> str:  # noqa: ANN401
    """Return a fenced block of JSON."""
    return fenced(_json(values, indent=2), "json")


def fenced(text: str, language: str) -> str:
    """Put a text between fences that none of its own can close."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code(text: str) -> str:
    """Write a word as code within a line."""
    flat = " ".join(text.split())
    ticks = "`" * (max((len(found) for found in re.findall(r"`+", flat)), default=0) + 1)
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{space}{flat}{space}{ticks}"


def _scalar(value: Any) -> str:  # noqa: ANN401
    plain = isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _NOT_TEXT
    return str(value) if plain else _json(value)


def _json(value: Any, indent: int | None = None) -> str:  # noqa: ANN401
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
