"""``greenml serve-watch`` against real HTTP servers that answer well and badly, and GPUs whose truth is known."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from greenml.errors import SettingsError
from greenml.run.serving import metrics_page
from greenml.run.serving.metrics_page import PageError
from greenml.run.serving.poller import PHASE, Poller
from greenml.run.track import Run
from greenml.settings import resolve

from . import simnvml
from .http_service import Reply, serve
from .terminal import Terminal

pytest.importorskip("prometheus_client")
GREENML = [sys.executable, "-m", "greenml"]
DEADLINE_SECONDS = 0.5


def page(requests: float, prompt: float = 0, generated: float = 0, running: float = 1) -> bytes:
    return "".join(
        f"# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name=\"opt\"}} {value}\n"
        for name, kind, value in (
            ("request_success_total", "counter", requests), ("prompt_tokens_total", "counter", prompt),
            ("generation_tokens_total", "counter", generated), ("num_requests_running", "gauge", running),
        )
    ).encode()  # fmt: skip


GOOD = page(10, 700, 200)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(500, b"oops"), r"the server has a fault \(HTTP 500\)"),
        (Reply(404), r"there is no page \(HTTP 404\)"),
        (Reply(401), r"it wants a login \(HTTP 401\)"),
        (
            Reply(302, headers={"Location": "http://other:1/metrics"}),
            "it redirects to http://other:1/metrics; give that",
        ),
        (Reply(302, headers={"Location": "http://["}), "it redirects to another address; give that"),
        (Reply(200, how="garbage"), r"its answer is not HTTP \(BadStatusLine\)"),
        (Reply(200, GOOD, how="cut"), "the page is cut off"),
        (Reply(200, GOOD, how="stall"), "no whole page within 0.5 s"),
        (Reply(200, GOOD, how="drip"), "no whole page within 0.5 s"),
        (Reply(200, how="drip_headers"), "no whole page within 0.5 s"),
        (Reply(200, how="silent"), "no whole page within 0.5 s"),
        (Reply(200, how="reset"), "it does not answer"),
        (Reply(200, b"\xff\xfe\x00" * 100), "not a metrics page: it is not text"),
        (Reply(200, b"# a line\n" * 1_000_000), "the page is longer than 8 MB"),
    ],
    ids=lambda value: f"{value.status}-{value.how}-{len(value.body)}" if isinstance(value, Reply) else "",
)
def test_a_page_that_cannot_be_had_is_one_clear_line(reply, words):
    with serve([reply]) as service, pytest.raises(PageError, match=words) as raised:
        metrics_page.read(f"{service.url}/metrics", deadline_seconds=DEADLINE_SECONDS)
    assert "\n" not in str(raised.value)


def test_a_page_that_never_ends():
    with serve([Reply(200, how="endless")]) as service, pytest.raises(PageError, match=r"longer than 8 MB|within 30 s"):
        metrics_page.read(f"{service.url}/metrics", deadline_seconds=30)


def test_a_login_is_sent_and_not_shown():
    with serve([Reply(403)]) as service:
        url = f"http://user:secret@127.0.0.1:{service.port}/metrics?x=1"
        with pytest.raises(PageError, match="it refuses the request") as raised:
            metrics_page.read(url, deadline_seconds=5)
        assert service.asked[0].headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert service.asked[0].query == {"x": "1"}
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/métriques", "'http://127.0.0.1/métriques' has letters that must be percent-encoded"),
        ("http://user:secret@[/metrics", "'http://[/metrics' is not an address"),
        ("ftp://user:sec/ret@host/x?key=secret", "'ftp://host/x' is not an address"),
        ("user:secret@host", "'host' is not an address"),
    ],
)
def test_what_is_no_address_is_said_without_its_password(url, words):
    with pytest.raises(SettingsError) as raised:
        metrics_page.check(url, "http://127.0.0.1:8000/x")
    assert str(raised.value) == f"{words}; give one such as http://127.0.0.1:8000/x"


def test_gaps_are_left_out_of_the_record(tmp_path):
    """The phase and the counts of the record are of the same time: that for which it is known what was done."""
    replies = [
        Reply(body=page(10, 100, 50)), Reply(body=page(12, 130, 80)), Reply(500), Reply(500),
        Reply(body=page(20, 900, 900)), Reply(body=page(21, 910, 920, running=0)),
        Reply(body=page(3, 30, 10, running=0)),  # started again
        Reply(body=page(3, 30, 10, running=0)),
        Reply(body=GOOD.replace(b"prompt_tokens", b"input_tokens")),
    ]  # fmt: skip
    with serve(replies) as service:
        poller = Poller(Run(resolve({"output": str(tmp_path / "run.json")}), watches=True), f"{service.url}/metrics")
        poller.start()
        windows = []
        for _ in replies[1:]:
            time.sleep(0.1)
            windows.append(poller.window())
        record = poller.stop()
    assert [bool(window.gap) for window in windows] == [False, True, True, True, False, True, False, True]
    assert "can be read again" in windows[3].gap
    assert "went backwards" in windows[5].gap
    assert "not on the page any more" in windows[7].gap
    assert record.metrics == {"requests": 3.0, "input_tokens": 40.0, "output_tokens": 50.0}
    known = [window for window in windows if not window.gap]
    phase = record.phase(PHASE)
    assert phase.seconds == pytest.approx(sum(window.seconds for window in known), abs=1e-3)
    assert phase.count == 3
    total = record.total(PHASE).it_energy_joules
    # While it goes on, a reading that is late on a busy machine is missing in its window; the record has it.
    assert 0 < poller.total.energy_joules.value <= total.value * 1.02
    assert [window.idle_joules == 0 for window in known] == [True, True, False]  # the last one did nothing
    assert next(note.text for note in record.notes if note.code == "serving-gap").endswith("(HTTP 500)")


def test_triton_s_documented_page_from_a_file(tmp_path):
    """The models of examples/serving: requests of the decoder are tokens, those of the encoder summaries."""
    path = tmp_path / "metrics"

    def write(encoder, decoder):
        path.write_text(
            "# HELP nv_inference_request_success Number of successful inference requests, all batch sizes\n"
            "# TYPE nv_inference_request_success counter\n"
            f'nv_inference_request_success{{model="summarizer_encoder",version="1"}} {encoder}\n'
            f'nv_inference_request_success{{model="summarizer_decoder",version="1"}} {decoder}\n'
            "# TYPE nv_inference_pending_request_count gauge\n"
            'nv_inference_pending_request_count{model="summarizer_decoder",version="1"} 0\n'
            "# TYPE nv_energy_consumption counter\n"
            'nv_energy_consumption{gpu_uuid="GPU-1"} 12345.678\n'
        )

    with serve(lambda _: Reply(body=path.read_bytes())) as service:
        write(5, 100)
        run = Run(resolve({"output": str(tmp_path / "run.json")}), watches=True)
        poller = Poller(run, f"{service.url}/metrics", "summarizer_decoder")
        poller.start()
        write(7, 148)
        window = poller.window()
        poller.stop()
    assert poller.server == "Triton"
    assert window.counts.requests == 48
    assert window.joules_per("token").why == "the page does not count tokens"
    assert window.idle_joules is None  # Triton does not tell what is in flight


@pytest.fixture(scope="module")
def gpus(host):
    """Two GPUs of 150 W each."""
    return host(simnvml.Gpu(power=150.0), simnvml.Gpu(power=150.0))


def steady():
    """A server that generates 100 tokens and finishes 4 requests a second."""
    began = time.monotonic()

    def reply(_):
        seconds = time.monotonic() - began
        return Reply(body=page(4 * seconds, 300 * seconds, 100 * seconds))

    return reply


def test_one_window_of_gpus_with_a_known_power(gpus, tmp_path):
    with serve(steady()) as service:
        words = ["serve-watch", f"{service.url}/metrics", "--once", "--json", "--every", "2", "--gpus", "all"]
        done = subprocess.run(
            [*GREENML, *words, "--output", str(tmp_path / "run.json")],
            env=gpus,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    record = json.loads((tmp_path / "run.json").read_text())
    (gpu,) = [total["gpu_energy_joules"] for total in record["totals"] if total["scope"] == PHASE]
    # 300 W over 100 tokens a second is 3 J a token, over 4 requests 75 J; the host's CPU comes on top.
    assert gpu["value"] / figures["output_tokens"] == pytest.approx(3.0, rel=0.05)
    assert gpu["value"] / figures["requests"] == pytest.approx(75.0, rel=0.05)
    per_token = figures["joules_per_output_token"]
    assert per_token["value"] == pytest.approx(figures["energy_joules"]["value"] / figures["output_tokens"])
    assert per_token["low"] < per_token["value"] < per_token["high"]
    assert figures["idle_energy_joules"] == 0
    assert figures["server"] == "vLLM"


@pytest.mark.parametrize("words", [["--once"], []], ids=["once", "endless"])
def test_lines_where_there_is_no_terminal(gpus, tmp_path, words):
    with serve(steady()) as service:
        command = [*GREENML, "serve-watch", f"{service.url}/metrics", "--every", "0.5", "--output", "run.json", *words]
        child = subprocess.Popen(
            command, cwd=tmp_path, env=gpus, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        first = child.stdout.readline()
        if not words:
            child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert "vLLM" in first
    assert "per token" in first
    assert "Energy per request" in rest
    assert errors.rstrip().endswith("run.json")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "completed"


def test_a_page_that_cannot_be_used_at_the_start_leaves_nothing(tmp_path):
    with serve([Reply(500)]) as service:
        done = subprocess.run(
            [*GREENML, "serve-watch", f"{service.url}/metrics"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == f"greenml: {service.url}/metrics: the server has a fault (HTTP 500)\n"
    assert list(tmp_path.iterdir()) == []


def test_the_view_in_a_terminal(gpus, tmp_path):
    with serve(steady()) as service:
        words = ["serve-watch", f"{service.url}/metrics", "--every", "1", "--gpus", "all", "--region", "SWE"]
        terminal = Terminal([*GREENML, *words], tmp_path, gpus, 110, 30)
        try:
            shown = terminal.until(lambda text: "Energy per output token" in text)
            terminal.type("q")
            assert terminal.ended() == 0
            assert terminal.clean()
            assert "Energy per request" in terminal.text
        finally:
            terminal.close()
    assert "so far" in shown
    assert "q or Ctrl-C ends it" in shown
