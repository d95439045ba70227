"""What a Trainer tells of itself: its arguments, its model, and what really ran."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import get_last_checkpoint

import greenml
from greenml.moment import Band, Expected

# Where a run's files are, and what reporters it has, say nothing of the training.
_NOT_HYPERPARAMETERS = frozenset(
    {
        "output_dir",
        "logging_dir",
        "run_name",
        "report_to",
        "disable_tqdm",
        "local_rank",
        "hub_token",
        "push_to_hub_token",
        "do_train",
        "do_eval",
        "do_predict",
    }
)


def _untyped(one: Any) -> Any:  # noqa: ANN401  parts of transformers have no types
    return one


def arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the arguments that differ from the defaults, and the arithmetic of the batch."""
    told = _untyped(args).to_dict()
    # From the fields: a second TrainingArguments would reset the state that accelerate shares.
    defaults = {one.name: one.default for one in dataclasses.fields(args)}
    defaults |= {
        one.name: one.default_factory()
        for one in dataclasses.fields(args)
        if one.default_factory is not dataclasses.MISSING
    }
    usual = _untyped(AcceleratorConfig)().to_dict()  # filled in where nobody gave any
    given = told.get("accelerator_config")
    if isinstance(given, Mapping):
        told["accelerator_config"] = {name: value for name, value in given.items() if value != usual.get(name)}
    if not told.get("fsdp"):
        told.pop("fsdp_config", None)
    changed = {
        name: value
        for name, value in told.items()
        if name not in _NOT_HYPERPARAMETERS
        and "token" not in name
        and value != defaults.get(name)
        and (value or defaults.get(name))  # False for None, [] for "": set by nobody
    }
    per_device, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    return {
        **changed,
        "learning_rate": args.learning_rate,
        "num_train_epochs": args.num_train_epochs,
        "seed": args.seed,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "world_size": args.world_size,
        "effective_batch_size": per_device * accumulation * args.world_size * max(1, args.n_gpu),
    }


def parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count parameters; a partition of ZeRO-3 has none of its own, and tells the whole's number."""

    def count(one: torch.nn.Parameter) -> int:
        return int(getattr(one, "ds_numel", one.numel()))

    every = list(model.parameters())
    return {
        "parameters": sum(count(one) for one in every),
        "trainable_parameters": sum(count(one) for one in every if one.requires_grad),
    }


def setup(args: TrainingArguments, trainer: Trainer | None) -> dict[str, Any]:
    """Return what is known before training: arguments, model, DeepSpeed's configuration."""
    told: dict[str, Any] = {"training_args": json.loads(_untyped(args).to_json_string())}
    config = args.deepspeed
    if isinstance(config, str) and Path(config).is_file():
        config = json.loads(Path(config).read_text(encoding="utf-8"))
    if isinstance(config, Mapping):
        told["ds_config"] = dict(config)
    if trainer is not None and trainer.model is not None:
        name = getattr(getattr(trainer.model, "config", None), "_name_or_path", "") or type(trainer.model).__name__
        told["model"] = {"name": name, "class": type(trainer.model).__name__, **parameters(trainer.model)}
    return told


def ran(trainer: Trainer | None, state: TrainerState, counts: Mapping[str, float]) -> dict[str, Any]:
    """Return what really ran, not what was asked for: world size, engine, ZeRO stage, floating point operations."""
    told: dict[str, Any] = {
        "trainer_state": {
            "max_steps": state.max_steps,
            "global_step": state.global_step,
            "num_train_epochs": state.num_train_epochs,
            "total_flos": state.total_flos,
        }
    }
    if trainer is None:
        return told
    engine: Any = getattr(trainer, "deepspeed", None)
    stage = engine.zero_optimization_stage() if hasattr(engine, "zero_optimization_stage") else None
    told["ran"] = {
        "world_size": trainer.args.world_size,
        "distributed_type": str(getattr(trainer.accelerator.distributed_type, "value", "")),
        "mixed_precision": str(trainer.accelerator.mixed_precision),
        "deepspeed_zero_stage": stage,
        "device": str(trainer.args.device.type),
    }
    if engine is not None:
        told["ds_config_as_run"] = dict(engine.config)
    told["model"] = {**setup(trainer.args, trainer).get("model", {}), **parameters(_untyped(trainer.model))}
    flos, source = float(state.total_flos or 0.0), "the Trainer"
    if not flos and counts.get("tokens"):
        # 6 N a token: Kaplan et al. 2020, arXiv 2001.08361, section 2.1; the Trainer's own is 0 under ZeRO-3.
        flos = 6.0 * told["model"]["parameters"] * counts["tokens"] * trainer.args.world_size
        source = "6 x parameters x tokens of rank 0 x world size"
    told["flops"] = {"total": flos, "from": source}
    return told


