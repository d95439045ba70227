"""Advice on saving energy, carbon or money in a run: rules, and their findings as text.

A rule is one function, with its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from greenml import redaction
from greenml.accounting import totals
from greenml.analysis import _gpu_power
from greenml.analysis.what_if import OLD_DAYS, Option, carbon_uncertainty, days_apart, ranked, what_if
from greenml.errors import SettingsError
from greenml.factors import prices as cloud_prices
from greenml.factors import tables
from greenml.record.idle import IDLE_BELOW_RATIO, idle
from greenml.record.schema import DeviceRecord, Factor, PhaseRecord, RunRecord, Series, Usage
from greenml.reports import _format, _parts
from greenml.units import SECONDS_PER_HOUR

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Saving:
    """What would be saved, from the least to the most; negative is spent. None: not known, or nothing."""

    joules: Range | None = None
    grams: Range | None = None
    usd: Range | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to change.

    Attributes:
        rule: its name.
        title: what to do, in a few words.
        evidence: what was seen in this run.
        advice: how to do it.
        saving: what it may save of this run.
        assumes: what the saving rests on.
        source: whose rule or figure it is.
        share, share_of: the largest of the shares of the run's energy, carbon and cost that it may save, in the
            middle of its range, and of which; findings are ordered by it.
    """

    rule: str
    title: str
    evidence: tuple[str, ...]
    advice: str
    saving: Saving
    assumes: tuple[str, ...]
    source: str
    share: float = 0.0
    share_of: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """Why a rule has nothing to say of a run."""

    rule: str
    why: str


def saving(record: RunRecord, joules: Range | None, seconds: Range | None) -> Saving:
    """Return what less energy and less time save, with the factors of the record.

    Args:
        record: accounted.
        joules: of IT energy.
        seconds: of the whole machine.
    """
    total = record.total()
    grams = usd = None
    if total is not None and joules is not None:
        whole, emitted = total.it_energy_joules.value, total.emissions_grams.value
        if whole and emitted is not None:
            grams = (joules[0] * emitted / whole, joules[1] * emitted / whole)
    price = record.factors.prices.get(tier(record))
    if price is not None and seconds is not None:
        hourly = price.value * record.place.nodes / SECONDS_PER_HOUR
        usd = (seconds[0] * hourly, seconds[1] * hourly)
    return Saving(joules, grams, usd)


def share(record: RunRecord, saved: Saving) -> tuple[float, str]:
    """Return the largest share that a saving is, in the middle of its range, and of what: energy, carbon or cost."""
    total = record.total()
    if total is None:
        return 0.0, ""
    cost = total.cost_usd.get(tier(record))
    pairs = (
        (saved.usd, cost.value if cost is not None else None, "cost"),
        (saved.grams, total.emissions_grams.value, "carbon"),
        (saved.joules, total.it_energy_joules.value, "energy"),
    )
    shares = [(sum(part) / 2 / whole, name) for part, whole, name in pairs if part is not None and whole]
    return max(shares, key=lambda share: share[0], default=(0.0, ""))


def tier(record: RunRecord) -> str:
    """Return the tier that the run was paid in; dedicated where nothing tells."""
    return record.place.tier or "dedicated"


def gpus(record: RunRecord) -> list[DeviceRecord]:
    """Return the GPUs that were measured here; figures that another tool summed up are none."""
    return [device for device in record.devices if device.kind == "gpu" and device.method in ("counter", "gauge")]


def train_path(record: RunRecord) -> str:
    """Return the path of the training phase; empty where there is none."""
    return record.training_path


def in_training(record: RunRecord) -> tuple[float, dict[str, Usage]]:
    """Return the seconds of training and what each device did in them; of the whole run where no phase tells."""
    phase = record.phase(train_path(record))
    if phase is not None and phase.seconds > 0:
        return phase.seconds, phase.usage
    return record.duration_seconds, {device.id: device.usage for device in record.devices}


