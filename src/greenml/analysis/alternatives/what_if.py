"""What a run would have emitted and cost elsewhere: other regions, tiers and machine sizes with the same GPUs.

The energy and the time are those of the record; only the factors change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from greenml import accounting, assumptions, tables
from greenml.analysis.alternatives import start_times
from greenml.analysis.alternatives._option import Option, compared, ranked
from greenml.analysis.alternatives.start_times import Starts
from greenml.errors import SettingsError
from greenml.factors import cloud_prices, places, skus
from greenml.facts import IntensityCourse, Place, Sku
from greenml.record import Factor, Factors, Quantity, RunRecord, SourceRef

GPU_ALONE = "gpu:"  # Google's price of a card, to which a machine's is added: no size
SECTIONS = ("regions", "tiers", "skus")
MARGINAL = "The run was accounted with a marginal intensity; here it is ranked by the yearly average of its place"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A run and its alternatives.

    Attributes:
        name, seconds, energy_joules: of the run; the IT energy with how it is known.
        run: as it was.
        regions, tiers, skus: what else there is, each with the run itself among them; not in order.
        starts: other times to start, where a course of the intensity was given.
        silent: section to why there is nothing in it.
        left_out: what was not ranked, and why.
    """

    name: str
    seconds: float
    energy_joules: Quantity
    run: Option
    regions: tuple[Option, ...] = ()
    tiers: tuple[Option, ...] = ()
    skus: tuple[Option, ...] = ()
    starts: Starts | None = None
    silent: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def what_if(record: RunRecord, sections: Iterable[str] = SECTIONS, *, every: bool = False) -> WhatIf:
    """Account a run again in other regions and tiers, and on other machine sizes with the same GPUs.

    Args:
        record: accounted; the totals of its run are compared.
        sections: which to fill: regions, tiers, skus.
        every: also the regions in which the tables have no price of the run's machine size.
    """
    slim = _slim(record)
    left: list[str] = []
    if record.factors.marginal:  # no average may stand beside a marginal figure
        slim = slim.model_copy(update={"factors": slim.factors.model_copy(update={"intensity_course": None})})
        left.append(MARGINAL)
    base = _option(slim, assumptions.again(slim), name=_region(record) or "where it ran", is_run=True)
    total = slim.total()
    energy = total.it_energy_joules if total else accounting.unknown("the record has no totals")
    found: dict[str, tuple[Option, ...]] = dict.fromkeys(SECTIONS, ())
    silent: dict[str, str] = {}
    for section, look in (("regions", _regions), ("tiers", _tiers), ("skus", _skus)):
        if section in sections:
            options, why = look(slim, base, every=every)
            found[section] = tuple(options)
            if why and options:
                left.append(why)
            elif why:
                silent[section] = why
    return WhatIf(
        name=record.name or record.run_id,
        seconds=record.duration_seconds,
        energy_joules=energy,
        run=base,
        regions=found["regions"],
        tiers=found["tiers"],
        skus=found["skus"],
        silent=silent,
        left_out=tuple(left),
    )


def _slim(record: RunRecord) -> RunRecord:
    """Return what accounting the whole run again needs: no phases, no timeline."""
    return record.model_copy(
        update={"phases": [], "timeline": None, "notes": [], "trainer": {}, "params": {}, "metrics": {}, "reported": []}
    )


def _region(record: RunRecord) -> str:
    place = record.place
    return f"{place.cloud}/{place.region}" if place.region else place.country_name


def _tier(record: RunRecord) -> str:
    return record.place.tier or "dedicated"


def _option(run: RunRecord, made: RunRecord, name: str, *, is_run: bool = False, tier: str = "") -> Option:
    total = made.total()
    return Option(
        name=name,
        region=_region(made),
        sku=made.place.sku,
        tier=tier or _tier(run),
        factors=made.factors,
        energy_joules=total.it_energy_joules.value if total else None,
        emissions_grams=total.emissions_grams if total else accounting.unknown("the record has no totals"),
        cost_usd=total.cost_usd if total else {},
        is_run=is_run,
    )


def _regions(run: RunRecord, base: Option, *, every: bool) -> tuple[list[Option], str]:
    """Account the run in each region of its cloud that has a price of its machine size."""
    place = run.place
    if not place.cloud or not place.region:
        return [], "the record names no cloud region; '--region azure/westus2' says where it ran"
    options, without = [], 0
    for there in _cloud_regions(place.cloud):
        if there.region == place.region:
            options.append(base)
            continue
        made = assumptions.again(run, region=places.code(there))
        if place.sku and not made.factors.prices and not every:
            without += 1
        else:
            options.append(compared(_option(run, made, places.code(there)), base))
    why = f"{without} regions of {place.cloud} have no price of {place.sku} in the tables; --all ranks them too"
    return options, why if without else ""


