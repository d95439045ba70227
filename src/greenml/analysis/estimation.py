"""Estimation of a training's time, energy, emissions and cost from a machine size and GPU hours; and its text."""

from __future__ import annotations

import math
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any, Literal

import greenml.sensors.estimate as models
from greenml import redaction
from greenml.accounting import assumptions, totals
from greenml.accounting.check import check
from greenml.analysis import _gpu_power
from greenml.analysis.statistics import student_quantile
from greenml.analysis.what_if import Profile, profile
from greenml.errors import FactorError, SettingsError
from greenml.factors import processors, skus
from greenml.factors.types import Sku, Source
from greenml.record.schema import (
    LONGEST_SECONDS,
    DeviceRecord,
    Factors,
    PhaseRecord,
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
        watts_per_thread, origin, calibration = models.thread_watts(rating, threads)
        calibration = max(calibration, models.UNREAD_CPU_CALIBRATION_RATIO)
        model = sku.cpu_model or "a CPU of no known model"
        sources += [rating.source, CPU_SOURCE] if rating and rating.watts_per_core else [CPU_SOURCE]
        watts = nodes * sku.vcpus * watts_per_thread * (1 + models.IDLE_RATIO) / 2
        cpu = _device(
            "cpu", sku.cpu_model or "CPU", seconds, (watts, watts * (1 - calibration), watts * (1 + calibration))
        )
        cpu_words = (
            f"CPU: {nodes * sku.vcpus:g} vCPUs of {model}, {watts_per_thread:.2f} W each when busy ({origin}), taken "
            f"as half busy (±{calibration:.0%})."
        )
    if sku.memory_gib:
        size = sku.memory_gib * BYTES_PER_GIB
        calibration = (
            models.DRAM_CALIBRATION_RATIO if size <= models.LARGE_BYTES else models.LARGE_DRAM_CALIBRATION_RATIO
        )
        watts = nodes * sku.memory_gib * models.WATTS_PER_GIB
        dram = _device("dram", "DRAM", seconds, (watts, watts * (1 - calibration), watts * (1 + calibration)))
        dram_words = f"DRAM: {nodes * sku.memory_gib:g} GiB at {models.WATTS_PER_GIB} W/GiB (±{calibration:.0%})."
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
    lines += _format.indented(_format.table(("", "expected", "interval", "known how"), rows, frozenset({1})))
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
    lines += ["", *_format.indented(_format.table(head, parts, frozenset({1, 2} if staged else {1})))]
    lines += ["", "Assumed", *_format.points(made.assumes, width)]
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
    lines += ["", "Factors and sources", *_format.points(written, width)]
    return redaction.printable_lines("\n".join(lines) + "\n")


def _how(quantity: Quantity) -> str:
    return f"{quantity.basis}, partial" if quantity.value is not None and quantity.why else quantity.basis


def _figures(quantity: Quantity, write: object) -> tuple[str, str, str]:
    if quantity.value is None:
        return _format.NOT_KNOWN, "", quantity.why
    return write(quantity.value), _format.interval_of(quantity, write), _how(quantity)  # type: ignore[operator, arg-type]


Measure = Literal["joules", "seconds"]
UNITS = ("steps", "samples", "tokens", "epochs")
MOST_BLOCKS = 24
BATCHES = 10  # of steady blocks, each long, so that neighbours that resemble each other do not feign certainty
FEWEST_BATCHES = 3
BINS = 3.0  # a block is this many steps of the timeline at the least: its edges fall inside of one
# A first block that is this far from the later half's median is still warming up.
WARM_DEVIATIONS, WARM_RATIO = 4.0, 0.03
MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True, slots=True)
class Block:
    """Some steps one after the other; ``units`` may be samples, tokens or epochs instead."""

    units: float
    seconds: float
    joules: float

    def amount(self, what: Measure) -> float:
        """Return its joules or its seconds."""
        return self.joules if what == "joules" else self.seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """What a unit takes in the steady state, and what came before it.

    Attributes:
        warm: what was done before it was steady.
        steady: batches of blocks from then on.
        how: where the blocks are from.
    """

    unit: str
    warm: Block
    steady: tuple[Block, ...]
    how: str

    def rate(self, what: Measure) -> float:
        """Return the mean joules or seconds of a unit in the steady state."""
        return sum(batch.amount(what) for batch in self.steady) / sum(batch.units for batch in self.steady)

    def error(self, what: Measure, units: float) -> float:
        """Return half of the 95 % interval of the joules or seconds of further units.

        The spread ``s`` of ``k`` batches of ``u`` units each says how far the mean may be off, and how far ``m =
        units / u`` further batches will scatter: ``t(k - 1) x s x sqrt(1 / k + 1 / m)`` a unit.

        Source: prediction interval of a mean (Student's t), with batch means against the likeness of neighbours (Law,
        Simulation Modeling and Analysis, chapter 9).
        """
        k, many = len(self.steady), sum(batch.units for batch in self.steady)
        if k < 2 or units <= 0:
            return 0.0
        spread = statistics.stdev(batch.amount(what) / batch.units for batch in self.steady)
        further = max(units / (many / k), 1.0)
        return student_quantile(k - 1) * spread * math.sqrt(1 / k + 1 / further) * units


