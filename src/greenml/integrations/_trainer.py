"""Reads the Hugging Face Trainer's configuration and state, and wraps its methods that have no hook."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import get_last_checkpoint

import greenml
from greenml.accounting.status import Expected, ForecastRatio
from greenml.integrations._callback import batch_size

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


def _untyped(value: Any) -> Any:  # noqa: ANN401  parts of transformers have no types
    return value


def arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the arguments that differ from the defaults, and the arithmetic of the batch."""
    facts = _untyped(args).to_dict()
    # From the fields: a second TrainingArguments would reset the state that accelerate shares.
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    defaults |= {
        field.name: field.default_factory()
        for field in dataclasses.fields(args)
        if field.default_factory is not dataclasses.MISSING
    }
    usual = _untyped(AcceleratorConfig)().to_dict()  # filled in where nobody gave any
    given = facts.get("accelerator_config")
    if isinstance(given, Mapping):
        facts["accelerator_config"] = {name: value for name, value in given.items() if value != usual.get(name)}
    if not facts.get("fsdp"):
        facts.pop("fsdp_config", None)
    changed = {
        name: value
        for name, value in facts.items()
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
    """Count parameters; a partition of ZeRO-3 has none of its own, and holds the number of the whole."""

    def count(parameter: torch.nn.Parameter) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    all_parameters = list(model.parameters())
    return {
        "parameters": sum(count(parameter) for parameter in all_parameters),
        "trainable_parameters": sum(count(parameter) for parameter in all_parameters if parameter.requires_grad),
    }


def setup(args: TrainingArguments, trainer: Trainer | None) -> dict[str, Any]:
    """Return what is known before training: arguments, model, DeepSpeed's configuration."""
    facts: dict[str, Any] = {"training_args": json.loads(_untyped(args).to_json_string())}
    config = args.deepspeed
    if isinstance(config, str) and Path(config).is_file():
        config = json.loads(Path(config).read_text(encoding="utf-8"))
    if isinstance(config, Mapping):
        facts["ds_config"] = dict(config)
    if trainer is not None and trainer.model is not None:
        name = getattr(getattr(trainer.model, "config", None), "_name_or_path", "") or type(trainer.model).__name__
        facts["model"] = {"name": name, "class": type(trainer.model).__name__, **parameters(trainer.model)}
        facts["model"] |= shape(getattr(trainer.model, "config", None))
    return facts


# What the model's configuration calls them; transformers maps a model's own names on the first of each.
_SHAPE = {
    "layers": ("num_hidden_layers",),
    "decoder_layers": ("decoder_layers", "num_decoder_layers"),
    "hidden_size": ("hidden_size",),
    "heads": ("num_attention_heads",),
}


def shape(config: object) -> dict[str, int]:
    """Return layers, width and attention heads of a model, as far as its configuration has them."""
    known = {
        name: next((value for key in keys if isinstance(value := getattr(config, key, None), int)), None)
        for name, keys in _SHAPE.items()
    }
    return {name: value for name, value in known.items() if value is not None}


def ran(trainer: Trainer | None, state: TrainerState, counts: Mapping[str, float]) -> dict[str, Any]:
    """Return what really ran, not what was asked for: world size, engine, ZeRO stage, floating point operations."""
    facts: dict[str, Any] = {
        "trainer_state": {
            "max_steps": state.max_steps,
            "global_step": state.global_step,
            "num_train_epochs": state.num_train_epochs,
            "total_flos": state.total_flos,
        }
    }
    if trainer is None:
        return facts
    engine: Any = getattr(trainer, "deepspeed", None)
    stage = engine.zero_optimization_stage() if hasattr(engine, "zero_optimization_stage") else None
    facts["ran"] = {
        "world_size": trainer.args.world_size,
        "distributed_type": str(getattr(trainer.accelerator.distributed_type, "value", "")),
        "mixed_precision": str(trainer.accelerator.mixed_precision),
        "deepspeed_zero_stage": stage,
        "device": str(trainer.args.device.type),
    }
    if engine is not None:
        facts["ds_config_as_run"] = dict(engine.config)
    facts["model"] = {**setup(trainer.args, trainer).get("model", {}), **parameters(_untyped(trainer.model))}
    flos, source = float(state.total_flos or 0.0), "the Trainer"
    if not flos and counts.get("tokens"):
        # 6 N a token: Kaplan et al. 2020, arXiv 2001.08361, section 2.1; the Trainer's own is 0 under ZeRO-3.
        flos = 6.0 * facts["model"]["parameters"] * counts["tokens"] * trainer.args.world_size
        source = "6 x parameters x tokens of rank 0 x world size"
    facts["flops"] = {"total": flos, "from": source}
    return facts


def size(inputs: Any, trainer: Trainer | None) -> tuple[int, int]:  # noqa: ANN401  a batch may be anything
    """Return a batch's samples and tokens, padding included, from its shapes alone; 0 is not known."""
    return batch_size(inputs, getattr(trainer.model if trainer else None, "main_input_name", None) or "input_ids")


def holds_pairs(inputs: Any, trainer: Trainer | None, samples: int) -> bool:  # noqa: ANN401
    """Return whether a batch has two rows a sample: TRL's preferences, the chosen ones and then the rejected ones.

    They have no labels, and up to twice as many rows as the loader was asked for.
    """
    asked: int = getattr(trainer, "_train_batch_size", 0)
    labelled = not isinstance(inputs, Mapping) or any("label" in str(name) for name in inputs)
    return not labelled and 0 < asked < samples <= 2 * asked


def not_counted(samples: int, tokens: int, inputs: Any) -> str:  # noqa: ANN401
    """Return what a batch does not show, for a note; "" where nothing is missing, or the model has no tokens."""
    if not samples:
        return f"samples and tokens are not counted: a batch is a {type(inputs).__name__} in which no tensor is found"
    rows = inputs if isinstance(inputs, list | tuple) else [inputs]
    texts = any(isinstance(value, str | list) for row in rows if isinstance(row, Mapping) for value in row.values())
    return "tokens are not counted: the batches hold texts, which the training tokenizes itself" * (
        texts and not tokens
    )


def any_rank(value: bool, args: TrainingArguments) -> bool:
    """Tell whether it is true in any rank: all must stop at the same step."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return value
    highest = torch.tensor([float(value)], device=args.device)
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
    return bool(highest.item() > 0)


def figures(totals: greenml.RunningTotals, expected: Expected | None, tier: str) -> dict[str, float]:
    """Return the running totals under the names that reporters show; unknown ones are left out."""
    known = totals.figures(tier)
    for name in _EXPECTED_FIGURES if expected is not None else ():
        growth = _growth_of(name, expected)
        if name in known and growth is not None:
            known[name.replace("green/", "green/expected_")] = known[name] * growth.ratio
    return known


_EXPECTED_FIGURES = ("green/energy_kwh", "green/co2e_kg", "green/cost_usd")


def _growth_of(name: str, expected: Expected | None) -> ForecastRatio | None:
    """Return the expected growth of a total: that of time for the cost, that of energy for the others."""
    if expected is None:
        return None
    return expected.seconds if name == "green/cost_usd" else expected.energy


def show(trainer: Trainer | None, totals: greenml.RunningTotals, expected: Expected | None, tier: str) -> None:
    """Put the totals behind the Trainer's progress bar."""
    bars = (
        (getattr(callback, "training_bar", None) for callback in trainer.callback_handler.callbacks) if trainer else ()
    )
    bar = next((bar for bar in bars if hasattr(bar, "set_postfix_str")), None)
    if bar is None:
        return
    known = figures(totals, None, tier)
    parts = [
        f"{mark}{known[name]:.3g}{_of(known[name], _growth_of(name, expected))}{unit}"
        for name, mark, unit in zip(_EXPECTED_FIGURES, ("", "", "$"), (" kWh", " kg", ""), strict=True)
        if name in known
    ]
    bar.set_postfix_str(", ".join(parts), refresh=False)


def _of(value: float, growth: ForecastRatio | None) -> str:
    if growth is None:
        return ""
    return f" of {value * growth.ratio:.3g} ({value * growth.low:.3g} to {value * growth.high:.3g})"


def writers(trainer: Trainer | None) -> list[object]:
    """Return the writers of TensorBoard that the Trainer's reporters have open."""
    callbacks = trainer.callback_handler.callbacks if trainer is not None else ()
    return [writer for callback in callbacks if (writer := getattr(callback, "tb_writer", None)) is not None]


def has_codecarbon(trainer: Trainer) -> bool:
    """Tell whether transformers' own CodeCarbon callback is active too."""
    return any(type(callback).__name__ == "CodeCarbonCallback" for callback in trainer.callback_handler.callbacks)


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


def best(result: Any) -> Any:  # noqa: ANN401  a BestRun, a list of them, or None
    """Return the best of a search as the record keeps it."""
    if isinstance(result, list):
        return [best(trial) for trial in result]
    return {name: getattr(result, name, None) for name in ("run_id", "objective", "hyperparameters")}


# Wraps of one Trainer's own methods.

PHASES = {"evaluate": "eval", "predict": "predict", "_save_checkpoint": "save", "save_model": "save"}
WITH_RESULTS = ("evaluate", "predict")


class Watcher(Protocol):
    """Who is facts of those moments; none of it raises into the Trainer."""

    def within(self, name: str) -> AbstractContextManager[bool]:
        """Open a phase in place of the one that is open, for a while; gives whether that one is training."""

    def count(self, inputs: Any) -> None:  # noqa: ANN401  a batch may be anything
        """Take note of a batch."""

    def keep_results(self, result: Any) -> None:  # noqa: ANN401  what the method returned
        """Keep the metrics of what ended."""

    def failed(self, error: BaseException) -> None:
        """Training, or a search, ended by an exception."""

    def searched(self, best: Any) -> None:  # noqa: ANN401  as the search's backend has it
        """A hyperparameter search ended."""

    def card(self, path: Path) -> None:
        """The Trainer wrote its model card."""


# Looked for at every call: a Trainer that resumes may put another object in the callback's place.
Find = Callable[[], Watcher | None]
Method = Callable[..., Any]


def wrap(trainer: Trainer, kind: type[TrainerCallback]) -> None:
    """Wrap the methods of this Trainer, and of no other, once; they call its callback of a kind, if it has one."""
    if getattr(trainer.train, "calls_greenml", False):
        return

    def find() -> Any:  # noqa: ANN401  a watcher that is a callback
        return next((callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind)), None)

    wrapped = {
        method: _phase(getattr(trainer, method), name, find, results=method in WITH_RESULTS)
        for method, name in PHASES.items()
        if hasattr(trainer, method)
    }
    wrapped["training_step"] = _step(trainer.training_step, find)
    wrapped["train"] = _whole(trainer.train, find, lambda watcher, result: watcher.keep_results(result))
    search = trainer.hyperparameter_search
    wrapped["hyperparameter_search"] = _whole(search, find, lambda watcher, best: watcher.searched(best))
    wrapped["create_model_card"] = _card(trainer.create_model_card, trainer, find)
    for method, value in wrapped.items():
        setattr(trainer, method, value)


