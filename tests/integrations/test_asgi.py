"""The middleware under a real server with a real client: what counts, what is shown, and what many workers share."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import greenml
from greenml.integrations.asgi import GreenMiddleware
from simulated.test_serving import settled_and_used

FastAPI = pytest.importorskip("fastapi").FastAPI
pytest.importorskip("uvicorn")
HERE = Path(__file__).parent
METRIC = re.compile(r"^(\w+)(\{.*\})? (\S+)$")


class Server:
    """An endpoint under uvicorn, on a free port."""

    def __init__(self, folder: Path, *, workers: int = 1, port: int | None = None, **environment: str) -> None:
        self.output, self.port = folder / "serving.json", port or free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}
        log = (folder / "server.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "serving_app:app", "--port", str(self.port), "--workers", str(workers),
             "--no-access-log"],
            cwd=HERE, stdout=log, stderr=log,
            env=kept | environment | {
                "GREENML_CACHE_DIR": os.environ["GREENML_CACHE_DIR"], "GREENML_TEST_OUTPUT": str(self.output),
            },
        )  # fmt: skip
        log.close()
        until(lambda: self.get("/health") == b"ok", 60)

    def get(self, path: str, *, method: str = "GET", timeout: float = 20.0, **headers: str) -> bytes:
        return self.ask(path, method=method, timeout=timeout, **headers)[1]

    def ask(self, path: str, *, method: str = "GET", timeout: float = 20.0, **headers: str):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.headers, answer.read()

    def metrics(self) -> dict[str, float]:
        lines = (METRIC.match(line) for line in self.get("/metrics").decode().splitlines())
        return {f"{line[1]}{line[2] or ''}": float(line[3]) for line in lines if line}

    def requests(self) -> float:
        return sum(value for name, value in self.metrics().items() if name.startswith("greenml_requests_total"))

    def stop(self) -> greenml.RunRecord:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return greenml.open_record(self.output)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def until(condition, seconds: float = 30.0) -> None:
    """Wait until a condition holds; what it raises meanwhile does not count."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(**arguments):
        servers.append(Server(tmp_path, **arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def assert_settled(server, record):
    """What the windows gave to requests and to idle time is what the record says that the devices used."""
    settled, used = settled_and_used(server.output.with_suffix(".trace"))
    serving, total = record.serving, record.total().it_energy_joules.value
    assert settled.used.joules + settled.idle.joules == pytest.approx(used, rel=0.02)
    assert serving.request_energy_joules.value == pytest.approx(settled.used.joules)
    assert settled.idle.joules <= serving.idle_energy_joules.value <= settled.idle.joules + total - used + 0.02 * used


USAGE = json.dumps({"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()


def answered(tmp_path, kind, pieces, *, method="GET", path="/x", root="", length=None, **arguments):
    """Pass an answer through the middleware: its headers, its body, and the requests that count, by kind."""
    meter = greenml.serve(tmp_path / "serving.json")
    sent = []

    async def app(scope, receive, send):
        headers = [(b"content-type", kind)] + ([(b"content-length", b"%d" % length)] if length is not None else [])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": not last})

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root, "headers": []}
    asyncio.run(GreenMiddleware(app, meter, **arguments)(scope, receive, send))
    record = meter.close()
    groups = record.serving.groups if record.serving is not None else []
    body = b"".join(message.get("body", b"") for message in sent)
    return dict(sent[0]["headers"]), body, {group.kind: group for group in groups}


def test_the_length_of_an_answer_to_head_stays(tmp_path):
    headers, body, _ = answered(
        tmp_path, b"application/json", [b""], method="HEAD", length=123, headers=True, usage=True
    )
    assert (headers[b"content-length"], body) == (b"123", b"")


@pytest.mark.parametrize(
    ("path", "root", "counts"),
    [("/health", "", False), ("/api/health", "/api", False), ("/health", "/api/", False), ("/api/x", "/api", True)],
)
def test_a_path_is_left_out_wherever_the_application_is_mounted(tmp_path, path, root, counts):
    _, _, kinds = answered(tmp_path, b"text/plain", [b"ok"], path=path, root=root, exclude=["/health"])
    assert bool(kinds) == counts


def test_routes_of_applications_that_are_mounted_are_told_apart(tmp_path):
    app, meter = FastAPI(), greenml.serve(tmp_path / "serving.json")
    for name in ("one", "two/{tenant}"):
        inner = FastAPI()
        inner.get("/items/{number}")(lambda number: number)
        app.mount(f"/{name}", inner)

    async def ask(path):
        scope = {"type": "http", "method": "GET", "path": f"/api{path}", "root_path": "/api", "headers": [],
                 "query_string": b""}  # fmt: skip
        await GreenMiddleware(app, meter)(scope, receive, send)

    async def receive():
        return {"type": "http.request"}

    async def send(_): ...

    for path in ("/one/items/1", "/two/a/items/1", "/two/b/items/2"):
        asyncio.run(ask(path))
    kinds = {group.kind: group.requests["completed"] for group in meter.close().serving.groups}
    assert kinds == {"GET /one/items/{number}": 1, "GET /two/{tenant}/items/{number}": 2}


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("end", [b"\n\n", b""])
def test_a_stream_stays_as_it_is_but_for_its_usage_however_long_a_line_is(tmp_path, usage, end):
    long = b"data: " + b"x" * 5_000_000 + b'data: {"usage": {"completion_tokens": 9}}\r\n\r\n'
    whole = long + b": a comment\n\ndata:" + USAGE + end
    edges = [*range(0, len(long), 300_000), *range(len(long) - 30, len(whole), 7), len(whole)]
    pieces = [whole[start:finish] for start, finish in itertools.pairwise(sorted(set(edges)))]
    headers, body, kinds = answered(tmp_path, b"text/event-stream", pieces, length=len(whole), usage=usage)
    (group,) = kinds.values()
    assert (group.input_tokens, group.output_tokens) == (3, 2)
    if usage:
        assert b"content-length" not in headers
        data = body[len(long) :].split(b"data:")[1]
        assert json.loads(data)["usage"].pop("energy")["status"] == "provisional"
        assert body.startswith(long + b": a comment\n\ndata:")
        assert body.endswith(b"}}}" + end)
    else:
        assert body == whole


def test_every_kind_of_answer_counts_once_with_its_route_and_tokens(serve):
    server = serve(GREENML_TEST_HEADERS="1")
    until(lambda: server.metrics().get("greenml_power_watts", 0) > 0)  # the first second is settled
    headers, body = server.ask("/v1/completions?tokens=5", method="POST")
    energy = json.loads(body)["usage"]["energy"]
    assert int(headers["content-length"]) == len(body)
    assert float(headers["x-energy-joules"]) > 0
    assert {"x-co2e-grams", "x-cost-usd", "x-energy-status"} <= {name.lower() for name in headers}
    assert headers["x-energy-status"] == energy["status"] == "provisional"
    assert 0 <= energy["low_joules"] <= energy["joules"] <= energy["high_joules"]
    streamed = server.get("/stream?tokens=3").decode()
    events = [json.loads(line[5:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert [event["usage"] for event in events[:-1]] == [None] * 3
    assert events[-1]["usage"]["energy"]["joules"] > 0
    assert streamed.endswith("data: [DONE]\n\n")
    for number in range(20):
        assert json.loads(server.get(f"/items/{number}")) == {"number": number}
    for path in ("/broken", "/nowhere"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.get(path)
        refused.value.close()
    with pytest.raises(TimeoutError):
        server.get("/slow", timeout=0.5)
    until(lambda: server.requests() == 25)
    metrics = server.metrics()
    assert metrics['greenml_requests_total{kind="GET /items/{number}",model="",status="completed"}'] == 20
    assert metrics['greenml_requests_total{kind="GET /broken",model="",status="failed"}'] == 1
    assert metrics['greenml_requests_total{kind="GET /slow",model="",status="cancelled"}'] == 1
    assert metrics['greenml_tokens_total{direction="output",kind="POST /v1/completions",model="tiny"}'] == 5
    assert metrics['greenml_tokens_total{direction="input",kind="GET /stream",model="tiny"}'] == 7
    page = server.get("/greenml").decode()
    assert "test endpoint" in page
    record = server.stop()
    assert record.status == "completed"
    serving = record.serving
    assert serving.requests == {"completed": 23, "failed": 1, "cancelled": 1}
    assert_settled(server, record)
    assert serving.idle_seconds < serving.seconds <= record.duration_seconds + 0.1
    assert serving.cost_usd + serving.idle_cost_usd == pytest.approx(serving.seconds * 0.001)
    assert {group.kind for group in serving.groups} >= {"POST /v1/completions", "GET /stream", "GET (no route)"}


def test_four_workers_count_each_device_once_and_each_request(serve):
    server = serve(workers=4)
    hey = shutil.which("hey")
    if hey is None:
        pytest.skip("no load generator: hey is not installed")
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    done = subprocess.run(
        [hey, "-n", "400", "-c", "8", "-q", "10", "-m", "POST", "-disable-keepalive", url], capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert "[200]\t400 responses" in done.stdout
    until(lambda: all(server.requests() == 400 for _ in range(8)))  # whichever worker answers
    record = server.stop()
    assert len({device.id for device in record.devices}) == len(record.devices)
    assert record.attempts[0].processes == 4
    serving = record.serving
    assert serving.requests["completed"] == 400
    assert sum(group.output_tokens or 0 for group in serving.groups) == 2000
    assert_settled(server, record)
    assert 0 < serving.idle_seconds < serving.seconds
    assert serving.cost_usd + serving.idle_cost_usd == pytest.approx(serving.seconds * 0.001)


def test_a_driver_that_hangs_keeps_no_request_waiting(serve, tmp_path):
    from simulated import simnvml

    if simnvml.compiler() is None:
        pytest.skip(simnvml.NO_COMPILER)
    script = simnvml.Script(gpus=(simnvml.Gpu(),), faults=(simnvml.Hang("nvmlInit"),))
    library = simnvml.build(tmp_path)
    server = serve(**simnvml.environment(library, simnvml.write(script, tmp_path / "script")))
    for number in range(50):
        assert json.loads(server.get(f"/items/{number}", timeout=10)) == {"number": number}
    until(lambda: server.requests() == 50)
    record = server.stop()
    assert record.serving.requests["completed"] == 50
    assert any(note.code in ("sensor-hung", "sensor-slow") for note in record.notes)


def test_workers_that_are_forked_from_a_measured_process_count_too(tmp_path):
    code = """
import os, sys, time, greenml
meter = greenml.serve(sys.argv[1])
with meter.request(kind="parent"):
    time.sleep(0.2)
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            with meter.request(kind="child"):
                time.sleep(0.1)
        meter.close()
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
meter.close()
"""
    output = tmp_path / "serving.json"
    subprocess.run([sys.executable, "-c", code, str(output)], check=True, timeout=120)
    record = greenml.open_record(output)
    assert {group.kind: group.requests["completed"] for group in record.serving.groups} == {"parent": 1, "child": 6}
    assert len({device.id for device in record.devices}) == len(record.devices)
    assert record.attempts[0].processes == 3


def test_a_killed_worker_that_settled_is_followed_by_another(serve):
    server = serve(workers=2)
    for _ in range(20):
        server.get("/items/1")
    until(lambda: all(server.requests() == 20 for _ in range(20)))  # the worker that does not settle knows, too
    holder = next(
        int(path.name.split("-")[-2]) for path in server.output.with_suffix(".trace").glob("*.jsonl")
        if '"d":' in path.read_text()
    )  # fmt: skip
    os.kill(holder, signal.SIGKILL)
    until(lambda: server.get("/health") == b"ok")
    for _ in range(20):
        server.get("/items/1")
    until(lambda: server.requests() == 40)
    record = server.stop()
    assert record.serving.requests["completed"] == 40
