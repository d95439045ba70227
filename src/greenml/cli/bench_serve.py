"""``greenml bench-serve``: latency, energy, carbon and cost of an endpoint under load."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml.cli import _terminal
from greenml.cli._options import assumed, formats, intensity
from greenml.errors import RecordError, SettingsError

if TYPE_CHECKING:
    from greenml.analysis.serving_bench import BenchRow, Endpoint, Load, Stage
    from greenml.record.schema import RunRecord
    from greenml.run.track import Run

CONCURRENCIES = "1,2,4,8,16,32,64"
MOST_CLIENTS = 10_000
MOST_REQUESTS = 900_000  # hey keeps the answers of a million
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
PROTOCOLS = ("ai-energy-score",)
SCORE_PROMPTS, SCORE_REPEATS = 1000, 10


@click.command("bench-serve")
@click.argument("url", metavar="URL")
@click.option(
    "--clients", default=CONCURRENCIES, show_default=True, metavar="LIST", help="How many ask at once, a load each."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.5, max=86400), metavar="SECONDS", help="Of each load; 10 by default."
)
@click.option(
    "--requests", type=click.IntRange(min=1, max=MOST_REQUESTS), metavar="N",
    help="Of each load, in place of --seconds; rounded up to as many from each client.",
)  # fmt: skip
@click.option("--data", metavar="TEXT|@FILE", help="The body that is sent; the request is then a POST.")
@click.option("--header", "headers", multiple=True, metavar="NAME: VALUE", help="Sent too; may be repeated.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, metavar="SECONDS",
    help="Of each request.",
)  # fmt: skip
@click.option("--metrics", "metrics_url", default="", metavar="URL", help="The server's metrics page, for its tokens.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="1,000 prompts of --bodies one by one, ten times over.")
@click.option("--bodies", type=click.Path(path_type=Path), metavar="FILE.JSONL", help="With --protocol: a body a line.")
@click.option(
    "--prompts", type=click.IntRange(min=1), default=SCORE_PROMPTS, show_default=True, help="With --protocol."
)
@click.option(
    "--repeats", type=click.IntRange(min=1, max=1000), default=SCORE_REPEATS, show_default=True, help="With --protocol."
)
@formats(markdown="A table.", json="All figures.", csv="A row for each load, in SI units.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the record goes; bench.json by default.")
@click.option("--name", metavar="NAME", help="Of the run.")
@click.option("--gpus", metavar="LIST", help="'all' of the node, or a list: 0,1; those CUDA shows by default.")
@intensity
@assumed
def command(  # noqa: PLR0917  click gives them by name
    url: str, clients: str, seconds: float | None, requests: int | None, data: str | None, headers: tuple[str, ...],
    timeout: float, metrics_url: str, protocol: str | None, bodies: Path | None, prompts: int, repeats: int,
    style: str | None, **options: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Put an endpoint under load, and measure it.

    URL is an endpoint on this machine: http://127.0.0.1:8000/v1/completions. The load is hey's, with --protocol curl's.
    Warm-up is left out. Answers with OpenAI's block "usage", or --metrics, tell the tokens.
    """
    from greenml import files
    from greenml.accounting.check import check
    from greenml.analysis import serving_bench
    from greenml.run.serving.metrics_page import check as check_url
    from greenml.run.serving.metrics_page import shown
    from greenml.run.track import Run
    from greenml.sensors import check_gpus
    from greenml.settings import resolve

    check_url(url, "http://127.0.0.1:8000/v1/completions")
    if metrics_url:
        check_url(metrics_url)
    counts = _clients(clients)
    if requests is not None and seconds is not None:
        raise click.UsageError("give --requests or --seconds, not both")
    if (protocol is None) != (bodies is None):
        raise click.UsageError("--protocol and --bodies go together")
    endpoint = _endpoint(url, data, headers, timeout)
    lines = _bodies(bodies, prompts) if bodies is not None else []
    options["output"] = str(options["output"]) if options["output"] is not None else "bench.json"
    settings = check(resolve(options))
    check_gpus(settings.gpus)
    run = Run(settings, watches=True, command=["bench-serve", shown(url)])
    run.start()
    try:
        if protocol is not None:
            stages = serving_bench.run_sequence(run, endpoint, lines, repeats, _tell)
        else:
            stages = serving_bench.run_stages(
                run, endpoint, counts, requests=requests, seconds=seconds or 10.0, metrics_url=metrics_url, tell=_tell
            )  # fmt: skip
    except BaseException:
        run.discard()
        raise
    loads = [_load(stage) for stage in stages]
    run.describe(benchmark={"url": shown(url), "protocol": protocol or "", "clients": counts if not protocol else [1]})
    record = _stopped(run)
    rows = [serving_bench.row(record, load) for load in loads]
    document = _document(record, rows, loads, protocol, prompts)
    files.write(run.output.with_suffix(".rows.json"), json.dumps(document, indent=2) + "\n")
    _print(record, rows, document, style)
    click.echo(f"greenml: {run.output} and {run.output.with_suffix('.rows.json').name}", err=True)


