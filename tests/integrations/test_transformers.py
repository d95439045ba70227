"""GreenCallback in Trainers of Hugging Face: tiny GPT-2 and T5, on the CPU."""

from __future__ import annotations

import _thread
import copy
import gc
import itertools
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import greenml

from .shared import Later

torch, transformers = Later("torch", "torch"), Later("transformers", "transformers")
integration, toy = Later("greenml.integrations.transformers"), Later("integrations.toy_trainer")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|accelerate|tensorboard)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|transformers|accelerate|huggingface_hub)"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*"),
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated"),
]
PROGRAM = Path(__file__).with_name("toy_trainer.py")
PRICED = {"price_per_hour": 36.0, "carbon_intensity": 400.0, "pue": 1.5}  # a cent a second


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def green():
    """Make callbacks that end with the test."""
    made = []

    def make(*arguments, **settings):
        made.append(integration.GreenCallback(*arguments, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def program(folder, told, *, ranks=1):
    """Start a toy Trainer in a process of its own, under torchrun if there are ranks."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}
    launch = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [sys.executable, *launch, PROGRAM, json.dumps({"folder": str(folder), **told})],
        env=plain | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def beside_each_other(record):
    """Tell whether phases neither overlap nor reach beyond the run; return what they leave of it."""
    spans = sorted(span for phase in record.phases for span in phase.spans)
    assert all(before[1] <= after[0] + 1e-3 for before, after in itertools.pairwise(spans))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= record.duration_seconds + 1e-3
    rest = record.duration_seconds - sum(phase.seconds for phase in record.phases)
    assert rest >= -1e-3 * len(spans)
    return rest


def test_a_trainers_whole_life_is_one_run(green, tmp_path):
    callback = green(**PRICED)
    trainer = toy.trainer(
        tmp_path, callback, step_seconds=0.02, eval_on_start=True, eval_strategy="steps", eval_steps=4,
        save_strategy="steps", save_steps=4, gradient_accumulation_steps=2, num_train_epochs=2, weight_decay=0.1,
    )  # fmt: skip
    result = trainer.train()
    after_training = greenml.open_record(tmp_path / "run.json")
    evaluated = trainer.evaluate()
    predicted = trainer.predict(toy.Tokens(toy.EVAL))
    record = callback.stop()

    assert json.loads((tmp_path / "run.json").read_text())["run_id"] == record.run_id
    assert not (tmp_path / "run-2.json").exists()
    assert {phase.path for phase in after_training.phases} == {"setup", "train", "eval", "save"}
    assert (record.status, len(record.attempts)) == ("completed", 1)
    [trace] = (tmp_path / "run.trace").glob("*.jsonl")  # how far it was, for those who watch
    steps = [
        (line["step"], line["steps"]) for line in map(json.loads, trace.read_text().splitlines()) if "step" in line
    ]
    assert (steps[0], steps[-1]) == ((0, 8), (8, 8))
    # 8 steps of two batches: at the start and after 4 and 8; the one more is evaluate().
    assert {phase.path: phase.count for phase in record.phases} == {
        "setup": 1,
        "train": 6,
        "eval": 4,
        "save": 2,
        "predict": 1,
    }
    assert record.phases[0].spans[0][0] == 0.0
    assert beside_each_other(record) < 0.5 * record.duration_seconds
    joules = sum(total.it_energy_joules.value for total in record.totals if total.scope != "run")
    assert 0.5 * joules < record.total().it_energy_joules.value
    assert record.phase("train").seconds >= 16 * 0.02
    assert record.phase("eval").seconds >= 4 * 4 * 0.02
    assert record.phase("eval").seconds < record.phase("train").seconds + record.phase("setup").seconds

    told = record.trainer
    assert told["training_args"]["weight_decay"] == 0.1
    assert told["training_args"]["max_steps"] == -1
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    frozen = trainer.model.transformer.wpe.weight.numel()
    assert told["model"] == {
        "name": "GPT2LMHeadModel", "class": "GPT2LMHeadModel", "parameters": total,
        "trainable_parameters": total - frozen, "layers": 1, "hidden_size": 16, "heads": 2,
    }  # fmt: skip
    assert told["trainer_state"] == {
        "max_steps": 8, "global_step": 8, "num_train_epochs": 2, "total_flos": trainer.state.total_flos,
    }  # fmt: skip
    assert (told["ran"]["world_size"], told["ran"]["device"]) == (1, "cpu")
    assert told["ran"]["deepspeed_zero_stage"] is None
    assert told["flops"] == {"total": trainer.state.total_flos, "from": "the Trainer"}
    samples = 2.0 * toy.TRAIN
    assert told["counts"] == {"samples": samples, "tokens": samples * toy.LENGTH, "steps": 8.0, "epochs": 2.0}

    assert record.params == {
        "weight_decay": 0.1, "eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True, "logging_steps": 4,
        "save_steps": 4, "num_train_epochs": 2, "use_cpu": True, "dataloader_pin_memory": False,
        "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "gradient_accumulation_steps": 2,
        "world_size": 1, "effective_batch_size": 8, "learning_rate": 5e-5, "seed": 42,
    }  # fmt: skip
    assert record.metrics["train_loss"] == pytest.approx(result.training_loss)
    assert record.metrics["eval_loss"] == evaluated["eval_loss"]
    assert record.metrics["test_loss"] == predicted.metrics["test_loss"]
    assert not any(name.startswith("green/") for name in record.metrics)

    train = record.total("train")
    seconds, used = train.seconds, train.it_energy_joules.value
    assert train.cost_usd["dedicated"].value == pytest.approx(seconds / 100)
    assert record.derived["samples_per_second"] == pytest.approx(samples / seconds)
    assert record.derived["tokens_per_second"] == pytest.approx(samples * toy.LENGTH / seconds)
    assert record.derived["joules_per_sample"] == pytest.approx(used / samples)
    assert record.derived["joules_per_token"] == pytest.approx(used / samples / toy.LENGTH)
    assert record.derived["cost_usd_dedicated_per_epoch"] == pytest.approx(seconds / 100 / 2)
    assert record.derived["cost_usd_dedicated_per_1000_steps"] == pytest.approx(seconds / 100 / 8 * 1000)
    grams = used / 3.6e6 * 1.5 * 400
    assert record.derived["emissions_grams_per_epoch"] == pytest.approx(grams / 2)


def test_a_seq2seq_trainer_that_evaluates_each_epoch(green, tmp_path):
    callback = green(tmp_path / "elsewhere" / "t5.json")
    trainer = toy.trainer(
        tmp_path / "out", callback, seq2seq=True, num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch",
        predict_with_generate=True, generation_max_length=4, load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    trainer.predict(toy.Tokens(8))
    record = callback.stop()
    assert callback.stop() == record
    assert greenml.open_record(tmp_path / "elsewhere" / "t5.json").run_id == record.run_id
    assert {phase.path: phase.count for phase in record.phases} == {
        "setup": 1,
        "train": 5,
        "eval": 2,
        "save": 2,
        "predict": 1,
    }
    beside_each_other(record)
    assert record.trainer["model"]["class"] == "T5ForConditionalGeneration"
    assert record.trainer["counts"] == {"samples": 64.0, "tokens": 64.0 * toy.LENGTH, "steps": 16.0, "epochs": 2.0}
    assert set(record.metrics) >= {"train_loss", "eval_loss", "test_loss", "learning_rate"}


def test_a_second_training_counts_on(green, tmp_path):
    callback = green()
    trainer = toy.trainer(tmp_path, callback, max_steps=3)
    trainer.train()
    trainer.train()
    record = callback.stop()
    assert record.phase("train").count == 2
    assert record.trainer["counts"]["steps"] == 6.0
    assert record.trainer["counts"]["samples"] == 24.0
    assert record.trainer["counts"]["epochs"] == pytest.approx(2 * 3 / 8)


def test_every_reporter_shows_the_totals(green, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    bars, lines = [], []

    class Looks(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs, **more):
            lines.append({**logs, "step": state.global_step})

        def on_step_end(self, args, state, control, **more):
            [bar] = [
                callback.training_bar
                for callback in trainer.callback_handler.callbacks
                if hasattr(callback, "training_bar")
            ]
            bars.append((state.global_step, bar.postfix or ""))

    trainer = toy.trainer(
        tmp_path, green(**PRICED), Looks, step_seconds=0.08, max_steps=60, logging_steps=2, eval_strategy="steps",
        eval_steps=30, report_to=["tensorboard"], disable_tqdm=False,
    )  # fmt: skip
    result = trainer.train()
    evaluated = trainer.evaluate()

    names = {"green/energy_kwh", "green/co2e_kg", "green/cost_usd", "green/power_w"}
    expected = {"green/expected_energy_kwh", "green/expected_co2e_kg", "green/expected_cost_usd"}
    assert not [name for line in trainer.state.log_history for name in line if name.startswith("green/")]
    history = [line for line in lines if "eval_loss" not in line]
    assert len(history) == 30 + 1
    assert all("green/cost_usd" in line for line in history)
    assert names | expected <= history[-2].keys()
    assert not expected & history[0].keys()
    for name in names - {"green/power_w"}:
        values = [line[name] for line in history if name in line]
        assert values == sorted(values)
        assert values[-1] > values[0]
    joules, kg = history[-1]["green/energy_kwh"] * 3.6e6, history[-1]["green/co2e_kg"]
    assert kg == pytest.approx(joules / 3.6e6 * 1.5 * 0.4)
    assert names <= result.metrics.keys()
    assert names <= evaluated.keys()
    half = next(line for line in history if line["step"] == 40)
    last = next(line for line in history if "train_runtime" in line)
    assert half["green/expected_cost_usd"] == pytest.approx(last["green/cost_usd"], rel=0.3)
    assert last["green/expected_cost_usd"] == pytest.approx(last["green/cost_usd"])

    events = EventAccumulator(str(next((tmp_path).rglob("events.out.tfevents.*")).parent))
    events.Reload()
    shown = {name for name in events.Tags()["scalars"] if "green/" in name}
    assert shown == {f"train/{name}" for name in names | expected}
    assert len(events.Scalars("train/green/cost_usd")) == 34

    first = next(step for step, text in bars if " of " in text)
    assert 60 * 0.02 <= first <= 30
    assert not any(" of " in text for step, text in bars if step < first)
    assert any("$" in text for step, text in bars if step < first)
    value, _, rest = bars[-1][1].partition(" of ")
    assert float(value) > 0
    assert " to " in rest
    assert bars[-1][1].count(" of ") == 3


def test_the_model_card_keeps_its_tables_and_everything_else(green, tmp_path):
    evaluates = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    trainer = toy.trainer(tmp_path, green(**PRICED), **evaluates)
    trainer.train()
    card = tmp_path / "README.md"
    trainer.create_model_card(model_name="toy", tags=["energy"])
    first = card.read_text()
    plain = toy.trainer(tmp_path / "plain", **evaluates)
    plain.train()
    plain.create_model_card(model_name="toy", tags=["energy"])
    assert "Kwh" not in first  # what is logged makes no columns of the Trainer's own table
    assert first.count("<!-- greenml: begin") == first.count("<!-- greenml: end -->") == 1
    headings = [line for line in (tmp_path / "plain" / "README.md").read_text().splitlines() if line.startswith("#")]
    assert [line for line in first.partition("<!-- greenml")[0].splitlines() if line.startswith("#")] == headings

    trainer.evaluate()
    trainer.create_model_card(model_name="toy", tags=["energy"])
    second = card.read_text()
    assert second.count("<!-- greenml: begin") == second.count("<!-- greenml: end -->") == 1
    assert first.partition("<!-- greenml")[0].splitlines()[:12] == second.partition("<!-- greenml")[0].splitlines()[:12]
    assert "eval" in second.partition("<!-- greenml: begin")[2]

    written = "\nWords of a person, with | signs |.\n"
    card.write_text(second + written)
    trainer.callback_handler.callbacks[1].card(card)
    third = card.read_text()
    assert third.endswith(written)
    assert third.count("<!-- greenml: begin") == 1
    assert third.partition("<!-- greenml")[0] == second.partition("<!-- greenml")[0]


@pytest.mark.parametrize(
    ("how", "error", "status", "line"),
    [
        ("ValueError", ValueError, "failed", "ValueError: a step went wrong"),
        ("KeyboardInterrupt", KeyboardInterrupt, "interrupted", "KeyboardInterrupt"),
        ("exit", SystemExit, "failed", "SystemExit: 3"),
    ],
)
def test_an_exception_ends_the_run_and_comes_through(green, tmp_path, how, error, status, line):
    trainer = toy.trainer(tmp_path, green(), dies={"at": 3, "how": how})
    with pytest.raises(error):
        trainer.train()
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["error"]) == (status, line)
    assert record["trainer"]["counts"] == {"samples": 16.0, "tokens": 16.0 * toy.LENGTH, "steps": 3.0, "epochs": 3 / 8}
    assert {phase["path"] for phase in record["phases"]} == {"setup", "train"}


def test_training_again_after_ctrl_c_is_another_attempt_or_run(green, tmp_path):
    callback = green()
    dies = {"at": 3, "how": "KeyboardInterrupt"}
    trainer = toy.trainer(tmp_path, callback, dies=dies, save_strategy="steps", save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    dies["at"] = None
    trainer.train(resume_from_checkpoint=True)
    record = callback.stop()
    assert [attempt.status for attempt in record.attempts] == ["interrupted", "completed"]
    assert record.trainer["counts"]["steps"] == 3.0 + 6.0
    assert any(note.code == "lost-work" for note in record.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_signal_leaves_a_record_in_traces(tmp_path, how):
    done = program(tmp_path, {"callback": {}, "dies": {"at": 5, "how": how}, "step_seconds": 0.1})
    assert done.returncode == -getattr(signal, how)
    record = greenml.open_record(tmp_path / "run.json")
    assert record.status == "killed"
    assert {phase.path for phase in record.phases} == {"setup", "train"}
    assert record.phase("train").seconds > 2 * 0.1
    assert record.trainer["counts"]["steps"] == 4.0  # as of its last log


def test_ranks_share_one_run_and_stop_at_the_same_step(tmp_path):
    """Two ranks, each with the callback and a budget of money: one record, each device once, counts of both."""
    told = {
        "callback": {"price_per_hour": 3600.0, "max_usd": 8.0}, "step_seconds": 0.1,
        "arguments": {"ddp_backend": "gloo", "max_steps": 400, "logging_steps": 5},
    }  # fmt: skip
    done = program(tmp_path, told, ranks=2)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    last = lines[-1]["step"]
    assert 0 < last < 400
    stopped = [line["step"] for line in lines[:-1] if "step" in line]
    assert stopped.count(last) == 2  # both ranks said so

    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, len(record.attempts), record.attempts[0].processes) == ("completed", 1, 2)
    kinds = [device.kind for device in record.devices]
    assert (kinds.count("cpu"), kinds.count("dram"), kinds.count("host")) == (1, 1, 1)
    assert {phase.path: phase.count for phase in record.phases} == {"setup": 1, "train": 2, "save": 1}
    samples = 2.0 * last * toy.BATCH
    assert record.trainer["counts"]["samples"] == samples
    assert record.trainer["counts"]["tokens"] == samples * toy.LENGTH
    assert record.trainer["counts"]["steps"] == last
    assert record.trainer["ran"]["world_size"] == 2
    assert record.trainer["ran"]["distributed_type"] == "MULTI_CPU"
    assert record.params["effective_batch_size"] == 2 * toy.BATCH
    [note] = [note.text for note in record.notes if note.code == "budget"]
    assert note.startswith("budget: ")
    assert f"at step {last}; a checkpoint was saved and training stopped" in note
    assert (tmp_path / f"checkpoint-{last}" / "trainer_state.json").exists()


@pytest.mark.parametrize(
    ("budget", "settings"),
    [("max_usd", {"price_per_hour": 3600.0}), ("max_kg", {"carbon_intensity": 3000}), ("max_kwh", {})],
)
def test_a_budget_stops_training_with_a_checkpoint(green, tmp_path, budget, settings):
    limit = {"max_usd": 2.5, "max_kg": 5e-6, "max_kwh": 1e-6}[budget]
    callback = green(**{budget: limit}, **settings)
    trainer = toy.trainer(tmp_path, callback, step_seconds=0.1, max_steps=100)
    trainer.train()
    stopped = trainer.state.global_step
    assert 0 < stopped < 100
    record = callback.stop()
    assert record.status == "completed"
    [note] = [note.text for note in record.notes if note.code == "budget"]
    assert note.startswith(f"budget: {budget}={limit:g} is used up")
    again = toy.trainer(tmp_path, max_steps=stopped + 1)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped}"))
    assert again.state.global_step == stopped + 1


def test_a_dry_run_of_a_budget_only_warns(green, tmp_path, caplog):
    callback = green(price_per_hour=3600.0, max_usd=0.001, dry_run=True)
    trainer = toy.trainer(tmp_path, callback, max_steps=6)
    with caplog.at_level(logging.WARNING, logger="greenml"):
        trainer.train()
    assert trainer.state.global_step == 6
    warned = [record.getMessage() for record in caplog.records if "budget" in record.getMessage()]
    assert len(warned) == 1
    assert re.search("at step [1-6]; dry run: training goes on$", warned[0])
    assert not list(tmp_path.glob("checkpoint-*"))
    record = callback.stop()
    assert [note.text for note in record.notes if note.code == "budget"] == [warned[0].removeprefix("greenml: ")]
    assert record.trainer["stopped_for"] is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_usd": 5}, "max_usd needs a dedicated price: give sku= and a region= that has one, or price_per_hour="),
        ({"max_usd": 5, "sku": "ND96asr_v4"}, "max_usd needs a dedicated price"),
        ({"max_usd": 5, "sku": "ND96asr_v4", "region": "norwayeast"}, "max_usd needs a dedicated price"),
        ({"max_kwh": 0}, "max_kwh is 0; it must be above 0"),
        ({"max_kg": float("nan")}, "max_kg is nan; it must be above 0"),
        ({"sku": "ND40rs_v3"}, "ND40rs_v2"),
    ],
)
def test_a_wrong_value_is_told_when_it_is_given(settings, says):
    with pytest.raises(greenml.SettingsError) as told:
        integration.GreenCallback(**settings)
    assert says in str(told.value)


@pytest.mark.parametrize("restore", [False, True])
def test_a_checkpoint_from_before_greenml_can_be_resumed(green, tmp_path, restore):
    toy.trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=2).train()
    callback = green()
    trainer = toy.trainer(
        tmp_path, callback, max_steps=8, save_strategy="steps", save_steps=2,
        restore_callback_states_from_checkpoint=restore,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    record = callback.stop()
    assert trainer.state.global_step == 8
    assert len(record.attempts) == 1
    assert not [note for note in record.notes if note.code in ("lost-work", "callback")]
    assert record.trainer["counts"] == {"samples": 16.0, "tokens": 16.0 * toy.LENGTH, "steps": 4.0, "epochs": 0.5}
    state = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())
    assert list(state["stateful_callbacks"]) == ["TrainerControl"]


def test_restored_callbacks_leave_the_one_that_was_there(green, tmp_path):
    """The Trainer replaces callbacks that have a state by new objects; this one has none, and keeps its run."""
    first = green(price_per_hour=36.0)
    arguments = {"save_strategy": "steps", "save_steps": 2, "report_to": "none"}
    toy.trainer(tmp_path, first, max_steps=4, **arguments).train()
    first.stop()

    second = green(tmp_path / "second.json", price_per_hour=36.0)
    trainer = toy.trainer(tmp_path, second, max_steps=8, restore_callback_states_from_checkpoint=True, **arguments)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.callback_handler.callbacks[1] is second
    record = second.stop()
    assert record.run_id == greenml.open_record(tmp_path / "second.json").run_id
    assert {phase.path: phase.count for phase in record.phases} == {"setup": 1, "train": 3, "save": 2}
    assert record.trainer["counts"]["samples"] == 16.0
    assert not (tmp_path / "run-2.json").exists()


# A guest in the Trainer's house: nothing of it is in the Trainer's state.

MEASURED = {"runtime", "samples_per_second", "steps_per_second"}  # of the Trainer's own logs


def state_of(checkpoint):
    """Return a checkpoint's state without what the Trainer itself measures, or averages over this session alone."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    for line in state["log_history"]:
        for name in [name for name in line if name.partition("_")[2] in MEASURED or name == "train_loss"]:
            del line[name]
    return state


@pytest.mark.parametrize("restore", [False, True])
def test_equal_trainings_have_equal_states(green, tmp_path, restore):
    arguments = {
        "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4, "logging_steps": 1, "seed": 1,
        "eval_strategy": "steps", "eval_steps": 4, "restore_callback_states_from_checkpoint": restore,
    }  # fmt: skip
    states, weights = {}, {}
    for name, callbacks in {"plain": [], "one": [green(**PRICED)], "two": [green(max_kwh=1.0)]}.items():
        trainer = toy.trainer(tmp_path / name, *callbacks, **arguments)
        trainer.train()
        trainer.save_state()
        checkpoints = [tmp_path / name / f"checkpoint-{step}" for step in (4, 12, 16)]
        states[name] = [state_of(folder) for folder in (*checkpoints, tmp_path / name)]
        weights[name] = toy.weights(trainer.model)
        files = {path.name for path in (tmp_path / name).iterdir()} - {"run.json", "run.trace"}
        assert files == {"trainer_state.json", *(f"checkpoint-{step}" for step in (4, 8, 12, 16))}
        if callbacks:
            for folder in checkpoints:
                others = tmp_path / "plain" / folder.name
                assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in others.iterdir())
    assert states["one"] == states["plain"]
    assert states["two"] == states["plain"]
    assert weights["one"] == weights["two"] == weights["plain"]

    resumed = toy.trainer(tmp_path / "one", green(**PRICED), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-4"))
    resumed.save_state()
    assert state_of(tmp_path / "one") == states["plain"][-1]
    assert state_of(tmp_path / "one" / "checkpoint-12") == states["plain"][1]
    assert toy.weights(resumed.model) == weights["plain"]


def test_the_end_of_a_process_says_at_most_a_line_a_run(tmp_path):
    """One run's folder was taken away, another's record cannot be written; both Trainers are still there at the end."""
    program = f"""
import pathlib, shutil, sys
sys.path.insert(0, {str(PROGRAM.parents[2])!r})
from tests.integrations import toy_trainer as toy
from greenml.integrations.transformers import GreenCallback
folder = pathlib.Path({str(tmp_path)!r})
trainers = []
for name in ("gone", "blocked"):
    trainers.append(toy.trainer(folder / name, GreenCallback(), max_steps=2))
    trainers[-1].train()
    if name == "gone":
        shutil.rmtree(folder / name)
(folder / "blocked" / "run.json").unlink()
(folder / "blocked" / "run.json").mkdir()
trainers[-1].evaluate()
trainers[-1].evaluate()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "greenml" in line or "run.json" in line]
    assert len(lines) == 1, done.stderr
    assert "blocked" in lines[0]
    assert not (tmp_path / "gone").exists()


GUEST = """
import os
import greenml
from tests.integrations import toy_trainer as toy

def test_a_trainer_with_a_guest(tmp_path):
    one = toy.trainer(tmp_path, save_strategy="steps", save_steps=4)
    assert greenml.GreenCallback in map(type, one.callback_handler.callbacks)
    one.train()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-4", "checkpoint-8"]
    assert (tmp_path / "run.json").is_file()
"""


def test_the_guest_of_others_tests_adds_a_record_and_traces_and_nothing_else(tmp_path):
    (tmp_path / "test_guest.py").write_text(GUEST)
    paths = [str(PROGRAM.parent), str(PROGRAM.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "trainer_guest", "-p", "no:cacheprovider", "test_guest.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "greenml" not in done.stderr


MANY_TRAINERS = int(os.environ.get("GREENML_TRAINERS", "12"))  # 200 before a release
MANY = """
import gc, json, os, pathlib, sys, threading, time
sys.path.insert(0, {root!r})
from tests.integrations import toy_trainer as toy
from greenml.integrations.transformers import GreenCallback

def held():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    started = [thread for thread in threading.enumerate() if not thread.name.startswith("Dummy")]
    return len(started), len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")

kept, seen = [], []
before = held()
for number in range({count}):
    trainer = toy.trainer(pathlib.Path({folder!r}) / str(number), GreenCallback(), max_steps=1)
    trainer.train()
    if number % 2:
        trainer.evaluate()
    if number % 3 == 0:
        kept.append(trainer)  # as people do with the folds of a validation
    gc.collect()
    seen.append(held())
kept.clear()
del trainer
gc.collect()
until = time.monotonic() + 60
while held()[:2] > before[:2] and time.monotonic() < until:  # the last run ends in a thread of its own
    time.sleep(0.05)
print(json.dumps([before, seen, held()]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_many_trainers_in_one_process_leave_nothing_behind(tmp_path):
    """Kept or deleted, evaluated or not: threads, open files and memory stay as they are after the first few."""
    source = MANY.format(root=str(PROGRAM.parents[2]), folder=str(tmp_path), count=MANY_TRAINERS)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=1200,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, seen, after = json.loads(done.stdout.splitlines()[-1])
    assert max(threads for threads, _, _ in seen) <= before[0] + 4
    assert max(files for _, files, _ in seen) <= before[1] + 16
    assert after[:2] <= before[:2]
    early = max(memory for _, _, memory in seen[: MANY_TRAINERS // 2])
    grown = max(memory for _, _, memory in seen) - early
    assert grown / (MANY_TRAINERS / 2) < 1e6  # bytes a Trainer, of which every third was kept
    records = [greenml.open_record(tmp_path / str(number) / "run.json") for number in range(MANY_TRAINERS)]
    assert {record.status for record in records} == {"completed"}
    assert [record.phase("eval") is not None for record in records] == [bool(n % 2) for n in range(MANY_TRAINERS)]
    assert "greenml:" not in done.stderr


def test_a_deleted_trainers_folder_is_left_alone(tmp_path):
    """Who deletes a Trainer may remove its folder next: no thread makes a file in it or replaces one meanwhile."""

    def entries():
        return {path.relative_to(tmp_path): path.stat().st_ino for path in (tmp_path / "one").rglob("*")}

    threads = _thread._count()
    callback = integration.GreenCallback(**PRICED)
    one = toy.trainer(tmp_path / "one", callback, max_steps=2)
    one.train()
    before, deleted = entries(), time.time()
    del one
    gc.collect()
    until = time.monotonic() + 60
    while _thread._count() > threads and time.monotonic() < until:
        time.sleep(0.02)
    assert _thread._count() <= threads  # measuring has ended
    assert entries() == before
    time.sleep(0.5)  # which is nobody's
    other = toy.trainer(tmp_path / "two", callback, max_steps=1)  # a used callback measures it as another attempt
    assert entries() != before
    other.train()
    record = callback.stop()
    assert (record.status, [attempt.status for attempt in record.attempts]) == ("completed", ["completed"] * 2)
    first = record.attempts[0]
    assert first.started.timestamp() + first.seconds <= deleted + 0.01
    assert record.phase("train").count == 2


@pytest.mark.parametrize("same_folder", [False, True])
def test_each_fold_is_a_run_that_ends_with_its_last_work(tmp_path, same_folder):
    """Three Trainers, all of them kept; each hour is billed to one of them at the most."""
    trainers, spans = [], []
    for fold in range(3):
        folder = tmp_path / ("out" if same_folder else str(fold))
        trainers.append(toy.trainer(folder, integration.GreenCallback(**PRICED), max_steps=2, step_seconds=0.05))
        trainers[-1].train()
        evaluates = time.time()
        trainers[-1].evaluate()
        spans.append((evaluates, time.time()))
        time.sleep(0.4)  # which is nobody's
    trainers[-1].callback_handler.callbacks[1].stop()
    names = ["run.json", "run-2.json", "run-3.json"] if same_folder else ["run.json"] * 3
    records = [
        greenml.open_record(tmp_path / ("out" if same_folder else str(fold)) / name) for fold, name in enumerate(names)
    ]
    assert [record.status for record in records] == ["completed"] * 3
    assert [len(record.attempts) for record in records] == [1] * 3
    for record, following, (evaluates, done) in zip(records[:2], records[1:], spans, strict=False):
        assert {phase.path: phase.count for phase in record.phases} == {"setup": 1, "train": 1, "eval": 1}
        ended = record.started.timestamp() + record.duration_seconds
        assert ended <= done + 0.01
        assert ended >= evaluates + 4 * 0.05  # its batches; what follows is writing the record
        assert following.started.timestamp() >= done + 0.35
        worked = max(phase.spans[-1][1] for phase in record.phases)
        assert worked - 0.01 <= record.duration_seconds <= worked + 0.2  # no part of the pause of 0.4 s
        assert record.total().cost_usd["dedicated"].value == pytest.approx(record.duration_seconds / 100)
    assert len({record.run_id for record in records}) == 3


def test_a_trainer_that_works_again_goes_on_with_its_run(tmp_path):
    """Two Trainers in turns, as a teacher and its student: the attempts of both lie beside each other."""
    teacher = toy.trainer(tmp_path / "teacher", integration.GreenCallback(**PRICED), max_steps=2)
    student = toy.trainer(tmp_path / "student", integration.GreenCallback(**PRICED), max_steps=2)
    teacher.train()
    student.train()
    teacher.evaluate()
    records = [trainer.callback_handler.callbacks[1].stop() for trainer in (teacher, student)]
    assert [record.status for record in records] == ["completed"] * 2
    assert [record.phase("train").count for record in records] == [1, 1]
    assert records[0].phase("eval").count == 1
    assert [path.name for path in tmp_path.rglob("run*.json")] == ["run.json"] * 2
    assert [len(record.attempts) for record in records] == [3, 2]
    assert not [note for record in records for note in record.notes if note.code == "lost-work"]
    stretches = sorted(
        (attempt.started.timestamp(), attempt.started.timestamp() + attempt.seconds)
        for record in records
        for attempt in record.attempts
    )
    assert all(before[1] <= after[0] + 0.01 for before, after in itertools.pairwise(stretches))


def test_samples_and_tokens_of_batches_of_other_trainers(green, tmp_path):
    """Columns with a prefix, as sentence-transformers and TRL have them; texts, which TRL tokenizes in its step."""

    class Other(transformers.Trainer):
        def training_step(self, model, inputs, *more, **named):
            return torch.tensor(0.0, requires_grad=True)

    rows = torch.ones(3, 5, dtype=torch.int64)
    for batch, counts, note in [
        ({"anchor_input_ids": rows, "positive_input_ids": rows, "label": rows[:, 0]}, (3, 30), ""),
        ({"chosen_input_ids": rows, "chosen_attention_mask": rows, "rejected_input_ids": rows}, (3, 30), ""),
        ({"input_ids_chosen": rows, "attention_mask_chosen": rows, "input_ids_rejected": rows}, (3, 30), ""),
        (  # TRL joins rows for FlashAttention: three sequences in one
            {"input_ids": rows.reshape(1, 15), "position_ids": rows.reshape(1, 15), "cu_seq_lens_q": rows[0, :4]},
            (3, 15),
            "",
        ),
        ([{"prompt": "a"}, {"prompt": "b"}], (2, 0), "tokens are not counted: the batches hold texts"),
        ("nothing", (0, 0), "samples and tokens are not counted: a batch is a str"),
    ]:
        callback = green(tmp_path / f"{len(list(tmp_path.iterdir()))}" / "run.json")
        trainer = toy.trainer(tmp_path, callback, max_steps=1)
        trainer.__class__ = Other
        callback.count(batch)
        callback.count(batch)
        callback._write_counts(trainer.state)
        record = callback.stop()
        kept = record.trainer.get("counts", {})
        assert (kept.get("samples", 0), kept.get("tokens", 0)) == (2 * counts[0], 2 * counts[1])
        notes = [each.text for each in record.notes if each.code == "not-counted"]
        assert len(notes) == bool(note)
        assert all(text.startswith(note) for text in notes)


def test_a_preference_is_one_sample_of_two_rows(green, tmp_path):
    """A Trainer whose batches are as those of TRL's DPOTrainer and RewardTrainer: no labels, chosen ones first."""

    class Preferences(toy.Tokens):
        """Rows of a chosen and a rejected text, of another length each."""

        def __getitem__(self, at):
            return {"chosen": torch.full((4,), 3 + at % 9), "rejected": torch.full((2 + at % 2,), 3)}

    def collate(pairs):
        texts = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "completion_mask": (ids > 0).long()}

    class Prefers(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **named):
            scores = model(input_ids=inputs["input_ids"]).logits.mean(dim=(1, 2))
            chosen, rejected = scores.chunk(2)
            return -torch.nn.functional.logsigmoid(chosen - rejected).mean()

    callback = green()
    made = toy.trainer(tmp_path, max_steps=6, remove_unused_columns=False)
    trainer = Prefers(
        model=toy.gpt2(), args=made.args, train_dataset=Preferences(11), data_collator=collate, callbacks=[callback]
    )
    trainer.train()
    record = callback.stop()
    assert record.trainer["counts"]["samples"] == 2 * 11  # two epochs of 4, 4 and 3
    assert record.trainer["counts"]["tokens"] == 2 * 22 * 4  # padding included
    pickle.loads(pickle.dumps(callback))


class Misbehaves:
    """Stands where the callback keeps its run, and does nothing right."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} today")


@pytest.mark.parametrize("part", ["_runs", "_forecast", "_budget", "_trainer_ref", "_troubles"])
def test_what_breaks_in_the_callback_breaks_nothing_else(green, tmp_path, part, caplog):
    arguments = {
        "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4
    }  # fmt: skip
    plain = toy.trainer(tmp_path / "plain", **arguments)
    plain.train()
    broken = integration.GreenCallback(max_kwh=1000.0)
    trainer = toy.trainer(tmp_path / "broken", broken, **arguments)
    whole, runs = broken._runs.whole, broken._runs
    setattr(broken, part, Misbehaves())
    trainer.train()
    assert trainer.losses == plain.losses
    assert toy.weights(trainer.model) == toy.weights(plain.model)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    trainer.predict(toy.Tokens(4))
    trainer.create_model_card()
    if part not in ("_troubles", "_trainer_ref"):  # of the one it cannot tell, the other it finds again
        assert any("today; training goes on" in record.getMessage() for record in caplog.records)
    runs.leave()
    whole.stop()


def test_codecarbon_beside_it_is_said(green, tmp_path):
    class CodeCarbonCallback(transformers.TrainerCallback):
        """Of the name that transformers' own has."""

    callback = green()
    toy.trainer(tmp_path, CodeCarbonCallback, callback, max_steps=1).train()
    notes = [note for note in callback.stop().notes if note.code == "codecarbon"]
    assert len(notes) == 1
    assert "CodeCarbonCallback is active too" in notes[0].text


def test_a_class_will_do_in_place_of_an_object(tmp_path):
    trainer = toy.trainer(tmp_path, integration.GreenCallback, max_steps=1)
    trainer.train()
    [callback] = [
        callback for callback in trainer.callback_handler.callbacks if isinstance(callback, integration.GreenCallback)
    ]
    assert callback.stop().status == "completed"


def test_an_output_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(greenml.SettingsError, match="cannot be written"):
        toy.trainer(tmp_path, integration.GreenCallback(tmp_path / "file" / "run.json"))


@pytest.mark.parametrize("make", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
def test_a_copy_measures_a_run_of_its_own(green, tmp_path, make):
    """As workers of a search have it, to which the Trainer is sent."""
    callback = green(price_per_hour=36.0, max_kwh=10.0)
    trainer = toy.trainer(tmp_path, callback, max_steps=1)
    trainer.train()
    other = make(callback)
    assert (other._runs.whole, other._trainer) == (None, None)
    assert trainer.callback_handler.callbacks[1] is callback
    toy.trainer(tmp_path / "other", other, max_steps=2).train()
    records = callback.stop(), other.stop()
    assert records[0].run_id != records[1].run_id
    assert [record.trainer["counts"]["steps"] for record in records] == [1.0, 2.0]
    assert records[1].total().cost_usd["dedicated"].value > 0


def test_the_benchmark_prints_its_table(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM.parents[2] / "benchmarks" / "trainer_overhead.py", "--rounds", "1", "--blocks", "2",
         "--block-seconds", "0.1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert float(rows["greenml"][3]) > 0
    assert "codecarbon" in rows or rows["codecarbon:"][1] == "skipped:"


def test_a_callback_added_later_measures_from_there(green, tmp_path):
    trainer = toy.trainer(tmp_path, max_steps=4)
    callback = green()
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.callback_handler.callbacks[1] is callback
    trainer.pop_callback(callback)
    trainer.evaluate()
    record = callback.stop()
    assert {phase.path for phase in record.phases} == {"setup", "train"}
    assert record.trainer["counts"]["samples"] == 16.0


def test_a_guest_that_is_called_first_keeps_no_other_callback_from_its_hook(green, tmp_path):
    class Seen(transformers.TrainerCallback):
        hooks = ()

        def on_train_begin(self, *_, **__):
            self.hooks = (*self.hooks, "begin")

        def on_train_end(self, *_, **__):
            self.hooks = (*self.hooks, "end")

    trainer, callback, seen = toy.trainer(tmp_path, max_steps=1), green(), Seen()
    trainer.callback_handler.callbacks = [callback, seen, transformers.DefaultFlowCallback()]
    trainer.train()
    assert seen.hooks == ("begin", "end")
    assert callback.stop().trainer["counts"]["steps"] == 1.0


def test_of_two_callbacks_in_one_trainer_the_first_measures_and_this_is_said(green, tmp_path, caplog):
    """As a cell that adds one and is run twice leaves them."""
    first, second = green(**PRICED), green(tmp_path / "second.json", max_kwh=10.0)
    trainer = toy.trainer(tmp_path, first, max_steps=2)
    for _ in range(2):
        trainer.add_callback(second)
    trainer.train()
    trainer.evaluate()
    assert second.stop() is None
    record = first.stop()
    beside_each_other(record)
    assert {phase.path for phase in record.phases} == {"setup", "train", "eval"}
    assert (len(record.attempts), record.trainer["counts"]["steps"]) == (1, 2.0)
    assert [note.text for note in record.notes if note.code == "callback"] == [
        "this Trainer has two GreenCallbacks: the first measures, and has its settings and budget"
    ]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["run.json"]
    assert caplog.text.count("two GreenCallbacks") == 1


def test_a_hyperparameter_search_is_a_run_of_runs(green, tmp_path):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    callback = green(price_per_hour=36.0, interval=0.1)
    made = toy.trainer(tmp_path, callback, step_seconds=0.02, eval_strategy="epoch")
    trainer = type(made)(
        model_init=lambda trial: toy.gpt2(), args=made.args, train_dataset=made.train_dataset,
        eval_dataset=made.eval_dataset, callbacks=[callback],
    )  # fmt: skip
    pruned = []

    class Prunes(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            if trial.number == 1:
                pruned.append(trial.number)
            return trial.number == 1

    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        n_trials=3, backend="optuna", direction="minimize", pruner=Prunes(),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )  # fmt: skip
    record = callback.stop()
    assert pruned == [1]
    assert (record.status, len(record.attempts)) == ("completed", 1)
    assert record.trainer["best_trial"]["run_id"] == best.run_id
    trials = [greenml.open_record(tmp_path / f"trial-{number}" / "run.json") for number in range(3)]
    assert {name: trial["record"] for name, trial in record.trainer["trials"].items()} == {
        str(number): f"trial-{number}/run.json" for number in range(3)
    }
    assert [trial.status for trial in trials] == ["completed"] * 3
    assert [any(note.code == "pruned" for note in trial.notes) for trial in trials] == [False, True, False]
    rates = [trial.params["learning_rate"] for trial in trials]
    assert len(set(rates)) == 3
    assert record.trainer["trials"]["2"]["params"] == {"learning_rate": rates[2]}
    assert record.trainer["best_trial"]["hyperparameters"]["learning_rate"] in rates
    assert trials[0].metrics["eval_loss"] != trials[2].metrics["eval_loss"]
    assert [trial.trainer["counts"]["samples"] for trial in trials] == [32.0] * 3
    assert record.trainer["counts"]["samples"] == 96.0
    assert record.trainer["counts"]["steps"] == 24.0
    assert record.phase("train").seconds == pytest.approx(
        sum(trial.phase("train").seconds for trial in trials), abs=0.25
    )
    assert record.phase("eval").seconds == pytest.approx(sum(trial.phase("eval").seconds for trial in trials), abs=0.15)
    assert sum(trial.duration_seconds for trial in trials) <= record.duration_seconds
    assert all(trial.trainer["search"]["run"] == str(tmp_path / "run.json") for trial in trials)
    assert len({trial.run_id for trial in [record, *trials]}) == 4
