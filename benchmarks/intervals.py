"""How often the truth lies in greenml's intervals, and how wide the intervals are.

    python benchmarks/intervals.py --draws 1000

Thousands of scripted runs of which everything is known: the power of each device, the sensor's gain, when the
hardware brings its counter or gauge up to date, what a part-time gauge does not see, when the reader stands still.
Their readings go through the product's own windows, curves, usages and totals. Each scenario prints

* ``inside``: the share of runs whose true figure lies in the interval; a 95 % interval should have 0.95,
* ``interval``: the mean width of the interval, over the figure,
* ``needed``: the width of the central 95 % of the errors, over the figure,
* ``times``: interval over needed. 1 is as wide as it must be; under 1 is too narrow.
* ``shrink``: by what every interval could be divided so that it still held 95 % of the truths. Where runs of a scenario
  differ much, a few wide errors make ``needed`` wide, and this says more.

A doubt of ±5 % is drawn from a normal distribution of which 95 % lie within ±5 % (docs/method.md, section 3).
"""

from __future__ import annotations

import argparse
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from greenml.accounting import totals
from greenml.energy import integrate, uncertainty
from greenml.energy.usage import Part, usage
from greenml.record.schema import DeviceRecord, Factor, Factors, Quantity, SourceRef
from greenml.sensors.sampler import Window
from greenml.trace.types import Device, Reading
from greenml.units import JOULES_PER_KWH

SIGMAS = 1.959964  # of a normal distribution that hold 95 %
FLUSH_SECONDS = 1.0  # a line of the trace each
LIMIT_WATTS = 400.0
Span = tuple[float, float]


class Load:
    """Power that stays the same from each time to the next; joules are exact."""

    def __init__(self, steps: Iterable[tuple[float, float]]) -> None:
        self.times, self.watts = (list(step) for step in zip(*steps, strict=True))
        spans = ((b - a) * watts for (a, b), watts in zip(pairwise(self.times), self.watts, strict=False))
        self.sums = [0.0, *accumulate(spans)]

    def joules(self, when: float) -> float:
        """Return what was drawn from time 0 on."""
        at = max(0, bisect_right(self.times, when) - 1)
        return self.sums[at] + self.watts[at] * (when - self.times[at])

    def between(self, start: float, end: float) -> float:
        """Return what was drawn between two times."""
        return self.joules(end) - self.joules(start)


