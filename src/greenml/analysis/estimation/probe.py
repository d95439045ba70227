"""Estimation of a training from a short run of it, the probe: its steady rate, extended to the whole training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from greenml.accounting import totals
from greenml.analysis.estimation.estimate import Estimate, Part
from greenml.analysis.statistics import student_quantile
from greenml.analysis.what_if.ranking import Profile, profile
from greenml.errors import FactorError, SettingsError
from greenml.record.schema import DeviceRecord, PhaseRecord, Quantity, RunRecord, Usage
from greenml.reports import _format

Measure = Literal["joules", "seconds"]
UNITS = ("steps", "samples", "tokens", "epochs")
MOST_BLOCKS = 24
BATCHES = 10  # of steady blocks, each long, so that neighbours that resemble each other do not feign certainty
FEWEST_BATCHES = 3
BINS = 3.0  # a block is this many steps of the timeline at the least: its edges fall inside of one
# A first block that is this far from the later half's median is still warming up.
WARM_DEVIATIONS, WARM_RATIO = 4.0, 0.03
MAD_TO_SIGMA = 1.4826  # of a normal distribution


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
        return sum(batch.amount(what) for batch in self.steady) / sum(batch.units for batch in self.steady)

    def error(self, what: Measure, units: float) -> float:
        """Return half of the 95 % interval of the joules or seconds of further units.

        The spread ``s`` of ``k`` batches of ``u`` units each says how far the mean may be off, and how far ``m =
        units / u`` further batches will scatter: ``t(k - 1) x s x sqrt(1 / k + 1 / m)`` a unit.

        Source: prediction interval of a mean (Student's t), with batch means against the likeness of neighbours (Law,
        Simulation Modeling and Analysis, chapter 9).
        """
        k, many = len(self.steady), sum(batch.units for batch in self.steady)
        if k < 2 or units <= 0:
            return 0.0
        spread = statistics.stdev(batch.amount(what) / batch.units for batch in self.steady)
        further = max(units / (many / k), 1.0)
        return student_quantile(k - 1) * spread * math.sqrt(1 / k + 1 / further) * units


def train_phase(record: RunRecord) -> PhaseRecord:
    """Return the phase of the training.

    Raises:
        SettingsError: there is none.
    """
    phase = record.phase(record.training_path)
    if phase is None:
        raise SettingsError(
            "the probe has no phase 'train', so set-up and training cannot be told apart; use an integration's "
            "callback, or 'with run.phase(\"train\")'"
        )
    if not phase.spans:
        raise SettingsError("the probe does not say when it trained (an imported record does not); measure a short run")
    return phase


def exclusive_spans(record: RunRecord, phase: PhaseRecord) -> list[tuple[float, float]]:
    """Return a phase's spans without those of nested phases, in seconds of the run."""
    inner = sorted(
        span for nested in record.phases if nested.path.startswith(f"{phase.path}/") for span in nested.spans
    )
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


def exclusive_use(record: RunRecord, phase: PhaseRecord) -> tuple[float, float]:
    """Return the seconds and joules of a phase without those of nested phases."""
    seconds, joules = use(record, phase)
    for nested in record.phases:
        if nested.path.rpartition("/")[0] == phase.path:
            took, drawn = use(record, nested)
            seconds, joules = seconds - took, joules - drawn
    return seconds, joules


def within(spans: Sequence[tuple[float, float]], used: Profile, until: float = math.inf) -> tuple[float, float]:
    """Return the seconds and joules of some spans, up to a second of the run."""
    cut = [(start, min(end, until)) for start, end in spans if start < until]
    return sum(end - start for start, end in cut), sum(used.before(end) - used.before(start) for start, end in cut)


def pace(record: RunRecord, unit: str) -> Pace:
    """Split a probe's training into blocks, find the start of the steady state, and join later blocks into batches.

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
    spans = exclusive_spans(record, train)
    points, how = _points(record, unit, spans)
    width = used.seconds[1] - used.seconds[0]
    blocks = _blocks(points, spans, used, BINS * width)
    # The timeline blurs the phase's edges, its total does not: the mean power of training is exactly known.
    (seconds, joules), (drawn_seconds, drawn_joules) = exclusive_use(record, train), within(spans, used)
    exact = joules / seconds / (drawn_joules / drawn_seconds)
    blocks = [Block(block.units, block.seconds, block.joules * exact) for block in blocks]
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
    """Return pairs (second of the run, units done by then) from the start of training, and how they are known."""
    counts = record.trainer.get("counts") or {}
    state = record.trainer.get("trainer_state") or {}
    total = float(counts.get(unit) or 0.0) or float((state.get("global_step") if unit == "steps" else 0.0) or 0.0)
    counted = [(float(at), float(done)) for at, done in (record.trainer.get("progress") or {}).get(unit, [])]
    first, last = spans[0][0], spans[-1][1]
    counted = [(at, done) for at, done in counted if first <= at <= last]
    if len(counted) > FEWEST_BATCHES:
        scale = total / counted[-1][1] if total and counted[-1][1] and unit in ("samples", "tokens") else 1.0
        begun = [(first, 0.0)] if counted[0][1] > 0 else []
        points = [*begun, *((at, done * scale) for at, done in counted)]
        return points, f"{unit} as they were counted while it ran, at {len(counted)} times"
    if not total:
        given = ", ".join(name for name in UNITS if counts.get(name)) or "none"
        raise SettingsError(
            f"the probe did not count its {unit} (it counted: {given}); an integration's callback does, or "
            f"'run.count({unit}=...)' as training goes on"
        )
    per_second = total / exclusive_use(record, train_phase(record))[0]
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
        rates = [block.amount(what) / block.units for block in blocks]
        middle = statistics.median(rates[half:])
        sigma = MAD_TO_SIGMA * statistics.median(abs(rate - middle) for rate in rates[half:])
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
        sum(block.units for block in blocks),
        sum(block.seconds for block in blocks),
        sum(block.joules for block in blocks),
    )


REPEATED = ("eval", "save", "validate", "sanity_check")
# Judged: what was seen once, a set-up or a single evaluation, may be this different the next time.
ONCE_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds and joules, each with half of its 95 % interval."""

    seconds: float
    joules: float
    seconds_off: float
    joules_off: float


