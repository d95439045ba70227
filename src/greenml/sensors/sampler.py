"""One daemon thread that reads the sensors on a schedule that does not drift, and sums the readings up.

The thread probes the hardware too, so that a driver call that never returns delays nobody: ``start()`` and ``stop()``
wait a bounded time and go on without it, and the trace says what is missing.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from greenml.errors import GreenMLError, SensorLostError
from greenml.trace.types import Device, Reading, Rollup, Sensor

PATIENCE_SECONDS = 1.0  # how long start() and stop() wait for the hardware
FLUSH_SECONDS = 1.0  # a run that is killed while it is young loses no more than this
CALM_RATIO = 0.02  # of a run's time may pass between two reads of what adds up by itself, in whole seconds
CALM_SECONDS = 3.0  # and no more than this; a killed run loses no more either
MODELLED_SECONDS = 2.0  # between two reads of what is modelled, beside a device with a counter
CLAIM_SECONDS = 1.0  # how often a device that another process measures is asked for
SLOW_SECONDS = 2.0  # a read longer than this is noted
GAP_INTERVALS = 5  # power is not integrated across more missed readings than these
MIN_GAP_SECONDS = 0.5
EARLY_SECONDS = 1e-4  # a wake may be this early and is still in time
MIN_MARK_SECONDS = 0.02  # hardware counters move every 10 to 100 ms: edges closer than this share a reading
STAMPED_SECONDS = 0.2  # samples of a driver's buffer are no further apart

Note = Callable[[str, str], None]
Discover = Callable[[Note, Note], Iterator[Sensor]]  # note(code, text); probing(module, "")
Write = Callable[[float, dict[Device, Rollup], bool], None]


@dataclass(slots=True)
class Window:
    """The sums of a device's readings since the last flush.

    Attributes:
        max_gap_seconds: power is not integrated across a wider gap.
        opened_seconds: power that a driver's buffer holds from before this is not of this run.
        last_seconds: of the last read.
        begun_seconds: of the window: the last read of the one before.
    """

    max_gap_seconds: float
    opened_seconds: float
    last_seconds: float | None = None
    begun_seconds: float | None = None
    energy_joules: float | None = None
    last_power: tuple[float, float] | None = None
    power_joules: float | None = None
    power_seconds: float = 0.0
    power_max_watts: float | None = None
    swing_joules: float = 0.0
    _sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    _known_seconds: dict[str, float] = field(default_factory=dict)  # when each mean was last known
    memory_max_bytes: int | None = None
    _stamped: bool = False  # the last power came with its time, from the driver's buffer
    _newest: tuple[float, float] | None = None  # a power of this window that a later reading will integrate
    _follows: bool = False  # a later reading will tell power or utilization of this window
    _waiting: list[float] = field(default_factory=list)  # the ends of the windows for which that is so
    _late: list[Rollup] = field(default_factory=list)

    def add(self, at_seconds: float, reading: Reading) -> None:
        """Take in a reading that was made at a time (monotonic)."""
        self.energy_joules = reading.energy_joules
        if self._waiting and (reading.power_samples or reading.utilization_samples):
            reading = self._complete_earlier(reading)
        self._newest, self._follows = None, reading.power_follows or reading.utilization_follows
        if reading.power_samples:
            self._power(reading.power_samples)
            self._stamped = True
        elif reading.power_watts is not None and reading.power_follows:
            self._newest = at_seconds, reading.power_watts
            self.power_max_watts = max(reading.power_watts, self.power_max_watts or 0.0)
        elif reading.power_watts is not None and not self._dated(at_seconds):
            self._power([(at_seconds, reading.power_watts)])
            self._stamped = False
        self._means(at_seconds, reading)
        if self.begun_seconds is None:
            self.begun_seconds = self.last_seconds if self.last_seconds is not None else at_seconds
        self.last_seconds = at_seconds

    def _means(self, at_seconds: float, reading: Reading) -> None:
        """Take in utilization and memory, as far as the reading has them."""
        busy, memory_busy = reading.utilization_ratio, reading.memory_utilization_ratio
        if reading.utilization_samples:
            busy = _mean(reading.utilization_samples)
        if reading.memory_utilization_samples:
            memory_busy = _mean(reading.memory_utilization_samples)
        if busy is not None:
            self._weigh("utilization_ratio", at_seconds, busy)
        if memory_busy is not None:
            self._weigh("memory_utilization_ratio", at_seconds, memory_busy)
        if reading.memory_bytes is not None:
            self._weigh("memory_bytes", at_seconds, reading.memory_bytes)
            self.memory_max_bytes = max(reading.memory_bytes, self.memory_max_bytes or 0)

    def _weigh(self, name: str, at_seconds: float, value: float) -> None:
        """Add a value to a mean, weighted by the time since it was last known."""
        total, weights = self._sums.get(name, (0.0, 0.0))
        since = self._known_seconds.get(name, self.last_seconds)
        # A lone first reading counts, if nothing follows.
        weight = 1e-9 if since is None else max(at_seconds - since, 1e-9)
        self._sums[name] = (total + value * weight, weights + weight)
        self._known_seconds[name] = at_seconds

    def _complete_earlier(self, reading: Reading) -> Reading:
        """Work out what a driver's samples tell of the windows that wait for it; return the reading with the rest."""
        held = self.power_joules, self.power_seconds, self.power_max_watts, self.swing_joules
        power, busy = list(reading.power_samples), list(reading.utilization_samples)
        memory_busy = list(reading.memory_utilization_samples)
        for end in self._waiting:
            self.power_joules = self.power_max_watts = None
            self.power_seconds = self.swing_joules = 0.0
            if samples := _until(power, end):
                self._power(samples)
            known = self.power_max_watts is not None and self.last_power is not None
            late = Rollup(
                end, end, None, self.power_joules, self.power_seconds, self.power_max_watts, self.swing_joules,
                _mean(_until(busy, end)), _mean(_until(memory_busy, end)),
                power_end_seconds=self.last_power[0] if known and self.last_power else None,
                power_last_watts=self.last_power[1] if known and self.last_power else None,
            )  # fmt: skip
            if known or late.utilization_ratio is not None or late.memory_utilization_ratio is not None:
                self._late.append(late)
            self._known_seconds |= dict.fromkeys(("utilization_ratio", "memory_utilization_ratio"), end)
        self._waiting.clear()
        self.power_joules, self.power_seconds, self.power_max_watts, self.swing_joules = held
        return replace(reading, power_samples=power, utilization_samples=busy, memory_utilization_samples=memory_busy)

    def _dated(self, at_seconds: float) -> bool:
        """Return whether the driver's buffer, which dates its samples, has the power that a gauge shows now."""
        return self._stamped and self.last_power is not None and at_seconds - self.last_power[0] <= STAMPED_SECONDS

    def _power(self, samples: Sequence[tuple[float, float]]) -> None:
        """Add power readings by the trapezoid rule; across a wide gap nothing is added.

        The busiest lines of all: a driver buffers up to a hundred samples a second of each GPU.
        """
        if self.last_power is None:
            self.last_power = samples[0]
        then, before = self.last_power
        joules = covered = swing = 0.0
        peak = self.power_max_watts or samples[0][1]
        opened, widest = self.opened_seconds, self.max_gap_seconds
        if len(samples) > 1 and self.energy_joules is not None:  # samples that the driver dropped say nothing here
            widest = min(widest, MIN_GAP_SECONDS)
        for when, watts in samples:
            if watts > peak:  # noqa: PLR1730  max() costs as much as the rest
                peak = watts
            if when <= then:
                continue
            seconds = when - (then if then > opened else opened)
            if 0 < seconds <= widest:
                joules += (watts + before) * seconds
                covered += seconds
                if watts != before:
                    swing += abs(watts - before) * seconds
            then, before = when, watts
        joules, swing = joules / 2, swing / 2
        if covered:
            self.power_joules = (self.power_joules or 0.0) + joules
        self.power_seconds += covered
        self.swing_joules += swing
        self.last_power, self.power_max_watts = (then, before), peak

    def take(self) -> Rollup | None:
        """Return the window as a rollup and begin the next; None where nothing was read."""
        if self.begun_seconds is None or self.last_seconds is None:
            return None
        busy = memory_busy = memory_bytes = None
        if self._sums:
            means = {name: total / weights for name, (total, weights) in self._sums.items()}
            busy, memory_busy = means.get("utilization_ratio"), means.get("memory_utilization_ratio")
            memory_bytes = means.get("memory_bytes")
            self._sums = {}
        known = self.power_max_watts is not None or self._dated(self.last_seconds)
        last_power: tuple[float | None, float | None] = (None, None)
        if self._newest is not None:
            last_power = self._newest
        elif self.last_power is not None and known:  # a driver's samples from before are not of this run
            last_power = max(self.last_power[0], self.opened_seconds), self.last_power[1]
        rollup = Rollup(
            self.begun_seconds, self.last_seconds, self.energy_joules,
            self.power_joules, self.power_seconds, self.power_max_watts, self.swing_joules, busy, memory_busy,
            memory_bytes, self.memory_max_bytes, *last_power, tuple(self._late),
        )  # fmt: skip
        if self._follows:
            self._waiting.append(self.last_seconds)
        self._late.clear()
        self.begun_seconds = self._newest = None
        self.energy_joules = self.power_joules = self.power_max_watts = self.memory_max_bytes = None
        self.power_seconds = self.swing_joules = 0.0
        return rollup


