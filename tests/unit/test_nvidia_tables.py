"""Tables as NVIDIA has them, of scripted records and of a published table: units, speed-up, scaling, energy."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_study import Scripted, record

from greenml import RecordError
from greenml.analysis.study import nvidia
from greenml.analysis.study import tables as study_tables
from greenml.analysis.study.tables import Table
from greenml.cli import main
from greenml.record import file as record_file
from greenml.record.importers import published_table
from greenml.record.schema import RunRecord


def run(name: str, seconds: float, gpus: int = 1, seed: int = 1, **params: Any) -> RunRecord:
    made = record(Scripted(seconds=seconds), name=name)
    gpu = made.devices[0]
    devices = [gpu.model_copy(update={"id": f"GPU-{number:08d}"}) for number in range(gpus)]
    counts = {"counts": {"samples": 1000 * gpus, "tokens": 50_000 * gpus}}
    per_second = {f"{unit}_per_second": value / (seconds / 2) for unit, value in counts["counts"].items()}
    return made.model_copy(
        update={
            "devices": devices, "params": {"seed": seed, "per_device_train_batch_size": 24, **params},
            "derived": made.derived | per_second, "trainer": {**made.trainer, **counts},
        }
    )  # fmt: skip


RECORDS = [
    run("fp32-seed-1", 1000.0, seed=1), run("fp32-seed-2", 1020.0, seed=2), run("bf16", 500.0, bf16=True),
    run("fp32x8", 1250.0, gpus=8),
]  # fmt: skip


def rows(tables: list[Table], key: str) -> list[dict[str, str]]:
    table = next(entry for entry in tables if entry.key == key)
    return list(csv.DictReader(io.StringIO(study_tables.csv_table(table))))


def test_throughput_has_speed_up_and_weak_scaling() -> None:
    fp32, bf16, eight = rows(nvidia.tables(RECORDS, []), "training-throughput")
    samples = (1000 / 500 + 1000 / 510) / 2
    assert (fp32["precision"], fp32["runs"], float(fp32["samples_per_second"])) == ("FP32", "2", pytest.approx(samples))
    assert (bf16["precision"], bf16["speedup_ratio_of"]) == ("BF16", "FP32")
    assert float(bf16["speedup_ratio"]) == pytest.approx(4.0 / samples)
    assert (eight["gpus"], eight["weak_scaling_ratio_of"]) == ("8", "1 GPU")
    assert float(eight["weak_scaling_ratio"]) == pytest.approx(8000 / 625 / samples)
    assert float(bf16["usd_per_million_tokens"]) == pytest.approx(250 / 100 / 50_000 * 1e6)  # $36 an hour
    assert bf16["basis"] == "measured"


def test_what_differs_in_no_format_has_no_speed_up_by_it() -> None:
    """Runs without a parameter that tells them apart: none of them is what the others are compared with."""
    made = [run(name, seconds).model_copy(update={"params": {}}) for name, seconds in (("a", 100.0), ("b", 200.0))]
    assert [row["speedup_ratio"] for row in rows(nvidia.tables(made, []), "training-throughput")] == ["", ""]
    larger = run("fp32-large", 500.0, per_device_train_batch_size=48)
    ratios = {row["row"]: row["speedup_ratio"] for row in rows(nvidia.tables([*RECORDS, larger], []), "time-to-train")}
    assert [ratio for name, ratio in ratios.items() if "batch 48" in name] == [""]


def test_how_energy_is_known_is_said() -> None:
    made = run("a", 100.0)
    guessed = [
        total.model_copy(update={"it_energy_joules": total.it_energy_joules.model_copy(update={"basis": "modelled"})})
        for total in made.totals
    ]
    tables = nvidia.tables([made.model_copy(update={"totals": guessed})], [])
    assert rows(tables, "training-throughput")[0]["basis"] == "measured, energy modelled"


def test_no_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_file.write(run("a", 10.0).model_copy(update={"status": "failed"}), tmp_path / "run.json")
    with pytest.raises(SystemExit) as ended:
        main(["study", "report", str(tmp_path), "--tables", "nvidia", "--csv"])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert "no run that completed has a figure" in error


def test_runs_that_differ_in_more_are_not_averaged() -> None:
    other = run("frozen", 400.0, seed=3, freeze_encoder=True)
    throughput = rows(nvidia.tables([*RECORDS, other], []), "training-throughput")
    assert len(throughput) == 4
    assert sorted(row["runs"] for row in throughput) == ["1", "1", "1", "2"]


def test_accuracy_over_seeds() -> None:
    metrics = [{"predict_rouge1": value} for value in (45.0, 45.2, 44.8)]
    records = [
        run(f"r{seed}", 100.0, seed=seed).model_copy(update={"metrics": value}) for seed, value in enumerate(metrics)
    ]
    (row,) = rows(nvidia.tables(records, []), "accuracy")
    assert (row["metric"], row["values"]) == ("rouge1", "45, 45.2, 44.8")
    assert float(row["mean"]) == pytest.approx(45.0)
    assert float(row["std"]) == pytest.approx(0.2)


def test_latency_is_in_milliseconds_with_joules_per_request() -> None:
    made = run("serve", 100.0, batch_size=8)
    train = made.phases[0]
    usage = {name: value.model_copy(update={"energy_joules": 600.0}) for name, value in train.usage.items()}
    made = made.model_copy(
        update={
            "phases": [train.model_copy(update={"path": "predict", "seconds": 20.0, "usage": usage})],
            "metrics": {
                "latency_seconds_mean": 0.28, "latency_seconds_p90": 0.35, "latency_seconds_p95": 0.38,
                "latency_seconds_p99": 0.46, "requests_per_second": 3.54, "predict_runtime": 20.0,
                "predict_samples_per_second": 10.0, "predict_gen_len": 30.0,
            },
            "totals": [
                made.total(), made.total("train").model_copy(update={
                    "scope": "predict", "seconds": 20.0,
                    "it_energy_joules": made.total().it_energy_joules.model_copy(update={"value": 600.0}),
                    "cost_usd": {"dedicated": made.total().cost_usd["dedicated"].model_copy(update={"value": 0.2})},
                }),
            ],
        }
    )  # fmt: skip
    tables = nvidia.tables([made], [])
    (row,) = rows(tables, "inference-latency")
    assert (float(row["latency_mean_seconds"]), row["batch_size"]) == (0.28, "8")
    text = study_tables.markdown_table(next(table for table in tables if table.key == "inference-latency"))
    assert "Latency avg, ms" in text
    assert "| 280.0 | 350.0 | 380.0 | 460.0 | 3.540 | 3.000 | 0.1000 | $33.33 |" in text  # 600 J, 200 requests


CSV = """# a comment
system,gpus,precision,batch_size,samples_per_second,time_to_train_hours,rouge1,latency_mean_ms,latency_p99_seconds,source
DGX A100,1,TF32,24,48.61,2.41,45.22,,,somebody's README
DGX A100,8,TF32,24,"1,243.03",0.64,,,,somebody's README

