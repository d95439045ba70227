"""What a training will use, from a short one that was measured: set-up once, the steady state as often as needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from greenml import accounting
from greenml.analysis.alternatives.start_times import Profile, profile
from greenml.analysis.estimation import _pace
from greenml.analysis.estimation.estimate import Estimate, Part
from greenml.errors import SettingsError
from greenml.record import DeviceRecord, PhaseRecord, Quantity, RunRecord, Usage
from greenml.reports import _format

REPEATED = ("eval", "save", "validate", "sanity_check")
# Judged: what was seen once, a set-up or a single evaluation, may be this different the next time.
ONCE_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds and joules, each with half of its 95 % band."""

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
    if unit not in _pace.UNITS:
        raise SettingsError(f"unknown unit {unit!r}; give one of {', '.join(_pace.UNITS)}")
    if not 0 < units < math.inf:
        raise SettingsError(f"{units:g} {unit}: give more than 0")
    pace = _pace.pace(record, unit)
    used, _ = profile(record)
    train = _pace.train_phase(record)
    further = max(0.0, units - pace.warm.units)
    steady = _Cost(
        pace.rate("seconds") * further,
        pace.rate("joules") * further,
        pace.error("seconds", further),
        pace.error("joules", further),
    )
    per_unit = f"{_format.energy(pace.rate('joules'))} and {_format.seconds(pace.rate('seconds'))}"
    one = unit.removesuffix("s")
    rows = [(f"{_format.number(further)} {unit}", steady, f"{per_unit} a {one}")]
    if pace.warm.units:
        part = min(1.0, units / pace.warm.units)
        warm = _Cost(pace.warm.seconds * part, pace.warm.joules * part, 0.0, 0.0)
        words = "as in the probe, before the steady state"
        rows.insert(0, (f"first {_format.number(pace.warm.units * part)} {unit}", warm, words))
    probed = _done(record, unit, pace)
    known, known_joules = _pace.own_use(record, train)
    for phase in record.phases:
        if _repeats(phase, train) and phase.count:
            seconds, joules = _pace.use(record, phase)
            known, known_joules = known + seconds, known_joules + joules
            rows.append(_again(record, phase, used, unit, units, probed))
    rest = _Cost(record.duration_seconds - known, used.joules[-1] - known_joules, 0.0, 0.0)
    if rest.seconds > 1e-6:
        once = _Cost(rest.seconds, rest.joules, ONCE_RATIO * rest.seconds, ONCE_RATIO * rest.joules)
        rows.insert(0, ("set-up and the rest", once, f"once (±{ONCE_RATIO:.0%}, assumed)"))
    return _made(record, f"{_format.number(units)} {unit}", rows, pace, used)


def _done(record: RunRecord, unit: str, pace: _pace.Pace) -> float:
    counts = record.trainer.get("counts") or {}
    seen = pace.warm.units + sum(one.units for one in pace.steady)
    return max(float(counts.get(unit) or 0.0), seen)


def _repeats(phase: PhaseRecord, train: PhaseRecord) -> bool:
    """Tell whether a phase is of a kind that a longer training does oftener, and is not in another one that is."""
    outer, _, name = phase.path.rpartition("/")
    return name in REPEATED and outer in ("", train.path)


def _again(  # noqa: PLR0917  what repeats, and how far it goes
    record: RunRecord, phase: PhaseRecord, used: Profile, unit: str, units: float, probed: float
) -> tuple[str, _Cost, str]:
    """Reckon a phase that repeats: as often as the trainer's arguments say, else in proportion."""
    each = [_pace.within([span], used) for span in phase.spans]
    means = [one / phase.count for one in _pace.use(record, phase)]
    times, how, sure = _times(record, phase, unit, units, probed)
    name = f"{phase.path}, {_format.number(times, 4)} times"
    if len(each) > 1:
        spread = [statistics.stdev(one[at] for one in each) for at in (0, 1)]
        wide = _pace.student(len(each) - 1) * math.sqrt(1 / len(each) + 1 / max(times, 1.0))
        off = [one * wide * times for one in spread]
    else:
        off = [ONCE_RATIO * one * times for one in means]
        how += f" (±{ONCE_RATIO:.0%}, assumed)"
    if not sure:  # it may come once more, or once less
        off = [math.hypot(one, mean) for one, mean in zip(off, means, strict=True)]
    return name, _Cost(means[0] * times, means[1] * times, off[0], off[1]), how


def _times(record: RunRecord, phase: PhaseRecord, unit: str, units: float, probed: float) -> tuple[float, str, bool]:
    """Return how often a phase comes in the whole training, by what, and whether that is sure."""
    name = phase.path.rpartition("/")[2]
    arguments = record.trainer.get("training_args") or {}
    strategy = str(
        arguments.get(f"{name}_strategy") or arguments.get("evaluation_strategy" if name == "eval" else "") or ""
    )
    counts = {key: float(value) for key, value in (record.trainer.get("counts") or {}).items() if value}
    told = arguments.get(f"{name}_steps")
    if strategy == "steps" and isinstance(told, int | float) and told >= 1:
        steps = units if unit == "steps" else units * counts.get("steps", 0.0) / probed
        if steps:
            return float(math.floor(steps / told)), f"every {told:g} steps, as told", True
    if strategy == "epoch":
        epochs = units if unit == "epochs" else units * counts.get("epochs", 0.0) / probed
        if epochs:
            return max(1.0, float(math.floor(epochs + 1e-6))), "after each epoch, as told", True
    if phase.count < 2 or strategy == "no":
        return float(phase.count), "as often as in the probe", True
    every = probed / phase.count
    return float(math.floor(units / every + 1e-6)), f"every {_format.number(every, 4)} {unit}, as in the probe", False


def _made(
    record: RunRecord, what: str, rows: Sequence[tuple[str, _Cost, str]], pace: _pace.Pace, used: Profile
) -> Estimate:
    total = record.total()
    measured = total.it_energy_joules if total is not None else accounting.unknown("not measured")
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
    mean = factors.model_copy(update={"intensity_course": None})
    expected = accounting.totals("run", seconds, [(whole, whole.usage)], mean, record.place.nodes)
    ratio = (took.low or 0.0) / seconds, (took.high or 0.0) / seconds
    done = _format.number(_done(record, pace.unit, pace))
    assumes = [
        f"From {record.name or record.run_id}: {_format.duration(record.duration_seconds)}, {done} {pace.unit}; "
        f"{pace.how}.",
        "The training goes on as in the probe's steady state: same machine, batch size, data and length of inputs.",
        f"The band is 95 % of the spread between {len(pace.steady)} batches of {pace.unit}, with the sensors' own "
        f"doubt ({_format.percent(sides[0])} down, {_format.percent(sides[1])} up), in quadrature.",
    ]
    if factors.intensity_course is not None:
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
            tier: one.model_copy(update={"low": (one.low or 0.0) * ratio[0], "high": (one.high or 0.0) * ratio[1]})
            for tier, one in expected.cost_usd.items()
        },
        factors=factors,
        assumes=tuple(assumes),
    )


def _quantity(value: float, down: float, up: float) -> Quantity:
    return Quantity(value=value, low=max(0.0, value - down), high=value + up, basis="modelled")


def _sensor(measured: Quantity) -> tuple[float, float]:
    """Return the share by which the probe's own energy may be off, downward and upward; 0 where it has no band."""
    if not measured.value or measured.low is None or measured.high is None:
        return 0.0, 0.0
    return 1 - measured.low / measured.value, measured.high / measured.value - 1
