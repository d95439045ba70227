"""Data sets to summarize: by name on the hub or from a file, with their figures, as token ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

SPLITS = ("train", "validation", "test")
SOURCE_COLUMNS = ("dialogue", "document", "article", "report", "text")
TARGET_COLUMNS = ("summary", "highlights", "abstract")
CONFIGURATIONS = {"abisee/cnn_dailymail": "3.0.0"}  # the version without anonymized names
FIGURES = ("source_words", "source_tokens", "target_words", "target_tokens", "truncated")


def is_file(name: str) -> bool:
    """Tell a local file from a name on the hub."""
    return name.endswith((".jsonl", ".json"))


def label(name: str) -> str:
    """Return what a data set is called in a record or a card."""
    return Path(name).stem if is_file(name) else name


def read(name: str, *, source: str | None, target: str | None, most: int | None) -> DatasetDict:
    """Return the three splits, each with ``dialogue`` and ``summary``.

    Args:
        name: on the hub, or a file of JSON lines.
        source: the column to summarize; None takes the usual one that is there.
        target: the column with the summary; likewise.
        most: use this many of each split at most.
    """
    if is_file(name):
        lines = Path(name).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        rows_of = {split: [row for row in rows if row.get("split") == split] for split in SPLITS}
        if empty := [split for split, split_rows in rows_of.items() if not split_rows]:
            sys.exit(f'{name}: no row with "split": "{empty[0]}"')
        splits = DatasetDict({split: Dataset.from_list(split_rows) for split, split_rows in rows_of.items()})
    else:
        splits = load_dataset(name, CONFIGURATIONS.get(name))
    for column, given, usual in (("dialogue", source, SOURCE_COLUMNS), ("summary", target, TARGET_COLUMNS)):
        present = splits["train"].column_names
        chosen = given or next((known for known in usual if known in present), None)
        if chosen not in present:
            option = "--source_column" if column == "dialogue" else "--target_column"
            wanted = chosen or " or ".join(usual)
            sys.exit(f"{name}: no column {wanted}; its columns are {', '.join(present)}: give one by {option}")
        if chosen != column:
            splits = splits.rename_column(chosen, column)
    # SAMSum has a few rows without a dialogue.
    splits = DatasetDict(
        {split: splits[split].filter(lambda row: row["dialogue"] and row["summary"]) for split in SPLITS}
    )
    if most is None:
        return splits
    return DatasetDict({split: rows.select(range(min(most, len(rows)))) for split, rows in splits.items()})


def tokenize(
    splits: DatasetDict, tokenizer: Any, prefix: str, *, source_length: int, target_length: int
) -> tuple[DatasetDict, dict[str, float]]:
    """Turn texts into token ids, cut to the given lengths.

    Returns:
        The splits, and their figures as ``train/samples``, ``train/source_words_mean`` and so on. Words lie between
        white space. Tokens are those of the tokenizer with the prefix and its end marks, before anything is cut off.
        ``truncated_ratio`` is the share of sources that are cut.
    """
    count = _counter(tokenizer)

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        sources, targets = [prefix + text for text in rows["dialogue"]], rows["summary"]
        source_tokens = count(sources)
        return {
            **tokenizer(sources, max_length=source_length, truncation=True),
            "labels": tokenizer(text_target=targets, max_length=target_length, truncation=True)["input_ids"],
            "source_words": [len(text.split()) for text in rows["dialogue"]],
            "source_tokens": source_tokens,
            "target_words": [len(text.split()) for text in targets],
            "target_tokens": count(targets),
            "truncated": [tokens > source_length for tokens in source_tokens],
        }

    encoded = splits.map(encode, batched=True, remove_columns=splits["train"].column_names, desc="tokenize")
    figures: dict[str, float] = {}
    for split, rows in encoded.items():
        figures[f"{split}/samples"] = len(rows)
        for name in FIGURES:
            values = rows[name]
            figures[f"{split}/{name}_{'ratio' if name == 'truncated' else 'mean'}"] = round(sum(values) / len(rows), 4)
    return encoded.remove_columns(list(FIGURES)), figures


def _counter(tokenizer: Any) -> Callable[[list[str]], list[int]]:
    """Return what counts the tokens of whole texts; that they are longer than the model takes is no news."""
    return lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
