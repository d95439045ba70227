"""A terminal that a view has for itself, and gives back as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

try:
    import termios
    import tty
except ImportError:  # Windows: lines in place of a view
    termios = tty = None  # type: ignore[assignment]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT", "SIGWINCH")
_LEAVING = {"q": 0, "Q": 0, "\x04": 0}
View = Callable[[int, int], Sequence[Text]]


def usable() -> bool:
    """Tell whether there is a terminal in the foreground that can show a view."""
    if termios is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return False
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def stopped() -> None:
    """Stop this process as Ctrl-Z does, and come back when it goes on."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, before)


class Signals:
    """Signals as bytes on a pipe, to be waited for together with keys; the handlers from before come back.

    What was ignored from the start (``nohup``) stays so.
    """

    def __init__(self, *names: str) -> None:
        self._names = [name for name in names if hasattr(signal, name)]
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.pipe, self._written = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(self._written, False)
        self._wakeup = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        for name in self._names:
            number = getattr(signal, name)
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self.heard)
        return self

    def heard(self, number: int, _: FrameType | None) -> None:
        """Do nothing: the byte in the pipe says it."""

    def read(self) -> list[int]:
        """Return the numbers of the signals that came."""
        try:
            return list(os.read(self.pipe, 512))
        except BlockingIOError:
            return []

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.pipe)
        os.close(self._written)


class Screen:
    """The whole terminal: alternate screen, no cursor, keys unseen. Left by q, Ctrl-C, a signal or ``with``'s end.

    Attributes:
        code: what to exit with, once it was left by a key or a signal.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._signals = Signals(*_SIGNALS)
        self._live: Live | None = None
        self._keys: int | None = None
        self._before: list[Any] | None = None

    def __enter__(self) -> Screen:
        self._signals.__enter__()
        try:
            self._open()
        except BaseException:
            self._signals.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            with contextlib.suppress(OSError):  # the terminal was closed
                self._close()
        finally:
            self._signals.__exit__()

    def _open(self) -> None:
        if sys.stdin.isatty():
            self._keys = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSADRAIN)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def _close(self) -> None:
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:
            if self._keys is not None and self._before is not None:
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def draw(self, view: View) -> None:
        """Show a view, made for the terminal's size of now."""
        if self._live is not None:
            width, height = os.get_terminal_size(sys.stdout.fileno())
            width, height = width or 80, height or 24  # a serial line does not know
            self._console.size = ConsoleDimensions(width, height)  # not what COLUMNS was when the shell started this
            self._live.update(Group(*view(width, height)), refresh=True)

    def wait(self, seconds: float) -> bool:
        """Wait for a time, a key, or a new size; False where the view is to be left."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            wanted = [self._signals.pipe] + ([self._keys] if self._keys is not None else [])
            ready, _, _ = select.select(wanted, [], [], left)
            heard = self._signals.read() if self._signals.pipe in ready else []
            if self._keys in ready:
                self._key()
            for number in heard:
                self._signal(number)
            if self.code is not None:
                return False
            if heard:
                break
        return True

    def _key(self) -> None:
        assert self._keys is not None  # noqa: S101  it was waited for
        try:
            text = os.read(self._keys, 64).decode(errors="replace")
        except OSError:
            text = ""
        if not text:  # the terminal was closed: what is written next will tell
            self._keys = None
        for key in text:
            self.code = _LEAVING.get(key, self.code)

    def _signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if name == "SIGTSTP":
            self._close()
            stopped()
            self._open()
        elif name not in ("SIGWINCH", "SIGCONT"):
            self.code = 128 + number
