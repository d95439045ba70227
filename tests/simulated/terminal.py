"""A terminal of our own: a real pseudo-terminal, and pyte in place of eyes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

ALTERNATE_SCREEN = 1049 << 5  # as pyte keeps a private mode
PATIENCE_SECONDS = 90.0


class Terminal:
    """A command on a terminal that it controls."""

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], columns: int = 100, lines: int = 30
    ) -> None:
        self.master, self.slave = os.openpty()
        self.screen = pyte.HistoryScreen(columns, lines, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self._size(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.raw = b""

        def controlling() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command, cwd=cwd, env={**env, "TERM": "xterm-256color"}, stdin=self.slave, stdout=self.slave,
            stderr=self.slave, start_new_session=True, preexec_fn=controlling,  # noqa: PLW1509  no threads here
        )  # fmt: skip

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Resize the window, as a person does with its corner."""
        self.screen.resize(lines, columns)
        self._size(columns, lines)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def look(self, seconds: float = 0.05) -> list[str]:
        """Take in what was written, and return what the screen shows."""
        while select.select([self.master], [], [], seconds)[0]:
            data = os.read(self.master, 65536)
            self.raw += data
            self._stream.feed(data)
            seconds = 0.0
        return [line.rstrip() for line in self.screen.display]

    def until(self, seen: Callable[[str], object], what: str = "") -> str:
        """Look until the screen shows it; the limit is only there so that a fault ends the test."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            text = "\n".join(self.look())
            if seen(text):
                return text
        raise AssertionError(f"never seen: {what or seen}\n{text}")

    def ended(self) -> int:
        """Wait for the command's end, and return its exit code."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            self.look()
        code = self.process.wait(1)
        self.look()
        return code

    @property
    def text(self) -> str:
        """All that was ever on the screen and is not hidden: what scrolled away, then what is shown."""
        gone = ["".join(line[at].data for at in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*gone, *self.screen.display])

    def clean(self) -> bool:
        """Tell whether the terminal is as it was: its settings, its cursor, its screen, its scrolling region."""
        margins = self.screen.margins
        return (
            termios.tcgetattr(self.slave) == self.before
            and not self.screen.cursor.hidden
            and ALTERNATE_SCREEN not in self.screen.mode
            and (margins is None or (margins.top, margins.bottom) == (0, self.screen.lines - 1))
        )

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)
