"""Rendering of a what-if as text: a table per section, then the assumptions and every source."""

from __future__ import annotations

from collections.abc import Sequence

from greenml import redaction
from greenml.analysis import _prose
from greenml.analysis.what_if.ranking import Measure, Option, Start, Starts, WhatIf, ranked, shown
from greenml.record.schema import Factor
from greenml.reports import _format

_Table = tuple[tuple[str, ...], frozenset[int], Sequence[tuple[str, ...]]]  # head, columns of figures, rows
SPARE = ("basis", "PUE", "g/kWh")  # columns that a narrow terminal does without, in this order
TITLES = {"regions": "Regions", "tiers": "Tiers", "skus": "Machine sizes with the same GPUs"}


def render(
    alternatives: WhatIf, by: Measure | None = None, top: int = 10, width: int = 100, table_width: int | None = None
) -> str:
    """Render the sections, each ranked from the best, including the run itself.

    Args:
        alternatives: what to print.
        by: rank by this alone; by None regions are ranked twice.
        top: rows of a table at the most; the run's own comes besides.
        width: columns of the sentences.
        table_width: columns of the tables, which do without some where it is narrow; None: what they need.
    """
    marks = _Marks()
    sources = _prose.Sources()
    lines = _headline(alternatives, width)
    measures: tuple[Measure, ...] = (by,) if by else ("carbon", "cost")
    known = [
        measure for measure in measures if any(option.value(measure) is not None for option in alternatives.regions)
    ]
    for measure in known or measures[:1]:  # no ranking by what is known of none
        lines += _section(alternatives, "regions", measure, top, marks, sources, table_width)
    lines += _section(alternatives, "tiers", "cost", top, marks, sources, table_width)
    lines += _section(alternatives, "skus", by or "cost", top, marks, sources, table_width)
    if alternatives.starts is not None:
        lines += _starts(alternatives.starts, top)
    for section, why in alternatives.silent.items():
        lines += ["", *_prose.wrapped(f"{TITLES[section]}: none ranked: {why}.", width)]
    if alternatives.regions or alternatives.tiers or alternatives.skus:
        legend = ["> the run as it was", *marks.lines()]
        lines += ["", *(line for text in legend for line in _prose.wrapped(text, width, by=1))]
    lines += ["", "Assumed", *_prose.points(_assumed(alternatives), width)]
    if alternatives.starts is not None:
        sources.number(_source(alternatives.starts))
    if numbered := sources.lines(width):
        lines += ["", "Sources", *numbered]
    return redaction.printable_lines("\n".join(lines) + "\n")


