"""OpenTelemetry: metrics over OTLP and HTTP, ``opentelemetry`` or ``opentelemetry:http://HOST:4318``.

Devices have the names of the semantic conventions for hardware (``hw.energy``, ``hw.power``, ``hw.gpu.*``); carbon and
money, for which there are none, have ``greenml.*``. The variables ``OTEL_EXPORTER_OTLP_*``, ``OTEL_SERVICE_NAME``,
``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_METRIC_EXPORT_INTERVAL`` hold, but counters are always cumulative: a delta that
is delivered twice would count twice.

Source: https://opentelemetry.io/docs/specs/semconv/hardware/ (semantic conventions 1.44, status development)
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, NumberDataPoint
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from greenml.errors import SettingsError
from greenml.sinks import draw_apart
from greenml.sinks._names import METRICS, Metric

if TYPE_CHECKING:
    from greenml.accounting.status import RunStatus
    from greenml.record.schema import RunRecord
    from greenml.sinks import RunInfo

draw_apart("opentelemetry.exporter.otlp.common.http")
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
EXPORT_SECONDS = 10.0  # between two exports, where OTEL_METRIC_EXPORT_INTERVAL does not say
HARDWARE = {"gpu": "gpu", "cpu": "cpu", "dram": "memory"}  # a device's kind as ``hw.type`` calls it
NANOSECONDS = 1e9


def create(argument: str) -> OpenTelemetry:
    """Make the sink of the endpoint that the environment names, or of another.

    Raises:
        SettingsError: the argument is not the address of a receiver.
    """
    if argument:
        address = urlsplit(argument)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise SettingsError("opentelemetry: give a receiver's address, such as opentelemetry:http://127.0.0.1:4318")
        if not address.path.strip("/"):
            argument = address._replace(path="/v1/metrics").geturl()
    return OpenTelemetry(argument)


class OpenTelemetry:
    """A receiver of OTLP."""

    close_seconds = 10.0

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPMetricExporter(endpoint=endpoint or None)
        milliseconds = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
        self.update_seconds = int(milliseconds) / 1000 if milliseconds.isdecimal() else EXPORT_SECONDS

    def open(self, run: RunInfo) -> None:
        """Note which run it is."""
        given = Resource.create().attributes  # of the environment, and what the package adds to it
        attributes = {"greenml.run.id": run.run_id} | ({"greenml.run.name": run.name} if run.name else {})
        if "service.instance.id" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            attributes["service.instance.id"] = run.run_id  # else a random one, and other series at each delivery
        if str(given.get("service.name", "")).startswith("unknown_service"):
            attributes["service.name"] = "greenml"
        self._resource = Resource.create(attributes)
        self._start_seconds = run.unix_seconds or time.time()

    def update(self, status: RunStatus) -> None:
        """Export the figures of this moment.

        Raises:
            ConnectionError: the receiver did not take them.
        """
        self._export(status, time.time())

    def close(self, record: RunRecord) -> None:
        """Export the record's figures, as of its end; a second time they are the same points.

        Raises:
            ConnectionError: the receiver did not take them.
        """
        self._start_seconds = record.started.timestamp()
        self._export(record, (record.ended or record.started).timestamp())

    def _export(self, of: RunStatus | RunRecord, unix_seconds: float) -> None:
        start, now = int(self._start_seconds * NANOSECONDS), int(unix_seconds * NANOSECONDS)
        hosts: dict[str, dict[Metric, list[NumberDataPoint]]] = defaultdict(lambda: defaultdict(list))
        for metric in METRICS:
            for labels, value in metric.values(of):
                if value is not None and math.isfinite(value):
                    point = NumberDataPoint(
                        attributes=_attributes(metric, labels), start_time_unix_nano=start,
                        time_unix_nano=max(start, now), value=value,
                    )  # fmt: skip
                    hosts[labels.get("host", "")][metric].append(point)
        data = MetricsData([self._of_host(host, points) for host, points in hosts.items()])
        if self._exporter.export(data) is not MetricExportResult.SUCCESS:
            raise ConnectionError("the receiver did not take the metrics")

    def _of_host(self, host: str, points: Mapping[Metric, list[NumberDataPoint]]) -> export.ResourceMetrics:
        resource = self._resource.merge(Resource({"host.name": host})) if host else self._resource
        together: dict[str, tuple[Metric, list[NumberDataPoint]]] = {}
        for metric, own in points.items():  # the energy of GPUs and of CPUs is one metric here
            together.setdefault(metric.opentelemetry, (metric, []))[1].extend(own)
        metrics = [_metric(metric, own) for metric, own in together.values()]
        scope = InstrumentationScope("greenml", schema_url=SCHEMA_URL)
        return export.ResourceMetrics(resource, [export.ScopeMetrics(scope, metrics, SCHEMA_URL)], SCHEMA_URL)


def _metric(metric: Metric, points: list[NumberDataPoint]) -> export.Metric:
    data: export.Sum | export.Gauge = export.Gauge(points)
    if metric.kind == "counter":
        data = export.Sum(points, export.AggregationTemporality.CUMULATIVE, is_monotonic=True)
    description = "" if metric.opentelemetry.startswith("hw.") else metric.description
    return export.Metric(metric.opentelemetry, description, metric.unit, data)


def _attributes(metric: Metric, labels: Mapping[str, str]) -> dict[str, str]:
    """Return what tells a value apart: of a device, the attributes that the conventions require and recommend."""
    kind = next((kind for kind in HARDWARE if kind in labels), None)
    if kind is None:
        return {f"greenml.{name}": labels[name] for name in metric.labels}
    attributes = {"hw.id": labels["id"], "hw.type": HARDWARE[kind]}
    return attributes | ({"hw.name": labels["name"]} if labels["name"] else {})
