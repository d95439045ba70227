"""One attempt of a cell: its command is measured, and what became of it is written into the cell's folder.

Whoever runs cells (this machine, a Ray task, a task of a Slurm array, a job of AzureML) starts ``greenml study cell``,
which does this. So a cell ends in the same way everywhere, also when the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from greenml import files, redaction
from greenml.analysis.study import folder as study_folder
from greenml.analysis.study.folder import OUT_OF_MEMORY, RECORD_FILE, STOPPED, TIMEOUT, Cell, Study
from greenml.analysis.study.plan import check_command, environment, words
from greenml.errors import GreenMLError, SettingsError
from greenml.run.membership import RUN_DIR_VARIABLE
from greenml.trace import run_dir_of

STOP_FILE = "stop"
POLL_SECONDS = 0.2
# How long a command that is to stop is waited for after each signal, before the next one.
ESCALATION = (("SIGINT", 60.0), ("SIGTERM", 20.0), ("SIGKILL", 0.0))
LOG_TAIL_BYTES = 65536
VMSTAT = Path("/proc/vmstat")
# What frameworks and systems say where memory is short: PyTorch, CUDA, cuBLAS and cuDNN, TensorFlow and JAX, NumPy,
# Python, C++ and the kernel.
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation"
    r"|RESOURCE_EXHAUSTED|DefaultCPUAllocator: (?:can't|not enough)|Unable to allocate [\d.]+ \w+ for an array"
    r"|^MemoryError|std::bad_alloc|Cannot allocate memory|Out of memory",
    re.MULTILINE,
)

KILLED = 137  # how a shell says SIGKILL
_KILLED = re.compile(r"SIGKILL|Signal 9|exitcode: -9|return code = -9|^Killed", re.MULTILINE)  # of a launcher's child

Measure = Callable[[Sequence[str], Path], int]


def run(study: Study, cell: Cell, measure: Measure) -> int:
    """Run a cell once more, and write what became of it; returns the exit code of its command.

    Args:
        study: that the cell is of.
        cell: with the folder to write to.
        measure: runs a command under ``greenml run`` with these words (options first), in this folder, and returns
            its exit code.

    Raises:
        SettingsError: another process runs the cell.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    lock = files.ProcessLock(cell.folder / study_folder.LOCK_FILE)
    if not lock.acquire():
        raise SettingsError(f"cell {cell.name}: another process runs it")
    try:
        return _run(study, cell, measure)
    finally:
        lock.release()


def _run(study: Study, cell: Cell, measure: Measure) -> int:
    plan = study.plan
    entries = study_folder.read_attempts(cell.folder)
    for entry in entries:
        if entry["state"] == "running":  # the lock is ours: whoever ran it is gone
            entry |= {"state": "killed", "reason": "killed: its process ended without a word"}
            _end_leftovers(run_dir_of(cell.folder / RECORD_FILE))
    if entries and not plan.file.resume:
        study_folder.set_aside(cell.folder, entries[-1]["number"])
    (cell.folder / STOP_FILE).unlink(missing_ok=True)
    entry = {"number": len(entries) + 1, "state": "running", "started": time.time()}
    entry |= study_folder.this_machine()
    if gpus := os.environ.get("CUDA_VISIBLE_DEVICES"):
        entry["gpus"] = gpus
    entries.append(entry)
    study_folder.write_cell(study, cell, entries)
    before = _oom_kills()
    code, trouble = 1, ""
    log = cell.folder / study_folder.LOG_FILE
    begin = log.stat().st_size if log.exists() else 0
    with _output(log), _stopping(cell.folder, plan.file.timeout_minutes) as sent, _heard() as heard:
        try:
            code = measure([*_options(study, cell), "--", *_command(study, cell)], plan.directory)
        except GreenMLError as error:
            trouble = redaction.redact_text(str(error))
            print(f"greenml: {trouble}", flush=True)  # noqa: T201  into the log
    entry |= {"ended": time.time(), "exit_code": None if trouble else code}
    stopped = (_asked(cell.folder) or STOPPED) if sent else f"{STOPPED} by {heard[0]}" if heard else ""
    entry |= outcome(code, trouble, stopped, _tail(log, begin), _oom_kills() - before)
    study_folder.write_cell(study, cell, entries)
    (cell.folder / STOP_FILE).unlink(missing_ok=True)
    return code


def _command(study: Study, cell: Cell) -> list[str]:
    """Return the words of a cell's command, and give this process its variables."""
    plan = study.plan
    into = cell.folder.resolve()
    command = words(plan, cell.variant, cell.seed, into)
    check_command(command, plan.directory)
    os.environ.update(environment(plan, cell.variant, cell.seed, into))
    os.environ.pop(RUN_DIR_VARIABLE, None)  # of a run that measures the whole study
    if cell.variant.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return command


