"""Execution of a study's cells, one after the other or side by side, until all have run or the budget is used up.

What has happened stands in the cells' folders alone. So a study that was killed and is started again goes on where it
was: cells that have ended are kept, cells that still run are waited for, and a killed cell is an attempt that counts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

from greenml import files
from greenml.analysis.study import attempt, expectation
from greenml.analysis.study import folder as study_folder
from greenml.analysis.study.folder import BUDGET, RECORD_FILE, STOPPED, TO_RUN, Cell, Study
from greenml.errors import SettingsError
from greenml.run import exit_hooks
from greenml.run.live import LiveRun
from greenml.trace import run_dir_of

POLL_SECONDS = 0.2
BUDGET_SECONDS = 1.0  # between two looks at what the running cells have used
TELLS_SECONDS = 60.0  # a run that has gone on for so long tells what it uses, or never will


class Started(Protocol):
    """A cell that somebody runs."""

    def ended(self) -> bool:
        """Tell whether it has ended."""

    def kill(self) -> None:
        """End it at once, without a word."""


class Place(Protocol):
    """Where cells run."""

    def room(self, cell: Cell, running: Sequence[Cell]) -> bool:
        """Tell whether a cell can start beside those that run."""

    def start(self, study: Study, cell: Cell) -> Started:
        """Start an attempt of a cell."""


class Observer(Protocol):
    """Is called at each event of a study."""

    def began(self, study: Study, cell: Cell) -> None:
        """A cell was started; ``study`` is as it is now."""

    def ended(self, study: Study, cell: Cell) -> None:
        """A cell has ended."""

    def said(self, text: str) -> None:
        """Something else is worth a line."""


@dataclass(slots=True)
class _Running:
    cell: Cell
    started: Started
    live: LiveRun | None = None  # once the attempt has begun: before, its folder may hold an earlier one's traces
    used: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the execution of a study ended.

    Attributes:
        study: as it is then.
        stopped: somebody stopped it.
        over_budget: which budget kept cells from running; "" where none did.
    """

    study: Study
    stopped: bool
    over_budget: str


def run(
    study: Study, place: Place, observer: Observer, *, most: int | None = None, retry_failed: bool = False
) -> Outcome:
    """Run the cells of a study that have not run.

    Args:
        study: to run.
        place: where.
        observer: called at each event.
        most: how many cells at most; None for all.
        retry_failed: also run cells again that failed for good.

    Raises:
        SettingsError: another process runs the study.
    """
    lock = files.ProcessLock(study.folder / study_folder.LOCK_FILE)
    if not lock.acquire():
        raise SettingsError(f"{study.folder}: another process runs this study")
    try:
        with _signals() as signals:
            return _Execution(study, place, observer, signals).run(most, retry_failed=retry_failed)
    finally:
        lock.release()


