"""What sinks show: one table of metrics, with the name that each kind of system gives a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from greenml.accounting.status import DeviceStatus, RunStatus

if TYPE_CHECKING:
    from greenml.record.schema import DeviceRecord, RunRecord

Values = Iterator[tuple[Mapping[str, str], float | None]]  # labels and value; None is not known


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a run.

    Attributes:
        kind: a counter only grows within a run.
        unit: of the value, as OpenTelemetry writes it.
        opentelemetry: the name with dots, without a unit.
        prometheus: the name with the unit, and ``_total`` for a counter.
        tracker: the name in experiment trackers.
        labels: names of what tells several values apart; a value's own labels may hold more.
        of_status, of_record: the values; a record holds none of what is only known now.
    """

    description: str
    kind: Literal["counter", "gauge"]
    unit: str
    opentelemetry: str
    prometheus: str
    tracker: str
    labels: tuple[str, ...]
    of_status: Callable[[RunStatus], Values]
    of_record: Callable[[RunRecord], Values]

    def values(self, of: RunStatus | RunRecord) -> Values:
        """Return the values at a moment, or those of a record."""
        return self.of_status(of) if isinstance(of, RunStatus) else self.of_record(of)

    def tracker_name(self, labels: Mapping[str, str]) -> str:
        """Return the name of one value in trackers, which have no labels: ``green/gpu_power_watts_node1_0``."""
        return "_".join([self.tracker, *(re.sub(r"\W", "_", labels[name], flags=re.ASCII) for name in self.labels)])


def tracker_figures(of: RunStatus | RunRecord) -> dict[str, float]:
    """Return all figures of a moment, or of a record, under their names in trackers; what is not known has none."""
    return {
        metric.tracker_name(labels): value
        for metric in METRICS
        for labels, value in metric.values(of)
        if value is not None and math.isfinite(value)
    }


def _run(record: RunRecord, name: str) -> Values:
    total = record.total()
    yield {}, None if total is None else getattr(total, name).value


def _cost(record: RunRecord) -> Values:
    total = record.total()
    for tier, cost in (total.cost_usd if total is not None else {}).items():
        yield {"tier": tier}, cost.value


def _live(kind: str, name: str) -> Callable[[RunStatus], Values]:
    """Return what reads a figure of every device of a kind from a status."""

    def read(status: RunStatus) -> Values:
        for device in status.devices:
            if device.kind == kind:
                yield _labels(device, device.label), getattr(device, name)

    return read


def _energy(kind: str) -> Callable[[RunRecord], Values]:
    """Return what reads the energy of every device of a kind from a record."""

    def read(record: RunRecord) -> Values:
        for device in record.devices:
            if device.kind == kind:
                yield _labels(device, device.detail.get("index", "") or device.id), device.usage.energy_joules

    return read


def _labels(device: DeviceStatus | DeviceRecord, label: str) -> dict[str, str]:
    """Return what tells a device apart: the labels that a metric names, and what OpenTelemetry asks for."""
    return {"host": device.host, device.kind: label or device.id, "id": device.id, "name": device.name}


def _nothing(_: RunRecord) -> Values:
    return iter(())


_GPU = ("host", "gpu")
_DEVICES = tuple(
    metric
    for kind, name in (("gpu", "a GPU"), ("cpu", "a CPU"), ("dram", "the DRAM of a CPU"))
    for metric in (
        Metric(
            f"Energy of {name}.", "counter", "J", "hw.energy", f"greenml_{kind}_energy_joules_total",
            f"green/{kind}_energy_joules", ("host", kind), _live(kind, "energy_joules"), _energy(kind),
        ),
        Metric(
            f"Power of {name}.", "gauge", "W", "hw.power", f"greenml_{kind}_power_watts",
            f"green/{kind}_power_watts", ("host", kind), _live(kind, "power_watts"), _nothing,
        ),
    )
)  # fmt: skip
METRICS = (
    Metric(
        "Energy of GPUs, CPUs and DRAM.", "counter", "J", "greenml.energy", "greenml_energy_joules_total",
        "green/energy_joules", (), lambda status: iter([({}, status.totals.energy_joules)]),
        lambda record: _run(record, "it_energy_joules"),
    ),
    Metric(
        "Emissions, PUE included.", "counter", "g", "greenml.co2e", "greenml_co2e_grams_total",
        "green/co2e_grams", (), lambda status: iter([({}, status.totals.emissions_grams)]),
        lambda record: _run(record, "emissions_grams"),
    ),
    Metric(
        "Cost of all nodes.", "counter", "{USD}", "greenml.cost", "greenml_cost_usd_total",
        "green/cost_usd", ("tier",),
        lambda status: (({"tier": tier}, cost) for tier, cost in status.totals.cost_usd.items()), _cost,
    ),
    Metric(
        "Billed time of all attempts.", "counter", "s", "greenml.duration", "greenml_duration_seconds_total",
        "green/seconds", (), lambda status: iter([({}, status.totals.seconds)]),
        lambda record: iter([({}, record.duration_seconds)]),
    ),
    Metric(
        "Power of GPUs, CPUs and DRAM.", "gauge", "W", "greenml.power", "greenml_power_watts",
        "green/power_watts", (), lambda status: iter([({}, status.totals.power_watts)]), _nothing,
    ),
    *_DEVICES,
    Metric(
        "Utilization of a GPU.", "gauge", "1", "hw.gpu.utilization", "greenml_gpu_utilization_ratio",
        "green/gpu_utilization_ratio", _GPU, _live("gpu", "utilization_ratio"), _nothing,
    ),
    Metric(
        "Memory used on a GPU.", "gauge", "By", "hw.gpu.memory.usage", "greenml_gpu_memory_bytes",
        "green/gpu_memory_bytes", _GPU, _live("gpu", "memory_bytes"), _nothing,
    ),
)  # fmt: skip
