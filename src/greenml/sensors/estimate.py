"""CPU and DRAM power where nothing measures them: modelled, and said to be.

CPU: a thread of the processor draws ``TDP / threads of its socket`` when it is busy and ``IDLE_RATIO`` of
that when not; the run is charged with the threads that this host (a VM, a container with a quota) has::

    watts = TDP x (CPUs here / threads of a socket) x (IDLE_RATIO + (1 - IDLE_RATIO) x utilization)

The model is linear, so it is integrated exactly over differences of CPU time: a slow tick loses nothing. The
utilization is the host's, or that of the control group where a quota or a set of CPUs binds it.

DRAM: ``WATTS_PER_GIB`` of what is installed, or of the control group's limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from greenml.errors import FactorError, SensorError
from greenml.factors import processors
from greenml.factors.processors import CpuRating
from greenml.sensors import _cpu as machine
from greenml.sensors._cpu import CGROUP, PROC, Cgroup, Cpu
from greenml.trace.types import Device, Reading, Sensor, Wanted
from greenml.units import BYTES_PER_GIB

FALLBACK = True

# Idle over full power of a thread, from SPECpower: 0.64/3.97 W Cascade Lake, 0.65/4.26 Skylake, 0.71/3.69
# Broadwell, 0.47/1.69 Rome, 0.45/2.02 Milan, that is 15 to 28 %, 20 % in the middle. Source: Cloud Carbon
# Footprint, packages/azure/src/domain/AzureFootprintEstimationConstants.ts, commit 0602dde823ef.
IDLE_RATIO = 0.2
# A thread of a CPU that the table does not have. Cloud Carbon Footprint's averages of clouds at full load: 3.54 W
# Azure, 4.11 W Google (as above, and packages/gcp, commit 0656d55594b6). Median TDP a thread in data/cpus.csv: 3.1 W
# AMD EPYC, 5.0 W Intel Xeon, 2.8 and 3.6 W of those with 16 cores or more.
DEFAULT_WATTS_PER_THREAD = 3.75
# Judged, not published: turbo exceeds the TDP and most code stays below it. The default's interval holds two thirds
# of the table's models; those above it are processors of few cores, desktop or old.
# Half busy, where no CPU time can be read, stands for anything between idle and full.
CPU_CALIBRATION_RATIO = 0.5
ESTIMATED_CPU_CALIBRATION_RATIO = (
    0.6  # the TDP itself is an estimate, of a cloud's own part or of a maker who publishes none
)
DEFAULT_CPU_CALIBRATION_RATIO = 0.7
UNREAD_CPU_CALIBRATION_RATIO = 0.8
# Green Algorithms 2.0 (Lannelongue, Grealey, Inouye 2021, doi 10.1002/advs.202100707) says 0.3725 W/GB; Cloud
# Carbon Footprint (as above) says 0.392. Modules are sold by the binary gigabyte. Others measured far less on
# an idle machine (https://github.com/GreenAlgorithms/green-algorithms-tool/issues/14), hence the interval.
WATTS_PER_GIB = 0.3725
DRAM_CALIBRATION_RATIO = 0.5
# Larger hosts have larger modules: CodeCarbon 3 takes 5 W a module, 0.04 to 0.16 W/GiB at 32 to 128 GiB each
# (docs/explanation/methodology.md, commit 0924792b4d1c).
LARGE_BYTES = 128 * BYTES_PER_GIB
LARGE_DRAM_CALIBRATION_RATIO = 0.8
# CPU time comes in ticks of 10 ms; this forgives them without letting a counter's leap count.
_TICK_SECONDS = 0.1


def probe(
    wanted: Wanted = Wanted(),  # noqa: B008 (frozen)
    *,
    proc: Path = PROC,
    cgroup: Path = CGROUP,
    clock: Callable[[], float] = time.monotonic,
) -> list[Sensor]:
    """Return a modelled CPU and a modelled DRAM sensor, but for the kinds in ``wanted.measured``.

    Args:
        wanted: what is measured by others.
        proc: where ``cpuinfo`` and ``self/cgroup`` are.
        cgroup: where control groups are mounted.
        clock: monotonic seconds.

    Raises:
        SensorError: only DRAM is wanted, and the size of the memory cannot be read.
    """
    limits = machine.read_cgroup(proc, cgroup)
    sensors: list[Sensor] = []
    if "cpu" not in wanted.measured:
        sensors.append(_cpu(machine.read_cpu(proc), limits, clock))
    if "dram" not in wanted.measured:
        try:
            sensors.append(_dram(limits, clock))
        except (OSError, RuntimeError) as error:
            if not sensors:
                raise SensorError(f"estimate: cannot read the size of the memory: {error}") from error
    return sensors


class EstimateSensor:
    """Integrates ``idle_watts + watts_per_busy_cpu x busy CPUs``.

    Args:
        device: what is modelled.
        idle_watts: drawn whatever happens.
        busy_watts: drawn besides by each busy CPU.
        cpus: how many can be busy at once.
        busy_seconds: CPU seconds spent since any fixed moment; raises OSError where that cannot be read.
        clock: monotonic seconds.
    """

    interval_seconds = 1.0  # this is what a killed run may lose
    cumulative = True  # exact however far apart it is read

    def __init__(
        self,
        device: Device,
        idle_watts: float,
        busy_watts: float = 0.0,
        *,
        cpus: float = 1.0,
        busy_seconds: Callable[[], float] = float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = device
        self._idle_watts = idle_watts
        self._busy_watts = busy_watts
        self._cpus = cpus
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._start = self._last = clock()
        self._spent = busy_seconds()
        self._busy = 0.0

    def read(self) -> Reading:
        """Model the joules since it was opened, and the mean watts and utilization since the last read.

        Raises:
            SensorError: the CPU time cannot be read now; the next read makes up for it.
        """
        try:
            spent = self._busy_seconds()
        except (OSError, RuntimeError) as error:
            raise SensorError(f"estimate: cannot read the CPU time: {error}") from error
        now = self._clock()
        wall = now - self._last
        # A counter falls when a CPU goes offline, and leaps when it comes back with its old time.
        busy = min(max(0.0, spent - self._spent), self._cpus * (wall + _TICK_SECONDS))
        self._busy += busy
        self._spent, self._last = spent, now
        energy_joules = self._idle_watts * (now - self._start) + self._busy_watts * self._busy
        if wall <= 0:
            return Reading(energy_joules=energy_joules)
        running = min(busy / wall, self._cpus)
        return Reading(
            energy_joules=energy_joules,
            power_watts=self._idle_watts + self._busy_watts * running,
            utilization_ratio=running / self._cpus if self._busy_watts else None,
        )

    def close(self) -> None:
        """Nothing is held open."""


def _cpu(cpu: Cpu, limits: Cgroup, clock: Callable[[], float]) -> Sensor:
    cpus, scope, busy_seconds = _share(cpu, limits)
    rating = _rating(cpu)
    watts_per_thread, source, calibration = thread_watts(rating, cpu.threads_per_core, virtual=cpu.virtual)
    watts = watts_per_thread * cpus
    device = Device(
        kind="cpu",
        id="cpu-estimate",
        name=cpu.model or "CPU",
        method="estimate",
        sensor="estimate",
        calibration_ratio=calibration,
        power_limit_watts=watts,
        detail={"cpus": f"{cpus:g}"},
        note=f"modelled from {source}, for {cpus:g} {scope}; {IDLE_RATIO:.0%} of it when idle",
    )
    try:
        busy_seconds()
    except (OSError, RuntimeError):  # a container without /proc/stat
        note = device.note + "; taken as half busy, as the CPU time cannot be read"
        device = replace(device, calibration_ratio=UNREAD_CPU_CALIBRATION_RATIO, note=note)
        return EstimateSensor(device, watts * (1 + IDLE_RATIO) / 2, clock=clock)
    idle_watts, busy_watts = watts * IDLE_RATIO, watts * (1 - IDLE_RATIO) / cpus
    return EstimateSensor(device, idle_watts, busy_watts, cpus=cpus, busy_seconds=busy_seconds, clock=clock)


def thread_watts(
    rating: CpuRating | None, threads_per_core: float, *, virtual: bool = False
) -> tuple[float, str, float]:
    """Return the watts of a busy thread, in words what they are from, and how far they may be off (as a ratio).

    Args:
        rating: of the CPU; None where it is not known.
        threads_per_core: as the system shows them.
        virtual: the system is a virtual machine, whose threads may be shown as cores.
    """
    if rating is None or not rating.watts_per_core:
        source = f"{DEFAULT_WATTS_PER_THREAD} W a thread, as this CPU's own TDP or number of cores is not known"
        return DEFAULT_WATTS_PER_THREAD, source, DEFAULT_CPU_CALIBRATION_RATIO
    if rating.kind == "generation":
        threads = rating.threads_per_core if virtual and rating.threads_per_core else threads_per_core
        source = (
            f"{rating.watts_per_core:g} W a core ({rating.low:g} to {rating.high:g} W), typical of its generation "
            f"({rating.generation}), with {threads:g} {'thread' if threads == 1 else 'threads'} each"
        )
        return rating.watts_per_core / threads, source, math.hypot(CPU_CALIBRATION_RATIO, rating.half_width_ratio)
    source = f"{rating.tdp_watts:g} W TDP of {rating.cores} cores with {threads_per_core:g} threads each"
    if rating.kind == "estimate":
        return rating.watts_per_core / threads_per_core, f"{source} ({rating.note})", ESTIMATED_CPU_CALIBRATION_RATIO
    return rating.watts_per_core / threads_per_core, source, CPU_CALIBRATION_RATIO


def _rating(cpu: Cpu) -> CpuRating | None:
    try:
        rating = processors.cpu(cpu.model) or processors.arm_cpu(cpu.implementer, cpu.part)
    except FactorError:
        return None
    cores = cpu.cores_per_socket
    # A VM shows the cores that it was given, not the processor's.
    if rating and rating.tdp_watts and not rating.cores and cores and not cpu.virtual:
        watts = rating.tdp_watts / cores
        return replace(rating, kind="model", watts_per_core=watts, low=watts, high=watts, cores=cores)
    return rating


def _share(cpu: Cpu, limits: Cgroup) -> tuple[float, str, Callable[[], float]]:
    """Return how many CPUs are charged, what they are, and who tells their busy seconds."""
    allowed = limits.cpuset or machine.affinity() or ()
    count = min(len(allowed), cpu.logical) or cpu.logical
    if limits.cpus and limits.usage and limits.cpus < count:
        if limits.usage.is_file():
            return limits.cpus, "CPUs of the quota", partial(machine.cgroup_seconds, limits.usage)
        part = limits.cpus / cpu.logical
        return limits.cpus, "CPUs of the quota, as busy as the host", lambda: machine.host_seconds()[0] * part
    if count < cpu.logical:
        return float(count), f"of {cpu.logical} CPUs", partial(machine.cpuset_seconds, allowed)
    return float(count), "CPUs of the host", lambda: machine.host_seconds()[0]


def _dram(limits: Cgroup, clock: Callable[[], float]) -> Sensor:
    size_bytes, scope = machine.host_memory()[0], "installed"
    if limits.memory_bytes and limits.memory_bytes < size_bytes:
        size_bytes, scope = limits.memory_bytes, "allowed by the control group"
    watts = WATTS_PER_GIB * size_bytes / BYTES_PER_GIB
    device = Device(
        kind="dram",
        id="dram-estimate",
        name="DRAM",
        method="estimate",
        sensor="estimate",
        calibration_ratio=DRAM_CALIBRATION_RATIO if size_bytes <= LARGE_BYTES else LARGE_DRAM_CALIBRATION_RATIO,
        power_limit_watts=watts,
        memory_total_bytes=size_bytes,
        note=f"modelled as {WATTS_PER_GIB} W/GiB of {size_bytes / BYTES_PER_GIB:.1f} GiB {scope}",
    )
    return EstimateSensor(device, watts, clock=clock)