class _Marks:
    """Warnings by letter, each explained once."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def of(self, option: Option, measure: Measure) -> str:
        apart = option.carbon_apart if measure == "carbon" else option.cost_apart
        texts = ["not told apart: the factors' uncertainty is no smaller than the difference"] if apart is False else []
        texts += option.warnings
        return " ".join(self._letters.setdefault(text, chr(ord("a") + len(self._letters))) for text in texts)

    def lines(self) -> list[str]:
        return [f"{letter} {text}" for text, letter in self._letters.items()]


def _headline(alternatives: WhatIf, width: int) -> list[str]:
    run = alternatives.run
    where = f"{f' on {run.sku}' if run.sku else ''}{f' in {run.region}' if run.region else ''}"
    title = f"What if: {redaction.printable_line(alternatives.name)}, {_format.duration(alternatives.seconds)}{where}"
    costs = ", ".join(
        f"{_format.figure(cost, _format.money)} {_format.tier(tier)}" for tier, cost in run.cost_usd.items()
    )
    emitted = _format.figure(run.emissions_grams, _format.mass)
    interval = _format.interval_of(run.emissions_grams, _format.mass)
    of_hours = " (with the record's own intensity)" if alternatives.starts is not None else ""
    carbon = f"{emitted}{f' ({interval})' if interval else ''}"
    was = f"The whole run as it was{of_hours}: {carbon}; {costs or 'its price is not known'}."
    return [title, *_prose.wrapped(was, width)]


def _section(  # noqa: PLR0917  what is printed, and what it adds to
    alternatives: WhatIf, section: str, by: Measure, top: int, marks: _Marks, sources: _prose.Sources, width: int | None
) -> list[str]:
    options: Sequence[Option] = getattr(alternatives, section)
    if not options:
        return []
    order = ranked(options, by)
    kept = [(at, option) for at, option in enumerate(order, 1) if at <= top or option.is_run]
    intensity = alternatives.run.factors.carbon_intensity
    basis = f" on the {intensity.basis} basis" if by == "carbon" and intensity is not None and intensity.basis else ""
    title = f"{TITLES[section]}, by {by}{basis}"
    if len(order) > len(kept):
        title += f" ({len(kept)} of {len(order)})"
    make = _tier_rows if section == "tiers" else _place_rows
    head, right, rows = make([option for _, option in kept], alternatives.run, by, marks, sources)
    numbered = [
        (f"{'>' if option.is_run else ''} {at}".strip(), *row) for (at, option), row in zip(kept, rows, strict=True)
    ]
    figures = frozenset({0, *(column + 1 for column in right)})
    lines = ["", title, *_prose.indented(_fitting(("", *head), figures, numbered, width))]
    if apart := [option for option in options if by == "carbon" and not option.comparable and not option.is_run]:
        lines.append(f" Not ranked, with a figure on another basis or none: {', '.join(map(_apart, apart))}.")
    return lines


def _apart(option: Option) -> str:
    intensity = option.factors.carbon_intensity
    intensity_words = (
        "" if intensity is None else f" ({_format.number(intensity.value, 4)} g/kWh, {intensity.basis or 'not known'})"
    )
    return f"{option.name}{intensity_words}"


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
    sized = any(option.name != option.region and not option.is_run for option in options)
    rows = [
        (
            option.name,
            *((option.region.rpartition("/")[2] or "-",) if sized else ()),
            _format.figure(option.emissions_grams, _format.mass, reason=False).removesuffix(" CO2e"),
            _prose.change(option.change_grams, run.emissions_grams.value),
            *_intensity(option.factors.carbon_intensity),
            _format.number(option.factors.pue.value, 4) if option.factors.pue else "-",
            _format.optional(option.usd, _format.money, "-"),
            _prose.change(option.change_usd, run.usd),
            ",".join(_numbers(option, sources)),
            marks.of(option, by),
        )
        for option in options
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
    return list(dict.fromkeys(sources.number(_format.source(usage.source)) for usage in used if usage is not None))


def _tier_rows(options: Sequence[Option], run: Option, by: Measure, marks: _Marks, sources: _prose.Sources) -> _Table:
    rows = []
    for option in options:
        price = option.factors.prices[option.tier]
        rows.append(
            (
                _format.tier(option.name),
                _format.optional(option.usd, _format.money, "-"),
                "-" if option.change_usd is None else _prose.money(option.change_usd),
                _prose.change(option.change_usd, run.usd),
                f"${_format.number(price.value)}/h",
                price.source.published or "given",
                sources.number(_format.source(price.source)),
                marks.of(option, by),
            )
        )
    head = ("tier", "cost", "change", "", "a node", "price of", "source", "see")
    return head, frozenset({1, 2, 3, 4}), rows


def _starts(starts: Starts, top: int) -> list[str]:
    """Render the best and the worst start times, and the run's own."""
    reference = starts.run or starts.worst
    title = f"Start times by {starts.provider}'s intensity of {starts.area or 'the place'}, {starts.signal}"
    count = f"{len(starts.rows)} starts from {_format.minute(starts.first)} on"

    def row(name: str, start: Start) -> tuple[str, ...]:
        difference = start.emissions_grams - reference.emissions_grams
        return (
            name,
            _format.minute(start.start),
            _format.mass(start.emissions_grams),
            "-" if start is reference else _prose.change(difference, reference.emissions_grams),
            f"{_format.number(start.grams_per_kwh, 4)}",
        )

    best = [row("best" if at == 0 else str(at + 1), start) for at, start in enumerate(shown(starts, top))]
    rows = [*best, row("worst", starts.worst)]
    if starts.run is not None:
        rows.append(row("the run", starts.run))
    head = ("", "start", "emissions", "to the run" if starts.run else "to the worst", "g/kWh, by energy")
    lines = ["", f"{title} ({count})", *_prose.indented(_prose.table(head, rows, frozenset({2, 3, 4})))]
    if starts.run is None:
        lines.append(" The series does not cover the time of the run itself.")
    return lines


def _source(starts: Starts) -> str:
    name = starts.source.name or starts.provider
    return f"{name}, {starts.source.published}" if starts.source.published else name


def _assumed(alternatives: WhatIf) -> list[str]:
    joules = alternatives.energy_joules
    energy = _format.figure(joules, _format.energy)
    known = f", {joules.basis}" if joules.value is not None else ""
    parts = f"; {joules.why}" if joules.value is not None and joules.why else ""
    texts = [
        f"The same work takes the same energy ({energy} of IT energy{known}{parts}) and the same time everywhere. "
        "Nothing was run again."
    ]
    if alternatives.regions or alternatives.skus:
        texts.append(
            "Yearly averages of each region's grid, location-based, times its PUE. A difference counts against the "
            "uncertainty of the factors that differ; the energy's own uncertainty cancels."
        )
        texts.append(
            "Whether you may run there (quota, data residency, a government region's terms) is yours to know, as is "
            "what moving the data costs."
        )
    if alternatives.tiers:
        texts.append(
            "Low priority and spot machines are taken away at times; what is done again then, and the checkpoints, are "
            "not in these costs ('greenml advise' reckons with them)."
        )
    if alternatives.skus:
        texts.append(
            "Sizes have the same number of GPUs of the same model and memory; their CPUs, links and disks differ. Each "
            "is in the run's region if it has a price there, else where its price is the least."
        )
    if alternatives.starts is not None:
        texts += [f"{text[0].upper()}{text[1:]}." for text in alternatives.starts.assumes]
    return texts + [f"{text}." for text in alternatives.left_out]
