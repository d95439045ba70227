"""What the Hugging Face Trainer left in its output folder: metrics, state, arguments, DeepSpeed config.

Only JSON is read. ``training_args.bin`` is a pickle, which could run anything: it is never loaded.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.importers._part import Part, read_json
from greenml.record import Note, PhaseRecord

RESULTS = (
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "predict_results.json",
    "test_results.json",
)
DOCUMENTS = ("trainer_state", "training_args", "ds_config")
RUNTIMES = {
    "train_runtime": "train",
    "eval_runtime": "eval",
    "predict_runtime": "predict",
    "test_runtime": "test",
}
SECRET_ENDINGS = ("token", "secret", "password", "api_key")
MASK = "<masked>"


def load(folder: Path) -> Part:
    """Read a Trainer's output folder.

    Raises:
        RecordError: it is not a folder, holds none of the files, or one of them is not JSON.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: not a folder; give the Trainer's output_dir")
    results = [folder / name for name in RESULTS if (folder / name).is_file()]
    documents = {name: folder / f"{name}.json" for name in DOCUMENTS if (folder / f"{name}.json").is_file()}
    if not results and not documents:
        wanted = ", ".join((*RESULTS, *(f"{name}.json" for name in DOCUMENTS)))
        raise RecordError(f"{folder}: none of the Trainer's files is here: {wanted}")
    metrics: dict[str, Any] = {}
    for path in reversed(results):  # all_results.json last: it has the last word
        metrics |= _clean(read_json(path))
    trainer = {name: _clean(read_json(path)) for name, path in documents.items()}
    params: dict[str, Any] = trainer.get("training_args", {})
    if "ds_config" not in trainer and isinstance(params.get("deepspeed"), dict):
        trainer["ds_config"] = params["deepspeed"]
    phases = [
        PhaseRecord(path=name, count=1, seconds=seconds, spans=[], usage={})
        for key, name in RUNTIMES.items()
        if (seconds := _seconds(metrics.get(key))) is not None
    ]
    ended = max(_written(path) for path in (*results, *documents.values()))
    return Part(
        started=ended - timedelta(seconds=math.fsum(phase.seconds for phase in phases)),
        ended=ended,
        phases=phases,
        metrics=metrics,
        params=params,
        trainer=trainer,
        notes=[
            Note(
                code="dates",
                text="Start and end of the run are guessed from the dates of the Trainer's files.",
            )
        ],
    )


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(int(path.stat().st_mtime), tz=timezone.utc)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        return None
    return float(value)


def _clean(content: dict[str, Any]) -> dict[str, Any]:
    """Mask secrets, and write NaN and infinity as text: JSON has no number for them."""
    return {key: MASK if _is_secret(key, value) else _clean_value(value) for key, value in content.items()}


def _clean_value(value: object) -> object:
    if isinstance(value, dict):
        return _clean(value)
    if isinstance(value, list):
        return [_clean_value(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _is_secret(key: str, value: object) -> bool:
    return isinstance(value, str) and bool(value) and key.lower().endswith(SECRET_ENDINGS)
