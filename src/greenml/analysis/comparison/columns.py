"""Columns of a comparison: their figures, how these are read from a record, and the metrics of the runs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from greenml.errors import SettingsError, nearest
from greenml.record.schema import DeviceRecord, Factor, Quantity, RunRecord, Totals, Usage
from greenml.reports import _figures, _format

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
        quantity = _figures.quantities(record).get(self.name)
        value = quantity.value if quantity is not None else None
        return Figure(value, why="" if value is not None else "not measured")


@dataclass(frozen=True, slots=True)
class _Cost:
    tier: str

    def __call__(self, record: RunRecord) -> Figure:
        price = record.factors.prices.get(self.tier)
        quantity = _figures.quantities(record).get(f"cost_{self.tier}_usd")
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
