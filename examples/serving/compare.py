"""Compare the engines: latency, energy, carbon and cost under load, beside the quality of their summaries.

Starts ``app.py`` with each engine in turn, lets ``greenml bench-serve`` put it under load, and scores its summaries of
the test split with ROUGE.

Usage: ``python compare.py summarizer --clients 1,4 --seconds 10 --output comparison``
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from greenml.analysis import serving_bench
from greenml.record.schema import Quantity
from greenml.reports import markdown

HERE = Path(__file__).resolve().parent
DIALOGUES = HERE.parent / "summarization" / "data" / "dialogues.jsonl"
ENGINES = ("pytorch", "onnx", "onnx-int8")
START_SECONDS = 180.0
ROUGE = ("rouge1", "rouge2", "rougeL")


def test_split(path: Path) -> list[dict[str, str]]:
    """Return the dialogues of the test split with their summaries."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if row.get("split", "test") == "test"]


@contextmanager
def served(folder: Path, engine: str, record: Path) -> Iterator[str]:
    """Serve an engine on a free port; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"SUMMARIZER": str(folder.resolve()), "ENGINE": engine, "GREENML_OUTPUT": str(record.resolve())}
    child = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"], cwd=HERE,
        env={**os.environ, **settings},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).read()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > end:
                    sys.exit(f"the server of {engine} did not start")
                time.sleep(0.2)
        yield url
    finally:
        child.terminate()
        child.wait(60)


def answer(url: str, dialogue: str) -> dict[str, Any]:
    """Ask for a summary."""
    body = json.dumps({"dialogue": dialogue}).encode()
    request = urllib.request.Request(f"{url}/summarize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def rouge(url: str, rows: list[dict[str, str]]) -> dict[str, Quantity]:
    """Score an engine's summaries, in percent; the interval is that of the mean over the dialogues."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)
    scores = [scorer.score(row["summary"], answer(url, row["dialogue"])["summary"]) for row in rows]
    made = {}
    for name in ROUGE:
        values = [100.0 * score[name].fmeasure for score in scores]
        low, high = serving_bench.interval_of_mean(values) if len(values) > 1 else (None, None)
        made[name] = Quantity(value=statistics.fmean(values), low=max(0.0, low or 0.0), high=high, basis="measured")
    return made


def bench(url: str, record: Path, body: str, given: argparse.Namespace) -> dict[str, Any]:
    """Put an engine under load, and return what greenml says."""
    words = [sys.executable, "-m", "greenml", "bench-serve", f"{url}/summarize", "--data", body, "--json"]
    words += ["--clients", given.clients, "--seconds", str(given.seconds), "--output", str(record), *given.more]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def rows_of(engine: str, document: dict[str, Any], quality: dict[str, Quantity]) -> list[list[str]]:
    """Return the cells of an engine's rows."""
    score = serving_bench.figure(quality["rougeL"], lambda value: f"{value:.1f}")
    return [[engine, *serving_bench.cells(serving_bench.of_json(load)), score] for load in document["loads"]]


def main() -> None:
    """Read the command line, measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="what export.py made")
    parser.add_argument("--engines", default=",".join(ENGINES), help="of them, with commas")
    parser.add_argument("--clients", default="1,4", help="how many ask at once, a load each (1,4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (10)")
    parser.add_argument("--dialogues", type=Path, default=DIALOGUES, help="rows with dialogue, summary and split")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="folder for records and the table")
    parser.add_argument("more", nargs="*", help="after --: more options for greenml bench-serve")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    rows, cells, results = test_split(given.dialogues), [], {}
    body = json.dumps({"dialogue": rows[0]["dialogue"]})
    for engine in given.engines.split(","):
        with served(given.folder, engine, given.output / f"serving-{engine}.json") as url:
            quality = rouge(url, rows)
            document = bench(url, given.output / f"bench-{engine}.json", body, given)
        cells += rows_of(engine, document, quality)
        results[engine] = document | {"rouge": {name: score.model_dump() for name, score in quality.items()}}
    headings = ("engine", *serving_bench.HEADINGS, f"ROUGE-L, {len(rows)} dialogues")
    notes = list(dict.fromkeys(note for document in results.values() for note in document["notes"]))
    table = f"{markdown.grid(headings, cells)}\n\n{markdown.bullets(notes)}\n"
    (given.output / "comparison.md").write_text(table, encoding="utf-8")
    (given.output / "comparison.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
