"""GPUs of which only a part can be known: each is in the record with the reason, and nothing is counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from . import simnvml
from .conftest import DECLARE, read_twice, tolerance_joules
from .simnvml import A100, H100, UNKNOWN, Constant, Error, Gpu, Hang, Script

NO_PERMISSION, NOT_SUPPORTED = 4, 3
NOTHING = tuple(Error(name) for name in ("nvmlDeviceGetPowerUsage", "field:83", "field:185", "field:186"))
SUPERCHIP = replace(
    H100, name="NVIDIA GH200 480GB", power=400.0, module_power=650.0, scopes=("module",), counter_scope="module"
)


# Superchips


def unread_joules(program, usage, watts):
    """What the phase used before the first reading, which comes late on busy cores, and beyond edges read late."""
    return tolerance_joules(usage, peak_watts=watts, seconds=program.record.phase("train").seconds)


@pytest.mark.parametrize(
    ("fields", "module", "method"),
    [
        ({}, True, "counter"),
        ({"scopes": ("gpu", "module")}, True, "counter"),
        ({"scopes": ("gpu", "module", "memory")}, True, "counter"),
        ({"scopes": ("gpu", "module"), "counter_scope": "gpu"}, False, "counter"),
        ({"scopes": ("gpu",), "counter_scope": "gpu"}, False, "counter"),
        ({"scopes": ("gpu",), "counter_scope": "gpu", "one_scope": True}, False, "counter"),
        ({"counter": False}, True, "gauge"),
        ({"counter": False, "scopes": ("gpu", "module")}, False, "gauge"),
        ({"faults": (Error("field:186"),)}, True, "counter"),  # only the average of each scope
    ],
)
def test_the_scope_is_that_whose_power_the_counter_follows(child, fields, module, method):
    script = Script(gpus=(replace(SUPERCHIP, **fields),))
    device, first, second = child(script, read_twice(1.0))
    assert (device["kind"], device["method"]) == ("gpu", method)
    assert device["detail"].get("scope", "gpu") == ("module" if module else "gpu")
    assert device["detail"].get("includes", "") == ("cpu dram" if module else "")
    assert ("module" in device["note"]) == module
    assert second["power_watts"] == pytest.approx(650.0 if module else 400.0, rel=0.01)
    if method == "counter":
        seconds = second["before"] - first["before"]
        assert second["energy_joules"] - first["energy_joules"] == pytest.approx(
            (650.0 if module else 400.0) * seconds, rel=0.15
        )


def test_a_module_is_counted_once(start):
    program = start([SUPERCHIP], 4.0)
    said = program.said()
    record = program.record
    assert {device.kind for device in record.devices} == {"gpu", "host", "process"}
    [usage] = [usage for usage in record.phase("train").usage.values() if usage.energy_joules is not None]
    begin, end = (program.script.seconds(said[name]) for name in ("begin", "end"))
    truth = program.script.gpus[0].module_joules(begin, end)
    assert usage.energy_joules == pytest.approx(truth, abs=0.03 * truth + unread_joules(program, usage, 650.0))
    assert record.total("train").it_energy_joules.value == pytest.approx(usage.energy_joules)


def test_two_gpus_that_read_the_counter_of_one_module_are_counted_once(start):
    """And those of two modules twice."""
    first, second = replace(SUPERCHIP, uuid="GPU-a"), replace(SUPERCHIP, uuid="GPU-b")
    other = replace(SUPERCHIP, uuid="GPU-c", counter_base_millijoules=9e9, power=200.0)
    program = start([first, second, other], 3.0)
    said = program.said()
    begin, end = (program.script.seconds(said[name]) for name in ("begin", "end"))
    usages = program.record.phase("train").usage
    truth = program.script.gpus[0].module_joules(begin, end)
    late = unread_joules(program, usages["GPU-a"], 650.0)
    assert usages["GPU-a"].energy_joules == pytest.approx(truth, abs=0.04 * truth + late)
    assert usages["GPU-b"].energy_joules is None
    assert "GPU-a" in usages["GPU-b"].why
    late = unread_joules(program, usages["GPU-c"], 650.0)
    assert usages["GPU-c"].energy_joules == pytest.approx(truth, abs=0.04 * truth + late)
    assert usages["GPU-b"].utilization_ratio is not None


def test_beside_a_gpu_of_a_superchip_that_counts_for_itself_the_cpu_is_modelled(start):
    program = start([replace(SUPERCHIP, scopes=("gpu", "module"), counter_scope="gpu")], 3.0)
    program.said()
    assert {device.kind for device in program.record.devices} == {"gpu", "cpu", "dram", "host", "process"}


# GPUs that are there and whose energy is not known


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        pytest.param(Gpu(counter=False, sample_capacity=0, faults=NOTHING), "neither energy nor power", id="vGPU"),
        pytest.param(
            Gpu(
                name="Orin (nvgpu)", counter=False, sample_capacity=0,
                faults=(*NOTHING, Error("nvmlDeviceGetPciInfo"), Error("nvmlDeviceGetMemoryInfo"),
                        Error("nvmlDeviceGetUtilizationRates"), Error("nvmlDeviceGetEnforcedPowerLimit")),
            ),
            "neither energy nor power", id="Jetson",
        ),
        pytest.param(Gpu(faults=(Error("*", NO_PERMISSION),)), "Insufficient Permissions", id="no permission"),
        pytest.param(Gpu(lost_at=0.0), "GPU is lost", id="lost from the start"),
        pytest.param(Gpu(faults=(Error("*", UNKNOWN),)), "Unknown Error", id="fault from the start"),
    ],
)  # fmt: skip
def test_a_gpu_whose_energy_is_not_known_is_in_the_record_with_the_reason(start, gpu, reason):
    program = start([gpu], 2.0)
    program.said()
    [device] = program.gpus()
    assert device.usage.energy_joules is None
    assert reason in device.usage.why
    assert device.method is None
    total = program.record.total()
    assert total.gpu_energy_joules.value is None
    assert reason in total.gpu_energy_joules.why


def test_one_gpu_with_trouble_costs_itself_alone(start):
    program = start([Gpu(power=200.0, faults=(Error("*", UNKNOWN),)), Gpu(power=100.0)], 3.0)
    said = program.said()
    usages = {device.detail["index"]: device for device in program.gpus()}
    assert usages["0"].usage.energy_joules is None
    well = program.record.phase("train").usage[usages["1"].id]
    truth = program.script.energy_joules(1, said["begin"], said["end"])
    assert well.energy_joules == pytest.approx(truth, abs=0.03 * truth + unread_joules(program, well, 100.0))


def test_a_gpu_that_this_process_may_not_touch_is_left_out_beside_one_that_it_may(child):
    script = Script(gpus=(Gpu(faults=(Error("*", NO_PERMISSION),)), Gpu(uuid="GPU-mine")))
    assert [device["id"] for device in child(script, DECLARE)] == ["GPU-mine"]


def test_two_gpus_of_one_uuid_are_two_and_each_is_counted(start):
    """As some hypervisors pass them through: all zeros, or a copy of one."""
    same = "GPU-00000000-0000-0000-0000-000000000000"
    program = start([Gpu(power=200.0, uuid=same), Gpu(power=100.0, uuid=same)], 2.0)
    said = program.said()
    devices = program.gpus()
    assert [device.id for device in devices] == ["pci-00000000:07:00.0", "pci-00000000:0f:00.0"]
    for at, device in enumerate(devices):
        usage = program.record.phase("train").usage[device.id]
        truth = program.script.energy_joules(at, said["begin"], said["end"])
        assert usage.energy_joules == pytest.approx(truth, abs=0.03 * truth + unread_joules(program, usage, 200.0))


KERNEL = """
from pathlib import Path
proc, dev = Path("proc"), Path("dev"); dev.mkdir()
for minor, pci in enumerate(("0000:07:00.0", "0000:0f:00.0")):
    folder = proc / "driver/nvidia/gpus" / pci; folder.mkdir(parents=True)
    facts_of = {"Model": "NVIDIA A100-SXM4-40GB", "GPU UUID": f"GPU-00{minor}-aa", "Device Minor": minor}
    (folder / "information").write_text("".join(f"{key}: \\t {value}\\n" for key, value in facts_of.items()))
