"""Calls of NVML: the library's life, which several sensors share, and the calls whose arrays are used again.

One of them reads the driver's ring buffer of time-stamped samples; what is new in it is put on the monotonic clock.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter, lt

import pynvml

from greenml.units import SECONDS_PER_MICROSECOND

RESTART_SECONDS = 5.0
CODES = "dILQqiH"  # by nvmlValueType_t: double, unsigned int, long, long long, long long, int, unsigned short
NUMBERS = {value_type: struct.Struct(f"@{code}") for value_type, code in enumerate(CODES)}
# nvmlSample_t: a time stamp, and a union of 8 bytes that holds a value.
SAMPLE_LAYOUTS = {
    value_type: struct.Struct(f"@Q{code}{8 - struct.calcsize(code)}x") for value_type, code in enumerate(CODES)
}
OTHER_NUMBER, OTHER_SAMPLE = NUMBERS[1], SAMPLE_LAYOUTS[1]  # an unknown type of value is read as an unsigned int
SAMPLE_BYTES = 16
FIELD_LAYOUT = struct.Struct("@IIqqII8s")  # nvmlFieldValue_t: field, scope, time, latency, type, return code, value
MEMORY_LAYOUT = struct.Struct("@I4xQQQQ")  # nvmlMemory_v2_t: version, total, reserved, free, used
MEMORY_VERSION = MEMORY_LAYOUT.size | 2 << 24


class Library:
    """Ends the library with its last user, but never while a call is under way: that call may hang.

    No lock is held across a call into the library, so ``release`` returns at once.

    Args:
        start: the library's own start; its error is the caller's to translate.
        stop: its own end.
        error: what both raise.

    Attributes:
        generation: number of restarts; handles of an earlier generation are void.
        facts: what was found out of it, for all of its users.
    """

    def __init__(self, start: Callable[[], object], stop: Callable[[], object], error: type[Exception]) -> None:
        self._start, self._stop, self._error = start, stop, error
        self._lock = threading.Lock()
        self._users, self._calls, self._restarted_seconds = 1, 0, float("-inf")
        self.generation = 0
        self.facts: dict[str, bool] = {}
        start()
        self._started = True

    def hold(self) -> None:
        """Keep it for one more user."""
        self._count(1)

    def release(self) -> None:
        """Let go of it."""
        self._count(-1)

    def __enter__(self) -> None:  # it is kept for the length of a call: ``with library:``
        with self._lock:
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            goes_on = self._users > 0
        if not goes_on:
            self._count()

    def restart(self) -> None:
        """Start it again, within ``call``; at most every ``RESTART_SECONDS``."""
        with self._lock:
            now = time.monotonic()
            if now - self._restarted_seconds < RESTART_SECONDS:
                return
            self._restarted_seconds, was_started, self._started = now, self._started, False
        with contextlib.suppress(self._error):
            if was_started:
                self._stop()
        with contextlib.suppress(self._error):
            self._start()
            self._started = True
            self.generation += 1

    def _count(self, users: int = 0) -> None:
        with self._lock:
            self._users += users
            ended = self._started and self._users == 0 and self._calls == 0
            self._started = self._started and not ended
        if ended:
            with contextlib.suppress(self._error):
                self._stop()


class FieldCall:
    """``nvmlDeviceGetFieldValues`` for one set of fields, each with its scope, in one array that is used again."""

    def __init__(self, fields: Sequence[tuple[int, int]]) -> None:
        self._count = len(fields)
        self._memory = ctypes.create_string_buffer(
            b"".join(FIELD_LAYOUT.pack(field, scope, 0, 0, 0, 0, b"") for field, scope in fields),
            FIELD_LAYOUT.size * len(fields),
        )

    def __call__(self, handle: object) -> list[tuple[int, float]]:
        """Return (the field's return code, its number) in the order of the fields.

        Raises:
            NVMLError: the call as a whole failed.
        """
        _checked("nvmlDeviceGetFieldValues", handle, self._count, self._memory)
        return [
            (code, float(NUMBERS.get(value_type, OTHER_NUMBER).unpack_from(value)[0]))
            for _, _, _, _, value_type, code, value in FIELD_LAYOUT.iter_unpack(self._memory)
        ]


class SampleCall:
    """``nvmlDeviceGetSamples`` for one kind of samples; the driver is asked only once how many it holds."""

    def __init__(self, kind: int) -> None:
        self._kind, self._capacity, self._memory = kind, 0, ctypes.create_string_buffer(0)

    def __call__(self, handle: object, since: int) -> Stamped:
        """Return (microseconds, value) of the samples later than a stamp.

        Raises:
            NVMLError: the call failed; nothing new is an error as well.
        """
        value_type, count = ctypes.c_uint(0), ctypes.c_uint(self._capacity)
        sizes = ctypes.byref(value_type), ctypes.byref(count)
        kind, stamp = ctypes.c_uint(self._kind), ctypes.c_ulonglong(since)
        if not self._capacity:
            _checked("nvmlDeviceGetSamples", handle, kind, stamp, *sizes, None)
            self._capacity = count.value
            self._memory = ctypes.create_string_buffer(SAMPLE_BYTES * self._capacity)
        try:
            _checked("nvmlDeviceGetSamples", handle, kind, stamp, *sizes, self._memory)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                self._capacity = 0  # the driver's buffer has grown
            raise
        layout = SAMPLE_LAYOUTS.get(value_type.value, OTHER_SAMPLE)
        samples = memoryview(self._memory)[: SAMPLE_BYTES * min(count.value, self._capacity)]
        return list(layout.iter_unpack(samples))


class MemoryCall:
    """``nvmlDeviceGetMemoryInfo_v2``: without what the driver keeps for itself."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(MEMORY_LAYOUT.pack(MEMORY_VERSION, 0, 0, 0, 0), MEMORY_LAYOUT.size)

    def __call__(self, handle: object) -> tuple[int, int]:
        """Return the total and the used bytes.

        Raises:
            NVMLError: the call failed.
        """
        _checked("nvmlDeviceGetMemoryInfo_v2", handle, self._memory)
        _, total, _, _, used = MEMORY_LAYOUT.unpack(self._memory)
        return total, used


def _checked(function: str, *arguments: object) -> None:
    """Call a function of the library that ``pynvml`` loaded; an older one may lack it."""
    try:
        call = getattr(pynvml.nvmlLib, function)
    except AttributeError:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND) from None
    if code := call(*arguments):
        raise pynvml.NVMLError(code)


