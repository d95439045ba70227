"""Copies traces to rank 0 from nodes that do not share its run directory, through torch.distributed's store.

No collective operation of the process group is used: those wait for a rank that died, and need its backend and device.
Ranks exchange messages through the group's key-value store, over a connection of their own, in a thread. When the
timeout is over, training goes on without the thread: a gather may end without an answer, it never holds training up.

The messages: rank 0 puts ``hello`` with the name of a file in its run directory. A rank that sees the file shares the
folder. Of the others, one rank for each folder compares clocks with rank 0, as NTP does, and sends the traces there.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.run import job, merge
from greenml.run.merge import NOT_GATHERED, PART_OF_RUN
from greenml.trace import file as trace_file
from greenml.trace.folder import trace_paths
from greenml.trace.lines import Line

log = logging.getLogger("greenml")
ROUNDS = 10  # of comparing clocks; the fastest counts
SETTLE_SECONDS = 0.3  # for the readings that were asked for when the gather began
GRACE_SECONDS = 2.0  # beyond the timeout, for the thread to end by itself
POLL_SECONDS = 0.005
CHUNK_BYTES = 1 << 20  # the store refuses values of more than 8 MiB

_numbers = itertools.count()
_lost: set[int] = set()  # ranks that did not answer once: they are not waited for again


@dataclass(slots=True)
class Gathered:
    """The result of a gather.

    Attributes:
        rank: of this process; 0 makes the record.
        lines: notes for this process's trace.
    """

    rank: int = 0
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer: the times of sending and receiving by this clock, those in between by the other's."""

    sent_seconds: float
    heard_seconds: float
    answered_seconds: float
    received_seconds: float

    @property
    def travel_seconds(self) -> float:
        """The time that both messages took."""
        return (self.received_seconds - self.sent_seconds) - (self.answered_seconds - self.heard_seconds)

    @property
    def ahead_seconds(self) -> float:
        """How far the other clock is ahead of this one; wrong by half of ``travel_seconds`` at the most."""
        there = self.heard_seconds - self.sent_seconds
        return (there + self.answered_seconds - self.received_seconds) / 2


def ahead_seconds(exchanges: Sequence[Exchange]) -> float:
    """Return how far the other clock is ahead, by the fastest exchange."""
    return min(exchanges, key=lambda exchange: exchange.travel_seconds).ahead_seconds


