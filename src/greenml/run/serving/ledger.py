"""The ledger of one machine: requests of all its workers, the windows that are settled, and the totals so far.

One process of the machine settles (``greenml.run.serving.meter``). What the ledger holds is bounded: requests that are
in flight or wait for their windows, and sums.

**Attribution** shares the energy of the devices over a window among the requests that were in flight. Within a window
the energy is taken to be spread evenly over the time: that is all that its two readings tell. At each moment it belongs
to the requests that are in flight then: in proportion to the rate at which each makes tokens where that is known of all
of them, else in equal parts (by running time). A moment without any request is idle. So the shares of all requests and
the idle share add up to the window's energy, no share is negative, and two requests at once split what a single request
would get.

A request that was in flight for a part of a window, or in changing company, has an interval: the power may have been
higher or lower just then. The bounds follow from the least and the most that the devices can draw (docs/serving.md).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SHORTEST_SECONDS = 1e-9  # of a piece, for its rate: no clock tells less
FORGETTING_RATIO = 1e6  # a rate this many times larger than the sum left behind has eaten its digits


Key = tuple[str, int]  # a worker, and the number of a request in it


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a request in flight.

    Attributes:
        key: of the request; it may have several pieces.
        start_seconds, end_seconds: monotonic clock of the machine.
        tokens: that were made in it, evenly over its time; None where that is not known.
    """

    key: Key
    start_seconds: float
    end_seconds: float
    tokens: float | None = None


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """What the devices used over a window, and what that emitted and cost.

    Attributes:
        joules: None where nothing is known of it.
        low_watts, high_watts: between which the power lay at any moment of it.
        calibration_joules: half width of 95 %, the same relative error in every window.
        random_joules: half width of 95 %, independent of other windows: quantisation, and what a gauge does not sample.
        coverage_low_joules, coverage_high_joules: what may have been used less and more in time without readings.
        grams, grams_ratio: CO2e, PUE included, and its relative uncertainty beside that of the energy; None: not known.
        usd: what the machine cost over the window; None where its price is not known.
    """

    start_seconds: float
    end_seconds: float
    joules: float | None
    low_watts: float = 0.0
    high_watts: float = math.inf
    calibration_joules: float = 0.0
    random_joules: float = 0.0
    coverage_low_joules: float = 0.0
    coverage_high_joules: float = 0.0
    grams: float | None = None
    grams_ratio: float = 0.0
    usd: float | None = None

    @property
    def seconds(self) -> float:
        """Return its length."""
        return self.end_seconds - self.start_seconds


@dataclass(slots=True)
class Share:
    """The share of a window: its mean over the window's time, and the mean of its square.

    The two tell how evenly it lies: a share that is the same all the time has no uncertainty from the power's changes.
    """

    mean: float = 0.0
    square: float = 0.0


@dataclass(slots=True)
class Shares:
    """The shares of a window.

    Attributes:
        of: by the key of each request that was in flight.
        idle: of the time without any.
        by_tokens: True where tokens decided, False where running time did.
        tokens: made in the window, of the requests whose tokens are known.
        with_tokens: share of those requests.
    """

    of: dict[Key, Share]
    idle: Share
    by_tokens: bool
    tokens: float = 0.0
    with_tokens: float = 0.0


