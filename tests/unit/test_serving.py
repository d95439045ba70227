"""Requests of an endpoint: the laws of attribution, the ledger, and the meter with scripted devices and clock."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from bisect import bisect_right
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import greenml
from greenml.errors import SettingsError
from greenml.record.schema import Quantity
from greenml.run import assembly
from greenml.run.serving.devices import DeviceEnergies
from greenml.run.serving.exchange import Exchange
from greenml.run.serving.ledger import (
    MOST_GROUPS,
    OTHER,
    Attributed,
    Ended,
    InFlight,
    Ledger,
    Piece,
    Share,
    Totals,
    WindowEnergy,
    bounds,
    share,
)
from greenml.run.serving.meter import TIME, TOKENS, ServingMeter
from greenml.settings import Settings
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter, boot_id
from greenml.trace.types import Device, Rollup, Trace

MANY = int(os.environ.get("GREENML_TEST_REQUESTS", "10000"))  # 1,000,000 for the full run; the figures are printed
TIMES = st.floats(-2.0, 3.0, allow_nan=False)
PIECES = st.lists(st.tuples(TIMES, TIMES, st.one_of(st.none(), st.integers(0, 10**9))), max_size=25)
KNOWN = st.lists(st.tuples(TIMES, TIMES, st.integers(0, 10**9)), max_size=25)


def pieces(drawn):
    return [Piece(("w", at), min(a, b), max(a, b), tokens) for at, (a, b, tokens) in enumerate(drawn)]


@given(st.one_of(PIECES, KNOWN))
@example([(0.0, 3.0, 1175), (0.0, 1.24e-78, 17592), (0.34375, -1.0, 463032832), (0.25, -1.4912128945449212, 60)])
def test_the_shares_and_idle_time_add_up_to_the_window_and_none_is_negative(drawn):
    shares = share(0.0, 1.0, pieces(drawn))
    given_shares = [*shares.of.values(), shares.idle]
    assert sum(item.mean for item in given_shares) == pytest.approx(1.0, abs=1e-9)
    assert all(item.mean >= 0 for item in given_shares)
    assert all(item.mean**2 - 1e-6 <= item.square <= item.mean + 1e-6 for item in given_shares)


@given(PIECES)
def test_idle_time_is_the_time_that_no_request_covers(drawn):
    idle = 1.0
    covered = 0.0
    for start, end in sorted((max(0.0, p.start_seconds), min(1.0, p.end_seconds)) for p in pieces(drawn)):
        if end > max(start, covered):
            idle -= end - max(start, covered)
            covered = max(covered, end)
    assert share(0.0, 1.0, pieces(drawn)).idle.mean == pytest.approx(idle, abs=1e-9)


@given(st.one_of(PIECES, KNOWN), st.floats(0.01, 1.0), st.one_of(st.none(), st.integers(0, 1000)))
def test_two_at_once_do_not_both_get_all(drawn, length, tokens):
    crowd = [Piece(("w", 99), 0.0, length, tokens), Piece(("w", 98), 0.0, length, tokens), *pieces(drawn)]
    shares = share(0.0, 1.0, crowd)
    assert shares.of["w", 99].mean == pytest.approx(shares.of["w", 98].mean, abs=1e-9)
    assert shares.of["w", 99].mean <= length / 2 + 1e-9


def test_tokens_decide_where_they_are_known_of_all_else_running_time():
    by_tokens = share(0.0, 1.0, [Piece(("w", 1), 0.0, 1.0, 30), Piece(("w", 2), 0.0, 1.0, 10)])
    assert (by_tokens.by_tokens, by_tokens.tokens, by_tokens.with_tokens) == (True, 40, pytest.approx(1.0))
    assert [item.mean for item in by_tokens.of.values()] == pytest.approx([0.75, 0.25])
    by_time = share(0.0, 1.0, [Piece(("w", 1), 0.0, 1.0, 30), Piece(("w", 2), 0.5, 1.0)])
    assert (by_time.by_tokens, by_time.tokens, by_time.with_tokens) == (False, 30, pytest.approx(0.75))
    assert [item.mean for item in by_time.of.values()] == pytest.approx([0.75, 0.25])


WINDOW = WindowEnergy(0.0, 1.0, 200.0, low_watts=50.0, high_watts=700.0)


def test_a_request_that_fills_the_window_has_no_doubt_from_the_course_of_the_power():
    assert bounds(WINDOW, Share(1.0, 1.0)) == (200.0, 200.0)
    assert bounds(WINDOW, Share(0.5, 0.25)) == (100.0, 100.0)


@given(st.floats(0.001, 0.999), st.integers(0, 2**32))
def test_the_bounds_hold_whatever_the_course_of_the_power(length, seed):
    """Random courses between the least and the most power, with the window's energy as it is."""
    rng, steps = random.Random(seed), 50
    watts = [rng.choice((50.0, 700.0, rng.uniform(50, 700))) for _ in range(steps)]
    window = WindowEnergy(0.0, 1.0, sum(watts) / steps, low_watts=50.0, high_watts=700.0)
    crowd = [Piece(("w", 1), 0.0, length), *(Piece(("w", 2 + n), rng.random() / 2, rng.random()) for n in range(3))]
    (low, high), truth, fine = bounds(window, share(0.0, 1.0, crowd).of["w", 1]), 0.0, 20
    for step in range(steps * fine):
        at = (step + 0.5) / (steps * fine)
        flying = sum(piece.start_seconds <= at < piece.end_seconds for piece in crowd)
        truth += watts[step // fine] / (steps * fine) / flying if at < length else 0.0
    assert low - 1.0 <= truth <= high + 1.0


def test_unknown_energy_makes_a_request_unknown_and_leaves_the_totals_alone():
    ledger = Ledger()
    ledger.publish("w", 2.0, [Ended(("w", 1), [(0.0, 1.5, None)])], {})
    ledger.settle(WindowEnergy(0.0, 1.0, None, usd=0.5))
    window = ledger.settle(WindowEnergy(1.0, 2.0, 100.0, 0.0, 100.0, usd=0.5))
    assert window.settled[0].attributed.joules is None
    assert (ledger.totals.used.joules, ledger.totals.idle.joules) == pytest.approx((50.0, 50.0))
    assert (ledger.totals.seconds, ledger.totals.unknown_seconds) == (2.0, 1.0)
    assert (ledger.totals.used.usd, ledger.totals.idle.usd) == pytest.approx((0.75, 0.25))


def test_a_request_whose_windows_were_settled_without_it_is_unknown_and_not_without_energy():
    """Its worker was silent for so long that nobody waited for it, or another process began to settle."""
    ledger = Ledger(Totals(until_seconds=1.0))
    ledger.publish("slow", 2.0, [Ended(("slow", 1), [(0.1, 0.9, None)]), Ended(("slow", 2), [(0.5, 1.5, None)])], {})
    ledger.publish("w", 2.0, [Ended(("w", 3), [(1.0, 1.5, None)]), Ended(("w", 4), [(1.2, 1.2, None)])], {})
    window = ledger.settle(WindowEnergy(1.0, 2.0, 100.0, grams=1.0))
    known = {settled.key: settled.attributed.joules for settled in window.settled}
    assert known == {("slow", 1): None, ("slow", 2): None, ("w", 3): pytest.approx(25.0), ("w", 4): 0.0}
    group = ledger.totals.groups["", ""]
    assert (group.count, group.settled, group.joules_settled) == (4, 2, pytest.approx(25.0))
    assert (ledger.totals.used.joules, ledger.totals.idle.joules) == pytest.approx((50.0, 50.0))


def test_a_request_of_a_worker_that_was_dropped_and_speaks_again_is_unknown():
    ledger = Ledger()
    ledger.publish("w", 1.0, [], {1: InFlight(0.0)})
    ledger.settle(WindowEnergy(0.0, 1.0, 100.0))
    ledger.drop("w")
    ledger.settle(WindowEnergy(1.0, 2.0, 100.0))
    ledger.publish("w", 3.0, [Ended(("w", 1), [(0.0, 2.5, None)])], {})
    (settled,) = ledger.settle(WindowEnergy(2.0, 3.0, 100.0)).settled
    assert settled.attributed.joules is None


def test_who_settles_after_another_settles_what_that_one_had_taken(tmp_path):
    """The first counts a request, and dies before its window; the request is settled, and counts once."""
    worker, first, second, third = (Exchange(tmp_path / "x.db", name) for name in ("w", "a", "b", "c"))
    worker.publish(10.0, 10.0, [Ended(("w", 1), [(1.0, 1.5, None)], "m", "k")], {})
    ledger = Ledger(Totals(until_seconds=1.0))
    for _, _, until, ended, flying in first.take_requests():
        ledger.publish("w", until, ended, flying)
    first.give({}, ledger.totals, {})
    later = Ledger(second.state()[0])
    assert [name for name, *_ in list(second.take_requests())] == ["w"]
    second = Exchange(tmp_path / "x.db", "b")
    for _, _, _, ended, _ in second.take_requests():
        later.take(ended)
    window = later.settle(WindowEnergy(1.0, 2.0, 100.0))
    second.give({"w": window.settled}, later.totals, {})
    (result,) = worker.take_results()
    assert (result.key, result.attributed.joules) == (("w", 1), pytest.approx(50.0))
    assert later.totals.groups["m", "k"].requests["completed"] == 1
    assert [ended for *_, ended, _ in third.take_requests()] == [[]]


def test_a_server_that_begins_anew_where_one_was_killed_does_not_go_on_from_its_totals(tmp_path):
    code = (
        "import os, sys, greenml; meter = greenml.serve(sys.argv[1]); request = meter.request(); request.end(); "
        "request.wait(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "serving.json")], check=True, timeout=60)
    shutil.rmtree(tmp_path / "serving.trace")
    with greenml.serve(tmp_path / "serving.json") as meter:
        meter.request().end()
    assert meter.record.serving.requests["completed"] == 1


def test_files_of_killed_servers_are_removed_and_those_of_a_server_that_still_writes_stay(tmp_path):
    """SQLite writes beside the database, whose own time may be of days ago."""
    days_ago = time.time() - 3 * 86_400
    for name in ("killed.db", "killed.db-wal", "lives.db", "lives.db-shm", "lives.db-wal"):
        (tmp_path / name).touch()
        if name != "lives.db-wal":
            os.utime(tmp_path / name, (days_ago, days_ago))
    Exchange(tmp_path / "new.db", "w").publish(1.0, 1.0, (), {})
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("new.db")}
    assert left == {"lives.db", "lives.db-shm", "lives.db-wal"}


def test_a_window_without_an_intensity_or_a_price_has_the_mean_of_the_others():
    part = Attributed()
    part.add(WindowEnergy(0, 1, 100.0), Share(1.0, 1.0))
    assert (part.grams, part.usd) == (None, None)
    part.add(WindowEnergy(1, 2, 300.0, grams=3.0, usd=0.5), Share(1.0, 1.0))
    assert (part.grams, part.usd) == pytest.approx((4.0, 1.0))
    part.add_known(WindowEnergy(2, 3, None, usd=0.5), Share(1.0, 1.0))
    assert (part.grams, part.usd) == pytest.approx((4.0, 1.5))


GPU = Device(kind="gpu", id="GPU-0", name="V100", method="counter", sensor="nvml", power_limit_watts=300.0)
OTHER_GPU = Device(kind="gpu", id="GPU-1", name="V100", method="counter", sensor="nvml")


def test_a_device_that_is_no_longer_read_makes_the_interval_wide_and_both_gone_the_energy_unknown(tmp_path):
    """GPU-1 is read until 12.0 at 50 W, GPU-0 until 90.0 at 200 W: longer than samples are kept."""
    now = 10.0
    header = {"start_seconds": now, "unix_seconds": 1e9, "attempt": 1, "host": "h", "run_id": "r", "boot_id": boot_id()}
    writer = TraceWriter(tmp_path / "a.jsonl", header)
    for key, device in enumerate((GPU, OTHER_GPU)):
        writer.write({"t": now, **trace_lines.device_line(str(key), device)})
    for second in range(10, 91):
        read = {"0": Rollup(second - 1.0, float(second), 200.0 * second)}
        if second <= 12:
            read["1"] = Rollup(second - 1.0, float(second), 50.0 * second)
        writer.write(trace_lines.sample_line(float(second), read))
    energies = DeviceEnergies(tmp_path, lambda: 90.0, lambda: 1e9)
    energies.read()
    window = energies.window(88.0, 90.0)
    assert window.joules == pytest.approx(400.0)
    assert window.coverage_high_joules >= 2 * 50.0  # as it was, where it does not tell its limit
    assert energies.window(95.0, 96.0).joules is None


def test_what_a_window_used_beyond_its_edges_is_a_part_of_its_uncertainty(tmp_path):
    """Readings at 10.5, 11.5 ...: of each second half is known to lie on this side of the edge."""
    header = {"start_seconds": 10.0, "unix_seconds": 1e9, "attempt": 1, "host": "h", "run_id": "r"}
    writer = TraceWriter(tmp_path / "a.jsonl", header | {"boot_id": boot_id()})
    writer.write({"t": 10.0, **trace_lines.device_line("0", GPU)})
    for at in (10.5, 11.5, 12.5, 13.5):
        writer.write(trace_lines.sample_line(at, {"0": Rollup(at - 1.0, at, 100.0 * at)}))
    energies = DeviceEnergies(tmp_path, lambda: 13.5, lambda: 1e9)
    energies.read()
    window = energies.window(11.0, 13.0)
    assert window.joules == pytest.approx(200.0)
    assert window.random_joules >= 100.0  # 50 J at each of the two edges


def of_trace(name, boot, totals):
    header = {"host": name, "boot_id": boot, "start_seconds": 0.0, "unix_seconds": 1e9}
    return Trace(Path(f"{name}.jsonl"), header=header, facts={"serving": totals.as_json()})


def settled(*windows, requests):
    ledger = Ledger()
    ledger.publish("w", 99.0, [Ended(("w", at), [span]) for at, span in enumerate(requests)], {})
    for window in windows:
        ledger.settle(window)
    return ledger.totals


def test_energy_that_no_window_knows_is_not_called_idle_and_is_on_no_mean():
    """A second with a request in flight in which no device was read; the record finds 60 J there."""
    totals = settled(
        WindowEnergy(0.0, 1.0, 100.0, 100.0, 100.0),
        WindowEnergy(1.0, 2.0, None),
        requests=[(0.0, 0.5, None), (1.0, 2.0, None)],
    )
    energy = Quantity(value=160.0, low=160.0, high=160.0, basis="measured")
    made = assembly.serving_record([of_trace("a", "1", totals)], energy)
    assert (made.request_energy_joules.value, made.request_energy_joules.high) == pytest.approx((50.0, 110.0))
    assert (made.idle_energy_joules.low, made.idle_energy_joules.high) == pytest.approx((50.0, 110.0))
    assert made.request_energy_joules.why == "without 1 of 2 requests"
    assert made.joules_per_request.value == pytest.approx(50.0)  # of the one whose energy is known


def test_a_machine_whose_energy_is_not_known_is_not_one_that_used_nothing():
    known = settled(WindowEnergy(0.0, 1.0, 100.0, grams=2.0, usd=1.0), requests=[(0.0, 1.0, None)])
    blind = settled(WindowEnergy(0.0, 1.0, None, usd=1.0), requests=[(0.0, 1.0, None)] * 3)
    energy = Quantity(value=100.0, basis="measured")
    made = assembly.serving_record([of_trace("a", "1", known), of_trace("b", "2", blind)], energy)
    assert made.requests["completed"] == 4
    assert made.joules_per_request.value == pytest.approx(100.0)
    assert (made.emissions_grams, made.cost_usd) == pytest.approx((2.0, 2.0))


def test_a_window_waits_for_tokens_of_requests_in_flight_and_then_goes_by_running_time():
    ledger = Ledger(patience_seconds=10.0)
    ledger.publish("w", 5.0, [], {1: InFlight(0.2)})
    assert not ledger.ready(1.0, 5.0)
    assert ledger.ready(1.0, 11.0)
    ledger.publish("w", 5.0, [], {1: InFlight(0.2, pieces=((0.2, 4.0, 38),))})
    assert ledger.ready(4.0, 5.0)
    assert not ledger.ready(5.0, 5.0)
    ledger.publish("other", 0.9, [], {})
    assert not ledger.ready(1.0, 100.0)  # a worker has not spoken of it
    ledger.drop("other")
    assert ledger.ready(1.0, 5.0)


def test_totals_survive_their_worker_and_groups_are_bounded():
    ledger = Ledger()
    requests = [Ended(("w", at), [(0.0, 1.0, 3.0)], f"model {at}", "k", "failed", 1, 2) for at in range(300)]
    ledger.publish("w", 2.0, requests, {})
    ledger.settle(WindowEnergy(0.0, 1.0, 300.0, grams=3.0, usd=0.6))
    totals = Totals.of_json(ledger.totals.as_json())
    assert totals == ledger.totals
    assert len(totals.groups) == MOST_GROUPS + 1
    assert totals.groups[OTHER, OTHER].requests["failed"] == 100
    assert sum(group.used.joules for group in totals.groups.values()) == pytest.approx(300.0)
    assert (totals.used.grams, totals.used.usd) == pytest.approx((3.0, 0.6))


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Devices:
    """Scripted power, exactly known: steps at given times, read once a second as a counter is."""

    def __init__(self, clock, times, watts, low=50.0, high=700.0) -> None:
        self._clock, self._times, self._watts, self._range = clock, times, watts, (low, high)
        self._joules = [0.0]
        for at in range(1, len(times)):
            self._joules.append(self._joules[-1] + watts[at - 1] * (times[at] - times[at - 1]))

    def joules(self, until: float) -> float:
        at = bisect_right(self._times, until) - 1
        return self._joules[at] + self._watts[at] * (until - self._times[at])

    def read(self) -> None: ...

    def known_until_seconds(self) -> float:
        return float(int(self._clock()))

    def window(self, start: float, end: float) -> WindowEnergy:
        joules = self.joules(end) - self.joules(start)
        seconds = end - start
        return WindowEnergy(start, end, joules, *self._range, grams=joules / 1000, usd=seconds / 100)


class Alone(ServingMeter):
    """A meter without a run: its clock and devices are scripted, and nobody else shares them."""

    def __init__(self, clock, devices) -> None:
        super().__init__(Settings(), record_minutes=1e9, clock=clock, unix_clock=clock, energies=devices)
        self._ledger = Ledger()
        self._run = Kept()

    def _sharing(self):
        return nullcontext(Nobody())


class Nobody:
    """The exchange with no other worker."""

    def take_requests(self):
        return ()

    def give(self, *_) -> None: ...

    def give_live(self, *_) -> None: ...


class Kept:
    """Where the totals go."""

    def write_totals(self, totals) -> None:
        self.totals = totals


def meter_of(times=(0.0,), watts=(200.0,), **limits):
    clock = Clock()
    devices = Devices(clock, [1000.0 + at for at in times], watts, **limits)
    return Alone(clock, devices), clock, devices


def advance(meter, clock, seconds):
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(end, clock.now + 0.5)
        meter.tick()


def test_one_request_gets_its_time_and_idle_time_the_rest():
    meter, clock, _ = meter_of()
    clock.now += 1.0
    with meter.request(model="bart", kind="summarize") as request:
        clock.now += 2.0
        request.tokens(input=10, output=30)
    assert request.result is None
    advance(meter, clock, 3.0)
    result = request.result
    assert result.energy_joules == pytest.approx(400.0)
    assert (result.co2e_grams, result.cost_usd) == pytest.approx((0.4, 0.02))
    assert (result.shared_by, result.joules_per_token) == (TOKENS, pytest.approx(10.0))
    totals = meter.totals()
    assert totals.request_joules == pytest.approx(400.0)
    assert totals.idle_joules + totals.request_joules == pytest.approx(200.0 * totals.seconds)
    assert totals.requests == {"completed": 1, "failed": 0, "cancelled": 0}
    assert totals.groups["bart", "summarize"].output_tokens == 30
    assert totals.joules_per_token == pytest.approx(10.0)


def test_a_short_request_has_a_wide_interval_and_a_long_one_a_narrow_one():
    meter, clock, _ = meter_of()
    with meter.request() as short:
        clock.now += 0.01
    clock.now += 0.99
    with meter.request() as long:
        clock.now += 60.0
    advance(meter, clock, 3.0)
    assert short.result.energy_joules == pytest.approx(2.0)
    assert short.result.energy_low_joules == pytest.approx(0.5)  # at the least power
    assert short.result.energy_high_joules == pytest.approx(7.0)  # at the most
    assert long.result.energy_joules == pytest.approx(12000.0)
    assert long.result.energy_high_joules - long.result.energy_low_joules < 700.0
    assert long.result.shared_by == TIME


def test_cancelled_failed_and_streaming_requests_count():
    meter, clock, _ = meter_of()

    def broken(error):
        with meter.request():
            clock.now += 0.5
            raise error

    with pytest.raises(RuntimeError):
        broken(RuntimeError())
    with pytest.raises(GeneratorExit):
        broken(GeneratorExit())
    stream = meter.request()
    for _ in range(8):
        clock.now += 0.5
        stream.tokens(output=1)
        meter.tick()
    assert meter.totals().in_flight == 1
    assert meter.totals().seconds >= 3.0  # a stream whose tokens are counted as they come holds nothing up
    stream.end()
    stream.end("failed")
    advance(meter, clock, 2.0)
    assert meter.totals().requests == {"completed": 1, "failed": 1, "cancelled": 1}
    assert stream.result.energy_joules == pytest.approx(800.0)
    assert (stream.result.shared_by, stream.result.output_tokens) == (TOKENS, 8)


def test_a_model_that_is_not_known_has_no_name():
    request = meter_of()[0].request(model=None, kind=None)
    assert (request.model, request.kind) == ("", "")


def test_tokens_that_are_no_count_are_left_out():
    meter, clock, _ = meter_of()
    notes = []
    meter.note = notes.append
    with meter.request() as request:
        clock.now += 1.0
        for wrong in (-1, "12", float("nan"), float("inf"), object(), None):
            request.tokens(output=wrong)
    assert request.output_tokens is None
    assert len(notes) == 5


def test_tokens_of_none_is_no_count_and_leaves_the_request_to_running_time():
    meter, clock, _ = meter_of()
    with meter.request() as unknown, meter.request() as other:
        clock.now += 2.0
        unknown.tokens(None, None)
        other.tokens(output=10)
    advance(meter, clock, 3.0)
    assert (unknown.result.energy_joules, unknown.result.shared_by) == (pytest.approx(200.0), TIME)


def test_figures_of_now_are_of_the_windows_whose_energy_is_known():
    meter, clock, devices = meter_of()
    known = devices.window
    devices.window = lambda start, end: known(start, end) if start >= 1002.0 else WindowEnergy(start, end, None)
    for _ in range(4):
        with meter.request() as request:
            request.tokens(output=5)
            clock.now += 1.0
    advance(meter, clock, 1.0)
    live = meter.totals().live
    assert live["watts"] == pytest.approx(200.0)
    assert live["joules_per_request"] == pytest.approx(200.0)
    assert live["grams_per_request"] == pytest.approx(0.2)
    assert live["tokens_per_second"] == pytest.approx(5.0)


class Others(Nobody):
    """The exchange with a worker that lives and one that died, each with three requests in flight."""

    def __init__(self, clock) -> None:
        self.clock, self.forgotten = clock, []

    def take_requests(self):
        flying = {number: InFlight(1000.0) for number in range(3)}
        yield "living", self.clock(), self.clock(), [], flying
        if "dead" not in self.forgotten:
            yield "dead", 1000.0 - 4.0, 1000.0 - 4.0, [], flying

    def forget(self, worker) -> None:
        self.forgotten.append(worker)


def test_requests_of_a_dead_worker_take_no_share_and_are_not_in_flight():
    meter, clock, _ = meter_of()
    others = Others(clock)
    meter._sharing = lambda: nullcontext(others)
    request = meter.request()
    advance(meter, clock, 12.0)
    assert meter.totals().in_flight == 4
    estimate = request.estimate()
    assert estimate.energy_joules == pytest.approx(200.0 * 12.0 / 4)
    advance(meter, clock, 60.0)
    assert others.forgotten == ["dead"]


def test_an_estimate_before_the_windows_are_settled_says_so():
    meter, clock, _ = meter_of()
    assert meter.request().estimate().energy_joules is None  # nothing was read yet
    advance(meter, clock, 12.0)
    request = meter.request()
    clock.now += 0.5
    estimate = request.estimate()
    assert estimate.provisional
    assert estimate.energy_joules == pytest.approx(50.0)  # two are in flight
    assert estimate.energy_low_joules <= 50.0 <= estimate.energy_high_joules


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_overlapping_requests_add_up_and_lie_in_their_intervals(seed):
    """2,000 requests of random lengths on devices whose power is known at every moment."""
    rng = random.Random(seed)
    times = sorted({0.0, *(rng.uniform(0, 120) for _ in range(600))})
    meter, clock, devices = meter_of(times, [rng.uniform(60, 650) for _ in times])
    events = []
    for number in range(2000):
        start = rng.uniform(0, 110)
        events += [(start, 0, number), (start + rng.expovariate(1.5) + 0.001, 1, number)]
    flying, requests, truth = {}, {}, dict.fromkeys(range(2000), 0.0)
    idle = last = 0.0
    ticked = 0.0
    for when, ends, number in sorted(events):
        joules = devices.joules(1000 + when) - devices.joules(1000 + last)
        for other in flying:
            truth[other] += joules / len(flying)
        idle += 0.0 if flying else joules
        last, clock.now = when, 1000.0 + when
        if ends:
            flying.pop(number).end()
        else:
            requests[number] = flying[number] = meter.request()
        if when - ticked > 0.5:
            ticked = when
            meter.tick()
    advance(meter, clock, 15.0)
    totals, end = meter.totals(), 1000.0 + meter.totals().seconds
    total = devices.joules(end)
    assert totals.request_joules + totals.idle_joules == pytest.approx(total, rel=1e-9)
    results = [requests[number].result for number in range(2000)]
    assert sum(result.energy_joules for result in results) + totals.idle_joules == pytest.approx(total, rel=0.001)
    within = sum(
        result.energy_low_joules - 1e-9 <= truth[number] <= result.energy_high_joules + 1e-9
        for number, result in enumerate(results)
    )
    assert within >= 0.93 * len(results)
    assert sum(result.cost_usd for result in results) + totals.idle_cost_usd == pytest.approx(totals.seconds / 100)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_requests():
    meter, clock, devices = meter_of()
    a_tenth = MANY // 10
    sizes = []
    large = MANY > 100_000  # tracing every allocation takes its time
    process = psutil.Process()
    if not large:
        tracemalloc.start()
    try:
        for number in range(MANY):
            with meter.request(model="m", kind=f"route {number % 7}") as request:
                clock.now += 0.002
                request.tokens(output=3)
            if number % 500 == 499:
                meter.tick()
            if number % a_tenth == a_tenth - 1:
                sizes.append(process.memory_info().rss if large else tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    advance(meter, clock, 3.0)
    totals = meter.totals()
    line = len(json.dumps(meter._run.totals))
    print(f"{MANY:,} requests: {sizes[1] / 1e6:.2f} MB after a fifth, {sizes[-1] / 1e6:.2f} MB at the end;")
    print(f"a line of the trace every 10 s: {line} bytes")
    assert line < 10_000
    assert totals.count == MANY
    assert totals.output_tokens == 3 * MANY
    assert totals.request_joules + totals.idle_joules == pytest.approx(devices.joules(1000.0 + totals.seconds))
    assert meter._ledger.size == 0
    assert sizes[-1] < sizes[1] + (10_000_000 if large else 1_000_000)


@pytest.mark.parametrize("arguments", [{"window_seconds": 0.0}, {"window_seconds": "1"}, {"record_minutes": -1}])
def test_serve_refuses_what_makes_no_sense(arguments):
    with pytest.raises(SettingsError, match="must be"):
        greenml.serve(**arguments)


def test_attributed_adds_up_intervals():
    part = Attributed()
    part.add(WindowEnergy(0, 1, 100.0, 0.0, 200.0, calibration_joules=5.0, random_joules=3.0), Share(1.0, 1.0))
    part.add(WindowEnergy(1, 2, 100.0, 0.0, 200.0, calibration_joules=5.0, random_joules=4.0), Share(1.0, 1.0))
    assert part.interval() == pytest.approx((200 - (100 + 25) ** 0.5, 200 + (100 + 25) ** 0.5))


def test_what_comes_after_the_end_is_neither_counted_nor_kept(tmp_path):
    meter = greenml.serve(tmp_path / "serving.json")
    with meter.request():
        pass
    record = meter.close()
    late = meter.request()
    late.end()
    assert meter.close() is record
    assert record.serving.requests["completed"] == 1
    assert len(meter._ended) == 0
    assert late.wait(0.0) is None
