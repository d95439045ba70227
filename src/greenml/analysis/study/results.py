"""A study's results: the figures of its variants, and what follows from them.

The figures are read from records, of which each has its share of the machine. What follows: differences from the
baseline and whether they are told apart, the target and what it took to reach it, Pareto fronts, and the best run. The
statistics are those of docs/method.md, section 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from greenml.accounting import totals
from greenml.analysis import statistics
from greenml.analysis.comparison import columns as comparison_columns
from greenml.analysis.comparison.columns import Better, Column, Figure, columns_of, front, mean, number
from greenml.analysis.comparison.columns import Cell as MeanCell
from greenml.analysis.statistics import LEVEL, Effect
from greenml.analysis.study.folder import Cell, Spent, Study, own_ratio, spent
from greenml.analysis.study.plan import Variant
from greenml.record.schema import (
    DeviceRecord,
    PhaseRecord,
    Quantity,
    RunRecord,
    Series,
    Totals,
    UncertaintyBudget,
    Usage,
)
from greenml.reports import _format
from greenml.units import BYTES_PER_GB, GRAMS_PER_KG, GRAMS_PER_POUND, JOULES_PER_KWH

Group = Literal["quality", "speed", "machine", "energy", "cost"]
ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
SPLITS = {"predict_": "test", "test_": "test", "eval_": "validation", "": ""}  # best first
FLOPS_PER_TERAFLOP = 1e12
SHARED_KINDS = ("cpu", "dram")  # of a machine; a GPU is one cell's


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a study's tables.

    Attributes:
        column: how it is read off a record; its key names the unit, SI.
        title: for people, with the unit.
        group: what it belongs to.
        write: a value without its unit, where the title has it.
        scale: SI units in one of the title's.
        relative: compared by its ratio; False: by its difference.
    """

    column: Column
    title: str
    group: Group
    write: Callable[[float], str]
    scale: float = 1.0
    relative: bool = True

    @property
    def key(self) -> str:
        """The column's key."""
        return self.column.key

    def text(self, value: float) -> str:
        """Write a value in the title's unit."""
        return self.write(value / self.scale)

    def mean(self, cell: MeanCell) -> str:
        """Write the mean over seeds with its spread: ``55.16 ± 0.12``; why it is not known, where it is not."""
        if cell.figure.value is None:
            return _format.NOT_KNOWN
        spread = ""
        if cell.spread is not None:
            if self.write in (_format.duration, _format.money, _format.percent):
                spread = f" ± {self.text(cell.spread)}"
            else:
                spread = f" ± {_format.significant(cell.spread / self.scale, 2)}"
        return self.text(cell.figure.value) + spread


def measures(records: Sequence[RunRecord], metric: str = "", better: Better | None = None) -> list[Measure]:
    """Return the columns of a study's tables, the metric by which it is judged first.

    Args:
        records: those that completed.
        metric: by which the study is judged; the best known that the runs share by default.
        better: which way is better, where the metric's name does not tell.

    Raises:
        SettingsError: no run has the metric.
    """
    names = _metrics(records, metric)
    directions = {metric: better} if metric and better else {}
    known = {column.key: column for column in columns_of(records, names, directions)}
    quality = [
        Measure(known[f"metrics.{name}"], _title(name), "quality", _metric_text, relative=False) for name in names
    ]
    tiers = [key for key in known if key.startswith("cost_")]
    return [
        *quality,
        Measure(known["duration_seconds"], "Run time", "speed", _format.duration),
        _derived("samples_per_second", "Samples/s"),
        _derived("tokens_per_second", "Tokens/s"),
        Measure(known["gpu_utilization_ratio"], "GPU utilization", "machine", _format.percent),
        _total("cpu_utilization_ratio", "CPU utilization", _format.percent),
        _memory("host_memory_peak_bytes", "RAM peak, GB"),
        _memory("gpu_memory_mean_bytes", "VRAM mean, GB"),
        _memory("gpu_memory_peak_bytes", "VRAM peak, GB"),
        Measure(
            Column("disk_written_bytes", "disk written", "lower", _disk, "memory"),
            "Disk written, GB", "machine", _two, BYTES_PER_GB,
        ),
        Measure(Column("flops", "FLOPs", None, _flops), "TFLOPs", "machine", _four, FLOPS_PER_TERAFLOP),
        Measure(Column("power_mean_watts", "power", None, _power), "Mean power, W", "energy", _four),
        Measure(known["energy_joules"], "Energy, kWh", "energy", _four, JOULES_PER_KWH),
        Measure(known["emissions_grams"], "CO2e, kg", "energy", _four, GRAMS_PER_KG),
        Measure(
            Column("emissions_pounds", "CO2e", "lower", _pounds(known["emissions_grams"])), "CO2e, lb", "energy", _four
        ),
        *(
            Measure(known[key], f"Cost, {_format.tier(key[len('cost_') : -len('_usd')])}", "cost", _format.money)
            for key in tiers
        ),
    ]  # fmt: skip


