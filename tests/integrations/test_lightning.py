"""GreenCallback in Trainers of Lightning's both class trees."""

from __future__ import annotations

import copy
import csv
import dataclasses
import importlib
import itertools
import json
import signal
import time

import pytest

import greenml
from greenml.integrations import batch_size

from .shared import Later, assert_one_at_a_time, break_greenml, run_program

torch = Later("torch", "torch", "lightning")
integration = Later("greenml.integrations.lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|lightning|pytorch_lightning)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|lightning|pytorch_lightning)"),
]
SAMPLES, BATCH = 24, 4


def tree(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


def module_of(pl, *, fails_at=None, error=RuntimeError):
    class Line(pl.LightningModule):
        def __init__(self, learning_rate=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(3, 1)
            self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
            self.losses = []

        def loss(self, batch):
            inputs, targets = batch
            return torch.nn.functional.mse_loss(self.layer(inputs), targets)

        def training_step(self, batch, batch_idx):
            if self.global_step == fails_at:
                raise error("step 3 went wrong")
            loss = self.loss(batch)
            self.losses.append(loss.item())
            self.log("train_loss", loss)
            time.sleep(0.02)
            return loss

        def validation_step(self, batch, batch_idx):
            time.sleep(0.02)
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch))

        def predict_step(self, batch, batch_idx):
            return self.layer(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)

    torch.manual_seed(0)
    return Line()


def loader():
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(SAMPLES, 3), torch.randn(SAMPLES, 1))
    return torch.utils.data.DataLoader(data, batch_size=BATCH)


def trainer_of(pl, folder, *callbacks, **arguments):
    logger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger(folder)
    defaults = {
        "default_root_dir": folder,
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 2,
        "logger": logger,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | arguments))


@pytest.mark.alone
@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_a_trainers_whole_life_is_one_run(name, tmp_path):
    pl = tree(name)
    green = integration.GreenCallback(price_per_hour=3.6, carbon_intensity=400, interval=0.05)
    assert isinstance(green, pl.Callback)
    trainer = trainer_of(pl, tmp_path, green, accumulate_grad_batches=2)
    model = module_of(pl)

    trainer.fit(model, loader(), loader())
    so_far = greenml.open_record(tmp_path / "run.json")
    trainer.test(model, loader(), verbose=False)
    trainer.predict(model, loader())
    record = green.stop()

    assert (tmp_path / "run.json").exists()
    assert not (tmp_path / "run-2.json").exists()
    assert {phase.path for phase in so_far.phases} == {"setup", "sanity_check", "train", "validate"}
    assert (record.status, len(record.attempts)) == ("completed", 1)
    [trace] = (tmp_path / "run.trace").glob("*.jsonl")  # how far it was, for those who watch
    steps = [
        (line["step"], line["steps"]) for line in map(json.loads, trace.read_text().splitlines()) if "step" in line
    ]
    assert (steps[0], steps[-1]) == ((0, 6), (6, 6))
    counts = {phase.path: phase.count for phase in record.phases}
    assert counts == {"setup": 3, "sanity_check": 1, "train": 3, "validate": 2, "test": 1, "predict": 1}
    spans = sorted(span for phase in record.phases for span in phase.spans)
    assert all(before[1] <= after[0] + 0.001 for before, after in itertools.pairwise(spans))
    batches = SAMPLES // BATCH
    assert record.phase("train").seconds >= 2 * batches * 0.02
    assert record.phase("validate").seconds >= 2 * batches * 0.02

    assert set(record.metrics) >= {"train_loss", "val_loss", "test_loss"}
    assert record.metrics["train_loss"] == pytest.approx(model.losses[-1])
    params = record.params
    assert (params["learning_rate"], params["max_epochs"]) == (0.1, 2)
    assert (params["per_device_train_batch_size"], params["accumulate_grad_batches"]) == (BATCH, 2)
    assert (params["effective_batch_size"], params["precision"]) == (2 * BATCH, "32-true")
    assert (params["devices"], params["num_nodes"], params["strategy"]) == (1, 1, "SingleDeviceStrategy")
    assert record.trainer["model"] == {"name": "Line", "class": "Line", "parameters": 10, "trainable_parameters": 4}
    assert record.trainer["ran"]["framework"].startswith(name.partition(".")[0])
    assert record.trainer["counts"] == {"samples": 2.0 * SAMPLES, "steps": 6.0, "epochs": 2.0}
    assert record.derived["samples_per_second"] == pytest.approx(2 * SAMPLES / record.phase("train").seconds)

    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("green/cost_usd")]
    assert [row["step"] for row in rows] == ["1", "3", "5"]
    costs = [float(row["green/cost_usd"]) for row in rows]
    assert costs == sorted(costs)
    assert 0 < costs[-1] <= record.total().cost_usd["dedicated"].value
    assert float(rows[-1]["green/energy_kwh"]) > 0
    assert "green/co2e_kg" in rows[-1]
    assert not any(metric.startswith("green/") for metric in record.metrics)