(dev / "nvidia1").touch()
out = []
for s in nvml.probe(Wanted(), proc=proc, dev=dev):
    out.append([facts(s), reading(s)])
say(out)
"""


@pytest.mark.parametrize(
    ("code", "reason"), [(18, "reload it or reboot"), (9, "load the NVIDIA driver"), (999, "Unknown")]
)
def test_gpus_that_the_kernel_lists_are_declared_where_the_library_does_not_work(
    child, tmp_path, monkeypatch, code, reason
):
    """Only those whose device file is here: a container sees the host's list and not its GPUs."""
    monkeypatch.chdir(tmp_path)
    [[device, answer]] = child(Script(faults=(Error("nvmlInit", code),)), KERNEL)
    assert (device["id"], device["method"]) == ("GPU-001-aa", None)
    assert device["power_limit_watts"] == 400.0
    assert reason in device["note"]
    assert reason in answer["lost"]


# Fields that fail


@pytest.mark.parametrize("fields", [{}, {"counter": False}, {"counter": False, "sample_capacity": 0}])
def test_a_power_or_a_step_of_the_counter_that_no_device_has_is_not_counted(start, fields):
    """A driver that does not know its power may tell -1 milliwatt as an unsigned number: 4,294,967 W."""
    absurd = (Constant(200.0, end=4.0), Constant(4_294_967.0, 4.0, 4.1), Constant(200.0, start=4.1))
    program = start([Gpu(power=absurd, window_seconds=0.02, **fields)], 6.0)
    program.said()
    [device] = program.gpus()
    usage = program.record.phase("train").usage[device.id]
    truth = 200.0 * program.record.phase("train").seconds
    assert usage.energy_joules == pytest.approx(truth, abs=0.03 * truth + unread_joules(program, usage, 200.0))
    assert device.usage.power_max_watts == pytest.approx(200.0)
    assert len(program.notes("counter-reset")) == (not fields)  # power is integrated over that step


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ([500.0, 502.0, 1.8e16, 504.0, 506.0], [500.0, 502.0, None, 504.0, 506.0]),  # of one reading
        ([500.0, 502.0, 1e9, 1e9 + 2, 1e9 + 4], [500.0, 502.0, None, 0.0, 2.0]),  # of the counter
        ([500.0, 502.0, 1e9, 1e9 + 2, 3.0, 4.0], [500.0, 502.0, None, 0.0, 3.0, 4.0]),  # and then it begins anew
        ([500.0, 502.0, None, 3.0, 5.0], [500.0, 502.0, None, 3.0, 5.0]),
    ],
)
def test_a_counter_that_leaps_begins_anew_once_the_next_reading_lies_there_too(child, told, believed):
    code = f"(s,) = probe(); say([s._believed(joules, 1e6 + second) for second, joules in enumerate({told})])"
    found = child(Script(gpus=(Gpu(counter_base_millijoules=0.0),)), code)
    assert found == believed


