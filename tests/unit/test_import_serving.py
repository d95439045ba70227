"""Imports of served models: AIPerf's export, and Azure Monitor's energy of an online endpoint by instance."""

from __future__ import annotations

import json

import pytest

from greenml.accounting import assumptions
from greenml.accounting.check import check
from greenml.errors import RecordError, SettingsError
from greenml.record import file as record_file
from greenml.record import importers
from greenml.record.schema import DeviceRecord, Factors, PlaceRecord, RunRecord, Series, Timeline, Usage
from greenml.settings import resolve


def gpu(at, energy, **more):
    metrics = {"nvidia_energy_consumption": energy, "nvidia_power_usage": {"unit": "W", "avg": 310.0, "max": 400.0}}
    return {"gpu_index": at, "gpu_name": "NVIDIA H100", "gpu_uuid": f"GPU-{at}", "platform": "nvidia",
            "hostname": "node", "metrics": metrics | more}  # fmt: skip


def export(*gpus, **changes):
    """As https://docs.nvidia.com/aiperf/reference/json-export-schema has it, schema 1.5."""
    return {
        "schema_version": "1.5", "aiperf_version": "0.14.0", "benchmark_id": "b1",
        "start_time": "2026-10-13T01:48:00", "end_time": "2026-10-13T01:49:00",
        "benchmark_duration": {"unit": "sec", "avg": 50.0}, "request_count": {"unit": "requests", "avg": 500.0},
        "total_isl": {"unit": "tokens", "avg": 50_000.0}, "total_osl": {"unit": "tokens", "avg": 25_000.0},
        "request_latency": {"unit": "ms", "avg": 1500.0, "p50": 1400.0, "p99": 3000.0, "count": 500},
        "telemetry_data": {
            "endpoints": {"localhost:9400": {"gpus": {f"gpu_{at}": each for at, each in enumerate(gpus)}}}
        },
    } | changes  # fmt: skip


@pytest.fixture
def load(tmp_path):
    def read(content, **more):
        path = tmp_path / "profile_export_aiperf.json"
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
        return importers.load(aiperf=path, **more)

    return read


DELTA = {"unit": "MJ", "avg": 0.0155}  # AIPerf's own difference
COUNTER = {"unit": "MJ", "avg": 0.2378, "min": 0.2299, "max": 0.2464}  # statistics of the counter, of earlier versions


def test_energy_tokens_and_latencies(load):
    record = load(export(gpu(0, DELTA), gpu(1, COUNTER)))
    assert [round(device.usage.energy_joules) for device in record.devices] == [15_500, 16_500]
    assert record.duration_seconds == 50.0
    assert record.metrics["requests"] == 500.0
    assert record.metrics["output_tokens"] == 25_000.0
    assert record.metrics["request_latency_p99_seconds"] == 3.0
    made = assumptions.account(record, check(resolve({"region": "westus2", "sku": "ND96isr_H100_v5", "pue": 1.25})))
    total = made.total("serving")
    assert total.gpu_energy_joules.value == pytest.approx(32_000)
    assert total.gpu_energy_joules.basis == "reported"
    assert total.facility_energy_joules.value == pytest.approx(40_000)
    assert total.emissions_grams.value > 0
    assert total.cost_usd
    assert [device.count for device in made.devices] == [1, 1]


def test_a_counter_that_falls_is_no_energy(load):
    with pytest.raises(RecordError, match="least is above its largest"):
        load(export(gpu(0, COUNTER | {"min": 0.3})))


