"""Looks up the clouds' machine sizes by their usual names."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache

from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.factors import tables
from greenml.factors.places import OTHER_CLOUD_NAMES
from greenml.factors.types import Sku

# A second name of a size: the Azure price list's, with the name that the compute API has; what a TPU v5e is called.
SECOND_NAMES = {"nd96asra100v4": "nd96asrv4", **{f"v5e{chips}": f"v5litepod{chips}" for chips in (1, 4, 8)}}
_GPUS = (
    re.compile(r"(?P<count>\d+) *[xX\u00d7*] *(?P<gpu>.+)"),
    re.compile(r"(?P<gpu>.+?) *[xX\u00d7*:] *(?P<count>\d+)"),
)
SIZES_NAMED = 6
_LARGEST = ("azure", "aws", "gcp")
_SEPARATORS = str.maketrans("", "", " -_.\t")


def find(name: str, cloud: str = "") -> Sku:
    """Return the machine size of that name.

    Case, spaces, dots, hyphens, underscores, Azure's ``Standard_`` and SageMaker's ``ml.`` do not matter:
    ``ND40rs_v2``, ``STANDARD_ND40RS_V2``, ``standard nd40rs v2``, ``ml.p4d.24xlarge``. The cloud may stand before
    the name, and must where the name is a GPU's, which any cloud may sell: ``lambda/gpu_8x_h100_sxm5``, ``aws
    p4d.24xlarge``, ``paperspace/A100``, ``vast/8x H200``. So many GPUs of a model are the one size of a cloud that has
    them: ``azure/8xH100``.

    ``gpu_count`` 0 beside a ``gpu_model`` is a count that is not known.

    Args:
        name: the size's name.
        cloud: azure, aws, gcp, lambda and so on, as ``greenml skus`` lists them; "" for any.

    Raises:
        SettingsError: no size has that name (the message gives the nearest), sizes of two clouds have it, or it is a
            GPU's name without a cloud (the message gives sizes that have it).
    """
    owner, rest = _split(name)
    cloud = _cloud(cloud) or owner
    wanted = _key(rest)
    same = [row for row in _by_key().get(wanted, ()) if cloud in {"", row["cloud"]}]
    if len(same) == 1 and (cloud or not _is_of_any_cloud(same[0])):
        return _sku(same[0])
    if same:
        why = "is sold by several clouds" if len(same) > 1 else "is a GPU's name, not a cloud's"
        clouds = ", ".join(f"'{row['cloud']}/{row['sku']}'" for row in same)
        raise SettingsError(f"SKU {name!r} {why}; give {'one of ' if len(same) > 1 else ''}{clouds}")
    sizes = _with_gpus(rest, cloud)
    if cloud and len(sizes) == 1:
        return sizes[0]
    if sizes:
        named = ", ".join(repr(unambiguous(sku)) for sku in sizes[:SIZES_NAMED])
        more = f" and {len(sizes) - SIZES_NAMED} more" if len(sizes) > SIZES_NAMED else ""
        raise SettingsError(f"SKU {name!r} is a number of GPUs, not a size; with them are {named}{more}")
    raise SettingsError(_unknown(name, wanted, cloud))


def unambiguous(sku: Sku) -> str:
    """Return a name that ``find`` takes for this size alone: its own, with its cloud where others may sell it too."""
    rows = _by_key()[_key(sku.name)]
    shared = len(rows) > 1 or _is_of_any_cloud(rows[0])
    return f"{sku.cloud}/{sku.name}" if shared else sku.name


def search(pattern: str) -> list[Sku]:
    """Return the sizes that match a pattern: a part of the name, label or GPU model, or a glob (``ND*_v4``).

    Case does not matter. Names that begin with the pattern come first. Where none matches, the sizes with so many GPUs
    (``8xA100``), else those that match each of its words (``ND H100 v5``).
    """
    wanted = pattern.strip().lower()
    wanted = wanted.removeprefix("standard_")
    if any(sign in wanted for sign in "*?["):
        return [sku for sku in _all() if fnmatchcase(sku.name.lower(), wanted)]
    matches = [sku for sku in _all() if any(wanted in text.lower() for text in (sku.name, sku.label, sku.gpu_model))]
    if not matches and wanted:
        owner, rest = _split(wanted)
        texts = ((sku, f"{sku.cloud} {sku.name} {sku.label}".lower()) for sku in _all())
        matches = _with_gpus(rest, owner) or [
            sku for sku, text in texts if all(word in text for word in wanted.split())
        ]
    return sorted(matches, key=lambda sku: not sku.name.lower().startswith(wanted))


def _with_gpus(name: str, cloud: str) -> list[Sku]:
    """Return the sizes with as many GPUs of a model as a name says, those of the largest clouds first."""
    from greenml.factors import processors  # on the way of a name that is no size's only

    parsed = next((match for pattern in _GPUS if (match := pattern.fullmatch(name.strip()))), None)
    words = processors.words(parsed["gpu"]) if parsed else frozenset()
    if parsed is None or not any(any(sign.isdigit() for sign in word) for word in words):
        return []
    sizes = [
        sku
        for sku in _all()
        if sku.gpu_count == int(parsed["count"])
        and cloud in {"", sku.cloud}
        and words <= processors.words(f"{sku.gpu_model} {sku.gpu_nvml_name} {sku.label}")
    ]
    return sorted(sizes, key=lambda sku: _LARGEST.index(sku.cloud) if sku.cloud in _LARGEST else len(_LARGEST))


def _key(name: str) -> str:
    """Return what two spellings of a name share: without separators, Azure's ``Standard_`` and SageMaker's ``ml.``."""
    plain = name.lower().strip()
    if plain.startswith(("ml", "tpu")):
        plain = re.sub(r"^(ml[._-]|tpu[ _-](?=v\d))", "", plain)
    key = plain.translate(_SEPARATORS).removeprefix("standard")
    return SECOND_NAMES.get(key, key)


def _split(name: str) -> tuple[str, str]:
    """Return the cloud that stands before a name, "" for none, and the rest of it."""
    prefix, sign, rest = name.rpartition("/")
    if not sign and ":" in name and not name.lower().startswith("gpu:"):
        prefix, _, rest = name.partition(":")
        if rest.strip().isdigit():  # A100:8
            prefix, rest = "", name
    if not prefix:
        first, _, others = rest.strip().partition(" ")
        if others and _cloud(first) in {row["cloud"] for row in tables.rows("skus")}:
            prefix, rest = first, others
    return _cloud(prefix), rest


def _cloud(name: str) -> str:
    """Return a cloud as the tables name it: ``gcp`` for Google."""
    plain = name.strip().lower()
    return OTHER_CLOUD_NAMES.get(plain.translate(_SEPARATORS), plain)


def _is_of_any_cloud(row: tables.Row) -> bool:
    """Tell whether a size's name is that of its GPUs alone: ``8x H200``, ``A100``, ``A100-80Gx8``."""
    name = row["sku"]
    return bool(re.match(r"\d+x ", name)) or re.sub(r"(-\d+G)?(x\d+)?$", "", name) in row["gpu_model"].split()


