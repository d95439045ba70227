"""One daemon thread that reads the sensors, on a schedule that does not drift.

It probes the hardware too, so that a driver call that never returns holds up nobody: ``start()`` and ``stop()``
wait a bounded time and go on without it, and the trace says what is missing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from greenml.errors import GreenMLError, SensorLostError
from greenml.model import Device, Rollup, Sensor
from greenml.window import Window

PATIENCE_SECONDS = 1.0  # how long start() and stop() wait for the hardware
FLUSH_SECONDS = 1.0  # a killed run loses no more than this
CLAIM_SECONDS = 1.0  # how often a device that another process measures is asked for
SLOW_SECONDS = 2.0  # a read longer than this is noted
GAP_INTERVALS = 5  # power is not integrated across more missed readings than these
MIN_GAP_SECONDS = 0.5
EARLY_SECONDS = 1e-4  # a wake may be this early and is still in time
MIN_MARK_SECONDS = 0.02  # hardware counters move every 10 to 100 ms: edges closer than this share a reading

Note = Callable[[str, str], None]
Discover = Callable[[Note, Note], Iterator[Sensor]]  # note(code, text); probing(module, "")
Write = Callable[[float, dict[Device, Rollup], bool], None]


@dataclass(slots=True)
class _Watched:
    """A sensor, its window, and what is known of its health."""

    sensor: Sensor
    interval_seconds: float
    window: Window
    due_seconds: float
    claimed: bool = False
    lost: bool = False
    failing_since: float | None = None


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._discover, self._claim, self._write, self._note, self._tick = discover, claim, write, note, tick
        self._interval, self._clock, self._afterwards = interval_seconds, clock, afterwards
        self._watched: list[_Watched] = []
        self._ready, self._done = threading.Event(), threading.Event()
        self._wake: SimpleQueue[None] = SimpleQueue()  # not an Event: a signal's handler may wake, too
        self._marked = self._stopping = self._abandoned = False
        self._probing = self._reading = ""  # the sensor module that is being called now
        self._busy_since = 0.0
        self._flush_due = self._claim_due = self._last_read = 0.0
        self._origin = clock()  # of every schedule: what is due together costs one wake
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
            self._read_all(self._clock(), but_not=stuck)
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
                for one in self._watched:
                    one.sensor.close()
            self._done.set()

    def _watch(self, sensor: Sensor) -> None:
        interval = self._interval or sensor.interval_seconds
        gap = max(GAP_INTERVALS * interval, MIN_GAP_SECONDS)
        self._watched.append(_Watched(sensor, interval, Window(gap, self._clock()), due_seconds=self._clock()))

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
                self._read_all(now)
                self._close()
                return
            if self._marked and now - self._last_read >= MIN_MARK_SECONDS:
                self._marked = False
                self._read_all(now)
                self._flush(edge=True)
            else:
                self._read_all(now, only_due=True)
            if now + EARLY_SECONDS >= self._flush_due:
                self._flush(edge=False)
                self._flush_due = self._next(now, FLUSH_SECONDS)
                self._tick()
            if now + EARLY_SECONDS >= self._claim_due:
                if self._claim_free(now):  # its first reading is its curve's origin: written at once
                    self._read_all(now, only_new=True)
                    self._flush(edge=True)
                self._claim_due = self._next(now, CLAIM_SECONDS)

    def _next(self, now: float, interval_seconds: float) -> float:
        """Return the next time on the common schedule that is due after now; ticks that were missed are gone."""
        return self._origin + ((now + EARLY_SECONDS - self._origin) // interval_seconds + 1) * interval_seconds

    def _sleep(self) -> None:
        """Wait for the next thing that is due, or to be woken."""
        due = min([one.due_seconds for one in self._watched if one.claimed and not one.lost] + [self._flush_due])
        if self._marked:
            due = min(due, self._last_read + MIN_MARK_SECONDS)
        seconds = due - self._clock()
        if seconds > 0 and not self._stopping:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=seconds)
        with contextlib.suppress(Empty):
            while True:
                self._wake.get_nowait()

    def _claim_free(self, now: float) -> bool:
        took = False
        for one in self._watched:
            if not one.claimed and not one.lost and self._claim(one.sensor.device.id):
                one.claimed = took = True
                one.due_seconds = one.window.opened_seconds = now
        return took

    def _read_all(self, now: float, *, only_due: bool = False, only_new: bool = False, but_not: str = "\0") -> None:
        read = False
        for one in self._watched:
            if not one.claimed or one.lost or one.sensor.device.sensor == but_not:
                continue
            if only_due and one.due_seconds > now + EARLY_SECONDS:
                continue
            if only_new and one.window.last_seconds is not None:
                continue
            self._read(one)
            read = True
            if self._abandoned and but_not == "\0":
                return
            if one.due_seconds <= now + EARLY_SECONDS:
                one.due_seconds = self._next(now, one.interval_seconds)
        if read:
            self._last_read = now

    def _read(self, one: _Watched) -> None:
        device = one.sensor.device
        before = self._busy_since = self._clock()
        self._reading = device.sensor
        try:
            reading = one.sensor.read()
        except SensorLostError as error:
            one.lost = True
            self._note("sensor-lost", f"{device.name} {device.id}: {error}; not measured from here on")
            return
        except GreenMLError as error:
            self._fails(one, before, str(error))
            return
        except Exception as error:  # noqa: BLE001  a fault in a sensor must never end the sampling of the others
            self._fails(one, before, f"{type(error).__name__}: {error}")
            return
        finally:
            self._reading = ""
        after = self._clock()
        if after - before > SLOW_SECONDS:
            self._note("sensor-slow", f"{device.name} {device.id}: a reading took {after - before:.1f} s")
        if one.failing_since is not None:
            self._note(
                "sensor-back",
                f"{device.name} {device.id}: readable again after {after - one.failing_since:.1f} s",
            )
            one.failing_since = None
        # The value is of some moment within the call: its middle, unless the call hung.
        one.window.add((before + after) / 2 if after - before < 0.1 else after, reading)

    def _fails(self, one: _Watched, now: float, text: str) -> None:
        if one.failing_since is None:
            one.failing_since = now
            self._note("sensor-error", f"{one.sensor.device.name} {one.sensor.device.id}: {text}")

    def _close(self) -> None:
        self._flush(edge=True)

    def _flush(self, *, edge: bool) -> None:
        taken = {one.sensor.device: one.window.take() for one in self._watched if one.claimed}
        rollups = {device: rollup for device, rollup in taken.items() if rollup is not None}
        if rollups:
            self._write(self._clock(), rollups, edge)
