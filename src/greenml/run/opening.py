"""open_record(): the record at a path. What makes a record of traces is loaded only where there is none to read."""

from __future__ import annotations

import os
from pathlib import Path

from greenml.record import file as record_file
from greenml.record.schema import RunRecord
from greenml.trace import run_dir_of, trace_paths


def open_record(path: str | os.PathLike[str]) -> RunRecord:
    """Return the record at a path: of a run.json, of a run directory, or of the traces beside a missing run.json.

    A run.json that is older than its traces, or says that the run is running, is made again in memory.

    Raises:
        RecordError: there is neither, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        inside = path / "run.json"
        return open_record(inside) if inside.exists() or run_dir_of(inside).is_dir() else _made(path)
    run_dir = run_dir_of(path)
    newest = max((path.stat().st_mtime for path in trace_paths(run_dir)), default=0.0)
    if newest and (not path.exists() or path.stat().st_mtime < newest):
        return _made(run_dir)
    record = record_file.read(path)
    if newest and record.status == "running":  # the process that would have written the end of it may be dead
        return _made(run_dir)
    return record


def _made(run_dir: Path) -> RunRecord:
    from greenml.run import finish

    return finish.make(run_dir)
