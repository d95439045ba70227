"""What launchers, schedulers and clouds leave in the environment and the firmware's tables."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from greenml.run import environment, membership

TORCHRUN = {
    "RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "0",
    "MASTER_ADDR": "node-0", "MASTER_PORT": "29400", "TORCHELASTIC_RUN_ID": "job-77",
    "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3",
}  # fmt: skip
DEEPSPEED = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_SIZE": "2", "CROSS_RANK": "0", "CROSS_SIZE": "1",
    "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "29500",
}  # fmt: skip
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_NAMESPACE": "1234@1", "PMIX_RANK": "5", "OMPI_MCA_ess_base_jobid": "80805889",
}  # fmt: skip
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "PMI_FD": "9", "PMI_ID": "2"}
MVAPICH = {"MV2_COMM_WORLD_RANK": "3", "MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_LOCAL_RANK": "1"}
FLUX = {  # its tasks have the variables of PMI-1, too
    "FLUX_JOB_ID": "f2Uzxq", "FLUX_JOB_SIZE": "8", "FLUX_TASK_RANK": "5", "FLUX_TASK_LOCAL_ID": "1", "PMI_RANK": "5",
    "PMI_SIZE": "8", "PMI_FD": "9",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1",
    "SLURM_JOB_NAME": "t5", "SLURM_CLUSTER_NAME": "alps", "SLURM_JOB_NUM_NODES": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "launcher", "rank", "world", "local", "launch"),
    [
        (TORCHRUN, "torchrun", 3, 16, 3, "torchrun:job-77:node-0:29400"),
        (DEEPSPEED, "deepspeed", 1, 2, 1, "deepspeed:10.0.0.4:29500"),
        (OPENMPI, "mpirun", 5, 8, 1, "mpirun:1234@1:80805889"),
        (SRUN, "srun", 9, 16, 1, "srun:4711:0"),
        ({**SRUN, **TORCHRUN}, "torchrun", 3, 16, 3, "torchrun:job-77:node-0:29400"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "distributed", 0, 2, None,
            "distributed:a:1",
        ),
        ({**SRUN, "PMI_RANK": "9", "PMI_SIZE": "16", "PMI_JOBID": "4711.0"}, "srun", 9, 16, 1, "srun:4711:0"),
        ({**SRUN, **HYDRA, "I_MPI_HYDRA_UUID": "u"}, "mpirun", 2, 4, 0, "mpirun:u"),
        ({**HYDRA, "PALS_APID": "a-1"}, "mpirun", 2, 4, 0, "mpirun:a-1"),
        (MVAPICH, "mpirun", 3, 4, 1, ""),
        (FLUX, "flux", 5, 8, 1, "flux:f2Uzxq"),
        ({"RANK": "1" * 5000, "WORLD_SIZE": "2" * 5000}, "", None, None, None, ""),
        ({}, "", None, None, None, ""),
        ({"RANK": "", "WORLD_SIZE": "x"}, "", None, None, None, ""),
        ({"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "", None, None, None, ""),
    ],
)  # fmt: skip
def test_launchers(environment, launcher, rank, world, local, launch):
    me = membership.current(environment)
    assert (me.launcher, me.rank, me.world_size, me.local_rank) == (launcher, rank, world, local)
    assert me.launch == launch
    assert (me.host, me.pid) == (socket.gethostname(), os.getpid())


def test_restarts_and_nodes():
    assert membership.current(TORCHRUN).restarts == 2
    assert membership.current({}).restarts == 0
    assert membership.current(SRUN).nodes == 2
    assert membership.current({"AZUREML_NODE_COUNT": "4"}).nodes == 4
    assert membership.current({}).nodes is None


@pytest.mark.parametrize(
    ("environment", "rank"),
    [(TORCHRUN, ("RANK", "LOCAL_RANK")), (DEEPSPEED, ("RANK", "LOCAL_RANK")),
     (OPENMPI, ("OMPI_COMM_WORLD_RANK", "PMIX_RANK")), (HYDRA, ("PMI_RANK", "PMI_ID")),
     (SRUN, ("SLURM_PROCID", "SLURM_LOCALID")), (FLUX, ("FLUX_TASK_RANK", "FLUX_TASK_LOCAL_ID", "PMI_RANK"))],
    ids=["torchrun", "deepspeed", "openmpi", "hydra", "srun", "flux"],
)  # fmt: skip
def test_all_ranks_of_a_launch_name_it_alike(environment, rank):
    other = {**environment, **dict.fromkeys(rank, "0")}
    assert membership.current(other).rank != membership.current(environment).rank
    assert membership.current(other).launch == membership.current(environment).launch


@pytest.mark.parametrize("environment", [{"RANK": "0", "WORLD_SIZE": "1"}, {"PMI_RANK": "0", "PMI_SIZE": "2"}])
def test_a_launcher_that_names_no_launch_leaves_none(environment):
    assert membership.current(environment).launcher
    assert membership.current(environment).launch == ""


def test_schedulers_names():
    azureml = {
        "AZUREML_RUN_ID": "lucid_1", "AZUREML_ARM_PROJECT_NAME": "t5", "AZUREML_ARM_WORKSPACE_NAME": "ws",
        "AZUREML_EXPERIMENT_NAME": "other",
    }  # fmt: skip
    assert membership.current(azureml).names == {
        "azureml_run": "lucid_1", "azureml_experiment": "t5", "azureml_workspace": "ws",
    }  # fmt: skip
    assert membership.current(SRUN).names == {"slurm_job": "4711", "slurm_job_name": "t5", "slurm_cluster": "alps"}
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "trainer-0", "POD_NAMESPACE": "ml"}
    assert membership.current(pod).names == {"kubernetes_pod": "trainer-0", "kubernetes_namespace": "ml"}
    assert membership.current({**pod, "POD_NAME": "p"}).names["kubernetes_pod"] == "p"
    assert membership.current({"JOB_NAME": "jenkins", "POD_NAME": "x"}).names == {}, "not within Kubernetes"
    assert membership.current({"SLURM_JOB_NAME": ""}).names == {}


def test_this_process_tells_its_parent_and_boot_apart():
    one, other = membership.current({}), membership.current({})
    assert one.parent == other.parent
    assert one.parent.startswith(f"{os.getppid()}@")
    assert one.boot_id == other.boot_id != ""


AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
DMI = {
    "azure": {"chassis_asset_tag": AZURE_TAG, "sys_vendor": "Microsoft Corporation"},
    "aws": {"sys_vendor": "Amazon EC2", "product_name": "p4d.24xlarge", "bios_vendor": "Amazon EC2"},
    "gcp": {"sys_vendor": "Google", "product_name": "Google Compute Engine", "bios_vendor": "Google"},
    "": {"sys_vendor": "Supermicro", "product_name": "SYS-420GP", "chassis_asset_tag": "None"},
}


@pytest.mark.parametrize("cloud", DMI)
def test_the_firmware_names_the_cloud(tmp_path: Path, cloud):
    for name, text in DMI[cloud].items():
        (tmp_path / name).write_text(text + "\n")
    assert environment.cloud(tmp_path) == cloud


@pytest.mark.parametrize(
    ("files", "cloud"),
    [
        ({"sys_vendor": "Xen", "product_uuid": "EC2E1916-9099-7CAF-FD21-012345ABCDEF"}, "aws"),
        ({"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "Virtual Machine"}, ""),  # Hyper-V at home
        ({"product_uuid": "4c4c4544-0046-ec20-8035-b4c04f4e5331"}, ""),
        ({}, ""),
    ],
)
def test_what_looks_like_a_cloud_and_what_does_not(tmp_path: Path, files, cloud):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert environment.cloud(tmp_path) == cloud
    assert environment.cloud(tmp_path / "none") == ""
