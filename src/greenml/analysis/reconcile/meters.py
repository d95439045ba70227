"""Other meters of the same machine: their files, as curves of joules or as single figures.

A meter is named ``KIND:PATH``, with options after commas: ``csv:pdu.csv,boundary=node-ac,accuracy=1%,lag=5s``.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from greenml.errors import RecordError, SettingsError, did_you_mean, nearest
from greenml.record.importers import ZONE_DOUBT, azure_monitor, codecarbon, impact_tracker
from greenml.record.importers._part import Part, csv_rows, read_json, read_text
from greenml.record.schema import RunRecord
from greenml.redaction import redact_text
from greenml.units import JOULES_PER_KWH

Curve = tuple[tuple[float, float], ...]  # (unix seconds, joules since the first), in time order
Boundary = Literal["gpu", "devices", "module", "node-dc", "node-ac", "facility"]
# What lies inside, from the smallest to the largest.
BOUNDARIES: dict[str, str] = {
    "gpu": "the GPUs",
    "devices": "GPUs, CPUs and memory",
    "module": "superchip modules: GPU, CPU and memory",
    "node-dc": "the whole node behind its power supplies: fans, boards, network and disks too",
    "node-ac": "the whole node before its power supplies: their losses too",
    "facility": "the facility: cooling and distribution too",
}
OPTIONS = ("boundary", "accuracy", "lag", "exclusive", "run", "query", "column", "region")
NO_VALUE, NO_VALUE_OF_64_BITS = 2**63, 2**64 - 2  # Slurm's "not set" and above: of what fits there, of energy
LAST_SECONDS = 253_402_300_799.0  # the end of the year 9999: what is later is no date
GAP_STEPS = 5  # a stretch without a sample is a gap from this many steps on


@dataclass(frozen=True, slots=True)
class Meter:
    """What another meter tells.

    Attributes:
        name: of the meter, for a reader.
        boundary: None where its file does not tell and the user did not.
        start, end: unix seconds of its figure, or of its first and last sample.
        joules: the figure; None for a curve.
        curve: (unix seconds, joules since the first) in time order; empty for a figure.
        counter: the curve is that of a counter, exact across gaps; else of integrated power.
        step_seconds: between two samples, the median.
        accuracy_ratio: of the meter (95 %), as the user or its maker states it; None: not stated.
        shared: why it may hold the energy of others, else empty.
        why: why it has no figure, else empty.
        lag_seconds: by which its clock was found to be late, and which is allowed for.
        windowed: the figure is of the run's own time, wherever the window of the question lies.
        clock_doubt_seconds: by which its times may be off: a zone that its file does not tell.
        sensor: what a record calls the devices that were imported from it.
        covered_seconds: of the figure, where it leaves out pauses between start and end; None: all.
    """

    name: str
    boundary: str | None
    start: float
    end: float
    joules: float | None = None
    curve: Curve = ()
    counter: bool = False
    step_seconds: float = 0.0
    accuracy_ratio: float | None = None
    shared: str = ""
    why: str = ""
    lag_seconds: float = 0.0
    windowed: bool = False
    clock_doubt_seconds: float = 0.0
    sensor: str = ""
    covered_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """How long its figure is of: from start to end, unless there were pauses."""
        return self.end - self.start if self.covered_seconds is None else self.covered_seconds


@dataclass(frozen=True, slots=True)
class Specification:
    """A meter as the user named it."""

    kind: str
    path: str
    options: Mapping[str, str]

    @property
    def boundary(self) -> str | None:
        """What the user says that it measures."""
        return self.options.get("boundary")


def specification(text: str) -> Specification:
    """Read ``KIND:PATH,option=value``.

    Raises:
        SettingsError: there is no such kind or option, or its value is wrong.
    """
    kind, sign, rest = text.partition(":")
    if not sign or kind not in READERS:
        hint = did_you_mean(nearest(kind, READERS, 1)) or f"; there are {', '.join(READERS)}"
        raise SettingsError(f"--with {text}: write KIND:PATH; there is no kind {kind!r}{hint}")
    options: dict[str, str] = {}
    while match := re.fullmatch(r"(.*),(\w+)=([^,]*)", rest):
        rest, name, value = match.groups()
        if name not in OPTIONS:
            hint = did_you_mean(nearest(name, OPTIONS, 1)) or f"; there are {', '.join(OPTIONS)}"
            raise SettingsError(f"--with {text}: there is no option {name!r}{hint}")
        options[name] = value
    boundary = options.get("boundary")
    if boundary is not None and boundary not in BOUNDARIES:
        hint = did_you_mean(nearest(boundary, BOUNDARIES, 1)) or f"; there are {', '.join(BOUNDARIES)}"
        raise SettingsError(f"--with {text}: there is no boundary {boundary!r}{hint}")
    _ratio(options.get("accuracy"), text)
    _seconds(options.get("lag"), text)
    return Specification(kind, rest, options)


def _ratio(text: str | None, where: str) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if not match:
        raise SettingsError(f"--with {where}: accuracy is in percent of the reading: accuracy=1%")
    return float(match[1]) / 100


def _seconds(text: str | None, where: str) -> float:
    if text is None:
        return 0.0
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*s?", text.strip())
    if not match:
        raise SettingsError(f"--with {where}: lag is in seconds that the meter is late: lag=5s")
    return float(match[1])


def read(text: str, records: Sequence[RunRecord]) -> list[Meter]:
    """Read a meter; one file may hold several, such as the GPUs alone and all devices.

    Raises:
        SettingsError: it is named wrongly.
        RecordError: its file is not what it should be.
    """
    spec = specification(text)
    lag, accuracy = _seconds(spec.options.get("lag"), text), _ratio(spec.options.get("accuracy"), text)
    sensor = {"azure": "azure_monitor", "codecarbon": "codecarbon", "impact-tracker": "impact_tracker"}.get(
        spec.kind, ""
    )
    made = []
    for meter in READERS[spec.kind](spec, records):
        if not 0 <= meter.start <= meter.end <= LAST_SECONDS:
            raise RecordError(f"{_public(spec.path)}: its times are no dates, or in the wrong order")
        made.append(
            replace(
                shifted(meter, lag), boundary=spec.boundary or meter.boundary, sensor=sensor,
                accuracy_ratio=meter.accuracy_ratio if accuracy is None else accuracy,
            )
        )  # fmt: skip
    return made


def shifted(meter: Meter, lag_seconds: float) -> Meter:
    """Return a meter whose clock was late by so much, with its times put right."""
    curve = tuple((at - lag_seconds, joules) for at, joules in meter.curve)
    return replace(meter, curve=curve, start=meter.start - lag_seconds, end=meter.end - lag_seconds)


def integrated(samples: Sequence[tuple[float, float]]) -> Curve:
    """Return the curve of joules of (unix seconds, watts), by the trapezoid rule; times that go back are left out."""
    curve: list[tuple[float, float]] = []
    joules, before = 0.0, None
    for at, watts in samples:
        if before is not None:
            if at <= before[0]:
                continue
            joules += (watts + before[1]) / 2 * (at - before[0])
        curve.append((at, joules))
        before = at, watts
    return tuple(curve)


def counted(samples: Sequence[tuple[float, float]]) -> Curve:
    """Return the curve of a counter's (unix seconds, joules); one that falls was reset, and goes on from 0.

    A 0 after which it goes on as if nothing had been was no reset, but no reading.
    """
    curve: list[tuple[float, float]] = []
    joules, before = 0.0, None
    followed = [0.0] * len(samples)  # by which value that is not 0, after each sample
    for index in range(len(samples) - 2, -1, -1):
        followed[index] = samples[index + 1][1] or followed[index + 1]
    for (at, value), after in zip(samples, followed, strict=True):
        if not value and before is not None and after >= before[1] > 0:
            continue
        if before is not None:
            if at <= before[0]:
                continue
            joules += value - before[1] if value >= before[1] else value
        curve.append((at, joules))
        before = at, value
    return tuple(curve)


def step(times: Sequence[float]) -> float:
    """Return the median time between two samples."""
    return statistics.median(after - before for before, after in pairwise(times)) if len(times) > 1 else 0.0


def _of_curve(
    name: str, boundary: str | None, curves: Sequence[Curve], *, counter: bool, path: object, shared: str = ""
) -> Meter:
    """Add curves, at the times that one of them has and all of them cover.

    Raises:
        RecordError: there are not two such times.
    """
    steps = [step([at for at, _ in curve]) for curve in curves]
    gaps = [
        (before, after)
        for curve, each in zip(curves, steps, strict=True)
        for (before, _), (after, _) in pairwise(curve)
        if after - before > GAP_STEPS * each
    ]
    start = max((curve[0][0] for curve in curves if curve), default=0.0)
    end = min((curve[-1][0] for curve in curves if curve), default=0.0)
    times = sorted({at for curve in curves for at, _ in curve if start <= at <= end})
    if len(curves) > 1:  # no other curve's samples fill the gap of one
        times = [at for at in times if not any(before < at < after for before, after in gaps)]
    if len(times) < 2 or not all(curves):
        raise RecordError(f"{path}: fewer than two samples: no energy follows from them")
    together = tuple((at, math.fsum(value_at(curve, at) for curve in curves)) for at in times)
    return Meter(
        name, boundary, times[0], times[-1], curve=together, counter=counter, step_seconds=max(steps), shared=shared
    )


def _codecarbon(spec: Specification, records: Sequence[RunRecord]) -> list[Meter]:
    path = Path(spec.path)
    part = codecarbon.load(path, spec.options.get("run"))
    if not part.phases:
        raise RecordError(f"{path}: the row covers no time")
    row, usages = part.reported[0].row, part.phases[0].usage
    total = float(row["energy_consumed"]) * JOULES_PER_KWH / codecarbon.pue(row, str(path))
    gpu = next((usage for key, usage in usages.items() if key.endswith("gpu")), None)
    why = next((usage.why for usage in usages.values() if usage.energy_joules is None), "")
    if not total:
        why = "CodeCarbon wrote 0: it could not read its devices"
    if usages and gpu is None and any(device.kind == "gpu" for record in records for device in record.devices):
        why = "CodeCarbon counted no GPU, the record has one"
    doubt = ZONE_DOUBT.total_seconds()
    made = [_figure("CodeCarbon, all that it counts", "devices", part, None if why else total, why=why, doubt=doubt)]
    if gpu is not None:
        made.insert(0, _figure("CodeCarbon, GPUs", "gpu", part, gpu.energy_joules, why=gpu.why, doubt=doubt))
    return made


def _figure(name: str, boundary: str, part: Part, joules: float | None, *, why: str = "", doubt: float = 0.0) -> Meter:
    if part.started is None or part.ended is None:
        raise RecordError(f"{name}: nothing tells when it measured")
    return Meter(
        name, boundary, part.started.timestamp(), part.ended.timestamp(), joules=joules, windowed=part.is_of_one_run,
        why=why, clock_doubt_seconds=doubt,
    )  # fmt: skip


def _azure(spec: Specification, records: Sequence[RunRecord]) -> list[Meter]:
    named = spec.path.lower().startswith("/subscriptions/")
    part = (
        azure_monitor.read([(spec.path, _asked_azure(spec, records))])
        if named
        else azure_monitor.load([Path(spec.path)])
    )
    gpus = [
        device.usage for device in part.devices if device.kind == "gpu"
    ]  # one an instance, where they are told apart
    known = [usage.energy_joules for usage in gpus if usage.energy_joules is not None]
    if not known:
        raise RecordError(f"{spec.path}: no {azure_monitor.ENERGY} in it")
    why = next((usage.why for usage in gpus if usage.energy_joules is None), "")
    joules = None if why else math.fsum(known)
    return [_figure("Azure Monitor, GpuEnergyJoules", "gpu", part, joules, why=why)]


def _asked_azure(spec: Specification, records: Sequence[RunRecord]) -> dict[str, Any]:
    from greenml.record.importers import azure_monitor

    run = spec.options.get("run") or next(
        (name for record in records if (name := record.environment.jobs.get("azureml_run"))), None
    )
    places = [record.place for record in records if record.place.cloud == "azure" and record.place.region]
    region = spec.options.get("region") or next((place.region for place in places), None)
    if run is None or region is None:
        raise SettingsError(
            "--with azure:/subscriptions/...: the record does not tell both: give run=ID of Azure ML, and the region "
            "of the workspace, region=westus2"
        )
    windows = [window for record in records for window in record.windows]
    start, end = min(start for start, _ in windows), max(end for _, end in windows)
    return azure_monitor.ask(azure_monitor.client(region), spec.path, run, start, end)


def _impact_tracker(spec: Specification, _: Sequence[RunRecord]) -> list[Meter]:
    part = impact_tracker.load(Path(spec.path))
    made = []
    gpu = next((device.usage for device in part.devices if device.kind == "gpu"), None)
    if gpu is not None and gpu.energy_joules is not None:
        made.append(_figure("experiment-impact-tracker, GPUs", "gpu", part, gpu.energy_joules))
    energies = [device.usage.energy_joules for device in part.devices]
    known = [joules for joules in energies if joules is not None]
    if known and len(known) == len(energies):
        made.append(_figure("experiment-impact-tracker, all", "devices", part, math.fsum(known)))
    if not made:
        raise RecordError(f"{spec.path}: no energy in it")
    return made


@dataclass(frozen=True, slots=True)
class _Step:
    """What sacct tells of a job (no name) or of one of its steps; None is not told."""

    name: str
    joules: float | None
    start: float
    end: float
    nodes: int | None


Attempts = list[list[_Step]]  # of one job: the rows of each; a requeued job has several


def _sacct(spec: Specification, records: Sequence[RunRecord]) -> list[Meter]:
    """Read ``sacct --json`` or ``sacct -P -D -o JobIDRaw,ConsumedEnergyRaw,Start,End,NNodes``."""
    path = Path(spec.path)
    text = read_text(path)
    is_json = text.lstrip().startswith("{")
    jobs, zoned = (_sacct_json(path), True) if is_json else _sacct_rows(path, text)
    named = list(dict.fromkeys(job for record in records if (job := record.environment.jobs.get("slurm_job"))))
    if len(named) > 1 and "run" not in spec.options:
        raise RecordError(f"{path}: the records are of jobs {', '.join(named)}: hold each against its own")
    wanted = spec.options.get("run") or next(iter(named), None)
    if wanted is None and len(jobs) == 1:
        wanted = next(iter(jobs))
    if wanted not in jobs:
        which = "the record names no Slurm job" if wanted is None else f"no job {wanted} in it"
        raise RecordError(f"{path}: {which}; it holds {', '.join(list(jobs)[:5])}; name one with run=ID")
    hosts = {host.name for record in records for host in record.hosts}
    told = jobs[wanted]
    attempts = [
        _whole_job(rows, len(hosts))
        for rows in told
        if len(told) == 1 or rows[0].end != rows[0].start or not rows[0].end
    ]  # without those that ended in the second in which they began
    steps, why = [step for step, _ in attempts], next((why for _, why in attempts if why), "")
    restarts = max((_restarts(record) for record in records), default=0)
    if not why and len(told) <= restarts:
        why = (
            f"the record is of {restarts + 1} attempts, {path.name} has {len(told)}: print all, with sacct -D or --json"
        )
    why = why or ("" if steps else "the job lasted less than a second")
    shared = "" if _exclusive(spec) else "Slurm counts the whole node: say exclusive=yes if the job had it alone"
    steps = steps or told[-1][:1]
    start = min(step.start for step in steps)
    return [
        Meter(
            f"Slurm job {wanted}, ConsumedEnergy", None, start, max(start, *(step.end for step in steps)),
            joules=None if why else math.fsum(step.joules or 0.0 for step in steps), shared=shared, why=why,
            clock_doubt_seconds=0.0 if zoned else ZONE_DOUBT.total_seconds(),
            covered_seconds=math.fsum(max(0.0, step.end - step.start) for step in steps),
        )
    ]  # fmt: skip


def _exclusive(spec: Specification) -> bool:
    return spec.options.get("exclusive", "").lower() in {"yes", "true", "1"}


def _restarts(record: RunRecord) -> int:
    text = str(record.environment.jobs.get("slurm_restarts") or "")
    return int(text) if text.isdecimal() and len(text) < MOST_DIGITS else 0


def _whole_job(rows: Sequence[_Step], hosts: int) -> tuple[_Step, str]:
    """Return the step whose energy is that of the job (or of an attempt of it), and why there is none.

    Each step counts its nodes whole, so that a sum may count twice. The job's own row has the extern step's energy,
    else the sum of what srun started, without the batch script; where that is nothing, it is empty. The extern step
    spans the job on all of its nodes, the batch step on the first node alone.

    Source: what Slurm 22.05 wrote of such jobs, tests/data/sacct.
    """
    nodes = max((row.nodes for row in rows if row.nodes), default=hosts)
    steps: dict[str, list[_Step]] = {"extern": [], "batch": [], "": []}
    numbered: list[_Step] = []
    for row in rows:
        if row.joules:
            steps.get(row.name, numbered).append(row)
    whole = steps["extern"] or (steps["batch"] if nodes <= 1 else [])
    whole = whole or ([row for row in numbered if nodes <= 1 or row.nodes == nodes] if len(numbered) == 1 else [])
    reasons = (
        (all(row.end <= row.start for row in rows), "the job has not ended"),
        (any((row.joules or 0.0) < 0 for row in rows),
         "a node's counter was set back while the job ran: Slurm's figure is below 0"),
        (not any(row.joules for row in rows),
         "Slurm gathered no energy: AcctGatherEnergyType is not set on this cluster"),
        (hosts > nodes,
         f"the run was on {hosts} hosts, the job on {nodes}: a heterogeneous job is several in sacct"),
        (not (steps["extern"] or steps["batch"] or numbered),
         "the job's own row may add up steps that ran side by side: print them, too (without -X)"),
        (not whole, f"none of the job's steps is known to span its {nodes} nodes and its time: print NNodes, too"),
    )  # fmt: skip
    why = next((words for applies, words in reasons if applies), "")
    return (rows[0] if why else whole[0]), why


def _slurm_number(value: object) -> float | None:
    """Return a number of Slurm's JSON: plain, or {"set": true, "infinite": false, "number": 5}; None: not set."""
    if isinstance(value, dict):
        return _slurm_number(value.get("number")) if value.get("set") and not value.get("infinite") else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < NO_VALUE else None


