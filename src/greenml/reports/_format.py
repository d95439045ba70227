"""Formats figures as text: the only place where a figure is rounded or converted from SI; and lays out plain text.

What is not known is said in words with its reason; it is never printed as 0. A figure that is not zero is
never rounded to zero, and none is written with an exponent.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation

from greenml.record.schema import DeviceRecord, Factor, Quantity, RunRecord, SourceRef
from greenml.units import BYTES_PER_GB, GRAMS_PER_KG, GRAMS_PER_POUND, JOULES_PER_KWH, SECONDS_PER_HOUR

JOULES_PER_WH = 3600.0
JOULES_PER_KJ = 1000.0
GRAMS_PER_TONNE = 1_000_000.0
GRAMS_PER_MG = 1e-3
MANY = 9.0  # a change of 900 % and more reads better as a multiple
BLURRED_SECONDS = 60.0  # an import's window that is longer than its run by this does not tell when the run was

NOT_MEASURED = "not measured"
NOT_KNOWN = "not known"

TIER_NAMES = {"low_priority": "low priority", "spot": "spot", "dedicated": "dedicated"}
SENSOR_NAMES = {
    "nvml": "NVML",
    "amdsmi": "AMD SMI",
    "rapl": "RAPL",
    "azure_monitor": "Azure Monitor",
    "codecarbon": "CodeCarbon",
    "impact_tracker": "experiment-impact-tracker",
    "aiperf": "AIPerf",
}
STATUS_WORDS = {
    "running": "still running; figures so far",
    "killed": "killed; figures up to its last reading",
    "failed": "failed; figures up to the failure",
    "interrupted": "interrupted; figures up to the interruption",
}


def significant(value: float, digits: int = 4) -> str:
    """Write a number with this many significant digits, in fixed notation."""
    if value == 0:
        return "0"
    if not math.isfinite(value):  # a figure out of all range, in another unit
        return str(value)
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def number(value: float, digits: int = 6) -> str:
    """Write a number with at most this many significant digits, without trailing zeros."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain(text: str) -> str:
    """Write another tool's number without an exponent and without rounding; other text stays as it is."""
    if "e" not in text.lower():
        return text
    try:
        value = Decimal(text)
    except InvalidOperation:
        return text
    return f"{value:f}" if value.is_finite() else text


def at_least(value: float, decimals: int) -> str:
    """Write a number with this many decimals, or more where it would read as zero."""
    text = f"{value:.{decimals}f}"
    return significant(value, 2) if value != 0 and float(text) == 0 else text


def duration(seconds: float) -> str:
    """Write a time as Azure ML Studio does: ``4.70s``, ``5m 26s``, ``43m 51.05s``, ``1h 02m 03.4s``.

    A fraction is written only where there is one.
    """
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds == 0 or abs(seconds - round(seconds)) < min(1e-6, seconds):  # a sum of whole seconds is one
        minutes, whole = divmod(round(seconds), 60)
        hours, rest = divmod(minutes, 60)
        return f"{hours}h {rest:02d}m {whole:02d}s" if hours else f"{minutes}m {whole:02d}s" if minutes else f"{whole}s"
    if round(seconds, 2) < 60:
        return f"{at_least(seconds, 2)}s"
    if round(seconds * 100) < SECONDS_PER_HOUR * 100:
        minutes, centiseconds = divmod(round(seconds * 100), 6000)
        return f"{minutes}m {centiseconds / 100:05.2f}s"
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes // 60}h {minutes % 60:02d}m {tenths / 10:04.1f}s"


def seconds(value: float) -> str:
    """Write seconds, to the hundredth."""
    return f"{at_least(value, 2)} s"


def energy(joules: float, beside: float | None = None) -> str:
    """Write an energy in kWh, Wh or J, by its size, or by that of another that it stands beside."""
    size = abs(joules if beside is None else beside)
    if size >= 0.1 * JOULES_PER_KWH:
        return f"{significant(joules / JOULES_PER_KWH)} kWh"
    if size >= 0.1 * JOULES_PER_WH:
        return f"{significant(joules / JOULES_PER_WH)} Wh"
    return f"{significant(joules)} J"


