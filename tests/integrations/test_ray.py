"""Ray Train's workers and Ray Tune's trials, on a local cluster that a child starts."""

from __future__ import annotations

import importlib.util
import json
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

import greenml
from greenml.record import schema as records

from .shared import run_program

if importlib.util.find_spec("ray") is None or importlib.util.find_spec("torch") is None:
    pytest.skip("Ray (with train and tune) or PyTorch is not installed", allow_module_level=True)

PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import ray, ray.train, ray.tune
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.torch import TorchTrainer
from greenml.integrations.ray import GreenTuneCallback, track_trial, track_worker

SETTINGS = {"price_per_hour": 3.6, "carbon_intensity": 400, "interval": 0.05}

def steps():
    import torch
    torch.manual_seed(0)
    model, losses = torch.nn.Linear(3, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss = model(torch.ones(4, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        time.sleep(0.3)
    return losses

def train(config):
    alone = steps()
    with track_worker(**SETTINGS) as run:
        run.params(learning_rate=0.1)
        with run.phase("train"):
            tracked = steps()
        run.log(loss=tracked[-1])
    if ray.train.get_context().get_world_rank() == 0:
        (config["folder"] / "losses.json").write_text(json.dumps([alone, tracked]))

def stumble(config):
    rank = ray.train.get_context().get_world_rank()
    with track_worker(**SETTINGS) as run:
        with run.phase("train"):
            time.sleep(0.5)
            if not ray.train.get_checkpoint() and not (config["folder"] / "fallen").exists():
                if rank == 0:
                    (config["folder"] / "fallen").touch()
                    raise RuntimeError("rank 0 went wrong")
                time.sleep(60)

def tuned(config):
    (config["folder"] / f"begins-{config['x']}").touch()
    while len(list(config["folder"].glob("begins-*"))) < 2:  # so that two run side by side, also on busy processors
        time.sleep(0.01)
    with track_trial(**SETTINGS) as run:
        run.params({"x": config["x"]})
        with run.phase("train"):
            for step in range(config["steps"]):
                time.sleep(0.3)
                if config["x"] == 3:
                    raise RuntimeError("x is 3")
                ray.tune.report({"score": config["x"]})

if __name__ == "__main__":
    from pathlib import Path
    here = Path(sys.argv[1])
    for attempt in range(3):  # Ray gives up on a node that takes more than half a minute to start
        try:
            ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
            break
        except Exception:
            if attempt == 2:
                raise
            ray.shutdown()
    two = ray.train.ScalingConfig(num_workers=2)
    TorchTrainer(
        train, train_loop_config={"folder": here}, scaling_config=two,
        run_config=ray.train.RunConfig(name="tracked", storage_path=str(here)),
    ).fit()
    DataParallelTrainer(
        stumble, train_loop_config={"folder": here}, scaling_config=two,
        run_config=ray.train.RunConfig(
            name="stumbled", storage_path=str(here), failure_config=ray.train.FailureConfig(max_failures=1)
        ),
    ).fit()
    ray.tune.Tuner(
        tuned, param_space={"x": ray.tune.grid_search([1, 2, 3]), "steps": 4, "folder": here},
        run_config=ray.tune.RunConfig(
            name="sweep", storage_path=str(here), callbacks=[GreenTuneCallback()], stop={"training_iteration": 3},
            verbose=0,
        ),
    ).fit()
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("ray")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    done = run_program(here, PROGRAM, str(here), seconds=900, **quiet)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return here


def devices_once(record):
    devices = [(device.host, device.id) for device in record.devices]
    return len(devices) == len(set(devices))


def test_two_workers_leave_one_record(folder):
    assert [path.name for path in (folder / "tracked").glob("run*.json")] == ["run.json"]
    record = greenml.open_record(folder / "tracked" / "run.json")
    assert (record.status, len(record.attempts), record.attempts[0].processes) == ("completed", 1, 2)
    assert (record.name, record.environment.world_size) == ("tracked", 2)
    assert (record.params["learning_rate"], record.trainer["ran"]["world_size"]) == (0.1, 2)
    assert record.phase("train").count == 1
    assert 1.2 <= record.phase("train").seconds <= record.duration_seconds
    assert devices_once(record)
    cpu = next(device for device in record.devices if device.kind == "cpu")
    assert cpu.usage.covered_seconds <= record.duration_seconds + 0.01
    alone, tracked = json.loads((folder / "losses.json").read_text())
    assert tracked == alone
    assert tracked[0] > tracked[-1] == record.metrics["loss"]


def test_workers_that_start_again_are_another_attempt(folder):
    assert [path.name for path in (folder / "stumbled").glob("run*.json")] == ["run.json"]
    record = greenml.open_record(folder / "stumbled" / "run.json")
    assert [(attempt.status, attempt.processes) for attempt in record.attempts] == [("failed", 2), ("completed", 2)]
    assert (record.status, record.environment.world_size) == ("completed", 2)
    assert record.phase("train").count == 2
    assert devices_once(record)


def test_each_trial_has_a_record_and_the_sweep_their_sum(folder):
    sweep = json.loads((folder / "sweep" / "sweep.json").read_text())
    assert (len(sweep["trials"]), sweep["unmeasured"]) == (3, [])
    records = {name: greenml.open_record(folder / "sweep" / name / "run.json") for name in sweep["trials"]}
    assert sorted(record.params["x"] for record in records.values()) == [1, 2, 3]
    statuses = {record.params["x"]: (record.status, record.error) for record in records.values()}
    # the scheduler stops 1 and 2 at their third report
    assert statuses == {1: ("completed", None), 2: ("completed", None), 3: ("failed", "RuntimeError: x is 3")}
    for name, trial in sweep["trials"].items():
        assert trial["record"]["it_energy_joules"] == records[name].total().it_energy_joules.value
        assert trial["record"]["cost_usd"]["dedicated"] == records[name].total().cost_usd["dedicated"].value
    for figure in ("seconds", "it_energy_joules", "emissions_grams"):
        shares = [trial["share"][figure] for trial in sweep["trials"].values()]
        assert sweep["total"][figure] == pytest.approx(sum(shares))

    # One host: where trials overlap, its hours and joules count once, however many ran.
    spans = sorted((record.started.timestamp(), record.ended.timestamp()) for record in records.values())
    busy, end = 0.0, 0.0
    for start, stop in spans:
        busy, end = busy + max(0.0, stop - max(start, end)), max(end, stop)
    assert sum(record.duration_seconds for record in records.values()) > 1.2 * busy
    assert sweep["total"]["seconds"] == pytest.approx(busy, rel=0.1, abs=0.3)
    assert sweep["total"]["cost_usd"]["dedicated"] == pytest.approx(sweep["total"]["seconds"] / 1000)
    measured = sum(trial["record"]["it_energy_joules"] for trial in sweep["trials"].values())
    # Less where both were measured at once; on busy cores a trial's first reading may come when the other has ended.
    assert 0 < sweep["total"]["it_energy_joules"] <= 1.001 * measured


def test_a_trial_that_ray_ended_before_it_wrote_its_record_has_one_at_the_end(tmp_path):
    """A scheduler that stops a trial early ends its process, which may be at its record by then."""
    from greenml.integrations.ray import GreenTuneCallback

    trials = [SimpleNamespace(path=str(tmp_path / name)) for name in ("stopped", "running", "not-begun")]
    for name in ("stopped", "not-begun"):
        (tmp_path / name).mkdir()
    with greenml.track(tmp_path / "stopped" / "run.json") as run:
        run.params(x=2)
    (tmp_path / "stopped" / "run.json").unlink()
    with greenml.track(tmp_path / "running" / "run.json"):
        GreenTuneCallback().on_experiment_end(trials)
        assert [path.parent.name for path in tmp_path.glob("*/run.json")] == ["stopped"]
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    statuses = {name: trial["status"] for name, trial in sweep["trials"].items()}
    assert (statuses, sweep["unmeasured"]) == ({"stopped": "completed", "running": "running"}, ["not-begun"])
    record = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert (record["status"], record["params"], record["run_id"]) == ("completed", {"x": 2}, run.record.run_id)


def test_what_trials_side_by_side_share_counts_once(tmp_path):
    """Two trials of 100 s and 20 kJ, the second 50 s after the first: 150 s of a host, whose GPU drew 200 W."""
    from greenml.integrations.ray import summarize

    begun = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for number, late in enumerate((0, 50)):
        started = begun + timedelta(seconds=late)
        folder = tmp_path / f"trial_{number}"
        folder.mkdir()
        (folder / "run.json").write_text(record_of(started, 100.0, 200.0).model_dump_json())
    (tmp_path / "trial_2").mkdir()
    sweep = summarize(tmp_path)
    assert sweep["unmeasured"] == ["trial_2"]
    assert sweep["trials"]["trial_0"]["record"]["it_energy_joules"] == 20_000
    assert sweep["trials"]["trial_0"]["share"]["it_energy_joules"] == pytest.approx(15_000)
    assert sweep["total"] == {
        "seconds": pytest.approx(150.0),
        "it_energy_joules": pytest.approx(30_000.0),
        "facility_energy_joules": pytest.approx(36_000.0),
        "emissions_grams": pytest.approx(3.6),
        "cost_usd": {"dedicated": pytest.approx(0.15)},
        "device_energy_joules": {"node/GPU-1": pytest.approx(30_000.0)},
        "at_least": [],
    }


def test_what_a_trial_does_not_know_is_no_zero_in_the_sum_and_no_wrong_tier_is_a_budget(tmp_path, caplog):
    """A trial of 100 s at 200 W without a timeline, and one later without a price and without emissions."""
    from greenml.integrations.ray import SweepBudget, summarize

    begun = datetime(2026, 1, 1, tzinfo=timezone.utc)
    known = record_of(begun, 100.0, 200.0).model_copy(update={"timeline": None})
    other = record_of(begun + timedelta(hours=1), 100.0, 200.0)
    other.totals[0].cost_usd.clear()
    other.totals[0].emissions_grams = records.Quantity(value=None, basis="derived")
    for number, record in enumerate((known, other)):
        (tmp_path / f"trial_{number}").mkdir()
        (tmp_path / f"trial_{number}" / "run.json").write_text(record.model_dump_json())
    total = summarize(tmp_path)["total"]
    assert total["it_energy_joules"] == pytest.approx(40_000)
    assert (total["emissions_grams"], total["cost_usd"]) == (pytest.approx(2.4), {"dedicated": pytest.approx(0.1)})
    assert total["at_least"] == ["emissions_grams", "cost_usd dedicated"]

    with pytest.raises(greenml.SettingsError, match="tier"):
        SweepBudget(tmp_path, max_usd=0.05, tier="dedicatd")
    assert SweepBudget(tmp_path, max_usd=0.05, tier="on-demand").stop_all()
    budget = SweepBudget(tmp_path, max_usd=0.15, max_kwh=1.0)
    assert not budget.stop_all()
    assert {record.message for record in caplog.records} == {
        "greenml: budget: max_usd does not count trial trial_1: what it used is not known"
    }


def record_of(started, seconds, watts):
    """A run on one GPU at constant power, PUE 1.2, 360 g a kWh, 3.6 USD an hour."""
    joules = seconds * watts
    ended = started + timedelta(seconds=seconds)
    told = records.Quantity(value=joules, basis="measured")
    nothing = records.Quantity(value=None, basis="measured")
    return records.RunRecord(
        greenml_version="0",
        run_id=str(started),
        status="completed",
        started=started,
        ended=ended,
        duration_seconds=seconds,
        attempts=[records.AttemptRecord(number=1, started=started, ended=ended, seconds=seconds, status="completed")],
        hosts=[records.Host(name="node")],
        place=records.PlaceRecord(),
        devices=[
            records.DeviceRecord(
                id="GPU-1",
                kind="gpu",
                name="GPU",
                host="node",
                method="counter",
                sensor="nvml",
                usage=records.Usage(energy_joules=joules),
            )
        ],
        factors=records.Factors(),
        totals=[
            records.Totals(
                scope="run",
                seconds=seconds,
                gpu_energy_joules=told,
                cpu_energy_joules=nothing,
                dram_energy_joules=nothing,
                it_energy_joules=told,
                facility_energy_joules=records.Quantity(value=1.2 * joules, basis="derived"),
                emissions_grams=records.Quantity(value=1.2 * joules / 3.6e6 * 360, basis="derived"),
                cost_usd={"dedicated": records.Quantity(value=seconds / 1000, basis="derived")},
            )
        ],
        timeline=records.Timeline(
            step_seconds=1.0, bins=100, series=[records.Series(device="GPU-1", power_watts=[watts] * 100)]
        ),
    )
