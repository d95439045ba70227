"""Runs side by side: what differs, what cannot be told apart, and what is not comparable."""
