"""The rest of a report page: what was idle, what it compares to, the factors, what was trained and what ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from greenml.record import Factor, RunRecord, SourceRef, Spread
from greenml.reports import _card_hyperparameters, _equivalents, _footprint, _format, _idle
from greenml.reports._page import Column, Markup, details, element, join, link, section, table

MOST_ROWS = 80
LONG = 300  # characters of a value


def idle(record: RunRecord) -> Markup:
    """Return what was idle and what it cost, or why that is not known."""
    found = _idle.idle(record)
    if isinstance(found, str):
        return section("Idle", element("p", f"Not known: {found}.", class_="muted"), id="idle")
    name = "GPU" if found.kind == "gpu" else "CPU"
    threshold = f"{_idle.IDLE_BELOW_RATIO:.0%}"
    head = element(
        "p",
        element("strong", _format.percent(found.energy_ratio)),
        f" of the {name} energy was used below {threshold} utilization, in ",
        element("strong", _format.percent(found.time_ratio)),
        f" of the {name} time.",
    )
    rows = [
        (
            "Energy while idle",
            _format.energy(found.energy_joules),
            f"of {found.devices} {name}{'s' if found.devices > 1 else ''}",
        )
    ]
    grams = _format.optional(found.emissions_grams, _format.mass, _format.NOT_KNOWN)
    rows.append(("Carbon of that energy", grams, "its share of the run's emissions"))
    for tier, usd in found.cost_usd.items():
        rows.append(
            (f"Cost of that time, {_format.tier(tier)}", _format.money(usd), "the idle share of the paid hours")
        )
    words = f"From the timeline, whose bins are {found.bin_seconds:g} s: idleness that is shorter is not seen."
    if found.devices < found.of_devices:
        words += f" {found.of_devices - found.devices} of {found.of_devices} {name}s do not tell their utilization."
    columns: list[str | Column] = ["", Column("figure", True), "how"]
    return section(
        "Idle",
        head,
        table("What was idle", columns, rows, quiet=True),
        element("p", words, class_="muted small"),
        id="idle",
    )


def equivalents(record: RunRecord) -> Markup:
    """Return what emits as much; empty where emissions are not known."""
    total = record.total()
    if total is None or total.emissions_grams.value is None:
        return Markup("")
    carbon = total.emissions_grams
    rows = []
    for one in _equivalents.equivalents(total.emissions_grams.value, carbon.low, carbon.high):
        each = f"{_format.number(one.each_grams, 4)} {one.unit} each, "
        source = join(
            each, link(_format.source(SourceRef(name=one.source.name, published=one.source.published)), one.source.url)
        )
        rows.append((one.name, _count(one.count), _format.interval(one.low, one.high, _count), source))
    columns: list[str | Column] = ["as much as", Column("count", True), Column("band", True), "source"]
    words = "The band is that of the emissions alone. Such figures give an idea of the size, and no more."
    return section(
        "What emits as much", table("What emits as much", columns, rows, quiet=True),
        element("p", words, class_="muted small"), id="equivalents",
    )  # fmt: skip


def _count(value: float) -> str:
    return f"{round(value):,}" if value >= 1000 else _format.number(value, 3)


def factors(record: RunRecord) -> Markup:
    """Return what was assumed, with bands, sources and dates."""
    held = record.factors
    rows = [_factor("Carbon intensity", held.carbon_intensity), _factor("PUE", held.pue)]
    if held.market_intensity is not None:
        rows.append(_factor("Carbon intensity, market-based", held.market_intensity))
    if held.wue is not None:
        rows.append(_factor("Water on site", held.wue))
    rows += [_factor(f"Price, {_format.tier(tier)}", one) for tier, one in held.prices.items()]
    if not held.prices:
        rows.append(_factor("Price", None))
    rows += [_spread(f"Embodied carbon of one {one.code}", one) for one in held.embodied]
    if held.lifetime is not None:
        rows.append(_spread("Lifetime", held.lifetime))
    columns: list[str | Column] = ["factor", Column("value", True), Column("band", True), "of", "source"]
    words = f"From the tables of {held.tables_version}." if held.tables_version else ""
    known_from = ", ".join(f"{name} from {where}" for name, where in record.place.known_from.items())
    words = " ".join(part for part in (words, f"Known: {known_from}." if known_from else "") if part)
    return section(
        "Factors", table("What was assumed, with its source", columns, rows, quiet=True),
        element("p", words, class_="muted small") if words else "", id="factors",
    )  # fmt: skip


def _factor(name: str, factor: Factor | None) -> tuple[str, ...]:
    if factor is None:
        return name, _format.NOT_KNOWN, "", "", ""
    unit = "" if factor.unit == "1" else factor.unit

    def write(value: float) -> str:
        return f"{_format.number(value, 4)} {unit}".strip()

    scope = "no figure for the place" if factor.scope == "none" else factor.scope.replace("_", " ")
    facts = (
        " ".join(part for part in (scope, factor.code) if part), str(factor.year or ""), factor.basis,
        "derived" if factor.derived else "", "assumed" if factor.assumed else "",
    )  # fmt: skip
    source = link(_format.source(factor.source), factor.source.url)
    told = join(source, element("span", f" {factor.note}", class_="muted")) if factor.note else source
    return (
        name,
        write(factor.value),
        _format.interval(factor.low, factor.high, write),
        ", ".join(one for one in facts if one),
        told,
    )


def _spread(name: str, spread: Spread) -> tuple[str, ...]:
    def write(value: float) -> str:
        if spread.unit in ("s", "seconds"):
            return f"{_format.number(value / _footprint.SECONDS_PER_YEAR, 3)} years"
        return f"{_format.number(value, 4)} {spread.unit}"

    sources = [link(_format.source(one), one.url) for one in spread.sources]
    parts = [part for one in sources for part in (one, "; ")][:-1]
    note = element("span", f" {spread.note}", class_="muted") if spread.note else ""
    count = f"{_format.number(spread.count, 4)} of them took part" if spread.count != 1 else ""
    return name, "a range", _format.interval(spread.low, spread.high, write), count, join(*parts, note)


def training(record: RunRecord) -> Markup:
    """Return hyperparameters, results and what a unit of work took; empty where there are none."""
    parts = []
    if record.metrics:
        rows = [(str(name), _value(value)) for name, value in list(record.metrics.items())[:MOST_ROWS]]
        parts.append(
            join(element("h3", "Results"), table("Results", ["metric", Column("value", True)], rows, quiet=True))
        )
    if record.derived:
        rows = [(_words(name), _unit_of(name, value)) for name, value in record.derived.items()]
        parts.append(
            join(element("h3", "Per unit of work"), table("Of the training phase", ["", Column("value", True)], rows))
        )
    params = _card_hyperparameters.hyperparameters(record)
    if params:
        rows = [(str(name), _value(value)) for name, value in list(params.items())[:MOST_ROWS]]
        made = table("Hyperparameters", ["parameter", Column("value", True)], rows, quiet=True)
        left = len(params) - MOST_ROWS
        more = element("p", f"and {left} more, see run.json", class_="muted small") if left > 0 else Markup("")
        parts.append(join(element("h3", "Hyperparameters"), made, more))
    return section("What was trained", *parts, id="training") if parts else Markup("")


def _words(name: str) -> str:
    return name.replace("_", " ").replace("emissions grams", "emissions").replace("cost usd", "cost")


def _unit_of(name: str, value: float) -> str:
    if name.startswith("emissions_grams"):
        return _format.mass(value)
    if name.startswith("cost_usd"):
        return _format.money(value)
    if name.startswith("joules"):
        return f"{_format.significant(value)} J"
    return _format.number(value, 5)


def _value(value: Any) -> str:  # noqa: ANN401  what a run logged
    if isinstance(value, float):
        return _format.number(value, 6) if abs(value) >= 1e-4 or value == 0 else f"{value:.6g}"
    written = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return written if len(written) <= LONG else f"{written[:LONG]}\u2026"


def surroundings(record: RunRecord) -> Markup:
    """Return what ran: hosts, versions, commit, command; empty where nothing is known."""
    environment = record.environment
    dirty = ", with changes that were not committed" if environment.git_dirty else ""
    facts = {
        "Python": environment.python, "system": environment.os, "driver": environment.driver,
        "commit": f"{environment.git_commit}{dirty}" if environment.git_commit else "",
        "launcher": environment.launcher,
        "processes": str(environment.world_size or ""), **environment.jobs,
    }  # fmt: skip
    rows: list[tuple[str, str]] = [(name, value) for name, value in facts.items() if value]
    rows += [(f"host {host.name}", _host(host.model_dump())) for host in record.hosts[:MOST_ROWS]]
    if environment.command:
        rows.append(("command", element("code", " ".join(environment.command))))
    if not rows and not environment.packages:
        return Markup("")
    parts = [table("What ran", ["", "value"], rows, quiet=True)] if rows else []
    if environment.packages:
        packages = [(name, version) for name, version in sorted(environment.packages.items())]
        parts.append(
            details(f"{len(packages)} packages", table("Packages", ["package", "version"], packages, quiet=True))
        )
    return section("What ran", *parts, id="surroundings")


def _host(facts: Mapping[str, Any]) -> str:
    memory = facts.get("memory_bytes")
    parts = (
        facts.get("cpu_model"), f"{facts['cpu_count']} CPUs" if facts.get("cpu_count") else "",
        f"{_format.gigabytes(memory)} GB" if memory else "", facts.get("os"), facts.get("cloud"),
    )  # fmt: skip
    return ", ".join(str(part) for part in parts if part) or _format.NOT_KNOWN
