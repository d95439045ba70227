"""Looks up the rated power of CPUs and GPUs by the names in kernels, hypervisors, drivers and price lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from greenml.factors import tables
from greenml.factors.types import Source

# A CPU's own row; an estimate of a cloud's own part, or of a maker who publishes no TDP; typical of its generation.
Kind = Literal["model", "estimate", "generation"]

# Words that do not tell one GPU from another: the maker's brands.
_BRANDS = frozenset({"nvidia", "tesla", "geforce", "quadro", "amd", "instinct", "radeon", "intel", "habana", "google"})
# What a short name may leave out: form, memory and edition. Never "Ti", "SUPER", "Laptop", "Ada" or "SFF".
_OMITTED = re.compile(
    r"sxm\d?|pcie|nvl|dgxs|ac|\d+gb?|hbm\d?e?|generation|blackwell|server|workstation|edition|max|q|active"
)
# The generation that the number of a model names, where the table does not have the model. Sources: AMD, "EPYC
# naming"; Intel, "Intel processor names, numbers and generation list".
_GENERATIONS_BY_NUMBER: tuple[tuple[str, str], ...] = (
    (r"epyc 7[0-9a-z]{2}1p?", "Naples"),
    (r"epyc 7[0-9a-z]{2}2p?", "Rome"),
    (r"epyc 7[0-9a-z]{2}3[px]?", "Milan"),
    (r"epyc [89][0-9a-z]{2}4[a-z]?", "Genoa"),
    (r"epyc 9[0-9a-z]{2}5[a-z]?", "Turin"),
    (r"xeon (platinum|gold|silver|bronze) [3-8]1\d\d[a-z]*", "Skylake"),
    (r"xeon (platinum|gold|silver|bronze) [3-9]2\d\d[a-z]*", "Cascade Lake"),
    (r"xeon (platinum|gold) [56]3\d\dhl?", "Cooper Lake"),
    (r"xeon platinum 83\d\dhl?", "Cooper Lake"),
    (r"xeon (platinum|gold|silver) [4-8]3\d\d[a-z]*", "Ice Lake"),
    (r"xeon (platinum|gold|silver|bronze) [3-8]4\d\d[a-z+]*", "Sapphire Rapids"),
    (r"xeon (platinum|gold|silver|bronze) [3-8]5\d\d[a-z+]*", "Emerald Rapids"),
    (r"xeon 6[579]\d\dp(-[a-z])?", "Granite Rapids"),
    (r"xeon 67\d\de", "Sierra Forest"),
    (r"xeon e[357]-\d{4}[lw]? v2", "Ivy Bridge"),
    (r"xeon e[57]-\d{4}[a-z]? v3", "Haswell"),
    (r"xeon e[57]-\d{4}[a-z]? v4", "Broadwell"),
    (r"xeon e[57]-\d{4}[lw]?", "Sandy Bridge"),
)
_MARKS = re.compile(r"\((r|tm|c)\)|[^\x20-\x7e]", re.IGNORECASE)
_ALTERNATIVES = " / "
_MAKERS = {
    "intel": "Intel", "amd": "AMD", "apple": "Apple", "aws": "AWS", "amazon": "AWS", "ampere": "Ampere",
    "nvidia": "NVIDIA",
}  # fmt: skip
# How a name begins that tells a model without its maker: by a family, or by a letter and a number. A bare number
# ("7763", "13900K") does not: another maker may have it, or a family that the table does not have.
_TELLING = re.compile(
    r"(xeon|epyc|ryzen|threadripper|opteron|core|ultra \d|pentium|celeron|atom|platinum|gold|silver|bronze|altra)\b"
    r"|graviton *\d|grace$|m\d (pro|max|ultra)$|(i\d|e[357]?|w\d?|d|m\d|fx)[ -]\d|[xl]\d{4}$|n\d{2,3}$"
)
_WITHOUT_NUMBER = ("NVIDIA", "AWS")  # whose models may have names without a number
SAME_RATIO = 1.05  # models that share a short name are one where their TDPs and watts a core are this near


@dataclass(frozen=True, slots=True)
class CpuRating:
    """What one physical core of a CPU is rated at.

    Attributes:
        name: of the table's row.
        watts_per_core, low, high: equal for a model; of a generation the typical model, and the 10th and 90th
            percentile of its models.
        tdp_watts, cores, threads_per_core: of one socket; None where not known.
        generation: ``Milan``; empty for a model.
        models: how many models the generation's figures are from; 1 for a model.
        note: "estimate: TDP of AMD EPYC 7763" and the like.
        source_ids, source_date: of the table's row.
    """

    name: str
    kind: Kind
    watts_per_core: float | None
    low: float | None
    high: float | None
    tdp_watts: float | None = None
    cores: int | None = None
    threads_per_core: float | None = None
    generation: str = ""
    models: int = 1
    note: str = ""
    source_ids: str = ""
    source_date: str = ""

    @property
    def source(self) -> Source:
        """Return where the figures are from."""
        return tables.source(self.source_ids, self.source_date)

    @property
    def half_width_ratio(self) -> float:
        """Half of the generation's interval over its middle: 0.34 for 6.25 to 12.58 W; 0 for a model."""
        if self.low is None or self.high is None or not self.high:
            return 0.0
        return (self.high - self.low) / (self.high + self.low)


