"""What is assumed of a run: looks each factor up, says how it was found, and makes the totals.

The same for a run that was just measured, one that was imported, and one that is accounted again elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from typing import Any

from greenml import course_mean, footprint, scopes, tables
from greenml.errors import FactorError, SettingsError
from greenml.factors import cloud_prices, embodied, facility, fixed, grid_average, places, skus
from greenml.facts import Place, Price, Sku, Source
from greenml.record import (
    DeviceRecord,
    Factor,
    Factors,
    Note,
    PlaceRecord,
    RunRecord,
    SourceRef,
)
from greenml.settings import MOST_NODES, Settings

NOTE_CODES = ("factor", "price-missing", "tier-missing", "nodes-differ", *course_mean.NOTE_CODES)
BESIDE = ("market_intensity", "lifetime_years")  # change no figure that was there; they add one beside it


def check(settings: Settings) -> Settings:
    """Check what the settings mean.

    Returns:
        The settings, with names as the tables have them.

    Raises:
        SettingsError: a SKU, region or tier does not exist, or a figure is out of range; says what would be right.
    """
    sku = skus.find(settings.sku) if settings.sku else None
    if settings.region not in ("", "auto"):
        places.find(settings.region, sku.cloud if sku else "")
    if settings.carbon_intensity is not None:
        fixed.carbon_intensity(settings.carbon_intensity)
    if settings.intensity:
        from greenml.factors import courses

        settings = replace(settings, intensity=courses.check(settings.intensity))
        if settings.carbon_intensity is not None:
            raise SettingsError("carbon_intensity and intensity are both given; give the figure or the provider")
    if settings.price_per_hour is not None:
        fixed.price(settings.price_per_hour)
    if settings.pue is not None:
        fixed.pue(settings.pue)
    if settings.market_intensity is not None:
        fixed.carbon_intensity(settings.market_intensity)
    if settings.lifetime_years is not None:
        embodied.lifetime(settings.lifetime_years)
    if settings.nodes is not None and not 1 <= settings.nodes <= MOST_NODES:
        raise SettingsError(f"nodes is {settings.nodes}; it must be 1 to {MOST_NODES}")
    tier = cloud_prices.tier_name(settings.tier) if settings.tier else None
    return replace(settings, sku=skus.unambiguous(sku) if sku else "", tier=tier)


def account(record: RunRecord, settings: Settings, found: Mapping[str, Any] | None = None) -> RunRecord:
    """Return the record with its place, factors and totals; what was measured stays as it is.

    Args:
        record: of a run, measured or imported.
        settings: what the user said of it.
        found: what the machine said of itself: cloud, region, sku, tier, each with ``from``.

    Raises:
        SettingsError: a setting names something that does not exist.
    """
    sku, place, known_from = _where(record.place, settings, found or {})
    when = _middle(record)
    nodes = settings.nodes or machines(record)
    notes = [note for note in record.notes if note.code not in NOTE_CODES]
    factors, more = _factors(settings, sku, place, _start(record), record.ended or when)
    factors, hours = _over_time(factors, record, settings)
    factors = factors.model_copy(update=footprint.factors(record, settings, sku, place, nodes, when))
    return record.model_copy(
        update={
            "place": PlaceRecord(
                **asdict(place),
                sku=skus.unambiguous(sku) if sku else "",
                sku_label=sku.label if sku else "",
                tier=settings.tier or (found or {}).get("tier"),
                nodes=nodes,
                known_from=known_from,
            ),
            "devices": _counted(record, sku, nodes),
            "factors": factors,
            "totals": (made := scopes.totals(record, factors, nodes)),
            "derived": scopes.derived(made, record.trainer),
            "sci": scopes.sci(made, record.trainer),
            "notes": notes + more + hours + _uneven(record, known_from),
        }
    )


def again(record: RunRecord, **changes: Any) -> RunRecord:  # noqa: ANN401  settings of several types
    """Account a record again with other assumptions, without measuring again.

    Args:
        record: that was accounted before.
        changes: settings to change: sku, region, tier, nodes, carbon_intensity, price_per_hour, pue, market_intensity,
            lifetime_years. What the user had given before stays, unless it belongs to a place or SKU that changes.
            A course of the carbon intensity stays too, or goes with its place.

    Raises:
        SettingsError: a change names something that does not exist.
    """
    place, factors = record.place, record.factors
    changes = {name: value for name, value in changes.items() if value is not None}
    told = place_of(record)
    kept: dict[str, Any] = {"sku": place.sku, "region": places.code(told), "tier": place.tier, "nodes": place.nodes}
    if "region" not in changes:
        kept["carbon_intensity"] = _given(factors.carbon_intensity)
        kept["pue"] = _given(factors.pue)
        kept["market_intensity"] = _given(factors.market_intensity)
    kept["lifetime_years"] = footprint.given_years(factors)
    if changes.keys() & {"region", "carbon_intensity"}:
        record = record.model_copy(update={"factors": factors.model_copy(update={"intensity_course": None})})
    elif factors.intensity_course is not None:
        kept.pop("carbon_intensity")
    if not changes.keys() & {"sku", "region", "tier"}:
        kept["price_per_hour"] = next((_given(price) for price in factors.prices.values()), None)
    known_from = {**place.known_from, **dict.fromkeys(changes, "what-if")}
    settings = check(Settings(**{**kept, **changes}, known_from=known_from))
    changes = {name: value for name, value in changes.items() if name not in BESIDE}
    names = ", ".join(f"{name} {value}" for name, value in changes.items())
    made = account(record, settings)
    note = Note(code="what-if", text=f"what-if: accounted again with {names}; energy and time are those measured")
    return made.model_copy(update={"notes": [note, *made.notes]}) if changes else made


def _counted(record: RunRecord, sku: Sku | None, nodes: int) -> list[DeviceRecord]:
    """Say how many GPUs another tool's figures are of: as many as the machines have."""
    count = round((sku.gpu_count or 0.0 if sku else 0.0) * nodes)
    return [
        device.model_copy(update={"count": count}) if count and device.kind == "gpu" and device.method == "reported"
        else device for device in record.devices
    ]  # fmt: skip


