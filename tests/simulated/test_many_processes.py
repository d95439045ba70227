"""Many processes of one run: every device once, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from greenml import finishing, trace
from greenml import record_file as records
from greenml.seats import run_dir_of

from . import simnvml
from .conftest import environment
from .simnvml import Gpu, Square

RANK = """
import sys, time
import greenml
with greenml.track(output=sys.argv[1]) as run:
    print("up", flush=True)
    with run.phase("train"):
        sys.stdin.readline()
"""


@pytest.fixture
def ranks(libraries, tmp_path):
    """Start processes that track one run until their standard input ends."""
    started = []

    def begin(count, *, variables=lambda rank: {}, output="run.json"):
        script = simnvml.Script(gpus=tuple(Gpu(power=Square(100, 300, 0.7)) for _ in range(8)))
        base = environment(script, libraries(), tmp_path)
        started.extend(
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(tmp_path / output)],
                env=base | {name: str(value) for name, value in variables(rank).items()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        )
        for process in started[-count:]:
            assert process.stdout.readline() == "up\n"
        return script, started[-count:]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def end(processes):
    for process in processes:
        process.stdin.close()
    for process in processes:
        assert process.wait(30) == 0
        process.stdout.close()


def torchrun(rank):
    return {
        "RANK": rank, "WORLD_SIZE": 8, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,
    }  # fmt: skip


def mpirun(rank):
    return {
        "OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": 8, "OMPI_COMM_WORLD_LOCAL_RANK": rank,
        "PMIX_NAMESPACE": "prterun-host-1@1",
    }  # fmt: skip


def srun(rank):
    return {"SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0, "SLURM_PROCID": rank, "SLURM_NTASKS": 8, "SLURM_LOCALID": rank}


@pytest.mark.parametrize(
    "variables", [lambda rank: {}, torchrun, mpirun, srun], ids=["plain", "torchrun", "mpirun", "srun"]
)
def test_eight_processes_measure_each_device_once(ranks, tmp_path, variables):
    script, processes = ranks(8, variables=variables)
    begin = time.monotonic()
    time.sleep(5)
    finish = time.monotonic()
    end(processes)
    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = records.read(tmp_path / "run.json")
    assert record.attempts[0].processes == 8
    assert record.status == "completed"
    kinds = [one.kind for one in record.devices]
    assert (kinds.count("gpu"), kinds.count("cpu"), kinds.count("dram"), kinds.count("host")) == (8, 1, 1, 1)
    truth = sum(script.energy_joules(at, begin, finish) for at in range(8))
    measured = sum(one.usage.energy_joules for one in record.devices if one.kind == "gpu")
    start = trace.read_header(next(iter(trace.paths(tmp_path / "run.trace"))))
    assert start["run_id"] == record.run_id
    assert truth <= measured * 1.001
    spare = record.duration_seconds - (finish - begin)  # starting and ending eight processes
    assert measured <= truth + 8 * 300 * spare + 8 * 300 * 0.02
    assert [one.count for one in record.phases] == [1]
    cpu = next(one for one in record.devices if one.kind == "cpu")
    assert cpu.usage.covered_seconds <= record.duration_seconds
    assert cpu.usage.covered_seconds > finish - begin
    assert not [note for note in record.notes if note.code == "not-covered"]


def test_another_takes_over_when_the_holder_is_killed(ranks, tmp_path):
    script, processes = ranks(3)
    time.sleep(2)
    holders = [one for one in trace.paths(tmp_path / "run.trace") if any(trace.read(one).rollups.values())]
    held = {name for one in holders for name, rollups in trace.read(one).rollups.items() if rollups}
    assert held
    pid = trace.read_header(holders[0])["pid"]
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    time.sleep(4)
    finish = time.monotonic()
    rest = [one for one in processes if one.pid != pid]
    end(rest)
    record = records.read(tmp_path / "run.json")
    gpus = [one for one in record.devices if one.kind == "gpu"]
    assert len(gpus) == 8
    for at, device in enumerate(sorted(gpus, key=lambda one: one.id)):
        # The counter goes on over the change of hands: nothing is lost, nothing is counted twice.
        truth = script.energy_joules(at, begin - 1.5, finish)
        assert device.usage.energy_joules > truth - 300 * 0.05
        assert (
            device.usage.energy_joules < truth + 300 * (record.duration_seconds - (finish - begin) - 1.5) + 300 * 0.05
        )
    assert any(note.code == "process-killed" for note in record.notes)


def test_a_killed_run_lacks_at_most_its_last_second(ranks, tmp_path):
    script, [process] = ranks(1)
    begin = time.monotonic()
    time.sleep(3.37)
    process.kill()
    killed = time.monotonic()
    process.wait()
    output = tmp_path / "run.json"
    assert not output.exists()
    record = finishing.open_record(output)
    assert record.status == "killed"
    assert [one.path for one in record.phases] == ["train"]
    last = max(trace.read(one).last_seconds for one in trace.paths(run_dir_of(output)))
    assert killed - last < 1.2
    for at, device in enumerate(sorted((one for one in record.devices if one.kind == "gpu"), key=lambda one: one.id)):
        assert device.usage.energy_joules >= script.energy_joules(at, begin, killed - 1.2)
    told = subprocess.run(
        [sys.executable, "-m", "greenml", "report", str(output), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["devices"] == json.loads(record.model_dump_json())["devices"]
    assert not output.exists()
    subprocess.run([sys.executable, "-m", "greenml", "finish", str(output)], check=True, capture_output=True)
    assert records.read(output).devices == record.devices
