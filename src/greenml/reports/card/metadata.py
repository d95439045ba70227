"""Merges a run's metadata, including its model-index, into the metadata that a card already has."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from greenml import redaction
from greenml.errors import SettingsError
from greenml.record.schema import RunRecord
from greenml.reports.card import sections, text

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
    """Return the evaluated task, dataset and model, or the names of those that are not known.

    The run is asked first: its parameters, then the Trainer's arguments. Then the card's own metadata.

    Args:
        record: of the run.
        theirs: the card's metadata.
        folder: the card's, whose name is the repository's; may be empty.
    """
    args = record.trainer.get("training_args")
    parameters = {**(args if isinstance(args, Mapping) else {}), **record.params}
    before = _only_result(theirs)
    dataset = (
        _dataset(parameters, "dataset", "dataset_name")
        or _text(before, "dataset", "type")
        or _dataset(theirs, "datasets")
    )
    task = (
        _task(_word(parameters, "task", "task_name", "pipeline_tag"))
        or _only_task(theirs, dataset)
        or _word(theirs, "pipeline_tag")
        or _task_of_class(record)
        or _only_task(theirs)
    )
    index = theirs.get(KEY)
    named = index[0].get("name") if isinstance(index, list) and index and isinstance(index[0], Mapping) else ""
    model = " ".join(str(named or record.name or folder or record.run_id).split())
    missing = [name for name, value in (("dataset", dataset), ("task", task)) if not value]
    if missing:
        return " and ".join(missing)
    config = _word(parameters, "dataset_config", "dataset_config_name")
    if not config and dataset == _text(before, "dataset", "type"):  # another data set's is not this one's
        config = _text(before, "dataset", "config")
    return Subject(task, dataset, config, model)


def results(record: RunRecord, of: Subject) -> list[Any]:
    """Return the run's results as a model-index; made and checked by huggingface_hub."""
    from huggingface_hub import EvalResult, ModelCardData

    eval_results = [
        EvalResult(
            task_type=of.task,
            dataset_type=of.dataset,
            dataset_name=of.dataset.rpartition("/")[2],
            dataset_config=of.config or None,
            dataset_split=evaluation.split,
            metric_type="rouge" if sections.is_rouge(evaluation.name) else " ".join(evaluation.name.split()),
            metric_name=_NAMES.get(evaluation.name.lower(), " ".join(evaluation.name.split())),
            metric_value=evaluation.value,
        )
        for evaluation in sections.evaluations(record)
    ]
    data: Any = ModelCardData(model_name=of.model, eval_results=eval_results)  # untyped
    return list(data.to_dict()[KEY]) if eval_results else []


def merged(theirs: Any, ours: list[Any], *, force: bool) -> Merged | str:  # noqa: ANN401
    """Add the run's results to a card's model-index; existing values stay, unless forced.

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
        same = next((entry for entry in index[0]["results"] if _identity(entry) == _identity(result)), None)
        if same is None:
            index[0]["results"].append(result)
            continue
        for metric in result["metrics"]:
            known = next((entry for entry in same["metrics"] if _metric(entry) == _metric(metric)), None)
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


def _results(theirs: Mapping[str, Any]) -> list[Any]:
    index = theirs.get(KEY)
    models: Sequence[Any] = index if isinstance(index, list) else []
    return [result for model in models if isinstance(model, Mapping) for result in model.get("results") or []]


def _only_result(theirs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the one evaluation that a card's model-index has; None where there are several data sets or none."""
    known = _results(theirs)
    return known[0] if len({_identity(result)[:3] for result in known}) == 1 else None


def _only_task(theirs: Mapping[str, Any], dataset: str = "") -> str:
    """Return the task of all results that a card has (of a data set, if one is named); empty where they differ."""
    of_data = [result for result in _results(theirs) if not dataset or _text(result, "dataset", "type") == dataset]
    tasks = {_text(result, "task", "type") for result in of_data}
    return tasks.pop() if len(tasks) == 1 else ""


def _word(values: Mapping[str, Any], *names: str) -> str:
    candidates = (values.get(name) for name in names)
    return next(
        (" ".join(candidate.split()) for candidate in candidates if isinstance(candidate, str) and candidate.strip()),
        "",
    )


def _task(name: str) -> str:
    """Return a task's name as the hub writes it; empty for what cannot be one."""
    written = name.lower().replace(" ", "-").replace("_", "-")
    return written if _TASK.match(written) else ""


def _dataset(values: Mapping[str, Any], *names: str) -> str:
    """Return a data set's name on the hub; a file, or one of several, is none."""
    for name in names:
        value = values.get(name)
        dataset = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(dataset, str) and _DATASET.match(dataset) and not dataset.lower().endswith(_FILES):
            return dataset
    return ""


def _task_of_class(record: RunRecord) -> str:
    kind = _text(record.trainer, "model", "class")
    return next((task for end, task in _TASKS.items() if kind.endswith(end)), "")


