"""Machines in a record: one boot of one kernel is one machine, whatever its host names are."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenml.record.schema import RunRecord
from greenml.run import finish
from greenml.trace import lines as trace_lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup

UNIX = 1_700_000_000.0
BOOTS = [f"{number:08d}-aaaa-4bbb-8ccc-dddddddddddd" for number in range(3)]
COUNTER = Device(kind="gpu", id="GPU-0", name="V100", method="counter", sensor="nvml", power_limit_watts=300.0)
GAUGE = Device(kind="gpu", id="GPU-1", name="P100", method="gauge", sensor="nvml", power_limit_watts=300.0)
CPU = Device(kind="cpu", id="package-0", name="Xeon", method="counter", sensor="rapl", power_limit_watts=200.0)
WATTS = {"GPU-0": 100.0, "GPU-1": 50.0, "package-0": 30.0}


def process(
    folder: Path,
    host: str,
    boot: str,
    first: int,
    last: int,
    devices: tuple[Device, ...],
    *,
    rank: int = 0,
    attempt: int = 1,
) -> None:
    """Write the trace of a process that measured devices from one second to another of its machine's clock."""
    run_dir = folder / "run.trace"
    run_dir.mkdir(exist_ok=True)
    settings = {"price_per_hour": 3.6, "known_from": {"price_per_hour": "argument"}}
    writer = TraceWriter(
        run_dir / f"{attempt}-{host}-{rank}-{first}.jsonl",
        {
            "run_id": "r", "attempt": attempt, "host": host, "boot_id": boot, "pid": 1, "rank": rank,
            "start_seconds": float(first), "unix_seconds": UNIX + first, "settings": settings,
        },
    )  # fmt: skip
    for key, device in enumerate(devices):
        writer.write({"t": float(first), **trace_lines.device_line(str(key), device)})
    for second in range(first, last + 1):
        rollups = {}
        for key, device in enumerate(devices):
            watts, begin = WATTS[device.id], float(max(first, second - 1))
            counter = 7000.0 + watts * second if device.method == "counter" else None
            power = watts * (second - begin)
            rollups[str(key)] = Rollup(
                begin, float(second), counter, power, second - begin, watts, power_last_watts=watts
            )
        writer.write(trace_lines.sample_line(float(second), rollups))
    writer.write({"status": "completed", "error": None, "t": float(last)})
    writer.close()


def energy(record: RunRecord) -> dict[str, float]:
    return {device.id: round(device.usage.energy_joules or 0.0) for device in record.devices}


@pytest.mark.parametrize("hosts", [("pod-a", "pod-b", "pod-c"), ("gpu-node-01.rack-7", "gpu-node-01", "gpu-node")])
@pytest.mark.parametrize(
    "spans", [((0, 60), (0, 60), (0, 60)), ((0, 40), (20, 60), (30, 35)), ((0, 20), (20, 40), (40, 60))],
    ids=["together", "overlapping", "in turn"],
)  # fmt: skip
def test_containers_on_a_machine_are_billed_and_measured_once(tmp_path: Path, hosts, spans):
    for rank, (host, span) in enumerate(zip(hosts, spans, strict=True)):
        process(tmp_path, host, BOOTS[0], *span, (COUNTER, GAUGE, CPU), rank=rank)
    record = finish.make(tmp_path / "run.trace")
    assert energy(record) == {"GPU-0": 6000, "GPU-1": 3000, "package-0": 1800}
    assert [host.name for host in record.hosts] == [hosts[0]]
    assert record.attempts[0].hosts == [hosts[0]]
    assert record.attempts[0].processes == 3
    assert [cost.value for cost in record.totals[0].cost_usd.values()] == [pytest.approx(60 / 3600 * 3.6)]
    [note] = [note for note in record.notes if note.code == "one-machine"]
    assert all(host in note.text for host in hosts)


def test_containers_with_gpus_of_their_own_share_the_rest(tmp_path: Path):
    process(tmp_path, "pod-a", BOOTS[0], 0, 60, (COUNTER, CPU))
    process(tmp_path, "pod-b", BOOTS[0], 0, 60, (GAUGE, CPU), rank=1)
    record = finish.make(tmp_path / "run.trace")
    assert energy(record) == {"GPU-0": 6000, "GPU-1": 3000, "package-0": 1800}


@pytest.mark.parametrize("host", ["localhost", "gpu-node-01"])
def test_machines_of_one_host_name_are_several(tmp_path: Path, host):
    for rank, boot in enumerate(BOOTS):
        process(tmp_path, host, boot, 0, 60, (CPU,), rank=rank)
    record = finish.make(tmp_path / "run.trace")
    assert energy(record) == {
        f"{host}/package-0": 1800, f"{host}-00000001/package-0": 1800, f"{host}-00000002/package-0": 1800,
    }  # fmt: skip
    assert record.attempts[0].hosts == [host, f"{host}-00000001", f"{host}-00000002"]
    assert [cost.value for cost in record.totals[0].cost_usd.values()] == [pytest.approx(3 * 60 / 3600 * 3.6)]


def test_a_container_that_gets_a_new_name_with_each_attempt_is_one_machine(tmp_path: Path):
    process(tmp_path, "0f3e", BOOTS[0], 0, 60, (COUNTER,))
    process(tmp_path, "77ab", BOOTS[0], 100, 160, (COUNTER,), attempt=2)
    record = finish.make(tmp_path / "run.trace")
    assert energy(record) == {"GPU-0": 12_000}
    assert [host.name for host in record.hosts] == ["0f3e"]
    assert record.duration_seconds == 120.0


def test_a_machine_that_was_booted_between_attempts_keeps_its_name(tmp_path: Path):
    process(tmp_path, "node-a", BOOTS[0], 0, 60, (CPU,))
    process(tmp_path, "node-a", BOOTS[1], 100, 160, (CPU,), attempt=2)
    record = finish.make(tmp_path / "run.trace")
    assert energy(record) == {"package-0": 3600}
    assert [host.name for host in record.hosts] == ["node-a"]