def _metrics(records: Sequence[RunRecord], metric: str) -> list[str]:
    """Return the metrics to show: the study's own, ROUGE in its four kinds, and the loss."""
    counts = comparison_columns.available(records)
    comparison_columns.check([metric] if metric else [], records)
    prefixes = [prefix for prefix in SPLITS if f"{prefix}rouge1" in counts or f"{prefix}loss" in counts]
    prefix = next(
        (prefix for prefix in SPLITS if metric.startswith(prefix) and prefix), prefixes[0] if prefixes else ""
    )
    names = [metric] if metric else []
    names += [f"{prefix}{name}" for name in (*ROUGE, "loss") if f"{prefix}{name}" in counts]
    if not names and counts:
        names = comparison_columns.choose(records, ())
    if "train_loss" in counts and f"{prefix}loss" not in names:
        names.append("train_loss")
    return list(dict.fromkeys(names))


def _title(name: str) -> str:
    """Name a metric for people, with the split that it is of."""
    prefix = next(prefix for prefix in SPLITS if name.startswith(prefix))
    bare = name[len(prefix) :]
    known = ROUGE.get(bare) or ("Loss" if bare == "loss" else "")
    return f"{known} ({SPLITS[prefix]})" if known and SPLITS[prefix] else known or name


def _metric_text(value: float) -> str:
    return _format.number(value, 5)


def _four(value: float) -> str:
    return _format.significant(value, 4)


def _derived(name: str, title: str) -> Measure:
    def figure(record: RunRecord) -> Figure:
        value = record.derived.get(name)
        return Figure(value, why="" if value is not None else "the trainer did not count them")

    return Measure(Column(name, title, "higher", figure), title, "speed", _four)


def _two(value: float) -> str:
    return _format.at_least(value, 2)


def _memory(name: str, title: str) -> Measure:
    return _total(name, title, _two, BYTES_PER_GB, "lower")


def _total(
    name: str, title: str, write: Callable[[float], str], scale: float = 1.0, better: Better | None = None
) -> Measure:
    def figure(record: RunRecord) -> Figure:
        total = record.total()
        value = getattr(total, name) if total is not None else None
        return Figure(value, why="" if value is not None else "not measured")

    return Measure(Column(name, title, better, figure), title, "machine", write, scale)


def _disk(record: RunRecord) -> Figure:
    value = number(record.trainer.get("disk_written_bytes"))
    return Figure(value, why="" if value is not None else "the system does not tell what a process writes")


def _pounds(emissions: Column) -> Callable[[RunRecord], Figure]:
    def figure(record: RunRecord) -> Figure:
        grams = emissions.figure(record)
        value, low, high = (
            None if part is None else part / GRAMS_PER_POUND for part in (grams.value, grams.low, grams.high)
        )
        return replace(grams, value=value, low=low, high=high)

    return figure


def _flops(record: RunRecord) -> Figure:
    flops: Any = record.trainer.get("flops")
    value = number(flops.get("total")) if isinstance(flops, Mapping) else None
    value = value or number(record.metrics.get("total_flos")) or None
    return Figure(value, why="" if value is not None else "the trainer did not count them")


def _power(record: RunRecord) -> Figure:
    total = record.total()
    if total is None or total.it_energy_joules.value is None or not total.seconds:
        return Figure(None, why=total.it_energy_joules.why if total is not None else "the record has no totals")
    return Figure(total.it_energy_joules.value / total.seconds, why=total.it_energy_joules.why)


