"""The steps of a derivation as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from greenml import printable
from greenml.analysis.explanation._derivation import Line, Share, Step, Term
from greenml.reports import _format

DIGITS = 10  # of the numbers in a line: following it gives its result to as many, less the rounding of each
LEAST_WIDTH = 60
SMALL_RATIO = 0.001


def render(steps: Sequence[Step], width: int = 100) -> str:
    """Render the steps, numbered, each with its lines, inputs, band and doubts.

    Args:
        steps: of ``explain``.
        width: columns to wrap words at; a line of numbers stays whole.
    """
    parts = ["\n".join(_step(number, step, max(width, LEAST_WIDTH))) for number, step in enumerate(steps, start=1)]
    return printable.lines("\n\n".join(parts) + "\n")


def line(of: Line) -> str:
    """Write numbers and what they come to: ``22.03 USD/h x 2631.05 s / 3600 s/h x 1 nodes = 16.10056431 USD``."""
    made = " ".join(filter(None, (word for term in of.terms for word in (term.sign, _term(term)))))
    result = f"{_format.number(of.result, DIGITS)} {of.unit}"
    text = result if len(of.terms) == 1 and made == result else f"{made} = {result}"
    return f"{of.label}: {text}" if of.label else text


def _term(term: Term) -> str:
    return f"{_format.number(term.value, DIGITS)} {term.unit}".strip()


def _step(number: int, step: Step, width: int) -> Iterator[str]:
    head = f"{number}. {step.title}"
    yield from _wrapped(f"{head}: {step.printed}" if step.printed else head, width, "", "   ")
    if step.formula:
        yield from _wrapped(step.formula, width, "   ")
    for one in step.lines:
        yield f"   {line(one)}"
    for name, text in step.sources:
        yield from _wrapped(f"{name}: {text}", width, "   - ", "     ")
    if step.note:
        yield from _wrapped(step.note, width, "   - ", "     ")
    if step.band_words:
        yield f"   band of 95 %: {step.band_words}" + (", from" if step.shares else "")
    unit = step.lines[0].unit if step.lines else ""
    if step.band_words:
        for share in step.shares:
            yield f"     {_share(share, unit)}"


def _share(share: Share, unit: str) -> str:
    down, up = (_format.number(one, 4) for one in (share.down, share.up))
    by = f"± {up} {unit}" if down == up else f"+ {up} {unit}" if not share.down else f"- {down} + {up} {unit}"
    if share.of_variance is None:
        return f"{share.doubt}: {by}, upward only, added as it is"
    ratio = "under 0.1%" if share.of_variance < SMALL_RATIO else _format.percent(share.of_variance)
    return f"{share.doubt}: {by}, {ratio} of the variance"


def _wrapped(text: str, width: int, first: str, rest: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=rest or first, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
