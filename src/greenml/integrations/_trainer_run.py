"""The run of a Trainer, the run of each trial of its hyperparameter search, and the budgets of both."""

from __future__ import annotations

import _thread
import contextlib
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import greenml
from greenml.accounting import assumptions
from greenml.run.exit_hooks import outcome
from greenml.settings import Settings
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH

PRUNED = "TrialPruned"  # optuna's exception that ends a trial which promises little: nothing failed
PATIENCE_SECONDS = 10.0  # by then the place is known, and every sensor has been read


class Budget:
    """What a run may use.

    Args:
        usd, kg, kwh: None for no limit.
        tier: whose price counts.
        dry_run: only warn.
        patience_seconds: after this a figure that is not known yet will not be.
    """

    def __init__(
        self,
        usd: float | None,
        kg: float | None,
        kwh: float | None,
        tier: str,
        *,
        dry_run: bool,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._limits = {"max_usd": usd, "max_kg": kg, "max_kwh": kwh}
        self.tier, self.dry_run, self.reported = tier, dry_run, False
        self._patience_seconds, self._asked_seconds = patience_seconds, 0.0
        self._without_effect = ""  # which limits cannot act, and why, once that is said

    @property
    def given(self) -> bool:
        """True where there is any limit."""
        return any(limit is not None for limit in self._limits.values())

    def check(self, settings: Settings) -> None:
        """Check the limits, for a run with these settings; a place that the machine is yet to tell may have a price.

        Raises:
            SettingsError: one is not above 0, or money has no price.
        """
        self.check_limits()
        if self._limits["max_usd"] is None or settings.price_per_hour is not None:
            return
        priced = settings.sku and (
            settings.region == "auto" or self.tier in assumptions.current_factors(settings).prices
        )
        if not priced:
            raise greenml.SettingsError(
                f"max_usd needs a {self.tier} price: give sku= and a region= that has one, or price_per_hour="
            )

    def check_limits(self) -> None:
        """Check the limits alone.

        Raises:
            SettingsError: one is not above 0.
        """
        for name, limit in self._limits.items():
            if limit is not None and not limit > 0:
                raise greenml.SettingsError(f"{name} is {limit!r}; it must be above 0")

    def cannot_act(self, totals: greenml.RunningTotals) -> str:
        """Return, once, which limits cannot act since what they limit is not known; "" early in a run, and later."""
        self._asked_seconds = self._asked_seconds or time.monotonic()
        if self._without_effect or time.monotonic() - self._asked_seconds < self._patience_seconds:
            return ""
        unknown = self.unknown(totals)
        why = {
            "max_usd": f"no {self.tier} price of this run's machines is known",
            "max_kg": "the emissions are not known",
            "max_kwh": "the energy is not known",
        }
        self._without_effect = "; ".join(f"{name} cannot act: {why[name]}" for name in unknown)
        return self._without_effect

    def unknown(self, totals: greenml.RunningTotals) -> list[str]:
        """Return the limits of which nobody knows what was used."""
        used = self._used(totals)
        return [name for name, limit in self._limits.items() if limit is not None and used[name] is None]

    def exceeded(self, totals: greenml.RunningTotals) -> str:
        """Return what is used up, in words; "" where nothing is, or it is not known."""
        used = self._used(totals)
        for name, limit in self._limits.items():
            value = used[name]
            if limit is not None and value is not None and value >= limit:
                return f"{name}={limit:g} is used up ({value:.4g})"
        return ""

    def _used(self, totals: greenml.RunningTotals) -> dict[str, float | None]:
        joules, grams = totals.energy_joules, totals.emissions_grams
        return {
            "max_usd": totals.cost_usd.get(self.tier),
            "max_kg": None if grams is None else grams / GRAMS_PER_KG,
            "max_kwh": None if joules is None else joules / JOULES_PER_KWH,
        }


_going_on: weakref.WeakSet[TrainerRun] = weakref.WeakSet()  # the runs of this process's Trainers
_halted: set[TrainerRun] = set()  # those of deleted Trainers, whose records are not written yet


class TrainerRun:
    """A Trainer's run and, during a trial of a hyperparameter search, the trial's run: both get every call.

    A process works on one Trainer at a time. When the next Trainer's run begins, the runs of Trainers that are not at
    work end: with their last training, evaluation or prediction, so that no second is billed to two of them. So does
    the run of a Trainer that was deleted: measuring ends at once, and the record is written when the next run begins or
    Python ends. A Trainer that works again after that adds an attempt to its run.

    Args:
        settings: arguments of ``greenml.track()``, but where the record goes.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.whole: greenml.Run | None = None
        self.ended = False
        self.paused = False  # ended since another Trainer's run began
        self.phase: str | None = None
        self._worked_seconds: float | None = None  # when the last phase other than setup ended
        self._trial: greenml.Run | None = None
        self._trials: dict[str, Any] = {}
        self._open: list[tuple[greenml.Run, int]] = []
        self._counts: dict[str, float] = {}
        self._counts_before_trial: dict[str, float] = {}
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def runs(self) -> list[greenml.Run]:
        """The runs that get what happens now."""
        return [run for run in (self.whole, self._trial) if run is not None]

    def start(self, output: Path, *, resume: bool, since_seconds: float) -> None:
        """Begin to measure.

        Args:
            output: where the record goes.
            resume: add an attempt to the run that is there.
            since_seconds: ``time.monotonic()`` of when the run began.

        Raises:
            SettingsError: the output cannot be written.
        """
        for run in {*_going_on, *_halted} - {self}:
            run.pause(since_seconds)
        self.whole = greenml.track(output, resume=resume, **self._settings).start(since_seconds)
        self.ended = self.paused = False
        self._counts, self._counts_before_trial, self._worked_seconds = {}, {}, None
        _going_on.add(self)
        self.enter("setup", since_seconds)

    def end_with(self, trainer: object) -> None:
        """End the run when this Trainer is deleted, in place of another that it was to end with."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(trainer, _end_later, self)
        self._finalizer.atexit = False  # the run's own exit hook knows how the process ended

    def halt(self, at_seconds: float) -> None:
        """End measuring for a Trainer that was deleted; ``pause()``, ``stop()`` or Python's end writes the record."""
        if self.whole is None or self.ended or (self._finalizer is not None and self._finalizer.alive):
            return  # or another Trainer has the callback
        _halted.add(self)
        self.leave()
        for run in self.runs:
            run.halt(self._worked_seconds or at_seconds)

    def settle(self) -> None:
        """Write the record of a deleted Trainer: another has the callback."""
        if self in _halted:
            self.pause(time.monotonic())

    def pause(self, at_seconds: float) -> None:
        """End the run if its Trainer is not at work: as of its last work or, if it never worked, of this moment."""
        if self in _halted:
            _halted.discard(self)
            self.end_trial(None)
        if self.whole is None or self.ended or self.phase not in (None, "setup") or self._trial is not None:
            return
        self.leave()
        self.ended = self.paused = True
        _going_on.discard(self)
        self.whole.stop("completed", None, self._worked_seconds or at_seconds)

    def totals(self) -> greenml.RunningTotals:
        """Return what was used up to now; the last second of it is extrapolated."""
        return self.whole.totals() if self.whole is not None else greenml.RunningTotals(0.0, None, None, None, {})

    # Phases lie beside each other.

    def enter(self, name: str, since_seconds: float | None = None) -> None:
        """Close the phase that is open and begin another."""
        self.leave()
        self.phase = name
        if since_seconds is None and len(self.runs) > 1:
            since_seconds = time.monotonic()  # a search and its trial begin it at the same moment
        self._open = [(run, run.begin_phase(name, since_seconds)) for run in self.runs]

    def leave(self) -> None:
        """Close the phase that is open."""
        phase, open_phases, self._open, self.phase = self.phase, self._open, [], None
        until_seconds = time.monotonic() if len(open_phases) > 1 else None
        for run, number in open_phases:
            run.end_phase(number, until_seconds)
        if phase not in (None, "setup"):
            self._worked_seconds = time.monotonic()

    # What is known beside what is measured.

    def note(self, text: str, code: str) -> None:
        """Keep a sentence for the record."""
        for run in self.runs:
            run.note(text, code)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Keep numbers that the Trainer logged, without those that came from here."""
        numbers = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, int | float) and not name.startswith("green/")
        }
        for run in self.runs:
            run.log(numbers)

    def offer(self, *loggers: object) -> None:
        """Show the sinks what reporters of the Trainer are active by now."""
        for run in self.runs:
            run.offer(*loggers)

    def describe(self, **facts: Any) -> None:  # noqa: ANN401  what the Trainer knows of itself
        """Keep facts about the Trainer."""
        for run in self.runs:
            run.describe(**facts)

    def add(self, **counts: float) -> None:
        """Count what was worked through; ``write_counts`` writes it."""
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0.0) + value

    def write_counts(self, **more: float) -> dict[str, float]:
        """Write what this process worked through up to now, and return it.

        Args:
            more: of what is under way, to be added later.
        """
        now = {name: self._counts.get(name, 0.0) + more.get(name, 0.0) for name in {**self._counts, **more}}
        if self.whole is not None:
            self.whole.count(**{name: value for name, value in now.items() if value})
        if self._trial is not None:
            since = {name: value - self._counts_before_trial.get(name, 0.0) for name, value in now.items()}
            self._trial.count(**{name: value for name, value in since.items() if value})
        return now

    def progress(self, step: int, steps: int, *, saved: bool = False) -> None:
        """Write how far the training that is under way is; ``saved``: a checkpoint holds this step."""
        for run in self.runs:
            if steps > 0:
                run.progress(step, steps, saved=saved)

    # Hyperparameter search: the run measures the whole search, and each trial has a record of its own.

    def begin_trial(self, folder: Path, name: str, params: Mapping[str, Any]) -> None:
        """Begin a trial's run."""
        self.end_trial(None)
        output = folder / f"trial-{name}" / "run.json"
        self._trial = greenml.track(output, **{**self._settings, "name": f"trial {name}"}).start()
        self._trial.params(params)
        self._counts_before_trial = dict(self._counts)
        if self.whole is not None:
            self._trial.describe(search={"run": str(self.whole.output), "trial": name})
            self._trials[name] = {"record": str(self._trial.output.relative_to(folder)), "params": dict(params)}
            self.whole.describe(trials=self._trials)

    def end_trial(self, error: BaseException | None) -> bool:
        """End the trial that is going on; False where there is none."""
        trial, self._trial = self._trial, None
        if trial is None:
            return False
        if type(error).__name__ == PRUNED:
            trial.note(f"pruned: {error or 'it promised little'}", "pruned")
            error = None
        trial.stop(*outcome(error))
        return True

    def stop(self, error: BaseException | None) -> greenml.RunRecord | None:
        """End the run; by what exception, if one left the Trainer."""
        self.leave()
        self.ended = True
        _going_on.discard(self)
        _halted.discard(self)
        return self.whole.stop(*outcome(error)) if self.whole is not None else None


def _end_later(run: TrainerRun) -> None:
    """End the run of a deleted Trainer in a thread of its own: the garbage collector may have stopped any code."""
    with contextlib.suppress(RuntimeError):  # no thread can be started: the run's exit hook ends it
        _thread.start_new_thread(_end, (run, time.monotonic()))


def _end(run: TrainerRun, at_seconds: float) -> None:
    with contextlib.suppress(Exception):  # no fault of ours may print a traceback
        run.halt(at_seconds)
