"""Compares the measured hardware with the machine size of the settings, and notes each difference."""

from __future__ import annotations

import math
import re

from greenml.errors import FactorError
from greenml.factors import processors
from greenml.factors.types import Place, Sku
from greenml.record.schema import DeviceRecord, Note, RunRecord
from greenml.reports import _parts
from greenml.units import BYTES_PER_GB

CODE = _parts.MISMATCH
# A driver keeps some memory to itself, and vendors sell GB or GiB: 40 GB are shown as 39.6 to 42.9 GB.
MEMORY_RATIO = 0.2


def notes(record: RunRecord, sku: Sku | None, place: Place, nodes: int) -> list[Note]:
    """Return a note for each way in which the measured hardware is not what the machine size has.

    A record without a measured device (an import) has nothing to compare; GPUs that another tool reported count as
    seen, and those of an estimate are the SKU's own.

    Args:
        record: of the run.
        sku: that was named, by the user or by the machine.
        place: that was named.
        nodes: how many machines are billed.
    """
    texts = [*_clouds(record, sku, place)]
    if sku and any(device.method != "reported" for device in record.devices):
        texts += _gpus(record, sku, nodes)
    return [Note(code=CODE, text=text) for text in dict.fromkeys(texts)]


def _clouds(record: RunRecord, sku: Sku | None, place: Place) -> list[str]:
    named = {"SKU": (sku.cloud, sku.name) if sku else ("", ""), "region": (place.cloud, place.region or place.cloud)}
    return [
        f"the machine is not the one that was named: the {kind} {name} is of {cloud}, and the firmware of {host.name} "
        f"says {host.cloud}; price and place are those of {cloud}"
        for host in record.hosts
        for kind, (cloud, name) in named.items()
        if host.cloud and cloud and host.cloud != cloud
    ]


def _gpus(record: RunRecord, sku: Sku, nodes: int) -> list[str]:
    if any(device.kind == "gpu" and device.method in {"reported", "estimate"} for device in record.devices):
        return []
    seen = _parts.at_a_time(record, "gpu")
    count = sum(device.count for device in seen)
    if sku.gpu_model and not sku.gpu_count:
        return []  # how many it has is not known
    expected = max(1, math.ceil(nodes * (sku.gpu_count or 0))) if sku.gpu_count else 0
    has = f"{expected} X {sku.gpu_model}" if expected else "no GPU"
    billed = f"{nodes} X {sku.name}" if nodes > 1 else sku.name
    start = f"the machine is not what {billed} has ({has})"
    if not count:
        text = f"{start}: no GPU was seen; the cost is that of the SKU, the energy is without any GPU"
        return [text] if expected else []
    names = ", ".join(dict.fromkeys(device.name for device in seen))
    if not expected:
        return [f"{start}: {count} X {names} were seen"]
    others = [device for device in seen if not _fits(device, sku)]
    texts = []
    if others:
        model = sku.gpu_nvml_name or f"{sku.gpu_model} {sku.gpu_memory_gb:g}GB" if sku.gpu_memory_gb else sku.gpu_model
        descriptions = ", ".join(dict.fromkeys(_described(device) for device in others))
        texts.append(f"{start}: it has {model}, and {descriptions} was seen")
    if count != expected:
        texts.append(
            f"{start}: {count} of its {expected} GPUs were seen; the cost is that of the whole SKU, the energy that of "
            f"{count} GPUs"
            if count < expected
            else f"{start}: {count} GPUs were seen"
        )
    return texts


def _described(device: DeviceRecord) -> str:
    if not device.memory_total_bytes or re.search(r"\d ?GB", device.name):
        return device.name
    return f"{device.name} with {device.memory_total_bytes / BYTES_PER_GB:.0f} GB"


def _fits(device: DeviceRecord, sku: Sku) -> bool:
    """Tell whether a GPU is one that the SKU has, as far as name and memory tell."""
    try:
        row = processors.gpu(device.name)
        expected = processors.gpus(sku.gpu_nvml_name or sku.gpu_model)
    except FactorError:
        return True
    if row is not None and expected and row not in expected:
        return False
    if row is None:
        model = next((word for word in re.split(r"[ -]", sku.gpu_model.lower()) if re.search(r"\d", word)), "")
        if model and model not in re.split(r"[^a-z0-9]+", device.name.lower()):
            return False
    whole = (sku.gpu_count or 0) >= 1 and device.share_ratio == 1
    if whole and sku.gpu_memory_gb and device.memory_total_bytes:
        return abs(device.memory_total_bytes / BYTES_PER_GB / sku.gpu_memory_gb - 1) <= MEMORY_RATIO
    return True
