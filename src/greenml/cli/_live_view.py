"""A run in progress as lines of text that fit a terminal. Pure: plain data in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import fmean

from rich.text import Text

from greenml.accounting.status import DeviceStatus, ForecastRatio, RunStatus
from greenml.reports import _format
from greenml.units import BYTES_PER_GB

DASH = "—"
IDLE_RATIO = 0.10  # a GPU that does less than this is thought to wait
FULL_RATIO = 0.95
FEW_HOSTS = 8  # get a line each, whatever else there is to show
WIDEST_BAR = 30
WIDEST_HOST = 16
POWER_STYLE, USE_STYLE, MEMORY_STYLE = "cyan", "green", "magenta"
LABEL = 10  # columns of a line's name
STEP_BAR = 30
WITHIN = "\u203a"  # between a phase and the one in it
# What goes first where there is no room.
LEAST_FIRST = ("factors", "hardware", "tiers", "note", "foot", "phase", "step")
SOON = 3  # of them go before GPUs are folded
SPACED = ("devices", "phase", "totals", "note", "factors", "foot")


@dataclass(frozen=True, slots=True)
class Gauge:
    """A bar with its figures; ``ratio`` None: not known."""

    ratio: float | None
    text: str
    style: str


NOTHING = Gauge(None, "", "")  # a device that has no such thing


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    gauges: tuple[Gauge, Gauge, Gauge]


def bar(ratio: float | None, width: int, style: str, *, ascii_only: bool) -> Text:
    """Return a bar; without a ratio an empty place: an empty bar would read as zero."""
    if ratio is None:
        return Text(" " * width)
    halves = round(min(1.0, max(0.0, ratio)) * width * 2)
    if ratio > 0 and not halves:
        halves = 1
    full, half = divmod(halves, 2)
    if ascii_only:
        filled = "#" * full + "-" * half
        return Text(filled, style) + Text("." * (width - len(filled)), "dim")
    filled = "━" * full + "╸" * half
    return Text(filled, style) + Text("─" * (width - len(filled)), "bright_black")


def wanted_lines(gpus: Sequence[DeviceStatus], others: Sequence[DeviceStatus]) -> tuple[int, int]:
    """Return how many lines the devices take in full, and folded with a few of the GPUs that do least."""
    heading = 1 if gpus or others else 0
    hosts = len({gpu.host for gpu in gpus})
    few = (hosts if hosts <= FEW_HOSTS else 1) + 2
    return heading + len(gpus) + len(others), heading + min(len(gpus), few) + len(others)


def gauge_lines(
    gpus: Sequence[DeviceStatus], others: Sequence[DeviceStatus], width: int, room: int, *, ascii_only: bool = False
) -> list[Text]:
    """Return the devices as at most ``room`` lines.

    Args:
        gpus: of all hosts, in order.
        others: CPU and DRAM, each as one.
        width: columns.
        room: lines.
        ascii_only: without box-drawing characters.
    """
    below = [_row(other.label, other) for other in others]
    if room < 2 + len(below):
        below = []
    heading = room >= 2
    rows, folded = _gpu_rows(gpus, room - heading - len(below))
    made = _table([*rows, *below], width, heading=heading, folded=bool(folded), ascii_only=ascii_only)
    if folded and len(rows) > folded:
        made.insert(heading + folded, Text(" those that do least:", "dim"))
    return made[: max(0, room)]


def _gpu_rows(gpus: Sequence[DeviceStatus], room: int) -> tuple[list[_Row], int]:
    """Return a row a GPU, or some that stand for several and then single ones; and how many stand for several."""
    hosts = list(dict.fromkeys(gpu.host for gpu in gpus))
    several = len(hosts) > 1
    if len(gpus) <= max(0, room):
        return [_row(f"{_short(gpu.host)} {_label(gpu)}" if several else f"GPU {_label(gpu)}", gpu) for gpu in gpus], 0
    if len(hosts) > room:
        rows = [_row(f"{len(gpus)} GPUs", *gpus)]
    else:
        rows = [
            _row(_short(host) if several else f"{len(gpus)} GPUs", *(gpu for gpu in gpus if gpu.host == host))
            for host in hosts
        ]
    least = sorted(gpus, key=lambda gpu: gpu.utilization_ratio if gpu.utilization_ratio is not None else 2.0)
    folded = len(rows)
    for gpu in least[: max(0, room - folded - 1)]:
        rows.append(_row(f"{_short(gpu.host)} {_label(gpu)}" if several else f"GPU {_label(gpu)}", gpu))
    return rows, folded


def _label(device_now: DeviceStatus) -> str:
    return device_now.label if len(device_now.label) <= 4 else device_now.label[-4:]


def _short(host: str) -> str:
    host = host.partition(".")[0]
    return host if len(host) <= WIDEST_HOST else "…" + host[1 - WIDEST_HOST :]


def _row(label: str, *devices: DeviceStatus) -> _Row:
    """Return the row of a device, or of several of one kind that are folded into one."""
    kind, memory = devices[0].kind, [device.memory_bytes for device in devices]
    watts, limits = [device.power_watts for device in devices], [device.power_limit_watts for device in devices]
    used = [device.utilization_ratio for device in devices]
    totals = [device.memory_total_bytes for device in devices]
    return _Row(
        label,
        (
            _gauge(watts, limits, _watts, "W", POWER_STYLE),
            NOTHING if kind == "dram" else _gauge(used, [1.0] * len(used), _percents, "%", USE_STYLE, of=False),
            NOTHING if kind == "cpu" and memory == [None] else _gauge(memory, totals, _gigabytes, "GB", MEMORY_STYLE),
        ),
    )


def _gauge(
    values: Sequence[float | None],
    mosts: Sequence[float | None],
    write: Callable[[float], str],
    unit: str,
    style: str,
    *,
    of: bool = True,
) -> Gauge:
    """Return the mean against the most; of several devices the text is the least and the most of them."""
    have = [value for value in values if value is not None]
    if not have:
        return Gauge(None, f"{DASH} {unit}", "dim")
    both = [(value, most) for value, most in zip(values, mosts, strict=True) if value is not None and most]
    ratio = sum(value for value, _ in both) / sum(most for _, most in both) if both else None
    if unit == "%" and ratio is not None:
        style = "yellow" if ratio < IDLE_RATIO else style
    elif unit == "GB" and ratio is not None and ratio > FULL_RATIO:
        style = "red"
    if len(values) > 1:
        least, most = write(min(have)), write(max(have))
        return Gauge(ratio, f"{least} {unit}" if least == most else f"{least}-{most} {unit}", style)
    limit = f"/{write(mosts[0])}" if of and mosts[0] else ""
    return Gauge(ratio, f"{write(have[0])}{limit} {unit}", style)


def _watts(value: float) -> str:
    return _format.number(value, 2) if value < 10 else f"{value:.0f}"


def _percents(ratio: float) -> str:
    return f"{ratio * 100:.0f}" if not 0 < ratio < 0.005 else "<1"


def _gigabytes(value: float) -> str:
    size = value / BYTES_PER_GB
    return f"{size:.1f}" if size < 100 else f"{size:.0f}"


def together(label: str, devices: Sequence[DeviceStatus], hosts: Sequence[DeviceStatus]) -> DeviceStatus:
    """Return several devices as one: powers summed, and how busy their hosts are and what memory they have in use.

    A sum lacks nothing: where one is not known, neither is the sum.
    """

    def total(values: Sequence[float | None]) -> float | None:
        return None if not values or any(value is None for value in values) else sum(value or 0.0 for value in values)

    busy = [host.utilization_ratio for host in hosts if host.utilization_ratio is not None]
    return DeviceStatus(
        host="",
        kind=devices[0].kind if devices else "host",
        id=label,
        label=label,
        name=label,
        power_watts=total([device.power_watts for device in devices]),
        power_limit_watts=total([device.power_limit_watts for device in devices]),
        utilization_ratio=fmean(busy) if busy else None,
        memory_bytes=total([host.memory_bytes for host in hosts]),
        memory_total_bytes=total([host.memory_total_bytes for host in hosts]),
    )


def _table(rows: Sequence[_Row], width: int, *, heading: bool, folded: bool, ascii_only: bool) -> list[Text]:
    if not rows:
        return []
    label = max(len(row.label) for row in rows)
    texts = [max(len(row.gauges[at].text) for row in rows) for at in range(3)]
    room = width - 2 - label - sum(texts) - 3 * 3  # a margin on both sides
    bars = max(0, min(WIDEST_BAR, room // 3))
    if bars < 3:
        bars = 0
    made = []
    if heading:
        line = Text(" " + " " * label, style="dim")
        for at, name in enumerate(("power", "use", "memory")):
            name += ", least to most" if folded and bars + texts[at] > 22 else ""  # noqa: PLW2901
            line.append("  " + name.ljust(bars + 1 + texts[at]))
        made.append(line)
    for row in rows:
        line = Text(" " + row.label.ljust(label))
        for at, gauge in enumerate(row.gauges):
            line.append("  ")
            line.append(bar(gauge.ratio, bars, gauge.style, ascii_only=ascii_only))
            line.append(" " + gauge.text.rjust(texts[at]), style="dim" if DASH in gauge.text else "")
        made.append(line)
    if ascii_only:
        made = [Text(line.plain.replace(DASH, "-"), spans=line.spans) for line in made]
    return made


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


def lines(now: RunStatus, frame: Frame, width: int, height: int) -> list[Text]:
    """Return a run at this moment as at most ``height`` lines of at most ``width`` columns.

    What matters least is left out where there is no room, and GPUs are folded.
    """
    gpus = [device for device in now.devices if device.kind == "gpu"]
    hosts = [device for device in now.devices if device.kind == "host"]
    others = [
        together(name, devices, hosts)
        for kind, name in (("cpu", "CPU"), ("dram", "DRAM"))
        if (devices := [device for device in now.devices if device.kind == kind])
    ]
    if [other.kind for other in others] == ["cpu", "dram"]:  # the hosts' memory stands once
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


def _head(now: RunStatus, frame: Frame, width: int) -> Text:
    style = {"running": "bold green", "completed": "green"}.get(now.status, "bold red")
    right = Text(now.status, style)
    right.append(f"  {_format.clock(now.totals.seconds)} ", "bold")
    left = Text(f" {printable(now.name or frame.title)}", "bold")
    left.truncate(max(8, width - len(right) - 2), overflow="ellipsis")
    return left + Text(" " * max(1, width - left.cell_len - len(right))) + right


def _hardware(now: RunStatus, width: int) -> list[Text]:
    counts: dict[str, int] = {}
    for device in now.devices:
        if device.kind == "gpu":
            counts[device.name] = counts.get(device.name, 0) + 1
    facts = [f"{count} X {name}" for name, count in counts.items()]
    facts += [now.hosts[0] if len(now.hosts) == 1 else f"{len(now.hosts)} hosts"] if now.hosts else []
    facts += [f"{now.processes} processes"] if now.processes > 1 else []
    facts += [f"attempt {now.attempt}"] if now.attempt > 1 else []
    facts += [now.error] if now.error else []
    text = Text(f" {' · '.join(facts)}", "dim")
    text.truncate(width, overflow="ellipsis")
    return [text] if facts else []


def _phases(now: RunStatus) -> Text:
    """Return the open phases, each with how long it has been open; an inner one without its outer's name."""
    line, outer = Text(), ""
    for path, seconds in now.phases:
        name = path[len(outer) + 1 :] if outer and path.startswith(f"{outer}/") else path
        if line:
            line.append(f" {WITHIN} " if path.startswith(f"{outer}/") else ", ", "dim")
        line.append(name, "bold").append(f" {_format.clock(seconds)}")
        outer = path
    return line


