"""The case study on the CPU, as ``greenml study run --smoke`` runs it: killed once, continued, reported.

Beside the variants of the study file there is one that cannot work, so that a failed cell is among the results.
"""

from __future__ import annotations

import csv
import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from launches import environment

from greenml.analysis.study import folder as study_folder

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "study"
NEEDED = ("torch", "transformers", "accelerate", "datasets", "deepspeed", "rouge_score", "yaml")
LIMIT_SECONDS = 2400  # minutes where the cores are idle
CELLS_BEFORE_THE_KILL = 8
# Of options that test_summarization.py tries; ``greenml study run --smoke`` runs these too.
LEFT_OUT = (
    "accumulation", "adafactor", "bf16+freeze-encoder+sortish", "bf16+zero2", "checkpointing", "freeze-embeddings",
    "freeze-encoder", "large-buckets", "long-bart", "long-pegasus", "offload-optimizer", "offload-parameters",
    "small-buckets", "sortish", "t5", "truncation",
)  # fmt: skip

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed on a CPU wants Linux"),
]
ZERO = {"zero2": 2, "zero3": 3}
LONG = {"long-led": "LEDForConditionalGeneration", "long-bigbird": "BigBirdPegasusForConditionalGeneration"}


def start(study: Path, output: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "greenml", "study", "run", str(study), "--smoke", "--output", str(output)]
    with (output.parent / "log.txt").open("a") as log:
        return subprocess.Popen(
            line, env=environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )


def kill(process: subprocess.Popen) -> None:
    """Kill the study and all that it started, at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.send_signal(signal.SIGSTOP)
        except psutil.NoSuchProcess:
            continue
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(30)
    psutil.wait_procs(family, timeout=30)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Run the study, kill it, and run it to its end; returns its folder as read."""
    folder = tmp_path_factory.mktemp("study")
    text = (EXAMPLE / "study.yaml").read_text().replace("{study}", str(EXAMPLE))
    assert text.count("\nvariants:\n") == 1
    tf32 = "without: {tf32: a CPU has no TF32"
    assert text.count(tf32) == 1
    text = text.replace(tf32, ", ".join([tf32, *(f"{name}: for time" for name in LEFT_OUT)]))
    changed = folder / "study.yaml"
    changed.write_text(text.replace("\nvariants:\n", "\nvariants:\n  broken: {args: --no_such_option}\n"))
    output = folder / "study"
    deadline = time.monotonic() + LIMIT_SECONDS
    process = start(changed, output)
    try:
        while completed(output) < CELLS_BEFORE_THE_KILL:
            assert process.poll() is None, logged(folder)
            assert time.monotonic() < deadline, logged(folder)
            time.sleep(0.5)
        kill(process)
        process = start(changed, output)
        assert process.wait(max(1.0, deadline - time.monotonic())) == 0, logged(folder)
    finally:
        if process.poll() is None:
            kill(process)
    return study_folder.load(output)


def completed(output: Path) -> int:
    if not (output / "study.json").exists():
        return 0
    return sum(cell.state == "completed" for cell in study_folder.load(output, records=False).cells)


def logged(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-5000:]


def why(cell) -> str:
    log = cell.folder / "output.log"
    return f"{cell.name}: {cell.state}, {cell.reason}\n{log.read_text()[-3000:] if log.exists() else ''}"


def records(study, variant):
    return [cell.record for cell in study.of_variant(variant)]


def test_every_cell_has_run(study):
    assert len(study.plan.variants) == 1 + 9  # the broken one
    assert study.plan.seeds == (1, 2)
    for cell in study.cells:
        if cell.variant.name == "broken":
            assert cell.state == "failed", why(cell)
            assert "--no_such_option" in (cell.folder / "output.log").read_text()
        else:
            assert cell.usable, why(cell)
            assert cell.record.status == "completed"


def test_what_was_killed_ran_again_and_nothing_else(study):
    killed = [cell for cell in study.cells if any(attempt.state == "killed" for attempt in cell.attempts)]
    assert 1 <= len(killed) <= 2  # two side by side
    for cell in study.cells:
        assert len(cell.attempts) == (2 if cell in killed else 1), cell.name


