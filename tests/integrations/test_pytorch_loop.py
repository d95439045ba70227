"""A plain PyTorch loop inside the context manager, alone and under torchrun."""

from __future__ import annotations

import importlib.util
import itertools
from collections import defaultdict

import pytest

import greenml
from greenml.run import finish

from .shared import run_program

if importlib.util.find_spec("torch") is None:
    pytest.skip("PyTorch is not installed", allow_module_level=True)

LOOP = """
import os, sys, time
import torch
import greenml

ranks = int(os.environ.get("WORLD_SIZE", 1))
if ranks > 1:
    torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
with greenml.track("run.json", price_per_hour=3.6, interval=0.05) as run:
    with run.phase("setup"):
        model = torch.nn.Linear(3, 1)
        network = torch.nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        run.params(learning_rate=0.1, batch_size=4)
    for epoch in range(2):
        with run.phase("train"):
            for step in range(3):
                time.sleep(0.1)
                loss = network(torch.ones(4, 3)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if "fail" in sys.argv and epoch == 1:
                    raise RuntimeError("went wrong")
            run.log(loss=loss)
        with run.phase("eval"), torch.no_grad():
            time.sleep(0.1)
            run.log({"eval_loss": network(torch.ones(4, 3)).square().mean().item()})
        while not (costs := run.totals().cost_usd):
            time.sleep(0.05)
        print(costs["dedicated"])
    run.count(samples=24)
if ranks > 1:
    torch.distributed.destroy_process_group()
"""


def test_a_loop_with_phases(tmp_path):
    done = run_program(tmp_path, LOOP)
    assert done.returncode == 0, done.stderr
    record = greenml.open_record(tmp_path / "run.json")
    assert (tmp_path / "run.json").exists()
    assert record.status == "completed"
    assert {phase.path: phase.count for phase in record.phases} == {"setup": 1, "train": 2, "eval": 2}
    assert record.phase("train").seconds >= 0.6
    assert 0.2 <= record.phase("eval").seconds < record.phase("train").seconds
    assert sum(phase.seconds for phase in record.phases) <= record.duration_seconds
    assert record.params == {"learning_rate": 0.1, "batch_size": 4}
    assert 0 < record.metrics["eval_loss"] < record.metrics["loss"]
    costs = [float(line) for line in done.stdout.split()]
    assert 0 < costs[0] <= costs[1] <= record.total().cost_usd["dedicated"].value
    assert record.derived["samples_per_second"] == pytest.approx(24 / record.phase("train").seconds)


def test_an_exception_fails_the_run(tmp_path):
    done = run_program(tmp_path, LOOP, "fail")
    assert done.returncode == 1
    assert "went wrong" in done.stderr
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, record.error) == ("failed", "RuntimeError: went wrong")
    assert {phase.path: phase.count for phase in record.phases} == {"setup": 1, "train": 2, "eval": 1}
    assert "eval_loss" in record.metrics


def test_two_ranks_under_torchrun_leave_one_record(tmp_path):
    done = run_program(tmp_path, LOOP, ranks=2)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = greenml.open_record(tmp_path / "run.json")
    assert (record.status, len(record.attempts), record.attempts[0].processes) == ("completed", 1, 2)
    assert (record.attempts[0].launcher, record.environment.world_size) == ("torchrun", 2)
    assert {phase.path: phase.count for phase in record.phases} == {"setup": 1, "train": 2, "eval": 2}
    assert record.trainer["counts"] == {"samples": 48}
    # Each device is read by one process at a time; the other may go on with it when the first ends.
    traces = finish.traces(tmp_path / "run.trace")
    assert len(traces) == 2
    read = defaultdict(list)
    for trace in traces:
        for key, device in trace.devices.items():
            read[device.id] += [(rollup.start_seconds, rollup.end_seconds) for rollup in trace.rollups.get(key, [])]
    assert read
    for spans in read.values():
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(sorted(spans)))
