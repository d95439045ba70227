"""What a sink costs a training's step: greenml alone, with each sink, and with sinks whose service hangs or refuses.

    pip install -e ".[mlflow,wandb,trackio,tensorboard,prometheus,opentelemetry]" torch
    python benchmarks/sinks.py

Each variant trains the same small network in a process of its own. All of them live at the same time, and one of them
trains at a time: greenml alone does a block of steps, then a variant, in an order that changes. A ratio is that of two
blocks that followed each other, each after a quarter more steps that are not counted; shown is the median, with its
95 % interval, so that 1 inside of it is "within noise".
The CPU of a step is that of all threads of the process, and depends less on what else the machine does. For the last
column nobody trains for a while: it is what a process uses then. Services are a local HTTP server that
takes everything, never answers, or answers 500. Sinks get their figures as often as they do for users.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CHILD = """
import json, sys, time
import torch
import greenml

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1))
optimizer = torch.optim.AdamW(model.parameters())

def steps(count):
    for _ in range(count):
        loss = model(torch.randn(64, 256)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

steps(50)
names = sys.argv[1:]
with greenml.track("run.json", sinks=names) as run, run.phase("train"):
    for line in sys.stdin:
        count = int(line)
        steps(count // 4)  # what the other processes left in the caches is not a sink's
        begun, cpu = time.perf_counter(), time.process_time()
        steps(count)
        now = time.process_time()
        print("=", json.dumps([time.perf_counter() - begun, now - cpu, now]), flush=True)
"""


class Service(http.server.ThreadingHTTPServer):
    """Takes everything that is sent to it, or never answers, or refuses all."""

    def __init__(self, how: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.how = how
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def sinks(self) -> list[str]:
        """Return the sinks that send to it."""
        address = f"http://127.0.0.1:{self.server_port}"
        return [f"mlflow:{address}", f"opentelemetry:{address}", f"prometheus:push={address}"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow, a receiver of OTLP and a Pushgateway do."""

    def do_POST(self) -> None:
        """Answer, or do not."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.how == "hang":
            time.sleep(3600)
        run = {"info": {"run_id": "a", "experiment_id": "0", "status": "RUNNING", "artifact_uri": "file:///tmp"}}
        answer = b"" if self.path == "/v1/metrics" else json.dumps({"run": run}).encode()
        self.send_response(500 if self.server.how == "500" else 200)
        self.send_header("content-type", "application/x-protobuf" if not answer else "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST  # noqa: N815  as the base class calls them

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Variant:
    """A training with sinks, in a process of its own."""

    def __init__(self, name: str, sinks: list[str], folder: Path) -> None:
        self.name, self.ratios, self.cpu_ratios = name, [], []
        path = folder / name.replace(" ", "-").replace(",", "")
        path.mkdir()
        environment = {
            "TRACKIO_DIR": str(path / "trackio"), "WANDB_MODE": "offline", "WANDB_SILENT": "true",
            "MLFLOW_RUN_ID": "a" if "mlflow" in " ".join(sinks) else "",
        }  # fmt: skip
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *sinks], cwd=path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, **environment},
        )  # fmt: skip

    def block(self, steps: int) -> tuple[float, float, float]:
        """Return seconds, CPU seconds, and CPU seconds since the process began."""
        self.child.stdin.write(f"{steps}\n")
        self.child.stdin.flush()
        while not (line := self.child.stdout.readline()).startswith("="):
            if not line:
                raise RuntimeError(f"{self.name} ended")
        return tuple(json.loads(line[1:]))


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % interval, by order statistics."""
    ordered, size = sorted(values), len(values)
    spread = int(0.98 * size**0.5 + 0.5)
    return statistics.median(ordered), ordered[max(0, size // 2 - spread)], ordered[min(size - 1, size // 2 + spread)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=40, help="of each variant")
    parser.add_argument("--steps", type=int, default=100, help="of a block")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds in which nobody trains")
    options = parser.parse_args()
    services = {how: Service(how) for how in ("takes", "hang", "500")}
    folder = Path(tempfile.mkdtemp(prefix="greenml-sinks-"))
    takes = services["takes"].sinks()
    variants = {
        "greenml alone, again": [], "tensorboard": ["tensorboard:logs"], "prometheus file": ["prometheus:a.prom"],
        "pushgateway": takes[2:], "opentelemetry": takes[1:2], "mlflow": takes[:1], "trackio": ["trackio"],
        "wandb": ["wandb"], "three services, hang": services["hang"].sinks(),
        "three services, 500": services["500"].sinks(),
    }  # fmt: skip
    alone = Variant("greenml alone", [], folder)
    others = [Variant(name, sinks, folder) for name, sinks in variants.items()]
    for variant in [alone, *others]:
        variant.block(options.steps)
    for _ in range(options.blocks):
        random.shuffle(others)
        for variant in others:
            pair = [alone, variant] if random.random() < 0.5 else [variant, alone]
            blocks = {each: each.block(options.steps) for each in pair}
            variant.ratios.append(blocks[variant][0] / blocks[alone][0])
            variant.cpu_ratios.append(blocks[variant][1] / blocks[alone][1])
    before = {variant: (time.monotonic(), variant.block(0)[2]) for variant in [alone, *others]}
    time.sleep(options.idle)
    print(f"{'':22} {'step, ratio':>25} {'CPU of a step, ratio':>25} {'idle CPU ms/s':>15}")
    for variant in sorted(others, key=lambda variant: list(variants).index(variant.name)):
        begun, cpu = before[variant]
        use = 1000 * (variant.block(0)[2] - cpu) / (time.monotonic() - begun)
        rows = map(interval, (variant.ratios, variant.cpu_ratios))
        shown = [f"{middle:.4f} ({low:.4f} to {high:.4f})" for middle, low, high in rows]
        print(f"{variant.name:22} {shown[0]:>25} {shown[1]:>25} {use:15.2f}")
    begun, cpu = before[alone]
    print(f"{alone.name:22} {1:>25} {1:>25} {1000 * (alone.block(0)[2] - cpu) / (time.monotonic() - begun):15.2f}")
    for variant in [alone, *others]:
        variant.child.stdin.close()
    for variant in [alone, *others]:
        variant.child.wait(600)


if __name__ == "__main__":
    main()
