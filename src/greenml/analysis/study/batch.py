"""The files with which a job scheduler runs a study's cells: a Slurm job array, and a pipeline of AzureML.

Each task or job starts ``greenml study cell``. A task of Slurm leaves a cell alone that has completed, and starts none
when the budget is used up: ``--once``. A job of AzureML sees its own cell alone, and runs it, whatever the budget says.

Sources: sbatch(1) of Slurm 24.05 (https://slurm.schedmd.com/sbatch.html); CLI (v2) pipeline job YAML schema
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline).
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from greenml.analysis.study.folder import Cell, Study
from greenml.errors import SettingsError

PIPELINE_SCHEMA = "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json"
MARGIN_MINUTES = 10  # of a scheduler's time limit over the cell's own: for start, stop and record


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
