"""``greenml watch``: shows a run in progress, whoever started it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from greenml.accounting.status import RunStatus
    from greenml.cli._live import Watched

LOOK_SECONDS = 1.0  # traces are written as often
GRACE_SECONDS = 5.0  # a launcher may start killed workers again
FOOT = "q or Ctrl-C leaves; the run goes on"


@click.command("watch")
@click.argument("path", metavar="[RUN.JSON]", required=False, type=click.Path(path_type=Path))
@click.option("--wait", "waits", is_flag=True, help="Wait until a run is going on there.")
@click.option(
    "--every",
    "every_seconds",
    type=click.FloatRange(min=0.1),
    default=60.0,
    metavar="SECONDS",
    help="Between lines, where this is no terminal; 60 by default.",
)
def command(path: Path | None, waits: bool, every_seconds: float) -> int:
    """Show a run while it goes on.

    RUN.JSON may also be a folder: the newest run in it is shown; the current folder by default. Only the run's traces
    are read, so the run notices nothing. Where the output is no terminal, a line is printed a minute.
    """
    from greenml.cli._live import Watched, find, usable
    from greenml.run import finish

    run_dir = _wait_for(path) if waits else find(path)
    watched = Watched(run_dir, FOOT)
    now = watched.now()
    if not now.processes:
        finish.make(run_dir)  # says why none of its traces can be read
    code = None
    if now.status == "running":
        code = _show(watched) if usable() else _print(watched, every_seconds)
    if code is None:
        click.echo(watched.last_words())
    return code or 0


def _wait_for(path: Path | None) -> Path:
    from greenml.cli._live import find, going_on
    from greenml.errors import RecordError

    is_announced = False
    while True:
        with contextlib.suppress(RecordError):
            run_dir = find(path)
            if going_on(run_dir):
                return run_dir
        if not is_announced:
            click.echo(f"greenml: waiting for a run at {(path or Path()).resolve()}; Ctrl-C stops", err=True)
            is_announced = True
        time.sleep(LOOK_SECONDS / 2)


class _Ending:
    """Tells when a run is over: one that was killed may be started again by its launcher."""

    def __init__(self) -> None:
        self._since: float | None = None

    def over(self, now: RunStatus) -> bool:
        if now.status != "killed":
            self._since = None
            return now.status != "running"
        self._since = self._since if self._since is not None else time.monotonic()
        return time.monotonic() - self._since >= GRACE_SECONDS


def _show(watched: Watched) -> int | None:
    """Show the view until the run ends (None), or it is left (the exit code)."""
    from greenml.cli._live import Screen
    from greenml.cli._live_view import lines

    ending = _Ending()
    try:
        with Screen() as screen:
            while True:
                now = watched.now()
                if ending.over(now):
                    return None
                frame = watched.frame()
                screen.draw(lambda width, height, now=now, frame=frame: lines(now, frame, width, height))  # type: ignore[misc]
                if not screen.wait(LOOK_SECONDS):
                    return screen.code
    except OSError:  # the terminal was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 129


def _print(watched: Watched, every_seconds: float) -> int | None:
    """Print lines until the run ends."""
    from greenml.cli._live_view import one_line

    ending, due = _Ending(), time.monotonic()
    while True:
        now = watched.now()
        if ending.over(now):
            return None
        if time.monotonic() >= due:
            click.echo(one_line(now, watched.frame()))
            due += every_seconds
        time.sleep(max(0.05, min(LOOK_SECONDS, due - time.monotonic())))
