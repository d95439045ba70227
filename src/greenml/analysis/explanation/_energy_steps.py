"""Steps from the devices' readings to the energy of the run, and its duration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from greenml.analysis.explanation._derivation import Line, Step, Term, added, band, energy_doubts, shares
from greenml.record import DeviceRecord, Quantity, RunRecord, Totals
from greenml.reports import _format

MOST_LISTED = 24  # devices; more are counted together
KINDS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
METHODS = {
    "counter": "energy counter, last reading less first, each with what it had not told yet",
    "gauge": "power, integrated over time",
    "estimate": "a model, not a measurement",
    "reported": "as another tool reported it",
}


def duration(record: RunRecord) -> Step:
    """Return how the run's time adds up."""
    attempts = [one for one in record.attempts if one.seconds]
    lines = [Line(added([Term(one.seconds, "s") for one in attempts]), record.duration_seconds, "s")]
    if not attempts or not math.isclose(sum(one.seconds for one in attempts), record.duration_seconds, rel_tol=1e-9):
        lines = [Line([Term(record.duration_seconds, "s")], record.duration_seconds, "s")]
    return Step(
        "duration",
        "Duration",
        "the clock of every attempt, summed",
        lines,
        printed=_format.duration(record.duration_seconds),
        note="set-up and evaluation are in it",
    )


def used(record: RunRecord, *kinds: str) -> list[DeviceRecord]:
    """Return the devices of some kinds whose energy is known."""
    return [one for one in record.devices if one.kind in kinds and one.usage.energy_joules is not None]


def of_kind(record: RunRecord, kind: str, quantity: Quantity) -> Iterator[Step]:
    """Yield a step for each device of a kind, and the one that adds them."""
    name, devices = f"{kind}_energy", used(record, kind)
    if quantity.value is None:
        yield Step(name, f"{KINDS[kind]} energy", printed=_format.unknown(quantity))
        return
    listed = devices if len(devices) <= MOST_LISTED else []
    yield from (_device(record, one) for one in listed)
    terms = [Term(one.usage.energy_joules or 0.0, "J") for one in devices]
    groups: list[tuple[str, str]] = []
    if not listed:
        terms = [Term(quantity.value, "J")]
        groups = [("sum of", f"{len(devices)} devices; run.json lists each under devices")]
    yield Step(
        name,
        f"{KINDS[kind]} energy",
        "sum of the devices",
        [Line(added(terms), quantity.value, "J")],
        groups,
        _format.energy(quantity.value),
        *band(quantity, _format.energy),
        shares(energy_doubts(devices)),
        quantity.why,
        [f"device:{one.id}" for one in listed],
    )


def _device(record: RunRecord, device: DeviceRecord) -> Step:
    usage = device.usage
    joules, seconds, watts = usage.energy_joules or 0.0, usage.covered_seconds, usage.power_mean_watts
    lines = [Line([Term(joules, "J")], joules, "J")]
    if seconds and watts is not None:
        lines = [Line([Term(watts, "W"), Term(seconds, "s", "x")], joules, "J")]
    sources = [
        (
            "read by",
            " ".join(part for part in (_format.SENSOR_NAMES.get(device.sensor, device.sensor), device.id) if part),
        )
    ]
    own = usage.doubts
    whose = "model" if device.method == "estimate" else "sensor"
    if own is not None and joules:
        sources.append(("gain", f"± {_format.percent(own.gain_joules / joules)} of the energy, the {whose}'s accuracy"))
        if device.step_seconds:
            sources.append(("edge", f"the hardware brings it up to date every {_format.seconds(device.step_seconds)}"))
    if seconds is not None and record.duration_seconds - seconds > 0:
        sources.append(("not covered", _format.seconds(record.duration_seconds - seconds)))
    quantity = Quantity(value=joules, low=usage.energy_low_joules, high=usage.energy_high_joules, basis="measured")
    kind = "" if device.name.startswith(KINDS[device.kind]) else KINDS[device.kind]
    return Step(
        f"device:{device.id}",
        " ".join(dict.fromkeys(part for part in (kind, device.detail.get("index", ""), device.name) if part)),
        METHODS.get(device.method or "", ""),
        lines,
        sources,
        _format.energy(joules),
        *band(quantity, _format.energy),
        shares(energy_doubts([device])),
        device.note,
    )


def of_all(record: RunRecord, total: Totals) -> Step:
    """Return how the kinds add up to IT energy."""
    quantity = total.it_energy_joules
    if quantity.value is None:
        return Step("energy", "IT energy", printed=_format.unknown(quantity))
    parts = (total.gpu_energy_joules, total.cpu_energy_joules, total.dram_energy_joules)
    known = [(kind, part.value) for kind, part in zip(KINDS, parts, strict=True) if part.value is not None]
    return Step(
        "energy",
        "IT energy",
        " + ".join(KINDS[kind] for kind, _ in known),
        [Line(added([Term(value, "J") for _, value in known]), quantity.value, "J")],
        (),
        _format.energy(quantity.value),
        *band(quantity, _format.energy),
        shares(energy_doubts(used(record, *KINDS))),
        quantity.why,
        [f"{kind}_energy" for kind, _ in known],
    )
