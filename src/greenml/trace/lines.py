"""The lines of a trace: what is written of devices, samples and intensities, and the one reader of them.

``LineReader`` checks every line against the table ``_KINDS``. A line that is no JSON, or JSON of another shape, is left
out and counted, so that whoever takes a line from it can rely on its keys and types.

Lines::

    {"greenml_trace": 1, "run_id": …, …}                     header, first
    {"device": "0", "kind": "gpu", "id": …, …}               a device, before its first sample
    {"t": 12.0, "d": {"0": [0.0, 1834.2, …]}, "edge": 1}     devices at t; edge: forced by a phase
    {"phase": "train", "begin": 3, "t": 12.0}                the span with number 3 begins
    {"end": 3, "t": 15.0}                                    it ends; of several that were joined, n of s seconds,
                                                             "n": 9, "s": 2.7, "j": {"0": 812.5} joules by device,
                                                             "i": {"0": 3.1} of their interpolation
    {"note": "sensor-lost", "text": …, "t": 15.0}
    {"step": 120, "steps": 5500, "t": 15.0}                  how far the trainer says it is; "saved": true where a
                                                             checkpoint holds this step
    {"metrics": {…}, "t": …}   {"params": {…}, "t": …}   {"facts": {…}, "t": …}
    {"intensity": {…}, "slots": [[…], …], "t": 16.0}         what a carbon intensity's provider answered; each slot
                                                             its start and end in unix seconds, and g/kWh
    {"so_far": "completed", "t": 18.0}                       the status if no other line tells one
    {"status": "completed", "error": null, "t": 20.0}        last; "end_seconds": 18.5 where the run ended before t

Times are seconds of the host's monotonic clock. A device's array is ``[t of its read - t, energy_joules,
power_joules, power_seconds, power_max_watts, swing_joules, utilization_ratio, memory_utilization_ratio,
memory_mean_bytes, memory_max_bytes, seconds since its last power where that is older, power_last_watts, arrays of the
same kind]``, unknowns null, trailing ones left out; its span began at its last read. The last are what a driver's
samples tell of earlier arrays of the device, found by the time of their read (see ``share_late``).
"""

from __future__ import annotations

import contextlib
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date, datetime, time, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast, get_args

from greenml.errors import is_of_handler
from greenml.factors.types import IntensitySeries, IntensitySlot, Source
from greenml.trace.types import Device, Kind, Method, Rollup

Line = dict[str, Any]
FORMAT = 1
STATUSES = ("running", "completed", "failed", "interrupted", "killed")
ROW_LENGTH = 12
_UNKNOWN = [None] * ROW_LENGTH
_NOTHING_MORE = (None, 0.0, None, 0.0, None, None, None, None, None, None, ())
SAME_SECONDS = 2e-5  # times are rounded in the file
_SUMS, _MEANS, _PEAK = (2, 3, 5), (6, 7), 4
_POWER_AGE, _POWER_WATTS = 10, 11

_SERIES_FIELDS = frozenset(field.name for field in fields(IntensitySeries))
_SOURCE_FIELDS = frozenset(field.name for field in fields(Source))
_DEVICE_FIELDS = frozenset(field.name for field in fields(Device))


def sample_line(at_seconds: float, rollups: Mapping[str, Rollup], *, edge: bool = False) -> Line:
    """Return the line of some devices at a time."""
    line: Line = {
        "t": round(at_seconds, 5),
        "d": {key: _row(at_seconds, rollup) for key, rollup in rollups.items()},
    }
    if edge:
        line["edge"] = 1
    return line


def _row(at_seconds: float, rollup: Rollup) -> list[Any]:
    """Return a device's array. It is built for each device each second: no call where a value is not known."""
    end, energy = rollup.end_seconds, rollup.energy_joules
    row: list[Any] = [round(end - at_seconds, 5), None if energy is None else round(energy, 3)]
    more = (
        rollup.power_joules, rollup.power_seconds, rollup.power_max_watts, rollup.swing_joules,
        rollup.utilization_ratio, rollup.memory_utilization_ratio, rollup.memory_mean_bytes, rollup.memory_max_bytes,
        rollup.power_end_seconds, rollup.power_last_watts, rollup.late,
    )  # fmt: skip
    if energy is not None and more == _NOTHING_MORE:  # of a counter, nearly always
        return row
    joules, seconds, peak, swing, busy, memory_busy, mean, most, power_end, watts, late = more
    row += [
        None if joules is None else round(joules, 4),
        round(seconds, 5) or None if seconds else None,
        None if peak is None else round(peak, 2),
        round(swing, 3) or None if swing else None,
        None if busy is None else round(busy, 4),
        None if memory_busy is None else round(memory_busy, 4),
        None if mean is None else int(mean),
        None if most is None else int(most),
        None if power_end is None else round(end - power_end, 5) or None,
        None if watts is None else round(watts, 2),
        [_row(at_seconds, earlier) for earlier in late] if late else None,
    ]
    while row and row[-1] is None:
        row.pop()
    return row


