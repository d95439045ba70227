"""The report page, the LaTeX table and the picture: what they compute, and that nothing of a run becomes markup."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import cli
from greenml.factors import tables
from greenml.record import file as records
from greenml.record.idle import idle
from greenml.record.schema import (
    DeviceRecord,
    Factor,
    Factors,
    IntensityScope,
    IntensitySeriesRecord,
    IntensitySlotRecord,
    PhaseRecord,
    PlaceRecord,
    Quantity,
    RunRecord,
    Series,
    SourceRef,
    Timeline,
    Totals,
    Usage,
)
from greenml.reports import _parts, html, latex
from greenml.reports.page import sections, shell, time_charts

START = datetime(2026, 3, 1, 10, 0, tzinfo=timezone.utc)
EVIL = "</script><!--<script>alert(1)</script>\u2028<b>&amp;\" onerror='x' $x$"


def known(
    value: float | None, low: float | None = None, high: float | None = None, basis: str = "measured"
) -> Quantity:
    return Quantity.model_validate({"value": value, "low": low, "high": high, "basis": basis, "why": ""})


def totals(scope: str, seconds: float, joules: float, usd: float) -> Totals:
    nothing = Quantity(value=None, basis="measured", why="no sensor")
    return Totals(
        scope=scope, seconds=seconds, gpu_energy_joules=known(joules), cpu_energy_joules=nothing,
        dram_energy_joules=nothing, it_energy_joules=known(joules, joules * 0.9, joules * 1.1),
        facility_energy_joules=known(joules * 1.2), emissions_grams=known(joules / 1000, joules / 2000, joules / 500),
        cost_usd={"dedicated": known(usd, basis="assumed"), "spot": known(usd / 4, basis="derived")},
        gpu_utilization_ratio=0.5,
    )  # fmt: skip


def gpu(number: int, joules: float | None, **more: object) -> DeviceRecord:
    usage = Usage(energy_joules=joules, power_mean_watts=100.0, utilization_ratio=0.5)
    fields = {
        "id": f"GPU-{number}", "kind": "gpu", "name": "NVIDIA H100", "host": "n0", "method": "counter",
        "sensor": "nvml",
        "detail": {"index": str(number)}, "usage": usage,
    }  # fmt: skip
    return DeviceRecord.model_validate(fields | more)


def run(**update: object) -> RunRecord:
    """Two GPUs over 40 s in bins of 10 s; the second one is idle half of the time, and not read in the last bin."""
    made = RunRecord(
        greenml_version="0.1.0", run_id="r1", name="toy", status="completed", started=START,
        ended=START + timedelta(seconds=40), duration_seconds=40.0,
        place=PlaceRecord(cloud="aws", region="us-east-1", sku="p5.48xlarge"),
        devices=[gpu(0, 8000.0), gpu(1, 2000.0)],
        phases=[PhaseRecord(path="train", count=1, seconds=30.0, spans=[(0.0, 30.0)], usage={})],
        factors=Factors(),
        totals=[totals("run", 40.0, 10_000.0, 4.0), totals("train", 30.0, 9_000.0, 3.0)],
        timeline=Timeline(
            step_seconds=10.0, bins=4,
            series=[
                Series(device="GPU-0", power_watts=[200.0] * 4, utilization_ratio=[0.9] * 4, memory_bytes=[1e9] * 4),
                Series(
                    device="GPU-1", power_watts=[20.0, 20.0, 160.0, None], utilization_ratio=[0.0, 0.05, 0.8, None],
                    memory_bytes=[1e9, 1e9, 1e9, None],
                ),
            ],
        ),
    )  # fmt: skip
    return made.model_copy(update=update)


class Page(HTMLParser):
    """The elements of a page, and the text of each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text[self.tags[-1] if self.tags else ""] = self.text.get(self.tags[-1] if self.tags else "", "") + data


def charts(text: str) -> list[dict]:
    held = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(one) for one in held]


# What was idle


def test_idle_energy_is_each_devices_idle_share_of_its_own_energy() -> None:
    shares = idle(run())
    # GPU 1: 20 W in two idle bins of three read ones, (20 + 20) / (20 + 20 + 160) of its 2,000 J.
    assert shares.energy_joules == pytest.approx(2000 * 0.2)
    assert shares.energy_ratio == pytest.approx(400 / 10_000)
    assert shares.time_ratio == pytest.approx(20 / 70)  # 40 s and 30 s were read
    assert shares.emissions_grams == pytest.approx(10.0 * 400 / 10_000)
    assert shares.cost_usd == {"dedicated": pytest.approx(4 * 20 / 70), "spot": pytest.approx(20 / 70)}
    assert (shares.kind, shares.devices, shares.of_devices) == ("gpu", 2, 2)


