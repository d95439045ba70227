"""Experiment trackers as sinks: join the tracker's run that is active here, else begin one of greenml's own.

A training opens its tracker before or after greenml starts. So the figures of the first half minute are kept until a
run is found. Where none is by then, or at the end, the sink begins one, whose identifier follows from the run's: a
record that is sent later finds it again.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from greenml.sinks._names import METRICS, tracker_figures

if TYPE_CHECKING:
    from greenml.accounting.status import RunStatus
    from greenml.record.schema import RunRecord
    from greenml.sinks import RunInfo

PATIENCE_SECONDS = 30.0  # how long a sink waits for the training to open the tracker itself
MOST_WAITING = 100  # updates that are kept until then; of more, every second one
SECONDS = next(metric.tracker for metric in METRICS if metric.opentelemetry == "greenml.duration")
Handle = TypeVar("Handle")


@dataclass(frozen=True, slots=True)
class Point:
    """The figures of a moment.

    Attributes:
        unix_seconds: when.
        figures: by their names in trackers; ``green/seconds`` is among them.
        step: for trackers that insist on one: the whole seconds of the run.
    """

    unix_seconds: float
    figures: dict[str, float]
    step: int

    @classmethod
    def at(cls, unix_seconds: float, figures: dict[str, float]) -> Point:
        """Return the figures of a moment, at the step that it has."""
        return cls(unix_seconds, figures, int(figures[SECONDS]))


class Tracker(ABC, Generic[Handle]):
    """A sink that writes to a run of a tracker.

    Attributes:
        joined: the identifier of a run that is not greenml's own; empty where there is none.
        patience_seconds: how long the training may take to open the tracker itself.
        can_begin: whether there may be a run of greenml's own; if not, the training's is waited for to the end.
    """

    close_seconds = 10.0
    update_seconds = 10.0
    patience_seconds = PATIENCE_SECONDS

    def __init__(self) -> None:
        self.joined = ""
        self.can_begin = True
        self._handle: Handle | None = None
        self._waiting: list[Point] = []

    def look(self, loggers: Sequence[object]) -> None:
        """Look for a run that is active in this thread or among loggers; it must neither wait nor ask anyone."""
        if self._handle is None:
            handle = self.find(loggers)
            if handle is not None:
                self.joined = self.identify(handle)
                self._handle = handle

    def open(self, run: RunInfo) -> None:
        """Note which run it is."""
        self._run, self._opened_seconds = run, time.monotonic()

    def update(self, status: RunStatus) -> None:
        """Log the figures of this moment, with those that waited."""
        waiting = [*self._waiting, Point.at(time.time(), tracker_figures(status))]
        self._waiting = waiting if len(waiting) <= MOST_WAITING else waiting[::2]
        self.look(())
        is_late = time.monotonic() - self._opened_seconds > self.patience_seconds
        if self._handle is not None or (is_late and self.can_begin):
            self.log(self._ready(), self._waiting)
            self._waiting = []  # else they are tried again

    def close(self, record: RunRecord) -> None:
        """Log the record's figures and files."""
        self.look(())
        handle = self._ready()
        if self._waiting:
            self.log(handle, self._waiting)
        ended = record.ended or record.started
        self.finish(handle, record, Point.at(ended.timestamp(), tracker_figures(record)))

    def _ready(self) -> Handle:
        if self._handle is None:
            identifier = self._run.joined.get(type(self).__module__.rpartition(".")[2], "")
            self._handle = self.begin(self._run, identifier)
        return self._handle

    @abstractmethod
    def find(self, loggers: Sequence[object]) -> Handle | None:
        """Return the tracker's run that is active in this thread, or in all of the process."""

    @abstractmethod
    def identify(self, handle: Handle) -> str:
        """Return by what a run that was joined is found again; empty where it cannot be."""

    @abstractmethod
    def begin(self, run: RunInfo, identifier: str) -> Handle:
        """Begin a run of greenml's own, or go on with the one there is; with that of the identifier, if not empty."""

    @abstractmethod
    def log(self, handle: Handle, points: Sequence[Point]) -> None:
        """Log the figures of moments."""

    @abstractmethod
    def finish(self, handle: Handle, record: RunRecord, point: Point) -> None:
        """Log the record's figures and files; a second time changes nothing. A run of greenml's own ends."""


@contextlib.contextmanager
def documents(record: RunRecord) -> Iterator[Path]:
    """Make a folder of what a tracker keeps of a record: ``run.json``, ``page.html`` and ``card.md``."""
    from greenml import reports
    from greenml.record import file as record_file

    with tempfile.TemporaryDirectory(prefix="greenml-") as folder:
        path = Path(folder)
        record_file.write(record, path / "run.json")
        (path / "page.html").write_text(reports.render(record, "html"), encoding="utf-8")
        (path / "card.md").write_text(reports.render(record, "markdown"), encoding="utf-8")
        yield path


def texts(record: RunRecord) -> dict[str, Any]:
    """Return what a tracker keeps of a record beside its figures, as people read it; short names, short texts."""
    from greenml.reports import _format

    total = record.total()
    shown = {"run_id": record.run_id, "status": record.status, "version": record.greenml_version}
    if total is not None:
        for name, quantity, write in (
            ("energy", total.it_energy_joules, _format.energy),
            ("emissions", total.emissions_grams, _format.mass),
        ):
            interval = _format.interval(quantity.low, quantity.high, write) if quantity.value is not None else ""
            shown[name] = _format.figure(quantity, write) + (f" ({interval})" if interval else "")
    return shown
