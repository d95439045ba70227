"""Running totals off traces that grow, are compacted, end, or belong to others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from greenml import compaction, forecast, live, trace, trace_lines
from greenml.facts import IntensityCourse, IntensitySlot, Source
from greenml.job import boot_id
from greenml.model import Device, Rollup
from greenml.moment import Totals
from greenml.record import Factor, Factors, SourceRef
from greenml.trace import TraceWriter

GPU = Device(
    kind="gpu", id="GPU-0", name="V100", method="counter", sensor="nvml", power_limit_watts=300.0,
    memory_total_bytes=1000, detail={"index": "0"},
)  # fmt: skip
GAUGE = Device(kind="gpu", id="GPU-1", name="P100", method="gauge", sensor="nvml", detail={"index": "1"})
HOST = Device(kind="host", id="host", name="host", method=None, sensor="host", memory_total_bytes=64)


def factor(value, unit=""):
    return Factor(value=value, low=value, high=value, unit=unit, scope="given", source=SourceRef(name="test"))


FACTORS = Factors(carbon_intensity=factor(360.0), pue=factor(1.5), prices={"dedicated": factor(7.2)})


class Process:
    """A process's trace, written by hand."""

    def __init__(self, folder, name="a", *, start=0.0, unix=1e9, attempt=1, devices=(GPU,), **header):
        folder.mkdir(exist_ok=True)
        told = {"host": "elsewhere", "run_id": "r", "rank": None, **header}
        self.writer = TraceWriter(
            folder / f"{name}.jsonl", {"start_seconds": start, "unix_seconds": unix, "attempt": attempt, **told}
        )
        self.last = {}
        for key, device in enumerate(devices):
            self.writer.write({"t": start, **trace_lines.device_line(str(key), device)})

    def sample(self, at, *rows, edge=False):
        """Each row: (counter, joules, utilization, memory), of the devices in order."""
        rollups = {}
        for key, (counter, joules, busy, memory) in enumerate(rows):
            begun = self.last.get(key, at)
            rollups[str(key)] = Rollup(begun, at, counter, joules, at - begun, None, 0.0, busy, None, memory, memory)
            self.last[key] = at
        self.writer.write(trace_lines.sample_line(at, rollups, edge=edge))

    def write(self, **line):
        self.writer.write(line)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run.trace"


def follower(folder, nodes=None):
    return live.Follower(folder, FACTORS, nodes)


def test_counter_reset_and_gauge_add_up(folder):
    one = Process(folder, devices=(GPU, GAUGE))
    one.sample(10.0, (5000.0, None, None, None), (None, None, None, None))
    one.sample(12.0, (5400.0, 401.0, 0.5, 700), (None, 100.0, 0.25, None))
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(500.0)
    one.sample(14.0, (50.0, 380.0, 0.75, 800), (None, 120.0, 0.5, None))  # the counter began again: its power bridges
    one.sample(16.0, (450.0, 399.0, 0.75, 800), (None, 120.0, None, None))
    totals = seen.totals()
    assert totals.energy_joules == pytest.approx(500.0 + 380.0 + 120.0 + 400.0 + 120.0)
    assert totals.seconds == pytest.approx(16.0)
    assert totals.emissions_grams == pytest.approx(1520.0 / 3.6e6 * 1.5 * 360.0)
    assert totals.cost_usd == {"dedicated": pytest.approx(16.0 / 3600 * 7.2)}
    assert totals.power_watts == pytest.approx(200.0 + 60.0)
    now = seen.now()
    assert [(one.label, one.power_watts, one.utilization_ratio, one.memory_bytes) for one in now.devices] == [
        ("0", pytest.approx(200.0), 0.75, 800),
        ("1", pytest.approx(60.0), 0.5, None),
    ]
    assert (now.status, now.usd_per_hour) == ("running", {"dedicated": 7.2})
    assert now.grams_per_hour == pytest.approx(260.0 * 3600 / 3.6e6 * 1.5 * 360.0)


@pytest.mark.parametrize("counter", [7.0, None])
def test_a_counter_that_stands_still_or_tells_nothing_gives_way_to_power(folder, counter):
    one = Process(folder)
    for second in range(10):
        one.sample(float(second), (counter, 100.0 if second else None, None, None))
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(900.0)
    one.sample(10.0, (counter, 100.0, None, None))
    totals = seen.totals()
    assert (totals.energy_joules, totals.power_watts) == (pytest.approx(1000.0), pytest.approx(100.0))


