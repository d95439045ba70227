"""Tables on a terminal, or plain where the output goes elsewhere."""

from __future__ import annotations

import io
import sys

import click
from rich.console import Console
from rich.table import Table

from greenml.cli import _color


def show(table: Table, plain_width: int = 160) -> None:
    """Print a table; wide enough to be searched with grep where it is no terminal.

    Through click as all else is: an encoding that cannot hold a sign, or a reader that has gone, ends no command.
    """
    stream = io.StringIO()
    terminal = sys.stdout.isatty()
    width = Console().width if terminal else plain_width
    Console(file=stream, width=width, force_terminal=_color.wanted(sys.stdout)).print(table)
    click.echo("\n".join(line.rstrip() for line in stream.getvalue().splitlines()))
