"""Draw docs/images/live.svg: the live view of a run that really goes on, on the eight simulated GPUs of the tests.

Run it in the repository's root: ``python docs/screenshot_live.py [images/live.svg]``. It takes a minute.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from greenml.cli._live import Watched  # noqa: E402
from greenml.cli._live_view import lines  # noqa: E402
from simulated import simnvml  # noqa: E402  the tests' own simulation of NVML
from simulated.simnvml import GIB, Gpu, Square  # noqa: E402

COLUMNS, LINES = 100, 27
SECONDS = 75.0
SHOWN_SECONDS = 50.0
TRAINING = """
import sys, time
import greenml

seconds, steps = float(sys.argv[2]), 5500
with greenml.track(sys.argv[1], name="t5-3b-samsum", sku="ND40rs_v2", region="westus2", tier="dedicated") as run:
    with run.phase("train"):
        began = time.monotonic()
        while (done := (time.monotonic() - began) / seconds) < 1:
            run.progress(int(done * steps), steps)
            time.sleep(0.05)
"""


def gpus() -> tuple[Gpu, ...]:
    """Return eight cards that train, each a little out of step; one of them waits a lot."""
    made = []
    for at in range(8):
        duty = 0.35 if at == 5 else 0.9
        wave = {"period_seconds": 4.0, "duty_ratio": duty, "shift_seconds": 0.2 * at}
        made.append(
            Gpu(
                power=Square(low=70.0, high=258.0 + 4 * (at * 3 % 8), **wave),
                utilization=Square(low=0.02, high=0.99 - 0.005 * at, **wave),
                memory_used=int((27.5 + 0.4 * (at * 5 % 8)) * GIB),
            )
        )
    return tuple(made)


def main() -> None:
    """Start the run, wait until there is something to see, and draw it."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "live.svg"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = simnvml.write(simnvml.Script(gpus=gpus()), folder / "script")
        child = subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(folder / "run.json"), str(SECONDS)],
            env=os.environ | simnvml.environment(simnvml.build(folder), script),
        )
        try:
            while not list((folder / "run.trace").glob("*.jsonl")):
                time.sleep(0.1)
            watched, end = Watched(folder / "run.trace", "q or Ctrl-C leaves; the run goes on"), time.monotonic()
            while time.monotonic() < end + SHOWN_SECONDS:  # as `greenml watch` does
                now = watched.now()
                time.sleep(0.5)
        finally:
            child.kill()
            child.wait()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for line in lines(now, watched.frame(), COLUMNS, LINES):
        console.print(line, soft_wrap=True)
    picture = console.export_svg(title="greenml watch", unique_id="live")
    picture = re.sub(r"\s*@font-face\s*\{[^}]*\}", "", picture)  # nothing is fetched: any monospaced font will do
    picture = picture.replace("Fira Code, monospace", "Menlo, Consolas, 'DejaVu Sans Mono', monospace")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")
    print(f"{output}: {output.stat().st_size:,} bytes")  # noqa: T201  what a script says


if __name__ == "__main__":
    main()
