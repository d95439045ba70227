"""Measure what a training run used: energy, utilization, memory, time, and what that cost and emitted.

``with greenml.track(sku="ND40rs_v2") as run:`` leaves a ``run.json``; ``greenml report run.json`` reads it. Importing
greenml loads nothing else: no framework, no network, no thread, no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenml.errors import (
        FactorError,
        GreenMLError,
        RecordError,
        SensorError,
        SensorLostError,
        SettingsError,
    )
    from greenml.finishing import open_record
    from greenml.integrations.transformers import GreenCallback
    from greenml.moment import Totals
    from greenml.record import RunRecord
    from greenml.run import Run, track

__version__ = "0.1.0"

_HOMES = {
    "FactorError": "errors", "GreenMLError": "errors", "RecordError": "errors", "SensorError": "errors",
    "SensorLostError": "errors", "SettingsError": "errors", "Run": "run", "RunRecord": "record",
    "GreenCallback": "integrations.transformers", "Totals": "moment",
    "open_record": "finishing", "track": "run",
}  # fmt: skip

__all__ = [
    "FactorError",
    "GreenCallback",
    "GreenMLError",
    "RecordError",
    "Run",
    "RunRecord",
    "SensorError",
    "SensorLostError",
    "SettingsError",
    "Totals",
    "__version__",
    "open_record",
    "track",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"greenml.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'greenml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
