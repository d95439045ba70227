"""What a Trainer's run says of budgets, and of work that is done twice; no framework is needed for it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

import greenml
from greenml.integrations._trainer_run import Budget
from greenml.trace.lines import device_line
from greenml.trace.types import Device


def test_a_budget_that_cannot_act_says_so_once() -> None:
    resumed = greenml.RunningTotals(5000.0, None, None, None, {})
    budget = Budget(0.01, None, 1.0, "dedicated", dry_run=False)
    assert budget.cannot_act(resumed) == ""  # the first readings are yet to come, whatever was before
    budget = Budget(0.01, None, 1.0, "dedicated", dry_run=False, patience_seconds=0.0)
    later = dataclasses.replace(resumed, energy_joules=300.0)
    assert budget.cannot_act(later) == "max_usd cannot act: no dedicated price of this run's machines is known"
    assert budget.cannot_act(later) == ""
    assert budget.exceeded(later) == ""


# Lost work: by what the attempts' traces tell of their steps.

START_SECONDS, ATTEMPT_SECONDS, SECONDS_A_STEP = 1000.0, 60.0, 5.0


def write_attempt(
    folder: Path, number: int, steps: range, *, saved: tuple[int, ...], status: str | None, watts: float | None = 100.0
) -> None:
    """Write the trace of an attempt: a step each 5 s from its 10th second on, and a CPU of constant power."""
    begun = START_SECONDS + number * 1000.0
    header = {
        "greenml_trace": 1, "run_id": "r", "attempt": number, "start_seconds": begun, "unix_seconds": 1.7e9 + begun,
        "host": "h", "pid": 4_000_000 + number, "boot_id": "b", "host_facts": {}, "settings": {},
    }  # fmt: skip
    lines: list[dict[str, Any]] = [header]
    device = Device(kind="cpu", id="package-0", name="CPU", method="counter")
    lines.append({"t": begun, **device_line("0", device)})
    for second in range(int(ATTEMPT_SECONDS) + 1):
        energy = None if watts is None else watts * second
        lines.append({"t": begun + second, "d": {"0": [0.0, energy]}})
    for place, step in enumerate(steps):
        at = begun + 10.0 + place * SECONDS_A_STEP
        lines.append({"t": at, "step": step, "steps": 20, **({"saved": True} if step in saved else {})})
    if status is not None:
        lines.append({"t": begun + ATTEMPT_SECONDS, "status": status, "error": None})
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{number}-h-{4_000_000 + number}-abc.jsonl").write_text(text)


Attempts = list[tuple[range, tuple[int, ...], str | None]]


@pytest.mark.parametrize(
    ("attempts", "seconds", "step"),
    [
        # Killed 4 steps (of 5 s) after the checkpoint, and 15 s after its last step: 60 - (10 + 5 * 5) s are lost.
        ([(range(10), (5,), None), (range(5, 9), (), "completed")], 25.0, 5),
        # Twice from the same checkpoint: the second attempt is lost with all that it did.
        ([(range(10), (5,), None), (range(5, 7), (), None), (range(5, 9), (), "completed")], 25.0 + 60.0, 5),
        # Twice, each from its own checkpoint.
        ([(range(8), (5,), None), (range(5, 12), (10,), None), (range(10, 13), (), "completed")], 25.0 + 25.0, 10),
        # No checkpoint was resumed from.
        ([(range(10), (), "failed"), (range(4), (), "completed")], 60.0, 0),
        # A checkpoint that nobody marked as one: the step itself tells when.
        ([(range(10), (), None), (range(7, 9), (), "completed")], 60.0 - 45.0, 7),
        # A budget ended the first attempt with its checkpoint, or another training followed: nothing is lost.
        ([(range(10), (9,), "completed"), (range(9, 12), (), "completed")], None, None),
        ([(range(10), (), "completed"), (range(4), (), "completed")], None, None),
        # An attempt that did not train.
        ([(range(10), (5,), None), (range(0), (), "completed")], None, None),
    ],
)
def test_work_lost_is_what_was_done_after_the_checkpoint(
    tmp_path: Path, attempts: Attempts, seconds: float | None, step: int | None
) -> None:
    folder = tmp_path / "run.trace"
    for number, (steps, saved, status) in enumerate(attempts, start=1):
        write_attempt(folder, number, steps, saved=saved, status=status)
    record = greenml.open_record(tmp_path / "run.json")
    notes = [note.text for note in record.notes if note.code == "lost-work"]
    if seconds is None:
        assert "lost_work" not in record.trainer
        assert not notes
        return
    lost = record.trainer["lost_work"]
    assert lost["seconds"] == pytest.approx(seconds, abs=1e-3)
    assert lost["energy_joules"] == pytest.approx(100.0 * seconds, rel=1e-3)
    assert lost["resumed_step"] == step
    [note] = notes
    assert note.startswith(f"lost work: {seconds:.1f} s, ")


def test_work_lost_that_is_not_known_says_so(tmp_path: Path) -> None:
    """No sensor told any energy; and a checkpoint that was saved while greenml was not there."""
    write_attempt(tmp_path / "run.trace", 1, range(10), saved=(5,), status=None, watts=None)
    write_attempt(tmp_path / "run.trace", 2, range(5, 9), saved=(), status="completed", watts=None)
    record = greenml.open_record(tmp_path / "run.json")
    assert record.trainer["lost_work"] == {"seconds": pytest.approx(25.0), "energy_joules": None, "resumed_step": 5}
    [note] = [note.text for note in record.notes if note.code == "lost-work"]
    assert note.startswith("lost work: 25.0 s, energy not known of earlier attempts, after the checkpoint of step 5")

    write_attempt(tmp_path / "other.trace", 1, range(10), saved=(5,), status=None)
    write_attempt(tmp_path / "other.trace", 2, range(12, 15), saved=(), status="completed")
    record = greenml.open_record(tmp_path / "other.json")
    assert record.trainer["lost_work"] == {"seconds": None, "energy_joules": None, "resumed_step": 12}
    [note] = [note.text for note in record.notes if note.code == "lost-work"]
    assert note == "lost work: not known; no attempt tells when the checkpoint of step 12 was saved"


def test_what_came_after_the_end_that_was_given_is_no_part_of_the_run(tmp_path: Path) -> None:
    run = greenml.track(tmp_path / "run.json", price_per_hour=3600.0, interval=0.05).start()
    time.sleep(0.3)
    end = time.monotonic()
    time.sleep(0.7)
    record = run.stop(end_seconds=end)
    assert record is not None
    header = json.loads(next((tmp_path / "run.trace").glob("*.jsonl")).read_text().splitlines()[0])
    assert record.duration_seconds == pytest.approx(end - header["start_seconds"], abs=1e-6)
    assert record.total().cost_usd["dedicated"].value == pytest.approx(record.duration_seconds)  # type: ignore[union-attr]
    assert greenml.open_record(tmp_path / "run.json").duration_seconds == record.duration_seconds


def test_running_totals_take_the_place_that_the_machine_tells_later(tmp_path: Path) -> None:
    run = greenml.track(tmp_path / "run.json", sku="ND96asr_v4", region="auto").start()
    try:
        assert run._recorder is not None
        until = time.monotonic() + 30
        while run._recorder.place is None and time.monotonic() < until:  # the machine is asked in another thread
            time.sleep(0.01)
        assert run._recorder.place == {}
        assert run.totals().cost_usd == {}
        run._recorder.place = {"cloud": "azure", "region": "westus2", "from": "azure metadata"}
        until = time.monotonic() + 30
        while not (totals := run.totals()).cost_usd and time.monotonic() < until:  # they are made in the background
            time.sleep(0.05)
        assert totals.cost_usd["dedicated"] == pytest.approx(totals.seconds * 27.197 / 3600, rel=0.01)
    finally:
        run.stop()