def _slurm_energy(value: object) -> float | None:
    """Return joules, below 0 where 64 bits hold the difference of a counter that fell; None: not set."""
    if isinstance(value, dict):
        return _slurm_energy(value.get("number")) if value.get("set") and not value.get("infinite") else None
    if isinstance(value, int) and NO_VALUE <= value < NO_VALUE_OF_64_BITS:
        return float(value - 2**64)
    return _slurm_number(value)


def _inner(content: object, *names: str) -> object:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _sacct_json(path: Path) -> dict[str, Attempts]:
    """Read each job's attempts.

    Raises:
        RecordError: it is not of sacct, or its energies may be those of others, since they have 32 bits.
    """
    content = read_json(path)
    is_narrow = str(_inner(content, "meta", "plugin", "type") or "").startswith(NARROW)
    jobs: dict[str, Attempts] = {}
    listed = content.get("jobs")
    for job in listed if isinstance(listed, list) else []:
        identifier = _slurm_number(_inner(job, "job_id"))
        start, end = (_slurm_number(_inner(job, "time", name)) for name in ("start", "end"))
        steps = _inner(job, "steps")
        if identifier is None or start is None or end is None or not isinstance(steps, list):
            continue
        nodes = _count(_inner(job, "allocation_nodes"))
        rows = [_Step("", None, start, end, nodes)]
        for step in steps:
            begun, ended = (_slurm_number(_inner(step, "time", name)) for name in ("start", "end"))
            joules = _slurm_energy(_inner(step, "statistics", "energy", "consumed"))
            count = _count(_inner(step, "nodes", "count"))
            rows.append(_Step(_step_name(step), joules, begun or start, ended or end, count))
        if is_narrow:
            most = (max(0.0, end - start) + 2) * (nodes or 1) * NODE_WATTS
            if most >= 2**32:
                raise RecordError(
                    f"{path}: 'sacct --json' of this Slurm writes energy in 32 bits, too few for job {identifier:.0f}; "
                    f"print it with: {SACCT}"
                )
            rows = [
                replace(row, joules=row.joules - 2**32) if row.joules and row.joules > most else row for row in rows
            ]
        jobs.setdefault(f"{identifier:.0f}", []).append(rows)
    if not jobs:
        raise RecordError(f"{path}: not what 'sacct --json' prints: no job with time and steps")
    return jobs


