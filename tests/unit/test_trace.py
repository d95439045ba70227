"""The trace: what is written is read, and a cut costs what was cut."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import RecordError
from greenml.files import OwnDescriptor
from greenml.run import finish
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup, Span

GPU = Device(
    kind="gpu", id="GPU-1", name="V100", method="counter", sensor="nvml", calibration_ratio=0.05, step_seconds=0.02,
    sampled_ratio=0.25, share_ratio=0.5, power_limit_watts=300.0, memory_total_bytes=34_359_738_368,
    detail={"index": "0"}, note="half of it",
)  # fmt: skip
HEADER = {
    "run_id": "r",
    "attempt": 1,
    "host": socket.gethostname(),
    "pid": 7,
    "start_seconds": 10.0,
    "unix_seconds": 1e9,
}
FULL = Rollup(10.0, 11.00001, 1834.201, 250.1234, 1.00001, 301.25, 1.25, 0.9876, 0.4321, 26_770_000_000, 30_490_000_000)


def lines_of(device: Device = GPU) -> list[trace_lines.Line]:
    """One line of every kind, in the order of a run."""
    first = Rollup(10.0, 10.0, 1584.0776)
    return [
        trace_lines.device_line("0", device),
        trace_lines.sample_line(10.0, {"0": first}, edge=True),
        {"phase": "train", "begin": 1, "t": 10.25},
        trace_lines.sample_line(11.00002, {"0": FULL}),
        {"end": 1, "t": 11.5},
        {"phase": "eval", "begin": 2, "t": 11.75},
        {"note": "sensor-lost", "text": "µ: gone", "t": 12.0},
        {"metrics": {"loss": 0.25}, "t": 12.0},
        {"metrics": {"loss": 0.125, "rouge": 45.1257}, "t": 12.25},
        {"params": {"lr": 3e-05}, "t": 12.5},
        {"facts": {"place": {"cloud": "azure"}}, "t": 12.5},
        {"status": "failed", "error": "ValueError: no", "t": 13.0},
    ]


def written(folder: Path, lines: list[trace_lines.Line], **header: object) -> Path:
    writer = TraceWriter(folder / "1-host-1-a.jsonl", {**HEADER, **header})
    for line in lines:
        writer.write(line)
    writer.close()
    return writer.path


def test_every_kind_of_line_comes_back(tmp_path: Path):
    read = trace_file.read(written(tmp_path, lines_of()))
    assert read.header == {"greenml_trace": 1, **HEADER}
    assert read.devices == {"0": GPU}
    assert read.devices["0"].detail == {"index": "0"}
    assert read.rollups["0"] == [Rollup(10.0, 10.0, 1584.078), FULL]
    assert read.spans == [Span("train", 10.25, 11.5), Span("eval", 11.75, None)]
    assert read.notes == [(12.0, "sensor-lost", "µ: gone")]
    assert read.metrics == {"loss": 0.125, "rouge": 45.1257}
    assert read.params == {"lr": 3e-05}
    assert read.facts == {"place": {"cloud": "azure"}}
    assert (read.status, read.error, read.last_seconds, read.alive) == ("failed", "ValueError: no", 13.0, False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]


def test_a_cut_costs_the_line_that_was_cut_and_no_other(tmp_path: Path):
    path = written(tmp_path, lines_of())
    content = path.read_bytes()
    whole = [json.loads(line) for line in content.splitlines()]
    cut = tmp_path / "cut.jsonl"
    for size in range(len(content) + 1):
        cut.write_bytes(content[:size])
        ends = [at for at in range(len(content)) if content[at : at + 1] == b"\n"]
        left = sum(end <= size for end in ends)  # a line without its newline is whole, too
        if left == 0:
            with pytest.raises(RecordError, match="not a trace"):
                trace_file.read(cut)
            continue
        assert trace_file.read_lines(cut) == whole[:left]
        read = trace_file.read(cut)
        assert len(read.rollups.get("0", [])) == sum("d" in line for line in whole[:left])
        assert len(read.spans) == sum("begin" in line for line in whole[:left])


def test_lines_after_a_torn_one_count(tmp_path: Path):
    path = written(tmp_path, lines_of())
    lines = path.read_bytes().splitlines()
    lines[7] = lines[7][:9]
    path.write_bytes(b"\n".join(lines) + b"\n")
    read = trace_file.read(path)
    assert read.notes == []
    assert read.metrics["rouge"] == 45.1257


@pytest.mark.parametrize(
    "header",
    ["", "\n", "[]", "{}", "null", "{", "\x00\x00\x00", '{"other": 1}', '{"greenml_trace": "one"}',
     '{"greenml_trace": null}'],
)  # fmt: skip
def test_a_broken_header_is_one_line(tmp_path: Path, header: str):
    path = tmp_path / "1-host-1-a.jsonl"
    path.write_text(header + '\n{"t": 1.0, "d": {"0": [0.0, 1.0]}}\n')
    with pytest.raises(RecordError) as error:
        trace_file.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_newer_format_asks_for_a_newer_greenml(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**HEADER, "greenml_trace": trace_file.FORMAT + 1}) + "\n")
    with pytest.raises(RecordError, match="trace format 2; this greenml reads 1: upgrade") as error:
        trace_file.read(path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_opened_is_one_line(tmp_path: Path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RecordError):
            trace_file.read(path)
        with pytest.raises(RecordError):
            trace_file.read_header(path)


def test_alive_while_its_process_holds_it(tmp_path: Path):
    writer = TraceWriter(tmp_path / "a.jsonl", HEADER)
    assert trace_file.read(writer.path).alive
    writer.write({"status": "completed", "error": None, "t": 11.0})
    assert not trace_file.read(writer.path).alive, "it has said its last word"
    assert trace_file.is_alive(writer.path, {"host": socket.gethostname()})
    writer.close()
    assert not trace_file.is_alive(writer.path, {"host": socket.gethostname()})
    writer.close()


@pytest.mark.parametrize(("age_seconds", "alive"), [(0, True), (3, True), (8, False), (29, False)])
def test_a_trace_of_another_host_is_alive_while_it_is_fresh(tmp_path: Path, age_seconds: float, alive: bool):
    """A process writes at least once in three seconds: a killed launch is not taken for one that goes on for long."""
    path = written(tmp_path, [], host="elsewhere")
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    assert trace_file.read(path).alive == alive


def test_a_trace_is_never_written_over(tmp_path: Path):
    path = written(tmp_path, lines_of())
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        TraceWriter(path, HEADER)
    assert path.read_bytes() == before


def test_writing_after_the_end_is_lost_and_harmless(tmp_path: Path):
    writer = TraceWriter(tmp_path / "a.jsonl", HEADER)
    writer.close()
    writer.write({"note": "late", "text": "", "t": 1.0})
    writer.replace([], 0)
    assert trace_file.read(writer.path).notes == []
    assert writer.size_bytes == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_remembered_and_never_raised(tmp_path: Path):
    writer = TraceWriter(tmp_path / "a.jsonl", HEADER)
    full = os.open("/dev/full", os.O_WRONLY)
    assert writer._descriptor is not None
    os.close(writer._descriptor.number)
    writer._descriptor = OwnDescriptor(full)
    writer.write({"note": "x", "text": "", "t": 1.0})
    assert "No space left" in writer.failed
    writer.close()


def test_a_descriptor_that_the_program_closed_is_opened_again_and_no_other_file_is_touched(tmp_path: Path):
    """A daemon closes all; the number is then that of another file."""
    writer = TraceWriter(tmp_path / "a.jsonl", HEADER)
    assert writer._descriptor is not None
    assert writer._alive._descriptor is not None
    numbers = [writer._descriptor.number, writer._alive._descriptor.number]
    for number in numbers:
        os.close(number)
    assert writer.write({"note": "x", "text": "", "t": 1.0})
    others = [(tmp_path / f"other{at}").open("w+") for at in range(3)]  # they have the numbers now
    reopened = writer._descriptor.number
    os.dup2(others[0].fileno(), reopened)
    assert writer.write({"note": "y", "text": "", "t": 2.0})
    writer.close()
    assert [code for _, code, _ in trace_file.read(writer.path).notes] == ["x", "y"]
    os.fstat(reopened)
    for other in others:
        other.close()  # fails where somebody else closed it
        assert Path(other.name).read_text() == ""


numbers = st.floats(0, 1e7, allow_nan=False)
maybe = st.none() | numbers


@given(
    start=numbers, span=st.floats(0, 100), lag=st.floats(0, 3), energy=maybe, joules=maybe,
    busy=st.none() | st.floats(0, 1), memory=st.none() | st.integers(0, 2**40), age=st.none() | st.floats(-1, 1),
)  # fmt: skip
def test_a_rollup_survives_to_its_last_digit_that_counts(start, span, lag, energy, joules, busy, memory, age):
    dated = None if age is None else start + span - age
    rollup = Rollup(start, start + span, energy, joules, span, joules, 0.0, busy, None, memory, memory, dated, joules)
    line = json.loads(json.dumps(trace_lines.sample_line(start + span + lag, {"k": rollup})))
    ((key, back),) = trace_lines.rollups_of(line, {"k": start})
    assert key == "k"
    assert back.start_seconds == start
    assert back.end_seconds == pytest.approx(rollup.end_seconds, abs=2e-5)
    for name, digit in (
        ("energy_joules", 1e-3),
        ("power_joules", 1e-4),
        ("power_last_watts", 1e-2),
        ("utilization_ratio", 1e-4),
    ):
        before, after = getattr(rollup, name), getattr(back, name)
        assert (before is None) == (after is None), f"{name}: unknown is not 0, and 0 is not unknown"
        assert before is None or after == pytest.approx(before, abs=digit)
    assert back.memory_max_bytes == memory
    ends = [end.end_seconds if end.power_end_seconds is None else end.power_end_seconds for end in (rollup, back)]
    assert ends[1] == pytest.approx(ends[0], abs=4e-5)


def test_a_trace_of_an_earlier_greenml_is_read():
    read = trace_file.read(Path(__file__).parent / "data" / "trace-1.jsonl")
    assert [device.calibration_ratio for device in read.devices.values()] == [0.05, 0.05]
    assert [(series.provider, series.uncertainty_ratio) for series in read.intensities] == [("scripted", 0.1)]
    assert {key: rollups[-1].energy_joules for key, rollups in read.rollups.items()} == {"0": 21_000.0, "1": 63_000.0}
    assert read.facts == {"counts": {"steps": 120}}, "an older trace has it under another name"


def test_metrics_over_time_keep_each_change(tmp_path: Path):
    """The record keeps when each metric took which value: what it costs to reach a quality follows from it."""
    evaluations = [
        {"metrics": {"eval_rouge1": rouge, "eval_runtime": 1.0, "name": "x"}, "t": 10.0 + seconds}
        for seconds, rouge in ((2.0, 10.0), (4.0, 10.0), (6.0, 14.5))
    ]
    written(
        tmp_path,
        [*evaluations, {"facts": {"disk": {"written_bytes": 4096}}, "t": 17.0}, {"status": "completed", "t": 18.0}],
    )
    record = finish.make(tmp_path)
    assert record.trainer["history"] == {"eval_rouge1": [(2.0, 10.0), (6.0, 14.5)]}
    assert record.trainer["disk_written_bytes"] == 4096
