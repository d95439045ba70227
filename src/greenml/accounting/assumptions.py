"""Looks up each factor of a run (intensity, PUE, prices, water, embodied carbon), and computes the totals.

The same for a run that was just measured, one that was imported, and one that is accounted again elsewhere. Measured
hardware that is not what the named machine size has is noted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from typing import Any

from pydantic import ValidationError

from greenml.accounting import hourly, totals
from greenml.accounting.check import check
from greenml.errors import FactorError, RecordError, SettingsError
from greenml.factors import embodied, grid_average, places, processors, pue_water, skus, tables, user_given
from greenml.factors import prices as cloud_prices
from greenml.factors.types import CarbonIntensity, Place, Price, Sku, Source
from greenml.record.schema import DeviceRecord, Factor, FactorRange, Factors, Note, PlaceRecord, RunRecord, SourceRef
from greenml.reports import _parts
from greenml.settings import Settings
from greenml.units import BYTES_PER_GB

NOTE_CODES = (
    "factor", "price-missing", "tier-missing", "nodes-differ", "gpus-not-measured", "basis-differs", _parts.MISMATCH,
    *hourly.NOTE_CODES,
)  # fmt: skip
BESIDE = ("market_intensity", "lifetime_years")  # change no figure that was there; they add one beside it


def account(record: RunRecord, settings: Settings, machine_place: Mapping[str, Any] | None = None) -> RunRecord:
    """Return the record with its place, factors and totals; the measurements stay as they are.

    Args:
        record: of a run, measured or imported.
        settings: the user's settings.
        machine_place: the machine's cloud, region, sku and tier, by its metadata, with their source in ``from``.

    Raises:
        SettingsError: a setting names something that does not exist.
    """
    sku, place, known_from = _where(record.place, settings, machine_place or {})
    when = _middle(record)
    nodes = settings.nodes or machines(record)
    notes = [note for note in record.notes if note.code not in NOTE_CODES]
    factors, more = _factors(settings, sku, place, _start(record), record.ended or when)
    factors = _as_codecarbon_1x(factors, record, settings, place)
    factors, hours = _over_time(factors, record, settings)
    factors = factors.model_copy(update=_beyond_operation(record, settings, sku, place, nodes, when))
    return record.model_copy(
        update={
            "place": PlaceRecord(
                **asdict(place),
                sku=skus.unambiguous(sku) if sku else "",
                sku_label=sku.label if sku else "",
                tier=settings.tier or (machine_place or {}).get("tier"),
                nodes=nodes,
                known_from=known_from,
            ),
            "devices": _counted(record, sku, nodes),
            "factors": factors,
            "totals": (made := totals.totals_of(record, factors, nodes)),
            "derived": totals.derived(made, record.trainer),
            "sci": totals.sci(made, record.trainer),
            "notes": _against_machine(record, sku, place, nodes, known_from)
            + notes
            + more
            + hours
            + _uneven(record, known_from),
        }
    )


def reaccount(record: RunRecord, **changes: Any) -> RunRecord:  # noqa: ANN401  settings of several types
    """Account a record again with other assumptions, without measuring again.

    Args:
        record: that was accounted before.
        changes: settings to change: sku, region, tier, nodes, carbon_intensity, price_per_hour, pue, market_intensity,
            lifetime_years, basis. What the user had given before stays, unless it belongs to a place or SKU that
            changes. A series of the carbon intensity stays too, or goes with its place or its basis.

    Raises:
        SettingsError: a change names something that does not exist.
        RecordError: figures of the record are so large that no total can be computed.
    """
    place, factors = record.place, record.factors
    changes = {name: value for name, value in changes.items() if value is not None}
    kept: dict[str, Any] = {
        "sku": place.sku, "region": places.code(place_of(record)), "tier": place.tier, "nodes": place.nodes,
        "basis": basis_of(record),
    }  # fmt: skip
    if "region" not in changes:
        kept["carbon_intensity"] = _given(factors.carbon_intensity)
        kept["pue"] = _given(factors.pue)
        kept["market_intensity"] = _given(factors.market_intensity)
    kept["lifetime_years"] = _given_years(factors)
    series, basis = factors.intensity_series, changes.get("basis", "")
    other_basis = series is not None and basis and grid_average.basis_name(basis) != series.basis
    if changes.keys() & {"region", "carbon_intensity"} or other_basis:
        record = record.model_copy(update={"factors": factors.model_copy(update={"intensity_series": None})})
    elif series is not None:
        kept.pop("carbon_intensity")
    if not changes.keys() & {"sku", "region", "tier"}:
        kept["price_per_hour"] = next((_given(price) for price in factors.prices.values()), None)
    known_from = {**place.known_from, **dict.fromkeys(changes, "what-if")}
    settings = check(Settings(**{**kept, **changes}, known_from=known_from))
    changes = {name: value for name, value in changes.items() if name not in BESIDE}
    names = ", ".join(f"{name} {value}" for name, value in changes.items())
    try:
        made = account(record, settings)
    except ValidationError as error:  # a product overflowed
        first = error.errors()[0]["msg"]
        raise RecordError(
            f"run {record.run_id}: its figures are no measured ones, totals cannot be computed: {first}"
        ) from None
    note = Note(code="what-if", text=f"what-if: accounted again with {names}; energy and time are those measured")
    return made.model_copy(update={"notes": [note, *made.notes]}) if changes else made


def _counted(record: RunRecord, sku: Sku | None, nodes: int) -> list[DeviceRecord]:
    """Say how many GPUs another tool's figures are of: as many as the machines have, or its machine where it has one.

    AIPerf tells of each GPU by itself.
    """
    reported = [
        device for device in record.devices
        if device.kind == "gpu" and device.method == "reported" and device.sensor != "aiperf"
    ]  # fmt: skip
    count = round((sku.gpu_count or 0.0 if sku else 0.0) * nodes / max(1, len(reported)))
    return [
        device.model_copy(update={"count": count}) if count and device in reported else device
        for device in record.devices
    ]


def _against_machine(
    record: RunRecord, sku: Sku | None, place: Place, nodes: int, known_from: Mapping[str, str]
) -> list[Note]:
    """Compare the machine with what was named, but not with what a what-if names, which is another on purpose."""
    asked = {name for name, origin in known_from.items() if origin == "what-if"}
    if asked & {"sku", "region", "nodes"}:
        return []
    return machine_notes(record, sku, place, nodes)


def machines(record: RunRecord) -> int:
    """Return how many machines a record's run had at a time: an attempt on another host than the one before is one."""
    each = [len(attempt.hosts) for attempt in record.attempts if attempt.hosts]
    return max(each, default=0) or max(1, len(record.hosts))