def share(start_seconds: float, end_seconds: float, pieces: Iterable[Piece]) -> Shares:
    """Share a window among the pieces of requests that lie in it, and idle time.

    Tokens decide where they are known of every piece in the window; at moments at which no request makes any, the
    requests in flight share equally.
    """
    window, within = end_seconds - start_seconds, []
    for piece in pieces:
        start, end = max(piece.start_seconds, start_seconds), min(piece.end_seconds, end_seconds)
        if end > start:
            within.append((start, end, piece))
    by_tokens = bool(within) and all(piece.tokens is not None for _, _, piece in within)
    rates = [
        (piece.tokens or 0.0) / max(piece.end_seconds - piece.start_seconds, SHORTEST_SECONDS) if by_tokens else 1.0
        for _, _, piece in within
    ]
    events = sorted(
        [(start, 1, at) for at, (start, _, _) in enumerate(within)]
        + [(end, 0, at) for at, (_, end, _) in enumerate(within)]
    )
    company, opened = _Company(start_seconds), [(0.0, 0.0, 0.0, 0.0)] * len(within)
    shares = Shares({}, Share(), by_tokens)
    for when, begins, at in events:
        company.advance(when)
        if begins:
            opened[at] = company.sums
            company.join(at, rates[at])
            continue
        company.leave(at, rates[at])
        by_rate, by_rate_squared, equally, equally_squared = (
            now - then for now, then in zip(company.sums, opened[at], strict=True)
        )
        given = shares.of.setdefault(within[at][2].key, Share())
        given.mean += (rates[at] * by_rate + equally) / window
        given.square += (rates[at] ** 2 * by_rate_squared + equally_squared) / window
    company.advance(end_seconds)
    shares.idle.mean = shares.idle.square = company.idle_seconds / window
    _close(shares)
    for given in shares.of.values():  # sums of very unlike rates lose digits; the law of a share does not
        given.square = min(max(given.square, given.mean**2), given.mean)
    known = {piece.key for _, _, piece in within if piece.tokens is not None}
    known -= {piece.key for _, _, piece in within if piece.tokens is None}
    shares.with_tokens = sum(given.mean for key, given in shares.of.items() if key in known)
    for start, end, piece in within:
        if piece.key in known:
            seconds = max(piece.end_seconds - piece.start_seconds, SHORTEST_SECONDS)
            shares.tokens += (piece.tokens or 0.0) * (end - start) / seconds
    return shares


@dataclass(slots=True)
class _Company:
    """The requests in flight at a moment, and the sums that each one's share is read off from.

    Attributes:
        now: the moment.
        sums: integrals over time up to now of 1 / rate of all, its square, and where no one has a rate 1 / count, its
            square.
    """

    now: float
    sums: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    idle_seconds: float = 0.0
    _rates: dict[int, float] = field(default_factory=dict)
    _with_rate: int = 0
    _rate: float = 0.0

    def advance(self, when: float) -> None:
        seconds, self.now = when - self.now, when
        if seconds <= 0:
            return
        first, second, third, fourth = self.sums
        if not self._rates:
            self.idle_seconds += seconds
        elif self._with_rate:
            self.sums = (first + seconds / self._rate, second + seconds / self._rate**2, third, fourth)
        else:
            count = len(self._rates)
            self.sums = (first, second, third + seconds / count, fourth + seconds / count**2)

    def join(self, at: int, rate: float) -> None:
        self._rates[at] = rate
        self._with_rate += rate > 0
        self._rate += rate

    def leave(self, at: int, rate: float) -> None:
        del self._rates[at]
        self._with_rate -= rate > 0
        self._rate -= rate
        if rate > FORGETTING_RATIO * self._rate:
            self._rate = math.fsum(self._rates.values())


def _close(shares: Shares) -> None:
    """Take away what rounding has left: the shares add up to 1."""
    busy, wanted = math.fsum(given.mean for given in shares.of.values()), 1.0 - shares.idle.mean
    if busy > 0:
        for given in shares.of.values():
            given.mean *= wanted / busy
    else:
        shares.idle.mean = shares.idle.square = 1.0


