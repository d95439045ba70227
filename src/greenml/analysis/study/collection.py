"""Collection of cells that ran elsewhere: their folders are brought in, and killed ones get their records.

Runs that no study file started (the trials of a sweep, runs by hand) become a study by the parameters in their records.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenml import files
from greenml.analysis.study import attempt as study_attempt
from greenml.analysis.study import folder as study_folder
from greenml.analysis.study.folder import CELL_FILE, LOCK_FILE, RECORD_FILE, Cell, Study
from greenml.analysis.study.plan import StudyFile, folder_name, make
from greenml.errors import RecordError, SettingsError, did_you_mean, nearest
from greenml.record import file as record_file
from greenml.record.schema import RunRecord
from greenml.run import finish
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did.

    Attributes:
        study: as it is now.
        taken: cells whose folders were brought in.
        finished: records that were made of the traces of killed attempts.
        skipped: a line for each folder that was not taken.
    """

    study: Study
    taken: tuple[Cell, ...]
    finished: tuple[Path, ...]
    skipped: tuple[str, ...]


def collect(folder: Path, sources: Sequence[Path] = ()) -> Collected:
    """Bring a study's cells into its folder.

    A cell's folder is known by its cell.json, wherever it lies below a source: an AzureML download, a copy of another
    machine's study folder. Of a cell that is there already, the one with more attempts is kept; of as many, the one
    whose last attempt has ended, where the other is a copy that was taken while it ran. A cell that runs here stays.
    Nothing is removed from a source.

    Args:
        folder: of the study.
        sources: folders to look in; the study's alone by default.

    Raises:
        RecordError: the folder is no study, or a source is not there.
    """
    study = study_folder.load(folder, records=False)
    taken, skipped = [], []
    for source in sources:
        if not source.is_dir():
            raise RecordError(f"{source}: no such folder")
        if source.resolve() == study.folder.resolve():
            continue
        cells = list(_cells_below(source))
        if not cells:
            skipped.append(f"{source}: no cell of a study in it (no {CELL_FILE})")
        for path in cells:
            reason, cell = _take(study, path)
            if cell is not None:
                taken.append(cell)
            elif reason:
                skipped.append(f"{path.parent}: {reason}")
    finished = list(_finished(folder, skipped))
    return Collected(study_folder.load(folder), tuple(taken), tuple(finished), tuple(skipped))


def _finished(folder: Path, skipped: list[str]) -> Iterator[Path]:
    """Make the records of attempts that left traces alone, and yield them."""
    for cell in study_folder.load(folder, records=False).cells:
        for attempt in cell.attempts:
            record = attempt.folder / RECORD_FILE
            if attempt.state != "running" and not record.exists() and run_dir_of(record).is_dir():
                try:
                    finish.finish(run_dir_of(record), record)
                    yield record
                except RecordError as error:
                    skipped.append(str(error))


