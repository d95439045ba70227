"""Sinks: what they are given, what a failing one costs, and how they are named."""

import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import greenml
from greenml import settings, sinks
from greenml.accounting.status import DeviceStatus, RunningTotals, RunStatus
from greenml.cli import main
from greenml.sinks import _names, prometheus

TOTALS = RunningTotals(30.0, 17000.0, 600.0, 5.0, {"spot": 0.5})
STATUS = RunStatus(
    "", "running", None, 1, ("a",), 1, TOTALS,
    devices=[DeviceStatus("a", "gpu", "GPU-1", "0", "V100", 300.0, None, 0.5, 1e9, 32e9, 9000.0)],
)  # fmt: skip


def samples(text: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples(answer.read().decode())


def notes(record: greenml.RunRecord) -> list[str]:
    return [note.text for note in record.notes if note.code == "sink"]


class Faulty:
    """A sink that fails in one of its calls."""

    def __init__(self, call: str, fault) -> None:
        self._call, self._fault, self.calls = call, fault, []

    def _do(self, call: str) -> None:
        self.calls.append(call)
        if call == self._call:
            self._fault()

    def open(self, run) -> None:
        self._do("open")

    def update(self, status) -> None:
        self._do("update")

    def close(self, record) -> None:
        self._do("close")


def raises() -> None:
    raise OSError("the disk is full, token=hunter2")


def leaves() -> None:
    raise SystemExit(1)


@pytest.mark.parametrize("fault", [raises, leaves, None], ids=["raises", "exits", "hangs"])
@pytest.mark.parametrize("call", ["open", "update", "close"])
def test_a_failing_sink_costs_one_note_and_leaves_the_others_alone(call, fault):
    over, given = threading.Event(), threading.Event()
    faulty = Faulty(call, fault or (lambda: over.wait(30)))
    healthy = Faulty("update", given.set)
    made = {"faulty": faulty, "healthy": healthy}
    told: list[str] = []
    delivery = sinks.Delivery(
        ["faulty", "healthy"],
        sinks.RunInfo("r"),
        lambda: STATUS,
        lambda _, text: told.append(text),
        update_seconds=0.02,
        make=made.get,
    )
    delivery.start()
    assert given.wait(20)
    while call not in (*faulty.calls, "close"):
        time.sleep(0.01)
    delivery.settle()
    told += delivery.close(object())
    over.set()
    (text,) = told
    assert text.startswith("sink faulty: ")
    assert "hunter2" not in text
    assert healthy.calls[0] == "open"
    assert healthy.calls[-1] == "close"
    assert healthy.calls.count("close") == 1


@pytest.mark.parametrize(("wrong", "right"), [("promethus:9400", "did you mean 'prometheus'"), ("x", "there are")])
def test_an_unknown_sink_is_refused_before_the_run(wrong, right):
    with pytest.raises(greenml.SettingsError, match=right):
        greenml.track(sinks=[wrong])


def test_sinks_are_named_in_three_places(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[tool.greenml]\nsinks = ["prometheus:1"]\n')
    assert settings.resolve({}, {}, tmp_path).sinks == ("prometheus:1",)
    assert settings.resolve({}, {"GREENML_SINKS": "prometheus:2, prometheus:3"}, tmp_path).sinks == (
        "prometheus:2", "prometheus:3",
    )  # fmt: skip
    assert settings.resolve({"sinks": ["prometheus:4"]}, {}, tmp_path).as_header()["sinks"] == ["prometheus"]
    with pytest.raises(greenml.SettingsError, match="must be a list of sinks"):
        settings.resolve({"sinks": 9400}, {}, tmp_path)


@pytest.mark.parametrize("wrong", ["prometheus:x", "prometheus:70000", "prometheus:a:", "prometheus:0"])
def test_a_wrong_argument_is_named(wrong):
    with pytest.raises(greenml.SettingsError, match="give a port"):
        sinks.create(wrong)


def test_a_status_has_the_names_of_prometheus(tmp_path: Path):
    sink = prometheus.create(str(tmp_path / "a.prom"))
    sink.open(sinks.RunInfo("r", "t5"))
    sink.update(STATUS)
    now = samples((tmp_path / "a.prom").read_text())
    assert now["greenml_energy_joules_total"] == 17000.0
    assert now['greenml_gpu_energy_joules_total{gpu="0",host="a"}'] == 9000.0
    assert now['greenml_cost_usd_total{tier="spot"}'] == 0.5
    assert now['greenml_gpu_utilization_ratio{gpu="0",host="a"}'] == 0.5
    assert now['greenml_run_info{name="t5",run_id="r",status="running"}'] == 1.0


def test_at_the_end_the_page_and_the_file_have_the_joules_of_the_record(tmp_path: Path):
    port, file = free_port(), tmp_path / "a.prom"
    try:
        for number in range(2):  # the second run of a process takes the page over
            with greenml.track(tmp_path / f"{number}.json", sinks=[f"prometheus:{port}", f"prometheus:{file}"]) as run:
                time.sleep(0.3)
            total = run.record.total()
            page = scraped(port)
            assert page["greenml_energy_joules_total"] == total.it_energy_joules.value
            assert page["greenml_duration_seconds_total"] == run.record.duration_seconds
            assert samples(file.read_text()) == page
            assert notes(run.record) == []
    finally:
        prometheus.stop_pages()


def test_a_record_is_sent_later_any_number_of_times(tmp_path: Path, capsys):
    with greenml.track(tmp_path / "a.json") as run:
        time.sleep(0.3)
    contents = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["send", str(tmp_path / "a.json"), "--sink", f"prometheus:{tmp_path / 'a.prom'}"])
        assert ended.value.code == 0
        contents.append((tmp_path / "a.prom").read_text())
    assert contents[0] == contents[1]
    joules = run.record.total().it_energy_joules.value
    assert samples(contents[0]).get("greenml_energy_joules_total") == joules
    with pytest.raises(SystemExit) as ended:
        main(["send", str(tmp_path / "a.json"), "--sink", "prometheus:9400"])
    assert ended.value.code == 2
    assert "a page ends with this command" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "count"), [("argument", 1), ("environment", 0)])
