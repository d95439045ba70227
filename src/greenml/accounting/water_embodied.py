"""Looks up the factors beyond operation: water, embodied carbon of the hardware, a contract's electricity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from greenml.accounting import totals
from greenml.errors import FactorError
from greenml.factors import embodied, pue_water, user_given
from greenml.factors.types import Place, Sku, Source
from greenml.record.schema import Factor, FactorRange, Factors, RunRecord, SourceRef
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
    given = user_given.carbon_intensity(grams_per_kwh)
    return Factor(
        value=given.grams_per_kwh, low=given.low, high=given.high, unit="g CO2e/kWh", scope="given",
        source=_source(given.source), note=given.note,
    )  # fmt: skip


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
    spreads = []
    for name, count in counts.items():
        try:
            spreads.append(_spread(embodied.card(name, with_host=not servers), "g CO2e", name, count))
        except FactorError:
            continue
    if spreads and servers:
        spreads.append(_spread(embodied.host(), "g CO2e", totals.SERVER, servers))
    return spreads


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


def _spread(of: embodied.Range, unit: str, code: str, count: float = 1) -> FactorRange:
    sources = [_source(source) for source in of.sources]
    return FactorRange(low=of.low, high=of.high, unit=unit, code=code, count=count, sources=sources, note=of.note)


def _source(source: Source) -> SourceRef:
    return SourceRef(name=source.name, url=source.url, published=source.published)
