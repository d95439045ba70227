"""The log folder of experiment-impact-tracker 0.1: its power samples, and what it knew of the machine.

The folder holds ``impacttracker/data.json``, a line of JSON a sample, and ``impacttracker/info.pkl``, a pickle of what
was there at the start. The package itself is not needed, and nothing of it is run: of the pickle, plain values and
dates are taken, and every other object is an empty place.

Energy is added up as the tool does it: the power of a sample holds since the sample before; that of the last holds
until the end of the experiment. Two powers are kept: the GPUs' (of those that the run's processes used, shared with
other processes by their use of the multiprocessors), and the CPU packages' with the memory, shared by CPU time and
memory in use.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

from greenml.errors import RecordError
from greenml.record.importers._part import Part, read_text
from greenml.record.schema import LONGEST_SECONDS, DeviceRecord, Note, Usage

TOOL = "experiment-impact-tracker"
FOLDER, DATA, INFO = "impacttracker", "data.json", "info.pkl"
GPU, CPU = "nvidia_estimated_attributable_power_draw", "rapl_estimated_attributable_power_draw"
GPU_BUSY = "average_gpu_estimated_utilization_absolute"
PLAIN = {
    ("datetime", "datetime"), ("datetime", "timedelta"), ("datetime", "timezone"), ("builtins", "set"),
    ("builtins", "frozenset"), ("collections", "OrderedDict"),
}  # fmt: skip
NAMED = 3
MOST = 1e11  # seconds of a time, and watts: above, it is damage
ZONE_STEP_SECONDS = 900.0  # zones differ by quarters of an hour
CLOCK_SECONDS = 60.0  # a clock that was set meanwhile: so much may the start be after the first sample
MOST_ZONES_SECONDS = 26 * 3600.0  # between two zones

Sample = dict[str, Any]


def load(folder: Path) -> Part:
    """Read the folder that was given to ``ImpactTracker(folder)``, or the one in it.

    Args:
        folder: of the log.

    Raises:
        RecordError: there is no log in it, or no sample of it can be read.
    """
    home = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    samples, damaged = _samples(home / DATA)
    info, notes = _info(home / INFO)
    start = _moment(info.get("experiment_start"))
    shift = _zone_shift(start, samples[0]["timestamp"])
    first = _moment(samples[0]["timestamp"])
    start = first if start is None or first is None else min(start + shift, first)
    end = _moment(info.get("experiment_end"))
    end = end + shift if end is not None else None
    if "experiment_start" not in info:
        notes.append(_note(f"{TOOL} does not tell when the run began; it is counted from the first sample"))
    if end is None:
        end = _moment(samples[-1]["timestamp"])
        notes.append(_note(f"{TOOL} did not see the run end; it is counted up to the last sample"))
    if start is None or end is None or not 0 < (end - start).total_seconds() <= LONGEST_SECONDS:
        raise RecordError(f"{home}: from its start to its end is no time that a run takes")
    if damaged:
        lines = ", ".join(str(line) for line in damaged[:NAMED]) + (", ..." if len(damaged) > NAMED else "")
        notes.append(_note(f"{home / DATA}: left out, as it cannot be read: line {lines}"))
    if region := _region(info):
        notes.append(_note(f"{TOOL} took the region for {region}, by the address of the network: it is not used"))
    edges = [start.timestamp(), *(sample["timestamp"] for sample in samples), end.timestamp()]
    return Part(started=start, ended=end, devices=_devices(samples, edges, info), notes=notes)


def _samples(path: Path) -> tuple[list[Sample], list[int]]:
    """Return the samples in time order, and the numbers of the lines that are none."""
    if not path.exists():
        raise RecordError(f"{path.parent}: not a log of {TOOL}: it holds no {DATA}")
    samples: list[Sample] = []
    damaged: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
        except (ValueError, RecursionError):
            sample = None
        if isinstance(sample, dict) and _number(sample.get("timestamp")) is not None:
            samples.append(sample)
        else:
            damaged.append(number)
    if not samples:
        raise RecordError(f"{path}: {TOOL} wrote no sample that can be read")
    return sorted(samples, key=lambda sample: sample["timestamp"]), damaged


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < MOST else None


class _Empty:
    """Stands for an object of a package that is not needed."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values; code that a pickle names is never called."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  as pickle has it
        return super().find_class(module, name) if (module, name) in PLAIN else _Empty

    def persistent_load(self, pid: object) -> object:
        return None


