"""Trackio: ``trackio``, or ``trackio:PROJECT`` for a run of greenml's own.

In the run that is active here, figures go to the system metrics, which are kept by time: the training's step never
moves. Where no run is active, the sink begins one, whose name follows from that of the run; its step is the second of
the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trackio
from trackio import context_vars
from trackio.sqlite_storage import SQLiteStorage

from greenml.errors import SettingsError
from greenml.sinks._trackers import SECONDS, Point, Tracker, documents, texts

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord
    from greenml.sinks import RunInfo

PROJECT = "greenml"  # of a run of greenml's own


def create(argument: str) -> Trackio:
    """Make the sink, with the project of a run of its own.

    Raises:
        SettingsError: the argument is not the name of a project.
    """
    try:
        SQLiteStorage.validate_project_name(argument or PROJECT)
    except ValueError as error:
        raise SettingsError(f"trackio:{argument}: give a project's name, such as trackio:summaries: {error}") from None
    return Trackio(argument or PROJECT)


class Trackio(Tracker[Any]):
    """A run of Trackio."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project

    @property
    def _is_joined(self) -> bool:
        return bool(self.joined or self._run.joined.get("trackio"))

    def find(self, loggers: Sequence[object]) -> Any:  # noqa: ANN401  trackio.Run
        """Return the run that is active in this thread."""
        return context_vars.current_run.get()

    def identify(self, handle: Any) -> str:  # noqa: ANN401
        """Return the project and the run's name."""
        return f"{handle.project}/{handle.name}"

    def begin(self, run: RunInfo, identifier: str) -> Any:  # noqa: ANN401
        """Begin a run, or go on with the one that has the identifier, or the name that follows from the run's."""
        project, _, name = (identifier or f"{self._project}/greenml-{run.run_id}").partition("/")
        return trackio.init(
            project, name=name, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
            config={"greenml_run_id": run.run_id, "name": run.name},
        )  # fmt: skip

    def log(self, handle: Any, points: Sequence[Point]) -> None:  # noqa: ANN401
        """Log the figures; those of the latest moment alone where they have no step, since Trackio sets the time."""
        if self._is_joined:
            handle.log_system(points[-1].figures)
            return
        for point in points:
            handle.log(point.figures, step=point.step)

    def finish(self, handle: Any, record: RunRecord, point: Point) -> None:  # noqa: ANN401
        """Log the record's figures, unless they are the last already, and the files; end a run that was begun here."""
        read = SQLiteStorage.get_system_logs if self._is_joined else SQLiteStorage.get_logs
        logged = read(handle.project, handle.name, run_id=handle.id)
        if not any(all(row.get(name) == value for name, value in point.figures.items()) for row in logged[-1:]):
            self.log(handle, [Point(point.unix_seconds, point.figures, math.ceil(point.figures[SECONDS]))])
        artifact = trackio.Artifact(f"greenml-{record.run_id}", type="greenml-record", metadata=texts(record))
        with documents(record) as folder:
            artifact.add_dir(folder)
            handle.log_artifact(artifact)
        if not self.joined:  # or begun again, to send a record later
            handle.finish()
