"""The metrics page of an inference server: how it is read, and what its counters say was done.

A page is fetched once, without a retry, a redirect or a proxy, and before one deadline. What cannot be read is a
``PageError`` of one line; nothing is guessed from half a page.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import math
import re
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit, urlunsplit

from greenml.errors import GreenMLError, SettingsError

DEADLINE_SECONDS = 5.0
MOST_BYTES = 8_000_000  # vLLM's page has some 100 kB
PIECE_BYTES = 65_536
RESTARTED = "process_start_time_seconds"  # of prometheus_client's own collector
SHOWN_NAMES = 4
# OpenMetrics ends with a line of its own, so that a page that was cut off between two lines is seen.
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


class PageError(GreenMLError):
    """A metrics page did not tell how much was done."""


@dataclass(frozen=True, slots=True)
class Server:
    """What an inference server calls its counters; ``_total`` is left out, ``_sum`` is of a histogram.

    Attributes:
        prefix: of all its names: by it a page is known.
        requests: counters of requests that were finished, added up.
        input_tokens, output_tokens: counters of tokens; empty where it has none.
        running: gauge of the requests in flight; empty where it has none.
        model_label: the label that names the model.
        per_model: a request passes several models of the server (an ensemble and its parts), and counts in each.
        source: where its names are documented.
        note: what a reader of the figures must know.
    """

    name: str
    prefix: str
    requests: tuple[str, ...]
    input_tokens: str
    output_tokens: str
    running: str
    model_label: str
    source: str
    per_model: bool = False
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it reads."""
        return tuple(filter(None, (*self.requests, self.input_tokens, self.output_tokens, self.running)))


