"""Standard output: its encoding, its colours, its width, and tables that fit it."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_WIDTH = 160  # of a table that goes to a file or a pipe: wide enough to be searched with grep
ERRORS = "greenml.transliterate"
ASCII = "greenml_ascii"
# Signs that greenml and the texts in its tables use, and what stands for them where an encoding has not got them.
SIGNS = {
    "\u00b1": "+/-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2011": "-", "\u2026": "...", "\u00b7": "-",
    "\u2022": "*", "\u203a": ">", "\u2039": "<", "\u00bb": ">>", "\u00ab": "<<", "\u2192": "->", "\u2190": "<-",
    "\u21d2": "=>", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2248": "~", "\u00d7": "x", "\u00f7": "/",
    "\u00b5": "u", "\u03bc": "u", "\u00b0": " deg", "\u2018": "'", "\u2019": "'", "\u201c": "\"", "\u201d": "\"",
    "\u201e": "\"", "\u20ac": "EUR", "\u00a3": "GBP", "\u221a": "sqrt", "\u03a3": "sum", "\u2713": "ok",
    "\u2714": "ok", "\u2717": "x", "\u2718": "x", "\u00df": "ss", "\u00e6": "ae", "\u00f8": "o", "\u0153": "oe",
    "\u0142": "l", "\u00c6": "AE", "\u00d8": "O", "\u0152": "OE", "\u0141": "L", "\u0111": "d", "\u00f0": "d",
    "\u00fe": "th", "\u0131": "i", "\u00a9": "(c)", "\u00ae": "(R)", "\u2122": "(TM)", "\u00a7": "section ",
    "\u2501": "#", "\u2578": "-", "\u2500": "-", "\u2502": "|", "\u250c": "+", "\u2510": "+", "\u2514": "+",
    "\u2518": "+", "\u251c": "+", "\u2524": "+", "\u252c": "+", "\u2534": "+", "\u253c": "+", "\u2550": "=",
    "\u2551": "|", "\u2588": "#", "\u258f": "|", "\u2581": "_", "\u200b": "", "\u2060": "", "\ufeff": "",
}  # fmt: skip


def prepare() -> None:
    """Make standard output and error hold any text: what their encoding has no sign for is written with other signs."""
    codecs.register_error(ERRORS, _transliterated)
    codecs.register(_ascii)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this program, as ">&-" does
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  to the end
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is None:
            continue
        # click takes a stream whose encoding is called ascii for one that was meant to be UTF-8.
        encoding = ASCII if codecs.lookup(stream.encoding).name == "ascii" else None
        with contextlib.suppress(ValueError, OSError):  # closed already
            reconfigure(encoding=encoding, errors=ERRORS)


def _transliterated(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(sign: str) -> str:
    """Return a sign in ASCII; a question mark where there is nothing like it."""
    if sign in SIGNS:
        return SIGNS[sign]
    parts = unicodedata.normalize("NFKD", sign)
    return "".join(SIGNS.get(part, part) for part in parts if part.isascii() or part in SIGNS) or (
        "" if unicodedata.combining(sign) else "?"
    )


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name != ASCII:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode, known.decode, known.streamreader, known.streamwriter, known.incrementalencoder,
        known.incrementaldecoder, name=ASCII,
    )  # fmt: skip


def is_unicode(stream: TextIO | None = None) -> bool:
    """Tell whether a stream, standard output by default, can hold any sign."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return encoding.lower().startswith("utf")


def echo_json(text: str) -> None:
    """Print JSON; in an encoding that cannot hold all signs, with those beyond ASCII escaped, so that none is lost."""
    if not is_unicode():
        text = "".join(sign if sign.isascii() else _escaped(sign) for sign in text)
    click.echo(text, nl=not text.endswith("\n"))


def _escaped(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def has_colors(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal whose person wants colours.

    Source: https://no-color.org (set and not empty: no colours).
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(most: int, stream: TextIO | None = None) -> int:
    """Return the columns for a text: the terminal's, at most ``most``; 100 where ``stream`` is given and is none."""
    if stream is not None and not stream.isatty():
        return min(100, most)
    return min(shutil.get_terminal_size((100, 24)).columns, most)


def height(stream: TextIO) -> int | None:
    """Return the lines that a text may have to be seen whole, a prompt and a last line below it; None: no terminal."""
    return shutil.get_terminal_size((100, 24)).lines - 2 if stream.isatty() else None


def show(table: Table, plain_width: int = PLAIN_WIDTH) -> None:
    """Print a table: as wide as the terminal, long cells in several lines; elsewhere ``plain_width`` columns."""
    from rich.console import Console

    stream = io.StringIO()
    columns = Console().width if sys.stdout.isatty() else plain_width
    Console(file=stream, width=columns, force_terminal=has_colors(sys.stdout)).print(table)
    click.echo("\n".join(line.rstrip() for line in stream.getvalue().splitlines()))