@pytest.mark.parametrize("begin", [0.0, 8.0])
def test_where_the_counter_fails_power_is_integrated(start, begin):
    """With any error, from the start or midway; said in the record."""
    functions = ("field:83", "nvmlDeviceGetTotalEnergyConsumption")
    gpus = [
        Gpu(power=200.0, window_seconds=0.02, faults=tuple(Error(name, code, begin) for name in functions))
        for code in (UNKNOWN, 2, 15, 16, NOT_SUPPORTED)
    ]
    program = start(gpus, begin + 3.0)
    said = program.said()
    devices = program.gpus()
    assert len(devices) == len(gpus)
    for at, device in enumerate(devices):
        if begin == 0.0:
            usage = program.record.phase("train").usage[device.id]
            truth = program.script.energy_joules(at, said["begin"], said["end"])
            assert device.method == "gauge"
            late = unread_joules(program, usage, 200.0)
            assert usage.energy_joules == pytest.approx(truth, abs=0.02 * truth + late)
            assert usage.energy_low_joules <= truth <= usage.energy_high_joules
        else:
            assert device.usage.power_mean_watts == pytest.approx(200.0, rel=0.02)
            notes = [text for text in program.notes("sensor-error") if device.id in text]
            assert len(notes) == 1
            assert "its power is integrated" in notes[0]


@pytest.mark.parametrize("frozen_at", [0.0, 4.0])
def test_a_counter_that_stands_still_without_any_power_is_not_taken_for_no_energy(start, frozen_at):
    powerless = {"sample_capacity": 0, "faults": NOTHING[:1] + NOTHING[2:]}
    program = start([Gpu(power=200.0, counter_frozen_at=frozen_at, **powerless), Gpu(power=100.0)], frozen_at + 4.0)
    program.said()
    total = program.record.total().gpu_energy_joules
    assert total.at_least
    assert total.high >= 300 * (frozen_at + 4.0)
    first, _ = program.gpus()
    if not frozen_at:
        assert (first.method, first.usage.energy_joules) == (None, None)
        assert "its energy is not known" in program.notes("counter-frozen")[0]


