"""Rows of the device table, bounded: many devices are shown by host and model, or by model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from greenml.record import DeviceRecord, RunRecord
from greenml.reports import _format

MOST_ROWS = 16
METHOD_WORDS = {"counter": "counter", "gauge": "gauge", "estimate": "modelled", "reported": "reported"}

Row = tuple[str, str, str, str, str, str]
Group = list[DeviceRecord]


def device_rows(record: RunRecord) -> list[Row]:
    """Return label, energy, mean power, utilization, memory peak and method, a row a device or a group.

    A group's energy is its devices' sum; its other figures are the least to the most of one device.
    """
    devices = record.devices
    several_hosts = len({device.host for device in devices}) > 1
    if len(devices) <= MOST_ROWS:
        return [_row([device], _label(device, several_hosts)) for device in devices]
    groups = _groups(devices, lambda device: (device.host, device.kind, device.name))
    if len(groups) <= MOST_ROWS:
        return [_row(group, f"{_count(group)} X {_label(group[0], several_hosts, of_group=True)}") for group in groups]
    groups = _groups(devices, lambda device: (device.kind, device.name))
    rows = []
    for group in groups[:MOST_ROWS]:
        hosts = len({device.host for device in group})
        rows.append(_row(group, f"{_count(group)} X {_label(group[0], False, of_group=True)} on {hosts} hosts"))
    if len(groups) > MOST_ROWS:
        rows.append((f"and {len(groups) - MOST_ROWS} more kinds, see run.json", "", "", "", "", ""))
    return rows


def _groups(devices: Iterable[DeviceRecord], key: Callable[[DeviceRecord], tuple[str, ...]]) -> list[Group]:
    groups: dict[tuple[str, ...], Group] = {}
    for device in devices:
        groups.setdefault(key(device), []).append(device)
    return list(groups.values())


def _count(group: Group) -> int:
    return sum(device.count for device in group)


def _label(device: DeviceRecord, with_host: bool, *, of_group: bool = False) -> str:
    index = "" if of_group else device.detail.get("index", "")
    label = " ".join(part for part in (device.kind, index, device.name) if part)
    return f"{device.host}: {label}" if with_host and device.host else label


def _row(group: Group, label: str) -> Row:
    usages = [device.usage for device in group]
    methods = dict.fromkeys(METHOD_WORDS[device.method] for device in group if device.method)
    return (
        label,
        _energy(group),
        _range([usage.power_mean_watts for usage in usages], _format.watts),
        _range([usage.utilization_ratio for usage in usages], _format.percent),
        _range([usage.memory_max_bytes for usage in usages], lambda value: f"{_format.gigabytes(value)} GB"),
        ", ".join(methods),
    )


def _energy(group: Group) -> str:
    counted = [device.usage for device in group if device.method is not None]
    if not counted:
        return "-"
    known = [usage.energy_joules for usage in counted if usage.energy_joules is not None]
    if not known:
        return _format.NOT_MEASURED
    silent = len(counted) - len(known)
    return _format.energy(sum(known)) + (f" ({silent} {_format.NOT_MEASURED})" if silent else "")


def _range(values: list[float | None], write: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return _format.interval(min(known), max(known), write) or write(known[0])
