"""ASGI: each request of a FastAPI, Starlette or other ASGI application, by route, with its energy, carbon and cost.

``app.add_middleware(GreenMiddleware, meter=greenml.serve())`` is all. The metrics are then at ``/metrics``, the live
page at ``/greenml``. Tokens are read from the ``usage`` block of an OpenAI-style answer, whole or streamed.

**Headers.** A header is sent before the body, so that with ``headers=True`` a whole answer's head is held until its
body is there, and the headers hold what is known then: an estimate, marked ``x-energy-status: provisional``. A streamed
answer has no such headers: nothing is known when it begins. Settled figures are in the record and in the metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any

from greenml.run.serving.meter import Request, RequestResult, ServingMeter, serve

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 4_000_000  # of an answer that is looked through for its usage block, or held for its headers
LONG_SECONDS = 0.5  # the client of a request that took longer may have gone
UNMATCHED = "(no route)"
JSON, EVENTS = b"application/json", b"text/event-stream"
LENGTH = b"content-length"


class GreenMiddleware:
    """Measures the requests of an ASGI application.

    Args:
        app: the application.
        meter: from ``greenml.serve()``; made with ``settings`` by default.
        model: that serves the requests; by default what the answer's ``model`` says.
        headers: whether whole answers get ``x-energy-joules``, ``x-co2e-grams`` and ``x-cost-usd``.
        usage: whether ``usage`` blocks of OpenAI-style answers get an ``energy`` block.
        metrics_path, page_path: where the metrics and the page are; "" for nowhere.
        exclude: paths that are not measured, such as health checks.
        settings: of ``greenml.serve()``.

    Raises:
        SettingsError: a setting is wrong.
    """

    def __init__(
        self,
        app: App,
        meter: ServingMeter | None = None,
        *,
        model: str = "",
        headers: bool = False,
        usage: bool = False,
        metrics_path: str = "/metrics",
        page_path: str = "/greenml",
        exclude: Collection[str] = (),
        **settings: Any,  # noqa: ANN401  as serve() has them
    ) -> None:
        self.app, self.meter = app, meter if meter is not None else serve(**settings)
        self._model, self._headers, self._usage = model, headers, usage
        self._exclude = frozenset(exclude)
        self._pages: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {}
        if metrics_path:
            self._pages[metrics_path] = self._metrics
        if page_path:
            self._pages |= {page_path: self._page, f"{page_path}/events": self._events}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the application, or a page of greenml's own."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if scope["type"] != "http" or not self._exclude.isdisjoint((scope["path"], _path(scope))):
            await self.app(scope, receive, send)
            return
        page = self._pages.get(_path(scope))
        if page is not None and scope["method"] in ("GET", "HEAD"):
            await page(scope, receive, send)
            return
        request = self.meter.request(self._model)
        answer = _Answer(request, scope, receive, send, headers=self._headers, usage=self._usage)
        try:
            await self.app(scope, answer.receive, answer.send)
        except BaseException as error:
            answer.name()
            cancelled = answer.disconnected or isinstance(error, asyncio.CancelledError)
            request.end("cancelled" if cancelled else "failed")
            raise
        answer.end()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close the meter when the application has shut down."""

        async def sent(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await asyncio.to_thread(self.meter.close)
            await send(message)

        await self.app(scope, receive, sent)

    async def _metrics(self, scope: Scope, _: Receive, send: Send) -> None:
        from greenml.run.serving import exposition

        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        body, content_type = exposition.page(self.meter, accept)
        await _reply(scope, send, body, content_type)

    async def _page(self, scope: Scope, _: Receive, send: Send) -> None:
        from greenml.run.serving import page

        events = f"{_root(scope)}{_path(scope)}/events"
        await _reply(scope, send, page.html(self.meter, events).encode(), "text/html; charset=utf-8")

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the figures every second, for a few seconds: the page connects again."""
        from greenml.run.serving import page

        head = [(b"content-type", EVENTS), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            end = asyncio.get_running_loop().time() + page.CONNECTION_SECONDS
            first = True
            is_wanted = scope["method"] == "GET"
            while is_wanted and not gone.done() and not self.meter.closed and asyncio.get_running_loop().time() < end:
                text = page.event(self.meter, first=first)
                first = False
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                await asyncio.wait([gone], timeout=1.0)
        finally:
            gone.cancel()
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Answer:
    """The answer to a request on its way to the client."""

    def __init__(
        self, request: Request, scope: Scope, receive: Receive, send: Send, *, headers: bool, usage: bool
    ) -> None:
        self._request, self._scope, self._receive, self._send = request, scope, receive, send
        self._headers, self._usage = headers, usage
        self._root = _root(scope)  # before the application has looked for the route
        self._start: Message | None = None  # held until the body is there
        self._kind, self._status = b"", 200
        self._body = bytearray()  # of a JSON answer, as far as it is kept
        self._rest = bytearray()  # of a line of a stream
        self._is_within = False  # a line of a stream whose beginning was passed on: it is too long to be kept
        self._waiting: Message | None = None  # received, and not yet by the application
        self.complete = self.disconnected = False

    async def receive(self) -> Message:
        """Pass a message of the client on."""
        message, self._waiting = self._waiting, None
        if message is None:
            message = await self._receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self.disconnected = True
        return message

    async def _look_for_client(self) -> None:
        """See whether the client of a request that took long has gone: many applications never ask."""
        asked = asyncio.ensure_future(self.receive())
        await asyncio.wait([asked], timeout=0.001)
        if asked.done():
            self._waiting = asked.result()
        else:
            asked.cancel()

    def name(self) -> None:
        """Give the request its route."""
        if not self._request.kind:
            self._request.kind = f"{self._scope['method']} {_route(self._scope, self._root)}"

    def end(self) -> None:
        """End the request: the application has returned."""
        self.name()
        if self.disconnected:
            self._request.end("cancelled")
        else:
            self._request.end("failed" if self._status >= 500 else "completed")

    async def send(self, message: Message) -> None:
        """Pass a message of the application on."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
            if self._kind == JSON and len(self._body) + len(message.get("body", b"")) <= MOST_BYTES:
                await self._json(message)
            else:
                await self._other(message)
        else:
            await self._release(whole=False)
            self.complete = self.complete or message["type"] == "http.response.pathsend"
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self.name()
        self._status = message["status"]
        if self._request.age_seconds > LONG_SECONDS and self._waiting is None:
            await self._look_for_client()
        kinds = (value for name, value in message.get("headers", ()) if name.lower() == b"content-type")
        kind = next(kinds, b"").lower()
        self._kind = next((known for known in (JSON, EVENTS) if kind.startswith(known)), b"")
        encoded = any(name.lower() == b"content-encoding" for name, _ in message.get("headers", ()))
        if encoded:
            self._kind = b""  # compressed: nothing is read from it
        if (self._headers and self._kind != EVENTS) or (self._usage and self._kind == JSON):
            self._start = message
        elif self._usage and self._kind == EVENTS:  # it will be longer than the application knows
            headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != LENGTH]
            await self._send({**message, "headers": headers})
        else:
            await self._send(message)

    async def _json(self, message: Message) -> None:
        """Pass a part of a JSON answer on; or hold it until it is whole."""
        body = message.get("body", b"")
        self._body += body
        if self._start is None:
            if self.complete:
                self._look(bytes(self._body))
            await self._send(message)
        elif self.complete:
            whole = self._look(bytes(self._body))
            # An answer to HEAD has the length of a body that is not there.
            await self._release(whole=True, length=len(whole) if whole != self._body else None)
            await self._send({**message, "body": whole})

    async def _other(self, message: Message) -> None:
        """Pass a part of a stream, a file or a text on."""
        body = message.get("body", b"")
        if self._kind == EVENTS:
            await self._send({**message, "body": self._events(body)})
            return
        if self._start is not None:
            whole = self.complete and not self._body
            held = bytes(self._body)
            await self._release(whole=whole)
            body = held + body
        await self._send({**message, "body": body})

    async def _release(self, *, whole: bool, length: int | None = None) -> None:
        """Send the head that was held; of a whole answer with what its energy is by now."""
        start, self._start = self._start, None
        if start is None:
            return
        headers = list(start.get("headers", ()))
        if length is not None:
            headers = [(name, b"%d" % length if name.lower() == LENGTH else value) for name, value in headers]
        if whole and self._headers:
            headers += _headers(self._request.estimate())
        await self._send({**start, "headers": headers})

    def _look(self, body: bytes) -> bytes:
        """Take the tokens from an answer's usage block; returns the answer, with the energy in it where asked for."""
        if b'"usage"' not in body:
            return body
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(body)
            if self._take(answer) and self._usage:
                return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
        return body

    def _events(self, body: bytes) -> bytes:
        """Do the same with the events of a stream, each a line; a line that is not whole waits for its rest.

        Of a line that is longer than ``MOST_BYTES`` nothing is read; it is passed on as it comes.
        """
        *lines, rest = body.split(b"\n")
        passed = []
        for line in lines:
            whole = bytes(self._rest + line)
            passed.append((whole if self._is_within else self._event(whole)) + b"\n")
            self._is_within = False
            self._rest.clear()
        self._rest += rest
        if self.complete or self._is_within or len(self._rest) > MOST_BYTES:
            last = bytes(self._rest)
            passed.append(self._event(last) if self.complete and not self._is_within else last)
            self._is_within = True
            self._rest.clear()
        return b"".join(passed) if self._usage else body

    def _event(self, line: bytes) -> bytes:
        if not line.startswith(b"data:") or b'"usage"' not in line:
            return line
        data = line[5:].strip()
        looked = self._look(data)
        return line if looked == data else line.replace(data, looked)

    def _take(self, answer: object) -> bool:
        """Take tokens and model from a parsed answer; tells whether it has a usage block."""
        if not isinstance(answer, dict):
            return False
        usage, request = answer.get("usage"), self._request
        if not isinstance(usage, dict):
            return False
        if not request.model and isinstance(answer.get("model"), str):
            request.model = answer["model"][:100]
        counts = (_first(usage, "prompt_tokens", "input_tokens"), _first(usage, "completion_tokens", "output_tokens"))
        # A stream may tell its usage so far again and again.
        request.tokens(
            *(
                None if count is None else max(0, count - (known or 0))
                for count, known in zip(counts, (request.input_tokens, request.output_tokens), strict=True)
            )
        )
        if self._usage:
            usage["energy"] = _energy(request.estimate())
        return True