def _cells_below(source: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(source):
        folders.sort()
        if CELL_FILE in names:
            folders.clear()
            yield Path(at) / CELL_FILE


def _take(study: Study, path: Path) -> tuple[str, Cell | None]:
    """Copy a cell's folder into the study; returns why it was not, or the cell."""
    try:
        content = json.loads(files.read(path))
        key = content["variant"], content["seed"]
        attempts, study_id = content["attempts"], content["study"]
        known = _progress(attempts)
    except (RecordError, ValueError, KeyError, TypeError):
        return "its cell.json cannot be read", None
    cell = next((cell for cell in study.cells if (cell.variant.name, cell.seed) == key), None)
    if study_id != study.id or cell is None:
        return "a cell of another study", None
    if not attempts or _progress(study_folder.read_attempts(cell.folder)) >= known:
        return "", None  # nothing new
    if files.is_locked(cell.folder / LOCK_FILE) or cell.state == "running":
        return "the cell runs here now; collect it when it has ended", None
    into, before = (cell.folder.with_name(f".{cell.folder.name}.{end}") for end in ("new", "old"))
    shutil.rmtree(into, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)
    try:
        shutil.copytree(path.parent, into, ignore=shutil.ignore_patterns(LOCK_FILE))
        if cell.folder.is_dir():
            cell.folder.rename(before)
        into.rename(cell.folder)
    except OSError as error:
        if before.is_dir() and not cell.folder.exists():
            before.rename(cell.folder)
        shutil.rmtree(into, ignore_errors=True)
        return f"cannot be copied: {error.strerror or error}", None
    shutil.rmtree(before, ignore_errors=True)
    return "", cell


def _progress(attempts: Sequence[Mapping[str, Any]]) -> tuple[int, bool]:
    """Return how far a cell has got: its attempts, and whether the last one has ended."""
    return len(attempts), bool(attempts) and attempts[-1]["state"] != "running"


# What the status of a record says of the attempt.
_STATES = {"completed": "completed", "failed": "failed", "interrupted": "stopped", "killed": "killed"}


def from_records(
    folder: Path, records: Sequence[tuple[Path, RunRecord]], by: Sequence[str], name: str = ""
) -> Collected:
    """Make a study of runs that no study file started.

    Args:
        folder: of the study, new.
        records: with their paths.
        by: parameters whose values make the variants; runs that are alike in them are repeats. The parameter ``seed``
            tells repeats apart; those without one, and further runs of one seed, are numbered after the last seed.
        name: of the study; the folder's by default.

    Raises:
        SettingsError: no record has such a parameter, or the folder is not empty.
        RecordError: the folder cannot be written.
    """
    ended = [(path, record) for path, record in records if record.status in _STATES]
    skipped = tuple(f"{path}: it still runs" for path, record in records if record.status not in _STATES)
    known = sorted({name for _, record in records for name in record.params} - {"seed"})
    for parameter in by:
        if parameter not in known:
            hint = did_you_mean(nearest(parameter, known, 1)) or f"; there are {', '.join(known) or 'none'}"
            raise SettingsError(f"--by {parameter}: no record has this parameter{hint}")
    if not by:
        differing = [name for name in known if len({str(record.params.get(name)) for _, record in records}) > 1]
        raise SettingsError(f"give --by; the records differ in {', '.join(differing) or 'no parameter'}")
    cells, variants = _by_variant_and_seed(ended, by)
    if not cells:
        raise RecordError("no run that has ended")
    file = StudyFile.model_validate(
        {
            "name": name or folder.resolve().name,
            "description": "collected from the records of runs",
            "command": ["collected", "{args}"],
            "seeds": sorted({seed for _, seed in cells}),
            "variants": variants,
        }
    )
    if (folder / study_folder.STUDY_FILE).exists():
        raise SettingsError(f"{folder}: is a study; give a new folder for what --by collects")
    study = study_folder.create(folder, make(file, folder.resolve()))
    for cell in study.cells:
        if (cell.variant.name, cell.seed) in cells:
            _put(study, cell, *cells[cell.variant.name, cell.seed])
        else:
            study_folder.write_cell(study, cell, [], skipped="no such run was collected")
    study = study_folder.load(folder)
    return Collected(study, tuple(cell for cell in study.cells if cell.attempts), (), skipped)


def _by_variant_and_seed(
    records: Sequence[tuple[Path, RunRecord]], by: Sequence[str]
) -> tuple[dict[tuple[str, int], tuple[Path, RunRecord]], dict[str, dict[str, list[str]]]]:
    """Return the records by variant and seed, and what the variants change."""
    cells: dict[tuple[str, int], tuple[Path, RunRecord]] = {}
    names: dict[tuple[str, ...], str] = {}
    repeats: list[tuple[str, tuple[Path, RunRecord]]] = []
    for path, record in records:
        words = tuple(f"{parameter}={record.params.get(parameter)}" for parameter in by)
        variant = names.get(words) or names.setdefault(words, _new_name(",".join(words), names.values()))
        seed = record.params.get("seed")
        if not isinstance(seed, int) or isinstance(seed, bool) or (variant, seed) in cells:
            repeats.append((variant, (path, record)))
        else:
            cells[variant, seed] = path, record
    last = max((seed for _, seed in cells), default=0)
    for variant, found in repeats:
        number = next(number for number in itertools.count(last + 1) if (variant, number) not in cells)
        cells[variant, number] = found
    variants = {
        name: {"args": [word.replace("{", "{{").replace("}", "}}") for word in words]} for words, name in names.items()
    }
    return cells, variants


def _new_name(text: str, taken: Iterable[str]) -> str:
    """Return a name of a variant that no other has: of values that make one folder, the later ones get a number."""
    name = folder_name(text)[:100]
    others = {other.lower() for other in taken}
    ends = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    return next(made for end in ends if (made := name[: 100 - len(end)] + end).lower() not in others)


def _put(study: Study, cell: Cell, path: Path, record: RunRecord) -> None:
    """Write a record into a cell's folder, as the one attempt of the cell."""
    state, reason = _STATES[record.status], "" if record.status == "completed" else record.error or record.status
    if state == "failed" and study_attempt.is_out_of_memory(reason):
        reason = study_folder.OUT_OF_MEMORY
    record_file.write(record, cell.folder / RECORD_FILE)
    if run_dir_of(path).is_dir():
        shutil.copytree(run_dir_of(path), run_dir_of(cell.folder / RECORD_FILE), dirs_exist_ok=True)
        os.utime(cell.folder / RECORD_FILE)  # not older than its traces
    ended = record.ended if record.ended is not None else record.started
    entry = {
        "number": 1,
        "state": state,
        "reason": reason,
        "started": record.started.timestamp(),
        "ended": ended.timestamp(),
        "host": ",".join(host.name for host in record.hosts),
        "boot_id": _boot_id(run_dir_of(path)),
    }
    study_folder.write_cell(study, cell, [entry])


def _boot_id(run_dir: Path) -> str:
    """Return what tells the machine of a run from others of its name, by its traces; "" of several, or of none."""
    boots = set()
    for path in trace_paths(run_dir):
        with contextlib.suppress(RecordError):
            boots.add(trace_file.machine(trace_file.read_header(path)))
    return boots.pop()[1] if len(boots) == 1 else ""
