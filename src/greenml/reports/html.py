"""A run as one page that opens from disk: figures with intervals, charts that zoom, tables, sources. No network."""

from __future__ import annotations

from greenml.record.schema import RunRecord
from greenml.reports.page import sections, shell, time_charts


def render(record: RunRecord) -> str:
    """Render the page."""
    total = record.total()
    emissions = total.emissions_grams if total is not None else None
    over_time = time_charts.over_time(record)
    intensity = sections.intensity(record)
    return shell.render(
        "report.html.j2",
        charts=bool(over_time.charts or intensity),
        record=record,
        title=sections.title(record),
        head=sections.head(record),
        cards=sections.cards(record),
        remarks=sections.remarks(record),
        shown_notes=sections.SHOWN_NOTES,
        over_time=over_time,
        by_phase=sections.by_phase(record),
        by_device=sections.by_device(record),
        idle=sections.idle(record),
        intensity=intensity,
        equivalents=sections.equivalents(emissions.value, emissions.low, emissions.high) if emissions else [],
        figures=sections.figures(record),
        factors=sections.factors(record),
        factors_words=sections.factors_words(record),
        training=sections.training(record),
        environment=sections.environment(record),
    )
