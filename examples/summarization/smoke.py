"""Attempt ``finetune.py`` without a GPU and without a network: a tiny model, real DeepSpeed, ranks on the CPU.

Makes a T5, BART, LED, Pegasus or BigBird-Pegasus of a few hundred thousand random weights and a tokenizer from
``data/dialogues.jsonl``, and starts ``finetune.py`` on them with ``torchrun`` or ``deepspeed``, with all that DeepSpeed
needs on a CPU. What comes out is what a real run leaves: run.json, all_results.json, the model and its card. What it
says about dialogues is nonsense.

DeepSpeed compiles parts of itself with g++ and ninja, once (a minute or two). Without them, or with
``--no-compile``, the run uses PyTorch's own optimizer and communication.

Usage: ``python smoke.py --model t5 --zero 2 --ranks 2 --output smoke-run``
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DIALOGUES = HERE / "data" / "dialogues.jsonl"
VOCABULARY = 800
WIDTH, LAYERS, HEADS = 64, 2, 4
LONGEST = 512  # tokens
LIKE_BART = ("bart", "led")  # in their special tokens
# The name of a kind's classes, and what its configuration has beside the size.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {}),
    "bart": ("Bart", {"max_position_embeddings": LONGEST}),
    "pegasus": ("Pegasus", {"max_position_embeddings": LONGEST}),
    "led": (
        "LED",
        {
            "attention_window": 64,
            "max_encoder_position_embeddings": LONGEST,
            "max_decoder_position_embeddings": LONGEST,
        },
    ),
    "bigbird_pegasus": (
        "BigBirdPegasus",
        {
            "max_position_embeddings": LONGEST,
            "block_size": 16,
            "num_random_blocks": 2,
            "attention_type": "block_sparse",
        },
    ),
}
STEPS = 24
STALE_SECONDS = 600  # no compilation takes that long: its lock is that of a process that was killed
LIMIT_SECONDS = 900


def options() -> argparse.Namespace:
    """Read the command line; what comes after ``--`` goes to finetune.py."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=tuple(ARCHITECTURES), default="t5", help="which kind of tiny model (t5)")
    parser.add_argument("--zero", type=int, choices=(2, 3), default=2, help="DeepSpeed's ZeRO stage (2)")
    parser.add_argument("--offload", action="store_true", help="optimizer (and under ZeRO-3 parameters) in host memory")
    parser.add_argument("--ranks", type=int, default=2, help="processes (2)")
    parser.add_argument("--launcher", choices=("torchrun", "deepspeed"), default="torchrun", help="(torchrun)")
    parser.add_argument(
        "--output", type=Path, default=Path("smoke-run"), help="folder for all that is made (smoke-run)"
    )
    parser.add_argument("--no-compile", action="store_true", help="do without DeepSpeed's C++ parts")
    parser.add_argument("more", nargs="*", help="after --: more options for finetune.py")
    return parser.parse_args()


def make_tokenizer(kind: str, folder: Path) -> dict[str, int]:
    """Write a tokenizer trained on the dialogues; returns the ids that a model's configuration names."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    like_bart = kind in LIKE_BART
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if like_bart else ["<pad>", "</s>", "<unk>"]
    number = {token: place for place, token in enumerate(special)}
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    rows = [json.loads(line) for line in DIALOGUES.read_text(encoding="utf-8").splitlines()]
    texts = [text for row in rows for text in (row["dialogue"], row["summary"])]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    around = "<s> $A </s>" if like_bart else "$A </s>"
    ends = [(token, number[token]) for token in ("<s>", "</s>") if token in number]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ends)
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if like_bart:
        names |= {"bos_token": "<s>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **names).save_pretrained(folder)
    ids = {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": number["<pad>"], "eos_token_id": number["</s>"]}
    if like_bart:
        return ids | {"bos_token_id": 0, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    return ids | {"decoder_start_token_id": number["<pad>"]}


def make_model(kind: str, folder: Path) -> None:
    """Write a tokenizer trained on the dialogues, and a model with random weights."""
    try:  # here: --help needs none of it
        import transformers
    except ImportError as error:
        sys.exit(f"this example needs {error.name}: pip install -r requirements.txt")

    transformers.set_seed(1)
    ids = make_tokenizer(kind, folder)
    name, more = ARCHITECTURES[kind]
    if kind == "t5":
        shape = {"d_kv": WIDTH // HEADS, "d_ff": 4 * WIDTH, "num_layers": LAYERS, "num_heads": HEADS}
    else:
        halves = ("encoder", "decoder")
        each = {"layers": LAYERS, "attention_heads": HEADS, "ffn_dim": 4 * WIDTH}
        shape = {f"{half}_{part}": size for half in halves for part, size in each.items()}
    config = getattr(transformers, f"{name}Config")(d_model=WIDTH, **shape, **more, **ids)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    model.generation_config.no_repeat_ngram_size = 1  # else it says its favourite word over and over
    model.save_pretrained(folder)


def extensions_folder() -> Path:
    """Return where DeepSpeed's compiled parts are kept; a lock that a killed process left is removed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "greenml", "torch_extensions")
    made_for = "-".join((sys.implementation.cache_tag, version("torch"), version("deepspeed")))
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / made_for)
    folder.mkdir(parents=True, exist_ok=True)
    for lock in folder.glob("*/lock"):
        if time.time() - lock.stat().st_mtime > STALE_SECONDS:
            lock.unlink(missing_ok=True)
    return folder