def with_share(record: RunRecord, share: float) -> RunRecord:
    """Return a record with its share of the machine's CPU and DRAM energy, and of its price.

    Cells that ran side by side share them.

    Args:
        record: of a cell, with the energy of the whole machine.
        share: 1 where it ran alone.
    """
    if share >= 1:
        return record
    kinds = {device.id: device.kind for device in record.devices}
    timeline = record.timeline
    if timeline is not None:
        series = [_shared_series(part, share) if kinds.get(part.device) in SHARED_KINDS else part
                  for part in timeline.series]  # fmt: skip
        timeline = timeline.model_copy(update={"series": series})
    made = [_shared_total(total, share) for total in record.totals]
    return record.model_copy(
        update={
            "devices": [_shared_device(device, share) for device in record.devices],
            "phases": [_shared_phase(phase, kinds, share) for phase in record.phases],
            "totals": made,
            "derived": totals.derived(made, record.trainer),
            "sci": totals.sci(made, record.trainer),
            "timeline": timeline,
        }
    )


def _shared_device(device: DeviceRecord, share: float) -> DeviceRecord:
    if device.kind not in SHARED_KINDS:
        return device
    return device.model_copy(update={"usage": _shared_usage(device.usage, share)})


def _shared_phase(phase: PhaseRecord, kinds: Mapping[str, str], share: float) -> PhaseRecord:
    usage = {
        name: _shared_usage(value, share) if kinds.get(name) in SHARED_KINDS else value
        for name, value in phase.usage.items()
    }
    return phase.model_copy(update={"usage": usage})


def _shared_series(series: Series, share: float) -> Series:
    return series.model_copy(
        update={"power_watts": [None if watts is None else watts * share for watts in series.power_watts]}
    )


def _shared_usage(usage: Usage, share: float) -> Usage:
    budget = usage.uncertainty
    if budget is not None:
        values = {name: getattr(budget, name) for name in UncertaintyBudget.model_fields}
        budget = UncertaintyBudget(**{name: None if part is None else part * share for name, part in values.items()})
    names = ("energy_joules", "energy_low_joules", "energy_high_joules", "power_mean_watts", "power_max_watts")
    parts = {name: None if (value := getattr(usage, name)) is None else value * share for name in names}
    return usage.model_copy(update={**parts, "uncertainty": budget})


def _shared_total(total: Totals, share: float) -> Totals:
    ratio = own_ratio(total.it_energy_joules.value or 0.0, total.gpu_energy_joules.value or 0.0, share)
    by_ratio = ("it_energy_joules", "facility_energy_joules", "emissions_grams", "market_emissions_grams")
    changes: dict[str, Any] = {name: _scaled(getattr(total, name), ratio) for name in by_ratio}
    changes |= {name: _scaled(getattr(total, name), share) for name in ("cpu_energy_joules", "dram_energy_joules")}
    changes["cost_usd"] = {tier: _scaled(usd, share) for tier, usd in total.cost_usd.items()}
    return total.model_copy(update=changes)


def _scaled(quantity: Quantity | None, ratio: float) -> Quantity | None:
    if quantity is None:
        return None
    parts = {name: getattr(quantity, name) for name in ("value", "low", "high")}
    return quantity.model_copy(update={name: None if part is None else part * ratio for name, part in parts.items()})


@dataclass(frozen=True, slots=True)
class Reached:
    """What a run took until a metric met a target.

    Attributes:
        seconds: of the run's clock.
        energy_joules, emissions_grams: None where the run's are not known.
        cost_usd: by tier.
        at_end: the metric was logged once: the run met the target at its end at the latest.
    """

    seconds: float
    energy_joules: float | None
    emissions_grams: float | None
    cost_usd: Mapping[str, float]
    at_end: bool = False


def reached(record: RunRecord, metric: str, target: float, better: Better) -> Reached | None:
    """Return what a run took until a metric met a target; None where it did not meet it.

    Source: docs/method.md, section 11.
    """

    def meets(value: float) -> bool:
        return value >= target if better == "higher" else value <= target

    points = history(record, metric)
    seconds = next((at for at, value in points if meets(value)), None)
    at_end = not points
    if at_end:
        final = number(record.metrics.get(metric))
        seconds = record.duration_seconds if final is not None and meets(final) else None
    total = record.total()
    if seconds is None or total is None:
        return None
    seconds = min(seconds, record.duration_seconds)
    time_ratio = seconds / record.duration_seconds if record.duration_seconds else 1.0
    ratio = energy_ratio(record, seconds)
    joules, grams = total.it_energy_joules.value, total.emissions_grams.value
    return Reached(
        seconds,
        None if joules is None else joules * ratio,
        None if grams is None else grams * ratio,
        {tier: usd.value * time_ratio for tier, usd in total.cost_usd.items() if usd.value is not None},
        at_end,
    )


