"""Cells as tasks of a Ray cluster, each with its demand for GPUs; the study's folder is on a file system of all nodes.

What a task does is what this machine would do: it starts ``greenml study cell``, which writes into the cell's folder.
Whether a cell has ended, and how, is read there.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from greenml.analysis.study import folder as study_folder
from greenml.analysis.study.folder import Cell, Study
from greenml.errors import SettingsError

ray: Any = import_module("ray")  # which is typed in part
CONNECT_SECONDS = 10.0
CATCH_UP_SECONDS = 30.0  # a network file system shows a file of another node after a while


class RayCluster:
    """Cells run on the nodes of a cluster: as many as there are GPUs for, and one a node of those that need none.

    Args:
        study: that is run.
        address: of the cluster; the one that Ray finds by itself where it is empty.
        parallel: cells side by side at the most.

    Raises:
        SettingsError: there is no cluster, or no node has as many GPUs as a cell needs.
    """

    def __init__(self, study: Study, address: str, parallel: int | None) -> None:
        try:
            if ":" in address:  # Ray itself waits for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            ray.init(
                address=address or "auto", namespace="greenml", ignore_reinit_error=True, log_to_driver=False,
                logging_level="ERROR",
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            where = f" at {address}" if address else ""
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SettingsError(
                f"no Ray cluster{where} ({reason}); start one with 'ray start --head', or give --ray-address"
            ) from None
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        self._nodes = len(nodes)
        self._node_gpus = max((int(node["Resources"].get("GPU", 0)) for node in nodes), default=0)
        self._gpus = int(ray.cluster_resources().get("GPU", 0))
        self._parallel = parallel
        for variant in study.plan.variants:
            if (variant.gpus or 0) > self._node_gpus:
                raise SettingsError(
                    f"variant {variant.name} needs {variant.gpus} GPUs; no node of the Ray cluster has more than "
                    f"{self._node_gpus}"
                )

    def _needs(self, cell: Cell) -> int:
        """Return the GPUs that a cell is given: where nobody said how many, all of a node."""
        return self._node_gpus if cell.variant.gpus is None else cell.variant.gpus

    def room(self, cell: Cell, running: Sequence[Cell]) -> bool:
        """Tell whether a cell can start beside those that run."""
        if self._parallel is not None and len(running) >= self._parallel:
            return False
        if self._needs(cell):
            return sum(map(self._needs, running)) + self._needs(cell) <= self._gpus
        return sum(not self._needs(other) for other in running) < (self._parallel or self._nodes)

    def start(self, study: Study, cell: Cell) -> _Task:
        """Hand a cell to the cluster."""
        task = ray.remote(_run_cell).options(
            num_cpus=1, num_gpus=self._needs(cell), max_retries=0, scheduling_strategy="SPREAD", name=cell.name
        )
        return _Task(task.remote(str(study.folder.resolve()), cell.name), study, cell)


def _run_cell(folder: str, name: str) -> int:
    """Run a cell on the node that Ray chose; returns its exit code, -1000 where the node has not got the folder."""
    if not Path(folder, study_folder.STUDY_FILE).is_file():
        return -1000
    words = [sys.executable, "-m", "greenml", "study", "cell", folder, name]
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode


class _Task:
    """A cell that the cluster runs."""

    def __init__(self, reference: Any, study: Study, cell: Cell) -> None:  # noqa: ANN401  Ray's types are its own
        self._reference, self._study, self._cell = reference, study, cell
        self._done_seconds: float | None = None

    def ended(self) -> bool:
        """Tell whether the cell has ended, and its folder shows it.

        Raises:
            SettingsError: the node does not see the study's folder.
        """
        if self._done_seconds is None:
            if not ray.wait([self._reference], timeout=0)[0]:
                return False
            self._done_seconds = time.monotonic()
            code = 0
            with contextlib.suppress(ray.exceptions.RayError):  # the node was lost: the cell's folder tells
                code = ray.get(self._reference)
            if code == -1000:
                where = f"{self._study.folder}: a node of the Ray cluster has not got it"
                raise SettingsError(f"{where}; put it on a file system that all nodes share")
        fresh = study_folder.reload(self._study, self._cell, records=False).cells[self._cell.position - 1]
        return fresh.state not in ("running", "pending") or time.monotonic() > self._done_seconds + CATCH_UP_SECONDS

    def kill(self) -> None:
        """End it at once."""
        ray.cancel(self._reference, force=True)