@dataclass(slots=True)
class Attributed:
    """What was attributed so far, over windows: to a request, to a group of requests, or to idle time.

    Attributes:
        joules: None where a window's energy was not known.
        low_joules, high_joules: by how the power changes within the windows.
        seconds: its share of the time, in device seconds.
        known_grams, grams_joules: CO2e of the windows for which it is known, and their joules; None: of none.
        known_usd, usd_seconds: the same of what the machine cost, and their seconds.
    """

    joules: float | None = 0.0
    low_joules: float = 0.0
    high_joules: float = 0.0
    calibration_joules: float = 0.0
    random_squared: float = 0.0
    coverage_low_joules: float = 0.0
    coverage_high_joules: float = 0.0
    seconds: float = 0.0
    known_grams: float | None = None
    grams_joules: float = 0.0
    grams_ratio: float = 0.0
    known_usd: float | None = None
    usd_seconds: float = 0.0

    @property
    def grams(self) -> float | None:
        """Return its CO2e; a window without an intensity has the mean of the others. None: no window has one."""
        return None if self.joules is None else _of_all(self.known_grams, self.grams_joules, self.joules)

    @property
    def usd(self) -> float | None:
        """Return its part of what the machine cost; a window without a price has that of the others."""
        return _of_all(self.known_usd, self.usd_seconds, self.seconds)

    def add(self, window: WindowEnergy, given: Share) -> None:
        """Add a share of a window; one whose energy is not known makes the whole unknown."""
        self._add_time(window, given)
        if self.joules is None or window.joules is None:
            self.joules = None
            return
        low, high = bounds(window, given)
        joules = given.mean * window.joules
        self.joules += joules
        self.low_joules, self.high_joules = self.low_joules + low, self.high_joules + high
        self.calibration_joules += given.mean * window.calibration_joules
        self.random_squared += (given.mean * window.random_joules) ** 2
        self.coverage_low_joules += given.mean * window.coverage_low_joules
        self.coverage_high_joules += given.mean * window.coverage_high_joules
        if window.grams is not None:
            self.known_grams = (self.known_grams or 0.0) + given.mean * window.grams
            self.grams_joules += joules
            self.grams_ratio = max(self.grams_ratio, window.grams_ratio)

    def add_known(self, window: WindowEnergy, given: Share) -> None:
        """Add a share of a window; of one whose energy is not known, its time and cost alone."""
        if window.joules is None:
            self._add_time(window, given)
        else:
            self.add(window, given)

    def _add_time(self, window: WindowEnergy, given: Share) -> None:
        seconds = given.mean * window.seconds
        self.seconds += seconds
        if window.usd is not None:
            self.known_usd = (self.known_usd or 0.0) + given.mean * window.usd
            self.usd_seconds += seconds

    def interval(self) -> tuple[float, float] | None:
        """Return between which joules it lies in 95 of 100 cases; None where it is not known."""
        if self.joules is None:
            return None
        spread = math.hypot(self.calibration_joules, math.sqrt(self.random_squared))
        low = self.low_joules - spread - self.coverage_low_joules
        return max(0.0, min(low, self.joules)), max(self.high_joules + spread + self.coverage_high_joules, self.joules)

    def grams_interval(self) -> tuple[float, float] | None:
        """Return the same for its emissions: energy and factors are independent."""
        interval = self.interval()
        if interval is None or self.grams is None or not self.joules:
            return None
        down = math.hypot(1 - interval[0] / self.joules, self.grams_ratio)
        up = math.hypot(interval[1] / self.joules - 1, self.grams_ratio)
        return max(0.0, self.grams * (1 - down)), self.grams * (1 + up)


def _of_all(known: float | None, measure: float, whole: float) -> float | None:
    """Return what a whole emitted or cost, from a part of it: ``measure`` of the whole's joules or seconds."""
    if known is None or measure == whole:
        return known
    return known * whole / measure if measure else None