def test_the_last_bin_counts_as_long_as_the_run_lasted() -> None:
    shares = idle(run(duration_seconds=35.0))
    assert shares.time_ratio == pytest.approx(20 / 65)


def test_a_ratio_of_exactly_ten_percent_is_not_idle() -> None:
    record = run()
    record.timeline.series[1].utilization_ratio[1] = 0.10
    assert idle(record).energy_joules == pytest.approx(2000 * 0.1)


def test_a_cpus_idleness_is_that_of_its_host() -> None:
    cpu = DeviceRecord(
        id="package-0", kind="cpu", name="EPYC", host="n0", method="counter", sensor="rapl",
        usage=Usage(energy_joules=900.0),
    )  # fmt: skip
    host = DeviceRecord(id="host", kind="host", name="host", host="n0", method=None, sensor="host", usage=Usage())
    timeline = Timeline(
        step_seconds=10.0, bins=2,
        series=[
            Series(device="package-0", power_watts=[60.0, 30.0]), Series(device="host", utilization_ratio=[0.5, 0.01]),
        ],
    )  # fmt: skip
    shares = idle(run(devices=[cpu, host], timeline=timeline, duration_seconds=20.0))
    assert (shares.kind, shares.energy_joules, shares.time_ratio) == ("cpu", pytest.approx(300.0), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"timeline": None}, "no timeline"),
        ({"devices": [gpu(0, None)]}, "no GPU tells both"),
        ({"devices": []}, "no CPU tells both"),
    ],
)
def test_idleness_that_is_not_known_has_a_reason(update: dict[str, object], why: str) -> None:
    assert why in idle(run(**update))
    assert f"Not known: {idle(run(**update))}." in html.render(run(**update))


# Equivalents


def test_equivalents_are_emissions_over_what_one_emits_with_its_source() -> None:
    table = {row["id"]: row for row in tables.rows("equivalents")}
    car, us_car, phone = sections.equivalents(1000.0, 500.0, 2000.0)
    assert car.count == pytest.approx(1000 / 175)
    assert us_car.count == pytest.approx(1000 / 244.2)
    assert (phone.count, phone.low, phone.high) == tuple(pytest.approx(x / 12.4) for x in (1000, 500, 2000))
    assert float(table["smartphone_charge_2024"]["value"]) == phone.each_grams
    assert "US EPA" in phone.source.label
    assert phone.source.label.endswith("2024-08-01")
    assert phone.source.url.startswith("https://")


def test_no_equivalents_of_what_is_not_known() -> None:
    unknown = totals("run", 40.0, 1.0, 1.0).model_copy(update={"emissions_grams": known(None)})
    assert "smartphone" not in html.render(run(totals=[unknown]))
    assert "smartphone" in html.render(run())


# Phases


def test_phases_and_what_is_outside_add_up_to_the_run() -> None:
    rest = _parts.remainder(run())
    assert rest == _parts.Remainder(10.0, pytest.approx(1000.0), pytest.approx(1.0), {"dedicated": 1.0, "spot": 0.25})


def test_phases_that_overlap_have_no_remainder() -> None:
    phases = [PhaseRecord(path=name, count=1, seconds=30.0, spans=[], usage={}) for name in "ab"]
    assert _parts.remainder(run(phases=phases)) is None
    assert "add up to more than the run" in html.render(run(phases=phases))


def test_shares_of_devices_add_up_to_the_runs_carbon_and_cost() -> None:
    energy, carbon, cost = sections.by_device(run()).charts
    assert [bar.figure for bar in energy.bars] == ["2.222 Wh", "0.5556 Wh"]
    assert [bar.percent for bar in energy.bars] == [100, 25]
    assert [bar.figure for bar in carbon.bars] == ["8.000 g CO2e", "2.000 g CO2e"]  # of 10 g
    assert [bar.figure for bar in cost.bars] == ["$3.20", "$0.80"]  # of $4


