"""Which runs are meant: small conditions on their parameters, metrics and figures, such as ``status=completed``."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from greenml.errors import SettingsError
from greenml.record import RunRecord

EXAMPLES = "such as params.learning_rate<1e-4, sku=ND40rs_v2 or status=completed"
ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([\w./ -]+?)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")

# Short names of what people ask for; everything else is a path into the record, or a parameter's or metric's name.
SHORT: dict[str, Callable[[RunRecord], Any]] = {
    "sku": lambda one: one.place.sku,
    "region": lambda one: one.place.region,
    "cloud": lambda one: one.place.cloud,
    "country": lambda one: one.place.country_iso3,
    "tier": lambda one: one.place.tier,
    "nodes": lambda one: one.place.nodes,
    "gpu": lambda one: next((device.name for device in one.devices if device.kind == "gpu"), None),
    "gpus": lambda one: sum(device.count for device in one.devices if device.kind == "gpu"),
    "host": lambda one: next((host.name for host in one.hosts), None),
    "energy_joules": lambda one: total.it_energy_joules.value if (total := one.total()) else None,
    "emissions_grams": lambda one: total.emissions_grams.value if (total := one.total()) else None,
    "gpu_utilization_ratio": lambda one: total.gpu_utilization_ratio if (total := one.total()) else None,
    "gpu_memory_peak_bytes": lambda one: total.gpu_memory_peak_bytes if (total := one.total()) else None,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a field with a value."""

    field: str
    sign: str
    value: str
    text: str

    def holds(self, record: RunRecord) -> bool:
        """Tell whether a run meets it; one that has no such field does not."""
        found = lookup(record, self.field)
        if found is None:
            return False
        if self.sign in ORDERS:
            number = _number(found)
            return number is not None and ORDERS[self.sign](number, float(self.value))
        number, wanted = _number(found), _number(self.value)
        equal = number == wanted if number is not None and wanted is not None else _word(found) == _word(self.value)
        return equal if self.sign in ("=", "==") else not equal


def parse(text: str) -> Condition:
    """Read a condition: a field, one of = != < <= > >=, and a value.

    Raises:
        SettingsError: it is none; says what would be.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise SettingsError(f"--where {text!r}: must be a field, one of = != < <= > >=, and a value, {EXAMPLES}")
    field, sign, value = match[1], match[2], match[3].strip("'\"")
    if sign in ORDERS and _number(value) is None:
        raise SettingsError(f"--where {text!r}: {value!r} is not a number, and {sign} needs one; {EXAMPLES}")
    return Condition(field, sign, value, text)


def select(records: Sequence[RunRecord], conditions: Sequence[Condition]) -> list[int]:
    """Return the places of the runs that meet every condition.

    Raises:
        SettingsError: no run has a field, or none meets the conditions.
    """
    for one in conditions:
        if not any(lookup(record, one.field) is not None for record in records):
            near = difflib.get_close_matches(one.field, _fields(records), 3, 0.5)
            meant = f"did you mean {' or '.join(near)}?" if near else f"give a field of the record, {EXAMPLES}"
            raise SettingsError(f"--where {one.text!r}: no run has {one.field!r}; {meant}")
    found = [at for at, record in enumerate(records) if all(one.holds(record) for one in conditions)]
    if not found:
        wanted = " and ".join(one.text for one in conditions)
        raise SettingsError(f"--where {wanted}: none of the {len(records)} runs is so")
    return found


def lookup(record: RunRecord, field: str) -> Any:  # noqa: ANN401  a parameter may be anything
    """Return a field of a record by its short name, its path, or as a parameter or metric; None where there is none."""
    if field in SHORT:
        return SHORT[field](record)
    found = _walk(record, field)
    for held in (record.params, record.metrics, record.derived):
        if found is None:
            found = _walk(held, field)
    return found


def _walk(held: Any, path: str) -> Any:  # noqa: ANN401
    """Follow a path with dots; a key may have dots or slashes of its own."""
    if isinstance(held, Mapping):
        if path in held:
            return held[path]
        for key in held:
            if path.startswith(f"{key}.") and (found := _walk(held[key], path[len(key) + 1 :])) is not None:
                return found
        return None
    if isinstance(held, BaseModel):
        name, _, rest = path.partition(".")
        if name not in type(held).model_fields:
            return None
        value = getattr(held, name)
        return _walk(value, rest) if rest else value
    return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _word(value: object) -> str:
    return str(value).strip().lower()


def _fields(records: Sequence[RunRecord]) -> list[str]:
    names = dict.fromkeys(SHORT)
    names |= dict.fromkeys(RunRecord.model_fields)
    for record in records:
        names |= dict.fromkeys(f"params.{name}" for name in record.params)
        names |= dict.fromkeys(record.params)
        names |= dict.fromkeys(f"metrics.{name}" for name in record.metrics)
        names |= dict.fromkeys(record.metrics)
    return list(names)
