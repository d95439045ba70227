"""A run as one page that opens from disk: figures with intervals, charts that zoom, tables, sources. No network."""

from __future__ import annotations

from greenml.record.schema import RunRecord
from greenml.reports.page import background, shell, summary, time_charts


def render(record: RunRecord) -> str:
    """Render the page."""
    total = record.total()
    emissions = total.emissions_grams if total is not None else None
    over_time = time_charts.over_time(record)
    intensity = background.intensity(record)
    return shell.render(
        "report.html.j2",
        charts=bool(over_time.charts or intensity),
        record=record,
        title=summary.title(record),
        head=summary.head(record),
        cards=summary.cards(record),
        remarks=summary.remarks(record),
        shown_notes=summary.SHOWN_NOTES,
        over_time=over_time,
        by_phase=summary.by_phase(record),
        by_device=summary.by_device(record),
        idle=background.idle(record),
        intensity=intensity,
        equivalents=background.equivalents(emissions.value, emissions.low, emissions.high) if emissions else [],
        figures=summary.figures(record),
        factors=background.factors(record),
        factors_words=background.factors_words(record),
        training=background.training(record),
        environment=background.environment(record),
    )
