"""Stand in for a cell's launch in ``greenml study run --smoke``: tiny models, ranks on the CPU, no network.

Makes, once, tiny random models of every architecture of the study and documents that are too long for some of them.
Then it becomes the launch of ``finetune.py`` with the options that follow ``--``: Python itself for one rank,
``torchrun`` or ``deepspeed`` for more. DeepSpeed compiles nothing.

Usage: ``python smoke.py --model bart --ranks 2 --output DIR -- --zero_stage 2``
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "summarization"
sys.path.insert(0, str(EXAMPLE))
import smoke as summarization  # noqa: E402  the smoke of the example beside this one

DOCUMENTS = "documents.jsonl"
DIALOGUES_IN_A_DOCUMENT = 6


def options() -> argparse.Namespace:
    """Read the command line; what comes after ``--`` goes to finetune.py."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    kinds = tuple(summarization.ARCHITECTURES)
    parser.add_argument("--model", choices=kinds, default="bart", help="which kind of tiny model (bart)")
    parser.add_argument(
        "--dataset", choices=("dialogues", "documents"), default="dialogues", help="documents are six dialogues each"
    )
    parser.add_argument("--ranks", type=int, default=1, help="processes (1)")
    parser.add_argument("--launcher", choices=("torchrun", "deepspeed"), default="torchrun", help="of ranks (torchrun)")
    parser.add_argument("--output", type=Path, required=True, help="finetune.py's --output_dir")
    parser.add_argument("more", nargs="*", help="after --: options of finetune.py")
    return parser.parse_args()


def materials() -> Path:
    """Return the folder with the tiny models and the documents, made when it is first asked for."""
    made_by = b"".join(path.read_bytes() for path in (Path(__file__), EXAMPLE / "smoke.py", summarization.DIALOGUES))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "greenml", "study-smoke")
    folder = cache / hashlib.sha256(made_by).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # cells that start side by side: the others wait
        if not folder.exists():
            part = Path(tempfile.mkdtemp(dir=cache))
            with contextlib.redirect_stdout(sys.stderr):
                for kind in summarization.ARCHITECTURES:
                    summarization.make_model(kind, part / kind)
            write_documents(part / DOCUMENTS)
            part.chmod(0o755)
            part.rename(folder)
            for other in cache.iterdir():  # of earlier versions
                if other.is_dir() and other != folder:
                    shutil.rmtree(other, ignore_errors=True)
    return folder


def write_documents(path: Path) -> None:
    """Write a document for each dialogue: it and the five that follow it in its split, with all their summaries."""
    lines = summarization.DIALOGUES.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    with path.open("w", encoding="utf-8") as file:
        for split in ("train", "validation", "test"):
            of_split = [row for row in rows if row["split"] == split]
            for place in range(len(of_split)):
                parts = [of_split[(place + step) % len(of_split)] for step in range(DIALOGUES_IN_A_DOCUMENT)]
                document = {
                    "split": split,
                    "dialogue": "\n".join(part["dialogue"] for part in parts),
                    "summary": " ".join(part["summary"] for part in parts),
                }
                file.write(json.dumps(document, ensure_ascii=False) + "\n")


def launch(given: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command."""
    dataset = folder / DOCUMENTS if given.dataset == "documents" else summarization.DIALOGUES
    command = [sys.executable]
    if given.ranks > 1:
        command += {
            "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", str(given.ranks)],
            "deepspeed": ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(given.ranks)],
        }[given.launcher]
        command += ["--master_port", str(summarization.free_port()), str(EXAMPLE / "smoke.py"), "--ddp_backend", "gloo"]
    else:
        command += [str(EXAMPLE / "finetune.py")]
    command += ["--model", str(folder / given.model), "--dataset", str(dataset), "--output_dir", str(given.output)]
    return [*command, "--use_cpu", "true", "--disable_tqdm", "true", *given.more]


def main() -> None:
    """Become the launch."""
    given = options()
    command = launch(given, materials())
    os.execve(command[0], command, summarization.environment())


if __name__ == "__main__":
    main()
