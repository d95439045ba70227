"""Computes emissions and cost from energy and factors, each with its interval; without side effects, on any record.

What a unit of work took (a sample, a token, a step, an epoch) follows from totals and a trainer's counts. Formulas:
docs/method.md, sections 3 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from greenml.energy import uncertainty
from greenml.record.schema import (
    TRAINING_PATHS,
    Basis,
    DeviceRecord,
    Factor,
    Factors,
    Quantity,
    RunRecord,
    SciScore,
    Totals,
    Usage,
    gpus_never_answered,
)
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

Used = uncertainty.DeviceUsages
Budget = Sequence[uncertainty.Term]

_BASIS: dict[str | None, Basis] = {
    "counter": "measured",
    "gauge": "measured",
    "estimate": "modelled",
    "reported": "reported",
}
_NAMES = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
PUE, INTENSITY, WUE = "PUE", "carbon intensity", "WUE"  # as terms of an uncertainty budget
UNCOVERED_SECONDS = 2.0  # a GPU that misses more than this of a scope makes its total "at least"
COUNTED_IN = "counted_in"  # in a device's detail: the device whose counter holds its energy
SERVER = "server"  # the code of an embodied figure that is not of a GPU's model


def unknown(why: str, basis: Basis = "measured") -> Quantity:
    """Return a quantity that is not known, with the reason."""
    return Quantity(value=None, basis=basis, why=why)


def energy(used: Used, kind: str, seconds: float = 0.0, *, imported: bool = False) -> Quantity:
    """Return the energy of all devices of a kind, joules.

    Where some are known and some are not, the sum is of those known. It is then "at least" that, its interval reaches
    to what the others can have used, and ``why`` names them.

    Args:
        used: the devices of a scope.
        kind: of those that count.
        seconds: of the scope.
        imported: the figures are another tool's; no sensor was asked.
    """
    name = _NAMES[kind]
    of_kind = [(device, usage) for device, usage in used if device.kind == kind]
    if not of_kind:
        module = next((device for device, _ in used if kind in device.detail.get("includes", "").split()), None)
        absent = f"no {name} energy was imported" if imported else f"no {name} sensor answered"
        return unknown(f"counted in the module of {module.name}" if module else absent)
    known = [(device, usage) for device, usage in of_kind if usage.energy_joules is not None]
    missing = [(device, usage) for device, usage in of_kind if usage.energy_joules is None]
    if not known:
        return unknown(
            "; ".join(dict.fromkeys(usage.why or f"{device.name}: not measured" for device, usage in missing))
        )
    bases = {_BASIS.get(device.method, "assumed") for device, _ in known}
    basis: Basis = next(basis for basis in ("assumed", "modelled", "reported", "measured") if basis in bases)
    partly = [(device, missed) for device, usage in known if (missed := _missed_seconds(device, usage, seconds))]
    value = sum(usage.energy_joules or 0.0 for _, usage in known)
    low, high = _interval(value, of_kind)
    return Quantity(
        value=value, low=low, high=high, basis=basis, why=_why_partial(name, of_kind, missing, partly),
        at_least=bool(missing or partly),
    )  # fmt: skip


def _why_partial(name: str, of_kind: Used, missing: Used, partly: Sequence[tuple[DeviceRecord, float]]) -> str:
    """Say which devices of a kind a sum lacks, and how many there were; empty where it lacks none."""
    reasons = []
    if missing:
        measured = len(of_kind) - len(missing)
        ids = ", ".join(device.id for device, _ in missing)
        reasons.append(
            f"{measured} of {len(of_kind)} {name}s measured, without {ids}" if name == "GPU" else f"without {ids}"
        )
        reasons += dict.fromkeys(usage.why for _, usage in missing if usage.why)
        if any(usage.uncertainty is None or usage.uncertainty.coverage_joules is None for _, usage in missing):
            reasons.append("no upper end, for its power limit is not known")
    reasons += [f"without {missed:.1f} s of {device.id}" for device, missed in partly]
    return "; ".join(reasons)


def _missed_seconds(device: DeviceRecord, usage: Usage, seconds: float) -> float:
    """Return for how long a GPU that was there was not measured; 0 for so little that no note says it."""
    if device.kind != "gpu" or device.method == "reported" or usage.covered_seconds is None:
        return 0.0
    coverage_joules = usage.uncertainty.coverage_joules if usage.uncertainty is not None else None
    watts = device.power_limit_watts or usage.power_mean_watts
    if not coverage_joules or not watts:
        return 0.0
    missed = min(seconds - usage.covered_seconds, coverage_joules / watts)  # on another machine it was not there
    return missed if missed > UNCOVERED_SECONDS else 0.0


def measured_gpus(used: Used, seconds: float) -> tuple[int, int]:
    """Return how many GPUs were there, and of how many the energy is known for all of the time."""
    gpus = [(device, usage) for device, usage in used if device.kind == "gpu"]
    whole = [
        device
        for device, usage in gpus
        if COUNTED_IN in device.detail
        or (usage.energy_joules is not None and not _missed_seconds(device, usage, seconds))
    ]
    return sum(device.count for device, _ in gpus), sum(device.count for device in whole)


def _interval(value: float, devices: Used) -> tuple[float | None, float | None]:
    """Return the interval of a sum of devices: none where a measured one has none, no high without a limit."""
    measured = [usage for _, usage in devices if usage.energy_joules is not None]
    if any(usage.energy_low_joules is None or usage.energy_high_joules is None for usage in measured):
        return None, None
    low, high = uncertainty.interval(value, uncertainty.terms(devices))
    unlimited = any(usage.energy_joules is None and usage.uncertainty is None for _, usage in devices)
    return low, None if unlimited or math.isinf(high) else high


def total(parts: Iterable[Quantity], used: Used) -> Quantity:
    """Return the sum of what is known of several quantities; ``why`` names what is not in it.

    Args:
        parts: the quantities, each of a kind of device.
        used: those devices: unlike sensors have independent errors, so the sum's interval is not the sum of intervals.
    """
    parts = list(parts)
    known = [part for part in parts if part.value is not None]
    whys = "; ".join(dict.fromkeys(part.why for part in parts if part.why))
    if not known:
        return unknown(whys or "nothing was measured")
    bases = {part.basis for part in known}
    basis: Basis = next(basis for basis in ("modelled", "reported", "measured", "derived", "assumed") if basis in bases)
    value = sum(part.value or 0.0 for part in known)
    low, high = _interval(value, [(device, usage) for device, usage in used if device.kind in _NAMES])
    at_least = any(part.at_least or part.value is None for part in parts)
    return Quantity(value=value, low=low, high=high, basis=basis, why=whys, at_least=at_least)


def times(  # noqa: PLR0917  a quantity, a factor, and what both are called
    quantity: Quantity, of: Budget, factor: Factor | None, name: str, unit: float, missing: str
) -> tuple[Quantity, Budget]:
    """Return a quantity times a factor times a unit, and its uncertainty budget.

    Args:
        quantity: to scale.
        of: its uncertainty budget.
        factor: independent of it; None where it is not known.
        name: of the factor, in words.
        unit: to convert with.
        missing: why there is no result without the factor.
    """
    if quantity.value is None:
        return quantity, ()
    if factor is None:
        return unknown(missing, "assumed"), ()
    value, made = quantity.value * factor.value * unit, uncertainty.times(of, quantity.value, factor, name, unit)
    if (
        quantity.low is None and not made
    ):  # neither's uncertainty is known: an interval of no width would say that there is none
        return quantity.model_copy(update={"value": value}), made
    low, high = uncertainty.interval(value, made)
    least = (quantity.value if quantity.low is None else quantity.low) * factor.low * unit
    unlimited = math.isinf(high) or (quantity.high is None and (quantity.low is not None or quantity.at_least))
    ends = {"value": value, "low": max(low, least), "high": None if unlimited else high}
    return quantity.model_copy(update=ends), made


def scaled(quantity: Quantity, factor: Factor | None, unit: float, missing: str) -> Quantity:
    """Return a quantity times a factor times a unit, where of the quantity's uncertainty only the interval is known."""
    low, high, value = quantity.low, quantity.high, quantity.value
    of: Budget = []
    if value is not None and low is not None and high is not None:
        of = [uncertainty.Term("interval", "", value - low, high - value)]
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
    """Return the embodied emissions in grams CO2e of some seconds of the hardware: a range, without a value.

    The range is that of the published figures and lifetimes: the least figure over the longest lifetime, to the most
    over the shortest. Hardware counts for the time that it was there. ``why`` names what is not in it.

    Source: time share of the embodied emissions, ISO/IEC 21031:2024, M = TE x TS x RS with RS = 1.
    """
    cards = {spread.code for spread in factors.embodied if spread.code != SERVER}
    gpus = [device for device, _ in used if device.kind == "gpu"]
    without = dict.fromkeys(device.name for device in gpus if device.method != "reported" and device.name not in cards)
    if not gpus:
        return unknown("no GPU took part, and how much of a server did is not known", "assumed")
    if not cards or factors.lifetime is None:
        names = ", ".join(without) or "these GPUs"
        return unknown(f"no published figure for making {names} is in the tables", "assumed")
    whys = [f"without {name}" for name in without]
    if all(spread.code != SERVER for spread in factors.embodied):
        whys.append("without the host, whose size is not known")
    counted = [(spread, spread.count * presence(spread.code, seconds, used)) for spread in factors.embodied]
    low = sum(count * spread.low for spread, count in counted) * seconds / factors.lifetime.high
    high = sum(count * spread.high for spread, count in counted) * seconds / factors.lifetime.low
    whys.insert(0, "published figures disagree")
    return Quantity(value=None, low=low, high=high, basis="assumed", why="; ".join(whys))


