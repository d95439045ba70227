"""The live figures of a run: what it uses now and used so far, read from its traces as they grow.

``LiveRun`` reads in the caller's thread, for a program that watches. ``BackgroundTotals`` reads in a thread of its own,
for training code: no step waits for a file. Neither takes a lock on the run or writes anything. The figures are close;
those of the record, which joins the curves of energy, are exact.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from greenml.accounting import hourly
from greenml.accounting.status import DeviceStatus, Forecast, RunningTotals, RunStatus
from greenml.factors.types import IntensitySeries
from greenml.record.schema import Factors
from greenml.run import assembly, finish
from greenml.settings import Settings
from greenml.trace import file as trace_file
from greenml.trace import trace_paths
from greenml.trace.file import BIN_SECONDS, COUNTED, Tail, TailedDevice
from greenml.trace.lines import Line
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

STALE_SECONDS = 5.0  # a device that has not been read for longer is not taken to go on as before
NEWS_SECONDS = 600.0  # a note is shown for so long
READ_SECONDS = 1.0  # between two reads in the background
INTENSITY_SECONDS = 10.0  # between two means of the carbon intensity over hours, which moves slowly
IDLE_SECONDS = 30.0  # the background reader ends when nobody has asked for so long
FIRST_WAIT_SECONDS = 0.25  # for the first figures, once
LAST_WAIT_SECONDS = 1.0  # for a read that is under way when the run has ended
NOTHING = RunningTotals(0.0, None, None, None, {})
Machine = tuple[str, str]


class LiveRun:
    """Follows every trace of a run directory. For one thread.

    Args:
        run_dir: of the run.
        factors: what to account with; by default, what the record of the run will be accounted with.
        nodes: machines billed; by default, those of the run's settings, else as many as wrote a trace.

    Attributes:
        factors: what is accounted with, as far as it is known by now.
        settings: of the run.
        place: what its machine says of itself.
    """

    def __init__(self, run_dir: Path, factors: Factors | None = None, nodes: int | None = None) -> None:
        self.factors, self.settings = factors or Factors(), Settings(nodes=nodes)
        self.place: Mapping[str, Any] = {}
        self._run_dir, self._given = run_dir, factors is not None
        self._tails: dict[Path, Tail] = {}
        self._boot = trace_file.boot_id()
        self._most: RunningTotals | None = None
        self._intensity = LiveIntensity()
        self._spans: dict[int, tuple[float, float]] = {}  # of attempts, unix seconds
        self._first_seconds: dict[tuple[Path, str], float] = {}  # of each device in each trace, its first read
        self._latest = 1  # attempt
        self._forecast, self._step_tail, self._step_unix_seconds = Forecast(), Tail(Path()), 0.0
        self._settled: tuple[int, dict[str, Any]] | None = None  # by which headers and place the factors are known

    def now(self) -> RunStatus:
        """Read what is new and return the whole picture."""
        totals, now = self.totals(), time.monotonic()
        tails = self._last_attempt()
        steps_tail = next((tail for tail in tails if tail.steps), None)
        phases_tail = next((tail for tail in tails if tail.spans), None)
        phases: list[tuple[str, float]] = []
        if phases_tail is not None:
            clock = now if self._is_here(phases_tail) else phases_tail.last_seconds
            phases = [(path, clock - begin) for path, begin in phases_tail.spans.values()]
        status, error = _status(tails)
        power = totals.power_watts if status == "running" else None
        step, steps = (steps_tail.step, steps_tail.steps) if steps_tail is not None else (None, None)
        expected = steps_tail is not None and steps_tail is self._step_tail and steps
        return RunStatus(
            name=next((str(tail.header["name"]) for tail in tails if tail.header.get("name")), ""),
            status=status,
            error=error,
            attempt=self._latest,
            hosts=tuple(sorted(self._host_names().values())),
            processes=len(tails),
            totals=totals,
            devices=self._devices(now),
            phases=phases,
            step=step,
            steps=steps,
            expected=self._forecast.expected(steps, totals) if expected and steps else None,
            grams_per_hour=None if power is None else self._grams(power * SECONDS_PER_HOUR, at=time.time()),
            usd_per_hour={tier: price.value * self._billed() for tier, price in self.factors.prices.items()},
            note=next(
                (tail.note[1] for tail in tails if tail.note and tail.last_seconds - tail.note[0] < NEWS_SECONDS), ""
            ),
        )

    def totals(self, place: Mapping[str, Any] | None = None) -> RunningTotals:
        """Read what is new and return the totals up to now. Devices read a moment ago are taken to go on as they were.

        Energy never falls: where that guess was too high, it stands still.

        Args:
            place: what this machine says of itself, where no trace has it yet.
        """
        self._read()
        self._settle_factors(place or {})
        now = time.monotonic()
        watts = [
            device.watts for tail, device in self._latest_reads().values()
            if device.watts is not None and device.device.kind in COUNTED and self._is_fresh(tail, device, now)
        ]  # fmt: skip
        totals = self._account(self._joules(now), sum(watts) if watts else None, self._seconds(now))
        most = self._most
        if most is not None and (totals.energy_joules or 0.0) < (most.energy_joules or 0.0):
            totals = replace(totals, energy_joules=most.energy_joules, emissions_grams=most.emissions_grams)
        self._most = totals
        return totals

    def gpu_joules(self) -> float:
        """Return the energy of the GPUs up to their last readings, of what ``totals`` has read."""
        return self._joules(kinds=("gpu",)) or 0.0

    def _settle_factors(self, place: Mapping[str, Any]) -> None:
        """Settle the factors again where a process joined, or the place became known."""
        tails = self._last_attempt()
        place = dict(next((tail.place for tail in tails if tail.place), {}) or place)
        settled = len(tails), place
        if self._given or not tails or settled == self._settled:
            return
        self._settled, self.place, self._most = settled, place, None
        self.factors, self.settings = finish.current_factors([tail.header for tail in tails], place)

    def _read(self) -> None:
        """Take in what is new, of all processes in the order in which it happened."""
        news: list[Iterator[tuple[float, Tail, Line]]] = []
        for path in trace_paths(self._run_dir):
            tail = self._tails.setdefault(path, Tail(path))
            if not tail.ended():
                try:
                    news.append(tail.lines(tail.read()))
                except OSError:
                    continue
        for unix_seconds, tail, line in heapq.merge(*news, key=lambda item: item[0]):
            try:
                tail.take(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # not ours
            self._take(tail, line)
            first, last = self._spans.get(tail.attempt, (_begin(tail), unix_seconds))
            self._spans[tail.attempt] = (min(first, _begin(tail)), max(last, unix_seconds))
            for key in line.get("d", ()):
                if key in tail.devices:
                    self._first_seconds.setdefault((tail.path, key), tail.devices[key].last_seconds)
            if "step" in line:
                self._take_step(tail, line["step"], unix_seconds)
        self._latest = max((tail.attempt for tail in self._tails.values() if tail.header), default=1)

    def _take(self, tail: Tail, line: Line) -> None:
        """Take a line in that the tail has taken: for a follower that keeps more."""

    def _take_step(self, tail: Tail, step: int, unix_seconds: float) -> None:
        """Take a step in, of the first process by precedence that tells any; each step once."""
        step_tail = self._step_tail
        earlier = step_tail.header and step_tail.attempt == tail.attempt and step_tail.precedence <= tail.precedence
        if tail is not step_tail and earlier:
            return
        if tail is step_tail and unix_seconds <= self._step_unix_seconds:
            return  # read again, after a compaction
        before = (end - start for attempt, (start, end) in self._spans.items() if attempt != tail.attempt)
        seconds = sum(before) + unix_seconds - self._spans[tail.attempt][0]
        used = RunningTotals(seconds, self._joules(), None, None, {})
        last = self._forecast.last_step
        if tail is not step_tail or last is None or step < last:
            self._step_tail = tail
            self._forecast.begin(step, used)
        else:
            self._forecast.add(step, used)
        self._step_unix_seconds = unix_seconds

    def _joules(self, now: float | None = None, kinds: Collection[str] = COUNTED) -> float | None:
        """Return the joules of all devices, up to ``now`` where it is given; each device's time counts once.

        Two containers on a machine may both measure a device of it: of what they measured at the same time, the first
        one's figure counts.
        """
        measured: dict[tuple[int, Machine, str], list[tuple[float, float, float]]] = defaultdict(list)
        for tail in self._tails.values():
            for key, device in tail.devices.items():
                if device.device.kind not in kinds or device.joules is None:
                    continue
                ahead = now - device.last_seconds if now is not None and self._is_here(tail) else 0.0
                goes_on = 0 <= ahead < STALE_SECONDS and device.watts is not None
                joules = device.joules + ((device.watts or 0.0) * ahead if goes_on else 0.0)
                first = self._first_seconds.get((tail.path, key), device.last_seconds)
                last = device.last_seconds + (ahead if goes_on else 0.0)
                measured[tail.attempt, tail.machine, device.device.id].append((first, last, joules))
        return sum(_joined_joules(spans) for spans in measured.values()) if measured else None

    def _last_attempt(self) -> list[Tail]:
        """Return the traces of the last attempt, that of the lead process first."""
        tails = (tail for tail in self._tails.values() if tail.header and tail.attempt == self._latest)
        return sorted(tails, key=lambda tail: tail.precedence)

    def _host_names(self) -> dict[Machine, str]:
        """Return a name for each machine of the last attempt: its first host name, no two alike."""
        names: dict[Machine, str] = {}
        for tail in self._last_attempt():
            if tail.machine not in names:
                taken = tail.host in names.values()
                names[tail.machine] = f"{tail.host}-{tail.machine[1][:8]}" if taken else tail.host
        return names

    def _is_here(self, tail: Tail) -> bool:
        """Tell whether a trace's process may be at work on this machine: of this boot, not ended, last attempt."""
        return tail.header.get("boot_id") == self._boot and tail.status is None and tail.attempt == self._latest

    def _is_fresh(self, tail: Tail, device: TailedDevice, now: float) -> bool:
        """Tell whether what is known of a device is of now."""
        if self._is_here(tail):
            return 0 <= now - device.last_seconds < STALE_SECONDS
        heard = tail.status is None and now - tail.heard_seconds < STALE_SECONDS
        return heard and tail.last_seconds - device.last_seconds < STALE_SECONDS

    def _latest_reads(self) -> dict[tuple[Machine, str], tuple[Tail, TailedDevice]]:
        """Return each device of the last attempt once: as the process saw it that read it last."""
        latest: dict[tuple[Machine, str], tuple[Tail, TailedDevice]] = {}
        for tail in self._last_attempt():
            for device in tail.devices.values():
                key = (tail.machine, device.device.id)
                if key not in latest or latest[key][1].last_seconds < device.last_seconds:
                    latest[key] = (tail, device)
        return latest

    def _devices(self, now: float) -> list[DeviceStatus]:
        names, statuses = self._host_names(), []
        for tail, read in self._latest_reads().values():
            device, fresh = read.device, self._is_fresh(tail, read, now)
            statuses.append(
                DeviceStatus(
                    host=names[tail.machine],
                    kind=device.kind,
                    id=device.id,
                    label=str(device.detail.get("index", "")) or device.id,
                    name=device.name,
                    power_watts=read.watts if fresh else None,
                    power_limit_watts=device.power_limit_watts,
                    utilization_ratio=read.utilization_ratio if fresh else None,
                    memory_bytes=read.memory_bytes if fresh else None,
                    memory_total_bytes=device.memory_total_bytes,
                    energy_joules=read.joules,
                )
            )
        return sorted(
            statuses,
            key=lambda device: (device.host, not device.label.isdecimal(), device.label.zfill(8), device.id),
        )

    def _seconds(self, now: float) -> float:
        """Return the time of all attempts, each from its first start to its last line (or now)."""
        spans: dict[int, tuple[float, float]] = {}
        for tail in self._tails.values():
            if not tail.header:
                continue
            alive = self._is_here(tail) and now - tail.last_seconds < STALE_SECONDS
            end = trace_file.anchor(tail.header) + (now if alive else tail.last_seconds)
            first, last = spans.get(tail.attempt, (_begin(tail), end))
            spans[tail.attempt] = (min(first, _begin(tail)), max(last, end))
        return sum(end - start for start, end in spans.values())

    def _billed(self) -> int:
        machines: dict[int, set[Machine]] = defaultdict(set)
        for tail in self._tails.values():
            if tail.header:
                machines[tail.attempt].add(tail.machine)
        return self.settings.nodes or max((len(members) for members in machines.values()), default=1)

    def _grams(self, joules: float, at: float = math.nan) -> float | None:
        """Return the emissions of joules at the intensity of a moment (unix seconds), else at the mean so far."""
        factors = self.factors
        # Of two answers for an hour the later counts: the lead process's.
        tails = sorted(self._tails.values(), key=lambda tail: tail.precedence, reverse=True)
        answers = [answer for tail in sorted(tails, key=lambda tail: tail.attempt) for answer in tail.intensities]
        yearly = factors.carbon_intensity.value if factors.carbon_intensity is not None else None
        mean = self._intensity.mean(answers, (tail.drawn for tail in tails), yearly)
        now = self._intensity.at(at)
        intensity = mean if now is None else now
        if intensity is None or factors.pue is None:
            return None
        return joules / JOULES_PER_KWH * factors.pue.value * intensity

    def _account(self, joules: float | None, watts: float | None, seconds: float) -> RunningTotals:
        grams = None if joules is None else self._grams(joules)
        hours = seconds / SECONDS_PER_HOUR * self._billed()
        costs = {tier: hours * price.value for tier, price in self.factors.prices.items()}
        return RunningTotals(seconds, joules, watts, grams, costs)


