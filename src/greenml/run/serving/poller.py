"""Joules per token and request of a server that has a metrics page: measured from outside, window by window.

The devices are read by greenml's own sampler, in a run of its own; what was done is read from the server's page. A
window lies between two pages. Where a page cannot be had, or does not fit the one before it, there is a gap: no figure
is made of it. In the record, the phase ``serving`` is the time for which it is known what was done, and the metrics
``requests``, ``input_tokens`` and ``output_tokens`` are of that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenml.accounting.totals import per
from greenml.errors import GreenMLError
from greenml.record.schema import Basis, Quantity, RunRecord
from greenml.run.live import LiveRun
from greenml.run.serving import metrics_page
from greenml.run.serving.devices import RecentEnergy
from greenml.run.serving.metrics_page import Counts, Page, PageError
from greenml.run.track import Run

PHASE = "serving"
NO_PHASE = -1
SAVE_SECONDS = 300.0
ORDER: tuple[Basis, ...] = (
    "assumed",
    "modelled",
    "reported",
    "derived",
    "measured",
)  # the least sure part of a sum counts


def _unknown(why: str) -> Quantity:
    return Quantity(value=None, basis="measured", why=why)


@dataclass(frozen=True, slots=True)
class Window:
    """The time between two pages, or several such times together.

    Attributes:
        counts: what was done; None in a gap.
        energy_joules: of the devices, not yet times the PUE.
        facility_joules, emissions_grams, cost_usd: what follows from it and from the time.
        idle_joules: of windows with nothing in flight and nothing done; None where the page does not tell.
        gap: why it is a gap; empty where it is none.
    """

    seconds: float
    counts: Counts | None = None
    energy_joules: Quantity = field(default_factory=lambda: _unknown("not measured"))
    facility_joules: Quantity = field(default_factory=lambda: _unknown("not measured"))
    emissions_grams: Quantity = field(default_factory=lambda: _unknown("not measured"))
    cost_usd: Mapping[str, Quantity] = field(default_factory=dict)
    idle_joules: float | None = None
    gap: str = ""

    def joules_per(self, what: str) -> Quantity:
        """Return the joules for each ``request``, ``token`` (input and output together) or ``output token``.

        Not known where there was none: the energy of a time without tokens belongs to no token.
        """
        counts = self.counts or Counts()
        count = {"request": counts.requests, "token": counts.tokens, "output token": counts.output_tokens}[what]
        if self.counts is None or self.energy_joules.value is None:
            return _unknown(self.gap or self.energy_joules.why)
        if not count:
            return _unknown(f"the page does not count {what}s" if count is None else f"no {what} in this time")
        return per(self.energy_joules, count)

    @property
    def idle_ratio(self) -> float | None:
        """The share of the energy of time in which nothing was served."""
        energy = self.energy_joules.value
        return self.idle_joules / energy if energy and self.idle_joules is not None else None

    def plus(self, other: Window) -> Window:
        """Return two windows together. The ends of the intervals add, as the sensors' errors are the same in both."""
        if self.counts is None or other.counts is None:
            return self if other.counts is None else other
        idle = (self.idle_joules, other.idle_joules)
        return Window(
            seconds=self.seconds + other.seconds,
            counts=_together(self.counts, other.counts),
            energy_joules=_sum(self.energy_joules, other.energy_joules),
            facility_joules=_sum(self.facility_joules, other.facility_joules),
            emissions_grams=_sum(self.emissions_grams, other.emissions_grams),
            cost_usd={
                tier: _sum(self.cost_usd[tier], other.cost_usd[tier])
                for tier in other.cost_usd
                if tier in self.cost_usd
            },
            idle_joules=None if idle[0] is None or idle[1] is None else idle[0] + idle[1],
        )

    def figures(self) -> dict[str, Any]:
        """Return all of it as JSON has it: what is not known is null, with the reason."""
        counts = self.counts or Counts()
        quantities = {
            "energy_joules": self.energy_joules,
            "facility_energy_joules": self.facility_joules,
            "emissions_grams": self.emissions_grams,
            **{
                f"joules_per_{what.replace(' ', '_')}": self.joules_per(what)
                for what in ("request", "token", "output token")
            },
        }
        return {
            "seconds": self.seconds, "gap": self.gap or None, "requests": counts.requests,
            "input_tokens": counts.input_tokens, "output_tokens": counts.output_tokens,
            "requests_running": counts.running, "idle_energy_joules": self.idle_joules,
            "idle_energy_ratio": self.idle_ratio,
            **{name: quantity.model_dump() for name, quantity in quantities.items()},
            "cost_usd": {tier: usd.model_dump() for tier, usd in self.cost_usd.items()},
        }  # fmt: skip


