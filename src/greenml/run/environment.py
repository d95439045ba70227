"""Reads packages, commit, command and host, once at the start of a run, in the sampler's thread."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from greenml.redaction import redact_command

PACKAGES = (
    "accelerate", "codecarbon", "datasets", "deepspeed", "flash-attn", "greenml", "jax", "keras", "lightning", "numpy",
    "nvidia-ml-py", "pandas", "peft", "pytorch-lightning", "ray", "scikit-learn", "tensorflow", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
GIT_SECONDS = 2.0
BYTES_PER_BLOCK = 512  # of ru_oublock, whatever the file system's blocks are


def command() -> list[str]:
    """Return this process's command line, masked, without the interpreter and the folders."""
    words = list(sys.argv) or [""]
    return [Path(words[0]).name, *redact_command(words[1:])]


def environment(folder: Path | None = None) -> dict[str, Any]:
    """Return the fields of the record's Environment; ``folder`` is where the program was started."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "os": platform.platform(),
        "packages": _packages(),
    }
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        facts["git_commit"] = commit
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        facts["git_dirty"] = None if changes is None else bool(changes)
    return facts


def _packages() -> dict[str, str]:
    from importlib.metadata import version

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(Exception):  # not there, or its metadata is damaged
            if isinstance(package_version := version(name), str):
                versions[name] = package_version
    return versions


def _git(folder: Path | None, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}, cwd=folder,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def host() -> dict[str, Any]:
    """Return what the record's Host keeps of this machine; quick enough for the start of a run."""
    memory_bytes = None
    with contextlib.suppress(Exception):  # a container without /proc; the sensors' notes say what is missing
        import psutil

        memory_bytes = psutil.virtual_memory().total
    return {
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": memory_bytes,
        "os": f"{platform.system()} {platform.release()}",
    }


def disk_written_bytes(*, of_children: bool = False) -> int | None:
    """Return what this process, and its children that have ended, sent to disks so far; None where that is not known.

    Args:
        of_children: without what this process wrote itself; None where they wrote nothing, as of an endpoint that is
            watched from outside.

    Source: proc(5), ``write_bytes`` of /proc/PID/io: bytes that were to be sent to the storage layer. What is written
    to memory (tmpfs), or is truncated before it was sent, differs. Of children alone: ``ru_oublock`` of getrusage(2),
    which Linux counts the same way.
    """
    if of_children:
        if sys.platform != "linux":
            return None
        import resource

        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * BYTES_PER_BLOCK or None
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
            if line.startswith("write_bytes:"):
                return int(line.partition(":")[2])
    return None


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
