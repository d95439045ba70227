"""GreenCallback in Trainers of Hugging Face: tiny GPT-2 and T5, on the CPU."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import greenml

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from greenml.integrations.transformers import GreenCallback  # noqa: E402  after it is known to be there

from . import toy_trainer as toy  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|accelerate|tensorboard)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|transformers|accelerate|huggingface_hub)"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*"),
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated"),
]
PROGRAM = Path(toy.__file__)
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
        made.append(GreenCallback(*arguments, **settings))
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
        timeout=120,
    )


def beside_each_other(record):
    """Tell whether phases neither overlap nor reach beyond the run; return what they leave of it."""
    spans = sorted(span for one in record.phases for span in one.spans)
    assert all(before[1] <= after[0] + 1e-3 for before, after in itertools.pairwise(spans))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= record.duration_seconds + 1e-3
    rest = record.duration_seconds - sum(one.seconds for one in record.phases)
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
    assert {one.path for one in after_training.phases} == {"setup", "train", "eval", "save"}
    assert (record.status, len(record.attempts)) == ("completed", 1)
    [trace] = (tmp_path / "run.trace").glob("*.jsonl")  # how far it was, for those who watch
    steps = [
        (line["step"], line["steps"]) for line in map(json.loads, trace.read_text().splitlines()) if "step" in line
    ]
    assert (steps[0], steps[-1]) == ((0, 8), (8, 8))
    # 8 steps of two batches: at the start and after 4 and 8; the one more is evaluate().
    assert {one.path: one.count for one in record.phases} == {
        "setup": 1,
        "train": 6,
        "eval": 4,
        "save": 2,
        "predict": 1,
    }
    assert record.phases[0].spans[0][0] == 0.0
    assert beside_each_other(record) < 0.5
    joules = sum(one.it_energy_joules.value for one in record.totals if one.scope != "run")
    assert 0.5 * joules < record.total().it_energy_joules.value
    assert record.phase("train").seconds >= 16 * 0.02
    assert record.phase("eval").seconds >= 4 * 4 * 0.02
    assert record.phase("eval").seconds < record.phase("train").seconds + record.phase("setup").seconds

    told = record.trainer
    assert told["training_args"]["weight_decay"] == 0.1
    assert told["training_args"]["max_steps"] == -1
    total = sum(one.numel() for one in trainer.model.parameters())
    frozen = trainer.model.transformer.wpe.weight.numel()
    assert told["model"] == {
        "name": "GPT2LMHeadModel", "class": "GPT2LMHeadModel", "parameters": total,
        "trainable_parameters": total - frozen,
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
    assert {one.path: one.count for one in record.phases} == {
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
    bars = []

    class Looks(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            [bar] = [one.training_bar for one in trainer.callback_handler.callbacks if hasattr(one, "training_bar")]
            bars.append((state.global_step, bar.postfix or ""))

    trainer = toy.trainer(
        tmp_path, green(**PRICED), Looks, step_seconds=0.08, max_steps=60, logging_steps=2, eval_strategy="steps",
        eval_steps=30, report_to=["tensorboard"], disable_tqdm=False,
    )  # fmt: skip
    result = trainer.train()
    evaluated = trainer.evaluate()

    names = {"green/energy_kwh", "green/co2e_kg", "green/cost_usd", "green/power_w"}
    expected = {"green/expected_energy_kwh", "green/expected_co2e_kg", "green/expected_cost_usd"}
    history = [one for one in trainer.state.log_history if "eval_loss" not in one]  # those are rows of the model card
    assert len(history) == 30 + 1
    assert all("green/cost_usd" in one for one in history)
    assert names | expected <= history[-2].keys()
    assert not expected & history[0].keys()
    for name in names - {"green/power_w"}:
        values = [one[name] for one in history if name in one]
        assert values == sorted(values)
        assert values[-1] > values[0]
    joules, kg = history[-1]["green/energy_kwh"] * 3.6e6, history[-1]["green/co2e_kg"]
    assert kg == pytest.approx(joules / 3.6e6 * 1.5 * 0.4)
    assert names <= result.metrics.keys()
    assert names <= evaluated.keys()
    half = next(one for one in history if one["step"] == 40)
    last = next(one for one in history if "train_runtime" in one)
    assert half["green/expected_cost_usd"] == pytest.approx(last["green/cost_usd"], rel=0.15)
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
    assert {one["path"] for one in record["phases"]} == {"setup", "train"}


def test_training_again_after_ctrl_c_is_another_attempt_or_run(green, tmp_path):
    callback = green()
    dies = {"at": 3, "how": "KeyboardInterrupt"}
    trainer = toy.trainer(tmp_path, callback, dies=dies, save_strategy="steps", save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    dies["at"] = None
    trainer.train(resume_from_checkpoint=True)
    record = callback.stop()
    assert [one.status for one in record.attempts] == ["interrupted", "completed"]
    assert record.trainer["counts"]["steps"] == 3.0 + 6.0
    assert any(note.code == "lost-work" for note in record.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_signal_leaves_a_record_in_traces(tmp_path, how):
    done = program(tmp_path, {"callback": {}, "dies": {"at": 5, "how": how}, "step_seconds": 0.1})
    assert done.returncode == -getattr(signal, how)
    record = greenml.open_record(tmp_path / "run.json")
    assert record.status == "killed"
    assert {one.path for one in record.phases} == {"setup", "train"}
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
    assert 3 < last < 400
    stopped = [one["step"] for one in lines[:-1] if "step" in one]
    assert stopped.count(last) == 2  # both ranks said so

    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, len(record.attempts), record.attempts[0].processes) == ("completed", 1, 2)
    kinds = [one.kind for one in record.devices]
    assert (kinds.count("cpu"), kinds.count("dram"), kinds.count("host")) == (1, 1, 1)
    assert {one.path: one.count for one in record.phases} == {"setup": 1, "train": 2, "save": 1}
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
    warned = [one.getMessage() for one in caplog.records if "budget" in one.getMessage()]
    assert len(warned) == 1
    assert warned[0].endswith("at step 1; dry run: training goes on")
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
        GreenCallback(**settings)
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
    kept = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert kept["GreenCallback"]["attributes"]["checkpoint"]["seconds"] > 0


def test_a_restored_callback_is_the_one_that_was_there(green, tmp_path):
    """The Trainer replaces its callbacks by new objects: there is still one run, and it hears everything once."""
    first = green(price_per_hour=36.0)
    arguments = {"save_strategy": "steps", "save_steps": 2, "report_to": "none"}
    toy.trainer(tmp_path, first, max_steps=4, **arguments).train()
    first.stop()
    other = toy.trainer(tmp_path / "other", green(), max_steps=2)  # the latest one made is another Trainer's

    second = green(tmp_path / "second.json", price_per_hour=36.0)
    trainer = toy.trainer(tmp_path, second, max_steps=8, restore_callback_states_from_checkpoint=True, **arguments)
    other.train()
    trainer.train(resume_from_checkpoint=True)
    [now] = [one for one in trainer.callback_handler.callbacks if isinstance(one, GreenCallback)]
    assert now is not second
    assert trainer.callback_handler.callbacks[1] is now
    assert now.checkpoint["seconds"] > 0
    record = second.stop()
    assert record.run_id == greenml.open_record(tmp_path / "second.json").run_id
    assert {one.path: one.count for one in record.phases} == {"setup": 1, "train": 3, "save": 2}
    assert record.trainer["counts"]["samples"] == 16.0
    assert not (tmp_path / "run-2.json").exists()


class Misbehaves:
    """Stands where the callback keeps its run, and does nothing right."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} today")


