"""finish(): a run directory to its run.json; the same for a finished run, a killed one and a running one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from greenml import assembly, assumptions, record_file, trace
from greenml.claims import FileLock
from greenml.errors import RecordError, SettingsError
from greenml.model import Trace
from greenml.record import Note, RunRecord
from greenml.reports import model_card
from greenml.seats import run_dir_of
from greenml.settings import Settings

log = logging.getLogger("greenml")


def traces(run_dir: Path) -> list[Trace]:
    """Read every trace of a run directory that can be read."""
    return assembly.load(run_dir)[0]


def finish(run_dir: Path, output: Path, cards: Iterable[Path] = ()) -> RunRecord:
    """Make the record of a run directory and write it, and its tables into model cards.

    Raises:
        RecordError: there is no trace to make it from, or it cannot be written.
    """
    try:
        with FileLock(run_dir / "lock"):
            made = make(run_dir)
            record_file.write(made, output)
            _write_cards(made, cards)
            return made
    except OSError as error:
        raise RecordError(f"{run_dir}: cannot be locked: {error.strerror or error}") from None


def make(run_dir: Path) -> RunRecord:
    """Make the record of a run directory, with the factors that its settings ask for; nothing is written.

    Raises:
        RecordError: there is no trace to make it from.
    """
    measured, speakers = assembly.assemble(run_dir)
    settings = _settings([one.header.get("settings", {}) for one in speakers])
    found = next((dict(one.found["place"]) for one in speakers if one.found.get("place")), {})
    cloud = speakers[0].header.get("host_facts", {}).get("cloud", "")
    if cloud and not found.get("cloud"):
        found |= {"cloud": cloud, "from": "the machine's DMI data"}
    try:
        return assumptions.account(measured, settings, found)
    except SettingsError as error:  # a table of a later version no longer has it
        made = assumptions.account(measured, Settings(), found)
        return made.model_copy(update={"notes": [*made.notes, Note(code="factor", text=str(error))]})


def _settings(stored: Sequence[dict[str, Any]]) -> Settings:
    """Settle what several processes were told: the first that was told a thing is heard."""
    names = {field.name for field in fields(Settings)} - {"output", "known_from"}
    values: dict[str, Any] = {}
    known_from: dict[str, str] = {}
    for one in stored:
        for name, origin in one.get("known_from", {}).items():
            if name in names and name not in values:
                values[name], known_from[name] = one.get(name), origin
    return Settings(**values, known_from=known_from)


def open_record(path: str | os.PathLike[str]) -> RunRecord:
    """Return the record at a path: of a run.json, of a run directory, or of the traces beside a missing run.json.

    A run.json that is older than its traces (a later process or attempt wrote on) is made again, not written.

    Raises:
        RecordError: there is neither, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        inside = path / "run.json"
        return open_record(inside) if inside.exists() or run_dir_of(inside).is_dir() else make(path)
    run_dir = run_dir_of(path)
    newest = max((one.stat().st_mtime for one in trace.paths(run_dir)), default=0.0)
    if newest and (not path.exists() or path.stat().st_mtime < newest):
        return make(run_dir)
    return record_file.read(path)


def _write_cards(record: RunRecord, paths: Iterable[Path]) -> None:
    """Put a record's tables into model cards; every byte outside of their markers stays. What fails is logged."""
    for path in paths:
        try:
            card = path.read_text(encoding="utf-8") if path.exists() else ""
            path.write_text(model_card.insert(card, record), encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            log.warning("greenml: the model card %s was not written: %s", path, error)