def _uneven(record: RunRecord, known_from: Mapping[str, str]) -> list[Note]:
    each = {len(attempt.hosts) for attempt in record.attempts if attempt.hosts}
    if len(each) < 2 or "nodes" in known_from:
        return []
    text = f"attempts ran on {min(each)} to {max(each)} machines; the cost has {max(each)} for all of the time"
    return [Note(code="nodes-differ", text=text)]


def place_of(record: RunRecord) -> Place:
    """Return where a record says that it ran."""
    return Place(**{field.name: getattr(record.place, field.name) for field in fields(Place)})


def place_now(settings: Settings, machine_place: Mapping[str, Any]) -> Place:
    """Return the place of a run in progress, by its settings and the machine's metadata."""
    return _where(PlaceRecord(), settings, machine_place)[1]


def _given(factor: Factor | None) -> float | None:
    return factor.value if factor is not None and factor.scope == "given" else None


def _given_years(factors: Factors) -> float | None:
    """Return the lifetime that the user had given for a record, in years."""
    lifetime = factors.lifetime
    if lifetime is None or lifetime.low != lifetime.high:
        return None
    return lifetime.low / embodied.SECONDS_PER_YEAR


def current_factors(settings: Settings, machine_place: Mapping[str, Any] | None = None) -> Factors:
    """Return the factors for a run in progress."""
    sku, place, _ = _where(PlaceRecord(), settings, machine_place or {})
    now = datetime.now(timezone.utc)
    return _factors(settings, sku, place, now, now)[0]


def _start(record: RunRecord) -> datetime:
    return record.started.astimezone(timezone.utc)


def _middle(record: RunRecord) -> datetime:
    start = _start(record)
    return start + ((record.ended or start) - start) / 2


