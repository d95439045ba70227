"""Reconcile: on scripted meters of known gain, lag, gap and boundary the verdict is right; each file is read right."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from scripted_run import UNIX, Stage, record

from greenml.analysis.reconcile.compare import _cut, reconcile
from greenml.analysis.reconcile.meters import Meter, counted, integrated, read, step
from greenml.cli import main
from greenml.errors import RecordError, SettingsError
from greenml.record import file as record_file
from greenml.record import importers
from greenml.record.importers import azure_monitor
from greenml.record.schema import RunRecord
from simulated.http_service import Reply, json_reply, serve

SECONDS = 600
PUE = 1.2


def watts(second: float) -> float:
    """The two GPUs' power: idle around the run; in it, a minute of set-up, training in waves, an evaluation."""
    if not 0 <= second < SECONDS:
        return 80.0
    if second < 60:
        return 160.0
    return 600.0 if second >= 540 or int(second) % 100 < 70 else 300.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    stages = [Stage("train", SECONDS, watts=lambda second, gpu: watts(second) / 2)]
    settings = {"pue": PUE, "carbon_intensity": 100.0}
    return record(tmp_path_factory.mktemp("scripted") / "run.trace", stages, gpus=2, settings=settings)


@pytest.fixture(scope="module")
def begun(run: RunRecord) -> float:
    return run.started.timestamp()


def meter(
    begun: float,
    *,
    gain: float = 1.0,
    constant: float = 0.0,
    lag: float = 0.0,
    gap: tuple[float, float] = (0.0, 0.0),
    boundary: str | None = "gpu",
    accuracy: float | None = 0.01,
    until: float = SECONDS + 120,
    counter: bool = False,
) -> Meter:
    """A meter that shows a sample a second from two minutes before the run on."""
    samples = [
        (begun + second + lag, gain * (watts(second + 0.5) + constant))
        for second in range(-120, int(until))
        if not gap[0] <= second < gap[1]
    ]
    curve = integrated(samples)
    if counter:  # one that falls back to 0 under way
        reset = max(joules for at, joules in curve if at <= begun + 150)
        curve = counted([(at, joules if joules < reset else joules - reset) for at, joules in curve])
    times = [at for at, _ in curve]
    return Meter("meter", boundary, times[0], times[-1], curve=curve, counter=counter, step_seconds=step(times),
                 accuracy_ratio=accuracy)  # fmt: skip


