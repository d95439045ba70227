"""What a GPU draws while it trains, from its rated power alone."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

from greenml import tables
from greenml.errors import SettingsError
from greenml.facts import Sku, Source

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
    """

    name: str
    rated_watts: float
    idle_watts: float
    idle_from: str
    source: Source


@dataclass(frozen=True, slots=True)
class Draw:
    """Watts of one GPU, with the band of what was assumed."""

    watts: float
    low: float
    high: float


def draw(card: Card, utilization_ratio: float | None = None) -> Draw:
    """Return the power of a GPU that trains.

    ``idle + (load x rated - idle) x utilization``; the bands of load and utilization are independent and add in
    quadrature.

    Args:
        card: its model.
        utilization_ratio: 0 to 1; by default 0.9 (0.5 to 1).
    """
    given = utilization_ratio is not None
    busy = utilization_ratio if utilization_ratio is not None else UTILIZATION_RATIO

    def watts(load: float, utilization: float) -> float:
        return card.idle_watts + max(0.0, load * card.rated_watts - card.idle_watts) * utilization

    value = watts(LOAD_RATIO, busy)
    sides = []
    for load, utilization in ((LOAD_LOW, UTILIZATION_LOW), (LOAD_HIGH, UTILIZATION_HIGH)):
        by_load = watts(load, busy) - value
        by_use = 0.0 if given else watts(LOAD_RATIO, utilization) - value
        sides.append((by_load**2 + by_use**2) ** 0.5)
    return Draw(value, max(0.0, value - sides[0]), value + sides[1])


def of_sku(sku: Sku) -> Card:
    """Return the GPU of a machine size.

    Raises:
        SettingsError: the size has none, or the table does not know its rated power.
    """
    if not sku.gpu_model:
        raise SettingsError(f"{sku.name} has no GPU; 'greenml estimate' reckons with GPUs")
    rows = tables.rows("skus")
    name = next((row["gpu_nvml_name"] for row in rows if (row["cloud"], row["sku"]) == (sku.cloud, sku.name)), "")
    memory = f"{sku.gpu_memory_gb:g}GB" if sku.gpu_memory_gb else ""
    for one in filter(None, (name, f"{sku.gpu_model} {memory}".strip(), sku.gpu_model)):
        try:
            return find(one)
        except SettingsError:
            continue
    raise SettingsError(
        f"the rated power of {sku.name}'s {sku.gpu_model} is not in the tables; give --gpus and --gpu-model with one "
        f"that is"
    )


def find(name: str) -> Card:
    """Return a GPU model by its name, or by words of it that mean one rated power: ``H100 PCIe``, ``V100``.

    Raises:
        SettingsError: no model has that name, or models with different rated powers do.
    """
    rows = [row for row in tables.rows("gpus") if row["tdp_w"]]
    wanted = _words(name)
    exact = [
        row for row in rows if wanted in [_words(one) for one in (row["gpu_model"], *row["alias"].split(";")) if one]
    ]
    found = exact or [row for row in rows if wanted and wanted <= _words(row["gpu_model"])]
    rated = sorted({float(row["tdp_w"]) for row in found})
    if not found:
        raise SettingsError(f"unknown GPU model {name!r}; give one as nvidia-smi names it: 'NVIDIA H100 80GB HBM3'")
    if len(rated) > 1:
        names = ", ".join(f"{row['gpu_model']} ({float(row['tdp_w']):g} W)" for row in found[:6])
        raise SettingsError(f"GPU model {name!r} may be {names}; name one of them")
    return _card(found[0])


def _words(name: str) -> frozenset[str]:
    plain = re.sub(r"\b(nvidia|tesla|geforce|quadro|amd|instinct)\b", " ", name.lower())
    return frozenset(re.findall(r"[a-z0-9]+", plain))


def _card(row: tables.Row) -> Card:
    rated, idle = float(row["tdp_w"]), tables.number(row["idle_w"])
    told = (
        "of this model, in the table"
        if idle is not None
        else f"{idle_ratio():.1%} of the rated power, the table's median"
    )
    return Card(
        name=row["gpu_model"],
        rated_watts=rated,
        idle_watts=idle if idle is not None else idle_ratio() * rated,
        idle_from=told,
        source=tables.source(row["source"], row["source_date"]),
    )


def idle_ratio() -> float:
    """Return the median share of the rated power that the table's GPUs draw when idle."""
    return statistics.median(float(row["idle_w"]) / float(row["tdp_w"]) for row in tables.rows("gpus") if row["idle_w"])
