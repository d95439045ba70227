"""Finds the records that a list of paths names: files, folders and globs, also those that no shell expanded."""

from __future__ import annotations

import gc
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from greenml import redaction
from greenml.errors import RecordError
from greenml.record.schema import RunRecord

if TYPE_CHECKING:
    from greenml.record.importers.published_table import PublishedTable

MARK = b'"greenml_version"'  # every record has it near its start
MARK_WITHIN_BYTES = 65536


def load(given: Sequence[str]) -> tuple[list[tuple[Path, RunRecord]], list[str]]:
    """Read the records that are meant, each once, in the order in which they were given.

    Returns:
        The records with their paths, and a line for each file that is none and was skipped.

    Raises:
        RecordError: there is no record at all.
    """
    from greenml.run import opening

    records: list[tuple[Path, RunRecord]] = []
    skipped: list[str] = []
    seen: set[Path] = set()
    with _no_collection():
        for path in _paths(given, skipped):
            resolved = path.resolve()
            if resolved in seen:
                continue
            seen.add(resolved)
            try:
                record = opening.open_record(path)
                records.append((path, record.model_copy(update={"timeline": None})))  # a thousand would fill memory
            except RecordError as error:
                skipped.append(f"{error}; skipped")
    if not records:
        reason = f": {skipped[0].removesuffix('; skipped')}" if skipped else ""
        raise RecordError(f"no run record in {', '.join(given)}{reason}")
    return records, skipped


def load_with_published(
    given: Sequence[str],
) -> tuple[list[tuple[Path, RunRecord]], list[PublishedTable], list[str]]:
    """Read records as ``load`` does, and the tables of published figures among the files that are given.

    Raises:
        RecordError: there is neither a record nor a table.
    """
    from greenml.record.importers import published_table

    tables, others = [], []
    for text in given:
        table = published_table.read(Path(text)) if Path(text).is_file() else None
        if table is not None:
            tables.append(table)
        else:
            others.append(text)
    records, skipped = load(others) if others or not tables else ([], [])
    return records, tables, skipped


@contextmanager
def _no_collection() -> Iterator[None]:
    """Read without looking for garbage: records have no cycles, and to look through a thousand takes half the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor later in what was read
        if was:
            gc.enable()


def _paths(given: Sequence[str], skipped: list[str]) -> Iterator[Path]:
    for word in given:
        path = Path(word)
        if path.is_dir():
            inside = list(_inside(path))
            if not inside:
                skipped.append(f"{word}: no run record in this folder; skipped")
            yield from inside
        elif glob.has_magic(word) and not path.exists():
            matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
            if not matches:
                skipped.append(f"{word}: no such file; skipped")
            yield from _paths(matches, skipped)
        else:
            yield path


def _inside(folder: Path) -> Iterator[Path]:
    """Yield the records below a folder, and the traces of runs that were killed before they had one."""
    if folder.suffix == ".trace" and any(folder.glob("*.jsonl")):
        yield folder.with_suffix(".json") if folder.with_suffix(".json").exists() else folder
        return
    for at, folders, files in os.walk(folder):
        traces = [name for name in folders if name.endswith(".trace")]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in traces)
        here = {Path(at, name) for name in files if name.endswith(".json") and _is_record(Path(at, name))}
        here |= {Path(at, name).with_suffix(".json") for name in traces if any(Path(at, name).glob("*.jsonl"))}
        yield from sorted(here)


def _is_record(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return MARK in stream.read(MARK_WITHIN_BYTES)
    except OSError:
        return False


def labels(records: Sequence[tuple[Path, RunRecord]]) -> list[str]:
    """Return a name for each record, no two alike: its own, else its file's or folder's; with its path where shared."""
    names = [
        redaction.printable_line(record.name) or redaction.printable_line(_file_name(path)) for path, record in records
    ]
    shared = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    full = [
        f"{name} ({_short(path)})" if name in shared else name for name, (path, _) in zip(names, records, strict=True)
    ]
    taken: dict[str, int] = {}
    for at, name in enumerate(full):
        taken[name] = taken.get(name, 0) + 1
        full[at] = name if taken[name] == 1 else f"{name} #{taken[name]}"
    return full


def _file_name(path: Path) -> str:
    stem = path.stem
    folder = path.resolve().parent.name
    return folder if stem == "run" and folder else stem


def _short(path: Path) -> str:
    return str(path.parent if path.name == "run.json" and path.parent.name else path)
