"""Real traces to the measured part of a record: ranks, hosts, attempts, deaths, phases."""

from __future__ import annotations

import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.energy import integrate, usage
from greenml.errors import RecordError
from greenml.record.schema import RunRecord
from greenml.run import assembly, compaction, finish
from greenml.run.serving.ledger import Totals
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup

HOST = socket.gethostname()
UNIX = 1_700_000_000.0


def gpu(number: int, **more: Any) -> Device:
    return Device(
        kind="gpu", id=f"GPU-{number}", name="V100", method="counter", sensor="nvml", calibration_ratio=0.05,
        step_seconds=0.02, power_limit_watts=300.0, **more,
    )  # fmt: skip


class Process:
    """One process of a run, writing what a sampler would. Times are seconds since the process began."""

    def __init__(self, run_dir: Path, *, start: float = 1000.0, unix: float = UNIX, host: str = HOST, **header: Any):
        run_dir.mkdir(parents=True, exist_ok=True)
        self.start = start
        number = len(list(run_dir.iterdir()))
        header = {
            "run_id": "r", "attempt": 1, "host": host, "boot_id": f"boot of {host}", "pid": 4000 + number,
            "start_seconds": start, "unix_seconds": unix, **header,
        }  # fmt: skip
        self.writer = TraceWriter(run_dir / f"{header['attempt']}-{host}-{number}.jsonl", header)
        self.keys: dict[str, str] = {}

    def measures(self, device: Device, watts: float, start: float, end: float, *, origin: float = 5e6) -> Process:
        """A counter that rises by ``watts`` from ``start`` to ``end``, read once a second."""
        key = self.keys.setdefault(device.id, str(len(self.keys)))
        self.writer.write(trace_lines.device_line(key, device))
        times = [start, *(float(n) for n in range(int(start) + 1, int(end) + 1) if start < n < end), end]
        last = start
        for when in times:
            step = when - last
            rollup = Rollup(
                self.start + last, self.start + when, origin + watts * (when - start), watts * step or None, step,
                watts, 0.0, 0.8, None, 1e9, 2_000_000_000,
            )  # fmt: skip
            self.writer.write(trace_lines.sample_line(self.start + when, {key: rollup}))
            last = when
        return self

    def phase(self, name: str, begin: float, end: float | None) -> Process:
        number = hash((name, begin)) % 100_000
        self.writer.write({"phase": name, "begin": number, "t": self.start + begin})
        if end is not None:
            self.writer.write({"end": number, "t": self.start + end})
        return self

    def says(self, **line: Any) -> Process:
        self.writer.write({**line, "t": self.start + 1.0})
        return self

    def ends(self, when: float, status: str = "completed", error: str | None = None) -> Process:
        self.writer.write({"status": status, "error": error, "t": self.start + when})
        self.writer.close()
        return self

    def is_killed(self) -> None:
        """Leave what SIGKILL leaves: a trace without a last word, and a file that nobody locks."""
        self.writer.forget()


def assembled(run_dir: Path) -> RunRecord:
    return assembly.assemble(run_dir)[0]


def notes(record: RunRecord) -> list[str]:
    return [note.code for note in record.notes]


def energy_of(record: RunRecord, device: str, path: str = "") -> float:
    if path:
        phase = record.phase(path)
        assert phase is not None
        value = phase.usage[device].energy_joules
    else:
        value = next(one.usage.energy_joules for one in record.devices if one.id == device)
    assert value is not None
    return value


