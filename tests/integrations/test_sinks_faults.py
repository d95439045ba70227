"""A sink that is dead, slow, refuses or is full: the training's losses stay as they are, bit for bit.

Afterwards, with the fault over, ``greenml send`` delivers the record, once however often it is called. Each fault at
the start, and in the middle, when the sink has had figures:

=============================  =========================================================================
sink                           faults
=============================  =========================================================================
mlflow, opentelemetry,         the service closes every connection, hangs, answers 401, 429 or 500
prometheus:push, wandb online
wandb online                   its own process is killed (in the middle)
tensorboard, prometheus:FILE,  the disk is full
trackio, wandb offline,
mlflow:sqlite
=============================  =========================================================================

With W&B each fault has a training of its own: each comes at the start or in the middle, and at both with
``GREENML_TEST_FAULTS=all``.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import greenml
from greenml.cli import main

TRAINING = """
import json, os, random, sys, time
import numpy, torch
import greenml

torch.manual_seed(7), random.seed(7), numpy.random.seed(7)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
run = greenml.track("run.json", sinks=sys.argv[1:]).start()
with run.phase("train"):
    losses = []
    for step in range(40):
        inputs = torch.randn(16, 8) + random.random() + numpy.random.rand()
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item().hex())
        time.sleep(0.04)
        if step == 30:  # of the 1.2 s in which sinks got their first figures
            end = time.monotonic() + 180
            while not os.path.exists("go") and time.monotonic() < end:
                time.sleep(0.02)
run.stop()
print(json.dumps(losses))
"""
# Few tries, so that a fault is told within the time that the end of a run gives a sink.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_DISABLE_TELEMETRY": "true",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2", "OTEL_METRIC_EXPORT_INTERVAL": "1000", "GREENML_SINKS": "",
    "WANDB_SILENT": "true",
}  # fmt: skip


class Service(http.server.ThreadingHTTPServer):
    """Stands for a receiver of OTLP, a Pushgateway, MLflow and W&B at once, and takes whatever comes; or has a fault.

    Attributes:
        fault: ``dead`` closes every connection, ``hang`` never answers, a number is the status of every answer.
        got: what it took: method, path and body.
        refused: how often it did not.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault: str | int = ""
        self.got: list[tuple[str, str, bytes]] = []
        self.refused = 0
        self.over = threading.Event()

    def took(self, part: str) -> bool:
        return any(part in path for _, path, _ in self.got)

    def handle_error(self, *_: object) -> None:
        """A client that went away is what is tested."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.fault
        self.server.refused += bool(fault)
        if fault == "hang":
            self.server.over.wait(60)
        if fault in ("dead", "hang"):
            self.close_connection = True
            return
        status = fault or 200
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if status == 200:
            self.server.got.append((self.command, self.path, body))
        if self.path == "/graphql":
            known = graphql(json.loads(body), f"http://127.0.0.1:{self.server.server_port}/storage")
        else:
            known = ANSWERS.get(self.path.rpartition("/mlflow/")[2].partition("?")[0], {})
        answer = json.dumps(known).encode()
        otlp = self.path == "/v1/metrics"
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf" if otlp else "application/json")
        self.send_header("content-length", "0" if otlp else str(len(answer)))
        self.end_headers()
        self.wfile.write(b"" if otlp else answer)

    do_GET = do_PUT = do_POST  # noqa: N815  as the base class calls them

    def log_message(self, *_: object) -> None:
        pass


RUN = {
    "info": {"run_id": "a", "run_uuid": "a", "experiment_id": "0", "status": "RUNNING", "artifact_uri": "file:///tmp"}
}
ANSWERS = {"runs/create": {"run": RUN}, "runs/get": {"run": RUN}, "experiments/search": {"experiments": []}}


def graphql(asked: dict, storage: str) -> dict:
    """Answer what W&B's client asks of a server."""
    known = asked.get("variables") or {}
    name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
    where = {"id": "p", "name": known.get("project"), "entity": {"id": "e", "name": "me"}}
    bucket = {"id": "b", "name": known.get("name"), "config": "{}", "historyLineCount": 0, "project": where}
    upload = {"uploadHeaders": [], "uploadMultipartUrls": None}
    edges = [
        {
            "node": {
                **upload,
                "storagePath": file["name"],
                "uploadUrl": f"{storage}/{file['name']}",
                "artifact": {"id": "a"},
            }
        }
        for file in (known.get("input") or {}).get("artifactFiles") or []
    ]
    manifest = {"id": "m", "file": {**upload, "id": "f", "uploadUrl": f"{storage}/manifest"}}
    files = [{"name": file, "uploadUrl": f"{storage}/{file}"} for file in known.get("files") or []]
    artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
    answers = {
        "Viewer": {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
        "RunResumeStatus": {"model": None},
        "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
        "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}},
        "ArtifactType": {"project": {"artifact": None}},
        "CreateArtifact": {"createArtifact": {"artifact": artifact}},
        "CreateArtifactManifest": {"createArtifactManifest": {"artifactManifest": manifest}},
        "CreateArtifactFiles": {"createArtifactFiles": {"files": {"edges": edges}}},
        "CommitArtifact": {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}},
    }
    return {"data": answers.get(name, {})}


