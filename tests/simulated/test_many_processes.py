"""Many processes of one run: every device once, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from greenml.analysis import record_search
from greenml.record import file as records
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of, trace_paths

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


def end_all(processes):
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


def distributed(rank):
    return {"RANK": rank, "WORLD_SIZE": 8, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}


@pytest.mark.parametrize("variables", [distributed, torchrun, mpirun, srun])
def test_eight_processes_measure_each_device_once(ranks, tmp_path, variables):
    script, processes = ranks(8, variables=variables)
    begin = time.monotonic()
    time.sleep(5)
    end = time.monotonic()
    end_all(processes)
    assert [path.name for path in tmp_path.glob("*.json")] == ["run.json"]
    record = records.read(tmp_path / "run.json")
    assert record.attempts[0].processes == 8
    assert record.status == "completed"
    kinds = [device.kind for device in record.devices]
    assert (kinds.count("gpu"), kinds.count("cpu"), kinds.count("dram"), kinds.count("host")) == (8, 1, 1, 1)
    truth = sum(script.energy_joules(at, begin, end) for at in range(8))
    gpus = [device.usage for device in record.devices if device.kind == "gpu"]
    measured, high = sum(gpu.energy_joules for gpu in gpus), sum(gpu.energy_high_joules for gpu in gpus)
    late = any(note.code == "not-covered" for note in record.notes)  # no processor was free when a sensor was to begin
    start = trace_file.read_header(next(iter(trace_paths(tmp_path / "run.trace"))))
    assert start["run_id"] == record.run_id
    assert truth <= (high if late else measured * 1.001)
    spare = record.duration_seconds - (end - begin)  # starting and ending eight processes
    assert measured <= truth + 8 * 300 * spare + 8 * 300 * 0.02
    assert [phase.count for phase in record.phases] == [1]
    cpu = next(device for device in record.devices if device.kind == "cpu")
    assert cpu.usage.covered_seconds <= record.duration_seconds
    assert late or cpu.usage.covered_seconds > end - begin


def test_another_takes_over_when_the_holder_is_killed(ranks, tmp_path):
    script, processes = ranks(3, variables=lambda rank: torchrun(rank) | {"WORLD_SIZE": 3})
    time.sleep(2)
    holders = [path for path in trace_paths(tmp_path / "run.trace") if any(trace_file.read(path).rollups.values())]
    held = {name for holder in holders for name, rollups in trace_file.read(holder).rollups.items() if rollups}
    assert held
    pid = trace_file.read_header(holders[0])["pid"]
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    time.sleep(4)
    end = time.monotonic()
    rest = [process for process in processes if process.pid != pid]
    end_all(rest)
    record = records.read(tmp_path / "run.json")
    gpus = [device for device in record.devices if device.kind == "gpu"]
    assert len(gpus) == 8
    for at, device in enumerate(sorted(gpus, key=lambda one: one.id)):
        # The counter goes on over the change of hands: nothing is lost, nothing is counted twice.
        truth = script.energy_joules(at, begin - 1.5, end)
        assert device.usage.energy_joules > truth - 300 * 0.05
        assert device.usage.energy_joules < truth + 300 * (record.duration_seconds - (end - begin) - 1.5) + 300 * 0.05
    # Of rank 0 the end is the run's; of another it is a note.
    assert record.status == "killed" or any(note.code == "process-killed" for note in record.notes)


@pytest.mark.alone
def test_a_killed_run_lacks_at_most_its_last_second(ranks, tmp_path):
    script, [process] = ranks(1)
    begin = time.monotonic()
    time.sleep(3.37)
    process.kill()
    killed = time.monotonic()
    process.wait()
    output = tmp_path / "run.json"
    assert not output.exists()
    record = record_search.open_record(output)
    assert record.status == "killed"
    assert [phase.path for phase in record.phases] == ["train"]
    last = max(trace_file.read(path).last_seconds for path in trace_paths(run_dir_of(output)))
    assert killed - last < 2.0  # a second, and what a busy host takes
    for at, device in enumerate(
        sorted((device for device in record.devices if device.kind == "gpu"), key=lambda device: device.id)
    ):
        assert device.usage.energy_joules >= script.energy_joules(at, begin, last - 0.02)
    told = subprocess.run(
        [sys.executable, "-m", "greenml", "report", str(output), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["devices"] == json.loads(record.model_dump_json())["devices"]
    assert not output.exists()
    subprocess.run([sys.executable, "-m", "greenml", "finish", str(output)], check=True, capture_output=True)
    assert records.read(output).devices == record.devices
