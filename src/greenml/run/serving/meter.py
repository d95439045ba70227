"""The meter of an endpoint: the requests that it measures, and the thread that settles them.

A request's path takes no lock and waits for nothing: it notes two times and appends to a list. A thread reads the
devices' energy from the traces and shares it out, window by window. Of all workers of a server on one machine, one
settles for all; where it dies, another goes on from its totals.

``meter = greenml.serve()`` once, where the server starts; ``with meter.request(model="bart") as request:`` around each
request, and ``request.tokens(input=212, output=40)`` within it. Some two seconds after its end, ``request.result`` says
what it used. The integrations of web frameworks and engines do this by themselves (docs/serving.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import math
import os
import secrets
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from greenml.errors import SettingsError
from greenml.run import exit_hooks, membership
from greenml.run.serving.ledger import (
    Attributed,
    Ended,
    Group,
    InFlight,
    Ledger,
    Settled,
    SettledWindow,
    Totals,
    WindowEnergy,
)
from greenml.run.track import Run, checked_settings, finish_elsewhere

if TYPE_CHECKING:
    from greenml.record.schema import RunRecord
    from greenml.run.serving.devices import DeviceEnergies
    from greenml.run.serving.exchange import Exchange
    from greenml.settings import Settings


log = logging.getLogger("greenml")
WINDOW_SECONDS = 1.0
TICK_SECONDS = 0.5  # between two looks at what is new
RECORD_MINUTES = 10.0
LATE_SECONDS = 0.1  # a request is in the thread's sight this long after it began, also on a busy machine
SILENT_SECONDS = 5.0  # a worker, or every device, that says nothing for longer is not waited for
CLOSING_SILENT_SECONDS = 2.0  # the same at the end
GONE_SECONDS = 60.0  # a worker that says nothing for longer is forgotten
TRACE_SECONDS = 10.0  # between two lines of totals in the trace
CLOSE_SECONDS = 4.0  # at the end: for the last readings, and for the worker that settles
PIECE_SECONDS = 1.0  # tokens that come as a stream are placed in time to about this
MOST_PIECES = 60  # of a request; its earlier time is settled long ago
MOST_UNSENT = 200_000  # requests that are kept while nobody takes them, or nobody answers
WORK_SECONDS, PAUSE_SECONDS = 0.001, 0.0002  # of the thread that settles, in turns
MOST_NOTES = 20  # a server has no end; its notes have
MOST_WINDOWS = 300  # settled in one go
LIVE_SECONDS = 10.0  # the figures of now are means over this
HISTORY = 600  # points that the page shows
_of_parents: list[object] = []
TOKENS, TIME, BOTH = "tokens", "running time", "tokens and running time"


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What a request used. None is not known.

    Attributes:
        energy_joules: of GPUs, CPUs and DRAM; the interval holds the true value in 95 of 100 cases.
        co2e_grams: PUE included, at the carbon intensity of its hour.
        cost_usd: its share of the machine's price. The costs of all requests and of idle time add up to the bill.
        shared_by: how the devices were shared with other requests: "tokens", "running time", or both, each for a time.
        seconds: from begin to end.
        provisional: True before its windows are settled: an estimate from the power of the last seconds.
    """

    energy_joules: float | None
    energy_low_joules: float | None = None
    energy_high_joules: float | None = None
    co2e_grams: float | None = None
    co2e_low_grams: float | None = None
    co2e_high_grams: float | None = None
    cost_usd: float | None = None
    shared_by: str = TIME
    seconds: float = 0.0
    input_tokens: int | None = None
    output_tokens: int | None = None
    provisional: bool = False

    @property
    def joules_per_token(self) -> float | None:
        """Return the joules per token of input and output; None where either is not known."""
        tokens = (self.input_tokens or 0) + (self.output_tokens or 0)
        return None if self.energy_joules is None or not tokens else self.energy_joules / tokens