class LiveIntensity:
    """Weights providers' answers with the energy used at the time, like the record, but in bins of five minutes.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers = 0
        self._series: IntensitySeries | None = None
        self._starts: list[float] = []
        self._mean: tuple[float, float | None] | None = None  # when it was made, and what it is

    def mean(
        self, answers: Sequence[IntensitySeries], drawn: Iterable[Mapping[int, float]], otherwise: float | None
    ) -> float | None:
        """Return the energy-weighted mean so far, g/kWh.

        Args:
            answers: every answer so far, in their order.
            drawn: of each process, joules by bin of BIN_SECONDS of unix time.
            otherwise: g/kWh of energy in hours without an answer: the place's yearly figure. A marginal series takes
                its own mean there, as the two are never mixed.
        """
        if len(answers) != self._answers:
            self._answers, self._mean = len(answers), None
            self._series = hourly.joined_series(answers)
            self._starts = [slot.start.timestamp() for slot in self._series.slots] if self._series else []
        if self._series is None or not self._series.slots:
            return otherwise
        now = self._clock()
        if self._mean is None or now - self._mean[0] >= INTENSITY_SECONDS:
            self._mean = now, self._weigh(drawn, otherwise)
        return self._mean[1]

    def at(self, unix_seconds: float) -> float | None:
        """Return the g/kWh at a time, by the answers that ``mean`` has joined; None where no slot covers it."""
        place = bisect_right(self._starts, unix_seconds) - 1
        if self._series is None or place < 0 or math.isnan(unix_seconds):
            return None
        slot = self._series.slots[place]
        return slot.grams_per_kwh if unix_seconds < slot.end.timestamp() else None

    def _weigh(self, drawn: Iterable[Mapping[int, float]], otherwise: float | None) -> float | None:
        weighted = joules = rest = 0.0
        for joules_by_bin in drawn:
            for place, used in joules_by_bin.items():
                grams = self.at((place + 0.5) * BIN_SECONDS)
                if grams is None:
                    rest += used
                else:
                    weighted, joules = weighted + grams * used, joules + used
        if self._series is not None and (self._series.signal == "marginal" or otherwise is None):
            slots = [slot.grams_per_kwh for slot in self._series.slots]
            otherwise = weighted / joules if joules else sum(slots) / len(slots)
        if not joules or otherwise is None:
            return otherwise
        return (weighted + otherwise * rest) / (joules + rest)


class BackgroundTotals:
    """The totals of a running run, for training code: read in a thread at most once a second, and only while asked for.

    Args:
        run_dir: of the run.
        place: returns what this machine says of itself, None where it has not answered.
    """

    def __init__(self, run_dir: Path, place: Callable[[], Mapping[str, Any] | None]) -> None:
        self._live, self._place, self._pid = LiveRun(run_dir), place, os.getpid()
        self._latest, self._read_once = NOTHING, False
        self._asked_seconds = -math.inf
        self._reading, self._starting = threading.Lock(), threading.Lock()
        self._first, self._stopping, self._ended = threading.Event(), threading.Event(), False
        self._thread: threading.Thread | None = None

    def totals(self) -> RunningTotals:
        """Return the totals as they were read last, a second ago at the most while the files answer.

        Only the first call waits, for a quarter of a second at the most.
        """
        self._asked_seconds = time.monotonic()
        if os.getpid() != self._pid or self._stopping.is_set():  # in a forked child, the thread is not there
            return self._latest
        self._ensure_thread()
        if not self._read_once:
            self._read_once = True
            self._first.wait(FIRST_WAIT_SECONDS)
        return self._latest

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopping.set()

    def end(self) -> RunningTotals:
        """Return the totals of a run that has ended, read once more; the thread ends."""
        ended, self._ended = self._ended, True
        self._stopping.set()
        if not ended and os.getpid() == self._pid and self._reading.acquire(timeout=LAST_WAIT_SECONDS):
            try:
                self._read()
            finally:
                self._reading.release()
        return self._latest

    def _ensure_thread(self) -> None:
        thread = self._thread
        if (thread is None or not thread.is_alive()) and self._starting.acquire(blocking=False):
            try:
                self._thread = threading.Thread(target=self._run, name="greenml-totals", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter ends, or no thread can be had
                    self._thread.start()
            finally:
                self._starting.release()

    def _run(self) -> None:
        while not self._stopping.is_set() and time.monotonic() - self._asked_seconds < IDLE_SECONDS:
            with self._reading:
                if not self._stopping.is_set():
                    self._read()
            self._first.set()
            self._stopping.wait(READ_SECONDS)

    def _read(self) -> None:
        with contextlib.suppress(Exception):  # a fault of ours leaves the last figures; training goes on
            self._latest = self._live.totals(self._place() or {})


def _joined_joules(spans: Sequence[tuple[float, float, float]]) -> float:
    """Return the joules of one device from (first, last, joules) of each process that measured it."""
    joules, covered_until = 0.0, -math.inf
    for first, last, measured in sorted(spans):
        if first >= covered_until or last <= first:
            joules += measured if first >= covered_until or last > covered_until else 0.0
        elif last > covered_until:
            joules += measured * (last - covered_until) / (last - first)
        covered_until = max(covered_until, last)
    return joules


def _begin(tail: Tail) -> float:
    return trace_file.anchor(tail.header) + float(tail.header["start_seconds"])


def _status(tails: Sequence[Tail]) -> tuple[str, str | None]:
    """Return the status of the last attempt, as the record would have it."""
    if not tails:
        return "running", None
    return assembly.status_of(
        [assembly.ProcessEnd(tail.header, tail.status, tail.so_far, tail.error, tail.alive()) for tail in tails]
    )