def _count(value: object) -> int | None:
    number = _slurm_number(value)
    return int(number) if number else None


def _step_name(step: object) -> str:
    """Return ``batch``, ``extern``, or a number: the step's id ends in it, in each version of the format."""
    identifier = _inner(step, "step", "id")
    last = _inner(identifier, "step_id") if isinstance(identifier, dict) else identifier
    name = last.rpartition(".")[2] if isinstance(last, str) else ""
    return name or str(_inner(step, "step", "name") or "0")


COLUMNS = ("JobIDRaw", "ConsumedEnergyRaw", "Start", "End")
SACCT = f"sacct -P -D -o {','.join(COLUMNS)},NNodes -j JOB"
NARROW = "openapi/dbv0.0.3"  # up to Slurm 22.05, energy in JSON has 32 bits, and one below 0 is near 2**32
NODE_WATTS = 20e3  # more than a node draws (NVIDIA DGX B300: about 14 kW, its data sheet)
MOST_DIGITS = 9


def _sacct_rows(path: Path, text: str) -> tuple[dict[str, Attempts], bool]:
    """Read each job's attempts, and tell whether all times have their zone.

    Raises:
        RecordError: columns are missing, or nothing in it can be read.
    """
    header, *cells = csv_rows(path, text, "|") or [[]]
    rows = [dict(zip(header, row, strict=False)) for row in cells]
    missing = [name for name in COLUMNS if name not in header]
    if not rows or missing:
        what = f"no column {', '.join(missing)}" if missing else "no row"
        raise RecordError(f"{path}: {what}; print it with: {SACCT}")
    jobs: dict[str, Attempts] = {}
    zoned, undated = True, ""
    for row in rows:
        job, _, name = row["JobIDRaw"].partition(".")
        if {row.get(column) for column in ("Start", "End")} & {None, "", "Unknown", "None"}:
            continue  # it goes on, or never began
        try:
            joules = _slurm_energy(int(row["ConsumedEnergyRaw"] or 0))
            nodes = int(row.get("NNodes") or 0) or None
        except ValueError:
            continue
        try:
            (start, first), (end, last) = (_slurm_time(row[column]) for column in ("Start", "End"))
        except (ValueError, OverflowError, OSError):
            undated = undated or row["Start"]
            continue
        zoned = zoned and first and last
        attempts = jobs.setdefault(job, [])
        if not attempts or not name:
            attempts.append([])
        attempts[-1].append(_Step(name, joules, start, end, nodes))
    if undated:
        raise RecordError(f"{path}: {undated!r} is not a date; print it with: SLURM_TIME_FORMAT=standard {SACCT}")
    if not jobs:
        raise RecordError(f"{path}: no job in it that has ended")
    return jobs, zoned