def mean(values: list[float]) -> float | None:
    """Return the mean; None of nothing."""
    return sum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class Bin:
    """A step of the timeline.

    Attributes:
        start, end: seconds of the run.
        watts, busy: of each GPU, None where it was not read.
        cpu: busy share of the hosts' CPUs; None where it was not read.
        process: of the run's own processes.
        training: the middle of it lies in the training phase, or there is no such phase.
    """

    start: float
    end: float
    watts: tuple[float | None, ...]
    busy: tuple[float | None, ...]
    cpu: float | None
    process: float | None
    training: bool

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start

    @property
    def gpu_busy(self) -> float | None:
        """Mean utilization over the GPUs that were read."""
        return mean([ratio for ratio in self.busy if ratio is not None])


def bins(record: RunRecord) -> list[Bin]:
    """Return the timeline steps with the GPUs' utilization; empty where no GPU's utilization was read over time."""
    line = record.timeline
    if line is None:
        return []
    series = {device_series.device: device_series for device_series in line.series}
    cards = [
        series[device.id] for device in gpus(record) if device.id in series and series[device.id].utilization_ratio
    ]
    if not cards:
        return []
    kinds = {
        kind: [series[device.id] for device in record.devices if device.kind == kind and device.id in series]
        for kind in ("host", "process")
    }
    phase = record.phase(train_path(record))
    spans = phase.spans if phase is not None and phase.count <= len(phase.spans) else None
    made = []
    for at in range(line.bins):
        start, end = at * line.step_seconds, min((at + 1) * line.step_seconds, record.duration_seconds)
        middle = (start + end) / 2
        made.append(
            Bin(
                start,
                end,
                tuple(_at(card.power_watts, at) for card in cards),
                tuple(_at(card.utilization_ratio, at) for card in cards),
                _mean_at(kinds["host"], at),
                _mean_at(kinds["process"], at),
                spans is None or any(begin <= middle < stop for begin, stop in spans),
            )
        )
    return made


def _at(values: list[float | None], at: int) -> float | None:
    return values[at] if at < len(values) else None


def _mean_at(series: list[Series], at: int) -> float | None:
    return mean([value for device_series in series if (value := _at(device_series.utilization_ratio, at)) is not None])


IDLE_SHARE = 0.05  # of GPU time; less is not worth a change
BUSY_RATIO = 0.70  # above it a larger batch brings little
FULL_RATIO = 0.90  # utilization that a well-fed training reaches
FREE_RATIO = 0.60  # of the memory at the peak; above it there is no room for a batch much larger
WAITING_RATIO = 0.50  # utilization under which GPUs wait for something
WAITING_SHARE = 0.10  # of the training
CPU_FULL_RATIO = 0.80
ONE_CORE = (0.7, 1.3)  # cores that a single busy process keeps


def idle_gpus(record: RunRecord) -> Finding | Silence:
    """Find GPU time under 10 % utilization, and the energy used in it.

    Source: NVML API reference, nvmlDeviceGetUtilizationRates: the share of time in which a kernel ran. The energy is
    this run's own, of those steps of its timeline.
    """
    rule = "idle-gpus"
    shares = idle(record)
    if isinstance(shares, str) or shares.kind != "gpu":
        return Silence(rule, "no GPU's utilization over time is in the record")
    if shares.time_ratio < IDLE_SHARE:
        return Silence(
            rule, f"GPUs were under 10% utilization for {_format.percent(shares.time_ratio)} of their time only"
        )
    all_idle = 0.0
    where: dict[str, float] = {}
    for start, end in shares.all_idle_spans:
        all_idle += end - start
        phase = _phase_at(record, (start + end) / 2)
        where[phase] = where.get(phase, 0.0) + end - start
    evidence = [
        f"{_format.percent(shares.time_ratio)} of the GPU time ({_format.duration(shares.idle_seconds)} of "
        f"{_format.duration(shares.known_seconds)}) was under 10% utilization and drew "
        f"{_format.energy(shares.energy_joules)}, {_format.percent(shares.energy_ratio)} of the GPU energy"
    ]
    if where:
        parts = ", ".join(
            f"{name} {_format.duration(took)}" for name, took in sorted(where.items(), key=lambda item: -item[1])[:4]
        )
        evidence.append(f"all GPUs idle at once for {_format.duration(all_idle)}: {parts}")
    unused = [
        device.detail.get("index", device.id)
        for device in gpus(record)
        if (device.usage.utilization_ratio or 0.0) < 0.01 and device.usage.utilization_ratio is not None
    ]
    if unused and len(unused) < len(gpus(record)):
        evidence.append(f"GPU {', '.join(unused)} did nothing all the time")
    saved = saving(record, (0.0, shares.energy_joules), (0.0, all_idle))
    return Finding(
        rule, "Keep the GPUs busy, or give them back", tuple(evidence),
        "prepare data and download models on a machine without GPUs; use no more GPUs than work; start the next job "
        "where this one waits",
        saved, ("at most: all idle GPU energy, and the time in which all GPUs were idle",),
        "this run's timeline; NVML API reference, nvmlDeviceGetUtilizationRates",
    )  # fmt: skip


