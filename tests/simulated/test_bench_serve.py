"""``greenml bench-serve`` with the real load generators, against a real server and GPUs whose power is known."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from . import simnvml

GREENML = [sys.executable, "-m", "greenml"]
WATTS, SECONDS = 200.0, 0.02
pytestmark = pytest.mark.skipif(
    shutil.which("hey") is None or shutil.which("curl") is None, reason="not installed: hey, curl (apt-get install)"
)


class Handler(BaseHTTPRequestHandler):
    """Takes 20 ms for an answer of 12 + 8 tokens; fails where it is asked to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(SECONDS)
        self.server.bodies.append(body)
        status = 500 if self.path == "/broken" or (self.path == "/half" and len(self.server.bodies) % 2 == 0) else 200
        answer = json.dumps({"usage": {"prompt_tokens": 12, "completion_tokens": 8}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads, httpd.bodies = True, []
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(scope="module")
def gpu(host):
    return host(simnvml.Gpu(power=WATTS))


def bench(server, environment, tmp_path, path, *words):
    url = f"http://127.0.0.1:{server.server_port}{path}"
    return subprocess.run(
        [*GREENML, "bench-serve", url, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_a_load_of_two_numbers_of_clients(server, gpu, tmp_path):
    words = ["--clients", "1,7", "--requests", "60", "--data", '{"text": "x"}', "--json", "--gpus", "all"]
    done = bench(server, gpu, tmp_path, "/", *words, "--price-per-hour", "3.6", "--region", "SWE")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    record = json.loads((tmp_path / "bench.json").read_text())
    assert document == json.loads((tmp_path / "bench.rows.json").read_text())
    assert set(server.bodies) == {b'{"text": "x"}'}
    totals = {total["scope"]: total for total in record["totals"]}
    for row in document["loads"]:
        stage = f"clients-{row['concurrency']}"
        whole, busy = totals[stage], totals[f"{stage}/requests"]
        sent = 60 if row["concurrency"] == 1 else 63  # as many from each client
        assert (row["requests"], row["failed"]) == (sent, 0)
        # A GPU of 200 W all the time: its joules are 200 times the seconds with a request in flight.
        assert row["gpu_joules_per_request"]["value"] == pytest.approx(WATTS * busy["seconds"] / sent, rel=0.05)
        assert row["joules_per_token"]["value"] == pytest.approx(row["joules_per_request"]["value"] / 20)
        assert row["joules_per_request"]["low"] < row["joules_per_request"]["value"] < row["joules_per_request"]["high"]
        assert row["cost_usd_per_million_tokens"]["dedicated"]["value"] == pytest.approx(
            whole["seconds"] / sent / 20 * 1e3
        )
        assert SECONDS <= row["latency_seconds"]["mean"]["value"] <= whole["seconds"]
        assert row["throughput_per_second"]["value"] == pytest.approx(sent / whole["seconds"], rel=0.05)
        assert 0 <= row["idle_ratio"]["value"] <= 1
    assert record["duration_seconds"] > sum(
        totals[f"clients-{clients}"]["seconds"] for clients in (1, 7)
    )  # warm-up is out


def test_requests_that_fail_are_counted_and_served_nothing(server, gpu, tmp_path):
    done = bench(server, gpu, tmp_path, "/half", "--clients", "2", "--requests", "40", "--data", "{}", "--csv")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["requests"], row["failed"]) == ("20", "20")


def test_the_protocol_of_the_ai_energy_score(server, gpu, tmp_path):
    bodies = [json.dumps({"prompt": f'say "{number}"\\n'}) for number in range(30)]
    (tmp_path / "bodies.jsonl").write_text("\n".join(bodies) + "\n")
    words = ["--protocol", "ai-energy-score", "--bodies", "bodies.jsonl", "--gpus", "all"]
    refused = bench(server, gpu, tmp_path, "/", *words)
    assert refused.returncode == 2
    assert "it has 30 bodies, a line each, and 1000 are wanted; --prompts 30 takes fewer" in refused.stderr
    done = bench(server, gpu, tmp_path, "/", *words, "--prompts", "30", "--repeats", "3")
    assert done.returncode == 0, done.stderr
    assert "GPU energy, the AI Energy Score's figure" in done.stdout
    assert "30 prompts, 3 times: the AI Energy Score takes 1,000" in done.stdout
    document = json.loads((tmp_path / "bench.rows.json").read_text())
    score = document["score"]
    assert not score["as_published"]
    seconds = sum(load["seconds"] for load in document["loads"])
    assert score["gpu_wh_per_1000_queries"]["value"] == pytest.approx(WATTS * seconds / 90 * 1000 / 3600, rel=0.05)
    assert server.bodies[-30:] == [body.encode() for body in bodies]
    assert [load["requests"] for load in document["loads"]] == [30, 30, 30]
    assert document["loads"][0]["tokens_from"] == "each answer's usage"


@pytest.mark.parametrize(
    ("path", "words", "line"),
    [
        ("/broken", ["--data", "{}"], r"/broken: HTTP 500: {"),
        ("/", ["--clients", "0,x"], "--clients '0,x': give numbers from 1 to 10000, such as 1,2,4,8,16,32,64"),
        ("/", ["--requests", "5", "--seconds", "5"], "give --requests or --seconds, not both"),
        ("/", ["--protocol", "ai-energy-score"], "--protocol and --bodies go together"),
        ("/", ["--data", "@nothing"], "nothing: cannot be read: No such file or directory"),
        ("/", ["--header", "no colon"], "write it as 'Name: value'"),
        ("/", ["--header", "na me: x"], "write it as 'Name: value'"),
        ("/", ["--header", "x: ü"], "write it as 'Name: value', in ASCII"),
        ("/ü", ["--data", "{}"], "must be percent-encoded; give one such as http://127.0.0.1:8000/v1/completions"),
        ("/", ["--data", "{}", "--metrics", "http://127.0.0.1:9/metrics"], "127.0.0.1:9/metrics: it does not answer"),
    ],
)
def test_one_clear_line(server, gpu, tmp_path, path, words, line):
    done = (
        bench(server, gpu, tmp_path, path, *words, "--requests", "2")
        if "--requests" not in words
        else bench(server, gpu, tmp_path, path, *words)
    )
    assert done.returncode == 2
    assert line in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_missing_load_generator_is_said(server, gpu, tmp_path):
    done = bench(server, gpu | {"PATH": "/nowhere"}, tmp_path, "/", "--data", "{}")
    assert done.returncode == 2
    assert "the load generator hey is not installed: apt-get install hey" in done.stderr
