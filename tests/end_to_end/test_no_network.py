"""Nothing is asked of any network unless it is asked for by name."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest

CODE = """
import socket, sys, time
asked = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        asked.append((event, str(arguments)))
sys.addaudithook(watch)
import greenml
with greenml.track("run.json", sku="ND40rs_v2", region="westus2") as run:
    with run.phase("train"):
        time.sleep(1.2)
assert run.record.total().emissions_grams.value > 0
from greenml.cli import main
for words in (["report", "run.json"], ["report", "run.json", "--markdown", "--region", "swedencentral"], ["doctor"],
              ["skus", "ND40"], ["regions", "westus"], ["prices", "ND40rs_v2"]):
    try:
        main(words)
    except SystemExit as error:
        assert not error.code, words
assert asked == [], asked
trackers = {"mlflow", "wandb", "trackio", "tensorboard", "opentelemetry", "prometheus_client"} & sys.modules.keys()
assert not trackers, trackers
print("nothing asked")
"""
# What a sink would use, if one was named.
TRACKERS = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_RUN_ID": "a", "WANDB_API_KEY": "a" * 40,
    "WANDB_BASE_URL": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
}  # fmt: skip
SINKS = """
import socket, sys, time
asked = set()
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        asked.add(arguments[0])
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        asked.add(f"{arguments[1][0]}:{arguments[1][1]}")
sys.addaudithook(watch)
import greenml
with greenml.track("run.json", sinks=sys.argv[1:]) as run:
    time.sleep(1.5)
print(sorted(map(str, asked)))
"""


@pytest.mark.parametrize(
    ("sinks", "asked"),
    [
        (["tensorboard:logs", "prometheus:a.prom", "trackio"], []),
        (["mlflow:http://127.0.0.1:{}", "opentelemetry:http://127.0.0.1:{}", "prometheus:push=http://127.0.0.1:{}"],
         ["127.0.0.1", "127.0.0.1:{}"]),
    ],
    ids=["files", "services"],
)  # fmt: skip
def test_a_sink_asks_whom_it_names_and_nobody_else(tmp_path, plain_environment, sinks, asked):
    with socket.socket() as taken:  # it is bound and does not listen: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", SINKS, *(name.format(port) for name in sinks)], cwd=tmp_path, text=True,
            env=plain_environment | {"TRACKIO_DIR": str(tmp_path / "trackio"), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
            capture_output=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str([text.format(port) for text in asked])


def test_nothing_connects(tmp_path, plain_environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=plain_environment | TRACKERS, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("nothing asked\n")


def test_it_runs_without_any_interface(tmp_path, plain_environment):
    """In a network namespace of its own there is no interface that is up, so whatever asks fails."""
    unshare = shutil.which("unshare")
    namespace = [unshare or "", "--user", "--map-root-user", "--net"]
    if unshare is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        namespace = [unshare or "", "--net"]
        if unshare is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
            pytest.skip("no network namespace can be made here (unshare --net)")
    proof = "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError as error:\n"
    proof += "    assert error.errno == 101, error\nelse:\n    raise SystemExit('the loopback interface is up')\n"
    done = subprocess.run(
        [*namespace, sys.executable, "-c", proof + CODE],
        cwd=tmp_path,
        env=plain_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("nothing asked\n")
