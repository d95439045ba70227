"""Traces of several nodes into one run: clocks, copies, and what does not belong together."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from greenml.cli import main
from greenml.errors import RecordError
from greenml.record import file as record_file
from greenml.record.schema import RunRecord
from greenml.run import gather
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace import trace_paths
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup

UNIX = 1_700_000_000.0


def node(
    folder: Path,
    host: str,
    *,
    rank: int = 0,
    ahead: float = 0.0,
    start: float = 1000.0,
    begun: float = 0.0,
    seconds: float = 100.0,
    watts: float = 50.0,
    status: str | None = "completed",
    attempt: int = 1,
    run_id: str = "",
    **more: Any,
) -> Path:
    """Write the trace of a process that began so many seconds into the run; ``ahead`` is its host's clock."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "run_id": run_id or f"run-of-{folder}", "attempt": attempt, "host": host, "boot_id": f"boot-{host}",
        "pid": 100 + rank, "rank": rank, "world_size": 2, "launch": "torchrun:7:node-a:29500", "start_seconds": start,
        "unix_seconds": UNIX + begun + ahead, "host_facts": {"cpu_model": f"CPU of {host}"},
    }  # fmt: skip
    writer = TraceWriter(folder / f"{attempt}-{host}-{100 + rank}-{attempt}{rank}abcd.jsonl", {**header, **more})
    device = Device("gpu", f"GPU-{host}", "H200", "counter", "nvml")
    writer.write(trace_lines.device_line("0", device))
    writer.write({"phase": "train", "begin": 1, "t": start})
    for passed in range(int(seconds) + 1):
        at = start + passed
        writer.write(trace_lines.sample_line(at, {"0": Rollup(at, at, energy_joules=passed * watts)}))
    writer.write({"end": 1, "t": start + seconds})
    if status:
        writer.write({"status": status, "error": None, "t": start + seconds})
    writer.close()
    return folder


def energies(record: RunRecord) -> dict[str, float | None]:
    return {device.host: device.usage.energy_joules for device in record.devices}


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def nodes(tmp_path: Path) -> list[Path]:
    return [
        node(tmp_path / "a" / "run.trace", "node-a"),
        node(tmp_path / "b" / "run.trace", "node-b", rank=1, start=77.0, begun=2.0, seconds=97.0, watts=80.0),
    ]


def test_two_nodes_become_one_record(nodes: list[Path], tmp_path: Path):
    before = contents(tmp_path)
    record = gather.merge(nodes, tmp_path / "whole" / "run.json")
    assert [host.name for host in record.hosts] == ["node-a", "node-b"]
    assert energies(record) == pytest.approx({"node-a": 5000.0, "node-b": 7760.0})
    assert record.duration_seconds == pytest.approx(100.0)
    assert record.place.nodes == 2
    assert (record.status, len(record.attempts), record.attempts[0].processes) == ("completed", 1, 2)
    assert record.attempts[0].hosts == ["node-a", "node-b"]
    assert record == record_file.read(tmp_path / "whole" / "run.json")
    assert {path: digest for path, digest in contents(tmp_path).items() if "whole" not in path} == before
    assert [path.suffix for path in sorted((tmp_path / "whole" / "run.trace").iterdir())] == [".jsonl", ".jsonl", ""]


@pytest.mark.parametrize("way", ["run folder", "run.json", "traces"])
def test_a_source_may_be_named_in_other_ways(nodes: list[Path], tmp_path: Path, way: str):
    sources = {
        "run folder": [node.parent for node in nodes],
        "run.json": [node.with_suffix(".json") for node in nodes],
        "traces": [path for node in nodes for path in trace_paths(node)],
    }[way]
    for source in sources:
        if source.suffix == ".json":
            source.write_text("{}")
    assert len(gather.merge(sources, tmp_path / "whole.json").hosts) == 2


@pytest.mark.parametrize("ahead", [30.0, -30.0, 86400.0])
def test_a_clock_that_is_wrong_is_corrected(tmp_path: Path, ahead: float):
    sources = [node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1, ahead=ahead, begun=2, seconds=98)]
    record = gather.merge(sources, tmp_path / "run.json", skew_seconds={"node-b": ahead})
    assert record.duration_seconds == pytest.approx(100.0)
    (note,) = [note.text for note in record.notes if note.code == "clock-skew"]
    assert note == f"the clock of node-b was {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}; corrected"
    headers = {path["host"]: path for path in map(trace_file.read_header, trace_paths(tmp_path / "run.trace"))}
    assert headers["node-b"]["unix_offset_seconds"] == -ahead
    again = gather.merge([tmp_path / "run.trace"], tmp_path / "again.json")
    assert again.duration_seconds == pytest.approx(100.0)
    assert [note.code for note in again.notes].count("clock-skew") == 1