def _mean(samples: Sequence[tuple[float, float]]) -> float | None:
    return sum([value for _, value in samples]) / len(samples) if samples else None


def _until(samples: list[tuple[float, float]], end_seconds: float) -> list[tuple[float, float]]:
    """Take the samples up to a time out of a list."""
    count = bisect_right(samples, (end_seconds, math.inf))
    taken = samples[:count]
    del samples[:count]
    return taken


@dataclass(slots=True)
class _Watched:
    """A sensor, its window, and what is known of its health.

    Attributes:
        due_seconds, interval_seconds: when it is read next on the schedule, and how long after the last time.
        declared: a rollup of it was written.
    """

    sensor: Sensor
    window: Window
    due_seconds: float
    interval_seconds: float = 0.0
    claimed: bool = False
    lost: bool = False
    declared: bool = False
    failing_since: float | None = None

    @property
    def label(self) -> str:
        """Its name in notes."""
        return f"{self.sensor.device.name} {self.sensor.device.id}"


class _Latch:
    """Is set once. As an ``Event``, but a signal's handler may wait for it while the code that it interrupted does."""

    def __init__(self) -> None:
        self._lock, self._is_set = threading.Lock(), False
        self._lock.acquire()

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            self._lock.release()

    def wait(self, timeout_seconds: float) -> bool:
        if not self._is_set and self._lock.acquire(timeout=timeout_seconds):
            self._lock.release()
        return self._is_set


