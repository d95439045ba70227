"""A run while it goes on: its traces followed, its totals so far, and the totals expected at its end."""
