"""What is assumed of a run beyond its operation: water, making the hardware, a contract's electricity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from greenml import accounting
from greenml.errors import FactorError
from greenml.factors import embodied, facility, fixed
from greenml.facts import Place, Sku, Source
from greenml.record import Factor, Factors, RunRecord, SourceRef, Spread
from greenml.settings import Settings


def factors(  # noqa: PLR0917  what a run is settled to be
    record: RunRecord, settings: Settings, sku: Sku | None, place: Place, nodes: int, when: datetime
) -> dict[str, Any]:
    """Return the fields of ``Factors`` that are beyond operation; what is not known is left out of them.

    Args:
        record: of the run, for its GPUs.
        settings: with a contract's intensity, and the lifetime of hardware, if the user gave them.
        sku: the machine size, where known.
        place: of the run.
        nodes: machines billed.
        when: the middle of the run, UTC.

    Raises:
        SettingsError: a given value is none.
    """
    market = settings.market_intensity
    return {
        "market_intensity": None if market is None else _market(market),
        "wue": _wue(place, when),
        "embodied": _embodied(record, sku, nodes),
        "lifetime": _spread(embodied.lifetime(settings.lifetime_years), "s", "lifetime"),
    }


def given_years(factors: Factors) -> float | None:
    """Return the lifetime that the user had given for a record, in years."""
    lifetime = factors.lifetime
    if lifetime is None or lifetime.low != lifetime.high:
        return None
    return lifetime.low / embodied.SECONDS_PER_YEAR


def _market(grams_per_kwh: float) -> Factor:
    given = fixed.carbon_intensity(grams_per_kwh)
    return Factor(
        value=given.grams_per_kwh, low=given.low, high=given.high, unit="g CO2e/kWh", scope="given",
        source=_source(given.source), note=given.note,
    )  # fmt: skip


def _wue(place: Place, when: datetime) -> Factor | None:
    try:
        found = facility.wue(place, when)
    except FactorError:
        return None
    return Factor(
        value=found.liters_per_kwh, low=found.liters_per_kwh, high=found.liters_per_kwh, unit="L/kWh",
        scope="region", code=f"{place.cloud}/{place.region}", year=found.year, source=_source(found.source),
        note=found.note,
    )  # fmt: skip


def _embodied(record: RunRecord, sku: Sku | None, nodes: int) -> list[Spread]:
    """Return a range for each model of GPU of which figures are published, and for whole servers."""
    counts, servers = _hardware(record, sku, nodes)
    found = []
    for name, count in counts.items():
        try:
            found.append(_spread(embodied.card(name, with_host=not servers), "g CO2e", name, count))
        except FactorError:
            continue
    if found and servers:
        found.append(_spread(embodied.host(), "g CO2e", accounting.SERVER, servers))
    return found


def _hardware(record: RunRecord, sku: Sku | None, nodes: int) -> tuple[Mapping[str, float], int]:
    """Count the GPUs by model, and the whole servers.

    A host with eight GPUs is a whole server; of one with fewer, how much of a server it was is not known. Figures that
    another tool reported do not say how many GPUs they are of, but the machine size does.
    """
    gpus = [device for device in record.devices if device.kind == "gpu"]
    own = [device for device in gpus if device.method != "reported"]
    hosts: Counter[str] = Counter(device.host for device in own)
    if own or sku is None or not sku.gpu_count:
        servers = sum(count >= embodied.GPUS_OF_A_SERVER for count in hosts.values())
        return Counter(device.name for device in own), servers
    return {sku.gpu_model: sku.gpu_count * nodes}, nodes if sku.gpu_count >= embodied.GPUS_OF_A_SERVER else 0


def _spread(of: embodied.Range, unit: str, code: str, count: float = 1) -> Spread:
    sources = [_source(one) for one in of.sources]
    return Spread(low=of.low, high=of.high, unit=unit, code=code, count=count, sources=sources, note=of.note)


def _source(source: Source) -> SourceRef:
    return SourceRef(name=source.name, url=source.url, published=source.published)
