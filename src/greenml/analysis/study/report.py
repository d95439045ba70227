"""A study's report: benchmark, trade-off, target, Pareto front, what was counted, environment, data set and model.

Pure: a study as it was read goes in, tables come out. The statistics are those of docs/method.md, section 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenml.analysis.comparison.columns import Better, Figure, mean, number
from greenml.analysis.comparison.columns import Cell as MeanCell
from greenml.analysis.statistics import Effect
from greenml.analysis.study.folder import Cell, CellAttempt, Spent, Study, spent
from greenml.analysis.study.plan import Variant
from greenml.analysis.study.results import (
    VERDICTS,
    Difference,
    Measure,
    Target,
    VariantResult,
    Winner,
    compared_measures,
    differences,
    judged_by,
    known_mean,
    measures,
    pareto_fronts,
    result_of,
    target_of,
    winner_of,
    with_share,
)
from greenml.analysis.study.tables import Entry, Heading, Raw, Style, Table, count, word
from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.record.schema import RunRecord
from greenml.reports import _format, _parts
from greenml.units import GRAMS_PER_KG, JOULES_PER_KWH

LEGEND = {
    "seeds": "Not told apart: the spread of the seeds does not carry the difference (adjusted p-value from 0.05 on).",
    "instrument": "Not told apart, sensors: what the sensors or factors may be off by is more than the difference.",
    "unknown": "Not judged, sensors: what they may be off by is not known.",
    "single": "One seed: how far a repeat would differ is not known. Give seeds at least three values, better five.",
}


@dataclass(frozen=True, slots=True)
class StudyReport:
    """A study's tables and what charts are drawn from.

    Attributes:
        study: that it is of.
        title, lead: what it is, in a few lines.
        baseline: the variant that the others are compared with.
        results: a variant each, in the order of the study file.
        shown: measures that at least one variant knows.
        quality: the measure by which the study is judged; None where no run logged one.
        differences: by variant and measure.
        target: None where nothing tells what is good enough.
        fronts: by the measure of what it takes, the variants on the Pareto front.
        winner: None where the quality is not known.
        tables: in the order in which they are shown.
    """

    study: Study
    title: str
    lead: tuple[str, ...]
    baseline: str
    results: tuple[VariantResult, ...]
    shown: tuple[Measure, ...]
    quality: Measure | None
    differences: Mapping[str, Mapping[str, Difference]]
    target: Target | None
    fronts: Mapping[str, tuple[str, ...]]
    winner: Winner | None
    tables: tuple[Table, ...]

    def result(self, name: str) -> VariantResult:
        """Return a variant's result."""
        return next(result for result in self.results if result.name == name)

    def measure(self, key: str) -> Measure:
        """Return a measure by its key."""
        return next(measure for measure in self.shown if measure.key == key)


def build(
    study: Study, *, metric: str = "", better: Better | None = None, target: float | None = None, baseline: str = ""
) -> StudyReport:
    """Make the report of a study.

    Args:
        study: with its records.
        metric: by which the study is judged, in place of the study file's.
        better: which way is better, where neither its name nor the study file tells.
        target: value of the metric that is good enough, in place of the study file's.
        baseline: name of a variant, in place of the study file's.

    Raises:
        SettingsError: there is no such variant, no run has the metric, or the target is no number, or which way it lies
            is not known.
    """
    names = [variant.name for variant in study.plan.variants]
    if baseline and baseline not in names:
        raise SettingsError(
            f"--baseline {baseline}: no such variant; there are {', '.join(names)}"
            f"{did_you_mean(nearest(baseline, names, 1))}"
        )
    if target is not None and not math.isfinite(target):
        raise SettingsError(f"--target {target:g}: give a finite number")
    remarks: list[str] = []
    records = {
        cell.name: with_share(cell.record, cell.attempts[-1].shared_ratio)
        for cell in study.cells
        if cell.usable and cell.record is not None
    }
    judged, better, remark = judged_by(study, list(records.values()), metric, better)
    remarks += [remark] if remark else []
    every = measures(list(records.values()), judged, better)
    results = tuple(result_of(study, variant, records, every) for variant in study.plan.variants)
    shown = tuple(measure for measure in every if any(known_mean(result, measure) is not None for result in results))
    quality = next((measure for measure in shown if measure.group == "quality"), None)
    if quality is not None and quality.column.better is None:
        named = quality.key.removeprefix("metrics.")
        if target is not None:
            raise SettingsError(f"--target: say which way {named} is better: --higher-is-better or --lower-is-better")
        remarks.append(
            f"Target, Pareto front and best run need to know which values of {named} are better: --higher-is-better or "
            "--lower-is-better."
        )
    elif quality is None and target is not None:
        raise SettingsError("--target: no run that completed logged a metric")
    chosen = baseline or study.plan.baseline
    compared = differences(results, chosen, compared_measures(shown, quality))
    reached_target = target_of(study, results, quality, target, chosen)
    fronts = pareto_fronts(results, shown, quality)
    winner = winner_of(study, results, quality)
    unknown = [measure for measure in every if measure not in shown]
    tables = [
        _benchmark(results, shown, unknown, chosen),
        _tradeoff(results, shown, compared, chosen),
        *([_target_table(results, reached_target)] if reached_target else []),
        *([_front_table(results, shown, quality, fronts)] if quality and fronts else []),
        _counted(study, winner),
        _cells(study),
        *_dataset(list(records.values())),
        *_model(results),
        _variants(study),
        _environment([*records.values(), *_failed_records(study)]),
    ]
    return StudyReport(
        study, f"Study {study.name}", tuple(_lead(study, results, chosen, quality, remarks)), chosen, results, shown,
        quality, compared, reached_target, fronts, winner, tuple(table for table in tables if table.rows),
    )  # fmt: skip


