"""Make the pictures of the report page in docs/images, from a run that is really tracked.

    python docs/screenshots.py

The run is a program with ``greenml.track`` on a host whose four GPUs are simulated: their power, utilization and
memory are a script, and everything behind the driver's library is the product. It takes about a minute. The browser
is the system's Chromium. The live view's picture: docs/screenshot_live.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MOST_BYTES = 300_000
GIB = 2**30

# What the program does, in seconds since the GPUs' clock began: phase, until, busy ratio of the GPUs.
PLAN = (
    ("setup", 9.0, 0.02), ("train", 21.0, 0.94), ("train/eval", 26.0, 0.45), ("train", 38.0, 0.95),
    ("train/eval", 43.0, 0.44), ("train", 53.0, 0.93), ("save", 57.0, 0.01),
)  # fmt: skip
BEGIN = 5.0  # the interpreter has started by then

PROGRAM = """
import json, sys, time
import greenml

origin, plan, begin = json.loads(sys.argv[1])

def until(seconds):
    time.sleep(max(0.0, origin + seconds - time.monotonic()))

until(begin)
with greenml.track("run.json", name="dialogue summarization", sku="NC96ads_A100_v4", region="westus2") as run:
    run.params(model="t5-large", learning_rate=3e-5, per_device_train_batch_size=8, epochs=3, fp16=True, seed=1)
    for number, (path, end, _) in enumerate(plan):
        outer, _, inner = path.partition("/")
        with run.phase(outer):
            if inner:
                with run.phase(inner):
                    until(end)
                run.log(eval_rouge1=47.1 + 0.6 * number, eval_loss=1.31 - 0.05 * number)
            else:
                until(end)
"""


def gpus() -> tuple[object, ...]:
    """Return four simulated GPUs that follow the plan, each a little differently."""
    from tests.simulated import simnvml

    made = []
    for number in range(4):
        edges = [(BEGIN, 0.02), *((end, 0.0) for _, end, _ in PLAN)]
        busy = [(start, ratio) for (start, _), (_, _, ratio) in zip(edges, PLAN, strict=False)]
        utilization, power, at = [(0.0, 0.0)], [(0.0, 52.0)], BEGIN
        for (start, ratio), (end, _) in zip(busy, edges[1:], strict=True):
            at = start
            while at < end:
                wave = ((at * 7.3 + number * 3.1) % 1.7) / 1.7  # no two seconds alike
                ratio_now = min(1.0, max(0.0, ratio * (1 - 0.02 * number) + (wave - 0.5) * 0.06 * (ratio > 0.1)))
                utilization.append((at, ratio_now))
                power.append((at, 52.0 + 240.0 * ratio_now))
                at += 1.0
        utilization.append((PLAN[-1][1], 0.0))
        power.append((PLAN[-1][1], 52.0))
        memory = simnvml.steps((0.0, 0.5 * GIB), (BEGIN + 1.5, 12 * GIB), (PLAN[0][1], 58 * GIB))
        made.append(
            replace(
                simnvml.A100, name="NVIDIA A100 80GB PCIe", memory_bytes=80 * GIB, limit_watts=300.0,
                limit_range_watts=(150.0, 300.0), power=_shapes(power), utilization=_shapes(utilization),
                memory_used=memory,
            )
        )  # fmt: skip
    return tuple(made)


def _shapes(points: list[tuple[float, float]]) -> tuple[object, ...]:
    from tests.simulated import simnvml

    return simnvml.steps(*points)


def track(folder: Path) -> Path:
    """Run the program on the simulated host; return its run.json."""
    import json

    from tests.simulated import simnvml

    if simnvml.compiler() is None:
        raise SystemExit(simnvml.NO_COMPILER)
    script = simnvml.Script(gpus=gpus())
    library = simnvml.build(folder)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}
    environment = plain | simnvml.environment(library, simnvml.write(script, folder / "script"))
    told = json.dumps([script.origin_monotonic_ns / 1e9, PLAN, BEGIN])
    subprocess.run([sys.executable, "-c", PROGRAM, told], cwd=folder, env=environment, check=True)
    return folder / "run.json"


def shoot(page: Path, image: Path, *, dark: bool) -> None:
    """Take the picture of a page's upper part."""
    from playwright.sync_api import sync_playwright

    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        raise SystemExit(f"no browser: looked for {', '.join(BROWSERS)}")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        tab = browser.new_context(
            offline=True, viewport={"width": 1200, "height": 1250}, color_scheme="dark" if dark else "light"
        ).new_page()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-charts=drawn]", state="attached")
        tab.screenshot(path=image)
        browser.close()
    size = image.stat().st_size
    print(f"{image.relative_to(ROOT)}: {size / 1000:.0f} kB")  # noqa: T201  a script that prints
    if size > MOST_BYTES:
        raise SystemExit(f"{image}: more than {MOST_BYTES / 1000:.0f} kB")


def main() -> None:
    """Make the pictures."""
    sys.path.insert(0, str(ROOT))
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="greenml-screenshots-") as name:
        folder = Path(name)
        record = track(folder)
        subprocess.run(
            [sys.executable, "-m", "greenml", "report", record, "--html", folder / "report.html"], check=True
        )
        shoot(folder / "report.html", IMAGES / "report.png", dark=False)
        shoot(folder / "report.html", IMAGES / "report-dark.png", dark=True)


if __name__ == "__main__":
    main()
