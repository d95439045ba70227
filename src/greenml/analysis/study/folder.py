"""A study's folder: its plan, and what became of every cell.

::

    study.json                   the frozen plan: study file, profile, order of the cells
    cells/VARIANT/seed-N/
        cell.json                the attempts of the cell: state, reason, exit code, times
        run.json, run.trace/     the record of its last attempt, a run folder like any other
        output.log               what its command printed
        attempt-1/               an earlier attempt, whole: run.json, run.trace/, output.log

A cell is written by the process that runs it alone, so that cells on many machines need no coordination.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from greenml import files
from greenml.analysis.record_search import open_record
from greenml.analysis.study import plan as study_plan
from greenml.analysis.study.plan import Plan, StudyFile, Variant, folder_name, make
from greenml.errors import RecordError, SettingsError
from greenml.record.schema import Quantity, RunRecord
from greenml.trace import file as trace_file
from greenml.trace import run_dir_of

VERSION = 1
CELLS_LOG_FILE = "cells.log"  # what the processes that run cells say beside their commands' output
STUDY_FILE, CELL_FILE, RECORD_FILE, LOG_FILE, LOCK_FILE = "study.json", "cell.json", "run.json", "output.log", "lock"

AttemptState = Literal["running", "completed", "failed", "stopped", "killed"]
CellState = Literal["pending", "running", "completed", "failed", "stopped", "killed"]
TO_RUN: tuple[CellState, ...] = ("pending", "killed", "stopped")  # cells that are run when a study goes on
OUT_OF_MEMORY, BUDGET, STOPPED, TIMEOUT = "out of memory", "budget", "stopped", "timeout"


@dataclass(frozen=True, slots=True)
class CellAttempt:
    """One start of a cell.

    Attributes:
        number: from 1.
        state: ``killed`` where its process died without a word.
        reason: why it did not complete: ``out of memory``, ``budget``, ``stopped``, ``timeout``, ``exit code 3``,
            ``killed by SIGKILL``; "" where it completed.
        exit_code: of the command; None where not known.
        started, ended: by the wall clock; ``ended`` None while it runs, and where it was killed.
        host: the machine's name.
        machine: tells it from others: the boot of its kernel, else the host's name; "" where not known.
        folder: where its run.json and output.log are.
        record: its run record; None where there is none, or where it is part of a later attempt's (``resume: true``).
        unreadable: why there is no record, where there should be one.
        shared_ratio: its share of its machine: less than 1 where cells ran side by side. The record's CPU and DRAM
            energy and its cost are those of the whole machine.
        gpus: that it was given, as ``CUDA_VISIBLE_DEVICES`` names them; "" where it was given none.
    """

    number: int
    state: AttemptState
    reason: str
    exit_code: int | None
    started: datetime
    ended: datetime | None
    host: str
    folder: Path
    record: RunRecord | None
    unreadable: str = ""
    shared_ratio: float = 1.0
    gpus: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A variant with a seed, and what became of it.

    Attributes:
        variant, seed: what it is.
        block: of the order, from 1: each block holds every variant once.
        position: in the order, from 1.
        folder: of the cell.
        state: of its last attempt; ``pending`` before the first.
        reason: as of the last attempt; of a pending cell, why it was not started (``budget: ...``).
        attempts: all of them, the last one last.
    """

    variant: Variant
    seed: int
    block: int
    position: int
    folder: Path
    state: CellState
    reason: str = ""
    attempts: tuple[CellAttempt, ...] = ()

    @property
    def name(self) -> str:
        """Variant and seed, as the folders are named."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Of the command, those of the study included."""
        return self.variant.parameters

    @property
    def record(self) -> RunRecord | None:
        """The record of the last attempt."""
        return self.attempts[-1].record if self.attempts else None

    @property
    def out_of_memory(self) -> bool:
        """Whether the last attempt ran out of memory: a result, which is not tried again."""
        return self.state == "failed" and self.reason.startswith(OUT_OF_MEMORY)

    @property
    def usable(self) -> bool:
        """Whether its record is a result to compare: of an attempt that completed."""
        return self.state == "completed" and self.record is not None


