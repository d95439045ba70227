"""Reports that are files: the HTML page and the picture."""

from __future__ import annotations

from pathlib import Path

import click

from greenml.errors import RecordError, SettingsError
from greenml.record import RunRecord

PICTURES = ("png", "svg")


def check(plot: Path | None) -> None:
    """Check a picture's name before anything is read.

    Raises:
        SettingsError: its suffix is none that can be drawn.
    """
    if plot is not None and plot.suffix.lower().lstrip(".") not in PICTURES:
        raise SettingsError(f"--plot {plot}: the name decides the format and must end in .png or .svg")


def write(record: RunRecord, page: Path | None, plot: Path | None) -> bool:
    """Write the page and the picture that were asked for; return whether any was.

    Raises:
        RecordError: a file cannot be written.
        SettingsError: what draws it is not installed.
    """
    if page is not None:
        from greenml.reports import html

        _save(page, html.render(record).encode("utf-8"))
    if plot is not None:
        from greenml.reports import _picture

        _save(plot, _picture.draw(record, "svg" if plot.suffix.lower() == ".svg" else "png"))
    return page is not None or plot is not None


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from None
    click.echo(f"{path}: written")