class _Execution:
    """A study that is being run."""

    def __init__(self, study: Study, place: Place, observer: Observer, signals: list[int]) -> None:
        self._study, self._place, self._observer, self._signals = study, place, observer, signals
        self._running: list[_Running] = []
        self._over_budget = ""
        self._looked = 0.0
        self._recorded_before = study.spent.recorded
        self._said: set[str] = set()
        self._kills = 0
        self._waits = False

    def run(self, most: int | None, *, retry_failed: bool) -> Outcome:
        self._adopt()
        states = (*TO_RUN, "failed") if retry_failed else TO_RUN
        waiting = [cell for cell in self._study.cells if cell.state in states or self._has_retries(cell)][:most]
        while waiting or self._running:
            for ended in [running for running in self._running if running.started.ended()]:
                self._running.remove(ended)
                cell = self._ended(ended.cell)
                if self._runs_again(ended, cell):
                    self._observer.said(f"{cell.name}: once more")
                    waiting.insert(0, cell)
            if self._signals:
                waiting = []
            self._guard()
            self._stop_what_must()
            while waiting and not self._over_budget and self._starts(waiting[0]):
                waiting.pop(0)
            if self._over_budget and waiting:
                self._leave_out(waiting)
                waiting = []
            if waiting or self._running:
                time.sleep(POLL_SECONDS)
        return Outcome(self._study, bool(self._signals), self._over_budget)

    def _adopt(self) -> None:
        """Wait for the cells that an earlier execution left running."""
        for cell in self._study.cells:
            if cell.state == "running":
                self._observer.said(f"{cell.name}: still runs; it is waited for")
                self._running.append(_Running(cell, _Adopted(self._study, cell)))

    def _runs_again(self, ended: _Running, cell: Cell) -> bool:
        """Tell whether a cell that has ended is to be started again now."""
        if self._signals or self._over_budget:
            return False
        lost = isinstance(ended.started, _Adopted) and cell.state in TO_RUN  # by the end of an earlier execution
        return lost or self._has_retries(cell)

    def _has_retries(self, cell: Cell) -> bool:
        """Tell whether a cell that failed is to be started again; out of memory is a result."""
        if cell.state != "failed" and not (cell.state == "killed" and cell.attempts):
            return False
        failed = sum(attempt.state in ("failed", "killed") for attempt in cell.attempts)
        return not cell.out_of_memory and failed <= (self._study.plan.file.retries or 0)

    def _ended(self, cell: Cell) -> Cell:
        self._study = study_folder.reload(self._study, cell)
        cell = self._study.cells[cell.position - 1]
        self._observer.ended(self._study, cell)
        self._looked = 0.0
        for text in expectation.lower_bounds(self._study):
            if (budget := text.partition(" ")[0]) not in self._said:
                self._said.add(budget)
                self._observer.said(text)
        return cell

    def _starts(self, cell: Cell) -> bool:
        """Start a cell where there is room and budget for it."""
        if not self._place.room(cell, [running.cell for running in self._running]):
            if not self._running and not self._waits:
                self._waits = True
                self._observer.said(f"{cell.name}: waits for {cell.variant.gpus} GPUs that no other process uses")
            return False
        expected = expectation.of_variants(self._study)
        rest = {
            name: sum(
                max(getattr(expected[running.cell.variant.name], name) or 0.0, running.used.get(name) or 0.0)
                for running in self._running
            )
            for name in expectation.FIGURES
        }
        reason = expectation.would_not_fit(self._study, expected[cell.variant.name], rest)
        if reason:
            if not self._running:  # else those that run may use less than expected
                self._over_budget = reason
            return False
        self._observer.began(self._study, cell)
        self._running.append(_Running(cell, self._place.start(self._study, cell)))
        return True

    def _guard(self) -> None:
        """Stop the cells where they, with what was used before, are beyond the budget."""
        file = self._study.plan.file
        if self._over_budget or (file.max_usd, file.max_kwh, file.max_kg) == (None, None, None):
            return
        if time.monotonic() < self._looked + BUDGET_SECONDS:
            return
        self._looked = time.monotonic()
        for running in self._running:
            if self._study.cells[running.cell.position - 1].state != "running":  # so far as it was read
                self._study = study_folder.reload(self._study, running.cell)
        self._study = study_folder.as_of_now(self._study)
        for running in self._running:
            cell = self._study.cells[running.cell.position - 1]
            if cell.state != "running":  # not begun; or ended, and counted by its record
                running.used = {}
                continue
            if running.live is None:
                running.live = LiveRun(run_dir_of(cell.folder / RECORD_FILE))
            share = cell.attempts[-1].shared_ratio
            running.used = used(running.live, share, expectation.tier(file)) or running.used
        more = self._used_now()
        self._over_budget = expectation.over_budget(self._study, more) or expectation.not_held(
            self._study, more, self._recorded_before
        )
        if self._over_budget and self._running:
            self._observer.said(f"over the budget ({self._over_budget}); what runs is stopped")

    def _used_now(self) -> dict[str, float | None]:
        """Return by figure what the running cells have used; None where none of those that should tell it does."""
        sums: dict[str, float | None] = {}
        for name in expectation.FIGURES:
            values = [running.used[name] for running in self._running if name in running.used]
            known = [value for value in values if value is not None]
            if values:
                sums[name] = sum(known) if known else None
        return sums

    def _stop_what_must(self) -> None:
        """Stop what runs where somebody asks for it, or the budget is used up; kill it where somebody asks again."""
        if self._signals:
            self._stop(STOPPED)
            if len(self._signals) - 1 > self._kills:
                self._kills = len(self._signals) - 1
                for running in self._running:
                    running.started.kill()
        elif self._over_budget:
            self._stop(f"{BUDGET}: {self._over_budget}")

    def _stop(self, reason: str) -> None:
        for running in self._running:
            if not (running.cell.folder / attempt.STOP_FILE).exists():
                attempt.ask_to_stop(running.cell, reason)

    def _leave_out(self, cells: Sequence[Cell]) -> None:
        """Write into the cells that are not run why they are not."""
        for cell in cells:
            entries = study_folder.read_attempts(cell.folder)
            cell.folder.mkdir(parents=True, exist_ok=True)
            study_folder.write_cell(self._study, cell, entries, skipped=f"{BUDGET}: {self._over_budget}")
            self._study = study_folder.reload(self._study, cell)


