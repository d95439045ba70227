"""How large the HTML pages are, and how long a browser takes until their charts are drawn.

    python benchmarks/pages.py

The runs are simulated: only the hardware and the clock are made up. Their readings go through the product's windows
and traces, one trace a node, and ``open_record`` makes the record of them as of any run. The browser is the system's
Chromium, without a window and without a network. Seconds are the browser's own, from the start of the navigation to
the moment when the last chart is drawn.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import greenml
from greenml import reports
from greenml.accounting import assumptions
from greenml.record import file as record_file
from greenml.record.schema import Usage
from greenml.sensors.sampler import Window
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace.types import Device, Reading

DAY, HOUR = 86400.0, 3600.0
BEGIN = 1000.0  # of the run, on the simulated monotonic clock
GIB = 2**30
AIM_BYTES = 6e6
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass(frozen=True)
class Case:
    """A page, and within how many seconds it should be drawn."""

    name: str
    make: Callable[[Path], Path]
    aim_seconds: float
    prepare: Callable[[Path], object] | None = None  # before the clock starts
    making_counts: bool = False  # the aim holds for making the page and drawing it, together


def machine(node: int) -> list[Device]:
    """Return the devices of a node: eight GPUs, two CPU packages with their DRAM, the host."""
    devices = [
        Device(
            "gpu", f"GPU-{node:02x}{number:02x}51de-0000-4000-8000-{node:06x}{number:06x}", "NVIDIA A100-SXM4-80GB",
            "counter", "nvml", calibration_ratio=0.05, step_seconds=0.1, sampled_ratio=0.25, power_limit_watts=400.0,
            memory_total_bytes=80 * GIB, detail={"index": str(number)},
        )
        for number in range(8)
    ]  # fmt: skip
    for package in range(2):
        devices.append(Device("cpu", f"package-{package}", "AMD EPYC 7763", "counter", "rapl", step_seconds=0.001))
        devices.append(Device("dram", f"package-{package}-dram", "DRAM", "counter", "rapl", step_seconds=0.001))
    return [*devices, Device("host", "host", "AMD EPYC 7763", None, "host", memory_total_bytes=1024 * GIB)]


def busy_ratio(device: Device, node: int, seconds: float, length: float) -> float:
    """Return how busy a device is: loading first, then training with a dip at each evaluation, and some noise."""
    into = seconds / length
    seed = math.sin(seconds * 12.9898 + node * 78.233 + len(device.id) + int(device.detail.get("index", 0)) * 37.719)
    noise = (seed * 43758.5453) % 1.0
    if into < 0.04 or into > 0.985:
        return 0.01 + 0.02 * noise
    if (into - 0.04) % 0.19 > 0.165:
        return 0.35 + 0.2 * noise
    return 0.9 + 0.09 * noise - 0.03 * (int(device.detail.get("index", 0)) % 3)


def reading(device: Device, node: int, seconds: float, length: float, joules: float) -> Reading:
    """Return what a device's sensor would say."""
    busy = busy_ratio(device, node, seconds, length)
    if device.kind == "host":
        return Reading(utilization_ratio=0.05 + 0.2 * busy, memory_bytes=int((120 + 40 * seconds / length) * GIB))
    if device.kind != "gpu":
        return Reading(energy_joules=joules)
    memory = int((2 + 58 * min(1.0, seconds / length / 0.05)) * GIB)
    return Reading(joules, watts(device, busy), (), busy, memory, busy / 2)


def watts(device: Device, busy: float) -> float:
    """Return the power of a device that is so busy."""
    idle, most = {"gpu": (62.0, 395.0), "cpu": (95.0, 240.0), "dram": (12.0, 30.0), "host": (0.0, 0.0)}[device.kind]
    return idle + (most - idle) * (busy if device.kind == "gpu" else 0.2 + 0.3 * busy)


