"""Durations as people write them."""

from __future__ import annotations

import math
import re

from greenml.errors import SettingsError

NUMBER = r"\d+(?:\.\d+)?"
UNITS = re.compile(
    rf"(?:({NUMBER})\s*h)?\s*(?:({NUMBER})\s*m(?:in)?)?\s*(?:({NUMBER})\s*s)?|({NUMBER})",
    re.ASCII | re.IGNORECASE,
)
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", re.ASCII)
RIGHT = "write 43m51.05s, 1h2m3s, 00:43:51.05 or seconds, 2631.05"


def duration(text: str) -> float:
    """Return the seconds of ``43m51.05s``, ``43m 51.05s``, ``1h2m3s``, ``00:43:51.05`` or ``2631.05``.

    Raises:
        SettingsError: it is none of these, or is not above zero.
    """
    cleaned = text.strip()
    clock = CLOCK.fullmatch(cleaned)
    units = UNITS.fullmatch(cleaned)
    if clock:
        parts = clock.groups()
        if float(parts[2]) >= 60 or (parts[0] and int(parts[1]) >= 60):
            raise SettingsError(f"duration {text!r}: minutes and seconds of a clock go up to 59; {RIGHT}")
    elif units and cleaned:
        parts = units.groups()[:3] if units[4] is None else (None, None, units[4])
    else:
        raise SettingsError(f"duration {text!r} is not understood; {RIGHT}")
    hours, minutes, seconds = (float(part or 0) for part in parts)
    # fsum, so that 43m51.05s is 2631.05 exactly as it would be read from those digits
    total = math.fsum((hours * 3600, minutes * 60, seconds))
    if not 0 < total < math.inf:
        raise SettingsError(f"duration {text!r} is not above zero; {RIGHT}")
    return total