def machines(record: RunRecord) -> int:
    """Return how many machines a record's run had at a time: an attempt on another host than the one before is one."""
    each = [len(one.hosts) for one in record.attempts if one.hosts]
    return max(each, default=0) or max(1, len(record.hosts))


def _uneven(record: RunRecord, known_from: Mapping[str, str]) -> list[Note]:
    each = {len(one.hosts) for one in record.attempts if one.hosts}
    if len(each) < 2 or "nodes" in known_from:
        return []
    text = f"attempts ran on {min(each)} to {max(each)} machines; the cost has {max(each)} for all of the time"
    return [Note(code="nodes-differ", text=text)]


def place_of(record: RunRecord) -> Place:
    """Return where a record says that it ran."""
    return Place(**{field.name: getattr(record.place, field.name) for field in fields(Place)})


def place_now(settings: Settings, found: Mapping[str, Any]) -> Place:
    """Return where a run that goes on is, by its settings and what the machine says."""
    return _where(PlaceRecord(), settings, found)[1]


def _given(factor: Factor | None) -> float | None:
    return factor.value if factor is not None and factor.scope == "given" else None


def outlook(settings: Settings, found: Mapping[str, Any] | None = None) -> Factors:
    """Return the factors that a run going on now will be accounted with."""
    sku, place, _ = _where(PlaceRecord(), settings, found or {})
    now = datetime.now(timezone.utc)
    return _factors(settings, sku, place, now, now)[0]


def _start(record: RunRecord) -> datetime:
    return record.started.astimezone(timezone.utc)


def _middle(record: RunRecord) -> datetime:
    start = _start(record)
    return start + ((record.ended or start) - start) / 2


def _where(told: PlaceRecord, settings: Settings, found: Mapping[str, Any]) -> tuple[Sku | None, Place, dict[str, str]]:
    """Settle SKU and place: what the user said, else what the record or the machine says."""
    known_from = dict(told.known_from) | {
        name: value for name, value in settings.known_from.items() if name in ("sku", "region", "tier", "nodes")
    }

    def settle(name: str, given: str, recorded: str) -> str:
        if given:
            return given
        value = recorded or str(found.get(name, ""))
        if value:
            known_from[name] = told.known_from.get(name, "record") if recorded else str(found.get("from", ""))
        return value

    sku_name = settle("sku", settings.sku, told.sku)
    region = settle("region", settings.region if settings.region != "auto" else "", told.region)
    sku = _sku(sku_name, by_user=bool(settings.sku))
    cloud = told.cloud or found.get("cloud", "")
    if settings.sku and sku and not settings.region:
        cloud = sku.cloud
    place = _place(region, (sku.cloud if sku else "") or cloud, by_user=settings.region not in ("", "auto"))
    if not place.region and not place.country_iso3 and told.country_iso3:
        place = places.find(told.country_iso3)
        known_from["region"] = told.known_from.get("country_iso3", "record")
    if cloud and not place.cloud and not place.country_iso3:
        place = replace(place, cloud=cloud)  # no region, but a provider with a fleet average of its own
    return sku, place, known_from


