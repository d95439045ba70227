"""How large a long run's trace gets, what it costs to write, and how long its report takes.

    python benchmarks/scale.py --days 0.042 1 30

Simulates a run of 8 GPUs, a CPU package, its DRAM and the host, read once a second: only the clock and the hardware
are made up. The readings go through the product's own windows, trace and compaction, as in a run, as fast as they can
be written. ``greenml report`` then reads the trace in a process of its own. Since the power is a formula, the energy
is known exactly, of the run and of each phase.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import greenml
from greenml.run import compaction, membership
from greenml.sensors.sampler import Window
from greenml.trace import lines as trace_lines
from greenml.trace.types import Device, Reading

DAY = 86400.0
BEGIN = 1000.0  # of the run, on the simulated monotonic clock
PHASES = ("train", "eval")
RIPPLE_WATTS, RIPPLE_SECONDS = 10.0, 47.0
AIM_BYTES, AIM_SECONDS = 20e6, 2.0


@dataclass(frozen=True)
class Load:
    """Power that changes with the phase, with a ripple on it; joules in closed form, from the run's begin."""

    train_watts: float
    eval_watts: float
    phase_seconds: float

    def watts(self, t: float) -> float:
        """Return its power at a time."""
        level = self.eval_watts if (t - BEGIN) // self.phase_seconds % 2 else self.train_watts
        return level + RIPPLE_WATTS * math.sin(2 * math.pi * (t - BEGIN) / RIPPLE_SECONDS)

    def joules(self, t: float) -> float:
        """Return its energy from the run's begin to a time."""
        pairs, rest = divmod(t - BEGIN, 2 * self.phase_seconds)
        level = pairs * self.phase_seconds * (self.train_watts + self.eval_watts)
        level += (
            min(rest, self.phase_seconds) * self.train_watts + max(0.0, rest - self.phase_seconds) * self.eval_watts
        )
        turn = 2 * math.pi / RIPPLE_SECONDS
        return level + RIPPLE_WATTS / turn * (1 - math.cos(turn * (t - BEGIN)))


def machine(phase_seconds: float) -> list[tuple[Device, Load | None]]:
    """Return the devices of the simulated host, each with its load."""
    found: list[tuple[Device, Load | None]] = [
        (
            Device(
                "gpu", f"GPU-{number:02x}51e0de-0000-4000-8000-{number:012x}", "NVIDIA A100-SXM4-40GB", "counter",
                "nvml", calibration_ratio=0.05, step_seconds=0.1, sampled_ratio=0.25, power_limit_watts=400.0,
                memory_total_bytes=40 * 2**30, detail={"index": str(number)},
            ),
            Load(290.0 + 10 * number, 120.0 + 5 * number, phase_seconds),
        )
        for number in range(8)
    ]  # fmt: skip
    cpu = Device("cpu", "package-0", "simulated CPU", "counter", "rapl", step_seconds=0.001)
    dram = Device("dram", "package-0-dram", "simulated DRAM", "counter", "rapl", step_seconds=0.001)
    host = Device("host", "host", "simulated host", None, "host", memory_total_bytes=2**40)
    found += [(cpu, Load(140.0, 90.0, phase_seconds)), (dram, Load(35.0, 25.0, phase_seconds)), (host, None)]
    return found


def reading(device: Device, load: Load | None, t: float, step: int) -> Reading:
    """Return what a device's sensor would say; a counter's joules have the hardware's steps of 1 mJ."""
    busy = (step * 7919 % 101) / 100
    memory = (30 + step * 31 % 7) * 2**30 + step % 4096
    if load is None:
        return Reading(utilization_ratio=busy, memory_bytes=memory)
    joules = 123_456.789 + round(load.joules(t), 3)
    if device.kind != "gpu":
        return Reading(energy_joules=joules)
    return Reading(joules, round(load.watts(t), 3), (), busy, memory, busy / 2)


