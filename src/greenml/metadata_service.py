"""The cloud's link-local metadata service: region and size of this virtual machine. Asked only for ``region="auto"``.

Source: the vendors' documentation of the Azure Instance Metadata Service (2021-02-01), EC2 IMDSv2, and the
Compute Engine metadata server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ADDRESS = "http://169.254.169.254"
TIMEOUT_SECONDS = 1.0


def ask(cloud: str, note: Callable[[str, str], None], address: str = ADDRESS) -> dict[str, str]:
    """Return cloud, region, sku and tier as far as the service tells, and ``from``; empty where it does not.

    Args:
        cloud: azure, aws or gcp, from the machine's DMI data; "" asks nobody.
        note: takes a code and a text for what went wrong.
        address: of the service.
    """
    if cloud not in _ASK:
        note(
            "region-auto",
            "region 'auto': the DMI data names no Azure, AWS or Google VM; nobody was asked, no region is known",
        )
        return {}
    import requests

    session = requests.Session()
    session.trust_env = False  # a proxy is not link-local
    try:
        told = _ASK[cloud](session, address)
    except (requests.RequestException, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = (
            "did not answer within 1 s"
            if isinstance(error, requests.Timeout)
            else f"gave no answer ({type(error).__name__})"
        )
        note("region-auto", f"region 'auto': the {cloud} metadata service {reason}; no region is known")
        return {"cloud": cloud, "from": "the machine's DMI data"}
    finally:
        session.close()
    return {
        "cloud": cloud,
        **{key: value for key, value in told.items() if value},
        "from": f"{cloud} metadata service",
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
