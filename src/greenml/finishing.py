"""finish(): a run directory to its run.json; the same for a finished run, a killed one and a running one."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from greenml import assembly, assumptions, attempts, carbon_hours, intensity_watch, record_file, text_file, trace
from greenml.claims import FileLock
from greenml.errors import FactorError, RecordError, SettingsError
from greenml.model import Trace
from greenml.record import Factors, Note, RunRecord
from greenml.reports import model_card
from greenml.seats import run_dir_of
from greenml.settings import Settings

log = logging.getLogger("greenml")
T = TypeVar("T")


def traces(run_dir: Path) -> list[Trace]:
    """Read every trace of a run directory that can be read."""
    return attempts.load(run_dir)[0]


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
    place: dict[str, Any] = next((one.found["place"] for one in speakers if one.found.get("place")), {})
    settings, found = _told([one.header for one in speakers], place)
    made, troubles = _without_trouble(settings, lambda usable: assumptions.account(measured, usable, found))
    return made.model_copy(update={"notes": [*made.notes, *(Note(code="factor", text=text) for text in troubles)]})


def _without_trouble(settings: Settings, use: Callable[[Settings], T]) -> tuple[T, list[str]]:
    """Use settings without those that name what a later version's tables no longer have; says what was wrong."""
    troubles: list[str] = []
    while True:
        try:
            return use(settings), troubles
        except SettingsError as error:
            troubles.append(str(error))
            settings = _better(settings, use)


def _better(settings: Settings, use: Callable[[Settings], object]) -> Settings:
    """Return settings without the one that is in the way; without any where it is not one alone."""
    for name in settings.known_from:
        known_from = {one: origin for one, origin in settings.known_from.items() if one != name}
        without = Settings(**{one: getattr(settings, one) for one in known_from}, known_from=known_from)
        with contextlib.suppress(SettingsError):
            use(without)
            return without
    return Settings()


def outlook(headers: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> tuple[Factors, Settings]:
    """Return the factors that a run going on now will be accounted with, and what it was told.

    Args:
        headers: of the last attempt's traces, of the process that speaks for the run first.
        place: what the machine said of itself: cloud, region, sku, tier.
    """
    settings, found = _told(headers, place)
    return _without_trouble(settings, lambda usable: assumptions.outlook(usable, found))[0], settings


def _told(headers: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Return what the user said of a run, and what its machine did."""
    found = dict(place)
    cloud = headers[0].get("host_facts", {}).get("cloud", "") if headers else ""
    if cloud and not found.get("cloud"):
        found |= {"cloud": cloud, "from": "the machine's DMI data"}
    return _settings([one.get("settings", {}) for one in headers]), found


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


def with_intensity(record: RunRecord, path: str | os.PathLike[str], provider: str) -> RunRecord:
    """Ask for the carbon intensity over the hours of a run, and account it again with them.

    Args:
        record: of the run, as ``open_record`` gave it or accounted again.
        path: where it was opened; the traces beside it tell when energy was used.
        provider: who is asked, as in ``greenml.factors.courses.course``.

    Raises:
        FactorError: the provider has nothing for these hours.
        SettingsError: there is no such provider.
    """
    from greenml.factors import courses

    start = record.started.astimezone(timezone.utc)
    end = (record.ended or start + timedelta(seconds=record.duration_seconds)).astimezone(timezone.utc)
    course = courses.course(provider, assumptions.place_of(record), start, max(end, start + timedelta(seconds=1)))
    folder = next((one for one in _trace_folders(Path(path)) if trace.paths(one)), None)
    measured = assembly.assemble(folder, course)[0] if folder is not None else None
    if measured is not None and measured.run_id == record.run_id:
        hours = measured.factors.intensity_course
    else:
        hours = carbon_hours.from_record(record, course)
    if hours is None:
        raise FactorError(f"{courses.label(provider)}: none of its hours is one of this run's")
    factors = record.factors.model_copy(update={"intensity_course": hours})
    notes = [note for note in record.notes if note.code != intensity_watch.NOTE_CODE]
    return assumptions.again(record.model_copy(update={"factors": factors, "notes": notes}))


def _trace_folders(path: Path) -> list[Path]:
    return [run_dir_of(path / "run.json"), path] if path.is_dir() else [run_dir_of(path)]


def _write_cards(record: RunRecord, paths: Iterable[Path]) -> None:
    """Put a record's tables into model cards; every byte outside of their markers stays. What fails is logged."""
    for path in paths:
        try:
            card = text_file.read(path) if path.exists() else ""
            if (made := model_card.insert(card, record)) != card:
                text_file.write(path, made)
        except (RecordError, SettingsError) as error:
            log.warning("greenml: the model card was not written: %s: %s", path, str(error).removeprefix(f"{path}: "))
