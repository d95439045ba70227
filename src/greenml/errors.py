"""The error tree.

::

    GreenMLError
    ├── SensorError            could not be read now: this sample is missing, the next tick tries again
    │   └── SensorLostError    will not answer again: the sampler drops it
    ├── FactorError            no intensity or price for this place and time
    ├── RecordError            not a trace or record that this version reads
    └── SettingsError          a value the user gave is wrong; lists what would be right

A message says what failed, where, and what to do, in one line. ``nearest`` and ``did_you_mean`` name what would have
been right, for every message that does so.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator


class GreenMLError(Exception):
    """Anything that greenml raises."""


class SensorError(GreenMLError):
    """A sensor could not be read now; the next tick tries again."""


class SensorLostError(SensorError):
    """A sensor will not answer again; the sampler drops it."""


class FactorError(GreenMLError):
    """There is no carbon intensity, price or PUE for this place and time."""


class RecordError(GreenMLError):
    """A file is not a trace, a record or an export that this version reads."""


class SettingsError(GreenMLError, ValueError):
    """A value that the user gave is wrong; the message lists what would be right."""


def nearest(wrong: str, names: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the names that a wrong one may stand for: the closest, and those almost as close.

    Args:
        wrong: what was given.
        names: what would have been right.
        most: how many at most.
        cutoff: how like they must be, from 0 to 1.
    """
    from difflib import SequenceMatcher, get_close_matches  # on the way of an error only

    close = get_close_matches(wrong, names := list(names), most, cutoff)
    likeness = {name: SequenceMatcher(None, name, wrong).ratio() for name in close}
    return [name for name in close if likeness[name] > max(likeness.values()) - 0.1]


def did_you_mean(names: Iterable[str]) -> str:
    """Return the end of a message that asks for names, empty where there are none: ``; did you mean 'a' or 'b'?``."""
    quoted = " or ".join(map(repr, names))
    return f"; did you mean {quoted}?" if quoted else ""


def is_of_handler(error: BaseException) -> bool:
    """Tell whether a signal's handler of the program raised an exception: a time limit, or the notice of a preemption.

    It came while something of greenml's was at work, and is not greenml's to keep.
    """
    handlers = map(signal.getsignal, signal.valid_signals())
    codes = {getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers} - {None}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in codes:
        trace = trace.tb_next
    return trace is not None


@contextlib.contextmanager
def suppressed() -> Iterator[None]:
    """Go on after any fault of what stands within; what a signal's handler of the program raises goes through."""
    try:
        yield
    except Exception as error:
        if is_of_handler(error):
            raise
