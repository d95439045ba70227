"""Records as a pandas DataFrame: one row a run, SI units in the names of the columns. pandas is an extra."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenml.analysis import record_search
from greenml.errors import RecordError, SettingsError
from greenml.record.schema import Quantity, RunRecord

if TYPE_CHECKING:
    from pandas import DataFrame

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
    records, _ = record_search.load([fspath(path) for path in given])
    labels = record_search.labels(records)
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
