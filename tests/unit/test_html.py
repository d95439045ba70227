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

from greenml import cli, tables
from greenml import record_file as records
from greenml.intensity_record import IntensityCourseRecord, IntensityScope, IntensitySlotRecord
from greenml.record import (
    DeviceRecord,
    Factor,
    Factors,
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
from greenml.reports import _bars, _equivalents, _idle, _page, _phases, _steps, html, latex

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
    found = _idle.idle(run())
    # GPU 1: 20 W in two idle bins of three read ones, (20 + 20) / (20 + 20 + 160) of its 2,000 J.
    assert found.energy_joules == pytest.approx(2000 * 0.2)
    assert found.energy_ratio == pytest.approx(400 / 10_000)
    assert found.time_ratio == pytest.approx(20 / 70)  # 40 s and 30 s were read
    assert found.emissions_grams == pytest.approx(10.0 * 400 / 10_000)
    assert found.cost_usd == {"dedicated": pytest.approx(4 * 20 / 70), "spot": pytest.approx(20 / 70)}
    assert (found.kind, found.devices, found.of_devices) == ("gpu", 2, 2)


def test_the_last_bin_counts_as_long_as_the_run_lasted() -> None:
    found = _idle.idle(run(duration_seconds=35.0))
    assert found.time_ratio == pytest.approx(20 / 65)


def test_a_ratio_of_exactly_ten_percent_is_not_idle() -> None:
    record = run()
    record.timeline.series[1].utilization_ratio[1] = 0.10
    assert _idle.idle(record).energy_joules == pytest.approx(2000 * 0.1)


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
    found = _idle.idle(run(devices=[cpu, host], timeline=timeline, duration_seconds=20.0))
    assert (found.kind, found.energy_joules, found.time_ratio) == ("cpu", pytest.approx(300.0), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"timeline": None}, "no timeline"),
        ({"devices": [gpu(0, None)]}, "no GPU tells both"),
        ({"devices": []}, "no CPU tells both"),
    ],
)
def test_idleness_that_is_not_known_has_a_reason(update: dict[str, object], why: str) -> None:
    assert why in _idle.idle(run(**update))
    assert f"Not known: {_idle.idle(run(**update))}." in html.render(run(**update))


# Equivalents


def test_equivalents_are_emissions_over_what_one_emits_with_its_source() -> None:
    table = {row["id"]: row for row in tables.rows("equivalents")}
    car, us_car, phone = _equivalents.equivalents(1000.0, 500.0, 2000.0)
    assert car.count == pytest.approx(1000 / 175)
    assert us_car.count == pytest.approx(1000 / 244.2)
    assert (phone.count, phone.low, phone.high) == tuple(pytest.approx(x / 12.4) for x in (1000, 500, 2000))
    assert float(table["smartphone_charge_2024"]["value"]) == phone.each_grams
    assert "US EPA" in phone.source.name
    assert phone.source.published == "2024-08-01"
    assert phone.source.url.startswith("https://")


def test_no_equivalents_of_what_is_not_known() -> None:
    unknown = totals("run", 40.0, 1.0, 1.0).model_copy(update={"emissions_grams": known(None)})
    assert "smartphone" not in html.render(run(totals=[unknown]))
    assert "smartphone" in html.render(run())


# Phases


def test_phases_and_what_is_outside_add_up_to_the_run() -> None:
    rest = _phases.remainder(run())
    assert rest == _phases.Remainder(10.0, pytest.approx(1000.0), pytest.approx(1.0), {"dedicated": 1.0, "spot": 0.25})


def test_phases_that_overlap_have_no_remainder() -> None:
    phases = [PhaseRecord(path=name, count=1, seconds=30.0, spans=[], usage={}) for name in "ab"]
    assert _phases.remainder(run(phases=phases)) is None
    assert "add up to more than the run" in html.render(run(phases=phases))


def test_shares_of_devices_add_up_to_the_runs_carbon_and_cost() -> None:
    energy, carbon, cost = charts(html.render(run()))[-3:]
    assert energy["data"][0]["x"] == [pytest.approx(8000 / 3600), pytest.approx(2000 / 3600)]  # Wh
    assert sum(carbon["data"][0]["x"]) == pytest.approx(10.0)  # g
    assert cost["data"][0]["x"] == [pytest.approx(3.2), pytest.approx(0.8)]


