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

from greenml.accounting.status import Forecast, RunningTotals
from greenml.factors.types import IntensitySeries, IntensitySlot, Source
from greenml.record.schema import Factor, Factors, SourceRef
from greenml.run import compaction, live
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace import trace_paths
from greenml.trace.file import TraceWriter, boot_id
from greenml.trace.types import Device, Rollup

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
    return live.LiveRun(folder, FACTORS, nodes)


def test_counter_reset_and_gauge_add_up(folder):
    process = Process(folder, devices=(GPU, GAUGE))
    process.sample(10.0, (5000.0, None, None, None), (None, None, None, None))
    process.sample(12.0, (5400.0, 401.0, 0.5, 700), (None, 100.0, 0.25, None))
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(500.0)
    process.sample(
        14.0, (50.0, 380.0, 0.75, 800), (None, 120.0, 0.5, None)
    )  # the counter began again: its power bridges
    process.sample(16.0, (450.0, 399.0, 0.75, 800), (None, 120.0, None, None))
    totals = seen.totals()
    assert totals.energy_joules == pytest.approx(500.0 + 380.0 + 120.0 + 400.0 + 120.0)
    assert totals.seconds == pytest.approx(16.0)
    assert totals.emissions_grams == pytest.approx(1520.0 / 3.6e6 * 1.5 * 360.0)
    assert totals.cost_usd == {"dedicated": pytest.approx(16.0 / 3600 * 7.2)}
    assert totals.power_watts == pytest.approx(200.0 + 60.0)
    now = seen.now()
    assert [
        (device.label, device.power_watts, device.utilization_ratio, device.memory_bytes) for device in now.devices
    ] == [
        ("0", pytest.approx(200.0), 0.75, 800),
        ("1", pytest.approx(60.0), 0.5, None),
    ]
    assert (now.status, now.usd_per_hour) == ("running", {"dedicated": 7.2})
    assert now.grams_per_hour == pytest.approx(260.0 * 3600 / 3.6e6 * 1.5 * 360.0)


@pytest.mark.parametrize("counter", [7.0, None])
def test_a_counter_that_stands_still_or_tells_nothing_gives_way_to_power(folder, counter):
    process = Process(folder)
    for second in range(10):
        process.sample(float(second), (counter, 100.0 if second else None, None, None))
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(900.0)
    process.sample(10.0, (counter, 100.0, None, None))
    totals = seen.totals()
    assert (totals.energy_joules, totals.power_watts) == (pytest.approx(1000.0), pytest.approx(100.0))


def test_a_counter_that_stood_still_for_a_while_counts(folder):
    process = Process(folder)
    for second in range(5):
        process.sample(float(second), (7.0, 100.0 if second else None, None, None))
    seen = follower(folder)
    assert seen.totals().energy_joules == pytest.approx(400.0)
    process.sample(5.0, (7.0 + 450.0, 100.0, None, None))
    assert seen.totals().energy_joules == pytest.approx(450.0)


def test_a_trace_that_ended_is_read_again_when_another_takes_its_place(folder):
    """As a gathered copy is when the next gather brings what came since."""
    process = Process(folder)
    process.sample(0.0, (0.0, None, None, None))
    process.sample(10.0, (1000.0, None, None, None))
    process.write(status="completed", error=None, t=10.0)
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
    process = Process(folder, start=now - 100, **header)
    process.sample(now - 90, (0.0, None, 0.9, 500))
    process.sample(now - 80, (2000.0, None, 0.9, 500))
    seen = follower(folder).now()
    assert seen.totals.energy_joules == 2000.0
    assert seen.totals.power_watts is None
    assert (seen.devices[0].power_watts, seen.devices[0].utilization_ratio) == (None, None)
    assert seen.devices[0].memory_total_bytes == 1000
    process.sample(time.monotonic(), (10000.0, None, 0.7, 600))
    seen = follower(folder).now()
    assert seen.totals.power_watts == pytest.approx(100.0, rel=0.01)
    assert seen.devices[0].utilization_ratio == 0.7


def test_energy_never_falls_where_the_guess_was_too_high(folder):
    now = time.monotonic()
    process = Process(folder, start=now - 10, host=socket.gethostname(), boot_id=boot_id())
    process.sample(now - 5, (0.0, None, None, None))
    process.sample(now - 3, (2000.0, None, None, None))
    seen = follower(folder)
    guessed = seen.totals().energy_joules
    assert 2000.0 + 3000.0 <= guessed < 2000.0 + 1000.0 * live.STALE_SECONDS
    process.sample(time.monotonic(), (2001.0, None, None, None))  # it stood still meanwhile
    assert seen.totals().energy_joules == pytest.approx(guessed)


