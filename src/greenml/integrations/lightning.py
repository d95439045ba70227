"""Lightning's callback, for ``lightning.pytorch`` and for ``pytorch_lightning``: two class trees, one class here."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import greenml
from greenml.integrations import _lightning_facts as facts
from greenml.integrations._quiet import quiet

log = logging.getLogger("greenml")

# A class may stand in both trees at once, so a Trainer of either takes it. The second tree shares its imports with the
# first and adds 0.1 s.
_TREES = tuple(
    import_module(f"{tree}.callbacks").Callback
    for tree in ("lightning.pytorch", "pytorch_lightning")
    if find_spec(tree.partition(".")[0]) is not None
)
if not _TREES:
    raise ImportError("greenml.integrations.lightning needs lightning or pytorch_lightning: pip install lightning")


class GreenCallback(*_TREES):  # type: ignore[misc]  # its bases are what is installed
    """Measures a Trainer's life: setup, sanity check, train, validate, test and predict, and what that took.

    The run begins when the Trainer first sets up, and goes on over ``fit``, ``validate``, ``test`` and ``predict``.
    ``run.json`` is written at the end of each, and for good by ``stop()``, by an exception, or when Python ends. Every
    rank carries it, each device is measured once, and rank 0 speaks for the run.

    Args:
        output: where the record goes; ``run.json`` in the Trainer's ``default_root_dir`` by default.
        settings: all other arguments of ``greenml.track()``.

    Raises:
        SettingsError: a value is wrong; one line says what would be right.
    """

    def __init__(self, output: str | os.PathLike[str] | None = None, **settings: Any) -> None:  # noqa: ANN401
        super().__init__()
        told = greenml.track(output, **settings).settings
        self._output = told.output if "output" in told.known_from else None
        self._settings = settings
        self._run: greenml.Run | None = None
        self._phase: int | None = None
        self._fitting = False
        self._counts = dict.fromkeys(("samples", "tokens", "steps", "epochs"), 0.0)
        self._steps_before = self._logged_step = self._steps = 0
        self._model: dict[str, Any] = {}
        self._troubles: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run to this process: a strategy that spawns sends a copy of the callback to each rank."""
        return {**self.__dict__, "_run": None, "_phase": None}

    @property
    def run(self) -> greenml.Run | None:
        """The run, once the Trainer has begun: for phases, parameters and results of your own."""
        return self._run

    def stop(self) -> greenml.RunRecord | None:
        """End the measurement before Python ends, and return the record; None in a rank that leaves it to another."""
        run, self._run, self._phase = self._run, None, None
        return run.stop() if run is not None else None

    # Hooks, in the order in which a Trainer calls them.

    @quiet
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ANN401
        """Begin to measure."""
        if self._run is None:
            self._counts = dict.fromkeys(self._counts, 0.0)
            output = self._output or _folder(trainer) / "run.json"
            with _told(trainer.global_rank, trainer.world_size, trainer.local_rank):
                self._run = greenml.track(output, **self._settings).start()
        self._enter("setup")
        self._run.params(facts.hyperparameters(trainer, pl_module) | facts.engine(trainer))
        self._model = facts.model(pl_module)
        self._run.describe(model=self._model, ran=facts.ran(trainer))

    @quiet
    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begin the phase of the batches that are validated before training, to see that it works."""
        self._enter("sanity_check")

    @quiet
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begin the training phase; what really runs is known now."""
        self._fitting = True
        self._steps_before = trainer.global_step
        if self._run is not None:
            self._run.params(facts.batching(trainer))
            now = facts.model(pl_module)
            if now.get("parameters", 0) >= self._model.get("parameters", 0):  # else it is cut into shards by now
                self._model = now
            self._run.describe(model=self._model, ran=facts.ran(trainer), **facts.deepspeed(trainer))
        self._enter("train")
        self._steps = facts.steps(trainer) if trainer.is_global_zero else 0
        self._tell_progress(trainer)

    @quiet
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Count what was worked through; show the running totals when the Trainer logs."""
        samples, tokens = facts.size(batch)
        self._counts["samples"] += samples
        self._counts["tokens"] += tokens
        self._tell_progress(trainer)
        # What Lightning's own monitors take for the step of a log line; one more than has been done.
        step = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step - 1) + 1
        every = trainer.log_every_n_steps
        if self._run is not None and every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._count(self._run, trainer)
            if trainer.is_global_zero and trainer.loggers:
                figures = _figures(self._run)
                for logger in trainer.loggers if figures else ():
                    logger.log_metrics(figures, step=step - 1)

    @quiet
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Close the training phase for as long as validation takes."""
        if not trainer.sanity_checking:
            self._enter("validate")

    @quiet
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Keep the results; training goes on."""
        if not trainer.sanity_checking:
            self._keep_results(trainer)
            self._enter("train" if self._fitting else None)

    @quiet
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Close the training phase."""
        self._fitting = False
        self._tell_progress(trainer)
        self._enter(None)
        self._counts = self._worked(trainer)
        self._steps_before = trainer.global_step
        if self._run is not None:
            self._count(self._run, trainer)

    @quiet
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begin the test phase."""
        self._enter("test")

    @quiet
    def on_test_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Close the test phase."""
        self._enter(None)

    @quiet
    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begin the predict phase."""
        self._enter("predict")

    @quiet
    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Close the predict phase."""
        self._enter(None)

    @quiet
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ANN401
        """Keep the results and write the record so far; the last of a rank that was spawned."""
        self._enter(None)
        self._keep_results(trainer)
        if multiprocessing.parent_process() is not None:  # it ends without Python's exit functions
            self.stop()
        elif self._run is not None:
            self._run.save("completed")

    @quiet
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401
        """Write the record of a run that failed, or was interrupted."""
        self._fitting = False
        run, self._run, self._phase = self._run, None, None
        if run is None:
            return
        try:
            self._count(run, trainer)
        finally:
            run.__exit__(type(exception), exception, None)

    # The run.

    def trouble(self, text: str) -> None:
        """Say once what went wrong in here, in the log and in the record."""
        if text not in self._troubles:
            self._troubles.add(text)
            log.warning("greenml: %s; training goes on", text)
            if self._run is not None:
                self._run.note(text, "callback")

    def _enter(self, name: str | None) -> None:
        """Close the phase that is open and begin another: phases lie beside each other."""
        if self._run is not None:
            if self._phase is not None:
                self._run.end_phase(self._phase)
            self._phase = self._run.begin_phase(name) if name is not None else None

    def _worked(self, trainer: Any) -> dict[str, float]:  # noqa: ANN401
        """Return what this rank has worked through so far."""
        steps = trainer.global_step - self._steps_before
        an_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches if steps else 0.0
        epochs = steps / an_epoch if 0 < an_epoch < float("inf") else 0.0
        return self._counts | {"steps": self._counts["steps"] + steps, "epochs": self._counts["epochs"] + epochs}

    def _count(self, run: greenml.Run, trainer: Any) -> None:  # noqa: ANN401
        """Keep the counts: samples and tokens are summed over ranks, steps and epochs are rank 0's."""
        own = ("samples", "tokens", "steps", "epochs") if trainer.is_global_zero else ("samples", "tokens")
        run.count(**{name: value for name, value in self._worked(trainer).items() if value and name in own})

    def _tell_progress(self, trainer: Any) -> None:  # noqa: ANN401
        if self._run is not None and self._steps:
            self._run.progress(trainer.global_step, self._steps)

    def _keep_results(self, trainer: Any) -> None:  # noqa: ANN401
        if self._run is not None and trainer.is_global_zero:
            self._run.log(dict(trainer.callback_metrics))


@contextmanager
def _told(rank: int, world_size: int, local_rank: int) -> Iterator[None]:
    """Tell greenml the rank as torchrun would: Lightning's own launcher leaves ``RANK`` out."""
    told = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank}
    missing = {} if world_size == 1 or "RANK" in os.environ else {name: str(told[name]) for name in told}
    before = {name: os.environ.get(name) for name in missing}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _folder(trainer: Any) -> Path:  # noqa: ANN401
    """Return where a Trainer keeps its files, if that is a folder of this machine."""
    root = str(trainer.default_root_dir or "")
    return Path() if "://" in root else Path(root)


def _figures(run: greenml.Run) -> dict[str, float]:
    """Return the running totals under the names that loggers show; what is not known has no name."""
    return run.totals().figures(run.settings.tier or "dedicated")