def mass(grams: float, beside: float | None = None) -> str:
    """Write a mass of CO2e in t, kg, g or mg, by its size, or by that of another that it stands beside."""
    size = abs(grams if beside is None else beside)
    if size >= GRAMS_PER_TONNE:
        return f"{significant(grams / GRAMS_PER_TONNE)} t CO2e"
    if size >= GRAMS_PER_KG:
        return f"{significant(grams / GRAMS_PER_KG)} kg CO2e"
    if size >= 1 or size == 0:
        return f"{significant(grams)} g CO2e"
    return f"{significant(grams / GRAMS_PER_MG)} mg CO2e"


def pounds(grams: float) -> str:
    """Write a mass of CO2e in pounds."""
    return f"{significant(grams / GRAMS_PER_POUND)} lb CO2e"


def liters(value: float) -> str:
    """Write a volume of water in m³, L or mL, by its size."""
    if abs(value) >= 1000:
        return f"{significant(value / 1000)} m³"
    return f"{significant(value)} L" if abs(value) >= 1 or value == 0 else f"{significant(value * 1000)} mL"


def kilograms(grams: float) -> str:
    """Write the number of kg, six significant digits."""
    return number(grams / GRAMS_PER_KG)


def kilowatt_hours(joules: float) -> str:
    """Write the number of kWh, six significant digits."""
    return number(joules / JOULES_PER_KWH)


def kilojoules(joules: float) -> str:
    """Write the number of kJ: two decimals, or more where those would leave under four digits."""
    return at_least(joules / JOULES_PER_KJ, 2) if joules >= 10 * JOULES_PER_KJ else significant(joules / JOULES_PER_KJ)


def hours(value: float) -> str:
    """Write seconds as hours."""
    return f"{number(value / SECONDS_PER_HOUR, 4)} h"


def gigabytes(value: float) -> str:
    """Write the number of GB (1e9 bytes), two decimals."""
    return at_least(value / BYTES_PER_GB, 2)


def money(usd: float) -> str:
    """Write dollars and cents, or two significant digits below ten cents."""
    return f"${usd:,.2f}" if round(abs(usd), 3) >= 0.1 or usd == 0 else f"${significant(usd, 2)}"


def money_change(usd: float) -> str:
    """Write a difference of money with its sign: ``-$12.88``."""
    return f"{'-' if usd < 0 else '+'}{money(abs(usd))}"


def percent(ratio: float) -> str:
    """Write a share as a percentage, one decimal."""
    return f"{at_least(ratio * 100, 1)}%"


def change(value: float | None, base: float | None) -> str:
    """Write a difference as a share of what it differs from: ``+1.0%``, ``x 38``; a dash where that is not known."""
    if value is None or not base:
        return "-"
    return signed(value / base)


def signed(ratio: float) -> str:
    """Write a relative change: ``+1.0%``, ``x 38``, ``-99.997%``; -100.0% only where nothing is left."""
    if ratio >= MANY:
        return f"x {number(1 + ratio, 3)}"
    text = f"{'+' if ratio >= 0 else ''}{percent(ratio)}"
    if text == "-100.0%" and ratio > -1:
        decimals = max(2, 1 - math.floor(math.log10(100 * (1 + ratio))))
        text = f"{100 * ratio:.{decimals}f}%".replace("0%", "%")
    return text


def watts(value: float) -> str:
    """Write a power."""
    return f"{at_least(value, 1)} W"


def power(value: float) -> str:
    """Write a power in W, kW or MW, by its size, three significant digits: ``285 W``, ``2.41 kW``."""
    for unit, size in (("MW", 1e6), ("kW", 1e3)):
        if round(abs(value)) >= size:
            return f"{significant(value / size, 3)} {unit}"
    return f"{significant(value, 3) if abs(value) < 100 else round(value)} W"


