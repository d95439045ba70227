"""Parts to one record: what each source knows best, nothing counted twice, nothing filled with 0."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from greenml.errors import SettingsError
from greenml.importers import azure_monitor as azure
from greenml.importers import codecarbon as carbon
from greenml.importers import trainer_output as trainer
from greenml.importers._part import Part
from greenml.record import DeviceRecord, Factors, Note, PhaseRecord, PlaceRecord, RunRecord, Usage

COVERS_RATIO = 0.05  # a phase within 5 % of the run's duration is the run
ADD_DURATION = "add --duration, for example --duration 43m51.05s"


def load(
    *,
    codecarbon: Path | None = None,
    azure_monitor: Sequence[Path] = (),
    trainer_output: Path | None = None,
    duration_seconds: float | None = None,
    name: str = "",
) -> RunRecord:
    """Combine the sources that are given into one record, without factors and totals.

    Figures pass through unrounded. Azure Monitor's are of the whole run, CodeCarbon's of the training phase,
    the Trainer's of its phases. Ask ``conflicts`` of the record once its place and totals are known.

    Args:
        codecarbon: an emissions.csv.
        azure_monitor: files that ``az monitor metrics list`` printed, of one run.
        trainer_output: a Trainer's output folder.
        duration_seconds: of the whole run: what is billed.
        name: of the run.

    Raises:
        RecordError: a file is not what it should be.
        SettingsError: there is no source, or nothing tells how long the run was.
    """
    azure_part = azure.load(azure_monitor) if azure_monitor else Part()
    carbon_part = carbon.load(codecarbon) if codecarbon is not None else Part()
    trainer_part = trainer.load(trainer_output) if trainer_output is not None else Part()
    parts = (azure_part, carbon_part, trainer_part)
    if all(part == Part() for part in parts):
        raise SettingsError("nothing to import: give --codecarbon, --azure-monitor or --trainer-output")
    phases = {phase.path: phase for part in (trainer_part, carbon_part) for phase in part.phases}
    ordered = _in_order(phases)
    seconds, notes = _duration(duration_seconds, ordered)
    devices, ordered = _devices(azure_part, carbon_part, ordered, seconds)
    dated, tells = _dated(azure_part, carbon_part, trainer_part)
    if dated is trainer_part:
        notes += trainer_part.notes
    if dated.started is None:
        raise SettingsError("nothing tells when the run was")
    return RunRecord(
        greenml_version=version("greenml"),
        run_id=_run_id(parts, seconds),
        name=name,
        status="completed",
        started=dated.started,
        ended=dated.ended,
        duration_seconds=seconds,
        place=_place(carbon_part.place, tells),
        devices=devices,
        phases=ordered,
        factors=Factors(),
        reported=carbon_part.reported,
        params=dict(trainer_part.params),
        metrics=dict(trainer_part.metrics),
        trainer=dict(trainer_part.trainer),
        notes=[*carbon_part.notes, *notes],
    )


def _in_order(phases: Mapping[str, PhaseRecord]) -> list[PhaseRecord]:
    """Put the phases in the order in which a Trainer's script runs them."""
    order = list(trainer.RUNTIMES.values())
    return sorted(phases.values(), key=lambda phase: order.index(phase.path))


def _duration(given: float | None, phases: Sequence[PhaseRecord]) -> tuple[float, list[Note]]:
    if given is not None:
        if not 0 < given < math.inf:
            raise SettingsError(f"duration {given!r} is not above zero; {ADD_DURATION}")
        return given, []
    if not phases:
        raise SettingsError(f"these files do not tell how long the run was; {ADD_DURATION}")
    names = ", ".join(phase.path for phase in phases)
    text = (
        f"The run's duration was not given: it is that of {names}, without set-up; "
        f"a cost made from it is too low by the rest."
    )
    return math.fsum(phase.seconds for phase in phases), [Note(code="duration", text=text)]


def _dated(azure_part: Part, carbon_part: Part, trainer_part: Part) -> tuple[Part, str]:
    """Return the part that tells best when the run was, and the name of it."""
    named = ((azure_part, "Azure Monitor's points or time window"), (carbon_part, "CodeCarbon's row"))
    return next(
        ((part, tells) for part, tells in named if part.started),
        (trainer_part, "dates of the Trainer's files"),
    )


def _devices(
    azure_part: Part, carbon_part: Part, phases: list[PhaseRecord], seconds: float
) -> tuple[list[DeviceRecord], list[PhaseRecord]]:
    """Join the devices: the GPUs of both tools are the same GPUs, so they become one device."""
    phase = next((one for one in phases if one.path == carbon.PHASE), None)
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
    others = [one.model_copy(update={"usage": renamed}) if one is phase else one for one in phases]
    return list(devices.values()), others


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
