"""One process's trace, read as it grows: only what is new is read, and what it said so far is kept."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenml import trace
from greenml.facts import IntensityCourse
from greenml.model import Device
from greenml.trace_lines import Line, course_of, device_of

HEARD_SECONDS = 5.0  # a process that wrote this recently lives; of any other its lock is looked at
POWER_SECONDS = 0.5  # power is told over at least this long: samples at phases' edges are shorter than a counter's step
FIRST_SECONDS = 0.1  # the first of all, which is less sure, over at least this
COUNTED = ("gpu", "cpu", "dram")  # what IT energy is made of
BIN_SECONDS = 300  # energy is kept apart by these bins of time: no provider of carbon intensity has shorter slots
OF_THE_START = ("sensor-absent",)  # notes
FROZEN_SECONDS = 2.0  # as in greenml.energy: a counter that has not moved for so long under power does not count
FRESH_SECONDS = 5.0  # utilization and memory that are older are not those of now


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
    _moved: bool = False
    _integrated: tuple[float, float] = (0.0, 0.0)  # joules and seconds, by power beside a counter
    _power: tuple[float, float] = (0.0, 0.0)  # joules and seconds since ``watts`` was told
    _settled: bool = False  # ``watts`` was over that long; before, it is as good as can be
    _utilization: tuple[float, float] = (-math.inf, 0.0)
    _memory: tuple[float, float] = (-math.inf, 0.0)

    @property
    def utilization_ratio(self) -> float | None:
        """Return the last one read, unless that is long ago."""
        return self._utilization[1] if self.last_seconds - self._utilization[0] < FRESH_SECONDS else None

    @property
    def memory_bytes(self) -> float | None:
        """Return the last one read, unless that is long ago."""
        return self._memory[1] if self.last_seconds - self._memory[0] < FRESH_SECONDS else None

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
        else:
            grown = 0.0
        if not self._moved and self._integrated[0] > 0 and self._integrated[1] > FROZEN_SECONDS:
            self._grow(integrated, covered)
            self.joules = self._integrated[0]
        elif energy is not None and before is not None:
            self._grow(grown, seconds)
            self.joules = self._counted

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
        courses: what a carbon intensity's provider answered.
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
    courses: list[IntensityCourse] = field(default_factory=list)
    drawn: dict[int, float] = field(default_factory=dict)
    note: tuple[float, str] | None = None
    so_far: str | None = None
    status: str | None = None
    error: str | None = None
    last_seconds: float = 0.0
    heard_seconds: float = -math.inf
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
    def speaks(self) -> tuple[bool, int, float]:
        """Order processes by who speaks for the run: a parent that watches, then rank 0, then who began."""
        header = self.header
        return (not header.get("watches"), header.get("rank") or 0, header.get("unix_seconds", 0.0))

    def alive(self) -> bool:
        """Tell whether its process lives. No lock is held by this: of one that lives, it is taken already."""
        if self.status is not None:
            return False
        return time.monotonic() - self.heard_seconds < HEARD_SECONDS or trace.is_alive(self.path, self.host)

    def ended(self) -> bool:
        """Tell whether there is nothing more to read: it said how it ended, and is the file that said so."""
        if self.status is None:
            return False
        try:
            found = self.path.stat()
        except OSError:
            return True
        return found.st_ino == self._inode and found.st_size == self._offset

    @property
    def clock(self) -> tuple[str, str]:
        """What tells its machine from others, also of the same name: the host, and when that was booted."""
        return self.host, str(self.header.get("boot_id", ""))

    def read(self) -> bytes:
        """Return the lines that are new, whole ones only; all of them again where the trace was compacted.

        Raises:
            OSError: it cannot be read now.
        """
        with self.path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:  # another file, with the same sums
                self._inode, self._offset, self.devices, self.spans = found.st_ino, 0, {}, {}
                self.drawn, self.courses, self.status = {}, [], None
            stream.seek(self._offset)
            content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole and self.header:  # what a first look finds may be old
            self.heard_seconds = time.monotonic()
        self._offset += whole
        return content[:whole]

    def lines(self, content: bytes) -> Iterator[tuple[float, Tail, Line]]:
        """Yield (unix seconds, this, line) of what ``read`` returned; the header is taken in, not yielded."""
        for text in content.splitlines():
            try:
                line = json.loads(text)
                if "greenml_trace" in line:
                    if trace.anchor(line) and line["greenml_trace"] <= trace.FORMAT:
                        self.header, self.last_seconds = line, max(self.last_seconds, line["start_seconds"])
                elif self.header:
                    yield trace.anchor(self.header) + line.get("t", self.last_seconds), self, line
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut off, or not ours

    def _draw(self, device: TailedDevice, at_seconds: float, row: list[Any]) -> None:
        middle = (device.last_seconds + at_seconds) / 2
        grown = device.add(at_seconds, row)
        if grown and device.device.kind in COUNTED:
            place = int((trace.anchor(self.header) + middle) // BIN_SECONDS)
            self.drawn[place] = self.drawn.get(place, 0.0) + grown

    def take(self, line: Line) -> None:  # noqa: C901  one branch a kind of line
        """Take in a line."""
        self.last_seconds = max(self.last_seconds, line.get("t", 0.0))
        if "d" in line:
            for key, row in line["d"].items():
                if key in self.devices:
                    self._draw(self.devices[key], line["t"], row)
        elif "device" in line:
            self.devices[line["device"]] = TailedDevice(device_of(line))
        elif "begin" in line:
            self.spans[line["begin"]] = (line["phase"], line["t"])
        elif "end" in line:
            self.spans.pop(line["end"], None)
        elif "step" in line:
            self.step, self.steps = line["step"], line["steps"]
        elif "note" in line:
            self.note = self.note if line["note"] in OF_THE_START else (line["t"], line["text"])
        elif "found" in line:
            self.place = line["found"].get("place") or self.place
        elif "intensity" in line:
            self.courses.append(course_of(line))
        elif "so_far" in line:
            self.so_far = line["so_far"]
        elif "status" in line:
            self.status, self.error = line["status"], line.get("error")
            self.spans = {}