def _slurm_time(text: str) -> tuple[float, bool]:
    """Return unix seconds of a time that sacct wrote, and whether its zone is told; without one it is this machine's.

    Raises:
        ValueError: it is neither an ISO time nor unix seconds.
    """
    if re.fullmatch(r"\d{9,12}", text):
        return float(text), True
    time = datetime.fromisoformat(re.sub(r"([+-]\d{2})(\d{2})$", r"\1:\2", text).replace("Z", "+00:00"))
    return time.astimezone().timestamp(), time.tzinfo is not None


POWER_UNITS = {"w": 1.0, "watt": 1.0, "watts": 1.0, "kw": 1e3, "kilowatt": 1e3, "kilowatts": 1e3}
ENERGY_UNITS = {"j": 1.0, "joule": 1.0, "joules": 1.0, "kj": 1e3, "wh": 3600.0, "kwh": JOULES_PER_KWH}
MILLI_OR_MEGA = {  # told apart by their capital alone
    "mW": (1e-3, False), "MW": (1e6, False), "mJ": (1e-3, True), "MJ": (1e6, True), "mWh": (3.6, True),
    "MWh": (3.6e9, True), "MWH": (3.6e9, True),
}  # fmt: skip
CLOCK_WORDS = {"time", "timestamp", "datetime", "date", "stamp", "ts", "utc"}
MOST_FALLS = 0.05  # of a counter's steps: one that falls more often is none
RESET_RATIO = 0.1  # a counter that was reset falls to less than this of what it had
HOUR_TWICE = (1500.0, 3600.0)  # seconds by which clocks go back, less a step
MOST_LINES_ABOVE = 20  # of an export, until its header
MOST_LETTERS = 80  # of a row that is shown
SECONDS_OF_TICKS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))  # unix time in ns, us and ms, by its size


