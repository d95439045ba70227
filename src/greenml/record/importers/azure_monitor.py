"""Azure Monitor's metrics of an Azure ML run, as ``az monitor metrics list`` prints them, or asked of it by name.

Energy is summed over points and series. Utilization and mean memory are means over points, weighted by
their count where Azure gives it, else equally. Peak memory is the mean over the series of each one's largest
point: the mean over the GPUs of each one's peak, where the export is split by GPU. A point without a value
was not sampled: it is left out. Azure's megabytes are taken for 1e6 bytes, as published cards do.

Azure is asked for the GPU energy of a run of a workspace: by instance, of the run id alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenml.errors import RecordError, SettingsError
from greenml.record.importers._part import Part, read_json
from greenml.record.schema import DeviceRecord, Note, Usage
from greenml.redaction import redact_text
from greenml.units import BYTES_PER_MB

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.monitor.querymetrics import MetricsClient


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
ONE_MINUTE = timedelta(minutes=1)
RUN_ID_NAMES = ("runid", "rootrunid")
INSTANCE_NAME = "instanceid"  # the dimension of an online endpoint's deployment: one machine each
MOST = 1e30  # of any figure: above, it is damage
PERCENT_ROUNDING = 0.5  # rounding of means at the top of the scale

Point = dict[str, float]


@dataclass(slots=True)
class _Metric:
    """One metric: its points by series (the dimensions' values) and time, and the file it came from."""

    name: str
    where: str
    points: dict[tuple[tuple[str, str], ...], dict[str, Point]] = field(default_factory=dict)
    grain: timedelta | None = None

    def instances(self) -> dict[str, _Metric]:
        """Return the metric of each instance, where the export is split by instance."""
        parts: dict[str, _Metric] = {}
        for key, points in self.points.items():
            instance = next((value for name, value in key if name.lower() == INSTANCE_NAME), "")
            if instance:
                parts.setdefault(instance, _Metric(self.name, self.where, {}, self.grain)).points[key] = points
        return parts

    def joules(self) -> float:
        """Return the energy: the sum of the totals; of a deployment, which has none, of the means of each minute.

        Raises:
            RecordError: no point has either, or a mean is not that of a minute.
        """
        has_total = any("total" in point for points in self.points.values() for point in points.values())
        if has_total or not self.instances():
            return math.fsum(value for points in self.values("total") for value, _ in points)
        series = self.values("average")
        if self.grain != ONE_MINUTE:
            raise RecordError(
                f"{self.where}: {self.name} has means and no totals: export it with --interval PT1M, for a mean of "
                "more minutes than one does not tell their energy"
            )
        return math.fsum(value for points in series for value, _ in points)

    def values(self, aggregation: str) -> list[list[tuple[float, float]]]:
        """Return (value, weight) of the points that have the aggregation, by series; at least one.

        Raises:
            RecordError: no point has it; says how to export it.
        """
        series = []
        for points in self.points.values():
            known = [point for point in points.values() if aggregation in point]
            counted = bool(known) and all(point.get("count", 0) > 0 for point in known)
            if known:
                series.append([(point[aggregation], point["count"] if counted else 1.0) for point in known])
        if not series and not any(point for points in self.points.values() for point in points.values()):
            raise RecordError(
                f"{self.where}: {self.name} has no {aggregation} in any point: nothing was sampled in that time; check "
                f"--start-time, --end-time and the filter, and that {aggregation.capitalize()} was asked for"
            )
        if not series:
            raise RecordError(
                f"{self.where}: {self.name} has no {aggregation} in any point; "
                f"export it with --aggregation {aggregation.capitalize()}"
            )
        return series


def load(paths: Sequence[Path]) -> Part:
    """Read GPU energy, CPU and GPU utilization and GPU memory of one run, from one file or several.

    Raises:
        RecordError: as ``read`` does, or a file is not JSON.
    """
    return read([(str(path), _exported(path)) for path in paths])


def _exported(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except RecordError as error:
        if not str(error).endswith(("not JSON", "not a JSON object", "not a text file")):
            raise
        how = "give what 'az monitor metrics list --output json' prints"
        raise RecordError(
            f"{error}: a table, a CSV file of the portal and part of an answer are not read; {how}"
        ) from None


def read(contents: Sequence[tuple[str, dict[str, Any]]]) -> Part:
    """Read the same from what was exported.

    A metric that is not read here, that Azure Monitor could not answer, or that no point carries is left out. A note
    says what to do about it.

    Args:
        contents: of each export: where it came from, and its JSON.

    Raises:
        RecordError: a file is not such an export, has a known metric in another unit, is of several runs, holds the
            same point twice or in grains of two lengths, or nothing in the files can be read.
    """
    metrics: dict[str, _Metric] = {}
    troubles: list[str] = []
    windows: list[tuple[datetime, datetime]] = []
    for where, content in contents:
        listed = content.get("value")
        if isinstance(trouble := content.get("error"), dict):
            said = " ".join(f"{trouble.get('code', '')} {trouble.get('message', '')}".split())
            raise RecordError(f"{where}: Azure's answer was an error, {said}: export the metrics again")
        if not isinstance(listed, list) or not listed:
            raise RecordError(f"{where}: not an export of 'az monitor metrics list': no metric in 'value'")
        stamps: list[datetime] = []
        for entry in listed:
            if not isinstance(entry, dict):
                raise RecordError(f"{where}: a metric that is not a JSON object")
            stamps += _add(metrics, entry, where, troubles)
        _set_grain(metrics, listed, _grain(str(content.get("interval", ""))), where)
        windows.append(_window(content, stamps, where))
    _refuse_several_runs(metrics)
    gpus: list[DeviceRecord | None] = [*_instances(metrics, troubles)] or [_gpu(metrics, troubles)]
    devices = [device for device in (*gpus, _host(metrics, troubles)) if device is not None]
    if not devices:
        raise RecordError(troubles[0])
    return Part(
        started=min((start for start, _ in windows), default=None),
        ended=max((end for _, end in windows), default=None),
        devices=devices,
        notes=[Note(code="azure-monitor", text=trouble) for trouble in troubles],
        is_of_one_run=ENERGY in metrics
        and all(any(name.lower() in RUN_ID_NAMES for name, _ in key) for key in metrics[ENERGY].points),
    )


def _set_grain(
    metrics: dict[str, _Metric], listed: Sequence[dict[str, Any]], grain: timedelta | None, where: str
) -> None:
    """Keep the grain of a file's metrics: points of two grains may lie in each other, and are of different weight."""
    names = {str(entry["name"]["value"]) for entry in listed}
    for metric in metrics.values():
        if metric.name in names:
            if metric.grain is not None and grain is not None and metric.grain != grain:
                raise RecordError(
                    f"{where}: {metric.name} in points of {grain}, in {metric.where} of {metric.grain}: "
                    "export all of it with one --interval"
                )
            metric.grain = metric.grain or grain


def _add(metrics: dict[str, _Metric], content: dict[str, Any], where: str, troubles: list[str]) -> list[datetime]:
    """Add one metric's points to those known; return the times of its points that carry a value."""
    name, unit, series = _parts(content, where)
    code = content.get("errorCode") or "Success"
    if code != "Success":
        message = content.get("errorMessage") or "no message"
        troubles.append(f"{where}: {name}: Azure Monitor answered {code}: {' '.join(str(message).split())}")
        return []
    if name not in UNITS:
        troubles.append(f"{where}: metric {name!r} is not one that greenml reads: {', '.join(UNITS)}")
        return []
    if unit.lower() not in map(str.lower, UNITS[name]):
        raise RecordError(f"{where}: {name} in unit {unit!r}; it is read in {' or '.join(UNITS[name])}")
    metric = metrics.setdefault(name, _Metric(name, where))
    stamps = []
    for curve in series:
        try:
            dimensions = curve.get("metadatavalues") or []
            key = tuple(sorted((str(each["name"]["value"]), str(each["value"])) for each in dimensions))
            data = list(curve.get("data") or [])
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
            stamps.append(_time(stamp, where))
    return stamps


def _parts(content: dict[str, Any], where: str) -> tuple[str, str, list[Any]]:
    """Return a metric's name, unit and time series; of one that is not read here, the name."""
    try:
        name = str(content["name"]["value"])
        return (name, str(content["unit"]), list(content["timeseries"] or [])) if name in UNITS else (name, "", [])
    except (KeyError, TypeError):
        raise RecordError(f"{where}: a metric without name, unit or timeseries") from None


def _point(item: object, where: str) -> tuple[str, Point]:
    """Return a point's time and its known aggregations."""
    if not isinstance(item, dict) or "timeStamp" not in item:
        raise RecordError(f"{where}: a point without timeStamp")
    point = {}
    for name in AGGREGATIONS:
        value = item.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < MOST:
            raise RecordError(f"{where}: {name} at {item['timeStamp']} is {value!r}, not a number from 0 up")
        point[name] = float(value)
    if point.get("count") == 0:  # nothing was sampled: its other figures are 0, and mean nothing
        return str(item["timeStamp"]), {}
    if "average" not in point and "total" in point and point.get("count", 0) > 0:
        point["average"] = point["total"] / point["count"]
    if set(point) == {"count"}:
        return str(item["timeStamp"]), {}
    return str(item["timeStamp"]), point


def _time(text: str, where: str) -> datetime:
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
    return _time(start, where), _time(end, where)


def _refuse_several_runs(metrics: dict[str, _Metric]) -> None:
    ids: dict[str, set[str]] = {}
    for metric in metrics.values():
        for key in metric.points:
            for name, value in key:
                if name.lower() in RUN_ID_NAMES:
                    ids.setdefault(name.lower(), set()).add(value.lower())
    for values in ids.values():
        if len(values) > 1:
            names = ", ".join(sorted(values)[:4]) + (", ..." if len(values) > 4 else "")
            raise RecordError(f"Azure Monitor: {len(values)} runs ({names}) in these files; export one, by its run id")


def _mean(series: list[list[tuple[float, float]]]) -> float:
    pairs = [pair for points in series for pair in points]
    weight = math.fsum(weight for _, weight in pairs)
    return math.fsum(value * share for value, share in pairs) / weight


def _known(troubles: list[str], figure: Callable[[], float]) -> float | None:
    """Return a figure; None, with the reason among the troubles, where no point carries it."""
    try:
        return figure()
    except RecordError as error:
        troubles.append(str(error))
        return None


def _ratio(metric: _Metric | None, troubles: list[str]) -> float | None:
    percent = _known(troubles, lambda: _mean(metric.values("average"))) if metric is not None else None
    if metric is not None and percent is not None and percent > 100 + PERCENT_ROUNDING:
        raise RecordError(f"{metric.where}: {metric.name} averages {percent:.6g}, above 100 percent")
    return percent / 100 if percent is not None else None


def _instances(metrics: dict[str, _Metric], troubles: list[str]) -> list[DeviceRecord]:
    """Return the GPUs of each instance of an endpoint's deployment; none where the export is not split by instance."""
    names = list(metrics[ENERGY].instances()) if ENERGY in metrics else []
    devices = []
    for name in names:
        parts = {metric.name: metric.instances()[name] for metric in metrics.values() if name in metric.instances()}
        device = _gpu(parts, troubles)
        if device is not None:
            changes = {"id": f"{GPU_ID}-{name}", "name": f"GPUs of instance {name}", "host": name}
            devices.append(device.model_copy(update=changes))
    return devices


def _gpu(metrics: dict[str, _Metric], troubles: list[str]) -> DeviceRecord | None:
    energy, memory, utilization = metrics.get(ENERGY), metrics.get(MEMORY), metrics.get(GPU)
    joules = mean = peak = None
    why = f"Azure Monitor's {ENERGY} was not given"
    if energy is not None:
        joules = _known(troubles, energy.joules)
        why = troubles[-1] if joules is None else ""
    if memory is not None:
        mean = _known(troubles, lambda: _mean(memory.values("average")) * BYTES_PER_MB)
        if any("maximum" in point for points in memory.points.values() for point in points.values()):
            peaks = [max(value for value, _ in points) for points in memory.values("maximum")]
            peak = math.fsum(peaks) / len(peaks) * BYTES_PER_MB
    ratio = _ratio(utilization, troubles)
    if joules is None and mean is None and peak is None and ratio is None:
        return None
    return DeviceRecord(
        id=GPU_ID,
        kind="gpu",
        name="GPUs as Azure Monitor counts them",
        host="",
        method="reported",
        sensor="azure_monitor",
        usage=Usage(
            energy_joules=joules,
            why=why,
            utilization_ratio=ratio,
            memory_mean_bytes=mean,
            memory_max_bytes=peak,
        ),
    )


def _host(metrics: dict[str, _Metric], troubles: list[str]) -> DeviceRecord | None:
    ratio = _ratio(metrics.get(CPU), troubles)
    if ratio is None:
        return None
    return DeviceRecord(
        id=HOST_ID,
        kind="host",
        name="node as Azure Monitor counts it",
        host="",
        method=None,
        sensor="azure_monitor",
        usage=Usage(why="a node's energy is not counted here", utilization_ratio=ratio),
    )


NAMESPACE = "Microsoft.MachineLearningServices/workspaces"
MARGIN = timedelta(minutes=5)  # the figures are of the run id: a wider window adds nothing of others
FINE_WINDOW = timedelta(days=1)  # up to this, in points of a minute, else of an hour
MOST_SERIES = 1000  # 10 by default, which would leave instances out
SECONDS = {"connection_timeout": 20, "read_timeout": 60, "retry_total": 2}
SHOWN_LETTERS = 300


def client(region: str, credential: TokenCredential | None = None) -> MetricsClient:
    """Return a client of a region's metrics; by default with the credential that Azure's own tools would take.

    Raises:
        SettingsError: the packages are not installed, or there is no such region.
    """
    if not re.fullmatch(r"[a-z0-9]+", region):
        raise SettingsError(f"--with azure: the region is a name such as westus2, not {region!r}")
    try:
        from azure.identity import DefaultAzureCredential
        from azure.monitor.querymetrics import MetricsClient
    except ImportError as error:
        raise SettingsError(
            f"--with azure:/subscriptions/... needs packages: pip install 'greenml[azure-monitor]' ({error})"
        ) from None
    credential = DefaultAzureCredential() if credential is None else credential
    return MetricsClient(f"https://{region}.metrics.monitor.azure.com", credential, **SECONDS)


def ask(client: MetricsClient, workspace: str, run: str, start: datetime, end: datetime) -> dict[str, Any]:
    """Return a run's GPU energy as ``az monitor metrics list`` prints it.

    Args:
        client: of the workspace's region.
        workspace: its resource id, ``/subscriptions/.../workspaces/NAME``.
        run: its run id.
        start: when it began.
        end: when it ended.

    Raises:
        SettingsError: the run id is none.
        RecordError: Azure Monitor does not answer, or refuses.
    """
    from azure.core.exceptions import AzureError

    if not re.fullmatch(r"[\w.-]+", run):
        raise SettingsError(f"--with azure: {run!r} is not a run id of Azure ML")
    try:
        results = client.query_resources(
            resource_ids=[workspace], metric_namespace=NAMESPACE, metric_names=[ENERGY],
            timespan=(start - MARGIN, end + MARGIN),
            granularity=timedelta(minutes=1) if end - start <= FINE_WINDOW else timedelta(hours=1),
            aggregations=["total"], filter=f"RunId eq '{run}' and InstanceId eq '*'", max_results=MOST_SERIES,
        )  # fmt: skip
    except (AzureError, KeyError, TypeError, ValueError) as error:
        text = " ".join(redact_text(str(error)).split())[:SHOWN_LETTERS]
        raise RecordError(f"Azure Monitor: {type(error).__name__}: {text}") from None
    [result, *_] = results or [None]
    if result is None:
        raise RecordError("Azure Monitor: it answered without a result")
    return {
        "interval": str(result.granularity),
        "timespan": result.timespan,
        "value": [
            {
                "name": {"value": metric.name},
                "unit": metric.unit,
                "timeseries": [
                    {
                        "metadatavalues": [
                            {"name": {"value": name}, "value": value} for name, value in series.metadata_values.items()
                        ],
                        "data": [
                            {"timeStamp": point.timestamp.isoformat(), "total": point.total} for point in series.data
                        ],
                    }
                    for series in metric.timeseries
                ],
            }
            for metric in result.metrics
        ],
    }
