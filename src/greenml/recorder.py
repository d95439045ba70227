"""The measuring side of a run in one process: sensors, claims and sampler, into its trace."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from greenml import compaction, intensity_watch, job, surroundings, trace
from greenml.claims import Claims
from greenml.errors import RecordError
from greenml.model import Device, Rollup, Sensor, Wanted
from greenml.sampler import Sampler
from greenml.seats import Seat
from greenml.settings import Settings
from greenml.trace_lines import Line, device_line, sample_line

log = logging.getLogger("greenml")
STEP_SECONDS = 2.0
PIDS_SECONDS = 10.0  # how often the run's processes on this host are looked up


class Recorder:
    """Writes what this process measures, and what it is told, into its trace.

    Args:
        settings: which GPUs, which interval, whether to ask the metadata service.
        seat: this process's place in the run.
        writer: its trace, open.
        imports: load now, in the sampler's thread, what writing the record will need.
    """

    def __init__(self, settings: Settings, seat: Seat, writer: trace.TraceWriter, *, imports: bool) -> None:
        self._settings, self._seat, self._writer, self._imports = settings, seat, writer, imports
        self._claims = Claims(f"{seat.run_id}:{seat.run_dir.resolve()}")
        self._sampler = Sampler(
            self._discover, self._claims.take, self._write_samples, self.note, tick=self._tick,
            afterwards=self._afterwards, interval_seconds=settings.interval,
        )  # fmt: skip
        self._keys: dict[Device, str] = {}
        self._resolution = 2.0
        self._stepped: tuple[float, int] = (-math.inf, -1)
        self._pids: tuple[float, list[int]] = (-math.inf, [])
        self.place: dict[str, Any] | None = None  # what the machine says of itself, once it was asked
        self._watch: intensity_watch.Watch | None = None

    def start(self) -> None:
        """Begin to sample, and to ask for the carbon intensity if that is wanted."""
        self._sampler.start()
        if self._settings.intensity:
            self._watch = intensity_watch.begin(
                self._settings, self._writer.path, lambda: trace.paths(self._seat.run_dir), self.write,
                lambda: self.place,
            )  # fmt: skip

    def stop(self, status: str, error: str | None) -> None:
        """Take the last samples, say how the run ended, and let go of everything."""
        if self._watch is not None:
            self._watch.stop()
        self._sampler.stop()
        self.write({"status": status, "error": error})
        if self._writer.failed:
            log.warning("greenml: the trace %s could not be written: %s", self._writer.path, self._writer.failed)
        self._writer.close()
        self._claims.release()

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self._writer.forget()
        self._claims.forget()

    def write(self, line: Line, *, edge: bool = False) -> bool:
        """Append a line, and tell whether it is in the file; ``edge`` asks for a sample at once, without waiting."""
        written = self._writer.write({"t": time.monotonic(), **line})
        if edge:
            self._sampler.mark()
        return written

    def progress(self, step: int, steps: int) -> None:
        """Say how far training is, every two seconds, and at its first and last step.

        Args:
            step: the last that is done; 0 before the first, that of the checkpoint where a run resumes.
            steps: how many there will be.
        """
        now, (then, last) = time.monotonic(), self._stepped
        if step != last and (now - then >= STEP_SECONDS or step < last or step >= steps):
            self._stepped = (now, step)
            self.write({"step": int(step), "steps": int(steps)})

    def _discover(self, note: Callable[[str, str], None], probing: Callable[[str, str], None]) -> Iterator[Sensor]:
        from greenml import sensors

        wanted = Wanted(gpus=self._settings.gpus, pids=self._run_pids)
        yield from sensors.discover(wanted, note, probing)

    def _afterwards(self) -> None:
        """Look around, while nobody waits: what ran, where, and what ending the run will need."""
        found: dict[str, Any] = {"environment": surroundings.environment()}
        if self._settings.region == "auto":
            from greenml import metadata_service

            found["place"] = metadata_service.ask(job.cloud(), self.note)
        self.place = found.get("place") or {}
        self.write({"found": found})
        if self._imports:
            # A run that ends in an exit function must import nothing there: CPython forgets in an exec() that it is
            # ending by Ctrl-C, and would exit with 1 in place of SIGINT.
            import_module("greenml.finishing")

    def _run_pids(self) -> Iterable[int]:
        """Return the processes of the run on this host, from the traces' names."""
        when, pids = self._pids
        if time.monotonic() - when > PIDS_SECONDS:
            host = socket.gethostname()
            names = [path.stem.rsplit("-", 3) for path in trace.paths(self._seat.run_dir)]
            pids = [int(parts[2]) for parts in names if len(parts) == 4 and parts[1] == host and parts[2].isdecimal()]
            self._pids = (time.monotonic(), pids)
        return pids

    def _write_samples(self, now: float, rollups: dict[Device, Rollup], edge: bool) -> None:
        for device in rollups.keys() - self._keys.keys():
            key = str(len(self._keys))
            if self.write(device_line(key, device)):  # else again next time: without it no sample can be read
                self._keys[device] = key
        declared = {self._keys[device]: one for device, one in rollups.items() if device in self._keys}
        self.write(sample_line(now, declared, edge=edge))

    def _tick(self) -> None:
        if self._writer.size_bytes > compaction.LIMIT_BYTES:
            with contextlib.suppress(RecordError):
                self._resolution = compaction.compact(self._writer, resolution_seconds=self._resolution)

    def note(self, code: str, text: str) -> None:
        """Keep a sentence for the record."""
        self.write({"note": code, "text": text})
