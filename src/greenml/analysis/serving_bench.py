"""A benchmark of an endpoint on this machine: load, the energy of the devices while it lasts, and the figures of both.

**The load.** Each stage of it is a phase of the run. Within it, the phase ``requests`` is the time with a request in
flight: what the devices use outside of it is idle energy, and belongs to no request. Warm-up is in no phase. The load
comes from generators that are there already: hey for many clients at once, curl for a sequence. What is ours is their
command lines and the reading of what they print.

**The figures** are latency, throughput, energy, carbon and cost by load, each with its interval of 95 %. They follow
from the load's answers and the record of its run, and from nothing else.
"""

from __future__ import annotations

import csv
import http.client
import io
import json
import math
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from greenml.accounting.totals import per
from greenml.analysis.statistics import student_quantile
from greenml.energy import uncertainty
from greenml.energy.usage import union
from greenml.errors import GreenMLError, RecordError, SettingsError
from greenml.record.schema import Quantity, RunRecord
from greenml.redaction import redact_text
from greenml.reports import _format
from greenml.run.serving import metrics_page
from greenml.run.serving.metrics_page import login, shown, without_login
from greenml.run.track import Run

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


BUSY = "requests"  # the phase within a stage's with a request in flight
SAME_SECONDS = 0.002  # hey writes times to 0.1 ms; a client needs some time between two requests
MOST_SPANS = 5000
WARM_UP = 2  # requests of each client
PROBE_SECONDS = 60.0
QUOTED_LETTERS = 120
MOST_ANSWERS = 1_000_000  # that hey keeps of a load
INSTALL = {"hey": "apt-get install hey (Debian, Ubuntu), brew install hey", "curl": "apt-get install curl"}
# What the two names of a count of tokens are called in an answer's ``usage``: OpenAI's chat and responses interfaces.
USAGE = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))


