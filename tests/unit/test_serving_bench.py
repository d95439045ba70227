"""The figures of a serving benchmark: their laws, and what a load generator's output says."""

from __future__ import annotations

import csv
import io
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.analysis import serving_bench
from greenml.analysis.serving_bench import BUSY, Answer, Load, LoadError
from greenml.record.schema import (
    DeviceRecord,
    Factors,
    PhaseRecord,
    PlaceRecord,
    Quantity,
    RunRecord,
    Totals,
    UncertaintyBudget,
    Usage,
)  # fmt: skip
from greenml.reports import markdown
from simulated.http_service import Reply, json_reply, serve

CSV = """\
response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset
0.0210,0.0010,0.0000,0.0001,0.0190,0.0002,200,0.0050
0.0100,0.0000,0.0000,0.0001,0.0090,0.0001,503,0.0300
0.0150,0.0010,0.0000,0.0001,0.0140,0.0001,200,0.0010
"""


def quantity(value, low=None, high=None):
    return Quantity(value=value, low=low, high=high, basis="measured")


def scope(name, seconds, joules):
    energy = quantity(joules, joules * 0.9, joules * 1.1)
    return Totals(
        scope=name, seconds=seconds, gpu_energy_joules=energy, cpu_energy_joules=quantity(None),
        dram_energy_joules=quantity(None), it_energy_joules=energy, facility_energy_joules=quantity(joules * 1.2),
        emissions_grams=quantity(joules / 1000), cost_usd={"spot": quantity(seconds / 3600)},
    )  # fmt: skip


def record(*scopes):
    return RunRecord(
        greenml_version="0", run_id="r", status="completed", started="2026-01-01T00:00:00Z", ended=None,
        duration_seconds=10, place=PlaceRecord(), factors=Factors(), totals=list(scopes),
    )  # fmt: skip


SERVED = [(at * 0.1, 0.08) for at in range(100)]
BENCHED = record(scope("clients-1", 10.0, 1000.0), scope(f"clients-1/{BUSY}", 8.0, 900.0))


def test_a_row():
    row = serving_bench.row(BENCHED, Load("clients-1", 1, SERVED, failed=3, input_tokens=2000, output_tokens=1000))
    assert (row.requests, row.failed, row.concurrency) == (100, 3, 1)
    assert row.joules_per_request == quantity(9.0, 8.1, 9.9)
    assert row.joules_per_token.value == 0.3
    assert row.joules_per_output_token.value == 0.9
    assert row.facility_joules_per_request.value == pytest.approx(10.8)
    assert row.grams_per_1000_requests.value == pytest.approx(9.0)
    # The machine is paid for while it idles: 10 s at 1 USD an hour, for 3,000 tokens.
    assert row.cost_usd_per_million_tokens["spot"].value == pytest.approx(10 / 3600 / 3000 * 1e6)
    assert row.idle_ratio.value == pytest.approx(0.1)
    assert row.throughput_per_second.value == pytest.approx(100 / 9.98)
    assert row.latency_seconds["mean"].value == pytest.approx(0.08)
    (again,) = csv.DictReader(io.StringIO(serving_bench.as_csv([row])))
    assert float(again["joules_per_request_low"]) == 8.1
    assert again["latency_seconds_p99_high"] == ""
    table = markdown.grid(serving_bench.HEADINGS, [serving_bench.cells(row)])
    assert table.count("|") == 3 * (len(serving_bench.HEADINGS) + 1)
    assert "9.00 (8.10 to 9.90)" in table
    assert "100, 3 failed" in table


def used(joules, **budget):
    return Usage(energy_joules=joules, uncertainty=UncertaintyBudget(**budget))


def test_an_idle_share_is_as_sure_as_its_devices_differ():
    """A calibration's error is in both energies; steps, edges and time without readings are not."""
    gpu = DeviceRecord(id="g", kind="gpu", name="G", host="h", method="counter", sensor="nvml", usage=used(0.0))
    cpu = DeviceRecord(id="c", kind="cpu", name="C", host="h", method="estimate", sensor="estimate", usage=used(0.0))

    def of(whole, busy):
        phases = [
            PhaseRecord(path=path, count=1, seconds=1.0, spans=[], usage=usage)
            for path, usage in (("clients-1", whole), (f"clients-1/{BUSY}", busy))
        ]
        joules = [sum(usage.energy_joules for usage in each.values()) for each in (whole, busy)]
        made = record(scope("clients-1", 10.0, joules[0]), scope(f"clients-1/{BUSY}", 8.0, joules[1]))
        ratio = serving_bench.idle_ratio(made.model_copy(update={"devices": [gpu, cpu], "phases": phases}), "clients-1")
        return ratio.value, ratio.low, ratio.high

    alike = of({"g": used(1000.0, calibration_joules=300.0)}, {"g": used(800.0, calibration_joules=240.0)})
    assert alike == pytest.approx((0.2, 0.2, 0.2))
    # A CPU of 200 W with 100 J without a request, known to 50 %: k = 0.5 to 1.5 moves (0 + 100 k) / (800 + 200 k).
    unlike = of(
        {"g": used(800.0), "c": used(200.0, calibration_joules=100.0)},
        {"g": used(800.0), "c": used(100.0, calibration_joules=50.0)},
    )
    assert unlike == pytest.approx((0.1, 0.06, 0.14))
    steps = of({"g": used(1000.0)}, {"g": used(800.0, quantisation_joules=30.0, interpolation_joules=40.0)})
    assert steps == pytest.approx((0.2, 0.15, 0.25))
    unread = of({"g": used(1000.0, coverage_joules=150.0)}, {"g": used(800.0, coverage_joules=50.0)})
    assert unread == pytest.approx((0.2, 0.15, 0.3))


