"""Weights & Biases: ``wandb``, or ``wandb:PROJECT`` for a run of greenml's own.

In the run that is active here, the figures are added to the training's own rows: to the one that is open, and none is
begun, so that the training's step never moves. They are drawn over ``green/seconds``. Where no run is active, the sink
begins one, whose identifier follows from that of the run.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "wandb" not in sys.modules:  # reports of its own errors would go to another network than the one that was named
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from greenml.errors import SettingsError
from greenml.sinks import draw_apart
from greenml.sinks._names import METRICS
from greenml.sinks._trackers import SECONDS, Point, Tracker, documents, texts

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord
    from greenml.sinks import RunInfo

SERVER_SECONDS = 8.0  # for a run of greenml's own to begin, and to end
WRITE_SECONDS = 3.0  # its own process writes after the run has ended
draw_apart("wandb.sdk.lib.retry")


def create(argument: str) -> WandB:
    """Make the sink, with the project of a run of its own.

    Raises:
        SettingsError: the argument is not the name of a project.
    """
    if not re.fullmatch(r"[^/\\#?%:]{0,128}", argument):
        raise SettingsError(f"wandb:{argument}: give a project's name, such as wandb:summaries, or none")
    return WandB(argument)


class WandB(Tracker[Any]):
    """A run of Weights & Biases."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project
        self._is_defined = False

    def find(self, loggers: Sequence[object]) -> Any:  # noqa: ANN401  wandb.Run
        """Return the run that is active in this process."""
        run = wandb.run
        return None if run is None or run.disabled or _is_finished(run) else run

    def identify(self, handle: Any) -> str:  # noqa: ANN401
        """Return entity, project and identifier; the entity is not known offline."""
        return f"{handle.entity or ''}/{handle.project}/{handle.id}"

    def begin(self, run: RunInfo, identifier: str) -> Any:  # noqa: ANN401
        """Begin a run without making it the process's active one, or go on with the one that has the identifier.

        Raises:
            SettingsError: nobody is logged in.
        """
        entity, project, name = (identifier or f"/{self._project}/greenml-{run.run_id}").split("/")
        # Python's exit waits for what is under way: a server that does not answer must not hold it up.
        settings = wandb.Settings(
            console="off", disable_code=True, disable_git=True, x_disable_meta=True, x_disable_stats=True, silent=True,
            init_timeout=SERVER_SECONDS, finish_timeout=SERVER_SECONDS, finish_timeout_raises=True,
        )  # fmt: skip
        if os.environ.get("WANDB_MODE", "online") in ("online", "shared") and not wandb.login(prompt=False):
            raise SettingsError("nobody is logged in: run 'wandb login', or set WANDB_MODE=offline")
        return wandb.init(
            entity=entity or None, project=project or None, id=name, name=run.name or None, resume="allow",
            reinit="create_new", settings=settings,
        )  # fmt: skip

    def _define(self, handle: Any) -> None:  # noqa: ANN401
        if not self._is_defined:
            self._is_defined = True
            handle.define_metric(SECONDS, hidden=True, step_sync=False)
            for metric in METRICS:
                if metric.tracker != SECONDS:
                    name = metric.tracker + "_*" * bool(metric.labels)
                    handle.define_metric(name, step_metric=SECONDS, step_sync=False)

    def log(self, handle: Any, points: Sequence[Point]) -> None:  # noqa: ANN401
        """Log the figures; those of the latest moment alone, where the rows are the training's."""
        if _is_finished(handle):
            return
        self._define(handle)
        for point in points[-1:] if self.joined else points:
            handle.log(point.figures, commit=not self.joined)

    def finish(self, handle: Any, record: RunRecord, point: Point) -> None:  # noqa: ANN401
        """Set the record's figures in the summary, log the files as an artifact, and end a run that was begun here."""
        is_own = not self.joined
        if _is_finished(handle):
            handle, is_own, self._is_defined = self.begin(self._run, self.joined), True, False
        self._define(handle)
        if not is_own:  # a row that is still open would bring its older figures back
            handle.log(point.figures, commit=False)
        handle.summary.update({**point.figures, **{f"greenml/{name}": text for name, text in texts(record).items()}})
        artifact = wandb.Artifact(f"greenml-{record.run_id}", type="greenml-record")
        with documents(record) as folder:
            for path in sorted(folder.iterdir()):  # add_dir() would print
                artifact.add_file(str(path))
            handle.log_artifact(artifact)
        if is_own:
            handle.finish(exit_code=0 if record.status in ("completed", "running") else 1)
            if handle.offline:
                _check_written(Path(handle.settings.sync_file))


def _check_written(path: Path) -> None:
    """Look for the end of an offline run in its file: W&B says nothing of what it cannot write.

    Raises:
        OSError: it is not there.
    """
    names = [f"greenml/{name}".encode() for name in ("run_id", "status", "version")]  # a block's end may cut one
    end = time.monotonic() + WRITE_SECONDS
    while not any(name in path.read_bytes() for name in names):
        if time.monotonic() > end:
            raise OSError(errno.ENOSPC, "W&B did not write the record; is its disk full?", str(path))
        time.sleep(0.02)


def _is_finished(run: Any) -> bool:  # noqa: ANN401
    return bool(getattr(run, "_is_finished", False))
