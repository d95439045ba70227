"""Advice on how the GPUs are used. Each rule is one function: a record in, a finding or a reason for silence out."""

from __future__ import annotations

from greenml import accounting
from greenml.analysis import _gpu_power
from greenml.analysis.advice._finding import Finding, Saving, Silence, bins, gpus, in_training, mean, saving
from greenml.errors import SettingsError
from greenml.record import RunRecord
from greenml.reports import _format

IDLE_RATIO = 0.10  # utilization under which a GPU is idle, as everywhere in greenml
IDLE_SHARE = 0.05  # of GPU time; less is not worth a change
BUSY_RATIO = 0.70  # above it a larger batch brings little
FULL_RATIO = 0.90  # utilization that a well-fed training reaches
FREE_RATIO = 0.60  # of the memory at the peak; above it there is no room for a batch much larger
WAITING_RATIO = 0.50  # utilization under which GPUs wait for something
WAITING_SHARE = 0.10  # of the training
CPU_FULL_RATIO = 0.80
ONE_CORE = (0.7, 1.3)  # cores that a single busy process keeps


def idle_gpus(record: RunRecord) -> Finding | Silence:
    """Find GPU time under 10 % utilization, and what it drew.

    Source: NVML API reference, nvmlDeviceGetUtilizationRates: the share of time in which a kernel ran. The energy is
    this run's own, of those steps of its timeline.
    """
    rule = "idle-gpus"
    line = bins(record)
    if not line:
        return Silence(rule, "no GPU's utilization over time is in the record")
    idle_joules = known_joules = drawn_joules = idle_seconds = known_seconds = all_idle = 0.0
    where: dict[str, float] = {}
    for one in line:
        for watts, busy in zip(one.watts, one.busy, strict=True):
            drawn_joules += (watts or 0.0) * one.seconds
            if busy is None:
                continue
            known_seconds += one.seconds
            known_joules += (watts or 0.0) * one.seconds
            if busy < IDLE_RATIO:
                idle_seconds += one.seconds
                idle_joules += (watts or 0.0) * one.seconds
        if all(busy is not None and busy < IDLE_RATIO for busy in one.busy):
            all_idle += one.seconds
            phase = _phase_at(record, (one.start + one.end) / 2)
            where[phase] = where.get(phase, 0.0) + one.seconds
    part = idle_seconds / known_seconds if known_seconds else 0.0
    scale = _exact_joules(record) / drawn_joules if drawn_joules else 1.0
    idle_joules, known_joules = idle_joules * scale, known_joules * scale
    if part < IDLE_SHARE:
        return Silence(rule, f"GPUs were under 10% utilization for {_format.percent(part)} of their time only")
    evidence = [
        f"{_format.percent(part)} of the GPU time ({_format.duration(idle_seconds)} of "
        f"{_format.duration(known_seconds)}) was under 10% utilization and drew {_format.energy(idle_joules)}, "
        f"{_format.percent(idle_joules / known_joules if known_joules else 0.0)} of the GPU energy"
    ]
    if where:
        parts = ", ".join(
            f"{name} {_format.duration(took)}" for name, took in sorted(where.items(), key=lambda item: -item[1])[:4]
        )
        evidence.append(f"all GPUs idle at once for {_format.duration(all_idle)}: {parts}")
    unused = [
        one.detail.get("index", one.id)
        for one in gpus(record)
        if (one.usage.utilization_ratio or 0.0) < 0.01 and one.usage.utilization_ratio is not None
    ]
    if unused and len(unused) < len(gpus(record)):
        evidence.append(f"GPU {', '.join(unused)} did nothing all the time")
    found = saving(record, (0.0, idle_joules), (0.0, all_idle))
    return Finding(
        rule, "Keep the GPUs busy, or give them back", tuple(evidence),
        "prepare data and download models on a machine without GPUs; use no more GPUs than work; start the next job "
        "where this one waits",
        found, ("at most: all idle GPU energy, and the time in which all GPUs were idle",),
        "this run's timeline; NVML API reference, nvmlDeviceGetUtilizationRates",
    )  # fmt: skip


def _exact_joules(record: RunRecord) -> float:
    """Return the energy of the GPUs that the timeline draws.

    A step of the timeline has mean power, drawn over what was not read of it too: its shape counts, not its sum.
    """
    line = record.timeline.series if record.timeline is not None else []
    drawn = {one.device for one in line if one.utilization_ratio}
    return sum(one.usage.energy_joules or 0.0 for one in gpus(record) if one.id in drawn)


