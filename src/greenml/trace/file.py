"""The trace: one file of JSON lines a process, appended as it happens, readable when cut off.

A trace is written, read whole, or followed as it grows: then only what is new is read, and what it said so far is kept.
The lines are described in ``greenml.trace.lines``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

from greenml import files
from greenml.errors import RecordError
from greenml.factors.types import IntensitySeries
from greenml.files import OwnDescriptor, ProcessLock, is_locked
from greenml.redaction import redact_line
from greenml.trace.lines import (
    FORMAT,
    Line,
    LineReader,
    device_of,
    intensity_of,
    kind_of,
    loaded,
    rollups_of,
    share_late,
)
from greenml.trace.types import Device, Span, Trace

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOUNTS = Path("/proc/self/mountinfo")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A trace of another machine, on a file system that does not show that machine's locks, counts as alive while it was
# written this recently. Every process writes at least once in three seconds.
FRESH_SECONDS = 5.0
FRESH_NFS_SECONDS = 30.0  # NFS without the server's locks: its clients keep writes back for as long


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)


def _text(line: Line) -> bytes:
    return _ENCODER.encode(redact_line(line)).encode() + b"\n"


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
        self._alive = ProcessLock(path.with_suffix(".alive"))
        self._alive.acquire()
        self._left = False  # the file of that lock, by a close() that removed nothing
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._descriptor: OwnDescriptor | None = OwnDescriptor(descriptor)
        self._owed = _text({"greenml_trace": FORMAT, **header})  # without which no other line can be read
        self._torn, self._size_bytes = False, 0
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
            if not self._descriptor.is_open():
                self._descriptor = OwnDescriptor(os.open(self.path, os.O_WRONLY | os.O_APPEND))
            written = os.write(self._descriptor.number, whole)
        except OSError as error:
            self.failed = str(error)
            return False
        self._size_bytes += written
        if written < len(whole):
            self._torn, self.failed = True, "the disk was full within a line"
            return False
        self._owed, self._torn = b"", False
        return True

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        with self._lock:
            return 0 if self._descriptor is None else self._size_bytes

    def replace(self, lines: Iterable[Line], size_bytes: int) -> None:
        """Put other lines in the place of the first ``size_bytes``; what came since stays. Atomic.

        Threads that write meanwhile wait only while what came since is copied.
        """
        fresh = -1
        try:
            with contextlib.ExitStack() as held:
                with files.replacing(self.path, sync=False) as descriptor:
                    for line in lines:
                        files.append(descriptor, json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n")
                    os.fsync(descriptor)
                    held.enter_context(self._lock)
                    if self._descriptor is None:
                        raise OSError(errno.EBADF, "the trace was closed meanwhile")
                    with self.path.open("rb") as stream:
                        stream.seek(size_bytes)
                        files.append(descriptor, stream.read())
                    fresh = os.dup(descriptor)
                self._size_bytes = os.fstat(fresh).st_size
                before, self._descriptor, fresh = self._descriptor, OwnDescriptor(fresh), -1
                before.close()
        except OSError as error:
            if self._descriptor is not None:
                self.failed = str(error)
            if fresh >= 0:
                os.close(fresh)

    def close(self, *, remove: bool = True) -> None:
        """Close the file and stop being alive.

        Args:
            remove: also the file that shows it; where it is left, the next ``close()`` removes it.
        """
        with self._lock:
            self._close()
        if remove:
            self._alive.release()
            if self._left:
                self._left = False
                with contextlib.suppress(OSError):
                    self._alive.path.unlink()
        else:
            self._left = self._left or self._alive.held
            self._alive.forget()

    def forget(self) -> None:
        """Close a forked child's side; the parent's goes on. Takes no lock: a thread that is not here may hold it."""
        self._close()
        self._alive.forget()

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            descriptor.close()


def read_lines(
    path: Path, size_bytes: int = -1, slices: Callable[[Iterable[Line]], Iterable[Line]] = iter
) -> list[Line]:
    """Read a trace's lines, or those of its first bytes; damaged ones, and a last one that was cut off, are left out.

    Args:
        path: of the trace.
        size_bytes: how much of it to read; all by default.
        slices: hands the lines on, with pauses if it likes.

    Raises:
        RecordError: not a trace, or of a newer format.
    """
    return _read_lines(path, size_bytes, slices)[0]


def _read_lines(
    path: Path, size_bytes: int = -1, slices: Callable[[Iterable[Line]], Iterable[Line]] = iter
) -> tuple[list[Line], int]:
    """Return a trace's lines, the header first, and how many were damaged."""
    try:
        with path.open("rb") as stream:
            content = stream.read(size_bytes)
            modified_seconds = os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    first, _, rest = content.partition(b"\n")
    header = _header(path, first)
    reader = LineReader()
    lines = list(reader.read(json.dumps(header).encode()))
    if not lines:
        header = _with_times(header, rest, modified_seconds)
        lines, reader.damaged = list(reader.read(json.dumps(header).encode())), 1
    if not lines:
        raise RecordError(f"{path}: not a trace (its header is damaged)")
    whole = rest.rpartition(b"\n")[0]
    lines += slices(reader.read(whole))
    damaged = reader.damaged
    lines += reader.read(rest[len(whole) :])
    return lines, damaged  # the last line may have been cut off in the middle, as by a kill: that is no damage