def way(*, higher: bool, lower: bool) -> Better | None:
    """Return which way a metric is better, as it was asked for."""
    return "higher" if higher else "lower" if lower else None


# -- tables -----------------------------------------------------------------------------------------------------------


def _lead(
    study: Study, results: Sequence[VariantResult], baseline: str, quality: Measure | None, remarks: Sequence[str]
) -> Iterable[str]:
    done = sum(len(result.records) for result in results)
    yield (
        f"{len(results)} variants x {len(study.plan.seeds)} seeds: {done} of {len(study.cells)} cells completed. "
        f"The baseline is {baseline}."
    )
    if study.plan.file.description:
        yield study.plan.file.description
    if quality is not None:
        way = {"higher": "more is better", "lower": "less is better", None: "which way is better is not known"}
        yield f"Judged by {quality.title} ({quality.key.removeprefix('metrics.')}); {way[quality.column.better]}."
    else:
        yield "No run that completed logged a metric: quality is not known."
    yield from remarks
    for name, reason in study.plan.file.without.items():
        yield f"Left out: {name} ({reason})."
    side_by_side = [attempt for attempt in study.attempts if attempt.shared_ratio < 1]
    if side_by_side:
        yield (
            f"{len(side_by_side)} runs had others beside them on their machine: CPU and DRAM energy and the price are "
            "their share by time."
        )


def _figure(measure: Measure, cell: MeanCell, runs: int) -> Entry:
    """Return a mean over seeds; ``runs`` is how many completed, of which some may not know the figure."""
    if cell.figure.value is None:
        return Entry("-", None, why=cell.figure.why, style="muted")
    more: dict[str, Raw] = {"spread": cell.spread, "low": cell.figure.low, "high": cell.figure.high}
    least = "at least " if "at least" in cell.figure.why else ""
    of = ""
    if cell.count < runs:
        more["runs"], of = cell.count, f" ({cell.count} of {runs} runs)"
    return Entry(least + measure.mean(cell) + of, cell.figure.value, more, cell.figure.why)


def _benchmark(
    results: Sequence[VariantResult], shown: Sequence[Measure], unknown: Sequence[Measure], baseline: str
) -> Table:
    headings = (
        Heading("variant", "Variant", is_figure=False),
        Heading("seeds", "Seeds"),
        *(Heading(measure.key, measure.title) for measure in shown),
    )
    rows = tuple(
        (
            Entry(f"{result.name} (baseline)" if result.name == baseline else result.name, result.name),
            Entry(result.outcome(), len(result.records), {"planned": len(result.cells)}),
            *(_figure(measure, result.means[measure.key], len(result.records)) for measure in shown),
        )
        for result in results
    )
    whys: dict[str, list[str]] = {}
    ran = [result for result in results if result.records] or results  # of others, why is in their row
    for measure in unknown:
        why = next((cell.why for result in ran if (cell := result.means[measure.key].figure).why), "not known")
        whys.setdefault(why, []).append(measure.title)
    remarks = ["Mean ± sample standard deviation over the seeds that completed; a dash is not known, or not run."]
    remarks += [f"Not known of any run: {', '.join(titles)} ({why})." for why, titles in whys.items()]
    return Table("benchmark", "Benchmark", headings, rows, tuple(remarks))