def test_a_clock_that_is_wrong_and_not_corrected_is_named(tmp_path: Path):
    sources = [node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1, ahead=3600.0)]
    with pytest.raises(RecordError, match=r"not at the same time.* one launch.* --skew node-b=3600") as error:
        gather.merge(sources, tmp_path / "run.json")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_trace_in_two_sources_counts_once_and_the_longer_one(tmp_path: Path):
    whole = node(tmp_path / "a", "node-a")
    other = node(tmp_path / "b", "node-b", rank=1)
    cut = tmp_path / "c"
    cut.mkdir()
    name = trace_paths(other)[0].name
    lines = (other / name).read_text().splitlines(keepends=True)
    (cut / name).write_text("".join(lines[:40]))
    for order in ([whole, cut, other], [other, cut, whole], [cut, whole, other]):
        record = gather.merge(order, tmp_path / "run.json", replace=True)
        assert record.attempts[0].processes == 2
        assert energies(record) == pytest.approx({"node-a": 5000.0, "node-b": 5000.0})


def test_what_was_measured_of_a_clock_holds_for_the_whole_trace_too(tmp_path: Path):
    """Rank 0 has a copy up to the gather, with the correction; the node has the whole trace, without."""
    lead, other = node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1, ahead=500.0)
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in trace_paths(other):
        (copied / path.name).write_text("".join(path.read_text().splitlines(keepends=True)[:50]))
    anchors = {("node-b", "boot-node-b"): UNIX - 1000.0}
    assert gather.add(lead, copied, attempts=(1, 1), anchors=anchors, alive=[]) == 0
    record = gather.merge([lead, other], tmp_path / "run.json")
    assert energies(record) == pytest.approx({"node-a": 5000.0, "node-b": 5000.0})
    assert record.duration_seconds == pytest.approx(100.0)


def test_attempts_are_told_by_their_time(tmp_path: Path):
    """The second machine was replaced: its folder knows of one attempt only."""
    first = node(tmp_path / "a", "node-a", run_id="A", status=None)
    node(tmp_path / "a", "node-a", run_id="A", attempt=2, start=1300.0, begun=300.0)
    replaced = node(tmp_path / "b", "node-b", rank=1, begun=1.0, seconds=98.0, status=None)
    fresh = node(tmp_path / "c", "node-c", rank=1, begun=301.0, start=5.0)
    record = gather.merge([fresh, first, replaced], tmp_path / "run.json")
    assert [attempt.hosts for attempt in record.attempts] == [["node-a", "node-b"], ["node-a", "node-c"]]
    assert [attempt.status for attempt in record.attempts] == ["killed", "completed"]
    assert record.duration_seconds == pytest.approx(201.0)
    assert record.place.nodes == 2, "three hosts, two at a time"
    notes = [note.text for note in record.notes if note.code == "not-covered"]
    assert not any("201.0 s" in text for text in notes if "node-b" in text or "node-c" in text), "it was not there"


def test_a_killed_node_is_a_note_and_its_figures_count(tmp_path: Path):
    sources = [node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1, seconds=60.0, status=None)]
    record = gather.merge(sources, tmp_path / "run.json")
    assert record.status == "completed", "a copy of a moment ago is no living process"
    assert energies(record)["node-b"] == pytest.approx(3000.0)
    assert [note.code for note in record.notes if note.code == "process-killed"] == ["process-killed"]


def test_two_machines_of_one_name_stay_two(tmp_path: Path):
    sources = [
        node(tmp_path / "a", "localhost", boot_id="11111111-a"),
        node(tmp_path / "b", "localhost", rank=1, boot_id="22222222-b"),
    ]
    record = gather.merge(sources, tmp_path / "run.json")
    assert [host.name for host in record.hosts] == ["localhost", "localhost-22222222"]
    assert len(record.devices) == 2