class LoadError(GreenMLError):
    """An endpoint could not be put under load."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and what is sent.

    Attributes:
        body: of the request; None for GET without one.
        headers: beside the content type.
        timeout_seconds: of each request.
    """

    url: str
    method: str = "GET"
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: when its request began (monotonic seconds), how long it took, HTTP's status, its tokens."""

    start_seconds: float
    latency_seconds: float
    status: int
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def is_good(self) -> bool:
        """Tell whether the request was served."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Stage:
    """One load, and what came of it.

    Attributes:
        path: of its phase.
        concurrency: clients at once.
        answers: in the order in which they began, those that failed with them.
        unanswered: requests that got no answer at all.
        input_tokens, output_tokens: of all that were served; None where not known.
        tokens_from: how they are known.
    """

    path: str
    concurrency: int
    answers: Sequence[Answer] = field(repr=False)
    unanswered: int = 0
    input_tokens: float | None = None
    output_tokens: float | None = None
    tokens_from: str = ""

    @property
    def served(self) -> list[Answer]:
        """Return the answers to requests that were served."""
        return [answer for answer in self.answers if answer.is_good]


def run_stages(
    run: Run,
    endpoint: Endpoint,
    concurrencies: Sequence[int],
    *,
    requests: int | None = None,
    seconds: float | None = None,
    metrics_url: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> list[Stage]:
    """Put an endpoint under load with each number of clients in turn.

    Args:
        run: that measures, started.
        endpoint: on this machine.
        concurrencies: clients at once, one stage each.
        requests: of each stage, rounded up to as many from each client; or
        seconds: of each stage.
        metrics_url: the server's metrics page, whose counters tell the tokens; else one answer's ``usage`` does.
        tell: takes a line about each stage.

    Raises:
        LoadError: the endpoint does not serve.
        PageError: the metrics page cannot be read.
        SettingsError: hey is not installed.
    """
    load_generator("hey")
    each = probe(endpoint)
    stages = []
    for concurrency in concurrencies:
        tell(f"{concurrency} client{'s'[: concurrency != 1]}: warm-up, then load")
        hey(endpoint, concurrency, requests=WARM_UP * concurrency)
        before = metrics_page.read(metrics_url) if metrics_url else None
        run.read_devices()
        answers = hey(endpoint, concurrency, requests=requests, seconds=seconds)
        run.read_devices()
        stage = Stage(f"clients-{concurrency}", concurrency, answers)
        if requests is not None:
            stage = replace(stage, unanswered=hey_requests(requests, concurrency) - len(answers))
        if not stage.served:
            raise LoadError(
                f"no request of {concurrency} clients was served; the first answer was HTTP {answers[0].status}"
            )
        if before is not None:
            counts = metrics_page.read(metrics_url).since(before)
            tokens = (counts.input_tokens, counts.output_tokens, f"{before.server.name}'s metrics page")
        else:
            many = len(stage.served)
            tokens = (
                None if each[0] is None else each[0] * many, None if each[1] is None else each[1] * many,
                "the usage of one answer, times the requests",
            )  # fmt: skip
        stages.append(replace(stage, input_tokens=tokens[0], output_tokens=tokens[1], tokens_from=tokens[2]))
        mark(run, stages[-1])
    return stages


def run_sequence(
    run: Run, endpoint: Endpoint, bodies: Sequence[bytes], repeats: int, tell: Callable[[str], None] = lambda _: None
) -> list[Stage]:
    """Send all bodies one after the other, several times over.

    Raises:
        LoadError: the endpoint does not serve.
        SettingsError: curl is not installed.
    """
    probe(replace(endpoint, method="POST", body=bodies[0]))
    sequence(endpoint, bodies[: max(1, len(bodies) // 100)])
    stages = []
    for number in range(1, repeats + 1):
        tell(f"repeat {number} of {repeats}: {len(bodies)} requests")
        run.read_devices()
        answers = sequence(endpoint, bodies)
        run.read_devices()
        stage = Stage(f"repeat-{number}", 1, answers, len(bodies) - len(answers))
        if not stage.served:
            raise LoadError(f"no request was served; the first answer was HTTP {answers[0].status}")
        counts = [[getattr(answer, name) for answer in stage.served] for name in ("input_tokens", "output_tokens")]
        known = [None if None in values else sum(values) for values in counts]
        stages.append(replace(stage, input_tokens=known[0], output_tokens=known[1], tokens_from="each answer's usage"))
        mark(run, stages[-1])
    return stages


def mark(run: Run, stage: Stage) -> None:
    """Make a stage a phase of the run, with the time in which a request was in flight within it."""
    spans = busy(stage.answers)
    number = run.begin_phase(stage.path, spans[0][0])
    for start, end in spans:
        run.end_phase(run.begin_phase(BUSY, start), end)
    run.end_phase(number, spans[-1][1])


def busy(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return the spans with a request in flight; gaps too short to be seen are left out.

    Of a load with very many gaps, the shortest of them count as busy.
    """
    spans = union((answer.start_seconds, answer.start_seconds + answer.latency_seconds) for answer in answers)
    gaps = sorted((after[0] - before[1] for before, after in pairwise(spans)), reverse=True)
    least = max([SAME_SECONDS, *gaps[MOST_SPANS - 1 : MOST_SPANS]])
    joined = [spans[0]]
    for start, end in spans[1:]:
        if start - joined[-1][1] <= least:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def load_generator(name: str) -> str:
    """Return the path of a load generator.

    Raises:
        SettingsError: it is not installed; says how to get it.
    """
    path = shutil.which(name)
    if path is None:
        raise SettingsError(f"the load generator {name} is not installed: {INSTALL[name]}")
    return path