def _tradeoff(
    results: Sequence[VariantResult], shown: Sequence[Measure], compared: Mapping[str, Mapping[str, Difference]],
    baseline: str,
) -> Table:  # fmt: skip
    keys = [measure for measure in shown if any(measure.key in of_variant for of_variant in compared.values())]
    headings = (
        Heading("variant", "Variant", is_figure=False),
        *(
            Heading(
                f"{measure.key}_change", measure.title.partition(",")[0] if measure.group != "cost" else measure.title
            )
            for measure in keys
        ),
    )
    rows = tuple(
        (word(result.name), *(_change(result, measure, compared[result.name].get(measure.key)) for measure in keys))
        for result in results
        if result.name != baseline
    )
    verdicts = {difference.verdict for of_variant in compared.values() for difference in of_variant.values()}
    methods = {difference.effect.method for of_variant in compared.values() for difference in of_variant.values()}
    words = {"paired": "paired by seed", "welch": "Welch's", "pooled": "pooled", "single": "none, for single runs"}
    remarks = [
        f"Each variant against {baseline}: the difference, its 95 % interval by the spread of the seeds "
        f"({', '.join(words[method] for method in sorted(methods)) or 'none'}), and whether it is told apart. "
        "Quality is in its own unit, all else relative.",
        *(LEGEND[verdict] for verdict in LEGEND if verdict in verdicts),
        f"p-values are adjusted for the comparisons of a column ({_comparisons(compared, keys)}) and two questions "
        "(Holm); the intervals are of the single comparison (docs/method.md, section 11).",
    ]
    if not keys:
        remarks = [f"No figure is known of both {baseline} and another variant: nothing can be compared."]
    return Table("tradeoff", f"Trade-off against {baseline}", headings, rows, tuple(remarks))


def _comparisons(compared: Mapping[str, Mapping[str, Difference]], keys: Sequence[Measure]) -> str:
    """Say how many variants were compared with the baseline in a column: those of which both have repeats."""
    counts = {
        sum(
            difference is not None and difference.p_adjusted is not None
            for difference in (of_variant.get(measure.key) for of_variant in compared.values())
        )
        for measure in keys
    }
    least, most = min(counts, default=0), max(counts, default=0)
    return str(most) if least == most else f"{least} to {most}"


def _change(result: VariantResult, measure: Measure, difference: Difference | None) -> Entry:
    if difference is None:
        return Entry(
            "-", None, why=result.means[measure.key].figure.why or "the baseline's is not known", style="muted"
        )
    effect = difference.effect
    write = change_text(measure, effect)
    text = write(effect.change)
    if effect.low is not None and effect.high is not None and effect.low != effect.high:
        text += f" ({write(effect.low)} to {write(effect.high)})"
    if difference.verdict != "apart":
        text = "same" if difference.verdict == "same" else f"{text}: {VERDICTS[difference.verdict]}"
    instrument = difference.instrument or (None, None)
    more: dict[str, Raw] = {
        "low": effect.low, "high": effect.high, "is_ratio": int(effect.relative), "verdict": difference.verdict,
        "p": effect.p_value, "p_adjusted": difference.p_adjusted, "method": effect.method, "runs": effect.count,
        "sensors_low_ratio": instrument[0], "sensors_high_ratio": instrument[1],
    }  # fmt: skip
    return Entry(text, effect.change, more, style=_style(measure, difference))


def change_text(measure: Measure, effect: Effect) -> Callable[[float], str]:
    """Return how a difference is written: in percent, or in the measure's own unit with its sign."""
    if effect.relative:
        return lambda value: "0.0%" if value == 0 else _format.signed(value)
    return lambda value: f"{'+' if value > 0 else ''}{_format.significant(value / measure.scale, 3)}"


def _style(measure: Measure, difference: Difference) -> Style:
    if difference.verdict != "apart" or measure.column.better is None:
        return ""
    return "better" if (difference.effect.change > 0) == (measure.column.better == "higher") else "worse"


