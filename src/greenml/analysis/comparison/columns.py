"""Columns of a comparison: their figures as records have them, the metrics of the runs, and differences of runs.

A difference has its significance; runs that repeat each other are groups, with means. A Pareto front is of two.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from greenml.analysis import statistics
from greenml.errors import SettingsError, nearest
from greenml.record.schema import DeviceRecord, Factor, Quantity, RunRecord, Totals, Usage
from greenml.reports import _format, _parts

Better = Literal["higher", "lower"]
COUNTED = ("gpu", "cpu", "dram")  # the kinds whose energy is in the IT energy
NAMELESS_HOSTS = ("", "localhost")


@dataclass(frozen=True, slots=True)
class Term:
    """The energy that one sensor measured, with its uncertainty.

    Attributes:
        sensor: what identifies the sensor; None where another run cannot have the same one.
        joules: as the sensor reported them.
        calibration_joules: what its calibration may shift them by, the same way in every run.
        minus_joules, plus_joules: what else they may be off by, downward and upward.
    """

    sensor: tuple[str, ...] | None
    joules: float
    calibration_joules: float = 0.0
    minus_joules: float = 0.0
    plus_joules: float = 0.0

    def scaled(self, ratio: float) -> Term:
        """Return the term times a number."""
        return Term(
            self.sensor,
            self.joules * ratio,
            self.calibration_joules * ratio,
            self.minus_joules * ratio,
            self.plus_joules * ratio,
        )


@dataclass(frozen=True, slots=True)
class Assumed:
    """A factor that a figure was multiplied with.

    Attributes:
        factor: the factor.
        where: what it was assumed for where the place is not known, else empty: two runs on the same hosts were at
            the same place, wherever that is.
    """

    factor: Factor
    where: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a run, or the mean over several.

    Attributes:
        value: None: not known, and ``why`` says why. On a known value ``why`` names what is not in it.
        low, high: its interval; None where it has none.
        terms: the energy in it, sensor by sensor; empty: it has no energy in it; None: what that may be off by is
            not known.
        factors: what it was multiplied with, in the order of the column.
        energy: interval of the energy in it before the factors, joules; None where it has none.
        at_least: a device that was there is missing in it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""
    terms: tuple[Term, ...] | None = ()
    factors: tuple[Assumed, ...] = ()
    energy: tuple[float, float] | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A figure by which runs are compared.

    Attributes:
        key: its name in options and files; ends in its unit.
        title: its name for people.
        better: which way is better; None: neither, or not known.
        figure: reads it off a record.
        kind: energy, mass, time, money, memory, ratio or number; how it is written.
        unit: of a number, for people.
    """

    key: str
    title: str
    better: Better | None
    figure: Callable[[RunRecord], Figure]
    kind: str = "number"
    unit: str = ""


def columns_of(records: Sequence[RunRecord], metrics: Sequence[str], directions: dict[str, Better]) -> list[Column]:
    """Return the columns for some records: metrics first, then time, energy, carbon, money and use of the GPUs."""
    tiers = sorted({tier for record in records if (total := record.total()) for tier in total.cost_usd})
    throughput = "samples" if any("samples_per_second" in record.derived for record in records) else "tokens"
    return [
        *(Column(f"metrics.{name}", name, directions.get(name) or direction(name), _Metric(name)) for name in metrics),
        Column("duration_seconds", "duration", "lower", lambda record: Figure(record.duration_seconds), "time"),
        Column(
            f"{throughput}_per_second",
            f"{throughput}/s",
            "higher",
            _Derived(f"{throughput}_per_second", throughput),
        ),
        Column("energy_joules", "energy", "lower", _energy, "energy"),
        Column("joules_per_sample", "J per sample", "lower", _PerUnit("joules_per_sample", "samples")),
        Column("joules_per_token", "J per token", "lower", _PerUnit("joules_per_token", "tokens")),
        Column("emissions_grams", "CO2e", "lower", _emissions, "mass"),
        *(
            Column(f"cost_{tier}_usd", f"cost, {_format.tier(tier)}", "lower", _Cost(tier), "money", "$")
            for tier in tiers
        ),
        Column("gpu_memory_peak_bytes", "GPU memory peak", None, _Total("gpu_memory_peak_bytes"), "memory"),
        Column("gpu_utilization_ratio", "GPU use", None, _Total("gpu_utilization_ratio"), "ratio"),
    ]


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str

    def __call__(self, record: RunRecord) -> Figure:
        logged = record.metrics.get(self.name)
        value = number(logged)
        known = "was not logged" if logged is None else f"is {str(logged)[:40]!r}, no finite number"
        return Figure(value, why="" if value is not None else f"{self.name} {known}")