class Request:
    """A request in flight, made by ``ServingMeter.request()``: a context manager, or to ``end()``.

    Attributes:
        result: what it used; None until its windows are settled, some two seconds after its end.
        status: completed, failed or cancelled; "" while it goes on.
    """

    __slots__ = (
        "_boundary_seconds", "_meter", "_pieces", "_unplaced", "end_seconds", "input_tokens", "kind",
        "model", "number", "output_tokens", "result", "share_at_start",
        "start_seconds", "status",
    )  # fmt: skip

    def __init__(self, meter: ServingMeter, number: int, model: str, kind: str) -> None:
        self._meter, self.number, self.model, self.kind = meter, number, model, kind
        self.start_seconds = self._boundary_seconds = meter._clock()
        self.end_seconds = math.nan
        self.status = ""
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.result: RequestResult | None = None
        self._pieces: list[tuple[float, float, float | None]] = []
        self._unplaced = 0
        self.share_at_start = 0.0

    def tokens(self, input: int | None = None, output: int | None = None) -> None:  # noqa: A002  the field's words
        """Add tokens that were read (input) and made (output); may be called again as a stream goes on.

        What is no whole number of 0 or more is left out, with a note in the record.
        """
        counted = False
        for name, value in (("input_tokens", input), ("output_tokens", output)):
            if value is None:
                continue
            count = _count(value)
            if count is None:
                self._meter.note(f"tokens({name.partition('_')[0]}={value!r:.40}) was left out: it is no count")
                continue
            setattr(self, name, (getattr(self, name) or 0) + count)
            self._unplaced += count
            counted = True
        now = self._meter._clock()
        if counted and now - self._boundary_seconds >= PIECE_SECONDS and not self.status:
            self._pieces.append((self._boundary_seconds, now, self._unplaced))
            del self._pieces[:-MOST_PIECES]
            self._boundary_seconds, self._unplaced = now, 0

    def end(self, status: str = "completed") -> None:
        """End it: completed, failed or cancelled; a second time does nothing."""
        if not self.status:
            self.status, self.end_seconds = status, self._meter._clock()
            self._meter._end(self)

    @property
    def age_seconds(self) -> float:
        """Return how long it has been in flight."""
        return self._meter._clock() - self.start_seconds

    def __enter__(self) -> Request:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(status_of(error))

    async def __aenter__(self) -> Request:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def wait(self, timeout_seconds: float = 15.0) -> RequestResult | None:
        """Wait until it is settled, and return its result; None where that takes longer."""
        return self._meter._wait(self, timeout_seconds)

    def estimate(self) -> RequestResult:
        """Return what it used so far by the power of the last seconds: provisional, with a wide interval."""
        return self._meter._estimate(self)

    def _ended(self, worker: str) -> Ended:
        known = self.input_tokens is not None or self.output_tokens is not None
        last = (self._boundary_seconds, self.end_seconds, self._unplaced if known else None)
        return Ended(
            (worker, self.number), (*self._pieces, last), self.model, self.kind, self.status, self.input_tokens,
            self.output_tokens,
        )  # fmt: skip

    def _flying(self) -> InFlight:
        return InFlight(self.start_seconds, self.model, self.kind, tuple(self._pieces))


def status_of(error: BaseException | None) -> str:
    """Return how a request ended by the exception that ended it."""
    status = exit_hooks.outcome(error)[0]
    if error is None or status == "completed":
        return "cancelled" if isinstance(error, GeneratorExit) else "completed"
    return "cancelled" if status == "interrupted" else "failed"