def presence(code: str, seconds: float, used: Used) -> float:
    """Return the share of a scope's time in which the GPUs of a model, or all GPUs for a server, were measured.

    Under 1 where an attempt ran on other machines than the one before.
    """
    shares: list[float] = []
    for device, usage in used:
        if device.kind != "gpu" or device.method == "reported" or code not in (device.name, SERVER) or seconds <= 0:
            continue
        if usage.covered_seconds is not None:
            shares.append(min(1.0, usage.covered_seconds / seconds))
        elif device.usage.covered_seconds:  # measured elsewhere in the run, so not there now
            shares.append(0.0)
    return sum(shares) / len(shares) if any(shares) else 1.0


def _mean(used: Used, kind: str, field: str) -> float | None:
    values = [(getattr(usage, field), device.count) for device, usage in used if device.kind == kind]
    known = [(value, count) for value, count in values if value is not None]
    counted = sum(count for _, count in known)
    return sum(value * count for value, count in known) / counted if counted else None


def intensity(scope: str, factors: Factors) -> Factor | None:
    """Return the carbon intensity of a scope: its own energy-weighted mean where the intensity is known over time."""
    return factors.intensity(scope)


def totals(
    scope: str, seconds: float, used: Used, factors: Factors, nodes: int, *, silent: str = "", imported: bool = False
) -> Totals:
    """Return what a scope used, emitted and cost.

    Args:
        scope: ``run`` or a phase's path.
        seconds: that it took.
        used: its devices, each with its usage in this scope.
        factors: what to account with.
        nodes: machines billed.
        silent: that the GPUs' driver never answered, so that their energy is missing, however many there are.
        imported: as for ``energy``.
    """
    # A GPU whose energy is in the counter of its module lacks nothing.
    counted = [(device, usage) for device, usage in used if COUNTED_IN not in device.detail]
    gpu, cpu, dram = (energy(counted, kind, seconds, imported=imported) for kind in ("gpu", "cpu", "dram"))
    silent = "" if _has(used, "gpu") else silent
    gpu = unknown(silent) if silent else gpu
    gpu_count, gpu_measured_count = measured_gpus(used, seconds)
    present = [
        part
        for part, kind in ((gpu, "gpu"), (cpu, "cpu"), (dram, "dram"))
        if part.value is not None or _has(used, kind) or (silent and kind == "gpu")
    ]
    it_energy = total(present, counted)
    if silent:
        it_energy = it_energy.model_copy(update={"high": None})
    of_energy = (
        uncertainty.terms([usage for usage in counted if usage[0].kind in _NAMES]) if it_energy.low is not None else []
    )
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
        gpu_count=gpu_count,
        gpu_measured_count=gpu_measured_count,
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


