"""Tables on a terminal, or plain where the output goes elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def show(table: Table) -> None:
    """Print a table; wide enough to be searched with grep where it is no terminal."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)