@dataclass(frozen=True, slots=True)
class ServingTotals:
    """What an endpoint used so far, on this machine, as far as it is settled: a second or two ago.

    Attributes:
        requests: that ended, by status. in_flight: that go on.
        request_joules, idle_joules: of the time with and without a request in flight; together, the devices' total.
        seconds, idle_seconds: settled; and of them without a request.
        groups: by (model, kind).
        live: figures of now, means over ten seconds: ``watts``, ``joules_per_token``, ``grams_per_request`` ...
    """

    requests: Mapping[str, int]
    in_flight: int
    input_tokens: int
    output_tokens: int
    request_joules: float | None
    request_low_joules: float | None
    request_high_joules: float | None
    idle_joules: float | None
    idle_low_joules: float | None
    idle_high_joules: float | None
    co2e_grams: float | None
    idle_co2e_grams: float | None
    cost_usd: float | None
    idle_cost_usd: float | None
    seconds: float
    idle_seconds: float
    groups: Mapping[tuple[str, str], Group]
    live: Mapping[str, Any]

    @property
    def count(self) -> int:
        """Return how many requests ended."""
        return sum(self.requests.values())

    @property
    def device_joules(self) -> float | None:
        """Return what the devices used, with requests and without."""
        known = self.request_joules is not None and self.idle_joules is not None
        return (self.request_joules or 0.0) + (self.idle_joules or 0.0) if known else None

    @property
    def idle_energy_ratio(self) -> float | None:
        """Return the share of the devices' energy that was used without a request."""
        return None if not self.device_joules else (self.idle_joules or 0.0) / self.device_joules

    @property
    def joules_per_token(self) -> float | None:
        """Return the joules per token of input and output, of the requests whose tokens are known."""
        tokens = sum(group.tokens_settled for group in self.groups.values())
        return sum(group.token_joules for group in self.groups.values()) / tokens if tokens else None

    @classmethod
    def of(cls, totals: Totals, in_flight: int, live: Mapping[str, Any]) -> ServingTotals:
        """Return what a ledger's totals say."""
        known = totals.seconds > totals.unknown_seconds
        used, idle = totals.used, totals.idle
        request_interval, idle_interval = used.interval() or (None, None), idle.interval() or (None, None)
        groups = totals.groups.values()
        return cls(
            requests={
                status: sum(group.requests[status] for group in groups) for status in Group().requests
            },
            in_flight=in_flight,
            input_tokens=sum(group.input_tokens for group in groups),
            output_tokens=sum(group.output_tokens for group in groups),
            request_joules=used.joules if known else None,
            request_low_joules=request_interval[0] if known else None,
            request_high_joules=request_interval[1] if known else None,
            idle_joules=idle.joules if known else None,
            idle_low_joules=idle_interval[0] if known else None,
            idle_high_joules=idle_interval[1] if known else None,
            co2e_grams=used.grams, idle_co2e_grams=idle.grams, cost_usd=used.usd, idle_cost_usd=idle.usd,
            seconds=totals.seconds, idle_seconds=totals.idle_seconds, groups=dict(totals.groups), live=dict(live),
        )  # fmt: skip


class ServingRun(Run):
    """The run of an endpoint; whoever ends it, the interpreter's exit included, ends its meter first."""

    meter: ServingMeter

    def stop(
        self, status: str = "completed", error: str | None = None, end_seconds: float | None = None
    ) -> RunRecord | None:
        """End the measurement, settle what there is, and write the record."""
        if self._is_active():
            self.meter._settle_last()
        return super().stop(status, error, end_seconds)

    @property
    def attempt(self) -> int:
        """The number of this attempt of the run, from 1."""
        return self._membership.attempt if self._membership is not None else 1

    @property
    def run_id(self) -> str:
        """The identifier of the run; a server that begins anew in the same place is another run."""
        return self._membership.run_id if self._membership is not None else ""

    def claim(self, name: str) -> bool:
        """Take what one worker of this machine does for all of them."""
        return self._recorder is not None and self._recorder.claim(name)

    def read_now(self) -> None:
        """Ask for a reading of the devices, without waiting for it."""
        self._write({"facts": {}}, edge=True)

    def write_totals(self, totals: Mapping[str, Any]) -> None:
        """Keep the totals for the record."""
        self._write({"facts": {"serving": dict(totals)}})

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent; the child's first request begins anew."""
        run_dir = self.run_dir
        super().forget()
        self.meter._forget(run_dir)


