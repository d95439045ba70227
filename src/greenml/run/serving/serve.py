"""``serve()`` begins to measure an endpoint: the energy, carbon and cost of each of its requests.

``meter = greenml.serve()`` once, where the server starts; ``with meter.request(model="bart") as request:`` around each
request, and ``request.tokens(input=212, output=40)`` within it. Some two seconds after its end, ``request.result`` says
what it used. The integrations of web frameworks and engines do this by themselves (docs/serving.md).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from greenml.errors import SettingsError
from greenml.run.serving.meter import RECORD_MINUTES, WINDOW_SECONDS, ServingMeter
from greenml.run.track import checked_settings

OUTPUT = "serving.json"
SHORTEST_WINDOW_SECONDS, LONGEST_WINDOW_SECONDS = 0.5, 60.0


def serve(
    output: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    sku: str | None = None,
    region: str | None = None,
    tier: str | None = None,
    gpus: str | list[int | str] | None = None,
    carbon_intensity: float | None = None,
    price_per_hour: float | None = None,
    pue: float | None = None,
    intensity: str | os.PathLike[str] | None = None,
    market_intensity: float | None = None,
    lifetime_years: float | None = None,
    basis: str | None = None,
    window_seconds: float = WINDOW_SECONDS,
    record_minutes: float = RECORD_MINUTES,
) -> ServingMeter:
    """Begin to measure an endpoint, in each of its workers; returns within two seconds whatever the hardware does.

    Args:
        output: where the record goes; ``serving.json`` by default. Workers of one server write one record.
        name: of the endpoint.
        sku: the cloud's machine size, for the price; this and what follows as for ``greenml.track()``.
        region: where it runs.
        tier: which price is paid: ``dedicated``, ``low_priority`` or ``spot``.
        carbon_intensity: g CO2e per kWh, in place of the tables.
        price_per_hour: USD per machine and hour, in place of the tables.
        pue: power usage effectiveness, in place of the tables.
        intensity: the provider of the carbon intensity of each hour.
        market_intensity: g CO2e per kWh of a contract.
        lifetime_years: of the hardware.
        basis: of the carbon intensity: ``direct`` or ``lifecycle``.
        gpus: those that serve the model; those CUDA shows by default.
        window_seconds: over which the devices' energy is shared among the requests in flight, 0.5 to 60.
        record_minutes: between two writes of the record; it is written at the end too.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """
    for label, value, low, high in (
        ("window_seconds", window_seconds, SHORTEST_WINDOW_SECONDS, LONGEST_WINDOW_SECONDS),
        ("record_minutes", record_minutes, 0.1, 24 * 60),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise SettingsError(f"{label} is {value!r}; it must be {low:g} to {high:g}")
    settings = checked_settings(
        {
            "output": output, "name": name, "sku": sku, "region": region, "tier": tier, "gpus": gpus,
            "carbon_intensity": carbon_intensity, "price_per_hour": price_per_hour, "pue": pue,
            "intensity": None if intensity is None else str(intensity), "market_intensity": market_intensity,
            "lifetime_years": lifetime_years, "basis": basis,
        }
    )  # fmt: skip
    if "output" not in settings.known_from:
        settings = replace(settings, output=Path(OUTPUT))
    return ServingMeter(settings, window_seconds=window_seconds, record_minutes=record_minutes).start()
