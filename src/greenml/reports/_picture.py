"""Two small plots for a paper's column, by matplotlib: energy by phase, and power over time.

matplotlib's settings are changed in a context of their own: the user's settings and open figures stay.
"""

from __future__ import annotations

import io
from typing import Any, Literal

from greenml.errors import SettingsError
from greenml.record.schema import DeviceRecord, RunRecord
from greenml.reports import _format, _parts
from greenml.reports.page import time_charts

WIDTH_INCHES = 3.4  # a column of a two-column paper
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5cc4", "#555555")
# Okabe and Ito, Color Universal Design (2008), the yellow and black replaced; dashes tell a second round apart.
DASHES = ("-", "--", ":")
MOST_LINES = 8
MOST_PHASES = 10
SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 8.0, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 0.9, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "legend.frameon": False, "legend.fontsize": 7.0, "svg.fonttype": "path", "svg.hashsalt": "greenml",
    "text.usetex": False, "text.parse_math": False, "axes.titlesize": 8.0, "axes.titleweight": "bold",
}  # fmt: skip

Lines = list[tuple[str, list[float | None]]]


def draw(record: RunRecord, kind: Literal["png", "svg"]) -> bytes:
    """Return the picture.

    Raises:
        SettingsError: matplotlib is not installed; says what to install.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingsError("--plot needs matplotlib: pip install 'greenml[plot]'") from None
    plain = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith(("backend", "date."))
    }
    with matplotlib.rc_context():
        settings: Any = matplotlib.rcParams  # its keys are typed one by one
        settings.update(plain | SETTINGS)
        bars = _bars(record)
        lines = _lines(record)
        heights = [0.28 * len(bars) + 0.55 if bars else 0.45, 1.75 if lines else 0.45]
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=heights)
        _draw_bars(upper, bars)
        _draw_lines(lower, record, lines)
        stream = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(stream, format=kind, dpi=300, metadata=metadata)
    return stream.getvalue()


Bar = tuple[str, float, float, float]


def _bars(record: RunRecord) -> list[Bar]:
    """Return name, joules, and how far the interval reaches below and above, of each outer phase and of the rest."""
    made: list[Bar] = []
    for phase in _parts.phases(record):
        total = record.total(phase.path)
        quantity = total.it_energy_joules if total is not None and "/" not in phase.path else None
        if quantity is not None and quantity.value is not None:
            low, high = quantity.low, quantity.high
            below = quantity.value - low if low is not None else 0.0
            above = high - quantity.value if high is not None else 0.0
            made.append((phase.path, quantity.value, max(below, 0.0), max(above, 0.0)))
    rest = _parts.remainder(record) if made else None
    if len(made) > MOST_PHASES:
        others = made[MOST_PHASES - 1 :]
        made = [*made[: MOST_PHASES - 1], (f"{len(others)} other phases", sum(other[1] for other in others), 0.0, 0.0)]
    if rest is not None and rest.energy_joules:
        made.append(("outside phases", rest.energy_joules, 0.0, 0.0))
    return made


def _draw_bars(axes: Any, bars: list[Bar]) -> None:  # noqa: ANN401  matplotlib is not typed here
    axes.set_title("IT energy by phase", loc="left")
    if not bars:
        _write(axes, "not known: no phase has a known energy")
        return
    most = max(bar[1] for bar in bars)
    unit, size = next(
        ((unit, size) for unit, size in (("kWh", 3.6e6), ("Wh", _format.JOULES_PER_WH)) if most >= 0.1 * size),
        ("J", 1.0),
    )
    places = range(len(bars))
    errors = [[bar[2] / size for bar in bars], [bar[3] / size for bar in bars]]
    axes.barh(
        places, [bar[1] / size for bar in bars], height=0.62, color=COLORS[0], xerr=errors,
        error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#333333"},
    )  # fmt: skip
    axes.set_yticks(places, [_short(bar[0]) for bar in bars])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_xlim(left=0)


def _short(name: str) -> str:
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return flat if len(flat) <= 18 else f"{flat[:17]}\u2026"


def _lines(record: RunRecord) -> Lines:
    """Return each device's power, or a kind's mean where it has many."""
    if record.timeline is None:
        return []
    power = {series.device: series.power_watts for series in record.timeline.series if series.power_watts}
    made: Lines = []
    for kind, word in _parts.KIND_WORDS.items():
        devices = [device for device in record.devices if device.kind == kind and device.id in power]
        if len(devices) > (MOST_LINES if kind == "gpu" else 2):
            means, _, _ = time_charts.across([power[device.id] for device in devices])
            made.append((f"mean of {len(devices)} {word}s", means))
        else:
            made += _each(devices, power)
    return made


def _each(devices: list[DeviceRecord], power: dict[str, list[float | None]]) -> Lines:
    return [(name, power[device.id]) for name, device in zip(_parts.short_names(devices), devices, strict=True)]


def _draw_lines(axes: Any, record: RunRecord, lines: Lines) -> None:  # noqa: ANN401
    axes.set_title("Power over time", loc="left")
    if not lines or record.timeline is None:
        _write(axes, "not known: no device has its power over time")
        return
    span, unit = time_charts.clock(record.duration_seconds)
    width, end = record.timeline.step_seconds / span, record.duration_seconds / span
    for number, (name, values) in enumerate(lines):
        at, watts = time_charts.steps(values, width, end)
        nan = float("nan")
        axes.plot(
            [nan if second is None else second for second in at], [nan if watt is None else watt for watt in watts],
            color=COLORS[number % len(COLORS)], linestyle=DASHES[number // len(COLORS) % len(DASHES)],
            label=_short(name), drawstyle="steps-post",
        )  # fmt: skip
    axes.set_xlabel(f"time since the start,{unit}")
    axes.set_ylabel("W")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end)
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.32), ncols=3, handlelength=1.6, columnspacing=1.0)


def _write(axes: Any, words: str) -> None:  # noqa: ANN401
    axes.set_axis_off()
    axes.text(0.0, 0.5, words, transform=axes.transAxes, color="#444444")
