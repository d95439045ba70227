"""``greenml finish`` and ``greenml merge``: write the record of a run from the traces that its processes left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from greenml.errors import RecordError

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord

_FILE = click.Path(path_type=Path)


@click.command("finish")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=_FILE)
def command(path: Path) -> None:
    """Write RUN.JSON from the traces that a killed run left.

    A preempted run is one too.
    """
    from greenml.run import finish
    from greenml.trace import run_dir_of, trace_paths

    run_dir = path.resolve() if path.is_dir() else run_dir_of(path)
    output = run_dir.with_suffix(".json") if path.is_dir() else path
    if not run_dir.is_dir():
        raise RecordError(f"{path}: no trace folder {run_dir} to finish it from")
    if not trace_paths(run_dir):
        raise RecordError(f"{run_dir}: no trace in it")
    record = finish.finish(run_dir, output)
    click.echo(f"{output}: {record.status}, {_length(record)}")


@click.command("merge")
@click.argument("sources", metavar="RUN.TRACE...", nargs=-1, required=True, type=_FILE)
@click.option("--output", type=_FILE, default="run.json", show_default=True, help="Where the record goes.")
@click.option(
    "--skew", multiple=True, metavar="HOST=SECONDS", help="How far a host's clock was ahead; for each such host."
)
@click.option("--force", is_flag=True, help="Replace an existing output.")
def merge(sources: tuple[Path, ...], output: Path, skew: tuple[str, ...], force: bool) -> None:
    """Merge the traces of a run's nodes into one record.

    The nodes' trace folders were copied to this machine. Each RUN.TRACE is a folder of traces, a folder that holds
    one, or a single trace. They are only read.
    """
    from greenml.run import gather
    from greenml.trace import run_dir_of

    if output.suffix != ".json":
        raise RecordError(f"output {output}: must end in .json")
    for taken in (output, run_dir_of(output)):
        if taken.exists() and not force:
            raise RecordError(f"output {taken} exists; give another --output, or --force to replace it")
    record = gather.merge(list(sources), output, skew_seconds=dict(map(_skew, skew)), replace=force)
    nodes = f"{len(record.hosts)} node{'s' if len(record.hosts) != 1 else ''}"
    names = ", ".join(host.name for host in record.hosts)
    click.echo(f"{output}: {nodes} ({names}), {_length(record)}")


def _length(record: RunRecord) -> str:
    attempts = f"{len(record.attempts)} attempt{'s' if len(record.attempts) != 1 else ''}"
    return f"{attempts}, {record.duration_seconds:.1f} s"


def _skew(text: str) -> tuple[str, float]:
    host, _, seconds = text.partition("=")
    try:
        if host:
            return host, float(seconds)
    except ValueError:
        pass
    raise RecordError(f"--skew {text}: must be HOST=SECONDS, such as node-b=12.5")
