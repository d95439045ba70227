"""Advice on saving energy, carbon or money in a run; each rule is one function."""
