"""The HTTP client against services that answer badly: a right result or one clear line, and no key anywhere."""

from __future__ import annotations

import gzip
import json
import logging
import random
import socket
import threading
import time
import traceback
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from greenml.errors import FactorError
from greenml.factors._http import ServiceError, get_json

from .http_service import Reply, json_reply, serve

KEY = 's3cr3t/Key+with=signs%and"more'
GOOD = {"zone": "DE", "data": [{"carbonIntensity": 302}, {"carbonIntensity": 71.5}]}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def pauses():
    return []


def ask(service, pauses, **changes):
    settings = {"who": "Grid Service", "deadline_seconds": 20.0, "wait": pauses.append} | changes
    return get_json(
        service.url + changes.pop("path", "/v3/latest"), **{k: v for k, v in settings.items() if k != "path"}
    )


def failure(service, pauses, **changes) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        ask(service, pauses, **changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("Grid Service: ")
    return caught.value


def test_json_is_returned_and_what_was_asked_arrives(pauses):
    with serve([json_reply(GOOD)]) as service:
        got = ask(service, pauses, params={"zone": "DE", "hours": 24}, headers={"auth-token": "abcd1234"})
    assert got == GOOD
    (asked,) = service.asked
    assert (asked.method, asked.path, asked.query) == ("GET", "/v3/latest", {"zone": "DE", "hours": "24"})
    assert asked.headers["auth-token"] == "abcd1234"
    assert asked.headers["user-agent"] == "greenml"
    assert "authorization" not in asked.headers
    assert pauses == []


def test_a_compressed_answer_is_read(pauses):
    body = gzip.compress(json.dumps(GOOD).encode())
    with serve([Reply(200, body, {"Content-Encoding": "gzip"})]) as service:
        assert ask(service, pauses) == GOOD


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        (Reply(500), 500),
        (Reply(502, b"<html>Bad gateway</html>"), 502),
        (Reply(503), 503),
        (Reply(429), 429),
        (Reply(408), 408),
        (Reply(how="reset"), 0),
        (Reply(200, json.dumps(GOOD).encode(), how="cut"), 0),
    ],
    ids=lambda value: f"{value.status}-{value.how}" if isinstance(value, Reply) else "",
)
def test_what_passes_is_asked_again_with_growing_pauses(trouble, status, pauses):
    drawn = random.getstate()
    with serve([trouble, trouble, json_reply(GOOD)]) as service:
        assert ask(service, pauses) == GOOD
    assert random.getstate() == drawn, "a training's shuffling hangs on no service"
    assert len(service.asked) == 3
    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 2.0

    with serve([trouble]) as service:
        error = failure(service, [], attempts=3)
    assert len(service.asked) == 3
    assert error.status == status
    assert "3 attempts" in str(error)
    assert "try again later" in str(error)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "check that it is whole and still valid"), (403, "may not cover this place or time"), (404, "nothing there"),
     (400, "did not accept the request (HTTP 400): The zone XX is not known"), (501, "fault"), (204, "HTTP 204"),
     (304, "HTTP 304")],
)  # fmt: skip
def test_a_status_is_one_line_and_what_stays_wrong_is_asked_once(status, words, pauses):
    body = {"error": {"code": "Bad", "message": "The zone XX\n is not\u0007 known"}}
    reply = Reply(status) if status in (204, 304) else json_reply(body, status)
    with serve([reply]) as service:
        error = failure(service, pauses, attempts=2)
    assert words in " ".join(str(error).split())
    assert error.status == status
    assert len(service.asked) == (2 if status == 501 else 1)


def test_retry_after_is_waited_for(pauses):
    with serve([Reply(429, headers={"Retry-After": "7"}), json_reply(GOOD)]) as service:
        assert ask(service, pauses) == GOOD
    assert pauses == [7.0]


def test_retry_after_as_a_date(pauses):
    then = datetime.now(timezone.utc) + timedelta(seconds=12)
    with serve([Reply(503, headers={"Retry-After": format_datetime(then, usegmt=True)}), json_reply(GOOD)]) as service:
        assert ask(service, pauses) == GOOD
    assert 8 < pauses[0] <= 12


def test_a_retry_after_beyond_the_deadline_is_not_sat_out(pauses):
    with serve([Reply(429, headers={"Retry-After": "3600"})]) as service:
        error = failure(service, pauses)
    assert pauses == []
    assert len(service.asked) == 1
    assert error.retry_after_seconds == 3600
    assert "try again in 3600 s" in str(error)