def train_phase(record: RunRecord) -> PhaseRecord:
    """Return the phase of the training.

    Raises:
        SettingsError: there is none.
    """
    phase = record.phase(record.training_path)
    if phase is None:
        raise SettingsError(
            "the probe has no phase 'train', so set-up and training cannot be told apart; use an integration's "
            "callback, or 'with run.phase(\"train\")'"
        )
    if not phase.spans:
        raise SettingsError("the probe does not say when it trained (an imported record does not); measure a short run")
    return phase


def exclusive_spans(record: RunRecord, phase: PhaseRecord) -> list[tuple[float, float]]:
    """Return a phase's spans without those of nested phases, in seconds of the run."""
    inner = sorted(
        span for nested in record.phases if nested.path.startswith(f"{phase.path}/") for span in nested.spans
    )
    spans = []
    for start, end in phase.spans:
        at = start
        for begin, stop in inner:
            if stop <= at or begin >= end:
                continue
            if begin > at:
                spans.append((at, begin))
            at = max(at, stop)
        if at < end:
            spans.append((at, end))
    return spans


def use(record: RunRecord, phase: PhaseRecord) -> tuple[float, float]:
    """Return the seconds and joules of a phase, all its stretches together; 0 joules where they are not known."""
    total = record.total(phase.path)
    joules = total.it_energy_joules.value if total is not None else None
    return phase.seconds, joules or 0.0


def exclusive_use(record: RunRecord, phase: PhaseRecord) -> tuple[float, float]:
    """Return the seconds and joules of a phase without those of nested phases."""
    seconds, joules = use(record, phase)
    for nested in record.phases:
        if nested.path.rpartition("/")[0] == phase.path:
            took, drawn = use(record, nested)
            seconds, joules = seconds - took, joules - drawn
    return seconds, joules


def within(spans: Sequence[tuple[float, float]], used: Profile, until: float = math.inf) -> tuple[float, float]:
    """Return the seconds and joules of some spans, up to a second of the run."""
    cut = [(start, min(end, until)) for start, end in spans if start < until]
    return sum(end - start for start, end in cut), sum(used.before(end) - used.before(start) for start, end in cut)