def clock(seconds: float) -> str:
    """Write a time that goes on, or is expected, to the second, from a day on to the minute: ``43m 51s``."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    hours_, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    if days:
        return f"{days}d {hours_:02d}h {minutes:02d}m"
    if hours_:
        return f"{hours_}h {minutes:02d}m {left:02d}s"
    return f"{minutes}m {left:02d}s" if minutes else f"{left}s"


def timestamp(moment: datetime) -> str:
    """Write a moment in UTC, to the second, without its zone, as CodeCarbon does."""
    utc = moment.astimezone(timezone.utc) if moment.tzinfo else moment
    return utc.replace(tzinfo=None).isoformat(timespec="seconds")


def minute(moment: datetime) -> str:
    """Write a moment for people: ``2021-07-06 21:15 UTC``."""
    return f"{timestamp(moment)[:16].replace('T', ' ')} UTC"


def when(record: RunRecord) -> str:
    """Write when a run was; an import may know only between which times."""
    start, end = minute(record.started), minute(record.ended) if record.ended else "now"
    window = (record.ended - record.started).total_seconds() if record.ended else 0.0
    if record.attempts or window - record.duration_seconds <= BLURRED_SECONDS:
        return f"{start} to {end}"
    return f"some time between {start} and {end}"


def missing(why: str = "", words: str = NOT_MEASURED) -> str:
    """Say that a figure is not there, and why."""
    return f"{words} ({why})" if why else words


def unknown(quantity: Quantity | None, *, reason: bool = True) -> str:
    """Say that a quantity is not known, in the words that fit how it would be known."""
    if quantity is None:
        return NOT_KNOWN
    words = NOT_KNOWN if quantity.basis in ("assumed", "derived") else NOT_MEASURED
    return missing(quantity.why if reason else "", words)


def figure(quantity: Quantity | None, write: Callable[[float], str], *, reason: bool = True) -> str:
    """Write a quantity's value, or say in words that it is not known and why."""
    if quantity is None or quantity.value is None:
        return unknown(quantity, reason=reason)
    return f"at least {write(quantity.value)}" if quantity.at_least else write(quantity.value)


def emissions_name(record: RunRecord) -> str:
    """Name the emissions: marginal ones are not to be read as the others."""
    return "Emissions, marginal" if record.factors.marginal else "Emissions"


def reason(quantity: Quantity | None) -> str:
    """Return why a quantity is not known, else empty."""
    return quantity.why if quantity is not None and quantity.value is None else ""


def optional(value: float | None, write: Callable[[float], str], words: str = NOT_MEASURED) -> str:
    """Write a figure, or say that there is none."""
    return words if value is None else write(value)


FARTHEST_RATIO = 1000.0  # of a value and an end of its interval that are written in one unit


def interval(low: float | None, high: float | None, write: Callable[[float], str], value: float | None = None) -> str:
    """Write an interval, a shared unit once: ``646.2 to 714.2 Wh``; empty where there is none.

    Energy and mass have the unit of the value, or without one that of the upper end, unless an end is far from it.
    """
    if low is None or high is None:
        return ""
    first, last = write(low), write(high)
    if first == last:
        return ""
    size = abs(high if value is None else value)
    if write in (energy, mass) and all(size < FARTHEST_RATIO * end < FARTHEST_RATIO**2 * size for end in (low, high)):
        first, last = write(low, size), write(high, size)
    number_text, _, unit = first.partition(" ")
    if unit and (last.endswith(f" {unit}") or low == 0):
        first = number_text
    return f"{first} to {last}"


def interval_of(quantity: Quantity | None, write: Callable[[float], str]) -> str:
    """Write the interval of a known quantity; empty where it has none."""
    if quantity is None or quantity.value is None:
        return ""
    if quantity.at_least and quantity.low is not None and quantity.high is None:
        return f"{write(quantity.low)} or more"
    return interval(quantity.low, quantity.high, write, quantity.value)


def span(quantity: Quantity | None, write: Callable[[float], str]) -> str:
    """Write a quantity that is a range without a value; empty where there is none."""
    if quantity is None or quantity.low is None or quantity.high is None:
        return ""
    return interval(quantity.low, quantity.high, write) or write(quantity.low)


def sensors(record: RunRecord, kind: str) -> str:
    """Name the sensors that tell a kind's energy, each once: ``NVML counter``; empty where none does."""
    names: dict[str, None] = {}
    for device in record.devices:
        if device.kind == kind and device.method and device.usage.energy_joules is not None:
            sensor = SENSOR_NAMES.get(device.sensor, device.sensor)
            method = device.method if device.method in ("counter", "gauge") else ""
            names[f"{sensor} {method}".strip()] = None
    return ", ".join(name for name in names if name != "estimate")


def is_imported(device: DeviceRecord) -> bool:
    """Tell whether another tool measured a device; Azure Monitor's host has no energy, and so no method."""
    return device.method == "reported" or device.sensor == "azure_monitor"