def test_a_counter_that_stood_still_for_a_while_counts(folder):
    one = Process(folder)
    for second in range(5):
        one.sample(float(second), (7.0, 100.0 if second else None, None, None))
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(400.0)
    one.sample(5.0, (7.0 + 450.0, 100.0, None, None))
    assert seen.totals().energy_joules == pytest.approx(450.0)


def test_a_trace_that_ended_is_read_again_when_another_takes_its_place(folder):
    """As a gathered copy is when the next gather brings what came since."""
    one = Process(folder)
    one.sample(0.0, (0.0, None, None, None))
    one.sample(10.0, (1000.0, None, None, None))
    one.write(status="completed", error=None, t=10.0)
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(1000.0)
    longer = (folder / "a.jsonl").read_text().splitlines(keepends=True)[:-1]
    longer.append(json.dumps(trace_lines.sample_line(20.0, {"0": Rollup(10.0, 20.0, 2500.0)})) + "\n")
    (folder / "new").write_text("".join(longer))
    (folder / "new").replace(folder / "a.jsonl")
    assert seen.totals().energy_joules == pytest.approx(2500.0)


def test_two_machines_of_one_name_are_billed_and_shown(folder):
    for name in ("a", "b"):
        Process(folder, name, host="node", boot_id=f"boot-{name}").sample(3600.0, (1.0, None, None, None))
    seen = follower(folder)
    assert seen.totals().cost_usd["dedicated"] == pytest.approx(14.4)
    assert len(seen.now().devices) == 2


def test_nodes_are_those_given_or_those_seen(folder):
    Process(folder, "a", host="a").sample(3600.0, (1.0, None, None, None))
    Process(folder, "b", host="b").sample(3600.0, (1.0, None, None, None))
    assert follower(folder).totals().cost_usd["dedicated"] == pytest.approx(14.4)
    assert follower(folder, 8).totals().cost_usd["dedicated"] == pytest.approx(57.6)


def test_what_nobody_measures_is_not_known(folder):
    Process(folder, devices=(HOST,)).sample(5.0, (None, None, 0.5, 32))
    now = follower(folder).now()
    assert (now.totals.energy_joules, now.totals.power_watts, now.totals.emissions_grams) == (None, None, None)
    assert now.grams_per_hour is None
    assert now.devices[0].power_watts is None
    assert now.totals.figures("dedicated") == {"green/cost_usd": pytest.approx(0.01)}


def test_what_is_read_long_ago_is_not_of_now(folder):
    """Here, with this host's clock: the energy stays, and the power is not known."""
    now = time.monotonic()
    header = {"host": socket.gethostname(), "boot_id": boot_id()}
    one = Process(folder, start=now - 100, **header)
    one.sample(now - 90, (0.0, None, 0.9, 500))
    one.sample(now - 80, (2000.0, None, 0.9, 500))
    seen = follower(folder).now()
    assert seen.totals.energy_joules == 2000.0
    assert seen.totals.power_watts is None
    assert (seen.devices[0].power_watts, seen.devices[0].utilization_ratio) == (None, None)
    assert seen.devices[0].memory_total_bytes == 1000
    one.sample(time.monotonic(), (10000.0, None, 0.7, 600))
    seen = follower(folder).now()
    assert seen.totals.power_watts == pytest.approx(100.0, rel=0.01)
    assert seen.devices[0].utilization_ratio == 0.7


def test_energy_never_falls_where_the_guess_was_too_high(folder):
    now = time.monotonic()
    one = Process(folder, start=now - 10, host=socket.gethostname(), boot_id=boot_id())
    one.sample(now - 5, (0.0, None, None, None))
    one.sample(now - 3, (2000.0, None, None, None))
    seen = follower(folder)
    guessed = seen.totals().energy_joules
    assert 2000.0 + 3000.0 <= guessed < 2000.0 + 1000.0 * live.STALE_SECONDS
    one.sample(time.monotonic(), (2001.0, None, None, None))  # it stood still meanwhile
    assert seen.totals().energy_joules == pytest.approx(guessed)


