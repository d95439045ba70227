"""The energy of a machine's devices in recent spans of time, read from the traces of a run's processes as they grow.

``DeviceEnergies`` gives the windows that a meter shares out among requests; ``RecentEnergy`` gives what a run used,
emitted and cost between any two moments of the last minutes. The curves and their uncertainty are those of the record
(``greenml.energy.integrate``). Older samples are dropped: an endpoint that never ends needs no more memory than a short
run.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from greenml.accounting import totals
from greenml.energy import integrate
from greenml.energy.usage import Part, Span, usage
from greenml.record.schema import DeviceRecord, Factor, Factors, Totals, Usage
from greenml.run.live import LiveRun
from greenml.run.serving.ledger import WindowEnergy
from greenml.trace import file as trace_file
from greenml.trace import trace_paths
from greenml.trace.file import COUNTED, Tail
from greenml.trace.lines import Line, kind_of, rollups_of, share_late
from greenml.trace.types import Device, Rollup
from greenml.units import SECONDS_PER_HOUR

KEPT_SECONDS = 60.0  # of samples, for windows
HORIZON_SECONDS = 300.0  # of samples, for spans
SILENT_SECONDS = 5.0  # a device that has not been read for longer is not waited for
SETTLED_SECONDS = 1.5  # a device that is read once a second was read by then
LOOK_SECONDS = 0.02  # between two looks for a reading
SLACK_SECONDS = 0.02  # a reading this much before the end of a window belongs to it


class DeviceEnergies(LiveRun):
    """Follows the devices of this machine. For one thread.

    Args:
        run_dir: of the run.
        clock: monotonic seconds.
        unix_clock: unix seconds.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float], unix_clock: Callable[[], float]) -> None:
        super().__init__(run_dir)
        self._clock, self._unix_clock = clock, unix_clock
        self._lines: dict[Path, list[Line]] = defaultdict(list)  # of samples
        self._curves: dict[str, tuple[Device, integrate.Known, list[Rollup]]] = {}

    def read(self) -> None:
        """Take in what is new, and draw the curves."""
        self.totals()
        segments: dict[str, list[tuple[Device, list[Rollup]]]] = defaultdict(list)
        for path, lines in self._lines.items():
            while len(lines) > 2 and lines[1]["t"] < lines[-1]["t"] - KEPT_SECONDS:
                del lines[0]
            for key, samples in rollups_by_device(lines).items():
                followed = self._tails[path].devices.get(key)
                if followed is not None and followed.device.kind in COUNTED:
                    segments[followed.device.id].append((followed.device, samples))
        self._curves = {}
        for name, parts in segments.items():
            parts.sort(key=lambda part: part[1][0].start_seconds)
            known = integrate.curve_of(parts[0][0], [samples for _, samples in parts])
            if known.curve is not None:
                self._curves[name] = parts[0][0], known, [rollup for _, samples in parts for rollup in samples]

    def _take(self, tail: Tail, line: Line) -> None:
        if "d" in line and tail.header.get("boot_id") == self._boot:
            lines = self._lines[tail.path]
            if not lines or line["t"] > lines[-1]["t"]:  # else read again, after a compaction
                lines.append(line)

    def known_until_seconds(self) -> float | None:
        """Return up to when every device's energy is known that is being read; None while none is."""
        now = self._clock()
        ends = [known.curve.times_seconds[-1] for _, known, _ in self._curves.values() if known.curve]
        fresh = [end for end in ends if now - end < SILENT_SECONDS]
        return min(fresh) + SLACK_SECONDS if fresh else None

    def window(self, start_seconds: float, end_seconds: float) -> WindowEnergy:
        """Return what the devices used between two times."""
        span = (start_seconds, end_seconds)
        parts = list(self._parts(span))
        usd = self._usd_per_hour()
        cost = None if usd is None else usd * (end_seconds - start_seconds) / SECONDS_PER_HOUR
        if not parts:
            return WindowEnergy(*span, joules=None, usd=cost)
        joules = sum(part[0] for part in parts)
        unix_seconds = self._unix_clock() - self._clock() + (start_seconds + end_seconds) / 2
        grams, ratio = self._emissions(joules, unix_seconds)
        return WindowEnergy(
            *span,
            joules=joules,
            low_watts=sum(low for *_, (low, _) in parts),
            high_watts=sum(high for *_, (_, high) in parts),
            calibration_joules=sum(budget.calibration for _, budget, _ in parts),
            random_joules=math.hypot(
                *(term for _, budget, _ in parts for term in (budget.quantisation, budget.unsampled)),
                sum(budget.interpolation for _, budget, _ in parts),
            ),
            coverage_low_joules=sum(budget.coverage_low + budget.check_low for _, budget, _ in parts),
            coverage_high_joules=sum(budget.coverage + budget.check_high for _, budget, _ in parts),
            grams=grams,
            grams_ratio=ratio,
            usd=cost,
        )  # fmt: skip

    def _parts(
        self, span: tuple[float, float]
    ) -> Iterator[tuple[float, integrate.EnergyUncertainty, tuple[float, float]]]:
        """Yield the joules, their uncertainty and the range of the power of each device that was ever read.

        Of one that was not read in the span nothing is counted; what it can have used is a part of the uncertainty.
        """
        seconds, read = span[1] - span[0], set[str]()
        for name, (device, known, rollups) in self._curves.items():
            curve = known.curve
            if curve is None or not curve.covered_between(*span):
                continue
            read.add(name)
            peaks = [rollup.power_max_watts for rollup in rollups if rollup.end_seconds > span[0]]
            peak = max((watts for watts in peaks if watts is not None), default=None)
            budget = integrate.uncertainty(device, known, [span], peak)
            yield curve.between(*span), budget, _range(device, rollups, curve.between(*span) / seconds)
        for tail, seen in self._latest_reads().values():
            device = seen.device
            unread = seen.joules is not None and device.id not in read and tail.header.get("boot_id") == self._boot
            if unread and device.kind in COUNTED and read:
                watts = device.power_limit_watts or seen.watts or integrate.MAX_WATTS_UNKNOWN
                yield 0.0, integrate.EnergyUncertainty(0.0, 0.0, 0.0, watts * seconds), (0.0, watts)

    def _usd_per_hour(self) -> float | None:
        """Return the price of this machine in the tier that was paid."""
        price = self.factors.prices.get(self.settings.tier or "dedicated")
        return None if price is None else price.value

    def _emissions(self, joules: float, unix_seconds: float) -> tuple[float | None, float]:
        """Return the grams at the intensity of a moment, and the relative uncertainty of the factors."""
        grams, factors = self._grams(joules, at=unix_seconds), self.factors
        return grams, math.hypot(*(_ratio(factor) for factor in (factors.carbon_intensity, factors.pue)))


def _range(device: Device, rollups: Sequence[Rollup], watts: float) -> tuple[float, float]:
    """Return between which powers a device may lie at any moment."""
    low, high = integrate.power_range(device, [rollups])
    return min(low, watts), max(high or integrate.MAX_WATTS_UNKNOWN, watts)


def _ratio(factor: Factor | None) -> float:
    if factor is None or not factor.value:
        return 0.0
    return max(factor.value - factor.low, factor.high - factor.value) / factor.value


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
        for path in trace_paths(self._run_dir):
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