def _phase_at(record: RunRecord, second: float) -> str:
    names = [phase.path for phase in record.phases if any(start <= second < end for start, end in phase.spans)]
    return max(names, key=len, default="outside phases")


def _feed(record: RunRecord, seconds: float) -> Saving:
    """Return the largest saving from a training shorter by some seconds: the idle energy of its GPUs in that time.

    The work itself takes the same energy; only what the GPUs draw for being on is saved.
    """
    idle_watts = []
    for device in gpus(record):
        try:
            there = totals.presence(device.name, record.duration_seconds, [(device, device.usage)])
            idle_watts.append(_gpu_power.find(device.name).idle_watts * there)
        except SettingsError:
            return saving(record, None, (0.0, seconds))
    return saving(record, (0.0, sum(idle_watts) * seconds), (0.0, seconds))


def small_batch(record: RunRecord) -> Finding | Silence:
    """Find GPUs with low utilization and free memory, which allow a larger batch.

    Source: Latif et al. 2025, arXiv 2412.08602: a batch of 4096 in place of 512 images took a quarter of the energy
    for ResNet on 8 H100; You, Chung, Chowdhury 2023 (Zeus, NSDI'23), arXiv 2208.06102: batch size and power limit
    together saved 15 to 76 %.
    """
    rule = "small-batch"
    seconds, used = in_training(record)
    cards = [card for card in gpus(record) if card.id in used]
    busy = mean([ratio for card in cards if (ratio := used[card.id].utilization_ratio) is not None and ratio >= 0.01])
    if busy is None:
        return Silence(rule, "the GPUs' utilization in training is not known")
    if busy >= BUSY_RATIO or busy < IDLE_BELOW_RATIO:
        return Silence(rule, f"the GPUs' utilization in training was {_format.percent(busy)}: neither low nor idle")
    full = [
        card.usage.memory_max_bytes / card.memory_total_bytes
        for card in cards
        if card.usage.memory_max_bytes is not None and card.memory_total_bytes
    ]
    if not full:
        return Silence(rule, "the GPUs' memory is not known")
    if max(full) > FREE_RATIO:
        return Silence(rule, f"the fullest GPU had {_format.percent(max(full))} of its memory in use: no room")
    most = seconds * (1 - busy / FULL_RATIO)
    batch = (record.trainer.get("training_args") or {}).get("per_device_train_batch_size")
    batch_words = f"; the batch is {batch} a device" if batch else ""
    return Finding(
        rule, "Attempt a larger batch", (
            f"GPU utilization in training was {_format.percent(busy)}, and the fullest GPU used "
            f"{_format.percent(max(full))} of its memory{batch_words}",
        ),
        "double the batch as long as it fits (less accumulation keeps the effective batch); compare J a sample in "
        "short runs with 'greenml compare', and check that the model learns as well",
        _feed(record, most),
        (
            f"at most: training at {FULL_RATIO:.0%} utilization, {_format.duration(most)} shorter; only the GPUs' idle "
            "power of that time is saved",
        ),
        "Latif et al. 2025, arXiv 2412.08602; You et al. 2023 (Zeus), arXiv 2208.06102",
    )  # fmt: skip