def totals_of(record: RunRecord, factors: Factors, nodes: int) -> list[Totals]:
    """Return the totals of the run and of each phase."""
    whole = [(device, device.usage) for device in record.devices]
    text = gpus_never_answered(record)
    silent, imported = f"without GPUs: {text}" if text else "", not record.attempts
    scopes = [("run", record.duration_seconds, whole)]
    by_id = {device.id: device for device in record.devices}
    for phase in record.phases:
        used = [(by_id[name], usage) for name, usage in phase.usage.items() if name in by_id]
        scopes.append((phase.path, phase.seconds, used))
    return [totals(*scope, factors, nodes, silent=silent, imported=imported) for scope in scopes]


def derived(made: Sequence[Totals], trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return throughput and the use per sample, token, step and epoch of training."""
    of = next((scope_totals for path in TRAINING_PATHS for scope_totals in made if scope_totals.scope == path), None)
    return derived_figures(of, trainer) if of is not None else {}


def sci(made: Sequence[Totals], trainer: Mapping[str, Any]) -> list[SciScore]:
    """Return the SCI of training, by functional unit."""
    of = next((scope_totals for path in TRAINING_PATHS for scope_totals in made if scope_totals.scope == path), None)
    return sci_scores(of, trainer) if of is not None else []


LEAST_COUNT, MOST_COUNT = 1e-6, 1e24  # of epochs, steps, samples and tokens


def sci_scores(of: Totals, trainer: Mapping[str, Any]) -> list[SciScore]:
    """Return the software carbon intensity for each functional unit whose count is known.

    Args:
        of: the totals of the training phase.
        trainer: with ``counts``, as for ``derived``.

    Source: ISO/IEC 21031:2024, SCI = (E x I + M) / R; I is location-based, and no offset or certificate lowers it.
    """
    counts = _counts(trainer)
    made = []
    for name, unit, many in (
        ("samples", "1,000 samples", 1e3),
        ("tokens", "million tokens", 1e6),
        ("epochs", "epoch", 1.0),
    ):
        if name in counts:
            units = counts[name] / many
            operational, share = per(of.emissions_grams, units), per(of.embodied_grams, units)
            made.append(
                SciScore(
                    scope=of.scope, unit=unit, units=units, operational_grams=operational, embodied_grams=share,
                    total_grams=_sci_total(operational, share),
                )
            )  # fmt: skip
    return made


def _counts(trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return the counts of work that a run can have: of none, and of less than any work, nothing follows."""
    counts = trainer.get("counts")
    units = counts.items() if isinstance(counts, Mapping) else ()
    return {
        name: float(value)
        for name, value in units
        if isinstance(value, int | float) and LEAST_COUNT <= value <= MOST_COUNT
    }


def per(quantity: Quantity | None, units: float) -> Quantity:
    """Return a quantity for each of several units, with its interval.

    Args:
        quantity: of all of them; None is not known.
        units: how many, above zero.
    """
    if quantity is None:
        return Quantity(value=None, basis="assumed", why="not known")
    parts = {name: getattr(quantity, name) for name in ("value", "low", "high")}
    return quantity.model_copy(update={name: None if part is None else part / units for name, part in parts.items()})


def _sci_total(operational: Quantity, share: Quantity) -> Quantity:
    """Add a range to a figure: ends to ends, because published figures are no distribution."""
    if operational.value is None:
        return operational
    if share.low is None or share.high is None:
        return Quantity(value=None, basis="assumed", why=f"M is not known: {share.why}")
    low = operational.value if operational.low is None else operational.low
    high = operational.value if operational.high is None else operational.high
    return Quantity(value=None, low=low + share.low, high=high + share.high, basis="assumed", why=share.why)


def derived_figures(of: Totals, trainer: Mapping[str, Any]) -> dict[str, float]:
    """Return throughput and what a unit of work took, from a training phase's totals and the trainer's counts.

    Args:
        of: the totals of the training phase.
        trainer: with ``counts`` of ``samples``, ``tokens``, ``steps`` and ``epochs``, as far as they are known.
    """
    counts = _counts(trainer)
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
    return {name: value for name, value in made.items() if math.isfinite(value)}
