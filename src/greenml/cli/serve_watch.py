"""``greenml serve-watch``: joules per token and request of a server that has a metrics page."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from greenml.cli import _terminal
from greenml.cli._options import assumed, intensity

if TYPE_CHECKING:
    from rich.console import RenderableType

    from greenml.record.schema import Quantity, RunRecord
    from greenml.run.serving.poller import Poller, Window

FOOT = "q or Ctrl-C ends it, and writes the record; the server goes on"


@click.command("serve-watch")
@click.argument("url", metavar="URL")
@click.option(
    "--every", "every_seconds", type=click.FloatRange(min=0.5, max=3600), default=5.0, show_default=True,
    metavar="SECONDS", help="Between two looks at the page: the length of a window.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one window and end.")
@click.option("--json", "as_json", is_flag=True, help="Print each window as a line of JSON.")
@click.option("--model", default="", metavar="NAME", help="Whose requests count, where the server has several models.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the record goes; run.json by default.")
@click.option("--name", metavar="NAME", help="Of the run.")
@click.option("--gpus", metavar="LIST", help="'all' of the node, or a list: 0,1; those CUDA shows by default.")
@intensity
@assumed
def command(
    url: str, every_seconds: float, once: bool, as_json: bool, model: str, **options: Any,  # noqa: ANN401
) -> int:  # fmt: skip
    """Measure from outside what a server's requests use.

    URL is the metrics page of vLLM, Text Generation Inference, Triton or TensorRT-LLM, on this machine:
    http://127.0.0.1:8000/metrics. The devices are read here, tokens and requests from the page. A window without tokens
    has no joules per token, and a page that cannot be read is a gap.
    """
    from greenml.accounting.check import check
    from greenml.run.serving import metrics_page
    from greenml.run.serving.poller import Poller
    from greenml.run.track import Run
    from greenml.sensors import check_gpus
    from greenml.settings import resolve

    metrics_page.check(url)
    options["output"] = str(options["output"]) if options["output"] is not None else None
    settings = check(resolve(options))
    check_gpus(settings.gpus)
    run = Run(settings, watches=True, command=["serve-watch", metrics_page.shown(url)])
    poller = Poller(run, url, model)
    poller.start()
    code = _watch(poller, metrics_page.shown(url), every_seconds, once=once, as_json=as_json)
    record = poller.stop()
    if record is not None and not as_json:
        click.echo(_summary(record, poller))
    click.echo(f"greenml: {run.output}", err=True)
    return code


def _watch(poller: Poller, url: str, every_seconds: float, *, once: bool, as_json: bool) -> int:
    from greenml.cli import _live
    from greenml.run.exit_hooks import handled_signals

    if not once and not as_json and _live.usable():
        return _show(poller, url, every_seconds)
    left = threading.Event()
    due, failed = time.monotonic() + every_seconds, False
    with handled_signals(("SIGINT", "SIGTERM"), lambda *_: left.set()):
        while not left.wait(max(0.0, due - time.monotonic())):
            due += every_seconds
            window = poller.window()
            _terminal.echo_json(json.dumps(_as_json(window, poller))) if as_json else click.echo(_line(window, poller))
            sys.stdout.flush()
            if once:
                failed = bool(window.gap)
                break
    return 2 if failed else 0


def _show(poller: Poller, url: str, every_seconds: float) -> int:
    from greenml.cli._live import Screen

    window: Window | None = None
    try:
        with Screen() as screen:
            due = time.monotonic()
            while True:
                screen.draw(lambda width, height, now=window: _view(poller, url, now))  # type: ignore[misc]
                due += every_seconds
                while (wait_seconds := due - time.monotonic()) > 0:
                    if not screen.wait(wait_seconds):
                        return 0
                    screen.draw(lambda width, height, now=window: _view(poller, url, now))  # type: ignore[misc]
                window = poller.window()
    except OSError:  # the terminal was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 129


def _as_json(window: Window, poller: Poller) -> dict[str, Any]:
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "server": poller.server,
        **window.figures(),
    }


Row = tuple[str, Callable[["Window"], str]]


def _rows() -> Sequence[Row]:
    """Return the rows of the view: a name, and how a window's figure is written."""
    from greenml.reports import _format
    from greenml.run.serving.metrics_page import Counts

    def with_interval(quantity: Quantity, write: Callable[[float], str]) -> str:
        if quantity.value is None:
            return f"- ({quantity.why})" if quantity.why else "-"
        spread = _format.interval_of(quantity, write)
        return _format.figure(quantity, write) + (f" ({spread})" if spread else "")

    def count(value: float | None, seconds: float, *, rate: bool = True) -> str:
        if value is None:
            return "-"
        return f"{value:,.0f}" + (f"  {_format.number(value / seconds, 3)}/s" if rate and seconds > 0 else "")

    def scaled(quantity: Quantity, units: float | None, many: float, write: Callable[[float], str]) -> str:
        from greenml.accounting.totals import per

        return with_interval(per(quantity, units / many), write) if units and quantity.value is not None else "-"

    def counts(window: Window) -> Counts:
        return window.counts or Counts()

    def power(window: Window) -> str:
        joules = window.energy_joules.value
        return "-" if joules is None or window.seconds <= 0 else _format.power(joules / window.seconds)

    def energy(window: Window) -> str:
        return f"{with_interval(window.energy_joules, _format.energy)}, {window.energy_joules.basis}"

    def cost(window: Window) -> str:
        figures = [
            f"{scaled(usd, counts(window).tokens, 1e6, _format.money)} {_format.tier(tier)}"
            for tier, usd in window.cost_usd.items() if usd.value is not None and counts(window).tokens
        ]  # fmt: skip
        return ", ".join(figures) or "-"

    return (
        ("Power", power),
        ("Energy", energy),
        ("Requests", lambda window: count(counts(window).requests, window.seconds)),
        ("Tokens in", lambda window: count(counts(window).input_tokens, window.seconds)),
        ("Tokens out", lambda window: count(counts(window).output_tokens, window.seconds)),
        ("Energy per request", lambda window: with_interval(window.joules_per("request"), _format.energy)),
        ("Energy per token", lambda window: with_interval(window.joules_per("token"), _format.energy)),
        ("Energy per output token", lambda window: with_interval(window.joules_per("output token"), _format.energy)),
        ("CO2e per 1,000 requests", lambda window: scaled(
            window.emissions_grams, counts(window).requests, 1e3, _format.mass)),
        ("Cost per million tokens", cost),
        ("Idle share of the energy", lambda window: _format.optional(window.idle_ratio, _format.percent, "-")),
    )  # fmt: skip


