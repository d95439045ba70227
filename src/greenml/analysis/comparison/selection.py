"""Selection of the records to compare: conditions, warnings where runs differ, and accounting with the same factors."""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from greenml.accounting import assumptions, per_unit
from greenml.accounting import totals as accounting_totals
from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.record.schema import DeviceRecord, Factors, RunRecord, Totals, Usage
from greenml.reports import _format

MOST_NAMED = 4
MOST_KINDS = 4
BASES = {"counter": "measured", "gauge": "measured", "estimate": "modelled", "reported": "reported"}
KINDS = ("gpu", "cpu", "dram")


def warnings(records: Sequence[RunRecord], labels: Sequence[str]) -> list[str]:
    """Return a line for each property that differs: its values by run, and its effect on the comparison."""
    lines = []
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
            lines.append(f"{name}: {'; '.join(parts)}. {why}")
    for of_run, why in ALONE:
        by_text: dict[str, list[str]] = defaultdict(list)
        for record, label in zip(records, labels, strict=True):
            if text := of_run(record):
                by_text[text].append(label)
        lines += [f"{text}: {named(names)}. {why}" for text, names in sorted(by_text.items())]
    return lines


def named(names: Sequence[str]) -> str:
    """List names, the first few and how many more."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 1])} and {len(names) - MOST_NAMED + 1} more"


def _measured(record: RunRecord) -> str:
    parts = []
    for kind in KINDS:
        how = {
            BASES.get(device.method or "", "")
            for device in record.devices
            if device.kind == kind and device.usage.energy_joules is not None
        }
        if how:
            parts.append(f"{kind.upper()} {' and '.join(sorted(how))}")
    return ", ".join(parts) or "no energy"


def _partial(record: RunRecord) -> str:
    missing = [
        device
        for device in record.devices
        if device.kind in KINDS and device.usage.energy_joules is None and device.usage.why
    ]
    return "the energy of some devices is missing" if missing and _measured(record) != "no energy" else ""


def _phases(record: RunRecord) -> str:
    return ", ".join(sorted(phase.path for phase in record.phases if "/" not in phase.path)) or "none"


def _region(record: RunRecord) -> str:
    place = record.place
    where = "/".join(part for part in (place.cloud, place.region) if part)
    return where or place.country_name or place.country_iso3 or _format.NOT_KNOWN


def _intensity(record: RunRecord) -> str:
    factor = record.factors.carbon_intensity
    if factor is None:
        return _format.NOT_KNOWN
    series = record.factors.intensity_series
    series_words = f"{series.provider} by the hour, {series.signal}" if series is not None else ""
    place = " ".join(part for part in (factor.scope.replace("_", " "), factor.code) if part)
    facts = [place, str(factor.year or ""), factor.basis, series_words, factor.source.name.partition(" (")[0]]
    value = "" if series is not None else f"{_format.number(factor.value, 4)} {factor.unit} "
    return f"{value}{', '.join(part for part in facts if part)}"


def _basis(record: RunRecord) -> str:
    factor, series = record.factors.carbon_intensity, record.factors.intensity_series
    if factor is None:
        return _format.NOT_KNOWN
    basis = factor.basis or "basis not known"
    marginal = series is not None and series.signal == "marginal"
    return f"marginal, {series.basis or 'basis not known'}" if marginal and series is not None else basis


def _pue(record: RunRecord) -> str:
    factor = record.factors.pue
    if factor is None:
        return _format.NOT_KNOWN
    return f"{_format.number(factor.value, 4)}{' assumed' if factor.assumed else ''}"


def _gpus(record: RunRecord) -> str:
    counts: dict[str, int] = defaultdict(int)
    for device in record.devices:
        if device.kind == "gpu":
            counts[device.name] += device.count
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "no GPU"


def _nodes(record: RunRecord) -> str:
    return str(assumptions.machines(record))


def _billed(record: RunRecord) -> str:
    return str(record.place.nodes)


def _prices(record: RunRecord) -> str:
    prices = record.factors.prices
    if not prices:
        return "no price"
    what = dict.fromkeys(
        "given by hand" if price.scope == "given" else price.code or price.scope for price in prices.values()
    )
    parts = []
    for tier, price in sorted(prices.items()):
        date = f" of {price.source.published}" if price.source.published else ""
        parts.append(f"{_format.tier(tier)} ${_format.number(price.value)}{date}")
    return f"{', '.join(what)}: {', '.join(parts)}"


def _tier(record: RunRecord) -> str:
    return _format.tier(record.place.tier) if record.place.tier else "not known"


def _origin(record: RunRecord) -> str:
    imported = [device for device in record.devices if device.method == "reported"]
    if not imported:
        return "measured by greenml"
    tools = dict.fromkeys(_format.SENSOR_NAMES.get(device.sensor, device.sensor) for device in imported)
    return f"imported ({', '.join(tools)})"


def _status(record: RunRecord) -> str:
    return "" if record.status == "completed" else f"not completed, {_format.STATUS_WORDS[record.status]}"


def _attempts(record: RunRecord) -> str:
    return f"{len(record.attempts)} attempts" if len(record.attempts) > 1 else ""


# Name, what a run has of it, and what it does to the comparison where runs differ in it.
ASPECTS: tuple[tuple[str, Callable[[RunRecord], str], str], ...] = (
    ("Energy measured", _measured, "The energies, and what follows from them, are of different parts."),
    ("Figures' origin", _origin, "Other tools count other things and tell no intervals."),
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


def with_factors_of(record: RunRecord, baseline: RunRecord) -> RunRecord:
    """Return a record accounted with another's carbon intensity and PUE; prices stay, they are of its own machine.

    Of a carbon intensity that is known by the hour, its mean over the other run's energy is taken.

    Raises:
        SettingsError: the other record has no carbon intensity or no PUE.
    """
    intensity, pue = baseline.factors.carbon_intensity, baseline.factors.pue
    if intensity is None or pue is None:
        missing = "carbon intensity" if intensity is None else "PUE"
        raise SettingsError(f"--same-factors: no {missing} is known of the baseline; give another --baseline")
    if record is baseline:
        return record
    factors = record.factors.model_copy(
        update={"carbon_intensity": intensity, "pue": pue, "intensity_series": None},
    )
    by_id = {device.id: device for device in record.devices}
    totals = [
        _total("run", record.duration_seconds, [(device, device.usage) for device in record.devices], factors, record)
    ]
    for phase in record.phases:
        used = [(by_id[name], usage) for name, usage in phase.usage.items() if name in by_id]
        totals.append(_total(phase.path, phase.seconds, used, factors, record))
    train = next((total for total in totals if total.scope == record.training_path), None)
    derived = per_unit.derived(train, record.trainer) if train is not None else {}
    return record.model_copy(update={"factors": factors, "totals": totals, "derived": derived})


def _total(
    scope: str,
    seconds: float,
    used: Sequence[tuple[DeviceRecord, Usage]],
    factors: Factors,
    record: RunRecord,
) -> Totals:
    return accounting_totals.totals(scope, seconds, used, factors, record.place.nodes)


EXAMPLES = "such as params.learning_rate<1e-4, sku=ND40rs_v2 or status=completed"
ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([\w./ -]+?)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")

# Short names of what people ask for; everything else is a path into the record, or a parameter's or metric's name.
SHORT: dict[str, Callable[[RunRecord], Any]] = {
    "sku": lambda record: record.place.sku,
    "region": lambda record: record.place.region,
    "cloud": lambda record: record.place.cloud,
    "country": lambda record: record.place.country_iso3,
    "tier": lambda record: record.place.tier,
    "nodes": lambda record: record.place.nodes,
    "gpu": lambda record: next((device.name for device in record.devices if device.kind == "gpu"), None),
    "gpus": lambda record: sum(device.count for device in record.devices if device.kind == "gpu"),
    "host": lambda record: next((host.name for host in record.hosts), None),
    "energy_joules": lambda record: total.it_energy_joules.value if (total := record.total()) else None,
    "emissions_grams": lambda record: total.emissions_grams.value if (total := record.total()) else None,
    "gpu_utilization_ratio": lambda record: total.gpu_utilization_ratio if (total := record.total()) else None,
    "gpu_memory_peak_bytes": lambda record: total.gpu_memory_peak_bytes if (total := record.total()) else None,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a field with a value."""

    field: str
    sign: str
    value: str
    text: str

    def holds(self, record: RunRecord) -> bool:
        """Return whether a run meets the condition; a run without the field does not."""
        field_value = lookup(record, self.field)
        if field_value is None:
            return False
        if self.sign in ORDERS:
            number = _number(field_value)
            return number is not None and ORDERS[self.sign](number, float(self.value))
        number, wanted = _number(field_value), _number(self.value)
        equal = (
            number == wanted if number is not None and wanted is not None else _word(field_value) == _word(self.value)
        )
        return equal if self.sign in ("=", "==") else not equal


