"""What a Lightning Trainer tells of itself: its limits, its model, and what really ran."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def hyperparameters(trainer: Any, module: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what the user's module and data module saved as hyperparameters, and the Trainer's own limits."""
    limits = {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps if trainer.max_steps != -1 else None,
        "gradient_clip_val": trainer.gradient_clip_val,
    }
    told = {name: value for name, value in limits.items() if value is not None}
    for one in (trainer.datamodule, module):
        told |= dict(getattr(one, "hparams", None) or {})
    return told


def steps(trainer: Any) -> int:  # noqa: ANN401
    """Return how many optimizer steps the training will have; 0 where the Trainer cannot tell."""
    try:
        estimated = float(trainer.estimated_stepping_batches)
    except Exception:  # noqa: BLE001  a loader of its own kind may fail in any way
        return 0
    return int(estimated) if 0 < estimated < float("inf") else 0


def batching(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the arithmetic of the batch."""
    loader = trainer.train_dataloader
    size = getattr(loader, "batch_size", None)
    if size is None:  # the loader's own batch sampler
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    told = {"accumulate_grad_batches": trainer.accumulate_grad_batches, "world_size": trainer.world_size}
    if size is not None:
        effective = size * trainer.accumulate_grad_batches * trainer.world_size
        told |= {"per_device_train_batch_size": size, "effective_batch_size": effective}
    return told


def ran(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what really ran, not what was asked for."""
    return {
        "framework": f"{type(trainer).__module__.partition('.')[0]} {_version(trainer)}",
        "accelerator": type(trainer.accelerator).__name__,
        "world_size": trainer.world_size,
        **engine(trainer),
    }


def engine(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what the Trainer's choices became."""
    return {
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "devices": trainer.num_devices,
        "num_nodes": trainer.num_nodes,
    }


def _version(trainer: Any) -> str:  # noqa: ANN401
    return str(getattr(import_module(type(trainer).__module__.partition(".")[0]), "__version__", ""))


def deepspeed(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return DeepSpeed's configuration, if it runs."""
    config = getattr(trainer.strategy, "config", None)
    runs = "DeepSpeed" in type(trainer.strategy).__name__
    return {"ds_config": dict(config)} if runs and isinstance(config, Mapping) else {}


def model(module: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the model's class and size; a partition of ZeRO-3 has no size of its own, and tells the whole's."""
    try:
        every = [(int(getattr(one, "ds_numel", one.numel())), one.requires_grad) for one in module.parameters()]
    except ValueError:  # parameters whose shape the first batch will tell
        every = []
    told: dict[str, Any] = {"name": type(module).__name__, "class": type(module).__name__}
    if every:
        told["parameters"] = sum(size for size, _ in every)
        told["trainable_parameters"] = sum(size for size, trained in every if trained)
    return told


def size(batch: Any) -> tuple[int, int]:  # noqa: ANN401  a batch may be anything
    """Return a batch's samples and tokens, from the shape of its first tensor alone."""
    if isinstance(batch, Mapping):
        ids = batch.get("input_ids")
        if ids is not None and hasattr(ids, "shape"):
            return int(ids.shape[0]), int(ids.numel())
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((found for found in map(size, batch) if found[0]), (0, 0))
    shape: Any = getattr(batch, "shape", ())
    return (int(shape[0]), 0) if len(shape) else (0, 0)
