"""``greenml send``: delivers the record of a run to a sink."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("send")
@click.argument("path", metavar="RUN.JSON", default="run.json", type=click.Path(path_type=Path))
@click.option(
    "--sink", "names", multiple=True, required=True, metavar="SINK",
    help="mlflow, wandb, trackio, tensorboard:FOLDER, opentelemetry, prometheus:/DIR/FILE.prom, "
    "prometheus:push=http://HOST:9091; may be repeated.",
)  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds, for each.")
def command(path: Path, names: tuple[str, ...], timeout: float) -> int:
    """Deliver a record to a sink, again or for the first time.

    A sink that has it already stays as it is.
    """
    from greenml import sinks
    from greenml.analysis import record_search
    from greenml.errors import SettingsError
    from greenml.redaction import redact_text

    record = record_search.open_record(path)
    made = [(redact_text(name), sinks.create(name)) for name in names]
    for name, sink in made:
        if getattr(sink, "lives_with_process", False):
            raise SettingsError(f"{name}: a page ends with this command; give prometheus:/DIR/FILE.prom")
    failed = False
    for name, sink in made:
        failure = sinks.send(sink, record, timeout)
        if failure:
            click.echo(f"greenml: sink {name}: {failure}", err=True)
            failed = True
        else:
            click.echo(f"greenml: {path} was delivered to {name}", err=True)
    return 2 if failed else 0