@cache
def _by_key() -> dict[str, list[tables.Row]]:
    index: dict[str, list[tables.Row]] = {}
    for row in tables.rows("skus"):
        index.setdefault(_key(row["sku"]), []).append(row)
    return index


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
        gpu_nvml_name=row["gpu_nvml_name"],
        cpu_model=row["cpu_model"],
        note=row["note"],
        source=tables.source(row["source"], row["source_date"]),
    )


def _unknown(name: str, wanted: str, cloud: str) -> str:
    clouds = sorted({sku.cloud for sku in _all()})
    if cloud not in {"", *clouds}:
        return f"unknown cloud {cloud!r} of SKU {name!r}; known are {', '.join(clouds)}"
    if elsewhere := [row["cloud"] for row in _by_key().get(wanted, ())]:
        bare = name.rpartition("/")[2]
        sold = f"SKU {name!r} is sold by {' and '.join(elsewhere)}, not by {cloud}"
        return f"{sold}; 'greenml skus {bare}' lists it"
    names = {_key(sku.name): sku.name if cloud else unambiguous(sku) for sku in _all() if cloud in {"", sku.cloud}}
    asked = did_you_mean(names[key] for key in nearest(wanted, names)) or ";"
    command = f"greenml skus {_family(name)}".strip()
    return f"unknown SKU {name!r}{asked} '{command}' lists them"


def _family(name: str) -> str:
    """Return how the names of the SKU's family begin (``ND``, ``p4``), empty where none does."""
    bare = re.sub(r"^standard[ _-]", "", name.rpartition("/")[2].strip(), flags=re.IGNORECASE)
    if re.fullmatch(r"[\w.-]+", bare) and search(bare):
        return bare
    start = re.match(r"[A-Za-z]{2,}|[A-Za-z][0-9]*", bare)
    return start[0] if start and search(start[0]) else ""