def _header(path: Path, text: bytes) -> Line:
    """Return what a trace's first line holds, unchecked but for its format."""
    try:
        header = loaded(text)
    except ValueError:
        header = None
    if not isinstance(header, dict) or "greenml_trace" not in header:
        raise RecordError(f"{path}: not a trace (no header)")
    version = header["greenml_trace"]
    if isinstance(version, int) and version > FORMAT:
        raise RecordError(f"{path}: trace format {version}; this greenml reads {FORMAT}: upgrade it")
    return header


def _with_times(header: Line, rest: bytes, modified_seconds: float) -> Line:
    """Return a damaged header with the times that the other lines and the file tell."""
    reader = LineReader()
    anything = {"greenml_trace": FORMAT, "start_seconds": 0.0, "unix_seconds": 0.0}
    list(reader.read(json.dumps(anything).encode()))
    times = sorted(line["t"] for line in reader.read(rest) if "t" in line)
    if not times:
        return header
    start, unix = header.get("start_seconds"), header.get("unix_seconds")
    if type(start) not in (int, float) or not 0 <= (start or 0) <= times[0]:
        start = times[0]
    if type(unix) not in (int, float) or not 0 <= (unix or 0) <= modified_seconds:
        unix = modified_seconds - (times[-1] - start)
    return {**header, "start_seconds": start, "unix_seconds": unix}


def read_header(path: Path) -> Line:
    """Read a trace's first line alone, without what is damaged in it.

    Raises:
        RecordError: not a trace.
    """
    try:
        with path.open("rb") as stream:
            text = stream.readline()
    except OSError:
        raise RecordError(f"{path}: not a trace (no header)") from None
    header = next(LineReader().read(text), None)
    if header is None:
        raise RecordError(f"{path}: not a trace (no header)")
    return header


def anchor(header: Mapping[str, Any]) -> float:
    """Return the unix time at the zero of a trace's clock, corrected where the host's time was found to be off."""
    return float(header["unix_seconds"] + header.get("unix_offset_seconds", 0.0) - header["start_seconds"])


def read(path: Path) -> Trace:  # noqa: C901, PLR0912  one branch a kind of line
    """Read a trace.

    Raises:
        RecordError: not a trace, or of a newer format.
    """
    lines, damaged = _read_lines(path)
    lines = share_late(lines)
    trace = Trace(path=str(path), header=lines[0], last_seconds=lines[0]["start_seconds"], damaged_lines=damaged)
    last: dict[str, float] = {}
    open_spans: dict[int, tuple[str, float]] = {}
    for line in lines[1:]:
        if "t" in line:
            trace.last_seconds = max(trace.last_seconds, line["t"])
        match kind_of(line):
            case "d":
                for key, rollup in rollups_of(line, last):
                    last[key] = rollup.end_seconds
                    trace.rollups.setdefault(key, []).append(rollup)
            case "device":
                trace.devices[line["device"]] = device_of(line)
            case "begin":
                open_spans[line["begin"]] = (line["phase"], line["t"])
            case "end":
                if line["end"] in open_spans:
                    trace.spans.append(_span(line, *open_spans.pop(line["end"]), trace.devices))
            case "note":
                trace.notes.append((line["t"], line["note"], line["text"]))
            case "metrics":
                trace.metrics.update(line["metrics"])
                trace.logged.append((line.get("t", trace.last_seconds), line["metrics"]))
            case "params":
                trace.params.update(line["params"])
            case "facts":
                for name, finding in line["facts"].items():
                    trace.facts[name] = {**trace.facts.get(name, {}), **finding}
                if "counts" in line["facts"]:
                    trace.progress.append((line.get("t", trace.last_seconds), line["facts"]["counts"]))
            case "step":
                trace.progress.append((line["t"], {"step": line["step"]}))
                if line.get("saved"):
                    trace.saved.append((line["t"], line["step"]))
            case "intensity":
                trace.intensities.append(intensity_of(line))
            case "so_far":
                trace.so_far = line["so_far"]
            case "status":
                trace.status, trace.error = line["status"], line.get("error")
                end_seconds = line.get("end_seconds")
                if end_seconds is not None:  # what was read after it is no part of the run
                    trace.last_seconds = max(trace.header["start_seconds"], min(trace.last_seconds, end_seconds))
    trace.spans += [Span(path_, begun, None) for path_, begun in open_spans.values()]
    trace.spans.sort(key=lambda span: (span.start_seconds, span.path))
    trace.alive = trace.status is None and is_alive(path, trace.header)
    return trace