def test_a_compacted_trace_tells_the_same(folder):
    one = Process(folder, devices=(GPU, GAUGE))
    early, steps = follower(folder), 3000

    def write(first, last):
        for second in range(first, last):
            watts = 100.0 + 50.0 * (second % 5)
            write.joules += watts
            one.sample(float(second), (write.joules, watts, 0.5, 600), (None, 10.0 if second else None, 0.5, 6))
            if second % 2 == 0:
                one.write(step=second, steps=steps, t=float(second))

    write.joules = 0.0
    one.write(phase="train", begin=1, t=0.0)
    write(0, 1000)
    before = early.now()
    compaction.compact(one.writer, limit_bytes=40_000)
    late = follower(folder).now()
    for totals in (early.totals(), late.totals):
        assert replace(totals, power_watts=None) == replace(before.totals, power_watts=None)
    assert (late.step, late.steps) == (before.step, before.steps) == (998, 3000)
    assert late.phases == before.phases == [("train", 999.0)]
    # Steps were thinned; what they let expect is the same.
    kept = [line for line in trace.read_lines(one.writer.path) if "step" in line]
    assert 100 <= len(kept) <= compaction.MAX_STEPS
    write(1000, 1500)
    for seen in (early.now(), follower(folder).now()):
        assert seen.totals.energy_joules == pytest.approx(write.joules - 100.0 + 10.0 * 1499)
        assert seen.totals.energy_joules * seen.expected.energy.ratio == pytest.approx(210.0 * steps, rel=0.01)
        assert seen.totals.seconds * seen.expected.seconds.ratio == pytest.approx(steps, rel=0.01)
        assert seen.expected.energy.low <= seen.expected.energy.ratio <= seen.expected.energy.high


def test_one_who_comes_late_expects_the_same(folder):
    """Two processes: one measures, the other tells the steps; read at once or as they grow."""
    measures = Process(folder, "a", rank=1)
    tells = Process(folder, "b", devices=(), rank=0, unix=1e9 + 5)
    early = follower(folder)
    for second in range(60):
        measures.sample(float(second) + 5.0, (300.0 * second + 40.0 * (second % 7), None, None, None))
        tells.write(step=second, steps=100, t=float(second))
        early.totals()
    seen, late = early.now(), follower(folder).now()
    assert (seen.step, seen.steps) == (late.step, late.steps) == (59, 100)
    assert late.expected.energy.ratio == pytest.approx(seen.expected.energy.ratio)
    assert late.totals.energy_joules * late.expected.energy.ratio == pytest.approx(300.0 * 100, rel=0.02)
    assert late.expected.energy.high > late.expected.energy.ratio > late.expected.energy.low


def test_a_second_training_is_expected_by_itself(folder):
    one = Process(folder)
    for second in range(200):
        watts = 100.0 if second < 100 else 300.0
        joules = 100.0 * min(second, 100) + 300.0 * max(0, second - 100)
        one.sample(float(second), (joules, watts, None, None))
        one.write(step=second % 100, steps=100, t=float(second))
    now = follower(folder).now()
    assert now.totals.energy_joules * now.expected.energy.ratio == pytest.approx(10_000 + 30_000, rel=0.01)


def test_a_device_that_another_process_took_over_is_one(folder):
    first = Process(folder, "a", rank=0)
    first.sample(0.0, (0.0, None, 0.1, 1))
    first.sample(10.0, (1000.0, None, 0.1, 1))
    second = Process(folder, "b", rank=1)
    second.sample(11.0, (1100.0, None, 0.9, 2))
    seen = follower(folder)
    assert seen.now().devices[0].power_watts is None  # on another machine, what is found may be old
    second.sample(21.0, (3100.0, None, 0.9, 2))
    now = seen.now()
    assert now.totals.energy_joules == 3000.0
    assert [(one.id, one.power_watts, one.utilization_ratio) for one in now.devices] == [("GPU-0", 200.0, 0.9)]
    assert (now.processes, now.hosts) == (2, ("elsewhere",))


