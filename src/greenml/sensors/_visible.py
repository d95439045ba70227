"""Which GPUs belong to this process: CUDA's own rules, as a pure function."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from greenml.errors import SettingsError
from greenml.sensors._cards import Card, Mig, Selected

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
            found = _named(cards, entry) if entry.startswith(style) else []
        else:  # CUDA reads the digits in front, like strtoul: "1gpu" is 1
            digits = re.match(r"\+?(\d+)", entry)
            found = [(card, None) for card in ordered[int(digits[1]) :][:1]] if digits else []
        if len(found) != 1:
            what = "names more than one GPU" if found else "names no GPU of this host"
            notes.append(f"CUDA_VISIBLE_DEVICES={visible!r}: {entry!r} {what}; CUDA stops reading there, greenml too")
            break
        card, mig = found[0]
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
        found: list[Choice] = [(card, None) for card in cards if card.index == int(text)]
    else:
        named = text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"
        found = _named(cards, named) if text else []
    if len(found) == 1:
        return found[0]
    right = [f"{card.index} ({card.uuid or 'not answering'})" for card in cards]
    right += [mig.uuid for card in cards for mig in card.mig]
    what = "names more than one GPU" if found else "names no GPU of this host"
    raise SettingsError(f"gpus: {entry!r} {what}; right would be 'all', {', '.join(right) or 'nothing: there is none'}")


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