CO2 = "co2_eq_emissions"
TRAINING_TYPES = {
    "fine-tuning": "fine-tuning",
    "finetuning": "fine-tuning",
    "pre-training": "pre-training",
    "pretraining": "pre-training",
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """A value of the card that is not the run's."""

    key: str
    theirs: Any
    ours: Any


@dataclass(slots=True)
class Metadata:
    """What to change in a card's metadata; what stood in the way; and what the run could not say, with the reason."""

    changes: dict[str, Any] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def of(record: RunRecord, theirs: Mapping[str, Any], *, folder: str = "", force: bool = False) -> Metadata:
    """Settle a run's metadata with a card's: what the card has stays, unless forced.

    Args:
        record: of the run.
        theirs: the card's metadata.
        folder: the card's; its name stands for the model's where nothing else does.
        force: replace what is in conflict.
    """
    made = Metadata()
    _settle_emissions(made, record, theirs, force=force)
    _settle_results(made, record, theirs, folder, force=force)
    _settle_tags(made, record, theirs, force=force)
    return made


def check(card: str) -> None:
    """Load a card as the hub's library does; one without metadata has nothing to check.

    Raises:
        SettingsError: it does not load; says why.
    """
    try:
        from huggingface_hub import ModelCard
    except ImportError:
        raise SettingsError("a card's metadata needs huggingface_hub: pip install 'greenml[card]'") from None
    if text.split(card).block is None:
        return  # the library would warn
    try:
        ModelCard(card.removeprefix("\ufeff"))
    except Exception as error:  # noqa: BLE001  a library's, of any kind: the metadata may hold anything
        why = redaction.printable_line(str(error)).partition(". Pass `")[0]  # the rest is for who calls it from Python
        raise SettingsError(f"its metadata does not load as a model card's: {why}") from None


def emissions(record: RunRecord, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``co2_eq_emissions`` in the hub's words; {} where the emissions are not known.

    Source: https://huggingface.co/docs/hub/model-cards-co2 (grams; what else may stand beside them).
    """
    known = sections.emissions(record)
    if known.grams is None:
        return {}
    values = {
        "emissions": known.grams,
        "source": f"{known.source}, {known.scope}",
        "training_type": training_type(record, theirs),
        "geographical_location": sections.geography(record),
        "hardware_used": sections.hardware_words(record),
    }
    words = {
        name: redaction.printable_line(value) if isinstance(value, str) else value for name, value in values.items()
    }
    return {name: value for name, value in words.items() if value != ""}


def training_type(record: RunRecord, theirs: Mapping[str, Any]) -> str:
    """Return ``fine-tuning`` or ``pre-training``; empty where nothing says so for certain.

    A model's name alone does not: a model of that shape may have been trained from nothing.
    """
    given = str(record.params.get("training_type", "")).strip().lower().replace(" ", "-").replace("_", "-")
    model = record.trainer.get("model")
    adapts = isinstance(model, Mapping) and str(model.get("class", "")).startswith("Peft")
    if given in TRAINING_TYPES:
        return TRAINING_TYPES[given]
    began_trained = adapts or record.params.get("model_name_or_path") or theirs.get("base_model")
    return "fine-tuning" if began_trained else ""


def _settle_emissions(made: Metadata, record: RunRecord, theirs: Mapping[str, Any], *, force: bool) -> None:
    ours, before = emissions(record, theirs), theirs.get(CO2)
    if not ours:
        made.left_out.append(f"{CO2}: {sections.emissions(record).why}")
        return
    whole = before if isinstance(before, Mapping) else {"emissions": before}  # the hub takes the number alone too
    known = {name: value for name, value in whole.items() if value is not None}
    # Beside somebody else's figure the run's source and place would be wrong: then nothing is added.
    others = "emissions" in known and not _same(known["emissions"], ours["emissions"])
    clashes = [
        Conflict(f"{CO2}.{name}", known[name], value)
        for name, value in ours.items()
        if name in known and not _same(known[name], value)
    ]
    made.conflicts += [clash for clash in clashes if force or not others or clash.key.endswith(".emissions")]
    if force:
        merged = {**known, **ours}
    elif others:
        return
    else:
        merged = {**known, **{name: value for name, value in ours.items() if name not in known}}
    if not isinstance(before, Mapping) or _differs(before, merged):
        made.changes[CO2] = merged


def _settle_results(made: Metadata, record: RunRecord, theirs: Mapping[str, Any], folder: str, *, force: bool) -> None:
    if not sections.evaluations(record):
        return
    evaluated = subject(record, theirs, folder)
    if isinstance(evaluated, str):
        made.left_out.append(
            f"{KEY}: the run does not know its {evaluated}; give it with run.params(dataset=..., task=...), "
            "or write datasets and pipeline_tag into the card's metadata"
        )
        return
    joined = merged(theirs.get(KEY), results(record, evaluated), force=force)
    if isinstance(joined, str):
        made.left_out.append(f"{KEY}: {joined}")
        return
    made.conflicts += [Conflict(*conflict) for conflict in joined.conflicts]
    if joined.index != theirs.get(KEY):
        made.changes[KEY] = joined.index


def tags(record: RunRecord) -> list[str]:
    """Return the tags that a run stands for."""
    on_azureml = "azureml_run" in record.environment.jobs
    return [
        *(["deepspeed"] if sections.configuration(record) else []),
        *(["azureml"] if on_azureml else []),
        "greenml",
    ]


def _settle_tags(made: Metadata, record: RunRecord, theirs: Mapping[str, Any], *, force: bool) -> None:
    before, ours = theirs.get("tags"), tags(record)
    if before is not None and not isinstance(before, list):
        made.conflicts.append(Conflict("tags", before, ours))
        if force:
            made.changes["tags"] = [before, *ours]
        return
    new = [tag for tag in ours if tag not in (before or [])]
    if new:
        made.changes["tags"] = [*(before or []), *new]


def _same(theirs: Any, ours: Any) -> bool:  # noqa: ANN401
    if isinstance(ours, Decimal):
        return isinstance(theirs, int | float) and not isinstance(theirs, bool) and float(theirs) == float(ours)
    return bool(theirs == ours)


def _differs(before: Mapping[str, Any], merged: Mapping[str, Any]) -> bool:
    return before.keys() != merged.keys() or any(not _same(before[name], value) for name, value in merged.items())