def simulate(output: Path, *, nodes: int, seconds: float, step_seconds: float, name: str) -> Path:
    """Write the traces of a run beside ``output``, a trace a node.

    Args:
        output: where run.json would be.
        nodes: of eight GPUs each.
        seconds: of the run.
        step_seconds: between two lines of a trace; a long run's own is as coarse after it was compacted.
        name: of the run.
    """
    run_dir = output.with_suffix(".trace")
    run_dir.mkdir(parents=True)
    for node in range(nodes):
        header: dict[str, Any] = {
            "run_id": "simulated", "attempt": 1, "host": f"node-{node}", "boot_id": f"boot-{node}", "pid": os.getpid(),
            "rank": node, "start_seconds": BEGIN, "unix_seconds": 1.76e9, "name": name, "watches": False,
            "greenml_version": greenml.__version__, "settings": {
                "region": "westus2", "sku": "ND96amsr_A100_v4", "known_from": {"region": "argument", "sku": "argument"},
            },
            "command": ["train.py"], "launcher": "torchrun", "world_size": nodes * 8,
            "host_facts": {"cpu_model": "AMD EPYC 7763", "cpu_count": 96, "memory_bytes": 900 * GIB},
        }  # fmt: skip
        _node(trace_file.TraceWriter(run_dir / f"1-node-{node}.jsonl", header), node, seconds, step_seconds)
    return output


def _node(writer: trace_file.TraceWriter, node: int, seconds: float, step_seconds: float) -> None:
    devices = machine(node)
    windows = [Window(5.0, BEGIN) for _ in devices]
    joules = [0.0] * len(devices)
    for key, device in enumerate(devices):
        writer.write(trace_lines.device_line(str(key), device))
    edges = [("setup", 0.0, 0.04), ("train", 0.04, 0.985), ("save", 0.985, 1.0)]
    edges += [("train/eval", 0.04 + 0.19 * n + 0.165, 0.04 + 0.19 * (n + 1)) for n in range(4)]
    for number, (path, start, _) in enumerate(edges, 1):
        writer.write({"phase": path, "begin": number, "t": BEGIN + start * seconds})
    last = 0.0
    for step in range(math.floor(seconds / step_seconds) + 1):
        at = min(step * step_seconds, seconds)
        rollups = {}
        for key, (device, window) in enumerate(zip(devices, windows, strict=True)):
            joules[key] += watts(device, busy_ratio(device, node, at, seconds)) * (at - last)
            window.add(BEGIN + at, reading(device, node, at, seconds, joules[key]))
            rollup = window.take()
            if rollup is not None:
                rollups[str(key)] = rollup
        writer.write(trace_lines.sample_line(BEGIN + at, rollups, edge=False))
        last = at
    for number, (_, _, end) in enumerate(edges, 1):
        writer.write({"end": number, "t": BEGIN + end * seconds})
    writer.write({"status": "completed", "error": None, "t": BEGIN + seconds})
    writer.close()


def report(*, nodes: int, seconds: float, step_seconds: float) -> Callable[[Path], Path]:
    """Return what writes the report page of such a run into a folder."""

    def make(folder: Path) -> Path:
        output = simulate(
            folder / "run.json", nodes=nodes, seconds=seconds, step_seconds=step_seconds, name="simulated"
        )
        page = folder / "report.html"
        page.write_text(reports.render(greenml.open_record(output), "html"), encoding="utf-8")
        return page

    return make


def thousand(folder: Path) -> None:
    """Write the records of 1,000 runs of eight GPUs, each of a size as an hour's run has it."""
    record = greenml.open_record(simulate(folder / "one.json", nodes=1, seconds=HOUR, step_seconds=6.0, name="one"))
    for number in range(1000):
        scale = 0.5 + number / 1000
        devices = [
            device.model_copy(update={"id": f"{device.id}-{number}", "usage": scaled(device.usage, scale)})
            for device in record.devices
        ]
        changed = {
            "name": f"run-{number}", "run_id": str(number), "devices": devices, "duration_seconds": HOUR * scale,
            "params": {"learning_rate": number * 1e-7},
            "metrics": {"eval_rougeL": 40 + number % 97 / 10, "eval_loss": 1.5 - scale / 2},
        }  # fmt: skip
        record_file.write(
            assumptions.reaccount(record.model_copy(update=changed)), folder / "runs" / str(number) / "run.json"
        )
    shutil.rmtree(folder / "one.trace")


