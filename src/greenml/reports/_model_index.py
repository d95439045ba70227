"""The ``model-index`` of a card's metadata: the run's evaluation results, as the hub shows them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenml.record import RunRecord
from greenml.reports import _card_results

KEY = "model-index"
_TASK = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_DATASET = re.compile(r"[\w.-]+(?:/[\w.-]+)?\Z")
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
_NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougel": "ROUGE-L", "rougelsum": "ROUGE-LSUM"}
# By the end of a transformers class: only where that settles the task, by the hub's names of tasks.
_TASKS = {
    "ForCausalLM": "text-generation",
    "GPT2LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "image-segmentation",
    "ForCTC": "automatic-speech-recognition",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated: which data, for which task, under which name of the model."""

    task: str
    dataset: str
    config: str
    model: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A model-index with the run's results in it; and the results that it already had otherwise."""

    index: list[Any]
    conflicts: list[tuple[str, Any, Any]]


def subject(record: RunRecord, theirs: Mapping[str, Any], folder: str) -> Subject | str:
    """Return what was evaluated, or say what is not known of it.

    The run is asked first: its parameters, then the Trainer's arguments. Then the card's own metadata.

    Args:
        record: of the run.
        theirs: the card's metadata.
        folder: the card's, whose name is the repository's; may be empty.
    """
    args = record.trainer.get("training_args")
    told = {**(args if isinstance(args, Mapping) else {}), **record.params}
    before = _only_result(theirs)
    dataset = (
        _dataset(told, "dataset", "dataset_name") or _text(before, "dataset", "type") or _dataset(theirs, "datasets")
    )
    task = (
        _task(_word(told, "task", "task_name", "pipeline_tag"))
        or _text(before, "task", "type")
        or _word(theirs, "pipeline_tag")
        or _task_of_class(record)
    )
    index = theirs.get(KEY)
    named = index[0].get("name") if isinstance(index, list) and index and isinstance(index[0], Mapping) else ""
    model = " ".join(str(named or record.name or folder or record.run_id).split())
    missing = [name for name, value in (("dataset", dataset), ("task", task)) if not value]
    if missing:
        return " and ".join(missing)
    config = _word(told, "dataset_config", "dataset_config_name") or _text(before, "dataset", "config")
    return Subject(task, dataset, config, model)


def results(record: RunRecord, of: Subject) -> list[Any]:
    """Return the run's results as a model-index; made and checked by huggingface_hub."""
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type=of.task,
            dataset_type=of.dataset,
            dataset_name=of.dataset.rpartition("/")[2],
            dataset_config=of.config or None,
            dataset_split=one.split,
            metric_type="rouge" if _card_results.is_rouge(one.name) else " ".join(one.name.split()),
            metric_name=_NAMES.get(one.name.lower(), " ".join(one.name.split())),
            metric_value=one.value,
        )
        for one in _card_results.evaluations(record)
    ]
    data: Any = ModelCardData(model_name=of.model, eval_results=found)  # untyped
    return list(data.to_dict()[KEY]) if found else []


def merged(theirs: Any, ours: list[Any], *, force: bool) -> Merged | str:  # noqa: ANN401
    """Put the run's results into a card's model-index; what it has stays, unless forced.

    Returns:
        The model-index, or why nothing can be put into it.
    """
    if not theirs:
        return Merged(ours, [])
    if not isinstance(theirs, list) or len(theirs) != 1 or not isinstance(theirs[0].get("results"), list):
        return "the card's model-index is not that of one model"
    index = copy.deepcopy(theirs)
    conflicts: list[tuple[str, Any, Any]] = []
    for result in ours[0]["results"]:
        same = next((one for one in index[0]["results"] if _identity(one) == _identity(result)), None)
        if same is None:
            index[0]["results"].append(result)
            continue
        for metric in result["metrics"]:
            known = next((one for one in same["metrics"] if _metric(one) == _metric(metric)), None)
            if known is None:
                same["metrics"].append(metric)
            elif known.get("value") != metric["value"]:
                name = f"{KEY}, {metric['name']} on {result['dataset']['type']} {result['dataset']['split']}"
                conflicts.append((name, known.get("value"), metric["value"]))
                if force:
                    known["value"] = metric["value"]
    return Merged(index, conflicts)


def _identity(result: Mapping[str, Any]) -> tuple[str, ...]:
    parts = [("task", "type"), ("dataset", "type"), ("dataset", "config"), ("dataset", "split")]
    return tuple(_text(result, *part) for part in parts)


def _metric(metric: Mapping[str, Any]) -> str:
    """Return what tells metrics of one evaluation apart: ``Rouge1`` and ``ROUGE-1`` are one."""
    return re.sub(r"[^a-z0-9]", "", str(metric.get("name") or metric.get("type")).lower())


def _text(value: Any, *path: str) -> str:  # noqa: ANN401
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _only_result(theirs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the one evaluation that a card's model-index has; None where there are several data sets or none."""
    index = theirs.get(KEY)
    models: Sequence[Any] = index if isinstance(index, list) else []
    found = [one for model in models if isinstance(model, Mapping) for one in model.get("results") or []]
    return found[0] if len({_identity(one)[:3] for one in found}) == 1 else None


def _word(values: Mapping[str, Any], *names: str) -> str:
    found = (values.get(name) for name in names)
    return next((" ".join(one.split()) for one in found if isinstance(one, str) and one.strip()), "")


def _task(name: str) -> str:
    """Return a task's name as the hub writes it; empty for what cannot be one."""
    written = name.lower().replace(" ", "-").replace("_", "-")
    return written if _TASK.match(written) else ""


def _dataset(values: Mapping[str, Any], *names: str) -> str:
    """Return a data set's name on the hub; a file, or one of several, is none."""
    for name in names:
        value = values.get(name)
        one = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(one, str) and _DATASET.match(one) and not one.lower().endswith(_FILES):
            return one
    return ""


def _task_of_class(record: RunRecord) -> str:
    kind = _text(record.trainer, "model", "class")
    return next((task for end, task in _TASKS.items() if kind.endswith(end)), "")
