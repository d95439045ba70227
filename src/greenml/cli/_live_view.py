"""What a run does now, as lines of text that fit a terminal. Pure: plain data in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rich.text import Text

from greenml.cli._gauges import DASH, bar, gauge_lines, together, wanted_lines
from greenml.moment import Band, Now
from greenml.reports import _format

LABEL = 10  # columns of a line's name
STEP_BAR = 30
WITHIN = "\u203a"  # between a phase and the one in it
# What goes first where there is no room.
LEAST_FIRST = ("factors", "hardware", "tiers", "note", "foot", "phase", "step")
SOON = 3  # of them go before GPUs are folded
SPACED = ("devices", "phase", "totals", "note", "factors", "foot")


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a run's figures.

    Attributes:
        title: of the run, where it has no name.
        at: the local time of now.
        tier: the price that was paid; empty: all that are known.
        factors: what energy is multiplied with, in a line.
        foot: how to leave.
        ascii_only: without box-drawing characters.
    """

    title: str
    at: datetime
    tier: str = ""
    factors: str = ""
    foot: str = ""
    ascii_only: bool = False


def lines(now: Now, frame: Frame, width: int, height: int) -> list[Text]:
    """Return a run at this moment as at most ``height`` lines of at most ``width`` columns.

    What matters least is left out where there is no room, and GPUs are folded.
    """
    gpus = [one for one in now.devices if one.kind == "gpu"]
    hosts = [one for one in now.devices if one.kind == "host"]
    others = [
        together(name, some, hosts)
        for kind, name in (("cpu", "CPU"), ("dram", "DRAM"))
        if (some := [one for one in now.devices if one.kind == kind])
    ]
    if [one.kind for one in others] == ["cpu", "dram"]:  # the hosts' memory is told once
        others[0] = replace(others[0], memory_bytes=None)
    totals = _totals(now, frame, width)
    parts: dict[str, list[Text]] = {
        "head": [_head(now, frame, width)],
        "hardware": _hardware(now, width),
        "devices": [],
        "phase": [_named("Phase", _phases(now))] if now.phases else [],
        "step": _step(now, frame, width),
        "totals": totals[:4],  # their heading, energy, carbon and one price
        "tiers": totals[4:],
        "note": [_named("Note", now.note, "yellow")] if now.note else [],
        "factors": [Text(f" {frame.factors}", "dim")] if frame.factors else [],
        "foot": [Text(f" {frame.foot}", "dim")] if frame.foot else [],
    }

    def taken() -> int:
        return sum(len(part) for part in parts.values())

    whole, folded = wanted_lines(gpus, others)
    droppable = sum(len(parts[name]) for name in LEAST_FIRST[:SOON])
    wish = whole if taken() - droppable + whole <= height else folded
    for name in LEAST_FIRST:
        if taken() + wish > height:
            parts[name] = []
    parts["devices"] = gauge_lines(gpus, others, width, height - taken(), ascii_only=frame.ascii_only)
    made = list(_spaced(parts, height - taken()))[:height]
    for line in made:
        line.plain = printable(line.plain, ascii_only=frame.ascii_only)
        line.no_wrap = True
        line.truncate(width, overflow="crop" if frame.ascii_only else "ellipsis")
    return made


def _spaced(parts: dict[str, list[Text]], spare: int) -> Iterator[Text]:
    """Yield all lines, with empty ones between the parts as far as there is room."""
    above = ""
    for name, part in parts.items():
        if part and above and spare > 0 and name in SPACED and (above, name) != ("note", "factors"):
            spare -= 1
            yield Text("")
        yield from part
        above = name if part else above


def _named(name: str, body: Text | str, style: str = "") -> Text:
    line = Text(" ")
    line.append(name.ljust(LABEL), "dim")
    return line.append(body) if isinstance(body, Text) else line.append(body, style)


def _head(now: Now, frame: Frame, width: int) -> Text:
    style = {"running": "bold green", "completed": "green"}.get(now.status, "bold red")
    right = Text(now.status, style)
    right.append(f"  {_format.clock(now.totals.seconds)} ", "bold")
    left = Text(f" {printable(now.name or frame.title)}", "bold")
    left.truncate(max(8, width - len(right) - 2), overflow="ellipsis")
    return left + Text(" " * max(1, width - left.cell_len - len(right))) + right


