"""The live view's lines: they fit, they tell what is known, and nothing is told that is not."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.accounting.status import DeviceStatus, Expected, ForecastRatio, RunningTotals, RunStatus
from greenml.cli._live import CommandOutput
from greenml.cli._live_view import Frame, bar, lines, one_line

FRAME = Frame(
    "run.json", datetime(2026, 11, 20, 14, 3), "dedicated", "288.1 g CO2e/kWh (NWPP), PUE 1.15", "q leaves"
)  # fmt: skip


def gpu(index, host="node-0", **told):
    known = {
        "power_watts": 250.0, "power_limit_watts": 300.0, "utilization_ratio": 0.9, "memory_bytes": 28e9,
        "memory_total_bytes": 34e9, **told,
    }  # fmt: skip
    return DeviceStatus(host, "gpu", f"GPU-{host}-{index}", str(index), "Tesla V100-SXM2-32GB", **known)


def others(host="node-0"):
    return [
        DeviceStatus(host, "cpu", "package-0", "package-0", "Xeon", power_watts=120.0, power_limit_watts=205.0),
        DeviceStatus(host, "dram", "dram-0", "dram-0", "DRAM", power_watts=31.0),
        DeviceStatus(host, "host", "host", "host", "Xeon", None, None, 0.34, 88e9, 700e9),
    ]


def now(gpus=(), **told):
    totals = RunningTotals(2631.0, 3.6e6, 2410.0, 400.0, {"dedicated": 16.06, "low_priority": 3.21})
    known = {
        "name": "t5-3b samsum", "status": "running", "error": None, "attempt": 1, "hosts": ("node-0",),
        "processes": 1, "totals": totals, "devices": [*gpus, *others()],
        "phases": [("train", 2412.0), ("train/eval", 12.0)], "step": 1240, "steps": 5500,
        "expected": Expected(ForecastRatio(4.0, 3.8, 4.2), ForecastRatio(3.0, 2.9, 3.1)), "grams_per_hour": 680.0,
        "usd_per_hour": {"dedicated": 22.03, "low_priority": 4.41}, "note": "GPU 3 did not answer for 2 s",
        **told,
    }  # fmt: skip
    return RunStatus(**known)


def plain(made):
    return [line.plain for line in made]


def fleet(hosts, each):
    return [gpu(index, f"node-{host:02d}") for host in range(hosts) for index in range(each)]


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 20), (40, 10), (20, 5), (200, 60), (1, 1)])
@pytest.mark.parametrize(("hosts", "each"), [(1, 0), (1, 1), (1, 8), (1, 64), (8, 8), (64, 1), (64, 8)])
def test_it_fits_any_terminal(width, height, hosts, each):
    made = lines(now(fleet(hosts, each)), FRAME, width, height)
    assert len(made) <= height
    assert max(line.cell_len for line in made) <= width
    if height >= 20 and width >= 60:
        text = "\n".join(plain(made))
        assert "so far" in text
        assert "Phase" in text
        assert all(name in text for name in ("Energy", "CO2e", "Cost"))
        assert not each or "300 W" in text or "250 W" in text


@given(st.integers(1, 130), st.integers(1, 60), st.integers(0, 70))
def test_it_fits_whatever_the_size(width, height, gpus):
    made = lines(now([gpu(at) for at in range(gpus)]), FRAME, width, height)
    assert len(made) <= height
    assert max((line.cell_len for line in made), default=0) <= width


def test_the_figures():
    text = "\n".join(plain(lines(now([gpu(0), gpu(1, power_watts=47.5, utilization_ratio=0.03)]), FRAME, 110, 40)))
    assert re.search(r"GPU 0 .* 250/300 W .* 90 % .* 28\.0/34\.0 GB", text)
    assert re.search(r"GPU 1 .*  48/300 W .* 3 % .* 28\.0/34\.0 GB", text)
    assert re.search(r"CPU .* 120/205 W .* 34 %", text)
    assert re.search(r"DRAM .* 31 W .* 88\.0/700 GB", text)
    assert "train 40m 12s \u203a eval 12s" in text
    assert "1,240 of 5,500, 22.5%, 1h 27m to go (1h 23m to 1h 32m), ends about 15:30" in text
    assert re.search(r"Energy +1\.000 kWh +2\.41 kW +4\.000 kWh \(3\.800 to 4\.200 kWh\)", text)
    assert re.search(r"CO2e +400\.0 g +680\.0 g/h +1\.600 kg \(1\.520 to 1\.680 kg\)", text)
    assert re.search(r"Cost +\$16\.06 +\$22\.03/h +\$48\.18 \(\$46\.57 to \$49\.79\)", text)
    assert "GPU 3 did not answer for 2 s" in text
    assert "low pri." not in text  # the tier was told


def test_every_price_where_nobody_told_the_tier():
    text = "\n".join(plain(lines(now([gpu(0)]), replace(FRAME, tier=""), 100, 40)))
    assert re.search(r"dedicated +\$16\.06 +\$22\.03/h", text)
    assert re.search(r"low pri\. +\$3\.21 +\$4\.41/h", text)


def test_names_cannot_steer_the_terminal():
    made = now([gpu(0)], name="x\x1b]0;y\x07\n\u65e5\u672c", note="\x1b[2J\r gone", phases=[("a\x9b1m\nb", 1.0)])
    for text in [*plain(lines(made, FRAME, 80, 30)), one_line(made, FRAME)]:
        assert text.isprintable()
    assert lines(made, FRAME, 80, 30)[0].cell_len == 80
    assert "\u65e5\u672c" in one_line(made, FRAME)


def test_what_is_not_known_is_a_dash_and_never_a_zero():
    dark = gpu(0, power_watts=None, power_limit_watts=None, utilization_ratio=None, memory_bytes=None)
    totals = RunningTotals(5.0, None, None, None, {})
    made = now([dark], totals=totals, devices=[dark], expected=None, grams_per_hour=None, usd_per_hour={})
    text = "\n".join(plain(lines(made, FRAME, 100, 30)))
    row = next(line for line in text.splitlines() if "GPU 0" in line)
    assert re.fullmatch(r" GPU 0 +\u2014 W +\u2014 % +\u2014 GB", row)
    for name in ("Energy", "CO2e", "Cost"):
        assert re.search(rf"{name} +\u2014 +\u2014", text)
    assert "expected" not in text
    assert not re.search(r"\b0(\.0+)? (W|J|Wh|g|%|GB)", text)
    assert "\u2014" not in one_line(made, FRAME)


def test_a_sum_that_lacks_a_part_is_not_known():
    devices = [*others("node-0"), *others("node-1")]
    devices[3] = replace(devices[3], power_watts=None)
    text = "\n".join(plain(lines(now(devices=devices), FRAME, 100, 30)))
    assert re.search(r"CPU +\u2014 W", text)
    assert re.search(r"DRAM .* 62 W .* 176/1400 GB", text)


def test_gpus_are_folded_by_host_and_those_that_do_least_are_named():
    gpus = fleet(8, 8)
    gpus[37] = replace(gpus[37], utilization_ratio=0.01, power_watts=45.0)
    made = plain(lines(now(gpus, hosts=tuple(f"node-{at:02d}" for at in range(8))), FRAME, 80, 24))
    text = "\n".join(made)
    for host in range(8):
        assert len([line for line in made if line.startswith(f" node-{host:02d}  ")]) == 1
    assert re.search(r"node-04 .* 45-250 W .* 1-90 %", text)
    worst = made[next(at for at, line in enumerate(made) if "those that do least" in line) + 1]
    assert re.search(r"node-04 5 .* 45/300 W .* 1 %", worst)
    assert "64 X Tesla" in text


def test_one_host_of_many_gpus_is_folded_too():
    made = "\n".join(plain(lines(now([gpu(at) for at in range(16)]), FRAME, 80, 20)))
    assert re.search(r"16 GPUs .* 250 W .* 90 % .* 28\.0 GB", made)


def test_a_run_that_ended_has_no_rate_and_nothing_to_come():
    text = "\n".join(plain(lines(now([gpu(0)], status="killed"), FRAME, 100, 30)))
    assert "killed" in text.splitlines()[0]
    assert "to go" not in text
    assert "expected" not in text
    assert "2.41 kW" not in text


@pytest.mark.parametrize("height", [10, 30])
def test_without_unicode(height):
    made = plain(lines(now([gpu(0), gpu(1, power_watts=None)]), replace(FRAME, ascii_only=True), 90, height))
    assert "\n".join(made).isascii()
    assert "####" in "\n".join(made)


def test_a_bar_is_as_long_as_its_ratio():
    for ratio, filled in ((0.0, 0), (0.001, 0.5), (0.25, 5), (0.5, 10), (1.0, 20), (7.0, 20)):
        text = bar(ratio, 20, "red", ascii_only=False).plain
        assert len(text) == 20
        assert text.count("\u2501") + text.count("\u2578") / 2 == filled
    assert bar(None, 20, "red", ascii_only=False).plain == " " * 20  # an empty bar would read as zero


def test_a_line_for_a_log():
    text = one_line(now([gpu(0), gpu(1, utilization_ratio=0.5)]), FRAME)
    assert text.startswith("2026-11-20 14:03:00 t5-3b samsum: running, 43m 51s, phase train 40m 12s \u203a eval 12s, ")
    assert "step 1,240 of 5,500, GPUs 70.0% busy, 1.000 kWh at 2.41 kW, 400.0 g CO2e at 680.0 g/h, " in text
    assert "$16.06 dedicated at $22.03/h, 1h 27m to go, then 4.000 kWh (3.800 to 4.200 kWh), " in text
    assert "\n" not in text
    assert one_line(now([gpu(0)]), replace(FRAME, ascii_only=True)).isascii()


def test_the_picture_of_it_fetches_nothing():
    picture = (Path(__file__).parents[2] / "docs" / "images" / "live.svg").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|@font-face|<image|<script|href", picture)
    assert "Energy" in picture


@given(
    st.lists(
        st.sampled_from(
            ["a", "\n", "\r", "\r\n", "\u00e9", "\u2501", "\U0001f331", "\x1b[31m", "\x1b[0m", "\x1b[2K", "\x1b7",
             "\x1b(B",
             "\x1b]0;title\x07", "\x1b]8;;x\x1b\\", "\x1b[38;5;12m", "\x1bM", "\x1b[?25l", "\x1b[A", "\t", "\x07"]
        ),
        max_size=12,
    ),
    st.data(),
)  # fmt: skip
def test_the_output_of_a_command_has_the_same_lines_whatever_the_pieces(parts, data):
    written = "".join(parts).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))) | {0, len(written)})
    output, whole = CommandOutput(), CommandOutput()
    lines_of_pieces = [line for start, end in pairwise(cuts) for line in output.feed(written[start:end])]
    assert output.unfinished.isprintable() or "\x1b" in output.unfinished or "\t" in output.unfinished
    lines_of_pieces += output.feed(b"", last=True)
    assert lines_of_pieces == whole.feed(written, last=True)
    text = "\n".join(lines_of_pieces)
    assert set(re.findall(r"\x1b(?:\[[0-?]*)?(.)", text)) <= {"m"}  # colours stay, nothing that moves
    assert all(text.count(sign) <= "".join(parts).count(sign) for sign in ("a", "\u00e9", "\U0001f331", "\x1b[31m"))


def test_of_a_progress_bar_the_last_state_is_a_line():
    output = CommandOutput()
    assert output.feed(b"one\n 0%|  |\r 50%|# |") == ["one"]
    assert output.unfinished == " 50%|# |"
    assert output.feed(b"\r100%|##|\x1b[K\r") == []
    assert output.unfinished == "100%|##|"
    assert output.feed("\n\x1b[32mdon\u00e9\x1b[0m\r\nrest".encode()) == ["100%|##|", "\x1b[32mdon\u00e9\x1b[0m"]
    assert output.feed(b"", last=True) == ["rest"]
