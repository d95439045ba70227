"""Joules, watts, utilization and memory from hardware: a file here with a ``probe()`` is a sensor.

``probe(wanted) -> list[Sensor]`` raises ``SensorError`` with the reason where its hardware is not here. A module
may say ``FALLBACK = True`` (it is probed after the others, for the kinds that none of them measures) or
``DRIVER = True`` (it calls a vendor's driver, which may hang: it is probed last). Whatever else a module raises costs
that module's devices alone.
"""

from __future__ import annotations

import contextlib
import pkgutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from greenml.errors import SensorError, SettingsError, is_of_handler
from greenml.trace.types import Kind, Sensor, Wanted

CHECK_SECONDS = 5.0  # how long a driver may take to list its GPUs, where the user chose some
REPORT = "the other sensors are not affected"


def modules(note: Callable[[str, str], None]) -> list[ModuleType]:
    """Return the sensor modules in the order in which they are probed; one that cannot be imported is noted."""
    sensors = []
    for name in (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")):
        try:
            module = import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            note("sensor-absent", f"{name}: the package {error.name or error} is not installed")
        except ImportError as error:
            note("sensor-absent", f"{name}: {error}")
        except Exception as error:  # one module's fault, whatever it is, costs that sensor alone
            if is_of_handler(error):
                raise
            note("sensor-absent", f"{name}: cannot be loaded: {type(error).__name__}: {error}; {REPORT}")
        else:
            if hasattr(module, "probe"):  # the sampler stands here too
                sensors.append(module)
    return sorted(
        sensors,
        key=lambda module: (getattr(module, "DRIVER", False), getattr(module, "FALLBACK", False), module.__name__),
    )


def discover(
    wanted: Wanted,
    note: Callable[[str, str], None],
    probing: Callable[[str, str], None] = lambda _name, _text: None,
) -> Iterator[Sensor]:
    """Yield every sensor of this machine.

    Args:
        wanted: which GPUs, and which processes are the run's.
        note: takes a code and a text for what is not here and why.
        probing: takes the name of the module that is probed next.

    Raises:
        SettingsError: ``wanted`` names a GPU that is not here.
    """
    measured: set[Kind] = set()
    for module in modules(note):
        name = module.__name__.rpartition(".")[2]
        probing(name, "")
        try:
            sensors = module.probe(replace(wanted, measured=frozenset(measured)))
        except SensorError as error:
            note("sensor-absent", str(error))
            continue
        except SettingsError:
            raise
        except Exception as error:  # noqa: BLE001  as above
            note("sensor-absent", f"{name}: cannot be probed: {type(error).__name__}: {error}; {REPORT}")
            continue
        for sensor in sensors:
            measured |= {sensor.device.kind, *sensor.device.detail.get("includes", "").split()}
            yield sensor


def check_gpus(gpus: str | Sequence[int | str] | None) -> None:
    """Hold a user's choice of GPUs against those that are there, before anything runs; waits a bounded time.

    Raises:
        SettingsError: an entry names no GPU of this host, or several; lists those that are there.
    """
    if gpus is None or gpus == "all" or not gpus:
        return
    errors: list[SettingsError] = []

    def look() -> None:
        with contextlib.suppress(Exception):  # the sampler notes what is wrong with the driver
            from greenml.sensors import nvml

            try:
                nvml.check(gpus)
            except SettingsError as error:
                errors.append(error)

    thread = threading.Thread(target=look, name="greenml-gpus", daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    if errors:
        raise errors[0]
