"""Opens the record at a path, finds the records that a list of paths names, and makes a pandas DataFrame of them.

What makes a record of traces is loaded only where there is none to read. Paths of a list are files, folders and globs,
also those that no shell expanded. The DataFrame has one row a run, and SI units in the names of its columns. pandas is
an extra.
"""

from __future__ import annotations

import gc
import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenml import redaction
from greenml.errors import RecordError, SettingsError
from greenml.record import file as record_file
from greenml.record.schema import Quantity, RunRecord
from greenml.trace import run_dir_of, trace_paths

if TYPE_CHECKING:
    from pandas import DataFrame

    from greenml.record.importers.published_table import PublishedTable


MARK = b'"greenml_version"'  # every record has it near its start
MARK_WITHIN_BYTES = 65536


def open_record(path: str | PathLike[str]) -> RunRecord:
    """Return the record at a path: of a run.json, of a run directory, or of the traces beside a missing run.json.

    A run.json that is older than its traces, or says that the run is running, is made again in memory.

    Raises:
        RecordError: there is neither, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        inside = path / "run.json"
        return open_record(inside) if inside.exists() or run_dir_of(inside).is_dir() else _made(path)
    run_dir = run_dir_of(path)
    newest = max((path.stat().st_mtime for path in trace_paths(run_dir)), default=0.0)
    if newest and (not path.exists() or path.stat().st_mtime < newest):
        return _made(run_dir)
    record = record_file.read(path)
    if newest and record.status == "running":  # the process that would have written the end of it may be dead
        return _made(run_dir)
    return record


def _made(run_dir: Path) -> RunRecord:
    from greenml.run import finish

    return finish.make(run_dir)


def load(given: Sequence[str]) -> tuple[list[tuple[Path, RunRecord]], list[str]]:
    """Read the records that are meant, each once, in the order in which they were given.

    Returns:
        The records with their paths, and a line for each file that is none and was skipped.

    Raises:
        RecordError: there is no record at all.
    """
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
                record = open_record(path)
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


def labels_of(records: Sequence[tuple[Path, RunRecord]]) -> list[str]:
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


Paths = str | PathLike[str] | Iterable[str | PathLike[str]]
ENERGIES = (
    "it_energy_joules", "gpu_energy_joules", "cpu_energy_joules", "dram_energy_joules", "facility_energy_joules",
    "emissions_grams",
)  # fmt: skip
USE = (
    "gpu_utilization_ratio", "cpu_utilization_ratio", "gpu_memory_mean_bytes", "gpu_memory_peak_bytes",
    "host_memory_peak_bytes",
)  # fmt: skip
CELL_FILE = "cell.json"  # beside the record of a study's cell: which variant and seed it is


def to_dataframe(paths: Paths) -> DataFrame:
    """Return records as a pandas DataFrame: one row a run.

    Columns are in SI and end in their unit: ``duration_seconds``, ``it_energy_joules``, ``emissions_grams``,
    ``cost_dedicated_usd``; ``_low`` and ``_high`` before the unit are the ends of an interval. What a run logged is
    ``metrics.NAME`` and ``params.NAME``, what its training took for a unit of work ``derived.NAME``. Runs of a study
    have ``variant`` and ``seed``. What is not known is NaN or None, and never 0.

    Args:
        paths: a record, a folder (searched with the folders in it), a glob, or several of them.

    Raises:
        RecordError: there is no record.
        SettingsError: pandas is missing.
    """
    try:
        import pandas
    except ImportError:
        raise SettingsError("to_dataframe needs pandas: pip install 'greenml[pandas]'") from None
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    if not given:
        raise RecordError("to_dataframe: no path is given")
    records, _ = load([fspath(path) for path in given])
    labels = labels_of(records)
    rows = [_row(path, label, record) for (path, record), label in zip(records, labels, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    ordered = sorted(names, key=lambda name: name.partition(".")[0] in ("derived", "metrics", "params"))
    return pandas.DataFrame(rows, columns=ordered)


def _row(path: Path, label: str, record: RunRecord) -> dict[str, Any]:
    place, total = record.place, record.total()
    gpus = [device for device in record.devices if device.kind == "gpu"]
    row: dict[str, Any] = {
        "name": label, **_cell(path), "path": str(path), "run_id": record.run_id, "status": record.status,
        "started": record.started, "ended": record.ended, "attempts": len(record.attempts) or None,
        "sku": place.sku or None, "region": place.region or None, "tier": place.tier, "nodes": place.nodes,
        "gpu": ", ".join(dict.fromkeys(device.name for device in gpus)) or None,
        "gpus": sum(device.count for device in gpus), "duration_seconds": record.duration_seconds,
    }  # fmt: skip
    for name in ENERGIES:
        row |= _interval(name, getattr(total, name) if total is not None else None)
    joules = row["it_energy_joules"]
    row["power_mean_watts"] = joules / record.duration_seconds if joules and record.duration_seconds else None
    for tier, quantity in (total.cost_usd if total is not None else {}).items():
        row[f"cost_{tier}_usd"] = quantity.value
    row |= {name: getattr(total, name) if total is not None else None for name in USE}
    row["disk_written_bytes"] = record.trainer.get("disk_written_bytes")
    flops: Any = record.trainer.get("flops")
    row["flops"] = flops.get("total") if isinstance(flops, Mapping) else None
    row |= {f"derived.{name}": value for name, value in record.derived.items()}
    row |= dict(_flat("metrics", record.metrics))
    return row | dict(_flat("params", record.params))


def _interval(name: str, quantity: Quantity | None) -> dict[str, float | None]:
    stem, _, unit = name.rpartition("_")
    if quantity is None:
        return {name: None}
    return {name: quantity.value, f"{stem}_low_{unit}": quantity.low, f"{stem}_high_{unit}": quantity.high}


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", value


def _cell(path: Path) -> dict[str, Any]:
    """Return variant and seed of a study's cell; of another run nothing."""
    try:
        content = json.loads((path.parent / CELL_FILE).read_text(encoding="utf-8"))
        return {"variant": content["variant"], "seed": content["seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