@dataclass(frozen=True, slots=True)
class _Derived:
    name: str
    unit: str

    def __call__(self, record: RunRecord) -> Figure:
        value = record.derived.get(self.name)
        return Figure(value, why="" if value is not None else f"the trainer's number of {self.unit} is not known")


@dataclass(frozen=True, slots=True)
class _Total:
    name: str

    def __call__(self, record: RunRecord) -> Figure:
        quantity = _parts.quantities(record).get(self.name)
        value = quantity.value if quantity is not None else None
        return Figure(value, why="" if value is not None else "not measured")


@dataclass(frozen=True, slots=True)
class _Cost:
    tier: str

    def __call__(self, record: RunRecord) -> Figure:
        price = record.factors.prices.get(self.tier)
        quantity = _parts.quantities(record).get(f"cost_{self.tier}_usd")
        if quantity is None or quantity.value is None:
            return Figure(None, why=(quantity.why if quantity else "") or "no price is known")
        return _figure(quantity, (), (price,), record)


@dataclass(frozen=True, slots=True)
class _PerUnit:
    name: str
    unit: str

    def __call__(self, record: RunRecord) -> Figure:
        value, total = record.derived.get(self.name), record.total(record.training_path)
        if value is None or total is None:
            why = "its training phase is not known" if total is None else f"the number of {self.unit} is not known"
            return Figure(None, why=why)
        energy = total.it_energy_joules
        if not energy.value:
            return Figure(value)
        scale = value / energy.value
        phase = record.phase(record.training_path)
        by_id = {device.id: device for device in record.devices}
        used = [(by_id[name], usage) for name, usage in (phase.usage if phase else {}).items() if name in by_id]
        energy_terms = terms(used)
        return Figure(
            value,
            None if energy.low is None else energy.low * scale,
            None if energy.high is None else energy.high * scale,
            energy.why,
            None if energy_terms is None else tuple(term.scaled(scale) for term in energy_terms),
            at_least=energy.at_least,
        )


def _energy(record: RunRecord) -> Figure:
    total = record.total()
    return Figure(None, why="the record has no totals") if total is None else _it_energy(total, record)


def _it_energy(total: Totals, record: RunRecord) -> Figure:
    return _figure(total.it_energy_joules, terms((device, device.usage) for device in record.devices), (), record)


def _emissions(record: RunRecord) -> Figure:
    total = record.total()
    if total is None:
        return Figure(None, why="the record has no totals")
    energy_terms = terms((device, device.usage) for device in record.devices)
    made = _figure(total.emissions_grams, energy_terms, (record.factors.pue, record.factors.carbon_intensity), record)
    energy = total.it_energy_joules
    if energy.low is None or energy.high is None:
        return made
    return replace(made, energy=(energy.low, energy.high))


def _figure(
    quantity: Quantity, energy_terms: tuple[Term, ...] | None, factors: Iterable[Factor | None], record: RunRecord
) -> Figure:
    if quantity.value is None:
        return Figure(None, why=quantity.why)
    hosts = ",".join(sorted(host.name for host in record.hosts)) or record.run_id
    used = tuple(Assumed(factor, hosts if factor.assumed else "") for factor in factors if factor is not None)
    return Figure(
        quantity.value, quantity.low, quantity.high, quantity.why, None if quantity.at_least else energy_terms, used,
        at_least=quantity.at_least,
    )  # fmt: skip


