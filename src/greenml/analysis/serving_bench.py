"""A serving benchmark: from a load's answers and its run's record to rows of figures, and from rows to text. Pure.

The figures are latency, throughput, energy, carbon and cost by load, each with its interval of 95 %.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from greenml.accounting.per_unit import per
from greenml.analysis.statistics import student_quantile
from greenml.energy import uncertainty
from greenml.errors import RecordError
from greenml.record.schema import Quantity, RunRecord
from greenml.reports import _format
from greenml.run.serving.bench import BUSY

KINDS = ("gpu", "cpu", "dram")  # of devices whose energy counts
QUANTILES = (0.90, 0.95, 0.99)
BATCHES = 10
FEWEST = 2 * BATCHES  # answers; fewer have no interval
NORMAL_95 = 1.960
HEADINGS = ("clients", "requests", "avg", "90 %", "95 %", "99 %", "requests/s", "J/request", "J/token",
            "g CO2e / 1,000 requests", "$ / million tokens", "idle share")  # fmt: skip
SCORE_HEADINGS = ("figure of 1,000 queries", "value", "known how")
_SCORES = {
    "gpu_wh_per_1000_queries": ("GPU energy, the AI Energy Score's figure", "Wh"),
    "it_wh_per_1000_queries": ("with CPUs and DRAM", "Wh"),
    "facility_wh_per_1000_queries": ("with the building (PUE)", "Wh"),
    "grams_per_1000_queries": ("emissions", "g CO2e"),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator reported of one load.

    Attributes:
        path: of its phase in the record.
        concurrency: clients at once.
        served: (start, latency) of each request that was served, in the order of their starts, seconds.
        failed: requests that were not served.
        input_tokens, output_tokens: of all that were served; None where not known.
        tokens_from: how they are known.
    """

    path: str
    concurrency: int
    served: Sequence[tuple[float, float]] = field(repr=False)
    failed: int = 0
    input_tokens: float | None = None
    output_tokens: float | None = None
    tokens_from: str = ""


@dataclass(frozen=True, slots=True)
class BenchRow:
    """The figures of one load. Energy and emissions are those of the time with a request in flight; money is of all.

    Attributes:
        latency_seconds: mean, and by quantile: ``"mean"``, ``"p90"`` ...
        idle_ratio: of the devices' energy, the share of the time without a request in flight.
        cost_usd_per_million_tokens: by tier.
    """

    concurrency: int
    requests: int
    failed: int
    seconds: float
    latency_seconds: Mapping[str, Quantity]
    throughput_per_second: Quantity
    joules_per_request: Quantity
    joules_per_token: Quantity
    joules_per_output_token: Quantity
    grams_per_1000_requests: Quantity
    facility_joules_per_request: Quantity
    gpu_joules_per_request: Quantity
    cost_usd_per_million_tokens: Mapping[str, Quantity]
    idle_ratio: Quantity
    tokens_from: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:  # noqa: ANN401  a figure, or several by name
    if isinstance(value, Quantity):
        return value.model_dump(exclude_defaults=True, exclude={"basis"}) | {"value": value.value, "basis": value.basis}
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def row(record: RunRecord, load: Load) -> BenchRow:
    """Return the figures of a load.

    Raises:
        RecordError: the record has no such phase.
    """
    whole, busy = record.total(load.path), record.total(f"{load.path}/{BUSY}")
    if whole is None or busy is None:
        raise RecordError(f"run {record.run_id}: it has no phase {load.path} with {BUSY} in it")
    count, latencies = len(load.served), [latency for _, latency in load.served]
    tokens = None if None in (load.input_tokens, load.output_tokens) else load.input_tokens + load.output_tokens  # type: ignore[operator]
    return BenchRow(
        concurrency=load.concurrency,
        requests=count,
        failed=load.failed,
        seconds=whole.seconds,
        latency_seconds={"mean": mean(latencies)} | {f"p{q * 100:.0f}": quantile(latencies, q) for q in QUANTILES},
        throughput_per_second=throughput(load.served),
        joules_per_request=_each(busy.it_energy_joules, count),
        joules_per_token=_each(busy.it_energy_joules, tokens),
        joules_per_output_token=_each(busy.it_energy_joules, load.output_tokens),
        grams_per_1000_requests=_each(busy.emissions_grams, count / 1000),
        facility_joules_per_request=_each(busy.facility_energy_joules, count),
        gpu_joules_per_request=_each(busy.gpu_energy_joules, count),
        cost_usd_per_million_tokens={
            tier: _each(usd, tokens / 1e6 if tokens else tokens) for tier, usd in whole.cost_usd.items()
        },
        idle_ratio=idle_ratio(record, load.path),
        tokens_from=load.tokens_from,
    )