def test_bars_show_their_intervals_and_leave_out_what_is_not_known() -> None:
    values = [sections.Bar("a", 7.2e6, 3.6e6, 1.08e7), sections.Bar("b", None), sections.Bar("c", 1.08e6)]
    first, second = sections.draw_bars(sections.ENERGY, values).bars
    # The longest is the upper end of the first one's interval, 3 kWh.
    assert (first.figure, first.interval) == ("2.000 kWh", "1.000 to 3.000 kWh")
    assert (first.percent, first.low_percent, first.high_percent) == (66.667, 33.333, 100)
    assert (second.figure, second.percent, second.low_percent) == ("0.3000 kWh", 10, None)
    assert sections.draw_bars(sections.ENERGY, [sections.Bar("b", None)]) is None
    assert sections.draw_bars(sections.ENERGY, [sections.Bar("b", 0.0)]) is None


def test_bars_are_drawn_in_the_page_itself() -> None:
    text = html.render(run())
    drawn = text[text.index('<div class="bars energy">') :]
    drawn = drawn[: drawn.index("</div>")]
    # By phase: 9 of 10 kJ in "train", of which the interval reaches to 9.9 kJ; 1 kJ outside of it.
    assert re.findall(r'class="value"[^>]* width="([\d.]+)%"', drawn) == ["90.909", "10.101"]
    assert re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%"', drawn)[0] == ("81.818", "100.0")
    assert "2.500 Wh" in drawn
    assert "outside phases" in drawn


def test_many_bars_are_the_largest_and_all_others_as_one() -> None:
    values = [sections.Bar(f"epoch-{number}", 3.6e6 * (number + 1)) for number in range(40)]
    bars = sections.draw_bars(sections.ENERGY, values).bars
    assert len(bars) == sections.MOST_BARS
    assert [bar.label for bar in bars][-2:] == ["epoch-39", "25 others"]
    assert bars[-1].figure == "325.0 kWh"  # 1 to 25
    assert [bar.is_rest for bar in bars] == [False] * 15 + [True]


# Steps


def test_steps_leave_gaps_open_and_draw_a_lone_bin() -> None:
    at, drawn = time_charts.steps([1.0, None, 3.0, 4.0], 10.0, 35.0)
    assert at == [0, 10, None, 20, 30, 35]
    assert drawn == [1, 1, None, 3, 4, 4]


@given(st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0.1, 100))
def test_steps_keep_the_area_under_the_values(values: list[float | None], width: float) -> None:
    at, drawn = time_charts.steps(values, width, len(values) * width)
    area = sum(
        (after - before) * value
        for before, after, value in zip(at, at[1:], drawn, strict=False)
        if before is not None and after is not None
    )
    assert area == pytest.approx(sum(value or 0 for value in values) * width, rel=2e-3, abs=1e-9)


def test_gaps_are_where_any_device_was_not_read() -> None:
    rows = [[1.0, None, None, 4.0, None], [1.0, 2.0, None, 4.0, 5.0]]
    assert time_charts.gaps(rows, 10.0, 44.0) == [(10.0, 30.0), (40.0, 44.0)]


def test_near_spans_are_drawn_as_one() -> None:
    spans = [(0.0, 1.0), (1.1, 2.0), (50.0, 60.0), (0.5, 1.5)]
    assert time_charts.joined(spans, 1000.0) == [(0.0, 2.0), (50.0, 60.0)]


def test_a_map_of_many_devices_is_bounded_and_keeps_the_mean() -> None:
    rows = [[float(place % 7) for place in range(600)] for _ in range(500)]
    cells, many = time_charts.pooled(rows)
    assert sum(len(row) for row in cells) <= time_charts.MOST_CELLS
    assert many == 8
    assert sum(cells[0]) / len(cells[0]) == pytest.approx(sum(rows[0]) / 600, rel=0.01)


def test_the_innermost_phase_of_each_bin_is_named() -> None:
    phases = [
        PhaseRecord(path="train", count=1, seconds=9, spans=[(0.0, 9.0)], usage={}),
        PhaseRecord(path="train/eval", count=1, seconds=2, spans=[(4.0, 6.0)], usage={}),
    ]
    # Bins of 2 s, their middles at 1, 3, 5, 7, 9 and 11 s.
    assert time_charts.phase_names(phases, 6, 2.0) == ["train", "train", "train/eval", "train", "", ""]
    assert time_charts.phase_names([phases[0].model_copy(update={"spans": [(3.0, 99.0)]})], 2, 2.0) == ["", "train"]


# The page


