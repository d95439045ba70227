"""``greenml merge``: joins what the nodes of a run left into one record."""

from __future__ import annotations

from pathlib import Path

import click

from greenml.errors import RecordError

_FILE = click.Path(path_type=Path)


@click.command("merge")
@click.argument("sources", metavar="RUN.TRACE...", nargs=-1, required=True, type=_FILE)
@click.option("--output", type=_FILE, default="run.json", show_default=True, help="Where the record goes.")
@click.option(
    "--skew", multiple=True, metavar="HOST=SECONDS", help="How far a host's clock was ahead; for each such host."
)
@click.option("--force", is_flag=True, help="Replace an existing output.")
def command(sources: tuple[Path, ...], output: Path, skew: tuple[str, ...], force: bool) -> None:
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
    attempts = f"{len(record.attempts)} attempt{'s' if len(record.attempts) != 1 else ''}"
    names = ", ".join(host.name for host in record.hosts)
    click.echo(f"{output}: {nodes} ({names}), {attempts}, {record.duration_seconds:.1f} s")


def _skew(text: str) -> tuple[str, float]:
    host, _, seconds = text.partition("=")
    try:
        if host:
            return host, float(seconds)
    except ValueError:
        pass
    raise RecordError(f"--skew {text}: must be HOST=SECONDS, such as node-b=12.5")
