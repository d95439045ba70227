"""Devices as bars: a line a GPU where there is room, else a line a host and those GPUs that do least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.text import Text

from greenml.moment import DeviceNow
from greenml.reports import _format
from greenml.units import BYTES_PER_GB

DASH = "—"
IDLE_RATIO = 0.10  # a GPU that does less than this is thought to wait
FULL_RATIO = 0.95
FEW_HOSTS = 8  # get a line each, whatever else there is to show
WIDEST_BAR = 30
WIDEST_HOST = 16
POWER_STYLE, USE_STYLE, MEMORY_STYLE = "cyan", "green", "magenta"


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


def wanted_lines(gpus: Sequence[DeviceNow], others: Sequence[DeviceNow]) -> tuple[int, int]:
    """Return how many lines the devices take in full, and folded with a few of the GPUs that do least."""
    heading = 1 if gpus or others else 0
    hosts = len({one.host for one in gpus})
    few = (hosts if hosts <= FEW_HOSTS else 1) + 2
    return heading + len(gpus) + len(others), heading + min(len(gpus), few) + len(others)


def gauge_lines(
    gpus: Sequence[DeviceNow], others: Sequence[DeviceNow], width: int, room: int, *, ascii_only: bool = False
) -> list[Text]:
    """Return the devices as at most ``room`` lines.

    Args:
        gpus: of all hosts, in order.
        others: CPU and DRAM, each as one.
        width: columns.
        room: lines.
        ascii_only: without box-drawing characters.
    """
    below = [_row(one.label, one) for one in others]
    if room < 2 + len(below):
        below = []
    heading = room >= 2
    rows, folded = _gpu_rows(gpus, room - heading - len(below))
    made = _table([*rows, *below], width, heading=heading, folded=bool(folded), ascii_only=ascii_only)
    if folded and len(rows) > folded:
        made.insert(heading + folded, Text(" those that do least:", "dim"))
    return made[: max(0, room)]


def _gpu_rows(gpus: Sequence[DeviceNow], room: int) -> tuple[list[_Row], int]:
    """Return a row a GPU, or some that stand for several and then single ones; and how many stand for several."""
    hosts = list(dict.fromkeys(one.host for one in gpus))
    several = len(hosts) > 1
    if len(gpus) <= room:
        return [_row(f"{_short(one.host)} {_label(one)}" if several else f"GPU {_label(one)}", one) for one in gpus], 0
    if len(hosts) > room:
        rows = [_fold(f"{len(gpus)} GPUs", gpus)]
    else:
        rows = [
            _fold(_short(host) if several else f"{len(gpus)} GPUs", [one for one in gpus if one.host == host])
            for host in hosts
        ]
    least = sorted(gpus, key=lambda one: one.utilization_ratio if one.utilization_ratio is not None else 2.0)
    folded = len(rows)
    for one in least[: max(0, room - folded - 1)]:
        rows.append(_row(f"{_short(one.host)} {_label(one)}" if several else f"GPU {_label(one)}", one))
    return rows, folded


def _label(one: DeviceNow) -> str:
    return one.label if len(one.label) <= 4 else one.label[-4:]


def _short(host: str) -> str:
    host = host.partition(".")[0]
    return host if len(host) <= WIDEST_HOST else "…" + host[1 - WIDEST_HOST :]


def _row(label: str, one: DeviceNow) -> _Row:
    return _Row(
        label,
        (
            _gauge([one.power_watts], [one.power_limit_watts], _watts, "W", POWER_STYLE),
            NOTHING
            if one.kind == "dram"
            else _gauge([one.utilization_ratio], [1.0], _percents, "%", USE_STYLE, of=False),
            NOTHING
            if one.kind == "cpu" and one.memory_bytes is None
            else _gauge([one.memory_bytes], [one.memory_total_bytes], _gigabytes, "GB", MEMORY_STYLE),
        ),
    )


def _fold(label: str, some: Sequence[DeviceNow]) -> _Row:
    return _Row(
        label,
        (
            _gauge(
                [one.power_watts for one in some], [one.power_limit_watts for one in some], _watts, "W", POWER_STYLE
            ),
            _gauge([one.utilization_ratio for one in some], [1.0] * len(some), _percents, "%", USE_STYLE, of=False),
            _gauge(
                [one.memory_bytes for one in some],
                [one.memory_total_bytes for one in some],
                _gigabytes,
                "GB",
                MEMORY_STYLE,
            ),
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


def together(label: str, some: Sequence[DeviceNow], hosts: Sequence[DeviceNow]) -> DeviceNow:
    """Return several devices as one: powers summed, and how busy their hosts are and what memory they have in use.

    A sum lacks nothing: where one is not known, neither is the sum.
    """

    def total(values: Sequence[float | None]) -> float | None:
        return None if not values or any(value is None for value in values) else sum(value or 0.0 for value in values)

    busy = [one.utilization_ratio for one in hosts if one.utilization_ratio is not None]
    return DeviceNow(
        host="",
        kind=some[0].kind if some else "host",
        id=label,
        label=label,
        name=label,
        power_watts=total([one.power_watts for one in some]),
        power_limit_watts=total([one.power_limit_watts for one in some]),
        utilization_ratio=fmean(busy) if busy else None,
        memory_bytes=total([one.memory_bytes for one in hosts]),
        memory_total_bytes=total([one.memory_total_bytes for one in hosts]),
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
