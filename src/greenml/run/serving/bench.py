"""A benchmark of an endpoint on this machine: load, and the energy of the devices while it lasts.

Each stage of the load is a phase of the run. Within it, the phase ``requests`` is the time with a request in flight:
what the devices use outside of it is idle energy, and belongs to no request. Warm-up is in no phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from greenml.energy.usage import union
from greenml.run.serving import load, metrics_page
from greenml.run.serving.load import Answer, Endpoint, LoadError
from greenml.run.track import Run

BUSY = "requests"  # the phase within a stage's with a request in flight
SAME_SECONDS = 0.002  # hey writes times to 0.1 ms; a client needs some time between two requests
MOST_SPANS = 5000
WARM_UP = 2  # requests of each client


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
    load.program("hey")
    each = load.probe(endpoint)
    stages = []
    for concurrency in concurrencies:
        tell(f"{concurrency} client{'s'[: concurrency != 1]}: warm-up, then load")
        load.hey(endpoint, concurrency, requests=WARM_UP * concurrency)
        before = metrics_page.read(metrics_url) if metrics_url else None
        run.read_devices()
        answers = load.hey(endpoint, concurrency, requests=requests, seconds=seconds)
        run.read_devices()
        stage = Stage(f"clients-{concurrency}", concurrency, answers)
        if requests is not None:
            stage = replace(stage, unanswered=load.hey_requests(requests, concurrency) - len(answers))
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
    load.probe(replace(endpoint, method="POST", body=bodies[0]))
    load.sequence(endpoint, bodies[: max(1, len(bodies) // 100)])
    stages = []
    for number in range(1, repeats + 1):
        tell(f"repeat {number} of {repeats}: {len(bodies)} requests")
        run.read_devices()
        answers = load.sequence(endpoint, bodies)
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