def test_two_ranks_with_the_same_phases_count_once(tmp_path: Path):
    for rank in (1, 0):
        process = Process(tmp_path, start=1000.0 + rank, unix=UNIX + rank, rank=rank, world_size=2, launcher="torchrun")
        process.measures(gpu(rank), 100.0 * (rank + 1), 0.0, 100.0)
        process.phase("train", 10.0, 60.0).phase("train", 70.0, 80.0).phase(f"only {rank}", 90.0, 95.0).ends(100.0)
    record = assembled(tmp_path)
    train = record.phase("train")
    assert train is not None
    assert (train.count, train.seconds) == (2, pytest.approx(60.0))
    assert train.spans == [(10.0, 60.0), (70.0, 80.0)], "as rank 0 saw them"
    assert energy_of(record, "GPU-0", "train") == pytest.approx(6_000)
    assert energy_of(record, "GPU-1", "train") == pytest.approx(12_000)
    only = record.phase("only 1")
    assert only is not None
    assert only.spans == [(91.0, 96.0)], "rank 1 began a second later"
    assert energy_of(record, "GPU-0") == pytest.approx(10_000)
    assert energy_of(record, "GPU-1") == pytest.approx(20_000)
    assert record.duration_seconds == pytest.approx(101.0)
    assert [(attempt.number, attempt.processes, attempt.status, attempt.launcher) for attempt in record.attempts] == [
        (1, 2, "completed", "torchrun")
    ]
    assert record.environment.world_size == 2


def test_two_hosts_with_clocks_of_their_own(tmp_path: Path):
    """Monotonic clocks that are days apart; wall clocks agree. The second began 5 s later, and measures the same id."""
    first = Process(tmp_path, start=1_000.0, unix=UNIX, host="node-a", rank=0)
    other = Process(tmp_path, start=900_000.0, unix=UNIX + 5.0, host="node-b", rank=1)
    first.measures(gpu(0), 100.0, 0.0, 60.0).phase("train", 20.0, 40.0).ends(60.0)
    other.measures(gpu(0), 200.0, 0.0, 30.0).phase("train", 0.0, 1.0).ends(30.0)
    record = assembled(tmp_path)
    assert record.duration_seconds == pytest.approx(60.0)
    assert [host.name for host in record.hosts] == ["node-a", "node-b"]
    assert [device.id for device in record.devices] == ["node-a/GPU-0", "node-b/GPU-0"]
    assert energy_of(record, "node-a/GPU-0") == pytest.approx(6_000)
    assert energy_of(record, "node-b/GPU-0") == pytest.approx(6_000)
    assert energy_of(record, "node-a/GPU-0", "train") == pytest.approx(2_000)
    assert energy_of(record, "node-b/GPU-0", "train") == pytest.approx(15 * 200.0), "it measured from 5 s to 35 s"
    train = record.phase("train")
    assert train is not None
    assert train.usage["node-b/GPU-0"].covered_seconds == pytest.approx(15.0)
    assert notes(record) == ["not-covered"]


def test_two_attempts_are_laid_end_to_end(tmp_path: Path):
    """Preempted, and started again an hour later on a machine that was booted anew: the hour is not billed."""
    first = Process(tmp_path, start=5_000.0, unix=UNIX)
    first.measures(gpu(0), 100.0, 0.0, 50.0).phase("train", 10.0, None).says(metrics={"loss": 2.0, "a": 1}).is_killed()
    again = Process(tmp_path, start=30.0, unix=UNIX + 3600.0, boot_id="second boot", attempt=2)
    again.measures(gpu(0), 300.0, 0.0, 40.0, origin=7.0).phase("train", 5.0, 35.0)
    again.says(metrics={"loss": 1.0}).ends(40.0)
    record = assembled(tmp_path)
    assert record.duration_seconds == pytest.approx(90.0)
    assert [(attempt.number, attempt.status, round(attempt.seconds, 6)) for attempt in record.attempts] == [
        (1, "killed", 50.0),
        (2, "completed", 40.0),
    ]
    assert record.status == "completed"
    assert record.ended is not None
    assert (record.ended - record.started).total_seconds() == pytest.approx(3640.0)
    train = record.phase("train")
    assert train is not None
    assert train.spans == [(10.0, 50.0), (55.0, 85.0)]
    assert energy_of(record, "GPU-0") == pytest.approx(50 * 100 + 40 * 300)
    assert energy_of(record, "GPU-0", "train") == pytest.approx(40 * 100 + 30 * 300)
    assert record.metrics == {"loss": 1.0, "a": 1}
    assert record.timeline is not None
    (series,) = record.timeline.series
    assert record.timeline.bins == 90
    assert series.power_watts[48:52] == [100.0, 100.0, 300.0, 300.0]


