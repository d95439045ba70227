"""Why runs may not be comparable: what else differs between them than what is being compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from greenml import assumptions
from greenml.record import RunRecord
from greenml.reports import _format

MOST_NAMED = 4
MOST_KINDS = 4
BASES = {"counter": "measured", "gauge": "measured", "estimate": "modelled", "reported": "reported"}
KINDS = ("gpu", "cpu", "dram")


def warnings(records: Sequence[RunRecord], labels: Sequence[str]) -> list[str]:
    """Return a line for each thing that differs: what it is of which runs, and what it does to the comparison."""
    found = []
    for name, of, why in ASPECTS:
        held: dict[str, list[str]] = defaultdict(list)
        for record, label in zip(records, labels, strict=True):
            held[of(record)].append(label)
        if len(held) > 1:
            kinds = sorted(held.items(), key=lambda item: -len(item[1]))
            parts = [f"{kind} ({named(names)})" for kind, names in kinds[:MOST_KINDS]]
            if len(kinds) > MOST_KINDS:
                others = sum(len(names) for _, names in kinds[MOST_KINDS:])
                parts.append(f"{len(kinds) - MOST_KINDS} more ({others} runs)")
            found.append(f"{name}: {'; '.join(parts)}. {why}")
    for of_one, why in ALONE:
        named_so: dict[str, list[str]] = defaultdict(list)
        for record, label in zip(records, labels, strict=True):
            if said := of_one(record):
                named_so[said].append(label)
        found += [f"{said}: {named(names)}. {why}" for said, names in sorted(named_so.items())]
    return found


def named(names: Sequence[str]) -> str:
    """List names, the first few and how many more."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 1])} and {len(names) - MOST_NAMED + 1} more"


def _measured(record: RunRecord) -> str:
    parts = []
    for kind in KINDS:
        how = {
            BASES.get(one.method or "", "")
            for one in record.devices
            if one.kind == kind and one.usage.energy_joules is not None
        }
        if how:
            parts.append(f"{kind.upper()} {' and '.join(sorted(how))}")
    return ", ".join(parts) or "no energy"


def _partial(record: RunRecord) -> str:
    missing = [one for one in record.devices if one.kind in KINDS and one.usage.energy_joules is None and one.usage.why]
    return "the energy of some devices is missing" if missing and _measured(record) != "no energy" else ""


def _phases(record: RunRecord) -> str:
    return ", ".join(sorted(one.path for one in record.phases if "/" not in one.path)) or "none"


def _region(record: RunRecord) -> str:
    place = record.place
    where = "/".join(part for part in (place.cloud, place.region) if part)
    return where or place.country_name or place.country_iso3 or _format.NOT_KNOWN


def _intensity(record: RunRecord) -> str:
    factor = record.factors.carbon_intensity
    if factor is None:
        return _format.NOT_KNOWN
    course = record.factors.intensity_course
    told = f"{course.provider} by the hour, {course.signal}" if course is not None else ""
    place = " ".join(part for part in (factor.scope.replace("_", " "), factor.code) if part)
    facts = [place, str(factor.year or ""), factor.basis, told, factor.source.name.partition(" (")[0]]
    value = "" if course is not None else f"{_format.number(factor.value, 4)} {factor.unit} "
    return f"{value}{', '.join(part for part in facts if part)}"


def _basis(record: RunRecord) -> str:
    factor, course = record.factors.carbon_intensity, record.factors.intensity_course
    if factor is None:
        return _format.NOT_KNOWN
    basis = factor.basis or "basis not told"
    marginal = course is not None and course.signal == "marginal"
    return f"marginal, {course.basis or 'basis not told'}" if marginal and course is not None else basis


def _pue(record: RunRecord) -> str:
    factor = record.factors.pue
    if factor is None:
        return _format.NOT_KNOWN
    return f"{_format.number(factor.value, 4)}{' assumed' if factor.assumed else ''}"


def _gpus(record: RunRecord) -> str:
    counts: dict[str, int] = defaultdict(int)
    for one in record.devices:
        if one.kind == "gpu":
            counts[one.name] += one.count
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "no GPU"


def _nodes(record: RunRecord) -> str:
    return str(assumptions.machines(record))


def _billed(record: RunRecord) -> str:
    return str(record.place.nodes)


def _prices(record: RunRecord) -> str:
    prices = record.factors.prices
    if not prices:
        return "no price"
    what = dict.fromkeys("given by hand" if one.scope == "given" else one.code or one.scope for one in prices.values())
    parts = []
    for tier, one in sorted(prices.items()):
        date = f" of {one.source.published}" if one.source.published else ""
        parts.append(f"{_format.tier(tier)} ${_format.number(one.value)}{date}")
    return f"{', '.join(what)}: {', '.join(parts)}"


def _tier(record: RunRecord) -> str:
    return _format.tier(record.place.tier) if record.place.tier else "not told"


def _origin(record: RunRecord) -> str:
    imported = [one for one in record.devices if one.method == "reported"]
    if not imported:
        return "measured by greenml"
    tools = dict.fromkeys(_format.SENSOR_NAMES.get(one.sensor, one.sensor) for one in imported)
    return f"imported ({', '.join(tools)})"


def _status(record: RunRecord) -> str:
    return "" if record.status == "completed" else f"not completed, {_format.STATUS_WORDS[record.status]}"


def _attempts(record: RunRecord) -> str:
    return f"{len(record.attempts)} attempts" if len(record.attempts) > 1 else ""


# Name, what a run has of it, and what it does to the comparison where runs differ in it.
ASPECTS: tuple[tuple[str, Callable[[RunRecord], str], str], ...] = (
    ("Energy measured", _measured, "The energies, and what follows from them, are of different parts."),
    ("Figures' origin", _origin, "Other tools count other things and tell no bands."),
    ("Phases", _phases, "The runs did different work: the run's totals are of all of it."),
    ("GPUs", _gpus, "Time, energy and memory are of other hardware."),
    ("Hosts", _nodes, "Time and energy are of another number of machines."),
    ("Nodes billed", _billed, "Costs are of another number of machines."),
    ("Region", _region, "Carbon and cost follow the place as well as the run; compare the energy."),
    (
        "Basis of the carbon intensity", _basis,
        "Lifecycle figures hold what direct ones leave out, and marginal ones answer another question.",
    ),
    ("Carbon intensity", _intensity, "Emissions differ by the factor too; --same-factors takes the baseline's."),
    ("PUE", _pue, "Emissions differ by the factor too; --same-factors takes the baseline's."),
    ("Prices", _prices, "Costs differ by the price as well as the time."),
    ("Tier paid", _tier, "Read the cost of the tier that each run paid."),
)  # fmt: skip

# What makes a run hard to compare on its own.
ALONE: tuple[tuple[Callable[[RunRecord], str], str], ...] = (
    (_status, "The figures are of a part of the work."),
    (_partial, "Its totals leave them out."),
    (_attempts, "Their time and energy hold what was done twice."),
)
