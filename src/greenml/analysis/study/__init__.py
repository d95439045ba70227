"""A study: one command over a table of variants, and what their differences are."""
