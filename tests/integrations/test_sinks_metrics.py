"""Sinks of metrics with the real programs: Prometheus, node_exporter, Pushgateway, and a receiver of OTLP."""

from __future__ import annotations

import gzip
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from prometheus_client.parser import text_string_to_metric_families

import greenml
from greenml import sinks
from greenml.accounting.status import DeviceStatus, RunningTotals, RunStatus
from greenml.cli import main
from greenml.sinks import prometheus

JOULES = "greenml_energy_joules_total"
PANELS = json.loads((Path(__file__).parents[2] / "examples/monitoring/dashboard.json").read_text())["panels"]
DASHBOARD = [
    target["expr"].replace("$job", ".*").replace("$instance", ".*") for panel in PANELS for target in panel["targets"]
]
STATUS = RunStatus(
    "t5", "running", None, 1, ("a", "b"), 2, RunningTotals(30.0, 17000.0, 600.0, 5.0, {"spot": 0.5}),
    devices=[
        DeviceStatus("a", "gpu", "GPU-1", "0", "Tesla V100", 300.0, None, 0.5, 1e9, 32e9, 9000.0),
        DeviceStatus("b", "cpu", "package-0", "package-0", "Xeon", 50.0, None, None, None, None, 800.0),
        DeviceStatus("b", "dram", "dram-0", "dram-0", "", None, None, None, None, None, 90.0),
    ],
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def waited_for(ask: Callable[[], object], seconds: float = 60.0) -> object:
    """Return what an answer becomes that is true, or that raises no more; the last one after a bounded time."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
        except (OSError, LookupError, ValueError):
            answer = None
        if answer or time.monotonic() > end:
            return answer
        time.sleep(0.05)


@contextmanager
def program(folder: Path, *words: str, ready: str):
    """Run a program of Debian until the block ends, once its page answers."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed (apt-get install {words[0]})")
    with (folder / "program.log").open("w") as log:
        child = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
        try:
            assert waited_for(lambda: requests.get(ready, timeout=5).ok), (folder / "program.log").read_text()
            yield
        finally:
            child.kill()
            child.wait(30)


def measured(folder: Path, *names: str) -> greenml.RunRecord:
    with greenml.track(folder / "run.json", name="t5", price_per_hour=3.0, sinks=list(names)) as run:
        time.sleep(0.3)
    assert [note.text for note in run.record.notes if note.code == "sink"] == []
    return run.record


def joules(record: greenml.RunRecord) -> float:
    return record.total().it_energy_joules.value


def send(folder: Path, name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["send", str(folder / "run.json"), "--sink", name])
    assert ended.value.code == 0


def samples(page: str) -> dict[str, float]:
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}


def test_a_prometheus_server_scrapes_the_page_and_answers(tmp_path):
    port, own = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: greenml, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    address = f"http://127.0.0.1:{own}"

    def query(text: str) -> float:
        answer = requests.get(f"{address}/api/v1/query", {"query": text}, timeout=10).json()
        return float(answer["data"]["result"][0]["value"][1])

    try:
        record = measured(tmp_path, f"prometheus:{port}")
        words = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{own}"]
        with program(tmp_path, "prometheus", *words, ready=f"{address}/-/ready"):
            assert waited_for(lambda: query(f"sum({JOULES})")) == joules(record)
            assert query(f'greenml_run_info{{run_id="{record.run_id}",status="completed"}}') == 1
            assert query('greenml_cost_usd_total{tier="dedicated"}') == record.total().cost_usd["dedicated"].value
            kwh = next(text for text in DASHBOARD if text.startswith("sum(greenml_energy_joules_total"))
            assert query(kwh) == joules(record) / 3.6e6
            runs = next(text for text in DASHBOARD if text.startswith("greenml_duration_seconds_total"))
            assert query(runs) == record.duration_seconds  # joined with what is known of the run
    finally:
        prometheus.stop_pages()


def test_node_exporter_serves_the_text_file(tmp_path):
    record = measured(tmp_path, f"prometheus:{tmp_path}/greenml.prom")
    port = free_port()
    words = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={tmp_path}"]
    page = f"http://127.0.0.1:{port}/metrics"
    listen = f"--web.listen-address=127.0.0.1:{port}"
    with program(tmp_path, "prometheus-node-exporter", *words, listen, ready=page):
        text = requests.get(page, timeout=10).text
    assert samples(text)[JOULES] == joules(record)
    assert samples(text)["node_textfile_scrape_error"] == 0


