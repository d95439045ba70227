"""Tables and lists in Markdown, of text from anywhere."""

from __future__ import annotations

from greenml import printable

Row = tuple[str, str]


def escape(text: str) -> str:
    """Make text safe for one cell or one line of Markdown."""
    flat = printable.line(text)
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def table(rows: list[Row]) -> str:
    """Write rows under the heads ``key`` and ``value``."""
    lines = ["| key | value |", "| --- | ----- |"]
    return "\n".join(lines + [f"| {escape(key)} | {escape(value)} |" for key, value in rows])


def bullets(lines: list[str]) -> str:
    """Write lines as a list."""
    return "\n".join(f"- {escape(line)}" for line in lines)
