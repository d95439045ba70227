"""Utilization and memory of the host, and of the run's own processes, through psutil; no energy."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil

from greenml.errors import SensorError
from greenml.sensors._cpu import PROC, TICKS_PER_SECOND, first_bytes, host_memory, host_seconds, psutil_answer, read_cpu
from greenml.trace.types import Device, Reading, Sensor, Wanted

# No energy hangs on it, and utilization is exact between two reads however far apart they are.
INTERVAL_SECONDS = 6.0  # a multiple of the other sensors': what is due together costs one wake
# Finding descendants walks every process of the host, about 40 microseconds each: no more often than this,
# and rarer where it would take more than this share of a CPU.
REFRESH_SECONDS = 10.0
WALK_RATIO = 0.005
# What psutil tells of a process's birth elsewhere may be rounded to seconds.
BIRTH_STEP_SECONDS = 1.0
STAT_BYTES = 1024  # more than /proc/PID/stat has: a name of 64 bytes, and 50 numbers


def probe(wanted: Wanted = Wanted(), *, proc: Path = PROC) -> list[Sensor]:  # noqa: B008 (frozen)
    """Return the sensor of the host and that of the run's processes.

    Args:
        wanted: ``pids`` names the run's processes beside the calling one.
        proc: where ``cpuinfo`` is, for the host's name only.

    Raises:
        SensorError: the system tells neither CPU time nor memory.
    """
    memory_bytes, note = None, ""
    try:
        memory_bytes = host_memory()[0]
    except OSError as error:
        note = f"its memory is not known: {error}"
        try:
            host_seconds()
        except OSError:
            raise SensorError(f"host: neither the memory nor the CPU time can be read: {error}") from error
    cpu = read_cpu(proc)
    host = Device(
        kind="host",
        id="host",
        name=cpu.model or "host",
        method=None,
        sensor="host",
        memory_total_bytes=memory_bytes,
        detail={"logical_cpus": str(cpu.logical)},
        note=note,
    )
    processes = Device(
        kind="process",
        id="processes",
        name="the run's processes",
        method=None,
        sensor="host",
        memory_total_bytes=memory_bytes,
        detail={"logical_cpus": str(cpu.logical)},
        note="memory that processes share is counted in each of them",
    )
    sensors: list[Sensor] = [HostSensor(host)]
    try:
        sensors.append(ProcessSensor(processes, wanted.pids))
    except OSError as error:
        note = "; ".join(filter(None, [note, f"the run's processes cannot be read: {error}"]))
        sensors[0] = HostSensor(replace(host, note=note))
    return sensors


class HostSensor:
    """The host's busy share since the last read, exact between reads, and its memory in use.

    Args:
        device: the host.
        seconds: the (busy, total) CPU seconds since boot; raises OSError where the system does not tell.
    """

    interval_seconds = INTERVAL_SECONDS

    def __init__(self, device: Device, seconds: Callable[[], tuple[float, float]] = host_seconds) -> None:
        self.device = device
        self._seconds = seconds
        self._last = self._now()

    def read(self) -> Reading:
        """Read both; the utilization is None within one clock tick (10 ms) of the last read.

        Raises:
            SensorError: neither can be read now.
        """
        used_bytes = trouble = None
        try:
            used_bytes = host_memory()[1]
        except OSError as error:
            trouble = error
        last, self._last = self._last, self._now()
        if trouble is not None and self._last is None:
            raise SensorError(f"host: neither the memory nor the CPU time can be read: {trouble}") from trouble
        ratio = None
        if last and self._last and self._last[1] > last[1]:
            ratio = (self._last[0] - last[0]) / (self._last[1] - last[1])
            ratio = min(1.0, max(0.0, ratio))  # counters of CPUs that went offline are taken back
        return Reading(utilization_ratio=ratio, memory_bytes=used_bytes)

    def close(self) -> None:
        """Nothing is held open."""

    def _now(self) -> tuple[float, float] | None:
        try:
            return self._seconds()
        except (OSError, RuntimeError):  # a container without /proc/stat
            return None


class ProcessSensor:
    """The CPU time and the resident memory of the run's processes and all their descendants.

    The utilization is their CPU seconds since the last read over wall seconds x logical CPUs. What a process
    spent just before it ended is not seen; what one spent before it was found counts when it is found.

    Args:
        device: the processes.
        pids: the run's processes beside the calling one.
        clock: monotonic seconds.
    """

    interval_seconds = INTERVAL_SECONDS

    def __init__(
        self, device: Device, pids: Callable[[], Iterable[int]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.device = device
        self._pids = pids
        self._clock = clock
        self._family = Family()
        self._cpus = psutil.cpu_count() or 1
        self._seconds: dict[int, float | None] = {}  # by process id: CPU time when it was last read
        self._last = clock()
        self._walked = _birth_clock()
        self._walk()
        self._measure()
        if not self._seconds:
            raise OSError("none of them is in /proc")

    def read(self) -> Reading:
        """Read both.

        Raises:
            SensorError: none of the processes can be read.
        """
        now = self._clock()
        if now >= self._next_walk:
            self._walk()
        spent, memory_bytes = self._measure()
        if not self._seconds:
            raise SensorError("host: none of the run's processes can be read; are they another user's?")
        wall, self._last = (now - self._last) * self._cpus, now
        ratio = min(1.0, spent / wall) if wall > 0 else None
        return Reading(utilization_ratio=ratio, memory_bytes=memory_bytes)

    def close(self) -> None:
        """Nothing is held open."""

    def _measure(self) -> tuple[float, int]:
        """Return the CPU seconds spent since the last call and the resident bytes; forgets processes that ended."""
        spent, memory_bytes = 0.0, 0
        for pid, before in list(self._seconds.items()):
            try:
                process = _process(pid)
            except Exception:  # noqa: BLE001  it ended, is another user's, or its files are damaged
                del self._seconds[pid]
                continue
            spent += max(0.0, process.cpu_seconds - before) if before is not None else 0.0
            memory_bytes += process.resident_bytes
            self._seconds[pid] = process.cpu_seconds
        return spent, memory_bytes

    def _walk(self) -> None:
        """Find the run's processes anew. All that one born since the last walk has spent is new."""
        started, walked = time.perf_counter(), _birth_clock()
        with contextlib.suppress(OSError):  # the list of processes cannot be read now: those known go on
            family = set(self._family.of({os.getpid(), *self._pids()}))
            known = {pid: spent for pid, spent in self._seconds.items() if pid in family}
            for pid in family - known.keys():
                with contextlib.suppress(Exception):  # it ended
                    known[pid] = 0.0 if _process(pid).born_seconds > self._walked - BIRTH_STEP_SECONDS else None
            self._seconds = known
        self._walked = walked
        cost = time.perf_counter() - started
        self._next_walk = self._clock() + max(REFRESH_SECONDS, cost / WALK_RATIO)


