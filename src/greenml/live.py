"""Running totals of a run that is still being measured: follows its traces, reading only what is new.

Read from any process, the run's own or another; costs the run nothing. What is shown here is close; the record,
which joins the curves, is right.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenml import trace
from greenml.job import boot_id
from greenml.record import Factors
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

STALE_SECONDS = 5.0  # a device that has not been read for longer is not thought to go on as before


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run used up to now. None is not known.

    Attributes:
        seconds: billed time, every attempt's.
        energy_joules: of GPUs, CPUs and DRAM.
        power_watts: now.
        emissions_grams: CO2e, PUE included.
        cost_usd: by tier, all nodes.
    """

    seconds: float
    energy_joules: float | None
    power_watts: float | None
    emissions_grams: float | None
    cost_usd: Mapping[str, float]


@dataclass(slots=True)
class _Device:
    """What one trace says of one device."""

    kind: str
    counts: bool
    joules: float | None = None
    counter: float | None = None
    watts: float | None = None
    last_seconds: float = 0.0

    def add(self, end_seconds: float, row: list[Any]) -> None:
        energy, integrated = (row[at] if len(row) > at else None for at in (1, 2))
        seconds = end_seconds - self.last_seconds
        if self.counts and energy is not None:
            if self.counter is not None:
                grown = energy - self.counter
                grown = grown if grown >= 0 else integrated or 0.0
                self.joules = (self.joules or 0.0) + grown
                self.watts = grown / seconds if seconds > 0 else self.watts
            self.counter = energy
        elif not self.counts and integrated is not None:
            self.joules = (self.joules or 0.0) + integrated
            self.watts = integrated / row[3] if len(row) > 3 and row[3] else self.watts
        self.last_seconds = end_seconds


@dataclass(slots=True)
class _Follower:
    """One trace, read as far as it has been written."""

    path: Path
    offset: int = 0
    inode: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    devices: dict[str, _Device] = field(default_factory=dict)
    last_seconds: float = 0.0
    ended: bool = False

    def update(self) -> None:
        with self.path.open("rb") as stream:
            inode = os.fstat(stream.fileno()).st_ino
            if inode != self.inode:  # compacted: another file, with the same sums
                self.offset, self.inode, self.devices = 0, inode, {}
            stream.seek(self.offset)
            text = stream.read()
        whole = text.rfind(b"\n") + 1
        self.offset += whole
        for one in text[:whole].splitlines():
            try:
                self._line(json.loads(one))
            except ValueError:
                continue

    def _line(self, line: dict[str, Any]) -> None:
        if "greenml_trace" in line:
            self.header, self.last_seconds = line, line["start_seconds"]
            return
        self.last_seconds = max(self.last_seconds, line.get("t", 0.0))
        if "device" in line:
            self.devices[line["device"]] = _Device(line["kind"], line["method"] in ("counter", "estimate"))
        elif "d" in line:
            for key, row in line["d"].items():
                if key in self.devices:
                    self.devices[key].add(line["t"] + row[0], row)
        elif "status" in line:
            self.ended = True


class Follower:
    """Follows every trace of a run directory.

    Args:
        run_dir: of the run.
        factors: what to account with.
        nodes: machines billed; None for as many hosts as wrote a trace.
    """

    def __init__(self, run_dir: Path, factors: Factors, nodes: int | None = None) -> None:
        self._run_dir, self._factors, self._nodes = run_dir, factors, nodes
        self._traces: dict[Path, _Follower] = {}
        self._boot = boot_id()

    def totals(self) -> Totals:
        """Read what is new and return the totals up to now; devices read a moment ago are thought to go on so."""
        now = time.monotonic()
        for path in trace.paths(self._run_dir):
            one = self._traces.setdefault(path, _Follower(path))
            if not one.ended:
                try:
                    one.update()
                except OSError:
                    continue
        known, watts = [], []
        for one in self._traces.values():
            here = one.header.get("boot_id") == self._boot and not one.ended
            for device in one.devices.values():
                if device.kind not in ("gpu", "cpu", "dram") or device.joules is None:
                    continue
                ahead = now - device.last_seconds if here else 0.0
                going = here and 0 <= ahead < STALE_SECONDS and device.watts is not None
                known.append(device.joules + (device.watts or 0.0) * ahead if going else device.joules)
                if going and device.watts is not None:
                    watts.append(device.watts)
        return self._account(sum(known) if known else None, sum(watts) if watts else None, self._seconds(now))

    def _seconds(self, now: float) -> float:
        """Return the clock of every attempt, from its first start to its last word (or now)."""
        attempts: dict[int, tuple[float, float]] = {}
        for one in self._traces.values():
            if not one.header:
                continue
            offset = trace.anchor(one.header)
            alive = one.header.get("boot_id") == self._boot and not one.ended and now - one.last_seconds < STALE_SECONDS
            span = (offset + one.header["start_seconds"], offset + (now if alive else one.last_seconds))
            number = int(one.header.get("attempt", 1))
            before = attempts.get(number, span)
            attempts[number] = (min(before[0], span[0]), max(before[1], span[1]))
        return sum(end - start for start, end in attempts.values())

    def _account(self, joules: float | None, watts: float | None, seconds: float) -> Totals:
        factors = self._factors
        grams = None
        if joules is not None and factors.carbon_intensity is not None and factors.pue is not None:
            grams = joules / JOULES_PER_KWH * factors.pue.value * factors.carbon_intensity.value
        hosts = {one.header.get("host") for one in self._traces.values() if one.header}
        hours = seconds / SECONDS_PER_HOUR * (self._nodes or len(hosts) or 1)
        costs = {tier: hours * price.value for tier, price in factors.prices.items()}
        return Totals(seconds, joules, watts, grams, costs)
