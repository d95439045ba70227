"""The ledger of one machine: requests of all its workers, the windows that are settled, and the totals so far.

One process of the machine settles (``greenml.run.serving.meter``). What the ledger holds is bounded: requests that are
in flight or wait for their windows, and sums.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from greenml.run.serving.attribution import Attributed, Key, Piece, Share, WindowEnergy, share

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
