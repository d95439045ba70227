"""A run's hyperparameters in a card: what was chosen, without paths, reporters and untouched defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenml.record import RunRecord
from greenml.reports import _card_blocks, _card_facts, _markdown_text

# Arguments of a Trainer that say nothing of the model: files, reporters, the hub, how the machine is used.
_HOUSEKEEPING = ("logging_", "save_", "hub_", "push_to_hub", "trackio_", "ddp_", "dataloader_", "eval_")
_HOUSEKEEPING_NAMES = frozenset(
    (
        "_n_gpu", "accelerator_config", "batch_eval_metrics", "debug", "deepspeed", "disable_tqdm", "do_eval",
        "do_predict", "do_train", "enable_jit_checkpoint", "evaluation_strategy", "fp16_backend", "greater_is_better",
        "ignore_data_skip", "include_for_metrics", "include_inputs_for_metrics", "include_num_input_tokens_seen",
        "include_tokens_per_second", "jit_mode_eval", "label_names", "length_column_name", "local_rank", "log_level",
        "log_level_replica", "log_on_each_node", "mp_parameters", "n_gpu", "no_cuda", "output_dir",
        "overwrite_output_dir", "parallelism_config", "past_index", "prediction_loss_only", "project", "ray_scope",
        "remove_unused_columns", "report_to", "restore_callback_states_from_checkpoint", "resume_from_checkpoint",
        "run_name", "skip_memory_metrics", "use_cpu", "use_ipex", "use_mps_device",
    )
)  # fmt: skip
# What cards show first, and a seed or a weight decay of 0 too.
_USUAL = (
    "fp16", "bf16", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "effective_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "weight_decay",
    "seed",
)  # fmt: skip
# Defaults of transformers' TrainingArguments that are not empty (training_args.py, versions 4.57 and 5): of a
# training_args.json with every argument, these nobody chose.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "max_steps": (-1,), "lr_scheduler_type": ("linear",), "adam_beta1": (0.9,), "adam_beta2": (0.999,),
    "adam_epsilon": (1e-8,), "max_grad_norm": (1.0,), "average_tokens_across_devices": (True,),
    "train_sampling_strategy": ("random",), "half_precision_backend": ("auto",), "fp16_opt_level": ("O1",),
    "optim": ("adamw_torch", "adamw_torch_fused"),
}  # fmt: skip
_EVERY_ARGUMENT = 60  # a dump of TrainingArguments has over a hundred keys, what a person writes has not


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples a step of the optimizer, and how they come about."""

    size: int
    how: str


def section(record: RunRecord) -> str:
    """Render the block of hyperparameters; empty where the record has none."""
    chosen = hyperparameters(record)
    if not chosen:
        return ""
    parts = ["## Hyperparameters"]
    batch = effective_batch(record)
    if batch is None:
        return "\n\n".join([*parts, _card_blocks.yaml(chosen)])
    chosen = _ordered({**chosen, "effective_batch_size": batch.size})
    return "\n\n".join([*parts, _card_blocks.yaml(chosen), _markdown_text.bullets([batch.how])])


def hyperparameters(record: RunRecord) -> dict[str, Any]:
    """Return what was chosen for a run; of a Trainer's arguments those that matter to the model, the usual ones first.

    Where a record holds every argument of a Trainer, those at their defaults are left out.
    """
    if not isinstance(record.trainer.get("training_args"), Mapping):
        return dict(record.params)
    everything = len(record.params) >= _EVERY_ARGUMENT
    return _ordered({key: value for key, value in record.params.items() if _was_chosen(key, value, everything)})


def _ordered(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: values[key] for key in _USUAL if key in values}, **values}


def _was_chosen(key: str, value: Any, everything: bool) -> bool:  # noqa: ANN401
    if key.startswith(_HOUSEKEEPING) or key in _HOUSEKEEPING_NAMES or value in (None, "", [], {}):
        return False
    if not everything:
        return True
    if key in _USUAL:
        return value is not False and value not in _DEFAULTS.get(key, ())
    return bool(value) and value not in _DEFAULTS.get(key, ())


def effective_batch(record: RunRecord) -> Batch | None:
    """Return the effective batch size; None where the record does not tell what it is made of."""
    params = record.params
    each, steps = params.get("per_device_train_batch_size"), params.get("gradient_accumulation_steps", 1)
    if not _is_count(each) or not _is_count(steps):
        return None
    count, known = _devices(record)
    size = each * steps * count
    if not count or params.get("effective_batch_size", size) != size:
        return None
    accumulated = f" x {steps} steps of accumulation" if steps > 1 else ""
    return Batch(size, f"effective_batch_size: {size} = {each} per device x {count} {known}{accumulated}.")


def _is_count(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _devices(record: RunRecord) -> tuple[int, str]:
    ran = record.trainer.get("ran")
    told = ran.get("world_size") if isinstance(ran, Mapping) else None
    for world in (told, record.params.get("world_size"), record.environment.world_size):
        if isinstance(world, int) and world > 0:
            return world, f"process{'es' if world > 1 else ''}"
    count, known = _card_facts.gpu_count(record)
    return count, f"GPU{'s' if count > 1 else ''} ({known}; it is assumed that all of them trained)"
