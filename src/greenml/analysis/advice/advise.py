"""What to change, from what a run shows: every rule asked, the largest saving first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from greenml.analysis.advice import _rules_gpu, _rules_hardware, _rules_money
from greenml.analysis.advice._finding import Finding, Silence, share
from greenml.record import RunRecord

# A rule says something only where the record holds what it needs, and is one function with its source.
Rule = Callable[[RunRecord], Finding | Silence]
RULES: tuple[Rule, ...] = (
    _rules_gpu.idle_gpus,
    _rules_gpu.small_batch,
    _rules_gpu.input_bound,
    _rules_money.evaluation,
    _rules_money.preemptible,
    _rules_money.cleaner_region,
    _rules_money.cheaper_region,
    _rules_hardware.power_limit,
    _rules_hardware.mixed_precision,
)


@dataclass(frozen=True, slots=True)
class Advice:
    """What was found in a run.

    Attributes:
        name: of the run.
        findings: the largest share of energy, carbon or money first. They overlap: their savings do not add up.
        silent: the rules that have nothing to say, each with the reason.
    """

    name: str
    findings: tuple[Finding, ...]
    silent: tuple[Silence, ...]


def _weighed(record: RunRecord, one: Finding) -> Finding:
    part, of = share(record, one.saving)
    return replace(one, share=part, share_of=of)


def advise(record: RunRecord) -> Advice:
    """Ask every rule what it sees in a run.

    Args:
        record: accounted.
    """
    said = [rule(record) for rule in RULES]
    findings = [_weighed(record, one) for one in said if isinstance(one, Finding)]
    return Advice(
        name=record.name or record.run_id,
        findings=tuple(sorted(findings, key=lambda one: -one.share)),
        silent=tuple(one for one in said if isinstance(one, Silence)),
    )
