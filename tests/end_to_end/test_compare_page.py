"""The comparison's page in a real browser: opened from disk it draws and sorts, for everyone, and obeys no run."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from greenml.accounting import assumptions
from greenml.cli import main
from greenml.record import file as record_file
from greenml.record.schema import DeviceRecord, Factors, Host, PlaceRecord, RunRecord, UncertaintyBudget, Usage
from greenml.settings import Settings

START = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
EVIL = "<script>alert(1)</script>"
# Name, energy in kWh, seconds, ROUGE-L: the front is small, base, large.
RUNS = (("base", 1.0, 3600, 45.0), ("large", 2.0, 7200, 47.5), ("small", 0.5, 1800, 41.0), (EVIL, 1.5, 5400, 44.0))


def run(name: str, kilowatt_hours: float, seconds: float, rouge: float, number: int, **more: Any) -> RunRecord:
    joules = kilowatt_hours * 3.6e6
    usage = Usage(
        energy_joules=joules, energy_low_joules=joules * 0.95, energy_high_joules=joules * 1.05,
        uncertainty=UncertaintyBudget(calibration_joules=0.05 * joules), utilization_ratio=0.8, memory_max_bytes=30e9,
    )  # fmt: skip
    device = DeviceRecord(
        id=f"GPU-{number}", kind="gpu", name=EVIL, host="node", method="counter", sensor="nvml", calibration_ratio=0.05,
        usage=usage,
    )  # fmt: skip
    fields = {
        "greenml_version": "0.1.0", "run_id": name, "name": name, "status": "completed", "started": START,
        "ended": START + timedelta(seconds=seconds), "duration_seconds": seconds, "hosts": [Host(name="node")],
        "place": PlaceRecord(), "devices": [device], "factors": Factors(), "metrics": {"eval_rougeL": rouge, EVIL: 1.0},
    }  # fmt: skip
    settings = Settings(carbon_intensity=300.0, pue=1.2, price_per_hour=22.0)
    return assumptions.account(RunRecord(**{**fields, **more}), assumptions.check(settings))


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four runs, one of which attacks it."""
    folder = tmp_path_factory.mktemp("compared")
    paths = []
    for number, one in enumerate(RUNS):
        paths.append(folder / str(number) / "run.json")
        record_file.write(run(*one, number), paths[-1])
    arguments = ["--metric", "eval_rougeL", "--metric", EVIL, "--html", str(folder / "out.html")]
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, paths), *arguments])
    assert end.value.code == 0
    return folder / "out.html"


@pytest.fixture
def opened(view, page_path):
    """Open the page."""
    return lambda **how: view(page_path, **how)


def names(tab: Any) -> list[str]:
    return [one.inner_text().split("\n")[0] for one in tab.query_selector_all("tbody th")]


def heading(tab: Any, text: str) -> Any:
    return tab.locator("thead th", has=tab.get_by_text(text, exact=True))


def test_it_sorts_by_mouse(opened):
    tab = opened()
    assert names(tab) == ["base", "large", "small", EVIL]
    heading(tab, "energy, kWh").get_by_role("button").click()
    assert names(tab) == ["small", "base", EVIL, "large"]
    assert heading(tab, "energy, kWh").get_attribute("aria-sort") == "ascending"
    heading(tab, "energy, kWh").get_by_role("button").click()
    assert names(tab) == ["large", EVIL, "base", "small"]
    assert heading(tab, "energy, kWh").get_attribute("aria-sort") == "descending"


def test_it_sorts_by_keyboard_alone(opened):
    tab = opened()
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent") == "duration":
            break
    tab.keyboard.press("Enter")
    assert names(tab) == ["small", "base", EVIL, "large"]
    tab.keyboard.press("Space")
    assert names(tab) == ["large", EVIL, "base", "small"]
    assert heading(tab, "duration").get_attribute("aria-sort") == "descending"
    assert tab.locator("thead [aria-sort]").count() == 1


def test_the_front_is_marked_in_both_charts(opened):
    tab = opened()
    fronts = tab.evaluate(
        "[...document.querySelectorAll('.plot')].map((plot) => plot.data.find((one) => one.meta === 'front'))"
        ".map((one) => [one.x, one.y])"
    )
    cost, carbon = fronts
    assert cost == [[11, 22, 44], [41, 45, 47.5]]  # dollars: half an hour, one, two at 22
    assert carbon == [[pytest.approx(one) for one in (0.18, 0.36, 0.72)], [41, 45, 47.5]]  # kg: kWh x 1.2 x 0.3
    for plot in tab.query_selector_all(".plot"):
        assert len(plot.query_selector_all(".scatterlayer .trace:has(path.js-line) path.point")) == 3
        assert plot.query_selector_all(".scatterlayer path.point")
    assert [one.inner_text().split("\n")[-1] for one in tab.query_selector_all("tbody th")] == [
        "on a Pareto front", "on a Pareto front", "on a Pareto front", EVIL,
    ]  # fmt: skip


def test_a_point_tells_its_run(opened):
    tab = opened()
    tab.locator(".plot").first.scroll_into_view_if_needed()
    point = tab.locator(".plot").first.locator(".scatterlayer .trace").first.locator("path.point").bounding_box()
    tab.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    hover = tab.locator(".hoverlayer text").first
    hover.wait_for()
    assert hover.text_content() == f"{EVIL}$33.00eval_rougeL 44"


def test_names_stay_text(opened):
    tab = opened()
    assert EVIL in names(tab)
    assert (
        tab.evaluate("[...document.scripts].filter((one) => one.textContent.includes('alert(1)') && !one.type).length")
        == 0
    )
    assert EVIL in tab.locator("thead").inner_text()
    assert tab.locator("tbody script, thead script").count() == 0


def test_differences_are_said_with_what_can_be_told(opened):
    tab = opened()
    rows = {name: row.inner_text() for name, row in zip(names(tab), tab.query_selector_all("tbody tr"), strict=True)}
    assert "+100.0%" in rows["large"]
    assert "0.9500 to 1.050" not in rows["base"]
    tab.get_by_label("Show the intervals").check()
    assert "0.9500 to 1.050" in tab.locator("tbody tr").first.inner_text()
    judged = tab.locator("#how-differences-were-judged").inner_text()
    assert "no sensor is known to be the baseline's" in judged


@pytest.mark.parametrize("how", [{}, {"color_scheme": "dark"}, {"width": 390, "height": 844}])
def test_it_is_accessible_and_fits(opened, violations, how):
    tab = opened(**how)
    tab.get_by_label("Show the intervals").check()
    assert violations(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")  # wide tables scroll in their own box


def test_a_print_has_the_table_both_charts_and_no_controls(opened):
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    tab = opened(color_scheme="dark")
    document = pdfium.PdfDocument(tab.pdf())
    text = "".join(page.get_textpage().get_text_range() for page in document)
    document.close()
    assert "Show the intervals" not in text
    assert "energy, kWh" in text
    assert text.count("runs Pareto front baseline") == 2  # the legend of each chart
    # What is a button on the screen would be left out where a heading is repeated on a further page.
    tab.emulate_media(media="print")
    look = "heading => { const style = getComputedStyle(heading); return [style.position, style.backgroundColor]; }"
    assert tab.locator(".runs thead th").first.evaluate(look) == ["static", "rgba(0, 0, 0, 0)"]
    assert tab.locator(".runs thead button").first.evaluate("button => getComputedStyle(button).display") == "contents"