def environment() -> dict[str, str]:
    """Return this process's environment with what DeepSpeed needs on a CPU."""
    programs = str(Path(sys.executable).parent)  # ninja lies beside Python where pip installed it
    return {
        **os.environ,
        "PATH": os.pathsep.join((programs, os.environ.get("PATH", ""))),
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_EXTENSIONS_DIR": str(extensions_folder()),
        "TORCHDYNAMO_DISABLE": "1",  # nothing here is compiled by PyTorch; DeepSpeed would import what compiles
    }


def has_compiler(path: str) -> bool:
    """Tell whether DeepSpeed can compile its C++ parts."""
    return all(shutil.which(program, path=path) for program in ("g++", "ninja"))


def deepspeed_config(given: argparse.Namespace, *, compiles: bool) -> Path:
    """Return the configuration, without what would have to be compiled where that cannot be."""
    path = HERE / "configs" / f"zero{given.zero}{'-offload' if given.offload else ''}.json"
    if compiles:
        return path
    config = json.loads(path.read_text(encoding="utf-8"))
    config["optimizer"]["params"]["torch_adam"] = True
    config["zero_force_ds_cpu_optimizer"] = False
    changed = given.output / "ds_config.json"
    changed.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return changed


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(given: argparse.Namespace, *, compiles: bool) -> list[str]:
    """Return the launch of finetune.py."""
    port = str(free_port())
    if given.launcher == "torchrun":
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(given.ranks)]
    else:
        launch = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(given.ranks)]
    script = HERE / "finetune.py" if compiles else HERE / "smoke.py"
    launch += ["--master_port", port, str(script)]
    return [
        *launch,
        *("--model", str(given.output / "tiny-model")),
        *("--dataset", str(DIALOGUES)),
        *("--output_dir", str(given.output)),
        *("--deepspeed", str(deepspeed_config(given, compiles=compiles))),
        *("--use_cpu", "true"),
        *(("--ddp_backend", "gloo") if given.ranks > 1 else ()),
        *("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4"),
        *("--max_steps", str(STEPS), "--warmup_steps", "4", "--learning_rate", "5e-3"),
        *("--save_strategy", "steps", "--save_steps", str(STEPS // 2), "--logging_steps", str(STEPS // 4)),
        *("--max_source_length", "96", "--max_target_length", "24"),
        *("--save_predictions", "--disable_tqdm", "true"),
        *given.more,
    ]


def without_compiler() -> None:
    """Be a rank: run finetune.py with DeepSpeed's C++ communication switched off."""
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder.is_compatible = lambda *_, **__: False
    sys.path.insert(0, str(HERE))
    import finetune

    finetune.main()


def main() -> int:
    """Make the model, launch, and pass the exit code on."""
    given = options()
    given.output = given.output.resolve()
    given.output.mkdir(parents=True, exist_ok=True)
    settings = environment()
    compiles = not given.no_compile and has_compiler(settings["PATH"])
    if not (given.output / "tiny-model").exists():
        make_model(given.model, given.output / "tiny-model")
    launched = subprocess.Popen(command(given, compiles=compiles), env=settings)
    try:
        return launched.wait(LIMIT_SECONDS)
    finally:
        if launched.poll() is None:
            launched.terminate()  # the launcher ends its ranks
            launched.wait(60)


if __name__ == "__main__":
    if "RANK" in os.environ:
        without_compiler()
    else:
        sys.exit(main())