def _phase_at(record: RunRecord, second: float) -> str:
    names = [one.path for one in record.phases if any(start <= second < end for start, end in one.spans)]
    return max(names, key=len, default="outside phases")


def _feed(record: RunRecord, seconds: float) -> Saving:
    """Return what is saved, at the most, when training is this much shorter: the idle power of its GPUs in that time.

    The work itself takes the same energy; only what the GPUs draw for being on is saved.
    """
    idle = []
    for one in gpus(record):
        try:
            there = accounting.presence(one.name, record.duration_seconds, [(one, one.usage)])
            idle.append(_gpu_power.find(one.name).idle_watts * there)
        except SettingsError:
            return saving(record, None, (0.0, seconds))
    return saving(record, (0.0, sum(idle) * seconds), (0.0, seconds))


def small_batch(record: RunRecord) -> Finding | Silence:
    """Find GPUs that are half busy with half of their memory free: room for a larger batch.

    Source: Latif et al. 2025, arXiv 2412.08602: a batch of 4096 in place of 512 images took a quarter of the energy
    for ResNet on 8 H100; You, Chung, Chowdhury 2023 (Zeus, NSDI'23), arXiv 2208.06102: batch size and power limit
    together saved 15 to 76 %.
    """
    rule = "small-batch"
    seconds, used = in_training(record)
    cards = [one for one in gpus(record) if one.id in used]
    busy = mean([ratio for one in cards if (ratio := used[one.id].utilization_ratio) is not None and ratio >= 0.01])
    if busy is None:
        return Silence(rule, "the GPUs' utilization in training is not known")
    if busy >= BUSY_RATIO or busy < IDLE_RATIO:
        return Silence(rule, f"the GPUs' utilization in training was {_format.percent(busy)}: neither low nor idle")
    full = [
        one.usage.memory_max_bytes / one.memory_total_bytes
        for one in cards
        if one.usage.memory_max_bytes is not None and one.memory_total_bytes
    ]
    if not full:
        return Silence(rule, "the GPUs' memory is not known")
    if max(full) > FREE_RATIO:
        return Silence(rule, f"the fullest GPU had {_format.percent(max(full))} of its memory in use: no room")
    most = seconds * (1 - busy / FULL_RATIO)
    batch = (record.trainer.get("training_args") or {}).get("per_device_train_batch_size")
    told = f"; the batch is {batch} a device" if batch else ""
    return Finding(
        rule, "Try a larger batch", (
            f"GPU utilization in training was {_format.percent(busy)}, and the fullest GPU used "
            f"{_format.percent(max(full))} of its memory{told}",
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
    """Find training in which GPUs wait while the CPUs, or one core of them, are full.

    Source: PyTorch, Performance Tuning Guide, "Enable asynchronous data loading and augmentation": num_workers of 0
    loads in the training process itself.
    """
    rule = "input-bound"
    line = [one for one in bins(record) if one.training and one.gpu_busy is not None]
    if not line:
        return Silence(rule, "no GPU's utilization over the training is in the record")
    waiting = [one for one in line if (one.gpu_busy or 0.0) < WAITING_RATIO]
    part = sum(one.seconds for one in waiting) / sum(one.seconds for one in line)
    if part < WAITING_SHARE:
        return Silence(rule, f"GPUs were under 50% utilization in {_format.percent(part)} of the training only")
    cpu = mean([one.cpu for one in waiting if one.cpu is not None])
    process = mean([one.process for one in waiting if one.process is not None])
    count = sum(one.cpu_count or 0 for one in record.hosts)
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
    most = sum(one.seconds * max(0.0, 1 - (one.gpu_busy or 0.0) / FULL_RATIO) for one in waiting)
    return Finding(
        rule, "Feed the GPUs faster",
        (f"in {_format.percent(part)} of the training the GPUs were under 50% utilization; {seen}",),
        "load with several worker processes and pinned memory; tokenize and resize once, before training; or take a "
        "machine with more CPUs a GPU",
        _feed(record, most),
        (f"at most: those stretches at {FULL_RATIO:.0%} utilization, {_format.duration(most)} shorter",),
        "PyTorch Performance Tuning Guide, asynchronous data loading",
    )  # fmt: skip