def test_an_exception_fails_the_run_and_comes_through(tmp_path):
    pl = tree("lightning.pytorch")
    with pytest.raises(RuntimeError, match="step 3"):
        trainer_of(pl, tmp_path, integration.GreenCallback()).fit(module_of(pl, fails_at=3), loader(), loader())
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, record.error) == ("failed", "RuntimeError: step 3 went wrong")
    assert record.phase("train").seconds > 0
    assert record.trainer["counts"]["steps"] == 3


def test_ctrl_c_interrupts_the_run(tmp_path):
    pl = tree("lightning.pytorch")
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            trainer_of(pl, tmp_path, integration.GreenCallback()).fit(
                module_of(pl, fails_at=1, error=KeyboardInterrupt), loader(), loader()
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert greenml.open_record(tmp_path / "run.json").status == "interrupted"


def test_fits_after_each_other_are_one_run_and_one_after_stop_is_another(tmp_path):
    pl = tree("lightning.pytorch")
    green = integration.GreenCallback()
    for _ in range(2):
        trainer_of(pl, tmp_path, green).fit(module_of(pl), loader(), loader())
    record = green.stop()
    assert record.trainer["counts"] == {"samples": 4.0 * SAMPLES, "steps": 24.0, "epochs": 4.0}
    trainer_of(pl, tmp_path, green, max_epochs=1).fit(module_of(pl), loader(), loader())
    another = green.stop()
    assert (green.run, another.run_id == record.run_id) == (None, False)
    assert another.trainer["counts"] == {"samples": 1.0 * SAMPLES, "steps": 6.0, "epochs": 1.0}
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["run-2.json", "run.json"]


@dataclasses.dataclass
class Texts:
    input_ids: object
    labels: object


@pytest.mark.parametrize("kind", ["dataclass", "detection", "nested", "jagged"])
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage")
def test_samples_and_tokens_of_batches_without_a_common_shape(kind):
    ids = torch.zeros(4, 6, dtype=torch.long)
    images, targets = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], [{"boxes": torch.zeros(n, 4)} for n in (2, 1)]
    rows = [torch.zeros(3), torch.zeros(5)]
    batch, counts = {
        "dataclass": lambda: (Texts(ids, ids), (4, 24)),
        "detection": lambda: ((images, targets), (2, 0)),
        "nested": lambda: ([torch.nested.nested_tensor(rows)], (2, 0)),
        "jagged": lambda: ([torch.nested.nested_tensor(rows, layout=torch.jagged)], (2, 0)),
    }[kind]()
    assert batch_size(batch) == counts


def test_tokens_are_those_of_the_input():
    """Not the decoder's, which a collator adds where it is given the model, nor the samples of a sound."""
    ids, labels, sound = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 7, dtype=torch.long), torch.zeros(3, 160)
    texts = {"input_ids": ids, "attention_mask": ids, "labels": labels}
    assert batch_size(texts) == batch_size({**texts, "decoder_input_ids": labels}) == (3, 15)
    assert batch_size({"input_values": sound, "attention_mask": sound.long(), "labels": labels}) == (3, 0)
    assert batch_size({"inputs_embeds": torch.zeros(3, 5, 8), "attention_mask": ids}) == (3, 15)