@dataclass(frozen=True, slots=True)
class Spent:
    """What attempts used: of cells that ran side by side on a machine, the machine once.

    Attributes:
        attempts: how many were counted.
        seconds: the sum of their durations.
        it_energy_joules, facility_energy_joules, emissions_grams: sums, of what is known.
        cost_usd: by tier.
        recorded: attempts that have a record; those that started no run have none, and used nothing.
        unreadable: attempts that ended without a record that can be read.
        running: attempts that go on: they are not in the sums.
        known: attempts that tell a figure: ``time``, ``energy``, ``facility energy``, ``emissions``, ``cost, TIER``.
        partly: by figure, those of ``known`` that tell a lower bound alone.
    """

    attempts: int = 0
    seconds: float = 0.0
    it_energy_joules: float = 0.0
    facility_energy_joules: float = 0.0
    emissions_grams: float = 0.0
    cost_usd: Mapping[str, float] = field(default_factory=dict)
    recorded: int = 0
    unreadable: int = 0
    running: int = 0
    known: Mapping[str, int] = field(default_factory=dict)
    partly: Mapping[str, int] = field(default_factory=dict)

    def missing(self, figure: str) -> int:
        """Return of how many attempts a figure is not wholly in the sum: not known, or the attempt still runs."""
        lacking = self.recorded - self.known.get(figure, 0) + self.partly.get(figure, 0)
        return lacking + self.unreadable + self.running

    @property
    def unknown(self) -> dict[str, int]:
        """By what is not wholly known, of how many attempts that have ended; a cost that no attempt tells is no sum."""
        costs = [f"cost, {tier}" for tier in self.cost_usd]
        lacking = {
            name: self.recorded - self.known.get(name, 0) + self.partly.get(name, 0)
            for name in ("energy", "facility energy", "emissions", *costs)
        }
        return {name: number for name, number in {"record": self.unreadable, **lacking}.items() if number}


