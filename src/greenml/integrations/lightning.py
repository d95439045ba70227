"""Lightning's callback, for ``lightning.pytorch`` and for ``pytorch_lightning``: two class trees, one class here."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import greenml
from greenml.integrations import MeasuringCallback, batch_size, environment, figures, quiet

# A class may stand in both trees at once, so a Trainer of either takes it. The second tree shares its imports with the
# first and adds 0.1 s.
_TREES = tuple(
    import_module(f"{tree}.callbacks").Callback
    for tree in ("lightning.pytorch", "pytorch_lightning")
    if find_spec(tree.partition(".")[0]) is not None
)
if not _TREES:
    raise ImportError("greenml.integrations.lightning needs lightning or pytorch_lightning: pip install lightning")


class GreenCallback(MeasuringCallback, *_TREES):  # type: ignore[misc]  # its bases are what is installed
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
        super().__init__(**settings)
        checked = greenml.track(output, **settings).settings
        self._output = checked.output if "output" in checked.known_from else None
        self._counts = dict.fromkeys(("samples", "tokens", "steps", "epochs"), 0.0)
        self._steps_before = self._logged_step = self._steps = 0
        self._model: dict[str, Any] = {}

    def stop(self) -> greenml.RunRecord | None:
        """End the measurement before Python ends, and return the record; None in a rank that leaves it to another."""
        return self._end(None)

    # Hooks, in the order in which a Trainer calls them.

    @quiet
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ANN401
        """Begin to measure."""
        run = self._run
        if run is None or not self._goes_on():
            self._counts = dict.fromkeys(self._counts, 0.0)
            with _ranks(trainer):
                run = self._start(self._output or _folder(trainer) / "run.json")
        self._enter("setup")
        run.params(_hyperparameters(trainer, pl_module) | _engine(trainer))
        self._model = _model(pl_module)
        run.describe(model=self._model, ran=_ran(trainer))

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
            self._run.params(_batching(trainer))
            now = _model(pl_module)
            if now.get("parameters", 0) >= self._model.get("parameters", 0):  # else it is cut into shards by now
                self._model = now
            self._run.describe(model=self._model, ran=_ran(trainer), **_deepspeed(trainer))
        if self._run is not None and trainer.is_global_zero:
            self._run.offer(*_writers(trainer), *trainer.loggers)
        self._enter("train")
        self._steps = _steps(trainer) if trainer.is_global_zero else 0
        self._write_progress(trainer)

    @quiet
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Count what was worked through; show the running totals when the Trainer logs."""
        samples, tokens = batch_size(batch)
        self._counts["samples"] += samples
        self._counts["tokens"] += tokens
        self._write_progress(trainer)
        # What Lightning's own monitors take for the step of a log line; one more than has been done.
        step = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step - 1) + 1
        every = trainer.log_every_n_steps
        if self._run is not None and every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._count(self._run, trainer)
            if trainer.is_global_zero and trainer.loggers:
                totals = figures(self._run)
                for logger in trainer.loggers if totals else ():
                    logger.log_metrics(totals, step=step - 1)

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
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401
        """Write that a checkpoint holds this step; nothing is added to the checkpoint."""
        if self._run is not None and self._fitting and self._steps:
            self._run.progress(trainer.global_step, self._steps, saved=True)

    @quiet
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Close the training phase."""
        self._fitting = False
        self._write_progress(trainer)
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
        else:
            self._rest()

    @quiet
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401
        """Write the record of a run that failed, or was interrupted."""
        self._fitting = False
        try:
            if self._run is not None:
                self._count(self._run, trainer)
        finally:
            self._end(exception)

    # The run.

    def _worked(self, trainer: Any) -> dict[str, float]:  # noqa: ANN401
        """Return what this rank has worked through so far."""
        steps = trainer.global_step - self._steps_before
        an_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches if steps else 0.0
        epochs = steps / an_epoch if 0 < an_epoch < float("inf") else 0.0
        return self._counts | {"steps": self._counts["steps"] + steps, "epochs": self._counts["epochs"] + epochs}

    def _count(self, run: greenml.Run, trainer: Any) -> None:  # noqa: ANN401
        """Keep the counts: samples and tokens are summed over ranks, steps and epochs are rank 0's."""
        names = ("samples", "tokens", "steps", "epochs") if trainer.is_global_zero else ("samples", "tokens")
        run.count(**{name: value for name, value in self._worked(trainer).items() if value and name in names})

    def _write_progress(self, trainer: Any) -> None:  # noqa: ANN401
        if self._run is not None and self._steps:
            self._run.progress(trainer.global_step, self._steps)

    def _keep_results(self, trainer: Any) -> None:  # noqa: ANN401
        if self._run is not None and trainer.is_global_zero:
            self._run.log(dict(trainer.callback_metrics))