def cpu(name: str) -> CpuRating | None:
    """Return the rating of a CPU under the name that the system or the hypervisor gives it; None where there is none.

    In this order: a hypervisor's or a cloud's name as a whole (``Intel Xeon Processor (Skylake, IBRS)``); the model
    (``AMD EPYC 7742 64-Core Processor``), also without its maker (``EPYC 7742``, ``i9-13900K``), but not by a bare
    number (``7742``), which tells none; the name of an Arm core (``Neoverse-V2``); the generation that the name tells
    in brackets, after a hyphen or by the model's number (``AMD EPYC-Milan-v2 Processor``, ``Xeon Gold 6338T``).

    Args:
        name: of ``/proc/cpuinfo``, ``lscpu``, ``sysctl`` or a price list.
    """
    patterns, whole, plain = _patterns(), _whole(name), _plain(name)
    if whole in patterns:
        return patterns[whole]
    # A Ryzen PRO has the TDP of its namesake; an Intel Core without graphics ("F") that of the one with them.
    for variant in (plain, re.sub(r"\b(ryzen \d) pro\b", r"\1", plain), re.sub(r"\b(i\d[ -]\d+k?)f$", r"\1", plain)):
        if model := _by_model(variant) or _by_short_name(variant):
            typical = None if model.watts_per_core else _by_generation(name, plain)
            return replace(typical, name=model.name, tdp_watts=model.tdp_watts) if typical else model
    core = plain.removeprefix("arm ")
    for key in (whole, plain, _squash(core)):
        if key in patterns:
            return patterns[key]
    return _by_generation(name, plain)


def arm_cpu(implementer: str, part: str) -> CpuRating | None:
    """Return the rating of an Arm core by its MIDR numbers, as ``/proc/cpuinfo`` shows them: ``0x41``, ``0xd4f``.

    Its ``watts_per_core`` is None where the maker publishes no power; its ``generation`` is the core's name.
    """
    return _parts().get((implementer.strip().lower(), part.strip().lower()))