def _csv(spec: Specification, _: Sequence[RunRecord]) -> list[Meter]:
    """Read a wall meter's or PDU's CSV: a time, and a power in W or a counter of energy in J, Wh or kWh."""
    path = Path(spec.path)
    text = read_text(path)
    delimiter = max((",", ";", "\t"), key="\n".join(text.split("\n", MOST_LINES_ABOVE)[:-1] or [text]).count)
    rows = csv_rows(path, text, delimiter)
    first = next((index for index, row in enumerate(rows[:MOST_LINES_ABOVE]) if _is_header(row)), 0)
    header = [cell.strip().lstrip("#").strip() for cell in rows[first]] if rows else []
    words = [set(re.findall(r"[a-z]+", name.lower())) for name in header]
    clocks = [index for index, each in enumerate(words) if each & CLOCK_WORDS]
    if [header[index].lower() for index in clocks[:2]] not in (["date", "time"], ["time", "date"]):
        clocks = clocks[:1]
    clocks.sort(key=lambda index: header[index].lower() == "time")  # the date before the time
    column = spec.options.get("column", "").strip()
    asked = [index for index, name in enumerate(header) if index not in clocks and column in ("", name)]
    named = {index: unit for index in asked if (unit := _unit(header[index], path))}
    if not clocks or not named:
        raise RecordError(
            f"{path}: the header must name a time, and a power or energy with its unit (W, kW, J, Wh, kWh): 'time,W'; "
            f"it has {', '.join(header) or 'none'}"
        )
    if len(named) > 1:
        raise RecordError(
            f"{path}: several columns have a unit: say column=NAME of {' | '.join(header[i] for i in named)}"
        )
    [(index, (factor, counter))] = named.items()
    samples, damaged, is_zoned = [], [], True
    for row in rows[first + 1 :]:
        cell = " ".join(row[clock].strip() for clock in clocks if clock < len(row))
        try:
            samples.append((_moment(cell), _decimal(row[index], comma=delimiter != ",") * factor))
            is_zoned = is_zoned and _has_zone(cell)
        except (ValueError, IndexError, OverflowError):
            damaged += [delimiter.join(row)] if "".join(row).strip() else []
    samples = [sample for sample in samples if all(math.isfinite(part) for part in sample)]
    if len(damaged) > len(samples):
        raise RecordError(
            f"{path}: {len(damaged)} of {len(damaged) + len(samples)} rows have no time and number, such as "
            f"{damaged[0][:MOST_LETTERS]!r}; times are ISO (2026-07-25T17:20:00Z) or unix seconds"
        )
    if not is_zoned and (back := _hour_twice(samples)):
        raise RecordError(
            f"{path}: its times go back by {back / 60:.0f} min: local time at the end of summer; write UTC"
        )
    samples.sort()
    _check_values([value for _, value in samples], header[index], path, counter=counter)
    curve = counted(samples) if counter else integrated(samples)
    made = _of_curve(path.name, None, [curve], counter=counter, path=path)
    return [made if is_zoned else replace(made, clock_doubt_seconds=ZONE_DOUBT.total_seconds())]


