"""Fine-tune a sequence-to-sequence model to summarize dialogues or documents, measured by greenml.

SAMSum, XSum, CNN/DailyMail or another data set from the hub, or a JSON-lines file with the fields ``dialogue`` and
``summary``; T5, BART, LED, Pegasus, or any other model of that kind, by name; on one device, or on many under
``deepspeed`` or ``torchrun``. The same command again continues a run that was cut off, from its last checkpoint, and
the record adds up its attempts.

Every option of ``Seq2SeqTrainingArguments`` is an option here, beside those of the task. README.md has the commands.
"""

from __future__ import annotations

import gc
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import greenml

try:
    gc.disable()  # what imports make is no garbage; looking for some takes a quarter of the start
    import batch_size
    import corpora
    import numpy as np
    import torch
    from datasets import DatasetDict
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
gc.freeze()
gc.enable()

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BEST = "eval_rougeLsum"  # what early stopping watches
IGNORED = -100  # a label that the loss leaves out
AMPERE = 8  # compute capability
PARTITIONED_PARAMETERS = 3  # the ZeRO stage
BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
CONFIGS = Path(__file__).resolve().parent / "configs"

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
            "help": "name on the hub (EdinburghNLP/xsum, abisee/cnn_dailymail), or a .jsonl file with dialogue, "
            "summary and split (train, validation, test)"
        },
    )
    source_column: str | None = field(
        default=None, metadata={"help": "what is summarized: dialogue, document, article or report unless given"}
    )
    target_column: str | None = field(
        default=None, metadata={"help": "its summary: summary, highlights or abstract unless given"}
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
    zero_stage: int | None = field(
        default=None, metadata={"help": "2 or 3: DeepSpeed with configs/zero2.json or zero3.json"}
    )
    offload_optimizer: bool = field(default=False, metadata={"help": "ZeRO keeps the optimizer in host memory"})
    offload_parameters: bool = field(default=False, metadata={"help": "ZeRO-3 keeps the parameters in host memory"})
    bucket_size: int | None = field(
        default=None, metadata={"help": "elements that ZeRO reduces, and gathers or prefetches, at a time"}
    )
    torch_adam: bool = field(
        default=False, metadata={"help": "ZeRO with PyTorch's own AdamW, so that DeepSpeed compiles nothing"}
    )
    find_batch_size: int | None = field(
        default=None, metadata={"help": "train with the largest power of two of samples that fits, up to this many"}
    )
    keep_model: bool = field(
        default=True, metadata={"help": "leave the model behind; without it the results and the card alone"}
    )
    save_predictions: bool = field(default=False, metadata={"help": "write predictions.jsonl"})
    max_usd: float | None = field(default=None, metadata={"help": "save and stop once the run has cost this much"})
    max_kg: float | None = field(default=None, metadata={"help": "save and stop once it has emitted this much CO2e"})
    max_kwh: float | None = field(default=None, metadata={"help": "save and stop once it has used this much energy"})

    def __post_init__(self) -> None:
        """Make DeepSpeed's configuration of the options; say what this machine cannot do."""
        if self.zero_stage is not None:
            self.deepspeed = deepspeed_config(self)
        if self.tf32 and not has_tf32():
            sys.exit("not possible here: tf32 needs an NVIDIA GPU of the Ampere generation or later")
        super().__post_init__()


def has_tf32() -> bool:
    """Tell whether the GPU, if there is one, multiplies in TF32."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= AMPERE


def deepspeed_config(args: Arguments) -> dict[str, Any]:
    """Return the configuration of a ZeRO stage, with what the options change."""
    if args.deepspeed:
        sys.exit("--zero_stage and --deepspeed both give a configuration: give one of them")
    path = CONFIGS / f"zero{args.zero_stage}.json"
    if not path.exists():
        sys.exit(f"--zero_stage {args.zero_stage}: 2 and 3 are there")
    if args.offload_parameters and args.zero_stage != PARTITIONED_PARAMETERS:
        sys.exit("--offload_parameters needs --zero_stage 3, which splits the parameters")
    config = json.loads(path.read_text(encoding="utf-8"))
    zero = config["zero_optimization"]
    in_host_memory = {"device": "cpu", "pin_memory": not args.use_cpu}
    if args.offload_optimizer:
        zero["offload_optimizer"] = in_host_memory
    if args.offload_parameters:
        zero["offload_param"] = in_host_memory
    if args.bucket_size is not None:
        zero |= {name: args.bucket_size for name in BUCKETS if name in zero}
    if args.torch_adam:
        config["optimizer"]["params"]["torch_adam"] = True
        config["zero_force_ds_cpu_optimizer"] = False
    return config


def command_line() -> HfArgumentParser:
    """Return what reads the command line."""
    parser = HfArgumentParser(Arguments, description=(__doc__ or "").split("\n")[0])
    parser.set_defaults(**DEFAULTS)
    return parser


def parse(arguments: list[str] | None = None) -> Arguments:
    """Read the command line."""
    parser = command_line()
    given = parser.parse_known_args(arguments)[0]
    if not given.model:
        parser.error("--model is needed: --model google-t5/t5-large")
    if given.find_batch_size is not None and (given.deepspeed or given.zero_stage is not None):
        parser.error("--find_batch_size tries a model that is whole on its device: give it without DeepSpeed")
    if (given.offload_optimizer or given.offload_parameters or given.bucket_size) and given.zero_stage is None:
        parser.error("--offload_optimizer, --offload_parameters and --bucket_size need --zero_stage 2 or 3")
    if given.patience is not None:
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


class Collator(DataCollatorForSeq2Seq):
    """Pads a batch; LED gets what it needs beside its windows, global attention of the first token."""

    def __call__(self, features: Any, return_tensors: str | None = None) -> Any:
        """Return the batch."""
        batch = super().__call__(features, return_tensors)
        if self.model.config.model_type == "led":
            batch["global_attention_mask"] = torch.zeros_like(batch["input_ids"])
            batch["global_attention_mask"][:, 0] = 1  # Beltagy et al. 2020, arXiv 2004.05150, section 6.3
        return batch


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
    """Return the trainer, and the splits as it sees them; the data set's figures go into the record."""
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
        texts = corpora.read(args.dataset, source=args.source_column, target=args.target_column, most=args.max_samples)
        splits, figures = corpora.tokenize(
            texts, tokenizer, prefix, source_length=args.max_source_length, target_length=args.max_target_length
        )
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
        data_collator=Collator(tokenizer, model=model, pad_to_multiple_of=8),
        compute_metrics=Rouge(tokenizer) if args.predict_with_generate else None,
        callbacks=callbacks,
    )
    if trainer.is_world_process_zero():
        green.run.params({f"dataset/{name}": value for name, value in figures.items()})
        green.run.params({"dataset/name": corpora.label(args.dataset)})
    return trainer, splits


