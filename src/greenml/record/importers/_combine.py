"""Joins figures of other tools into one record: nothing is counted twice or filled with 0."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from greenml.errors import SettingsError
from greenml.record.importers import aiperf as benchmark
from greenml.record.importers import azure_monitor as azure
from greenml.record.importers import codecarbon as carbon
from greenml.record.importers import impact_tracker as impact
from greenml.record.importers import trainer_output as trainer
from greenml.record.importers._part import Part
from greenml.record.schema import (
    LONGEST_SECONDS,
    DeviceRecord,
    Factors,
    Host,
    Note,
    PhaseRecord,
    PlaceRecord,
    ReportedEmissions,
    RunRecord,
    Usage,
)
from greenml.units import JOULES_PER_KWH

WITH_OPTION = ("aiperf", "azure_monitor", "codecarbon", "impact_tracker", "published_table", "trainer_output")
NUMBER = r"\d+(?:\.\d+)?"
UNITS = re.compile(
    rf"(?:({NUMBER})\s*h)?\s*(?:({NUMBER})\s*m(?:in)?)?\s*(?:({NUMBER})\s*s)?|({NUMBER})",
    re.ASCII | re.IGNORECASE,
)
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", re.ASCII)
RIGHT = "write 43m51.05s, 1h2m3s, 00:43:51.05 or seconds, 2631.05"


def duration(text: str) -> float:
    """Return the seconds of ``43m51.05s``, ``43m 51.05s``, ``1h2m3s``, ``00:43:51.05`` or ``2631.05``.

    Raises:
        SettingsError: it is none of these, or is not above zero.
    """
    cleaned = text.strip()
    clock = CLOCK.fullmatch(cleaned)
    units = UNITS.fullmatch(cleaned)
    if clock:
        parts = clock.groups()
        if float(parts[2]) >= 60 or (parts[0] and int(parts[1]) >= 60):
            raise SettingsError(f"duration {text!r}: minutes and seconds of a clock go up to 59; {RIGHT}")
    elif units and cleaned:
        parts = units.groups()[:3] if units[4] is None else (None, None, units[4])
    else:
        raise SettingsError(f"duration {text!r} is not understood; {RIGHT}")
    hours, minutes, seconds = (float(part or 0) for part in parts)
    # fsum, so that 43m51.05s is 2631.05 exactly as it would be read from those digits
    total = math.fsum((hours * 3600, minutes * 60, seconds))
    if not 0 < total < math.inf:
        raise SettingsError(f"duration {text!r} is not above zero; {RIGHT}")
    return total


CODE = "conflict"
SAME_SECONDS_RATIO = 0.05
LONGER_RATIO = 0.01  # clocks of two tools
SHARE_RATIO = 1 / 3  # training draws more than the rest of a run: a third of its share in time is too little
MOST_KG_PER_KWH = 3.0  # no grid emits as much: coal alone is about 1
ZONE_DOUBT = timedelta(hours=14)  # CodeCarbon writes local time without its zone


def conflicts(record: RunRecord) -> list[Note]:
    """Return a note for each pair of figures in the record that contradict each other.

    Looks at: a reported row's energy beside the run's, its duration beside the Trainer's, its place and date
    beside the run's, its emissions beside its energy; phases longer than the run; a low tier dearer than the
    dedicated one.
    """
    of_rows = (_longer_phases, _too_much, _too_little, _grams, _another_place, _date)
    checks = (*(_of_row(check) for check in of_rows), _phases, _prices)
    return [Note(code=CODE, text=text) for check in checks for text in check(record)]


Texts = Iterator[str]


def _of_row(check: Callable[[RunRecord, ReportedEmissions], Texts]) -> Callable[[RunRecord], Texts]:
    def each(record: RunRecord) -> Texts:
        for reported in record.reported:
            yield from check(record, reported)

    return each


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _cell(reported: ReportedEmissions, name: str) -> float | None:
    return _number(reported.row.get(name))


def _label(reported: ReportedEmissions) -> str:
    return f"{reported.file or reported.tool} ({reported.scope})"


def _gpu_joules(record: RunRecord) -> float | None:
    total = record.total()
    if total is not None and total.gpu_energy_joules.value is not None:
        return total.gpu_energy_joules.value
    known = [device.usage.energy_joules for device in record.devices if device.kind == "gpu"]
    values = [value for value in known if value is not None]
    return math.fsum(values) if values and len(values) == len(known) else None


def _longer_phases(record: RunRecord, reported: ReportedEmissions) -> Texts:
    row, trainer = _cell(reported, "duration"), _number(record.metrics.get("train_runtime"))
    if reported.scope != "train" or row is None or not trainer:
        return
    if abs(row - trainer) > SAME_SECONDS_RATIO * trainer:
        yield (
            f"{_label(reported)} covers {row:.6g} s, but the Trainer trained for {trainer:.6g} s: "
            f"the row is not of the whole training."
        )


def _too_much(record: RunRecord, reported: ReportedEmissions) -> Texts:
    run = _gpu_joules(record)
    if run is None:
        return
    gpu, all_kwh = _cell(reported, "gpu_energy"), _cell(reported, "energy_consumed")
    run_kwh = run / JOULES_PER_KWH
    if gpu is not None:
        gpu /= _cell(reported, "pue") or 1.0
        if gpu > run_kwh * (1 + LONGER_RATIO):
            yield f"{_label(reported)} has {gpu:.6g} kWh for the GPUs, the whole run only {run_kwh:.6g} kWh."
    elif all_kwh is not None and all_kwh > run_kwh * (1 + LONGER_RATIO):
        yield (
            f"{_label(reported)} has {all_kwh:.6g} kWh, above the {run_kwh:.6g} kWh of the whole run's GPUs: "
            f"right only if CPU and memory drew the rest; rows of several ranks may have been added."
        )


def _too_little(record: RunRecord, reported: ReportedEmissions) -> Texts:
    run, row_kwh = _gpu_joules(record), _cell(reported, "energy_consumed")
    seconds = max(_cell(reported, "duration") or 0.0, _number(record.metrics.get("train_runtime")) or 0.0)
    if not run or row_kwh is None or not seconds or seconds > record.duration_seconds * (1 + LONGER_RATIO):
        return
    expected = run / JOULES_PER_KWH * seconds / record.duration_seconds
    if row_kwh < SHARE_RATIO * expected:
        run_kwh = run / JOULES_PER_KWH
        times = f"{run_kwh / row_kwh:.3g} times below" if row_kwh > 0 else "nothing beside"
        yield (
            f"{_label(reported)} has {row_kwh:.6g} kWh, {times} the {run_kwh:.6g} kWh of the run's GPUs, "
            f"though training took {seconds / record.duration_seconds * 100:.3g} % of the run: "
            f"the row may be that of one rank, or its tracker did not see every GPU."
        )


def _grams(_: RunRecord, reported: ReportedEmissions) -> Texts:
    emissions, energy = _cell(reported, "emissions"), _cell(reported, "energy_consumed")
    if emissions is not None and energy and emissions / energy > MOST_KG_PER_KWH:
        yield (
            f"{_label(reported)} has {emissions / energy:.6g} kg CO2e per kWh, more than any grid emits: "
            f"its emissions may be in grams, or its energy in other units than kWh."
        )


def _same(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()


def _another_place(record: RunRecord, reported: ReportedEmissions) -> Texts:
    place = record.place
    pairs = (
        ("cloud_provider", place.cloud),
        ("cloud_region", place.region),
        ("country_iso_code", place.country_iso3),
    )
    for column, known in pairs:
        reported_value = reported.row.get(column, "")
        if reported_value and known and _same(reported_value) != _same(known):
            yield f"{_label(reported)} has {column} {reported_value}, but the run is said to be in {known}."


def _date(record: RunRecord, reported: ReportedEmissions) -> Texts:
    scope_phase = next((phase for phase in record.phases if phase.path == reported.scope), None)
    if scope_phase is None or record.ended is None or not reported.row.get("timestamp"):
        return
    day = reported.row["timestamp"][:10]
    first, last = (record.started - ZONE_DOUBT).date(), (record.ended + ZONE_DOUBT).date()
    if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and not first.isoformat() <= day <= last.isoformat():
        yield (
            f"{_label(reported)} is of {day}, but the run went from {record.started.date().isoformat()} "
            f"to {record.ended.date().isoformat()}: the row may be another run's."
        )


def _phases(record: RunRecord) -> Texts:
    top = [phase for phase in record.phases if "/" not in phase.path and phase.seconds > 0]
    limit = record.duration_seconds * (1 + LONGER_RATIO)
    longer = [phase for phase in top if phase.seconds > limit]
    for phase in longer:
        yield (
            f"The phase {phase.path} took {phase.seconds:.6g} s, longer than the whole run's "
            f"{record.duration_seconds:.6g} s."
        )
    together = math.fsum(phase.seconds for phase in top)
    imported = any(not phase.spans for phase in top)
    if not longer and imported and together > limit:
        names = ", ".join(phase.path for phase in top)
        yield (
            f"The phases {names} took {together:.6g} s together, longer than the whole run's "
            f"{record.duration_seconds:.6g} s."
        )


def _prices(record: RunRecord) -> Texts:
    total = record.total()
    usd = {tier: cost.value for tier, cost in total.cost_usd.items()} if total else {}
    usd = usd or {tier: factor.value for tier, factor in record.factors.prices.items()}
    dedicated = usd.get("dedicated")
    for tier in ("low_priority", "spot"):
        low = usd.get(tier)
        if low is not None and dedicated is not None and low > dedicated:
            yield (
                f"The {tier.replace('_', ' ')} tier (${low:.6g}) is dearer than the dedicated one "
                f"(${dedicated:.6g}): the two may be swapped."
            )


COVERS_RATIO = 0.05  # a phase within 5 % of the run's duration is the run
DATED_BY_ROW = "CodeCarbon's row"  # local time, of a zone that it does not tell
DATED_BY_FILES = "dates of the Trainer's files"  # guessed
ADD_DURATION = "add --duration, for example --duration 43m51.05s"


def load(
    *,
    codecarbon: Path | None = None,
    codecarbon_run: str | None = None,
    azure_monitor: Sequence[Path] = (),
    impact_tracker: Path | None = None,
    trainer_output: Path | None = None,
    aiperf: Path | None = None,
    host_record: Path | None = None,
    duration_seconds: float | None = None,
    started: datetime | None = None,
    metrics: Mapping[str, float] | None = None,
    name: str = "",
) -> RunRecord:
    """Combine the sources that are given into one record, without factors and totals.

    Figures pass through unrounded. Azure Monitor's are of the whole run, CodeCarbon's of the training phase,
    the Trainer's of its phases. Ask ``conflicts`` of the record once its place and totals are known.

    Args:
        codecarbon: an emissions.csv.
        codecarbon_run: the run_id of the row to take; the last by default.
        azure_monitor: files that ``az monitor metrics list`` printed, of one run.
        impact_tracker: the log folder of experiment-impact-tracker; its figures are of the whole run.
        trainer_output: a Trainer's output folder.
        aiperf: a profile_export_aiperf.json; stands alone, but for
        host_record: a record of greenml's own beside it, whose CPUs and DRAM are taken over.
        duration_seconds: of the whole run: what is billed. With ``started`` it is enough: a run that was published by
            its time and its results, without any energy.
        started: when the run began, where the files do not tell it better.
        metrics: results, beside those of the files.
        name: of the run.

    Raises:
        RecordError: a file is not what it should be.
        SettingsError: there is no source, or nothing tells how long the run was.
    """
    if aiperf is not None or host_record is not None:
        others = (codecarbon, impact_tracker, trainer_output)
        if aiperf is None or azure_monitor or any(other is not None for other in others):
            raise SettingsError("--aiperf goes with no other source but --host-record, and that with --aiperf alone")
        return _alone(benchmark.load(aiperf, host_record), duration_seconds, name)
    if impact_tracker is not None and (codecarbon is not None or azure_monitor):
        other = "--codecarbon" if codecarbon is not None else "--azure-monitor"
        raise SettingsError(
            f"--impact-tracker and {other} measure the same devices: import one, 'greenml reconcile' with the other"
        )
    azure_part = azure.load(azure_monitor) if azure_monitor else Part()
    impact_part = impact.load(impact_tracker) if impact_tracker is not None else Part()
    carbon_part = carbon.load(codecarbon, codecarbon_run) if codecarbon is not None else Part()
    trainer_part = trainer.load(trainer_output) if trainer_output is not None else Part()
    parts = (azure_part, impact_part, carbon_part, trainer_part)
    alone = all(part == Part() for part in parts)
    if alone and (duration_seconds is None or started is None):
        raise SettingsError(
            "nothing to import: give --codecarbon, --azure-monitor, --impact-tracker, --trainer-output or --aiperf; or "
            "of a run that was published by its time alone --duration and --started"
        )
    if impact_part.started and impact_part.ended and duration_seconds is None:
        duration_seconds = (impact_part.ended - impact_part.started).total_seconds()
    phases = {phase.path: phase for part in (trainer_part, carbon_part) for phase in part.phases}
    ordered = _in_order(phases)
    seconds, notes = _duration(duration_seconds, ordered)
    devices, ordered = _devices(azure_part, carbon_part, ordered, seconds)
    devices += impact_part.devices
    dated, tells = _dated(azure_part, impact_part, carbon_part, trainer_part)
    if started is not None and dated is trainer_part:
        dated, tells = Part(started=started, ended=started + timedelta(seconds=seconds)), "argument"
    if alone:
        notes.append(Note(code="published", text="The run is known by its duration and results alone: no energy."))
    notes += [note for note in trainer_part.notes if note.code != "dates" or dated is trainer_part]
    if dated.started is None:
        raise SettingsError("nothing tells when the run was")
    return RunRecord(
        greenml_version=version("greenml"),
        run_id=_run_id((*parts, dated) if alone else parts, seconds),
        name=name,
        status="completed",
        started=dated.started,
        ended=dated.ended,
        duration_seconds=seconds,
        hosts=_hosts(devices),
        place=_place(carbon_part.place, tells),
        devices=devices,
        phases=ordered,
        factors=Factors(),
        reported=carbon_part.reported,
        params=dict(trainer_part.params),
        metrics={**trainer_part.metrics, **(metrics or {})},
        trainer=dict(trainer_part.trainer),
        notes=[*azure_part.notes, *impact_part.notes, *carbon_part.notes, *notes],
    )


def _hosts(devices: Sequence[DeviceRecord]) -> list[Host]:
    return [Host(name=name) for name in sorted({device.host for device in devices if device.host})]


def load_by_name(importer: str, path: Path, duration_seconds: float | None = None, name: str = "") -> RunRecord:
    """Return the record of what an importer reads that has no argument of its own in ``load``; it stands alone.

    Args:
        importer: its module's name.
        path: what it reads.
        duration_seconds: of the whole run; from the part's start to its end by default.
        name: of the run.

    Raises:
        RecordError: the file is not what it should be.
        SettingsError: there is no such importer, or nothing tells when the run was or how long.
    """
    if importer in WITH_OPTION:
        raise SettingsError(f"--from {importer}: it has an option of its own; see 'greenml import --help'")
    try:
        read: Callable[[Path], Part] = import_module(f"greenml.record.importers.{importer}").load
    except (ImportError, AttributeError):
        message = f"--from {importer}: there is no importer {importer} in greenml/record/importers/"
        raise SettingsError(message) from None
    return _alone(read(path), duration_seconds, name)


def _alone(part: Part, duration_seconds: float | None, name: str) -> RunRecord:
    """Return the record of a source that stands alone."""
    if part.started is None:
        raise SettingsError("nothing tells when the run was")
    if duration_seconds is None and part.ended is not None and not part.phases:
        duration_seconds = (part.ended - part.started).total_seconds()
    seconds, notes = _duration(duration_seconds, part.phases)
    return RunRecord(
        greenml_version=version("greenml"), run_id=_run_id((part,), seconds), name=name, status="completed",
        started=part.started, ended=part.ended, duration_seconds=seconds, hosts=_hosts(part.devices),
        place=PlaceRecord(), devices=part.devices, phases=part.phases, factors=Factors(), params=dict(part.params),
        metrics=dict(part.metrics), reported=part.reported, trainer=dict(part.trainer), notes=[*part.notes, *notes],
    )  # fmt: skip


def _in_order(phases: Mapping[str, PhaseRecord]) -> list[PhaseRecord]:
    """Put the phases in the order in which a Trainer's script runs them."""
    order = list(trainer.RUNTIMES.values())
    return sorted(phases.values(), key=lambda phase: (order.index(phase.path.partition("/")[0]), phase.path))


