"""Cost and emissions of a run in other regions, tiers, machine sizes and start times, ranked; and its text."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from itertools import accumulate
from typing import Literal

from greenml import redaction
from greenml.accounting import assumptions, totals
from greenml.errors import FactorError, SettingsError
from greenml.factors import places, skus, tables
from greenml.factors import prices as cloud_prices
from greenml.factors.types import IntensitySeries, Place, Sku, Source
from greenml.record.schema import Factor, Factors, Quantity, RunRecord, SourceRef
from greenml.reports import _format
from greenml.reports._format import BLURRED_SECONDS
from greenml.units import JOULES_PER_KWH

Measure = Literal["carbon", "cost"]
OLD_DAYS = 366  # prices whose dates are further apart are not of one market


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run it.

    Attributes:
        name: what changes: a region, a tier, a machine size.
        region: where that is; empty where the seller names no region.
        sku: on what.
        tier: whose price is compared.
        factors: what was assumed there.
        energy_joules: IT energy, that of the run.
        emissions_grams, cost_usd: of the whole run; the cost is by tier.
        change_grams, change_usd: less the run's own, in ``tier``; None where either is not known.
        carbon_apart, cost_apart: whether the change exceeds the factors' uncertainty; None where not known.
        comparable: its carbon intensity has the basis of the run's.
        warnings: what a reader must know of this one.
        is_run: this is how it was run.
    """

    name: str
    region: str
    sku: str
    tier: str
    factors: Factors
    energy_joules: float | None
    emissions_grams: Quantity
    cost_usd: dict[str, Quantity]
    change_grams: float | None = None
    change_usd: float | None = None
    carbon_apart: bool | None = None
    cost_apart: bool | None = None
    comparable: bool = True
    warnings: tuple[str, ...] = ()
    is_run: bool = False

    @property
    def usd(self) -> float | None:
        """What it costs in its tier."""
        cost = self.cost_usd.get(self.tier)
        return cost.value if cost is not None else None

    def value(self, by: Measure) -> float | None:
        """Return what it is ranked by."""
        return self.emissions_grams.value if by == "carbon" else self.usd


def ranked(options: Sequence[Option], by: Measure) -> list[Option]:
    """Return the options from the least; those of which nothing is known come last.

    By carbon only those on the basis of the run are ranked: figures on two bases do not compare.
    """
    options = [option for option in options if by == "cost" or option.comparable or option.is_run]
    return sorted(options, key=lambda option: math.inf if (value := option.value(by)) is None else value)


def compared(option: Option, run: Option, warnings: Sequence[str] = ()) -> Option:
    """Return the option with its differences from the run, and warnings on their comparability.

    Args:
        option: not yet compared.
        run: as it was.
        warnings: what is known of the option already.
    """
    warned = list(warnings)
    here, there = run.factors.carbon_intensity, option.factors.carbon_intensity
    comparable = here is None or there is None or here.basis in {"", there.basis}
    if there is not None and there.scope == "world" and option.region:
        comparable = False
        warned.append("its grid has no figure on this basis; the world's mean is no figure of it")
    elif here is not None and there is not None and not comparable:
        warned.append(f"its intensity is {_basis(there)}, the run's {_basis(here)}: not directly comparable")
    if here is not None and here.scope == "series" and there is not None and there.scope != "series":
        warned.append("the run's intensity is that of its own hours, this one a yearly mean")
    if _given(here) and not _given(there):
        warned.append("the run's intensity was given, this one is the tables'")
    run_price, option_price = run.factors.prices.get(run.tier), option.factors.prices.get(option.tier)
    if _given(run_price) and not _given(option_price):
        warned.append("the run's price was given, this one is a list price")
    if run_price is not None and option_price is not None and days_apart(run_price, option_price) > OLD_DAYS:
        warned.append(f"price of {option_price.source.published}, the run's of {run_price.source.published}")
    grams = _difference(option.emissions_grams.value, run.emissions_grams.value) if comparable else None
    usd = _difference(option.usd, run.usd)
    return replace(
        option,
        change_grams=grams,
        change_usd=usd,
        carbon_apart=None if grams is None else abs(grams) > carbon_uncertainty(option, run),
        cost_apart=None if usd is None else abs(usd) > cost_uncertainty(option, run),
        comparable=comparable,
        warnings=tuple(warned),
    )