def size(inputs: Any, trainer: Trainer | None) -> tuple[int, int]:  # noqa: ANN401  a batch may be anything
    """Return a batch's samples and tokens, padding included, from its shape alone."""
    name = getattr(trainer.model if trainer else None, "main_input_name", "input_ids")
    main = inputs.get(name) if isinstance(inputs, Mapping) else None
    if not isinstance(main, torch.Tensor):
        return 0, 0
    return int(main.shape[0]), int(main.numel()) if main.dim() > 1 and not main.is_floating_point() else 0


def any_rank(mine: bool, args: TrainingArguments) -> bool:
    """Tell whether any rank says so: all must stop at the same step."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return mine
    said = torch.tensor([float(mine)], device=args.device)
    torch.distributed.all_reduce(said, op=torch.distributed.ReduceOp.MAX)
    return bool(said.item() > 0)


def figures(totals: greenml.Totals, expected: Expected | None, tier: str) -> dict[str, float]:
    """Return the running totals under the names that reporters show; what is not known has no name."""
    known = totals.figures(tier)
    for name in _BANDS if expected is not None else ():
        band = _band_of(name, expected)
        if name in known and band is not None:
            known[name.replace("green/", "green/expected_")] = known[name] * band.ratio
    return known


_BANDS = ("green/energy_kwh", "green/co2e_kg", "green/cost_usd")


def _band_of(name: str, expected: Expected | None) -> Band | None:
    """Return what a total is expected to grow by: money is a matter of time, the rest one of energy."""
    if expected is None:
        return None
    return expected.seconds if name == "green/cost_usd" else expected.energy


def show(trainer: Trainer | None, totals: greenml.Totals, expected: Expected | None, tier: str) -> None:
    """Put the totals behind the Trainer's progress bar."""
    bars = (getattr(one, "training_bar", None) for one in trainer.callback_handler.callbacks) if trainer else ()
    bar = next((one for one in bars if hasattr(one, "set_postfix_str")), None)
    if bar is None:
        return
    known = figures(totals, None, tier)
    parts = [
        f"{mark}{known[name]:.3g}{_of(known[name], _band_of(name, expected))}{unit}"
        for name, mark, unit in zip(_BANDS, ("", "", "$"), (" kWh", " kg", ""), strict=True)
        if name in known
    ]
    bar.set_postfix_str(", ".join(parts), refresh=False)


def _of(value: float, band: Band | None) -> str:
    if band is None:
        return ""
    return f" of {value * band.ratio:.3g} ({value * band.low:.3g} to {value * band.high:.3g})"


def has_codecarbon(trainer: Trainer) -> bool:
    """Tell whether transformers' own CodeCarbon callback is active too."""
    return any(type(one).__name__ == "CodeCarbonCallback" for one in trainer.callback_handler.callbacks)


def before(output: Path) -> greenml.RunRecord | None:
    """Return the record that is at an output; None where there is none that can be read."""
    try:
        return greenml.open_record(output)
    except greenml.GreenMLError:
        return None


def left_unfinished(record: greenml.RunRecord | None, folder: Path) -> bool:
    """Tell whether a run was cut short, or stopped by a budget, and left a checkpoint."""
    if record is None or record.status == "running":
        return False
    if record.status == "completed" and not record.trainer.get("stopped_for"):
        return False
    return folder.is_dir() and _untyped(get_last_checkpoint)(str(folder)) is not None


def trial(trainer: Trainer | None, args: TrainingArguments, state: TrainerState) -> tuple[Path, str, dict[str, Any]]:
    """Return where a hyperparameter search is, a trial's name, and its hyperparameters."""
    number = getattr(getattr(trainer, "_trial", None), "number", None)
    name = state.trial_name or (str(number) if number is not None else str(int(time.time() * 1000)))
    return Path(args.output_dir or "."), name.replace("/", "-"), dict(state.trial_params or {})


def best(found: Any) -> Any:  # noqa: ANN401  a BestRun, a list of them, or None
    """Return the best of a search as the record keeps it."""
    if isinstance(found, list):
        return [best(one) for one in found]
    return {name: getattr(found, name, None) for name in ("run_id", "objective", "hyperparameters")}
