"""A run's results in a card: the ROUGE table, the other metrics, and which of them judge the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenml.record import RunRecord
from greenml.reports import _markdown_text

# By what stands before a metric's name: the Trainer's words for its data sets, and others' for the same.
SPLITS = {"eval": "validation", "val": "validation", "validation": "validation", "predict": "test", "test": "test"}
# The state of training at its last log: settings and speeds, which are no results.
_STATE = frozenset({"learning_rate", "lr", "grad_norm", "step", "global_step", "max_steps"})
# Of an evaluation: what it took, which says nothing of the model.
_EFFORT = ("runtime", "samples", "per_second", "time", "steps", "epoch", "tokens", "memory", "mem", "flos", "delta")
ROUGE_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A result that judges the model."""

    split: str
    name: str
    value: float


def section(record: RunRecord) -> str:
    """Render the tables of results; empty where the record has none."""
    rouge, others = _rows(record)
    parts = []
    if rouge:
        parts += ["### ROUGE", _markdown_text.table(rouge)]
    if others:
        parts += ["### Metrics", _markdown_text.table(others)]
    return "\n\n".join(["## Results", *parts]) if parts else ""


def evaluations(record: RunRecord) -> list[Evaluation]:
    """Return the results on validation and test data, in the order in which they were logged."""
    found = []
    for key, value in record.metrics.items():
        before, _, name = key.partition("_")
        judges = before in SPLITS and name and not any(word in _EFFORT for word in _words(name))
        if judges and isinstance(value, int | float) and not isinstance(value, bool):
            found.append(Evaluation(SPLITS[before], name, value))
    return found


def is_rouge(name: str) -> bool:
    """Tell whether a metric is one of the ROUGE family, by its name without the data set's."""
    return name.lower().replace("-", "").replace("_", "").startswith("rouge")


def _words(name: str) -> list[str]:
    return [*name.lower().split("_"), *(["per_second"] if name.endswith("per_second") else [])]


def _rows(record: RunRecord) -> tuple[list[_markdown_text.Row], list[_markdown_text.Row]]:
    rouge: list[_markdown_text.Row] = []
    others: list[_markdown_text.Row] = []
    state = _mapping(record.trainer.get("trainer_state"))
    told = {name: state[name] for name in ("global_step", "total_flos") if name in state}
    results = {name: value for name, value in record.metrics.items() if name not in _STATE}
    for key, value in {**results, **told}.items():
        after = key.partition("_")[2] if key.partition("_")[0] in SPLITS else key
        text = _text(value)
        if is_rouge(after) and isinstance(value, float):
            rouge.append((key, _at_most(value)))
        elif text:
            others.append((key, text))
    return rouge, others


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401  of the record, as found
    return value if isinstance(value, Mapping) else {}


def _at_most(value: float) -> str:
    """Write a score as it was logged, with four decimals at most."""
    logged = repr(value)
    return logged if len(logged.partition(".")[2]) <= ROUGE_DECIMALS else f"{value:.{ROUGE_DECIMALS}f}"


def _text(value: Any) -> str:  # noqa: ANN401
    """Write a metric as it was logged; empty for what is no figure or word."""
    if isinstance(value, bool | str):
        return str(value)
    return repr(value) if isinstance(value, int | float) else ""