def test_attempts_add_up_and_the_last_is_shown(folder):
    first = Process(folder, "a")
    first.sample(0.0, (0.0, None, None, None))
    first.sample(100.0, (9000.0, None, None, None))
    first.write(status="failed", error="no", t=100.0)
    assert follower(folder).now().status == "failed"
    second = Process(folder, "b", attempt=2, unix=1e9 + 500, name_="x")
    second.sample(0.0, (9000.0, None, None, None))
    second.sample(10.0, (10000.0, None, None, None))
    now = follower(folder).now()
    assert (now.status, now.attempt) == ("running", 2)
    assert now.totals.energy_joules == 10_000.0
    assert now.totals.seconds == pytest.approx(110.0)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"status": "completed", "error": None}, "completed"),
        ({"status": "failed", "error": "ValueError: no"}, "failed"),
        ({"so_far": "completed"}, "completed"),
        ({}, "killed"),
    ],
)
def test_how_a_run_ended_is_as_its_record_has_it(folder, line, status):
    one = Process(folder, host=socket.gethostname())
    one.sample(1.0, (0.0, None, None, None))
    assert follower(folder).now().status == "running"
    if line:
        one.write(**line, t=2.0)
    one.writer.close()
    now = follower(folder).now()
    assert (now.status, now.error) == (status, line.get("error"))


def test_lines_that_are_not_ours_are_passed_over(folder):
    one = Process(folder)
    one.sample(0.0, (0.0, None, None, None))
    with one.writer.path.open("ab") as stream:
        stream.write(b'[1]\n"text"\n{"d": 3, "t": 1}\n{"d": {"0": [0]}, "t": "x"}\nno json\n')
    (folder / "b.jsonl").write_text('{"greenml_trace": 1}\n{"t": 5, "d": {}}\n')
    (folder / "c.jsonl").write_text('{"greenml_trace": 99, "start_seconds": 0, "unix_seconds": 0}\n{"t": 1}\n')
    (folder / "d.jsonl").write_text("")
    one.sample(1.0, (70.0, None, None, None))
    with one.writer.path.open("ab") as stream:
        stream.write(b'{"t": 2.0, "d": {"0": [0.0, 17')  # not whole yet
    seen = follower(folder)
    assert seen.totals().energy_joules == 70.0
    with one.writer.path.open("ab") as stream:
        stream.write(b"0.0]}}\n")
    assert seen.totals().energy_joules == 170.0
    assert seen.now().processes == 1


def test_what_joined_later_is_accounted_with_its_factors(folder):
    Process(folder).sample(3600.0, (0.0, None, None, None))
    seen = live.Follower(folder, Factors())
    assert seen.totals().cost_usd == {}
    seen.account_with(FACTORS, 2)
    assert seen.totals().cost_usd == {"dedicated": pytest.approx(14.4)}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")
def test_a_run_of_another_user_is_seen_to_live():
    """Its files can be read, and not written."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        one = Process(Path(name) / "run.trace", host=socket.gethostname())
        one.writer.path.with_suffix(".alive").chmod(0o644)
        code = "import os, sys, pathlib, socket; from greenml import trace; os.setgid(65534); os.setuid(65534)\n"
        code += "print(trace.is_alive(pathlib.Path(sys.argv[1]), sys.argv[2]))"
        look = [sys.executable, "-c", code, str(one.writer.path), socket.gethostname()]
        assert subprocess.run(look, capture_output=True, text=True, check=True).stdout == "True\n"
        one.writer.close()
        assert subprocess.run(look, capture_output=True, text=True, check=True).stdout == "False\n"


def test_nothing_is_written_and_no_lock_held_by_looking(folder):
    one = Process(folder, host=socket.gethostname())
    one.sample(0.0, (0.0, None, None, None))

    def state():
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}

    before = state()
    seen = follower(folder)
    seen.now()
    seen.now()
    assert state() == before
    one.writer.close()  # a lock of ours would keep it
    assert seen.now().status == "killed"


def test_progress_is_written_every_two_seconds_and_at_both_ends(tmp_path):
    code = """
import greenml, time
with greenml.track() as run:
    began = time.monotonic()
    for step in range(100_000):
        run.progress(step, 100_000)
    spent = time.monotonic() - began
    run.progress(100_000, 100_000)
    run.progress(100_000, 100_000)
    run.progress(3, 10)
