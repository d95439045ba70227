"""The lines of a trace: what is written of devices, samples and intensities, and read back.

Lines::

    {"greenml_trace": 1, "run_id": …, …}                     header, first
    {"device": "0", "kind": "gpu", "id": …, …}               a device, before its first sample
    {"t": 12.0, "d": {"0": [0.0, 1834.2, …]}, "edge": 1}     devices at t; edge: forced by a phase
    {"phase": "train", "begin": 3, "t": 12.0}                the span with number 3 begins
    {"end": 3, "t": 15.0}                                    it ends; of several that were joined, n of s seconds,
                                                             "n": 9, "s": 2.7, "j": {"0": 812.5} joules by device
    {"note": "sensor-lost", "text": …, "t": 15.0}
    {"step": 120, "steps": 5500, "t": 15.0}                  how far the trainer says it is
    {"metrics": {…}, "t": …}   {"params": {…}, "t": …}   {"found": {…}, "t": …}
    {"intensity": {…}, "slots": [[…], …], "t": 16.0}         what a carbon intensity's provider answered; each slot
                                                             its start and end in unix seconds, and g/kWh
    {"so_far": "completed", "t": 18.0}                       the status if no other line tells one
    {"status": "completed", "error": null, "t": 20.0}        last

Times are seconds of the host's monotonic clock. A device's array is ``[t of its read - t, energy_joules,
power_joules, power_seconds, power_max_watts, swing_joules, utilization_ratio, memory_utilization_ratio,
memory_mean_bytes, memory_max_bytes, seconds since its last power where that is older, power_last_watts]``, unknowns
null, trailing ones left out; its span began at its last read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import Any

from greenml.facts import IntensityCourse, IntensitySlot, Source
from greenml.model import Device, Rollup

Line = dict[str, Any]


_COURSE_FIELDS = frozenset(field.name for field in fields(IntensityCourse))
_DEVICE_FIELDS = frozenset(field.name for field in fields(Device))


def sample_line(at_seconds: float, rollups: Mapping[str, Rollup], *, edge: bool = False) -> Line:
    """Return the line of some devices at a time."""
    line: Line = {
        "t": round(at_seconds, 5),
        "d": {key: _row(at_seconds, one) for key, one in rollups.items()},
    }
    if edge:
        line["edge"] = 1
    return line


def _row(at_seconds: float, rollup: Rollup) -> list[float | None]:
    def short(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    row = [
        round(rollup.end_seconds - at_seconds, 5),
        short(rollup.energy_joules, 3),
        short(rollup.power_joules, 4),
        round(rollup.power_seconds, 5) or None,
        short(rollup.power_max_watts, 2),
        round(rollup.swing_joules, 3) or None,
        short(rollup.utilization_ratio, 4),
        short(rollup.memory_utilization_ratio, 4),
        None if rollup.memory_mean_bytes is None else int(rollup.memory_mean_bytes),
        None if rollup.memory_max_bytes is None else int(rollup.memory_max_bytes),
        None if rollup.power_end_seconds is None else round(rollup.end_seconds - rollup.power_end_seconds, 5) or None,
        short(rollup.power_last_watts, 2),
    ]
    while row and row[-1] is None:
        row.pop()
    return row


def rollups_of(line: Line, last_seconds: Mapping[str, float]) -> Iterator[tuple[str, Rollup]]:
    """Read a sample line back; ``last_seconds`` is each device's last read."""
    at_seconds = line["t"]
    for key, row in line["d"].items():
        padded = row + [None] * (12 - len(row))
        offset, energy, joules, seconds, peak, swing, busy, memory_busy, mean, most, age, watts = padded
        end = at_seconds + offset
        yield (
            key,
            Rollup(
                last_seconds.get(key, end),
                end,
                energy,
                joules,
                seconds or 0.0,
                peak,
                swing or 0.0,
                busy,
                memory_busy,
                mean,
                most,
                None if age is None else end - age,
                watts,
            ),
        )


def device_line(key: str, device: Device) -> Line:
    """Return the line that declares a device."""
    return {"device": key, **asdict(device), "detail": dict(device.detail)}


def device_of(line: Line) -> Device:
    """Read a device's line back."""
    return Device(**{name: value for name, value in line.items() if name in _DEVICE_FIELDS})


def course_line(course: IntensityCourse) -> Line:
    """Return the line of what a carbon intensity's provider answered."""
    head = {name: value for name, value in asdict(course).items() if name != "slots"}
    slots = [[one.start.timestamp(), one.end.timestamp(), one.grams_per_kwh] for one in course.slots]
    return {"intensity": head, "slots": slots}


def course_of(line: Line) -> IntensityCourse:
    """Read such a line back."""
    slots = tuple(
        IntensitySlot(datetime.fromtimestamp(start, timezone.utc), datetime.fromtimestamp(end, timezone.utc), grams)
        for start, end, grams in line["slots"]
    )
    head = {name: value for name, value in line["intensity"].items() if name in _COURSE_FIELDS}
    return IntensityCourse(**{**head, "source": Source(**head["source"]), "slots": slots})
