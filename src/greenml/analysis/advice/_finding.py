"""What a rule of the advice says: a finding with its evidence and what it may save, or why it stays silent."""

from __future__ import annotations

from dataclasses import dataclass

from greenml.record import DeviceRecord, RunRecord, Series, Usage
from greenml.units import SECONDS_PER_HOUR

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Saving:
    """What would be saved, from the least to the most; negative is spent. None: not known, or nothing."""

    joules: Range | None = None
    grams: Range | None = None
    usd: Range | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to change.

    Attributes:
        rule: its name.
        title: what to do, in a few words.
        evidence: what was seen in this run.
        advice: how to do it.
        saving: what it may save of this run.
        assumes: what the saving rests on.
        source: whose rule or figure it is.
        share, share_of: the largest of the shares of the run's energy, carbon and cost that it may save, in the
            middle of its range, and of which; findings are ordered by it.
    """

    rule: str
    title: str
    evidence: tuple[str, ...]
    advice: str
    saving: Saving
    assumes: tuple[str, ...]
    source: str
    share: float = 0.0
    share_of: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """Why a rule has nothing to say of a run."""

    rule: str
    why: str


def saving(record: RunRecord, joules: Range | None, seconds: Range | None) -> Saving:
    """Return what less energy and less time save, with the factors of the record.

    Args:
        record: accounted.
        joules: of IT energy.
        seconds: of the whole machine.
    """
    total = record.total()
    grams = usd = None
    if total is not None and joules is not None:
        whole, emitted = total.it_energy_joules.value, total.emissions_grams.value
        if whole and emitted is not None:
            grams = (joules[0] * emitted / whole, joules[1] * emitted / whole)
    price = record.factors.prices.get(tier(record))
    if price is not None and seconds is not None:
        hourly = price.value * record.place.nodes / SECONDS_PER_HOUR
        usd = (seconds[0] * hourly, seconds[1] * hourly)
    return Saving(joules, grams, usd)


def share(record: RunRecord, saved: Saving) -> tuple[float, str]:
    """Return the largest share that a saving is, in the middle of its range, and of what: energy, carbon or cost."""
    total = record.total()
    if total is None:
        return 0.0, ""
    cost = total.cost_usd.get(tier(record))
    pairs = (
        (saved.usd, cost.value if cost is not None else None, "cost"),
        (saved.grams, total.emissions_grams.value, "carbon"),
        (saved.joules, total.it_energy_joules.value, "energy"),
    )
    shares = [(sum(part) / 2 / whole, name) for part, whole, name in pairs if part is not None and whole]
    return max(shares, key=lambda one: one[0], default=(0.0, ""))


def tier(record: RunRecord) -> str:
    """Return the tier that the run was paid in; dedicated where nothing tells."""
    return record.place.tier or "dedicated"


def gpus(record: RunRecord) -> list[DeviceRecord]:
    """Return the GPUs that were measured here; figures that another tool summed up are none."""
    return [one for one in record.devices if one.kind == "gpu" and one.method in ("counter", "gauge")]


def train_path(record: RunRecord) -> str:
    """Return the path of the training phase; empty where there is none."""
    return record.training_path


def in_training(record: RunRecord) -> tuple[float, dict[str, Usage]]:
    """Return the seconds of training and what each device did in them; of the whole run where no phase tells."""
    phase = record.phase(train_path(record))
    if phase is not None and phase.seconds > 0:
        return phase.seconds, phase.usage
    return record.duration_seconds, {one.id: one.usage for one in record.devices}


def mean(values: list[float]) -> float | None:
    """Return the mean; None of nothing."""
    return sum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class Bin:
    """A step of the timeline.

    Attributes:
        start, end: seconds of the run.
        watts, busy: of each GPU, None where it was not read.
        cpu: busy share of the hosts' CPUs; None where it was not read.
        process: of the run's own processes.
        training: the middle of it lies in the training phase, or there is no such phase.
    """

    start: float
    end: float
    watts: tuple[float | None, ...]
    busy: tuple[float | None, ...]
    cpu: float | None
    process: float | None
    training: bool

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start

    @property
    def gpu_busy(self) -> float | None:
        """Mean utilization over the GPUs that were read."""
        return mean([one for one in self.busy if one is not None])


def bins(record: RunRecord) -> list[Bin]:
    """Return the timeline with the GPUs' utilization; empty where no GPU's was read over time."""
    line = record.timeline
    if line is None:
        return []
    series = {one.device: one for one in line.series}
    cards = [series[one.id] for one in gpus(record) if one.id in series and series[one.id].utilization_ratio]
    if not cards:
        return []
    kinds = {
        kind: [series[one.id] for one in record.devices if one.kind == kind and one.id in series]
        for kind in ("host", "process")
    }
    phase = record.phase(train_path(record))
    spans = phase.spans if phase is not None and phase.count <= len(phase.spans) else None
    made = []
    for at in range(line.bins):
        start, end = at * line.step_seconds, min((at + 1) * line.step_seconds, record.duration_seconds)
        middle = (start + end) / 2
        made.append(
            Bin(
                start,
                end,
                tuple(_at(one.power_watts, at) for one in cards),
                tuple(_at(one.utilization_ratio, at) for one in cards),
                _mean_at(kinds["host"], at),
                _mean_at(kinds["process"], at),
                spans is None or any(begin <= middle < stop for begin, stop in spans),
            )
        )
    return made


def _at(values: list[float | None], at: int) -> float | None:
    return values[at] if at < len(values) else None


def _mean_at(series: list[Series], at: int) -> float | None:
    return mean([value for one in series if (value := _at(one.utilization_ratio, at)) is not None])