def _target_table(results: Sequence[VariantResult], target: Target) -> Table:
    tiers = sorted({tier for seeds in target.by_variant.values() for took in seeds.values() for tier in took.cost_usd})
    headings = (
        Heading("variant", "Variant", is_figure=False),
        Heading("reached", "Seeds that reached it"),
        *_taken(tiers),
    )
    at_end = any(took.at_end for seeds in target.by_variant.values() for took in seeds.values())
    rows = []
    for result in results:
        took = list(target.by_variant[result.name].values())
        columns: list[tuple[list[float | None], Callable[[float], str]]] = [
            ([run.seconds for run in took], _format.duration),
            ([run.energy_joules for run in took], _kwh),
            ([run.emissions_grams for run in took], _kg),
            *(([run.cost_usd.get(tier) for run in took], _format.money) for tier in tiers),
        ]
        rows.append(
            (
                word(result.name),
                Entry(
                    f"{len(took)} of {len(result.records)}" if result.records else result.outcome(),
                    len(took),
                    {"completed": len(result.records)},
                ),
                *(_spread_entry(values, write, "not reached") for values, write in columns),
            )
        )
    way = "or more" if target.better == "higher" else "or less"
    remarks = [
        f"Until {target.metric} is {_format.number(target.value, 5)} {way} ({target.source}); mean ± sample standard "
        "deviation over the seeds that reached it.",
        "Energy up to then is that of the run's timeline, money goes by time.",
    ]
    if at_end:
        remarks.append(
            "Where a run evaluated at its end only, the end counts; an evaluation in each epoch would tell more."
        )
    title = f"To a quality target: {target.metric} {_format.number(target.value, 5)}"
    return Table("target", title, headings, tuple(rows), tuple(remarks))


def _taken(tiers: Sequence[str]) -> Iterator[Heading]:
    """Yield the headings of what runs took: time, energy, emissions, and money in each tier."""
    yield Heading("seconds", "Time")
    yield Heading("energy_joules", "Energy, kWh")
    yield Heading("emissions_grams", "CO2e, kg")
    yield from (Heading(f"cost_{tier}_usd", f"Cost, {_format.tier(tier)}") for tier in tiers)


def _spread_entry(values: Sequence[float | None], write: Callable[[float], str], why: str) -> Entry:
    known = [value for value in values if value is not None]
    if not known:
        return Entry("-", None, why=why if not values else "not known", style="muted")
    cell = mean([Figure(value) for value in known])
    middle = cell.figure.value or 0.0
    text = write(middle)
    if cell.spread is not None:  # two digits of it are enough, where the unit is not written with it
        spread = write(cell.spread)
        text += f" ± {_format.significant(float(spread), 2) if spread.replace('.', '', 1).isdigit() else spread}"
    return Entry(text, middle, {"spread": cell.spread})


def _front_table(
    results: Sequence[VariantResult], shown: Sequence[Measure], quality: Measure, fronts: Mapping[str, Sequence[str]]
) -> Table:
    titles = {measure.key: measure.title for measure in shown}
    headings = (Heading("against", "Against", is_figure=False), Heading("variants", "On the front", is_figure=False))
    rows = tuple((Entry(titles[key], key), word(", ".join(names))) for key, names in fronts.items())
    left = [result.name for result in results if known_mean(result, quality) is None]
    remarks = [f"No other variant has both a better {quality.title} and takes less; by the means, intervals aside."]
    remarks += [f"Not on it, because their quality is not known: {', '.join(left)}."] if left else []
    return Table("pareto", f"Pareto front of {quality.title}", headings, rows, tuple(remarks))


def stopped_early(record: RunRecord | None) -> bool:
    """Tell whether a training that completed ended before the steps that it was to do."""
    state: Any = record.trainer.get("trainer_state") if record is not None else None
    if not isinstance(state, Mapping):
        return False
    done, planned = number(state.get("global_step")), number(state.get("max_steps"))
    return done is not None and planned is not None and 0 < done < planned