def _span(line: Line, path: str, begun: float, devices: Mapping[str, Device]) -> Span:
    joules, interpolation_joules = (
        {devices[key].id: value for key, value in (line.get(name) or {}).items() if key in devices} or None
        for name in ("j", "i")
    )
    return Span(
        path, begun, max(begun, line["t"]), line.get("n", 1), line.get("s"), joules, interpolation_joules
    )  # fmt: skip


def boot_id() -> str:
    """Return the identifier of this boot of this machine. Monotonic times can be compared within one boot only."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        # macOS, Windows: the time of the boot, to the minute
        return f"{(time.time() - time.monotonic()) // 60:.0f}"


def machine(header: Mapping[str, Any]) -> tuple[str, str]:
    """Return the key of the machine that a trace was written on, in one boot of it: one clock, one set of devices.

    Linux gives each boot an identifier of its own, which all containers on the machine share, whatever their host names
    are. Where there is none, the host name tells.
    """
    boot = str(header.get("boot_id") or "")
    return ("", boot) if _UUID.fullmatch(boot) else (str(header.get("host") or ""), boot)


def precedence(header: Mapping[str, Any], *, ended: bool = True) -> tuple[bool, int, bool, float, int]:
    """Return the key that orders the processes of a run; the least is the lead process, whose word counts.

    A parent that watches (``greenml run``) goes first, else the lowest rank, else the first that started.

    Args:
        header: of the process's trace.
        ended: False for a process that never said how it ended: of equals, one that did goes before it.
    """
    rank, unix_seconds, pid = header.get("rank") or 0, header.get("unix_seconds") or 0.0, header.get("pid") or 0
    return not header.get("watches"), int(rank), not ended, float(unix_seconds), int(pid)


def is_alive(path: Path, header: Mapping[str, Any]) -> bool:
    """Tell whether the process that writes a trace still runs.

    Its kernel lock tells on its own machine, and on others where the file system shows locks to all of them. Elsewhere
    the time of the last write tells.
    """
    if is_locked(path.with_suffix(".alive")):
        return True
    here = machine(header) == machine({"host": socket.gethostname(), "boot_id": boot_id()})
    here = here or (machine(header)[0] == socket.gethostname())
    fresh_seconds = 0.0 if here else _fresh_seconds(str(path.parent))
    try:
        return fresh_seconds > 0.0 and time.time() - path.stat().st_mtime < fresh_seconds
    except OSError:
        return False


@functools.lru_cache(maxsize=64)
def _fresh_seconds(folder: str) -> float:
    """Return how old a living process's last write may look in a folder; 0 where the file system shows its lock."""
    mounts = []
    try:
        target = os.path.realpath(folder)
        for row in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            mounted, _, source = row.partition(" - ")
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mounted.split()[4])
            if target == point or target.startswith(point.rstrip("/") + "/"):
                mounts.append((len(point), source.split()[0], source.split()[-1]))
    except (OSError, IndexError, ValueError):
        return FRESH_SECONDS
    _, kind, options = max(mounts, default=(0, "", ""), key=lambda mount: mount[0])
    if not kind.startswith("nfs"):
        return FRESH_SECONDS
    local = {"nolock", "local_lock=all", "local_lock=flock"} & set(options.split(","))
    return FRESH_NFS_SECONDS if local else 0.0


