"""run.json on disk: written atomically, read with one clear line for what is wrong."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from greenml.errors import RecordError
from greenml.record import SCHEMA_VERSION, RunRecord


def write(record: RunRecord, path: Path) -> None:
    """Write run.json atomically: a reader sees the old file or the new one, never a part.

    Raises:
        RecordError: the file cannot be written; nothing was changed.
    """
    text = record.model_dump_json(indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from None


def read(path: Path) -> RunRecord:
    """Read a run.json.

    Raises:
        RecordError: no such file, not a run record, or of a newer version than this greenml reads.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        # Several times faster than the two steps below, which say what is wrong where this does not succeed.
        made = RunRecord.model_validate_json(data)
        if "schema_version" in made.model_fields_set and made.schema_version == SCHEMA_VERSION:
            return made
    except ValidationError:
        pass
    try:
        content = json.loads(data.decode("utf-8"))
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # half a character cannot be written again
    except (ValueError, RecursionError):
        raise RecordError(f"{path}: not a run record (not JSON)") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordError(f"{path}: not a run record (no schema_version)")
    version = str(content["schema_version"])
    theirs, ours = (one.split(".", maxsplit=1)[0] for one in (version, SCHEMA_VERSION))
    if theirs != ours:
        older = theirs.isdecimal() and int(theirs) < int(ours)
        do = "read it with the greenml that made it" if older else "upgrade greenml"
        raise RecordError(f"{path}: schema version {version}; this greenml reads {SCHEMA_VERSION}: {do}")
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path}: not a valid run record: {where}: {first['msg']}") from None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of run.json."""
    return RunRecord.model_json_schema()