CASES = {
    "the same": ({}, "agree"),
    "within the calibration": ({"gain": 1.04}, "agree"),
    "a gain of 1.25": ({"gain": 1.25}, "differ"),
    "a gain of 0.7": ({"gain": 0.7}, "differ"),
    "a clock that is late": ({"lag": 40.0}, "agree"),
    "a clock that is early": ({"lag": -25.0}, "agree"),
    "a late clock and a gain": ({"lag": 40.0, "gain": 1.3}, "differ"),
    "a gap": ({"gap": (200, 260)}, "agree"),
    "mostly gaps": ({"gap": (100, 500)}, "cannot be compared"),
    "a counter that counts over a gap": ({"gap": (200, 320), "counter": True}, "agree"),
    "the node": ({"constant": 250.0, "boundary": "node-ac"}, "cannot be compared"),
    "a node below its GPUs": ({"gain": 0.6, "boundary": "node-ac"}, "differ"),
    "the facility": ({"gain": PUE, "boundary": "facility"}, "agree"),
    "the facility, wrong": ({"gain": PUE * 1.5, "boundary": "facility"}, "differ"),
    "no boundary": ({"boundary": None}, "cannot be compared"),
    "it ended before the run": ({"until": SECONDS - 60}, "cannot be compared"),
    "CPUs that the record lacks": ({"boundary": "devices"}, "cannot be compared"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_right(run: RunRecord, begun: float, case: str):
    told, verdict = CASES[case]
    assert run.total().facility_energy_joules.value == pytest.approx(PUE * run.total().gpu_energy_joules.value)
    result = reconcile([run], meter(begun, **told))
    assert result.verdict == verdict, result.why
    if told.get("lag"):
        assert result.meter.lag_seconds == pytest.approx(told["lag"], abs=3)
        assert result.ratio == pytest.approx(told.get("gain", 1.0), rel=0.02)
    if "gap" in told:
        assert result.gap_seconds == pytest.approx(told["gap"][1] - told["gap"][0], abs=3)
    if case == "the node":
        assert result.left_over_joules == pytest.approx(250 * SECONDS, rel=0.02)


def test_several_records_against_a_nodes_meter_leave_the_rest(tmp_path: Path, run: RunRecord, begun: float):
    others = [device.model_copy(update={"id": f"other-{device.id}"}) for device in run.devices]
    twin = run.model_copy(update={"run_id": "twin", "devices": others})
    result = reconcile([run, twin], meter(begun, gain=2, constant=100.0, boundary="node-dc"))
    assert result.left_over_joules == pytest.approx(200 * SECONDS, rel=0.02)
    assert "left over" in result.why
    same = run.model_copy(update={"run_id": "same"})
    result = reconcile([run, same], meter(begun, gain=2))
    assert (result.verdict, "both measured" in result.why) == ("cannot be compared", True)
    result = reconcile([run, twin.model_copy(update={"totals": []})], meter(begun))
    assert (result.verdict, result.record.joules, "no totals" in result.why) == ("cannot be compared", None, True)


def test_a_sum_lacks_what_one_of_its_records_lacks(run: RunRecord, begun: float):
    """One of two records has the CPUs' energy: the sum has not."""
    total = run.total()
    known = total.gpu_energy_joules.model_copy(update={"value": 1000.0, "low": 900.0, "high": 1100.0})
    cpus = total.model_copy(update={"cpu_energy_joules": known, "dram_energy_joules": known})
    others = [device.model_copy(update={"id": f"other-{device.id}"}) for device in run.devices]
    twin = run.model_copy(update={"run_id": "twin", "devices": others, "totals": [cpus]})
    result = reconcile([run, twin], meter(begun, gain=2, boundary="devices"))
    assert (result.verdict, "the record has no CPU and DRAM energy" in result.why) == ("cannot be compared", True)
    bound = total.model_copy(
        update={"gpu_energy_joules": total.gpu_energy_joules.model_copy(
            update={"low": None, "high": None, "at_least": True})}
    )  # fmt: skip
    result = reconcile([run, twin.model_copy(update={"totals": [bound]})], meter(begun, gain=3))
    assert (result.verdict, result.record.high) == ("agree", math.inf)  # at least so much: more is no contradiction


def test_a_run_that_took_no_time_is_not_compared(run: RunRecord, begun: float):
    empty = run.model_copy(update={"duration_seconds": 0.0, "attempts": [], "timeline": None})
    assert reconcile([empty], meter(begun)).why == "the record covers no time"


@pytest.mark.parametrize("known_from", [{}, {"started": "CodeCarbon's row"}])
def test_a_course_is_not_cut_to_a_time_that_is_not_known(run: RunRecord, begun: float, known_from: dict[str, str]):
    """An import may hold a window that the run lies in, or a time without its zone."""
    window = {"ended": datetime.fromtimestamp(begun + SECONDS + (0 if known_from else 900), timezone.utc)}
    place = run.place.model_copy(update={"known_from": known_from})
    imported = run.model_copy(update={"attempts": [], "timeline": None, "place": place, **window})
    result = reconcile([imported], meter(begun))
    assert (result.verdict, "not known to the second" in result.why) == ("cannot be compared", True)


def test_a_figure_of_another_day_is_not_the_runs(run: RunRecord, begun: float):
    day = 86_400.0
    figure = Meter("figure", "gpu", begun - day, begun - day + SECONDS, joules=1.0, clock_doubt_seconds=14 * 3600)
    assert "the meter measured from" in reconcile([run], figure).why
    longer = Meter("figure", "gpu", begun - 60, begun + SECONDS + 60, joules=run.total().gpu_energy_joules.value + 12e3)
    why = reconcile([run], longer).why
    assert "the rest of the meter's time drew 100 W" in why
    assert "less than the run alone" in reconcile([run], replace(longer, joules=10.0)).why


@pytest.mark.parametrize(
    ("window", "silent_from", "counter", "joules", "interval", "gap_seconds"),
    [
        ((100, 200), 400, False, 10_000, None, 0),
        ((100, 405), 400, False, 30_500, (30_000, 31_500), 5),  # beyond the samples: from 0 to 300 W
        ((100, 600), 200, True, 50_000, None, 200),  # a counter counts over a gap
        ((250, 350), 200, True, 10_000, (0, 20_000), 100),  # what it had before and after them is not told
        ((390, 600), 200, True, 21_000, (20_000, 23_000), 10),
    ],
    ids=["within", "beyond the end", "a counter's gap", "within a counter's gap", "an edge in a counter's gap"],
)
def test_what_edges_and_gaps_hide_is_in_the_interval(window, silent_from, counter, joules, interval, gap_seconds):
    """100 W all the time; long before, there were 300 W and 0 W."""
    times = [at for at in range(-900, 701) if at <= silent_from or (counter and at >= 400)]
    powers = [(-1000, 300), (-999, 300), (-998, 0), (-997, 0), *((at, 100) for at in times)]
    curve = integrated([(UNIX + at, float(watts)) for at, watts in powers])
    told = Meter("meter", "gpu", curve[0][0], curve[-1][0], curve=curve, counter=counter, step_seconds=1.0)
    side, silent = _cut(told, [(UNIX + window[0], UNIX + window[1])], 0.0)
    assert (side.joules, silent) == (pytest.approx(joules), pytest.approx(gap_seconds))
    assert ((side.low, side.high) if side.low is not None else None) == (interval and pytest.approx(interval))


def test_a_meter_without_a_sample_in_the_run_says_nothing(run: RunRecord, begun: float):
    curve = ((begun - 60, 0.0), (begun + SECONDS + 60, 500e3))
    told = Meter("meter", "gpu", curve[0][0], curve[-1][0], curve=curve, counter=True, step_seconds=SECONDS + 120)
    result = reconcile([run], told)
    assert (result.verdict, "silent for 100.0%" in result.why) == ("cannot be compared", True)


# Files. Each holds 100 W for 100 s: 10 kJ.


def figure(text: str, *records: RunRecord) -> tuple[str | None, float]:
    [made] = read(text, records)
    return made.boundary, made.curve[-1][1] if made.curve else made.joules or math.nan


@pytest.mark.parametrize(
    "content",
    [
        "time,W\n" + "".join(f"{UNIX + second},100\n" for second in range(0, 101, 10)),
        "Time;Power (kW)\n" + "".join(f"{UNIX + second:.0f};0,1\n" for second in range(0, 101, 10)),
        "timestamp,energy_wh\n" + "".join(f"{UNIX + second},{second / 36}\n" for second in range(0, 101, 10)),
        "when_time,volts,watts\n"
        + "".join(
            f"{datetime.fromtimestamp(UNIX + second, timezone.utc).isoformat()},230,100\n"
            for second in range(0, 101, 10)
        ),
        "time,Total (MJ)\n" + "".join(f"{UNIX + second},{second * 1e-4}\n" for second in range(0, 101, 10)),
        "time,mW\n" + "".join(f"{UNIX + second},100000\n" for second in range(0, 101, 10)),
        "Runtime,time,Power Factor,Active Power (W)\n"
        + "".join(f"{second},{UNIX + second},0.9,100\n" for second in range(0, 101, 10)),
        "Date,Time,W\n" + "".join(f"2026-07-25,17:0{at // 60}:{at % 60:02},100\n" for at in range(0, 101, 10)),
        'time,mW\n' + "".join(f'{UNIX + second},"100,000"\n' for second in range(0, 101, 10)),
        "time;mW\n" + "".join(f"{UNIX + second};100.000,0\n" for second in range(0, 101, 10)),
        "time,W\r" + "".join(f"{(UNIX + second) * 1e9:.0f},100\r" for second in range(0, 101, 10)),
    ],
    ids=["watts", "kilowatts with commas", "a counter", "ISO times", "megajoules", "milliwatts",
         "a power factor beside it", "a date and a time", "thousands", "thousands with dots",
         "nanoseconds, and lines of old"],
)  # fmt: skip
def test_csv(tmp_path: Path, content: str):
    (tmp_path / "pdu.csv").write_text(content)
    boundary, joules = figure(f"csv:{tmp_path}/pdu.csv,boundary=node-ac,accuracy=1%")
    assert boundary == "node-ac"
    assert joules == pytest.approx(10_000)


def prometheus(metric: str, values: list[tuple[str, list[float]]]) -> str:
    series = [
        {"metric": {"__name__": metric, "UUID": uuid},
         "values": [[UNIX + 10 * at, str(value)] for at, value in enumerate(each)]}
        for uuid, each in values
    ]  # fmt: skip
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}})


