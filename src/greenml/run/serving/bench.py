"""A benchmark of an endpoint on this machine: load, and the energy of the devices while it lasts.

Each stage of the load is a phase of the run. Within it, the phase ``requests`` is the time with a request in flight:
what the devices use outside of it is idle energy, and belongs to no request. Warm-up is in no phase.

The load comes from generators that are there already: hey for many clients at once, curl for a sequence. What is ours
is their command lines and the reading of what they print.
"""

from __future__ import annotations

import csv
import http.client
import io
import json
import math
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from greenml.energy.usage import union
from greenml.errors import GreenMLError, SettingsError
from greenml.redaction import redact_text
from greenml.run.serving import metrics_page
from greenml.run.serving.metrics_page import login, shown, without_login
from greenml.run.track import Run

BUSY = "requests"  # the phase within a stage's with a request in flight
SAME_SECONDS = 0.002  # hey writes times to 0.1 ms; a client needs some time between two requests
MOST_SPANS = 5000
WARM_UP = 2  # requests of each client
PROBE_SECONDS = 60.0
QUOTED_LETTERS = 120
MOST_ANSWERS = 1_000_000  # that hey keeps of a load
INSTALL = {"hey": "apt-get install hey (Debian, Ubuntu), brew install hey", "curl": "apt-get install curl"}
# What the two names of a count of tokens are called in an answer's ``usage``: OpenAI's chat and responses interfaces.
USAGE = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))


class LoadError(GreenMLError):
    """An endpoint could not be put under load."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and what is sent.

    Attributes:
        body: of the request; None for GET without one.
        headers: beside the content type.
        timeout_seconds: of each request.
    """

    url: str
    method: str = "GET"
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: when its request began (monotonic seconds), how long it took, HTTP's status, its tokens."""

    start_seconds: float
    latency_seconds: float
    status: int
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def is_good(self) -> bool:
        """Tell whether the request was served."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Stage:
    """One load, and what came of it.

    Attributes:
        path: of its phase.
        concurrency: clients at once.
        answers: in the order in which they began, those that failed with them.
        unanswered: requests that got no answer at all.
        input_tokens, output_tokens: of all that were served; None where not known.
        tokens_from: how they are known.
    """

    path: str
    concurrency: int
    answers: Sequence[Answer] = field(repr=False)
    unanswered: int = 0
    input_tokens: float | None = None
    output_tokens: float | None = None
    tokens_from: str = ""

    @property
    def served(self) -> list[Answer]:
        """Return the answers to requests that were served."""
        return [answer for answer in self.answers if answer.is_good]


def run_stages(
    run: Run,
    endpoint: Endpoint,
    concurrencies: Sequence[int],
    *,
    requests: int | None = None,
    seconds: float | None = None,
    metrics_url: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> list[Stage]:
    """Put an endpoint under load with each number of clients in turn.

    Args:
        run: that measures, started.
        endpoint: on this machine.
        concurrencies: clients at once, one stage each.
        requests: of each stage, rounded up to as many from each client; or
        seconds: of each stage.
        metrics_url: the server's metrics page, whose counters tell the tokens; else one answer's ``usage`` does.
        tell: takes a line about each stage.

    Raises:
        LoadError: the endpoint does not serve.
        PageError: the metrics page cannot be read.
        SettingsError: hey is not installed.
    """
    load_generator("hey")
    each = probe(endpoint)
    stages = []
    for concurrency in concurrencies:
        tell(f"{concurrency} client{'s'[: concurrency != 1]}: warm-up, then load")
        hey(endpoint, concurrency, requests=WARM_UP * concurrency)
        before = metrics_page.read(metrics_url) if metrics_url else None
        run.read_devices()
        answers = hey(endpoint, concurrency, requests=requests, seconds=seconds)
        run.read_devices()
        stage = Stage(f"clients-{concurrency}", concurrency, answers)
        if requests is not None:
            stage = replace(stage, unanswered=hey_requests(requests, concurrency) - len(answers))
        if not stage.served:
            raise LoadError(
                f"no request of {concurrency} clients was served; the first answer was HTTP {answers[0].status}"
            )
        if before is not None:
            counts = metrics_page.read(metrics_url).since(before)
            tokens = (counts.input_tokens, counts.output_tokens, f"{before.server.name}'s metrics page")
        else:
            many = len(stage.served)
            tokens = (
                None if each[0] is None else each[0] * many, None if each[1] is None else each[1] * many,
                "the usage of one answer, times the requests",
            )  # fmt: skip
        stages.append(replace(stage, input_tokens=tokens[0], output_tokens=tokens[1], tokens_from=tokens[2]))
        mark(run, stages[-1])
    return stages


def run_sequence(
    run: Run, endpoint: Endpoint, bodies: Sequence[bytes], repeats: int, tell: Callable[[str], None] = lambda _: None
) -> list[Stage]:
    """Send all bodies one after the other, several times over.

    Raises:
        LoadError: the endpoint does not serve.
        SettingsError: curl is not installed.
    """
    probe(replace(endpoint, method="POST", body=bodies[0]))
    sequence(endpoint, bodies[: max(1, len(bodies) // 100)])
    stages = []
    for number in range(1, repeats + 1):
        tell(f"repeat {number} of {repeats}: {len(bodies)} requests")
        run.read_devices()
        answers = sequence(endpoint, bodies)
        run.read_devices()
        stage = Stage(f"repeat-{number}", 1, answers, len(bodies) - len(answers))
        if not stage.served:
            raise LoadError(f"no request was served; the first answer was HTTP {answers[0].status}")
        counts = [[getattr(answer, name) for answer in stage.served] for name in ("input_tokens", "output_tokens")]
        known = [None if None in values else sum(values) for values in counts]
        stages.append(replace(stage, input_tokens=known[0], output_tokens=known[1], tokens_from="each answer's usage"))
        mark(run, stages[-1])
    return stages


def mark(run: Run, stage: Stage) -> None:
    """Make a stage a phase of the run, with the time in which a request was in flight within it."""
    spans = busy(stage.answers)
    number = run.begin_phase(stage.path, spans[0][0])
    for start, end in spans:
        run.end_phase(run.begin_phase(BUSY, start), end)
    run.end_phase(number, spans[-1][1])


def busy(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return the spans with a request in flight; gaps too short to be seen are left out.

    Of a load with very many gaps, the shortest of them count as busy.
    """
    spans = union((answer.start_seconds, answer.start_seconds + answer.latency_seconds) for answer in answers)
    gaps = sorted((after[0] - before[1] for before, after in pairwise(spans)), reverse=True)
    least = max([SAME_SECONDS, *gaps[MOST_SPANS - 1 : MOST_SPANS]])
    joined = [spans[0]]
    for start, end in spans[1:]:
        if start - joined[-1][1] <= least:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def load_generator(name: str) -> str:
    """Return the path of a load generator.

    Raises:
        SettingsError: it is not installed; says how to get it.
    """
    path = shutil.which(name)
    if path is None:
        raise SettingsError(f"the load generator {name} is not installed: {INSTALL[name]}")
    return path