@dataclass(frozen=True, slots=True)
class Study:
    """A study's folder as it was read.

    Attributes:
        folder: of the study.
        id: tells it from other studies.
        created: when it was frozen.
        plan: file, variants, baseline, seeds.
        cells: in the order in which they are run.
    """

    folder: Path
    id: str
    created: datetime
    plan: Plan
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Of the study, with its profile."""
        return self.plan.file.name + (f" ({self.plan.profile})" if self.plan.profile else "")

    def of_variant(self, name: str) -> list[Cell]:
        """Return the cells of a variant, by seed as the study file has them."""
        cells = {cell.seed: cell for cell in self.cells if cell.variant.name == name}
        return [cells[seed] for seed in self.plan.seeds]

    @property
    def attempts(self) -> list[CellAttempt]:
        """All attempts of all cells."""
        return [attempt for cell in self.cells for attempt in cell.attempts]

    @property
    def spent(self) -> Spent:
        """What the whole study used so far: failed, stopped and repeated attempts included."""
        return spent(self.attempts)


def create(folder: Path, plan: Plan) -> Study:
    """Freeze a plan in a folder, or open the folder that was made from the same plan.

    Of a study that has begun, budgets, retries, time limits and the like may differ: those of ``plan`` then count.

    Raises:
        SettingsError: the folder holds something else, or another plan.
        RecordError: it cannot be written.
    """
    files.write(folder / STUDY_FILE, json.dumps(_content(folder, plan), indent=1) + "\n")
    return load(folder)


def opened(folder: Path, plan: Plan) -> Study:
    """Return the study that ``create`` would make or open; nothing is written.

    Raises:
        SettingsError: the folder holds something else, or another plan.
    """
    return _with_cells(folder, _content(folder, plan), records=True)


def _content(folder: Path, plan: Plan) -> dict[str, Any]:
    """Return what study.json is to hold."""
    content: dict[str, Any] = {
        "greenml_study": VERSION,
        "id": secrets.token_hex(8),
        "created": datetime.now(timezone.utc).isoformat(),
        "directory": str(plan.directory),
        "profile": plan.profile,
        "cells": [{"variant": variant, "seed": seed, "block": block} for block, variant, seed in _order(plan)],
        "study": plan.source.model_dump(mode="json", exclude_unset=True),
    }
    path = folder / STUDY_FILE
    if path.exists():
        if difference := _difference(load(folder, records=False).plan, plan):
            raise SettingsError(f"{folder}: holds another study ({difference}); give another --output")
        stored = _read_json(path)
        content |= {name: stored[name] for name in ("id", "created", "cells")}
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: is not empty, and is no study; give another --output")
    return content


def load(folder: Path, *, records: bool = True) -> Study:
    """Read a study's folder: its plan, and the cells with their states and records.

    Args:
        folder: of the study, or its study.json.
        records: False to leave the records unread.

    Raises:
        RecordError: it is not the folder of a study.
    """
    folder = folder.parent if folder.name == STUDY_FILE else folder
    path = folder / STUDY_FILE
    if not path.is_file():
        raise RecordError(f"{folder}: no study (no {STUDY_FILE}); 'greenml study run STUDY.YAML' makes one")
    return _with_cells(folder, _read_json(path), records=records)


def _with_cells(folder: Path, content: Mapping[str, Any], *, records: bool) -> Study:
    path = folder / STUDY_FILE
    try:
        if content["greenml_study"] != VERSION:
            raise RecordError(f"{path}: version {content['greenml_study']}; this greenml reads {VERSION}")
        plan = make(StudyFile.model_validate(content["study"]), Path(content["directory"]), content["profile"])
        cells = [
            Cell(
                variant := plan.variant(entry["variant"]),
                int(entry["seed"]),
                int(entry["block"]),
                position,
                folder / "cells" / folder_name(variant.name) / f"seed-{entry['seed']}",
                "pending",
            )
            for position, entry in enumerate(content["cells"], 1)
        ]
        if sorted((cell.variant.name, cell.seed) for cell in cells) != sorted(
            (variant.name, seed) for variant in plan.variants for seed in plan.seeds
        ):
            raise ValueError("its cells are not those of its variants and seeds")
        study = Study(folder, str(content["id"]), datetime.fromisoformat(content["created"]), plan, tuple(cells))
    except (KeyError, TypeError, ValueError, StopIteration, ValidationError, SettingsError) as error:
        raise RecordError(
            f"{path}: not a study's plan: {(str(error) or 'a variant is missing').splitlines()[0]}"
        ) from None
    return replace(study, cells=tuple(_shared([_with_attempts(cell, plan, records=records) for cell in cells])))


def _order(plan: Plan) -> list[tuple[int, str, int]]:
    names = [variant.name for variant in plan.variants]
    return [
        (block, names[index], seed)
        for block, (seed, positions) in enumerate(study_plan.blocks(len(names), plan.seeds, plan.file.order_seed), 1)
        for index in positions
    ]


def _difference(before: Plan, after: Plan) -> str:
    """Say in what two plans differ that changes a cell; "" where they do not."""
    if before.profile != after.profile:
        return f"profile {before.profile or 'none'}, not {after.profile or 'none'}"
    if before.seeds != after.seeds:
        return f"seeds {', '.join(map(str, before.seeds))}"
    names = [[variant.name for variant in plan.variants] for plan in (before, after)]
    if names[0] != names[1]:
        return f"variants {', '.join(names[0])}"
    for old, new in zip(before.variants, after.variants, strict=True):
        if (old.command, old.args, old.parameters, old.env) != (new.command, new.args, new.parameters, new.env):
            return f"variant {old.name} has another command"
    return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(files.read(path))
    except ValueError:
        raise RecordError(f"{path}: not JSON; it was cut off or changed by hand") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: not a study's file")
    return content


# -- cells ----------------------------------------------------------------------------------------------------------


def _with_attempts(cell: Cell, plan: Plan, *, records: bool) -> Cell:
    """Return a cell with what its folder tells of its attempts."""
    path = cell.folder / CELL_FILE
    if not path.is_file():
        return cell
    content = _read_json(path)
    try:
        attempts = list(_attempts(cell, plan, content.get("attempts", []), records=records))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise RecordError(f"{path}: not a cell's file; it was changed by hand") from None
    if not attempts:
        return replace(cell, reason=str(content.get("skipped", "")))
    return replace(cell, state=attempts[-1].state, reason=attempts[-1].reason, attempts=tuple(attempts))


def _attempts(cell: Cell, plan: Plan, entries: Sequence[Mapping[str, Any]], *, records: bool) -> Iterator[CellAttempt]:
    """Yield the attempts of a cell, by the entries of its cell.json."""
    alive = files.is_locked(cell.folder / LOCK_FILE)
    for entry in entries:
        last = entry is entries[-1]
        folder = cell.folder if last or plan.file.resume else cell.folder / f"attempt-{entry['number']}"
        state, reason = entry["state"], entry.get("reason", "")
        if state not in get_args(AttemptState):
            raise ValueError(f"no state of an attempt: {state}")
        if state == "running" and not (last and alive and _is_here(entry)):
            state, reason = _without_word(entry, folder, last=last)
        record, unreadable = None, "" if last else "no run of its own: its figures are in the last attempt's record"
        if records and state != "running" and (last or not plan.file.resume):
            record, unreadable = _record(folder)
        yield CellAttempt(
            int(entry["number"]), state, reason, entry.get("exit_code"),
            datetime.fromtimestamp(entry["started"], timezone.utc),
            datetime.fromtimestamp(entry["ended"], timezone.utc) if entry.get("ended") else None,
            entry.get("host", ""), folder, record, unreadable, gpus=entry.get("gpus", ""), machine=_machine(entry),
        )  # fmt: skip


def this_machine() -> dict[str, str]:
    """Return what an attempt's entry holds of the machine that it runs on."""
    return {"host": socket.gethostname(), "boot_id": trace_file.boot_id()}


