"""What a study is expected to use, cell by cell, and what its budget allows.

The best that is known of a variant is the mean of its own cells that have completed; then a record of the same command
from elsewhere, where one was given; then ``expected_minutes`` on the machine size of the price table; then the mean of
the cells of other variants. What none of them tells is not known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from greenml.accounting import assumptions
from greenml.accounting.check import check
from greenml.analysis import estimation
from greenml.analysis.study.folder import TO_RUN, Spent, Study, spent
from greenml.analysis.study.plan import Plan, StudyFile, Variant
from greenml.errors import GreenMLError, SettingsError
from greenml.factors.prices import tier_name
from greenml.record.schema import RunRecord
from greenml.settings import resolve
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_HOUR

NOT_KNOWN = "not known, no cell has run yet; --probe runs the first one, or give expected_minutes and sku"
_PLACE = ("sku", "region", "tier", "nodes", "price_per_hour", "carbon_intensity", "pue")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a cell is expected to use. None is not known.

    Attributes:
        seconds, facility_energy_joules, emissions_grams, cost_usd: the cost in the study's tier.
        how: where this is from.
    """

    seconds: float | None = None
    facility_energy_joules: float | None = None
    emissions_grams: float | None = None
    cost_usd: float | None = None
    how: str = NOT_KNOWN


FIGURES = ("seconds", "facility_energy_joules", "emissions_grams", "cost_usd")


@dataclass(frozen=True, slots=True)
class _Budget:
    """A budget of the study file.

    Attributes:
        name: its key.
        limit: its value.
        unit: of it, with ``scale`` SI units in one.
        figure: of ``FIGURES``.
        spent: name of the figure in ``Spent.known``.
        cure: what makes the figure known.
    """

    name: str
    limit: float
    unit: str
    scale: float
    figure: str
    spent: str
    cure: str


def _budgets(file: StudyFile) -> list[_Budget]:
    priced = "give sku, region and a tier in which it has a price, or price_per_hour"
    measured = "'greenml doctor' says what can be measured here"
    usd, kwh, kg = file.max_usd or math.inf, file.max_kwh or math.inf, file.max_kg or math.inf  # none of them is 0
    every = (
        _Budget("max_usd", usd, "USD", 1.0, "cost_usd", f"cost, {tier(file)}", priced),
        _Budget("max_kwh", kwh, "kWh", JOULES_PER_KWH, "facility_energy_joules", "facility energy", measured),
        _Budget("max_kg", kg, "kg CO2e", GRAMS_PER_KG, "emissions_grams", "emissions", measured),
    )
    return [budget for budget in every if budget.limit < math.inf]


def tier(file: StudyFile) -> str:
    """Return the tier whose price counts."""
    return tier_name(file.tier) if file.tier else "dedicated"


def check_settings(plan: Plan) -> None:
    """Check the machine, the place and the budget of a plan, before anything runs.

    Raises:
        SettingsError: a SKU, region or tier does not exist; or there is a budget of money and no price.
    """
    settings = check(resolve({name: getattr(plan.file, name) for name in _PLACE}))
    if plan.file.max_usd is None or settings.price_per_hour is not None:
        return
    if not settings.sku:
        raise SettingsError("max_usd needs a price: give sku and region, or price_per_hour")
    if settings.region in ("", "auto"):  # the machine may tell its own
        return
    prices, chosen = assumptions.current_factors(settings).prices, tier(plan.file)
    if chosen not in prices:
        there = f"prices are known for {', '.join(prices)}" if prices else "none is known; give price_per_hour"
        raise SettingsError(
            f"max_usd needs a price: {settings.sku} in {settings.region} has none in the tier {chosen}; {there}"
        )


def of_variants(study: Study, probe: RunRecord | None = None) -> dict[str, Expected]:
    """Return what a cell of each variant is expected to use.

    Args:
        study: with the records of the cells that have run.
        probe: a record of the same command from elsewhere.
    """
    known = {
        variant.name: [cell.attempts[-1] for cell in study.of_variant(variant.name) if cell.usable]
        for variant in study.plan.variants
    }
    chosen = tier(study.plan.file)
    every = [attempt for attempts in known.values() for attempt in attempts]
    made = {}
    for variant in study.plan.variants:
        attempts = known[variant.name]
        if attempts:
            how = f"mean of its {len(attempts)} cell{'s'[: len(attempts) > 1]} that completed"
            made[variant.name] = _mean([spent([attempt]) for attempt in attempts], chosen, how)
        elif probe is not None:
            made[variant.name] = _of_record(probe, chosen)
        elif variant.expected_minutes is not None:
            made[variant.name] = _of_machine(study.plan.file, variant)
        elif every:
            how = f"mean of {len(every)} cell{'s'[: len(every) > 1]} of other variants"
            made[variant.name] = _mean([spent([attempt]) for attempt in every], chosen, how)
        else:
            made[variant.name] = Expected()
    return made


