"""What measuring costs the program that is measured: greenml, CodeCarbon and Zeus on the same eight simulated GPUs.

    pip install -e ".[bench]"
    python benchmarks/overhead.py

Every tool runs in a fresh child, all children of a round track at the same time, and each round starts them in another
order, so that whatever else the machine does hits all alike. The figures are medians over the rounds. The GPUs are a
simulated libnvidia-ml.so.1, which the vendor's own Python binding loads. Each call takes as long as ``--call-us`` says,
for all tools alike; calls are counted apart, since counting costs too. A peer that is not installed, or does not run
here, is a row with the reason. The second table has a driver that takes ``--busy-call-us`` a call, and a program that
does steps of a fixed amount of work: how long a step takes, and how long the start and the stop.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
GPUS, WATTS = 8, 250.0


@dataclass(frozen=True)
class Tool:
    """A tool as its README shows it, but offline and quiet.

    Attributes:
        importing, making, starting, stopping: its code; the last also sets ``joules``, what the GPUs used. ``making``
            is what its user calls before the start, with what the record needs to know of the place.
        simulated: False: on this machine as it is, without the simulated GPUs.
    """

    name: str
    importing: str
    making: str
    starting: str
    stopping: str
    simulated: bool = True


GREENML = "from greenml import track", "run = track('run.json', sku='ND40rs_v2', region='swedencentral')", "run.start()"
GREENML_STOP = "joules = sum(d.usage.energy_joules or 0 for d in run.stop().devices if d.kind == 'gpu')"
CODECARBON = "from codecarbon import OfflineEmissionsTracker"
CODECARBON_MAKE = "t = OfflineEmissionsTracker(country_iso_code='USA', log_level='critical'{})"
CODECARBON_STOP = "t.stop(); joules = t.final_emissions_data.gpu_energy * 3.6e6"
# Without torch there is nothing to wait for, and Zeus must be told so.
ZEUS = "from zeus.monitor import ZeusMonitor", "m = ZeusMonitor()", "m.begin_window('run', sync_execution=False)"
ZEUS_STOP = "joules = sum(m.end_window('run', sync_execution=False).gpu_energy.values())"

TOOLS = [
    Tool("none", "pass", "pass", "pass", "joules = 0"),
    Tool("greenml", *GREENML, GREENML_STOP),
    Tool("codecarbon", CODECARBON, CODECARBON_MAKE.format(""), "t.start()", CODECARBON_STOP),
    Tool("codecarbon, 1 s", CODECARBON, CODECARBON_MAKE.format(", measure_power_secs=1"), "t.start()", CODECARBON_STOP),
    Tool("zeus", *ZEUS, ZEUS_STOP),
    Tool("greenml, no GPU", *GREENML, GREENML_STOP, simulated=False),
    Tool("codecarbon, no GPU", CODECARBON, CODECARBON_MAKE.format(""), "t.start()", CODECARBON_STOP, simulated=False),
    Tool("zeus, no GPU", *ZEUS, ZEUS_STOP, simulated=False),
]

# Imports nothing that a tool would have to import; its main thread sleeps in readline() until it is told to go on.
CHILD = """
import os, sys
from resource import RUSAGE_CHILDREN, getrusage
from time import monotonic, perf_counter, process_time

said = os.fdopen(os.dup(1), "w", 1)
os.dup2(2, 1)

def say(*figures):
    said.write(repr(list(figures)) + "\\n")

def go_on():
    if not sys.stdin.readline():
        os._exit(0)

def cpu():
    spent = getrusage(RUSAGE_CHILDREN)
    return process_time() + spent.ru_utime + spent.ru_stime

def state():
    with open("/proc/self/status") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"])