SERVERS = (
    Server(
        name="vLLM",
        prefix="vllm:",
        requests=("vllm:request_success",),
        input_tokens="vllm:prompt_tokens",
        output_tokens="vllm:generation_tokens",
        running="vllm:num_requests_running",
        model_label="model_name",
        source="https://docs.vllm.ai/en/latest/usage/metrics.html",
        note="prompt tokens that came from the prefix cache are counted as the others",
    ),
    Server(
        name="Text Generation Inference",
        prefix="tgi_",
        requests=("tgi_request_success", "tgi_request_failure"),
        input_tokens="tgi_request_input_length_sum",
        output_tokens="tgi_request_generated_tokens_sum",
        running="tgi_batch_current_size",
        model_label="",
        source="https://huggingface.co/docs/text-generation-inference/reference/metrics",
        note="tokens are counted when their request ends",
    ),
    Server(
        name="Triton",
        prefix="nv_inference_",
        requests=("nv_inference_request_success", "nv_inference_request_failure"),
        input_tokens="nv_llm_input_token_len_sum",
        output_tokens="nv_llm_output_token_len_sum",
        running="",
        model_label="model",
        source="https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html",
        per_model=True,
        note="only the TensorRT-LLM backend counts tokens",
    ),
    Server(
        name="TensorRT-LLM",
        prefix="trtllm_",
        requests=("trtllm_request_success",),
        input_tokens="trtllm_prompt_tokens",
        output_tokens="trtllm_generation_tokens",
        running="trtllm_num_requests_running",
        model_label="model_name",
        source="https://docs.nvidia.com/aiperf/reference/server-metrics-reference",
        note="trtllm-serve counts with return_perf_metrics: true; earlier versions count requests only",
    ),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server says that it did since it started, or between two pages. None: it does not tell.

    Attributes:
        running: requests in flight at this moment.
    """

    requests: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    running: float | None = None

    @property
    def tokens(self) -> float | None:
        """Input and output together; None where one is not known."""
        known = self.input_tokens is not None and self.output_tokens is not None
        return (self.input_tokens or 0.0) + (self.output_tokens or 0.0) if known else None


Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Page:
    """What was read from a page at a moment.

    Attributes:
        at_seconds: monotonic, in the middle of the request.
        series: the values of the server's counters and gauge, by name and labels.
        started: when the server's process began, as it tells it; None where it does not.
        whole: it is known to be whole: its length or its end is known. Else it may end between two lines.
    """

    at_seconds: float
    server: Server
    series: Series = field(default_factory=dict)
    started: float | None = None
    whole: bool = True

    def models(self) -> list[str]:
        """Return the models that have requests, by their label."""
        label = self.server.model_label
        return sorted({dict(labels).get(label, "") for name, labels in self.series if name in self.server.requests})

    def counts(self, model: str = "") -> Counts:
        """Return what was done since the server started.

        Args:
            model: whose requests count; of a server of one model it need not be named.

        Raises:
            PageError: there is no such model, or several and none was named.
        """
        self._check(model)
        server = self.server
        kept = {
            name: [
                value for (other, labels), value in self.series.items() if other == name and self._is_of(labels, model)
            ]
            for name in server.names
        }
        # The part of an ensemble that counts tokens is not the part that a client names.
        tokens = {
            name: [value for (other, _), value in self.series.items() if other == name]
            if server.per_model
            else kept[name]
            for name in (server.input_tokens, server.output_tokens)
        }
        return Counts(
            sum(value for name in server.requests for value in kept[name]),
            _sum(tokens[server.input_tokens]), _sum(tokens[server.output_tokens]),
            _sum(kept.get(server.running, [])),
        )  # fmt: skip

    def _is_of(self, labels: Iterable[tuple[str, str]], model: str) -> bool:
        return not model or not self.server.model_label or dict(labels).get(self.server.model_label) == model

    def _check(self, model: str) -> None:
        known = self.models()
        shown = ", ".join(known[:SHOWN_NAMES]) + (", ..." if len(known) > SHOWN_NAMES else "")
        if model and self.server.model_label and model not in known:
            raise PageError(f"{self.server.name}: no model {model!r} on the page; it has {shown}")
        if not model and self.server.per_model and len(known) > 1:
            raise PageError(
                f"{self.server.name}: the page has several models ({shown}), and a request may pass more than one; "
                "name the one that clients ask with --model"
            )

    def since(self, earlier: Page, model: str = "") -> Counts:
        """Return what was done since an earlier page, with the requests in flight now.

        Raises:
            PageError: the two do not fit: another server, a name that is gone, a counter that went backwards.
        """
        name = self.server.name
        if self.server is not earlier.server:
            raise PageError(f"the page is {name}'s now, and was {earlier.server.name}'s")
        if None not in (self.started, earlier.started) and self.started != earlier.started:
            raise PageError(f"{name}: the server was started again")
        gone = {key[0] for key in earlier.series} - {key[0] for key in self.series}
        if gone:
            raise PageError(f"{name}: {', '.join(sorted(gone))} is not on the page any more")
        names, served = {key[0] for key in earlier.series}, (earlier.counts(model).requests or 0) > 0
        for key in self.series.keys() - earlier.series.keys():
            if not earlier.whole or (key[0] not in names and served):
                raise PageError(f"{name}: {key[0]} was not on the page before; figures begin anew")
        for key, value in earlier.series.items():
            if key[0] != self.server.running and self.series.get(key, -1.0) < value:
                raise PageError(f"{name}: {key[0]} went backwards; the server was started again")
        now, then = self.counts(model), earlier.counts(model)
        return Counts(
            _difference(now.requests, then.requests), _difference(now.input_tokens, then.input_tokens),
            _difference(now.output_tokens, then.output_tokens), now.running,
        )  # fmt: skip


def _sum(values: list[float]) -> float | None:
    return sum(values) if values else None


def _difference(now: float | None, then: float | None) -> float | None:
    """A counter with labels appears when it is first counted, so that what is new began at 0."""
    return None if now is None else now - (then or 0.0)


def read(url: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> Page:
    """Fetch a page and read it.

    Args:
        url: http or https; a user and password in it are sent to it, and never shown.
        deadline_seconds: of the whole request.

    Raises:
        PageError: it cannot be fetched, is not whole, or is of no server that is known here.
        SettingsError: the address is none.
    """
    began = time.monotonic()
    text, openmetrics, whole = _fetch(url, deadline_seconds)
    page = parse(text, (began + time.monotonic()) / 2, shown(url), openmetrics=openmetrics)
    return replace(page, whole=whole)


def shown(url: str) -> str:
    """Return an address as it may be shown: without user, password and query; empty where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_login(url: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def login(url: str) -> dict[str, str]:
    """Return the header that a user and password in an address mean; none where there are none."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def check(url: str, example: str = "http://127.0.0.1:8000/metrics") -> None:
    """Check an address before it is asked.

    Args:
        url: the address.
        example: of one that would do.

    Raises:
        SettingsError: it is no address of HTTP, or has letters that must be percent-encoded.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not url.isascii() or any(letter.isspace() or not letter.isprintable() for letter in url):
        what = "has letters that must be percent-encoded" if good and not url.isascii() else "is not an address"
        masked = re.sub(r"(^(?!.*//)|//).*@", r"\1", url.partition("?")[0])
        raise SettingsError(f"{masked!r} {what}; give one such as {example}")


def _fetch(url: str, deadline_seconds: float) -> tuple[str, bool, bool]:
    """Return a page's text, whether it is OpenMetrics, and whether its end is known."""
    check(url)
    parts, where = urlsplit(url), shown(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=deadline_seconds)
    headers = {"Accept": ACCEPT, "User-Agent": "greenml", **login(url)}
    with _Deadline(connection, deadline_seconds) as deadline:
        try:
            connection.request("GET", urlunsplit(("", "", parts.path or "/", parts.query, "")), headers=headers)
            response = deadline.response()
            if response.status != 200:
                raise PageError(_refusal(where, response))
            openmetrics = "openmetrics" in response.headers.get("Content-Type", "")
            whole = openmetrics or response.chunked or response.length is not None
            body = _body(response, where)
            if deadline.passed.is_set():
                raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            raise PageError(f"{where}: {_problem(error, deadline.passed.is_set(), deadline_seconds)}") from None
    try:
        return body.decode("utf-8"), openmetrics, whole
    except UnicodeDecodeError:
        raise PageError(f"{where}: not a metrics page: it is not text") from None


class _Deadline:
    """Hangs up a connection at a time. A socket's limits are those of one call: a byte a second outlasts them."""

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self.passed = threading.Event()
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._hang_up)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def response(self) -> http.client.HTTPResponse:
        """Wait for the server's first words. From then on http.client may not know the socket any more."""
        self._socket = self._connection.sock
        self._response = response = self._connection.getresponse()
        return response

    def _hang_up(self) -> None:
        self.passed.set()
        open_socket = self._socket or self._connection.sock
        if open_socket is not None:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)


