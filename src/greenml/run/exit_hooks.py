"""How a process with a run forks and ends: the hooks of ``os.fork`` and the exit functions.

No signal handler is taken in a training's process. ``handled_signals`` is for greenml's own commands.

A forked child has one thread: the one that forked. What another thread was in the middle of stays half done in the
child. An import is the worst case: its lock is held by a thread that is not there, and the child's next import of that
module never returns. So a fork waits, for a bounded time, until no thread of greenml is within an import, within a call
of the GPU driver's library, or between the fork and the exec of a command that it starts.

A signal's handler has the thread that it interrupted, and what that is in the middle of stays half done until it
returns. An import is the worst case here, too: before Python 3.12, one that is made while the thread takes the lock of
another takes that one's entry (``imports``), or waits for itself for ever (``within_import_lock``). In any version, one
that is made while the thread holds the lock that all imports share waits for ever for a thread that imports the same
module and waits for that lock.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Protocol, TypeVar

from greenml.redaction import redact_text

_IMPORT = "<frozen importlib._bootstrap>"
# What a thread may be in the middle of: the code's file, the function's name ("" for any), and how long a fork waits.
_UNSAFE = ((_IMPORT, "", 30.0), ("pynvml.py", "", 0.1), ("subprocess.py", "_execute_child", 0.5))
# Within these importlib takes a lock: of the module that it imports, or the one that all imports share, which it holds
# while it looks for a module (``_find_spec``).
_IMPORT_LOCKING = ("acquire", "release", "_get_module_lock", "cb", "_find_spec")
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # Python 3.10 has none
_MOST_INTERRUPTIONS = 5  # of an import, after which it is given up
_WITHIN_IMPORT_SECONDS = 0.5  # how long a fork waits that is made by an import: the other import may wait for that one

Result = TypeVar("Result")


class Stoppable(Protocol):
    """A run that is going on."""

    def stop(self, status: str, error: str | None) -> object:
        """End it."""

    def note(self, text: str, code: str) -> None:
        """Keep a sentence for its reports."""

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent."""


# The runs that go on, which nobody else may hold; where each was started, and time.monotonic() of that.
_active: dict[Stoppable, tuple[object, float]] = {}
_EARLIER = "_greenml_seen_seconds"  # at an exception that the interpreter had shown when a run was started
_hooked = False
interrupted = False  # the interpreter ends by Ctrl-C: an import, as any exec(), would make it forget that


def add(run: Stoppable, started_at: object = None) -> None:
    """End a run at the interpreter's exit, unless it was discarded by then.

    Args:
        run: that has started.
        started_at: the key by which ``end_earlier`` finds it; None where it must not.
    """
    global _hooked  # noqa: PLW0603  exit functions are a process's
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
    now, error = time.monotonic(), _last_error()
    if error is not None and not hasattr(error, _EARLIER):
        with contextlib.suppress(Exception):  # a mark, since to hold the exception would hold all that its frames have
            setattr(error, _EARLIER, now)
    _active[run] = started_at, now


def discard(run: Stoppable) -> None:
    """Leave a run alone at the exit: it ended."""
    _active.pop(run, None)


def go_first() -> None:
    """End the runs before all that registered with ``atexit`` by now: a tracker that they write to, for one."""
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)


def end_earlier(started_at: object) -> None:
    """End the runs that were started at the same place: a notebook's start cell is being run again."""
    for run, (place, _) in list(_active.items()):
        if place is not None and place == started_at:
            run.note("this run was ended when another was started in its place", "started-again")
            run.stop("completed", None)


def _at_exit() -> None:
    global interrupted  # noqa: PLW0603
    error = _last_error()
    ending = outcome(error)
    interrupted = ending[0] == "interrupted"
    for run, (_, started_seconds) in list(_active.items()):
        # An error in a cell of a notebook goes by, and is no failure of a run that another cell started after it.
        earlier = getattr(error, _EARLIER, math.inf) <= started_seconds
        run.stop(*(outcome(None) if earlier else ending))


