"""The energy of a machine's devices over a window, read from the traces of all its workers as they grow.

The curves are those of the record (``greenml.energy.integrate``), drawn from the last minute of samples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from greenml.energy import integrate
from greenml.record.schema import Factor
from greenml.run.live.follower import LiveRun
from greenml.run.live.recent import rollups_by_device
from greenml.run.serving.attribution import WindowEnergy
from greenml.trace.lines import Line
from greenml.trace.tail import COUNTED, Tail
from greenml.trace.types import Device, Rollup
from greenml.units import SECONDS_PER_HOUR

KEPT_SECONDS = 60.0  # of samples
SILENT_SECONDS = 5.0  # a device that has not been read for longer is not waited for
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
