"""Reads and writes run.json: atomic writes, one-line errors on reading; reads version 1, too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from greenml.errors import RecordError
from greenml.record.schema import SCHEMA_VERSION, RunRecord
from greenml.redaction import redact, redact_command

MOST_DIGITS = 308


def write(record: RunRecord, path: Path) -> None:
    """Write run.json atomically: a reader sees the old file or the new one, never a part.

    Raises:
        RecordError: the file cannot be written; nothing was changed.
    """
    from greenml import files  # who only reads needs no locks

    shown = redacted(record)
    try:
        text = shown.model_dump_json(indent=2)
    except PydanticSerializationError:
        text = RunRecord.model_validate(_encodable(shown.model_dump())).model_dump_json(indent=2)
    files.write(path, text + "\n")


def _encodable(value: Any) -> Any:  # noqa: ANN401  any JSON
    """Return data with a question mark for each half of a character, as names of files and JSON may have them."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(name): _encodable(entry) for name, entry in value.items()}
    return [_encodable(entry) for entry in value] if isinstance(value, list | tuple) else value


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        RecordError: it is not there, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None


def read(path: Path) -> RunRecord:
    """Read a run.json.

    Raises:
        RecordError: no such file, not a run record, or of a newer version than this greenml reads.
    """
    data = read_bytes(path)
    try:
        # Several times faster than the two steps below, which say what is wrong where this does not succeed.
        made = None if _LONG_NUMBER.search(data) else RunRecord.model_validate_json(data)
        if made is not None and "schema_version" in made.model_fields_set and made.schema_version == SCHEMA_VERSION:
            return redacted(made)
    except ValidationError:
        pass
    try:
        content = json.loads(data.decode("utf-8"), parse_int=whole_number)
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # half a character cannot be written again
    except (ValueError, RecursionError):
        raise RecordError(f"{path}: not a run record (not JSON)") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordError(f"{path}: not a run record (no schema_version)")
    version = str(content["schema_version"])
    if version.split(".", maxsplit=1)[0] == "1":
        content, version = _from_version_1(content), SCHEMA_VERSION
    theirs, ours = (text.split(".", maxsplit=1)[0] for text in (version, SCHEMA_VERSION))
    if theirs != ours:
        older = theirs.isdecimal() and int(theirs) < int(ours)
        do = "read it with the greenml that made it" if older else "upgrade greenml"
        raise RecordError(f"{path}: schema version {version}; this greenml reads {SCHEMA_VERSION}: {do}")
    try:
        return redacted(RunRecord.model_validate(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path}: not a valid run record: {where}: {first['msg']}") from None


_LONG_NUMBER = re.compile(rb"\d{%d}" % MOST_DIGITS)


def whole_number(digits: str) -> int | str:
    """Return a whole number of JSON; words for one that is beyond every float, with which nothing can be computed."""
    return int(digits) if len(digits) < MOST_DIGITS else f"a whole number of {len(digits.lstrip('-')):,} digits"


# What version 1 called a field of version 2, wherever it stands.
_RENAMED_IN_2 = {
    "intensity_course": "intensity_series",
    "doubts": "uncertainty",
    "gain_joules": "calibration_joules",
    "edge_joules": "quantisation_joules",
    "hidden_joules": "unsampled_joules",
    "gap_joules": "coverage_joules",
    "gain_ratio": "calibration_ratio",
    "seen_ratio": "sampled_ratio",
    "doubt_ratio": "uncertainty_ratio",
}
_FREE_FORM = ("params", "metrics", "trainer", "reported", "detail", "packages", "jobs", "known_from", "derived")


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return a version 1 record in the fields of version 2; what the user logged stays as it is."""

    def renamed(part: object) -> Any:  # noqa: ANN401  any JSON
        if isinstance(part, list):
            return [renamed(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        return {
            _RENAMED_IN_2.get(name, name): value if name in _FREE_FORM else renamed(value)
            for name, value in part.items()
        }

    upgraded: dict[str, Any] = renamed(content) | {"schema_version": SCHEMA_VERSION}
    factors = upgraded.get("factors")
    factor = factors.get("carbon_intensity") if isinstance(factors, dict) else None
    if isinstance(factor, dict) and factor.get("scope") == "course":
        factor["scope"] = "series"
    return upgraded


def redacted(record: RunRecord) -> RunRecord:
    """Return a record without secrets in what people and programs gave it; the same record where there are none."""
    changes: dict[str, Any] = {}
    for name in ("name", "error", "params", "metrics", "trainer"):
        value = getattr(record, name)
        if (made := redact(value)) is not value:
            changes[name] = made
    if (command := redact_command(record.environment.command)) != record.environment.command:
        changes["environment"] = record.environment.model_copy(update={"command": command})
    for name, field in (("notes", "text"), ("attempts", "error"), ("reported", "row")):
        entries = getattr(record, name)
        made = [
            entry if (value := redact(getattr(entry, field))) is getattr(entry, field)
            else entry.model_copy(update={field: value})
            for entry in entries
        ]  # fmt: skip
        if any(new is not old for new, old in zip(made, entries, strict=True)):
            changes[name] = made
    return record.model_copy(update=changes) if changes else record


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of run.json."""
    return RunRecord.model_json_schema()