@pytest.mark.parametrize("text", ["soon", "-5", "١٢", "", "Fri, 99 Foo 2026"])
def test_a_retry_after_that_says_nothing_leaves_the_usual_pause(text, pauses):
    with serve([Reply(429, headers={"Retry-After": text.encode().decode("latin-1")}), json_reply(GOOD)]) as service:
        assert ask(service, pauses) == GOOD
    assert 0.5 <= pauses[0] <= 1.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>Please log in</html>", "is not JSON"),
        (b'{"zone": "DE", "da', "is not JSON"),
        (b"\xff\xfe\xfa", "is not JSON"),
        (b'{"grams": NaN}', "is not JSON"),
        (b"  ", "is empty"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_malformed_json_is_one_line_and_asked_once(body, words, pauses):
    with serve([Reply(200, body)]) as service:
        error = failure(service, pauses)
    assert words in str(error)
    assert len(service.asked) == 1


def test_a_body_that_never_ends_is_cut_off(pauses):
    with serve([Reply(how="endless")]) as service:
        error = failure(service, pauses, most_bytes=1_000_000)
        assert "longer than 1 MB" in str(error)
        assert no_thread_left()
    assert len(service.asked) == 1


@pytest.mark.parametrize("how", ["endless", "stall", "silent", "drip", "drip_headers"])
def test_whatever_the_other_side_does_the_call_and_its_thread_end(how, pauses):
    """The service would go on for ever: that this test ends is its assertion; the thread is gone before the service."""
    reply = Reply(200, json.dumps(GOOD).encode() * 50, how=how)
    with serve([reply]) as service:
        error = failure(service, pauses, deadline_seconds=0.6, attempts=1, most_bytes=10**12)
        assert no_thread_left()
    assert error.status == 0
    assert any(words in str(error) for words in ("no whole answer within", "it fell silent"))


def test_a_silence_shorter_than_the_deadline_is_asked_again(pauses):
    with serve([Reply(how="silent"), json_reply(GOOD)]) as service:
        assert ask(service, pauses, deadline_seconds=3.0, wait=lambda _: None) == GOOD
    assert len(service.asked) == 2


def no_thread_left() -> bool:
    """Whether the client's threads end while the service still talks."""
    for _ in range(500):
        if not [one for one in threading.enumerate() if one.name == "greenml-http"]:
            return True
        time.sleep(0.02)
    return False


def test_nobody_there(pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FactorError, match=r"Grid Service: the connection failed.*refused.*2 attempts"):
        get_json(f"http://127.0.0.1:{port}/", who="Grid Service", attempts=2, wait=pauses.append)
    assert len(pauses) == 1


def test_a_name_that_does_not_exist(pauses):
    with pytest.raises(FactorError, match=r"Grid Service: .*(name cannot be resolved|fell silent|no whole answer)"):
        get_json("https://service.invalid/", who="Grid Service", attempts=1, deadline_seconds=15)


@pytest.mark.parametrize("url", ["http://prices.azure.com/x", "ftp://127.0.0.1/x", "prices.azure.com", "https://", ""])
def test_only_https_or_this_machine(url):
    with pytest.raises(ServiceError, match=r"Grid Service: .*is not an https address"):
        get_json(url, who="Grid Service")


def test_a_redirect_on_the_same_host_keeps_the_key_and_another_host_gets_none(pauses):
    with serve([json_reply(GOOD)]) as other:
        there = f"http://localhost:{other.port}/elsewhere?zone=FR"

        def reply(asked):
            return Reply(302, headers={"Location": "/second" if asked.path == "/v3/latest" else there})

        with serve(reply) as service:
            got = ask(service, pauses, headers={"auth-token": KEY}, auth=("ada", KEY), params={"zone": "DE"})
    assert got == GOOD
    first, second = service.asked
    assert first.headers["auth-token"] == second.headers["auth-token"] == KEY
    assert first.headers["authorization"] == second.headers["authorization"]
    (foreign,) = other.asked
    assert foreign.query == {"zone": "FR"}
    assert KEY not in str(foreign.headers)
    assert not {"auth-token", "authorization"} & set(foreign.headers)


def test_redirects_end_and_never_leave_https(pauses):
    with serve([Reply(302, headers={"Location": "/again"})]) as service:
        assert "redirects more than 5 times" in str(failure(service, pauses))
    assert len(service.asked) == 6
    with serve([Reply(301, headers={"Location": "http://example.org/"})]) as service:
        assert "not https" in str(failure(service, pauses))


def test_a_proxy_of_the_environment_is_used(pauses, monkeypatch):
    with serve([json_reply(GOOD)]) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:{'pw' * 4}@127.0.0.1:{proxy.port}")
        assert get_json("http://localhost:1/v3", who="Grid Service", wait=pauses.append) == GOOD
    assert proxy.asked[0].headers["host"] == "localhost:1"


def test_what_netrc_has_for_the_host_is_not_sent(pauses, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password lovelace\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve([json_reply(GOOD)]) as service:
        ask(service, pauses)
    assert "authorization" not in service.asked[0].headers


def everything_said(error: BaseException) -> str:
    """An exception's text, repr, arguments, traceback, and those of all that hang on it, seen or suppressed."""
    chain, said = [error], []
    for one in chain:
        said += [str(one), repr(one), repr(one.args), repr(vars(one)), *traceback.format_exception(one)]
        chain += [other for other in (one.__cause__, one.__context__) if other is not None and other not in chain]
    return "\n".join(said)


def spellings(key: str) -> list[str]:
    import base64
    from urllib.parse import quote, quote_plus

    return [key, quote(key), quote(key, safe=""), quote_plus(key), base64.b64encode(f"ada:{key}".encode()).decode()]


ECHO = {
    "refused": lambda asked: json_reply({"message": f"bad request of {asked.headers} {asked.query}"}, 400),
    "unknown": lambda asked: json_reply({"message": f"{asked.headers} {asked.query}"}, 404),
    "401": lambda asked: json_reply({"message": f"key {asked.headers}"}, 401),
    "500": lambda asked: Reply(500),
    "no JSON": lambda asked: Reply(200, f"{asked.headers} {asked.query}".encode()),
    "reset": lambda asked: Reply(how="reset"),
    "cut": lambda asked: Reply(200, b"x" * 100, how="cut"),
    "silent": lambda asked: Reply(how="silent"),
    "redirect": lambda asked: Reply(302, headers={"Location": f"http://{KEY.replace('/', '')}.example.org/"}),
    "bad header": lambda asked: Reply(200, b"{}", {"X-Bad\r\nno colon here": "x"}),
    "no gzip": lambda asked: Reply(200, b"plain", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize(
    "where", ["header", "bearer", "parameter", "login", "address", "query of the address", "named"]
)
@pytest.mark.parametrize("trouble", ECHO)
def test_a_key_is_in_no_text_and_no_log(trouble, where, caplog, capfd, monkeypatch, tmp_path):
    import http.client
    from urllib.parse import quote

    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)  # prints every header, where it is let
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    with serve(ECHO[trouble]) as service:
        url, given = service.url + "/v3", {}
        if where == "header":
            given = {"headers": {"auth-token": KEY}}
        elif where == "bearer":
            given = {"headers": {"Authorization": f"Bearer {KEY}"}}
        elif where == "parameter":
            given = {"params": {"access_token": KEY, "zone": "DE"}}
        elif where == "login":
            given = {"auth": ("ada", KEY)}
        elif where == "address":
            url = url.replace("//", f"//ada:{quote(KEY, safe='')}@")
        elif where == "query of the address":
            url += f"?api_key={quote(KEY, safe='')}&zone=DE"
        else:
            given = {"params": {"q": KEY}, "secrets": [KEY]}
        failed = []
        try:
            get_json(url, who="Grid Service", deadline_seconds=0.8, attempts=2, wait=lambda _: None, **given)
        except FactorError as error:
            failed.append(error)
        asked = str(service.asked)
    assert bool(failed) == (trouble != "bad header")
    assert all(error.__cause__ is error.__context__ is None for error in failed)
    said = "".join(map(everything_said, failed))
    logging.getLogger("urllib3.connectionpool").debug("another library's request")
    printed = capfd.readouterr()
    logged = caplog.text + "".join(
        f"{record.getMessage()}{record.args}{record.exc_text}{vars(record)}" for record in caplog.records
    )
    assert "another library's request" in logged  # the log was watched, and only our own lines are dropped
    assert any(form in asked for form in spellings(KEY)) or repr(KEY)[1:-1] in asked  # the key was sent
    for text in (said, logged, printed.out, printed.err):
        assert not any(form in text for form in spellings(KEY))
        assert "s3cr3t" not in text
    assert list(tmp_path.iterdir()) == []