go_on()
before, begun = state(), perf_counter()
{importing}
say(perf_counter() - begun)
go_on()
spent, begun = cpu(), perf_counter()
{making}
made = perf_counter()
{starting}
say(made - begun, perf_counter() - made)
tracking = monotonic()
go_on()
settled, spent_settled = monotonic(), cpu()
say(spent_settled - spent)
steps = []
if {working}:
    until = monotonic() + {working}
    while monotonic() < until:
        step, total = perf_counter(), 0
        for number in range(200_000):
            total += number * number
        steps.append(perf_counter() - step)
go_on()
memory, threads = state()
steps = sorted(steps) or [0.0]
say(
    (cpu() - spent_settled) / (monotonic() - settled), memory - before[0], threads - before[1],
    steps[len(steps) // 2], steps[len(steps) * 99 // 100],
)
go_on()
tracked, begun = monotonic() - tracking, perf_counter()
{stopping}
say(perf_counter() - begun, joules / tracked)
"""
IMPORT, START, SETTLED, TRACKED, STOP = (
    ("import",),
    ("make", "start"),
    ("once",),
    ("steady", "memory", "threads", "step", "slowest"),
    ("stop", "watts"),
)
# Figure: its column, and by what to multiply it.
COLUMNS = {
    "import": ("import ms", 1e3), "make": ("make ms", 1e3), "start": ("start ms", 1e3), "sum": ("sum ms", 1e3),
    "stop": ("stop ms", 1e3), "once": ("CPU once ms", 1e3), "steady": ("CPU ms/s", 1e3), "run": ("CPU run ms", 1e3),
    "memory": ("MB", 1e-6), "threads": ("threads", 1), "calls": ("calls/GPU/s", 1), "watts": ("GPU W", 1),
}  # fmt: skip
BUSY_COLUMNS = {
    "start": ("start ms", 1e3), "step": ("step ms", 1e3), "slowest": ("99 % ms", 1e3), "stop": ("stop ms", 1e3),
    "watts": ("GPU W", 1),
}  # fmt: skip
RATIOS = ("import", "sum", "stop", "once", "steady", "run", "memory")
LEGEND = """
import: of the tool's entry point, in a fresh interpreter.    make: track(sku=, region=), or the tracker's constructor.
start, stop: how long the caller waits.    sum: import, make and start.
CPU once: of make, start and the {settle:g} s after them.    CPU ms/s: from then on, while the program itself sleeps.
CPU run: of the two, for {run:g} s.
MB, threads: resident memory and threads more than before the import.    calls: of the driver, a GPU and second.
GPU W: what the tool says that the GPUs drew, as a check that it did measure; true are {watts:.0f} W."""


class Child:
    """A process with a tool in it, led step by step."""

    def __init__(self, tool: Tool, environment: dict[str, str], folder: Path, working_seconds: float = 0.0) -> None:
        self.tool, self.figures, self.failure = tool, dict[str, float](), ""
        folder.mkdir(parents=True)
        self._errors = folder / "errors.txt"
        code = CHILD.format(
            importing=tool.importing, making=tool.making, starting=tool.starting, stopping=tool.stopping,
            working=working_seconds,
        )  # fmt: skip
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], env=environment, cwd=folder, stderr=errors,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            )  # fmt: skip

    def step(self, names: tuple[str, ...]) -> None:
        """Let it go on to its next figures."""
        if self.failure:
            return
        try:
            print(file=self._process.stdin)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            self.figures |= zip(names, json.loads(line), strict=True)
        else:
            self._process.wait()
            said = self._errors.read_text(errors="replace").strip().splitlines()
            self.failure = said[-1] if said else f"ended with {self._process.returncode}"

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


class Bench:
    """The simulated machine, and what was measured on it: of each tool, each figure of each round."""

    def __init__(self, folder: Path, settle_seconds: float, track_seconds: float, call_seconds: float) -> None:
        folder.mkdir(parents=True)
        sys.path.insert(0, str(TESTS))
        from simulated import simnvml

        self._simnvml, self._folder = simnvml, folder
        self.settle_seconds, self._track_seconds = settle_seconds, track_seconds
        self.run_seconds = settle_seconds + track_seconds
        self._library = simnvml.build(folder)
        gpus = (replace(simnvml.A100, power=WATTS),) * GPUS
        slow = (simnvml.Slow("*", call_seconds),) if call_seconds else ()
        self._script = simnvml.write(simnvml.Script(gpus=gpus, faults=slow), folder / "script")
        self._commands = simnvml.fake_nvidia_smi(folder / "commands")
        self._rounds = 0
        self.figures: dict[str, dict[str, list[float]]] = {tool.name: {} for tool in TOOLS}
        self.failures: dict[str, str] = {}

    def imports(self, tools: list[Tool]) -> None:
        """Import each tool in a process that does nothing else."""
        for child in self._children(tools):
            child.step(IMPORT)
            child.close()
            self._keep(child)

    def track(self, tools: list[Tool]) -> None:
        """Track with all tools at once."""
        children = self._children(tools)
        for step, then_seconds in (
            (IMPORT, 0.0),
            (START, self.settle_seconds),
            (SETTLED, self._track_seconds),
            (TRACKED, 0.0),
            (STOP, 0.0),
        ):
            for child in children:
                child.step(step)
            time.sleep(then_seconds)
        for child in children:
            child.close()
            self._keep(child)

    def work(self, tools: list[Tool]) -> None:
        """Let each tool's program work by itself, with the tool beside it."""
        for tool in (tool for tool in tools if tool.simulated):
            [child] = self._children([tool], working_seconds=self._track_seconds)
            for step in (IMPORT, START, SETTLED, TRACKED, STOP):
                child.step(step)
                time.sleep(0.2)
            child.close()
            self._keep(child)

    def count(self, tools: list[Tool]) -> None:
        """Track with all tools at once and count their calls of the driver."""
        tools = [tool for tool in tools if tool.simulated]
        children = self._children(tools, log=True)
        for step in (IMPORT, START):
            for child in children:
                child.step(step)
        time.sleep(self.settle_seconds)
        before = [self._simnvml.calls(self._log(tool)).total() for tool in tools]
        time.sleep(self._track_seconds)
        for child, calls in zip(children, before, strict=True):
            more = self._simnvml.calls(self._log(child.tool)).total() - calls
            self.figures[child.tool.name]["calls"] = [more / self._track_seconds / GPUS]
            child.close()

    def _children(self, tools: list[Tool], *, log: bool = False, working_seconds: float = 0.0) -> list[Child]:
        self._rounds += 1
        folder = self._folder / f"{self._rounds}"
        return [Child(tool, self._environment(tool, log=log), folder / tool.name, working_seconds) for tool in tools]

    def _log(self, tool: Tool) -> Path:
        return self._folder / f"calls of {tool.name}"

    def _environment(self, tool: Tool, *, log: bool) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENML_", "CODECARBON_"))}
        if tool.simulated:
            kept.pop("CUDA_VISIBLE_DEVICES", None)
            calls = self._log(tool) if log else None
            kept |= self._simnvml.environment(self._library, self._script, calls=calls, commands=self._commands)
        return kept

    def _keep(self, child: Child) -> None:
        if child.failure:
            self.failures[child.tool.name] = child.failure
        figures = dict(child.figures)
        if "start" in figures:
            figures["sum"] = figures["import"] + figures["make"] + figures["start"]
        if "steady" in figures:
            figures["run"] = figures["once"] + figures["steady"] * self._track_seconds
        for name, value in figures.items():
            self.figures[child.tool.name].setdefault(name, []).append(value)

    def median(self, tool: str, figure: str) -> float | None:
        """Return a tool's figure; None where it has none."""
        values = self.figures[tool].get(figure)
        return statistics.median(values) if values and tool not in self.failures else None


def table(rows: list[list[str]]) -> str:
    """Return rows as text, in columns; the last row may be a reason instead of figures."""
    widths = [max(len(row[at]) for row in rows if len(row) == len(rows[0])) for at in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=False))
        for row in rows
    )


