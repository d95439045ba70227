"""Keras 3's callback, for every backend: train, eval and predict, and what they took."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras

import greenml
from greenml.integrations import MeasuringCallback, figures, quiet

UNKNOWN = float("nan")


class GreenCallback(MeasuringCallback, keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Measures a model's ``fit``, ``evaluate`` and ``predict``.

    Give the same object to each of them. The run begins with the first, and goes on over all. ``run.json`` is written
    at the end of each, and for good by ``stop()`` or when Python ends. Keras tells no callback of an exception: one
    that ends the program leaves ``failed`` in the record, one that the program catches needs ``stop(error)``.

    Put it before callbacks that write logs (CSVLogger): each epoch's logs get ``green/energy_kwh``, ``green/co2e_kg``,
    ``green/cost_usd`` where there is a price, and ``green/power_w``, up to then; not a number where not known.

    Args:
        output: where the record goes, ``run.json`` by default.
        settings: all other arguments of ``greenml.track()``.

    Raises:
        SettingsError: a value is wrong; one line says what would be right.
    """

    def __init__(self, output: str | os.PathLike[str] | None = None, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        greenml.track(output, **settings)
        self._output = output
        self._priced = False
        self._fit: dict[str, Any] = {}  # what Keras told of the fit; an evaluation within it replaces ``params``
        self._epochs = self._steps = self._steps_before = 0

    def stop(self, error: BaseException | None = None) -> greenml.RunRecord | None:
        """End the measurement before Python ends, and return the record.

        Args:
            error: the exception that ended it, if one did.
        """
        return self._end(error)

    # Hooks. None of batches: with one, Keras would wait for each batch where it otherwise does not.

    @quiet
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin the training phase."""
        run = self._begin()
        self._fitting = True
        self._steps_before = _iterations(self.model)
        self._priced = bool(run.totals().cost_usd)
        self._fit = dict(self.params or {})
        run.params(_hyperparameters(self.model, self._fit))
        run.describe(model=_model(self.model), ran=_ran())
        self._enter("train")

    @quiet
    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write how far training is, where Keras knows an epoch's steps."""
        self._write_progress(epoch)

    @quiet
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the running totals to the epoch's logs, for the history and every callback after this one."""
        if self._run is None:
            return
        self._epochs += 1
        self._run.log(logs or {})
        if logs is not None:
            logs.update(self._figures(self._run))
        iterations = _iterations(self.model)
        self._steps, self._steps_before = self._steps + iterations - self._steps_before, iterations
        self._run.count(epochs=self._epochs, steps=self._steps)
        self._write_progress(epoch + 1)

    @quiet
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the training phase and write the record so far; the model has its weights by now."""
        self._fitting = False
        self._enter(None)
        if self._run is not None:
            self._run.describe(model=_model(self.model))
            self._rest()

    @quiet
    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin an evaluation; inside ``fit``, close the training phase for as long as it takes."""
        self._begin()
        self._enter("eval")

    @quiet
    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the evaluation. The results of one inside ``fit`` are in the epoch's logs, as ``val_``."""
        self._enter("train" if self._fitting else None)
        if self._run is not None and not self._fitting:
            self._run.log({f"eval_{name}": value for name, value in (logs or {}).items()})
            self._rest()

    @quiet
    def on_predict_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin a prediction."""
        self._begin()
        self._enter("predict")

    @quiet
    def on_predict_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the prediction."""
        self._enter("train" if self._fitting else None)
        if not self._fitting:
            self._rest()

    # The run.

    def _begin(self) -> greenml.Run:
        if self._run is not None and self._goes_on():
            return self._run
        self._epochs = self._steps = 0
        return self._start(self._output)

    def _write_progress(self, epochs: int) -> None:
        fit = self._fit
        if self._run is not None and fit.get("steps") and fit.get("epochs"):
            self._run.progress(epochs * fit["steps"], fit["epochs"] * fit["steps"])

    def _figures(self, run: greenml.Run) -> dict[str, float]:
        """Return the running totals under the names of logs; always the same names, as CSVLogger fails without."""
        known = figures(run)
        names = ["green/energy_kwh", "green/co2e_kg", "green/power_w"] + ["green/cost_usd"] * self._priced
        return {name: known.get(name, UNKNOWN) for name in names}


def _iterations(model: Any) -> int:  # noqa: ANN401
    """Return how many steps the model's optimizer has taken."""
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    return 0 if iterations is None else int(iterations.value)


def _hyperparameters(model: Any, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return what ``fit`` and ``compile`` were given."""
    optimizer = getattr(model, "optimizer", None)
    arguments = {
        "epochs": params.get("epochs"),
        "steps_per_epoch": params.get("steps"),
        "optimizer": optimizer.get_config() if optimizer is not None else None,
        "loss": _loss(getattr(model, "loss", None)),
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _loss(loss: Any) -> Any:  # noqa: ANN401
    """Return the name of a loss, or the names of those of several outputs."""
    if isinstance(loss, Mapping):
        return {name: _loss(value) for name, value in loss.items()}
    if isinstance(loss, list | tuple):
        return [_loss(value) for value in loss]
    if loss is None or isinstance(loss, str):
        return loss
    return getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)


def _model(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the model's name and, once it is built, its size."""
    facts: dict[str, Any] = {"name": model.name, "class": type(model).__name__}
    if model.built:
        facts["parameters"] = model.count_params()
        facts["trainable_parameters"] = sum(int(keras.ops.size(weight)) for weight in model.trainable_weights)
    return facts


def _ran() -> dict[str, Any]:
    """Return what really ran."""
    distribution = keras.distribution.distribution()
    return {
        "framework": f"keras {keras.__version__}",
        "backend": keras.backend.backend(),
        "precision": keras.config.dtype_policy().name,
        "distribution": type(distribution).__name__ if distribution is not None else None,
    }