def test_a_compacted_trace_tells_the_same(folder):
    process = Process(folder, devices=(GPU, GAUGE))
    early, steps = follower(folder), 3000

    def write(first, last):
        for second in range(first, last):
            watts = 100.0 + 50.0 * (second % 5)
            write.joules += watts
            process.sample(float(second), (write.joules, watts, 0.5, 600), (None, 10.0 if second else None, 0.5, 6))
            if second % 2 == 0:
                process.write(step=second, steps=steps, t=float(second))

    write.joules = 0.0
    process.write(phase="train", begin=1, t=0.0)
    write(0, 1000)
    before = early.now()
    compaction.compact(process.writer, limit_bytes=40_000)
    late = follower(folder).now()
    for totals in (early.totals(), late.totals):
        assert replace(totals, power_watts=None) == replace(before.totals, power_watts=None)
    assert (late.step, late.steps) == (before.step, before.steps) == (998, 3000)
    assert late.phases == before.phases == [("train", 999.0)]
    # Steps were thinned; what they let expect is the same.
    kept = [line for line in trace_file.read_lines(process.writer.path) if "step" in line]
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
    process = Process(folder)
    for second in range(200):
        watts = 100.0 if second < 100 else 300.0
        joules = 100.0 * min(second, 100) + 300.0 * max(0, second - 100)
        process.sample(float(second), (joules, watts, None, None))
        process.write(step=second % 100, steps=100, t=float(second))
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
    assert [(device.id, device.power_watts, device.utilization_ratio) for device in now.devices] == [
        ("GPU-0", 200.0, 0.9)
    ]
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
    process = Process(folder, host=socket.gethostname())
    process.sample(1.0, (0.0, None, None, None))
    assert follower(folder).now().status == "running"
    if line:
        process.write(**line, t=2.0)
    process.writer.close()
    now = follower(folder).now()
    assert (now.status, now.error) == (status, line.get("error"))


def test_lines_that_are_not_ours_are_passed_over(folder):
    process = Process(folder)
    process.sample(0.0, (0.0, None, None, None))
    with process.writer.path.open("ab") as stream:
        stream.write(b'[1]\n"text"\n{"d": 3, "t": 1}\n{"d": {"0": [0]}, "t": "x"}\nno json\n')
    (folder / "b.jsonl").write_text('{"greenml_trace": 1}\n{"t": 5, "d": {}}\n')
    (folder / "c.jsonl").write_text('{"greenml_trace": 99, "start_seconds": 0, "unix_seconds": 0}\n{"t": 1}\n')
    (folder / "d.jsonl").write_text("")
    process.sample(1.0, (70.0, None, None, None))
    with process.writer.path.open("ab") as stream:
        stream.write(b'{"t": 2.0, "d": {"0": [0.0, 17')  # not whole yet
    seen = follower(folder)
    assert seen.totals().energy_joules == 70.0
    with process.writer.path.open("ab") as stream:
        stream.write(b"0.0]}}\n")
    assert seen.totals().energy_joules == 170.0
    assert seen.now().processes == 1


def test_a_process_that_joins_later_brings_its_settings(folder):
    Process(folder, rank=1).sample(3600.0, (0.0, None, None, None))
    seen = live.LiveRun(folder)
    assert seen.totals().cost_usd == {}
    settings = {"price_per_hour": 7.2, "nodes": 2, "known_from": {"price_per_hour": "argument", "nodes": "argument"}}
    Process(folder, "b", rank=0, settings=settings)
    assert list(seen.totals().cost_usd.values()) == [pytest.approx(14.4)]


BOOTS = [f"{number:08d}-aaaa-4bbb-8ccc-dddddddddddd" for number in range(3)]


def sample_both(process, second, *, joules):
    """A GPU with a counter at 100 W, and one whose power of 50 W is integrated, over so many seconds."""
    power = (None, None) if joules is None else (100.0 * joules, 50.0 * joules)
    process.sample(float(second), (1000.0 + 100.0 * second, power[0], 0.5, 700), (None, power[1], 0.5, None))


