"""The carbon intensity is asked for while a run goes on: nobody waits, nothing is lost, and no key is written."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from greenml.accounting import hourly
from greenml.analysis import record_search
from greenml.record import file as records
from greenml.record.schema import RunRecord
from greenml.run import finish, intensity_poller
from greenml.settings import Settings
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace import trace_paths

from .http_service import Asked, Reply, json_reply, serve

TOKEN = "em-t0ken-5b1dd2c7"
PROGRAM = """
import logging, os, sys, time
import greenml
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
until, asked = os.environ.get("UNTIL", ""), os.environ.get("ASKED", "")
with greenml.track("run.json", region="uksouth") as run:
    with run.phase("train"):
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5 or (until and until not in "".join(
            one.read_text() for one in run.run_dir.glob("*.jsonl"))):
            sum(range(10_000))
        while asked and not os.path.exists(asked):
            time.sleep(0.02)
"""
UK = "GREENML_UK_GRID_URL"


def british(asked: Asked) -> Reply:
    """Half hours of 100 g/kWh, as NESO documents them."""
    first, last = (datetime.strptime(part, "%Y-%m-%dT%H:%MZ") for part in asked.path.split("/")[2:4])
    rows = []
    while first < last:
        end = first + timedelta(minutes=30)
        told = {"forecast": 90, "actual": 100, "index": "low"}
        rows.append({"from": f"{first:%Y-%m-%dT%H:%MZ}", "to": f"{end:%Y-%m-%dT%H:%MZ}", "intensity": told})
        first = end
    return json_reply({"data": rows})


def environment(**more: str) -> dict[str, str]:
    hidden = ("GREENML_", "CUDA_", "ELECTRICITY_", "WATTTIME_", "http_proxy", "HTTP_PROXY")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return plain | {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"} | more


def run(folder: Path, until: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program, which tracks itself, until a text is in its trace."""
    command, more = [sys.executable, "-c", PROGRAM], more | {"UNTIL": until}
    return subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=120, check=True
    )


def emitted(record: RunRecord) -> tuple[float, float]:
    """The run's emissions, and its energy with PUE in kWh."""
    total = record.total()
    assert total is not None
    assert total.emissions_grams.value is not None
    assert total.facility_energy_joules.value is not None
    return total.emissions_grams.value, total.facility_energy_joules.value / 3.6e6


def test_the_answers_are_in_the_trace_and_make_the_emissions(tmp_path: Path):
    with serve(british) as service:
        run(tmp_path, '"slots"', GREENML_INTENSITY="uk_grid:national", **{UK: service.url})
        assert len(service.asked) == 1, "half an hour is known with one answer"
    record = records.read(tmp_path / "run.json")
    grams, kwh = emitted(record)
    assert grams == pytest.approx(kwh * 100, rel=1e-9)
    course = record.factors.intensity_series
    assert course is not None
    assert (course.provider, course.area, course.energy_from) == ("uk_grid", "Great Britain", "curves")
    assert course.scopes["train"].covered_joules > 0
    assert [note.text for note in record.notes if "intensity" in note.code] == []
    assert finish.make(tmp_path / "run.trace").totals == record.totals, "the traces hold it all"


def test_a_file_is_found_from_another_folder_and_named_without_its_own(tmp_path: Path):
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    rows = "".join(f"{(now + timedelta(hours=at)).isoformat()},{50 + at}\n" for at in range(-1, 3))
    (tmp_path / "grid.csv").write_text("time,g_per_kwh\n" + rows)
    moving = PROGRAM.replace('with run.phase("train"):', 'os.chdir("/")\n    with run.phase("train"):').replace(
        '"run.json"', 'os.path.abspath("run.json")'
    )
    more = {"GREENML_INTENSITY": "grid.csv", "UNTIL": '"slots"'}
    subprocess.run(
        [sys.executable, "-c", moving],
        cwd=tmp_path,
        env=environment(**more),
        capture_output=True,
        timeout=120,
        check=True,
    )
    record = records.read(tmp_path / "run.json")
    grams, kwh = emitted(record)
    assert 49.9 < grams / kwh < 51.1
    traces = b"".join(path.read_bytes() for path in (tmp_path / "run.trace").glob("*.jsonl"))
    assert b'"intensity":"grid.csv"' in traces
    assert str(tmp_path / "grid.csv").encode() not in traces


