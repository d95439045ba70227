"""A view that stays at the bottom of a terminal while a command writes above it, as it likes.

The command's bytes go to the terminal as they are. The terminal's scrolling region (DECSTBM) keeps them out of the
last lines, and the command's own terminal is as much smaller. So colours, progress bars and long lines work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.text import Text

MOST_RATIO = 0.5  # of the terminal's lines may be the view's
FEWEST_LINES = 12  # a terminal with fewer has none to spare
RESIZED, SUSPENDED = int(signal.SIGWINCH), int(signal.SIGTSTP)
_HELD_BYTES = 4096  # no sequence is longer
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])")
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]P^_X][^\x07\x1b]*\x1b?|[ -/]*)\Z")
View = Callable[[int, int], Sequence[Text]]


def whole(data: bytes) -> int:
    """Return how many bytes end before an escape sequence or a character that goes on in what comes next."""
    at = data.find(b"\x1b", max(0, len(data) - _HELD_BYTES))
    while at >= 0:
        sequence = _SEQUENCE.match(data, at)
        if sequence is None and _BEGUN.match(data, at):
            return at
        at = data.find(b"\x1b", sequence.end() if sequence is not None else at + 1)
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:  # begins a character of several bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if back < length else len(data)
        if byte & 0x80 == 0:
            break
    return len(data)


class Pinned:
    """The terminal's last lines. Where the terminal is closed meanwhile, nothing is shown from then on.

    Args:
        descriptor: of the terminal.
        view: what stands there, for a width and a height.
        sized: called with the columns and lines that are left for the command.
    """

    def __init__(self, descriptor: int, view: View, sized: Callable[[int, int], None]) -> None:
        self._out, self._view, self._sized = descriptor, view, sized
        self._lines = self._width = self._height = 0
        self._held, self._gone = b"", False

    def __enter__(self) -> Pinned:
        self.draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.pass_on(b"", last=True)
        self.leave()

    def pass_on(self, data: bytes, *, last: bool = False) -> None:
        """Write what the command wrote; what is cut off in the middle waits for its rest."""
        data = self._held + data
        end = len(data) if last else whole(data)
        data, self._held = data[:end], data[end:]
        self._write(data)

    def draw(self) -> None:
        """Draw the view as it is now, for the size that the terminal has now."""
        try:
            width, height = os.get_terminal_size(self._out)
        except OSError:
            self._gone = True
        if self._gone:
            return
        lines = list(self._view(width, int(height * MOST_RATIO))) if height >= FEWEST_LINES else []
        if (width, height) != (self._width, self._height) or len(lines) > self._lines:
            self.leave()
            self._width, self._height, self._lines = width, height, len(lines)
            # Room below the cursor, without leaving its column; then nothing of an older view.
            self._write(b"\x1bD" * self._lines + (b"\x1b[%dA" % self._lines if self._lines else b"") + b"\x1b[J")
            self._sized(width, height - self._lines)
        if not self._lines:
            return
        lines = [Text()] * (self._lines - len(lines)) + lines
        text = "\x1b7\x1b[0m"
        for at, line in enumerate(_rendered(lines, width)):
            text += f"\x1b[{height - self._lines + 1 + at};1H\x1b[2K{line}"
        # The command may have reset the region; setting it moves the cursor, so it stands between save and restore.
        text += f"\x1b[1;{height - self._lines}r\x1b8"
        self._write(text.encode(errors="replace"))

    def leave(self) -> None:
        """Give the lines back, empty."""
        if self._lines:
            self._lines = self._width = 0
            self._write(b"\x1b7\x1b[r\x1b8\x1b[J")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._gone:
            try:
                view = view[os.write(self._out, view) :]
            except BlockingIOError:  # somebody made it non-blocking
                select.select([], [self._out], [])
            except OSError:
                self._gone = True


def _rendered(lines: Sequence[Text], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False, legacy_windows=False)
    with console.capture() as capture:
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop", soft_wrap=True)
    return capture.get().split("\n")[: len(lines)]


class CommandTerminal:
    """A terminal of the command's own, in place of ours: it still sees one, and we see what it writes."""

    def __init__(self, like: int) -> None:
        self.descriptor, self.slave = os.openpty()
        settings = termios.tcgetattr(like)
        settings[1] &= ~termios.OPOST  # our own terminal does that
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)

    def size(self, columns: int, lines: int) -> None:
        """Tell the command how much room it has."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", max(1, lines), columns, 0, 0))

    def read(self) -> bytes | None:
        """Return what was written; None where nobody can write any more."""
        try:
            return os.read(self.descriptor, 65536) or None
        except OSError as error:
            if error.errno == errno.EIO:
                return None
            raise

    def close_slave(self) -> None:
        """Leave the command's side to the command."""
        if self.slave >= 0:
            slave, self.slave = self.slave, -1
            os.close(slave)

    def close(self) -> None:
        """Close what is still open here."""
        self.close_slave()
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


def drain(terminal: CommandTerminal, pass_on: Callable[[bytes], None], quiet_seconds: float = 0.1) -> None:
    """Pass on what is left after the command ended; a child of it that still writes is waited for no longer."""
    end = time.monotonic() + 2.0
    while time.monotonic() < end and select.select([terminal.descriptor], [], [], quiet_seconds)[0]:
        data = terminal.read()
        if data is None:
            return
        pass_on(data)