run.progress(1, 2)
print(spent)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    [path] = trace.paths(tmp_path / "run.trace")
    told = [(line["step"], line["steps"]) for line in trace.read_lines(path) if "step" in line]
    assert told[0] == (0, 100_000)
    assert told[-2:] == [(100_000, 100_000), (3, 10)]
    assert len(told) <= 4 + float(done.stdout) / 2
    assert "step" not in json.loads((tmp_path / "run.json").read_text())["trainer"]


def test_the_forecast_is_the_arithmetic_of_its_steps():
    seen = forecast.Forecast()
    seen.begin(0, Totals(10.0, 0.0, None, None, {}))
    rates = [90.0, 110.0, 100.0, 100.0]
    joules = 0.0
    for step, rate in enumerate(rates, 1):
        joules += rate
        seen.add(step, Totals(10.0 + step, joules, None, None, {}))
    now = Totals(14.0, joules, None, None, {})
    expected = seen.expected(10, now)
    assert expected.energy.ratio * joules == pytest.approx(1000.0)
    error = (sum((rate - 100.0) ** 2 for rate in rates) / 3) ** 0.5 / 2  # of the mean of four
    assert expected.energy.high * joules == pytest.approx(1000.0 + 2 * error * 6)
    assert expected.energy.low * joules == pytest.approx(1000.0 - 2 * error * 6)
    assert expected.seconds.ratio * 14.0 == pytest.approx(20.0)
    assert seen.expected(1000, now) is None  # too few of them are done
    ratios = [seen.expected(steps, now).energy.ratio for steps in range(4, 100, 8)]
    assert all(before < after for before, after in pairwise(ratios))


# The carbon intensity of the hours


HOUR = 1_000_000_800  # a full one


def answer(signal="average", provider="uk_grid", **hours):
    """A provider's answer: g/kWh by hour since HOUR."""
    slots = tuple(
        IntensitySlot(
            datetime.fromtimestamp(HOUR + 3600 * int(hour[1:]), timezone.utc),
            datetime.fromtimestamp(HOUR + 3600 * (int(hour[1:]) + 1), timezone.utc),
            grams,
        )
        for hour, grams in hours.items()
    )
    return trace_lines.course_line(IntensityCourse(provider, signal, "GB", slots, Source("test")))


def test_running_emissions_follow_the_hours(folder):
    one = Process(folder, unix=HOUR)
    one.sample(0.0, (0.0, None, None, None))
    seen = follower(folder)
    one.write(t=1.0, **answer(h0=100.0))
    one.sample(1800.0, (3.6e6, None, None, None))
    assert seen.totals().emissions_grams == pytest.approx(1.5 * 100.0)
    one.sample(5400.0, (7.2e6, None, None, None))  # of which nobody told yet: the yearly 360
    seen = follower(folder)
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 360.0))
    one.write(t=5401.0, **answer(h1=500.0))
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 500.0)), "an answer counts at once"
    one.write(t=5402.0, **answer(h1=400.0))
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 400.0)), "the later answer holds"


def test_a_marginal_course_is_not_mixed_with_the_yearly_mean(folder):
    one = Process(folder, unix=HOUR)
    one.sample(0.0, (0.0, None, None, None))
    one.write(t=1.0, **answer("marginal", h0=700.0))
    one.sample(1800.0, (3.6e6, None, None, None))
    one.sample(5400.0, (7.2e6, None, None, None))
    assert follower(folder).totals().emissions_grams == pytest.approx(1.5 * 2 * 700.0)


def test_hours_stay_through_a_compaction(folder):
    one = Process(folder, unix=HOUR)
    one.write(t=0.5, **answer(h0=100.0, h1=500.0))
    for at in range(0, 7200, 60):
        one.sample(float(at), (1000.0 * at, None, None, None))
    seen = follower(folder)
    before = seen.totals().emissions_grams
    assert before == pytest.approx(1.5 * (3.6e6 * 100 + 3.54e6 * 500) / 3.6e6, rel=0.01)
    compaction.compact(one.writer, resolution_seconds=120.0)
    one.sample(7200.0, (7.2e6, None, None, None))
    assert follower(folder).totals().emissions_grams == pytest.approx(1.5 * (100.0 + 500.0), rel=0.02)
    seen._intensity._mean = None  # not in ten seconds, but now
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 500.0), rel=0.02), "nothing counts twice"
