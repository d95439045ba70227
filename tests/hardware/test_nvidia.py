"""The simulated assertions on a real NVIDIA GPU; ``pytest tests/hardware -s`` prints figures for docs/validation.md."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time

import pynvml
import pytest

import greenml

SECONDS = 15.0
LOAD = """
import sys, time
try:
    import torch
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
except Exception as error:
    print("idle", error, flush=True); time.sleep(float(sys.argv[1])); raise SystemExit
print("busy", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
"""

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def handles():
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
    yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    pynvml.nvmlShutdown()


@pytest.fixture
def load():
    """A process that keeps the first GPU busy, where torch can; else the GPU idles."""
    process = subprocess.Popen([sys.executable, "-c", LOAD, str(SECONDS + 5)], stdout=subprocess.PIPE, text=True)
    print("load:", process.stdout.readline().strip())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_energy_is_the_counters(handles, load, tmp_path):
    """greenml's figure between two phases' edges is the difference of the card's own counter, to one step."""
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handles[0])
    except pynvml.NVMLError as error:
        pytest.skip(f"the GPU has no energy counter: {error}")
    smi: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while shutil.which("nvidia-smi") and not ended.wait(0.5):
            query = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", "0"]
            smi.append(float(subprocess.run(query, capture_output=True, text=True, check=True).stdout))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with greenml.track(tmp_path / "run.json", gpus="all") as run:
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handles[0]) / 1000
        with run.phase("load"):
            time.sleep(SECONDS)
        after = pynvml.nvmlDeviceGetTotalEnergyConsumption(handles[0]) / 1000
    ended.set()
    watcher.join()
    record = run.record
    uuid = pynvml.nvmlDeviceGetUUID(handles[0])
    device = next(device for device in record.devices if device.id == uuid)
    usage = record.phase("load").usage[uuid]
    step = 0.15 * usage.power_max_watts
    print(f"{device.name}: counter {after - before:.1f} J, greenml {usage.energy_joules:.1f} J, method {device.method}")
    print(f"power fields: {device.detail}; peak {usage.power_max_watts:.1f} W, mean {usage.power_mean_watts:.1f} W")
    if smi:
        print(f"nvidia-smi: mean {sum(smi) / len(smi):.1f} W over {len(smi)} readings")
    assert device.method == "counter"
    assert usage.energy_joules == pytest.approx(after - before, abs=2 * step)
    assert usage.power_max_watts <= 1.3 * device.power_limit_watts
    assert 0 < usage.memory_max_bytes <= device.memory_total_bytes
    print("notes:", [note.text for note in record.notes])


def test_every_gpu_is_there_once(handles, tmp_path):
    with greenml.track(tmp_path / "run.json", gpus="all") as run:
        time.sleep(3)
    uuids = sorted(pynvml.nvmlDeviceGetUUID(handle) for handle in handles)
    assert sorted(device.id for device in run.record.devices if device.kind == "gpu") == uuids
    assert all(device.usage.energy_joules > 0 for device in run.record.devices if device.kind == "gpu")