def _where(
    recorded_place: PlaceRecord, settings: Settings, machine_place: Mapping[str, Any]
) -> tuple[Sku | None, Place, dict[str, str]]:
    """Return SKU, place and their sources: the user's settings, else the record's or the machine's values."""
    known_from = dict(recorded_place.known_from) | {
        name: value for name, value in settings.known_from.items() if name in ("sku", "region", "tier", "nodes")
    }

    def settle(name: str, given: str, recorded: str) -> str:
        if given:
            return given
        value = recorded or str(machine_place.get(name, ""))
        if value:
            known_from[name] = (
                recorded_place.known_from.get(name, "record") if recorded else str(machine_place.get("from", ""))
            )
        return value

    sku_name = settle("sku", settings.sku, recorded_place.sku)
    region = settle("region", settings.region if settings.region != "auto" else "", recorded_place.region)
    sku = _sku(sku_name, by_user=bool(settings.sku))
    cloud = recorded_place.cloud or machine_place.get("cloud", "")
    if settings.sku and sku and not settings.region:
        cloud = sku.cloud
    place = _place(region, (sku.cloud if sku else "") or cloud, by_user=settings.region not in ("", "auto"))
    if not place.region and not place.country_iso3 and recorded_place.country_iso3:
        place = places.find(recorded_place.country_iso3)
        known_from["region"] = recorded_place.known_from.get("country_iso3", "record")
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
    intensity: CarbonIntensity | None = None
    other: CarbonIntensity | None = None
    try:
        if settings.carbon_intensity is not None:
            intensity = user_given.carbon_intensity(settings.carbon_intensity)
        else:
            basis = settings.basis or grid_average.BASIS
            intensity = grid_average.carbon_intensity(place, start, end, basis)
            beside = grid_average.carbon_intensity(place, start, end, grid_average.other_basis(basis))
            other = beside if beside.basis != intensity.basis else None  # a group of countries has one basis
    except FactorError as error:
        notes.append(Note(code="factor", text=str(error)))
    ratio = user_given.pue(settings.pue) if settings.pue is not None else pue_water.pue(place, when)
    prices: dict[str, Price] = {}
    if settings.price_per_hour is not None:
        tier = settings.tier or "dedicated"
        prices = {tier: user_given.price(settings.price_per_hour, tier, sku.name if sku else "", place.region)}
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
            carbon_intensity=None if intensity is None else _intensity(intensity),
            other_basis=None if other is None else _intensity(other),
            pue=Factor(
                value=ratio.ratio, low=ratio.low, high=ratio.high, unit="1", scope=ratio.scope,
                code=_code(ratio.scope, place), year=ratio.year,
                assumed=ratio.scope == "none", source=_source(ratio.source), note=ratio.note,
            ),
            prices={tier: _price(price) for tier, price in sorted(prices.items())},
            tables_version=tables.version(),
        ),
        notes,
    )  # fmt: skip


def _intensity(intensity: CarbonIntensity) -> Factor:
    return Factor(
        value=intensity.grams_per_kwh,
        low=intensity.low,
        high=intensity.high,
        unit="g CO2e/kWh",
        scope=intensity.scope,
        code=intensity.code,
        year=intensity.year,
        basis=intensity.basis,
        assumed=intensity.assumed,
        source=_source(intensity.source),
        note=intensity.note,
    )


def _as_codecarbon_1x(factors: Factors, record: RunRecord, settings: Settings, place: Place) -> Factors:
    """Take CodeCarbon 1.x's own intensity for a figure imported from it, so that its emissions are reproduced.

    Only where that row names this region, and the user asked for no basis; the tables' direct figure stands beside it.
    """
    if settings.basis or settings.carbon_intensity is not None or not place.region:
        return factors
    rows = (reported.row for reported in record.reported if reported.tool == "codecarbon")
    regions = {
        (row.get("cloud_provider", "").strip().lower(), row.get("cloud_region", "").strip().lower())
        for row in rows
        if row.get("codecarbon_version", "").strip() in {"", "1"} or row["codecarbon_version"].startswith("1.")
    }
    legacy = grid_average.codecarbon_1x(place.cloud, place.region) if (place.cloud, place.region) in regions else None
    if legacy is None:
        return factors
    return factors.model_copy(update={"carbon_intensity": _intensity(legacy), "other_basis": factors.carbon_intensity})


def basis_of(record: RunRecord) -> str:
    """Return the basis that a record's emissions are on: direct or lifecycle; "" for a figure that was given."""
    factor = record.factors.carbon_intensity
    return factor.basis if factor is not None and factor.basis in grid_average.BASES else ""


