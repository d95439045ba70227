"""Reads the Hugging Face Trainer's output folder: metrics, state, arguments, DeepSpeed config.

Only JSON is read. ``training_args.bin`` is a pickle, which could run anything: it is never loaded.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.record.importers._part import Part, read_json
from greenml.record.schema import LONGEST_SECONDS, Note, PhaseRecord
from greenml.redaction import redact

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


def load(folder: Path) -> Part:
    """Read a Trainer's output folder, or one of its checkpoints.

    What the folder itself lacks, or has not whole, is taken from the newest ``checkpoint-N`` that has it. Without a
    file of results, the state's ``log_history`` has the run times and the last metrics.

    Raises:
        RecordError: it is not a folder, holds none of the files, or one of them is not JSON.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: not a folder; give the Trainer's output_dir")
    results = [folder / name for name in RESULTS if (folder / name).is_file()]
    # A run that was killed may have left the newest checkpoint without its state, or with half of it.
    places = [folder, *reversed(_checkpoints(folder))]
    documents: dict[str, Path] = {}
    for name in DOCUMENTS:
        known = [path for place in places if (path := place / f"{name}.json").is_file()]
        whole = next((path for path in known if _is_json(path)), None)
        if known:
            documents[name] = whole or known[0]
    if not results and not documents:
        wanted = ", ".join((*RESULTS, *(f"{name}.json" for name in DOCUMENTS)))
        raise RecordError(f"{folder}: none of the Trainer's files is here, nor in a checkpoint-N: {wanted}")
    trainer = {name: _clean(read_json(path)) for name, path in documents.items()}
    history = _history(trainer.get("trainer_state", {}))
    results_metrics: dict[str, Any] = {}
    for path in reversed(results):  # all_results.json last: it has the last word
        results_metrics |= _clean(read_json(path))
    metrics = {**_logged(history), **results_metrics}
    params: dict[str, Any] = trainer.get("training_args", {})
    if "ds_config" not in trainer and isinstance(params.get("deepspeed"), dict):
        trainer["ds_config"] = params["deepspeed"]
    nested = "eval_runtime" not in results_metrics and _evaluates_in_training(history)
    phases = [
        PhaseRecord(path=f"train/{name}" if name == "eval" and nested else name, count=1, seconds=seconds, spans=[],
                    usage={})
        for key, name in RUNTIMES.items()
        if (seconds := _seconds(metrics.get(key))) is not None
    ]  # fmt: skip
    ended = max(_written(path) for path in (*results, *documents.values()))
    notes = [Note(code="dates", text="Start and end of the run are guessed from the dates of the Trainer's files.")]
    if "trainer_state" in documents:
        notes += _notes_of_state(
            documents["trainer_state"], trainer["trainer_state"], places, has_results=bool(results)
        )
    if not results and phases:
        text = (
            "No file of results is here: run times and metrics are those of the state's log_history, the last of each. "
            "Earlier evaluations are not in the run time of eval."
        )
        notes.append(Note(code="trainer-log", text=text))
    return Part(
        started=ended - timedelta(seconds=math.fsum(phase.seconds for phase in phases if "/" not in phase.path)),
        ended=ended,
        phases=phases,
        metrics=metrics,
        params=params,
        trainer=trainer,
        notes=notes,
    )


def _notes_of_state(path: Path, state: dict[str, Any], places: list[Path], *, has_results: bool) -> list[Note]:
    """Say which state was taken, where there is a newer one: the folder's own comes first, then the newest whole."""
    folder, *checkpoints = places
    texts = []
    skipped = [place.name for place in checkpoints if _step(place) > _step(path.parent) >= 0]
    if skipped and not has_results:
        texts.append(f"{', '.join(skipped)}: without a whole {path.name}; that of an earlier checkpoint is taken.")
    if path.parent != folder and (folder / path.name).is_file():
        texts.append(f"The folder's {path.name} is not whole; that of {path.parent.name} is taken.")
    steps = state.get("global_step")
    if path.parent == folder and checkpoints and isinstance(steps, int) and _step(checkpoints[0]) > steps:
        newest = checkpoints[0].name
        texts.append(
            f"{newest} is of a later step than the folder's {path.name}, which is taken; give {newest} for it."
        )
    return [Note(code="trainer-checkpoint", text=text) for text in texts]


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except RecordError:
        return False
    return True


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folder's checkpoints, the one of the most steps last."""
    return sorted((path for path in folder.glob("checkpoint-*") if path.is_dir() and _step(path) >= 0), key=_step)


def _step(path: Path) -> int:
    """Return the steps of a checkpoint's folder; -1 for another folder."""
    number = path.name.rpartition("-")[2] if path.name.startswith("checkpoint-") else ""
    return int(number) if number.isascii() and number.isdigit() else -1


def _history(state: dict[str, Any]) -> list[dict[str, Any]]:
    history = state.get("log_history")
    return [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []


def _evaluates_in_training(history: list[dict[str, Any]]) -> bool:
    """Tell whether the last evaluation of a log was before the training's end, so that its time is in the training's.

    A log without a run time of the training is of one that went on.
    """
    evaluated = max((at for at, entry in enumerate(history) if "eval_runtime" in entry), default=-1)
    trained = [at for at, entry in enumerate(history) if "train_runtime" in entry]
    return evaluated < max(trained) if trained else any("loss" in entry for entry in history)


def _logged(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last value of each metric that the state's log holds, but for its position (epoch, step)."""
    return {
        name: value
        for entry in history
        for name, value in entry.items()
        if name not in {"epoch", "step"} and isinstance(value, int | float | str)
    }


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(int(path.stat().st_mtime), tz=timezone.utc)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST_SECONDS:
        return None
    return float(value)


def _clean(content: dict[str, Any]) -> dict[str, Any]:
    """Mask secrets, and write NaN and infinity as text: JSON has no number for them."""
    return {key: _clean_value(redact(value, key)) for key, value in content.items()}


def _clean_value(value: object) -> object:
    if isinstance(value, dict):
        return _clean(value)
    if isinstance(value, list):
        return [_clean_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
