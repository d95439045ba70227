"""Sinks: where the figures of a run go while it runs, and when it ends. One file a sink, found by being there.

A module here has ``create(argument)``, which returns a ``Sink``; the module's name is the sink's. A sink works in a
thread of its own, one call at a time. One that is dead, slow or raises costs a note, never a training and never a
figure: the record is the truth, and ``greenml send`` delivers it later.

A sink may have more than the calls of ``Sink``:

- ``update_seconds``: the least time between two updates;
- ``close_seconds``: how long the end of a run waits for it;
- ``look(loggers)``: called in the thread of the training, where trackers keep what is active; it asks nobody;
- ``joined``: the identifier of the tracker's run that it writes to, where that is not its own;
- ``lives_with_process``: nothing is left of it after the process.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.redaction import redact_text

if TYPE_CHECKING:
    from greenml.accounting.status import RunStatus
    from greenml.record.schema import RunRecord

log = logging.getLogger("greenml")
JOINED = "trackers"  # under which the record's ``trainer`` keeps the runs of trackers that were joined
UPDATE_SECONDS = 5.0  # between two updates
FIRST_SECONDS = 1.0  # before the first
MOST_LETTERS = 300  # of what a sink's error says
CLOSE_SECONDS = 1.9  # at the end: to finish the call under way and take the record; all sinks at the same time


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a sink is told of a run when it begins.

    Attributes:
        unix_seconds: when the run began.
        joined: by the sink's name, the identifier of the tracker's run that it joined earlier, if it did.
    """

    run_id: str
    name: str = ""
    unix_seconds: float = 0.0
    joined: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: RunRecord) -> RunInfo:
        """Return what a sink is told of a run that has a record."""
        joined = record.trainer.get(JOINED)
        joined = {str(name): str(identifier) for name, identifier in joined.items()} if isinstance(joined, dict) else {}
        return cls(record.run_id, record.name, record.started.timestamp(), joined)


class Sink(Protocol):
    """Where figures go. Each call may take its time, and may raise; after ``open`` has, nothing else is called."""

    def open(self, run: RunInfo) -> None:
        """Prepare for a run; called once, first."""

    def update(self, status: RunStatus) -> None:
        """Take the figures of this moment; of several that wait, only the latest is passed on."""

    def close(self, record: RunRecord) -> None:
        """Take the record, once: the final figures. A record that was delivered before must not count twice."""


def draw_apart(*modules: str) -> None:
    """Let modules, by their names, draw from a generator of their own: that of ``random`` is the training's.

    Libraries wait a random time before they try again. A training whose shuffling is seeded must not depend on it.
    """
    for name in modules:
        module: Any = sys.modules.get(name)
        if getattr(module, "random", None) is random:
            module.random = random.Random()  # noqa: S311  how long to wait


def names() -> list[str]:
    """Return the names of all sinks."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def check(specifications: Sequence[str]) -> None:
    """Check the names of sinks; nothing is imported.

    Raises:
        SettingsError: there is no sink of that name.
    """
    for specification in specifications:
        name = specification.partition(":")[0]
        if name not in names():
            hint = did_you_mean(nearest(name, names(), 1))
            raise SettingsError(f"there is no sink {name!r}{hint or '; there are ' + ', '.join(names())}")


def create(specification: str) -> Sink:
    """Make a sink of its name, and after a colon its argument: ``prometheus:9400``.

    Raises:
        SettingsError: there is no such sink, its argument is wrong, or its package is not installed.
    """
    check([specification])
    name, _, argument = specification.partition(":")
    drawn = random.getstate()  # some packages draw from it at their import
    try:
        sink: Sink = import_module(f"greenml.sinks.{name}").create(argument)
    except ImportError as error:
        raise SettingsError(f"the sink {name} needs a package: pip install 'greenml[{name}]' ({error})") from None
    finally:
        random.setstate(drawn)
    return sink


def send(sink: Sink, record: RunRecord, timeout_seconds: float) -> str:
    """Deliver a record alone, and return why the sink did not take it; empty where it did."""
    sender = _Sender("", sink, RunInfo.of_record(record))
    sender.put(record=record)
    threading.Thread(target=sender.work, daemon=True).start()
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end and not (sender.failure or sender.is_closed.is_set()):
        time.sleep(0.01)
    if sender.is_closed.is_set():
        return ""
    return sender.failure or f"it did not answer within {timeout_seconds:g} s"


class Delivery:
    """Delivers the figures of one run to its sinks.

    Args:
        specifications: of the sinks; those that cannot be made cost a note.
        run: what the sinks are told of it.
        read: returns the run's status; called in a thread.
        note: keeps a sentence for the record.
        joined: keeps which runs of trackers were joined, by the sink's name; they may be written to until the end.
        update_seconds: between two updates.
        make: makes a sink of its specification.
    """

    def __init__(
        self,
        specifications: Sequence[str],
        run: RunInfo,
        read: Callable[[], RunStatus],
        note: Callable[[str, str], object],
        joined: Callable[[dict[str, str]], object] = lambda _: None,
        *,
        update_seconds: float = UPDATE_SECONDS,
        make: Callable[[str], Sink] = create,
    ) -> None:
        self._read, self._note, self._joined, self._update_seconds = read, note, joined, update_seconds
        self._joined_by_name: dict[str, str] = {}
        self._ended, self._noted, self._lock = threading.Event(), set[object](), threading.Lock()
        self._senders: list[_Sender] = []
        for specification in specifications:
            name = specification.partition(":")[0]
            try:
                self._senders.append(_Sender(name, make(specification), run))
            except Exception as error:  # noqa: BLE001  a sink is never worth a training
                self._tell(name, specification, _text(error))

    def start(self) -> None:
        """Begin to deliver."""
        if self._senders:
            for sender in self._senders:
                threading.Thread(target=sender.work, name=f"greenml-sink-{sender.name}", daemon=True).start()
            threading.Thread(target=self._update, name="greenml-sinks", daemon=True).start()

    def look(self, *loggers: object) -> None:
        """Let the sinks look for what is active in this thread, the training's, and among loggers that are open."""
        for sender in self._senders[:]:
            with contextlib.suppress(Exception):  # a tracker's fault is none of the training
                sender.look(loggers)
        self._keep_joined()

    def _keep_joined(self) -> None:
        found = {sender.name: sender.joined for sender in self._senders[:] if sender.joined}
        if found != self._joined_by_name:
            self._joined_by_name = found
            self._joined(found)

    def settle(self) -> None:
        """End the updates and note what failed so far; nothing is waited for, since the run's clock goes on."""
        self._ended.set()
        self.look()
        for sender in self._senders[:]:
            if sender.failure:
                self._senders.remove(sender)
                self._tell(sender.name, sender, sender.failure)

    def abandon(self) -> None:
        """End without a record: nothing is to be kept of the run."""
        self._ended.set()
        for sender in self._senders:
            sender.give_up()

    def close(self, record: RunRecord) -> list[str]:
        """Give the sinks the record, wait a bounded time, and return a sentence for each that did not take it."""
        texts: list[str] = []
        self._note = lambda _code, text: texts.append(text)
        for sender in self._senders:
            sender.put(record=record)
        begun = time.monotonic()
        while any(sender.is_awaited(time.monotonic() - begun) for sender in self._senders):
            time.sleep(0.01)
        for sender in self._senders:
            if not sender.is_closed.is_set():
                sender.give_up()
                self._tell(sender.name, sender, sender.failure or sender.missed or "it did not answer in time")
            elif sender.missed:
                texts.append(
                    f"sink {sender.name}: it missed figures meanwhile, and has those of the record: {sender.missed}"
                )
        return texts

    def _update(self) -> None:
        wait_seconds = min(FIRST_SECONDS, self._update_seconds)
        while not self._ended.wait(wait_seconds):
            wait_seconds = self._update_seconds
            try:
                status = self._read()
            except Exception:  # noqa: BLE001, S112  the traces cannot be read now
                continue
            for sender in self._senders[:]:
                if sender.failure:
                    self._tell(sender.name, sender, sender.failure)
                elif not self._ended.is_set():
                    sender.put(status=status)
            self._keep_joined()

    def _tell(self, name: str, sink: object, text: str) -> None:
        """Note once of a sink that it failed."""
        with self._lock:
            if sink in self._noted:
                return
            self._noted.add(sink)
        text = f"sink {name}: {text}; 'greenml send' delivers the record later"
        log.warning("greenml: %s", text)
        self._note("sink", text)