def bounds(window: WindowEnergy, given: Share) -> tuple[float, float]:
    """Return between which joules a share of a window lies, however the power changes within the window.

    Let g be the share at each moment, T the window, P the power with mean E / T, between ``low_watts`` and
    ``high_watts``. The share's energy is the integral of P g. It lies between ``low_watts`` and ``high_watts`` times
    the integral of g. It differs from E x mean(g) by no more than T x sd(P) x sd(g) (Cauchy-Schwarz), where sd(P) is
    at most the root of (high - mean) x (mean - low) (Bhatia and Davis 2000, A better bound on the variance).
    """
    assert window.joules is not None  # noqa: S101  the caller looked
    seconds, watts = window.seconds, window.joules / window.seconds
    low_watts, high_watts = min(window.low_watts, watts), max(window.high_watts, watts)
    value = given.mean * window.joules
    spread_of_share = math.sqrt(max(0.0, given.square - given.mean**2))
    if spread_of_share < 1e-9:
        return value, value
    spread_of_power = math.sqrt((high_watts - watts) * (watts - low_watts)) if watts > low_watts else 0.0
    spread = seconds * spread_of_power * spread_of_share
    low = max(value - spread, low_watts * given.mean * seconds)
    return low, min(value + spread, high_watts * given.mean * seconds, window.joules)


STATUSES = ("completed", "failed", "cancelled")
MOST_GROUPS = 200  # of models and kinds; what comes after is counted as OTHER
OTHER = "(other)"
SLICE = 50  # requests that are worked on at a time
PATIENCE_SECONDS = 10.0  # how long a window waits for the tokens of a request that is still in flight
# Upper edges of the histogram of a request's joules.
BUCKETS_JOULES = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3,
    2.5e3, 5e3, 1e4,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that ended.

    Attributes:
        pieces: its time in flight: (start, end, tokens or None), in order; monotonic seconds.
        model, kind: which group it counts to.
        status: completed, failed or cancelled.
        input_tokens, output_tokens: None where not known.
        counted: in the totals already, by a process that settled before.
    """

    key: Key
    pieces: Sequence[tuple[float, float, float | None]]
    model: str = ""
    kind: str = ""
    status: str = "completed"
    input_tokens: int | None = None
    output_tokens: int | None = None
    counted: bool = False


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that goes on; ``pieces`` as far as its tokens are known."""

    start_seconds: float
    model: str = ""
    kind: str = ""
    pieces: Sequence[tuple[float, float, float | None]] = ()

    @property
    def known_until_seconds(self) -> float:
        """Return up to when its tokens are known."""
        return self.pieces[-1][1] if self.pieces else self.start_seconds


@dataclass(frozen=True, slots=True)
class Settled:
    """What a request used.

    Attributes:
        by_tokens: of its share of the time, the part that tokens decided; the rest was shared by running time.
    """

    key: Key
    attributed: Attributed
    by_tokens_ratio: float


@dataclass(frozen=True, slots=True)
class SettledWindow:
    """A window that was shared out.

    Attributes:
        idle_ratio: of its time. idle_joules: of its energy; None where that is not known.
        tokens: made in it, of the requests whose tokens are known. token_ratio: the share of those requests.
        settled: the requests of which nothing more will come.
    """

    energy: WindowEnergy
    idle_ratio: float
    tokens: float
    token_ratio: float
    settled: Sequence[Settled]

    @property
    def idle_joules(self) -> float | None:
        """Return the joules of the time without a request in flight."""
        return None if self.energy.joules is None else self.energy.joules * self.idle_ratio


@dataclass(slots=True)
class Group:
    """The requests of one model and kind: how many, their tokens, and what they used."""

    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    input_tokens: int = 0
    output_tokens: int = 0
    with_tokens: int = 0  # requests whose tokens are known
    used: Attributed = field(default_factory=Attributed)
    settled: int = 0  # requests whose energy is known: those in the histogram
    joules_settled: float = 0.0  # of these
    token_joules: float = 0.0  # of those of them whose tokens are known
    tokens_settled: int = 0  # of these
    bucket_counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_JOULES) + 1))

    @property
    def count(self) -> int:
        """Return how many requests ended."""
        return sum(self.requests.values())


