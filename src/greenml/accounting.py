"""Energy x factors = emissions and cost, each with its band. Pure, and repeatable on any record.

Formulas: docs/method.md, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from greenml.record import Basis, DeviceRecord, Factor, Factors, Quantity, Totals, Usage
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

Used = Sequence[tuple[DeviceRecord, Usage]]

_BASIS: dict[str | None, Basis] = {
    "counter": "measured",
    "gauge": "measured",
    "estimate": "modelled",
    "reported": "reported",
}
_NAMES = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}


def unknown(why: str, basis: Basis = "measured") -> Quantity:
    """Return a quantity that is not known, with the reason."""
    return Quantity(value=None, basis=basis, why=why)


def energy(used: Used, kind: str) -> Quantity:
    """Return the energy of all devices of a kind, joules.

    Where some are known and some are not, the sum is of those known and ``why`` names the others.
    """
    name = _NAMES[kind]
    of_kind = [(device, usage) for device, usage in used if device.kind == kind]
    if not of_kind:
        return unknown(f"no {name} sensor answered")
    known = [(device, usage) for device, usage in of_kind if usage.energy_joules is not None]
    missing = [(device, usage) for device, usage in of_kind if usage.energy_joules is None]
    if not known:
        return unknown(
            "; ".join(dict.fromkeys(usage.why or f"{device.name}: not measured" for device, usage in missing))
        )
    bases = {_BASIS[device.method] for device, _ in known}
    basis: Basis = next(one for one in ("modelled", "reported", "measured") if one in bases)
    why = f"without {', '.join(device.id for device, _ in missing)}" if missing else ""
    value = sum(usage.energy_joules or 0.0 for _, usage in known)
    low = high = None
    if all(usage.energy_low_joules is not None and usage.energy_high_joules is not None for _, usage in known):
        low = sum(usage.energy_low_joules or 0.0 for _, usage in known)
        high = sum(usage.energy_high_joules or 0.0 for _, usage in known)
    return Quantity(value=value, low=low, high=high, basis=basis, why=why)


def total(parts: Iterable[Quantity]) -> Quantity:
    """Return the sum of what is known of several quantities; ``why`` names what is not in it."""
    parts = list(parts)
    known = [part for part in parts if part.value is not None]
    whys = "; ".join(dict.fromkeys(part.why for part in parts if part.why))
    if not known:
        return unknown(whys or "nothing was measured")
    bases = {part.basis for part in known}
    basis: Basis = next(one for one in ("modelled", "reported", "measured", "derived", "assumed") if one in bases)
    bands = all(part.low is not None and part.high is not None for part in known)
    return Quantity(
        value=sum(part.value or 0.0 for part in known),
        low=sum(part.low or 0.0 for part in known) if bands else None,
        high=sum(part.high or 0.0 for part in known) if bands else None,
        basis=basis,
        why=whys,
    )


def scaled(
    quantity: Quantity, factor: Factor | None, unit: float, missing: str, basis: Basis | None = None
) -> Quantity:
    """Return a quantity times a factor times a unit; the bands multiply, low with low and high with high."""
    if quantity.value is None:
        return quantity
    if factor is None:
        return unknown(missing, "assumed")
    low = quantity.value if quantity.low is None else quantity.low
    high = quantity.value if quantity.high is None else quantity.high
    return Quantity(
        value=quantity.value * factor.value * unit,
        low=low * factor.low * unit,
        high=high * factor.high * unit,
        basis=basis or quantity.basis,
        why=quantity.why,
    )


def cost(seconds: float, nodes: int, prices: dict[str, Factor]) -> dict[str, Quantity]:
    """Return USD by tier: hours x nodes x price."""
    hours = seconds / SECONDS_PER_HOUR * nodes
    return {
        tier: Quantity(
            value=hours * price.value,
            low=hours * price.low,
            high=hours * price.high,
            basis="derived" if price.derived else "assumed",
        )
        for tier, price in prices.items()
    }


def derived(of: Totals, trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return throughput and what a unit of work took, from a training phase's totals and the trainer's counts.

    Args:
        of: the totals of the training phase.
        trainer: with ``counts`` of ``samples``, ``tokens``, ``steps`` and ``epochs``, as far as they are known.
    """
    counts = {name: float(value) for name, value in (trainer.get("counts") or {}).items() if value}
    joules, grams = of.it_energy_joules.value, of.emissions_grams.value
    made: dict[str, float] = {}
    for name, unit in (("samples", "sample"), ("tokens", "token")):
        if name in counts and of.seconds > 0:
            made[f"{name}_per_second"] = counts[name] / of.seconds
        if name in counts and joules is not None:
            made[f"joules_per_{unit}"] = joules / counts[name]
    for name, unit, many in (("epochs", "epoch", 1.0), ("steps", "1000_steps", 1000.0)):
        if name in counts:
            if grams is not None:
                made[f"emissions_grams_per_{unit}"] = grams / counts[name] * many
            for tier, usd in of.cost_usd.items():
                if usd.value is not None:
                    made[f"cost_usd_{tier}_per_{unit}"] = usd.value / counts[name] * many
    return made


def _mean(used: Used, kind: str, field: str) -> float | None:
    values = [(getattr(usage, field), device.count) for device, usage in used if device.kind == kind]
    known = [(value, count) for value, count in values if value is not None]
    return sum(value * count for value, count in known) / sum(count for _, count in known) if known else None


def totals(scope: str, seconds: float, used: Used, factors: Factors, nodes: int) -> Totals:
    """Return what a scope used, emitted and cost.

    Args:
        scope: ``run`` or a phase's path.
        seconds: that it took.
        used: its devices, each with its usage in this scope.
        factors: what to account with.
        nodes: machines billed.
    """
    gpu, cpu, dram = (energy(used, kind) for kind in ("gpu", "cpu", "dram"))
    present = [
        part
        for part, kind in ((gpu, "gpu"), (cpu, "cpu"), (dram, "dram"))
        if part.value is not None or _has(used, kind)
    ]
    it_energy = total(present)
    facility = scaled(it_energy, factors.pue, 1.0, "the PUE is not known")
    emissions = scaled(facility, factors.carbon_intensity, 1 / JOULES_PER_KWH, "no carbon intensity is known")
    return Totals(
        scope=scope,
        seconds=seconds,
        gpu_energy_joules=gpu,
        cpu_energy_joules=cpu,
        dram_energy_joules=dram,
        it_energy_joules=it_energy,
        facility_energy_joules=facility,
        emissions_grams=emissions,
        cost_usd=cost(seconds, nodes, factors.prices),
        gpu_utilization_ratio=_mean(used, "gpu", "utilization_ratio"),
        cpu_utilization_ratio=_mean(used, "host", "utilization_ratio"),
        gpu_memory_mean_bytes=_mean(_used_gpus(used), "gpu", "memory_mean_bytes"),
        gpu_memory_peak_bytes=_mean(_used_gpus(used), "gpu", "memory_max_bytes"),
        host_memory_peak_bytes=_mean(used, "host", "memory_max_bytes"),
    )


def _has(used: Used, kind: str) -> bool:
    return any(device.kind == kind for device, _ in used)


def _used_gpus(used: Used) -> Used:
    """Return the GPUs that did something; all of them where none did, or none tells."""
    gpus = [(device, usage) for device, usage in used if device.kind == "gpu"]
    busy = [(device, usage) for device, usage in gpus if usage.utilization_ratio is None or usage.utilization_ratio > 0]
    return busy or gpus
