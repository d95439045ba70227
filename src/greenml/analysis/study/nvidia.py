"""Tables in the form in which NVIDIA publishes: throughput, time to train, accuracy over seeds, inference latency.

From any records, each figure with the energy and the money beside it; published tables are set beside ours, marked as
published, without energy. Units are in the headings. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from greenml.analysis.comparison import columns
from greenml.analysis.comparison.columns import Figure, mean, number
from greenml.analysis.study.tables import Entry, Heading, Raw, Table, count, word
from greenml.record.importers.published_table import PublishedRow, PublishedTable
from greenml.record.schema import RunRecord, Totals
from greenml.reports import _format, _parts
from greenml.units import JOULES_PER_KWH, SECONDS_PER_HOUR

TITLE = "Performance, accuracy and what they take"
MILLION = 1e6
MS_PER_SECOND = 1e3
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")  # the first that is there is what others are compared with
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SHOWN = frozenset(  # parameters that have a column of their own, or follow from those that have
    {
        "bf16", "fp16", "tf32", "precision", "dtype",
        "bf16_full_eval", "fp16_full_eval", "batch_size", "max_source_length",
        "per_device_train_batch_size", "per_device_eval_batch_size", "world_size", "effective_batch_size",
    }
)  # fmt: skip
LATENCIES = {"mean": "avg", "p90": "90 %", "p95": "95 %", "p99": "99 %"}
PREDICT_PATHS = ("predict", "test", "eval")


@dataclass(frozen=True, slots=True)
class Setup:
    """What runs of one row have in common.

    Attributes:
        system: the GPUs' name, or the CPU's; of a published row, what it calls it.
        model: its name.
        gpus: all of them, over the nodes; 0 on a CPU.
        precision: fp32, tf32, fp16, bf16 ...
        batch_size: per GPU in training; of a request in inference.
        length: tokens of a source at most.
        published: who published it; empty for our own runs.
        others: of our own runs, the parameters that are none of these, as text: runs that differ in them are not
            of one row.
        name: of our own runs that do not have a seed each: their name without its number.
    """

    system: str
    model: str
    gpus: int
    precision: str
    batch_size: int | None
    length: int | None = None
    published: str = ""
    others: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run, or a published row, says.

    Attributes:
        setup: what it is of.
        figures: by name, SI; without those that are not known.
        metrics: results by name.
        seed: None where not known.
        label: what the run is called.
        basis: how its energy is known: measured, modelled ...; "" where it is not known.
    """

    setup: Setup
    figures: Mapping[str, float]
    metrics: Mapping[str, float]
    seed: int | None = None
    label: str = ""
    basis: str = ""


def lead(records: Sequence[RunRecord], published: Sequence[PublishedTable]) -> list[str]:
    """Return what stands above the tables."""
    done = [record for record in records if record.status == "completed"]
    lines = [
        f"{len(done)} runs that completed{_left(len(records) - len(done))}, mean ± standard deviation over repeats."
    ]
    for table in published:
        sources = dict.fromkeys(row.source or table.file for row in table.rows)
        lines.append(f"Published, not measured here, and without energy: {'; '.join(sources)}.")
    return lines


def _left(number_of: int) -> str:
    return f" ({number_of} more did not, and are left out)" if number_of else ""


def tables(
    records: Sequence[RunRecord], published: Sequence[PublishedTable], labels: Sequence[str] = ()
) -> list[Table]:
    """Return the tables for which there are figures.

    Args:
        records: any; those that did not complete are left out.
        published: tables to set beside them.
        labels: what each run is called; its own name by default.
    """
    named = zip(records, labels or [record.name for record in records], strict=True)
    done = [(record, label) for record, label in named if record.status == "completed"]
    own = [training(record, label) for record, label in done]
    inference = [result for record, label in done if (result := _inference(record, label)) is not None]
    foreign = [_published(row, table) for table in published for row in table.rows]
    training_results = [*own, *(result for result in foreign if "latency_mean_seconds" not in result.figures)]
    inference += [result for result in foreign if "latency_mean_seconds" in result.figures]
    every = [
        _throughput(training_results), _time_to_train(training_results), _accuracy(training_results),
        _latency(inference),
    ]  # fmt: skip
    return [table for table in every if table.rows]


# -- reading ----------------------------------------------------------------------------------------------------------