def scaled(usage: Usage, scale: float) -> Usage:
    """Return a usage with all its joules times a number."""
    joules = {
        name: getattr(usage, name) * scale
        for name in ("energy_joules", "energy_low_joules", "energy_high_joules")
        if getattr(usage, name) is not None
    }
    return usage.model_copy(update=joules)


def comparison(folder: Path) -> Path:
    """Compare the runs of a folder as a user does, from the start of the command."""
    page = folder / "compare.html"
    command = [sys.executable, "-m", "greenml", "compare", str(folder / "runs"), "--html", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return page


CASES = [
    Case("report, 1 h of 8 GPUs", report(nodes=1, seconds=HOUR, step_seconds=1.0), 1.0),
    Case("report, 30 d of 64 GPUs", report(nodes=8, seconds=30 * DAY, step_seconds=1800.0), 3.0),
    Case("report, 12 d of 64 GPUs (most bins)", report(nodes=8, seconds=12.5 * DAY, step_seconds=900.0), 3.0),
    Case("compare of 1,000 runs", comparison, 5.0, thousand, making_counts=True),
]


def browser() -> str:
    """Return the path of a Chromium or Chrome."""
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        raise SystemExit(f"no browser: looked for {', '.join(BROWSERS)}; on Debian: apt-get install chromium")
    return path


def drawn(page: Path, repeat: int) -> tuple[list[float], list[float]]:
    """Return the seconds from the navigation until Plotly is loaded, and to the last chart, in a fresh browser each."""
    from playwright.sync_api import sync_playwright

    loaded, times = [], []
    for _ in range(repeat):
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
            chromium = playwright.chromium.launch(executable_path=browser(), args=arguments)
            tab = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
            tab.goto(page.as_uri(), wait_until="commit")
            tab.wait_for_selector("html[data-charts=drawn]", timeout=120_000)
            for name, seconds in (("charts-begun", loaded), ("charts-drawn", times)):
                seconds.append(tab.evaluate(f"performance.getEntriesByName('{name}')[0].startTime") / 1000)
            chromium.close()
    return loaded, times


def measure(case: Case, folder: Path, repeat: int) -> dict[str, str]:
    """Make a page and draw it."""
    if case.prepare is not None:
        case.prepare(folder)
    begun = time.perf_counter()
    page = case.make(folder)
    made = time.perf_counter() - begun
    size = page.stat().st_size
    loaded, seconds = drawn(page, repeat)
    taken = statistics.median(seconds) + (made if case.making_counts else 0.0)
    met = size <= AIM_BYTES and taken <= case.aim_seconds
    return {
        "page": case.name,
        "made s": f"{made:.1f}",
        "MB": f"{size / 1e6:.2f}",
        "loaded s": f"{statistics.median(loaded):.2f}",
        "drawn s": f"{statistics.median(seconds):.2f}",
        "slowest s": f"{max(seconds):.2f}",
        "aim s": f"{case.aim_seconds:g}",
        "aim": "met" if met else "MISSED",
    }


def table(rows: list[dict[str, str]]) -> str:
    """Return rows as text, in columns."""
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = ["  ".join(f"{name:<{width}}" if name == "page" else f"{name:>{width}}" for name, width in widths.items())]
    lines += [
        "  ".join(
            f"{row[name]:<{width}}" if name == "page" else f"{row[name]:>{width}}" for name, width in widths.items()
        )
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="WORD", default="", help="pages whose name has this in it")
    parser.add_argument("--repeat", type=int, default=3, help="fresh browsers for each page, for the median")
    given = parser.parse_args()
    rows = []
    for case in CASES:
        if given.only not in case.name:
            continue
        with tempfile.TemporaryDirectory(prefix="greenml-pages-") as folder:
            rows.append(measure(case, Path(folder), given.repeat))
        print(f"{case.name}: done", file=sys.stderr)
    if not rows:
        raise SystemExit(f"no page has {given.only!r} in its name; there are: {', '.join(case.name for case in CASES)}")
    print(table(rows))
    print("loaded s: until the charting library is read and run, which no page can be faster than")
    print(f"aim: a page of at most {AIM_BYTES / 1e6:.0f} MB, drawn within the seconds of its row; a comparison's")
    print("seconds are for all of it: the command from its start, with 1,000 records to read, and the drawing")


if __name__ == "__main__":
    main()