def _last_error() -> BaseException | None:
    """Return the last exception that the interpreter showed: the one that ends it, or one of an interactive session."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return error if isinstance(error, BaseException) else None


def _before_fork() -> None:
    begun, most_seconds = time.monotonic(), float("inf")
    while min(_unsafe_seconds(), most_seconds) > time.monotonic() - begun:
        most_seconds = _WITHIN_IMPORT_SECONDS if within_import() else most_seconds
        time.sleep(0.001)


def within_import(*functions: str) -> bool:
    """Return whether this thread is within an import: a signal's handler that interrupted it cannot use the module.

    Args:
        functions: of importlib, one of which it is within; any by default.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT and (not functions or frame.f_code.co_name in functions):
            return True
        frame = frame.f_back
    return False


def within_import_lock() -> bool:
    """Return whether this thread was interrupted as it takes or leaves a lock of an import, or holds the shared one.

    It must not import now. The interrupted import, whose ever it is, would fail, and one of the same module hang
    (CPython issue 91351); so would one of what another thread imports, if that waits for the lock this thread holds.
    """
    return within_import(*_IMPORT_LOCKING)


def imports(call: Callable[[], Result]) -> Result:
    """Call what imports, and call it again where a signal's handler that imports made an import of it fail.

    Source: CPython issue 91351. The import fails with a KeyError of the thread's number.
    """
    for _ in range(_MOST_INTERRUPTIONS):
        try:
            return call()
        except KeyError as error:
            if error.args != (threading.get_ident(),):
                raise
    return call()


def _unsafe_seconds() -> float:
    """Return how long a fork should wait for what the other threads of greenml are doing now; 0 for nothing."""
    this_thread = threading.get_ident()
    frames = sys._current_frames()  # the only way to see other threads; CPython has it, and PyPy
    return max((_unsafe_seconds_of(frame) for thread, frame in frames.items() if thread != this_thread), default=0.0)


def _unsafe_seconds_of(frame: FrameType | None) -> float:
    seconds = 0.0
    while frame is not None:
        name = frame.f_code.co_filename
        for file, function, wait_seconds in _UNSAFE:
            if name.endswith(file) and function in ("", frame.f_code.co_name):
                seconds = max(seconds, wait_seconds)
        if seconds and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "greenml":
            return seconds
        frame = frame.f_back
    return 0.0  # nothing of the kind, or it is not greenml that does it


def _in_child() -> None:
    for run in list(_active):
        run.forget()
    _active.clear()


if hasattr(os, "register_at_fork"):  # before the first run: another thread may fork while this one starts it
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def outcome(error: BaseException | None) -> tuple[str, str | None]:
    """Return the status of a run that ended by an exception (or by none), and the exception in a line."""
    while isinstance(error, _GROUP) and len(error.exceptions) == 1:  # as asyncio and trio raise what ended one task
        error = error.exceptions[0]
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "completed", None
    if type(error).__name__ == "Exit" and getattr(error, "exit_code", None) == 0:  # of Click and Typer
        return "completed", None
    if isinstance(error, GeneratorExit):  # whoever read the generator needed no more of it
        return "completed", None
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "KeyboardInterrupt"
    kind = type(error).__name__
    if kind == "CancelledError":  # of asyncio, which is not imported for its name
        return "interrupted", kind
    try:
        text = redact_text(str(error)[:20_000])  # before it is cut: the half of a secret is not told from other text
    except Exception:  # noqa: BLE001  an exception of the training's own may not be printable
        text = "(cannot be printed)"
    return "failed", " ".join(f"{kind}: {text[:2000]}".split())[:500]


@contextlib.contextmanager
def handled_signals(names: Iterable[str], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle signals within the block; the handlers from before come back.

    Signals that this system does not have are passed over. One that is ignored stays so, here and in commands that are
    started: ``nohup`` ignores SIGHUP, a shell's background job SIGINT. Outside of the main thread nothing is handled,
    because only the main thread may.
    """
    before = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