def _options(study: Study, cell: Cell) -> list[str]:
    """Return the options of ``greenml run`` for a cell."""
    file = study.plan.file
    given = {
        "--output": str(cell.folder.resolve() / RECORD_FILE),
        "--name": f"{file.name} {cell.name}",
        "--sku": file.sku,
        "--region": file.region,
        "--tier": file.tier,
        "--nodes": file.nodes,
        "--price-per-hour": file.price_per_hour,
        "--carbon-intensity": file.carbon_intensity,
        "--pue": file.pue,
    }
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return [*options, "--quiet", *(["--resume"] if file.resume else [])]


def ask_to_stop(cell: Cell, reason: str) -> None:
    """Ask the process that runs a cell to stop it, wherever it runs; it does so within a second."""
    with contextlib.suppress(OSError):
        files.replace(cell.folder / STOP_FILE, reason.encode())


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Yield a list that at the end of the block has the signals in it that asked this process to stop."""
    names: list[str] = []
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield names
        return
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield names
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            numbers = stream.read() or b""
        names += [name for name in ("SIGINT", "SIGTERM") if getattr(signal, name) in numbers]


@contextlib.contextmanager
def _stopping(folder: Path, timeout_minutes: float | None) -> Iterator[list[str]]:
    """Stop this process's command when the folder has a stop file, or its time is over; yields the signals sent.

    ``greenml run``, which runs in this process, hands the signals on to the command.
    """
    sent: list[str] = []
    over = threading.Event()
    deadline = None if timeout_minutes is None else time.monotonic() + timeout_minutes * 60

    def watch() -> None:
        if hasattr(signal, "pthread_sigmask"):  # else the signals below could end in this thread, and wake nobody
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGQUIT])
        while not over.wait(POLL_SECONDS):
            if deadline is not None and time.monotonic() > deadline and not (folder / STOP_FILE).exists():
                with contextlib.suppress(OSError):
                    files.replace(folder / STOP_FILE, TIMEOUT.encode())
            if (folder / STOP_FILE).exists():
                for name, seconds in ESCALATION:
                    sent.append(name)
                    _signal(name)
                    if over.wait(seconds):
                        return

    thread = threading.Thread(target=watch, name="greenml-study-stop", daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def _signal(name: str) -> None:
    if name != "SIGKILL":
        os.kill(os.getpid(), getattr(signal, name))
        return
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _end_leftovers(run_dir: Path) -> None:
    """Kill what a killed attempt left running: the processes that know its run folder."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(RUN_DIR_VARIABLE) == str(run_dir.resolve()):
                process.kill()


@contextlib.contextmanager
def _output(log: Path) -> Iterator[None]:
    """Send what this process and its command print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(descriptor)


def outcome(code: int, trouble: str, stopped: str, tail: str, oom_kills: int) -> dict[str, Any]:
    """Return state and reason of an attempt that ended.

    A command that was told to stop has not completed, also where it says 0: it may have saved its state, and ended.

    Args:
        code: its exit code.
        trouble: why it could not be run.
        stopped: why it was told to stop; "" where nobody did.
        tail: the end of what it printed.
        oom_kills: processes that the kernel of this machine killed meanwhile because memory was short.
    """
    if stopped and stopped != TIMEOUT:
        return {"state": "stopped", "reason": stopped}
    if code == 0 and not trouble and not stopped:
        return {"state": "completed", "reason": ""}
    by = next((name for name in ("SIGINT", "SIGTERM") if code == 128 + getattr(signal, name)), "")
    if by and not stopped and not trouble:
        return {"state": "stopped", "reason": f"{STOPPED} by {by}"}
    return {"state": "failed", "reason": stopped or trouble or _why(code, tail, oom_kills)}


def is_out_of_memory(text: str) -> bool:
    """Tell whether what a program printed, or an error, says that memory was short."""
    return _OUT_OF_MEMORY.search(text) is not None


def _asked(folder: Path) -> str:
    try:
        return (folder / STOP_FILE).read_text(encoding="utf-8")
    except OSError:
        return ""


def _why(code: int, tail: str, oom_kills: int) -> str:
    if oom_kills > 0 and (code == KILLED or _KILLED.search(tail)):
        return f"{OUT_OF_MEMORY} (host: the kernel killed a process)"
    if is_out_of_memory(tail):
        return OUT_OF_MEMORY
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(code - 128).name}"
    return {127: "command not found", 126: "command cannot be run"}.get(code, f"exit code {code}")


def _tail(log: Path, begin: int) -> str:
    """Return the end of what an attempt printed."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(begin, log.stat().st_size - LOG_TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _oom_kills() -> int:
    """Return how many processes the kernel of this machine has killed because memory was short; 0 if not known."""
    try:
        found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def spawn(study: Study, cell: Cell, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start an attempt of a cell in a process that outlives this one, and gets no Ctrl-C of its terminal."""
    with (study.folder / study_folder.CELLS_LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "greenml", "study", "cell", str(study.folder.resolve()), cell.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
