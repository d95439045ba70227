"""``greenml run -- COMMAND``: measures a command from its parent process.

``--beside codecarbon`` is another meter, in a process of its own, over the same time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from greenml.cli._options import assumed, intensity
from greenml.errors import GreenMLError, SettingsError

if TYPE_CHECKING:
    from greenml.cli._live import LiveCommand
    from greenml.record.schema import RunRecord
    from greenml.run.track import Run


# What a terminal or a scheduler sends to the parent goes to the command.
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT")
_BY_TERMINAL = [getattr(signal, name) for name in ("SIGINT", "SIGQUIT") if hasattr(signal, name)]


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--output", type=click.Path(path_type=Path), help="Where the record goes; run.json by default.")
@click.option("--name", metavar="NAME", help="Of the run.")
@click.option("--gpus", metavar="LIST", help="'all' of the node, or a list: 0,1; those CUDA shows by default.")
@click.option("--interval", type=float, metavar="SECONDS", help="Between readings; what the sensors need by default.")
@click.option("--resume", is_flag=True, help="Add an attempt to the run that is at the output.")
@click.option("--quiet", is_flag=True, help="Print no report at the end.")
@click.option("--live", is_flag=True, help="Show meanwhile what it uses; where there is no terminal, a line a minute.")
@click.option(
    "--sink", "sinks", multiple=True, metavar="SINK",
    help="Where figures go meanwhile: mlflow, wandb, trackio, tensorboard:FOLDER, prometheus:9400, opentelemetry; may "
    "be repeated (docs/sinks.md).",
)  # fmt: skip
@click.option("--beside", type=click.Choice(["codecarbon"]), help="Measure with this, too, and print both at the end.")
@intensity
@assumed
@click.argument("words", metavar="-- COMMAND", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    words: tuple[str, ...], resume: bool, quiet: bool, live: bool, beside: str | None, **options: Any  # noqa: ANN401
) -> int:  # fmt: skip
    """Run COMMAND and measure it from outside.

    Its exit code is this one's. A tracker inside COMMAND (greenml.track, a callback) joins the same run and adds
    its phases and results.
    """
    from greenml.accounting.check import check
    from greenml.redaction import redact_command
    from greenml.run.membership import RUN_DIR_VARIABLE
    from greenml.run.track import Run
    from greenml.sensors import check_gpus
    from greenml.settings import resolve
    from greenml.sinks import check as check_sinks

    options["output"] = str(options["output"]) if options["output"] is not None else None
    options["sinks"] = list(options["sinks"]) or None
    settings = check(resolve(options))
    check_gpus(settings.gpus)
    check_sinks(settings.sinks)
    check_beside(beside)
    code, reason = _missing(words[0])
    if code:
        click.echo(f"greenml: {words[0]}: {reason}", err=True)
        return code
    run = Run(settings, resume=resume, watches=True, command=[Path(words[0]).name, *redact_command(list(words[1:]))])
    other = CodeCarbon() if beside else None
    with _held_back():
        run.start()
        view = _view(run.run_dir) if live else None
    child_environment = {**os.environ, RUN_DIR_VARIABLE: str(run.run_dir.resolve())}
    with _handing_on() as hand_on_to:  # from before the command is there: no signal ends this process alone
        try:
            child = subprocess.Popen(words, env=child_environment, **(view.streams() if view is not None else {}))
        except OSError as error:
            _forget(run, view, other)
            click.echo(f"greenml: {words[0]}: {error.strerror}", err=True)
            return 127 if isinstance(error, FileNotFoundError) else 126
        hand_on_to(child)
        code = _wait(child, view)
    if other is not None:
        other.end()  # at the same moment as the run
    if view is not None:
        view.close()
    status, text = ("completed", None) if code == 0 else ("failed", _why(code))
    if code == -signal.SIGINT:
        status = "interrupted"
    record = run.stop(status, text)
    if other is not None:
        other.stop(run.run_dir)
    if record is not None and not quiet:
        from greenml.cli import _terminal
        from greenml.reports import terminal

        width, height = _terminal.width(120, sys.stderr), _terminal.height(sys.stderr)
        color = _terminal.has_colors(sys.stderr)
        click.echo(terminal.render(record, width, color=color, full=False, height=height), nl=False, err=True)
    show_beside(other, record)
    click.echo(f"greenml: {run.output}", err=True)
    return code if code >= 0 else 128 - code


def _view(run_dir: Path) -> LiveCommand:
    from greenml.cli._live import LiveCommand

    return LiveCommand(run_dir)


def _forget(run: Run, view: LiveCommand | None, other: CodeCarbon | None) -> None:
    """Leave nothing of a run whose command could not be started."""
    if view is not None:
        view.close()
    run.discard()
    if other is not None:
        other.stop(None)


@contextlib.contextmanager
def _handing_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Survive the signals that this process gets, and hand them on; yields what is to be called with the command.

    What came before the command was there reaches it as soon as it is.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        if not children:
            early.append(number)
        elif number not in _BY_TERMINAL or not _has_it_from_the_terminal(children[0]):
            children[0].send_signal(number)

    def to(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    from greenml.run.exit_hooks import handled_signals

    with handled_signals(_PASSED_ON, hand_on):
        yield to


def _wait(child: subprocess.Popen[bytes], view: LiveCommand | None) -> int:
    with _held_back() as held, _listening(child, held):
        return child.wait() if view is None else view.wait(child)


@contextlib.contextmanager
def _held_back() -> Iterator[bool]:
    """Let no thread that is started in the block take the signals of a terminal; False where that cannot be."""
    if not hasattr(signal, "sigwaitinfo"):
        yield False
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BY_TERMINAL)
    try:
        yield True
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _listening(child: subprocess.Popen[bytes], held: bool) -> Iterator[None]:
    """Hand on the signals of a terminal that are held back: each that the kernel did not send to the command itself."""
    over = threading.Event()

    def listen() -> None:
        while True:
            info = signal.sigwaitinfo(_BY_TERMINAL)
            if over.is_set():
                return  # woken from below
            if info.si_code <= 0 or not _has_it_from_the_terminal(child):  # 0 and below: a process sent it
                child.send_signal(info.si_signo)

    if not held:
        yield
        return
    thread = threading.Thread(target=listen, name="greenml-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        signal.pthread_kill(thread.ident or 0, signal.SIGINT)
        thread.join()


def _has_it_from_the_terminal(child: subprocess.Popen[bytes]) -> bool:
    """Tell whether the terminal sends the command its Ctrl-C, too: it does so to every process in the foreground.

    Standard input says nothing of that: it may be a pipe or a file, and the terminal still controls the process.
    """
    if sys.platform == "win32":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False  # none controls this process
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp() == os.getpgid(child.pid)
    except OSError:
        return False
    finally:
        os.close(terminal)


def _missing(word: str) -> tuple[int, str]:
    """Say why a command cannot be run, and the exit code for that; 0 where it can be, as far as one sees beforehand."""
    if shutil.which(word) is not None:
        return 0, ""
    path = Path(word)
    if path.parent == Path() and os.sep not in word:
        return 127, "No such file or directory"  # no such command, in the words of Popen
    if not path.exists():
        return 127, "No such file or directory"
    return 126, "Is a directory" if path.is_dir() else "Permission denied"


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


BESIDE_FILE = "codecarbon-emissions.csv"
READY_SECONDS = 60.0
STOP_SECONDS = 30.0

# The country changes its emissions, not its energy; only its energy is compared.
_CODECARBON = """
import logging, sys
from pathlib import Path
from codecarbon import OfflineEmissionsTracker
path = Path(sys.argv[1])
tracker = OfflineEmissionsTracker(
    country_iso_code="USA", output_dir=str(path.parent), output_file=path.name, log_level="critical",
    allow_multiple_runs=True,
)
tracker.start()
print("ready", flush=True)
sys.stdin.read()
tracker.stop()
"""


class CodeCarbon:
    """CodeCarbon, at its defaults, from before the command starts until it has ended.

    It is a process of its own, in a session of its own: no signal for the command reaches it, and its faults are not
    the command's.

    Args:
        program: of Python, given the path of its file: it writes "ready" once it measures, and ends with its input.
        ready_seconds: how long the command waits for that.
    """

    def __init__(self, program: str = _CODECARBON, ready_seconds: float = READY_SECONDS) -> None:
        self.path: Path | None = None  # of its file, once the run has a folder and it has written one
        self._folder = tempfile.TemporaryDirectory(prefix="greenml-beside-")  # the run has no folder yet
        self._written = Path(self._folder.name, BESIDE_FILE)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(self._written)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        self.ready, heard = False, threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._listener.start()
        heard.wait(ready_seconds)
        if not self.ready:
            self._process.kill()  # or it would begin to measure at any time

    def _listen(self, heard: threading.Event) -> None:
        """Read what it says to its end, so that it never waits to be read."""
        assert self._process.stdout is not None  # noqa: S101  for the types: it is a pipe
        with self._process.stdout as lines:
            for line in lines:
                if line.strip() == "ready":
                    self.ready = True
                    heard.set()
        heard.set()

    def end(self) -> None:
        """Let it take its last reading; it is not waited for."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it ended before
                self._process.stdin.close()

    def stop(self, folder: Path | None) -> None:
        """Wait a bounded time for its file, and put it into the folder; without one it is thrown away."""
        self.end()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(STOP_SECONDS)
        if folder is not None and self._written.exists() and folder.is_dir():
            self.path = folder.absolute() / BESIDE_FILE
            shutil.move(self._written, self.path)
        self._folder.cleanup()

    def table(self, record: RunRecord) -> str:
        """Return both meters side by side, or why there is none."""
        from greenml.analysis.reconcile import compare, meters
        from greenml.cli.reconcile import rendered

        if not self.ready or self.path is None:
            return "CodeCarbon did not measure; nothing is beside this run"
        try:
            results = [compare.reconcile([record], meter) for meter in meters.read(f"codecarbon:{self.path}", [record])]
        except GreenMLError as error:
            return str(error)
        return "\n\n".join(rendered(result, markdown=False) for result in results)


def check_beside(name: str | None) -> None:
    """Check what is to measure beside, before the command runs.

    Raises:
        SettingsError: it is not installed.
    """
    if name == "codecarbon" and find_spec("codecarbon") is None:
        raise SettingsError("--beside codecarbon needs a package: pip install codecarbon")


def show_beside(beside: CodeCarbon | None, record: RunRecord | None) -> None:
    """Print the table, if there is one."""
    if beside is not None and record is not None:
        click.echo(f"\n{beside.table(record)}", err=True)