def _given(factor: Factor | None) -> bool:
    return factor is not None and factor.scope == "given"


def _basis(factor: Factor) -> str:
    return factor.basis or "of no known basis"


def _difference(value: float | None, run: float | None) -> float | None:
    return None if value is None or run is None else value - run


def days_apart(factor: Factor, other: Factor) -> int:
    """Return how far the dates of two prices are apart; 0 where one has none."""
    try:
        dates = [date.fromisoformat(price.source.published) for price in (factor, other)]
    except ValueError:  # given by the user: it has no date
        return 0
    return abs((dates[0] - dates[1]).days)


def carbon_uncertainty(option: Option, run: Option) -> float:
    """Return the uncertainty of the difference of emissions, grams.

    Each factor that differs may lie toward the other option by its interval; the terms are independent and add in
    quadrature. A carbon intensity of the same area and year is the same figure, and cancels. The PUE cancels in one
    region only: a provider's average stands for each of its regions with its own uncertainty.

    Source: propagation of independent errors (JCGM 100:2008, section 5.1), with intervals for standard uncertainties.
    """
    if run.energy_joules is None:
        return 0.0
    kwh = run.energy_joules / JOULES_PER_KWH
    lower, higher = sorted([option, run], key=lambda each: each.emissions_grams.value or 0.0)
    terms = [0.0]
    same_grid = _figure(option.factors.carbon_intensity) == _figure(run.factors.carbon_intensity)
    for candidate, up in ((lower, True), (higher, False)):
        intensity, pue = candidate.factors.carbon_intensity, candidate.factors.pue
        if intensity is None or pue is None:
            continue
        if not same_grid:
            terms.append(_side(intensity, up=up) * pue.value * kwh)
        if option.region != run.region:
            terms.append(_side(pue, up=up) * intensity.value * kwh)
    return math.hypot(*terms)


def _side(factor: Factor, *, up: bool) -> float:
    return factor.high - factor.value if up else factor.value - factor.low


def _figure(factor: Factor | None) -> tuple[object, ...]:
    return () if factor is None else (factor.value, factor.scope, factor.code, factor.year, factor.source.name)


def cost_uncertainty(option: Option, run: Option) -> float:
    """Return the uncertainty of the difference of costs, USD, from the intervals of both prices."""
    lower, higher = (candidate.cost_usd.get(candidate.tier) for candidate in ranked([option, run], "cost"))
    terms = [0.0]
    if lower is not None and lower.value is not None and lower.high is not None:
        terms.append(lower.high - lower.value)
    if higher is not None and higher.value is not None and higher.low is not None:
        terms.append(higher.value - higher.low)
    return math.hypot(*terms)


ENERGY_KINDS = ("gpu", "cpu", "dram")


@dataclass(frozen=True, slots=True)
class Start:
    """A time to start, and what the run would emit: the sum over the slots of its energy in each times its intensity.

    Attributes:
        start: UTC.
        emissions_grams: of the whole run, with the PUE.
        grams_per_kwh: the mean intensity, weighted with energy.
    """

    start: datetime
    emissions_grams: float
    grams_per_kwh: float


@dataclass(frozen=True, slots=True)
class Starts:
    """Every start time that an intensity series allows.

    Attributes:
        provider, signal, area, source, note: of the series.
        first, last: what it spans, UTC.
        rows: in time order: the beginning of each slot, as far as the run then lies inside of the series.
        run: as it was; None where the series does not cover the run's own time.
        assumes: how the energy lies in time, and what else is taken for granted.
    """

    provider: str
    signal: str
    area: str
    source: Source
    note: str
    first: datetime
    last: datetime
    rows: tuple[Start, ...]
    run: Start | None
    assumes: tuple[str, ...]

    @property
    def best(self) -> Start:
        """The start with the least emissions; of several the earliest."""
        return min(self.rows, key=lambda row: row.emissions_grams)

    @property
    def worst(self) -> Start:
        """The start with the most emissions; of several the earliest."""
        return max(self.rows, key=lambda row: row.emissions_grams)