def terms(used: Iterable[tuple[DeviceRecord, Usage]]) -> tuple[Term, ...] | None:
    """Return the energy terms of some devices, one per sensor; None where the uncertainty of one is not known.

    Source: docs/method.md, section 3, for the uncertainties; docs/compare.md for which calibrations are shared.
    """
    energy_terms: list[Term] = []
    for device, usage in used:
        joules = usage.energy_joules
        if device.kind in COUNTED and joules is None and usage.uncertainty is not None:
            return None  # it was there, and what it used is not known
        if device.kind not in COUNTED or joules is None:
            continue
        budget = usage.uncertainty
        if budget is not None:
            spread = math.hypot(budget.quantisation_joules, budget.unsampled_joules, budget.interpolation_joules)
            less = spread + budget.cross_check_low_joules + budget.coverage_low_joules
            more = spread + budget.cross_check_high_joules + (budget.coverage_joules or 0.0)
            minus = min(less, max(0.0, joules - budget.calibration_joules))
            energy_terms.append(Term(sensor(device), joules, budget.calibration_joules, minus, more))
        elif usage.energy_low_joules is not None and usage.energy_high_joules is not None:
            energy_terms.append(
                Term(None, joules, 0.0, joules - usage.energy_low_joules, usage.energy_high_joules - joules)
            )
        else:
            return None
    return tuple(energy_terms) or None


def sensor(device: DeviceRecord) -> tuple[str, ...] | None:
    """Return what identifies a device's sensor over several runs; None where nothing does.

    A GPU has a UUID. A CPU package or its DRAM is that of a host with a name, and of a model. What a model of the CPU
    is off by depends on the load, so it is not shared.
    """
    if device.method not in ("counter", "gauge"):
        return None
    how = (device.sensor, device.method, f"{device.calibration_ratio:.6g}")
    short_id = device.id.rsplit("/", 1)[-1]
    if device.kind == "gpu" and short_id.startswith(("GPU-", "MIG-")):
        return ("gpu", short_id, *how)
    if device.host in NAMELESS_HOSTS:
        return None
    return (device.kind, device.host, short_id, device.name, *how)


MOST_METRICS = 3  # shown where none was asked for

# Best known first; a name counts by its words, without what it was computed on (eval_, test_).
HIGHER = (
    "rougel", "rouge2", "rouge1", "rougelsum", "rouge", "bleu", "sacrebleu", "meteor", "chrf", "bertscore", "f1",
    "accuracy", "acc", "em", "exact_match", "precision", "recall", "mcc", "matthews_correlation", "auc", "auroc",
    "roc_auc", "map", "ndcg", "mrr", "iou", "miou", "dice", "pearson", "spearman", "spearmanr", "psnr", "ssim", "r2",
    "kappa", "win_rate", "reward",
)  # fmt: skip
LOWER = (
    "loss", "perplexity", "ppl", "error", "wer", "cer", "ter", "mae", "mse", "rmse", "mape", "nll", "bpc",
    "bits_per_byte", "fid",
)  # fmt: skip
SETS = ("eval", "test", "predict", "val", "valid", "validation", "dev", "train", "training")
# What a Trainer logs beside the results: how long, how fast, how many.
NO_RESULTS = (
    "runtime",
    "samples",
    "steps",
    "second",
    "seconds",
    "epoch",
    "flos",
    "len",
    "length",
    "step",
    "time",
    "lr",
)


