"""A probe's training in blocks of steps: what each took, where it became steady, and how far blocks differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from greenml.analysis.alternatives.start_times import Profile, profile
from greenml.errors import FactorError, SettingsError
from greenml.record import PhaseRecord, RunRecord

Measure = Literal["joules", "seconds"]
UNITS = ("steps", "samples", "tokens", "epochs")
MOST_BLOCKS = 24
BATCHES = 10  # of steady blocks, each long, so that neighbours that resemble each other do not feign certainty
FEWEST_BATCHES = 3
BINS = 3.0  # a block is this many steps of the timeline at the least: its edges fall inside of one
# A first block that is this far from the later half's median is still warming up.
WARM_DEVIATIONS, WARM_RATIO = 4.0, 0.03
MAD_TO_SIGMA = 1.4826  # of a normal distribution
# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """Some steps one after the other; ``units`` may be samples, tokens or epochs instead."""

    units: float
    seconds: float
    joules: float

    def amount(self, what: Measure) -> float:
        """Return its joules or its seconds."""
        return self.joules if what == "joules" else self.seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """What a unit takes in the steady state, and what came before it.

    Attributes:
        warm: what was done before it was steady.
        steady: batches of blocks from then on.
        how: where the blocks are from.
    """

    unit: str
    warm: Block
    steady: tuple[Block, ...]
    how: str

    def rate(self, what: Measure) -> float:
        """Return the mean joules or seconds of a unit in the steady state."""
        return sum(one.amount(what) for one in self.steady) / sum(one.units for one in self.steady)

    def error(self, what: Measure, units: float) -> float:
        """Return half of the 95 % band of what so many more units take.

        The spread ``s`` of ``k`` batches of ``u`` units each says how far the mean may be off, and how far ``m =
        units / u`` further batches will scatter: ``t(k - 1) x s x sqrt(1 / k + 1 / m)`` a unit.

        Source: prediction interval of a mean (Student's t), with batch means against the likeness of neighbours (Law,
        Simulation Modeling and Analysis, chapter 9).
        """
        k, many = len(self.steady), sum(one.units for one in self.steady)
        if k < 2 or units <= 0:
            return 0.0
        spread = statistics.stdev(one.amount(what) / one.units for one in self.steady)
        further = max(units / (many / k), 1.0)
        return student(k - 1) * spread * math.sqrt(1 / k + 1 / further) * units


def student(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    return STUDENT[min(degrees, len(STUDENT)) - 1]


def train_phase(record: RunRecord) -> PhaseRecord:
    """Return the phase of the training.

    Raises:
        SettingsError: there is none.
    """
    found = record.phase(record.training_path)
    if found is None:
        raise SettingsError(
            "the probe has no phase 'train', so set-up and training cannot be told apart; use an integration's "
            "callback, or 'with run.phase(\"train\")'"
        )
    if not found.spans:
        raise SettingsError("the probe does not say when it trained (an imported record does not); measure a short run")
    return found


def own_spans(record: RunRecord, phase: PhaseRecord) -> list[tuple[float, float]]:
    """Return a phase's spans without those of the phases inside it, seconds of the run."""
    inner = sorted(span for one in record.phases if one.path.startswith(f"{phase.path}/") for span in one.spans)
    spans = []
    for start, end in phase.spans:
        at = start
        for begin, stop in inner:
            if stop <= at or begin >= end:
                continue
            if begin > at:
                spans.append((at, begin))
            at = max(at, stop)
        if at < end:
            spans.append((at, end))
    return spans


def use(record: RunRecord, phase: PhaseRecord) -> tuple[float, float]:
    """Return the seconds and joules of a phase, all its stretches together; 0 joules where they are not known."""
    total = record.total(phase.path)
    joules = total.it_energy_joules.value if total is not None else None
    return phase.seconds, joules or 0.0


def own_use(record: RunRecord, phase: PhaseRecord) -> tuple[float, float]:
    """Return the seconds and joules of a phase without those of the phases inside it."""
    seconds, joules = use(record, phase)
    for one in record.phases:
        if one.path.rpartition("/")[0] == phase.path:
            took, drawn = use(record, one)
            seconds, joules = seconds - took, joules - drawn
    return seconds, joules


def within(spans: Sequence[tuple[float, float]], used: Profile, until: float = math.inf) -> tuple[float, float]:
    """Return the seconds and joules of some spans, up to a second of the run."""
    cut = [(start, min(end, until)) for start, end in spans if start < until]
    return sum(end - start for start, end in cut), sum(used.before(end) - used.before(start) for start, end in cut)


