"""``greenml run --live``: what a command uses, shown while it runs, without touching what it writes."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from greenml.cli._live_view import lines, one_line
from greenml.cli._screen import Signals, stopped, usable
from greenml.cli._watching import Watched

DRAW_SECONDS = 1.0
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 2.0  # by then there is something to tell


class LiveCommand:
    """The view of a command that is about to start.

    On a terminal the view stands in its last lines, and what the command writes goes above it. Elsewhere a line a
    minute goes to the standard error.

    Args:
        run_dir: of the run that measures the command.
    """

    def __init__(self, run_dir: Path) -> None:
        self._watched = Watched(run_dir)
        self._terminal: Any = None
        if usable() and sys.platform != "win32":
            from greenml.cli._pinned import CommandTerminal

            self._terminal = CommandTerminal(sys.stdout.fileno())

    def streams(self) -> dict[str, Any]:
        """Return what the command's standard output and error are to be, for ``subprocess``."""
        if self._terminal is None:
            return {}
        return {"stdout": self._terminal.slave} | ({"stderr": self._terminal.slave} if sys.stderr.isatty() else {})

    def wait(self, child: subprocess.Popen[bytes]) -> int:
        """Show the view until the command ends, and return its exit code."""
        if self._terminal is not None:
            return self._pinned(child)
        with _lines(self._watched):
            return child.wait()

    def close(self) -> None:
        """Close the command's terminal."""
        if self._terminal is not None:
            self._terminal.close()

    def _pinned(self, child: subprocess.Popen[bytes]) -> int:
        from greenml.cli import _pinned

        terminal = self._terminal
        terminal.close_slave()
        sys.stdout.flush()

        def sized(columns: int, height: int) -> None:
            terminal.size(columns, height)
            with contextlib.suppress(OSError):
                child.send_signal(_pinned.RESIZED)

        with (
            Signals("SIGCHLD", "SIGWINCH", "SIGTSTP") as signals,
            _pinned.Pinned(sys.stdout.fileno(), self._view, sized) as pinned,
        ):
            due, writes = 0.0, True
            while child.poll() is None:
                wanted = [signals.pipe] + ([terminal.descriptor] if writes else [])
                ready, _, _ = select.select(wanted, [], [], max(0.0, due - time.monotonic()))
                if terminal.descriptor in ready:
                    data = terminal.read()
                    writes = data is not None
                    pinned.pass_on(data or b"")
                heard = signals.read() if signals.pipe in ready else []
                if _pinned.SUSPENDED in heard:
                    pinned.leave()
                    stopped()
                if time.monotonic() >= due or {_pinned.SUSPENDED, _pinned.RESIZED} & set(heard):
                    pinned.draw()
                    due = time.monotonic() + DRAW_SECONDS
            if writes:
                _pinned.drain(terminal, pinned.pass_on)
        return child.wait()

    def _view(self, width: int, height: int) -> list[Text]:
        try:
            now, frame = self._watched.now(), self._watched.frame()
            rule = Text(("-" if frame.ascii_only else "─") * width, "dim")
            return [rule, *lines(now, frame, width, height - 1)]
        except Exception as error:  # noqa: BLE001  no fault of the view may end the command, or its measurement
            return [Text(f" greenml: no view: {type(error).__name__}: {error}", "red", no_wrap=True, end="")]


@contextmanager
def _lines(watched: Watched) -> Iterator[None]:
    """Print a line a minute to the standard error meanwhile."""
    done = threading.Event()

    def go_on() -> None:
        seconds = FIRST_LINE_SECONDS
        while not done.wait(seconds):
            with contextlib.suppress(OSError):
                click.echo(one_line(watched.now(), watched.frame()), err=True)
            seconds = LINE_SECONDS

    thread = threading.Thread(target=go_on, name="greenml-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1.0)
