"""Fetches JSON over HTTPS: the only network access of the factors, and only when a service is named.

``requests`` with ``urllib3``'s ``Retry``; beside them one deadline for the whole call, a limit on the answer's size,
keys that stay with the host they were given for, and errors of one line that hold no key.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urljoin, urlsplit, urlunsplit

import requests
from requests import exceptions
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader, MaxRetryError, ResponseError
from urllib3.util.retry import Retry

from greenml.errors import FactorError
from greenml.redaction import MASK

DRAWN = random.SystemRandom()  # a training whose shuffling is seeded must not depend on how often a service failed
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
TOO_MANY, TIMED_OUT = 429, 408
RETRIED = (TIMED_OUT, TOO_MANY, *range(500, 600))
MOST_REDIRECTS = 5
PIECE_BYTES = 16_384
QUOTED_LETTERS = 160
LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEYRING_SERVICE = "greenml"  # the name under which the system's keyring has the keys
SECRET_WORDS = ("key", "token", "secret", "password", "passwd", "auth", "sig", "credential", "session")
SHORTEST_SECRET = 4  # shorter values are no keys, and their letters stand in other words
THREAD = "greenml-http"
LOGGERS = (
    "urllib3.connectionpool", "urllib3.connection", "urllib3.poolmanager", "urllib3.response", "urllib3.util.retry",
)  # fmt: skip

_keys_handed_out: set[str] = set()  # so that no message holds one, whatever a service's answer repeats


class ServiceError(FactorError):
    """A service gave no answer that can be used.

    Attributes:
        status: HTTP's; 0 where no answer came.
        retry_after_seconds: how long the service asks to be left alone; None where it did not say.
    """

    def __init__(self, text: str, *, status: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


def find_key(variable: str, who: str) -> str:
    """Return a service's key: from the environment, else from the system's keyring.

    Args:
        variable: of the environment; the keyring has the key of service ``greenml`` under the same name.
        who: the service that wants it, for the message.

    Raises:
        FactorError: there is none; says where to put it.
    """
    key, reason = os.environ.get(variable, "").strip(), ""
    if not key:
        key, reason = _from_keyring(variable)
    if key:
        return remember_key(key)
    raise FactorError(f"{who} needs a key: set {variable}, or 'keyring set {KEYRING_SERVICE} {variable}'{reason}")


def remember_key(key: str) -> str:
    """Return a key, which no message will hold from now on."""
    _keys_handed_out.add(key)
    return key


def without_keys(text: str) -> str:
    """Return a text without any key that was handed out."""
    return _masked(text, _spelled(_keys_handed_out))


def get_json(
    url: str,
    *,
    who: str,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    deadline_seconds: float = 30.0,
    attempts: int = 5,
    most_bytes: int = 20_000_000,
    secrets: Iterable[str] = (),
    wait: Callable[[float], object] = time.sleep,
) -> Any:  # noqa: ANN401  whatever JSON holds
    """Ask an address for JSON and return the answer's value.

    Asked again, with a growing random pause or the one that Retry-After names: HTTP 429, 408 and 5xx, a connection that
    fails or falls silent. Not asked again: other statuses, an answer that is not JSON or too long.

    Args:
        url: https, or http on this machine. A user and password in it are used and never shown.
        who: the service's name, for messages.
        params: of the query.
        headers: sent to this host alone, not where it redirects to. Their values count as secret.
        auth: user and password.
        deadline_seconds: of the whole call, pauses included. A third of it is the longest silence accepted.
        attempts: at most.
        most_bytes: of the answer, decompressed.
        secrets: further texts that must not be shown.
        wait: is called with each pause, in seconds; ``threading.Event().wait`` ends one early.

    Raises:
        ServiceError: there is no answer that can be used.
    """
    clean, login = _without_login(url)
    query = {**dict(parse_qsl(urlsplit(clean).query)), **(params or {})}
    hidden = _spelled(_secrets_of(secrets, headers, query, [pair for pair in (auth, login) if pair]))
    if not _is_safe(clean):
        address = _masked(clean.partition("?")[0], hidden)
        raise ServiceError(f"{who}: {address!r} is not an https address; give one that begins with https://")
    call = _Call(clean, params, dict(headers or {}), auth or login, deadline_seconds, attempts, most_bytes, wait)
    answer = _before_deadline(call, deadline_seconds)
    error = _error(answer, who, call.failures, hidden)
    if error is None:
        value, problem = _parsed(answer.body)
        if not problem:
            return value
        error = ServiceError(
            f"{who}: {problem}; try again, and if it stays so look whether a proxy answers in its place"
        )
    # Raised here, outside of every except block, so that no exception of a library hangs on it.
    raise ServiceError(
        " ".join(_masked(str(error), hidden).split()),
        status=error.status,
        retry_after_seconds=error.retry_after_seconds,
    )


@dataclass
class _Call:
    """A call under way, which outlives each single request of it."""

    url: str
    params: Mapping[str, Any] | None
    headers: Mapping[str, str]
    auth: tuple[str, str] | None
    deadline_seconds: float
    attempts: int
    most_bytes: int
    wait: Callable[[float], object]
    failures: int = 0
    pause_seconds: float = 0.0
    sockets: list[socket.socket] = field(default_factory=list)
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.deadline_seconds

    def hang_up(self) -> None:
        """Shut the connections down, which ends the call's thread."""
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A status with its body, or a problem in words and status 0."""

    status: int = 0
    body: bytes = b""
    retry_after_seconds: float | None = None
    problem: str = ""


class _Retry(Retry):
    """``urllib3``'s retries, counted over the whole call, which ends at its deadline."""

    call: _Call

    @classmethod
    def of(cls, call: _Call) -> _Retry:
        retry = cls(total=None, status_forcelist=RETRIED, allowed_methods={"GET"}, raise_on_status=False)
        retry.call = call
        return retry

    def new(self, **changes: Any) -> _Retry:  # noqa: ANN401  as urllib3 has it
        made = super().new(**changes)
        made.call = self.call
        return made

    def increment(self, *arguments: Any, **named: Any) -> _Retry:  # noqa: ANN401  as urllib3 has it
        self.call.failures += 1
        made = super().increment(*arguments, **named)
        response = named.get("response")
        retry_after = self.get_retry_after(response) if response is not None else None
        # The random part keeps many clients from coming back at once.
        usual = min(FIRST_PAUSE_SECONDS * 2.0 ** (self.call.failures - 1), LONGEST_PAUSE_SECONDS)
        self.call.pause_seconds = usual * DRAWN.uniform(0.5, 1.0) if retry_after is None else retry_after
        if time.monotonic() + self.call.pause_seconds >= self.call.end:
            reason = named.get("error") or ResponseError("the next attempt is after the deadline")
            raise MaxRetryError(named["_pool"], self.call.url, reason)
        return made

    def is_exhausted(self) -> bool:
        return self.call.failures >= self.call.attempts

    def sleep(self, response: Any = None) -> None:  # noqa: ANN401
        self.call.wait(self.call.pause_seconds)

    def get_retry_after(self, response: Any) -> float | None:  # noqa: ANN401
        try:
            return super().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):
            return None


