"""Advice on when to evaluate, and where and at what price to run."""

from __future__ import annotations

import math
from dataclasses import replace

from greenml.analysis.advice._finding import Finding, Saving, Silence, saving, tier, train_path
from greenml.analysis.alternatives import _option
from greenml.analysis.alternatives._option import Option
from greenml.analysis.alternatives.what_if import what_if
from greenml.factors import cloud_prices
from greenml.record import Factor, PhaseRecord, RunRecord
from greenml.reports import _format
from greenml.units import SECONDS_PER_HOUR

EVALUATIONS = ("eval", "validate", "validation")
EVALUATION_SHARE = 0.10  # of the run
# Azure shows eviction rates as 0-5, 5-10, 10-15, 15-20 and over 20 % an hour; 10 % an hour is one in 10 hours.
PREEMPTED_HOURS, PREEMPTED_OFTEN, PREEMPTED_SELDOM = 10.0, 5.0, 20.0
CHECKPOINT_SECONDS = 60.0  # assumed where no phase 'save' tells
LEAST_SHARE = 0.01  # of the run's money; less is not worth a move


def evaluation(record: RunRecord) -> Finding | Silence:
    """Find evaluation that is repeated and takes a large part of the run.

    Source: arithmetic on this run's own phases: half of the evaluations take half of their energy and time.
    """
    rule = "evaluation"
    train = train_path(record)
    found = [one for one in record.phases if _evaluates(one, train)]
    if not found:
        return Silence(rule, "no phase 'eval' or 'validate'")
    phase = max(found, key=lambda one: one.seconds)
    if phase.count < 2:
        return Silence(rule, f"the phase {phase.path} came once: it cannot be done less often")
    total, own = record.total(), record.total(phase.path)
    whole = total.it_energy_joules.value if total is not None else None
    joules = own.it_energy_joules.value if own is not None else None
    by_energy = bool(whole) and joules is not None
    part = (joules or 0.0) / whole if whole and joules is not None else phase.seconds / record.duration_seconds
    if part < EVALUATION_SHARE:
        return Silence(
            rule, f"{phase.path} took {_format.percent(part)} of the run's {'energy' if by_energy else 'time'}"
        )
    spared = (joules / 2, joules / 2) if joules is not None else None
    each = _format.duration(phase.seconds / phase.count)
    return Finding(
        rule,
        "Evaluate less often",
        (
            f"{phase.path} came {phase.count} times, {each} each: {_format.percent(part)} of the run's "
            f"{'energy' if by_energy else 'time (its energy is not known)'}",
        ),
        "double eval_steps, or evaluate on a part of the data and on all of it at the end",
        saving(record, spared, (phase.seconds / 2, phase.seconds / 2)),
        ("half as many evaluations",),
        "this run's phases",
    )


def _evaluates(phase: PhaseRecord, train: str) -> bool:
    outer, _, name = phase.path.rpartition("/")
    return name in EVALUATIONS and outer in ("", train) and phase.seconds > 0


def preemptible(record: RunRecord) -> Finding | Silence:
    """Find a cheaper tier whose machines can be taken away, with the checkpoint interval that it needs.

    The interval is sqrt(2 C M) for a checkpoint of C seconds and M seconds between preemptions; it costs a share of
    sqrt(2 C / M) of the time, and each preemption a set-up.

    Source: Young 1974, doi 10.1145/361147.361115; Daly 2006, doi 10.1016/j.future.2004.11.016. Rates: Microsoft Learn,
    Azure Spot Virtual Machines, eviction rates by the hour.
    """
    rule = "preemptible"
    own = tier(record)
    prices = record.factors.prices
    if own != "dedicated" or own not in prices:
        return Silence(
            rule, f"the run's tier is {_format.tier(own)}" if own != "dedicated" else "no dedicated price is known"
        )
    name = _cheapest({tier: one for tier, one in prices.items() if not _ended(record, tier, one)})
    if name is None:
        return Silence(rule, "no cheaper tier has a price here")
    seconds, saves = record.duration_seconds, record.phase("save") or record.phase(f"{train_path(record)}/save")
    setup = record.phase("setup")
    cost = saves.seconds / saves.count if saves is not None and saves.count else CHECKPOINT_SECONDS
    again = setup.seconds if setup is not None else 0.0
    total = record.total()
    joules = total.it_energy_joules.value if total is not None else None

    def overhead(hours: float) -> float:
        """Return the share of time that checkpoints, work done again and new set-ups take."""
        between = hours * SECONDS_PER_HOUR / record.place.nodes
        return math.sqrt(2 * cost / between) + again / between

    shares = [overhead(hours) for hours in (PREEMPTED_SELDOM, PREEMPTED_OFTEN)]
    hourly, other = prices[own].value * record.place.nodes, prices[name]
    ends = sorted(
        seconds / SECONDS_PER_HOUR * (hourly - price * record.place.nodes * (1 + more))
        for price, more in ((other.low, shares[0]), (other.high, shares[1]))
    )
    if ends[0] <= 0:
        return Silence(rule, f"{_format.tier(name)} saves nothing beyond doubt")
    spent = None if joules is None else (-joules * shares[1], -joules * shares[0])
    interval = math.sqrt(2 * cost * PREEMPTED_HOURS * SECONDS_PER_HOUR / record.place.nodes)
    source_words = "as the phase 'save' took" if saves is not None else "assumed: there is no phase 'save'"
    found = replace(saving(record, spent, None), usd=(ends[0], ends[1]))
    return Finding(
        rule,
        f"Use {_format.tier(name)} machines",
        (
            f"the run is priced as {_format.price(own, prices[own])}",
            f"there is {_format.price(name, other)}",
        ),
        f"save a checkpoint every {_format.number(interval / 60, 2)} min and resume from it (resume=True keeps one "
        "record)",
        found,
        (
            f"a preemption every {PREEMPTED_HOURS:g} h of a machine ({PREEMPTED_OFTEN:g} to {PREEMPTED_SELDOM:g} h)",
            f"a checkpoint takes {_format.seconds(cost)} ({source_words}); each new start "
            + (
                f"{_format.duration(again)}, as 'setup' took"
                if setup is not None
                else "takes no time, as no phase 'setup' tells"
            ),
            f"so {_format.percent(shares[0])} to {_format.percent(shares[1])} more time and energy",
        ),
        "Young 1974, doi 10.1145/361147.361115; Daly 2006, doi 10.1016/j.future.2004.11.016; eviction rates by the "
        "hour: Microsoft Learn, Azure Spot Virtual Machines",
    )