class ServingMeter:
    """Measures the requests of an endpoint. Made by ``greenml.serve()``.

    Nothing here raises into a server, and nothing waits but ``close()`` and ``Request.wait()``.

    Args:
        settings: of the run.
        window_seconds: over which the devices' energy is shared.
        record_minutes: between two writes of the record.
        clock, unix_clock: monotonic and unix seconds.
        energies: the energy of the devices; read from the run's traces by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        window_seconds: float = WINDOW_SECONDS,
        record_minutes: float = RECORD_MINUTES,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
        energies: DeviceEnergies | None = None,
    ) -> None:
        self._settings, self._window_seconds, self._record_seconds = settings, window_seconds, record_minutes * 60
        self._clock, self._unix_clock, self._given_energies = clock, unix_clock, energies
        self._run: ServingRun | None = None
        self._reset()

    def _reset(self) -> None:
        """Begin without a thread and without requests: at the start, and in a forked child."""
        self.worker = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._open: dict[int, Request] = {}
        self._ended: deque[Request] = deque(maxlen=MOST_UNSENT)
        self._pending: dict[int, Request] = {}  # that ended and wait for their result
        self._closed = False
        self._settled, self._stopping, self._wake = threading.Condition(), False, threading.Event()
        self._closing = threading.RLock()
        self._ledger: Ledger | None = None  # of the worker that settles
        self._energies = self._given_energies
        self._exchange: Exchange | None = None
        self._heard: dict[str, float] = {}
        self._totals, self._live = Totals(), dict[str, Any]()
        self._windows: deque[tuple[SettledWindow, int]] = deque()  # of the last seconds
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._begin_seconds, self._paused_seconds = self._clock(), 0.0
        self._traced_seconds = self._recorded_seconds = self._clock()
        self._recording: threading.Thread | None = None
        self._share, self._share_seconds = 0.0, self._clock()  # integral of 1 / requests in flight here
        self._notes: set[str] = set()
        self._child_of: Path | None = None  # in a forked child: the folder of the parent's traces
        self._join: Path | None = None
        self._unsent: list[Ended] = []
        self._starting: threading.Thread | None = None

    @property
    def run_dir(self) -> Path:
        """The folder of the traces."""
        assert self._run is not None  # noqa: S101  started
        return self._run.run_dir

    @property
    def record(self) -> RunRecord | None:
        """The record, once the meter is closed."""
        return self._run.record if self._run is not None else None

    @property
    def name(self) -> str:
        """Return the name of the endpoint."""
        return self._settings.name

    @property
    def output(self) -> Path:
        """Where the record goes."""
        return self._run.output if self._run is not None else self._settings.output

    @property
    def closed(self) -> bool:
        """Tell whether it was closed."""
        return self._stopping

    def start(self) -> ServingMeter:
        """Begin to measure; returns within two seconds whatever the hardware does.

        Raises:
            SettingsError: the output cannot be written.
        """
        from greenml.run.serving.devices import DeviceEnergies
        from greenml.run.serving.exchange import Exchange

        run = ServingRun(self._settings, identity=membership.of_server, origin_seconds=0.0, join=self._join)
        run.meter, self._run = self, run
        self._begin_seconds = self._clock()
        run.start()
        key = hashlib.sha256(f"{run.run_id} {run.run_dir.resolve()} {run.attempt}".encode()).hexdigest()[:32]
        self._exchange = Exchange(Path(tempfile.gettempdir()) / "greenml-serving" / f"{key}.db", self.worker)
        self._energies = self._given_energies or DeviceEnergies(run.run_dir, self._clock, self._unix_clock)
        self._traced_seconds = self._recorded_seconds = self._clock()
        threading.Thread(target=self._work, name="greenml-serving", daemon=True).start()
        return self

    def request(self, model: str | None = "", kind: str | None = "") -> Request:
        """Begin a request; end it with ``with`` or ``end()``.

        Args:
            model: that serves it; "" or None where that is not known.
            kind: of request: a route, a task.
        """
        if self._child_of is not None:
            self._start_in_child()
        request = Request(self, next(self._numbers), _label(model), _label(kind))
        self._advance_share(request.start_seconds)
        request.share_at_start = self._share
        self._open[request.number] = request
        return request

    def totals(self) -> ServingTotals:
        """Return the totals of this machine as they were settled last."""
        return ServingTotals.of(self._totals, len(self._open) + self._elsewhere(), self._live)

    def close(self, status: str = "completed", error: str | None = None) -> RunRecord | None:
        """End the measurement: settle every request, write the record, and return it. A second time does nothing."""
        if self._starting is not None:
            self._starting.join(CLOSE_SECONDS)
        run = self._run
        return None if run is None else run.stop(status, error)

    def __enter__(self) -> ServingMeter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(*exit_hooks.outcome(error))

    def note(self, text: str) -> None:
        """Keep a sentence that every report prints; once, and no more than ``MOST_NOTES`` of them."""
        if self._run is not None and text not in self._notes and len(self._notes) < MOST_NOTES:
            self._notes.add(text)
            self._run.note(text, "serving")

    # In the request's path.

    def _end(self, request: Request) -> None:
        self._advance_share(request.end_seconds)
        if not self._closed:
            self._ended.append(request)
        self._open.pop(request.number, None)

    def _advance_share(self, now: float) -> None:
        in_flight = len(self._open)
        if in_flight:
            self._share += max(0.0, now - self._share_seconds) / in_flight
        self._share_seconds = now

    def _estimate(self, request: Request) -> RequestResult:
        if request.result is not None:
            return request.result
        live, now = self._live, request.end_seconds if request.status else self._clock()
        seconds = max(0.0, now - request.start_seconds)
        if not request.status:
            self._advance_share(now)
        here = max(1, len(self._open))
        share = min(seconds, (self._share - request.share_at_start) * here / (here + self._elsewhere()))
        watts, high_watts = live.get("watts"), live.get("high_watts")
        joules = None if watts is None else watts * share
        per_joule = live.get("grams_per_joule")
        usd_per_second = live.get("usd_per_second")
        return RequestResult(
            energy_joules=joules,
            energy_low_joules=None if joules is None else 0.0,
            energy_high_joules=None if joules is None or high_watts is None else high_watts * seconds,
            co2e_grams=None if joules is None or per_joule is None else joules * per_joule,
            cost_usd=None if usd_per_second is None else share * usd_per_second,
            seconds=seconds, input_tokens=request.input_tokens, output_tokens=request.output_tokens, provisional=True,
        )  # fmt: skip

    def _elsewhere(self) -> int:
        """Return how many requests were in flight in the other workers, as they said last."""
        return sum(count for worker, count in self._live.get("in_flight_of", {}).items() if worker != self.worker)

    # In the thread.

    def _work(self) -> None:
        while not self._stopping:
            self._wake.wait(TICK_SECONDS)
            with self._closing:
                if not self._stopping:
                    self.tick()

    def tick(self) -> None:
        """Take in what is new and settle the windows that can be; called by the thread, and by tests with a clock."""
        try:
            self._tick()
        except Exception as error:  # noqa: BLE001  a fault of ours, a full disk: a note, and the server goes on
            self.note(f"settling failed: {exit_hooks.outcome(error)[1]}")

    def _tick(self) -> None:
        run = self._run
        if run is None:
            return
        until = self._clock() - LATE_SECONDS
        ended, in_flight = self._news()
        if self._ledger is None and run.claim("serving"):
            self._become_settler()
        if self._ledger is None:
            self._unsent = [*self._unsent, *ended][-MOST_UNSENT:]
            with self._sharing() as exchange:
                exchange.publish(self._clock(), until, self._unsent, in_flight)
                self._unsent = []
                self._deliver(exchange.take_results())
                state = exchange.state()
                if state is not None:
                    self._show(*state)
            return
        ledger = self._ledger
        ledger.publish(self.worker, until, [*self._unsent, *ended], in_flight)
        self._unsent = []
        with self._sharing() as exchange:
            self._hear(exchange, ledger)
        settled = self._settle(ledger, until)
        if settled:
            self._spread(settled, ledger)
        self._keep(run, ledger)

    def _news(self) -> tuple[list[Ended], dict[int, InFlight]]:
        """Return the requests that ended since, and those that go on."""
        flying = {number: request._flying() for number, request in list(self._open.items())}
        ended = []
        while self._ended:
            request = self._ended.popleft()
            flying.pop(request.number, None)
            self._pending[request.number] = request
            if len(self._pending) > MOST_UNSENT:  # who settles has not answered for long: the oldest have no result
                del self._pending[next(iter(self._pending))]
            ended.append(request._ended(self.worker))
        return ended, flying

    def _become_settler(self) -> None:
        state = None
        with self._sharing() as exchange:
            state = exchange.state()
        self._ledger = Ledger(state[0] if state is not None else None, pause=self._pause)
        with self._sharing() as exchange:  # what this worker has said before is taken in by itself
            exchange.publish(0.0, 0.0, (), {})

    @contextlib.contextmanager
    def _sharing(self) -> Iterator[Exchange]:
        """Use the exchange; where it fails, this worker goes on alone, and the record says so."""
        import sqlite3

        assert self._exchange is not None  # noqa: S101  started
        try:
            yield self._exchange
        except (sqlite3.Error, OSError, ValueError, TypeError, KeyError) as error:
            text = exit_hooks.outcome(error)[1]
            self.note(f"the workers of this server could not share their requests for a time: {text}")

    def _hear(self, exchange: Exchange, ledger: Ledger) -> None:
        """Take in what the other workers say, and forget those that are gone."""
        now, in_flight_of = self._clock(), {self.worker: len(self._open)}
        silent_seconds = CLOSING_SILENT_SECONDS if self._stopping else SILENT_SECONDS
        for name, heard, until, ended, in_flight in exchange.take_requests():
            ledger.take(ended)
            if heard:
                self._heard[name] = heard
            if now - heard < silent_seconds:
                in_flight_of[name] = len(in_flight)
                ledger.publish(name, until, (), in_flight)
        if in_flight_of != self._live.get("in_flight_of"):
            self._live["in_flight_of"] = in_flight_of
            exchange.give_live(self._live)
        for name, heard in list(self._heard.items()):
            if now - heard >= silent_seconds:
                ledger.drop(name)
            if now - heard >= GONE_SECONDS:
                del self._heard[name]
                exchange.forget(name)

    def _settle(self, ledger: Ledger, until: float) -> list[SettledWindow]:
        """Settle the windows whose energy and requests are known."""
        energies, size = self._energies, self._window_seconds
        assert energies is not None  # noqa: S101  started
        begun = ledger.totals.until_seconds
        if (self._begin_seconds if begun is None else begun) + size > until + size / 2:
            return []  # no window has ended since
        energies.read()
        self._pause()
        settled: list[SettledWindow] = []
        for _ in range(MOST_WINDOWS):
            start = ledger.totals.until_seconds
            if start is None:
                start = self._begin_seconds
            end = (math.floor(start / size + 1e-9) + 1) * size
            if end > until or not self._is_known(end) or not ledger.ready(end, self._clock()):
                break
            settled.append(ledger.settle(energies.window(start, end)))
        return settled

    def _pause(self) -> None:
        """Let other threads have the interpreter after some work: they serve requests."""
        if time.perf_counter() - self._paused_seconds > WORK_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self._paused_seconds = time.perf_counter()

    def _is_known(self, end_seconds: float) -> bool:
        """Tell whether the energy up to a time is known, or nothing more is to be expected of it."""
        assert self._energies is not None  # noqa: S101  started
        known = self._energies.known_until_seconds()
        late = self._clock() - end_seconds > SILENT_SECONDS
        return late if known is None else known >= end_seconds or late

    def _spread(self, windows: list[SettledWindow], ledger: Ledger) -> None:
        """Give everybody what was settled."""
        by_worker: dict[str, list[Settled]] = {}
        for window in windows:
            for settled in window.settled:
                by_worker.setdefault(settled.key[0], []).append(settled)
            self._windows.append((replace(window, settled=()), len(window.settled)))
        while len(self._windows) > max(1, round(LIVE_SECONDS / self._window_seconds)):
            self._windows.popleft()
        self._show(ledger.totals, self._figures_of_now(windows[-1]))
        self._deliver(by_worker.pop(self.worker, []))
        with self._sharing() as exchange:
            exchange.give(by_worker, ledger.totals, self._live)

    def _show(self, totals: Totals, live: Mapping[str, Any]) -> None:
        self._totals, self._live = totals, dict(live)
        if not self.history or live.get("unix_seconds") != self.history[-1].get("unix_seconds"):
            self.history.append(dict(live))

    def _deliver(self, results: list[Settled]) -> None:
        for settled in results:
            request = self._pending.pop(settled.key[1], None)
            if request is not None:
                request.result = _result(request, settled)
        if results:
            with self._settled:
                self._settled.notify_all()

    def _wait(self, request: Request, timeout_seconds: float) -> RequestResult | None:
        with self._settled:
            self._settled.wait_for(lambda: request.result is not None, timeout_seconds)
        return request.result

    def _figures_of_now(self, last: SettledWindow) -> dict[str, Any]:
        """Return the figures of the last seconds: those of energy, of the windows whose energy is known."""
        windows = [window for window, _ in self._windows]
        known = [window for window in windows if window.energy.joules is not None]
        seconds = sum(window.energy.seconds for window in windows)
        known_seconds = sum(window.energy.seconds for window in known)
        joules = sum(window.energy.joules or 0.0 for window in known)
        busy = sum((window.energy.joules or 0.0) - (window.idle_joules or 0.0) for window in known)
        of_grams = [window.energy for window in known if window.energy.grams is not None]
        grams_joules = sum(energy.joules or 0.0 for energy in of_grams)
        per_joule = sum(energy.grams or 0.0 for energy in of_grams) / grams_joules if grams_joules else None
        requests = sum(count for window, count in self._windows if window.energy.joules is not None)
        tokens = sum(window.tokens for window in known)
        token_joules = sum((window.energy.joules or 0.0) * window.token_ratio for window in known)
        energy: WindowEnergy = last.energy
        return {
            "unix_seconds": self._unix_clock() - self._clock() + energy.end_seconds,
            "watts": joules / known_seconds if known else None,
            "watts_now": None if energy.joules is None else energy.joules / energy.seconds,
            "high_watts": energy.high_watts if known and math.isfinite(energy.high_watts) else None,
            "joules_per_token": token_joules / tokens if tokens else None,
            "joules_per_request": busy / requests if requests else None,
            "grams_per_request": busy * per_joule / requests if requests and per_joule is not None else None,
            "idle_ratio": sum(window.idle_ratio * window.energy.seconds for window in windows) / seconds,
            "tokens_per_second": tokens / known_seconds if tokens else None,
            "requests_per_second": sum(count for _, count in self._windows) / seconds,
            "grams_per_joule": per_joule,
            "usd_per_second": None if energy.usd is None else energy.usd / energy.seconds,
            "in_flight_of": self._live.get("in_flight_of", {}),
        }

    def _keep(self, run: ServingRun, ledger: Ledger) -> None:
        """Write totals into the trace, and now and then the record, in a process of its own."""
        now = self._clock()
        if now - self._traced_seconds >= TRACE_SECONDS:
            self._traced_seconds = now
            run.write_totals(_for_trace(ledger.totals))
        if now - self._recorded_seconds >= self._record_seconds:
            self._recorded_seconds = now
            if self._recording is None or not self._recording.is_alive():
                self._recording = threading.Thread(target=finish_elsewhere, args=(run.output,), daemon=True)
                self._recording.start()

    # At the end, and in a forked child.

    def _settle_last(self) -> None:
        """Settle all requests: those that still go on end here. A second time does nothing."""
        run = self._run
        if self._stopping or run is None:
            return
        self._stopping = True
        self._wake.set()
        if not self._closing.acquire(timeout=CLOSE_SECONDS):
            return
        try:
            for request in list(self._open.values()):
                request.end("cancelled")
            closed = self._clock()
            run.read_now()
            deadline = time.monotonic() + CLOSE_SECONDS
            while time.monotonic() < deadline and not self._settled_until(closed):
                time.sleep(0.05)
            if self._ledger is not None:
                run.write_totals(_for_trace(self._ledger.totals))
            with self._sharing() as exchange:
                exchange.close()
        finally:
            self._closed = True
            self._closing.release()

    def _settled_until(self, closed_seconds: float) -> bool:
        """Settle what can be; tells whether that is all of this worker's."""
        self.tick()
        ledger = self._ledger
        if ledger is None:
            return not self._pending
        start = ledger.totals.until_seconds
        if start is None or start + self._window_seconds <= closed_seconds or self._energies is None:
            return False
        known = self._energies.known_until_seconds()
        end = min(closed_seconds, self._clock() - LATE_SECONDS) if known is None else min(known, closed_seconds)
        # The last window is a part of one.
        if end > start and ledger.ready(end, self._clock()):
            self._spread([ledger.settle(self._energies.window(start, end))], ledger)
        return not self._pending

    def _forget(self, run_dir: Path) -> None:
        stopped = self._stopping
        _of_parents.append(self._exchange)  # never closed here: its locks are the parent's
        self._run = None
        self._reset()
        self._stopping = stopped
        self._child_of = None if stopped else run_dir

    def _start_in_child(self) -> None:
        """Begin to measure in a forked worker, in a thread: its first request does not wait."""
        self._join, self._child_of = self._child_of, None
        if self._join is not None:  # else another thread has begun just now
            self._starting = threading.Thread(target=self._begin_in_child, name="greenml-serving-start", daemon=True)
            self._starting.start()

    def _begin_in_child(self) -> None:
        try:
            self.start()
        except Exception as error:  # noqa: BLE001  a server is never worth less than its meter
            log.warning("greenml: this worker is not measured: %s", exit_hooks.outcome(error)[1])


