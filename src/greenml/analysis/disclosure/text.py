"""Sentences of a disclosure: how the energy was measured, and what it covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from greenml.analysis.disclosure.model import STAGES, Model, Run, added, digits
from greenml.record.schema import Quantity
from greenml.reports import _format
from greenml.reports.card import facts as card_facts
from greenml.units import JOULES_PER_KWH

KWH_PER_MWH = 1000.0


def megawatt_hours(quantity: Quantity) -> str:
    """Write an energy in MWh with the digits that its interval allows; ``N/A`` and the reason: not known."""
    if quantity.value is None:
        return f"N/A ({quantity.why or 'not measured'})"
    text = _format.significant(quantity.value / JOULES_PER_KWH / KWH_PER_MWH, digits(quantity))
    return f"{'at least ' if quantity.at_least else ''}{text} MWh"


def interval(quantity: Quantity) -> str:
    """Write the interval of an energy in MWh; empty where none is known."""

    def write(joules: float) -> str:
        return f"{_format.significant(joules / JOULES_PER_KWH / KWH_PER_MWH, digits(quantity) + 1)} MWh"

    if quantity.value is None or quantity.low is None:
        return ""
    if quantity.high is None:
        return f"from {write(quantity.low)} up"
    return f"{write(quantity.low)} to {write(quantity.high)}"


def boundary(runs: Sequence[Run]) -> str:
    """Say what the energy is of: devices, or the facility."""
    kinds = [
        name
        for name, quantities in (
            ("GPUs", [run.total.gpu_energy_joules for run in runs if run.total]),
            ("CPUs", [run.total.cpu_energy_joules for run in runs if run.total]),
            ("memory", [run.total.dram_energy_joules for run in runs if run.total]),
        )
        if any(quantity.value is not None for quantity in quantities)
    ]
    devices = " and ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds) or "no device"
    factors = [run.record.factors.pue for run in runs if run.has_pue]
    if not factors or any(not run.has_pue for run in runs):
        missing = "" if not factors else f" ({len(factors)} of {len(runs)} runs with their PUE)"
        return f"the energy of {devices} as the devices drew it, without the facility's cooling and losses{missing}"
    values = sorted({factor.value for factor in factors if factor})
    pue = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
    sources = ", ".join(dict.fromkeys(_format.source(factor.source) for factor in factors if factor))
    return f"the energy of {devices}, multiplied by a power usage effectiveness of {pue} ({sources})"


def method(runs: Sequence[Run], energy: Quantity) -> str:
    """Say in about 100 words how the energy is known, from the records."""
    versions = ", ".join(sorted({run.record.greenml_version for run in runs}))
    several = f"{len(runs)} runs" if len(runs) > 1 else "one run"
    hardware = Counter(card_facts.hardware(run.record) or "unnamed hardware" for run in runs)
    on = "; ".join(f"{name}{f' ({count} runs)' if count > 1 else ''}" for name, count in hardware.most_common(3))
    more = f" and {len(hardware) - 3} more kinds of machine" if len(hardware) > 3 else ""
    sources = list(dict.fromkeys(card_facts.energy_sources(run.record, unknown=True) for run in runs))
    how = "; ".join(sources[:2]) + (f"; and {len(sources) - 2} other ways" if len(sources) > 2 else "")
    sentences = [
        f"The figure adds up {several} on {on}{more}, recorded with greenml {versions}.",
        f"How the energy is known: {how}.",
        f"Boundary: {boundary(runs)}.",
    ]
    stated = interval(energy)
    if stated:
        sentences.append(f"Its 95 % interval, {stated}, holds calibration, sampling and models; ends are added.")
    elif energy.value is not None:
        sentences.append("No uncertainty is known: the meter stated none. Two significant figures are given.")
    if energy.at_least:
        sentences.append(f"It is a lower bound: {energy.why}.")
    if any(note.code == "conflict" for run in runs for note in run.record.notes):
        sentences.append("A second meter of the same run states another energy; the record holds both.")
    unfinished = sum(run.record.status != "completed" for run in runs)
    discarded = sum(run.stage == "discarded" for run in runs)
    counted = [f"{discarded} discarded" if discarded else "", f"{unfinished} unfinished" if unfinished else ""]
    if any(counted):
        sentences.append(f"Included are {' and '.join(part for part in counted if part)} runs.")
    sentences.append("Networks, storage, the making of the hardware and work that was not recorded are left out.")
    return " ".join(sentences)


def by_stage(model: Model) -> list[tuple[str, int, Quantity, Quantity]]:
    """Return (stage, number of runs, joules, grams) of each stage that has runs."""
    made = []
    for stage in STAGES:
        runs = model.of([stage])
        if runs:
            energy = added([run.energy_joules for run in runs])
            made.append((stage, len(runs), energy, added([run.emissions_grams for run in runs])))
    return made
