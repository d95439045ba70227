"""run.json: it round-trips, it is replaced whole or not at all, and what is no record is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from greenml.analysis import record_search
from greenml.errors import RecordError
from greenml.record import file as record_file
from greenml.record import schema as record_schema
from greenml.record.schema import DeviceRecord, Factors, PlaceRecord, Quantity, RunRecord, Usage
from greenml.run import finish
from greenml.trace import trace_paths
from greenml.trace.file import TraceWriter

START = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=timezone.utc)


def a_record(**more: object) -> RunRecord:
    gpu = DeviceRecord(
        id="GPU-0", kind="gpu", name="V100 µ", host="n", method="counter", sensor="nvml",
        usage=Usage(energy_joules=2448690.0, utilization_ratio=0.569),
    )  # fmt: skip
    fields = {
        "greenml_version": "0.1.0", "run_id": "r", "status": "completed", "started": START, "ended": None,
        "duration_seconds": 2631.05, "place": PlaceRecord(), "devices": [gpu], "factors": Factors(),
        "metrics": {"loss": 0.1, "nested": {"a": [1, None, "x"]}},
    }  # fmt: skip
    return RunRecord.model_validate({**fields, **more})


def test_it_comes_back_as_it_was(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "run.json"
    record_file.write(a_record(), path)
    assert record_file.read(path) == a_record()
    assert [one.name for one in path.parent.iterdir()] == ["run.json"], "nothing temporary is left"
    content = json.loads(path.read_text())
    assert content["schema_version"] == record_schema.SCHEMA_VERSION == "2.0"
    assert content["devices"][0]["usage"]["power_mean_watts"] is None, "not known is null, not left out and not 0"


@given(joules=st.none() | st.floats(0, 1e15), seconds=st.floats(0, 1e9), name=st.text(st.characters(codec="utf-8")))
def test_every_digit_comes_back(tmp_path_factory, joules, seconds, name):
    path = tmp_path_factory.mktemp("record") / "run.json"
    made = a_record(duration_seconds=seconds, name=name)
    made.devices[0].usage.energy_joules = joules
    record_file.write(made, path)
    back = record_file.read(path)
    assert back.devices[0].usage.energy_joules == joules
    assert (back.duration_seconds, back.name) == (seconds, name)


def test_its_schema_describes_it(tmp_path: Path):
    jsonschema = pytest.importorskip("jsonschema")
    record_file.write(a_record(), tmp_path / "run.json")
    validator = jsonschema.Draft202012Validator(record_file.json_schema())
    content = json.loads((tmp_path / "run.json").read_text())
    validator.validate(content)
    content["devices"][0]["usage"]["watts"] = 1
    assert not validator.is_valid(content)


def test_the_mode_is_what_the_umask_says(tmp_path: Path):
    before = os.umask(0o027)
    try:
        record_file.write(a_record(), tmp_path / "run.json")
    finally:
        os.umask(before)
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o640


def test_its_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path):
    path = tmp_path / ("é" * 125 + ".json")
    record_file.write(a_record(), path)
    assert record_file.read(path) == a_record()


def test_a_write_that_fails_changes_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run.json", tmp_path):
        with pytest.raises(RecordError, match="cannot be written") as error:
            record_file.write(a_record(), path)
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*")), "nor is anything left beside it"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "no schema_version"),
        (b"{}", "no schema_version"),
        (b'{"schema_version": "3.0"}', "schema version 3.0; this greenml reads 2.0: upgrade greenml"),
        (b'{"schema_version": 3}', "upgrade greenml"),
        (
            b'{"schema_version": "0.9"}',
            "schema version 0.9; this greenml reads 2.0: read it with the greenml that made it",
        ),
        (b"[" * 100_000, "not JSON"),
        (b'{"schema_version": "1.0", "name": "\\ud800"}', "not JSON"),
        (b'{"schema_version": "1.0"}', "not a valid run record: greenml_version"),
    ],
)
def test_what_is_no_record_is_one_line(tmp_path: Path, content, says):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as error:
        record_file.read(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_no_permission_are_one_line(tmp_path: Path):
    with pytest.raises(RecordError, match="no such file"):
        record_file.read(tmp_path / "none.json")
    with pytest.raises(RecordError, match="cannot be read"):
        record_file.read(tmp_path)


@pytest.mark.parametrize("seconds", [-1.0, 1e308])
def test_a_run_takes_some_time_and_not_for_ever(tmp_path: Path, seconds):
    record_file.write(a_record(), tmp_path / "run.json")
    told = json.loads((tmp_path / "run.json").read_text()) | {"duration_seconds": seconds}
    (tmp_path / "run.json").write_text(json.dumps(told))
    with pytest.raises(RecordError, match=r"duration_seconds: Input should be (less|greater) than or equal to \d+$"):
        record_file.read(tmp_path / "run.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_is_finite(value):
    with pytest.raises(ValidationError):
        Quantity(value=value, basis="measured")


def test_totals_and_phases_by_name():
    made = a_record()
    assert made.total() is None
    assert made.phase("train") is None


def run_dir(folder: Path) -> Path:
    made = folder / "run.trace"
    made.mkdir()
    settings = {"nodes": 3, "later": 1, "known_from": {"nodes": "argument", "later": "argument"}}
    header = {"run_id": "r", "host": "h", "start_seconds": 1.0, "unix_seconds": 1e9, "settings": settings}
    writer = TraceWriter(made / "1-h-1-a.jsonl", header)
    writer.write({"status": "completed", "error": None, "t": 11.0})
    writer.close()
    return made


def test_a_run_is_opened_by_any_of_its_names(tmp_path: Path):
    made = run_dir(tmp_path)
    for path in (tmp_path, made, tmp_path / "run.json"):
        opened = record_search.open_record(path)
        assert (opened.run_id, opened.duration_seconds, opened.place.nodes) == ("r", 10.0, 3)
    assert not (tmp_path / "run.json").exists(), "to look is not to write"
    written = finish.finish(made, tmp_path / "run.json")
    assert record_file.read(tmp_path / "run.json") == written
    assert sorted(path.name for path in made.iterdir()) == ["1-h-1-a.jsonl", "lock"]


def test_a_record_that_is_older_than_its_traces_is_made_again(tmp_path: Path):
    made = run_dir(tmp_path)
    output = tmp_path / "run.json"
    record_file.write(a_record(), output)
    os.utime(output, (1e9, 1e9))
    assert record_search.open_record(output).run_id == "r"
    for path in trace_paths(made):
        os.utime(path, (9e8, 9e8))
    assert record_search.open_record(output) == a_record()


def test_nothing_to_open_is_one_line(tmp_path: Path):
    for path in (tmp_path, tmp_path / "run.json", tmp_path / "no" / "run.json"):
        with pytest.raises(RecordError) as error:
            record_search.open_record(path)
        assert "\n" not in str(error.value)


def test_version_1_is_read_in_the_fields_of_version_2(tmp_path: Path):
    path = Path(__file__).parent / "data" / "record-1.0.json"
    stored, read = json.loads(path.read_text()), record_file.read(path)
    assert (stored["schema_version"], read.schema_version) == ("1.0", "2.0")
    for before, device in zip(stored["devices"], read.devices, strict=True):
        doubts, budget = before["usage"]["doubts"], device.usage.uncertainty
        assert budget is not None
        assert device.calibration_ratio == before["gain_ratio"] == 0.05
        assert budget.calibration_joules == doubts["gain_joules"] > 0
        assert budget.coverage_joules == doubts["gap_joules"]
    assert read.factors.intensity_series is not None
    assert read.factors.intensity_series.uncertainty_ratio == 0.1
    for scope in ("run", "train"):
        before = next(total for total in stored["totals"] if total["scope"] == scope)
        total, factor = read.total(scope), read.factors.intensity(scope)
        assert total is not None
        assert factor is not None
        assert total.emissions_grams.value == before["emissions_grams"]["value"]
        assert total.emissions_grams.value == pytest.approx(
            total.facility_energy_joules.value / 3.6e6 * factor.value, rel=1e-9
        )
    record_file.write(read, tmp_path / "run.json")
    assert record_file.read(tmp_path / "run.json") == read


def test_a_report_of_a_record_loads_no_accounting_and_leaves_the_environment(tmp_path: Path):
    """A third of the time of ``greenml report`` was to load what makes records of traces, and plugins of pydantic."""
    path = tmp_path / "run.json"
    record_file.write(a_record(), path)
    code = (
        "import os, sys\nfrom greenml.cli import main\n"
        "try: main(['report', sys.argv[1]])\nexcept SystemExit as end: assert not end.code\n"
        "assert 'PYDANTIC_DISABLE_PLUGINS' not in os.environ\n"
        "heavy = [f'greenml.{name}' for name in ('accounting', 'energy', 'factors.', 'trace.file', 'run.finish')]\n"
        "print([name for name in sys.modules if name.startswith(tuple(heavy))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "GPU" in done.stdout
