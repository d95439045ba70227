"""Sentences of a disclosure: how the energy was measured, and what it covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from greenml.analysis.disclosure.model import STAGES, Model, Run, added, digits
from greenml.record.schema import Quantity
from greenml.reports import _format
from greenml.reports.card import facts as card_facts
from greenml.units import JOULES_PER_KWH

JOULES_PER_UNIT = {"kWh": JOULES_PER_KWH, "MWh": 1000.0 * JOULES_PER_KWH}
LEAST_FIXED = 1e-5  # what is less is written with its power of ten


def megawatt_hours(quantity: Quantity) -> str:
    """Write an energy in MWh with the digits that its interval allows; ``N/A`` and the reason: not known."""
    if quantity.value is None:
        return f"N/A ({quantity.why or 'not measured'})"
    return f"{'at least ' if quantity.at_least else ''}{_energy(quantity.value, digits(quantity), 'MWh')}"


def _energy(joules: float, count: int, unit: str) -> str:
    """Write an energy with so many significant digits, and none beyond: ``150000 MWh``, ``1.0e-9 MWh``."""
    value = float(f"{joules / JOULES_PER_UNIT[unit]:.{count - 1}e}")
    if 0 < abs(value) < LEAST_FIXED:
        return f"{value:.{count - 1}e} {unit}".replace("e-0", "e-")
    return f"{_format.significant(value, count)} {unit}"


def interval(quantity: Quantity, unit: str = "MWh") -> str:
    """Write the interval of an energy in MWh or kWh; empty where none is known."""

    def write(joules: float) -> str:
        return _energy(joules, digits(quantity) + 1, unit)

    if quantity.value is None or quantity.low is None:
        return ""
    if quantity.high is None:
        return f"from {write(quantity.low)} up"
    return f"{write(quantity.low)} to {write(quantity.high)}"


def boundary(runs: Sequence[Run]) -> str:
    """Say what the energy is of: devices, or the facility; runs whose energy is not known have no part in it."""
    known = [run for run in runs if run.energy_joules.value is not None]
    if not known:
        return "no energy is known"
    totals = [run.total for run in known if run.total]
    devices = _listed(
        [
            (name, sum(quantity.value is not None for quantity in quantities))
            for name, quantities in (
                ("GPUs", [total.gpu_energy_joules for total in totals]),
                ("CPUs", [total.cpu_energy_joules for total in totals]),
                ("memory", [total.dram_energy_joules for total in totals]),
            )
        ],
        len(known),
    )
    factors = [factor for run in known if run.has_pue and (factor := run.record.factors.pue)]
    if not factors:
        return f"the energy of {devices} as the devices drew it, without the facility's cooling and losses"
    values = sorted({factor.value for factor in factors})
    pue = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
    sources = ", ".join(dict.fromkeys(_format.source(factor.source) for factor in factors))
    part = ""
    if len(factors) < len(known):
        part = f" in {len(factors)} of {len(known)} runs, without the facility's cooling and losses in the others"
    return f"the energy of {devices}, multiplied by a power usage effectiveness of {pue} ({sources}){part}"


def _listed(counts: Sequence[tuple[str, int]], runs: int) -> str:
    """Name what is in a sum of runs: ``GPUs, CPUs (2 of 3 runs) and memory``."""
    names = [f"{name}{f' ({count} of {runs} runs)' if count < runs else ''}" for name, count in counts if count]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "all devices"


def method(runs: Sequence[Run], energy: Quantity) -> str:
    """Say in about 100 words how the energy is known, from the records."""
    versions = ", ".join(sorted({run.record.greenml_version for run in runs}))
    hardware = Counter(card_facts.hardware(run.record) or "unnamed hardware" for run in runs)
    on = "; ".join(
        f"{name}{f' ({_runs(count)})' if len(hardware) > 1 else ''}" for name, count in hardware.most_common(3)
    )
    more = f" and {len(hardware) - 3} more kinds of machine" if len(hardware) > 3 else ""
    sources = list(dict.fromkeys(card_facts.energy_sources(run.record, unknown=True) for run in runs))
    how = "; ".join(sources[:2]) + (f"; and {len(sources) - 2} other ways" if len(sources) > 2 else "")
    of = "adds up" if len(runs) > 1 else "is that of"
    sentences = [
        f"The figure {of} {_runs(len(runs))} on {on}{more}, recorded with greenml {versions}.",
        f"How the energy is known: {how}.",
        f"Boundary: {boundary(runs)}.",
    ]
    stated = interval(energy)
    if stated:
        added_up = "; ends are added" if len(runs) > 1 else ""
        sentences.append(f"Its 95 % interval, {stated}, holds calibration, sampling and models{added_up}.")
    elif energy.value is not None:
        sentences.append("Its uncertainty is not known: the meter stated none.")
    if energy.at_least:
        sentences.append(f"It is a lower bound: {energy.why}.")
    if any(note.code == "conflict" for run in runs for note in run.record.notes):
        sentences.append("A second meter of the same run states another energy; the record holds both.")
    unfinished = sum(run.record.status != "completed" for run in runs)
    discarded = sum(run.stage == "discarded" for run in runs)
    if len(runs) == 1 and unfinished:
        sentences.append(f"The run did not complete: {runs[0].record.status}.")
    counted = [f"{discarded} discarded" if discarded else "", f"{unfinished} unfinished" if unfinished else ""]
    if len(runs) > 1 and any(counted):
        sentences.append(f"Among them are {' and '.join(filter(None, counted))}.")
    sentences.append("Networks, storage, the making of the hardware and work that was not recorded are left out.")
    return " ".join(sentences)


def _runs(count: int) -> str:
    return f"{count} runs" if count > 1 else "one run"


def by_stage(model: Model) -> list[tuple[str, int, Quantity, Quantity]]:
    """Return (stage, number of runs, joules, grams) of each stage that has runs."""
    made = []
    for stage in STAGES:
        runs = model.of([stage])
        if runs:
            energy = added([run.energy_joules for run in runs])
            made.append((stage, len(runs), energy, added([run.emissions_grams for run in runs])))
    return made