def probe(endpoint: Endpoint) -> tuple[int | None, int | None]:
    """Send one request, and return the input and output tokens that its answer's ``usage`` tells.

    Raises:
        LoadError: it is not served; says what the endpoint answered.
    """
    headers = {"User-Agent": "greenml", **login(endpoint.url), **endpoint.headers}
    if endpoint.body is not None:
        headers["Content-Type"] = endpoint.content_type
    request = urllib.request.Request(without_login(endpoint.url), endpoint.body, headers, method=endpoint.method)  # noqa: S310  checked
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=min(endpoint.timeout_seconds, PROBE_SECONDS)) as answer:
            return tokens_of(answer.read())
    except urllib.error.HTTPError as error:
        words = " ".join(redact_text(error.read(4096).decode(errors="replace")).split())[:QUOTED_LETTERS]
        raise LoadError(f"{shown(endpoint.url)}: HTTP {error.code}{': ' + words if words else ''}") from None
    except http.client.HTTPException as error:
        raise LoadError(f"{shown(endpoint.url)}: its answer is not whole HTTP ({type(error).__name__})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise LoadError(f"{shown(endpoint.url)}: it does not answer ({words.lower()})") from None


def tokens_of(body: bytes) -> tuple[int | None, int | None]:
    """Return the input and output tokens of an answer, where it is JSON with ``usage``."""
    try:
        usage: Any = json.loads(body)["usage"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None
    counts = [next((usage[name] for name in names if _is_count(usage, name)), None) for names in USAGE]
    return counts[0], counts[1]


def _is_count(usage: object, name: str) -> bool:
    value = usage.get(name) if isinstance(usage, dict) else None
    return type(value) is int and value >= 0


def hey_requests(requests: int, concurrency: int) -> int:
    """Return how many requests hey sends: as many from each client, at least as many as are asked for."""
    return math.ceil(requests / concurrency) * concurrency


def hey(
    endpoint: Endpoint, concurrency: int, *, requests: int | None = None, seconds: float | None = None
) -> list[Answer]:
    """Ask with as many clients at once; each sends its next request when the last was answered.

    Args:
        endpoint: that is asked.
        concurrency: clients.
        requests: how many in all, rounded up to as many from each client. Or:
        seconds: for how long.

    Raises:
        LoadError: hey failed, got no answer, or more answers than it keeps.
        SettingsError: it is not installed.
    """
    words = [load_generator("hey"), "-c", str(concurrency), "-o", "csv", "-t", str(math.ceil(endpoint.timeout_seconds))]
    words += (
        ["-n", str(hey_requests(requests, concurrency))] if requests is not None else ["-z", f"{seconds or 10.0:g}s"]
    )
    words += ["-m", endpoint.method, "-T", endpoint.content_type]
    for name, value in endpoint.headers.items():
        words += ["-H", f"{name}: {value}"]
    with tempfile.TemporaryDirectory(prefix="greenml-load-") as folder:
        if endpoint.body is not None:
            path = Path(folder) / "body"
            path.write_bytes(endpoint.body)
            words += ["-D", str(path)]
        began = time.monotonic()
        done = subprocess.run([*words, endpoint.url], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(redact_text(done.stderr).split())[:QUOTED_LETTERS]
        raise LoadError(f"hey failed: {said or f'exit code {done.returncode}'}")
    answers = read_hey(done.stdout, began)
    if len(answers) >= MOST_ANSWERS:
        raise LoadError(f"hey keeps {MOST_ANSWERS:,} answers and no more; give a shorter load")
    if not answers:
        raise LoadError(f"{shown(endpoint.url)}: no request of {concurrency} clients was answered")
    return answers


def read_hey(text: str, began_seconds: float) -> list[Answer]:
    """Read hey's CSV, in the order in which the requests began. A request without an answer has no row.

    Raises:
        LoadError: it is none.
    """
    try:
        answers = [
            Answer(began_seconds + float(row["offset"]), float(row["response-time"]), int(row["status-code"]))
            for row in csv.DictReader(io.StringIO(text))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"hey printed what is not read here: {error}; hey 0.1.3 or later is needed") from None
    return sorted(answers, key=lambda answer: answer.start_seconds)


def sequence(endpoint: Endpoint, bodies: Sequence[bytes]) -> list[Answer]:
    """Send one request after the other, each with a body of its own, over one connection.

    Raises:
        LoadError: curl failed, or the endpoint did not answer.
        SettingsError: it is not installed.
    """
    path = load_generator("curl")
    with tempfile.TemporaryDirectory(prefix="greenml-load-") as name:
        folder = Path(name)
        parts = []
        for number, body in enumerate(bodies):
            (folder / f"{number}.in").write_bytes(body)
            lines = [
                f'url = "{_quoted(endpoint.url)}"', 'request = "POST"', f'data-binary = "@{folder}/{number}.in"',
                f'header = "Content-Type: {_quoted(endpoint.content_type)}"', f'output = "{folder}/{number}.out"',
                *(f'header = "{_quoted(key)}: {_quoted(value)}"' for key, value in endpoint.headers.items()),
                'write-out = "%{http_code} %{time_total}\\n"', f"max-time = {endpoint.timeout_seconds:g}",
                'noproxy = "*"', "silent",
            ]  # fmt: skip
            parts.append("\n".join(lines))
        began = time.monotonic()
        done = subprocess.run(
            [path, "--config", "-"], input="\nnext\n".join(parts), capture_output=True, text=True, check=False
        )
        answers, at = [], began
        for number, line in enumerate(done.stdout.split("\n")[: len(bodies)]):
            status, _, latency = line.partition(" ")
            output = folder / f"{number}.out"
            tokens = tokens_of(output.read_bytes()) if output.exists() else (None, None)
            if status.isdecimal():
                answers.append(Answer(at, float(latency), int(status), *tokens))
                at += float(latency)
    if not any(answer.status for answer in answers):
        raise LoadError(f"{shown(endpoint.url)}: no request was answered (curl: exit code {done.returncode})")
    return answers


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")
