"""Traces of runs that were scripted second by second: what the record says of them is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenml.record.schema import RunRecord
from greenml.run import finish
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup

UNIX = 1_785_000_000.0  # 2026-07-25
GIB = 2**30
V100 = "Tesla V100-SXM2-32GB"


def steady(watts: float) -> Callable[[int, int], float]:
    """Draw the same all the time."""
    return lambda second, gpu: watts


@dataclass(frozen=True)
class Stage:
    """A stretch of the run.

    Attributes:
        phase: its name; empty for none.
        seconds: whole seconds.
        watts: of (second of the run, GPU).
        busy: utilization of (second of the run, GPU).
        steps: done in each second, of the second of the run.
        cpu, process: busy share of the host's CPUs, and of the run's own processes.
    """

    phase: str
    seconds: int
    watts: Callable[[int, int], float] = field(default=steady(250.0))
    busy: Callable[[int, int], float] = field(default=steady(0.95))
    steps: Callable[[int], float] = field(default=lambda second: 0.0)
    cpu: float = 0.3
    process: float = 0.2


def record(
    folder: Path,
    stages: Sequence[Stage],
    *,
    gpus: int = 1,
    model: str = V100,
    memory: float = 0.5,
    limits: str = "150 to 300",
    settings: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    count_every: int = 10,
    gain: float = 0.05,
) -> RunRecord:
    """Write the trace of a run and make its record.

    Args:
        folder: of the traces.
        stages: one after the other.
        gpus, model: what it runs on; each card may draw 300 W.
        memory: share of 32 GiB in use.
        limits: what the card tells of its power limit's range; empty for nothing.
        settings: sku, region and the like.
        trainer: what the trainer tells of itself.
        gain: calibration of the GPUs' sensors.
        count_every: seconds between two words of how many steps are done; 0: only the sum, at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = 1000.0
    header = {
        "run_id": "scripted", "name": "scripted", "attempt": 1, "host": "node", "boot_id": "b", "pid": 1, "rank": 0,
        "start_seconds": start, "unix_seconds": UNIX, "host_facts": {"cpu_model": "CPU", "cpu_count": 40},
        "settings": {**(settings or {}), "known_from": dict.fromkeys(settings or {}, "argument")},
    }  # fmt: skip
    writer = TraceWriter(folder / "1-node-1-abcd.jsonl", header)
    detail = {"power_limit_range_watts": limits} if limits else {}
    for gpu in range(gpus):
        card = Device(
            "gpu", f"GPU-{gpu}", model, "counter", "nvml", calibration_ratio=gain, step_seconds=0.02,
            power_limit_watts=300.0, memory_total_bytes=32 * GIB, detail={"index": str(gpu), **detail},
        )  # fmt: skip
        writer.write(trace_lines.device_line(str(gpu), card))
    writer.write(trace_lines.device_line("h", Device("host", "node", "host", None, "host")))
    writer.write(trace_lines.device_line("p", Device("process", "run", "processes of the run", None, "host")))
    joules, done, second = [0.0] * gpus, 0.0, 0
    used = int(memory * 32 * GIB)

    def sample(stage: Stage | None) -> None:
        at = start + second
        rollups = {}
        for gpu in range(gpus):
            busy = stage.busy(second - 1, gpu) if stage else None
            rollups[str(gpu)] = Rollup(
                at, at, joules[gpu], utilization_ratio=busy, memory_mean_bytes=used, memory_max_bytes=used
            )
        rollups["h"] = Rollup(at, at, utilization_ratio=stage.cpu if stage else None)
        rollups["p"] = Rollup(at, at, utilization_ratio=stage.process if stage else None)
        writer.write(trace_lines.sample_line(at, rollups))

    sample(None)
    for number, stage in enumerate(stages):
        if stage.phase:
            writer.write({"phase": stage.phase, "begin": number, "t": start + second})
        for _ in range(stage.seconds):
            for gpu in range(gpus):
                joules[gpu] += stage.watts(second, gpu)
            done += stage.steps(second)
            second += 1
            sample(stage)
            if done and count_every and second % count_every == 0:
                writer.write({"facts": {"counts": {"steps": done}}, "t": start + second})
        if stage.phase:
            writer.write({"end": number, "t": start + second})
    if done:
        writer.write({"facts": {"counts": {"steps": done}}, "t": start + second})
    if trainer:
        writer.write({"facts": {"trainer": trainer}, "t": start + second})
    writer.write({"status": "completed", "error": None, "t": start + second})
    writer.close()
    return finish.make(folder)
