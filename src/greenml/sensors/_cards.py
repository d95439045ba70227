"""GPUs as the driver lists them, as chosen, and as the record declares them."""

from __future__ import annotations

from dataclasses import dataclass

from greenml import tables
from greenml.model import Device
from greenml.sensors import _gpu_models

# NVIDIA: "accurate to within +/- 5% of current power draw" (NVML API reference, nvmlDeviceGetPowerUsage).
GAIN_RATIO = 0.05
AVERAGE_DRIVER = 530  # from this driver on nvmlDeviceGetPowerUsage averages on some models (same source)
NAMES = ("Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Ampere", "Ada Lovelace", "Hopper", "Blackwell")
ARCHITECTURES = dict(enumerate(NAMES, 2))  # nvmlDeviceArchitecture_t


@dataclass(frozen=True, slots=True)
class Mig:
    """One MIG device: ``part`` of the card's ``whole`` compute slices, None where not told."""

    uuid: str
    gpu_instance: int
    compute_instance: int
    part: int | None
    whole: int | None


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU of this host.

    Attributes:
        index: NVML's.
        uuid, pci_bus_id, name: empty where the GPU does not answer.
        mig: its MIG devices, in NVML's order; empty where MIG is off.
        speed: dense FP16 TFLOPS, None where not known; only compared.
        trouble: why it does not answer, else empty.
    """

    index: int
    uuid: str
    pci_bus_id: str
    name: str
    mig: tuple[Mig, ...] = ()
    speed: float | None = None
    trouble: str = ""

    @property
    def place(self) -> str:
        """What error messages call it."""
        return f"NVML: GPU {self.index} ({self.uuid or 'UUID not known'})"


@dataclass(frozen=True, slots=True)
class Selected:
    """A card to measure; ``mig`` are its instances that are ours, empty for the whole card."""

    card: Card
    mig: tuple[Mig, ...] = ()

    @property
    def share(self) -> tuple[int, int] | None:
        """The run's compute slices and the card's; None where not known; (1, 1) for a whole card."""
        if not self.mig:
            return 1, 1
        whole = self.mig[0].whole
        if not whole or any(one.part is None for one in self.mig):
            return None
        return min(sum(one.part or 0 for one in self.mig), whole), whole


@dataclass(frozen=True, slots=True)
class Told:
    """What one GPU's driver was found to tell.

    Attributes:
        energy, power: the call or field that gives them, empty where none does.
        buffered: its power samples are read, not its gauge.
        memory: what the used memory includes, empty where not told.
        limit_range_watts: the least and the most that its power limit may be set to.
    """

    driver: str
    architecture: str
    energy: str = ""
    power: str = ""
    buffered: bool = False
    limit_watts: float | None = None
    memory: str = ""
    memory_total_bytes: int | None = None
    limit_range_watts: tuple[float, float] | None = None


def unreadable(card: Card, trouble: str, driver: str, notes: list[str]) -> Device:
    """Declare a GPU that does not answer, so that the record can say which one is missing."""
    identity, name = card.uuid or f"nvml-index-{card.index}", card.name or f"GPU {card.index}"
    detail = {"index": str(card.index), "pci_bus_id": card.pci_bus_id, "driver": driver}
    return Device("gpu", identity, name, None, "nvml", detail=detail, note="; ".join([*notes, trouble]))


def declare(selected: Selected, told: Told, notes: list[str]) -> Device:
    """Declare a GPU: what its driver tells, and what the bundled table knows of its model."""
    card, share = selected.card, selected.share
    row = _gpu_models.find(card.name, told.architecture)
    averaged = told.power == "nvmlDeviceGetPowerUsage" and int(told.driver.split(".")[0]) >= AVERAGE_DRIVER
    timing = _gpu_models.sensor_timing(row, averaged=averaged)
    detail = {
        "index": str(card.index),
        "pci_bus_id": card.pci_bus_id,
        "driver": told.driver,
        "architecture": row.get("architecture") or told.architecture,
        "energy": told.energy,
        "power": told.power + (", and the driver's samples" if told.buffered and not told.energy else ""),
        "memory": told.memory,
        "power_limit_range_watts": "{:g} to {:g}".format(*told.limit_range_watts) if told.limit_range_watts else "",
        "mig": (" ".join(one.uuid for one in selected.mig) or "whole card") if card.mig else "",
    }
    if not told.energy and not told.power:
        notes = [*notes, "its driver tells neither energy nor power (a vGPU?): its energy is not measured"]
    if selected.mig:
        said = f"this run's share is assumed to be {share[0]}/{share[1]}" if share else "this run's share is not known"
        notes = [*notes, f"MIG: whole card measured, and counted; {said}"]
    return Device(
        "gpu",
        card.uuid,
        card.name,
        "counter" if told.energy else "gauge" if told.power else None,
        "nvml",
        gain_ratio=GAIN_RATIO,
        step_seconds=timing.step_seconds,
        seen_ratio=timing.seen_ratio,
        lag_seconds=timing.lag_seconds(gauge=not told.energy, dated=told.buffered and not told.energy),
        share_ratio=share[0] / share[1] if share else 1.0,
        power_limit_watts=told.limit_watts or tables.number(row.get("tdp_w", "")),
        memory_total_bytes=told.memory_total_bytes,
        detail={name: value for name, value in detail.items() if value},
        note="; ".join(notes),
    )