def _ended(record: RunRecord, name: str, price: Factor) -> bool:
    """Tell whether a price is one of a tier that was sold no more when the run was."""
    last = cloud_prices.LAST_LOW_PRIORITY_YEAR
    listed = price.derived or price.source.published[:4] <= str(last)
    return name == "low_priority" and record.place.cloud == "azure" and listed and record.started.year > last


def _cheapest(prices: dict[str, Factor]) -> str | None:
    """Return the cheapest other tier whose price is of the time of the dedicated one; of any time where none is."""
    own = prices["dedicated"]
    others = {name: one for name, one in prices.items() if name != "dedicated" and one.value < own.value}
    near = {name: one for name, one in others.items() if _option.days_apart(one, own) <= _option.OLD_DAYS}
    return min(near or others, key=lambda name: others[name].value, default=None)


def cleaner_region(record: RunRecord) -> Finding | Silence:
    """Find the region of the same cloud that has the machine and the cleanest grid, beyond the doubt of the factors.

    Source: as 'greenml what-if' prints it, the factors' own.
    """
    rule = "cleaner-region"
    found = what_if(record, ("regions",))
    if not found.regions:
        return Silence(rule, found.silent.get("regions", "no region to compare with"))
    better = [one for one in found.regions if one.comparable and one.carbon_apart and (one.change_grams or 0.0) < 0]
    if not better:
        return Silence(
            rule, "no region with the machine is cleaner by more than the doubt of the factors, on the same basis"
        )
    best = _option.ranked(better, "carbon")[0]
    change, doubt = -(best.change_grams or 0.0), _option.carbon_doubt(best, found.run)
    usd = None if best.change_usd is None else (-best.change_usd, -best.change_usd)
    return Finding(
        rule, f"Run in {best.name}", _places(found.run, best),
        "move it if data and quota allow; 'greenml what-if' ranks all regions",
        Saving(grams=(change - doubt, change + doubt), usd=usd),
        ("the same energy and time there", *best.warnings),
        _source(best.factors.carbon_intensity),
    )  # fmt: skip


def cheaper_region(record: RunRecord) -> Finding | Silence:
    """Find the region of the same cloud where the machine costs less, in the run's tier.

    Source: as 'greenml what-if' prints it, the price's own.
    """
    rule = "cheaper-region"
    found = what_if(record, ("regions",))
    if not found.regions:
        return Silence(rule, found.silent.get("regions", "no region to compare with"))
    paid = found.run.usd
    if not paid:
        return Silence(rule, f"no {_format.tier(found.run.tier)} price of the run is known")
    better = [one for one in found.regions if one.cost_apart and (one.change_usd or 0.0) < -LEAST_SHARE * paid]
    dated = [one for one in better if not any(word.startswith("price of") for word in one.warnings)]
    if not dated:
        old = " at prices of the same time" if better else ""
        return Silence(rule, f"no region has the machine for at least {LEAST_SHARE:.0%} less{old}")
    best = _option.ranked(dated, "cost")[0]
    grams = None if best.change_grams is None or not best.comparable else (-best.change_grams, -best.change_grams)
    usd = -(best.change_usd or 0.0)
    return Finding(
        rule, f"Run in {best.name}, where it costs less", _places(found.run, best),
        "move it if data and quota allow; 'greenml what-if --by cost' ranks all regions",
        Saving(grams=grams, usd=(usd, usd)),
        ("the same energy and time there", *best.warnings),
        _source(best.factors.prices.get(best.tier)),
    )  # fmt: skip


def _places(run: Option, other: Option) -> tuple[str, ...]:
    lines = []
    for one in (run, other):
        intensity, pue = one.factors.carbon_intensity, one.factors.pue
        price = one.factors.prices.get(one.tier)
        parts = [
            f"{_format.number(intensity.value, 4)} g/kWh {intensity.basis} {intensity.year or ''}".strip()
            if intensity
            else "",
            f"PUE {_format.number(pue.value, 4)}" if pue else "",
            f"${_format.number(price.value)} an hour, {_format.tier(one.tier)}" if price else "",
        ]
        lines.append(f"{one.name}: {', '.join(part for part in parts if part)}")
    return tuple(lines)


def _source(factor: Factor | None) -> str:
    return _format.source(factor.source) if factor is not None else ""
