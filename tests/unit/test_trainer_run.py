"""What a Trainer's run says of budgets and of lost work where figures are not known; no framework is needed for it."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import greenml
from greenml import accounting
from greenml.integrations._budget import Budget
from greenml.integrations._trainer_run import TrainerRun
from greenml.record import Attempt, Factors, PlaceRecord, Quantity, RunRecord


def test_a_budget_that_cannot_act_says_so_once() -> None:
    resumed = greenml.Totals(5000.0, None, None, None, {})
    budget = Budget(0.01, None, 1.0, "dedicated", dry_run=False)
    assert budget.cannot_act(resumed) == ""  # the first readings are yet to come, whatever was before
    budget = Budget(0.01, None, 1.0, "dedicated", dry_run=False, patience_seconds=0.0)
    later = dataclasses.replace(resumed, energy_joules=300.0)
    assert budget.cannot_act(later) == "max_usd cannot act: no dedicated price of this run's machines is known"
    assert budget.cannot_act(later) == ""
    assert budget.exceeded(later) == ""


def test_work_lost_of_which_the_energy_is_not_known_says_so() -> None:
    """The second attempt's checkpoint was saved while no sensor had told any energy."""
    told: dict[str, Any] = {}
    noted: list[str] = []

    class Told(TrainerRun):
        def describe(self, **more: Any) -> None:
            told.update(more)

        def note(self, text: str, code: str) -> None:
            noted.append(text)

        def totals(self) -> greenml.Totals:
            return greenml.Totals(500.0, None, None, None, {})

    runs = Told({})
    assert runs.kept() == {"seconds": 500.0}
    attempt = Attempt(number=1, started=datetime.now(timezone.utc), seconds=1100.0, ended=None, status="killed")
    known = Quantity(value=3e5, basis="measured")
    used = accounting.totals("run", 1100.0, [], Factors(), 1).model_copy(update={"it_energy_joules": known})
    runs._before = RunRecord(
        greenml_version="0", run_id="r", status="killed", started=attempt.started, ended=None, duration_seconds=1100.0,
        attempts=[attempt], place=PlaceRecord(), factors=Factors(), totals=[used],
    )  # fmt: skip
    runs.tell_lost({"seconds": 500.0}, 10, "dedicated")
    assert noted[0].startswith("lost work: 600.0 s, energy not known of earlier attempts, after the checkpoint of step")
    assert told["lost_work"] == {"seconds": 600.0, "energy_joules": None, "resumed_step": 10}


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
        told = run.totals()
        assert told.cost_usd["dedicated"] == pytest.approx(told.seconds * 27.197 / 3600, rel=0.01)
    finally:
        run.stop()