def precision(record: RunRecord) -> str:
    """Return the numbers' format that a training ran in, as far as the record tells it."""
    params, ran = record.params, record.trainer.get("ran")
    for name in ("precision", "dtype"):
        if isinstance(params.get(name), str):
            return str(params[name]).lower()
    mixed = str(ran.get("mixed_precision", "")) if isinstance(ran, Mapping) else ""
    if mixed in ("fp16", "bf16", "fp8"):
        return mixed
    for name in ("bf16", "fp16", "tf32"):
        if params.get(name) is True:
            return name
    return "fp32"


def training(record: RunRecord, label: str = "") -> Result:
    """Return what a run says of its training."""
    total = record.total(record.training_path) if record.training_path else None
    run = record.total()
    figures: dict[str, float] = {}
    for name in ("samples_per_second", "tokens_per_second", "joules_per_sample", "joules_per_token"):
        if name in record.derived:
            figures[name] = record.derived[name]
    counts: Any = record.trainer.get("counts")
    tokens = number(counts.get("tokens")) if isinstance(counts, Mapping) else None
    if total is not None:
        figures["time_to_train_seconds"] = total.seconds
        _add_energy(figures, total)
        usd = paid(record, total)
        if usd is not None:
            figures["cost_usd"] = usd
            if tokens:
                figures["usd_per_million_tokens"] = usd / tokens * MILLION
    elif run is not None:
        figures["time_to_train_seconds"] = run.seconds
        _add_energy(figures, run)
    batch = number(record.params.get("per_device_train_batch_size"))
    seed = _whole(record.params.get("seed"))
    return Result(_setup(record, batch), figures, _results(record.metrics), seed, label, _basis(total or run))


def _basis(total: Totals | None) -> str:
    return total.it_energy_joules.basis if total is not None and total.it_energy_joules.value is not None else ""


def _add_energy(figures: dict[str, float], total: Totals) -> None:
    if total.it_energy_joules.value is not None:
        figures["energy_joules"] = total.it_energy_joules.value


def paid(record: RunRecord, total: Totals) -> float | None:
    """Return what a scope cost in the tier that was paid, else as a dedicated machine; None where not known."""
    for tier in (record.place.tier, "dedicated", *total.cost_usd):
        quantity = total.cost_usd.get(tier or "")
        if quantity is not None and quantity.value is not None:
            return quantity.value
    return None


def _setup(record: RunRecord, batch: float | None) -> Setup:
    gpus = sum(device.count for device in _parts.at_a_time(record, "gpu"))
    if not gpus:
        gpus = sum(device.count for device in record.devices if device.kind == "gpu")
    hardware = _parts.hardware(record)
    name = hardware.partition(" X ")[2] or hardware if "," not in hardware else hardware
    model: Any = record.trainer.get("model")
    return Setup(
        system=name or "not known",
        model=str(model.get("name", "")).rstrip("/").rsplit("/", 1)[-1] if isinstance(model, Mapping) else "",
        gpus=gpus,
        precision=precision(record),
        batch_size=None if batch is None else int(batch),
        length=_whole(record.params.get("max_source_length")),
        others=_others(record),
    )