def test_a_page_has_no_control_characters_and_no_turned_text() -> None:
    odd = "a\x00b\x1b[31mc\x0bd\x7fe\u202ef"
    text = html.render(
        run(name=odd, params={odd: odd}, metrics={odd: 0.5}, devices=[gpu(0, 8.0, name=odd), gpu(1, 2.0)])
    )
    assert "a b [31mc d e f" in text
    without_scripts = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall("[\x00-\x08\x0b-\x1f\x7f\u202e]", without_scripts) == []


def test_a_page_is_whole_and_asks_no_network() -> None:
    text = html.render(run())
    assert len(text.encode()) < 6_000_000
    page = Page(text)
    assert page.tags.count("h1") == 1
    assert not {"link", "iframe", "img", "base", "object", "form"} & set(page.tags)
    assert not re.search(r"<script[^>]*\ssrc=|url\(|@import", text[: text.index("plotly.js (cartesian")])
    assert "default-src 'none'" in text


def test_each_script_is_named_in_the_policy_by_its_hash() -> None:
    text = html.render(run())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'".replace("'", "&#x27;") in policy or f"'sha256-{digest}'" in policy


@given(st.text(max_size=60))
def test_no_text_of_a_run_becomes_markup(words: str) -> None:
    parts = shell.environment().from_string(
        """{% import "macros.html.j2" as page %}<p title="{{ words }}">{{ words }}</p>
        {{ page.pairs(words, [(words, ""), (words, "figure")], [(words, words)], shown=true) }}
        {{ page.chart(chart) }}{{ page.link(link) }}{{ page.bars(bars) }}
        {{ page.picker(words, words, [box]) }}"""
    )
    chart = shell.Chart({"data": [{"name": words}]}, words, title=words, unit=words, group=words, caption=words)
    bar = sections.DrawnBar(words, words, words, 1.0, None, None, is_rest=False)
    made = parts.render(
        words=words, chart=chart, link=shell.Link(words, words), bars=sections.Bars(words, "energy", (bar,)),
        box=time_charts.CheckBox(words, words, "solid", "red"),
    )  # fmt: skip
    page = Page(made)
    known = "p div table caption thead tr th tbody td h3 figure figcaption script span ul li svg rect fieldset legend"
    assert set(page.tags) <= {*known.split(), "label", "input", "a"}
    assert page.tags.count("script") == 1
    assert page.handlers == []
    assert charts(made) == [{"data": [{"name": words}]}]


def test_nothing_but_files_of_the_package_is_marked_as_safe() -> None:
    source = Path(shell.__file__).parents[2]
    templates = [path.read_text(encoding="utf-8") for path in source.rglob("*.j2")]
    assert len(templates) >= 4
    assert not [text for text in templates if re.search(r"\bsafe\b|autoescape|\bMarkup\b", text)]
    python = {path.relative_to(source): path.read_text("utf-8") for path in source.rglob("*.py")}
    marking = {path.as_posix() for path, text in python.items() if re.search(r"\bMarkup\(|\|safe", text)}
    assert marking == {"reports/page/shell.py", "run/serving/page.py"}
    assert shell.environment().autoescape is True


def test_text_that_would_end_a_script_stays_in_it() -> None:
    chart = shell.Chart({"data": [], "name": EVIL}, "label")
    made = shell.environment().from_string('{% import "macros.html.j2" as page %}{{ page.chart(chart) }}')
    (written,) = re.findall(r'<script type="application/json">(.*?)</script>', made.render(chart=chart), re.DOTALL)
    assert "<" not in written
    assert "\u2028" not in written
    assert json.loads(written) == {"data": [], "name": EVIL}


def test_a_figure_that_is_no_number_is_refused_rather_than_drawn() -> None:
    made = shell.environment().from_string("{{ figure | tojson }}")
    with pytest.raises(ValueError, match="Out of range float"):
        made.render(figure={"y": [float("nan")]})


def test_plotly_reads_no_tag_entity_or_formula() -> None:
    assert shell.plotly_text("<a href='x'>&lt;$y$\n") == "&lt;a href='x'&gt;&amp;lt;&#36;y&#36; "


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//x", "", "http://a b"]
)
def test_only_web_addresses_are_links(url: str) -> None:
    made = shell.environment().from_string('{% import "macros.html.j2" as page %}{{ page.link(link) }}')
    assert made.render(link=shell.Link("source", url)) == "source"
    assert Page(made.render(link=shell.Link("source", "https://example.org/a?b=1&c=2"))).tags == ["a"]