def input_bound(record: RunRecord) -> Finding | Silence:
    """Find training in which GPUs wait while the CPUs, or one CPU core, are fully used.

    Source: PyTorch, Performance Tuning Guide, "Enable asynchronous data loading and augmentation": num_workers of 0
    loads in the training process itself.
    """
    rule = "input-bound"
    steps = [step for step in bins(record) if step.training and step.gpu_busy is not None]
    if not steps:
        return Silence(rule, "no GPU's utilization over the training is in the record")
    waiting = [step for step in steps if (step.gpu_busy or 0.0) < WAITING_RATIO]
    part = sum(step.seconds for step in waiting) / sum(step.seconds for step in steps)
    if part < WAITING_SHARE:
        return Silence(rule, f"GPUs were under 50% utilization in {_format.percent(part)} of the training only")
    cpu = mean([step.cpu for step in waiting if step.cpu is not None])
    process = mean([step.process for step in waiting if step.process is not None])
    count = sum(host.cpu_count or 0 for host in record.hosts)
    cores = process * count if process is not None and count else None
    workers = (record.trainer.get("training_args") or {}).get("dataloader_num_workers")
    if cpu is not None and cpu >= CPU_FULL_RATIO:
        seen = f"the CPUs were {_format.percent(cpu)} busy then: training waits for them"
    elif cores is not None and workers == 0 and ONE_CORE[0] <= cores <= ONE_CORE[1]:
        seen = f"the run kept {_format.number(cores, 2)} of {count} CPUs busy then, and dataloader_num_workers is 0"
    elif cpu is None and cores is None:
        return Silence(rule, "GPUs waited, but what the CPUs did then is not known")
    else:
        return Silence(
            rule, "GPUs waited while the CPUs had time: disk, network or the model itself; nothing tells which"
        )
    most = sum(step.seconds * max(0.0, 1 - (step.gpu_busy or 0.0) / FULL_RATIO) for step in waiting)
    return Finding(
        rule, "Feed the GPUs faster",
        (f"in {_format.percent(part)} of the training the GPUs were under 50% utilization; {seen}",),
        "load with several worker processes and pinned memory; tokenize and resize once, before training; or take a "
        "machine with more CPUs a GPU",
        _feed(record, most),
        (f"at most: those stretches at {FULL_RATIO:.0%} utilization, {_format.duration(most)} shorter",),
        "PyTorch Performance Tuning Guide, asynchronous data loading",
    )  # fmt: skip


NEAR_LIMIT_RATIO = 0.60  # mean power over the limit: under it a lower limit changes little
LOWERED_RATIO = 0.98  # of the highest limit: under it somebody lowered it already
NARROW_RATIO = 0.9  # the lowest limit over the highest: above it there is no room
TRIED_RATIO = 0.75  # of the highest limit: where to begin
CAP_SAVED = (0.0, 0.25)  # share of the GPU energy, as published
FULL_PRECISION = ("no", "32", "32-true", "fp32", "float32")
MIXED_SAVED = (0.0, 2 / 3)  # 1 to 3 times as fast, as published


