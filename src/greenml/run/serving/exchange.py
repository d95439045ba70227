"""Exchange among the workers of a server on one machine: requests one way, results and totals the other.

Devices are read once for all workers, so that their energy must be shared among the requests of all. The workers meet
in an SQLite file in the machine's temporary folder. Only a background thread of each worker touches it, never a
request. A worker that is killed leaves nothing half written.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from greenml.run.serving.ledger import Attributed, Ended, InFlight, Settled, Totals

BUSY_SECONDS = 2.0  # how long a write waits for another worker's
LEFT_SECONDS = 86_400.0  # a file that nobody has written to for so long is one of a server that was killed
_TABLES = """
CREATE TABLE IF NOT EXISTS worker (name TEXT PRIMARY KEY, heard REAL, until REAL, open TEXT);
CREATE TABLE IF NOT EXISTS ended (id INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT, body TEXT, last REAL, counted INT);
CREATE TABLE IF NOT EXISTS settled (worker TEXT, body TEXT);
CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, totals TEXT, live TEXT);
"""


class Exchange:
    """One worker's side of it. For one thread.

    Every method may raise ``sqlite3.Error`` or OSError: the disk is full, or the file is gone.

    Args:
        path: of the file.
        worker: the name of this worker.
    """

    def __init__(self, path: Path, worker: str) -> None:
        self._path, self._worker = path, worker
        self._taken = 0  # up to which of the requests that ended this worker has taken them in
        self._connection: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        while self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # A power cut may lose the file: it holds nothing that outlives the machine's boot.
            connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLES}")
            connection.execute("INSERT OR IGNORE INTO worker VALUES (?, 0, 0, '{}')", (self._worker,))
            if self._path.exists():  # else the last of the other workers has just removed it
                self._connection = connection
            else:
                connection.close()
        return self._connection

    def _sweep(self) -> None:
        """Remove the files of servers that were killed long ago."""
        files_of: dict[str, list[Path]] = {}  # by server: the database, and what SQLite writes beside it
        for path in self._path.parent.glob("*.db*"):
            files_of.setdefault(path.name.partition(".db")[0], []).append(path)
        for paths in files_of.values():
            with contextlib.suppress(OSError):
                if time.time() - max(path.stat().st_mtime for path in paths) > LEFT_SECONDS:
                    for path in paths:
                        path.unlink()

    def publish(
        self, heard_seconds: float, until_seconds: float, ended: Sequence[Ended], in_flight: Mapping[int, InFlight]
    ) -> None:
        """Say what this worker's requests are."""
        flying = json.dumps({number: _plain(request) for number, request in in_flight.items()})
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if ended:
                body = json.dumps([_plain(request) for request in ended])
                connection.execute(
                    "INSERT INTO ended (worker, body, last, counted) VALUES (?, ?, ?, 0)",
                    (self._worker, body, max(request.pieces[-1][1] for request in ended)),
                )
            row = (self._worker, heard_seconds, until_seconds, flying)
            connection.execute("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?)", row)

    def take_requests(self) -> Iterator[tuple[str, float, float, list[Ended], dict[int, InFlight]]]:
        """Take what the other workers said since: name, when it was heard, up to when it spoke, and its requests.

        The requests stay in the file until they are settled: for who settles after this worker.
        """
        taken = self._taken
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            ended: dict[str, list[Ended]] = {}
            news = "SELECT id, worker, body, counted FROM ended WHERE id > ? ORDER BY id"
            for taken, worker, body, counted in connection.execute(news, (self._taken,)):  # noqa: B007
                requests = [_ended(values | {"counted": bool(counted)}) for values in json.loads(body)]
                ended.setdefault(worker, []).extend(requests)
            query = "SELECT name, heard, until, open FROM worker WHERE name != ? AND heard > 0"
            rows = connection.execute(query, (self._worker,)).fetchall()
        self._taken = taken
        for name, heard, until, flying in rows:
            open_requests = {int(number): InFlight(**values) for number, values in json.loads(flying).items()}
            yield name, heard, until, ended.pop(name, []), open_requests
        for name, left in ended.items():  # of workers that have left, and of this one before it settled
            yield name, 0.0, 0.0, left, {}

    def forget(self, worker: str) -> None:
        """Remove what is there of a worker that is gone."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, column in (("worker", "name"), ("settled", "worker")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (worker,))  # noqa: S608  names of ours

    def give(self, settled: Mapping[str, Sequence[Settled]], totals: Totals, live: Mapping[str, Any]) -> None:
        """Give the workers their results, and everybody the totals and the figures of now."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for worker, results in settled.items():
                body = json.dumps([[item.key[1], asdict(item.attributed), item.by_tokens_ratio] for item in results])
                connection.execute("INSERT INTO settled VALUES (?, ?)", (worker, body))
            settled_until = totals.until_seconds if totals.until_seconds is not None else -math.inf
            connection.execute("DELETE FROM ended WHERE id <= ? AND last <= ?", (self._taken, settled_until))
            connection.execute("UPDATE ended SET counted = 1 WHERE id <= ?", (self._taken,))
            state = (json.dumps(totals.as_json()), json.dumps(live))
            connection.execute("INSERT OR REPLACE INTO state VALUES (0, ?, ?)", state)

    def give_live(self, live: Mapping[str, Any]) -> None:
        """Give everybody the figures of now alone."""
        self._open().execute("UPDATE state SET live = ?", (json.dumps(live),))

    def take_results(self) -> list[Settled]:
        """Take the results of this worker's requests."""
        connection = self._open()
        rows = connection.execute("SELECT rowid, body FROM settled WHERE worker = ?", (self._worker,)).fetchall()
        if rows:
            connection.execute("DELETE FROM settled WHERE worker = ? AND rowid <= ?", (self._worker, rows[-1][0]))
        return [
            Settled((self._worker, number), Attributed(**attributed), ratio)
            for _, body in rows
            for number, attributed, ratio in json.loads(body)
        ]

    def state(self) -> tuple[Totals, dict[str, Any]] | None:
        """Return the totals and figures that were given last; None before any."""
        row = self._open().execute("SELECT totals, live FROM state").fetchone()
        return None if row is None else (Totals.of_json(json.loads(row[0])), json.loads(row[1]))

    def close(self) -> None:
        """Let go of the file; the last worker removes it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM worker WHERE name = ?", (self._worker,))
        if connection.execute("SELECT COUNT(*) FROM worker").fetchone()[0] == 0:
            for ending in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        connection.execute("COMMIT")
        connection.close()


def _plain(request: Ended | InFlight) -> dict[str, Any]:
    return asdict(request)


def _ended(values: Mapping[str, Any]) -> Ended:
    key = values["key"]
    return Ended(**{**values, "key": (str(key[0]), int(key[1]))})