def _cloud_regions(cloud: str) -> list[Place]:
    return [one for one in places.search(f"{cloud}/") if one.region and one.cloud == cloud]


def _tiers(run: RunRecord, base: Option, *, every: bool) -> tuple[list[Option], str]:
    """Compare what the tiers cost where it ran."""
    costs = base.cost_usd
    if len(costs) < 2 or base.tier not in costs:
        known = ", ".join(costs) or "none"
        return [], f"two prices are needed, that of the run's own tier ({base.tier}) among them; known: {known}"
    options = []
    for tier in costs:
        if tier == base.tier:
            options.append(replace(base, name=tier))
        else:
            warned = ("can be preempted",) if tier != "dedicated" else ()
            option = _option(run, assumptions.again(run, tier=tier), tier, tier=tier)
            options.append(compared(option, base, warned))
    return options, ""


def _skus(run: RunRecord, base: Option, *, every: bool) -> tuple[list[Option], str]:
    """Account the run on each size with as many GPUs of the same model and memory, in each size's cheapest region.

    In the run's own region where that has a price of the size; else in the region where its price is the least.
    """
    if not run.place.sku:
        return [], "the record names no machine size; '--sku ND40rs_v2' says on what it ran"
    own = skus.find(run.place.sku)
    if not own.gpu_model or not own.gpu_count:
        return [], f"{own.name} has no GPU whose model and number are known"
    same = [
        one
        for one in skus.search(own.gpu_model)
        if (one.gpu_model, one.gpu_count, one.gpu_memory_gb) == (own.gpu_model, own.gpu_count, own.gpu_memory_gb)
        and not one.name.startswith(GPU_ALONE)
    ]
    options, unpriced = [], []
    for sku in same:
        if (sku.cloud, sku.name) == (own.cloud, own.name):
            options.append(replace(base, name=f"{sku.cloud}/{sku.name}"))
        elif (option := _on(run, base, sku)) is not None:
            options.append(option)
        else:
            unpriced.append(f"{sku.cloud}/{sku.name}")
    if len(options) < 2:
        what = f"{own.gpu_count:g} X {own.gpu_model} of {own.gpu_memory_gb or 0:g} GB"
        return [], f"the tables have a price of no other size with {what}"
    return options, f"no price of {', '.join(unpriced)} in the tables" if unpriced else ""


def _on(run: RunRecord, base: Option, sku: Sku) -> Option | None:
    when = run.started.astimezone(timezone.utc)
    priced = _priced_regions(sku)
    name = f"{sku.cloud}/{sku.name}"
    if not priced:
        return None
    if cloud_prices.EVERYWHERE in priced:
        return _nowhere(run, base, sku, when)
    own = run.place.region if sku.cloud == run.place.cloud else ""
    found = [
        compared(_option(run, made, name), base, ("another machine around the same GPUs",))
        for region in ([own] if own in priced else priced)
        if (made := _try(run, sku=name, region=f"{sku.cloud}/{region}")) is not None
    ]
    found = [one for one in found if one.usd is not None] or found
    return ranked(found, "cost")[0] if found else None


def _try(run: RunRecord, **changes: str) -> RunRecord | None:
    try:
        return assumptions.again(run, **changes)
    except SettingsError:  # a price list names regions that the table of regions does not
        return None


def _priced_regions(sku: Sku) -> list[str]:
    return list(dict.fromkeys(row["region"] for row in tables.lookup("prices", sku.cloud, sku.name)))


def _nowhere(run: RunRecord, base: Option, sku: Sku, when: datetime) -> Option:
    """Price the run at a seller with one price and no regions: where it would run, and emit, is not known."""
    place = Place(cloud=sku.cloud)
    name = f"{sku.cloud}/{sku.name}"
    prices = {
        tier: Factor(
            value=one.usd_per_hour, low=one.low, high=one.high, unit="USD/h", scope="sku", code=name,
            source=SourceRef(name=one.source.name, url=one.source.url, published=one.as_of), note=one.note,
        )
        for tier, one in cloud_prices.prices(sku, place, when).items()
    }  # fmt: skip
    option = Option(
        name=name,
        region="",
        sku=sku.name,
        tier=base.tier,
        factors=Factors(prices=prices),
        energy_joules=base.energy_joules,
        emissions_grams=accounting.unknown(f"{sku.cloud} names no region", "assumed"),
        cost_usd=accounting.cost(run.duration_seconds, run.place.nodes, prices),
    )
    return compared(option, base, ("another machine around the same GPUs",))


def with_starts(found: WhatIf, record: RunRecord, course: IntensityCourse) -> WhatIf:
    """Return the answer with the start times that a course of the intensity allows.

    Raises:
        FactorError: the course is shorter than the run, or the run's energy is not known.
    """
    return replace(found, starts=start_times.start_times(record, course))