def test_a_callback_per_fold_bills_no_second_twice_and_goes_on_as_another_attempt(tmp_path):
    pl = tree("lightning.pytorch")
    folds = [(integration.GreenCallback(), module_of(pl)) for _ in range(2)]
    trainers = [trainer_of(pl, tmp_path / f"fold-{number}", green) for number, (green, _) in enumerate(folds)]
    for trainer, (_, module) in zip(trainers, folds, strict=True):
        trainer.fit(module, loader(), loader())
    first = greenml.open_record(tmp_path / "fold-0" / "run.json")
    trainers[0].test(folds[0][1], loader(), verbose=False)
    records = [green.stop() for green, _ in folds]

    counts = {"samples": 2.0 * SAMPLES, "steps": 12.0, "epochs": 2.0}
    assert (first.status, first.trainer["counts"]) == ("completed", counts)
    assert [len(record.attempts) for record in records] == [2, 1]
    assert (records[0].run_id, records[0].trainer["counts"]) == (first.run_id, counts)
    assert {"train", "validate", "test"} <= {phase.path for phase in records[0].phases}
    assert "test_loss" in records[0].metrics
    assert_one_at_a_time(records)


@pytest.mark.parametrize("fault", ["none", "sensors", "run", "start"])
def test_training_is_the_same_bit_for_bit(fault, tmp_path, monkeypatch):
    pl = tree("lightning.pytorch")
    alone, tracked = module_of(pl), module_of(pl)
    trainer_of(pl, tmp_path / "alone").fit(alone, loader(), loader())
    green = integration.GreenCallback()
    break_greenml(monkeypatch, fault)
    trainer_of(pl, tmp_path / "tracked", green).fit(tracked, loader(), loader())
    green.stop()
    assert tracked.losses == alone.losses
    assert all(torch.equal(a, b) for a, b in zip(tracked.parameters(), alone.parameters(), strict=True))


def test_a_trainer_with_a_guest_has_the_files_and_the_checkpoint_that_it_has_alone(tmp_path):
    pl = tree("lightning.pytorch")
    files, checkpoints = {}, {}
    for name, guests in {"alone": [], "guest": [integration.GreenCallback()]}.items():
        trainer = trainer_of(pl, tmp_path / name, *guests)
        trainer.fit(module_of(pl), loader(), loader())
        trainer.save_checkpoint(tmp_path / name / "last.ckpt")
        for guest in guests:
            guest.stop()
        files[name] = {path.relative_to(tmp_path / name).parts for path in (tmp_path / name).rglob("*")}
        checkpoints[name] = torch.load(tmp_path / name / "last.ckpt", weights_only=False)
    assert {parts[0] for parts in files["guest"] - files["alone"]} == {"run.json", "run.trace"}
    assert files["alone"] < files["guest"]
    assert repr(checkpoints["guest"]) == repr(checkpoints["alone"])


def test_a_wrong_setting_is_said_at_once():
    with pytest.raises(greenml.SettingsError, match="tier"):
        integration.GreenCallback(tier="cheap")
    with pytest.raises(TypeError):
        integration.GreenCallback(colour="green")


def test_a_copy_for_another_process_leaves_the_run_here(tmp_path):
    pl = tree("lightning.pytorch")
    green = integration.GreenCallback(name="original")
    trainer_of(pl, tmp_path, green).fit(module_of(pl), loader(), loader())
    assert green.run is not None
    assert copy.copy(green).run is None
    assert green.stop().name == "original"


TWO_RANKS = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import lightning.pytorch as pl
from greenml.integrations.lightning import GreenCallback

class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 3)), batch_size=4)
    pl.Trainer(
        callbacks=[GreenCallback()], max_epochs=2, accelerator="cpu", devices=2, strategy=sys.argv[1], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    ).fit(Line(), data)
"""


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_ranks_leave_one_record(strategy, tmp_path):
    done = run_program(tmp_path, TWO_RANKS, strategy)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, len(record.attempts), record.attempts[0].processes) == ("completed", 1, 2)
    assert record.environment.world_size == 2
    assert record.params["effective_batch_size"] == 8
    assert record.trainer["counts"] == {"samples": 64.0, "steps": 8.0, "epochs": 2.0}
    assert record.phase("train").count == 1
    devices = [(device.host, device.id) for device in record.devices]
    assert len(devices) == len(set(devices))
    cpu = next(device for device in record.devices if device.kind == "cpu")
    assert cpu.usage.covered_seconds <= record.duration_seconds + 0.01