DGX A100,1,BF16,1,,,,280,0.46,somebody's README
"""


def test_a_published_table_is_set_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "published.csv").write_text(CSV)
    output = tmp_path / "published.json"
    with pytest.raises(SystemExit) as ended:
        main(["import", "--table", str(tmp_path / "published.csv"), "--output", str(output)])
    assert ended.value.code == 0
    (tmp_path / "runs").mkdir()
    for number, made in enumerate(RECORDS):
        record_file.write(made, tmp_path / "runs" / f"{number}.json")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["study", "report", str(tmp_path / "runs"), str(output), "--tables", "nvidia", "--json"])
    content = json.loads(capsys.readouterr().out)
    throughput = content["training-throughput"]["rows"]
    assert [row["basis"] for row in throughput] == ["measured"] * 3 + ["published: somebody's README"] * 2
    published = throughput[-1]
    assert (published["samples_per_second"], published["joules_per_token"]) == (1243.03, None)
    assert published["weak_scaling_ratio"] == pytest.approx(1243.03 / 48.61)
    train = [row for row in content["time-to-train"]["rows"] if row["system"] == "DGX A100"]
    assert [row["time_to_train_seconds"] for row in train] == pytest.approx([2.41 * 3600, 0.64 * 3600])
    (latency,) = content["inference-latency"]["rows"]
    assert (latency["latency_mean_seconds"], latency["latency_p99_seconds"]) == (0.28, 0.46)
    assert any("without energy: somebody's README" in line for line in content["lead"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system,latency_mean\nA,1", "latency_mean has no unit"),
        ("system,troughput\nA,1", "column troughput is not known"),
        ("system,rouge_1\nA,1", "did you mean 'rouge1'?"),
        ("system,gpus\nA,two", "line 2: gpus is 'two', not a whole number"),
        ("system,gpus\nA,1.5", "not a whole number"),
        ("system,samples_per_second\nA,-3", "greater than or equal to 0"),
        ("system,samples_per_second\nA,1,243.03", "quote a number"),
        ("system,speedup\nA,1", "computed from the others"),
        ("system,gpus,gpus\nA,1,1", "column gpus is there twice"),
        ("system,gpus", "no table"),
        ("", "no table"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.csv").write_text(text)
    with pytest.raises(RecordError, match=message) as error:
        published_table.load(tmp_path / "wrong.csv")
    assert "\n" not in str(error.value)


def test_what_is_no_published_table_is_told_from_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"greenml_published": 9}')
    with pytest.raises(RecordError, match="version 9"):
        published_table.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"greenml_published": 1, "file": "x", "rows": [{"gpus": "many"}]}')
    with pytest.raises(RecordError, match=r"rows\.0\.gpus"):
        published_table.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1]")
    assert published_table.read(tmp_path / "a.json") is None