def _sku(name: str, *, by_user: bool) -> Sku | None:
    try:
        return skus.find(name) if name else None
    except SettingsError:
        if by_user:
            raise
        return None  # a size that the machine itself names and the tables do not know


def _place(region: str, cloud: str, *, by_user: bool) -> Place:
    try:
        return places.find(region, cloud) if region else places.unknown()
    except SettingsError:
        if by_user:
            raise
        return places.unknown()


def _factors(
    settings: Settings, sku: Sku | None, place: Place, start: datetime, end: datetime
) -> tuple[Factors, list[Note]]:
    notes: list[Note] = []
    when = start + (end - start) / 2
    given = settings.carbon_intensity
    intensity = None
    try:
        intensity = (
            fixed.carbon_intensity(given) if given is not None else grid_average.carbon_intensity(place, start, end)
        )
    except FactorError as error:
        notes.append(Note(code="factor", text=str(error)))
    ratio = fixed.pue(settings.pue) if settings.pue is not None else facility.pue(place, when)
    prices: dict[str, Price] = {}
    if settings.price_per_hour is not None:
        tier = settings.tier or "dedicated"
        prices = {tier: fixed.price(settings.price_per_hour, tier, sku.name if sku else "", place.region)}
    elif sku:
        prices = cloud_prices.prices(sku, place, when)
        if not prices:
            notes.append(Note(code="price-missing", text=_reason(sku, place, when)))
        elif settings.tier and settings.tier not in prices:
            where = place.region or "this region"
            text = f"no {settings.tier} price of {sku.name} in {where}; there are {', '.join(prices)}"
            notes.append(Note(code="tier-missing", text=text))
    return (
        Factors(
            carbon_intensity=None if intensity is None else Factor(
                value=intensity.grams_per_kwh, low=intensity.low, high=intensity.high, unit="g CO2e/kWh",
                scope=intensity.scope, code=intensity.code, year=intensity.year, basis=intensity.basis,
                assumed=intensity.assumed, source=_source(intensity.source), note=intensity.note,
            ),
            pue=Factor(
                value=ratio.ratio, low=ratio.low, high=ratio.high, unit="1", scope=ratio.scope,
                code=_code(ratio.scope, place), year=ratio.year,
                assumed=ratio.scope == "none", source=_source(ratio.source), note=ratio.note,
            ),
            prices={tier: _price(one) for tier, one in sorted(prices.items())},
            tables_version=tables.version(),
        ),
        notes,
    )  # fmt: skip


def _over_time(factors: Factors, record: RunRecord, settings: Settings) -> tuple[Factors, list[Note]]:
    """Put the record's course of the carbon intensity in the place of the yearly figure, which fills its gaps."""
    course = record.factors.intensity_course
    if settings.carbon_intensity is not None or (course is None and not settings.intensity):
        return factors, []
    if course is None:
        who = settings.intensity
        text = f"{who} told no carbon intensity of this run's hours: all of it takes the yearly figure of the tables"
        text += f"; 'greenml report RUN.JSON --intensity {who}' asks again"
        return factors, [Note(code="intensity-missing", text=text)]
    made, mean, notes = course_mean.filled(course, factors.carbon_intensity)
    return factors.model_copy(update={"carbon_intensity": mean, "intensity_course": made}), notes


def _code(scope: str, place: Place) -> str:
    return {"region": f"{place.cloud}/{place.region}", "provider": place.cloud}.get(scope, "")


def _price(price: Price) -> Factor:
    return Factor(
        value=price.usd_per_hour,
        low=price.low,
        high=price.high,
        unit="USD/h",
        scope="given" if not price.as_of else "sku",
        code=" in ".join(part for part in (price.sku, price.region) if part),
        derived=price.derived,
        source=SourceRef(name=price.source.name, url=price.source.url, published=price.as_of or price.source.published),
        note=price.note,
    )


def _source(source: Source) -> SourceRef:
    return SourceRef(name=source.name, url=source.url, published=source.published)


def _reason(sku: Sku, place: Place, when: datetime) -> str:
    try:
        cloud_prices.price(sku, place, "dedicated", when)
    except FactorError as error:
        return str(error)
    return ""
