"""What of a request is secret, and its removal from every text: messages, and urllib3's log of the call."""

from __future__ import annotations

import base64
import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
OPEN_HEADERS = {"accept", "accept-encoding", "accept-language", "user-agent"}
SECRET_WORDS = ("key", "token", "secret", "password", "passwd", "auth", "sig", "credential", "session")
SHORTEST = 4  # shorter values are no keys, and their letters stand in other words
LOGGERS = (
    "urllib3.connectionpool", "urllib3.connection", "urllib3.poolmanager", "urllib3.response", "urllib3.util.retry",
)  # fmt: skip


class Mask:
    """Replaces the secrets of a call in any text.

    Args:
        given: what the caller names as secret.
        headers: every value is taken for secret, but for those that only describe the client.
        params: the query's; a value is secret where its name says so (key, token, ...).
        logins: user and password pairs.
    """

    def __init__(
        self,
        given: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
        logins: Iterable[tuple[str, str]] = (),
    ) -> None:
        found = {text for text in given if text}
        for name, value in (headers or {}).items():
            if name.lower() not in OPEN_HEADERS:
                found |= {text for text in (value, *value.split()) if len(text) >= SHORTEST}
        for name, parameter in (params or {}).items():
            if names_a_secret(name) and len(str(parameter)) >= SHORTEST:
                found.add(str(parameter))
        for user, password in logins:
            both = f"{user}:{password}"
            found |= {both, password, base64.b64encode(both.encode()).decode()}
            found |= {user} if len(user) >= SHORTEST else set()
        spelled = {form for text in found - {""} for form in _spellings(text)}
        self._texts = sorted(spelled, key=len, reverse=True)  # a secret that holds another goes first

    def __call__(self, text: str) -> str:
        """Return a text without them."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    @contextlib.contextmanager
    def over_logs(self) -> Iterator[None]:
        """Mask what urllib3 logs in this thread: its debug lines hold the whole address with its query."""
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_FILTER)  # which is added once
        _FILTER.of_thread.mask = self
        try:
            yield
        finally:
            del _FILTER.of_thread.mask


class _Filter(logging.Filter):
    """Stays where it was added, for a filter that goes while another thread logs may take the next one's turn."""

    of_thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record in place; let all pass."""
        mask = getattr(self.of_thread, "mask", None)
        if mask is not None:
            record.msg, record.args = mask(record.getMessage()), ()
            record.exc_info = record.exc_text = None
        return True


_FILTER = _Filter()


def names_a_secret(name: str) -> bool:
    """Tell whether a parameter's name says that its value is a key."""
    return any(word in name.lower() for word in SECRET_WORDS)


def _spellings(text: str) -> set[str]:
    """Return how a text may stand in an address, a header or a quoted string."""
    return {
        text,
        text.strip(),
        quote(text),
        quote(text, safe=""),
        quote_plus(text),
        unquote(text),
        repr(text)[1:-1],
    } - {""}