def rollups_of(line: Line, last_seconds: Mapping[str, float]) -> Iterator[tuple[str, Rollup]]:
    """Read a sample line back; ``last_seconds`` is each device's last read."""
    at_seconds = line["t"]
    for key, row in line["d"].items():
        padded = (row + _UNKNOWN)[:ROW_LENGTH]
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


# What earlier traces call a field.
_EARLIER_NAMES = {"gain_ratio": "calibration_ratio", "seen_ratio": "sampled_ratio", "doubt_ratio": "uncertainty_ratio"}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_EARLIER_NAMES.get(name, name): value for name, value in values.items()}


def device_line(key: str, device: Device) -> Line:
    """Return the line that declares a device."""
    return {"device": key, **asdict(device), "detail": dict(device.detail)}


def device_of(line: Line) -> Device:
    """Read a device's line back."""
    return Device(**{name: value for name, value in _renamed(line).items() if name in _DEVICE_FIELDS})


def intensity_line(series: IntensitySeries) -> Line:
    """Return the line of what a carbon intensity's provider answered."""
    head = {name: value for name, value in asdict(series).items() if name != "slots"}
    slots = [[slot.start.timestamp(), slot.end.timestamp(), slot.grams_per_kwh] for slot in series.slots]
    return {"intensity": head, "slots": slots}


def intensity_of(line: Line) -> IntensitySeries:
    """Read such a line back."""
    slots = tuple(
        IntensitySlot(datetime.fromtimestamp(start, timezone.utc), datetime.fromtimestamp(end, timezone.utc), grams)
        for start, end, grams in line["slots"]
    )
    head = {name: value for name, value in _renamed(line["intensity"]).items() if name in _SERIES_FIELDS}
    return IntensitySeries(**{**head, "source": Source(**head["source"]), "slots": slots})


MOST_CHARACTERS = 10_000  # of a text; of one that is longer the beginning is kept
MOST_VALUES = 10_000  # in all lists and mappings of a value together
DEEPEST = 50  # what is nested deeper, or within itself, is cut off
_MOST_BITS = 1024  # of a whole number


def to_jsonable(value: Any, cuts: list[str] | None = None) -> Any:  # noqa: ANN401
    """Return a value as JSON in UTF-8 can hold it, whatever it is and however large; never raises.

    Scalars of numpy, torch and pandas become numbers, not-a-number becomes text, and so does what JSON has no type for.

    Args:
        value: of any type.
        cuts: takes a text for everything that was too large and is not there whole.
    """
    cuts = cuts if cuts is not None else []
    try:
        return _Json(cuts).of(value, 0)
    except Exception as error:  # noqa: BLE001  a value's own methods may raise anything
        return _unprintable(value, error)


