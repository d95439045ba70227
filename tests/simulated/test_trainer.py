"""GreenCallback on simulated GPUs: energy by phase, kills and resumptions, budgets, and hardware that fails."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import greenml
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths

from . import simnvml
from .conftest import environment, tolerance_joules
from .simnvml import GPU_IS_LOST, Error, Gpu, Hang, Square

pytest.importorskip("transformers", reason="transformers is not installed")
PROGRAM = Path(__file__).parents[1] / "integrations" / "toy_trainer.py"


class Child:
    """A toy Trainer in a process, and process group, of its own."""

    def __init__(self, script, library, folder, told):
        folder.mkdir(exist_ok=True)
        self.script, self.folder, self.said = script, folder, []
        with (folder / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, json.dumps({"folder": str(folder / "out"), **told})],
                env=environment(script, library, folder) | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def hear(self, **until):
        """Read what it says, up to a line that says this."""
        for line in self.process.stdout:
            if line.startswith('{"'):
                self.said.append(json.loads(line))
                if until and until.items() <= self.said[-1].items():
                    return self.said[-1]
        return None

    def end(self):
        """Wait for its end and return what it said last."""
        self.hear()
        assert self.process.wait(60) == 0, (self.folder / "errors").read_text()
        return self.said[-1]

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def record(self):
        return greenml.open_record(self.folder / "out" / "run.json")


@pytest.fixture
def start(libraries, tmp_path):
    children = []

    def begin(gpus, told, *, folder="one", faults=()):
        script = simnvml.Script(gpus=tuple(gpus), faults=tuple(faults))
        children.append(Child(script, libraries(), tmp_path / folder, told))
        return children[-1]

    yield begin
    for child in children:
        child.process.kill()
        child.process.wait()
        child.process.stdout.close()


def gpu_joules(usages):
    return sum(usage.energy_joules for name, usage in usages.items() if name.startswith("GPU-"))


def test_eight_gpus_energy_by_phase(start):
    """Training, evaluation (in training and alone) and prediction, each against the exact truth of its spans."""
    gpus = [
        Gpu(
            power=Square(80 + 10 * i, 200 + 10 * i, 0.7 + 0.1 * i),
            utilization=0.5 + 0.05 * i,
            memory_used=(4 + i) * 2**30,
            counter_phase_seconds=0.0025 * i,  # no two counters move at once, as on a real board
        )
        for i in range(8)
    ]
    arguments = {"max_steps": 16, "eval_strategy": "steps", "eval_steps": 8, "save_strategy": "steps", "save_steps": 8}
    told = {
        "callback": {}, "step_seconds": 0.2, "arguments": arguments, "calls": ["train", "evaluate", "predict"],
        "eval_rows": 32,
    }  # fmt: skip
    child = start(gpus, told)
    said = child.end()
    record = child.record
    assert (record.status, len(record.attempts)) == ("completed", 1)
    zero = trace_file.read_header(next(iter(trace_paths(run_dir_of(child.folder / "out" / "run.json")))))[
        "start_seconds"
    ]
    uuids = [device.id for device in record.devices if device.kind == "gpu"]
    assert len(uuids) == len(set(uuids)) == 8
    assert {phase.path for phase in record.phases} == {"setup", "train", "eval", "predict", "save"}

    spans = sorted((start, end, phase.path) for phase in record.phases for start, end in phase.spans)
    assert all(before[1] <= after[0] + 1e-3 for before, after in itertools.pairwise(spans))
    # Each phase is as long as its steps at least, and lies within the call that it belongs to: busy cores take longer.
    (begun, ended), steps = said["spans"]["predict"], 2 * 32 / 4
    [(first, last)] = record.phase("predict").spans
    assert begun - zero <= first <= last - steps * 0.2 <= ended - zero - steps * 0.2
    assert [span for span in spans if span[0] > ended - zero] == []
    begun, ended = said["spans"]["train"]
    called = [(end - start, path) for start, end, path in spans if begun - zero <= start and end <= ended - zero]
    assert sum(seconds for seconds, _ in called) <= ended - begun
    trained = sum(seconds for seconds, path in called if path == "train")
    assert trained == pytest.approx(record.phase("train").seconds, abs=1e-3)  # spans are rounded
    assert record.phase("train").seconds >= 16 * 0.2
    assert record.phase("eval").count == 3
    assert record.phase("eval").seconds >= 3 * 8 * 0.2
    begun, ended = said["spans"]["evaluate"]
    assert sum(begun - zero <= start and end <= ended - zero for start, end, path in spans if path == "eval") == 1

    for path in ("train", "eval", "predict"):
        phase = record.phase(path)
        truths = [
            sum(child.script.energy_joules(at, zero + begin, zero + end) for begin, end in phase.spans)
            for at in range(8)
        ]
        usages = [phase.usage[gpu.uuid] for gpu in child.script.gpus]
        late = sum(usage.uncertainty.interpolation_joules for usage in usages)
        late += sum((phase.seconds - one.covered_seconds) * (200 + 10 * at) for at, one in enumerate(usages))
        assert gpu_joules(phase.usage) == pytest.approx(sum(truths), abs=0.005 * sum(truths) + late), path
        for at, uuid in enumerate(gpu.uuid for gpu in child.script.gpus):
            usage = phase.usage[uuid]
            tolerance = tolerance_joules(usage, peak_watts=200 + 10 * at, spans=len(phase.spans), seconds=phase.seconds)
            assert usage.energy_joules == pytest.approx(truths[at], abs=tolerance), path
            assert usage.energy_low_joules <= truths[at] <= usage.energy_high_joules
            assert usage.utilization_ratio == pytest.approx(0.5 + 0.05 * at, abs=0.01)
            assert usage.memory_mean_bytes == pytest.approx((4 + at) * 2**30, rel=0.01)
    run = {device.id: device.usage for device in record.devices}
    assert sum(phase.seconds for phase in record.phases) <= record.duration_seconds
    for at, gpu in enumerate(child.script.gpus):
        truth = child.script.energy_joules(at, zero, zero + record.duration_seconds)
        usage, steps = run[gpu.uuid], 2 * 0.02 * (200 + 10 * at)
        missing = (record.duration_seconds - usage.covered_seconds) * (200 + 10 * at)  # before the first reading
        assert truth - missing - steps <= usage.energy_joules <= truth + steps
        assert sum(phase.usage[gpu.uuid].energy_joules for phase in record.phases) <= usage.energy_joules * (1 + 1e-9)


def test_killed_and_resumed_adds_up(start):
    """Two attempts, of which the first is killed with its group: the sum of both truths, and what was done twice."""
    gpus = [Gpu(power=100.0), Gpu(power=200.0)]
    arguments = {"max_steps": 20, "save_strategy": "steps", "save_steps": 5, "logging_steps": 1}
    told = {"callback": {"price_per_hour": 36.0}, "step_seconds": 0.15, "arguments": arguments}
    first = start(gpus, told)
    checkpoint = first.hear(saved=5)["at"]
    first.hear(step=9)
    first.kill()
    first.hear()  # busy cores may have let it go on for a step or two
    killed = max(line["at"] for line in first.said if "step" in line)
    last_step = max(line["step"] for line in first.said if "step" in line)
    assert first.record.status == "killed"
    before = first.record
    assert 8 <= before.trainer["counts"]["steps"] <= last_step
    assert before.phase("train").seconds > 8 * 0.15

    arguments["restore_callback_states_from_checkpoint"] = True
    second = start(gpus, {**told, "resume": True})
    said = second.end()
    record = second.record
    assert said["step"] == 20
    assert next(one["step"] for one in second.said if "step" in one) == 6
    assert not (second.folder / "out" / "run-2.json").exists()
    assert (record.status, [attempt.status for attempt in record.attempts]) == ("completed", ["killed", "completed"])
    assert record.duration_seconds == pytest.approx(sum(attempt.seconds for attempt in record.attempts), abs=1e-6)
    assert record.attempts[0].seconds == pytest.approx(before.duration_seconds, abs=1e-3)
    assert record.total().cost_usd["dedicated"].value == pytest.approx(record.duration_seconds / 100, rel=1e-6)
    assert record.attempts[1].seconds > said["ended"] - said["begun"]

    zeros = {
        header["attempt"]: header["start_seconds"]
        for header in map(trace_file.read_header, trace_paths(run_dir_of(second.folder / "out" / "run.json")))
    }
    assert len(zeros) == 2
    # A kill takes up to a second of readings with it; each attempt's sensors take a while to be found.
    watts = {one.uuid: one.power[0].value for one in second.script.gpus}
    train = record.phase("train")
    for usages, seconds, stretches in (
        ({device.id: device.usage for device in record.devices}, record.duration_seconds, 2),
        (train.usage, train.seconds, len(train.spans)),
    ):
        for uuid, usage in ((uuid, usages[uuid]) for uuid in watts):
            assert 0 < usage.covered_seconds <= seconds + 0.01
            assert usage.energy_low_joules <= watts[uuid] * seconds <= usage.energy_high_joules
            # A counter's step is late by anything up to its 20 ms, at both ends of a stretch; 4 standard deviations.
            late_seconds = 4 * 0.02 * math.sqrt(2 * stretches / 12)
            assert usage.energy_joules / watts[uuid] == pytest.approx(usage.covered_seconds, abs=late_seconds)
    for at, (uuid, own) in enumerate(watts.items()):
        spans = [(begin, end) for begin, end in record.phase("train").spans if begin > record.attempts[0].seconds]
        truth = sum(second.script.energy_joules(at, begin, end) for begin, end in spans)
        assert truth == pytest.approx(own * sum(end - begin for begin, end in spans))
        usage = record.phase("train").usage[uuid]
        late = tolerance_joules(usage, peak_watts=own, spans=len(spans), seconds=record.phase("train").seconds)
        assert usage.energy_joules > before.phase("train").usage[uuid].energy_joules + truth - late
    assert record.trainer["counts"]["steps"] == pytest.approx(before.trainer["counts"]["steps"] + 15)

    lost = record.trainer["lost_work"]
    assert lost["resumed_step"] == 5
    # Up to the last step that the trace holds, or the one that was under way.
    assert lost["seconds"] == pytest.approx(killed - checkpoint, abs=0.5)
    # The CPU is thought to use at most 50 W; a kill takes the readings since the last written second with it.
    assert lost["energy_joules"] <= (300 + 50) * lost["seconds"]
    killed_train, edges = before.phase("train"), 2 * 0.02 * 300
    for uuid, own in watts.items():
        read_until = zeros[1] + killed_train.spans[0][0] + killed_train.usage[uuid].covered_seconds
        assert lost["energy_joules"] >= own * (read_until - checkpoint) - edges
    [note] = [note.text for note in record.notes if note.code == "lost-work"]
    assert note.startswith(f"lost work: {lost['seconds']:.1f} s, {lost['energy_joules']:.1f} J, $0.0")
    assert "after the checkpoint of step 5" in note


def test_a_budget_of_energy_stops_within_a_step_and_a_second(start):
    arguments = {"max_steps": 60, "eval_strategy": "no"}
    told = {"step_seconds": 0.3, "arguments": arguments}
    joules = 2500.0  # 8 s at 300 W, and what the CPU is thought to use
    child = start([Gpu(power=300.0)], {**told, "callback": {"max_kwh": joules / 3.6e6}})
    said = child.end()
    record = child.record
    assert said["step"] < 60
    [note] = [note for note in record.notes if note.code == "budget"]
    assert f"at step {said['step']}; a checkpoint was saved and training stopped" in note.text
    assert record.trainer["stopped_for"] == note.text
    assert record.status == "completed"

    # What the record holds, less what followed; its GPU power is the truth's, from when the sensors were found.
    stepped = [one["at"] for one in child.said if "step" in one and "at" in one]
    [gpu] = [device for device in record.devices if device.kind == "gpu"]
    assert gpu.usage.power_mean_watts == pytest.approx(300, rel=0.005)
    watts = sum(
        device.usage.power_mean_watts or 0.0 for device in record.devices if device.kind in ("gpu", "cpu", "dram")
    )
    zero = trace_file.read_header(next(iter(trace_paths(run_dir_of(child.folder / "out" / "run.json")))))[
        "start_seconds"
    ]
    after = [zero + record.duration_seconds - at for at in stepped]
    used = [record.total().it_energy_joules.value - watts * seconds for seconds in after]
    slack = 0.1 * watts  # what was used since the last reading was thought to go on as before
    assert used[-2] < joules + slack + 1.2 * watts  # totals are read once a second, off the step's path
    assert used[-1] > joules - slack
    checkpoint = child.folder / "out" / f"checkpoint-{said['step']}"
    assert (checkpoint / "model.safetensors").exists()

    more = {"callback": {}, "resume": True, "arguments": {"max_steps": said["step"] + 2}}
    child = start([Gpu(power=300.0)], {**told, **more})
    assert child.end()["step"] == said["step"] + 2
    assert next(one["step"] for one in child.said if "step" in one) == said["step"] + 1
    assert len(child.record.attempts) == 2
    assert child.record.trainer["stopped_for"] is None


HANG_SECONDS = 600.0
FAULTS = {
    "works": {},
    "fails at init": {"faults": [Error("nvmlInit")]},
    "fails from the start": {"faults": [Error("*", start=0.0)]},
    "fails later": {"faults": [Error("nvmlDeviceGetTotalEnergyConsumption", start=2.0)]},
    "hangs at init": {"faults": [Hang("nvmlInit", 0.0, HANG_SECONDS)]},
    "hangs later": {"faults": [Hang("*", 2.5, HANG_SECONDS)]},
    "lost at once": {"lost_at": 0.5},
    "lost later": {"lost_at": 2.5},
    "fails and comes back": {"faults": [Error("*", GPU_IS_LOST, 1.5, 2.5)]},
}


@pytest.fixture(scope="module")
def trained(libraries, tmp_path_factory):
    """Train the same model without greenml, and with it on hardware that fails in every way, all at once."""
    folder = tmp_path_factory.mktemp("faults")
    arguments = {"max_steps": 12, "eval_strategy": "steps", "eval_steps": 6, "save_strategy": "steps", "save_steps": 6}
    shared = {"step_seconds": 0.1, "arguments": arguments, "calls": ["train", "evaluate", "predict"]}
    many = []
    for name, fault in [("without", {}), *FAULTS.items()]:
        own = folder / name
        own.mkdir()
        gpus = tuple(Gpu(power=150.0, lost_at=fault.get("lost_at", float("inf"))) for _ in range(2))
        script = simnvml.write(simnvml.Script(gpus=gpus, faults=tuple(fault.get("faults", ()))), own / "script")
        told = {"folder": str(own / "out"), "prints": str(own / "printed"), "origin_now": True}
        callback = None if name == "without" else {"max_kwh": 1000.0}
        many.append({**shared, **told, "environment": {"SIMNVML_SCRIPT": str(script)}, "callback": callback})
    child = Child(simnvml.Script(), libraries(), folder / "parent", {"each": many})
    try:
        child.hear()
        assert child.process.wait(60) == 0, (child.folder / "errors").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        child.process.stdout.close()
    return folder


@pytest.mark.parametrize("name", FAULTS)
def test_hardware_that_fails_changes_nothing_in_training(trained, name):
    plain, tracked = (json.loads((trained / one / "printed").read_text().splitlines()[-1]) for one in ("without", name))
    assert len(plain["losses"]) == 12
    assert tracked["losses"] == plain["losses"]
    assert tracked["weights"] == plain["weights"]
    assert tracked["ended"] - tracked["begun"] < HANG_SECONDS, "it waited for a call of the driver's to end"
    record = greenml.open_record(trained / name / "out" / "run.json")
    assert record.status == "completed"
    assert {phase.path for phase in record.phases} == {"setup", "train", "eval", "predict", "save"}
    if name != "works":
        assert [
            note for note in record.notes if note.code.startswith(("sensor", "nvml", "not-covered", "gap", "stuck"))
        ]