def test_a_hostile_run_adds_no_element() -> None:
    source = SourceRef(name=EVIL, url=f"https://x/{EVIL}")
    factor = Factor(value=1.0, low=1.0, high=1.0, unit="g", scope="given", note=EVIL, source=source)
    record = run(
        name=EVIL, error=EVIL, params={EVIL: [EVIL]}, metrics={EVIL: EVIL}, factors=Factors(carbon_intensity=factor),
        phases=[run().phases[0].model_copy(update={"path": EVIL})],
        totals=[run().totals[0], run().totals[1].model_copy(update={"scope": EVIL})],
    )  # fmt: skip
    assert Page(html.render(record)).handlers == []
    assert {"b", "img"} & set(Page(html.render(record)).tags) == set()
    assert html.render(record).count("<script") == html.render(run()).count("<script")


def test_the_charting_library_is_the_published_file_with_its_licence() -> None:
    static = files("greenml.reports.page") / "static"
    pinned = re.findall(r'"([0-9a-f]{64})"', (Path(__file__).parents[2] / "tools/fetch_plotly.py").read_text("utf-8"))
    names = ("plotly-cartesian.min.js", "plotly-LICENSE.txt")
    assert [hashlib.sha256((static / name).read_bytes()).hexdigest() for name in names] == pinned
    library = (static / names[0]).read_text(encoding="utf-8")
    assert "</script" not in library.lower()
    assert "<!--" not in library
    assert "MIT License" in (static / names[1]).read_text(encoding="utf-8")
    assert library in html.render(run())
    assert library not in html.render(run(timeline=None))  # without a chart it is not needed


def course() -> IntensitySeriesRecord:
    hour = timedelta(hours=1)
    return IntensitySeriesRecord(
        provider="electricitymaps", signal="average", area="SE", source=SourceRef(name="Electricity Maps"),
        energy_from="curves", low_grams_per_kwh=20.0, high_grams_per_kwh=60.0, covered_seconds=7200.0,
        uncovered_seconds=0.0, covered_time_mean_grams_per_kwh=40.0, time_mean_grams_per_kwh=40.0,
        scopes={"run": IntensityScope(covered_joules=3.6e6, uncovered_joules=0.0, grams_per_kwh=30.0)},
        slots=[
            IntensitySlotRecord(start=at, end=at + hour, grams_per_kwh=grams, it_energy_joules={"run": joules})
            for at, grams, joules in ((START, 20.0, 2.7e6), (START + hour, 60.0, 0.9e6))
        ],
    )  # fmt: skip


def test_a_course_of_intensities_says_what_the_hours_made_of_the_emissions() -> None:
    whole = totals("run", 7200.0, 3.6e6, 1.0).model_copy(
        update={"facility_energy_joules": known(3.6e6), "emissions_grams": known(30.0)}
    )
    text = html.render(run(factors=Factors(intensity_series=course()), totals=[whole], phases=[]))
    words = re.sub(r"<[^>]+>", "", text[text.index('id="intensity"') :][:1500])
    assert "10.00 g CO2e (25.0%) less than at the mean over its time: 30.00 g CO2e instead of 40.00 g CO2e" in words
    drawn = next(chart for chart in charts(text) if chart["data"][0].get("name") == "IT energy")["data"]
    bars, line, mean = drawn
    assert bars["y"] == [pytest.approx(0.75), pytest.approx(0.25)]
    assert line["y"] == [20, 20, 60, 60]
    assert mean["y"] == [40, 40]
    assert line["x"][1] == "2026-03-01 11:00:00"


# LaTeX


def test_latex_has_values_bands_and_sources() -> None:
    source = SourceRef(name="A & B", published="2025-01-01")
    factor = Factor(value=300.0, low=250.0, high=350.0, unit="g CO2e/kWh", scope="given", year=2024, source=source)
    text = latex.render(run(name="50% off_#1", factors=Factors(carbon_intensity=factor)))
    assert r"\caption{Energy, carbon and cost of 50\% off\_\#1.}" in text
    assert r"IT energy & 2.778~Wh & 2.500 to 3.056~Wh & measured \\" in text
    assert r"Emissions & 10.00~g CO\textsubscript{2}e & 5.000 to 20.00~g CO\textsubscript{2}e & measured \\" in text
    assert r"Cost, spot & \$1.00 &  & derived \\" in text
    assert r"CPU energy & not measured &  & no sensor \\" in text
    assert r"300 g CO\textsubscript{2}e/kWh (250 to 350 g CO\textsubscript{2}e/kWh)" in text
    assert r"source: A \& B, 2025-01-01" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:-1]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 3 and line.endswith(r" \\") for line in body)