def test_bars_show_their_bands_and_leave_out_what_is_not_known() -> None:
    made = _bars.bars(_bars.ENERGY, [_bars.Bar("a", 7.2e6, 3.6e6, 1.08e7), _bars.Bar("b", None)], "phase")
    (figure,) = charts(made)
    (bar,) = figure["data"]
    assert bar["x"] == [pytest.approx(2.0)]
    assert (bar["error_x"]["arrayminus"], bar["error_x"]["array"]) == ([pytest.approx(1.0)], [pytest.approx(1.0)])
    assert figure["layout"]["xaxis"]["title"]["text"] == "kWh"
    assert _bars.bars(_bars.ENERGY, [_bars.Bar("b", None)], "phase") == ""


def test_many_bars_are_the_largest_and_all_others_as_one() -> None:
    made = _bars.bars(_bars.ENERGY, [_bars.Bar(f"epoch-{n}", 3.6e6 * (n + 1)) for n in range(40)], "phase")
    (bar,) = charts(made)[0]["data"]
    assert len(bar["x"]) == _bars.MOST_BARS
    assert sum(bar["x"]) == pytest.approx(sum(range(1, 41)))
    assert [one[0] for one in bar["customdata"]][-2:] == ["epoch-39", "25 others"]


# Steps


def test_steps_leave_gaps_open_and_draw_a_lone_bin() -> None:
    at, drawn = _steps.steps([1.0, None, 3.0, 4.0], 10.0, 35.0)
    assert at == [0, 10, None, 20, 30, 35]
    assert drawn == [1, 1, None, 3, 4, 4]


@given(st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0.1, 100))
def test_steps_keep_the_area_under_the_values(values: list[float | None], width: float) -> None:
    at, drawn = _steps.steps(values, width, len(values) * width)
    area = sum(
        (after - before) * value
        for before, after, value in zip(at, at[1:], drawn, strict=False)
        if before is not None and after is not None
    )
    assert area == pytest.approx(sum(value or 0 for value in values) * width, rel=2e-3, abs=1e-9)


def test_gaps_are_where_any_device_was_not_read() -> None:
    rows = [[1.0, None, None, 4.0, None], [1.0, 2.0, None, 4.0, 5.0]]
    assert _steps.gaps(rows, 10.0, 44.0) == [(10.0, 30.0), (40.0, 44.0)]


def test_near_spans_are_drawn_as_one() -> None:
    spans = [(0.0, 1.0), (1.1, 2.0), (50.0, 60.0), (0.5, 1.5)]
    assert _steps.joined(spans, 1000.0) == [(0.0, 2.0), (50.0, 60.0)]


def test_a_map_of_many_devices_is_bounded_and_keeps_the_mean() -> None:
    rows = [[float(place % 7) for place in range(600)] for _ in range(500)]
    cells, many = _steps.pooled(rows)
    assert sum(len(row) for row in cells) <= _steps.MOST_CELLS
    assert many == 8
    assert sum(cells[0]) / len(cells[0]) == pytest.approx(sum(rows[0]) / 600, rel=0.01)


def test_the_innermost_phase_of_each_bin_is_named() -> None:
    phases = [
        PhaseRecord(path="train", count=1, seconds=9, spans=[(0.0, 9.0)], usage={}),
        PhaseRecord(path="train/eval", count=1, seconds=2, spans=[(4.0, 6.0)], usage={}),
    ]
    # Bins of 2 s, their middles at 1, 3, 5, 7, 9 and 11 s.
    assert _steps.phase_names(phases, 6, 2.0) == ["train", "train", "train/eval", "train", "", ""]
    assert _steps.phase_names([phases[0].model_copy(update={"spans": [(3.0, 99.0)]})], 2, 2.0) == ["", "train"]


# The page


def test_a_page_is_whole_and_asks_no_network() -> None:
    text = html.render(run())
    assert len(text.encode()) < 6_000_000
    page = Page(text)
    assert page.tags.count("h1") == 1
    assert not {"link", "iframe", "img", "base", "object", "form"} & set(page.tags)
    assert not re.search(r"<script[^>]*\ssrc=|url\(|@import", text[: text.index("plotly.js")])
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
    made = _page.join(
        _page.element("p", words, title=words), _page.table("t", ["a", "b"], [(words, words)]),
        _page.chart({"data": [{"name": words}]}, words), _page.link(words, words),
    )  # fmt: skip
    page = Page(made)
    kept = [
        "p",
        "div",
        "table",
        "caption",
        "thead",
        "tr",
        "th",
        "th",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "div",
        "script",
    ]
    assert [tag for tag in page.tags if tag != "a"] == kept
    assert page.handlers == []
    assert charts(made) == [{"data": [{"name": words}]}]