def _phase(original: Method, name: str, find: Find, *, results: bool) -> Method:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        watcher = find()
        if watcher is None:
            return original(*args, **kwargs)
        with watcher.within(name) as training:
            result = original(*args, **kwargs)
        if results and not training:
            watcher.keep_results(result)
        return result

    return wrapped


def _whole(original: Method, find: Find, ended: Callable[[Watcher, Any], None]) -> Method:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            if (watcher := find()) is not None:
                watcher.failed(error)
            raise
        if (watcher := find()) is not None:
            ended(watcher, result)
        return result

    wrapped.calls_greenml = True  # type: ignore[attr-defined]
    return wrapped


def _step(original: Method, find: Find) -> Method:
    @functools.wraps(original)
    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if (watcher := find()) is not None:
            watcher.count(inputs)
        return original(model, inputs, *args, **kwargs)

    return training_step


def _card(original: Method, trainer: Trainer, find: Find) -> Method:
    @functools.wraps(original)
    def create_model_card(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        original(*args, **kwargs)
        if trainer.is_world_process_zero() and (watcher := find()) is not None:
            watcher.card(Path(trainer.args.output_dir or ".") / "README.md")

    return create_model_card


def trainer_calling(callback: TrainerCallback) -> Trainer | None:
    """Find the Trainer that is calling its callback: no hook is given it."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in getattr(caller.callback_handler, "callbacks", ()):
            return caller
        frame = frame.f_back
    return None