def known_how(record: RunRecord, kind: str, quantity: Quantity) -> str:
    """Say how a kind's energy is known: ``measured (NVML counter)``."""
    by = sensors(record, kind)
    how = f"{quantity.basis} ({by})" if by else quantity.basis
    return f"{how}, {quantity.why}" if quantity.why else how


def tier(name: str) -> str:
    """Name a price tier in words."""
    return TIER_NAMES.get(name, name.replace("_", " "))


def source(ref: SourceRef) -> str:
    """Name a source with its date, which some names end in."""
    return f"{ref.name}, {ref.published}" if ref.published and not ref.name.endswith(ref.published) else ref.name


def factor(value: Factor) -> str:
    """Write a factor with its interval, scope, year and source."""
    unit = "" if value.unit == "1" else value.unit

    def write(amount: float) -> str:
        return f"{number(amount, 4)} {unit}".strip()

    spread = interval(value.low, value.high, write)
    words = {"none": "no figure for the place", "series": "energy-weighted mean over time of"}
    scope = words.get(value.scope) or value.scope.replace("_", " ")
    location = " ".join(part for part in (scope, value.code) if part)
    facts = [
        location,
        str(value.year or ""),
        value.basis,
        "derived" if value.derived else "",
        "assumed" if value.assumed else "",
    ]
    text = write(value.value) + (f" ({spread})" if spread else "")
    details = ", ".join(part for part in facts if part)
    note = f". {value.note.rstrip('.')}" if value.note else ""
    return f"{text}; {details}; source: {source(value.source)}{note}"


def other_basis(record: RunRecord) -> str:
    """Write the carbon intensity on the other basis and the run's emissions by it; empty where it is not known."""
    factor, other, total = record.factors.carbon_intensity, record.factors.other_basis, record.total()
    if other is None:
        return ""
    grams = total.emissions_grams.value if total is not None else None
    emitted = f", {mass(grams * other.value / factor.value)}" if grams and factor and factor.value else ""
    where = " ".join(part for part in (other.scope.replace("_", " "), other.code, str(other.year or "")) if part)
    return f"On the {other.basis} basis: {number(other.value, 4)} {other.unit} ({where}){emitted}"


def price(name: str, value: Factor) -> str:
    """Write a tier's price, unrounded to the cent, with what it is for, its date and source."""
    cents = round(value.value, 2) == value.value
    amount = money(value.value) if cents else f"${number(value.value)}"
    facts = [
        value.code or value.scope,
        "derived" if value.derived else "",
        source(value.source),
        value.note.rstrip("."),
    ]
    return f"{tier(name)} {amount} ({', '.join(part for part in facts if part)})"


# Plain tables and wrapped sentences, good at 80 columns and in a file.

GAP = "  "


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lay out rows under a head and a rule, each column as wide as its widest cell.

    Args:
        head: a name a column.
        rows: as many cells each.
        right: columns of figures, set flush right.
    """
    every = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[at]) for row in every) for at in range(len(head))]
    lines = [
        GAP.join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in every)
    ]
    lines = [line.rstrip() for line in lines]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


def indented(lines: Iterable[str], by: int = 1) -> list[str]:
    """Set lines in by some columns."""
    return [f"{' ' * by}{line}" if line else "" for line in lines]


def wrapped(text: str, width: int, *, mark: str = "", by: int = 0) -> list[str]:
    """Break a text into lines, the later ones under the first one's text.

    Args:
        text: one paragraph.
        width: columns.
        mark: what stands before it: ``- ``, ``[1] ``.
        by: columns to set it in.
    """
    first = " " * by + mark
    return textwrap.wrap(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=" " * len(first),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def points(texts: Iterable[str], width: int) -> list[str]:
    """Write texts as a list."""
    return [line for text in texts for line in wrapped(text, width, mark="- ", by=1)]


class Sources:
    """Sources by number, each printed once at the end."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> str:
        """Return the number of a source."""
        return str(self._numbers.setdefault(text, len(self._numbers) + 1))

    def lines(self, width: int) -> list[str]:
        """Return every source with its number."""
        return [line for text, at in self._numbers.items() for line in wrapped(text, width, mark=f"[{at}] ", by=1)]