STEP_SECONDS = 0.05  # a wall clock that moves by more than this between two reads was set, not slewed
FUTURE_SECONDS = 0.1  # a sample from later than this was stamped before the wall clock was set back
SILENT_SECONDS = 5.0  # a buffer without a new sample for so long does not carry the energy
COARSE_SECONDS = 0.2  # samples wider apart than this tell less than polling the gauge does
FULL_SECONDS = 2.0  # deep enough for a read each second: the depth is not learned any further
LEARNING_READS = 10
TOGETHER_SECONDS = 0.0005  # clocks read further apart than this, by a thread held up in between, are read again
CLOCK_READS = 5

_STAMP = itemgetter(0)  # of a sample
Stamped = Sequence[tuple[int, float]]
Clocks = Callable[[], Sequence[float]]


def clocks() -> list[float]:
    """Return the seconds that the clocks show which a driver may stamp with: monotonic, wall, since boot.

    NVML documents the wall clock; some Linux drivers stamp with the time since boot
    (github.com/polarsignals/gpu-metrics-agent, pull request 36).
    """
    for _ in range(CLOCK_READS):
        before = time.monotonic()
        others = [time.time()]
        if hasattr(time, "CLOCK_BOOTTIME"):
            others.append(time.clock_gettime(time.CLOCK_BOOTTIME))
        after = time.monotonic()
        if after - before < TOGETHER_SECONDS:
            break
    return [(before + after) / 2, *others]