def gather(run_dir: Path, *, timeout_seconds: float = 30.0) -> Gathered:
    """Bring the traces of every node into rank 0's run directory. Every rank calls this, as often as the others.

    Where torch.distributed is not initialised, nothing happens; it is never imported from here. Never raises.

    Args:
        run_dir: of this process's run.
        timeout_seconds: returns after this, whoever has not answered; a note says what is missing.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    done = Gathered()
    try:
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return done
        done.rank, world_size = distributed.get_rank(), distributed.get_world_size()
        if world_size < 2:
            return done
        session = _Session(distributed, done, world_size, run_dir, timeout_seconds)
        thread = threading.Thread(target=session.run, name="greenml-gather", daemon=True)
        thread.start()
        thread.join(timeout_seconds + GRACE_SECONDS)
        session.over = True
        if thread.is_alive():
            session.miss(f"the store of torch.distributed did not answer for {timeout_seconds:g} s")
    except Exception as error:  # noqa: BLE001  the training is worth more than its figures
        done.lines.append(_missing(f"{type(error).__name__}: {error}", []))
    return Gathered(done.rank, list(done.lines))


def _missing(why: str, ranks: Sequence[int]) -> Line:
    text = f"traces of other nodes were not gathered: {why.splitlines()[0]}; 'greenml merge' joins them by hand"
    return {"note": NOT_GATHERED, "text": text, "ranks": list(ranks)}


class _Session:
    """One gather, on the side of one rank."""

    def __init__(
        self,
        distributed: Any,  # noqa: ANN401  torch is not imported here
        done: Gathered,
        world_size: int,
        run_dir: Path,
        timeout_seconds: float,
    ) -> None:
        self._distributed, self._done, self._run_dir = distributed, done, run_dir
        self._others = range(1, world_size) if done.rank == 0 else range(1)
        self._began, self._timeout = time.monotonic(), timeout_seconds
        self._deadline, self._patience = self._began + timeout_seconds, timeout_seconds / 3
        self._number = next(_numbers)
        self._me, self._own_header = job.current(), _own_header(run_dir)
        self._store: Any = None
        self.over = False

    def run(self) -> None:
        """Ask or answer, and never raise."""
        if _lost.issuperset(self._others):
            return
        try:
            self._store = self._open_store()
            if self._done.rank == 0:
                self._ask()
            else:
                self._answer()
        except Exception as error:  # noqa: BLE001  a store that is gone, a folder that is full
            self.miss(f"{type(error).__name__}: {error}")

    def miss(self, why: str, ranks: Sequence[int] = ()) -> None:
        """Note which traces are missing and why, and do not wait for those ranks (all, if none is given) again."""
        _lost.update(ranks or self._others)
        self._done.lines.append(_missing(why, ranks or self._others))

    def _open_store(self) -> Any:  # noqa: ANN401  torch is not imported here
        """Return the process group's store under names of our own, over a connection of its own where torch can."""
        store = self._distributed.distributed_c10d._get_default_store()  # no public name leads to it
        store.check(["greenml"])  # fails at once where the store is gone; another connection would be tried for long
        if hasattr(store, "clone"):
            store = store.clone()
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return self._distributed.PrefixStore(f"greenml/{restarts}/{self._number}", store)

    # Rank 0.

    def _ask(self) -> None:
        token = self._run_dir / f".gather-{secrets.token_hex(16)}"
        token.write_bytes(b"")
        try:
            self._put("hello", {"token": token.name, "host": self._me.host})
            waited = set(self._others) - _lost
            while waited and not self._late():
                heard = {rank for rank in waited if self._store.check([f"report/{rank}"])}
                for rank in sorted(heard):
                    self._hear(rank)
                waited -= heard
                if not heard:
                    time.sleep(POLL_SECONDS)
        finally:
            token.unlink(missing_ok=True)
            self._put("hello", {"over": True})  # whoever comes later need not wait
        headers = [_header(path) for path in trace_paths(self._run_dir)]
        here = {header.get("rank") for header in headers if header.get("attempt") == self._own_header.get("attempt")}
        silent = sorted(waited - here)
        if silent:
            names = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
            self.miss(f"{names} did not answer within {self._timeout:g} s", silent)
        _lost.update(waited)

    def _hear(self, rank: int) -> None:
        report = self._take(f"report/{rank}")
        if not report["sends"]:
            return
        try:
            self._fetch(rank)
        except Exception as error:  # noqa: BLE001  the other ranks are still to be heard
            self.miss(f"rank {rank} on {report['host']}: {type(error).__name__}: {error}", [rank])

    def _fetch(self, rank: int) -> None:
        self._put(f"go/{rank}", {})
        for number in range(ROUNDS):
            self._wait(f"ping/{rank}/{number}")
            heard = time.monotonic()
            self._put(f"pong/{rank}/{number}", [heard, time.monotonic()])
        sent = self._take(f"sent/{rank}")
        chunks = []
        for number in range(sent["chunks"]):
            chunks.append(self._get(f"chunk/{rank}/{number}"))
            self._store.delete_key(f"chunk/{rank}/{number}")
        content = json.loads(zlib.decompress(b"".join(chunks)))
        anchor = trace_file.anchor(self._own_header) + sent["ahead_seconds"]
        machine = trace_file.machine(sent["from"])
        attempts = int(sent["from"]["attempt"]), int(self._own_header["attempt"])
        left_out = self._keep(content, attempts, {machine: anchor})
        if left_out:
            text = f"{left_out} on {sent['from']['host']} are of attempts that rank 0 has no trace of"
            self._done.lines.append(_missing(text, []))
        self._put(f"kept/{rank}", {"host": self._me.host})
        self._get(f"bye/{rank}", most_seconds=1.0)  # the store may live in this process, which may end now

    def _keep(self, content: Any, attempts: tuple[int, int], anchors: dict[merge.Machine, float]) -> int:  # noqa: ANN401
        with tempfile.TemporaryDirectory(prefix="greenml-gather-") as name:
            for file_name, text in content["files"].items():
                (Path(name) / Path(file_name).name).write_text(text, encoding="utf-8")
            if self.over:
                raise TimeoutError("its traces came too late")
            return merge.add(self._run_dir, Path(name), attempts=attempts, anchors=anchors, alive=content["alive"])

    # The others.

    def _answer(self) -> None:
        rank = self._done.rank
        hello = json.loads(self._get("hello", most_seconds=self._deadline - time.monotonic()))
        if "over" in hello:
            raise TimeoutError("rank 0 had stopped waiting")
        shares = (self._run_dir / Path(hello["token"]).name).exists()
        whose = f"{self._own_header.get('run_id')}/{self._me.host}"
        sends = not shares and self._store.add(f"lead/{whose}", 1) == 1
        self._put(f"report/{rank}", {"sends": sends, "host": self._me.host})
        if not sends:
            return
        self._get(f"go/{rank}", most_seconds=self._deadline - time.monotonic())
        exchanges = []
        for number in range(ROUNDS):
            sent = time.monotonic()
            self._put(f"ping/{rank}/{number}", {})
            self._wait(f"pong/{rank}/{number}")
            received = time.monotonic()
            heard, answered = self._take(f"pong/{rank}/{number}")
            exchanges.append(Exchange(sent, heard, answered, received))
        time.sleep(max(0.0, self._began + SETTLE_SECONDS - time.monotonic()))
        self._send(rank, ahead_seconds(exchanges))
        self._get(f"kept/{rank}", most_seconds=self._deadline - time.monotonic())
        self._put(f"bye/{rank}", {})
        text = f"this is the part of {self._me.host}; the record of the whole run is on {hello['host']}"
        self._done.lines.append({"note": PART_OF_RUN, "text": text})

    def _send(self, rank: int, ahead: float) -> None:
        paths = trace_paths(self._run_dir)
        files = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths}
        alive = [path.name for path in paths if trace_file.is_alive(path, _header(path))]
        content = zlib.compress(json.dumps({"files": files, "alive": alive}).encode(), 6)
        chunks = [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            self._store.set(f"chunk/{rank}/{number}", chunk)
        sender = {name: self._own_header.get(name) for name in ("host", "boot_id", "attempt")}
        self._put(f"sent/{rank}", {"chunks": len(chunks), "ahead_seconds": ahead, "from": sender})

    # The store.

    def _late(self) -> bool:
        return self.over or time.monotonic() >= self._deadline

    def _left(self) -> float:
        """Return how long to wait for a rank that has begun to answer."""
        return min(self._patience, max(0.5, self._deadline - time.monotonic()))

    def _put(self, name: str, content: Any) -> None:  # noqa: ANN401  JSON
        self._store.set(name, json.dumps(content))

    def _get(self, name: str, *, most_seconds: float | None = None) -> bytes:
        """Return a value when it is there; torch writes to stderr when its own wait is in vain, so this one asks."""
        until = time.monotonic() + (self._left() if most_seconds is None else most_seconds)
        while not self._store.check([name]):
            if self.over or time.monotonic() >= until:
                raise TimeoutError(f"no answer ({name.partition('/')[0]})")
            time.sleep(POLL_SECONDS)
        return bytes(self._store.get(name))

    def _take(self, name: str) -> Any:  # noqa: ANN401  JSON
        content = json.loads(self._get(name))
        self._store.delete_key(name)
        return content

    def _wait(self, name: str) -> None:
        """Wait for a value without asking again and again, which would take from the time that is measured."""
        self._store.wait([name], timedelta(seconds=self._left()))


def _header(path: Path) -> Line:
    try:
        return trace_file.read_header(path)
    except RecordError:
        return {}


def _own_header(run_dir: Path) -> Line:
    """Return the header of this process's trace.

    Raises:
        RecordError: it is not there.
    """
    me = job.current()
    here = (me.pid, me.host, me.boot_id, me.pid_namespace)
    headers = [_header(path) for path in trace_paths(run_dir)]
    headers = [
        header for header in headers
        if (header.get("pid"), header.get("host"), header.get("boot_id"), header.get("pid_namespace") or "") == here
    ]  # fmt: skip
    if not headers:
        raise RecordError(f"{run_dir}: no trace of this process")
    return max(headers, key=lambda header: (header.get("attempt", 1), header["unix_seconds"]))