def _counted(study: Study, winner: Winner | None) -> Table:
    """Return what became of every run, with what it took: nothing is left out of the study's total."""
    kinds: dict[str, list[CellAttempt]] = {
        "Completed": [], "Completed, stopped early": [], "Out of memory": [], "Failed": [], "Stopped": [], "Killed": [],
        "Running": [], "Earlier attempts, run again": [],
    }  # fmt: skip
    for cell in study.cells:
        if not cell.attempts:
            continue
        *earlier, last = cell.attempts
        kinds["Earlier attempts, run again"] += earlier
        kind = {"completed": "Completed", "stopped": "Stopped", "killed": "Killed", "running": "Running"}.get(
            cell.state
        )
        if cell.out_of_memory:
            kind = "Out of memory"
        elif kind == "Completed" and stopped_early(last.record):
            kind = "Completed, stopped early"
        kinds[kind or "Failed"].append(last)
    whole = study.spent
    tiers = list(whole.cost_usd)
    headings = (
        Heading("outcome", "Outcome", is_figure=False),
        Heading("runs", "Runs"),
        *_taken(tiers),
    )
    rows = [_spent_row(kind, spent(attempts), tiers) for kind, attempts in kinds.items() if attempts]
    rows.append(_spent_row("All runs of the study", whole, tiers))
    pending = [cell for cell in study.cells if not cell.attempts]
    remarks = [f"Not run: {len(pending)} of {len(study.cells)} cells ({_reasons(pending)})."] if pending else []
    resumed = [attempt.record for attempt in study.attempts if attempt.record is not None]
    again = [record for record in resumed if len(record.attempts) > 1]
    if again:
        before = sum(len(record.attempts) - 1 for record in again)
        seconds = math.fsum(part.seconds for record in again for part in record.attempts[:-1])
        lost = [record.trainer.get("lost_work") for record in again]
        twice = [value for work in lost if isinstance(work, Mapping) and (value := number(work.get("seconds")))]
        remarks.append(
            f"{len(again)} runs were cut off and went on from a checkpoint: {before} attempts before the last took "
            f"{_format.duration(seconds)}, which is in the figures"
            + (f"; {_format.duration(math.fsum(twice))} of it was done twice." if twice else ".")
        )
    if whole.unknown:
        what = ", ".join(f"the {name} of {number_of}" for name, number_of in whole.unknown.items())
        remarks.append(f"The sums are lower bounds: not wholly known is {what} runs.")
    if whole.running:
        remarks.append(f"Runs that go on, and are in no sum: {whole.running}.")
    if winner is not None:
        remarks.append(f"{winner.cell.name}: {winner.text}")
    return Table("counted", "What was counted", headings, tuple(rows), tuple(remarks))


def _reasons(cells: Sequence[Cell]) -> str:
    return ", ".join(dict.fromkeys(cell.reason or "not started" for cell in cells))


def _spent_row(name: str, total: Spent, tiers: Sequence[str]) -> tuple[Entry, ...]:
    return (
        word(name),
        count(total.attempts),
        _sum_entry(total, "time", total.seconds, _format.duration),
        _sum_entry(total, "energy", total.it_energy_joules, _kwh),
        _sum_entry(total, "emissions", total.emissions_grams, _kg),
        *(_sum_entry(total, f"cost, {tier}", total.cost_usd.get(tier, 0.0), _format.money) for tier in tiers),
    )


def _sum_entry(total: Spent, figure: str, value: float, write: Callable[[float], str]) -> Entry:
    missing = total.missing(figure)
    if not total.known.get(figure):
        why = "no record of its own" if not missing else "still running" if missing == total.running else "not known"
        return Entry("-", None, why=why, style="muted")
    return Entry(f"at least {write(value)}" if missing else write(value), value)


def _kwh(joules: float) -> str:
    return _format.significant(joules / JOULES_PER_KWH)


def _kg(grams: float) -> str:
    return _format.significant(grams / GRAMS_PER_KG)


def _cells(study: Study) -> Table:
    headings = (
        Heading("variant", "Variant", is_figure=False), Heading("seed", "Seed"),
        Heading("position", "Order"), Heading("state", "State", is_figure=False),
        Heading("reason", "Reason", is_figure=False), Heading("attempts", "Attempts"), Heading("seconds", "Time"),
        Heading("energy_joules", "Energy, kWh"),
    )  # fmt: skip
    rows = []
    for cell in sorted(study.cells, key=lambda cell: cell.position):
        took = spent(cell.attempts)
        state = "completed, stopped early" if cell.usable and stopped_early(cell.record) else cell.state
        reason = "no record" if cell.state == "completed" and not cell.usable else cell.reason
        nothing = Entry("-", style="muted")
        rows.append(
            (
                word(cell.variant.name), count(cell.seed), count(cell.position), word(state),
                word(reason), count(len(cell.attempts)),
                _sum_entry(took, "time", took.seconds, _format.duration) if cell.attempts else nothing,
                _sum_entry(took, "energy", took.it_energy_joules, _kwh) if cell.attempts else nothing,
            )
        )  # fmt: skip
    return Table("cells", "Cells, in the order in which they ran", headings, tuple(rows))