def _each(quantity: Quantity, count: float | None) -> Quantity:
    if not count:
        return Quantity(value=None, basis=quantity.basis, why="its tokens are not known" if count is None else "none")
    return per(quantity, count)


def _unknown(why: str) -> Quantity:
    return Quantity(value=None, basis="measured", why=why)


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of 95 % of a mean of independent values; at least two."""
    half = student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def mean(values: Sequence[float]) -> Quantity:
    """Return the mean of latencies in the order of time.

    Latencies of neighbours in time are alike. So the interval is that of ten means of a tenth each ("batch means": Law
    2015, Simulation Modeling and Analysis, 9.5.3).
    """
    if not values:
        return _unknown("no request was served")
    value = statistics.fmean(values)
    if len(values) < FEWEST:
        return Quantity(value=value, basis="measured", why="too few for an interval")
    edges = [round(at * len(values) / BATCHES) for at in range(BATCHES + 1)]
    low, high = interval_of_mean([statistics.fmean(values[a:b]) for a, b in pairwise(edges)])
    return Quantity(value=value, low=max(0.0, min(low, value)), high=max(high, value), basis="measured")


def quantile(values: Sequence[float], share: float) -> Quantity:
    """Return a quantile with its interval by order statistics; without an upper end where there are too few beyond it.

    Source: Hahn and Meeker 1991, Statistical Intervals, 5.2: the ranks n p ± z sqrt(n p (1 - p)).
    """
    if not values:
        return _unknown("no request was served")
    ordered, count = sorted(values), len(values)
    value = ordered[min(count - 1, math.ceil(share * count) - 1)]
    if count < FEWEST:
        return Quantity(value=value, basis="measured", why="too few for an interval")
    half = NORMAL_95 * math.sqrt(count * share * (1 - share))
    low, high = math.floor(share * count - half), math.ceil(share * count + half) + 1
    return Quantity(
        value=value, low=ordered[max(0, low - 1)], high=ordered[high - 1] if high <= count else None, basis="measured"
    )


def throughput(served: Sequence[tuple[float, float]]) -> Quantity:
    """Return the requests served a second; the interval is that of ten tenths of the time."""
    if not served:
        return _unknown("no request was served")
    ends = sorted(start + latency for start, latency in served)
    first = min(start for start, _ in served)
    seconds = ends[-1] - first
    if seconds <= 0:
        return _unknown("it took no time")
    value = len(served) / seconds
    if len(served) < FEWEST:
        return Quantity(value=value, basis="measured", why="too few for an interval")
    counts = [0] * BATCHES
    for end in ends:
        counts[min(BATCHES - 1, int((end - first) / seconds * BATCHES))] += 1
    low, high = interval_of_mean([count * BATCHES / seconds for count in counts])
    return Quantity(value=value, low=max(0.0, min(low, value)), high=max(high, value), basis="measured")


def idle_ratio(record: RunRecord, path: str) -> Quantity:
    """Return the share of the energy of a load's phase without a request in flight.

    An error of a sensor's calibration is in both energies, so that it counts as far as the device's idle share differs
    from that of all. What else is not known of the two energies is taken to be independent. Time without readings may
    be idle or not.
    """
    whole, busy = record.total(path), record.total(f"{path}/{BUSY}")
    energy, used = (scope.it_energy_joules if scope is not None else _unknown("") for scope in (whole, busy))
    if not energy.value or used.value is None:
        return _unknown(energy.why or "no energy was measured")
    made = Quantity(value=max(0.0, 1 - used.value / energy.value), basis=energy.basis)
    of_whole, of_busy = (_terms(record, scope) for scope in (path, f"{path}/{BUSY}"))
    if of_whole is None or of_busy is None:
        return made
    busy_ratio, down, up, cover_down, cover_up = used.value / energy.value, 0.0, 0.0, 0.0, 0.0
    none = uncertainty.Term("", "", 0.0, 0.0)
    for key in of_whole.keys() | of_busy.keys():
        all_term, busy_term = of_whole.get(key, none), of_busy.get(key, none)
        if key[0] == uncertainty.COVERAGE:
            idle_up = all_term.up - busy_term.up if math.isfinite(all_term.up) else all_term.up
            cover_down += busy_term.up + max(0.0, all_term.down - busy_term.down)
            cover_up += busy_term.down + max(0.0, idle_up)
        elif key[0] in {uncertainty.CALIBRATION, uncertainty.CROSS_CHECK}:
            more, less = (busy_ratio * all_term.up - busy_term.up, busy_ratio * all_term.down - busy_term.down)
            up, down = math.hypot(up, max(more, -less, 0.0)), math.hypot(down, max(-more, less, 0.0))
        else:
            both = math.hypot(busy_ratio * all_term.up, busy_term.up)
            up, down = math.hypot(up, both), math.hypot(down, both)
    ratio, joules = made.value or 0.0, energy.value
    low, high = ratio - (down + cover_down) / joules, ratio + (up + cover_up) / joules
    return made.model_copy(update={"low": max(0.0, low), "high": min(1.0, high)})


def _terms(record: RunRecord, path: str) -> dict[tuple[str, str], uncertainty.Term] | None:
    """Return the uncertainty of the energy of a phase, by source and by whose it is; None where it is not known."""
    phase = record.phase(path)
    if phase is None:
        return None
    by_id = {device.id: device for device in record.devices if device.kind in KINDS}
    used = [(by_id[name], usage) for name, usage in phase.usage.items() if name in by_id]
    return {(term.source, term.of): term for term in uncertainty.terms(used)}


def score(record: RunRecord, loads: Sequence[Load]) -> dict[str, Quantity]:
    """Return the watt-hours per 1,000 queries over repeats, as the AI Energy Score has them, with what it leaves out.

    The interval of each joins the spread over the repeats with the uncertainty of the measurement, which all repeats
    share. Source: AI Energy Score (Luccioni et al. 2025): GPU energy of 1,000 prompts, mean of ten runs.
    """
    rows = [row(record, load) for load in loads]
    figures = {
        "gpu_wh_per_1000_queries": [repeat.gpu_joules_per_request for repeat in rows],
        "it_wh_per_1000_queries": [repeat.joules_per_request for repeat in rows],
        "facility_wh_per_1000_queries": [repeat.facility_joules_per_request for repeat in rows],
    }
    made = {name: _repeated([per(each, 3.6) for each in each_repeat]) for name, each_repeat in figures.items()}
    return made | {"grams_per_1000_queries": _repeated([repeat.grams_per_1000_requests for repeat in rows])}


def _repeated(repeats: Sequence[Quantity]) -> Quantity:
    values = [repeat.value for repeat in repeats if repeat.value is not None]
    if len(values) < len(repeats) or not values:
        return next(repeat for repeat in repeats if repeat.value is None)
    value = statistics.fmean(values)
    low, high = interval_of_mean(values) if len(values) > 1 else (value, value)
    down = statistics.fmean(
        [each - repeat.low for each, repeat in zip(values, repeats, strict=True) if repeat.low is not None] or [0.0]
    )
    up = [repeat.high - each for each, repeat in zip(values, repeats, strict=True) if repeat.high is not None]
    above = None if len(up) < len(values) else value + math.hypot(high - value, statistics.fmean(up))
    return repeats[0].model_copy(
        update={"value": value, "low": max(0.0, value - math.hypot(value - low, down)), "high": above}
    )


def cells(row: BenchRow, tier: str = "") -> list[str]:
    """Return the cells of a row: a figure, and its interval in brackets.

    Args:
        row: the figures of one load.
        tier: whose price counts; the first by default.
    """
    usd = row.cost_usd_per_million_tokens.get(tier) or next(iter(row.cost_usd_per_million_tokens.values()), None)
    failed = f", {row.failed} failed" if row.failed else ""
    return [
        str(row.concurrency),
        f"{row.requests}{failed}",
        *(figure(row.latency_seconds[name], _milliseconds) for name in ("mean", "p90", "p95", "p99")),
        figure(row.throughput_per_second, _number),
        figure(row.joules_per_request, _number),
        figure(row.joules_per_token, _number),
        figure(row.grams_per_1000_requests, _number),
        figure(usd, _number) if usd is not None else "-",
        figure(row.idle_ratio, _format.percent),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{_number(seconds * 1000)} ms"


def _number(value: float) -> str:
    return _format.significant(value, 3)


def figure(quantity: Quantity, write: Callable[[float], str]) -> str:
    """Write a figure with its interval; a dash where it is not known."""
    if quantity.value is None:
        return "-"
    if quantity.low is not None and quantity.high is None:
        return f"{write(quantity.value)} ({write(quantity.low)} or more)"
    spread = _format.interval_of(quantity, write)
    return write(quantity.value) + (f" ({spread})" if spread else "")


def notes(record: RunRecord, rows: Sequence[BenchRow]) -> list[str]:
    """Return what a reader must know of the table."""
    bases = ", ".join(
        dict.fromkeys(row.joules_per_request.basis for row in rows if row.joules_per_request.value is not None)
    )
    tokens = ", ".join(dict.fromkeys(row.tokens_from for row in rows if row.joules_per_token.value is not None))
    why = next((row.joules_per_request.why for row in rows if row.joules_per_request.why), "")
    intensity, prices = record.factors.carbon_intensity, record.factors.prices
    said = [
        f"Energy is {bases or 'not known'}, of GPUs, CPUs and DRAM with a request in flight"
        + (f" ({why})" if why else "") + "; the load generator ran on this machine, and its CPU time is in it.",
        f"Tokens are those of {tokens}, input and output together." if tokens else "Tokens are not known.",
        "In brackets: 95 % of cases. Idle share: of the energy, that of the time without a request in flight.",
    ]  # fmt: skip
    if intensity is not None:
        said.append(f"Carbon intensity: {_format.factor(intensity)}")
    said += [f"Price: {_format.price(tier, price)}" for tier, price in prices.items()]
    return said


def as_csv(rows: Sequence[BenchRow]) -> str:
    """Return a row for each load, and for each figure its value, low and high, in SI units."""
    stream = io.StringIO()
    flat = [dict(_flat(row)) for row in rows]
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for each in flat for name in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def _flat(row: BenchRow) -> list[tuple[str, object]]:
    cells_: list[tuple[str, object]] = []
    for name in BenchRow.__dataclass_fields__:
        value = getattr(row, name)
        figures = (
            {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        )
        for key, each in figures.items():
            if isinstance(each, Quantity):
                cells_ += [(key, each.value), (f"{key}_low", each.low), (f"{key}_high", each.high)]
            else:
                cells_.append((key, each))
    return cells_


def score_cells(score: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of an AI Energy Score: name, figure with its interval, and how it is known or why it is not."""
    cells_ = []
    for name, (label, unit) in _SCORES.items():
        quantity = Quantity.model_validate(score[name])
        text = figure(quantity, lambda value, unit=unit: f"{_number(value)} {unit}")  # type: ignore[misc]
        cells_.append([label, text, quantity.why if quantity.value is None else quantity.basis])
    return cells_


def of_json(values: Mapping[str, Any]) -> BenchRow:
    """Read back a row that ``BenchRow.as_json`` wrote."""
    read = dict(values)
    for name, value in values.items():
        if isinstance(value, Mapping) and "basis" in value:
            read[name] = Quantity.model_validate(value)
        elif isinstance(value, Mapping):
            read[name] = {key: Quantity.model_validate(each) for key, each in value.items()}
    return BenchRow(**read)