def number(value: object) -> float | None:
    """Return a logged value as a number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _words(name: str) -> list[str]:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    return [word for word in words if word not in SETS]


def _has(name: str, known: str) -> bool:
    return f"_{known}_" in f"_{'_'.join(_words(name))}_"


def direction(name: str) -> Literal["higher", "lower"] | None:
    """Return whether a higher or lower metric is better; None where its name matches neither or both."""
    higher = any(_has(name, metric) for metric in HIGHER) or any(word.startswith("rouge") for word in _words(name))
    lower = any(_has(name, metric) for metric in LOWER)
    return None if higher == lower else ("higher" if higher else "lower")


def _rank(name: str) -> tuple[int, int, str]:
    """Order metrics: the best known first, an evaluation's before the training's."""
    known = (*HIGHER, *LOWER)
    place = next((index for index, metric in enumerate(known) if _has(name, metric)), len(known))
    words = re.split(r"[^a-z0-9]+", name.lower())
    of = next((index for index, dataset in enumerate(SETS) if dataset in words), 0)
    return place, of, name


def available(records: Sequence[RunRecord]) -> dict[str, int]:
    """Return every numeric metric, with how many runs have it."""
    return Counter(name for record in records for name, value in record.metrics.items() if number(value) is not None)


def choose(records: Sequence[RunRecord], asked: Sequence[str]) -> list[str]:
    """Return the metrics to compare by: those asked for, else the best known that the runs share.

    Raises:
        SettingsError: no run has a metric that was asked for.
    """
    counts = available(records)
    check(asked, records)
    if asked:
        return list(dict.fromkeys(asked))
    results = [name for name in counts if not set(_words(name)) & set(NO_RESULTS)]
    most = max((counts[name] for name in results), default=0)
    shared = [name for name in results if counts[name] == most and (most > 1 or len(records) == 1)]
    known = [name for name in shared if direction(name)]
    return sorted(known or shared, key=_rank)[:MOST_METRICS]


def check(names: Iterable[str], records: Sequence[RunRecord]) -> None:
    """Check that each metric whose direction was given is one that some run has.

    Raises:
        SettingsError: it is not.
    """
    counts = available(records)
    for name in names:
        if name not in counts:
            near = nearest(name, counts, cutoff=0.4) or sorted(counts)[:10]
            there = f"there are {', '.join(near)}" if near else "no run logged any"
            raise SettingsError(f"no run has the metric {name!r}; {there}")


Verdict = Literal["apart", "intervals", "spread", "exact", "unknown"]
ROUNDS = 50  # of the iteration below; it ends after two or three


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of a row: of one run, or the mean over repeats.

    Attributes:
        figure: the figure.
        count: how many runs it is of.
        spread: sample standard deviation over them; None for fewer than two.
    """

    figure: Figure
    count: int = 1
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A row against the baseline, in one column.

    Attributes:
        change_ratio: (row - baseline) / |baseline|: 0.05 is 5 % more.
        low_ratio, high_ratio: where the true change may lie; None where that is not known.
        verdict: ``apart``: told apart; ``intervals``: not, for what the sensors and factors may be off by; ``spread``:
            not, for what repeats of one configuration differ by; ``exact``: a figure without an interval, such as
            time, of one run each; ``unknown``: the sensors' uncertainty is not known.
    """

    change_ratio: float
    low_ratio: float | None = None
    high_ratio: float | None = None
    verdict: Verdict = "exact"


def difference(baseline: Cell, other: Cell) -> Difference | None:
    """Return how a cell differs from the baseline's.

    None where one is not known, the baseline is 0, or their carbon intensities are on different bases.
    """
    first, second = baseline.figure.value, other.figure.value
    if first is None or second is None or first == 0 or len(bases(baseline.figure) | bases(other.figure)) > 1:
        return None
    change = (second - first) / abs(first)
    interval = measured(baseline.figure, other.figure)
    exact = interval is not None and interval[0] == interval[1]
    noise = _noise(baseline, other)
    if interval is not None and not exact and interval[0] <= 0 <= interval[1]:
        return Difference(change, *_wider(interval, noise, first), "intervals")
    if not noise and (interval is None or exact):
        return Difference(change, verdict="unknown" if interval is None else "exact")
    low, high = _wider(interval or (change, change), noise, first)
    if noise and low <= 0 <= high:
        return Difference(change, low, high, "spread")
    # Where the sensors' uncertainty is not known, repeats that agree prove nothing.
    return Difference(change, verdict="unknown") if interval is None else Difference(change, low, high, "apart")


def bases(figure: Figure) -> set[str]:
    """Return the bases of the carbon intensities in a figure: one for emissions, none for energy."""
    return {assumed.factor.basis for assumed in figure.factors if assumed.factor.basis}


def _wider(interval: tuple[float, float], noise: float | None, first: float) -> tuple[float, float]:
    more = (noise or 0.0) / abs(first)
    return interval[0] - more, interval[1] + more


def measured(baseline: Figure, other: Figure) -> tuple[float, float] | None:
    """Return the interval of the change by sensors and factors alone; None where it is not known."""
    if not (baseline.terms or baseline.factors or other.terms or other.factors) and baseline.terms == other.terms == ():
        change = ((other.value or 0.0) - (baseline.value or 0.0)) / abs(baseline.value or 1.0)
        return change, change
    interval = ratio_interval(baseline, other)
    return None if interval is None else (interval[0] - 1, interval[1] - 1)


def ratio_interval(baseline: Figure, other: Figure) -> tuple[float, float] | None:
    """Return the interval of the ratio other / baseline; None where an interval of the figures is not known.

    Both figures are above 0. Never wider than what the two printed intervals allow.
    """
    if baseline.terms is None or other.terms is None or not baseline.value or not other.value:
        return None
    if not _product(baseline.factors) or not _product(other.factors):  # a price of 0, from which no figure follows
        return _overlap((baseline.low, baseline.high), (other.low, other.high))
    if baseline.terms and other.terms:
        least = most(baseline.terms, other.terms)
        interval = (1 / least if math.isfinite(least) else 0.0, most(other.terms, baseline.terms))
        interval = _within(interval, _overlap(baseline.energy, other.energy))
    else:
        bare = (other.value / _product(other.factors)) / (baseline.value / _product(baseline.factors))
        interval = (bare, bare)
    printed = _overlap((baseline.low, baseline.high), (other.low, other.high))
    if len(baseline.factors) != len(other.factors):
        return printed
    low, high = interval
    for first, second in zip(baseline.factors, other.factors, strict=True):
        if not same(first, second):
            low *= second.factor.low / first.factor.high if first.factor.high > 0 else 0.0
            high *= second.factor.high / first.factor.low if first.factor.low > 0 else math.inf
    return _within((low, high), printed)


def _within(interval: tuple[float, float], other: tuple[float, float] | None) -> tuple[float, float]:
    """Return the intersection of two intervals of one ratio; the first where it is empty."""
    if other is None:
        return interval
    low, high = max(interval[0], other[0]), min(interval[1], other[1])
    return (low, high) if low <= high else interval


def _product(factors: Sequence[Assumed]) -> float:
    return math.prod(factor.factor.value for factor in factors)


def _overlap(
    baseline: tuple[float | None, float | None] | None, other: tuple[float | None, float | None] | None
) -> tuple[float, float] | None:
    """Return the interval of the ratio of two intervals without shared terms; it contains 1 where they overlap."""
    if baseline is None or other is None:
        return None
    (low, high), (other_low, other_high) = baseline, other
    if low is None or high is None or other_low is None or other_high is None or high <= 0:
        return None
    return other_low / high, other_high / low if low > 0 else math.inf


def most(top: Sequence[Term], bottom: Sequence[Term]) -> float:
    """Return the upper bound of the ratio of the true energy of ``top`` to that of ``bottom``.

    What a sensor has only in one of them is as far off as it may be. The calibration of a sensor in both is one
    unknown: each is set to the end that makes the ratio larger. The ratio is a quotient of two linear functions of the
    calibrations, so its most lies in a corner; Dinkelbach's iteration (Management Science 13(7), 1967) finds it.
    """
    above_of, below_of = _calibrations(top), _calibrations(bottom)
    both = above_of.keys() & below_of.keys()
    upper = sum(
        term.joules + term.plus_joules + (0.0 if term.sensor in both else term.calibration_joules) for term in top
    )
    lower = sum(
        term.joules - term.minus_joules - (0.0 if term.sensor in both else term.calibration_joules) for term in bottom
    )
    calibrations = [(above_of[sensor], below_of[sensor]) for sensor in sorted(both)]
    if lower <= 0:
        return math.inf
    ratio = upper / lower
    for _ in range(ROUNDS):
        signs = [1.0 if above - ratio * below > 0 else -1.0 for above, below in calibrations]
        under = lower + sum(sign * below for sign, (_, below) in zip(signs, calibrations, strict=True))
        if under <= 0:
            return math.inf
        better = (upper + sum(sign * above for sign, (above, _) in zip(signs, calibrations, strict=True))) / under
        if math.isclose(better, ratio, rel_tol=1e-12):
            return better
        ratio = better
    return ratio


def _calibrations(terms: Sequence[Term]) -> dict[tuple[str, ...], float]:
    calibrations: dict[tuple[str, ...], float] = {}
    for term in terms:
        if term.sensor is not None:
            calibrations[term.sensor] = calibrations.get(term.sensor, 0.0) + term.calibration_joules
    return calibrations


def shared(baseline: Figure, other: Figure) -> tuple[int, int]:
    """Return how many of a figure's sensors are the baseline's too, and how many it has."""
    first = {term.sensor for term in baseline.terms or () if term.sensor}
    second = {term.sensor for term in other.terms or () if term.sensor}
    return len(first & second), len(other.terms or ())


def same(first: Assumed, second: Assumed) -> bool:
    """Return whether two runs were accounted with the same factor, so that it cancels in their ratio."""
    factor, other = first.factor, second.factor
    return first.where == second.where and (
        (factor.value, factor.low, factor.high, factor.scope, factor.code, factor.year, factor.basis)
        == (other.value, other.low, other.high, other.scope, other.code, other.year, other.basis)
    )


def _noise(baseline: Cell, other: Cell) -> float | None:
    """Return half the 95 % interval of the difference of two means; None where neither row has repeats.

    Welch's interval where both rows have repeats. Where one has, the other is taken to vary by the same share.
    """
    if baseline.spread is None and other.spread is None:
        return None
    known = next(cell for cell in (baseline, other) if cell.spread is not None)
    share = (known.spread or 0.0) / abs(known.figure.value) if known.figure.value else 0.0
    spreads = [
        cell.spread if cell.spread is not None else share * abs(cell.figure.value or 0.0) for cell in (baseline, other)
    ]
    if baseline.spread is not None and other.spread is not None:
        error, freedom = statistics.welch(spreads[0], baseline.count, spreads[1], other.count)
    else:
        error = math.hypot(spreads[0] / math.sqrt(baseline.count), spreads[1] / math.sqrt(other.count))
        freedom = known.count - 1.0
    return statistics.student_quantile(freedom) * error


# What two repeats may differ in: output paths, names, and where they report to.
NOT_CONFIGURATION = frozenset(
    {
        "output_dir", "output", "output_path", "out_dir", "logging_dir", "log_dir", "log_path", "save_dir", "save_path",
        "save_to", "checkpoint_dir", "checkpoint_path", "ckpt_dir", "default_root_dir", "run_name", "run_id", "name",
        "experiment_name", "exp_name", "job_name", "project_name", "version", "hub_model_id", "hub_token", "report_to",
        "push_to_hub", "local_rank", "resume_from_checkpoint", "trial", "trial_number", "repeat", "hostname",
    }
)  # fmt: skip
SEEDS = frozenset({"random_state", "rng", "rng_state"})


def is_seed(name: str) -> bool:
    """Tell whether a parameter seeds random numbers: seed, data_seed, np.random.seed."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "seed" in words or "seeds" in words or name.lower() in SEEDS