class _UnsafeRedirectError(exceptions.RequestException):
    """A redirect led away from https."""


class _Session(requests.Session):
    """A session that follows redirects over https only, and sends headers and login to their own host only."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        self._private = [*call.headers, "Authorization"]
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(call))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and not _is_safe(urljoin(resp.url, target)):
            raise _UnsafeRedirectError
        return target

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        if _origin(prepared_request.url or "") != _origin(response.request.url or ""):
            for name in self._private:
                prepared_request.headers.pop(name, None)


class _Adapter(HTTPAdapter):
    """Connections that end with their call, and without ``http.client``'s debug output, which prints every header."""

    def __init__(self, call: _Call) -> None:
        super().__init__(max_retries=_Retry.of(call))
        self._call = call

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        plain, call = pool.ConnectionCls, self._call

        def connect(connection: Any) -> None:  # noqa: ANN401
            plain.connect(connection)
            call.sockets.append(connection.sock)
            if time.monotonic() > call.end:
                call.hang_up()

        pool.ConnectionCls = type("QuietConnection", (plain,), {"connect": connect, "debuglevel": 0})
        return pool


class _NotOurThread(logging.Filter):
    """Drops what urllib3 logs of our calls: its lines hold the whole address with its query."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != THREAD


_NOT_OUR_THREAD = _NotOurThread()


def _before_deadline(call: _Call, seconds: float) -> _Answer:
    """Make a call in a thread of its own and return its answer, at the deadline at the latest.

    The time limits of requests are those of a single socket call. A server that sends a byte a second, or a name that
    is not resolved, outlasts them.
    """
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_NOT_OUR_THREAD)  # which is added once
    answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
    try:
        threading.Thread(target=lambda: answers.put(_talk(call)), name=THREAD, daemon=True).start()
        return answers.get(timeout=seconds)
    except RuntimeError:  # the interpreter is ending
        return _Answer(problem="no thread could be started")
    except queue.Empty:
        call.hang_up()
        return _Answer(problem=f"no whole answer within {seconds:.3g} s")


def _talk(call: _Call) -> _Answer:
    retry, idle = _Retry.of(call), call.deadline_seconds / 3
    with _Session(call) as session:
        while True:
            try:
                with session.get(
                    call.url, params=call.params, auth=call.auth or _no_auth, timeout=(idle, idle), stream=True,
                    headers={"Accept": "application/json", "User-Agent": "greenml", **call.headers},
                ) as response:  # fmt: skip
                    return _read(call, response)
            except Exception as error:  # noqa: BLE001  whatever a library raises must not reach threading's hook, which prints it
                problem, passing = _problem(error)
                if not passing or isinstance(_cause(error, MaxRetryError), MaxRetryError):
                    return _Answer(problem=problem)
                try:  # the body broke off: urllib3 retries up to the headers only
                    retry.increment("GET", call.url, error=error, _pool=None)
                except MaxRetryError:
                    return _Answer(problem=problem)
                retry.sleep()


def _read(call: _Call, response: requests.Response) -> _Answer:
    body = bytearray()
    for piece in response.iter_content(PIECE_BYTES):
        body += piece
        if len(body) > call.most_bytes:
            return _Answer(problem=f"its answer is longer than {call.most_bytes / 1e6:g} MB")
        if time.monotonic() > call.end:
            return _Answer(problem=f"no whole answer within {call.deadline_seconds:.3g} s")
    retry_after = _Retry.of(call).get_retry_after(response) if response.status_code in RETRIED else None
    return _Answer(response.status_code, bytes(body), retry_after)


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request  # requests would else send what ~/.netrc has for the host


def _problem(error: Exception) -> tuple[str, bool]:
    """Return a description of an exception, and whether the same request may succeed a moment later.

    In words of our own: the text of an exception of requests may hold the address with its query.
    """
    reason = _cause(error, OSError)
    system_text = reason.strerror if isinstance(reason, OSError) else None
    broken = isinstance(error, exceptions.ConnectionError | exceptions.ChunkedEncodingError)
    silent = isinstance(error, exceptions.Timeout) or _cause(error, TimeoutError) is not None
    proxied = isinstance(error, exceptions.ProxyError)
    kinds = (  # the first that holds
        (isinstance(error, _UnsafeRedirectError), "it redirects to an address that is not https", False),
        (isinstance(error, exceptions.TooManyRedirects), f"it redirects more than {MOST_REDIRECTS} times", False),
        (
            isinstance(error, exceptions.SSLError),
            "the connection is not secure: its certificate was not accepted",
            False,
        ),
        (proxied, "the proxy of this environment did not let the request through", True),
        (silent, "it fell silent", True),
        (_cause(error, socket.gaierror) is not None, "its name cannot be resolved; is there a network?", True),
        (broken, f"the connection failed ({system_text.lower()})" if system_text else "the connection failed", True),
        (True, f"the request failed ({type(error).__name__})", False),
    )
    return next((words, passing) for holds, words, passing in kinds if holds)


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Return the first exception of a kind below another: in its causes, or among its arguments."""
    seen: list[BaseException] = [error]
    for known in seen:
        inner = [known.__cause__, known.__context__, getattr(known, "reason", None), *known.args]
        seen.extend(other for other in inner if isinstance(other, BaseException) and other not in seen)
    return next((known for known in seen if isinstance(known, kind) and not hasattr(known, "request")), None)


