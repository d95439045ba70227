"""The Hugging Face Trainer's callback: one line in a Trainer, and its model card tells what the training took.

Behind the callback stands what reads the Trainer's configuration and state, and wraps its methods that have no hook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import get_last_checkpoint

import greenml
from greenml.accounting.status import Expected, Forecast, ForecastRatio
from greenml.integrations import batch_size, quiet
from greenml.integrations._trainer_run import Budget, TrainerRun

log = logging.getLogger("greenml")
LOOK_SECONDS = 1.0  # the running totals are looked up no oftener between logs
COUNT_SECONDS = 10.0  # nor are counts written oftener: a killed run has them up to then


class GreenCallback(TrainerCallback):
    """Measures a Trainer's life: setup, train, eval, predict and save, and what that took.

    Every rank may carry it, and with a budget every rank must: each device is measured once. World rank 0 writes
    ``run.json`` into ``output_dir``, and the tables into the model card that the Trainer writes.

    The running totals go to every reporter, and not into the Trainer's state or its ``log_history``: two equal
    trainings have equal states and checkpoints. When the run of the next Trainer of this process begins, or this
    Trainer is deleted, its run ends with the last ``train()``, ``evaluate()`` or ``predict()``.

    Args:
        output: where the record goes; ``run.json`` in the Trainer's ``output_dir`` by default.
        max_usd: stop after this much money, at the price of ``tier`` (dedicated by default).
        max_kg: stop after this many kg CO2e.
        max_kwh: stop after this many kWh. Each acts at a step's end: a checkpoint is saved, training ends cleanly.
        dry_run: budgets only warn.
        resume: True adds an attempt to the run that is in ``output_dir``; None does so where that run did not end
            by itself, or at a budget, and left a checkpoint.
        settings: all other arguments of ``greenml.track()``.

    Raises:
        SettingsError: a value is wrong; one line says what would be right.
    """

    def __init__(
        self,
        output: str | Path | None = None,
        *,
        max_usd: float | None = None,
        max_kg: float | None = None,
        max_kwh: float | None = None,
        dry_run: bool = False,
        resume: bool | None = None,
        **settings: Any,  # noqa: ANN401  greenml.track() knows them
    ) -> None:
        self._created_seconds: float | None = time.monotonic()
        self._output, self._resume, self._settings = output, resume, settings
        checked = greenml.track(output, **settings).settings
        self._budget = Budget(max_usd, max_kg, max_kwh, checked.tier or "dedicated", dry_run=dry_run)
        self._budget.check(checked)
        self._runs = TrainerRun(settings)
        self._trainer_ref: weakref.ref[Trainer] | None = None  # a callback that is kept keeps no Trainer
        self._forecast = Forecast()
        self._first_epoch = 0.0
        self._pairs = False  # a batch has two rows a sample
        self._looked_seconds = self._counted_seconds = 0.0
        self._troubles: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run and the Trainer behind: a copy measures a run of its own."""
        left_behind = {"_runs": TrainerRun(self._settings), "_created_seconds": None, "_trainer_ref": None}
        return {**self.__dict__, **left_behind}

    @property
    def run(self) -> greenml.Run | None:
        """The run that is being measured, for what only the script knows (``run.params``, ``run.log``).

        None until the Trainer is made.
        """
        return self._runs.whole

    @property
    def _trainer(self) -> Trainer | None:
        return self._trainer_ref() if self._trainer_ref is not None else None

    # Hooks, in the order in which the Trainer calls them.

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin to measure, and take hold of the Trainer that is being made."""
        try:
            self._begin(args)
        except greenml.SettingsError:
            raise
        except Exception as error:  # noqa: BLE001  no fault of ours may end a training
            self.trouble(f"on_init_end: {type(error).__name__}: {error}")

    @quiet
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin the training phase; its first step is that of the checkpoint that it resumes from."""
        self._begin(args)
        if self._runs.whole is None:
            return
        if state.is_world_process_zero and state.is_hyper_param_search:
            self._runs.begin_trial(*trial(self._trainer, args, state))
        self._runs.enter("train")
        self._first_epoch = float(state.epoch or 0.0)
        self._forecast.begin(state.global_step, self._runs.totals())
        if state.is_world_process_zero:
            self._runs.progress(state.global_step, state.max_steps)

    @quiet
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Look at the budgets, and at the totals once a second."""
        if self._budget.given:
            self._check_budget(args, state, control)
        now = time.monotonic()
        if now - self._counted_seconds >= COUNT_SECONDS:
            self._write_counts(state)
        if state.is_world_process_zero and now - self._looked_seconds >= LOOK_SECONDS:
            self._looked_seconds = now
            self._runs.offer(*writers(self._trainer))
            self._runs.progress(state.global_step, state.max_steps)
            totals = self._runs.totals()
            self._forecast.add(state.global_step, totals)
            show(self._trainer, totals, self._forecast.expected(state.max_steps, totals), self._budget.tier)

    @quiet
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Add the running totals to what every reporter shows; the Trainer's own history stays as it was."""
        self._write_counts(state)
        if self._runs.whole is None or logs is None or not state.is_world_process_zero:
            return
        totals = self._runs.totals()
        self._forecast.add(state.global_step, totals)
        self._runs.log(logs)
        logs.update(figures(totals, self._forecast.expected(state.max_steps, totals), self._budget.tier))

    @quiet
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Write that a checkpoint holds this step, and the counts, for a run that is killed or resumed."""
        self._write_counts(state)
        if state.is_world_process_zero:
            self._runs.progress(state.global_step, state.max_steps, saved=True)

    @quiet
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the training phase; the reporters close theirs after this."""
        if state.is_world_process_zero:
            self._runs.offer(*writers(self._trainer))
        self._runs.leave()
        if state.is_world_process_zero:
            self._runs.progress(state.global_step, state.max_steps)
        self._runs.add(**self._progress(state))
        self._forecast.first_step, self._first_epoch = state.global_step, float(state.epoch or 0.0)
        counts = self._runs.write_counts()
        if state.is_world_process_zero:
            self._runs.describe(**ran(self._trainer, state, counts))

    # The run.

    def stop(self) -> greenml.RunRecord | None:
        """End the run and return its record; by itself it ends with the process, after all that follows training."""
        self._runs.leave()
        self._runs.end_trial(None)
        return self._runs.stop(None)

    def trouble(self, text: str) -> None:
        """Say once what went wrong in here, in the log and in the record."""
        if text not in self._troubles:
            self._troubles.add(text)
            log.warning("greenml: %s; training goes on", text)
            self._runs.note(text, "callback")

    def _begin(self, args: TrainingArguments) -> None:
        trainer = trainer_calling(self)
        if trainer is not None:
            callbacks = trainer.callback_handler.callbacks
            first = next(callback for callback in callbacks if isinstance(callback, GreenCallback))
            if first is not self:  # each would end the other's run at every phase
                first.trouble(
                    "this Trainer has two GreenCallbacks: the first measures, and has its settings and budget"
                )
                return
            if trainer is not self._trainer:
                self._trainer_ref = weakref.ref(trainer)
                self._runs.end_with(trainer)
            wrap(trainer, GreenCallback)
            if self not in callbacks[:2]:  # before the reporters: they share one dict of logs, in this order
                # To a place that the Trainer, which is calling its callbacks in turn, has passed: it leaves none out.
                callbacks.remove(self)
                callbacks.insert(1, self)
        self._runs.settle()
        whole, since = self._runs.whole, self._created_seconds
        self._created_seconds = None  # a run that follows one that was interrupted begins when it begins
        since = time.monotonic() if since is None else since
        if whole is not None and self._runs.paused:
            self._runs.start(whole.output, resume=True, since_seconds=since)
        elif whole is None or self._runs.ended:
            folder = Path(args.output_dir or ".")
            output = Path(self._output) if self._output is not None else folder / "run.json"
            resume = self._resume if self._resume is not None else left_unfinished(before(output), folder)
            self._runs.start(output, resume=resume, since_seconds=since)
        else:
            return
        self._describe_setup(args)

    @quiet
    def _describe_setup(self, args: TrainingArguments) -> None:
        if args.process_index == 0 and self._runs.whole is not None:
            self._runs.whole.params(arguments(args))
            self._runs.describe(stopped_for=None, **setup(args, self._trainer))
        if self._trainer is not None and has_codecarbon(self._trainer):
            text = "transformers' CodeCarbonCallback is active too: it measures the same GPUs, for a file of its own"
            self._runs.note(text, "codecarbon")

    @contextlib.contextmanager
    def within(self, name: str) -> Iterator[bool]:
        """Close the phase that is open, and open training again at the end: phases lie beside each other."""
        before = self._resumed_phase()
        if before == name:
            yield False
            return
        self._enter(name)
        try:
            yield before == "train"
        finally:
            self._enter("train" if before == "train" else None)

    @quiet
    def _resumed_phase(self) -> str | None:
        """Return the phase that is open; a run that ended for another Trainer's goes on."""
        trainer = self._trainer
        if self._runs.paused and trainer is not None:
            self._begin(trainer.args)
        return self._runs.phase

    @quiet
    def _enter(self, name: str | None) -> None:
        if name is None:
            self._runs.leave()
        else:
            self._runs.enter(name)

    @quiet
    def count(self, inputs: Any) -> None:  # noqa: ANN401  a batch may be anything
        """Count a batch's samples and tokens; note once what its shapes do not show."""
        samples, tokens = size(inputs, self._trainer)
        self._pairs = self._pairs or holds_pairs(inputs, self._trainer, samples)
        samples = (samples + 1) // 2 if self._pairs else samples
        self._runs.add(samples=samples, tokens=tokens)
        missing = not_counted(samples, tokens, inputs) if not tokens else ""
        if missing and missing not in self._troubles:
            self._troubles.add(missing)
            self._runs.note(missing, "not-counted")

    def _progress(self, state: TrainerState) -> dict[str, float]:
        """Return the steps and epochs of the training that is under way; they are rank 0's."""
        if not state.is_world_process_zero:
            return {}
        steps = float(state.global_step - self._forecast.first_step)
        return {"steps": max(0.0, steps), "epochs": max(0.0, float(state.epoch or 0.0) - self._first_epoch)}

    @quiet
    def _write_counts(self, state: TrainerState) -> None:
        self._counted_seconds = time.monotonic()
        self._runs.write_counts(**self._progress(state))

    @quiet
    def keep_results(self, result: Any) -> None:  # noqa: ANN401  what train(), evaluate() or predict() returned
        """Keep the metrics of a training, an evaluation or a prediction, and write the record as it stands."""
        if self._runs.whole is None or self._trainer is None:
            return
        first = self._trainer.is_world_process_zero()
        if first:
            self._runs.log(result if isinstance(result, dict) else getattr(result, "metrics", None) or {})
        if not self._trainer.state.is_hyper_param_search:
            # Every rank: what nodes without a shared file system measured; the first of them writes the record.
            self._runs.whole.gather(so_far="completed" if first else None)

    @quiet
    def card(self, path: Path) -> None:
        """Put the tables into the card that the Trainer wrote."""
        if self._runs.whole is not None:
            self._runs.whole.card(path)

    @quiet
    def failed(self, error: BaseException) -> None:
        """End the trial, or the run: no hook is called when an exception leaves the Trainer."""
        if self._trainer is not None and self._runs.phase == "train":
            self._write_counts(self._trainer.state)
        self._runs.leave()
        if not self._runs.end_trial(error):
            self._runs.stop(error)

    @quiet
    def searched(self, best: Any) -> None:  # noqa: ANN401  a BestRun, a list of them, or None
        """Keep the best trial of a hyperparameter search that is done."""
        self._runs.end_trial(None)
        if self._runs.whole is not None and self._trainer is not None and self._trainer.is_world_process_zero():
            self._runs.describe(best_trial=best_run(best))
            self._runs.whole.save("completed")

    def _check_budget(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        dry = self._budget.dry_run
        if dry and (self._budget.reported or not state.is_world_process_zero):
            return
        reason = self._over_budget() or ""
        if not (reason if dry else any_rank(bool(reason), args)):
            return
        if not dry:
            control.should_save = control.should_training_stop = True
        if self._budget.reported or not state.is_world_process_zero:
            return
        self._budget.reported = True
        text = f"budget: {reason or 'that of another rank is used up'} at step {state.global_step}"
        text += "; dry run: training goes on" if dry else "; a checkpoint was saved and training stopped"
        log.warning("greenml: %s", text)
        self._runs.note(text, "budget")
        if not dry:
            self._runs.describe(stopped_for=text)

    @quiet
    def _over_budget(self) -> str:
        totals = self._runs.totals()
        without_effect = self._budget.cannot_act(totals)
        if without_effect and (self._trainer is None or self._trainer.is_world_process_zero()):
            log.warning("greenml: budget: %s", without_effect)
            self._runs.note(f"budget: {without_effect}", "budget")
        return self._budget.exceeded(totals)


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


def best_run(result: Any) -> Any:  # noqa: ANN401  a BestRun, a list of them, or None
    """Return the best of a search as the record keeps it."""
    if isinstance(result, list):
        return [best_run(trial) for trial in result]
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
