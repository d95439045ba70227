"""The environment of trainings that tests launch."""

from __future__ import annotations

import os
from pathlib import Path

DROPPED = ("CUDA_", "GREENML_", "COVERAGE_")


def environment() -> dict[str, str]:
    """Return this process's, where nothing steers greenml or CUDA, and no rank imports MLflow for DeepSpeed's tuner."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    path = os.pathsep.join(filter(None, (str(Path(__file__).with_name("without")), kept.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}  # SIGABRT prints the stacks of all threads
