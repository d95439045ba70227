"""The card that ``greenml card`` makes of the published run's inputs: it carries every figure that they hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra 'card' is not installed")
yaml = pytest.importorskip("yaml")

GOLDEN = Path(__file__).parent / "t5-3b-samsum"
INPUTS = ("all_results.json", "trainer_state.json", "training_args.json", "ds_config.json", "emissions.csv")

TABLES = {
    "Resource Usage": {
        "AzureML SKU": "ND40rs_v2 (8 X V100 32GB)",
        "Region": "US West 2",
        "Run Duration": "43m 51.05s",
        "Compute Cost (LowPriority/Dedicated)": "$3.22/$16.10 (USD)",
        "Average CPU Utilization": "46.0%",
        "Average GPU Utilization": "56.9%",
        "GPU Memory Usage (Avg/Peak)": "26.77/30.49 (GB)",
        "Total GPU Energy Usage": "2448.69 (kJ)",
    },
    "Carbon Emissions": {
        "timestamp": "2021-07-06T21:57:39",
        "duration": "1841.4621863365173",
        "emissions": "0.17802492531467784",
        "energy_consumed": "0.5982020339874927",
        "country_name": "USA",
        "region": "Washington",
        "cloud_provider": "azure",
        "cloud_region": "westus2",
    },
    "ROUGE": {
        "eval_rouge1": "54.7875",
        "eval_rouge2": "30.565",
        "eval_rougeL": "45.7625",
        "eval_rougeLsum": "50.3915",
        "predict_rouge1": "53.6628",
        "predict_rouge2": "29.0196",
        "predict_rougeL": "45.1257",
        "predict_rougeLsum": "49.171",
    },
    "Metrics": {
        "epoch": "3.0",
        "eval_gen_len": "25.3399",
        "predict_gen_len": "24.9133",
        "train_loss": "1.1206104169494209",
        "eval_loss": "1.0732421875",
        "predict_loss": "1.087890625",
        "train_runtime": "1841.3751",
        "train_samples": "14732",
        "train_samples_per_second": "24.002",
        "train_steps_per_second": "1.501",
        "eval_runtime": "163.8357",
        "eval_samples": "818",
        "eval_samples_per_second": "4.993",
        "eval_steps_per_second": "0.317",
        "predict_runtime": "168.8245",
        "predict_samples": "819",
        "predict_samples_per_second": "4.851",
        "predict_steps_per_second": "0.308",
        "global_step": "2763",
        "total_flos": "1.84452086400811e+17",
    },
}
HYPERPARAMETERS = {
    "fp16": "true",
    "per_device_train_batch_size": "2",
    "per_device_eval_batch_size": "2",
    "gradient_accumulation_steps": "1",
    "effective_batch_size": "16",
    "num_train_epochs": "3.0",
    "learning_rate": "3e-05",
    "weight_decay": "0.0",
    "seed": "1",
}
ROUGE_NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-LSUM"}


def greenml(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "greenml", *words], cwd=folder, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    done = greenml(folder, "card", "run.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().count("\n") == 1  # no model-index: the inputs do not name the data set
    return done.stdout.decode()


def section(card: str, title: str) -> str:
    return re.split(r"\n#{2,3} ", card.partition(f"# {title}\n")[2])[0]


@pytest.mark.parametrize("title", TABLES)
def test_every_figure_of_a_table(card: str, title: str):
    rows = dict(re.findall(r"^\| (\S.*?) \| (.*) \|$", section(card, title), re.MULTILINE))
    assert {name: value for name, value in rows.items() if name not in ("key", "---")} == TABLES[title]


def test_the_hyperparameters(card: str):
    text = section(card, "Hyperparameters")
    assert dict(line.split(": ") for line in text.partition("```yaml\n")[2].partition("\n```")[0].splitlines()) == (
        HYPERPARAMETERS
    )
    assert "16 = 2 per device x 8 GPUs" in text


def test_the_deepspeed_configuration(card: str):
    text = section(card, "DeepSpeed")
    assert "- Optimizer: `AdamW`\n- Scheduler: `WarmupDecayLR`\n- Offload: none\n" in text
    config = json.loads((GOLDEN / "ds_config.json").read_text())
    told = json.loads(text.partition("```json\n")[2].partition("\n```")[0])
    assert told == {"zero_optimization": config["zero_optimization"]}


def test_no_number_of_the_inputs_is_missing(card: str):
    """Whatever the lists above may have forgotten: each number, in the digits of its file."""
    numbers = set()
    for name in INPUTS:
        numbers |= set(re.findall(r"(?<![\w.:-])\d[\d.]*(?:e[+-]?\d+)?(?![\w.:-])", (GOLDEN / name).read_text()))
    assert len(numbers) > 30
    assert {number for number in numbers if number not in card} == set()


def test_the_metadata_in_grams(card: str, tmp_path: Path):
    (tmp_path / "README.md").write_text(card)
    assert "\n  emissions: 178.02492531467784\n" in card
    assert huggingface_hub.ModelCard.load(tmp_path / "README.md").data.to_dict() == {
        "co2_eq_emissions": {
            "emissions": 178.02492531467784,
            "source": "CodeCarbon, training only",
            "geographical_location": "Washington, United States (azure westus2)",
            "hardware_used": "8 X V100 32GB (ND40rs_v2)",
        },
        "tags": ["deepspeed", "greenml"],
    }


WRITTEN = (
    b"\xef\xbb\xbf---\r\n# by hand\r\nlicense:  apache-2.0\r\ndatasets: [samsum]\r\nbase_model: google/t5-3b\r\n"
    b"pipeline_tag: summarization\r\ntags:\r\n- t5\r\n- azureml\r\n\r\nlanguage: en\r\n---\r\n\r\n"
    b"# T5-3B \xe2\x80\x94 SAMSum\r\n\r\nWords\twith | pipes | and <!-- comments -->  \r\n\r\n"
    b"```\r\n## Results\r\n```\r\nlast line"
)


def test_a_card_written_by_hand(folder: Path):
    readme = folder / "README.md"
    readme.write_bytes(WRITTEN)
    readme.chmod(0o600)
    assert greenml(folder, "card", "run.json", "--readme", "README.md").stderr == b""
    first = readme.read_bytes()
    assert greenml(folder, "card", "run.json", "--readme", "README.md").stdout == b"README.md: up to date\n"
    assert readme.read_bytes() == first
    assert readme.stat().st_mode & 0o777 == 0o600

    head, body = WRITTEN.split(b"---\r\n\r\n", 1)
    ours = first.partition(body)[2]
    assert ours.startswith(b"\r\n\r\n<!-- greenml: begin card;")
    assert ours.endswith(b"<!-- greenml: end -->\r\n")
    assert first.count(b"\n") == first.count(b"\r\n")
    kept = [line for line in first.partition(body)[0].splitlines() if line in [*head.splitlines(), b"---", b""]]
    assert kept == [*head.splitlines(), b"---", b""]

    told = huggingface_hub.ModelCard.load(readme).data.to_dict()
    assert told["tags"] == ["t5", "azureml", "deepspeed", "greenml"]
    assert told["co2_eq_emissions"]["emissions"] == 178.02492531467784
    assert told["co2_eq_emissions"]["training_type"] == "fine-tuning"
    (model,) = told["model-index"]
    assert model["name"] == "t5-3b-samsum-deepspeed"
    results = json.loads((GOLDEN / "all_results.json").read_text())
    for result, split, prefix in zip(model["results"], ("validation", "test"), ("eval", "predict"), strict=True):
        assert result["task"] == {"type": "summarization"}
        assert result["dataset"] == {"name": "samsum", "type": "samsum", "split": split}
        told_here = {metric["name"]: metric["value"] for metric in result["metrics"]}
        expected = {name: results[f"{prefix}_{key}"] for key, name in ROUGE_NAMES.items()}
        assert told_here == expected | {name: results[f"{prefix}_{name}"] for name in ("gen_len", "loss")}


def test_the_fields_of_the_hubs_template(folder: Path, tmp_path: Path):
    done = greenml(folder, "card", "run.json", "--style", "hub")
    assert done.returncode == 0
    fields = dict(re.findall(r"^- \*\*(.*?):\*\* (.*)$", done.stdout.decode(), re.MULTILINE))
    assert fields == {
        "Hardware Type": "8 X V100 32GB (ND40rs_v2)",
        "Hours used": "0.7308 (8 GPUs, the whole run)",
        "Cloud Provider": "Azure",
        "Compute Region": "Washington, United States (azure westus2)",
        "Carbon Emitted": "178.02492531467784 g CO2eq (training only, source: CodeCarbon)",
    }
