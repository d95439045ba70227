"""What one source tells of a run."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.record.file import read_bytes, whole_number
from greenml.record.schema import DeviceRecord, Note, PhaseRecord, ReportedEmissions


@dataclass(frozen=True, slots=True)
class Part:
    """What one source tells of a run; what it does not tell is empty.

    Attributes:
        started, ended: bounds of the run, or of the time window that the source was asked for.
        devices: what it measured, with usage over the whole run.
        phases: with their seconds, and usage by device id where the source has it.
        place: fields of ``PlaceRecord``.
        is_of_one_run: the devices' figures are of the run alone, however much longer the time window is.
    """

    started: datetime | None = None
    ended: datetime | None = None
    devices: list[DeviceRecord] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)
    place: Mapping[str, str] = field(default_factory=dict)
    reported: list[ReportedEmissions] = field(default_factory=list)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    is_of_one_run: bool = field(default=False, repr=False)


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, UTF-16 with its byte order mark, or Windows-1252 as older spreadsheets save it.

    Raises:
        RecordError: it cannot be read, or is not text.
    """
    content = read_bytes(path)
    if content.startswith(b"PK\x03\x04"):
        raise RecordError(f"{path}: an Excel workbook or another archive, not text: save it as CSV")
    encodings = ["utf-8-sig", "cp1252"]
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in content[:2]:  # UTF-16 without its mark
        encodings = ["utf-16-be" if content[0] == 0 else "utf-16-le"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise RecordError(f"{path}: not a text file")


def csv_rows(path: Path, text: str, delimiter: str = ",", *, skip_spaces: bool = False) -> list[list[str]]:
    """Return the cells of a CSV file's rows.

    Raises:
        RecordError: a cell is too large, or it is not CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, skipinitialspace=skip_spaces)
    try:
        return list(reader)
    except csv.Error as error:
        raise RecordError(f"{path}: line {reader.line_num}: not CSV: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RecordError: it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(read_text(path), parse_int=whole_number)
    except ValueError:
        raise RecordError(f"{path}: not JSON") from None
    except RecursionError:
        raise RecordError(f"{path}: JSON nested too deeply") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: not a JSON object")
    return content
