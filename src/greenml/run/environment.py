"""What a run runs in: packages, commit, command and host, and the cloud of this virtual machine.

Read once at the start of a run, in the sampler's thread. The cloud is known by the firmware; its region and size are
known by the cloud's link-local metadata service, which is asked for ``region="auto"`` only.

Source: the vendors' documentation of the Azure Instance Metadata Service (2021-02-01), EC2 IMDSv2, and the
Compute Engine metadata server.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenml.errors import suppressed
from greenml.redaction import redact_command

PACKAGES = (
    "accelerate", "codecarbon", "datasets", "deepspeed", "flash-attn", "greenml", "jax", "keras", "lightning", "numpy",
    "nvidia-ml-py", "pandas", "peft", "pytorch-lightning", "ray", "scikit-learn", "tensorflow", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
GIT_SECONDS = 2.0
BYTES_PER_BLOCK = 512  # of ru_oublock, whatever the file system's blocks are


def command() -> list[str]:
    """Return this process's command line, masked, without the interpreter and the folders."""
    words = [str(word) for word in getattr(sys, "argv", ())] or [""]  # an embedded Python may have none
    return [Path(words[0]).name, *redact_command(words[1:])]


def environment(folder: Path | None = None) -> dict[str, Any]:
    """Return the fields of the record's Environment; ``folder`` is where the program was started."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "os": _system(),
        "packages": _packages(),
    }
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        facts["git_commit"] = commit
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        facts["git_dirty"] = None if changes is None else bool(changes)
    return facts


def _packages() -> dict[str, str]:
    from importlib.metadata import version

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(Exception):  # not there, or its metadata is damaged
            if isinstance(package_version := version(name), str):
                versions[name] = package_version
    return versions


def _system() -> str:
    """Return ``platform.platform()``, which on Linux would run ``uname`` for a part that it then leaves out."""
    if sys.platform != "linux":
        return platform.platform()
    libc = "".join(platform.libc_ver())
    return "-".join([platform.system(), platform.release(), platform.machine(), *(["with", libc] if libc else [])])


def _git(folder: Path | None, *words: str) -> str | None:
    # By its path: for a name alone, subprocess changes the filters of warnings for a moment, which are the program's,
    # too: it would then show again what it shows once.
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}, cwd=folder,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def host() -> dict[str, Any]:
    """Return what the record's Host keeps of this machine; quick enough for the start of a run."""
    memory_bytes = None
    with suppressed():  # a container without /proc; the sensors' notes say what is missing
        import psutil

        memory_bytes = psutil.virtual_memory().total
    return {
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": memory_bytes,
        "os": f"{platform.system()} {platform.release()}",
    }


def disk_written_bytes(*, of_children: bool = False) -> int | None:
    """Return what this process, and its children that have ended, sent to disks so far; None where that is not known.

    Args:
        of_children: without what this process wrote itself; None where they wrote nothing, as of an endpoint that is
            watched from outside.

    Source: proc(5), ``write_bytes`` of /proc/PID/io: bytes that were to be sent to the storage layer. What is written
    to memory (tmpfs), or is truncated before it was sent, differs. Of children alone: ``ru_oublock`` of getrusage(2),
    which Linux counts the same way.
    """
    if of_children:
        if sys.platform != "linux":
            return None
        import resource

        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * BYTES_PER_BLOCK or None
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines():  # a codec that needs no import
            if line.startswith("write_bytes:"):
                return int(line.partition(":")[2])
    return None


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


DMI = Path("/sys/class/dmi/id")
# Azure's chassis asset tag, the same on every one of its VMs.
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
ADDRESS = "http://169.254.169.254"
TIMEOUT_SECONDS = 1.0


def cloud(dmi: Path = DMI) -> str:
    """Return the cloud of this virtual machine by the firmware's tables: azure, aws, gcp, or "".

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


def ask(vendor: str, note: Callable[[str, str], None], address: str = ADDRESS) -> dict[str, str]:
    """Return cloud, region, sku and tier as far as the service tells, and ``from``; empty where it does not.

    Args:
        vendor: azure, aws or gcp, from the machine's DMI data; "" asks nobody.
        note: takes a code and a text for what went wrong.
        address: of the service.
    """
    if vendor not in _ASK:
        note(
            "region-auto",
            "region 'auto': the DMI data names no Azure, AWS or Google VM; nobody was asked, no region is known",
        )
        return {}
    import requests

    session = requests.Session()
    session.trust_env = False  # a proxy is not link-local
    try:
        answer = _ASK[vendor](session, address)
    except (requests.RequestException, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = (
            "did not answer within 1 s"
            if isinstance(error, requests.Timeout)
            else f"gave no answer ({type(error).__name__})"
        )
        note("region-auto", f"region 'auto': the {vendor} metadata service {reason}; no region is known")
        return {"cloud": vendor, "from": "the machine's DMI data"}
    finally:
        session.close()
    return {
        "cloud": vendor,
        **{key: value for key, value in answer.items() if value},
        "from": f"{vendor} metadata service",
    }


def _azure(session: Any, address: str) -> dict[str, str]:  # noqa: ANN401
    answer = session.get(
        f"{address}/metadata/instance/compute", params={"api-version": "2021-02-01"}, headers={"Metadata": "true"},
        timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    answer.raise_for_status()
    compute = answer.json()
    tier = {"spot": "spot", "low": "low_priority"}.get(str(compute.get("priority", "")).lower(), "")
    return {"region": compute["location"], "sku": compute["vmSize"], "tier": tier}


def _aws(session: Any, address: str) -> dict[str, str]:  # noqa: ANN401
    token = session.put(
        f"{address}/latest/api/token",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
        timeout=TIMEOUT_SECONDS,
    )
    token.raise_for_status()

    def get(path: str) -> str:
        answer = session.get(
            f"{address}/latest/meta-data/{path}",
            headers={"X-aws-ec2-metadata-token": token.text},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return str(answer.text).strip()

    tier = "spot" if get("instance-life-cycle") == "spot" else ""
    return {"region": get("placement/region"), "sku": get("instance-type"), "tier": tier}


def _gcp(session: Any, address: str) -> dict[str, str]:  # noqa: ANN401
    def get(path: str) -> str:
        answer = session.get(
            f"{address}/computeMetadata/v1/instance/{path}",
            headers={"Metadata-Flavor": "Google"},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return str(answer.text).strip().rpartition("/")[2]

    tier = "spot" if get("scheduling/preemptible").upper() == "TRUE" else ""
    return {"region": get("zone").rpartition("-")[0], "sku": get("machine-type"), "tier": tier}


_ASK: dict[str, Callable[[Any, str], dict[str, str]]] = {"azure": _azure, "aws": _aws, "gcp": _gcp}