def _result(request: Request, settled: Settled) -> RequestResult:
    used: Attributed = settled.attributed
    interval, grams = used.interval() or (None, None), used.grams_interval() or (None, None)
    ratio = settled.by_tokens_ratio
    return RequestResult(
        energy_joules=used.joules, energy_low_joules=interval[0], energy_high_joules=interval[1],
        co2e_grams=used.grams, co2e_low_grams=grams[0], co2e_high_grams=grams[1], cost_usd=used.usd,
        shared_by=TOKENS if ratio > 0.999 else TIME if ratio < 0.001 else BOTH,
        seconds=request.end_seconds - request.start_seconds, input_tokens=request.input_tokens,
        output_tokens=request.output_tokens,
    )  # fmt: skip


def _for_trace(totals: Totals) -> dict[str, Any]:
    """Return totals without their histograms, which no record keeps."""
    groups = {key: replace(group, bucket_counts=[]) for key, group in totals.groups.items()}
    return replace(totals, groups=groups).as_json()


def _label(value: object) -> str:
    return "" if value is None else str(value)


def _count(value: object) -> int | None:
    try:
        count = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return count if 0 <= count < 10**15 and not isinstance(value, str | bytes) else None


OUTPUT = "serving.json"
SHORTEST_WINDOW_SECONDS, LONGEST_WINDOW_SECONDS = 0.5, 60.0


