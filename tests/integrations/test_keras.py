"""Keras 3's GreenCallback in fit, evaluate and predict."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os

import numpy
import pytest

import greenml

from .shared import Later, assert_one_at_a_time, break_greenml, run_program

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = Later("keras", "keras", "torch")
integration = Later("greenml.integrations.keras")

# Keras asks torch for arrays in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FIGURES = {"green/energy_kwh", "green/co2e_kg", "green/power_w"}


def data():
    random = numpy.random.default_rng(0)
    return random.normal(size=(32, 3)).astype("float32"), random.normal(size=(32, 1)).astype("float32")


def model_of():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)], name="line")
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"])
    return model


def fit(model, *callbacks, **arguments):
    defaults = {"epochs": 3, "batch_size": 8, "validation_data": data(), "verbose": 0}
    return model.fit(*data(), callbacks=list(callbacks), **(defaults | arguments))


def test_fit_evaluate_and_predict_are_one_run(tmp_path):
    green = integration.GreenCallback(tmp_path / "run.json", price_per_hour=3.6, carbon_intensity=400, interval=0.05)
    model = model_of()
    history = fit(model, green, keras.callbacks.CSVLogger(str(tmp_path / "log.csv")))
    so_far = greenml.open_record(tmp_path / "run.json")
    model.evaluate(*data(), verbose=0, callbacks=[green])
    model.predict(data()[0], verbose=0, callbacks=[green])
    record = green.stop()

    assert (tmp_path / "run.json").exists()
    assert {phase.path: phase.count for phase in so_far.phases} == {"train": 4, "eval": 3}
    assert {phase.path: phase.count for phase in record.phases} == {"train": 4, "eval": 4, "predict": 1}
    spans = sorted(span for phase in record.phases for span in phase.spans)
    assert all(before[1] <= after[0] + 0.001 for before, after in itertools.pairwise(spans))
    assert (record.status, len(record.attempts)) == ("completed", 1)
    [trace] = (tmp_path / "run.trace").glob("*.jsonl")  # how far it was, for those who watch
    steps = [
        (line["step"], line["steps"]) for line in map(json.loads, trace.read_text().splitlines()) if "step" in line
    ]
    assert (steps[0], steps[-1]) == ((0, 12), (12, 12))

    assert record.metrics["val_loss"] == pytest.approx(history.history["val_loss"][-1])
    assert record.metrics["eval_loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-5)
    assert set(record.metrics) == {"loss", "mae", "val_loss", "val_mae", "eval_loss", "eval_mae"}
    assert (record.params["epochs"], record.params["steps_per_epoch"], record.params["loss"]) == (3, 4, "mse")
    assert record.params["optimizer"]["learning_rate"] == pytest.approx(0.05)
    model_told = {"name": "line", "class": "Sequential", "parameters": 21, "trainable_parameters": 21}
    assert record.trainer["model"] == model_told
    assert record.trainer["ran"]["backend"] == keras.backend.backend()
    assert record.trainer["counts"] == {"epochs": 3.0, "steps": 12.0}

    assert set(history.history) >= FIGURES | {"green/cost_usd"}
    costs = history.history["green/cost_usd"]
    assert len(costs) == 3
    assert costs == sorted(costs)
    assert 0 < costs[-1] <= record.total().cost_usd["dedicated"].value
    assert "green/energy_kwh" in (tmp_path / "log.csv").read_text().splitlines()[0]


def test_fits_after_each_other_are_one_run_and_one_after_stop_is_another(tmp_path):
    green = integration.GreenCallback(tmp_path / "run.json")
    model = model_of()
    fit(model, green)
    fit(model, green)
    assert green.stop().trainer["counts"] == {"epochs": 6.0, "steps": 24.0}
    fit(model, green, epochs=1)
    assert green.stop().trainer["counts"] == {"epochs": 1.0, "steps": 4.0}
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["run-2.json", "run.json"]


def test_an_evaluation_at_the_end_of_each_epoch_leaves_the_fit_its_steps(tmp_path):
    green = integration.GreenCallback(tmp_path / "run.json")

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(*data(), verbose=0, callbacks=[green])

    fit(model_of(), green, Look(), validation_data=None)
    record = green.stop()
    assert record.trainer["counts"] == {"epochs": 3.0, "steps": 12.0}
    assert record.trainer["progress"]["steps"][-1][1] == 12.0
    assert {phase.path: phase.count for phase in record.phases} == {"train": 4, "eval": 3}


def test_losses_have_their_names(tmp_path):
    def own_loss(y_true, y_pred):
        return keras.ops.mean(abs(y_true - y_pred))

    entry = keras.Input((3,))
    model = keras.Model(entry, {name: keras.layers.Dense(1, name=name)(entry) for name in "abc"})
    model.compile(optimizer="sgd", loss={"a": "mse", "b": keras.losses.MeanAbsoluteError(), "c": own_loss})
    x, y = data()
    green = integration.GreenCallback(tmp_path / "run.json")
    model.fit(x, dict.fromkeys("abc", y), epochs=1, verbose=0, callbacks=[green])
    assert green.stop().params["loss"] == {"a": "mse", "b": "mean_absolute_error", "c": "own_loss"}


def test_a_callback_per_fold_bills_no_second_twice_and_goes_on_as_another_attempt(tmp_path):
    folds = [(integration.GreenCallback(tmp_path / f"fold-{fold}" / "run.json"), model_of()) for fold in range(2)]
    for green, model in folds:
        fit(model, green)
    first = greenml.open_record(tmp_path / "fold-0" / "run.json")
    (again, model), (green, _) = folds
    model.evaluate(*data(), verbose=0, callbacks=[again])
    records = [again.stop(), green.stop()]

    assert (first.status, first.trainer["counts"]) == ("completed", {"epochs": 3.0, "steps": 12.0})
    assert [len(record.attempts) for record in records] == [2, 1]
    assert {phase.path: phase.count for phase in records[0].phases} == {"train": 4, "eval": 4}
    assert (records[0].run_id, records[0].trainer["counts"]) == (first.run_id, first.trainer["counts"])
    assert "eval_loss" in records[0].metrics
    assert_one_at_a_time(records)


def test_what_is_not_known_is_not_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr("greenml.sensors.discover", lambda *_: iter(()))
    history = fit(model_of(), green := integration.GreenCallback(tmp_path / "run.json")).history
    green.stop()
    assert set(history) >= FIGURES
    assert "green/cost_usd" not in history
    assert all(math.isnan(value) for name in FIGURES for value in history[name])


@pytest.mark.parametrize("fault", ["none", "sensors", "run", "start"])
def test_training_is_the_same_bit_for_bit(fault, tmp_path, monkeypatch):
    alone = fit(model_of()).history
    green = integration.GreenCallback(tmp_path / "run.json")
    break_greenml(monkeypatch, fault)
    tracked = fit(model_of(), green).history
    green.stop()
    assert {name: values for name, values in tracked.items() if not name.startswith("green/")} == alone


def test_an_exception_that_is_caught_is_told_with_stop(tmp_path):
    class Stumble(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("epoch 1 went wrong")

    green = integration.GreenCallback(tmp_path / "run.json")
    with pytest.raises(RuntimeError) as caught:
        fit(model_of(), green, Stumble())
    record = green.stop(caught.value)
    assert (record.status, record.error) == ("failed", "RuntimeError: epoch 1 went wrong")
    assert record.trainer["counts"] == {"epochs": 1.0, "steps": 4.0}


def test_an_exception_that_ends_the_program_fails_the_run(tmp_path):
    program = """
    import keras, numpy
    from greenml.integrations.keras import GreenCallback

    class Stumble(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise RuntimeError("went wrong")

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(numpy.ones((8, 3)), numpy.ones((8, 1)), verbose=0, callbacks=[GreenCallback(), Stumble()])
    """
    done = run_program(tmp_path, program)
    assert "went wrong" in done.stderr
    record = greenml.open_record(tmp_path / "run.json")
    assert (tmp_path / "run.json").exists()
    assert (record.status, record.error) == ("failed", "RuntimeError: went wrong")
    assert [phase.path for phase in record.phases] == ["train"]


def test_a_wrong_setting_is_said_at_once():
    with pytest.raises(greenml.SettingsError, match="tier"):
        integration.GreenCallback(tier="cheap")


def test_a_tuners_copy_has_no_run_of_its_own_yet(tmp_path):
    green = integration.GreenCallback(tmp_path / "run.json")
    fit(model_of(), green)
    assert copy.copy(green).run is None
    assert green.stop().status == "completed"
