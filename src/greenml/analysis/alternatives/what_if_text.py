"""What-if as text: a table a section, then what was assumed, and every source."""

from __future__ import annotations

from collections.abc import Sequence

from greenml import printable
from greenml.analysis import _prose
from greenml.analysis.alternatives._option import Measure, Option, ranked
from greenml.analysis.alternatives.start_times import Start, Starts, shown
from greenml.analysis.alternatives.what_if import WhatIf
from greenml.record import Factor
from greenml.reports import _format

_Table = tuple[tuple[str, ...], frozenset[int], Sequence[tuple[str, ...]]]  # head, columns of figures, rows
SPARE = ("basis", "PUE", "g/kWh")  # columns that a narrow terminal does without, in this order
TITLES = {"regions": "Regions", "tiers": "Tiers", "skus": "Machine sizes with the same GPUs"}


def render(
    found: WhatIf, by: Measure | None = None, top: int = 10, width: int = 100, table_width: int | None = None
) -> str:
    """Render the sections, each from the best, with the run among them.

    Args:
        found: what to print.
        by: rank by this alone; by None regions are ranked twice.
        top: rows of a table at the most; the run's own comes besides.
        width: columns of the sentences.
        table_width: columns of the tables, which do without some where it is narrow; None: what they need.
    """
    marks = _Marks()
    sources = _prose.Sources()
    lines = _headline(found, width)
    measures: tuple[Measure, ...] = (by,) if by else ("carbon", "cost")
    known = [one for one in measures if any(option.value(one) is not None for option in found.regions)]
    for measure in known or measures[:1]:  # no ranking by what is known of none
        lines += _section(found, "regions", measure, top, marks, sources, table_width)
    lines += _section(found, "tiers", "cost", top, marks, sources, table_width)
    lines += _section(found, "skus", by or "cost", top, marks, sources, table_width)
    if found.starts is not None:
        lines += _starts(found.starts, top)
    for section, why in found.silent.items():
        lines += ["", *_prose.wrapped(f"{TITLES[section]}: none ranked: {why}.", width)]
    if found.regions or found.tiers or found.skus:
        told = ["> the run as it was", *marks.lines()]
        lines += ["", *(line for text in told for line in _prose.wrapped(text, width, by=1))]
    lines += ["", "Assumed", *_prose.points(_assumed(found), width)]
    if found.starts is not None:
        sources.number(_source(found.starts))
    if numbered := sources.lines(width):
        lines += ["", "Sources", *numbered]
    return printable.lines("\n".join(lines) + "\n")


