"""What a person meets at every command: help that is not cut, names that steer nothing, pipes, encodings, colours."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from greenml import redaction
from greenml.analysis import what_if
from greenml.cli import COMMANDS, _terminal, group, main
from greenml.record import file as record_file
from greenml.record.schema import AttemptRecord
from greenml.reports import _format, latex, terminal
from greenml.reports import csv as csv_report

PUBLISHED = Path(__file__).parent.parent / "golden" / "t5-3b-samsum"
# Blinking, a window's title, a bell, CSI as one character, text turned around, half a character: greenml writes none.
HOSTILE = "\x1b[5mBLINK\x1b]0;title\x07 \x9b5m\u202eab\r\nnext"
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a published run, imported."""
    output = tmp_path_factory.mktemp("imported") / "run.json"
    words = ["import", "--output", str(output), "--name", "t5", "--sku", "ND40rs_v2", "--region", "westus2"]
    words += ["--nodes", "1", "--duration", "2631.05", "--codecarbon", str(PUBLISHED / "emissions.csv")]
    words += ["--trainer-output", str(PUBLISHED)]
    assert run(*words, "--azure-monitor", *map(str, sorted(PUBLISHED.glob("azure-monitor-*.json")))) == 0
    return output


@pytest.fixture
def published(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Path:
    """A copy of that record, in the current folder."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return Path(shutil.copy(imported, tmp_path / "run.json"))


@pytest.fixture
def hostile(published: Path) -> Path:
    """The same record with names that would steer a terminal, wherever a record has text of somebody else."""
    told = json.loads(published.read_text())
    told |= {"name": HOSTILE, "error": HOSTILE, "status": "failed"}
    told["params"][HOSTILE] = HOSTILE
    told["metrics"] = {f"eval_{HOSTILE}": 0.5, "eval_loss": 1.0}
    told["notes"] = [{"code": "x", "text": HOSTILE}]
    told["place"] |= {"sku_label": HOSTILE, "country_name": HOSTILE}
    for device in told["devices"]:
        device["name"] = HOSTILE
    factors = told["factors"]
    for price in (factors["carbon_intensity"], factors["pue"], *factors["prices"].values()):
        price["note"] = price["source"]["name"] = HOSTILE
    published.write_text(json.dumps(told))
    return published


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_no_help_of_a_command_is_cut_at_80_columns():
    widest = max(map(len, COMMANDS))
    cut = []
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if command.get_short_help_str(78 - 6 - widest).endswith("..."):
            cut.append(name)
    assert not cut


@pytest.mark.parametrize(
    "words",
    [
        ("report",), ("report", "--markdown"), ("report", "--latex"), ("report", "--csv"), ("report", "--explain"),
        ("card",), ("card", "--style", "hub"), ("card", "--readme", "card.md", "--check"),
        ("compare",), ("compare", "--markdown"), ("compare", "--csv"), ("what-if",), ("advise", "--all"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_name_of_a_record_steers_a_terminal(capsys, hostile, words):
    pytest.importorskip("huggingface_hub", reason="the extra 'card' is not installed")
    (hostile.parent / "card.md").write_bytes(f"# {HOSTILE}\n".encode())
    assert run(words[0], str(hostile), *words[1:]) in {0, 1}
    printed = "".join(capsys.readouterr())
    assert "BLINK" in printed
    assert STEERS.findall(printed) == []


def test_no_name_of_a_record_steers_a_terminal_in_colour(hostile):
    text = terminal.render(record_file.read(hostile), color=True)
    own = {"1", "2", "31", "1;31", "0"}  # what the renderer itself uses: bold, dim, red, none
    assert set(re.findall(r"\x1b\[([0-9;]*)m", text)) <= own
    assert STEERS.findall(re.sub(r"\x1b\[[0-9;]*m", "", text)) == []


def test_a_mistake_with_such_a_name_steers_nothing_either(capsys):
    assert run("report", f"{HOSTILE}.json") == 2
    error = capsys.readouterr().err
    assert STEERS.findall(error) == []
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "lines", "line"),
    [
        ("a  b\n c", "a  b\n c", "a b c"),
        ("\x1b[31mr\x07\r\n\tx\u202e\ud800", " [31mr  \n x  ", "[31mr x"),
        ("München ± 3 µg, 漢字", "München ± 3 µg, 漢字", "München ± 3 µg, 漢字"),
    ],
)  # fmt: skip
def test_printable_keeps_words_and_drops_what_steers(text, lines, line):
    assert redaction.printable_lines(text) == lines
    assert redaction.printable_line(text) == line


def test_indented_phases_stay_indented(published):
    told = json.loads(published.read_text())
    told["phases"].append({**told["phases"][0], "path": "train/save"})
    published.write_text(json.dumps(told))
    assert re.search(r"^   save ", terminal.render(record_file.read(published)), re.MULTILINE)


def test_latex_and_csv_have_what_another_tool_told_and_say_of_what(published):
    record = record_file.read(published)
    paper = latex.render(record)
    assert "train emissions & 178.0~g CO\\textsubscript{2}e &  & reported (CodeCarbon)" in paper
    assert "train energy & 0.5982~kWh" in paper
    assert "Figures cover the whole run, set-up and evaluation included; figures named train cover that phase." in paper
    rows = [row for row in csv.DictReader(io.StringIO(csv_report.render(record))) if row["row"] == "reported"]
    assert [(row["scope"], row["name"]) for row in rows] == [("train", "CodeCarbon")]
    assert float(rows[0]["emissions_grams"]) == pytest.approx(178.02492531467784, rel=1e-12)
    assert float(rows[0]["energy_joules"]) == pytest.approx(0.5982020339874927 * 3.6e6, rel=1e-12)


def test_latex_says_that_a_run_took_several_attempts(published):
    record = record_file.read(published)
    attempt = AttemptRecord(number=1, started=record.started, ended=record.ended, seconds=5.0, status="killed")
    two = record.model_copy(update={"attempts": [attempt, attempt.model_copy(update={"number": 2})]})
    assert "The run took 2 attempts; every figure is their sum." in latex.render(two)
    assert "attempts" not in latex.render(record)


def test_compare_says_which_figures_are_of_the_training_phase(capsys, published):
    told = json.loads(published.read_text())
    told["derived"] |= {"samples_per_second": 24.0}
    published.write_text(json.dumps(told))
    assert run("compare", str(published), "--markdown") == 0
    covered = capsys.readouterr().out.partition("What the figures cover:")[2]
    assert "the whole run, set-up and evaluation included; samples/s: the training phase alone." in covered


def test_a_card_whose_metadata_does_not_load_gets_no_advice_for_python(capsys, published):
    pytest.importorskip("huggingface_hub", reason="the extra 'card' is not installed")
    Path("card.md").write_text("---\nmodel-index: 3\n---\n", encoding="utf-8")
    assert run("card", str(published), "--readme", "card.md") == 2
    error = capsys.readouterr().err
    assert error.startswith("greenml: card.md: its metadata does not load as a model card's: ")
    assert "ignore_metadata_errors" not in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--footprint",), "--footprint goes with --markdown"),
        (("--lbs", "--csv"), "--lbs goes with --markdown or alone; --csv has SI units"),
        (("--explain", "--markdown"), "--explain is a report of its own; leave out --markdown"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(capsys, published, words, says):
    assert run("report", str(published), *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (-1.0, "-100.0%"),
        (-0.99994, "-99.994%"),
        (-0.9995, "-99.95%"),
        (-0.999, "-99.9%"),
        (0.01, "+1.0%"),
        (37, "x 38"),
    ],
)
def test_a_change_is_all_of_it_only_where_nothing_is_left(ratio, words):
    assert _format.signed(ratio) == words


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_whose_person_wants_them(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert _terminal.has_colors(_Terminal())
    assert not _terminal.has_colors(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not _terminal.has_colors(_Terminal())
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not _terminal.has_colors(_Terminal())


ENCODINGS = ["latin-1", "cp1252", "shift_jis"]
# Of Windows, of other alphabets, and half a character.
FOREIGN = "caf\u00e9 \u2013 \u201cna\u00efve\u201d \u00b1 \u65e5\u672c \u0440\u0443\u0441 \U0001f331 CO\u2082"
SURFACE = [
    ("--help",), *((name, "--help") for name in COMMANDS),
    *(("report", "run.json", *words) for words in (
        (), ("--markdown",), ("--markdown", "--footprint"), ("--json",), ("--csv",), ("--latex",), ("--explain",),
        ("--explain", "emissions"),
    )),
    ("card", "run.json"), ("card", "run.json", "--style", "hub"),
    ("card", "run.json", "--readme", "card.md", "--check"),
    *(("compare", "run.json", "run.json", "other.json", *words) for words in (
        (), ("--markdown",), ("--csv",), ("--json",), ("--baseline", FOREIGN),
    )),
    ("what-if", "run.json"), ("what-if", "run.json", "--json"), ("advise", "run.json", "--all"),
    ("advise", "run.json", "--json"), ("estimate", "--sku", "ND40rs_v2", "--gpu-hours", "8", "--region", "westus2"),
    ("estimate", "--sku", "ND40rs_v2", "--gpu-hours", "8", "--json"),
    ("skus",), ("regions",), ("prices", "ND40rs_v2"), ("prices", "ND40rs_v2", "--csv"),
    ("prices", "ND40rs_v2", "--json"),
    ("doctor",), ("finish", "killed.json"), ("watch", "killed.json"), ("report", "killed.json"),
    ("run", "--quiet", "--output", "new.json", "--", sys.executable, "-c", ""),
    ("report", f"{FOREIGN}.json"), (FOREIGN,), ("skus", FOREIGN), ("regions", FOREIGN), ("report", "--region", FOREIGN),
    ("prices", FOREIGN), ("watch", FOREIGN), ("merge", FOREIGN), ("finish", FOREIGN),
    ("import", "--output", "new.json", "--codecarbon", FOREIGN),
]  # fmt: skip

OTHERS = [  # a table, text, a card, JSON, another's table, and an error of one line
    ("report", "run.json"), ("report", "run.json", "--markdown"), ("report", "run.json", "--explain"),
    ("card", "run.json"), ("report", "run.json", "--json"), ("compare", "run.json", "run.json", "other.json"),
    ("watch", "killed.json"), ("report", f"{FOREIGN}.json"), (FOREIGN,),
]  # fmt: skip


@pytest.fixture
def foreign(published: Path) -> Path:
    """The same record with text of many alphabets wherever a record has text of somebody else; and a killed run's."""
    told = json.loads(published.read_text())
    told |= {"name": FOREIGN, "notes": [{"code": "x", "text": FOREIGN}]}
    told["params"][FOREIGN] = FOREIGN
    told["metrics"] = {f"eval_{FOREIGN}": 0.5, "eval_loss": 1.0, "epoch": 1.0}
    for device in told["devices"]:
        device["name"] = FOREIGN
    published.write_text(json.dumps(told))
    (published.parent / "other.json").write_text(json.dumps(told | {"name": "other", "run_id": "2"}))
    run_dir = published.parent / "killed.trace"
    run_dir.mkdir()
    header = {
        "greenml_trace": 1,
        "run_id": "r",
        "host": FOREIGN,
        "start_seconds": 1.0,
        "unix_seconds": 1e9,
        "name": FOREIGN,
    }
    lines = [
        header | {"name": FOREIGN},
        {"t": 2.0, "phase": FOREIGN, "begin": 1},
        {"t": 9.0, "note": "user", "text": FOREIGN},
    ]
    (run_dir / "1-h-1-a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    os.utime(run_dir / "1-h-1-a.jsonl", (1e9, 1e9))
    return published


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        *((words, "ascii") for words in SURFACE),  # has the least
        *((words, encoding) for words in SURFACE if words in OTHERS for encoding in ENCODINGS),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_any_command_writes_in_any_encoding(words, encoding, foreign, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="the extra 'card' is not installed")
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    code = run(*words)
    for stream in (out, error):
        stream.flush()
    texts = [stream.buffer.getvalue().decode(encoding) for stream in (out, error)]
    assert "Traceback" not in texts[1]
    if FOREIGN in words[-1] and words[0] != "compare":
        assert code == 2
        assert texts[1].count("\n") == 1
    else:
        assert code in {0, 1}
        assert texts[0] or texts[1]
    if encoding == "ascii" and words == ("report", "run.json"):
        assert "+/-" in texts[0] or "+/-" not in _in_utf8(words, monkeypatch).replace("\u00b1", "+/-")
        assert 'cafe - "naive" +/- ?? ??? ? CO2' in texts[0]
    if "--json" in words:
        assert json.loads(texts[0]) == json.loads(_in_utf8(words, monkeypatch))


@pytest.mark.parametrize(
    "words",
    [("report", "run.json"), ("compare", "run.json", "other.json"), ("what-if", "run.json"), ("skus",), ("--help",),
     ("report", f"{FOREIGN}.json")],
    ids=" ".join,
)  # fmt: skip
def test_a_command_whose_output_was_closed_ends_as_any_other(words, foreign, monkeypatch):
    """As by ">&-" in a shell, and for some services."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert run(*words) == (2 if FOREIGN in words[-1] else 0)
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_a_help_text_whose_reader_is_gone_is_no_failure(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def fileno(self):
            raise OSError(errno.EBADF, "not a file")

    monkeypatch.setattr(sys, "stdout", Gone())
    assert run("prices") == 0


def _in_utf8(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    monkeypatch.setattr(sys, "stdout", out)
    run(*words)
    out.flush()
    return out.buffer.getvalue().decode()


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": "C"},
    ],
    ids=lambda variables: " ".join(f"{name}={value}" for name, value in variables.items()),
)
@pytest.mark.parametrize("words", [("report", "run.json"), ("doctor",)], ids=" ".join)
def test_a_process_with_another_encoding(words, variables, foreign):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"} | variables
    ended = subprocess.run(
        [sys.executable, "-m", "greenml", *words], env=environment, capture_output=True, check=False, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = ended.stdout.decode(variables.get("PYTHONIOENCODING", "ascii"))
    assert words[0] == "doctor" or "\u00b1 ?? ??? ?" in text.replace("+/-", "\u00b1")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("+SUM(A1)", "'+SUM(A1)"), ("-2+3", "'-2+3"), ("@x", "'@x"), ("\t=1", "'=1"),
        ("\r=1", "'=1"),
        ("\tx", "'x"), ("\uff1d1", "'\uff1d1"), ("-5", "-5"), ("+1e-3", "+1e-3"), (-5, -5), (-0.5, -0.5), (None, None),
        ("t5-3b", "t5-3b"), ("", ""), ("a=b", "a=b"), ("-", "'-"), (True, True),
    ],
)  # fmt: skip
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(cell, written):
    assert redaction.csv_cell(cell) == written


def test_csv_reports_quote_formulas_and_keep_numbers(capsys, published):
    told = json.loads(published.read_text())
    for device in told["devices"]:
        device["name"] = "=HYPERLINK(1)"
    told["name"] = "@me"
    told["metrics"] = {"=1+1": -0.5}
    published.write_text(json.dumps(told))
    assert run("report", str(published), "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["name"] for row in rows if row["row"] == "device"} == {"'=HYPERLINK(1)"}
    assert all(float(row["energy_joules"]) > 0 for row in rows if row["row"] == "device" and row["energy_joules"])
    assert run("compare", str(published), "--csv", "--metric", "=1+1") == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row["name"] == "'@me"
    assert [row[name] for name in row if name.endswith("=1+1")] == ["-0.5"]


@pytest.mark.parametrize(
    "words",
    [
        ("report", "run.json", "--markdown", "--json"), ("report", "run.json", "--json", "--markdown"),
        ("report", "run.json", "--csv", "--latex"), ("report", "run.json", "--json", "--csv"),
        ("compare", "run.json", "--markdown", "--csv"), ("compare", "run.json", "--json", "--csv"),
        ("prices", "ND40rs_v2", "--json", "--csv"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_two_formats_at_once_are_refused(capsys, published, words):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"greenml: give --\w+ or --\w+, not both; see 'greenml [\w ]+ --help'\n", error)
    assert all(word in error for word in words if word.startswith("--"))


@pytest.mark.parametrize("words", [("prices", "ND40rs_v2"), ("regions",)], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_failure(words, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "greenml", *words], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_narrow_terminal_does_without_columns_and_says_which(published):
    found = what_if.what_if(record_file.read(published))
    wide, narrow = what_if.render(found), what_if.render(found, table_width=80)
    assert "basis" in wide
    assert "a wider terminal" not in wide
    assert "(a wider terminal, a file and --json have basis, PUE, g/kWh too)" in narrow
    regions = narrow.partition("Regions, by carbon")[2].partition("Regions, by cost")[0]
    assert max(map(len, regions.splitlines())) <= 80
    assert re.search(r"azure/eastus +226\.1 g +-0\.2%  +\$16\.10  \+0\.0091%", regions)