class SampleBuffer:
    """Turns what the driver still holds into samples that were not seen before.

    Args:
        fetch: returns (microseconds, value) later than a stamp, in any order; empty where nothing is new.
        clocks: the clocks, monotonic first, the wall clock second.
        unit: by which values are multiplied.

    Attributes:
        depth_seconds: the longest time that the driver was seen to hold; 0 where not known.
        newest_value: of the last sample that was returned; None before the first.
    """

    def __init__(self, fetch: Callable[[int], Stamped], clocks: Clocks = clocks, unit: float = 1.0) -> None:
        self._fetch, self._clocks, self._unit = fetch, clocks, unit
        self._since = 0  # the newest stamp seen, in the driver's clock
        self._seen_seconds = float("-inf")  # nothing at or before this is returned; monotonic
        self._wall_offset: float | None = None
        self._learning = LEARNING_READS
        self._spacing_seconds = float("inf")
        self._newest_seconds = float("-inf")
        self.depth_seconds = 0.0
        self.newest_value: float | None = None

    @property
    def carries(self) -> bool:
        """Whether its samples are recent, and come often enough, to integrate power from them."""
        recent = self._clocks()[0] - self._newest_seconds < SILENT_SECONDS
        return recent and self.depth_seconds > 0 and self._spacing_seconds <= COARSE_SECONDS

    def pass_over(self, until_seconds: float) -> None:
        """Return nothing from before a time (monotonic) whose power is known already."""
        self._seen_seconds = max(self._seen_seconds, until_seconds)

    def new(self) -> list[tuple[float, float]]:
        """Return (monotonic seconds, value) of the samples since the last call, in time order.

        Left out: stamps that are zero, repeated or in the future, and all from before the wall clock was set,
        which say nothing then.
        """
        now, wall, *others = self._clocks()
        stepped = self._wall_offset is not None and abs(wall - now - self._wall_offset) > STEP_SECONDS
        self._wall_offset = wall - now
        if stepped:
            self._since = 0
            self.pass_over(now)
            return []
        learn = self.depth_seconds < FULL_SECONDS and self._learning > 0
        self._learning -= learn
        stamped = self._fetch(0 if learn else self._since)
        stamps = list(map(_STAMP, stamped))
        if not all(map(lt, stamps, stamps[1:])):  # nearly always they ascend
            stamped = sorted(dict(stamped).items())
        if not stamped:
            return []
        newest = stamped[-1][0]
        stamped_seconds, offset = newest * SECONDS_PER_MICROSECOND, 0.0
        for at in (wall, *others):
            if abs(stamped_seconds - at) < abs(stamped_seconds - now - offset):
                offset = at - now
        limit = _stamp(now + FUTURE_SECONDS, offset)
        if stamped[0][0] <= 0 or newest >= limit:
            stamped = [sample for sample in stamped if 0 < sample[0] < limit]
            if not stamped:
                return []
        first, last = (_seconds(stamped[at][0], offset) for at in (0, -1))
        if learn and last - first > self.depth_seconds:
            self.depth_seconds = last - first
            self._spacing_seconds = self.depth_seconds / (len(stamped) - 1)
        seen = max(self._since, _stamp(self._seen_seconds, offset))
        unit = self._unit
        self._newest_seconds, self._since, self.newest_value = last, stamped[-1][0], stamped[-1][1] * unit
        self.pass_over(last)
        return [(stamp * SECONDS_PER_MICROSECOND - offset, value * unit) for stamp, value in stamped if stamp > seen]


def _stamp(seconds: float, offset: float) -> float:
    return (seconds + offset) / SECONDS_PER_MICROSECOND


def _seconds(stamp: int, offset: float) -> float:
    return stamp * SECONDS_PER_MICROSECOND - offset
