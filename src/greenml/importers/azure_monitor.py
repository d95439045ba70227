"""Azure Monitor's metrics of an Azure ML run, as ``az monitor metrics list`` prints them.

Energy is summed over points and series. Utilization and mean memory are means over points, weighted by
their count where Azure gives it, else equally. Peak memory is the mean over the series of each one's largest
point: the mean over the GPUs of each one's peak, where the export is split by GPU. A point without a value
was not sampled: it is left out. Azure's megabytes are taken for 1e6 bytes, as published cards do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.importers._part import Part, read_json
from greenml.record import DeviceRecord, Usage
from greenml.units import BYTES_PER_MB

GPU_ID = "azure-monitor-gpu"
HOST_ID = "azure-monitor-host"
ENERGY, CPU, GPU, MEMORY = (
    "GpuEnergyJoules",
    "CpuUtilizationPercentage",
    "GpuUtilizationPercentage",
    "GpuMemoryUtilizationMegabytes",
)
UNITS = {
    ENERGY: ("Count", "Unspecified"),
    CPU: ("Count", "Percent", "Unspecified"),
    GPU: ("Count", "Percent", "Unspecified"),
    MEMORY: ("Count", "Unspecified"),
}
AGGREGATIONS = ("total", "average", "maximum", "count")
FINE_GRAIN = timedelta(minutes=5)  # up to this, the points tell when the run was; above, the time window does
RUN_ID_NAMES = ("runid", "rootrunid")
PERCENT_DOUBT = 0.5  # rounding of means at the top of the scale

Point = dict[str, float]


@dataclass(slots=True)
class _Metric:
    """One metric: its points by series (the dimensions' values) and time, and the file it came from."""

    name: str
    where: str
    points: dict[tuple[tuple[str, str], ...], dict[str, Point]] = field(default_factory=dict)

    def values(self, aggregation: str) -> list[list[tuple[float, float]]]:
        """Return (value, weight) of the points that have the aggregation, by series; at least one.

        Raises:
            RecordError: no point has it.
        """
        series = []
        for points in self.points.values():
            known = [point for point in points.values() if aggregation in point]
            counted = bool(known) and all(point.get("count", 0) > 0 for point in known)
            if known:
                series.append([(point[aggregation], point["count"] if counted else 1.0) for point in known])
        if not series:
            raise RecordError(
                f"{self.where}: {self.name} has no {aggregation} in any point; "
                f"export it with --aggregation {aggregation.capitalize()}"
            )
        return series


def load(paths: Sequence[Path]) -> Part:
    """Read GPU energy, CPU and GPU utilization and GPU memory of one run, from one file or several.

    Raises:
        RecordError: a file is not such an export, holds an unknown metric or unit, tells of an error, of
            several runs, or of the same point twice.
    """
    metrics: dict[str, _Metric] = {}
    windows: list[tuple[datetime, datetime]] = []
    for path in paths:
        content = read_json(path)
        listed = content.get("value")
        if not isinstance(listed, list) or not listed:
            raise RecordError(f"{path}: not an export of 'az monitor metrics list': no metric in 'value'")
        stamps: list[datetime] = []
        for one in listed:
            if not isinstance(one, dict):
                raise RecordError(f"{path}: a metric that is not a JSON object")
            stamps += _add(metrics, one, str(path))
        windows.append(_window(content, stamps, str(path)))
    _refuse_several_runs(metrics)
    devices = [device for device in (_gpu(metrics), _host(metrics)) if device is not None]
    return Part(
        started=min((start for start, _ in windows), default=None),
        ended=max((end for _, end in windows), default=None),
        devices=devices,
    )


def _add(metrics: dict[str, _Metric], content: dict[str, Any], where: str) -> list[datetime]:
    """Add one metric's points to those known; return the times of its points that carry a value."""
    try:
        name = str(content["name"]["value"])
        unit = str(content["unit"])
        series = list(content["timeseries"])
    except (KeyError, TypeError):
        raise RecordError(f"{where}: a metric without name, unit or timeseries") from None
    code = content.get("errorCode", "Success")
    if code != "Success":
        message = content.get("errorMessage") or "no message"
        raise RecordError(f"{where}: {name}: Azure Monitor answered {code}: {' '.join(str(message).split())}")
    if name not in UNITS:
        raise RecordError(f"{where}: metric {name!r} is not one that greenml reads: {', '.join(UNITS)}")
    if unit not in UNITS[name]:
        raise RecordError(f"{where}: {name} in unit {unit!r}; it is read in {' or '.join(UNITS[name])}")
    metric = metrics.setdefault(name, _Metric(name, where))
    stamps = []
    for one in series:
        try:
            dimensions = one.get("metadatavalues") or []
            key = tuple(sorted((str(each["name"]["value"]), str(each["value"])) for each in dimensions))
            data = list(one["data"])
        except (AttributeError, KeyError, TypeError):
            raise RecordError(f"{where}: {name}: a time series without data or with a malformed dimension") from None
        points = metric.points.setdefault(key, {})
        for item in data:
            stamp, point = _point(item, f"{where}: {name}")
            if not point:
                continue
            if stamp in points:
                raise RecordError(f"{where}: {name} at {stamp} is there twice; give each export once")
            points[stamp] = point
            stamps.append(_moment(stamp, where))
    return stamps


def _point(item: object, where: str) -> tuple[str, Point]:
    """Return a point's time and its known aggregations."""
    if not isinstance(item, dict) or "timeStamp" not in item:
        raise RecordError(f"{where}: a point without timeStamp")
    point = {}
    for name in AGGREGATIONS:
        value = item.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise RecordError(f"{where}: {name} at {item['timeStamp']} is {value!r}, not a number from 0 up")
        point[name] = float(value)
    if set(point) == {"count"}:
        return str(item["timeStamp"]), {}
    return str(item["timeStamp"]), point


def _moment(text: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text).replace("Z", "+00:00"))
    except ValueError:
        raise RecordError(f"{where}: {text!r} is not an ISO date and time") from None
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _grain(text: str) -> timedelta | None:
    """Return the grain of the points, from ``0:01:00``, ``1 day, 0:00:00`` or ``PT1M``."""
    clock = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d+):(\d+)", text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    iso = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", text)
    if iso:
        days, hours, minutes, seconds = (int(part or 0) for part in iso.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return None


def _window(content: dict[str, Any], stamps: Iterable[datetime], where: str) -> tuple[datetime, datetime]:
    """Return when the run was: from its points where they are fine, else the time window of the export."""
    grain = _grain(str(content.get("interval", "")))
    known = sorted(stamps)
    if known and grain and timedelta(0) < grain <= FINE_GRAIN:
        return known[0], known[-1] + grain
    start, _, end = str(content.get("timespan", "")).partition("/")
    return _moment(start, where), _moment(end, where)


def _refuse_several_runs(metrics: dict[str, _Metric]) -> None:
    found: dict[str, set[str]] = {}
    for metric in metrics.values():
        for key in metric.points:
            for name, value in key:
                if name.lower() in RUN_ID_NAMES:
                    found.setdefault(name.lower(), set()).add(value.lower())
    for values in found.values():
        if len(values) > 1:
            names = ", ".join(sorted(values)[:4]) + (", ..." if len(values) > 4 else "")
            raise RecordError(f"Azure Monitor: {len(values)} runs ({names}) in these files; export one, by its run id")


def _mean(series: list[list[tuple[float, float]]]) -> float:
    pairs = [pair for points in series for pair in points]
    weight = math.fsum(weight for _, weight in pairs)
    return math.fsum(value * one for value, one in pairs) / weight


def _ratio(metric: _Metric | None) -> float | None:
    if metric is None:
        return None
    percent = _mean(metric.values("average"))
    if percent > 100 + PERCENT_DOUBT:
        raise RecordError(f"{metric.where}: {metric.name} averages {percent:.6g}, above 100 percent")
    return percent / 100


def _gpu(metrics: dict[str, _Metric]) -> DeviceRecord | None:
    energy, memory = metrics.get(ENERGY), metrics.get(MEMORY)
    if not {ENERGY, GPU, MEMORY} & set(metrics):
        return None
    joules = None
    if energy is not None:
        joules = math.fsum(value for points in energy.values("total") for value, _ in points)
    mean = peak = None
    if memory is not None:
        mean = _mean(memory.values("average")) * BYTES_PER_MB
        if any("maximum" in point for points in memory.points.values() for point in points.values()):
            peaks = [max(value for value, _ in points) for points in memory.values("maximum")]
            peak = math.fsum(peaks) / len(peaks) * BYTES_PER_MB
    return DeviceRecord(
        id=GPU_ID,
        kind="gpu",
        name="GPUs as Azure Monitor counts them",
        host="",
        method="reported",
        sensor="azure_monitor",
        usage=Usage(
            energy_joules=joules,
            why="" if joules is not None else f"Azure Monitor's {ENERGY} was not given",
            utilization_ratio=_ratio(metrics.get(GPU)),
            memory_mean_bytes=mean,
            memory_max_bytes=peak,
        ),
    )


def _host(metrics: dict[str, _Metric]) -> DeviceRecord | None:
    if CPU not in metrics:
        return None
    return DeviceRecord(
        id=HOST_ID,
        kind="host",
        name="node as Azure Monitor counts it",
        host="",
        method=None,
        sensor="azure_monitor",
        usage=Usage(why="a node's energy is not counted here", utilization_ratio=_ratio(metrics[CPU])),
    )
