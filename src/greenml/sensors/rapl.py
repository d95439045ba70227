"""Intel and AMD CPU packages and their DRAM, through Linux powercap.

Counted, each once: every ``package-N`` (or ``package-N-die-M``) zone and every ``dram`` zone. DRAM is not
part of its package's energy, though its zone lies below it (Intel SDM volume 3B, "RAPL Interfaces"). Not
counted: ``core`` and ``uncore``, parts of the package; ``psys``, which contains it, unless there is nothing
else; packages that ``intel-rapl-mmio`` shows again; dies that mirror one counter of their socket, as on AMD's
Zen 1 and Zen 2 (https://github.com/mlco2/codecarbon/issues/1274). AMD packages have the same names, no DRAM.

A counter that fell has wrapped, which is undone here. If that, or any growth, means more joules than
``MAX_WATTS`` gives in the time since the last read, the counter restarted or ran on through a suspend; if it may
have wrapped more than once since then, how often is not known. What the run used is then not known, so the read
raises ``SensorError`` once and adds nothing. The next begins at 0, as after a reset: the time between is a gap.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from greenml.errors import SensorError, SensorLostError
from greenml.sensors._cpu import PROC, read_cpu
from greenml.trace.types import Device, Kind, Reading, Sensor, Wanted
from greenml.units import JOULES_PER_MICROJOULE

POWERCAP = Path("/sys/class/powercap")

# More than any package or its DRAM draws (the largest TDP in data/cpus.csv is 500 W): no wrap is doubted.
MAX_WATTS = 1000.0
# Readings are milliseconds apart from their timestamps; a second's worth of power forgives that.
SLACK_SECONDS = 1.0
# "The energy status register is updated approximately every 1 ms": Intel SDM volume 3B, "RAPL Interfaces".
STEP_SECONDS = 0.001
WATTS_PER_MICROWATT = 1e-6
RARE_SECONDS = 10.0  # a counter that cannot wrap twice in this time may be read every few seconds
BURST_RATIO = 2.0  # of the long-term power limit
# Intel since Haswell measures, to a few per cent (Hackenberg et al. 2015, doi 10.1109/IPDPSW.2015.70;
# Khan et al. 2018, "RAPL in Action", doi 10.1145/3177754).
INTEL_CALIBRATION_RATIO = 0.05
# AMD models from activity and misses what depends on the data (Schöne et al. 2021, arXiv 2108.00808).
AMD_CALIBRATION_RATIO = 0.10
# DRAM follows the truth with an offset that differs from system to system, smaller under load and on servers
# (Desrochers, Paradis, Weaver 2016, doi 10.1145/2989081.2989088).
DRAM_CALIBRATION_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class _Zone:
    """A folder of powercap and the id of what it counts: ``package-0``, ``dram-0``."""

    kind: Kind
    id: str
    folder: Path

    @property
    def energy(self) -> Path:
        return self.folder / "energy_uj"


def probe(wanted: Wanted = Wanted(), *, root: Path = POWERCAP, proc: Path = PROC) -> list[Sensor]:  # noqa: B008 (frozen)
    """Return one sensor a CPU package and one a DRAM zone, packages first.

    Args:
        wanted: not used; a package cannot be divided.
        root: the powercap class folder.
        proc: where ``cpuinfo`` is.

    Raises:
        SensorError: there is no zone below ``root``, or one may not be read.
    """
    zones = list(_zones(root))
    packages = [zone for zone in zones if zone.id.startswith("package")]
    psys = [zone for zone in zones if zone.id == "psys"][:1]
    chosen = _without_mirrors(packages) or psys
    if not chosen:
        raise SensorError(_nothing(root))
    for zone in chosen:
        _microjoules(zone)
    note = "" if packages else "the whole platform (psys): more than the CPU, and DRAM is in it"
    drams: list[_Zone] = []
    try:
        if packages:
            drams = _without_mirrors([zone for zone in zones if zone.kind == "dram"])
        for zone in drams:
            _microjoules(zone)
    except SensorError as error:  # the packages are worth having alone; DRAM can then be modelled
        drams, note = [], f"DRAM was not measured: {error}"
    cpu = read_cpu(proc)
    return [RaplSensor(_device(zone, cpu.model, cpu.vendor, note), zone) for zone in chosen + drams]


class RaplSensor:
    """The energy counter of one zone, with its wraps undone.

    Args:
        device: what it measures.
        zone: its folder.
        clock: monotonic seconds.
    """

    def __init__(self, device: Device, zone: _Zone, clock: Callable[[], float] = time.monotonic) -> None:
        self.device = device
        self._zone = zone
        self._clock = clock
        self._range = _number(zone.folder / "max_energy_range_uj")
        self._most_watts = device.power_limit_watts or MAX_WATTS
        self._last = _microjoules(zone)
        self._last_seconds = clock()
        self._total = self._last  # the zone's own origin, so that another process can go on from here

    @property
    def interval_seconds(self) -> float:
        """A second, or less where the counter could wrap twice between two reads."""
        if not self._range:
            return 1.0
        return min(1.0, self._range * JOULES_PER_MICROJOULE / MAX_WATTS / 2)

    @property
    def cumulative(self) -> bool:
        """Whether it may be read every few seconds: its counter cannot wrap twice in that time."""
        return not self._range or self._range * JOULES_PER_MICROJOULE / MAX_WATTS / 2 >= RARE_SECONDS

    def read(self) -> Reading:
        """Read the joules on the zone's own counter, wraps undone.

        Raises:
            SensorError: it cannot be read now, or it jumped and the joules since the last read are not known.
            SensorLostError: the zone is gone.
        """
        now, seconds = _microjoules(self._zone), self._clock()
        grown, since = now - self._last, seconds - self._last_seconds
        likely = self._most_watts * since / JOULES_PER_MICROJOULE
        possible = (MAX_WATTS if grown >= 0 else self._most_watts) * (since + SLACK_SECONDS) / JOULES_PER_MICROJOULE
        if grown < 0:
            grown += self._range or 0
        self._last, self._last_seconds = now, seconds
        if not 0 <= grown <= possible or (self._range and likely > self._range):
            self._total = 0
            raise SensorError(
                f"RAPL: the counter {self._zone.energy} jumped or was not read for long, as after a suspend;"
                f" what {self._zone.id} used since the last read is not counted"
            )
        self._total += grown
        return Reading(energy_joules=self._total * JOULES_PER_MICROJOULE)

    def close(self) -> None:
        """Nothing is held open."""


def _zones(root: Path) -> Iterator[_Zone]:
    """Yield packages, psys and DRAM, without what ``intel-rapl-mmio`` shows again."""
    seen: dict[str, str] = {}
    for folder in _tops(root):
        name = _name(folder)
        if not (name.startswith("package") or name == "psys"):
            continue
        driver = folder.name.partition(":")[0]
        if seen.setdefault(name, driver) != driver:
            continue
        yield _Zone("cpu", name, folder)
        for child in _children(root, folder):
            if _name(child) == "dram":
                yield _Zone("dram", name.replace("package", "dram", 1), child)


def _tops(root: Path) -> list[Path]:
    return sorted((path for path in root.glob("intel-rapl*:*") if path.name.count(":") == 1), key=_order)


def _children(root: Path, top: Path) -> list[Path]:
    # The class folder lists subzones beside their parents, the device folder below them.
    zones = {path.name: path for place in (root, top) for path in place.glob(f"{top.name}:*")}
    return sorted(zones.values(), key=_order)


def _order(path: Path) -> tuple[str, list[int]]:
    driver, *numbers = path.name.split(":")
    return driver, [int(number) if number.isdecimal() else 0 for number in numbers]


def _without_mirrors(zones: Iterable[_Zone]) -> list[_Zone]:
    """Drop the dies of a socket that show the counter of one before them, and make ids unique."""
    kept: list[_Zone] = []
    for zone in zones:
        socket = zone.id.partition("-die-")[0]
        siblings = [other for other in kept if other.id.partition("-die-")[0] == socket]
        if any(_mirror(other, zone) for other in siblings):
            continue
        same = sum(other.id.partition("#")[0] == zone.id for other in kept)
        kept.append(_Zone(zone.kind, f"{zone.id}#{same}" if same else zone.id, zone.folder))
    return kept


def _mirror(zone: _Zone, other: _Zone) -> bool:
    # Separate counters are kilojoules apart soon after boot; a mirror lies between two reads of the first.
    step = MAX_WATTS * STEP_SECONDS / JOULES_PER_MICROJOULE
    before, between, after = _microjoules(zone), _microjoules(other), _microjoules(zone)
    return between > 0 and before - step <= between <= after + step


def _device(zone: _Zone, model: str, vendor: str, note: str) -> Device:
    calibration = AMD_CALIBRATION_RATIO if vendor == "AuthenticAMD" else INTEL_CALIBRATION_RATIO
    return Device(
        kind=zone.kind,
        id=zone.id,
        name=model or "CPU" if zone.kind == "cpu" else "DRAM",
        method="counter",
        sensor="rapl",
        calibration_ratio=calibration if zone.kind == "cpu" else DRAM_CALIBRATION_RATIO,
        step_seconds=STEP_SECONDS,
        power_limit_watts=_highest_watts(zone.folder),
        detail={"zone": zone.folder.name, **({"includes": "dram"} if zone.id == "psys" else {})},
        note=note if zone.kind == "cpu" else "",
    )


def _highest_watts(folder: Path) -> float | None:
    """Return the most that a zone draws; None where it has no power limit.

    The long-term limit (PL1) is one of the mean over seconds, and bursts go up to about twice that; the others (PL2,
    PL4), where they are higher, are what bursts may reach.
    """
    limits = [_number(path) or 0 for path in sorted(folder.glob("constraint_*_power_limit_uw"))]  # 0: none set
    long_term = _number(folder / "constraint_0_power_limit_uw") or 0
    highest = max(BURST_RATIO * long_term, *limits, 0) * WATTS_PER_MICROWATT
    return min(highest, MAX_WATTS) or None


def _microjoules(zone: _Zone) -> int:
    try:
        return int(zone.energy.read_text())
    except PermissionError:  # root only since CVE-2020-8694 (Platypus)
        # In the class folder every zone and subzone lies at one level, so this one pattern opens them all.
        grant = f'run "sudo chmod a+r {zone.folder.parent}/intel-rapl*:*/energy_uj" (until the next boot)'
        raise SensorError(f"RAPL: no permission to read {zone.energy}; {grant}") from None
    except (OSError, ValueError) as error:
        gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENODEV)
        kind = SensorLostError if gone else SensorError
        raise kind(f"RAPL: cannot read {zone.energy}: {error}; is the intel_rapl driver loaded?") from error


def _nothing(root: Path) -> str:
    if any(root.glob("intel-rapl*:*")):
        return (
            f"RAPL: the zones below {root} cannot be looked into, as in a container;"
            " mount /sys/devices/virtual/powercap into it, read-only"
        )
    return (
        f"RAPL: no CPU package below {root}; virtual machines and other systems than Linux have none,"
        ' on a Linux server try "sudo modprobe intel_rapl_msr"'
    )


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