def test_containers_on_a_machine_are_one_machine_and_its_devices_count_once(folder):
    """Both measure the machine's GPUs: claims lie in each container's own temporary folder."""
    seen, processes = follower(folder), {}
    for name, host, first, last in (("a", "pod-1", 0, 10), ("b", "pod-2", 4, 14), ("c", "pod-3", 5, 9)):
        processes[name] = Process(folder, name, host=host, boot_id=BOOTS[0], devices=(GPU, GAUGE))
        for second in range(first, last + 1):
            sample_both(processes[name], second, joules=None if second == first else 1.0)
    assert seen.totals().energy_joules == pytest.approx(14 * (100.0 + 50.0))
    sample_both(processes["b"], 15, joules=1.0)
    sample_both(processes["a"], 15, joules=5.0)
    now = seen.now()
    assert now.totals.energy_joules == pytest.approx(15 * (100.0 + 50.0))
    assert now.totals.power_watts == pytest.approx(150.0)
    assert now.totals.cost_usd == {"dedicated": pytest.approx(15.0 / 3600 * 7.2)}
    assert now.hosts == ("pod-1",)
    assert [(device.host, device.id) for device in now.devices] == [("pod-1", "GPU-0"), ("pod-1", "GPU-1")]


def test_machines_of_one_host_name_are_several(folder):
    for name, boot in zip("abc", BOOTS, strict=True):
        process = Process(folder, name, host="gpu-node-01", boot_id=boot)
        for second in range(11):
            process.sample(float(second), (100.0 * second, 100.0, 0.5, 700))
    now = follower(folder).now()
    assert now.totals.energy_joules == pytest.approx(3000.0)
    assert now.totals.cost_usd == {"dedicated": pytest.approx(3 * 10.0 / 3600 * 7.2)}
    assert now.hosts == ("gpu-node-01", "gpu-node-01-00000001", "gpu-node-01-00000002")
    assert len({device.host for device in now.devices}) == 3


READS = """
import json, sys, time
from pathlib import Path
from greenml.run.live import BackgroundTotals

opened, folder = [], sys.argv[1]
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith(".jsonl") and opened.append(args[0]))
totals = BackgroundTotals(Path(folder), lambda: None)
begun, steps, figures = time.monotonic(), 0, None
while time.monotonic() - begun < 3.3:
    figures = totals.totals()
    steps += 1
    time.sleep(0.001)
print(json.dumps([steps, len(opened), figures.energy_joules, totals.end().energy_joules]))
"""


