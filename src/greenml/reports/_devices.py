"""Rows of the device table, bounded: many devices are shown by host and model, or by model alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from greenml.record import DeviceRecord, RunRecord
from greenml.reports import _format

MOST_ROWS = 16
KIND_WORDS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM", "host": "host", "process": "this run's processes"}
METHOD_WORDS = {"counter": "counter", "gauge": "gauge", "estimate": "modelled", "reported": "reported"}

Row = tuple[str, str, str, str, str, str]
Group = list[DeviceRecord]


def device_rows(record: RunRecord) -> list[Row]:
    """Return label, energy, mean power, utilization, memory peak and method, a row a device or a group.

    A group's energy is its devices' sum; its other figures are the least to the most of one device.
    """
    found = groups(record)
    rows = [_row(group, label) for label, group in found[:MOST_ROWS]]
    if len(found) > MOST_ROWS:
        rows.append((f"and {len(found) - MOST_ROWS} more kinds, see run.json", "", "", "", "", ""))
    return rows


def groups(record: RunRecord) -> list[tuple[str, Group]]:
    """Return the devices with their labels: each alone, or by host and model, or by model where those are too many."""
    devices = record.devices
    several_hosts = len({device.host for device in devices}) > 1
    if len(devices) <= MOST_ROWS:
        return [(_label(device, several_hosts), [device]) for device in devices]
    found = _groups(devices, lambda device: (device.host, device.kind, device.name))
    if len(found) <= MOST_ROWS:
        return [(f"{_count(group)} X {_label(group[0], several_hosts, of_group=True)}", group) for group in found]
    made = []
    for group in _groups(devices, lambda device: (device.kind, device.name)):
        hosts = len({device.host for device in group})
        made.append((f"{_count(group)} X {_label(group[0], False, of_group=True)} on {hosts} hosts", group))
    return made


def short_names(devices: Sequence[DeviceRecord]) -> list[str]:
    """Return short names that differ: ``GPU 3``, ``CPU``, ``CPU package-1`` of two; of several hosts, theirs."""
    several_hosts = len({device.host for device in devices}) > 1
    alike = Counter((device.host, device.kind) for device in devices)
    names = []
    for device in devices:
        kind = KIND_WORDS[device.kind]
        own = device.id.removeprefix(f"{device.host}/").removesuffix("-dram")
        own = own if alike[device.host, device.kind] > 1 else ""
        which = {"gpu": device.detail.get("index", ""), "cpu": own, "dram": own}.get(device.kind, "")
        name = f"{kind} {which}".strip()
        names.append(f"{device.host} {name}" if several_hosts and device.host else name)
    counts = Counter(names)
    return [f"{name} ({device.id})" if counts[name] > 1 else name for name, device in zip(names, devices, strict=True)]


def short_group_names(found: Sequence[tuple[str, Group]]) -> list[str]:
    """Return short names of groups that differ: ``64 GPUs``, with the host where a group is of one of several."""
    if all(len(group) == 1 for _, group in found):
        return short_names([group[0] for _, group in found])
    several_hosts = len({device.host for _, group in found for device in group}) > 1
    names = []
    for _, group in found:
        count, word = _count(group), KIND_WORDS[group[0].kind]
        name = word if group[0].kind == "process" else f"{count} {word}{'s' if count > 1 else ''}"
        of_one = several_hosts and len({device.host for device in group}) == 1
        names.append(f"{group[0].host} {name}" if of_one else name)
    counts = Counter(names)
    return [label if counts[name] > 1 else name for name, (label, _) in zip(names, found, strict=True)]


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