def history(record: RunRecord, metric: str) -> list[tuple[float, float]]:
    """Return a metric over the run's clock, seconds and value; empty where it was logged once, or never."""
    logged: Any = record.trainer.get("history")
    points = logged.get(metric, []) if isinstance(logged, Mapping) else []
    made = []
    for point in points if isinstance(points, list | tuple) else []:
        if isinstance(point, list | tuple) and len(point) == 2:
            seconds, value = number(point[0]), number(point[1])
            if seconds is not None and value is not None:
                made.append((seconds, value))
    return sorted(made)


def energy_ratio(record: RunRecord, seconds: float) -> float:
    """Return the share of a run's IT energy up to a time, by its timeline; by its time where there is none."""
    even = seconds / record.duration_seconds if record.duration_seconds else 1.0
    timeline = record.timeline
    if timeline is None or timeline.step_seconds <= 0:
        return min(1.0, even)
    counted = {device.id for device in record.devices if device.kind in comparison_columns.COUNTED}
    powers = [series.power_watts for series in timeline.series if series.device in counted]
    watts = [math.fsum(row[place] or 0.0 for row in powers if place < len(row)) for place in range(timeline.bins)]

    def up_to(end: float) -> float:
        step = timeline.step_seconds  # the last bin may go on beyond the run's end
        return math.fsum(power * min(step, max(0.0, end - place * step)) for place, power in enumerate(watts))

    whole = up_to(max(seconds, record.duration_seconds))
    return min(1.0, up_to(seconds) / whole if whole > 0 else even)


# -- results of variants, and what follows ---------------------------------------------------------------------------

VERDICTS = {
    "apart": "told apart",
    "seeds": "not told apart",
    "instrument": "not told apart: sensors",
    "unknown": "not judged: sensors' uncertainty not known",
    "single": "one seed: not judged",
    "same": "same",
}
COMPARED = (  # what is compared with the baseline, beside the quality
    "duration_seconds", "host_memory_peak_bytes", "gpu_memory_peak_bytes", "energy_joules", "emissions_grams",
)  # fmt: skip
CLOSE_RATIO = (
    0.99  # of the baseline's quality, where no target is given: that of MLPerf Inference against its reference
)
TAKES = ("duration_seconds", "energy_joules", "emissions_grams")  # and the costs: what a Pareto front is drawn against


@dataclass(frozen=True, slots=True)
class VariantResult:
    """A variant and what its cells gave.

    Attributes:
        variant: of the study.
        cells: of each seed.
        records: of the cells that completed, by seed, each with its share of the machine.
        means: over those seeds, by the measure's key.
    """

    variant: Variant
    cells: tuple[Cell, ...]
    records: Mapping[int, RunRecord]
    means: Mapping[str, MeanCell]

    @property
    def name(self) -> str:
        """Of the variant."""
        return self.variant.name

    def values(self, measure: Measure) -> dict[int, float]:
        """Return a figure by seed, of the seeds that know it."""
        figures = {seed: measure.column.figure(record).value for seed, record in self.records.items()}
        return {seed: value for seed, value in figures.items() if value is not None}

    def outcome(self) -> str:
        """Say how many of the cells completed, and why the others did not."""
        reasons = dict.fromkeys(_reason(cell) for cell in self.cells if not cell.usable)
        text = f"{len(self.records)} of {len(self.cells)}"
        return f"{text}: {', '.join(reasons)}" if reasons else text


@dataclass(frozen=True, slots=True)
class Difference:
    """A variant against the baseline, in one figure.

    Attributes:
        effect: the difference, and its interval by the spread of the seeds.
        p_adjusted: its p-value, adjusted for the number of comparisons; None without repeats.
        instrument: interval of the relative change that sensors and factors allow; None where they leave nothing open
            (calibration cancels, or the figure is of no sensor), or where it is not known.
        verdict: key of ``VERDICTS``.
    """

    effect: Effect
    p_adjusted: float | None
    instrument: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Target:
    """A quality, and what it took to reach it.

    Attributes:
        metric, value, better: what is reached.
        source: where the value comes from.
        by_variant: of each variant's seeds that reached it.
    """

    metric: str
    value: float
    better: Better
    source: str
    by_variant: Mapping[str, Mapping[int, Reached]]


