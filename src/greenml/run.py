"""track() and Run: where a person meets greenml, and the stages meet each other.

``track()`` raises on misuse. Once it has started, nothing here raises into training code: trouble becomes a note.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from greenml import __version__, exits, job, seats, surroundings
from greenml.open_phases import OpenPhases
from greenml.recorder import Recorder
from greenml.settings import Settings, resolve
from greenml.trace_lines import Line
from greenml.values import outcome, plain

if TYPE_CHECKING:
    from greenml.following import Following
    from greenml.moment import Totals
    from greenml.record import RunRecord

log = logging.getLogger("greenml")
Function = TypeVar("Function", bound=Callable[..., Any])


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
        intensity: who is asked for the carbon intensity as the run goes on: ``electricity_maps``, ``watttime``,
            ``uk_grid``, or a CSV file of yours; nobody by default (docs/intensity.md).
        market_intensity: g CO2e per kWh of a contract, beside the location's.
        lifetime_years: of the hardware, for its share of embodied carbon.
        resume: add an attempt to the run that is at ``output``, if one is.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """
    arguments: dict[str, Any] = {name: value for name, value in locals().items() if name != "resume"}
    arguments["intensity"] = None if intensity is None else str(intensity)
    settings = resolve(arguments)
    if settings.known_from.keys() - {"output", "name", "gpus", "interval", "nodes"}:  # a factor was named
        from greenml import assumptions

        settings = assumptions.check(settings)
    return Run(settings, resume=resume)