def test_prometheus_takes_the_records_gpus_alone(tmp_path: Path, run: RunRecord):
    own = [device.id for device in run.devices if device.kind == "gpu"]
    counter = [0.5e6 * at for at in range(11)]  # millijoules
    metric = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
    (tmp_path / "dcgm.json").write_text(prometheus(metric, [(gpu, counter) for gpu in (*own, "GPU-others")]))
    assert figure(f"prometheus:{tmp_path}/dcgm.json", run) == ("gpu", pytest.approx(10_000))
    # The second GPU's labels changed under way, and a second exporter tells of it in between.
    parts = json.loads(prometheus(metric, [(own[0], counter), (own[1], counter), (own[1], counter[3:6])]))
    series = parts["data"]["result"]
    late = {**series[1], "values": series[1]["values"][6:]}
    series[1]["values"] = series[1]["values"][:6]
    series[2]["values"] = [[at + 31.0, value] for at, value in series[2]["values"]]
    (tmp_path / "parts.json").write_text(json.dumps({"data": {"result": [*series, late]}}))
    assert figure(f"prometheus:{tmp_path}/parts.json", run) == ("gpu", pytest.approx(10_000))
    for name, gpus in (("strangers", ["GPU-x", "GPU-y"]), ("one", [own[0], "GPU-x"])):
        (tmp_path / name).write_text(prometheus(metric, [(gpu, counter) for gpu in gpus]))
        [made] = read(f"prometheus:{tmp_path}/{name}", [run])
        result = reconcile([run], made)
        assert (result.verdict, result.other.joules) == ("cannot be compared", None)
        assert "of the record's 2 GPUs are not among the meter's series" in result.why
    unnamed = json.loads(prometheus("node_watts", [("", [50.0] * 11), ("", [50.0] * 11)]))
    (tmp_path / "unnamed").write_text(json.dumps(unnamed))
    [made] = read(f"prometheus:{tmp_path}/unnamed,boundary=node-ac", [run])
    assert "exclusive=yes" in made.shared
    [made] = read(f"prometheus:{tmp_path}/unnamed,boundary=node-ac,exclusive=yes", [run])
    assert (made.curve[-1][1], made.shared) == (pytest.approx(10_000), "")
    (tmp_path / "power.json").write_text(
        prometheus("DCGM_FI_DEV_POWER_USAGE", [("a", [60.0] * 11), ("b", [40.0] * 11)])
    )
    assert figure(f"prometheus:{tmp_path}/power.json") == ("gpu", pytest.approx(10_000))


