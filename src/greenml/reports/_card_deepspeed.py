"""A run's DeepSpeed configuration in a card: optimizer, scheduler, offload, and how ZeRO was set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenml.record import RunRecord
from greenml.reports import _card_blocks


def section(record: RunRecord) -> str:
    """Render what the configuration says; empty where the run had none."""
    config = configuration(record)
    if not config:
        return ""
    zero = _mapping(config.get("zero_optimization"))
    rows = [
        ("Optimizer", _type(config.get("optimizer"))),
        ("Scheduler", _type(config.get("scheduler"))),
        ("Offload", _offload(zero) if zero else ""),
    ]
    parts = ["## DeepSpeed", "\n".join(f"- {name}: {text}" for name, text in rows if text)]
    if zero:
        parts.append(_card_blocks.document({"zero_optimization": zero}))
    return "\n\n".join(part for part in parts if part)


def configuration(record: RunRecord) -> Mapping[str, Any]:
    """Return the configuration as it ran, else as it was given; {} where there was none."""
    for name in ("ds_config_as_run", "ds_config"):
        config = _mapping(record.trainer.get(name))
        if config:
            return config
    return {}


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401  of the record, as found
    return value if isinstance(value, Mapping) else {}


def _type(part: Any) -> str:  # noqa: ANN401
    name = _mapping(part).get("type")
    return _card_blocks.code(str(name)) if name else ""


def _offload(zero: Mapping[str, Any]) -> str:
    """Name what is kept out of the GPUs and where, ``none`` where nothing is."""
    found = []
    for name, old in (("optimizer", "cpu_offload"), ("param", "cpu_offload_params")):
        device = _mapping(zero.get(f"offload_{name}")).get("device")
        if device is None and zero.get(old) is True:
            device = "cpu"
        if device not in (None, "none"):
            found.append(f"{'parameters' if name == 'param' else name} to {_card_blocks.code(str(device))}")
    return ", ".join(found) or "none"
