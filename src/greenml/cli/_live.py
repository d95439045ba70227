"""Shows a run in progress: finds the run, draws the screen of ``watch`` and the view below a command's output."""

from __future__ import annotations

import codecs
import contextlib
import errno
import locale
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import click
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.text import Text

from greenml.accounting.status import RunStatus
from greenml.cli._live_view import Frame, lines, one_line, printable
from greenml.errors import RecordError
from greenml.record.schema import Factor, Factors, RunRecord
from greenml.reports import _format
from greenml.run import finish
from greenml.run.live import LiveRun
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths

try:
    import termios
    import tty
except ImportError:  # Windows: lines in place of a view
    termios = tty = None  # type: ignore[assignment]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT", "SIGWINCH")
_LEAVING = {"q": 0, "Q": 0, "\x04": 0}
View = Callable[[int, int], Sequence[RenderableType]]
DRAW_SECONDS = 1.0
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 2.0  # by then there is something to tell
MOST_RATIO = 0.5  # of the terminal's lines may be the view's
FEWEST_LINES = 12  # a terminal with fewer has none to spare
LONGEST_LINE = 65536
# Escape sequences but those of colours, and control characters: what would move the cursor out of the command's part.
_MOVES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-ln-~]|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
    r"|[\x00-\x08\x0b-\x0c\x0e-\x1a\x1c-\x1f\x7f]"
)


def find(path: Path | None) -> Path:
    """Return the run directory of a run.json, of a run directory itself, or of the newest run in a folder.

    A run that is going on goes before one that ended.

    Raises:
        RecordError: there is no trace; says where it was looked for.
    """
    path = path or Path()
    if path.is_dir():
        folders = [path] if trace_paths(path) else [folder for folder in path.glob("*.trace") if trace_paths(folder)]
        if folders:
            return max(folders, key=lambda folder: (going_on(folder), _began(folder)))
        looked = f"no run in {path.resolve()}: no folder *.trace in it"
    else:
        run_dir = run_dir_of(path)
        if trace_paths(run_dir):
            return run_dir
        if path.exists():
            raise RecordError(f"{path}: has no traces in {run_dir}; 'greenml report {path}' shows it")
        looked = f"no run at {path}: no traces in {run_dir}"
    raise RecordError(f"{looked}; name a run's run.json or folder, or wait for it with --wait")


def going_on(run_dir: Path) -> bool:
    """Tell whether a process of a run lives."""
    return any(trace_file.is_alive(path, header) for path, header in _headers(run_dir))


def _began(run_dir: Path) -> float:
    return max((float(header.get("unix_seconds", 0.0)) for _, header in _headers(run_dir)), default=0.0)


