"""The Hugging Face Trainer's callback: one line in a Trainer, and its model card tells what the training took."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import greenml
from greenml.accounting.status import Forecast
from greenml.integrations import _trainer as facts
from greenml.integrations._callback import quiet
from greenml.integrations._trainer import trainer_calling, wrap
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
        if state.is_world_process_zero and state.is_hyper_param_search:
            self._runs.begin_trial(*facts.trial(self._trainer, args, state))
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
            self._runs.offer(*facts.writers(self._trainer))
            self._runs.progress(state.global_step, state.max_steps)
            totals = self._runs.totals()
            self._forecast.add(state.global_step, totals)
            facts.show(self._trainer, totals, self._forecast.expected(state.max_steps, totals), self._budget.tier)

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
        logs.update(facts.figures(totals, self._forecast.expected(state.max_steps, totals), self._budget.tier))

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
            self._runs.offer(*facts.writers(self._trainer))
        self._runs.leave()
        if state.is_world_process_zero:
            self._runs.progress(state.global_step, state.max_steps)
        self._runs.add(**self._progress(state))
        self._forecast.first_step, self._first_epoch = state.global_step, float(state.epoch or 0.0)
        counts = self._runs.write_counts()
        if state.is_world_process_zero:
            self._runs.describe(**facts.ran(self._trainer, state, counts))

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
            if trainer is not self._trainer:
                self._trainer_ref = weakref.ref(trainer)
                self._runs.end_with(trainer)
            wrap(trainer, GreenCallback)
            callbacks = trainer.callback_handler.callbacks
            if callbacks[1:2] != [self]:  # before the reporters: they share one dict of logs, in this order
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
            resume = self._resume if self._resume is not None else facts.left_unfinished(facts.before(output), folder)
            self._runs.start(output, resume=resume, since_seconds=since)
        else:
            return
        self._describe_setup(args)

    @quiet
    def _describe_setup(self, args: TrainingArguments) -> None:
        if args.process_index == 0 and self._runs.whole is not None:
            self._runs.whole.params(facts.arguments(args))
            self._runs.describe(stopped_for=None, **facts.setup(args, self._trainer))
        if self._trainer is not None and facts.has_codecarbon(self._trainer):
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
        samples, tokens = facts.size(inputs, self._trainer)
        self._pairs = self._pairs or facts.holds_pairs(inputs, self._trainer, samples)
        samples = (samples + 1) // 2 if self._pairs else samples
        self._runs.add(samples=samples, tokens=tokens)
        missing = facts.not_counted(samples, tokens, inputs) if not tokens else ""
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
            self._runs.describe(best_trial=facts.best(best))
            self._runs.whole.save("completed")

    def _check_budget(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        dry = self._budget.dry_run
        if dry and (self._budget.reported or not state.is_world_process_zero):
            return
        reason = self._over_budget() or ""
        if not (reason if dry else facts.any_rank(bool(reason), args)):
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