@dataclass(frozen=True, slots=True)
class Winner:
    """The best run of a study.

    Attributes:
        cell: its cell.
        times: the study's energy over the run's; None where one is not known.
        text: what the study took beside the run, a sentence.
    """

    cell: Cell
    times: float | None
    text: str


def judged_by(
    study: Study, records: Sequence[RunRecord], metric: str, better: Better | None
) -> tuple[str, Better | None, str]:
    """Return the metric by which the study is judged, which way is better, and what must be said of it."""
    asked = study.plan.file.quality
    if metric or asked is None:
        same = asked is not None and asked.metric == metric
        return metric, better or (asked.direction if asked is not None and same else None), ""
    if not any(number(record.metrics.get(asked.metric)) is not None for record in records):
        return "", None, f"No run that completed logged {asked.metric}, by which the study file judges."
    return asked.metric, better or asked.direction, ""


def result_of(
    study: Study, variant: Variant, records: Mapping[str, RunRecord], every: Sequence[Measure]
) -> VariantResult:
    """Return what the cells of a variant gave."""
    cells = tuple(study.of_variant(variant.name))
    own = {cell.seed: records[cell.name] for cell in cells if cell.name in records}
    means = {
        measure.key: mean([measure.column.figure(record) for record in own.values()])
        if own
        else MeanCell(Figure(None, why=", ".join(dict.fromkeys(_reason(cell) for cell in cells))), 0)
        for measure in every
    }
    return VariantResult(variant, cells, own, means)


def known_mean(result: VariantResult, measure: Measure) -> float | None:
    """Return the mean of a measure over a variant's seeds; None where it is not known."""
    return result.means[measure.key].figure.value


def _reason(cell: Cell) -> str:
    if cell.state == "pending":
        return cell.reason or "not run"
    if cell.state == "completed":
        return "no record"
    return cell.reason or cell.state


def compared_measures(shown: Sequence[Measure], quality: Measure | None) -> list[Measure]:
    """Return what is compared: the quality, the loss, and what a run takes."""
    judged = [measure for measure in shown if measure is quality or measure.key.endswith("loss")]
    costs = [measure for measure in shown if measure.group == "cost"]
    return [*judged, *(measure for measure in shown if measure.key in COMPARED), *costs]


def differences(
    results: Sequence[VariantResult], baseline: str, compared: Sequence[Measure]
) -> dict[str, dict[str, Difference]]:
    """Return each variant's differences from the baseline, by measure."""
    first = next(result for result in results if result.name == baseline)
    others = [result for result in results if result is not first]
    made: dict[str, dict[str, Difference]] = {result.name: {} for result in others}
    for measure in compared:
        effects = [
            statistics.effect(first.values(measure), result.values(measure), relative=measure.relative)
            for result in others
        ]
        adjusted = statistics.holm([None if effect is None else effect.p_value for effect in effects])
        for result, effect, p_value in zip(others, effects, adjusted, strict=True):
            if effect is not None:
                made[result.name][measure.key] = _judge(first, result, measure, effect, p_value)
    return made


def _judge(
    first: VariantResult, other: VariantResult, measure: Measure, effect: Effect, p_adjusted: float | None
) -> Difference:
    baseline, figure = first.means[measure.key].figure, other.means[measure.key].figure
    instrument = comparison_columns.measured(baseline, figure) if measure.relative else None
    exact = instrument is not None and instrument[0] == instrument[1]
    if p_adjusted is None:
        verdict = "same" if effect.change == 0 and not _has_sensors(figure) else "single"
    elif effect.change == 0 and effect.low == effect.high:
        verdict = "same"
    elif p_adjusted >= LEVEL:
        verdict = "seeds"
    elif measure.relative and instrument is None:
        verdict = "unknown"
    elif instrument is not None and not exact and instrument[0] <= 0 <= instrument[1]:
        verdict = "instrument"
    else:
        verdict = "apart"
    return Difference(effect, p_adjusted, None if exact else instrument, verdict)


def _has_sensors(figure: Figure) -> bool:
    return figure.terms != ()


