"""TensorBoard: the writer that the training has open, or ``tensorboard:FOLDER`` for a file of greenml's own.

A Trainer's writer and Lightning's are found by greenml's callbacks; ``run.offer(writer)`` shows any other. A folder in
which a training writes gets no second file: greenml's own goes to ``FOLDER/greenml``, one file a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from greenml.errors import SettingsError
from greenml.sinks._trackers import SECONDS, Point, Tracker

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord
    from greenml.sinks import RunInfo

CARD = "green/card"  # the card, as a text
VERSION = "brain.Event:2"  # how a file of events begins


class Writer(Protocol):
    """What PyTorch's and tensorboardX's SummaryWriter have."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> object:
        """Write a value."""

    def add_text(self, tag: str, text_string: str, global_step: int, walltime: float) -> object:
        """Write a text."""

    def flush(self) -> object:
        """Write all that waits to disk."""


def create(argument: str) -> TensorBoard:
    """Make the sink, with the folder of a file of its own."""
    return TensorBoard(Path(argument).absolute() if argument else None)


class TensorBoard(Tracker[Writer]):
    """A writer of event files."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._folder = folder
        self.can_begin = folder is not None

    def find(self, loggers: Sequence[object]) -> Writer | None:
        """Return the first writer among the loggers that were offered."""
        for logger in loggers:
            if callable(getattr(logger, "add_scalar", None)) and callable(getattr(logger, "add_text", None)):
                return logger  # type: ignore[return-value]
        return None

    def identify(self, handle: Writer) -> str:
        """Return the folder that it writes to."""
        return str(getattr(handle, "log_dir", "") or "a writer")

    def begin(self, run: RunInfo, identifier: str) -> Writer:
        """Open the run's file.

        Raises:
            SettingsError: no folder was named.
        """
        if self._folder is None:
            raise SettingsError("there is no writer that is open; give run.offer(writer), or tensorboard:FOLDER")
        name = f"events.out.tfevents.{int(run.unix_seconds)}.greenml.{run.run_id}"
        return EventFile(self._folder / "greenml" / name)

    def log(self, handle: Writer, points: Sequence[Point]) -> None:
        """Write scalars, whose step is the second of the run."""
        for point in points:
            for name, value in point.figures.items():
                handle.add_scalar(name, value, point.step, point.unix_seconds)
        handle.flush()

    def finish(self, handle: Writer, record: RunRecord, point: Point) -> None:
        """Write the record's figures and the card. A file of greenml's own that ends with them stays as it is."""
        from greenml import reports

        last = Point(point.unix_seconds, point.figures, math.ceil(point.figures[SECONDS]))
        if isinstance(handle, EventFile) and handle.ends_with(last):
            return
        handle.add_text(CARD, reports.render(record, "markdown"), last.step, last.unix_seconds)
        self.log(handle, [last])


class EventFile:
    """A file of events that grows, opened for each batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Event] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> None:
        """Keep a value for ``flush()``; simple values are 32 bits wide, so it is a tensor of 64."""
        from tensorboard.compat.proto.types_pb2 import DT_DOUBLE

        tensor = TensorProto(dtype=DT_DOUBLE, double_val=[scalar_value])
        self._add("scalars", tag, tensor, global_step, walltime)

    def add_text(self, tag: str, text_string: str, global_step: int, walltime: float) -> None:
        """Keep a text for ``flush()``."""
        tensor = TensorProto(dtype=DT_STRING, string_val=[text_string.encode()])
        self._add("text", tag, tensor, global_step, walltime)

    def _add(self, plugin: str, tag: str, tensor: TensorProto, step: int, seconds: float) -> None:
        data_class = "DATA_CLASS_SCALAR" if plugin == "scalars" else "DATA_CLASS_TENSOR"
        metadata = SummaryMetadata(plugin_data={"plugin_name": plugin}, data_class=data_class)
        value = Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
        self._waiting.append(Event(wall_time=seconds, step=step, summary=Summary(value=[value])))

    def flush(self) -> None:
        """Append what was kept.

        Raises:
            OSError: the file cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self._path.exists() or not self._path.stat().st_size
        events, self._waiting = self._waiting, []
        if is_new and events:
            events.insert(0, Event(wall_time=events[0].wall_time, file_version=VERSION))
        with self._path.open("ab") as stream:
            writer = RecordWriter(stream)
            for event in events:
                writer.write(event.SerializeToString())
            writer.flush()

    def ends_with(self, point: Point) -> bool:
        """Tell whether a moment's figures are the last that the file has."""
        last = {tag: (step, value) for tag, step, value in self._scalars()}
        return all(last.get(name) == (point.step, value) for name, value in point.figures.items())

    def _scalars(self) -> Iterable[tuple[str, int, float]]:
        if not self._path.is_file():
            return
        for raw in RawEventFileLoader(str(self._path)).Load():
            event: Any = Event.FromString(raw)
            for value in event.summary.value:
                if value.tensor.double_val:
                    yield value.tag, event.step, value.tensor.double_val[0]