class _Json:
    """Makes one value fit for JSON, within the limits for all that is in it."""

    def __init__(self, cuts: list[str]) -> None:
        self._cuts, self._left = cuts, MOST_VALUES

    def of(self, value: Any, depth: int) -> Any:  # noqa: ANN401, PLR0911  a return a kind of value
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            whole = int.__int__(value)
            return whole if whole.bit_length() <= _MOST_BITS else f"a whole number of {whole.bit_length():,} bits"
        if isinstance(value, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else str(real)
        if depth > DEEPEST:
            return "..."
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a name may mean that its value is a secret
            return self._mapping(value._asdict(), depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value, depth)
        return self._other(value, depth)

    def _inner(self, value: Any, depth: int) -> Any:  # noqa: ANN401
        """Make a part of a value fit; one that cannot be read costs that part alone."""
        try:
            return self.of(value, depth + 1)
        except Exception as error:  # noqa: BLE001  as above
            return _unprintable(value, error)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key in value:
            if self._left <= 0:
                self._cuts.append(f"a mapping of {len(value):,} entries was cut to {len(entries):,}")
                break
            text = key if isinstance(key, str) else self._inner(key, depth)
            try:
                entry = value[key]
            except Exception as error:  # noqa: BLE001  as above
                entry = _unprintable(value, error)
            entries[self._text(text if type(text) is str else str(text))[:200]] = self._inner(entry, depth)
        return entries

    def _list(self, value: Collection[Any], depth: int) -> list[Any]:
        entries: list[Any] = []
        for entry in value:
            if self._left <= 0:
                self._cuts.append(f"a list of {len(value):,} entries was cut to {len(entries):,}")
                break
            entries.append(self._inner(entry, depth))
        return entries

    def _other(self, value: Any, depth: int) -> Any:  # noqa: ANN401
        if isinstance(value, date | time):
            return self._text(value.isoformat())
        if isinstance(value, Decimal | Fraction):
            real = float(value)
            return real if math.isfinite(real) else str(real)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._text(str(bytes(value[:MOST_CHARACTERS])), len(value))
        if callable(getattr(value, "tolist", None)):  # an array, a tensor, a series, or a scalar of one
            size = getattr(value, "size", None)
            size = size() if callable(size) else size
            count = size if isinstance(size, int) else math.prod(size) if isinstance(size, tuple) else 1
            if count > self._left:
                kind, shape = type(value).__name__, tuple(getattr(value, "shape", ()))
                self._cuts.append(f"{kind} of {count:,} values was left out")
                return f"{kind} of shape {shape}"
            with contextlib.suppress(Exception):
                plain = value.tolist()
                if plain is None or isinstance(plain, str | int | float | complex | list | date):
                    return self.of(plain, depth + 1)
        return self._text(str(value))

    def _text(self, text: str, length: int | None = None) -> str:
        length = len(text) if length is None else length
        if length > MOST_CHARACTERS:
            self._cuts.append(f"a text of {length:,} characters was cut to {MOST_CHARACTERS:,}")
            text = text[:MOST_CHARACTERS] + "..."
        # Half a character (a surrogate), as of a file's name in another encoding, has no place in UTF-8.
        return str.__str__(text).encode("utf-8", "replace").decode()


def _unprintable(value: object, error: Exception) -> str:
    if is_of_handler(error):
        raise error
    return f"({type(value).__name__} that cannot be printed: {type(error).__name__})"


# The reader. A check takes a value of a line and tells whether it has the right shape.
Check = Callable[[Any], bool]

LARGEST = 1e18  # of any number that is computed with: sums and products of such numbers stay finite
LONGEST_SECONDS = 1e9  # 30 years; a time further from the trace's start is damaged
LATEST_UNIX_SECONDS = 4e9  # the year 2096
_NUMBERS = {int, float}


def _number(least: float = -LARGEST, most: float = LARGEST) -> Check:
    return lambda value: type(value) in _NUMBERS and least <= value <= most


def _whole(least: float = -LARGEST, most: float = LARGEST) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _text(value: object) -> bool:
    return isinstance(value, str)


def _file_name(value: object) -> bool:
    return isinstance(value, str) and len(value) < 200 and not {"/", "\\", "\0"} & set(value)


def _anything(_: object) -> bool:
    return True


def _one_of(*values: object) -> Check:
    return lambda value: value in values


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _rows(value: object) -> bool:
    """Check the rows of a sample; the most frequent line, so in as few steps as possible."""
    if not isinstance(value, dict):
        return False
    try:
        for row in value.values():
            if not -LONGEST_SECONDS <= row[0] <= LONGEST_SECONDS:
                return False
            for cell in row[1:10]:  # amounts, none of which can be negative
                if cell is not None and not 0 <= cell <= LARGEST:
                    return False
            for cell in row[10:ROW_LENGTH]:
                if cell is not None and not -LONGEST_SECONDS <= cell <= LONGEST_SECONDS:
                    return False
        late = [row[ROW_LENGTH] for row in value.values() if len(row) > ROW_LENGTH and row[ROW_LENGTH] is not None]
        return not late or all(_rows(dict(enumerate(rows))) for rows in late)
    except (TypeError, LookupError):
        return False


def _slots(value: object) -> bool:
    unix, grams = _number(0, LATEST_UNIX_SECONDS), _number(0, 1e6)
    return isinstance(value, list) and all(
        isinstance(slot, list) and len(slot) == 3 and unix(slot[0]) and unix(slot[1]) and slot[0] < slot[1]
        and grams(slot[2]) for slot in value
    )  # fmt: skip


def _series_head(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    head, source = _renamed(value), value.get("source")
    return (
        all(_text(head.get(name)) for name in ("provider", "area"))
        and head.get("signal") in ("average", "marginal")
        and all(_text(head.get(name, "")) for name in ("basis", "note"))
        and _number(0, 1)(head.get("uncertainty_ratio", 0.0))
        and isinstance(source, dict)
        and _text(source.get("name"))
        and all(name in _SOURCE_FIELDS and _text(text) for name, text in source.items())
    )


_ENVIRONMENT: dict[str, Check] = {
    "python": _text, "os": _text, "packages": _dict_of(_text), "driver": _text, "git_commit": _text,
    "git_dirty": _optional(_one_of(True, False)),
}  # fmt: skip
_HOST_FACTS: dict[str, Check] = {
    "cpu_model": _text, "cpu_count": _optional(_whole(0, 1e9)), "memory_bytes": _optional(_whole(0, LARGEST)),
    "os": _text, "cloud": _text,
}  # fmt: skip
_AMOUNT, _SECONDS, _RATIO = _number(0), _number(0, LONGEST_SECONDS), _number(0, 1)

# What a process found out, by name.
_FINDINGS: dict[str, Check] = {
    "counts": _dict_of(_AMOUNT),
    "disk": _dict_of(_AMOUNT),
    "place": _dict_of(_text),
    "environment": lambda value: isinstance(value, dict) and _fitting(value, _ENVIRONMENT) == value,
}


def _findings(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(finding, dict) and _FINDINGS.get(name, _anything)(finding) for name, finding in value.items()
    )


# Kinds of lines, each by the key that tells it: the keys that it must have, and those that it may have. A line is of
# the first kind whose key it has.
_KINDS: dict[str, tuple[dict[str, Check], dict[str, Check]]] = {
    "d": ({"t": _AMOUNT, "d": _rows}, {}),
    "device": (
        {
            "device": _text, "kind": _one_of(*get_args(Kind)), "id": _text, "name": _text,
            "method": _one_of(*get_args(Method), None),
        },
        {
            "sensor": _text, "calibration_ratio": _number(0, 10), "step_seconds": _SECONDS, "sampled_ratio": _RATIO,
            "lag_seconds": _SECONDS, "share_ratio": _RATIO, "power_limit_watts": _optional(_AMOUNT),
            "memory_total_bytes": _optional(_whole(0)), "detail": _dict_of(_text), "note": _text,
        },
    ),
    "begin": ({"begin": _whole(), "phase": _text, "t": _AMOUNT}, {}),
    "end": (
        {"end": _whole(), "t": _AMOUNT},
        {
            "n": _whole(1), "s": _optional(_SECONDS), "j": _optional(_dict_of(_AMOUNT)),
            "i": _optional(_dict_of(_AMOUNT)),
        },
    ),
    "note": ({"note": _text, "text": _text, "t": _AMOUNT}, {"ranks": _list_of(_whole())}),
    "metrics": ({"metrics": _dict_of(_anything)}, {}),
    "params": ({"params": _dict_of(_anything)}, {}),
    "facts": ({"facts": _findings}, {}),
    "step": ({"step": _whole(0), "t": _AMOUNT}, {"steps": _optional(_whole(0)), "saved": _anything}),
    "intensity": ({"intensity": _series_head, "slots": _slots}, {}),
    "so_far": ({"so_far": _optional(_one_of(*STATUSES))}, {}),
    "status": ({"status": _one_of(*STATUSES)}, {"error": _optional(_text), "end_seconds": _optional(_AMOUNT)}),
}  # fmt: skip

# The header. Without the first three no other line can be placed in time; any other that is wrong is left out alone.
_HEADER_NEEDED: dict[str, Check] = {
    "greenml_trace": _whole(1, FORMAT), "start_seconds": _AMOUNT, "unix_seconds": _number(0, LATEST_UNIX_SECONDS),
}  # fmt: skip
_HEADER: dict[str, Check] = {
    "run_id": _text, "attempt": _whole(1, 1e6), "host": _file_name, "boot_id": _file_name, "pid": _whole(0),
    "rank": _optional(_whole(0, 1e9)), "world_size": _optional(_whole(0, 1e9)), "restarts": _whole(0, 1e9),
    "local_rank": _optional(_whole(0, 1e9)), "nodes": _optional(_whole(0, 1e9)), "launcher": _text, "launch": _text,
    "parent": _text, "pid_namespace": _text, "name": _text, "command": _list_of(_text), "jobs": _dict_of(_text),
    "settings": _dict_of(_anything),
    "host_facts": _dict_of(_anything), "greenml_version": _text, "watches": _one_of(True, False),
    "gathered": _one_of(True, False), "unix_offset_seconds": _number(-LATEST_UNIX_SECONDS, LATEST_UNIX_SECONDS),
}  # fmt: skip
_HEADER_DEFAULTS: Line = {"run_id": "", "attempt": 1, "host": "", "pid": 0}  # what others rely on
_SETTINGS: dict[str, Check] = {
    "sku": _text, "region": _text, "tier": _optional(_text), "nodes": _optional(_whole(1, 1e9)), "name": _text,
    "output": _text, "carbon_intensity": _optional(_AMOUNT), "price_per_hour": _optional(_AMOUNT),
    "pue": _optional(_AMOUNT), "market_intensity": _optional(_AMOUNT), "lifetime_years": _optional(_AMOUNT),
    "interval": _optional(_AMOUNT), "intensity": _text, "known_from": _dict_of(_text),
}  # fmt: skip


def _fitting(values: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if checks.get(name, _anything)(value)}


def loaded(text: bytes) -> object:
    """Return what a line holds as JSON; not-a-number is unknown, and half a character is a question mark.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        value = _DECODER.decode(text.decode())
        if b"\\ud" in text:  # half a character: a record could not hold it
            value = _DECODER.decode(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_FREE_FORM = ("metrics", "params", "facts")  # values of any JSON, as the user or the trainer gave them


def kind_of(line: Line) -> str:
    """Return the key that tells what kind of line a checked line is."""
    return next(kind for kind in _KINDS if kind in line)


def _is_of(line: Line, kind: str) -> bool:
    needed, optional = _KINDS[kind]
    return all(name in line and check(line[name]) for name, check in needed.items()) and all(
        check(line[name]) for name, check in optional.items() if name in line
    )


class LineReader:
    """Reads the lines of one trace, as much at a time as there is.

    Attributes:
        header: the first line; empty before it was read.
        damaged: how many lines were left out, or lost a part, because they have another shape.
    """

    def __init__(self) -> None:
        """Start before the first line."""
        self.header: Line = {}
        self.damaged = 0

    def read(self, content: bytes) -> Iterator[Line]:
        """Yield the lines of some whole lines of a trace, each of a known kind and shape; the header first."""
        for text in content.splitlines():
            try:
                value = loaded(text)
            except ValueError:
                self.damaged += 1
                continue
            line = self._checked(value)
            if line is None:
                self.damaged += 1
            else:
                yield line

    def _checked(self, value: object) -> Line | None:
        if not isinstance(value, dict):
            return None
        if not self.header:
            return self._as_header(value)
        if "found" in value:  # as older traces have it
            value = {"facts" if name == "found" else name: entry for name, entry in value.items()}
        kind = next((kind for kind in _KINDS if kind in value), "")
        if kind == "device":
            value = _renamed(value)
        if not kind or not _is_of(value, kind) or not self._is_near(value.get("t", self.header["start_seconds"])):
            return None
        return {**value, kind: _bounded(value[kind])} if kind in _FREE_FORM else value

    def _is_near(self, seconds: object) -> bool:
        """Check a line's time: a number, and no further from the start than a run can last."""
        return _AMOUNT(seconds) and abs(cast("float", seconds) - self.header["start_seconds"]) <= LONGEST_SECONDS

    def _as_header(self, value: Line) -> Line | None:
        if not all(name in value and check(value[name]) for name, check in _HEADER_NEEDED.items()):
            return None
        header = _fitting(value, _HEADER)
        for name, checks in (("settings", _SETTINGS), ("host_facts", _HOST_FACTS)):
            if name in header:
                header[name] = _fitting(header[name], checks)
        self.damaged += header != value
        self.header = _HEADER_DEFAULTS | header
        return self.header


def _bounded(value: Any, depth: int = 0) -> Any:  # noqa: ANN401  any JSON
    """Return a value without numbers that no report could print, and cut off where it is nested too deep."""
    if isinstance(value, dict):
        return "..." if depth > DEEPEST else {name: _bounded(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, list):
        return "..." if depth > DEEPEST else [_bounded(entry, depth + 1) for entry in value]
    if type(value) in _NUMBERS and not -MOST_PRINTED <= value <= MOST_PRINTED:
        return str(value)
    return value


MOST_PRINTED = 1e300


def share_late(lines: Sequence[Line], sliced: Callable[[Sequence[Line]], Iterable[Line]] = iter) -> list[Line]:
    """Put what came late where it belongs: each line gets its part of what a driver's samples tell of earlier lines.

    A GPU's counter is read each second, its driver's samples of power and utilization only every few seconds. The row
    of such a reading holds rows for the lines before it, which had none of their own.

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
