"""The modelled CPU and DRAM: which TDP, which share, and joules that no slow tick loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SensorError
from greenml.sensors import _cpu, estimate
from greenml.trace.types import Device, Sensor, Wanted

XEON = "Intel(R) Xeon(R) Platinum 8168 CPU @ 2.70GHz"  # 205 W, 24 cores
DEVICE = Device(kind="cpu", id="cpu-estimate", name="CPU", method="estimate")


def cpuinfo(proc: Path, model: str, *, cpus: int, cores: int, siblings: int, flags: str = "sse2 ht") -> Path:
    proc.mkdir(parents=True, exist_ok=True)
    one = (
        f"vendor_id\t: GenuineIntel\nmodel name\t: {model}\nsiblings\t: {siblings}\ncpu cores\t: {cores}\n"
        f"flags\t\t: {flags}\n\n"
    )
    (proc / "cpuinfo").write_text("".join(f"processor\t: {number}\n{one}" for number in range(cpus)))
    return proc


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cpuset(root: Path, count: int) -> Path:
    """Control groups that allow the CPUs 0 to count - 1, whatever this machine has."""
    return write(root, {"cpuset.cpus.effective": f"0-{count - 1}\n"})


def modelled_cpu(proc: Path, cgroup: Path) -> Sensor:
    (sensor,) = estimate.probe(Wanted(measured=frozenset({"dram"})), proc=proc, cgroup=cgroup)
    return sensor


def full_watts(sensor: Sensor) -> float:
    assert isinstance(sensor, estimate.EstimateSensor)
    return sensor._idle_watts + sensor._busy_watts * sensor._cpus


def test_a_host_of_two_sockets_draws_two_tdps(tmp_path: Path):
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=96, cores=24, siblings=48)
    sensor = modelled_cpu(proc, cpuset(tmp_path / "cgroup", 96))
    assert full_watts(sensor) == sensor.device.power_limit_watts == pytest.approx(410)
    assert sensor.device.calibration_ratio == estimate.CPU_CALIBRATION_RATIO


def test_a_vm_is_charged_with_its_threads(tmp_path: Path):
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=4, cores=2, siblings=4, flags="ht hypervisor")
    sensor = modelled_cpu(proc, cpuset(tmp_path / "cgroup", 4))
    assert full_watts(sensor) == pytest.approx(205 * 4 / 48)
    assert sensor.device.note.startswith("modelled from 205 W TDP of 24 cores with 2 threads each, for 4 CPUs")


def test_a_vm_of_40_whole_cores_is_charged_with_whole_cores(tmp_path: Path):
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=40, cores=20, siblings=20, flags="hypervisor")
    assert full_watts(modelled_cpu(proc, cpuset(tmp_path / "cgroup", 40))) == pytest.approx(205 * 40 / 24)


def test_an_unknown_model_gets_the_default_with_a_wide_interval_and_says_so(tmp_path: Path):
    proc = cpuinfo(tmp_path / "proc", "VirtualApple @ 2.50GHz", cpus=1, cores=1, siblings=1, flags="hypervisor")
    sensor = modelled_cpu(proc, cpuset(tmp_path / "cgroup", 1))
    assert full_watts(sensor) == pytest.approx(3.75)
    assert sensor.device.calibration_ratio == estimate.DEFAULT_CPU_CALIBRATION_RATIO
    assert "3.75 W a thread" in sensor.device.note


@pytest.mark.parametrize(
    ("model", "watts_per_core", "half_width_ratio", "generation"),
    [
        ("AMD EPYC-Milan Processor", 4.53, (13.75 - 4.29) / (13.75 + 4.29), "Milan"),
        ("Intel Xeon Processor (SierraForest)", 2.26, (2.84 - 1.75) / (2.84 + 1.75), "Sierra Forest"),
        ("AMD EPYC", 4.38, (15 - 3.52) / (15 + 3.52), "EPYC, any"),
    ],
)
def test_a_hypervisors_name_gets_its_generations_watts_and_interval(
    tmp_path: Path, model: str, watts_per_core: float, half_width_ratio: float, generation: str
):
    """The guest shows its two threads of a core as two cores; the generation has the threads of its makers."""
    threads = 1 if generation == "Sierra Forest" else 2
    proc = cpuinfo(tmp_path / "proc", model, cpus=8, cores=8, siblings=8, flags="hypervisor")
    sensor = modelled_cpu(proc, cpuset(tmp_path / "cgroup", 8))
    assert full_watts(sensor) == pytest.approx(8 * watts_per_core / threads)
    assert sensor.device.calibration_ratio == pytest.approx(math.hypot(0.5, half_width_ratio))
    assert f"typical of its generation ({generation})" in sensor.device.note


def test_an_estimated_tdp_is_said_and_has_a_wider_interval(tmp_path: Path):
    proc = cpuinfo(tmp_path / "proc", "AMD EPYC 7V13 64-Core Processor", cpus=48, cores=48, siblings=48)
    sensor = modelled_cpu(proc, cpuset(tmp_path / "cgroup", 48))
    assert full_watts(sensor) == pytest.approx(280 * 48 / 64)
    assert "(estimate: TDP of AMD EPYC 7763)" in sensor.device.note
    assert sensor.device.calibration_ratio == estimate.ESTIMATED_CPU_CALIBRATION_RATIO


def test_a_known_tdp_without_cores_takes_the_cores_of_real_hardware_but_not_of_a_vm(tmp_path: Path):
    model = "AMD Opteron 3250 HE"  # 45 W, cores not in the table
    metal = cpuinfo(tmp_path / "metal", model, cpus=28, cores=14, siblings=28)
    guest = cpuinfo(tmp_path / "guest", model, cpus=6, cores=6, siblings=6, flags="hypervisor")
    assert full_watts(modelled_cpu(metal, cpuset(tmp_path / "28", 28))) == pytest.approx(45)
    assert full_watts(modelled_cpu(guest, cpuset(tmp_path / "6", 6))) == pytest.approx(6 * 3.75)


def test_arm_has_no_model_name(tmp_path: Path):
    text = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n"
    proc = write(tmp_path / "proc", {"cpuinfo": text + text.replace(": 0\n", ": 1\n", 1)})
    sensor = modelled_cpu(proc, cpuset(tmp_path / "cgroup", 2))
    assert sensor.device.name == "Arm Neoverse-N1"
    assert full_watts(sensor) == pytest.approx(2 * 1.95)


QUOTAS = {
    "version 2": {
        "proc/self/cgroup": "0::/job/step\n",
        "cgroup/cpu.max": "max 100000\n",
        "cgroup/job/cpu.max": "200000 100000\n",
        "cgroup/job/cpu.stat": "usage_usec 5000000\nuser_usec 1\n",
        "cgroup/job/step/cpu.max": "max 100000\n",
        "cgroup/cpuset.cpus.effective": "0-7\n",
        "cgroup/job/memory.max": "4294967296\n",
        "cgroup/job/step/memory.max": "max\n",
    },
    "version 1": {
        "proc/self/cgroup": "9:cpuset:/\n4:memory:/host/path/unseen\n2:cpu,cpuacct:/job\n",
        "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "cgroup/cpu/job/cpu.cfs_quota_us": "200000\n",
        "cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        "cgroup/cpu/job/cpuacct.usage": "5000000000\n",
        "cgroup/cpuset/cpuset.cpus": "0-7\n",
        "cgroup/memory/memory.limit_in_bytes": "4294967296\n",
    },
}


@pytest.mark.parametrize("files", QUOTAS.values(), ids=QUOTAS.keys())
def test_a_quota_is_the_share_and_its_group_tells_the_time(tmp_path: Path, files: dict[str, str]):
    write(tmp_path, files)
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=8, cores=4, siblings=8)
    limits = _cpu.read_cgroup(proc, tmp_path / "cgroup")
    assert (limits.cpus, limits.cpuset, limits.memory_bytes) == (2.0, tuple(range(8)), 4 << 30)
    assert limits.usage is not None
    assert _cpu.cgroup_seconds(limits.usage) == 5.0

    now = [0.0]
    cpu, _ = estimate.probe(proc=proc, cgroup=tmp_path / "cgroup", clock=lambda: now[0])
    assert full_watts(cpu) == pytest.approx(205 * 2 / 48)
    now[0] = 10.0
    limits.usage.write_text(limits.usage.read_text().replace("5", "25", 1))  # all that 2 CPUs can in 10 s
    reading = cpu.read()
    assert reading.utilization_ratio == 1.0
    assert reading.energy_joules == pytest.approx(10 * 205 * 2 / 48)


def test_a_quota_whose_usage_cannot_be_read_is_as_busy_as_the_host(tmp_path: Path):
    write(tmp_path, QUOTAS["version 1"])
    (tmp_path / "cgroup/cpu/job/cpuacct.usage").unlink()
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=8, cores=4, siblings=8)
    sensor = modelled_cpu(proc, tmp_path / "cgroup")
    assert "as busy as the host" in sensor.device.note
    assert full_watts(sensor) == pytest.approx(205 * 2 / 48)


def test_a_set_of_cpus_is_the_share(tmp_path: Path):
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=96, cores=24, siblings=48)
    cgroup = write(tmp_path / "cgroup", {"cpuset.cpus.effective": "0-10,24\n"})
    sensor = modelled_cpu(proc, cgroup)
    assert full_watts(sensor) == pytest.approx(205 * 12 / 48)
    assert "12 of 96 CPUs" in sensor.device.note


def test_no_quota_is_no_limit(tmp_path: Path):
    cgroup = write(tmp_path / "cgroup", {"cpu.max": "max 100000\n", "memory.max": "max\n"})
    write(cgroup, {"memory/memory.limit_in_bytes": "9223372036854771712\n"})
    limits = _cpu.read_cgroup(tmp_path / "proc", cgroup)
    assert limits == _cpu.Cgroup()


def test_without_cpu_time_it_is_taken_as_half_busy_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "hidden"))  # psutil's own switch
    proc = cpuinfo(tmp_path / "proc", XEON, cpus=1, cores=24, siblings=48)
    now = [0.0]
    wanted = Wanted(measured=frozenset({"dram"}))
    cgroup = cpuset(tmp_path / "cgroup", 1)
    (sensor,) = estimate.probe(wanted, proc=proc, cgroup=cgroup, clock=lambda: now[0])
    now[0] = 10.0
    assert sensor.read().energy_joules == pytest.approx(10 * 205 / 48 * 0.6)
    assert sensor.read().utilization_ratio is None
    assert "half busy" in sensor.device.note
    assert sensor.device.calibration_ratio == estimate.UNREAD_CPU_CALIBRATION_RATIO


def test_no_memory_size_costs_dram_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "hidden"))
    assert [sensor.device.kind for sensor in estimate.probe()] == ["cpu"]
    with pytest.raises(SensorError, match="size of the memory"):
        estimate.probe(Wanted(measured=frozenset({"cpu"})))


@pytest.mark.parametrize(
    ("measured", "kinds"),
    [
        (frozenset(), ["cpu", "dram"]),
        (frozenset({"cpu"}), ["dram"]),
        (frozenset({"dram", "gpu"}), ["cpu"]),
        (frozenset({"cpu", "dram"}), []),
    ],
)
def test_only_what_nobody_measures_is_modelled(measured: frozenset, kinds: list[str]):
    assert estimate.FALLBACK
    sensors = estimate.probe(Wanted(measured=measured))
    assert [sensor.device.kind for sensor in sensors] == kinds
    assert all(sensor.device.method == "estimate" for sensor in sensors)
    assert all(sensor.device.id == f"{sensor.device.kind}-estimate" for sensor in sensors)


def test_dram_draws_by_what_is_installed_or_allowed(tmp_path: Path):
    cgroup = write(tmp_path / "cgroup", {"memory.max": str(1 << 30)})
    now = [0.0]
    wanted = Wanted(measured=frozenset({"cpu"}))
    (part,) = estimate.probe(wanted, proc=tmp_path, cgroup=cgroup, clock=lambda: now[0])
    (whole,) = estimate.probe(wanted, proc=tmp_path, cgroup=tmp_path, clock=lambda: now[0])
    now[0] = 100.0
    reading = part.read()
    assert reading.energy_joules == pytest.approx(37.25)
    assert reading.power_watts == pytest.approx(0.3725)
    assert reading.utilization_ratio is None
    installed = psutil.virtual_memory().total
    assert whole.read().energy_joules == pytest.approx(37.25 * installed / 2**30)
    assert whole.device.memory_total_bytes == installed
    assert part.device.power_limit_watts == pytest.approx(0.3725), "it never draws more"


def sensor_of(spent: Callable[[], float], now: Callable[[], float]) -> estimate.EstimateSensor:
    return estimate.EstimateSensor(DEVICE, 40.0, 20.0, cpus=8, busy_seconds=spent, clock=now)


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 600), st.floats(0, 1)), min_size=1, max_size=30),
    read=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_the_joules_are_the_same_however_often_it_is_read(steps: list[tuple[float, float]], read: list[bool]):
    now, spent = [0.0], [100.0]
    sensor = sensor_of(lambda: spent[0], lambda: now[0])
    expected = before = 0.0
    for (seconds, utilization), look in zip(steps, read, strict=False):
        now[0] += seconds
        spent[0] += 8 * utilization * seconds
        expected += seconds * (40 + 160 * utilization)
        if look:
            energy_joules = sensor.read().energy_joules
            assert energy_joules == pytest.approx(expected)
            assert energy_joules >= before
            before = energy_joules
    assert sensor.read().energy_joules == pytest.approx(expected)


@given(spent=st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_a_counter_that_leaps_or_falls_stays_between_idle_and_full(spent: list[float]):
    now, times = [0.0], iter(spent)
    sensor = sensor_of(times.__next__, lambda: now[0])
    before = 0.0
    for _ in spent[1:]:
        now[0] += 1.0
        reading = sensor.read()
        assert reading.energy_joules is not None
        assert 40 - 1e-6 <= reading.energy_joules - before <= 200 + 160 * 0.1 + 1e-6
        assert reading.power_watts is not None
        assert 40 <= reading.power_watts <= 200
        before = reading.energy_joules


def test_two_reads_at_once_know_no_power():
    sensor = sensor_of(lambda: 1.0, lambda: 5.0)
    reading = sensor.read()
    assert (reading.energy_joules, reading.power_watts, reading.utilization_ratio) == (0.0, None, None)
    sensor.close()


def test_cpu_time_that_cannot_be_read_once_is_made_up_for():
    now, answers = [0.0], iter([0.0, None, 16.0])

    def spent() -> float:
        answer = next(answers)
        if answer is None:
            raise OSError("busy")
        return answer

    sensor = sensor_of(spent, lambda: now[0])
    now[0] = 1.0
    with pytest.raises(SensorError, match="cannot read the CPU time"):
        sensor.read()
    now[0] = 2.0
    assert sensor.read().energy_joules == pytest.approx(2 * 200)


def test_this_machine_has_a_cpu():
    cpu = _cpu.read_cpu()
    assert cpu.logical >= 1
    assert cpu.threads_per_core >= 1


def test_without_cpuinfo_other_systems_are_asked(tmp_path: Path):
    cpu = _cpu.read_cpu(tmp_path)
    assert cpu.logical == psutil.cpu_count()
    assert cpu.cores_per_socket == psutil.cpu_count(logical=False)