DATASET_COLUMNS = {
    "samples": "Samples",
    "source_words_mean": "Words of a source, mean", "target_words_mean": "Words of a target, mean",
    "source_tokens_mean": "Tokens of a source, mean", "target_tokens_mean": "Tokens of a target, mean",
}  # fmt: skip


def _dataset(records: Sequence[RunRecord]) -> list[Table]:
    """Return the table of the data set's splits: those of all runs that tell it, each once."""
    splits: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        name, of_record = dataset_facts(record)
        for split, facts in of_record.items():
            splits.setdefault((name, split), {}).update(facts)
    if not splits:
        return []
    shown = [key for key in DATASET_COLUMNS if any(key in facts for facts in splits.values())]
    named = len({name for name, _ in splits}) > 1
    headings = (
        *((Heading("dataset", "Data set", is_figure=False),) if named else ()),
        Heading("split", "Split", is_figure=False),
        *(Heading(key, DATASET_COLUMNS[key]) for key in shown),
    )
    rows = tuple(
        (
            *((word(name),) if named else ()),
            word(split),
            *(
                Entry(f"{facts[key]:,.0f}" if key == "samples" else _format.number(facts[key], 4), facts[key])
                if key in facts
                else Entry("-", style="muted")
                for key in shown
            ),
        )
        for (name, split), facts in splits.items()
    )
    names = list(dict.fromkeys(name for name, _ in splits if name))
    return [Table("dataset", f"Data set{f': {names[0]}' if len(names) == 1 else ''}", headings, rows)]


def dataset_facts(record: RunRecord) -> tuple[str, dict[str, dict[str, float]]]:
    """Return the name of a run's data set, and of each split what is known of it.

    They are parameters ``dataset/name`` and ``dataset/SPLIT/samples``, ``source_words_mean`` and so on, or the same
    nested under ``dataset`` of what the trainer described.
    """
    flat: dict[str, Any] = {
        key.removeprefix("dataset/"): value
        for source in (record.params, record.metrics)
        for key, value in source.items()
        if key.startswith("dataset/")
    }
    described: Any = record.trainer.get("dataset")
    if isinstance(described, Mapping):
        nested = described.get("splits", {})
        flat |= {"name": described.get("name")} if described.get("name") else {}
        flat |= {
            f"{split}/{key}": value
            for split, facts in (nested.items() if isinstance(nested, Mapping) else ())
            if isinstance(facts, Mapping)
            for key, value in facts.items()
        }
    splits: dict[str, dict[str, float]] = {}
    for key, value in flat.items():
        split, _, fact = key.partition("/")
        figure = number(value)
        if fact in DATASET_COLUMNS and figure is not None:
            splits.setdefault(split, {})[fact] = figure
    return str(flat.get("name") or record.params.get("dataset") or ""), splits


MODEL_ROWS = {
    "class": "Class", "layers": "Layers (encoder)", "decoder_layers": "Layers (decoder)", "hidden_size": "Hidden size",
    "heads": "Attention heads", "parameters": "Parameters", "trainable_parameters": "Trainable parameters",
}  # fmt: skip