class _Marks:
    """Warnings by letter, each explained once."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def of(self, option: Option, measure: Measure) -> str:
        apart = option.carbon_apart if measure == "carbon" else option.cost_apart
        texts = ["within the bands: the factors' doubt is no smaller than the difference"] if apart is False else []
        texts += option.warnings
        return " ".join(self._letters.setdefault(text, chr(ord("a") + len(self._letters))) for text in texts)

    def lines(self) -> list[str]:
        return [f"{letter} {text}" for text, letter in self._letters.items()]


def _headline(found: WhatIf, width: int) -> list[str]:
    run = found.run
    where = f"{f' on {run.sku}' if run.sku else ''}{f' in {run.region}' if run.region else ''}"
    title = f"What if: {printable.line(found.name)}, {_format.duration(found.seconds)}{where}"
    costs = ", ".join(
        f"{_format.figure(cost, _format.money)} {_format.tier(tier)}" for tier, cost in run.cost_usd.items()
    )
    emitted = _format.figure(run.emissions_grams, _format.mass)
    band = _format.band(run.emissions_grams, _format.mass)
    of_hours = " (with the record's own intensity)" if found.starts is not None else ""
    carbon = f"{emitted}{f' ({band})' if band else ''}"
    was = f"The whole run as it was{of_hours}: {carbon}; {costs or 'its price is not known'}."
    return [title, *_prose.wrapped(was, width)]


def _section(  # noqa: PLR0917  what is printed, and what it adds to
    found: WhatIf, section: str, by: Measure, top: int, marks: _Marks, sources: _prose.Sources, width: int | None
) -> list[str]:
    options: Sequence[Option] = getattr(found, section)
    if not options:
        return []
    order = ranked(options, by)
    kept = [(at, one) for at, one in enumerate(order, 1) if at <= top or one.is_run]
    title = f"{TITLES[section]}, by {by}"
    if len(order) > len(kept):
        title += f" ({len(kept)} of {len(order)})"
    make = _tier_rows if section == "tiers" else _place_rows
    head, right, rows = make([one for _, one in kept], found.run, by, marks, sources)
    numbered = [(f"{'>' if one.is_run else ''} {at}".strip(), *row) for (at, one), row in zip(kept, rows, strict=True)]
    figures = frozenset({0, *(column + 1 for column in right)})
    return ["", title, *_prose.indented(_fitting(("", *head), figures, numbered, width))]


def _fitting(
    head: tuple[str, ...], right: frozenset[int], rows: Sequence[tuple[str, ...]], width: int | None
) -> list[str]:
    """Lay a table out without the columns that it has no room for; says which."""
    lines, without = _prose.table(head, rows, right), []
    for spare in SPARE:
        if width is None or max(map(len, lines)) < width or spare not in head:
            break
        without.append(spare)
        kept = [at for at, name in enumerate(head) if name != spare]
        right = frozenset(new for new, at in enumerate(kept) if at in right)
        head, rows = tuple(head[at] for at in kept), [tuple(row[at] for at in kept) for row in rows]
        lines = _prose.table(head, rows, right)
    return [*lines, f"(a wider terminal, a file and --json have {', '.join(without)} too)"] if without else lines


def _place_rows(options: Sequence[Option], run: Option, by: Measure, marks: _Marks, sources: _prose.Sources) -> _Table:
    sized = any(one.name != one.region and not one.is_run for one in options)
    rows = [
        (
            one.name,
            *((one.region.rpartition("/")[2] or "-",) if sized else ()),
            _format.figure(one.emissions_grams, _format.mass, reason=False).removesuffix(" CO2e"),
            _prose.change(one.change_grams, run.emissions_grams.value),
            *_intensity(one.factors.carbon_intensity),
            _format.number(one.factors.pue.value, 4) if one.factors.pue else "-",
            _format.optional(one.usd, _format.money, "-"),
            _prose.change(one.change_usd, run.usd),
            ",".join(_numbers(one, sources)),
            marks.of(one, by),
        )
        for one in options
    ]
    place = ("size", "region") if sized else ("region",)
    cost = f"{_format.tier(run.tier)}"
    head = (*place, "CO2e", "change", "g/kWh", "basis", "PUE", cost, "change", "source", "see")
    first = len(place)
    right = frozenset({first, first + 1, first + 2, first + 4, first + 5, first + 6})
    return head, right, rows


def _intensity(factor: Factor | None) -> tuple[str, str]:
    if factor is None:
        return "-", "-"
    year = f" {factor.year}" if factor.year else ""
    return _format.number(factor.value, 4), f"{factor.basis or factor.scope}{year}"


def _numbers(option: Option, sources: _prose.Sources) -> list[str]:
    used = [option.factors.carbon_intensity, option.factors.pue, option.factors.prices.get(option.tier)]
    return list(dict.fromkeys(sources.number(_format.source(one.source)) for one in used if one is not None))


def _tier_rows(options: Sequence[Option], run: Option, by: Measure, marks: _Marks, sources: _prose.Sources) -> _Table:
    rows = []
    for one in options:
        price = one.factors.prices[one.tier]
        rows.append(
            (
                _format.tier(one.name),
                _format.optional(one.usd, _format.money, "-"),
                "-" if one.change_usd is None else _prose.money(one.change_usd),
                _prose.change(one.change_usd, run.usd),
                f"${_format.number(price.value)}/h",
                price.source.published or "given",
                sources.number(_format.source(price.source)),
                marks.of(one, by),
            )
        )
    head = ("tier", "cost", "change", "", "a node", "price of", "source", "see")
    return head, frozenset({1, 2, 3, 4}), rows


def _starts(starts: Starts, top: int) -> list[str]:
    """Render the best and the worst start, and how the run's own compares."""
    reference = starts.run or starts.worst
    title = f"Start times by {starts.provider}'s intensity of {starts.area or 'the place'}, {starts.signal}"
    count = f"{len(starts.rows)} starts from {_format.minute(starts.first)} on"

    def row(name: str, one: Start) -> tuple[str, ...]:
        difference = one.emissions_grams - reference.emissions_grams
        return (
            name,
            _format.minute(one.start),
            _format.mass(one.emissions_grams),
            "-" if one is reference else _prose.change(difference, reference.emissions_grams),
            f"{_format.number(one.grams_per_kwh, 4)}",
        )

    best = [row("best" if at == 0 else str(at + 1), one) for at, one in enumerate(shown(starts, top))]
    rows = [*best, row("worst", starts.worst)]
    if starts.run is not None:
        rows.append(row("the run", starts.run))
    head = ("", "start", "emissions", "to the run" if starts.run else "to the worst", "g/kWh, by energy")
    lines = ["", f"{title} ({count})", *_prose.indented(_prose.table(head, rows, frozenset({2, 3, 4})))]
    if starts.run is None:
        lines.append(" The course does not cover the time of the run itself.")
    return lines


def _source(starts: Starts) -> str:
    name = starts.source.name or starts.provider
    return f"{name}, {starts.source.published}" if starts.source.published else name


def _assumed(found: WhatIf) -> list[str]:
    joules = found.energy_joules
    energy = _format.figure(joules, _format.energy)
    known = f", {joules.basis}" if joules.value is not None else ""
    parts = f"; {joules.why}" if joules.value is not None and joules.why else ""
    texts = [
        f"The same work takes the same energy ({energy} of IT energy{known}{parts}) and the same time everywhere. "
        "Nothing was run again."
    ]
    if found.regions or found.skus:
        texts.append(
            "Yearly averages of each region's grid, location-based, times its PUE. A difference counts against the "
            "doubt of the factors that differ; the energy's own doubt cancels."
        )
        texts.append(
            "Whether you may run there (quota, data residency, a government region's terms) is yours to know, as is "
            "what moving the data costs."
        )
    if found.tiers:
        texts.append(
            "Low priority and spot machines are taken away at times; what is done again then, and the checkpoints, are "
            "not in these costs ('greenml advise' reckons with them)."
        )
    if found.skus:
        texts.append(
            "Sizes have the same number of GPUs of the same model and memory; their CPUs, links and disks differ. Each "
            "is in the run's region if it has a price there, else where its price is the least."
        )
    if found.starts is not None:
        texts += [f"{text[0].upper()}{text[1:]}." for text in found.starts.assumes]
    return texts + [f"{text}." for text in found.left_out]
