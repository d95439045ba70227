"""Text as a terminal or a page may show it: without characters that steer a terminal or are none."""

from __future__ import annotations


def lines(text: str) -> str:
    """Return a text with its line breaks, and spaces for what would steer a terminal: escapes, bells, turned text.

    Halves of characters, which UTF-8 has not, become spaces too.
    """
    return "\n".join(map(_clean, text.split("\n")))


def line(text: str) -> str:
    """Return a text on one line, without what would steer a terminal."""
    return " ".join(_clean(text).split())


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)
