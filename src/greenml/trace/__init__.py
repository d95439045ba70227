"""The trace: what one process of a run appends to its file, written and read.

Where a run's traces are is known here: whoever looks for a record or a trace needs nothing else of this package.
"""

from __future__ import annotations

from pathlib import Path


def run_dir_of(output: Path) -> Path:
    """Return the run directory that belongs to a run.json: ``run.json`` has ``run.trace``."""
    return output.with_suffix(".trace")


def trace_paths(run_dir: Path) -> list[Path]:
    """Return the traces of a run directory, in the order of their names."""
    return sorted(run_dir.glob("*.jsonl"))
