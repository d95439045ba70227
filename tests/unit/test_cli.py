"""The command line: each command does what it says, and a user's mistake is one line and exit code 2."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from greenml.accounting.assumptions import account
from greenml.cli import COMMANDS, main
from greenml.record import file as record_file
from greenml.record.schema import DeviceRecord, Factors, PlaceRecord, RunRecord, Usage
from greenml.settings import Settings
from greenml.trace.file import TraceWriter

GOLDEN = Path(__file__).parents[1] / "golden" / "t5-3b-samsum"
START = datetime(2021, 7, 14, 9, 30, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SKU", "REGION", "TIER", "NODES", "OUTPUT", "PUE", "GPUS", "RUN_DIR"):
        monkeypatch.delenv(f"GREENML_{name}", raising=False)


class Said:
    """How a command ended and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        self.code = end.value.code
        self.out, self.err = capsys.readouterr()


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run what must fail; return its one line."""
    said = Said(capsys, *words)
    assert said.out == ""
    assert said.err.startswith("greenml: ")
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.code == 2
    return said.err


@pytest.fixture
def run_json(tmp_path: Path) -> Path:
    usage = Usage(energy_joules=3.6e6, energy_low_joules=3.4e6, energy_high_joules=3.8e6)
    gpu = DeviceRecord(id="GPU-0", kind="gpu", name="V100", host="n", method="counter", sensor="nvml", usage=usage)
    made = RunRecord(
        greenml_version="0.1.0", run_id="r", status="completed", started=START, ended=START, duration_seconds=3600.0,
        place=PlaceRecord(), devices=[gpu], factors=Factors(),
    )  # fmt: skip
    record_file.write(account(made, Settings(sku="ND40rs_v2", region="westus2")), tmp_path / "run.json")
    return tmp_path / "run.json"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_each_command_helps(capsys, command):
    said = Said(capsys, *([command] if command else []), "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: greenml")
    assert said.err == ""


def test_no_command_lists_them(capsys):
    said = Said(capsys)
    assert said.code == 0
    for command in COMMANDS:
        assert command in said.out


def test_the_version(capsys):
    from greenml import __version__

    assert Said(capsys, "--version").out == f"greenml, version {__version__}\n"


def test_report_accounts_again_without_touching_the_file(capsys, run_json):
    before = run_json.read_bytes()
    said = Said(capsys, "report", "--json", run_json)
    assert said.code == 0
    assert json.loads(said.out) == json.loads(before)
    elsewhere = Said(capsys, "report", run_json, "--json", "--region", "swedencentral", "--nodes", "2")
    told = json.loads(elsewhere.out)
    assert told["place"]["region"] == "swedencentral"
    assert told["factors"]["carbon_intensity"]["value"] < 100
    assert told["notes"][0]["code"] == "what-if"
    given = Said(capsys, "report", "--json", "--carbon-intensity", "100", "--pue", "1", run_json)
    assert json.loads(given.out)["totals"][0]["emissions_grams"]["value"] == pytest.approx(100.0)
    assert run_json.read_bytes() == before


def test_reports_formats(capsys, run_json):
    terminal = Said(capsys, "report", run_json).out
    assert "289.6" in terminal
    assert "$22.03" in terminal
    card = Said(capsys, "report", "--markdown", run_json).out
    assert "| " in card
    assert "$22.03" in card
    rows = list(csv.reader(io.StringIO(Said(capsys, "report", "--csv", run_json).out)))
    assert len(rows) > 1
    assert {len(row) for row in rows} == {len(rows[0])}


def test_the_short_summary_is_printed_unless_all_of_it_is_asked_for(capsys, run_json):
    short, full = Said(capsys, "report", run_json).out, Said(capsys, "report", run_json, "--full").out
    assert short.splitlines()[-1] == "--full prints everything, --explain how each figure comes about"
    assert "--full" not in full
    assert len(short.splitlines()) < len(full.splitlines())
    assert "--full goes with the summary alone" in mistake(capsys, "report", run_json, "--full", "--markdown")


def test_a_report_by_its_name_alone(capsys, run_json):
    """So that a new file in ``reports/`` is printed without a line more."""
    by_flag = Said(capsys, "report", "--csv", run_json).out
    assert Said(capsys, "report", "--format", "csv", run_json).out == by_flag
    assert "## Carbon Emissions" in Said(capsys, "report", "--format", "model_card", run_json).out
    assert "did you mean 'latex'?" in mistake(capsys, "report", "--format", "latx", run_json)
    assert "not both" in Said(capsys, "report", "--format", "csv", "--latex", run_json).err


def test_report_and_finish_of_a_killed_run(capsys, tmp_path):
    run_dir = tmp_path / "out.trace"
    run_dir.mkdir()
    header = {"run_id": "r", "host": "h", "start_seconds": 1.0, "unix_seconds": 1e9}
    writer = TraceWriter(run_dir / "1-h-1-a.jsonl", header)
    writer.write({"note": "user", "text": "hello", "t": 13.5})
    writer.forget()
    for path in run_dir.iterdir():
        import os

        os.utime(path, (1e9, 1e9))  # another host's trace, long silent
    said = Said(capsys, "report", tmp_path / "out.json")
    assert said.code == 0
    assert "does not exist: made from its traces" in said.err
    finished = Said(capsys, "finish", tmp_path / "out.json")
    assert finished.out.strip().endswith("out.json: killed, 1 attempt, 12.5 s")
    assert record_file.read(tmp_path / "out.json").status == "killed"
    assert Said(capsys, "finish", run_dir).code == 0


def test_import_of_a_published_run(capsys, tmp_path):
    azure = sorted(GOLDEN.glob("azure-monitor-*.json"))
    said = Said(
        capsys, "import", "--codecarbon", GOLDEN / "emissions.csv", "--trainer-output", GOLDEN, "--duration",
        "43m51.05s", "--sku", "ND40rs_v2", "--region", "westus2", "--azure-monitor", *azure,
    )  # fmt: skip
    assert said.code == 0, said.err
    made = record_file.read(tmp_path / "run.json")
    assert made.duration_seconds == 2631.05
    total = made.total()
    assert total is not None
    assert total.cost_usd["low_priority"].value == pytest.approx(2631.05 / 3600 * 4.41)
    again = mistake(capsys, "import", "--codecarbon", GOLDEN / "emissions.csv")
    assert "run.json exists; give another --output, or --force" in again


def test_skus_and_regions(capsys):
    found = Said(capsys, "skus", "ND40")
    assert found.code == 0
    assert "ND40rs_v2" in found.out
    assert "8 X V100 32GB" in found.out
    places = Said(capsys, "regions", "sweden")
    assert "swedencentral" in places.out
    assert "1.16" in places.out


def test_doctor_says_what_is_measured_here(capsys):
    said = Said(capsys, "doctor", "--sku", "ND40rs_v2")
    assert said.code == 0
    assert "What is measured here" in said.out
    assert "sku: ND40rs_v2" in said.out
    assert "nothing was asked over a network" in said.out


def test_doctor_of_a_size_that_is_none_is_one_line_too(capsys):
    said = Said(capsys, "doctor", "--sku", "ND40rs_v3")
    assert said.code == 2
    assert said.err == "greenml: unknown SKU 'ND40rs_v3'; did you mean 'ND40rs_v2'? 'greenml skus ND' lists them\n"


def test_run_ends_as_its_command_does(tmp_path):
    def run(*words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "greenml", "run", "--quiet", *options, "--", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    done = run(sys.executable, "-c", "print('hello'); raise SystemExit(7)", options=("--output", "seven.json"))
    assert (done.returncode, done.stdout) == (7, "hello\n")
    made = record_file.read(tmp_path / "seven.json")
    assert (made.status, made.error) == ("failed", "exit code 7")
    missing = run("no-such-command-here", options=("--output", "none.json"))
    assert missing.returncode == 127
    assert missing.stderr.splitlines()[0] == "greenml: no-such-command-here: No such file or directory"


MISTAKES = [
    (["bogus"], "No such command 'bogus'"),
    (["--bogus"], "--bogus"),
    (["report", "none.json"], "none.json: no such file"),
    (["report"], "run.json: no such file"),
    (["report", "."], "no trace in it"),
    (["report", "--colour", "x"], "--colour"),
    (["report", "a.json", "b.json"], "unexpected extra argument"),
    (["finish", "none.json"], "no trace folder none.trace"),
    (["finish", "."], "no trace in it"),
    (["skus", "zzz"], "unknown SKU 'zzz'; 'greenml skus'"),
    (["regions", "zzz"], "unknown region 'zzz'; 'greenml regions'"),
    (["import"], "nothing to import: give --codecarbon"),
    (["import", "--codecarbon", "none.csv"], "none.csv"),
    (["import", "--codecarbon", "."], "cannot be read"),
    (["import", "--azure-monitor"], "--azure-monitor"),
    (["import", "--azure-monitor", "none.json"], "none.json"),
    (["import", "--trainer-output", "none"], "not a folder; give the Trainer's output_dir"),
    (["import", "--codecarbon", "x.csv", "--duration", "soon"], "is not understood; write 43m51.05s"),
    (["import", "--codecarbon", "x.csv", "--sku", "ND40rs_v3"], "did you mean 'ND40rs_v2'"),
    (["import", "--codecarbon", "x.csv", "--nodes", "0"], "nodes is 0; it must be 1"),
    (["run"], "Missing argument"),
    (["run", "--nodes", "many", "--", "true"], "'many' is not a valid integer"),
    (["run", "--region", "westus22", "--", "true"], "did you mean 'westus2'"),
    (["run", "--tier", "cheap", "--", "true"], "give one of dedicated, low_priority, spot"),
    (["run", "--output", "run.txt", "--", "true"], "a file that ends in .json"),
    (["run", "--pue", "0.8", "--", "true"], "give 1.8"),
    (["run", "--interval", "0", "--", "true"], "0.01 to 3600"),
    (["run", "--output", "file/run.json", "--", "true"], "cannot be written: Not a directory"),
]


@pytest.mark.parametrize(
    ("words", "says"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_line(capsys, tmp_path, words, says):
    (tmp_path / "file").write_text("")
    (tmp_path / "x.csv").write_text((GOLDEN / "emissions.csv").read_text())
    assert says in mistake(capsys, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.csv"], "and nothing is left behind"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sku", "ND40rs_v3"], "did you mean 'ND40rs_v2'"),
        (["--region", "nowhere-1"], "unknown region 'nowhere-1'"),
        (["--sku", "p4d.24xlarge"], "is one of azure, not of aws"),
        (["--tier", "cheap"], "give one of dedicated"),
        (["--carbon-intensity", "0.3"], "looks like kg/kWh"),
        (["--pue", "nan"], "PUE"),
        (["--nodes", "0"], "nodes"),
        (["--nodes", "-1"], "nodes"),
    ],
)
def test_a_what_if_that_cannot_be_is_one_line(capsys, run_json, words, says):
    assert says in mistake(capsys, "report", run_json, *words)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": "9.0"}', '{"schema_version": "1.0", "x": 1}'])
def test_a_file_that_is_no_record_is_one_line(capsys, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert "run.json" in mistake(capsys, "report")


@pytest.mark.parametrize("lines", ["", "x\n", '{"greenml_trace": 9}\n', '{"greenml_trace": 1}\n'])
def test_traces_that_are_none_are_one_line(capsys, tmp_path, lines):
    (tmp_path / "run.trace").mkdir()
    (tmp_path / "run.trace" / "1-h-1-a.jsonl").write_text(lines)
    mistake(capsys, "report")
    mistake(capsys, "finish")


def test_mistakes_in_the_environment_and_the_project_are_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[tool.greenml]\nregoin = 'SWE'\n")
    assert "did you mean 'region'?" in mistake(capsys, "doctor")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setenv("GREENML_NODES", "two")
    assert "GREENML_NODES is 'two'; it must be a whole number" in mistake(capsys, "run", "--", "true")
