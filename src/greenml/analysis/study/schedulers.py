"""Schedulers that run a study's cells: a Slurm job array, a pipeline of AzureML, a Ray cluster.

Each task or job does what this machine would do: it starts ``greenml study cell``, which writes into the cell's folder.
Whether a cell has ended, and how, is read there. A task of Slurm leaves a cell alone that has completed, and starts
none when the budget is used up: ``--once``. A job of AzureML sees its own cell alone, and runs it, whatever the budget
says. Slurm and AzureML get a file, which the user submits. Ray gets a task a cell, each with its demand for GPUs; the
study's folder is on a file system of all nodes.

Sources: sbatch(1) of Slurm 24.05 (https://slurm.schedmd.com/sbatch.html); CLI (v2) pipeline job YAML schema
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from greenml.analysis.study import folder as study_folder
from greenml.analysis.study.folder import Cell, Study
from greenml.errors import SettingsError

PIPELINE_SCHEMA = "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json"
MARGIN_MINUTES = 10  # of a scheduler's time limit over the cell's own: for start, stop and record
CONNECT_SECONDS = 10.0
CATCH_UP_SECONDS = 30.0  # a network file system shows a file of another node after a while


def to_run(study: Study) -> list[Cell]:
    """Return the cells that have not completed, in their order.

    Raises:
        SettingsError: all have.
    """
    cells = [cell for cell in study.cells if cell.state not in ("completed", "running") and not cell.out_of_memory]
    if not cells:
        raise SettingsError(f"{study.folder}: every cell has run")
    return cells


def slurm(study: Study, *, parallel: int | None = None, options: Sequence[str] = ()) -> str:
    """Return a script for ``sbatch``: one array, with a task for each cell that has not completed.

    Args:
        study: that is run; its folder is on a file system of all nodes.
        parallel: tasks at a time at the most.
        options: further options of sbatch, such as ``--partition=gpu``.

    Raises:
        SettingsError: every cell has run, or an option is none.
    """
    cells = to_run(study)
    folder = study.folder.resolve()
    file = study.plan.file
    gpus = max(cell.variant.gpus or 0 for cell in cells)
    if wrong := next((option for option in options if not re.fullmatch(r"-[^\n]+", option)), None):
        raise SettingsError(f"--sbatch {wrong!r}: give an option of sbatch, such as --partition=gpu")
    directives = [
        f"--job-name={_plain_name(file.name)}",
        f"--array=0-{len(cells) - 1}{f'%{parallel}' if parallel else ''}",
        f"--output={_quoted(folder / 'slurm-%A_%a.out')}",
        "--open-mode=append",
        "--requeue",
        f"--nodes={file.nodes or 1}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *([f"--time={math.ceil(file.timeout_minutes) + MARGIN_MINUTES}"] if file.timeout_minutes else []),
        *options,
    ]
    names = [f"  {cell.position}  # {cell.name}" for cell in cells]
    cell = f"{shlex.quote(sys.executable)} -m greenml study cell --once {shlex.quote(str(folder))}"
    lines = [
        "#!/bin/bash",
        f"# {len(cells)} cells of the study {_plain_name(file.name)}, a task each. Submit it with sbatch; then",
        "# 'greenml study collect' reads what the tasks left. Tasks that were requeued count as attempts.",
        *(f"#SBATCH {directive}" for directive in directives),
        "",
        "cells=(",
        *names,
        ")",
        f'exec {cell} "${{cells[$SLURM_ARRAY_TASK_ID]}}"',
    ]
    return "\n".join(lines) + "\n"


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:60]


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if re.search(r"\s", text) else text


def azureml(study: Study, *, compute: str, environment: str) -> str:
    """Return a pipeline of AzureML (CLI v2) with a command job for each cell that has not completed.

    The pipeline lies in the study's folder, and uploads the folder of the study file, in which the study's folder must
    be. The environment has greenml.

    Args:
        study: that is run.
        compute: ``azureml:NAME`` of the cluster.
        environment: ``azureml:NAME:VERSION``.

    Raises:
        SettingsError: every cell has run, or the study's folder is not below the folder of the study file.
    """
    cells = to_run(study)
    folder, directory = study.folder.resolve(), study.plan.directory.resolve()
    if not folder.is_relative_to(directory):
        raise SettingsError(f"{study.folder}: AzureML uploads {directory}; give an --output in it")
    inside = folder.relative_to(directory).as_posix()
    file = study.plan.file
    jobs: dict[str, Any] = {}
    for cell in cells:
        jobs[f"cell_{cell.position:04d}"] = {
            "type": "command",
            "display_name": f"{file.name} {cell.name}",
            "code": os.path.relpath(directory, folder),
            "command": (
                f"python -m greenml study cell {shlex.quote(inside)} {cell.position} --directory . "
                "--into ${{outputs.cell}}"
            ),
            "environment": environment,
            "compute": compute,
            "outputs": {"cell": {"type": "uri_folder", "mode": "rw_mount"}},
            "resources": {"instance_count": file.nodes or 1},
        }
        if file.timeout_minutes:
            seconds = math.ceil((file.timeout_minutes + MARGIN_MINUTES) * 60)
            jobs[f"cell_{cell.position:04d}"]["limits"] = {"timeout": seconds}
    pipeline = {
        "$schema": PIPELINE_SCHEMA,
        "type": "pipeline",
        "display_name": file.name,
        "experiment_name": _plain_name(file.name),
        "description": f"{len(cells)} cells of a study, measured by greenml",
        "settings": {"continue_on_step_failure": True},
        "jobs": jobs,
    }
    head = (
        "# Made by 'greenml study run --azureml'. A cell that fails does not end the others.\n"
        "#   az ml job create --file azureml.yml\n"
        "#   az ml job download --name PIPELINE --all --download-path DOWNLOADS\n"
        f"#   greenml study collect {inside} DOWNLOADS\n"
    )
    return head + yaml.safe_dump(pipeline, sort_keys=False, width=1000)


class RayCluster:
    """Cells run on the nodes of a cluster: as many as there are GPUs for, and one a node of those that need none.

    Args:
        study: that is run.
        address: of the cluster; the one that Ray finds by itself where it is empty.
        parallel: cells side by side at the most.

    Raises:
        SettingsError: Ray is not installed, there is no cluster, or no node has as many GPUs as a cell needs.
    """

    def __init__(self, study: Study, address: str, parallel: int | None) -> None:
        try:
            self._ray: Any = import_module("ray")  # which is typed in part
        except ImportError:
            raise SettingsError("--ray needs Ray: pip install 'greenml[ray]'") from None
        try:
            if ":" in address:  # Ray itself waits for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            self._ray.init(
                address=address or "auto", namespace="greenml", ignore_reinit_error=True, log_to_driver=False,
                logging_level="ERROR",
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            where = f" at {address}" if address else ""
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SettingsError(
                f"no Ray cluster{where} ({reason}); start one with 'ray start --head', or give --ray-address"
            ) from None
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        self._nodes = len(nodes)
        self._node_gpus = max((int(node["Resources"].get("GPU", 0)) for node in nodes), default=0)
        self._gpus = int(self._ray.cluster_resources().get("GPU", 0))
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
        task = self._ray.remote(_run_cell).options(
            num_cpus=1, num_gpus=self._needs(cell), max_retries=0, scheduling_strategy="SPREAD", name=cell.name
        )
        return _Task(self._ray, task.remote(str(study.folder.resolve()), cell.name), study, cell)


def _run_cell(folder: str, name: str) -> int:
    """Run a cell on the node that Ray chose; returns its exit code, -1000 where the node has not got the folder."""
    if not Path(folder, study_folder.STUDY_FILE).is_file():
        return -1000
    words = [sys.executable, "-m", "greenml", "study", "cell", folder, name]
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode


class _Task:
    """A cell that the cluster runs."""

    def __init__(self, ray: Any, reference: Any, study: Study, cell: Cell) -> None:  # noqa: ANN401  Ray's own
        self._ray, self._reference, self._study, self._cell = ray, reference, study, cell
        self._done_seconds: float | None = None

    def ended(self) -> bool:
        """Tell whether the cell has ended, and its folder shows it.

        Raises:
            SettingsError: the node does not see the study's folder.
        """
        if self._done_seconds is None:
            if not self._ray.wait([self._reference], timeout=0)[0]:
                return False
            self._done_seconds = time.monotonic()
            code = 0
            with contextlib.suppress(self._ray.exceptions.RayError):  # the node was lost: the cell's folder tells
                code = self._ray.get(self._reference)
            if code == -1000:
                where = f"{self._study.folder}: a node of the Ray cluster has not got it"
                raise SettingsError(f"{where}; put it on a file system that all nodes share")
        fresh = study_folder.reload(self._study, self._cell, records=False).cells[self._cell.position - 1]
        return fresh.state not in ("running", "pending") or time.monotonic() > self._done_seconds + CATCH_UP_SECONDS

    def kill(self) -> None:
        """End it at once."""
        self._ray.cancel(self._reference, force=True)
