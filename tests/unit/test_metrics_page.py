"""What the metrics pages of inference servers say: read whole or not at all, and compared without a wrong figure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.record.schema import Quantity
from greenml.run.serving import metrics_page
from greenml.run.serving.metrics_page import SERVERS, Counts, PageError, parse
from greenml.run.serving.poller import Window

pytest.importorskip("prometheus_client")

# As each server's documentation has it (the address is in SERVERS), with names beside it that are not read.
PAGES = {
    "vLLM": """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="opt"} 3.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="opt"} 700.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="opt"} 200.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="opt"} 8.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="opt"} 1.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="opt"} 1.0
# TYPE vllm:request_prompt_tokens histogram
vllm:request_prompt_tokens_bucket{le="+Inf",model_name="opt"} 10.0
vllm:request_prompt_tokens_sum{model_name="opt"} 700.0
vllm:request_prompt_tokens_count{model_name="opt"} 10.0
""",
    "Text Generation Inference": """\
# TYPE tgi_request_count counter
tgi_request_count 11
# TYPE tgi_request_success counter
tgi_request_success{method="batch"} 9
# TYPE tgi_request_failure counter
tgi_request_failure{err="validation"} 1
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 3
# TYPE tgi_request_input_length histogram
tgi_request_input_length_bucket{le="+Inf"} 10
tgi_request_input_length_sum 700
tgi_request_input_length_count 10
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="+Inf"} 10
tgi_request_generated_tokens_sum 200
tgi_request_generated_tokens_count 10
""",
    "Triton": """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="ensemble",version="1"} 9.000000
