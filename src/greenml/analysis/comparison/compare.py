"""Comparison of runs: which of them, each figure, its difference from the baseline's, and whether it is significant.

Pure: records in, a Comparison out. The rules are derived in docs/compare.md. Records are selected by conditions, can be
accounted with the same factors, and have warnings where they differ in what makes a comparison unfair.
"""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from greenml.accounting import assumptions, totals
from greenml.analysis.comparison import columns
from greenml.analysis.comparison.columns import (
    Better,
    Cell,
    Column,
    Difference,
    bases,
    columns_of,
    difference,
    front,
    same,
    shared,
)
from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.record.schema import RunRecord
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
    made = totals.totals_of(record, factors, record.place.nodes)
    return record.model_copy(
        update={
            "factors": factors,
            "totals": made,
            "derived": totals.derived(made, record.trainer),
            "sci": totals.sci(made, record.trainer),
        }
    )


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


NAME = "name"  # a column of its own: it can be sorted by


@dataclass(frozen=True, slots=True)
class Run:
    """A record, what it is called here (no two alike), and where it came from."""

    label: str
    record: RunRecord
    path: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A run, or the mean of several that repeat one configuration.

    Attributes:
        label: its name.
        runs: what it is of.
        cells: by the column's key.
        differences: from the baseline, by the column's key; empty for the baseline itself. None: a figure is missing.
    """

    label: str
    runs: tuple[Run, ...]
    cells: dict[str, Cell]
    differences: dict[str, Difference | None]


@dataclass(frozen=True, slots=True)
class Front:
    """Quality against cost or carbon, and the rows of its Pareto front.

    Attributes:
        takes, quality: the two columns.
        known: places of the rows that have both figures.
        best: those of them on the front; empty where it is not known.
        why: the reason where the front is not known.
    """

    takes: Column
    quality: Column
    known: tuple[int, ...]
    best: frozenset[int]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        columns: those of which at least one row has a figure.
        rows: in the order in which they are shown.
        baseline: the place of the row that the others are compared with.
        unknown: what no run tells: title and reason.
        warnings: why the runs may not be comparable.
        rules: how it was judged whether rows can be told apart.
        fronts: quality against cost and carbon.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: int
    unknown: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    rules: tuple[str, ...]
    fronts: tuple[Front, ...]


def compare(
    runs: Sequence[Run],
    baseline: Run | None = None,
    *,
    metrics: Sequence[str] = (),
    higher: Collection[str] = (),
    lower: Collection[str] = (),
    grouped: bool = True,
) -> Comparison:
    """Compare runs.

    Args:
        runs: at least one.
        baseline: one of them; the first unless given.
        metrics: logged metrics to show; those that the runs share unless given.
        higher: metrics of which more is better, where their names do not tell.
        lower: metrics of which less is better.
        grouped: repeats of one configuration become one row.

    Raises:
        SettingsError: no run has a metric that was asked for, or it is said to be better both ways.
    """
    records = [run.record for run in runs]
    both = set(higher) & set(lower)
    if both:
        raise SettingsError(f"the metric {min(both)!r} is said to be better higher and better lower: give one")
    directions: dict[str, Better] = {**dict.fromkeys(higher, "higher"), **dict.fromkeys(lower, "lower")}
    chosen = columns.choose(records, metrics)
    columns.check(directions, records)
    every = columns_of(records, chosen, directions)
    groups = columns.groups(records, [run.label for run in runs]) if grouped else [[at] for at in range(len(runs))]
    rows = [_row([runs[at] for at in group], every) for group in groups]
    first = next(place for place, row in enumerate(rows) if (baseline or runs[0]) in row.runs)
    rows = [
        row if place == first else replace(row, differences=_differences(rows[first], row))
        for place, row in enumerate(rows)
    ]
    shown = tuple(column for column in every if any(row.cells[column.key].figure.value is not None for row in rows))
    return Comparison(
        columns=shown,
        rows=tuple(rows),
        baseline=first,
        unknown=tuple(_unknown(column, rows) for column in every if column not in shown),
        warnings=tuple(warnings(records, [run.label for run in runs])),
        rules=tuple(_rules(rows, first)),
        fronts=tuple(_fronts(shown, rows)),
    )


def _row(runs: Sequence[Run], every: Sequence[Column]) -> Row:
    label = runs[0].label if len(runs) == 1 else f"{columns.common([run.label for run in runs])} (mean of {len(runs)})"
    cells = {column.key: columns.mean([column.figure(run.record) for run in runs]) for column in every}
    return Row(label, tuple(runs), cells, {})


def _differences(baseline: Row, row: Row) -> dict[str, Difference | None]:
    return {key: difference(baseline.cells[key], cell) for key, cell in row.cells.items()}


def _unknown(column: Column, rows: Sequence[Row]) -> tuple[str, str]:
    whys = dict.fromkeys(row.cells[column.key].figure.why for row in rows)
    return column.title, "; ".join(why for why in list(whys)[:2] if why)


def ordered(comparison: Comparison, by: str) -> Comparison:
    """Return the comparison with its rows in the order of a column; what is not known comes last.

    Args:
        comparison: of which.
        by: the column's key, title or metric, or ``name``; with a leading hyphen the largest first.

    Raises:
        SettingsError: there is no such column.
    """
    wanted, down = by.removeprefix("-"), by.startswith("-")
    keys = {NAME: NAME}
    for column in comparison.columns:
        keys |= dict.fromkeys((column.key, column.title, column.key.removeprefix("metrics.")), column.key)
    if wanted not in keys:
        meant = did_you_mean(nearest(wanted, keys, cutoff=0.5))
        names = [NAME, *(column.key.removeprefix("metrics.") for column in comparison.columns)]
        raise SettingsError(f"--sort {by}: no such column{meant or ';'} there are {', '.join(names)}")
    places = list(range(len(comparison.rows)))
    if keys[wanted] == NAME:
        places.sort(key=lambda at: comparison.rows[at].label, reverse=down)
    else:
        values = [row.cells[keys[wanted]].figure.value for row in comparison.rows]
        sign = -1.0 if down else 1.0
        places.sort(key=lambda at: ((value := values[at]) is None, sign * (value or 0.0)))
    new = {old: place for place, old in enumerate(places)}
    return replace(
        comparison,
        rows=tuple(comparison.rows[at] for at in places),
        baseline=new[comparison.baseline],
        fronts=tuple(
            replace(
                pareto_front,
                known=tuple(sorted(new[at] for at in pareto_front.known)),
                best=frozenset(new[at] for at in pareto_front.best),
            )
            for pareto_front in comparison.fronts
        ),
    )


def _fronts(shown: Sequence[Column], rows: Sequence[Row]) -> list[Front]:
    """Return the fronts of quality against cost in each tier and against carbon; the quality is the first metric."""
    quality = next((column for column in shown if column.key.startswith("metrics.")), None)
    if quality is None or len(rows) == 1:
        return []
    fronts = []
    for takes in (column for column in shown if column.kind in ("money", "mass")):
        pairs = [(row.cells[takes.key].figure.value, row.cells[quality.key].figure.value) for row in rows]
        known = tuple(at for at, pair in enumerate(pairs) if None not in pair)
        if not known:
            continue
        if quality.better is None:
            why = (
                f"whether more or less {quality.title} is better is not known: no front is drawn; "
                "say --higher-is-better or --lower-is-better"
            )
            fronts.append(Front(takes, quality, known, frozenset(), why))
            continue
        on = sorted({basis for at in known for basis in bases(rows[at].cells[takes.key].figure)})
        if len(on) > 1:
            why = f"emissions are {' and '.join(on)}: no front is drawn; say --basis"
            fronts.append(Front(takes, quality, known, frozenset(), why))
            continue
        points = [(pairs[at][0] or 0.0, pairs[at][1] or 0.0) for at in known]
        best = front(points, higher=quality.better == "higher")
        fronts.append(Front(takes, quality, known, frozenset(known[at] for at in best)))
    return fronts


def _rules(rows: Sequence[Row], first: int) -> list[str]:
    """Return how rows were compared with the baseline: which sensors and factors are shared, so that they cancel."""
    by_rule: dict[str, list[str]] = defaultdict(list)
    for place, row in enumerate(rows):
        if place != first:
            by_rule[_rule(rows[first], row)].append(row.label)
    return [f"{named(names)}: {rule}" for rule, names in by_rule.items() if rule]


def _rule(baseline: Row, row: Row) -> str:
    baseline_energy, row_energy = baseline.cells["energy_joules"].figure, row.cells["energy_joules"].figure
    if baseline_energy.value is None or row_energy.value is None:
        return ""
    if baseline_energy.terms is None or row_energy.terms is None:
        return "energy is not judged, because what the sensors may be off by is not known"
    both, of = shared(baseline_energy, row_energy)
    if both == 0:
        rule = (
            "no sensor is known to be the baseline's, so energies are told apart only where their intervals are apart"
        )
    else:
        rule = f"{both} of {of} sensors are the baseline's too, and what they have in common cancels"
    baseline_emissions, row_emissions = baseline.cells["emissions_grams"].figure, row.cells["emissions_grams"].figure
    if (
        baseline_emissions.value is None
        or row_emissions.value is None
        or len(baseline_emissions.factors) != len(row_emissions.factors)
    ):
        return rule
    names = ("PUE", "carbon intensity")
    alike = [
        name for name, a, b in zip(names, baseline_emissions.factors, row_emissions.factors, strict=True) if same(a, b)
    ]
    other = [name for name in names if name not in alike]
    for parts, words in ((alike, "the same and cancel"), (other, "not the same, so both intervals count")):
        if parts:
            verb = "are" if len(parts) > 1 else "is"
            verdict = words if len(parts) > 1 else words.replace("cancel", "cancels").replace("both", "its two")
            rule += f"; {' and '.join(parts)} {verb} {verdict}"
    return rule