def _is_header(row: Sequence[str]) -> bool:
    """Tell whether a row names a time and a unit: exports have lines above their header."""
    words = [set(re.findall(r"[a-z]+", cell.lower())) for cell in row]
    units = {*POWER_UNITS, *ENERGY_UNITS, *(unit.lower() for unit in MILLI_OR_MEGA)}
    return any(each & CLOCK_WORDS for each in words) and any(each & units and not each & CLOCK_WORDS for each in words)


def _hour_twice(samples: Sequence[tuple[float, float]]) -> float:
    """Return by how much local times go back where an hour comes twice; 0 where they do not."""
    steps = [after - before for (before, _), (after, _) in pairwise(samples)]
    if sum(each < 0 for each in steps) != 1:  # newest first, or merged logs
        return 0.0
    return -min(steps) if HOUR_TWICE[0] <= -min(steps) <= HOUR_TWICE[1] else 0.0


def _check_values(values: Sequence[float], name: str, path: Path, *, counter: bool) -> None:
    """Refuse a column that is not what its name says.

    Raises:
        RecordError: a counter that falls as none does, or a power that is below 0.
    """
    falls = [(before, after) for before, after in pairwise(values) if after < before]
    partial = [after for before, after in falls if after > RESET_RATIO * before]
    if counter and (len(falls) > max(1.0, MOST_FALLS * len(values)) or len(partial) > 1):
        raise RecordError(f"{path}: {name} falls {len(falls)} times: it is not a counter, but of each interval")
    if not counter and sum(value < 0 for value in values) > len(values) / 2:
        raise RecordError(f"{path}: {name} is below 0 in most rows: the meter counts the other direction")


def _unit(name: str, path: Path) -> tuple[float, bool] | None:
    """Return (the factor to SI, whether it is a counter) of a column's name; None where it names no unit.

    Raises:
        RecordError: it may be of a milli- or a mega-unit.
    """
    for word in reversed(re.findall(r"[A-Za-z]+", name)):
        if word in MILLI_OR_MEGA:
            return MILLI_OR_MEGA[word]
        lower = word.lower()
        if lower in {known.lower() for known in MILLI_OR_MEGA}:
            raise RecordError(
                f"{path}: the column {name!r} may be of a milli- or a mega-unit: write mW or MW, mJ or MJ"
            )
        if lower in POWER_UNITS:
            return POWER_UNITS[lower], False
        if lower in ENERGY_UNITS:
            return ENERGY_UNITS[lower], True
    return None