def used(live: LiveRun, share: float, tier: str) -> dict[str, float | None]:
    """Return by figure what a running cell has used: its GPUs, and its share of what is the machine's.

    What its traces do not tell is None once it has run for a minute; before that, it is left out.

    Args:
        live: of its run.
        share: of its machine, up to now.
        tier: whose price counts.
    """
    with contextlib.suppress(Exception):  # a trace that is being made: the next look will tell
        totals = live.totals()
        joules, grams, usd = totals.energy_joules, totals.emissions_grams, totals.cost_usd.get(tier)
        own = study_folder.own_ratio(joules or 0.0, live.gpu_joules(), share)
        pue = live.factors.pue.value if live.factors.pue is not None else 1.0
        figures = {
            "facility_energy_joules": None if joules is None else joules * own * pue,
            "emissions_grams": None if grams is None else grams * own,
            "cost_usd": None if usd is None else usd * share,
        }
        tells = totals.seconds >= TELLS_SECONDS
        return {name: value for name, value in figures.items() if tells or value is not None}
    return {}


class _Adopted:
    """A cell that an earlier execution started."""

    def __init__(self, study: Study, cell: Cell) -> None:
        self._study, self._cell = study, cell

    def ended(self) -> bool:
        return (
            study_folder.reload(self._study, self._cell, records=False).cells[self._cell.position - 1].state
            != "running"
        )

    def kill(self) -> None:
        """Nothing but the stop file reaches it."""


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop, in place of dying of them."""
    numbers: list[int] = []

    def collect(number: int, _: FrameType | None) -> None:
        numbers.append(number)

    with exit_hooks.handled_signals(("SIGINT", "SIGTERM", "SIGHUP"), collect):
        yield numbers


# -- this machine ---------------------------------------------------------------------------------------------------


class ThisMachine:
    """Cells run here: those that need GPUs beside each other while GPUs are free, others one after the other.

    Args:
        parallel: cells side by side at the most; None for as many as GPUs are free, and one that needs none.
    """

    def __init__(self, study: Study, parallel: int | None) -> None:
        needs = [variant.gpus for variant in study.plan.variants]
        self._gpus = visible_gpus() if any(needs) or (parallel or 1) > 1 else []
        self._parallel = parallel
        self._taken: dict[int, list[str]] = {}  # by position of the cell
        for variant in study.plan.variants:
            if (variant.gpus or 0) > len(self._gpus):
                raise SettingsError(
                    f"variant {variant.name} needs {variant.gpus} GPUs; this machine shows {len(self._gpus)}"
                )
        if self._gpus and (parallel or 1) > 1 and None in needs:
            raise SettingsError("side by side on a machine with GPUs: say how many a cell needs, such as 'gpus: 1'")

    def room(self, cell: Cell, running: Sequence[Cell]) -> bool:
        """Tell whether a cell can start beside those that run."""
        self._taken = {other.position: self._taken.get(other.position) or _given(other) for other in running}
        needs, most = cell.variant.gpus, self._parallel or len(running) + 1
        if needs is None or any(other.variant.gpus is None for other in running):
            return len(running) < (self._parallel or 1)
        if needs == 0:
            return len(running) < most and sum(not other.variant.gpus for other in running) < (self._parallel or 1)
        return len(running) < most and len(self._free()) >= needs

    def _free(self) -> list[str]:
        taken = {gpu for gpus in self._taken.values() for gpu in gpus}
        left = [gpu for gpu in self._gpus if gpu not in taken]
        return [gpu for gpu in left if gpu not in gpus_in_use()] if "CUDA_VISIBLE_DEVICES" not in os.environ else left

    def start(self, study: Study, cell: Cell) -> Started:
        """Start an attempt of a cell."""
        variables = dict(os.environ)
        if cell.variant.gpus:
            gpus = self._free()[: cell.variant.gpus]
            self._taken[cell.position] = gpus
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        return _Process(attempt.spawn(study, cell, variables))


class _Process:
    """A cell in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _given(cell: Cell) -> list[str]:
    """Return the GPUs of a cell that an earlier execution started."""
    return [gpu for gpu in (cell.attempts[-1].gpus if cell.attempts else "").split(",") if gpu]


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that this process shows to CUDA: as ``CUDA_VISIBLE_DEVICES`` names them, else by UUID."""
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [name.strip() for name in shown.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    return list(_processes_by_gpu())


def gpus_in_use() -> set[str]:
    """Return the UUIDs of the GPUs that some process computes on, as far as the driver tells."""
    return {uuid for uuid, processes in _processes_by_gpu().items() if processes}


def _processes_by_gpu() -> dict[str, int]:
    """Return the number of computing processes by UUID of this machine's GPUs; empty where there is no driver."""
    counts: dict[str, int] = {}
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = pynvml.nvmlDeviceGetUUID(handle)
                name = uuid.decode() if isinstance(uuid, bytes) else uuid
                counts[name] = 0
                with contextlib.suppress(pynvml.NVMLError):  # a driver that does not tell: taken as free
                    counts[name] = len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # noqa: BLE001  no driver, or one with trouble: there is no GPU to hand out
        return counts
    return counts
