"""What a phase's edges cost in joules, with and without what the hardware had not told by then.

    python benchmarks/edges.py --draws 400

Phases of 1 to 3 s at 300 W, with pauses of 1 to 2 s at 60 W between them, on simulated hardware without any other
error. Each row prints, for each phase, the mean and the standard deviation of measured less true joules: with a
device's lag taken as 0, and as the product declares it (docs/method.md, section 2).
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bands import A100, A100_GAUGE, T4_GAUGE, V100, Hardware, Load, Machine, Span

from greenml.energy.usage import usage
from greenml.trace.types import Device

IDLE_WATTS, BUSY_WATTS = 60.0, 300.0
SECONDS = (20.0, 40.0)
ROWS = (
    ("V100, counter", V100, True),
    ("A100, counter", A100, True),
    ("T4, gauge, buffered", T4_GAUGE, True),
    ("T4, gauge, polled", T4_GAUGE, False),
    ("A100, part-time gauge, buffered", A100_GAUGE, True),
    ("A100, part-time gauge, polled", A100_GAUGE, False),
)


@dataclass
class Unallowed(Machine):
    """A machine of whose device nothing is thought to be late."""

    @property
    def dated(self) -> Device:
        """Return the device as it is declared, without its lag."""
        return replace(self.device, lag_seconds=0.0)


def phases(dice: random.Random, seconds: float) -> list[Span]:
    """Return stretches of 1 to 3 s with pauses of 1 to 2 s."""
    made, start = [], dice.uniform(1, 2)
    while start < seconds - 4:
        end = start + dice.uniform(1, 3)
        made.append((start, end))
        start = end + dice.uniform(1, 2)
    return made


def load(spans: Sequence[Span]) -> Iterator[tuple[float, float]]:
    """Yield the power: busy in the stretches, else idle."""
    yield -1.0, IDLE_WATTS
    for start, end in spans:
        yield start, BUSY_WATTS
        yield end, IDLE_WATTS


def errors(machine: Machine, draws: int, seed: int) -> list[float]:
    """Return measured less true joules a phase, one for each run."""
    made = []
    for draw in range(draws):
        dice = random.Random(seed * 100_000 + draw)
        seconds = dice.uniform(*SECONDS)
        spans = phases(dice, seconds)
        power = Load(load(spans))
        hardware = Hardware(power, machine.device, 0.0, -dice.random() * machine.device.step_seconds)
        edges = sorted({edge for span in spans for edge in span})
        measured = usage([machine.part(hardware, seconds, edges, dice)], spans).energy_joules or 0.0
        made.append((measured - sum(power.between(*span) for span in spans)) / len(spans))
    return made


def main() -> None:
    """Print a row for each kind of hardware."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--draws", type=int, default=400, help="runs of each")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    print(f"{given.draws} runs of each; joules a phase    lag 0: mean     sd    allowed for: mean     sd")
    for name, device, buffered in ROWS:
        without = errors(Unallowed(device, buffered), given.draws, given.seed)
        allowed = errors(Machine(device, buffered), given.draws, given.seed)
        figures = [figure for one in (without, allowed) for figure in (statistics.mean(one), statistics.pstdev(one))]
        print("{:38}{:13.2f} {:6.2f} {:20.2f} {:6.2f}".format(name, *figures))


if __name__ == "__main__":
    main()
