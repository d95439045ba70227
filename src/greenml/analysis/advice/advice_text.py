"""Advice as text: what each finding may save, what was seen, what to do, and whose figure it is."""

from __future__ import annotations

from collections.abc import Callable

from greenml import printable
from greenml.analysis import _prose
from greenml.analysis.advice._finding import Finding, Range
from greenml.analysis.advice.advise import RULES, Advice
from greenml.reports import _format


def render(advice: Advice, *, every: bool = False, width: int = 100) -> str:
    """Render the findings, and with ``every``, or where there are none, why the other rules are silent.

    Args:
        advice: what was found.
        every: also the rules that have nothing to say.
        width: columns.
    """
    count = len(advice.findings)
    name = printable.line(advice.name)
    head = f"Advice for {name}: {count or 'no'} finding{'' if count == 1 else 's'} from {len(RULES)} rules."
    lines = [head]
    if count > 1:
        text = "By the largest share of energy, carbon or cost. What they save overlaps: the figures do not add up."
        lines += _prose.wrapped(text, width)
    for number, one in enumerate(advice.findings, 1):
        lines += ["", *_finding(number, one, width)]
    if every or not count:
        lines += ["", "Looked at, with nothing to say"]
        lines += _prose.points([f"{one.rule}: {one.why}." for one in advice.silent], width)
    elif advice.silent:
        lines += ["", f"{len(advice.silent)} rules have nothing to say of this run; --all says why."]
    return printable.lines("\n".join(lines) + "\n")


def _finding(number: int, one: Finding, width: int) -> list[str]:
    lines = [f"{number}. {one.title} ({one.rule})"]
    rows = [
        ("Saves", _saved(one)),
        *(("Seen", text) for text in one.evidence),
        ("Do", one.advice),
        *(("Assumed", text) for text in one.assumes),
        ("Source", one.source),
    ]
    last = ""
    for name, text in rows:
        mark = f"{'' if name == last else name:<9}"
        lines += _prose.wrapped(text, width, mark=mark, by=3)
        last = name
    return lines


def _saved(one: Finding) -> str:
    saving = one.saving
    pairs: tuple[tuple[Range | None, Callable[[float], str]], ...] = (
        (saving.usd, _format.money),
        (saving.joules, _format.energy),
        (saving.grams, _format.mass),
    )
    gains = [_band(*values, write) for values, write in pairs if values is not None and values[1] > 0]
    costs = [_band(-values[1], -values[0], write) for values, write in pairs if values is not None and values[1] < 0]
    if not gains and not costs:
        return "what it saves is not known"
    text = ", ".join(gains)
    if one.share > 0:
        text += f" (at mid-range {_format.percent(one.share)} of the run's {one.share_of})"
    return "; ".join([text, *([f"but takes {', '.join(costs)} more"] if costs else [])])


def _band(low: float, high: float, write: Callable[[float], str]) -> str:
    """Write a saving: up to, from to, or between more and less."""
    if low < 0:
        return f"between {write(-low)} more and {write(high)} less"
    if low == 0:
        return f"up to {write(high)}"
    return _format.interval(low, high, write) or write(high)