@pytest.mark.parametrize("how", ["silent", "stall", "endless", "drip_headers"])
def test_a_service_that_does_not_end_delays_nothing(tmp_path: Path, how):
    """The run is over while its one question is still unanswered: had it waited, it would have asked again."""
    asked: list[Asked] = []

    def reply(one: Asked) -> Reply:
        asked.append(one)
        (tmp_path / "asked").touch()  # the run waits for the question, not for the answer
        return Reply(200, b'{"data": []}', how=how)

    with serve(reply) as service:
        told = {UK: service.url, "ASKED": str(tmp_path / "asked")}
        run(tmp_path, GREENML_INTENSITY="uk_grid:national", **told)
        assert len(asked) == 1
    record = records.read(tmp_path / "run.json")
    assert record.status == "completed"
    assert record.duration_seconds > 1.4
    assert record.phase("train") is not None
    codes = [note.code for note in record.notes]
    assert "intensity-missing" in codes
    grams, kwh = emitted(record)
    assert record.factors.carbon_intensity is not None
    assert record.factors.carbon_intensity.scope != "series"
    assert grams == pytest.approx(kwh * record.factors.carbon_intensity.value, rel=1e-9)


def test_without_a_network_the_yearly_figure_counts_and_both_are_said(tmp_path: Path):
    with serve([Reply(403)]) as service:
        run(tmp_path, "intensity-unanswered", GREENML_INTENSITY="uk_grid:national", **{UK: service.url})
    record = records.read(tmp_path / "run.json")
    notes = {note.code: note.text for note in record.notes}
    assert "uk_grid: it refuses the request (HTTP 403)" in notes["intensity-unanswered"]
    assert "yearly figure" in notes["intensity-missing"]
    grams, kwh = emitted(record)
    assert record.factors.carbon_intensity is not None
    assert grams == pytest.approx(kwh * record.factors.carbon_intensity.value, rel=1e-9)


def test_a_killed_run_keeps_what_was_answered(tmp_path: Path):
    with serve(british) as service:
        more = {"GREENML_INTENSITY": "uk_grid:national", UK: service.url}
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=environment(UNTIL="(never there)", **more),
            stderr=subprocess.PIPE,
        )
        try:
            folder = tmp_path / "run.trace"
            while not any(
                '"d":' in (text := path.read_text()) and '"slots"' in text for path in folder.glob("*.jsonl")
            ):
                assert child.poll() is None
                time.sleep(0.05)
            time.sleep(1.5)
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
    record = record_search.open_record(tmp_path / "run.json")
    assert record.status == "killed"
    grams, kwh = emitted(record)
    assert grams == pytest.approx(kwh * 100, rel=1e-9)


def test_one_process_of_a_run_asks(tmp_path: Path):
    """A parent that watches, and two ranks below it, all told to ask."""
    ranks = (
        "import os, subprocess, sys\n"
        f"program = {PROGRAM!r}\n"
        "children = [subprocess.Popen([sys.executable, '-c', program], env=os.environ | {'RANK': str(rank), "
        "'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29871'}) "
        "for rank in range(2)]\n"
        "sys.exit(max(child.wait() for child in children))\n"
    )
    with serve(british) as service:
        more = {"GREENML_INTENSITY": "uk_grid:national", "GREENML_REGION": "uksouth", UK: service.url}
        more |= {"UNTIL": '"slots"'}
        command = [sys.executable, "-m", "greenml", "run", "--quiet", "--", sys.executable, "-c", ranks]
        subprocess.run(command, cwd=tmp_path, env=environment(**more), capture_output=True, timeout=120, check=True)
        assert len(service.asked) == 1
    traces = [trace_file.read(path) for path in trace_paths(tmp_path / "run.trace")]
    assert len(traces) == 3
    assert [bool(trace.intensities) for trace in traces if trace.header["watches"]] == [True]


def test_two_ranks_alone_ask_once(tmp_path: Path):
    with serve(british) as service:
        children = []
        for rank in range(2):
            more = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            more |= {"MASTER_PORT": "29872", "GREENML_INTENSITY": "uk_grid:national", UK: service.url}
            more |= {"UNTIL": '"slots"'}
            children.append(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment(**more), stderr=subprocess.DEVNULL
                )
            )
        assert [child.wait(120) for child in children] == [0, 0]
        assert len(service.asked) == 1


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def electric(asked: Asked) -> Reply:
    assert asked.headers["auth-token"] == TOKEN
    at = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    row = {"zone": "GB", "carbonIntensity": 123, "datetime": f"{at:%Y-%m-%dT%H:%M:%S.000Z}", "isEstimated": True}
    return json_reply(row if asked.path.endswith("latest") else {"zone": "GB", "history": [row], "data": [row]})


def scolding(asked: Asked) -> Reply:
    return json_reply({"error": f"unknown token {asked.headers['auth-token']}"}, 400)


