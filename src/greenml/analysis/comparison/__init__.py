"""Comparison of runs: their differences, whether these are significant, and what is not comparable."""