def _over_time(factors: Factors, record: RunRecord, settings: Settings) -> tuple[Factors, list[Note]]:
    """Replace the yearly carbon intensity by the mean of the record's series, whose gaps the yearly figure fills.

    The yearly figure that fills a gap is on the basis of the series; the one on the other basis stands beside it.
    """
    series = record.factors.intensity_series
    if settings.carbon_intensity is not None or (series is None and not settings.intensity):
        return factors, []
    if series is None:
        provider = settings.intensity
        text = f"{provider} gave no carbon intensity of this run's hours: all of it takes the tables' yearly figure"
        text += f"; 'greenml report RUN.JSON --intensity {provider}' asks again"
        return factors, [Note(code="intensity-missing", text=text)]
    by_basis = {factor.basis: factor for factor in (factors.carbon_intensity, factors.other_basis) if factor}
    yearly = by_basis.get(series.basis) or factors.carbon_intensity
    completed, mean, notes = hourly.filled(series, yearly)
    has_known_basis = series.basis in grid_average.BASES and series.signal != "marginal"
    other = by_basis.get(grid_average.other_basis(series.basis)) if has_known_basis else None
    if has_known_basis and settings.basis and settings.basis != series.basis:
        text = f"the carbon intensity of {series.provider} is {series.basis}, not {settings.basis} as asked"
        notes = [*notes, Note(code="basis-differs", text=text)]
    changed = {"carbon_intensity": mean, "other_basis": other, "intensity_series": completed}
    return factors.model_copy(update=changed), notes


def _code(scope: str, place: Place) -> str:
    return {"region": f"{place.cloud}/{place.region}", "provider": place.cloud}.get(scope, "")


def _price(price: Price) -> Factor:
    return Factor(
        value=price.usd_per_hour,
        low=price.low,
        high=price.high,
        unit="USD/h",
        scope="given" if not price.as_of else "sku",
        code=" in ".join(part for part in (price.sku, price.region) if part and part != cloud_prices.EVERYWHERE),
        derived=price.derived,
        source=SourceRef(name=price.source.name, url=price.source.url, published=price.as_of or price.source.published),
        note=price.note,
    )


def _beyond_operation(  # noqa: PLR0917  what a run is settled to be
    record: RunRecord, settings: Settings, sku: Sku | None, place: Place, nodes: int, when: datetime
) -> dict[str, Any]:
    """Return the fields of ``Factors`` for water, embodied carbon and a contract; None where one is not known."""
    market = settings.market_intensity
    return {
        "market_intensity": None if market is None else _intensity(user_given.carbon_intensity(market)),
        "wue": _wue(place, when),
        "embodied": _embodied(record, sku, nodes),
        "lifetime": _range(embodied.lifetime(settings.lifetime_years), "s", "lifetime"),
    }


def _wue(place: Place, when: datetime) -> Factor | None:
    try:
        figure = pue_water.wue(place, when)
    except FactorError:
        return None
    code = f"{place.cloud}/{place.region}" if figure.scope == "region" else place.cloud
    return Factor(
        value=figure.liters_per_kwh, low=figure.liters_per_kwh, high=figure.liters_per_kwh, unit="L/kWh",
        scope=figure.scope, code=code, year=figure.year, source=_source(figure.source), note=figure.note,
    )  # fmt: skip


def _embodied(record: RunRecord, sku: Sku | None, nodes: int) -> list[FactorRange]:
    """Return the embodied range of each GPU model with published figures, and of whole servers."""
    counts, servers = _hardware(record, sku, nodes)
    ranges = []
    for name, count in counts.items():
        try:
            ranges.append(_range(embodied.card(name, with_host=not servers), "g CO2e", name, count))
        except FactorError:
            continue
    if ranges and servers:
        ranges.append(_range(embodied.host(), "g CO2e", totals.SERVER, servers))
    return ranges


def _hardware(record: RunRecord, sku: Sku | None, nodes: int) -> tuple[Mapping[str, float], int]:
    """Count the GPUs by model, and the whole servers.

    A host with eight GPUs is a whole server; of one with fewer, how much of a server it was is not known. Figures that
    another tool reported do not say how many GPUs they are of, but the machine size does.
    """
    gpus = [device for device in record.devices if device.kind == "gpu"]
    measured = [device for device in gpus if device.method != "reported"]
    hosts: Counter[str] = Counter(device.host for device in measured)
    if measured or sku is None or not sku.gpu_count:
        servers = sum(count >= embodied.GPUS_OF_A_SERVER for count in hosts.values())
        return Counter(device.name for device in measured), servers
    return {sku.gpu_model: sku.gpu_count * nodes}, nodes if sku.gpu_count >= embodied.GPUS_OF_A_SERVER else 0


def _range(of: embodied.Range, unit: str, code: str, count: float = 1) -> FactorRange:
    sources = [_source(source) for source in of.sources]
    return FactorRange(low=of.low, high=of.high, unit=unit, code=code, count=count, sources=sources, note=of.note)


