"""The host and the run's processes: exact between reads, whoever comes and goes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SensorError
from greenml.sensors import _cpu, discover, host
from greenml.sensors._cpu import host_memory, host_seconds
from greenml.trace.types import Device, Wanted

HOST = Device(kind="host", id="host", name="host", method=None)
PROCESSES = Device(kind="process", id="processes", name="the run's processes", method=None)
BURN = "import time\nprint(flush=True)\nend = time.time() + 60\nwhile time.time() < end: pass"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def host_sensor(times: Iterable[tuple[float, float]]) -> host.HostSensor:
    return host.HostSensor(HOST, iter(times).__next__)


def test_probe_finds_the_host_and_the_processes():
    sensors = host.probe()
    assert [(sensor.device.kind, sensor.device.id) for sensor in sensors] == [
        ("host", "host"),
        ("process", "processes"),
    ]
    for sensor in sensors:
        reading = sensor.read()
        assert sensor.device.method is None
        assert (reading.energy_joules, reading.power_watts) == (None, None)
        assert reading.memory_bytes is not None
        assert 0 < reading.memory_bytes < (sensor.device.memory_total_bytes or 0)
        sensor.close()


def test_utilization_is_of_the_time_between_two_reads():
    sensor = host_sensor([(100.0, 1000.0), (104.0, 1016.0), (104.0, 1032.0)])
    assert sensor.read().utilization_ratio == 0.25
    assert sensor.read().utilization_ratio == 0.0


def test_no_tick_since_the_last_read_is_not_known():
    assert host_sensor([(100.0, 1000.0), (100.0, 1000.0)]).read().utilization_ratio is None


@given(times=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=2, max_size=10))
def test_utilization_stays_a_ratio_when_cpus_go_offline(times: list[tuple[float, float]]):
    sensor = host_sensor(times)
    for _ in times[1:]:
        ratio = sensor.read().utilization_ratio
        assert ratio is None or 0.0 <= ratio <= 1.0


def test_without_proc_stat_the_utilization_is_not_known_but_the_memory_is():
    def forbidden() -> tuple[float, float]:
        raise PermissionError("/proc/stat")

    reading = host.HostSensor(HOST, forbidden).read()
    assert reading.utilization_ratio is None
    assert reading.memory_bytes


def test_reading_the_host_is_cheap():
    sensor = host.HostSensor(HOST)
    sensor.read()
    started = time.process_time()
    for _ in range(50):
        sensor.read()
    assert (time.process_time() - started) / 50 < 0.001


@pytest.fixture
def burning() -> Iterator[subprocess.Popen[str]]:
    """A child that burns one CPU."""
    child = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    with child.stdout:
        child.stdout.readline()
        yield child
        child.kill()
        child.wait()


def test_a_child_counts_without_being_named(burning: subprocess.Popen[str]):
    sensor = host.ProcessSensor(PROCESSES, list)
    time.sleep(0.5)
    reading = sensor.read()
    own = psutil.Process().memory_info().rss
    assert reading.memory_bytes is not None
    assert reading.memory_bytes > own * 0.5 + psutil.Process(burning.pid).memory_info().rss * 0.5
    share = 1 / (psutil.cpu_count() or 1)
    assert reading.utilization_ratio is not None
    assert 0.1 * share < reading.utilization_ratio < 1.6 * share  # other programs may leave the child less


def test_a_process_is_counted_once_though_named_and_a_child(burning: subprocess.Popen[str]):
    sensor = host.ProcessSensor(PROCESSES, lambda: [burning.pid, burning.pid, os.getpid()])
    assert {burning.pid, os.getpid()} <= set(sensor._seconds)
    assert sensor.read().memory_bytes == pytest.approx(
        sum(psutil.Process(pid).memory_info().rss for pid in sensor._seconds), rel=0.1
    )


def test_a_process_that_ends_is_no_error_and_takes_nothing_back(burning: subprocess.Popen[str]):
    sensor = host.ProcessSensor(PROCESSES, lambda: [burning.pid])
    time.sleep(0.2)
    before = sensor.read()
    burning.kill()
    burning.wait()
    reading = sensor.read()
    assert reading.utilization_ratio is None or reading.utilization_ratio >= 0.0
    assert reading.memory_bytes is not None
    assert before.memory_bytes is not None
    assert reading.memory_bytes < before.memory_bytes
    assert burning.pid not in sensor._seconds


def test_processes_are_looked_for_no_oftener_than_needed():
    clock, calls = Clock(), []

    def pids() -> list[int]:
        calls.append(clock.seconds)
        return []

    sensor = host.ProcessSensor(PROCESSES, pids, clock)
    for second in range(1, 121):
        clock.seconds = float(second)
        sensor.read()
    gaps = [later - earlier for earlier, later in pairwise(calls)]
    assert gaps
    assert min(gaps) >= host.REFRESH_SECONDS


def test_what_a_new_child_spent_before_it_was_found_counts_and_stays_a_ratio():
    clock = Clock()
    sensor = host.ProcessSensor(PROCESSES, list, clock)
    child = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    with child.stdout:
        child.stdout.readline()
        while psutil.Process(child.pid).cpu_times().user < 0.3:
            time.sleep(0.02)
        clock.seconds = sensor._next_walk
        ratio = sensor.read().utilization_ratio
        child.kill()
        child.wait()
    assert ratio is not None
    assert 0.2 / (clock.seconds * (psutil.cpu_count() or 1)) < ratio <= 1.0


def test_a_process_that_was_there_before_brings_no_old_cpu_time(burning: subprocess.Popen[str]):
    child = psutil.Process(burning.pid)
    while (old := sum(child.cpu_times()[:2])) < 0.3:
        time.sleep(0.02)
    sensor = host.ProcessSensor(PROCESSES, list, Clock())
    spent, _ = sensor._measure()
    assert spent <= sum(child.cpu_times()[:2]) - old + 0.05


def test_nobody_to_be_read_is_an_error():
    sensor = host.ProcessSensor(PROCESSES, list)
    sensor._seconds.clear()
    with pytest.raises(SensorError, match="none of the run's processes"):
        sensor.read()


def test_pids_come_from_what_is_wanted():
    asked = []
    host.probe(Wanted(pids=lambda: asked.append(1) or []))
    assert asked


PROC_STATES = ["missing", "empty", "damaged"]


@pytest.mark.parametrize("state", PROC_STATES)
@pytest.mark.parametrize("names", [("meminfo",), ("stat",), ("meminfo", "stat"), None])
def test_without_parts_of_proc_nothing_raises_and_what_is_there_is_read(tmp_path, monkeypatch, names, state):
    """As in a sandbox: files of /proc, or all of it, are missing, empty, or hold something else."""
    for name in ("meminfo", "stat") if names is not None and state != "missing" else ():
        (tmp_path / name).write_text({"empty": "", "damaged": "\x00 cpu kB: x\n"}[state])
    if names is not None:
        for entry in {"meminfo", "stat"} - set(names):
            (tmp_path / entry).unlink(missing_ok=True)
            (tmp_path / entry).symlink_to(f"/proc/{entry}")
        (tmp_path / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    notes: list[str] = []
    readings = {}
    for sensor in discover(Wanted(), lambda _, text: notes.append(text)):
        with contextlib.suppress(SensorError):
            sensor.read()
            time.sleep(0.03)
            readings[sensor.device.kind] = sensor.device, sensor.read()
    told = set(names or ("meminfo", "stat"))
    if "cpu" in readings:
        assert readings["cpu"][0].method is not None
    if told == {"meminfo", "stat"}:
        assert any("host: neither the memory nor the CPU time" in note for note in notes)
        assert "host" not in readings
    else:
        device, reading = readings["host"]
        assert (reading.memory_bytes is None) == ("meminfo" in told)
        assert ("memory is not known" in device.note) == ("meminfo" in told)
        assert (reading.utilization_ratio is None) == ("stat" in told)
    assert ("dram" in readings) == ("meminfo" not in told)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat is Linux's")
def test_the_host_s_cpu_seconds_are_psutil_s():
    before, seconds, after = psutil.cpu_times(), host_seconds(), psutil.cpu_times()
    busy = ("user", "nice", "system", "irq", "softirq")
    for told, kinds in zip(seconds, (busy, (*busy, "idle", "iowait", "steal")), strict=True):
        least, most = (sum(getattr(times, kind) for kind in kinds) for times in (before, after))
        assert least - 0.01 <= told <= most + 0.01  # the kernel's ticks


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/meminfo is Linux's")
@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("MemTotal: 24696880 kB\nMemFree: 812340 kB\nMemAvailable: 20012340 kB\nBuffers: 1 kB\nCached: 5 kB\n", True),
        ("MemTotal: 100 kB\nMemFree: 40 kB\nBuffers: 10 kB\nCached: 20 kB\nMemAvailable: 60 kB\n", False),
        ("MemTotal: 100 kB\nMemFree: 40 kB\nBuffers: 10 kB\nCached: 20 kB\n", False),
        ("MemTotal: 100 kB\nMemFree: 40 kB\nMemAvailable: 900 kB\nBuffers: 10 kB\nCached: 20 kB\n", False),
    ],
    ids=["a kernel of today", "another order", "an old kernel", "more available than there is"],
)
def test_the_host_s_memory_is_psutil_s(text, own, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text(f"{text}Active: 1 kB\nInactive: 1 kB\nShmem: 1 kB\n")
    (tmp_path / "zoneinfo").symlink_to("/proc/zoneinfo")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    if own:
        assert host_memory() == (24_696_880 * 1024, (24_696_880 - 20_012_340) * 1024)
        monkeypatch.setattr(_cpu, "_meminfo_bytes", lambda _: None)
        assert host_memory() == (24_696_880 * 1024, (24_696_880 - 20_012_340) * 1024)
    else:
        memory = psutil.virtual_memory()
        assert host_memory() == (memory.total, memory.total - memory.available)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat is Linux's")
@pytest.mark.parametrize("text", ["", "cpu  1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"])
def test_a_file_that_holds_no_cpu_time_is_an_error_and_leaves_nothing_open(text, tmp_path, monkeypatch):
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="holds no CPU time"):
        host_seconds()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