def _together(first: Counts, second: Counts) -> Counts:
    def total(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one + other

    return Counts(
        total(first.requests, second.requests), total(first.input_tokens, second.input_tokens),
        total(first.output_tokens, second.output_tokens), second.running,
    )  # fmt: skip


def _sum(first: Quantity, second: Quantity) -> Quantity:
    if first.value is None or second.value is None:
        return first if first.value is None else second
    ends = {
        end: None if (a := getattr(first, end)) is None or (b := getattr(second, end)) is None else a + b
        for end in ("low", "high")
    }
    basis = min(first.basis, second.basis, key=ORDER.index)
    at_least = first.at_least or second.at_least
    return Quantity(
        value=first.value + second.value, **ends, basis=basis, why=first.why or second.why, at_least=at_least
    )


class Poller:
    """Watches a server: a run that measures the devices here, and the server's page. For one thread.

    Args:
        run: that measures; not started.
        url: of the page.
        model: whose requests count, where the server has several.
        read: returns a page, or raises ``PageError``.

    Attributes:
        server: its name, once its page was read.
        total: all windows together that are no gaps; None before the first.
        gaps: how many windows were gaps.
    """

    def __init__(self, run: Run, url: str, model: str = "", read: Callable[[str], Page] = metrics_page.read) -> None:
        metrics_page.check(url)
        self._run, self._url, self._model, self._read = run, url, model, read
        self._page: Page | None = None
        self._phase = NO_PHASE
        self._running: float | None = None
        self._last_seconds, self._saved_seconds = time.monotonic(), time.monotonic()
        self.server, self.gaps = "", 0
        self.total: Window | None = None

    def start(self) -> None:
        """Begin to measure, and read the first page.

        Raises:
            PageError: the page cannot be used; nothing is kept of the run.
        """
        self._run.start()
        self._energy, self._live = RecentEnergy(self._run.run_dir), LiveRun(self._run.run_dir)
        try:
            self._begin(self._read(self._url))
        except GreenMLError:
            self._run.discard()
            raise
        self._run.describe(server=self.server, metrics_page=metrics_page.shown(self._url), model=self._model)

    def window(self) -> Window:
        """Read the page again; return the window since the last time."""
        start = self._last_seconds
        try:
            page = self._read(self._url)
        except PageError as error:
            return self._gap(start, str(error))
        if self._page is None:
            return self._gap(start, f"{page.server.name}'s page can be read again; figures begin anew", page)
        try:
            counts = page.since(self._page, self._model)
        except PageError as error:
            return self._gap(start, str(error), page)
        if self._phase == NO_PHASE:
            self._phase = self._run.begin_phase(PHASE, start)
        self._page, self._last_seconds = page, page.at_seconds
        made = self._measured(start, page.at_seconds, counts)
        self.total = made if self.total is None else self.total.plus(made)
        if time.monotonic() - self._saved_seconds > SAVE_SECONDS:
            self._saved_seconds = time.monotonic()
            self._log()
            self._run.save("completed")
        return made

    def stop(self) -> RunRecord | None:
        """End the run and return its record."""
        self._run.end_phase(self._phase, self._last_seconds)
        self._log()
        return self._run.stop()

    def _begin(self, page: Page) -> None:
        page.counts(self._model)
        self._page, self.server, self._last_seconds = page, page.server.name, page.at_seconds

    def _gap(self, start: float, why: str, page: Page | None = None) -> Window:
        """Leave the time since the last page out; begin anew with a page, if there is one."""
        self._run.end_phase(self._phase, start)
        self._phase, self._page, self._last_seconds, self.gaps = NO_PHASE, None, time.monotonic(), self.gaps + 1
        if self.gaps == 1:
            self._run.note(f"what was served is not known all the time; the first gap: {why}", "serving-gap")
        if page is not None:
            try:
                self._begin(page)
            except PageError as error:
                why = str(error)
        return Window(self._last_seconds - start, gap=why)

    def _measured(self, start: float, end: float, counts: Counts) -> Window:
        self._run.read_devices()
        self._energy.wait(end)
        self._live.totals()  # settles the factors
        used = self._energy.totals([(start, end)], self._live.factors, self._live.settings.nodes or 1)
        energy = used.it_energy_joules
        idle = None
        if counts.running is not None and counts.requests is not None:
            nothing = not (counts.running or counts.requests or counts.output_tokens or self._running)
            idle = energy.value if nothing else 0.0
        self._running = counts.running
        return Window(
            end - start, counts, energy, used.facility_energy_joules, used.emissions_grams, used.cost_usd, idle
        )

    def _log(self) -> None:
        counts = self.total.counts if self.total is not None else None
        if counts is not None:
            known = {
                "requests": counts.requests,
                "input_tokens": counts.input_tokens,
                "output_tokens": counts.output_tokens,
            }
            self._run.log({name: value for name, value in known.items() if value is not None})