def _mean(parts: Sequence[Spent], chosen: str, how: str) -> Expected:
    def mean(name: str, value: Callable[[Spent], float]) -> float | None:
        numbers = [value(part) for part in parts if part.known.get(name)]
        return statistics.fmean(numbers) if numbers else None

    return Expected(
        mean("time", lambda part: part.seconds),
        mean("facility energy", lambda part: part.facility_energy_joules),
        mean("emissions", lambda part: part.emissions_grams),
        mean(f"cost, {chosen}", lambda part: part.cost_usd[chosen]),
        how,
    )


def _of_record(probe: RunRecord, chosen: str) -> Expected:
    total = probe.total()
    if total is None:
        return Expected(seconds=probe.duration_seconds, how="as the record that was given")
    cost = total.cost_usd.get(chosen)
    return Expected(
        total.seconds,
        total.facility_energy_joules.value,
        total.emissions_grams.value,
        cost.value if cost is not None else None,
        "as the record that was given",
    )


def _of_machine(file: StudyFile, variant: Variant) -> Expected:
    seconds = (variant.expected_minutes or 0.0) * 60.0
    given = {name: getattr(file, name) for name in _PLACE}
    try:
        made = estimation.of_machine(given, hours=seconds / SECONDS_PER_HOUR, gpus=variant.gpus or None)
    except GreenMLError as error:
        usd = None if file.price_per_hour is None else file.price_per_hour * seconds / SECONDS_PER_HOUR
        return Expected(seconds=seconds, cost_usd=usd, how=f"expected_minutes; energy not known: {error}")
    cost = made.cost_usd.get(tier(file))
    return Expected(
        seconds,
        made.facility_energy_joules.value,
        made.emissions_grams.value,
        cost.value if cost is not None else None,
        "expected_minutes on this machine size",
    )


def over_budget(study: Study, more: Mapping[str, float | None] | None = None) -> str:
    """Say which budget is used up; "" where none is.

    Args:
        study: with the records of what has run.
        more: by figure, what is used by cells that run now; None is not known.
    """
    return _beyond(study.plan.file, study.spent, {name: value or 0.0 for name, value in (more or {}).items()}, "used")


def not_held(study: Study, more: Mapping[str, float | None], recorded_before: int) -> str:
    """Say which budget cannot be held, because no run tells the figure that it limits; "" where each can.

    Args:
        study: with the records of what has run.
        more: by figure, what is used by cells that run now; None where none of them tells it, and should by now.
        recorded_before: records that were there when the study was started last: of other settings, perhaps.
    """
    used = study.spent
    for budget in _budgets(study.plan.file):
        lacking = used.recorded > recorded_before or (budget.figure in more and more[budget.figure] is None)
        if lacking and not used.known.get(budget.spent) and more.get(budget.figure) is None:
            what = budget.spent.partition(",")[0]
            return f"{budget.name} {budget.limit:g} cannot be held: the {what} of no run is known; {budget.cure}"
    return ""


def lower_bounds(study: Study) -> Iterator[str]:
    """Yield a line for each budget that counts less than was used, because some attempt does not tell its figure."""
    used = study.spent
    for budget in _budgets(study.plan.file):
        if number := used.missing(budget.spent) - used.running:
            what = budget.spent.partition(",")[0]
            yield f"{budget.name} counts too little: the {what} of {number} runs is not wholly known"


def would_not_fit(study: Study, next_cell: Expected, more: Mapping[str, float]) -> str:
    """Say which budget a further cell is expected to break; "" where none is, or nothing is known of the cell.

    Args:
        study: with the records of what has run.
        next_cell: what it is expected to use.
        more: by figure, what cells that run now are expected to use in all.
    """
    return _beyond(study.plan.file, study.spent, _with(next_cell, more), "expected with the next cell")


def _with(next_cell: Expected, more: Mapping[str, float]) -> dict[str, float]:
    return {name: more.get(name, 0.0) + (getattr(next_cell, name) or 0.0) for name in FIGURES}


def _beyond(file: StudyFile, used: Spent, more: Mapping[str, float], verb: str) -> str:
    spent_so_far = {
        "cost_usd": used.cost_usd.get(tier(file), 0.0),
        "facility_energy_joules": used.facility_energy_joules,
        "emissions_grams": used.emissions_grams,
    }
    for budget in _budgets(file):
        amount = (spent_so_far[budget.figure] + more.get(budget.figure, 0.0)) / budget.scale
        if amount >= budget.limit:
            return f"{budget.name} {budget.limit:g}: {amount:.4g} {budget.unit} {verb}"
    return ""


def is_guess(study: Study, expected: Mapping[str, Expected]) -> bool:
    """Tell whether a budget's figure is not known of a cell that is still to run."""
    rest = [expected[cell.variant.name] for cell in study.cells if cell.state in TO_RUN]
    return any(getattr(needs, budget.figure) is None for needs in rest for budget in _budgets(study.plan.file))


def allowed(study: Study, expected: Mapping[str, Expected]) -> int:
    """Return how many of the cells that are still to run the budget allows, in their order."""
    file, used, more = study.plan.file, study.spent, dict.fromkeys(FIGURES, 0.0)
    count = 0
    for cell in study.cells:
        if cell.state not in TO_RUN:
            continue
        wanted = _with(expected[cell.variant.name], more)
        if _beyond(file, used, more, "") or _beyond(file, used, wanted, ""):
            break
        count, more = count + 1, wanted
    return count
