"""Resolves the settings once: argument, then environment, then ``[tool.greenml]``, then default.

What a value means (is there such a SKU, such a tier, can a PUE be 0.8) is checked where it is used: by
``greenml.accounting.check``.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from greenml.errors import SettingsError, did_you_mean, nearest

MOST_NODES = 100_000
# What may stand in the environment (GREENML_SKU ...) and in [tool.greenml], and what it must be.
_KINDS: Mapping[str, type] = {
    "sku": str, "region": str, "tier": str, "nodes": int, "name": str, "output": str, "gpus": str,
    "interval": float, "carbon_intensity": float, "price_per_hour": float, "pue": float,
    "market_intensity": float, "lifetime_years": float,
    "intensity": str, "basis": str, "sinks": tuple,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a run, checked, and where each was given.

    Attributes:
        sku, region: as the user wrote them; "" where not given. ``region="auto"`` asks the cloud's metadata service.
        tier: which price was paid: dedicated, low_priority or spot; None where not given.
        nodes: machines that are billed; None for as many as took part.
        name: of the run; "" for none.
        output: run.json's path.
        gpus: None for the visible ones, ``all``, or a list.
        interval: seconds between readings; None for what the sensors need.
        carbon_intensity: g CO2e a kWh. price_per_hour: USD a node hour. pue: facility over IT energy.
        intensity: the provider of the carbon intensity over time, or a CSV file; "" for none.
        basis: of the carbon intensity, direct or lifecycle; "" where not given, which means direct.
        market_intensity: g CO2e a kWh of the user's contract. lifetime_years: of the hardware.
        sinks: where figures go while the run goes on: ``prometheus:9400``.
        known_from: setting to where it was given.
    """

    sku: str = ""
    region: str = ""
    tier: str | None = None
    nodes: int | None = None
    name: str = ""
    output: Path = Path("run.json")
    gpus: str | list[int | str] | None = None
    interval: float | None = None
    carbon_intensity: float | None = None
    price_per_hour: float | None = None
    pue: float | None = None
    market_intensity: float | None = None
    lifetime_years: float | None = None
    intensity: str = ""
    basis: str = ""
    sinks: tuple[str, ...] = ()
    known_from: Mapping[str, str] = field(default_factory=dict)

    def as_header(self) -> dict[str, Any]:
        """Return what a trace keeps of them: files by their names, without their folders."""
        return {
            **asdict(self),
            "output": self.output.name,
            "intensity": Path(self.intensity).name,
            "sinks": [sink.partition(":")[0] for sink in self.sinks],
        }


def resolve(
    arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Settings:
    """Settle every setting.

    Args:
        arguments: what the call was given; None counts as not given.
        environment: ``GREENML_*`` are read; the process's by default.
        folder: where the search for ``pyproject.toml`` begins, upward; the working folder by default.

    Raises:
        SettingsError: a value is wrong, in one line with what would be right.
    """
    unknown = [name for name in arguments if name not in _KINDS]
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(_KINDS))}")
    environment = os.environ if environment is None else environment
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("argument", {name: value for name, value in arguments.items() if value is not None}),
        ("environment", _from_environment(environment)),
        ("pyproject.toml", _from_pyproject(folder)),
    ]
    values: dict[str, Any] = {}
    known_from: dict[str, str] = {}
    for origin, layer in layers:
        for name, value in layer.items():
            if name not in values:
                values[name] = _checked(name, value, origin)
                known_from[name] = f"environment, GREENML_{name.upper()}" if origin == "environment" else origin
    return Settings(**values, known_from=known_from)


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environment[f"GREENML_{name.upper()}"] for name in _KINDS if environment.get(f"GREENML_{name.upper()}")
    }


def _from_pyproject(folder: Path | None) -> dict[str, Any]:
    try:
        folder = folder or Path.cwd()
    except OSError:  # the working folder was removed: it has no file
        return {}
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        if path.is_file():
            return _table(path)
    return {}


def _table(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8", errors="replace")
    if "tool.greenml" not in text:
        return {}
    try:
        tomllib = import_module("tomllib")
    except ImportError:  # Python 3.10
        tomllib = import_module("tomli")
    try:
        tool = tomllib.loads(text).get("tool", {})
    except ValueError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    table = tool.get("greenml", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: tool.greenml must be a table, [tool.greenml]")
    for name in table:
        if name not in _KINDS:
            hint = did_you_mean(nearest(name, _KINDS, 1)) or f"; there are {', '.join(sorted(_KINDS))}"
            raise SettingsError(f"{path}: [tool.greenml] has no setting {name!r}{hint}")
    return dict(table)


def _checked(name: str, value: Any, origin: str) -> Any:  # noqa: ANN401  anything may stand in a file
    where = {"environment": f"GREENML_{name.upper()}", "argument": name}.get(origin, f"{origin} {name}")
    if name == "gpus":
        return _gpus(value)
    if name == "sinks":
        return _sinks(value, where)
    if name == "output":
        if not isinstance(value, str | os.PathLike):
            raise SettingsError(f"{where} is {value!r}; it must be a folder that exists or a file that ends in .json")
        if "\0" in os.fsdecode(value):
            raise SettingsError(f"{where} is {value!r}; a file's name has no null character")
        return _output(Path(value), where)
    if _KINDS[name] is str:
        return str(value).strip()
    number = _number(value, where, whole=_KINDS[name] is int)
    low, high, unit = {"nodes": (1, MOST_NODES, ""), "interval": (0.01, 3600.0, " s")}.get(name, (-1e12, 1e12, ""))
    if not low <= number <= high:
        raise SettingsError(f"{where} is {value!r}; it must be {low:g} to {high:g}{unit}")
    return number


def _number(value: Any, where: str, *, whole: bool) -> float | int:  # noqa: ANN401
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool) or (whole and number != int(number)):
        raise SettingsError(f"{where} is {value!r}; it must be a {'whole ' * whole}number")
    return int(number) if whole else number


def _gpus(value: Any) -> str | list[int | str]:  # noqa: ANN401
    if isinstance(value, str):
        if value.strip().lower() == "all":
            return "all"
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(item, int | str) for item in value):
        raise SettingsError(f"gpus is {value!r}; it must be 'all' or a list of indices or UUIDs, such as [0, 1]")
    return [int(item) if isinstance(item, str) and item.isdecimal() else item for item in value]


def _sinks(value: Any, where: str) -> tuple[str, ...]:  # noqa: ANN401
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"{where} is {value!r}; it must be a list of sinks, such as ['prometheus:9400']")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _output(path: Path, where: str) -> Path:
    with contextlib.suppress(RuntimeError):  # of a user who is not known: a folder of that name
        path = path.expanduser()
    if path.is_dir():
        return path / "run.json"
    if path.suffix != ".json":
        raise SettingsError(f"{where} is '{path}'; it must be a folder that exists or a file that ends in .json")
    return path