@pytest.mark.parametrize("part", ["_runs", "_forecast", "_budget", "_trainer", "_troubles"])
def test_what_breaks_in_the_callback_breaks_nothing_else(green, tmp_path, part, caplog):
    arguments = {
        "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4
    }  # fmt: skip
    plain = toy.trainer(tmp_path / "plain", **arguments)
    plain.train()
    broken = GreenCallback(max_kwh=1000.0)
    trainer = toy.trainer(tmp_path / "broken", broken, **arguments)
    whole, runs = broken._runs.whole, broken._runs
    setattr(broken, part, Misbehaves())
    trainer.train()
    assert trainer.losses == plain.losses
    assert toy.weights(trainer.model) == toy.weights(plain.model)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    trainer.predict(toy.Tokens(4))
    trainer.create_model_card()
    if part not in ("_troubles", "_trainer"):  # of the one it cannot tell, the other it finds again
        assert any("today; training goes on" in one.getMessage() for one in caplog.records)
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
    trainer = toy.trainer(tmp_path, GreenCallback, max_steps=1)
    trainer.train()
    [callback] = [one for one in trainer.callback_handler.callbacks if isinstance(one, GreenCallback)]
    assert callback.stop().status == "completed"


def test_an_output_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(greenml.SettingsError, match="cannot be written"):
        toy.trainer(tmp_path, GreenCallback(tmp_path / "file" / "run.json"))


def test_a_copy_measures_a_run_of_its_own(green, tmp_path):
    """As workers of a search have it, to which the Trainer is sent."""
    callback = green(price_per_hour=36.0)
    toy.trainer(tmp_path, callback, max_steps=1).train()
    callback._trainer = None  # which its sender would pickle too, by other means than this
    other = pickle.loads(pickle.dumps(callback))
    toy.trainer(tmp_path / "other", other, max_steps=2).train()
    mine, others = callback.stop(), other.stop()
    assert mine.run_id != others.run_id
    assert (mine.trainer["counts"]["steps"], others.trainer["counts"]["steps"]) == (1.0, 2.0)
    assert others.total().cost_usd["dedicated"].value > 0


def test_the_benchmark_prints_its_table(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM.parents[2] / "benchmarks" / "trainer_overhead.py", "--rounds", "1", "--blocks", "2",
         "--block-seconds", "0.1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
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
    assert {one.path for one in record.phases} == {"setup", "train"}
    assert record.trainer["counts"]["samples"] == 16.0


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
    assert {name: one["record"] for name, one in record.trainer["trials"].items()} == {
        str(number): f"trial-{number}/run.json" for number in range(3)
    }
    assert [one.status for one in trials] == ["completed"] * 3
    assert [any(note.code == "pruned" for note in one.notes) for one in trials] == [False, True, False]
    rates = [one.params["learning_rate"] for one in trials]
    assert len(set(rates)) == 3
    assert record.trainer["trials"]["2"]["params"] == {"learning_rate": rates[2]}
    assert record.trainer["best_trial"]["hyperparameters"]["learning_rate"] in rates
    assert trials[0].metrics["eval_loss"] != trials[2].metrics["eval_loss"]
    assert [one.trainer["counts"]["samples"] for one in trials] == [32.0] * 3
    assert record.trainer["counts"]["samples"] == 96.0
    assert record.trainer["counts"]["steps"] == 24.0
    assert record.phase("train").seconds == pytest.approx(sum(one.phase("train").seconds for one in trials), rel=0.02)
    assert record.phase("eval").seconds == pytest.approx(sum(one.phase("eval").seconds for one in trials), rel=0.05)
    assert sum(one.duration_seconds for one in trials) <= record.duration_seconds
    assert all(trial.trainer["search"]["run"] == str(tmp_path / "run.json") for trial in trials)
    assert len({one.run_id for one in [record, *trials]}) == 4
