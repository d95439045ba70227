"""Energy x factors = emissions and cost, each with its band. Pure, and repeatable on any record.

Formulas: docs/method.md, sections 3 to 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from greenml import doubts
from greenml.record import Basis, DeviceRecord, Factor, Factors, Quantity, Totals, Usage
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

Used = Sequence[tuple[DeviceRecord, Usage]]
Doubts = Sequence[doubts.Term]

_BASIS: dict[str | None, Basis] = {
    "counter": "measured",
    "gauge": "measured",
    "estimate": "modelled",
    "reported": "reported",
}
_NAMES = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
PUE, INTENSITY, WUE = "PUE", "carbon intensity", "WUE"  # what their doubts are called
SERVER = "server"  # the code of an embodied figure that is not of a GPU's model


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
    bases = {_BASIS.get(device.method, "assumed") for device, _ in known}
    basis: Basis = next(one for one in ("assumed", "modelled", "reported", "measured") if one in bases)
    why = f"without {', '.join(device.id for device, _ in missing)}" if missing else ""
    value = sum(usage.energy_joules or 0.0 for _, usage in known)
    low, high = _band(value, known)
    return Quantity(value=value, low=low, high=high, basis=basis, why=why)


def _band(value: float, known: Used) -> tuple[float, float] | tuple[None, None]:
    """Return the band of a sum of devices; none where a device has none."""
    if any(usage.energy_low_joules is None or usage.energy_high_joules is None for _, usage in known):
        return None, None
    return doubts.band(value, doubts.terms(known))


def total(parts: Iterable[Quantity], used: Used) -> Quantity:
    """Return the sum of what is known of several quantities; ``why`` names what is not in it.

    Args:
        parts: the quantities, each of a kind of device.
        used: those devices: unlike sensors are off each in its own way, so the sum's band is not the sum of bands.
    """
    parts = list(parts)
    known = [part for part in parts if part.value is not None]
    whys = "; ".join(dict.fromkeys(part.why for part in parts if part.why))
    if not known:
        return unknown(whys or "nothing was measured")
    bases = {part.basis for part in known}
    basis: Basis = next(one for one in ("modelled", "reported", "measured", "derived", "assumed") if one in bases)
    value = sum(part.value or 0.0 for part in known)
    low, high = _band(value, [one for one in used if one[0].kind in _NAMES and one[1].energy_joules is not None])
    return Quantity(value=value, low=low, high=high, basis=basis, why=whys)


def times(  # noqa: PLR0917  a quantity, a factor, and what both are called
    quantity: Quantity, of: Doubts, factor: Factor | None, name: str, unit: float, missing: str
) -> tuple[Quantity, Doubts]:
    """Return a quantity times a factor times a unit, and its doubts.

    Args:
        quantity: to scale.
        of: its doubts.
        factor: independent of it; None where it is not known.
        name: of the factor, in words.
        unit: to convert with.
        missing: why there is no result without the factor.
    """
    if quantity.value is None:
        return quantity, ()
    if factor is None:
        return unknown(missing, "assumed"), ()
    value, made = quantity.value * factor.value * unit, doubts.times(of, quantity.value, factor, name, unit)
    if quantity.low is None and not made:  # neither's doubt is told: a band of no width would say that there is none
        return Quantity(value=value, basis=quantity.basis, why=quantity.why), made
    low, high = doubts.band(value, made)
    least = (quantity.value if quantity.low is None else quantity.low) * factor.low * unit
    return Quantity(value=value, low=max(low, least), high=high, basis=quantity.basis, why=quantity.why), made


def scaled(quantity: Quantity, factor: Factor | None, unit: float, missing: str) -> Quantity:
    """Return a quantity times a factor times a unit, where the quantity's band is all that is known of its doubts."""
    low, high, value = quantity.low, quantity.high, quantity.value
    of: Doubts = []
    if value is not None and low is not None and high is not None:
        of = [doubts.Term("band", "", value - low, high - value)]
    return times(quantity, of, factor, "factor", unit, missing)[0]


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


def embodied(seconds: float, used: Used, factors: Factors) -> Quantity:
    """Return the grams CO2e of making the hardware that fall to some seconds of it: a range, without a value.

    The range is that of the published figures and lifetimes: the least figure over the longest lifetime, to the most
    over the shortest. Hardware counts for the time that it was there. ``why`` names what is not in it.

    Source: time share of the embodied emissions, ISO/IEC 21031:2024, M = TE x TS x RS with RS = 1.
    """
    cards = {one.code for one in factors.embodied if one.code != SERVER}
    gpus = [device for device, _ in used if device.kind == "gpu"]
    without = dict.fromkeys(device.name for device in gpus if device.method != "reported" and device.name not in cards)
    if not gpus:
        return unknown("no GPU took part, and how much of a server did is not known", "assumed")
    if not cards or factors.lifetime is None:
        names = ", ".join(without) or "these GPUs"
        return unknown(f"no published figure for making {names} is in the tables", "assumed")
    whys = [f"without {name}" for name in without]
    if all(one.code != SERVER for one in factors.embodied):
        whys.append("without the host, whose size is not known")
    counted = [(one, one.count * presence(one.code, seconds, used)) for one in factors.embodied]
    low = sum(count * one.low for one, count in counted) * seconds / factors.lifetime.high
    high = sum(count * one.high for one, count in counted) * seconds / factors.lifetime.low
    whys.insert(0, "published figures disagree")
    return Quantity(value=None, low=low, high=high, basis="assumed", why="; ".join(whys))


def presence(code: str, seconds: float, used: Used) -> float:
    """Return for which share of a scope the GPUs of a model were measured, the servers with all of them.

    Under 1 where an attempt ran on other machines than the one before.
    """
    told: list[float] = []
    for device, usage in used:
        if device.kind != "gpu" or device.method == "reported" or code not in (device.name, SERVER) or seconds <= 0:
            continue
        if usage.covered_seconds is not None:
            told.append(min(1.0, usage.covered_seconds / seconds))
        elif device.usage.covered_seconds:  # measured elsewhere in the run, so not there now
            told.append(0.0)
    return sum(told) / len(told) if any(told) else 1.0


def _mean(used: Used, kind: str, field: str) -> float | None:
    values = [(getattr(usage, field), device.count) for device, usage in used if device.kind == kind]
    known = [(value, count) for value, count in values if value is not None]
    return sum(value * count for value, count in known) / sum(count for _, count in known) if known else None


def intensity(scope: str, factors: Factors) -> Factor | None:
    """Return the carbon intensity of a scope: its own energy-weighted mean where the intensity is known over time."""
    return factors.intensity(scope)


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
    it_energy = total(present, used)
    of_energy = doubts.terms([one for one in used if one[0].kind in _NAMES]) if it_energy.low is not None else []
    per_kwh = 1 / JOULES_PER_KWH
    facility, of_facility = times(it_energy, of_energy, factors.pue, PUE, 1.0, "the PUE is not known")
    emissions, _ = times(
        facility, of_facility, intensity(scope, factors), INTENSITY, per_kwh, "no carbon intensity is known"
    )
    market, _ = times(facility, of_facility, factors.market_intensity, INTENSITY, per_kwh, "")
    water, _ = times(it_energy, of_energy, factors.wue, WUE, per_kwh, "no water usage (WUE) of the place is known")
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
        market_emissions_grams=market if factors.market_intensity is not None else None,
        water_liters=water,
        embodied_grams=embodied(seconds, used, factors),
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