class Simulation:
    """A run's writing side with a clock of its own: what ``Run`` and its sampler do, without waiting."""

    def __init__(self, output: Path, days: float, phase_seconds: float) -> None:
        self.end, self.phase_seconds = BEGIN + days * DAY, phase_seconds
        self.devices = machine(phase_seconds)
        header = {
            "host": "simulated", "boot_id": "simulated", "pid": os.getpid(), "start_seconds": BEGIN,
            "unix_seconds": 1.75e9, "name": "scale", "watches": False, "greenml_version": greenml.__version__,
            "settings": {"region": "westus2"}, "command": ["scale.py"], "host_facts": {},
        }  # fmt: skip
        _membership, self.writer = membership.join_run(output, membership.current(), header)
        self.windows = [Window(5.0, BEGIN) for _ in self.devices]
        self.samples = self.compactions = 0
        self.compaction_seconds, self.longest_seconds, self.resolution = 0.0, 0.0, 2.0
        for key, (device, _load) in enumerate(self.devices):
            self.writer.write(trace_lines.device_line(str(key), device))

    def moments(self) -> Iterator[tuple[float, bool]]:
        """Yield when the sensors are read, a little late as threads are, and whether a phase's edge forced it."""
        step, next_edge = 0, BEGIN
        while True:
            t = BEGIN + step + 0.001 + (step * 2654435761 % 1000) * 1e-6
            if t >= self.end:
                break
            while t >= next_edge:
                yield next_edge, True
                next_edge += self.phase_seconds
            yield t, False
            step += 1
        yield self.end, True

    def run(self) -> None:
        """Write the whole run."""
        number = 0
        for t, edge in self.moments():
            if edge:
                if number:
                    self.writer.write({"end": number, "t": t})
                if t < self.end:
                    number += 1
                    phase = PHASES[(number - 1) % 2]
                    self.writer.write({"phase": phase, "begin": number, "t": t})
            late = 0.0005 if edge and BEGIN < t < self.end else 0.0  # the sampler wakes up after the phase's begin
            self.sample(t + late, edge=edge)
            if not edge:
                self.tick()
        self.writer.write({"status": "completed", "error": None, "t": self.end})
        self.writer.close()
        if self.writer.failed:
            raise SystemExit(f"the trace could not be written: {self.writer.failed}")

    def sample(self, t: float, *, edge: bool) -> None:
        """Read every device at a time and write its window, as the sampler and ``Run`` do each second."""
        rollups = {}
        for key, ((device, load), window) in enumerate(zip(self.devices, self.windows, strict=True)):
            window.add(t, reading(device, load, t, self.samples))
            rollup = window.take()
            if rollup is not None:
                rollups[str(key)] = rollup
        self.writer.write(trace_lines.sample_line(t, rollups, edge=edge))
        self.samples += 1

    def tick(self) -> None:
        """Compact the trace once it is too large, as ``Run`` does after every flush."""
        if self.writer.size_bytes > compaction.LIMIT_BYTES:
            begun = time.perf_counter()
            self.resolution = compaction.compact(self.writer, resolution_seconds=self.resolution)
            seconds = time.perf_counter() - begun
            self.compactions += 1
            self.compaction_seconds += seconds
            self.longest_seconds = max(self.longest_seconds, seconds)

    def spans(self, phase: str) -> list[tuple[float, float]]:
        """Return when a phase ran."""
        starts = [BEGIN + n * self.phase_seconds for n in range(math.ceil((self.end - BEGIN) / self.phase_seconds))]
        return [(start, min(self.end, start + self.phase_seconds)) for start in starts[PHASES.index(phase) :: 2]]


