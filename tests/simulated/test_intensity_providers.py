"""Each provider against a service that answers as the real one documents, and badly: the right course, or one line."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from greenml.errors import FactorError, GreenMLError, SettingsError
from greenml.factors import _http, intensity_providers, places, watttime
from greenml.factors.types import IntensitySeries, Place

from .http_service import Asked, Reply, Service, json_reply, serve

START = datetime(2026, 3, 1, 10, 10, tzinfo=timezone.utc)
HOUR, HALF = timedelta(hours=1), timedelta(minutes=30)
LONDON, SWEDEN, CALIFORNIA = places.find("uksouth"), places.find("swedencentral"), places.find("azure/westus")
TOKEN, USER, PASSWORD = "em-t0ken-9f31c6", "a.person@example.org", "pa55+word/%40x"
BEARER = "eyJhbGciOiJIUzI1NiJ9.watttimes-own"


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Pauses of a hundredth of what they are; no keys but those of the tests; nothing of an earlier login."""
    monkeypatch.setattr(_http, "FIRST_PAUSE_SECONDS", 0.01)
    for name in ("ELECTRICITY_MAPS_TOKEN", "WATTTIME_USERNAME", "WATTTIME_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_http, "_from_keyring", lambda _: ("", ""))
    watttime._tokens.clear()


@pytest.fixture
def service(monkeypatch) -> Iterator[Callable[..., Service]]:
    """Start a service that stands for all of them, with keys in the environment."""
    with contextlib.ExitStack() as stack:

        def start(replies: Any, *, keys: bool = True) -> Service:
            made = stack.enter_context(serve(replies))
            for name in ("ELECTRICITY_MAPS", "WATTTIME", "UK_GRID"):
                monkeypatch.setenv(f"GREENML_{name}_URL", made.url)
            if keys:
                monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", TOKEN)
                monkeypatch.setenv("WATTTIME_USERNAME", USER)
                monkeypatch.setenv("WATTTIME_PASSWORD", PASSWORD)
            return made

        yield start


def stamps(course: IntensitySeries) -> list[tuple[str, str, float]]:
    return [(f"{slot.start:%d %H:%M}", f"{slot.end:%H:%M}", round(slot.grams_per_kwh, 6)) for slot in course.slots]


# Great Britain


def half_hours(first: datetime, *figures: tuple[int | None, int | None]) -> list[dict[str, Any]]:
    """Rows as NESO documents them: (forecast, actual); actual "absent" in the regional ones."""
    rows = []
    for at, (forecast, actual) in enumerate(figures):
        begin = first + at * HALF
        row = {"from": f"{begin:%Y-%m-%dT%H:%MZ}", "to": f"{begin + HALF:%Y-%m-%dT%H:%MZ}"}
        rows.append({**row, "intensity": {"forecast": forecast, "actual": actual, "index": "moderate"}})
    return rows


def test_uk_national_prefers_the_actual_figures(service):
    rows = half_hours(START.replace(minute=0) - HALF, (1, 1), (266, 263), (250, None), (None, None), (240, 0))
    asked = service([json_reply({"data": rows})]).asked
    course = intensity_providers.series("uk_grid:national", LONDON, START, START + timedelta(minutes=95))
    assert [one.path for one in asked] == ["/intensity/2026-03-01T10:00Z/2026-03-01T12:00Z"]
    assert stamps(course) == [("01 10:00", "10:30", 263), ("01 10:30", "11:00", 250), ("01 11:30", "12:00", 0)]
    assert (course.signal, course.basis, course.area) == ("average", "direct", "Great Britain")
    assert "forecast" in course.note
    assert 0.1 < course.uncertainty_ratio < 0.2


def test_uk_region_of_the_place(service):
    rows = half_hours(START.replace(minute=0), (160, None), (170, None))
    for row in rows:
        del row["intensity"]["actual"]
    reply = json_reply({"data": {"regionid": 13, "dnoregion": "UKPN London", "shortname": "London", "data": rows}})
    asked = service([reply]).asked
    course = intensity_providers.series("uk_grid", LONDON, START, START + HALF)
    assert asked[0].path == "/regional/intensity/2026-03-01T10:00Z/2026-03-01T11:00Z/regionid/13"
    assert (course.area, course.uncertainty_ratio) == ("London (13)", 0.2)
    assert stamps(course) == [("01 10:00", "10:30", 160), ("01 10:30", "11:00", 170)]
    assert intensity_providers.series("uk_grid:sw1", LONDON, START, START + HALF).slots == course.slots
    assert asked[1].path.endswith("/postcode/SW1")


def test_uk_asks_a_long_time_in_pieces(service):
    """30 days are more than the 14 of a call; the answers' edges overlap, and no half hour counts twice."""

    def reply(asked: Asked) -> Reply:
        first, last = (datetime.strptime(part, "%Y-%m-%dT%H:%MZ") for part in asked.path.split("/")[2:4])
        assert last - first <= timedelta(days=14) - HALF
        count = (last - first) // HALF + 1
        return json_reply({"data": half_hours(first - HALF, *[(100, 100)] * count)})

    made = service(reply)
    course = intensity_providers.series("uk_grid:national", LONDON, START, START + timedelta(days=30))
    assert len(made.asked) == 3
    assert len(course.slots) == 30 * 48 + 1, "the first and the last half hour are met in part"
    assert all(slot.end == other.start for slot, other in zip(course.slots, course.slots[1:], strict=False))
    assert course.uncertainty_ratio == 0.1


@pytest.mark.parametrize(
    ("provider", "place", "says"),
    [
        ("uk_grid", SWEDEN, "it knows Great Britain only, and the run was in Sweden Central"),
        ("uk_grid", Place(), "an unknown place"),
        ("uk_grid:18", LONDON, "unknown area '18'; give 1 to 17"),
        ("uk_grid:../x", LONDON, "unknown area '../x'"),
        ("electricity_maps", Place(), "give --region, or a zone: electricity_maps:DE"),
        ("watttime", places.find("SWE"), "give its grid region: watttime:CAISO_NORTH"),
    ],
)
def test_a_place_that_a_provider_does_not_know_is_one_line_and_nothing_is_asked(service, provider, place, says):
    made = service([Reply(500)])
    with pytest.raises(FactorError) as error:
        intensity_providers.series(provider, place, START, START + HOUR)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert made.asked == []


# Electricity Maps


def hours(
    first: datetime, *figures: float | None, zone: str = "SE-SE3", estimated: bool = False
) -> list[dict[str, Any]]:
    return [
        {
            "zone": zone, "carbonIntensity": grams, "datetime": f"{first + at * HOUR:%Y-%m-%dT%H:%M:%S.000Z}",
            "updatedAt": "2026-03-02T00:00:00.000Z", "emissionFactorType": "lifecycle", "isEstimated": estimated,
            "estimationMethod": "TIME_SLICER_AVERAGE" if estimated else None,
        }
        for at, grams in enumerate(figures)
    ]  # fmt: skip


def test_electricity_maps_past_hours(service):
    reply = json_reply({"zone": "SE-SE3", "data": hours(START.replace(minute=0), 18, 20.5, None, 30)})
    asked = service([reply]).asked
    course = intensity_providers.series("electricity_maps", SWEDEN, START, START + 3 * HOUR)
    assert [one.path for one in asked] == ["/carbon-intensity/past-range"]
    assert asked[0].headers["auth-token"] == TOKEN
    span = {"start": "2026-03-01T10:00:00Z", "end": "2026-03-01T14:00:00Z"}
    assert asked[0].query.items() >= {"zone": "SE-SE3", "emissionFactorType": "direct", **span}.items()
    assert stamps(course) == [("01 10:00", "11:00", 18), ("01 11:00", "12:00", 20.5), ("01 13:00", "14:00", 30)]
    assert (course.provider, course.signal, course.area, course.basis) == (
        "electricity_maps", "average", "SE-SE3", "direct",
    )  # fmt: skip
    assert (course.uncertainty_ratio, course.note) == (0.1, "")


def test_electricity_maps_in_pieces_of_ten_days(service):
    def reply(asked: Asked) -> Reply:
        first, last = (datetime.strptime(asked.query[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("start", "end"))
        assert last - first <= timedelta(days=10)
        return json_reply({"zone": "DE", "data": hours(first, *[300] * ((last - first) // HOUR), zone="DE")})

    made = service(reply)
    course = intensity_providers.series("electricity_maps:DE", SWEDEN, START, START + timedelta(days=25))
    assert len(made.asked) == 3
    assert len(course.slots) == 25 * 24 + 1
    assert course.area == "DE"


def test_electricity_maps_now(service):
    """The hours of today are told by what every token may ask for; the hour that goes on, by the latest figure."""
    now = datetime.now(timezone.utc)
    this = now.replace(minute=0, second=0, microsecond=0)

    def reply(asked: Asked) -> Reply:
        if asked.path.endswith("history"):
            return json_reply({"zone": "SE-SE3", "history": hours(this - 3 * HOUR, 10, 20, 30)})
        return json_reply(hours(this, 40, estimated=True)[0])

    made = service(reply)
    course = intensity_providers.series("electricity_maps", SWEDEN, now - 2 * HOUR, now)
    assert [one.path.rpartition("/")[2] for one in made.asked] == ["history", "latest"]
    assert [slot.grams_per_kwh for slot in course.slots] == [20, 30, 40]
    assert "estimate" in course.note
    assert course.uncertainty_ratio == pytest.approx(0.1 + 0.1 / 3)


def test_electricity_maps_of_another_zone_is_refused(service):
    """The service has answered for the caller's own place where it did not know the zone."""
    service([json_reply({"zone": "FR", "data": hours(START.replace(minute=0), 18, zone="FR")})])
    with pytest.raises(FactorError, match="it answered for zone 'FR', not 'SE-SE3'"):
        intensity_providers.series("electricity_maps", SWEDEN, START, START + HOUR)


# WattTime


def watttime_service(asked: Asked) -> Reply:
    if asked.path == "/login":
        return (
            json_reply({"token": BEARER}) if asked.headers.get("authorization", "").startswith("Basic ") else Reply(401)
        )
    if asked.headers.get("authorization") != f"Bearer {BEARER}":
        return Reply(401)
    if asked.path == "/v3/region-from-loc":
        told = {"region": "CAISO_NORTH", "region_full_name": "California ISO Northern", "signal_type": "co2_moer"}
        return json_reply(told)
    first, last = (datetime.strptime(asked.query[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("start", "end"))
    assert last - first <= timedelta(days=32)
    rows = [
        {"point_time": f"{first + at * timedelta(minutes=5):%Y-%m-%dT%H:%M:%S+00:00}", "value": 1000.0 + at % 500}
        for at in range((last - first) // timedelta(minutes=5))
    ]
    meta = {"data_point_period_seconds": 300, "region": "CAISO_NORTH", "signal_type": "co2_moer",
            "units": "lbs_co2_per_mwh", "model": {"date": "2026-03-01"}}  # fmt: skip
    return json_reply({"data": rows, "meta": meta})


def test_watttime_is_marginal_and_in_grams(service):
    made = service(watttime_service)
    course = intensity_providers.series("watttime", CALIFORNIA, START, START + timedelta(minutes=12))
    assert [one.path for one in made.asked] == ["/login", "/v3/region-from-loc", "/v3/historical"]
    assert made.asked[1].query == {"latitude": "37.783", "longitude": "-122.417", "signal_type": "co2_moer"}
    assert made.asked[2].query["signal_type"] == "co2_moer"
    assert (course.signal, course.area, course.provider) == ("marginal", "CAISO_NORTH", "watttime")
    assert stamps(course) == [
        ("01 10:10", "10:15", 453.59237), ("01 10:15", "10:20", round(1001 * 0.45359237, 6)),
        ("01 10:20", "10:25", round(1002 * 0.45359237, 6)),
    ]  # fmt: skip
    assert course.uncertainty_ratio == 0.3
    intensity_providers.series("watttime:CAISO_NORTH", CALIFORNIA, START, START + timedelta(days=40))
    assert [one.path for one in made.asked[3:]] == ["/v3/historical"] * 2, "the token is kept for its half hour"


def test_watttime_renews_a_token_that_ended(service):
    refused = iter([Reply(401)])

    def reply(asked: Asked) -> Reply:
        return watttime_service(asked) if asked.path == "/login" else next(refused, watttime_service(asked))

    made = service(reply)
    course = intensity_providers.series("watttime:CAISO_NORTH", CALIFORNIA, START, START + HOUR)
    assert [one.path for one in made.asked] == ["/login", "/v3/historical", "/login", "/v3/historical"]
    assert len(course.slots) == 12


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"region": "CAISO_NORTH", "units": "percentile"}, "in 'percentile', not for 'CAISO_NORTH'"),
        ({"region": "PJM_DC", "units": "lbs_co2_per_mwh"}, "it answered for 'PJM_DC'"),
        ({"region": "CAISO_NORTH", "units": "lbs_co2_per_mwh", "data_point_period_seconds": 0}, "points of 0 s"),
    ],
)
def test_watttime_in_other_units_or_of_another_region_is_refused(service, meta, says):
    service(lambda asked: watttime_service(asked) if asked.path == "/login" else json_reply({"data": [], "meta": meta}))
    with pytest.raises(FactorError, match=re.escape(says)):
        intensity_providers.series("watttime:CAISO_NORTH", CALIFORNIA, START, START + HOUR)


# What goes wrong

FAULTS = {
    "401": (401, "HTTP 401"),
    "403": (Reply(403), "HTTP 403"),
    "404": (404, "HTTP 404"),
    "400": (400, "HTTP 400"),
    "429": (Reply(429, headers={"Retry-After": "3600"}), "try again in 3600 s"),
    "500": (Reply(500, b"<html>"), "HTTP 500"),
    "no json": (Reply(200, b"<html>hello</html>"), "not JSON"),
    "a list": (json_reply([1, 2]), "answer"),
    "nothing in it": (json_reply({"zone": "SE-SE3", "region": "x", "meta": 3}), "interface changed|answered for"),
    "no number": (
        json_reply({"zone": "SE-SE3", "data": [{"datetime": "2026-03-01T10:00Z", "carbonIntensity": "much",
                    "from": "2026-03-01T10:00Z", "to": "2026-03-01T10:30Z", "intensity": {"actual": "much"}}]}),
        "'much' is not a carbon intensity|answered for",
    ),
    "no time": (
        json_reply({"zone": "SE-SE3", "data": [{"datetime": "noon", "carbonIntensity": 5,
                    "from": "noon", "to": "one", "intensity": {"actual": 5}}]}),
        "'noon' is not an ISO 8601 time|answered for",
    ),
    "the key for a figure": (
        json_reply({"zone": "SE-SE3", "region": PASSWORD, "data": [{"datetime": TOKEN, "carbonIntensity": TOKEN,
                    "from": "2026-03-01T10:00Z", "to": "2026-03-01T10:30Z", "intensity": {"actual": "much"}}]}),
        "not an ISO 8601|not a carbon intensity|answered for",
    ),
    "cut": (Reply(200, b'{"data": ' + b" " * 100_000, how="cut"), "connection failed|silent"),
    "reset": (Reply(how="reset"), "connection failed"),
}  # fmt: skip
ASKED = {"uk_grid:national": LONDON, "electricity_maps": SWEDEN, "watttime:CAISO_NORTH": CALIFORNIA}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("provider", ASKED)
def test_a_fault_is_one_line_without_a_key(service, caplog, capsys, provider, fault):
    """Show 5, for exceptions and logs: whatever goes wrong, the keys are in no text of it."""
    told, says = FAULTS[fault]

    def reply(asked: Asked) -> Reply:
        if asked.path == "/login" and fault != "401":
            return json_reply({"token": BEARER})
        if isinstance(told, Reply):
            return told
        sent = asked.headers.get("auth-token") or asked.headers.get("authorization", "")
        return json_reply({"message": f"not for {sent}"}, told)  # it says the key back

    service(reply)
    stream = io.StringIO()
    listener = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(listener)
    try:
        with caplog.at_level(logging.DEBUG), pytest.raises(GreenMLError) as caught:
            intensity_providers.series(provider, ASKED[provider], START, START + HOUR)
    finally:
        root.removeHandler(listener)
    error: BaseException | None = caught.value
    assert re.search(says, str(error)), str(error)
    assert str(error).startswith(provider.partition(":")[0])
    assert "\n" not in str(error)
    chain = []
    while error is not None:
        chain += [str(error), repr(error), repr(error.args), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    out = capsys.readouterr()
    for text in (*chain, stream.getvalue(), caplog.text, out.out, out.err):
        for secret in (TOKEN, PASSWORD, USER, BEARER, "YS5wZXJzb25AZXhhbXBsZS5vcmc6"):
            assert secret not in text


@pytest.mark.parametrize("provider", ["electricity_maps", "watttime"])
def test_no_key_is_one_line_that_says_where_it_goes(service, provider):
    made = service([Reply(500)], keys=False)
    with pytest.raises(FactorError) as error:
        intensity_providers.series(f"{provider}:X", SWEDEN, START, START + HOUR)
    variable = {"electricity_maps": "ELECTRICITY_MAPS_TOKEN", "watttime": "WATTTIME_USERNAME"}[provider]
    assert str(error.value) == f"{provider} needs a key: set {variable}, or 'keyring set greenml {variable}'"
    assert made.asked == []


def test_the_keyring_has_what_the_environment_has_not(monkeypatch):
    import keyring
    from keyring.backend import KeyringBackend

    class Chain(KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            if username == "BROKEN":
                raise RuntimeError("the value was hunter2")
            return "from-the-keyring" if (service, username) == ("greenml", "ELECTRICITY_MAPS_TOKEN") else None

        def set_password(self, service: str, username: str, password: str) -> None:
            raise NotImplementedError

        def delete_password(self, service: str, username: str) -> None:
            raise NotImplementedError

    monkeypatch.undo()  # the fixture's own stand-in
    monkeypatch.delenv("ELECTRICITY_MAPS_TOKEN", raising=False)
    before = keyring.get_keyring()
    keyring.set_keyring(Chain())
    try:
        assert _http.find_key("ELECTRICITY_MAPS_TOKEN", "x") == "from-the-keyring"
        monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", " first ")
        assert _http.find_key("ELECTRICITY_MAPS_TOKEN", "x") == "first"
        with pytest.raises(FactorError, match="needs a key"):
            _http.find_key("NO_SUCH_KEY", "x")
        with pytest.raises(FactorError) as error:
            _http.find_key("BROKEN", "x")
        assert "RuntimeError" in str(error.value)
        assert "hunter2" not in "".join(traceback.format_exception(error.value))
    finally:
        keyring.set_keyring(before)


def test_an_address_that_is_not_https_is_refused(monkeypatch):
    monkeypatch.setenv("GREENML_UK_GRID_URL", "http://example.org")
    with pytest.raises(FactorError, match="not an https address"):
        intensity_providers.series("uk_grid", LONDON, START, START + HOUR)


def test_a_time_without_figures_is_one_line(service):
    service([json_reply({"data": []})])
    with pytest.raises(FactorError, match="uk_grid: it has nothing for Great Britain from 2026-03-01 10:10 to"):
        intensity_providers.series("uk_grid:national", LONDON, START, START + HOUR)


# A file of the user's own


def own(folder: Path, text: str, name: str = "grid.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_csv_of_ones_own(tmp_path: Path):
    text = (
        "\ufeffTime;G_per_kWh;comment\n2026-03-01T11:00:00+01:00;100;a\n2026-03-01T10:30:00Z;250.5;b\n\n"
        "2026-03-01T11:00:00.5Z;;gap\n2026-03-01T11:30:00Z;300;c\n"
    )
    course = intensity_providers.series(own(tmp_path, text), Place(), START, START + 2 * HOUR)
    assert stamps(course) == [("01 10:00", "10:30", 100), ("01 10:30", "11:00", 250.5), ("01 11:30", "11:59", 300)]
    assert (course.provider, course.signal, course.uncertainty_ratio) == ("grid.csv", "average", 0.0)
    assert str(tmp_path) not in repr(course), "a record names the file, not where it lies"
    marginal = text.replace("G_per_kWh", "marginal_g_per_kwh")
    assert intensity_providers.series(own(tmp_path, marginal), Place(), START, START + HOUR).signal == "marginal"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("a,b\n1,2\n", "its header is 'a, b'"),
        ("time,g_per_kwh\n2026-03-01T10:00:00,100\n", "line 2: the time '2026-03-01T10:00:00' has no offset"),
        ("time,g_per_kwh\n2026-03-01,100\n", "has no offset"),
        ("time,g_per_kwh\nnoon,100\n", "line 2: 'noon' is not an ISO 8601 time"),
        ("time,g_per_kwh\n2026-03-01T10:00Z\n", "line 2: it has 1 cells"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,x\n", "line 2: 'x' is not a carbon intensity"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,-1\n", "line 2: '-1' is not a carbon intensity of 0 to 3000"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,nan\n", "line 2: 'nan' is not"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,1e9\n", "line 2: '1e9' is not"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,100\n", "two rows at least"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,100\n2026-03-01T10:00Z,100\n", "line 3: its time is not after"),
        ("time,g_per_kwh\n2026-03-01T10:00Z,0.1\n2026-03-01T11:00Z,0.3\n", "look like kg/kWh"),
    ],
)
def test_a_csv_that_is_wrong_is_one_line(tmp_path: Path, text, says):
    with pytest.raises(FactorError) as error:
        intensity_providers.series(own(tmp_path, text), Place(), START, START + HOUR)
    assert says in str(error.value)
    assert "grid.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path):
    (tmp_path / "grid.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FactorError, match="not UTF-8"):
        intensity_providers.series(str(tmp_path / "grid.csv"), Place(), START, START + HOUR)


@pytest.mark.parametrize("name", intensity_providers.providers())
def test_a_provider_is_one_file_with_one_contract(name):
    module = importlib.import_module(f"greenml.factors.{name}")
    assert list(inspect.signature(module.series).parameters) == ["place", "area", "start", "end", "basis"]
    assert intensity_providers.resolution_seconds(name) == module.RESOLUTION_SECONDS
    assert 60 <= intensity_providers.resolution_seconds(name) <= 3600
    assert module.URL.startswith("https://")


def test_who_can_be_asked():
    assert intensity_providers.providers() == ["electricity_maps", "uk_grid", "watttime"]
    for name in ("Electricity-Maps", "uk_grid:13", "watttime"):
        intensity_providers.check(name)
    with pytest.raises(SettingsError, match="give electricity_maps, uk_grid, watttime, or a CSV file"):
        intensity_providers.check("nobody")
    assert intensity_providers.label("/home/someone/grid.csv") == "grid.csv"
    assert intensity_providers.label("uk_grid:13") == "uk_grid:13"