@pytest.mark.parametrize("service_is", ["well", "scolding", "gone"])
def test_a_key_is_in_no_file_and_no_log(tmp_path: Path, service_is):
    """Show 5: every file that greenml writes, and all that it says with everything logged."""
    with serve(electric if service_is == "well" else scolding) as service:
        url = service.url if service_is != "gone" else "http://127.0.0.1:9"
        until = '"slots"' if service_is == "well" else "intensity-unanswered" if service_is == "scolding" else ""
        more = {"GREENML_INTENSITY": "electricity_maps", "GREENML_ELECTRICITY_MAPS_URL": url,
                "ELECTRICITY_MAPS_TOKEN": TOKEN, "GREENML_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip
        said = [run(tmp_path, until, **more)]
        commands = [
            ["report", "run.json", "--intensity", "electricity_maps"],
            ["report", "run.json", "--json"],
            ["run", "--output", "two.json", "--intensity", "electricity_maps", "--", sys.executable, "-c", "pass",
             f"ELECTRICITY_MAPS_TOKEN={TOKEN}", f"plain{TOKEN}word"],
        ]  # fmt: skip
        for words in commands if service_is != "gone" else commands[1:]:
            command = [sys.executable, "-m", "greenml", *words]
            said.append(
                subprocess.run(
                    command, cwd=tmp_path, env=environment(**more), capture_output=True, text=True, timeout=120
                )
            )
        if service_is == "well":
            assert service.asked, "the key was used"
            assert "123 g CO2e/kWh" in said[1].stdout
            record = records.read(tmp_path / "run.json")
            assert record.factors.intensity_series is not None
        elif service_is == "scolding":
            assert said[1].returncode == 2
            assert "did not accept the request (HTTP 400): unknown token ***" in said[1].stderr
            assert said[1].stderr.count("\n") == 1
    written = files_of(tmp_path)
    assert {"run.json", "two.json"} <= written.keys()
    for name, content in written.items():
        assert TOKEN.encode() not in content, name
    for one in said:
        assert TOKEN not in one.stdout + one.stderr


def test_afterwards_a_report_asks_for_the_hours_of_the_run(tmp_path: Path):
    run(tmp_path)
    before = files_of(tmp_path)
    with serve(british) as service:
        command = [sys.executable, "-m", "greenml", "report", "run.json", "--intensity", "uk_grid:national", "--json"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(**{UK: service.url}), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout))
    grams, kwh = emitted(record)
    assert grams == pytest.approx(kwh * 100, rel=1e-9)
    assert files_of(tmp_path) == before, "a report writes nothing"
    wrong = subprocess.run(
        [*command[:6], "uk-gird"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean 'uk_grid'?" in wrong.stderr


def test_who_of_several_processes_asks(tmp_path: Path):
    def writer(name: str, at: float, **more: Any) -> trace_file.TraceWriter:
        header = {"attempt": 1, "host": socket.gethostname(), "start_seconds": 0.0, "unix_seconds": at,
                  "settings": {"intensity": "uk_grid"}}  # fmt: skip
        return trace_file.TraceWriter(tmp_path / f"{name}.jsonl", {**header, **more})

    def asks(trace_writer: trace_file.TraceWriter) -> bool:
        mine = trace_file.read_header(trace_writer.path)
        return intensity_poller.is_turn(mine, trace_writer.path, trace_paths(tmp_path))

    first, second, third = writer("a", 1.0), writer("b", 2.0), writer("c", 3.0)
    rank, silent = writer("d", 0.5, rank=1), writer("e", 0.1, settings={"intensity": ""})
    assert [asks(one) for one in (first, second, third, rank)] == [True, False, False, False]
    first.close()
    assert [asks(one) for one in (second, third)] == [True, False], "one that is gone does not count"
    second.close()
    assert [asks(one) for one in (third, rank)] == [True, False]
    third.close()
    assert asks(rank), "all that came before it are gone"
    parent = writer("f", 4.0, watches=True)
    assert [asks(one) for one in (rank, parent)] == [False, True]
    elsewhere = writer("g", 5.0, attempt=2)
    assert asks(elsewhere)
    node = writer("h", 6.0, attempt=3, rank=8)
    assert not asks(node), "rank 0 writes into another node's folder"
    for one in (rank, silent, parent, elsewhere, node):
        one.close()


def test_another_process_takes_over(tmp_path: Path):
    looks = iter([False, False, True])
    lines: list[dict[str, Any]] = []
    clock = Clock(1.0)
    path = tmp_path / "grid.csv"
    grid(path, ("10:00", 200.0), ("11:00", None))
    watch = intensity_poller.Watch(
        Settings(region="uksouth", intensity=str(path)), START, lines.append, dict,
        turn=lambda: next(looks), now=lambda: clock.now, wait=clock.wait,
    )  # fmt: skip
    watch.run()
    assert clock.waits[:2] == [intensity_poller.TURN_SECONDS] * 2
    assert [line["slots"][0][2] for line in lines if "slots" in line] == [200.0]


# The thread's own work, with a clock of its own

START = datetime(2026, 3, 1, 10, 7, tzinfo=timezone.utc)


class Clock:
    """Time that goes on when somebody waits; ``later`` happens on the way."""

    def __init__(self, hours: float, later: dict[float, Any] | None = None) -> None:
        self.now, self.end = START, START + timedelta(hours=hours)
        self.waits: list[float] = []
        self.later = {START + timedelta(minutes=at): does for at, does in (later or {}).items()}

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        for at in [one for one in self.later if one <= self.now]:
            self.later.pop(at)()
        return self.now >= self.end


def grid(path: Path, *rows: tuple[str, float | None]) -> None:
    path.write_text("time,g_per_kwh\n" + "".join(f"2026-03-01T{at}Z,{g if g is not None else ''}\n" for at, g in rows))


def watched(path: Path, clock: Clock) -> tuple[list[trace_lines.Line], list[str]]:
    """The answers and the notes of a watch over a file that changes."""
    lines: list[trace_lines.Line] = []
    settings = Settings(region="SWE", intensity=str(path))
    watch = intensity_poller.Watch(settings, START, lines.append, dict, now=lambda: clock.now, wait=clock.wait)
    watch.run()
    return [line for line in lines if "slots" in line], [line["text"] for line in lines if "note" in line]


def test_it_asks_when_something_new_is_due_and_writes_what_is_new(tmp_path: Path):
    path = tmp_path / "grid.csv"
    grid(path, ("10:00", 100), ("10:30", 200), ("11:00", None))

    def revised() -> None:
        grid(path, ("10:00", 110), ("10:30", 200), ("11:00", 300), ("11:30", None))

    clock = Clock(1.0, {20: revised})
    answers, notes = watched(path, clock)
    grams = [[slot[2] for slot in line["slots"]] for line in answers]
    assert grams == [[100], [110], [200], [300]], "a slot is written when it begins, and again where it was revised"
    assert notes == []
    times = [START + timedelta(seconds=sum(clock.waits[:count])) for count in range(len(clock.waits))]
    assert START + timedelta(minutes=23, seconds=30) in times, "half a minute after the half hour"
    assert all(60 <= wait <= 300 for wait in clock.waits)


def test_a_last_row_that_turns_out_to_hold_longer_is_written_again(tmp_path: Path):
    """Until the next row is there, the last one holds as long as the one before it."""
    path = tmp_path / "grid.csv"
    grid(path, ("10:00", 100), ("10:15", 200))
    clock = Clock(1.0, {25: lambda: grid(path, ("10:00", 100), ("10:15", 200), ("11:00", 300))})
    answers, _ = watched(path, clock)
    whole = hourly.joined_series([trace_lines.intensity_of(line) for line in answers])
    assert whole is not None
    spans = [(f"{slot.start:%H:%M}", f"{slot.end:%H:%M}", slot.grams_per_kwh) for slot in whole.slots]
    assert spans == [("10:00", "10:15", 100), ("10:15", "11:00", 200), ("11:00", "11:45", 300)]


def test_what_fails_is_noted_once_and_tried_less_and_less_often(tmp_path: Path):
    path = tmp_path / "grid.csv"
    clock = Clock(2.0, {20: lambda: grid(path, ("10:00", 100), ("11:00", 200), ("12:30", None))})
    answers, notes = watched(path, clock)
    assert clock.waits[:3] == [60, 120, 240]
    assert all(wait <= 300 for wait in clock.waits[:5]), "never longer than the provider's own step"
    assert len(notes) == 1
    assert "no such file" in notes[0]
    assert [slot[2] for line in answers for slot in line["slots"]] == [100, 200], "and nothing is lost by it"


def test_the_place_is_waited_for_where_the_cloud_is_asked(tmp_path: Path):
    path = tmp_path / "grid.csv"
    grid(path, ("10:00", 100), ("11:00", None))
    clock, lines, answers = Clock(0.2), [], iter([None, None, {"cloud": "azure", "region": "uksouth"}])
    settings = Settings(region="auto", intensity=str(path))
    found: list[Any] = [None]

    def look() -> Any:
        found[0] = next(answers, found[0])
        return found[0]

    intensity_poller.Watch(settings, START, lines.append, look, now=lambda: clock.now, wait=clock.wait).run()
    assert clock.waits[:2] == [0.5, 0.5]
    assert len(lines) == 1


def test_a_fault_of_its_own_is_a_note_without_its_text(tmp_path: Path):
    lines: list[trace_lines.Line] = []

    def broken() -> Any:
        raise ZeroDivisionError(TOKEN)

    path = tmp_path / "grid.csv"
    grid(path, ("10:00", 100), ("11:00", None))
    intensity_poller.Watch(Settings(region="auto", intensity=str(path)), START, lines.append, broken).run()
    assert [line["note"] for line in lines] == ["intensity-unanswered"]
    assert "ZeroDivisionError" in lines[0]["text"]
    assert TOKEN not in lines[0]["text"]