@dataclass(frozen=True, slots=True)
class Profile:
    """Joules used up to each of some seconds since the start; between them the power is steady."""

    seconds: tuple[float, ...]
    joules: tuple[float, ...]

    def before(self, second: float) -> float:
        """Return what was used before a second of the run."""
        if second <= 0:
            return 0.0
        if second >= self.seconds[-1]:
            return self.joules[-1]
        at = bisect_right(self.seconds, second) - 1
        width = self.seconds[at + 1] - self.seconds[at]
        return self.joules[at] + (self.joules[at + 1] - self.joules[at]) * (second - self.seconds[at]) / width


def profile(record: RunRecord) -> tuple[Profile, str]:
    """Return the distribution of a run's IT energy over time, and how it is known.

    The shape is that of the timeline's power, the sum is the record's IT energy. A device without a timeline, as in
    an imported record, counts evenly over the run.

    Raises:
        FactorError: the energy of the run, or its length, is not known.
    """
    total = record.total()
    whole = total.it_energy_joules.value if total is not None else None
    if whole is None or record.duration_seconds <= 0:
        raise FactorError("the run's energy is not known, so no start can be better than another")
    line = record.timeline
    drawn: list[float] = []
    seconds = [0.0, record.duration_seconds]
    if line is not None:
        edges = [min(at * line.step_seconds, record.duration_seconds) for at in range(line.bins + 1)]
        kinds = {device.id: device.kind for device in record.devices}
        watts = [
            device_series.power_watts
            for device_series in line.series
            if kinds.get(device_series.device) in ENERGY_KINDS and device_series.power_watts
        ]
        drawn = [sum(series[at] or 0.0 for series in watts) * (edges[at + 1] - edges[at]) for at in range(line.bins)]
        seconds = edges
    if sum(drawn) <= 0:
        return Profile((0.0, record.duration_seconds), (0.0, whole)), "its energy is taken as even over its time"
    joules = [step_joules * whole / sum(drawn) for step_joules in drawn]
    how = f"its energy lies in time as measured, in steps of {line.step_seconds:g} s" if line is not None else ""
    return Profile(tuple(seconds), tuple(accumulate(joules, initial=0.0))), how


def emitted(series: IntensitySeries, used: Profile, start: datetime, pue: float) -> Start | None:
    """Return the emissions of a run from a start time; None where the series does not cover all of it.

    The sum over the slots of (joules in the slot) x (its grams a kWh) x PUE: exact for a series of steady slots.
    """
    length = used.seconds[-1]
    grams = covered = 0.0
    for slot in series.slots:
        begin, end = (slot.start - start).total_seconds(), (slot.end - start).total_seconds()
        begin, end = max(0.0, begin), min(length, end)
        if end > begin:
            covered += end - begin
            grams += (used.before(end) - used.before(begin)) / JOULES_PER_KWH * slot.grams_per_kwh
    if covered < length - 1e-3:
        return None
    kwh = used.joules[-1] / JOULES_PER_KWH
    return Start(start, grams * pue, grams / kwh if kwh else 0.0)


