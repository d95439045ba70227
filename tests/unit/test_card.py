"""A run in a model card: what it says, what it leaves alone, and what it does with what the card says otherwise."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenml import files
from greenml.cli import main
from greenml.errors import RecordError, SettingsError
from greenml.record import file as record_file
from greenml.record.schema import (
    DeviceRecord,
    Environment,
    Factor,
    Factors,
    Note,
    PhaseRecord,
    PlaceRecord,
    Quantity,
    ReportedEmissions,
    RunRecord,
    SourceRef,
    Totals,
    Usage,
)
from greenml.reports import markdown, model_card
from greenml.reports.card import sections
from greenml.reports.card import text as card_text
from greenml.run import finish

yaml = pytest.importorskip("yaml")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra 'card' is not installed")

START = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
SPECIAL = "a: b | c --> `d` \"e\" 'f' # g\n---\n<!-- greenml: end -->\n```\n\u2028<script>"
TRAINER = {
    "training_args": {"dataset": "org/corpus", "output_dir": "/home/x"},
    "model": {"name": "gpt2", "class": "GPT2LMHeadModel"},
    "trainer_state": {"global_step": 90, "total_flos": 1.5e17},
}
EVALUATED = {
    "train_loss": 1.25,
    "eval_loss": 2.5,
    "eval_accuracy": 0.875,
    "predict_accuracy": 0.75,
    "eval_runtime": 3.5,
}


def quantity(value: float | None, low: float | None = None, high: float | None = None, why: str = "") -> Quantity:
    return Quantity(value=value, low=low, high=high, basis="measured", why=why)


def totals(scope: str, seconds: float, joules: float, grams: float | None = None) -> Totals:
    nothing = quantity(None, why="no DRAM sensor answered")
    return Totals(
        scope=scope, seconds=seconds, gpu_energy_joules=quantity(joules), cpu_energy_joules=nothing,
        dram_energy_joules=nothing, it_energy_joules=quantity(joules, joules * 0.95, joules * 1.05),
        facility_energy_joules=quantity(joules), cost_usd={},
        emissions_grams=quantity(None, why="no carbon intensity is known") if grams is None
        else quantity(grams, grams * 0.9, grams * 1.1),
    )  # fmt: skip


def gpu(index: int = 0, name: str = "NVIDIA A100-SXM4-40GB") -> DeviceRecord:
    return DeviceRecord(
        id=f"GPU-{index}", kind="gpu", name=name, host="n", method="counter", sensor="nvml",
        usage=Usage(energy_joules=1000.0),
    )  # fmt: skip


CPU = DeviceRecord(
    id="package-0", kind="cpu", name="EPYC", host="n", method="estimate", sensor="estimate",
    usage=Usage(energy_joules=1000.0),
)  # fmt: skip


def run(**update: object) -> RunRecord:
    intensity = Factor(
        value=35.0, low=30.0, high=40.0, unit="g CO2e/kWh", scope="country", code="SWE", year=2025,
        source=SourceRef(name="A table", url="https://example.org/table", published="2026-04"),
    )  # fmt: skip
    made = RunRecord(
        greenml_version="0.1.0", run_id="r1", name="toy", status="completed", started=START,
        ended=START + timedelta(hours=2), duration_seconds=7200.0,
        place=PlaceRecord(cloud="azure", region="swedencentral", country_name="Sweden"),
        devices=[gpu(0), gpu(1)],
        phases=[PhaseRecord(path="train", count=1, seconds=3600.0, spans=[(0.0, 3600.0)], usage={})],
        factors=Factors(carbon_intensity=intensity),
        totals=[totals("run", 7200.0, 4e6, 1234.5678), totals("train", 3600.0, 3e6, 987.654321)],
    )  # fmt: skip
    return made.model_copy(update=update)


def loaded(card: str, tmp_path: Path) -> dict[str, object]:
    """Return a card's metadata as the hub's library reads it from the file."""
    path = tmp_path / "loaded.md"
    path.write_bytes(card.encode())
    data: dict[str, object] = huggingface_hub.ModelCard.load(path).data.to_dict()
    return data


def block(card: str, title: str, language: str) -> str:
    """Return the fenced block of a section."""
    section = card.partition(f"## {title}\n")[2]
    found = re.search(rf"^(`{{3,}}){language}\n(.*?)\n\1$", section, re.DOTALL | re.MULTILINE)
    assert found
    return found[2]


# The metadata.


def test_the_metadata_are_grams_of_the_scope_that_the_table_shows(tmp_path: Path):
    made = model_card.update("", run())
    told = loaded(made.text, tmp_path)
    assert told["co2_eq_emissions"] == {
        "emissions": 987.654,
        "source": "greenml (GPU measured (NVML counter)), training only",
        "geographical_location": "Sweden (azure swedencentral)",
        "hardware_used": "2 X NVIDIA A100-SXM4-40GB",
    }
    assert "| emissions | 0.987654 |" in made.text
    assert told["tags"] == ["greenml"]
    assert "model-index" not in told


def test_the_metadata_say_of_a_lower_bound_that_it_is_one(tmp_path: Path):
    """Whoever reads the metadata alone sees that a GPU was not measured."""
    why = "1 of 2 GPUs measured, without GPU-1"
    total = totals("train", 3600.0, 3e6, 987.654321)
    least = total.emissions_grams.model_copy(update={"at_least": True, "high": None, "why": why})
    made = run(totals=[total.model_copy(update={"emissions_grams": least})])
    told = loaded(model_card.update("", made).text, tmp_path)
    assert told["co2_eq_emissions"]["source"] == (
        f"greenml (GPU measured (NVML counter)), a lower bound: {why}, training only"
    )


@pytest.mark.parametrize(
    ("kilograms", "grams"),
    [
        ("0.17802492531467784", "178.02492531467784"),  # times 1000 as a float it ends in ...783
        ("1.23e-07", "0.000123"),
        ("2", "2000"),
        ("0.10000000000000000001", "100.00000000000000001"),
    ],
)
def test_a_reported_figure_keeps_its_digits(kilograms: str, grams: str, tmp_path: Path):
    row = ReportedEmissions(tool="codecarbon", scope="train", file="emissions.csv", row={"emissions": kilograms})
    made = model_card.update("", run(reported=[row]))
    assert f"  emissions: {grams}\n" in made.text
    assert loaded(made.text, tmp_path)["co2_eq_emissions"]["emissions"] == float(grams)
    assert loaded(made.text, tmp_path)["co2_eq_emissions"]["source"] == "CodeCarbon, training only"


def test_unknown_emissions_are_left_out_with_the_reason(tmp_path: Path):
    made = model_card.update("", run(totals=[totals("run", 10.0, 1e6)]))
    assert "co2_eq_emissions" not in loaded(made.text, tmp_path)
    assert made.left_out == ["co2_eq_emissions: no carbon intensity is known"]


@pytest.mark.parametrize(
    ("update", "card", "expected"),
    [
        ({"params": {"training_type": "Pre-Training"}}, "", "pre-training"),
        ({"params": {"model_name_or_path": "t5-3b"}}, "", "fine-tuning"),
        ({"trainer": {"model": {"class": "PeftModelForCausalLM"}}}, "", "fine-tuning"),
        ({}, "---\nbase_model: t5-3b\n---\n", "fine-tuning"),
        ({"trainer": TRAINER}, "", None),  # a model of that shape, trained from nothing?
        ({"params": {"training_type": "what it likes"}}, "", None),
    ],
)
def test_the_training_type_is_said_only_where_it_is_known(update, card, expected, tmp_path: Path):
    told = loaded(model_card.update(card, run(**update)).text, tmp_path)
    assert told["co2_eq_emissions"].get("training_type") == expected


def test_results_become_a_model_index(tmp_path: Path):
    told = loaded(model_card.update("", run(trainer=TRAINER, metrics=EVALUATED)).text, tmp_path)
    assert told["model-index"] == [
        {
            "name": "toy",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"name": "corpus", "type": "org/corpus", "split": split},
                    "metrics": [{"type": name, "value": value, "name": name} for name, value in metrics],
                }
                for split, metrics in (
                    ("validation", [("loss", 2.5), ("accuracy", 0.875)]),
                    ("test", [("accuracy", 0.75)]),
                )
            ],
        }
    ]


@pytest.mark.parametrize(
    ("update", "missing"),
    [
        ({}, "dataset and task"),
        ({"params": {"dataset": "org/corpus"}}, "task"),
        ({"params": {"dataset": "my/rows.jsonl", "task": "summarization"}}, "dataset"),
        ({"params": {"dataset": "/data/corpus", "task": "summarization"}}, "dataset"),
        ({"trainer": {"model": {"class": "T5ForConditionalGeneration"}}, "params": {"dataset": "samsum"}}, "task"),
    ],
)
def test_no_model_index_of_what_nobody_knows(update, missing, tmp_path: Path):
    made = model_card.update("", run(metrics=EVALUATED, **update))
    assert "model-index" not in loaded(made.text, tmp_path)
    assert len(made.left_out) == 1
    assert f"the run does not know its {missing};" in made.left_out[0]


def test_a_card_tells_what_the_run_does_not(tmp_path: Path):
    card = "---\ndatasets:\n- samsum\npipeline_tag: summarization\n---\n"
    made = model_card.update(card, run(metrics={"eval_rougeL": 45.7625}), folder="their-model")
    result = loaded(made.text, tmp_path)["model-index"][0]["results"][0]
    assert (result["task"]["type"], result["dataset"]["type"]) == ("summarization", "samsum")
    assert result["metrics"] == [{"type": "rouge", "value": 45.7625, "name": "ROUGE-L"}]
    several = card.replace("- samsum", "- samsum\n- xsum")
    assert "model-index" in model_card.update(several, run(metrics=EVALUATED)).left_out[0]


INDEXED = """---
model-index:
- name: theirs
  results:
  - task: {type: text-generation, name: Words}
    dataset: {name: A corpus, type: org/corpus, split: validation}
    metrics:
    - {type: accuracy, value: 0.5, name: Accuracy, verified: false}
    - {type: loss, value: 2.5, name: loss}