def _decimal(text: str, *, comma: bool) -> float:
    """Read a number, with signs between its thousands or without; ``comma``: a lone comma is the decimal sign.

    Raises:
        ValueError: it is none.
    """
    cell = text.strip()
    if "," in cell and "." in cell:  # the last is the decimal sign
        thousands = "," if cell.rfind(",") < cell.rfind(".") else "."
        cell = cell.replace(thousands, "")
    elif not comma and re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", cell):
        cell = cell.replace(",", "")
    return float(cell.replace(",", "."))


def _has_zone(text: str) -> bool:
    """Tell whether a time that can be read has its zone, as unix seconds have."""
    return bool(re.fullmatch(r"[\d.eE+]+", text) or re.search(r"(Z|[+-]\d{2}:?\d{2})$", text))


def _moment(text: str) -> float:
    """Return unix seconds of an ISO time (UTC where it has no zone), or of a number of s, ms, us or ns."""
    cell = text.strip()
    try:
        number = float(cell)
    except ValueError:
        time = datetime.fromisoformat(cell.replace("Z", "+00:00"))
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
    return number * next((factor for least, factor in SECONDS_OF_TICKS if number > least), 1.0)


# Metric: its unit in SI, whether it counts, and its boundary.
PROMETHEUS = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": (1e-3, True, "gpu"),
    "DCGM_FI_DEV_POWER_USAGE": (1.0, False, "gpu"),
    "greenml_gpu_energy_joules_total": (1.0, True, "gpu"),
    "greenml_energy_joules_total": (1.0, True, "devices"),
}


def _prometheus(spec: Specification, records: Sequence[RunRecord]) -> list[Meter]:
    """Read the answer of a Prometheus range query (a file), or ask a server that the user named for it."""
    is_url = spec.path.startswith(("http://", "https://"))
    where = _public(spec.path)
    if not is_url and not read_text(Path(spec.path)).lstrip().startswith(("{", "[")):
        raise RecordError(
            f"{where}: not JSON: what a page of metrics or dcgmi shows is a moment; ask Prometheus, with query_range"
        )
    content = _asked(spec, records) if is_url else read_json(Path(spec.path))
    listed = _inner(content, "data", "result")
    if isinstance(content, dict) and content.get("status") == "error":
        raise RecordError(f"{where}: the server answered with an error: {redact_text(str(content.get('error')))[:200]}")
    if not isinstance(listed, list) or not listed:
        raise RecordError(
            f"{where}: no series in it: a range query's answer has data.result of matrix type; it is empty where "
            "nothing is of that name and time"
        )
    series = [_series(each, where) for each in listed]
    names = {labels.get("__name__") or spec.options.get("query", "") for labels, _ in series}
    if len(names) > 1:
        raise RecordError(f"{where}: several metrics: {', '.join(sorted(names))}; ask for one")
    name = names.pop()
    factor, counter, boundary = _metric(name)
    ours = {_uuid(device.id) for record in records for device in record.devices
            if device.kind == "gpu" and device.method != "reported"}  # fmt: skip
    by_gpu: dict[str, list[list[tuple[float, float]]]] = {}
    for number, (labels, samples) in enumerate(series):
        gpu = next((_uuid(labels[label]) for label in UUID_LABELS if labels.get(label)), "")
        if not gpu or gpu in ours or not ours:
            by_gpu.setdefault(gpu or f"series {number}", []).append([(at, value * factor) for at, value in samples])
    told = any(labels.get(label) for labels, _ in series for label in UUID_LABELS)
    if told and ours - set(by_gpu):
        times = [at for _, samples in series for at, _ in samples]
        missing = f"{len(ours - set(by_gpu))} of the record's {len(ours)} GPUs are not among the meter's series"
        return [Meter(f"Prometheus, {name}", boundary, min(times), max(times), why=missing)]
    shared = ""
    if not _exclusive(spec) and len(by_gpu) > 1 and not (told and ours):
        shared = (
            f"{len(by_gpu)} series are added up, and none tells whose it is: say exclusive=yes if all are the run's"
        )
    curves = [(counted if counter else integrated)(_joined(each, counter=counter)) for each in by_gpu.values()]
    return [_of_curve(f"Prometheus, {name}", boundary, curves, counter=counter, path=where, shared=shared)]


MARGIN_SECONDS = 330.0  # asked before and after the run: a clock may be late by 300 s
UUID_LABELS = ("UUID", "uuid", "gpu_uuid")


def _uuid(text: str) -> str:
    return text.lower().removeprefix("gpu-")


def _series(content: object, where: str) -> tuple[dict[str, str], list[tuple[float, float]]]:
    """Return the labels and the samples of one series.

    Raises:
        RecordError: it is not a range query's.
    """
    labels, values = _inner(content, "metric") or {}, _inner(content, "values")
    try:
        samples = [(float(at), float(value)) for at, value in values]  # type: ignore[attr-defined]
        texts = {str(key): str(value) for key, value in labels.items()}  # type: ignore[attr-defined]
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise RecordError(f"{where}: a series without labels and samples: it is not a range query's answer") from None
    samples = [(at, value) for at, value in samples if math.isfinite(at) and math.isfinite(value)]
    if not samples:
        raise RecordError(f"{where}: a series without a number")
    return texts, samples