def cpu_of_sku(names: str) -> CpuRating | None:
    """Return the rating of a machine size that may have one of several CPUs.

    Of several, the middle one, with the interval from the least to the most.

    Args:
        names: joined by `` / ``, the later ones cut short: ``Intel Xeon Platinum 8370C / 8272CL / E5-2673 v4``.
    """
    ratings = [rating for name in _alternatives(names) if (rating := cpu(name)) and rating.watts_per_core]
    if len(ratings) < 2:
        return ratings[0] if ratings else None
    ratings.sort(key=lambda rating: rating.watts_per_core or 0.0)
    middle = ratings[len(ratings) // 2]
    return CpuRating(
        name=names,
        kind="generation",
        watts_per_core=middle.watts_per_core,
        low=min(rating.low or 0.0 for rating in ratings),
        high=max(rating.high or 0.0 for rating in ratings),
        threads_per_core=middle.threads_per_core,
        generation=names,
        models=len(ratings),
        note=f"one of {len(ratings)} CPUs",
        source_ids="+".join(dict.fromkeys(part for rating in ratings for part in rating.source_ids.split("+"))),
        source_date=min(rating.source_date for rating in ratings),
    )


def gpu(name: str) -> tables.Row | None:
    """Return the row of a GPU under exactly this name, the maker's brands and the order of words aside, else None."""
    wanted = words(name)
    return _gpus().get(wanted) if wanted else None


def gpus(name: str) -> list[tables.Row]:
    """Return the GPUs that a name means: the one of that name, else those of which it leaves out form and memory.

    ``H100`` means the SXM, PCIe and NVL cards; ``RTX 5070`` is never a ``RTX 5070 Ti``.
    """
    if row := gpu(name):
        return [row]
    wanted = words(name)
    if not any(any(letter.isdigit() for letter in word) for word in wanted):
        return []
    return [
        row
        for row in tables.rows("gpus")
        if any(
            wanted < known and all(_OMITTED.fullmatch(word) for word in known - wanted)
            for known in map(words, (row["gpu_model"], *filter(None, row["alias"].split(";"))))
        )
    ]


def words(name: str) -> frozenset[str]:
    """Return the words of a GPU's name that tell it from others, in lower case, without its makers' brands."""
    return frozenset(re.findall(r"[a-z0-9]+", _MARKS.sub(" ", name).lower())) - _BRANDS


@cache
def _gpus() -> dict[frozenset[str], tables.Row]:
    index: dict[frozenset[str], tables.Row] = {}
    for row in tables.rows("gpus"):
        for known in (row["gpu_model"], *filter(None, row["alias"].split(";"))):
            index.setdefault(words(known), row)
    return index


def _by_model(plain: str) -> CpuRating | None:
    """Return the model of exactly this name, spaces and hyphens aside.

    Reducing every name of the table takes 40 ms, which a run's start would wait for: only those are that have the end
    of the name's last number, or, as few have none, a maker's whose names need none.
    """
    numbers, key = re.findall(r"\d+", plain), _squash(plain)
    texts = (numbers[-1][-2:],) if numbers else _WITHOUT_NUMBER
    return next((model for text in texts if (model := _models(text).get(key))), None)


@cache
def _models(text: str = "") -> dict[str, CpuRating]:
    """Return the models by their names, spaces and hyphens aside; of rows that hold a text."""
    index: dict[str, CpuRating] = {}
    for row in tables.rows_with("cpus", text):
        if key := _model_key(row):
            index.setdefault(key, _model(row))
    return index


def _model_key(row: tables.Row) -> str:
    """Return a row's name without spaces and hyphens; empty where it names no model: "Intel Xeon" is a family."""
    key = _squash(_plain(row["cpu_model"]))
    return key if row["vendor"] in _WITHOUT_NUMBER or re.search(r"\d", key) else ""


@cache
def _short_names() -> dict[str, list[tuple[str, CpuRating]]]:
    """Return the table's models, each with its maker, by the ends of their names that tell a model: ``e5-2690 v4``."""
    index: dict[str, list[tuple[str, CpuRating]]] = {}
    for row in tables.rows("cpus"):
        words = _plain(row["cpu_model"]).split()
        model = _models().get(_squash(" ".join(words)))
        for start in range(1, len(words)):
            name = " ".join(words[start:])
            if model and _TELLING.match(name):
                index.setdefault(_squash(name), []).append((row["vendor"], model))
        if model and words[1:2] == ["ryzen"]:  # the number tells whether it is a Ryzen 5, 7 or 9
            index.setdefault(_squash(re.sub(r"^amd ryzen \d ", "ryzen ", " ".join(words))), []).append(("AMD", model))
    return index


def _by_short_name(plain: str) -> CpuRating | None:
    """Return the one model whose name ends like this, else None; a maker may stand before it."""
    first, _, rest = plain.partition(" ")
    maker, name = (_MAKERS[first], rest) if first in _MAKERS else ("", plain)
    if not _TELLING.match(name) or not re.search(r"\d|^grace$", name):
        return None
    models = [model for vendor, model in _short_names().get(_squash(name), ()) if maker in {"", vendor}]
    same = all(_alike(model.tdp_watts, models[0].tdp_watts) for model in models)
    same = same and all(_alike(model.watts_per_core, models[0].watts_per_core) for model in models)
    return models[0] if models and same else None


def _alike(one: float | None, other: float | None) -> bool:
    return one == other or (bool(one and other) and max(one, other) <= SAME_RATIO * min(one, other))  # type: ignore[type-var, operator]


def _model(row: tables.Row) -> CpuRating:
    tdp_watts, cores, threads = (tables.number(row[name]) for name in ("tdp_w", "cores", "threads"))
    watts = tdp_watts / cores if tdp_watts and cores else None
    return CpuRating(
        name=row["cpu_model"],
        kind="estimate" if row["note"].startswith("estimate") else "model",
        watts_per_core=watts,
        low=watts,
        high=watts,
        tdp_watts=tdp_watts,
        cores=int(cores) if cores else None,
        threads_per_core=threads / cores if threads and cores else None,
        note=row["note"],
        source_ids="+".join(filter(None, (row["source"], row["cores_source"]))),
        source_date=row["source_date"],
    )


def _part(row: tables.Row) -> CpuRating:
    return CpuRating(
        name=row["cpu_model"] or row["generation"],
        kind="generation",
        watts_per_core=tables.number(row["tdp_w_per_core"]),
        low=tables.number(row["tdp_w_per_core_low"]),
        high=tables.number(row["tdp_w_per_core_high"]),
        threads_per_core=tables.number(row["threads_per_core"]),
        generation=row["generation"],
        models=int(row["models"] or 0),
        note=row["note"],
        source_ids=row["source"],
        source_date=row["source_date"],
    )


@cache
def _parts() -> dict[tuple[str, str], CpuRating]:
    rows = (row for row in tables.rows("cpu_parts") if row["kind"] == "arm_part")
    return {tuple(row["key"].split()): _part(row) for row in rows}  # type: ignore[misc]


@cache
def _patterns() -> dict[str, CpuRating]:
    """Return hypervisors' names as a whole, and the names of Arm cores."""
    index: dict[str, CpuRating] = {}
    for row in tables.rows("cpu_parts"):
        part = _part(row)
        if row["kind"] == "name_pattern":
            index[_whole(row["key"])] = part
        else:
            for name in (row["generation"], *re.findall(r"\((.+?)\)", row["generation"])):
                index.setdefault(_squash(re.sub(r"\(.*", "", name).lower()), part)
    return index


@cache
def _generations() -> dict[str, CpuRating]:
    parts = [_part(row) for row in tables.rows("cpu_parts") if row["kind"] == "name_pattern"]
    return {_squash(part.generation.lower()): part for part in parts}


def _by_generation(name: str, plain: str) -> CpuRating | None:
    known = _generations()
    for pattern, generation in _GENERATIONS_BY_NUMBER:
        if re.search(rf"\b{pattern}(?![0-9a-z])", plain):
            return known.get(_squash(generation.lower()))
    words = [word for inside in re.findall(r"\(([^)]*)\)", _MARKS.sub("", name)) for word in inside.split(",")]
    words += re.findall(r"epyc-([a-z]+)", plain)
    for word in words:
        key = _squash(re.sub(r"-(server|client|noTSX).*", "", word.strip(), flags=re.IGNORECASE).lower())
        if key in known:
            return known[key]
    family = re.sub(r"( version [\d.+]+| v\d+)$", "", re.sub(r"\(.*?\)|@.*", "", _whole(name)).strip()).strip()
    return _patterns().get(family) or _patterns().get(_any_of_family(plain))


def _any_of_family(plain: str) -> str:
    """Return the key of the whole family of a server processor that nothing else is known of."""
    words = plain.split()
    if "xeon" in words and "phi" not in words:
        return "intel xeon processor"
    return "amd epyc" if "epyc" in words else ""


def _whole(name: str) -> str:
    """Return a name without marks, in lower case; a QEMU version of a model or of itself is the same name."""
    text = re.sub(r"-v\d+\b", "", _MARKS.sub("", name).lower())
    return " ".join(re.sub(r" version [\d.]+\+?$", "", text.strip()).split())


def _plain(name: str) -> str:
    """Reduce ``Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz`` to ``intel xeon e5-2690 v4``."""
    text = re.sub(r"[(@].*| (with|w/) .*", " ", _MARKS.sub("", name).lower()).replace("_", " ")
    text = re.sub(
        r"^ *\d+ ?x |\b\d+(\.\d+)? ?[gm]hz\b|\b\d+c/\d+t\b|,.*| x ?\d{1,2} *$", " ", text
    )  # how many, how fast
    text = re.sub(r"\b(e[357]-\d{4}[a-z]?) 0\b", r"\1", text)  # the kernel's "E5-2670 0" is the one before the v2
    text = re.sub(
        r"\b(\d+th gen|\d+[ -]cores?(?! i\d)|[a-z]+-core|cpu|processor|superchip|apu|x-series|soc)\b", " ", text
    )
    return " ".join(text.split())


def _squash(name: str) -> str:
    return re.sub(r"[ -]", "", name)


def _alternatives(names: str) -> Iterable[str]:
    first, *others = (name.strip() for name in names.split(_ALTERNATIVES))
    yield first
    family = re.match(r"(Intel Xeon|AMD EPYC)", first)
    for name in others:
        if re.match(r"(?i)intel|amd|aws|nvidia|ampere|arm", name) or not family:
            yield name
        elif re.match(r"\d{4}[A-Z]*$", name) and family[0] == "Intel Xeon":
            yield f"Intel Xeon Platinum {name}"
        else:
            yield f"{family[0]} {name}"