def _first(usage: dict[str, Any], *names: str) -> int | None:
    values = (usage.get(name) for name in names)
    return next((value for value in values if type(value) is int and value >= 0), None)


def _energy(result: RequestResult) -> dict[str, Any]:
    return {
        "joules": result.energy_joules, "low_joules": result.energy_low_joules,
        "high_joules": result.energy_high_joules, "co2e_grams": result.co2e_grams, "cost_usd": result.cost_usd,
        "status": "provisional" if result.provisional else "settled",
    }  # fmt: skip


def _headers(result: RequestResult) -> Iterable[tuple[bytes, bytes]]:
    figures = (
        (b"x-energy-joules", result.energy_joules),
        (b"x-co2e-grams", result.co2e_grams),
        (b"x-cost-usd", result.cost_usd),
    )
    known = [(name, f"{value:.6g}".encode()) for name, value in figures if value is not None]
    return [*known, (b"x-energy-status", b"provisional")] if known else ()


def _path(scope: Scope) -> str:
    """Return the path below where the application is mounted."""
    path, root = str(scope["path"]), _root(scope)
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _root(scope: Scope) -> str:
    return str(scope.get("root_path") or "").rstrip("/")


def _route(scope: Scope, root: str) -> str:
    """Return the route that served a request, with its parameters' names and not their values.

    Args:
        scope: of the request, as the application has left it.
        root: path of the application that was asked: a part of it that is mounted below has a longer one.
    """
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        names = {str(value): f"{{{name}}}" for name, value in (scope.get("path_params") or {}).items()}
        mounted = _root(scope).removeprefix(root).split("/")
        return "/".join(names.get(part, part) for part in mounted) + path
    endpoint = scope.get("endpoint")
    name = getattr(endpoint, "__name__", None) or (type(endpoint).__name__ if endpoint is not None else None)
    return str(name) if name else UNMATCHED


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(scope: Scope, send: Send, body: bytes, content_type: str) -> None:
    head = [
        (b"content-type", content_type.encode()),
        (LENGTH, b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
