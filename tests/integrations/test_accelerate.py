"""GreenTracker in a loop on an Accelerator."""

from __future__ import annotations

import json

import pytest

import greenml

from .shared import Later, break_greenml, run_program

torch, accelerate = Later("torch", "torch"), Later("accelerate", "accelerate")
integration = Later("greenml.integrations.accelerate")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|accelerate)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(torch|accelerate)"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def other_tracker():
    """Stands for TensorBoard or W&B."""

    class Other(accelerate.tracking.GeneralTracker):
        name = "other"
        requires_logging_directory = False

        def __init__(self):
            super().__init__()
            self.rows = []

        @property
        def tracker(self):
            return self.rows

        def log(self, values, step=None, **_):
            self.rows.append(values)

    return Other()


@pytest.fixture(autouse=True)
def forget_the_last_accelerator():
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def train(trackers):
    """Returns the losses."""
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(log_with=trackers or None, cpu=True, gradient_accumulation_steps=2)
    model = torch.nn.Linear(3, 1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(24, 3)), batch_size=4)
    model, optimizer, data = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), data)
    accelerator.init_trackers("test", config={"learning_rate": 0.1, "model": "line"})
    green = next((tracker for tracker in trackers if isinstance(tracker, integration.GreenTracker)), None)
    phase = green.tracker.begin_phase("train") if green else -1
    losses = []
    for step, (batch,) in enumerate(data):
        with accelerator.accumulate(model):
            loss = model(batch).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        accelerator.log({"loss": losses[-1], **(green.figures() if green else {})}, step=step)
    if green:
        assert accelerator.get_tracker("greenml", unwrap=True) is green.tracker
        green.tracker.end_phase(phase)
    accelerator.end_training()
    return losses


def test_a_loop_keeps_its_configuration_and_results(tmp_path):
    green = integration.GreenTracker(tmp_path / "run.json", price_per_hour=3.6, interval=0.05)
    other = other_tracker()
    losses = train([green, other])
    record = greenml.open_record(tmp_path / "run.json")
    assert (tmp_path / "run.json").exists()
    assert record.status == "completed"
    assert [phase.path for phase in record.phases] == ["train"]
    assert record.metrics == {"loss": losses[-1], "step": 5}
    assert record.params == {"learning_rate": 0.1, "model": "line", "gradient_accumulation_steps": 2}
    ran = {"world_size": 1, "distributed_type": "NO", "mixed_precision": "no", "device": "cpu"}
    assert record.trainer["ran"] == ran
    costs = [row["green/cost_usd"] for row in other.rows]
    assert len(costs) == 6
    assert 0 < costs[0] <= costs[-1] <= record.total().cost_usd["dedicated"].value


@pytest.mark.parametrize("fault", ["none", "sensors"])
def test_training_is_the_same_bit_for_bit(fault, tmp_path, monkeypatch):
    alone = train([])
    accelerate.state.AcceleratorState._reset_state(True)
    break_greenml(monkeypatch, fault)
    assert train([integration.GreenTracker(tmp_path / "run.json")]) == alone


def test_a_wrong_setting_is_said_at_once():
    with pytest.raises(greenml.SettingsError, match="tier"):
        integration.GreenTracker(tier="cheap")


LOOP = """
import sys
import torch
from accelerate import Accelerator
from greenml.integrations.accelerate import GreenTracker

green = GreenTracker("run.json")
accelerator = Accelerator(log_with=green, cpu=True)
accelerator.init_trackers("test", config={"learning_rate": 0.1})
with green.tracker.phase("train"):
    if "fail" in sys.argv:
        raise RuntimeError("went wrong")
    model = accelerator.prepare(torch.nn.Linear(3, 1))
    accelerator.backward(model(torch.ones(4, 3)).square().mean())
accelerator.log({"loss": 0.5})
accelerator.end_training()
"""


def test_an_exception_fails_the_run(tmp_path):
    done = run_program(tmp_path, LOOP, "fail")
    assert "went wrong" in done.stderr
    assert (tmp_path / "run.json").exists()
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, record.error) == ("failed", "RuntimeError: went wrong")


def test_two_processes_leave_one_record(tmp_path):
    # accelerate launch --cpu starts one process, however many are asked for
    done = run_program(tmp_path, LOOP, ranks=2)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, record.attempts[0].processes) == ("completed", 2)
    assert (record.params["learning_rate"], record.metrics["loss"]) == (0.1, 0.5)
    assert record.trainer["ran"]["world_size"] == 2
    devices = [(device.host, device.id) for device in record.devices]
    assert len(devices) == len(set(devices))
    assert json.loads((tmp_path / "run.json").read_text())["environment"]["world_size"] == 2
