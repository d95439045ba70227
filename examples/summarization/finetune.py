"""Fine-tune a sequence-to-sequence model to summarize dialogues, measured by greenml.

SAMSum from the hub, or any JSON-lines file with the fields ``dialogue`` and ``summary``; T5, BART, or any other model
of that kind, by name; on one device, or on many under ``deepspeed`` or ``torchrun``. The same command again continues
a run that was cut off, from its last checkpoint, and the record adds up its attempts.

Every option of ``Seq2SeqTrainingArguments`` is an option here, beside those of the task. README.md has the commands.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import greenml

try:
    import numpy as np
    import torch
    from datasets import Dataset, DatasetDict, load_dataset
    from rouge_score import rouge_scorer
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        EarlyStoppingCallback,
        HfArgumentParser,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        set_seed,
    )
except ImportError as error:
    sys.exit(f"this example needs {error.name}: pip install -r requirements.txt")

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BEST = "eval_rougeLsum"  # what early stopping watches
IGNORED = -100  # a label that the loss leaves out
SPLITS = ("train", "validation", "test")

# What differs from the Trainer's own defaults; all of it can be given on the command line.
DEFAULTS = {
    "output_dir": "samsum-run",
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
    "predict_with_generate": True,
    "save_strategy": "epoch",  # a preempted run loses an epoch at most
    "save_total_limit": 2,
    "logging_steps": 50,
}
TO_FIND_THE_BEST = {
    "eval_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": BEST,
    "greater_is_better": True,
}


@dataclass
class Arguments(Seq2SeqTrainingArguments):
    """The Trainer's arguments and those of this task: together, so that the record keeps all of them."""

    model: str = field(
        default="", metadata={"help": "needed: name on the hub (google-t5/t5-3b, facebook/bart-large), or a folder"}
    )
    dataset: str = field(
        default="knkarthick/samsum",
        metadata={
            "help": "name on the hub, or a .jsonl file with dialogue, summary and split (train, validation, test)"
        },
    )
    max_samples: int | None = field(default=None, metadata={"help": "use this many of each split at most"})
    source_prefix: str | None = field(
        default=None, metadata={"help": "put before each dialogue; 'summarize: ' for T5 unless given"}
    )
    max_source_length: int = field(default=1024, metadata={"help": "tokens of a dialogue; the rest is cut off"})
    max_target_length: int = field(default=128, metadata={"help": "tokens of a summary; the rest is cut off"})
    freeze_embeddings: bool = field(default=False, metadata={"help": "train neither token nor position embeddings"})
    freeze_encoder: bool = field(
        default=False, metadata={"help": "train the decoder only (embeddings that both share stay frozen too)"}
    )
    patience: int | None = field(
        default=None, metadata={"help": "stop after this many evaluations without a better rougeLsum; keep the best"}
    )
    sortish: bool = field(default=False, metadata={"help": "batches of dialogues of about the same length"})
    save_predictions: bool = field(default=False, metadata={"help": "write predictions.jsonl"})
    max_usd: float | None = field(default=None, metadata={"help": "save and stop once the run has cost this much"})
    max_kg: float | None = field(default=None, metadata={"help": "save and stop once it has emitted this much CO2e"})
    max_kwh: float | None = field(default=None, metadata={"help": "save and stop once it has used this much energy"})


def command_line() -> HfArgumentParser:
    """Return what reads the command line."""
    parser = HfArgumentParser(Arguments, description=(__doc__ or "").split("\n")[0])
    parser.set_defaults(**DEFAULTS)
    return parser


def parse(arguments: list[str] | None = None) -> Arguments:
    """Read the command line."""
    parser = command_line()
    told = parser.parse_known_args(arguments)[0]
    if not told.model:
        parser.error("--model is needed: --model google-t5/t5-large")
    if told.patience is not None:
        parser.set_defaults(**TO_FIND_THE_BEST)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    if args.generation_max_length is None:
        args.generation_max_length = args.max_target_length
    if args.sortish:
        group_by_length(args, on=True)
    return args


def group_by_length(args: Arguments, *, on: bool) -> None:
    """Sort by length within large random groups, or not; transformers 4 and 5 name it differently."""
    if hasattr(args, "train_sampling_strategy"):
        args.train_sampling_strategy = "group_by_length" if on else "random"
    else:
        args.group_by_length = on


def is_file(args: Arguments) -> bool:
    """Tell a local file from a name on the hub."""
    return args.dataset.endswith((".jsonl", ".json"))


def read_dialogues(args: Arguments) -> DatasetDict:
    """Return the three splits, each with ``dialogue`` and ``summary``."""
    if is_file(args):
        lines = Path(args.dataset).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        found = {split: [row for row in rows if row.get("split") == split] for split in SPLITS}
        if empty := [split for split, ones in found.items() if not ones]:
            sys.exit(f'{args.dataset}: no row with "split": "{empty[0]}"')
        splits = DatasetDict({split: Dataset.from_list(ones) for split, ones in found.items()})
    else:
        splits = load_dataset(args.dataset)
    # SAMSum has a few rows without a dialogue.
    splits = DatasetDict(
        {split: splits[split].filter(lambda row: row["dialogue"] and row["summary"]) for split in SPLITS}
    )
    if args.max_samples is not None:
        splits = DatasetDict(
            {split: rows.select(range(min(args.max_samples, len(rows)))) for split, rows in splits.items()}
        )
    return splits