def test_a_killed_process_counts_up_to_its_last_line(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 250.0, 0.0, 33.5).phase("train", 3.5, None).is_killed()
    record = assembled(tmp_path)
    assert record.status == "killed"
    assert record.duration_seconds == pytest.approx(33.5)
    assert energy_of(record, "GPU-0") == pytest.approx(33.5 * 250)
    assert energy_of(record, "GPU-0", "train") == pytest.approx(30 * 250)


def test_a_rank_that_is_killed_is_noted_and_its_device_taken_over(tmp_path: Path):
    dead = Process(tmp_path, rank=1, start=1000.0)
    dead.measures(gpu(1), 200.0, 0.0, 20.0, origin=100.0).is_killed()
    lead = Process(tmp_path, rank=0, start=1000.0)
    lead.measures(gpu(0), 100.0, 0.0, 60.0)
    lead.measures(gpu(1), 200.0, 22.0, 60.0, origin=100.0 + 22 * 200.0).ends(60.0)
    record = assembled(tmp_path)
    assert record.status == "completed"
    assert energy_of(record, "GPU-1") == pytest.approx(60 * 200), "the counter went on in the two seconds between"
    assert notes(record) == ["process-killed"]
    assert record.notes[0].seconds == pytest.approx(20.0)


def test_a_run_that_goes_on_has_no_end(tmp_path: Path):
    measures = Process(tmp_path).measures(gpu(0), 250.0, 0.0, 10.0)
    record = assembled(tmp_path)
    assert (record.status, record.ended) == ("running", None)
    assert energy_of(record, "GPU-0") == pytest.approx(2500)
    measures.ends(11.0)


def test_who_speaks_for_the_run(tmp_path: Path):
    """A lower rank's metrics replace a higher one's; a parent that watches tells how it ended."""
    for rank in (2, 0, 1):
        process = Process(tmp_path, rank=rank, unix=UNIX + rank)
        process.says(metrics={"loss": float(rank), f"of {rank}": rank}, params={}).says(params={"seed": rank})
        process.ends(10.0, "failed", f"rank {rank}")
    record = assembled(tmp_path)
    assert record.metrics == {"loss": 0.0, "of 0": 0, "of 1": 1, "of 2": 2}
    assert record.params == {"seed": 0}
    assert (record.status, record.error) == ("failed", "rank 0")
    Process(tmp_path, watches=True, unix=UNIX + 50, name="watcher").ends(10.0, "failed", "killed by SIGKILL")
    record = assembled(tmp_path)
    assert (record.error, record.name) == ("killed by SIGKILL", "watcher")


def test_a_trace_that_cannot_be_read_is_a_note(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 100.0, 0.0, 5.0).ends(5.0)
    (tmp_path / "1-x-1-torn.jsonl").write_text('{"greenml_tr')
    record = assembled(tmp_path)
    assert notes(record) == ["trace-unreadable"]
    assert energy_of(record, "GPU-0") == pytest.approx(500)


def test_no_trace_is_one_line(tmp_path: Path):
    with pytest.raises(RecordError, match="no trace in it"):
        assembled(tmp_path)
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(RecordError, match="not a trace"):
        assembled(tmp_path)


def test_a_device_without_energy_says_why(tmp_path: Path):
    process = Process(tmp_path)
    silent = Device(kind="gpu", id="GPU-9", name="GeForce", method=None, sensor="nvml", note="")
    process.writer.write(trace_lines.device_line("0", silent))
    rollup = Rollup(1001.0, 1001.0, utilization_ratio=0.5)
    process.writer.write(trace_lines.sample_line(1001.0, {"0": rollup}))
    process.ends(10.0)
    (device,) = assembled(tmp_path).devices
    assert device.usage.energy_joules is None
    assert device.usage.why == "GeForce: it tells neither energy nor power"
    assert device.usage.utilization_ratio == 0.5