def _model(results: Sequence[VariantResult]) -> list[Table]:
    """Return the table of the models, those alike in one row with the variants that had it."""
    models: dict[tuple[Raw, ...], list[str]] = {}
    for result in results:
        for record in result.records.values():
            model: Any = record.trainer.get("model")
            if isinstance(model, Mapping):
                facts = tuple(_raw(model.get(key)) for key in ("name", *MODEL_ROWS))
                names = models.setdefault(facts, [])
                names += [result.name] if result.name not in names else []
    if not models:
        return []
    known = [place for place, _ in enumerate(MODEL_ROWS, 1) if any(facts[place] is not None for facts in models)]
    keys = list(MODEL_ROWS)
    headings = (
        Heading("model", "Model", is_figure=False),
        *(Heading(keys[place - 1], MODEL_ROWS[keys[place - 1]], keys[place - 1] != "class") for place in known),
        Heading("variants", "Variants", is_figure=False),
    )
    everything = len({result.name for result in results if result.records})
    rows = tuple(
        (
            Entry(str(facts[0] or "").rstrip("/").rsplit("/", 1)[-1] or "-", facts[0]),
            *(_number_entry(facts[place]) for place in known),
            word("all" if len(names) == everything else ", ".join(names)),
        )
        for facts, names in models.items()
    )
    return [Table("model", "Model", headings, rows)]


def _raw(value: object) -> Raw:
    return value if isinstance(value, int | float | str) else None


def _number_entry(value: Raw) -> Entry:
    if isinstance(value, int | float):
        return Entry(f"{value:,.0f}", value)
    return Entry("-", style="muted") if value is None else word(value)


def _variants(study: Study) -> Table:
    headings = (
        Heading("variant", "Variant", is_figure=False), Heading("description", "What it is", is_figure=False),
        Heading("changes", "What it changes", is_figure=False),
    )  # fmt: skip
    rows = tuple(
        (word(variant.name), word(variant.description), word(_changes(variant))) for variant in study.plan.variants
    )
    return Table("variants", "Variants", headings, rows)


def _changes(variant: Variant) -> str:
    parts = [f"{name}={value}" for name, value in variant.changes.items()]
    parts += [" ".join(variant.args)] if variant.args else []
    parts += [f"{name}={value}" for name, value in variant.env.items()]
    return ", ".join(parts) or "nothing"


def _failed_records(study: Study) -> list[RunRecord]:
    return [attempt.record for attempt in study.attempts if attempt.record is not None and attempt.state != "completed"]


def _environment(records: Sequence[RunRecord]) -> Table:
    """Return what the runs ran on and with; of what differs among them, every value."""

    def distinct(read: Callable[[RunRecord], str]) -> str:
        return "; ".join(dict.fromkeys(text for record in records if (text := read(record))))

    def hosts(record: RunRecord) -> str:
        return ", ".join(
            dict.fromkeys(
                " ".join(
                    part
                    for part in (
                        host.cpu_model,
                        f"{host.cpu_count} CPUs" if host.cpu_count else "",
                        f"{_format.gigabytes(host.memory_bytes)} GB" if host.memory_bytes else "",
                    )
                    if part
                )
                for host in record.hosts
            )
        )

    packages = dict.fromkeys(name for record in records for name in record.environment.packages)
    facts: dict[str, Callable[[RunRecord], str]] = {
        "Machine size": _parts.machine,
        "GPUs": lambda record: _parts.hardware(record) if _parts.at_a_time(record, "gpu") else "none",
        "Host": hosts,
        "Region": lambda record: record.place.display_name or record.place.region,
        "Operating system": lambda record: record.environment.os,
        "Driver": lambda record: record.environment.driver,
        "Python": lambda record: record.environment.python,
        **{
            name: (lambda record, name=name: record.environment.packages.get(name, ""))  # type: ignore[misc]
            for name in sorted(packages)
        },
        "Commit": lambda record: record.environment.git_commit + (" (changed)" if record.environment.git_dirty else ""),
        "Carbon intensity": lambda record: _factor(record, "carbon_intensity"),
        "PUE": lambda record: _factor(record, "pue"),
        "Prices": lambda record: "; ".join(
            _format.price(tier, price) for tier, price in record.factors.prices.items()
        ),
        "Energy from": lambda record: ", ".join(
            f"{_parts.KIND_WORDS[kind]}: {_format.sensors(record, kind) or 'modelled'}"
            for kind in ("gpu", "cpu", "dram")
            if any(device.kind == kind and device.usage.energy_joules is not None for device in record.devices)
        ),
    }  # fmt: skip
    rows = tuple((word(name), word(text)) for name, read in facts.items() if (text := distinct(read)))
    headings = (Heading("fact", "", is_figure=False), Heading("value", "Value", is_figure=False))
    return Table("environment", "Environment", headings, rows)


def _factor(record: RunRecord, name: str) -> str:
    factor = getattr(record.factors, name)
    return _format.factor(factor) if factor is not None else ""