def _hardware(now: Now, width: int) -> list[Text]:
    counts: dict[str, int] = {}
    for one in now.devices:
        if one.kind == "gpu":
            counts[one.name] = counts.get(one.name, 0) + 1
    facts = [f"{count} X {name}" for name, count in counts.items()]
    facts += [now.hosts[0] if len(now.hosts) == 1 else f"{len(now.hosts)} hosts"] if now.hosts else []
    facts += [f"{now.processes} processes"] if now.processes > 1 else []
    facts += [f"attempt {now.attempt}"] if now.attempt > 1 else []
    facts += [now.error] if now.error else []
    text = Text(f" {' · '.join(facts)}", "dim")
    text.truncate(width, overflow="ellipsis")
    return [text] if facts else []


def _phases(now: Now) -> Text:
    """Return the open phases, each with how long it has been open; an inner one without its outer's name."""
    line, outer = Text(), ""
    for path, seconds in now.phases:
        name = path[len(outer) + 1 :] if outer and path.startswith(f"{outer}/") else path
        if line:
            line.append(f" {WITHIN} " if path.startswith(f"{outer}/") else ", ", "dim")
        line.append(name, "bold").append(f" {_format.clock(seconds)}")
        outer = path
    return line


def _step(now: Now, frame: Frame, width: int) -> list[Text]:
    if now.step is None or not now.steps:
        return []
    ratio = now.step / now.steps
    text = f" {now.step:,} of {now.steps:,}, {_format.percent(ratio)}"
    left = remaining(now)
    if left is not None:
        seconds, low, high = left
        text += f", {_left(seconds)} to go"
        spread = f" ({_left(low)} to {_left(high)})" if _left(low) != _left(high) else ""
        ends = f", ends about {_moment(frame.at, seconds)}"
        for more in (spread, ends):
            text += more if len(text) + len(more) + LABEL + 12 <= width else ""
    line = _named("Step", "")
    size = min(STEP_BAR, width - LABEL - 1 - len(text))
    if size >= 5:
        line.append(bar(ratio, size, "blue", ascii_only=frame.ascii_only))
    return [line.append(text if size >= 5 else text[1:])]


def remaining(now: Now) -> tuple[float, float, float] | None:
    """Return the seconds that training will still take, and their band; None where it is not known, or done."""
    band = now.expected.seconds if now.expected is not None else None
    if band is None or now.status != "running" or (now.step or 0) >= (now.steps or 0):
        return None
    return tuple((ratio - 1) * now.totals.seconds for ratio in (band.ratio, band.low, band.high))  # type: ignore[return-value]


def _left(seconds: float) -> str:
    """Write a time that is expected; from an hour on to the minute."""
    text = _format.clock(seconds)
    return text.rpartition(" ")[0] if "h" in text and "d" not in text else text


def _moment(at: datetime, seconds: float) -> str:
    end = at + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == at.date() else f"{end:%a %H:%M}" if seconds < 6 * 86400 else f"{end:%d %b}"


@dataclass(frozen=True, slots=True)
class _Figure:
    """A total with its rate and what it will be."""

    name: str
    now: str
    rate: str
    value: float | None
    band: Band | None
    write: Callable[[float], str]

    def end(self, *, spread: bool) -> str:
        if self.value is None or self.band is None:
            return ""
        low, high = self.value * self.band.low, self.value * self.band.high
        text = _format.interval(low, high, self.write)
        return self.write(self.value * self.band.ratio) + (f" ({text})" if text and spread else "")


