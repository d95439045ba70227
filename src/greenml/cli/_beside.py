"""``greenml run --beside codecarbon``: another meter in a process of its own, over the same time."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from greenml.errors import GreenMLError, SettingsError

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord

FILE = "codecarbon-emissions.csv"
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
        self._written = Path(self._folder.name, FILE)
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
            self.path = folder.absolute() / FILE
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


def check(name: str | None) -> None:
    """Check what is to measure beside, before the command runs.

    Raises:
        SettingsError: it is not installed.
    """
    if name == "codecarbon" and find_spec("codecarbon") is None:
        raise SettingsError("--beside codecarbon needs a package: pip install codecarbon")


def show(beside: CodeCarbon | None, record: RunRecord | None) -> None:
    """Print the table, if there is one."""
    if beside is not None and record is not None:
        click.echo(f"\n{beside.table(record)}", err=True)
