"""The command line: one file a command, or two of one idea.

A user's mistake is one line and exit code 2, never a traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from typing import Any

import click

from greenml import redaction
from greenml.cli import _terminal
from greenml.errors import GreenMLError

# Command to its module: commands are imported when they are asked for, so that each starts fast. It is the module's
# ``command``, or the function behind the colon.
COMMANDS = {
    "run": "run",
    "watch": "watch",
    "serve-watch": "serve_watch",
    "bench-serve": "bench_serve",
    "report": "report",
    "card": "card",
    "compare": "compare",
    "finish": "finish",
    "merge": "finish:merge",
    "disclose": "disclose",
    "send": "send",
    "import": "import_",
    "reconcile": "reconcile",
    "doctor": "doctor",
    "skus": "names",
    "prices": "prices",
    "regions": "names:regions",
    "what-if": "what_if",
    "estimate": "estimate",
    "advise": "advise",
    "study": "study",
}


class _Lazy(click.Group):
    """A group whose commands are in the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"greenml.cli.{module}"), function or "command")
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  as click has it
        """Run a command. That its output's reader has seen enough is no failure, as click takes it to be."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
            sys.exit(0)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="greenml", prog_name="greenml")
def group() -> None:
    """Measure what a training run used: energy, carbon, cost, and the model card's tables for them."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with the command's code."""
    _terminal.prepare()
    try:
        code = _run(arguments)
    except click.UsageError as error:
        hint = f"; see '{error.ctx.command_path} --help'" if error.ctx is not None else ""
        _fail(f"{error.format_message().rstrip('.')}{hint}")
    except click.ClickException as error:
        _fail(error.format_message())
    except click.Abort:
        sys.exit(130)
    except GreenMLError as error:
        _fail(str(error))
    except OSError as error:  # what else fails is the output's: a full disk, a terminal that is gone
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        if isinstance(error, BrokenPipeError):  # of a help text
            sys.exit(0)
        _fail(f"cannot be written: {error.strerror or error}")
    sys.exit(code if isinstance(code, int) else 0)


def _run(arguments: list[str] | None) -> object:
    try:
        return group.main(arguments, standalone_mode=False, prog_name="greenml")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0


def _fail(text: str) -> None:
    click.echo(f"greenml: {redaction.printable_line(redaction.redact_text(text))}", err=True)
    sys.exit(2)
