"""The energy of a running run's devices between two recent moments, from the traces that its processes write now.

The figures are those that the record would have: the same curves, the same uncertainty. Only the last minutes are kept,
so that a run without end needs no more memory than a short one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from greenml.accounting import totals
from greenml.energy import integrate
from greenml.energy.usage import Part, Span, usage
from greenml.record.schema import DeviceRecord, Factors, Totals, Usage
from greenml.trace import file as trace_file
from greenml.trace.late_samples import share_late
from greenml.trace.lines import Line, kind_of, rollups_of
from greenml.trace.tail import COUNTED, Tail
from greenml.trace.types import Device, Rollup

HORIZON_SECONDS = 300.0
SETTLED_SECONDS = 1.5  # a device that is read once a second was read by then
LOOK_SECONDS = 0.02


@dataclass(slots=True)
class _Recent:
    """A trace that grows, and its sample lines of the last minutes."""

    tail: Tail
    lines: deque[Line] = field(default_factory=deque)


class RecentEnergy:
    """Follows the traces of a run on this machine. For one thread.

    Args:
        run_dir: of the run.
        horizon_seconds: how far back a moment may lie.
    """

    def __init__(self, run_dir: Path, horizon_seconds: float = HORIZON_SECONDS) -> None:
        self._run_dir, self._horizon_seconds = run_dir, horizon_seconds
        self._recent: dict[Path, _Recent] = {}
        self._boot = trace_file.boot_id()

    def read(self) -> None:
        """Read what is new."""
        for path in trace_file.paths(self._run_dir):
            recent = self._recent.setdefault(path, _Recent(Tail(path)))
            if recent.tail.ended():
                continue
            try:
                news = list(recent.tail.lines(recent.tail.read()))
            except OSError:
                continue
            known = recent.lines[-1]["t"] if recent.lines else float("-inf")
            for _, tail, line in news:
                tail.take(line)
                if kind_of(line) == "d" and line["t"] > known:  # a compacted trace is read again from its beginning
                    recent.lines.append(line)
            while recent.lines and recent.lines[0]["t"] < recent.lines[-1]["t"] - self._horizon_seconds:
                recent.lines.popleft()

    def wait(self, until_seconds: float, patience_seconds: float = SETTLED_SECONDS) -> None:
        """Read until every device with energy has been read at or after a moment, or patience ends."""
        end = time.monotonic() + patience_seconds
        while True:
            self.read()
            latest: dict[str, float] = {}
            for recent in self._recent.values():
                for read in recent.tail.devices.values():
                    if read.device.kind in COUNTED:
                        latest[read.device.id] = max(read.last_seconds, latest.get(read.device.id, 0.0))
            if (latest and min(latest.values()) >= until_seconds) or time.monotonic() >= end:
                return
            time.sleep(LOOK_SECONDS)

    def used(self, spans: Sequence[Span]) -> list[tuple[DeviceRecord, Usage]]:
        """Return each device with what it did in some spans of time (monotonic seconds)."""
        if not spans:
            return []
        life = (min(start for start, _ in spans), max(end for _, end in spans))
        segments: dict[str, tuple[Device, list[list[Rollup]]]] = {}
        for recent in self._recent.values():
            if recent.tail.header.get("boot_id") != self._boot:
                continue  # of another machine, whose clock is another
            for key, rollups in rollups_by_device(recent.lines).items():
                if key in recent.tail.devices:
                    device = recent.tail.devices[key].device
                    segments.setdefault(device.id, (device, []))[1].append(rollups)
        return [_used(device, sources, spans, life) for device, sources in segments.values()]

    def totals(self, spans: Sequence[Span], factors: Factors, nodes: int = 1) -> Totals:
        """Return what the run used, emitted and cost in some spans of time.

        Args:
            spans: monotonic seconds.
            factors: what to account with.
            nodes: machines billed.
        """
        return totals.totals("window", sum(end - start for start, end in spans), self.used(spans), factors, nodes)


def rollups_by_device(lines: Iterable[Line]) -> Mapping[str, list[Rollup]]:
    """Return the rollups of one trace's sample lines, by the key of their device in the trace."""
    rollups: dict[str, list[Rollup]] = {}
    last: dict[str, float] = {}
    for line in share_late(list(lines)):
        for key, rollup in rollups_of(line, last):
            last[key] = rollup.end_seconds
            rollups.setdefault(key, []).append(rollup)
    return rollups


def _used(device: Device, sources: list[list[Rollup]], spans: Sequence[Span], life: Span) -> tuple[DeviceRecord, Usage]:
    sources.sort(key=lambda rollups: rollups[0].start_seconds)
    known = integrate.curve_of(device, sources)
    rollups = sorted((rollup for rollups in sources for rollup in rollups), key=lambda rollup: rollup.end_seconds)
    part = Part(device, 0.0, known, rollups, [rollup.end_seconds for rollup in rollups], life)
    made = usage([part], spans)
    record = DeviceRecord(
        id=device.id, kind=device.kind, name=device.name, host="", method=known.method,
        sensor=device.sensor, power_limit_watts=device.power_limit_watts, detail=dict(device.detail),
        note=device.note, usage=made,
    )  # fmt: skip
    return record, made
