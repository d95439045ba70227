"""The carbon intensity of an Electricity Maps zone by hours: API v3, with a token.

Shapes: https://portal.electricitymaps.com/developer-hub/api (``/carbon-intensity/history`` and ``latest`` for the last
24 hours, ``past-range`` before, 10 days of hours a call). Average intensity of what is consumed in the zone, exchanges
with its neighbours traced, with lifecycle or direct emission factors.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

from greenml.errors import FactorError
from greenml.factors import tables
from greenml.factors._http import find_key, get_json
from greenml.factors.intensity_providers import entries, grams, pieces, rounded, utc
from greenml.factors.types import IntensitySeries, IntensitySlot, Place, Source

WHO = "electricity_maps"
RESOLUTION_SECONDS = 3600.0
URL = "https://api.electricitymaps.com/v3"
TOKEN = "ELECTRICITY_MAPS_TOKEN"  # noqa: S105  the variable's name
HOUR = timedelta(hours=1)
RECENT = timedelta(hours=23)  # what every token may ask for goes back 24 hours
MOST_DAYS = timedelta(days=10)
MEASURED_UNCERTAINTY, ESTIMATED_UNCERTAINTY = 0.1, 0.2  # docs/method.md, section 4


def series(place: Place, area: str, start: datetime, end: datetime, basis: str) -> IntensitySeries:
    """Return the carbon intensity of a zone.

    Args:
        place: its grid zone is asked for, else its country's.
        area: a zone (``DE``, ``US-CAL-CISO``), or "" for the place's.
        start: of the stretch, UTC.
        end: of it.
        basis: direct or lifecycle: the service has both.

    Raises:
        FactorError: there is no token or no zone, or the service has no answer.
    """
    zone = area or _zone(place)
    token = find_key(TOKEN, WHO)
    now = datetime.now(timezone.utc)
    first, last = rounded(start, end, HOUR)
    hours: list[dict[str, object]] = []
    if first >= now - RECENT:
        hours += entries(_ask("history", zone, token, basis), "history", WHO)
    else:
        for piece in pieces(first, last, MOST_DAYS):
            span = {name: f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in zip(("start", "end"), piece, strict=True)}
            hours += entries(_ask("past-range", zone, token, basis, **span), "data", WHO)
    if last > now - HOUR:
        latest = _ask("latest", zone, token, basis)
        hours.append(latest)
    slots_by_start: dict[datetime, tuple[IntensitySlot, bool]] = {}
    for hour in hours:
        if hour.get("carbonIntensity") is None:
            continue
        at = utc(hour.get("datetime"), WHO)
        slot = IntensitySlot(at, at + HOUR, grams(hour["carbonIntensity"], WHO))
        slots_by_start[at] = (slot, bool(hour.get("isEstimated")))
    kept = {at: value for at, value in slots_by_start.items() if first <= at < last}
    estimates = sum(estimated for _, estimated in kept.values())
    share = estimates / len(kept) if kept else 0.0
    return IntensitySeries(
        provider=WHO,
        signal="average",
        area=zone,
        slots=tuple(kept[at][0] for at in sorted(kept)),
        source=Source("Electricity Maps", "https://www.electricitymaps.com", f"{now:%Y-%m-%d}"),
        basis=basis,
        note="some hours are the provider's estimate" if estimates else "",
        uncertainty_ratio=MEASURED_UNCERTAINTY + (ESTIMATED_UNCERTAINTY - MEASURED_UNCERTAINTY) * share,
    )


def _ask(what: str, zone: str, token: str, basis: str, **more: str) -> dict[str, Any]:
    """Ask an address and return its object, if it is of the zone.

    The service is known to answer for the caller's own place where it does not know the zone.
    """
    base = os.environ.get("GREENML_ELECTRICITY_MAPS_URL", URL).rstrip("/")
    value = get_json(
        f"{base}/carbon-intensity/{what}",
        who=WHO,
        params={"zone": zone, "emissionFactorType": basis, "shouldUseFallbackCallerLookup": "false", **more},
        headers={"auth-token": token},
        secrets=[token],
    )
    if not isinstance(value, dict):
        raise FactorError(f"{WHO}: its answer is not an object; has its interface changed?")
    lists = (value.get("data"), value.get("history"))
    inner = next((rows for rows in lists if isinstance(rows, list) and rows), [value])
    answered = value.get("zone") or (inner[0].get("zone") if isinstance(inner[0], dict) else None)
    if answered not in (None, zone):
        raise FactorError(f"{WHO}: it answered for zone {str(answered)[:20]!r}, not {zone!r}; give {WHO}:ZONE")
    return value


def _zone(place: Place) -> str:
    if place.grid_zone:
        return place.grid_zone
    rows = (row["iso2"] for row in tables.rows("countries") if row["iso3"] == place.country_iso3)
    zone = next(rows, "")
    if not zone:
        raise FactorError(f"{WHO}: the run's place is not known; give --region, or a zone: {WHO}:DE")
    return zone