def of_probe(record: RunRecord, unit: str, units: float) -> Estimate:
    """Estimate a whole training from a part of it.

    Args:
        record: of the probe, accounted.
        unit: steps, samples, tokens or epochs.
        units: how many the training will do.

    Raises:
        SettingsError: the probe cannot tell; says why, and what it would need.
    """
    if unit not in UNITS:
        raise SettingsError(f"unknown unit {unit!r}; give one of {', '.join(UNITS)}")
    if not 0 < units < math.inf:
        raise SettingsError(f"{units:g} {unit}: give more than 0")
    steady_pace = pace(record, unit)
    used, _ = profile(record)
    train = train_phase(record)
    further = max(0.0, units - steady_pace.warm.units)
    steady = _Cost(
        steady_pace.rate("seconds") * further,
        steady_pace.rate("joules") * further,
        steady_pace.error("seconds", further),
        steady_pace.error("joules", further),
    )
    per_unit = f"{_format.energy(steady_pace.rate('joules'))} and {_format.seconds(steady_pace.rate('seconds'))}"
    singular = unit.removesuffix("s")
    rows = [(f"{_format.number(further)} {unit}", steady, f"{per_unit} a {singular}")]
    if steady_pace.warm.units:
        part = min(1.0, units / steady_pace.warm.units)
        warm = _Cost(steady_pace.warm.seconds * part, steady_pace.warm.joules * part, 0.0, 0.0)
        words = "as in the probe, before the steady state"
        rows.insert(0, (f"first {_format.number(steady_pace.warm.units * part)} {unit}", warm, words))
    probed = _done(record, unit, steady_pace)
    known, known_joules = exclusive_use(record, train)
    for phase in record.phases:
        if _repeats(phase, train) and phase.count:
            seconds, joules = use(record, phase)
            known, known_joules = known + seconds, known_joules + joules
            rows.append(_again(record, phase, used, unit, units, probed))
    rest = _Cost(record.duration_seconds - known, used.joules[-1] - known_joules, 0.0, 0.0)
    if rest.seconds > 1e-6:
        once = _Cost(rest.seconds, rest.joules, ONCE_RATIO * rest.seconds, ONCE_RATIO * rest.joules)
        rows.insert(0, ("set-up and the rest", once, f"once (±{ONCE_RATIO:.0%}, assumed)"))
    return _made(record, f"{_format.number(units)} {unit}", rows, steady_pace, used)


def _done(record: RunRecord, unit: str, pace: Pace) -> float:
    counts = record.trainer.get("counts") or {}
    seen = pace.warm.units + sum(batch.units for batch in pace.steady)
    return max(float(counts.get(unit) or 0.0), seen)


def _repeats(phase: PhaseRecord, train: PhaseRecord) -> bool:
    """Tell whether a phase is of a kind that a longer training does oftener, and is not in another one that is."""
    outer, _, name = phase.path.rpartition("/")
    return name in REPEATED and outer in ("", train.path)


def _again(  # noqa: PLR0917  what repeats, and how far it goes
    record: RunRecord, phase: PhaseRecord, used: Profile, unit: str, units: float, probed: float
) -> tuple[str, _Cost, str]:
    """Estimate a repeated phase: its count by the trainer's arguments, else in proportion to the units."""
    each = [within([span], used) for span in phase.spans]
    means = [amount / phase.count for amount in use(record, phase)]
    times, how, sure = _times(record, phase, unit, units, probed)
    name = f"{phase.path}, {_format.number(times, 4)} times"
    if len(each) > 1:
        spread = [statistics.stdev(amounts[at] for amounts in each) for at in (0, 1)]
        wide = student_quantile(len(each) - 1) * math.sqrt(1 / len(each) + 1 / max(times, 1.0))
        off = [deviation * wide * times for deviation in spread]
    else:
        off = [ONCE_RATIO * mean * times for mean in means]
        how += f" (±{ONCE_RATIO:.0%}, assumed)"
    if not sure:  # it may come once more, or once less
        off = [math.hypot(half_width, mean) for half_width, mean in zip(off, means, strict=True)]
    return name, _Cost(means[0] * times, means[1] * times, off[0], off[1]), how


