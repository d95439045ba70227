"""The trace: one file of JSON lines a process, appended as it happens, readable when cut off.

The lines are described in ``trace_lines``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any

from greenml.claims import FileLock, is_locked
from greenml.errors import RecordError
from greenml.model import Span, Trace
from greenml.trace_lines import Line, course_of, device_of, rollups_of

FORMAT = 1
# A trace on another host whose lock cannot be seen counts as alive while it was written this recently.
FRESH_SECONDS = 30.0
_HEADER_NUMBERS = ("greenml_trace", "start_seconds", "unix_seconds", "unix_offset_seconds", "attempt")


def _text(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n"


class TraceWriter:
    """Appends to this process's trace. Safe from several threads; nothing here waits on hardware.

    A write that fails (a full disk) is remembered in ``failed`` and never raised: training goes on.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be created.
        """
        self.path = path
        self.failed = ""
        self._lock = RLock()  # a handler of a signal may write while this thread writes
        self._alive = FileLock(path.with_suffix(".alive"))
        self._alive.acquire()
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._owed = _text({"greenml_trace": FORMAT, **header})  # without which no other line can be read
        self._torn = False
        self._append(b"")

    def write(self, line: Line) -> bool:
        """Append a line; tells whether it is in the file: not after ``close()``, in a forked child, on a full disk."""
        try:
            text = _text(line)
        except (ValueError, RecursionError) as error:
            self.failed = str(error)
            return False
        with self._lock:
            return self._append(text)

    def _append(self, text: bytes) -> bool:
        if self._descriptor is None:
            return False
        whole = (b"\n" if self._torn else b"") + self._owed + text
        try:
            written = os.write(self._descriptor, whole)
        except OSError as error:
            self.failed = str(error)
            return False
        if written < len(whole):
            self._torn, self.failed = True, "the disk was full within a line"
            return False
        self._owed, self._torn = b"", False
        return True

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        with self._lock:
            return 0 if self._descriptor is None else os.fstat(self._descriptor).st_size

    def replace(self, lines: list[Line], size_bytes: int) -> None:
        """Put other lines in the place of the first ``size_bytes``; what came since stays. Atomic."""
        temporary = self.path.with_suffix(".compacting")
        text = "".join(json.dumps(line, separators=(",", ":"), default=str) + "\n" for line in lines).encode()
        with self._lock:
            if self._descriptor is None:
                return
            try:
                with self.path.open("rb") as stream:
                    stream.seek(size_bytes)
                    temporary.write_bytes(text + stream.read())
                temporary.replace(self.path)
                os.close(self._descriptor)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            except OSError as error:
                self.failed = str(error)
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def close(self) -> None:
        """Close the file and stop being alive."""
        with self._lock:
            self._close()
        self._alive.release()

    def forget(self) -> None:
        """Close a forked child's side; the parent's goes on. Takes no lock: a thread that is not here may hold it."""
        self._close()
        self._alive.forget()

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def read_lines(path: Path, size_bytes: int = -1) -> list[Line]:
    """Read a trace's lines, or those of its first bytes; a last line that was cut off is left out.

    Raises:
        RecordError: not a trace, or of a newer format.
    """
    lines: list[Line] = []
    try:
        with path.open("rb") as stream:
            content = stream.read(size_bytes)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    for text in content.splitlines():
        try:
            line = json.loads(text)
            if b"\\ud" in text:  # half a character: a record could not hold it
                line = json.loads(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
        except ValueError:  # cut off in the middle of a line; what follows, if anything, is whole again
            continue
        if isinstance(line, dict):
            lines.append(line)
    if not lines or "greenml_trace" not in lines[0]:
        raise RecordError(f"{path}: not a trace (no header)")
    header = lines[0]
    if not all(isinstance(header.get(name, 0), int | float) for name in _HEADER_NUMBERS):
        raise RecordError(f"{path}: not a trace (its header is damaged)")
    if header["greenml_trace"] > FORMAT:
        raise RecordError(f"{path}: trace format {header['greenml_trace']}; this greenml reads {FORMAT}: upgrade it")
    return lines


def read_header(path: Path) -> Line:
    """Read a trace's first line alone.

    Raises:
        RecordError: not a trace.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            line = json.loads(stream.readline())
    except (OSError, ValueError):
        line = None
    if not isinstance(line, dict) or "greenml_trace" not in line:
        raise RecordError(f"{path}: not a trace (no header)")
    return line


def anchor(header: Mapping[str, Any]) -> float:
    """Return the unix time at the zero of a trace's clock, corrected where the host's time was found to be off."""
    return float(header["unix_seconds"] + header.get("unix_offset_seconds", 0.0) - header["start_seconds"])


def read(path: Path) -> Trace:  # noqa: C901, PLR0912  one branch a kind of line
    """Read a trace.

    Raises:
        RecordError: not a trace, or of a newer format.
    """
    lines = read_lines(path)
    trace = Trace(path=str(path), header=lines[0], last_seconds=lines[0].get("start_seconds", 0.0))
    last: dict[str, float] = {}
    open_spans: dict[int, tuple[str, float]] = {}
    for line in lines[1:]:
        if "t" in line:
            trace.last_seconds = max(trace.last_seconds, line["t"])
        if "d" in line:
            for key, rollup in rollups_of(line, last):
                last[key] = rollup.end_seconds
                trace.rollups.setdefault(key, []).append(rollup)
        elif "device" in line:
            trace.devices[line["device"]] = device_of(line)
        elif "begin" in line:
            open_spans[line["begin"]] = (line["phase"], line["t"])
        elif "end" in line and line["end"] in open_spans:
            path_, begun = open_spans.pop(line["end"])
            joules = {trace.devices[key].id: value for key, value in line.get("j", {}).items() if key in trace.devices}
            trace.spans.append(Span(path_, begun, line["t"], line.get("n", 1), line.get("s"), joules or None))
        elif "note" in line:
            trace.notes.append((line["t"], line["note"], line["text"]))
        elif "metrics" in line:
            trace.metrics.update(line["metrics"])
        elif "params" in line:
            trace.params.update(line["params"])
        elif "found" in line:
            for name, value in line["found"].items():
                trace.found[name] = {**trace.found.get(name, {}), **value}
            if "counts" in line["found"]:
                trace.progress.append((line.get("t", trace.last_seconds), line["found"]["counts"]))
        elif "step" in line:
            trace.progress.append((line["t"], {"step": line["step"]}))
        elif "intensity" in line:
            trace.courses.append(course_of(line))
        elif "so_far" in line:
            trace.so_far = line["so_far"]
        elif "status" in line:
            trace.status, trace.error = line["status"], line.get("error")
    trace.spans += [Span(path_, begun, None) for path_, begun in open_spans.values()]
    trace.spans.sort(key=lambda span: (span.start_seconds, span.path))
    trace.alive = trace.status is None and is_alive(path, str(trace.header.get("host", "")))
    return trace


def is_alive(path: Path, host: str) -> bool:
    """Tell whether the process that writes a trace still lives."""
    import socket

    if is_locked(path.with_suffix(".alive")):
        return True
    if host == socket.gethostname():
        return False
    try:
        return time.time() - path.stat().st_mtime < FRESH_SECONDS
    except OSError:
        return False


def paths(run_dir: Path) -> list[Path]:
    """Return the traces of a run directory, in the order of their names."""
    return sorted(run_dir.glob("*.jsonl"))
