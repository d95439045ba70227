"""Curves of joules over time, what a device used between two times, and the uncertainty of it."""