def test_a_stretch_of_one_moment_has_no_energy_and_says_so(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 100.0, 0.0, 10.0).phase("blink", 4.0, 4.0).ends(10.0)
    blink = assembled(tmp_path).phase("blink")
    assert blink is not None
    assert blink.usage["GPU-0"].energy_joules is None
    assert blink.usage["GPU-0"].why == "V100: no energy was read in this time"


def test_an_attempt_in_which_a_device_was_not_there_is_a_gap_as_within_one_attempt(tmp_path: Path):
    Process(tmp_path / "one").measures(gpu(0), 100.0, 0.0, 40.0).ends(60.0)
    Process(tmp_path / "two").measures(gpu(0), 100.0, 0.0, 40.0).ends(40.0)
    Process(tmp_path / "two", start=2000.0, unix=UNIX + 100.0, attempt=2).ends(20.0)
    (one,), (two,) = (assembled(tmp_path / name).devices for name in ("one", "two"))
    assert two.usage.uncertainty is not None
    assert two.usage.uncertainty.coverage_joules == pytest.approx(20 * 300)
    assert two.usage.energy_high_joules == pytest.approx(one.usage.energy_high_joules, rel=1e-4)


def test_an_attempt_in_which_another_device_of_its_kind_was_measured_is_none(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 100.0, 0.0, 40.0).ends(40.0)
    again = Process(tmp_path, start=2000.0, unix=UNIX + 100.0, attempt=2)
    again.measures(gpu(1), 100.0, 0.0, 20.0).ends(20.0)
    first, second = assembled(tmp_path).devices
    assert (first.id, second.id) == ("GPU-0", "GPU-1")
    for device in (first, second):
        assert device.usage.uncertainty is not None
        assert device.usage.uncertainty.coverage_joules == pytest.approx(0.0, abs=1e-6)
    assert notes(assembled(tmp_path)) == []


def test_a_process_that_could_not_read_a_device_takes_nothing_from_one_that_could(tmp_path: Path):
    """The first one sees its utilization alone and is killed; another takes the device over and has its counter."""
    dead = Process(tmp_path, rank=1)
    dead.writer.write(trace_lines.device_line("0", replace(gpu(1), method=None, note="no permission")))
    dead.writer.write(trace_lines.sample_line(1001.0, {"0": Rollup(1000.0, 1001.0, utilization_ratio=0.5)}))
    dead.is_killed()
    Process(tmp_path, rank=0).measures(gpu(1), 200.0, 2.0, 60.0).ends(60.0)
    (device,) = assembled(tmp_path).devices
    assert device.method == "counter"
    assert device.usage.energy_joules == pytest.approx(58 * 200)
    assert device.usage.energy_high_joules >= 60 * 200


def test_a_bin_of_the_timeline_that_holds_two_attempts_has_the_energy_of_both(tmp_path: Path):
    """601 s and a second attempt: bins of 2 s, of which the 301st holds a second of each."""
    Process(tmp_path).measures(gpu(0), 300.0, 0.0, 601.0).ends(601.0)
    again = Process(tmp_path, start=5000.0, unix=UNIX + 900.0, attempt=2)
    again.measures(gpu(0), 100.0, 0.0, 99.0).ends(99.0)
    timeline = assembled(tmp_path).timeline
    assert timeline is not None
    assert timeline.step_seconds == 2
    assert timeline.series[0].power_watts[299:302] == [300.0, 200.0, 100.0]
    assert sum(timeline.series[0].power_watts) * 2 == pytest.approx(601 * 300 + 99 * 100)


def test_the_method_is_that_of_the_attempt_that_told_energy(tmp_path: Path):
    """A gauge that has nothing to tell after a restart; the record can be made, and says how the energy is known."""
    Process(tmp_path).measures(gpu(0), 100.0, 0.0, 40.0).ends(40.0)
    again = Process(tmp_path, start=2000.0, unix=UNIX + 100.0, attempt=2)
    again.writer.write(trace_lines.device_line("0", gpu(0)))
    again.writer.write(trace_lines.sample_line(2010.0, {"0": Rollup(2000.0, 2010.0, utilization_ratio=0.5)}))
    again.ends(20.0)
    record = finish.make(tmp_path)
    assert record.devices[0].method == "counter"
    assert record.totals[0].gpu_energy_joules.value == pytest.approx(4000)
    assert record.totals[0].gpu_energy_joules.basis == "measured"


