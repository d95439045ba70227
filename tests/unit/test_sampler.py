"""The sampler: what it adds up, and that no sensor, whatever it does, holds up or ends a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SensorError, SensorLostError
from greenml.sensors import sampler
from greenml.sensors.sampler import Sampler, Window
from greenml.trace.types import Device, Reading, Rollup, Sensor


def reading_at(window: Window, *points: tuple[float, float]) -> Rollup:
    for when, watts in points:
        window.add(when, Reading(power_watts=watts))
    rollup = window.take()
    assert rollup is not None
    return rollup


def test_power_is_integrated_by_the_trapezoid_rule():
    rollup = reading_at(Window(5.0, 0.0), (0, 100), (1, 200), (3, 100))
    assert (rollup.start_seconds, rollup.end_seconds) == (0, 3)
    assert rollup.power_joules == 150 + 300
    assert rollup.power_seconds == 3
    assert rollup.power_max_watts == 200
    assert rollup.swing_joules == 50 + 100


def test_a_gap_adds_no_joules():
    rollup = reading_at(Window(5.0, 0.0), (0, 100), (60, 100), (61, 100))
    assert (rollup.power_joules, rollup.power_seconds) == (100, 1)


def test_windows_join_without_a_seam():
    window = Window(5.0, 0.0)
    first = reading_at(window, (0, 100), (1, 100))
    second = reading_at(window, (2, 300), (3, 300))
    assert (second.start_seconds, second.end_seconds) == (1, 3)
    assert (first.power_joules, second.power_joules) == (100, 200 + 300)
    assert window.take() is None


def test_means_are_weighted_with_time_and_peaks_kept():
    window = Window(5.0, 0.0)
    window.add(0, Reading(utilization_ratio=0.0, memory_bytes=7, energy_joules=10.0))
    window.add(1, Reading(utilization_ratio=1.0, memory_bytes=9))
    window.add(4, Reading(utilization_ratio=0.5, memory_bytes=3, energy_joules=20.0))
    rollup = window.take()
    assert rollup is not None
    assert rollup.utilization_ratio == pytest.approx(2.5 / 4)
    assert rollup.memory_mean_bytes == pytest.approx(18 / 4)
    assert (rollup.memory_max_bytes, rollup.energy_joules) == (9, 20.0)
    assert (rollup.power_joules, rollup.power_max_watts) == (None, None), "not read is not 0"


def test_a_lone_reading_counts():
    window = Window(5.0, 0.0)
    window.add(3.0, Reading(utilization_ratio=0.25, power_watts=50.0))
    rollup = window.take()
    assert rollup is not None
    assert (rollup.start_seconds, rollup.end_seconds, rollup.utilization_ratio) == (3.0, 3.0, 0.25)
    assert (rollup.power_joules, rollup.power_max_watts) == (None, 50.0)


def test_buffered_power_is_ours_from_the_moment_we_came():
    window = Window(5.0, opened_seconds=10.0)
    window.add(11.0, Reading(power_watts=9.0, power_samples=[(8.0, 100.0), (9.5, 100.0), (10.5, 100.0), (11.0, 100.0)]))
    rollup = window.take()
    assert rollup is not None
    assert (rollup.power_joules, rollup.power_seconds) == (pytest.approx(100.0), pytest.approx(1.0))
    assert rollup.power_max_watts == 100


def test_what_a_driver_told_of_before_does_not_make_the_first_power_old():
    window = Window(5.0, opened_seconds=10.0)
    window.add(10.0, Reading(power_samples=[(9.6, 100.0)]))
    rollup = window.take()
    assert rollup is not None
    assert (rollup.power_end_seconds, rollup.power_last_watts) == (10.0, 100.0)


def test_a_gauge_beside_a_buffer_that_dates_its_samples_says_nothing_new():
    window = Window(5.0, 0.0)
    window.add(2.0, Reading(power_samples=[(0.0, 100.0), (1.9, 100.0)]))
    window.add(2.05, Reading(power_watts=100.0))
    first = window.take()
    assert first is not None
    assert (first.power_seconds, first.power_end_seconds) == (pytest.approx(1.9), 1.9)
    window.add(2.09, Reading(power_watts=100.0))
    nothing = window.take()
    assert nothing is not None
    assert (nothing.power_joules, nothing.power_max_watts, nothing.power_end_seconds) == (None, None, 1.9)
    window.add(4.0, Reading(power_watts=100.0))  # the buffer has been silent for long
    second = window.take()
    assert second is not None
    assert (second.power_seconds, second.power_end_seconds) == (pytest.approx(2.1), 4.0)


def test_samples_that_come_twice_count_once():
    window = Window(5.0, 0.0)
    window.add(2.0, Reading(power_samples=[(0.0, 100.0), (1.0, 100.0), (2.0, 100.0)]))
    window.add(3.0, Reading(power_samples=[(1.0, 100.0), (2.0, 100.0), (3.0, 100.0)]))
    rollup = window.take()
    assert rollup is not None
    assert rollup.power_joules == 300


@given(
    steps=st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0, 500), st.booleans()), min_size=1, max_size=60),
)
def test_flushing_more_often_changes_no_sum(steps):
    whole, split, parts = Window(2.0, 0.0), Window(2.0, 0.0), []
    now = 0.0
    for step, watts, flush in steps:
        now += step
        reading = Reading(power_watts=watts, utilization_ratio=watts / 500)
        whole.add(now, reading)
        split.add(now, reading)
        if flush and (part := split.take()):
            parts.append(part)
    total = whole.take()
    if last := split.take():
        parts.append(last)
    assert total is not None
    assert sum(part.power_joules or 0 for part in parts) == pytest.approx(total.power_joules or 0)
    assert sum(part.power_seconds for part in parts) == pytest.approx(total.power_seconds, abs=1e-9)
    assert sum(part.swing_joules for part in parts) == pytest.approx(total.swing_joules, abs=1e-9)
    assert max(part.power_max_watts or 0 for part in parts) == total.power_max_watts
    assert parts[0].start_seconds == total.start_seconds
    assert all(one.end_seconds == other.start_seconds for one, other in pairwise(parts))


class Fake:
    """A sensor that counts 100 W, and does what its script says at the read of that number."""

    def __init__(
        self, name: str, script: Callable[[int], None] = lambda _: None, *, interval: float = 0.05, module: str = ""
    ) -> None:
        self.device = Device(kind="gpu", id=name, name=name, method="counter", sensor=module or name)
        self.interval_seconds = interval
        self.script, self.reads, self.closed = script, 0, 0
        self.threads: set[int] = set()

    def read(self) -> Reading:
        self.reads += 1
        self.threads.add(threading.get_ident())
        self.script(self.reads)
        return Reading(energy_joules=100.0 * time.monotonic(), power_watts=100.0, utilization_ratio=0.5)

    def close(self) -> None:
        self.closed += 1


class Run:
    """A sampler over fake sensors, and what it wrote."""

    def __init__(
        self,
        *sensors: Fake,
        claim: Callable[[str], bool] = lambda _: True,
        before: Callable[[], None] = lambda: None,
        interval: float | None = None,
        origin: float | None = None,
    ) -> None:
        self.rows: list[tuple[float, dict[str, Rollup], bool]] = []
        self.notes: list[tuple[str, str]] = []
        self.ticks, self.ahead = 0, 0.0

        def discover(_: Callable[[str, str], None], probing: Callable[[str, str], None]) -> Iterator[Sensor]:
            for sensor in sensors:
                probing(sensor.device.sensor, "")
                if sensor.device.sensor == "driver":
                    before()
                yield sensor

        def write(now: float, rollups: dict[Device, Rollup], edge: bool) -> None:
            self.rows.append((now, {device.id: rollup for device, rollup in rollups.items()}, edge))

        def tick() -> None:
            self.ticks += 1

        self.sampler = Sampler(
            discover, claim, write, lambda *note: self.notes.append(note), tick=tick, interval_seconds=interval,
            origin_seconds=origin, clock=lambda: time.monotonic() + self.ahead,
        )  # fmt: skip

    def start(self) -> float:
        begun = time.monotonic()
        self.sampler.start()
        return time.monotonic() - begun

    def stop(self) -> None:
        self.sampler.stop()

    def of(self, name: str) -> list[Rollup]:
        return [rollups[name] for _, rollups, _ in self.rows if name in rollups]

    def joules(self, name: str) -> float:
        rows = self.of(name)
        return (rows[-1].energy_joules or 0.0) - (rows[0].energy_joules or 0.0)

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.notes]


def eventually(true: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


class Hang:
    """A call that does not return before the test is over; who returns while it hangs has not waited for it."""

    def __init__(self) -> None:
        self.over, self.returned = threading.Event(), False

    def __call__(self) -> None:
        self.over.wait(600)
        self.returned = True


@pytest.fixture
def hang() -> Iterator[Hang]:
    call = Hang()
    yield call
    assert not call.returned, "something waited for the call that hangs"
    call.over.set()
    for thread in threading.enumerate():
        if thread.name == "greenml-sampler":
            thread.join(10)


def test_a_short_run_has_its_first_and_its_last_reading():
    run = Run(sensor := Fake("a"))
    begun = time.monotonic()
    run.start()
    ended = time.monotonic()
    run.stop()
    rows = run.of("a")
    assert rows[0].start_seconds == rows[0].end_seconds
    assert begun <= rows[0].end_seconds <= ended, "start() returns when the first reading is in"
    assert rows[-1].end_seconds >= ended
    assert run.rows[0][2], "an edge: the curve's origin"
    assert run.rows[-1][2]
    assert sensor.closed == 1
    assert len(sensor.threads) == 1
    assert run.notes == []
    eventually(lambda: "greenml-sampler" not in [thread.name for thread in threading.enumerate()])


def test_it_keeps_its_schedule_and_writes_once_a_second():
    begun = time.monotonic()  # the schedule's origin is not before this
    run = Run(sensor := Fake("a", interval=0.05))
    run.start()
    eventually(lambda: run.ticks == 1)
    run.stop()
    seconds = time.monotonic() - begun
    rows = run.of("a")
    assert len(rows) < sensor.reads <= seconds / 0.05 + 3, "and one at the start, one at the end"
    assert 3 <= len(run.rows) <= seconds / sampler.FLUSH_SECONDS + 3
    assert 1 <= run.ticks <= seconds / sampler.FLUSH_SECONDS
    assert all(one.end_seconds == other.start_seconds for one, other in pairwise(rows))
    assert run.joules("a") == pytest.approx(100 * (rows[-1].end_seconds - rows[0].end_seconds), rel=0.01)


class Cumulative(Fake):
    """A sensor whose figures stay right however far apart it is read."""

    cumulative = True


def times(run: Run, name: str) -> list[float]:
    """Return when a sensor was read, but for the edges of the run."""
    return [row.end_seconds for row in run.of(name)][1:-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sensor", "told", "age", "seconds"),
    [
        (Cumulative("a", interval=1.0), {}, 60.0, 1.0),
        (Cumulative("a", interval=1.0), {}, 110.0, 2.0),
        (Cumulative("a", interval=1.0), {}, 1e6, 3.0),
        (Fake("a", interval=1.0), {}, 1e6, 1.0),
        (Cumulative("a", interval=1.0), {"interval": 1.0}, 1e6, 1.0),
        (Cumulative("a", interval=1.0), {"origin": 0.0}, 1e6, 1.0),
    ],
    ids=["young", "older", "old", "a gauge", "asked for", "whole seconds asked for"],
)
def test_an_old_run_is_read_less_often_where_nothing_is_lost_by_it(
    sensor: Fake, told: dict, age: float, seconds: float
):
    run = Run(sensor, **told)
    run.start()
    run.ahead = age
    eventually(lambda: len(times(run, "a")) >= 4)
    run.stop()
    shortest = min(after - before for before, after in pairwise(times(run, "a")[1:]))
    assert seconds - 0.5 < shortest < seconds + 0.5


def test_a_killed_run_loses_a_second_or_two_in_a_hundred_of_its_time():
    run = Run()
    for age in range(0, 1000, 7):
        run.ahead = float(age)
        calm = run.sampler._calm_seconds(run.sampler._clock())
        assert calm <= max(sampler.FLUSH_SECONDS, 0.02 * (age + 1))
        assert calm <= sampler.CALM_SECONDS


@pytest.mark.slow
def test_a_gauge_beside_it_keeps_the_trace_written_each_second():
    run = Run(Cumulative("counter", interval=1.0), Fake("gauge", interval=0.05))
    run.start()
    run.ahead = 1e6
    eventually(lambda: len(times(run, "counter")) >= 4)
    run.stop()
    last = times(run, "counter")[-2:]
    assert len([at for at in times(run, "gauge") if last[0] < at <= last[1]]) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("beside", "seconds"), [("counter", 2.0), ("gauge", 1.0), (None, 1.0)])
def test_what_is_modelled_is_read_every_other_second_beside_a_gpu_with_a_counter(beside: str | None, seconds: float):
    modelled, gpu = Cumulative("cpu", interval=1.0), Cumulative("gpu", interval=1.0)
    modelled.device = replace(modelled.device, kind="cpu", method="estimate")
    gpu.device = replace(gpu.device, kind="gpu", method=beside)
    run = Run(modelled, *([gpu] if beside else []))
    run.start()
    eventually(lambda: len(times(run, "cpu")) >= 4)
    run.stop()
    shortest = min(after - before for before, after in pairwise(times(run, "cpu")[1:]))
    assert seconds - 0.5 < shortest < seconds + 0.5
    if beside:
        assert len(times(run, "gpu")) >= 4 * seconds - 2
        ends = [rows[-1].end_seconds for rows in (run.of("cpu"), run.of("gpu"))]
        assert abs(ends[0] - ends[1]) < 0.1, "both are read at the run's end"


def test_an_interval_that_is_asked_for_overrides_the_sensors():
    run = Run(sensor := Fake("a", interval=0.001), interval=30.0)
    run.start()
    time.sleep(0.3)
    run.stop()
    assert sensor.reads == 2


def test_an_edge_forces_a_reading():
    run = Run(Fake("a", interval=30.0))
    run.start()
    time.sleep(0.1)
    before = time.monotonic()
    run.sampler.mark()
    eventually(lambda: len(run.rows) == 2)
    assert run.rows[1][2]
    assert run.of("a")[1].end_seconds >= before
    run.stop()


def test_edges_that_come_fast_are_read_all_the_same():
    """A phase every 5 ms: not a reading for each, but one every MIN_MARK_SECONDS or so."""
    run = Run(Fake("a", interval=30.0))
    run.start()
    begun, marks = time.monotonic(), 0

    def enough() -> bool:
        nonlocal marks
        marks += 1
        run.sampler.mark()
        return len(run.rows) > 5

    eventually(enough)
    edges = len(run.rows) - 1
    run.stop()
    assert edges < marks
    assert edges <= (time.monotonic() - begun) / sampler.MIN_MARK_SECONDS + 1


def test_a_sensor_that_fails_is_tried_again_and_the_time_is_told():
    def script(number: int) -> None:
        if number in (2, 3):
            raise SensorError("the bus is busy")

    run = Run(Fake("a", script), Fake("b"))
    run.start()
    eventually(lambda: "sensor-back" in run.codes)
    run.stop()
    assert run.codes == ["sensor-error", "sensor-back"], "told once, not at every tick"
    assert run.notes[0][1] == "a a: the bus is busy"
    assert run.joules("a") > 0
    assert run.joules("b") > 0


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), KeyError("x"), OSError(5, "io"), RuntimeError("\n")])
def test_a_fault_in_a_sensor_ends_nothing(error):
    def script(_: int) -> None:
        raise error

    run = Run(bad := Fake("bad", script), Fake("good"))
    run.start()
    eventually(lambda: bad.reads > 3)
    run.stop()
    assert run.codes == ["sensor-error"]
    assert type(error).__name__ in run.notes[0][1]
    assert run.of("bad") == []
    assert run.joules("good") > 0


def test_a_lost_sensor_is_asked_no_more():
    def script(number: int) -> None:
        if number == 3:
            raise SensorLostError("fell off the bus")

    run = Run(lost := Fake("lost", script), good := Fake("good"))
    run.start()
    eventually(lambda: good.reads > 8)
    run.stop()
    assert lost.reads == 3
    assert lost.closed == 1
    assert run.notes == [("sensor-lost", "lost lost: fell off the bus; not measured from here on")]
    assert len(run.of("lost")) >= 1, "what it said before it was lost counts"
    assert run.joules("good") > 0


def test_discovery_that_fails_is_a_note_and_what_was_found_is_measured():
    def fail() -> None:
        raise ValueError("a table is broken")

    run = Run(Fake("a"), Fake("b", module="driver"), before=fail)
    run.start()
    time.sleep(0.2)
    run.stop()
    assert "sampler-failed" in run.codes
    assert "a table is broken" in dict(run.notes)["sampler-failed"]
    assert run.joules("a") > 0


def test_a_driver_that_hangs_at_the_start_holds_up_nobody(hang):
    run = Run(Fake("a"), Fake("b", module="driver"), before=hang)
    assert run.start() > 0.9
    eventually(lambda: len(run.of("a")) > 1)
    run.stop()
    assert run.codes == ["sensor-slow", "sensor-hung"]
    assert run.notes[0][1].startswith("driver had not answered 1 s after the start")
    assert run.joules("a") > 0
    assert run.of("b") == []


def test_a_driver_that_is_slow_at_the_start_joins_late():
    run = Run(Fake("a"), late := Fake("b", module="driver"), before=lambda: time.sleep(1.4))
    run.start()
    eventually(lambda: late.reads > 4)
    run.stop()
    assert run.codes == ["sensor-slow"]
    rows = run.of("b")
    assert run.of("a")[0].end_seconds < rows[0].end_seconds
    assert rows[0].start_seconds == rows[0].end_seconds, "its first reading is its counter's origin"
    assert run.joules("b") > 0


def test_a_first_reading_that_hangs_holds_up_nobody(hang):
    def script(number: int) -> None:
        if number == 1:
            hang()

    run = Run(Fake("a"), Fake("b", script, module="driver"))
    assert run.start() > 0.9
    eventually(lambda: len(run.of("a")) > 1)
    run.stop()
    assert run.joules("a") > 100 * 0.5
    assert "sensor-slow" in run.codes


def test_a_reading_that_hangs_in_the_middle_costs_that_sensor_only(hang):
    def script(number: int) -> None:
        if number == 4:
            hang()

    run = Run(Fake("a"), hung := Fake("b", script))
    run.start()
    eventually(lambda: hung.reads == 4)
    time.sleep(0.3)
    begun = time.monotonic()
    run.sampler.mark()
    run.stop()
    assert run.codes[-1] == "sensor-hung"
    assert run.notes[-1][1].startswith("b did not answer for ")
    rows = run.of("a")
    assert rows[-1].end_seconds > begun, "the others are read once more, at the end"
    assert hung.closed == 0, "nobody closes what is in a call"


def test_a_reading_that_hangs_at_the_end_is_given_up(hang):
    stopping = threading.Event()

    def script(_: int) -> None:
        if stopping.is_set():
            hang()

    run = Run(Fake("a"), Fake("b", script))
    run.start()
    time.sleep(0.2)
    stopping.set()
    run.stop()
    assert run.codes == ["sensor-hung"]
    assert run.joules("a") > 0


def test_a_hung_reading_that_returns_after_the_end_writes_nothing():
    go, back = threading.Event(), threading.Event()

    def script(number: int) -> None:
        if number == 3:
            go.wait(30)
            back.set()

    run = Run(Fake("a"), Fake("b", script))
    run.start()
    time.sleep(0.3)
    run.stop()
    written = len(run.rows)
    go.set()
    assert back.wait(10)
    for thread in threading.enumerate():
        if thread.name == "greenml-sampler":
            thread.join(10)
    assert len(run.rows) == written


def test_what_another_process_measures_is_taken_over_when_it_dies():
    free = threading.Event()
    run = Run(taken := Fake("taken"), Fake("mine"), claim=lambda name: name == "mine" or free.is_set())
    run.start()
    time.sleep(0.2)
    assert taken.reads == 0
    died = time.monotonic()
    free.set()
    eventually(lambda: taken.reads > 2)
    run.stop()
    rows = run.of("taken")
    assert rows[0].start_seconds == rows[0].end_seconds > died, "nothing from before it was ours"
    assert run.notes == []


def test_what_a_driver_buffered_before_the_takeover_is_not_counted_again():
    free, begun = threading.Event(), time.monotonic()

    class Buffered(Fake):
        def read(self) -> Reading:
            super().read()
            now = time.monotonic()
            return Reading(power_watts=100.0, power_samples=[(now - 0.1 * n, 100.0) for n in range(9, -1, -1)])

    run = Run(taken := Buffered("taken", interval=30.0), claim=lambda _: free.is_set())
    run.start()
    time.sleep(0.6)
    free.set()
    eventually(lambda: taken.reads > 0)
    run.stop()
    rows = run.of("taken")
    ours = rows[-1].end_seconds - rows[0].start_seconds
    assert sum(row.power_seconds for row in rows) <= ours + 0.2 < time.monotonic() - begun


def test_stop_before_anything_was_found():
    run = Run()
    run.start()
    run.stop()
    assert run.rows == []
    assert run.notes == []


def test_marks_that_come_faster_than_the_sensors_answer_leave_time_for_the_rest():
    """A phase around each step, over sensors of which one pass takes longer than the marks are apart."""
    run = Run(*(Fake(str(at), script=lambda _: time.sleep(0.006)) for at in range(5)))
    run.start()
    eventually(lambda: run.sampler.mark() or run.ticks, 60)
    run.stop()
