"""The live page of an endpoint, and the events that it draws.

The page is one file without a build step or a network beside its own server. It listens to server-sent events and
connects again when the server was restarted.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from greenml.reports.page import shell
from greenml.run.serving.meter import ServingMeter, ServingTotals

PACKAGE = "greenml.run.serving"
MOST_GROUPS = 30  # in the table; those with the most energy
CONNECTION_SECONDS = (
    5.0  # an event stream ends after this, so that a server that stops need not wait; the page comes back
)
RETRY_MILLISECONDS = 500


def html(meter: ServingMeter, events: str) -> str:
    """Return the page.

    Args:
        meter: of the endpoint.
        events: the address of its events.
    """
    script = _script()
    template = shell.environment(PACKAGE).get_template("live.html.j2")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return template.render(style=shell.style(), script=script, sha256=digest, events=events, name=meter.name)


@cache
def _script() -> Markup:
    return Markup((files(PACKAGE) / "templates" / "live.js").read_text(encoding="utf-8"))  # noqa: S704  ours


def event(meter: ServingMeter, *, first: bool = False) -> str:
    """Return a server-sent event with the figures of now; the first of a connection has those of the last minutes."""
    totals = meter.totals()
    body: dict[str, Any] = {"live": _point(totals.live), "totals": _totals(totals)}
    if first:
        body["history"] = [_point(point) for point in list(meter.history)]
    retry = f"retry: {RETRY_MILLISECONDS}\n" if first else ""
    return f"{retry}data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _point(live: Mapping[str, Any]) -> dict[str, Any]:
    names = ("unix_seconds", "watts_now", "joules_per_token", "grams_per_request", "idle_ratio")
    return {name: live.get(name) for name in names}


def _totals(totals: ServingTotals) -> dict[str, Any]:
    """Return what the page's table shows, as numbers."""
    groups = sorted(totals.groups.items(), key=lambda item: -(item[1].used.joules or 0.0))[:MOST_GROUPS]
    return {
        "requests": totals.count,
        "in_flight": totals.in_flight,
        "request_joules": totals.request_joules,
        "request_low_joules": totals.request_low_joules,
        "request_high_joules": totals.request_high_joules,
        "idle_joules": totals.idle_joules,
        "idle_energy_ratio": totals.idle_energy_ratio,
        "tokens": totals.input_tokens + totals.output_tokens,
        "joules_per_token": totals.joules_per_token,
        "co2e_grams": totals.co2e_grams,
        "cost_usd": totals.cost_usd,
        "groups": [
            {
                "model": model, "kind": kind, "requests": group.count, "joules": group.used.joules,
                "tokens": group.input_tokens + group.output_tokens if group.with_tokens else None,
                "grams": group.used.grams, "usd": group.used.usd,
            }
            for (model, kind), group in groups
        ],
    }  # fmt: skip
