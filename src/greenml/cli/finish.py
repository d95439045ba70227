"""``greenml finish``: writes the record of a run that ended without one."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("finish")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Write RUN.JSON from the traces that a killed run left.

    A preempted run is one too.
    """
    from greenml.errors import RecordError
    from greenml.run import finish
    from greenml.trace import run_dir_of, trace_paths

    run_dir = path.resolve() if path.is_dir() else run_dir_of(path)
    output = run_dir.with_suffix(".json") if path.is_dir() else path
    if not run_dir.is_dir():
        raise RecordError(f"{path}: no trace folder {run_dir} to finish it from")
    if not trace_paths(run_dir):
        raise RecordError(f"{run_dir}: no trace in it")
    record = finish.finish(run_dir, output)
    attempts = f"{len(record.attempts)} attempt{'s' if len(record.attempts) != 1 else ''}"
    click.echo(f"{output}: {record.status}, {attempts}, {record.duration_seconds:.1f} s")