def groups(records: Sequence[RunRecord], labels: Sequence[str]) -> list[list[int]]:
    """Return which runs repeat one configuration, each group in the order of its runs.

    Runs are of one group if they have the same parameters, seeds and output paths apart, the same model, hardware,
    place, factors and status, and either each has a seed of its own, or their names agree but for the number of a seed,
    run or trial. A run without parameters is alone: what it was configured as is not known.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        params = configuration(record.params)
        alike[_key(record, params) if params else f"alone {index}"].append(index)
    repeats: list[list[int]] = []
    for members in alike.values():
        seeds = [json.dumps(_seeds(records[index].params), sort_keys=True, default=str) for index in members]
        runs = {(records[index].run_id, records[index].name, seed) for index, seed in zip(members, seeds, strict=True)}
        if len(runs) < len(members):  # one run more than once, copied or accounted anew
            repeats += [[index] for index in members]
            continue
        if len(members) == 1 or ("{}" not in seeds and len(set(seeds)) == len(seeds)):
            repeats.append(members)
            continue
        by_name: dict[str, list[int]] = defaultdict(list)
        for index in members:
            by_name[stem(records[index].name or labels[index])].append(index)
        repeats += by_name.values()
    return sorted(repeats)


COUNTS = re.compile(r"(?<![a-z])(seed|run|rep|repeat|trial|try)[-_ =.#]*\d*(?![a-z0-9])", re.IGNORECASE)


def stem(name: str) -> str:
    """Return a name without what counts repeats: ``base-seed2`` is ``base``; a bare number stays, as in ``gpt-2``."""
    return " ".join(re.findall(r"[a-z0-9]+", COUNTS.sub(" ", name.lower())))


def common(names: Sequence[str]) -> str:
    """Return what a group of repeats is called: what its names have in common, else the first of them."""
    bare = {COUNTS.sub("", name).strip(" -_.=#/") for name in names}
    return (min(bare) if len(bare) == 1 else "") or names[0]


def configuration(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that tell configurations apart: without seeds, output paths and names of the run."""
    return {
        name: configuration(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
        if not is_seed(name) and name.lower() not in NOT_CONFIGURATION
    }


def _seeds(params: Mapping[str, Any]) -> dict[str, Any]:
    seeds = {name: value for name, value in params.items() if is_seed(name)}
    for name, value in params.items():
        if isinstance(value, Mapping):
            seeds |= {f"{name}.{inner}": seed for inner, seed in _seeds(value).items()}
    return seeds


def _key(record: RunRecord, params: dict[str, Any]) -> str:
    place, factors = record.place, record.factors
    model = record.trainer.get("model")
    gpus: dict[str, int] = defaultdict(int)
    for device in record.devices:
        if device.kind == "gpu":
            gpus[device.name] += device.count
    assumed = [factors.carbon_intensity, factors.pue, *factors.prices.values()]
    return json.dumps(
        [
            params, model if isinstance(model, (dict, str)) else None, gpus, sorted(factors.prices), place.sku,
            place.region, place.country_iso3, place.nodes, record.status,
            record.environment.world_size, [_factor(factor) for factor in assumed],
        ],
        sort_keys=True,
        default=str,
    )  # fmt: skip


def _factor(factor: Factor | None) -> list[object]:
    return [] if factor is None else [factor.value, factor.low, factor.high, factor.scope, factor.code, factor.year]


def mean(figures: Sequence[Figure]) -> Cell:
    """Return the mean of a figure over repeats, and its sample standard deviation, over those that know it.

    The interval is the mean of the intervals: the sensors of repeats are mostly the same, so that their calibration
    does not average out.
    """
    known = [figure for figure in figures if figure.value is not None]
    count = len(known)
    if not known:
        return Cell(figures[0], 0)
    if len(figures) == 1:
        return Cell(figures[0])
    values = [figure.value or 0.0 for figure in known]
    middle = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (count - 1)) if count > 1 else None
    has_intervals = all(figure.low is not None and figure.high is not None for figure in known)
    has_terms = all(figure.terms is not None for figure in known)
    whys = [figure.why for figure in known if figure.why]
    if count < len(figures):
        whys.append(f"known of {count} of {len(figures)} repeats")
    figure = Figure(
        middle,
        math.fsum(figure.low or 0.0 for figure in known) / count if has_intervals else None,
        math.fsum(figure.high or 0.0 for figure in known) / count if has_intervals else None,
        "; ".join(dict.fromkeys(whys)),
        _merged([term.scaled(1 / count) for figure in known for term in figure.terms or ()]) if has_terms else None,
        known[0].factors,
        _mean_interval([figure.energy for figure in known]),
        any(figure.at_least for figure in known),
    )
    return Cell(figure, count, spread)