def power_limit(record: RunRecord) -> Finding | Silence:
    """Find GPUs that train near a power limit that can be lowered.

    Source: McDonald et al. 2022, doi 10.18653/v1/2022.findings-naacl.151: 15 % less energy for a language model, with
    little more time; Czarnul et al. 2023, doi 10.1007/978-3-031-48803-0_1: up to 25 % at 160 to 200 W of 260 W; that
    no one limit suits all, arXiv 2603.16164.
    """
    rule = "power-limit"
    cards = gpus(record)
    if not cards:
        return Silence(rule, "no GPU was measured here")
    ranges = [
        limit_range
        for card in cards
        if (limit_range := _range(card.detail.get("power_limit_range_watts", ""))) is not None
    ]
    limits = [card.power_limit_watts for card in cards if card.power_limit_watts is not None]
    if len(ranges) < len(cards) or len(limits) < len(cards):
        return Silence(rule, "the range of the GPUs' power limit is not known")
    used = [usage for card in cards if (usage := in_training(record)[1].get(card.id)) is not None]
    drawn = [usage.power_mean_watts for usage in used if usage.power_mean_watts is not None]
    joules = [usage.energy_joules for usage in used if usage.energy_joules is not None]
    if len(drawn) < len(cards) or len(joules) < len(cards):
        return Silence(rule, "the GPUs' power in training is not known")
    lowest, highest = max(low for low, _ in ranges), min(high for _, high in ranges)
    near = sum(drawn) / sum(limits)
    if (why := _no_room(min(limits), lowest, highest, near)) is not None:
        return Silence(rule, why)
    whole = sum(joules)
    try_watts = max(lowest, TRIED_RATIO * highest)
    saved = saving(record, (CAP_SAVED[0] * whole, CAP_SAVED[1] * whole), None)
    return Finding(
        rule, "Attempt a lower power limit", (
            f"GPUs drew {_format.percent(near)} of their limit in training; it stands at {_format.watts(max(limits))} "
            f"and may be set from {_format.watts(lowest)} to {_format.watts(highest)}",
        ),
        f"run some hundred steps at 'nvidia-smi -pl {try_watts:.0f}' (it needs the administrator) and compare J a "
        "sample and the time; keep it where energy falls by more than time grows",
        saved,
        (
            f"{CAP_SAVED[0]:.0%} to {CAP_SAVED[1]:.0%} of the GPU energy of training ({_format.energy(whole)}), as "
            "published; one measured 15% for a language model",
            "it runs somewhat longer, which costs money where time is billed: not in the figure",
        ),
        "McDonald et al. 2022, doi 10.18653/v1/2022.findings-naacl.151; doi 10.1007/978-3-031-48803-0_1",
    )  # fmt: skip


def _no_room(limit: float, lowest: float, highest: float, near: float) -> str | None:
    """Say why a lower limit would change little; None where it may."""
    if limit < LOWERED_RATIO * highest:
        return f"the power limit is lowered already: {_format.watts(limit)} of {_format.watts(highest)}"
    if lowest > NARROW_RATIO * highest:
        return f"the limit cannot be lowered much: {_format.watts(lowest)} to {_format.watts(highest)}"
    if near < NEAR_LIMIT_RATIO:
        return f"GPUs drew {_format.percent(near)} of their limit in training: a lower one changes little"
    return None


def _range(text: str) -> tuple[float, float] | None:
    low, word, high = text.partition(" to ")
    try:
        return (float(low), float(high)) if word else None
    except ValueError:
        return None


def mixed_precision(record: RunRecord) -> Finding | Silence:
    """Find training in 32 bits on GPUs with tensor cores.

    Source: NVIDIA, Train With Mixed Precision: up to 3 times as fast for the most arithmetically intense models;
    Micikevicius et al. 2018, arXiv 1710.03740.
    """
    rule = "mixed-precision"
    precision = _precision(record)
    if precision is None:
        return Silence(rule, "the record does not say in what precision was trained")
    if precision:
        return Silence(rule, f"trained in {precision} already")
    cards = gpus(record)
    if not cards or not all(_has_tensor_cores(card.name) for card in cards):
        return Silence(rule, "no measured GPU that the table knows to have tensor cores")
    seconds, used = in_training(record)
    joules = [used[card.id].energy_joules for card in cards if card.id in used]
    if not joules or any(joule is None for joule in joules):
        return Silence(rule, "the GPUs' energy in training is not known")
    whole = sum(joule or 0.0 for joule in joules)
    saved = saving(
        record, (MIXED_SAVED[0] * whole, MIXED_SAVED[1] * whole), (MIXED_SAVED[0] * seconds, MIXED_SAVED[1] * seconds)
    )
    return Finding(
        rule, "Train in mixed precision", (
            f"training ran in 32 bits on {_parts.hardware(record)}, which has tensor cores, and took "
            f"{_format.energy(whole)} of GPU energy",
        ),
        "set bf16=True (Ampere and newer) or fp16=True, and check that the loss stays the same",
        saved,
        (
            "1 to 3 times as fast at the same power; how much depends on the model",
            "the model's own weights are in 32 bits; the record does not say",
        ),
        "NVIDIA, Train With Mixed Precision; Micikevicius et al. 2018, arXiv 1710.03740",
    )  # fmt: skip


