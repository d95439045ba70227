"""A record to the steps that lead to each of its figures: formula, inputs with their sources, and each doubt's part.

Every number comes from the record. A step can be followed: its lines are sums and products of what stands in them.
"""

from __future__ import annotations

from collections.abc import Iterator

from greenml.analysis.explanation import _beyond_steps, _energy_steps, _result_steps
from greenml.analysis.explanation._derivation import Step
from greenml.errors import RecordError, SettingsError
from greenml.record import RunRecord, Totals

FIGURES = ("duration", "gpu_energy", "cpu_energy", "dram_energy", "energy", "emissions", "market", "cost", "water",
           "embodied", "sci")  # fmt: skip
HEADLINES = ("duration", "energy", "emissions", "market", "cost", "water", "embodied", "sci")


def explain(record: RunRecord, figure: str = "") -> list[Step]:
    """Return the steps that lead to a figure of the run, from the readings on; to every headline figure by default.

    Raises:
        SettingsError: there is no figure of that name.
        RecordError: the record has no totals.
    """
    if figure and figure not in FIGURES:
        raise SettingsError(f"no figure is called {figure!r}; there are {', '.join(FIGURES)}")
    total = record.total()
    if total is None:
        raise RecordError("the record has no totals to explain; 'greenml finish' makes them")
    steps = {step.name: step for step in _steps(record, total)}
    wanted: dict[str, None] = {}

    def want(name: str) -> None:
        for step in steps.values():
            if step.name == name or step.name.startswith(f"{name}:"):
                for need in step.needs:
                    want(need)
                wanted[step.name] = None

    for name in [figure] if figure else HEADLINES:
        want(name)
    return [steps[name] for name in wanted]


def _steps(record: RunRecord, total: Totals) -> Iterator[Step]:
    yield _energy_steps.duration(record)
    for kind, quantity in zip(
        _energy_steps.KINDS, (total.gpu_energy_joules, total.cpu_energy_joules, total.dram_energy_joules), strict=True
    ):
        yield from _energy_steps.of_kind(record, kind, quantity)
    yield _energy_steps.of_all(record, total)
    yield from _result_steps.emissions(record, total)
    yield from _result_steps.reported(record)
    yield from _result_steps.cost(record, total)
    yield from _beyond_steps.water(record, total)
    yield from _beyond_steps.embodied(record, total)
    yield from _beyond_steps.sci(record)
