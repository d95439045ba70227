"""A run in a model card: its metadata, its sections, and where they stand in somebody's text."""