def _precision(record: RunRecord) -> str | None:
    """Return the reduced precision that was trained in, "" for 32 bits, None where the record does not say."""
    arguments, ran = record.trainer.get("training_args") or {}, record.trainer.get("ran") or {}
    engine = record.trainer.get("ds_config_as_run") or record.trainer.get("ds_config") or {}
    for name in ("bf16", "fp16", "tf32"):
        if arguments.get(name) is True or (isinstance(engine.get(name), dict) and engine[name].get("enabled") is True):
            return name
    precision = ran.get("mixed_precision") or ran.get("precision")
    if precision is not None:
        text = str(precision)
        return "" if text in FULL_PRECISION else text
    return "" if arguments.get("bf16") is False and arguments.get("fp16") is False else None


def _has_tensor_cores(name: str) -> bool:
    known = {row["gpu_model"]: row["fp16_tensor_dense_tflops"] for row in tables.rows("gpus")}
    try:
        return bool(known.get(_gpu_power.find(name).name))
    except SettingsError:
        return False


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
    evaluations = [phase for phase in record.phases if _evaluates(phase, train)]
    if not evaluations:
        return Silence(rule, "no phase 'eval' or 'validate'")
    phase = max(evaluations, key=lambda candidate: candidate.seconds)
    if phase.count < 2:
        return Silence(rule, f"the phase {phase.path} came once: it cannot be done less often")
    total, phase_total = record.total(), record.total(phase.path)
    whole = total.it_energy_joules.value if total is not None else None
    joules = phase_total.it_energy_joules.value if phase_total is not None else None
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
    """Find a cheaper tier whose machines can be preempted, with the checkpoint interval that it needs.

    The interval is sqrt(2 C M) for a checkpoint of C seconds and M seconds between preemptions; it costs a share of
    sqrt(2 C / M) of the time, and each preemption a set-up.

    Source: Young 1974, doi 10.1145/361147.361115; Daly 2006, doi 10.1016/j.future.2004.11.016. Rates: Microsoft Learn,
    Azure Spot Virtual Machines, eviction rates by the hour.
    """
    rule = "preemptible"
    paid_tier = tier(record)
    prices = record.factors.prices
    if paid_tier != "dedicated" or paid_tier not in prices:
        return Silence(
            rule,
            f"the run's tier is {_format.tier(paid_tier)}"
            if paid_tier != "dedicated"
            else "no dedicated price is known",
        )
    name = _cheapest({tier: price for tier, price in prices.items() if not _ended(record, tier, price)})
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
    hourly, other = prices[paid_tier].value * record.place.nodes, prices[name]
    ends = sorted(
        seconds / SECONDS_PER_HOUR * (hourly - price * record.place.nodes * (1 + more))
        for price, more in ((other.low, shares[0]), (other.high, shares[1]))
    )
    if ends[0] <= 0:
        return Silence(rule, f"{_format.tier(name)} saves nothing beyond the uncertainty")
    spent = None if joules is None else (-joules * shares[1], -joules * shares[0])
    interval = math.sqrt(2 * cost * PREEMPTED_HOURS * SECONDS_PER_HOUR / record.place.nodes)
    source_words = "as the phase 'save' took" if saves is not None else "assumed: there is no phase 'save'"
    saved = replace(saving(record, spent, None), usd=(ends[0], ends[1]))
    return Finding(
        rule,
        f"Use {_format.tier(name)} machines",
        (
            f"the run is priced as {_format.price(paid_tier, prices[paid_tier])}",
            f"there is {_format.price(name, other)}",
        ),
        f"save a checkpoint every {_format.number(interval / 60, 2)} min and resume from it (resume=True keeps one "
        "record)",
        saved,
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
    dedicated = prices["dedicated"]
    others = {name: price for name, price in prices.items() if name != "dedicated" and price.value < dedicated.value}
    near = {name: other for name, other in others.items() if days_apart(other, dedicated) <= OLD_DAYS}
    return min(near or others, key=lambda name: others[name].value, default=None)


def cleaner_region(record: RunRecord) -> Finding | Silence:
    """Find the region of the same cloud with the machine and the cleanest grid, by more than the factors' uncertainty.

    Source: as 'greenml what-if' prints it, the factors' own.
    """
    rule = "cleaner-region"
    alternatives = what_if(record, ("regions",))
    if not alternatives.regions:
        return Silence(rule, alternatives.silent.get("regions", "no region to compare with"))
    better = [
        region
        for region in alternatives.regions
        if region.comparable and region.carbon_apart and (region.change_grams or 0.0) < 0
    ]
    if not better:
        return Silence(
            rule, "no region with the machine is cleaner by more than the uncertainty of the factors, on the same basis"
        )
    best = ranked(better, "carbon")[0]
    change, uncertainty = -(best.change_grams or 0.0), carbon_uncertainty(best, alternatives.run)
    usd = None if best.change_usd is None else (-best.change_usd, -best.change_usd)
    return Finding(
        rule, f"Run in {best.name}", _places(alternatives.run, best),
        "move it if data and quota allow; 'greenml what-if' ranks all regions",
        Saving(grams=(change - uncertainty, change + uncertainty), usd=usd),
        ("the same energy and time there", *best.warnings),
        _source(best.factors.carbon_intensity),
    )  # fmt: skip


def cheaper_region(record: RunRecord) -> Finding | Silence:
    """Find the region of the same cloud where the machine costs less, in the run's tier.

    Source: as 'greenml what-if' prints it, the price's own.
    """
    rule = "cheaper-region"
    alternatives = what_if(record, ("regions",))
    if not alternatives.regions:
        return Silence(rule, alternatives.silent.get("regions", "no region to compare with"))
    paid = alternatives.run.usd
    if not paid:
        return Silence(rule, f"no {_format.tier(alternatives.run.tier)} price of the run is known")
    better = [
        region
        for region in alternatives.regions
        if region.cost_apart and (region.change_usd or 0.0) < -LEAST_SHARE * paid
    ]
    dated = [region for region in better if not any(word.startswith("price of") for word in region.warnings)]
    if not dated:
        old = " at prices of the same time" if better else ""
        return Silence(rule, f"no region has the machine for at least {LEAST_SHARE:.0%} less{old}")
    best = ranked(dated, "cost")[0]
    grams = None if best.change_grams is None or not best.comparable else (-best.change_grams, -best.change_grams)
    usd = -(best.change_usd or 0.0)
    return Finding(
        rule, f"Run in {best.name}, where it costs less", _places(alternatives.run, best),
        "move it if data and quota allow; 'greenml what-if --by cost' ranks all regions",
        Saving(grams=grams, usd=(usd, usd)),
        ("the same energy and time there", *best.warnings),
        _source(best.factors.prices.get(best.tier)),
    )  # fmt: skip


def _places(run: Option, other: Option) -> tuple[str, ...]:
    lines = []
    for option in (run, other):
        intensity, pue = option.factors.carbon_intensity, option.factors.pue
        price = option.factors.prices.get(option.tier)
        parts = [
            f"{_format.number(intensity.value, 4)} g/kWh {intensity.basis} {intensity.year or ''}".strip()
            if intensity
            else "",
            f"PUE {_format.number(pue.value, 4)}" if pue else "",
            f"${_format.number(price.value)} an hour, {_format.tier(option.tier)}" if price else "",
        ]
        lines.append(f"{option.name}: {', '.join(part for part in parts if part)}")
    return tuple(lines)


def _source(factor: Factor | None) -> str:
    return _format.source(factor.source) if factor is not None else ""


# A rule says something only where the record holds what it needs, and is one function with its source.
Rule = Callable[[RunRecord], Finding | Silence]
RULES: tuple[Rule, ...] = (
    idle_gpus,
    small_batch,
    input_bound,
    evaluation,
    preemptible,
    cleaner_region,
    cheaper_region,
    power_limit,
    mixed_precision,
)


@dataclass(frozen=True, slots=True)
class Advice:
    """The findings on a run.

    Attributes:
        name: of the run.
        findings: the largest share of energy, carbon or money first. They overlap: their savings do not add up.
        silent: the rules that have nothing to say, each with the reason.
    """

    name: str
    findings: tuple[Finding, ...]
    silent: tuple[Silence, ...]


def _weighed(record: RunRecord, finding: Finding) -> Finding:
    part, of = share(record, finding.saving)
    return replace(finding, share=part, share_of=of)


def advise(record: RunRecord) -> Advice:
    """Apply every rule to a run and return the findings.

    Args:
        record: accounted.
    """
    answers = [rule(record) for rule in RULES]
    findings = [_weighed(record, answer) for answer in answers if isinstance(answer, Finding)]
    return Advice(
        name=record.name or record.run_id,
        findings=tuple(sorted(findings, key=lambda finding: -finding.share)),
        silent=tuple(answer for answer in answers if isinstance(answer, Silence)),
    )


def render(advice: Advice, *, every: bool = False, width: int = 100) -> str:
    """Render the findings; with ``every``, or without findings, also the reasons of the rules that have none.

    Args:
        advice: what was found.
        every: also the rules that have nothing to say.
        width: columns.
    """
    count = len(advice.findings)
    name = redaction.printable_line(advice.name)
    head = f"Advice for {name}: {count or 'no'} finding{'' if count == 1 else 's'} from {len(RULES)} rules."
    lines = [head]
    if count > 1:
        text = "By the largest share of energy, carbon or cost. What they save overlaps: the figures do not add up."
        lines += _format.wrapped(text, width)
    for number, finding in enumerate(advice.findings, 1):
        lines += ["", *_finding(number, finding, width)]
    if every or not count:
        lines += ["", "Looked at, with nothing to say"]
        lines += _format.points([f"{silence.rule}: {silence.why}." for silence in advice.silent], width)
    elif advice.silent:
        lines += ["", f"{len(advice.silent)} rules have nothing to say of this run; --all says why."]
    return redaction.printable_lines("\n".join(lines) + "\n")


def _finding(number: int, finding: Finding, width: int) -> list[str]:
    lines = [f"{number}. {finding.title} ({finding.rule})"]
    rows = [
        ("Saves", _saved(finding)),
        *(("Seen", text) for text in finding.evidence),
        ("Do", finding.advice),
        *(("Assumed", text) for text in finding.assumes),
        ("Source", finding.source),
    ]
    last = ""
    for name, text in rows:
        mark = f"{'' if name == last else name:<9}"
        lines += _format.wrapped(text, width, mark=mark, by=3)
        last = name
    return lines


def _saved(finding: Finding) -> str:
    saving = finding.saving
    pairs: tuple[tuple[Range | None, Callable[[float], str]], ...] = (
        (saving.usd, _format.money),
        (saving.joules, _format.energy),
        (saving.grams, _format.mass),
    )
    gains = [_saving_interval(*values, write) for values, write in pairs if values is not None and values[1] > 0]
    costs = [
        _saving_interval(-values[1], -values[0], write)
        for values, write in pairs
        if values is not None and values[1] < 0
    ]
    if not gains and not costs:
        return "what it saves is not known"
    text = ", ".join(gains)
    if finding.share > 0:
        text += f" (at mid-range {_format.percent(finding.share)} of the run's {finding.share_of})"
    return "; ".join([text, *([f"but takes {', '.join(costs)} more"] if costs else [])])


def _saving_interval(low: float, high: float, write: Callable[[float], str]) -> str:
    """Write the interval of a saving: up to a value, from one to another, or between more and less."""
    if low < 0:
        return f"between {write(-low)} more and {write(high)} less"
    if low == 0:
        return f"up to {write(high)}"
    return _format.interval(low, high, write) or write(high)