def test_the_host_beside(load, tmp_path):
    """CPU and DRAM of ``greenml run -- aiperf profile ...``, over the time of the benchmark alone."""
    host = RunRecord(
        greenml_version="0", run_id="r", status="completed", started="2026-10-13T01:47:50Z",
        ended="2026-10-13T01:49:10Z", duration_seconds=80, place=PlaceRecord(), factors=Factors(),
        devices=[
            DeviceRecord(
                id="package-0", kind="cpu", name="CPU", host="node", method="counter", sensor="rapl",
                usage=Usage(energy_joules=6000, energy_low_joules=5400, energy_high_joules=6600),
            )
        ],
        timeline=Timeline(step_seconds=10, bins=8, series=[Series(device="package-0", power_watts=[0, *[100] * 6, 0])]),
    )  # fmt: skip
    record_file.write(host, tmp_path / "host.json")
    record = load(export(gpu(0, DELTA)), host_record=tmp_path / "host.json")
    cpu = record.devices[1].usage
    assert (cpu.energy_joules, cpu.energy_low_joules, cpu.energy_high_joules) == (5000, 4500, 5500)
    made = assumptions.account(record, check(resolve({})))
    assert made.total("serving").it_energy_joules.value == pytest.approx(20_500)
    with pytest.raises(RecordError, match="does not cover the time of the benchmark"):
        load(export(gpu(0, DELTA), start_time="2026-10-13T02:48:00"), host_record=tmp_path / "host.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"request_count": None, "telemetry_data": None}, "not AIPerf's profile_export_aiperf.json"),
        ({"start_time": "yesterday"}, "start_time is 'yesterday'"),
        ({"start_time": None}, "does not tell when the benchmark was"),
        ({"benchmark_duration": {"unit": "fortnights", "avg": 1}}, "is in 'fortnights'; it is read in sec"),
        ({"request_count": {"unit": "requests", "avg": -1}}, "request_count is -1"),
        ({"telemetry_data": {"endpoints": {"x": {"gpus": {"gpu_0": {}}}}}}, "gpu_0: a GPU without metrics"),
    ],
)
def test_what_is_not_such_a_file_is_said(load, changes, words):
    with pytest.raises(RecordError, match=words):
        load(export(gpu(0, DELTA), **changes))


def test_units_are_the_file_s_and_unknown_is_not_zero(load, tmp_path):
    with pytest.raises(RecordError, match="is in 'BTU'; it is read in J, mJ, kJ, MJ, Wh"):
        load(export(gpu(0, {"unit": "BTU", "avg": 1.0})))
    by_power = load(export(gpu(0, {"unit": "MJ"}))).devices[0]
    assert by_power.usage.energy_joules == 310.0 * 50
    assert "mean power" in by_power.note
    nothing = load(export())
    assert nothing.devices == []
    assert "no GPU telemetry" in nothing.notes[0].text
    with pytest.raises(RecordError, match="the CSV has no times"):
        importers.load(aiperf=tmp_path / "profile_export_aiperf.csv")
    with pytest.raises(SettingsError, match="--aiperf goes with no other source"):
        importers.load(host_record=tmp_path / "host.json")


def azure(tmp_path, interval="PT1M", aggregation="average", **instances):
    """``az monitor metrics list --resource DEPLOYMENT --metric GpuEnergyJoules --filter "instanceId eq '*'"``."""
    series = [
        {"metadatavalues": [{"name": {"value": "instanceid"}, "value": name}],
         "data": [{"timeStamp": f"2026-10-13T01:{at:02}:00Z", aggregation: joules} for at, joules in enumerate(points)]}
        for name, points in instances.items()
    ]  # fmt: skip
    content = {
        "interval": interval, "timespan": "2026-10-13T01:00:00Z/2026-10-13T01:03:00Z",
        "value": [{"name": {"value": "GpuEnergyJoules"}, "unit": "Count", "timeseries": series}],
    }  # fmt: skip
    path = tmp_path / "energy.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("aggregation", ["average", "total"])
def test_an_endpoint_s_energy_by_instance(tmp_path, aggregation):
    path = azure(tmp_path, aggregation=aggregation, first=[1800, 2400, 600], second=[1200, 1200, 1200])
    record = importers.load(azure_monitor=[path], duration_seconds=180)
    assert {device.host: device.usage.energy_joules for device in record.devices} == {"first": 4800, "second": 3600}
    settings = check(resolve({"sku": "NC4as_T4_v3", "region": "westus2", "tier": "dedicated"}))
    made = assumptions.account(record, settings)
    assert made.total().gpu_energy_joules.value == 8400
    assert made.place.nodes == 2  # both are billed
    assert [device.count for device in made.devices] == [1, 1]


def test_means_of_more_than_a_minute_are_no_energy(tmp_path):
    with pytest.raises(RecordError, match="has means and no totals: export it with --interval PT1M"):
        importers.load(azure_monitor=[azure(tmp_path, interval="PT5M", first=[1800])], duration_seconds=300)
