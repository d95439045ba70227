"""Advice on saving energy, carbon or money in a run: applies the rules and renders their findings as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from greenml import redaction
from greenml.analysis import _prose
from greenml.analysis.advice import rules
from greenml.analysis.advice.rules import Finding, Range, Silence, share
from greenml.record.schema import RunRecord
from greenml.reports import _format

# A rule says something only where the record holds what it needs, and is one function with its source.
Rule = Callable[[RunRecord], Finding | Silence]
RULES: tuple[Rule, ...] = (
    rules.idle_gpus,
    rules.small_batch,
    rules.input_bound,
    rules.evaluation,
    rules.preemptible,
    rules.cleaner_region,
    rules.cheaper_region,
    rules.power_limit,
    rules.mixed_precision,
)


@dataclass(frozen=True, slots=True)
class Advice:
    """The findings on a run.

    Attributes:
        name: of the run.
        findings: the largest share of energy, carbon or money first. They overlap: their savings do not add up.
        silent: the rules that have nothing to say, each with the reason.
    """

    name: str
    findings: tuple[Finding, ...]
    silent: tuple[Silence, ...]


def _weighed(record: RunRecord, finding: Finding) -> Finding:
    part, of = share(record, finding.saving)
    return replace(finding, share=part, share_of=of)


def advise(record: RunRecord) -> Advice:
    """Apply every rule to a run and return the findings.

    Args:
        record: accounted.
    """
    answers = [rule(record) for rule in RULES]
    findings = [_weighed(record, answer) for answer in answers if isinstance(answer, Finding)]
    return Advice(
        name=record.name or record.run_id,
        findings=tuple(sorted(findings, key=lambda finding: -finding.share)),
        silent=tuple(answer for answer in answers if isinstance(answer, Silence)),
    )


def render(advice: Advice, *, every: bool = False, width: int = 100) -> str:
    """Render the findings; with ``every``, or without findings, also the reasons of the rules that have none.

    Args:
        advice: what was found.
        every: also the rules that have nothing to say.
        width: columns.
    """
    count = len(advice.findings)
    name = redaction.printable_line(advice.name)
    head = f"Advice for {name}: {count or 'no'} finding{'' if count == 1 else 's'} from {len(RULES)} rules."
    lines = [head]
    if count > 1:
        text = "By the largest share of energy, carbon or cost. What they save overlaps: the figures do not add up."
        lines += _prose.wrapped(text, width)
    for number, finding in enumerate(advice.findings, 1):
        lines += ["", *_finding(number, finding, width)]
    if every or not count:
        lines += ["", "Looked at, with nothing to say"]
        lines += _prose.points([f"{silence.rule}: {silence.why}." for silence in advice.silent], width)
    elif advice.silent:
        lines += ["", f"{len(advice.silent)} rules have nothing to say of this run; --all says why."]
    return redaction.printable_lines("\n".join(lines) + "\n")


def _finding(number: int, finding: Finding, width: int) -> list[str]:
    lines = [f"{number}. {finding.title} ({finding.rule})"]
    rows = [
        ("Saves", _saved(finding)),
        *(("Seen", text) for text in finding.evidence),
        ("Do", finding.advice),
        *(("Assumed", text) for text in finding.assumes),
        ("Source", finding.source),
    ]
    last = ""
    for name, text in rows:
        mark = f"{'' if name == last else name:<9}"
        lines += _prose.wrapped(text, width, mark=mark, by=3)
        last = name
    return lines


def _saved(finding: Finding) -> str:
    saving = finding.saving
    pairs: tuple[tuple[Range | None, Callable[[float], str]], ...] = (
        (saving.usd, _format.money),
        (saving.joules, _format.energy),
        (saving.grams, _format.mass),
    )
    gains = [_saving_interval(*values, write) for values, write in pairs if values is not None and values[1] > 0]
    costs = [
        _saving_interval(-values[1], -values[0], write)
        for values, write in pairs
        if values is not None and values[1] < 0
    ]
    if not gains and not costs:
        return "what it saves is not known"
    text = ", ".join(gains)
    if finding.share > 0:
        text += f" (at mid-range {_format.percent(finding.share)} of the run's {finding.share_of})"
    return "; ".join([text, *([f"but takes {', '.join(costs)} more"] if costs else [])])


def _saving_interval(low: float, high: float, write: Callable[[float], str]) -> str:
    """Write the interval of a saving: up to a value, from one to another, or between more and less."""
    if low < 0:
        return f"between {write(-low)} more and {write(high)} less"
    if low == 0:
        return f"up to {write(high)}"
    return _format.interval(low, high, write) or write(high)
