"""The cloud of this virtual machine, by its firmware; its region and size, by the cloud's link-local metadata service.

The service is asked for ``region="auto"`` only.

Source: the vendors' documentation of the Azure Instance Metadata Service (2021-02-01), EC2 IMDSv2, and the
Compute Engine metadata server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