def test_the_gap_of_one_gpu_is_not_filled_by_another(tmp_path: Path):
    """Nor does a counter that is repeated until the next scrape hide that none came."""
    counter = [5e5 * at for at in range(40)]
    answer = json.loads(prometheus("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", [("a", counter), ("b", counter)]))
    del answer["data"]["result"][1]["values"][10:30]
    (tmp_path / "gap").write_text(json.dumps(answer))
    [made] = read(f"prometheus:{tmp_path}/gap", [])
    assert max(after - before for (before, _), (after, _) in pairwise(made.curve)) == 210
    held = [counter[at // 4 * 4] for at in range(40)]
    (tmp_path / "held").write_text(prometheus("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", [("a", held)]))
    [made] = read(f"prometheus:{tmp_path}/held", [])
    assert made.step_seconds == 40


def test_a_prometheus_server_is_asked_for_the_runs_time(run: RunRecord):
    answer = json.loads(prometheus("", [("", [100.0] * 11)]))
    with serve([json_reply(answer)]) as service:
        [made] = read(f"prometheus:{service.url},query=node_watts,boundary=node-dc", [run])
        asked = service.asked[0]
    assert (asked.path, asked.query["query"]) == ("/api/v1/query_range", "node_watts")
    assert float(asked.query["start"]) <= run.started.timestamp() - 300  # of a clock that is late
    assert run.ended.timestamp() + 300 <= float(asked.query["end"])
    assert made.curve[-1][1] == pytest.approx(10_000)
    with serve([Reply(500)]) as service, pytest.raises(RecordError, match="no answer"):
        read(f"prometheus:{service.url},query=node_watts", [run])


def test_pm_counters(tmp_path: Path):
    def lines(share: float) -> str:
        return "".join(f"{int(1000 * at * share)} J {int((UNIX + 10 * at) * 1e6)} us\n" for at in range(11))

    (tmp_path / "energy").write_text(lines(1.0))
    for number in range(4):
        (tmp_path / f"accel{number}_energy").write_text(lines(0.25))
    made = {each.boundary: each.curve[-1][1] for each in read(f"pm_counters:{tmp_path}", [])}
    assert made == {"gpu": pytest.approx(10_000), "node-dc": pytest.approx(10_000)}


def emissions(folder: Path, **cells: str) -> Path:
    row = {
        "timestamp": "2026-07-25T17:30:00", "run_id": "r", "duration": "600.0", "emissions": "0.03",
        "energy_consumed": "0.24", "cpu_energy": "0.02", "gpu_energy": "0.2", "ram_energy": "0.02",
        "gpu_model": "2 x A", "pue": "1.2",
    } | cells  # fmt: skip
    path = folder / "emissions.csv"
    path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    return path


def test_codecarbon_counts_what_it_could_read(tmp_path: Path, run: RunRecord):
    gpus, everything = read(f"codecarbon:{emissions(tmp_path)}", [run])
    assert (gpus.joules, everything.joules) == (pytest.approx(0.2 / 1.2 * 3.6e6), pytest.approx(0.24 / 1.2 * 3.6e6))
    for cells, which, why in (
        ({"ram_energy": "0.0"}, 1, "CodeCarbon could not read the DRAM and wrote 0"),
        ({"energy_consumed": "0"}, 1, "CodeCarbon wrote 0"),
        ({"gpu_energy": "0", "gpu_model": ""}, 0, "CodeCarbon counted no GPU, the record has one"),
    ):
        made = read(f"codecarbon:{emissions(tmp_path, **cells)}", [run])[which]
        assert made.joules is None
        result = reconcile([run], made)
        assert (result.verdict, result.why.startswith(why)) == ("cannot be compared", True)
    for pue in ("0", "0.5", "nan", "x"):
        with pytest.raises(RecordError, match=f"pue is '{pue}', not a number from 1 up"):
            read(f"codecarbon:{emissions(tmp_path, pue=pue)}", [run])
    with pytest.raises(RecordError, match="covers no time"):
        read(f"codecarbon:{emissions(tmp_path, duration='0')}", [run])


def azure(folder: Path, name: str, dimensions: list[dict[str, str]], interval: str = "0:01:00") -> Path:
    series = [
        {"data": [{"timeStamp": "2026-07-25T17:20:00Z", "total": 5000.0 + number}],
         "metadatavalues": [{"name": {"value": key}, "value": value} for key, value in each.items()]}
        for number, each in enumerate(dimensions)
    ]  # fmt: skip
    metric = {"name": {"value": "GpuEnergyJoules"}, "unit": "Count", "timeseries": series}
    window = "2026-07-25T17:00:00Z/2026-07-25T18:00:00Z"
    path = folder / name
    path.write_text(json.dumps({"interval": interval, "timespan": window, "value": [metric]}))
    return path


def test_azure_monitor_of_instances_and_of_one_run(tmp_path: Path, run: RunRecord):
    by_instance = azure(tmp_path, "instances", [{"instanceid": "a"}, {"instanceid": "b"}])
    [made] = read(f"azure:{by_instance}", [run])
    assert (made.joules, made.windowed) == (10_001, False)
    of_run = azure(
        tmp_path, "run", [{"runid": "r", "deviceid": "0"}, {"runid": "r", "deviceid": "1"}], "1 day, 0:00:00"
    )
    [made] = read(f"azure:{of_run}", [run])
    assert (made.joules, made.windowed) == (10_001, True)
    whole = azure(tmp_path, "all", [{"deviceid": "0"}], "1 day, 0:00:00")  # an hour of all that ran in the workspace
    assert "the meter's figure is of 1h 00m 00s" in reconcile([run], read(f"azure:{whole}", [run])[0]).why
    with pytest.raises(RecordError, match=r"in points of 0:01:00, in .* of 1 day"):
        importers.load(azure_monitor=[of_run, azure(tmp_path, "fine", [{"runid": "r"}])], duration_seconds=60)


class Credential:
    """One that is there already; the real policy asks for https, which a local server has not."""

    def get_token(self, *_: str, **__: object) -> None:
        raise AssertionError("no token is asked for")


WORKSPACE = "/subscriptions/s-1/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


def test_azure_monitor_is_asked_by_name(run: RunRecord):
    querymetrics = pytest.importorskip("azure.monitor.querymetrics", reason="greenml[azure-monitor] is not installed")
    from azure.core.pipeline.policies import SansIOHTTPPolicy

    from greenml.record.importers import azure_monitor as azure_client

    points = [{"timeStamp": "2026-07-25T17:20:00Z", "total": 4000.0}, {"timeStamp": "2026-07-25T17:21:00Z"}]
    series = [
        {"metadatavalues": [{"name": {"value": key}, "value": value} for key, value in names.items()], "data": points}
        for names in ({"runid": "r-1", "instanceid": "0"}, {"runid": "r-1", "instanceid": "1"})
    ]
    metric = {"id": "x", "type": "t", "name": {"value": "GpuEnergyJoules"}, "unit": "Count", "timeseries": series}
    answer = {"values": [{"starttime": "2026-07-25T17:15:00Z", "endtime": "2026-07-25T17:35:00Z", "interval": "PT1M",
                          "resourceid": WORKSPACE, "value": [metric]}]}  # fmt: skip
    start, end = run.windows[0]

    def asked_of(url: str) -> dict:
        client = querymetrics.MetricsClient(url, Credential(), authentication_policy=SansIOHTTPPolicy(), retry_total=0)
        return azure_client.ask(client, WORKSPACE, "r-1", start, end)

    with serve([json_reply(answer)]) as service:
        content = asked_of(service.url)
        [asked] = service.asked
    assert (asked.path, json.loads(asked.body)) == ("/subscriptions/s-1/metrics:getBatch", {"resourceids": [WORKSPACE]})
    assert asked.query["filter"] == "RunId eq 'r-1' and InstanceId eq '*'"
    assert (asked.query["metricnames"], asked.query["aggregation"], asked.query["interval"], asked.query["top"]) == (
        "GpuEnergyJoules", "total", "PT1M", "1000",
    )  # fmt: skip
    begun, ended = (
        datetime.fromisoformat(asked.query[name].replace("Z", "+00:00")) for name in ("starttime", "endtime")
    )
    assert begun < start < end < ended
    part = azure_monitor.read([("Azure", content)])
    assert (sum(device.usage.energy_joules for device in part.devices), part.is_of_one_run) == (8000.0, True)
    assert azure_client.client("westus2", Credential())._endpoint == "https://westus2.metrics.monitor.azure.com"
    refused = {"error": {"code": "AuthorizationFailed", "message": "no right; token hf_" + "aB3d" * 8}}
    with serve([json_reply(refused, status=403)]) as service, pytest.raises(RecordError, match=r"no right") as caught:
        asked_of(service.url)
    assert "hf_a" not in str(caught.value)
    with serve([json_reply({})]) as service, pytest.raises(RecordError, match="Azure Monitor: KeyError"):
        asked_of(service.url)


def test_azure_by_name_needs_a_run_and_a_region(run: RunRecord):
    for options in ("", ",run=r-1", ",region=westus2"):
        with pytest.raises(SettingsError, match="the record does not tell both"):
            read(f"azure:{WORKSPACE}{options}", [run])
    with pytest.raises(SettingsError, match="a name such as westus2"):
        read(f"azure:{WORKSPACE},run=r-1,region=evil.example/", [run])


def test_sacct_counts_a_job_once(tmp_path: Path, run: RunRecord):
    (tmp_path / "rows").write_text(
        "JobIDRaw|ConsumedEnergyRaw|Start|End\n"
        "12||2026-07-25T17:20:00|2026-07-25T17:30:00\n"
        "12.batch|10000|2026-07-25T17:20:00|2026-07-25T17:30:00\n"
        "12.extern|10000|2026-07-25T17:20:00|2026-07-25T17:30:00\n"
        "12.0|9000|2026-07-25T17:21:00|2026-07-25T17:29:00\n"
    )
    jobs = sacct_json({"12.batch": 10_000, "12.extern": 10_000, "12.0": 9_000, "12.1": 2**64 - 2})
    (tmp_path / "json").write_text(jobs)
    (tmp_path / "set").write_text(sacct_json({"12.batch": 10_000, "12.0": 9_000}, wrapped=True))
    for name in ("rows", "json", "set"):
        [made] = read(f"sacct:{tmp_path / name},exclusive=yes,boundary=node-ac", [])
        assert (made.joules, made.end - made.start, made.shared) == (10_000, 600, "")
        [made] = read(f"sacct:{tmp_path / name}", [])
        assert "exclusive=yes" in made.shared
    (tmp_path / "none").write_text(
        "JobIDRaw|ConsumedEnergyRaw|Start|End\n13|0|2026-07-25T17:20:00|2026-07-25T17:30:00\n"
    )
    [made] = read(f"sacct:{tmp_path}/none", [run])
    assert (made.joules, "AcctGatherEnergyType" in made.why) == (None, True)


def sacct_json(steps: dict[str, float], *, nodes: int = 1, wrapped: bool = False) -> str:
    """What Slurm prints of job 12; ``wrapped``: as its later versions write numbers."""

    def number(value: float) -> object:
        return {"set": True, "infinite": False, "number": value} if wrapped else value

    times = {"start": number(UNIX), "end": number(UNIX + 600)}
    made = [
        {"step": {"id": name}, "time": times, "nodes": {"count": 1 if name == "12.batch" else nodes},
         "statistics": {"energy": {"consumed": number(joules)}}}
        for name, joules in steps.items()
    ]  # fmt: skip
    return json.dumps({"jobs": [{"job_id": 12, "time": times, "allocation_nodes": nodes, "steps": made}]})


@pytest.mark.parametrize(
    ("steps", "nodes", "joules", "why"),
    [
        ({"12.batch": 10e3, "12.extern": 41e3, "12.0": 40e3}, 4, 41e3, ""),
        ({"12.batch": 10e3, "12.0": 40e3}, 4, 40e3, ""),
        (
            {"12.batch": 10e3, "12.0": 20e3, "12.1": 20e3},
            4,
            None,
            "none of the job's steps is known to span its 4 nodes",
        ),
        ({"12.batch": 10e3}, 4, None, "none of the job's steps is known to span its 4 nodes"),
        ({"12.batch": 10e3, "12.0": 4e3, "12.1": 5e3}, 1, 10e3, ""),
    ],
    ids=["extern", "one step on all nodes", "steps on some nodes", "the first node alone", "one node"],
)
def test_sacct_of_several_nodes(tmp_path: Path, steps, nodes, joules, why):
    (tmp_path / "json").write_text(sacct_json(steps, nodes=nodes, wrapped=True))
    [made] = read(f"sacct:{tmp_path}/json", [])
    assert made.joules == joules
    assert made.why.startswith(why)


def test_sacct_takes_no_sum_of_steps_for_the_job(tmp_path: Path, run: RunRecord):
    """Without an extern step, the job's own row holds the batch step and those in it."""
    header = "JobIDRaw|ConsumedEnergyRaw|Start|End|NNodes\n"
    row = "12{}|{}|2026-07-25T17:20:00|2026-07-25T17:30:00|1\n"
    (tmp_path / "x").write_text(header + row.format("", 19_000))
    [made] = read(f"sacct:{tmp_path}/x", [])
    assert (made.joules, "without -X" in made.why) == (None, True)
    (tmp_path / "all").write_text(
        header + row.format("", 19_000) + row.format(".batch", 10_000) + row.format(".0", 9000)
    )
    [made] = read(f"sacct:{tmp_path}/all,boundary=gpu,exclusive=yes", [])
    assert made.joules == 10_000
    (tmp_path / "json").write_text(sacct_json({"12.extern": 10e3}).replace(f"{UNIX + 600}", "0"))
    assert read(f"sacct:{tmp_path}/json", [])[0].why == "the job has not ended"
    (tmp_path / "json").write_text(sacct_json({"12.extern": 10e3}).replace(f"{UNIX + 600}", f"{UNIX + 3600}"))
    [made] = read(f"sacct:{tmp_path}/json,boundary=gpu,exclusive=yes", [run])
    assert "the meter's figure is of 1h 00m 00s, the record's of 10m 00s" in reconcile([run], made).why


def impact_log(folder: Path, *, info: bytes | None = None) -> Path:
    home = folder / "impacttracker"
    home.mkdir(parents=True)
    samples = [
        {"timestamp": UNIX + 5 + 10 * at, "nvidia_estimated_attributable_power_draw": 100.0 + at,
         "rapl_estimated_attributable_power_draw": 50.0, "average_gpu_estimated_utilization_absolute": 0.5}
        for at in range(10)
    ]  # fmt: skip
    (home / "data.json").write_text("".join(json.dumps(sample) + "\n" for sample in samples) + '{"timestamp": 17')
    known = {
        "experiment_start": datetime.fromtimestamp(UNIX), "experiment_end": datetime.fromtimestamp(UNIX + 100),
        "gpu_info": [{"name": "Tesla V100"}] * 8, "cpu_info": {"brand": "Xeon"}, "region": {"id": "US-WA"},
    }  # fmt: skip
    (home / "info.pkl").write_bytes(pickle.dumps(known) if info is None else info)
    return folder


def test_impact_tracker_is_added_up_as_the_tool_does(tmp_path: Path):
    made = importers.load(impact_tracker=impact_log(tmp_path))
    gpu, cpu = made.devices
    joules = 100 * 5 + sum((100 + at) * 10 for at in range(1, 10)) + 109 * 5
    assert gpu.usage.energy_joules == pytest.approx(joules)
    assert (gpu.count, gpu.name, gpu.usage.utilization_ratio, cpu.usage.energy_joules) == (8, "Tesla V100", 0.5, 5000)
    assert (made.duration_seconds, made.started.timestamp()) == (100, UNIX)
    assert any("line 11" in note.text for note in made.notes)


@pytest.mark.parametrize("hours", [-8, 0, 5.5])
def test_impact_tracker_of_another_zone_counts_no_hours_that_were_not(tmp_path: Path, hours: float):
    """Its start and end are local times of its machine, its samples unix seconds."""
    start = datetime.fromtimestamp(UNIX + hours * 3600)
    info = {"experiment_start": start, "experiment_end": start + timedelta(seconds=100), "gpu_info": 5}
    made = importers.load(impact_tracker=impact_log(tmp_path, info=pickle.dumps(info)))
    assert made.devices[0].usage.energy_joules == pytest.approx(
        100 * 5 + sum((100 + at) * 10 for at in range(1, 10)) + 545
    )
    assert (made.started.timestamp(), made.duration_seconds) == (UNIX, 100)


@pytest.mark.parametrize("hours", [0, 2])
def test_impact_tracker_s_start_after_its_first_sample_adds_no_quarter_of_an_hour(tmp_path: Path, hours: float):
    """Its machine's clock was set meanwhile."""
    start = datetime.fromtimestamp(UNIX + 10 + hours * 3600)
    info = {"experiment_start": start, "experiment_end": start + timedelta(seconds=90)}
    made = importers.load(impact_tracker=impact_log(tmp_path, info=pickle.dumps(info)))
    assert (made.started.timestamp(), made.duration_seconds) == (UNIX + 5, 95)
    assert made.devices[1].usage.energy_joules == pytest.approx(50.0 * 95)


def test_impact_tracker_with_damaged_numbers_is_read_without_them(tmp_path: Path):
    folder = impact_log(tmp_path, info=pickle.dumps({"gpu_info": [5, {"name": "V100"}]}))
    data = folder / "impacttracker" / "data.json"
    lines = data.read_text().splitlines()[:-1]
    damage = [lines[4].replace(": 50.0", ": 1e300"), '{"timestamp": 1e300}', '{"timestamp": ' + "9" * 400 + "}"]
    data.write_text("\n".join([*lines[:4], *damage, *lines[5:]]))
    made = importers.load(impact_tracker=folder)
    assert made.devices[1].usage.energy_joules == pytest.approx(50 * 80)
    assert any("line 6, 7" in note.text for note in made.notes)
    for damage in (datetime.max, datetime(1971, 1, 1)):
        (folder / "impacttracker" / "info.pkl").write_bytes(pickle.dumps({"experiment_end": damage}))
        with pytest.raises(RecordError, match="no time that a run takes"):
            importers.load(impact_tracker=folder)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("trap-was-sprung"),)


def test_a_pickle_of_impact_tracker_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    made = importers.load(impact_tracker=impact_log(tmp_path / "log", info=pickle.dumps({"experiment_end": Trap()})))
    assert not Path("trap-was-sprung").exists()
    assert made.duration_seconds == 90  # from the first sample to the last
    damaged = importers.load(impact_tracker=impact_log(tmp_path / "cut", info=b"\x80\x04\x95"))
    assert any("info.pkl cannot be read" in note.text for note in damaged.notes)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("codecarbn:x.csv", "did you mean 'codecarbon'"),
        ("emissions.csv", "write KIND:PATH"),
        ("csv:x.csv,boundary=node", "there is no boundary 'node'"),
        ("csv:x.csv,acuracy=1%", "did you mean 'accuracy'"),
        ("csv:x.csv,accuracy=1", "accuracy is in percent"),
        ("csv:x.csv,lag=soon", "lag is in seconds"),
    ],
)
def test_a_meter_that_is_named_wrongly_is_one_line(text: str, answer: str):
    with pytest.raises(SettingsError, match=answer):
        read(text, [])


