"""A run as one page that opens from disk: figures with bands, charts that zoom, tables, sources. No network."""

from __future__ import annotations

from greenml.record import RunRecord
from greenml.reports import _background, _over_day, _page, _shares, _summary
from greenml.reports._over_time import over_time
from greenml.reports._page import element

# A GPU that is picked of many gets its row of the map as a line.
PICK = """
document.querySelectorAll("select[data-pick]").forEach((select) => select.addEventListener("change", () => {
  for (const [plot, figure] of window.greenml.figures) {
    const picked = figure.data.find((trace) => trace.meta === "picked");
    const map = figure.data.find((trace) => trace.type === "heatmap");
    if (!picked || !map || plot.parentElement.dataset.group !== select.dataset.pick) continue;
    const row = map.y.indexOf(select.value);
    picked.visible = row >= 0;
    if (row >= 0) { picked.y = map.z[row]; picked.name = select.value; }
    window.greenml.draw(plot);
  }
}));
"""


def render(record: RunRecord) -> str:
    """Render the page."""
    parts = [
        _summary.cards(record),
        _summary.notes(record),
        over_time(record),
        _shares.by_phase(record),
        _shares.by_device(record),
        _background.idle(record),
        _over_day.over_day(record),
        _background.equivalents(record),
        _summary.figures(record),
        _background.factors(record),
        _background.training(record),
        _background.surroundings(record),
    ]
    noscript = element(
        "noscript", element("p", "The charts need JavaScript. The tables hold the same figures.", class_="muted")
    )
    body = _page.join(
        _summary.head(record),
        element("main", noscript, *parts, id="content", tabindex="-1"),
        _foot(record),
    )
    scripts = [PICK] if "data-pick" in body else []
    return _page.page(f"{record.name or record.run_id or 'run'}: energy, carbon and cost", body, scripts)


def _foot(record: RunRecord) -> _page.Markup:
    version = f"Record made by greenml {record.greenml_version}." if record.greenml_version else "Made by greenml."
    run = f" Run {record.run_id}." if record.run_id else ""
    words = (
        f"{version}{run} Record format {record.schema_version}. This page holds all that it shows and asks no network."
    )
    return element("footer", element("p", words))