def test_text_that_would_end_a_script_stays_in_it() -> None:
    written = _page.data({"name": EVIL})
    assert "<" not in written
    assert "\u2028" not in written
    assert json.loads(written) == {"name": EVIL}


def test_plotly_reads_no_tag_entity_or_formula() -> None:
    assert _page.plotly_text("<a href='x'>&lt;$y$\n") == "&lt;a href='x'&gt;&amp;lt;&#36;y&#36; "


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//x", "", "http://a b"]
)
def test_only_web_addresses_are_links(url: str) -> None:
    assert _page.link("source", url) == "source"
    assert Page(_page.link("source", "https://example.org/a?b=1&c=2")).tags == ["a"]


def test_a_hostile_run_adds_no_element() -> None:
    factor = Factor(
        value=1.0,
        low=1.0,
        high=1.0,
        unit="g",
        scope="given",
        note=EVIL,
        source=SourceRef(name=EVIL, url=f"https://x/{EVIL}"),
    )
    record = run(
        name=EVIL, error=EVIL, params={EVIL: [EVIL]}, metrics={EVIL: EVIL}, factors=Factors(carbon_intensity=factor),
        phases=[run().phases[0].model_copy(update={"path": EVIL})],
        totals=[run().totals[0], run().totals[1].model_copy(update={"scope": EVIL})],
    )  # fmt: skip
    assert Page(html.render(record)).handlers == []
    assert {"b", "img"} & set(Page(html.render(record)).tags) == set()
    assert html.render(record).count("<script") == html.render(run()).count("<script")


def test_the_charting_library_is_in_the_package_with_its_licences() -> None:
    library = (files("greenml.reports") / "plotly.min.js").read_text(encoding="utf-8")
    assert library.startswith("/* plotly.js ")
    assert library.isascii()  # a browser reads and holds it at one byte a letter
    assert "</script" not in library
    licences = (files("greenml.reports") / "plotly-LICENSES.txt").read_text(encoding="utf-8")
    for package, holder in (("plotly.js", "Plotly"), ("@plotly/d3", "Michael Bostock"), ("culori", "Dan Burzo")):
        (own,) = (text for text in licences.split("=" * 80) if text.strip().startswith(f"{package} "))
        assert holder in own
    assert library in html.render(run())


def course() -> IntensityCourseRecord:
    hour = timedelta(hours=1)
    return IntensityCourseRecord(
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
    text = html.render(run(factors=Factors(intensity_course=course()), totals=[whole], phases=[]))
    words = re.sub(r"<[^>]+>", "", text[text.index('id="intensity"') :][:1500])
    assert "10.00 g CO2e (25.0%) less than at the mean over its time: 30.00 g CO2e instead of 40.00 g CO2e" in words
    bars, line, mean = next(one for one in charts(text) if one["data"][0].get("name") == "IT energy")["data"]
    assert bars["y"] == [pytest.approx(0.75), pytest.approx(0.25)]
    assert line["y"] == [20, 20, 60, 60]
    assert mean["y"] == [40, 40]
    assert line["x"][1] == "2026-03-01 11:00:00"


# LaTeX


def test_latex_has_values_bands_and_sources() -> None:
    factor = Factor(
        value=300.0,
        low=250.0,
        high=350.0,
        unit="g CO2e/kWh",
        scope="given",
        year=2024,
        source=SourceRef(name="A & B", published="2025-01-01"),
    )
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
    assert [one.get_text() for one in upper.get_yticklabels()] == ["train", "outside phases"]
    assert upper.get_xlabel() == "Wh"
    first, second = lower.lines
    assert list(first.get_ydata()) == [200.0] * 5
    assert list(second.get_ydata())[:4] == [20.0, 20.0, 160.0, 160.0]
    assert list(second.get_xdata())[-1] == 30.0  # where it was last read
    assert [one.get_text() for one in lower.get_legend().get_texts()] == ["GPU 0", "GPU 1"]


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
