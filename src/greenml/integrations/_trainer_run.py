"""The run that a Trainer's life is and, within a hyperparameter search, the run that each trial is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import greenml
from greenml.values import outcome

PRUNED = "TrialPruned"  # optuna's exception that ends a trial which promises little: nothing failed


class TrainerRun:
    """A run, and the trial's own while there is one: both hear everything.

    Args:
        settings: arguments of ``greenml.track()``, but where the record goes.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.whole: greenml.Run | None = None
        self.ended = False
        self.phase: str | None = None
        self._trial: greenml.Run | None = None
        self._trials: dict[str, Any] = {}
        self._open: list[tuple[greenml.Run, int]] = []
        self._counts: dict[str, float] = {}
        self._counts_before_trial: dict[str, float] = {}
        self._before: greenml.RunRecord | None = None
        self._lost: dict[str, float] = {}

    @property
    def runs(self) -> list[greenml.Run]:
        """The runs that hear what happens now."""
        return [one for one in (self.whole, self._trial) if one is not None]

    def start(self, output: Path, before: greenml.RunRecord | None, *, resume: bool, since_seconds: float) -> None:
        """Begin to measure.

        Args:
            output: where the record goes.
            before: the record that is there, if one is.
            resume: add an attempt to it.
            since_seconds: ``time.monotonic()`` of when the run began.

        Raises:
            SettingsError: the output cannot be written.
        """
        self.ended, self._counts, self._lost = False, {}, {}
        self.whole = greenml.track(output, resume=resume, **self._settings).start(since_seconds)
        # Where another rank was here first, the new attempt is in that record already.
        resumed = resume or (before is not None and before.status == "running" and len(before.attempts) > 1)
        self._before = before if resumed and self.whole.output == output else None
        self.enter("setup", since_seconds)

    def totals(self) -> greenml.Totals:
        """Return what was used up to now; the last second of it is a guess."""
        return self.whole.totals() if self.whole is not None else greenml.Totals(0.0, None, None, None, {})

    # Phases lie beside each other.

    def enter(self, name: str, since_seconds: float | None = None) -> None:
        """Close the phase that is open and begin another."""
        self.leave()
        self.phase = name
        self._open = [(one, one.begin_phase(name, since_seconds)) for one in self.runs]

    def leave(self) -> None:
        """Close the phase that is open."""
        began, self._open, self.phase = self._open, [], None
        for one, number in began:
            one.end_phase(number)

    # What is known beside what is measured.

    def note(self, text: str, code: str) -> None:
        """Keep a sentence for the record."""
        for one in self.runs:
            one.note(text, code)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Keep numbers that the Trainer logged, without those that came from here."""
        kept = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, int | float) and not name.startswith("green/")
        }
        for one in self.runs:
            one.log(kept)

    def describe(self, **told: Any) -> None:  # noqa: ANN401  what the Trainer knows of itself
        """Keep what the Trainer tells of itself."""
        for one in self.runs:
            one.describe(**told)

    def add(self, **counts: float) -> None:
        """Count what was worked through; ``tell_counts`` writes it."""
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0.0) + value

    def tell_counts(self, **more: float) -> dict[str, float]:
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

    def progress(self, step: int, steps: int) -> None:
        """Tell how far the training that is under way is."""
        for one in self.runs:
            if steps > 0:
                one.progress(step, steps)

    # Attempts.

    def kept(self) -> dict[str, float]:
        """Return what a checkpoint keeps: what was used when it was saved, and how much of that was lost before."""
        totals = self.totals()
        known = {} if totals.energy_joules is None else {"energy_joules": totals.energy_joules}
        return {"seconds": totals.seconds, **known, **self._lost}

    def tell_lost(self, kept: Mapping[str, float], step: int, tier: str) -> None:
        """Say what earlier attempts did after the checkpoint that training resumes from: spent, and done again.

        Args:
            kept: what that checkpoint holds; {} where it was written without greenml, or there is none.
            step: the checkpoint's; 0 for none.
            tier: whose price counts.
        """
        before, self._before = self._before, None
        if before is None:  # the first attempt, or told already
            return
        if step and not kept:
            self.note(
                f"lost work: not known; greenml was not there when step {step}'s checkpoint was saved", "lost-work"
            )
            return
        used = before.total()
        spent = sum(one.seconds for one in before.attempts if one.status != "running")
        joules = used.it_energy_joules.value if used is not None else None
        usd = used.cost_usd[tier].value if used is not None and tier in used.cost_usd else None
        seconds = max(0.0, spent - kept.get("seconds", 0.0))
        saved = kept.get("energy_joules", None if kept else 0.0)
        joules = None if joules is None or saved is None else max(0.0, joules - saved)
        money = f", ${usd * seconds / before.duration_seconds:.2f}" if usd and before.duration_seconds else ""
        since = f"checkpoint of step {step}" if step else "start (no checkpoint was resumed from)"
        energy = "energy not known" if joules is None else f"{joules:.1f} J"
        text = f"lost work: {seconds:.1f} s, {energy}{money} of earlier attempts, after the {since}, are counted"
        self.note(text, "lost-work")
        before_joules = kept.get("lost_joules", None if kept.get("lost_seconds") else 0.0)
        self._lost = {"lost_seconds": kept.get("lost_seconds", 0.0) + seconds}
        if joules is not None and before_joules is not None:
            self._lost["lost_joules"] = before_joules + joules
        self.describe(
            lost_work={
                "seconds": self._lost["lost_seconds"],
                "energy_joules": self._lost.get("lost_joules"),
                "resumed_step": step,
            }
        )

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
        return self.whole.stop(*outcome(error)) if self.whole is not None else None