def test_two_machines_of_one_name_are_two(tmp_path: Path):
    for number, watts in enumerate((100.0, 250.0)):
        process = Process(tmp_path, host="node", boot_id=f"{number}0c0ffee-boot", rank=number, unix=UNIX + number)
        process.measures(Device("cpu", "package-0", "EPYC", "counter", "rapl"), watts, 0.0, 60.0).ends(60.0)
    record = finish.make(tmp_path)
    assert [host.name for host in record.hosts] == ["node", "node-10c0ffee"]
    assert record.place.nodes == 2
    assert record.totals[0].cpu_energy_joules.value == pytest.approx(60 * 350)


def test_joined_stretches_are_told_for_the_machine_that_joined_them(tmp_path: Path):
    """Each node has a package-0; the stretches that node a joined tell of its own."""
    package = Device("cpu", "package-0", "EPYC", "counter", "rapl", calibration_ratio=0.05, step_seconds=0.01)
    first = Process(tmp_path, host="a", rank=0).measures(package, 100.0, 0.0, 60.0)
    first.writer.write({"phase": "train", "begin": 1, "t": 1010.0})
    first.writer.write({"end": 1, "n": 5, "s": 20.0, "j": {"0": 2000.0}, "t": 1050.0})
    first.ends(60.0)
    Process(tmp_path, host="b", rank=1).measures(package, 250.0, 0.0, 60.0).ends(60.0)
    train = assembled(tmp_path).phase("train")
    assert train is not None
    assert train.usage["a/package-0"].energy_joules == pytest.approx(2000)
    assert train.usage["b/package-0"].energy_joules == pytest.approx(20 * 250)


def test_joined_stretches_have_the_doubts_that_they_had_apart(tmp_path: Path):
    """An edge at each end of each, and what of them was not covered."""
    apart, joined = (Process(tmp_path / name).measures(gpu(0), 100.0, 0.0, 30.0) for name in ("apart", "joined"))
    for number in range(10):
        apart.phase("train", 4.0 * number + 1, 4.0 * number + 3)
    joined.writer.write({"phase": "train", "begin": 1, "t": 1001.0})
    joined.writer.write({"end": 1, "n": 10, "s": 20.0, "j": {"0": 1500.0}, "t": 1039.0})
    found = []
    for name, one in (("apart", apart), ("joined", joined)):
        one.ends(40.0)
        train = assembled(tmp_path / name).phase("train")
        assert train is not None
        assert train.usage["GPU-0"].uncertainty is not None
        found.append(train.usage["GPU-0"].uncertainty)
    assert found[1].quantisation_joules == pytest.approx(found[0].quantisation_joules, rel=0.1)
    assert found[1].coverage_joules == pytest.approx(found[0].coverage_joules, rel=0.1)
    assert found[0].coverage_joules > 1000


def test_stretches_that_compaction_joined_hold_what_their_edges_hide(tmp_path: Path):
    """Read once a second, each step from 0.2 to 0.7 s of it: all energy of a second may lie within, or beside."""
    found = []
    for name in ("apart", "joined"):
        process = Process(tmp_path / name).measures(gpu(0), 100.0, 0.0, 60.0)
        for second in range(60):
            process.phase("step", second + 0.2, second + 0.7)
        if name == "joined":
            compaction.compact(process.writer, limit_bytes=1000)
        process.ends(60.0)
        step = assembled(tmp_path / name).phase("step")
        assert step is not None
        assert step.count == 60
        found.append(step.usage["GPU-0"])
    assert len(step.spans) < 60
    for used in found:
        assert used.energy_joules == pytest.approx(3000)
        assert used.uncertainty.interpolation_joules == pytest.approx(3000)
        assert used.energy_low_joules == 0
        assert used.energy_high_joules >= 6000


