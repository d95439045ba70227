"""Traces of a wrong shape: valid JSON of any kind in any line costs that line, never the record.

``GREENML_FUZZ_TRACES`` says how many mutated traces are tried: 150 by default; 2,000 was the check of this point.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenml import reports
from greenml.errors import RecordError
from greenml.record import file as record_file
from greenml.record.schema import Factors
from greenml.run import finish, gather
from greenml.run.live import LiveRun
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup

TRACES = int(os.environ.get("GREENML_FUZZ_TRACES", "150"))
START, UNIX = 5000.0, 1_772_323_200.0
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, -5, 1e308, -1e308, 10**400, 1e-308, float("nan"), float("inf"), float("-inf"),
    3.7, 1e9, 1e12, 1e18, "", "x", "a/b", "\0", "\ud800", "NaN", "2021-01-01", "7" * 50,
    [], {}, [1], [[]], [None], {"a": 1}, {"": None}, {"a": {"b": []}},
]  # fmt: skip
GPU = Device("gpu", "GPU-1", "A100", "counter", "nvml", calibration_ratio=0.05, power_limit_watts=400.0,
             detail={"index": "0"})  # fmt: skip
GAUGE = Device("gpu", "GPU-2", "T4", "gauge", "nvml", calibration_ratio=0.05, detail={"index": "1"})
HOST = Device("host", "node", "host", None, "host")


def whole_trace() -> list[Any]:
    """Every kind of line, of a run of a minute: 200 W by a counter, 50 W by a gauge."""
    header = {
        "greenml_trace": 1, "run_id": "r", "attempt": 1, "host": "node", "boot_id": "b", "pid": 7, "rank": 0,
        "world_size": 1, "restarts": 0, "launcher": "", "launch": "", "parent": "1@2", "name": "n", "watches": False,
        "start_seconds": START, "unix_seconds": UNIX, "command": ["train.py"], "jobs": {"slurm_job": "1"},
        "settings": {"region": "SWE", "pue": 1.2, "known_from": {"region": "argument", "pue": "argument"}},
        "host_facts": {"cpu_model": "EPYC", "cpu_count": 64, "memory_bytes": 2**38, "os": "Linux", "cloud": ""},
    }  # fmt: skip
    source = {"name": "a grid", "url": "https://example.org", "published": "2026-03-02"}
    series = {"provider": "scripted", "signal": "average", "area": "ZZ", "source": source, "uncertainty_ratio": 0.1}
    training = {
        "training_args": {"learning_rate": 1e-5, "per_device_train_batch_size": 8},
        "trainer_state": {"log_history": [{"loss": 1.0, "step": 1}]},
        "ds_config": {"zero_optimization": {"stage": 2}},
    }
    lines: list[Any] = [
        header,
        *(trace_lines.device_line(str(key), device) for key, device in enumerate((GPU, GAUGE, HOST))),
        {"t": START, "intensity": series, "slots": [[UNIX - 60, UNIX + 30, 100], [UNIX + 30, UNIX + 90, 300.0]]},
        {"facts": {"place": {"cloud": "azure", "region": "westus2"}}, "t": START},
        {"facts": {"environment": {"python": "3.11", "packages": {"torch": "2"}, "git_dirty": True}}, "t": START},
        {"facts": {"trainer": training}, "t": START},
        {"so_far": "interrupted", "t": START},
    ]
    for second in range(0, 61, 5):
        at = START + second
        rollups = {
            "0": Rollup(at - 5, at, 200.0 * second, 1000.0 * bool(second), 5.0 * bool(second), 210.0, 0.0, 0.9),
            "1": Rollup(at - 5, at, None, 250.0 * bool(second), 5.0 * bool(second), 51.0, 0.0, 0.5),
            "2": Rollup(at - 5, at, utilization_ratio=0.3, memory_mean_bytes=5e9, memory_max_bytes=6 * 10**9),
        }
        lines.append(trace_lines.sample_line(at, rollups, edge=second == 10))
        if second == 10:
            lines.append({"phase": "train", "begin": 1, "t": at})
            lines.append({"note": "sensor-lost", "text": "gone", "t": at})
        if second == 20:
            lines.append({"facts": {"counts": {"steps": 5, "samples": 50}}, "t": at})
            lines.append({"step": 5, "steps": 20, "t": at})
            lines.append({"metrics": {"loss": 0.25}, "t": at})
            lines.append({"params": {"lr": 1e-5}, "t": at})
        if second == 40:
            lines.append({"step": 10, "steps": 20, "t": at})
            lines.append({"end": 1, "t": at})
            lines.append({"phase": "eval", "begin": 2, "t": at})
            lines.append({"end": 2, "t": at + 4, "n": 9, "s": 2.7, "j": {"0": 540.0}})
    return [*lines, {"status": "completed", "error": None, "t": START + 60}]


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutated(dice: random.Random, lines: list[Any]) -> list[Any]:
    """Change one to four places of a trace: another value, a missing key, another key, a line twice or elsewhere."""
    lines = json.loads(json.dumps(lines))
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        number = dice.randrange(len(lines))
        path = dice.choice(list(places(lines[number])))
        if not path:
            lines[number] = dice.choice(VALUES) if number else lines[number]
            continue
        holder = lines[number]
        for key in path[:-1]:
            holder = holder[key]
        match dice.choice(["value", "value", "value", "delete", "rename", "again"]):
            case "value":
                holder[path[-1]] = dice.choice(VALUES)
            case "delete":
                if (number, path) != (0, ("greenml_trace",)):
                    del holder[path[-1]]
            case "rename" if isinstance(holder, dict) and number:
                holder[dice.choice(["t", "d", "begin", "status", "facts", "x"])] = holder.pop(path[-1])
            case _:
                if number:
                    lines.insert(dice.randrange(1, len(lines) + 1), json.loads(json.dumps(lines[number])))
    if lines[0].get("greenml_trace") != 1:
        lines[0]["greenml_trace"] = 1  # without it the file says that it is no trace
    return lines


def write(folder: Path, lines: list[Any]) -> Path:
    folder.mkdir(parents=True)
    path = folder / "1-node-7-a.jsonl"
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    os.utime(path, (UNIX + 60, UNIX + 60))
    return path


@pytest.mark.parametrize("seed", range(0, TRACES, 10))
def test_any_json_in_any_line_costs_no_record_and_raises_nothing(tmp_path: Path, seed: int):
    for number in range(seed, min(seed + 10, TRACES)):
        folder = tmp_path / str(number)
        path = write(folder / "run.trace", mutated(random.Random(number), whole_trace()))
        made = finish.finish(path.parent, folder / "run.json", [folder / "README.md"])
        assert record_file.read(folder / "run.json").totals == made.totals, number
        for name in ("terminal", "markdown", "csv", "latex"):
            assert reports.render(made, name), (number, name)
        merged = gather.merge([path.parent], folder / "merged.json")
        assert merged.duration_seconds == pytest.approx(made.duration_seconds, abs=1e-3), number
        follower = LiveRun(path.parent, Factors())
        follower.now()
        follower.now()


def test_a_damaged_line_costs_itself_and_is_counted(tmp_path: Path):
    lines = whole_trace()
    clean = finish.make(write(tmp_path / "clean", lines).parent)
    damaged = [
        *lines[:12],
        {"t": "soon", "d": {}},
        [1, 2],
        {"note": 5, "text": [], "t": START},
        {"what": 1},
        *lines[12:],
    ]
    path = write(tmp_path / "damaged", damaged)
    read = trace_file.read(path)
    assert read.damaged_lines == 4
    made = finish.make(path.parent)
    assert made.totals == clean.totals
    notes = [note.text for note in made.notes if note.code == "trace-damaged"]
    assert notes == ["4 damaged lines of 1-node-7-a.jsonl left out: the figures lack what they held"]
    assert all(note.code != "trace-damaged" for note in clean.notes)


@pytest.mark.parametrize("wrong", [None, "x", -1, [], 1e300, True])
def test_a_header_without_its_times_takes_them_from_the_lines(tmp_path: Path, wrong: object):
    lines = whole_trace()
    clean = finish.make(write(tmp_path / "clean", lines).parent)
    lines[0] |= {"start_seconds": wrong, "unix_seconds": wrong}
    made = finish.make(write(tmp_path / "damaged", lines).parent)
    assert made.totals[0].it_energy_joules.value == clean.totals[0].it_energy_joules.value == 15_000.0
    assert made.duration_seconds == clean.duration_seconds == 60.0
    assert abs((made.started - clean.started).total_seconds()) < 1.0
    assert [note.code for note in made.notes].count("trace-damaged") == 1


def test_numbers_that_are_none_are_unknown(tmp_path: Path):
    """NaN and infinity of a driver are no energy: the reading before and the one after carry it."""
    lines = whole_trace()
    sample = next(line for line in lines if "d" in line and line["t"] == START + 30)
    sample["d"]["0"][1] = float("nan")
    made = finish.make(write(tmp_path / "nan", lines).parent)
    assert made.totals[0].gpu_energy_joules.value == 15_000.0


def test_a_trace_whose_place_is_taken_goes_on_where_it_was(tmp_path: Path):
    """Compaction that cannot open its new file leaves the old one, and the next line is still written."""
    resource = pytest.importorskip("resource")
    writer = TraceWriter(tmp_path / "a.jsonl", {"start_seconds": 1.0, "unix_seconds": 1e9})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) - 1, hard))
    try:
        writer.replace([], writer.size_bytes)
        failed = writer.failed
        written = writer.write({"note": "x", "text": "y", "t": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    writer.close()
    assert (bool(failed), written) == (True, True)
    assert trace_file.read(writer.path).notes == [(2.0, "x", "y")]


@pytest.mark.parametrize("depth", [60, 100_000])
def test_what_is_nested_without_end_is_cut_or_left_out(tmp_path: Path, depth: int):
    path = write(tmp_path / "deep", whole_trace())
    with path.open("a") as stream:
        stream.write('{"metrics": {"a": ' + "[" * depth + "]" * depth + '}, "t": 5001.0}\n')
    made = finish.make(path.parent)
    assert made.totals[0].it_energy_joules.value == 15_000.0
    assert ("a" in made.metrics) == (depth == 60)


def test_what_is_no_trace_is_still_one_line(tmp_path: Path):
    path = write(tmp_path / "none", [[1], *whole_trace()[1:]])
    with pytest.raises(RecordError, match="not a trace"):
        finish.make(path.parent)
