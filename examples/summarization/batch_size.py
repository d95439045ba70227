"""The largest batch that fits: powers of two up to a bound, each tried with one step on the longest samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    size: int  # 0: not even one sample fits
    tried: tuple[int, ...]
    ended_by: str  # "memory" or "bound"


def largest_power_of_two(fits: Callable[[int], bool], bound: int) -> Found:
    """Try 1, 2, 4, ... up to a bound, until one does not fit.

    From below: a step that runs out of memory is tried once and not on the way down from the bound.
    """
    size, tried = 0, []
    while (candidate := 2 * size or 1) <= bound:
        tried.append(candidate)
        if not fits(candidate):
            return Found(size, tuple(tried), "memory")
        size = candidate
    return Found(size, tuple(tried), "bound")


def search(trainer: Any, bound: int) -> Found:
    """Search for a Trainer that has not trained yet; its model is as before afterwards.

    A step is forward, backward and optimizer of the model as a whole, so that gradients and the optimizer's state are
    in memory. Every rank searches for itself, and the smallest result counts. What ZeRO would save is not seen.
    """
    model, args = trainer.model, trainer.args
    weights = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    rows = sorted(trainer.train_dataset, key=lambda row: len(row["input_ids"]) + len(row["labels"]), reverse=True)
    columns = [name for name in ("input_ids", "attention_mask", "labels") if name in rows[0]]

    def fits(size: int) -> bool:
        longest = (rows * (size // len(rows) + 1))[:size]
        try:
            _step(trainer, trainer.data_collator([{name: row[name] for name in columns} for row in longest]))
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            return _every_rank(args, value=False)
        finally:
            model.zero_grad(set_to_none=True)
            trainer.optimizer = None
            clear_device_cache(garbage_collection=True)
        return _every_rank(args, value=True)

    model.train()
    found = largest_power_of_two(fits, bound)
    model.load_state_dict(weights)
    if found.size:
        args.per_device_train_batch_size = found.size
        trainer._train_batch_size = args.train_batch_size
    return found


def _step(trainer: Any, batch: dict[str, Any]) -> None:
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    trainer.create_optimizer().step()


def _every_rank(args: Any, *, value: bool) -> bool:
    """Tell whether it holds in every rank: all of them go on to the same size."""
    if not torch.distributed.is_initialized():
        return value
    lowest = torch.tensor([float(value)], device=args.device)
    torch.distributed.all_reduce(lowest, op=torch.distributed.ReduceOp.MIN)
    return bool(lowest.item() > 0)