def test_what_is_not_known_is_not_made_up():
    row = serving_bench.row(BENCHED, Load("clients-1", 1, SERVED[:5]))
    assert row.joules_per_token.value is None
    assert row.joules_per_token.why == "its tokens are not known"
    assert row.latency_seconds["p99"].low is None
    assert row.latency_seconds["p99"].why == "too few for an interval"
    assert serving_bench.cells(row)[8] == "-"


@given(st.lists(st.floats(1e-4, 100), min_size=20, max_size=300), st.sampled_from(serving_bench.QUANTILES))
def test_an_interval_holds_its_figure(latencies, share):
    for made in (serving_bench.mean(latencies), serving_bench.quantile(latencies, share)):
        assert made.low <= made.value
        assert made.high is None or made.value <= made.high
    assert serving_bench.quantile(latencies, share).value in latencies


def test_intervals_hold_the_truth_in_95_of_100_cases():
    source, held = random.Random(1), {"mean": 0, "p90": 0}
    for _ in range(1000):
        latencies = [source.expovariate(1.0) for _ in range(200)]
        mean, p90 = serving_bench.mean(latencies), serving_bench.quantile(latencies, 0.9)
        held["mean"] += mean.low <= 1.0 <= mean.high
        held["p90"] += p90.low <= 2.302585 <= (p90.high or 1e9)
    assert held["mean"] >= 930
    assert held["p90"] >= 930


def test_a_99th_percentile_of_few_has_no_upper_end():
    made = serving_bench.quantile([float(at) for at in range(1, 101)], 0.99)
    assert (made.value, made.high) == (99.0, None)
    assert serving_bench.figure(made, lambda value: f"{value:.0f}") == "99 (97 or more)"


def test_a_score_joins_the_spread_of_its_repeats_and_the_uncertainty_of_the_sensors():
    joules = [900.0, 1000.0, 1100.0]
    scopes = [scope(f"repeat-{at}{tail}", 8.0, value) for at, value in enumerate(joules) for tail in ("", f"/{BUSY}")]
    loads = [Load(f"repeat-{at}", 1, SERVED) for at in range(3)]
    made = serving_bench.score(record(*scopes), loads)["gpu_wh_per_1000_queries"]
    assert made.value == pytest.approx(1000 / 100 * 1000 / 3600)
    half = 4.30265273 * statistics.stdev(joules) / 3**0.5
    assert made.value - made.low == pytest.approx((half**2 + 100.0**2) ** 0.5 * 10 / 3600)


def test_hey_s_output():
    answers = serving_bench.read_hey(CSV, 100.0)
    assert [round(answer.start_seconds, 4) for answer in answers] == [100.001, 100.005, 100.03]
    assert [answer.is_good for answer in answers] == [True, True, False]
    for wrong in ("response-time,offset\n1,2\n", "response-time,status-code,offset\nx,200,0\n"):
        with pytest.raises(LoadError, match="hey printed what is not read here"):
            serving_bench.read_hey(wrong, 0.0)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"usage": {"prompt_tokens": 5, "completion_tokens": 7}}', (5, 7)),
        (b'{"usage": {"input_tokens": 5, "output_tokens": 0}}', (5, 0)),
        (b'{"usage": {"prompt_tokens": true, "completion_tokens": -1}}', (None, None)),
        (b'{"usage": null}', (None, None)),
        (b"[1]", (None, None)),
        (b"not JSON", (None, None)),
        (b"[" * 200_000, (None, None)),
    ],
)
def test_tokens_of_an_answer(body, tokens):
    assert serving_bench.tokens_of(body) == tokens


def test_a_login_in_the_address_is_sent_and_what_is_no_http_is_one_clear_line():
    usage = {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    with serve([json_reply(usage), Reply(how="garbage"), Reply(body=b"x" * 100, how="cut")]) as service:
        endpoint = serving_bench.Endpoint(f"http://user:secret@127.0.0.1:{service.port}/x?a=b")
        assert serving_bench.probe(endpoint) == (5, 7)
        assert service.asked[0].headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="
        for what in ("BadStatusLine", "IncompleteRead"):
            with pytest.raises(LoadError) as raised:
                serving_bench.probe(endpoint)
            assert str(raised.value) == f"{service.url}/x: its answer is not whole HTTP ({what})"


@pytest.mark.parametrize(("asked", "clients", "sent"), [(60, 7, 63), (60, 4, 60), (5, 8, 8), (1, 1, 1)])
def test_hey_sends_as_many_from_each_client(asked, clients, sent):
    assert serving_bench.hey_requests(asked, clients) == sent


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 5)), min_size=1, max_size=60))
def test_the_time_with_a_request_in_flight(times):
    answers = [Answer(start, latency, 200) for start, latency in sorted(times)]
    spans = serving_bench.busy(answers)
    assert spans[0][0] == answers[0].start_seconds
    assert spans[-1][1] == max(answer.start_seconds + answer.latency_seconds for answer in answers)
    assert all(before[1] + serving_bench.SAME_SECONDS < after[0] for before, after in pairwise(spans))
    for answer in answers:
        end = answer.start_seconds + answer.latency_seconds
        assert any(start <= answer.start_seconds and end <= finish for start, finish in spans)