nv_inference_request_success{model="preprocessing",version="1"} 10.000000
nv_inference_request_success{model="tensorrt_llm",version="1"} 10.000000
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="ensemble",reason="BACKEND",version="1"} 1.000000
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="ensemble",version="1"} 2.000000
# TYPE nv_energy_consumption counter
nv_energy_consumption{gpu_uuid="GPU-1"} 12345.678
# TYPE nv_llm_output_token_len histogram
nv_llm_output_token_len_count{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 10
nv_llm_output_token_len_sum{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 200
nv_llm_output_token_len_bucket{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1",le="+Inf"} 10
# TYPE nv_llm_input_token_len histogram
nv_llm_input_token_len_count{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1"} 10
nv_llm_input_token_len_sum{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1"} 700
nv_llm_input_token_len_bucket{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1",le="+Inf"} 10
""",
    "TensorRT-LLM": """\
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{engine_type="pytorch",finished_reason="stop",model_name="opt"} 10.0
# TYPE trtllm_prompt_tokens_total counter
trtllm_prompt_tokens_total{engine_type="pytorch",model_name="opt"} 700.0
# TYPE trtllm_generation_tokens_total counter
trtllm_generation_tokens_total{engine_type="pytorch",model_name="opt"} 200.0
# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="pytorch",model_name="opt"} 3.0
""",
}
MODEL = {"Triton": "ensemble"}


@pytest.mark.parametrize("name", PAGES)
def test_a_documented_page_is_read(name):
    page = parse(PAGES[name], 12.0)
    counts = page.counts(MODEL.get(name, ""))
    assert page.server.name == name
    assert page.server.source.startswith("https://")
    running = None if name == "Triton" else 3.0
    assert counts == Counts(requests=10.0, input_tokens=700.0, output_tokens=200.0, running=running)
    assert counts.tokens == 900.0


def test_every_server_of_the_table_has_a_page_here():
    assert {server.name for server in SERVERS} == set(PAGES)


def test_openmetrics_is_read_and_its_end_is_looked_for():
    text = PAGES["vLLM"] + "# EOF\n"
    text = text.replace("# HELP vllm:prompt_tokens_total", "# HELP vllm:prompt_tokens")
    for name in ("prompt_tokens", "generation_tokens", "request_success"):
        text = text.replace(f"# TYPE vllm:{name}_total", f"# TYPE vllm:{name}")
    assert parse(text, 1.0, openmetrics=True).counts().tokens == 900.0
    with pytest.raises(PageError, match="not a whole metrics page"):
        parse(text.removesuffix("# EOF\n"), 1.0, openmetrics=True)


def test_requests_of_an_ensemble_are_not_counted_in_each_of_its_parts():
    with pytest.raises(PageError, match=r"several models \(ensemble, preprocessing, tensorrt_llm\).*--model"):
        parse(PAGES["Triton"], 1.0).counts()
    with pytest.raises(PageError, match="no model 'bart' on the page; it has ensemble, preprocessing, tensorrt_llm"):
        parse(PAGES["Triton"], 1.0).counts("bart")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cut off"),
        ("\n", "of no server that is known here: vLLM"),
        ("up 1\n", r"it has 1 others: up"),
        ('{"iterLatencyMS": 1}\n', "not a metrics page but JSON; the page of trtllm-serve is /prometheus/metrics"),
        ("<html></html>\n", "not a metrics page but HTML"),
        ("vllm:num_requests_running 1\n", "without its counter of requests, vllm:request_success: nothing was served"),
        ("vllm:request_success_total one\n", "not a whole metrics page"),
        ("vllm:request_success_total NaN\n", "is nan, which is no count"),
        ("vllm:request_success_total -1\n", "is -1, which is no count"),
        ("vllm:request_success_total +Inf\n", "is inf, which is no count"),
        ("vllm:request_success_total 1\nvllm:request_success_total 2\n", "there twice"),
    ],
)
def test_what_is_no_page_is_said_in_a_line(text, words):
    with pytest.raises(PageError, match=words) as raised:
        parse(text, 1.0, "http://host/metrics")
    assert str(raised.value).startswith("http://host/metrics: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "metrics", "ftp://host/m", "http://", "http://host:port/", "http://ho st/", "http://h\x1b/"]
)
def test_what_is_no_address_is_said(url):
    with pytest.raises(SettingsError, match="is not an address; give one such as"):
        metrics_page.check(url)


def test_a_login_is_not_shown():
    assert metrics_page.shown("http://user:secret@host:8000/metrics?key=secret") == "http://host:8000/metrics"


AMOUNTS = st.integers(0, 10**12)


def vllm(requests: int, prompt: int, generated: int, started: int = 5) -> str:
    return (
        f"# TYPE vllm:request_success_total counter\nvllm:request_success_total {requests}\n"
        f"# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total {prompt}\n"
        f"# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total {generated}\n"
        f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {started}\n"
    )


@given(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS), st.tuples(AMOUNTS, AMOUNTS, AMOUNTS), st.booleans())
def test_a_difference_is_what_was_done_or_a_gap(before, after, restarted):
    earlier, later = parse(vllm(*before), 1.0), parse(vllm(*after, started=6 if restarted else 5), 2.0)
    if restarted or any(now < then for now, then in zip(after, before, strict=True)):
        with pytest.raises(PageError, match="started again"):
            later.since(earlier)
    else:
        done = later.since(earlier)
        assert (done.requests, done.input_tokens, done.output_tokens) == tuple(
            now - then for now, then in zip(after, before, strict=True)
        )


@given(st.data())
def test_a_page_that_ends_early_gives_no_figure(data):
    """Wherever it is cut: it is no page, or the next whole one does not fit it, or it has the same counts."""
    name = data.draw(st.sampled_from(sorted(PAGES)))
    model, whole = MODEL.get(name, ""), parse(PAGES[name], 2.0)
    cut = PAGES[name][: data.draw(st.integers(0, len(PAGES[name]) - 1))]
    try:
        page = replace(parse(cut, 1.0), whole=False)
        page.counts(model)
        done = whole.since(page, model)
    except PageError:
        pass
    else:
        assert (done.requests, done.input_tokens, done.output_tokens) == (0, 0, 0)
    try:
        done = parse(cut, 3.0).since(whole, model)
    except PageError:
        return
    assert (done.requests, done.input_tokens, done.output_tokens) == (0, 0, 0)


def test_names_that_change_are_a_gap():
    page = parse(PAGES["vLLM"], 1.0)
    renamed = parse(PAGES["vLLM"].replace("generation_tokens_total", "output_tokens_total"), 2.0)
    with pytest.raises(PageError, match="vllm:generation_tokens is not on the page any more"):
        renamed.since(page)
    with pytest.raises(PageError, match="vllm:generation_tokens was not on the page before"):
        page.since(renamed)
    with pytest.raises(PageError, match="the page is Triton's now, and was vLLM's"):
        parse(PAGES["Triton"], 2.0).since(page)


def test_a_reason_that_is_counted_for_the_first_time_began_at_zero():
    more = PAGES["vLLM"] + 'vllm:request_success_total{engine="0",finished_reason="error",model_name="opt"} 2.0\n'
    assert parse(more, 2.0).since(parse(PAGES["vLLM"], 1.0)).requests == 2.0


def joules(value: float, low: float, high: float) -> Quantity:
    return Quantity(value=value, low=low, high=high, basis="measured")


def test_a_window_without_tokens_has_no_joules_per_token():
    window = Window(5.0, Counts(0, 0, 0, 0), joules(500, 450, 550))
    assert window.joules_per("token").value is None
    assert window.joules_per("token").why == "no token in this time"
    assert window.joules_per("request").why == "no request in this time"
    assert Window(5.0, Counts(3.0), joules(500, 450, 550)).joules_per("token").why == "the page does not count tokens"
    assert Window(5.0, gap="HTTP 500").joules_per("request").why == "HTTP 500"


def test_windows_add_up_and_gaps_do_not_count():
    first = Window(5.0, Counts(1, 100, 50, 2), joules(500, 450, 550), idle_joules=0.0)
    second = Window(10.0, Counts(0, 0, 0, 0), joules(300, 270, 330), idle_joules=300.0)
    both = first.plus(Window(7.0, gap="cut off")).plus(second)
    assert (both.seconds, both.counts) == (15.0, Counts(1, 100, 50, 0))
    assert both.energy_joules == joules(800, 720, 880)
    assert both.joules_per("output token") == joules(16, 14.4, 17.6)
    assert both.idle_ratio == 0.375
    assert both.figures()["joules_per_request"]["value"] == 800
    assert first.plus(Window(5.0, Counts(1, 1, 1, 0))).energy_joules.value is None  # of the second nothing is known