def _info(path: Path) -> tuple[dict[str, Any], list[Note]]:
    try:
        info = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # noqa: BLE001  a damaged pickle raises anything
        return {}, [_note(f"{path.name} cannot be read ({type(error).__name__}); {DATA} alone is")]
    return (info if isinstance(info, dict) else {}), []


def _note(text: str) -> Note:
    return Note(code="impact-tracker", text=text)


def _moment(value: object) -> datetime | None:
    """Return a time: the tool writes local time without its zone, and unix seconds."""
    if isinstance(value, datetime):
        try:
            return value.astimezone(timezone.utc)
        except (OverflowError, ValueError, OSError):  # a year that no clock has
            return None
    seconds = _number(value)
    return None if seconds is None else datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=seconds)


def _zone_shift(start: datetime | None, first: float) -> timedelta:
    """Return by how much the tool's clock times are moved, so that the first sample follows the start.

    The tool writes the local time of its machine, and its samples in unix seconds: a reader of another zone would
    count hours that were not there.
    """
    late = first - start.timestamp() if start is not None else 0.0
    if 0 <= late <= ZONE_STEP_SECONDS or abs(late) > MOST_ZONES_SECONDS:
        return timedelta(0)
    return timedelta(seconds=math.floor((late + CLOCK_SECONDS) / ZONE_STEP_SECONDS) * ZONE_STEP_SECONDS)


def _region(info: dict[str, Any]) -> str:
    region = info.get("region")
    name = region.get("id") if isinstance(region, dict) else None
    return name if isinstance(name, str) else ""


def _devices(samples: Sequence[Sample], edges: Sequence[float], info: dict[str, Any]) -> list[DeviceRecord]:
    listed = info.get("gpu_info")
    gpus = [gpu for gpu in listed if isinstance(gpu, dict)] if isinstance(listed, list | tuple) else []
    names = list(dict.fromkeys(str(gpu.get("name", "")) for gpu in gpus)) or ["GPU"]
    cpu = info.get("cpu_info")
    brand = cpu.get("brand") or cpu.get("brand_raw") if isinstance(cpu, dict) else ""
    kinds: list[tuple[Literal["gpu", "cpu"], str, str, int, str]] = [
        ("gpu", GPU, " and ".join(names), max(1, len(gpus)), "the share of the run's processes, as the tool has it"),
        ("cpu", CPU, str(brand or "CPU"), 1, "packages and memory, the share of the run's processes"),
    ]  # fmt: skip
    devices = []
    for kind, column, name, count, note in kinds:
        if any(column in sample for sample in samples):
            usage = _usage([_number(sample.get(column)) for sample in samples], edges)
            if kind == "gpu":
                busy = [value for sample in samples if (value := _number(sample.get(GPU_BUSY))) is not None]
                usage = usage.model_copy(
                    update={"utilization_ratio": min(1.0, sum(busy) / len(busy)) if busy else None}
                )
            devices.append(
                DeviceRecord(
                    id=f"impact-tracker-{kind}", kind=kind, name=name, host="", method="reported",
                    sensor="impact_tracker", count=count, note=note, usage=usage,
                )
            )  # fmt: skip
    return devices


def _usage(watts: Sequence[float | None], edges: Sequence[float]) -> Usage:
    """Add power x time; a sample without the power covers nothing.

    Args:
        watts: of each sample.
        edges: the start, the time of each sample, the end; unix seconds.
    """
    joules = covered = 0.0
    for at, power in enumerate([*watts, watts[-1]]):
        if power is not None:
            seconds = max(0.0, edges[at + 1] - edges[at])
            joules += power * seconds
            covered += seconds
    known = [power for power in watts if power is not None]
    if not known:
        return Usage(why=f"{TOOL} could not read it")
    return Usage(
        energy_joules=joules, covered_seconds=covered, power_mean_watts=joules / covered if covered else None,
        power_max_watts=max(known),
    )  # fmt: skip