def test_each_variant_did_what_it_says(study):
    for variant, stage in ZERO.items():
        for record in records(study, variant):
            ran = record.trainer["ran"]
            assert (ran["deepspeed_zero_stage"], ran["world_size"], ran["distributed_type"]) == (stage, 2, "DEEPSPEED")
    launched = {name: (study.of_variant(name)[0].folder / "output.log").read_text() for name in ("zero2", "zero3")}
    assert ["deepspeed.launcher.launch" in log for log in launched.values()] == [True, False]
    for variant, precision in {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}.items():
        assert {record.trainer["ran"]["mixed_precision"] for record in records(study, variant)} == {precision}
    for record in records(study, "largest-batch"):
        assert record.params["per_device_train_batch_size"] == 8
        assert (record.params["batch_search/tried"], record.params["batch_search/ended_by"]) == ("1, 2, 4, 8", "bound")
    for record in records(study, "early-stopping"):
        state = record.trainer["trainer_state"]
        assert 0 < state["global_step"] < state["max_steps"]
    for variant, name in LONG.items():
        assert {record.trainer["model"]["class"] for record in records(study, variant)} == {name}
    seeds = [cell.record.params["seed"] for cell in study.of_variant("bf16")]
    assert seeds == [1, 2]


def test_the_record_has_the_figures_of_data_set_model_and_inference(study):
    for cell in study.cells:
        if not cell.usable:
            continue
        params, metrics = cell.record.params, cell.record.metrics
        for split in ("train", "validation", "test"):
            assert params[f"dataset/{split}/samples"] > 0
            assert params[f"dataset/{split}/source_words_mean"] > params[f"dataset/{split}/target_words_mean"] > 5
            assert params[f"dataset/{split}/source_tokens_mean"] > params[f"dataset/{split}/target_tokens_mean"] > 5
        assert cell.record.trainer["flops"]["total"] > 0
        ranks = [metrics[f"latency_seconds_p{rank}"] for rank in (90, 95, 99)]
        assert 0 < ranks[0] <= ranks[1] <= ranks[2]
        assert params["batch_size"] == 4
        in_a_batch = metrics["requests_per_second"] * metrics["latency_seconds_mean"]
        assert 1 <= in_a_batch <= 4 * (1 + 1e-9), cell.name
        assert {"train_loss", "eval_rougeLsum", "predict_loss", "predict_rouge1", "predict_rougeLsum"} <= set(metrics)


@pytest.fixture(scope="module")
def report(study):
    line = [sys.executable, "-m", "greenml", "study", "report", str(study.folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return study.folder / "report"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_table_is_there_and_no_column_is_empty(study, report):
    for name in ("report.html", "report.md", "report.tex", "report.json"):
        assert (report / name).stat().st_size > 1000
    for name in ("benchmark", "tradeoff", "target", "pareto", "counted", "environment", "dataset", "model"):
        assert rows(report / f"{name}.csv"), name
    figures = rows(report / "benchmark.csv")
    assert len(figures) == len(study.plan.variants)
    interval = ("_low", "_high")  # a metric has none
    columns = [name for name in figures[0] if not name.endswith(interval)]
    assert {"metrics.eval_rouge1", "duration_seconds", "disk_written_bytes", "flops", "energy_joules"} <= set(columns)
    for column in columns:
        for row in figures:
            assert row["variant"] == "broken" or row[column] not in ("", "-"), (row["variant"], column)
    for table in ("dataset", "model"):
        assert all(value not in ("", "-") for row in rows(report / f"{table}.csv") for value in row.values())
    reached = [row for row in rows(report / "target.csv") if row["energy_joules"]]
    assert reached


def test_what_failed_was_killed_or_stopped_early_is_counted(study, report):
    outcomes = {next(iter(row.values())).lower() for row in rows(report / "counted.csv")}
    for word in ("failed", "run again", "stopped early"):
        assert any(word in outcome for outcome in outcomes), (word, outcomes)
    text = (report / "report.md").read_text()
    assert "tf32" in text  # left out, and why
    assert "broken" in text
