"""GPUs by name and by what the driver tells: which are visible, what their gauge sees, which scope their power has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from greenml.errors import FactorError, SettingsError
from greenml.factors import processors, tables
from greenml.trace.types import Device

MAKERS = re.compile(r"^(nvidia|tesla|quadro) ", re.IGNORECASE)
SENSOR_COLUMNS = ("architecture", "power_update_period_ms", "power_window_ms", "nvml_get_power_usage")
STEP_MS = 100.0  # where the table has no row; seen: 10 to 100 ms (SC24, as below)
AVERAGE_WINDOW_MS = 1000.0  # of nvmlDeviceGetPowerUsage where the table says average_1s


def find(name: str, architecture: str = "") -> tables.Row:
    """Return a model's row; else the columns that its family (A100), or its whole architecture, agree in.

    Args:
        name: as the driver gives it, with or without the maker.
        architecture: as the table spells it, empty where not known.
    """
    try:
        rows = tables.rows("gpus")
        exact = processors.gpu(name)
    except FactorError:
        return {}
    if exact:
        return exact
    kin = [row for row in rows if _family(row["gpu_model"]) == _family(name)]
    kin = kin or [row for row in rows if architecture and row["architecture"] == architecture]
    return {column: kin[0][column] for column in SENSOR_COLUMNS if len({row[column] for row in kin}) == 1}


@dataclass(frozen=True, slots=True)
class Timing:
    """When a model's sensor tells what.

    Attributes:
        step_seconds: between two updates of its counter or gauge.
        window_seconds: before each update, over which the gauge's power is the mean.
    """

    step_seconds: float
    window_seconds: float

    @property
    def sampled_ratio(self) -> float:
        """Return the share of time that the gauge sees."""
        return min(1.0, self.window_seconds / self.step_seconds)

    def lag_seconds(self, *, gauge: bool, dated: bool) -> float:
        """Return how old what it tells is, on the mean.

        Args:
            gauge: power, of half the window before its update; else a counter.
            dated: the driver tells when the update was; else it is anything from 0 to a step ago.
        """
        return (self.window_seconds * gauge + self.step_seconds * (not dated)) / 2


def sensor_timing(row: tables.Row, *, averaged: bool) -> Timing:
    """Return the timing of a model's sensor; where it is not known, a step of 0.1 s of which all is seen.

    Args:
        row: of ``find``.
        averaged: power is read as the driver's average, where the model has one.

    Source: Yang, Adamek, Armour, SC24, arXiv 2312.02741; the rows say which were inferred.
    """
    period = tables.number(row.get("power_update_period_ms", "")) or STEP_MS
    window = tables.number(row.get("power_window_ms", "")) or period
    if averaged and row.get("nvml_get_power_usage") == "average_1s":
        window = AVERAGE_WINDOW_MS
    return Timing(period / 1000.0, window / 1000.0)


def _plain(model: str) -> str:
    return MAKERS.sub("", model.strip()).lower()


def _family(model: str) -> str:
    first = re.split(r"[ -]", _plain(model))[0]
    return first if any(letter.isdigit() for letter in first) else model  # "GeForce" is a brand, not a family


# NVIDIA: "accurate to within +/- 5% of current power draw" (NVML API reference, nvmlDeviceGetPowerUsage).
CALIBRATION_RATIO = 0.05
AVERAGE_DRIVER = 530  # from this driver on nvmlDeviceGetPowerUsage averages on some models (same source)
NAMES = ("Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Ampere", "Ada Lovelace", "Hopper", "Blackwell")
ARCHITECTURES = dict(enumerate(NAMES, 2))  # nvmlDeviceArchitecture_t


@dataclass(frozen=True, slots=True)
class Mig:
    """One MIG device: ``part`` of the card's ``whole`` compute slices, None where the driver does not say."""

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
        uuid, pci_bus_id, name: empty where the driver does not tell them.
        mig: its MIG devices, in NVML's order; empty where MIG is off.
        speed: dense FP16 TFLOPS, None where not known; only compared.
        trouble: why nothing of it can be read, else empty.
    """

    index: int
    uuid: str
    pci_bus_id: str
    name: str
    mig: tuple[Mig, ...] = ()
    speed: float | None = None
    trouble: str = ""

    @property
    def label(self) -> str:
        """Its name in error messages."""
        return f"NVML: GPU {self.index} ({self.uuid or 'UUID not known'})"

    @property
    def id(self) -> str:
        """Its id in the record: the UUID; where that is not known, the PCI address or the index."""
        return self.uuid or (f"pci-{self.pci_bus_id.lower()}" if self.pci_bus_id else f"nvml-index-{self.index}")


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
        if not whole or any(instance.part is None for instance in self.mig):
            return None
        return min(sum(instance.part or 0 for instance in self.mig), whole), whole


Choice = tuple[Card, Mig | None]  # None: the whole card
OLD_MIG_NAME = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/(\d+)/(\d+)")


def select(
    cards: Sequence[Card], wanted: str | Sequence[int | str] | None, environment: Mapping[str, str]
) -> tuple[list[Selected], list[str]]:
    """Choose the cards to measure.

    Args:
        cards: all of this host, in NVML's order.
        wanted: ``Wanted.gpus``; overrides the environment where not None.
        environment: ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` are read.

    Returns:
        The cards, each once, and notes for the reader of the report.

    Raises:
        SettingsError: an entry of ``wanted`` names no GPU, or more than one.

    Source: CUDA Programming Guide, "CUDA Environment Variables"; MIG User Guide, "CUDA Device Enumeration".
    """
    if wanted == "all":
        return [Selected(card) for card in cards], []
    if wanted is not None:
        entries = wanted.split(",") if isinstance(wanted, str) else wanted
        return _merged([_asked(cards, entry) for entry in entries]), []
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        # CUDA shows a process the first MIG device of a card, not the card.
        return [Selected(card, card.mig[:1]) for card in cards], []
    chosen, notes = _visible(cards, visible, environment.get("CUDA_DEVICE_ORDER", "").strip())
    return _merged(chosen), notes


def _visible(cards: Sequence[Card], visible: str, order: str) -> tuple[list[Choice], list[str]]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: cut at the first wrong entry, nothing if one is repeated."""
    if not visible.strip():
        return [], ["CUDA_VISIBLE_DEVICES is empty: CUDA sees no GPU"]
    ordered, notes = cards, list[str]()
    entries = [entry.strip() for entry in visible.split(",")]
    style = entries[0][:4]
    if style not in ("GPU-", "MIG-"):
        ordered, notes = _cuda_order(cards, order)
    chosen: list[Choice] = []
    for entry in entries:
        if style in ("GPU-", "MIG-"):
            matches = _named(cards, entry) if entry.startswith(style) else []
        else:  # CUDA reads the digits in front, like strtoul: "1gpu" is 1
            digits = re.match(r"\+?(\d+)", entry)
            matches = [(card, None) for card in ordered[int(digits[1]) :][:1]] if digits else []
        if len(matches) != 1:
            what = "names more than one GPU" if matches else "names no GPU of this host"
            notes.append(f"CUDA_VISIBLE_DEVICES={visible!r}: {entry!r} {what}; CUDA stops reading there, greenml too")
            break
        card, mig = matches[0]
        choice = (card, mig or (card.mig[0] if card.mig else None))
        if choice in chosen:
            return [], [f"CUDA_VISIBLE_DEVICES={visible!r} repeats {entry!r}: CUDA then sees no GPU"]
        chosen.append(choice)
    return chosen, notes


def _cuda_order(cards: Sequence[Card], order: str) -> tuple[Sequence[Card], list[str]]:
    """Sort as CUDA counts: by PCI address, or its default, which only says that the fastest comes first."""
    if all(card.pci_bus_id for card in cards):  # else NVML's order, which is that of the PCI addresses
        cards = sorted(cards, key=lambda card: card.pci_bus_id.lower())
    if order == "PCI_BUS_ID" or len({card.name for card in cards if card.name}) < 2:
        return cards, []
    known = all(card.speed is not None for card in cards)
    if known:
        cards = sorted(cards, key=lambda card: -(card.speed or 0.0))
    how = "by FP16 speed" if known else "by PCI address"
    return cards, [
        f"CUDA's order of unlike GPUs (FASTEST_FIRST) is assumed {how}; "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID or UUIDs in CUDA_VISIBLE_DEVICES make it certain"
    ]


def _named(cards: Sequence[Card], name: str) -> list[Choice]:
    """Find what a UUID, the beginning of one, or the old form ``MIG-GPU-<uuid>/<gi>/<ci>`` stands for."""
    if old := OLD_MIG_NAME.fullmatch(name):
        ids = (int(old[2]), int(old[3]))
        return [
            (card, mig)
            for card in cards
            for mig in card.mig
            if card.uuid.startswith(old[1]) and ids == (mig.gpu_instance, mig.compute_instance)
        ]
    if name.startswith("MIG-"):
        return [(card, mig) for card in cards for mig in card.mig if mig.uuid.startswith(name)]
    return [(card, None) for card in cards if card.uuid.startswith(name)]


def _asked(cards: Sequence[Card], entry: int | str) -> Choice:
    """Find what the user's entry stands for: NVML's index (as nvidia-smi counts), or a name."""
    text = str(entry).strip()
    if text.isdecimal():
        matches: list[Choice] = [(card, None) for card in cards if card.index == int(text)]
    else:
        named = text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"
        matches = _named(cards, named) if text else []
    if len(matches) == 1:
        return matches[0]
    present = [f"{card.index} ({card.uuid or card.name or 'UUID not known'})" for card in cards]
    present += [mig.uuid for card in cards for mig in card.mig]
    what = "names more than one GPU" if matches else "names no GPU of this host"
    raise SettingsError(f"gpus: {entry!r} {what}; those that are there: {', '.join(present) or 'none'}; or 'all'")


def _merged(chosen: Sequence[Choice]) -> list[Selected]:
    """Bring each card to one selection: MIG instances of a card together, the whole card over its parts."""
    parts: dict[int, list[Mig | None]] = {}
    for card, mig in chosen:
        if mig not in parts.setdefault(card.index, []):
            parts[card.index].append(mig)
    by_index = {card.index: card for card, _ in chosen}
    return [
        Selected(by_index[index], () if None in migs else tuple(mig for mig in migs if mig))
        for index, migs in parts.items()
    ]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one GPU's driver answers.

    Attributes:
        energy, power: the call or field that gives them, empty where none does.
        buffered: its power samples are read.
        module: energy and power are those of a superchip's module: GPU, CPU and memory.
        memory: what the used memory includes, empty where not known.
        limit_range_watts: the least and the most that its power limit may be set to.
        trouble: why the energy is not known, or is known in another way than usual; else empty.
    """

    driver: str
    architecture: str = ""
    energy: str = ""
    power: str = ""
    buffered: bool = False
    module: bool = False
    limit_watts: float | None = None
    memory: str = ""
    memory_total_bytes: int | None = None
    limit_range_watts: tuple[float, float] | None = None
    trouble: str = ""


def declare(selected: Selected, answers: Answers, notes: Sequence[str] = ()) -> Device:
    """Declare a GPU: what its driver answers, and what the bundled table knows of its model.

    A GPU whose energy nothing tells is declared too, without a method and with the reason as its note: the record
    must say that it was there.
    """
    card, share = selected.card, selected.share
    row = find(card.name, answers.architecture)
    averaged = answers.power == "nvmlDeviceGetPowerUsage" and _major(answers.driver) >= AVERAGE_DRIVER
    timing = sensor_timing(row, averaged=averaged)
    dated = answers.buffered and not answers.energy
    detail = {
        "index": str(card.index),
        "pci_bus_id": card.pci_bus_id,
        "driver": answers.driver,
        "architecture": row.get("architecture") or answers.architecture,
        "energy": answers.energy,
        "power": answers.power + (", and the driver's samples" if dated else ""),
        "memory": answers.memory,
        "power_limit_range_watts": "{:g} to {:g}".format(*answers.limit_range_watts)
        if answers.limit_range_watts
        else "",
        "mig": (" ".join(instance.uuid for instance in selected.mig) or "whole card") if card.mig else "",
        "scope": "module" if answers.module else "",
        "includes": "cpu dram" if answers.module else "",
    }
    known = bool(answers.energy or answers.power)
    reasons = [*notes]
    if answers.trouble:
        reasons.append(answers.trouble)
    elif not known:
        reasons.append("its driver tells neither energy nor power (a vGPU or a Jetson?): its energy is not measured")
    if answers.module:
        reasons.append(
            "its power is that of the whole module (GPU, CPU and memory): the CPU and the DRAM are not counted again"
        )
    if selected.mig:
        share_text = (
            f"this run's share is assumed to be {share[0]}/{share[1]}" if share else "this run's share is not known"
        )
        reasons.append(f"MIG: whole card measured, and counted; {share_text}")
    return Device(
        "gpu",
        card.id,
        card.name or f"GPU {card.index}",
        "counter" if answers.energy else "gauge" if answers.power else None,
        "nvml",
        calibration_ratio=CALIBRATION_RATIO if known else 0.0,
        step_seconds=timing.step_seconds if known else 0.0,
        sampled_ratio=timing.sampled_ratio if known else 1.0,
        lag_seconds=timing.lag_seconds(gauge=not answers.energy, dated=dated) if known else 0.0,
        share_ratio=share[0] / share[1] if share else 1.0,
        power_limit_watts=answers.limit_watts or tables.number(row.get("tdp_w", "")),
        memory_total_bytes=answers.memory_total_bytes,
        detail={name: value for name, value in detail.items() if value},
        note="; ".join(reasons),
    )


def _major(driver: str) -> int:
    digits = re.match(r"\d+", driver)
    return int(digits[0]) if digits else 0
