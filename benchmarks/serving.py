"""What the middleware adds to a request: an endpoint under uvicorn with and without it, under the same load.

    python benchmarks/serving.py
    python benchmarks/serving.py --workers 4 --rounds 9

Both servers run at the same time, and each round loads one after the other, in turns, so that whatever else the machine
does hits both alike. The load generator is hey (https://github.com/rakyll/hey), held to ``--rate`` requests a second.
Its clients send at the same moments: with one, requests come evenly; ``--clients 5`` sends bursts of five, of which
each waits for those before it, and for what is added to each of them.
A round's latency is the mean of its middle half. Figures are medians over the rounds; the difference is the median of
the rounds' differences.

A second table has the same with a driver that hangs: a simulated libnvidia-ml.so.1 whose calls never return.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))


@dataclass(frozen=True)
class Load:
    """What a load of requests found.

    Attributes:
        latencies_seconds: of the requests that were answered.
        per_second: how many were.
    """

    latencies_seconds: list[float]
    per_second: float

    def typical(self) -> float:
        """The mean of the middle half: hey tells a latency to 0.1 ms, so that the median of a round is no finer."""
        ordered = sorted(self.latencies_seconds)
        quarter = len(ordered) // 4
        return statistics.mean(ordered[quarter : len(ordered) - quarter])

    def at(self, ratio: float) -> float:
        """The latency that a share of the requests does not exceed."""
        ordered = sorted(self.latencies_seconds)
        return ordered[min(len(ordered) - 1, round(ratio * (len(ordered) - 1)))]


class Server:
    """The test's endpoint under uvicorn."""

    def __init__(self, folder: Path, workers: int, **environment: str) -> None:
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            self.port = opened.getsockname()[1]
        folder.mkdir()
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "serving_app:app", "--port", str(self.port), "--workers",
                 str(workers), "--no-access-log"],
                cwd=TESTS / "integrations", stdout=log, stderr=log,
                env=os.environ | {"GREENML_TEST_OUTPUT": str(folder / "serving.json")} | environment,
            )  # fmt: skip
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def load(self, hey: str, seconds: float, rate: float, clients: int) -> Load:
        """Load it, and return what the load generator found."""
        done = subprocess.run(
            [hey, "-z", f"{seconds:g}s", "-c", str(clients), "-q", f"{rate / clients:g}", "-o", "csv",
             f"http://127.0.0.1:{self.port}/items/7"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows = [row for row in csv.DictReader(io.StringIO(done.stdout)) if row["status-code"] == "200"]
        begins = [float(row["offset"]) for row in rows]
        return Load([float(row["response-time"]) for row in rows], len(rows) / max(begins))

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def compare(title: str, arguments: argparse.Namespace, folder: Path, hey: str, **environment: str) -> None:
    servers = {
        "without": Server(folder / f"{title}-without", arguments.workers, GREENML_TEST_PLAIN="1"),
        "with": Server(folder / f"{title}-with", arguments.workers, **environment),
    }
    rounds: list[dict[str, Load]] = []
    try:
        for server in servers.values():
            server.load(hey, 1.0, arguments.rate, arguments.clients)  # warm-up
        for number in range(arguments.rounds):
            order = list(servers) if number % 2 else list(servers)[::-1]
            rounds.append(
                {name: servers[name].load(hey, arguments.seconds, arguments.rate, arguments.clients) for name in order}
            )
    finally:
        for server in servers.values():
            server.stop()
    median = statistics.median
    print(f"\n{title}: {arguments.workers} worker(s), {arguments.rate:g} requests/s, {arguments.rounds} rounds")
    print(f"{'middleware':<12}{'middle us':>12}{'95 % us':>12}{'requests/s':>13}")
    for name in servers:
        figures = [(load[name].typical(), load[name].at(0.95), load[name].per_second) for load in rounds]
        p50, p95, rate = (median(column) for column in zip(*figures, strict=True))
        print(f"{name:<12}{p50 * 1e6:>12.0f}{p95 * 1e6:>12.0f}{rate:>13.1f}")
    added = median(load["with"].typical() - load["without"].typical() for load in rounds)
    ratio = median(load["with"].per_second / load["without"].per_second for load in rounds)
    print(f"added to a request: {added * 1e6:.0f} us; throughput: {ratio:.4f} of that without")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--clients", type=int, default=1, help="that send at the same moments")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round, for each server")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hanging", action="store_true", help="also with a driver whose calls never return")
    arguments = parser.parse_args()
    hey = shutil.which("hey")
    if hey is None:
        sys.exit("hey is not installed: apt-get install hey, or see https://github.com/rakyll/hey")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare("as it is", arguments, folder, hey)
        if arguments.hanging:
            from simulated import simnvml

            library = simnvml.build(folder)
            script = simnvml.Script(gpus=(simnvml.Gpu(),), faults=(simnvml.Hang("nvmlInit"),))
            environment = simnvml.environment(library, simnvml.write(script, folder / "script"))
            compare("a driver that hangs", arguments, folder, hey, **environment)


if __name__ == "__main__":
    main()