@dataclass(slots=True)
class Totals:
    """The sums of a machine since the server began.

    Attributes:
        groups: by model and kind.
        used: of all requests. idle: of the time without any.
        seconds: settled. idle_seconds: of them, without a request in flight.
        token_seconds: of the busy time, shared by tokens.
        unknown_seconds: without any reading of a device.
        until_seconds: up to when it is settled; None before the first window.
    """

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    used: Attributed = field(default_factory=Attributed)
    idle: Attributed = field(default_factory=Attributed)
    seconds: float = 0.0
    idle_seconds: float = 0.0
    token_seconds: float = 0.0
    unknown_seconds: float = 0.0
    until_seconds: float | None = None

    def group(self, model: str, kind: str) -> Group:
        """Return the group of a model and kind; a new one where there is room."""
        key = (model, kind)
        if key not in self.groups and len(self.groups) >= MOST_GROUPS:
            key = (OTHER, OTHER)
        return self.groups.setdefault(key, Group())

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        groups = [[model, kind, asdict(group)] for (model, kind), group in self.groups.items()]
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("groups",)}
        return {**plain, "groups": groups, "used": asdict(self.used), "idle": asdict(self.idle)}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Totals:
        """Read it back.

        Raises:
            TypeError, KeyError, ValueError: it is none.
        """
        groups = {
            (model, kind): Group(**{**group, "used": Attributed(**group["used"])})
            for model, kind, group in values["groups"]
        }
        used, idle = Attributed(**values["used"]), Attributed(**values["idle"])
        return cls(**{**values, "groups": groups, "used": used, "idle": idle})


@dataclass(slots=True)
class _Worker:
    """What a worker has said: up to when, and which requests it has in flight, with the start of each."""

    until_seconds: float
    open: Mapping[int, InFlight]


@dataclass(slots=True)
class _Account:
    """What is attributed to a request so far."""

    attributed: Attributed = field(default_factory=Attributed)
    token_seconds: float = 0.0


