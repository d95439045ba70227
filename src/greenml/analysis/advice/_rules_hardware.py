"""Advice on what the GPUs can do: their power limit and their tensor cores."""

from __future__ import annotations

from greenml import tables
from greenml.analysis import _gpu_power
from greenml.analysis.advice._finding import Finding, Silence, gpus, in_training, saving
from greenml.errors import SettingsError
from greenml.record import RunRecord
from greenml.reports import _format, _machine

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
    ranges = [told for one in cards if (told := _range(one.detail.get("power_limit_range_watts", ""))) is not None]
    limits = [one.power_limit_watts for one in cards if one.power_limit_watts is not None]
    if len(ranges) < len(cards) or len(limits) < len(cards):
        return Silence(rule, "the range of the GPUs' power limit is not known")
    used = [usage for one in cards if (usage := in_training(record)[1].get(one.id)) is not None]
    drawn = [one.power_mean_watts for one in used if one.power_mean_watts is not None]
    joules = [one.energy_joules for one in used if one.energy_joules is not None]
    if len(drawn) < len(cards) or len(joules) < len(cards):
        return Silence(rule, "the GPUs' power in training is not known")
    lowest, highest = max(low for low, _ in ranges), min(high for _, high in ranges)
    near = sum(drawn) / sum(limits)
    if (why := _no_room(min(limits), lowest, highest, near)) is not None:
        return Silence(rule, why)
    whole = sum(joules)
    try_watts = max(lowest, TRIED_RATIO * highest)
    found = saving(record, (CAP_SAVED[0] * whole, CAP_SAVED[1] * whole), None)
    return Finding(
        rule, "Try a lower power limit", (
            f"GPUs drew {_format.percent(near)} of their limit in training; it stands at {_format.watts(max(limits))} "
            f"and may be set from {_format.watts(lowest)} to {_format.watts(highest)}",
        ),
        f"run some hundred steps at 'nvidia-smi -pl {try_watts:.0f}' (it needs the administrator) and compare J a "
        "sample and the time; keep it where energy falls by more than time grows",
        found,
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
    told = _precision(record)
    if told is None:
        return Silence(rule, "the record does not say in what precision was trained")
    if told:
        return Silence(rule, f"trained in {told} already")
    cards = gpus(record)
    if not cards or not all(_has_tensor_cores(one.name) for one in cards):
        return Silence(rule, "no measured GPU that the table knows to have tensor cores")
    seconds, used = in_training(record)
    joules = [used[one.id].energy_joules for one in cards if one.id in used]
    if not joules or any(one is None for one in joules):
        return Silence(rule, "the GPUs' energy in training is not known")
    whole = sum(one or 0.0 for one in joules)
    found = saving(
        record, (MIXED_SAVED[0] * whole, MIXED_SAVED[1] * whole), (MIXED_SAVED[0] * seconds, MIXED_SAVED[1] * seconds)
    )
    return Finding(
        rule, "Train in mixed precision", (
            f"training ran in 32 bits on {_machine.hardware(record)}, which has tensor cores, and took "
            f"{_format.energy(whole)} of GPU energy",
        ),
        "set bf16=True (Ampere and newer) or fp16=True, and check that the loss stays the same",
        found,
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
    said = ran.get("mixed_precision") or ran.get("precision")
    if said is not None:
        text = str(said)
        return "" if text in FULL_PRECISION else text
    return "" if arguments.get("bf16") is False and arguments.get("fp16") is False else None


def _has_tensor_cores(name: str) -> bool:
    known = {row["gpu_model"]: row["fp16_tensor_dense_tflops"] for row in tables.rows("gpus")}
    try:
        return bool(known.get(_gpu_power.find(name).name))
    except SettingsError:
        return False
