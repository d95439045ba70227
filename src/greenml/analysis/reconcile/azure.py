"""Asks Azure Monitor for the GPU energy of a run of an Azure ML workspace: by instance, of the run id alone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from greenml.errors import RecordError, SettingsError
from greenml.record.importers.azure_monitor import ENERGY
from greenml.redaction import redact_text

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.monitor.querymetrics import MetricsClient

NAMESPACE = "Microsoft.MachineLearningServices/workspaces"
MARGIN = timedelta(minutes=5)  # the figures are of the run id: a wider window adds nothing of others
FINE_WINDOW = timedelta(days=1)  # up to this, in points of a minute, else of an hour
MOST_SERIES = 1000  # 10 by default, which would leave instances out
SECONDS = {"connection_timeout": 20, "read_timeout": 60, "retry_total": 2}
SHOWN_LETTERS = 300


def client(region: str, credential: TokenCredential | None = None) -> MetricsClient:
    """Return a client of a region's metrics; by default with the credential that Azure's own tools would take.

    Raises:
        SettingsError: the packages are not installed, or there is no such region.
    """
    if not re.fullmatch(r"[a-z0-9]+", region):
        raise SettingsError(f"--with azure: the region is a name such as westus2, not {region!r}")
    try:
        from azure.identity import DefaultAzureCredential
        from azure.monitor.querymetrics import MetricsClient
    except ImportError as error:
        raise SettingsError(
            f"--with azure:/subscriptions/... needs packages: pip install 'greenml[azure-monitor]' ({error})"
        ) from None
    credential = DefaultAzureCredential() if credential is None else credential
    return MetricsClient(f"https://{region}.metrics.monitor.azure.com", credential, **SECONDS)


def ask(client: MetricsClient, workspace: str, run: str, start: datetime, end: datetime) -> dict[str, Any]:
    """Return a run's GPU energy as ``az monitor metrics list`` prints it.

    Args:
        client: of the workspace's region.
        workspace: its resource id, ``/subscriptions/.../workspaces/NAME``.
        run: its run id.
        start: when it began.
        end: when it ended.

    Raises:
        SettingsError: the run id is none.
        RecordError: Azure Monitor does not answer, or refuses.
    """
    from azure.core.exceptions import AzureError

    if not re.fullmatch(r"[\w.-]+", run):
        raise SettingsError(f"--with azure: {run!r} is not a run id of Azure ML")
    try:
        results = client.query_resources(
            resource_ids=[workspace], metric_namespace=NAMESPACE, metric_names=[ENERGY],
            timespan=(start - MARGIN, end + MARGIN),
            granularity=timedelta(minutes=1) if end - start <= FINE_WINDOW else timedelta(hours=1),
            aggregations=["total"], filter=f"RunId eq '{run}' and InstanceId eq '*'", max_results=MOST_SERIES,
        )  # fmt: skip
    except (AzureError, KeyError, TypeError, ValueError) as error:
        text = " ".join(redact_text(str(error)).split())[:SHOWN_LETTERS]
        raise RecordError(f"Azure Monitor: {type(error).__name__}: {text}") from None
    [result, *_] = results or [None]
    if result is None:
        raise RecordError("Azure Monitor: it answered without a result")
    return {
        "interval": str(result.granularity),
        "timespan": result.timespan,
        "value": [
            {
                "name": {"value": metric.name},
                "unit": metric.unit,
                "timeseries": [
                    {
                        "metadatavalues": [
                            {"name": {"value": name}, "value": value} for name, value in series.metadata_values.items()
                        ],
                        "data": [
                            {"timeStamp": point.timestamp.isoformat(), "total": point.total} for point in series.data
                        ],
                    }
                    for series in metric.timeseries
                ],
            }
            for metric in result.metrics
        ],
    }