@pytest.mark.parametrize(
    ("kind", "content", "answer"),
    [
        ("csv", "a,b\n1,2\n", "the header must name a time"),
        ("csv", "time,W\n1,2\n", "fewer than two samples"),
        ("csv", "time,W\nx,2\ny,3\n2026-01-01,1\n", "rows have no time and number"),
        ("prometheus", "{}", "no series in it"),
        ("prometheus", "[", "not JSON"),
        ("sacct", '{"jobs": [{"job_id": 1}]}', "not what 'sacct --json' prints"),
        (
            "sacct",
            "JobID|Energy\n1|2\n",
            "no column JobIDRaw, ConsumedEnergyRaw, Start, End; print it with: sacct -P -D -o",
        ),
        ("sacct", '{"jobs": 5}', "not what 'sacct --json' prints"),
        ("sacct", '{"jobs": [5, {"job_id": 1, "time": 5, "steps": 5}]}', "not what 'sacct --json' prints"),
        ("sacct", "JobIDRaw|ConsumedEnergyRaw|Start|End\n1|2|Unknown|Unknown\n", "no job in it that has ended"),
        ("prometheus", '{"data": {"result": [5]}}', "a series without labels and samples"),
        ("prometheus", '{"data": {"result": [{"values": [5]}]}}', "a series without labels and samples"),
        ("prometheus", '{"data": {"result": [{"metric": 5, "values": [[1, "2"]]}]}}', "a series without labels"),
        ("prometheus", '{"data": {"result": [{"metric": {}, "values": [[1, "NaN"]]}]}}', "a series without a number"),
        (
            "prometheus",
            '{"data": {"result": [{"metric": {"__name__": "a_watts"}, "values": [[1, "2"]]}, '
            '{"metric": {"__name__": "a_joules_total"}, "values": [[1, "2"]]}]}}',
            "several metrics: a_joules_total, a_watts",
        ),
        ("csv", "time,power\n1,2\n2,3\n", "with its unit"),
        ("csv", "time,Power Factor\n1,2\n2,3\n", "with its unit"),
        ("csv", "time,mw\n1,2\n2,3\n", "milli- or a mega-unit"),
        ("csv", "time,L1 (W),L2 (W)\n1,2,3\n2,3,4\n", r"several columns have a unit: say column=NAME of L1 \(W\)"),
        ("csv", "time,kWh\n" + "".join(f"{at},{at % 2}\n" for at in range(9)), "not a counter, but of each interval"),
        ("csv", "time,W\n1e12,2\n1e60,3\n", "its times are no dates"),
        ("csv", "time,W\n1," + "2" * 200_000 + "\n", "not CSV: field larger"),
        ("azure", "{}", "not an export of 'az monitor metrics list'"),
        ("pm_counters", "5 J 3000000 us\n", "fewer than two samples"),
        ("pm_counters", "300 W 1785000000000000 us\n", "no line 'VALUE J TIME us' in it: log the file energy"),
        ("csv", "time,W\n07/25/2026 05:20 PM,80\n", "such as '07/25/2026 05:20 PM,80'; times are ISO"),
        ("csv", "time,W\n1,-80\n2,-80\n3,1\n", "W is below 0 in most rows"),
        (
            "csv",
            "time,Wh\n" + "".join(f"{at},{1 + at % 30 // 15}\n" for at in range(90)),
            "falls 2 times: it is not a c",
        ),
        ("csv", "time,W\n2026-10-25T02:59:00,80\n2026-10-25T02:00:00,80\n", "its times go back by 59 min: local time"),
        ("prometheus", '{"status": "error", "error": "unknown function"}', "answered with an error: unknown function"),
        (
            "prometheus",
            '{"data": {"result": [{"metric": {}, "values": [[1, "2"]]}]}}',
            "no metric's name: say what they",
        ),
        ("prometheus", 'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 100\n', "shows is a moment; ask Prometheus, with query_range"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, kind: str, content: str, answer: str):
    (tmp_path / "azure-file").write_text(content)
    with pytest.raises(RecordError, match=answer):
        read(f"{kind}:{tmp_path}/azure-file", [])


@pytest.mark.parametrize(
    ("above", "row"),
    [
        ("# PDU 7, firmware 2.1\n#time,W\n", "{iso}Z,{watts}"),
        ("Device;PDU 7\nExport date;2026-07-26\n\nTimestamp;Active Power [kW]\n", "{iso}+00:00;{kilo}"),
        ("ts_ms,power_w,serial\n", "{milli},{watts},7"),
        ("time,W\n", "{iso},{watts}\n{iso},{watts}"),
    ],
    ids=["comments", "lines above the header", "unix milliseconds", "rows that come twice"],
)
def test_exports_of_power_meters(tmp_path: Path, run: RunRecord, begun: float, above: str, row: str):
    rows = [
        row.format(
            iso=f"{datetime.fromtimestamp(begun + second, timezone.utc):%Y-%m-%dT%H:%M:%S}",
            watts=watts(second + 0.5), kilo=f"{watts(second + 0.5) / 1000:.4f}".replace(".", ","),
            milli=int((begun + second) * 1000),
        )
        for second in range(-60, SECONDS + 60)
    ]  # fmt: skip
    (tmp_path / "a.csv").write_text(above + "\n".join(rows))
    [made] = read(f"csv:{tmp_path}/a.csv,boundary=gpu,accuracy=1%", [run])
    result = reconcile([run], made)
    assert (result.verdict, result.ratio) == ("agree", pytest.approx(1.0, abs=2e-3))


def test_local_times_without_their_zone_say_by_how_much(tmp_path: Path, run: RunRecord, begun: float):
    zone = timezone(timedelta(hours=2))
    rows = "".join(
        f"{datetime.fromtimestamp(begun + second, zone):%Y-%m-%d %H:%M:%S},{watts(second + 0.5)}\n"
        for second in range(-60, SECONDS + 60)
    )
    (tmp_path / "a.csv").write_text("time,W\n" + rows)
    text = f"csv:{tmp_path}/a.csv,boundary=gpu,accuracy=1%"
    result = reconcile([run], read(text, [run])[0])
    assert result.verdict == "cannot be compared"
    assert result.why.endswith("its times have no zone: if they are of UTC+2, say lag=7200s")
    assert reconcile([run], read(f"{text},lag=7200s", [run])[0]).verdict == "agree"


def test_a_counter_that_could_not_be_read_was_not_reset():
    """A row with 0 after which it goes on; and one from which it begins anew."""
    lost = [(0.0, 5000.0), (1.0, 5100.0), (2.0, 0.0), (3.0, 0.0), (4.0, 5400.0), (5.0, 5500.0)]
    assert counted(lost) == ((0.0, 0.0), (1.0, 100.0), (4.0, 400.0), (5.0, 500.0))
    reset = [(0.0, 5000.0), (1.0, 5100.0), (2.0, 0.0), (3.0, 100.0), (4.0, 200.0)]
    assert counted(reset)[-1] == (4.0, 300.0)


def test_the_command(tmp_path: Path, run: RunRecord, begun: float, capsys: pytest.CaptureFixture[str]):
    record_file.write(run, tmp_path / "run.json")
    rows = "".join(f"{begun + second},{1.5 * watts(second)}\n" for second in range(-100, SECONDS + 100))
    (tmp_path / "pdu.csv").write_text("time,W\n" + rows)
    words = ["reconcile", str(tmp_path / "run.json"), "--with", f"csv:{tmp_path}/pdu.csv,boundary=gpu,accuracy=2%"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "DIFFER: the meter shows 5" in out
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    [result] = json.loads(capsys.readouterr().out)
    assert SimpleNamespace(**result).verdict == "differ"
    assert result["ratio"] == pytest.approx(1.5, rel=0.01)