class Sampler:
    """Reads every claimed sensor at its interval and hands rollups on.

    Args:
        discover: yields sensors, those of drivers that may hang last; runs in the thread.
        claim: takes a device id for this process; False while another process has it.
        write: takes the time, rollups by device, and whether a phase's edge forced them.
        note: takes a code and a text for the record.
        tick: called after every flush, in the thread; for compaction.
        afterwards: called once, in the thread, when the first readings are in.
        interval_seconds: overrides what the sensors need.
        origin_seconds: a time at which all of them are read, and at every whole second before and after it however old
            the run is. By default now, and less often later on.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        discover: Discover,
        claim: Callable[[str], bool],
        write: Write,
        note: Note,
        *,
        tick: Callable[[], None] = lambda: None,
        afterwards: Callable[[], None] = lambda: None,
        interval_seconds: float | None = None,
        origin_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._discover, self._claim, self._write, self._note, self._tick = discover, claim, write, note, tick
        self._interval, self._clock, self._afterwards = interval_seconds, clock, afterwards
        self._steady = origin_seconds is not None or interval_seconds is not None
        self._watched: list[_Watched] = []
        self._counts = False  # a GPU has a counter
        self._ready, self._done = _Latch(), _Latch()
        self._wake: SimpleQueue[None] = SimpleQueue()  # not an Event: a signal's handler may wake, too
        self._marked = self._stopping = self._abandoned = False
        self._probing = self._reading = ""  # the sensor module that is being called now
        self._busy_since = 0.0
        self._flush_due = self._claim_due = self._last_read = 0.0
        self._origin = (
            clock() if origin_seconds is None else origin_seconds
        )  # of every schedule: what is due together costs one wake
        self._loop_lock, self._loop_taken = threading.Lock(), False
        self._thread = threading.Thread(target=self._guard, args=(self._run,), name="greenml-sampler", daemon=True)

    def start(self) -> None:
        """Start the thread; return when the first readings are in, at the latest after ``PATIENCE_SECONDS``.

        A driver that has not answered by then keeps the first thread; a second one reads what did answer.
        """
        self._thread.start()
        if self._ready.wait(PATIENCE_SECONDS) or not self._take_loop():
            return
        text = f"{self._probing} had not answered {PATIENCE_SECONDS:.0f} s after the start; the run went on without it"
        self._note("sensor-slow", text)
        self._thread = threading.Thread(
            target=self._guard, args=(self._loop_and_close,), name="greenml-sampler", daemon=True
        )
        self._thread.start()

    def mark(self) -> None:
        """Ask for a reading now, without waiting for it: a phase began or ended."""
        self._marked = True
        self._wake.put(None)

    def stop(self) -> None:
        """Take the last readings and end the thread; give up on it after ``PATIENCE_SECONDS``."""
        self._stopping = True
        self._wake.put(None)
        if not self._done.wait(PATIENCE_SECONDS) and self._thread.is_alive():
            stuck = self._reading or self._probing
            if not stuck and self._done.wait(PATIENCE_SECONDS):  # it was rewriting the trace
                return
            self._abandoned = True
            since, what = self._clock() - self._busy_since, stuck or "the trace"
            text = f"{what} did not answer for {since:.1f} s at the end; it is known up to its last answer"
            self._note("sensor-hung", text)
            self._read_all(self._clock(), edge=True, but_not=stuck or "the trace")
            self._close()
        elif self._probing:
            self._note("sensor-hung", f"{self._probing} never answered; what it would have measured is missing")

    def _take_loop(self) -> bool:
        """Decide which thread loops: the first to ask."""
        with self._loop_lock:
            taken, self._loop_taken = self._loop_taken, True
        return not taken

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  a fault of ours is a line in the record, never a traceback in a training
            self._note("sampler-failed", f"sampling ended: {type(error).__name__}: {error}")

    def _run(self) -> None:
        for sensor in self._discover(self._note, self._probes):
            if self._stopping:
                sensor.close()
                continue
            self._watch(sensor)
            if not self._loop_taken:
                self._claim_free(self._clock())
                self._read_all(self._clock(), only_new=True)
        self._probing = ""
        if self._take_loop():
            self._ready.set()
            self._afterwards()
            self._loop_and_close()
        else:
            self._afterwards()

    def _probes(self, module: str, _: str = "") -> None:
        self._probing, self._busy_since = module, self._clock()

    def _loop_and_close(self) -> None:
        try:
            self._loop()
        finally:
            if not self._abandoned:
                for watched in self._watched:
                    watched.sensor.close()
            self._done.set()

    def _watch(self, sensor: Sensor) -> None:
        gap = max(GAP_INTERVALS * (self._interval or sensor.interval_seconds), MIN_GAP_SECONDS)
        now = self._clock()
        included = sensor.device.detail.get("includes", "").split()
        for watched in self._watched:
            if watched.sensor.device.kind in included:  # it is counted by the new one from here on
                watched.lost = True
                if not watched.declared:
                    watched.window = Window(gap, now)
                    watched.claimed = False
        self._watched.append(_Watched(sensor, Window(gap, now), due_seconds=now))
        self._counts = self._counts or (sensor.device.kind == "gpu" and sensor.device.method == "counter")

    def _loop(self) -> None:
        now = self._clock()
        self._flush(edge=True)
        self._flush_due, self._claim_due = self._next(now, FLUSH_SECONDS), self._next(now, CLAIM_SECONDS)
        while not self._abandoned:
            self._sleep()
            now = self._clock()
            if self._abandoned:
                return
            if self._stopping:
                self._read_all(now, edge=True)
                self._close()
                return
            if self._marked and now - self._last_read >= MIN_MARK_SECONDS:
                self._marked = False
                self._read_all(now, edge=True)
                self._flush(edge=True)
            else:
                self._read_all(now, only_due=True)
            if now + EARLY_SECONDS >= self._flush_due:
                self._flush(edge=False)
                self._flush_due = self._next(now, self._flush_seconds(now))
                self._tick()
            if now + EARLY_SECONDS >= self._claim_due:
                if self._claim_free(now):  # its first reading is its curve's origin: written at once
                    self._read_all(now, only_new=True)
                    self._flush(edge=True)
                self._claim_due = self._next(now, CLAIM_SECONDS)

    def _next(self, now: float, interval_seconds: float) -> float:
        """Return the next time on the common schedule that is due after now; ticks that were missed are gone."""
        return self._origin + ((now + EARLY_SECONDS - self._origin) // interval_seconds + 1) * interval_seconds

    def _calm_seconds(self, now: float) -> float:
        """Return how far apart, at the least, what adds up by itself is read: the older the run, the further."""
        return 0.0 if self._steady else min((now - self._origin) * CALM_RATIO // 1.0, CALM_SECONDS)

    def _schedule(self, watched: _Watched, now: float, calm_seconds: float) -> None:
        """Settle when a sensor is read after now."""
        interval = self._interval
        if not interval:
            interval = watched.sensor.interval_seconds
            if watched.sensor.device.method == "estimate" and self._counts:
                interval = max(interval, MODELLED_SECONDS)
            if getattr(watched.sensor, "cumulative", False):
                interval = max(interval, calm_seconds)
        watched.interval_seconds, watched.due_seconds = interval, self._next(now, interval)

    def _flush_seconds(self, now: float) -> float:
        """Return how long after now the trace is to be written: each second while any sensor is read as often."""
        calm = self._calm_seconds(now)
        if calm <= FLUSH_SECONDS:
            return FLUSH_SECONDS
        rare = all(
            watched.interval_seconds >= calm for watched in self._watched if watched.claimed and not watched.lost
        )
        return calm if rare else FLUSH_SECONDS

    def _sleep(self) -> None:
        """Wait for the next thing that is due, or to be woken."""
        due = min(
            [watched.due_seconds for watched in self._watched if watched.claimed and not watched.lost]
            + [self._flush_due]
        )
        if self._marked:
            due = min(due, self._last_read + MIN_MARK_SECONDS)
        seconds = due - self._clock()
        if seconds > 0 and not self._stopping:
            try:  # noqa: SIM105  suppress() would be two calls more, each second
                self._wake.get(timeout=seconds)
            except Empty:
                pass
        while not self._wake.empty():  # this thread alone takes from it
            self._wake.get_nowait()

    def _claim_free(self, now: float) -> bool:
        took = False
        for watched in self._watched:
            if not watched.claimed and not watched.lost and self._claim(watched.sensor.device.id):
                watched.claimed = took = True
                watched.due_seconds = watched.window.opened_seconds = now
        return took

    def _read_all(
        self, now: float, *, only_due: bool = False, only_new: bool = False, edge: bool = False, but_not: str = ""
    ) -> None:
        read, calm = False, self._calm_seconds(now)
        for watched in self._watched:
            if not watched.claimed or watched.lost or (only_due and watched.due_seconds > now + EARLY_SECONDS):
                continue
            if but_not and watched.sensor.device.sensor == but_not:
                continue
            if only_new and watched.window.last_seconds is not None:
                continue
            if edge and hasattr(watched.sensor, "catch_up"):
                watched.sensor.catch_up()
            self._read(watched)
            read = True
            if self._abandoned and not but_not:
                return
            if watched.due_seconds <= now + EARLY_SECONDS:
                self._schedule(watched, now, calm)
        if read:
            self._last_read = now

    def _read(self, watched: _Watched) -> None:
        device = watched.sensor.device
        before = self._busy_since = self._clock()
        self._reading = device.sensor
        try:
            reading = watched.sensor.read()
        except SensorLostError as error:
            watched.lost = True
            self._note("sensor-lost", f"{watched.label}: {error}; not measured from here on")
            return
        except GreenMLError as error:
            self._fails(watched, before, str(error))
            return
        except Exception as error:  # noqa: BLE001  a fault in a sensor must never end the sampling of the others
            self._fails(watched, before, f"{type(error).__name__}: {error}")
            return
        finally:
            self._reading = ""
        after = self._clock()
        if after - before > SLOW_SECONDS:
            self._note("sensor-slow", f"{watched.label}: a reading took {after - before:.1f} s")
        counted = reading.energy_joules is not None or device.method != "counter"
        if not counted:
            powered = reading.power_watts is not None or bool(reading.power_samples)
            meanwhile = "its power is integrated until it does" if powered else "nor does its power"
            self._fails(watched, before, f"its energy counter does not answer; {meanwhile}")
        elif watched.failing_since is not None:
            self._note("sensor-back", f"{watched.label}: readable again after {after - watched.failing_since:.1f} s")
            watched.failing_since = None
        # The value is of some moment within the call: its middle, unless the call hung.
        watched.window.add((before + after) / 2 if after - before < 0.1 else after, reading)

    def _fails(self, watched: _Watched, now: float, text: str) -> None:
        if watched.failing_since is None:
            watched.failing_since = now
            self._note("sensor-error", f"{watched.label}: {text}")

    def _close(self) -> None:
        self._flush(edge=True)

    def _flush(self, *, edge: bool) -> None:
        now = self._clock()
        rollups: dict[Device, Rollup] = {}
        for watched in self._watched:
            if not watched.claimed:
                continue
            rollup = watched.window.take()
            if rollup is None and watched.lost and not watched.declared:
                rollup = Rollup(now, now)  # nothing was ever read of it: the trace must say that it was there
            if rollup is not None:
                watched.declared = True
                rollups[watched.sensor.device] = rollup
        if rollups:
            self._write(now, rollups, edge)
