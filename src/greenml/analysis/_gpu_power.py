"""Estimation of the power of a training GPU from its rated power alone."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from greenml.errors import SettingsError
from greenml.factors import processors, tables
from greenml.factors.types import Sku, Source

# Share of the rated power that a busy GPU draws. 0.76: computationally intensive training on 8 H100, node power of
# 10.2 kW rated (Newkirk et al. 2025, arXiv 2506.14551). Up to 1: GPUs do reach their limit. Down to 0.5, by our
# judgement: the published run in tests/golden drew 116 W of 300 W at 57 % utilization, which lies inside.
LOAD_RATIO, LOAD_LOW, LOAD_HIGH = 0.76, 0.5, 1.0
LOAD_SOURCE = Source(
    "Empirically-Calibrated H100 Node Power Models (Newkirk et al.)", "https://arxiv.org/abs/2506.14551", "2025-06-17"
)
# Share of the time in which a kernel runs. Judged, not published: input, evaluation and saving leave it below 1.
UTILIZATION_RATIO, UTILIZATION_LOW, UTILIZATION_HIGH = 0.9, 0.5, 1.0


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU model with its rated power and what it draws when idle.

    Attributes:
        idle_from: where the idle power is from: the table's own of this model, or the median share of the others.
        rated_low_watts, rated_high_watts: of the forms that it may be; equal where its form is known.
    """

    name: str
    rated_watts: float
    idle_watts: float
    idle_from: str
    source: Source
    rated_low_watts: float | None = None
    rated_high_watts: float | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """Watts of one GPU, with the interval of what was assumed."""

    watts: float
    low: float
    high: float


def draw(card: Card, utilization_ratio: float | None = None) -> Draw:
    """Return the power of a GPU that trains.

    ``idle + (load x rated - idle) x utilization``; the intervals of load and utilization are independent and add in
    quadrature; so does the form of the card, where that is not known.

    Args:
        card: its model.
        utilization_ratio: 0 to 1; by default 0.9 (0.5 to 1).
    """
    given = utilization_ratio is not None
    busy = utilization_ratio if utilization_ratio is not None else UTILIZATION_RATIO

    def watts(load: float, utilization: float, rated_watts: float = card.rated_watts) -> float:
        return card.idle_watts + max(0.0, load * rated_watts - card.idle_watts) * utilization

    value = watts(LOAD_RATIO, busy)
    ends = (
        (LOAD_LOW, UTILIZATION_LOW, card.rated_low_watts),
        (LOAD_HIGH, UTILIZATION_HIGH, card.rated_high_watts),
    )
    sides = []
    for load, utilization, rated_watts in ends:
        by_load = watts(load, busy) - value
        by_use = 0.0 if given else watts(LOAD_RATIO, utilization) - value
        by_form = watts(LOAD_RATIO, busy, rated_watts or card.rated_watts) - value
        sides.append(math.hypot(by_load, by_use, by_form))
    return Draw(value, max(0.0, value - sides[0]), value + sides[1])


def of_sku(sku: Sku) -> Card:
    """Return the GPU of a machine size; where its form is not known, one between the forms that there are.

    Raises:
        SettingsError: the size has none, or no power of it is published.
    """
    if not sku.gpu_model:
        raise SettingsError(f"{sku.name} has no GPU; 'greenml estimate' reckons with GPUs")
    memory = f"{sku.gpu_memory_gb:g}GB" if sku.gpu_memory_gb else ""
    names = (sku.gpu_nvml_name, f"{sku.gpu_model} {memory}".strip(), sku.gpu_model)
    rows = next((rows for name in names if name and (rows := processors.gpus(name))), [])
    if rated := [row for row in rows if row["tdp_w"]]:
        return _between(rated)
    reason = f"({rows[0]['note']})" if rows and rows[0]["note"] else "in the tables"
    raise SettingsError(
        f"the rated power of {sku.name}'s {sku.gpu_model} is not known {reason}; give --gpus and --gpu-model with one "
        f"that is"
    )


def find(name: str) -> Card:
    """Return a GPU model by its name, or by words of it that mean one rated power: ``H100 PCIe``, ``V100``.

    Raises:
        SettingsError: no model has that name, or models with different rated powers do.
    """
    rows = processors.gpus(name)
    rated = [row for row in rows if row["tdp_w"]]
    if rows and not rated:
        raise SettingsError(f"no power of {rows[0]['gpu_model']} is published; give a GPU whose power is")
    if not rows:
        raise SettingsError(f"unknown GPU model {name!r}; give one as nvidia-smi names it: 'NVIDIA H100 80GB HBM3'")
    if len({float(row["tdp_w"]) for row in rated}) > 1:
        names = ", ".join(f"{row['gpu_model']} ({float(row['tdp_w']):g} W)" for row in rated[:6])
        raise SettingsError(f"GPU model {name!r} may be {names}; name one of them")
    return _between(rated[:1])


def _between(rows: list[tables.Row]) -> Card:
    """Return one GPU for the variants that a name may mean: their middle rated power, the lowest and the highest."""
    powers = [float(row["tdp_w"]) for row in rows]
    rated = (min(powers) + max(powers)) / 2
    table_idle = tables.number(rows[0]["idle_w"]) if len(rows) == 1 else None
    idle_from = (
        f"{idle_ratio():.1%} of the rated power, the table's median"
        if table_idle is None
        else "of this model, in the table"
    )
    forms = " or ".join(row["gpu_model"] for row in rows)
    return Card(
        name=forms,
        rated_watts=rated,
        idle_watts=idle_ratio() * rated if table_idle is None else table_idle,
        idle_from=idle_from,
        source=tables.source(rows[0]["source"], rows[0]["source_date"]),
        rated_low_watts=min(powers),
        rated_high_watts=max(powers),
    )


def idle_ratio() -> float:
    """Return the median share of the rated power that the table's GPUs draw when idle."""
    return statistics.median(
        float(row["idle_w"]) / float(row["tdp_w"]) for row in tables.rows("gpus") if row["idle_w"] and row["tdp_w"]
    )