---
"""


@pytest.mark.parametrize("force", [False, True])
def test_results_go_into_a_model_index_that_is_there(force, tmp_path: Path):
    made = model_card.update(INDEXED, run(trainer=TRAINER, metrics=EVALUATED), force=force)
    (model,) = loaded(made.text, tmp_path)["model-index"]
    validation, test = model["results"]
    assert model["name"] == "theirs"
    assert validation["task"] == {"type": "text-generation", "name": "Words"}
    assert [metric["value"] for metric in validation["metrics"]] == [0.875 if force else 0.5, 2.5]
    assert test["metrics"] == [{"type": "accuracy", "value": 0.75, "name": "accuracy"}]
    assert [(conflict.key, conflict.theirs, conflict.ours) for conflict in made.conflicts] == [
        ("model-index, accuracy on org/corpus validation", 0.5, 0.875)
    ]


HEAD = """---
# a comment of theirs
license:   apache-2.0   # kept as it is
tags:
  - 'energy'   # quoted
  # in between
  - t5   # last

# before the next key
language: [en,  de]
date: 2021-07-06
nothing:
wide: >-
  folded
  text
---
# Title

Words.
"""


def test_metadata_that_do_not_change_keep_their_bytes(tmp_path: Path):
    made = model_card.update(HEAD, run())
    assert made.conflicts == []
    before, after = HEAD.split("---\n")[1], made.text.split("---\n")[1]
    added = "  - greenml\n"
    assert added in after
    assert after.replace(added, "").startswith(before)
    assert loaded(made.text, tmp_path)["tags"] == ["energy", "t5", "greenml"]
    again = model_card.update(made.text, run(totals=[totals("run", 7200.0, 4e6, 987.654321)]))
    assert again.conflicts[0].key == "co2_eq_emissions.source"
    assert again.text.split("---\n")[1] == after  # a conflict that is kept changes nothing


def test_somebody_elses_figure_gets_none_of_our_words(tmp_path: Path):
    card = "---\nco2_eq_emissions:\n  emissions: 5\n  source: a paper\n---\n"
    made = model_card.update(card, run())
    assert loaded(made.text, tmp_path)["co2_eq_emissions"] == {"emissions": 5, "source": "a paper"}
    assert [(conflict.key, conflict.theirs, float(conflict.ours)) for conflict in made.conflicts] == [
        ("co2_eq_emissions.emissions", 5, 987.654)
    ]
    forced = loaded(model_card.update(card, run(), force=True).text, tmp_path)["co2_eq_emissions"]
    assert forced["emissions"] == 987.654
    assert forced["source"].startswith("greenml")


def test_what_is_forced_is_shown_whole():
    card = "---\nco2_eq_emissions:\n  emissions: 5\n  source: a paper\n  training_type:\n---\n"
    conflicts = model_card.update(card, run(), force=True).conflicts
    assert [conflict.key for conflict in conflicts] == ["co2_eq_emissions.emissions", "co2_eq_emissions.source"]


def test_no_emissions_are_a_figure(tmp_path: Path):
    row = ReportedEmissions(tool="codecarbon", scope="run", file="emissions.csv", row={"emissions": "0.0"})
    told = loaded(model_card.update("", run(reported=[row])).text, tmp_path)
    assert told["co2_eq_emissions"]["emissions"] == 0
    empty = ReportedEmissions(tool="codecarbon", scope="run", file="emissions.csv", row={"emissions": ""})
    made = model_card.update("", run(reported=[empty]))
    assert made.left_out == ["co2_eq_emissions: CodeCarbon's row has no number of emissions"]


def test_the_same_figure_is_completed(tmp_path: Path):
    card = "---\nco2_eq_emissions:\n  emissions: 987.654\n  training_type: pre-training\n---\n"
    made = model_card.update(card, run(params={"training_type": "fine-tuning"}))
    told = loaded(made.text, tmp_path)["co2_eq_emissions"]
    assert (told["training_type"], told["hardware_used"]) == ("pre-training", "2 X NVIDIA A100-SXM4-40GB")
    assert [conflict.key for conflict in made.conflicts] == ["co2_eq_emissions.training_type"]
    short = model_card.update("---\nco2_eq_emissions: 987.654\n---\n", run())
    assert short.conflicts == []
    assert loaded(short.text, tmp_path)["co2_eq_emissions"]["emissions"] == 987.654


@pytest.mark.parametrize(
    "card",
    [
        "---\n{}\n---\n\nText\n",
        "---\n# only a comment\n---\n",
        "---\n---\nText\n",
        "---\n{license: mit, tags: [a]}\n---\n",
        "---\ntags: [a, b]  # flow\nlicense: mit\n---\n",
        "---\ntags:\nlicense: mit\n---\n",
        "---\nlicense: mit\ntags:\n- a\n---\n",
        "---\nlicense: mit\ntags: []\n---",
        "\n\n---\nlicense: mit   \n---   \nText",
        "---\nco2_eq_emissions:\n  # theirs\n  emissions: 987.654\n\n# behind\nlicense: mit\n---\n",
        "Text without an end of line",
        "---\nNo metadata, a line.\n\nText: here.\n",
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_card_of_any_shape_stays_itself(card, line_end, mark, tmp_path: Path):
    card = mark + card.replace("\n", line_end)
    parts = card_text.split(card)
    made = model_card.update(card, run()).text
    assert made.startswith(mark)
    assert "\ufeff" not in made[1:]
    assert re.findall(r"(?<!\r)\n|\r(?!\n)", made) == (
        [] if line_end == "\r\n" and "\n" in card else ["\n"] * made.count("\n")
    )
    told, before = loaded(made, tmp_path), card_text.metadata(card)
    assert told["co2_eq_emissions"]["emissions"] == 987.654
    assert told["tags"] == [*(before.get("tags") or []), "greenml"]
    assert told.get("license") == before.get("license")
    text = parts.tail if parts.block is None else re.sub(r"\A[\r\n]*---[ \t]*(\r\n|\n|$)", "", parts.tail)
    assert text in made
    for comment in re.findall(r"# only a comment|# behind", card):
        assert comment in made
    assert model_card.update(made, run()).text == made


def test_a_title_for_a_new_card_and_none_for_an_old_one():
    assert "\n# toy\n" in model_card.update("", run()).text
    assert "# toy" not in model_card.update("Words\n", run()).text


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("a: [1", "not YAML, line"),
        ("- a\n- b", "not a mapping"),
        ("just words", "not a mapping"),
        ("{{ card_data }}", "at its head"),
        ("model-index:\n- name: x\n  results:\n  - task: 1", "does not load"),
        ("tags: &t [a]\nother: *t", "cannot be changed in place"),
    ],
)
def test_metadata_that_cannot_be_kept_are_an_error(head, said):
    with pytest.raises(SettingsError, match=re.escape(said)):
        model_card.update(f"---\n{head}\n---\n", run())


# The sections.


def test_only_sections_with_data():
    plain = model_card.render(run())
    for title in ("Resource Usage", "Carbon Emissions", "How this was measured"):
        assert plain.count(f"\n## {title}\n") == 1
    for title in ("Hyperparameters", "DeepSpeed", "Results"):
        assert f"## {title}" not in plain
    assert markdown.resource_usage(run()) in plain
    assert markdown.carbon_emissions(run()) in plain


def test_hyperparameters_come_back_from_their_block():
    params = {
        "learning_rate": 3e-05, "name": SPECIAL, "yes": "no", "number": "1e5", "word": "adam w", "none": None,
        "nested": {"a": [1, "b"], "c: d": True}, "- key": 1, "# x": "é", "date": "2021-07-06", "empty": "",
    }  # fmt: skip
    card = model_card.render(run(params=params))
    text = block(card, "Hyperparameters", "yaml")
    assert text.count("\n") == len(params) - 1
    assert "learning_rate: 3e-05" in text
    # PyYAML reads YAML 1.1, where a number with an exponent needs a point.
    assert yaml.safe_load(text.replace("3e-05", "3.0e-05")) == params
    assert model_card.insert(card, run(params=params)) == card


def test_of_every_argument_of_a_trainer_those_that_were_chosen():
    chosen = {"learning_rate": 1e-4, "per_device_train_batch_size": 2, "num_train_epochs": 3.0, "seed": 0, "bf16": True}
    chosen |= {"warmup_ratio": 0.1, "weight_decay": 0.0, "gradient_accumulation_steps": 4}
    untouched = {
        "adam_beta1": 0.9, "adam_epsilon": 1e-8, "optim": "adamw_torch_fused", "max_steps": -1, "fp16": False,
        "lr_scheduler_type": "linear", "output_dir": "/home/x/out", "logging_dir": "/home/x/log", "run_name": "r",
        "logging_steps": 500, "save_steps": 500, "dataloader_num_workers": 0, "ddp_timeout": 1800, "tf32": None,
        **{f"argument_{number}": None for number in range(60)},
    }  # fmt: skip
    args = {**untouched, **chosen}
    text = block(model_card.render(run(params=args, trainer={"training_args": args})), "Hyperparameters", "yaml")
    told = yaml.safe_load(text)
    assert told.pop("effective_batch_size") == 2 * 4 * 2  # two GPUs
    assert told == chosen | {"learning_rate": 0.0001}
    few = {"adam_beta1": 0.9, "lr_scheduler_type": "linear"}  # a person wrote these
    assert yaml.safe_load(block(model_card.render(run(params=few)), "Hyperparameters", "yaml")) == few


@pytest.mark.parametrize(
    ("update", "line"),
    [
        ({"trainer": {"ran": {"world_size": 4}}}, "effective_batch_size: 12 = 3 per device x 4 processes."),
        ({}, "6 = 3 per device x 2 GPUs (seen by greenml; it is assumed that all of them trained)."),
        ({"devices": []}, None),  # nothing tells how many there were
        # A machine that should have eight, where greenml looked and saw none.
        ({"devices": [CPU], "place": PlaceRecord(cloud="azure", sku="ND40rs_v2")}, None),
        ({"devices": [], "place": PlaceRecord(cloud="azure", sku="ND40rs_v2", nodes=2)}, "48 = 3 per device x 16 GPUs"),
        ({"environment": Environment(world_size=1)}, "effective_batch_size: 3 = 3 per device x 1 process."),
    ],
)
def test_the_effective_batch_size_says_what_it_is_made_of(update, line):
    card = model_card.render(run(params={"per_device_train_batch_size": 3}, **update))
    assert ("effective_batch_size" in card) is (line is not None)
    assert line is None or line in card


def test_a_batch_size_that_the_run_gave_is_not_made_up_again():
    card = model_card.render(run(params={"per_device_train_batch_size": 3, "effective_batch_size": 99}))
    assert "effective_batch_size: 99\n" in card
    assert "99 =" not in card


@pytest.mark.parametrize(
    ("zero", "said"),
    [
        ({"stage": 2}, "none"),
        ({"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "nvme"}},
         "optimizer to `cpu`, parameters to `nvme`"),
        ({"stage": 3, "offload_optimizer": {"device": "none"}}, "none"),
        ({"stage": 2, "cpu_offload": True}, "optimizer to `cpu`"),
    ],
)  # fmt: skip
def test_the_deepspeed_section(zero, said):
    config = {"optimizer": {"type": "AdamW"}, "zero_optimization": zero, "fp16": {"enabled": True}}
    card = model_card.render(run(trainer={"ds_config": {"zero_optimization": {}}, "ds_config_as_run": config}))
    section = card.partition("## DeepSpeed\n")[2].partition("\n## ")[0]
    assert f"- Offload: {said}\n" in section
    assert "- Optimizer: `AdamW`\n" in section
    assert "Scheduler" not in section
    assert json.loads(block(card, "DeepSpeed", "json")) == {"zero_optimization": zero}


def test_results_are_as_they_were_logged():
    metrics = {
        "eval_rouge1": 54.7875, "predict_rougeLsum": 49.17104321, "train_loss": 1.1206104169494209, "best": "NaN",
        "learning_rate": 1e-9, "ok": True, "steps": 3, "rows": [1, 2], "a|b": "x\ny <z>",
    }  # fmt: skip
    card = model_card.render(run(metrics=metrics, trainer=TRAINER))
    rouge, _, others = card.partition("### ROUGE\n")[2].partition("### Metrics\n")
    assert re.findall(r"^\| (\w.*) \|$", rouge, re.M)[1:] == ["eval_rouge1 | 54.7875", "predict_rougeLsum | 49.1710"]
    rows = re.findall(r"^\| (\w.*) \|$", others.partition("\n## ")[0], re.M)[1:]
    assert rows == [
        "train_loss | 1.1206104169494209", "best | NaN", "ok | True", "steps | 3", r"a\|b | x y &lt;z>",
        "global_step | 90", "total_flos | 1.5e+17",
    ]  # fmt: skip


def test_how_it_was_measured():
    notes = [Note(code="x", text="a gap of 3 s")]
    card = model_card.render(run(notes=notes))
    section = card.partition("## How this was measured\n")[2]
    assert "- Sensors: GPU measured (NVML counter), CPU not measured (no DRAM sensor answered)" in section
    assert "- Scope: resource usage and cost cover the whole run, emissions cover training only." in section
    assert "(30 to 40), SWE 2025. Source: [A table](https://example.org/table), 2026-04." in section
    assert "- PUE: not known." in section
    assert "Intervals: from the lowest to the highest" in section
    assert section.endswith("Notes on the figures:\n\n- a gap of 3 s\n<!-- greenml: end -->\n")
    assert card.count("a gap of 3 s") == 1


def test_an_address_that_is_none_makes_no_link():
    factor = run().factors.carbon_intensity
    assert factor is not None
    bad = factor.model_copy(update={"source": SourceRef(name="x](evil) <b>", url="javascript:alert(1)")})
    section = model_card.render(run(factors=Factors(carbon_intensity=bad)))
    assert "javascript:" not in section
    assert "<b>" not in section


# Whatever a run is called.


def test_nothing_of_a_run_breaks_out(tmp_path: Path):
    named = run(
        name=SPECIAL, run_id=SPECIAL, devices=[gpu(0, SPECIAL)], params={SPECIAL: SPECIAL, "task": "Text generation"},
        metrics={f"eval_{SPECIAL}": 1.5}, notes=[Note(code="n", text=SPECIAL)],
        place=PlaceRecord(cloud=SPECIAL, region=SPECIAL, country_name=SPECIAL, sku=SPECIAL, sku_label=SPECIAL),
        trainer={"ds_config": {"optimizer": {"type": SPECIAL}, "zero_optimization": {SPECIAL: SPECIAL}},
                 "training_args": {"dataset": "org/corpus"}},
    )  # fmt: skip
    made = model_card.update("# Theirs\n", named)
    told = loaded(made.text, tmp_path)
    flat = " ".join(SPECIAL.split())
    assert told["co2_eq_emissions"]["hardware_used"] == f"1 X {flat}"
    assert told["model-index"][0]["results"][0]["metrics"][0]["value"] == 1.5
    assert made.text.count("<!-- greenml: begin") == 1
    assert len(re.findall(r"^<!-- greenml: end -->$", made.text, re.M)) == 1
    outside_code = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", card_text.split(made.text).tail, flags=re.DOTALL | re.MULTILINE)
    outside_code = re.sub(r"(`+)(?!`).*?[^`]\1(?!`)", "", outside_code)  # within a line: DeepSpeed's optimizer
    assert "<script>" not in outside_code
    assert len(re.findall(r"^## ", outside_code, re.M)) == 6
    assert json.loads(block(made.text, "DeepSpeed", "json"))["zero_optimization"] == {SPECIAL: SPECIAL}
    assert model_card.update(made.text, named).text == made.text
    for style in ("full", "hub"):
        twice = model_card.update(made.text, named, style=style).text
        assert model_card.update(twice, named, style=style).text == twice


def test_code_within_a_line():
    assert sections.code("a`b``c") == "```a`b``c```"
    assert sections.code("`x") == "`` `x ``"
    assert sections.code("x\ny") == "`x y`"


# Markers.


def test_the_section_is_updated_where_it_is():
    card = "---\nlicense: mit\n---\r\n# Mine\r\n\r\nBefore\n\n"
    tables = model_card.insert(card, run())
    assert tables.startswith(card)
    mixed = tables + "\nAfter, é 🌍\t \n\n<!-- a comment -->\nno end"
    full = model_card.update(mixed, run(params={"a": 1})).text
    assert full.count("<!-- greenml: begin") == 1
    assert full.count("## Resource Usage") == 1
    assert full.endswith("<!-- greenml: end -->\n\nAfter, é 🌍\t \n\n<!-- a comment -->\nno end")
    assert full.partition("---\r\n")[2].startswith("# Mine\r\n\r\nBefore\n\n<!-- greenml: begin card;")
    # What the run writes at its end keeps everything that the command put there.
    later = model_card.insert(full, run(params={"a": 2}))
    assert later == full.replace("a: 1\n", "a: 2\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda card: card.replace("<!-- greenml: end -->", ""),
        lambda card: re.sub(r"<!-- greenml: begin.*", "", card),
        lambda card: card + card,
        lambda card: "<!-- greenml: end -->\n" + card,
        lambda card: card.replace("\n## Carbon", "\n<!-- greenml: begin; x -->\n## Carbon"),
    ],
)
def test_damaged_markers_are_an_error(damage):
    card = damage(model_card.render(run()))
    for write in (model_card.insert, model_card.update):
        with pytest.raises(SettingsError, match=r"markers are damaged \(.* in line \d+"):
            write(card, run())


def test_sections_that_the_card_has_are_left_out():
    own = "## Results\n\nMine: 5.\n\n### Training hyperparameters\n\n- lr: 1\n"
    own += "\n## DeepSpeed\n\n[More Information Needed]\n"
    record = run(params={"a": 1}, metrics={"accuracy": 0.5}, trainer={"ds_config": {"optimizer": {"type": "AdamW"}}})
    made = model_card.update(own, record)
    assert made.left_out == [f"{title}: the card has a section of its own" for title in ("Hyperparameters", "Results")]
    assert made.text.count("## Results\n") == 1
    assert "## Hyperparameters\n" not in made.text
    assert "- Optimizer: `AdamW`" in made.text  # theirs is still to be written
    assert model_card.update(made.text, record).text == made.text
    assert model_card.insert(made.text, record) == made.text
    forced = model_card.update(own, record, force=True).text
    assert forced.count("## Results\n") == 2
    shown = "```\n## Results\n\nan example\n```\n"
    assert model_card.update(shown, record).left_out == []


LINES = st.sampled_from(
    [
        "", " ", "---", "--- ", "license: mit", "tags: [a]", "tags:", "- b", "  - c", "# comment", "{}", "...", "text",
        "## Results", "### Hyperparameters", "Resource Usage", "==============", "```", "````yaml", "~~~", "> ```",
        "<!--", "-->", "<!-- greenml: begin", "<!-- greenml: end", " <!-- greenml: end -->", "| a | b |",
        "\x0b", "\u2028", "\ufeff",
        "- **Hours used:** [More Information Needed]", "- **Cloud Provider:** mine", "co2_eq_emissions: 987.654",
    ]
)  # fmt: skip
RUN = run(params={"a": 1}, metrics={"accuracy": 0.5})


@settings(max_examples=300, deadline=None)
@given(
    st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\n", "\r\n"]), st.booleans()
)
def test_any_text_stays_and_a_second_time_changes_nothing(lines, line_end, end, hub):
    card = line_end.join(lines) + end
    style = "hub" if hub else "full"
    try:
        made = model_card.update(card, RUN, style=style).text
    except SettingsError:  # what is at its head is no metadata
        return
    assert model_card.update(made, RUN, style=style).text == made
    there = (model_card.HUB_MARKS if hub else model_card.MARKS).find(made)
    if there is None:
        return  # fields of the template, filled in place
    before, after = card_text.split(made[: there.start] + made[there.stop :]), card_text.split(card)
    text = after.tail if after.block is not None else line_end + after.tail  # a new head takes a line of its own
    if card:
        assert text.strip() in before.tail
        assert before.tail.replace(text.strip("\r\n"), "", 1).strip() in ("", "---")


# The template of the hub.

TEMPLATE = Path(huggingface_hub.__file__).parent / "templates" / "modelcard_template.md"
FIELDS = {
    "Hardware Type": "2 X NVIDIA A100-SXM4-40GB",
    "Hours used": "2 (2 GPUs, the whole run)",
    "Cloud Provider": "Azure",
    "Compute Region": "Sweden (azure swedencentral)",
    "Carbon Emitted": "987.654 g CO2eq (888.9 to 1086 g, training only, source: greenml (GPU measured (NVML counter)))",
}


@pytest.mark.parametrize("raw", [True, False])
def test_the_templates_fields_are_filled_in_place(raw, tmp_path: Path):
    template = TEMPLATE.read_text().replace("{{ card_data }}", "{}")
    if not raw:
        template = re.sub(r"\{\{.*?\}\}", "[More Information Needed]", template)
    made = model_card.update(template, run(), style="hub")
    assert made.conflicts == made.left_out == []
    body = made.text
    for name, value in FIELDS.items():
        assert f"\n- **{name}:** {value}\n" in body
    assert "<!-- greenml" not in body
    expected = [line for line in template.splitlines() if not line.startswith(tuple(f"- **{name}" for name in FIELDS))]
    kept = [line for line in body.splitlines() if line in set(expected)]
    assert kept == [line for line in expected if line != "{}"]
    assert model_card.update(body, run(), style="hub").text == body
    assert loaded(body, tmp_path)["co2_eq_emissions"]["emissions"] == 987.654


def test_without_the_template_the_fields_are_a_section():
    made = model_card.update("# Mine\n", run(), style="hub").text
    section = made.partition("<!-- greenml hub: begin")[2]
    assert section.partition("## Environmental Impact\n\n")[2].startswith(
        "".join(f"- **{name}:** {value}\n" for name, value in FIELDS.items()) + "<!-- greenml hub: end -->\n"
    )
    both = model_card.update(made, run()).text
    assert both.count("<!-- greenml: begin card") == both.count("<!-- greenml hub: begin") == 1
    assert model_card.update(both, run(), style="hub").text == both


def test_a_field_that_somebody_filled_is_kept():
    card = (
        "- **Hardware Type:** an abacus\n- **Cloud Provider:**\n```\n- **Hours used:** [More Information Needed]\n```\n"
    )
    made = model_card.update(card, run(place=PlaceRecord()), style="hub")
    assert made.text.endswith(card)
    assert [(conflict.key, conflict.theirs) for conflict in made.conflicts] == [("Hardware Type", "an abacus")]
    assert made.left_out == ["Cloud Provider: not known"]
    half = model_card.update("- **Hours used:** 5 [More Information Needed]\n", run(), style="hub")
    assert half.conflicts[0].theirs == "5 [More Information Needed]"
    forced = model_card.update(card, run(), style="hub", force=True).text
    assert forced.endswith(
        "- **Hardware Type:** 2 X NVIDIA A100-SXM4-40GB\n- **Cloud Provider:** Azure\n"
        "```\n- **Hours used:** [More Information Needed]\n```\n"
    )


@pytest.mark.parametrize(
    "begin",
    ["- **Cloud Provider**:", "* __Cloud Provider:__", "- **Cloud provider:**", "-   **Cloud Provider:**"],
)
@pytest.mark.parametrize(
    "text", ["[More Information Needed]", "[more information needed]", "*[More Information Needed]*"]
)
def test_fields_of_the_template_are_known_in_the_forms_that_people_have(begin, text):
    made = model_card.update(f"# M\n\n{begin} {text}\n", run(), style="hub")
    assert made.text.endswith(f"# M\n\n{begin} Azure\n")
    assert made.conflicts == []


def test_fields_in_a_comment_are_seen_by_nobody_and_stay():
    comment = "<!--\n- **Cloud Provider:** [More Information Needed]\n-->\n"
    made = model_card.update(comment, run(), style="hub").text
    assert comment in made
    assert "- **Cloud Provider:** Azure\n" in made


def test_what_is_not_known_is_said_in_words():
    made = model_card.update("", run(place=PlaceRecord(), totals=[totals("run", 1.0, 1.0)]), style="hub").text
    assert "- **Cloud Provider:** not known\n" in made
    assert "- **Carbon Emitted:** not known (no carbon intensity is known)\n" in made


# The file.


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path):
    path, link = tmp_path / "README.md", tmp_path / "link.md"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    path.chmod(0o640)
    link.symlink_to(path)
    text = files.read(link)
    assert text == "\ufeffa\r\nb"
    files.write(link, text + "c")
    assert link.is_symlink()
    assert path.read_bytes() == b"\xef\xbb\xbfa\r\nbc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "link.md"]


def test_a_file_that_cannot_be_one_is_an_error(tmp_path: Path):
    (tmp_path / "latin.md").write_bytes(b"caf\xe9")
    with pytest.raises(RecordError, match="not UTF-8, at byte 3"):
        files.read(tmp_path / "latin.md")
    with pytest.raises(RecordError, match="cannot be read"):
        files.read(tmp_path)
    with pytest.raises(RecordError, match="cannot be written"):
        files.write(tmp_path, "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_card_is_left_alone(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text("mine")
    path.chmod(0o444)
    with pytest.raises(RecordError, match="read-only"):
        files.write(path, "ours")
    assert path.read_text() == "mine"


def test_the_card_of_a_run_that_ends_keeps_every_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    card = tmp_path / "README.md"
    card.write_bytes(b"\xef\xbb\xbf# Mine\r\n\r\nWords")
    finish._write_cards(run(), [card])
    first = card.read_bytes()
    assert first.startswith(b"\xef\xbb\xbf# Mine\r\n\r\nWords\r\n\r\n<!-- greenml: begin;")
    assert first.count(b"\n") == first.count(b"\r\n")
    finish._write_cards(run(), [card])
    assert card.read_bytes() == first
    damaged = first.replace(b"<!-- greenml: end -->", b"")
    card.write_bytes(damaged)
    finish._write_cards(run(), [card])
    assert card.read_bytes() == damaged
    assert "was not written" in caplog.text
    assert "damaged" in caplog.text


# The command.


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run ``greenml card`` beside a run.json; return its code, what it printed, and what it said."""
    monkeypatch.chdir(tmp_path)
    record_file.write(run(trainer=TRAINER, metrics=EVALUATED), tmp_path / "run.json")

    def call(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["card", *words])
        return (end.value.code, *capsys.readouterr())

    return call