def serve(
    output: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    sku: str | None = None,
    region: str | None = None,
    tier: str | None = None,
    gpus: str | list[int | str] | None = None,
    carbon_intensity: float | None = None,
    price_per_hour: float | None = None,
    pue: float | None = None,
    intensity: str | os.PathLike[str] | None = None,
    market_intensity: float | None = None,
    lifetime_years: float | None = None,
    basis: str | None = None,
    window_seconds: float = WINDOW_SECONDS,
    record_minutes: float = RECORD_MINUTES,
) -> ServingMeter:
    """Begin to measure an endpoint, in each of its workers; returns within two seconds whatever the hardware does.

    Args:
        output: where the record goes; ``serving.json`` by default. Workers of one server write one record.
        name: of the endpoint.
        sku: the cloud's machine size, for the price; this and what follows as for ``greenml.track()``.
        region: where it runs.
        tier: which price is paid: ``dedicated``, ``low_priority`` or ``spot``.
        carbon_intensity: g CO2e per kWh, in place of the tables.
        price_per_hour: USD per machine and hour, in place of the tables.
        pue: power usage effectiveness, in place of the tables.
        intensity: the provider of the carbon intensity of each hour.
        market_intensity: g CO2e per kWh of a contract.
        lifetime_years: of the hardware.
        basis: of the carbon intensity: ``direct`` or ``lifecycle``.
        gpus: those that serve the model; those CUDA shows by default.
        window_seconds: over which the devices' energy is shared among the requests in flight, 0.5 to 60.
        record_minutes: between two writes of the record; it is written at the end too.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """
    for label, value, low, high in (
        ("window_seconds", window_seconds, SHORTEST_WINDOW_SECONDS, LONGEST_WINDOW_SECONDS),
        ("record_minutes", record_minutes, 0.1, 24 * 60),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise SettingsError(f"{label} is {value!r}; it must be {low:g} to {high:g}")
    settings = checked_settings(
        {
            "output": output, "name": name, "sku": sku, "region": region, "tier": tier, "gpus": gpus,
            "carbon_intensity": carbon_intensity, "price_per_hour": price_per_hour, "pue": pue,
            "intensity": None if intensity is None else str(intensity), "market_intensity": market_intensity,
            "lifetime_years": lifetime_years, "basis": basis,
        }
    )  # fmt: skip
    if "output" not in settings.known_from:
        settings = replace(settings, output=Path(OUTPUT))
    return ServingMeter(settings, window_seconds=window_seconds, record_minutes=record_minutes).start()