def start_times(record: RunRecord, series: IntensitySeries) -> Starts:
    """Account a run at each start time that an intensity series allows.

    Args:
        record: accounted; its PUE is used.
        series: the carbon intensity of the place over time.

    Raises:
        FactorError: the series is shorter than the run, or the run's energy is not known.
    """
    used, how = profile(record)
    pue = record.factors.pue.value if record.factors.pue is not None else 1.0
    if not series.slots:
        raise FactorError(f"{series.provider} has no carbon intensity for that time")
    rows = [row for slot in series.slots if (row := emitted(series, used, slot.start, pue)) is not None]
    if not rows:
        span = (series.slots[-1].end - series.slots[0].start).total_seconds() / 3600
        hours = record.duration_seconds / 3600
        raise FactorError(
            f"{series.provider}'s intensity spans {span:.2f} h with its gaps, the run took {hours:.2f} h: no start "
            f"lies wholly in it; give a longer one"
        )
    assumes = [how, "the PUE is the same at each start"]
    if len(record.attempts) > 1:
        assumes.append(f"its {len(record.attempts)} attempts follow each other without a pause")
    run_profile = used
    if record.ended is not None and not record.attempts:
        window = (record.ended - record.started).total_seconds()
        if window - record.duration_seconds > BLURRED_SECONDS:
            run_profile = Profile((0.0, window), (0.0, used.joules[-1]))
            assumes.append(
                f"when in its {window:.0f} s the run was is not known; as it was, its energy is taken as even over them"
            )
    if series.signal == "marginal":
        assumes.append("the intensity is marginal: what one more kWh causes; not to be compared with averages")
    return Starts(
        provider=series.provider,
        signal=series.signal,
        area=series.area,
        source=series.source,
        note=series.note,
        first=series.slots[0].start,
        last=series.slots[-1].end,
        rows=tuple(rows),
        run=emitted(series, run_profile, record.started.astimezone(timezone.utc), pue),
        assumes=tuple(assumes),
    )


def span(record: RunRecord, hours: float) -> tuple[datetime, datetime]:
    """Return the time to ask a provider for: so many hours before the run to as many after it, UTC."""
    start = record.started.astimezone(timezone.utc)
    aside = timedelta(hours=hours)
    return start - aside, start + timedelta(seconds=record.duration_seconds) + aside


def shown(starts: Starts, most: int) -> Sequence[Start]:
    """Return the best starts, from the least emissions."""
    return sorted(starts.rows, key=lambda row: row.emissions_grams)[:most]


