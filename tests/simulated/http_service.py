"""A service on 127.0.0.1 that answers as it is told, well or badly, and remembers what it was asked.

    with serve([json_reply({"x": 1}), Reply(429, headers={"Retry-After": "7"})]) as service:
        ... service.url ...
        assert service.asked[0].query == {"zone": "DE"}

Replies are given one a request, the last one again and again; or give a function from what was asked to a reply. The
service ends with its ``with`` block, and every connection that it holds up ends with it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

PIECE = b" " * 65_536
DRIP_SECONDS = 0.05


@dataclass(frozen=True)
class Asked:
    """A request: header names in lower case, the query decoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What to answer, and how.

    Attributes:
        how: ``whole``; ``endless``: spaces without end; ``stall``: the headers and half of the body, then nothing;
            ``silent``: not even a status line; ``drip``: a byte each 50 ms; ``drip_headers``: so from the first
            letter of the status line on; ``cut``: the connection ends in the middle of the body; ``reset``: it is
            reset before an answer; ``garbage``: what is no HTTP.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    how: Literal["whole", "endless", "stall", "silent", "drip", "drip_headers", "cut", "reset", "garbage"] = "whole"


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    """A reply with a JSON body."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


class Service:
    """A service that runs. ``asked`` grows by one a request, before it is answered."""

    def __init__(self, replies: Sequence[Reply] | Callable[[Asked], Reply]) -> None:
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        self._replies = replies
        self._lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.service = self

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reply_to(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            number = len(self.asked) - 1
        if callable(self._replies):
            return self._replies(asked)
        return self._replies[min(number, len(self._replies) - 1)]


@contextlib.contextmanager
def serve(replies: Sequence[Reply] | Callable[[Asked], Reply]) -> Iterator[Service]:
    service = Service(replies)
    thread = threading.Thread(target=service.server.serve_forever, args=(0.02,), name="http-service", daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ended.set()
        service.server.shutdown()
        service.server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True  # no connection outlives the test
    service: Service

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(headers.get("content-length", 0)))
        reply = self.server.service.reply_to(Asked(self.command, parts.path, query, headers, body))
        self.close_connection = True
        try:
            self._answer(reply)
        except OSError:  # the client hung up
            self.connection.close()

    do_POST = do_GET  # noqa: N815  as http.server calls it

    def _answer(self, reply: Reply) -> None:
        ended = self.server.service.ended
        if reply.how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif reply.how == "garbage":
            self.wfile.write(b"+OK this is no HTTP\r\n\r\n")
        elif reply.how == "silent":
            ended.wait()
        elif reply.how == "drip_headers":
            self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100_000)
        else:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.how != "endless":
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            half = len(reply.body) // 2
            if reply.how == "endless":
                while not ended.is_set():
                    self.wfile.write(PIECE)
            elif reply.how == "drip":
                self._drip(reply.body)
            elif reply.how == "stall":
                self.wfile.write(reply.body[:half])
                ended.wait()
            else:
                self.wfile.write(reply.body[:half] if reply.how == "cut" else reply.body)

    def _drip(self, text: bytes) -> None:
        for number in range(len(text)):
            if self.server.service.ended.wait(DRIP_SECONDS):
                return
            self.wfile.write(text[number : number + 1])

    def log_message(self, *_: object) -> None:
        """Silent: what was asked is in ``asked``."""