def test_where_the_counter_and_the_power_fail_midway_nothing_is_said_to_be_integrated(start):
    functions = ("field:83", "nvmlDeviceGetTotalEnergyConsumption", *(fault.function for fault in NOTHING), "samples:0")
    gone = tuple(Error(name, NO_PERMISSION, 5.0) for name in functions)
    program = start([Gpu(power=200.0, faults=gone), Gpu(power=100.0)], 8.0)
    program.said()
    first, second = program.gpus()
    [note] = [text for text in program.notes("sensor-error") if first.id in text]
    assert "integrated" not in note
    assert "nor does its power" in note
    assert not [text for text in program.notes("sensor-error") if second.id in text]
    total = program.record.total().gpu_energy_joules
    assert total.high is None or total.high >= 200 * 7 + 100 * 7, (
        "up to the first one's limit over the rest of its time"
    )


@pytest.mark.parametrize(
    "function", ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates", "samples:0", "samples:1"]
)
@pytest.mark.parametrize("code", [UNKNOWN, 2, 16])
def test_a_figure_beside_the_energy_that_fails_costs_itself_alone(child, function, code):
    script = Script(gpus=(Gpu(power=200.0, faults=(Error(function, code),)),))
    _, first, second = child(script, read_twice(0.7))
    assert second["energy_joules"] > first["energy_joules"]


@pytest.mark.parametrize("function", ["nvmlDeviceGetName", "nvmlDeviceGetPciInfo"])
def test_what_only_describes_a_gpu_costs_no_energy(child, function):
    [device] = child(Script(gpus=(Gpu(faults=(Error(function, UNKNOWN),)),)), DECLARE)
    assert device["method"] == "counter"
    assert device["name"] == ("GPU 0" if function == "nvmlDeviceGetName" else "Tesla V100-SXM2-32GB")


def test_the_version_of_a_driver_that_does_not_tell_it_costs_no_energy(child):
    script = Script(gpus=(Gpu(power=200.0),), faults=(Error("nvmlSystemGetDriverVersion", UNKNOWN),))
    device, first, second = child(script, read_twice(0.7))
    assert (device["method"], device["detail"].get("driver", "")) == ("counter", "")
    assert second["energy_joules"] > first["energy_joules"]


def test_a_name_that_is_not_utf_8_is_read(child):
    raw = b"NVIDIA A100\xae \xff Beta".decode("utf-8", "surrogateescape")
    (device,) = child(Script(gpus=(replace(A100, name=raw),)), DECLARE)
    assert device["name"] == "NVIDIA A100\u00ae \u00ff Beta"
    assert device["method"] == "counter"


OLD_PYNVML = """
class NVMLError(Exception): pass
NVML_ERROR_NOT_SUPPORTED = 3
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param(OLD_PYNVML, "pip uninstall -y pynvml", id="pynvml 11"),
        pytest.param(
            "import no_such_package_at_all", "no_such_package_at_all is not installed", id="half an installation"
        ),
        pytest.param("raise RuntimeError('no driver of yours')", "no driver of yours", id="it raises"),
        pytest.param("1 +", "SyntaxError", id="damaged"),
    ],
)
def test_a_sensor_module_that_cannot_be_loaded_is_lost_alone(tmp_path, source, said):
    (tmp_path / "pynvml.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "greenml", "doctor"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr
    assert "cpu" in done.stdout


def test_doctor_says_the_scope(libraries, tmp_path):
    path = simnvml.write(Script(gpus=(SUPERCHIP, Gpu(faults=(Error("*", UNKNOWN),)))), tmp_path / "script")
    command = [sys.executable, "-m", "greenml", "doctor"]
    environment = os.environ | simnvml.environment(libraries(), path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert " module " in text
    assert "of the whole module (GPU, CPU and memory)" in text
    assert "Unknown Error" in text
    assert "cpu-estimate" not in text


# Which GPUs


@pytest.mark.parametrize("gpus", [[7], [0, 7], "7", ["GPU-zz"], [0, "GPU-zz"], "0,7"])
@pytest.mark.parametrize("driver", ["two GPUs", "no GPU", "no driver"])
def test_a_choice_that_fits_no_gpu_is_refused_at_once_with_those_that_are_there(child, gpus, driver):
    scripts = {
        "two GPUs": Script(gpus=(Gpu(uuid="GPU-aa"), Gpu(uuid="GPU-bb"))),
        "no GPU": Script(gpus=()),
        "no driver": Script(faults=(Error("nvmlInit", 9),)),
    }
    kind, text = child(
        scripts[driver],
        f"""