def _tell(text: str) -> None:
    click.echo(f"greenml: {text}", err=True)


def _clients(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and 0 < int(word) <= MOST_CLIENTS for word in words):
        raise SettingsError(f"--clients {text!r}: give numbers from 1 to {MOST_CLIENTS}, such as {CONCURRENCIES}")
    return list(dict.fromkeys(map(int, words)))


def _endpoint(url: str, data: str | None, headers: Sequence[str], timeout: float) -> Endpoint:
    from greenml.analysis.serving_bench import Endpoint

    pairs = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not HEADER_NAME.fullmatch(name.strip()) or not header.isprintable() or not header.isascii():
            raise SettingsError(f"--header {name!r}: write it as 'Name: value', in ASCII")
        pairs[name.strip()] = value.strip()
    content_type = next((pairs.pop(name) for name in list(pairs) if name.lower() == "content-type"), "application/json")
    body = None
    if data is not None:
        body = data.encode() if not data.startswith("@") else _content(Path(data[1:]))
    return Endpoint(url, "GET" if body is None else "POST", body, content_type, pairs, timeout)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None


def _bodies(path: Path, prompts: int) -> list[bytes]:
    lines = [line for line in _content(path).splitlines() if line.strip()]
    if len(lines) < prompts:
        raise SettingsError(
            f"{path}: it has {len(lines)} bodies, a line each, and {prompts} are wanted; "
            f"--prompts {len(lines) or 1} takes fewer, which is not the AI Energy Score's protocol"
        )
    for number, line in enumerate(lines[:prompts], 1):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            raise SettingsError(f"{path}: line {number} is not JSON") from None
    return lines[:prompts]


def _load(stage: Stage) -> Load:
    from greenml.analysis.serving_bench import Load

    served = [(answer.start_seconds, answer.latency_seconds) for answer in stage.served]
    return Load(
        stage.path, stage.concurrency, served, len(stage.answers) - len(served) + stage.unanswered,
        stage.input_tokens, stage.output_tokens, stage.tokens_from,
    )  # fmt: skip


def _stopped(run: Run) -> RunRecord:
    record = run.stop()
    if record is None:
        raise RecordError(f"{run.output}: the record was not written")
    return record


def _document(
    record: RunRecord, rows: Sequence[BenchRow], loads: Sequence[Load], protocol: str | None, prompts: int
) -> dict[str, Any]:
    from greenml.analysis import serving_bench

    document: dict[str, Any] = {
        "run_id": record.run_id, "name": record.name, "loads": [row.as_json() for row in rows],
        "notes": serving_bench.notes(record, rows),
    }  # fmt: skip
    if protocol is not None:
        score = serving_bench.score(record, loads)
        document["score"] = {
            "protocol": protocol, "prompts": prompts, "repeats": len(loads),
            "as_published": prompts == SCORE_PROMPTS and len(loads) == SCORE_REPEATS,
            **{name: figure.model_dump() for name, figure in score.items()},
        }  # fmt: skip
    return document


def _print(record: RunRecord, rows: Sequence[BenchRow], document: dict[str, Any], style: str | None) -> None:
    from greenml.analysis import serving_bench

    tier = record.place.tier or ""
    if style == "json":
        _terminal.echo_json(json.dumps(document, indent=2))
        return
    if style == "csv":
        click.echo(serving_bench.as_csv(rows), nl=False)
        return
    score = document.get("score")
    headings = serving_bench.HEADINGS if score is None else serving_bench.SCORE_HEADINGS
    cells = [serving_bench.cells(row, tier) for row in rows] if score is None else serving_bench.score_cells(score)
    if style == "markdown":
        from greenml.reports import markdown

        click.echo(markdown.grid(headings, cells))
    else:
        from rich.table import Table

        table = Table(*headings, box=None, pad_edge=False)
        for line in cells:
            table.add_row(*line)
        _terminal.show(table, plain_width=220)
    if score is not None and not score["as_published"]:
        click.echo(
            f"{score['prompts']} prompts, {score['repeats']} times: the AI Energy Score takes 1,000 prompts, ten times."
        )
    for note in document["notes"]:
        click.echo(note)