def _headers(run_dir: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    headers: list[tuple[Path, Mapping[str, Any]]] = []
    for path in trace_paths(run_dir):
        try:
            headers.append((path, trace_file.read_header(path)))
        except RecordError:
            continue  # of a process that has just made it
    return headers


class Watched:
    """A run that is looked at: its figures with the factors that its record will have.

    Args:
        run_dir: of the run.
        foot: how to leave the view.
    """

    def __init__(self, run_dir: Path, foot: str = "") -> None:
        self._run_dir, self._foot = run_dir, foot
        self._live = LiveRun(run_dir)

    def now(self) -> RunStatus:
        """Return the run at this moment."""
        return self._live.now()

    def frame(self) -> Frame:
        """Return what stands around the figures."""
        run = self._live
        encoding = getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding(False)
        return Frame(
            title=self._run_dir.with_suffix(".json").name,
            at=datetime.now().astimezone(),
            tier=run.settings.tier or str(run.place.get("tier") or ""),
            factors=_factors(run.factors, run.settings.intensity),
            foot=self._foot,
            ascii_only=not encoding.lower().replace("-", "").startswith("utf8"),
        )

    def last_words(self) -> str:
        """Return how the run ended and what it used, as its record has it."""
        output = self._run_dir.with_suffix(".json")
        try:
            record = finish.make(self._run_dir)
        except RecordError as error:
            return f"{output}: {error}"
        unwritten = record.status == "killed" and not output.exists()
        hint = (
            f"'greenml finish {output}' writes its record" if unwritten else f"'greenml report {output}' tells the rest"
        )
        return printable(f"{output}: {_summary(record)}; {hint}")


def _factors(factors: Factors, provider: str) -> str:
    """Name what energy is multiplied with, in a line; the record may take a provider's hours in place of it."""
    parts = []
    intensity, pue = factors.carbon_intensity, factors.pue
    if intensity is not None:
        hours = f", the year; the record takes the hours of {provider}" if provider else ""
        parts.append(f"{_format.number(intensity.value, 4)} g CO2e/kWh ({_factor_words(intensity)}{hours})")
    if pue is not None:
        parts.append(f"PUE {_format.number(pue.value, 3)} ({_factor_words(pue)})")
    if factors.prices:
        price = next(iter(factors.prices.values()))
        parts.append(f"price of {price.code}" if price.code else "price as given")
    return ", ".join(parts)


def _factor_words(factor: Factor) -> str:
    if factor.scope == "none":
        return "no figure for the place"
    words = factor.code or factor.scope.replace("_", " ")
    return f"{words}, assumed" if factor.assumed else words


def _summary(record: RunRecord) -> str:
    total = record.total()
    how = f"{record.status} ({record.error})" if record.error else record.status
    parts = [f"{how} after {_format.duration(record.duration_seconds)}"]
    if total is not None:
        for quantity, write in ((total.it_energy_joules, _format.energy), (total.emissions_grams, _format.mass)):
            parts.append(_format.figure(quantity, write))
        parts += [f"{_format.figure(usd, _format.money)} {_format.tier(name)}" for name, usd in total.cost_usd.items()]
    return ", ".join(parts)


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


def _console() -> Console:
    """Return a console on the standard output that writes everything where a signal cuts a write short.

    ``sys.stdout`` itself does not where Python is unbuffered.
    """
    out = sys.stdout
    stream = open(out.fileno(), "w", encoding=out.encoding, errors=out.errors, closefd=False)  # noqa: SIM115
    return Console(file=stream, highlight=False, markup=False, emoji=False)


class Screen:
    """The whole terminal: alternate screen, no cursor, keys unseen. Left by q, Ctrl-C, a signal or ``with``'s end.

    Attributes:
        code: what to exit with, once it was left by a key or a signal.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._console = _console()
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


class LiveCommand:
    """The view of a command that is about to start.

    On a terminal the command gets a terminal of its own, and what it writes there is printed above the view. Elsewhere
    the command keeps its output, and a line a minute goes to the standard error.

    Args:
        run_dir: of the run that measures the command.
    """

    def __init__(self, run_dir: Path) -> None:
        self._watched = Watched(run_dir)
        self._terminal = self._command_side = -1
        if usable() and sys.platform != "win32":
            self._terminal, self._command_side = os.openpty()
            self._resize()

    def streams(self) -> dict[str, Any]:
        """Return what the command's standard output and error are to be, for ``subprocess``."""
        if self._terminal < 0:
            return {}
        return {"stdout": self._command_side} | ({"stderr": self._command_side} if sys.stderr.isatty() else {})

    def wait(self, child: subprocess.Popen[bytes]) -> int:
        """Show the view until the command ends, and return its exit code."""
        if self._terminal >= 0:
            return self._show(child)
        with _lines(self._watched):
            return child.wait()

    def close(self) -> None:
        """Close the command's terminal."""
        for name in ("_terminal", "_command_side"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                setattr(self, name, -1)
                os.close(descriptor)

    def _resize(self) -> None:
        """Give the command's terminal the size of ours."""
        import fcntl

        with contextlib.suppress(OSError):
            columns, height = os.get_terminal_size(sys.stdout.fileno())
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))

    def _read(self) -> bytes | None:
        """Return what the command wrote; None where nobody can write any more."""
        try:
            return os.read(self._terminal, 65536) or None
        except OSError as error:
            if error.errno == errno.EIO:
                return None
            raise

    def _show(self, child: subprocess.Popen[bytes]) -> int:
        side, self._command_side = self._command_side, -1
        os.close(side)
        sys.stdout.flush()
        with Signals("SIGCHLD", "SIGWINCH", "SIGTSTP") as signals, _Below(self._watched) as view:
            due, writes = 0.0, True
            while child.poll() is None:
                wanted = [signals.pipe] + ([self._terminal] if writes else [])
                ready, _, _ = select.select(wanted, [], [], max(0.0, due - time.monotonic()))
                if self._terminal in ready:
                    data = self._read()
                    writes = data is not None
                    view.print(data or b"")
                heard = signals.read() if signals.pipe in ready else []
                if signal.SIGTSTP in heard:
                    view.stop()
                    stopped()
                    view.start()
                if signal.SIGWINCH in heard:
                    self._resize()
                    with contextlib.suppress(OSError):
                        child.send_signal(signal.SIGWINCH)
                if time.monotonic() >= due or heard:
                    view.draw()
                    due = time.monotonic() + DRAW_SECONDS
            if writes:
                self._drain(view)
        return child.wait()

    def _drain(self, view: _Below, quiet_seconds: float = 0.1) -> None:
        """Print what is left after the command ended; a child of it that still writes is waited for no longer."""
        end = time.monotonic() + 2.0
        while time.monotonic() < end and select.select([self._terminal], [], [], quiet_seconds)[0]:
            data = self._read()
            if data is None:
                return
            view.print(data)


