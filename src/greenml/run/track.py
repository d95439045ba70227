"""The Python interface, track() and Run, which connects the stages of a measurement.

``track()`` raises on misuse. Once it has started, nothing here raises into training code: trouble becomes a note.
Phases nest by thread and by asyncio task. A function that is tracked is measured at every call, of whatever kind it is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from greenml import files
from greenml.accounting.status import RunningTotals
from greenml.errors import SettingsError, is_of_handler
from greenml.redaction import RedactingFilter, redact_text
from greenml.run import environment, exit_hooks, membership
from greenml.run.exit_hooks import outcome
from greenml.run.recorder import Recorder
from greenml.settings import Settings, resolve
from greenml.trace import run_dir_of
from greenml.trace.lines import STATUSES, Line, to_jsonable

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord
    from greenml.run.gather import Gathered
    from greenml.run.live import BackgroundTotals
    from greenml.sinks import Delivery


log = logging.getLogger("greenml")
log.addFilter(RedactingFilter())


def _never_raising(handle: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
    """Return what hands a record to a program's own handlers; one that raises ends no training."""

    def handled(record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            handle(record)

    return handled


log.callHandlers = _never_raising(log.callHandlers)  # type: ignore[method-assign,assignment]
Function = TypeVar("Function", bound=Callable[..., Any])
MOST_TROUBLES = 20  # notes of calls that had no effect


def track(
    output: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    sku: str | None = None,
    region: str | None = None,
    tier: str | None = None,
    nodes: int | None = None,
    gpus: str | list[int | str] | None = None,
    interval: float | None = None,
    carbon_intensity: float | None = None,
    price_per_hour: float | None = None,
    pue: float | None = None,
    intensity: str | os.PathLike[str] | None = None,
    market_intensity: float | None = None,
    lifetime_years: float | None = None,
    basis: str | None = None,
    sinks: list[str] | None = None,
    resume: bool = False,
) -> Run:
    """Measure a block of code: a context manager, a decorator, or a run to ``start()`` and ``stop()``.

    What is not given here is looked for in the environment (``GREENML_SKU`` ...), then in ``[tool.greenml]`` of
    pyproject.toml.

    Args:
        output: where the record goes, a file that ends in .json or a folder; ``run.json`` by default. A record that
            is there already is kept: the new one is then named ``run-2.json``.
        name: of the run.
        sku: the cloud's machine size, for the price: ``ND40rs_v2``. ``greenml skus`` lists them.
        region: where it runs: ``westus2``, ``SWE``; ``auto`` asks the cloud's link-local metadata service.
        tier: which price was paid: ``dedicated``, ``low_priority`` or ``spot``.
        nodes: machines billed; as many as took part by default.
        gpus: ``all`` of the node, or a list of indices, UUIDs or UUID prefixes; those CUDA shows by default.
        interval: seconds between readings; what the sensors need by default (1 s where a counter or the driver's sample
            buffer carries the energy, 0.1 s or less where power must be polled).
        carbon_intensity: g CO2e per kWh, in place of the tables.
        price_per_hour: USD per node and hour, in place of the tables.
        pue: power usage effectiveness, in place of the tables.
        intensity: the provider of the carbon intensity as the run goes on: ``electricity_maps``, ``watttime``,
            ``uk_grid``, or a CSV file of yours; none by default (docs/intensity.md).
        market_intensity: g CO2e per kWh of a contract, beside the location's.
        lifetime_years: of the hardware, for its share of embodied carbon.
        basis: of the carbon intensity: ``direct`` (at the power plants, scope 2; the default) or ``lifecycle`` (with
            fuel supply and the building of plants). The other one is shown beside it.
        sinks: where figures go while the run goes on, and the record at its end: ``mlflow``, ``wandb``, ``trackio``,
            ``tensorboard``, ``prometheus:9400``, ``opentelemetry``; nowhere by default (docs/sinks.md).
        resume: add an attempt to the run that is at ``output``, if one is.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """
    arguments: dict[str, Any] = {name: value for name, value in locals().items() if name != "resume"}
    if callable(output):
        raise SettingsError("track was given a function; as a decorator it is written with brackets: @greenml.track()")
    arguments["intensity"] = None if intensity is None else str(intensity)
    return Run(checked_settings(arguments), resume=resume)


def checked_settings(arguments: Mapping[str, Any]) -> Settings:
    """Resolve the settings of a run and check them against the tables, the machine and the sinks.

    Raises:
        SettingsError: a value is wrong.
    """
    return exit_hooks.imports(lambda: _checked(resolve(arguments)))


def _checked(settings: Settings) -> Settings:
    if settings.known_from.keys() - {"output", "name", "gpus", "interval", "nodes", "sinks"}:  # a factor was named
        from greenml.accounting.check import check

        settings = check(settings)
    if settings.gpus is not None:
        from greenml.sensors import check_gpus

        check_gpus(settings.gpus)
    if settings.sinks:
        from greenml import sinks as sink_folder

        sink_folder.check(settings.sinks)
    return settings


def _guarded(method: Function) -> Function:
    """Make a method of a run one that never raises: what it raised is a note."""

    @functools.wraps(method)
    def guarded(run: Run, /, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401  as the method has it
        try:
            return method(run, *arguments, **keywords)
        except Exception as error:  # a fault of ours, or a wrong argument, never ends a training
            if is_of_handler(error):
                raise
            run._trouble(method.__name__, error)
            return None

    return guarded  # type: ignore[return-value]


class Run:
    """A run that is being measured. Made by ``track()``.

    Every method may be called from any thread, and from a signal's handler at any moment. None but ``start()`` raises:
    what cannot be done is a note in the record. What a signal's handler of the program raises meanwhile goes through.

    Args:
        settings: resolved.
        resume, watches, command: as for ``track()``; of ``greenml run``.
        identity: returns who this process is.
        origin_seconds: a time at which the sensors are read, with every whole second before and after it; any by
            default.
        join: the folder of traces of a run that this process belongs to, whoever it is.

    Attributes:
        output: where the record goes, once started.
        record: the record, once stopped; None where another process of the run writes it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resume: bool = False,
        watches: bool = False,
        command: list[str] | None = None,
        identity: Callable[[], membership.Job] = membership.current,
        origin_seconds: float | None = None,
        join: Path | None = None,
    ) -> None:
        self._folder = _working_folder()
        self.settings = replace(settings, output=_absolute(settings.output, self._folder))
        self.output = self.settings.output
        self.record: RunRecord | None = None
        self._resume, self._watches, self._command = resume, watches, command
        self._identity, self._origin_seconds, self._join = identity, origin_seconds, join
        self._membership: membership.Membership | None = None
        self._recorder: Recorder | None = None
        self._live: BackgroundTotals | None = None
        self._delivery: Delivery | None = None
        self._pid, self._scoped = 0, False
        self._rank: int | None = None
        self._begun_seconds = -math.inf
        self._cards: set[Path] = set()
        self._outcome: tuple[str, str | None] | None = None  # how the run ends, once it is being stopped
        self._writes = 0  # how often the record was begun to be written
        self._saving: dict[int, int] = {}  # by thread: how many saves are under way in it
        self._troubles: set[str] = set()
        self._last_totals: RunningTotals | None = None
        self._owed = False  # it was ended within an import, where no record can be made
        self._unwritten = False  # the log has a line that the record was not written
        self._renew_locks()
        self._phases = OpenPhases(lambda line: self._write(line, edge=True))

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[object, ...], dict[str, object]]:
        """Leave the measurement to this object: a copy, or one in another process, is a run that has not started.

        joblib, Ray and a DataLoader's workers pickle functions and objects with all that these hold.
        """
        make = functools.partial(
            type(self), resume=self._resume, watches=self._watches, command=self._command, identity=self._identity,
            origin_seconds=self._origin_seconds, join=self._join,
        )  # fmt: skip
        return make, (self.settings,), {"output": self.output, "record": self.record, "_folder": self._folder}

    def _renew_locks(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal's handler may stop the run that this thread is stopping
        # Never waited for:
        self._start_lock, self._totals_lock, self._gather_lock = threading.Lock(), threading.Lock(), threading.Lock()

    @property
    def run_dir(self) -> Path:
        """The folder of the run's traces, once started."""
        return self._membership.run_dir if self._membership is not None else run_dir_of(self.output)

    def start(self, since_seconds: float | None = None) -> Run:
        """Begin to measure; returns within two seconds whatever the hardware does.

        Args:
            since_seconds: ``time.monotonic()`` of when the run began, if that was before now: its time is billed.

        A run that the same module started with the same output in the same thread, outside of a ``with`` block, and
        that still goes on, is ended first: the start cell of a notebook may be run twice.

        Raises:
            SettingsError: the output cannot be written.
        """
        if _is_imported_by_a_worker():  # the run is its parent's, and goes on there
            self._pid = -1
            return self
        place = self._start_place(sys._getframe(1).f_globals.get("__name__"))
        if not self._start_lock.acquire(blocking=False):
            return self  # another thread is starting it
        try:
            if self._recorder is None and self._outcome is None:
                self._start(place, since_seconds)
            elif self._recorder is None:
                log.warning("greenml: this run has ended and is not measured again; greenml.track() makes another")
        finally:
            self._start_lock.release()
        return self

    def _start(self, place: object, since_seconds: float | None) -> None:
        exit_hooks.imports(_import_what_starts)
        exit_hooks.end_earlier(place)
        me, now = self._identity(), time.monotonic()
        begun = min(now, since_seconds if since_seconds is not None else now)
        self._begun_seconds = begun
        header = {
            **{key: value for key, value in asdict(me).items() if key != "names"}, "jobs": dict(me.names),
            "start_seconds": begun, "unix_seconds": time.time() - (now - begun), "watches": self._watches,
            "name": to_jsonable(self.settings.name), "settings": to_jsonable(self.settings.as_header()),
            "command": to_jsonable(self._command or environment.command()),
            "host_facts": {**environment.host(), "cloud": environment.cloud()},
        }  # fmt: skip
        named = self._join or membership.named_run(os.environ)
        if named is None and os.environ.get(membership.RUN_DIR_VARIABLE):
            log.warning("greenml: the run that %s names has ended; this is another", membership.RUN_DIR_VARIABLE)
        self._membership, writer = membership.join_run(
            self.settings.output, me, header, resume=self._resume,
            environment={membership.RUN_DIR_VARIABLE: str(named)} if named is not None else {},
        )  # fmt: skip
        self._pid, self._rank = os.getpid(), me.rank
        self.output = _absolute(self._membership.output, self._folder)
        if self.output != self.settings.output and named is None:
            log.warning(
                "greenml: %s belongs to another run; this one goes to %s", _shown(self.settings.output),
                _shown(self.output),
            )  # fmt: skip
        recorder = Recorder(
            self.settings, self._membership, writer, self._folder, watches=self._watches,
            origin_seconds=self._origin_seconds,
        )  # fmt: skip
        self._recorder = recorder
        exit_hooks.add(self, place)
        try:
            recorder.start()
        except Exception as error:  # "can't start new thread": the run has its time and no energy
            if is_of_handler(error):
                raise
            self._trouble("start", error)
        if self.settings.sinks:
            self._start_sinks(float(header["unix_seconds"]), within=named is not None and self._join is None)

    @_guarded
    def _start_sinks(self, unix_seconds: float, *, within: bool) -> None:
        """Open the sinks, in the lead process alone. What they need is imported here: a fork waits for imports.

        Args:
            unix_seconds: when the run began.
            within: the run is one of ``greenml run``, or another that ``GREENML_RUN_DIR`` names.
        """
        if self._rank not in (None, 0):
            return
        if within and not self._watches:
            if self.settings.known_from.get("sinks") == "argument":  # else 'greenml run' has them, too
                self._note_once("sink", "only 'greenml run' delivers to the sinks of its run; give it --sink")
            return
        from greenml import sinks
        from greenml.run.live import LiveRun

        assert self._membership is not None  # noqa: S101  started
        name = redact_text(str(to_jsonable(self.settings.name)))
        info = sinks.RunInfo(self._membership.run_id, name, unix_seconds)
        self._delivery = sinks.Delivery(
            self.settings.sinks, info, LiveRun(self.run_dir).now,
            lambda code, text: self._write({"note": code, "text": text}), self._keep_joined,
        )  # fmt: skip
        self._delivery.look()
        self._delivery.start()

    def _keep_joined(self, joined: dict[str, str]) -> None:
        """Keep which runs of trackers the sinks write to, and end this run before those at Python's exit."""
        from greenml.sinks import JOINED

        self._write({"facts": {"trainer": {JOINED: joined}}})
        exit_hooks.go_first()

    @_guarded
    def offer(self, *loggers: object) -> None:
        """Show the sinks loggers that are open, such as a ``SummaryWriter`` of TensorBoard: they write there.

        What is active in this thread (an MLflow, Weights & Biases or Trackio run) is found without it, here and at the
        start of each phase.
        """
        if self._delivery is not None and self._is_active():
            self._delivery.look(*loggers)

    def _start_place(self, module: str | None) -> object:
        """Return the key of where this run is started; None for one that ends with its block or command."""
        if self._scoped or self._watches:
            return None
        return str(_absolute(self.settings.output, self._folder)), threading.current_thread(), module

    def stop(
        self, status: str = "completed", error: str | None = None, end_seconds: float | None = None
    ) -> RunRecord | None:
        """End the measurement and write the record.

        Called while it is at work, by another thread or by a signal's handler, it completes the same end: the status
        that was given first stands.

        Args:
            status: completed, failed or interrupted.
            error: what went wrong, in a line.
            end_seconds: ``time.monotonic()`` of when the run ended, if that was before now: what came after is not
                part of it.

        Returns:
            The record; None in a process of many that leaves it to another.
        """
        if not self._is_active():
            return self.record
        with self._lock:
            recorder = self._recorder
            if recorder is None:
                return self.record
            if self._outcome is None:
                failed = "completed" if error is None else "failed"
                self._outcome = (self._status(status, failed), None if error is None else str(to_jsonable(error)))
            self._end_recorder(recorder, self._within(end_seconds))
            record = self._finish()
            if self._owed:  # called by a signal's handler within an import: the next call makes it, or Python's exit
                return None
            if self._delivery is not None and record is not None:
                record = self._close_sinks(self._delivery, record)
            if self._recorder is not None:  # else a signal's handler ended it meanwhile, and has the later record
                self.record, self._recorder = record, None
                exit_hooks.discard(self)
            return self.record

    def halt(self, end_seconds: float | None = None) -> None:
        """End the measurement and leave the record to ``stop()`` or Python's exit.

        No file is made, replaced or removed: another thread of the program may be removing the folder at this moment.

        Args:
            end_seconds: as for ``stop()``.
        """
        if not self._is_active():
            return
        with self._lock:
            if self._recorder is not None:
                self._outcome = self._outcome or ("completed", None)
                self._end_recorder(self._recorder, self._within(end_seconds), remove=False)

    def _end_recorder(self, recorder: Recorder, end_seconds: float | None, *, remove: bool = True) -> None:
        assert self._outcome is not None  # noqa: S101  who ends it says how
        try:
            self._phases.end_all()
            if self._delivery is not None:
                self._delivery.settle()
            if self._live is not None:
                self._live.stop()
            recorder.stop(*self._outcome, end_seconds, remove=remove)
        except Exception as error:  # the record is made from what the trace has
            if is_of_handler(error):
                raise
            self._trouble("stop", error)

    def _close_sinks(self, delivery: Delivery, record: RunRecord) -> RunRecord:
        """Give the sinks the record; a sink that does not take it is noted in the record, which is returned."""
        self._delivery = None
        try:
            from greenml.record import file as record_file

            texts = delivery.close(record_file.redacted(record))
            if texts:
                from greenml.record.schema import Note

                notes = [*record.notes, *(Note(code="sink", text=text) for text in texts)]
                record = record.model_copy(update={"notes": notes})
                with files.locked(self.run_dir / "lock"):
                    record_file.write(record, self.output)
        except Exception as error:  # the record is written already
            if is_of_handler(error):
                raise
            log.warning("greenml: the sinks were not closed: %s", exit_hooks.outcome(error)[1])
        return record

    def _finish(self) -> RunRecord | None:
        """Write the record, if this process is the lead process of the run or the last of it."""
        assert self._membership is not None  # noqa: S101  only a started run gets here
        self._owed = exit_hooks.within_import_lock()
        if self._owed:
            self._writes += 1  # a save that was interrupted writes once more
            return None
        try:
            if exit_hooks.interrupted and not self._cards and _finish_elsewhere(self.output):
                return None
            return exit_hooks.imports(self._write_record)
        except Exception as error:  # the training is done: its results must not be lost over its record
            if is_of_handler(error):
                raise
            if exit_hooks.within_import():
                self._owed = True
            elif not (self._unwritten or files.is_gone(self.output.parent)):  # else that was said, or it was removed
                self._unwritten, shown = True, _shown(self.output)
                if not files.is_gone(self.run_dir):
                    log.warning("greenml: %s was not written (%s); 'greenml finish %s' makes it", shown, error, shown)
                else:
                    log.warning("greenml: %s cannot be written: its traces, %s, are gone", shown, _shown(self.run_dir))
            return None

    def _write_record(self) -> RunRecord | None:
        from greenml.run import finish

        record: RunRecord | None = None
        for _ in range(3):
            self._writes += 1
            number = self._writes
            if self._rank not in (None, 0) and any(trace.alive for trace in finish.traces(self.run_dir)):
                return None
            record = finish.finish(self.run_dir, self.output, self._cards)
            self._owed = False
            if number == self._writes:
                break
            # A signal's handler wrote a later record meanwhile, and this one may have taken its place: once more.
        return record

    def discard(self) -> None:
        """End a run of which nothing is to be kept: its trace goes, and its folder if nothing else is in it."""
        recorder, self._recorder = self._recorder, None
        self._outcome = ("discarded", None)
        exit_hooks.discard(self)
        if self._delivery is not None:
            self._delivery.abandon()
        if recorder is not None:
            recorder.stop("failed", None)
            recorder.discard()

    def __enter__(self) -> Run:
        self._scoped = True
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop(*outcome(error))

    def __call__(self, function: Function) -> Function:
        """Measure every call of a function, each a run of its own.

        A coroutine, a generator or an asynchronous generator is measured from its first step until it ends, is closed
        or raises; calls that run at the same time are runs of their own.
        """
        return tracked(function, functools.partial(Run, self.settings, resume=self._resume))

    def phase(self, name: str) -> Phase:
        """Mark a stretch of the run, such as ``train``; nests (``train/eval``) and repeats.

        Phases nest within a thread, and within an asyncio task; those of tasks that run at once lie side by side. It
        may be kept for several ``with`` blocks, and stand above a function of any kind: ``@run.phase("train")``.
        """
        return Phase(functools.partial(self.begin_phase, name), self.end_phase)

    def begin_phase(self, name: str, since_seconds: float | None = None) -> int:
        """Begin a phase where a ``with`` block does not fit.

        Args:
            name: of the phase.
            since_seconds: ``time.monotonic()`` of when it began, if that was before now.

        Returns:
            The number that ``end_phase`` takes.
        """
        self.offer()
        try:
            return self._phases.begin(name, self._within(since_seconds)) if self._is_active() else -1
        except Exception as error:  # a fault of ours, or a wrong argument, never ends a training
            if is_of_handler(error):
                raise
            self._trouble("begin_phase", error)
            return -1

    @_guarded
    def end_phase(self, number: int, until_seconds: float | None = None) -> None:
        """End a phase that ``begin_phase`` began; a second time does nothing.

        Args:
            number: that ``begin_phase`` returned.
            until_seconds: ``time.monotonic()`` of when it ended, if that was before now.
        """
        if self._is_active():
            self._phases.end(number, self._within(until_seconds))

    @_guarded
    def log(self, /, metrics: Mapping[str, Any] | None = None, **more: Any) -> None:  # noqa: ANN401  results of any kind
        """Keep results; of a name logged twice the later one."""
        self._keep("metrics", "metrics", metrics, more)

    @_guarded
    def params(self, /, params: Mapping[str, Any] | None = None, **more: Any) -> None:  # noqa: ANN401
        """Keep hyperparameters; of a name given twice the later one."""
        self._keep("params", "params", params, more)

    @_guarded
    def describe(self, /, **trainer: Any) -> None:  # noqa: ANN401  what a framework knows of itself
        """Keep what ran: the trainer's arguments, the model, the engine; a later value of a name replaces it."""
        if trainer and self._is_active():
            self._write({"facts": {"trainer": self._jsonable("describe", trainer)}})

    @_guarded
    def count(self, /, **counts: float) -> None:
        """Keep what this process has worked through so far, such as ``samples`` and ``tokens``; ranks are summed."""
        values = {name: to_jsonable(value) for name, value in counts.items()}
        numbers = {name: +value for name, value in values.items() if isinstance(value, int | float)}  # +True is 1
        if numbers and self._is_active():
            self._write({"facts": {"counts": numbers}})

    @_guarded
    def progress(self, step: int, steps: int | None = None, *, saved: bool = False) -> None:
        """Tell how far training is, for those who watch: ``step`` done of ``steps``; cheap enough for every step.

        Args:
            step: the last that is done.
            steps: how many there will be; None where that is not known.
            saved: a checkpoint holds this step. If the run is resumed from it, the record tells what the work after
                it took, which is done twice.
        """
        recorder = self._recorder
        done, all_steps = _whole(step), _whole(steps)
        if done is not None and recorder is not None and self._is_active():
            recorder.progress(done, all_steps, saved=bool(saved))

    @_guarded
    def read_devices(self) -> None:
        """Ask for a reading of the devices now, without waiting for it: a moment that figures will be asked for."""
        if self._recorder is not None and self._is_active():
            self._recorder.mark()

    @_guarded
    def save(self, so_far: str | None = None) -> RunRecord | None:
        """Write the record as it stands; the run goes on.

        Args:
            so_far: the status that the run has if its process ends without another word from here on.
        """
        if not self._is_active():
            return None
        if so_far:
            self._write({"so_far": self._status(so_far, "completed")})
        thread = threading.get_ident()
        depth = self._saving.get(thread, 0)
        if depth >= MOST_SAVES_WITHIN:  # signals come faster than saves end: the one that is under way writes once more
            self._writes += 1
            return None
        self._saving[thread] = depth + 1
        try:
            record = self._finish()
        finally:
            self._saving[thread] = depth
        if self._owed and not depth and self._outcome is None:
            self._note_once("call-failed", "Run.save() had no effect: a signal's handler called it within an import")
        return record

    @_guarded
    def gather(self, timeout_seconds: float = 30.0, so_far: str | None = None) -> RunRecord | None:
        """Fetch the traces of nodes that do not see this run's folder, and write the record as it stands.

        Every rank calls it. It goes through torch.distributed, if that is initialised, and ends after the timeout.
        ``so_far`` is as for ``save()``. Returns the record; None where another rank writes it.
        """
        if not self._is_active() or exit_hooks.within_import_lock() or not self._gather_lock.acquire(blocking=False):
            return None  # the latter: within gather(), as a signal's handler calls it
        try:
            gather = exit_hooks.imports(_gather)
            if so_far:
                self._write({"so_far": self._status(so_far, "completed")})
            self._write({"facts": {}}, edge=True)  # asks for the devices' readings up to now
            gathered = gather(self.run_dir, timeout_seconds=timeout_seconds)
            for line in gathered.lines:
                self._write(line)
            return self._finish() if gathered.rank == 0 else None
        finally:
            self._gather_lock.release()

    @_guarded
    def card(self, path: str | os.PathLike[str]) -> None:
        """Put the tables of the run as it stands into a model card, between markers; again when the run ends."""
        card = _absolute(Path(path), _working_folder())
        self._cards.add(card)
        if self._is_active():  # the last process of the run to end writes the card, and may be another
            self._write({"facts": {"cards": {str(card): True}}})
        self.save()

    def totals(self) -> RunningTotals:
        """Return what the whole run, every process of it, used up to now; cheap enough for every logging step.

        Returns:
            Seconds, joules, watts, grams CO2e and USD by tier; None where it is not known, and of a run that ended.
        """
        unknown = self._last_totals or RunningTotals(0.0, None, None, None, {})
        if exit_hooks.within_import_lock() or not self._totals_lock.acquire(blocking=False):
            return unknown  # the latter: another thread asks now, or this one does and a signal's handler asks again
        try:
            recorder = self._recorder
            if self._live is None and recorder is not None and self._is_active():
                self._live = exit_hooks.imports(_background_totals)(self.run_dir, lambda: recorder.place)
            if self._live is None:
                return unknown
            self._last_totals = self._live.totals() if recorder is not None else self._live.end()
            return self._last_totals
        except Exception as error:  # as in begin_phase
            if is_of_handler(error):
                raise
            self._trouble("totals", error)
            return unknown
        finally:
            self._totals_lock.release()

    @_guarded
    def note(self, text: str, code: str = "user") -> None:
        """Keep a sentence that every report of this run prints."""
        if self._is_active():
            plain = to_jsonable(text)
            self._write({"note": str(to_jsonable(code)), "text": plain if isinstance(plain, str) else str(plain)})

    def _keep(self, kind: str, name: str, values: object, more: Mapping[str, Any]) -> None:
        """Keep values given as a mapping, as keywords or both; what is no mapping stands under the argument's name."""
        if values is None and not more:
            return
        if not self._is_active():
            self._say_unheard("log" if kind == "metrics" else kind)
            return
        self.offer()
        if values is None:
            values = {}
        elif not isinstance(values, Mapping) and not hasattr(values, "keys"):
            values = {name: values}
        plain = self._jsonable(kind, values)
        self._write({kind: {**(plain if isinstance(plain, dict) else {name: plain}), **self._jsonable(kind, more)}})

    def _jsonable(self, call: str, values: Any) -> Any:  # noqa: ANN401  what a user gave
        cuts: list[str] = []
        plain = to_jsonable(
            values if isinstance(values, Mapping) or not hasattr(values, "keys") else dict(values), cuts
        )
        for cut in cuts[:3]:
            self._note_once("value-cut", f"{call}: {cut}")
        return plain

    def _status(self, status: object, otherwise: str) -> str:
        """Return a status that a record can have; a word that is none is noted, for it would read as a damaged line."""
        word = str(to_jsonable(status)).lower()
        if word in STATUSES:
            return word
        shown = str(to_jsonable(status))[:100]
        self._note_once("call-failed", f"{shown!r} is no status ({', '.join(STATUSES[1:])}); {otherwise!r} was kept")
        return otherwise

    def _trouble(self, method: str, error: Exception) -> None:
        """Note that a call had no effect, once a kind."""
        text = exit_hooks.outcome(error)[1]
        if self._note_once("call-failed", f"Run.{method}() had no effect: {text}"):
            log.warning("greenml: Run.%s() had no effect: %s", method, text)

    def _say_unheard(self, method: str) -> None:
        """Say once that a call before the start, or after the end, is lost; a forked child has no part in the run."""
        when = "has not started" if self._outcome is None else "has ended"
        text = f"Run.{method}() had no effect: the run {when}"
        if self._pid in (0, os.getpid()) and self._note_once("call-failed", text):
            log.warning("greenml: %s", text)

    def _note_once(self, code: str, text: str) -> bool:
        if text in self._troubles or len(self._troubles) > MOST_TROUBLES:
            return False
        self._troubles.add(text)
        if self._is_active():
            self._write({"note": code, "text": text})
        return True

    def _write(self, line: Line, *, edge: bool = False) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.write(line, edge=edge)

    def _within(self, seconds: float | None) -> float | None:
        """Return a time that a caller gave as one of this run: no part of it lies before its start, or to come.

        ``time.time()`` in place of ``time.monotonic()`` would otherwise make a run of decades.
        """
        try:
            given = math.nan if seconds is None else float(seconds)
        except (TypeError, ValueError, OverflowError):
            given = math.nan
        return max(self._begun_seconds, min(given, time.monotonic())) if math.isfinite(given) else None

    def _is_active(self) -> bool:
        """Tell whether this process measures the run; a forked child neither writes nor finishes its parent's run."""
        return self._pid == os.getpid() and self._recorder is not None

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent; threads that hold the locks are not here."""
        recorder, self._recorder, self._delivery = self._recorder, None, None
        self._renew_locks()
        if recorder is not None:
            recorder.forget()


def _is_imported_by_a_worker() -> bool:
    """Tell whether a worker that multiprocessing spawned is importing the program's own file, as its first act."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            return True
        frame = frame.f_back
    return False


def _import_what_starts() -> None:
    """Import what a start needs and would go on without: an interrupted import must not cost a run who and what it is.

    What a run imports stands in functions of its own, for ``exit_hooks.imports`` to call.
    """
    from greenml import sensors  # noqa: F401

    with contextlib.suppress(ImportError):
        import psutil  # noqa: F401


def _background_totals() -> type[BackgroundTotals]:
    from greenml.run.live import BackgroundTotals

    return BackgroundTotals


def _gather() -> Callable[..., Gathered]:
    from greenml.run.gather import gather

    return gather


MOST_STEPS = 10**18
MOST_SAVES_WITHIN = 2  # a save, and that of a signal's handler within it


def _whole(value: object) -> int | None:
    """Return a count as a whole number; None for None, and for what is none or is beyond all counts."""
    try:
        whole = None if value is None else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if whole is not None and abs(whole) < MOST_STEPS else None


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def _absolute(path: Path, folder: Path | None) -> Path:
    """Return a path that holds after ``os.chdir()`` too, and where a link on the way is led elsewhere.

    Raises:
        SettingsError: it is relative, and the working folder is gone.
    """
    if folder is None and not path.is_absolute():
        raise SettingsError(f"'{path}' is relative, and the working folder was removed; give an absolute path")
    path = path if folder is None else folder / path
    try:
        return path.parent.resolve() / path.name
    except (OSError, RuntimeError, ValueError):  # links in a circle, an impossible name: whoever writes there says so
        return path


def _shown(path: Path) -> str:
    """Return a path as a person would write it here."""
    folder = _working_folder()
    return str(path.relative_to(folder)) if folder is not None and path.is_relative_to(folder) else str(path)


def _finish_elsewhere(output: Path) -> bool:
    """Write a record by a process of its own; tells whether that succeeded.

    For an interpreter that ends by Ctrl-C: it forgets that in any ``exec()``, which an import is, and would exit with 1
    in place of the signal. Nothing is to be imported here.
    """
    return "greenml.run.finish" not in sys.modules and finish_elsewhere(output)


def finish_elsewhere(output: Path) -> bool:
    """Write the record as it stands by a process of its own; tells whether that succeeded, within a minute."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return False
    try:
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [sys.executable, "-m", "greenml", "finish", str(output)], stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


# The phases that this thread or task began, outermost first: which run's, and its number. A task begins with those of
# the code that created it; what it begins itself is seen by no other task.
_begun: ContextVar[tuple[tuple[int, int], ...]] = ContextVar("greenml_phases", default=())

# The same of ``with`` blocks: which Phase, and the number that it began.
_entered: ContextVar[tuple[tuple[int, int], ...]] = ContextVar("greenml_phase_blocks", default=())


_made = itertools.count()  # names runs within contexts: an id() would be that of a later run, too


class OpenPhases:
    """Begins and ends phases, from any thread or task.

    Args:
        write: takes the line of a phase that begins or ends.
    """

    def __init__(self, write: Callable[[Line], None]) -> None:
        self._write = write
        self._lock = threading.RLock()  # a signal's handler may begin a phase while this thread does
        self._paths: dict[int, str] = {}
        self._last, self._key = 0, next(_made)

    def begin(self, name: str, since_seconds: float | None = None) -> int:
        """Begin a phase within the last one that this thread or task began and that is open; returns its number."""
        begun = {} if since_seconds is None else {"t": float(since_seconds)}
        with self._lock:
            numbers = [number for run, number in _begun.get() if run == self._key and number in self._paths]
            path = segment(name)
            if numbers:
                path = f"{self._paths[numbers[-1]]}/{path}"
            self._last += 1
            number = self._last
            self._paths[number] = path
            others = [entry for entry in _begun.get() if entry[0] != self._key]
            _begun.set((*others, *((self._key, open_number) for open_number in numbers), (self._key, number)))
            self._write({"phase": path, "begin": number, **begun})
            return number

    def end(self, number: int, until_seconds: float | None = None) -> None:
        """End a phase, from any thread or task; a second time does nothing."""
        with self._lock:
            self._close(number, until_seconds)

    def end_all(self) -> None:
        """End what is open, the last begun first."""
        with self._lock:
            for number in reversed(list(self._paths)):
                self._close(number)

    def _close(self, number: int, until_seconds: float | None = None) -> None:
        if self._paths.pop(number, None) is not None:
            _begun.set(tuple(entry for entry in _begun.get() if entry != (self._key, number)))
            ended = {} if until_seconds is None else {"t": float(until_seconds)}
            self._write({"end": int(number), **ended})  # of numpy, or True: what equals a number was one


class Phase:
    """A phase for ``with``, as often as one likes, and for a function, of which every call is the phase.

    Args:
        begin: begins it, and returns its number.
        end: takes that number.
    """

    def __init__(self, begin: Callable[[], int], end: Callable[[int], None]) -> None:
        self._begin, self._end = begin, end
        self._open: list[int] = []

    def __enter__(self) -> None:
        """Begin it, also within itself."""
        number = self._begin()
        self._open.append(number)
        _entered.set((*_entered.get(), (id(self), number)))

    def __exit__(self, *_: object) -> None:
        """End the last one that this thread or task began."""
        mine = [number for phase, number in _entered.get() if phase == id(self) and number in self._open]
        if not mine and not self._open:
            return  # it was left more often than entered
        number = mine[-1] if mine else self._open[-1]
        self._open.remove(number)
        _entered.set(tuple(entry for entry in _entered.get() if entry != (id(self), number)))
        self._end(number)

    def __call__(self, function: Function) -> Function:
        """Return the function with every call of it in the phase, until its coroutine or generator ends."""
        return tracked(function, functools.partial(Phase, self._begin, self._end))


def segment(name: object) -> str:
    """Return a phase's name as it can stand in a path."""
    text = to_jsonable(name)
    return (text if isinstance(text, str) else str(text)).strip().replace("/", "-")[:200] or "phase"


Begin = Callable[[], AbstractContextManager[Any]]  # makes the run of one call


def tracked(function: Function, begin: Begin) -> Function:
    """Return a function of the same kind whose every call is measured, as a run of its own.

    Args:
        function: of any kind. A plain one that returns a coroutine or a generator is measured until that ends.
        begin: makes the run of a call.

    Raises:
        SettingsError: it is no function.
    """
    if isinstance(function, staticmethod | classmethod):  # the decorators stand in the other order
        return cast("Function", type(function)(tracked(function.__func__, begin)))
    if isinstance(function, type) or not callable(function):
        raise SettingsError(f"{function!r} cannot be measured; put the decorator at a function or a method")
    method = getattr(type(function), "__call__", function)  # noqa: B004  of an object that is called like a function
    kinds: tuple[tuple[Callable[[Any], bool], Callable[[Any, Begin], Callable[..., Any]]], ...] = (
        (inspect.isasyncgenfunction, _of_async_generators),
        (inspect.iscoroutinefunction, _of_coroutines),
        (inspect.isgeneratorfunction, _of_generators),
    )
    wrap = next((wrap for is_kind, wrap in kinds if is_kind(function) or is_kind(method)), _of_results)
    return cast("Function", functools.wraps(function)(wrap(function, begin)))


def _of_results(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def measured(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        with ExitStack() as stack:
            stack.enter_context(begin())
            result = function(*arguments, **keywords)
            if inspect.iscoroutine(result):
                return _coroutine(result, stack.pop_all())
            if inspect.isgenerator(result):
                return _generator(result, stack.pop_all())
            return result

    return measured


def _of_coroutines(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def measured(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        with begin():
            return await function(*arguments, **keywords)

    return measured


def _of_generators(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def measured(*arguments: Any, **keywords: Any) -> Generator[Any, Any, Any]:  # noqa: ANN401
        with begin():
            return (yield from function(*arguments, **keywords))

    return measured


def _of_async_generators(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def measured(*arguments: Any, **keywords: Any) -> AsyncGenerator[Any, Any]:  # noqa: ANN401
        with begin():
            generator = function(*arguments, **keywords)
            step = anext(generator)
            try:
                while True:  # what "yield from" does for other generators
                    item = await step
                    try:
                        step = generator.asend((yield item))
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001  the reader threw it in, for the generator to handle
                        step = generator.athrow(error)
            except StopAsyncIteration:
                return
            finally:
                await generator.aclose()

    return measured


async def _coroutine(result: Awaitable[Any], stack: ExitStack) -> Any:  # noqa: ANN401
    with stack:
        return await result


def _generator(result: Generator[Any, Any, Any], stack: ExitStack) -> Generator[Any, Any, Any]:
    with stack:
        return (yield from result)
