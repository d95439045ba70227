"""``greenml run -- COMMAND``: a parent that measures from outside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from greenml.cli._options import assumed, intensity

if TYPE_CHECKING:
    from greenml.cli._live_command import LiveCommand

# What a terminal or a scheduler sends to the parent goes to the command.
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT")


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--output", type=click.Path(path_type=Path), help="Where the record goes; run.json by default.")
@click.option("--name", metavar="NAME", help="Of the run.")
@click.option("--gpus", metavar="LIST", help="'all' of the node, or a list: 0,1; those CUDA shows by default.")
@click.option("--interval", type=float, metavar="SECONDS", help="Between readings; what the sensors need by default.")
@click.option("--resume", is_flag=True, help="Add an attempt to the run that is at the output.")
@click.option("--quiet", is_flag=True, help="Print no report at the end.")
@click.option("--live", is_flag=True, help="Show meanwhile what it uses; where there is no terminal, a line a minute.")
@intensity
@assumed
@click.argument("words", metavar="-- COMMAND", nargs=-1, required=True, type=click.UNPROCESSED)
def command(words: tuple[str, ...], resume: bool, quiet: bool, live: bool, **told: Any) -> int:  # noqa: ANN401
    """Run COMMAND and measure it from outside.

    Its exit code is this one's. A tracker inside COMMAND (greenml.track, a callback) joins the same run and adds
    its phases and results.
    """
    from greenml import assumptions
    from greenml.run import Run
    from greenml.seats import RUN_DIR_VARIABLE
    from greenml.settings import resolve
    from greenml.surroundings import masked

    told["output"] = str(told["output"]) if told["output"] is not None else None
    settings = assumptions.check(resolve(told))
    run = Run(settings, resume=resume, watches=True, command=[Path(words[0]).name, *masked(list(words[1:]))])
    run.start()
    child_environment = {**os.environ, RUN_DIR_VARIABLE: str(run.run_dir.resolve())}
    view = _view(run.run_dir) if live else None
    try:
        child = subprocess.Popen(words, env=child_environment, **(view.streams() if view is not None else {}))
    except OSError as error:
        if view is not None:
            view.close()
        run.stop("failed", f"{words[0]}: {error.strerror}")
        click.echo(f"greenml: {words[0]}: {error.strerror}", err=True)
        return 127 if isinstance(error, FileNotFoundError) else 126
    code = _wait(child, view)
    if view is not None:
        view.close()
    status, text = ("completed", None) if code == 0 else ("failed", _why(code))
    if code == -signal.SIGINT:
        status = "interrupted"
    record = run.stop(status, text)
    if record is not None and not quiet:
        from greenml.cli import _color
        from greenml.reports import terminal

        click.echo(terminal.render(record, width=_width(), color=_color.wanted(sys.stderr)), nl=False, err=True)
    click.echo(f"greenml: {run.output}", err=True)
    return code if code >= 0 else 128 - code


def _view(run_dir: Path) -> LiveCommand:
    from greenml.cli._live_command import LiveCommand

    return LiveCommand(run_dir)


def _wait(child: subprocess.Popen[bytes], view: LiveCommand | None) -> int:
    """Wait for the command, handing on the signals that this process gets; survives them itself."""

    def hand_on(number: int, _: FrameType | None) -> None:
        # A terminal's Ctrl-C reached the command already: it is in the same process group.
        if not (number == signal.SIGINT and _foreground()):
            child.send_signal(number)

    before = {}
    for name in _PASSED_ON:
        if hasattr(signal, name):
            before[name] = signal.signal(getattr(signal, name), hand_on)
    try:
        return child.wait() if view is None else view.wait(child)
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120) if sys.stderr.isatty() else 100


def _foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