def target_of(
    study: Study, results: Sequence[VariantResult], quality: Measure | None, given: float | None, baseline: str
) -> Target | None:
    """Return the quality that is good enough, and what it took; None where nothing tells what is."""
    better = quality.column.better if quality is not None else None
    if quality is None or better is None:
        return None
    judged = quality.key.removeprefix("metrics.")
    metric = _followed(results, judged)
    asked = study.plan.file.quality
    if given is not None:
        value, source = given, "as asked for"
    elif asked is not None and asked.target is not None and asked.metric == judged:
        value, source = asked.target, "the study file's"
    else:
        records = next(result for result in results if result.name == baseline).records.values()
        finals = [final for record in records if (final := number(record.metrics.get(metric))) is not None]
        if not finals:
            return None
        middle = math.fsum(finals) / len(finals)
        margin = (1 - CLOSE_RATIO) * abs(middle)  # of a metric below 0 as well
        value = middle - margin if better == "higher" else middle + margin
        share = value / middle if middle else 1.0
        source = f"{share * 100:.0f} % of the baseline's mean"
    by_variant = {
        result.name: {
            seed: took
            for seed, record in result.records.items()
            if (took := reached(record, metric, value, better)) is not None
        }
        for result in results
    }
    return Target(metric, value, better, source, by_variant)


def _followed(results: Sequence[VariantResult], metric: str) -> str:
    """Return the metric that is followed over time: that of the validation split, where the test's came at the end."""
    records = [record for result in results for record in result.records.values()]
    bare = metric.removeprefix("predict_").removeprefix("test_")
    names = (metric, f"eval_{bare}")
    return next((name for name in names if any(history(record, name) for record in records)), metric)


def pareto_fronts(
    results: Sequence[VariantResult], shown: Sequence[Measure], quality: Measure | None
) -> dict[str, tuple[str, ...]]:
    """Return the variants that no other beats both in quality and in what it takes."""
    if quality is None or quality.column.better is None:
        return {}
    made = {}
    for takes in shown:
        if takes.key not in TAKES and takes.group != "cost":
            continue
        known = [
            (result.name, (first, second))
            for result in results
            if (first := known_mean(result, takes)) is not None and (second := known_mean(result, quality)) is not None
        ]
        best = front([point for _, point in known], higher=quality.column.better == "higher")
        made[takes.key] = tuple(known[place][0] for place in sorted(best))
    return made


def winner_of(study: Study, results: Sequence[VariantResult], quality: Measure | None) -> Winner | None:
    """Return the best run; None where the quality is not known."""
    if quality is None or quality.column.better is None:
        return None
    sign = 1.0 if quality.column.better == "higher" else -1.0
    known = [(value, result) for result in results if (value := known_mean(result, quality)) is not None]
    if not known:
        return None
    best = max(known, key=lambda pair: sign * pair[0])[1]
    values = best.values(quality)
    seed = max(values, key=lambda place: sign * values[place])
    cell = next(cell for cell in best.cells if cell.seed == seed)
    whole, own = study.spent, spent(cell.attempts[-1:])
    times = whole.it_energy_joules / own.it_energy_joules if own.it_energy_joules > 0 else None
    return Winner(cell, times, _search_cost(study, cell, whole, own, times))


def _search_cost(study: Study, cell: Cell, whole: Spent, own: Spent, times: float | None) -> str:
    """Say what the study took in all, and how many times the winner's own run that is."""
    parts = [f"{_format.duration(whole.seconds)} of runs"]
    if whole.known.get("energy"):
        parts.append(_format.energy(whole.it_energy_joules))
    if whole.known.get("emissions"):
        parts.append(_format.mass(whole.emissions_grams))
    parts += [f"{_format.money(usd)} ({_format.tier(tier)})" for tier, usd in whole.cost_usd.items()]
    least = "at least " if whole.unknown or whole.running else ""
    cells = sum(1 for cell in study.cells if cell.attempts)
    ratio = (
        f"The search cost {least}{_format.number(times, 3)} times the energy of this run."
        if times is not None
        else f"The search took {_format.number(whole.seconds / own.seconds, 3)} times as long as this run."
        if own.seconds
        else ""
    )
    if (share := cell.attempts[-1].shared_ratio) < 1:
        part = _format.percent(share)
        ratio += f" Others ran beside it: {part} of the machine's CPU and DRAM energy and of its price is counted."
    return (
        f"This run was chosen by the study {study.name}: {whole.attempts} runs of {cells} cells, failed ones included, "
        f"took {least}{', '.join(parts)}. {ratio}"
    ).strip()
