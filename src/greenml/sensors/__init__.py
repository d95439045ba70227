"""Joules, watts, utilization and memory from hardware: a file here with a ``probe()`` is a sensor.

``probe(wanted) -> list[Sensor]`` raises ``SensorError`` with the reason where its hardware is not here. A module
may say ``FALLBACK = True`` (it runs after the others, for the kinds that none of them measures) or
``DRIVER = True`` (it calls a vendor's driver, which may hang: it runs last).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from greenml.errors import SensorError
from greenml.model import Kind, Sensor, Wanted


def modules(note: Callable[[str, str], None]) -> list[ModuleType]:
    """Return the sensor modules in the order in which they are probed; one whose package is missing is noted."""
    found = []
    for one in pkgutil.iter_modules(__path__):
        if not one.name.startswith("_"):
            try:
                found.append(import_module(f"{__name__}.{one.name}"))
            except ImportError as error:
                note("sensor-absent", f"{one.name}: the package {error.name or error} is not installed")
    return sorted(found, key=lambda one: (getattr(one, "DRIVER", False), getattr(one, "FALLBACK", False), one.__name__))


def discover(
    wanted: Wanted,
    note: Callable[[str, str], None],
    probing: Callable[[str, str], None] = lambda _name, _text: None,
) -> Iterator[Sensor]:
    """Yield every sensor of this machine.

    Args:
        wanted: which GPUs, and which processes are the run's.
        note: takes a code and a text for what is not here and why.
        probing: takes the name of the module that is asked next.
    """
    measured: set[Kind] = set()
    for module in modules(note):
        probing(module.__name__.rpartition(".")[2], "")
        try:
            sensors = module.probe(replace(wanted, measured=frozenset(measured)))
        except SensorError as error:
            note("sensor-absent", str(error))
            continue
        for sensor in sensors:
            measured |= {sensor.device.kind, *sensor.device.detail.get("includes", "").split()}
            yield sensor