class CommandOutput:
    """What a command writes, as lines: colours stay, what would move the cursor elsewhere does not.

    Of a line that was written again and again with carriage returns, as progress bars are, the last text counts.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, *, last: bool = False) -> list[str]:
        """Take in what was written, cut anywhere; return the lines that are whole now, at the end also the rest."""
        text = (self._rest + self._decoder.decode(data, last)).replace("\r\n", "\n")
        *whole, self._rest = text.split("\n")
        if last or len(self._rest) > LONGEST_LINE:
            whole, self._rest = [*whole, self._rest] if self._rest else whole, ""
        if self._rest.endswith("\r"):  # a line break may be cut in the middle
            self._rest = _last_text(self._rest) + "\r"
        elif "\r" in self._rest:
            self._rest = "\r" + _last_text(self._rest)
        return [_MOVES.sub("", _last_text(line)) for line in whole]

    @property
    def unfinished(self) -> str:
        """The line that is not whole yet."""
        return _MOVES.sub("", _last_text(self._rest))


def _last_text(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


class _Below:
    """The view, and what a command prints above it; nothing any more once the terminal was closed."""

    def __init__(self, watched: Watched) -> None:
        self._watched, self._output, self._gone = watched, CommandOutput(), False
        self._lines: list[Text] = []
        self._console = _console()
        self._live = Live(
            console=self._console, get_renderable=self._renderable, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop",
        )  # fmt: skip

    def __enter__(self) -> _Below:
        self.draw()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.print(b"", last=True)
        self.stop()

    def start(self) -> None:
        """Show the view."""
        with self._terminal():
            self._live.start(refresh=True)

    def stop(self) -> None:
        """Take the view away; what the command printed stays."""
        with self._terminal():
            self._live.stop()

    def print(self, data: bytes, *, last: bool = False) -> None:
        """Print the whole lines of what the command wrote; an unfinished one stands above the view until then."""
        whole = self._output.feed(data, last=last)
        text = "\n".join(whole)
        with self._terminal():
            if whole:
                self._console.out(text + ("\x1b[0m" if "\x1b" in text else ""), highlight=False)
            elif data:
                self._live.refresh()

    def draw(self) -> None:
        """Draw the view as it is now, for the size that the terminal has now."""
        if self._gone:
            return
        with self._terminal():
            width, height = os.get_terminal_size(sys.stdout.fileno())
            self._console.size = ConsoleDimensions(width or 80, height or 24)  # a serial line does not know
            self._lines = self._view(width or 80, int(height * MOST_RATIO)) if height >= FEWEST_LINES else []
            self._live.refresh()

    def _view(self, width: int, height: int) -> list[Text]:
        try:
            now, frame = self._watched.now(), self._watched.frame()
            rule = Text(("-" if frame.ascii_only else "─") * width, "dim")
            return [rule, *lines(now, frame, width, height - 1)]
        except Exception as error:  # noqa: BLE001  no fault of the view may end the command, or its measurement
            return [Text(f" greenml: no view: {type(error).__name__}: {error}", "red", no_wrap=True)]

    def _renderable(self) -> Group:
        if not self._output.unfinished:
            return Group(*self._lines)
        return Group(Text.from_ansi(self._output.unfinished, no_wrap=True, overflow="crop"), *self._lines)

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """Write to nothing from then on where the terminal was closed."""
        try:
            yield
        except OSError:
            self._gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