SAME_GPUS = "another machine around the same GPUs"
UNKNOWN_FORM = "another machine, whose GPUs may have another form (PCIe, SXM)"
GPU_ALONE = "gpu:"  # Google's price of a card, to which a machine's is added: no size
SECTIONS = ("regions", "tiers", "skus")
CODECARBON_1X = "The run was accounted with the {:g} g/kWh of CodeCarbon 1.x; here it is ranked by its grid's figure"
MARGINAL = "The run was accounted with a marginal intensity; here it is ranked by the yearly average of its place"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A run and its alternatives.

    Attributes:
        name, seconds, energy_joules: of the run; the IT energy with how it is known.
        run: as it was.
        regions, tiers, skus: what else there is, each with the run itself among them; not in order.
        starts: other start times, where an intensity series was given.
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
        slim = slim.model_copy(update={"factors": slim.factors.model_copy(update={"intensity_series": None})})
        left.append(MARGINAL)
    if (intensity := record.factors.carbon_intensity) is not None and intensity.basis == "mixed":
        left.append(CODECARBON_1X.format(intensity.value))
    base = _option(slim, assumptions.reaccount(slim), name=_region(record) or "where it ran", is_run=True)
    total = slim.total()
    energy = total.it_energy_joules if total else totals.unknown("the record has no totals")
    options_by_section: dict[str, tuple[Option, ...]] = dict.fromkeys(SECTIONS, ())
    silent: dict[str, str] = {}
    for section, look in (("regions", _regions), ("tiers", _tiers), ("skus", _skus)):
        if section in sections:
            options, why = look(slim, base, every=every)
            options_by_section[section] = tuple(options)
            if why and options:
                left.append(why)
            elif why:
                silent[section] = why
    return WhatIf(
        name=record.name or record.run_id,
        seconds=record.duration_seconds,
        energy_joules=energy,
        run=base,
        regions=options_by_section["regions"],
        tiers=options_by_section["tiers"],
        skus=options_by_section["skus"],
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
        emissions_grams=total.emissions_grams if total else totals.unknown("the record has no totals"),
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
        made = assumptions.reaccount(run, region=places.code(there))
        if place.sku and not made.factors.prices and not every:
            without += 1
        else:
            options.append(compared(_option(run, made, places.code(there)), base))
    why = f"{without} regions of {place.cloud} have no price of {place.sku} in the tables; --all ranks them too"
    return options, why if without else ""


def _cloud_regions(cloud: str) -> list[Place]:
    return [place for place in places.search(f"{cloud}/") if place.region and place.cloud == cloud]


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
            option = _option(run, assumptions.reaccount(run, tier=tier), tier, tier=tier)
            options.append(compared(option, base, warned))
    return options, ""


def _skus(run: RunRecord, base: Option, *, every: bool) -> tuple[list[Option], str]:
    """Account the run on each size with as many GPUs of the same model and memory, in each size's cheapest region.

    In the run's own region where that has a price of the size; else in the region where its price is the least. A card
    of another form (PCIe, SXM) takes another time and energy, and is another GPU.
    """
    if not run.place.sku:
        return [], "the record names no machine size; '--sku ND40rs_v2' says on what it ran"
    run_sku = skus.find(run.place.sku)
    if not run_sku.gpu_model or not run_sku.gpu_count:
        return [], f"{run_sku.name} has no GPU whose model and number are known"
    same = [
        sku
        for sku in skus.search(run_sku.gpu_model)
        if (sku.gpu_model, sku.gpu_count) == (run_sku.gpu_model, run_sku.gpu_count)
        and (
            sku.gpu_nvml_name == run_sku.gpu_nvml_name
            if _forms(sku, run_sku)
            else sku.gpu_memory_gb == run_sku.gpu_memory_gb
        )
        and not sku.name.startswith(GPU_ALONE)
    ]
    options, unpriced = [], []
    for sku in same:
        if (sku.cloud, sku.name) == (run_sku.cloud, run_sku.name):
            options.append(replace(base, name=f"{sku.cloud}/{sku.name}"))
        elif (option := _on(run, base, sku, SAME_GPUS if _forms(sku, run_sku) else UNKNOWN_FORM)) is not None:
            options.append(option)
        else:
            unpriced.append(f"{sku.cloud}/{sku.name}")
    if len(options) < 2:
        what = f"{run_sku.gpu_count:g} X {run_sku.gpu_model} of {run_sku.gpu_memory_gb or 0:g} GB"
        return [], f"the tables have a price of no other size with {what}"
    return options, f"no price of {', '.join(unpriced)} in the tables" if unpriced else ""


def _forms(sku: Sku, other: Sku) -> bool:
    """Tell whether it is known of two sizes which form their GPUs have."""
    return bool(sku.gpu_nvml_name and other.gpu_nvml_name)


def _on(run: RunRecord, base: Option, sku: Sku, warned: str) -> Option | None:
    when = run.started.astimezone(timezone.utc)
    priced = _priced_regions(sku)
    name = f"{sku.cloud}/{sku.name}"
    if not priced:
        return None
    if cloud_prices.EVERYWHERE in priced:
        return _nowhere(run, base, sku, when, warned)
    home_region = run.place.region if sku.cloud == run.place.cloud else ""
    options = [
        compared(_option(run, made, name), base, (warned,))
        for region in ([home_region] if home_region in priced else priced)
        if (made := _try(run, sku=name, region=f"{sku.cloud}/{region}")) is not None
    ]
    options = [option for option in options if option.usd is not None] or options
    return ranked(options, "cost")[0] if options else None


def _try(run: RunRecord, **changes: str) -> RunRecord | None:
    try:
        return assumptions.reaccount(run, **changes)
    except SettingsError:  # a price list names regions that the table of regions does not
        return None


def _priced_regions(sku: Sku) -> list[str]:
    return list(dict.fromkeys(row["region"] for row in tables.lookup("prices", sku.cloud, sku.name)))


def _nowhere(run: RunRecord, base: Option, sku: Sku, when: datetime, warned: str) -> Option:
    """Price the run at a seller with one price and no regions: where it would run, and emit, is not known."""
    place = Place(cloud=sku.cloud)
    name = f"{sku.cloud}/{sku.name}"
    prices = {
        tier: Factor(
            value=price.usd_per_hour, low=price.low, high=price.high, unit="USD/h", scope="sku", code=name,
            source=SourceRef(name=price.source.name, url=price.source.url, published=price.as_of), note=price.note,
        )
        for tier, price in cloud_prices.prices(sku, place, when).items()
    }  # fmt: skip
    option = Option(
        name=name,
        region="",
        sku=sku.name,
        tier=base.tier,
        factors=Factors(prices=prices),
        energy_joules=base.energy_joules,
        emissions_grams=totals.unknown(f"{sku.cloud} names no region", "assumed"),
        cost_usd=totals.cost(run.duration_seconds, run.place.nodes, prices),
    )
    return compared(option, base, (warned,))


def with_starts(alternatives: WhatIf, record: RunRecord, series: IntensitySeries) -> WhatIf:
    """Return the alternatives with the start times that an intensity series allows.

    Raises:
        FactorError: the series is shorter than the run, or the run's energy is not known.
    """
    return replace(alternatives, starts=start_times(record, series))


_Table = tuple[tuple[str, ...], frozenset[int], Sequence[tuple[str, ...]]]  # head, columns of figures, rows
SPARE = ("basis", "PUE", "g/kWh")  # columns that a narrow terminal does without, in this order
TITLES = {"regions": "Regions", "tiers": "Tiers", "skus": "Machine sizes with the same GPUs"}


def render(
    alternatives: WhatIf, by: Measure | None = None, top: int = 10, width: int = 100, table_width: int | None = None
) -> str:
    """Render the sections, each ranked from the best, including the run itself.

    Args:
        alternatives: what to print.
        by: rank by this alone; by None regions are ranked twice.
        top: rows of a table at the most; the run's own comes besides.
        width: columns of the sentences.
        table_width: columns of the tables, which do without some where it is narrow; None: what they need.
    """
    marks = _Marks()
    sources = _format.Sources()
    lines = _headline(alternatives, width)
    measures: tuple[Measure, ...] = (by,) if by else ("carbon", "cost")
    known = [
        measure for measure in measures if any(option.value(measure) is not None for option in alternatives.regions)
    ]
    for measure in known or measures[:1]:  # no ranking by what is known of none
        lines += _section(alternatives, "regions", measure, top, marks, sources, table_width)
    lines += _section(alternatives, "tiers", "cost", top, marks, sources, table_width)
    lines += _section(alternatives, "skus", by or "cost", top, marks, sources, table_width)
    if alternatives.starts is not None:
        lines += _starts(alternatives.starts, top)
    for section, why in alternatives.silent.items():
        lines += ["", *_format.wrapped(f"{TITLES[section]}: none ranked: {why}.", width)]
    if alternatives.regions or alternatives.tiers or alternatives.skus:
        legend = ["> the run as it was", *marks.lines()]
        lines += ["", *(line for text in legend for line in _format.wrapped(text, width, by=1))]
    lines += ["", "Assumed", *_format.points(_assumed(alternatives), width)]
    if alternatives.starts is not None:
        sources.number(_source(alternatives.starts))
    if numbered := sources.lines(width):
        lines += ["", "Sources", *numbered]
    return redaction.printable_lines("\n".join(lines) + "\n")


class _Marks:
    """Warnings by letter, each explained once."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def of(self, option: Option, measure: Measure) -> str:
        apart = option.carbon_apart if measure == "carbon" else option.cost_apart
        texts = ["not told apart: the factors' uncertainty is no smaller than the difference"] if apart is False else []
        texts += option.warnings
        return " ".join(self._letters.setdefault(text, chr(ord("a") + len(self._letters))) for text in texts)

    def lines(self) -> list[str]:
        return [f"{letter} {text}" for text, letter in self._letters.items()]


def _headline(alternatives: WhatIf, width: int) -> list[str]:
    run = alternatives.run
    where = f"{f' on {run.sku}' if run.sku else ''}{f' in {run.region}' if run.region else ''}"
    title = f"What if: {redaction.printable_line(alternatives.name)}, {_format.duration(alternatives.seconds)}{where}"
    costs = ", ".join(
        f"{_format.figure(cost, _format.money)} {_format.tier(tier)}" for tier, cost in run.cost_usd.items()
    )
    emitted = _format.figure(run.emissions_grams, _format.mass)
    interval = _format.interval_of(run.emissions_grams, _format.mass)
    of_hours = " (with the record's own intensity)" if alternatives.starts is not None else ""
    carbon = f"{emitted}{f' ({interval})' if interval else ''}"
    was = f"The whole run as it was{of_hours}: {carbon}; {costs or 'its price is not known'}."
    return [title, *_format.wrapped(was, width)]


def _section(  # noqa: PLR0917  what is printed, and what it adds to
    alternatives: WhatIf,
    section: str,
    by: Measure,
    top: int,
    marks: _Marks,
    sources: _format.Sources,
    width: int | None,
) -> list[str]:
    options: Sequence[Option] = getattr(alternatives, section)
    if not options:
        return []
    order = ranked(options, by)
    kept = [(at, option) for at, option in enumerate(order, 1) if at <= top or option.is_run]
    intensity = alternatives.run.factors.carbon_intensity
    basis = f" on the {intensity.basis} basis" if by == "carbon" and intensity is not None and intensity.basis else ""
    title = f"{TITLES[section]}, by {by}{basis}"
    if len(order) > len(kept):
        title += f" ({len(kept)} of {len(order)})"
    make = _tier_rows if section == "tiers" else _place_rows
    head, right, rows = make([option for _, option in kept], alternatives.run, by, marks, sources)
    numbered = [
        (f"{'>' if option.is_run else ''} {at}".strip(), *row) for (at, option), row in zip(kept, rows, strict=True)
    ]
    figures = frozenset({0, *(column + 1 for column in right)})
    lines = ["", title, *_format.indented(_fitting(("", *head), figures, numbered, width))]
    if apart := [option for option in options if by == "carbon" and not option.comparable and not option.is_run]:
        lines.append(f" Not ranked, with a figure on another basis or none: {', '.join(map(_apart, apart))}.")
    return lines


def _apart(option: Option) -> str:
    intensity = option.factors.carbon_intensity
    intensity_words = (
        "" if intensity is None else f" ({_format.number(intensity.value, 4)} g/kWh, {intensity.basis or 'not known'})"
    )
    return f"{option.name}{intensity_words}"


def _fitting(
    head: tuple[str, ...], right: frozenset[int], rows: Sequence[tuple[str, ...]], width: int | None
) -> list[str]:
    """Lay a table out without the columns that it has no room for; says which."""
    lines, without = _format.table(head, rows, right), []
    for spare in SPARE:
        if width is None or max(map(len, lines)) < width or spare not in head:
            break
        without.append(spare)
        kept = [at for at, name in enumerate(head) if name != spare]
        right = frozenset(new for new, at in enumerate(kept) if at in right)
        head, rows = tuple(head[at] for at in kept), [tuple(row[at] for at in kept) for row in rows]
        lines = _format.table(head, rows, right)
    return [*lines, f"(a wider terminal, a file and --json have {', '.join(without)} too)"] if without else lines


def _place_rows(options: Sequence[Option], run: Option, by: Measure, marks: _Marks, sources: _format.Sources) -> _Table:
    sized = any(option.name != option.region and not option.is_run for option in options)
    rows = [
        (
            option.name,
            *((option.region.rpartition("/")[2] or "-",) if sized else ()),
            _format.figure(option.emissions_grams, _format.mass, reason=False).removesuffix(" CO2e"),
            _format.change(option.change_grams, run.emissions_grams.value),
            *_intensity(option.factors.carbon_intensity),
            _format.number(option.factors.pue.value, 4) if option.factors.pue else "-",
            _format.optional(option.usd, _format.money, "-"),
            _format.change(option.change_usd, run.usd),
            ",".join(_numbers(option, sources)),
            marks.of(option, by),
        )
        for option in options
    ]
    place = ("size", "region") if sized else ("region",)
    cost = f"{_format.tier(run.tier)}"
    head = (*place, "CO2e", "change", "g/kWh", "basis", "PUE", cost, "change", "source", "see")
    first = len(place)
    right = frozenset({first, first + 1, first + 2, first + 4, first + 5, first + 6})
    return head, right, rows


def _intensity(factor: Factor | None) -> tuple[str, str]:
    if factor is None:
        return "-", "-"
    year = f" {factor.year}" if factor.year else ""
    return _format.number(factor.value, 4), f"{factor.basis or factor.scope}{year}"


def _numbers(option: Option, sources: _format.Sources) -> list[str]:
    used = [option.factors.carbon_intensity, option.factors.pue, option.factors.prices.get(option.tier)]
    return list(dict.fromkeys(sources.number(_format.source(usage.source)) for usage in used if usage is not None))


def _tier_rows(options: Sequence[Option], run: Option, by: Measure, marks: _Marks, sources: _format.Sources) -> _Table:
    rows = []
    for option in options:
        price = option.factors.prices[option.tier]
        rows.append(
            (
                _format.tier(option.name),
                _format.optional(option.usd, _format.money, "-"),
                "-" if option.change_usd is None else _format.money_change(option.change_usd),
                _format.change(option.change_usd, run.usd),
                f"${_format.number(price.value)}/h",
                price.source.published or "given",
                sources.number(_format.source(price.source)),
                marks.of(option, by),
            )
        )
    head = ("tier", "cost", "change", "", "a node", "price of", "source", "see")
    return head, frozenset({1, 2, 3, 4}), rows


def _starts(starts: Starts, top: int) -> list[str]:
    """Render the best and the worst start times, and the run's own."""
    reference = starts.run or starts.worst
    title = f"Start times by {starts.provider}'s intensity of {starts.area or 'the place'}, {starts.signal}"
    count = f"{len(starts.rows)} starts from {_format.minute(starts.first)} on"

    def row(name: str, start: Start) -> tuple[str, ...]:
        difference = start.emissions_grams - reference.emissions_grams
        return (
            name,
            _format.minute(start.start),
            _format.mass(start.emissions_grams),
            "-" if start is reference else _format.change(difference, reference.emissions_grams),
            f"{_format.number(start.grams_per_kwh, 4)}",
        )

    best = [row("best" if at == 0 else str(at + 1), start) for at, start in enumerate(shown(starts, top))]
    rows = [*best, row("worst", starts.worst)]
    if starts.run is not None:
        rows.append(row("the run", starts.run))
    head = ("", "start", "emissions", "to the run" if starts.run else "to the worst", "g/kWh, by energy")
    lines = ["", f"{title} ({count})", *_format.indented(_format.table(head, rows, frozenset({2, 3, 4})))]
    if starts.run is None:
        lines.append(" The series does not cover the time of the run itself.")
    return lines


def _source(starts: Starts) -> str:
    name = starts.source.name or starts.provider
    return f"{name}, {starts.source.published}" if starts.source.published else name


def _assumed(alternatives: WhatIf) -> list[str]:
    joules = alternatives.energy_joules
    energy = _format.figure(joules, _format.energy)
    known = f", {joules.basis}" if joules.value is not None else ""
    parts = f"; {joules.why}" if joules.value is not None and joules.why else ""
    texts = [
        f"The same work takes the same energy ({energy} of IT energy{known}{parts}) and the same time everywhere. "
        "Nothing was run again."
    ]
    if alternatives.regions or alternatives.skus:
        texts.append(
            "Yearly averages of each region's grid, location-based, times its PUE. A difference counts against the "
            "uncertainty of the factors that differ; the energy's own uncertainty cancels."
        )
        texts.append(
            "Whether you may run there (quota, data residency, a government region's terms) is yours to know, as is "
            "what moving the data costs."
        )
    if alternatives.tiers:
        texts.append(
            "Low priority and spot machines are taken away at times; what is done again then, and the checkpoints, are "
            "not in these costs ('greenml advise' reckons with them)."
        )
    if alternatives.skus:
        texts.append(
            "Sizes have the same number of GPUs of the same model and memory; their CPUs, links and disks differ. Each "
            "is in the run's region if it has a price there, else where its price is the least."
        )
    if alternatives.starts is not None:
        texts += [f"{text[0].upper()}{text[1:]}." for text in alternatives.starts.assumes]
    return texts + [f"{text}." for text in alternatives.left_out]