def test_a_device_that_another_process_measured_first_is_not_taken_for_idle(tmp_path: Path):
    """The lead process, whose phases count, takes a device over halfway, and its steps are joined."""
    dead = Process(tmp_path, rank=1)
    dead.measures(gpu(1), 200.0, 0.0, 30.0, origin=100.0).is_killed()
    lead = Process(tmp_path, rank=0)
    lead.measures(gpu(1), 200.0, 31.0, 60.0, origin=100.0 + 31 * 200.0)
    for second in range(60):
        lead.phase("step", second + 0.2, second + 0.7)
    compaction.compact(lead.writer, limit_bytes=1000)
    lead.ends(60.0)
    step = assembled(tmp_path).phase("step")
    assert step is not None
    assert len(step.spans) < 60
    assert step.usage["GPU-1"].energy_joules == pytest.approx(60 * 0.5 * 200, rel=0.02)


def test_requests_of_all_attempts_are_held_against_the_energy_of_all(tmp_path: Path):
    """An endpoint that is started again: 10 requests of 50 J in each minute at 100 W. What is left was idle."""
    for attempt in (1, 2):
        process = Process(tmp_path, attempt=attempt, unix=UNIX + 1000 * attempt).measures(gpu(0), 100.0, 0.0, 60.0)
        ledger = Totals(seconds=60.0, idle_seconds=30.0, until_seconds=1060.0)
        group = ledger.group("t5", "summarize")
        for part in (ledger.used, group.used):
            part.joules, part.low_joules, part.high_joules, part.seconds = 500.0, 500.0, 500.0, 30.0
        group.requests["ok"] = group.settled = 10
        group.joules_settled = 500.0
        process.writer.write({"facts": {"serving": ledger.as_json()}, "t": 1059.0})
        process.ends(60.0)
    served = finish.make(tmp_path).serving
    assert served is not None
    assert served.requests["ok"] == 20
    assert served.request_energy_joules.value == pytest.approx(1000)
    assert served.idle_energy_joules.value == pytest.approx(2 * 6000 - 1000)
    assert served.joules_per_request.value == pytest.approx(50)
    assert served.seconds == 120


def test_time_that_was_not_covered_is_in_the_band_and_in_a_note(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 100.0, 0.0, 40.0).ends(60.0)
    (device,) = (record := assembled(tmp_path)).devices
    assert device.usage.covered_seconds == pytest.approx(40.0)
    assert device.usage.power_mean_watts == pytest.approx(100.0)
    assert device.usage.uncertainty is not None
    assert device.usage.uncertainty.coverage_joules == pytest.approx(20 * 300)
    assert device.usage.energy_high_joules == pytest.approx(4000 + 200 + 6000, rel=1e-3)
    assert "20.0 s of 60.0 s" in record.notes[0].text


def test_means_are_weighted_with_time_and_peaks_are_of_the_stretch():
    samples = [
        Rollup(0, 1, utilization_ratio=1.0, memory_mean_bytes=10.0, memory_max_bytes=99, power_max_watts=300.0),
        Rollup(1, 4, utilization_ratio=0.5, memory_mean_bytes=20.0, memory_max_bytes=50, power_max_watts=100.0),
        Rollup(4, 5, utilization_ratio=None, memory_max_bytes=60, power_max_watts=200.0),
    ]
    known = integrate.Known(None, None)
    part = usage.Part(gpu(0), 100.0, known, samples, [sample.end_seconds for sample in samples], (100.0, 105.0))
    whole = usage.usage([part], [(100.0, 105.0)])
    assert whole.utilization_ratio == pytest.approx(2.5 / 4)
    assert whole.memory_mean_bytes == pytest.approx(17.5)
    assert (whole.memory_max_bytes, whole.power_max_watts) == (99, 300.0)
    late = usage.usage([part], [(101.5, 102.0), (104.5, 105.0)])
    assert (late.memory_max_bytes, late.power_max_watts, late.utilization_ratio) == (60, 200.0, 0.5)