def test_what_a_merge_makes_untrue_is_left_out(tmp_path: Path):
    lead, other = node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1)
    for folder, line in (
        (lead, '{"t":1001.0,"note":"not-gathered","text":"rank 1","ranks":[1]}'),
        (lead, '{"t":1001.0,"note":"not-gathered","text":"rank 7","ranks":[1,7]}'),
        (other, '{"t":1001.0,"note":"part-of-run","text":"a part"}'),
    ):
        with trace_paths(folder)[0].open("a") as stream:
            stream.write(line + "\n")
    record = gather.merge([lead, other], tmp_path / "run.json")
    assert [note.text for note in record.notes if note.code in ("not-gathered", "part-of-run")] == ["rank 7"]


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        ({"begun": 5000.0, "launch": ""}, "not at the same time, so not of one run; if a clock was wrong"),
        ({"world_size": 4}, r"different numbers of processes \(2 in .*, 4 in .*\)"),
        ({"rank": 0}, "rank 0 is in .* and, of another host, in .*: they are two runs"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, second: dict[str, Any], wrong: str):
    sources = [node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", **{"rank": 1, **second})]
    with pytest.raises(RecordError, match=wrong) as error:
        gather.merge(sources, tmp_path / "run.json")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_copies_of_a_run_that_goes_on_are_brought_up_to_date(tmp_path: Path):
    lead, other = node(tmp_path / "a", "node-a", attempt=3), node(tmp_path / "b", "node-b", rank=1, status=None)
    (name,) = [path.name for path in trace_paths(other)]
    text = (other / name).read_text()
    (other / name).write_text("".join(text.splitlines(keepends=True)[:50]))
    anchors = {("node-b", "boot-node-b"): UNIX - 1000.0}
    for _ in range(2):
        assert gather.add(lead, other, attempts=(1, 3), anchors=anchors, alive=[name]) == 0
        assert len(trace_paths(lead)) == 2
        (copy,) = [path for path in trace_paths(lead) if "node-b" in path.name]
        read = trace_file.read(copy)
        assert (read.status, read.alive, read.header["attempt"]) == ("completed", False, 3)
        (other / name).write_text(text)
    assert read.last_seconds == pytest.approx(1100.0)
    own = trace_paths(lead)[0].read_bytes()
    assert gather.add(lead, lead, attempts=(3, 3), anchors={}, alive=[]) == 0
    assert trace_paths(lead)[0].read_bytes() == own, "a folder that is shared after all changes nothing"


def test_traces_of_an_attempt_of_which_nothing_is_here_are_left_out(tmp_path: Path):
    lead, other = node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1, begun=-5000.0)
    assert gather.add(lead, other, attempts=(2, 1), anchors={}, alive=[]) == 1
    assert len(trace_paths(lead)) == 1


class TestCommand:
    """``greenml merge``."""

    @staticmethod
    def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["merge", *map(str, words)])
        return (int(end.value.code or 0), *capsys.readouterr())

    def test_merges(self, nodes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        output = tmp_path / "run.json"
        assert self.run(capsys, *nodes, "--output", output) == (
            0, f"{output}: 2 nodes (node-a, node-b), 1 attempt, 100.0 s\n", "",
        )  # fmt: skip

    def test_skew(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        sources = [node(tmp_path / "a", "node-a"), node(tmp_path / "b", "node-b", rank=1, ahead=3600.0)]
        code, said, _ = self.run(capsys, *sources, "--output", tmp_path / "run.json", "--skew", "node-b=3600")
        assert (code, said.split(",")[-1]) == (0, " 100.0 s\n")

    def test_never_writes_over_anything_unasked(self, nodes: list[Path], tmp_path: Path, capsys):
        output = tmp_path / "run.json"
        output.write_text("precious")
        code, said, wrong = self.run(capsys, *nodes, "--output", output)
        assert (code, said, wrong.count("\n")) == (2, "", 1)
        assert "exists; give another --output, or --force" in wrong
        assert output.read_text() == "precious"
        assert self.run(capsys, *nodes, "--output", output, "--force")[0] == 0
        output.unlink()
        assert self.run(capsys, *nodes, "--output", output)[0] == 2, "its traces are there"
        assert self.run(capsys, *nodes, "--output", output, "--force")[0] == 0

    @pytest.mark.parametrize(
        ("words", "wrong"),
        [
            ([], "Missing argument"),
            (["nothing"], "no such file or folder"),
            (["empty"], "no trace in it"),
            (["torn"], "no trace in it that can be read"),
            (["torn/1-x-1-a.jsonl"], "not a trace"),
            (["several"], r"several runs \(one.trace, two.trace\)"),
            (["a", "--skew", "node-z=3"], "no trace of a host 'node-z'; there are node-a"),
            (["a", "--skew", "node-a=much"], "must be HOST=SECONDS"),
            (["a", "--output", "folder"], "must end in .json"),
            (["run.trace", "--force"], "one of the sources"),
            (["a", "--output", "file/run.json"], "cannot be written"),
        ],
    )
    def test_a_mistake_is_one_line(self, tmp_path: Path, monkeypatch, capsys, words: list[str], wrong: str):
        monkeypatch.chdir(tmp_path)
        for name in ("a", "run.trace", "several/one.trace", "several/two.trace"):
            node(tmp_path / name, "node-a")
        (tmp_path / "empty").mkdir()
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn" / "1-x-1-a.jsonl").write_text('{"gree')
        (tmp_path / "file").write_text("")
        if words and "run.trace" not in words and "--output" not in words:
            words = [*words, "--output", "whole.json"]
        before = contents(tmp_path)
        code, said, complaint = self.run(capsys, *words)
        assert (code, said, complaint.count("\n")) == (2, "", 1)
        assert complaint.startswith("greenml: ")
        assert re.search(wrong, complaint), complaint
        assert contents(tmp_path) == before
