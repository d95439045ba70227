"""How much of a run was idle: the energy and the time of devices that did next to nothing, and what those cost.

Read off the record's timeline. A bin of a device is idle where its mean utilization is below 10 %; shorter idleness
within a busy bin is not seen. The idle share of each device's timeline is applied to the device's own energy, so that
the sum fits the record:

    idle joules = sum over devices of E_device x (sum of P x dt over idle bins / sum of P x dt over all bins)

Emissions go with energy. Money goes with time: a machine is paid by the hour, so the cost is the share of the devices'
hours that were idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from greenml.record import DeviceRecord, RunRecord, Series, Timeline

IDLE_BELOW_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class Idle:
    """What was idle of a run.

    Attributes:
        kind: of the devices looked at: gpu, or cpu where no GPU was measured.
        devices: how many of them tell both power and utilization.
        of_devices: how many of them there are.
        energy_joules: used while idle.
        energy_ratio: of these devices' energy.
        time_ratio: of these devices' hours.
        emissions_grams: of that energy; None where the run's emissions are not known.
        cost_usd: of that time, by tier.
        bin_seconds: of the timeline; shorter idleness is not seen.
    """

    kind: str
    devices: int
    of_devices: int
    energy_joules: float
    energy_ratio: float
    time_ratio: float
    emissions_grams: float | None
    cost_usd: dict[str, float] = field(default_factory=dict)
    bin_seconds: float = 0.0


def idle(record: RunRecord) -> Idle | str:
    """Return what was idle of a run, or the reason why that is not known."""
    timeline = record.timeline
    if timeline is None:
        return "the record has no timeline"
    kind = "gpu" if any(device.kind == "gpu" for device in record.devices) else "cpu"
    devices = [device for device in record.devices if device.kind == kind]
    series = {one.device: one for one in timeline.series}
    used = idle_joules = seconds = idle_seconds = 0.0
    looked = 0
    for device in devices:
        found = _shares(timeline, series, device, record)
        if found is None or device.usage.energy_joules is None:
            continue
        energy_ratio, busy_seconds, quiet_seconds = found
        looked += 1
        used += device.usage.energy_joules
        idle_joules += device.usage.energy_joules * energy_ratio
        seconds += busy_seconds + quiet_seconds
        idle_seconds += quiet_seconds
    if not looked or seconds <= 0 or used <= 0:
        name = "GPU" if kind == "gpu" else "CPU"
        return f"no {name} tells both its power and its utilization over time"
    total = record.total()
    grams = None
    if total is not None and total.emissions_grams.value is not None and total.it_energy_joules.value:
        grams = total.emissions_grams.value * idle_joules / total.it_energy_joules.value
    time_ratio = idle_seconds / seconds
    return Idle(
        kind=kind,
        devices=looked,
        of_devices=len(devices),
        energy_joules=idle_joules,
        energy_ratio=idle_joules / used,
        time_ratio=time_ratio,
        emissions_grams=grams,
        cost_usd={
            tier: cost.value * time_ratio
            for tier, cost in (total.cost_usd if total else {}).items()
            if cost.value is not None
        },
        bin_seconds=timeline.step_seconds,
    )


def _shares(
    timeline: Timeline, series: Mapping[str, Series], device: DeviceRecord, record: RunRecord
) -> tuple[float, float, float] | None:
    """Return the idle share of a device's energy, its busy seconds and its idle ones; None where that is not known."""
    own = series.get(device.id)
    if own is None or not own.power_watts:
        return None
    ratios = own.utilization_ratio or _of_host(series, device, record)
    joules = idle_joules = busy = quiet = 0.0
    for place, (watts, ratio) in enumerate(zip(own.power_watts, ratios, strict=False)):
        if watts is None or ratio is None:
            continue
        width = min(timeline.step_seconds, max(record.duration_seconds - place * timeline.step_seconds, 0.0))
        joules += watts * width
        if ratio < IDLE_BELOW_RATIO:
            idle_joules += watts * width
            quiet += width
        else:
            busy += width
    return (idle_joules / joules, busy, quiet) if joules > 0 else None


def _of_host(series: Mapping[str, Series], device: DeviceRecord, record: RunRecord) -> list[float | None]:
    """Return the utilization of a CPU package's host: packages do not tell their own."""
    if device.kind != "cpu":
        return []
    host = next((one for one in record.devices if one.kind == "host" and one.host == device.host), None)
    return series[host.id].utilization_ratio if host is not None and host.id in series else []