def _joined(parts: Sequence[Sequence[tuple[float, float]]], *, counter: bool) -> list[tuple[float, float]]:
    """Join the series of one GPU, whose labels changed meanwhile (the job that had it); of two at a time, the longer.

    A server repeats a counter's last value until the next scrape: what is repeated is no sample.
    """
    kept: list[Sequence[tuple[float, float]]] = []
    for part in sorted(parts, key=len, reverse=True):
        if all(part[-1][0] < other[0][0] or part[0][0] > other[-1][0] for other in kept):
            kept.append(part)
    samples = sorted(sample for part in kept for sample in part)
    if not counter:
        return samples
    return samples[:1] + [after for before, after in pairwise(samples) if after[1] != before[1]]


def _metric(name: str) -> tuple[float, bool, str | None]:
    if name in PROMETHEUS:
        return PROMETHEUS[name]
    if re.search(r"joules(_total)?$", name):
        return 1.0, True, None
    if re.search(r"watts$|_power$", name):
        return 1.0, False, None
    if not name:
        raise RecordError("the series have no metric's name: say what they are, such as query=node_watts")
    raise RecordError(f"the metric {name!r} does not tell its unit; its name must end in _joules_total or _watts")


def _asked(spec: Specification, records: Sequence[RunRecord]) -> dict[str, Any]:
    import requests

    url = urlsplit(spec.path)
    query = spec.options.get("query") or (parse_qs(url.query).get("query") or [""])[0]
    if not query:
        raise SettingsError("--with prometheus:URL needs the metric: prometheus:http://HOST:9090,query=METRIC")
    windows = [window for record in records for window in record.windows]
    start, end = min(start for start, _ in windows).timestamp(), max(end for _, end in windows).timestamp()
    seconds = max(1.0, (end - start) / 10_000)  # Prometheus answers 11,000 points a series at the most
    address = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}/api/v1/query_range"
    asked = {
        "query": query,
        "start": f"{start - MARGIN_SECONDS:.3f}",
        "end": f"{end + MARGIN_SECONDS:.3f}",
        "step": f"{seconds:.3f}",
    }
    try:
        answer = requests.get(address, params=asked, timeout=20)
        content = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise RecordError(f"{_public(spec.path)}: no answer: {type(error).__name__}") from None
    if not isinstance(content, dict) or content.get("status") != "success":
        raise RecordError(f"{_public(spec.path)}: answered {answer.status_code}: {redact_text(str(content))[:200]}")
    return content


def _public(path: str) -> str:
    """Return an address without what may be secret in it."""
    url = urlsplit(path)
    return (
        f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}"
        if url.scheme in {"http", "https"}
        else path
    )


def value_at(curve: Sequence[tuple[float, float]], at: float) -> float:
    """Return the joules of a curve at a time, on the line between its samples."""
    from bisect import bisect_right

    index = bisect_right(curve, (at, math.inf))
    if index == 0:
        return curve[0][1]
    if index == len(curve):
        return curve[-1][1]
    (before, low), (after, high) = curve[index - 1], curve[index]
    return low + (high - low) * (at - before) / (after - before)


PM_LINE = re.compile(r"(?<!\d)(?P<value>\d{1,19})\s*J\s+(?P<time>\d{1,19})\s*us")


def _pm_counters(spec: Specification, _: Sequence[RunRecord]) -> list[Meter]:
    """Read logs of HPE Cray's ``/sys/cray/pm_counters``: a file of lines ``VALUE J TIME us``, or a folder of them."""
    path = Path(spec.path)
    files = (
        sorted(each for each in path.iterdir() if re.fullmatch(r"energy|accel\d+_energy", each.name))
        if path.is_dir()
        else [path]
    )
    groups: dict[str, list[Curve]] = {}
    for file in files:
        samples = [(int(m["time"]) / 1e6, float(m["value"])) for m in PM_LINE.finditer(read_text(file))]
        if not samples:
            raise RecordError(f"{file}: no line 'VALUE J TIME us' in it: log the file energy, not power")
        groups.setdefault("gpu" if file.name.startswith("accel") else "node-dc", []).append(counted(sorted(samples)))
    if not groups:
        raise RecordError(f"{path}: no file named energy or accelN_energy in it")
    return [
        _of_curve(
            f"HPE pm_counters, {'accelerators' if boundary == 'gpu' else 'node'}",
            boundary,
            curves,
            counter=True,
            path=path,
        )
        for boundary, curves in groups.items()
    ]


READERS: dict[str, Callable[[Specification, Sequence[RunRecord]], Iterable[Meter]]] = {
    "azure": _azure,
    "codecarbon": _codecarbon,
    "impact-tracker": _impact_tracker,
    "sacct": _sacct,
    "prometheus": _prometheus,
    "pm_counters": _pm_counters,
    "csv": _csv,
}