def _step(now: RunStatus, frame: Frame, width: int) -> list[Text]:
    if now.step is None or not now.steps:
        return []
    ratio = now.step / now.steps
    text = f" {now.step:,} of {now.steps:,}, {_format.percent(ratio)}"
    left = remaining(now)
    if left is not None:
        seconds, low, high = left
        text += f", {_left(seconds)} to go"
        with_interval = f" ({_left(low)} to {_left(high)})" if _left(low) != _left(high) else ""
        ends = f", ends about {_moment(frame.at, seconds)}"
        for more in (with_interval, ends):
            text += more if len(text) + len(more) + LABEL + 12 <= width else ""
    line = _named("Step", "")
    size = min(STEP_BAR, width - LABEL - 1 - len(text))
    if size >= 5:
        line.append(bar(ratio, size, "blue", ascii_only=frame.ascii_only))
    return [line.append(text if size >= 5 else text[1:])]


def remaining(now: RunStatus) -> tuple[float, float, float] | None:
    """Return the seconds that training will still take, with their interval; None where not known, or done."""
    interval = now.expected.seconds if now.expected is not None else None
    if interval is None or now.status != "running" or (now.step or 0) >= (now.steps or 0):
        return None
    return tuple((ratio - 1) * now.totals.seconds for ratio in (interval.ratio, interval.low, interval.high))  # type: ignore[return-value]


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
    interval: ForecastRatio | None
    write: Callable[[float], str]

    def end(self, *, with_interval: bool) -> str:
        if self.value is None or self.interval is None:
            return ""
        low, high = self.value * self.interval.low, self.value * self.interval.high
        text = _format.interval(low, high, self.write)
        return self.write(self.value * self.interval.ratio) + (f" ({text})" if text and with_interval else "")


