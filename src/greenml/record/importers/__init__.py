"""Figures that other tools measured, into one run record.

A file here without a leading underscore reads one tool's files: ``load(...) -> Part``.
"""

from greenml.record.importers._combine import (
    DATED_BY_FILES,
    DATED_BY_ROW,
    ZONE_DOUBT,
    conflicts,
    duration,
    load,
    load_by_name,
)

__all__ = ["DATED_BY_FILES", "DATED_BY_ROW", "ZONE_DOUBT", "conflicts", "duration", "load", "load_by_name"]
