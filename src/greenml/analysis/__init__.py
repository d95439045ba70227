"""Run records to answers: what compares, what would be elsewhere, what to expect, what to change."""
