"""Estimation of a training's time, energy, emissions and cost from a machine size and GPU hours; and its text."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import greenml.sensors.estimate as models
from greenml import redaction
from greenml.accounting import assumptions
from greenml.accounting.check import check
from greenml.analysis import _gpu_power, _prose
from greenml.errors import SettingsError
from greenml.factors import processors, skus
from greenml.factors.types import Sku, Source
from greenml.record.schema import (
    LONGEST_SECONDS,
    DeviceRecord,
    Factors,
    PlaceRecord,
    Quantity,
    RunRecord,
    SourceRef,
    Totals,
    Usage,
)
from greenml.reports import _format
from greenml.settings import Settings
from greenml.units import BYTES_PER_GIB, SECONDS_PER_HOUR

THREADS_PER_CORE = 2.0  # a cloud's vCPU is a hardware thread (Azure, AWS and Google say so of their GPU sizes)
KINDS = ("gpu", "cpu", "dram")
CPU_SOURCE = Source(
    "Cloud Carbon Footprint, constants of Azure and Google, commits 0602dde823ef and 0656d55594b6",
    "https://github.com/cloud-carbon-footprint/cloud-carbon-footprint",
)
DRAM_SOURCE = Source(
    "Green Algorithms (Lannelongue, Grealey, Inouye 2021)", "https://doi.org/10.1002/advs.202100707", "2021"
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what is expected: a kind of device, or a stage of the training.

    Attributes:
        name: GPU, set-up, 10,000 steps.
        seconds: of a stage; None for a device, which takes the whole time.
        energy_joules: with its interval.
        how: how it was reckoned.
    """

    name: str
    seconds: float | None
    energy_joules: Quantity
    how: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run is expected to use.

    Attributes:
        title: of what.
        seconds: how long it takes; the cost follows from it.
        parts: what the IT energy is the sum of.
        it_energy_joules, facility_energy_joules, emissions_grams, cost_usd: in all, each with its interval.
        factors: what they were reckoned with.
        assumes: what was taken for granted, a sentence each.
        notes: of the accounting: a price that is missing.
        sources: of what was assumed beside the factors.
    """

    title: str
    seconds: Quantity
    parts: tuple[Part, ...]
    it_energy_joules: Quantity
    facility_energy_joules: Quantity
    emissions_grams: Quantity
    cost_usd: dict[str, Quantity]
    factors: Factors
    assumes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    sources: tuple[SourceRef, ...] = ()


def of_machine(
    changes: Mapping[str, Any],
    *,
    hours: float | None = None,
    gpu_hours: float | None = None,
    gpus: int | None = None,
    gpu_model: str = "",
    utilization_ratio: float | None = None,
) -> Estimate:
    """Estimate a run on a machine size, or on some GPUs.

    Args:
        changes: settings: sku, region, tier, nodes, carbon_intensity, price_per_hour, pue.
        hours: how long it runs; or
        gpu_hours: how long times how many GPUs.
        gpus: how many, where no SKU tells.
        gpu_model: which, where no SKU tells.
        utilization_ratio: of the GPUs, 0 to 1; 0.9 (0.5 to 1) by default.

    Raises:
        SettingsError: something is missing, or a value is wrong.
    """
    settings = check(Settings(**{name: value for name, value in changes.items() if value is not None}))
    sku = skus.find(settings.sku) if settings.sku else None
    nodes = settings.nodes or 1
    card, count = _cards(sku, nodes, gpus, gpu_model)
    seconds = _seconds(hours, gpu_hours, count)
    if utilization_ratio is not None and not 0 <= utilization_ratio <= 1:
        hint = f"; for {utilization_ratio:g} % give {utilization_ratio / 100:g}" if 1 < utilization_ratio <= 100 else ""
        raise SettingsError(f"utilization {utilization_ratio:g}: give 0 to 1{hint}")
    draw = _gpu_power.draw(card, utilization_ratio)
    unused = _unused(sku, nodes, count, card)
    idle = unused * card.idle_watts
    watts = (draw.watts * count + idle, draw.low * count + idle, draw.high * count + idle)
    devices = [_device("gpu", card.name, seconds, watts)]
    assumes = [_gpu_words(card, count, utilization_ratio, draw)]
    sources = [card.source, _gpu_power.LOAD_SOURCE]
    if sku is not None and sku.note:
        assumes.append(f"{sku.name}: {sku.note}.")
    if unused and sku is not None:
        assumes.append(f"{unused:g} more GPUs of {sku.name} idle at {card.idle_watts:.0f} W each, and are billed.")
    if sku is not None:
        cpu, dram, host_sources = _host(sku, nodes, seconds)
        sources += [sku.source, *host_sources]
        devices += [device for device, _ in (cpu, dram) if device is not None]
        assumes += [words for _, words in (cpu, dram)]
    else:
        assumes.append("CPU and DRAM are not counted: no SKU says what the machine has.")
    record = assumptions.account(_blank(seconds, devices), settings)
    total = record.totals[0]
    what = f"{sku.name}{f' x {nodes}' if nodes > 1 else ''}" if sku else f"{count:g} X {card.name}"
    return Estimate(
        title=f"{what}, {count * seconds / SECONDS_PER_HOUR:g} GPU hours",
        seconds=Quantity(value=seconds, basis="assumed"),
        parts=tuple(_parts(total, assumes)),
        it_energy_joules=total.it_energy_joules,
        facility_energy_joules=total.facility_energy_joules,
        emissions_grams=total.emissions_grams,
        cost_usd=total.cost_usd,
        factors=record.factors,
        assumes=tuple(assumes),
        notes=tuple(note.text for note in record.notes),
        sources=tuple(_ref(source) for source in dict.fromkeys(sources)),
    )


def _ref(source: Source) -> SourceRef:
    return SourceRef(name=source.name, url=source.url, published=source.published)


def _cards(sku: Sku | None, nodes: int, gpus: int | None, gpu_model: str) -> tuple[_gpu_power.Card, float]:
    if gpus is not None and gpus < 1:
        raise SettingsError(f"{gpus} GPUs: give 1 or more")
    if gpu_model:
        if gpus is None and sku is None:
            raise SettingsError("--gpu-model needs --gpus: how many")
        return _gpu_power.find(gpu_model), float(gpus or ((sku.gpu_count or 0) * nodes if sku else 0))
    if sku is None:
        raise SettingsError("on what: give --sku ND40rs_v2, or --gpus 8 --gpu-model 'NVIDIA H100 80GB HBM3'")
    count = float(gpus or (sku.gpu_count or 0) * nodes)
    if not count:
        raise SettingsError(f"{sku.name} has no GPU, or their number is not known; give --gpus and --gpu-model")
    return _gpu_power.of_sku(sku), count


def _unused(sku: Sku | None, nodes: int, count: float, card: _gpu_power.Card) -> float:
    """Return how many GPUs of the machines are there beside those that train.

    Raises:
        SettingsError: the machines do not have as many as train.
    """
    there = (sku.gpu_count or 0) * nodes if sku is not None else 0
    if sku is None or not there:
        return 0.0
    if count > there:
        each = f"{sku.name} has {sku.gpu_count:g} {card.name}"
        raise SettingsError(f"{count:g} GPUs: {each}; give --nodes {math.ceil(count / (sku.gpu_count or 1))}")
    return there - count


def _seconds(hours: float | None, gpu_hours: float | None, gpus: float) -> float:
    if (hours is None) == (gpu_hours is None):
        raise SettingsError("how long: give either --hours or --gpu-hours")
    value = hours if hours is not None else (gpu_hours or 0.0) / gpus
    if not 0 < value < float("inf"):
        raise SettingsError(f"{hours if hours is not None else gpu_hours:g} hours: give more than 0")
    if value * SECONDS_PER_HOUR > LONGEST_SECONDS:
        raise SettingsError(f"{value:g} hours: give at most {LONGEST_SECONDS / SECONDS_PER_HOUR:.0f}")
    return value * SECONDS_PER_HOUR


def _gpu_words(card: _gpu_power.Card, count: float, given: float | None, draw: _gpu_power.Draw) -> str:
    if given is None:
        use = (
            f"{_gpu_power.UTILIZATION_RATIO:.0%} utilization, assumed ({_gpu_power.UTILIZATION_LOW:.0%} to "
            f"{_gpu_power.UTILIZATION_HIGH:.0%})"
        )
    else:
        use = f"{given:.0%} utilization, as given"
    rated = f"{card.rated_watts:.0f} W rated{f' ({card.rated_from})' if card.rated_from else ''}"
    load = f"{_gpu_power.LOAD_RATIO:.0%} ({_gpu_power.LOAD_LOW:.0%} to {_gpu_power.LOAD_HIGH:.0%})"
    return (
        f"GPU: {count:g} X {card.name}, each {draw.watts:.0f} W ({draw.low:.0f} to {draw.high:.0f} W): "
        f"{card.idle_watts:.0f} W idle ({card.idle_from}), and busy {load} of {rated}, at {use}."
    )


def _host(
    sku: Sku, nodes: int, seconds: float
) -> tuple[tuple[DeviceRecord | None, str], tuple[DeviceRecord | None, str], list[Source]]:
    """Model CPU and DRAM of a machine size as greenml does where nothing measures them (docs/method.md, section 7).

    Each with its words, and whose figures they were modelled with.
    """
    cpu = dram = None
    sources = []
    cpu_words, dram_words = (
        "CPU: not counted, the number of vCPUs is not known.",
        "DRAM: not counted, its size is not known.",
    )
    if sku.vcpus:
        rating = processors.cpu_of_sku(sku.cpu_model)
        threads = (rating.threads_per_core if rating else None) or THREADS_PER_CORE
        watts_per_thread, origin, gain = models.thread_watts(rating, threads)
        gain = max(gain, models.UNREAD_CPU_GAIN_RATIO)
        model = sku.cpu_model or "a CPU of no known model"
        sources += [rating.source, CPU_SOURCE] if rating and rating.watts_per_core else [CPU_SOURCE]
        watts = nodes * sku.vcpus * watts_per_thread * (1 + models.IDLE_RATIO) / 2
        cpu = _device("cpu", sku.cpu_model or "CPU", seconds, (watts, watts * (1 - gain), watts * (1 + gain)))
        cpu_words = (
            f"CPU: {nodes * sku.vcpus:g} vCPUs of {model}, {watts_per_thread:.2f} W each when busy ({origin}), taken "
            f"as half busy (±{gain:.0%})."
        )
    if sku.memory_gib:
        size = sku.memory_gib * BYTES_PER_GIB
        gain = models.DRAM_GAIN_RATIO if size <= models.LARGE_BYTES else models.LARGE_DRAM_GAIN_RATIO
        watts = nodes * sku.memory_gib * models.WATTS_PER_GIB
        dram = _device("dram", "DRAM", seconds, (watts, watts * (1 - gain), watts * (1 + gain)))
        dram_words = f"DRAM: {nodes * sku.memory_gib:g} GiB at {models.WATTS_PER_GIB} W/GiB (±{gain:.0%})."
        sources.append(DRAM_SOURCE)
    return (cpu, cpu_words), (dram, dram_words), sources


def _device(kind: Any, name: str, seconds: float, watts: tuple[float, float, float]) -> DeviceRecord:  # noqa: ANN401
    value, low, high = (watt * seconds for watt in watts)
    usage = Usage(energy_joules=value, energy_low_joules=low, energy_high_joules=high, covered_seconds=seconds)
    return DeviceRecord(id=kind, kind=kind, name=name, host="", method="estimate", sensor="estimate", usage=usage)


def _blank(seconds: float, devices: list[DeviceRecord]) -> RunRecord:
    """Return a record of a run that has not been, so that it is accounted like any other. It is never written."""
    now = datetime.now(timezone.utc)
    return RunRecord(
        greenml_version="",
        run_id=f"estimate-{uuid.uuid4().hex[:8]}",
        status="completed",
        started=now,
        ended=now + timedelta(seconds=seconds),
        duration_seconds=seconds,
        place=PlaceRecord(),
        devices=devices,
        factors=Factors(),
    )


def _parts(total: Totals, words: list[str]) -> list[Part]:
    quantities = (total.gpu_energy_joules, total.cpu_energy_joules, total.dram_energy_joules)
    return [
        Part(kind.upper(), None, quantity, next((word for word in words if word.startswith(f"{kind.upper()}:")), ""))
        for kind, quantity in zip(KINDS, quantities, strict=True)
        if quantity.value is not None
    ]


def render(made: Estimate, width: int = 100) -> str:
    """Render an estimate.

    Args:
        made: what to print.
        width: columns of the sentences.
    """
    rows = [
        (
            "Time",
            _format.duration(made.seconds.value or 0.0),
            _format.interval_of(made.seconds, _format.duration),
            _how(made.seconds),
        ),
        ("IT energy", *_figures(made.it_energy_joules, _format.energy)),
        ("with PUE", *_figures(made.facility_energy_joules, _format.energy)),
        ("Emissions", *_figures(made.emissions_grams, _format.mass)),
        *((f"Cost, {_format.tier(tier)}", *_figures(cost, _format.money)) for tier, cost in made.cost_usd.items()),
    ]
    if not made.cost_usd:
        rows.append(("Cost", _format.NOT_KNOWN, "", "no price"))
    lines = [f"Estimate: {redaction.printable_line(made.title)}. Nothing of it was measured.", ""]
    lines += _prose.indented(_prose.table(("", "expected", "interval", "known how"), rows, frozenset({1})))
    staged = any(part.seconds is not None for part in made.parts)
    head = ("of which", *(("time",) if staged else ()), "energy", "interval", *(("how",) if staged else ()))
    parts = [
        (
            part.name,
            *((_format.duration(part.seconds or 0.0),) if staged else ()),
            _format.figure(part.energy_joules, _format.energy),
            _format.interval_of(part.energy_joules, _format.energy),
            *((part.how,) if staged else ()),
        )
        for part in made.parts
    ]
    lines += ["", *_prose.indented(_prose.table(head, parts, frozenset({1, 2} if staged else {1})))]
    lines += ["", "Assumed", *_prose.points(made.assumes, width)]
    factors = made.factors
    other = factors.other_basis
    named = (
        ("Carbon intensity", factors.carbon_intensity),
        *(((f"On the {other.basis} basis", other),) if other is not None else ()),
        ("PUE", factors.pue),
    )
    written = [
        *(f"{name}: {_format.factor(factor) if factor else _format.NOT_KNOWN}" for name, factor in named),
        *(f"Price of a node per hour: {_format.price(tier, price)}" for tier, price in factors.prices.items()),
        *(f"Note: {note}" for note in made.notes),
        *(f"Source: {_format.source(source)}{f', {source.url}' if source.url else ''}" for source in made.sources),
    ]
    lines += ["", "Factors and sources", *_prose.points(written, width)]
    return redaction.printable_lines("\n".join(lines) + "\n")


def _how(quantity: Quantity) -> str:
    return f"{quantity.basis}, partial" if quantity.value is not None and quantity.why else quantity.basis


def _figures(quantity: Quantity, write: object) -> tuple[str, str, str]:
    if quantity.value is None:
        return _format.NOT_KNOWN, "", quantity.why
    return write(quantity.value), _format.interval_of(quantity, write), _how(quantity)  # type: ignore[operator, arg-type]