def _ranks(trainer: Any) -> contextlib.AbstractContextManager[None]:  # noqa: ANN401
    """Set the ranks in the environment as torchrun would: Lightning's own launcher leaves ``RANK`` out."""
    if trainer.world_size == 1:
        return contextlib.nullcontext()
    return environment(RANK=trainer.global_rank, WORLD_SIZE=trainer.world_size, LOCAL_RANK=trainer.local_rank)


def _folder(trainer: Any) -> Path:  # noqa: ANN401
    """Return where a Trainer keeps its files, if that is a folder of this machine."""
    root = str(trainer.default_root_dir or "")
    return Path() if "://" in root else Path(root)


def _writers(trainer: Any) -> list[object]:  # noqa: ANN401
    """Return the writers of TensorBoard that the Trainer's loggers have open, or open for this."""
    writers = (getattr(logger, "experiment", None) for logger in trainer.loggers if hasattr(logger, "log_graph"))
    return [writer for writer in writers if hasattr(writer, "add_scalar")]


# What a Trainer knows of itself: its limits, its model, and what really ran.


def _hyperparameters(trainer: Any, module: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what the user's module and data module saved as hyperparameters, and the Trainer's own limits."""
    limits = {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps if trainer.max_steps != -1 else None,
        "gradient_clip_val": trainer.gradient_clip_val,
    }
    values = {name: value for name, value in limits.items() if value is not None}
    for owner in (trainer.datamodule, module):
        values |= dict(getattr(owner, "hparams", None) or {})
    return values


def _steps(trainer: Any) -> int:  # noqa: ANN401
    """Return how many optimizer steps the training will have; 0 where the Trainer cannot tell."""
    try:
        estimated = float(trainer.estimated_stepping_batches)
    except Exception:  # noqa: BLE001  a loader of its own kind may fail in any way
        return 0
    return int(estimated) if 0 < estimated < float("inf") else 0


def _batching(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the arithmetic of the batch."""
    loader = trainer.train_dataloader
    size = getattr(loader, "batch_size", None)
    if size is None:  # the loader's own batch sampler
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    values = {"accumulate_grad_batches": trainer.accumulate_grad_batches, "world_size": trainer.world_size}
    if size is not None:
        effective = size * trainer.accumulate_grad_batches * trainer.world_size
        values |= {"per_device_train_batch_size": size, "effective_batch_size": effective}
    return values


def _ran(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what really ran, not what was asked for."""
    return {
        "framework": f"{type(trainer).__module__.partition('.')[0]} {_version(trainer)}",
        "accelerator": type(trainer.accelerator).__name__,
        "world_size": trainer.world_size,
        **_engine(trainer),
    }


def _engine(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what the Trainer's choices became."""
    return {
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "devices": trainer.num_devices,
        "num_nodes": trainer.num_nodes,
    }


def _version(trainer: Any) -> str:  # noqa: ANN401
    return str(getattr(import_module(type(trainer).__module__.partition(".")[0]), "__version__", ""))


def _deepspeed(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return DeepSpeed's configuration, if it runs."""
    config = getattr(trainer.strategy, "config", None)
    runs = "DeepSpeed" in type(trainer.strategy).__name__
    return {"ds_config": dict(config)} if runs and isinstance(config, Mapping) else {}


def _model(module: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the model's class and size; a partition of ZeRO-3 has no size of its own, and tells the whole's."""
    try:
        sizes = [
            (int(getattr(parameter, "ds_numel", parameter.numel())), parameter.requires_grad)
            for parameter in module.parameters()
        ]
    except ValueError:  # parameters whose shape the first batch will tell
        sizes = []
    facts: dict[str, Any] = {"name": type(module).__name__, "class": type(module).__name__}
    if sizes:
        facts["parameters"] = sum(size for size, _ in sizes)
        facts["trainable_parameters"] = sum(size for size, trained in sizes if trained)
    return facts