def _mean_interval(intervals: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    return math.fsum(low for low, _ in known) / len(known), math.fsum(high for _, high in known) / len(known)


def _merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Join the terms of one sensor; those of sensors that nothing identifies stay apart."""
    joined: dict[object, Term] = {}
    for index, term in enumerate(terms):
        key: object = term.sensor or index
        old = joined.get(key)
        joined[key] = term if old is None else Term(
            term.sensor, old.joules + term.joules, old.calibration_joules + term.calibration_joules,
            old.minus_joules + term.minus_joules, old.plus_joules + term.plus_joules,
        )  # fmt: skip
    return tuple(joined.values())


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> set[int]:
    """Return the indices of the points that no other point dominates.

    Args:
        points: (what it takes, what it is worth); less of the first is better.
        higher: whether more of the second is better.

    Returns:
        Those for which no other takes no more and is worth no less, and is better in one of the two. Equal points are
        both on it.
    """
    sign = 1.0 if higher else -1.0
    order = sorted(range(len(points)), key=lambda at: (points[at][0], -sign * points[at][1]))
    places: set[int] = set()
    best: tuple[float, float] | None = None
    for at in order:
        takes, worth = points[at][0], sign * points[at][1]
        if best is None or worth > best[1] or (takes, worth) == best:
            best = (takes, worth)
            places.add(at)
    return places
