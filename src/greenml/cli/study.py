"""``greenml study``: a command over variants and seeds, compared. Its commands lie in ``cli/_study/``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

# In the order in which a person meets them; a file that is not named here follows.
FIRST = ("plan", "run", "collect", "report")


class _Commands(click.Group):
    """A group whose commands are the files of ``cli/_study/``, each with ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands: those that are named first, then the rest."""
        there = sorted(path.stem for path in (Path(__file__).parent / "_study").glob("*.py") if path.stem[0] != "_")
        return [*(name for name in FIRST if name in there), *(name for name in there if name not in FIRST)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"greenml.cli._study.{cmd_name}").command
        return command


@click.group("study", cls=_Commands)
def command() -> None:
    """Run a command over variants and seeds, and compare them.

    A study file (docs/study.md) has the command, what each variant changes, and the seeds.
    """
