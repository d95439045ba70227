"""Emissions and cost of a run elsewhere, or at another time."""