def _view(poller: Poller, url: str, window: Window | None) -> list[RenderableType]:
    """Draw the last window beside all of them together."""
    from rich.table import Table
    from rich.text import Text

    from greenml.reports import _format

    head = Text(f"{poller.server}  {url}", style="bold")
    head.append(f"   {datetime.now().astimezone():%H:%M:%S}", style="dim")
    if window is None:
        return [head, Text(), Text("measuring the first window ...", style="dim"), Text(), Text(FOOT, style="dim")]
    total = poller.total
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("")
    table.add_column(f"last {_format.clock(window.seconds)}" if not window.gap else "now: a gap")
    gaps = f", {poller.gaps} gap{'s'[: poller.gaps != 1]} left out" if poller.gaps else ""
    table.add_column(f"so far, {_format.clock(total.seconds if total else 0.0)}{gaps}")
    for name, write in _rows():
        table.add_row(name, "" if window.gap else write(window), write(total) if total is not None else "")
    gap = [Text(), Text(window.gap, style="yellow")] if window.gap else []
    return [head, Text(), table, *gap, Text(), Text(FOOT, style="dim")]


def _line(window: Window, poller: Poller) -> str:
    """Write a window as one line."""
    from greenml import redaction

    clock = f"{datetime.now().astimezone():%H:%M:%S}"
    if window.gap:
        return redaction.printable_line(f"{clock}  gap: {window.gap}")
    rows = dict(_rows())
    figures = {
        f" {window.energy_joules.basis}": "Power",
        " requests": "Requests",
        " tokens out": "Tokens out",
        " per request": "Energy per request",
        " per token": "Energy per token",
        " idle": "Idle share of the energy",
    }
    known = [(name, rows[row](window)) for name, row in figures.items()]
    return "  ".join([clock, poller.server, *(f"{text}{name}" for name, text in known if not text.startswith("-"))])


def _summary(record: RunRecord, poller: Poller) -> str:
    """Write what the record has of all that was served."""
    from rich.console import Console

    width = _terminal.width(120)
    console = Console(width=width, no_color=True, highlight=False)
    total = poller.total
    if total is None:
        return "no window: nothing was measured beside the server's counts"
    with console.capture() as captured:
        for name, write in _rows():
            console.print(f"{name:26}{write(total)}", soft_wrap=True, markup=False)
    gaps = f"; {poller.gaps} gap{'s'[: poller.gaps != 1]} left out" if poller.gaps else ""
    return f"{poller.server}, {total.seconds:.0f} s{gaps}\n{captured.get()}".rstrip()
