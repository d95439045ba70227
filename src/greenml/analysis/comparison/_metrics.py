"""What a model's results are called, which way is better, and which of them runs are compared by."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from greenml.errors import SettingsError
from greenml.record import RunRecord

MOST_METRICS = 3  # shown where none was asked for

# Best known first; a name counts by its words, without what it was computed on (eval_, test_).
HIGHER = (
    "rougel", "rouge2", "rouge1", "rougelsum", "rouge", "bleu", "sacrebleu", "meteor", "chrf", "bertscore", "f1",
    "accuracy", "acc", "em", "exact_match", "precision", "recall", "mcc", "matthews_correlation", "auc", "auroc",
    "roc_auc", "map", "ndcg", "mrr", "iou", "miou", "dice", "pearson", "spearman", "spearmanr", "psnr", "ssim", "r2",
    "kappa", "win_rate", "reward",
)  # fmt: skip
LOWER = (
    "loss", "perplexity", "ppl", "error", "wer", "cer", "ter", "mae", "mse", "rmse", "mape", "nll", "bpc",
    "bits_per_byte", "fid",
)  # fmt: skip
SETS = ("eval", "test", "predict", "val", "valid", "validation", "dev", "train", "training")
# What a Trainer logs beside the results: how long, how fast, how many.
NO_RESULTS = (
    "runtime",
    "samples",
    "steps",
    "second",
    "seconds",
    "epoch",
    "flos",
    "len",
    "length",
    "step",
    "time",
    "lr",
)


def number(value: object) -> float | None:
    """Return a logged value as a number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _words(name: str) -> list[str]:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    return [word for word in words if word not in SETS]


def _has(name: str, known: str) -> bool:
    return f"_{known}_" in f"_{'_'.join(_words(name))}_"


def direction(name: str) -> Literal["higher", "lower"] | None:
    """Return which way a metric is better; None where its name does not tell, or tells both."""
    higher = any(_has(name, one) for one in HIGHER) or any(word.startswith("rouge") for word in _words(name))
    lower = any(_has(name, one) for one in LOWER)
    return None if higher == lower else ("higher" if higher else "lower")


def _rank(name: str) -> tuple[int, int, str]:
    """Order metrics: the best known first, an evaluation's before the training's."""
    known = (*HIGHER, *LOWER)
    place = next((index for index, one in enumerate(known) if _has(name, one)), len(known))
    words = re.split(r"[^a-z0-9]+", name.lower())
    of = next((index for index, one in enumerate(SETS) if one in words), 0)
    return place, of, name


def available(records: Sequence[RunRecord]) -> dict[str, int]:
    """Return every numeric metric, with how many runs have it."""
    return Counter(name for one in records for name, value in one.metrics.items() if number(value) is not None)


def choose(records: Sequence[RunRecord], asked: Sequence[str]) -> list[str]:
    """Return the metrics to compare by: those asked for, else the best known that the runs share.

    Raises:
        SettingsError: no run has a metric that was asked for.
    """
    counts = available(records)
    check(asked, records)
    if asked:
        return list(dict.fromkeys(asked))
    results = [name for name in counts if not set(_words(name)) & set(NO_RESULTS)]
    most = max((counts[name] for name in results), default=0)
    shared = [name for name in results if counts[name] == most and (most > 1 or len(records) == 1)]
    known = [name for name in shared if direction(name)]
    return sorted(known or shared, key=_rank)[:MOST_METRICS]


def check(names: Iterable[str], records: Sequence[RunRecord]) -> None:
    """Check that each metric whose direction was given is one that some run has.

    Raises:
        SettingsError: it is not.
    """
    counts = available(records)
    for name in names:
        if name not in counts:
            near = difflib.get_close_matches(name, counts, 3, 0.4) or sorted(counts)[:10]
            there = f"there are {', '.join(near)}" if near else "no run logged any"
            raise SettingsError(f"no run has the metric {name!r}; {there}")