def _duration(given: float | None, phases: Sequence[PhaseRecord]) -> tuple[float, list[Note]]:
    if given is not None:
        if not 0 < given <= LONGEST_SECONDS:
            raise SettingsError(f"duration {given!r} is not above zero, or too long for a run; {ADD_DURATION}")
        return given, []
    top = [phase for phase in phases if "/" not in phase.path]
    if not top:
        raise SettingsError(f"these files do not tell how long the run was; {ADD_DURATION}")
    names = ", ".join(phase.path for phase in top)
    text = (
        f"The run's duration was not given: it is that of {names}, without set-up; "
        f"a cost made from it is too low by the rest."
    )
    return math.fsum(phase.seconds for phase in top), [Note(code="duration", text=text)]


def _dated(azure_part: Part, impact_part: Part, carbon_part: Part, trainer_part: Part) -> tuple[Part, str]:
    """Return the part that tells best when the run was, and the name of it."""
    named = (
        (azure_part, "Azure Monitor's points or time window"),
        (impact_part, "experiment-impact-tracker's log"),
        (carbon_part, DATED_BY_ROW),
    )
    return next(
        ((part, tells) for part, tells in named if part.started),
        (trainer_part, DATED_BY_FILES),
    )


def _devices(
    azure_part: Part, carbon_part: Part, phases: list[PhaseRecord], seconds: float
) -> tuple[list[DeviceRecord], list[PhaseRecord]]:
    """Join the devices: the GPUs of both tools are the same GPUs, so they become one device."""
    phase = next((phase for phase in phases if phase.path == carbon.PHASE), None)
    covers = phase is not None and abs(phase.seconds - seconds) <= COVERS_RATIO * seconds
    devices = {device.id: device for device in azure_part.devices}
    renamed: dict[str, Usage] = {}
    for device in carbon_part.devices:
        usage = phase.usage[device.id] if phase else Usage()
        known = devices.get(azure.GPU_ID) if device.kind == "gpu" else None
        if known is None:
            devices[device.id] = device.model_copy(update={"usage": usage}) if covers else device
            renamed[device.id] = usage
            continue
        renamed[known.id] = usage
        fills = covers and known.usage.energy_joules is None
        devices[known.id] = known.model_copy(
            update={
                "usage": _with_energy(known.usage, usage) if fills else known.usage,
                "note": f"energy of the {'run' if fills else 'training phase'} is CodeCarbon's",
            }
        )
    updated = [each.model_copy(update={"usage": renamed}) if each is phase else each for each in phases]
    return list(devices.values()), updated


def _with_energy(usage: Usage, other: Usage) -> Usage:
    names = ("energy_joules", "covered_seconds", "power_mean_watts", "why")
    return usage.model_copy(update={name: getattr(other, name) for name in names})


def _place(known: Mapping[str, str], dated_by: str) -> PlaceRecord:
    known_from = dict.fromkeys(known, "codecarbon") | {"started": dated_by}
    return PlaceRecord.model_validate({**known, "known_from": known_from})


def _run_id(parts: Sequence[Part], seconds: float) -> str:
    """Return an id that the same sources give again."""
    digest = hashlib.sha256(repr((seconds, parts)).encode()).hexdigest()
    return f"import-{digest[:12]}"