import greenml
try:
    greenml.track("run.json", gpus={gpus!r})
except greenml.GreenMLError as error:
    say([type(error).__name__, str(error)])
""",
    )
    assert kind == "SettingsError"
    assert "\\n" not in text
    if driver == "two GPUs":
        assert "0 (GPU-aa), 1 (GPU-bb)" in text
    else:
        assert "those that are there: none" in text
    if driver == "no driver":
        assert "load the NVIDIA driver" in text


def test_greenml_run_refuses_it_before_the_command(libraries, tmp_path):
    path = simnvml.write(Script(gpus=(Gpu(uuid="GPU-aa"),)), tmp_path / "script")
    command = [sys.executable, "-m", "greenml", "run", "--gpus", "0,3", "--", sys.executable, "-c", "open('ran', 'w')"]
    environment = os.environ | simnvml.environment(libraries(), path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "0 (GPU-aa)" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run.json").exists()


def test_without_a_choice_no_driver_is_asked_and_one_that_hangs_delays_no_choice_for_long(child):
    code = """
import greenml
before = time.monotonic()
greenml.track("run.json"{})
say(time.monotonic() - before)
"""
    script = Script(gpus=(Gpu(),))
    child(script, code.format(""))
    assert child.calls().total() == 0
    assert child(replace(script, faults=(Hang("nvmlInit"),)), code.format(", gpus=[0]")) < 10


# What it costs


def test_a_gpu_with_a_counter_takes_three_calls_a_second_at_most(child):
    """At the default interval of a second, once its buffers' depth is known; four kinds of GPUs side by side."""
    gpus = (Gpu(), A100, replace(A100, sample_capacity=0), replace(A100, faults=(Error("samples:1"),)))
    code = """
import os
sensors = probe(); [s.read() for s in sensors]; begun = time.monotonic(); calls = [0] * len(sensors)
def count():
    return sum(1 for _ in open(os.environ["SIMNVML_CALLS"]))
for second in range(1, 18):
    time.sleep(max(0, begun + second - time.monotonic()))
    for at, s in enumerate(sensors):
        before = count(); s.read(); calls[at] += (count() - before) * (second > 2)
say(calls)
"""
    calls = child(Script(gpus=tuple(replace(gpu, power=200.0, uuid=f"GPU-{at}") for at, gpu in enumerate(gpus))), code)
    assert all(0 < count <= 3 * 15 for count in calls), calls
    assert calls[1] < 2 * 15, calls  # a counter, and buffers that are many seconds deep


def test_most_readings_ask_for_the_energy_alone_and_a_counter_that_stands_still_is_noticed(child):
    gpu = replace(A100, power=200.0, uuid="GPU-0", counter_frozen_at=14.0)
    code = """
import os
[s] = probe(); s.read(); begun = time.monotonic(); rows = []
def names():
    return [line.split()[2] for line in open(os.environ["SIMNVML_CALLS"])]
for second in range(1, 22):
    time.sleep(max(0, begun + second - time.monotonic()))
    before = len(names()); reading = s.read()
    rows.append([names()[before:], reading.energy_joules, bool(reading.power_samples)])
say(rows)
"""
    rows = child(Script(gpus=(gpu,)), code)
    stands = [number for number, (row, last) in enumerate(zip(rows[1:], rows, strict=False), 1) if row[1] == last[1]]
    counts = [names for names, _, _ in rows[: stands[0]]]
    alone = [names for names in counts if len(names) == 1]
    assert len(counts) > 8
    assert len(alone) > len(counts) / 3, counts
    assert all("FieldValues" in name for [name] in alone)
    asked = [name for names in counts for name in names]
    assert 3 <= sum("Samples" in name for name in asked) <= len(counts), "each of three kinds, some seconds apart"
    assert len(counts) / 4 <= sum("MemoryInfo" in name for name in asked) <= len(counts) / 2 + 1
    assert len(stands) > 4
    assert all(sampled for _, _, sampled in rows[stands[2] :]), "then its power is read each time"