FAULTS = ("dead", "hang", 401, 429, 500)
WANDB_FAULTS = {"start": ("hang", 429), "middle": ("dead", 401, 500, "killed")}
if os.environ.get("GREENML_TEST_FAULTS") == "all":
    WANDB_FAULTS = {"start": FAULTS, "middle": (*FAULTS, "killed")}


@pytest.fixture
def services():
    """A service for each fault, which it does not have yet."""
    servers = [Service() for _ in FAULTS]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield servers
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _ended():
    """Leave no training behind where a test fails."""
    yield
    for child in STARTED:
        if child.poll() is None:
            child.kill()
            child.communicate()
    STARTED.clear()


def start(folder: Path, *names: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    child = subprocess.Popen(
        [*before, sys.executable, "-c", TRAINING, *names], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, **PATIENCE, **environment},
    )  # fmt: skip
    STARTED.append(child)
    return child


def ended(child: subprocess.Popen, folder: Path) -> tuple[list[str], greenml.RunRecord, Counter[str]]:
    """Return the losses, the record, and the names of the sinks that it has notes of."""
    out, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors
    losses = json.loads(out.splitlines()[-1])
    record = greenml.open_record(folder / "run.json")
    assert record.status == "completed"
    assert record.total().it_energy_joules.value == pytest.approx(
        sum(device.usage.energy_joules or 0.0 for device in record.devices), rel=1e-9
    )
    assert "hunter2" not in errors + (folder / "run.json").read_text()
    return losses, record, Counter(text.removeprefix("sink ").partition(": ")[0] for text in texts(record))


def texts(record: greenml.RunRecord) -> list[str]:
    return [note.text for note in record.notes if note.code == "sink"]