def probe(endpoint: Endpoint) -> tuple[int | None, int | None]:
    """Send one request, and return the input and output tokens that its answer's ``usage`` tells.

    Raises:
        LoadError: it is not served; says what the endpoint answered.
    """
    headers = {"User-Agent": "greenml", **login(endpoint.url), **endpoint.headers}
    if endpoint.body is not None:
        headers["Content-Type"] = endpoint.content_type
    request = urllib.request.Request(without_login(endpoint.url), endpoint.body, headers, method=endpoint.method)  # noqa: S310  checked
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=min(endpoint.timeout_seconds, PROBE_SECONDS)) as answer:
            return tokens_of(answer.read())
    except urllib.error.HTTPError as error:
        words = " ".join(redact_text(error.read(4096).decode(errors="replace")).split())[:QUOTED_LETTERS]
        raise LoadError(f"{shown(endpoint.url)}: HTTP {error.code}{': ' + words if words else ''}") from None
    except http.client.HTTPException as error:
        raise LoadError(f"{shown(endpoint.url)}: its answer is not whole HTTP ({type(error).__name__})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise LoadError(f"{shown(endpoint.url)}: it does not answer ({words.lower()})") from None


def tokens_of(body: bytes) -> tuple[int | None, int | None]:
    """Return the input and output tokens of an answer, where it is JSON with ``usage``."""
    try:
        usage: Any = json.loads(body)["usage"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None
    counts = [next((usage[name] for name in names if _is_count(usage, name)), None) for names in USAGE]
    return counts[0], counts[1]


def _is_count(usage: object, name: str) -> bool:
    value = usage.get(name) if isinstance(usage, dict) else None
    return type(value) is int and value >= 0


def hey_requests(requests: int, concurrency: int) -> int:
    """Return how many requests hey sends: as many from each client, at least as many as are asked for."""
    return math.ceil(requests / concurrency) * concurrency


def hey(
    endpoint: Endpoint, concurrency: int, *, requests: int | None = None, seconds: float | None = None
) -> list[Answer]:
    """Ask with as many clients at once; each sends its next request when the last was answered.

    Args:
        endpoint: that is asked.
        concurrency: clients.
        requests: how many in all, rounded up to as many from each client. Or:
        seconds: for how long.

    Raises:
        LoadError: hey failed, got no answer, or more answers than it keeps.
        SettingsError: it is not installed.
    """
    words = [load_generator("hey"), "-c", str(concurrency), "-o", "csv", "-t", str(math.ceil(endpoint.timeout_seconds))]
    words += (
        ["-n", str(hey_requests(requests, concurrency))] if requests is not None else ["-z", f"{seconds or 10.0:g}s"]
    )
    words += ["-m", endpoint.method, "-T", endpoint.content_type]
    for name, value in endpoint.headers.items():
        words += ["-H", f"{name}: {value}"]
    with tempfile.TemporaryDirectory(prefix="greenml-load-") as folder:
        if endpoint.body is not None:
            path = Path(folder) / "body"
            path.write_bytes(endpoint.body)
            words += ["-D", str(path)]
        began = time.monotonic()
        done = subprocess.run([*words, endpoint.url], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(redact_text(done.stderr).split())[:QUOTED_LETTERS]
        raise LoadError(f"hey failed: {said or f'exit code {done.returncode}'}")
    answers = read_hey(done.stdout, began)
    if len(answers) >= MOST_ANSWERS:
        raise LoadError(f"hey keeps {MOST_ANSWERS:,} answers and no more; give a shorter load")
    if not answers:
        raise LoadError(f"{shown(endpoint.url)}: no request of {concurrency} clients was answered")
    return answers


def read_hey(text: str, began_seconds: float) -> list[Answer]:
    """Read hey's CSV, in the order in which the requests began. A request without an answer has no row.

    Raises:
        LoadError: it is none.
    """
    try:
        answers = [
            Answer(began_seconds + float(row["offset"]), float(row["response-time"]), int(row["status-code"]))
            for row in csv.DictReader(io.StringIO(text))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"hey printed what is not read here: {error}; hey 0.1.3 or later is needed") from None
    return sorted(answers, key=lambda answer: answer.start_seconds)


def sequence(endpoint: Endpoint, bodies: Sequence[bytes]) -> list[Answer]:
    """Send one request after the other, each with a body of its own, over one connection.

    Raises:
        LoadError: curl failed, or the endpoint did not answer.
        SettingsError: it is not installed.
    """
    path = load_generator("curl")
    with tempfile.TemporaryDirectory(prefix="greenml-load-") as name:
        folder = Path(name)
        parts = []
        for number, body in enumerate(bodies):
            (folder / f"{number}.in").write_bytes(body)
            lines = [
                f'url = "{_quoted(endpoint.url)}"', 'request = "POST"', f'data-binary = "@{folder}/{number}.in"',
                f'header = "Content-Type: {_quoted(endpoint.content_type)}"', f'output = "{folder}/{number}.out"',
                *(f'header = "{_quoted(key)}: {_quoted(value)}"' for key, value in endpoint.headers.items()),
                'write-out = "%{http_code} %{time_total}\\n"', f"max-time = {endpoint.timeout_seconds:g}",
                'noproxy = "*"', "silent",
            ]  # fmt: skip
            parts.append("\n".join(lines))
        began = time.monotonic()
        done = subprocess.run(
            [path, "--config", "-"], input="\nnext\n".join(parts), capture_output=True, text=True, check=False
        )
        answers, at = [], began
        for number, line in enumerate(done.stdout.split("\n")[: len(bodies)]):
            status, _, latency = line.partition(" ")
            output = folder / f"{number}.out"
            tokens = tokens_of(output.read_bytes()) if output.exists() else (None, None)
            if status.isdecimal():
                answers.append(Answer(at, float(latency), int(status), *tokens))
                at += float(latency)
    if not any(answer.status for answer in answers):
        raise LoadError(f"{shown(endpoint.url)}: no request was answered (curl: exit code {done.returncode})")
    return answers


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")