def parse(text: str) -> Condition:
    """Read a condition: a field, one of = != < <= > >=, and a value.

    Raises:
        SettingsError: it is none; says what would be.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise SettingsError(f"--where {text!r}: must be a field, one of = != < <= > >=, and a value, {EXAMPLES}")
    field, sign, value = match[1], match[2], match[3].strip("'\"")
    if sign in ORDERS and _number(value) is None:
        raise SettingsError(f"--where {text!r}: {value!r} is not a number, and {sign} needs one; {EXAMPLES}")
    return Condition(field, sign, value, text)


def select(records: Sequence[RunRecord], conditions: Sequence[Condition]) -> list[int]:
    """Return the indices of the runs that meet every condition.

    Raises:
        SettingsError: no run has a field, or none meets the conditions.
    """
    for condition in conditions:
        if not any(lookup(record, condition.field) is not None for record in records):
            near = nearest(condition.field, _fields(records), cutoff=0.5)
            meant = did_you_mean(near) or f"; give a field of the record, {EXAMPLES}"
            raise SettingsError(f"--where {condition.text!r}: no run has {condition.field!r}{meant}")
    chosen = [at for at, record in enumerate(records) if all(condition.holds(record) for condition in conditions)]
    if not chosen:
        wanted = " and ".join(condition.text for condition in conditions)
        raise SettingsError(f"--where {wanted}: none of the {len(records)} runs is so")
    return chosen


def lookup(record: RunRecord, field: str) -> Any:  # noqa: ANN401  a parameter may be anything
    """Return a field of a record by its short name, its path, or as a parameter or metric; None where there is none."""
    if field in SHORT:
        return SHORT[field](record)
    value = _walk(record, field)
    for held in (record.params, record.metrics, record.derived):
        if value is None:
            value = _walk(held, field)
    return value


def _walk(held: Any, path: str) -> Any:  # noqa: ANN401
    """Return the value at a dotted path; a key may itself contain dots or slashes."""
    if isinstance(held, Mapping):
        if path in held:
            return held[path]
        for key in held:
            if path.startswith(f"{key}.") and (inner := _walk(held[key], path[len(key) + 1 :])) is not None:
                return inner
        return None
    if isinstance(held, BaseModel):
        name, _, rest = path.partition(".")
        if name not in type(held).model_fields:
            return None
        value = getattr(held, name)
        return _walk(value, rest) if rest else value
    return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _word(value: object) -> str:
    return str(value).strip().lower()


def _fields(records: Sequence[RunRecord]) -> list[str]:
    names = dict.fromkeys(SHORT)
    names |= dict.fromkeys(RunRecord.model_fields)
    for record in records:
        names |= dict.fromkeys(f"params.{name}" for name in record.params)
        names |= dict.fromkeys(record.params)
        names |= dict.fromkeys(f"metrics.{name}" for name in record.metrics)
        names |= dict.fromkeys(record.metrics)
    return list(names)
