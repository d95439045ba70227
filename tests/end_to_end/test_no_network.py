"""Nothing is asked of any network unless it is asked for by name."""

from __future__ import annotations

import shutil
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
print("nothing asked")
"""


def test_nothing_connects(tmp_path, plain_environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=plain_environment, capture_output=True, text=True, timeout=60
    )
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
