"""Measures a run in one process: its sensors, device claims and sampler, which write to its trace."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenml import files
from greenml.errors import suppressed
from greenml.files import ProcessLock
from greenml.run import environment, intensity_poller, membership
from greenml.run.membership import Membership
from greenml.sensors.sampler import Sampler
from greenml.settings import Settings
from greenml.trace import file as trace_file
from greenml.trace import trace_paths
from greenml.trace.lines import Line, device_line, sample_line
from greenml.trace.types import Device, Rollup, Sensor, Wanted

if TYPE_CHECKING:
    from greenml.run.compaction import Compactor


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # no disk takes a file now; where locks cannot be had, a process measures for itself
        return Path("/tmp")  # noqa: S108  not written to without a lock


class DeviceClaims:
    """The devices that this process measures for a run."""

    def __init__(self, run_id: str, folder: Path | None = None) -> None:
        self._run_id = run_id
        self._folder = folder or _temporary() / "greenml-claims"
        self._locks: dict[str, ProcessLock] = {}

    def take(self, device_id: str) -> bool:
        """Claim a device; True where this process has it now.

        A temporary folder that cannot be written claims everything: a lone process must still measure.
        """
        lock = self._locks.get(device_id)
        if lock is None:
            name = f"{self._run_id}\n{device_id}".encode(errors="surrogatepass")  # a folder's name may be no UTF-8
            key = hashlib.sha256(name).hexdigest()[:32]
            lock = self._locks[device_id] = ProcessLock(self._folder / f"{key}.lock")
        if lock.held:
            return True
        try:
            self._open_folder()
            return lock.acquire()
        except OSError:
            return True

    def _open_folder(self) -> None:
        if not self._folder.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # shared by the users of the host, as the temporary folder is
                self._folder.chmod(0o1777)

    def release(self) -> None:
        """Release every claim."""
        for lock in self._locks.values():
            lock.release()

    def forget(self) -> None:
        """Close a forked child's side of every claim."""
        for lock in self._locks.values():
            lock.forget()


log = logging.getLogger("greenml")
STEP_SECONDS = 2.0
LIMIT_BYTES = 8_000_000  # a larger trace is compacted
PIDS_SECONDS = 10.0  # how often the run's processes on this host are looked up, where its folder has changed
SETTLED_NANOSECONDS = 2_000_000_000  # a folder whose last change is older is known as it is


