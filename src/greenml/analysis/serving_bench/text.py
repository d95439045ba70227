"""Rows of a serving benchmark as Markdown, CSV, and cells for a terminal's table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from greenml.analysis.serving_bench.rows import BenchRow
from greenml.record.schema import Quantity, RunRecord
from greenml.reports import _format

HEADINGS = ("clients", "requests", "avg", "90 %", "95 %", "99 %", "requests/s", "J/request", "J/token",
            "g CO2e / 1,000 requests", "$ / million tokens", "idle share")  # fmt: skip


def cells(row: BenchRow, tier: str = "") -> list[str]:
    """Return the cells of a row: a figure, and its interval in brackets.

    Args:
        row: the figures of one load.
        tier: whose price counts; the first by default.
    """
    usd = row.cost_usd_per_million_tokens.get(tier) or next(iter(row.cost_usd_per_million_tokens.values()), None)
    failed = f", {row.failed} failed" if row.failed else ""
    return [
        str(row.concurrency),
        f"{row.requests}{failed}",
        *(figure(row.latency_seconds[name], _milliseconds) for name in ("mean", "p90", "p95", "p99")),
        figure(row.throughput_per_second, _number),
        figure(row.joules_per_request, _number),
        figure(row.joules_per_token, _number),
        figure(row.grams_per_1000_requests, _number),
        figure(usd, _number) if usd is not None else "-",
        figure(row.idle_ratio, _format.percent),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{_number(seconds * 1000)} ms"


def _number(value: float) -> str:
    return _format.significant(value, 3)


def figure(quantity: Quantity, write: Callable[[float], str]) -> str:
    """Write a figure with its interval; a dash where it is not known."""
    if quantity.value is None:
        return "-"
    if quantity.low is not None and quantity.high is None:
        return f"{write(quantity.value)} ({write(quantity.low)} or more)"
    spread = _format.interval_of(quantity, write)
    return write(quantity.value) + (f" ({spread})" if spread else "")


def notes(record: RunRecord, rows: Sequence[BenchRow]) -> list[str]:
    """Return what a reader must know of the table."""
    bases = ", ".join(
        dict.fromkeys(row.joules_per_request.basis for row in rows if row.joules_per_request.value is not None)
    )
    tokens = ", ".join(dict.fromkeys(row.tokens_from for row in rows if row.joules_per_token.value is not None))
    why = next((row.joules_per_request.why for row in rows if row.joules_per_request.why), "")
    intensity, prices = record.factors.carbon_intensity, record.factors.prices
    said = [
        f"Energy is {bases or 'not known'}, of GPUs, CPUs and DRAM with a request in flight"
        + (f" ({why})" if why else "") + "; the load generator ran on this machine, and its CPU time is in it.",
        f"Tokens are those of {tokens}, input and output together." if tokens else "Tokens are not known.",
        "In brackets: 95 % of cases. Idle share: of the energy, that of the time without a request in flight.",
    ]  # fmt: skip
    if intensity is not None:
        said.append(f"Carbon intensity: {_format.factor(intensity)}")
    said += [f"Price: {_format.price(tier, price)}" for tier, price in prices.items()]
    return said


def markdown(rows: Sequence[BenchRow], tier: str = "") -> str:
    """Return a table."""
    return table(HEADINGS, [cells(row, tier) for row in rows])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def as_csv(rows: Sequence[BenchRow]) -> str:
    """Return a row for each load, and for each figure its value, low and high, in SI units."""
    stream = io.StringIO()
    flat = [dict(_flat(row)) for row in rows]
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for each in flat for name in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def _flat(row: BenchRow) -> list[tuple[str, object]]:
    cells_: list[tuple[str, object]] = []
    for name in BenchRow.__dataclass_fields__:
        value = getattr(row, name)
        figures = (
            {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        )
        for key, each in figures.items():
            if isinstance(each, Quantity):
                cells_ += [(key, each.value), (f"{key}_low", each.low), (f"{key}_high", each.high)]
            else:
                cells_.append((key, each))
    return cells_


SCORE_HEADINGS = ("figure of 1,000 queries", "value", "known how")
_SCORES = {
    "gpu_wh_per_1000_queries": ("GPU energy, the AI Energy Score's figure", "Wh"),
    "it_wh_per_1000_queries": ("with CPUs and DRAM", "Wh"),
    "facility_wh_per_1000_queries": ("with the building (PUE)", "Wh"),
    "grams_per_1000_queries": ("emissions", "g CO2e"),
}


def score_cells(score: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of an AI Energy Score: name, figure with its interval, and how it is known or why it is not."""
    cells_ = []
    for name, (label, unit) in _SCORES.items():
        quantity = Quantity.model_validate(score[name])
        text = figure(quantity, lambda value, unit=unit: f"{_number(value)} {unit}")  # type: ignore[misc]
        cells_.append([label, text, quantity.why if quantity.value is None else quantity.basis])
    return cells_


def of_json(values: Mapping[str, Any]) -> BenchRow:
    """Read back a row that ``BenchRow.as_json`` wrote."""
    read = dict(values)
    for name, value in values.items():
        if isinstance(value, Mapping) and "basis" in value:
            read[name] = Quantity.model_validate(value)
        elif isinstance(value, Mapping):
            read[name] = {key: Quantity.model_validate(each) for key, each in value.items()}
    return BenchRow(**read)
