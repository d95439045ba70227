"""RAPL on recorded powercap trees: what is counted once, wraps, restarts, permissions."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SensorError, SensorLostError
from greenml.factors import tables
from greenml.sensors import rapl
from greenml.trace.types import Device

RANGE = 262_143_328_850  # microjoules: 2^32 - 1 steps of 61 uJ, as most packages have
DRAM_RANGE = 65_712_999_613  # steps of 15.3 uJ, as the DRAM of Intel servers has

Zones = dict[str, tuple[str, int]]  # folder: (name, microjoules)

INTEL_2_SOCKETS: Zones = {
    "intel-rapl:0": ("package-0", 61_000_000_000),
    "intel-rapl:0:0": ("dram", 9_000_000_000),
    "intel-rapl:1": ("package-1", 59_000_000_000),
    "intel-rapl:1:0": ("dram", 8_000_000_000),
}
LAPTOP: Zones = {
    "intel-rapl:0": ("package-0", 5_000_000_000),
    "intel-rapl:0:0": ("core", 2_000_000_000),
    "intel-rapl:0:1": ("uncore", 1_000_000_000),
    "intel-rapl:1": ("psys", 9_000_000_000),
    "intel-rapl-mmio:0": ("package-0", 5_000_000_100),
}
AMD: Zones = {"intel-rapl:0": ("package-0", 7_000_000_000), "intel-rapl:0:0": ("core", 1_000_000_000)}
CASCADE_LAKE_AP: Zones = {
    "intel-rapl:0": ("package-0-die-0", 30_000_000_000),
    "intel-rapl:0:0": ("dram", 4_000_000_000),
    "intel-rapl:1": ("package-0-die-1", 28_000_000_000),
    "intel-rapl:1:0": ("dram", 3_000_000_000),
}
THREADRIPPER: Zones = {  # one counter, shown by each die
    "intel-rapl:0": ("package-0-die-0", 30_000_000_000),
    "intel-rapl:0:0": ("core", 1_000_000_000),
    "intel-rapl:1": ("package-0-die-1", 30_000_200_000),
    "intel-rapl:1:0": ("core", 2_000_000_000),
}


def powercap(root: Path, zones: Zones) -> Path:
    """Lay out a class folder: zones and subzones side by side, as the kernel links them."""
    (root / "intel-rapl").mkdir(parents=True)
    for folder, (name, energy) in zones.items():
        zone = root / folder
        zone.mkdir()
        (zone / "name").write_text(f"{name}\n")
        (zone / "energy_uj").write_text(f"{energy}\n")
        (zone / "max_energy_range_uj").write_text(f"{DRAM_RANGE if name == 'dram' else RANGE}\n")
        if name.startswith("package"):
            (zone / "constraint_0_power_limit_uw").write_text("205000000\n")
    return root


def proc(folder: Path, vendor: str = "GenuineIntel", model: str = "Intel(R) Xeon(R) Platinum 8168") -> Path:
    folder.mkdir()
    (folder / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: {model}\n")
    return folder


def probed(tmp_path: Path, zones: Zones) -> list[Device]:
    sensors = rapl.probe(root=powercap(tmp_path / "powercap", zones), proc=proc(tmp_path / "proc"))
    assert all(sensor.read() == sensor.read() for sensor in sensors)  # a counter that stands still adds nothing
    return [sensor.device for sensor in sensors]


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        pytest.param({"intel-rapl:0": ("package-0", 1)}, [("cpu", "package-0")], id="one socket"),
        pytest.param(
            INTEL_2_SOCKETS,
            [("cpu", "package-0"), ("cpu", "package-1"), ("dram", "dram-0"), ("dram", "dram-1")],
            id="two sockets with DRAM",
        ),
        pytest.param(LAPTOP, [("cpu", "package-0")], id="laptop: parts, psys and mmio are not counted again"),
        pytest.param(AMD, [("cpu", "package-0")], id="AMD"),
        pytest.param(
            CASCADE_LAKE_AP,
            [
                ("cpu", "package-0-die-0"),
                ("cpu", "package-0-die-1"),
                ("dram", "dram-0-die-0"),
                ("dram", "dram-0-die-1"),
            ],
            id="dies with counters of their own",
        ),
        pytest.param(THREADRIPPER, [("cpu", "package-0-die-0")], id="dies that mirror one counter"),
        pytest.param({"intel-rapl-mmio:0": ("package-0", 5)}, [("cpu", "package-0")], id="mmio alone"),
        pytest.param({"intel-rapl:0": ("psys", 5)}, [("cpu", "psys")], id="psys alone"),
        pytest.param(
            {f"intel-rapl:{n}": (f"package-{n}", n * 10**9) for n in (0, 1, 2, 10)},
            [("cpu", "package-0"), ("cpu", "package-1"), ("cpu", "package-2"), ("cpu", "package-10")],
            id="in the order of their numbers",
        ),
    ],
)
def test_each_joule_is_counted_once(tmp_path: Path, zones: Zones, expected: list[tuple[str, str]]):
    assert [(device.kind, device.id) for device in probed(tmp_path, zones)] == expected


def test_subzones_are_found_below_their_parents_too(tmp_path: Path):
    root = powercap(tmp_path / "powercap", INTEL_2_SOCKETS)
    for number in "01":
        shutil.move(root / f"intel-rapl:{number}:0", root / f"intel-rapl:{number}")
    assert len(rapl.probe(root=root, proc=proc(tmp_path / "proc"))) == 4


def test_the_device_says_what_it_is(tmp_path: Path):
    package, _, dram, _ = probed(tmp_path, INTEL_2_SOCKETS)
    assert (package.name, package.method, package.sensor) == (
        "Intel(R) Xeon(R) Platinum 8168",
        "counter",
        "rapl",
    )
    assert package.power_limit_watts == pytest.approx(410.0), "the long-term limit is none of bursts"
    assert package.step_seconds == dram.step_seconds == 0.001
    assert (dram.name, dram.power_limit_watts) == ("DRAM", None)


@pytest.mark.parametrize(
    ("limits_watts", "highest_watts"),
    [
        pytest.param([125.0], 250.0, id="twice the long-term limit"),
        pytest.param([65.0, 219.0], 219.0, id="the short-term limit, where it is higher"),
        pytest.param([205.0, 246.0, 300.0], 410.0, id="or lower"),
        pytest.param([125.0, 4095.0], rapl.MAX_WATTS, id="none set: no package draws more"),
        pytest.param([0.0], None, id="no limit"),
    ],
)
def test_bursts_may_pass_the_long_term_limit(tmp_path: Path, limits_watts: list[float], highest_watts: float | None):
    root = powercap(tmp_path / "powercap", {"intel-rapl:0": ("package-0", 5)})
    for number, watts in enumerate(limits_watts):
        (root / f"intel-rapl:0/constraint_{number}_power_limit_uw").write_text(f"{watts * 1e6:.0f}\n")
    (sensor,) = rapl.probe(root=root, proc=proc(tmp_path / "proc"))
    assert sensor.device.power_limit_watts == (None if highest_watts is None else pytest.approx(highest_watts))


def test_amd_is_doubted_more_than_intel(tmp_path: Path):
    root = powercap(tmp_path / "powercap", AMD)
    amd, intel = proc(tmp_path / "amd", vendor="AuthenticAMD"), proc(tmp_path / "intel")
    (one,), (other,) = rapl.probe(root=root, proc=amd), rapl.probe(root=root, proc=intel)
    assert one.device.calibration_ratio > other.device.calibration_ratio > 0


def test_psys_alone_says_that_it_is_more_than_the_cpu(tmp_path: Path):
    (device,) = probed(tmp_path, {"intel-rapl:0": ("psys", 5)})
    assert "more than the CPU" in device.note
    assert device.detail["includes"] == "dram"  # so that no model adds it


class Counter:
    """A zone whose counter and clock the test turns."""

    def __init__(
        self, folder: Path, start: int, range_uj: int | None = RANGE, limit_watts: float | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.zone = rapl._Zone("cpu", "package-0", folder)
        self.seconds = 0.0
        self.range_uj = range_uj
        self.shows(start)
        if range_uj is not None:
            (folder / "max_energy_range_uj").write_text(str(range_uj))
        device = Device(kind="cpu", id="package-0", name="CPU", method="counter", power_limit_watts=limit_watts)
        self.sensor = rapl.RaplSensor(device, self.zone, clock=lambda: self.seconds)

    def shows(self, energy_uj: int) -> None:
        self.energy_uj = energy_uj
        self.zone.energy.write_text(f"{energy_uj}\n")

    def uses(self, watts: float, seconds: float) -> int:
        used = int(watts * seconds * 1e6)
        self.seconds += seconds
        self.shows((self.energy_uj + used) % self.range_uj if self.range_uj else self.energy_uj + used)
        return used


@given(
    start=st.integers(0, RANGE - 1),
    steps=st.lists(st.tuples(st.floats(0, 1000), st.floats(0.001, 200)), min_size=1, max_size=30),
)
def test_wraps_lose_nothing(start: int, steps: list[tuple[float, float]]):
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder), start)
        used, before = start, 0.0  # on the counter's own scale, so that another process can go on from there
        for watts, seconds in steps:
            used += counter.uses(watts, seconds)
            energy_joules = counter.sensor.read().energy_joules
            assert energy_joules is not None
            assert energy_joules == pytest.approx(used * 1e-6)
            assert energy_joules >= before
            before = energy_joules


@given(readings=st.lists(st.integers(0, RANGE), min_size=1, max_size=30), seconds=st.floats(0, 100))
def test_the_energy_never_falls_whatever_the_counter_does(readings: list[int], seconds: float):
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder), 0)
        before = 0.0
        for reading in readings:
            counter.seconds += seconds
            counter.shows(reading)
            try:
                energy_joules = counter.sensor.read().energy_joules
            except SensorError:
                before = 0.0  # it begins again
                continue
            assert energy_joules is not None
            assert before <= energy_joules <= before + 1000 * (seconds + 1.0) + 1e-6
            before = energy_joules


def test_a_restarted_counter_adds_nothing_says_so_once_and_goes_on(tmp_path: Path):
    counter = Counter(tmp_path, 100_000_000_000)
    counter.uses(watts=200, seconds=1)
    assert counter.sensor.read().energy_joules == pytest.approx(100_000 + 200)
    counter.seconds += 1
    counter.shows(3_000_000)  # far below, and a wrap would mean 162 kJ in a second
    with pytest.raises(SensorError, match="jumped") as caught:
        counter.sensor.read()
    assert not isinstance(caught.value, SensorLostError)
    counter.uses(watts=200, seconds=1)
    assert counter.sensor.read().energy_joules == pytest.approx(200)  # as after a reset: the time before is a gap


def test_an_outage_in_which_the_counter_may_have_wrapped_more_than_once_is_a_gap(tmp_path: Path):
    counter = Counter(tmp_path, 100_000_000)
    counter.uses(watts=150, seconds=3 * 3600)
    with pytest.raises(SensorError, match="was not read for long"):
        counter.sensor.read()
    counter.uses(watts=150, seconds=2)
    assert counter.sensor.read().energy_joules == pytest.approx(300)


def test_a_restart_after_an_outage_is_no_wrap_where_the_package_cannot_draw_so_much(tmp_path: Path):
    counter = Counter(tmp_path, RANGE - 20_000_000_000, limit_watts=300.0)
    counter.seconds += 60
    counter.shows(20_000_000_000)  # 40 kJ on, if it wrapped: 667 W
    with pytest.raises(SensorError, match="jumped"):
        counter.sensor.read()


def test_joules_of_a_suspend_are_not_the_runs(tmp_path: Path):
    counter = Counter(tmp_path, 0)
    counter.seconds += 1  # the monotonic clock stood still for the night, the package did not
    counter.shows(72_000_000_000)
    with pytest.raises(SensorError, match="jumped"):
        counter.sensor.read()
    counter.uses(watts=100, seconds=1)
    assert counter.sensor.read().energy_joules == pytest.approx(100)


def test_a_fall_without_a_known_range_is_a_restart(tmp_path: Path):
    counter = Counter(tmp_path, 5_000_000, range_uj=None)
    counter.seconds += 1
    counter.shows(1_000_000)
    with pytest.raises(SensorError, match="jumped"):
        counter.sensor.read()


@pytest.mark.parametrize(
    ("range_uj", "interval_seconds"), [(RANGE, 1.0), (DRAM_RANGE, 1.0), (None, 1.0), (1_000_000_000, 0.5)]
)
def test_no_wrap_is_missed_at_the_interval(tmp_path: Path, range_uj: int | None, interval_seconds: float):
    assert Counter(tmp_path, 0, range_uj).sensor.interval_seconds == interval_seconds


def test_a_zone_that_goes_away_is_lost_and_one_that_cannot_be_read_is_not(tmp_path: Path):
    counter = Counter(tmp_path, 0)
    counter.zone.energy.write_text("")
    with pytest.raises(SensorError, match="cannot read") as caught:
        counter.sensor.read()
    assert not isinstance(caught.value, SensorLostError)
    counter.zone.energy.unlink()
    with pytest.raises(SensorLostError, match="intel_rapl"):
        counter.sensor.read()
    counter.sensor.close()


def test_no_zone_says_why(tmp_path: Path):
    with pytest.raises(SensorError, match=r"no CPU package below .*; virtual machines"):
        rapl.probe(root=tmp_path / "none", proc=tmp_path)


def test_zones_that_a_container_hides_say_so(tmp_path: Path):
    (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "masked" / "intel-rapl:0")
    with pytest.raises(SensorError, match="as in a container; mount /sys/devices/virtual/powercap"):
        rapl.probe(root=tmp_path, proc=tmp_path)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """Give a folder that anybody may enter, and take root's rights away: nothing is forbidden to root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has no user ids to give up")
    root = os.geteuid() == 0
    try:
        if root:
            shutil.chown(folder, 65534)
            tables.rows("cpu_parts")  # Python itself may lie where nobody reads
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_no_permission_names_the_file_and_the_command(as_nobody: Path):
    root = powercap(as_nobody / "powercap", INTEL_2_SOCKETS)
    for zone in root.glob("intel-rapl:*"):
        (zone / "energy_uj").chmod(0o000)
    with pytest.raises(SensorError) as caught:
        rapl.probe(root=root, proc=as_nobody)
    message = str(caught.value)
    assert f"no permission to read {root}/intel-rapl:0/energy_uj" in message
    assert f'"sudo chmod a+r {root}/intel-rapl*:*/energy_uj"' in message
    assert "\n" not in message
    # The command's pattern opens subzones as well.
    pattern = message.partition("a+r ")[2].partition('"')[0]
    opened = sorted(path.parent.name for path in root.glob(str(Path(pattern).relative_to(root))))
    assert opened == sorted(INTEL_2_SOCKETS)


def test_one_forbidden_package_is_not_half_a_measurement(as_nobody: Path):
    root = powercap(as_nobody / "powercap", INTEL_2_SOCKETS)
    (root / "intel-rapl:1" / "energy_uj").chmod(0o000)
    with pytest.raises(SensorError, match="intel-rapl:1/energy_uj"):
        rapl.probe(root=root, proc=as_nobody)


@pytest.mark.parametrize("zones", [INTEL_2_SOCKETS, CASCADE_LAKE_AP], ids=["sockets", "dies"])
def test_forbidden_dram_leaves_the_packages_and_says_so(as_nobody: Path, zones: Zones):
    root = powercap(as_nobody / "powercap", zones)
    (root / "intel-rapl:1:0" / "energy_uj").chmod(0o000)
    sensors = rapl.probe(root=root, proc=as_nobody)
    assert [sensor.device.kind for sensor in sensors] == ["cpu", "cpu"]
    assert all("DRAM was not measured: RAPL: no permission" in sensor.device.note for sensor in sensors)
