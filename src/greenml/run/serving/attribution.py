"""Attribution: the energy of the devices over a window, shared among the requests that were in flight. Arithmetic.

Within a window the energy is taken to be spread evenly over the time: that is all that its two readings tell. At each
moment it belongs to the requests that are in flight then: in proportion to the rate at which each makes tokens where
that is known of all of them, else in equal parts (by running time). A moment without any request is idle. So the
shares of all requests and the idle share add up to the window's energy, no share is negative, and two requests at once
split what a single request would get.

A request that was in flight for a part of a window, or in changing company, has an interval: the power may have been
higher or lower just then. The bounds follow from the least and the most that the devices can draw (docs/serving.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

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
    for given in shares.of.values():  # sums of very unlike rates lose digits; the law of a share does not
        given.square = min(max(given.square, given.mean**2), given.mean)
    company.advance(end_seconds)
    shares.idle.mean = shares.idle.square = company.idle_seconds / window
    _close(shares)
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
