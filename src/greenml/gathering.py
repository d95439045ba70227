"""Rank 0 fetches the traces of nodes that do not see its run directory, while torch.distributed is there.

Nothing here is a collective operation of the process group: those wait for a rank that died, and need its backend
and device. Ranks talk through the group's key-value store, over a connection of their own, in a thread that is given
up on when the time is over: a gather can end without an answer, it cannot hold training up.

Words: rank 0 says ``hello`` with a token that lies in its run directory. Who sees that file shares the folder. Of
those who do not, one rank a folder sends: it compares clocks with rank 0, as NTP does, then sends what lies there.
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

from greenml import job, merging, trace
from greenml.errors import RecordError
from greenml.merging import NOT_GATHERED, PART_OF_RUN
from greenml.trace_lines import Line

log = logging.getLogger("greenml")
ROUNDS = 10  # of comparing clocks; the fastest counts
SETTLE_SECONDS = 0.3  # for the readings that were asked for when the gather began
GRACE_SECONDS = 2.0  # beyond the timeout, for the thread to end by itself
POLL_SECONDS = 0.005
CHUNK_BYTES = 1 << 20  # the store refuses values of more than 8 MiB

_numbers = itertools.count()
_lost: set[int] = set()  # ranks that did not answer once are not waited for again


@dataclass(slots=True)
class Gathered:
    """What came of a gather.

    Attributes:
        rank: of this process; 0 makes the record.
        lines: notes for this process's trace.
    """

    rank: int = 0
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer: sent and received by one's own clock, in between by the other's."""

    sent_seconds: float
    heard_seconds: float
    answered_seconds: float
    received_seconds: float

    @property
    def travel_seconds(self) -> float:
        """How long the words were on their way, there and back."""
        return (self.received_seconds - self.sent_seconds) - (self.answered_seconds - self.heard_seconds)

    @property
    def ahead_seconds(self) -> float:
        """How far the other's clock is ahead of one's own; wrong by half of ``travel_seconds`` at the most."""
        there = self.heard_seconds - self.sent_seconds
        return (there + self.answered_seconds - self.received_seconds) / 2


def ahead_seconds(exchanges: Sequence[Exchange]) -> float:
    """Return how far the other's clock is ahead, by the exchange that was the least on its way."""
    return min(exchanges, key=lambda one: one.travel_seconds).ahead_seconds


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
        talk = _Talk(distributed, done, world_size, run_dir, timeout_seconds)
        thread = threading.Thread(target=talk.run, name="greenml-gather", daemon=True)
        thread.start()
        thread.join(timeout_seconds + GRACE_SECONDS)
        talk.over = True
        if thread.is_alive():
            talk.tell(f"the store of torch.distributed did not answer for {timeout_seconds:g} s")
    except Exception as error:  # noqa: BLE001  the training is worth more than its figures
        done.lines.append(_missing(f"{type(error).__name__}: {error}", []))
    return Gathered(done.rank, list(done.lines))


def _missing(why: str, ranks: Sequence[int]) -> Line:
    text = f"traces of other nodes were not gathered: {why.splitlines()[0]}; 'greenml merge' joins them by hand"
    return {"note": NOT_GATHERED, "text": text, "ranks": list(ranks)}


class _Talk:
    """One gather, as one rank takes part in it."""

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
        self._me, self._own = job.current(), _own_header(run_dir)
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
            self.tell(f"{type(error).__name__}: {error}")

    def tell(self, why: str, ranks: Sequence[int] = ()) -> None:
        """Keep what is missing, for the record, and do not wait for those ranks, or for anyone, again."""
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
        headers = [_header(path) for path in trace.paths(self._run_dir)]
        here = {one.get("rank") for one in headers if one.get("attempt") == self._own.get("attempt")}
        silent = sorted(waited - here)
        if silent:
            names = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
            self.tell(f"{names} did not answer within {self._timeout:g} s", silent)
        _lost.update(waited)

    def _hear(self, rank: int) -> None:
        report = self._take(f"report/{rank}")
        if not report["sends"]:
            return
        try:
            self._fetch(rank)
        except Exception as error:  # noqa: BLE001  the other ranks are still to be heard
            self.tell(f"rank {rank} on {report['host']}: {type(error).__name__}: {error}", [rank])

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
        anchor = trace.anchor(self._own) + sent["ahead_seconds"]
        clock = str(sent["from"]["host"]), str(sent["from"]["boot_id"])
        attempts = int(sent["from"]["attempt"]), int(self._own["attempt"])
        left_out = self._keep(content, attempts, {clock: anchor})
        if left_out:
            text = f"{left_out} on {clock[0]} are of attempts of which nothing is here"
            self._done.lines.append(_missing(text, []))
        self._put(f"kept/{rank}", {"host": self._me.host})
        self._get(f"bye/{rank}", most_seconds=1.0)  # the store may live in this process, which may end now

    def _keep(self, content: Any, attempts: tuple[int, int], anchors: dict[merging.Clock, float]) -> int:  # noqa: ANN401
        with tempfile.TemporaryDirectory(prefix="greenml-gather-") as name:
            for own_name, text in content["files"].items():
                (Path(name) / Path(own_name).name).write_text(text, encoding="utf-8")
            if self.over:
                raise TimeoutError("its traces came too late")
            return merging.add(self._run_dir, Path(name), attempts=attempts, anchors=anchors, alive=content["alive"])

    # The others.

    def _answer(self) -> None:
        rank = self._done.rank
        hello = json.loads(self._get("hello", most_seconds=self._deadline - time.monotonic()))
        if "over" in hello:
            raise TimeoutError("rank 0 had stopped waiting")
        shares = (self._run_dir / Path(hello["token"]).name).exists()
        whose = f"{self._own.get('run_id')}/{self._me.host}"
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
        paths = trace.paths(self._run_dir)
        files = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths}
        alive = [path.name for path in paths if trace.is_alive(path, str(_header(path).get("host", "")))]
        content = zlib.compress(json.dumps({"files": files, "alive": alive}).encode(), 6)
        chunks = [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            self._store.set(f"chunk/{rank}/{number}", chunk)
        mine = {name: self._own.get(name) for name in ("host", "boot_id", "attempt")}
        self._put(f"sent/{rank}", {"chunks": len(chunks), "ahead_seconds": ahead, "from": mine})

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
        return trace.read_header(path)
    except RecordError:
        return {}


def _own_header(run_dir: Path) -> Line:
    """Return the header of this process's trace.

    Raises:
        RecordError: it is not there.
    """
    me = job.current()
    headers = [one for path in trace.paths(run_dir) if (one := _header(path)).get("boot_id") == me.boot_id]
    mine = [one for one in headers if one.get("pid") == os.getpid() and one.get("host") == me.host]
    if not mine:
        raise RecordError(f"{run_dir}: no trace of this process")
    return max(mine, key=lambda one: (one.get("attempt", 1), one["unix_seconds"]))