class Family:
    """Finds the descendants of some processes; asks only processes that are new for their parent."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def of(self, roots: Iterable[int]) -> Iterator[int]:
        """Yield the ids of the roots, and of all their descendants that live."""
        alive = {0, *psutil_answer(psutil.pids)}
        # One whose parent ended was given another.
        self._parents = {pid: above for pid, above in self._parents.items() if pid in alive and above in alive}
        children: dict[int, list[int]] = {}
        for pid in alive - {0}:
            above = self._parents.get(pid)
            if above is None:
                above = self._parents[pid] = _parent(pid)
            children.setdefault(above, []).append(pid)
        waiting, seen = list(roots), set[int]()
        while waiting:
            pid = waiting.pop()
            if pid not in seen:
                seen.add(pid)
                waiting += children.get(pid, [])
                yield pid


class _Process(NamedTuple):
    parent: int
    cpu_seconds: float
    born_seconds: float  # by _birth_clock
    resident_bytes: int


def _process(pid: int) -> _Process:
    """Read a process: on Linux one file, in a third of psutil's time.

    Raises:
        Exception: nearly any; it ended, is another user's, or its files are damaged.
    """
    if sys.platform != "linux":
        process = psutil.Process(pid)
        times = process.cpu_times()
        return _Process(process.ppid(), times.user + times.system, process.create_time(), process.memory_info().rss)
    # man 5 proc_pid_stat: the name, in brackets, may hold anything.
    fields = first_bytes(f"{psutil.PROCFS_PATH}/{pid}/stat", STAT_BYTES).rpartition(b") ")[2].split()
    parent, user, system, born, pages = (int(fields[at]) for at in (1, 11, 12, 19, 21))
    return _Process(
        parent, (user + system) / TICKS_PER_SECOND, born / TICKS_PER_SECOND, pages * os.sysconf("SC_PAGE_SIZE")
    )


def _birth_clock() -> float:
    """Return the time by the clock that tells when processes began: on Linux since boot, else since the epoch."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.time()


def _parent(pid: int) -> int:
    try:
        return _process(pid).parent
    except Exception:  # noqa: BLE001  as above
        return -1