def pace(record: RunRecord, unit: str) -> Pace:
    """Cut a probe's training into blocks, find where it became steady, and join what follows into batches.

    Args:
        record: of the probe.
        unit: steps, samples, tokens or epochs.

    Raises:
        SettingsError: the probe cannot tell; says why, and what it would need.
    """
    train = train_phase(record)
    try:
        used, _ = profile(record)
    except FactorError as error:
        raise SettingsError(f"the probe's energy is not known, so nothing can be expected of it ({error})") from None
    total = record.total(train.path)
    if total is None or total.it_energy_joules.value is None:
        raise SettingsError("the energy of the probe's training phase is not known; estimate needs a measured probe")
    if len(used.seconds) < 3:
        raise SettingsError("the probe has no timeline of power, so its steps cannot be compared with each other")
    spans = own_spans(record, train)
    points, how = _points(record, unit, spans)
    width = used.seconds[1] - used.seconds[0]
    blocks = _blocks(points, spans, used, BINS * width)
    # The timeline blurs the phase's edges, its total does not: the mean power of training is exactly known.
    (seconds, joules), (drawn_seconds, drawn_joules) = own_use(record, train), within(spans, used)
    exact = joules / seconds / (drawn_joules / drawn_seconds)
    blocks = [Block(one.units, one.seconds, one.joules * exact) for one in blocks]
    if len(blocks) < FEWEST_BATCHES + 1:
        shortest = 2 * (FEWEST_BATCHES + 1) * BINS * width
        raise SettingsError(
            f"the probe is too short: {len(blocks)} block{'s' if len(blocks) != 1 else ''} of steps of at least "
            f"{BINS * width:g} s can be told apart; "
            f"train for at least {shortest:g} s"
        )
    warm = _warm(blocks)
    return Pace(unit, _joined(blocks[:warm]), tuple(_batches(blocks[warm:])), how)


def _points(
    record: RunRecord, unit: str, spans: Sequence[tuple[float, float]]
) -> tuple[list[tuple[float, float]], str]:
    """Return (second of the run, units done by then), from the start of training."""
    counts = record.trainer.get("counts") or {}
    state = record.trainer.get("trainer_state") or {}
    total = float(counts.get(unit) or 0.0) or float((state.get("global_step") if unit == "steps" else 0.0) or 0.0)
    told = [(float(at), float(done)) for at, done in (record.trainer.get("progress") or {}).get(unit, [])]
    first, last = spans[0][0], spans[-1][1]
    told = [(at, done) for at, done in told if first <= at <= last]
    if len(told) > FEWEST_BATCHES:
        scale = total / told[-1][1] if total and told[-1][1] and unit in ("samples", "tokens") else 1.0
        begun = [(first, 0.0)] if told[0][1] > 0 else []
        points = [*begun, *((at, done * scale) for at, done in told)]
        return points, f"{unit} as they were counted while it ran, at {len(told)} times"
    if not total:
        given = ", ".join(name for name in UNITS if counts.get(name)) or "none"
        raise SettingsError(
            f"the probe did not count its {unit} (it counted: {given}); an integration's callback does, or "
            f"'run.count({unit}=...)' as training goes on"
        )
    per_second = total / own_use(record, train_phase(record))[0]
    even, passed = [(first, 0.0)], 0.0
    for start, end in spans:
        passed += end - start
        even.append((end, passed * per_second))
    fine = [
        (a + (b - a) * step / 40, n + (m - n) * step / 40) for (a, n), (b, m) in pairwise(even) for step in range(40)
    ]
    return [*fine, even[-1]], f"{total:g} {unit} taken as even over the training, as only their sum is known"


def _blocks(
    points: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]], used: Profile, least_seconds: float
) -> list[Block]:
    whole, _ = within(spans, used)
    least = max(least_seconds, whole / MOST_BLOCKS)
    blocks: list[Block] = []
    seconds, joules = within(spans, used, points[0][0])
    done = points[0][1]
    for at, units in points[1:]:
        now, drawn = within(spans, used, at)
        if now - seconds >= least * (1 - 1e-9) and units > done:
            blocks.append(Block(units - done, now - seconds, drawn - joules))
            seconds, joules, done = now, drawn, units
    return blocks


def _warm(blocks: Sequence[Block]) -> int:
    """Return how many first blocks are not yet like the later half; at most half of them."""
    half = len(blocks) // 2
    most = 0
    measures: tuple[Measure, ...] = ("joules", "seconds")
    for what in measures:
        rates = [one.amount(what) / one.units for one in blocks]
        middle = statistics.median(rates[half:])
        sigma = MAD_TO_SIGMA * statistics.median(abs(one - middle) for one in rates[half:])
        allowed = max(WARM_DEVIATIONS * sigma, WARM_RATIO * abs(middle))
        count = 0
        while count < half and abs(rates[count] - middle) > allowed:
            count += 1
        most = max(most, count)
    return min(most, len(blocks) - FEWEST_BATCHES)


def _batches(blocks: Sequence[Block]) -> list[Block]:
    size = max(1, len(blocks) // BATCHES)
    many = len(blocks) // size
    edges = [round(at * len(blocks) / many) for at in range(many + 1)]
    return [_joined(blocks[start:end]) for start, end in pairwise(edges)]


def _joined(blocks: Sequence[Block]) -> Block:
    return Block(
        sum(one.units for one in blocks), sum(one.seconds for one in blocks), sum(one.joules for one in blocks)
    )