def test_traces_are_read_no_oftener_than_once_a_second_whatever_asks(folder):
    """As many steps as there are ask for the totals of a run of 20 ranks."""
    for number in range(20):
        process = Process(
            folder, str(number), rank=number, boot_id=BOOTS[0], devices=(replace(GPU, id=f"GPU-{number}"),)
        )
        process.sample(0.0, (0.0, None, None, None))
        process.sample(10.0, (100.0, None, None, None))
    answer = subprocess.run(
        [sys.executable, "-c", READS, str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    steps, opened, joules, last_joules = json.loads(answer.stdout)
    assert joules == last_joules == pytest.approx(2000.0)
    assert opened % 20 == 0
    assert opened // 20 <= 5, "three seconds and the first read, and one at the end"
    assert steps > 5 * opened // 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_folder_that_does_not_answer_stalls_no_step(folder):
    """A named pipe stands for a file on a network that hangs: to open it waits for ever."""
    Process(folder).sample(0.0, (0.0, None, None, None))
    os.mkfifo(folder / "b.jsonl")
    code = READS.replace("3.3", "1.0").replace("totals.end()", "totals.totals()")
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    steps, opened, joules, _ = json.loads(answer.stdout)
    assert (opened, joules) == (2, None), "one read, which never ends"
    assert steps > 20


def test_a_forked_child_asks_nobody(folder):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    process = Process(folder)
    process.sample(0.0, (0.0, None, None, None))
    process.sample(10.0, (100.0, None, None, None))
    code = READS[: READS.index("begun, steps")] + "import os\nfigures = totals.totals()\nbefore = len(opened)\n"
    code += "if os.fork() == 0:\n    time.sleep(1.5)\n    ok = totals.totals() is figures and len(opened) == before\n"
    code += "    os._exit(0 if ok and totals.end() is figures else 1)\nprint(os.wait()[1])\n"
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout == "0\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")
def test_a_run_of_another_user_is_seen_to_live():
    """Its files can be read, and not written."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        process = Process(Path(name) / "run.trace", host=socket.gethostname())
        process.writer.path.with_suffix(".alive").chmod(0o644)
        code = "import os, sys, pathlib, socket; from greenml.trace import file as trace_file\n"
        code += "os.setgid(65534); os.setuid(65534)\n"
        code += "print(trace_file.is_alive(pathlib.Path(sys.argv[1]), {'host': sys.argv[2]}))"
        look = [sys.executable, "-c", code, str(process.writer.path), socket.gethostname()]
        assert subprocess.run(look, capture_output=True, text=True, check=True).stdout == "True\n"
        process.writer.close()
        assert subprocess.run(look, capture_output=True, text=True, check=True).stdout == "False\n"


def test_nothing_is_written_and_no_lock_held_by_looking(folder):
    process = Process(folder, host=socket.gethostname())
    process.sample(0.0, (0.0, None, None, None))

    def state():
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}

    before = state()
    seen = follower(folder)
    seen.now()
    seen.now()
    assert state() == before
    process.writer.close()  # a lock of ours would keep it
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
    [path] = trace_paths(tmp_path / "run.trace")
    told = [(line["step"], line["steps"]) for line in trace_file.read_lines(path) if "step" in line]
    assert told[0] == (0, 100_000)
    assert told[-2:] == [(100_000, 100_000), (3, 10)]
    assert len(told) <= 4 + float(done.stdout) / 2
    assert "step" not in json.loads((tmp_path / "run.json").read_text())["trainer"]


def test_the_forecast_is_the_arithmetic_of_its_steps():
    seen = Forecast()
    seen.begin(0, RunningTotals(10.0, 0.0, None, None, {}))
    rates = [90.0, 110.0, 100.0, 100.0]
    joules = 0.0
    for step, rate in enumerate(rates, 1):
        joules += rate
        seen.add(step, RunningTotals(10.0 + step, joules, None, None, {}))
    now = RunningTotals(14.0, joules, None, None, {})
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
    return trace_lines.intensity_line(IntensitySeries(provider, signal, "GB", slots, Source("test")))


def test_running_emissions_follow_the_hours(folder):
    process = Process(folder, unix=HOUR)
    process.sample(0.0, (0.0, None, None, None))
    seen = follower(folder)
    process.write(t=1.0, **answer(h0=100.0))
    process.sample(1800.0, (3.6e6, None, None, None))
    assert seen.totals().emissions_grams == pytest.approx(1.5 * 100.0)
    process.sample(5400.0, (7.2e6, None, None, None))  # of which nobody told yet: the yearly 360
    seen = follower(folder)
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 360.0))
    process.write(t=5401.0, **answer(h1=500.0))
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 500.0)), "an answer counts at once"
    process.write(t=5402.0, **answer(h1=400.0))
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 400.0)), "the later answer holds"


def test_a_marginal_course_is_not_mixed_with_the_yearly_mean(folder):
    process = Process(folder, unix=HOUR)
    process.sample(0.0, (0.0, None, None, None))
    process.write(t=1.0, **answer("marginal", h0=700.0))
    process.sample(1800.0, (3.6e6, None, None, None))
    process.sample(5400.0, (7.2e6, None, None, None))
    assert follower(folder).totals().emissions_grams == pytest.approx(1.5 * 2 * 700.0)


def test_hours_stay_through_a_compaction(folder):
    process = Process(folder, unix=HOUR)
    process.write(t=0.5, **answer(h0=100.0, h1=500.0))
    for at in range(0, 7200, 60):
        process.sample(float(at), (1000.0 * at, None, None, None))
    seen = follower(folder)
    before = seen.totals().emissions_grams
    assert before == pytest.approx(1.5 * (3.6e6 * 100 + 3.54e6 * 500) / 3.6e6, rel=0.01)
    compaction.compact(process.writer, resolution_seconds=120.0)
    process.sample(7200.0, (7.2e6, None, None, None))
    assert follower(folder).totals().emissions_grams == pytest.approx(1.5 * (100.0 + 500.0), rel=0.02)
    seen._intensity._mean = None  # not in ten seconds, but now
    assert seen.totals().emissions_grams == pytest.approx(1.5 * (100.0 + 500.0), rel=0.02), "nothing counts twice"
