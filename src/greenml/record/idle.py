"""The idle share of a run: the energy and the time of devices that did next to nothing, and what those cost.

It is read off the record's timeline. A bin of a device is idle where its mean utilization is below
``IDLE_BELOW_RATIO``; shorter idleness within a busy bin is not seen. The idle share of each device's timeline is
applied to the device's energy, so that the sum fits the record:

    idle joules = sum over devices of E_device x (sum of P x dt over idle bins / sum of P x dt over all bins)

Emissions go with energy. Money goes with time: a machine is paid by the hour, so the cost is the share of the devices'
hours that were idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from greenml.record.schema import DeviceRecord, RunRecord, Series, Timeline

IDLE_BELOW_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class Idle:
    """The idle share of a run.

    Attributes:
        kind: of the devices: gpu, or cpu where no GPU was measured.
        devices: how many of them have both power and utilization in the timeline.
        of_devices: how many of them there are.
        energy_joules: used while idle.
        energy_ratio: of these devices' energy.
        idle_seconds: summed over devices.
        known_seconds: in which power and utilization were read, summed over devices.
        emissions_grams: of the idle energy; None where the run's emissions are not known.
        cost_usd: of the idle time, by tier.
        bin_seconds: of the timeline; shorter idleness is not seen.
        all_idle_spans: seconds of the run in which every one of these devices was idle.
    """

    kind: str
    devices: int
    of_devices: int
    energy_joules: float
    energy_ratio: float
    idle_seconds: float
    known_seconds: float
    emissions_grams: float | None
    cost_usd: dict[str, float] = field(default_factory=dict)
    bin_seconds: float = 0.0
    all_idle_spans: tuple[tuple[float, float], ...] = ()

    @property
    def time_ratio(self) -> float:
        """The idle share of these devices' hours."""
        return self.idle_seconds / self.known_seconds


@dataclass(frozen=True, slots=True)
class _DeviceBins:
    """A device's bins: the watts where power and utilization are known, and whether the bin is idle."""

    device: DeviceRecord
    watts: list[float | None]
    idle: list[bool | None]

    def seconds(self, widths: list[float], *, idle_only: bool) -> float:
        return sum(
            width
            for width, is_idle in zip(widths, self.idle, strict=False)
            if is_idle is not None and (is_idle or not idle_only)
        )

    def joules(self, widths: list[float], *, idle_only: bool) -> float:
        return sum(
            (watts or 0.0) * width
            for watts, width, is_idle in zip(self.watts, widths, self.idle, strict=False)
            if is_idle is not None and (is_idle or not idle_only)
        )


def idle(record: RunRecord) -> Idle | str:
    """Return the idle share of a run, or the reason why it is not known."""
    timeline = record.timeline
    if timeline is None:
        return "the record has no timeline"
    kind = "gpu" if any(device.kind == "gpu" for device in record.devices) else "cpu"
    devices = [device for device in record.devices if device.kind == kind]
    series = {row.device: row for row in timeline.series}
    step = timeline.step_seconds
    widths = [min(step, max(record.duration_seconds - place * step, 0.0)) for place in range(timeline.bins)]
    known = [
        bins
        for device in devices
        if (bins := _bins(device, series, record)) is not None and bins.joules(widths, idle_only=False) > 0
    ]
    joules = sum(bins.device.usage.energy_joules or 0.0 for bins in known)
    seconds = sum(bins.seconds(widths, idle_only=False) for bins in known)
    if seconds <= 0 or joules <= 0:
        name = "GPU" if kind == "gpu" else "CPU"
        return f"no {name} tells both its power and its utilization over time"
    idle_joules = sum(
        (bins.device.usage.energy_joules or 0.0)
        * bins.joules(widths, idle_only=True)
        / bins.joules(widths, idle_only=False)
        for bins in known
    )
    idle_seconds = sum(bins.seconds(widths, idle_only=True) for bins in known)
    total = record.total()
    grams = None
    if total is not None and total.emissions_grams.value is not None and total.it_energy_joules.value:
        grams = total.emissions_grams.value * idle_joules / total.it_energy_joules.value
    costs = total.cost_usd if total is not None else {}
    return Idle(
        kind=kind,
        devices=len(known),
        of_devices=len(devices),
        energy_joules=idle_joules,
        energy_ratio=idle_joules / joules,
        idle_seconds=idle_seconds,
        known_seconds=seconds,
        emissions_grams=grams,
        cost_usd={tier: cost.value * idle_seconds / seconds for tier, cost in costs.items() if cost.value is not None},
        bin_seconds=step,
        all_idle_spans=_all_idle(known, timeline, widths),
    )


def _bins(device: DeviceRecord, series: Mapping[str, Series], record: RunRecord) -> _DeviceBins | None:
    """Return a device's bins; None where its energy, power or utilization is not known."""
    row = series.get(device.id)
    if row is None or not row.power_watts or device.usage.energy_joules is None:
        return None
    ratios = row.utilization_ratio or _of_host(series, device, record)
    known = list(zip(row.power_watts, ratios, strict=False))
    return _DeviceBins(
        device,
        [watts for watts, _ in known],
        [None if watts is None or ratio is None else ratio < IDLE_BELOW_RATIO for watts, ratio in known],
    )


def _of_host(series: Mapping[str, Series], device: DeviceRecord, record: RunRecord) -> list[float | None]:
    """Return the utilization of a CPU package's host: packages do not tell theirs."""
    if device.kind != "cpu":
        return []
    host = next((host for host in record.devices if host.kind == "host" and host.host == device.host), None)
    return series[host.id].utilization_ratio if host is not None and host.id in series else []


def _all_idle(known: list[_DeviceBins], timeline: Timeline, widths: list[float]) -> tuple[tuple[float, float], ...]:
    spans = []
    for place, width in enumerate(widths):
        if all(place < len(bins.idle) and bins.idle[place] for bins in known):
            start = place * timeline.step_seconds
            spans.append((start, start + width))
    return tuple(spans)
