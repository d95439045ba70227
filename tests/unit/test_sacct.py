"""What Slurm's own accounting wrote of jobs that ran (tests/data/sacct), as a meter."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from scripted_run import Stage
from scripted_run import record as scripted

from greenml.analysis.reconcile.compare import reconcile
from greenml.analysis.reconcile.meters import Meter, read
from greenml.errors import RecordError
from greenml.record.schema import RunRecord

DATA = Path(__file__).resolve().parents[1] / "data" / "sacct"
WATTS = 200.0  # of each node
STARTED = datetime(2026, 11, 29, 18, 11, 35, tzinfo=timezone.utc)  # job 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A record of 12 s at 100 W."""
    stages = [Stage("train", 12, watts=lambda second, gpu: 100.0)]
    return scripted(tmp_path_factory.mktemp("scripted") / "run.trace", stages)


def meter(name: str, job: int, *records: RunRecord) -> Meter:
    [made] = read(f"sacct:{DATA / name},run={job},boundary=node-dc,exclusive=yes", records)
    return made


@pytest.mark.parametrize(
    ("name", "job", "joules", "seconds"),
    [
        ("no-extern.txt", 3, 1409, 7),  # the batch step; the job's row has the sum of the others
        ("no-extern.json", 3, 1409, 7),
        ("no-srun.txt", 1, 1211, 6),  # the job's row is empty
        ("extern.txt", 3, 1439, 8),
        ("parsable.txt", 3, 1439, 8),
        ("requeued.txt", 2, 633 + 1602, 4 + 8),  # the second attempt's extern step has 0
        ("requeued.json", 2, 633 + 1602, 4 + 8),
        ("requeued-last.txt", 2, 1602, 8),
        ("array.txt", 9, 406, 2),
        ("failed.txt", 5, 202, 1),
        ("cancelled.txt", 6, 526, 3),
        ("two-nodes.txt", 1, 2002, 5),  # the step on both nodes
        ("two-nodes-extern.txt", 1, 2096, 6),
        ("two-nodes-extern.txt", 2, 1696, 4),
    ],
)
def test_a_job_has_the_energy_of_its_nodes(name: str, job: int, joules: float, seconds: float):
    made = meter(name, job)
    assert (made.joules, made.seconds, made.why) == (joules, seconds, "")
    nodes = 2 if name.startswith("two") else 1
    assert made.joules == pytest.approx(WATTS * nodes * made.seconds, abs=WATTS * nodes * 1.05)  # whole seconds


@pytest.mark.parametrize(
    ("name", "job", "why"),
    [
        ("none.txt", 3, "AcctGatherEnergyType is not set"),
        ("none.txt", 1, "AcctGatherEnergyType is not set"),
        ("none.json", 1, "AcctGatherEnergyType is not set"),
        ("set-back.txt", 1, "a node's counter was set back"),
        ("set-back.json", 1, "a node's counter was set back"),
        ("two-nodes.txt", 2, "none of the job's steps is known to span its 2 nodes"),
        ("two-nodes.txt", 3, "none of the job's steps is known to span its 2 nodes"),
        ("running.json", 6, "the job has not ended"),
        ("pending.json", 8, "the job has not ended"),
    ],
)
def test_a_job_without_a_figure_says_why(name: str, job: int, why: str, run: RunRecord):
    made = meter(name, job)
    assert made.joules is None
    assert why in made.why
    assert why in reconcile([run], made).why


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("running.txt", "no job in it that has ended"),
        ("time-relative.txt", "'18:11:35' is not a date; print it with: SLURM_TIME_FORMAT=standard sacct -P"),
        ("time-european.txt", "'29/11/2026 18:11:35' is not a date"),
        ("no-header.txt", "no column JobIDRaw, ConsumedEnergyRaw, Start, End; print it with: sacct -P -D -o JobIDRaw"),
        ("aligned.txt", "no column JobIDRaw"),
        ("formatted.txt", "no column JobIDRaw, ConsumedEnergyRaw; print it with"),
    ],
)
def test_what_cannot_be_read_says_how_to_print_it(name: str, answer: str):
    with pytest.raises(RecordError, match=answer):
        meter(name, 3)


@pytest.mark.parametrize(
    ("name", "zone", "known"),
    [
        ("time-standard.txt", "UTC0", False),
        ("time-kolkata.txt", "IST-5:30", False),
        ("time-unix.txt", "IST-5:30", True),
    ],
)
def test_times_are_of_the_zone_in_which_sacct_ran(name: str, zone: str, known: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        made = meter(name, 3)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (made.start, made.end) == (STARTED.timestamp(), STARTED.timestamp() + 8)
    assert (made.clock_doubt_seconds == 0) == known


def test_a_requeued_job_is_held_against_all_of_its_attempts(run: RunRecord):
    starts = [STARTED - timedelta(seconds=5), STARTED + timedelta(seconds=2)]
    attempts = [
        run.attempts[0].model_copy(update={"number": number, "started": start, "seconds": seconds})
        for number, (start, seconds) in enumerate(zip(starts, (4.0, 8.0), strict=True), 1)
    ]
    environment = run.environment.model_copy(update={"jobs": {"slurm_job": "2", "slurm_restarts": "1"}})
    requeued = run.model_copy(update={"attempts": attempts, "environment": environment, "started": starts[0]})
    devices = run.total().it_energy_joules.value
    result = reconcile([requeued], meter("requeued.json", 2, requeued))
    assert (result.scope, result.left_over_joules) == ("run", pytest.approx(633 + 1602 - devices))
    result = reconcile([requeued], meter("requeued-last.txt", 2, requeued))
    assert result.verdict == "cannot be compared"
    assert "the record is of 2 attempts, requeued-last.txt has 1: print all, with sacct -D or --json" in result.why


def test_of_a_heterogeneous_job_one_component_is_not_the_run(run: RunRecord):
    hosts = [run.hosts[0].model_copy(update={"name": name}) for name in ("n1", "n2")]
    made = meter("two-nodes-extern.txt", 4, run.model_copy(update={"hosts": hosts}))
    assert made.joules is None
    assert "the run was on 2 hosts, the job on 1" in made.why


def test_energy_of_32_bits_is_not_taken_where_it_may_have_wrapped(tmp_path: Path):
    """``sacct --json`` of Slurm 22.05: a job of 8 nodes and a day may have used more than 2^32 J."""
    content = json.loads((DATA / "no-extern.json").read_text())
    [job] = content["jobs"]
    job["allocation_nodes"], job["time"]["end"] = 8, job["time"]["start"] + 86400
    (tmp_path / "long.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="writes energy in 32 bits, too few for job 3; print it with: sacct -P"):
        read(f"sacct:{tmp_path}/long.json", [])
