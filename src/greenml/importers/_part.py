"""What one source tells of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.record import DeviceRecord, Note, PhaseRecord, ReportedEmissions


@dataclass(frozen=True, slots=True)
class Part:
    """What one source tells of a run; what it does not tell is empty.

    Attributes:
        started, ended: bounds of the run, or of the time window that the source was asked for.
        devices: what it measured, with usage over the whole run.
        phases: with their seconds, and usage by device id where the source has it.
        place: fields of ``PlaceRecord``.
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


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        RecordError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path}: not a text file") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RecordError: it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError:
        raise RecordError(f"{path}: not JSON") from None
    except RecursionError:
        raise RecordError(f"{path}: JSON nested too deeply") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: not a JSON object")
    return content
