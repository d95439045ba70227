"""Polls a provider for the carbon intensity during a run, in a background thread; writes answers to the trace.

One process of a run asks: the lead process; when it is gone, the next by precedence. A failure is a note, and the
pauses between attempts grow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from greenml.errors import GreenMLError, RecordError
from greenml.factors.types import IntensitySeries, Place
from greenml.settings import Settings
from greenml.trace import file as trace_file
from greenml.trace.lines import Line, intensity_line

AFTER_SECONDS = 30.0  # a provider needs a moment after a slot's begin
LEAST_PAUSE_SECONDS = 60.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 60.0, 3600.0
AGAIN_SLOTS = 3  # forecasts and estimates are asked for again, this many slots back
PLACE_SECONDS = 60.0  # how long the cloud's own answer to region="auto" is waited for
TURN_SECONDS = 60.0  # how often the others look whether the one that asks is gone
MOST_NOTES = 3
NOTE_CODE = "intensity-unanswered"


def begin(settings: Settings, path: Path, others: Callable[[], Iterable[Path]], write: Callable[[Line], object],
          machine_place: Callable[[], Mapping[str, Any] | None]) -> Watch | None:  # fmt: skip
    """Start polling if the settings name a provider; a process that is not the lead process waits for its turn.

    Args:
        settings: of the run.
        path: this process's trace.
        others: returns every trace of the run.
        write: appends a line to the trace.
        machine_place: returns the place that the cloud metadata gave; None while there is no answer.
    """
    if not settings.intensity:
        return None
    try:
        header = trace_file.read_header(path)
    except RecordError:
        return None
    begun = datetime.fromtimestamp(header["unix_seconds"], timezone.utc)
    watch = Watch(settings, begun, write, machine_place, turn=lambda: is_turn(header, path, others()))
    watch.start()
    return watch


def is_turn(own_header: Line, path: Path, others: Iterable[Path]) -> bool:
    """Tell whether this process of the attempt is the one to ask: the lead process, or the next when that is gone.

    A higher rank asks only where it saw a process that goes before it and is gone: on a node with a folder of its own
    it sees none, and rank 0 asks elsewhere.
    """
    turn = bool(own_header.get("watches")) or own_header.get("rank") in (None, 0)
    for other in others:
        try:
            header = trace_file.read_header(other)
        except RecordError:
            continue
        asks = header.get("attempt") == own_header.get("attempt") and header.get("settings", {}).get("intensity")
        earlier = (*trace_file.precedence(header), other.name) < (*trace_file.precedence(own_header), path.name)
        if asks and earlier and other.name != path.name:
            if trace_file.is_alive(other, header):
                return False
            turn = True
    return turn


class Watch:
    """Polls a provider at its resolution.

    Args:
        settings: who is asked, and where the run is.
        begun: when the run began.
        write: appends a line to the trace.
        found: what the machine said of its place; None while it has not answered.
        now: the time.
        turn: tells whether this process is the one that asks.
        wait: waits for seconds; True where the run ended meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        begun: datetime,
        write: Callable[[Line], object],
        machine_place: Callable[[], Mapping[str, Any] | None],
        *,
        turn: Callable[[], bool] = lambda: True,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._settings, self._begun, self._write = settings, begun, write
        self._machine_place, self._now = machine_place, now
        self._turn, self._done = turn, threading.Event()
        self._wait = wait or self._done.wait
        self._known: dict[datetime, tuple[datetime, float]] = {}  # what was answered: start to end and g/kWh
        self._end = begun  # of the last slot that is known
        self._failures = 0
        self._notes: set[str] = set()

    def start(self) -> None:
        """Begin to ask."""
        threading.Thread(target=self.run, name="greenml-intensity", daemon=True).start()

    def stop(self) -> None:
        """Ask no more. Nobody waits for what is under way."""
        self._done.set()

    def run(self) -> None:
        """Ask until the run ends: the thread's work."""
        try:
            from greenml.factors import intensity_providers

            while not self._turn():
                if self._wait(TURN_SECONDS):
                    return
            place = self._place()
            step = intensity_providers.resolution_seconds(self._settings.intensity)
            while not self._wait(self._ask(place, step)):
                pass
        except Exception as error:  # noqa: BLE001  a fault of ours is a line in the record, never a traceback in a training
            self._note(f"asking ended: {type(error).__name__}")

    def _place(self) -> Place:
        from greenml.accounting import assumptions

        waited = 0.0
        if self._settings.region == "auto":
            while self._machine_place() is None and waited < PLACE_SECONDS and not self._wait(0.5):
                waited += 0.5
        return assumptions.place_now(self._settings, self._machine_place() or {})

    def _ask(self, place: Place, step_seconds: float) -> float:
        """Ask once; return how many seconds to wait before the next time."""
        from greenml.factors import intensity_providers

        now = self._now()
        since = max(self._begun, self._end - timedelta(seconds=AGAIN_SLOTS * step_seconds))
        try:
            series = intensity_providers.series(
                self._settings.intensity, place, since, max(now, since + timedelta(seconds=1)), self._settings.basis
            )
        except GreenMLError as error:
            self._failures += 1
            self._note(str(error))
            pause = min(FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10), LONGEST_RETRY_SECONDS, step_seconds)
            return max(pause, getattr(error, "retry_after_seconds", None) or 0.0)
        self._failures = 0
        self._keep(series)
        least = max(LEAST_PAUSE_SECONDS, step_seconds / 12)
        return min(max((self._end - now).total_seconds() + AFTER_SECONDS, least), max(step_seconds, least))

    def _keep(self, series: IntensitySeries) -> None:
        """Write the slots of a series that are new or changed to the trace."""
        new = tuple(slot for slot in series.slots if self._known.get(slot.start) != (slot.end, slot.grams_per_kwh))
        if new and not self._done.is_set():
            self._write(intensity_line(replace(series, slots=new)))
            self._known |= {slot.start: (slot.end, slot.grams_per_kwh) for slot in new}
        self._end = max([self._end, *(slot.end for slot in series.slots)])

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < MOST_NOTES:
            self._notes.add(text)
            when = f"{self._now():%Y-%m-%d %H:%M} UTC"
            self._write({"note": NOTE_CODE, "text": f"carbon intensity, asked at {when}: {text}"})