def _machine(entry: Mapping[str, Any]) -> str:
    host, boot = trace_file.machine(entry)
    return host or boot


def _is_here(entry: Mapping[str, Any]) -> bool:
    return _machine(entry) in (_machine(this_machine()), socket.gethostname())


STALE_SECONDS = 30.0  # a trace is written once in two seconds: one that is so old has nobody who writes it


def _without_word(entry: Mapping[str, Any], folder: Path, *, last: bool) -> tuple[AttemptState, str]:
    """Tell the state of an attempt whose process is not seen: killed, or running on another machine."""
    if last and not _is_here(entry):
        times = [path.stat().st_mtime for path in run_dir_of(folder / RECORD_FILE).glob("*.jsonl")]
        if max([entry["started"], *times]) > datetime.now(timezone.utc).timestamp() - STALE_SECONDS:
            return "running", ""
    return "killed", "killed: its process ended without a word"


def _record(folder: Path) -> tuple[RunRecord | None, str]:
    path = folder / RECORD_FILE
    if not path.exists() and not run_dir_of(path).is_dir():
        return None, "no run was started"
    try:
        return open_record(path), ""
    except RecordError as error:
        return None, str(error)


def reload(study: Study, cell: Cell, *, records: bool = True) -> Study:
    """Return a study in which a cell is as its folder tells now."""
    fresh = _with_attempts(replace(cell, state="pending", reason="", attempts=()), study.plan, records=records)
    cells = [fresh if other.position == cell.position else other for other in study.cells]
    return replace(study, cells=tuple(_shared(cells)))


def as_of_now(study: Study) -> Study:
    """Return a study with the shares of its attempts up to now, as cells that still run change them."""
    return replace(study, cells=tuple(_shared(study.cells)))


