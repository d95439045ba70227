"""The CPU's name and shape, what a control group allows of it, and the CPU time spent."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from greenml.errors import FactorError
from greenml.factors import processors
from greenml.units import SECONDS_PER_MICROSECOND

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
ARM = "0x41"  # the implementer number of Arm's own cores

_SECONDS_PER_NANOSECOND = 1e-9
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_MEMINFO_BYTES = 256  # more than its first three lines have
_LINE_BYTES = 512  # more than the first line of /proc/stat has: ten numbers of 64 bits
# cgroup v1 writes "no limit" as the largest multiple of a page below 2^63; no machine has an exbibyte.
_NO_MEMORY_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Cpu:
    """What the operating system says of the CPU.

    Attributes:
        model: as the vendor writes it, "" where the system does not say.
        vendor: ``GenuineIntel``, ``AuthenticAMD`` or "".
        logical: CPUs that the operating system schedules on, at least 1.
        cores_per_socket: cores of a package as shown here (a VM shows its own), None where not said.
        threads_per_core: 2 with SMT as shown here, between 1 and 2 where cores differ, 1 where not said.
        virtual: True inside a virtual machine that says so.
        implementer, part: an Arm core's MIDR numbers, ``0x41`` and ``0xd4f``; "" on others.
    """

    model: str
    vendor: str
    logical: int
    cores_per_socket: int | None
    threads_per_core: float
    virtual: bool
    implementer: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What the process's control group and its ancestors allow; None where they set no limit.

    Attributes:
        cpus: CPU quota in CPUs.
        usage: the file with the CPU time of the group that the quota binds.
        cpuset: numbers of the CPUs it may run on.
        memory_bytes: limit of the memory.
    """

    cpus: float | None = None
    usage: Path | None = None
    cpuset: tuple[int, ...] | None = None
    memory_bytes: int | None = None


def read_cpu(proc: Path = PROC) -> Cpu:
    """Describe this machine's CPU from ``cpuinfo``, or from what other systems offer; never raises."""
    text = _text(proc / "cpuinfo")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name", "")
    if not model or model.startswith("ARMv"):  # an old kernel names the instruction set, not the processor
        model = _arm_core(fields.get("CPU implementer", ""), fields.get("CPU part", "")) or model
    if not model and not text:
        model = _model_elsewhere()
    cores = _whole(fields.get("cpu cores", ""))
    siblings = _whole(fields.get("siblings", ""))
    listed = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    if not text:
        cores = psutil.cpu_count(logical=False)  # macOS and Windows machines have one package
        siblings = psutil.cpu_count()
    threads = max(1.0, siblings / cores) if cores and siblings else 1.0
    return Cpu(
        model=" ".join(model.split()),
        vendor=fields.get("vendor_id", ""),
        logical=listed or psutil.cpu_count() or 1,
        cores_per_socket=cores or None,
        threads_per_core=threads,
        virtual="hypervisor" in fields.get("flags", "").split(),
        implementer=fields.get("CPU implementer", ""),
        part=fields.get("CPU part", ""),
    )


def read_cgroup(proc: Path = PROC, root: Path = CGROUP) -> Cgroup:
    """Read the limits of this process's control group and its ancestors, version 1 or 2: the tightest."""
    paths = _own_paths(proc)
    unified = list(_upwards(root, paths.get("", "/")))
    cpu = [folder for name in ("cpu", "cpu,cpuacct") for folder in _upwards(root / name, paths.get("cpu", "/"))]
    quotas = [(quota, folder / "cpu.stat") for folder in unified if (quota := _quota_v2(folder))]
    quotas += [(quota, folder / "cpuacct.usage") for folder in cpu if (quota := _quota_v1(folder))]
    cpus, usage = min(quotas, default=(None, None), key=lambda pair: pair[0])
    sets = [_text(folder / "cpuset.cpus.effective") for folder in unified]
    sets += [_text(folder / "cpuset.cpus") for folder in _upwards(root / "cpuset", paths.get("cpuset", "/"))]
    memory = [_whole(_text(folder / "memory.max")) for folder in unified]
    old = _upwards(root / "memory", paths.get("memory", "/"))
    memory += [_whole(_text(folder / "memory.limit_in_bytes")) for folder in old]
    return Cgroup(
        cpus=cpus,
        usage=usage,
        cpuset=next((_cpu_list(text) for text in sets if text.strip()), None),
        memory_bytes=min((limit for limit in memory if limit and limit < _NO_MEMORY_LIMIT), default=None),
    )


def host_seconds() -> tuple[float, float]:
    """Return the (busy, total) CPU seconds of all CPUs since boot.

    Raises:
        OSError: the system does not tell, as in a container without ``/proc/stat``.
    """
    if sys.platform == "linux":
        return _proc_stat_seconds(f"{psutil.PROCFS_PATH}/stat")
    return _busy_and_total(psutil_answer(psutil.cpu_times))


