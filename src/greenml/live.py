"""A run that is still being measured: what it does now and used so far, off its traces as they grow.

Read from any process, the run's own or another; costs the run nothing: no lock is taken and nothing written. What is
shown here is close; the record, which joins the curves, is right.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from greenml import trace
from greenml.forecast import Forecast
from greenml.job import boot_id
from greenml.live_intensity import LiveIntensity
from greenml.moment import DeviceNow, Now, Totals
from greenml.record import Factors
from greenml.tail import COUNTED, Tail, TailedDevice
from greenml.trace_lines import Line
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

STALE_SECONDS = 5.0  # a device that has not been read for longer is not thought to go on as before
NEWS_SECONDS = 600.0  # a note is news for so long


class Follower:
    """Follows every trace of a run directory.

    Args:
        run_dir: of the run.
        factors: what to account with.
        nodes: machines billed; None for as many hosts as wrote a trace.
    """

    def __init__(self, run_dir: Path, factors: Factors, nodes: int | None = None) -> None:
        self._run_dir, self._factors, self._nodes = run_dir, factors, nodes
        self._tails: dict[Path, Tail] = {}
        self._boot = boot_id()
        self._most: Totals | None = None
        self._intensity = LiveIntensity()
        self._spans: dict[int, tuple[float, float]] = {}  # of attempts, unix seconds
        self._latest = 1  # attempt
        self._forecast, self._teller, self._step_unix_seconds = Forecast(), Tail(Path()), 0.0

    def account_with(self, factors: Factors, nodes: int | None) -> None:
        """Account with other factors from now on: the place became known."""
        self._factors, self._nodes, self._most = factors, nodes, None

    def totals(self) -> Totals:
        """Read what is new and return the totals up to now; devices read a moment ago are thought to go on so.

        Energy never falls: where that guess was too high, it waits.
        """
        self._read()
        now = time.monotonic()
        known, watts = [], []
        for one in self._tails.values():
            here = self._here(one)
            for device in one.devices.values():
                if device.device.kind not in COUNTED or device.joules is None:
                    continue
                ahead = now - device.last_seconds if here else 0.0
                going = here and 0 <= ahead < STALE_SECONDS and device.watts is not None
                known.append(device.joules + (device.watts or 0.0) * ahead if going else device.joules)
                if device.watts is not None and self._fresh(one, device, now):
                    watts.append(device.watts)
        made = self._account(sum(known) if known else None, sum(watts) if watts else None, self._seconds(now))
        most = self._most
        if most is not None and (made.energy_joules or 0.0) < (most.energy_joules or 0.0):
            made = replace(made, energy_joules=most.energy_joules, emissions_grams=most.emissions_grams)
        self._most = made
        return made

    def now(self) -> Now:
        """Read what is new and return the whole picture."""
        totals, now = self.totals(), time.monotonic()
        tails = self._speakers()
        told = next((one for one in tails if one.steps), None)
        spans = next((one for one in tails if one.spans), None)
        clock = now if spans is not None and self._here(spans) else spans.last_seconds if spans is not None else 0.0
        status, error = _status(tails)
        power = totals.power_watts if status == "running" else None
        step, steps = (told.step, told.steps) if told is not None else (None, None)
        hosts = dict.fromkeys(one.host for one in tails)
        return Now(
            name=next((str(one.header["name"]) for one in tails if one.header.get("name")), ""),
            status=status,
            error=error,
            attempt=self._latest,
            hosts=tuple(sorted(hosts)),
            processes=len(tails),
            totals=totals,
            devices=self._devices(tails, now),
            phases=[] if spans is None else [(path, clock - begun) for path, begun in spans.spans.values()],
            step=step,
            steps=steps,
            expected=self._forecast.expected(steps, totals) if steps and told is self._teller else None,
            grams_per_hour=None if power is None else self._grams(power * SECONDS_PER_HOUR, at=time.time()),
            usd_per_hour={tier: price.value * self._billed() for tier, price in self._factors.prices.items()},
            note=next((one.note[1] for one in tails if one.note and one.last_seconds - one.note[0] < NEWS_SECONDS), ""),
        )

    def told(self) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
        """Return what settles the factors: the headers, of the process that speaks first, and the place if one told."""
        tails = self._speakers()
        return [one.header for one in tails], next((one.place for one in tails if one.place), {})

    def _read(self) -> None:
        """Take in what is new, of all processes in the order in which it happened."""
        news: list[Iterator[tuple[float, Tail, Line]]] = []
        for path in trace.paths(self._run_dir):
            one = self._tails.setdefault(path, Tail(path))
            if not one.ended():
                try:
                    news.append(one.lines(one.read()))
                except OSError:
                    continue
        for unix_seconds, one, line in heapq.merge(*news, key=lambda item: item[0]):
            try:
                one.take(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # not ours
            first, last = self._spans.get(one.attempt, (_begun(one), unix_seconds))
            self._spans[one.attempt] = (min(first, _begun(one)), max(last, unix_seconds))
            if "step" in line:
                self._stepped(one, line["step"], unix_seconds)
        self._latest = max((one.attempt for one in self._tails.values() if one.header), default=1)

    def _stepped(self, one: Tail, step: int, unix_seconds: float) -> None:
        """Take a step in, of the process that speaks first of those that tell any; each once."""
        teller = self._teller
        if one is not teller and teller.attempt == one.attempt and teller.header and teller.speaks <= one.speaks:
            return
        if one is teller and unix_seconds <= self._step_unix_seconds:
            return  # read again, after a compaction
        joules = [
            device.joules
            for tail in self._tails.values()
            for device in tail.devices.values()
            if device.device.kind in COUNTED and device.joules is not None
        ]
        before = (end - start for attempt, (start, end) in self._spans.items() if attempt != one.attempt)
        seconds = sum(before) + unix_seconds - self._spans[one.attempt][0]
        used = Totals(seconds, sum(joules) if joules else None, None, None, {})
        last = self._forecast.last_step
        if one is not teller or last is None or step < last:
            self._teller = one
            self._forecast.begin(step, used)
        else:
            self._forecast.add(step, used)
        self._step_unix_seconds = unix_seconds

    def _speakers(self) -> list[Tail]:
        """Return the traces of the last attempt, the one that speaks for the run first."""
        known = (one for one in self._tails.values() if one.header and one.attempt == self._latest)
        return sorted(known, key=lambda one: one.speaks)

    def _here(self, one: Tail) -> bool:
        """Tell whether a trace's process may be at work on this machine: of this boot, not ended, last attempt."""
        return one.header.get("boot_id") == self._boot and one.status is None and one.attempt == self._latest

    def _fresh(self, one: Tail, device: TailedDevice, now: float) -> bool:
        """Tell whether what is known of a device is of now."""
        if self._here(one):
            return 0 <= now - device.last_seconds < STALE_SECONDS
        heard = one.status is None and now - one.heard_seconds < STALE_SECONDS
        return heard and one.last_seconds - device.last_seconds < STALE_SECONDS

    def _devices(self, tails: Sequence[Tail], now: float) -> list[DeviceNow]:
        """Return each device once: as the process saw it that read it last."""
        latest: dict[tuple[str, str, str], tuple[Tail, TailedDevice]] = {}
        for one in tails:
            for device in one.devices.values():
                place = (*one.clock, device.device.id)
                if place not in latest or latest[place][1].last_seconds < device.last_seconds:
                    latest[place] = (one, device)
        made = []
        for tail, device in latest.values():
            what, fresh = device.device, self._fresh(tail, device, now)
            made.append(
                DeviceNow(
                    host=tail.host,
                    kind=what.kind,
                    id=what.id,
                    label=str(what.detail.get("index", "")) or what.id,
                    name=what.name,
                    power_watts=device.watts if fresh else None,
                    power_limit_watts=what.power_limit_watts,
                    utilization_ratio=device.utilization_ratio if fresh else None,
                    memory_bytes=device.memory_bytes if fresh else None,
                    memory_total_bytes=what.memory_total_bytes,
                )
            )
        return sorted(made, key=lambda one: (one.host, not one.label.isdecimal(), one.label.zfill(8), one.id))

    def _seconds(self, now: float) -> float:
        """Return the clock of every attempt, from its first start to its last word (or now)."""
        attempts: dict[int, tuple[float, float]] = {}
        for one in self._tails.values():
            if not one.header:
                continue
            alive = self._here(one) and now - one.last_seconds < STALE_SECONDS
            end = trace.anchor(one.header) + (now if alive else one.last_seconds)
            before = attempts.get(one.attempt, (_begun(one), end))
            attempts[one.attempt] = (min(before[0], _begun(one)), max(before[1], end))
        return sum(end - start for start, end in attempts.values())

    def _billed(self) -> int:
        hosts: dict[int, set[tuple[str, str]]] = {}
        for one in self._tails.values():
            if one.header:
                hosts.setdefault(one.attempt, set()).add(one.clock)
        return self._nodes or max((len(each) for each in hosts.values()), default=1)

    def _grams(self, joules: float, at: float = math.nan) -> float | None:
        """Return the emissions of joules at the intensity of a moment (unix seconds), else at the mean so far."""
        factors = self._factors
        tails = sorted(self._tails.values(), key=lambda one: one.speaks, reverse=True)  # who speaks first is believed
        courses = [course for one in sorted(tails, key=lambda one: one.attempt) for course in one.courses]
        yearly = factors.carbon_intensity.value if factors.carbon_intensity is not None else None
        intensity = self._intensity.mean(courses, (one.drawn for one in tails), yearly)
        now = self._intensity.at(at)
        intensity = intensity if now is None else now
        if intensity is None or factors.pue is None:
            return None
        return joules / JOULES_PER_KWH * factors.pue.value * intensity

    def _account(self, joules: float | None, watts: float | None, seconds: float) -> Totals:
        grams = None if joules is None else self._grams(joules)
        hours = seconds / SECONDS_PER_HOUR * self._billed()
        costs = {tier: hours * price.value for tier, price in self._factors.prices.items()}
        return Totals(seconds, joules, watts, grams, costs)


def _begun(one: Tail) -> float:
    return trace.anchor(one.header) + float(one.header["start_seconds"])


def _status(tails: Sequence[Tail]) -> tuple[str, str | None]:
    """Return how the last attempt stands, as the record would have it."""
    if not tails or any(one.alive() for one in tails):
        return "running", None
    lead = min(tails, key=lambda one: (one.speaks[:2], one.status is None and one.so_far is None, one.speaks[2]))
    return lead.status or lead.so_far or "killed", lead.error