def _times(record: RunRecord, phase: PhaseRecord, unit: str, units: float, probed: float) -> tuple[float, str, bool]:
    """Return the count of a phase in the whole training, its origin, and whether it is certain."""
    name = phase.path.rpartition("/")[2]
    arguments = record.trainer.get("training_args") or {}
    strategy = str(
        arguments.get(f"{name}_strategy") or arguments.get("evaluation_strategy" if name == "eval" else "") or ""
    )
    counts = {key: float(value) for key, value in (record.trainer.get("counts") or {}).items() if value}
    interval_steps = arguments.get(f"{name}_steps")
    if strategy == "steps" and isinstance(interval_steps, int | float) and interval_steps >= 1:
        steps = units if unit == "steps" else units * counts.get("steps", 0.0) / probed
        if steps:
            return float(math.floor(steps / interval_steps)), f"every {interval_steps:g} steps, as told", True
    if strategy == "epoch":
        epochs = units if unit == "epochs" else units * counts.get("epochs", 0.0) / probed
        if epochs:
            return max(1.0, float(math.floor(epochs + 1e-6))), "after each epoch, as told", True
    if phase.count < 2 or strategy == "no":
        return float(phase.count), "as often as in the probe", True
    every = probed / phase.count
    return float(math.floor(units / every + 1e-6)), f"every {_format.number(every, 4)} {unit}, as in the probe", False


def _made(record: RunRecord, what: str, rows: Sequence[tuple[str, _Cost, str]], pace: Pace, used: Profile) -> Estimate:
    total = record.total()
    measured = total.it_energy_joules if total is not None else totals.unknown("not measured")
    joules, seconds = (sum(getattr(cost, name) for _, cost, _ in rows) for name in ("joules", "seconds"))
    off, seconds_off = (
        math.hypot(*(getattr(cost, name) for _, cost, _ in rows)) for name in ("joules_off", "seconds_off")
    )
    sides = _sensor(measured)
    low, high = max(0.0, joules - math.hypot(off, sides[0] * joules)), joules + math.hypot(off, sides[1] * joules)
    took = _quantity(seconds, seconds_off, seconds_off)
    factors = record.factors
    whole = DeviceRecord(
        id="all",
        kind="gpu",
        name="all devices",
        host="",
        method="estimate",
        sensor="estimate",
        usage=Usage(energy_joules=joules, energy_low_joules=low, energy_high_joules=high),
    )
    mean = factors.model_copy(update={"intensity_series": None})
    expected = totals.totals("run", seconds, [(whole, whole.usage)], mean, record.place.nodes)
    ratio = (took.low or 0.0) / seconds, (took.high or 0.0) / seconds
    done = _format.number(_done(record, pace.unit, pace))
    assumes = [
        f"From {record.name or record.run_id}: {_format.duration(record.duration_seconds)}, {done} {pace.unit}; "
        f"{pace.how}.",
        "The training goes on as in the probe's steady state: same machine, batch size, data and length of inputs.",
        f"The interval is 95 % of the spread between {len(pace.steady)} batches of {pace.unit}, with the sensors' own "
        f"uncertainty ({_format.percent(sides[0])} down, {_format.percent(sides[1])} up), in quadrature.",
    ]
    if factors.intensity_series is not None:
        assumes.append("The carbon intensity is the mean over the probe's own hours.")
    return Estimate(
        title=what,
        seconds=took,
        parts=tuple(
            Part(name, cost.seconds, _quantity(cost.joules, cost.joules_off, cost.joules_off), how)
            for name, cost, how in rows
        ),
        it_energy_joules=expected.it_energy_joules.model_copy(update={"why": measured.why}),
        facility_energy_joules=expected.facility_energy_joules,
        emissions_grams=expected.emissions_grams,
        cost_usd={
            tier: value.model_copy(
                update={"low": (value.low or 0.0) * ratio[0], "high": (value.high or 0.0) * ratio[1]}
            )
            for tier, value in expected.cost_usd.items()
        },
        factors=factors,
        assumes=tuple(assumes),
    )


def _quantity(value: float, down: float, up: float) -> Quantity:
    return Quantity(value=value, low=max(0.0, value - down), high=value + up, basis="modelled")


def _sensor(measured: Quantity) -> tuple[float, float]:
    """Return the share by which the probe's own energy may be off, downward and upward; 0 where it has no interval."""
    if not measured.value or measured.low is None or measured.high is None:
        return 0.0, 0.0
    return 1 - measured.low / measured.value, measured.high / measured.value - 1