HEARD_SECONDS = 5.0  # a process that wrote this recently lives; of any other its lock is looked at
POWER_SECONDS = 0.5  # power is a mean over this long at least: samples at edges are shorter than a counter's step
FIRST_SECONDS = 0.1  # the first of all, which is less sure, over at least this
COUNTED = ("gpu", "cpu", "dram")  # what IT energy is made of
BIN_SECONDS = 300  # energy is kept apart by these bins of time: no provider of carbon intensity has shorter slots
OF_THE_START = ("sensor-absent",)  # notes
FROZEN_SECONDS = (
    2.0  # as in greenml.energy.integrate: a counter that has not moved for so long under power does not count
)
RECENT_SECONDS = 10.0  # utilization and memory that are older are not those of now


@dataclass(slots=True)
class TailedDevice:
    """What one trace says of one device; None is not known.

    Attributes:
        joules: used since this process began to measure it.
        watts: over the last half second or more.
        last_seconds: of its last read, on its host's monotonic clock.
    """

    device: Device
    joules: float | None = None
    watts: float | None = None
    last_seconds: float = 0.0
    _counter: float | None = None
    _counted: float = 0.0  # joules, by it
    _pending: float = 0.0  # joules integrated since the counter's last reading, while it tells nothing
    _moved: bool = False
    _integrated: tuple[float, float] = (0.0, 0.0)  # joules and seconds, by power beside a counter
    _power: tuple[float, float] = (0.0, 0.0)  # joules and seconds since ``watts`` was set
    _settled: bool = False  # ``watts`` was over that long; before, it is as good as can be
    _utilization: tuple[float, float] = (-math.inf, 0.0)
    _memory: tuple[float, float] = (-math.inf, 0.0)

    @property
    def utilization_ratio(self) -> float | None:
        """Return the last one read, unless that is long ago."""
        return self._utilization[1] if self.last_seconds - self._utilization[0] < RECENT_SECONDS else None

    @property
    def memory_bytes(self) -> float | None:
        """Return the last one read, unless that is long ago."""
        return self._memory[1] if self.last_seconds - self._memory[0] < RECENT_SECONDS else None

    def add(self, at_seconds: float, row: list[Any]) -> float:
        """Take in a row of a sample line that was written at a time; return the joules that are new."""
        before = self.joules or 0.0
        offset, energy, integrated, covered, _, _, busy, _, memory, *_ = row + [None] * (9 - len(row))
        end = at_seconds + offset
        if self.device.method in ("counter", "estimate"):
            self._count(energy, integrated or 0.0, covered or 0.0, end - self.last_seconds)
        elif self.device.method == "gauge" and integrated is not None:
            self._grow(integrated, covered or 0.0)
        self.last_seconds = end
        if busy is not None:
            self._utilization = (end, busy)
        if memory is not None:
            self._memory = (end, memory)
        return max(0.0, (self.joules or 0.0) - before)

    def _count(self, energy: float | None, integrated: float, covered: float, seconds: float) -> None:
        """Take in a counter's reading, or the power beside it as long as the counter stands still or tells nothing."""
        self._integrated = (self._integrated[0] + integrated, self._integrated[1] + covered)
        before, self._counter = self._counter, self._counter if energy is None else energy
        if energy is not None and before is not None:
            grown = energy - before if energy >= before else integrated
            self._moved = self._moved or energy != before
            self._counted += grown
            self._pending = 0.0
        else:
            grown = 0.0
            self._pending += integrated if before is not None else 0.0
        if not self._moved and self._integrated[0] > 0 and self._integrated[1] > FROZEN_SECONDS:
            self._grow(integrated, covered)
            self.joules = self._integrated[0]
        elif energy is not None and before is not None:
            self._grow(grown, seconds)
            self.joules = self._counted
        elif self._pending and self._moved:  # the counter failed: its power carries on
            self._grow(integrated, covered)
            self.joules = self._counted + self._pending

    def _grow(self, joules: float, seconds: float) -> None:
        self.joules = (self.joules or 0.0) + joules
        joules, seconds = self._power = (self._power[0] + joules, self._power[1] + seconds)
        if seconds >= POWER_SECONDS or (not self._settled and seconds >= FIRST_SECONDS):
            self.watts = joules / seconds
        if seconds >= POWER_SECONDS:
            self._settled, self._power = True, (0.0, 0.0)