def cli(*words: str) -> tuple[float, float]:
    """Run the command line in a fresh process; return its wall seconds and its peak memory in bytes."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "greenml", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"greenml {' '.join(words)} ended with {child.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reported(output: Path, repeat: int) -> tuple[float, float]:
    """Return the median seconds and the largest memory of ``greenml report``."""
    times, peaks = zip(*(cli("report", str(output)) for _ in range(repeat)), strict=True)
    return statistics.median(times), max(peaks)


def errors(output: Path, simulation: Simulation) -> tuple[float, float]:
    """Return by how much the record's energy is off: of the run, and of the worst phase of any device."""

    def exact(spans: list[tuple[float, float]], load: Load) -> float:
        return sum(load.joules(end) - load.joules(start) for start, end in spans)

    record = greenml.open_record(output)
    found = {device.id: device.usage.energy_joules or 0.0 for device in record.devices}
    loads = {device.id: load for device, load in simulation.devices if load is not None}
    truth = sum(exact([(BEGIN, simulation.end)], load) for load in loads.values())
    worst = 0.0
    for phase in record.phases:
        spans = simulation.spans(phase.path)
        for name, load in loads.items():
            whole = exact(spans, load)
            worst = max(worst, abs((phase.usage[name].energy_joules or 0.0) - whole) / whole)
    return abs(sum(found.values()) - truth) / truth, worst


def measure(days: float, phase_seconds: float, folder: Path, repeat: int) -> dict[str, Any]:
    """Write a run of so many days and report it."""
    output = folder / "run.json"
    simulation = Simulation(output, days, phase_seconds)
    begun, spent = time.perf_counter(), time.process_time()
    simulation.run()
    wall, spent = time.perf_counter() - begun, time.process_time() - spent
    size = simulation.writer.path.stat().st_size
    with simulation.writer.path.open("rb") as stream:
        lines = sum(1 for _ in stream)
    from_trace = reported(output, repeat)
    cli("finish", str(output))
    from_record = reported(output, repeat)
    off, off_phase = errors(output, simulation)
    return {
        "run": f"{days:g} d" if days >= 1 else f"{days * 24:.3g} h",
        "samples": f"{simulation.samples:,}",
        "trace MB": f"{size / 1e6:.2f}",
        "lines": f"{lines:,}",
        "write s": f"{wall:.1f}",
        "us a sample": f"{spent / simulation.samples * 1e6:.0f}",
        "compactions": f"{simulation.compactions:,}",
        "sum s": f"{simulation.compaction_seconds:.1f}",
        "longest s": f"{simulation.longest_seconds:.2f}",
        "report s": f"{from_trace[0]:.2f}",
        "MB": f"{from_trace[1] / 1e6:.0f}",
        "again s": f"{from_record[0]:.2f}",
        "energy off": f"{off:.0e}",
        "phase off": f"{off_phase:.0e}",
        "aim": "met" if size <= AIM_BYTES and from_trace[0] <= AIM_SECONDS else "MISSED",
    }


LEGEND = """
write s: wall time to simulate and write all of it.    us a sample: CPU time of that for each second of the run.
compactions, sum s, longest s: how often the trace was made smaller, how long that took in all and at the most; during
    a run it happens in the sampler's thread.
report s, MB: `greenml report` in a fresh process from the trace alone, its peak memory.    again s: from run.json.
energy off, phase off: relative error of the run's energy, and the worst of any phase of any device."""


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as text, in columns."""
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    lines = ["  ".join(f"{name:>{width}}" for name, width in widths.items())]
    lines += ["  ".join(f"{row[name]:>{width}}" for name, width in widths.items()) for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, nargs="+", default=[1 / 24, 1.0, 30.0], help="lengths of the runs")
    parser.add_argument("--phase-seconds", type=float, default=1800.0, help="how long train and eval take in turn")
    parser.add_argument("--repeat", type=int, default=3, help="reports of each, for the median")
    given = parser.parse_args()
    rows = []
    for days in given.days:
        with tempfile.TemporaryDirectory(prefix="greenml-scale-") as folder:
            rows.append(measure(days, given.phase_seconds, Path(folder), given.repeat))
        print(f"{rows[-1]['run']}: done", file=sys.stderr)
    print(table(rows))
    print(LEGEND)
    print(f"aim: a trace of at most {AIM_BYTES / 1e6:.0f} MB, reported in at most {AIM_SECONDS:.0f} s")


if __name__ == "__main__":
    main()
