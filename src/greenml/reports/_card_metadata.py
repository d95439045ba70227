"""What a run says in a card's metadata, and how that goes with what the card says already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from greenml import printable
from greenml.errors import SettingsError
from greenml.record import RunRecord
from greenml.reports import _card_deepspeed, _card_facts, _card_results, _front_matter, _model_index

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
    if _front_matter.split(card).block is None:
        return  # the library would warn
    try:
        ModelCard(card.removeprefix("\ufeff"))
    except Exception as error:  # noqa: BLE001  a library's, of any kind: the metadata may hold anything
        why = printable.line(str(error)).partition(". Pass `")[0]  # the rest is for who calls it from Python
        raise SettingsError(f"its metadata does not load as a model card's: {why}") from None


def emissions(record: RunRecord, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``co2_eq_emissions`` in the hub's words; {} where the emissions are not known.

    Source: https://huggingface.co/docs/hub/model-cards-co2 (grams; what else may stand beside them).
    """
    known = _card_facts.emissions(record)
    if known.grams is None:
        return {}
    told = {
        "emissions": known.grams,
        "source": f"{known.source}, {known.scope}",
        "training_type": training_type(record, theirs),
        "geographical_location": _card_facts.geography(record),
        "hardware_used": _card_facts.hardware(record),
    }
    words = {name: printable.line(value) if isinstance(value, str) else value for name, value in told.items()}
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
        made.left_out.append(f"{CO2}: {_card_facts.emissions(record).why}")
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
    if not _card_results.evaluations(record):
        return
    subject = _model_index.subject(record, theirs, folder)
    if isinstance(subject, str):
        made.left_out.append(
            f"{_model_index.KEY}: the run does not know its {subject}; give it with run.params(dataset=..., task=...), "
            "or write datasets and pipeline_tag into the card's metadata"
        )
        return
    merged = _model_index.merged(theirs.get(_model_index.KEY), _model_index.results(record, subject), force=force)
    if isinstance(merged, str):
        made.left_out.append(f"{_model_index.KEY}: {merged}")
        return
    made.conflicts += [Conflict(*conflict) for conflict in merged.conflicts]
    if merged.index != theirs.get(_model_index.KEY):
        made.changes[_model_index.KEY] = merged.index


def tags(record: RunRecord) -> list[str]:
    """Return the tags that a run stands for."""
    on_azureml = "azureml_run" in record.environment.jobs
    return [
        *(["deepspeed"] if _card_deepspeed.configuration(record) else []),
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
