"""Measure what a training run used: energy, utilization, memory, time, and what that cost and emitted.

``with greenml.track(sku="ND40rs_v2") as run:`` leaves a ``run.json``; ``greenml report run.json`` reads it. Importing
greenml loads nothing else: no framework, no network, no thread, no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from greenml.accounting.status import RunningTotals
    from greenml.analysis.record_search import open_record, to_dataframe
    from greenml.errors import FactorError, GreenMLError, RecordError, SensorError, SensorLostError, SettingsError
    from greenml.integrations.transformers import GreenCallback
    from greenml.record.schema import RunRecord
    from greenml.run.serving.meter import ServingMeter, serve
    from greenml.run.track import Run, track

_HOMES = {
    "FactorError": "errors", "GreenMLError": "errors", "RecordError": "errors", "SensorError": "errors",
    "SensorLostError": "errors", "SettingsError": "errors", "Run": "run.track", "RunRecord": "record.schema",
    "GreenCallback": "integrations.transformers", "RunningTotals": "accounting.status",
    "open_record": "analysis.record_search", "to_dataframe": "analysis.record_search", "track": "run.track",
    "ServingMeter": "run.serving.meter", "serve": "run.serving.meter",
}  # fmt: skip

__all__ = [
    "FactorError",
    "GreenCallback",
    "GreenMLError",
    "RecordError",
    "Run",
    "RunRecord",
    "RunningTotals",
    "SensorError",
    "SensorLostError",
    "ServingMeter",
    "SettingsError",
    "__version__",
    "open_record",
    "serve",
    "to_dataframe",
    "track",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("greenml")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"greenml.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'greenml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