class Run:
    """A run that is being measured. Made by ``track()``.

    Attributes:
        output: where the record goes, once started.
        record: the record, once stopped; None where another process of the run writes it.
    """

    def __init__(
        self, settings: Settings, *, resume: bool = False, watches: bool = False, command: list[str] | None = None
    ) -> None:
        self.settings = settings
        self.output = settings.output
        self.record: RunRecord | None = None
        self._resume, self._watches, self._command = resume, watches, command
        self._seat: seats.Seat | None = None
        self._recorder: Recorder | None = None
        self._following: Following | None = None
        self._pid, self._entered = 0, False
        self._rank: int | None = None
        self._cards: set[Path] = set()
        self._lock = threading.RLock()
        self._phases = OpenPhases(lambda line: self._write(line, edge=True))

    @property
    def run_dir(self) -> Path:
        """The folder of the run's traces, once started."""
        return self._seat.run_dir if self._seat is not None else seats.run_dir_of(self.output)

    def start(self, since_seconds: float | None = None) -> Run:
        """Begin to measure; returns within two seconds whatever the hardware does.

        Args:
            since_seconds: ``time.monotonic()`` of when the run began, if that was before now: its time is billed.

        Raises:
            SettingsError: the output cannot be written.
        """
        if self._recorder is not None or self.record is not None:
            return self
        me, now = job.current(), time.monotonic()
        begun = min(now, since_seconds if since_seconds is not None else now)
        header = {
            **{key: value for key, value in asdict(me).items() if key != "names"}, "jobs": dict(me.names),
            "start_seconds": begun, "unix_seconds": time.time() - (now - begun), "watches": self._watches,
            "name": plain(self.settings.name), "settings": plain(self.settings.told()),
            "command": plain(self._command or surroundings.command()), "greenml_version": __version__,
            "host_facts": {**surroundings.host(), "cloud": job.cloud()},
        }  # fmt: skip
        self._seat, writer = seats.take(self.settings.output, me, header, resume=self._resume)
        self._pid, self._rank, self.output = os.getpid(), me.rank, self._seat.output
        if self.output != self.settings.output and not os.environ.get(seats.RUN_DIR_VARIABLE):
            log.warning("greenml: %s belongs to another run; this one goes to %s", self.settings.output, self.output)
        self._recorder = Recorder(self.settings, self._seat, writer, imports=not self._entered)
        exits.add(self)
        self._recorder.start()
        return self

    def stop(self, status: str = "completed", error: str | None = None) -> RunRecord | None:
        """End the measurement and write the record.

        Args:
            status: completed, failed or interrupted.
            error: what went wrong, in a line.

        Returns:
            The record; None in a process of many that leaves it to another.
        """
        with self._lock:
            if not self._mine() or self._recorder is None:
                return self.record
            exits.discard(self)
            self._phases.end_all()
            recorder, self._recorder = self._recorder, None
            recorder.stop(status, error)
            self.record = self._finish()
            return self.record

    def _finish(self) -> RunRecord | None:
        """Write the record, if this process speaks for the run or is the last of it."""
        assert self._seat is not None  # noqa: S101  only a started run gets here
        try:
            from greenml import finishing

            if self._rank not in (None, 0) and any(one.alive for one in finishing.traces(self._seat.run_dir)):
                return None
            return finishing.finish(self._seat.run_dir, self.output, self._cards)
        except Exception as error:  # noqa: BLE001  the training is done: its results must not be lost over its record
            hint = f"'greenml finish {self.output}' makes it"
            log.warning("greenml: %s was not written (%s); %s", self.output, error, hint)
            return None

    def __enter__(self) -> Run:
        self._entered = True
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop(*outcome(error))

    def __call__(self, function: Function) -> Function:
        """Measure every call of a function, each a run of its own."""

        @functools.wraps(function)
        def tracked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the function has it
            with Run(self.settings, resume=self._resume):
                return function(*args, **kwargs)

        return tracked  # type: ignore[return-value]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Mark a stretch of the run, such as ``train``; nests (``train/eval``) and repeats."""
        number = self.begin_phase(name)
        try:
            yield
        finally:
            self.end_phase(number)

    def begin_phase(self, name: str, since_seconds: float | None = None) -> int:
        """Begin a phase where a ``with`` block does not fit.

        Args:
            name: of the phase.
            since_seconds: ``time.monotonic()`` of when it began, if that was before now.

        Returns:
            The number that ``end_phase`` takes.
        """
        return self._phases.begin(name, since_seconds) if self._mine() else -1

    def end_phase(self, number: int) -> None:
        """End a phase that ``begin_phase`` began; a second time does nothing."""
        if self._mine():
            self._phases.end(number)

    def log(self, metrics: Mapping[str, Any] | None = None, **more: Any) -> None:  # noqa: ANN401  results of any kind
        """Keep results; of a name logged twice the later one."""
        self._keep("metrics", {**(metrics or {}), **more})

    def params(self, params: Mapping[str, Any] | None = None, **more: Any) -> None:  # noqa: ANN401
        """Keep hyperparameters; of a name given twice the later one."""
        self._keep("params", {**(params or {}), **more})

    def describe(self, **trainer: Any) -> None:  # noqa: ANN401  what a framework knows of itself
        """Keep what ran: the trainer's arguments, the model, the engine; a later value of a name replaces it."""
        if trainer and self._mine():
            self._write({"found": {"trainer": {name: plain(value) for name, value in trainer.items()}}})

    def count(self, **counts: float) -> None:
        """Keep what this process has worked through so far, such as ``samples`` and ``tokens``; ranks are summed."""
        told = {name: plain(value) for name, value in counts.items()}
        numbers = {name: value for name, value in told.items() if isinstance(value, int | float)}
        if numbers and self._mine():
            self._write({"found": {"counts": numbers}})

    def progress(self, step: int, steps: int) -> None:
        """Tell how far training is, for those who watch: ``step`` done of ``steps``; cheap enough for every step."""
        recorder = self._recorder
        if recorder is not None and self._mine():
            recorder.progress(step, steps)

    def save(self, so_far: str | None = None) -> RunRecord | None:
        """Write the record as it stands; the run goes on.

        Args:
            so_far: the status that the run has if its process ends without another word from here on.
        """
        if not self._mine():
            return None
        if so_far:
            self._write({"so_far": so_far})
        return self._finish()

    def gather(self, timeout_seconds: float = 30.0, so_far: str | None = None) -> RunRecord | None:
        """Fetch the traces of nodes that do not see this run's folder, and write the record as it stands.

        Every rank calls it. It goes through torch.distributed, if that is initialised, and ends after the timeout.
        ``so_far`` is as for ``save()``. Returns the record; None where another rank writes it.
        """
        if not self._mine():
            return None
        from greenml import gathering

        if so_far:
            self._write({"so_far": so_far})
        self._write({"found": {}}, edge=True)  # asks for the devices' readings up to now
        gathered = gathering.gather(self.run_dir, timeout_seconds=timeout_seconds)
        for line in gathered.lines:
            self._write(line)
        return self._finish() if gathered.rank == 0 else None

    def card(self, path: str | os.PathLike[str]) -> None:
        """Put the tables of the run as it stands into a model card, between markers; again when the run ends."""
        self._cards.add(Path(path))
        self.save()

    def totals(self) -> Totals:
        """Return what the whole run, every process of it, used up to now; cheap enough for every logging step.

        Returns:
            Seconds, joules, watts, grams CO2e and USD by tier; None where it is not known, and of a run that ended.
        """
        recorder = self._recorder
        if self._following is None and recorder is not None and self._mine():
            from greenml import following

            self._following = following.Following(self.run_dir)
        if self._following is not None:
            return self._following.totals((recorder.place if recorder is not None else None) or {})
        from greenml.moment import Totals

        return Totals(0.0, None, None, None, {})

    def note(self, text: str, code: str = "user") -> None:
        """Keep a sentence that every report of this run prints."""
        if self._mine():
            self._write({"note": code, "text": plain(str(text))})

    def _keep(self, what: str, values: Mapping[str, Any]) -> None:
        if values and self._mine():
            self._write({what: {str(key): plain(value) for key, value in values.items()}})

    def _write(self, line: Line, *, edge: bool = False) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.write(line, edge=edge)

    def _mine(self) -> bool:
        """False in a forked child, which neither writes nor finishes its parent's run."""
        return self._pid == os.getpid() and self._recorder is not None

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.forget()
