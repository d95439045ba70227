"""The report page in a real browser, opened from disk without a network."""

from __future__ import annotations

import io
import json
import math
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest
from pages import simulate  # benchmarks/pages.py: its readings go through the product's windows and traces

import greenml as package
from greenml.record import file as records
from greenml.record.schema import AttemptRecord, Factors, Note, PhaseRecord, PlaceRecord, RunRecord
from greenml.reports import html

EVIL = (
    "</script><!--<script>window.hacked=1;alert(1)</script><img src=x onerror=alert(2)>"
    '\u2028 & "quoted" <b>bold</b> $x$'
)
START = datetime(2026, 3, 1, 10, 0, tzinfo=timezone.utc)
MOST_BYTES = 6_000_000
OVER_TIME = "[...document.querySelectorAll('[data-group=time] > .plot')]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of eight GPUs for ten minutes."""
    output = tmp_path_factory.mktemp("run") / "run.json"
    return package.open_record(simulate(output, nodes=1, seconds=600.0, step_seconds=1.0, name="finetune"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A run of 64 GPUs on eight nodes for two days."""
    output = tmp_path_factory.mktemp("cluster") / "run.json"
    return package.open_record(simulate(output, nodes=8, seconds=172_800.0, step_seconds=600.0, name="pretraining"))


@pytest.fixture
def show(view, tmp_path):
    """Render a record and open its page."""

    def open_it(record, **settings):
        path = tmp_path / "report.html"
        path.write_text(html.render(record), encoding="utf-8")
        return view(path, **settings)

    return open_it


def empty(**update):
    made = RunRecord(
        greenml_version="0.1.0", run_id="r1", status="completed", started=START, ended=START, duration_seconds=0.0,
        place=PlaceRecord(), factors=Factors(),
    )  # fmt: skip
    return made.model_copy(update=update)


def figure(page, title):
    """The figure of a chart over time, by its heading, as the page holds it."""
    return page.evaluate(
        """title => {
          const heading = [...document.querySelectorAll("#time h3")].find(one => one.textContent.startsWith(title));
          const plot = heading.nextElementSibling.querySelector(".plot");
          return window.greenml.figures.get(plot);
        }""",
        title,
    )


def trace(page, title, name):
    return next(one for one in figure(page, title)["data"] if one.get("name") == name)


def ranges(page):
    """The shown range of time of each chart over time."""
    return page.evaluate(f"{OVER_TIME}.map(plot => [...plot._fullLayout.xaxis.range])")


def test_the_command_writes_a_page_that_draws_what_was_measured(run, greenml, tmp_path, view):
    records.write(run, tmp_path / "run.json")
    done = greenml("report", "run.json", "--html", "out.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.html: written\n", "")
    assert (tmp_path / "out.html").stat().st_size < MOST_BYTES
    page = view(tmp_path / "out.html")
    assert page.locator("h1").inner_text() == "finetune"
    drawn = page.locator(".plot").evaluate_all(
        "plots => plots.map(plot => { const box = plot.querySelector('svg.main-svg').getBoundingClientRect();"
        " return [box.width, box.height, plot.querySelectorAll('g.trace').length]; })"
    )
    assert len(drawn) == 3  # power, utilization and memory
    assert all(width > 200 and height > 100 and traces >= 1 for width, height, traces in drawn)
    series = next(one for one in run.timeline.series if one.device == run.devices[3].id)
    assert run.devices[3].detail["index"] == "3"
    held = trace(page, "Power", "GPU 3")
    assert held["y"][:-1] == [float(f"{value:.4g}") for value in series.power_watts]
    assert held["x"][0] == 0
    assert held["x"][-1] == pytest.approx(10.0)  # minutes
    # Eight GPUs, two packages, their two DRAM, and beside them four phases and the hover's phase.
    assert [len(figure(page, title)["data"]) for title in ("Power", "Utilization", "Memory")] == [17, 14, 14]
    ratio = trace(page, "Utilization", "GPU 3")["y"]
    own = [100 * value for value in series.utilization_ratio]
    assert sum(ratio[:-1]) == pytest.approx(sum(own), rel=1e-3)


def test_headline_figures_are_the_records(run, show):
    page = show(run)
    total = run.total()
    cards = page.locator(".cards > div").all_inner_texts()
    assert [card.splitlines()[0] for card in cards] == ["Energy", "Carbon", "Cost", "Duration"]
    energy, carbon, cost, duration = ("\n".join(line.strip() for line in card.splitlines()) for card in cards)
    joules, grams = total.it_energy_joules.value, total.emissions_grams.value
    assert float(energy.split("\n")[1].split()[0]) == pytest.approx(joules / 3.6e6, rel=1e-3)
    low, high = total.it_energy_joules.low / 3.6e6, total.it_energy_joules.high / 3.6e6
    assert f"{low:.4f} to {high:.4f} kWh" in energy
    assert f"{grams:.1f} g CO2e" in carbon.replace("\n", " ")
    for tier in ("dedicated", "low priority"):
        usd = total.cost_usd[tier.replace(" ", "_")].value
        assert f"${usd:.2f}" in cost
        assert tier in cost
    assert "10m\u00a000s" in duration


def test_dragging_zooms_all_charts_over_time_and_buttons_bring_them_back(run, show):
    page = show(run)
    assert ranges(page) == [pytest.approx([0, 10])] * 3
    box = page.locator("[data-group=time] > .plot .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    until(
        page,
        f"{OVER_TIME}.every(plot => plot._fullLayout.xaxis.range[0] > 2)",
    )
    for low, high in ranges(page):
        assert low == pytest.approx(2.5, abs=0.15)
        assert high == pytest.approx(7.5, abs=0.15)
    press(page, "Show all")
    assert ranges(page) == [pytest.approx([0, 10])] * 3
    press(page, "Zoom in")
    assert ranges(page) == [pytest.approx([2.5, 7.5])] * 3
    press(page, "Later")
    assert ranges(page) == [pytest.approx([5, 10])] * 3  # no further than the run
    press(page, "Later")
    press(page, "Earlier")
    assert ranges(page) == [pytest.approx([2.5, 7.5])] * 3
    press(page, "Zoom out")
    assert ranges(page) == [pytest.approx([0, 10])] * 3


def until(page, expression):
    """Wait until something is so. Playwright's own waiting evaluates text in the page, which its policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never so: {expression}")


def press(page, name):
    """Press a button with the keyboard."""
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")


def test_a_zoom_survives_what_is_picked_and_another_scheme(run, show):
    page = show(run)
    press(page, "Zoom in")
    page.get_by_label("GPU 0", exact=True).uncheck()
    page.emulate_media(color_scheme="dark")
    until(page, "document.querySelector('.xtick text').style.fill === 'rgb(166, 177, 171)'")
    assert ranges(page) == [pytest.approx([2.5, 7.5])] * 3


def test_hovering_tells_phase_and_power(run, show):
    page = show(run)
    box = page.locator("[data-group=time] > .plot .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1503, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .legend text")
    told = page.locator(".hoverlayer .legend").first.text_content()
    watts = next(one for one in run.timeline.series if one.device == run.devices[0].id).power_watts
    assert "phase : train" in told
    at = 0.1503 * 600 / run.timeline.step_seconds
    near = {f"GPU 0 : {watts[place]:.1f} W" for place in (math.floor(at), math.ceil(at))}
    assert any(one in told for one in near), (told, near)


def test_a_device_is_taken_away_and_put_back_by_its_box(run, show):
    page = show(run)
    lines = f"{OVER_TIME}.map(plot => plot.querySelectorAll('.xy .scatterlayer .trace').length)"
    before = page.evaluate(lines)
    page.get_by_label("GPU 5", exact=True).focus()
    page.keyboard.press("Space")
    assert page.evaluate(lines) == [count - 1 for count in before]
    page.keyboard.press("Space")
    assert page.evaluate(lines) == before


def test_gaps_are_hatched_and_not_bridged(run, show):
    hole = slice(100, 160)
    series = []
    for one in run.timeline.series:
        watts = list(one.power_watts)
        watts[hole] = [None] * len(watts[hole])
        series.append(one.model_copy(update={"power_watts": watts if one.power_watts else []}))
    timeline = run.timeline.model_copy(update={"series": series})
    page = show(run.model_copy(update={"timeline": timeline}))
    power = figure(page, "Power")["data"]
    (gaps,) = (one for one in power if one.get("meta") == "gaps")
    step = run.timeline.step_seconds / 60
    assert [min(gaps["x"]), max(gaps["x"])] == pytest.approx([100 * step, 160 * step])
    gpu = next(one for one in power if one.get("name") == "GPU 0")
    place = gpu["x"].index(None)
    assert gpu["y"][place] is None
    assert gpu["x"][place - 1 : place + 2] == [pytest.approx(100 * step), None, pytest.approx(160 * step)]
    assert page.locator("pattern").count() >= 1
    assert all(one.get("meta") != "gaps" for one in figure(page, "Utilization")["data"])


def test_many_gpus_are_a_map_of_which_one_can_be_picked(cluster, show):
    page = show(cluster)
    shown = figure(page, "Power")["data"]
    (heat,) = (one for one in shown if one["type"] == "heatmap")
    assert (len(heat["z"]), len(set(heat["y"]))) == (64, 64)
    assert page.locator("#time image").count() == 3  # drawn, one a quantity
    means = next(one for one in shown if one.get("name") == "mean of 64 GPUs")
    watts = [one.power_watts for one in cluster.timeline.series if "GPU-" in one.device]
    assert means["y"][200] == pytest.approx(sum(watt[200] for watt in watts) / 64, rel=1e-3)
    least = next(one for one in shown if one.get("name") == "least of 64")
    assert least["y"][200] == pytest.approx(min(watt[200] for watt in watts), rel=1e-3)
    page.get_by_label("One GPU as a line").select_option("node-3 GPU 5")
    picked = next(one for one in figure(page, "Power")["data"] if one.get("meta") == "picked")
    assert picked["visible"] is True
    device = next(device for device in cluster.devices if device.host == "node-3" and device.detail.get("index") == "5")
    own = next(one.power_watts for one in cluster.timeline.series if one.device == device.id)
    assert picked["y"] == [float(f"{value:.4g}") for value in own]


def hostile(run):
    """The run with what is not text but HTML, for a browser and for Plotly, wherever a run can put text."""
    devices = [device.model_copy(update={"name": EVIL, "id": device.id}) for device in run.devices]
    phases = [phase.model_copy(update={"path": f"{EVIL.replace('/', '|')}{n}"}) for n, phase in enumerate(run.phases)]
    totals = [run.totals[0]] + [
        total.model_copy(update={"scope": phase.path}) for total, phase in zip(run.totals[1:], phases, strict=True)
    ]
    return run.model_copy(
        update={
            "name": EVIL, "run_id": EVIL, "error": EVIL, "devices": devices, "phases": phases, "totals": totals,
            "params": {EVIL: EVIL, "list": [EVIL]}, "metrics": {EVIL: 0.5, "word": EVIL},
            "notes": [Note(code="x", text=EVIL, seconds=3.0)],
            "environment": run.environment.model_copy(
                update={"command": [EVIL], "packages": {EVIL: EVIL}, "git_commit": EVIL}
            ),
            "hosts": [host.model_copy(update={"name": EVIL}) for host in run.hosts],
            "place": run.place.model_copy(update={"region": EVIL, "display_name": EVIL, "billing_name": EVIL}),
        }
    )  # fmt: skip


def test_what_a_run_says_stays_text(run, show):
    record = hostile(run)
    page = show(record)
    assert page.locator("h1").text_content() == EVIL
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("main b").count() == 0
    assert page.locator("#notes li").first.text_content().startswith(EVIL)
    assert EVIL in page.locator("#training th").all_text_contents()
    names = page.locator("#phases .bars.energy .name").all_text_contents()
    assert sorted(names) == sorted(phase.path for phase in record.phases)
    # Plotly obeys some HTML of its own: the name of the phase in a hover is text there too.
    area = page.locator("[data-group=time] > .plot .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1503, box["y"] + box["height"] / 2)
    page.wait_for_selector("#time .hoverlayer .legend text")
    assert "<script>window.hacked=1;alert(1)<" in page.locator("#time .hoverlayer").first.text_content()
    assert "<b>bold<|b> $x$" in page.locator("#time .hoverlayer").first.text_content()
    assert page.locator(".hoverlayer a").count() == 0


def test_a_script_that_was_not_escaped_would_not_run(run, browser, tmp_path):
    """The second line of defence: the page's policy lets in its own scripts alone, and no network."""
    path = tmp_path / "broken.html"
    more = (
        "<p id='trap' onclick='window.hacked=1'>x</p><script>window.hacked=1</script>"
        "<img src='https://127.0.0.1:9/x.png'><script src='https://127.0.0.1:9/x.js'></script>"
    )
    path.write_text(html.render(run).replace("<footer>", f"<footer>{more}"), encoding="utf-8")
    context = browser.new_context()
    page, told, asked = context.new_page(), [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-charts=drawn]", state="attached")
    page.locator("#trap").click()
    assert page.evaluate("window.hacked") is None
    assert len([one for one in told if "Content Security Policy" in one]) == 4
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(run, show, violations, scheme, width):
    record = hostile(run).model_copy(update={"name": "finetune", "error": "stopped", "status": "failed"})
    assert violations(show(record, width=width, color_scheme=scheme)) == []


def test_axe_finds_nothing_serious_in_a_map_or_an_empty_page(cluster, show, violations):
    assert violations(show(cluster)) == []
    assert violations(show(empty())) == []


def test_headings_are_in_order_and_everything_can_be_reached(run, show):
    page = show(run)
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    labels = page.locator(".plot").evaluate_all(
        "all => all.map(one => [one.getAttribute('role'), one.getAttribute('aria-label')])"
    )
    assert all(role == "img" and len(label) > 20 for role, label in labels)


@pytest.mark.parametrize("which", ["run", "cluster", "hostile"])
def test_a_phone_scrolls_down_only(run, cluster, show, which):
    record = {"run": run, "cluster": cluster, "hostile": hostile(run)}[which]
    page = show(record, width=390, height=844, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#devices .scroll").evaluate(
        "box => box.scrollWidth > box.clientWidth"
    )  # the table does, inside
    boxes = page.locator(".plot svg.main-svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(boxes) <= 390
    # A finger that scrolls over a chart scrolls the page.
    assert page.evaluate("document.querySelector('.plot')._fullLayout.dragmode") is False


def luminance(color):
    red, green, blue = (int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def test_a_dark_scheme_is_dark_in_the_charts_too(run, show):
    page = show(run, color_scheme="dark")
    look = "selector => getComputedStyle(document.querySelector(selector))"
    assert luminance(page.evaluate(f"({look})('body').backgroundColor")) < 0.15
    assert luminance(page.evaluate(f"({look})('body').color")) > 0.8
    assert luminance(page.evaluate(f"({look})('.plot .xtick text').fill")) > 0.6
    page.emulate_media(color_scheme="light")
    until(page, "getComputedStyle(document.querySelector('.plot .xtick text')).fill === 'rgb(83, 94, 88)'")
    assert luminance(page.evaluate(f"({look})('body').backgroundColor")) > 0.9


def test_printing_shows_charts_and_no_buttons(run, show):
    page = show(run, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    until(page, "getComputedStyle(document.querySelector('.plot .xtick text')).fill === 'rgb(83, 94, 88)'")
    assert not page.get_by_role("button", name="Zoom in").is_visible()
    assert page.locator(".plot svg.main-svg").first.is_visible()
    widths = page.locator(".plot svg.main-svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    assert max(widths) <= 680
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen", color_scheme="dark")
    until(page, "getComputedStyle(document.querySelector('.plot .xtick text')).fill === 'rgb(166, 177, 171)'")
    assert page.get_by_role("button", name="Zoom in").is_visible()


def test_all_charts_are_there_when_the_page_has_loaded(cluster, browser, tmp_path):
    """Who prints at the moment of the load event gets every chart: nothing is drawn later."""
    path = tmp_path / "report.html"
    path.write_text(html.render(cluster), encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.add_init_script(
        """addEventListener("load", () => {
          window.atLoad = [...document.querySelectorAll(".plot")].map(plot =>
            plot.querySelectorAll("svg.main-svg .scatterlayer .trace, svg.main-svg .heatmaplayer image").length);
        })"""
    )
    page.goto(path.as_uri(), wait_until="load")
    counts = page.evaluate("window.atLoad")
    assert len(counts) == 3
    assert min(counts) >= 4  # lines of several kinds and the map
    context.close()


def test_a_headless_print_has_all_charts(run, show, greenml, tmp_path, browser):
    """``--pdf``, a print right at the load, has the curves of every chart and every bar."""
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    records.write(run, tmp_path / "run.json")
    done = greenml("report", "run.json", "--pdf", "out.pdf")
    assert (done.returncode, done.stdout) == (0, "out.pdf: written\n"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pdf", "run.json"]
    document = pdfium.PdfDocument(tmp_path / "out.pdf")
    text = "".join(page.get_textpage().get_text_range() for page in document)
    assert text.count("4 min") == 3  # a tick of each chart over time
    assert all(f"{title}, {unit}" in text for title, unit in (("Power", "W"), ("Utilization", "%"), ("Memory", "GB")))
    assert "Zoom in" not in text
    assert str(tmp_path) not in text  # no address of the file
    # Each chart draws the fourth GPU's line in the fourth colour.
    paths = [
        item
        for page in document
        for item in page.get_objects(filter=[pdfium.raw.FPDF_PAGEOBJ_PATH], max_depth=9)
        if stroke(pdfium, item) == (0xA8, 0x43, 0x7F)
    ]
    assert len(paths) >= 3
    document.close()


def stroke(pdfium, item):
    """The colour that a path of a PDF is drawn with."""
    red, green, blue, alpha = (pdfium.raw.c_uint() for _ in range(4))
    pdfium.raw.FPDFPageObj_GetStrokeColor(item, red, green, blue, alpha)
    return red.value, green.value, blue.value


def test_a_pdf_without_a_browser_names_the_cure(run, greenml, tmp_path):
    records.write(run, tmp_path / "run.json")
    done = greenml("report", "run.json", "--pdf", "out.pdf", PATH=str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "needs Chromium, Chrome or Edge" in line
    assert "apt-get install chromium" in line
    assert "--html" in line
    assert not (tmp_path / "out.pdf").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "exit status 0"),
        ("echo 'cannot open display' >&2; exit 3", "cannot open display"),
        ('for word; do case "$word" in --print-to-pdf=*) echo no > "${word#*=}";; esac; done', "exit status 0"),
    ],
)
def test_a_browser_that_makes_no_pdf_is_one_line(run, greenml, tmp_path, script, reason):
    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755)
    records.write(run, tmp_path / "run.json")
    done = greenml("report", "run.json", "--pdf", "out.pdf", PATH=str(browser.parent))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"made no PDF ({reason})" in line
    assert "--html" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "run.json"]


@pytest.mark.parametrize("name", ["out", "out.png", "pdf", "out.pdf.html"])
def test_a_pdf_has_a_name_that_says_so(greenml, name):
    done = greenml("report", "run.json", "--pdf", name)
    assert done.returncode != 0
    assert f"--pdf {name}: the name must end in .pdf" in done.stderr


@pytest.mark.parametrize("width", [1280, 390])
def test_the_headline_can_be_seen(run, show, width):
    """A picture of the headline: each figure has its ink inside its own card, on the card's own ground."""
    from PIL import Image

    page = show(run, width=width, reduced_motion="reduce")
    cards = [one.bounding_box() for one in page.locator(".cards > div").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in cards)
    for number, card in enumerate(cards):
        for other in cards[number + 1 :]:
            apart_x = card["x"] + card["width"] <= other["x"] or other["x"] + other["width"] <= card["x"]
            apart_y = card["y"] + card["height"] <= other["y"] or other["y"] + other["height"] <= card["y"]
            assert apart_x or apart_y
    if width == 1280:
        assert len({round(box["y"]) for box in cards}) == 1  # side by side
        assert max(box["y"] + box["height"] for box in cards) < 900  # without scrolling
    for big in page.locator(".cards .big").all():
        assert big.evaluate("one => one.scrollWidth <= one.clientWidth")
        picture = Image.open(io.BytesIO(big.screenshot())).convert("L")
        shades = picture.histogram()
        pixels = picture.width * picture.height
        ink, ground = sum(shades[:100]) / pixels, sum(shades[250:]) / pixels
        assert 0.02 < ink < 0.4, (big.inner_text(), ink)
        assert ground > 0.5, (big.inner_text(), ground)


def test_a_run_without_a_gpu_a_killed_one_and_a_second_long_one(tmp_path, show, greenml, program):
    program(
        """
        import time, greenml
        with greenml.track("run.json", name="tiny") as run:
            with run.phase("train"):
                time.sleep(1)
        """,
        CUDA_VISIBLE_DEVICES="",
    )
    record = records.read(tmp_path / "run.json")
    page = show(record)
    assert page.locator("h1").inner_text() == "tiny"
    assert page.locator("#time .plot").count() >= 1
    killed = record.model_copy(update={"status": "killed", "ended": record.started + timedelta(seconds=1)})
    page = show(killed.model_copy(update={"notes": [Note(code="gap", text="CPU: 0.50 s not covered", seconds=1.2)]}))
    assert page.locator(".status").inner_text() == "killed; figures up to its last reading"
    assert page.locator("#notes").inner_text().splitlines()[-1] == "CPU: 0.50 s not covered at 1.20s"


def test_what_is_not_known_is_said_and_not_zero(show):
    page = show(empty(name="nothing"))
    cards = page.locator(".cards > div").all_inner_texts()
    assert [card.splitlines()[1] for card in cards[:3]] == ["not known"] * 3
    assert "no SKU and no price given" in cards[2]
    assert "Not known: the record has no timeline." in page.locator("#time").inner_text()
    assert "the record has no timeline" in page.locator("#idle").inner_text()
    assert page.locator(".plot").count() == 0
    assert "$0" not in page.locator("main").inner_text()


def test_an_imported_run_says_why_it_has_no_course(show, tmp_path, greenml):
    golden = Path(__file__).parents[1] / "golden" / "t5-3b-samsum"
    metrics = sorted(golden.glob("azure-monitor-*.json"))
    done = greenml(
        "import", "--output", "run.json", "--sku", "ND40rs_v2", "--region", "westus2", "--nodes", "1", "--duration",
        "2631.05", "--codecarbon", golden / "emissions.csv", "--azure-monitor", *metrics, "--trainer-output", golden,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = show(records.read(tmp_path / "run.json"))
    assert "imported from other tools" in page.locator("#time").inner_text()
    figures = dict(
        zip(
            page.locator("#figures tbody th").all_inner_texts(),
            page.locator("#figures tbody td:nth-child(2)").all_inner_texts(),
            strict=True,
        )
    )
    assert figures["GPU energy"] == "0.6802 kWh"
    assert figures["train emissions"] == "178.0 g CO2e"
    assert figures["CPU energy"] == "not measured"
    results = page.locator("#training").inner_text()
    assert "eval_rouge1" in results


def test_attempts_are_marked_and_cut_phases_are_told(run, show):
    attempts = [
        AttemptRecord(number=n, started=START, ended=START + timedelta(seconds=300), seconds=300.0, status="completed")
        for n in (1, 2)
    ]
    phases = [
        PhaseRecord(
            path="train", count=900, seconds=500.0, spans=[(10.0 * n, 10.0 * n + 5) for n in range(50)], usage={}
        )
    ]
    page = show(run.model_copy(update={"attempts": attempts, "phases": phases}))
    assert [shape["x0"] for shape in figure(page, "Power")["layout"]["shapes"]] == [pytest.approx(5.0)]
    words = page.locator("#time p").first.inner_text()
    assert "a further attempt began" in words
    assert "Of train the record holds the first stretches only" in words


def test_the_figures_of_a_page_can_be_read_without_scripts(run, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html.render(run), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    assert "The charts over time need JavaScript." in page.locator("noscript").inner_text()
    assert page.locator("#phases tbody tr").count() == len(run.phases) + 2
    bars = page.locator("#phases .bars.energy .value").evaluate_all("all => all.map(bar => bar.getBBox().width)")
    whole = page.locator("#phases .bars.energy .track").first.evaluate("track => track.getBBox().width")
    outer = [run.total(phase.path).it_energy_joules for phase in run.phases if "/" not in phase.path]
    most = max(energy.high for energy in outer)
    assert [width / whole for width in bars[: len(outer)]] == pytest.approx(
        [energy.value / most for energy in outer], abs=2e-3
    )
    context.close()


def test_data_of_a_chart_are_plain_json(run):
    text = html.render(run)
    for part in text.split('<script type="application/json">')[1:]:
        json.loads(part.split("</script>", 1)[0])