def _others(record: RunRecord) -> str:
    """Return the parameters that the other columns do not show, as text."""
    kept = {
        name: value
        for name, value in columns.configuration(record.params).items()
        if name not in SHOWN and not name.startswith("dataset/")
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _whole(value: object) -> int | None:
    figure = number(value)
    return None if figure is None else int(figure)


def _results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the results by their bare names: of the test split, else the validation's."""
    made: dict[str, float] = {}
    for name in ROUGE:
        value = next(
            (
                known
                for prefix in ("predict_", "test_", "eval_", "")
                if (known := number(metrics.get(prefix + name))) is not None
            ),
            None,
        )
        if value is not None:
            made[name] = value
    for name in ("accuracy", "f1"):
        value = next(
            (known for prefix in ("eval_", "test_", "") if (known := number(metrics.get(prefix + name))) is not None),
            None,
        )
        if value is not None:
            made[name] = value
    return made


def _inference(record: RunRecord, label: str) -> Result | None:
    """Return what a run says of its inference; None where it logged no latency."""
    figures = {
        f"latency_{rank}_seconds": value
        for rank in LATENCIES
        if (value := number(record.metrics.get(f"latency_seconds_{rank}"))) is not None
    }
    if "latency_mean_seconds" not in figures:
        return None
    rate = number(record.metrics.get("requests_per_second"))
    if rate is not None:
        figures["requests_per_second"] = rate
    path = next((path for path in PREDICT_PATHS if record.phase(path) is not None), "")
    total = record.total(path) if path else None
    seconds, samples = (number(record.metrics.get(f"{path}_{name}")) for name in ("runtime", "samples_per_second"))
    if total is not None and seconds and samples:
        requests = seconds * samples
        tokens = requests * (number(record.metrics.get(f"{path}_gen_len")) or 0.0)
        joules, usd = total.it_energy_joules.value, paid(record, total)
        if joules is not None:
            figures["joules_per_request"] = joules / requests
            if tokens:
                figures["joules_per_token"] = joules / tokens
        if usd is not None and tokens:
            figures["usd_per_million_tokens"] = usd / tokens * MILLION
    batch = number(record.params.get("batch_size")) or number(record.params.get("per_device_eval_batch_size"))
    return Result(_setup(record, batch), figures, {}, _whole(record.params.get("seed")), label, _basis(total))


def _published(row: PublishedRow, table: PublishedTable) -> Result:
    setup = Setup(
        row.system or row.gpu or "not said", row.model, row.gpus or 0, row.precision.lower(), row.batch_size,
        row.sequence_length, row.source or table.file,
    )  # fmt: skip
    names = [name for name in PublishedRow.model_fields if name.endswith(("_per_second", "_seconds"))]
    figures = {name: value for name in names if (value := getattr(row, name)) is not None}
    return Result(setup, figures, row.metrics, row.seed)


# -- tables -----------------------------------------------------------------------------------------------------------


def _grouped(results: Iterable[Result]) -> dict[Setup, list[Result]]:
    """Return the results by their setup: ours first, fewer GPUs and plainer formats first."""
    alike: dict[Setup, list[Result]] = {}
    for result in results:
        alike.setdefault(result.setup, []).append(result)
    groups: dict[Setup, list[Result]] = {}
    for setup, members in alike.items():
        seeds = [result.seed for result in members]
        if setup.published or len(members) == 1 or (None not in seeds and len(set(seeds)) == len(seeds)):
            groups[setup] = members
            continue
        for result in members:  # whether they repeat one another, their names alone can tell
            groups.setdefault(replace(setup, name=columns.stem(result.label)), []).append(result)
    return dict(sorted(groups.items(), key=lambda pair: _order(pair[0])))


def _order(setup: Setup) -> tuple[bool, str, str, int, int, int, int, str, str]:
    place = PRECISIONS.index(setup.precision) if setup.precision in PRECISIONS else len(PRECISIONS)
    return (
        bool(setup.published), setup.system, setup.model, setup.length or 0, setup.gpus, place, setup.batch_size or 0,
        setup.others, setup.name,
    )  # fmt: skip


Write = Callable[[float], str]


def _four(value: float) -> str:
    return _format.significant(value, 4)


def _kwh(value: float) -> str:
    return _format.significant(value / JOULES_PER_KWH, 4)


def _ms(value: float) -> str:
    return _format.significant(value * MS_PER_SECOND, 4)


def _hours(value: float) -> str:
    return _format.significant(value / SECONDS_PER_HOUR, 3)


def _mean(results: Sequence[Result], name: str, write: Write) -> Entry:
    values = [result.figures[name] for result in results if name in result.figures]
    if not values:
        published = all(result.setup.published for result in results)
        return Entry("-", None, why="not published" if published else "not known", style="muted")
    cell = mean([Figure(value) for value in values])
    middle = cell.figure.value or 0.0
    spread = f" ± {write(cell.spread)}" if cell.spread is not None else ""
    return Entry(write(middle) + spread, middle, {"spread": cell.spread})


def _known(results: Sequence[Result], name: str) -> float | None:
    values = [result.figures[name] for result in results if name in result.figures]
    return math.fsum(values) / len(values) if values else None


def _first(setup: Setup, results: Sequence[Result], *, with_length: bool = True) -> tuple[Entry, ...]:
    labels = dict.fromkeys(result.label for result in results if result.label)
    name = setup.system if setup.published or not labels else columns.common(list(labels))
    where = f"{setup.gpus} GPU{'s' if setup.gpus > 1 else ''}" if setup.gpus else "CPU"
    batch = f"batch {setup.batch_size}" if setup.batch_size else ""
    return (
        word(", ".join(part for part in (name, where, setup.precision.upper(), batch) if part)),
        word(setup.system),
        word(setup.model),
        count(setup.gpus) if setup.gpus else Entry("CPU", 0),
        word(setup.precision.upper() or "-"),
        _optional(setup.batch_size),
        *((_optional(setup.length),) if with_length else ()),
    )


def _optional(value: int | None) -> Entry:
    return Entry("-", style="muted") if value is None else count(value)


FIRST = (
    Heading("row", "", is_figure=False),
    Heading("system", "System", is_figure=False), Heading("model", "Model", is_figure=False), Heading("gpus", "GPUs"),
    Heading("precision", "Precision", is_figure=False), Heading("batch_size", "Batch size/GPU"),
    Heading("sequence_length", "Tokens of a source at most"),
)  # fmt: skip
LAST = (Heading("runs", "Runs"), Heading("basis", "Known how", is_figure=False))


def _last(setup: Setup, results: Sequence[Result]) -> tuple[Entry, ...]:
    others = sorted({result.basis for result in results} - {"", "measured"})
    own = f"measured, energy {', '.join(others)}" if others else "measured"
    return (
        count(len(results)) if not setup.published else Entry("-", style="muted"),
        word(f"published: {setup.published}" if setup.published else own),
    )


Kind = Literal["precision", "gpus"]


def _ratio(
    groups: Mapping[Setup, Sequence[Result]], setup: Setup, name: str, kind: Kind, *, inverse: bool = False
) -> Entry:
    """Return a row's figure over that of the plainest format, or of the fewest GPUs, all else alike."""

    def alike(other: Setup) -> bool:
        same = (other.system, other.model, other.length, other.published, other.others) == (
            setup.system, setup.model, setup.length, setup.published, setup.others
        )  # fmt: skip
        if kind == "precision":  # a smaller format allows a larger batch: that is part of its gain
            return same and other.gpus == setup.gpus
        return same and other.precision == setup.precision and other.batch_size == setup.batch_size

    rivals = [other for other in groups if alike(other)]
    base = min(rivals, key=_order) if kind == "precision" else min(rivals, key=lambda other: other.gpus)
    plainest = [
        other for other in rivals
        if (other.gpus, other.precision, other.batch_size) == (base.gpus, base.precision, base.batch_size)
    ]  # fmt: skip
    same_format = kind == "precision" and setup.precision == base.precision and setup != base
    if same_format or len(plainest) > 1:  # runs that nothing but their names tells apart: none of them is the base
        return Entry("-", style="muted")
    value, first = _known(groups[setup], name), _known(groups[base], name)
    if value is None or not first or not value:
        return Entry("-", style="muted")
    ratio = first / value if inverse else value / first
    of = base.precision.upper() if kind == "precision" else f"{base.gpus} GPU{'s' if base.gpus != 1 else ''}"
    if kind == "gpus" and not base.gpus:
        return Entry("-", style="muted")
    more: dict[str, Raw] = {"of": of}
    return Entry(f"{_format.significant(ratio, 3)} of {of}", ratio, more)


def _throughput(results: Sequence[Result]) -> Table:
    names = ("samples_per_second", "tokens_per_second")
    groups = _grouped(result for result in results if any(name in result.figures for name in names))
    basis = next((name for name in names if all(name in _all_names(found) for found in groups.values())), names[0])
    headings = (
        *FIRST, Heading("samples_per_second", "Throughput, samples/s"),
        Heading("tokens_per_second", "Throughput, tokens/s"),
        Heading("speedup_ratio", "Speed-up by format, x"), Heading("weak_scaling_ratio", "Weak scaling, x"),
        Heading("joules_per_token", "J per token"), Heading("joules_per_sample", "J per sample"),
        Heading("usd_per_million_tokens", "$ per million tokens"), *LAST,
    )  # fmt: skip
    rows = tuple(
        (
            *_first(setup, found), _mean(found, "samples_per_second", _four), _mean(found, "tokens_per_second", _four),
            _ratio(groups, setup, basis, "precision"), _ratio(groups, setup, basis, "gpus"),
            _mean(found, "joules_per_token", _four), _mean(found, "joules_per_sample", _four),
            _mean(found, "usd_per_million_tokens", _format.money), *_last(setup, found),
        )
        for setup, found in groups.items()
    )  # fmt: skip
    remarks = (
        "Throughput of the training phase, all GPUs together. Speed-up: against the plainest format on as many GPUs, "
        "with the batch that each had, all else alike. Weak scaling: throughput over that of the fewest GPUs in the "
        "same format and with the same batch per GPU.",
    )
    return Table("training-throughput", "Training throughput", headings, rows, remarks)


def _all_names(results: Sequence[Result]) -> set[str]:
    return {name for result in results for name in result.figures}


def _time_to_train(results: Sequence[Result]) -> Table:
    groups = _grouped(result for result in results if "time_to_train_seconds" in result.figures)
    headings = (
        *FIRST, Heading("time_to_train_seconds", "Time to train, h"), Heading("speedup_ratio", "Speed-up by format, x"),
        Heading("scaling_ratio", "Speed-up by GPUs, x"), Heading("energy_joules", "Energy, kWh"),
        Heading("cost_usd", "Cost, $"), *LAST,
    )  # fmt: skip
    rows = tuple(
        (
            *_first(setup, found), _mean(found, "time_to_train_seconds", _hours),
            _ratio(groups, setup, "time_to_train_seconds", "precision", inverse=True),
            _ratio(groups, setup, "time_to_train_seconds", "gpus", inverse=True),
            _mean(found, "energy_joules", _kwh), _mean(found, "cost_usd", _format.money), *_last(setup, found),
        )
        for setup, found in groups.items()
    )  # fmt: skip
    remarks = ("The training phase; energy is that of GPU, CPU and DRAM in it, cost in the tier that was paid.",)
    return Table("time-to-train", "Time to train", headings, rows, remarks)


def _accuracy(results: Sequence[Result]) -> Table:
    groups = _grouped(result for result in results if result.metrics)
    headings = (
        *FIRST[:6], Heading("metric", "Metric", is_figure=False), Heading("values", "By seed", is_figure=False),
        Heading("mean", "Mean"), Heading("std", "Std"), *LAST,
    )  # fmt: skip
    rows = []
    for setup, found in groups.items():
        ordered = sorted(found, key=lambda result: (result.seed is None, result.seed or 0))
        for metric in dict.fromkeys(name for result in ordered for name in result.metrics):
            values = [result.metrics[metric] for result in ordered if metric in result.metrics]
            cell = mean([Figure(value) for value in values])
            texts = ", ".join(_format.number(value, 5) for value in values)
            spread = cell.spread
            rows.append(
                (
                    *_first(setup, found, with_length=False), word(metric), word(texts),
                    Entry(_format.number(cell.figure.value or 0.0, 5), cell.figure.value),
                    Entry("-", style="muted") if spread is None else Entry(_format.significant(spread, 2), spread),
                    *_last(setup, found),
                )
            )  # fmt: skip
    remarks = ("Std is the sample standard deviation over seeds. Of the test split, else the validation split.",)
    return Table("accuracy", "Accuracy over seeds", headings, tuple(rows), remarks)


def _latency(results: Sequence[Result]) -> Table:
    groups = _grouped(results)
    headings = (
        *FIRST[:5], Heading("batch_size", "Batch size"),
        *(Heading(f"latency_{rank}_seconds", f"Latency {title}, ms") for rank, title in LATENCIES.items()),
        Heading("requests_per_second", "Throughput, requests/s"), Heading("joules_per_request", "J per request"),
        Heading("joules_per_token", "J per token"), Heading("usd_per_million_tokens", "$ per million tokens"), *LAST,
    )  # fmt: skip
    rows = tuple(
        (
            *_first(setup, found, with_length=False),
            *(_mean(found, f"latency_{rank}_seconds", _ms) for rank in LATENCIES),
            _mean(found, "requests_per_second", _four), _mean(found, "joules_per_request", _four),
            _mean(found, "joules_per_token", _four), _mean(found, "usd_per_million_tokens", _format.money),
            *_last(setup, found),
        )
        for setup, found in groups.items()
    )  # fmt: skip
    remarks = (
        "Latency of a batch from its start to its last token, in milliseconds; a request is one sample. Energy of the "
        "prediction phase over its requests and generated tokens.",
    )
    return Table("inference-latency", "Inference latency and throughput", headings, rows, remarks)