def _shared(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Yield the cells, each attempt with its share of its machine while others ran beside it."""
    now = datetime.now(timezone.utc).timestamp()
    spans: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        for attempt in cell.attempts:
            spans.setdefault(attempt.machine, []).append(_span(attempt, now))
    shares = {machine: _shares(there) for machine, there in spans.items() if machine}
    for cell in cells:
        made = tuple(
            replace(attempt, shared_ratio=shares.get(attempt.machine, {}).get(_span(attempt, now), 1.0))
            for attempt in cell.attempts
        )
        yield replace(cell, attempts=made)


def _span(attempt: CellAttempt, now: float) -> tuple[float, float]:
    record = attempt.record
    start = attempt.started.timestamp()
    if attempt.ended is not None:
        return start, attempt.ended.timestamp()
    if attempt.state == "running":
        return start, max(start, now)
    return start, record.ended.timestamp() if record is not None and record.ended is not None else start


def _shares(spans: Sequence[tuple[float, float]]) -> dict[tuple[float, float], float]:
    """Return the mean over each span's time of 1 / (spans at that time)."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    at: dict[float, float] = {}  # of each edge, the integral of 1 / (spans at that time) up to it
    integral, count, before = 0.0, 0, 0.0
    for edge, change in changes:
        integral += (edge - before) / count if count else 0.0
        at[edge] = integral
        count, before = count + change, edge
    return {(start, end): (at[end] - at[start]) / (end - start) for start, end in spans if end > start}


def own_ratio(whole_joules: float, gpu_joules: float, share: float) -> float:
    """Return the part of a run's energy that is the cell's own: that of its GPUs, and its share of CPU and DRAM."""
    return (gpu_joules + (whole_joules - gpu_joules) * share) / whole_joules if whole_joules else 1.0


def spent(attempts: Sequence[CellAttempt]) -> Spent:
    """Add up what attempts used.

    CPU and DRAM of a machine, and its price, are shared evenly among the cells that ran on it at the same time.
    """
    sums: dict[str, float] = {}
    known: dict[str, int] = {}
    partly: dict[str, int] = {}
    recorded = unreadable = running = 0

    def add(name: str, quantity: Quantity, scale: float) -> None:
        if quantity.value is not None:
            sums[name] = sums.get(name, 0.0) + quantity.value * scale
            known[name] = known.get(name, 0) + 1
            partly[name] = partly.get(name, 0) + quantity.at_least

    for attempt in attempts:
        total = attempt.record.total() if attempt.record is not None else None
        if total is None:
            running += attempt.state == "running"
            unreadable += attempt.state != "running" and not attempt.unreadable.startswith("no run")
            continue
        recorded += 1
        sums["time"] = sums.get("time", 0.0) + total.seconds
        known["time"] = recorded
        share = attempt.shared_ratio
        own = own_ratio(total.it_energy_joules.value or 0.0, total.gpu_energy_joules.value or 0.0, share)
        add("energy", total.it_energy_joules, own)
        add("facility energy", total.facility_energy_joules, own)
        add("emissions", total.emissions_grams, own)
        for tier, quantity in total.cost_usd.items():
            add(f"cost, {tier}", quantity, share)
    cost = {name.removeprefix("cost, "): usd for name, usd in sums.items() if name.startswith("cost, ")}
    return Spent(
        len(attempts), sums.get("time", 0.0), sums.get("energy", 0.0), sums.get("facility energy", 0.0),
        sums.get("emissions", 0.0), cost, recorded, unreadable, running, known, partly,
    )  # fmt: skip


# -- what the process that runs a cell writes -----------------------------------------------------------------------


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a cell's attempts."""
    path = folder / CELL_FILE
    return list(_read_json(path).get("attempts", [])) if path.is_file() else []


def write_cell(study: Study, cell: Cell, attempts: Sequence[Mapping[str, Any]], skipped: str = "") -> None:
    """Write a cell's file."""
    content = {
        "greenml_cell": VERSION,
        "study": study.id,
        "variant": cell.variant.name,
        "seed": cell.seed,
        "attempts": list(attempts),
        **({"skipped": skipped} if skipped else {}),
    }
    files.write(cell.folder / CELL_FILE, json.dumps(content, indent=1) + "\n")


def set_aside(folder: Path, number: int) -> None:
    """Move what an earlier attempt left into a folder of its own, so that the next one begins in a clean one."""
    into = folder / f"attempt-{number}"
    into.mkdir(exist_ok=True)
    for path in list(folder.iterdir()):
        if path.name in (CELL_FILE, LOCK_FILE) or path.name.startswith("attempt-"):
            continue
        with contextlib.suppress(OSError):
            os.replace(path, into / path.name)  # noqa: PTH105  a folder, too
