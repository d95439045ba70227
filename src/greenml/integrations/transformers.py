"""The Hugging Face Trainer's callback: one line in a Trainer, and its model card tells what the training took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

import greenml
from greenml.integrations import _transformers_facts as facts
from greenml.integrations._budget import Budget
from greenml.integrations._forecast import Forecast
from greenml.integrations._quiet import quiet
from greenml.integrations._trainer_wraps import trainer_calling, wrap

log = logging.getLogger("greenml")
LOOK_SECONDS = 1.0  # the running totals are looked up no oftener between logs


def _folder(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".")


class GreenCallback(TrainerCallback, ExportableState):
    """Measures a Trainer's life: setup, train, eval, predict and save, and what that took.

    Every rank may carry it: each device is measured once. World rank 0 writes ``run.json`` into ``output_dir``, and
    the tables into the model card that the Trainer writes.

    Args:
        output: where the record goes; ``run.json`` in the Trainer's ``output_dir`` by default.
        max_usd: stop after this much money, at the price of ``tier`` (dedicated by default).
        max_kg: stop after this many kg CO2e.
        max_kwh: stop after this many kWh. Each acts at a step's end: a checkpoint is saved, training ends cleanly.
        dry_run: budgets only warn.
        resume: True adds an attempt to the run that is in ``output_dir``; None does so where that run did not end
            by itself and left a checkpoint.
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
        self._created_seconds = time.monotonic()
        self._output, self._resume, self._settings = output, resume, settings
        checked = greenml.track(output, **settings).settings
        self._budget = Budget(max_usd, max_kg, max_kwh, checked.tier or "dedicated", dry_run=dry_run)
        self._budget.check(priced=bool(checked.sku) or checked.price_per_hour is not None)
        self._run: greenml.Run | None = None
        self._trial: greenml.Run | None = None
        self._trainer: Trainer | None = None
        self._phase: tuple[str, int] | None = None
        self._counts: dict[str, float] = {"samples": 0.0, "tokens": 0.0}
        self._forecast = Forecast()
        self._looked_seconds = 0.0
        self._troubles: set[str] = set()
        self._before: greenml.Totals | None = None
        self._checkpoint: dict[str, float] = {}
        GreenCallback._latest = self

    _latest: GreenCallback | None = None

    # The Trainer's checkpoints carry this, so that a resumed run knows what was lost.

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: what the run had used when it was saved."""
        totals = self._run.totals() if self._run is not None else None
        kept = {} if totals is None else {"seconds": totals.seconds, "energy_joules": totals.energy_joules or 0.0}
        return {"args": {}, "attributes": {"checkpoint": kept}}

    @property
    def checkpoint(self) -> dict[str, float]:
        """What the run had used when the checkpoint was saved that training resumed from."""
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, value: dict[str, float]) -> None:
        # A Trainer that restores callbacks makes a new object of this class: the run stays that of the first.
        latest = GreenCallback._latest
        if latest is not None and latest is not self:
            self.__dict__.update(latest.__dict__)
        self._checkpoint = value

    # Hooks, in the order in which the Trainer calls them.

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Begin to measure, and take hold of the Trainer that is being made."""
        self._begin(args)

    @quiet
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Begin the training phase; tell what was lost if this is a resumption."""
        self._begin(args)
        callbacks: Any = state.stateful_callbacks  # a dict by name, whatever its annotation says
        stored = callbacks.get(type(self).__name__)
        stored = stored[0] if isinstance(stored, list) and stored else stored
        if state.global_step > 0 and isinstance(stored, dict):
            self._checkpoint = stored.get("attributes", {}).get("checkpoint", {})
        callbacks.setdefault(type(self).__name__, self.state())
        self._tell_lost(state)
        if state.is_hyper_param_search and state.is_world_process_zero:
            self._begin_trial(args, state)
        self._enter("train")
        self._forecast.begin(state.global_step)

    @quiet
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Look at the budgets, and at the totals once a second."""
        if self._run is None:
            return
        now = time.monotonic()
        if self._budget.given:
            totals = self._run.totals()
            reason = self._budget.exceeded(totals)
            if facts.any_rank(bool(reason), args):
                self._stop_for(reason or "another rank's budget is used up", state, control)
        if state.is_world_process_zero and now - self._looked_seconds >= LOOK_SECONDS:
            self._looked_seconds = now
            totals = self._run.totals()
            self._forecast.add(state.global_step, totals)
            facts.show(self._trainer, totals, self._forecast.expected(state.max_steps, totals), self._budget.tier)

    @quiet
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Add the running totals to the Trainer's own logs, so that every reporter shows them."""
        if self._run is None or logs is None or not state.is_world_process_zero:
            return
        totals = self._run.totals()
        added = facts.figures(totals, self._forecast.expected(state.max_steps, totals), self._budget.tier)
        self._run.log({name: value for name, value in logs.items() if isinstance(value, int | float)})
        logs.update(added)
        if state.log_history:
            state.log_history[-1].update(added)

    @quiet
    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Close the training phase."""
        self._leave()
        if self._run is None:
            return
        self._tell_counts(state)
        if state.is_world_process_zero:
            self._run.describe(**facts.ran(self._trainer, state, self._counts))
        if self._trial is not None:
            self._end_trial("completed")

    # The run.

    def trouble(self, text: str) -> None:
        """Say once what went wrong in here, in the log and in the record."""
        if text not in self._troubles:
            self._troubles.add(text)
            log.warning("greenml: %s; training goes on", text)
            if self._run is not None:
                self._run.note(text, "callback")

    def _begin(self, args: TrainingArguments) -> None:
        if self._trainer is None:
            self._trainer = trainer_calling(self)
            if self._trainer is not None:
                wrap(self._trainer, self)
                handler = self._trainer.callback_handler
                if self in handler.callbacks:  # before the reporters: they share one dict of logs, in this order
                    handler.callbacks.remove(self)
                    handler.callbacks.insert(1, self)
        if self._run is not None:
            return
        output = Path(self._output) if self._output is not None else _folder(args) / "run.json"
        resume = self._resume if self._resume is not None else facts.left_unfinished(output, _folder(args))
        output.parent.mkdir(parents=True, exist_ok=True)
        self._run = greenml.track(output, resume=resume, **self._settings).start(self._created_seconds)
        self._before = self._run.totals()
        number = self._run.begin_phase("setup", self._created_seconds)
        self._phase = ("setup", number)
        if args.process_index == 0:
            self._run.params(facts.arguments(args))
            self._run.describe(**facts.setup(args, self._trainer))
        if self._trainer is not None and facts.has_codecarbon(self._trainer):
            text = "transformers' CodeCarbonCallback is active too: it measures the same GPUs, for a file of its own"
            self._run.note(text, "codecarbon")

    def _enter(self, name: str) -> None:
        self._leave()
        if self._run is not None:
            self._phase = (name, self._run.begin_phase(name))

    def _leave(self) -> None:
        if self._run is not None and self._phase is not None:
            self._run.end_phase(self._phase[1])
        self._phase = None

    @property
    def training(self) -> bool:
        """True inside the training phase."""
        return self._phase is not None and self._phase[0] == "train"

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Close the phase that is open, and open it again at the end: phases lie beside each other."""
        before = self._phase[0] if self._phase is not None else None
        if before == name:
            yield
            return
        self._enter(name)
        try:
            yield
        finally:
            self._leave()
            if before == "train":
                self._enter(before)

    @quiet
    def count(self, inputs: Any) -> None:  # noqa: ANN401  a batch may be anything
        """Count a batch's samples and tokens."""
        samples, tokens = facts.size(inputs, self._trainer)
        self._counts["samples"] += samples
        self._counts["tokens"] += tokens

    @quiet
    def failed(self, error: BaseException) -> None:
        """End the run: no hook is called when an exception leaves ``train()``."""
        self._leave()
        if self._trial is not None:
            self._end_trial("failed")
        elif self._run is not None:
            self._tell_counts(self._trainer.state if self._trainer is not None else None)
            self._run.__exit__(type(error), error, None)

    @quiet
    def card(self, path: Path) -> None:
        """Put the tables into the card that the Trainer wrote."""
        if self._run is not None:
            self._run.card(path)

    @quiet
    def keep_results(self, result: Any) -> None:  # noqa: ANN401  what train(), evaluate() or predict() returned
        """Keep the metrics of a training, an evaluation or a prediction, and write the record as it stands."""
        if self._run is None or self._trainer is None or not self._trainer.is_world_process_zero():
            return
        metrics = result if isinstance(result, dict) else getattr(result, "metrics", None) or {}
        self._run.log({name: value for name, value in metrics.items() if not name.startswith("green/")})
        self._run.save("completed")

    @quiet
    def _tell_counts(self, state: TrainerState | None) -> None:
        """Keep what this rank has worked through; ranks are summed, steps and epochs are rank 0's."""
        if self._run is None:
            return
        counts = {name: value for name, value in self._counts.items() if value}
        if state is not None and state.is_world_process_zero:
            counts |= {"steps": state.global_step - self._forecast.first_step, "epochs": float(state.epoch or 0.0)}
        self._run.count(**counts)

    def _tell_lost(self, state: TrainerState) -> None:
        """Say what an attempt before this one did after its last checkpoint: spent, and done again."""
        before = self._before
        if self._run is None or before is None or not before.energy_joules or not state.is_world_process_zero:
            return
        self._before = None
        seconds = max(0.0, before.seconds - self._checkpoint.get("seconds", 0.0))
        joules = max(0.0, before.energy_joules - self._checkpoint.get("energy_joules", 0.0))
        since = (
            f"checkpoint of step {state.global_step}" if state.global_step else "start: no checkpoint was resumed from"
        )
        text = f"lost work: {seconds:.1f} s and {joules:.1f} J of earlier attempts, since the {since}, are counted"
        self._run.note(text, "lost-work")
        self._run.describe(lost_work={"seconds": seconds, "energy_joules": joules, "resumed_step": state.global_step})

    def _stop_for(self, reason: str, state: TrainerState, control: TrainerControl) -> None:
        if self._run is None or self._budget.told:
            return
        self._budget.told = True
        text = f"budget: {reason} at step {state.global_step}"
        if self._budget.dry_run:
            text += "; dry run: training goes on"
        else:
            text += "; a checkpoint was saved and training stopped"
            control.should_save = control.should_training_stop = True
        log.warning("greenml: %s", text)
        self._run.note(text, "budget")

    # Hyperparameter search: the run measures the whole search, and each trial has a record of its own.

    def _begin_trial(self, args: TrainingArguments, state: TrainerState) -> None:
        self._end_trial("failed")
        folder = _folder(args) / f"trial-{state.trial_name or int(time.time() * 1000)}"
        folder.mkdir(parents=True, exist_ok=True)
        self._trial = greenml.track(folder / "run.json", **self._settings).start()
        self._trial.params(dict(state.trial_params or {}))

    def _end_trial(self, status: str) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.stop(status)