def pace(record: RunRecord, unit: str) -> Pace:
    """Split a probe's training into blocks, find the start of the steady state, and join later blocks into batches.

    Args:
        record: of the probe.
        unit: steps, samples, tokens or epochs.

    Raises:
        SettingsError: the probe cannot tell; says why, and what it would need.
    """
    train = train_phase(record)
    try:
        used, _ = profile(record)
    except FactorError as error:
        raise SettingsError(f"the probe's energy is not known, so nothing can be expected of it ({error})") from None
    total = record.total(train.path)
    if total is None or total.it_energy_joules.value is None:
        raise SettingsError("the energy of the probe's training phase is not known; estimate needs a measured probe")
    if len(used.seconds) < 3:
        raise SettingsError("the probe has no timeline of power, so its steps cannot be compared with each other")
    spans = exclusive_spans(record, train)
    points, how = _points(record, unit, spans)
    width = used.seconds[1] - used.seconds[0]
    blocks = _blocks(points, spans, used, BINS * width)
    # The timeline blurs the phase's edges, its total does not: the mean power of training is exactly known.
    (seconds, joules), (drawn_seconds, drawn_joules) = exclusive_use(record, train), within(spans, used)
    exact = joules / seconds / (drawn_joules / drawn_seconds)
    blocks = [Block(block.units, block.seconds, block.joules * exact) for block in blocks]
    if len(blocks) < FEWEST_BATCHES + 1:
        shortest = 2 * (FEWEST_BATCHES + 1) * BINS * width
        raise SettingsError(
            f"the probe is too short: {len(blocks)} block{'s' if len(blocks) != 1 else ''} of steps of at least "
            f"{BINS * width:g} s can be told apart; "
            f"train for at least {shortest:g} s"
        )
    warm = _warm(blocks)
    return Pace(unit, _joined(blocks[:warm]), tuple(_batches(blocks[warm:])), how)


def _points(
    record: RunRecord, unit: str, spans: Sequence[tuple[float, float]]
) -> tuple[list[tuple[float, float]], str]:
    """Return pairs (second of the run, units done by then) from the start of training, and how they are known."""
    counts = record.trainer.get("counts") or {}
    state = record.trainer.get("trainer_state") or {}
    total = float(counts.get(unit) or 0.0) or float((state.get("global_step") if unit == "steps" else 0.0) or 0.0)
    counted = [(float(at), float(done)) for at, done in (record.trainer.get("progress") or {}).get(unit, [])]
    first, last = spans[0][0], spans[-1][1]
    counted = [(at, done) for at, done in counted if first <= at <= last]
    if len(counted) > FEWEST_BATCHES:
        scale = total / counted[-1][1] if total and counted[-1][1] and unit in ("samples", "tokens") else 1.0
        begun = [(first, 0.0)] if counted[0][1] > 0 else []
        points = [*begun, *((at, done * scale) for at, done in counted)]
        return points, f"{unit} as they were counted while it ran, at {len(counted)} times"
    if not total:
        given = ", ".join(name for name in UNITS if counts.get(name)) or "none"
        raise SettingsError(
            f"the probe did not count its {unit} (it counted: {given}); an integration's callback does, or "
            f"'run.count({unit}=...)' as training goes on"
        )
    per_second = total / exclusive_use(record, train_phase(record))[0]
    even, passed = [(first, 0.0)], 0.0
    for start, end in spans:
        passed += end - start
        even.append((end, passed * per_second))
    fine = [
        (a + (b - a) * step / 40, n + (m - n) * step / 40) for (a, n), (b, m) in pairwise(even) for step in range(40)
    ]
    return [*fine, even[-1]], f"{total:g} {unit} taken as even over the training, as only their sum is known"


def _blocks(
    points: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]], used: Profile, least_seconds: float
) -> list[Block]:
    whole, _ = within(spans, used)
    least = max(least_seconds, whole / MOST_BLOCKS)
    blocks: list[Block] = []
    seconds, joules = within(spans, used, points[0][0])
    done = points[0][1]
    for at, units in points[1:]:
        now, drawn = within(spans, used, at)
        if now - seconds >= least * (1 - 1e-9) and units > done:
            blocks.append(Block(units - done, now - seconds, drawn - joules))
            seconds, joules, done = now, drawn, units
    return blocks


def _warm(blocks: Sequence[Block]) -> int:
    """Return how many first blocks are not yet like the later half; at most half of them."""
    half = len(blocks) // 2
    most = 0
    measures: tuple[Measure, ...] = ("joules", "seconds")
    for what in measures:
        rates = [block.amount(what) / block.units for block in blocks]
        middle = statistics.median(rates[half:])
        sigma = MAD_TO_SIGMA * statistics.median(abs(rate - middle) for rate in rates[half:])
        allowed = max(WARM_DEVIATIONS * sigma, WARM_RATIO * abs(middle))
        count = 0
        while count < half and abs(rates[count] - middle) > allowed:
            count += 1
        most = max(most, count)
    return min(most, len(blocks) - FEWEST_BATCHES)


