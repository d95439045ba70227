"""Repeats of one configuration: which runs they are, and their mean and spread."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from greenml.analysis.comparison._columns import Figure, Term
from greenml.analysis.comparison._difference import Cell
from greenml.record import Factor, RunRecord

# What two repeats may differ in: where they wrote, what they were called, what they told whom.
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
        params = _configuration(record.params)
        alike[_key(record, params) if params else f"alone {index}"].append(index)
    found: list[list[int]] = []
    for members in alike.values():
        seeds = [json.dumps(_seeds(records[index].params), sort_keys=True, default=str) for index in members]
        runs = {(records[index].run_id, records[index].name, one) for index, one in zip(members, seeds, strict=True)}
        if len(runs) < len(members):  # one run more than once, copied or accounted anew
            found += [[index] for index in members]
            continue
        if len(members) == 1 or ("{}" not in seeds and len(set(seeds)) == len(seeds)):
            found.append(members)
            continue
        by_name: dict[str, list[int]] = defaultdict(list)
        for index in members:
            by_name[stem(records[index].name or labels[index])].append(index)
        found += by_name.values()
    return sorted(found)


COUNTS = re.compile(r"(?<![a-z])(seed|run|rep|repeat|trial|try)[-_ =.#]*\d*(?![a-z0-9])", re.IGNORECASE)


def stem(name: str) -> str:
    """Return a name without what counts repeats: ``base-seed2`` is ``base``; a bare number stays, as in ``gpt-2``."""
    return " ".join(re.findall(r"[a-z0-9]+", COUNTS.sub(" ", name.lower())))


def common(names: Sequence[str]) -> str:
    """Return what a group of repeats is called: what its names have in common, else the first of them."""
    bare = {COUNTS.sub("", name).strip(" -_.=#/") for name in names}
    return (min(bare) if len(bare) == 1 else "") or names[0]


def _configuration(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _configuration(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
        if not is_seed(name) and name.lower() not in NOT_CONFIGURATION
    }


def _seeds(params: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in params.items() if is_seed(name)}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in _seeds(value).items()}
    return found


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
            record.environment.world_size, [_factor(one) for one in assumed],
        ],
        sort_keys=True,
        default=str,
    )  # fmt: skip


def _factor(factor: Factor | None) -> list[object]:
    return [] if factor is None else [factor.value, factor.low, factor.high, factor.scope, factor.code, factor.year]


def mean(figures: Sequence[Figure]) -> Cell:
    """Return the mean of a figure over repeats, and its sample standard deviation, over those that know it.

    The band is the mean of the bands: the sensors of repeats are mostly the same ones, so their gains do not average
    out.
    """
    known = [one for one in figures if one.value is not None]
    count = len(known)
    if not known:
        return Cell(figures[0], 0)
    if len(figures) == 1:
        return Cell(figures[0])
    values = [one.value or 0.0 for one in known]
    middle = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (count - 1)) if count > 1 else None
    bands = all(one.low is not None and one.high is not None for one in known)
    told = all(one.terms is not None for one in known)
    whys = [one.why for one in known if one.why]
    if count < len(figures):
        whys.append(f"known of {count} of {len(figures)} repeats")
    figure = Figure(
        middle,
        math.fsum(one.low or 0.0 for one in known) / count if bands else None,
        math.fsum(one.high or 0.0 for one in known) / count if bands else None,
        "; ".join(dict.fromkeys(whys)),
        _merged([term.scaled(1 / count) for one in known for term in one.terms or ()]) if told else None,
        known[0].factors,
        _mean_band([one.energy for one in known]),
    )
    return Cell(figure, count, spread)


def _mean_band(bands: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [one for one in bands if one is not None]
    if len(known) < len(bands):
        return None
    return math.fsum(low for low, _ in known) / len(known), math.fsum(high for _, high in known) / len(known)


def _merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Join the terms of one sensor; those of sensors that nothing identifies stay apart."""
    joined: dict[object, Term] = {}
    for index, term in enumerate(terms):
        key: object = term.sensor or index
        old = joined.get(key)
        joined[key] = term if old is None else Term(
            term.sensor, old.joules + term.joules, old.gain_joules + term.gain_joules,
            old.minus_joules + term.minus_joules, old.plus_joules + term.plus_joules,
        )  # fmt: skip
    return tuple(joined.values())
