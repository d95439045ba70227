"""Estimation of the power of a training GPU from its rated power alone, or from that of its class."""

from __future__ import annotations

import math
import re
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
# An accelerator whose maker publishes no power takes the watts a TFLOPS of those of about its year. Left out one by
# one, 45 of the table's 60 lie in the interval that the others give them.
CLASS_YEARS = 2
_OTHER_CLASSES = re.compile(r"GeForce|RTX|Quadro|TITAN|Radeon (Pro|RX)|Arc|Jetson|Laptop")


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU model with its rated power and what it draws when idle.

    Attributes:
        idle_from: where the idle power is from: the table's own of this model, or the median share of the others.
        rated_low_watts, rated_high_watts: of the forms that it may be, or of its class; equal where it is known.
        rated_from: in words, where the rated power is not that of one model; else empty.
    """

    name: str
    rated_watts: float
    idle_watts: float
    idle_from: str
    source: Source
    rated_low_watts: float | None = None
    rated_high_watts: float | None = None
    rated_from: str = ""


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

    Where no power of it is published, it takes that of its class.

    Raises:
        SettingsError: the size has none, or the tables do not know it.
    """
    if not sku.gpu_model:
        raise SettingsError(f"{sku.name} has no GPU; 'greenml estimate' reckons with GPUs")
    memory = f"{sku.gpu_memory_gb:g}GB" if sku.gpu_memory_gb else ""
    names = (sku.gpu_nvml_name, f"{sku.gpu_model} {memory}".strip(), sku.gpu_model)
    rows = next((rows for name in names if name and (rows := processors.gpus(name))), [])
    if rated := [row for row in rows if row["tdp_w"]]:
        return _between(rated)
    if rows:
        return of_class(rows[0])
    raise SettingsError(
        f"{sku.name}'s {sku.gpu_model} is not in the tables; give --gpus and --gpu-model with one that is"
    )


def find(name: str) -> Card:
    """Return a GPU model by its name, or by words of it that mean one rated power: ``H100 PCIe``, ``V100``.

    Raises:
        SettingsError: no model has that name, or models with different rated powers do.
    """
    rows = processors.gpus(name)
    rated = [row for row in rows if row["tdp_w"]]
    if rows and not rated:
        return of_class(rows[0])
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
    spread = f"{min(powers):g} to {max(powers):g} W, as its form is not known" if min(powers) < max(powers) else ""
    return Card(
        name=forms,
        rated_watts=rated,
        idle_watts=idle_ratio() * rated if table_idle is None else table_idle,
        idle_from=idle_from,
        source=tables.source(rows[0]["source"], rows[0]["source_date"]),
        rated_low_watts=min(powers),
        rated_high_watts=max(powers),
        rated_from=spread,
    )


def of_class(row: tables.Row) -> Card:
    """Return an accelerator of the table as if no power of it were published, rated as others of its class.

    Its dense 16-bit TFLOPS times the watts a TFLOPS of the accelerators launched within two years of it: their median,
    from the 10th to the 90th percentile. Where its TFLOPS are not published either, their watts themselves.
    """
    year, own = int(row["launch_year"]), _tflops(row)
    peers = [
        other
        for other in tables.rows("gpus")
        if other is not row
        and other["tdp_w"]
        and _tflops(other)
        and abs(int(other["launch_year"]) - year) <= CLASS_YEARS
        and not _OTHER_CLASSES.search(other["gpu_model"])
    ]
    watts = [float(other["tdp_w"]) / (_tflops(other) or 1.0 if own else 1.0) * (own or 1.0) for other in peers]
    deciles = statistics.quantiles(watts, n=10, method="inclusive")
    rated, low, high = statistics.median(watts), deciles[0], deciles[-1]
    years = f"{year - CLASS_YEARS} to {year + CLASS_YEARS}"
    how = f"its {own:g} TFLOPS x the watts a TFLOPS" if own else "the watts"
    return Card(
        name=row["gpu_model"],
        rated_watts=rated,
        idle_watts=idle_ratio() * rated,
        idle_from=f"{idle_ratio():.1%} of the rated power, the table's median",
        source=tables.source(row["source"], row["source_date"]),
        rated_low_watts=low,
        rated_high_watts=high,
        rated_from=(
            f"{low:.0f} to {high:.0f} W: {row['note'] or 'no power of it is published'}, so {how} of {len(peers)} "
            f"accelerators of {years}, median and 10th to 90th percentile"
        ),
    )


def _tflops(row: tables.Row) -> float | None:
    """Return the dense BF16 TFLOPS of an accelerator, else its FP16 ones; None where not known."""
    return tables.number(row["bf16_tensor_dense_tflops"]) or tables.number(row["fp16_tensor_dense_tflops"])


def idle_ratio() -> float:
    """Return the median share of the rated power that the table's GPUs draw when idle."""
    return statistics.median(
        float(row["idle_w"]) / float(row["tdp_w"]) for row in tables.rows("gpus") if row["idle_w"] and row["tdp_w"]
    )
