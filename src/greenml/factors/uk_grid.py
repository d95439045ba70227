"""The carbon intensity of Great Britain by half hours: NESO's Carbon Intensity API, national and by region, no key.

Shapes: https://carbon-intensity.github.io/api-definitions (``/intensity/{from}/{to}``,
``/regional/intensity/{from}/{to}/regionid/{id}``, 14 days a call). The intensity is operational: CO2 at the stack of
British plants and of imports, with losses; nuclear, wind and solar count 0 (NESO, Carbon Intensity Forecast
Methodology, 2024). Regions have forecasts only.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone

from greenml.errors import FactorError
from greenml.factors import tables
from greenml.factors._http import get_json
from greenml.factors.intensity_providers import entries, grams, pieces, rounded, utc
from greenml.factors.types import IntensitySeries, IntensitySlot, Place, Source

WHO = "uk_grid"
RESOLUTION_SECONDS = 1800.0
URL = "https://api.carbonintensity.org.uk"
MOST_DAYS = timedelta(days=13)  # of 14, since the half hour before is answered too
ACTUAL_UNCERTAINTY, FORECAST_UNCERTAINTY = 0.1, 0.2  # docs/method.md, section 4
REGION_OF_CITY = {"London": "13", "Cardiff": "7"}  # where the clouds are
NATIONAL = "national"


def series(place: Place, area: str, start: datetime, end: datetime, basis: str) -> IntensitySeries:
    """Return the carbon intensity of Great Britain or one of its regions.

    Args:
        place: in the United Kingdom; a cloud's region there tells the area.
        area: a region's number (1 to 17), an outward postcode (SW1), ``national``, or "" for the place's.
        start: of the stretch, UTC.
        end: of it.
        basis: not needed: the service has direct figures only.

    Raises:
        FactorError: the place is elsewhere, or the service has no answer.
    """
    area = area or _area(place)
    first, last = rounded(start, end, timedelta(seconds=RESOLUTION_SECONDS))
    slots_by_start: dict[datetime, tuple[IntensitySlot, bool]] = {}
    name = "Great Britain"
    for piece in pieces(first, last, MOST_DAYS):
        value = get_json(_address(area, *piece), who=WHO)
        data = value.get("data") if isinstance(value, dict) else None
        if area != NATIONAL:
            data = data[0] if isinstance(data, list) and data else data
            name = str(data.get("shortname", area)) if isinstance(data, dict) else area
            value = data
        for entry in entries(value, "data", WHO):
            read = _slot(entry)
            if read is not None:
                slots_by_start[read[0].start] = read
    forecasts = sum(forecast for _, forecast in slots_by_start.values())
    share = forecasts / len(slots_by_start) if slots_by_start else 0.0
    return IntensitySeries(
        provider=WHO,
        signal="average",
        area=name if area == NATIONAL else f"{name} ({area})" if name != area else area,
        slots=tuple(slots_by_start[at][0] for at in sorted(slots_by_start)),
        source=Source(
            "Carbon Intensity API (NESO)", "https://carbonintensity.org.uk", f"{datetime.now(timezone.utc):%Y-%m-%d}"
        ),
        basis="direct",
        note="half hours without an actual figure are the service's forecast" if forecasts else "",
        uncertainty_ratio=ACTUAL_UNCERTAINTY + (FORECAST_UNCERTAINTY - ACTUAL_UNCERTAINTY) * share,
    )


def _slot(entry: dict[str, object]) -> tuple[IntensitySlot, bool] | None:
    """Return a half hour and whether its figure is a forecast; the actual one goes before it. None without either."""
    intensity = entry.get("intensity")
    known = intensity if isinstance(intensity, dict) else {}
    value = known.get("actual") if known.get("actual") is not None else known.get("forecast")
    if value is None:
        return None
    start, end = utc(entry.get("from"), WHO), utc(entry.get("to"), WHO)
    if end <= start:
        raise FactorError(f"{WHO}: a half hour ends before it begins, {start:%Y-%m-%d %H:%M}")
    return IntensitySlot(start, end, grams(value, WHO)), known.get("actual") is None


def _area(place: Place) -> str:
    if place.country_iso3 != "GBR":
        where = place.display_name or place.country_name or "an unknown place"
        raise FactorError(
            f"{WHO}: it knows Great Britain only, and the run was in {where}; give --region, or {WHO}:AREA"
        )
    rows = (row for row in tables.rows("regions") if (row["cloud"], row["region"]) == (place.cloud, place.region))
    return next((REGION_OF_CITY.get(row["city"], NATIONAL) for row in rows), NATIONAL)


def _address(area: str, start: datetime, end: datetime) -> str:
    base = os.environ.get("GREENML_UK_GRID_URL", URL).rstrip("/")
    span = f"{start:%Y-%m-%dT%H:%MZ}/{end:%Y-%m-%dT%H:%MZ}"
    if area == NATIONAL:
        return f"{base}/intensity/{span}"
    if area.isdecimal() and 1 <= int(area) <= 17:
        return f"{base}/regional/intensity/{span}/regionid/{int(area)}"
    if re.fullmatch(r"[A-Za-z]{1,2}\d[A-Za-z\d]?", area):
        return f"{base}/regional/intensity/{span}/postcode/{area.upper()}"
    raise FactorError(f"{WHO}: unknown area {area!r}; give 1 to 17, the first half of a postcode, or {NATIONAL}")
