"""MLflow, also under AzureML: ``mlflow``, or ``mlflow:http://HOST:5000`` for a server that is not the process's own.

Joins the run that is active in this process, or that of ``MLFLOW_RUN_ID``; else it makes one in the experiment of
``MLFLOW_EXPERIMENT_ID`` or ``MLFLOW_EXPERIMENT_NAME``, and tags it, so that a record that is sent later finds it. All
goes through MLflow's client for a run by its identifier: nothing here changes which run is active.

Source: limits of a request and names of metrics, https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if "mlflow" not in sys.modules:  # its usage statistics would go to another network than the one that was named
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag, ViewType

from greenml.errors import SettingsError
from greenml.sinks import draw_apart
from greenml.sinks._trackers import SECONDS, Point, Tracker, documents, texts

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord
    from greenml.sinks import RunInfo

MOST_METRICS = 900  # of one request; the limit is 1,000 together with tags
MOST_TAG_CHARACTERS = 5000  # 8,000 are allowed, and 5,000 by older servers
draw_apart("mlflow.utils.request_utils", "mlflow.utils.rest_utils")
TAG, OWN = "greenml.run_id", "greenml.created"  # the second: greenml made the run, and ends it
STATUS = {"completed": "FINISHED", "failed": "FAILED", "running": "RUNNING"}  # others are KILLED


def create(argument: str) -> MLflow:
    """Make the sink, of the tracking server that MLflow is set to or of another.

    Raises:
        SettingsError: the argument is not the address of a server or store.
    """
    if argument and "://" not in argument and argument != "databricks":
        raise SettingsError(f"mlflow:{argument}: give a tracking URI, such as mlflow:http://127.0.0.1:5000, or none")
    return MLflow(argument)


class MLflow(Tracker[str]):
    """A run of MLflow, by its identifier."""

    update_seconds = 30.0  # AzureML takes fewer metrics of a run than other servers do

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._is_own = False
        self._client_made: MlflowClient | None = None

    @property
    def _client(self) -> MlflowClient:
        if self._client_made is None:
            self._client_made = MlflowClient(tracking_uri=self._uri or None)
        return self._client_made

    def find(self, loggers: Sequence[object]) -> str | None:
        """Return the run that is active in this thread, if it is of the server that is written to."""
        if self._uri and self._uri.rstrip("/") != mlflow.get_tracking_uri().rstrip("/"):
            return None
        run = mlflow.active_run()
        if run is not None:
            return str(run.info.run_id)
        # Lightning's logger makes a run through a client, and none is active.
        made = (logger.run_id for logger in loggers if type(logger).__name__ == "MLFlowLogger")  # type: ignore[attr-defined]
        return next(made, None) or os.environ.get("MLFLOW_RUN_ID") or None

    def identify(self, handle: str) -> str:
        """Return the run's identifier."""
        return handle

    def begin(self, run: RunInfo, identifier: str) -> str:
        """Find the run that has the tag, or create one."""
        if identifier:
            return identifier
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        tagged = self._client.search_runs(experiments, f"tags.`{TAG}` = '{run.run_id}'", ViewType.ACTIVE_ONLY, 1)
        if tagged:
            own = tagged[0]
        else:
            start = int(run.unix_seconds * 1000) or None
            name = run.name or f"greenml {run.run_id[:8]}"
            own = self._client.create_run(self._experiment(), start, {TAG: run.run_id, OWN: "true"}, name)
        self._is_own = own.data.tags.get(OWN) == "true"
        return str(own.info.run_id)

    def _experiment(self) -> str:
        if identifier := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return identifier
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name:
            return "0"
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment is not None else self._client.create_experiment(name))

    def log(self, handle: str, points: Sequence[Point]) -> None:
        """Log metrics, whose step is the second of the run."""
        metrics = [
            Metric(name, value, int(point.unix_seconds * 1000), point.step)
            for point in points
            for name, value in point.figures.items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(handle, metrics=metrics[start : start + MOST_METRICS], synchronous=True)

    def finish(self, handle: str, record: RunRecord, point: Point) -> None:
        """Log the record's figures as the last step, unless they are that already, then tags and files."""
        latest = self._client.get_run(handle).data.metrics
        if any(latest.get(name) != value for name, value in point.figures.items()):
            steps = [metric.step for metric in self._client.get_metric_history(handle, SECONDS)]
            step = max([math.ceil(point.figures[SECONDS]), *(step + 1 for step in steps)])
            self.log(handle, [Point(point.unix_seconds, point.figures, step)])
        tags = {TAG: record.run_id} | {f"greenml.{name}": text for name, text in texts(record).items()}
        self._client.log_batch(
            handle, tags=[RunTag(name, str(text)[:MOST_TAG_CHARACTERS]) for name, text in tags.items()]
        )
        if self._is_own:
            end = int(point.unix_seconds * 1000)
            self._client.set_terminated(handle, STATUS.get(record.status, "KILLED"), end)
        with documents(record) as folder:
            for path in sorted(folder.iterdir()):
                self._client.log_artifact(handle, str(path), "green")