@dataclass(slots=True)
class Tail:
    """One trace, read as far as it has been written.

    Attributes:
        header: its first line; {} before it could be read.
        spans: the phases that are open: path and begin, by number.
        step, steps: how far the trainer says it is, and how far it will go.
        place: what the machine said of itself.
        intensities: carbon intensity series that a provider answered.
        drawn: joules of what counts, by bins of BIN_SECONDS of unix time.
        note: the last one that is not of the start: what sensors this host lacks.
        status: the last line's; None before it is written.
    """

    path: Path
    header: Line = field(default_factory=dict)
    devices: dict[str, TailedDevice] = field(default_factory=dict)
    spans: dict[int, tuple[str, float]] = field(default_factory=dict)
    step: int | None = None
    steps: int | None = None
    place: dict[str, Any] = field(default_factory=dict)
    intensities: list[IntensitySeries] = field(default_factory=list)
    drawn: dict[int, float] = field(default_factory=dict)
    note: tuple[float, str] | None = None
    so_far: str | None = None
    status: str | None = None
    error: str | None = None
    last_seconds: float = 0.0
    heard_seconds: float = -math.inf
    _reader: LineReader = field(default_factory=LineReader)
    _offset: int = 0
    _inode: int = 0

    @property
    def attempt(self) -> int:
        """Which start of the run it belongs to."""
        return int(self.header.get("attempt", 1))

    @property
    def host(self) -> str:
        """Where its process ran."""
        return str(self.header.get("host", ""))

    @property
    def precedence(self) -> tuple[bool, int, bool, float, int]:
        """The place of its process in the order that begins with the run's lead process."""
        return precedence(self.header)

    def alive(self) -> bool:
        """Tell whether its process lives. No lock is held by this: of one that lives, it is taken already."""
        if self.status is not None:
            return False
        return time.monotonic() - self.heard_seconds < HEARD_SECONDS or is_alive(self.path, self.header)

    def ended(self) -> bool:
        """Tell whether there is nothing more to read: it said how it ended, and is the file that said so."""
        if self.status is None:
            return False
        try:
            status = self.path.stat()
        except OSError:
            return True
        return status.st_ino == self._inode and status.st_size == self._offset

    @property
    def machine(self) -> tuple[str, str]:
        """What tells its machine, within one boot, from all others."""
        return machine(self.header)

    def read(self) -> bytes:
        """Return the lines that are new, whole ones only; all of them again where the trace was compacted.

        Raises:
            OSError: it cannot be read now.
        """
        with self.path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:  # another file, with the same sums
                self._inode, self._offset, self.devices, self.spans = status.st_ino, 0, {}, {}
                self._reader = LineReader()
                self.drawn, self.intensities, self.status = {}, [], None
            stream.seek(self._offset)
            content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole and self.header:  # what a first look finds may be old
            self.heard_seconds = time.monotonic()
        self._offset += whole
        return content[:whole]

    def lines(self, content: bytes) -> Iterator[tuple[float, Tail, Line]]:
        """Yield (unix seconds, this, line) of what ``read`` returned; the header is taken in, not yielded."""
        for line in self._reader.read(content):
            if line is self._reader.header:
                self.header, self.last_seconds = line, max(self.last_seconds, line["start_seconds"])
            else:
                yield anchor(self.header) + line.get("t", self.last_seconds), self, line

    def _draw(self, device: TailedDevice, at_seconds: float, row: list[Any]) -> None:
        middle = (device.last_seconds + at_seconds) / 2
        grown = device.add(at_seconds, row)
        if grown and device.device.kind in COUNTED:
            place = int((anchor(self.header) + middle) // BIN_SECONDS)
            self.drawn[place] = self.drawn.get(place, 0.0) + grown

    def take(self, line: Line) -> None:  # noqa: C901  one branch a kind of line
        """Take in a line."""
        self.last_seconds = max(self.last_seconds, line.get("t", 0.0))
        match kind_of(line):
            case "d":
                for key, row in line["d"].items():
                    if key in self.devices:
                        self._draw(self.devices[key], line["t"], row)
            case "device":
                self.devices[line["device"]] = TailedDevice(device_of(line))
            case "begin":
                self.spans[line["begin"]] = (line["phase"], line["t"])
            case "end":
                self.spans.pop(line["end"], None)
            case "step":
                self.step, self.steps = line["step"], line.get("steps")
            case "note":
                self.note = self.note if line["note"] in OF_THE_START else (line["t"], line["text"])
            case "facts":
                self.place = line["facts"].get("place") or self.place
            case "intensity":
                self.intensities.append(intensity_of(line))
            case "so_far":
                self.so_far = line["so_far"]
            case "status":
                self.status, self.error = line["status"], line.get("error")
                self.last_seconds = min(self.last_seconds, line.get("end_seconds") or self.last_seconds)
                self.spans = {}