class Ledger:
    """Requests and windows of one machine.

    Args:
        totals: to go on from, of the process that settled before.
        patience_seconds: how long a window waits for tokens of requests in flight.
        pause: called after every few requests: those who serve them need the interpreter, too.
    """

    def __init__(
        self,
        totals: Totals | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.totals, self._pause = totals or Totals(), pause
        self._patience_seconds = patience_seconds
        self._workers: dict[str, _Worker] = {}
        self._waiting: dict[Key, Ended] = {}  # that ended, and lie in a window that is not settled
        self._accounts: dict[Key, _Account] = {}

    @property
    def size(self) -> int:
        """Return how many requests it holds: in flight, or waiting for a window."""
        return len(self._waiting) + len(self._accounts)

    def publish(
        self,
        worker: str,
        until_seconds: float,
        ended: Sequence[Ended],
        in_flight: Mapping[int, InFlight],
    ) -> None:
        """Take in what a worker says.

        Args:
            worker: its name.
            until_seconds: all that began or ended before this is in.
            ended: requests that ended since it published last.
            in_flight: the requests that go on, by number.
        """
        self._workers[worker] = _Worker(until_seconds, in_flight)
        self.take(ended)

    def take(self, ended: Sequence[Ended]) -> None:
        """Take in requests that ended."""
        for request in ended:
            self._waiting[request.key] = request
            if request.counted:
                continue
            group = self.totals.group(request.model, request.kind)
            group.requests[request.status if request.status in STATUSES else "failed"] += 1
            if request.input_tokens is not None or request.output_tokens is not None:
                group.with_tokens += 1
                group.input_tokens += request.input_tokens or 0
                group.output_tokens += request.output_tokens or 0

    def drop(self, worker: str) -> None:
        """Forget a worker that is gone, with its requests in flight."""
        gone = self._workers.pop(worker, None)
        for number in gone.open if gone is not None else ():
            self._accounts.pop((worker, number), None)

    def ready(self, end_seconds: float, now_seconds: float) -> bool:
        """Tell whether all is known of the requests in a window that ends at a time.

        It is not while a worker has not spoken of it, or, for a bounded time, while a request of it is in flight whose
        tokens may still come.
        """
        if any(worker.until_seconds < end_seconds for worker in self._workers.values()):
            return False
        if now_seconds - end_seconds >= self._patience_seconds:
            return True
        return not any(
            request.known_until_seconds < end_seconds
            for worker in self._workers.values()
            for request in worker.open.values()
        )

    def settle(self, window: WindowEnergy) -> SettledWindow:
        """Share out the window that follows the last one.

        The energy of a request that is first heard of after windows of its time were settled is not known.
        """
        groups: dict[Key, tuple[str, str]] = {}
        begins: dict[Key, float] = {}
        pieces: list[Piece] = []
        end = window.end_seconds
        for key, request in self._waiting.items():
            groups[key], begins[key] = (request.model, request.kind), request.pieces[0][0]
            pieces += [Piece(key, *piece) for piece in request.pieces]
        for name, worker in self._workers.items():
            for number, flying in worker.open.items():
                groups[name, number], begins[name, number] = (flying.model, flying.kind), flying.start_seconds
                pieces += [Piece((name, number), *piece) for piece in flying.pieces]
                if flying.known_until_seconds < end:
                    pieces.append(Piece((name, number), flying.known_until_seconds, end))
        shares = share(window.start_seconds, end, pieces)
        self._add(window, shares.idle, shares.by_tokens)
        means: dict[tuple[str, str], float] = {}
        self._pause()
        for number, (key, given) in enumerate(shares.of.items()):
            if number % SLICE == SLICE - 1:
                self._pause()
            account = self._accounts.get(key)
            if account is None:
                account = self._accounts[key] = _Account(_fresh(begins[key], window.start_seconds))
            account.attributed.add(window, given)
            account.token_seconds += given.mean * window.seconds if shares.by_tokens else 0.0
            group = groups[key]
            means[group] = means.get(group, 0.0) + given.mean
        for (model, kind), mean in means.items():
            self.totals.group(model, kind).used.add_known(window, Share(mean, min(mean, 1.0)))
        return SettledWindow(window, shares.idle.mean, shares.tokens, shares.with_tokens, self._ended_by(window))

    def _add(self, window: WindowEnergy, idle: Share, by_tokens: bool) -> None:
        totals, busy = self.totals, 1.0 - idle.mean
        totals.used.add_known(window, Share(busy, busy))
        totals.idle.add_known(window, idle)
        totals.unknown_seconds += window.seconds if window.joules is None else 0.0
        totals.seconds += window.seconds
        totals.idle_seconds += idle.mean * window.seconds
        totals.token_seconds += busy * window.seconds if by_tokens else 0.0
        totals.until_seconds = window.end_seconds

    def _ended_by(self, window: WindowEnergy) -> list[Settled]:
        settled = []
        done = [key for key, request in self._waiting.items() if request.pieces[-1][1] <= window.end_seconds]
        for number, key in enumerate(done):
            if number % SLICE == SLICE - 1:
                self._pause()
            request, account = self._waiting.pop(key), self._accounts.pop(key, None)
            if account is None:  # it took no time, or none that was still to be settled
                account = _Account(_fresh(request.pieces[0][0], window.start_seconds))
            used = account.attributed
            if used.joules is not None:
                group = self.totals.group(request.model, request.kind)
                group.settled += 1
                group.joules_settled += used.joules
                group.bucket_counts[bisect_left(BUCKETS_JOULES, used.joules)] += 1
                if request.input_tokens is not None or request.output_tokens is not None:
                    group.token_joules += used.joules
                    group.tokens_settled += (request.input_tokens or 0) + (request.output_tokens or 0)
            settled.append(Settled(key, used, account.token_seconds / used.seconds if used.seconds else 0.0))
        return settled


def _fresh(begin_seconds: float, window_start_seconds: float) -> Attributed:
    """Return an account of a request that is first heard of in a window: not known where it began before that."""
    return Attributed(joules=0.0 if begin_seconds >= window_start_seconds else None)
