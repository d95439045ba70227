"""What ran: packages, commit, command, host. Read once at the start of a run, in the sampler's thread."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "accelerate", "codecarbon", "datasets", "deepspeed", "flash-attn", "greenml", "jax", "keras", "lightning", "numpy",
    "nvidia-ml-py", "pandas", "peft", "pytorch-lightning", "ray", "scikit-learn", "tensorflow", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
GIT_SECONDS = 2.0
_HIDDEN = (
    r"(?:token|secret|passw|pwd|credential|api.?key|access.?key|account.?key|shared.?key|auth|signature"
    r"|(?<![a-z])sas(?![a-z])|(?<![a-z])key(?![a-z]))"
)
_SECRET_NAME = re.compile(_HIDDEN, re.IGNORECASE)
# name=value or "name": "value" within a word: a URL's query, a connection string, a header, JSON
_PAIR = re.compile(
    rf"""([\w.-]*{_HIDDEN}[\w.-]*["']?\s*[=:]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s&;,"'{{}}]+""", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"(hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|ghp_[A-Za-z0-9]{8,}|github_pat_\w{8,}|AKIA[A-Z0-9]{8,}|xox[abp]-[\w-]{8,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|(?<=://)[^/\s]+(?=@)|(?<=sig=)[^&\s]+)"
)
MASK = "***"
KEYS = ("ELECTRICITY_MAPS_TOKEN", "WATTTIME_USERNAME", "WATTTIME_PASSWORD")  # whatever word of a command holds them


def masked(command: list[str]) -> list[str]:
    """Return a command line with the values of secret-looking options, and secret-looking values, masked."""
    shown: list[str] = []
    hide_next = False
    keys = [key for name in KEYS if len(key := os.environ.get(name, "").strip()) >= 8]
    for word in _without(keys, command):
        name, equals, value = word.partition("=")
        if hide_next and not word.startswith("-"):
            shown.append(MASK)
            hide_next = False
            continue
        hide_next = False
        if equals and value and _SECRET_NAME.search(name):
            shown.append(f"{name}={MASK}")
            continue
        if word.startswith("-") and not equals and _SECRET_NAME.search(word):
            hide_next = True
        shown.append(_PAIR.sub(rf"\1{MASK}", _SECRET_VALUE.sub(MASK, word)))
    return shown


def _without(keys: list[str], words: list[str]) -> list[str]:
    for key in keys:
        words = [word.replace(key, MASK) for word in words]
    return words


def command() -> list[str]:
    """Return this process's command line, masked, without the interpreter and the folders."""
    words = list(sys.argv) or [""]
    return [Path(words[0]).name, *masked(words[1:])]


def environment() -> dict[str, Any]:
    """Return what ran, as the record's Environment keeps it."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "os": platform.platform(),
        "packages": _packages(),
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        found["git_commit"] = commit
        changes = _git("status", "--porcelain", "--untracked-files=no")
        found["git_dirty"] = None if changes is None else bool(changes)
    return found


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(Exception):  # not there, or its metadata is damaged
            if isinstance(told := version(name), str):
                found[name] = told
    return found


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def host() -> dict[str, Any]:
    """Return what the record's Host keeps of this machine; quick enough for the start of a run."""
    import psutil

    return {
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