def test_the_whole_card_on_stdout(said, tmp_path: Path):
    code, card, err = said()
    assert (code, err) == (0, "")
    assert loaded(card, tmp_path)["model-index"][0]["name"] == "toy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loaded.md", "run.json"]


def test_into_a_readme_twice(said, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_bytes(b"---\r\nlicense: mit\r\n---\r\n# Mine\r\n")
    assert said("--readme", "README.md")[:2] == (0, "README.md: written\n")
    first, when = readme.read_bytes(), readme.stat().st_mtime_ns
    assert said("run.json", "--readme", "README.md")[:2] == (0, "README.md: up to date\n")
    assert (readme.read_bytes(), readme.stat().st_mtime_ns) == (first, when)
    assert first.startswith(b"---\r\nlicense: mit\r\nco2_eq_emissions:\r\n  emissions: 987.654\r\n")
    assert b"---\r\n# Mine\r\n\r\n<!-- greenml: begin card;" in first


def test_check_writes_nothing(said, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n")
    code, out, _ = said("--readme", "README.md", "--check")
    assert code == 1
    assert "+  emissions: 987.654\n" in out
    assert readme.read_text() == "# Mine\n"
    said("--readme", "README.md")
    assert said("--readme", "README.md", "--check")[0] == 0


def test_a_conflict_is_shown(said, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("---\nco2_eq_emissions:\n  emissions: 5\n---\n")
    code, _, err = said("--readme", "README.md")
    assert code == 0
    assert err == ("co2_eq_emissions.emissions: the card has '5', this run '987.654': kept; --force replaces it\n")
    assert said("--readme", "README.md", "--force")[2].endswith("'987.654': replaced\n")
    assert "  emissions: 987.654\n" in readme.read_text()
    assert said("--readme", "README.md")[1:] == ("README.md: up to date\n", "")


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        (b"---\n- a\n---\n", ["--readme", "README.md"], "README.md: the metadata at its head is not a mapping"),
        (b"<!-- greenml: end -->\n", ["--readme", "README.md"], "README.md: greenml's markers are damaged"),
        (b"\xff", ["--readme", "README.md"], "README.md: not UTF-8, at byte 0"),
        (b"", ["--readme", "."], ".: cannot be read"),
        (b"", ["--check"], "--check compares with a card"),
        (b"", ["none.json"], "none.json: no such file"),
        (b"", ["--style", "blue"], "'blue' is not one of 'full', 'hub'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(said, tmp_path: Path, content, words, line):
    (tmp_path / "README.md").write_bytes(content)
    code, out, err = said(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("greenml: ")
    assert line in err
    assert (tmp_path / "README.md").read_bytes() == content


@pytest.mark.parametrize(("missing", "named"), [("huggingface_hub", "huggingface_hub"), ("yaml", "PyYAML")])
def test_a_missing_package_is_one_line(tmp_path: Path, missing, named):
    record_file.write(run(metrics=EVALUATED, trainer=TRAINER), tmp_path / "run.json")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    code = f"import sys; sys.modules[{missing!r}] = None; from greenml.cli import main; main()"
    words = ["card", "run.json", "--readme", "README.md"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'greenml[card]'" in done.stderr
    assert named in done.stderr or "huggingface_hub" in done.stderr
    assert (tmp_path / "README.md").read_text() == "---\nlicense: mit\n---\n"


# Cards as people have them.


def evaluated() -> RunRecord:
    return run(trainer=TRAINER, metrics=EVALUATED)


@pytest.mark.parametrize(
    ("head", "added"),
    [
        (
            "license: mit\nco2_eq_emissions:\n  # measured\n  emissions: 178.02492531467784 # grams\n  source: 'x'\n"
            "  pue: 1.10\n  timestamp: 2021-07-06T21:57:39\nzeta: 1",
            {"co2_eq_emissions": {"hardware_used": "8 X V100"}},
        ),
        ("a:\n    - b: 1.10  # one\n      c: ~\n# tail\nz: [1,  2]", {"a": [{"d": 2}]}),
        ("a:\n- {b: 1.0,  c: 0x10}\n- |\n  text\n\n# end", {"a": ["new"]}),
        ("a:\n  b:\n    c: 1e3\n    d: !!str 5\n\n", {"a": {"b": {"e": {"f": [1]}}}}),
        ("a: 1\n...", {"b": 2}),
        ("? a key\n: 1\nz: 2", {"b": 2}),
        ("a: 1\n# of d\nd: >\n  folded\n  text", {"b": [2]}),
        ("a: 1\nd: |+\n  kept\n\n", {"b": {"c": 2}}),
        ("  a: 1\n  d: |2\n     text", {"b": 2}),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_mapping_gains_costs_no_byte_of_the_rest(head, added, end):
    card = f"---\n{head}\n---\n# M\n".replace("\n", end)
    before = card_text.metadata(card)

    def joined(old, new):
        if isinstance(old, dict) and isinstance(new, dict):
            return {**old, **{key: joined(old[key], value) if key in old else value for key, value in new.items()}}
        return [*old, *new] if isinstance(old, list) else new

    after = joined(before, added)
    made = card_text.with_metadata(card, {key: after[key] for key in added})
    assert card_text.metadata(made) == after
    new = iter(made.splitlines(keepends=True))
    assert all(line in new for line in card.splitlines(keepends=True)), "each old line, in order"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tags: [\n  a, # one\n  b, # two, three\n]", "tags: [\n  a, # one\n  b, greenml, # two, three\n]"),
        ("tags: [\n  a,\n  b # two\n  ]", "tags: [\n  a,\n  b, greenml # two\n  ]"),
        ("base: &b [a]\ntags: *b # mine", "base: &b [a]\ntags: [a, greenml] # mine"),
        ("x: &m m\ntags: [a, *m]", "x: &m m\ntags: [a, *m, greenml]"),
        ("{v: 1.10, # exact\n  tags: [a], t: 12:30:00}", "{v: 1.10, # exact\n  tags: [a, greenml], t: 12:30:00}"),
        ('{"v": 1.10, "tags": ["a"]}', '{"v": 1.10, "tags": ["a", greenml]}'),
    ],
)  # fmt: skip
def test_a_list_in_line_gains_an_entry_and_keeps_its_comments(before, after):
    tags = card_text.metadata(f"---\n{before}\n---\n")["tags"]
    made = card_text.with_metadata(f"---\n{before}\n---\n", {"tags": [*tags, "greenml"]})
    assert made == f"---\n{after}\n---\n"


def test_a_marker_in_the_head_is_a_comment():
    marker = "<!-- greenml: begin card; made by greenml -->"
    for head in (f"tags: [a]\ndescription: |\n  {marker}", f"tags: [a]\ndescription: '\n{marker}\n  '"):
        made = model_card.update(f"---\n{head}\n---\n# M\n", evaluated()).text
        assert all(part in made for part in head.replace("[a]", "[a, greenml]").split("\n", 1))
        assert model_card.update(made, evaluated()).text == made


def test_a_value_within_a_mapping_changes_alone():
    card = "---\na:\n  b: 1.10 # why\n  c: old # note\n  d: 2021-07-06T21:57:39\n---\n"
    metadata = card_text.metadata(card)["a"]
    made = card_text.with_metadata(card, {"a": {**metadata, "c": "new: one"}})
    assert made == card.replace("c: old # note", "c: 'new: one' # note")


def test_the_configuration_of_another_data_set_is_not_the_runs():
    card = (
        "---\nmodel-index:\n- name: m\n  results:\n  - task:\n      type: automatic-speech-recognition\n"
        "    dataset:\n      name: other-data\n      type: acme/other-data\n      config: nl-dev\n      split: test\n"
        "    metrics:\n    - type: wer\n      value: 9.5\n---\n# m\n"
    )
    made = model_card.update(card, evaluated()).text
    results = card_text.metadata(made)["model-index"][0]["results"]
    assert [result["dataset"].get("config") for result in results if result["dataset"]["type"] == "org/corpus"]
    assert {result["dataset"].get("config") for result in results if result["dataset"]["type"] == "org/corpus"} == {
        None
    }
    assert results[0]["dataset"]["config"] == "nl-dev"
    assert model_card.update(made, evaluated()).text == made


def test_markers_in_preformatted_text_are_text():
    shown = "<pre>\n<!-- greenml: begin -->\nas greenml writes it\n<!-- greenml: end -->\n</pre>\n"
    made = model_card.update(f"# M\n\n{shown}", evaluated()).text
    assert shown in made
    assert model_card.update(made, evaluated()).text == made


@pytest.mark.parametrize(
    ("opened", "prefix", "closed"),
    [
        ("```text", "", "```"),
        ("~~~", "", "~~~~"),
        ("````md", "", "````"),
        ("> ```", "> ", "> ```"),
        ("- ```", "  ", "  ```"),
    ],
)
def test_markers_in_a_fence_are_text(opened, prefix, closed):
    inside = [
        opened,
        f"{prefix}<!-- greenml: begin card; made by greenml -->",
        f"{prefix}<!-- greenml: end -->",
        closed,
    ]
    card = "\n".join(["# M", "", *inside, "", "That is all.", ""])
    made = model_card.update(card, evaluated()).text
    assert card in made
    assert model_card.update(made, evaluated()).text == made


@pytest.mark.parametrize(
    "code",
    [
        "Write it so:\n\n    ```\n    code\n\nand close it.",
        "- item\n\nSo:\n\n\t~~~ text",
        "1. one\n\n    ```\n    x\n    ```",
    ],
)
def test_a_fence_in_code_that_is_set_in_is_text(code):
    card = f"# M\n\n{code}\n\n## Results\n\nWER 9.5\n"
    made = model_card.update(card, evaluated())
    assert card in made.text
    assert "Results: the card has a section of its own" in made.left_out
    assert model_card.update(made.text, evaluated()).text == made.text


@pytest.mark.parametrize("opened", ["```python", "~~~", "  ````", "> ```", "- item\n\n    ```"])
def test_a_fence_that_is_never_closed_is_named(opened):
    with pytest.raises(
        SettingsError, match=r"the code fence opened in line [35] is never closed: write [`~]{3,4} where it"
    ):
        model_card.update(f"# M\n\n{opened}\ncode\n", evaluated())


@pytest.mark.parametrize(
    "heading",
    [
        "## Results",
        "Results\n-------",
        "Results\r\n=======",
        "## 3. Results",
        "### \U0001f4ca Results {#results}",
        "## **Results**:",
        "## [Results](#results)",
        "<h2 id='r'>Results</h2>",
        "# Results #",
        "## :bar_chart: Results",
        "## 2.1 Evaluation results",
        '## <a name="results"></a>Results',
        "## IV. Results",
        "## _Results_",
        "## Results (test set)",
        "## ![chart](chart.svg) Results",
        "## [![chart](chart.svg)](x) Results",
        "## 3\ufe0f\u20e3 Results",
        "## Evaluation&nbsp;results",
        "<h2 align='center'>\n  Results\n</h2>",
        "<h2\n  align='center'\n>Results</h2>",
        "<div align='center'><h2>Results</h2></div>",
        "<center> <h3>\U0001f4ca Results</h3> </center>",
        "<details><summary><h2>Results</h2></summary>",
        "## 1\\. Results",
        "## 3.Results",
        "## Section 3: Results",
        "## Appendix A: Results",
        "## Results[^1]",
        "## Results<sup>1</sup>",
    ],
)
def test_a_section_of_ones_own_is_known_whatever_its_heading_looks_like(heading):
    made = model_card.update(f"# M\n\n{heading}\n\nWER 9.5 on ours.\n", evaluated())
    assert "Results: the card has a section of its own" in made.left_out
    assert made.text.count("WER 9.5 on ours.") == 1


@pytest.mark.parametrize(
    "text",
    [
        "Our results:",
        "```\n## Results\n```",
        "- Results\n---",
        "| Results |\n| --- |",
        "## Results so far",
        "## Part of the results",
        "<pre>\n## Results\n</pre>",
        "## Results\n\nMore information needed",
        "## Results\n\n*[More information needed]*",
        "<h2>\nResults so far\n</h2>",
        "<!--\n## Results\n\nto be written\n-->",
        "<!-- <h2>Results</h2> -->",
        "## Results\n\n<!-- numbers go here -->\n\n## More",
        "    ```\n    ## Results",
    ],
)
def test_what_is_no_heading_of_ours_hides_nothing(text):
    assert not any("Results" in line for line in model_card.update(f"# M\n\n{text}\n\nwords\n", evaluated()).left_out)


PIECES = st.sampled_from(
    [
        "# Title\n", "## Results\n\nmine\n", "text\n", "\n", "```\n## Results\n```\n", "> quote\n", "Head\n====\n",
        "~~~md\n<!-- greenml: end -->\n~~~\n", "- item\n  - nested\n", "<div>\n</div>\n", "| a | b |\n| - | - |\n",
        "caf\u00e9 \U0001f4ca\n", "    <!-- greenml: begin -->\n",
    ]
)  # fmt: skip
HEADS = st.sampled_from(
    [
        "", "---\n---\n", "---\nlicense: mit # c\ntags: [a,  b]\n---\n", "---\n# only a comment\n---\n",
        "---\nco2_eq_emissions:\n  emissions: 1.10 # kg?\n\nlanguage:\n- en # x\n---\n",
        "---\ntags:\n    - a\n    - b # last\npipeline_tag: text-generation\n---\n",
        "---\nmodel-index:\n- name: m\n  results:\n  - task: {type: x}\n    dataset: {type: o/d, name: d}\n"
        "    metrics:\n    - {type: wer, value: 9.50}\n---\n",
    ]
)  # fmt: skip


@given(HEADS, st.lists(PIECES, max_size=8), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60)
def test_outside_of_the_markers_and_of_new_keys_no_byte_differs_and_twice_is_once(head, pieces, end):
    card = (head + "".join(pieces)).replace("\n", end)
    made = model_card.update(card, evaluated()).text
    assert model_card.update(made, evaluated()).text == made
    ours = re.compile(r"<!-- greenml: begin card.*?^<!-- greenml: end -->", re.DOTALL | re.MULTILINE)
    rest = made[: (found := ours.search(model_card.without_code(made))).start()] + made[found.end() :]
    kept = iter(rest.splitlines())
    grown = re.compile(r"(tags: \[a,  b)\]")  # a list of one line may gain items
    for line in card.splitlines():
        start = grown.sub(r"\1", line)
        assert not line.strip() or any(other == line or (start != line and other.startswith(start)) for other in kept)
