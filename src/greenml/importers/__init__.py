"""Figures that other tools measured, into one run record.

A file here without a leading underscore reads one tool's files: ``load(...) -> Part``.
"""

from greenml.importers._combine import load
from greenml.importers._conflicts import conflicts
from greenml.importers._durations import duration

__all__ = ["conflicts", "duration", "load"]
