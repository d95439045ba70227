"""A study's folder whose records are scripted: what its report says is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from greenml.accounting import assumptions
from greenml.analysis.study import folder, plan
from greenml.record import file as record_file
from greenml.record.schema import (
    AttemptRecord,
    DeviceRecord,
    Environment,
    Factors,
    Host,
    PhaseRecord,
    PlaceRecord,
    RunRecord,
    Series,
    Timeline,
    UncertaintyBudget,
    Usage,
)
from greenml.settings import Settings

START = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
GAIN = 0.05


@dataclass(frozen=True)
class Scripted:
    """What the cells of a variant are: means over seeds, around which each seed lies.

    Attributes:
        seconds, watts, rouge: of a run.
        reason: why every cell failed; empty where they completed.
        early: stopped at half of its steps.
        attempts: of each cell; those before the last were killed halfway.
    """

    seconds: float = 1000.0
    watts: float = 300.0
    rouge: float = 40.0
    reason: str = ""
    early: bool = False
    attempts: int = 1


VARIANTS = {
    "fp32": Scripted(),
    "fp16": Scripted(seconds=600.0, watts=280.0),
    "bf16": Scripted(seconds=620.0, watts=290.0, rouge=41.0),
    "same": Scripted(),
    "early": Scripted(seconds=500.0, rouge=36.0, early=True),
    "big": Scripted(seconds=20.0, reason="out of memory"),
    "flaky": Scripted(attempts=2),
}


def record(
    scripted: Scripted, noise: float = 0.0, *, name: str = "", uuid: str = "GPU-00000001", status: str = "completed",
    metrics: Mapping[str, Any] | None = None, **more: Any,
) -> RunRecord:  # fmt: skip
    """Return the record of a run; ``noise`` is its relative difference from the mean."""
    seconds, watts = scripted.seconds * (1 + noise), scripted.watts
    joules = seconds * watts
    usage = Usage(
        energy_joules=joules, energy_low_joules=joules * (1 - GAIN), energy_high_joules=joules * (1 + GAIN),
        uncertainty=UncertaintyBudget(calibration_joules=GAIN * joules), utilization_ratio=0.8, memory_mean_bytes=10e9,
        memory_max_bytes=12e9, power_mean_watts=watts,
    )  # fmt: skip
    gpu = DeviceRecord(
        id=uuid, kind="gpu", name="NVIDIA A100", host="node-a", method="counter", sensor="nvml",
        calibration_ratio=GAIN, usage=usage,
    )  # fmt: skip
    rouge = scripted.rouge * (1 + noise / 4)
    bins = 100
    fields: dict[str, Any] = {
        "greenml_version": "0.1.0", "run_id": name or "r", "name": name, "status": status, "started": START,
        "ended": START + timedelta(seconds=seconds), "duration_seconds": seconds, "hosts": [Host(name="node-a")],
        "place": PlaceRecord(tier="dedicated"), "devices": [gpu], "factors": Factors(),
        "attempts": [AttemptRecord(number=1, started=START, ended=None, seconds=seconds, status="completed")],
        "phases": [PhaseRecord(path="train", count=1, seconds=seconds / 2, spans=[], usage={uuid: usage})],
        "timeline": Timeline(
            step_seconds=seconds / bins, bins=bins, series=[Series(device=uuid, power_watts=[watts] * bins)]
        ),
        "params": {"dataset/name": "samsum", "dataset/train/samples": 14732, "dataset/train/source_words_mean": 93.8},
        "metrics": metrics if metrics is not None else {
            "predict_rouge1": rouge, "predict_rouge2": rouge / 2, "predict_rougeL": rouge * 0.8,
            "predict_rougeLsum": rouge * 0.9, "predict_loss": 80 / rouge, "eval_rouge1": rouge, "total_flos": 2e15,
        },
        "trainer": {
            "counts": {"samples": 1000, "tokens": 50000}, "disk_written_bytes": 3e9,
            "model": {"name": "facebook/bart-large", "class": "Bart", "layers": 12, "decoder_layers": 12,
                      "hidden_size": 1024, "heads": 16, "parameters": 406_000_000, "trainable_parameters": 406_000_000},
            "trainer_state": {"max_steps": 100, "global_step": 50 if scripted.early else 100},
            "history": {"eval_rouge1": [[seconds * 0.25, rouge * 0.8], [seconds * 0.5, rouge * 0.99],
                                        [seconds * 0.75, rouge]]},
        },
        "environment": Environment(python="3.11.7", os="Linux", packages={"torch": "2.13.0"}, world_size=1),
    }  # fmt: skip
    settings = Settings(carbon_intensity=300.0, pue=1.2, price_per_hour=36.0)
    return assumptions.account(RunRecord(**{**fields, **more}), assumptions.check(settings))


def study(
    path: Path, variants: Mapping[str, Scripted] = VARIANTS, *, seeds: int = 5, spread: float = 0.02,
    random_seed: int = 7, quality: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a study's folder; the last of its variants' last cells is not run."""
    numbers = random.Random(random_seed)
    content: dict[str, Any] = {
        "name": "precision", "command": "python train.py --seed {seed}", "seeds": list(range(1, seeds + 1)),
        "variants": {name: {"args": f"--{name}", "description": f"with {name}"} for name in variants},
    }  # fmt: skip
    if quality is not None:
        content["quality"] = dict(quality)
    (path.parent / "train.py").write_text("")
    made = plan.make(plan.StudyFile.model_validate(content), path.parent)
    created = folder.create(path, made)
    for at, cell in enumerate(created.cells):
        scripted = variants[cell.variant.name]
        entries = []
        for number in range(1, scripted.attempts + 1):
            last = number == scripted.attempts
            state = ("failed" if scripted.reason else "completed") if last else "killed"
            into = cell.folder if last else cell.folder / f"attempt-{number}"
            into.mkdir(parents=True, exist_ok=True)
            part = scripted if last else Scripted(seconds=scripted.seconds / 2)
            status = {"completed": "completed", "failed": "failed"}.get(state, "killed")
            run = record(part, numbers.gauss(0.0, spread), name=cell.name.replace("/", "-"), status=status)
            record_file.write(run, into / "run.json")
            started = START + timedelta(seconds=5000.0 * at + 2000.0 * number)
            entries.append(
                {
                    "number": number, "state": state, "reason": scripted.reason if last else "killed by SIGKILL",
                    "exit_code": 0 if state == "completed" else 1, "started": started.timestamp(),
                    "ended": (started + timedelta(seconds=run.duration_seconds)).timestamp(), "host": "node-a",
                }
            )  # fmt: skip
        folder.write_cell(created, cell, entries)
    return path
