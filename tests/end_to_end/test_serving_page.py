"""The live page of an endpoint in a real browser, its metrics in a real Prometheus, and a driver that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import greenml

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
APP = Path(__file__).parents[1] / "integrations"
# The page's policy forbids eval(), and with it playwright's wait_for_function.
SHOWN = "key => Number(document.querySelector(`[data-total=${key}]`).dataset.value)"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def get(url: str, timeout: float = 20.0) -> str:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def until(condition, seconds: float = 40.0):
    """Wait until a condition holds, and return what it returned then."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if held := condition():
                return held
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


class Server:
    def __init__(self, output: Path, port: int) -> None:
        self.output, self.url = output, f"http://127.0.0.1:{port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        with output.with_suffix(".log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "serving_app:app", "--port", str(port), "--no-access-log"],
                cwd=APP, env=kept | {"GREENML_TEST_OUTPUT": str(output)}, stdout=log, stderr=log,
            )  # fmt: skip
        until(lambda: get(f"{self.url}/health") == "ok", 60)

    def settled(self, count: int) -> float:
        """Wait until so many requests are settled, and return their joules."""

        def figure(name: str) -> float:
            lines = [line for line in get(f"{self.url}/metrics").splitlines() if line.startswith(name)]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        until(lambda: figure("greenml_request_energy_joules_count") == count)
        return figure("greenml_request_energy_joules_sum")

    def serve(self, count: int) -> None:
        for _ in range(count):
            urllib.request.urlopen(f"{self.url}/v1/completions?tokens=4", data=b"", timeout=20).close()

    def stop(self) -> greenml.RunRecord:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return greenml.open_record(self.output)


@pytest.fixture
def start(tmp_path):
    port, servers = free_port(), []

    def begin(name="serving.json"):
        servers.append(Server(tmp_path / name, port))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_what_the_record_holds_and_comes_back_after_a_restart(start, browser, violations, scheme):
    server = start()
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 1000})
    page, troubles, asked = context.new_page(), [], set()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("request", lambda request: asked.add(urllib.parse.urlsplit(request.url).netloc))
    try:
        page.goto(f"{server.url}/greenml")
        server.serve(8)
        # Requests count when they end; energy and power follow when their window is settled.
        until(lambda: page.evaluate(SHOWN, "requests") == 8)
        settled = server.settled(8)
        until(lambda: page.evaluate(SHOWN, "request_joules") == pytest.approx(settled))
        before = page.evaluate(SHOWN, "idle_joules")
        until(lambda: page.evaluate(SHOWN, "idle_joules") > before)  # figures move
        until(lambda: re.fullmatch(r"[\d,.]+", page.locator("#watts_now .value").inner_text()))
        assert float(page.locator("#watts_now .value").inner_text().replace(",", "")) > 0
        assert page.locator("#groups tr").count() == 1
        until(lambda: "L" in page.locator("#watts_now path").get_attribute("d"))
        assert violations(page) == []
        shown = {name: page.evaluate(SHOWN, name) for name in ("requests", "request_joules", "tokens", "cost_usd")}
        record = server.stop()
        page.wait_for_selector("#state[data-state=away]", timeout=20_000)
        serving = record.serving
        assert shown["requests"] == sum(serving.requests.values())
        assert shown["request_joules"] == pytest.approx(serving.request_energy_joules.value)
        assert shown["tokens"] == sum(
            (group.input_tokens or 0) + (group.output_tokens or 0) for group in serving.groups
        )
        assert shown["cost_usd"] == pytest.approx(serving.cost_usd)
        server = start("again.json")
        server.serve(3)
        until(lambda: page.evaluate(SHOWN, "requests") == 3)
        page.wait_for_selector("#state[data-state=live]", timeout=20_000)
    finally:
        context.close()
    assert troubles == []
    assert asked == {urllib.parse.urlsplit(server.url).netloc}


def test_a_real_prometheus_accepts_the_metrics_and_answers_a_query(start, tmp_path):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    server = start()
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: endpoint, static_configs: [{{targets: ['{server.url[7:]}']}}]}}]\n"
    )
    with (tmp_path / "prometheus.log").open("w") as log:
        prometheus = subprocess.Popen(
            [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip

    def ask(query: str) -> float | None:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
        found = json.loads(get(address))["data"]["result"]  # empty after a scrape that took too long
        return float(found[0]["value"][1]) if found else None

    def targets() -> list[tuple[str, str]]:
        known = json.loads(get(f"http://127.0.0.1:{port}/api/v1/targets"))["data"]["activeTargets"]
        return [(target["health"], target["lastError"]) for target in known]

    try:
        server.serve(12)
        until(lambda: ask('sum(greenml_requests_total{status="completed"})') == 12)
        until(lambda: ask("sum(greenml_request_energy_joules_count)") == 12)
        until(lambda: ask("histogram_quantile(0.5, sum by (le) (greenml_request_energy_joules_bucket))"))
        until(lambda: targets() == [("up", "")])
        joules = until(lambda: ask("sum(greenml_request_energy_joules_sum)"))
        idle = until(lambda: ask("greenml_idle_energy_joules_total"))
        record = server.stop()
        assert joules == pytest.approx(record.serving.request_energy_joules.value)
        assert idle <= record.serving.idle_energy_joules.value
    finally:
        prometheus.terminate()
        prometheus.wait(30)