def _error(answer: _Answer, who: str, failures: int, hidden: list[str]) -> ServiceError | None:
    """Return the error of an answer; None where there is none."""
    times = f" ({failures} attempts)" if failures > 1 else ""
    status, retry_after = answer.status, answer.retry_after_seconds
    if answer.problem:
        return ServiceError(f"{who}: {answer.problem}{times}; try again later")
    if status == 200:
        return None
    if status == 401:
        text = "it does not know the key or login (HTTP 401); check that it is whole and still valid"
    elif status == 403:
        text = "it refuses the request (HTTP 403); the key or plan may not cover this place or time"
    elif status == TOO_MANY:
        when = f"in {retry_after:.0f} s" if retry_after else "later"
        text = f"too many requests (HTTP 429){times}; try again {when}"
    elif status in RETRIED:
        text = f"the service has a fault (HTTP {status}){times}; try again later"
    elif status == 404:
        text = (
            f"it has nothing there (HTTP 404){_words(answer.body, hidden)}; check the place, the time and the address"
        )
    else:
        text = f"it did not accept the request (HTTP {status}){_words(answer.body, hidden)}"
    return ServiceError(f"{who}: {text}", status=status, retry_after_seconds=retry_after)


def _words(body: bytes, hidden: list[str]) -> str:
    """Return what the service itself says of an error, shortened, after a colon; empty where that is not readable."""
    value, wrong = _parsed(body)
    for _ in range(3):
        if wrong or not isinstance(value, dict):
            break
        lower = {str(name).lower(): inner for name, inner in value.items()}
        value = next((lower[name] for name in ("message", "detail", "error", "title") if lower.get(name)), None)
    if wrong or not isinstance(value, str):
        return ""
    shown = "".join(letter if letter.isprintable() else " " for letter in _masked(value, hidden))  # masked, then cut
    return f": {shown[:QUOTED_LETTERS].strip()}"