def _body(response: http.client.HTTPResponse, where: str) -> bytes:
    body = bytearray()
    while piece := response.read1(PIECE_BYTES):
        body += piece
        if len(body) > MOST_BYTES:
            raise PageError(f"{where}: the page is longer than {MOST_BYTES / 1e6:g} MB; is it a metrics page?")
    if response.length:
        raise http.client.IncompleteRead(bytes(body))
    return bytes(body)


def _refusal(where: str, response: http.client.HTTPResponse) -> str:
    if 300 <= response.status < 400:
        target = response.headers.get("Location", "")
        return f"{where}: it redirects to {shown(target) or 'another address'}; give that address, if it is the page's"
    what = {401: "it wants a login", 403: "it refuses the request", 404: "there is no page"}.get(response.status, "")
    return f"{where}: {what or 'the server has a fault'} (HTTP {response.status})"


def _problem(error: Exception, late: bool, deadline_seconds: float) -> str:
    if late or isinstance(error, TimeoutError):
        return f"no whole page within {deadline_seconds:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return "the page is cut off"
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"it does not answer ({reason.lower()})" if reason else f"its answer is not HTTP ({type(error).__name__})"


def parse(text: str, at_seconds: float, where: str = "the page", *, openmetrics: bool = False) -> Page:
    """Read a page's text.

    Raises:
        PageError: it is not a whole metrics page, or of no server that is known here.
        SettingsError: what reads it is not installed.
    """
    try:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
        from prometheus_client.parser import text_string_to_metric_families as read_text
    except ImportError:
        raise SettingsError("a metrics page is read with prometheus_client: pip install 'greenml[serving]'") from None
    if text.lstrip()[:1] in ("{", "[", "<"):
        raise PageError(
            f"{where}: not a metrics page but {'JSON' if text.lstrip()[:1] in '{[' else 'HTML'}; "
            "the page of trtllm-serve is /prometheus/metrics, that of others /metrics"
        )
    if not text.endswith("\n"):
        raise PageError(f"{where}: the page is cut off")
    try:
        samples = [
            (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
            for family in (read_openmetrics if openmetrics else read_text)(text)
            for sample in family.samples
        ]
    except Exception as error:  # noqa: BLE001  a parser that is given anything may raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PageError(f"{where}: not a whole metrics page: {reason}") from None
    return _page(samples, at_seconds, where)


def _page(samples: Iterable[tuple[str, tuple[tuple[str, str], ...], float]], at_seconds: float, where: str) -> Page:
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for name, labels, value in samples:
        values.setdefault((name.removesuffix("_total"), labels), []).append(value)
    names = {name for name, _ in values}
    server = next((server for server in SERVERS if any(name.startswith(server.prefix) for name in names)), None)
    if server is None:
        raise PageError(_strange(where, names))
    if not names & set(server.requests):
        raise PageError(
            f"{where}: {server.name}'s page without its counter of requests, {server.requests[0]}: nothing was served "
            "yet, or this version calls it otherwise"
        )
    wanted = {key: amounts for key, amounts in values.items() if key[0] in server.names}
    for (name, _), amounts in wanted.items():
        if len(amounts) > 1:
            raise PageError(f"{where}: {name} is there twice with the same labels")
        if not math.isfinite(amounts[0]) or amounts[0] < 0:
            raise PageError(f"{where}: {name} is {amounts[0]:g}, which is no count")
    started = next((amounts[0] for (name, _), amounts in values.items() if name == RESTARTED), None)
    return Page(at_seconds, server, {key: amounts[0] for key, amounts in wanted.items()}, started)


def _strange(where: str, names: set[str]) -> str:
    known = ", ".join(f"{server.name} ({server.prefix}...)" for server in SERVERS)
    others = ", ".join(sorted(names)[:SHOWN_NAMES])
    has = (
        f"it has {len(names)} others: {others}{', ...' if len(names) > SHOWN_NAMES else ''}" if names else "it is empty"
    )
    return f"{where}: of no server that is known here: {known}; {has}"