def _batches(blocks: Sequence[Block]) -> list[Block]:
    size = max(1, len(blocks) // BATCHES)
    many = len(blocks) // size
    edges = [round(at * len(blocks) / many) for at in range(many + 1)]
    return [_joined(blocks[start:end]) for start, end in pairwise(edges)]


def _joined(blocks: Sequence[Block]) -> Block:
    return Block(
        sum(block.units for block in blocks),
        sum(block.seconds for block in blocks),
        sum(block.joules for block in blocks),
    )


REPEATED = ("eval", "save", "validate", "sanity_check")
# Judged: what was seen once, a set-up or a single evaluation, may be this different the next time.
ONCE_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds and joules, each with half of its 95 % interval."""

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
    if unit not in UNITS:
        raise SettingsError(f"unknown unit {unit!r}; give one of {', '.join(UNITS)}")
    if not 0 < units < math.inf:
        raise SettingsError(f"{units:g} {unit}: give more than 0")
    steady_pace = pace(record, unit)
    used, _ = profile(record)
    train = train_phase(record)
    further = max(0.0, units - steady_pace.warm.units)
    steady = _Cost(
        steady_pace.rate("seconds") * further,
        steady_pace.rate("joules") * further,
        steady_pace.error("seconds", further),
        steady_pace.error("joules", further),
    )
    per_unit = f"{_format.energy(steady_pace.rate('joules'))} and {_format.seconds(steady_pace.rate('seconds'))}"
    singular = unit.removesuffix("s")
    rows = [(f"{_format.number(further)} {unit}", steady, f"{per_unit} a {singular}")]
    if steady_pace.warm.units:
        part = min(1.0, units / steady_pace.warm.units)
        warm = _Cost(steady_pace.warm.seconds * part, steady_pace.warm.joules * part, 0.0, 0.0)
        words = "as in the probe, before the steady state"
        rows.insert(0, (f"first {_format.number(steady_pace.warm.units * part)} {unit}", warm, words))
    probed = _done(record, unit, steady_pace)
    known, known_joules = exclusive_use(record, train)
    for phase in record.phases:
        if _repeats(phase, train) and phase.count:
            seconds, joules = use(record, phase)
            known, known_joules = known + seconds, known_joules + joules
            rows.append(_again(record, phase, used, unit, units, probed))
    rest = _Cost(record.duration_seconds - known, used.joules[-1] - known_joules, 0.0, 0.0)
    if rest.seconds > 1e-6:
        once = _Cost(rest.seconds, rest.joules, ONCE_RATIO * rest.seconds, ONCE_RATIO * rest.joules)
        rows.insert(0, ("set-up and the rest", once, f"once (±{ONCE_RATIO:.0%}, assumed)"))
    return _made(record, f"{_format.number(units)} {unit}", rows, steady_pace, used)


def _done(record: RunRecord, unit: str, pace: Pace) -> float:
    counts = record.trainer.get("counts") or {}
    seen = pace.warm.units + sum(batch.units for batch in pace.steady)
    return max(float(counts.get(unit) or 0.0), seen)


def _repeats(phase: PhaseRecord, train: PhaseRecord) -> bool:
    """Tell whether a phase is of a kind that a longer training does oftener, and is not in another one that is."""
    outer, _, name = phase.path.rpartition("/")
    return name in REPEATED and outer in ("", train.path)


def _again(  # noqa: PLR0917  what repeats, and how far it goes
    record: RunRecord, phase: PhaseRecord, used: Profile, unit: str, units: float, probed: float
) -> tuple[str, _Cost, str]:
    """Estimate a repeated phase: its count by the trainer's arguments, else in proportion to the units."""
    each = [within([span], used) for span in phase.spans]
    means = [amount / phase.count for amount in use(record, phase)]
    times, how, sure = _times(record, phase, unit, units, probed)
    name = f"{phase.path}, {_format.number(times, 4)} times"
    if len(each) > 1:
        spread = [statistics.stdev(amounts[at] for amounts in each) for at in (0, 1)]
        wide = student_quantile(len(each) - 1) * math.sqrt(1 / len(each) + 1 / max(times, 1.0))
        off = [deviation * wide * times for deviation in spread]
    else:
        off = [ONCE_RATIO * mean * times for mean in means]
        how += f" (±{ONCE_RATIO:.0%}, assumed)"
    if not sure:  # it may come once more, or once less
        off = [math.hypot(half_width, mean) for half_width, mean in zip(off, means, strict=True)]
    return name, _Cost(means[0] * times, means[1] * times, off[0], off[1]), how


def _times(record: RunRecord, phase: PhaseRecord, unit: str, units: float, probed: float) -> tuple[float, str, bool]:
    """Return the count of a phase in the whole training, its origin, and whether it is certain."""
    name = phase.path.rpartition("/")[2]
    arguments = record.trainer.get("training_args") or {}
    strategy = str(
        arguments.get(f"{name}_strategy") or arguments.get("evaluation_strategy" if name == "eval" else "") or ""
    )
    counts = {key: float(value) for key, value in (record.trainer.get("counts") or {}).items() if value}
    interval_steps = arguments.get(f"{name}_steps")
    if strategy == "steps" and isinstance(interval_steps, int | float) and interval_steps >= 1:
        steps = units if unit == "steps" else units * counts.get("steps", 0.0) / probed
        if steps:
            return float(math.floor(steps / interval_steps)), f"every {interval_steps:g} steps, as told", True
    if strategy == "epoch":
        epochs = units if unit == "epochs" else units * counts.get("epochs", 0.0) / probed
        if epochs:
            return max(1.0, float(math.floor(epochs + 1e-6))), "after each epoch, as told", True
    if phase.count < 2 or strategy == "no":
        return float(phase.count), "as often as in the probe", True
    every = probed / phase.count
    return float(math.floor(units / every + 1e-6)), f"every {_format.number(every, 4)} {unit}, as in the probe", False


def _made(record: RunRecord, what: str, rows: Sequence[tuple[str, _Cost, str]], pace: Pace, used: Profile) -> Estimate:
    total = record.total()
    measured = total.it_energy_joules if total is not None else totals.unknown("not measured")
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
    mean = factors.model_copy(update={"intensity_series": None})
    expected = totals.totals("run", seconds, [(whole, whole.usage)], mean, record.place.nodes)
    ratio = (took.low or 0.0) / seconds, (took.high or 0.0) / seconds
    done = _format.number(_done(record, pace.unit, pace))
    assumes = [
        f"From {record.name or record.run_id}: {_format.duration(record.duration_seconds)}, {done} {pace.unit}; "
        f"{pace.how}.",
        "The training goes on as in the probe's steady state: same machine, batch size, data and length of inputs.",
        f"The interval is 95 % of the spread between {len(pace.steady)} batches of {pace.unit}, with the sensors' own "
        f"uncertainty ({_format.percent(sides[0])} down, {_format.percent(sides[1])} up), in quadrature.",
    ]
    if factors.intensity_series is not None:
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
            tier: value.model_copy(
                update={"low": (value.low or 0.0) * ratio[0], "high": (value.high or 0.0) * ratio[1]}
            )
            for tier, value in expected.cost_usd.items()
        },
        factors=factors,
        assumes=tuple(assumes),
    )


def _quantity(value: float, down: float, up: float) -> Quantity:
    return Quantity(value=value, low=max(0.0, value - down), high=value + up, basis="modelled")


def _sensor(measured: Quantity) -> tuple[float, float]:
    """Return the share by which the probe's own energy may be off, downward and upward; 0 where it has no interval."""
    if not measured.value or measured.low is None or measured.high is None:
        return 0.0, 0.0
    return 1 - measured.low / measured.value, measured.high / measured.value - 1