@pytest.mark.parametrize(
    ("seconds", "step"), [(0.5, 1), (600, 1), (601, 2), (3600, 10), (86_400, 300), (14 * 86_400, 3600), (1e7, 18_000)]
)
def test_a_timeline_is_bounded(seconds, step):
    picture = usage.timeline({}, seconds)
    assert picture is not None
    assert picture.step_seconds == step
    assert seconds / step <= picture.bins <= usage.TIMELINE_BINS
    assert usage.timeline({}, 0.0) is None


def test_a_sample_that_is_longer_than_a_bin_is_in_all_of_its_bins():
    host = Device(kind="host", id="host", name="host", method=None, sensor="host")
    samples = [Rollup(at, at + 2, utilization_ratio=0.25 + at / 100, memory_mean_bytes=7.0) for at in (0.5, 2.5, 4.5)]
    part = usage.Part(
        host, 0.0, integrate.Known(None, None), samples, [sample.end_seconds for sample in samples], (0.0, 8.0)
    )
    picture = usage.timeline({"host": [part]}, 8.0)
    assert picture is not None
    assert (picture.step_seconds, picture.bins) == (1, 8)
    [series] = picture.series
    means = [0.255, 0.255, (0.255 + 0.275) / 2, 0.275, (0.275 + 0.295) / 2, 0.295, 0.295]
    assert series.utilization_ratio == [*(pytest.approx(mean, abs=1e-4) for mean in means), None]
    assert series.memory_bytes == [7, 7, 7, 7, 7, 7, 7, None]
    samples = [Rollup(0, 3, utilization_ratio=0.5), Rollup(6, 6, utilization_ratio=0.1)]
    part = usage.Part(host, 0.0, integrate.Known(None, None), samples, [3, 6], (0.0, 8.0))
    picture = usage.timeline({"host": [part]}, 8.0)
    assert picture is not None
    assert picture.series[0].utilization_ratio == [0.5, 0.5, 0.5, None, None, None, 0.1, None]


def test_the_timeline_holds_the_energy(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 120.0, 0.0, 1000.0).ends(1000.0)
    record = assembled(tmp_path)
    assert record.timeline is not None
    (series,) = record.timeline.series
    assert sum(watts or 0 for watts in series.power_watts) * record.timeline.step_seconds == pytest.approx(120_000)
    assert set(series.utilization_ratio) == {0.8}


@given(
    edges=st.lists(st.floats(0, 60), min_size=2, max_size=12, unique=True),
    powers=st.lists(st.floats(1, 300), min_size=60, max_size=60),
)
def test_top_level_phases_never_use_more_than_the_run(tmp_path_factory, edges, powers):
    joules = [sum(powers[:at]) for at in range(61)]
    samples = [Rollup(max(0, at - 1), at, joules[at]) for at in range(61)]
    device = gpu(0)
    part = usage.Part(
        device, 0.0, integrate.curve_of(device, [samples]), samples, [sample.end_seconds for sample in samples], (0, 60)
    )
    edges = sorted(edges)
    whole = usage.usage([part], [(0, 60)])
    parts = [usage.usage([part], [span]) for span in pairwise(edges)]
    known = sum(part.energy_joules or 0.0 for part in parts)
    assert known <= (whole.energy_joules or 0.0) * (1 + 1e-9) + 1e-6
    together = usage.usage([part], list(pairwise(edges)))
    assert (together.energy_joules or 0.0) == pytest.approx(known)
    assert whole.energy_joules == pytest.approx(joules[-1])


def test_two_threads_in_one_phase_do_not_count_its_energy_twice(tmp_path: Path):
    measures = Process(tmp_path).measures(gpu(0), 100.0, 0.0, 60.0)
    measures.phase("load", 0.0, 50.0).phase("load", 10.0, 60.0).ends(60.0)
    record = assembled(tmp_path)
    assert energy_of(record, "GPU-0", "load") <= energy_of(record, "GPU-0") * (1 + 1e-9)


def test_traces_are_left_as_they_are(tmp_path: Path):
    Process(tmp_path).measures(gpu(0), 100.0, 0.0, 5.0).ends(5.0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assembled(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