def squares(dice: random.Random, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield a square wave of a period of 0.05 to 5 s."""
    period, duty = 0.05 * 100 ** dice.random(), dice.uniform(0.2, 0.8)
    low, high = dice.uniform(40, 120), dice.uniform(200, LIMIT_WATTS)
    start = -dice.random() * period
    while start < seconds:
        yield start, high
        yield start + duty * period, low
        start += period


def training(dice: random.Random, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield steps of a training that vary by some per cent, with pauses for the input and a checkpoint at times."""
    step, share, jitter = 0.1 * 20 ** dice.random(), dice.uniform(0.7, 0.95), dice.uniform(0.005, 0.05)
    high, low, idle = dice.uniform(250, LIMIT_WATTS), dice.uniform(80, 200), dice.uniform(40, 80)
    start, pause = -dice.random() * step, dice.uniform(5, 30)
    while start < seconds:
        length = step * max(0.1, dice.gauss(1, jitter))
        yield start, min(LIMIT_WATTS, high * dice.gauss(1, 0.03))
        yield start + share * length, low
        start += length
        if start > pause:
            yield start, idle
            start += dice.uniform(0.5, 4)
            pause = start + dice.uniform(5, 30)


def ramps(dice: random.Random, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield power that rises and falls over seconds, in steps of 20 ms."""
    start, watts = -0.02, dice.uniform(40, LIMIT_WATTS)
    while start < seconds:
        length, aim = dice.uniform(2, 30), dice.uniform(40, LIMIT_WATTS)
        count = math.ceil(length / 0.02)
        for at in range(count):
            yield start + at * 0.02, watts + (aim - watts) * at / count
        start, watts = start + count * 0.02, aim


def bursts(dice: random.Random, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield idle stretches between bursts of work, of 0.3 to 20 s each."""
    start, idle = -0.02, dice.uniform(40, 80)
    while start < seconds:
        yield start, idle
        start += 0.3 * 60 ** dice.random()
        yield start, dice.uniform(150, LIMIT_WATTS)
        start += 0.3 * 60 ** dice.random()


def with_phases(dice: random.Random, spans: Sequence[Span]) -> Iterator[tuple[float, float]]:
    """Yield a load that begins and ends with each of some stretches, and idles between them."""
    idle, high = dice.uniform(40, 120), dice.uniform(200, LIMIT_WATTS)
    yield -1.0, idle
    for start, end in spans:
        yield start, high
        yield end, idle


def in_step(dice: random.Random, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield a square wave of exactly the period in which a gauge is brought up to date, 0.1 s."""
    start, low, high = -dice.random() * 0.1, dice.uniform(40, 120), dice.uniform(200, LIMIT_WATTS)
    for at in range(math.ceil(seconds / 0.1) + 1):
        yield start + at * 0.1, high
        yield start + at * 0.1 + 0.05, low


SHAPES = (squares, training, ramps, bursts)


@dataclass
class Hardware:
    """What a device's counter or gauge says: brought up to date every step, true energy over 1 + its gain error."""

    load: Load
    device: Device
    error: float
    phase: float

    def counter(self, when: float) -> float:
        """Return the counter's joules."""
        step = self.device.step_seconds
        last = self.phase + math.floor((when - self.phase) / step) * step if step else when
        return (1000.0 + self.load.joules(max(0.0, last))) / (1 + self.error)

    def gauge(self, update: int) -> float:
        """Return the watts of an update, the mean of the window before it."""
        end = self.phase + update * self.device.step_seconds
        window = self.device.step_seconds * self.device.sampled_ratio
        return self.load.between(end - window, end) / window / (1 + self.error)

    def read(self, when: float, since: float | None, *, buffered: bool) -> Reading:
        """Read it as the NVML sensor does: the counter, else the driver's buffer, else the gauge."""
        counted = None if self.device.method == "gauge" else self.counter(when)
        if self.device.kind != "gpu":
            return Reading(energy_joules=counted)
        step = self.device.step_seconds
        newest = math.floor((when - self.phase) / step)
        if not buffered:
            return Reading(energy_joules=counted, power_watts=self.gauge(newest))
        oldest = newest if since is None else math.floor((since - self.phase) / step) + 1
        samples = tuple((self.phase + index * step, self.gauge(index)) for index in range(oldest, newest + 1))
        watts = samples[-1][1] if samples else None
        return Reading(energy_joules=counted, power_watts=watts, power_samples=samples)


@dataclass
class Machine:
    """A device, how it is read, and when it is not.

    Attributes:
        gain: what its sensor's kind is drawn for; machines of one name share a draw.
        buffered: a gauge is read from the driver's buffer once a second, not polled.
        gaps: the reader stands still in them.
        until: it is lost after this.
        late_seconds: the reader comes to an edge up to this late, as on busy cores.
    """

    device: Device
    buffered: bool = True
    gaps: Sequence[Span] = ()
    until: float = math.inf
    late_seconds: float = 0.0

    @property
    def dated(self) -> Device:
        """Return the device as the product declares it: where the driver dates a gauge, half of its window is left."""
        if self.device.method == "gauge" and self.buffered:
            return replace(self.device, lag_seconds=self.device.step_seconds * self.device.sampled_ratio / 2)
        return self.device

    def part(self, hardware: Hardware, seconds: float, edges: Sequence[float], dice: random.Random) -> Part:
        """Read the device over a run and return its curve."""
        device = self.dated
        polled = self.device.method == "gauge" and not self.buffered
        interval = self.device.step_seconds / 2 if polled else FLUSH_SECONDS
        window, rollups, flush = Window(max(5 * interval, 0.5), 0.0), [], FLUSH_SECONDS
        ticks = {at * interval + dice.uniform(0, 0.002) for at in range(math.ceil(seconds / interval))}
        last = None
        edges = [edge + dice.uniform(0, self.late_seconds) for edge in edges] if self.late_seconds else edges
        for when in sorted({*ticks, *edges, 0.0, seconds}):
            if when > seconds or when > self.until or any(start < when < end for start, end in self.gaps):
                continue
            window.add(when, hardware.read(when, last, buffered=self.buffered))
            last = when
            if when >= flush or when in edges or when == seconds:
                rollups.append(window.take())
                flush = math.floor(when) + FLUSH_SECONDS
        rollups = [rollup for rollup in [*rollups, window.take()] if rollup is not None]
        known = integrate.curve_of(device, [rollups])
        return Part(device, 0.0, known, rollups, [rollup.end_seconds for rollup in rollups], (0.0, seconds))


@dataclass(frozen=True)
class Simulated:
    """The devices of a run with what they used in a scope, its seconds, and the joules that they truly used."""

    used: uncertainty.DeviceUsages
    seconds: float
    truth_joules: float


@dataclass
class Scenario:
    """A kind of run, and the figure of it that is looked at.

    Attributes:
        machines: makes the devices of one run.
        spans: makes the scope's stretches; None for the whole run.
        figure: of the totals.
        errors: draws the gain's error of a sensor, once a kind.
        shared: the devices of one kind have one error; else each its own.
        factors: PUE and intensity with their intervals, for emissions.
        shapes: of the loads.
        spanned: the load begins and ends with the scope's stretches.
        counts: False for one that is shown only.
    """

    name: str
    machines: Callable[[random.Random, float], list[Machine]]
    spans: Callable[[random.Random, float], list[Span]] | None = None
    figure: str = "gpu_energy_joules"
    errors: Callable[[random.Random, float], float] = field(default=lambda dice, gain: dice.gauss(0, gain / SIGMAS))
    shared: bool = True
    factors: tuple[Factor, Factor] | None = None
    shapes: Sequence[Callable[[random.Random, float], Iterator[tuple[float, float]]]] = SHAPES
    spanned: bool = False
    counts: bool = True

    def simulate(self, dice: random.Random) -> Simulated:
        """Make one random run and read its devices."""
        seconds = dice.uniform(20, 120)
        spans = self.spans(dice, seconds) if self.spans else [(0.0, seconds)]
        edges = sorted({edge for span in spans for edge in span})
        errors: dict[object, float] = {}
        used, truth = [], 0.0
        for at, machine in enumerate(self.machines(dice, seconds)):
            device = machine.device
            kind = (device.sensor, device.kind, device.name) if self.shared else at
            if kind not in errors:
                errors[kind] = max(-0.99, self.errors(dice, device.calibration_ratio))
            load = Load(with_phases(dice, spans) if self.spanned else dice.choice(self.shapes)(dice, seconds + 1))
            hardware = Hardware(load, device, errors[kind], -dice.random() * (device.step_seconds or 1.0))
            part = machine.part(hardware, seconds, edges, dice)
            use = usage([part], spans)
            record = DeviceRecord(
                id=f"{device.id}-{at}", kind=device.kind, name=device.name, host="node", method=part.known.method,
                sensor=device.sensor, usage=use,
            )  # fmt: skip
            used.append((record, use))
            truth += sum(load.between(*span) for span in spans)
        return Simulated(used, sum(end - start for start, end in spans), truth)

    def draw(self, dice: random.Random) -> tuple[Quantity, float]:
        """Return the figure of one random run with its interval, and the truth."""
        run = self.simulate(dice)
        factors, truth = Factors(), run.truth_joules
        if self.factors:
            pue, intensity = self.factors
            factors = Factors(pue=pue, carbon_intensity=intensity)
            truth *= drawn(dice, pue) * drawn(dice, intensity) / JOULES_PER_KWH
        return getattr(totals.totals("run", run.seconds, run.used, factors, 1), self.figure), truth


def drawn(dice: random.Random, factor: Factor) -> float:
    """Draw what a factor truly is: normal, with each side's own width."""
    gauss = dice.gauss(0, 1 / SIGMAS)
    return max(0.0, factor.value + gauss * (factor.high - factor.value if gauss > 0 else factor.value - factor.low))


def gpu(name: str = "A100", method: str = "counter", step: float = 0.1, seen: float = 1.0) -> Device:
    """Return a simulated GPU."""
    return Device(
        "gpu", name, name, method, "nvml", calibration_ratio=0.05, step_seconds=step, sampled_ratio=seen,
        lag_seconds=(step + (step * seen if method == "gauge" else 0.0)) / 2, power_limit_watts=LIMIT_WATTS,
    )  # fmt: skip


A100, V100 = gpu(), gpu("V100", step=0.02)
T4_GAUGE, A100_GAUGE = gpu("T4", "gauge"), gpu("A100", "gauge", seen=0.25)
PACKAGE = Device("cpu", "package", "Xeon", "counter", "rapl", calibration_ratio=0.05, step_seconds=0.001)
DRAM = Device("dram", "dram", "DRAM", "counter", "rapl", calibration_ratio=0.10, step_seconds=0.001)
CPU_MODEL = Device("cpu", "cpu", "Xeon", "estimate", "estimate", calibration_ratio=0.5)
DRAM_MODEL = Device("dram", "dram", "DRAM", "estimate", "estimate", calibration_ratio=0.5)


def all_of(*devices: Device, buffered: bool = True) -> Callable[[random.Random, float], list[Machine]]:
    """Return devices that are read all the time."""
    return lambda dice, seconds: [Machine(device, buffered) for device in devices]


def late(device: Device) -> Callable[[random.Random, float], list[Machine]]:
    """Return a device whose reader comes to an edge up to half a second late."""
    return lambda dice, seconds: [Machine(device, late_seconds=0.5)]


def gapped(device: Device, *, buffered: bool = True) -> Callable[[random.Random, float], list[Machine]]:
    """Return a device whose reader stands still for 1 to 5 s, at times."""

    def made(dice: random.Random, seconds: float) -> list[Machine]:
        starts = [dice.uniform(1, seconds - 6) for _ in range(dice.randint(1, 2))]
        return [Machine(device, buffered, [(start, start + dice.uniform(1, 5)) for start in starts])]

    return made


def lost(dice: random.Random, seconds: float) -> list[Machine]:
    """Return eight GPUs, one of which is lost on the way."""
    return [Machine(A100)] * 7 + [Machine(A100, until=dice.uniform(0.5, 0.95) * seconds)]


def one_phase(dice: random.Random, seconds: float) -> list[Span]:
    """Return one stretch of 1 to 10 s."""
    start = dice.uniform(0, seconds - 10)
    return [(start, start + dice.uniform(1, 10))]


def many_phases(dice: random.Random, seconds: float) -> list[Span]:
    """Return 5 to 20 stretches of 0.3 to 1 s."""
    starts = sorted(dice.sample(range(1, int(seconds) - 1), min(dice.randint(5, 20), int(seconds) - 2)))
    return [(start + dice.uniform(0, 0.3), start + dice.uniform(0.6, 1.0)) for start in starts]


def factor(value: float, low: float, high: float) -> Factor:
    """Return a factor with its interval."""
    return Factor(value=value, low=low, high=high, unit="", scope="given", source=SourceRef(name="simulated"))


FACTORS = (factor(1.2, 1.1, 1.5), factor(400.0, 340.0, 480.0))
MODELLED = all_of(A100, A100, CPU_MODEL, DRAM_MODEL)
SCENARIOS = (
    Scenario("GPU, counter", all_of(A100)),
    Scenario("GPU, counter: a phase of 1 to 10 s", all_of(A100), one_phase),
    Scenario("GPU, counter: 5 to 20 phases of a second", all_of(A100), many_phases),
    Scenario("GPU, counter: the load comes with phases", all_of(A100), many_phases, spanned=True),
    Scenario("GPU, counter: a phase of 1 to 10 s, edges read late", late(V100), one_phase),
    Scenario("GPU, counter: the load comes with phases, edges read late", late(V100), many_phases, spanned=True),
    Scenario("GPU, gauge, buffered", all_of(T4_GAUGE)),
    Scenario("GPU, gauge, polled", all_of(T4_GAUGE, buffered=False)),
    Scenario("GPU, gauge: a phase of 1 to 10 s", all_of(T4_GAUGE), one_phase),
    Scenario("GPU, gauge: the load comes with phases", all_of(T4_GAUGE, buffered=False), many_phases, spanned=True),
    Scenario("GPU, part-time gauge", all_of(A100_GAUGE)),
    Scenario("GPU, part-time gauge, polled", all_of(A100_GAUGE, buffered=False)),
    Scenario("GPU, part-time gauge: a phase of 1 to 10 s", all_of(A100_GAUGE), one_phase),
    Scenario("GPU, gauge, with gaps", gapped(T4_GAUGE, buffered=False)),
    Scenario("GPU, part-time gauge, with gaps", gapped(A100_GAUGE, buffered=False)),
    Scenario("8 GPUs of a kind, counters", all_of(*[A100] * 8)),
    Scenario("8 GPUs of a kind, one lost on the way", lost),
    Scenario("8 GPUs of a kind, part-time gauges", all_of(*[A100_GAUGE] * 8)),
    Scenario("2 + 2 GPUs of two kinds", all_of(A100, A100, V100, V100)),
    Scenario("GPU + 2 packages + DRAM, RAPL", all_of(A100, PACKAGE, PACKAGE, DRAM), figure="it_energy_joules"),
    Scenario("2 GPUs + RAPL + modelled DRAM", all_of(A100, A100, PACKAGE, DRAM_MODEL), figure="it_energy_joules"),
    Scenario("2 GPUs + modelled CPU and DRAM", MODELLED, figure="it_energy_joules"),
    Scenario("the same: a phase of 1 to 10 s", MODELLED, one_phase, "it_energy_joules"),
    Scenario(
        "emissions: 4 GPUs, RAPL, PUE, intensity", all_of(*[A100] * 4, PACKAGE, DRAM), None, "emissions_grams",
        factors=FACTORS,
    ),
    Scenario("part-time gauge, a load in step with it", all_of(A100_GAUGE), shapes=(in_step,), counts=False),
    Scenario("8 GPUs, each with a gain of its own", all_of(*[A100] * 8), shared=False, counts=False),
    Scenario(
        "one GPU, gain -9.5 to +11 % (SC24)", all_of(A100), errors=lambda dice, _: dice.uniform(-0.095, 0.11),
        counts=False,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """What a scenario came to."""

    inside: float
    band: float
    needed: float
    shrink: float

    @property
    def times(self) -> float:
        """Return how many times as wide as needed the interval is."""
        return self.band / self.needed


def coverage(scenario: Scenario, draws: int, seed: int) -> Coverage:
    """Run a scenario many times."""
    inside, widths, errors, shares = 0, [], [], []
    for draw in range(draws):
        quantity, truth = scenario.draw(random.Random(f"{seed} {scenario.name} {draw}"))
        if quantity.value is None or quantity.low is None or quantity.high is None:
            raise ValueError(f"{scenario.name}: no interval ({quantity.why})")
        inside += quantity.low <= truth <= quantity.high
        widths.append((quantity.high - quantity.low) / quantity.value)
        errors.append((truth - quantity.value) / quantity.value)
        side = quantity.high - quantity.value if truth > quantity.value else quantity.value - quantity.low
        shares.append(abs(truth - quantity.value) / side)
    needed = quantile(errors, 0.975) - quantile(errors, 0.025)
    return Coverage(inside / draws, sum(widths) / draws, needed, 1 / quantile(shares, 0.95))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values lies below."""
    ordered, at = sorted(values), share * (len(values) - 1)
    low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
    return low + at % 1 * (high - low)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=1000, help="runs of each scenario")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    options = parser.parse_args()
    print(f"{options.draws} runs of each\n{'':44} inside   interval  needed  times  shrink")
    for scenario in SCENARIOS:
        if options.only in scenario.name:
            found = coverage(scenario, options.draws, options.seed)
            figures = (
                f"{found.inside:6.3f} {found.band:6.3f} {found.needed:7.3f} {found.times:6.2f} {found.shrink:7.2f}"
            )
            print(f"{scenario.name:44} {figures}", flush=True)


if __name__ == "__main__":
    main()