def _proc_stat_seconds(path: str) -> tuple[float, float]:
    """Return the (busy, total) CPU seconds of ``/proc/stat``, read each second, in two thirds of psutil's time.

    Raises:
        OSError: it cannot be read, or is not what it should be.
    """
    line = first_bytes(path, _LINE_BYTES).partition(b"\n")[0]
    try:
        name, *ticks = line.split()
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, ticks[:8])
        if name != b"cpu":
            raise ValueError(name)
    except ValueError:
        raise OSError(f"{path} holds no CPU time") from None
    # As in _busy_and_total.
    busy = user + nice + system + irq + softirq
    return busy / TICKS_PER_SECOND, (busy + idle + iowait + steal) / TICKS_PER_SECOND


def cpuset_seconds(cpus: Sequence[int]) -> float:
    """Return the busy CPU seconds of some CPUs since boot, given by their numbers.

    Raises:
        OSError: the system does not tell.
    """
    times = psutil_answer(partial(psutil.cpu_times, percpu=True))
    return sum(_busy_and_total(times[cpu])[0] for cpu in cpus if cpu < len(times))


def host_memory() -> tuple[int, int]:
    """Return the (total, used) bytes of the host's memory.

    Raises:
        OSError: the system does not tell, as in a container without ``/proc/meminfo``.
    """
    if sys.platform == "linux" and (known := _meminfo_bytes(f"{psutil.PROCFS_PATH}/meminfo")):
        return known
    memory = psutil_answer(psutil.virtual_memory)
    if not memory.total:
        raise OSError("the system tells a memory of 0 bytes")
    return memory.total, memory.total - memory.available


def _meminfo_bytes(path: str) -> tuple[int, int] | None:
    """Return the (total, used) bytes of ``/proc/meminfo``, in a third of psutil's time; None: they are not in it."""
    text = first_bytes(path, _MEMINFO_BYTES)
    match = re.match(rb"MemTotal: +([1-9]\d*) kB\nMemFree: +\d+ kB\nMemAvailable: +(\d+) kB\n", text)
    if match is None or int(match[2]) > int(match[1]):  # an older kernel, or a container's own file
        return None
    return int(match[1]) * 1024, (int(match[1]) - int(match[2])) * 1024


def first_bytes(path: str, count: int) -> bytes:
    """Return up to so many bytes of a file's beginning, read at once.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, count)
    finally:
        os.close(descriptor)


def psutil_answer(call: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Call psutil; where files of ``/proc`` are missing, empty or damaged, it raises nearly anything.

    Raises:
        OSError: it raised something.
    """
    try:
        return call()
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}; is /proc mounted?") from error


def cgroup_seconds(usage: Path) -> float:
    """Return a control group's CPU seconds, from ``cpu.stat`` (version 2) or ``cpuacct.usage`` (version 1).

    Raises:
        OSError: the file cannot be read, or is not what it should be.
    """
    text = usage.read_text()
    if usage.name == "cpuacct.usage":
        return _number(text, usage) * _SECONDS_PER_NANOSECOND
    line = re.search(r"^usage_usec\s+(\d+)", text, re.MULTILINE)
    return _number(line.group(1) if line else "", usage) * SECONDS_PER_MICROSECOND


def affinity() -> tuple[int, ...] | None:
    """Return the CPUs that this process may run on; None where the system does not tell."""
    if sys.platform == "linux":
        return tuple(sorted(os.sched_getaffinity(0)))
    return None


def _busy_and_total(times: object) -> tuple[float, float]:
    # Linux counts guest time in user as well. Stolen time was another machine's; waiting for a disk is idle.
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    return busy, busy + sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "steal"))


def _arm_core(implementer: str, part: str) -> str:
    try:
        rating = processors.arm_cpu(implementer, part)
    except FactorError:
        return ""
    if rating is None:
        return ""
    return f"Arm {rating.generation}" if implementer == ARM and "(" not in rating.generation else rating.generation


def _model_elsewhere() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=2, check=False).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return platform.processor()
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0])
        except OSError:
            return platform.processor()
    return platform.processor()


def _own_paths(proc: Path) -> dict[str, str]:
    # Lines are "4:memory:/path" (version 1, several controllers joined by commas) or "0::/path" (version 2).
    paths: dict[str, str] = {}
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in controllers.split(","):
            paths.setdefault(controller, path)
    return paths


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    # A container without a cgroup namespace sees the host's path but has its own group mounted at the top.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _whole(_text(folder / "cpu.cfs_quota_us")), _whole(_text(folder / "cpu.cfs_period_us"))
    return quota / period if quota and period else None  # -1 is no limit


def _cpu_list(text: str) -> tuple[int, ...] | None:
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return None
        cpus.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cpus))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _whole(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _number(text: str, path: Path) -> float:
    whole = _whole(text)
    if whole is None:
        raise OSError(f"{path} holds no CPU time")
    return float(whole)
