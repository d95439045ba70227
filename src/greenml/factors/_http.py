"""Asking a service for JSON, with patience and an end: the one way in which factors reach the network.

Every error is one line that says who failed, how, and what to do, and that holds no key. Nothing here is called unless
a command or a setting names the service.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from greenml.errors import FactorError
from greenml.factors._secrets import Mask
from greenml.factors._transport import Answer, Request, ask, is_safe

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
TOO_MANY, TIMED_OUT = 429, 408
QUOTED_LETTERS = 160


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


def get_json(
    url: str,
    *,
    who: str,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    deadline_seconds: float = 30.0,
    tries: int = 5,
    most_bytes: int = 20_000_000,
    secrets: Iterable[str] = (),
    wait: Callable[[float], object] = time.sleep,
) -> Any:  # noqa: ANN401  whatever JSON holds
    """Ask an address for JSON and return what it says.

    Asked again, with a growing random pause or the one that Retry-After names: HTTP 429, 408 and 5xx, a connection that
    fails or falls silent. Not asked again: HTTP 400, 401, 403, 404, an answer that is no JSON or too long.

    Args:
        url: https, or http on this machine. A user and password in it are used and never shown.
        who: the service's name, for messages.
        params: of the query.
        headers: sent to this host alone, not where it redirects to. Their values count as secret.
        auth: user and password.
        deadline_seconds: of the whole call, pauses included. A third of it is the longest silence borne.
        tries: at most.
        most_bytes: of the answer.
        secrets: further texts that must not be shown.
        wait: is called with each pause, in seconds; ``threading.Event().wait`` ends one early.

    Raises:
        ServiceError: there is no answer that can be used.
    """
    clean, login = _without_login(url)
    query = {**dict(parse_qsl(urlsplit(clean).query)), **(params or {})}
    mask = Mask(secrets, headers, query, [one for one in (auth, login) if one])
    if not is_safe(clean):
        raise ServiceError(mask(f"{who}: {_bare(clean)!r} is not an https address; give one that begins with https://"))
    request = Request(
        url=clean,
        params=params,
        headers={"Accept": "application/json", "User-Agent": "greenml", **(headers or {})},
        auth=auth or login,
        idle_seconds=deadline_seconds / 3,
        most_bytes=most_bytes,
    )
    end = time.monotonic() + deadline_seconds
    for number in range(1, tries + 1):
        left = end - time.monotonic()
        answer = ask(request, max(left, 0.001), mask)
        pause = _pause(answer, number)
        last = number == tries or not _passing(answer) or pause >= end - time.monotonic()
        if last:
            break
        wait(pause)
    error = _error(answer, who, number, mask)
    if error is None:
        value, words = _parsed(answer.body)
        if not words:
            return value
        error = ServiceError(f"{who}: {words}; try again, and if it stays so look whether a proxy answers in its place")
    # Raised here, outside of every except block: no exception of a library hangs on it.
    raise ServiceError(
        " ".join(mask(str(error)).split()), status=error.status, retry_after_seconds=error.retry_after_seconds
    )


def _without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return an address without the user and password in it, and those."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def _bare(url: str) -> str:
    """Return an address without its query."""
    return url.partition("?")[0]


def _passing(answer: Answer) -> bool:
    return answer.passing or answer.status in (TOO_MANY, TIMED_OUT) or answer.status >= 500


def _pause(answer: Answer, number: int) -> float:
    """Return how many seconds to wait before the next try: as told, else twice as long each time, less up to a half.

    The half is drawn, so that many clients do not come back at once. Source of Retry-After: RFC 9110, 10.2.3.
    """
    told = _retry_after(answer)
    if told is not None:
        return told
    longest = min(FIRST_PAUSE_SECONDS * 2.0 ** (number - 1), LONGEST_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  no secret hangs on it


def _retry_after(answer: Answer) -> float | None:
    text = (answer.headers or {}).get("retry-after", "").strip()
    if not _passing(answer) or not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())


def _error(answer: Answer, who: str, tries: int, mask: Mask) -> ServiceError | None:
    """Return what is wrong with an answer, None for nothing."""
    times = f" ({tries} tries)" if tries > 1 else ""
    status, told = answer.status, _retry_after(answer)
    if answer.problem:
        return ServiceError(f"{who}: {answer.problem}{times}; try again later")
    if status == 200:
        return None
    if status == 401:
        text = "it does not know the key or login (HTTP 401); check that it is whole and still valid"
    elif status == 403:
        text = "it refuses the request (HTTP 403); the key or plan may not cover this place or time"
    elif status == TOO_MANY:
        when = f"in {told:.0f} s" if told else "later"
        text = f"too many requests (HTTP 429){times}; try again {when}"
    elif status >= 500 or status == TIMED_OUT:
        text = f"the service has a fault (HTTP {status}){times}; try again later"
    elif status == 404:
        text = f"it has nothing there (HTTP 404){_words(answer.body, mask)}; check the place, the time and the address"
    else:
        text = f"it did not accept the request (HTTP {status}){_words(answer.body, mask)}"
    return ServiceError(f"{who}: {text}", status=status, retry_after_seconds=told)


def _words(body: bytes, mask: Mask) -> str:
    """Return what the service itself says of an error, shortened, after a colon; empty where that is not readable."""
    value, wrong = _parsed(body)
    for _ in range(3):
        if wrong or not isinstance(value, dict):
            break
        lower = {str(name).lower(): inner for name, inner in value.items()}
        value = next((lower[name] for name in ("message", "detail", "error", "title") if lower.get(name)), None)
    if wrong or not isinstance(value, str):
        return ""
    shown = "".join(letter if letter.isprintable() else " " for letter in mask(value))  # masked before it is cut
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
        return None, "its answer is no JSON"