def report(bench: Bench) -> str:
    """Return the costs of each tool, and greenml's over each peer's."""
    rows = [["", *(column for column, _ in COLUMNS.values())]]
    ratios = [["greenml / peer", *(COLUMNS[ratio][0].removesuffix(" ms") for ratio in RATIOS)]]
    for tool in TOOLS:
        if tool.name in bench.failures:
            rows.append([tool.name, f"skipped: {bench.failures[tool.name]}"])
            continue
        values = {figure: bench.median(tool.name, figure) for figure in COLUMNS}
        rows.append([tool.name, *(shown(values[figure], COLUMNS[figure][1]) for figure in COLUMNS)])
        own = "greenml" if tool.simulated else "greenml, no GPU"
        if tool.name not in ("none", own):
            pairs = [(bench.median(own, figure), values[figure]) for figure in RATIOS]
            ratios.append([tool.name, *(f"{mine / its:.3g}" if mine and its else "-" for mine, its in pairs)])
    legend = LEGEND.format(settle=bench.settle_seconds, run=bench.run_seconds, watts=GPUS * WATTS)
    return f"{table(rows)}\n{legend}\n\n{table(ratios)}"


def report_work(bench: Bench) -> str:
    """Return what each tool does to a program that works, beside a driver that takes long."""
    rows = [["", *(column for column, _ in BUSY_COLUMNS.values())]]
    for tool in TOOLS:
        if tool.simulated and tool.name in bench.failures:
            rows.append([tool.name, f"skipped: {bench.failures[tool.name]}"])
        elif tool.simulated:
            values = [(bench.median(tool.name, figure), factor) for figure, (_, factor) in BUSY_COLUMNS.items()]
            rows.append([tool.name, *(shown(value, factor) for value, factor in values)])
    return table(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="to track in each round (CodeCarbon's tick is 15)")
    parser.add_argument("--settle", type=float, default=3.0, help="after the start: what is done once is over by then")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imports", type=int, default=5, help="further fresh imports of each tool")
    parser.add_argument("--call-us", type=float, default=30.0, help="that a driver call takes")
    parser.add_argument("--busy-call-us", type=float, default=2000.0, help="the same in the second table; 0: none")
    given = parser.parse_args()
    # As pip does with what it installs, and did with the peers: this is no measurement of Python's compiler.
    compileall.compile_dir(ROOT / "src", quiet=2)
    with tempfile.TemporaryDirectory(prefix="greenml-overhead-") as folder:
        try:
            bench = Bench(Path(folder) / "quick", given.settle, given.seconds, given.call_us * 1e-6)
        except FileNotFoundError as error:
            raise SystemExit(str(error)) from None
        for number in range(given.imports):
            bench.imports(turned(number))
        for number in range(given.rounds):
            bench.track(turned(number))
            print(f"round {number + 1} of {given.rounds} done", file=sys.stderr)
        bench.count(TOOLS)
        print(f"{given.call_us:g} us a driver call\n\n{report(bench)}")
        if given.busy_call_us:
            busy = Bench(Path(folder) / "busy", given.settle, given.seconds / 3, given.busy_call_us * 1e-6)
            for number in range(given.rounds):
                busy.work(turned(number))
            print(f"\n{given.busy_call_us:g} us a driver call, in a program that works\n\n{report_work(busy)}")


def turned(number: int) -> list[Tool]:
    """Return the tools in another order each time."""
    at = number * 3 % len(TOOLS)
    return TOOLS[at:] + TOOLS[:at]


def shown(value: float | None, factor: float) -> str:
    """Return a figure in its column's unit; a dash where there is none."""
    if value is None:
        return "-"
    value *= factor
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


if __name__ == "__main__":
    main()
