"""The record of an endpoint: its workers' totals, as the traces hold them, beside the energy of the devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from greenml.record.schema import Quantity, ServingGroup, ServingRecord
from greenml.run.serving.ledger import Attributed, Group, Totals
from greenml.trace import file as trace_file
from greenml.trace.types import Trace


def serving(traces: Iterable[Trace], device_joules: Quantity) -> ServingRecord | None:
    """Return what the requests of a run used; None where it served none.

    The energy that was used without a request is the devices' total without that of requests: what was read after the
    last window was settled is in it.

    Args:
        traces: of all attempts.
        device_joules: of the run.
    """
    machines = list(_machines(traces))
    if not machines:
        return None
    used, idle = _sum(totals.used for totals in machines), _sum(totals.idle for totals in machines)
    groups: dict[tuple[str, str], list[Group]] = {}
    for totals in machines:
        for key, group in totals.groups.items():
            groups.setdefault(key, []).append(group)
    requests: dict[str, int] = {}
    for group in (group for parts in groups.values() for group in parts):
        for status, count in group.requests.items():
            requests[status] = requests.get(status, 0) + count
    known = any(totals.seconds > totals.unknown_seconds for totals in machines) and device_joules.value is not None
    each = [group for parts in groups.values() for group in parts]
    count, settled = sum(requests.values()), sum(group.settled for group in each)
    why = f"without {count - settled:,} of {count:,} requests" if known and settled < count else ""
    basis = device_joules.basis
    energy = _quantity(used, known, basis)
    idle_joules = max(0.0, (device_joules.value or 0.0) - (energy.value or 0.0))
    down, up = _half_widths(idle)
    if why:  # what no window gave to anybody may be theirs or not
        unsettled = max(0.0, idle_joules - (idle.joules or 0.0))
        down += unsettled
        high = None if energy.high is None else energy.high + unsettled
        energy = energy.model_copy(update={"high": high, "why": why})
    return ServingRecord(
        requests=requests,
        request_energy_joules=energy,
        idle_energy_joules=Quantity(
            value=idle_joules, low=max(0.0, idle_joules - down), high=idle_joules + up, basis=basis, why=why
        )
        if known
        else _unknown(),
        seconds=sum(totals.seconds for totals in machines),
        idle_seconds=sum(totals.idle_seconds for totals in machines),
        token_seconds=sum(totals.token_seconds for totals in machines),
        emissions_grams=used.grams, idle_emissions_grams=idle.grams, cost_usd=used.usd, idle_cost_usd=idle.usd,
        joules_per_request=_mean(
            sum(group.joules_settled for group in each), settled, energy,
            "no request ended whose energy is known",
        ),
        joules_per_token=_mean(
            sum(group.token_joules for group in each), sum(group.tokens_settled for group in each), energy,
            "no request said how many tokens it read or made",
        ),
        groups=[_group(*key, parts, known, basis) for key, parts in groups.items()],
    )  # fmt: skip


def _machines(traces: Iterable[Trace]) -> Iterable[Totals]:
    """Return the last totals of each machine in each attempt.

    Within an attempt, workers that settled one after the other went on from each other's.
    """
    latest: dict[tuple[int, tuple[str, str]], Totals] = {}
    for trace in traces:
        with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):  # damaged
            totals = Totals.of_json(trace.facts["serving"])
            machine = int(trace.header.get("attempt", 1)), trace_file.machine(trace.header)
            earlier = latest.get(machine)
            if earlier is None or (totals.until_seconds or 0.0) >= (earlier.until_seconds or 0.0):
                latest[machine] = totals
    return latest.values()


def _sum(parts: Iterable[Attributed]) -> Attributed:
    """Return the sum over machines: shared errors add, independent ones add in squares."""
    total = Attributed()
    for part in parts:
        total.joules = (total.joules or 0.0) + (part.joules or 0.0)
        for name in ("low_joules", "high_joules", "calibration_joules", "random_squared", "coverage_low_joules",
                     "coverage_high_joules", "seconds", "grams_joules", "usd_seconds"):  # fmt: skip
            setattr(total, name, getattr(total, name) + getattr(part, name))
        for name in ("known_grams", "known_usd"):
            known = [value for value in (getattr(total, name), getattr(part, name)) if value is not None]
            setattr(total, name, sum(known) if known else None)
        total.grams_ratio = max(total.grams_ratio, part.grams_ratio)
    return total


def _group(model: str, kind: str, parts: list[Group], known: bool, basis: str) -> ServingGroup:
    used = _sum(part.used for part in parts)
    requests = {status: sum(part.requests.get(status, 0) for part in parts) for status in Group().requests}
    with_tokens = any(part.with_tokens for part in parts)
    return ServingGroup(
        model=model, kind=kind, requests=requests,
        input_tokens=sum(part.input_tokens for part in parts) if with_tokens else None,
        output_tokens=sum(part.output_tokens for part in parts) if with_tokens else None,
        energy_joules=_quantity(used, known, basis), emissions_grams=used.grams, cost_usd=used.usd,
    )  # fmt: skip


def _half_widths(used: Attributed) -> tuple[float, float]:
    interval, joules = used.interval(), used.joules or 0.0
    return (0.0, 0.0) if interval is None else (joules - interval[0], interval[1] - joules)


def _quantity(used: Attributed, known: bool, basis: str) -> Quantity:
    interval = used.interval()
    if not known or interval is None:
        return _unknown()
    return Quantity(value=used.joules, low=interval[0], high=interval[1], basis=basis)


def _unknown() -> Quantity:
    return Quantity(value=None, basis="measured", why="the energy of no device is known")


def _mean(joules: float, count: int, energy: Quantity, why: str) -> Quantity:
    """Return the joules of each of several requests or tokens, as sure as the energy of all requests."""
    if energy.value is None or not count:
        return Quantity(value=None, basis=energy.basis, why=why if energy.value is not None else energy.why)
    scale = joules / energy.value if energy.value else 0.0
    return Quantity(
        value=joules / count, low=None if energy.low is None else energy.low * scale / count,
        high=None if energy.high is None else energy.high * scale / count, basis=energy.basis, why=energy.why,
    )  # fmt: skip
