"""What a driver's samples tell of earlier sample lines: each line of a trace gets its part.

A GPU's counter is read each second, its driver's samples of power and utilization only every few seconds. The row of
such a reading holds rows for the lines before it, which had none of their own.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from greenml.trace.lines import ROW_LENGTH, Line

SAME_SECONDS = 2e-5  # times are rounded in the file
_SUMS, _MEANS, _PEAK = (2, 3, 5), (6, 7), 4
_POWER_AGE, _POWER_WATTS = 10, 11


def share_late(lines: Sequence[Line], sliced: Callable[[Sequence[Line]], Iterable[Line]] = iter) -> list[Line]:
    """Put what came late where it belongs.

    Args:
        lines: of a trace, in the order of the file.
        sliced: iterates over them, with pauses where others must not wait.

    Returns:
        The same lines; rows that held rows of others without them, and those others complete. Where a compaction merged
        the line that a row belongs to, the merged one has it.
    """
    shared = list(lines)
    rows: dict[str, tuple[list[float], list[int]]] = {}  # of each device: when its rows end, and in which line
    for number, line in enumerate(sliced(lines)):
        devices = line.get("d")
        for key, row in devices.items() if isinstance(devices, dict) else ():
            with contextlib.suppress(TypeError, ValueError, KeyError, IndexError):  # a damaged row
                ends, numbers = rows.setdefault(key, ([], []))
                if len(row) > ROW_LENGTH:
                    for late in row[ROW_LENGTH] or ():
                        at = bisect_left(ends, line["t"] + late[0] - SAME_SECONDS)
                        if at < len(ends):
                            _complete(shared, numbers[at], key, late)
                    _put(shared, number, key, row[:ROW_LENGTH])
                ends.append(line["t"] + row[0])
                numbers.append(number)
    return shared


def _complete(lines: list[Line], number: int, key: str, late: Sequence[Any]) -> None:
    """Add what came late to a device's row of a line."""
    row = list(lines[number]["d"][key])
    row += [None] * (ROW_LENGTH - len(row))
    late = [*late, *[None] * (ROW_LENGTH - len(late))]
    for column in _SUMS:
        if late[column] is not None:
            row[column] = (row[column] or 0.0) + late[column]
    for column in _MEANS:
        row[column] = late[column] if row[column] is None else row[column]
    if late[_PEAK] is not None:
        row[_PEAK] = max(row[_PEAK] or 0.0, late[_PEAK])
        row[_POWER_AGE], row[_POWER_WATTS] = late[_POWER_AGE], late[_POWER_WATTS]
    _put(lines, number, key, row)


def _put(lines: list[Line], number: int, key: str, row: list[Any]) -> None:
    lines[number] = {**lines[number], "d": {**lines[number]["d"], key: row}}