class Recorder:
    """Writes this process's samples, and the lines that it is given, into its trace.

    Args:
        settings: which GPUs, which interval, whether to ask the metadata service.
        seat: this process's place in the run.
        writer: its trace, open.
        folder: where the program was started.
        watches: the run is that of this process's children.
        origin_seconds: of the schedule of readings; when it is made by default.
    """

    def __init__(
        self,
        settings: Settings,
        run_membership: Membership,
        writer: trace_file.TraceWriter,
        folder: Path | None,
        *,
        watches: bool = False,
        origin_seconds: float | None = None,
    ) -> None:
        self._settings, self._membership, self._writer = settings, run_membership, writer
        self._job, self._size_bytes = membership.current(), 0
        self._claims = DeviceClaims(f"{run_membership.run_id}:{run_membership.run_dir.resolve()}")
        self._compactor: Compactor | None = None
        self._sampler = Sampler(
            self._discover, self._claims.take, self._write_samples, self.note, tick=self._tick,
            afterwards=self._afterwards, interval_seconds=settings.interval, origin_seconds=origin_seconds,
        )  # fmt: skip
        self._keys: dict[Device, str] = {}
        self._stepped: tuple[float, int] = (-math.inf, -1)
        self._warned = False
        self._folder, self._watches = folder, watches
        self._pids: tuple[float, int, list[int]] = (-math.inf, 0, [])  # when; the change of the folder that they are of
        self.place: dict[str, Any] | None = None  # what the machine says of itself, once it was asked
        self._watch: intensity_poller.Watch | None = None
        self._written_bytes: int | None = None  # to disks, before the run

    def start(self) -> None:
        """Begin to sample, and to ask for the carbon intensity if that is wanted.

        The modules of the sensors are imported here and not in the sampler's thread: a fork waits for that thread's
        imports (``greenml.run.exit_hooks``).
        """
        from greenml import sensors

        with suppressed():  # the sampler's thread tries again, and notes what is wrong
            sensors.modules(lambda _code, _text: None)
        self._written_bytes = environment.disk_written_bytes(of_children=self._watches)
        self._sampler.start()
        if self._settings.intensity:
            self._watch = intensity_poller.begin(
                self._settings, self._writer.path, lambda: trace_paths(self._membership.run_dir), self.write,
                lambda: self.place,
            )  # fmt: skip

    def stop(self, status: str, error: str | None, end_seconds: float | None = None, *, remove: bool = True) -> None:
        """Take the last samples, say how the run ended, and let go of everything.

        May be called again, also by a signal's handler while it runs: what is done already is not done twice.

        Args:
            status: completed, failed or interrupted.
            error: what went wrong, in a line.
            end_seconds: ``time.monotonic()`` of when, if that was before now.
            remove: False leaves every file of the run's folder where it is, until it is called again.
        """
        if self._watch is not None:
            self._watch.stop()
        self._sampler.stop()
        if self._compactor is not None:
            self._compactor.stop()
        before, after = self._written_bytes, environment.disk_written_bytes(of_children=self._watches)
        if after is not None and (before is not None or self._watches):
            self.write({"facts": {"disk": {"written_bytes": max(0, after - (before or 0))}}})
        ended = {} if end_seconds is None else {"end_seconds": end_seconds}
        self.write({"status": status, "error": error, **ended})
        if self._writer.failed and not self._warned and not files.is_gone(self._membership.run_dir):
            self._warned = True
            log.warning("greenml: the trace %s could not be written: %s", self._writer.path, self._writer.failed)
        self._writer.close(remove=remove)
        self._claims.release()

    def discard(self) -> None:
        """Remove what this process wrote, and the run's folder where nothing else is in it; for a stopped recorder."""
        with contextlib.suppress(OSError):
            self._writer.path.unlink()
            left = {path.name for path in self._membership.run_dir.iterdir()}
            if left <= {"lock"}:
                shutil.rmtree(self._membership.run_dir)

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

    def mark(self) -> None:
        """Ask for a sample at once, without waiting for it."""
        self._sampler.mark()

    def progress(self, step: int, steps: int | None, *, saved: bool = False) -> None:
        """Say how far training is, every two seconds, at its first and last step, and at each checkpoint.

        Args:
            step: the last that is done; 0 before the first, that of the checkpoint where a run resumes.
            steps: how many there will be; None where that is not known.
            saved: a checkpoint holds this step.
        """
        now, (then, last) = time.monotonic(), self._stepped
        if saved:
            self._stepped = (now, step)
            self.write({"step": step, "steps": steps, "saved": True})
        elif step != last and (now - then >= STEP_SECONDS or step < last or (steps is not None and step >= steps)):
            self._stepped = (now, step)
            self.write({"step": step, "steps": steps})

    def _discover(self, note: Callable[[str, str], None], probing: Callable[[str, str], None]) -> Iterator[Sensor]:
        from greenml import sensors

        wanted = Wanted(gpus=self._settings.gpus, pids=self._run_pids)
        yield from sensors.discover(wanted, note, probing)

    def _afterwards(self) -> None:
        """Collect the environment and the place in the background, and load what ending the run will need."""
        findings: dict[str, Any] = {"environment": environment.environment(self._folder)}
        if self._settings.region == "auto":
            findings["place"] = environment.ask(environment.cloud(), self.note)
        self.place = findings.get("place") or {}
        self.write({"facts": findings})

    def _run_pids(self) -> Iterable[int]:
        """Return the ids of the run's processes in this container, from the headers of their traces."""
        when, change, pids = self._pids
        if time.monotonic() - when > PIDS_SECONDS:
            now, last = time.monotonic(), change
            with contextlib.suppress(OSError):
                change = self._membership.run_dir.stat().st_mtime_ns  # when a trace came, or went
                if change != last:
                    pids = membership.process_ids(self._membership.run_dir, self._job)
            is_settled = (
                time.time_ns() - change >= SETTLED_NANOSECONDS
            )  # else another may come at the clock's same tick
            self._pids = (now, change if is_settled else 0, pids)
        return pids

    def _write_samples(self, now: float, rollups: dict[Device, Rollup], edge: bool) -> None:
        declared: dict[str, Rollup] = {}
        for device, rollup in rollups.items():
            key = self._keys.get(device)
            if key is None:
                key = str(len(self._keys))
                if not self.write(device_line(key, device)):
                    continue  # again next time: without it no sample can be read
                self._keys[device] = key
            declared[key] = rollup
        self.write(sample_line(now, declared, edge=edge))

    def _tick(self) -> None:
        before, self._size_bytes = self._size_bytes, self._writer.size_bytes
        if self._size_bytes == before:  # other machines take this process for dead when its trace has not changed
            with contextlib.suppress(OSError):
                os.utime(self._writer.path)
        if self._size_bytes > LIMIT_BYTES:
            if self._compactor is None:
                from greenml.run.compaction import Compactor

                self._compactor = Compactor(self._writer, self.note, LIMIT_BYTES)
            self._compactor.check()

    def claim(self, name: str) -> bool:
        """Take what one process of the run on this machine does for all; True where this process has it now."""
        return self._claims.take(name)

    def note(self, code: str, text: str) -> None:
        """Keep a sentence for the record."""
        self.write({"note": code, "text": text})
