"""Figures that cannot all be right: found by their own arithmetic, told as notes, never mended."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import timedelta

from greenml.record import Note, ReportedEmissions, RunRecord
from greenml.units import JOULES_PER_KWH

CODE = "conflict"
SAME_SECONDS_RATIO = 0.05
LONGER_RATIO = 0.01  # clocks of two tools
SHARE_RATIO = 1 / 3  # training draws more than the rest of a run: a third of its share in time is too little
MOST_KG_PER_KWH = 3.0  # no grid emits as much: coal alone is about 1
ZONE_DOUBT = timedelta(hours=14)  # CodeCarbon writes local time without its zone


def conflicts(record: RunRecord) -> list[Note]:
    """Return a note for each pair of figures in the record that contradict each other.

    Looks at: a reported row's energy beside the run's, its duration beside the Trainer's, its place and date
    beside the run's, its emissions beside its energy; phases longer than the run; a low tier dearer than the
    dedicated one.
    """
    of_rows = (_duration, _too_much, _too_little, _grams, _place, _date)
    checks = (*(_of_row(check) for check in of_rows), _phases, _prices)
    return [Note(code=CODE, text=text) for check in checks for text in check(record)]


Texts = Iterator[str]


def _of_row(check: Callable[[RunRecord, ReportedEmissions], Texts]) -> Callable[[RunRecord], Texts]:
    def each(record: RunRecord) -> Texts:
        for reported in record.reported:
            yield from check(record, reported)

    return each


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _cell(reported: ReportedEmissions, name: str) -> float | None:
    return _number(reported.row.get(name))


def _label(reported: ReportedEmissions) -> str:
    return f"{reported.file or reported.tool} ({reported.scope})"


def _gpu_joules(record: RunRecord) -> float | None:
    total = record.total()
    if total is not None and total.gpu_energy_joules.value is not None:
        return total.gpu_energy_joules.value
    known = [device.usage.energy_joules for device in record.devices if device.kind == "gpu"]
    values = [value for value in known if value is not None]
    return math.fsum(values) if values and len(values) == len(known) else None


def _duration(record: RunRecord, reported: ReportedEmissions) -> Texts:
    row, trainer = _cell(reported, "duration"), _number(record.metrics.get("train_runtime"))
    if reported.scope != "train" or row is None or not trainer:
        return
    if abs(row - trainer) > SAME_SECONDS_RATIO * trainer:
        yield (
            f"{_label(reported)} covers {row:.6g} s, but the Trainer trained for {trainer:.6g} s: "
            f"the row is not of the whole training."
        )


def _too_much(record: RunRecord, reported: ReportedEmissions) -> Texts:
    run = _gpu_joules(record)
    if run is None:
        return
    gpu, all_kwh = _cell(reported, "gpu_energy"), _cell(reported, "energy_consumed")
    run_kwh = run / JOULES_PER_KWH
    if gpu is not None:
        gpu /= _cell(reported, "pue") or 1.0
        if gpu > run_kwh * (1 + LONGER_RATIO):
            yield f"{_label(reported)} has {gpu:.6g} kWh for the GPUs, the whole run only {run_kwh:.6g} kWh."
    elif all_kwh is not None and all_kwh > run_kwh * (1 + LONGER_RATIO):
        yield (
            f"{_label(reported)} has {all_kwh:.6g} kWh, above the {run_kwh:.6g} kWh of the whole run's GPUs: "
            f"right only if CPU and memory drew the rest; rows of several ranks may have been added."
        )


def _too_little(record: RunRecord, reported: ReportedEmissions) -> Texts:
    run, row_kwh = _gpu_joules(record), _cell(reported, "energy_consumed")
    seconds = max(_cell(reported, "duration") or 0.0, _number(record.metrics.get("train_runtime")) or 0.0)
    if not run or row_kwh is None or not seconds or seconds > record.duration_seconds * (1 + LONGER_RATIO):
        return
    expected = run / JOULES_PER_KWH * seconds / record.duration_seconds
    if row_kwh < SHARE_RATIO * expected:
        run_kwh = run / JOULES_PER_KWH
        times = f"{run_kwh / row_kwh:.3g} times below" if row_kwh > 0 else "nothing beside"
        yield (
            f"{_label(reported)} has {row_kwh:.6g} kWh, {times} the {run_kwh:.6g} kWh of the run's GPUs, "
            f"though training took {seconds / record.duration_seconds * 100:.3g} % of the run: "
            f"the row may be that of one rank, or its tracker did not see every GPU."
        )


def _grams(_: RunRecord, reported: ReportedEmissions) -> Texts:
    emissions, energy = _cell(reported, "emissions"), _cell(reported, "energy_consumed")
    if emissions is not None and energy and emissions / energy > MOST_KG_PER_KWH:
        yield (
            f"{_label(reported)} has {emissions / energy:.6g} kg CO2e per kWh, more than any grid emits: "
            f"its emissions may be in grams, or its energy in other units than kWh."
        )


def _same(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()


def _place(record: RunRecord, reported: ReportedEmissions) -> Texts:
    place = record.place
    pairs = (
        ("cloud_provider", place.cloud),
        ("cloud_region", place.region),
        ("country_iso_code", place.country_iso3),
    )
    for column, known in pairs:
        told = reported.row.get(column, "")
        if told and known and _same(told) != _same(known):
            yield f"{_label(reported)} has {column} {told}, but the run is said to be in {known}."


def _date(record: RunRecord, reported: ReportedEmissions) -> Texts:
    told = next((phase for phase in record.phases if phase.path == reported.scope), None)
    if told is None or record.ended is None or not reported.row.get("timestamp"):
        return
    day = reported.row["timestamp"][:10]
    first, last = (record.started - ZONE_DOUBT).date(), (record.ended + ZONE_DOUBT).date()
    if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and not first.isoformat() <= day <= last.isoformat():
        yield (
            f"{_label(reported)} is of {day}, but the run went from {record.started.date().isoformat()} "
            f"to {record.ended.date().isoformat()}: the row may be another run's."
        )


def _phases(record: RunRecord) -> Texts:
    top = [phase for phase in record.phases if "/" not in phase.path and phase.seconds > 0]
    limit = record.duration_seconds * (1 + LONGER_RATIO)
    longer = [phase for phase in top if phase.seconds > limit]
    for phase in longer:
        yield (
            f"The phase {phase.path} took {phase.seconds:.6g} s, longer than the whole run's "
            f"{record.duration_seconds:.6g} s."
        )
    together = math.fsum(phase.seconds for phase in top)
    imported = any(not phase.spans for phase in top)
    if not longer and imported and together > limit:
        names = ", ".join(phase.path for phase in top)
        yield (
            f"The phases {names} took {together:.6g} s together, longer than the whole run's "
            f"{record.duration_seconds:.6g} s."
        )


def _prices(record: RunRecord) -> Texts:
    total = record.total()
    usd = {tier: cost.value for tier, cost in total.cost_usd.items()} if total else {}
    usd = usd or {tier: factor.value for tier, factor in record.factors.prices.items()}
    dedicated = usd.get("dedicated")
    for tier in ("low_priority", "spot"):
        low = usd.get(tier)
        if low is not None and dedicated is not None and low > dedicated:
            yield (
                f"The {tier.replace('_', ' ')} tier (${low:.6g}) is dearer than the dedicated one "
                f"(${dedicated:.6g}): the two may be swapped."
            )