def tokenize(splits: DatasetDict, tokenizer: Any, prefix: str, args: Arguments) -> DatasetDict:
    """Turn dialogues and summaries into token ids, cut to the given lengths."""

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        sources = [prefix + dialogue for dialogue in rows["dialogue"]]
        encoded = tokenizer(sources, max_length=args.max_source_length, truncation=True)
        targets = tokenizer(text_target=rows["summary"], max_length=args.max_target_length, truncation=True)
        return {**encoded, "labels": targets["input_ids"]}

    return splits.map(encode, batched=True, remove_columns=splits["train"].column_names, desc="tokenize")


def freeze(model: torch.nn.Module, args: Arguments) -> None:
    """Leave out of the training what the arguments name."""
    if args.freeze_embeddings:
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in ("shared", "embed_tokens", "embed_positions"):
                module.requires_grad_(False)
    if args.freeze_encoder:
        model.get_encoder().requires_grad_(False)


def sentences(text: str) -> str:
    """Put each sentence on a line of its own: what rougeLsum takes for a sentence."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


class Rouge:
    """ROUGE in percent and the mean length of what was generated, as the Trainer asks for them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._scorer = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)

    def decode(self, ids: np.ndarray) -> list[str]:
        """Return the texts of padded rows of token ids."""
        known = np.where(ids == IGNORED, self._tokenizer.pad_token_id, ids)
        return [text.strip() for text in self._tokenizer.batch_decode(known, skip_special_tokens=True)]

    def __call__(self, evaluated: Any) -> dict[str, float]:
        """Score the predictions against the labels."""
        predicted, label_ids = evaluated.predictions, evaluated.label_ids
        pairs = zip(self.decode(label_ids), self.decode(predicted), strict=True)
        scores = [self._scorer.score(sentences(wanted), sentences(got)) for wanted, got in pairs]
        result = {name: 100.0 * float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE}
        padding = (self._tokenizer.pad_token_id, IGNORED)
        result["gen_len"] = float(np.mean(np.sum(~np.isin(predicted, padding), axis=1)))
        return {name: round(value, 4) for name, value in result.items()}


def build(args: Arguments, green: Any) -> tuple[Seq2SeqTrainer, DatasetDict]:
    """Return the trainer, and the splits as it sees them."""
    if args.deepspeed and args.use_cpu:
        # On GPUs accelerate has done it. ZeRO-3 cuts the model up while it is read, and asks how many ranks there are.
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model)
    # The Trainer takes T5 and BART for models that divide the loss by the number of items in the whole batch. They do
    # not, and the losses it logs would come out too large by the number of processes and accumulated steps.
    model.accepts_loss_kwargs = False
    freeze(model, args)
    prefix = args.source_prefix
    if prefix is None:
        prefix = "summarize: " if model.config.model_type == "t5" else ""
    with args.main_process_first(desc="tokenize"):
        splits = tokenize(read_dialogues(args), tokenizer, prefix, args)
    callbacks = [green]
    if args.patience is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=args.patience))
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        # Multiples of 8 suit tensor cores.
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, pad_to_multiple_of=8),
        compute_metrics=Rouge(tokenizer) if args.predict_with_generate else None,
        callbacks=callbacks,
    )
    return trainer, splits


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that is whole: the Trainer writes its state last, a preemption may come before."""
    states = folder.glob("checkpoint-*/trainer_state.json")
    steps = {int(path.parent.name.rpartition("-")[2]): path.parent for path in states}
    return str(steps[max(steps)]) if steps else None


def keep(trainer: Seq2SeqTrainer, split: str, metrics: dict[str, float], samples: int) -> None:
    """Print the results and write them, also into all_results.json."""
    metrics = {**metrics, f"{split}_samples": samples}
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)


def write_predictions(trainer: Seq2SeqTrainer, result: Any, path: Path) -> None:
    """Write each summary beside the one it was to be."""
    if not trainer.is_world_process_zero():
        return
    decode = Rouge(trainer.processing_class).decode
    with path.open("w", encoding="utf-8") as file:
        for wanted, got in zip(decode(result.label_ids), decode(result.predictions), strict=True):
            file.write(json.dumps({"summary": wanted, "predicted": got}, ensure_ascii=False) + "\n")


def run(args: Arguments, green: Any) -> None:
    """Train, evaluate, predict, and write the model, its results and its card."""
    trainer, splits = build(args, green)
    if args.do_train:
        checkpoint = args.resume_from_checkpoint or last_checkpoint(Path(args.output_dir))
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        keep(trainer, "train", result.metrics, len(splits["train"]))
        trainer.save_state()
    group_by_length(args, on=False)  # predictions come in the file's order
    if args.do_eval:
        keep(trainer, "eval", trainer.evaluate(), len(splits["validation"]))
    if args.do_predict:
        result = trainer.predict(splits["test"], metric_key_prefix="predict")
        keep(trainer, "predict", result.metrics, len(splits["test"]))
        if args.save_predictions and args.predict_with_generate:
            write_predictions(trainer, result, Path(args.output_dir, "predictions.jsonl"))
    about = {"tasks": "summarization", "dataset": Path(args.dataset).stem if is_file(args) else args.dataset}
    if args.push_to_hub:
        trainer.push_to_hub(**about)
    else:
        trainer.create_model_card(**about)


def main() -> None:
    """Read the command line and run."""
    args = parse()
    output = Path(args.output_dir)
    if args.do_train and (output / "README.md").exists():
        print(f"{output} holds a finished run; for another one give another --output_dir")
        return
    # First, so that the loading of model and data counts; with resume an attempt that was cut off counts too.
    green = greenml.GreenCallback(resume=True, max_usd=args.max_usd, max_kg=args.max_kg, max_kwh=args.max_kwh)
    set_seed(args.seed)
    run(args, green)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