def _parsed(body: bytes) -> tuple[Any, str]:
    """Return a body's value and "", or None and what is wrong with it."""

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    if not body.strip():
        return None, "its answer is empty"
    try:
        return json.loads(body, parse_constant=refuse), ""
    except RecursionError:
        return None, "its answer is nested too deeply to be read"
    except ValueError:
        return None, "its answer is not JSON"


def _is_safe(url: str) -> bool:
    """Tell whether an address may be asked: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return an address without the user and password in it, and those."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def _secrets_of(
    given: Iterable[str],
    headers: Mapping[str, str] | None,
    params: Mapping[str, object],
    logins: Iterable[tuple[str, str]],
) -> set[str]:
    """Return what of a call must not be shown: header values, secret parameters, logins, and what the caller names."""
    secrets = {text for text in given if text}
    for value in (headers or {}).values():
        secrets |= {text for text in (value, *value.split()) if len(text) >= SHORTEST_SECRET}
    for name, parameter in params.items():
        if any(word in name.lower() for word in SECRET_WORDS) and len(str(parameter)) >= SHORTEST_SECRET:
            secrets.add(str(parameter))
    for user, password in logins:
        both = f"{user}:{password}"
        secrets |= {both, password, base64.b64encode(both.encode()).decode()}
        secrets |= {user} if len(user) >= SHORTEST_SECRET else set()
    return secrets


def _spelled(secrets: Iterable[str]) -> list[str]:
    """Return how secrets may stand in an address, a header or a quoted string, the longest first."""
    forms = set()
    for text in secrets:
        forms |= {text, text.strip(), quote(text), quote(text, safe=""), quote_plus(text), unquote(text)}
        forms.add(repr(text)[1:-1])
    return sorted(forms - {""}, key=len, reverse=True)


def _masked(text: str, hidden: Iterable[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, MASK)
    return text


def _from_keyring(variable: str) -> tuple[str, str]:
    """Return what the keyring has, or "" and why it has nothing."""
    try:
        keyring = import_module("keyring")
    except ImportError:
        return "", " after pip install 'greenml[keys]'"
    try:
        return (keyring.get_password(KEYRING_SERVICE, variable) or "").strip(), ""
    except Exception as error:  # noqa: BLE001  a backend raises what it likes, and may name what it looked up
        return "", f" (the keyring did not answer: {type(error).__name__})"