def figures(now: RunStatus, tier: str) -> list[_Figure]:
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
                label, _format.money(usd), _or_dash(rate, lambda usd: f"{_format.money(usd)}/h"), usd, seconds,
                _format.money,
            )
        )  # fmt: skip
    if not costs:
        made.append(_Figure("Cost", DASH, DASH, None, None, _format.money))
    return made


def _or_dash(value: float | None, write: Callable[[float], str]) -> str:
    return DASH if value is None else write(value)


def _totals(now: RunStatus, frame: Frame, width: int) -> list[Text]:
    rows = figures(now, frame.tier)
    so_far = max(len("so far"), *(len(row.now) for row in rows))
    rate = max(len("rate"), *(len(row.rate) for row in rows))
    ends = any(row.end(with_interval=False) for row in rows)
    room = width - 1 - LABEL - so_far - rate - 8
    with_interval = all(len(row.end(with_interval=True)) <= room for row in rows)
    head = Text(" " * (1 + LABEL), "dim")
    head.append(f"{'so far':>{so_far}}    {'rate':>{rate}}" + ("    at the end, expected" if ends else ""), "dim")
    made = [head]
    for row in rows:
        line = _named(row.name, "")
        line.append(f"{row.now:>{so_far}}", "bold" if row.now != DASH else "dim")
        line.append(f"    {row.rate:>{rate}}", "dim" if row.rate == DASH else "")
        if ends:
            line.append(f"    {row.end(with_interval=with_interval)}")
        made.append(line)
    return made


def one_line(now: RunStatus, frame: Frame) -> str:
    """Return a run at this moment as one line, for a log; what is not known is not in it."""
    phases = _phases(now).plain
    parts = [now.status, _format.clock(now.totals.seconds)]
    parts += [f"phase {phases}"] if phases else []
    parts += [f"step {now.step:,} of {now.steps:,}"] if now.step is not None and now.steps else []
    busy = [
        device.utilization_ratio
        for device in now.devices
        if device.kind == "gpu" and device.utilization_ratio is not None
    ]
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
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def _ends(rows: Sequence[_Figure], tier: str) -> list[str]:
    return [row.end(with_interval=True) + _word(row, tier) for row in rows if row.end(with_interval=True)]


def _word(row: _Figure, tier: str) -> str:
    """Return what a figure is of, where its unit does not tell."""
    name = {"Energy": "", "Cost": _format.tier(tier) if tier else ""}.get(row.name, row.name)
    return f" {name}" if name else ""
