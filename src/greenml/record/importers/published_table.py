"""Tables of figures that somebody published: throughput, time to train, accuracy, latency; no run, and no energy.

A CSV file with a row a result. Its columns name their unit, so that a figure in hours is not taken for seconds; what
they may be is in docs/study-report.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greenml import files, redaction
from greenml.errors import RecordError, did_you_mean, nearest
from greenml.record.importers._part import csv_rows, read_text

MARK = "greenml_published"
VERSION = 1
SECONDS = {"seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "minutes": 60.0, "hours": 3600.0}
TEXTS = ("system", "model", "dataset", "gpu", "precision", "source", "url", "published", "note")
WHOLE = ("gpus", "nodes", "batch_size", "sequence_length", "seed")
RATES = ("samples_per_second", "tokens_per_second", "requests_per_second")
TIMES = ("time_to_train", "latency_mean", "latency_p50", "latency_p90", "latency_p95", "latency_p99")
METRIC = re.compile(r"(?:[a-z]+_)?(?:rouge(?:1|2|L|Lsum)|loss|accuracy|f1|bleu|perplexity)|metric\..+")
COMPUTED = ("speedup", "speed_up", "weak_scaling", "mean", "std")  # of the others: computed here


class PublishedRow(BaseModel):
    """A published result. None is not published."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    system: str = ""
    model: str = ""
    dataset: str = ""
    gpu: str = ""
    precision: str = ""
    source: str = Field("", description="who published it, and where")
    url: str = ""
    published: str = Field("", description="its date")
    note: str = ""
    gpus: int | None = Field(None, ge=0)
    nodes: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1, description="per GPU in training, per request batch in inference")
    sequence_length: int | None = Field(None, ge=1)
    seed: int | None = None
    samples_per_second: float | None = Field(None, ge=0)
    tokens_per_second: float | None = Field(None, ge=0)
    requests_per_second: float | None = Field(None, ge=0)
    time_to_train_seconds: float | None = Field(None, ge=0)
    latency_mean_seconds: float | None = Field(None, ge=0)
    latency_p50_seconds: float | None = Field(None, ge=0)
    latency_p90_seconds: float | None = Field(None, ge=0)
    latency_p95_seconds: float | None = Field(None, ge=0)
    latency_p99_seconds: float | None = Field(None, ge=0)
    metrics: dict[str, float] = {}


class PublishedTable(BaseModel):
    """A table of published results, as ``greenml import --table`` keeps it; SI."""

    model_config = ConfigDict(extra="forbid")

    greenml_published: Literal[1] = 1
    file: str
    rows: list[PublishedRow]


def load(path: Path) -> PublishedTable:
    """Read a CSV file of published results.

    Raises:
        RecordError: it cannot be read, has a column that is not known, or a figure that is none; one line says which.
    """
    read = csv_rows(path, read_text(path), skip_spaces=True)
    lines = [(number, row) for number, row in enumerate(read, 1) if any(cell.strip() for cell in row)]
    lines = [(number, row) for number, row in lines if not row[0].lstrip().startswith("#")]
    if len(lines) < 2:
        raise RecordError(f"{path}: no table; its first line names the columns, and each further one is a result")
    names = [name.strip() for name in lines[0][1]]
    columns = [_column(name, path) for name in names]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise RecordError(f"{path}: column {twice} is there twice")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(names):
            raise RecordError(
                f'{path}, line {number}: {len(cells)} cells for {len(names)} columns; quote a number like "1,234"'
            )
        rows.append(_row(dict(zip(names, cells, strict=False)), dict(zip(names, columns, strict=True)), path, number))
    return PublishedTable(file=path.name, rows=rows)


def _column(name: str, path: Path) -> tuple[str, float]:
    """Return the field that a column fills, and what its figures are multiplied with.

    Raises:
        RecordError: there is no such column.
    """
    if name in TEXTS or name in WHOLE or name in RATES:
        return name, 1.0
    for field in TIMES:
        for unit, scale in SECONDS.items():
            if name == f"{field}_{unit}":
                return f"{field}_seconds", scale
        if name == field:
            raise RecordError(f"{path}: column {name} has no unit; write {field}_seconds, {field}_ms or {field}_hours")
    if METRIC.fullmatch(name):
        return f"metrics.{name.removeprefix('metric.')}", 1.0
    if name.startswith(COMPUTED):
        raise RecordError(f"{path}: column {name} is computed from the others; leave it out")
    known = [
        *TEXTS,
        *WHOLE,
        *RATES,
        *(f"{field}_seconds" for field in TIMES),
        "rouge1",
        "rouge2",
        "rougeL",
        "metric.NAME",
    ]
    hint = did_you_mean(nearest(name, known, 1)) or f"; there are {', '.join(known)}"
    raise RecordError(f"{path}: column {name or 'without a name'} is not known{hint}")


def _row(cells: Mapping[str, str], columns: Mapping[str, tuple[str, float]], path: Path, number: int) -> PublishedRow:
    fields: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for name, text in cells.items():
        field, scale = columns[name]
        cell = text.strip()
        if not cell:
            continue
        if field in TEXTS:
            fields[field] = redaction.redact(redaction.printable_line(cell), field)
            continue
        value = _number(cell)
        if value is None or (field in WHOLE and value != int(value)):
            what = "whole number" if field in WHOLE else "number"
            raise RecordError(f"{path}, line {number}: {name} is {cell!r}, not a {what}")
        if field.startswith("metrics."):
            metrics[field.removeprefix("metrics.")] = value
        else:
            fields[field] = int(value) if field in WHOLE else value * scale
    try:
        return PublishedRow(**fields, metrics=metrics)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecordError(f"{path}, line {number}: {first['loc'][0]}: {first['msg'].lower()}") from None


def _number(text: str) -> float | None:
    """Return a figure, with or without commas between thousands."""
    plain = text.replace(",", "") if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?", text) else text
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def write(table: PublishedTable, path: Path) -> None:
    """Write the table as JSON.

    Raises:
        RecordError: the file cannot be written.
    """
    files.write(path, table.model_dump_json(indent=1, exclude_defaults=False) + "\n")


def read(path: Path) -> PublishedTable | None:
    """Read what ``write`` wrote; None where the file is something else.

    Raises:
        RecordError: it is a damaged table, or one of a newer greenml.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError, RecordError):
        return None
    if not isinstance(content, dict) or MARK not in content:
        return None
    if content[MARK] != VERSION:
        raise RecordError(f"{path}: published table of version {content[MARK]}; this greenml reads {VERSION}")
    try:
        return PublishedTable.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path}: not a published table: {where}: {first['msg']}") from None