class _Sender:
    """One sink in its thread: a queue of one status, of which the latest counts, and at the end the record."""

    def __init__(self, name: str, sink: Sink, run: RunInfo) -> None:
        self.name, self.failure, self.missed = name, "", ""
        self.is_closed = threading.Event()
        self._sink, self._run = sink, run
        self._changed = threading.Condition()
        self._status: RunStatus | None = None
        self._record: RunRecord | None = None
        self._given_up = False
        options: Any = sink
        self._look: Callable[[Sequence[object]], object] | None = getattr(options, "look", None)
        self._close_seconds: float = getattr(options, "close_seconds", CLOSE_SECONDS)
        self._update_seconds: float = getattr(options, "update_seconds", 0.0)
        self._put_seconds = 0.0

    @property
    def joined(self) -> str:
        """The tracker's run that the sink writes to, where that is not its own."""
        return str(getattr(self._sink, "joined", ""))

    def look(self, loggers: Sequence[object]) -> None:
        if self._look is not None and not self.failure:
            self._look(loggers)

    def is_awaited(self, seconds: float) -> bool:
        """Tell whether the end of the run still waits for this sink, after so long."""
        return seconds < self._close_seconds and not (self.failure or self.is_closed.is_set())

    def put(self, status: RunStatus | None = None, record: RunRecord | None = None) -> None:
        now = time.monotonic()
        if status is not None and self._put_seconds and now - self._put_seconds < self._update_seconds - 1.0:
            return
        self._put_seconds = now
        with self._changed:
            self._status, self._record = status, record or self._record
            self._changed.notify()

    def give_up(self) -> None:
        with self._changed:
            self._given_up = True
            self._changed.notify()

    def work(self) -> None:
        try:
            self._sink.open(self._run)
            while not self._given_up:
                status, record = self._take()
                if record is not None:
                    self._sink.close(record)
                    self.is_closed.set()
                    return
                if status is not None:
                    self._update(status)
        except BaseException as error:  # noqa: BLE001  also a sink that calls sys.exit()
            self.failure = _text(error)

    def _take(self) -> tuple[RunStatus | None, RunRecord | None]:
        """Wait for what is there to do; nothing, once it was given up."""
        with self._changed:
            while self._status is None and self._record is None and not self._given_up:
                self._changed.wait()
            status, self._status = self._status, None
            return status, None if self._given_up else self._record

    def _update(self, status: RunStatus) -> None:
        """Pass a status on; where that fails, the next may succeed, and the record above all."""
        try:
            self._sink.update(status)
        except BaseException as error:  # noqa: BLE001  also a sink that calls sys.exit()
            if not self.missed:
                self.missed = _text(error)
                log.warning("greenml: sink %s: %s; it is tried again", self.name, self.missed)


def _text(error: BaseException) -> str:
    text = " ".join(redact_text(f"{type(error).__name__}: {error}").split()).rstrip(": ")
    return text[:MOST_LETTERS]  # after its secrets are masked: the half of one is not told from other text
