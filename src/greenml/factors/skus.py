"""Machine sizes of the clouds, by any name that people give them."""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase
from functools import cache

from greenml import tables
from greenml.errors import SettingsError
from greenml.facts import Sku

# The Azure price list's second name of a size, with the name that the compute API has.
SECOND_NAMES = {"nd96asra100v4": "nd96asrv4"}


def find(name: str, cloud: str = "") -> Sku:
    """Return the machine size of that name.

    Case, spaces, dots, hyphens, underscores and Azure's ``Standard_`` do not matter: ``ND40rs_v2``,
    ``STANDARD_ND40RS_V2``, ``standard nd40rs v2``. The cloud may stand before the name: ``lambda/1x H100 PCIe
    80GB``.

    ``gpu_count`` 0 beside a ``gpu_model`` is a count that is not known (NC_RTXPRO6000BSE_v6).

    Args:
        name: the size's name.
        cloud: azure, aws, gcp, coreweave or lambda; "" for any.

    Raises:
        SettingsError: no size has that name (the message gives the nearest), or sizes of two clouds have it.
    """
    given_cloud, _, rest = name.rpartition("/")
    cloud = (cloud or given_cloud).strip().lower()
    wanted = _key(rest)
    found = [sku for sku in _all() if _key(sku.name) == wanted and cloud in {"", sku.cloud}]
    if len(found) == 1:
        return found[0]
    if found:
        clouds = ", ".join(f"'{sku.cloud}/{sku.name}'" for sku in found)
        raise SettingsError(f"SKU {name!r} is sold by several clouds; give one of {clouds}")
    raise SettingsError(_unknown(name, wanted, cloud))


def unambiguous(sku: Sku) -> str:
    """Return a name that ``find`` takes for this size alone: its own, after its cloud where another sells that too."""
    shared = sum(_key(one.name) == _key(sku.name) for one in _all()) > 1
    return f"{sku.cloud}/{sku.name}" if shared else sku.name


def search(pattern: str) -> list[Sku]:
    """Return the sizes that a pattern fits: a part of the name, label or GPU model, or a glob (``ND*_v4``).

    Case does not matter. Names that begin with the pattern come first.
    """
    wanted = pattern.strip().lower()
    wanted = wanted.removeprefix("standard_")
    if any(sign in wanted for sign in "*?["):
        return [sku for sku in _all() if fnmatchcase(sku.name.lower(), wanted)]
    found = [sku for sku in _all() if any(wanted in text.lower() for text in (sku.name, sku.label, sku.gpu_model))]
    return sorted(found, key=lambda sku: not sku.name.lower().startswith(wanted))


def _key(name: str) -> str:
    """Return what two spellings of a name share."""
    key = "".join(letter for letter in name.lower() if letter not in " -_.\t")
    key = key.removeprefix("standard")
    return SECOND_NAMES.get(key, key)


@cache
def _all() -> tuple[Sku, ...]:
    return tuple(_sku(row) for row in tables.rows("skus"))


def _sku(row: tables.Row) -> Sku:
    azure = row["cloud"] == "azure"
    return Sku(
        cloud=row["cloud"],
        name=row["sku"],
        arm_name=f"Standard_{row['sku']}" if azure else row["sku"],
        label=row["label"],
        vcpus=tables.number(row["vcpus"]),
        memory_gib=tables.number(row["memory_gib"]),
        gpu_model=row["gpu_model"],
        gpu_count=tables.number(row["gpu_count"]) or 0.0,
        gpu_memory_gb=tables.number(row["gpu_memory_gb_each"]),
        cpu_model=row["cpu_model"],
        source=tables.source(row["source"], row["source_date"]),
    )


def _unknown(name: str, wanted: str, cloud: str) -> str:
    clouds = sorted({sku.cloud for sku in _all()})
    if cloud not in {"", *clouds}:
        return f"unknown cloud {cloud!r} of SKU {name!r}; known are {', '.join(clouds)}"
    if elsewhere := [sku.cloud for sku in _all() if _key(sku.name) == wanted]:
        bare = name.rpartition("/")[2]
        sold = f"SKU {name!r} is sold by {' and '.join(elsewhere)}, not by {cloud}"
        return f"{sold}; 'greenml skus {bare}' lists it"
    names = {_key(sku.name): sku.name for sku in _all() if cloud in {"", sku.cloud}}
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    scores = {key: difflib.SequenceMatcher(None, key, wanted).ratio() for key in near}
    near = [names[key] for key in near if scores[key] > max(scores.values()) - 0.1]
    asked = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    command = f"greenml skus {_family(name)}".strip()
    return f"unknown SKU {name!r}{asked} '{command}' lists them"


def _family(name: str) -> str:
    """Return how the names of the SKU's family begin (``ND``, ``p4``), empty where none does."""
    bare = re.sub(r"^standard[ _-]", "", name.rpartition("/")[2].strip(), flags=re.IGNORECASE)
    start = re.match(r"[A-Za-z]{2,}|[A-Za-z][0-9]*", bare)
    return start[0] if start and search(start[0]) else ""