def test_within_greenml_run_only_that_one_delivers(tmp_path: Path, monkeypatch, given, count):
    file = f"prometheus:{tmp_path / 'a.prom'}"
    monkeypatch.setenv("GREENML_RUN_DIR", str(tmp_path / "run.trace"))
    if given == "environment":
        monkeypatch.setenv("GREENML_SINKS", file)
    with greenml.track(tmp_path / "run.json", sinks=[file] if given == "argument" else None) as run:
        time.sleep(0.3)
    assert len(notes(run.record)) == count
    assert not (tmp_path / "a.prom").exists()


def test_a_taken_port_and_a_file_that_cannot_be_written_cost_a_note_each(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with greenml.track(tmp_path / "a.json", sinks=[f"prometheus:{taken.getsockname()[1]}"]) as run:
            time.sleep(0.3)
    assert ["in use" in text for text in notes(run.record)] == [True]
    with greenml.track(tmp_path / "b.json", sinks=[f"prometheus:{tmp_path / 'file' / 'b.prom'}"]) as run:
        time.sleep(0.3)
    (text,) = notes(run.record)
    assert "cannot be written" in text
    assert notes(greenml.open_record(tmp_path / "b.json")) == [text]


def test_a_value_has_one_name_in_trackers():
    named = _names.tracker_figures(STATUS)
    assert named["green/energy_joules"] == 17000.0
    assert named["green/cost_usd_spot"] == 0.5
    assert named["green/gpu_power_watts_a_0"] == 300.0
    label = {"host": "node-1.lab", "gpu": "GPU-1/2"}
    power = next(metric for metric in _names.METRICS if metric.tracker == "green/gpu_power_watts")
    assert power.tracker_name(label) == "green/gpu_power_watts_node_1_lab_GPU_1_2"


def test_names_are_those_of_their_kind_of_system():
    for metric in _names.METRICS:
        counts, unit = metric.kind == "counter", {"J": "joules", "W": "watts", "s": "seconds", "g": "grams"}
        assert metric.prometheus.endswith("_total") == counts
        assert unit.get(metric.unit, "") in metric.prometheus
        assert metric.opentelemetry.startswith(("hw.", "greenml."))
        assert "joules" not in metric.opentelemetry
    assert len({metric.prometheus for metric in _names.METRICS}) == len(_names.METRICS)
    assert len({metric.tracker for metric in _names.METRICS}) == len(_names.METRICS)


def test_what_failed_is_tried_again_and_noted_once():
    """An update fails, the next and the record do not."""
    calls: list[str] = []

    class Flaky(Faulty):
        def update(self, status) -> None:
            calls.append("update")
            if len(calls) == 1:
                raise ConnectionError("away")

    told: list[str] = []
    delivery = sinks.Delivery(
        ["flaky"], sinks.RunInfo("r"), lambda: STATUS, lambda _, text: told.append(text), update_seconds=0.02,
        make=lambda _: Flaky("", None),
    )  # fmt: skip
    delivery.start()
    end = time.monotonic() + 20
    while len(calls) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    delivery.settle()
    assert told == []
    assert delivery.close(object()) == [
        "sink flaky: it missed figures meanwhile, and has those of the record: ConnectionError: away"
    ]


def test_libraries_that_wait_a_random_time_draw_apart():
    import random
    import types

    module = types.ModuleType("waits")
    module.random = random
    sys.modules["waits"] = module
    try:
        sinks.draw_apart("waits", "not.imported")
        drawn = random.getstate()
        assert 0 <= module.random.uniform(0, 1) <= 1
        assert random.getstate() == drawn
    finally:
        del sys.modules["waits"]