def fit_batch(trainer: Seq2SeqTrainer, args: Arguments, green: Any) -> None:
    """Train with the largest batch that fits; how it was found goes into the record."""
    found = batch_size.search(trainer, args.find_batch_size)
    if not found.size:
        sys.exit("CUDA out of memory: not even one sample fits")
    set_seed(args.seed)  # the search has drawn random numbers
    if trainer.is_world_process_zero():
        print(f"batch size {found.size}, the search ended by {found.ended_by}")
        green.run.params(
            {
                "per_device_train_batch_size": found.size,
                "effective_batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
                "batch_search/tried": ", ".join(map(str, found.tried)),
                "batch_search/ended_by": found.ended_by,
            }
        )


@dataclass(frozen=True)
class Generation:
    """A batch of summaries: how long ``generate`` took, and for how many."""

    seconds: float
    samples: int


@contextmanager
def generations(trainer: Seq2SeqTrainer) -> Iterator[list[Generation]]:
    """Give the list to which each call of ``generate`` is added while the block runs."""
    model, calls = trainer.model, []
    generate = model.generate

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = generate(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        calls.append(Generation(time.perf_counter() - start, len(result)))
        return result

    model.generate = timed
    try:
        yield calls
    finally:
        del model.generate


def latencies(calls: list[Generation]) -> dict[str, float]:
    """Return mean and percentiles of a batch's time, and the samples a second, of this rank.

    The first batch, which warms up, counts only where it is the only one.
    """
    warm = calls[1:] or calls
    seconds = [call.seconds for call in warm]
    percentiles = {f"latency_seconds_p{rank}": float(np.percentile(seconds, rank)) for rank in (90, 95, 99)}
    rate = sum(call.samples for call in warm) / sum(seconds)
    return {"latency_seconds_mean": float(np.mean(seconds)), **percentiles, "requests_per_second": rate}


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


def train(trainer: Seq2SeqTrainer, args: Arguments, samples: int) -> None:
    """Train, from the last checkpoint if there is one."""
    checkpoint = args.resume_from_checkpoint or last_checkpoint(Path(args.output_dir))
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if args.keep_model:
        trainer.save_model()
    keep(trainer, "train", result.metrics, samples)
    trainer.save_state()


def predict(trainer: Seq2SeqTrainer, args: Arguments, green: Any, test: Any) -> None:
    """Summarize the test split; how long a batch takes goes into the record."""
    with generations(trainer) as calls:
        result = trainer.predict(test, metric_key_prefix="predict")
    keep(trainer, "predict", result.metrics, len(test))
    if calls and trainer.is_world_process_zero():
        green.run.params(batch_size=args.per_device_eval_batch_size)
        green.run.log(latencies(calls))
    if args.save_predictions and args.predict_with_generate:
        write_predictions(trainer, result, Path(args.output_dir, "predictions.jsonl"))


def run(args: Arguments, green: Any) -> None:
    """Train, evaluate, predict, and write the model, its results and its card."""
    trainer, splits = build(args, green)
    if args.do_train:
        if args.find_batch_size is not None:
            fit_batch(trainer, args, green)
        train(trainer, args, len(splits["train"]))
    group_by_length(args, on=False)  # predictions come in the file's order
    if args.do_eval:
        keep(trainer, "eval", trainer.evaluate(), len(splits["validation"]))
    if args.do_predict:
        predict(trainer, args, green, splits["test"])
    if not args.keep_model and trainer.is_world_process_zero():
        for checkpoint in Path(args.output_dir).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    about = {"tasks": "summarization", "dataset": corpora.label(args.dataset)}
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
