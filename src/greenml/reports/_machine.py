"""What a run ran on, in words: its devices, and the machine size that is billed."""

from __future__ import annotations

from greenml.record import DeviceRecord, RunRecord


def at_a_time(record: RunRecord, kind: str) -> list[DeviceRecord]:
    """Return the devices of a kind that the run had at a time: an attempt that goes on elsewhere has no more of them.

    Left out is what another tool reported: how many devices its figure stands for is not always known.
    """
    found = [one for one in record.devices if one.kind == kind and one.method != "reported"]
    tries = [[one for one in found if one.host in each.hosts] for each in record.attempts if each.hosts]
    return max(tries, key=len, default=found) or found


def hardware(record: RunRecord) -> str:
    """Name what the run ran on, from its devices: ``8 X Tesla V100-SXM2-32GB``; empty where nothing tells."""
    for kind in ("gpu", "cpu"):
        had = at_a_time(record, kind)
        if counts := {one.name: sum(each.count for each in had if each.name == one.name) for one in had}:
            return ", ".join(f"{count} X {name}" for name, count in counts.items())
    return ", ".join(dict.fromkeys(host.cpu_model for host in record.hosts if host.cpu_model))


def machine(record: RunRecord) -> str:
    """Name the SKU with its label and the nodes; empty where there is none."""
    place = record.place
    if not place.sku:
        return ""
    label = f"{place.sku} ({place.sku_label})" if place.sku_label else place.sku
    return f"{label}, {place.nodes} nodes" if place.nodes > 1 else label