def _source(source: Source) -> SourceRef:
    return SourceRef(name=source.name, url=source.url, published=source.published)


def _reason(sku: Sku, place: Place, when: datetime) -> str:
    try:
        cloud_prices.price(sku, place, "dedicated", when)
    except FactorError as error:
        return str(error)
    return ""


# A driver keeps some memory to itself, and vendors sell GB or GiB: 40 GB are shown as 39.6 to 42.9 GB.
MEMORY_RATIO = 0.2


def machine_notes(record: RunRecord, sku: Sku | None, place: Place, nodes: int) -> list[Note]:
    """Return a note for each way in which the measured hardware is not what the machine size has.

    A record without a measured device (an import) has nothing to compare; GPUs that another tool reported count as
    seen, and those of an estimate are the SKU's own.

    Args:
        record: of the run.
        sku: that was named, by the user or by the machine.
        place: that was named.
        nodes: how many machines are billed.
    """
    texts = [*_clouds(record, sku, place)]
    if sku and any(device.method != "reported" for device in record.devices):
        texts += _gpus(record, sku, nodes)
    return [Note(code=_parts.MISMATCH, text=text) for text in dict.fromkeys(texts)]


def _clouds(record: RunRecord, sku: Sku | None, place: Place) -> list[str]:
    named = {"SKU": (sku.cloud, sku.name) if sku else ("", ""), "region": (place.cloud, place.region or place.cloud)}
    return [
        f"the machine is not the one that was named: the {kind} {name} is of {cloud}, and the firmware of {host.name} "
        f"says {host.cloud}; price and place are those of {cloud}"
        for host in record.hosts
        for kind, (cloud, name) in named.items()
        if host.cloud and cloud and host.cloud != cloud
    ]


def _gpus(record: RunRecord, sku: Sku, nodes: int) -> list[str]:
    if any(device.kind == "gpu" and device.method in {"reported", "estimate"} for device in record.devices):
        return []
    seen = _parts.at_a_time(record, "gpu")
    count = sum(device.count for device in seen)
    if sku.gpu_model and not sku.gpu_count:
        return []  # how many it has is not known
    expected = max(1, math.ceil(nodes * (sku.gpu_count or 0))) if sku.gpu_count else 0
    has = f"{expected} X {sku.gpu_model}" if expected else "no GPU"
    billed = f"{nodes} X {sku.name}" if nodes > 1 else sku.name
    start = f"the machine is not what {billed} has ({has})"
    if not count:
        text = f"{start}: no GPU was seen; the cost is that of the SKU, the energy is without any GPU"
        return [text] if expected else []
    names = ", ".join(dict.fromkeys(device.name for device in seen))
    if not expected:
        return [f"{start}: {count} X {names} were seen"]
    others = [device for device in seen if not _fits(device, sku)]
    texts = []
    if others:
        model = sku.gpu_nvml_name or f"{sku.gpu_model} {sku.gpu_memory_gb:g}GB" if sku.gpu_memory_gb else sku.gpu_model
        descriptions = ", ".join(dict.fromkeys(_described(device) for device in others))
        texts.append(f"{start}: it has {model}, and {descriptions} was seen")
    if count != expected:
        texts.append(
            f"{start}: {count} of its {expected} GPUs were seen; the cost is that of the whole SKU, the energy that of "
            f"{count} GPUs"
            if count < expected
            else f"{start}: {count} GPUs were seen"
        )
    return texts


def _described(device: DeviceRecord) -> str:
    if not device.memory_total_bytes or re.search(r"\d ?GB", device.name):
        return device.name
    return f"{device.name} with {device.memory_total_bytes / BYTES_PER_GB:.0f} GB"


def _fits(device: DeviceRecord, sku: Sku) -> bool:
    """Tell whether a GPU is one that the SKU has, as far as name and memory tell."""
    try:
        row = processors.gpu(device.name)
        expected = processors.gpus(sku.gpu_nvml_name or sku.gpu_model)
    except FactorError:
        return True
    if row is not None and expected and row not in expected:
        return False
    if row is None:
        model = next((word for word in re.split(r"[ -]", sku.gpu_model.lower()) if re.search(r"\d", word)), "")
        if model and model not in re.split(r"[^a-z0-9]+", device.name.lower()):
            return False
    whole = (sku.gpu_count or 0) >= 1 and device.share_ratio == 1
    if whole and sku.gpu_memory_gb and device.memory_total_bytes:
        return abs(device.memory_total_bytes / BYTES_PER_GB / sku.gpu_memory_gb - 1) <= MEMORY_RATIO
    return True
