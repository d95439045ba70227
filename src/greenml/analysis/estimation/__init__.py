"""Estimation of what a training will use, before it runs."""