def test_a_pushgateway_holds_one_group_a_run(tmp_path):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    listen = f"--web.listen-address=127.0.0.1:{port}"
    with program(tmp_path, "prometheus-pushgateway", listen, ready=f"{address}/-/ready"):
        record = measured(tmp_path, f"prometheus:push={address}")
        first = requests.get(f"{address}/api/v1/metrics", timeout=10).json()["data"]
        send(tmp_path, f"prometheus:push=http://user:hunter2@127.0.0.1:{port}")
        (group,) = requests.get(f"{address}/api/v1/metrics", timeout=10).json()["data"]
    assert group["labels"]["run_id"] == record.run_id
    assert [float(metric["value"]) for metric in group[JOULES]["metrics"]] == [joules(record)]
    assert group[JOULES]["metrics"] == first[0][JOULES]["metrics"]
    assert "greenml_power_watts" not in group  # nothing draws power any more


# OpenTelemetry


class Receiver(http.server.ThreadingHTTPServer):
    """A receiver of OTLP over HTTP, which keeps what it got as the official package decodes it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str], ExportMetricsServiceRequest]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def points(self) -> dict[tuple, float]:
        """Return the last value of each series: resource, name and attributes."""
        found = {}
        for _, _, request in self.requests:
            for resource in request.resource_metrics:
                about = texts(resource.resource.attributes)
                for metric in resource.scope_metrics[0].metrics:
                    for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
                        assert point.start_time_unix_nano <= point.time_unix_nano
                        assert metric.HasField("gauge") or point.start_time_unix_nano > 0
                        key = (
                            metric.name,
                            metric.unit,
                            about.get("host.name"),
                            tuple(sorted(texts(point.attributes).items())),
                        )
                        found[key] = point.as_double
        return found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append((self.path, dict(self.headers), ExportMetricsServiceRequest.FromString(body)))
        answer = ExportMetricsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def texts(attributes) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in attributes}


@pytest.fixture
def receiver():
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def test_a_receiver_of_otlp_gets_the_record_once(tmp_path, receiver):
    record = measured(tmp_path, f"opentelemetry:{receiver.address}")
    points = receiver.points()
    assert points["greenml.energy", "J", None, ()] == joules(record)
    assert points["greenml.cost", "{USD}", None, (("greenml.tier", "dedicated"),)] == pytest.approx(
        record.total().cost_usd["dedicated"].value
    )
    devices = {device.id: device for device in record.devices if device.usage.energy_joules is not None}
    measured_joules = {dict(key[3])["hw.id"]: value for key, value in points.items() if key[0] == "hw.energy"}
    assert measured_joules == {name: device.usage.energy_joules for name, device in devices.items()}
    (path, _, last) = receiver.requests[-1]
    assert path == "/v1/metrics"
    about = texts(last.resource_metrics[0].resource.attributes)
    assert about["greenml.run.id"] == record.run_id
    assert about["service.name"] == "greenml"
    for _ in range(2):
        send(tmp_path, f"opentelemetry:{receiver.address}")
    # The same points of the same times: nothing is there to count twice.
    assert [request for _, _, request in receiver.requests[-2:]] == [last, last]


def test_otlp_follows_the_conventions_and_the_environment(receiver, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab,host.name=other")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "summaries")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "15000")
    sink = sinks.create("opentelemetry")
    sink.open(sinks.RunInfo("r", "t5", 1000.0))
    sink.update(STATUS)
    assert sink.update_seconds == 15.0
    points = receiver.points()
    gpu = ("hw.id", "GPU-1"), ("hw.name", "Tesla V100"), ("hw.type", "gpu")
    assert points["hw.energy", "J", "a", gpu] == 9000.0
    assert points["hw.power", "W", "a", gpu] == 300.0
    assert points["hw.gpu.utilization", "1", "a", gpu] == 0.5
    assert points["hw.gpu.memory.usage", "By", "a", gpu] == 1e9
    assert points["hw.energy", "J", "b", (("hw.id", "package-0"), ("hw.name", "Xeon"), ("hw.type", "cpu"))] == 800.0
    assert points["hw.energy", "J", "b", (("hw.id", "dram-0"), ("hw.type", "memory"))] == 90.0
    assert points["greenml.co2e", "g", "other", ()] == 5.0
    ((path, headers, request),) = receiver.requests
    assert path == "/v1/metrics"
    assert headers["api-key"] == "hunter2"
    about = texts(request.resource_metrics[0].resource.attributes)
    assert (about["service.name"], about["deployment.environment.name"]) == ("summaries", "lab")
    sums = [
        metric.sum for resource in request.resource_metrics for metric in resource.scope_metrics[0].metrics
        if metric.HasField("sum")
    ]  # fmt: skip
    assert {(data.is_monotonic, data.aggregation_temporality) for data in sums} == {(True, 2)}  # cumulative
    assert "hunter2" not in json.dumps([str(request), str(points)])


@pytest.mark.parametrize("wrong", ["localhost:4318", "ftp://a", "http://"])
def test_a_wrong_address_is_named(wrong):
    with pytest.raises(greenml.SettingsError, match="give a receiver's address"):
        sinks.create(f"opentelemetry:{wrong}")
    with pytest.raises(greenml.SettingsError, match="give the gateway's address"):
        sinks.create(f"prometheus:push={wrong}")
