"""What the environment tells of a process: rank, world, launcher, scheduler, cloud. Reads; asks nobody.

The launch is what tells processes of one run from those of another: the launcher's own id where it gives one,
and the process that started this one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DMI = Path("/sys/class/dmi/id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Azure's chassis asset tag, the same on every one of its VMs.
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"

# launcher: (variable that shows it, rank, world size, local rank, variables that name this launch)
_LAUNCHERS: tuple[tuple[str, str, str, str, str, tuple[str, ...]], ...] = (
    ("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK",
     ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")),
    ("mpirun", "PMI_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", ()),
    ("deepspeed", "CROSS_RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", ("MASTER_ADDR", "MASTER_PORT")),
    ("srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", ("SLURM_JOB_ID", "SLURM_STEP_ID")),
    ("distributed", "RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", ("MASTER_ADDR", "MASTER_PORT")),
)  # fmt: skip

# What the record calls it: the variables that may hold it.
_JOBS: Mapping[str, tuple[str, ...]] = {
    "azureml_run": ("AZUREML_RUN_ID",),
    "azureml_experiment": ("AZUREML_ARM_PROJECT_NAME", "AZUREML_EXPERIMENT_NAME"),
    "azureml_workspace": ("AZUREML_ARM_WORKSPACE_NAME",),
    "slurm_job": ("SLURM_JOB_ID",),
    "slurm_job_name": ("SLURM_JOB_NAME",),
    "slurm_cluster": ("SLURM_CLUSTER_NAME",),
    "kubernetes_pod": ("POD_NAME", "KUBERNETES_POD_NAME"),
    "kubernetes_namespace": ("POD_NAMESPACE", "KUBERNETES_NAMESPACE"),
    "kubernetes_job": ("JOB_NAME",),
    "sagemaker_job": ("TRAINING_JOB_NAME", "SM_TRAINING_JOB_NAME"),
    "lsf_job": ("LSB_JOBID",),
    "pbs_job": ("PBS_JOBID",),
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a process knows of the job it belongs to.

    Attributes:
        rank, world_size, local_rank: None where nothing tells.
        launcher: torchrun, deepspeed, mpirun, srun, distributed, or "".
        launch: names this launch across its hosts; "" where nothing does.
        restarts: how often the launcher started its workers again.
        parent: the process that started this one, unique on its host: pid and start time.
        nodes: how many machines the scheduler says; None where it does not.
        names: scheduler's names: ``slurm_job``, ``azureml_run`` ...
    """

    host: str
    boot_id: str
    pid: int
    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    launcher: str = ""
    launch: str = ""
    restarts: int = 0
    parent: str = ""
    nodes: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None


def current(environment: Mapping[str, str] | None = None) -> Job:
    """Return what this process's environment tells."""
    environment = os.environ if environment is None else environment
    rank = world_size = local_rank = None
    launcher = launch = ""
    for name, shown_by, rank_name, world_name, local_name, ids in _LAUNCHERS:
        if shown_by in environment and _whole(environment, rank_name) is not None:
            launcher = name
            rank, world_size = _whole(environment, rank_name), _whole(environment, world_name)
            local_rank = _whole(environment, local_name)
            named = [environment[one] for one in ids if environment.get(one)]
            launch = ":".join([name, *named]) if named else ""
            break
    names = {
        name: next(environment[one] for one in places if environment.get(one))
        for name, places in _JOBS.items()
        if any(environment.get(one) for one in places)
    }
    if "KUBERNETES_SERVICE_HOST" in environment and "kubernetes_pod" not in names:
        names["kubernetes_pod"] = environment.get("HOSTNAME", socket.gethostname())
    elif "KUBERNETES_SERVICE_HOST" not in environment:
        names = {name: value for name, value in names.items() if not name.startswith("kubernetes")}
    return Job(
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid=os.getpid(),
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        launcher=launcher,
        launch=launch,
        restarts=_whole(environment, "TORCHELASTIC_RESTART_COUNT") or 0,
        parent=_parent(),
        nodes=_whole(environment, "SLURM_JOB_NUM_NODES") or _whole(environment, "AZUREML_NODE_COUNT"),
        names=names,
    )


def boot_id() -> str:
    """Return what tells this boot of this host from others; monotonic times compare within it only."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        # macOS, Windows: the moment of the boot, to the minute
        return f"{(time.time() - time.monotonic()) // 60:.0f}"


def _parent() -> str:
    import psutil

    parent = os.getppid()
    try:
        return f"{parent}@{psutil.Process(parent).create_time():.2f}"
    except psutil.Error:
        return str(parent)


def cloud(dmi: Path = DMI) -> str:
    """Return the cloud whose virtual machine this is, from the firmware's tables: azure, aws, gcp, or "".

    Source: the vendors' documented DMI strings (Azure's chassis asset tag, "Amazon EC2", "Google Compute Engine").
    """

    def text(name: str) -> str:
        try:
            return (dmi / name).read_text(errors="replace").strip()
        except OSError:
            return ""

    if text("chassis_asset_tag") == _AZURE_TAG:
        return "azure"
    vendors = f"{text('sys_vendor')} {text('bios_vendor')} {text('board_vendor')}"
    if "Amazon EC2" in vendors or text("product_uuid").lower().startswith("ec2"):
        return "aws"
    if "Google" in vendors or "Google Compute Engine" in text("product_name"):
        return "gcp"
    return ""
