"""One HTTP request that ends at its deadline, whatever the other side does.

The time limits of requests are those of a single socket call: a name that is not resolved, a server that sends a byte
a second, or an address list of which none answers outlast them all. So the request is made in a thread of its own; at
the deadline the caller goes on, and the sockets are shut down, which ends the thread too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from greenml.factors._secrets import Mask

PIECE_BYTES = 16_384
MOST_REDIRECTS = 5
LOOPBACK = ("127.0.0.1", "::1", "localhost")
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        url: without user and password.
        params: of the query; None leaves the address as it is.
        headers, auth: sent to the address's own host, and to no other that it redirects to.
        idle_seconds: the longest silence of the other side.
        most_bytes: of the answer, decoded.
    """

    url: str
    params: Mapping[str, Any] | None
    headers: Mapping[str, str]
    auth: tuple[str, str] | None
    idle_seconds: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: a status with headers (names in lower case) and body, or a problem in words.

    Attributes:
        status: HTTP's; 0 where no answer came.
        problem: why there is none; "" where there is.
        passing: True where the same request may succeed a moment later.
    """

    status: int = 0
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    problem: str = ""
    passing: bool = False


def is_safe(url: str) -> bool:
    """Tell whether an address may be asked: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


def ask(request: Request, seconds: float, mask: Mask) -> Answer:
    """Send a request and return what came of it, ``seconds`` later at the latest. Never raises for the other side."""
    call = _Call(request, seconds, mask)
    thread = threading.Thread(target=call.run, name="greenml-http", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending
        return Answer(problem="no thread could be started")
    call.done.wait(seconds)
    return call.answer or call.give_up()


class _Call:
    """A request under way: the thread's side and the caller's."""

    def __init__(self, request: Request, seconds: float, mask: Mask) -> None:
        self.answer: Answer | None = None
        self.done = threading.Event()
        self._late = Answer(problem=f"no whole answer within {seconds:.3g} s", passing=True)
        self._request, self._end, self._mask = request, time.monotonic() + seconds, mask
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._over = False

    def run(self) -> None:
        """Make the request: the thread's work."""
        with self._mask.over_logs():
            try:
                self.answer = self._talk()
            except Exception as error:  # noqa: BLE001  whatever a library raises must not reach threading's hook, which prints it
                self.answer = _problem(error)
        self.done.set()

    def give_up(self) -> Answer:
        """End what is under way, from the caller's side."""
        with self._lock:
            self._over = True
            for one in self._sockets:
                _shut(one)
        return self._late

    def watch(self, one: socket.socket) -> None:
        """Remember a socket, to be shut down at the deadline."""
        with self._lock:
            self._sockets.append(one)
            if self._over:
                _shut(one)

    def _talk(self) -> Answer:
        with contextlib.closing(_session(self)) as session:
            url, params = self._request.url, self._request.params
            headers, auth = dict(self._request.headers), self._request.auth
            for _ in range(MOST_REDIRECTS + 1):
                with session.get(
                    url,
                    params=params,
                    headers=headers,
                    auth=auth or _no_auth,
                    timeout=(self._request.idle_seconds, self._request.idle_seconds),
                    stream=True,
                    allow_redirects=False,
                ) as response:
                    told = {name.lower(): value for name, value in response.headers.items()}
                    if response.status_code not in REDIRECTS or "location" not in told:
                        return self._read(response, told)
                there = urljoin(url, told["location"])
                if not is_safe(there):
                    return Answer(problem="it redirects to an address that is not https")
                if _origin(there) != _origin(url):  # a key is for the host that it was given for
                    headers, auth = {}, None
                url, params = there, None
            return Answer(problem=f"it redirects more than {MOST_REDIRECTS} times")

    def _read(self, response: Any, told: dict[str, str]) -> Answer:  # noqa: ANN401
        body = bytearray()
        for piece in response.iter_content(PIECE_BYTES):
            body += piece
            if len(body) > self._request.most_bytes:
                return Answer(problem=f"its answer is longer than {self._request.most_bytes / 1e6:g} MB")
            if time.monotonic() > self._end:
                return self._late
        return Answer(status=response.status_code, headers=told, body=bytes(body))


def _session(call: _Call) -> Any:  # noqa: ANN401  imported late: requests is heavy
    """Return a session of requests whose sockets the call watches. The environment's proxies apply."""
    import requests
    from requests.adapters import HTTPAdapter

    def watched(pool: type[Any]) -> type[Any]:
        plain = pool.ConnectionCls

        def connect(self: Any) -> None:  # noqa: ANN401
            plain.connect(self)
            call.watch(self.sock)

        # http.client's own debug output prints the headers, whoever switched it on.
        kind = type("Watched", (plain,), {"connect": connect, "debuglevel": 0})
        return type("WatchedPool", (pool,), {"ConnectionCls": kind})

    def watch(manager: Any) -> Any:  # noqa: ANN401  urllib3's, of direct connections, of a proxy or of SOCKS
        pools = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: watched(pool) for scheme, pool in pools.items()}
        return manager

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
            super().init_poolmanager(*arguments, **named)
            watch(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **named: Any) -> Any:  # noqa: ANN401
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **named)
            return manager if known else watch(manager)

    session = requests.Session()
    session.mount("https://", Adapter())
    session.mount("http://", Adapter())
    return session


def _no_auth(request: Any) -> Any:  # noqa: ANN401  requests would else send what ~/.netrc has for the host
    return request


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _problem(error: Exception) -> Answer:
    """Return an exception of requests in words of our own: its text may hold the address with its query."""
    from requests import exceptions

    if isinstance(error, exceptions.SSLError):
        return Answer(problem="the connection is not secure (TLS: its certificate was not accepted)")
    if isinstance(error, exceptions.ProxyError):
        words = "the proxy of this environment did not let the request through"
    elif isinstance(error, exceptions.Timeout) or _cause(error, TimeoutError):
        words = "it fell silent"
    elif _cause(error, socket.gaierror):
        words = "its name cannot be resolved; is there a network?"
    elif isinstance(error, exceptions.ConnectionError | exceptions.ChunkedEncodingError):
        reason = _cause(error, OSError)
        told = reason.strerror if isinstance(reason, OSError) else None
        words = f"the connection failed ({told.lower()})" if told else "the connection failed"
    else:
        return Answer(problem=f"the request failed ({type(error).__name__})")
    return Answer(problem=words, passing=True)


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Return the first exception of a kind below another: in its causes, or among its arguments."""
    seen: list[BaseException] = [error]
    for one in seen:
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        seen.extend(other for other in inner if isinstance(other, BaseException) and other not in seen)
    return next((one for one in seen if isinstance(one, kind) and not hasattr(one, "request")), None)
