"""One process's trace, read as it grows: only what is new is read, and what it said so far is kept."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenml.factors.types import IntensitySeries
from greenml.trace import file as trace_file
from greenml.trace.lines import Line, LineReader, device_of, intensity_of, kind_of
from greenml.trace.types import Device

HEARD_SECONDS = 5.0  # a process that wrote this recently lives; of any other its lock is looked at
POWER_SECONDS = 0.5  # power is a mean over this long at least: samples at edges are shorter than a counter's step
FIRST_SECONDS = 0.1  # the first of all, which is less sure, over at least this
COUNTED = ("gpu", "cpu", "dram")  # what IT energy is made of
BIN_SECONDS = 300  # energy is kept apart by these bins of time: no provider of carbon intensity has shorter slots
OF_THE_START = ("sensor-absent",)  # notes
FROZEN_SECONDS = (
    2.0  # as in greenml.energy.integrate: a counter that has not moved for so long under power does not count
)
FRESH_SECONDS = 10.0  # utilization and memory that are older are not those of now


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
        return trace_file.precedence(self.header)

    def alive(self) -> bool:
        """Tell whether its process lives. No lock is held by this: of one that lives, it is taken already."""
        if self.status is not None:
            return False
        return time.monotonic() - self.heard_seconds < HEARD_SECONDS or trace_file.is_alive(self.path, self.header)

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
        return trace_file.machine(self.header)

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
                yield trace_file.anchor(self.header) + line.get("t", self.last_seconds), self, line

    def _draw(self, device: TailedDevice, at_seconds: float, row: list[Any]) -> None:
        middle = (device.last_seconds + at_seconds) / 2
        grown = device.add(at_seconds, row)
        if grown and device.device.kind in COUNTED:
            place = int((trace_file.anchor(self.header) + middle) // BIN_SECONDS)
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
