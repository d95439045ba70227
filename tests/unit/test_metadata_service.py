"""The metadata services, each played by a real server; one that hangs holds up nobody for long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from greenml.run import environment

AZURE = '{"location": "westus2", "vmSize": "Standard_ND40rs_v2", "priority": "%s", "tags": "secret:x"}'
ANSWERS = {
    "azure": {"/metadata/instance/compute?api-version=2021-02-01": AZURE % "Low"},
    "aws": {
        "/latest/api/token": "a-token",
        "/latest/meta-data/placement/region": "us-east-1",
        "/latest/meta-data/instance-type": "p4d.24xlarge\n",
        "/latest/meta-data/instance-life-cycle": "spot",
    },
    "gcp": {
        "/computeMetadata/v1/instance/zone": "projects/123/zones/europe-north1-b",
        "/computeMetadata/v1/instance/machine-type": "projects/123/machineTypes/a2-highgpu-8g",
        "/computeMetadata/v1/instance/scheduling/preemptible": "FALSE",
    },
}
NEEDED = {
    "azure": {"Metadata": "true"},
    "aws": {"X-aws-ec2-metadata-token": "a-token"},
    "gcp": {"Metadata-Flavor": "Google"},
}


@contextmanager
def serving(answers: dict[str, str], needed: dict[str, str], status: int = 200) -> Iterator[str]:
    """Serve what a metadata service would, to those who send the headers that it demands."""

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path.endswith("/token") or all(self.headers.get(k) == v for k, v in needed.items())
            code = status if allowed and self.path in answers else 404 if allowed else 401
            body = answers.get(self.path, "not found").encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            assert self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Notes(list[str]):
    def take(self, code: str, text: str) -> None:
        assert code == "region-auto"
        self.append(text)


@pytest.mark.parametrize(
    ("cloud", "told"),
    [
        ("azure", {"region": "westus2", "sku": "Standard_ND40rs_v2", "tier": "low_priority"}),
        ("aws", {"region": "us-east-1", "sku": "p4d.24xlarge", "tier": "spot"}),
        ("gcp", {"region": "europe-north1", "sku": "a2-highgpu-8g"}),
    ],
)
def test_what_each_cloud_tells(cloud, told, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    notes = Notes()
    with serving(ANSWERS[cloud], NEEDED[cloud]) as address:
        found = environment.ask(cloud, notes.take, address)
    assert found == {"cloud": cloud, **told, "from": f"{cloud} metadata service"}
    assert notes == []


@pytest.mark.parametrize(("priority", "tier"), [("Spot", "spot"), ("Regular", None), ("", None)])
def test_azures_priorities(priority, tier):
    answers = dict.fromkeys(ANSWERS["azure"], AZURE % priority)
    with serving(answers, NEEDED["azure"]) as address:
        assert environment.ask("azure", Notes().take, address).get("tier") == tier


@pytest.mark.parametrize("cloud", ANSWERS)
@pytest.mark.parametrize("status", [404, 500])
def test_no_answer_is_a_note_and_the_cloud_is_known_still(cloud, status):
    notes = Notes()
    with serving(ANSWERS[cloud], NEEDED[cloud], status) as address:
        found = environment.ask(cloud, notes.take, address)
    assert found == {"cloud": cloud, "from": "the machine's DMI data"}
    (note,) = notes
    assert f"the {cloud} metadata service gave no answer" in note
    assert "\n" not in note


@pytest.mark.parametrize(
    "garbage", ["<html>sign in</html>", "[]", "null", '"text"', "{}", '{"location": "westus2"}', "\x00"]
)
def test_garbage_is_a_note(garbage):
    notes = Notes()
    answers = dict.fromkeys(ANSWERS["azure"], garbage)
    with serving(answers, NEEDED["azure"]) as address:
        found = environment.ask("azure", notes.take, address)
    assert found == {"cloud": "azure", "from": "the machine's DMI data"}
    assert len(notes) == 1


@pytest.mark.parametrize("cloud", ANSWERS)
def test_a_stalled_connection_is_given_up(cloud):
    notes = Notes()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()  # the kernel accepts; nobody answers
        found = environment.ask(cloud, notes.take, f"http://127.0.0.1:{server.getsockname()[1]}")
    assert found == {"cloud": cloud, "from": "the machine's DMI data"}
    assert "did not answer within 1 s" in notes[0]


def test_nobody_listens():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        notes = Notes()
        assert environment.ask("aws", notes.take, address)["cloud"] == "aws"
    assert len(notes) == 1


def test_a_machine_that_is_no_cloud_asks_nobody():
    notes = Notes()
    assert environment.ask("", notes.take, "http://127.0.0.1:1") == {}
    assert "nobody was asked" in notes[0]