def figures(now: Now, tier: str) -> list[_Figure]:
    """Return energy, carbon and money: so far, a rate, and what is expected."""
    totals, going = now.totals, now.status == "running"
    energy = seconds = None
    if now.expected is not None and remaining(now) is not None:
        energy, seconds = now.expected.energy, now.expected.seconds
    power = totals.power_watts if going else None

    def mass(grams: float) -> str:
        return _format.mass(grams).removesuffix(" CO2e")

    made = [
        _Figure(
            "Energy", _or_dash(totals.energy_joules, _format.energy), _or_dash(power, _format.power),
            totals.energy_joules, energy, _format.energy,
        ),
        _Figure(
            "CO2e", _or_dash(totals.emissions_grams, mass),
            _or_dash(now.grams_per_hour, lambda grams: f"{mass(grams)}/h"), totals.emissions_grams, energy, mass,
        ),
    ]  # fmt: skip
    costs = {name: usd for name, usd in totals.cost_usd.items() if name == tier} or dict(totals.cost_usd)
    for name, usd in costs.items():
        rate = now.usd_per_hour.get(name) if going else None
        label = "Cost" if len(costs) == 1 else {"low_priority": "low pri."}.get(name, _format.tier(name)[: LABEL - 1])
        made.append(
            _Figure(
                label, _format.money(usd), _or_dash(rate, lambda one: f"{_format.money(one)}/h"), usd, seconds,
                _format.money,
            )
        )  # fmt: skip
    if not costs:
        made.append(_Figure("Cost", DASH, DASH, None, None, _format.money))
    return made


def _or_dash(value: float | None, write: Callable[[float], str]) -> str:
    return DASH if value is None else write(value)


def _totals(now: Now, frame: Frame, width: int) -> list[Text]:
    rows = figures(now, frame.tier)
    so_far = max(len("so far"), *(len(row.now) for row in rows))
    rate = max(len("rate"), *(len(row.rate) for row in rows))
    ends = any(row.end(spread=False) for row in rows)
    room = width - 1 - LABEL - so_far - rate - 8
    spread = all(len(row.end(spread=True)) <= room for row in rows)
    head = Text(" " * (1 + LABEL), "dim")
    head.append(f"{'so far':>{so_far}}    {'rate':>{rate}}" + ("    at the end, expected" if ends else ""), "dim")
    made = [head]
    for row in rows:
        line = _named(row.name, "")
        line.append(f"{row.now:>{so_far}}", "bold" if row.now != DASH else "dim")
        line.append(f"    {row.rate:>{rate}}", "dim" if row.rate == DASH else "")
        if ends:
            line.append(f"    {row.end(spread=spread)}")
        made.append(line)
    return made


def one_line(now: Now, frame: Frame) -> str:
    """Return a run at this moment as one line, for a log; what is not known is not in it."""
    phases = _phases(now).plain
    parts = [now.status, _format.clock(now.totals.seconds)]
    parts += [f"phase {phases}"] if phases else []
    parts += [f"step {now.step:,} of {now.steps:,}"] if now.step is not None and now.steps else []
    busy = [one.utilization_ratio for one in now.devices if one.kind == "gpu" and one.utilization_ratio is not None]
    parts += [f"GPUs {_format.percent(sum(busy) / len(busy))} busy"] if busy else []
    tier = frame.tier or ("dedicated" if "dedicated" in now.totals.cost_usd else "")
    rows = figures(now, tier)
    for row in rows:
        if row.now != DASH:
            parts.append(f"{row.now}{_word(row, tier)}" + (f" at {row.rate}" if row.rate != DASH else ""))
    left = remaining(now)
    if left is not None:
        parts.append(f"{_left(left[0])} to go, then {', '.join(_ends(rows, tier))}")
    text = f"{frame.at:%Y-%m-%d %H:%M:%S} {now.name or frame.title}: {', '.join(parts)}"
    return printable(text, ascii_only=frame.ascii_only)


def printable(text: str, *, ascii_only: bool = False) -> str:
    """Return a line without what would steer a terminal: names and notes may hold anything."""
    if ascii_only:
        text = text.replace(DASH, "-").replace(WITHIN, ">").replace("·", "-").encode("ascii", "replace").decode()
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def _ends(rows: Sequence[_Figure], tier: str) -> list[str]:
    return [row.end(spread=True) + _word(row, tier) for row in rows if row.end(spread=True)]


def _word(row: _Figure, tier: str) -> str:
    """Return what a figure is of, where its unit does not tell."""
    name = {"Energy": "", "Cost": _format.tier(tier) if tier else ""}.get(row.name, row.name)
    return f" {name}" if name else ""