@given(st.text(max_size=80))
def test_latex_escapes_whatever_stands_in_a_name(words: str) -> None:
    text = latex.escape(words)
    bare = re.sub(
        r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}|\\[{}$&#%_]", "", text
    )
    assert not set(bare.replace("{}", "")) & set("\\{}$&#%^~\n<>|")
    assert "\n" not in text


def test_latex_writes_each_special_character_as_itself() -> None:
    assert latex.escape(r"a_b\c{d}$&#%^~<>|") == (
        r"a\_b\textbackslash{}c\{d\}\$\&\#\%\textasciicircum{}\textasciitilde{}\textless{}\textgreater{}\textbar{}"
    )
    assert latex.escape("a--b") == "a-{}-b"  # no dash of two
    assert latex.escape("line\nbreak") == "line break"


def test_latex_says_which_letters_pdflatex_has_not() -> None:
    assert latex.render(run(name="日本 ✓")).startswith("% ✓ 日 本: needs XeLaTeX or LuaLaTeX")
    assert latex.render(run(name="naïve Łódź")).startswith("% needs \\usepackage{booktabs}")


def test_latex_compiles(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    (tmp_path / "table.tex").write_text(latex.render(run(name=r"\write18{x} $y_1^2$ #1 & 50% ~ {a} <b> naïve")))
    page = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{table}\n\\end{document}\n"
    (tmp_path / "page.tex").write_text(page)
    told = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout
    assert "Overfull" not in told.stdout
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


# The picture


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture_is_written_by_its_suffix(
    tmp_path: Path, suffix: str, begin: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    records.write(run(name=EVIL), tmp_path / "run.json")
    before = dict(matplotlib.rcParams)
    with pytest.raises(SystemExit) as done:
        cli.main(["report", str(tmp_path / "run.json"), "--plot", str(tmp_path / f"out.{suffix}")])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"{tmp_path / f'out.{suffix}'}: written\n"
    assert (tmp_path / f"out.{suffix}").read_bytes().startswith(begin)
    assert dict(matplotlib.rcParams) == before


def test_a_picture_shows_energy_by_phase_and_power(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from greenml.reports import _picture

    seen = []
    saved = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **more: (seen.append(self), saved(self, *given, **more))[1]
    )
    _picture.draw(run(), "svg")
    upper, lower = seen[0].axes
    assert [bar.get_width() for bar in upper.patches] == [pytest.approx(2.5), pytest.approx(1000 / 3600)]  # Wh
    assert [yticklabel.get_text() for yticklabel in upper.get_yticklabels()] == ["train", "outside phases"]
    assert upper.get_xlabel() == "Wh"
    first, second = lower.lines
    assert list(first.get_ydata()) == [200.0] * 5
    assert list(second.get_ydata())[:4] == [20.0, 20.0, 160.0, 160.0]
    assert list(second.get_xdata())[-1] == 30.0  # where it was last read
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["GPU 0", "GPU 1"]


def test_the_same_run_makes_the_same_picture() -> None:
    pytest.importorskip("matplotlib")
    from greenml.reports import _picture

    assert _picture.draw(run(), "svg") == _picture.draw(run(), "svg")


def test_a_picture_of_what_is_not_known_says_so() -> None:
    pytest.importorskip("matplotlib")
    from greenml.reports import _picture

    assert _picture.draw(run(timeline=None, phases=[], totals=[]), "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["out.pdf", "out", "out.jpg"])
def test_another_suffix_is_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["report", str(tmp_path / "none.json"), "--plot", str(tmp_path / name)])
    assert done.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert ".png or .svg" in told


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(run(), tmp_path / "run.json")
    with pytest.raises(SystemExit) as done:
        cli.main(["report", str(tmp_path / "run.json"), "--html", str(tmp_path / "no" / "out.html")])
    assert done.value.code == 2
    assert (
        capsys.readouterr().err
        == f"greenml: {tmp_path / 'no' / 'out.html'}: cannot be written: No such file or directory\n"
    )
