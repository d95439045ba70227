"""The marginal emission rate of a grid region by five minutes: WattTime API v3, with a login.

Shapes: https://docs.watttime.org (``/login`` gives a token of 30 minutes, ``/v3/region-from-loc``, ``/v3/historical``
with ``signal_type=co2_moer``, 32 days a call). MOER is what the plants that follow one kWh more emit: a marginal
figure, never to be mixed with averages. It is of CO2 at the stack, in pounds a MWh.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from typing import Any

from greenml.errors import FactorError
from greenml.factors import tables
from greenml.factors._http import ServiceError, find_key, get_json, remember_key
from greenml.factors.intensity_providers import entries, grams, pieces, rounded, utc
from greenml.factors.types import IntensitySeries, IntensitySlot, Place, Source

WHO = "watttime"
RESOLUTION_SECONDS = 300.0
URL = "https://api.watttime.org"
USERNAME, PASSWORD = "WATTTIME_USERNAME", "WATTTIME_PASSWORD"
SIGNAL, UNITS = "co2_moer", "lbs_co2_per_mwh"
GRAMS_PER_POUND = 453.59237  # exact: the international pound
MOST_DAYS = timedelta(days=32)
UNCERTAINTY = 0.3  # docs/method.md, section 4
TOKEN_SECONDS = 25 * 60.0  # of its 30 minutes

# The token of a login, until it ends: a run asks every five minutes, and logins are rationed.
_tokens: dict[tuple[str, str], tuple[float, str]] = {}


def series(place: Place, area: str, start: datetime, end: datetime, basis: str) -> IntensitySeries:
    """Return the marginal emission rate of a grid region.

    Args:
        place: a cloud's region, whose coordinates tell the grid region.
        area: a grid region (``CAISO_NORTH``), or "" for the place's.
        start: of the stretch, UTC.
        end: of it.
        basis: not needed: the service has direct figures only.

    Raises:
        FactorError: there is no login or no region, or the service has no answer.
    """
    region = area or _region(place)
    slots: dict[datetime, IntensitySlot] = {}
    first, last = rounded(start, end, timedelta(seconds=RESOLUTION_SECONDS))
    for piece in pieces(first, last, MOST_DAYS):
        span = {name: f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in zip(("start", "end"), piece, strict=True)}
        value = _ask("/v3/historical", region=region, signal_type=SIGNAL, **span)
        meta = value.get("meta")
        known = meta if isinstance(meta, dict) else {}
        if known.get("units") != UNITS or known.get("region") != region:
            answered = f"{known.get('region')!r} in {known.get('units')!r}"[:60]
            raise FactorError(f"{WHO}: it answered for {answered}, not for {region!r} in {UNITS!r}")
        step = timedelta(seconds=_period(known))
        for entry in entries(value, "data", WHO):
            at = utc(entry.get("point_time"), WHO)
            if entry.get("value") is not None:
                slots[at] = IntensitySlot(at, at + step, _grams(entry["value"]))
    return IntensitySeries(
        provider=WHO,
        signal="marginal",
        area=region,
        slots=tuple(slots[at] for at in sorted(slots)),
        source=Source("WattTime", "https://watttime.org", f"{datetime.now(timezone.utc):%Y-%m-%d}"),
        basis="direct",
        note="marginal operating emissions rate, CO2 only",
        uncertainty_ratio=UNCERTAINTY,
    )


def _grams(pounds_per_mwh: object) -> float:
    if isinstance(pounds_per_mwh, bool) or not isinstance(pounds_per_mwh, int | float):
        raise FactorError(f"{WHO}: {str(pounds_per_mwh)[:40]!r} is not an emission rate")
    return grams(pounds_per_mwh * GRAMS_PER_POUND / 1000.0, WHO)


def _period(meta: dict[str, Any]) -> float:
    seconds = meta.get("data_point_period_seconds", RESOLUTION_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= 86_400:
        raise FactorError(f"{WHO}: its answer has points of {str(seconds)[:20]} s; has its interface changed?")
    return float(seconds)


def _region(place: Place) -> str:
    rows = tables.rows("regions")
    row = next(
        (row for row in rows if place.region and (row["cloud"], row["region"]) == (place.cloud, place.region)), {}
    )
    if not row.get("latitude") or not row.get("longitude"):
        raise FactorError(
            f"{WHO}: no coordinates of the run's place are known; give its grid region: {WHO}:CAISO_NORTH"
        )
    answer = _ask("/v3/region-from-loc", latitude=row["latitude"], longitude=row["longitude"], signal_type=SIGNAL)
    if not isinstance(answer.get("region"), str) or not answer["region"]:
        raise FactorError(f"{WHO}: it has no region at {place.display_name or place.region}")
    return str(answer["region"])


def _ask(path: str, **params: str) -> dict[str, Any]:
    """Ask an address with the login's token; a token that is refused is renewed once."""
    login = find_key(USERNAME, WHO), find_key(PASSWORD, WHO)
    base = os.environ.get("GREENML_WATTTIME_URL", URL).rstrip("/")
    for renewed in (False, True):
        token = _token(base, login, renew=renewed)
        failure = None
        try:
            value = get_json(
                f"{base}{path}", who=WHO, params=params, headers={"Authorization": f"Bearer {token}"},
                secrets=[token, *login],
            )  # fmt: skip
        except ServiceError as error:
            failure = error
        if failure is None:
            break
        if renewed or failure.status != 401:
            raise failure
    if not isinstance(value, dict):
        raise FactorError(f"{WHO}: its answer is not an object; has its interface changed?")
    return value


def _token(base: str, login: tuple[str, str], *, renew: bool) -> str:
    until, token = _tokens.get((base, login[0]), (0.0, ""))
    if token and not renew and time.monotonic() < until:
        return token
    value = get_json(f"{base}/login", who=WHO, auth=login, secrets=login)
    made = value.get("token") if isinstance(value, dict) else None
    if not isinstance(made, str) or not made:
        raise FactorError(f"{WHO}: its login gave no token; has its interface changed?")
    _tokens[base, login[0]] = (time.monotonic() + TOKEN_SECONDS, remember_key(made))
    return made