def send(folder: Path, name: str) -> None:
    with pytest.raises(SystemExit) as done:
        main(["send", str(folder / "run.json"), "--sink", name])
    assert done.value.code == 0


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """What the training gives without any sink."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "go").touch()
    values, _, notes = ended(start(folder), folder)
    assert not notes
    return values


def network_sinks(service: Service) -> list[str]:
    address = f"user:hunter2@127.0.0.1:{service.server_port}"
    return [f"mlflow:http://{address}", f"opentelemetry:http://{address}", f"prometheus:push=http://{address}"]


@pytest.mark.parametrize("when", ["start", "middle"])
def test_services_with_faults(tmp_path, services, losses, when):
    """Three sinks for each fault, all in one training."""
    names = [network_sinks(service) for service in services]

    def fail() -> None:
        for service, fault in zip(services, FAULTS, strict=True):
            service.fault = fault
        (tmp_path / "go").touch()

    if when == "start":
        fail()
    child = start(tmp_path, *(name for three in names for name in three))
    if when == "middle":
        end = time.monotonic() + 90
        begun = ("/v1/metrics", "/metrics/job", "/runs/log-batch")
        while not all(service.took(each) for service in services for each in begun):
            assert time.monotonic() < end
            time.sleep(0.02)
        fail()
    values, record, notes = ended(child, tmp_path)
    assert values == losses
    assert notes == dict.fromkeys(("mlflow", "opentelemetry", "prometheus"), len(FAULTS))
    assert all("'greenml send' delivers the record later" in text for text in texts(record))
    # The faults are over.
    joules = f"greenml_energy_joules_total {record.total().it_energy_joules.value!r}".encode()
    for service, (_, *later) in zip(services, names, strict=True):
        service.fault, service.got = "", []
        for name in later * 2:
            send(tmp_path, name)
        (otlp, page), again = service.got[:2], service.got[2:]
        assert [otlp, page] == again
        assert joules in page[2]


def test_a_service_that_recovers_gets_the_record(tmp_path, services, losses):
    """Sinks that failed are tried again. That they missed figures is a note."""
    service = services[0]
    service.fault = 500
    child = start(tmp_path, *network_sinks(service)[1:])
    end = time.monotonic() + 90
    while service.refused < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    service.fault = ""
    (tmp_path / "go").touch()
    values, record, _ = ended(child, tmp_path)
    assert values == losses
    assert texts(record)
    assert all("it missed figures meanwhile, and has those of the record" in text for text in texts(record))
    page = next(body for _, path, body in reversed(service.got) if "/metrics/job" in path)
    assert f"greenml_energy_joules_total {record.total().it_energy_joules.value!r}".encode() in page


def wandb_at(service: Service) -> dict[str, str]:
    address = f"http://127.0.0.1:{service.server_port}"
    return {"WANDB_BASE_URL": address, "WANDB_API_KEY": "hunter2" * 6, "WANDB_MODE": "online"}


@pytest.mark.parametrize("when", ["start", "middle"])
def test_weights_and_biases_with_faults(tmp_path, services, losses, when):
    """A training for each fault, side by side: of its server, or of W&B's own process. Python ends all the same."""
    faults = WANDB_FAULTS[when]
    servers = dict(zip([*FAULTS, "killed"], [*services, services[0]], strict=True))
    children = {}
    for fault, service in ((fault, servers[fault]) for fault in faults):
        folder = tmp_path / str(fault)
        folder.mkdir()
        if when == "start":
            service.fault = fault
            (folder / "go").touch()
        children[fault] = start(folder, "wandb", WANDB_DIR=str(folder), **wandb_at(service))
    if when == "middle":
        end = time.monotonic() + 180
        while not all(any((tmp_path / str(fault)).glob("wandb/run-*/*.wandb")) for fault in faults) or not all(
            servers[fault].took("/file_stream") for fault in faults
        ):
            assert time.monotonic() < end
            time.sleep(0.1)
        for process in psutil.Process(children["killed"].pid).children(recursive=True):
            if process.name() == "wandb-core":
                process.kill()
        for fault in faults:
            servers[fault].fault = fault if fault in FAULTS else servers[fault].fault
        for fault in faults:
            (tmp_path / str(fault) / "go").touch()
    for fault, child in children.items():
        values, record, notes = ended(child, tmp_path / str(fault))
        assert values == losses
        assert notes == {"wandb": 1}, fault
        assert "'greenml send' delivers the record later" in texts(record)[0]
    if when == "start":
        return
    # The fault is over: however often it is sent, the same run gets the same figures and the same files.
    service, folder = servers[faults[0]], tmp_path / str(faults[0])
    service.fault, service.got = "", []
    code = "from greenml.cli import main\nmain(['send', 'run.json', '--sink', 'wandb'])"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, **PATIENCE, "WANDB_DIR": str(folder), **wandb_at(service)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    record = greenml.open_record(folder / "run.json")
    asked = [json.loads(body) for _, path, body in service.got if path == "/graphql"]
    artifacts = [each["variables"]["input"] for each in asked if "mutation CreateArtifact " in each["query"]]
    assert [each["runName"] for each in artifacts] == [f"greenml-{record.run_id}"] * 2
    assert artifacts[0]["digest"] == artifacts[1]["digest"]
    summaries = [json.loads(body) for _, path, body in service.got if path.endswith("storage/wandb-summary.json")]
    assert [each["green/energy_joules"] for each in summaries] == [record.total().it_energy_joules.value] * 2


@pytest.mark.parametrize("when", ["start", "middle"])
def test_a_full_disk(tmp_path, losses, when):
    """Every sink that writes files, on a file system of its own without room, or in which it ends."""
    mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*mounts, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (unshare --user --mount)")
    (tmp_path / "full").mkdir()
    size = "16k" if when == "start" else "64m"
    child = start(
        tmp_path, "tensorboard:full/logs", "prometheus:full/a.prom", "trackio", "wandb",
        f"mlflow:sqlite:///{tmp_path}/full/mlflow.db",
        before=(*mounts, "sh", "-c", f'mount -t tmpfs -o size={size} none full && exec "$@"', "sh"),
        TRACKIO_DIR=str(tmp_path / "full" / "trackio"), WANDB_DIR=str(tmp_path / "full"), WANDB_MODE="offline",
    )  # fmt: skip
    full = Path(f"/proc/{child.pid}/root{tmp_path}/full")  # as the training sees it
    files = ("a.prom", "logs/greenml/*", "trackio/**/*.db", "wandb/offline-run-*/*.wandb", "mlflow.db")
    end = time.monotonic() + 120
    while not os.path.ismount(full) or (when == "middle" and not all(any(full.glob(name)) for name in files)):
        assert time.monotonic() < end
        time.sleep(0.02)
    with contextlib.suppress(OSError), (full / "all").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    (tmp_path / "go").touch()
    values, _, notes = ended(child, tmp_path)
    assert values == losses
    assert notes == dict.fromkeys(("tensorboard", "prometheus", "trackio", "wandb", "mlflow"), 1)
    send(tmp_path, f"tensorboard:{tmp_path}/logs")
    send(tmp_path, f"prometheus:{tmp_path}/a.prom")
